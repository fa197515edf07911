//! A shard on epoll: readiness for its sockets, and one writer thread for its files.
//!
//! The fair baseline, and what runs where io_uring is not available. It reads large pieces, answers small ones directly,
//! and never blocks its sockets on the disk: writes and syncs are done in order by one thread on the same core, which
//! is fed through a bounded channel and rings the shard's bell when something is done.

use super::datagrams::{Datagrams, Received};
use super::entrance::{ACCEPTS_PER_TURN, Entrance, Guest, Next};
use super::{LINGER, hear, report};
use crate::notice;
use crate::reading::{self, Asker, Reading};
use crate::storage::SegmentFile;
use crate::worker::{Files, Inbox, Letterbox, Message, Seat, Summary};
use ringest_ingest::{Action, Block, DriverMemory, Fault, SegmentId, SessionId, Shard, ShardId};
use ringest_sys::event_fd::EventFd;
use ringest_sys::poller::{Interest, Poller, Readiness};
use ringest_sys::{cpu, net};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Instant;

pub(crate) struct Epoll {
    poller: Poller,
    shard: Shard,
    id: ShardId,
    entrance: Entrance,
    datagrams: Option<Datagrams>,
    /// The shard wants no more of them for now, and they are not watched.
    datagrams_held: bool,
    inbox: Inbox,
    peers: Vec<Letterbox>,
    files: Files,
    writer: Writer,
    /// By the session's slot.
    connections: Vec<Option<Connection>>,
    /// Connections on which all is said, until their peers have closed too; by the token of their former session.
    parting: HashMap<u64, (Guest, Instant)>,
    part_at: Option<Instant>,
    buffer: Vec<u8>,
    counters: Counters,
    takes_datagrams: bool,
    is_draining: bool,
    askers: Vec<Asker>,
    is_aborted: bool,
}

struct Connection {
    id: SessionId,
    fd: Guest,
    interest: Interest,
    /// What another shard had received and this one has not looked at yet.
    held: Vec<u8>,
    /// A send under way, and how much of it is done.
    sending: Option<(Vec<u8>, usize)>,
    /// The peer has sent everything.
    has_ended: bool,
}

#[derive(Debug, Default)]
struct Counters {
    waits: u64,
    receives: u64,
    sends: u64,
}

impl Counters {
    fn named(&self) -> [(&'static str, u64); 3] {
        let Counters { waits, receives, sends } = *self;
        [("waits", waits), ("receives", receives), ("sends", sends)]
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counters { waits, receives, sends } = self;
        write!(f, "{waits} waits, {receives} receives, {sends} sends")
    }
}

impl Epoll {
    pub(crate) fn new(seat: Seat) -> io::Result<Epoll> {
        let poller = Poller::new()?;
        poller.add(seat.listener.as_fd(), LISTENER, Interest::READ)?;
        poller.add(seat.inbox.bell.as_fd(), BELL, Interest::READ)?;
        let datagrams = seat.datagrams.map(Datagrams::new);
        if let Some(datagrams) = &datagrams {
            poller.add(datagrams.as_fd(), DATAGRAMS, Interest::READ)?;
        }
        Ok(Epoll {
            poller,
            writer: Writer::start(seat.id, seat.cpu, seat.inbox.bell.clone())?,
            shard: seat.shard,
            id: seat.id,
            entrance: Entrance::new(seat.id, seat.listener),
            takes_datagrams: datagrams.is_some(),
            datagrams,
            datagrams_held: false,
            inbox: seat.inbox,
            peers: seat.peers,
            files: seat.files,
            connections: Vec::new(),
            parting: HashMap::new(),
            part_at: None,
            // A baseline that reads 64 KiB at a time would be a straw man.
            buffer: vec![0; seat.buffer_len.max(READ_LEN_MIN)],
            counters: Counters::default(),
            is_draining: false,
            askers: Vec::new(),
            is_aborted: false,
        })
    }

