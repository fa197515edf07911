//! A producer in session mode that survives its server: it resends from where it stands, and keeps a ledger of what it
//! was promised. It fails the test itself where an answer contradicts the ledger.

use crate::World;
use crate::link::{Link, Packing};
use crate::support::dice::Dice;
use crate::support::lines::{json, record};
use serde_json::Value;
use std::io;
use std::thread;
use std::time::Duration;

/// The ledger of a producer that has finished.
pub(crate) struct Promised {
    pub(crate) producer: String,
    /// Settled up to here; nothing was sent beyond it.
    pub(crate) upto: u64,
}

impl Promised {
    /// The numbers of the lines that have to be stored.
    pub(crate) fn stored(&self) -> Vec<u64> {
        (1..=self.upto).filter(|seq| Kind::of(*seq) == Kind::Stored).collect()
    }
}

/// What becomes of a line; fixed by its number, so that a line that is sent again is the same line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Stored,
    Filtered,
    Rejected,
}

impl Kind {
    fn of(seq: u64) -> Kind {
        match (seq % 23, seq % 19) {
            (7, _) => Kind::Rejected,
            (_, 3) => Kind::Filtered,
            _ => Kind::Stored,
        }
    }
}

struct Producer {
    name: String,
    number: u64,
    level: &'static str,
    dice: Dice,
    /// The highest number that was ever put on a connection.
    sent: u64,
    /// The highest number that was ever promised.
    acked: u64,
}

/// What one connection has said.
struct Conversation {
    link: Link,
    next: u64,
    /// The last number settled before this connection, once it is welcome.
    base: Option<u64>,
    counted: u64,
}

enum End {
    /// All is settled, and the books were given.
    Over,
    /// On to the next connection.
    Again,
}

pub(crate) fn run(world: &World, number: u64, dice: Dice) -> Promised {
    // What is written survives the death of the process, too.
    let level = if number.is_multiple_of(2) { "durable" } else { "written" };
    let mut producer = Producer { name: format!("producer-{number}"), number, level, dice, sent: 0, acked: 0 };
    loop {
        match producer.converse(world) {
            Ok(End::Over) => return Promised { producer: producer.name, upto: producer.acked },
            Ok(End::Again) => {}
            Err(_) => thread::sleep(Duration::from_millis(2)), // The server is gone.
        }
    }
}

impl Producer {
    fn converse(&mut self, world: &World) -> io::Result<End> {
        let link = Link::open(world.addr(), world.tls_of(self.number), Packing::of(self.dice.roll()))?;
        let mut talk = Conversation { link, next: 0, base: None, counted: 0 };
        self.greet(&mut talk);
        loop {
            talk.link.push()?;
            while let Some(line) = talk.link.next_line()? {
                if let Some(end) = self.hear(&mut talk, &json(&line)) {
                    return Ok(end);
                }
            }
            let is_finishing = world.is_finishing();
            if is_finishing && talk.base.is_some() && self.acked == self.sent && talk.next > self.sent {
                talk.link.put(r#"{"$bye":1}"#);
                talk.next = 0; // Nothing more is sent.
            }
            if talk.next > 0 && talk.link.is_sent() {
                self.send_some(&mut talk, is_finishing);
            }
            if !is_finishing && self.dice.below(5000) == 0 {
                return Ok(End::Again); // A client may go away, too.
            }
            thread::sleep(Duration::from_micros(500));
        }
    }

    /// Waits for the welcome to say where to go on, or goes on from its own ledger without waiting.
    fn greet(&mut self, talk: &mut Conversation) {
        let (name, level) = (&self.name, self.level);
        let resume = if self.dice.below(2) == 0 {
            talk.next = self.acked + 1;
            format!(r#","resume_from":{}"#, talk.next)
        } else {
            String::new()
        };
        talk.link.put(&format!(r#"{{"$hello":{{"v":1,"producer":"{name}","epoch":1,"ack":"{level}"{resume}}}}}"#));
    }

    fn send_some(&mut self, talk: &mut Conversation, is_finishing: bool) {
        for _ in 0..=self.dice.below(64) {
            let is_enough = if is_finishing { talk.next > self.sent } else { talk.next > self.acked + WINDOW };
            if is_enough {
                return;
            }
            talk.link.put(&self.line(talk.next));
            self.sent = self.sent.max(talk.next);
            talk.next += 1;
        }
    }

    fn line(&self, seq: u64) -> String {
        match Kind::of(seq) {
            Kind::Rejected => "no".into(),
            Kind::Filtered => record(&self.name, seq).replace("info", "trace"),
            Kind::Stored => {
                let pad = "x".repeat((seq.wrapping_mul(2_654_435_761) >> 7) as usize % 300);
                record(&self.name, seq).replace('}', &format!(",\"pad\":\"{pad}\"}}"))
            }
        }
    }

    fn hear(&mut self, talk: &mut Conversation, answer: &Value) -> Option<End> {
        if let Some(welcome) = answer.get("$welcome") {
            self.hear_welcome(talk, number(welcome, "last_seq"));
        } else if let Some(ack) = answer.get("$ack") {
            self.hear_ack(talk, ack);
        } else if let Some(goaway) = answer.get("$goaway") {
            // A connection that was given up may have its hello read last: it was on its way to another shard.
            let is_expected = ["shutting_down", "fenced"].map(Value::from).contains(&goaway["code"]);
            assert!(is_expected, "{}: {answer}", self.name);
            self.promise(number(goaway, "upto"));
            return Some(End::Again);
        } else if answer.get("$bye").is_some() {
            return Some(End::Over);
        } else {
            panic!("{}: {answer}", self.name);
        }
        None
    }

    fn hear_welcome(&mut self, talk: &mut Conversation, last_seq: u64) {
        assert!(last_seq >= self.acked, "{}: {} was acknowledged, {last_seq} is known: lost", self.name, self.acked);
        assert!(last_seq <= self.sent, "{}: {last_seq} is known, {} was sent", self.name, self.sent);
        // What is counted starts where the lines of this connection start.
        talk.base = Some(if talk.next == 0 { last_seq } else { self.acked });
        if talk.next == 0 {
            talk.next = last_seq + 1;
            self.promise(last_seq);
        }
    }

    fn hear_ack(&mut self, talk: &mut Conversation, ack: &Value) {
        let upto = number(ack, "upto");
        assert!(upto >= self.acked && upto <= self.sent, "{}: {} acknowledged, then {ack}", self.name, self.acked);
        assert_eq!(ack["level"], self.level);
        let rejections = ack["rej"].as_array().map_or(&[][..], Vec::as_slice);
        for rejection in rejections {
            let seq = rejection[0].as_u64().expect("a rejection names its line");
            assert_eq!(Kind::of(seq), Kind::Rejected, "{}: {ack}", self.name);
        }
        let counts = ["stored", "filtered", "dup"].map(|name| number(ack, name));
        talk.counted += counts.iter().sum::<u64>() + rejections.len() as u64;
        let base = talk.base.expect("a session is welcomed before it is acknowledged");
        assert!(talk.counted >= upto - base, "{}: {upto} settled from {base}, {} told of", self.name, talk.counted);
        self.promise(upto);
    }

    fn promise(&mut self, upto: u64) {
        self.acked = self.acked.max(upto);
    }
}

fn number(object: &Value, name: &str) -> u64 {
    object[name].as_u64().unwrap_or_else(|| panic!("{name} is a number: {object}"))
}

/// Lines that are under way at most.
const WINDOW: u64 = 2000;
