//! The fast path: from one quote to the next over the block index, without looking at what lies inside strings.
//!
//! [`Walk::record`] either knows that a line is a record, and how severe, or leaves it to the arbiter. It takes
//! whatever is valid and usual: nesting, blanks, escapes, numbers without exponent. It leaves alone whatever is
//! invalid or rare, so it never has to say what is wrong, and never accepts what the arbiter would refuse.
//!
//! Why it is enough to look at few bytes: every quote, backslash and control byte is in the index. Outside strings
//! each byte is looked at; inside a string the next indexed byte is its end, an escape, or a reason to stop. A newline
//! is a control byte, so a walk never leaves its line. That the text is UTF-8 has to be checked apart.

use ringest_wire::Severity;
use ringest_wire::control::PREFIX;

/// A place in a block that is indexed.
pub(super) struct Walk<'a> {
    /// The block, and perhaps more behind it.
    bytes: &'a [u8],
    /// Where its quotes, backslashes and control bytes are.
    positions: &'a [u32],
    at: usize,
    /// The number of the first indexed byte from `at` on.
    cursor: usize,
    /// How many objects and arrays are open here.
    depth: usize,
    /// One bit for each of them, the innermost lowest: 1 for an object, 0 for an array.
    levels: u64,
}

/// Which member of the record a key names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Level,
    Message,
    Other,
}

/// What stands at a place.
enum Next {
    Key,
    Value,
    /// What follows a value.
    Rest,
    /// What follows the record.
    End,
}

impl<'a> Walk<'a> {
    pub(super) fn new(bytes: &'a [u8], positions: &'a [u32], at: usize, cursor: usize) -> Walk<'a> {
        Walk {
            bytes,
            positions,
            at,
            cursor,
            depth: 0,
            levels: 0,
        }
    }

    /// Where the walk is: behind what it has accepted.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The number of the first indexed byte that was not accepted. At most that of the newline.
    pub(super) fn cursor(&self) -> usize {
        self.cursor
    }

    /// Walks over one line, up to its ending. `None`: ask the arbiter.
    #[inline(always)]
    pub(super) fn record(&mut self, depth_max: usize) -> Option<Severity> {
        if self.word(self.at) & mask(PREFIX.len()) == word(PREFIX) {
            return None;
        }
        let mut severity = None;
        let mut has_message = false;
        let mut next = self.open(depth_max, b'{')?;
        loop {
            if let Next::Key = next {
                match self.key()? {
                    Key::Level => {
                        let name = self.plain_string()?;
                        // Which of two levels counts is for the arbiter to say.
                        if severity.replace(Severity::from_name(name)).is_some() {
                            return None;
                        }
                        next = self.rest()?;
                        continue;
                    }
                    Key::Message => has_message = true,
                    Key::Other => {}
                }
            }
            next = self.value(depth_max)?;
            while let Next::Rest = next {
                next = self.rest()?;
            }
            if let Next::End = next {
                return severity.filter(|_| has_message);
            }
        }
    }

    /// A key, its colon, and the blanks behind it.
    #[inline(always)]
    fn key(&mut self) -> Option<Key> {
        let open = self.at;
        let plain = self.string()?;
        let mut key = Key::Other;
        if self.depth == 1 {
            if !plain {
                return None;
            }
            let start = self.word(open);
            if start & mask(7) == word(b"\"level\"") {
                key = Key::Level;
            } else if start == word(b"\"message") && self.at == open + b"\"message\"".len() {
                key = Key::Message;
            }
        }
        if self.byte() != b':' {
            self.blanks();
            if self.byte() != b':' {
                return None;
            }
        }
        self.at += 1;
        self.blanks();
        Some(key)
    }

    /// A value; of an object or array that is not empty, what opens it.
    #[inline(always)]
    fn value(&mut self, depth_max: usize) -> Option<Next> {
        let first = self.byte();
        if first == b'"' {
            self.string()?;
            return Some(Next::Rest);
        }
        match first {
            b'-' | b'0'..=b'9' => self.number()?,
            b'{' | b'[' => return self.open(depth_max, first),
            b't' => self.literal(b"true")?,
            b'f' => self.literal(b"false")?,
            b'n' => self.literal(b"null")?,
            _ => return None,
        }
        Some(Next::Rest)
    }

    /// What opens an object or array, up to its first key or value. One that is empty is taken whole.
    #[inline(always)]
    fn open(&mut self, depth_max: usize, bracket: u8) -> Option<Next> {
        if self.byte() != bracket || self.depth == depth_max {
            return None;
        }
        self.at += 1;
        self.blanks();
        let first = self.byte();
        // `}` and `]` follow their counterparts by two in ASCII.
        if first == bracket + 2 {
            self.at += 1;
            return (self.depth > 0).then_some(Next::Rest);
        }
        self.depth += 1;
        self.levels <<= 1;
        if bracket == b'[' {
            return Some(Next::Value);
        }
        self.levels |= 1;
        (first == b'"').then_some(Next::Key)
    }

    /// What follows a value: a comma and the next key or value, or the end of what contains it.
    #[inline(always)]
    fn rest(&mut self) -> Option<Next> {
        self.blanks();
        let in_object = self.levels & 1 == 1;
        match self.byte() {
            b',' => {
                self.at += 1;
                self.blanks();
                if !in_object {
                    return Some(Next::Value);
                }
                (self.byte() == b'"').then_some(Next::Key)
            }
            b'}' if in_object => Some(self.close()),
            b']' if !in_object => Some(self.close()),
            _ => None,
        }
    }

    #[inline(always)]
    fn close(&mut self) -> Next {
        self.at += 1;
        self.depth -= 1;
        self.levels >>= 1;
        if self.depth > 0 {
            return Next::Rest;
        }
        self.blanks();
        Next::End
    }

    /// A string; whether it is free of escapes.
    #[inline(always)]
    fn string(&mut self) -> Option<bool> {
        let close = self.position(1);
        self.cursor += 1;
        if self.byte_at(close) == b'"' {
            self.cursor += 1;
            self.at = close + 1;
            return Some(true);
        }
        (self.at, self.cursor) = escaped_string(self.bytes, self.positions, self.cursor)?;
        Some(false)
    }

    /// A string without escapes: what is between its quotes.
    #[inline(always)]
    fn plain_string(&mut self) -> Option<&'a [u8]> {
        let open = self.at;
        if self.byte() != b'"' || !self.string()? {
            return None;
        }
        self.bytes.get(open + 1..self.at - 1)
    }

    /// A number that fits a float for certain: no exponent, and at most 24 digits before and behind the point.
    #[inline(always)]
    fn number(&mut self) -> Option<()> {
        self.at += usize::from(self.byte() == b'-');
        let leading_zero = self.byte() == b'0';
        let len = self.digits()?;
        if leading_zero && len > 1 {
            return None;
        }
        if self.byte() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        (self.byte() | 0x20 != b'e').then_some(())
    }

    /// 1 to 23 digits; how many.
    #[inline(always)]
    fn digits(&mut self) -> Option<usize> {
        let start = self.at;
        for _ in 0..3 {
            let run = digit_run(self.word(self.at));
            self.at += run;
            if run < 8 {
                return (self.at > start).then_some(self.at - start);
            }
        }
        None
    }

    #[inline(always)]
    fn literal<const LEN: usize>(&mut self, name: &[u8; LEN]) -> Option<()> {
        let found = self.word(self.at) & mask(LEN) == word(name);
        self.at += LEN;
        found.then_some(())
    }

    #[inline(always)]
    fn blanks(&mut self) {
        while self.byte() == b' ' {
            self.at += 1;
        }
    }

    #[inline(always)]
    fn byte(&self) -> u8 {
        self.byte_at(self.at)
    }

    /// Behind the bytes everything reads as zero, which nothing accepts.
    #[inline(always)]
    fn byte_at(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }

    /// Eight bytes, the first one lowest.
    #[inline(always)]
    fn word(&self, at: usize) -> u64 {
        match self.bytes.get(at..).and_then(<[u8]>::first_chunk) {
            Some(&bytes) => u64::from_le_bytes(bytes),
            None => last_word(self.bytes, at),
        }
    }

    /// The offset of the `ahead`th indexed byte from the cursor on. Behind the last, an offset behind all bytes.
    #[inline(always)]
    fn position(&self, ahead: usize) -> usize {
        self.positions
            .get(self.cursor + ahead)
            .map_or(usize::MAX / 2, |&at| at as usize)
    }
}

