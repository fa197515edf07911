//! The backends: one file each, which runs a shard on one kernel interface. Same seat, same summary, one match.
//!
//! A driver translates and has no opinion: it parses nothing, counts no record, decides no seal and no retry. What they
//! have in common is a shape, not code: wait, tell the shard what happened, do what it asks.

mod credit;
mod datagrams;
mod entrance;
mod epoll;
#[cfg(feature = "glommio")]
mod glommio;
mod uring;

use crate::notice;
use crate::storage::fault;
use crate::worker::{Seat, Summary};
use ringest_ingest::{DriverMemory, Fault, Limits, SegmentId, SessionId, Shard, ShardId};
use ringest_sys::datagram;
use std::io;
use std::time::{Duration, Instant};

pub(crate) use entrance::Guest;

/// A kernel interface to run shards on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Completions: sockets and files on one ring.
    Uring,
    /// Readiness: sockets by epoll, files on a writer thread of the same core.
    Epoll,
    /// A ready-made runtime on io_uring: its reactor, its sockets, its files.
    #[cfg(feature = "glommio")]
    Glommio,
}

impl Backend {
    /// The name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Backend::Uring => "uring",
            Backend::Epoll => "epoll",
            #[cfg(feature = "glommio")]
            Backend::Glommio => "glommio",
        }
    }

    /// Whether its driver reads the pages of large blocks, to copy them.
    pub const fn copies_pages(self) -> bool {
        match self {
            Backend::Uring | Backend::Epoll => false,
            #[cfg(feature = "glommio")]
            Backend::Glommio => true,
        }
    }

    /// What its driver holds beside the shard.
    pub fn memory(self, buffer_len: usize, limits: &Limits, takes_datagrams: bool) -> DriverMemory {
        let mut memory = match self {
            Backend::Uring => uring::memory(buffer_len, limits, takes_datagrams),
            Backend::Epoll => epoll::memory(buffer_len),
            #[cfg(feature = "glommio")]
            Backend::Glommio => glommio::memory(buffer_len, limits),
        };
        if takes_datagrams {
            memory.buffers += datagram::BATCH * datagram::LEN_MAX;
        }
        memory
    }
}

/// A driver that has everything it needs.
pub(crate) enum Driver {
    Uring(Box<uring::Uring>),
    Epoll(Box<epoll::Epoll>),
    #[cfg(feature = "glommio")]
    Glommio(Box<glommio::Glommio>),
}

/// Sets a driver up, on the thread that will run it.
///
/// # Errors
/// What the kernel refused.
pub(crate) fn prepare(backend: Backend, seat: Seat) -> io::Result<Driver> {
    Ok(match backend {
        Backend::Uring => Driver::Uring(Box::new(uring::Uring::new(seat)?)),
        Backend::Epoll => Driver::Epoll(Box::new(epoll::Epoll::new(seat)?)),
        #[cfg(feature = "glommio")]
        Backend::Glommio => Driver::Glommio(Box::new(glommio::Glommio::new(seat)?)),
    })
}

impl Driver {
    /// Runs the shard until it is drained or aborted.
    ///
    /// # Errors
    /// What the kernel refused, so that the shard cannot go on.
    pub(crate) fn run(self) -> io::Result<Summary> {
        match self {
            Driver::Uring(driver) => driver.run(),
            Driver::Epoll(driver) => driver.run(),
            #[cfg(feature = "glommio")]
            Driver::Glommio(driver) => driver.run(),
        }
    }
}

/// Hands the shard a chunk, and tells it how long that took: two looks at the clock per chunk.
pub(crate) fn hear(shard: &mut Shard, id: SessionId, chunk: &[u8], now: Instant) {
    let began = Instant::now();
    shard.handle_bytes(id, chunk, now);
    shard.time_chunk(began, Instant::now());
}

/// Says once, where it happened, how storage failed.
pub(crate) fn report(what: &str, shard: ShardId, segment: SegmentId, error: &io::Error) -> Fault {
    notice!("shard {}: {what} of segment {} failed: {error}; it is out of service", shard.0, segment.0);
    fault(error)
}

/// Accepting has failed, as it does where descriptors or memory have run out: those who are connected are served, and
/// those who wait are kept waiting. It is said now and then, not for each of them.
#[derive(Debug, Default)]
pub(crate) struct Shortage {
    said_at: Option<Instant>,
}

impl Shortage {
    pub(crate) fn say(&mut self, shard: ShardId, error: &io::Error, now: Instant) {
        if self.said_at.is_none_or(|at| now >= at + SHORTAGE_PAUSE) {
            self.said_at = Some(now);
            notice!("shard {}: connections have to wait: {error}; ulimit -n bounds how many there are", shard.0);
        }
    }
}

/// How long a shortage is not said again.
const SHORTAGE_PAUSE: Duration = Duration::from_secs(10);
/// How long a peer has to close after all was said.
pub(crate) const LINGER: Duration = Duration::from_secs(1);
