//! One connection: what is unfinished, what it is owed, and how it ends.

use crate::breaker::Breaker;
use crate::deadline::{Clock, Late};
use crate::intake::Refusal;
use crate::producer::ProducerId;
use crate::quota::Usage;
use crate::transport::Transport;
use ringest_wire::answer::{Ack, Answer, Rejection, Totals};
use ringest_wire::frame::Framer;
use ringest_wire::{AckLevel, Code, control, reply};
use std::collections::VecDeque;
use std::time::Instant;

#[derive(Debug)]
pub(crate) struct Session {
    /// When it came, among all connections.
    pub(crate) came: Arrival,
    /// How its bytes are encoded; `None` where they are plain.
    pub(crate) transport: Option<Box<Transport>>,
    pub(crate) framer: Framer,
    pub(crate) mode: Mode,
    pub(crate) level: AckLevel,
    /// Answers that wait for no batch.
    pub(crate) outbox: Vec<u8>,
    /// Why it ends, until that is said.
    pub(crate) farewell: Option<Box<(Code, String)>>,
    /// Bytes that were received and may not be looked at yet.
    pub(crate) stash: Vec<u8>,
    /// What it has done, and when.
    pub(crate) clock: Clock,
    /// What it sent of late.
    pub(crate) usage: Usage,
    /// It waits for room since then.
    pub(crate) waits_since: Option<Instant>,
    /// It has waited too long, and what comes next of it is refused.
    pub(crate) shed: Option<Shed>,
    /// Whether its lines are worth looking at, where that is asked.
    pub(crate) line_breaker: Option<Box<Breaker>>,
    /// One send is under way at a time, since then.
    pub(crate) sending_since: Option<Instant>,
    /// It is in the queue of those that may have something to send.
    pub(crate) is_ready: bool,
    /// The driver holds bytes of it and waits for a `Resume`.
    pub(crate) is_stalled: bool,
    /// It is in the queue of those that wait for room.
    pub(crate) is_queued: bool,
    /// How far it is on its way to TLS.
    pub(crate) handshake: Handshake,
    /// Its further bytes are ignored; it is closed once everything owed is sent.
    pub(crate) is_closing: bool,
}

/// When a connection came. Those that one shard accepts at one moment are told apart by their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Arrival {
    pub(crate) at: Instant,
    /// How many the shard had accepted before.
    pub(crate) after: u64,
}

/// A TLS handshake, as far as others have to wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// Over, or never wanted.
    None,
    /// Until fewer are under way.
    Waiting,
    /// One of those under way.
    Running,
}

#[derive(Debug)]
pub(crate) enum Mode {
    /// Its first line will decide.
    Fresh,
    /// It belongs to another shard and is on its way there.
    Moving,
    /// One reply per line.
    Plain(Replies),
    /// Plain, but its client takes no replies and gets no more.
    Muted,
    /// It said hello, and waits until what was sent before is settled.
    Joining(Box<Stream>),
    /// It is welcome.
    Stream(Box<Stream>),
}

/// The end of waiting in vain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shed {
    pub(crate) refusal: Refusal,
    /// When that was used. What the driver holds of it is dropped at that time, too.
    pub(crate) used_at: Option<Instant>,
}

/// What one step of answering may use.
pub(crate) struct Budget {
    /// The highest batch for which the session's ack level holds.
    pub(crate) position: u64,
    /// Bytes of one send.
    pub(crate) len_max: usize,
}

impl Session {
    pub(crate) fn new(came: Arrival, line_len_max: usize, level: AckLevel, now: Instant) -> Session {
        Session {
            came,
            transport: None,
            framer: Framer::new(line_len_max),
            mode: Mode::Fresh,
            level,
            outbox: Vec::new(),
            farewell: None,
            stash: Vec::new(),
            clock: Clock::new(now),
            usage: Usage::default(),
            waits_since: None,
            shed: None,
            line_breaker: None,
            sending_since: None,
            is_ready: false,
            is_stalled: false,
            is_queued: false,
            handshake: Handshake::None,
            is_closing: false,
        }
    }

