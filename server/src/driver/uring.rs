//! A shard on io_uring: one ring for its sockets, its files and its bell.
//!
//! Receives are multishot into the ring's own buffers; a buffer is lent to the shard for one call and goes back. A
//! connection whose chunk the shard does not want yet keeps the buffer and is read no further. A receive that ended is
//! armed again through one queue, in order and only while buffers are free, because arming at once lets the first few
//! connections take every buffer of every turn.
//!
//! Whole pages of large blocks bypass the page cache through the ring. Everything small goes through it by write(2):
//! on common file systems a ring hands that to another thread, which costs more than the write.

use super::credit::{Credit, Pool};
use super::datagrams::{Datagrams, Received};
use super::entrance::{ACCEPTS_PER_TURN, Entrance, Guest, Next};
use super::{LINGER, hear, report};
use crate::notice;
use crate::reading::{self, Asker, Reading};
use crate::worker::{DatagramSocket, Files, Inbox, Letterbox, Message, Seat, Summary};
use bytes::BytesMut;
use ringest_ingest::{Action, Block, DriverMemory, Handover, Limits, SegmentId, SessionId, Shard, ShardId};
use ringest_sys::datagram;
use ringest_sys::net;
use ringest_sys::ring::{DatagramLease, Event, Lease, OpId, Ring, RingConfig};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

pub(crate) struct Uring {
    ring: Ring,
    shard: Shard,
    id: ShardId,
    entrance: Entrance,
    /// The watch over the listener.
    listening: Option<OpId>,
    /// Somebody may wait to be accepted: said once by the watch, until nobody does.
    is_called: bool,
    datagrams: Option<DatagramSource>,
    takes_datagrams: bool,
    inbox: Inbox,
    peers: Vec<Letterbox>,
    files: Files,
    /// By the session's slot.
    connections: Vec<Option<Connection>>,
    /// Sessions whose receive has ended and has to be armed again, first come first served.
    unarmed: VecDeque<SessionId>,
    /// Connections on which all is said, until their peers have closed too; by the token of their former session.
    parting: HashMap<u64, Parting>,
    part_at: Option<Instant>,
    /// Connections that go to another shard once their receive has ended.
    moving: HashMap<u64, Moving>,
    /// Blocks whose pages the kernel has, by the token of the write.
    writing: HashMap<u64, Writing>,
    next_write: u64,
    /// What connections may receive before they queue again.
    pool: Pool,
    chunk_len_max: usize,
    is_draining: bool,
    askers: Vec<Asker>,
    is_aborted: bool,
}

struct DatagramSource {
    socket: Datagrams,
    receive: Option<OpId>,
    /// What the shard did not want yet, in order.
    held: VecDeque<DatagramLease>,
    /// The kernel does not bring them: it says when there are some, and they are fetched.
    is_watched: bool,
    /// There may be some to be fetched.
    is_unfetched: bool,
}

impl DatagramSource {
    fn new(socket: DatagramSocket) -> DatagramSource {
        let socket = Datagrams::new(socket);
        DatagramSource { socket, receive: None, held: VecDeque::new(), is_watched: false, is_unfetched: false }
    }
}

struct Connection {
    id: SessionId,
    fd: Guest,
    receive: Option<OpId>,
    credit: Credit,
    /// What the shard did not want yet, in order.
    held: VecDeque<Held>,
    /// The peer has sent everything.
    has_ended: bool,
    /// It is in the queue of those to be read on: once, or it would be served twice.
    is_queued: bool,
}

impl Connection {
    /// Whether it is to be read on.
    fn is_idle(&self) -> bool {
        self.receive.is_none() && self.held.is_empty() && !self.has_ended
    }
}

enum Held {
    /// A buffer of the ring.
    Lease(Lease),
    /// What another shard had received, or what would have kept a buffer from the others.
    Bytes(Vec<u8>),
    /// The end of the stream.
    End,
}

struct Parting {
    fd: Guest,
    receive: Option<OpId>,
    until: Instant,
}

struct Moving {
    fd: Guest,
    to: ShardId,
    handover: Handover,
    /// What came since, or was held.
    received: Vec<u8>,
}

struct Writing {
    block: Block,
    /// The part of the block that is not written yet.
    rest: std::ops::Range<usize>,
}

