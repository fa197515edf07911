//! Plain mode: one reply per line, in order, and the stored bytes are the sent bytes.

use crate::support::lines::{OK, code, joined, json, record};
use crate::support::on_each_backend;
use crate::support::process::Setup;
use std::thread;
use std::time::Duration;

on_each_backend!(a_stored_line_is_answered_with_the_text_of_the_contract, |setup: Setup| {
    let server = setup.start();
    let mut client = server.connect();
    client.send("{\"level\":\"info\",\"message\":\"hello\"}\n");
    assert_eq!(client.line(), r#"{"status":"ok","message":"received"}"#);
    assert!(client.finish().is_empty());
    server.stop();
    assert_eq!(setup.records(), [r#"{"level":"info","message":"hello"}"#]);
    setup.assert_verified();
});

on_each_backend!(every_refusal_has_its_text_its_code_and_its_place, |setup: Setup| {
    let deep = format!(r#"{{"level":"info","message":{}{}}}"#, "[".repeat(64), "]".repeat(64));
    let deepest = format!(r#"{{"level":"info","message":{}{}}}"#, "[".repeat(63), "]".repeat(63));
    let long = format!(r#"{{"level":"info","message":"{}"}}"#, "x".repeat(262_144));
    let cases: [(&[u8], &str); 22] = [
        (b"nonsense", r#"{"status":"error","message":"invalid JSON","code":"bad_json","offset":1}"#),
        (b"hello", r#"{"status":"error","message":"invalid JSON","code":"bad_json","offset":0}"#),
        (
            b"{\"level\":\"info\",\"message\":}",
            r#"{"status":"error","message":"invalid JSON","code":"bad_json","offset":26}"#,
        ),
        (b"{\"level\":\"info\"", r#"{"status":"error","message":"invalid JSON","code":"bad_json","offset":15}"#),
        (b"[1,2]", r#"{"status":"error","message":"invalid JSON","code":"not_object"}"#),
        (b"\"text\"", r#"{"status":"error","message":"invalid JSON","code":"not_object"}"#),
        (b"17", r#"{"status":"error","message":"invalid JSON","code":"not_object"}"#),
        (b"null", r#"{"status":"error","message":"invalid JSON","code":"not_object"}"#),
        (b"{}", r#"{"status":"error","message":"missing required fields","code":"missing_field"}"#),
        (b"{\"level\":\"info\"}", r#"{"status":"error","message":"missing required fields","code":"missing_field"}"#),
        (b"{\"message\":\"m\"}", r#"{"status":"error","message":"missing required fields","code":"missing_field"}"#),
        (
            b"{\"level\":3,\"message\":\"m\"}",
            r#"{"status":"error","message":"missing required fields","code":"bad_type"}"#,
        ),
        (
            b"{\"level\":null,\"message\":\"m\"}",
            r#"{"status":"error","message":"missing required fields","code":"bad_type"}"#,
        ),
        (
            b"{\"$x\":1,\"level\":\"info\",\"message\":\"m\"}",
            r#"{"status":"error","message":"reserved key","code":"reserved_key"}"#,
        ),
        (b"{\"$ping\":1}", r#"{"status":"error","message":"reserved key","code":"reserved_key"}"#),
        (
            b"{\"level\":\"info\",\"message\":\"\xff\"}",
            r#"{"status":"error","message":"invalid JSON","code":"invalid_utf8","offset":27}"#,
        ),
        (deep.as_bytes(), r#"{"status":"error","message":"nested too deeply","code":"too_deep","limit":64}"#),
        (deepest.as_bytes(), OK),
        (long.as_bytes(), r#"{"status":"error","message":"line too long","code":"line_too_long","limit":262144}"#),
        (b"{\"level\":\"info\",\"message\":{\"any\":[1,null,true]}}", OK),
        (b"{\"level\":\"no such level\",\"message\":null}", OK),
        (b" \t{ \"message\" : 1 , \"level\" : \"INFO\" } ", OK),
    ];
    let server = setup.start();
    let mut client = server.connect();
    for (line, reply) in cases {
        client.send(line);
        client.send("\n");
        assert_eq!(client.line(), reply, "to {}", String::from_utf8_lossy(&line[..line.len().min(80)]));
    }
    server.stop();
    assert_eq!(setup.records().len(), 4);
});

on_each_backend!(a_line_may_end_with_crlf_and_empty_lines_are_nothing, |setup: Setup| {
    let server = setup.start();
    let mut client = server.connect();
    client.send("\n\r\n{\"level\":\"info\",\"message\":1}\r\n\n\n{\"level\":\"info\",\"message\":2}\n\r\n");
    assert_eq!(client.lines(2), [OK, OK]);
    assert!(client.finish().is_empty(), "an empty line has no reply");
    server.stop();
    let stored = [r#"{"level":"info","message":1}"#, r#"{"level":"info","message":2}"#];
    assert_eq!(setup.records(), stored, "neither does its ending belong to a line");
});

on_each_backend!(an_unfinished_last_line_counts_at_the_end_of_the_stream, |setup: Setup| {
    let server = setup.start();
    let mut whole = server.connect();
    whole.send("{\"level\":\"info\",\"message\":1}\n{\"level\":\"info\",\"message\":2}");
    assert_eq!(whole.finish(), [OK, OK]);
    let mut cut = server.connect();
    cut.send("{\"level\":\"info\",\"message\":3}\n{\"level\":\"info\",\"mess");
    let replies = cut.finish();
    assert_eq!((replies.len(), replies[0].as_str(), code(&replies[1]).as_str()), (2, OK, "bad_json"));
    let mut almost_hello = server.connect();
    almost_hello.send("{\"$hel");
    assert_eq!(almost_hello.finish().len(), 1, "what might have become a hello is a line like any other");
    server.stop();
    assert_eq!(setup.records().len(), 3);
});

on_each_backend!(the_stored_bytes_are_the_sent_bytes, |setup: Setup| {
    let sent = [
        r#"{"message":"key order","level":"info","a":1,"z":2,"b":3}"#,
        r#"{"level":"info","message":"escapes \" \\ \/ \b \f \n \r \t \u00e9 \ud83d\ude00"}"#,
        "{\"level\":\"info\",\"message\":\"é 日本語 😀 \u{2028} \u{feff}\"}",
        "  { \"level\" :\t\"info\" , \"message\" :  \"blanks\"  }  ",
        r#"{"level":"info","message":1.0e+2,"n":[-0,1E5,123456789012345678901234567890,0.10]}"#,
        r#"{"level":"info","message":{"deep":{"er":[{}, [], "x"]}}}"#,
        r#"{"\u006cevel":"info","level":"info","message":"twice","message":"again"}"#,
        r#"{"level":"\u0069nfo","message":""}"#,
    ];
    let server = setup.start();
    let replies = server.connect().exchange(joined(sent));
    assert_eq!(replies, vec![OK; sent.len()]);
    server.stop();
    assert_eq!(setup.records(), sent);
    setup.assert_verified();
});

on_each_backend!(a_conversation_cut_at_any_byte_is_the_same_conversation, |setup: Setup| {
    let conversation = concat!(
        "{\"level\":\"info\",\"message\":\"a\"}\r\n\n",
        "{\"$x\":1}\nno\n{}\n{\"level\":\"error\",\"message\":\"\\u00e9\"}\n{\"level\":\"x\",\"message\":0}",
    )
    .as_bytes();
    let expected = ["ok", "reserved_key", "bad_json", "missing_field", "ok", "ok"];
    let setup = setup.ack("written");
    let server = setup.start();
    for cut in 0..=conversation.len() {
        let mut client = server.connect();
        client.send(&conversation[..cut]);
        thread::sleep(Duration::from_millis(2)); // Long enough, nearly always, for the first part to be read alone.
        client.send(&conversation[cut..]);
        let replies: Vec<String> = client.finish().iter().map(|line| code(line)).collect();
        assert_eq!(replies, expected, "cut at byte {cut}");
    }
    let mut client = server.connect();
    for byte in conversation {
        client.send([*byte]);
        thread::sleep(Duration::from_micros(200));
    }
    assert_eq!(client.finish().len(), expected.len(), "byte by byte");
    server.stop();
    assert_eq!(setup.records().len(), 3 * (conversation.len() + 2));
    setup.assert_verified();
});

on_each_backend!(a_hundred_thousand_pipelined_lines_are_answered_in_order, |setup: Setup| {
    const LINES: u64 = 100_000;
    let line = |number: u64| match number % 7 {
        2 => "{}".to_owned(),
        3 => format!("no {number}"),
        5 => "[]".to_owned(),
        _ => record("p", number),
    };
    let expected = |number: u64| match number % 7 {
        2 => "missing_field",
        3 => "bad_json",
        5 => "not_object",
        _ => "ok",
    };
    let server = setup.start();
    let replies = server.connect().exchange(joined((0..LINES).map(line)));
    assert_eq!(replies.len() as u64, LINES);
    for (number, reply) in (0..).zip(&replies) {
        assert_eq!(code(reply), expected(number), "line {number}");
    }
    server.stop();
    let stored: Vec<String> = (0..LINES).filter(|number| expected(*number) == "ok").map(line).collect();
    assert!(setup.records() == stored, "exactly the accepted lines are stored, in order");
    setup.assert_verified();
});

on_each_backend!(a_record_below_the_minimum_level_is_answered_ok_and_not_stored, |setup: Setup| {
    let setup = setup.env("MIN_LOG_LEVEL", "WARNING");
    let levels = ["trace", "DEBUG", "Info", "warn", "WARNING", "error", "fatal", "CRITICAL", "notice", ""];
    let line = |level: &str| format!(r#"{{"level":"{level}","message":"m"}}"#);
    let server = setup.start();
    let replies = server.connect().exchange(joined(levels.map(line)));
    assert_eq!(replies, vec![OK; levels.len()]);
    server.stop();
    assert_eq!(setup.records(), levels[3..].iter().map(|level| line(level)).collect::<Vec<_>>());
});

on_each_backend!(debug_is_the_lowest_level_stored_unless_told_otherwise, |setup: Setup| {
    let lines = [r#"{"level":"trace","message":1}"#, r#"{"level":"debug","message":2}"#];
    let server = setup.start();
    assert_eq!(server.connect().exchange(joined(lines)), [OK, OK]);
    server.stop();
    assert_eq!(setup.records(), lines[1..]);
});

on_each_backend!(a_bad_line_never_costs_the_next_one, |setup: Setup| {
    let bad: [&[u8]; 9] = [
        b"{\"level\":\"info\",\"message\":\"unclosed",
        b"{\"level\":\"info\",\"message\":\"\x01\"}",
        b"\0",
        b"\xc3\x28",
        b"{\"level\":\"info\",\"message\":\"a\"}{\"level\":\"info\",\"message\":\"b\"}",
        b"}",
        b"\"",
        b"\\",
        b"{\"level\":\"info\",\"message\":\"\\\"}",
    ];
    let server = setup.start();
    let mut bytes = Vec::new();
    for (number, bad) in (0..).zip(bad) {
        bytes.extend_from_slice(bad);
        bytes.push(b'\n');
        bytes.extend_from_slice(&joined([record("good", number)]));
    }
    let replies = server.connect().exchange(bytes);
    assert_eq!(replies.len(), 2 * bad.len());
    for pair in replies.chunks(2) {
        assert_eq!(json(&pair[0])["message"], "invalid JSON", "{}", pair[0]);
        assert_eq!(pair[1], OK);
    }
    server.stop();
    assert_eq!(setup.records().len(), bad.len());
});