    /// Its producer, where it speaks for one.
    pub(crate) fn producer(&self) -> Option<ProducerId> {
        match &self.mode {
            Mode::Joining(stream) | Mode::Stream(stream) => Some(stream.producer),
            Mode::Fresh | Mode::Moving | Mode::Plain(_) | Mode::Muted => None,
        }
    }

    /// Whether bytes of it wait for something else than the rest of its first line.
    pub(crate) fn is_backed_up(&self) -> bool {
        !self.stash.is_empty() && !matches!(self.mode, Mode::Fresh)
    }

    /// Whether whole lines of it wait to be looked at.
    pub(crate) fn has_lines_stashed(&self) -> bool {
        !self.stash.is_empty() && matches!(self.mode, Mode::Plain(_) | Mode::Muted | Mode::Stream(_))
    }

    /// Whether bytes of it wait to be decoded. Of one that ends, none ever will be.
    pub(crate) fn is_behind(&self) -> bool {
        !self.is_closing && self.transport.as_ref().is_some_and(|transport| transport.is_behind())
    }

    /// Whether it owes so many answers that reading on would not be bounded.
    pub(crate) fn owes_too_much(&self, lines_max: u64, runs_max: usize) -> bool {
        match &self.mode {
            Mode::Plain(replies) => replies.lines >= lines_max || replies.runs.len() >= runs_max,
            Mode::Stream(stream) => {
                stream.lines_owed >= lines_max
                    || stream.owed.len() >= runs_max
                    || stream.rejections.len() >= runs_max
                    || self.outbox.len() >= OUTBOX_LEN_MAX
            }
            Mode::Joining(_) => true,
            Mode::Fresh | Mode::Moving | Mode::Muted => false,
        }
    }

    /// Writes what may be said now. Nothing, where nothing may.
    pub(crate) fn answer(&mut self, out: &mut Vec<u8>, budget: &Budget) {
        out.append(&mut self.outbox); // The welcome is in here, and comes before every ack.
        if self.outbox.capacity() > OUTBOX_LEN_MAX {
            self.outbox = Vec::new(); // Who asked for much once may be silent from now on.
        }
        match &mut self.mode {
            Mode::Plain(replies) => replies.answer(out, budget),
            Mode::Stream(stream) => stream.answer(out, self.level, budget),
            Mode::Fresh | Mode::Moving | Mode::Muted | Mode::Joining(_) => {}
        }
        if out.len() >= budget.len_max {
            return;
        }
        let (acked, owes, leaving) = match &self.mode {
            Mode::Stream(stream) => (stream.acked, !stream.owed.is_empty(), stream.is_leaving.then_some(stream.totals)),
            Mode::Fresh | Mode::Moving | Mode::Plain(_) | Mode::Muted | Mode::Joining(_) => (0, false, None),
        };
        if owes {
            return;
        }
        if let Some(farewell) = self.farewell.take() {
            Answer::goaway(acked, farewell.0, farewell.1).put(out);
        } else if let Some(totals) = leaving {
            Answer::Bye(totals).put(out);
        } else {
            return;
        }
        self.is_closing = true;
        if let Mode::Stream(stream) = &mut self.mode {
            stream.is_leaving = false; // The last word is said once.
        }
    }

    /// Whether everything that it was owed has been handed to the driver.
    pub(crate) fn is_settled(&self) -> bool {
        let owes = match &self.mode {
            Mode::Plain(replies) => !replies.runs.is_empty(),
            Mode::Stream(stream) => !stream.owed.is_empty(),
            Mode::Joining(_) | Mode::Fresh | Mode::Moving | Mode::Muted => false,
        };
        !owes && self.outbox.is_empty() && self.farewell.is_none()
    }

    /// Says nothing more, because nothing is taken.
    pub(crate) fn mute(&mut self) {
        self.mode = Mode::Muted;
        self.outbox = Vec::new();
        self.farewell = None;
    }

