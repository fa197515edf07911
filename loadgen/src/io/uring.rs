//! Connections on a ring: receives stay armed, and small sends of all connections go to the kernel in one call.
//!
//! The kernel reads what it sends after the call that asked for it, so a small send is copied into a buffer that goes
//! with it; large ones, of which the system call is a small part, are sent at once from where they were rendered. One
//! send per connection is under way at a time: the kernel does not keep several in order. Batches are small: on loopback a
//! send takes microseconds, because it takes the peer's receive path, and a line counts from before its batch.

use super::{Chunk, Event, Intake, LISTENER, News, Place, not_connected, parts, token};
use ringest_sys::net;
use ringest_sys::ring::{self, Lease, OpId, Ring, RingConfig};
use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

pub(super) struct Uring {
    ring: Ring,
    /// Bytes that may come of one connection before it queues again.
    credit: Option<u32>,
    connections: Vec<Option<Connection>>,
    generation: u32,
    /// Those with something to be sent at the next wait, by their tokens.
    outgoing: Vec<u64>,
    /// Those whose receive has ended and has to be armed again, first come first served.
    unarmed: VecDeque<u64>,
    /// Connections that are read only when somebody asks.
    pub(super) unread: BTreeSet<usize>,
    /// Buffers that nothing is being sent from.
    spares: Vec<Vec<u8>>,
    listener: Option<TcpListener>,
}

struct Connection {
    tcp: TcpStream,
    generation: u32,
    /// It is dialled, and this tells when there is something to be said about that.
    dialling: Option<OpId>,
    /// To be sent at the next wait.
    queued: Vec<u8>,
    /// The kernel has a buffer of it.
    is_sending: bool,
    /// Somebody was told that it takes no more.
    is_full: bool,
}

impl Uring {
    pub(super) fn new(intake: Intake) -> io::Result<Uring> {
        let (buf_count, buf_len, credit) = match intake {
            // What counts is that the answers of a turn find a buffer each.
            Intake::Answers(connections) => {
                let count = connections.next_power_of_two().clamp(ANSWER_BUFFERS_MIN, ANSWER_BUFFERS_MAX);
                (count, (ANSWER_BYTES / count).clamp(ANSWER_BUFFER_LEN_MIN, ANSWER_BUFFER_LEN_MAX), None)
            }
            // Few and large, as a server has them; half of them for one connection, so that others have their turn.
            Intake::Lines => (LINE_BUFFERS, LINE_BUFFER_LEN, Some((LINE_BUFFERS / 2 * LINE_BUFFER_LEN) as u32)),
        };
        Ok(Uring {
            ring: Ring::new(RingConfig { entries: ENTRIES, buf_count, buf_len })?,
            credit,
            connections: Vec::new(),
            generation: 0,
            outgoing: Vec::new(),
            unarmed: VecDeque::new(),
            unread: BTreeSet::new(),
            spares: Vec::new(),
            listener: None,
        })
    }

    pub(super) fn adopt(&mut self, at: usize, tcp: TcpStream) {
        self.generation += 1;
        if !self.unread.contains(&at) {
            receive(&mut self.ring, &tcp, token(at, self.generation), self.credit);
        }
        self.add(at, tcp, None);
    }

    pub(super) fn dial(&mut self, at: usize, tcp: TcpStream) {
        self.generation += 1;
        let dialling = self.ring.watch_room(tcp.as_fd(), token(at, self.generation));
        self.add(at, tcp, Some(dialling));
    }

    fn add(&mut self, at: usize, tcp: TcpStream, dialling: Option<OpId>) {
        let generation = self.generation;
        if self.connections.len() <= at {
            self.connections.resize_with(at + 1, || None);
        }
        let queued = self.spares.pop().unwrap_or_default();
        self.connections[at] =
            Some(Connection { tcp, generation, dialling, queued, is_sending: false, is_full: false });
    }

    pub(super) fn watch(&mut self, listener: &TcpListener) -> io::Result<()> {
        self.ring.watch(listener.as_fd(), LISTENER);
        self.listener = Some(listener.try_clone()?);
        Ok(())
    }

