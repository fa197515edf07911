//! What the parser may never do: take what serde_json refuses, or judge a line by its neighbours.
//!
//! The oracle is serde_json's `Value` with the rules of a record applied to it. Real documents, mutated ones and the
//! classics of bad JSON go through every way into the parser, and the verdicts must be the same.

use proptest::prelude::*;
use ringest_ingest::parse::{Parser, Reject};
use ringest_wire::frame::{Framer, Head, lines};
use ringest_wire::{Code, Severity};
use serde_json::Value;

const LINE_LEN_MAX: usize = 2000;
const DEPTH_MAX: usize = 64;

type Verdict = Result<Severity, Reject>;

fn parser() -> Parser {
    Parser::new(LINE_LEN_MAX, DEPTH_MAX)
}

/// The obvious answer; only the code of a refusal, not the place.
fn oracle(line: &[u8]) -> Result<Severity, Code> {
    if line.starts_with(b"{\"$") {
        return Err(Code::ReservedKey);
    }
    if line.len() > LINE_LEN_MAX {
        return Err(Code::LineTooLong);
    }
    let Ok(text) = str::from_utf8(line) else { return Err(Code::InvalidUtf8) };
    let value = match serde_json::from_str(text) {
        Ok(value) => value,
        // serde_json stops at a depth of 128, or where the fault is: in one line, its column.
        Err(error) if depth(&line[..error.column().min(line.len())]) > DEPTH_MAX => return Err(Code::TooDeep),
        Err(_) => return Err(Code::BadJson),
    };
    if depth(line) > DEPTH_MAX {
        return Err(Code::TooDeep);
    }
    let Value::Object(members) = value else { return Err(Code::NotObject) };
    match (members.get("level"), members.get("message")) {
        (Some(Value::String(name)), Some(_)) => Ok(Severity::from_name(name.as_bytes())),
        (Some(_), Some(_)) => Err(Code::BadType),
        _ => Err(Code::MissingField),
    }
}

/// How many objects and arrays are open at most.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'\\' => _ = bytes.next(),
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// Every verdict on the lines of a body that are not empty, with the lines.
fn judge_body<'b>(parser: &mut Parser, body: &'b [u8]) -> Vec<(&'b [u8], Verdict)> {
    let mut judged = Vec::new();
    let mut next = 0;
    parser.load(body);
    while let Some(line) = parser.next_line(body) {
        assert!(next <= line.start && line.start < line.end && line.end < line.next, "{line:?}");
        assert_eq!(body[line.next - 1], b'\n');
        judged.push((&body[line.start..line.end], line.verdict));
        next = line.next;
    }
    assert_eq!(parser.next_line(body), None, "a body ends once and for all");
    judged
}

/// How many lines of a body are passed over without a verdict; each of them must be a record for the oracle, and what
/// stops a run must be judged as it says.
fn assert_passed_rightly(parser: &mut Parser, body: &[u8]) -> usize {
    let (mut at, mut passed) = (0, 0);
    parser.load(body);
    loop {
        let records = parser.pass_records(body, Severity::Trace);
        assert_eq!(records.start, at);
        let mut unknown = 0;
        let mut rows = 0;
        for line in body[records.start..records.end].split_inclusive(|&byte| byte == b'\n') {
            let line = line.strip_suffix(b"\n").expect("records have their newlines");
            let verdict = oracle(line);
            assert!(verdict.is_ok(), "{verdict:?}: {}", String::from_utf8_lossy(line));
            unknown += u32::from(verdict == Ok(Severity::Unknown));
            rows += 1;
        }
        assert_eq!((records.rows, records.unknown), (rows, unknown));
        passed += rows as usize;
        if records.goes_on {
            at = records.end;
            continue;
        }
        let Some(line) = parser.next_line(body) else { return passed };
        let text = &body[line.start..line.end];
        assert_eq!(line.verdict.map_err(|reject| reject.code), oracle(text), "{}", String::from_utf8_lossy(text));
        at = line.next;
    }
}

/// Judges lines together in one body, and each alone; both ways must agree with the oracle and each other.
fn assert_judged_alike(parser: &mut Parser, body: &[u8]) {
    // Twice, as the first time it may learn what the second time it knows.
    assert_passed_rightly(parser, body);
    assert_passed_rightly(parser, body);
    let expected: Vec<&[u8]> = lines(body).filter(|line| !line.is_empty()).collect();
    let judged = judge_body(parser, body);
    assert_eq!(judged.iter().map(|(line, _)| *line).collect::<Vec<_>>(), expected);
    for (line, verdict) in judged {
        let text = String::from_utf8_lossy(line);
        assert_eq!(parser.check(line), verdict, "{text}");
        assert_eq!(verdict.map_err(|reject| reject.code), oracle(line), "{text}");
        if let Err(Reject { code: Code::BadJson | Code::InvalidUtf8 | Code::BadType, at }) = verdict {
            assert!(at as usize <= line.len(), "{text}");
        }
    }
}

