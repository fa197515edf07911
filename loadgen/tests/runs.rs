//! The generator as people run it, against servers that keep the protocol and servers that try its patience.

mod scripted;

use scripted::{Script, Server, loadgen, pause, run, stderr};
use serde_json::Value;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

fn results(report: &Value) -> &Value {
    &report["tests"][0]["results"]
}

fn reconcile(ledger: &Path, stored: &[u8]) -> Output {
    let records = ledger.with_extension("ndjson");
    std::fs::write(&records, stored).unwrap();
    loadgen("reconcile").arg("--ledger").arg(ledger).arg(&records).output().unwrap()
}

/// Runs with a ledger and compares it with what the server stored.
fn run_and_reconcile(script: Script, arguments: &str) -> (Server, Output, Value, Output) {
    let directory = tempfile::tempdir().unwrap();
    let ledger = directory.path().join("ledger.json");
    let server = Server::start(script);
    let (output, report) = run(&server, &format!("--ledger {} {arguments}", ledger.display()));
    assert!(ledger.exists(), "{}", stderr(&output));
    let compared = reconcile(&ledger, &server.stored());
    (server, output, report, compared)
}

fn assert_all_taken(output: &Output, report: &Value, lines: u64) {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    assert_eq!(results(report)["acked"], lines, "{}", stderr(output));
    assert_eq!(results(report)["offered"], lines);
    assert_eq!(results(report)["failed"], 0);
    assert_eq!(report["verification"]["books_closed"], true);
}

fn last_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned()
}

const PERFECT: &str = "0 lost, 0 duplicated, 0 corrupt, 0 phantom";

#[test]
fn a_closed_loop_in_plain_mode_counts_every_line() {
    for arguments in ["-n 2000 -c 4", "-n 2000 -c 3 -p 1", "-n 2001 -c 7 -t 3 -p 500 --batch 7"] {
        let (server, output, report, compared) = run_and_reconcile(Script::default(), arguments);
        let lines = results(&report)["offered"].as_u64().unwrap();
        assert!(lines >= 2000);
        assert_all_taken(&output, &report, lines);
        assert_eq!(server.stored_lines() as u64, lines);
        assert_eq!((compared.status.code(), last_line(&compared).as_str()), (Some(0), PERFECT), "{arguments}");
        assert_eq!(results(&report)["response_us"]["count"], lines);
    }
}

#[test]
fn a_closed_loop_in_session_mode_counts_every_line_and_says_goodbye() {
    let (server, output, report, compared) = run_and_reconcile(
        Script { ack_every: 10, ..Script::default() },
        "-n 3000 -c 5 -t 2 --mode session --ack durable",
    );
    assert_all_taken(&output, &report, 3000);
    assert_eq!(server.stored_lines(), 3000);
    assert_eq!(last_line(&compared), PERFECT);
    assert_eq!(report["tests"][0]["config"]["done"], "durable");
    assert_eq!(results(&report)["faults"], serde_json::json!({}));
}

#[test]
fn plain_connections_and_sessions_run_side_by_side() {
    let (_, output, report, compared) = run_and_reconcile(Script::default(), "-n 2000 -c 8 --plain-share 25%");
    assert_all_taken(&output, &report, 2000);
    assert_eq!(report["tests"][0]["config"]["plain_connections"], 2);
    assert_eq!(last_line(&compared), PERFECT);
}

#[test]
fn a_session_resumes_after_disconnects_without_loss_or_repetition() {
    let script = Script { break_after: Some(100), breaks: 9, ack_every: 37, ..Script::default() };
    let (server, output, report, compared) = run_and_reconcile(script, "-n 3000 -c 3 --mode session");
    assert_eq!(server.broken(), 9, "the mechanism acted");
    assert_all_taken(&output, &report, 3000);
    assert_eq!(server.stored_lines(), 3000);
    assert_eq!(last_line(&compared), PERFECT);
    assert_eq!(results(&report)["connects"], 12);
}

#[test]
fn a_session_goes_on_after_a_nack_from_the_line_that_was_refused() {
    let script = Script { nack_at: Some(50), ack_every: 8, ..Script::default() };
    let (server, output, report, compared) = run_and_reconcile(script, "-n 1000 -c 2 --mode session");
    assert_eq!(server.nacks(), 2, "the mechanism acted");
    assert_all_taken(&output, &report, 1000);
    assert_eq!(server.stored_lines(), 1000);
    assert_eq!(last_line(&compared), PERFECT);
    assert!(results(&report)["resent"].as_u64().unwrap() > 0);
}

