//! Everything the server decides, and nothing it does: no socket, no file, no clock, no thread.
//!
//! A driver tells a [`Shard`] what happened (`handle_*`) and asks it what to do ([`Shard::poll`]). What it decides:
//! which bytes are lines, which lines are records, whose they are and whether they are new; how records gather into
//! batches, become [`Block`]s and fill segments; when an acknowledgement is true; and, after a crash, what of a
//! segment is to be believed ([`scan`]), and what of all of them together ([`survey`]).
//!
//! Bytes pass through in one direction: `transport` decodes them where they are encoded, `session` frames them, [`parse`] judges them, `intake` admits them, `writer`
//! gathers, seals and addresses them. Time is an argument, so that a test can own it.

pub mod parse;
pub mod scan;
pub mod survey;

mod batch;
mod block;
mod breaker;
mod chain;
mod deadline;
mod door;
mod intake;
mod limits;
mod member;
mod memory;
mod producer;
mod quota;
mod session;
mod shard;
mod slab;
mod stage;
mod tally;
mod trace;
mod transport;
mod writer;

pub use block::{Block, PAGE, Parts};
pub use breaker::{BreakerLimits, BreakerState};
pub use chain::SegmentId;
pub use door::{Door, Full, Place, Tokens};
pub use limits::Limits;
pub use member::SegmentFormat;
pub use memory::{DriverMemory, Memory};
pub use producer::{ProducerState, home_shard};
pub use shard::{Action, Fault, Handover, Settings, Shard, ShardConfig, ShardId, TlsConfig};
pub use slab::SessionId;
pub use stage::{Histogram, Stage, Stages};
pub use tally::Tally;
pub use transport::GzipLimits;
pub use writer::StorageHealth;
