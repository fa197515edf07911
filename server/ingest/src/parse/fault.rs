//! Where a line stops being a record's JSON, in its bytes.
//!
//! Called only for lines that are already refused, to tell the client which byte is to blame, so it is written to be
//! read: one byte after the other, no recursion, one bit of memory per open object or array. It never decides whether
//! a line is taken.

use super::Reject;
use ringest_wire::Code;

/// The first fault of `line`; `None` where it is JSON that nests no deeper than `depth_max`.
pub(super) fn first(line: &[u8], depth_max: usize) -> Option<Reject> {
    if let Err(error) = simdutf8::compat::from_utf8(line) {
        return Some(Reject { code: Code::InvalidUtf8, at: error.valid_up_to() as u32 });
    }
    let mut scan = Scan { line, at: 0 };
    match scan.document(depth_max) {
        Ok(()) => None,
        Err(Fault::Byte) => Some(Reject { code: Code::BadJson, at: scan.at as u32 }),
        Err(Fault::Depth) => Some(Reject { code: Code::TooDeep, at: depth_max as u32 }),
    }
}

/// The offset of the value of the `member`th member of the object that is `line`. The line has to be valid.
pub(super) fn value_of(line: &[u8], member: usize) -> usize {
    let mut scan = Scan { line, at: 0 };
    let mut colons = 0;
    let mut depth = 0;
    while let Some(byte) = scan.peek() {
        match byte {
            b'"' if scan.string().is_err() => break,
            b'"' => continue,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b':' if depth == 1 => {
                colons += 1;
                if colons == member + 1 {
                    scan.at += 1;
                    scan.blanks();
                    break;
                }
            }
            _ => {}
        }
        scan.at += 1;
    }
    scan.at
}

enum Fault {
    /// The byte at `at` cannot stand there.
    Byte,
    /// An object or array opens at `at` one level too deep.
    Depth,
}

struct Scan<'a> {
    line: &'a [u8],
    /// All bytes before it are well.
    at: usize,
}

impl Scan<'_> {
    fn document(&mut self, depth_max: usize) -> Result<(), Fault> {
        // One bit per open level, the innermost lowest: 1 for an object, 0 for an array.
        let mut levels = 0_u64;
        let mut depth = 0;
        self.blanks();
        loop {
            // A value starts here.
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    if depth == depth_max {
                        return Err(Fault::Depth);
                    }
                    self.at += 1;
                    depth += 1;
                    levels = levels << 1 | u64::from(open == b'{');
                    self.blanks();
                    if self.peek() != Some(open + 2) {
                        if open == b'{' {
                            self.key()?;
                        }
                        continue;
                    }
                }
                Some(b'"') => self.string()?,
                Some(b't') => self.literal(b"true")?,
                Some(b'f') => self.literal(b"false")?,
                Some(b'n') => self.literal(b"null")?,
                Some(b'-' | b'0'..=b'9') => self.number()?,
                _ => return Err(Fault::Byte),
            }
            // A value has ended here, or an empty object or array is about to.
            loop {
                self.blanks();
                if depth == 0 {
                    return if self.at == self.line.len() { Ok(()) } else { Err(Fault::Byte) };
                }
                let in_object = levels & 1 == 1;
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        self.blanks();
                        if in_object {
                            self.key()?;
                        }
                        break;
                    }
                    Some(b'}') if in_object => {}
                    Some(b']') if !in_object => {}
                    _ => return Err(Fault::Byte),
                }
                self.at += 1;
                depth -= 1;
                levels >>= 1;
            }
        }
    }

    /// A key, its colon, and the blanks up to the value.
    fn key(&mut self) -> Result<(), Fault> {
        self.string()?;
        self.blanks();
        self.expect(b':')?;
        self.blanks();
        Ok(())
    }

    fn string(&mut self) -> Result<(), Fault> {
        self.expect(b'"')?;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                Some(0x20..) => self.at += 1,
                _ => return Err(Fault::Byte),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        let start = self.at;
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                return Ok(());
            }
            Some(b'u') => {}
            _ => return Err(Fault::Byte),
        }
        let paired = match self.unit()? {
            0xd800..0xdc00 => {
                let low = self.line[self.at..].starts_with(b"\\u");
                self.at += usize::from(low);
                low && (0xdc00..0xe000).contains(&self.unit()?)
            }
            0xdc00..0xe000 => false,
            _ => true,
        };
        if !paired {
            // Half a surrogate pair: the escape is to blame, not what follows.
            self.at = start;
            return Err(Fault::Byte);
        }
        Ok(())
    }

    /// The four digits of `uXXXX`.
    fn unit(&mut self) -> Result<u32, Fault> {
        self.at += 1;
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16)).ok_or(Fault::Byte)?;
            unit = unit * 16 + digit;
            self.at += 1;
        }
        Ok(unit)
    }

    fn number(&mut self) -> Result<(), Fault> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        let text = str::from_utf8(&self.line[start..self.at]).expect("a number is ASCII");
        if text.parse().is_ok_and(f64::is_infinite) {
            self.at = start;
            return Err(Fault::Byte);
        }
        Ok(())
    }

    /// One digit or more.
    fn digits(&mut self) -> Result<(), Fault> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(Fault::Byte);
        }
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        Ok(())
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), Fault> {
        word.iter().try_for_each(|&byte| self.expect(byte))
    }

    fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        if self.peek() != Some(byte) {
            return Err(Fault::Byte);
        }
        self.at += 1;
        Ok(())
    }

    fn blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.line.get(self.at).copied()
    }
}