impl Uring {
    pub(crate) fn new(seat: Seat) -> io::Result<Uring> {
        let config = RingConfig { entries: ENTRIES, buf_count: BUFFERS, buf_len: seat.buffer_len };
        let mut ring = Ring::new(config)?;
        let listening = Some(ring.watch(seat.listener.as_fd(), LISTENER));
        ring.watch(seat.inbox.bell.as_fd(), BELL);
        let datagrams = seat.datagrams.map(DatagramSource::new);
        if datagrams.is_some() {
            ring.add_datagram_buffers(DATAGRAM_BUFFERS, datagram::LEN_MAX)?;
        }
        Ok(Uring {
            ring,
            shard: seat.shard,
            id: seat.id,
            entrance: Entrance::new(seat.id, seat.listener),
            listening,
            is_called: false,
            takes_datagrams: datagrams.is_some(),
            datagrams,
            inbox: seat.inbox,
            peers: seat.peers,
            files: seat.files,
            connections: Vec::new(),
            unarmed: VecDeque::new(),
            parting: HashMap::new(),
            part_at: None,
            moving: HashMap::new(),
            writing: HashMap::new(),
            next_write: 0,
            pool: Pool::new(seat.hold_len_max / seat.buffer_len),
            chunk_len_max: seat.buffer_len,
            is_draining: false,
            askers: Vec::new(),
            is_aborted: false,
        })
    }

    pub(crate) fn run(mut self: Box<Self>) -> io::Result<Summary> {
        self.act(Instant::now());
        self.arm_datagrams();
        while !self.is_aborted && !self.is_done() {
            self.turn()?;
        }
        Ok(self.summary())
    }

    fn turn(&mut self) -> io::Result<()> {
        self.ring.wait(self.timeout(Instant::now()))?;
        let now = Instant::now();
        while let Some(event) = self.ring.next() {
            self.tell(event, now);
        }
        if self.shard.poll_timeout().is_some_and(|at| now >= at) {
            self.shard.handle_timeout(now);
        }
        self.fetch_datagrams(now);
        self.accept(now);
        self.act(now);
        self.arm();
        self.arm_datagrams();
        self.part(now);
        reading::answer(std::mem::take(&mut self.askers), || self.reading());
        Ok(())
    }

    fn timeout(&self, now: Instant) -> Option<Duration> {
        if self.datagrams.as_ref().is_some_and(|source| source.is_unfetched) {
            return Some(Duration::ZERO);
        }
        let may_accept = self.is_called && self.entrance.opens_at().is_none();
        if may_accept || (!self.unarmed.is_empty() && self.ring.free_buffers() > 0) {
            return Some(Duration::ZERO);
        }
        let end_at = self.datagrams.as_ref().and_then(|source| source.socket.end_at());
        let at =
            [self.shard.poll_timeout(), self.part_at, self.entrance.opens_at(), end_at].into_iter().flatten().min();
        at.map(|at| at.saturating_duration_since(now))
    }

    fn is_done(&self) -> bool {
        self.is_draining
            && self.shard.is_drained()
            && self.files.is_quiet()
            && self.parting.is_empty()
            && self.moving.is_empty()
    }

    // What happened.

