//! One peer of the sink: lines are counted, control lines understood, answers due. There is no socket here.

use crate::replies::OKS;
use ringest_wire::answer::{Ack, Answer, Totals, Welcome};
use ringest_wire::control::{Control, Hello, PREFIX, VERSION};
use ringest_wire::{AckLevel, reply};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How many lines came of each producer, so that a session that connects again goes on where it was. Written by the
/// thread that has the session, read by the one that it comes to next.
#[derive(Clone, Debug, Default)]
pub struct Known(Arc<Mutex<HashMap<String, u64>>>);

impl Known {
    fn last_seq(&self, producer: &str) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(producer).copied()
    }

    fn note(&self, producer: &str, seq: u64) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get_mut(producer) {
            Some(last) => *last = seq,
            None => drop(known.insert(producer.to_owned(), seq)),
        }
    }
}

/// What is known of one peer.
#[derive(Debug, Default)]
pub(super) struct Guest {
    /// The beginning of a line, for as long as it may be a control line.
    head: Vec<u8>,
    /// The line under way is none.
    is_midline: bool,
    /// Lines that came and are not answered.
    fresh: u64,
    dialect: Dialect,
}

#[derive(Debug)]
enum Dialect {
    /// Bytes of replies that are owed, and how much of a reply is sent.
    Plain {
        owed: usize,
        phase: usize,
    },
    Session(Box<Session>),
}

impl Default for Dialect {
    fn default() -> Dialect {
        Dialect::Plain { owed: 0, phase: 0 }
    }
}

#[derive(Debug)]
struct Session {
    producer: String,
    level: AckLevel,
    /// The last line of the producer, and how many came through this connection.
    seq: u64,
    received: u64,
    out: Vec<u8>,
    sent: usize,
    is_over: bool,
}

impl Guest {
    /// Takes the next bytes; whether they make sense.
    pub(super) fn hear(&mut self, mut bytes: &[u8], known: &Known) -> bool {
        // A client says something else than lines at the beginning, and when all is answered: at the beginning of a
        // chunk. So the lines behind others are counted without a look.
        while !self.is_midline && !bytes.is_empty() {
            let missing = PREFIX.len().saturating_sub(self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            if !PREFIX.starts_with(&self.head[..self.head.len().min(PREFIX.len())]) {
                // A line so short that it ends among these bytes is counted, too.
                let head = std::mem::take(&mut self.head);
                self.count(&head);
                break;
            }
            if self.head.len() < PREFIX.len() {
                return true;
            }
            let end = memchr::memchr(b'\n', bytes).map(|newline| newline + 1);
            let piece = &bytes[..end.unwrap_or(bytes.len())];
            if self.head.len() + piece.len() > CONTROL_LEN_MAX {
                return false;
            }
            self.head.extend_from_slice(piece);
            bytes = &bytes[piece.len()..];
            if end.is_some() {
                let line = std::mem::take(&mut self.head);
                if !self.obey(&line[..line.len() - 1], known) {
                    return false;
                }
            }
        }
        self.count(bytes);
        true
    }

    /// Makes what has come an answer.
    pub(super) fn answer(&mut self, known: &Known) {
        let lines = std::mem::take(&mut self.fresh);
        if lines == 0 {
            return;
        }
        match &mut self.dialect {
            Dialect::Plain { owed, .. } => *owed += lines as usize * reply::OK.len(),
            Dialect::Session(session) => {
                session.seq += lines;
                session.received += lines;
                known.note(&session.producer, session.seq);
                let (upto, level) = (session.seq, session.level);
                session.say(&Answer::Ack(Ack { upto, level, stored: lines, filtered: 0, dup: 0, rej: Vec::new() }));
            }
        }
    }

    /// The next bytes for it; none where it has been told everything.
    pub(super) fn unsent(&self) -> &[u8] {
        match &self.dialect {
            Dialect::Plain { owed, phase } => {
                let oks = &OKS[*phase..];
                &oks[..oks.len().min(*owed)]
            }
            Dialect::Session(session) => &session.out[session.sent..],
        }
    }

    /// The first `len` of those are on their way.
    pub(super) fn sent(&mut self, len: usize) {
        match &mut self.dialect {
            Dialect::Plain { owed, phase } => {
                *owed -= len;
                *phase = (*phase + len) % reply::OK.len();
            }
            Dialect::Session(session) => {
                session.sent += len;
                if session.sent == session.out.len() {
                    session.out.clear();
                    session.sent = 0;
                }
            }
        }
    }

    /// Whether it has said goodbye.
    pub(super) fn is_over(&self) -> bool {
        matches!(&self.dialect, Dialect::Session(session) if session.is_over)
    }

    fn count(&mut self, bytes: &[u8]) {
        let Some(last) = bytes.last() else { return };
        self.fresh += memchr::memchr_iter(b'\n', bytes).count() as u64;
        self.is_midline = *last != b'\n';
    }

    fn obey(&mut self, line: &[u8], known: &Known) -> bool {
        self.answer(known);
        match (Control::parse(line), &mut self.dialect) {
            (Ok(Control::Hello(hello)), Dialect::Plain { owed: 0, phase: 0 }) => {
                self.dialect = Dialect::Session(Box::new(Session::greeted(hello, known)));
            }
            (Ok(Control::Bye(_)), Dialect::Session(session)) => {
                let received = session.received;
                session.say(&Answer::Bye(Totals { received, stored: received, filtered: 0, dup: 0, rejected: 0 }));
                session.is_over = true;
            }
            (Ok(Control::Ping(number)), Dialect::Session(session)) => session.say(&Answer::Pong(number)),
            (Ok(Control::Flush(_)), Dialect::Session(_)) => {}
            // It refuses nothing, so there is nothing to go back to.
            (Ok(Control::Hello(_) | Control::Resume(_)), Dialect::Session(_))
            | (_, Dialect::Plain { .. })
            | (Err(_), _) => {
                return false;
            }
        }
        true
    }
}

impl Session {
    fn greeted(hello: Hello, known: &Known) -> Session {
        let last_seq = known.last_seq(&hello.producer);
        let level = hello.ack.unwrap_or(AckLevel::Durable);
        let seq = last_seq.unwrap_or(0);
        let mut session =
            Session { producer: hello.producer, level, seq, received: 0, out: Vec::new(), sent: 0, is_over: false };
        session.say(&Answer::Welcome(Welcome {
            v: VERSION,
            known: last_seq.is_some(),
            last_seq: seq,
            max_line: LINE_LEN_MAX,
            window: WINDOW,
            ack: level,
        }));
        session
    }

