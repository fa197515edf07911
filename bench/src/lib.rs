//! How fast Ringest is, measured: its parts in memory (`micro`), the least a server could cost (`floor`), and the
//! server on one core beside that floor (`one_core`).
//!
//! It starts the server as a process and never as a library, reads its bill from `/proc`, and prints what it saw with
//! the spread. It never tunes anything while it measures, and "cannot tell" is one of its answers.

pub mod bill;
pub mod cli;
pub mod flood;
pub mod floor;
pub mod lines;
pub mod micro;
pub mod one_core;

pub mod spread;
