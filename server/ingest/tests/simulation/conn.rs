//! One connection: what was said on it, and whether the answers to that are true.

use crate::disk::Disk;
use crate::lines::Verdict;
use crate::truth::Truth;
use ringest_ingest::{Handover, SessionId};
use ringest_wire::answer::{Ack, Answer, Goaway, Nack, Totals, Welcome};
use ringest_wire::frame::trim_cr;
use ringest_wire::{AckLevel, Class, Code, control, reply};
use std::collections::BTreeMap;

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) client: usize,
    pub(crate) at: At,
    /// What the shard it came from gave along.
    pub(crate) handover: Option<Handover>,
    /// Everything its client has sent, and the lines in it.
    pub(crate) sent: Vec<u8>,
    pub(crate) said: Vec<Said>,
    /// Bytes of it that the shard has, or that are in the gzip member on its way there.
    pub(crate) delivered: usize,
    /// Where it sends gzip: what is still to be delivered of the last member.
    pub(crate) packed: Option<Vec<u8>>,
    /// The client will send no more.
    pub(crate) is_ended: bool,
    pub(crate) is_end_told: bool,
    /// The shard wants no more for now.
    pub(crate) is_held: bool,
    /// What is being sent to the client, and how much of it has arrived.
    pub(crate) sending: Option<(Vec<u8>, usize)>,
    /// What has arrived and was not looked at.
    pub(crate) inbox: Vec<u8>,
    /// The client takes what is sent to it.
    pub(crate) reads: bool,
    pub(crate) view: View,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// On its way to a shard.
    Moving(usize),
    Shard(usize, SessionId),
    Over,
}

/// One line on the wire.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) start: usize,
    /// Behind its newline.
    pub(crate) end: usize,
    pub(crate) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Line {
        rid: usize,
        /// Its number in its stream.
        seq: u64,
    },
    /// A line that was cut off by the end of the stream.
    Cut {
        rid: usize,
        seq: u64,
    },
    Blank,
    Hello,
    Ping(u64),
    Resume(u64),
    Bye,
    Control,
}

/// What has been answered so far.
#[derive(Debug)]
pub(crate) enum View {
    Plain(Plain),
    Session(Box<Session>),
}

#[derive(Debug)]
pub(crate) struct Plain {
    pub(crate) level: AckLevel,
    /// Lines before this one have been answered.
    pub(crate) cursor: usize,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) producer: String,
    pub(crate) epoch: u64,
    pub(crate) level: AckLevel,
    pub(crate) resume_from: Option<u64>,
    /// What the welcome said was settled.
    pub(crate) welcomed: Option<u64>,
    pub(crate) acked: u64,
    pub(crate) stored: u64,
    pub(crate) filtered: u64,
    pub(crate) dup: u64,
    pub(crate) rejected: BTreeMap<u64, Code>,
    pub(crate) pongs: usize,
    pub(crate) nacks: u64,
    pub(crate) is_over: bool,
    pub(crate) totals: Option<Totals>,
}

/// What an answer is held against.
pub(crate) struct Witness<'a> {
    pub(crate) truth: &'a mut Truth,
    pub(crate) disks: &'a [Disk],
    pub(crate) line_len_max: usize,
    /// Storage has failed in this life.
    pub(crate) may_refuse: bool,
    /// Sessions of that shard have waited too long for room.
    pub(crate) has_shed: bool,
    /// The breaker of that shard has opened.
    pub(crate) may_be_open: bool,
}

impl Witness<'_> {
    /// Whether there is a reason to refuse lines with that code.
    fn may_refuse(&self, code: Code, is_session: bool) -> bool {
        match code {
            Code::StorageFull | Code::StorageError => self.may_refuse,
            Code::CircuitOpen => self.may_be_open,
            // Plain connections wait on.
            Code::Overloaded | Code::QuotaExceeded => is_session && self.has_shed,
            _ => false,
        }
    }
}

impl Conn {
    pub(crate) fn new(client: usize, shard: usize, view: View) -> Conn {
        Conn {
            client,
            at: At::Moving(shard),
            handover: None,
            sent: Vec::new(),
            said: Vec::new(),
            delivered: 0,
            packed: None,
            is_ended: false,
            is_end_told: false,
            is_held: false,
            sending: None,
            inbox: Vec::new(),
            reads: true,
            view,
        }
    }