    fn say(&mut self, answer: &Answer) {
        answer.put(&mut self.out);
    }
}

/// Longer than any control line.
const CONTROL_LEN_MAX: usize = 4096;
/// What a server takes by default.
const LINE_LEN_MAX: u32 = 262_144;
/// Nothing is held here, so what is unanswered is the generator's choice.
const WINDOW: u32 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(chunks: &[&[u8]], known: &Known) -> (Guest, String) {
        let mut guest = Guest::default();
        let mut said = Vec::new();
        for chunk in chunks {
            assert!(guest.hear(chunk, known), "{:?}", String::from_utf8_lossy(chunk));
            guest.answer(known);
            while !guest.unsent().is_empty() {
                // Taken in pieces, as a full socket would.
                let len = guest.unsent().len().min(5);
                said.extend_from_slice(&guest.unsent()[..len]);
                guest.sent(len);
            }
        }
        (guest, String::from_utf8(said).unwrap())
    }

    #[test]
    fn every_line_has_its_reply_wherever_the_stream_is_cut() {
        let stream = b"{\"a\":1}\n\n{\"$b\n{\n{}\n";
        // A line that begins as a control line does and is none stands behind others, where nobody looks.
        let lines = &stream[..9];
        for cut in 0..=lines.len() {
            let (_, said) = talk(&[&lines[..cut], &lines[cut..]], &Known::default());
            assert_eq!(said, String::from_utf8_lossy(&reply::OK.repeat(2)), "cut at {cut}");
        }
        assert_eq!(talk(&[stream], &Known::default()).1, String::from_utf8_lossy(&reply::OK.repeat(5)));
        let many = b"x\n".repeat(5000);
        assert_eq!(talk(&[&many], &Known::default()).1.len(), 5000 * reply::OK.len());
    }

    #[test]
    fn a_session_is_welcome_acknowledged_and_known_again() {
        let known = Known::default();
        let mut hello = Vec::new();
        Control::Hello(Hello { ack: Some(AckLevel::Written), ..Hello::new("p", 0) }).put(&mut hello);
        for cut in 0..=hello.len() {
            let (guest, said) = talk(&[&hello[..cut], &hello[cut..]], &Known::default());
            assert!(said.starts_with("{\"$welcome\":{\"v\":1,\"known\":false,\"last_seq\":0,"), "{said}");
            assert!(said.contains("\"ack\":\"written\"") && !guest.is_over());
        }
        let (guest, said) = talk(&[&hello, b"{}\n{}\n{", b"}\n", b"{\"$bye\":1}\n"], &known);
        assert!(guest.is_over());
        let said: Vec<&str> = said.lines().skip(1).collect();
        assert!(
            said[0].starts_with("{\"$ack\":{\"upto\":2,") && said[1].starts_with("{\"$ack\":{\"upto\":3,"),
            "{said:?}"
        );
        assert_eq!(said[2], r#"{"$bye":{"received":3,"stored":3,"filtered":0,"dup":0,"rejected":0}}"#);
        let (_, said) = talk(&[&hello], &known);
        assert!(said.contains("\"known\":true,\"last_seq\":3,"), "{said}");
    }

    #[test]
    fn what_makes_no_sense_is_not_answered() {
        let known = Known::default();
        assert!(!Guest::default().hear(b"{\"$bye\":1}\n", &known), "a goodbye without a hello");
        assert!(!Guest::default().hear(b"{\"$what\":1}\n", &known));
        let endless = [PREFIX, &[b'x'; CONTROL_LEN_MAX]].concat();
        assert!(!Guest::default().hear(&endless, &known));
    }
}
