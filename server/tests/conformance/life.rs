//! How a server ends and begins again: a drain under load, signals, one server per directory.

use crate::support::client::{Client, PATIENCE};
use crate::support::lines::{OK, json, origin, record};
use crate::support::on_each_backend;
use crate::support::process::Setup;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

on_each_backend!(a_drain_under_load_keeps_every_answered_line, |setup: Setup| {
    let setup = setup.shards(2);
    let server = setup.start();
    let addr = server.addr();
    let (served, is_served) = mpsc::channel();
    let start = |load: fn(SocketAddr, &str, &Sender<()>) -> u64, name: String| {
        let served = served.clone();
        thread::spawn(move || load(addr, &name, &served))
    };
    let plain: Vec<_> = (0..6).map(|number| start(plain_load, format!("plain-{number}"))).collect();
    let sessions: Vec<_> = (0..6).map(|number| start(session_load, format!("session-{number}"))).collect();
    (0..12).for_each(|_| is_served.recv_timeout(PATIENCE).expect("each load is answered"));
    thread::sleep(Duration::from_millis(300));
    let ended = server.stop();
    assert!(ended.took < Duration::from_secs(10), "the drain took {:?}", ended.took);

    let replied: Vec<u64> = plain.into_iter().map(|load| load.join().unwrap()).collect();
    let settled: Vec<u64> = sessions.into_iter().map(|load| load.join().unwrap()).collect();
    let records = setup.records();
    let stored = |sender: &str| -> Vec<u64> {
        let of_sender = records.iter().filter_map(|line| origin(line));
        of_sender.filter(|(from, _)| *from == sender).map(|(_, number)| number).collect()
    };
    for (number, replied) in replied.into_iter().enumerate() {
        let stored = stored(&format!("plain-{number}"));
        assert!(stored.iter().copied().eq(1..=stored.len() as u64), "plain-{number} is stored in order, once");
        assert!(stored.len() as u64 >= replied, "plain-{number}: {replied} replies, {} stored", stored.len());
    }
    for (number, upto) in settled.into_iter().enumerate() {
        assert!(stored(&format!("session-{number}")).into_iter().eq(1..=upto), "session-{number} up to {upto}");
    }
    for shard in 0..2 {
        for path in setup.segments(shard) {
            let text = fs::read_to_string(&path).unwrap();
            let last = text.lines().last().expect("an unused segment is removed");
            assert!(last.starts_with("{\"$end\":"), "{} ends with {last}", path.display());
        }
    }
    setup.assert_verified();
});

on_each_backend!(a_drain_gives_every_answer_to_a_client_that_has_more_under_way, |setup: Setup| {
    let server = setup.start();
    let client = Client::connect(server.addr());
    let mut stream = client.stream().try_clone().unwrap();
    // More than it may be owed answers for, so that the server has stopped reading and bytes are left over.
    let writer = thread::spawn(move || while stream.write_all(&b"no\n".repeat(10_000)).is_ok() {});
    thread::sleep(Duration::from_millis(500));
    server.signal("TERM");
    thread::sleep(Duration::from_millis(200));
    let (mut replies, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    // Slower than the server sends: its last bytes are in its send buffer when it closes.
    while let len @ 1.. = client.stream().read(&mut piece).expect("the end of the stream, not a reset") {
        replies.extend_from_slice(&piece[..len]);
        thread::sleep(Duration::from_millis(1));
    }
    let replies = String::from_utf8(replies).unwrap();
    assert!(replies.ends_with('\n') && replies.lines().all(|line| line.contains("bad_json")), "no reply is cut");
    writer.join().unwrap();
    let ended = server.wait();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
});

on_each_backend!(ctrl_c_drains_like_sigterm, |setup: Setup| {
    let server = setup.start();
    let mut client = server.connect();
    assert_eq!(client.ask(record("p", 1)), OK);
    server.signal("INT");
    assert!(client.is_at_end());
    assert_eq!(server.wait().status.code(), Some(0));
    assert_eq!(setup.records(), [record("p", 1)]);
    setup.assert_verified();
});

on_each_backend!(a_segment_that_is_removed_under_the_server_is_told_and_is_no_clean_end, |setup: Setup| {
    let server = setup.start();
    assert_eq!(server.connect().ask(record("p", 1)), OK);
    let segments = setup.segments(0);
    fs::remove_file(&segments[0]).unwrap();
    server.signal("TERM");
    let ended = server.wait();
    let words = format!("{} was removed while it was in use", segments[0].display());
    assert!(ended.stderr.contains(&words), "{}", ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "what was acknowledged is gone: {}", ended.stderr);
});

on_each_backend!(an_idle_server_stops_at_once, |setup: Setup| {
    let server = setup.clone().start();
    let ended = server.stop();
    assert!(ended.took < Duration::from_secs(2), "{:?}", ended.took);
    assert!(setup.records().is_empty());
    setup.assert_verified();
});

on_each_backend!(a_second_server_on_the_same_directory_is_refused, |setup: Setup| {
    let server = setup.start();
    let mut client = server.connect();
    assert_eq!(client.ask(record("p", 1)), OK);
    let refused = setup.try_start().err().expect("the directory is taken");
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("another server"), "{}", refused.stderr);
    assert!(refused.stderr.contains(setup.dir().to_str().unwrap()), "it names the directory: {}", refused.stderr);
    assert_eq!(client.ask(record("p", 2)), OK, "the first is unharmed");
    server.stop();
    assert_eq!(setup.start().stop().status.code(), Some(0), "the lock goes with its holder");
});