    /// Ends it because it is late. Told as far as that is possible.
    pub(crate) fn end_late(&mut self, late: Late, may_tell_plainly: bool) {
        match &mut self.mode {
            Mode::Plain(replies) => {
                replies.owe_error(late.code(), 0);
                self.is_closing = true;
            }
            Mode::Fresh if !self.stash.starts_with(control::PREFIX) => {
                self.stash = Vec::new();
                if may_tell_plainly {
                    reply::put_error(&mut self.outbox, late.code(), 0);
                }
                self.is_closing = true;
            }
            Mode::Fresh | Mode::Moving | Mode::Joining(_) | Mode::Stream(_) | Mode::Muted => {
                self.go_away(late.code(), late.reason());
            }
        }
    }

    /// Ends it. A session is told why, behind the last ack it is owed; a plain client gets the replies it is owed.
    pub(crate) fn go_away(&mut self, code: Code, reason: &str) {
        if self.is_closing {
            return;
        }
        self.is_closing = true;
        let stash = std::mem::take(&mut self.stash);
        let is_session = match self.mode {
            Mode::Plain(_) | Mode::Muted => false,
            // Who has not begun to say hello may be a plain client, and would take it for a reply.
            Mode::Fresh => stash.starts_with(control::PREFIX),
            Mode::Moving | Mode::Joining(_) | Mode::Stream(_) => true,
        };
        if is_session {
            self.farewell = Some(Box::new((code, reason.to_owned())));
        }
    }
}

/// The replies of plain mode, in the order of the lines.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    runs: VecDeque<ReplyRun>,
    lines: u64,
}

#[derive(Clone, Copy, Debug)]
struct ReplyRun {
    /// The batch that has to be safe before the first of them may be sent.
    batch: u64,
    count: u64,
    /// `None` is the reply that all is well.
    error: Option<(Code, u32)>,
}

impl Replies {
    /// `count` lines were stored in `batch`, or filtered.
    pub(crate) fn owe_ok(&mut self, batch: u64, count: u64) {
        self.owe(ReplyRun { batch, count, error: None });
    }

    /// `count` lines were refused unread.
    pub(crate) fn owe_errors(&mut self, code: Code, at: u32, count: u64) {
        self.owe(ReplyRun { batch: 0, count, error: Some((code, at)) });
    }

    /// One line was refused. Its reply waits for those before it, not for any batch.
    pub(crate) fn owe_error(&mut self, code: Code, at: u32) {
        self.owe_errors(code, at, 1);
    }

    fn owe(&mut self, run: ReplyRun) {
        if run.count == 0 {
            return;
        }
        self.lines += run.count;
        match self.runs.back_mut() {
            // Replies leave in order, so a later run may join one that waits for the same batch or a later one.
            Some(last) if last.error == run.error && last.batch >= run.batch => last.count += run.count,
            _ => {
                if self.runs.capacity() == 0 {
                    self.runs.reserve_exact(1); // One at a time never owes two, and may be idle from now on.
                }
                self.runs.push_back(run);
            }
        }
    }

    /// Distinct runs that are owed.
    pub(crate) fn runs(&self) -> usize {
        self.runs.len()
    }

    fn answer(&mut self, out: &mut Vec<u8>, budget: &Budget) {
        while let Some(run) = self.runs.front_mut().filter(|run| run.batch <= budget.position) {
            let room = budget.len_max.saturating_sub(out.len());
            let fit = match run.error {
                None => put_oks(out, run.count.min((room / reply::OK.len()) as u64)),
                Some((code, at)) => {
                    let fit = run.count.min((room / ERROR_LEN_MAX) as u64);
                    (0..fit).for_each(|_| reply::put_error(out, code, at));
                    fit
                }
            };
            run.count -= fit;
            self.lines -= fit;
            if run.count > 0 {
                return;
            }
            self.runs.pop_front();
        }
    }
}

/// Many times the same reply, by doubling what is there: a few large copies in place of many small ones.
fn put_oks(out: &mut Vec<u8>, count: u64) -> u64 {
    let (start, len) = (out.len(), count as usize * reply::OK.len());
    if count > 0 {
        out.extend_from_slice(reply::OK);
    }
    while out.len() - start < len {
        let done = out.len() - start;
        out.extend_from_within(start..start + done.min(len - done));
    }
    count
}