#[test]
fn sessions_that_are_broken_and_refused_in_an_open_loop_still_lose_nothing() {
    let script = Script { break_after: Some(150), breaks: 4, nack_at: Some(70), ack_every: 16, ..Script::default() };
    let (server, output, report, compared) = run_and_reconcile(script, "-R 4000 -d 1s -c 4 -t 2 --mode session");
    assert!(server.broken() == 4 && server.nacks() >= 4, "the mechanisms acted");
    assert_all_taken(&output, &report, 4000);
    assert_eq!(last_line(&compared), PERFECT);
}

#[test]
fn a_plain_connection_that_breaks_is_replaced_under_a_new_number() {
    let script = Script { break_after: Some(200), breaks: 2, ..Script::default() };
    let (server, output, report, compared) = run_and_reconcile(script, "-n 2000 -c 2 -p 20");
    assert_eq!((server.broken(), output.status.code()), (2, Some(0)), "{}", stderr(&output));
    let (acked, failed) = (&results(&report)["acked"], &results(&report)["failures"]["unanswered"]);
    assert_eq!(acked.as_u64().unwrap() + failed.as_u64().unwrap(), 2000);
    assert!(failed.as_u64().unwrap() >= 2);
    assert_eq!(report["verification"]["books_closed"], true);
    assert_eq!(last_line(&compared), PERFECT, "stored and unanswered is allowed");
}

#[test]
fn an_open_loop_offers_exactly_what_its_schedule_says() {
    let (_, output, report, _) = run_and_reconcile(Script::default(), "-R 3001 -d 1s -c 3 -t 2");
    assert_all_taken(&output, &report, 3001);
    assert_eq!(results(&report)["slip_us"]["count"], 3001);
    assert_eq!(results(&report)["rate"]["target"], 3001.0);
}

#[test]
fn an_open_loop_is_on_time_while_it_can_be() {
    let server = Server::start(Script::default());
    let (output, report) = run(&server, "-R 2000 -d 1s -c 2");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let slip = results(&report)["slip_us"]["p50"].as_f64().unwrap();
    assert!(slip < 1000.0, "half of the lines are sent within {slip} us of their time");
}

#[test]
fn lines_that_wait_for_the_server_are_late_by_its_fault_and_count_from_their_time() {
    // One line at a time is under way, and each takes the server 50 ms: 20 lines per second of 200. On a host that is
    // busy with other things the host is to blame as well, and rightly; so it may take more than one run.
    let script = Script { slow_ms: 50, window: 1, ..Script::default() };
    let runs = std::iter::repeat_with(|| {
        let server = Server::start(script);
        let (output, report) = run(&server, "-R 200 -d 500ms -c 1 --mode session");
        assert_all_taken(&output, &report, 100);
        report
    });
    let verdict = |report: &serde_json::Value| report["tests"][0]["validity"]["verdict"].clone();
    let report =
        runs.take(5).find(|report| verdict(report) != "host_noise").expect("the host has a quiet second in 25");
    assert_eq!(verdict(&report), "server_bound");
    let (response, service) = (&results(&report)["response_us"]["p50"], &results(&report)["service_us"]["p50"]);
    assert!(response.as_f64().unwrap() > 1_000_000.0, "the schedule does not wait for answers: {response}");
    assert!(service.as_f64().unwrap() < 500_000.0, "{service}");
}

#[test]
fn a_line_that_was_promised_and_not_stored_ends_in_code_5() {
    for mode in ["plain", "session"] {
        let script = Script { lose: Some(17), ..Script::default() };
        let (_, output, report, compared) = run_and_reconcile(script, &format!("-n 200 -c 1 --mode {mode}"));
        assert_all_taken(&output, &report, 200);
        assert_eq!(compared.status.code(), Some(5));
        assert_eq!(last_line(&compared), "1 lost, 0 duplicated, 0 corrupt, 0 phantom");
    }
}

