//! Batches, blocks and what is safe: when a batch is sealed, where its block goes, and which batches are written and
//! durable.
//!
//! Batches are numbered from 1 in the order they were opened, and everything is a prefix of that order: `written` and
//! `durable` are the highest numbers up to which every batch is. Batching is natural: at most one sync is under way;
//! while it is, the next batches gather and their writes may go ahead, and the next sync covers them all.
//!
//! The first write or sync that fails ends its segment: it is never written or synced again, because a kernel may
//! report success the second time without having stored anything. What is not yet safe is still in memory, and is
//! written to a new segment, from where alone it can be acknowledged. The next failure opens the breaker: nothing more
//! is admitted, and what is in memory waits until it may be tried again.

use crate::batch::{self, Arena, Batch, Run};
use crate::block::{Block, Records};
use crate::breaker::{Breaker, BreakerState, Outcome};
use crate::chain::{Chain, Closing, Ending, Next, Room, SegmentId, Snapshot};
use crate::limits::Limits;
use crate::member::{Press, SegmentFormat, packed_len_max};
use crate::producer::Producers;
use crate::shard::{Action, Fault, ShardConfig, ShardId};
use crate::slab::SessionId;
use crate::stage::Stage;
use crate::tally::Tally;
use crate::trace::BatchTrace;
use ringest_wire::{AckLevel, Code};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Whether the writer can take a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// A whole chunk fits.
    Open,
    /// It will, once a write, a sync or an open has completed.
    Wait,
    /// Storage cannot take it; the lines have to be refused.
    Refuse(Code),
}

/// How the storage of a shard does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StorageHealth {
    /// When a sync last succeeded; `None` before the first.
    pub synced_at: Option<Instant>,
    /// The oldest record in memory that is not yet safe came then.
    pub unsafe_since: Option<Instant>,
    /// What a line would be refused with now, if it would.
    pub refuses: Option<Code>,
}

pub(crate) struct Writer {
    shard: ShardId,
    limits: Limits,
    /// Blocks stay in memory until they are synced, so that a failed sync loses nothing.
    retain: bool,
    /// See [`Batch::unread_from`].
    unread_from: usize,
    spares: Vec<Arena>,
    /// Where segments are compressed.
    press: Option<Press>,
    spare_runs: Vec<Vec<Run>>,
    spare_sessions: Vec<Vec<SessionId>>,
    open: Option<Batch>,
    /// Sealed batches that are not yet safe, oldest first; their numbers are consecutive.
    flights: VecDeque<Flight>,
    /// How many of `flights`, from the front, have been given to the driver.
    issued: usize,
    /// The number of the open batch, or of the next one to open.
    open_number: u64,
    /// Every batch up to this one is written where it counts. Goes back when a segment fails.
    written: u64,
    /// Every batch up to this one is in the books. Never goes back.
    booked: u64,
    durable: u64,
    /// When a sync last succeeded.
    synced_at: Option<Instant>,
    /// Batches that were let go of once written, and whose segment failed before it was synced: above the first number,
    /// up to the second. Whether the disk has them will be known after a restart.
    doubtful: Option<(u64, u64)>,
    /// The highest batch number that somebody wants durable.
    durable_wanted: u64,
    /// Sessions that wait for a batch to which they added nothing.
    sync_waiters: Vec<(u64, SessionId)>,
    writes: usize,
    syncing: Option<Syncing>,
    pub(crate) chain: Chain,
    /// A write or sync failed; what is under way has to come back before the rest is written elsewhere.
    broken: bool,
    /// Bytes of the sealed batches.
    held_len: usize,
    /// So many of them, and no chunk is taken any more. Follows how long batches take.
    held_max: usize,
    /// The shortest time that a batch took in this period and in the one before, and when this one began.
    least_age: [Duration; 2],
    period_began: Instant,
    /// Bytes that became safe, since they were last asked for.
    released: u64,
    /// Whether storage is worth another try: every write and sync is a call of it.
    breaker: Breaker,
    /// It failed again: what is in memory waits until the breaker lets it be tried.
    waits: bool,
    draining: bool,
    rows_in_flight: u64,
}

/// The sync under way.
#[derive(Clone, Copy, Debug)]
struct Syncing {
    segment: SegmentId,
    issued_at: Instant,
    /// It covers every batch of the segment up to this number.
    upto: u64,
    /// It covers the segment's last line.
    is_last: bool,
}

