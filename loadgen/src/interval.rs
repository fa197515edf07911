//! What one worker measured in about a second: the unit of progress, of time series and of verdicts.
//!
//! Every latency is in exactly one interval, and no interval has two phases: where a phase ends, an interval ends early.

use crate::latency::Latency;
use crate::tally::Tally;
use crate::validity::Signs;

/// What one worker measured since its last interval.
#[derive(Debug)]
pub struct Interval {
    /// The part of the run that all of it belongs to.
    pub phase: Phase,
    /// When it began, in nanoseconds since the first line's turn.
    pub from_ns: u64,
    /// When it ended.
    pub to_ns: u64,
    /// Counts since the start of the run.
    pub tally: Tally,
    /// Latencies of this interval; to be reset and given back.
    pub latency: Latency,
    /// Whether the schedule was kept in this interval, and what kept the worker from it.
    pub signs: Signs,
}

/// A part of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Lines are sent, and what they measure is not counted.
    WarmUp,
    /// What the run is about.
    #[default]
    Measured,
    /// No more lines are sent; the answers to the last ones are waited for, and count.
    Drain,
}

impl Phase {
    /// Its name in files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::WarmUp => "warmup",
            Phase::Measured => "measured",
            Phase::Drain => "drain",
        }
    }
}

/// The end of the interval after the one that was to end at `due_ns`, as of `now_ns`: in step with those before.
pub fn next(due_ns: u64, now_ns: u64) -> u64 {
    due_ns + (now_ns.saturating_sub(due_ns) / LEN_NS + 1) * LEN_NS
}

/// How long an interval is meant to be.
pub const LEN_NS: u64 = 1_000_000_000;