#[test]
fn bad_lines_are_refused_as_meant_and_are_no_errors() {
    for mode in ["plain", "session"] {
        let arguments = format!("-n 1000 -c 2 --bad-share 5% --mode {mode} --max-error-rate 0%");
        let (server, output, report, compared) = run_and_reconcile(Script::default(), &arguments);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let refused = results(&report)["refused_as_meant"].as_u64().unwrap();
        assert!(refused > 10 && refused + server.stored_lines() as u64 == 1000, "{refused}");
        assert_eq!(results(&report)["acked"], 1000 - refused);
        assert_eq!(last_line(&compared), PERFECT);
    }
}

#[test]
fn a_server_that_never_answers_breaches_the_gate() {
    let server = Server::start(Script { mute: true, ..Script::default() });
    let (output, report) = run(&server, "-R 200 -d 500ms -c 2 --drain 300ms --max-error-rate 1%");
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert_eq!(results(&report)["failures"]["unanswered"], 100);
    assert_eq!(report["tests"][0]["verdict"], "fail");
}

#[test]
fn a_run_without_a_time_limit_does_not_wait_for_ever() {
    let server = Server::start(Script { mute: true, ..Script::default() });
    for arguments in ["-n 500 -c 2 --drain 300ms", "-n 500 -R 100 -c 2 --drain 300ms"] {
        let (output, report) = run(&server, arguments);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains("no line was answered"));
        assert_eq!((&results(&report)["offered"], &results(&report)["failed"]), (&500.into(), &500.into()));
    }
}

#[test]
fn a_session_that_is_not_greeted_says_so() {
    let server = Server::start(Script { mute: true, ..Script::default() });
    let (output, _) = run(&server, "-n 10 -c 1 --mode session");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("did not answer the $hello"), "{}", stderr(&output));
}

#[test]
fn a_refused_connection_names_the_address_and_what_to_check() {
    let output = loadgen("--host 127.0.0.1 --port 1").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot connect to 127.0.0.1:1: nothing listens there"), "{}", stderr(&output));
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_default() {
    let server = Server::start(Script::default());
    let port = server.addr.port().to_string();
    let report = |arguments: &str| -> Value {
        let mut command = loadgen(arguments);
        command
            .env("SERVER_HOST", "127.0.0.1")
            .env("SERVER_PORT", &port)
            .env("TOTAL_LOGS", "70")
            .env("CONCURRENCY", "3");
        serde_json::from_slice(&command.args(["--json", "-"]).output().unwrap().stdout).unwrap()
    };
    let config = |report: &Value, key: &str| report["tests"][0]["config"][key].clone();
    let environment = report("");
    assert_eq!((config(&environment, "total_logs"), config(&environment, "connections")), (70.into(), 3.into()));
    assert_eq!(config(&environment, "batch"), 100, "the default");
    let flags = report("-n 40 -c 2");
    assert_eq!((config(&flags, "total_logs"), config(&flags, "connections")), (40.into(), 2.into()));
    assert_eq!(results(&flags)["acked"], 40);
}

#[test]
fn wrong_flags_end_in_code_2_and_a_sentence() {
    for arguments in ["--no-such-flag", "-c 1 -t 2", "--closed -R 5", "-d never", "reconcile", "--mode telepathy"] {
        let output = loadgen(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments}: {}", stderr(&output));
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn an_interrupted_run_leaves_a_report_and_a_ledger() {
    let directory = tempfile::tempdir().unwrap();
    let (report, ledger) = (directory.path().join("report.json"), directory.path().join("ledger.json"));
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let server = Server::start(Script::default());
        let child = loadgen("-d 60s -R 500 --quiet --host 127.0.0.1 --mode session")
            .args(["--port", &server.addr.port().to_string()])
            .arg("--json")
            .arg(&report)
            .arg("--ledger")
            .arg(&ledger)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        pause();
        pause();
        let kill = std::process::Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        let report: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        assert_eq!(report["tests"][0]["verdict"], "interrupted");
        assert!(results(&report)["acked"].as_u64().unwrap() > 0);
        assert_eq!(report["verification"]["books_closed"], true);
        assert_eq!(last_line(&reconcile(&ledger, &server.stored())), PERFECT);
    }
}

#[test]
fn whoever_does_not_want_to_wait_for_the_greetings_does_not_have_to() {
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report.json");
    let server = Server::start(Script { mute: true, ..Script::default() });
    let child = loadgen("-d 60s -c 2 -t 2 --quiet --host 127.0.0.1 --mode session")
        .args(["--port", &server.addr.port().to_string()])
        .arg("--json")
        .arg(&report)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    // One looks whether anybody is there; the others say hello and wait five seconds.
    while server.connections() < 3 {
        assert!(began.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(1));
    }
    let asked = Instant::now();
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(asked.elapsed() < Duration::from_secs(4), "it waited for {:?}", asked.elapsed());
    let report: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert_eq!((&report["tests"][0]["verdict"], &results(&report)["offered"]), (&"interrupted".into(), &0.into()));
}

#[test]
fn whoever_does_not_want_to_wait_for_the_last_answers_does_not_have_to() {
    let server = Server::start(Script { mute: true, ..Script::default() });
    for pace in ["-R 100 -d 200ms", "-n 20"] {
        let child = loadgen(&format!("{pace} -c 1 --drain 60s --quiet --json - --host 127.0.0.1"))
            .args(["--port", &server.addr.port().to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_secs(2));
        let asked = Instant::now();
        let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert!(asked.elapsed() < Duration::from_secs(20), "{pace}: it waited for {:?}", asked.elapsed());
        assert_eq!(output.status.code(), Some(130));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(results(&report)["failures"]["unanswered"], 20, "{pace}: {report}");
        assert_eq!(report["verification"]["books_closed"], true);
    }
}

#[test]
fn more_connections_than_files_may_be_open_are_refused_before_the_first() {
    let server = Server::start(Script::default());
    let port = server.addr.port().to_string();
    // A shell's own limit, which goes for what it starts.
    let run = |connections: &str| {
        let line = format!("ulimit -S -n 64; ulimit -H -n 128; exec \"$@\" --port {port} -n 200 {connections}");
        let inner = loadgen("-q --host 127.0.0.1");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &line, "sh"]).arg(inner.get_program()).args(inner.get_args());
        command.env_clear().env("LOADGEN_MAX_LATE_SHARE", "100%").output().unwrap()
    };
    let output = run("-c 100 --idle-connections 50");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("100 and 50 idle connections need") && said.contains("may have 128"), "{said}");
    assert_eq!(server.connections(), 0, "and none was made");
    let output = run("-c 90");
    assert_eq!(output.status.code(), Some(0), "more than the soft limit: {}", stderr(&output));
}

