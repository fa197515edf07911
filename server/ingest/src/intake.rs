//! What every line passes through: its verdict, its number, its place in a batch, its entry in the books.

use crate::batch::{Batch, MANY_LEN, Run};
use crate::breaker::Calls;
use crate::limits::Limits;
use crate::parse::{Line, Parser, Records, Reject};
use crate::producer::{ProducerId, Producers};
use crate::session::{Mode, Replies, Session, Settled};
use crate::slab::SessionId;
use crate::tally::Tally;
use crate::writer::{Gate, Writer};
use ringest_wire::answer::Answer;
use ringest_wire::{AckLevel, Code, Severity, reply};
use std::time::{Duration, Instant};

pub(crate) struct Intake {
    pub(crate) limits: Limits,
    pub(crate) min_level: Severity,
    pub(crate) parser: Parser,
    pub(crate) producers: Producers,
    pub(crate) writer: Writer,
    pub(crate) tally: Tally,
    /// Why lines of this chunk cannot be taken, where they cannot.
    pub(crate) refusal: Option<Refusal>,
}

/// Why lines are not taken, and when to come back with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) after_ms: u32,
}

impl Refusal {
    pub(crate) fn new(code: Code, after: Duration) -> Refusal {
        let after_ms = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
        Refusal { code, after_ms: after_ms.max(reply::RETRY_AFTER_MS) }
    }
}

/// Where lines come from: many, as they lie in a chunk, or one that was pieced together.
#[derive(Debug)]
pub(crate) enum Source<'a> {
    /// Whole lines, each with its newline, already loaded into the parser.
    Body(&'a [u8]),
    /// One line without its ending; `None` once it was taken.
    Single(&'a [u8], Option<Result<Severity, Reject>>),
}

impl<'a> Source<'a> {
    /// A body, indexed from its start.
    pub(crate) fn body(parser: &mut Parser, body: &'a [u8]) -> Source<'a> {
        parser.load(body);
        Source::Body(body)
    }

    /// One line, judged.
    pub(crate) fn single(parser: &mut Parser, line: &'a [u8]) -> Source<'a> {
        Source::Single(line, Some(parser.check(line)))
    }

    /// A line of which nothing but a refusal is left.
    pub(crate) fn refused(code: Code, at: u32) -> Source<'a> {
        Source::Single(&[], Some(Err(Reject { code, at })))
    }

    /// What the places in a [`Line`] refer to.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        match *self {
            Source::Body(body) => body,
            Source::Single(line, _) => line,
        }
    }

    /// Some of the records before the next line that has to be looked at by itself; `None` where that is the next.
    fn records(&mut self, parser: &mut Parser, min: Severity) -> Option<Records> {
        match self {
            Source::Body(body) => Some(parser.pass_records(body, min)).filter(|records| records.rows > 0),
            Source::Single(..) => None,
        }
    }

    fn next(&mut self, parser: &mut Parser) -> Option<Line> {
        match self {
            Source::Body(body) => parser.next_line(body),
            Source::Single(line, verdict) => {
                let verdict = verdict.take()?;
                Some(Line { start: 0, end: line.len(), next: line.len(), verdict })
            }
        }
    }
}

/// Why no more lines of a stream are taken for now.
#[derive(Debug)]
pub(crate) enum Pause {
    /// There are no more.
    End,
    /// This one is a control line.
    Control(Line),
    /// As much is owed as may be; so many bytes are done.
    Full(usize),
}

/// Records on their way from a chunk into the batch. Neighbours are copied together: one copy for many records.
struct Gather<'b, 'c> {
    batch: &'b mut Batch,
    bytes: &'c [u8],
    start: usize,
    end: usize,
    pending: u32,
    rows: u32,
}

impl<'b, 'c> Gather<'b, 'c> {
    fn new(batch: &'b mut Batch, bytes: &'c [u8]) -> Gather<'b, 'c> {
        Gather { batch, bytes, start: 0, end: 0, pending: 0, rows: 0 }
    }