/// A record with `value` as its message.
fn message(value: &str) -> Vec<u8> {
    format!("{{\"level\":\"info\",\"message\":{value}}}").into_bytes()
}

fn nested(open: &str, close: &str, levels: usize) -> Vec<u8> {
    message(&[open.repeat(levels), "1".into(), close.repeat(levels)].concat())
}

fn reject(code: Code, at: u32) -> Verdict {
    Err(Reject { code, at })
}

/// Lines whose verdicts are promised. Changing one changes what clients may rely on.
fn frozen() -> Vec<(Vec<u8>, Verdict)> {
    use Severity::{Critical, Debug, Error, Info, Trace, Unknown, Warning};
    let bad = |at| reject(Code::BadJson, at);
    let ok = Ok(Info);
    let mut table: Vec<(Vec<u8>, Verdict)> = Vec::new();
    let mut say = |line: &[u8], verdict| table.push((line.to_vec(), verdict));

    // What a record needs.
    say(br#"{"level":"INFO","message":"hello"}"#, ok);
    say(br#"{"message":"hello","level":"trace"}"#, Ok(Trace));
    say(br#"{"message":"","level":"debug"}"#, Ok(Debug));
    say(br#"{"level":"Warn","message":null}"#, Ok(Warning));
    say(br#"{"level":"error","message":{"a":[]}}"#, Ok(Error));
    say(br#"{"level":"FATAL","message":0}"#, Ok(Critical));
    say(br#"{"level":"notice","message":"x"}"#, Ok(Unknown));
    say(br#"{"level":"","message":"x"}"#, Ok(Unknown));
    say(br#"{"level":"in\u0066o","message":"x"}"#, ok);
    say(br#"{"level":"info\u0000","message":"x"}"#, Ok(Unknown));
    say(br#"{"lev\u0065l":"info","message":"x"}"#, ok);
    say(br#"{"level":"info","\u006dessage":"x"}"#, ok);
    say(br#"{}"#, reject(Code::MissingField, 0));
    say(br#"{"level":"info"}"#, reject(Code::MissingField, 0));
    say(br#"{"message":"info"}"#, reject(Code::MissingField, 0));
    say(br#"{"a":{"level":"info","message":"x"}}"#, reject(Code::MissingField, 0));
    say(br#"{"level":{"level":"info"},"a":{"message":"x"}}"#, reject(Code::MissingField, 0));
    say(br#"{"Level":"info","Message":"x"}"#, reject(Code::MissingField, 0));
    say(br#"{"level ":"info","message":"x"}"#, reject(Code::MissingField, 0));
    say(br#"{"level":1,"message":"x"}"#, reject(Code::BadType, 9));
    say(br#"{"level":null,"message":"x"}"#, reject(Code::BadType, 9));
    say(br#"{"message":"le:\"vel","a":[{"b":1}], "level" : ["info"]}"#, reject(Code::BadType, 47));

    // Of keys that occur twice the last one counts.
    say(br#"{"level":"info","level":"error","message":"x"}"#, Ok(Error));
    say(br#"{"level":"info","message":"x","level" : "error"}"#, Ok(Error));
    say(br#"{"level":"info","message":"x","\u006cevel":"error"}"#, Ok(Error));
    say(br#"{"level":1,"message":"x","level":"error"}"#, Ok(Error));
    say(br#"{"level":"error","message":"x","level":1}"#, reject(Code::BadType, 39));
    say(br#"{"level":"info","message":"x","message":1,"a":{"level":2},"b":[{"level":3}]}"#, ok);

    // Control lines are not records, and not looked into.
    say(br#"{"$hello":1}"#, reject(Code::ReservedKey, 0));
    say(b"{\"$", reject(Code::ReservedKey, 0));
    say(b"{\"$\xff\x00", reject(Code::ReservedKey, 0));
    say(br#"{"$a":1,"level":"info","message":"x"}"#, reject(Code::ReservedKey, 0));
    say(&[b"{\"$", &[b'x'; LINE_LEN_MAX][..]].concat(), reject(Code::ReservedKey, 0));
    say(br#"{ "$a":1,"level":"info","message":"x"}"#, ok);
    say(br#" {"$a":1,"level":"info","message":"x"}"#, ok);
    say(br#"{"level":"info","message":"x","$a":1}"#, ok);
    say(br#"{"\u0024a":1,"level":"info","message":"x"}"#, ok);

    // JSON, but no object.
    for line in ["[]", "[{\"level\":\"info\",\"message\":\"x\"}]", "1", "-0", "\"{}\"", "true", "null", " [1] "] {
        say(line.as_bytes(), reject(Code::NotObject, 0));
    }

    // Blanks.
    say(b" \t{ \"level\" :\t\"info\" , \"message\"\t: [ 1 , { } , [ ] ] } \t", ok);
    say(b"{\"level\":\"info\",\"message\":1}\r", ok);
    say(b" ", bad(1));
    say(b"\t \t", bad(3));
    say(b"\r\r", bad(2));
    say(b"{\"level\":\"info\",\x0b\"message\":1}", bad(16));
    say(b"{\"level\":\"info\",\x0c\"message\":1}", bad(16));
    say("{\"level\":\"info\",\u{a0}\"message\":1}".as_bytes(), bad(16));
    say(b"\xef\xbb\xbf{\"level\":\"info\",\"message\":1}", bad(0));

    // What stands around and between.
    say(br#"{"level":"info","message":1}{"level":"info","message":1}"#, bad(28));
    say(br#"{"level":"info","message":1} {}"#, bad(29));
    say(br#"{"level":"info","message":1},"#, bad(28));
    say(br#"{"level":"info","message":1}}"#, bad(28));
    say(br#"{"level":"info","message":1}x"#, bad(28));
    say(b"{\"level\":\"info\",\"message\":1}\0", bad(28));
    say(b"\0{\"level\":\"info\",\"message\":1}", bad(0));
    say(br#"{"level":"info","message":1"#, bad(27));
    say(br#"{"level":"info","message":1]"#, bad(27));
    say(br#"{"level":"info","message":[1}"#, bad(28));
    say(br#"{"level":"info","message":[1}}"#, bad(28));
    say(br#"{"level":"info","message":{"a":1]}"#, bad(32));
    say(br#"{"level":"info","message":{"a":[{"b":1]}}}"#, bad(38));
    say(br#"{"level":"info","message":[1,]}"#, bad(29));
    say(br#"{"level":"info","message":[,1]}"#, bad(27));
    say(br#"{"level":"info","message":[1 2]}"#, bad(29));
    say(br#"{"level":"info","message":1,}"#, bad(28));
    say(br#"{,"level":"info","message":1}"#, bad(1));
    say(br#"{"level":"info",,"message":1}"#, bad(16));
    say(br#"{"level":"info" "message":1}"#, bad(16));
    say(br#"{"level""info","message":1}"#, bad(8));
    say(br#"{"level"::"info","message":1}"#, bad(9));
    say(br#"{"level":"info","message":}"#, bad(26));
    say(br#"{"level":"info","message"}"#, bad(25));
    say(br#"{"level":"info",1:"message"}"#, bad(16));
    say(br#"{level:"info","message":1}"#, bad(1));
    say(br#"{'level':'info','message':1}"#, bad(1));
    say(br#"{"level":"info","message":1/*x*/}"#, bad(27));
    say(br#"{"level":"info","message":{"a":1,"b"}}"#, bad(36));
    say(b"}", bad(0));
    say(b"{", bad(1));
    say(b"{\"", bad(2));
    say(b"{\"a", bad(3));

    // Strings.
    for value in [r#""\"\\\/\b\f\n\r\t\u0041\u00e9\u20AC""#, r#""\uD83D\uDE00""#, r#""\uDBFF\uDFFF""#, r#""\u0000""#] {
        say(&message(value), ok);
    }
    say(&message("\"é€\u{1f600}\u{7f}\u{80}\u{2028}\u{fffd}\u{fffe}\u{10ffff}\""), ok);
    say(&message(r#""\x""#), bad(28));
    say(&message(r#""\U0041""#), bad(28));
    say(&message(r#""\'""#), bad(28));
    say(&message(r#""\u00G0""#), bad(31));
    say(&message(r#""\u004""#), bad(32));
    say(&message(r#""\u 041""#), bad(29));
    say(&message(r#""\u+041""#), bad(29));
    say(&message(r#""\uD800""#), bad(27));
    say(&message(r#""\uD800x""#), bad(27));
    say(&message(r#""\uD800\n""#), bad(27));
    say(&message(r#""\uD800\uD800""#), bad(27));
    say(&message(r#""\uD800\u0041""#), bad(27));
    say(&message(r#""\uDC00\uD800""#), bad(27));
    say(&message(r#""a\uDFFF""#), bad(28));
    say(&message(r#""\\\""#), bad(32));
    say(&message(r#""a\"#), bad(29));
    say(&message("\"a\tb\""), bad(28));
    say(&message("\"a\rb\""), bad(28));
    say(&message("\"a\0b\""), bad(28));
    say(&message("\"a\u{1f}b\""), bad(28));
    say(&message("{\"a\tb\":1}"), bad(29));
    say(&message("{\"a\\n\\\"b\":1}"), ok);
    say(&message("{\"a\\qb\":1}"), bad(30));

    // UTF-8: the line is text before it is JSON.
    for bytes in [&b"\xff"[..], b"\x80", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xed\xa0\x80"] {
        say(&[b"{\"level\":\"info\",\"message\":\"", bytes, b"\"}"].concat(), reject(Code::InvalidUtf8, 27));
    }
    say(b"{\"level\":\"info\",\"message\":\"\xe2\x82\"}", reject(Code::InvalidUtf8, 27));
    say(b"{\"level\":\"info\",\"message\":\"\xf4\x90\x80\x80\"}", reject(Code::InvalidUtf8, 27));
    say(b"{\"level\":\"info\",\"message\":\"x\"}\xc3", reject(Code::InvalidUtf8, 30));
    say(b"{\"level\":\"info\",\"a\xfe\":1,\"message\":\"x\"}", reject(Code::InvalidUtf8, 18));
    say(b"oops \xff", reject(Code::InvalidUtf8, 5));
    say(b"\xff\xfe{\0}\0", reject(Code::InvalidUtf8, 0));

    // Numbers.
    for value in ["0", "-0", "-0.0", "0.1", "10", "1e5", "1E+5", "1e-5", "0e0", "0e+1", "-1.5e-300", "1e308", "1e-999"]
    {
        say(&message(value), ok);
    }
    for digits in [1, 7, 8, 9, 15, 16, 17, 18, 23, 24, 25, 100, 308] {
        let number = "7".repeat(digits);
        say(&message(&number), ok);
        say(&message(&format!("-{number}.{number}")), ok);
        say(&message(&format!("0.{number}")), ok);
        say(&message(&format!("0{number}")), bad(27));
        say(&message(&format!("{number}.")), bad(27 + digits as u32));
        say(&message(&format!("{number}x")), bad(26 + digits as u32));
        say(&message(&format!("{number}.{number}.")), bad(27 + 2 * digits as u32));
    }
    for value in ["1e309", "-1e999", "17976931348623159e293", &"9".repeat(400)] {
        say(&message(value), bad(26));
    }
    for (value, at) in [("01", 27), ("-01", 28), ("00", 27), ("-", 27), ("--1", 27), ("+1", 26), (".5", 26), ("1.", 28)]
    {
        say(&message(value), bad(at));
    }
    for (value, at) in [("1.e1", 28), ("1e", 28), ("1e+", 29), ("1e1.5", 29), ("0x1", 27), ("1 2", 28), ("1-", 27)] {
        say(&message(value), bad(at));
    }
    for (value, at) in [("NaN", 26), ("nan", 27), ("Infinity", 26), ("-Infinity", 27), ("1_000", 27), ("1\u{661}", 27)]
    {
        say(&message(value), bad(at));
    }

    // Literals.
    for value in ["true", "false", "null", "[true,false,null]"] {
        say(&message(value), ok);
    }
    for (value, at) in [("tru", 29), ("True", 26), ("truee", 30), ("nul", 29), ("nulll", 30), ("falsy", 30), ("t", 27)]
    {
        say(&message(value), bad(at));
    }

    // Nesting: the record itself is the first level.
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]"), ("[ ", " ]")] {
        let fit = (DEPTH_MAX - 1) / depth(open.as_bytes());
        say(&nested(open, close, fit), ok);
        say(&nested(open, close, fit + 1), reject(Code::TooDeep, DEPTH_MAX as u32));
        say(&nested(open, "", fit + 1), reject(Code::TooDeep, DEPTH_MAX as u32));
        say(&nested(open, "", 300), reject(Code::TooDeep, DEPTH_MAX as u32));
    }
    say(&nested("[", "", 5), bad(32));
    say(&nested("", "]", 1), bad(27));
    say(&nested("[[],{},", "]", DEPTH_MAX - 2), ok);
    say(&nested("[[],{},", "]", DEPTH_MAX - 1), reject(Code::TooDeep, DEPTH_MAX as u32));
    say(&[b'['; DEPTH_MAX], bad(DEPTH_MAX as u32));
    say(&[b'['; DEPTH_MAX + 1], reject(Code::TooDeep, DEPTH_MAX as u32));
    say(&[&b"x"[..], &[b'['; 1000]].concat(), bad(0));

    // Length.
    let filled = |len: usize| message(&format!("\"{}\"", "x".repeat(len - message("\"\"").len())));
    say(&filled(LINE_LEN_MAX - 1), ok);
    say(&filled(LINE_LEN_MAX), ok);
    say(&filled(LINE_LEN_MAX + 1), reject(Code::LineTooLong, LINE_LEN_MAX as u32));
    say(&filled(20 * LINE_LEN_MAX), reject(Code::LineTooLong, LINE_LEN_MAX as u32));
    say(&[b'x'; LINE_LEN_MAX], bad(0));
    say(&[b'['; 100_000], reject(Code::LineTooLong, LINE_LEN_MAX as u32));
    table
}

#[test]
fn the_verdicts_are_the_promised_ones() {
    let mut parser = parser();
    for (line, verdict) in frozen() {
        let text = String::from_utf8_lossy(&line);
        assert_eq!(parser.check(&line), verdict, "{text}");
        assert_eq!(verdict.map_err(|reject| reject.code), oracle(&line), "{text}");
    }
}

#[test]
fn a_verdict_does_not_depend_on_place_neighbours_or_ending() {
    let mut parser = parser();
    let good = &message("\"fine\"")[..];
    for (line, verdict) in frozen() {
        // A line that ends in `\r` would lose it to the ending.
        let endings: &[&str] = if line.ends_with(b"\r") { &["\r\n"] } else { &["\n", "\r\n"] };
        for shift in 0..66 {
            for ending in endings.iter().map(|ending| ending.as_bytes()) {
                let pad = [b' '; 66];
                let first = [&pad[..shift], good].concat();
                let body = [&first, ending, &line, ending, good, ending].concat();
                let expected = [(&first[..], Ok(Severity::Info)), (&line, verdict), (good, Ok(Severity::Info))];
                assert_eq!(judge_body(&mut parser, &body), expected, "{}", String::from_utf8_lossy(&body));
                // As the last line of its body there is nothing behind it to look at.
                let body = [&first, ending, &line, ending].concat();
                assert_eq!(judge_body(&mut parser, &body), expected[..2], "{}", String::from_utf8_lossy(&body));
            }
        }
    }
}

#[test]
fn a_line_with_a_newline_in_it_is_judged_to_its_end() {
    let mut parser = parser();
    let good = message("1");
    for (rest, verdict) in [
        (&b""[..], Ok(Severity::Info)),
        (b"\n", Ok(Severity::Info)),
        (b"\r\n \n", Ok(Severity::Info)),
        (b"\nx", reject(Code::BadJson, 29)),
        (b"\n{\"level\":\"info\",\"message\":1}", reject(Code::BadJson, 29)),
        (b"\n\xff", reject(Code::InvalidUtf8, 29)),
    ] {
        assert_eq!(parser.check(&[&good[..], rest].concat()), verdict);
    }
}

#[test]
fn all_bad_lines_together_harm_no_good_one() {
    let mut parser = parser();
    let good = &message("\"fine\"")[..];
    let table = frozen();
    let mut body = Vec::new();
    for (line, _) in &table {
        body.extend([&line[..], b"\n", good, b"\n"].concat());
    }
    let judged = judge_body(&mut parser, &body);
    assert_eq!(judged.len(), 2 * table.len());
    for (pair, (line, verdict)) in judged.chunks(2).zip(&table) {
        // `\r` before `\n` belongs to the ending.
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert_eq!(pair[0].0, line);
        assert_eq!(pair[0].1.map_err(|reject| reject.code), verdict.map_err(|reject| reject.code));
        assert_eq!(pair[1], (good, Ok(Severity::Info)));
    }
}

#[test]
fn empty_lines_are_skipped_and_an_empty_body_has_none() {
    let mut parser = parser();
    assert_eq!(judge_body(&mut parser, b""), []);
    assert_eq!(judge_body(&mut parser, b"\n"), []);
    assert_eq!(judge_body(&mut parser, b"\r\n\n\n\r\n"), []);
    let good = &message("1")[..];
    let body = [b"\n\r\n", good, b"\n\n\r\n", good, b"\r\n\n"].concat();
    assert_eq!(judge_body(&mut parser, &body), [(good, Ok(Severity::Info)), (good, Ok(Severity::Info))]);
}

#[test]
fn lines_are_judged_alike_wherever_a_stream_is_cut() {
    let stream = [
        &b"{\"level\":\"info\",\"message\":\"a \\\"quoted\\\" \\\\ text\",\"n\":[1,-2.5,{\"x\":null}]}\r\n\n"[..],
        b"{\"level\":\"warn\", \"message\": \"gr\xc3\xbc\xc3\x9fe \xf0\x9f\x98\x80\", \"ok\": true}\n",
        b"{\"level\":\"error\",\"message\":\"\xff\"}\n{\"level\":\"error\",\"message\":01}\n[1]\r\n",
        b"{\"$ping\":1}\n \n{\"level\":\"debug\",\"level\":\"fatal\",\"message\":1e5}\n{\"level\":\"info\",\"message\":1}",
    ]
    .concat();
    let whole: Vec<Verdict> = {
        let mut parser = parser();
        let stream = [&stream[..], b"\n"].concat();
        lines(&stream).filter(|line| !line.is_empty()).map(|line| parser.check(line)).collect()
    };
    let mut parser = parser();
    for first in 0..=stream.len() {
        for second in [first, (first + 7).min(stream.len()), (first + 64).min(stream.len()), stream.len()] {
            let mut framer = Framer::new(LINE_LEN_MAX);
            let mut verdicts = Vec::new();
            for chunk in [&stream[..first], &stream[first..second], &stream[second..]] {
                let split = framer.split(chunk);
                if let Head::Line(line) = split.head
                    && !line.is_empty()
                {
                    verdicts.push(parser.check(line));
                }
                verdicts.extend(judge_body(&mut parser, split.body).into_iter().map(|(_, verdict)| verdict));
            }
            verdicts.extend(framer.finish().map(|line| parser.check(line)));
            assert_eq!(verdicts, whole, "cut at {first} and {second}");
        }
    }
}

#[test]
fn a_hundred_thousand_levels_are_refused_in_constant_stack() {
    let levels = 100_000;
    let judge = move || {
        let mut parser = Parser::new(20 * levels, DEPTH_MAX);
        for open in ["[", "{\"a\":", "[{\"level\":"] {
            for line in [open.repeat(levels).into_bytes(), nested(open, "", levels), nested(open, "]", levels)] {
                assert_eq!(parser.check(&line), reject(Code::TooDeep, DEPTH_MAX as u32));
                let body = [&line[..], b"\n"].concat();
                assert_eq!(judge_body(&mut parser, &body), [(&line[..], reject(Code::TooDeep, DEPTH_MAX as u32))]);
            }
        }
    };
    // A stack that a tenth of a percent of the levels would overflow, if each took a frame.
    let thread = std::thread::Builder::new().stack_size(128 << 10).spawn(judge).expect("a thread");
    thread.join().expect("no overflow");
}

#[test]
fn every_depth_limit_is_kept_exactly() {
    for depth_max in 1..=64 {
        let mut parser = Parser::new(LINE_LEN_MAX, depth_max);
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            assert_eq!(parser.check(&nested(open, close, depth_max - 1)), Ok(Severity::Info), "{depth_max}");
            assert_eq!(parser.check(&nested(open, close, depth_max)), reject(Code::TooDeep, depth_max as u32));
        }
    }
}

#[test]
fn a_line_longer_than_many_pieces_is_judged_like_any_other() {
    let mut parser = Parser::new(1 << 20, DEPTH_MAX);
    let items: Vec<String> = (0..9000).map(|n| format!("{{\"n\":{n},\"s\":\"a\\n\u{fc}\"}}")).collect();
    let long = message(&format!("[{}]", items.join(",")));
    let good = &message("1")[..];
    let body = [good, b"\n", &long, b"\r\n", good, b"\n", &long[..long.len() - 1], b"\n", good, b"\n"].concat();
    let verdicts: Vec<Verdict> = judge_body(&mut parser, &body).into_iter().map(|(_, verdict)| verdict).collect();
    let bad = reject(Code::BadJson, long.len() as u32 - 1);
    assert_eq!(verdicts, [Ok(Severity::Info), Ok(Severity::Info), Ok(Severity::Info), bad, Ok(Severity::Info)]);
}

#[test]
fn mutated_documents_are_judged_as_by_serde_json() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut parser = parser();
    let mut body = Vec::new();
    for _ in 0..25_000 {
        body.clear();
        for _ in 0..random.below(8) {
            let mut line = SEEDS[random.below(SEEDS.len())].as_bytes().to_vec();
            for _ in 0..random.below(4) {
                random.mutate(&mut line);
            }
            line.retain(|&byte| byte != b'\n');
            body.extend(line);
            body.extend(if random.below(4) == 0 { &b"\r\n"[..] } else { b"\n" });
        }
        assert_judged_alike(&mut parser, &body);
    }
}

#[test]
fn lines_like_those_before_are_judged_as_by_serde_json() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut tried = 0;
    for seed in SEEDS {
        let mut parser = parser();
        let alike = [seed.as_bytes(), b"\n"].concat().repeat(20);
        let expected = assert_passed_rightly(&mut parser, &alike);
        for _ in 0..5000 {
            let mut line = seed.as_bytes().to_vec();
            for _ in 0..=random.below(3) {
                random.mutate(&mut line);
            }
            // A newline makes two lines of it, and both are judged.
            let body = [&alike, &line, &b"\n"[..], seed.as_bytes(), b"\n"].concat();
            tried += usize::from(assert_passed_rightly(&mut parser, &body) > expected);
        }
    }
    assert!(tried > 20_000, "most of these lines come after records that are passed over: {tried}");
}

/// Documents as clients send them.
const SEEDS: &[&str] = &[
    r#"{"level":"info","message":"x"}"#,
    r#"{"timestamp":"2024-05-01T12:34:56.789Z","level":"ERROR","message":"request failed","service":"api","status":500,"ms":12.75}"#,
    r#"{"ts":1714567890123,"level":"warn","message":"he said \"no\"\n","http":{"method":"GET","path":"\/v1","headers":{"a":[]}},"ok":true,"err":null}"#,
    r#"{"timestamp": "2024-05-01", "level": "debug", "message": "Gr\u00fc\u00dfe", "tags": ["a", "b"], "n": -1.5e-3, "e": {}}"#,
    r#"{"message":["größe",{"emoji":"😀","pair":"\ud83d\ude00"}],"level":"fatal","list":[[1,2],[3,[4.5,-6]],[]],"z":false}"#,
    r#"{"level":"info","a":{"b":{"c":{"d":[{"e":"\\"}]}}},"message":{"level":"x","message":"y"}}"#,
];

const FRAGMENTS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\\",
    " ",
    "\t",
    "\r",
    "\0",
    "\u{1f}",
    "\u{7f}",
    "€",
    "\u{feff}",
    "$",
    "0",
    "-",
    ".",
    "e",
    "\"level\":\"info\"",
    "\"level\":",
    "\"message\":1",
    "\"\\u006cevel\":\"warn\"",
    "{}",
    "[]",
    "{\"a\":1}",
    "[1,2]",
    "\"\"",
    "1.5",
    "-0",
    "01",
    "1.",
    "1e5",
    "1E-7",
    "1e999",
    "123456789012345678901234567890",
    "12345678",
    "0.12345678",
    "true",
    "false",
    "null",
    "tru",
    "\\u0041",
    "\\ud83d\\ude00",
    "\\ud83d",
    "\\ude00",
    "\\u00",
    "\\n",
    "\\/",
    "\\x",
    "\\\\",
    "\\\"",
    "\":\"",
    "\",\"",
    "\": \"",
    "\", \"",
    "},{",
    "NaN",
    "'",
];

/// xorshift64: the same documents on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }

    fn mutate(&mut self, line: &mut Vec<u8>) {
        let at = self.below(line.len() + 1);
        let end = (at + self.below(6)).min(line.len());
        let fragment = FRAGMENTS[self.below(FRAGMENTS.len())].bytes();
        match self.below(7) {
            0 => _ = line.splice(at..at, fragment),
            1 => _ = line.splice(at..end, fragment),
            2 => _ = line.drain(at..end),
            3 => line.truncate(at.max(line.len() / 2)),
            4 => {
                let copy = line[at..end].to_vec();
                let to = self.below(line.len() + 1);
                line.splice(to..to, copy);
            }
            5 => {
                let signs = |byte: &u8| b"{}[],:\"".contains(byte);
                if let Some(sign) = line[at..].iter().position(signs) {
                    line[at + sign] = b"{}[],:\" "[self.below(8)];
                }
            }
            _ => {
                let byte = self.below(256) as u8;
                line.splice(at..end.min(at + 1), [byte]);
            }
        }
    }
}

/// The text of any JSON value, spelled in many ways.
fn value() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<u64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(|number| format!("{number}")),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(|number| format!("{number:e}")),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?",
    ];
    let scalar = prop_oneof![number, text(), "true|false|null"];
    scalar.prop_recursive(5, 40, 6, |inner| {
        let members = proptest::collection::vec((text(), inner.clone(), blank()), 0..6);
        prop_oneof![
            (proptest::collection::vec(inner, 0..6), blank())
                .prop_map(|(items, blank)| format!("[{blank}{}{blank}]", items.join(&format!(",{blank}")))),
            members.prop_map(|members| object(&members)),
        ]
    })
}

/// A string with its quotes.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-z ]{0,12}",
        1 => "[^\"\\\\\\x00-\\x1f]{0,8}",
        1 => "\\\\[\"\\\\/bfnrt]",
        1 => "\\\\u[0-9a-fA-F]{4}",
        1 => "\\\\ud[89ab][0-9a-f]{2}\\\\ud[c-f][0-9a-f]{2}",
    ];
    proptest::collection::vec(piece, 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn blank() -> impl Strategy<Value = String> {
    prop_oneof![3 => Just(String::new()), 1 => Just(" ".into()), 1 => "[ \t]{0,3}"]
}

fn object(members: &[(String, String, String)]) -> String {
    let members: Vec<String> =
        members.iter().map(|(key, value, blank)| format!("{blank}{key}{blank}:{blank}{value}{blank}")).collect();
    format!("{{{}}}", members.join(","))
}

/// An object that is likely, not certain, to be a record.
fn record() -> impl Strategy<Value = String> {
    let key = prop_oneof![2 => Just("\"level\"".to_owned()), 3 => Just("\"message\"".to_owned()), 4 => text()];
    let name = prop_oneof![Just("\"info\"".to_owned()), Just("\"WARN\"".to_owned()), text(), value()];
    let member = (key, prop_oneof![name, value()], blank());
    let level = ("\"level\"", "\"(info|error)\"", blank());
    let message = (Just("\"message\"".to_owned()), value(), blank());
    (level, message, proptest::collection::vec(member, 0..8)).prop_flat_map(|(level, message, mut members)| {
        members.extend([level, message]);
        Just(members).prop_shuffle().prop_map(|members| object(&members))
    })
}

proptest! {
    #[test]
    fn any_documents_are_judged_as_by_serde_json(
        lines in proptest::collection::vec(record(), 1..5),
        mutations in 0usize..4,
        seed in 1u64..,
    ) {
        let mut random = Random(seed);
        let mut lines: Vec<Vec<u8>> = lines.into_iter().map(String::into_bytes).collect();
        for _ in 0..mutations {
            let at = random.below(lines.len());
            random.mutate(&mut lines[at]);
        }
        let mut body = lines.join(&b'\n');
        body.push(b'\n');
        assert_judged_alike(&mut parser(), &body);
    }

    #[test]
    fn any_bytes_are_judged_as_by_serde_json(mut body in proptest::collection::vec(any::<u8>(), 0..300)) {
        body.push(b'\n');
        assert_judged_alike(&mut parser(), &body);
    }

    #[test]
    fn the_offset_of_bad_json_is_the_first_byte_that_cannot_stand_there(line in record(), seed in 1u64..) {
        let mut line = line.into_bytes();
        Random(seed).mutate(&mut line);
        let Err(Reject { code: Code::BadJson, at }) = parser().check(&line) else { return Ok(()) };
        let at = at as usize;
        let judge = |text: &[u8]| serde_json::from_slice::<Value>(text);
        // What is before it may be the start of a line.
        let before = judge(&line[..at]).err();
        prop_assert!(before.is_none_or(|error| error.is_eof()), "{at} {:?}", String::from_utf8_lossy(&line));
        // With it, no more. Halves of surrogate pairs and numbers out of range are blamed where they begin.
        if let Some(byte) = line.get(at) && !matches!(byte, b'\\' | b'-' | b'0'..=b'9') {
            // The blanks are for serde_json, which takes a short escape for an unfinished one.
            let with = judge(&[&line[..=at], b"    "].concat()).expect_err("bad");
            prop_assert!(!with.is_eof(), "{at} {:?}", String::from_utf8_lossy(&line));
        }
    }
}

/// Bodies that are indexed in several pieces, with a line of another kind around each place where one piece may end.
#[test]
fn records_are_passed_over_beyond_what_is_indexed_at_a_time() {
    let usual = b"{\"level\":\"info\",\"message\":\"a line of fifty bytes, no more\"}\n";
    let odd: [&[u8]; 6] = [
        b"no record\n",
        b"\n",
        b"{\"level\":\"info\",\"message\":\"ended otherwise\"}\r\n",
        b"{\"level\":\"info\",\"message\":\"\xff\"}\n",
        b"{ \"level\" : \"odd\" , \"message\" : 1 }\n",
        b"{\"level\":\"info\",\"message\":\"longer than the others, which may have shapes\",\"n\":[1,2]}\n",
    ];
    let rows = 3 * (16 << 10) / usual.len();
    let all = usual.repeat(rows);
    let mut parser = parser();
    assert_passed_rightly(&mut parser, &all);
    assert_eq!(
        assert_passed_rightly(&mut parser, &all),
        rows - 1,
        "all but the last, behind which nothing can be seen"
    );
    let per_piece = (16 << 10) / usual.len();
    for odd in odd {
        for at in per_piece - 2..=per_piece + 2 {
            let body = [&usual.repeat(at)[..], odd, &usual.repeat(rows - at)].concat();
            assert_judged_alike(&mut parser, &body);
        }
    }
}