    fn tell(&mut self, event: Event, now: Instant) {
        match event {
            Event::Accepted { .. } => unreachable!("connections are accepted by readiness"),
            Event::Received { token, result, more } => self.tell_received(token, result, more, now),
            Event::Starved { token: DATAGRAMS } | Event::Cancelled { token: DATAGRAMS } => self.tell_datagrams_ended(),
            Event::Datagram { result, more, .. } => {
                match result {
                    Ok(lease) => self.offer_datagram(lease, now),
                    Err(error) => self.watch_datagrams(&error),
                }
                if !more {
                    self.tell_datagrams_ended();
                }
            }
            Event::Starved { token } => {
                if let Some(connection) = self.connection(SessionId::from_token(token)) {
                    connection.receive = None;
                    // It got nothing in its turn, so it is before all that did.
                    if !std::mem::replace(&mut connection.is_queued, true) {
                        let id = connection.id;
                        self.unarmed.push_front(id);
                    }
                } else {
                    self.tell_parted(token, true);
                }
            }
            Event::Cancelled { token } => {
                let id = SessionId::from_token(token);
                if let Some(connection) = self.connection(id) {
                    connection.receive = None;
                    self.rearm(id);
                } else {
                    // One that is parting was stopped while it was a session: its peer goes on.
                    self.tell_parted(token, true);
                }
            }
            Event::Sent { token, buf, result } => {
                let id = SessionId::from_token(token);
                self.shard.handle_sent(id, buf, now);
                if result.is_err() {
                    self.lose(id, now);
                }
            }
            Event::Written { token, buf, result } => self.tell_written(token, buf, result, now),
            Event::Synced { token, result } => {
                let outcome = result.map_err(|error| report("sync", self.id, SegmentId(token), &error));
                self.shard.handle_synced(SegmentId(token), outcome, now);
            }
            Event::Ready { token: LISTENER, more } => {
                self.is_called = true;
                if !more {
                    self.listening = self.entrance.listener().map(|it| self.ring.watch(it.as_fd(), LISTENER));
                }
            }
            Event::Ready { token: DATAGRAMS, more } => {
                if let Some(source) = &mut self.datagrams {
                    source.is_unfetched = true;
                }
                if !more {
                    self.tell_datagrams_ended();
                }
            }
            Event::Ready { more, .. } => {
                self.inbox.bell.drain();
                while let Some(message) = self.inbox.take() {
                    self.obey(message, now);
                }
                if !more {
                    self.ring.watch(self.inbox.bell.as_fd(), BELL);
                }
            }
        }
    }

    fn tell_received(&mut self, token: u64, result: io::Result<Option<Lease>>, more: bool, now: Instant) {
        let id = SessionId::from_token(token);
        let Some(connection) = self.connection(id) else {
            if let Ok(Some(lease)) = result {
                if let Some(moving) = self.moving.get_mut(&token) {
                    moving.received.extend_from_slice(self.ring.lent(&lease));
                }
                self.ring.release(lease);
                if !more {
                    self.tell_parted(token, true);
                }
            } else if !more {
                self.tell_parted(token, false);
            }
            return;
        };
        if !more {
            connection.receive = None;
        }
        match result {
            Ok(Some(lease)) => self.offer(id, Held::Lease(lease), now),
            Ok(None) => {
                connection.has_ended = true;
                self.offer(id, Held::End, now);
            }
            Err(_) => return self.lose(id, now),
        }
        self.rearm(id);
    }

    fn tell_written(&mut self, token: u64, buf: BytesMut, result: io::Result<usize>, now: Instant) {
        let Some(mut writing) = self.writing.remove(&token) else { return };
        let segment = writing.block.segment();
        let outcome = match result {
            Ok(0) => Err(report("write", self.id, segment, &io::Error::from(io::ErrorKind::WriteZero))),
            Ok(len) if len < writing.rest.len() => {
                // The kernel took a part; what is left is still the same write.
                writing.rest.start += len;
                return self.submit(writing, buf);
            }
            Ok(_) => Ok(()),
            Err(error) => Err(report("write", self.id, segment, &error)),
        };
        writing.block.put_buffer(buf);
        self.shard.handle_written(writing.block, outcome, now);
    }

    /// A receive has ended on a connection that is no session's any more.
    fn tell_parted(&mut self, token: u64, is_open: bool) {
        if let Some(moving) = self.moving.remove(&token) {
            let Moving { fd: connection, to, handover, received } = moving;
            self.peers[usize::from(to.0)].post(Message::Moved { connection, handover, received });
        } else if is_open && let Some(parting) = self.parting.get_mut(&token) {
            parting.receive = Some(self.ring.recv(parting.fd.as_fd(), token));
        } else if let Some(parting) = self.parting.remove(&token) {
            self.ring.close(parting.fd.into_fd());
        }
    }