    pub(crate) fn say(&mut self, bytes: &[u8], ending: &[u8], what: What) {
        let start = self.sent.len();
        self.sent.extend_from_slice(bytes);
        self.sent.extend_from_slice(ending);
        self.said.push(Said { start, end: self.sent.len(), what });
    }

    /// Whether there is anything to be delivered.
    pub(crate) fn has_more(&self) -> bool {
        self.unsent() > 0 || self.packed.as_ref().is_some_and(|packed| !packed.is_empty())
    }

    pub(crate) fn unsent(&self) -> usize {
        self.sent.len() - self.delivered
    }

    pub(crate) fn session(&self) -> &Session {
        match &self.view {
            View::Session(session) => session,
            View::Plain(_) => panic!("a plain connection has no session"),
        }
    }

    /// Whether its client still expects a last word: it said hello, and did not just end its stream; or it said bye. Who
    /// does not take what is said to it is told no more.
    pub(crate) fn expects_more(&self) -> bool {
        match &self.view {
            View::Session(session) => {
                let has_said = |what: What| self.said.iter().any(|it| it.what == what && it.end <= self.delivered);
                !session.is_over
                    && self.sending.is_none()
                    && has_said(What::Hello)
                    // Of what is packed nobody but the shard knows how much it has unpacked.
                    && (self.packed.is_none() || session.welcomed.is_some())
                    && (!self.is_end_told || has_said(What::Bye))
            }
            View::Plain(_) => false,
        }
    }

    /// Lines that the shard has and did not answer, as far as that can be told.
    pub(crate) fn lines_owed(&self) -> u64 {
        match &self.view {
            View::Plain(plain) if plain.level > AckLevel::None => {
                let is_line = |said: &&Said| !matches!(said.what, What::Blank) && said.end <= self.delivered;
                self.said[plain.cursor..].iter().filter(is_line).count() as u64
            }
            _ => 0,
        }
    }

    /// Whether the shard can have come to a verdict on that line.
    fn is_decided(&self, said: &Said, line_len_max: usize) -> bool {
        said.end <= self.delivered && (self.sent[said.end - 1] == b'\n' || self.is_end_told)
            || self.delivered > said.start + line_len_max
    }

