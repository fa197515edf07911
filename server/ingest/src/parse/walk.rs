//! The fast path: from one quote to the next over the block index, without looking at what lies inside strings.
//!
//! [`record`] either knows that a line is a record, and how severe, or leaves it to the arbiter. It takes
//! whatever is valid and usual: nesting, blanks, escapes, numbers without exponent. It leaves alone whatever is
//! invalid or rare, so it never has to say what is wrong, and never accepts what the arbiter would refuse.
//!
//! Why it is enough to look at few bytes: every quote, backslash and control byte is in the index. Outside strings
//! each byte is looked at; inside a string the next indexed byte is its end, an escape, or a reason to stop. A newline
//! is a control byte, so a walk never leaves its line. That the text is UTF-8 has to be checked apart.
//!
//! Why it is fast: where two strings stand side by side, as in most of a log line, one comparison of the bytes `":"`
//! or `","` settles the end of one and the start of the other. All of it is one loop whose state fits the registers;
//! only what is rare is a call, and gets values, not the walk.

use ringest_wire::Severity;
use ringest_wire::control::PREFIX;
use std::ops::Range;

/// Bytes that have to be readable behind a line for it to be walked; they are never accepted.
pub(super) const LOOKAHEAD: usize = 8;

/// How far a walk came.
pub(super) struct Walked {
    /// Where it stopped: at the line's ending, if it knew the line.
    pub(super) at: usize,
    /// The number of the first indexed byte that was not accepted. At most that of the newline.
    pub(super) cursor: usize,
    /// `None`: ask the arbiter.
    pub(super) severity: Option<Severity>,
}

/// Walks over the line that starts at `at`. `bytes` is the indexed block and perhaps more; `positions` is its index,
/// and `cursor` the number of the first indexed byte of the line.
#[inline(never)]
pub(super) fn record(bytes: &[u8], positions: &[u32], at: usize, cursor: usize, depth_max: usize) -> Walked {
    let mut walk = Walk {
        bytes,
        positions,
        at: at as u32,
        cursor: cursor as u32,
        levels: OUTSIDE,
        level: 0..0,
        has_message: false,
    };
    let known = walk.record(1 << depth_max.min(63));
    let severity = known.filter(|_| walk.has_message && walk.level.end > 0).and_then(|()| {
        let name = bytes.get(walk.level.start as usize..walk.level.end as usize)?;
        Some(Severity::from_name(name))
    });
    Walked { at: walk.at as usize, cursor: walk.cursor as usize, severity }
}

/// A place in a line. Offsets and numbers are `u32`, so that adding to one as a `usize` cannot overflow and one
/// comparison is enough to check a bound.
struct Walk<'a> {
    bytes: &'a [u8],
    positions: &'a [u32],
    at: u32,
    /// The number of the first indexed byte from `at` on.
    cursor: u32,
    /// The open objects and arrays, the innermost in the lowest bit: 1 for an object, 0 for an array; above them a 1.
    levels: u64,
    /// What stands between the quotes of the level; it cannot end at 0.
    level: Range<u32>,
    has_message: bool,
}

/// The levels where nothing is open, and where only the record is.
const OUTSIDE: u64 = 0b1;
const IN_RECORD: u64 = 0b11;

/// What stands at a place.
enum Next {
    Key,
    Value,
    /// What follows a value.
    Rest,
}

