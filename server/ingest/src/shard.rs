//! The seam: what a driver tells a shard, and what a shard asks of a driver.
//!
//! A turn of a driver has three steps: wait for the kernel; tell the shard what happened (`handle_*`); do what it asks
//! ([`Shard::poll`] until it is silent). The shard decides everything and does nothing.
//!
//! What a driver owes: it asks [`Shard::wants`] before each chunk and holds the chunk back when the answer is no, until
//! [`Action::Resume`]; it hands chunks over in order, and the end of the stream after the last; it gives every
//! [`Block`] and every sent buffer back, whatever came of it. For datagrams it asks [`Shard::wants_datagrams`] and is
//! told [`Action::ResumeDatagrams`]; what it has taken from the kernel by the time of a drain it hands over before that.

mod encoded;
mod hello;
mod overdue;

pub(crate) use self::hello::HELLO_LEN_MAX;

use crate::block::Block;
use crate::breaker::{Breaker, BreakerState};
use crate::chain::SegmentId;
use crate::deadline;
use crate::door::{Door, Full, Pace, Place};
use crate::intake::{Intake, Pause, Refusal, Source};
use crate::limits::Limits;
use crate::member::SegmentFormat;
use crate::memory::{SPARE_SENDS_MAX, spare_send_len_max};
use crate::parse::Parser;
use crate::producer::{ProducerState, Producers};
use crate::quota::{Line, Shares};
use crate::session::{Arrival, Budget, Handshake, Mode, OUTBOX_STOP_LEN, Replies, Session};
use crate::slab::{SessionId, Slab};
use crate::stage::Stage;
use crate::tally::Tally;
use crate::transport::{Decoded, Transport, Unpacker};
use crate::writer::{Gate, StorageHealth, Writer};
use memchr::memrchr;
use ringest_wire::answer::Answer;
use ringest_wire::control::{self, Control};
use ringest_wire::frame::{Framer, Head, trim_cr};
use ringest_wire::{AckLevel, Code, Severity, reply};
use rustls::ServerConfig;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Names one shard of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// What a shard asks its driver to do. Exhaustive on purpose: a new action does not compile until each driver does it.
#[derive(Debug)]
pub enum Action {
    /// Create a segment file, allocate it, and make it and its name durable; then `handle_opened`.
    Open(SegmentId),
    /// Write the block where it says; then `handle_written`.
    Write(Block),
    /// Make everything written to the segment durable; then `handle_synced`.
    Sync(SegmentId),
    /// Cut the segment to the length that counts and close it. Length 0: it was never used and can go.
    CloseSegment {
        /// Which.
        segment: SegmentId,
        /// Bytes of it that count.
        len: u64,
        /// Where producers stand at least, by what is durable, nothing in this segment and those before it left out. To be
        /// kept beside it, so that the next start need not read them. `None` where it did not end well.
        producers: Option<Vec<ProducerState>>,
    },
    /// Send all of these bytes; then `handle_sent`. One send per session is under way at a time.
    Send(SessionId, Vec<u8>),
    /// Offer the session's held-back chunks again, and read on.
    Resume(SessionId),
    /// Offer the held-back datagrams again, and read on.
    ResumeDatagrams,
    /// Move the connection to another shard of this server, which is told by
    /// [`handle_handover`](Shard::handle_handover). What the driver still holds of it, and what it receives while it
    /// lets go, goes along and is handed to that shard next. The id is void with this.
    HandOff {
        /// Which.
        session: SessionId,
        /// Where it belongs.
        shard: ShardId,
        /// What this shard knows of it.
        handover: Handover,
    },
    /// Nothing more will be said: shut the connection down. The id is void with this.
    Close(SessionId),
}

/// What one shard has of a connection, on its way to another.
#[derive(Debug)]
pub struct Handover {
    /// When it came.
    came: Arrival,
    /// Plain bytes, from the first one of the connection.
    received: Vec<u8>,
    /// What follows is encoded like this.
    transport: Option<Box<Transport>>,
}

impl Handover {
    /// The plain bytes that were received so far.
    pub fn received(&self) -> &[u8] {
        &self.received
    }
}

/// How connections are encrypted.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// Certificate, key, versions, and whose client certificates are asked for.
    pub server: Arc<ServerConfig>,
    /// Whether a connection that is not encrypted is refused.
    pub is_required: bool,
}

/// What may change while a shard runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of these, what [`Limits::changed_to`] takes over.
    pub limits: Limits,
    /// Records below it are acknowledged and not stored.
    pub min_level: Severity,
}

/// How storage failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is no room.
    Full,
    /// Anything else.
    Broken,
}

impl Fault {
    /// What clients are told.
    pub fn code(self) -> Code {
        match self {
            Fault::Full => Code::StorageFull,
            Fault::Broken => Code::StorageError,
        }
    }
}

