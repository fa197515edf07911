//! A shard on glommio: a ready-made io_uring runtime, with its reactor, its tasks, its sockets and its files.
//!
//! Each connection is a task, and so is each write and sync; what they share is the [`Hub`], which none of them holds
//! while it waits. What they tell the shard is followed by one turn, a task that runs after those that were ready
//! with it and does what the shard asks. So answers are gathered here as on the other backends.
//!
//! What the runtime decides is left as it is, for that is what a comparison with it is about. Its sockets are told of by
//! one-shot polls and read by recv(2), so that all connections can share one buffer. It watches nothing that it does
//! not read itself: [`Watch`] makes a socket of its own out of what only has to be watched. Its files keep the buffer
//! that they are given, so large blocks are copied once more, into memory that it has registered.

use super::datagrams::{Datagrams, Received};
use super::entrance::{ACCEPTS_PER_TURN, Entrance, Guest, Next};
use super::{LINGER, hear, report};
use crate::notice;
use crate::reading::{self, Asker, Reading};
use crate::storage::SegmentFile;
use crate::worker::{Files, Inbox, Letterbox, Message, Seat, Summary};
use futures_io::{AsyncRead, AsyncWrite};
use glommio::io::{BufferedFile, DmaFile, OpenOptions};
use glommio::net::TcpStream;
use glommio::timer::Timer;
use glommio::{GlommioError, LocalExecutor, LocalExecutorBuilder, Placement, Task, spawn_local};
use glommio_socket::{SockRef, Socket};
use ringest_ingest::{Action, Block, DriverMemory, Handover, Limits, Place, SegmentId, SessionId, Shard, ShardId};
use ringest_sys::event_fd::EventFd;
use ringest_sys::limit;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{self, Shutdown};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Once};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

pub(crate) struct Glommio {
    executor: LocalExecutor,
    hub: Hub,
}

/// What the tasks of a shard share. Nobody starts a task while borrowing it: a new task runs at once.
struct Hub {
    shard: Shard,
    id: ShardId,
    entrance: Entrance,
    datagrams: Option<Datagrams>,
    /// The shard wants no more of them for now.
    datagrams_held: bool,
    takes_datagrams: bool,
    inbox: Inbox,
    peers: Vec<Letterbox>,
    files: Files,
    /// Those that are open, as the runtime has them.
    segments: HashMap<SegmentId, Rc<Segment>>,
    /// By the session's slot.
    connections: Vec<Option<Connection>>,
    /// Connections on which all is said, until their peers have closed too; by the token of their former session.
    parting: HashMap<u64, Parting>,
    part_at: Option<Instant>,
    buffer: Vec<u8>,
    /// To be started once nobody borrows this.
    jobs: Vec<Job>,
    /// When the first task since the last turn ran.
    began_at: Option<Instant>,
    timer: Option<(Instant, Timer)>,
    turn: Option<Waker>,
    /// Who waits until connections are taken again, or datagrams.
    opening: Option<Waker>,
    resuming: Option<Waker>,
    /// What listens to the outside. Dropping a task ends it.
    listening: Option<Task<()>>,
    fetching: Option<Task<()>>,
    counters: Counters,
    is_draining: bool,
    askers: Vec<Asker>,
    is_aborted: bool,
}

struct Connection {
    id: SessionId,
    // Closed before the place is free.
    stream: TcpStream,
    place: Place,
    /// Its task, once that has run.
    task: Option<Waker>,
    /// What another shard had received and this one has not looked at yet.
    held: Vec<u8>,
    /// A send under way, and how much of it is done.
    sending: Option<(Vec<u8>, usize)>,
    /// The peer has sent everything.
    has_ended: bool,
    /// There is more to be received, and the others come first.
    pausing: Option<Timer>,
}

struct Parting {
    stream: TcpStream,
    _place: Place,
    until: Instant,
}

/// A segment as the runtime has it.
struct Segment {
    file: Arc<SegmentFile>,
    /// To be written past the page cache, and synced. None where that cannot be had.
    pages: Option<DmaFile>,
    /// To be synced where it is written through the page cache alone.
    whole: Option<BufferedFile>,
}

