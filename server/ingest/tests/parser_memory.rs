//! A parser takes all its memory when it is made. A test of its own process: the counter counts everybody's.

use ringest_ingest::parse::Parser;
use ringest_wire::Severity;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const LINE_LEN_MAX: usize = 100_000;

#[test]
fn no_line_makes_a_parser_allocate() {
    let mut parser = Parser::new(LINE_LEN_MAX, 64);
    let long = |unit: &str| unit.repeat(LINE_LEN_MAX / unit.len()).into_bytes();
    let message = |value: &[u8]| [b"{\"level\":\"info\",\"message\":", value, b"}"].concat();
    let lines: Vec<Vec<u8>> = vec![
        message(b"\"usual\""),
        message(b"[1e5,\"\\ud83d\\ude00\",{\"for\":[\"the arbiter\"]}]"),
        message(b"\"\xff\""),
        message(b"01"),
        long("x"),
        long("["),
        long("\""),
        long("\\"),
        long("[]"),
        long("\"\","),
        long("{\"a\":"),
        long("\u{1}"),
        message(&[&b"\""[..], &long("\\n")[..LINE_LEN_MAX - 40], b"\""].concat()),
        message(&[&b"["[..], &long("1,")[..LINE_LEN_MAX - 41], b"1]"].concat()),
        message(&[&b"["[..], &long("1E5,\"\\/\",")[..90_000], b"1]"].concat()),
        b"x".repeat(3 * LINE_LEN_MAX),
        b"\"".repeat(3 * LINE_LEN_MAX),
    ];
    let body = [lines.join(&b'\n'), b"\n".to_vec()].concat();
    // The last line of a body is not passed over: there is nothing behind it to look at.
    let usual = [&lines[0][..], b"\n"].concat().repeat(2);
    let kinds = (0..100).map(|kind| format!("{{\"level\":\"info\",\"kind {kind}\":1,\"message\":2}}   \n"));
    let kinds = kinds.collect::<String>().into_bytes();

    let region = Region::new(ALLOCATOR);
    let (mut taken, mut refused) = (0, 0);
    let mut count = |is_record: bool| if is_record { taken += 1 } else { refused += 1 };
    for line in &lines {
        count(parser.check(line).is_ok());
    }
    for _ in 0..2 {
        parser.load(&body);
        while let Some(line) = parser.next_line(&body) {
            count(line.verdict.is_ok());
        }
    }
    // Records are passed over, and what they look like is learned and forgotten.
    for _ in 0..2000 {
        parser.load(&usual);
        assert_eq!(parser.pass_records(&usual, Severity::Trace).rows, 1);
        parser.load(&kinds);
        assert_eq!(parser.pass_records(&kinds, Severity::Trace).rows, 99);
    }
    let change = region.change();
    assert_eq!((change.allocations, change.reallocations), (0, 0));
    assert_eq!((taken, refused), (3 * 5, 3 * 12), "the lines are what they are meant to be");
}
