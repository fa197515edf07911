//! Whether a line is a record, and how severe it says it is.
//!
//! [`Parser`] takes lines as they lie in a receive buffer and answers each with a [`Severity`] or a [`Reject`]. It
//! never changes, keeps or copies on a line, never recurses, and once made never allocates. It does not know what a
//! record is for.
//!
//! The verdict is that of simd-json (the `arbiter`). The faults of a line are looked for in this order, and the
//! first one found is the one told: `reserved_key`, `line_too_long`, `invalid_utf8`, then whatever comes first in
//! the line of `bad_json` and `too_deep`, then `not_object`, `missing_field`, `bad_type`. Of keys that occur twice the
//! last one counts.

mod arbiter;
mod fault;

use arbiter::Arbiter;
use memchr::memchr;
use ringest_wire::control::PREFIX;
use ringest_wire::{Code, Severity, frame};

/// The highest `depth_max`: one bit per level, in one word.
pub const DEPTH_MAX: usize = 64;

/// Why a line is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// What is wrong.
    pub code: Code,
    /// The byte of the line where it is wrong, or the limit that was passed (`too_deep`, `line_too_long`).
    pub at: u32,
}

/// One line of a body, as byte offsets in that body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its first byte.
    pub start: usize,
    /// Behind its last byte, the ending not counted.
    pub end: usize,
    /// The first byte of the line that follows.
    pub next: usize,
    /// Whether it is a record.
    pub verdict: Result<Severity, Reject>,
}

/// Judges lines, one by one or a body at a time.
pub struct Parser {
    line_len_max: usize,
    arbiter: Arbiter,
    /// Where the next line of the loaded body starts.
    at: usize,
}

impl Parser {
    /// A parser for lines of at most `line_len_max` bytes, their ending not counted, that nest at most `depth_max`
    /// deep; the braces of the record itself are the first level. Takes all the memory it will ever use.
    pub fn new(line_len_max: usize, depth_max: usize) -> Parser {
        assert!(line_len_max <= u32::MAX as usize / 2, "an offset in a line fits a u32");
        assert!((1..=DEPTH_MAX).contains(&depth_max), "depth_max is 1 to {DEPTH_MAX}");
        Parser {
            line_len_max,
            arbiter: Arbiter::new(line_len_max, depth_max),
            at: 0,
        }
    }

    /// Judges one line, without its ending.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&mut self, line: &[u8]) -> Result<Severity, Reject> {
        if line.starts_with(PREFIX) {
            return Err(Reject {
                code: Code::ReservedKey,
                at: 0,
            });
        }
        if line.len() > self.line_len_max {
            return Err(Reject {
                code: Code::LineTooLong,
                at: self.line_len_max as u32,
            });
        }
        self.arbiter.judge(line)
    }

    /// Begins with a body: whole lines, each ending in `\n`.
    pub fn load(&mut self, body: &[u8]) {
        debug_assert!(
            body.last().is_none_or(|&byte| byte == b'\n'),
            "a body is a run of whole lines"
        );
        self.at = 0;
    }

    /// Judges the next line that is not empty of the body that was loaded; `None` behind the last.
    pub fn next_line(&mut self, body: &[u8]) -> Option<Line> {
        loop {
            let start = self.at;
            let newline = start + memchr(b'\n', &body[start..])?;
            self.at = newline + 1;
            let line = frame::trim_cr(&body[start..newline]);
            if !line.is_empty() {
                let verdict = self.check(line);
                return Some(Line {
                    start,
                    end: start + line.len(),
                    next: newline + 1,
                    verdict,
                });
            }
        }
    }
}