    pub(crate) fn run(mut self: Box<Self>) -> io::Result<Summary> {
        let mut ready = Vec::new();
        self.act(Instant::now());
        while !self.is_aborted && !self.is_done() {
            self.turn(&mut ready)?;
        }
        let summary = self.summary();
        let Epoll { writer, .. } = *self;
        writer.end();
        Ok(summary)
    }

    fn turn(&mut self, ready: &mut Vec<Readiness>) -> io::Result<()> {
        let end_at = self.datagrams.as_ref().and_then(Datagrams::end_at);
        // Those that are queued are not watched any more, but fetched.
        let end_at = end_at.map(|at| if self.datagrams_held { at } else { Instant::now() });
        let at =
            [self.shard.poll_timeout(), self.part_at, self.entrance.opens_at(), end_at].into_iter().flatten().min();
        let timeout = at.map(|at| at.saturating_duration_since(Instant::now()));
        self.poller.wait(timeout, ready)?;
        self.counters.waits += 1;
        let now = Instant::now();
        let mut budget = TURN_LEN_MAX;
        for readiness in ready.iter() {
            match readiness.token {
                LISTENER => self.accept(now),
                BELL => self.answer_bell(now),
                DATAGRAMS => self.receive_datagrams(&mut budget, now),
                token => self.tell(SessionId::from_token(token), readiness, &mut budget, now),
            }
            if budget == 0 {
                // Not the rest of the list later: the kernel would begin at the same end again.
                self.act(now);
                budget = TURN_LEN_MAX;
            }
        }
        if self.shard.poll_timeout().is_some_and(|at| now >= at) {
            self.shard.handle_timeout(now);
        }
        self.end_datagrams(now);
        self.act(now);
        self.part(now);
        reading::answer(std::mem::take(&mut self.askers), || self.reading());
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.is_draining && self.shard.is_drained() && self.files.is_quiet() && self.parting.is_empty()
    }

    // What happened.

    fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPTS_PER_TURN {
            match self.entrance.next(&mut self.shard, now) {
                Next::Guest(id, guest) => self.seat(id, guest, Vec::new(), now),
                Next::Refused => {}
                Next::Nobody => return,
                // Those who wait are not asked about meanwhile.
                Next::Later => return self.watch_listener(Interest::NONE),
            }
        }
    }

    fn watch_listener(&self, interest: Interest) {
        if let Some(listener) = self.entrance.listener() {
            let modified = self.poller.modify(listener.as_fd(), LISTENER, interest);
            modified.expect("a watched descriptor can be watched for something else");
        }
    }

    fn answer_bell(&mut self, now: Instant) {
        self.inbox.bell.drain();
        while let Some(done) = self.writer.take() {
            match done {
                Done::Written(block, outcome) => self.shard.handle_written(block, outcome, now),
                Done::Synced(segment, outcome) => self.shard.handle_synced(segment, outcome, now),
            }
        }
        while let Some(message) = self.inbox.take() {
            match message {
                Message::Moved { connection, handover, received } => {
                    let id = self.shard.handle_handover(handover, now);
                    self.seat(id, connection, received, now);
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
                    if let Some(listener) = self.entrance.shut() {
                        // Closing it is not enough: where others hold it too, it would be watched on.
                        self.poller.remove(listener.as_fd()).expect("a watched descriptor can be watched no more");
                    }
                    match &mut self.datagrams {
                        // Their senders do not hear that they come too late, so they go first.
                        Some(datagrams) => {
                            datagrams.end(now);
                            self.datagrams_held = false;
                            let removed = self.poller.remove(datagrams.as_fd());
                            removed.expect("a watched descriptor can be watched no more");
                        }
                        None => self.shard.handle_drain(now),
                    }
                }
                Message::Abort => self.is_aborted = true,
            }
        }
    }

    fn tell(&mut self, id: SessionId, readiness: &Readiness, budget: &mut usize, now: Instant) {
        if self.connection(id).is_none() {
            return self.drop_unread(id.token());
        }
        if readiness.writable {
            self.send_on(id, now);
        }
        if readiness.readable || readiness.hangup {
            self.receive(id, budget, now);
        }
    }