/// What a shard is told at its start.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Its own name.
    pub shard: ShardId,
    /// How many shards the server has.
    pub shards: u16,
    /// The ack level of plain connections, and of sessions that ask for none.
    pub ack: AckLevel,
    /// The strongest level that can be promised; a session that asks for more is refused.
    pub ack_max: AckLevel,
    /// Records below it are acknowledged and not stored.
    pub min_level: Severity,
    /// The first segment id that is free.
    pub first_segment: SegmentId,
    /// Producers that are at home here, as recovery found them, the least recently used first.
    pub producers: Vec<ProducerState>,
    /// Producers that are at home elsewhere, and of which this shard's segments hold something.
    pub away: Vec<ProducerState>,
    /// How segments are written. Those that are there are read whatever they are.
    pub format: SegmentFormat,
    /// The driver reads the pages of large blocks, to copy them, instead of handing them to the disk where they lie.
    pub copies_pages: bool,
    /// `None`: connections are not encrypted.
    pub tls: Option<TlsConfig>,
    /// Who may come in. The same for all shards of a server.
    pub door: Door,
    /// Bounds.
    pub limits: Limits,
}

impl ShardConfig {
    /// The only shard of a server that begins with an empty disk: every level is stored, durable, and nothing is encrypted.
    pub fn alone(limits: Limits) -> ShardConfig {
        ShardConfig {
            shard: ShardId(0),
            shards: 1,
            ack: AckLevel::Durable,
            ack_max: AckLevel::Durable,
            min_level: Severity::Trace,
            first_segment: SegmentId(1),
            producers: Vec::new(),
            away: Vec::new(),
            format: SegmentFormat::Plain,
            copies_pages: false,
            tls: None,
            door: Door::new(&limits, None),
            limits,
        }
    }
}

/// All deciding state of one core.
pub struct Shard {
    config: ShardConfig,
    intake: Intake,
    sessions: Slab<Session>,
    /// Those that may have something to send, each once.
    ready: VecDeque<SessionId>,
    /// Those that wait for room in the writer, each once.
    queue: Line,
    /// When to look for those that have waited too long.
    line_check_at: Option<Instant>,
    /// No connection is taken before.
    shut_until: Option<Instant>,
    shares: Shares,
    /// The last of them that was let on.
    called: Option<SessionId>,
    /// The driver holds datagrams back and waits for a `ResumeDatagrams`.
    datagrams_stalled: bool,
    /// Datagrams were let on, and no session since.
    datagrams_called: bool,
    /// Those that said hello and wait for what was sent before.
    joining: Vec<SessionId>,
    /// One of them may be welcome by now.
    may_welcome: bool,
    /// Those that belong to another shard.
    moving: VecDeque<(SessionId, ShardId)>,
    woken: Vec<SessionId>,
    actions: VecDeque<Action>,
    spare_sends: Vec<Vec<u8>>,
    /// Where encoded bytes are decoded to, one chunk at a time.
    decoded: Vec<u8>,
    unpacker: Unpacker,
    /// Bytes that may still be decoded in this turn.
    decode_budget: usize,
    /// Those that wait for a TLS handshake, first come first served.
    lobby: VecDeque<SessionId>,
    /// TLS handshakes under way.
    handshakes: usize,
    /// How many may still begin in this turn.
    handshake_starts: usize,
    /// When the first session may be late with something; not before that.
    sweep_at: Option<Instant>,
    /// How fast connections are taken.
    pace: Pace,
    is_draining: bool,
    /// The latest time that was told.
    now: Instant,
}

impl Shard {
    /// A shard at the start of its life. All memory of the record's path is taken here.
    ///
    /// # Errors
    /// A sentence that says which bounds do not fit together.
    pub fn new(config: ShardConfig, now: Instant) -> Result<Shard, String> {
        Shard::with_batch_memory(config, now, |_| {})
    }

