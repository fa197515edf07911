//! Framing and judging lines, without a shard around them.

use super::{Allocations, Case, Sample};
use crate::lines::{Kind, Lines};
use ringest_ingest::parse::Parser;
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
        cases.push(Box::new(Judge::new("serde_json", kind, SerdeJson)));
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

    fn is_ours(&self) -> bool {
        true
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

    fn is_ours(&self) -> bool {
        J::IS_OURS
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
            black_box(self.0.pass_records(body, Severity::Trace).rows);
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
const LINE_LEN_MAX: usize = 256 << 10;
const DEPTH_MAX: usize = 64;