#[derive(Debug)]
struct Flight {
    number: u64,
    /// `None` while the driver has it.
    block: Option<Block>,
    written: bool,
    /// Where it was sent: segment and offset. `None` until then, and again once that segment has failed.
    place: Option<(SegmentId, u64)>,
    /// Bytes of its records, as they were sent.
    len: usize,
    opened_at: Instant,
    trace: Option<BatchTrace>,
    /// When the driver was last given it.
    issued_at: Instant,
    rows: u32,
    sync_only: bool,
    sessions: Vec<SessionId>,
}

impl Writer {
    pub(crate) fn new(config: &ShardConfig, now: Instant, show_memory: impl FnOnce(&mut [u8])) -> Writer {
        let ShardConfig { limits, shard, format, .. } = config;
        let batches = limits.batches;
        let (body_len_max, presses) = match format {
            SegmentFormat::Plain => (limits.batch_len_max, 0),
            SegmentFormat::Gzip => (packed_len_max(limits.batch_len_max), 1),
        };
        let mut memory = batch::memory(batches + presses, body_len_max);
        show_memory(&mut memory);
        let mut arenas = (0..batches + presses).map(|_| Arena::cut_from(&mut memory, body_len_max));
        let spares = arenas.by_ref().take(batches).collect();
        let press = arenas.next().map(|arena| Press::new(limits.batch_len_max, arena));
        let is_read_again = press.is_some() || config.copies_pages;
        Writer {
            shard: *shard,
            retain: config.ack == AckLevel::Durable,
            unread_from: if is_read_again { usize::MAX } else { limits.paged_len_min },
            spares,
            press,
            spare_runs: (0..batches).map(|_| Vec::with_capacity(64)).collect(),
            spare_sessions: (0..batches).map(|_| Vec::with_capacity(64)).collect(),
            open: None,
            flights: VecDeque::with_capacity(batches),
            issued: 0,
            open_number: 1,
            written: 0,
            booked: 0,
            durable: 0,
            synced_at: None,
            doubtful: None,
            durable_wanted: 0,
            sync_waiters: Vec::new(),
            writes: 0,
            syncing: None,
            chain: Chain::new(*shard, *format, limits.segment_len, config.first_segment),
            broken: false,
            held_len: 0,
            // A disk that is fast doubles it in three syncs.
            held_max: (batches / 4).max(1) * limits.batch_len_max,
            least_age: [Duration::MAX; 2],
            period_began: now,
            released: 0,
            breaker: Breaker::new(limits.storage_breaker.clone(), now),
            waits: false,
            draining: false,
            rows_in_flight: 0,
            limits: limits.clone(),
        }
    }

    /// Whether a whole chunk can be admitted now.
    pub(crate) fn gate(&self) -> Gate {
        if self.breaker.state() == BreakerState::Open {
            // The cause is named where it is known.
            return Gate::Refuse(if self.breaker.is_failing() { Code::StorageError } else { Code::CircuitOpen });
        }
        if self.broken {
            return Gate::Wait;
        }
        if self.open.as_ref().is_some_and(|open| self.takes_chunk(open)) {
            return Gate::Open;
        }
        if self.held_len >= self.held_max {
            return Gate::Wait;
        }
        let held = self.flights.len() + usize::from(self.open.is_some());
        if self.breaker.state() == BreakerState::HalfOpen && held >= self.breaker.permitted_in_half_open() {
            return Gate::Wait;
        }
        let unplaced = self.flights.len() - self.issued + usize::from(self.open.is_some());
        match self.chain.room(unplaced + 1, self.limits.block_len_max()) {
            Room::Never(code) => Gate::Refuse(code),
            Room::Yes if !self.spares.is_empty() => Gate::Open,
            Room::Yes | Room::Soon => Gate::Wait,
        }
    }

    fn takes_chunk(&self, open: &Batch) -> bool {
        open.fits(self.limits.intake_len_max(), self.limits.batch_len_max)
    }

    /// Seals the open batch if it has no room for `len` more bytes and the newline of an unfinished end.
    pub(crate) fn make_room(&mut self, len: usize, producers: &mut Producers) {
        if self.open.as_ref().is_some_and(|open| !open.fits(len + 1, self.limits.batch_len_max)) {
            self.seal(producers);
        }
    }

