//! Whether a line is a record, and how severe it says it is.
//!
//! [`Parser`] takes lines as they lie in a receive buffer and answers each with a [`Severity`] or a [`Reject`]. It
//! never changes, keeps or copies on a line, never recurses, and once made never allocates. It does not know what a
//! record is for.
//!
//! The verdict is that of simd-json (`arbiter`), but most records never get there: `walk` knows a usual record from
//! its quotes alone, which the block index finds in one pass over a piece of the body, and `shape` passes over what is
//! like a record that was walked over before but for its values. The faults of a line are looked
//! for in this order, and the first one found is the one told: `reserved_key`, `line_too_long`, `invalid_utf8`, then
//! whatever comes first in the line of `bad_json` and `too_deep`, then `not_object`, `missing_field`, `bad_type`. Of
//! keys that occur twice the last one counts.

mod arbiter;
mod fault;
mod shape;
mod walk;

use arbiter::Arbiter;
use memchr::{memchr, memrchr};
use ringest_simd::BlockIndex;
use ringest_wire::control::PREFIX;
use ringest_wire::{Code, Severity, frame};
use shape::{Place, Shapes};
use std::ops::Range;
use walk::LOOKAHEAD;

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

/// Records that lie one behind the other in a body, with their newlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Records {
    /// The first byte of the first.
    pub start: usize,
    /// Behind the newline of the last.
    pub end: usize,
    /// How many.
    pub rows: u32,
    /// How many of them name a level that is not known.
    pub unknown: u32,
    /// Only what is indexed at a time has ended with the last: there may be more behind it.
    pub goes_on: bool,
}

/// Judges lines, one by one or a body at a time.
pub struct Parser {
    line_len_max: usize,
    depth_max: usize,
    arbiter: Arbiter,
    /// Of records that were passed over lately, whoever sent them.
    shapes: Shapes,
    /// Of the line that [`Parser::check`] is given.
    line_index: BlockIndex,
    /// Of the piece.
    index: BlockIndex,
    /// The run of whole lines of the loaded body that is indexed.
    piece: Range<usize>,
    /// The longest piece that `index` has room for.
    index_len: usize,
    /// The piece is not UTF-8, so some line in it is not.
    suspect: bool,
    /// Where the next line of the loaded body starts.
    at: usize,
    /// The number of the first position in `index` that is not before `at`.
    cursor: usize,
}

impl Parser {
    /// A parser for lines of at most `line_len_max` bytes, their ending not counted, that nest at most `depth_max`
    /// deep; the braces of the record itself are the first level.
    ///
    /// Takes all the memory it will ever use: about 40 bytes per byte of `line_len_max`, of which the system gives out
    /// about 5 before a line of that length comes, and 8 KiB.
    pub fn new(line_len_max: usize, depth_max: usize) -> Parser {
        assert!(line_len_max <= u32::MAX as usize / 2, "an offset in a line fits a u32");
        assert!((1..=DEPTH_MAX).contains(&depth_max), "depth_max is 1 to {DEPTH_MAX}");
        let index_len = PIECE_LEN.max(line_len_max + b"\r\n".len());
        Parser {
            line_len_max,
            depth_max,
            arbiter: Arbiter::new(line_len_max, depth_max),
            shapes: Shapes::new(),
            line_index: BlockIndex::with_capacity(line_len_max + 1),
            index: BlockIndex::with_capacity(index_len),
            index_len,
            piece: 0..0,
            suspect: false,
            at: 0,
            cursor: 0,
        }
    }