    fn obey(&mut self, message: Message, now: Instant) {
        match message {
            Message::Moved { connection, handover, received } => {
                let id = self.shard.handle_handover(handover, now);
                self.seat(id, connection, Some(received), now);
            }
            Message::Opened(segment, outcome) => {
                let outcome = self.files.handle_opened(segment, outcome);
                self.shard.handle_opened(segment, outcome, now);
            }
            Message::Closed => self.files.handle_closed(),
            Message::Tls(tls) => self.shard.handle_tls(tls),
            Message::Settings(settings) => self.shard.handle_settings(&settings, now),
            Message::Ask(asker) => self.askers.push(asker),
            Message::Drain => {
                self.is_draining = true;
                self.is_called = false;
                if let Some(listening) = self.listening.take() {
                    self.ring.cancel(listening);
                }
                if let Some(listener) = self.entrance.shut() {
                    self.ring.close(listener.into());
                }
                match &mut self.datagrams {
                    // Their senders do not hear that they come too late, so they go first.
                    Some(source) => {
                        source.socket.end(now);
                        source.receive.into_iter().for_each(|receive| self.ring.cancel(receive));
                    }
                    None => self.shard.handle_drain(now),
                }
            }
            Message::Abort => self.is_aborted = true,
        }
    }

    // Datagrams.

    /// Hands the shard a datagram, or holds it until the shard wants it.
    fn offer_datagram(&mut self, lease: DatagramLease, now: Instant) {
        let Uring { datagrams, ring, .. } = self;
        let Some(source) = datagrams else { return ring.release_datagram(lease) };
        source.held.push_back(lease);
        self.feed_datagrams(now);
    }

    fn feed_datagrams(&mut self, now: Instant) {
        let Uring { datagrams, ring, shard, .. } = self;
        let Some(source) = datagrams else { return };
        while !source.held.is_empty() {
            if !shard.wants_datagrams() {
                // Read no further: the kernel has more room for them than there are buffers, and counts what it drops.
                if let Some(receive) = source.receive.filter(|_| source.held.len() == 1) {
                    ring.cancel(receive);
                }
                return;
            }
            if let Some(lease) = source.held.pop_front() {
                source.socket.tell(&ring.datagram(&lease), shard, now);
                ring.release_datagram(lease);
            }
        }
    }

    /// The kernel does not bring datagrams by itself, so they are fetched.
    fn watch_datagrams(&mut self, error: &io::Error) {
        let Some(source) = &mut self.datagrams else { return };
        let is_known = std::mem::replace(&mut source.is_watched, true);
        if !is_known {
            let shard = self.id.0;
            notice!("shard {shard}: no multishot receive of datagrams ({error}); they are fetched when there are some");
        }
    }

    /// Fetches a batch, and the next one in the next turn.
    fn fetch_datagrams(&mut self, now: Instant) {
        let Uring { datagrams, shard, .. } = self;
        let Some(source) = datagrams else { return };
        if let Some(end_at) = source.socket.end_at() {
            return self.end_datagrams(end_at, now);
        }
        if !source.is_unfetched {
            return;
        }
        source.is_unfetched = match source.socket.receive(shard, now) {
            Received::Bytes(_) => true,
            Received::Nothing | Received::Held => false,
        };
    }

    /// Receives on where receiving had ended, once everything that was held is handed over.
    fn arm_datagrams(&mut self) {
        let Uring { datagrams, ring, is_draining, .. } = self;
        let Some(source) = datagrams else { return };
        if source.receive.is_none() && source.held.is_empty() && !*is_draining {
            let fd = source.socket.as_fd();
            let is_watched = source.is_watched;
            source.receive =
                Some(if is_watched { ring.watch(fd, DATAGRAMS) } else { ring.recv_datagrams(fd, DATAGRAMS) });
        }
    }

    /// Before a drain: what the kernel has brought comes first, then what is queued is fetched. Once nothing is, or it
    /// takes too long, the drain begins.
    fn end_datagrams(&mut self, end_at: Instant, now: Instant) {
        self.feed_datagrams(now);
        let Uring { datagrams, ring, shard, .. } = self;
        let Some(source) = datagrams else { return };
        let received = match source.receive {
            None if source.held.is_empty() => source.socket.receive(shard, now),
            None | Some(_) => Received::Held,
        };
        source.is_unfetched = matches!(received, Received::Bytes(_));
        if (matches!(received, Received::Nothing) || now >= end_at)
            && let Some(mut source) = self.datagrams.take()
        {
            for lease in source.held.drain(..) {
                source.socket.tell(&ring.datagram(&lease), shard, now);
                ring.release_datagram(lease);
            }
            source.socket.settle(shard, now);
            shard.handle_drain(now);
        }
    }