on_each_backend!(a_killed_server_leaves_no_lock_behind, |setup: Setup| {
    let server = setup.start();
    assert_eq!(server.connect().ask(record("p", 1)), OK);
    server.kill();
    let server = setup.start();
    assert_eq!(server.connect().ask(record("p", 2)), OK);
    server.stop();
    assert_eq!(setup.records(), [record("p", 1), record("p", 2)]);
    setup.assert_verified();
});

on_each_backend!(a_second_signal_ends_a_drain_that_a_client_holds_up, |setup: Setup| {
    let setup = setup.arg("--drain-deadline").arg("30s");
    let server = setup.start();
    let _stuck = stuck_session(server.addr());
    server.signal("TERM");
    thread::sleep(Duration::from_millis(300));
    server.signal("TERM");
    let ended = server.wait();
    assert!(ended.took < Duration::from_secs(5), "it did not wait for the deadline: {:?}", ended.took);
    assert_eq!(ended.status.code(), Some(143), "a drain that was cut short does not look like a whole one");
});

on_each_backend!(a_drain_ends_at_its_deadline, |setup: Setup| {
    let setup = setup.arg("--drain-deadline").arg("300ms");
    let server = setup.start();
    let _stuck = stuck_session(server.addr());
    server.signal("TERM");
    let ended = server.wait();
    assert!(ended.took < Duration::from_secs(6), "{:?}", ended.took);
    assert_eq!(ended.status.code(), Some(1), "a drain that was cut short does not look like a whole one");
    // What was acknowledged is stored all the same.
    let server = setup.start();
    assert_eq!(server.connect().hello(r#""producer":"stuck""#)["last_seq"], 1);
    server.stop();
    setup.assert_verified();
});

on_each_backend!(a_session_that_reads_nothing_does_not_hold_a_stop_up, |setup: Setup| {
    let setup = setup.arg("--drain-deadline").arg("30s");
    let server = setup.start();
    let _stuck = stuck_session(server.addr());
    let ended = server.stop();
    assert!(ended.took < Duration::from_secs(10), "{:?}", ended.took);
    assert_eq!(ended.status.code(), Some(0));
    setup.assert_verified();
});

on_each_backend!(a_directory_is_taken_over_by_another_number_of_shards, |setup: Setup| {
    let run = |shards: u16, from: u64| {
        let server = setup.clone().shards(shards).start();
        for producer in 0..16 {
            let name = format!("p{producer}");
            let mut client = server.connect();
            let welcome = client.hello(&format!(r#""producer":"{name}","resume_from":1"#));
            assert_eq!(welcome["last_seq"], from, "{name} with {shards} shards");
            (1..=from + 10).for_each(|seq| client.say(record(&name, seq)));
            let settled = client.settled(from + 10);
            assert_eq!((settled.stored, settled.dup), (10, from));
        }
        server.stop();
    };
    run(2, 0);
    run(1, 10);
    run(3, 20);
    let mut records = setup.records();
    records.sort();
    let mut expected: Vec<String> =
        (0..16).flat_map(|producer| (1..=30).map(move |seq| record(&format!("p{producer}"), seq))).collect();
    expected.sort();
    assert!(records == expected, "each line is stored once");
    setup.assert_verified();
});

/// Sends as fast as it is taken until the server ends the connection; how many replies came, each of them ok.
fn plain_load(addr: SocketAddr, sender: &str, served: &Sender<()>) -> u64 {
    let client = Client::connect(addr);
    let mut stream = client.stream().try_clone().unwrap();
    let sender = sender.to_owned();
    let writer = thread::spawn(move || {
        let mut number = 0;
        loop {
            let piece: String = (0..20).map(|_| (number += 1, record(&sender, number) + "\n").1).collect();
            if stream.write_all(piece.as_bytes()).is_err() {
                return;
            }
        }
    });
    let mut replies = vec![0; 1];
    client.stream().read_exact(&mut replies).unwrap();
    served.send(()).unwrap();
    client.stream().read_to_end(&mut replies).expect("the end of the stream, not a reset");
    writer.join().unwrap();
    let replies = String::from_utf8(replies).unwrap();
    assert!(replies.ends_with('\n') && replies.lines().all(|line| line == OK), "every reply is whole, and ok");
    replies.lines().count() as u64
}

/// The same in session mode; up to which line it was settled when it was told to go.
fn session_load(addr: SocketAddr, producer: &str, served: &Sender<()>) -> u64 {
    let mut client = Client::connect(addr);
    client.hello(&format!(r#""producer":"{producer}","epoch":1"#));
    let (mut sent, mut settled) = (0, 0);
    loop {
        while sent < settled + 2000 {
            let piece: String = (0..50).map(|_| (sent += 1, record(producer, sent) + "\n").1).collect();
            // The server has said why it closes; it is still to be read.
            if client.stream().write_all(piece.as_bytes()).is_err() {
                break;
            }
        }
        let answer = json(&client.next_line().expect("a session is never closed in silence"));
        if let Some(goaway) = answer.get("$goaway") {
            assert_eq!(goaway["code"], "shutting_down");
            assert_eq!(client.next_line(), None, "goaway is the last word, and the stream has an end");
            return goaway["upto"].as_u64().unwrap();
        }
        if settled == 0 {
            served.send(()).unwrap();
        }
        settled = answer["$ack"]["upto"].as_u64().expect("an ack");
    }
}

/// A session with one acknowledged line that has been sent more than it reads: the server cannot say goodbye to it.
fn stuck_session(addr: SocketAddr) -> TcpStream {
    let mut client = Client::connect(addr);
    client.hello(r#""producer":"stuck""#);
    client.say(record("stuck", 1));
    client.settled(1);
    let stream = client.stream().try_clone().unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let piece = "{\"$ping\":18446744073709551615}\n".repeat(1000);
    while (&stream).write_all(piece.as_bytes()).is_ok() {}
    stream
}
