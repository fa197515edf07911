//! `ringest-bench stress`: users come at their rate, all are counted, and Locust's files say so.

use crate::support::Bench;
use serde_json::json;
use std::fs;

#[test]
fn users_come_at_their_rate_and_every_line_of_theirs_is_in_the_report_and_in_locusts_files() {
    let bench = Bench::new();
    let args =
        ["stress", "--no-pin", "--dir", ".", "--hold", "2", "--json", "out.json", "--csv", "locust", "--report-only"];
    let output = bench.command(&args).env("STRESS_USERS", "50").env("STRESS_SPAWN_RATE", "20").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let report = bench.json("out.json");
    let test = &report["tests"][0];
    assert_eq!((&test["name"], &test["config"]["concurrency"]), (&json!("stress_50"), &json!(50)));
    assert_eq!(test["reconciliation"]["lost"], 0, "{test}");
    let sent = test["results"]["total_success"].as_u64().unwrap();
    assert_eq!(test["reconciliation"]["acked"], sent, "the ledgers of all generators");
    let series = test["results"]["series"].as_array().unwrap();
    let of_series: u64 = series.iter().map(|second| second["acked"].as_u64().unwrap()).sum();
    assert_eq!(of_series, sent, "no second of any generator is left out");

    let read = |name: &str| fs::read_to_string(bench.path(name)).unwrap();
    let (stats, history) = (read("locust_stats.csv"), read("locust_stats_history.csv"));
    let last = stats.lines().last().unwrap();
    assert!(last.starts_with(&format!(",Aggregated,{sent},0,")), "{stats}");
    let users: Vec<u64> = history.lines().skip(1).map(|row| row.split(',').nth(1).unwrap().parse().unwrap()).collect();
    assert!(users.is_sorted() && users[0] == 20 && users.contains(&40) && users.last() == Some(&50), "{users:?}");
    assert!(history.lines().all(|row| row.split(',').count() == 24), "{history}");
    assert_eq!(read("locust_failures.csv"), "Method,Name,Error,Occurrences\n");
    bench.leaves_no_scratch();
}