    /// Judges one line, without its ending.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&mut self, line: &[u8]) -> Result<Severity, Reject> {
        if line.len() <= self.line_len_max {
            let body = self.arbiter.copy(line);
            self.line_index.build(&body[..line.len() + 1]);
            let walked = walk::record(body, self.line_index.guarded_positions(), 0, 0, self.depth_max);
            if let Some(severity) = walked.severity
                && walked.end == line.len()
                && (self.line_index.is_ascii() || simdutf8::basic::from_utf8(line).is_ok())
            {
                return Ok(severity);
            }
        }
        self.judge(line)
    }

    /// Begins with a body: whole lines, each ending in `\n`.
    pub fn load(&mut self, body: &[u8]) {
        debug_assert!(body.last().is_none_or(|&byte| byte == b'\n'), "a body is a run of whole lines");
        self.piece = 0..0;
        self.at = 0;
    }

    /// Passes over records that lie one behind the other, each of `min` severity at least and ended by `\n` alone: what
    /// a body mostly is, without a verdict for each. Stops where what is indexed at a time ends, so that they can be copied
    /// while they are in the nearest cache: then it says that it [goes on](Records::goes_on), and is called again. Else it has
    /// stopped before a line that is anything else, or below `min`, or not known to the walk, or of a piece that is not UTF-8,
    /// which [`next_line`](Self::next_line) then judges, or at the end.
    pub fn pass_records(&mut self, body: &[u8], min: Severity) -> Records {
        let mut records = Records { start: self.at, end: self.at, rows: 0, unknown: 0, goes_on: false };
        loop {
            if self.at == self.piece.end {
                if records.rows > 0 {
                    return Records { goes_on: true, ..records };
                }
                match piece_len(&body[self.at..]) {
                    Some(len) if len <= self.index_len => self.index_piece(body, len),
                    _ => return records,
                }
            }
            if self.suspect {
                return records;
            }
            let (base, piece) = (self.piece.start, &body[self.piece.start..]);
            if self.shapes.is_awake() {
                let from = Place { at: self.at - base, cursor: self.cursor };
                let run = self.shapes.run(piece, self.index.guarded_positions(), from, min, self.line_len_max);
                self.shapes.handle_hits(run.rows);
                (self.at, self.cursor) = (base + run.upto.at, run.upto.cursor);
                records.end = self.at;
                records.rows += run.rows;
                records.unknown += run.unknown;
                if run.is_held {
                    return records;
                }
                if self.at == self.piece.end {
                    continue;
                }
            }
            let start = self.at;
            let walked = walk::record(piece, self.index.guarded_positions(), start - base, self.cursor, self.depth_max);
            let Some(severity) = walked.severity.filter(|&severity| severity >= min) else { return records };
            let len = base + walked.end - start;
            // A walk that knew its line stopped at its ending; one with a `\r` before it is not stored as it lies.
            if piece[walked.end] != b'\n' || len > self.line_len_max {
                return records;
            }
            self.shapes.handle_miss(&piece[start - base..=walked.end]);
            self.cursor = walked.cursor + 1;
            self.at = start + len + 1;
            records.end = self.at;
            records.rows += 1;
            records.unknown += u32::from(severity == Severity::Unknown);
        }
    }

    /// Judges the next line that is not empty of the body that was loaded; `None` behind the last.
    #[inline]
    pub fn next_line(&mut self, body: &[u8]) -> Option<Line> {
        loop {
            if self.at == self.piece.end {
                let len = piece_len(&body[self.at..])?;
                if len > self.index_len {
                    return Some(self.skip_long_line(body, len));
                }
                self.index_piece(body, len);
            }
            let (base, start) = (self.piece.start, self.at);
            let piece = &body[base..];
            let walked = walk::record(piece, self.index.guarded_positions(), start - base, self.cursor, self.depth_max);
            self.skip_to_newline(piece, walked.cursor);
            let end = base + walked.end;
            if let Some(severity) = walked.severity
                && end - start <= self.line_len_max
                && !self.suspect
            {
                return Some(Line { start, end, next: self.at, verdict: Ok(severity) });
            }
            let line = frame::trim_cr(&body[start..self.at - 1]);
            if !line.is_empty() {
                let verdict = self.judge_slowly(body, line, walked.severity);
                return Some(Line { start, end: start + line.len(), next: self.at, verdict });
            }
        }
    }

    /// Goes behind the first newline from `cursor` on.
    #[inline]
    fn skip_to_newline(&mut self, piece: &[u8], cursor: usize) {
        let newline = self.index.positions()[cursor..]
            .iter()
            .position(|&at| piece[at as usize] == b'\n')
            .expect("a piece ends in a newline, and a walk does not leave its line");
        self.cursor = cursor + newline + 1;
        self.at = self.piece.start + self.index.positions()[cursor + newline] as usize + 1;
    }

    /// The verdict on the line before `at`, which the walk took for a record of that severity, or did not know.
    #[cold]
    fn judge_slowly(&mut self, body: &[u8], line: &[u8], severity: Option<Severity>) -> Result<Severity, Reject> {
        match severity {
            Some(severity) if line.len() <= self.line_len_max && line.is_ascii() => Ok(severity),
            None if body.len() - self.at < LOOKAHEAD => self.check(line),
            _ => self.judge(line),
        }
    }

    /// Indexes the next `len` bytes.
    fn index_piece(&mut self, body: &[u8], len: usize) {
        self.piece = self.at..self.at + len;
        self.cursor = 0;
        let piece = &body[self.piece.clone()];
        self.index.build(piece);
        self.suspect = !self.index.is_ascii() && simdutf8::basic::from_utf8(piece).is_err();
    }

    /// Refuses a line of `len` bytes that is longer than any line may be, without looking into it.
    #[cold]
    fn skip_long_line(&mut self, body: &[u8], len: usize) -> Line {
        let start = self.at;
        self.at += len;
        self.piece = self.at..self.at;
        let line = frame::trim_cr(&body[start..self.at - 1]);
        Line { start, end: start + line.len(), next: self.at, verdict: self.judge(line) }
    }

    /// The verdict on a line that the walk does not know.
    #[cold]
    fn judge(&mut self, line: &[u8]) -> Result<Severity, Reject> {
        if line.starts_with(PREFIX) {
            return Err(Reject { code: Code::ReservedKey, at: 0 });
        }
        if line.len() > self.line_len_max {
            return Err(Reject { code: Code::LineTooLong, at: self.line_len_max as u32 });
        }
        self.arbiter.judge(line)
    }
}

