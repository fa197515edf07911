//! Lines out of a byte stream that arrives in chunks, in place, in bounded memory.
//!
//! A line ends with `\n`; one `\r` before it belongs to the ending. [`Framer`] holds what is unfinished between two
//! chunks and hands everything else back as it lies in the chunk. It never looks into a line and never copies a line
//! that lies whole in one chunk. [`lines`] is the definition of a line: what is faster elsewhere is tested against it.

use memchr::{memchr, memrchr};

/// The unfinished line of one connection: at most `line_len_max` bytes and a `\r`, however long the line is.
#[derive(Debug, Default)]
pub struct Framer {
    carry: Vec<u8>,
    /// How much of `carry` was handed out as a head by the last call and is void by the next.
    spent: usize,
    line_len_max: usize,
    /// The line in progress was over-long and has been reported; its rest is dropped.
    skipping: bool,
}

/// The line that was unfinished before a chunk arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Head<'a> {
    /// There was none, it is still unfinished, or it was the rest of a line already reported too long.
    None,
    /// It is complete; the ending is removed.
    Line(&'a [u8]),
    /// It grew past the limit. Reported once; the rest of it is dropped in silence.
    TooLong,
}

/// What one chunk completed, in the order of the stream: the head, then the lines of the body.
#[derive(Debug)]
pub struct Split<'f, 'c> {
    /// The line that began in an earlier chunk.
    pub head: Head<'f>,
    /// Whole lines, each with its `\n`, as they lie in the chunk.
    pub body: &'c [u8],
    /// The unfinished line behind the body is already too long. Reported once, as in [`Head::TooLong`].
    pub tail_too_long: bool,
}

impl Split<'_, '_> {
    /// How many lines that is; blank ones do not count.
    pub fn lines(&self) -> u64 {
        let head = match self.head {
            Head::None => false,
            Head::Line(line) => !line.is_empty(),
            Head::TooLong => true,
        };
        let body = lines(self.body).filter(|line| !line.is_empty()).count();
        body as u64 + u64::from(head) + u64::from(self.tail_too_long)
    }
}

impl Framer {
    /// A framer at the start of a stream. A line may have `line_len_max` bytes, its ending not counted.
    pub fn new(line_len_max: usize) -> Framer {
        Framer { carry: Vec::new(), spent: 0, line_len_max, skipping: false }
    }

    /// Takes the next chunk of the stream. Empty chunks change nothing.
    pub fn split<'f, 'c>(&'f mut self, chunk: &'c [u8]) -> Split<'f, 'c> {
        self.drop_spent();
        let mut rest = chunk;
        let mut head_len = None;
        let mut head_too_long = false;

        if self.skipping || !self.carry.is_empty() {
            let newline = memchr(b'\n', chunk);
            let piece = &chunk[..newline.unwrap_or(chunk.len())];
            rest = newline.map_or(&[][..], |at| &chunk[at + 1..]);
            if self.skipping {
                self.skipping = newline.is_none();
            } else if self.fits(piece) {
                self.carry(piece);
                head_len = newline.map(|_| self.carry.len());
            } else {
                self.carry = Vec::new();
                self.skipping = newline.is_none();
                head_too_long = true;
            }
        }

        let body_len = memrchr(b'\n', rest).map_or(0, |at| at + 1);
        let (body, tail) = rest.split_at(body_len);
        self.spent = head_len.unwrap_or(0);
        let tail_too_long = !self.len_fits(tail.len(), tail.last());
        if tail_too_long {
            self.skipping = true;
        } else {
            self.carry(tail);
        }

        let head = match head_len {
            _ if head_too_long => Head::TooLong,
            Some(len) => Head::Line(trim_cr(&self.carry[..len])),
            None => Head::None,
        };
        Split { head, body, tail_too_long }
    }

    /// The stream has ended: what is unfinished counts as a line. `None` where nothing is.
    pub fn finish(&mut self) -> Option<&[u8]> {
        self.drop_spent();
        self.spent = self.carry.len();
        (self.spent > 0).then(|| trim_cr(&self.carry))
    }

    /// Bytes held between two chunks.
    pub fn held(&self) -> usize {
        self.carry.len() - self.spent
    }

    /// Whether a line has begun and not ended, also where it is too long and its bytes are not held.
    pub fn is_unfinished(&self) -> bool {
        self.skipping || self.held() > 0
    }

    fn drop_spent(&mut self) {
        if self.spent == self.carry.len() {
            self.carry.clear();
        } else if self.spent > 0 {
            self.carry.drain(..self.spent);
        }
        self.spent = 0;
        // An idle connection gives back what one long line made it hold.
        if self.carry.is_empty() && self.carry.capacity() > CARRY_KEPT {
            self.carry = Vec::new();
        }
    }

    /// Keeps a piece of the unfinished line. Room grows by doubling and never beyond the longest line and a `\r`.
    fn carry(&mut self, piece: &[u8]) {
        let len = self.carry.len() + piece.len();
        if len > self.carry.capacity() {
            let room = (2 * self.carry.capacity()).clamp(len, len.max(self.line_len_max + 1));
            self.carry.reserve_exact(room - self.carry.len());
        }
        self.carry.extend_from_slice(piece);
    }

