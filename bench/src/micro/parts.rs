//! Framing and judging lines, without a shard around them.

use super::{Allocations, Case, Sample, pipeline};
use crate::lines::{Kind, Lines};
use ringest_ingest::parse::Parser;
use ringest_ingest::scan::{Item, scan};
use ringest_ingest::{SegmentFormat, SegmentId};
use ringest_sys::clock;
use ringest_wire::Severity;
use ringest_wire::frame::Framer;
use serde::Deserialize;
use serde::de::IgnoredAny;
use simd_json::{Buffers, INPUT_PADDING, Tape, fill_tape_padded};
use std::borrow::Cow;
use std::hint::black_box;
use std::mem;
use std::time::{Duration, Instant};

pub(super) const FRAME: &str = "frame/flat";
pub(super) const PARSE_FLAT: &str = "parse/flat/ringest";

pub(super) fn all() -> Vec<Box<dyn Case>> {
    let mut cases: Vec<Box<dyn Case>> = vec![Box::new(Frame::new())];
    for kind in [Kind::Flat, Kind::Nested, Kind::Large, Kind::Hostile] {
        cases.push(Box::new(Judge::new("index", kind, Index::new())));
        cases.push(Box::new(Judge::new("ringest", kind, Ringest(Parser::new(LINE_LEN_MAX, DEPTH_MAX)))));
        cases.push(Box::new(Judge::new("simd-json-tape", kind, SimdJson::new())));
        cases.push(Box::new(Judge::new("sonic-rs", kind, SonicRs)));
        cases.push(Box::new(Judge::new("serde_json", kind, SerdeJson)));
    }
    for format in [SegmentFormat::Plain, SegmentFormat::Gzip] {
        cases.push(Box::new(SegmentScan { format, segment: None }));
    }
    cases
}

/// Repeats `work`, which handles `lines` once, until the time is up.
fn repeat(lines: &Lines, span: Duration, allocations: Allocations, mut work: impl FnMut()) -> Sample {
    let mut sample = Sample::default();
    let until = Instant::now() + span;
    let (before, allocated) = (clock::thread_cpu(), allocations());
    while Instant::now() < until {
        work();
        sample.records += lines.rows;
        sample.bytes += lines.bytes.len() as u64;
    }
    sample.allocations = allocations() - allocated;
    sample.ns = (clock::thread_cpu() - before).as_nanos() as u64;
    sample
}

/// One stream in chunks as a ring hands them over, cut in the middle of lines.
struct Frame {
    lines: Lines,
    framer: Framer,
}

impl Frame {
    fn new() -> Frame {
        Frame { lines: Lines::of(Kind::Flat, 1 << 20), framer: Framer::new(LINE_LEN_MAX) }
    }
}

impl Case for Frame {
    fn name(&self) -> String {
        FRAME.into()
    }

    fn allocations_max(&self) -> Option<f64> {
        Some(0.0)
    }

    fn run(&mut self, span: Duration, allocations: Allocations) -> Sample {
        let Frame { lines, framer } = self;
        repeat(lines, span, allocations, || {
            for chunk in lines.bytes.chunks(CHUNK_LEN) {
                black_box(framer.split(chunk));
            }
        })
    }
}

/// A start: what of a segment is to be believed.
struct SegmentScan {
    format: SegmentFormat,
    /// Made at the first run.
    segment: Option<(SegmentId, Lines)>,
}

impl Case for SegmentScan {
    fn name(&self) -> String {
        format!("scan/{}", if self.format == SegmentFormat::Plain { "plain" } else { "gzip" })
    }

    /// A start is no record's path: it makes lists of what it finds.
    fn allocations_max(&self) -> Option<f64> {
        None
    }

    fn run(&mut self, span: Duration, allocations: Allocations) -> Sample {
        let (id, lines) = self.segment.get_or_insert_with(|| {
            let (id, bytes) = pipeline::segment(self.format, SEGMENT_LEN);
            let rows = rows(&bytes, id);
            (id, Lines { bytes, rows })
        });
        repeat(lines, span, allocations, || {
            assert_eq!(rows(black_box(&lines.bytes), *id), lines.rows, "what was written is found");
        })
    }
}