    /// The batch that takes the lines of a chunk, and its number. Call only for a chunk that found the
    /// [`gate`](Self::gate) open, and for which there is [room](Self::make_room).
    pub(crate) fn admit(&mut self, now: Instant) -> (&mut Batch, u64) {
        let number = self.open_number;
        let open = self.open.get_or_insert_with(|| {
            let arena = self.spares.pop().expect("the gate is open only while a batch is spare");
            let runs = self.spare_runs.pop().unwrap_or_default();
            let sessions = self.spare_sessions.pop().unwrap_or_default();
            Batch::new(arena, runs, sessions, self.unread_from, now)
        });
        (open, number)
    }

    /// A run was put into the open batch: who waits for what, if anybody does.
    pub(crate) fn handle_admitted(&mut self, run: Run, waiter: Option<(SessionId, AckLevel)>) {
        let Some(open) = &mut self.open else { return };
        self.rows_in_flight += u64::from(run.rows);
        open.cover(run);
        open.trace.get_or_insert_with(|| BatchTrace::begin(self.shard));
        open.due |= open.rows >= self.limits.batch_rows;
        match waiter {
            None | Some((_, AckLevel::None | AckLevel::Accepted)) => {}
            Some((session, AckLevel::Written)) => {
                open.write_awaited = true;
                open.remember(session);
            }
            Some((session, AckLevel::Durable)) => {
                open.sync_awaited = true;
                open.remember(session);
                self.durable_wanted = self.open_number;
                self.retain = true; // A failed sync must not lose what this session is waiting for.
            }
        }
    }

    /// Puts the open batch back if nothing went into it, so that no block without meaning is written.
    pub(crate) fn discard_empty(&mut self) {
        if let Some(empty) = self.open.take_if(|open| open.runs.is_empty()) {
            self.spares.push(empty.arena);
            self.spare_runs.push(empty.runs);
            self.spare_sessions.push(empty.sessions);
        }
    }

    /// Other bounds from now on. A batch that is open is due when they say so.
    pub(crate) fn change_limits(&mut self, limits: &Limits) {
        self.limits = limits.clone();
        if let Some(open) = &mut self.open {
            open.due |= open.rows >= limits.batch_rows;
        }
    }

    /// Somebody asks for what can be had without waiting for more.
    pub(crate) fn flush(&mut self) {
        if let Some(open) = &mut self.open {
            open.due = true;
        }
    }

    /// The session waits for that batch to be durable, although it added nothing to it.
    pub(crate) fn want_durable(&mut self, number: u64, session: SessionId) {
        if number <= self.durable {
            return;
        }
        self.durable_wanted = self.durable_wanted.max(number);
        if let Some(open) = &mut self.open
            && number == self.open_number
        {
            open.sync_awaited = true;
        }
        self.sync_waiters.push((number, session));
    }

    /// The session is gone and waits for nothing.
    pub(crate) fn forget(&mut self, session: SessionId) {
        self.sync_waiters.retain(|(_, waiting)| *waiting != session);
    }

    /// The highest batch number for which `level` holds.
    pub(crate) fn position(&self, level: AckLevel) -> u64 {
        match level {
            AckLevel::None | AckLevel::Accepted => u64::MAX,
            AckLevel::Written => self.written,
            AckLevel::Durable => self.durable,
        }
    }

    /// Records between admission and the end of their write.
    pub(crate) fn rows_in_flight(&self) -> u64 {
        self.rows_in_flight
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let linger = self.open.as_ref().filter(|open| !open.due).map(|open| open.opened_at + self.limits.linger);
        let retry = match self.chain.next {
            Next::Failed { retry_at, .. } => Some(retry_at),
            _ => None,
        };
        let old = self.chain.old_at(self.limits.segment_age);
        [linger, retry, old, self.breaker.poll_timeout()].into_iter().flatten().min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let linger = self.limits.linger;
        if let Some(open) = &mut self.open
            && now >= open.opened_at + linger
        {
            open.due = true;
        }
        self.chain.handle_timeout(self.limits.segment_age, now);
        self.breaker.handle_timeout(now);
        self.waits &= self.breaker.state() == BreakerState::Open;
    }