    #[inline]
    fn keep(&mut self, line: &Line) {
        let is_raw = line.next == line.end + 1; // Ends with `\n` alone, so it is stored as it lies.
        if is_raw && line.start == self.end && self.pending > 0 {
            (self.end, self.pending) = (line.next, self.pending + 1);
            return;
        }
        self.flush();
        if is_raw {
            (self.start, self.end, self.pending) = (line.start, line.next, 1);
        } else {
            self.batch.push_line(&self.bytes[line.start..line.end]);
            self.rows += 1;
        }
    }

    /// Records that lie one behind the other. Many are copied without waiting for more, while they are in the nearest cache.
    fn keep_all(&mut self, records: &Records) {
        if records.start != self.end || self.pending == 0 {
            self.flush();
            self.start = records.start;
        }
        self.end = records.end;
        self.pending += records.rows;
        if self.end - self.start >= MANY_LEN {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.pending > 0 {
            self.batch.push(&self.bytes[self.start..self.end], self.pending);
            self.rows += self.pending;
            self.pending = 0;
        }
    }

    fn finish(mut self) -> u32 {
        self.flush();
        self.rows
    }
}

impl Intake {
    /// Takes lines of a plain session: each is owed one reply. Where it stops because as many are owed as may be, it says
    /// how many bytes are done.
    pub(crate) fn take_plain(
        &mut self,
        id: SessionId,
        session: &mut Session,
        source: Source<'_>,
        now: Instant,
    ) -> Option<usize> {
        let level = session.level;
        let replies = match &mut session.mode {
            Mode::Plain(replies) => Some(replies),
            _ => None,
        };
        self.take_unnumbered(source, replies, Some((id, level)), now)
    }

    /// Takes lines of a datagram: nobody is owed anything.
    pub(crate) fn take_datagram(&mut self, source: Source<'_>, now: Instant) {
        self.take_unnumbered(source, None, None, now);
    }

    fn take_unnumbered(
        &mut self,
        mut source: Source<'_>,
        mut replies: Option<&mut Replies>,
        waiter: Option<(SessionId, AckLevel)>,
        now: Instant,
    ) -> Option<usize> {
        let refusal = self.refusal;
        let level = waiter.map_or(AckLevel::None, |(_, level)| level);
        let Intake { parser, writer, tally, min_level, limits, .. } = self;
        let mut place = match refusal {
            None => {
                let (batch, number) = writer.admit(now);
                Some((Gather::new(batch, source.bytes()), number))
            }
            Some(_) => None,
        };
        // The batch that the replies wait for: none, until a line goes into it.
        let mut batch = 0;
        let (mut received, mut filtered, mut fine) = (0, 0, 0);
        let mut refuse = |fine: &mut u64, batch: u64, code: Code, at: u32| {
            tally.rejected[code as usize] += 1;
            if let Some(replies) = &mut replies {
                if level != AckLevel::None {
                    replies.owe_ok(batch, *fine);
                }
                replies.owe_error(code, at);
            }
            *fine = 0;
            replies.as_ref().is_some_and(|replies| replies.runs() >= limits.owed_runs_max)
        };
        let stopped_at = loop {
            while let Some((gather, number)) = &mut place
                && let Some(records) = source.records(parser, *min_level)
            {
                gather.keep_all(&records);
                tally.unknown_level += u64::from(records.unknown);
                received += u64::from(records.rows);
                fine += u64::from(records.rows);
                batch = *number;
                if !records.goes_on {
                    break;
                }
            }
            let Some(line) = source.next(parser) else { break None };
            received += 1;
            let is_full = match (line.verdict, &mut place) {
                (Ok(severity), Some((gather, number))) if severity >= *min_level => {
                    tally.unknown_level += u64::from(severity == Severity::Unknown);
                    gather.keep(&line);
                    batch = *number;
                    fine += 1;
                    false
                }
                (Ok(severity), None) if severity >= *min_level => {
                    let Refusal { code, after_ms } = refusal.expect("without a place there is a refusal");
                    refuse(&mut fine, batch, code, after_ms)
                }
                (Ok(_), _) => {
                    filtered += 1;
                    fine += 1;
                    false
                }
                (Err(Reject { code, at }), _) => refuse(&mut fine, batch, code, at),
            };
            if is_full {
                break Some(line.next);
            }
        };
        if let Some(replies) = replies
            && level != AckLevel::None
        {
            replies.owe_ok(batch, fine);
        }
        tally.received += received;
        tally.filtered += filtered;
        if let Some((gather, _)) = place {
            let rows = gather.finish();
            self.admitted(waiter, Run { producer: None, epoch: 0, first: 0, upto: 0, rows });
        }
        stopped_at
    }