/// Records that are proven to be there.
fn rows(segment: &[u8], id: SegmentId) -> u64 {
    let rows = scan(segment, id).map(|item| match item {
        Item::Block { rows, .. } => u64::from(rows),
        Item::Segment { .. } | Item::End { .. } | Item::Damage { .. } | Item::Tail { .. } => 0,
    });
    rows.sum()
}

/// A way to judge lines.
trait Judgement {
    const IS_OURS: bool;
    fn judge(&mut self, body: &[u8]);
}

/// Whole lines of about one chunk, judged by one of the ways.
struct Judge<J> {
    by: &'static str,
    kind: Kind,
    lines: Lines,
    judgement: J,
}

impl<J> Judge<J> {
    fn new(by: &'static str, kind: Kind, judgement: J) -> Judge<J> {
        Judge { by, kind, lines: Lines::of(kind, CHUNK_LEN), judgement }
    }
}

impl<J: Judgement> Case for Judge<J> {
    fn name(&self) -> String {
        format!("parse/{}/{}", format!("{:?}", self.kind).to_lowercase(), self.by)
    }

    fn allocations_max(&self) -> Option<f64> {
        J::IS_OURS.then_some(0.0)
    }

    fn run(&mut self, span: Duration, allocations: Allocations) -> Sample {
        let Judge { lines, judgement, .. } = self;
        repeat(lines, span, allocations, || judgement.judge(black_box(&lines.bytes)))
    }
}

/// The block index alone: what of Ringest's judgement does not depend on the lines.
struct Index(ringest_simd::BlockIndex);

impl Index {
    fn new() -> Index {
        Index(ringest_simd::BlockIndex::with_capacity(2 * CHUNK_LEN))
    }
}

impl Judgement for Index {
    const IS_OURS: bool = true;

    fn judge(&mut self, body: &[u8]) {
        self.0.build(body);
        black_box(self.0.positions());
    }
}

/// As a plain session does it: what has a known shape or the walk knows is passed over, simd-json judges the rest.
struct Ringest(Parser);

impl Judgement for Ringest {
    const IS_OURS: bool = true;

    fn judge(&mut self, body: &[u8]) {
        self.0.load(body);
        loop {
            while black_box(self.0.pass_records(body, Severity::Trace)).goes_on {}
            let Some(line) = self.0.next_line(body) else { break };
            black_box(line.verdict.is_ok());
        }
    }
}

/// simd-json's tape of every line, with its buffers and its tape reused. It works on a copy, as it has to.
struct SimdJson {
    scratch: Vec<u8>,
    buffers: Buffers,
    tape: Tape<'static>,
}

impl SimdJson {
    fn new() -> SimdJson {
        let scratch = vec![0; LINE_LEN_MAX + INPUT_PADDING];
        SimdJson { scratch, buffers: Buffers::new(LINE_LEN_MAX), tape: Tape(Vec::new()) }
    }
}

impl Judgement for SimdJson {
    const IS_OURS: bool = false;

    fn judge(&mut self, body: &[u8]) {
        for line in split(body) {
            self.scratch[..line.len()].copy_from_slice(line);
            let mut tape = mem::replace(&mut self.tape, Tape(Vec::new())).reset();
            black_box(fill_tape_padded(&mut self.scratch, line.len(), &mut self.buffers, &mut tape).is_ok());
            self.tape = tape.reset();
        }
    }
}

/// sonic-rs into the same struct as serde_json below.
struct SonicRs;

impl Judgement for SonicRs {
    const IS_OURS: bool = false;

    fn judge(&mut self, body: &[u8]) {
        for line in split(body) {
            black_box(sonic_rs::from_slice::<Record<'_>>(line).is_ok_and(|record| !record.level.is_empty()));
        }
    }
}

/// serde_json into a struct that borrows what it can and skips the rest.
struct SerdeJson;

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    level: Cow<'a, str>,
    #[serde(rename = "message")]
    _message: IgnoredAny,
}

impl Judgement for SerdeJson {
    const IS_OURS: bool = false;

    fn judge(&mut self, body: &[u8]) {
        for line in split(body) {
            black_box(serde_json::from_slice::<Record<'_>>(line).is_ok_and(|record| !record.level.is_empty()));
        }
    }
}

fn split(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    memchr::memchr_iter(b'\n', body).map(move |newline| {
        let line = &body[start..newline];
        start = newline + 1;
        line
    })
}

/// Bytes in one chunk.
pub(super) const CHUNK_LEN: usize = 64 << 10;
const SEGMENT_LEN: usize = 8 << 20;
const LINE_LEN_MAX: usize = 256 << 10;
const DEPTH_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use simd_json::{BorrowedValue, to_borrowed_value};