    /// No more records will come: everything is to be made durable, and the segments to be closed.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
        self.retain = true;
    }

    /// Everything is durable and every segment is closed.
    pub(crate) fn is_drained(&self) -> bool {
        self.open.is_none() && self.flights.is_empty() && self.syncing.is_none() && self.chain.is_empty()
    }

    /// What to do next, or `None` until something has happened.
    pub(crate) fn poll(&mut self, producers: &mut Producers, now: Instant, tally: &mut Tally) -> Option<Action> {
        let unplaced = self.open.is_some() || self.issued < self.flights.len();
        if !self.waits
            && (!self.draining || unplaced)
            && let Some(id) = self.chain.poll_open()
        {
            return Some(Action::Open(id));
        }
        if self.should_seal() {
            self.seal(producers);
        }
        if !self.broken && !self.waits {
            if let Some(block) = self.next_write(producers, now, tally) {
                return Some(Action::Write(block));
            }
            if let Some(segment) = self.next_sync(now) {
                return Some(Action::Sync(segment));
            }
        }
        // What was let go of and may be lost is waited for in vain.
        let settled = self.doubtful.map_or(self.durable, |(_, upto)| self.durable.max(upto));
        let Closing { segment, len, producers } = self.chain.poll_close(settled)?;
        // Where batches may be lost that were let go of, only the disk knows where producers stand.
        let producers = producers.filter(|_| self.doubtful.is_none());
        Some(Action::CloseSegment { segment, len, producers })
    }

    fn should_seal(&self) -> bool {
        let Some(open) = &self.open else { return false };
        // Where no batch is spare, one that may not take the next chunk has to go, or nothing would come any more.
        if self.draining || (self.spares.is_empty() && !self.takes_chunk(open)) {
            return true;
        }
        if self.broken || self.writes >= self.limits.writes_max || self.issued < self.flights.len() {
            return false;
        }
        // Small groups grow while a sync is under way: a write ahead of it would not be acknowledged any earlier.
        let may_go_ahead = self.syncing.is_none() || open.len >= self.limits.ahead_len_min;
        open.due || (self.writes == 0 && (open.write_awaited || (open.sync_awaited && may_go_ahead)))
    }

    /// Seals the open batch, if there is one. Its description is fixed with this: producers may be forgotten after it.
    pub(crate) fn seal(&mut self, producers: &mut Producers) {
        let Some(open) = self.open.take() else { return };
        let number = self.open_number;
        self.open_number += 1;
        let sync_only = open.sync_awaited && !open.write_awaited;
        let Batch { arena, len, rows, crc, mut runs, sessions, opened_at, trace, .. } = open;
        if let Some(trace) = &trace {
            trace.seal(number, rows, len);
        }
        let block = Block::seal(number, arena, Records { len, rows, crc }, &runs, producers, self.press.as_mut());
        for run in runs.drain(..) {
            if let Some(producer) = run.producer {
                producers.handle_sealed(producer, run.epoch, run.upto);
            }
        }
        self.spare_runs.push(runs);
        self.held_len += len;
        self.flights.push_back(Flight {
            number,
            block: Some(block),
            written: false,
            place: None,
            len,
            issued_at: opened_at,
            opened_at,
            trace,
            rows,
            sync_only,
            sessions,
        });
    }

    fn next_write(&mut self, producers: &Producers, now: Instant, tally: &mut Tally) -> Option<Block> {
        if self.writes >= self.limits.writes_max {
            return None;
        }
        // What is written behind it counts only once it is.
        if let Some(line) = self.next_end(producers) {
            return Some(line);
        }
        if self.issued < self.flights.len() {
            let segment = self.chain.place(self.limits.block_len_max(), now)?;
            let (id, offset) = (segment.id, segment.end);
            let segment_line = if offset == 0 { self.chain.segment_line(id) } else { Vec::new() };
            let flight = &mut self.flights[self.issued];
            let mut block = flight.block.take().expect("a block that was not issued is here");
            block.address(id, offset, &segment_line, self.limits.paged_len_min);
            (flight.place, flight.written, flight.issued_at) = (Some((id, offset)), false, now);
            tally.stages.record(Stage::Queue, now.saturating_duration_since(flight.opened_at));
            if let Some(trace) = &mut flight.trace {
                trace.issue(id, offset);
            }
            let segment = self.chain.get_mut(id).expect("the segment was just placed");
            segment.end += block.len() as u64;
            segment.rows += u64::from(block.rows);
            segment.last_number = block.number;
            if offset == 0 {
                segment.first_number = block.number;
            }
            segment.writes += 1;
            self.issued += 1;
            self.writes += 1;
            return Some(block);
        }
        if self.draining && self.open.is_none() {
            self.chain.retire_all();
        }
        self.chain.retire_old();
        self.next_end(producers)
    }

    /// The last line of a segment that takes no more blocks.
    fn next_end(&mut self, producers: &Producers) -> Option<Block> {
        // Taken before the segment may close. It may be ahead of the segment by what is sealed and not placed.
        let upto = self.open_number - 1;
        if let Some(retired) = self.chain.without_snapshot() {
            retired.snapshot = Some(Snapshot { upto, producers: producers.sealed() });
        }
        let (id, offset, line) = self.chain.poll_end()?;
        self.writes += 1;
        Some(Block::line(id, offset, &line))
    }

    /// A write has come back. Sessions that may now be answered go to `woken`.
    pub(crate) fn handle_written(
        &mut self,
        block: Block,
        outcome: Result<(), Fault>,
        now: Instant,
        tally: &mut Tally,
        woken: &mut Vec<SessionId>,
    ) {
        self.writes -= 1;
        let (segment_id, number, failed) = (block.segment(), block.number, outcome.is_err());
        let segment = self.chain.get_mut(segment_id).expect("a segment lives while it is written");
        segment.writes -= 1;
        segment.failed |= failed;
        let mut issued_at = now;
        if number == 0 {
            segment.ending = Ending::Written;
        } else {
            let front = self.flights.front().expect("a block in the driver's hands has a flight").number;
            let flight = &mut self.flights[(number - front) as usize];
            flight.written = !failed;
            flight.block = Some(block);
            if let Some(trace) = flight.trace.as_mut().filter(|_| self.retain) {
                trace.settle();
            }
            issued_at = flight.issued_at;
            tally.stages.record(Stage::Write, now.saturating_duration_since(issued_at));
        }
        match outcome {
            Ok(()) => {
                // Where nothing but a write is promised, a write is proof.
                let outcome = if self.retain { Outcome::Passed } else { Outcome::Proven };
                self.record(outcome, issued_at, now);
                self.advance_written(now, tally, woken);
            }
            Err(Fault::Full | Fault::Broken) => self.fail(issued_at, now, tally),
        }
        self.mend();
    }

    /// A sync has come back.
    pub(crate) fn handle_synced(
        &mut self,
        segment_id: SegmentId,
        outcome: Result<(), Fault>,
        now: Instant,
        tally: &mut Tally,
        woken: &mut Vec<SessionId>,
    ) {
        let Syncing { segment, issued_at, upto, is_last } =
            self.syncing.take().expect("a sync that completes was under way");
        assert_eq!(segment, segment_id, "one sync is under way at a time");
        tally.stages.record(Stage::Sync, now.saturating_duration_since(issued_at));
        let segment = self.chain.get_mut(segment_id).expect("a segment lives while it is synced");
        match outcome {
            Ok(()) => {
                tally.syncs += 1;
                self.synced_at = Some(now);
                if is_last {
                    segment.ending = Ending::Synced;
                }
                self.chain.handle_synced(segment_id);
                self.durable = self.durable.max(upto);
                let durable = self.durable;
                self.record(Outcome::Proven, issued_at, now);
                woken.extend(self.sync_waiters.extract_if(.., |(number, _)| *number <= durable).map(|(_, id)| id));
                self.release(now, woken);
            }
            Err(Fault::Full | Fault::Broken) => {
                segment.failed = true;
                self.fail(issued_at, now, tally);
            }
        }
        self.mend();
    }

    pub(crate) fn handle_opened(&mut self, id: SegmentId, outcome: Result<(), Fault>, now: Instant, tally: &mut Tally) {
        let retry_at = now + self.limits.storage_retry;
        let outcome = outcome.map_err(|fault| {
            tally.storage_failures += 1;
            Next::Failed { code: fault.code(), retry_at }
        });
        self.chain.handle_opened(id, outcome);
    }

    fn next_sync(&mut self, now: Instant) -> Option<SegmentId> {
        if self.syncing.is_some() {
            return None;
        }
        let safe_prefix = self.written_here();
        let segment = self.chain.live.iter_mut().find(|segment| segment.ending != Ending::Synced)?;
        let upto = safe_prefix.min(segment.last_number);
        let ended = segment.ending == Ending::Written && segment.writes == 0 && upto == segment.last_number;
        // Blocks that nobody waits for are kept until they are synced too, so memory may have to be won back.
        let is_full = self.spares.len() < self.limits.batches / 2 || self.held_len >= self.held_max / 2;
        let is_short = self.retain && is_full;
        let covers = upto > self.durable && upto >= segment.first_number;
        let is_probe = self.retain && self.breaker.state() == BreakerState::HalfOpen;
        let wanted = covers && (self.durable_wanted > self.durable || self.draining || is_short || is_probe);
        // A retired segment is synced once, when its last line is written.
        let due = if segment.ending == Ending::Open { wanted } else { ended };
        if !due {
            return None;
        }
        let id = segment.id;
        self.syncing = Some(Syncing { segment: id, issued_at: now, upto, is_last: ended });
        Some(id)
    }

    /// The highest batch number up to which every block lies in a segment that is still in service. Behind `written`
    /// while blocks of a failed segment are on their way to a new one.
    fn written_here(&self) -> u64 {
        match self.flights.iter().find(|flight| !flight.written) {
            Some(missing) => missing.number - 1,
            None => self.open_number - 1,
        }
    }

    fn advance_written(&mut self, now: Instant, tally: &mut Tally, woken: &mut Vec<SessionId>) {
        let Some(front) = self.flights.front().map(|flight| flight.number) else {
            return;
        };
        // Behind a segment without its end, a few blocks look like some that have overtaken what is missing there.
        let last = self.chain.live.iter().find(|segment| segment.ending < Ending::Written).map(|segment| segment.id);
        let counts = |flight: &&Flight| match (flight.place, last) {
            (Some((segment, _)), Some(last)) => segment <= last,
            (Some(_), None) | (None, _) => true,
        };
        loop {
            // Everything up to `written` was written already, whether or not it is still held.
            let at = (self.written + 1).saturating_sub(front) as usize;
            let Some(flight) = self.flights.get(at).filter(|flight| flight.written).filter(counts) else {
                break;
            };
            self.written = flight.number;
            if flight.number > self.booked {
                self.booked = flight.number;
                self.rows_in_flight -= u64::from(flight.rows);
                tally.stored += u64::from(flight.rows);
                tally.blocks += 1;
                tally.stored_bytes += flight.block.as_ref().map_or(0, |block| block.records_len as u64);
            }
            if !flight.sync_only {
                woken.extend_from_slice(&flight.sessions);
            }
        }
        self.release(now, woken);
    }

    /// Lets go of what is safe.
    fn release(&mut self, now: Instant, woken: &mut Vec<SessionId>) {
        let held_len = self.held_len;
        let mut oldest = None;
        let safe = if self.retain { self.durable } else { self.written };
        while self.flights.front().is_some_and(|flight| flight.number <= safe && flight.written) {
            let mut flight = self.flights.pop_front().expect("just seen");
            self.issued -= 1;
            woken.append(&mut flight.sessions);
            self.spare_sessions.push(flight.sessions);
            let block = flight.block.expect("a written block is here");
            self.held_len -= flight.len;
            self.released += flight.len as u64;
            oldest.get_or_insert(flight.opened_at);
            self.spares.push(block.arena);
        }
        if let Some(oldest) = oldest {
            self.pace(now.saturating_duration_since(oldest), held_len, now);
        }
    }

    /// Batches took so long, with so many bytes in front of the disk. Holding more than the disk takes in a while makes
    /// nothing faster, and everybody behind it waits.
    fn pace(&mut self, age: Duration, held_len: usize, now: Instant) {
        if now >= self.period_began + PERIOD {
            (self.period_began, self.least_age) = (now, [Duration::MAX, self.least_age[0]]);
        }
        self.least_age[0] = self.least_age[0].min(age);
        // What the disk takes for little is no queue.
        let goal = self.limits.hold_time + self.least_age[0].min(self.least_age[1]) * 2;
        let most = self.limits.batches * self.limits.batch_len_max;
        if age > goal {
            let fits = held_len as u128 * goal.as_nanos() / age.as_nanos();
            self.held_max = usize::try_from(fits).unwrap_or(most).clamp(self.limits.batch_len_max, self.held_max);
        } else if held_len >= self.held_max / 2 {
            self.held_max = (self.held_max + self.held_max / 4).min(most);
        }
    }

    /// Bytes that became safe since this was last asked.
    pub(crate) fn take_released(&mut self) -> u64 {
        std::mem::take(&mut self.released)
    }

    fn fail(&mut self, issued_at: Instant, now: Instant, tally: &mut Tally) {
        tally.storage_failures += 1;
        self.record(Outcome::Failed, issued_at, now);
        self.broken = true;
        // The next segment is kept for the next try: an empty one that was left between two others and came back with
        // a power cut would look like lost blocks, and recovery believes nothing behind those.
        self.waits = self.breaker.state() == BreakerState::Open;
    }

    /// Counts a call. What comes back behind a failure, until all of it is back, belongs to that failure.
    fn record(&mut self, outcome: Outcome, issued_at: Instant, now: Instant) {
        if !self.broken {
            self.breaker.record(outcome, now.saturating_duration_since(issued_at), now);
        }
    }

    /// How storage does.
    pub(crate) fn health(&self) -> StorageHealth {
        let refuses = match self.gate() {
            Gate::Refuse(code) => Some(code),
            Gate::Open | Gate::Wait => None,
        };
        let oldest = self.flights.front().map(|flight| flight.opened_at);
        let unsafe_since = oldest.or_else(|| self.open.as_ref().map(|open| open.opened_at));
        StorageHealth { synced_at: self.synced_at, unsafe_since, refuses }
    }

    /// What the breaker says, and how often it has opened.
    pub(crate) fn breaker(&self) -> (BreakerState, u64) {
        (self.breaker.state(), self.breaker.opened())
    }

    /// How long a refusal by the [`gate`](Self::gate) will last at least.
    pub(crate) fn retry_after(&self, now: Instant) -> Duration {
        let retry_at = match self.chain.next {
            Next::Failed { retry_at, .. } => Some(retry_at),
            Next::Absent | Next::Opening(_) | Next::Ready(_) => None,
        };
        let at = self.breaker.poll_timeout().max(retry_at);
        at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    /// Once nothing is under way on a failed segment, sends what is not safe to a new one.
    fn mend(&mut self) {
        if !self.broken || self.writes > 0 || self.syncing.is_some() {
            return;
        }
        self.broken = false;
        let flights = &self.flights;
        // Segments behind a failed one take no more blocks either, although they are sound: nothing in them says that
        // what is missing in the failed one is known to be missing, and recovery does not believe what follows a hole.
        let mut is_behind = false;
        self.chain.abandon(|segment| {
            let first = flights
                .iter()
                .filter_map(|flight| flight.place)
                .find(|(id, _)| *id == segment.id)
                .map(|(_, offset)| offset);
            is_behind |= segment.failed;
            first.or(is_behind.then_some(segment.end))
        });
        for flight in &mut self.flights {
            (flight.place, flight.written) = (None, false);
        }
        self.issued = 0;
        let kept_from = self.flights.front().map_or(self.open_number, |first| first.number);
        self.written = self.written.min(kept_from - 1);
        if self.durable < kept_from - 1 {
            let from = self.doubtful.map_or(self.durable, |(from, _)| from);
            self.doubtful = Some((from, kept_from - 1));
        }
    }

    /// Whether that batch of a producer is settled: as safe as this shard makes it, and as `level` promises; or out of
    /// its hands.
    pub(crate) fn is_settled(&self, number: u64, level: AckLevel) -> bool {
        let needs_sync = self.retain || level == AckLevel::Durable;
        let safe = if needs_sync { self.durable } else { self.written };
        number <= safe || self.are_doubtful(number, number)
    }

    /// Whether one of these batches may be lost, although it was acknowledged at a weaker level than durable.
    pub(crate) fn are_doubtful(&self, first: u64, last: u64) -> bool {
        self.doubtful.is_some_and(|(from, upto)| from < last && first <= upto)
    }
}

/// How long the least that a batch took is remembered, and once more.
const PERIOD: Duration = Duration::from_secs(10);