    /// A receive, or a watch, has ended.
    fn tell_datagrams_ended(&mut self) {
        if let Some(source) = &mut self.datagrams {
            source.receive = None;
        }
    }

    /// Takes in the connection of a session, with what another shard's driver had received.
    fn seat(&mut self, id: SessionId, fd: Guest, received: Option<Vec<u8>>, now: Instant) {
        let credit = Credit::first();
        let receive =
            Some(self.ring.recv_up_to(fd.as_fd(), id.token(), credit_len(credit.buffers(), self.chunk_len_max)));
        let held = received.into_iter().filter(|bytes| !bytes.is_empty()).map(Held::Bytes).collect();
        let slot = id.slot();
        if self.connections.len() <= slot {
            self.connections.resize_with(slot + 1, || None);
        }
        self.connections[slot] = Some(Connection { id, fd, receive, credit, held, has_ended: false, is_queued: false });
        self.feed(id, now);
    }

    /// Hands the shard what has come, or holds it until the shard wants it.
    fn offer(&mut self, id: SessionId, held: Held, now: Instant) {
        let Uring { connections, shard, ring, .. } = self;
        let Some(connection) = connections.get_mut(id.slot()).and_then(Option::as_mut) else { return };
        match held {
            // The usual case, in which nothing has to be remembered.
            Held::Lease(lease) if connection.held.is_empty() && shard.wants(id) => {
                hear(shard, id, ring.lent(&lease), now);
                ring.release(lease);
            }
            // Sessions that wait for long may keep half of the buffers; the other half is for those that do not.
            Held::Lease(lease) if ring.free_buffers() < BUFFERS / 2 => {
                // Many small pieces in one, so that they take no more than their bytes.
                match connection.held.back_mut() {
                    Some(Held::Bytes(bytes)) => {
                        bytes.reserve_exact(ring.lent(&lease).len());
                        bytes.extend_from_slice(ring.lent(&lease));
                    }
                    _ => connection.held.push_back(Held::Bytes(ring.lent(&lease).to_vec())),
                }
                ring.release(lease);
                self.feed(id, now);
            }
            held => {
                connection.held.push_back(held);
                self.feed(id, now);
            }
        }
    }

    /// Hands the shard what is held, as far as it wants it.
    fn feed(&mut self, id: SessionId, now: Instant) {
        loop {
            let Uring { connections, shard, ring, .. } = self;
            let Some(connection) = connections.get_mut(id.slot()).and_then(Option::as_mut) else { return };
            if connection.id != id || connection.held.is_empty() {
                return;
            }
            if !shard.wants(id) {
                // Read no further: what one peer sends must not take the buffers of all.
                if let Some(receive) = connection.receive {
                    ring.cancel(receive);
                }
                return;
            }
            match connection.held.pop_front() {
                Some(Held::Lease(lease)) => {
                    hear(shard, id, ring.lent(&lease), now);
                    ring.release(lease);
                }
                Some(Held::Bytes(mut bytes)) => {
                    let rest = bytes.split_off(bytes.len().min(self.chunk_len_max));
                    if !rest.is_empty() {
                        connection.held.push_front(Held::Bytes(rest));
                    }
                    hear(shard, id, &bytes, now);
                }
                Some(Held::End) => shard.handle_end(id, now),
                None => return,
            }
        }
    }

    // What is to be done.

    fn act(&mut self, now: Instant) {
        while let Some(action) = self.shard.poll() {
            match action {
                Action::Open(segment) => self.files.open(segment),
                Action::Write(block) => self.write(block, now),
                Action::Sync(segment) => {
                    self.ring.fdatasync(self.files.get(segment).as_fd(), segment.0);
                }
                Action::CloseSegment { segment, len, producers } => self.files.close(segment, len, producers),
                Action::Send(id, buf) => self.send(id, buf, now),
                Action::Resume(id) => {
                    self.feed(id, now);
                    self.rearm(id);
                }
                Action::ResumeDatagrams => {
                    self.feed_datagrams(now);
                    if let Some(source) = &mut self.datagrams {
                        source.is_unfetched = source.is_watched;
                    }
                    self.fetch_datagrams(now);
                }
                Action::HandOff { session, shard, handover } => self.hand_off(session, shard, handover),
                Action::Close(id) => self.close(id, now),
            }
        }
    }