/// A producer's stream on this connection.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) producer: ProducerId,
    pub(crate) epoch: u64,
    /// What the client asked to go on from.
    pub(crate) resume_from: Option<u64>,
    /// The number of the next line.
    pub(crate) next_seq: u64,
    /// Lines are dropped until the client resumes, for this reason.
    pub(crate) nacked: Option<Code>,
    /// The client said bye: it is closed once everything is settled.
    pub(crate) is_leaving: bool,
    pub(crate) totals: Totals,
    owed: VecDeque<Settled>,
    rejections: VecDeque<(u64, Code, u32)>,
    lines_owed: u64,
    acked: u64,
}

/// What one chunk did to a stream, told once `batch` is safe.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settled {
    pub(crate) batch: u64,
    pub(crate) upto: u64,
    pub(crate) stored: u64,
    pub(crate) filtered: u64,
    pub(crate) dup: u64,
}

impl Stream {
    pub(crate) fn new(producer: ProducerId, epoch: u64, resume_from: Option<u64>) -> Stream {
        Stream {
            producer,
            epoch,
            resume_from,
            next_seq: 1,
            nacked: None,
            is_leaving: false,
            totals: Totals::default(),
            owed: VecDeque::new(),
            rejections: VecDeque::new(),
            lines_owed: 0,
            acked: 0,
        }
    }

    /// Numbering starts: the next line is `next_seq`.
    pub(crate) fn start(&mut self, next_seq: u64) {
        self.next_seq = next_seq;
        self.acked = next_seq - 1;
    }

    /// The client goes back to `from`, or stays where it was.
    pub(crate) fn start_again(&mut self, from: u64) {
        self.next_seq = from;
    }

    /// Rejections that are not told yet.
    pub(crate) fn rejections(&self) -> usize {
        self.rejections.len()
    }

    pub(crate) fn owe_rejection(&mut self, seq: u64, code: Code, at: u32) {
        self.rejections.push_back((seq, code, at));
    }

    /// Whether an answer now waits for that batch that did not before.
    pub(crate) fn owe(&mut self, settled: Settled) -> bool {
        self.lines_owed += settled.upto.saturating_sub(self.owed.back().map_or(self.acked, |last| last.upto));
        match self.owed.back_mut() {
            Some(last) if last.batch >= settled.batch => {
                last.upto = last.upto.max(settled.upto);
                last.stored += settled.stored;
                last.filtered += settled.filtered;
                last.dup += settled.dup;
                false
            }
            _ => {
                self.owed.push_back(settled);
                true
            }
        }
    }

    fn answer(&mut self, out: &mut Vec<u8>, level: AckLevel, budget: &Budget) {
        // A client that went back below what it was acked is acked no lower.
        let mut sum = Settled { upto: self.acked, ..Settled::default() };
        let mut count = 0;
        for settled in self.owed.iter().take_while(|settled| settled.batch <= budget.position) {
            sum.upto = sum.upto.max(settled.upto);
            sum.stored += settled.stored;
            sum.filtered += settled.filtered;
            sum.dup += settled.dup;
            count += 1;
        }
        if count == 0 {
            return;
        }
        // Rejections that one ack cannot carry go ahead in acks that settle nothing yet.
        loop {
            let due = self.rejections.iter().take_while(|(seq, ..)| *seq <= sum.upto).count();
            let last = due <= REJECTIONS_PER_ACK;
            if !last && out.len() >= budget.len_max {
                return;
            }
            let rej = self.rejections.drain(..due.min(REJECTIONS_PER_ACK));
            let rej: Vec<Rejection> = rej.map(|(seq, code, at)| Rejection(seq, code.as_str().into(), at)).collect();
            if last {
                self.owed.drain(..count);
                self.lines_owed = self.owed.back().map_or(0, |back| back.upto.saturating_sub(sum.upto));
                self.acked = sum.upto;
                let Settled { upto, stored, filtered, dup, .. } = sum;
                if level != AckLevel::None || !rej.is_empty() {
                    Answer::Ack(Ack { upto, level, stored, filtered, dup, rej }).put(out);
                }
                return;
            }
            Answer::Ack(Ack { upto: self.acked, level, stored: 0, filtered: 0, dup: 0, rej }).put(out);
        }
    }
}

