//! What a clumsy fleet does beside sending lines: it comes and goes, leaves connections open that say nothing, and writes
//! and reads a little at a time.
//!
//! A session is dropped in the middle, as a client that crashes does, and goes on where the server says it was. In plain
//! mode nobody could say what became of the last lines, so a connection there hears its answers first. Either way no line
//! is lost by it.

use super::Worker;
use crate::connection::Connection;
use crate::io::News;
use crate::ledger::Mode;
use crate::stream::{Stream, Wire};
use std::io;

/// What the connections of one worker are in the habit of.
#[derive(Clone, Debug, Default)]
pub struct Habits {
    /// How long each connection lives; `None` for as long as the run.
    pub reconnect_every_ns: Option<u64>,
    /// Connections that are opened and say nothing.
    pub idle: u64,
    /// Which connections write a few bytes at a time.
    pub slow_writers: Vec<bool>,
    /// Which read a few at a time.
    pub slow_readers: Vec<bool>,
}

/// How it stands with the habits of a worker's connections.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    /// When each connection ends its life.
    ends_ns: Vec<u64>,
    /// Which wait for their last answers to do that.
    leaving: Vec<bool>,
    /// Those that say nothing, numbered behind the others.
    idle: Vec<Stream>,
}

impl Worker {
    /// A connection that is as fast as that one is meant to be.
    pub(super) fn with_habits(&mut self, at: usize, connection: Connection) -> Connection {
        let Habits { slow_writers, slow_readers, .. } = &self.task.habits;
        let [writes_slowly, reads_slowly] =
            [slow_writers, slow_readers].map(|who| who.get(at).copied().unwrap_or(false));
        if reads_slowly {
            self.io.read_only_when_asked(at);
        }
        connection.slow(writes_slowly, reads_slowly)
    }

    /// Opens the connections that say nothing.
    pub(super) fn open_idle(&mut self) -> io::Result<()> {
        for _ in 0..self.task.habits.idle {
            let stream = Stream::new(self.task.tls.as_ref())?;
            self.fleet.idle.push(stream);
            let at = self.connections.len() + self.fleet.idle.len() - 1;
            self.io.connect(at, self.task.peer)?;
            self.begin_idle(at);
        }
        Ok(())
    }

    /// Connections begin to live: spread over the time, so that they do not all end together.
    pub(super) fn begin_lives(&mut self, now_ns: u64) {
        let count = self.connections.len() as u64;
        self.fleet.leaving = vec![false; count as usize];
        let Some(every_ns) = self.task.habits.reconnect_every_ns else { return };
        self.fleet.ends_ns = (1..=count).map(|at| now_ns + every_ns * at / count).collect();
        self.timers.extend(self.fleet.ends_ns.iter().zip(0..).map(|(ends_ns, at)| (*ends_ns, at)));
    }

    /// Ends the life of a connection if its time has come.
    pub(super) fn end_life(&mut self, at: usize, now_ns: u64) {
        let is_over = self.connections[at].is_over() || !self.sending;
        let ends_ns = self.fleet.ends_ns.get(at).copied().unwrap_or(u64::MAX);
        if is_over || ends_ns > now_ns || self.fleet.leaving[at] {
            return;
        }
        match self.connections[at].mode() {
            Mode::Session => self.renew(at, now_ns),
            Mode::Plain => {
                self.fleet.leaving[at] = true;
                self.make_eager(at);
            }
        }
    }

    /// Whether a connection takes no more lines because its life is at its end.
    pub(super) fn is_leaving(&self, at: usize) -> bool {
        self.fleet.leaving.get(at).copied().unwrap_or(false)
    }

    /// A connection has ended, and another takes its place.
    pub(super) fn renew(&mut self, at: usize, now_ns: u64) {
        self.connections[at].renew(&mut self.io, now_ns);
        self.kit.tally.habit("reconnects", 1);
        self.fleet.leaving[at] = false;
        let every_ns = self.task.habits.reconnect_every_ns.unwrap_or(u64::MAX);
        self.fleet.ends_ns[at] = now_ns.saturating_add(every_ns);
        self.timers.insert((self.fleet.ends_ns[at], at));
        self.set_timer(at);
    }

    /// Whether a number is that of a connection that says nothing.
    pub(super) fn is_idle(&self, at: usize) -> bool {
        at >= self.connections.len() && at < self.connections.len() + self.fleet.idle.len()
    }

    /// Something happened to a connection that says nothing. It agrees on TLS, hears, and is opened again where the server
    /// ends it.
    pub(super) fn handle_idle(&mut self, at: usize, news: News) {
        let stream = &mut self.fleet.idle[at - self.connections.len()];
        let is_well = match news {
            News::Bytes(chunk) => {
                let heard = stream.read(self.io.bytes(&chunk), &mut self.plain).is_ok();
                self.io.release(chunk);
                heard && is_pushed(stream.push(Wire { io: &mut self.io, at }))
            }
            News::Connected => {
                self.begin_idle(at);
                true
            }
            News::Room => is_pushed(stream.push(Wire { io: &mut self.io, at })),
            News::Ended | News::Broken(_) => false,
            News::Called => unreachable!("a worker listens to nobody"),
        };
        if !is_well {
            self.io.close(at);
            self.kit.tally.habit("idle_lost", 1);
            self.timers.insert((self.clock.now_ns() + IDLE_PAUSE_NS, at));
        }
    }

    /// One that the server had ended is opened again.
    pub(super) fn reopen_idle(&mut self, at: usize, now_ns: u64) {
        if !self.sending {
            return;
        }
        let opened = Stream::new(self.task.tls.as_ref()).and_then(|stream| {
            let place = at - self.connections.len();
            self.fleet.idle[place] = stream;
            self.io.dial(at, self.task.peer)
        });
        if opened.is_err() {
            self.timers.insert((now_ns + IDLE_PAUSE_NS, at));
        }
    }

    fn begin_idle(&mut self, at: usize) {
        self.kit.tally.habit("idle_opened", 1);
        let stream = &mut self.fleet.idle[at - self.connections.len()];
        // What goes wrong here is told by the next event.
        let _ = stream.push(Wire { io: &mut self.io, at });
    }
}

/// A socket that takes no more for now is well.
fn is_pushed(outcome: io::Result<()>) -> bool {
    outcome.map_or_else(|error| error.kind() == io::ErrorKind::WouldBlock, |()| true)
}

const IDLE_PAUSE_NS: u64 = 1_000_000_000;