    fn write(&mut self, mut block: Block, now: Instant) {
        let file = self.files.get(block.segment());
        if !file.goes_past_cache(&block) {
            let outcome = file.write(&block).map_err(|error| report("write", self.id, block.segment(), &error));
            // It has happened here and now: with the turn's time, no write would ever seem to take any.
            return self.shard.handle_written(block, outcome, Instant::now());
        }
        if let Err(error) = file.write_ends(&block) {
            let fault = report("write", self.id, block.segment(), &error);
            return self.shard.handle_written(block, Err(fault), now);
        }
        let (pages, buf) = (block.parts().pages, block.take_buffer());
        self.submit(Writing { block, rest: pages }, buf);
    }

    fn submit(&mut self, writing: Writing, buf: BytesMut) {
        let token = self.next_write;
        self.next_write += 1;
        let file = self.files.get(writing.block.segment());
        let direct = file.direct().expect("pages go to the ring only where they can bypass the page cache");
        let offset = writing.block.offset_of(writing.rest.start);
        self.ring.write(direct.as_fd(), token, buf, writing.rest.clone(), offset);
        self.writing.insert(token, writing);
    }

    fn send(&mut self, id: SessionId, buf: Vec<u8>, now: Instant) {
        let Uring { connections, ring, shard, .. } = self;
        match connections.get(id.slot()).and_then(Option::as_ref).filter(|connection| connection.id == id) {
            Some(connection) => {
                ring.send(connection.fd.as_fd(), id.token(), buf);
            }
            None => shard.handle_sent(id, buf, now),
        }
    }

    fn hand_off(&mut self, id: SessionId, to: ShardId, handover: Handover) {
        let Some(connection) = self.remove(id) else { return };
        let mut received = Vec::new();
        for held in connection.held {
            match held {
                Held::Lease(lease) => {
                    received.extend_from_slice(self.ring.lent(&lease));
                    self.ring.release(lease);
                }
                Held::Bytes(bytes) => received.extend_from_slice(&bytes),
                Held::End => {}
            }
        }
        let token = id.token();
        self.moving.insert(token, Moving { fd: connection.fd, to, handover, received });
        match connection.receive {
            Some(receive) => self.ring.cancel(receive),
            None => self.tell_parted(token, false),
        }
    }

    /// All is said. What the peer still sends is read and dropped for a while: closing on unread bytes would make the
    /// kernel throw away the last answers.
    fn close(&mut self, id: SessionId, now: Instant) {
        let Some(connection) = self.remove(id) else { return };
        // A connection that is broken already has nobody to tell.
        let _ = net::shutdown(connection.fd.as_fd(), Shutdown::Write);
        self.release(connection.held);
        let token = id.token();
        let receive = connection.receive.unwrap_or_else(|| self.ring.recv(connection.fd.as_fd(), token));
        let until = now + LINGER;
        self.parting.insert(token, Parting { fd: connection.fd, receive: Some(receive), until });
        self.part_at.get_or_insert(until);
    }

    fn lose(&mut self, id: SessionId, now: Instant) {
        self.shard.handle_lost(id, now);
        if let Some(connection) = self.remove(id) {
            self.release(connection.held);
            self.end(connection.fd, connection.receive);
        }
    }

    /// Closes a connection on which nothing more is to come. Closing alone would not end its receive.
    fn end(&mut self, fd: Guest, receive: Option<OpId>) {
        let _ = net::shutdown(fd.as_fd(), Shutdown::Both);
        if let Some(receive) = receive {
            self.ring.cancel(receive);
        }
        self.ring.close(fd.into_fd());
    }

    /// Ends the connections whose peers had their time to close.
    fn part(&mut self, now: Instant) {
        if self.part_at.is_none_or(|at| now < at) {
            return;
        }
        let late: Vec<u64> = self.parting.iter().filter(|(_, it)| it.until <= now).map(|(token, _)| *token).collect();
        for token in late {
            if let Some(parting) = self.parting.remove(&token) {
                self.end(parting.fd, parting.receive);
            }
        }
        self.part_at = self.parting.values().map(|parting| parting.until).min();
    }