    /// Takes lines of a session until the next control line, or until as many rejections are owed as may be.
    pub(crate) fn take_stream(
        &mut self,
        id: SessionId,
        session: &mut Session,
        source: &mut Source<'_>,
        now: Instant,
    ) -> Pause {
        let refusal = self.refusal;
        let level = session.level;
        let Mode::Stream(stream) = &mut session.mode else {
            return Pause::End;
        };
        let Intake { parser, producers, writer, tally, min_level, limits, .. } = self;
        let mut place = match (stream.nacked, refusal) {
            (None, None) => Some(writer.admit(now)),
            (Some(_), _) | (_, Some(_)) => None,
        };
        let number = place.as_ref().map_or(0, |(_, number)| *number);
        let mut gather = place.as_mut().map(|(batch, _)| Gather::new(batch, source.bytes()));

        let (first, last_seq) = (stream.next_seq, producers[stream.producer].last_seq);
        let mut settled = Settled::default();
        let mut received = 0;
        let control = loop {
            while let Some(gather) = &mut gather
                && stream.next_seq > last_seq
                && let Some(records) = source.records(parser, *min_level)
            {
                gather.keep_all(&records);
                tally.unknown_level += u64::from(records.unknown);
                received += u64::from(records.rows);
                stream.next_seq += u64::from(records.rows);
                settled.stored += u64::from(records.rows);
                if !records.goes_on {
                    break;
                }
            }
            let Some(line) = source.next(parser) else { break Pause::End };
            if let Err(Reject { code: Code::ReservedKey, .. }) = line.verdict {
                break Pause::Control(line);
            }
            received += 1;
            let Some(gather) = &mut gather else {
                if let (Some(Refusal { code, after_ms }), None) = (refusal, stream.nacked) {
                    stream.nacked = Some(code);
                    Answer::nack(stream.next_seq, code, after_ms).put(&mut session.outbox);
                }
                tally.rejected[stream.nacked.expect("without a place there is a refusal") as usize] += 1;
                stream.totals.rejected += 1;
                continue;
            };
            let seq = stream.next_seq;
            stream.next_seq += 1;
            if seq <= last_seq {
                settled.dup += 1;
                continue;
            }
            match line.verdict {
                Ok(severity) if severity >= *min_level => {
                    tally.unknown_level += u64::from(severity == Severity::Unknown);
                    gather.keep(&line);
                    settled.stored += 1;
                }
                Ok(_) => settled.filtered += 1,
                Err(Reject { code, at }) => {
                    tally.rejected[code as usize] += 1;
                    stream.totals.rejected += 1;
                    stream.owe_rejection(seq, code, at);
                    if stream.rejections() >= limits.owed_runs_max {
                        break Pause::Full(line.next);
                    }
                }
            }
        };
        let rows = gather.map_or(0, Gather::finish);
        tally.received += received;
        tally.filtered += settled.filtered;
        tally.duplicate += settled.dup;
        stream.totals.received += received;
        stream.totals.stored += settled.stored;
        stream.totals.filtered += settled.filtered;
        stream.totals.dup += settled.dup;

        let upto = stream.next_seq - 1;
        if upto < first {
            self.writer.discard_empty();
            return control;
        }
        let (producer, epoch) = (stream.producer, stream.epoch);
        let first_new = first.max(last_seq + 1);
        let entry = &mut producers[producer];
        if upto >= first_new {
            entry.is_doubtful |= self.writer.are_doubtful(entry.first_batch, entry.last_batch);
            if entry.last_batch <= self.writer.position(AckLevel::Durable) {
                entry.first_batch = number;
            }
            (entry.last_seq, entry.last_batch) = (upto, number);
        }
        // Duplicates alone wait for what they repeat.
        let is_first_to_wait = stream.owe(Settled { batch: entry.last_batch, upto, ..settled });
        if upto >= first_new {
            self.admitted(Some((id, level)), Run { producer: Some(producer), epoch, first: first_new, upto, rows });
        } else {
            self.writer.discard_empty();
            // Said once: a client may go back and repeat itself for as long as a sync takes.
            if level == AckLevel::Durable && is_first_to_wait {
                let repeated = self.producers[producer].last_batch;
                self.writer.want_durable(repeated, id);
            }
        }
        control
    }

