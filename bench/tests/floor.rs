//! The floor and the flood as processes: what one sends the other counts, and nothing is left behind.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const BENCH: &str = env!("CARGO_BIN_EXE_ringest-bench");

/// Runs the floor under a flood; its report, or `None` where this kernel or file system cannot.
fn measure(backend: &str, write: &str) -> Option<Value> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut floor = Command::new(BENCH)
        .args(["floor", "--backend", backend, "--write", write, "--warm-up", "0.1", "--seconds", "0.3", "--dir"])
        .arg(dir.path().join("logs"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(floor.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let Some((_, port)) = line.trim().rsplit_once(':') else {
        assert!(!floor.wait().unwrap().success());
        return None;
    };
    let flood = Command::new(BENCH)
        .args(["flood", "--connections", "4", "--warm-up", "0", "--seconds", "5", "--port", port])
        .output()
        .unwrap();
    assert!(flood.status.success(), "{}", String::from_utf8_lossy(&flood.stderr));
    let mut report = String::new();
    stdout.read_to_string(&mut report).unwrap();
    let ended_well = floor.wait().unwrap().success();
    // A ring may be refused, or a file system may have no writes past the page cache.
    if !ended_well && (backend, write) != ("epoll", "buffered") {
        return None;
    }
    assert_eq!(std::fs::read_dir(dir.path().join("logs")).unwrap().count(), 0, "its segments are removed");
    Some(serde_json::from_str(&report).unwrap())
}

#[test]
fn the_floor_ends_by_itself_and_reports_what_it_received() {
    for (backend, write) in [("epoll", "buffered"), ("uring", "buffered"), ("uring", "direct")] {
        let Some(report) = measure(backend, write) else {
            eprintln!("skipped: {backend} {write} is not to be had here");
            continue;
        };
        let figure = |name: &str| report[name].as_f64().unwrap();
        assert!(figure("bytes") > 1e6 && figure("seconds") >= 0.3, "{report}");
        assert!((figure("records") - figure("bytes") / 180.0).abs() < 0.01, "{report}");
        let parts = figure("user_ns_per_record") + figure("system_ns_per_record");
        assert!((figure("cpu_ns_per_record") - parts).abs() < 0.001 && parts > 0.0, "{report}");
    }
}

#[test]
fn the_floor_answers_each_line_and_outlives_its_window_for_those_who_are_still_there() {
    for (backend, answer) in [("epoll", "written"), ("epoll", "durable"), ("uring", "written"), ("uring", "durable")] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut floor = Command::new(BENCH)
            .args(["floor", "--backend", backend, "--answer", answer, "--record-size", "10"])
            .args(["--warm-up", "0.1", "--seconds", "0.3", "--dir"])
            .arg(dir.path().join("logs"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(floor.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        if backend == "uring" && ringest_sys::ring::probe().is_err() {
            assert!(!floor.wait().unwrap().success());
            eprintln!("skipped: {backend} is not to be had here");
            continue;
        }
        let (_, port) = line.trim().rsplit_once(':').unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", port.parse::<u16>().unwrap())).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let (began, mut lines) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_millis(800) {
            client.write_all(b"123456789\n123456789\n").unwrap();
            let mut answers = [0; 2 * REPLY.len()];
            client.read_exact(&mut answers).unwrap();
            assert_eq!(answers, *[REPLY, REPLY].concat());
            lines += 2;
        }
        assert_eq!(floor.try_wait().unwrap(), None, "its window is over, and somebody is there");
        drop(client);
        let mut report = String::new();
        stdout.read_to_string(&mut report).unwrap();
        assert!(floor.wait().unwrap().success());
        let report: Value = serde_json::from_str(&report).unwrap();
        let records = report["records"].as_f64().unwrap();
        assert!(records > 0.0 && records < f64::from(lines), "{lines} lines, in and outside of the window: {report}");
        assert_eq!(report["answer"], answer);
    }
}

const REPLY: &[u8] = b"{\"status\":\"ok\",\"message\":\"received\"}\n";

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    for (args, why) in [
        (["--backend", "epoll", "--write", "direct"], "needs --backend uring"),
        (["--answer", "written", "--write", "direct"], "--answer writes a few lines at a time"),
    ] {
        let refused = Command::new(BENCH).arg("floor").args(args).args(["--dir", "/nonexistent"]).output().unwrap();
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains(why));
    }
}