#[cold]
#[inline(never)]
fn last_word(bytes: &[u8], at: usize) -> u64 {
    let mut last = [0; 8];
    let rest = bytes.get(at..).unwrap_or_default();
    last[..rest.len()].copy_from_slice(rest);
    u64::from_le_bytes(last)
}

/// The rest of a string, from the first indexed byte that is not its end: where it ends, and the cursor behind it.
#[inline(never)]
fn escaped_string(bytes: &[u8], positions: &[u32], cursor: usize) -> Option<(usize, usize)> {
    let mut walk = Walk::new(bytes, positions, 0, cursor);
    loop {
        let at = walk.position(0);
        match walk.byte_at(at) {
            b'"' => return Some((at + 1, walk.cursor + 1)),
            b'\\' => {}
            _ => return None,
        }
        match walk.byte_at(at + 1) {
            // These are in the index themselves.
            b'"' | b'\\' => walk.cursor += 2,
            b'/' | b'b' | b'f' | b'n' | b'r' | b't' => walk.cursor += 1,
            b'u' => {
                let unit = hex(walk.word(at + 2) as u32)?;
                // Half a pair; whether it is a pair is rare enough for the arbiter.
                if (0xd800..0xe000).contains(&unit) {
                    return None;
                }
                walk.cursor += 1;
            }
            _ => return None,
        }
    }
}

/// Up to eight bytes as [`Walk::word`] has them.
const fn word(bytes: &[u8]) -> u64 {
    let mut word = 0;
    let mut at = bytes.len();
    while at > 0 {
        at -= 1;
        word = word << 8 | bytes[at] as u64;
    }
    word
}

/// The lowest `len` bytes.
const fn mask(len: usize) -> u64 {
    u64::MAX >> (64 - 8 * len)
}

/// How many of the eight bytes are digits before the first that is none.
#[inline(always)]
fn digit_run(word: u64) -> usize {
    // What is 10 or more carries into the top bit when 0x76 is added. A byte of 0x8a or more carries into the next one
    // as well, which no longer matters.
    let values = word ^ 0x3030_3030_3030_3030;
    let others = (values.wrapping_add(0x7676_7676_7676_7676) | values) & 0x8080_8080_8080_8080;
    others.trailing_zeros() as usize / 8
}

/// The number that four hexadecimal digits spell, the first one in the lowest byte.
fn hex(digits: u32) -> Option<u32> {
    digits
        .to_le_bytes()
        .into_iter()
        .try_fold(0, |unit, digit| Some(unit * 16 + char::from(digit).to_digit(16)?))
}