    pub(super) fn send(&mut self, at: usize, bytes: &[u8]) -> io::Result<usize> {
        let connection = self.connections.get_mut(at).and_then(Option::as_mut).ok_or_else(not_connected)?;
        if connection.is_sending || connection.queued.len() >= QUEUE_LEN {
            connection.is_full = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        if connection.queued.is_empty() {
            if bytes.len() >= AT_ONCE_LEN {
                match net::send(connection.tcp.as_fd(), bytes) {
                    // A copy waits in the kernel for room.
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    outcome => return outcome,
                }
            }
            self.outgoing.push(token(at, connection.generation));
        }
        let len = bytes.len().min(QUEUE_LEN - connection.queued.len());
        connection.queued.extend_from_slice(&bytes[..len]);
        if self.outgoing.len() >= SENDS_MAX {
            self.submit_sends();
            self.ring.wait(Some(Duration::ZERO))?;
        }
        Ok(len)
    }

    pub(super) fn close(&mut self, at: usize) {
        let Some(mut connection) = self.connections.get_mut(at).and_then(Option::take) else { return };
        if !connection.is_sending && !connection.queued.is_empty() {
            // Who is gone already need not be told.
            let _ = net::send(connection.tcp.as_fd(), &connection.queued);
        }
        if let Some(dialling) = connection.dialling {
            self.ring.cancel(dialling);
        }
        connection.queued.clear();
        self.spares.push(connection.queued);
        // An armed receive would keep the connection open behind the close.
        let _ = net::shutdown(connection.tcp.as_fd(), Shutdown::Both);
        self.ring.close(connection.tcp.into());
    }

    pub(super) fn tcp(&self, at: usize) -> Option<&TcpStream> {
        self.connections.get(at)?.as_ref().map(|connection| &connection.tcp)
    }

    pub(super) fn is_loaded(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub(super) fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.submit_sends();
        self.arm();
        self.ring.wait(Some(timeout))
    }

    pub(super) fn next(&mut self) -> Option<Event> {
        loop {
            let (token, news) = match self.ring.next()? {
                ring::Event::Received { token, result, more } => {
                    if !more && matches!(result, Ok(Some(_))) {
                        self.unarmed.push_back(token);
                    }
                    let news = match result {
                        Ok(Some(lease)) => News::Bytes(Chunk(Place::Lease(lease))),
                        Ok(None) => News::Ended,
                        Err(error) => News::Broken(error),
                    };
                    (token, Some(news))
                }
                ring::Event::Starved { token } | ring::Event::Cancelled { token } => {
                    self.unarmed.push_back(token);
                    (token, None)
                }
                ring::Event::Sent { token, buf, result } => (token, self.sent(token, buf, result)),
                ring::Event::Ready { token, .. } if token != LISTENER => (token, self.dialled(token)),
                ring::Event::Ready { token, more } => {
                    if let (false, Some(listener)) = (more, &self.listener) {
                        self.ring.watch(listener.as_fd(), token);
                    }
                    return Some(Event { at: 0, news: News::Called });
                }
                ring::Event::Accepted { .. }
                | ring::Event::Datagram { .. }
                | ring::Event::Written { .. }
                | ring::Event::Synced { .. } => unreachable!("nothing of this kind was started"),
            };
            let is_known = self.connection(token).is_some();
            match news {
                Some(news) if is_known => return Some(Event { at: parts(token).0, news }),
                // Of a connection that was closed meanwhile.
                Some(News::Bytes(chunk)) => self.release_chunk(chunk),
                Some(_) | None => {}
            }
        }
    }

    pub(super) fn lent(&self, lease: &Lease) -> &[u8] {
        self.ring.lent(lease)
    }

    pub(super) fn release(&mut self, lease: Lease) {
        self.ring.release(lease);
    }

    fn release_chunk(&mut self, chunk: Chunk) {
        match chunk.0 {
            Place::Lease(lease) => self.ring.release(lease),
            Place::Read(_) | Place::Asked(_) => unreachable!("a ring reads into leases"),
        }
    }

    fn dialled(&mut self, token: u64) -> Option<News> {
        let (at, _) = parts(token);
        let Uring { ring, credit, unread, .. } = self;
        let connection = self.connections.get_mut(at)?.as_mut()?;
        if token != super::token(at, connection.generation) {
            return None;
        }
        connection.dialling = None;
        match net::outcome(connection.tcp.as_fd()) {
            Err(error) => Some(News::Broken(error)),
            Ok(()) => {
                if !unread.contains(&at) {
                    receive(ring, &connection.tcp, token, *credit);
                }
                Some(News::Connected)
            }
        }
    }

    fn sent(&mut self, token: u64, mut buf: Vec<u8>, result: io::Result<()>) -> Option<News> {
        buf.clear();
        self.spares.push(buf);
        let connection = self.connection(token)?;
        connection.is_sending = false;
        let was_full = std::mem::take(&mut connection.is_full);
        match result {
            Err(error) => Some(News::Broken(error)),
            Ok(()) => was_full.then_some(News::Room),
        }
    }

    fn submit_sends(&mut self) {
        let Uring { ring, connections, outgoing, spares, .. } = self;
        for name in outgoing.drain(..) {
            let (at, generation) = parts(name);
            let connection = connections[at].as_mut().filter(|connection| connection.generation == generation);
            // One that was closed meanwhile has said what it could.
            let Some(connection) = connection else { continue };
            let buf = std::mem::replace(&mut connection.queued, spares.pop().unwrap_or_default());
            ring.send(connection.tcp.as_fd(), name, buf);
            connection.is_sending = true;
        }
    }

    /// Arms receives again in the order in which they ended, while buffers are free: armed at once, the first few
    /// connections would take all of every turn.
    fn arm(&mut self) {
        for _ in 0..self.unarmed.len().min(self.ring.free_buffers()) {
            let name = self.unarmed.pop_front().expect("no more are armed than wait");
            let (at, generation) = parts(name);
            let connection = self.connections[at].as_ref().filter(|connection| connection.generation == generation);
            if let Some(connection) = connection {
                receive(&mut self.ring, &connection.tcp, name, self.credit);
            }
        }
    }

    fn connection(&mut self, token: u64) -> Option<&mut Connection> {
        let (at, generation) = parts(token);
        self.connections.get_mut(at)?.as_mut().filter(|connection| connection.generation == generation)
    }
}

fn receive(ring: &mut Ring, tcp: &TcpStream, name: u64, credit: Option<u32>) {
    match credit {
        None => ring.recv(tcp.as_fd(), name),
        Some(credit) => ring.recv_up_to(tcp.as_fd(), name, credit),
    };
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring").field("connections", &self.connections.len()).finish_non_exhaustive()
    }
}