    /// Whether the carried line may grow by `piece`. A `\r` one past the limit may yet prove to be part of the ending.
    fn fits(&self, piece: &[u8]) -> bool {
        let len = self.carry.len() + piece.len();
        let last = piece.last().or(self.carry.last());
        self.len_fits(len, last)
    }

    fn len_fits(&self, len: usize, last: Option<&u8>) -> bool {
        len <= self.line_len_max || (len == self.line_len_max + 1 && last == Some(&b'\r'))
    }
}

/// The lines of a body: every line ends with `\n`, as [`Split::body`] has it. Empty lines are among them.
pub fn lines(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let newline = memchr(b'\n', rest)?;
        let line = trim_cr(&rest[..newline]);
        rest = &rest[newline + 1..];
        Some(line)
    })
}

/// The line without the `\r` of a CRLF ending.
pub fn trim_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Capacity that a connection without an unfinished line may keep: a usual line, so that chunks do not allocate.
const CARRY_KEPT: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What came out of a stream, in order.
    #[derive(Debug, PartialEq, Eq, Clone)]
    enum Seen {
        Line(Vec<u8>),
        TooLong,
    }

    /// The obvious splitter: it sees the whole stream at once.
    fn oracle(stream: &[u8], line_len_max: usize) -> Vec<Seen> {
        let mut pieces: Vec<&[u8]> = stream.split(|&byte| byte == b'\n').collect();
        let unfinished = pieces.pop().expect("split yields at least one piece");
        let mut seen: Vec<Seen> = pieces.into_iter().map(|piece| judge(trim_cr(piece), line_len_max)).collect();
        if !unfinished.is_empty() {
            seen.push(judge(trim_cr(unfinished), line_len_max));
        }
        seen
    }

    fn judge(line: &[u8], line_len_max: usize) -> Seen {
        if line.len() > line_len_max { Seen::TooLong } else { Seen::Line(line.to_vec()) }
    }

    fn run(chunks: &[&[u8]], line_len_max: usize) -> Vec<Seen> {
        let mut framer = Framer::new(line_len_max);
        let mut seen = Vec::new();
        for chunk in chunks {
            let split = framer.split(chunk);
            match split.head {
                Head::None => {}
                Head::Line(line) => seen.push(judge(line, line_len_max)),
                Head::TooLong => seen.push(Seen::TooLong),
            }
            seen.extend(lines(split.body).map(|line| judge(line, line_len_max)));
            if split.tail_too_long {
                seen.push(Seen::TooLong);
            }
            assert!(framer.held() <= line_len_max + 1, "an unfinished line is held in bounded memory");
        }
        if let Some(line) = framer.finish() {
            seen.push(judge(line, line_len_max));
        }
        assert_eq!(framer.finish(), None, "the end of a stream is told once");
        seen
    }

    #[test]
    fn a_stream_gives_the_same_lines_wherever_it_is_cut() {
        let stream = b"{\"a\":1}\r\n\n{\"b\":2}\n0123456789abcdef\nshort\n\r\nlast";
        let expected = oracle(stream, 10);
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let chunks = [&stream[..first], &stream[first..second], &stream[second..]];
                assert_eq!(run(&chunks, 10), expected, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn a_line_at_the_limit_passes_and_one_past_it_does_not() {
        let line = |len: usize, end: &str| [vec![b'x'; len], end.as_bytes().to_vec()].concat();
        for end in ["\n", "\r\n", ""] {
            for (len, expected) in [(8, Seen::Line(vec![b'x'; 8])), (9, Seen::TooLong)] {
                let stream = line(len, end);
                for cut in 0..=stream.len() {
                    let seen = run(&[&stream[..cut], &stream[cut..]], 8);
                    assert_eq!(seen, std::slice::from_ref(&expected), "len {len}, end {end:?}, cut {cut}");
                }
            }
        }
    }

    #[test]
    fn an_endless_line_is_reported_once_and_held_in_no_memory() {
        let mut framer = Framer::new(1024);
        let mut reports = 0;
        for _ in 0..4096 {
            let split = framer.split(&[b'x'; 65536]);
            reports += usize::from(split.head == Head::TooLong) + usize::from(split.tail_too_long);
            assert_eq!(framer.held(), 0);
        }
        assert_eq!(reports, 1);
        assert_eq!(framer.split(b"still\nnext\n").body, b"next\n");
    }

    proptest! {
        #[test]
        fn framing_equals_the_obvious_splitter(
            stream in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'x'), Just(b'y')], 0..200),
            cuts in proptest::collection::vec(0usize..200, 0..8),
            line_len_max in 1usize..12,
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut start = 0;
            for cut in cuts.into_iter().chain([stream.len()]) {
                chunks.push(&stream[start..cut]);
                start = cut;
            }
            prop_assert_eq!(run(&chunks, line_len_max), oracle(&stream, line_len_max));
        }
    }
}