    fn receive(&mut self, id: SessionId, budget: &mut usize, now: Instant) {
        let Epoll { connections, shard, buffer, .. } = self;
        let Some(connection) = connections.get_mut(id.slot()).and_then(Option::as_mut) else { return };
        if connection.id != id || connection.has_ended {
            return;
        }
        if !connection.held.is_empty() || !shard.wants(id) {
            return self.watch_reads(id, false);
        }
        self.counters.receives += 1;
        match net::recv(connection.fd.as_fd(), buffer) {
            Ok(0) => {
                connection.has_ended = true;
                shard.handle_end(id, now);
                self.watch_reads(id, false);
            }
            Ok(len) => {
                *budget = budget.saturating_sub(len);
                hear(shard, id, &buffer[..len], now);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.lose(id, now),
        }
    }

    /// A batch, which may be many bytes or none; the next one in the next turn.
    fn receive_datagrams(&mut self, budget: &mut usize, now: Instant) {
        let Epoll { datagrams, shard, poller, .. } = self;
        let Some(datagrams) = datagrams else { return };
        if datagrams.end_at().is_some() {
            return self.end_datagrams(now);
        }
        self.counters.receives += 1;
        let hold = match datagrams.receive(shard, now) {
            Received::Bytes(len) => {
                *budget = budget.saturating_sub(len);
                false
            }
            Received::Nothing => false,
            Received::Held => true,
        };
        if hold != self.datagrams_held {
            self.datagrams_held = hold;
            let interest = if hold { Interest::NONE } else { Interest::READ };
            let changed = poller.modify(datagrams.as_fd(), DATAGRAMS, interest);
            changed.expect("a watched descriptor can be watched for something else");
        }
    }

    /// Before a drain: receives what is queued. Once nothing is, or it takes too long, the drain begins.
    fn end_datagrams(&mut self, now: Instant) {
        let Epoll { datagrams, shard, .. } = self;
        let Some((datagrams, end_at)) = datagrams.as_mut().and_then(|it| it.end_at().map(|at| (it, at))) else {
            return;
        };
        let received = datagrams.receive(shard, now);
        self.datagrams_held = matches!(received, Received::Held);
        if (matches!(received, Received::Nothing) || now >= end_at)
            && let Some(datagrams) = self.datagrams.take()
        {
            datagrams.settle(&mut self.shard, now);
            self.shard.handle_drain(now);
        }
    }

    /// Takes in the connection of a session, with what another shard's driver had received.
    fn seat(&mut self, id: SessionId, fd: Guest, received: Vec<u8>, now: Instant) {
        if self.poller.add(fd.as_fd(), id.token(), Interest::READ).is_err() {
            return self.shard.handle_lost(id, now); // No kernel memory to watch it with.
        }
        let slot = id.slot();
        if self.connections.len() <= slot {
            self.connections.resize_with(slot + 1, || None);
        }
        let interest = Interest::READ;
        self.connections[slot] = Some(Connection { id, fd, interest, held: received, sending: None, has_ended: false });
        self.feed_held(id, now);
    }

    fn feed_held(&mut self, id: SessionId, now: Instant) {
        let Epoll { connections, shard, buffer, .. } = self;
        let Some(connection) = connections.get_mut(id.slot()).and_then(Option::as_mut) else { return };
        while !connection.held.is_empty() && shard.wants(id) {
            let rest = connection.held.split_off(connection.held.len().min(buffer.len()));
            let chunk = std::mem::replace(&mut connection.held, rest);
            hear(shard, id, &chunk, now);
        }
    }

    // What is to be done.

    fn act(&mut self, now: Instant) {
        while let Some(action) = self.shard.poll() {
            match action {
                Action::Open(segment) => self.files.open(segment),
                Action::Write(block) => {
                    let file = self.files.get(block.segment()).clone();
                    self.writer.give(Job::Write(block, file));
                }
                Action::Sync(segment) => self.writer.give(Job::Sync(segment, self.files.get(segment).clone())),
                Action::CloseSegment { segment, len, producers } => self.files.close(segment, len, producers),
                Action::Send(id, buf) => self.send(id, buf, now),
                Action::Resume(id) => {
                    self.feed_held(id, now);
                    self.watch_reads(id, true);
                }
                Action::ResumeDatagrams => self.receive_datagrams(&mut 0, now),
                Action::HandOff { session, shard, handover } => {
                    if let Some(Connection { fd: connection, held: received, .. }) = self.remove(session) {
                        let _ = self.poller.remove(connection.as_fd());
                        let message = Message::Moved { connection, handover, received };
                        self.peers[usize::from(shard.0)].post(message);
                    }
                }
                Action::Close(id) => self.close(id, now),
            }
        }
    }

    fn send(&mut self, id: SessionId, buf: Vec<u8>, now: Instant) {
        match self.connection(id) {
            Some(connection) => {
                connection.sending = Some((buf, 0));
                self.send_on(id, now);
            }
            None => self.shard.handle_sent(id, buf, now),
        }
    }

    fn send_on(&mut self, id: SessionId, now: Instant) {
        let Some(connection) = self.connection(id) else { return };
        let Some((buf, mut sent)) = connection.sending.take() else { return };
        let outcome = net::send(connection.fd.as_fd(), &buf[sent..]);
        if let Ok(len) = outcome {
            sent += len;
        }
        let is_all = sent == buf.len();
        let is_broken =
            outcome.is_err_and(|error| !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted));
        if is_all || is_broken {
            self.shard.handle_sent(id, buf, now);
        } else {
            connection.sending = Some((buf, sent));
        }
        self.counters.sends += 1;
        if is_broken {
            return self.lose(id, now);
        }
        let read = self.connection(id).is_some_and(|connection| connection.interest.read);
        self.watch(id, Interest { read, write: !is_all });
    }

