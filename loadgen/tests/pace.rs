//! Whether lines are sent when they should be, and whether the generator knows when they were not.

#[allow(dead_code, reason = "each test takes its own part of it")]
mod scripted;

use scripted::{Script, Server, loadgen, run, stderr};
use serde_json::Value;
use std::time::{Duration, Instant};

fn results(report: &Value) -> &Value {
    &report["tests"][0]["results"]
}

fn count(report: &Value, key: &str) -> u64 {
    results(report)[key].as_u64().unwrap_or_else(|| panic!("{key}: {report}"))
}

fn figure(report: &Value, spread: &str, key: &str) -> f64 {
    results(report)[spread][key].as_f64().unwrap_or_else(|| panic!("{spread} {key}: {report}"))
}

#[test]
fn the_rate_and_the_time_of_the_environment_hold() {
    let server = Server::start(Script::default());
    let begun = Instant::now();
    let mut command = loadgen("--json - -q");
    let port = server.addr.port().to_string();
    command.env("SERVER_HOST", "127.0.0.1").env("SERVER_PORT", port);
    let output = command.env("TARGET_RPS", "500").env("DURATION_SECS", "2").env("CONCURRENCY", "3").output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    assert_eq!((count(&report, "offered"), count(&report, "acked")), (1000, 1000));
    assert!(begun.elapsed() >= Duration::from_millis(1998), "the last line is due after 1.998 s");
    assert!(results(&report)["span_s"].as_f64().unwrap() >= 1.998);
    assert!(figure(&report, "slip_us", "min") < 2_000_000.0 && count(&report, "failed") == 0);
}

#[test]
fn a_rate_that_changes_offers_what_lies_between() {
    let server = Server::start(Script::default());
    for (arguments, lines) in [
        ("-R 100:500 -d 1s -c 2 -t 2", 300),
        ("-R 500:100 -d 1s -c 3", 300),
        ("-R 100:500 --step 250ms -d 1s -c 2", 25 + 58 + 92 + 125),
    ] {
        let (output, report) = run(&server, arguments);
        assert_eq!(count(&report, "offered"), lines, "{arguments}: {}", stderr(&output));
        assert_eq!(count(&report, "acked"), lines);
        assert_eq!(results(&report)["rate"]["target"], lines as f64, "lines in one second");
    }
}

#[test]
fn chance_is_the_same_for_the_same_seed() {
    let server = Server::start(Script::default());
    let offered = |seed| {
        let (_, report) = run(&server, &format!("-R 1000 -d 1s -c 2 -t 2 --arrival poisson --seed {seed}"));
        assert_eq!(report["tests"][0]["config"]["arrival"], "poisson");
        assert_eq!(count(&report, "offered"), count(&report, "acked"));
        count(&report, "offered")
    };
    let first = offered(7);
    assert_eq!(first, offered(7));
    assert!(first.abs_diff(1000) < 160, "{first} lines: five standard deviations are 158");
    assert_ne!(first, offered(8), "these two seeds differ");
}

fn window<'a>(report: &'a Value, key: &str) -> &'a Value {
    &report["tests"][0]["window"][key]
}

/// The ledger against what the server has stored; the last line of what is said.
fn reconciled(server: &Server, ledger: &std::path::Path) -> String {
    let records = ledger.with_extension("ndjson");
    std::fs::write(&records, server.stored()).unwrap();
    let output = loadgen("reconcile").arg("--ledger").arg(ledger).arg(&records).output().unwrap();
    String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned()
}

const PERFECT: &str = "0 lost, 0 duplicated, 0 corrupt, 0 phantom";

