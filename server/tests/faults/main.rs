//! Storage that fails under the real server, on every backend: nothing acknowledged is lost, clients are told, and the
//! breaker opens and closes again. The kernel makes the faults; where this process may not ask it to, that is said.

mod thin_disk;

#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;

use serde_json::{Value, json as value};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};
use support::client::{Client, Settled};
use support::disk::SmallDisk;
use support::lines::{OK, code, json, origin};
use support::on_each_backend;
use support::process::{Server, Setup, segment_mib};
use thin_disk::ThinDisk;

on_each_backend!(a_disk_that_fails_to_write_loses_nothing_that_was_acknowledged, |setup: Setup| {
    // Large groups go past the page cache, so the write itself fails.
    lose_nothing(setup, 200, "write of segment");
});

on_each_backend!(a_disk_that_fails_to_sync_loses_nothing_that_was_acknowledged, |setup: Setup| {
    // Small ones are taken by the page cache, which fails to keep them.
    lose_nothing(setup, 5, "sync of segment");
});

/// Fills a disk beyond what it has, with so many lines at a time, gives it more, and counts.
fn lose_nothing(setup: Setup, window: u64, failure: &str) {
    let Some(mut disk) = or_skipped(ThinDisk::mount(&setup, 64)) else { return };
    let setup = setup.small_segments().log_dir(disk.path().join("logs"));
    let server = setup.start();
    let mut stream = Stream::begin(server.connect(), window);
    // Twice what the disk has.
    while stream.nacks.is_empty() {
        stream.go_on(u64::MAX);
        assert!(stream.settled.upto * (LINE_LEN as u64) < 128 << 20, "a disk of 64 MiB took twice as much");
    }
    let told = stream.nacks.clone();
    assert!(told.keys().all(|code| ["storage_error", "circuit_open"].contains(&code.as_str())), "{told:?}");
    assert!(stream.settled.upto > 0, "something was acknowledged before");
    let plain = (1..20).find_map(|number| refusal(&server, number)).expect("a breaker is open most of the time");
    assert!(["storage_error", "circuit_open"].contains(&code(&plain).as_str()), "{plain}");
    assert!(json(&plain)["retry_after_ms"].as_u64().unwrap() >= 250, "{plain}");

    disk.thicken();
    let upto = stream.next + 2000;
    let started = Instant::now();
    while stream.settled.upto < upto {
        stream.go_on(upto);
        assert!(started.elapsed() < Duration::from_secs(60), "it goes on once the disk does: {:?}", stream.nacks);
    }
    let ended = server.stop();
    assert!(ended.stderr.contains("storage breaker closed, opened "), "{}", ended.stderr);
    assert!(ended.stderr.contains(failure), "{}", ended.stderr);

    // Not where large groups went past the cache: they leave a file in many extents, and a file system without a journal
    // may lose the map of those with the first block of it that it cannot write.
    if failure.starts_with("sync") {
        disk.replug();
    }
    let numbers: Vec<u64> = setup
        .records()
        .iter()
        .filter_map(|line| origin(line).filter(|from| from.0 == "faults"))
        .map(|from| from.1)
        .collect();
    let due: Vec<u64> = (1..=upto).collect();
    assert!(numbers == due, "each acknowledged line is there once, in order: {} of {}", numbers.len(), due.len());
}

/// What a plain line is refused with. `None` where it was one of those by which a half-open breaker tries the disk: then it
/// was taken, and waits with the others.
fn refusal(server: &Server, number: u64) -> Option<String> {
    let mut stream = TcpStream::connect(server.addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
    writeln!(stream, "{}", line("plain", number)).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).ok().map(|_| answer.trim_end().to_owned())
}

on_each_backend!(a_full_disk_is_no_matter_of_the_breaker, |setup: Setup| {
    let mib = segment_mib() + 8;
    let Some(disk) = or_skipped(SmallDisk::mount(&setup, mib)) else { return };
    disk.occupy(mib - 4);
    let setup = setup.small_segments().log_dir(disk.path().join("logs"));
    let server = setup.start();
    let mut client = server.connect();
    let started = Instant::now();
    let refused = client.ask(line("plain", 1));
    assert_eq!(code(&refused), "storage_full", "{refused}");
    disk.free();
    while client.ask(line("plain", 2)) != OK {
        assert!(started.elapsed() < Duration::from_secs(30), "there is room again");
        thread::sleep(Duration::from_millis(250));
    }
    let ended = server.stop();
    assert!(!ended.stderr.contains("storage breaker"), "{}", ended.stderr);
    assert_eq!(setup.records().iter().filter(|line| origin(line).is_some_and(|from| from.1 == 2)).count(), 1);
});

/// A session that sends every line until it is acknowledged, and comes back as it is told.
struct Stream {
    stream: TcpStream,
    answers: Receiver<String>,
    next: u64,
    /// Lines that it has unacknowledged at most.
    window: u64,
    settled: Settled,
    /// How often it was told to come back, by code.
    nacks: BTreeMap<String, u64>,
}

impl Stream {
    fn begin(mut client: Client, window: u64) -> Stream {
        client.hello(r#""producer":"faults""#);
        let stream = client.stream().try_clone().unwrap();
        let (heard, answers) = mpsc::channel();
        thread::spawn(move || {
            while let Some(line) = client.next_line() {
                if heard.send(line).is_err() {
                    return;
                }
            }
        });
        Stream { stream, answers, next: 1, window, settled: Settled::default(), nacks: BTreeMap::new() }
    }

    /// Sends up to that line and hears one answer, or none for a while.
    fn go_on(&mut self, upto: u64) {
        while self.next <= upto.min(self.settled.upto + self.window) {
            self.say(&line("faults", self.next));
            self.next += 1;
        }
        // What was taken waits for the disk without a word. What comes on top is refused.
        let Ok(answer) = self.answers.recv_timeout(Duration::from_secs(1)) else {
            self.window += 1;
            return;
        };
        let nack: Value = json(&answer)["$nack"].clone();
        if nack.is_null() {
            return self.settled.add(&answer);
        }
        assert_eq!(nack["retry"], value!(true), "{answer}");
        *self.nacks.entry(nack["code"].as_str().unwrap().to_owned()).or_default() += 1;
        thread::sleep(Duration::from_millis(nack["after_ms"].as_u64().unwrap()));
        self.next = nack["from"].as_u64().unwrap();
        assert!(self.next > self.settled.upto, "what is settled is not asked for again");
        self.say(&format!("{{\"$resume\":{{\"from\":{}}}}}", self.next));
    }

    fn say(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// A long record that names its sender and its place.
fn line(sender: &str, number: u64) -> String {
    let text = "x".repeat(LINE_LEN);
    format!(r#"{{"level":"info","message":"line","sender":"{sender}","number":{number},"text":"{text}"}}"#)
}

fn or_skipped<T>(disk: Result<T, String>) -> Option<T> {
    disk.inspect_err(|why| println!("skipped, it takes root: {why}")).ok()
}

const LINE_LEN: usize = 8000;
