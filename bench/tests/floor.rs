//! The floor and the flood as processes: what one sends the other counts, and nothing is left behind.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const BENCH: &str = env!("CARGO_BIN_EXE_ringest-bench");

/// A floor that listens.
struct Floor {
    process: Child,
    stdout: BufReader<ChildStdout>,
    port: u16,
    dir: TempDir,
}

impl Floor {
    /// With a window of so many seconds; `None` where this kernel or file system cannot.
    fn start(window: &str, args: &[&str]) -> Option<Floor> {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut process = Command::new(BENCH)
            .args(["floor", "--warm-up", "0.1", "--seconds", window, "--dir"])
            .arg(dir.path().join("logs"))
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let is_refused = args.contains(&"uring") && ringest_sys::ring::probe().is_err();
        let Some((_, port)) = line.trim().rsplit_once(':').filter(|_| !is_refused) else {
            assert!(!process.wait().unwrap().success());
            return None;
        };
        Some(Floor { process, stdout, port: port.parse().unwrap(), dir })
    }

    /// Its report, or what it complains of.
    fn finish(mut self) -> Result<Value, String> {
        let (mut report, mut complaint) = (String::new(), String::new());
        self.stdout.read_to_string(&mut report).unwrap();
        self.process.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
        if !self.process.wait().unwrap().success() {
            return Err(complaint);
        }
        assert_eq!(std::fs::read_dir(self.dir.path().join("logs")).unwrap().count(), 0, "its segments are removed");
        Ok(serde_json::from_str(&report).unwrap())
    }
}

/// Runs the floor under a flood; its report, or `None` where this kernel or file system cannot.
fn measure(backend: &str, write: &str) -> Option<Value> {
    let floor = Floor::start("0.3", &["--backend", backend, "--write", write])?;
    let flood = Command::new(BENCH)
        .args(["flood", "--connections", "4", "--warm-up", "0", "--seconds", "5", "--port", &floor.port.to_string()])
        .output()
        .unwrap();
    assert!(flood.status.success(), "{}", String::from_utf8_lossy(&flood.stderr));
    let report = floor.finish();
    // A file system may have no writes past the page cache.
    assert!(report.is_ok() || write == "direct", "{report:?}");
    report.ok()
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
        let args = ["--backend", backend, "--answer", answer, "--record-size", "10"];
        let Some(mut floor) = Floor::start("0.3", &args) else {
            eprintln!("skipped: {backend} is not to be had here");
            continue;
        };
        drop(TcpStream::connect(("127.0.0.1", floor.port)).unwrap()); // One that only looks ends nothing.
        let (client, lines) = talk(floor.port, Duration::from_millis(800));
        assert_eq!(floor.process.try_wait().unwrap(), None, "its window is over, and somebody is there");
        drop(client);
        let report = floor.finish().unwrap();
        let records = report["records"].as_f64().unwrap();
        assert!(records > 0.0 && records < f64::from(lines), "{lines} lines, in and outside of the window: {report}");
        assert_eq!(report["answer"], answer);

        let floor = Floor::start("30", &args).unwrap();
        drop(talk(floor.port, Duration::from_millis(200)));
        let complaint = floor.finish().unwrap_err();
        assert!(complaint.contains("left before the window was over"), "{complaint}");
    }
}

/// Two lines at a time, for so long: whoever sent them, and how many.
fn talk(port: u16, time: Duration) -> (TcpStream, u32) {
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (began, mut lines) = (Instant::now(), 0);
    while began.elapsed() < time {
        client.write_all(b"123456789\n123456789\n").unwrap();
        let mut answers = [0; 2 * REPLY.len()];
        client.read_exact(&mut answers).unwrap();
        assert_eq!(answers, *[REPLY, REPLY].concat());
        lines += 2;
    }
    (client, lines)
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