    /// The shard says something. Every promise in it is checked at this moment.
    pub(crate) fn handle_said(&mut self, bytes: &[u8], witness: &mut Witness<'_>) {
        assert!(!bytes.is_empty() && bytes.ends_with(b"\n"), "a send is made of whole lines");
        for line in bytes[..bytes.len() - 1].split(|&byte| byte == b'\n') {
            if line.starts_with(b"{\"status\"") {
                self.handle_reply(line, witness);
            } else {
                let answer = Answer::parse(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
                self.handle_answer(answer, witness);
            }
        }
    }

    fn handle_reply(&mut self, line: &[u8], witness: &mut Witness<'_>) {
        let (level, cursor) = match &self.view {
            View::Plain(plain) => (plain.level, plain.cursor),
            // Its hello was cut off, so it was a line.
            View::Session(session) => {
                assert!(self.is_end_told && session.welcomed.is_none(), "a session gets no replies");
                assert!(line.starts_with(b"{\"status\":\"error\""));
                return;
            }
        };
        let is_ok = [line, b"\n"].concat() == reply::OK;
        let code = if is_ok { None } else { Some(code_of(line)) };
        for at in cursor.. {
            let said = self.said.get(at).expect("a reply answers a line");
            let (rid, verdict) = match said.what {
                What::Line { rid, .. } => (rid, Some(witness.truth.lines[rid].verdict)),
                What::Cut { rid, .. } => {
                    let is_whole = trim_cr(&self.sent[said.start..]) == witness.truth.lines[rid].bytes;
                    (rid, is_whole.then(|| witness.truth.lines[rid].verdict))
                }
                _ => continue,
            };
            let expects_none = matches!(verdict, Some(Verdict::Stored | Verdict::Filtered)) && level == AckLevel::None;
            if expects_none {
                if code.is_some_and(|code| code.class() == Class::Retryable) {
                    return; // Which line it is about cannot be told: the others are not answered.
                }
                continue;
            }
            assert!(self.is_decided(said, witness.line_len_max), "a reply follows its line");
            match (verdict, code) {
                (Some(Verdict::Stored), None) => witness.truth.promise(rid, level, witness.disks, "a plain client"),
                (Some(Verdict::Filtered), None) => {}
                (Some(Verdict::Refused(due)), Some(code)) => assert_eq!(code, due, "{}", witness.truth.describe(rid)),
                (Some(Verdict::Stored), Some(code)) if code.class() == Class::Retryable => {
                    assert!(witness.may_refuse(code, false), "{code} without a reason");
                    assert!(witness.truth.lines[rid].promised.is_none(), "a line is answered once");
                    witness.truth.lines[rid].is_refused = true;
                }
                (None, Some(_)) => {}
                (verdict, code) => {
                    panic!("{} is answered with {code:?}, due is {verdict:?}", witness.truth.describe(rid))
                }
            }
            let View::Plain(plain) = &mut self.view else { unreachable!() };
            plain.cursor = at + 1;
            return;
        }
    }

    fn handle_answer(&mut self, answer: Answer, witness: &mut Witness<'_>) {
        let said_pings: Vec<u64> = self
            .said
            .iter()
            .filter(|said| said.end <= self.delivered)
            .filter_map(|said| if let What::Ping(number) = said.what { Some(number) } else { None })
            .collect();
        let decided = self.said.iter().filter(|said| self.is_decided(said, witness.line_len_max));
        let seqs = decided.filter_map(|said| match said.what {
            What::Line { seq, .. } => Some(seq),
            // In a session the end of a stream makes no line of what is unfinished; being too long does.
            What::Cut { seq, .. } => (said.end - said.start > witness.line_len_max).then_some(seq),
            _ => None,
        });
        let seq_max = seqs.max().unwrap_or(0);
        let View::Session(session) = &mut self.view else {
            // Three bytes that may become a hello, and may not, when the server stops; or a member not yet unpacked.
            let is_open = self.sent[..self.delivered] == *control::PREFIX || self.packed.is_some();
            assert!(is_open && matches!(answer, Answer::Goaway(_)), "{answer:?} to a plain client");
            return;
        };
        assert!(!session.is_over, "after the last word comes nothing: {answer:?}");
        assert!(
            session.welcomed.is_some() || matches!(answer, Answer::Welcome(_) | Answer::Goaway(_)),
            "the welcome comes first: {answer:?}"
        );
        match answer {
            Answer::Welcome(welcome) => session.handle_welcome(&welcome, witness),
            Answer::Ack(ack) => session.handle_ack(&ack, seq_max, witness),
            Answer::Nack(nack) => session.handle_nack(&nack, seq_max, witness),
            Answer::Goaway(goaway) => session.handle_goaway(&goaway),
            Answer::Pong(number) => {
                assert_eq!(Some(&number), said_pings.get(session.pongs), "pings are answered in order");
                session.pongs += 1;
            }
            Answer::Bye(totals) => session.handle_bye(totals, seq_max),
        }
    }
}

impl Session {
    pub(crate) fn new(producer: &str, epoch: u64, level: AckLevel, resume_from: Option<u64>) -> Session {
        Session {
            producer: producer.to_owned(),
            epoch,
            level,
            resume_from,
            welcomed: None,
            acked: 0,
            stored: 0,
            filtered: 0,
            dup: 0,
            rejected: BTreeMap::new(),
            pongs: 0,
            nacks: 0,
            is_over: false,
            totals: None,
        }
    }

    fn name(&self) -> String {
        format!("{}/{} at {}", self.producer, self.epoch, self.level)
    }

    fn handle_welcome(&mut self, welcome: &Welcome, witness: &mut Witness<'_>) {
        assert!(self.welcomed.is_none(), "a session is welcomed once");
        assert_eq!(welcome.ack, self.level, "the level is the one that was asked for");
        let last_seq = welcome.last_seq;
        self.welcomed = Some(last_seq);
        self.acked = self.resume_from.map_or(last_seq, |from| from - 1);
        assert!(self.acked <= last_seq, "what is resumed from is known, or next");
        for seq in 1..=last_seq {
            let Some(rid) = witness.truth.rid(&self.producer, self.epoch, seq) else { continue };
            if witness.truth.lines[rid].verdict != Verdict::Stored {
                continue;
            }
            if welcome.known {
                let name = format!("{}, welcomed,", self.name());
                witness.truth.promise(rid, self.level, witness.disks, &name);
            } else if !witness.truth.holds(rid, AckLevel::Durable, witness.disks) {
                // The server has no memory of it and takes the client's word.
                witness.truth.lines[rid].is_forgiven = true;
            }
        }
    }