/// The next piece of what is left of a body: as many whole lines as fit, or one that is longer.
fn piece_len(rest: &[u8]) -> Option<usize> {
    let fitting = &rest[..rest.len().min(PIECE_LEN)];
    let newline = memrchr(b'\n', fitting).or_else(|| memchr(b'\n', rest))?;
    Some(newline + 1)
}

/// Bytes indexed at a time. From 8 to 64 KiB the speed is the same; 16 take less memory, and leave fewer neighbours to a
/// line that is not UTF-8.
const PIECE_LEN: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_passed_over_in_runs_are_those_that_are_judged_one_by_one() {
        let lines: [&[u8]; 10] = [
            b"{\"level\":\"info\",\"message\":\"x\"}\n",
            b"{\"level\":\"odd\",\"message\":\"longer than the others are\"}\n",
            b"{\"level\":\"trace\",\"message\":\"below\"}\n",
            b"{\"level\":\"info\",\"message\":\"ended otherwise\"}\r\n",
            b"{\"level\":\"info\",\"message\":1e3}\n",
            b"{\"level\":\"info\",\"message\":\"\xff\"}\n",
            b"{\"level\":\"info\",\"message\":\"this line is longer than a line may be in this test, by a few bytes\"}\n",
            b"{\"$ping\":1}\n",
            b"\n",
            b"no\n",
        ];
        let judged = |parser: &mut Parser, body: &[u8]| {
            parser.load(body);
            std::iter::from_fn(|| parser.next_line(body)).collect::<Vec<Line>>()
        };
        let (mut parser, mut runs) = (Parser::new(70, DEPTH_MAX), 0);
        for number in 0..10_usize.pow(4) {
            let picks = [number % 10, number / 10 % 10, number / 100 % 10, number / 1000];
            let body = picks.map(|pick| lines[pick]).concat();
            let expected = judged(&mut parser, &body);

            parser.load(&body);
            let mut found = Vec::new();
            loop {
                let records = parser.pass_records(&body, Severity::Debug);
                let run = &body[records.start..records.end];
                let singles = judged(&mut Parser::new(70, DEPTH_MAX), run);
                assert_eq!(singles.len(), records.rows as usize);
                assert!(singles.iter().all(|line| line.verdict.is_ok_and(|severity| severity >= Severity::Debug)));
                let unknown = singles.iter().filter(|line| line.verdict == Ok(Severity::Unknown)).count();
                assert_eq!(unknown, records.unknown as usize);
                runs += usize::from(records.rows > 1);
                let shift = |line: &Line| Line {
                    start: line.start + records.start,
                    end: line.end + records.start,
                    next: line.next + records.start,
                    verdict: line.verdict,
                };
                found.extend(singles.iter().map(shift));
                if records.goes_on {
                    continue;
                }
                let Some(line) = parser.next_line(&body) else { break };
                found.push(line);
            }
            assert_eq!(found, expected, "{}", body.escape_ascii());
        }
        assert!(runs > 100, "runs of several records occur");
    }

    #[test]
    fn a_usual_record_never_reaches_the_arbiter() {
        let lines = [
            r#"{"level":"info","message":"x"}"#,
            r#"{"message":"x","level":"info"}"#,
            r#"{"ts":1714567890123,"level":"warn","message":"m","f":-0.5,"g":123.456,"n":0,"pi":3.14159265358979}"#,
            r#"{"level":"error","message":"he said \"no\"\n\ttab \\ \/ \u00e9 \ud83d\uDE00","path":"C:\\x","a":{"e\\k":1,"k\"":{}}}"#,
            r#"{"level":"debug","message":{"a":[1,[2,{"b":[]}],{}],"c":{"d":{}}},"t":true,"f":false,"n":null}"#,
            r#"{"level": "info", "message": "as Python spells it", "a": [1, 2], "b": {"c": null}, "d": -1, "e": true}"#,
            r#"{ "level": "info" , "message" : [ ] , "o" : { } } "#,
            r#"{"level":"info","message":"Grüße 😀","größe":"€"}"#,
            r#"{"trace":"x","message_id":1,"level":"info","messages":[],"levels":"","message":[],"lev":"x"}"#,
            r#"{"level":"info","message":"x","level":"error"}"#,
            r#"{"message":1,"n":12345678901234567890123,"level":"x"}"#,
        ];
        let mut parser = Parser::new(1000, DEPTH_MAX);
        for ending in ["\n", "\r\n"] {
            let mut bodies: Vec<String> = lines.iter().map(|line| format!("{line}{ending}")).collect();
            bodies.push(bodies.concat());
            bodies.push(bodies.concat().repeat(100));
            for body in bodies {
                parser.load(body.as_bytes());
                while let Some(line) = parser.next_line(body.as_bytes()) {
                    assert!(line.verdict.is_ok(), "{}", &body[line.start..line.end]);
                    assert_eq!(parser.arbiter.judged, 0, "{}", &body[line.start..line.end]);
                }
            }
        }
        for line in lines {
            assert!(parser.check(line.as_bytes()).is_ok());
            assert_eq!(parser.arbiter.judged, 0, "{line}");
        }
    }

    #[test]
    fn the_last_usual_depth_is_one_below_the_highest() {
        let mut parser = Parser::new(1000, DEPTH_MAX);
        let nested =
            |levels| format!("{{\"level\":\"info\",\"message\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert!(parser.check(nested(DEPTH_MAX - 2).as_bytes()).is_ok());
        assert_eq!(parser.arbiter.judged, 0);
        assert!(parser.check(nested(DEPTH_MAX - 1).as_bytes()).is_ok());
        assert_eq!(parser.arbiter.judged, 1, "there is no bit left for it");
    }

    fn token() -> impl Strategy<Value = &'static str> {
        prop_oneof![
            6 => Just(","), 6 => Just(":"), 4 => Just("{"), 4 => Just("}"), 3 => Just("["), 3 => Just("]"), 2 => Just(" "),
            3 => Just("\"level\":\"info\""), 3 => Just("\"message\":1"), 2 => Just("\"level\""), 2 => Just("\"message\""),
            4 => Just("\"a\""), 2 => Just("\"\\n\\\"\""), 1 => Just("\"\\ud83d\\ude00\""), 1 => Just("\""), 1 => Just("\\"),
            3 => Just("0"), 3 => Just("12"), 1 => Just("-"), 1 => Just("."), 1 => Just("e"), 1 => Just("\t"), 1 => Just("ü"),
            1 => Just("true"), 1 => Just("false"), 1 => Just("null"), 1 => Just("\0"),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5000))]
        #[test]
        fn every_way_leads_to_the_verdict_of_the_arbiter_alone(
            head in "\\{(\"level\":\"info\",)?(\"message\":)?",
            tokens in proptest::collection::vec(token(), 0..12),
        ) {
            let line = head + &tokens.concat() + "}";
            let mut parser = Parser::new(1000, DEPTH_MAX);
            let verdict = parser.arbiter.judge(line.as_bytes());
            prop_assert_eq!(parser.check(line.as_bytes()), verdict);
            let body = format!("{line}\n{line}\r\n");
            parser.load(body.as_bytes());
            for _ in 0..2 {
                let next = parser.next_line(body.as_bytes()).map(|line| line.verdict);
                prop_assert_eq!(next, Some(verdict));
            }
        }
    }
}