impl Walk<'_> {
    #[inline(always)]
    fn record(&mut self, levels_max: u64) -> Option<()> {
        if self.word(self.at)? & mask(PREFIX.len()) == word(PREFIX) {
            return None;
        }
        let Next::Key = self.open(levels_max, b'{')? else { return None };
        'key: loop {
            let [open, close] = [self.position(0)?, self.position(1)?];
            let colon = self.word(close)?;
            let mut next = if is_between_quotes(b':', colon) {
                let end = self.position(3)?;
                let key = self.word(open)?;
                if key & mask(7) == word(b"\"level\"") && self.levels == IN_RECORD {
                    // Which of two levels counts is for the arbiter to say, and so is what an escape spells.
                    if self.level.end > 0 || self.byte_at(end)? != b'"' {
                        return None;
                    }
                    self.level = self.position(2)? + 1..end;
                }
                if key == word(b"\"message") && close == open + 8 && self.levels == IN_RECORD {
                    self.has_message = true;
                }
                if is_between_quotes(b',', self.word(end)?) {
                    self.cursor += 4;
                    continue 'key;
                }
                self.cursor += 2;
                self.string()?;
                Next::Rest
            } else {
                self.key(open)?;
                Next::Value
            };
            loop {
                next = match next {
                    Next::Key => continue 'key,
                    Next::Value => self.value(levels_max)?,
                    Next::Rest => self.rest()?,
                };
                if self.levels == OUTSIDE {
                    return self.blanks();
                }
            }
        }
    }

    /// A key, its colon, and the blanks behind it, before a value that may be anything.
    #[inline(always)]
    fn key(&mut self, open: u32) -> Option<()> {
        let is_plain = self.string()?;
        if self.levels == IN_RECORD {
            let key = self.word(open)?;
            if !is_plain || key & mask(7) == word(b"\"level\"") {
                return None;
            }
            self.has_message |= key == word(b"\"message") && self.at == open + 9;
        }
        self.blanks()?;
        if self.byte()? != b':' {
            return None;
        }
        self.at += 1;
        self.blanks()
    }

    /// A value; of an object or array that is not empty, what opens it.
    #[inline(always)]
    fn value(&mut self, levels_max: u64) -> Option<Next> {
        let first = self.byte()?;
        if first == b'"' {
            self.string()?;
            return Some(Next::Rest);
        }
        match first {
            b'-' | b'0'..=b'9' => self.number()?,
            b'{' | b'[' => return self.open(levels_max, first),
            b't' => self.literal(b"true")?,
            b'f' => self.literal(b"false")?,
            b'n' => self.literal(b"null")?,
            _ => return None,
        }
        Some(Next::Rest)
    }

    /// What opens an object or array, up to its first key or value. One that is empty is taken whole.
    #[inline(always)]
    fn open(&mut self, levels_max: u64, bracket: u8) -> Option<Next> {
        if self.byte()? != bracket || self.levels >= levels_max {
            return None;
        }
        self.at += 1;
        self.blanks()?;
        let first = self.byte()?;
        // `}` and `]` follow their counterparts by two in ASCII.
        if first == bracket + 2 {
            self.at += 1;
            return Some(Next::Rest);
        }
        self.levels = self.levels << 1 | u64::from(bracket == b'{');
        match (bracket, first) {
            (b'{', b'"') => Some(Next::Key),
            (b'{', _) => None,
            _ => Some(Next::Value),
        }
    }

    /// What follows a value: a comma and the next key or value, or the end of what contains it.
    #[inline(always)]
    fn rest(&mut self) -> Option<Next> {
        self.blanks()?;
        let in_object = self.levels & 1 == 1;
        match self.byte()? {
            b',' => {
                self.at += 1;
                self.blanks()?;
                if !in_object {
                    return Some(Next::Value);
                }
                (self.byte()? == b'"').then_some(Next::Key)
            }
            b'}' if in_object => Some(self.close()),
            b']' if !in_object => Some(self.close()),
            _ => None,
        }
    }

    #[inline(always)]
    fn close(&mut self) -> Next {
        self.at += 1;
        self.levels >>= 1;
        Next::Rest
    }

    /// A string; whether it is free of escapes.
    #[inline(always)]
    fn string(&mut self) -> Option<bool> {
        let close = self.position(1)?;
        self.cursor += 1;
        if self.byte_at(close)? == b'"' {
            self.cursor += 1;
            self.at = close + 1;
            return Some(true);
        }
        (self.at, self.cursor) = escaped_string(self.bytes, self.positions, self.cursor)?;
        Some(false)
    }

    /// A number that fits a float for certain: no exponent, and less than 24 digits before and behind the point.
    #[inline(always)]
    fn number(&mut self) -> Option<()> {
        self.at += u32::from(self.byte()? == b'-');
        let leading_zero = self.byte()? == b'0';
        let len = self.digits()?;
        if leading_zero && len > 1 {
            return None;
        }
        if self.byte()? == b'.' {
            self.at += 1;
            self.digits()?;
        }
        (self.byte()? | 0x20 != b'e').then_some(())
    }

    /// 1 to 23 digits; how many.
    #[inline(always)]
    fn digits(&mut self) -> Option<u32> {
        let start = self.at;
        for _ in 0..3 {
            let run = digit_run(self.word(self.at)?);
            self.at += run;
            if run < 8 {
                return (self.at > start).then_some(self.at - start);
            }
        }
        None
    }

    #[inline(always)]
    fn literal<const LEN: usize>(&mut self, name: &[u8; LEN]) -> Option<()> {
        let found = self.word(self.at)? & mask(LEN) == word(name);
        self.at += LEN as u32;
        found.then_some(())
    }

    #[inline(always)]
    fn blanks(&mut self) -> Option<()> {
        while self.byte()? == b' ' {
            self.at += 1;
        }
        Some(())
    }

    #[inline(always)]
    fn byte(&self) -> Option<u8> {
        self.byte_at(self.at)
    }

    #[inline(always)]
    fn byte_at(&self, at: u32) -> Option<u8> {
        self.bytes.get(at as usize).copied()
    }

    #[inline(always)]
    fn word(&self, at: u32) -> Option<u64> {
        word_at(self.bytes, at)
    }

    /// The offset of the `ahead`th indexed byte from the cursor on.
    #[inline(always)]
    fn position(&self, ahead: usize) -> Option<u32> {
        self.positions.get(self.cursor as usize + ahead).copied()
    }
}

