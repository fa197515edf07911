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
    pub(super) end: usize,
    /// The number of the first indexed byte that was not accepted: that of the newline, or an earlier one.
    pub(super) cursor: usize,
    /// `None`: ask the arbiter.
    pub(super) severity: Option<Severity>,
}

/// Walks over the line that starts at `at`. `bytes` is the indexed block and perhaps more; `positions` is its index,
/// and `cursor` the number of the first indexed byte of the line.
#[inline(never)]
pub(super) fn record(bytes: &[u8], positions: &[u32], at: usize, cursor: usize, depth_max: usize) -> Walked {
    let (at, cursor) = (at as u32, cursor as u32);
    let mut walk = Walk { bytes, positions, at, cursor, levels: OUTSIDE, level: 0..0, has_message: false };
    let known = walk.record(1 << depth_max.min(63)).is_some() && walk.has_message && walk.level.end > 0;
    let level = bytes.get(walk.level.start as usize..walk.level.end as usize);
    Walked {
        end: walk.at as usize,
        cursor: walk.cursor as usize,
        severity: level.filter(|_| known).map(Severity::from_name),
    }
}

/// Where a number, `true`, `false` or `null` ends that starts at `at`, as far as the walk knows it.
#[inline(always)]
pub(super) fn scalar(bytes: &[u8], at: u32) -> Option<u32> {
    let mut walk = Walk { bytes, positions: &[], at, cursor: 0, levels: OUTSIDE, level: 0..0, has_message: false };
    match walk.byte()? {
        b'0'..=b'9' => walk.number()?,
        b'-' => {
            walk.at += 1;
            walk.number()?;
        }
        b't' => walk.literal(b"true")?,
        b'f' => walk.literal(b"false")?,
        b'n' => walk.literal(b"null")?,
        _ => return None,
    }
    Some(walk.at)
}

/// A place in a line. Offsets and numbers are `u32`, so that adding to one as a `usize` cannot overflow and one
/// comparison is enough to check a bound.
struct Walk<'a> {
    bytes: &'a [u8],
    positions: &'a [u32],
    /// Out of date where a key starts: the cursor knows.
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

