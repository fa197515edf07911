//! Gzip: what is compressed is stored and answered like anything else, and what goes wrong costs only what follows.
//! Segments may be compressed as well.

use crate::support::gzip::{bgzf, member};
use crate::support::lines::{OK, code, joined, json, record};
use crate::support::on_each_backend;
use crate::support::process::Setup;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

const CORRUPT: &str = r#"{"status":"error","message":"gzip decompression failed","code":"gzip_corrupt"}"#;

fn records(sender: &str, count: u64) -> Vec<String> {
    (1..=count).map(|number| record(sender, number)).collect()
}

/// What the program `gzip` makes of it.
fn gzip(args: &[&str], bytes: Vec<u8>) -> Vec<u8> {
    let mut command = Command::new("gzip").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = command.stdin.take().unwrap();
    let writer = thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let output = command.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "gzip {args:?}: {}", output.status);
    output.stdout
}

on_each_backend!(a_file_through_gzip_is_answered_line_by_line, |setup: Setup| {
    let server = setup.start();
    let mut lines = records("file", 30_000);
    lines.insert(777, "not json".into());
    let replies = server.connect().exchange(gzip(&["-c"], joined(&lines)));
    assert_eq!(replies.len(), lines.len());
    assert_eq!(code(&replies[777]), "bad_json");
    assert_eq!(replies.iter().filter(|reply| *reply == OK).count(), 30_000);
    server.stop();
    lines.remove(777);
    assert!(setup.records() == lines, "the stored bytes are the sent bytes");
    setup.assert_verified();
});

on_each_backend!(a_member_per_line_is_answered_before_the_next_is_sent, |setup: Setup| {
    let server = setup.start();
    let mut client = server.connect();
    for number in 1..=300 {
        let line = joined([record("old", number)]);
        client.send(if number % 2 == 0 { member(&line) } else { bgzf(&line) });
        assert_eq!(client.line(), OK);
    }
    assert!(client.finish().is_empty());
    server.stop();
    assert_eq!(setup.records(), records("old", 300));
});

on_each_backend!(members_end_wherever_they_like, |setup: Setup| {
    let server = setup.start();
    let lines = records("cut", 20_000);
    let text = joined(&lines);
    let members: Vec<u8> = text.chunks(10_007).flat_map(member).collect();
    let sized: Vec<u8> = text.chunks(10_007).flat_map(bgzf).collect();
    for packed in [members, sized] {
        let replies = server.connect().exchange([&packed[..], &[0; 512]].concat());
        assert!(replies.len() == lines.len() && replies.iter().all(|reply| reply == OK), "zeros may follow");
    }
    server.stop();
    let stored = setup.records();
    assert!(stored[..20_000] == lines && stored[20_000..] == lines);
});

on_each_backend!(a_stream_in_two_packets_cut_anywhere_is_the_same_stream, |setup: Setup| {
    let server = setup.start();
    let packed = [member(joined(records("a", 2))), bgzf(joined(records("b", 2))), member(b"no\n")].concat();
    for cut in 0..=packed.len() {
        let mut client = server.connect();
        client.send(&packed[..cut]);
        client.send(&packed[cut..]);
        let codes: Vec<String> = client.finish().iter().map(|reply| code(reply)).collect();
        assert_eq!(codes, ["ok", "ok", "ok", "ok", "bad_json"], "cut at {cut}");
    }
    server.stop();
    assert_eq!(setup.records().len(), 4 * (packed.len() + 1));
});

on_each_backend!(what_is_corrupt_costs_what_follows_and_ends_the_connection, |setup: Setup| {
    let server = setup.start();
    let good = member(joined(records("good", 3)));
    let mut flipped = member(joined(records("bad", 3)));
    let last = flipped.len() - 5;
    flipped[last] ^= 0x10;
    let cases: [(&str, &[u8], usize); 4] = [
        ("checksum", &flipped, 6),
        ("text", b"{\"level\":1}\n", 3),
        ("half", &good[..good.len() / 2], 3),
        ("one byte", b"\x1f", 3),
    ];
    for (name, tail, stored) in cases {
        let mut client = server.connect();
        client.send([&good[..], tail].concat());
        let mut said = client.finish();
        assert_eq!(said.pop().as_deref(), Some(CORRUPT), "{name}");
        assert!(said.len() >= 3 && said.len() <= stored && said.iter().all(|reply| reply == OK), "{name}: {said:?}");
    }
    // Without a word from the client the server hangs up, too.
    let mut client = server.connect();
    client.send([&good[..], b"x"].concat());
    assert_eq!(client.rest(), [OK, OK, OK, CORRUPT]);
    server.stop();
    setup.assert_verified();
});

on_each_backend!(half_a_member_and_silence_harms_nobody, |setup: Setup| {
    let server = setup.start();
    let packed = member(joined(records("slow", 5000)));
    let (half, rest) = packed.split_at(packed.len() / 2);
    let mut slow: Vec<_> = (0..50).map(|_| server.connect()).collect();
    slow.iter_mut().for_each(|client| client.send(half));
    for number in 1..=20 {
        let mut other = server.connect();
        other.send(member(joined([record("other", number)])));
        assert_eq!(other.line(), OK);
    }
    let mut first = slow.pop().unwrap();
    let before = first.lines(1000);
    first.send(rest);
    let after = first.finish();
    assert_eq!(before.len() + after.len(), 5000, "what had come was answered, and so is the rest");
    let mut second = slow.pop().unwrap();
    second.half_close();
    assert_eq!(second.rest().pop().as_deref(), Some(CORRUPT));
    server.stop(); // With the others in the middle of it.
    setup.assert_verified();
});