/// Whether `word` begins with two quotes and nothing but `sign` between them, or `sign` and a blank.
#[inline(always)]
fn is_between_quotes(sign: u8, word: u64) -> bool {
    word & mask(3) == self::word(&[b'"', sign, b'"']) || word & mask(4) == self::word(&[b'"', sign, b' ', b'"'])
}

/// The rest of a string, from the first indexed byte that is not its end: where it ends, and the cursor behind it.
#[inline(never)]
fn escaped_string(bytes: &[u8], positions: &[u32], mut cursor: u32) -> Option<(u32, u32)> {
    loop {
        let at = *positions.get(cursor as usize)?;
        match bytes.get(at as usize)? {
            b'"' => return Some((at + 1, cursor + 1)),
            b'\\' => {}
            _ => return None,
        }
        match bytes.get(at as usize + 1)? {
            // These are in the index themselves.
            b'"' | b'\\' => cursor += 2,
            b'/' | b'b' | b'f' | b'n' | b'r' | b't' => cursor += 1,
            b'u' => {
                let unit = hex(word_at(bytes, at + 2)? as u32)?;
                // Half a pair; whether it is a pair is rare enough for the arbiter.
                if (0xd800..0xe000).contains(&unit) {
                    return None;
                }
                cursor += 1;
            }
            _ => return None,
        }
    }
}

/// Eight bytes, the first one lowest.
#[inline(always)]
fn word_at(bytes: &[u8], at: u32) -> Option<u64> {
    let bytes = bytes.get(at as usize..at as usize + 8)?;
    Some(u64::from_le_bytes(bytes.try_into().expect("a slice of eight")))
}

/// Up to eight bytes as [`word_at`] has them.
#[inline(always)]
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
fn digit_run(word: u64) -> u32 {
    // What is 10 or more carries into the top bit when 0x76 is added. A byte of 0x8a or more carries into the next one
    // as well, which no longer matters.
    let values = word ^ 0x3030_3030_3030_3030;
    let others = (values.wrapping_add(0x7676_7676_7676_7676) | values) & 0x8080_8080_8080_8080;
    others.trailing_zeros() / 8
}

/// The number that four hexadecimal digits spell, the first one in the lowest byte.
fn hex(digits: u32) -> Option<u32> {
    digits.to_le_bytes().into_iter().try_fold(0, |unit, digit| Some(unit * 16 + char::from(digit).to_digit(16)?))
}