    /// All is said. What the peer still sends is read and dropped for a while: closing on unread bytes would make the
    /// kernel throw away the last answers.
    fn close(&mut self, id: SessionId, now: Instant) {
        let Some(connection) = self.remove(id) else { return };
        let fd = connection.fd.as_fd();
        let _ = net::shutdown(fd, Shutdown::Write);
        let watched = match connection.interest {
            Interest::NONE => self.poller.add(fd, id.token(), Interest::READ),
            _ => self.poller.modify(fd, id.token(), Interest::READ),
        };
        if watched.is_ok() {
            let until = now + LINGER;
            self.parting.insert(id.token(), (connection.fd, until));
            self.part_at.get_or_insert(until);
        }
    }

    fn lose(&mut self, id: SessionId, now: Instant) {
        self.shard.handle_lost(id, now);
        if let Some(connection) = self.remove(id) {
            // Its last close ends the watch, too.
            drop(connection.fd);
        }
    }

    fn drop_unread(&mut self, token: u64) {
        let Some((fd, _)) = self.parting.get(&token) else { return };
        match net::recv(fd.as_fd(), &mut self.buffer) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => {
                self.parting.remove(&token);
            }
        }
    }

    /// Ends the connections whose peers had their time to close, and accepts again after a pause.
    fn part(&mut self, now: Instant) {
        if self.part_at.is_some_and(|at| now >= at) {
            self.parting.retain(|_, (_, until)| *until > now);
            self.part_at = self.parting.values().map(|(_, until)| *until).min();
        }
        if self.entrance.opens(now) {
            self.watch_listener(Interest::READ);
        }
    }

    fn watch_reads(&mut self, id: SessionId, read: bool) {
        let Some(connection) = self.connection(id) else { return };
        let read = read && !connection.has_ended && connection.held.is_empty();
        let write = connection.interest.write;
        self.watch(id, Interest { read, write });
    }

    fn watch(&mut self, id: SessionId, interest: Interest) {
        let Epoll { connections, poller, .. } = self;
        let Some(connection) = connections.get_mut(id.slot()).and_then(Option::as_mut) else { return };
        if connection.id != id || connection.interest == interest {
            return;
        }
        // Hang-ups are reported whatever is asked for, so one that asks for nothing is not watched at all.
        let fd = connection.fd.as_fd();
        let changed = match (connection.interest, interest) {
            (_, Interest::NONE) => poller.remove(fd),
            (Interest::NONE, _) => poller.add(fd, id.token(), interest),
            _ => poller.modify(fd, id.token(), interest),
        };
        changed.expect("an open connection can be watched for something else");
        connection.interest = interest;
    }

    fn connection(&mut self, id: SessionId) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(id.slot())?.as_mut()?;
        (connection.id == id).then_some(connection)
    }

    fn remove(&mut self, id: SessionId) -> Option<Connection> {
        self.connection(id)?;
        self.connections[id.slot()].take()
    }

    fn reading(&self) -> Reading {
        Reading::of(self.id, &self.shard, SETUP, &self.counters.named())
    }

    fn summary(&self) -> Summary {
        Summary {
            reading: self.reading(),
            takes_datagrams: self.takes_datagrams,
            counters: self.counters.to_string(),
            drained: self.shard.is_drained(),
        }
    }
}

