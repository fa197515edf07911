//! How fast Ringest is, measured: the server under known loads (`tiers`), two of its
//! kind against each other (`compare`), its parts in memory (`micro`), the least a
//! server could cost (`floor`), and the server on one core beside that floor (`one_core`).
//!
//! It starts the server as a process and never as a library, reads its bill from `/proc`, and prints what it saw with
//! the spread. It never tunes anything while it measures, and "cannot tell" is one of its answers.

pub mod bill;
pub mod cli;
pub mod compare;
pub mod flood;
pub mod floor;
pub mod gate;
pub mod host;
pub mod lines;
pub mod load;
pub mod micro;
pub mod one_core;
pub mod outcome;
pub mod page;
pub mod process;
pub mod report;
pub mod sampler;
pub mod soak;
pub mod spread;
pub mod status;
pub mod stress;
pub mod suite;
pub mod tiers;
