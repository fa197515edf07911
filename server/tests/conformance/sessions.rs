//! Session mode: numbering, acks that add up, resume, take-over, and how a session ends.

use crate::support::lines::{OK, json, record};
use crate::support::on_each_backend;
use crate::support::process::Setup;
use serde_json::json as value;
use std::thread;
use std::time::Duration;

on_each_backend!(empty_lines_before_a_hello_are_skipped, |setup: Setup| {
    let server = setup.start();
    for (number, empty) in ["\n", "\r\n", "\n\r\n\n\n"].into_iter().enumerate() {
        for is_split in [false, true] {
            let mut client = server.connect();
            let name = format!("p{number}-{is_split}");
            let hello = format!(r#"{empty}{{"$hello":{{"v":1,"producer":"{name}"}}}}"#);
            let pieces: Vec<&[u8]> = hello.as_bytes().chunks(if is_split { 1 } else { hello.len() }).collect();
            for piece in pieces {
                client.send(piece);
                thread::sleep(Duration::from_millis(u64::from(is_split)));
            }
            client.say("");
            assert!(json(&client.line()).get("$welcome").is_some(), "{empty:?}");
            client.say(record(&name, 1));
            assert_eq!(client.settled(1).stored, 1);
        }
    }
    // What they come before need not be a session.
    for empty in ["\n", "\r\n", "\r"] {
        let mut client = server.connect();
        client.send(empty);
        thread::sleep(Duration::from_millis(5));
        assert_eq!(client.ask(record("plain", 1)), OK, "{empty:?}");
    }
});

on_each_backend!(a_hello_is_welcomed_with_what_a_client_has_to_know, |setup: Setup| {
    let server = setup.start();
    let welcome = |known: bool, last_seq: u64, ack: &str| {
        format!(
            r#"{{"$welcome":{{"v":1,"known":{known},"last_seq":{last_seq},"max_line":262144,"window":8192,"ack":"{ack}"}}}}"#
        )
    };
    let mut first = server.connect();
    first.send("{\"$hello\":{\"v\":1,\"producer\":\"web-17/ab3f\",\"epoch\":4,\"ack\":\"written\"}}\n");
    assert_eq!(first.line(), welcome(false, 0, "written"));
    first.say(record("a", 1));
    first.say(record("a", 2));
    first.settled(2);
    drop(first);
    let mut again = server.connect();
    again.send("{\"$hello\":{\"v\":1,\"producer\":\"web-17/ab3f\",\"epoch\":4}}\r\n");
    assert_eq!(again.line(), welcome(true, 2, "durable"));
    let mut newer = server.connect();
    newer.say(r#"{"$hello":{"v":1,"producer":"web-17/ab3f","epoch":5}}"#);
    assert_eq!(newer.line(), welcome(false, 0, "durable"), "a new epoch starts again at 1");
});

on_each_backend!(acks_account_for_every_line_and_bye_sums_them_up, |setup: Setup| {
    let server = setup.start();
    let mut client = server.connect();
    client.hello(r#""producer":"books","epoch":1"#);
    client.send(
        "{\"level\":\"info\",\"message\":1}\nno\n{\"level\":\"trace\",\"message\":2}\n{}\n\n\
         {\"level\":\"info\",\"message\":\"\u{e9}\"}\r\n[1]\n",
    );
    let settled = client.settled(6);
    assert_eq!((settled.upto, settled.stored, settled.filtered, settled.dup), (6, 2, 1, 0));
    let rejected = [(2, "bad_json"), (4, "missing_field"), (6, "not_object")];
    assert_eq!(settled.rejected, rejected.map(|(seq, code)| (seq, code.to_owned())));
    let (rest, totals) = client.bye();
    assert_eq!(rest.upto, 0, "everything was acknowledged before");
    assert_eq!(totals, value!({"received": 6, "stored": 2, "filtered": 1, "dup": 0, "rejected": 3}));
    server.stop();
    assert_eq!(setup.records(), [r#"{"level":"info","message":1}"#, "{\"level\":\"info\",\"message\":\"é\"}"]);
    setup.assert_verified();
});

on_each_backend!(a_rejection_says_where_the_line_is_wrong, |setup: Setup| {
    let server = setup.start();
    let mut client = server.connect();
    client.hello(r#""producer":"p""#);
    client.say(r#"{"level":"info","message":}"#);
    assert_eq!(
        client.line(),
        r#"{"$ack":{"upto":1,"level":"durable","stored":0,"filtered":0,"dup":0,"rej":[[1,"bad_json",26]]}}"#
    );
    client.say(record("p", 2));
    assert_eq!(client.line(), r#"{"$ack":{"upto":2,"level":"durable","stored":1,"filtered":0,"dup":0}}"#);
});

on_each_backend!(bye_waits_until_everything_is_acknowledged, |setup: Setup| {
    let server = setup.start();
    let mut client = server.connect();
    client.hello(r#""producer":"p""#);
    (1..=500).for_each(|number| client.say(record("p", number)));
    let (settled, totals) = client.bye();
    assert_eq!((settled.upto, settled.stored), (500, 500));
    assert_eq!(totals["received"], 500);
});

on_each_backend!(lines_sent_again_are_counted_and_not_stored_again, |setup: Setup| {
    let server = setup.start();
    let mut first = server.connect();
    first.hello(r#""producer":"again","epoch":7"#);
    (1..=20).for_each(|number| first.say(record("again", number)));
    first.settled(20);
    drop(first);
    let mut second = server.connect();
    assert_eq!(second.hello(r#""producer":"again","epoch":7,"resume_from":11"#)["last_seq"], 20);
    (11..=30).for_each(|number| second.say(record("again", number)));
    let settled = second.settled(30);
    assert_eq!((settled.stored, settled.dup), (10, 10));
    assert_eq!(second.bye().1, value!({"received": 20, "stored": 10, "filtered": 0, "dup": 10, "rejected": 0}));
    server.stop();
    assert_eq!(setup.records(), (1..=30).map(|number| record("again", number)).collect::<Vec<_>>());
    setup.assert_verified();
});

on_each_backend!(numbering_goes_on_after_a_restart, |setup: Setup| {
    let server = setup.start();
    let mut client = server.connect();
    client.hello(r#""producer":"p","epoch":3"#);
    client.send("{\"level\":\"info\",\"message\":1}\nno\n{\"level\":\"trace\",\"message\":3}\n");
    assert_eq!(client.settled(3).upto, 3);
    server.stop();
    let server = setup.start();
    let mut client = server.connect();
    let welcome = client.hello(r#""producer":"p","epoch":3,"resume_from":1"#);
    assert_eq!((&welcome["known"], &welcome["last_seq"]), (&value!(true), &value!(3)));
    client.send("{\"level\":\"info\",\"message\":1}\nno\n{\"level\":\"trace\",\"message\":3}\n");
    client.say(record("p", 4));
    let settled = client.settled(4);
    assert_eq!((settled.stored, settled.dup), (1, 3), "rejected and filtered lines use a number up, too");
    server.stop();
    assert_eq!(setup.records().len(), 2);
});

on_each_backend!(a_producer_that_is_not_remembered_may_begin_anywhere, |setup: Setup| {
    let server = setup.start();
    let mut client = server.connect();
    let welcome = client.hello(r#""producer":"elsewhere","resume_from":1000"#);
    assert_eq!((&welcome["known"], &welcome["last_seq"]), (&value!(false), &value!(999)));
    client.say(record("elsewhere", 1000));
    assert_eq!(client.settled(1000).stored, 1);
});

on_each_backend!(a_ping_is_answered_with_its_number, |setup: Setup| {
    let server = setup.start();
    let mut client = server.connect();
    client.hello(r#""producer":"p""#);
    assert_eq!(client.ask(r#"{"$ping":7}"#), r#"{"$pong":7}"#);
    client.send(format!("{}\n{{\"$ping\":18446744073709551615}}\n{}\n", record("p", 1), record("p", 2)));
    let mut lines = Vec::new();
    while !lines.iter().any(|line: &String| json(line)["$ack"]["upto"] == 2) {
        lines.push(client.line());
    }
    assert!(lines.contains(&r#"{"$pong":18446744073709551615}"#.to_owned()), "{lines:?}");
});

on_each_backend!(a_flush_does_not_wait_for_the_linger, |setup: Setup| {
    // At this level nobody waits for a write, so a batch is written when it is full, when it lingered, or on request.
    let setup = setup.env("BATCH_FLUSH_MS", "60000").ack("accepted");
    let server = setup.start();
    let mut client = server.connect();
    client.hello(r#""producer":"p""#);
    client.say(record("p", 1));
    client.settled(1);
    let is_stored = || {
        let segments = setup.segments(0);
        segments.iter().any(|path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).contains(&record("p", 1)))
    };
    thread::sleep(Duration::from_millis(300));
    assert!(!is_stored(), "it gathers");
    client.say(r#"{"$flush":1}"#);
    for _ in 0..1000 {
        if is_stored() {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("not written within 5 s of a flush");
});

on_each_backend!(a_lower_epoch_is_refused, |setup: Setup| {
    let server = setup.start();
    server.connect().hello(r#""producer":"p","epoch":5"#);
    let mut stale = server.connect();
    stale.say(r#"{"$hello":{"v":1,"producer":"p","epoch":4}}"#);
    let goaway = json(&stale.line());
    assert_eq!((&goaway["$goaway"]["code"], &goaway["$goaway"]["upto"]), (&value!("stale_epoch"), &value!(0)));
    assert!(goaway["$goaway"]["reason"].as_str().unwrap().contains("epoch 5"), "{goaway}");
    assert!(stale.is_at_end());
});

on_each_backend!(a_second_connection_of_a_producer_fences_the_first, |setup: Setup| {
    let server = setup.start();
    let mut first = server.connect();
    first.hello(r#""producer":"p","epoch":1"#);
    (1..=1000).for_each(|number| first.say(record("p", number)));
    let mut second = server.connect();
    let last_seq = second.hello(r#""producer":"p","epoch":1"#)["last_seq"].as_u64().unwrap();
    let said = first.rest();
    let goaway = json(said.last().expect("the first is told"));
    assert_eq!((&goaway["$goaway"]["code"], &goaway["$goaway"]["upto"]), (&value!("fenced"), &value!(last_seq)));
    second.say(record("p", last_seq + 1));
    assert_eq!(second.settled(last_seq + 1).stored, 1);
    drop(server.stop());
    assert_eq!(setup.records(), (1..=last_seq + 1).map(|number| record("p", number)).collect::<Vec<_>>());
    setup.assert_verified();
});

on_each_backend!(a_resume_beyond_what_is_known_is_a_gap, |setup: Setup| {
    let server = setup.start();
    let mut client = server.connect();
    client.hello(r#""producer":"p""#);
    client.say(record("p", 1));
    client.settled(1);
    drop(client);
    let mut gap = server.connect();
    gap.say(r#"{"$hello":{"v":1,"producer":"p","resume_from":3}}"#);
    let goaway = json(&gap.line());
    assert_eq!((&goaway["$goaway"]["code"], &goaway["$goaway"]["upto"]), (&value!("seq_gap"), &value!(1)));
    assert!(gap.is_at_end());
});

on_each_backend!(a_protocol_error_ends_the_session_and_says_why, |setup: Setup| {
    let server = setup.start();
    let openings = [
        (r#"{"$hello":{"v":2,"producer":"p"}}"#, "version 2"),
        (r#"{"$hello":{"v":1,"producer":""}}"#, "1 to 128 bytes"),
        (r#"{"$hello":{"v":1,"producer":"a b"}}"#, "letters, digits"),
        (r#"{"$hello":{"v":1,"producer":"p","ack":"forwarded"}}"#, "forwarded"),
        (r#"{"$hello":{"v":1,"producer":"p","surprise":1}}"#, "surprise"),
        (r#"{"$hello":{"v":1,"producer":"p","resume_from":0}}"#, "within 1 and 9223372036854775807"),
        (r#"{"$hello":{"v":1,"producer":"p","resume_from":9223372036854775808}}"#, "within 1 and 9223372036854775807"),
        (r#"{"$hello":17}"#, "control line"),
        (r#"{"$hello" what"#, "control line"),
    ];
    for (opening, reason) in openings {
        let mut client = server.connect();
        let answer = client.ask(opening);
        let goaway = &json(&answer)["$goaway"];
        assert_eq!(goaway["code"], "protocol_error", "{opening}: {answer}");
        assert!(goaway["reason"].as_str().unwrap().contains(reason), "{opening}: {answer}");
        assert!(client.is_at_end());
    }
    let later = [r#"{"$hello":{"v":1,"producer":"p"}}"#, r#"{"$nonsense":1}"#, r#"{"$"#, r#"{"$resume":{"from":9}}"#];
    for line in later {
        let mut client = server.connect();
        client.hello(r#""producer":"later""#);
        let goaway = client.ask(line);
        let expected = if line.contains("resume") { "seq_gap" } else { "protocol_error" };
        assert_eq!(json(&goaway)["$goaway"]["code"], expected, "{line}: {goaway}");
        assert!(client.is_at_end());
    }
    let mut endless = server.connect();
    endless.send(r#"{"$hello":{"v":1,"producer":""#);
    endless.send("p".repeat(8192));
    assert_eq!(json(&endless.line())["$goaway"]["code"], "protocol_error");
});

on_each_backend!(what_comes_before_a_protocol_error_is_stored_and_acknowledged, |setup: Setup| {
    let server = setup.start();
    let mut client = server.connect();
    client.hello(r#""producer":"p""#);
    client.send(format!("{}\n{}\n{{\"$nonsense\":1}}\n{}\n", record("p", 1), record("p", 2), record("p", 3)));
    let said = client.rest();
    let goaway = &json(said.last().unwrap())["$goaway"];
    assert_eq!((&goaway["code"], &goaway["upto"]), (&value!("protocol_error"), &value!(2)));
    server.stop();
    assert_eq!(setup.records().len(), 2, "nothing behind it is");
});

on_each_backend!(a_session_is_told_to_go_when_the_server_stops, |setup: Setup| {
    let server = setup.start();
    let mut client = server.connect();
    client.hello(r#""producer":"p","epoch":2"#);
    (1..=10).for_each(|number| client.say(record("p", number)));
    client.settled(10);
    server.signal("TERM");
    assert_eq!(client.line(), r#"{"$goaway":{"upto":10,"code":"shutting_down"}}"#);
    assert!(client.is_at_end());
    assert_eq!(server.wait().status.code(), Some(0));
});

on_each_backend!(a_session_cut_at_any_byte_is_the_same_session, |setup: Setup| {
    let server = setup.clone().ack("written").start();
    let conversation = |producer: usize| {
        format!(
            "{{\"$hello\":{{\"v\":1,\"producer\":\"cut-{producer}\"}}}}\r\n{{\"level\":\"info\",\"message\":1}}\nno\n\
             {{\"$ping\":3}}\n{{\"level\":\"info\",\"message\":2}}\r\n{{\"$bye\":1}}\n"
        )
    };
    for cut in 1..conversation(100).len() {
        let bytes = conversation(100 + cut).into_bytes();
        let mut client = server.connect();
        client.send(&bytes[..cut]);
        thread::sleep(Duration::from_millis(2));
        client.send(&bytes[cut..]);
        let said = client.rest();
        let bye = said.last().unwrap_or_else(|| panic!("nothing is said when cut at {cut}"));
        let totals = value!({"received": 3, "stored": 2, "filtered": 0, "dup": 0, "rejected": 1});
        assert_eq!(json(bye)["$bye"], totals, "cut at {cut}: {said:?}");
        assert!(said[0].starts_with(r#"{"$welcome""#) && said.contains(&r#"{"$pong":3}"#.to_owned()), "{said:?}");
    }
    server.stop();
    setup.assert_verified();
});

on_each_backend!(a_session_that_ends_without_bye_still_gets_its_acks, |setup: Setup| {
    let server = setup.start();
    let mut client = server.connect();
    client.hello(r#""producer":"p""#);
    // A line is whole when its newline is there: the last one takes no number and will be sent again.
    client.send(format!("{}\n{}\n{}", record("p", 1), record("p", 2), record("p", 3)));
    let said = client.finish();
    assert_eq!(json(said.last().expect("an ack"))["$ack"]["upto"], 2, "{said:?}");
    assert_eq!(server.connect().hello(r#""producer":"p""#)["last_seq"], 2);
    server.stop();
    assert_eq!(setup.records(), [record("p", 1), record("p", 2)]);
});
