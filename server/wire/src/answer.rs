//! What a server says about a session: one JSON object per line, each with a single `$` member.

use crate::{AckLevel, Code};
use serde::{Deserialize, Serialize};

/// A line from a server to a client in session mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The session is open.
    #[serde(rename = "$welcome")]
    Welcome(Welcome),
    /// Everything up to here is settled.
    #[serde(rename = "$ack")]
    Ack(Ack),
    /// Nothing from here on is taken; see [`Nack`].
    #[serde(rename = "$nack")]
    Nack(Nack),
    /// The server ends the session; what `upto` does not cover has to be sent again elsewhere or later.
    #[serde(rename = "$goaway")]
    Goaway(Goaway),
    /// The answer to `$ping`.
    #[serde(rename = "$pong")]
    Pong(u64),
    /// The answer to `$bye`: the session's books.
    #[serde(rename = "$bye")]
    Bye(Totals),
}

/// The session is open, and numbering is agreed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Protocol version.
    pub v: u32,
    /// Whether the server remembers this producer and epoch.
    pub known: bool,
    /// The last sequence number that is settled; resend from the next.
    pub last_seq: u64,
    /// The longest line the server takes, in bytes, without its ending.
    pub max_line: u32,
    /// How many lines a client should have unacknowledged at most; past it, the server stops reading.
    pub window: u32,
    /// The level acknowledgements are given at.
    pub ack: AckLevel,
}

/// Everything up to `upto` is stored at `level`, or filtered, or a duplicate, or was rejected in or before this ack.
/// The counts are those since the last ack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The last settled sequence number.
    pub upto: u64,
    /// What is promised of the stored ones.
    pub level: AckLevel,
    /// Stored.
    pub stored: u64,
    /// Filtered by level: settled, not stored.
    pub filtered: u64,
    /// Already there: settled, not stored again.
    pub dup: u64,
    /// Refused for good: sequence number, code, and the offset or limit that explains it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rej: Vec<Rejection>,
}

/// One refused line: sequence number, code, and the offset in the line or the limit that was passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection(pub u64, pub String, pub u32);

/// Lines from `from` on are not taken. The server drops everything that follows on this connection until the client
/// says `$resume` with the number it goes on from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nack {
    /// The first sequence number that was not taken.
    pub from: u64,
    /// Why.
    pub code: String,
    /// Whether to try again.
    pub retry: bool,
    /// When to try again, in milliseconds from now.
    pub after_ms: u32,
}

/// The session ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goaway {
    /// The last settled sequence number.
    pub upto: u64,
    /// Why.
    pub code: String,
    /// A sentence for a person.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A session's books: `received = stored + filtered + dup + rejected`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Lines received.
    pub received: u64,
    /// Lines stored.
    pub stored: u64,
    /// Lines filtered by level.
    pub filtered: u64,
    /// Lines already there.
    pub dup: u64,
    /// Lines refused.
    pub rejected: u64,
}

impl Answer {
    /// Reads a line of a server.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(line: &[u8]) -> Result<Answer, String> {
        serde_json::from_slice(line).map_err(|error| format!("not an answer of a Ringest server: {error}"))
    }

    /// Appends the line, with its newline.
    pub fn put(&self, out: &mut Vec<u8>) {
        serde_json::to_writer(&mut *out, self).expect("an answer is always JSON");
        out.push(b'\n');
    }

    /// The nack for a retryable code.
    pub fn nack(from: u64, code: Code, after_ms: u32) -> Answer {
        Answer::Nack(Nack { from, code: code.as_str().into(), retry: true, after_ms })
    }

    /// The end of a session.
    pub fn goaway(upto: u64, code: Code, reason: impl Into<String>) -> Answer {
        Answer::Goaway(Goaway { upto, code: code.as_str().into(), reason: reason.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_spelled_as_documented_and_read_back() {
        let ack = Answer::Ack(Ack {
            upto: 120480,
            level: AckLevel::Durable,
            stored: 130,
            filtered: 4,
            dup: 0,
            rej: vec![Rejection(120377, "bad_json".into(), 17)],
        });
        let nack = Answer::nack(120481, Code::Overloaded, 250);
        let goaway = Answer::goaway(120480, Code::ShuttingDown, "");
        let texts = [
            r#"{"$ack":{"upto":120480,"level":"durable","stored":130,"filtered":4,"dup":0,"rej":[[120377,"bad_json",17]]}}"#,
            r#"{"$nack":{"from":120481,"code":"overloaded","retry":true,"after_ms":250}}"#,
            r#"{"$goaway":{"upto":120480,"code":"shutting_down"}}"#,
        ];
        for (answer, text) in [ack, nack, goaway].into_iter().zip(texts) {
            let mut out = Vec::new();
            answer.put(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{text}\n"));
            assert_eq!(Answer::parse(text.as_bytes()), Ok(answer));
        }
    }

    #[test]
    fn what_is_not_an_answer_is_said_to_be_none() {
        assert!(Answer::parse(b"{\"status\":\"ok\"}").unwrap_err().contains("not an answer"));
    }
}
