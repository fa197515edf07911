//! The floor one line at a time: receive, write, sync where that is asked for, answer, and nothing else.
//!
//! A turn takes what all connections have sent, writes it in one piece, and answers each line. The write is the cheapest
//! there is, into pages that are there already, and the thread waits for the sync: it has nothing else to do, because
//! each client waits for its answer.

use super::epoll::{LISTENER, READ_LEN};
use super::segments::Segments;
use super::uring::RING;
use super::{Answer, Backend, TURN, Watch};
use memchr::memchr_iter;
use ringest_sys::poller::{Interest, Poller};
use ringest_sys::ring::{Event, Ring};
use ringest_sys::{file, net};
use ringest_wire::reply;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// Until all who sent something have gone. Where that is before the window is over, there is nothing to report.
pub(super) fn run(
    backend: Backend,
    listener: &TcpListener,
    segments: Segments,
    answer: Answer,
    watch: &mut Watch,
) -> io::Result<()> {
    let desk = Desk { segments, answer, connections: Vec::new(), open: 0, batch: Vec::new(), owed: Vec::new() };
    match backend {
        Backend::Uring => by_uring(listener, desk, watch),
        Backend::Epoll => by_epoll(listener, desk, watch),
    }
}

/// What a turn has received, and who waits for how many answers.
struct Desk {
    segments: Segments,
    answer: Answer,
    connections: Vec<Option<OwnedFd>>,
    /// How many of them there are.
    open: usize,
    batch: Vec<u8>,
    /// A connection, and its lines in `batch`.
    owed: Vec<(usize, usize)>,
}

impl Desk {
    /// Somebody was there, and nobody is. One that came only to look does not count.
    fn is_deserted(&self, watch: &Watch) -> bool {
        watch.received > 0 && self.open == 0
    }

    fn connect(&mut self, connection: OwnedFd) {
        self.connections.push(Some(connection));
        self.open += 1;
    }

    fn disconnect(&mut self, at: usize) {
        self.open -= usize::from(self.connections[at].take().is_some());
    }

    fn take(&mut self, at: usize, bytes: &[u8]) {
        self.batch.extend_from_slice(bytes);
        self.owed.push((at, memchr_iter(b'\n', bytes).count()));
    }

    /// Puts what was received where it is asked to be.
    fn settle(&mut self) -> io::Result<()> {
        if !self.batch.is_empty() {
            let (file, offset) = self.segments.place(self.batch.len());
            file.write_all_at(&self.batch, offset)?;
            if self.answer == Answer::Durable {
                file::fdatasync(file.as_fd())?;
            }
            self.batch.clear();
        }
        Ok(())
    }
}

fn by_uring(listener: &TcpListener, mut desk: Desk, watch: &mut Watch) -> io::Result<()> {
    let mut ring = Ring::new(RING)?;
    ring.accept(listener.as_fd(), 0);
    let mut spares: Vec<Vec<u8>> = Vec::new();
    let mut unarmed = Vec::new();
    while !desk.is_deserted(watch) {
        watch.goes_on()?;
        ring.wait(Some(TURN))?;
        while let Some(event) = ring.next() {
            match event {
                Event::Accepted { result, .. } => {
                    let connection = result?;
                    ring.recv(connection.as_fd(), desk.connections.len() as u64);
                    desk.connect(connection);
                }
                Event::Received { token, result: Ok(Some(lease)), more } => {
                    watch.received += lease.len() as u64;
                    desk.take(token as usize, ring.lent(&lease));
                    ring.release(lease);
                    if !more {
                        unarmed.push(token as usize);
                    }
                }
                Event::Received { token, more: false, .. } => desk.disconnect(token as usize),
                Event::Starved { token } | Event::Cancelled { token } => unarmed.push(token as usize),
                Event::Sent { buf, .. } => spares.push(buf),
                Event::Received { .. }
                | Event::Written { .. }
                | Event::Datagram { .. }
                | Event::Synced { .. }
                | Event::Ready { .. } => {}
            }
        }
        for at in unarmed.drain(..) {
            if let Some(connection) = &desk.connections[at] {
                ring.recv(connection.as_fd(), at as u64);
            }
        }
        desk.settle()?;
        for (at, lines) in desk.owed.drain(..) {
            if let Some(connection) = &desk.connections[at] {
                let mut answers = spares.pop().unwrap_or_default();
                put_answers(&mut answers, lines);
                ring.send(connection.as_fd(), at as u64, answers);
            }
        }
    }
    Ok(())
}

fn by_epoll(listener: &TcpListener, mut desk: Desk, watch: &mut Watch) -> io::Result<()> {
    let mut poller = Poller::new()?;
    poller.add(listener.as_fd(), LISTENER, Interest::READ)?;
    let (mut ready, mut answers) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; READ_LEN];
    while !desk.is_deserted(watch) {
        watch.goes_on()?;
        poller.wait(Some(TURN), &mut ready)?;
        for readiness in &ready {
            if readiness.token == LISTENER {
                while let Ok(connection) = net::accept(listener.as_fd()) {
                    poller.add(connection.as_fd(), desk.connections.len() as u64, Interest::READ)?;
                    desk.connect(connection);
                }
                continue;
            }
            let at = readiness.token as usize;
            let Some(connection) = &desk.connections[at] else { continue };
            match net::recv(connection.as_fd(), &mut buffer) {
                Ok(received) if received > 0 => {
                    watch.received += received as u64;
                    desk.take(at, &buffer[..received]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => desk.disconnect(at),
            }
        }
        desk.settle()?;
        for (at, lines) in desk.owed.drain(..) {
            if let Some(connection) = &desk.connections[at] {
                put_answers(&mut answers, lines);
                // Whoever waits for an answer to each line has room for it, or is gone.
                let _ = net::send(connection.as_fd(), &answers);
            }
        }
    }
    Ok(())
}

fn put_answers(answers: &mut Vec<u8>, lines: usize) {
    answers.clear();
    (0..lines).for_each(|_| answers.extend_from_slice(reply::OK));
}