#[test]
fn a_run_that_loses_its_server_for_good_does_not_pass() {
    for arguments in ["-n 100000 -R 500 --mode session", "-d 20s -R 500 --mode plain", "-d 20s --mode session -p 10"] {
        let server = Server::start(Script::default());
        let doomed = server.clone();
        let death = std::thread::spawn(move || {
            while doomed.stored_lines() == 0 {
                pause(); // A busy machine takes its time to begin.
            }
            doomed.die();
        });
        let (output, report) = run(&server, &format!("-c 2 --reconnect-for 300ms --drain 300ms {arguments}"));
        death.join().unwrap();
        assert!(results(&report)["acked"].as_u64().unwrap() > 0, "the server was there first");
        assert_eq!(report["tests"][0]["verdict"], "fail", "{arguments}");
        assert_eq!(output.status.code(), Some(3), "{arguments}: {}", stderr(&output));
        assert!(stderr(&output).contains("nothing listens there"), "{}", stderr(&output));
        assert_eq!(report["verification"]["books_closed"], true);
    }
}

#[test]
fn a_ledger_takes_the_place_of_files_alone_and_that_is_said_before_the_run() {
    let directory = tempfile::tempdir().unwrap();
    let (kept, link) = (directory.path().join("kept"), directory.path().join("link"));
    let foreign = directory.path().join("ledger.partial");
    std::fs::write(&kept, "kept").unwrap();
    std::fs::write(&foreign, "theirs").unwrap();
    std::os::unix::fs::symlink(&kept, &link).unwrap();
    let server = Server::start(Script::default());
    let (output, _) = run(&server, &format!("-n 10 --ledger {}", link.display()));
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("no regular file"), "{}", stderr(&output));
    assert!(link.is_symlink() && std::fs::read_to_string(&kept).unwrap() == "kept");
    assert_eq!(server.connections(), 0, "nothing was sent for a run whose ledger could not be kept");

    let (output, _) = run(&server, &format!("-n 10 --ledger {}", directory.path().join("ledger.json").display()));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(std::fs::read_to_string(&foreign).unwrap(), "theirs");
}

