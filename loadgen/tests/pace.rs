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
