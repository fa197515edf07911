//! Bad input, bad peers and bad disks: a clear answer that names what was wrong, other connections unharmed, memory
//! flat, nothing acknowledged lost.

#[allow(dead_code, reason = "each test program uses a part of it")]
mod support;

use ringest_ingest::{Limits, SegmentFormat};
use serde_json::{Value, json as value};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use support::client::{Client, PATIENCE, Settled};
use support::disk::SmallDisk;
use support::lines::{OK, code, joined, json, origin, record};
use support::on_each_backend;
use support::process::{Setup, segment_mib, texts};

on_each_backend!(each_kind_of_bad_line_is_named_and_the_next_line_is_fine, |setup: Setup| {
    let nested = |open: &str, close: &str| {
        format!("{{\"level\":\"info\",\"message\":{}{}}}", open.repeat(100_000), close.repeat(100_000)).into_bytes()
    };
    let cases: [(Vec<u8>, &str); 22] = [
        (b"not json".into(), "bad_json"),
        (b"{\"level\":\"info\",\"message\":\"x\"} trailing".into(), "bad_json"),
        (b"{\"level\":\"info\",\"message\":01}".into(), "bad_json"),
        (b"{\"level\":\"info\",\"message\":1e999}".into(), "bad_json"),
        (b"{\"level\":\"info\",\"message\":\"\\ud800\"}".into(), "bad_json"),
        (b"{\"level\":\"info\",\"message\":\"\t\"}".into(), "bad_json"),
        (b"\xef\xbb\xbf{\"level\":\"info\",\"message\":\"a BOM\"}".into(), "bad_json"),
        (b"{\"level\":\"info\",\"message\":\"\0\"}".into(), "bad_json"),
        (b"\0\0\0\0\0\0\0\0".into(), "bad_json"),
        (vec![0; 100_000], "bad_json"),
        (b"[{\"level\":\"info\",\"message\":1}]".into(), "not_object"),
        (b"true".into(), "not_object"),
        (b"{\"Level\":\"info\",\"Message\":1}".into(), "missing_field"),
        (b"{\"a\":{\"level\":\"info\",\"message\":1}}".into(), "missing_field"),
        (b"{\"level\":[\"info\"],\"message\":1}".into(), "bad_type"),
        (b"{\"level\":\"info\",\"message\":\"\xed\xa0\x80\"}".into(), "invalid_utf8"),
        (b"{\"level\":\"info\",\"message\":\"\xc0\xaf\"}".into(), "invalid_utf8"),
        (b"{\"level\":\"info\",\"message\":\"\xf0\x9f\x98\"}".into(), "invalid_utf8"),
        (nested("[", "]"), "too_deep"),
        (nested("{\"a\":", "}"), "line_too_long"),
        (b"[".repeat(100_000), "too_deep"),
        (b"{\"a\":".repeat(50_000), "too_deep"),
    ];
    let server = setup.start();
    let (mut bad, mut other) = (server.connect(), server.connect());
    for (number, (line, expected)) in (0..).zip(&cases) {
        bad.send(line);
        bad.send("\n");
        let reply = bad.line();
        assert_eq!(code(&reply), *expected, "{}: {reply}", String::from_utf8_lossy(&line[..line.len().min(60)]));
        assert_eq!(bad.ask(record("next", number)), OK);
        assert_eq!(other.ask(record("other", number)), OK);
    }
    server.stop();
    assert_eq!(setup.records().len(), 2 * cases.len());
    setup.assert_verified();
});

