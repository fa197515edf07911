//! A server that stores nothing: it counts lines and says yes, in plain mode and in sessions.
//!
//! What the generator reaches against it, with the same flags, is the generator's own ceiling; that over what it
//! reaches against a real server is the headroom. It never looks into a line, and it must not be what limits: one
//! thread per core, on the generator's own engines.

mod guest;

use crate::io::{Engine, Event, Intake, Io, News};
use guest::Guest;
pub use guest::Known;
use ringest_sys::net;
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// One thread of it. Those that share what they know of producers are one server.
#[derive(Debug)]
pub struct Sink {
    listener: TcpListener,
    io: Io,
    guests: Vec<Option<Guest>>,
    vacant: Vec<usize>,
    /// Guests to be answered at the end of the turn: all that a turn brought with one send.
    heard: Vec<usize>,
    known: Known,
}

impl Sink {
    /// One for the calling thread. The listener must not block.
    ///
    /// # Errors
    /// Where the engine cannot be set up.
    pub fn new(engine: Engine, listener: TcpListener, known: Known) -> io::Result<Sink> {
        let mut io = Io::new(engine, Intake::Lines)?;
        io.watch(&listener)?;
        Ok(Sink { listener, io, guests: Vec::new(), vacant: Vec::new(), heard: Vec::new(), known })
    }

    /// Serves until `stop` is set, by whoever started it, or for ever.
    ///
    /// # Errors
    /// Where accepting or waiting fails.
    pub fn serve(mut self, stop: &AtomicBool) -> io::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            self.io.wait(WAIT_MAX)?;
            while let Some(event) = self.io.next() {
                self.handle_event(event)?;
            }
            let mut heard = std::mem::take(&mut self.heard);
            heard.drain(..).for_each(|at| self.answer(at));
            self.heard = heard;
        }
        Ok(())
    }

    fn handle_event(&mut self, Event { at, news }: Event) -> io::Result<()> {
        match news {
            News::Called => self.accept_all()?,
            News::Bytes(chunk) => {
                let mut is_understood = true;
                if let Some(guest) = &mut self.guests[at] {
                    is_understood = guest.hear(self.io.bytes(&chunk), &self.known);
                    self.heard.push(at);
                }
                self.io.release(chunk);
                if !is_understood {
                    self.forget(at);
                }
            }
            News::Room => self.heard.push(at),
            News::Ended | News::Broken(_) => self.forget(at),
            News::Connected => unreachable!("a sink dials nobody"),
        }
        Ok(())
    }

    fn accept_all(&mut self) -> io::Result<()> {
        loop {
            let tcp: TcpStream = match net::accept(self.listener.as_fd()) {
                Ok(fd) => fd.into(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // It has gone while it waited.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            let at = self.vacant.pop().unwrap_or(self.guests.len());
            if at == self.guests.len() {
                self.guests.push(None);
            }
            self.io.adopt(at, tcp)?;
            self.guests[at] = Some(Guest::default());
        }
    }

    fn answer(&mut self, at: usize) {
        let Some(guest) = &mut self.guests[at] else { return };
        guest.answer(&self.known);
        while !guest.unsent().is_empty() {
            match self.io.send(at, guest.unsent()) {
                Ok(len) => guest.sent(len),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // A peer that is gone needs no answer.
                Err(_) => return self.forget(at),
            }
        }
        if guest.is_over() {
            self.forget(at);
        }
    }

    fn forget(&mut self, at: usize) {
        self.io.close(at);
        if self.guests[at].take().is_some() {
            self.vacant.push(at);
        }
    }
}

/// How often a sink without work looks whether it should stop.
const WAIT_MAX: Duration = Duration::from_millis(20);