    fn handle_ack(&mut self, ack: &Ack, seq_max: u64, witness: &mut Witness<'_>) {
        let welcomed = self.welcomed.expect("checked by the caller");
        assert_eq!(ack.level, self.level);
        assert!(ack.upto >= self.acked, "I2: acks grow: {ack:?} after {}", self.acked);
        assert!(ack.upto <= seq_max, "I2: {ack:?} covers what was not received: {seq_max}");
        for rejection in &ack.rej {
            let code = Code::from_name(&rejection.1).expect("codes have names");
            let rid = witness.truth.rid(&self.producer, self.epoch, rejection.0).expect("a rejected line was sent");
            assert_eq!(witness.truth.lines[rid].verdict, Verdict::Refused(code), "{}", witness.truth.describe(rid));
            assert!(self.rejected.insert(rejection.0, code).is_none(), "a rejection is told once: {ack:?}");
        }
        for seq in self.acked + 1..=ack.upto {
            let rid = witness.truth.rid(&self.producer, self.epoch, seq).expect("an acked line was sent");
            match witness.truth.lines[rid].verdict {
                Verdict::Stored => witness.truth.promise(rid, ack.level, witness.disks, &self.name()),
                Verdict::Filtered => {}
                Verdict::Refused(code) => assert!(
                    seq <= welcomed || self.rejected.get(&seq) == Some(&code),
                    "I2: {} is settled, and its rejection was not told",
                    witness.truth.describe(rid)
                ),
            }
        }
        self.acked = ack.upto;
        self.stored += ack.stored;
        self.filtered += ack.filtered;
        self.dup += ack.dup;
        let due = |verdict| {
            let rid = |seq| witness.truth.rid(&self.producer, self.epoch, seq).expect("just seen");
            (welcomed + 1..=ack.upto).filter(|&seq| witness.truth.lines[rid(seq)].verdict == verdict).count() as u64
        };
        if self.level != AckLevel::None {
            assert_eq!(self.stored, due(Verdict::Stored), "I2: stored lines are counted once: {ack:?}");
            assert_eq!(self.filtered, due(Verdict::Filtered), "I2: filtered lines are counted once: {ack:?}");
        }
    }

    fn handle_nack(&mut self, nack: &Nack, seq_max: u64, witness: &Witness<'_>) {
        assert!(
            nack.retry && nack.from <= seq_max.max(self.acked) + 1,
            "{nack:?} skips lines: {seq_max} were received"
        );
        let code = Code::from_name(&nack.code).expect("codes have names");
        assert!(witness.may_refuse(code, true), "{nack:?} without a reason");
        self.nacks += 1;
    }

    fn handle_goaway(&mut self, goaway: &Goaway) {
        let is_told = self.welcomed.is_none() || self.level == AckLevel::None || goaway.upto == self.acked;
        assert!(is_told, "{goaway:?} says what the acks said: {}", self.acked);
        self.is_over = true;
    }

    fn handle_bye(&mut self, totals: Totals, seq_max: u64) {
        let Totals { received, stored, filtered, dup, rejected } = totals;
        assert_eq!(received, stored + filtered + dup + rejected, "a session's books close: {totals:?}");
        if self.level != AckLevel::None {
            assert_eq!((stored, filtered, dup), (self.stored, self.filtered, self.dup), "the acks said the same");
            if self.nacks == 0 {
                assert_eq!(self.acked, seq_max.max(self.acked), "everything is settled before the bye");
            }
        }
        self.totals = Some(totals);
        self.is_over = true;
    }
}

fn code_of(line: &[u8]) -> Code {
    let reply: serde_json::Value = serde_json::from_slice(line).expect("a reply is JSON");
    Code::from_name(reply["code"].as_str().expect("an error has a code")).expect("codes have names")
}