impl Walk<'_> {
    /// Three loops, one in the other, for what can stand at a place: a key, a value, or what follows a value.
    #[inline(always)]
    fn record(&mut self, levels_max: u64) -> Option<()> {
        let start = self.word(self.at)?;
        if start & mask(PREFIX.len()) == word(PREFIX) || start as u8 != b'{' || !self.open(levels_max, b'{')? {
            return None;
        }
        'key: loop {
            let &[open, close, value, end] = self.positions.get(self.cursor as usize..)?.first_chunk()?;
            let colon = self.word(close)?;
            if is_between_quotes(b':', colon) {
                if may_matter(open, close) && self.levels == IN_RECORD {
                    self.note(open, Some(value..end))?;
                }
                if is_between_quotes(b',', self.word(end)?) {
                    self.cursor += 4;
                    continue 'key;
                }
                self.cursor += 2;
                self.at = value;
            } else {
                self.key(open, close, colon)?;
            }
            'value: loop {
                match self.byte()? {
                    b'0'..=b'9' => self.number()?,
                    b'"' => self.string()?,
                    b'-' => {
                        self.at += 1;
                        self.number()?;
                    }
                    b'{' => {
                        if self.open(levels_max, b'{')? {
                            continue 'key;
                        }
                    }
                    b'[' => {
                        if self.open(levels_max, b'[')? {
                            continue 'value;
                        }
                    }
                    b't' => self.literal(b"true")?,
                    b'f' => self.literal(b"false")?,
                    b'n' => self.literal(b"null")?,
                    _ => return None,
                }
                loop {
                    let in_object = self.levels & 1 == 1;
                    if in_object && self.word(self.at)? as u16 == word(b",\"") as u16 {
                        continue 'key;
                    }
                    self.blanks()?;
                    match self.byte()? {
                        b',' => {
                            self.at += 1;
                            self.blanks()?;
                            if !in_object {
                                continue 'value;
                            }
                            if self.byte()? != b'"' {
                                return None;
                            }
                            continue 'key;
                        }
                        b'}' if in_object => {}
                        b']' if !in_object => {}
                        _ => return None,
                    }
                    self.at += 1;
                    self.levels >>= 1;
                    if self.levels == OUTSIDE {
                        return self.ending();
                    }
                }
            }
        }
    }

    /// Notes a member of the record, the key of which is as long as `level` or `message`. `value` are the first two
    /// indexed bytes of its value, if that is a string.
    #[inline(always)]
    fn note(&mut self, open: u32, value: Option<Range<u32>>) -> Option<()> {
        let key = self.word(open)?;
        // The whole key but its closing quote, which must follow: none of these bytes is a quote.
        if key == word(b"\"message") {
            self.has_message = true;
        }
        if key & mask(7) == word(b"\"level\"") {
            // Of two levels the last one counts, as it should. What an escape spells is for the arbiter to say.
            let Range { start, end } = value?;
            if self.byte_at(end)? != b'"' {
                return None;
            }
            self.level = start + 1..end;
        }
        Some(())
    }

    /// A key that spans from `open` to `close`, its colon, and the blanks behind it. `word` is what `close` begins.
    #[inline(always)]
    fn key(&mut self, open: u32, close: u32, word: u64) -> Option<()> {
        if self.levels == IN_RECORD {
            // A key with an escape may be `level` as well.
            if word as u8 != b'"' {
                return None;
            }
            if may_matter(open, close) {
                self.note(open, None)?;
            }
        }
        if word as u16 == self::word(b"\":") as u16 {
            self.at = close + 2;
            self.cursor += 2;
            return self.blanks();
        }
        self.string()?;
        self.blanks()?;
        if self.byte()? != b':' {
            return None;
        }
        self.at += 1;
        self.blanks()
    }

    /// What opens an object or array, and the blanks behind it. Whether there is something in it; if not, it has been
    /// taken whole.
    #[inline(always)]
    fn open(&mut self, levels_max: u64, bracket: u8) -> Option<bool> {
        if self.levels >= levels_max {
            return None;
        }
        self.at += 1;
        self.blanks()?;
        let first = self.byte()?;
        // `}` and `]` follow their counterparts by two in ASCII.
        if first == bracket + 2 {
            self.at += 1;
            return Some(false);
        }
        let is_object = bracket == b'{';
        self.levels = self.levels << 1 | u64::from(is_object);
        (!is_object || first == b'"').then_some(true)
    }

    /// The ending of the line, behind the record; it is not consumed.
    #[inline(always)]
    fn ending(&mut self) -> Option<()> {
        self.blanks()?;
        match self.byte()? {
            b'\n' => Some(()),
            b'\r' if self.byte_at(self.at + 1)? == b'\n' => {
                self.cursor += 1;
                Some(())
            }
            _ => None,
        }
    }

    /// A string.
    #[inline(always)]
    fn string(&mut self) -> Option<()> {
        let close = self.position(1)?;
        if self.byte_at(close)? == b'"' {
            self.cursor += 2;
            self.at = close + 1;
        } else {
            (self.at, self.cursor) = escaped_string(self.bytes, self.positions, self.cursor + 1)?;
        }
        Some(())
    }

    /// A number without its sign, up to its exponent: that there is none is what follows a value to say. Less than 24
    /// digits before and behind the point, so that it fits a float for certain.
    #[inline(always)]
    fn number(&mut self) -> Option<()> {
        let leading_zero = self.byte()? == b'0';
        let (len, next) = self.digits()?;
        if leading_zero && len > 1 {
            return None;
        }
        if next == b'.' {
            self.at += 1;
            self.digits()?;
        }
        Some(())
    }

    /// 1 to 23 digits: how many, and the byte behind them.
    #[inline(always)]
    fn digits(&mut self) -> Option<(u32, u8)> {
        let start = self.at;
        for _ in 0..3 {
            let word = self.word(self.at)?;
            let run = digit_run(word);
            self.at += run;
            if run < 8 {
                return (self.at > start).then_some((self.at - start, (word >> (8 * run)) as u8));
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

/// Whether a key is as long as `level` or `message`.
#[inline(always)]
fn may_matter(open: u32, close: u32) -> bool {
    let len = close.wrapping_sub(open);
    // 6 or 8, the opening quote counted.
    len.wrapping_sub(6) & !2 == 0
}

/// Whether `word` begins with two quotes and nothing but `sign` between them, or `sign` and a blank.
#[inline(always)]
fn is_between_quotes(sign: u8, word: u64) -> bool {
    word & mask(3) == self::word(&[b'"', sign, b'"']) || word & mask(4) == self::word(&[b'"', sign, b' ', b'"'])
}

/// The rest of a string, from the first indexed byte that is not its end: where it ends, and the cursor behind it.
#[inline(never)]
pub(super) fn escaped_string(bytes: &[u8], positions: &[u32], mut cursor: u32) -> Option<(u32, u32)> {
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
                cursor += 1;
                match hex(word_at(bytes, at + 2)?)? {
                    // The first half of a surrogate pair; the second has to follow at once.
                    0xd800..0xdc00 => {
                        let follows = word_at(bytes, at + 6)? as u16 == word(b"\\u") as u16;
                        if !follows || !(0xdc00..0xe000).contains(&hex(word_at(bytes, at + 8)?)?) {
                            return None;
                        }
                        cursor += 1;
                    }
                    0xdc00..0xe000 => return None,
                    _ => {}
                }
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

/// The number that the first four bytes spell in hexadecimal digits.
fn hex(word: u64) -> Option<u32> {
    let digits = word.to_le_bytes().into_iter().take(4);
    digits.map(|digit| char::from(digit).to_digit(16)).try_fold(0, |unit, digit| Some(unit * 16 + digit?))
}