enum Job {
    Attend(SessionId),
    Open(SegmentId, Arc<SegmentFile>),
    Write(Block, Rc<Segment>),
    Sync(SegmentId, Rc<Segment>),
}

#[derive(Debug, Default)]
struct Counters {
    turns: u64,
    receives: u64,
    sends: u64,
    copies: u64,
}

impl Counters {
    fn named(&self) -> [(&'static str, u64); 4] {
        let Counters { turns, receives, sends, copies } = *self;
        [("turns", turns), ("receives", receives), ("sends", sends), ("copies", copies)]
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counters { turns, receives, sends, copies } = self;
        write!(f, "{turns} turns, {receives} receives, {sends} sends, {copies} copies of blocks")
    }
}

impl Glommio {
    pub(crate) fn new(seat: Seat) -> io::Result<Glommio> {
        check_locked_memory()?;
        // Unbound: the thread is where it should be already.
        let executor = LocalExecutorBuilder::new(Placement::Unbound)
            .io_memory(IO_MEMORY)
            .preempt_timer(ROUND_MAX)
            .make()
            .map_err(|error| io::Error::other(format!("glommio does not start: {error}; take another BACKEND")))?;
        let datagrams = seat.datagrams.map(Datagrams::new);
        let hub = Hub {
            shard: seat.shard,
            id: seat.id,
            entrance: Entrance::new(seat.id, seat.listener),
            takes_datagrams: datagrams.is_some(),
            datagrams,
            datagrams_held: false,
            inbox: seat.inbox,
            peers: seat.peers,
            files: seat.files,
            segments: HashMap::new(),
            connections: Vec::new(),
            parting: HashMap::new(),
            part_at: None,
            buffer: vec![0; seat.buffer_len.max(READ_LEN_MIN)],
            jobs: Vec::new(),
            began_at: None,
            timer: None,
            turn: None,
            opening: None,
            resuming: None,
            listening: None,
            fetching: None,
            counters: Counters::default(),
            is_draining: false,
            askers: Vec::new(),
            is_aborted: false,
        };
        Ok(Glommio { executor, hub })
    }