    /// The run has been put into the open batch.
    fn admitted(&mut self, waiter: Option<(SessionId, AckLevel)>, run: Run) {
        if run.rows > 0 || run.producer.is_some() {
            self.writer.handle_admitted(run, waiter);
        } else {
            self.writer.discard_empty();
        }
    }

    /// A chunk arrives, that with what is unfinished has `len` bytes. Whether it is taken is decided once, for all of
    /// it: what it completes, holds and leaves behind goes into one batch, which has room for that.
    pub(crate) fn begin_chunk(&mut self, len: usize, now: Instant) {
        self.refusal = match self.writer.gate() {
            Gate::Refuse(code) => Some(Refusal::new(code, self.writer.retry_after(now))),
            // A driver asks first; one that does not loses nothing, it is told to come back.
            Gate::Wait => Some(Refusal::new(Code::Overloaded, Duration::ZERO)),
            Gate::Open => {
                self.writer.make_room(len, &mut self.producers);
                None
            }
        };
    }

    /// Whether the lines of a session are refused because so many of those before them were bad.
    pub(crate) fn refuse_garbage(&mut self, session: &mut Session, now: Instant) -> Option<Refusal> {
        let breaker = session.line_breaker.as_mut()?;
        breaker.handle_timeout(now);
        let until = breaker.poll_timeout()?;
        let refusal = Refusal::new(Code::CircuitOpen, until.saturating_duration_since(now));
        self.refusal = Some(refusal);
        Some(refusal)
    }

    /// Refuses lines of a plain session without looking at them.
    pub(crate) fn refuse_unread(&mut self, session: &mut Session, lines: u64, refusal: Refusal) {
        self.tally.received += lines;
        self.tally.rejected[refusal.code as usize] += lines;
        if let Mode::Plain(replies) = &mut session.mode {
            replies.owe_errors(refusal.code, refusal.after_ms, lines);
        }
    }

    /// Lines of a session that has a breaker were looked at: those since `before`.
    pub(crate) fn count_garbage(&mut self, session: &mut Session, before: (u64, u64), now: Instant) {
        let Some(breaker) = &mut session.line_breaker else { return };
        let few = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let (received, bad) = (self.tally.received - before.0, self.tally.bad_lines() - before.1);
        let opened = breaker.opened();
        breaker.count(Calls { all: few(received), failed: few(bad), slow: 0 }, now);
        self.tally.line_breakers_opened += breaker.opened() - opened;
    }

    /// Whether lines of a producer may be lost that were acknowledged at a weaker level than durable.
    pub(crate) fn is_doubtful(&self, producer: ProducerId) -> bool {
        let entry = &self.producers[producer];
        entry.is_doubtful || self.writer.are_doubtful(entry.first_batch, entry.last_batch)
    }

    /// Whether what a producer sent is as safe as it will be, and as `level` promises.
    pub(crate) fn is_settled(&self, producer: ProducerId, level: AckLevel) -> bool {
        self.writer.is_settled(self.producers[producer].last_batch, level)
    }
}
