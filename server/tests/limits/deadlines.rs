//! Who has to go, and who may stay.

use crate::support::lines::{OK, joined, json, record};
use crate::support::on_each_backend;
use crate::support::process::Setup;
use std::io::{ErrorKind, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

/// Long enough that a busy machine keeps it, short enough for a test.
const SHORT: Duration = Duration::from_millis(600);

on_each_backend!(who_says_nothing_or_half_a_hello_has_to_go, |setup: Setup| {
    let server = setup.flag("--greeting-timeout", "600ms").start();
    let started = Instant::now();
    let mut silent = server.connect();
    let mut half = server.connect();
    half.send("{\"$hello\":{\"v\":1,");
    let mut known = server.connect();
    assert_eq!(known.ask(record("known", 1)), OK);
    let mut session = server.connect();
    session.hello(r#""producer":"p""#);
    let said = silent.rest();
    assert!(started.elapsed() >= SHORT, "it has its time: {:?}", started.elapsed());
    assert_eq!((said.len(), json(&said[0])["code"].as_str()), (1, Some("idle")), "{said:?}");
    let said = half.rest();
    assert_eq!((said.len(), json(&said[0])["$goaway"]["code"].as_str()), (1, Some("slow_client")), "{said:?}");
    thread::sleep(2 * SHORT);
    assert_eq!(known.ask(record("known", 2)), OK, "who has said something may be silent");
    session.say(record("p", 1));
    session.settled(1);
    let said = server.stop().stderr;
    assert!(said.contains("idle 1") && said.contains("slow_client 1"), "they are counted: {said}");
});

on_each_backend!(a_line_that_is_begun_has_to_be_finished, |setup: Setup| {
    let server = setup.flag("--line-timeout", "600ms").start();
    let mut plain = server.connect();
    plain.send(format!("{}\n{{\"level\":", record("plain", 1)));
    assert_eq!(plain.line(), OK);
    let mut session = server.connect();
    session.hello(r#""producer":"p""#);
    session.send(format!("{}\n{{\"level\":", record("p", 1)));
    // It drips, so it is never silent; and the other goes on finishing lines, each of which is begun in time.
    let mut dripping = server.connect();
    let mut steady = server.connect();
    let line = record("steady", 1) + "\n";
    let (begin, end) = line.split_at(10);
    let started = Instant::now();
    steady.send(begin);
    while started.elapsed() < 3 * SHORT {
        // An error shows that it has been let go.
        let _ = dripping.stream().write(b"x");
        thread::sleep(SHORT / 6);
        steady.send(format!("{end}{begin}"));
    }
    let said = plain.rest();
    assert_eq!((said.len(), json(&said[0])["code"].as_str()), (1, Some("slow_client")), "{said:?}");
    let said = session.rest();
    let goaway = json(said.last().unwrap());
    assert_eq!(
        (&goaway["$goaway"]["code"], &goaway["$goaway"]["upto"]),
        (&"slow_client".into(), &1.into()),
        "{said:?}"
    );
    let mut heard = Vec::new();
    let _ = dripping.stream().read_to_end(&mut heard);
    let heard = String::from_utf8_lossy(&heard);
    assert!(heard.is_empty() || heard.contains("slow_client"), "it is cut off, and told if it takes it: {heard}");
    assert!(dripping.is_at_end());
    steady.send(end);
    steady.half_close();
    assert!(steady.rest().iter().all(|line| line == OK));
    server.stop();
});

on_each_backend!(a_slow_line_has_the_time_that_its_bytes_give_it, |setup: Setup| {
    let server = setup.flag("--line-timeout", "300ms").start();
    let mut client = server.connect();
    let line = format!("{{\"level\":\"info\",\"message\":\"{}\"}}\n", "x".repeat(16 << 10));
    let started = Instant::now();
    // At twice the least rate for two seconds, which is many times the timeout.
    for piece in line.as_bytes().chunks(820) {
        client.send(piece);
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(client.line(), OK);
    assert!(started.elapsed() > Duration::from_millis(1500));
    server.stop();
});

on_each_backend!(who_is_idle_for_too_long_has_to_go_and_who_pings_may_stay, |setup: Setup| {
    let server = setup.flag("--idle-timeout", "600ms").start();
    let mut plain = server.connect();
    assert_eq!(plain.ask(record("plain", 1)), OK);
    let mut session = server.connect();
    session.hello(r#""producer":"idle""#);
    let mut pinging = server.connect();
    pinging.hello(r#""producer":"pinging""#);
    for number in 0..12 {
        thread::sleep(SHORT / 4);
        assert_eq!(pinging.ask(format!("{{\"$ping\":{number}}}")), format!("{{\"$pong\":{number}}}"));
    }
    assert_eq!(json(&plain.line())["code"], "idle");
    assert!(plain.is_at_end());
    assert_eq!(json(&session.line())["$goaway"]["code"], "idle");
    assert!(session.is_at_end());
    server.stop();
});

on_each_backend!(a_session_that_takes_no_answers_has_to_go, |setup: Setup| {
    let server = setup.flag("--send-timeout", "600ms").start();
    let mut deaf = server.connect();
    deaf.hello(r#""producer":"deaf""#);
    let pings = "{\"$ping\":18446744073709551615}\n".repeat(1000);
    deaf.stream().set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    let started = Instant::now();
    let ended = loop {
        assert!(started.elapsed() < Duration::from_secs(20), "the server lets it stay");
        if let Err(error) = deaf.stream().write_all(pings.as_bytes()) {
            break error;
        }
    };
    assert!(
        matches!(ended.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        "it is let go, and not left to block: {ended}"
    );
    let said = server.stop().stderr;
    assert!(said.contains("slow_client 1"), "{said}");
});

on_each_backend!(nobody_is_late_while_the_server_was_not_running, |setup: Setup| {
    let server = setup.flag("--line-timeout", "600ms").flag("--idle-timeout", "1200ms").start();
    let mut half = server.connect();
    let line = record("half", 1) + "\n";
    let (begin, end) = line.split_at(12);
    half.send(begin);
    let mut idle = server.connect();
    assert_eq!(idle.ask(record("idle", 1)), OK);
    server.signal("STOP");
    half.send(joined([end.trim_end()]));
    idle.send(joined([record("idle", 2)]));
    thread::sleep(Duration::from_secs(3));
    server.signal("CONT");
    assert_eq!(half.line(), OK, "what came in the meantime is read first");
    assert_eq!(idle.line(), OK);
    server.stop();
});