    /// The same, and shows the memory of all batches before anything is done with it: one piece, untouched, that begins
    /// where a large page of the processor's would. The kernel may be told what to make of it.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_batch_memory(
        mut config: ShardConfig,
        now: Instant,
        show: impl FnOnce(&mut [u8]),
    ) -> Result<Shard, String> {
        config.limits.check()?;
        let (at_home, away) = (std::mem::take(&mut config.producers), std::mem::take(&mut config.away));
        let limits = &config.limits;
        Ok(Shard {
            intake: Intake {
                min_level: config.min_level,
                parser: Parser::new(limits.line_len_max, limits.depth_max),
                producers: Producers::new(limits.producers_max, at_home, away),
                writer: Writer::new(&config, now, show),
                tally: Tally::new(),
                limits: limits.clone(),
                refusal: None,
            },
            sessions: Slab::new(),
            ready: VecDeque::new(),
            queue: Line::default(),
            line_check_at: None,
            shut_until: None,
            shares: Shares::new(now),
            called: None,
            datagrams_stalled: false,
            datagrams_called: false,
            joining: Vec::new(),
            may_welcome: false,
            moving: VecDeque::new(),
            woken: Vec::new(),
            actions: VecDeque::new(),
            spare_sends: Vec::new(),
            decoded: vec![0; limits.chunk_len_max],
            unpacker: Unpacker::new(),
            decode_budget: limits.decode_len_max,
            lobby: VecDeque::new(),
            handshakes: 0,
            handshake_starts: limits.handshake_starts_max,
            sweep_at: None,
            pace: Pace::new(limits.accept_rate),
            is_draining: false,
            now,
            config,
        })
    }

    /// When the next waiting connection may be accepted, if that is not now: there have been too many of late, or sessions had
    /// to be told to come back although none of them had more than its share, so further ones would fare no better.
    pub fn accept_at(&self, now: Instant) -> Option<Instant> {
        self.pace.wait_until(now).max(self.shut_until.filter(|until| *until > now))
    }

    /// A connection was accepted. Its place is to be kept for as long as its descriptor is open.
    ///
    /// # Errors
    /// There is no place for it: what to tell it, if it takes it at once, before it is closed.
    pub fn admit(&mut self, peer: IpAddr, now: Instant) -> Result<(SessionId, Place), Vec<u8>> {
        self.pace.take(now);
        let mut words = Vec::new();
        match self.config.door.enter(peer) {
            Ok(place) => return self.handle_accepted(now).map(|id| (id, place)).ok_or(words),
            Err(Full::Everywhere) => self.intake.tally.refused_full += 1,
            Err(Full::ForAddress) => self.intake.tally.refused_address += 1,
        }
        if self.config.tls.as_ref().is_none_or(|tls| !tls.is_required) {
            reply::put_error(&mut words, Code::TooManyConnections, 0);
        }
        Err(words)
    }

    /// A connection has come in. `None` where there are as many as may be: close it.
    pub fn handle_accepted(&mut self, now: Instant) -> Option<SessionId> {
        self.now = now;
        if self.sessions.len() >= self.intake.limits.sessions_max || self.is_draining {
            return None;
        }
        let came = Arrival { at: now, after: self.intake.tally.sessions };
        self.intake.tally.sessions += 1;
        let session = self.new_session(came);
        self.expect_late(&session);
        Some(self.sessions.insert(session))
    }

    fn new_session(&self, came: Arrival) -> Session {
        let mut session = Session::new(came, self.intake.limits.line_len_max, self.config.ack, self.now);
        let line_breaker = self.intake.limits.line_breaker.clone();
        session.line_breaker = line_breaker.map(|limits| Box::new(Breaker::new(limits, self.now)));
        session
    }

    /// A connection arrived that another shard began with. It was let in there, so it is here; where there are as many as may
    /// be, or this shard is stopping, its client is told so.
    pub fn handle_handover(&mut self, handover: Handover, now: Instant) -> SessionId {
        self.now = now;
        let is_full = self.sessions.len() >= self.intake.limits.sessions_max;
        let Handover { came, received, transport } = handover;
        let id = self.sessions.insert(self.new_session(came));
        self.with_session(id, |shard, session| {
            session.transport = transport;
            if let Some(transport) = &mut session.transport {
                transport.join(&mut shard.unpacker);
            }
            if is_full || shard.is_draining {
                session.stash = received;
                let code = if shard.is_draining { Code::ShuttingDown } else { Code::TooManyConnections };
                return session.go_away(code, reply::message(code));
            }
            shard.feed(id, session, &received);
            if session.transport.is_some() {
                shard.decode(id, session, &[]);
            }
        });
        id
    }

    /// Whether the session's next chunk, or its end, may be handed over now. After a no, [`Action::Resume`] will say
    /// when.
    pub fn wants(&mut self, id: SessionId) -> bool {
        let limits = &self.intake.limits;
        let Some(session) = self.sessions.get_mut(id) else {
            return true;
        };
        if session.is_closing {
            return true; // It is dropped.
        }
        let blocked = self.is_draining
            || session.is_behind()
            || session.is_backed_up()
            || session.owes_too_much(limits.owed_lines_max, limits.owed_runs_max);
        if blocked {
            session.is_stalled = true;
            return false;
        }
        if let Some(shed) = session.shed {
            if shed.used_at.is_none_or(|at| at == self.now) {
                return true; // It is refused.
            }
            session.shed = None;
        }
        // Who comes by while others wait has to wait behind them, or those that come by first get all of the room.
        let is_free = !self.datagrams_stalled && self.queue.is_clear_for(&session.usage);
        let is_its_turn = is_free || self.called == Some(id);
        if self.intake.writer.gate() == Gate::Wait || !is_its_turn {
            session.is_stalled = true;
            session.waits_since.get_or_insert(self.now);
            self.shares.handle_sent(&mut session.usage, 0, self.now);
            self.line_check_at.get_or_insert(self.now + limits.wait_over_share);
            self.enqueue(id);
            return false;
        }
        true
    }

    /// Bytes arrived: at most `chunk_len_max` of them, and only after [`wants`](Self::wants) said yes.
    pub fn handle_bytes(&mut self, id: SessionId, chunk: &[u8], now: Instant) {
        self.now = now;
        self.intake.tally.received_bytes += chunk.len() as u64;
        self.with_session(id, |shard, session| shard.receive(id, session, chunk));
    }

    /// The chunk that was just handed over was looked at from `began` to `ended`. It had been there since the `now` that came
    /// with it.
    pub fn time_chunk(&mut self, began: Instant, ended: Instant) {
        let stages = &mut self.intake.tally.stages;
        stages.record(Stage::Receive, began.saturating_duration_since(self.now));
        stages.record(Stage::Parse, ended.saturating_duration_since(began));
    }

    /// Whether the next datagram may be handed over now. After a no, [`Action::ResumeDatagrams`] will say when; what
    /// comes meanwhile is best left in the kernel, which counts what it has no room for.
    pub fn wants_datagrams(&mut self) -> bool {
        let is_its_turn = self.queue.is_empty() || self.datagrams_called;
        let is_wanted = is_its_turn && self.intake.writer.gate() != Gate::Wait;
        self.datagrams_stalled |= !is_wanted;
        is_wanted
    }

    /// A datagram arrived: lines as in plain mode, the last with or without its newline, to which nothing is replied.
    /// At most `datagram_len_max` bytes. What comes unasked for, or after a drain has begun, is refused and counted.
    pub fn handle_datagram(&mut self, datagram: &[u8], now: Instant) {
        self.now = now;
        let Intake { parser, tally, .. } = self.begin_datagram(datagram.len());
        tally.received_bytes += datagram.len() as u64;
        let (body, last) = datagram.split_at(memrchr(b'\n', datagram).map_or(0, |at| at + 1));
        if !body.is_empty() {
            let source = Source::body(parser, body);
            self.intake.take_datagram(source, now);
        }
        let last = trim_cr(last);
        if !last.is_empty() {
            let source = Source::single(&mut self.intake.parser, last);
            self.intake.take_datagram(source, now);
        }
    }

    /// A datagram arrived that was longer than what it was received into. What there is of it is refused as one line:
    /// nobody knows what the rest was.
    pub fn handle_cut_datagram(&mut self, now: Instant) {
        self.now = now;
        let Intake { tally, limits, .. } = self.begin_datagram(0);
        tally.udp_cut += 1;
        let limit = u32::try_from(limits.datagram_len_max()).unwrap_or(u32::MAX);
        self.intake.take_datagram(Source::refused(Code::LineTooLong, limit), now);
    }

    /// The kernel has dropped so many datagrams since it was last told.
    pub fn handle_datagram_drops(&mut self, count: u64) {
        self.intake.tally.udp_kernel_drops += count;
    }

    fn begin_datagram(&mut self, len: usize) -> &mut Intake {
        self.intake.tally.udp_datagrams += 1;
        self.intake.begin_chunk(len + 1, self.now);
        if self.is_draining {
            self.intake.refusal = Some(Refusal::new(Code::ShuttingDown, Duration::ZERO));
        }
        &mut self.intake
    }

    /// The peer will send no more. What is unfinished counts as a line, except in a session: a number is used up by a
    /// whole line only, because the client will send the line again under that number. What is owed will still be
    /// sent. Only after [`wants`](Self::wants) said yes.
    pub fn handle_end(&mut self, id: SessionId, now: Instant) {
        self.now = now;
        self.with_session(id, |shard, session| {
            if matches!(session.mode, Mode::Moving) {
                return; // The shard it belongs to will be told.
            }
            match session.transport.as_ref().map_or(Decoded::Ended, |transport| transport.finish()) {
                Decoded::Broken(code) => shard.refuse_rest(id, session, code),
                Decoded::Ended | Decoded::Starved | Decoded::Bytes(_) => shard.end(id, session),
            }
        });
    }

    /// The connection broke. The id is void with this.
    pub fn handle_lost(&mut self, id: SessionId, now: Instant) {
        self.now = now;
        self.remove(id);
    }

    /// A send has completed; the buffer comes back.
    pub fn handle_sent(&mut self, id: SessionId, buf: Vec<u8>, now: Instant) {
        self.now = now;
        self.recycle(buf);
        if let Some(session) = self.sessions.get_mut(id) {
            if let Some(since) = session.sending_since.take() {
                self.intake.tally.stages.record(Stage::Ack, now.saturating_duration_since(since));
            }
            self.make_ready(id);
        }
    }

    /// A write has completed; the block comes back.
    pub fn handle_written(&mut self, block: Block, outcome: Result<(), Fault>, now: Instant) {
        self.now = now;
        let Intake { writer, tally, .. } = &mut self.intake;
        writer.handle_written(block, outcome, now, tally, &mut self.woken);
        tally.storage_breaker_opened = writer.breaker().1;
        self.shares.handle_stored(writer.take_released(), now);
        self.wake();
    }

    /// A sync has completed.
    pub fn handle_synced(&mut self, segment: SegmentId, outcome: Result<(), Fault>, now: Instant) {
        self.now = now;
        let Intake { writer, tally, .. } = &mut self.intake;
        writer.handle_synced(segment, outcome, now, tally, &mut self.woken);
        tally.storage_breaker_opened = writer.breaker().1;
        self.shares.handle_stored(writer.take_released(), now);
        self.wake();
    }

    /// A segment was made ready, or could not be.
    pub fn handle_opened(&mut self, segment: SegmentId, outcome: Result<(), Fault>, now: Instant) {
        self.now = now;
        let Intake { writer, tally, .. } = &mut self.intake;
        writer.handle_opened(segment, outcome, now, tally);
    }

    /// The time that [`poll_timeout`](Self::poll_timeout) named has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.intake.writer.handle_timeout(now);
        self.decode_budget = self.intake.limits.decode_len_max;
        self.handshake_starts = self.intake.limits.handshake_starts_max;
        if self.line_check_at.is_some_and(|at| now >= at) {
            self.shed_overdue(now);
        }
        if let Some(at) = self.sweep_at.filter(|at| now >= *at) {
            self.sweep_at = None;
            self.sweep(at, now);
        }
    }

    /// From now on connections are encrypted like this. Those that are there keep what they began with.
    pub fn handle_tls(&mut self, tls: TlsConfig) {
        self.config.tls = Some(tls);
    }

    /// From now on these bounds and this level hold. Nobody who is in has to go for it, and nothing that was taken is
    /// dropped: fewer connections means that fewer come in, and a shorter time begins with this moment.
    pub fn handle_settings(&mut self, settings: &Settings, now: Instant) {
        self.now = now;
        let limits = self.intake.limits.changed_to(&settings.limits);
        self.intake.min_level = settings.min_level;
        self.intake.writer.change_limits(&limits);
        self.pace.change(limits.accept_rate);
        if !limits.gives_as_long_as(&self.intake.limits) {
            for slot in 0..self.sessions.slots() {
                let id = self.sessions.tenant_of(slot);
                let Some(session) = id.and_then(|id| self.sessions.get_mut(id)) else { continue };
                session.clock.restart(now);
                session.sending_since = session.sending_since.map(|_| now);
            }
            // It finds out itself when the first one may be late.
            self.sweep_by(now);
        }
        self.intake.limits = limits;
    }

    /// Stop: take no more lines, settle those that were taken, tell every client how far it is settled, make all of
    /// it durable and close the segments.
    pub fn handle_drain(&mut self, now: Instant) {
        self.now = now;
        self.is_draining = true;
        self.intake.writer.drain();
        for slot in 0..self.sessions.slots() {
            if let Some(id) = self.sessions.tenant_of(slot) {
                self.make_ready(id);
            }
        }
    }

    /// Nothing is left to be done: every session is closed, every record durable, every segment closed.
    pub fn is_drained(&self) -> bool {
        self.is_draining && self.sessions.len() == 0 && self.intake.writer.is_drained() && self.actions.is_empty()
    }

    /// What to do next, or `None` until something has happened.
    pub fn poll(&mut self) -> Option<Action> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Some(action);
            }
            if let Some(action) = self.intake.writer.poll(&mut self.intake.producers, self.now, &mut self.intake.tally)
            {
                return Some(action);
            }
            // Not before it is polled: the slot must not have its next tenant while the driver holds the last.
            if let Some((session, shard)) = self.moving.pop_front() {
                let Some(Session { came, stash: received, transport, .. }) = self.remove(session) else { continue };
                return Some(Action::HandOff { session, shard, handover: Handover { came, received, transport } });
            }
            if self.welcome_settled() || self.feed_queued() || self.admit_handshake() {
                continue;
            }
            let id = self.ready.pop_front()?;
            if let Some(action) = self.serve(id) {
                return Some(action);
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do; `None` while it has not.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let must_wait = self.must_wait_to_decode() || (self.handshake_starts == 0 && !self.lobby.is_empty());
        let decode_at = must_wait.then_some(self.now);
        [self.intake.writer.poll_timeout(), self.line_check_at, self.sweep_at, decode_at].into_iter().flatten().min()
    }

    /// The books.
    pub fn tally(&self) -> &Tally {
        &self.intake.tally
    }

    /// Records between admission and the end of their write.
    pub fn in_flight(&self) -> u64 {
        self.intake.writer.rows_in_flight()
    }

    /// What the breaker around storage says.
    pub fn breaker(&self) -> BreakerState {
        self.intake.writer.breaker().0
    }

    /// How storage does.
    pub fn storage(&self) -> StorageHealth {
        self.intake.writer.health()
    }

    /// Connections.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Runs `act` on a session that is not closing, then sees whether it has something to say.
    fn with_session(&mut self, id: SessionId, act: impl FnOnce(&mut Shard, &mut Session)) {
        let Some(mut session) = self.sessions.take(id) else { return };
        if !session.is_closing {
            act(self, &mut session);
        }
        // It goes on decoding in its turn; where it owes too much, that is when answers have been taken.
        self.expect_late(&session);
        let goes_on = session.is_behind() && (self.decode_budget == 0 || self.intake.writer.gate() == Gate::Wait);
        self.sessions.put(id, session);
        self.make_ready(id);
        if goes_on {
            self.enqueue(id);
        }
    }

    /// The peer has sent everything: what is unfinished counts as a line, except in a session.
    fn end(&mut self, id: SessionId, session: &mut Session) {
        let mut framer = std::mem::take(&mut session.framer);
        let stash = std::mem::take(&mut session.stash);
        self.intake.begin_chunk(framer.held() + stash.len() + 1, self.now);
        if !stash.is_empty() {
            session.mode = Mode::Plain(Replies::default()); // A first line that might have become a hello.
            self.take_single(id, session, trim_cr(&stash));
        }
        if let Some(line) = framer.finish()
            && !matches!(session.mode, Mode::Stream(_))
        {
            self.take_single(id, session, line);
        }
        session.is_closing = true;
    }

    /// What follows cannot be decoded: the client is told at which line, and no more of it is looked at.
    fn refuse_rest(&mut self, id: SessionId, session: &mut Session, code: Option<Code>) {
        if let Some(code) = code {
            if matches!(session.mode, Mode::Fresh) && !session.stash.starts_with(control::PREFIX) {
                session.mode = Mode::Plain(Replies::default());
            }
            match session.mode {
                Mode::Plain(_) | Mode::Muted => {
                    self.intake.begin_chunk(0, self.now);
                    self.take(id, session, Source::refused(code, 0));
                }
                Mode::Fresh | Mode::Moving | Mode::Joining(_) | Mode::Stream(_) => {
                    session.go_away(code, reply::message(code));
                }
            }
        }
        session.is_closing = true;
    }

    /// Looks at plain bytes of a session.
    fn feed(&mut self, id: SessionId, session: &mut Session, chunk: &[u8]) {
        match session.mode {
            Mode::Fresh => self.feed_first(id, session, chunk),
            Mode::Joining(_) | Mode::Moving => session.stash.extend_from_slice(chunk),
            Mode::Plain(_) | Mode::Muted | Mode::Stream(_) => self.feed_lines(id, session, chunk),
        }
    }

    fn feed_lines(&mut self, id: SessionId, session: &mut Session, chunk: &[u8]) {
        let limit = u32::try_from(self.intake.limits.line_len_max).unwrap_or(u32::MAX);
        let mut framer = std::mem::take(&mut session.framer);
        self.intake.begin_chunk(framer.held() + chunk.len(), self.now);
        self.take_turn(session, chunk.len());
        let garbage = self.intake.refuse_garbage(session, self.now);
        let before =
            session.line_breaker.is_some().then(|| (self.intake.tally.received, self.intake.tally.bad_lines()));
        let split = framer.split(chunk);
        let is_line_complete = matches!(split.head, Head::Line(_)) || !split.body.is_empty();
        if let (Some(refusal), Mode::Plain(_) | Mode::Muted) = (garbage, &session.mode) {
            self.intake.refuse_unread(session, split.lines(), refusal);
            session.clock.hear(is_line_complete, framer.is_unfinished(), self.now);
            session.framer = framer;
            return;
        }
        match split.head {
            Head::None => {}
            Head::Line(line) => self.take_single(id, session, line),
            Head::TooLong => {
                self.take(id, session, Source::refused(Code::LineTooLong, limit));
            }
        }
        if !split.body.is_empty() {
            let source = Source::body(&mut self.intake.parser, split.body);
            if let Some(done) = self.take(id, session, source)
                && !session.is_closing
            {
                // The rest waits until answers have been taken, and is then looked at like another chunk.
                let end = memrchr(b'\n', chunk).map_or(0, |at| at + 1);
                session.stash = chunk[end - split.body.len() + done..].to_vec();
                session.clock.hear(true, false, self.now);
                session.framer = Framer::new(self.intake.limits.line_len_max);
                self.count_lines(session, before, garbage);
                return;
            }
        }
        if split.tail_too_long {
            self.take(id, session, Source::refused(Code::LineTooLong, limit));
        }
        session.clock.hear(is_line_complete, framer.is_unfinished(), self.now);
        self.count_lines(session, before, garbage);
        session.framer = framer;
    }

    /// Of a session that has a breaker around its lines: those since `before` were looked at, unless they were refused.
    fn count_lines(&mut self, session: &mut Session, before: Option<(u64, u64)>, garbage: Option<Refusal>) {
        if let (Some(before), None) = (before, garbage) {
            self.intake.count_garbage(session, before, self.now);
        }
    }

    /// A chunk of a session is looked at. If there is no room, because the session has waited too long, it is told that.
    fn take_turn(&mut self, session: &mut Session, len: usize) {
        match (&mut session.shed, &mut self.intake.refusal) {
            (Some(shed), Some(refusal)) if refusal.code == Code::Overloaded => {
                shed.used_at = Some(self.now);
                *refusal = shed.refusal;
            }
            (shed, _) => *shed = None,
        }
        if self.intake.refusal.is_none() {
            if let Some(since) = session.waits_since.take() {
                self.intake.tally.stages.record(Stage::Receive, self.now.saturating_duration_since(since));
            }
            self.shares.handle_sent(&mut session.usage, len, self.now);
            self.queue.handle_served(&mut session.usage, len);
            // One chunk each, while others wait.
            self.called = self.called.filter(|_| self.queue.is_empty());
        } else if session.shed.is_some() {
            session.waits_since = None;
        }
    }

    fn take_single(&mut self, id: SessionId, session: &mut Session, line: &[u8]) {
        if !line.is_empty() {
            let source = Source::single(&mut self.intake.parser, line);
            self.take(id, session, source);
        }
    }

    /// Takes lines. Where it stops because the session is owed as much as may be, it says how many bytes are done.
    fn take(&mut self, id: SessionId, session: &mut Session, mut source: Source<'_>) -> Option<usize> {
        let now = self.now;
        if !matches!(session.mode, Mode::Stream(_)) {
            return self.intake.take_plain(id, session, source, now);
        }
        while !session.is_closing {
            match self.intake.take_stream(id, session, &mut source, now) {
                Pause::End => return None,
                Pause::Full(done) => return Some(done),
                Pause::Control(line) => {
                    self.obey(session, &source.bytes()[line.start..line.end]);
                    if session.outbox.len() >= OUTBOX_STOP_LEN {
                        return Some(line.next);
                    }
                }
            }
        }
        None
    }

    /// A control line in the middle of a stream.
    fn obey(&mut self, session: &mut Session, line: &[u8]) {
        let Mode::Stream(stream) = &mut session.mode else {
            return;
        };
        match Control::parse(line) {
            Ok(Control::Ping(number)) => Answer::Pong(number).put(&mut session.outbox),
            Ok(Control::Flush(_)) => self.intake.writer.flush(),
            Ok(Control::Bye(_)) => {
                stream.is_leaving = true;
                self.intake.writer.flush();
            }
            Ok(Control::Resume(resume)) if (1..=stream.next_seq).contains(&resume.from) => {
                stream.nacked = None;
                stream.start_again(resume.from);
            }
            Ok(Control::Resume(_)) => {
                let reason = format!("the next line here is {}", stream.next_seq);
                session.go_away(Code::SeqGap, &reason);
            }
            Ok(Control::Hello(_)) => session.go_away(Code::ProtocolError, "a session has one $hello, its first line"),
            Err(reason) => session.go_away(Code::ProtocolError, &reason),
        }
    }

    /// Lets one of those that wait for room go on. Whether there was one.
    fn feed_queued(&mut self) -> bool {
        if self.intake.writer.gate() == Gate::Wait {
            return false;
        }
        // Every other turn is theirs: all who send them are behind one socket, and it cannot make them wait.
        if self.datagrams_stalled && (!self.datagrams_called || self.queue.is_empty()) {
            self.datagrams_stalled = false;
            self.datagrams_called = true;
            self.actions.push_back(Action::ResumeDatagrams);
            return true;
        }
        if self.must_wait_to_decode() {
            return false;
        }
        let Some(id) = self.queue.pop() else { return false };
        let Some(session) = self.sessions.get_mut(id) else {
            return true;
        };
        session.is_queued = false;
        self.datagrams_called = false;
        self.feed_stashed(id);
        self.unstall(id);
        true
    }

    /// Goes on with what was received of a session and not looked at.
    fn feed_stashed(&mut self, id: SessionId) {
        let limits = &self.intake.limits;
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.has_lines_stashed()
            && !self.is_draining
            && !session.owes_too_much(limits.owed_lines_max, limits.owed_runs_max)
        {
            let stash = std::mem::take(&mut session.stash);
            self.with_session(id, |shard, session| shard.feed(id, session, &stash));
        }
        if self.sessions.get(id).is_some_and(|session| session.is_behind() && self.may_decode(session)) {
            self.with_session(id, |shard, session| shard.decode(id, session, &[]));
        }
    }

    /// Tells the driver to go on with a session, if it was told to stop and the reason is gone.
    fn unstall(&mut self, id: SessionId) {
        let limits = &self.intake.limits;
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        // Half of what stopped it, so that it does not stop and go with every answer.
        let blocked = session.is_behind()
            || session.is_backed_up()
            || session.owes_too_much(limits.owed_lines_max / 2 + 1, limits.owed_runs_max / 2 + 1);
        if session.is_stalled && (session.is_closing || (!blocked && !self.is_draining)) {
            session.is_stalled = false;
            session.clock.restart(self.now);
            self.called = Some(id);
            self.actions.push_back(Action::Resume(id));
        }
    }

    /// Says what may be said to a session, or ends it.
    fn serve(&mut self, id: SessionId) -> Option<Action> {
        let session = self.sessions.get_mut(id)?;
        session.is_ready = false;
        let gives_up = (session.is_closing || self.is_draining) && matches!(session.mode, Mode::Muted);
        if session.sending_since.is_some() && !gives_up {
            let due = deadline::due(session, &self.intake.limits, self.is_draining);
            self.sweep_when(due);
            return None;
        }
        let position = self.intake.writer.position(session.level);
        let budget = Budget { position, len_max: self.intake.limits.send_len_max };
        let mut out = self.spare_sends.pop().unwrap_or_default();
        session.answer(&mut out, &budget);
        if self.is_draining && !session.is_closing && session.is_settled() {
            session.go_away(Code::ShuttingDown, "");
            session.answer(&mut out, &budget);
        }
        let is_done = session.is_closing && session.is_settled();
        if let Some(transport) = &mut session.transport
            && session.sending_since.is_none()
        {
            transport.encode(&mut out, is_done);
        }
        if !out.is_empty() {
            session.sending_since = Some(self.now);
            let due = deadline::due(session, &self.intake.limits, self.is_draining);
            self.sweep_when(due);
            self.requeue(id);
            return Some(Action::Send(id, out));
        }
        self.recycle(out);
        if is_done {
            self.remove(id);
            return Some(Action::Close(id));
        }
        self.requeue(id);
        None
    }

    /// A stalled session goes through the queue again, in case what stalled it is gone.
    fn requeue(&mut self, id: SessionId) {
        if self
            .sessions
            .get(id)
            .is_some_and(|session| session.is_stalled || session.is_behind() || session.has_lines_stashed())
        {
            self.enqueue(id);
        }
    }

    /// Something is written or durable that was not: those who wait for it are answered.
    fn wake(&mut self) {
        self.may_welcome = true;
        while let Some(id) = self.woken.pop() {
            self.make_ready(id);
        }
    }

    fn make_ready(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id)
            && !session.is_ready
        {
            session.is_ready = true;
            self.ready.push_back(id);
        }
    }

    fn enqueue(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Limits { owed_lines_max, owed_runs_max, wait_over_share, .. } = self.intake.limits;
        // What was received of it and not looked at waits for room like what a driver holds back.
        let has_more = session.has_lines_stashed() || (session.is_behind() && session.handshake != Handshake::Waiting);
        if has_more && !session.owes_too_much(owed_lines_max, owed_runs_max) {
            session.waits_since.get_or_insert(self.now);
            self.shares.handle_sent(&mut session.usage, 0, self.now);
            self.line_check_at.get_or_insert(self.now + wait_over_share);
        }
        if !session.is_queued {
            session.is_queued = true;
            self.queue.push(id, &session.usage);
        }
    }

    fn recycle(&mut self, mut buf: Vec<u8>) {
        // One that grew beyond what a send usually takes is not kept, so that the pool has a bound.
        let is_usual = buf.capacity() <= spare_send_len_max(&self.intake.limits);
        if is_usual && self.spare_sends.len() < SPARE_SENDS_MAX {
            buf.clear();
            self.spare_sends.push(buf);
        }
    }

    fn remove(&mut self, id: SessionId) -> Option<Session> {
        let mut session = self.sessions.remove(id)?;
        if let Some(transport) = &mut session.transport {
            transport.leave(&mut self.unpacker);
        }
        self.intake.writer.forget(id);
        if let Some(producer) = session.producer() {
            self.intake.producers.detach(producer, id);
        }
        self.intake.tally.tls_failures += u64::from(session.transport.as_ref().is_some_and(|it| it.has_failed()));
        self.handshakes -= usize::from(session.handshake == Handshake::Running);
        Some(session)
    }
}