    /// Takes those who wait, if anybody may.
    fn accept(&mut self, now: Instant) {
        self.is_called |= self.entrance.opens(now);
        if !self.is_called {
            return;
        }
        for _ in 0..ACCEPTS_PER_TURN {
            match self.entrance.next(&mut self.shard, now) {
                Next::Guest(id, guest) => self.seat(id, guest, None, now),
                Next::Refused => {}
                Next::Nobody => return self.is_called = false,
                Next::Later => return,
            }
        }
    }

    /// Queues a session to be read on, if it should be.
    fn rearm(&mut self, id: SessionId) {
        if let Some(connection) = self.connection(id)
            && connection.is_idle()
            && !std::mem::replace(&mut connection.is_queued, true)
        {
            self.unarmed.push_back(id);
        }
    }

    /// Reads on where reading had ended: in the order it ended, for no more connections than there are buffers.
    fn arm(&mut self) {
        // The last one may not fit in full, so that it goes on while less than a credit is free.
        let mut budget = self.ring.free_buffers();
        while budget > 0
            && let Some(id) = self.unarmed.pop_front()
        {
            let Uring { connections, ring, pool, .. } = self;
            let Some(connection) = connections.get_mut(id.slot()).and_then(Option::as_mut) else { continue };
            if connection.id != id {
                continue;
            }
            connection.is_queued = false;
            if connection.is_idle() {
                // What it held is gone, so all of its credit is new.
                pool.renew(&mut connection.credit);
                let len = credit_len(connection.credit.buffers(), self.chunk_len_max);
                connection.receive = Some(ring.recv_up_to(connection.fd.as_fd(), id.token(), len));
                budget = budget.saturating_sub(connection.credit.buffers());
            }
        }
    }

    fn connection(&mut self, id: SessionId) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(id.slot())?.as_mut()?;
        (connection.id == id).then_some(connection)
    }

    fn remove(&mut self, id: SessionId) -> Option<Connection> {
        self.connection(id)?;
        let mut connection = self.connections[id.slot()].take()?;
        self.pool.take_back(std::mem::replace(&mut connection.credit, Credit::first()));
        Some(connection)
    }

    fn release(&mut self, held: VecDeque<Held>) {
        for held in held {
            if let Held::Lease(lease) = held {
                self.ring.release(lease);
            }
        }
    }

    fn reading(&self) -> Reading {
        Reading::of(self.id, &self.shard, self.ring.setup().to_string(), &self.ring.stats().named())
    }

    fn summary(&self) -> Summary {
        Summary {
            reading: self.reading(),
            takes_datagrams: self.takes_datagrams,
            counters: self.ring.stats().to_string(),
            drained: self.shard.is_drained(),
        }
    }
}

/// What it holds beside the shard. A kernel before 6.17 keeps no credit: one connection may fill all buffers before its
/// receive is cancelled.
pub(super) fn memory(buffer_len: usize, limits: &Limits, takes_datagrams: bool) -> DriverMemory {
    let datagrams = if takes_datagrams { DATAGRAM_BUFFERS * datagram::LEN_MAX } else { 0 };
    let buffers = if Ring::keeps_credit() { Credit::first().buffers() } else { BUFFERS };
    DriverMemory {
        buffers: BUFFERS * buffer_len + datagrams,
        held_per_connection: buffers * buffer_len,
        held: limits.hold_len_max.next_multiple_of(buffer_len),
    }
}

fn credit_len(buffers: usize, buffer_len: usize) -> u32 {
    u32::try_from(buffers * buffer_len).unwrap_or(u32::MAX)
}

/// Operations submitted in one system call.
const ENTRIES: u32 = 1024;
/// Buffers to receive into. Few and large: what decides is how many bytes come with one completion, and that what was
/// received is still in the second cache when it is looked at. Enough that small requests of many connections fit a turn.
const BUFFERS: usize = 32;
/// Buffers for datagrams, each for the longest there is: 4 MiB, of which the kernel gives memory to what is used. They are what
/// one turn can bring.
const DATAGRAM_BUFFERS: usize = 64;
/// No session's: generations do not get there.
const DATAGRAMS: u64 = u64::MAX;
/// What a watch is over.
const BELL: u64 = 0;
const LISTENER: u64 = 1;