    pub(crate) fn run(self: Box<Self>) -> io::Result<Summary> {
        let Glommio { executor, hub } = *self;
        Ok(executor.run(serve(hub)))
    }
}

// The tasks.

async fn serve(hub: Hub) -> Summary {
    let bell = hub.inbox.bell.clone();
    let hub = Rc::new(RefCell::new(hub));
    let answering = spawn_local(answer_bell(hub.clone(), bell));
    let listening = spawn_local(listen(hub.clone()));
    let fetching = spawn_local(fetch_datagrams(hub.clone()));
    {
        let mut hub = hub.borrow_mut();
        (hub.listening, hub.fetching) = (Some(listening), Some(fetching));
    }
    let summary = poll_fn(|cx| turn(&hub, cx)).await;
    drop(answering);
    hub.borrow_mut().let_go();
    summary
}

fn turn(hub: &Rc<RefCell<Hub>>, cx: &mut Context<'_>) -> Poll<Summary> {
    let ended = hub.borrow_mut().turn(cx);
    let jobs = std::mem::take(&mut hub.borrow_mut().jobs);
    jobs.into_iter().for_each(|job| start(hub.clone(), job));
    ended
}

fn start(hub: Rc<RefCell<Hub>>, job: Job) {
    match job {
        Job::Attend(id) => spawn_local(poll_fn(move |cx| hub.borrow_mut().attend(id, cx))).detach(),
        Job::Open(id, file) => spawn_local(async move {
            let segment = Segment::open(file).await;
            hub.borrow_mut().handle_opened(id, segment);
        })
        .detach(),
        Job::Write(block, segment) => spawn_local(async move {
            let outcome = segment.write_pages(&block).await;
            hub.borrow_mut().handle_written(block, outcome);
        })
        .detach(),
        Job::Sync(id, segment) => spawn_local(async move {
            let outcome = segment.sync().await;
            hub.borrow_mut().handle_synced(id, outcome);
        })
        .detach(),
    };
}

async fn answer_bell(hub: Rc<RefCell<Hub>>, bell: Arc<EventFd>) {
    loop {
        readable(Watch::new(bell.as_fd())).await;
        hub.borrow_mut().answer_bell();
    }
}

async fn listen(hub: Rc<RefCell<Hub>>) {
    loop {
        let Some(watch) = hub.borrow().entrance.listener().map(|it| Watch::new(it.as_fd())) else { return };
        readable(watch).await;
        loop {
            let accepted = hub.borrow_mut().accept();
            match accepted {
                Accepted::All => break,
                Accepted::Some => pause().await,
                Accepted::Later => poll_fn(|cx| hub.borrow_mut().poll_opened(cx)).await,
            }
        }
    }
}

async fn fetch_datagrams(hub: Rc<RefCell<Hub>>) {
    loop {
        let Some(watch) = hub.borrow().datagrams.as_ref().map(|it| Watch::new(it.as_fd())) else { return };
        readable(watch).await;
        loop {
            let received = hub.borrow_mut().receive_datagrams();
            match received {
                Received::Bytes(_) => pause().await,
                Received::Nothing => break,
                Received::Held => poll_fn(|cx| hub.borrow_mut().poll_resumed(cx)).await,
            }
        }
    }
}

/// Lets the others run, and the rings be looked at: a task that only wakes itself keeps the runtime from both.
async fn pause() {
    Timer::new(MOMENT).await;
}

/// Waits until the descriptor is readable, or for a while where there is none left to watch it with.
async fn readable(watch: io::Result<Watch>) {
    match watch {
        Ok(watch) => watch.await,
        Err(_) => {
            Timer::new(FAULT_PAUSE).await;
        }
    }
}

/// Says once that a descriptor is readable, and reads nothing.
///
/// The runtime watches its own sockets alone, and begins to watch one when it is made. So this is a socket that is never
/// read: it is woken by the watch, and dropped.
struct Watch {
    stream: TcpStream,
    is_armed: bool,
}

impl Watch {
    fn new(fd: BorrowedFd<'_>) -> io::Result<Watch> {
        Ok(Watch { stream: stream(fd.try_clone_to_owned()?), is_armed: false })
    }
}

impl Future for Watch {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // A second call is the watch's: the task that waits for it waits for nothing else.
        if std::mem::replace(&mut self.is_armed, true) {
            return Poll::Ready(());
        }
        Pin::new(&mut self.stream).poll_read(cx, &mut []).map(drop)
    }
}

impl Segment {
    /// Opens once more what is open: the runtime has no other way to a file.
    async fn open(file: Arc<SegmentFile>) -> Segment {
        let path = |fd: &dyn AsRawFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
        let pages = match file.direct() {
            // For writing alone, so that it finds no device to be polled: it would spin on that.
            Some(direct) if is_described(direct) => {
                OpenOptions::new().write(true).dma_open(path(direct)).await.map_err(say).ok()
            }
            Some(_) | None => None,
        };
        let whole = match &pages {
            Some(_) => None,
            None => OpenOptions::new().read(true).buffered_open(path(&file.as_fd())).await.map_err(say).ok(),
        };
        Segment { file, pages, whole }
    }

    /// Writes the whole pages of a block past the page cache: from a copy in memory of the runtime, which keeps it.
    async fn write_pages(&self, block: &Block) -> io::Result<()> {
        let file = self.pages.as_ref().expect("pages are written apart only where they can bypass the page cache");
        let parts = block.parts();
        let mut rest = parts.pages;
        while !rest.is_empty() {
            let first = parts.head.start; // Where `bytes` begins in the buffer that the parts index.
            let mut copy = file.alloc_dma_buffer(rest.len());
            copy.as_bytes_mut().copy_from_slice(&block.bytes()[rest.start - first..rest.end - first]);
            match file.write_at(copy, block.offset_of(rest.start)).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                // The kernel took a part; what is left is still the same write.
                len => rest.start += len,
            }
        }
        Ok(())
    }

    async fn sync(&self) -> io::Result<()> {
        match (&self.pages, &self.whole) {
            (Some(pages), _) => Ok(pages.fdatasync().await?),
            (None, Some(whole)) => Ok(whole.fdatasync().await?),
            (None, None) => self.file.sync(),
        }
    }
}