#[test]
fn a_warm_up_counts_for_nothing_but_the_ledger() {
    let directory = tempfile::tempdir().unwrap();
    let (ledger, series) = (directory.path().join("ledger.json"), directory.path().join("series.ndjson"));
    let files = format!("--ledger {} --series {}", ledger.display(), series.display());
    for (arguments, lines) in [
        ("-R 500 -d 1s -w 1s -c 3 -t 2", 500),
        ("-R 500 -d 1s -w 1s -c 3 --mode session --bad-share 5%", 500),
        ("-n 2000 -w 1s -c 3 -t 2 -p 5", 2000),
    ] {
        let server = Server::start(Script { ack_every: 7, ..Script::default() });
        let (output, report) = run(&server, &format!("{arguments} {files}"));
        assert_eq!(count(&report, "offered"), lines, "{arguments}: {}", stderr(&output));
        assert_eq!(count(&report, "acked") + count(&report, "refused_as_meant"), lines, "{arguments}");
        assert!(figure(&report, "service_us", "count") <= lines as f64, "{arguments}: none of the warm-up's is in it");
        assert_eq!(report["verification"]["books_closed"], true);
        let warm = window(&report, "warmup_offered").as_u64().unwrap();
        assert!(warm >= 500, "{arguments}: {warm} lines in a second or more");
        assert!((1.0..=3.5).contains(&window(&report, "warmup_s").as_f64().unwrap()), "{report}");
        let ended_by = window(&report, "warmup_ended_by");
        assert!(ended_by == "flat" || ended_by == "limit", "{ended_by}");
        assert_eq!(reconciled(&server, &ledger), PERFECT, "{arguments}");

        let rows = std::fs::read_to_string(&series).unwrap();
        let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of = |phase: &str| -> u64 {
            rows.iter().filter(|row| row["phase"] == phase).map(|row| row["offered"].as_u64().unwrap()).sum()
        };
        assert_eq!((of("warmup"), of("measured"), of("drain")), (warm, lines, 0), "{arguments}");
    }
}

#[test]
fn a_warm_up_that_nobody_answers_ends_and_says_so() {
    let server = Server::start(Script { mute: true, ..Script::default() });
    let (output, report) = run(&server, "-R 100 -d 500ms -w 300ms -c 2 --drain 300ms");
    assert_eq!(window(&report, "warmup_ended_by"), "limit", "{}", stderr(&output));
    assert_eq!((window(&report, "steady"), &results(&report)["failures"]["unanswered"]), (&false.into(), &50.into()));
    assert_eq!(report["verification"]["books_closed"], true);
    assert_eq!(window(&report, "warmup_failed"), window(&report, "warmup_offered"));
}

#[test]
fn lines_beyond_what_may_be_in_flight_are_shed_and_fail() {
    // The server takes 50 ms for each line, one at a time: some 20 of 1000 in a second, and 10 are in flight.
    let server = Server::start(Script { slow_ms: 50, ..Script::default() });
    let (output, report) = run(&server, "-R 1000 -d 1s -c 1 --mode session --max-in-flight 10 --max-error-rate 1%");
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let shed = results(&report)["failures"]["shed"].as_u64().unwrap();
    assert_eq!((count(&report, "offered"), count(&report, "acked") + shed), (1000, 1000));
    assert!(shed > 900, "{shed} lines shed");
    assert_eq!(report["verification"]["books_closed"], true);
    let worst = figure(&report, "response_us", "max");
    assert!(worst >= 500_000.0, "ten lines are in flight, and the last of them waits for ten times 50 ms: {worst} us");
}

#[test]
fn a_pipeline_bounds_an_open_loop_and_what_waits_counts_from_its_time() {
    let server = Server::start(Script { slow_ms: 20, ..Script::default() });
    let (output, report) = run(&server, "-R 200 -d 500ms -c 1 --mode session -p 1");
    assert_eq!((count(&report, "offered"), count(&report, "acked")), (100, 100), "{}", stderr(&output));
    let (response, service) = (figure(&report, "response_us", "p50"), figure(&report, "service_us", "p50"));
    assert!(response > 400_000.0, "a line waits for those before it: {response} us");
    assert!(service < response / 2.0, "and none of that is in the service time: {service} us");
}
