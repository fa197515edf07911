//! What a clumsy fleet does: each habit acts, its books close, and no line is lost or duplicated by it.

#[allow(dead_code, reason = "each test takes its own part of it")]
mod scripted;

use scripted::{Script, Server, loadgen, run, stderr};
use serde_json::Value;

const PERFECT: &str = "0 lost, 0 duplicated, 0 corrupt, 0 phantom";
const ENGINES: [&str; 2] = ["--io auto", "--io epoll"];

struct Run {
    server: Server,
    report: Value,
}

impl Run {
    /// Runs with a ledger, and compares it with what the server stored.
    fn of(script: Script, arguments: &str) -> Run {
        let directory = tempfile::tempdir().unwrap();
        let (ledger, records) = (directory.path().join("ledger.json"), directory.path().join("stored.ndjson"));
        let server = Server::start(script);
        let (output, report) = run(&server, &format!("--ledger {} {arguments}", ledger.display()));
        assert_eq!(output.status.code(), Some(0), "{arguments}: {}", stderr(&output));
        std::fs::write(&records, server.stored()).unwrap();
        let compared = loadgen("reconcile").arg("--ledger").arg(&ledger).arg(&records).output().unwrap();
        let said = String::from_utf8_lossy(&compared.stdout).into_owned();
        assert_eq!(said.lines().last(), Some(PERFECT), "{arguments}: {said}");
        assert_eq!(report["verification"]["books_closed"], true, "{arguments}");
        Run { server, report }
    }

    fn count(&self, key: &str) -> u64 {
        self.report["tests"][0]["results"][key].as_u64().unwrap()
    }

    fn habit(&self, kind: &str) -> u64 {
        self.report["tests"][0]["results"]["habits"][kind].as_u64().unwrap_or(0)
    }

    fn assert_all_taken(&self, lines: u64) {
        assert_eq!((self.count("offered"), self.count("acked")), (lines, lines), "{}", self.report);
    }
}

#[test]
fn connections_that_come_and_go_lose_nothing() {
    for mode in ["--mode plain", "--mode session", "--plain-share 50%"] {
        for engine in ENGINES {
            let script = Script { ack_every: 16, ..Script::default() };
            let run = Run::of(script, &format!("-R 2000 -d 1s -c 4 -t 2 --reconnect-every 200ms {mode} {engine}"));
            run.assert_all_taken(2000);
            let reconnects = run.habit("reconnects");
            // Four connections, five times a second, but for what a busy machine makes of it.
            assert!((4..=24).contains(&reconnects), "{mode}: {reconnects}");
            assert!(run.count("connects") > 4 && run.server.connections() > 4, "{mode}: they were made again");
        }
    }
}

#[test]
fn connections_that_come_and_go_in_a_closed_loop_lose_nothing() {
    for mode in ["plain", "session"] {
        let run = Run::of(
            Script { ack_every: 16, ..Script::default() },
            &format!("-d 1s -c 3 -p 20 --reconnect-every 150ms --mode {mode}"),
        );
        assert!(run.habit("reconnects") >= 3, "{mode}: {}", run.report);
        assert_eq!(run.count("offered"), run.count("acked"), "{mode}");
    }
}

#[test]
fn idle_connections_are_there_and_send_nothing() {
    for engine in ENGINES {
        let run = Run::of(Script::default(), &format!("-R 500 -d 500ms -c 2 -t 2 --idle-connections 15 {engine}"));
        run.assert_all_taken(250);
        assert_eq!((run.habit("idle_opened"), run.habit("idle_lost")), (15, 0));
        // And one that looks whether anybody is there.
        assert_eq!(run.server.connections(), 2 + 15 + 1);
    }
}

#[test]
fn slow_writers_write_a_little_at_a_time_and_their_lines_arrive() {
    for mode in ["--mode plain", "--mode session"] {
        for engine in ENGINES {
            let run = Run::of(Script::default(), &format!("-R 400 -d 1s -c 4 --slow-writers 50% {mode} {engine}"));
            run.assert_all_taken(400);
            // A line of 180 bytes takes three pieces or more.
            assert!(run.habit("slow_writes") >= 6, "{mode}: {}", run.report);
            let slowest = run.report["tests"][0]["results"]["service_us"]["max"].as_f64().unwrap();
            assert!(slowest >= 40_000.0, "{mode}: three pieces take 40 ms: {slowest} us");
        }
    }
}

#[test]
fn slow_readers_read_a_little_at_a_time_and_hear_every_answer() {
    for mode in ["plain", "session"] {
        for engine in ENGINES {
            let run =
                Run::of(Script::default(), &format!("-R 400 -d 1s -c 4 --slow-readers 25% --mode {mode} {engine}"));
            run.assert_all_taken(400);
            assert!(run.habit("slow_reads") >= 2, "{mode}: {}", run.report);
            let slowest = run.report["tests"][0]["results"]["service_us"]["max"].as_f64().unwrap();
            assert!(slowest >= 20_000.0, "{mode}: answers are read every 50 ms: {slowest} us");
        }
    }
}

#[test]
fn all_habits_together_with_bad_lines_and_a_server_that_breaks_connections_lose_nothing() {
    let script = Script { break_after: Some(30), breaks: 3, ack_every: 8, ..Script::default() };
    let run = Run::of(
        script,
        "-R 1500 -d 1s -c 8 -t 2 --mode session --reconnect-every 250ms --idle-connections 4 --slow-writers 13% \
         --slow-readers 13% --bad-share 2%",
    );
    assert_eq!(run.server.broken(), 3, "the mechanism acted");
    assert_eq!(run.count("acked") + run.count("refused_as_meant"), 1500, "{}", run.report);
    assert!(run.count("refused_as_meant") > 0);
    for habit in ["reconnects", "idle_opened", "slow_writes", "slow_reads"] {
        assert!(run.habit(habit) > 0, "{habit}: {}", run.report);
    }
}
