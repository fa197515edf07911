//! What a client says about its session: lines that begin with `{"$`.
//!
//! Control lines are rare, so they are parsed by serde; a record never comes here.

use crate::AckLevel;
use serde::{Deserialize, Serialize};

/// The version of the protocol that this build speaks.
pub const VERSION: u32 = 1;

/// The longest producer name, in bytes.
pub const PRODUCER_LEN_MAX: usize = 128;

/// The highest number a stream may begin with. No stream gets so far by counting, and counting on from here never
/// overflows.
pub const RESUME_FROM_MAX: u64 = u64::MAX >> 1;

/// The bytes that every control line begins with, and no record may.
pub const PREFIX: &[u8] = b"{\"$";

/// A control line of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// The first line of a session.
    #[serde(rename = "$hello")]
    Hello(Hello),
    /// After a `$nack`: numbering goes on from here.
    #[serde(rename = "$resume")]
    Resume(Resume),
    /// Acknowledge what can be acknowledged without waiting for more.
    #[serde(rename = "$flush")]
    Flush(u64),
    /// Asks for a `$pong` with the same number.
    #[serde(rename = "$ping")]
    Ping(u64),
    /// The client is done: answered, once all is acknowledged, by `$bye` with the totals, and the end of the stream.
    #[serde(rename = "$bye")]
    Bye(u64),
}

/// Who a client is and what it wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// Protocol version.
    pub v: u32,
    /// Identity: 1 to 128 bytes of letters, digits and `. _ - : / @ +`.
    pub producer: String,
    /// Incarnation: a higher one shuts the lower ones out and starts again at sequence 1.
    #[serde(default)]
    pub epoch: u64,
    /// The level to acknowledge at; the server's default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack: Option<AckLevel>,
    /// The sequence number of the first line that follows. Where absent: the server's `last_seq` + 1, so the client
    /// has to wait for `$welcome` before it sends, unless it knows that it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_from: Option<u64>,
    /// Proof that this client may write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// From where a client goes on after a `$nack`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// The sequence number of the next line.
    pub from: u64,
}

impl Control {
    /// Reads a control line.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it, short however long the line is.
    pub fn parse(line: &[u8]) -> Result<Control, String> {
        let control: Control = serde_json::from_slice(line).map_err(|error| explain(&error))?;
        if let Control::Hello(hello) = &control {
            hello.check()?;
        }
        Ok(control)
    }

    /// Appends the line, with its newline.
    pub fn put(&self, out: &mut Vec<u8>) {
        serde_json::to_writer(&mut *out, self).expect("a control line is always JSON");
        out.push(b'\n');
    }
}

impl Hello {
    /// A hello that takes every default.
    pub fn new(producer: impl Into<String>, epoch: u64) -> Hello {
        Hello { v: VERSION, producer: producer.into(), epoch, ack: None, resume_from: None, token: None }
    }

    fn check(&self) -> Result<(), String> {
        if self.v != VERSION {
            return Err(format!("version {} is not spoken here; use {VERSION}", self.v));
        }
        if self.producer.is_empty() || self.producer.len() > PRODUCER_LEN_MAX {
            return Err(format!("a producer name has 1 to {PRODUCER_LEN_MAX} bytes"));
        }
        // The name is copied into block headers as it is, so it must need no escapes there.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/@+".contains(&byte);
        if !self.producer.bytes().all(plain) {
            return Err("a producer name has letters, digits and . _ - : / @ + only".into());
        }
        if self.resume_from.is_some_and(|from| !(1..=RESUME_FROM_MAX).contains(&from)) {
            return Err(format!("resume_from is within 1 and {RESUME_FROM_MAX}"));
        }
        Ok(())
    }
}

/// What serde has against a line. It names the member it does not know, and that may be as long as the line.
fn explain(error: &serde_json::Error) -> String {
    let text: String = error.to_string().chars().take(EXPLANATION_LEN_MAX).collect();
    format!("not a control line: {text}")
}

const EXPLANATION_LEN_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_reads_back_as_written() {
        let hello = Hello { resume_from: Some(7), ack: Some(AckLevel::Written), ..Hello::new("web-17/ab3f", 4) };
        let mut out = Vec::new();
        Control::Hello(hello.clone()).put(&mut out);
        assert!(out.starts_with(PREFIX));
        assert_eq!(Control::parse(&out), Ok(Control::Hello(hello)));
    }

    #[test]
    fn the_hello_of_the_documentation_is_understood() {
        let line = br#"{"$hello":{"v":1,"producer":"web-17/ab3f","epoch":4,"ack":"durable","token":"t"}}"#;
        let Control::Hello(hello) = Control::parse(line).unwrap() else { panic!("not a hello") };
        assert_eq!((hello.producer.as_str(), hello.epoch, hello.ack), ("web-17/ab3f", 4, Some(AckLevel::Durable)));
        assert_eq!(Control::parse(br#"{"$ping":1}"#), Ok(Control::Ping(1)));
        assert_eq!(Control::parse(br#"{"$bye":1}"#), Ok(Control::Bye(1)));
    }

    #[test]
    fn a_hello_is_refused_for_a_stated_reason() {
        let cases: [(&[u8], &str); 8] = [
            (br#"{"$hello":{"v":2,"producer":"a"}}"#, "version 2"),
            (br#"{"$hello":{"v":1,"producer":""}}"#, "1 to 128 bytes"),
            (br#"{"$hello":{"v":1,"producer":"a b"}}"#, "letters, digits"),
            (br#"{"$hello":{"v":1,"producer":"a","resume_from":0}}"#, "resume_from"),
            (br#"{"$hello":{"v":1,"producer":"a","resume_from":9223372036854775808}}"#, "resume_from"),
            (br#"{"$hello":{"v":1,"producer":"a","ack":"forwarded"}}"#, "forwarded"),
            (br#"{"$hello":{"v":1,"producer":"a","surprise":1}}"#, "surprise"),
            (br#"{"$nonsense":1}"#, "$nonsense"),
        ];
        for (line, reason) in cases {
            let error = Control::parse(line).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        let last = Hello { resume_from: Some(RESUME_FROM_MAX), ..Hello::new("a", 0) };
        assert_eq!(last.check(), Ok(()));
        let longest = "p".repeat(PRODUCER_LEN_MAX);
        assert_eq!(Hello::new(&longest, 0).check(), Ok(()));
        assert!(Hello::new(longest + "p", 0).check().is_err());
    }

    #[test]
    fn a_long_line_is_refused_in_a_short_sentence() {
        let line = format!("{{\"${}\":1}}", "é".repeat(100_000));
        let error = Control::parse(line.as_bytes()).unwrap_err();
        assert!(error.len() < 1000 && error.contains("unknown variant"), "{error}");
    }
}
