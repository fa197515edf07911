//! SIGHUP under load: a good file holds from then on, of a bad one nothing does, and nobody is dropped for either.

use crate::support::client::Client;
use crate::support::lines::{OK, code, origin, record};
use crate::support::on_each_backend;
use crate::support::process::{Server, Setup};
use crate::until;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

on_each_backend!(settings_are_read_again_under_load_and_no_session_is_dropped, |setup: Setup| {
    let file = setup.room().join("ringest.toml");
    let tokens = setup.room().join("tokens");
    fs::write(&tokens, "first\n").unwrap();
    let good = [
        "min-level = \"INFO\"\nbatch-size = 100\nidle-timeout = \"1h\"\nmax-connections = 64\n",
        "min-level = \"ERROR\"\nbatch-size = 5\nidle-timeout = \"30s\"\nmax-connections = 4\nline-timeout = \"5s\"\n",
    ];
    // With room for those who look.
    let last = "min-level = \"ERROR\"\n";
    fs::write(&file, good[0]).unwrap();
    let server =
        setup.clone().shards(2).flag("--config", file.display()).flag("--token-file", tokens.display()).start();
    let reload = Reload { server: &server, file: &file };
    let is_over = Arc::new(AtomicBool::new(false));
    let (come_in, came_in) = mpsc::channel();
    let loads: Vec<_> = (0..6).map(|number| load(server.addr(), number, is_over.clone(), come_in.clone())).collect();
    // All of them, before there may be no more than four.
    (0..6).for_each(|_| came_in.recv().unwrap());

    let bad = [
        ("batch_size = 1\n", "line 1: there is no key \"batch_size\"; did you mean \"batch-size\"?"),
        ("min-level = 3\n", "min-level is a whole number, and a string is expected"),
        ("batch-size = 0\nmin-level = \"TRACE\"\n", "BATCH_SIZE=0: a batch has at least one record (batch-size in"),
        ("max-line = 1\n", "MAX_LINE=1: a line limit is within"),
        ("not toml\n", "ringest.toml, line 1: "),
    ];
    for round in 0..10 {
        reload.expect(good[1 - round % 2], if round % 2 == 0 { "min-level is ERROR" } else { "min-level is INFO" });
        let (text, words) = bad[round % bad.len()];
        reload.expect(text, words);
        assert_eq!(lines(&server.stderr(), "what was read before stays in use"), round + 1, "{}", server.stderr());
    }
    // What is bad elsewhere keeps the whole of it, too.
    fs::write(&tokens, "\n").unwrap();
    reload.expect(last, "stays in use: TOKEN_FILE");
    assert!(is_stored_at_info(&server, "first"), "the level of the file that came with bad tokens does not hold");
    fs::write(&tokens, "second\n").unwrap();
    reload.expect(last, "read again: 1 token");
    until("the level holds on every shard", || (0..8).all(|_| !is_stored_at_info(&server, "second")));

    is_over.store(true, Ordering::Relaxed);
    let settled: Vec<u64> = loads.into_iter().map(|load| load.join().expect("no session is dropped")).collect();
    server.stop();
    let records = setup.records();
    for (number, upto) in settled.into_iter().enumerate() {
        let name = format!("load-{number}");
        let stored = records
            .iter()
            .filter_map(|line| origin(&line.replace("error", "info")).map(|(from, seq)| (from.to_owned(), seq)));
        let stored: Vec<u64> = stored.filter(|(from, _)| *from == name).map(|(_, seq)| seq).collect();
        assert!(stored.iter().copied().eq(1..=upto), "{name} is stored once, in order, up to {upto}");
        assert!(upto >= 100, "{name} went on through it: {upto}");
    }
    setup.assert_verified();
});