    /// What every library makes of a line: is it JSON?
    fn verdicts(line: &[u8]) -> [(&'static str, bool); 3] {
        let mut copy = line.to_vec();
        [
            ("serde_json", serde_json::from_slice::<Value>(line).is_ok()),
            ("simd-json", to_borrowed_value(&mut copy).map(|_: BorrowedValue<'_>| ()).is_ok()),
            ("sonic-rs", sonic_rs::from_slice::<sonic_rs::Value>(line).is_ok()),
        ]
    }

    /// What Ringest does: is it a record?
    fn is_record(line: &[u8]) -> bool {
        let mut parser = Parser::new(LINE_LEN_MAX, DEPTH_MAX);
        let body = [line, b"\n"].concat();
        parser.load(&body);
        match parser.pass_records(&body, Severity::Trace).rows {
            0 => parser.next_line(&body).is_some_and(|line| line.verdict.is_ok()),
            _ => true,
        }
    }

    /// Odd ways of being JSON, or not.
    const ODD: [(&str, bool); 24] = [
        (r#"{"level":"INFO","message":""}"#, true),
        (r#"{"level":"INFO","message":"\ud83d\ude00"}"#, true),
        (r#"{"level":"INFO","message":"\ud83d"}"#, false),
        (r#"{"level":"INFO","message":"\ude00\ud83d"}"#, false),
        (r#"{"level":"INFO","message":"\x41"}"#, false),
        (r#"{"level":"INFO","message":"\u12g4"}"#, false),
        ("{\"level\":\"INFO\",\"message\":\"\u{7f}\"}", true),
        ("{\"level\":\"INFO\",\"message\":\"\t\"}", false),
        (r#"{"level":"INFO","message":"a","n":01}"#, false),
        (r#"{"level":"INFO","message":"a","n":1.}"#, false),
        (r#"{"level":"INFO","message":"a","n":.5}"#, false),
        (r#"{"level":"INFO","message":"a","n":-}"#, false),
        (r#"{"level":"INFO","message":"a","n":+1}"#, false),
        (r#"{"level":"INFO","message":"a","n":1e5,"m":-0.0E-3}"#, true),
        (r#"{"level":"INFO","message":"a","n":123456789012345678901234567890}"#, true),
        (r#"{"level":"INFO","message":"a","n":NaN}"#, false),
        (r#"{"level":"INFO","message":"a","n":tru}"#, false),
        (r#"{"level":"INFO","message":"a",}"#, false),
        (r#"{"level":"INFO" "message":"a"}"#, false),
        (r#"{"level":"INFO","message":"a"}}"#, false),
        (r#"{"level":"INFO","message":["a"}"#, false),
        (r#"{"level":"INFO","message":"a","b":[1,2,]}"#, false),
        (r#"{'level':'INFO','message':'a'}"#, false),
        (r#"{"level":"INFO","message":"a"} "#, true),
    ];

    #[test]
    fn every_library_and_ringest_agree_on_what_is_json() {
        for (line, is_json) in ODD {
            for (by, says) in verdicts(line.as_bytes()) {
                assert_eq!(says, is_json, "{by}: {line}");
            }
            assert_eq!(is_record(line.as_bytes()), is_json, "ringest: {line}");
        }
        let mut draw = crate::lines::Draw(5);
        for kind in [Kind::Flat, Kind::Nested, Kind::Large, Kind::Hostile] {
            let lines = Lines::of(kind, 1 << 18);
            for line in split(&lines.bytes) {
                // As it is, and with a byte of it changed.
                let mut changed = line.to_vec();
                if !changed.is_empty() {
                    let at = draw.below(changed.len() as u64) as usize;
                    changed[at] = draw.below(256) as u8;
                }
                for text in [line, &changed] {
                    let [(_, serde), others @ ..] = verdicts(text);
                    for (by, says) in others {
                        assert_eq!(says, serde, "{by} differs from serde_json: {}", text.escape_ascii());
                    }
                    // A record is more than JSON, and never less.
                    assert!(serde || !is_record(text), "ringest takes {}", text.escape_ascii());
                }
            }
        }
    }
}
