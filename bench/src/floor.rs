//! The least a server could do: receive from TCP, write to preallocated segments, and nothing else.
//!
//! No line is looked at, nothing is answered, nothing is synced, unless that is asked for. It receives as the server does
//! (the same ring and buffers, or the same reads) and writes in either of two ways: buffered, 256 KiB by write(2) into the
//! page cache, or direct, 1 MiB by the ring past it. What Ringest costs beyond this is what Ringest does.
//!
//! It measures itself, from when the first bytes have come and a warm-up has passed, and ends by itself: where it answers,
//! once nobody is there any more.

mod answering;
mod epoll;
mod segments;
mod uring;

use crate::bill::{Bill, Reading};
use crate::cli::Floor;
use ringest_sys::{cpu, net};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// How it receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Multishot receives into the ring's buffers.
    Uring,
    /// Readiness and reads of 256 KiB.
    Epoll,
}

/// How it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Writing {
    /// write(2) of 256 KiB into the page cache.
    Buffered,
    /// Writes of 1 MiB past the page cache; io_uring only.
    Direct,
}

/// When it answers a line, if it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// After its bytes are written into the page cache.
    Written,
    /// After they are synced.
    Durable,
}

/// What it cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// How it received.
    pub backend: Backend,
    /// How it wrote.
    pub writing: Writing,
    /// When it answered.
    pub answer: Option<Answer>,
    /// Bytes received in the window.
    pub bytes: u64,
    /// Records that is, by the record size it was told; it looks at none.
    pub records: f64,
    /// The window.
    pub seconds: f64,
    /// Records per second.
    pub records_per_s: f64,
    /// Processor time of all threads, per record.
    pub cpu_ns_per_record: f64,
    /// Of that, in user mode.
    pub user_ns_per_record: f64,
    /// Of that, in the kernel.
    pub system_ns_per_record: f64,
    /// Share of the window in which a processor was busy for it.
    pub busy: f64,
}

/// Runs it until its window is over, or, if it answers, until its clients have gone after that.
///
/// # Errors
/// The port, the directory, the core or the ring was refused, or nobody sent anything for ten seconds.
pub fn run(task: &Floor) -> io::Result<Report> {
    if task.write == Writing::Direct && task.backend == Backend::Epoll {
        return Err(io::Error::other("--write direct goes through the ring: it needs --backend uring"));
    }
    if task.write == Writing::Direct && task.answer.is_some() {
        return Err(io::Error::other("--answer writes a few lines at a time, which only --write buffered can"));
    }
    if let Some(cpu) = task.cpu {
        cpu::pin_current(cpu).map_err(io::Error::other)?;
    }
    let listener = net::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, task.port)), BACKLOG)?;
    let segments = segments::Segments::make(&task.dir, task.write)?;
    // Whoever started it waits for this line, and reads the port from it.
    println!("listening on {}", listener.local_addr()?);
    let mut watch = Watch::new(task);
    match (task.backend, task.answer) {
        (backend, Some(answer)) => answering::run(backend, &listener, segments, answer, &mut watch)?,
        (Backend::Uring, None) => uring::run(listener, segments, task.write, &mut watch)?,
        (Backend::Epoll, None) => epoll::run(listener, segments, &mut watch)?,
    }
    watch.report(task)
}

/// The window: begins a warm-up after the first bytes.
struct Watch {
    warm_up: Duration,
    window: Duration,
    patience_ends: Instant,
    received: u64,
    first: Option<Instant>,
    start: Option<Mark>,
    end: Option<Mark>,
}

struct Mark {
    at: Instant,
    received: u64,
    reading: Reading,
}

impl Watch {
    fn new(task: &Floor) -> Watch {
        Watch {
            warm_up: Duration::from_secs_f64(task.warm_up),
            window: Duration::from_secs_f64(task.seconds),
            patience_ends: Instant::now() + PATIENCE,
            received: 0,
            first: None,
            start: None,
            end: None,
        }
    }

    /// Once per turn: whether to go on.
    fn goes_on(&mut self) -> io::Result<bool> {
        let now = Instant::now();
        let Some(first) = self.first else {
            if now > self.patience_ends {
                return Err(io::Error::other(format!("nobody has sent anything for {} s", PATIENCE.as_secs())));
            }
            self.first = (self.received > 0).then_some(now);
            return Ok(true);
        };
        match &self.start {
            None if now >= first + self.warm_up => self.start = Some(self.mark(now)?),
            // A whole window, even if it began late.
            Some(start) if self.end.is_none() && now >= start.at + self.window => self.end = Some(self.mark(now)?),
            _ => {}
        }
        Ok(self.end.is_none())
    }

    fn mark(&self, at: Instant) -> io::Result<Mark> {
        Ok(Mark { at, received: self.received, reading: Reading::of(std::process::id())? })
    }

    fn report(self, task: &Floor) -> io::Result<Report> {
        let (Some(start), Some(end)) = (self.start, self.end) else {
            return Err(io::Error::other("the senders left before the window was over"));
        };
        let bill: Bill = end.reading.since(&start.reading);
        let bytes = end.received - start.received;
        let seconds = (end.at - start.at).as_secs_f64();
        let records = bytes as f64 / task.record_size as f64;
        Ok(Report {
            backend: task.backend,
            writing: task.write,
            answer: task.answer,
            bytes,
            records,
            seconds,
            records_per_s: records / seconds,
            cpu_ns_per_record: bill.total_ns() / records,
            user_ns_per_record: bill.user_ns / records,
            system_ns_per_record: bill.system_ns / records,
            busy: bill.total_ns() / seconds / 1e9,
        })
    }
}

const BACKLOG: i32 = 4096;
/// How long the first bytes are waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// A turn without news is not longer than this, so that the window ends.
const TURN: Duration = Duration::from_millis(5);