on_each_backend!(a_bomb_is_stopped_and_a_long_line_inside_gzip_is_refused_alone, |setup: Setup| {
    let server = setup.start();
    let long = format!(r#"{{"level":"info","message":"{}"}}"#, "x".repeat(262_144));
    let mut client = server.connect();
    client.send(member(joined([&record("line", 1), &long, &record("line", 2)])));
    let said = client.finish();
    assert_eq!(said.iter().map(|reply| code(reply)).collect::<Vec<_>>(), ["ok", "line_too_long", "ok"]);

    let bomb = joined([record("bomb", 1)]).repeat(400_000);
    let replies = server.connect().exchange(member(bomb));
    let (last, taken) = replies.split_last().unwrap();
    assert_eq!(code(last), "gzip_ratio");
    assert!(taken.len() > 10_000 && taken.len() < 400_000 && taken.iter().all(|reply| reply == OK), "{}", taken.len());
    server.stop();
    assert_eq!(setup.records().len(), taken.len() + 2, "what came before the bound is stored");
});

on_each_backend!(sessions_inside_gzip_find_their_home_and_go_on_after_a_cut, |setup: Setup| {
    let setup = setup.shards(2);
    let server = setup.start();
    let talk = |name: &str, from: u64, upto: u64| {
        let hello = format!("{{\"$hello\":{{\"v\":1,\"producer\":\"{name}\",\"epoch\":1}}}}");
        joined([hello].into_iter().chain((from..=upto).map(|seq| record(name, seq))))
    };
    for number in 0..32 {
        let name = format!("packed-{number}");
        // A member that is cut: what was whole of it is settled, and the goaway says how far.
        let packed = member(talk(&name, 1, 400));
        let mut client = server.connect();
        client.send(&packed[..packed.len() - 9 - number]);
        let said = client.finish();
        let goaway = json(said.last().unwrap());
        assert_eq!(goaway["$goaway"]["code"], "gzip_corrupt", "{name}: {said:?}");
        let upto = goaway["$goaway"]["upto"].as_u64().unwrap();
        assert!((1..=400).contains(&upto), "{name}: {upto}");

        let mut again = server.connect();
        let pieces = [talk(&name, upto + 1, 500), joined([r#"{"$bye":1}"#])];
        for piece in &pieces {
            again.send(if number % 2 == 0 { member(piece) } else { bgzf(piece) });
        }
        let said = again.rest();
        assert_eq!(json(&said[0])["$welcome"]["last_seq"], upto, "{name}: {said:?}");
        assert_eq!(json(said.last().unwrap())["$bye"]["stored"], 500 - upto, "{name}");
    }
    server.stop();
    let stored = setup.records();
    assert_eq!(stored.len(), 32 * 500);
    setup.assert_verified();
});

on_each_backend!(compressed_segments_are_what_zcat_reads_and_mix_with_others, |setup: Setup| {
    let mut sent = Vec::new();
    for (turn, kind) in ["gzip", "none", "gzip"].into_iter().enumerate() {
        let server = setup.clone().env("SEGMENT_COMPRESSION", kind).start();
        let lines = records(&format!("turn-{turn}"), 20_000);
        let replies = server.connect().exchange(joined(&lines));
        assert!(replies.len() == lines.len() && replies.iter().all(|reply| reply == OK));
        sent.extend(lines);
        // In the middle the segment is left as it is, preallocated.
        if turn == 1 { server.kill() } else { drop(server.stop()) }
    }
    assert!(setup.records() == sent, "cat reads both kinds");
    setup.assert_verified();
    let mut unpacked = Vec::new();
    let mut paths: Vec<_> = fs::read_dir(setup.dir().join("shard-00")).unwrap().map(|it| it.unwrap().path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|name| name == "gz")) {
        unpacked.extend(gzip(&["-dc"], fs::read(path).unwrap()));
    }
    let packed_turns = [&sent[..20_000], &sent[40_000..]].concat();
    assert!(unpacked == joined(packed_turns), "gzip reads the records and nothing else");
});

on_each_backend!(a_connection_between_members_is_an_idle_one, |setup: Setup| {
    let server = setup.start();
    let mut idle: Vec<_> = (0..200).map(|_| server.connect()).collect();
    for client in &mut idle {
        client.send(member(joined([record("idle", 1)])));
        assert_eq!(client.line(), OK);
    }
    let before = server.memory_kib("VmRSS");
    let mut more: Vec<_> = (0..800).map(|_| server.connect()).collect();
    for client in &mut more {
        client.send(member(joined([record("more", 1)])));
        assert_eq!(client.line(), OK);
    }
    thread::sleep(Duration::from_millis(50));
    let grown = server.memory_kib("VmRSS").saturating_sub(before);
    // 48 KiB each would be 37 MiB.
    assert!(grown < 800 * 8, "{grown} KiB for 800 connections between members");
});
