//! What carries the bytes, where io_uring works and where it does not, and how much more it could carry.

#[allow(dead_code, reason = "each test program uses a part of it")]
mod scripted;

use ringest_sys::ring;
use scripted::{Script, Server, loadgen, stderr};
use serde_json::Value;
use std::process::{Command, Output};

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

#[test]
fn a_report_says_what_carried_the_bytes() {
    let server = Server::start(Script::default());
    let best = if ring::probe().is_ok() { "uring" } else { "epoll" };
    for (asked, had) in [("auto", best), ("epoll", "epoll")] {
        let mut command = loadgen("-n 10 -c 1 -q --json - --host 127.0.0.1");
        let output = command.args(["--port", &server.addr.port().to_string(), "--io", asked]).output().unwrap();
        assert_eq!(report(&output)["tests"][0]["config"]["io"], had, "{asked}: {}", stderr(&output));
        assert_eq!(stderr(&output), "", "nothing is to be regretted");
    }
}

#[test]
fn without_io_uring_a_run_says_so_and_goes_on_unless_it_was_told_not_to() {
    let Some(filter) = without_io_uring() else { return };
    let server = Server::start(Script::default());
    let run = |io: &str| {
        let mut command = Command::new(filter);
        command.arg(env!("CARGO_BIN_EXE_ringest-loadgen")).args(["-n", "100", "-c", "2", "--json", "-"]);
        command.args(["--host", "127.0.0.1", "--port", &server.addr.port().to_string(), "--io", io]);
        command.output().unwrap()
    };
    let output = run("auto");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stderr(&output);
    let regrets: Vec<&str> = said.lines().filter(|line| line.contains("io_uring")).collect();
    assert!(regrets.len() == 1 && regrets[0].contains("so this is epoll: EPERM"), "{said}");
    let report = report(&output);
    assert_eq!(
        (&report["tests"][0]["config"]["io"], &report["tests"][0]["results"]["acked"]),
        (&"epoll".into(), &100.into())
    );

    let output = run("uring");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("EPERM") && stderr(&output).contains("--io epoll"), "{}", stderr(&output));
}

#[test]
fn headroom_is_measured_against_a_sink_and_is_large_beside_a_slow_server() {
    // It takes 200 lines per second at most, in either loop.
    let server = Server::start(Script { slow_ms: 5, ..Script::default() });
    for pace in ["-p 1 --batch 1", "-R 50"] {
        let mut command = loadgen(&format!("-d 300ms -c 1 --mode session --headroom --host 127.0.0.1 {pace}"));
        let output = command.args(["--port", &server.addr.port().to_string()]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let headroom = said.lines().find_map(|line| line.trim().strip_prefix("headroom")).expect(&said).trim();
        let ratio: f64 = headroom.split(' ').next().unwrap().parse().unwrap();
        assert!(ratio > 1.5 && !headroom.contains("below"), "{pace}: {headroom}");
        assert!(!said.contains("FAIL"), "{said}");
    }
}

/// A program that runs another one without io_uring, as in a container; `None`, and said why, where that cannot be done.
fn without_io_uring() -> Option<&'static str> {
    const FILTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/without-io-uring");
    let tried = Command::new(FILTER).arg("true").output().expect("the script is there");
    if !tried.status.success() {
        println!("skipped: {}", stderr(&tried));
    }
    tried.status.success().then_some(FILTER)
}