on_each_backend!(the_same_bad_lines_in_one_piece_are_named_one_by_one_in_a_session, |setup: Setup| {
    let server = setup.start();
    let mut client = server.connect();
    client.hello(r#""producer":"bad""#);
    let mut bytes = Vec::new();
    for number in 0..1000 {
        bytes.extend_from_slice(b"no\n\xff\n{}\n\0\n[[[[\n");
        bytes.extend_from_slice(&joined([record("bad", number)]));
    }
    client.send(&bytes);
    let settled = client.settled(6000);
    assert_eq!(settled.stored, 1000);
    let codes = ["bad_json", "invalid_utf8", "missing_field", "bad_json", "bad_json"];
    let expected = (0..1000).flat_map(|turn| (1..).zip(codes).map(move |(at, code)| (6 * turn + at, code.to_owned())));
    assert!(settled.rejected.into_iter().eq(expected), "each is named once, in order");
});

on_each_backend!(a_line_of_a_gibibyte_costs_no_memory_and_one_answer, |setup: Setup| {
    let server = setup.start();
    let (mut client, mut other) = (server.connect(), server.connect());
    // What serving takes at all is not what is measured.
    for number in 0..200 {
        assert_eq!(other.ask(record("other", number)), OK);
        client.send(joined([format!("{{\"level\":\"info\",\"message\":\"{}\"}}", "x".repeat(200_000))]));
        assert_eq!(client.line(), OK);
    }
    let before = server.memory_kib("VmRSS");
    let piece = vec![b'x'; 1 << 20];
    client.send("{\"level\":\"info\",\"message\":\"");
    for number in 0..1024 {
        client.send(&piece);
        if number % 64 == 0 {
            assert_eq!(other.ask(record("other", number)), OK);
        }
    }
    client.send("\"}\n");
    let reply = r#"{"status":"error","message":"line too long","code":"line_too_long","limit":262144}"#;
    assert_eq!(client.line(), reply);
    assert_eq!(client.ask(record("next", 1)), OK, "answered once, and the next line is fine");
    let grown = server.memory_kib("VmHWM").saturating_sub(before);
    assert!(grown < 16 << 10, "memory grew by {grown} KiB");
    assert!(client.finish().is_empty());
    server.stop();
    setup.assert_verified();
});

on_each_backend!(a_line_that_never_ends_harms_nobody, |setup: Setup| {
    let server = setup.start();
    let mut endless = server.connect();
    (0..64).for_each(|_| endless.send(vec![b'{'; 1 << 20]));
    assert_eq!(code(&endless.line()), "line_too_long", "it is told before the line has ended");
    assert_eq!(server.connect().ask(record("other", 1)), OK);
    assert!(endless.finish().is_empty(), "the rest of it is no line of its own");
});

on_each_backend!(half_a_line_then_silence_harms_nobody, |setup: Setup| {
    let server = setup.start();
    let halves = ["{\"level\":\"info\",\"mess", "{", "{\"$hello\":{\"v\":1,\"producer\":\"half", "\r"];
    let mut silent: Vec<Client> = (0..50).map(|_| server.connect()).collect();
    for (client, half) in silent.iter_mut().zip(halves.iter().cycle()) {
        client.send(half);
    }
    let mut other = server.connect();
    (1..=20).for_each(|number| assert_eq!(other.ask(record("other", number)), OK));
    // The other half of the first kind arrives at last.
    assert_eq!(silent[0].ask("age\":\"late\"}"), OK);
    drop(silent);
    server.stop();
    assert_eq!(setup.records().len(), 21);
});

on_each_backend!(sessions_that_never_read_do_not_keep_the_buffers_of_all, |setup: Setup| {
    // More of them than any backend has buffers to receive into.
    const DEAF: usize = 48;
    let server = setup.start();
    let pings = "{\"$ping\":18446744073709551615}\n".repeat(1000).into_bytes();
    let mut deaf: Vec<(Client, usize)> = (0..DEAF)
        .map(|number| {
            let mut client = server.connect();
            client.hello(&format!(r#""producer":"deaf-{number}""#));
            client.stream().set_nonblocking(true).unwrap();
            (client, 0)
        })
        .collect();
    // Until none of them is read any further.
    let (mut idle, since) = (0, Instant::now());
    while idle < 50 {
        idle += 1;
        for (client, sent) in &mut deaf {
            if let Ok(len) = client.stream().write(&pings[*sent..]) {
                (*sent, idle) = ((*sent + len) % pings.len(), 0);
            }
        }
        assert!(since.elapsed() < PATIENCE, "the server reads on from clients that do not read");
        thread::sleep(Duration::from_millis(5));
    }
    let mut other = server.connect();
    (0..100).for_each(|number| assert_eq!(other.ask(record("other", number)), OK));
    drop(deaf);
    assert_eq!(server.connect().ask(record("other", 100)), OK);
    server.stop();
    setup.assert_verified();
});

on_each_backend!(a_session_that_is_told_to_go_and_never_reads_is_let_go, |setup: Setup| {
    let server = setup.start();
    let mut stuck = server.connect();
    stuck.hello(r#""producer":"stuck""#);
    stuck.say(record("stuck", 1));
    stuck.settled(1);
    let pings = "{\"$ping\":18446744073709551615}\n".repeat(1000);
    stuck.stream().set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    while stuck.stream().write_all(pings.as_bytes()).is_ok() {}
    // Its successor need not wait for it, and what it sends from now on is read and dropped, for a while.
    let mut successor = server.connect();
    assert_eq!(successor.hello(r#""producer":"stuck""#)["last_seq"], 1);
    let since = Instant::now();
    loop {
        match stuck.stream().write(pings.as_bytes()) {
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => break,
            _ => assert!(since.elapsed() < Duration::from_secs(15), "it may go on for ever"),
        }
    }
    successor.say(record("stuck", 2));
    assert_eq!(successor.settled(2).stored, 1);
    server.stop();
    assert_eq!(setup.records(), [record("stuck", 1), record("stuck", 2)]);
});

on_each_backend!(peers_that_never_read_cost_bounded_memory, |setup: Setup| {
    let server = setup.ack("written").start();
    let mut other = server.connect();
    (0..100).for_each(|number| assert_eq!(other.ask(record("other", number)), OK));
    let before = server.memory_kib("VmRSS");
    let addr = server.addr();
    let deaf: Vec<_> = (0..8)
        .map(|number| {
            thread::spawn(move || {
                let mut client = Client::connect(addr);
                // Refusals cannot be told in fewer bytes by waiting.
                let line = if number % 2 == 0 { "no\n" } else { "{\"level\":\"info\",\"message\":1}\n" };
                (0..200).for_each(|_| client.send(line.repeat(1000)));
                client
            })
        })
        .collect();
    let deaf: Vec<Client> = deaf.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(other.ask(record("other", 100)), OK);
    // A batch's memory is taken from the kernel when it is first used: that is start-up, not growth.
    let batches = (Limits::default().batch_memory(SegmentFormat::Plain) >> 10) as u64;
    let grown = server.memory_kib("VmHWM").saturating_sub(before);
    assert!(grown < batches + (16 << 10), "memory grew by {grown} KiB");
    drop(deaf);
    server.stop();
});

/// Not at once, and not much later than storage is tried again.
fn assert_hint(millis: Value) {
    assert!((250..=2000).contains(&millis.as_u64().unwrap()), "{millis}");
}

on_each_backend!(a_server_starts_on_a_full_disk_and_goes_on_when_there_is_room, |setup: Setup| {
    let Some(disk) = small_disk(&setup, 2 * segment_mib()) else { return };
    let setup = setup.log_dir(disk.path().join("logs")).small_segments();
    disk.occupy(2 * segment_mib());
    let server = setup.start();
    let mut plain = server.connect();
    let mut session = server.connect();
    session.hello(r#""producer":"p""#);
    let mut refused = json(&plain.ask(record("plain", 1)));
    assert_hint(refused["retry_after_ms"].take());
    assert_eq!(
        refused,
        value!({"status": "error", "message": "storage full", "code": "storage_full", "retry_after_ms": null})
    );
    assert_eq!(code(&plain.ask("no")), "bad_json", "what is wrong with a line is said all the same");
    let mut nack = json(&session.ask(record("p", 1)));
    assert_hint(nack["$nack"]["after_ms"].take());
    assert_eq!(nack, value!({"$nack": {"from": 1, "code": "storage_full", "retry": true, "after_ms": null}}));
    session.say(record("p", 2)); // On its way before the nack was read: dropped.
    disk.free();
    let waited = Instant::now();
    while plain.ask(record("plain", 2)) != OK {
        assert!(waited.elapsed() < Duration::from_secs(10), "it goes on without a restart");
        thread::sleep(Duration::from_millis(50));
    }
    session.say(r#"{"$resume":{"from":1}}"#);
    session.say(record("p", 1));
    assert_eq!(session.settled(1).stored, 1);
    server.stop();
    assert_eq!(setup.records(), [record("plain", 2), record("p", 1)]);
    setup.assert_verified();
});

on_each_backend!(a_disk_that_fills_up_loses_nothing_that_was_acknowledged, |setup: Setup| {
    // Room for two segments, and later for three.
    let Some(disk) = small_disk(&setup, 4 * segment_mib()) else { return };
    let setup = setup.log_dir(disk.path().join("logs")).small_segments();
    disk.occupy(segment_mib() * 3 / 2);
    let lines = 2560 * segment_mib(); // Of a kilobyte each.
    let server = setup.start();
    let pad = "x".repeat(1000);
    let line = |number: u64| record("plain", number).replace('}', &format!(",\"pad\":\"{pad}\"}}"));

    // More than there is room for: one part is stored, the rest is told why not.
    let replies = server.connect().exchange(joined((1..=lines).map(line)));
    let mut acknowledged: BTreeSet<u64> =
        (1..).zip(&replies).filter(|(_, reply)| *reply == OK).map(|it| it.0).collect();
    assert_eq!(replies.len() as u64, lines);
    let (stored, refused) = (acknowledged.len() as u64, lines - acknowledged.len() as u64);
    assert!(stored > lines / 4 && refused > 1000, "{stored} stored, {refused} refused");
    let codes: BTreeSet<String> = replies.iter().map(|reply| code(reply)).collect();
    assert_eq!(codes, BTreeSet::from(["ok".to_owned(), "storage_full".to_owned()]));

    // A session is told from where to send again, and does so until there is room.
    let addr = server.addr();
    let session = thread::spawn(move || send_in_spite_of_nacks(Client::connect(addr), 3000));
    thread::sleep(Duration::from_millis(1500));
    disk.free();
    let nacks = session.join().unwrap();
    assert!(nacks > 0, "there was no room at first");

    let mut plain = server.connect();
    for number in lines + 1..=lines + 1000 {
        assert_eq!(plain.ask(line(number)), OK, "without a restart");
        acknowledged.insert(number);
    }
    server.stop();
    let records = setup.records();
    let stored = |sender: &str| -> Vec<u64> {
        records.iter().filter_map(|line| origin(line)).filter(|it| it.0 == sender).map(|it| it.1).collect()
    };
    assert!(stored("plain").into_iter().eq(acknowledged), "exactly the acknowledged lines are stored, in order");
    assert!(stored("full").into_iter().eq(1..=3000), "a session's lines are stored once, in order");
    setup.assert_verified();
});

on_each_backend!(a_damaged_segment_is_told_set_aside_and_read_around, |setup: Setup| {
    // Three blocks in one segment, one per line.
    let server = setup.start();
    let mut client = server.connect();
    (1..=3).for_each(|number| assert_eq!(client.ask(record("p", number)), OK));
    server.stop();
    let path = setup.segments(0).pop().unwrap();
    let bytes = fs::read(&path).unwrap();
    let at = find(&bytes, record("p", 2).as_bytes()) + 20;
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();

    let output = setup.verify();
    assert!(!output.status.success(), "verify notices");
    let said = support::process::texts(&output);
    assert!(said.contains(path.file_name().unwrap().to_str().unwrap()), "and names the file: {said}");

    for start in 1..=2 {
        // What a snapshot of producers covers would not be read.
        for entry in fs::read_dir(setup.dir().join("shard-00")).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.extension().is_some_and(|name| name == "producers") {
                fs::remove_file(entry).unwrap();
            }
        }
        let server = setup.start();
        let mut client = server.connect();
        assert_eq!(client.ask(record("after", start)), OK, "the server starts");
        let said = server.stop().stderr;
        assert!(said.contains(path.to_str().unwrap()) && said.contains("quarantine"), "it says what it found: {said}");
        assert!(said.contains("1 damaged range"), "start {start}: {said}");
        let aside: Vec<_> = fs::read_dir(setup.dir().join("shard-00/quarantine")).unwrap().collect();
        assert_eq!(aside.len(), 1, "one copy, also after start {start}");
        let copy = fs::read(aside[0].as_ref().unwrap().path()).unwrap();
        assert!(bytes_contain(&copy, b"\"$blk\""), "the damaged block is copied whole");
    }
    let expected = [record("p", 1), record("p", 3), record("after", 1), record("after", 2)];
    assert_eq!(setup.records(), expected, "what is whole is read");
    let now = fs::read(&path).unwrap();
    assert_eq!(now.len(), bytes.len(), "and the damaged bytes are still where they were");
});

on_each_backend!(a_torn_tail_is_cut_and_told, |setup: Setup| {
    let server = setup.start();
    let mut client = server.connect();
    client.hello(r#""producer":"p","epoch":1"#);
    (1..=3).for_each(|number| client.say(record("p", number)));
    client.settled(3);
    server.kill();
    // A block that a crash cut off: its description is there, its records are not all.
    let path = setup.segments(0).remove(0);
    let bytes = fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let half = b"{\"$blk\":{\"i\":1,\"o\":999,\"n\":1,\"b\":100,\"r\":[[\"p\",1,4,4,1]],\"c\":\"00000000\",\"h\":\"0";
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(half, end as u64).unwrap();

    let server = setup.start();
    let mut client = server.connect();
    assert_eq!(client.hello(r#""producer":"p","epoch":1"#)["last_seq"], 3);
    client.say(record("p", 4));
    client.settled(4);
    let said = server.stop().stderr;
    assert!(said.contains(path.to_str().unwrap()) && said.contains("cut off"), "it says what it found: {said}");
    assert_eq!(fs::metadata(&path).unwrap().len(), end as u64);
    assert_eq!(setup.records(), (1..=4).map(|number| record("p", number)).collect::<Vec<_>>());
    setup.assert_verified();
});

on_each_backend!(strange_files_in_the_log_directory_are_left_alone, |setup: Setup| {
    let server = setup.start();
    assert_eq!(server.connect().ask(record("p", 1)), OK);
    server.stop();
    let shard = setup.dir().join("shard-00");
    let strange =
        [setup.dir().join("notes.txt"), shard.join("00000000000000000002.ndjson.bak"), shard.join("x.ndjson")];
    strange.iter().for_each(|path| fs::write(path, "mine").unwrap());
    fs::write(shard.join("00000000000000000009.ndjson"), "").unwrap();
    let garbage = shard.join("00000000000000000007.ndjson");
    fs::write(&garbage, "mine").unwrap();
    // Whoever opens a pipe waits for its other end.
    let nodes = [shard.join("00000000000000000011.ndjson"), shard.join("00000000000000000011.producers")];
    nodes.iter().for_each(|path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success()));
    let dirs = [shard.join("00000000000000000012.ndjson.gz"), shard.join("00000000000000000012.producers")];
    dirs.iter().for_each(|path| fs::create_dir(path).unwrap());
    fs::write(setup.dir().join("shard-03"), "mine").unwrap();
    let server = setup.start();
    assert_eq!(server.connect().ask(record("p", 2)), OK);
    let said = server.stderr();
    for path in nodes.iter().chain(&dirs).chain([&garbage, &setup.dir().join("shard-03")]) {
        assert!(said.contains(path.to_str().unwrap()), "it says what it leaves out: {said}");
    }
    server.stop();
    strange.iter().chain([&garbage]).for_each(|path| assert!(path.is_file()));
    let verified = setup.verify();
    assert!(!verified.status.success() && texts(&verified).contains("7.ndjson: named like a segment"));
    strange.iter().for_each(|path| assert_eq!(fs::read(path).unwrap(), b"mine", "{}", path.display()));
    assert_eq!(setup.records(), [record("p", 1), record("p", 2)]);
});

/// A disk of its own for the test, or said why there is none.
fn small_disk(setup: &Setup, mib: u64) -> Option<SmallDisk> {
    SmallDisk::mount(setup, mib).inspect_err(|why| println!("skipped: {why}")).ok()
}

/// Sends `lines` lines of a session, each as often as the server asks for it; how often it asked.
fn send_in_spite_of_nacks(mut client: Client, lines: u64) -> u64 {
    client.hello(r#""producer":"full""#);
    let (mut next, mut settled, mut nacks) = (1, Settled::default(), 0);
    while settled.upto < lines {
        while next <= lines && next <= settled.upto + 500 {
            client.say(record("full", next));
            next += 1;
        }
        let line = client.line();
        let Some(nack) = json(&line).get("$nack").cloned() else {
            settled.add(&line);
            continue;
        };
        assert_eq!((&nack["code"], &nack["retry"]), (&value!("storage_full"), &value!(true)), "{line}");
        thread::sleep(Duration::from_millis(nack["after_ms"].as_u64().unwrap()));
        next = nack["from"].as_u64().unwrap();
        assert!(next > settled.upto, "what is settled is not asked for again");
        client.say(format!("{{\"$resume\":{{\"from\":{next}}}}}"));
        nacks += 1;
    }
    assert_eq!((settled.stored, settled.dup), (lines, 0));
    nacks
}

fn find(bytes: &[u8], part: &[u8]) -> usize {
    bytes.windows(part.len()).position(|window| window == part).expect("it is there")
}

fn bytes_contain(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