on_each_backend!(what_cannot_change_is_named_and_what_can_holds_all_the_same, |setup: Setup| {
    let file = setup.room().join("ringest.toml");
    fs::write(&file, "max-line = 8192\n").unwrap();
    let server = setup.clone().flag("--config", file.display()).arg("--accept-rate").arg("0").start();
    let reload = Reload { server: &server, file: &file };
    let text = "max-line = 16384\nmin-level = \"CRITICAL\"\nmax-connections = 1\naccept-rate = 7\n";
    reload.expect(text, "read again: ");
    let said = server.stderr();
    assert!(said.contains("max-line stays 8192 instead of 16384: this cannot change"), "{said}");
    assert!(
        said.contains("ringest.toml: min-level is CRITICAL, max-connections is 1\n"),
        "a flag beats the file: {said}"
    );
    let mut client = server.connect();
    assert_eq!(client.ask(record("p", 1)), OK);
    assert_eq!(
        code(&client.ask(format!("{{\"level\":\"fatal\",\"message\":\"{}\"}}", "x".repeat(8192)))),
        "line_too_long"
    );
    assert_eq!(code(&server.connect().line()), "too_many_connections");
    reload.expect(text, "ringest.toml: nothing has changed");
    drop(client);
    until("there is room again", || server.connect().ask(record("p", 2)) == OK);
    server.stop();
    assert!(setup.records().is_empty(), "below the level");
});

on_each_backend!(a_file_that_has_become_a_pipe_is_refused_and_the_server_goes_on, |setup: Setup| {
    let file = setup.room().join("ringest.toml");
    fs::write(&file, "min-level = \"ERROR\"\n").unwrap();
    let server = setup.clone().flag("--config", file.display()).start();
    fs::remove_file(&file).unwrap();
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    server.signal("HUP");
    until("the pipe is refused", || server.stderr().contains("stays in use: RINGEST_CONFIG"));
    assert!(server.stderr().contains("a regular file is expected"), "{}", server.stderr());
    assert_eq!(server.connect().ask(record("p", 1)), OK);
    server.stop();
    assert!(setup.records().is_empty(), "the level that was read before holds");
});

/// A server and the file that it goes by.
struct Reload<'a> {
    server: &'a Server,
    file: &'a Path,
}

impl Reload<'_> {
    /// Lets the server read that text, and waits until it has said these words once more.
    fn expect(&self, text: &str, words: &str) {
        let before = lines(&self.server.stderr(), words);
        fs::write(self.file, text).unwrap();
        self.server.signal("HUP");
        until(words, || lines(&self.server.stderr(), words) > before);
    }
}

fn lines(text: &str, words: &str) -> usize {
    text.lines().filter(|line| line.contains(words)).count()
}

/// Whether a session's line at that level is stored now.
fn is_stored_at_info(server: &Server, token: &str) -> bool {
    let mut client = server.connect();
    client.hello(&format!("\"producer\":\"probe\",\"token\":\"{token}\",\"resume_from\":1,\"epoch\":{}", epoch()));
    client.say(record("probe", 1));
    client.settled(1).stored == 1
}

/// One that was never used.
fn epoch() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A session that sends as fast as it is acknowledged, on one connection to the end; up to which line it came.
fn load(addr: SocketAddr, number: u64, is_over: Arc<AtomicBool>, come_in: Sender<()>) -> JoinHandle<u64> {
    thread::spawn(move || {
        let name = format!("load-{number}");
        let mut client = Client::connect(addr);
        client.hello(&format!("\"producer\":\"{name}\",\"epoch\":1,\"token\":\"first\""));
        come_in.send(()).unwrap();
        let mut sent = 0;
        while !is_over.load(Ordering::Relaxed) {
            // At a level that is stored whatever the file says.
            let lines: String = (1..=50).map(|at| record(&name, sent + at).replace("info", "error") + "\n").collect();
            client.send(lines);
            client.settled(sent + 50);
            sent += 50;
        }
        let (_, totals) = client.bye();
        assert_eq!(totals["stored"], sent, "{name}: {totals}");
        sent
    })
}
