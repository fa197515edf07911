//! What passes between a worker and whoever runs it: what it is to do, what it says meanwhile, and what it leaves.

use super::fleet::Habits;
use crate::connection::SessionTerms;
use crate::interval::Interval;
use crate::io::Engine;
use crate::latency::Latency;
use crate::ledger::{Entry, Mode};
use crate::packer::Compression;
use crate::schedule::Course;
use crate::stream::TlsTerms;
use crate::tally::Tally;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::Receiver;
use std::time::Instant;

/// What one worker is to do.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its number.
    pub worker: u16,
    /// The run.
    pub run: u32,
    /// Where the server is.
    pub peer: SocketAddr,
    /// What carries the bytes.
    pub engine: Engine,
    /// How connections are encrypted.
    pub tls: Option<TlsTerms>,
    /// How each connection speaks.
    pub modes: Vec<Mode>,
    /// What connections are in the habit of.
    pub habits: Habits,
    /// How sessions speak.
    pub terms: SessionTerms,
    /// What becomes a gzip member; `None` sends plain text.
    pub compression: Option<Compression>,
    /// Lines unanswered per connection at most.
    pub depth: u64,
    /// Open loop: lines due and unanswered at most, of all connections; those that come due beyond are shed.
    pub in_flight_max: Option<u64>,
    /// Lines per send at most.
    pub batch: u64,
    /// Lines in all; `None` for no limit.
    pub lines: Option<u64>,
    /// How long lines are sent; `None` for no limit.
    pub duration_ns: Option<u64>,
    /// Whether lines are sent before those that count.
    pub warms_up: bool,
    /// How long answers are waited for after the last line.
    pub drain_ns: u64,
    /// How long a broken connection is tried again.
    pub reconnect_for_ns: u64,
}

/// What a worker owes from the instant on that lines count from.
#[derive(Debug)]
pub(crate) struct Owed {
    /// When lines are due, begun at that instant; `None` in a closed loop.
    pub(crate) course: Option<Course>,
    /// How many lines; `None` for no limit.
    pub(crate) lines: Option<u64>,
    /// When no more are sent.
    pub(crate) end_ns: u64,
}

impl Task {
    /// What is owed from `from_ns` on. An open loop that is bounded in time owes every line whose time comes before the
    /// end, however late it is.
    pub(crate) fn owed_from(&self, course: Option<Course>, from_ns: u64) -> Owed {
        let end_ns = self.duration_ns.map_or(u64::MAX, |duration_ns| from_ns + duration_ns);
        let Some(course) = course else { return Owed { course: None, lines: self.lines, end_ns } };
        let mut course = course.starting_at(from_ns);
        if self.duration_ns.is_none() {
            return Owed { course: Some(course), lines: self.lines, end_ns };
        }
        let due = course.due_before(end_ns);
        let lines = self.lines.map_or(due, |lines| lines.min(due));
        Owed { course: Some(course), lines: Some(lines), end_ns: end_ns + self.drain_ns }
    }
}

/// What a worker hears while it works.
#[derive(Debug)]
pub struct Orders {
    /// Set by whoever runs the workers, read by all of them once per turn: send no more.
    pub stop: Arc<AtomicBool>,
    /// Empty histograms for the next interval.
    pub spares: Receiver<Latency>,
    /// Since when lines count, in a run with a warm-up: far away until that is decided. Set by whoever runs the workers,
    /// ahead of time, so that all of them change over together.
    pub measured_ns: Arc<AtomicU64>,
}

/// What a worker says while it works.
#[derive(Debug)]
pub enum Word {
    /// Every connection is up and greeted.
    Ready,
    /// It cannot work, and why.
    Failed(String),
    /// What about one second measured. The last one comes before [`Word::Done`].
    Interval(Box<Interval>),
    /// It has finished.
    Done(Box<Outcome>),
}

/// What a worker leaves.
#[derive(Debug)]
pub struct Outcome {
    /// Counts of all lines but those of the warm-up, and of all connections.
    pub tally: Tally,
    /// Counts of the lines of the warm-up.
    pub warm_up: Tally,
    /// What each connection leaves to be proved.
    pub entries: Vec<Entry>,
    /// Sentences for a person.
    pub complaints: Vec<String>,
    /// The level that sessions were answered at, where there were any.
    pub level: Option<String>,
    /// Processor time of the worker's thread from the first line's turn that counts.
    pub cpu_ns: u64,
    /// From the first line's turn that counts to the last answer.
    pub span_ns: u64,
    /// From the first line's turn that counts until no more were sent.
    pub sent_ns: u64,
}

/// The run's clock: nanoseconds since a common instant.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Nanoseconds since it started.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}