/// Operations submitted in one system call.
const ENTRIES: u32 = 1024;
const ANSWER_BUFFERS_MIN: usize = 64;
const ANSWER_BUFFERS_MAX: usize = 4096;
/// Of all buffers together. Memory is taken by what comes: an answer of a line or two takes a page.
const ANSWER_BYTES: usize = 4 << 20;
/// What a hundred lines are answered with in plain mode fits.
const ANSWER_BUFFER_LEN_MIN: usize = 4 << 10;
/// With buffers of 4 KiB, 500 lines per answer cost a quarter more.
const ANSWER_BUFFER_LEN_MAX: usize = 64 << 10;
const LINE_BUFFERS: usize = 32;
const LINE_BUFFER_LEN: usize = 64 << 10;
/// Bytes of a connection that wait to be sent: four TLS records.
const QUEUE_LEN: usize = 64 << 10;
/// Sends in one system call. At depth 1 on 50 connections a record took 0.97 of the processor time that it takes on epoll, by
/// eights 0.94, without a limit 0.95, by ones 1.15; and the median latency was 1.09, 1.16, 1.17 and 1.05 of epoll's, because
/// a line counts from before its batch (medians of seven pairs).
const SENDS_MAX: usize = 4;
/// From here on a copy costs more than the system call that it saves: at 500 lines per send, a quarter of the whole.
const AT_ONCE_LEN: usize = 4096;
