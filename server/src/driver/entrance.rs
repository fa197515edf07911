//! The listener of one shard: takes connections as fast as the shard lets them in, and turns the others away.
//!
//! All backends accept by accept4(2), told by readiness that somebody waits: that is the one way of accepting that can
//! stop between two connections. A multishot accept on a ring takes all that wait before anybody can say that it is
//! enough, and does not say who they are. Who is not taken waits in the kernel's queue.

use super::Shortage;
use ringest_ingest::{Place, SessionId, Shard, ShardId};
use ringest_sys::net;
use std::io;
use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// An accepted connection: its descriptor, and the place that it takes for as long as that is open.
#[derive(Debug)]
pub(crate) struct Guest {
    // Dropped in this order.
    fd: OwnedFd,
    place: Place,
}

impl Guest {
    /// What it is made of, for who keeps it otherwise.
    #[cfg(feature = "glommio")]
    pub(super) fn into_parts(self) -> (OwnedFd, Place) {
        (self.fd, self.place)
    }

    #[cfg(feature = "glommio")]
    pub(super) fn from_parts(fd: OwnedFd, place: Place) -> Guest {
        Guest { fd, place }
    }

    /// The descriptor, to be closed; the place is free with this.
    pub(crate) fn into_fd(self) -> OwnedFd {
        drop(self.place);
        self.fd
    }
}

impl AsFd for Guest {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A listener, open until the shard drains.
pub(crate) struct Entrance {
    shard: ShardId,
    shortage: Shortage,
    listener: Option<TcpListener>,
    /// Nobody is taken before.
    opens_at: Option<Instant>,
}

/// What came of taking the next connection.
pub(crate) enum Next {
    /// It has a session.
    Guest(SessionId, Guest),
    /// It was turned away.
    Refused,
    /// Nobody waits.
    Nobody,
    /// Nobody is taken until [`Entrance::opens_at`].
    Later,
}

impl Entrance {
    pub(crate) fn new(shard: ShardId, listener: TcpListener) -> Entrance {
        Entrance { shard, shortage: Shortage::default(), listener: Some(listener), opens_at: None }
    }

    pub(crate) fn listener(&self) -> Option<&TcpListener> {
        self.listener.as_ref()
    }

    /// When to go on taking connections, after a pause.
    pub(crate) fn opens_at(&self) -> Option<Instant> {
        self.opens_at
    }

    /// Whether a pause is over; said once.
    pub(crate) fn opens(&mut self, now: Instant) -> bool {
        let opens = self.opens_at.is_some_and(|at| now >= at);
        if opens {
            self.opens_at = None;
        }
        opens
    }

    /// No more connections are taken.
    pub(crate) fn shut(&mut self) -> Option<TcpListener> {
        self.opens_at = None;
        self.listener.take()
    }

    pub(crate) fn next(&mut self, shard: &mut Shard, now: Instant) -> Next {
        let Some(listener) = &self.listener else { return Next::Nobody };
        if self.opens_at.is_some() {
            return Next::Later;
        }
        if let Some(at) = shard.accept_at(now) {
            self.opens_at = Some(at.max(now + PACE_PAUSE));
            return Next::Later;
        }
        match net::accept_from(listener.as_fd()) {
            Ok((fd, peer)) => match shard.admit(peer.ip(), now) {
                Ok((id, place)) => Next::Guest(id, Guest { fd, place }),
                Err(words) => {
                    turn_away(fd, &words);
                    Next::Refused
                }
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Next::Nobody,
            // It was there, and is gone.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {
                Next::Refused
            }
            // Out of descriptors or memory: those who are connected are served, those who wait are kept waiting.
            Err(error) => {
                self.shortage.say(self.shard, &error, now);
                self.opens_at = Some(now + FAULT_PAUSE);
                Next::Later
            }
        }
    }
}

/// Says why, if the peer takes it at once, and closes. Nothing of it is kept: it has no place.
fn turn_away(fd: OwnedFd, words: &[u8]) {
    if words.is_empty() || net::send(fd.as_fd(), words).is_err() {
        return;
    }
    let _ = net::shutdown(fd.as_fd(), Shutdown::Write);
    // Closing on unread bytes would make the kernel throw the words away. What comes later does that all the same.
    let _ = net::recv(fd.as_fd(), &mut [0; 4096]);
}

/// Connections taken or turned away in one turn: others are served in between.
pub(crate) const ACCEPTS_PER_TURN: usize = 64;
/// At the limit of the accept rate, some are taken together: waking up for each one would cost more than it.
const PACE_PAUSE: Duration = Duration::from_millis(5);
/// How long accepting pauses when the process is out of descriptors.
const FAULT_PAUSE: Duration = Duration::from_millis(100);