/// The thread that writes and syncs a shard's files, in the order it is asked to.
struct Writer {
    jobs: mpsc::SyncSender<Job>,
    done: mpsc::Receiver<Done>,
    thread: JoinHandle<()>,
}

enum Job {
    Write(Block, Arc<SegmentFile>),
    Sync(SegmentId, Arc<SegmentFile>),
}

enum Done {
    Written(Block, Result<(), Fault>),
    Synced(SegmentId, Result<(), Fault>),
}

impl Writer {
    fn start(id: ShardId, cpu: Option<usize>, bell: Arc<EventFd>) -> io::Result<Writer> {
        let (jobs, queue) = mpsc::sync_channel(JOBS_MAX);
        let (report_done, done) = mpsc::channel();
        let thread = thread::Builder::new().name(format!("writer-{:02}", id.0)).spawn(move || {
            if let Some(cpu) = cpu
                && let Err(error) = cpu::pin_current(cpu)
            {
                notice!("the writer of shard {} is not pinned: {error}", id.0);
            }
            for job in queue {
                let done = work(id, job);
                if report_done.send(done).is_err() {
                    return;
                }
                bell.wake();
            }
        })?;
        Ok(Writer { jobs, done, thread })
    }

    fn give(&self, job: Job) {
        let given = self.jobs.try_send(job);
        assert!(given.is_ok(), "a shard has a few writes and one sync under way, and its writer runs while it does");
    }

    fn take(&self) -> Option<Done> {
        self.done.try_recv().ok()
    }

    fn end(self) {
        drop(self.jobs);
        // It has nothing left to report; if it panicked, its shard has noticed by the silence.
        let _ = self.thread.join();
    }
}

fn work(shard: ShardId, job: Job) -> Done {
    match job {
        Job::Write(block, file) => {
            let outcome = file.write(&block).map_err(|error| report("write", shard, block.segment(), &error));
            Done::Written(block, outcome)
        }
        Job::Sync(segment, file) => {
            Done::Synced(segment, file.sync().map_err(|error| report("sync", shard, segment, &error)))
        }
    }
}

/// It reads only what is wanted, so nothing is held.
pub(super) fn memory(buffer_len: usize) -> DriverMemory {
    DriverMemory { buffers: buffer_len.max(READ_LEN_MIN), held_per_connection: 0, held: 0 }
}

/// What it is, in a line of the books.
const SETUP: &str = "level-triggered, files on a writer thread";
/// Tokens that are no session's: generations do not get there.
const LISTENER: u64 = u64::MAX;
const BELL: u64 = u64::MAX - 1;
const DATAGRAMS: u64 = u64::MAX - 2;
/// The smallest read.
const READ_LEN_MIN: usize = 256 << 10;
/// Bytes received before what they ask for is done.
const TURN_LEN_MAX: usize = 4 << 20;
/// Writes and syncs given to the writer at once; above what a shard has under way.
const JOBS_MAX: usize = 64;