/// Longest error reply of plain mode.
const ERROR_LEN_MAX: usize = 128;
/// Bytes of answers that wait for no batch; a client that pings without reading is read no further.
const OUTBOX_LEN_MAX: usize = 4096;
/// In the middle of a chunk no more is asked for than this and one answer; what is left of the chunk waits.
pub(crate) const OUTBOX_STOP_LEN: usize = 16 << 10;
/// Rejections named in one ack line, so that a line stays short.
const REJECTIONS_PER_ACK: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reply_is_no_longer_than_its_room() {
        for code in Code::ALL {
            let mut reply = Vec::new();
            reply::put_error(&mut reply, code, u32::MAX);
            assert!(reply.len() <= ERROR_LEN_MAX, "{code:?} takes {}", reply.len());
        }
    }

    fn said(session: &mut Session, position: u64, len_max: usize) -> String {
        let mut out = Vec::new();
        session.answer(&mut out, &Budget { position, len_max });
        String::from_utf8(out).unwrap()
    }

    fn fresh() -> Session {
        #[allow(clippy::disallowed_methods, reason = "the one moment from which time counts")]
        let now = Instant::now();
        Session::new(Arrival { at: now, after: 0 }, 100, AckLevel::Durable, now)
    }

    fn plain() -> (Session, String) {
        let mut session = fresh();
        session.mode = Mode::Plain(Replies::default());
        (session, String::from_utf8(reply::OK.to_vec()).unwrap())
    }

    fn replies(session: &mut Session) -> &mut Replies {
        let Mode::Plain(replies) = &mut session.mode else { panic!("not plain") };
        replies
    }

    #[test]
    fn a_reply_waits_for_its_batch_and_an_error_for_those_before_it() {
        let (mut session, ok) = plain();
        replies(&mut session).owe_ok(7, 2);
        replies(&mut session).owe_error(Code::NotObject, 0);
        replies(&mut session).owe_ok(8, 1);
        assert_eq!(said(&mut session, 6, 4096), "");
        let first = said(&mut session, 7, 4096);
        assert!(first.starts_with(&ok.repeat(2)) && first.ends_with("\"code\":\"not_object\"}\n"), "{first}");
        assert!(!session.is_settled());
        assert_eq!(said(&mut session, 8, 4096), ok);
        assert!(session.is_settled());
    }

    #[test]
    fn a_send_is_no_longer_than_it_may_be_and_the_rest_follows() {
        let (mut session, ok) = plain();
        replies(&mut session).owe_ok(1, 1000);
        let mut all = String::new();
        loop {
            let piece = said(&mut session, 1, 4096);
            assert!(piece.len() <= 4096);
            if piece.is_empty() {
                break;
            }
            all += &piece;
        }
        assert_eq!(all, ok.repeat(1000));
    }

    #[test]
    fn every_rejection_is_named_in_or_before_the_ack_that_covers_it() {
        let mut session = fresh();
        let mut stream = Stream::new(crate::producer::tests_id(), 1, None);
        stream.start(1);
        (1..=200).for_each(|seq| stream.owe_rejection(seq, Code::BadJson, 5));
        stream.owe(Settled { batch: 3, upto: 201, stored: 1, ..Settled::default() });
        session.mode = Mode::Stream(Box::new(stream));
        assert_eq!(said(&mut session, 2, 4096), "");
        let (mut named, mut upto) = (Vec::new(), 0);
        while upto < 201 {
            for line in said(&mut session, 3, 4096).lines() {
                let Answer::Ack(ack) = Answer::parse(line.as_bytes()).unwrap() else { panic!("{line}") };
                named.extend(ack.rej.iter().map(|rejection| rejection.0));
                upto = ack.upto;
                assert!(named.len() as u64 >= upto.min(200), "an ack covers only what was named");
            }
        }
        assert_eq!(named, (1..=200).collect::<Vec<_>>());
        assert!(session.is_settled());
    }
}
