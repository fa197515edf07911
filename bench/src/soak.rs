//! Soaks: what a scenario's script has left is judged here. Scripts under `soak/` start processes; this looks at them
//! while they run, and says afterwards what they come to.
//!
//! A directory of a scenario holds `servers/NAME` (what [`watch`] saw), `loads/NAME` (the generator's files),
//! `reconciled/*.json`, `compared/*.json`, and what the script itself counted in `claims.ndjson`.

mod ceiling;
pub mod judge;
pub mod leak;
pub mod lookup;
pub mod record;
pub mod summary;
pub mod watch;

pub use record::{Soak, Verdict};
