//! The replies of plain mode, counted in order, from a stream that is cut anywhere.
//!
//! Nearly all replies are the same line, so a chunk is compared with a long run of that line at once, and only what
//! differs is looked at line by line. Nothing here knows a socket or what was sent.

use ringest_wire::{Code, reply};
use serde::Deserialize;

/// Where in the stream of replies a connection is.
#[derive(Debug, Default)]
pub struct Replies {
    /// How many bytes of an `ok` have come; what has come is not held.
    phase: usize,
    /// The unfinished reply, once it has turned out not to be an `ok`.
    odd: Vec<u8>,
}

/// What the next replies of the stream were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// So many lines were taken.
    Ok(u64),
    /// One line was refused, with the code, or the text where there was no known code.
    Refused(Refusal),
    /// What came is no reply of a server, for instance because something else listens there.
    Nonsense(String),
}

/// Why a line was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// One of the protocol's codes.
    Code(Code),
    /// The message of a server that sends no codes.
    Text(String),
}

impl Refusal {
    /// The name it is counted under.
    pub fn name(&self) -> &str {
        match self {
            Refusal::Code(code) => code.as_str(),
            Refusal::Text(text) => text,
        }
    }
}

impl Replies {
    /// Takes the next chunk of the stream and tells what it completed, in order.
    pub fn feed(&mut self, mut chunk: &[u8], mut tell: impl FnMut(Reply)) {
        while !chunk.is_empty() {
            let taken = if self.odd.is_empty() { self.take_oks(chunk, &mut tell) } else { 0 };
            chunk = &chunk[taken..];
            if !chunk.is_empty() {
                chunk = self.take_odd(chunk, &mut tell);
            }
        }
    }

    /// Takes bytes for as long as they are those of `ok` replies.
    fn take_oks(&mut self, chunk: &[u8], tell: &mut impl FnMut(Reply)) -> usize {
        let mut taken = 0;
        let mut oks = 0;
        while taken < chunk.len() {
            let rest = &chunk[taken..];
            let expected = &OKS[self.phase..];
            let len = rest.len().min(expected.len());
            let same = if rest[..len] == expected[..len] { len } else { common(rest, expected) };
            oks += (self.phase + same) / reply::OK.len();
            self.phase = (self.phase + same) % reply::OK.len();
            taken += same;
            if same < len {
                break;
            }
        }
        if oks > 0 {
            tell(Reply::Ok(oks as u64));
        }
        taken
    }

    /// Takes the rest of a line that is no `ok`.
    fn take_odd<'c>(&mut self, chunk: &'c [u8], tell: &mut impl FnMut(Reply)) -> &'c [u8] {
        if self.odd.is_empty() {
            self.odd.extend_from_slice(&reply::OK[..self.phase]);
            self.phase = 0;
        }
        let newline = memchr::memchr(b'\n', chunk);
        let piece = &chunk[..newline.unwrap_or(chunk.len())];
        // What is longer than any reply is nonsense already, and is not gathered.
        let room = REPLY_LEN_MAX.saturating_sub(self.odd.len());
        self.odd.extend_from_slice(&piece[..piece.len().min(room)]);
        let Some(newline) = newline else { return &[] };
        tell(judge(&self.odd));
        self.odd.clear();
        &chunk[newline + 1..]
    }
}

fn common(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

fn judge(line: &[u8]) -> Reply {
    #[derive(Deserialize)]
    struct Text {
        status: String,
        #[serde(default)]
        message: String,
        code: Option<String>,
    }
    let nonsense = || Reply::Nonsense(String::from_utf8_lossy(&line[..line.len().min(120)]).into_owned());
    let Ok(text) = serde_json::from_slice::<Text>(line) else {
        return nonsense();
    };
    match (text.status.as_str(), text.code.as_deref().and_then(Code::from_name)) {
        // An `ok` that is spelled in another way than ours.
        ("ok", _) => Reply::Ok(1),
        ("error", Some(code)) => Reply::Refused(Refusal::Code(code)),
        ("error", None) => Reply::Refused(Refusal::Text(text.message)),
        _ => nonsense(),
    }
}

/// Far longer than any reply.
const REPLY_LEN_MAX: usize = 4096;

/// As many `ok` replies as fit 64 KiB: a usual read is one comparison.
pub(crate) const OKS: &[u8; OKS_LEN] = &{
    let mut oks = [0; OKS_LEN];
    let mut at = 0;
    while at < OKS_LEN {
        oks[at] = reply::OK[at % reply::OK.len()];
        at += 1;
    }
    oks
};
const OKS_LEN: usize = 65_536 / reply::OK.len() * reply::OK.len();

#[cfg(test)]
mod tests {
    use super::*;

    /// Neighbouring counts joined, so that where a stream was cut does not show.
    fn told(chunks: &[&[u8]]) -> Vec<Reply> {
        let mut replies = Replies::default();
        let mut told: Vec<Reply> = Vec::new();
        for chunk in chunks {
            replies.feed(chunk, |reply| match (told.last_mut(), reply) {
                (Some(Reply::Ok(sum)), Reply::Ok(more)) => *sum += more,
                (_, reply) => told.push(reply),
            });
        }
        told
    }

    fn stream() -> Vec<u8> {
        let mut stream = [reply::OK, reply::OK].concat();
        reply::put_error(&mut stream, Code::BadJson, 17);
        reply::put_error(&mut stream, Code::Overloaded, 0);
        stream.extend_from_slice(reply::OK);
        stream.extend_from_slice(b"{\"status\":\"error\",\"message\":\"circuit open\"}\n");
        stream.extend_from_slice(b"{\"status\": \"ok\"}\nHTTP/1.1 400 Bad Request\r\n");
        stream.extend_from_slice(reply::OK);
        stream
    }

    #[test]
    fn replies_are_the_same_wherever_the_stream_is_cut() {
        let stream = stream();
        let expected = vec![
            Reply::Ok(2),
            Reply::Refused(Refusal::Code(Code::BadJson)),
            Reply::Refused(Refusal::Code(Code::Overloaded)),
            Reply::Ok(1),
            Reply::Refused(Refusal::Text("circuit open".into())),
            Reply::Ok(1),
            Reply::Nonsense("HTTP/1.1 400 Bad Request\r".into()),
            Reply::Ok(1),
        ];
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let chunks = [&stream[..first], &stream[first..second], &stream[second..]];
                assert_eq!(told(&chunks), expected, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn a_chunk_longer_than_the_compared_run_is_counted_whole() {
        let stream = reply::OK.repeat(10_000);
        for cut in [0, 1, 37, 38, 39, OKS_LEN - 1, OKS_LEN, OKS_LEN + 1] {
            assert_eq!(told(&[&stream[..cut], &stream[cut..]]), [Reply::Ok(10_000)], "cut at {cut}");
        }
    }

    #[test]
    fn a_reply_without_end_is_held_in_bounded_memory() {
        let mut replies = Replies::default();
        for _ in 0..100 {
            replies.feed(&[b'x'; 65_536], |reply| panic!("{reply:?}"));
        }
        assert!(replies.odd.capacity() <= 2 * REPLY_LEN_MAX);
    }
}
