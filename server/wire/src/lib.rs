//! The bytes a Ringest client and a Ringest server agree on, in both directions.
//!
//! Lines ([`frame`]), the control lines of session mode ([`control`], [`answer`]), the fixed texts of plain mode
//! ([`reply`]), and the names they carry ([`Code`], [`AckLevel`], [`Severity`]). Here is no socket, no file, no clock
//! and no decision: only how a meaning is spelled, and what a spelling means.

pub mod answer;
pub mod control;
pub mod frame;
pub mod reply;

mod code;
mod level;

pub use code::{Class, Code};
pub use level::{AckLevel, Severity};