#[test]
fn an_output_that_is_full_or_gone_is_an_end_with_a_sentence() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let server = Server::start(Script::default());
    let port = server.addr.port();
    for arguments in ["-n 10 -q", "-n 10", "-n 10 --json -"] {
        let mut command = loadgen(&format!("--host 127.0.0.1 --port {port} {arguments}"));
        let output = command.stdout(full()).stderr(Stdio::piped()).output().unwrap();
        let wrote = !arguments.contains("-q");
        assert_eq!(output.status.code(), Some(i32::from(wrote)), "{arguments}: {}", stderr(&output));
        assert_eq!(stderr(&output).contains("standard output"), wrote, "{}", stderr(&output));
    }
    // Nobody reads the table, and nobody the progress: the run is none the worse for it.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = loadgen(&format!("--host 127.0.0.1 --port {port} -n 10"));
    let status = command.stdout(writer).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_server_that_goes_away_for_good_ends_the_run_and_fails_what_was_owed() {
    let script = Script { break_after: Some(50), breaks: u64::MAX, ..Script::default() };
    let server = Server::start(script);
    let (output, report) = run(&server, "-n 100 -c 1 -p 100 --batch 100 --reconnect-for 300ms --max-error-rate 1%");
    assert!(server.connections() >= 2);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert_eq!(report["verification"]["books_closed"], true);
}

#[test]
fn datagrams_are_sent_without_an_answer_and_reconciled_with_what_the_server_says() {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let ledger = directory.path().join("ledger.json");
    let child = loadgen("--udp --host 127.0.0.1 -n 2001 -c 3 -t 2 -R 20000 --json -")
        .arg("--port")
        .arg(receiver.local_addr().unwrap().port().to_string())
        .arg("--ledger")
        .arg(&ledger)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut datagrams = Vec::new();
    let mut buf = [0; 65_536];
    let mut lines = 0;
    while lines < 2001 {
        let len = receiver.recv(&mut buf).expect("every line comes");
        assert!(len <= 1400 && buf[len - 1] == b'\n', "{len} bytes");
        lines += buf[..len].iter().filter(|byte| **byte == b'\n').count();
        datagrams.push(buf[..len].to_vec());
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = results(&report);
    assert_eq!((&found["sent"], &found["offered"], &found["acked"]), (&2001.into(), &2001.into(), &0.into()));
    assert_eq!(found["sends"], datagrams.len());
    assert_eq!(report["verification"]["books_closed"], true);
    assert_eq!(report["tests"][0]["config"]["mode"], "datagram");
    assert!(found["rate"]["achieved"].as_f64().unwrap() < 21_000.0, "no faster than asked for");

    let compare = |skip: usize, said: [&str; 2]| {
        let records = directory.path().join("stored.ndjson");
        std::fs::write(&records, datagrams[skip..].concat()).unwrap();
        let mut command = loadgen("reconcile");
        command.arg("--ledger").arg(&ledger).args(["--kernel-drops", said[0], "--refused", said[1]]).arg(&records);
        let output = command.output().unwrap();
        (output.status.code(), last_line(&output))
    };
    assert_eq!(compare(0, ["0", "0"]), (Some(0), PERFECT.into()));
    assert_eq!(compare(5, ["5", "0"]), (Some(0), PERFECT.into()));
    assert_eq!(compare(5, ["4", "0"]).0, Some(5), "a loss that nobody explains");
    assert_eq!(compare(5, ["0", "0"]).0, Some(5));
    assert_eq!(compare(0, ["1", "0"]).0, Some(5), "a drop that did not happen");
}

#[test]
fn datagrams_to_nobody_are_failures() {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let output = loadgen("--udp --host 127.0.0.1 -n 100 -c 1 -R 1000 --batch 1 --json -")
        .args(["--port", &port])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let failures = &results(&report)["failures"]["nobody_there"];
    assert!(failures.as_u64().is_some_and(|failures| failures > 0), "{report}");
    assert_eq!(report["verification"]["books_closed"], true);
    assert!(stderr(&output).contains(&format!("127.0.0.1:{port}")), "{}", stderr(&output));
}