/// What came of taking connections.
enum Accepted {
    /// Nobody waits.
    All,
    /// Others may.
    Some,
    /// Nobody is taken for now.
    Later,
}

impl Hub {
    /// Does what is due, and what the shard asks; then waits to be called again.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Summary> {
        self.turn.get_or_insert_with(|| cx.waker().clone());
        self.counters.turns += 1;
        self.began_at = None;
        let now = Instant::now();
        if self.shard.poll_timeout().is_some_and(|at| now >= at) {
            self.shard.handle_timeout(now);
        }
        self.end_datagrams(now);
        self.act(now);
        self.part(now);
        reading::answer(std::mem::take(&mut self.askers), || self.reading());
        if self.is_aborted || self.is_done() {
            return Poll::Ready(self.summary());
        }
        self.set_timer(now, cx);
        Poll::Pending
    }

    fn is_done(&self) -> bool {
        self.is_draining && self.shard.is_drained() && self.files.is_quiet() && self.parting.is_empty()
    }

    fn set_timer(&mut self, now: Instant, cx: &mut Context<'_>) {
        let end_at = self.datagrams.as_ref().and_then(Datagrams::end_at);
        // Those that are queued are not watched any more, but fetched.
        let end_at = end_at.map(|at| if self.datagrams_held { at } else { now });
        let at =
            [self.shard.poll_timeout(), self.part_at, self.entrance.opens_at(), end_at].into_iter().flatten().min();
        self.timer.take_if(|(set, _)| *set <= now);
        match at {
            None => {}
            // One that is set for earlier finds nothing to do and sets the next.
            Some(at) if self.timer.as_ref().is_some_and(|(set, _)| *set <= at) => {}
            Some(at) => {
                let (_, timer) = self.timer.insert((at, Timer::new(at.saturating_duration_since(now).max(MOMENT))));
                if Pin::new(timer).poll(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
            }
        }
    }

    /// Something happened, so a turn has to follow; the time at which this round began.
    fn begin(&mut self) -> Instant {
        let Hub { began_at, turn, .. } = self;
        *began_at.get_or_insert_with(|| {
            turn.iter().for_each(Waker::wake_by_ref);
            Instant::now()
        })
    }

    // What happened.

    fn accept(&mut self) -> Accepted {
        let now = self.begin();
        for _ in 0..ACCEPTS_PER_TURN {
            match self.entrance.next(&mut self.shard, now) {
                Next::Guest(id, guest) => self.seat(id, guest, Vec::new(), now),
                Next::Refused => {}
                Next::Nobody => return Accepted::All,
                Next::Later => return Accepted::Later,
            }
        }
        Accepted::Some
    }

    fn poll_opened(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.entrance.opens_at().is_none() {
            return Poll::Ready(());
        }
        self.opening = Some(cx.waker().clone());
        Poll::Pending
    }

    fn answer_bell(&mut self) {
        let now = self.begin();
        self.inbox.bell.drain();
        while let Some(message) = self.inbox.take() {
            match message {
                Message::Moved { connection, handover, received } => {
                    let id = self.shard.handle_handover(handover, now);
                    self.seat(id, connection, received, now);
                }
                Message::Opened(segment, outcome) => match self.files.handle_opened(segment, outcome) {
                    Ok(()) => self.jobs.push(Job::Open(segment, self.files.get(segment).clone())),
                    Err(fault) => self.shard.handle_opened(segment, Err(fault), now),
                },
                Message::Closed => self.files.handle_closed(),
                Message::Tls(tls) => self.shard.handle_tls(tls),
                Message::Ask(asker) => self.askers.push(asker),
                Message::Settings(settings) => self.shard.handle_settings(&settings, now),
                Message::Drain => {
                    self.is_draining = true;
                    self.entrance.shut();
                    (self.listening, self.fetching) = (None, None);
                    match &mut self.datagrams {
                        // Their senders do not hear that they come too late, so they go first.
                        Some(datagrams) => {
                            datagrams.end(now);
                            self.datagrams_held = false;
                        }
                        None => self.shard.handle_drain(now),
                    }
                }
                Message::Abort => self.is_aborted = true,
            }
        }
    }

    /// A connection's task: sends what is to be sent, receives what is wanted.
    fn attend(&mut self, id: SessionId, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.begin();
        let Some(connection) = self.connection(id) else { return self.drop_unread(id.token(), cx) };
        connection.task.get_or_insert_with(|| cx.waker().clone());
        self.send_on(id, now);
        self.receive(id, cx, now)
    }

    fn receive(&mut self, id: SessionId, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        loop {
            let Hub { connections, shard, buffer, counters, .. } = self;
            let Some(connection) = find(connections, id) else { return Poll::Ready(()) };
            if connection.has_ended || !connection.held.is_empty() || !shard.wants(id) {
                return Poll::Pending;
            }
            let Poll::Ready(received) = Pin::new(&mut connection.stream).poll_read(cx, buffer) else {
                return Poll::Pending;
            };
            counters.receives += 1;
            match received {
                Ok(0) => {
                    connection.has_ended = true;
                    shard.handle_end(id, now);
                }
                Ok(len) => {
                    hear(shard, id, &buffer[..len], now);
                    if len == buffer.len() {
                        let pause = connection.pausing.insert(Timer::new(MOMENT));
                        if Pin::new(pause).poll(cx).is_ready() {
                            cx.waker().wake_by_ref();
                        }
                        return Poll::Pending;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.lose(id, now),
            }
        }
    }

    fn receive_datagrams(&mut self) -> Received {
        let now = self.begin();
        let Hub { datagrams, shard, .. } = self;
        let Some(datagrams) = datagrams else { return Received::Nothing };
        let received = datagrams.receive(shard, now);
        self.datagrams_held = matches!(received, Received::Held);
        self.counters.receives += 1;
        received
    }

    fn poll_resumed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.datagrams_held {
            return Poll::Ready(());
        }
        self.resuming = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Before a drain: receives what is queued. Once nothing is, or it takes too long, the drain begins.
    fn end_datagrams(&mut self, now: Instant) {
        let Hub { datagrams, shard, .. } = self;
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

    fn handle_opened(&mut self, id: SegmentId, segment: Segment) {
        let now = self.begin();
        self.segments.insert(id, Rc::new(segment));
        self.shard.handle_opened(id, Ok(()), now);
    }

    fn handle_written(&mut self, block: Block, outcome: io::Result<()>) {
        let now = self.begin();
        let outcome = outcome.map_err(|error| report("write", self.id, block.segment(), &error));
        self.shard.handle_written(block, outcome, now);
    }

    fn handle_synced(&mut self, segment: SegmentId, outcome: io::Result<()>) {
        let now = self.begin();
        let outcome = outcome.map_err(|error| report("sync", self.id, segment, &error));
        self.shard.handle_synced(segment, outcome, now);
    }

    /// Takes in the connection of a session, with what another shard's driver had received.
    fn seat(&mut self, id: SessionId, guest: Guest, received: Vec<u8>, now: Instant) {
        let (fd, place) = guest.into_parts();
        let slot = id.slot();
        if self.connections.len() <= slot {
            self.connections.resize_with(slot + 1, || None);
        }
        let stream = stream(fd);
        let connection = Connection {
            id,
            stream,
            place,
            task: None,
            held: received,
            sending: None,
            has_ended: false,
            pausing: None,
        };
        self.connections[slot] = Some(connection);
        self.feed_held(id, now);
        self.jobs.push(Job::Attend(id));
    }

    fn feed_held(&mut self, id: SessionId, now: Instant) {
        let Hub { connections, shard, buffer, .. } = self;
        let Some(connection) = find(connections, id) else { return };
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
                Action::Write(block) => self.write(block),
                Action::Sync(segment) => self.jobs.push(Job::Sync(segment, self.segment(segment))),
                Action::CloseSegment { segment, len, producers } => {
                    self.segments.remove(&segment);
                    self.files.close(segment, len, producers);
                }
                Action::Send(id, buf) => self.send(id, buf, now),
                Action::Resume(id) => {
                    self.feed_held(id, now);
                    if let Some(task) = self.connection(id).and_then(|connection| connection.task.as_ref()) {
                        task.wake_by_ref();
                    }
                }
                Action::ResumeDatagrams => {
                    self.datagrams_held = false;
                    self.resuming.take().into_iter().for_each(Waker::wake);
                }
                Action::HandOff { session, shard, handover } => self.hand_off(session, shard, handover),
                Action::Close(id) => self.close(id, now),
            }
        }
    }

    /// What does not go past the page cache by write(2): a ring hands that to another thread.
    fn write(&mut self, block: Block) {
        let segment = self.segment(block.segment());
        let are_apart = segment.pages.is_some() && segment.file.goes_past_cache(&block);
        let outcome = if are_apart { segment.file.write_ends(&block) } else { segment.file.write(&block) };
        let now = Instant::now(); // It has happened here: with the turn's time, no write would ever seem to take any.
        match outcome {
            Ok(()) if are_apart => {
                self.counters.copies += 1;
                self.jobs.push(Job::Write(block, segment));
            }
            Ok(()) => self.shard.handle_written(block, Ok(()), now),
            Err(error) => {
                let fault = report("write", self.id, block.segment(), &error);
                self.shard.handle_written(block, Err(fault), now);
            }
        }
    }

    fn segment(&self, id: SegmentId) -> Rc<Segment> {
        self.segments.get(&id).expect("a shard names only segments that were opened").clone()
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

    /// Sends what can be sent. The task of the connection is called when there is room for more.
    fn send_on(&mut self, id: SessionId, now: Instant) {
        let Hub { connections, counters, .. } = self;
        let Some(connection) = find(connections, id) else { return };
        // One that has not run yet sends in its first run.
        let Some(task) = &connection.task else { return };
        let Some((buf, mut sent)) = connection.sending.take() else { return };
        let mut cx = Context::from_waker(task);
        let is_broken = loop {
            counters.sends += 1;
            match Pin::new(&mut connection.stream).poll_write(&mut cx, &buf[sent..]) {
                Poll::Pending => return connection.sending = Some((buf, sent)),
                Poll::Ready(Ok(len)) => sent += len,
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Poll::Ready(Err(_)) => break true,
            }
            if sent == buf.len() {
                break false;
            }
        };
        self.shard.handle_sent(id, buf, now);
        if is_broken {
            self.lose(id, now);
        }
    }

    fn hand_off(&mut self, id: SessionId, to: ShardId, handover: Handover) {
        let Some(Connection { stream, place, held: received, .. }) = self.remove(id) else { return };
        // What the runtime was given it does not give back, so the other shard gets a second descriptor. Where there is none
        // left, the peer has to come again.
        if let Ok(socket) = SockRef::from(&stream).try_clone() {
            let connection = Guest::from_parts(net::TcpStream::from(socket).into(), place);
            self.peers[usize::from(to.0)].post(Message::Moved { connection, handover, received });
        }
    }

    /// All is said. What the peer still sends is read and dropped for a while: closing on unread bytes would make the
    /// kernel throw away the last answers.
    fn close(&mut self, id: SessionId, now: Instant) {
        let Some(connection) = self.remove(id) else { return };
        // A connection that is broken already has nobody to tell.
        let _ = SockRef::from(&connection.stream).shutdown(Shutdown::Write);
        let until = now + LINGER;
        self.parting.insert(id.token(), Parting { stream: connection.stream, _place: connection.place, until });
        self.part_at.get_or_insert(until);
    }

    fn lose(&mut self, id: SessionId, now: Instant) {
        self.shard.handle_lost(id, now);
        if let Some(connection) = self.remove(id) {
            // The runtime's watch keeps the socket for a moment longer.
            let _ = SockRef::from(&connection.stream).shutdown(Shutdown::Both);
        }
    }

    fn drop_unread(&mut self, token: u64, cx: &mut Context<'_>) -> Poll<()> {
        let Hub { parting, buffer, .. } = self;
        let Some(it) = parting.get_mut(&token) else { return Poll::Ready(()) };
        match Pin::new(&mut it.stream).poll_read(cx, buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(1..)) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(Ok(0) | Err(_)) => {
                self.parting.remove(&token);
                Poll::Ready(())
            }
        }
    }

    /// Ends the connections whose peers had their time to close, and accepts again after a pause.
    fn part(&mut self, now: Instant) {
        if self.part_at.is_some_and(|at| now >= at) {
            self.parting.retain(|_, it| it.until > now);
            self.part_at = self.parting.values().map(|it| it.until).min();
        }
        if self.entrance.opens(now) {
            self.opening.take().into_iter().for_each(Waker::wake);
        }
    }

    fn connection(&mut self, id: SessionId) -> Option<&mut Connection> {
        find(&mut self.connections, id)
    }

    /// Its task is called, to notice.
    fn remove(&mut self, id: SessionId) -> Option<Connection> {
        self.connection(id)?;
        let connection = self.connections[id.slot()].take()?;
        connection.task.iter().for_each(Waker::wake_by_ref);
        Some(connection)
    }

    /// Ends every task that still waits: each holds this, and this holds what it waits for.
    fn let_go(&mut self) {
        (self.listening, self.fetching, self.timer) = (None, None, None);
        self.connections.clear();
        self.parting.clear();
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

fn find(connections: &mut [Option<Connection>], id: SessionId) -> Option<&mut Connection> {
    connections.get_mut(id.slot())?.as_mut().filter(|connection| connection.id == id)
}

/// A descriptor as the runtime has it: it takes sockets of the library it was built with.
fn stream(fd: OwnedFd) -> TcpStream {
    TcpStream::from(Socket::from(net::TcpStream::from(fd)))
}

/// Of the device below a file the runtime asks the first of its kind for its sizes, and panics where that is only a part
/// of one. Where there is none it takes its own.
fn is_described(file: &File) -> bool {
    let Ok(about) = file.metadata() else { return false };
    let device = about.dev();
    let major = (device >> 8) & 0xfff | (device >> 32) & !0xfff;
    let first = Path::new("/sys/dev/block").join(format!("{major}:0"));
    !first.exists() || first.join("queue/write_cache").exists()
}

/// Says once why segments are not the runtime's.
fn say(error: GlommioError<()>) {
    static SAID: Once = Once::new();
    SAID.call_once(|| notice!("glommio cannot open a segment, so its shard writes and syncs it itself: {error}"));
}

/// The runtime refuses to start with less, in words that say neither what for nor what to do.
fn check_locked_memory() -> io::Result<()> {
    let may_have = limit::locked_memory()?;
    if may_have < LOCKED_MIN {
        return Err(io::Error::other(format!(
            "glommio needs {LOCKED_MIN} bytes of locked memory and may have {may_have}: raise ulimit -l, or take another \
             BACKEND"
        )));
    }
    Ok(())
}

/// It reads only what is wanted, so nothing is held. Its own memory is for the copies of blocks; those that do not fit
/// are somewhere else.
pub(super) fn memory(buffer_len: usize, limits: &Limits) -> DriverMemory {
    let copies = limits.writes_max * limits.block_len_max();
    DriverMemory { buffers: buffer_len.max(READ_LEN_MIN) + IO_MEMORY + copies, held_per_connection: 0, held: 0 }
}

/// What it is, in a line of the books.
const SETUP: &str = "tasks on its executor, one-shot polls, large blocks copied";
/// The smallest read, as on epoll.
const READ_LEN_MIN: usize = 256 << 10;
/// Memory that each runtime registers with its rings: its own default.
const IO_MEMORY: usize = 10 << 20;
/// What it asks of `RLIMIT_MEMLOCK`.
const LOCKED_MIN: u64 = 512 << 10;
/// After this time the runtime interrupts tasks that do not come to an end: never. Where it has run out before the first
/// of them runs, as on a busy machine, glommio 0.9 takes it that there is nothing to run, and sleeps. Its own 100 ms make
/// that rare; with 1 ms one server in a hundred fell asleep for good. So the tasks here come to an end by themselves.
const ROUND_MAX: Duration = Duration::from_secs(3600);
/// How long a task that has more to do stands back.
const MOMENT: Duration = Duration::from_micros(10);
/// How long a watch pauses when the process is out of descriptors.
const FAULT_PAUSE: Duration = Duration::from_millis(100);
