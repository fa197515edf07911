//! The reports of shards that ran beside one another, as the report of one run.
//!
//! Counts and histograms are added, and every figure is made from the sums: nothing is averaged. Shards have to have sent
//! the same lines in the same way; what they may differ in adds up.

use crate::measured::Measured;
use crate::report::{Gate, Report, System, Test, TestConfig, Window};
use crate::validity::{Validity, blame};
use serde_json::Value;

/// One report of all.
///
/// # Errors
/// A sentence that says in what the reports differ, or what does not add up.
pub fn merge(reports: &[Report]) -> Result<Report, String> {
    let (first, others) = reports.split_first().ok_or("there is nothing to merge")?;
    for other in others {
        same("schema", &first.schema, &other.schema)?;
        same("payload_sha256", &first.payload_sha256, &other.payload_sha256)?;
        same("seed", &first.seed, &other.seed)?;
        same("number of tests", &first.tests.len(), &other.tests.len())?;
        if let Some(twice) = reports.iter().filter(|report| report.run_id == other.run_id).nth(1) {
            return Err(format!("run {} is there twice", twice.run_id));
        }
    }
    let mut merged = first.clone();
    merged.run_id = join(reports.iter().map(|report| report.run_id.clone()), "+");
    merged.timestamp = reports.iter().map(|report| &report.timestamp).min().expect("there is a first").clone();
    merged.system = system(reports);
    let verification = &mut merged.verification;
    let ledgers: Vec<String> = reports.iter().filter_map(|report| report.verification.ledger.clone()).collect();
    verification.ledger = (!ledgers.is_empty()).then(|| join(ledgers.into_iter(), ", "));
    for other in others {
        verification.books_closed &= other.verification.books_closed;
        for complaint in &other.verification.complaints {
            if !verification.complaints.contains(complaint) {
                verification.complaints.push(complaint.clone());
            }
        }
    }
    for (at, test) in merged.tests.iter_mut().enumerate() {
        let tests: Vec<&Test> = reports.iter().map(|report| &report.tests[at]).collect();
        *test = merge_tests(&tests)?;
    }
    Ok(merged)
}

fn merge_tests(tests: &[&Test]) -> Result<Test, String> {
    let (first, others) = tests.split_first().expect("the caller has one at least");
    let mut measured = Measured::of(first)?;
    for other in others {
        measured.add(&Measured::of(other)?);
    }
    let results = measured.results();
    let gates = gates(tests, results.error_rate, results.offered)?;
    let verdict = match () {
        () if tests.iter().any(|test| test.verdict == INTERRUPTED) => INTERRUPTED,
        () if gates.iter().all(|gate| gate.pass) => "pass",
        () => "fail",
    };
    let mut merged = (*first).clone();
    merged.config = config(tests)?;
    merged.window = window(tests);
    merged.results = results;
    merged.resources.client = measured.client();
    // It is each generator's own.
    merged.headroom = None;
    merged.validity = validity(tests);
    merged.gates = gates;
    merged.verdict = verdict.into();
    Ok(merged)
}

/// What shards have in common has to be the same; of the rest the sum, or all.
fn config(tests: &[&Test]) -> Result<TestConfig, String> {
    let object = |config: &TestConfig| match serde_json::to_value(config) {
        Ok(Value::Object(keys)) => keys,
        Ok(_) | Err(_) => unreachable!("a configuration is an object"),
    };
    let mut merged = object(&tests[0].config);
    for test in &tests[1..] {
        for (key, value) in object(&test.config) {
            let there = merged.entry(key.clone()).or_insert(Value::Null);
            if ADDED.contains(&key.as_str()) {
                *there = match (there.as_u64(), value.as_u64()) {
                    (Some(one), Some(two)) => {
                        let sum = one
                            .checked_add(two)
                            .ok_or_else(|| format!("config.{key} does not add up: {one} and {two}"))?;
                        Value::from(sum)
                    }
                    (None, None) => Value::Null,
                    (Some(_), None) | (None, Some(_)) => return Err(differ(&format!("config.{key}"), there, &value)),
                };
            } else if LISTED.contains(&key.as_str()) {
                if let (Some(one), Some(two)) = (there.as_str(), value.as_str())
                    && !one.split(", ").any(|one| one == two)
                {
                    *there = Value::from(format!("{one}, {two}"));
                }
            } else if *there != value {
                return Err(differ(&format!("config.{key}"), there, &value));
            }
        }
    }
    serde_json::from_value(Value::Object(merged)).map_err(|error| format!("the configurations do not add up: {error}"))
}

/// The share of failed lines is that of all lines; whatever else is gated is as bad as in the worst shard.
fn gates(tests: &[&Test], error_rate: f64, offered: u64) -> Result<Vec<Gate>, String> {
    let mut merged: Vec<Gate> = Vec::new();
    for gate in tests.iter().flat_map(|test| &test.gates) {
        match merged.iter_mut().find(|there| there.expr == gate.expr) {
            Some(there) => {
                same(&format!("limit of the gate {}", gate.expr), &there.limit, &gate.limit)?;
                there.actual = there.actual.max(gate.actual);
                there.pass &= gate.pass;
            }
            None => merged.push(gate.clone()),
        }
    }
    for gate in merged.iter_mut().filter(|gate| gate.expr == "error_rate") {
        gate.actual = error_rate;
        gate.pass = error_rate <= gate.limit && offered > 0;
    }
    Ok(merged)
}

/// Shards warm up each for itself.
fn window(tests: &[&Test]) -> Window {
    let windows = tests.iter().map(|test| &test.window);
    let longest = |of: fn(&Window) -> f64| windows.clone().map(of).fold(0.0, f64::max);
    let sum = |of: fn(&Window) -> u64| windows.clone().map(of).sum();
    let limited = windows.clone().find(|window| !window.steady).and_then(|window| window.warmup_ended_by.clone());
    Window {
        warmup_s: longest(|window| window.warmup_s),
        warmup_ended_by: limited.or_else(|| tests[0].window.warmup_ended_by.clone()),
        warmup_offered: sum(|window| window.warmup_offered),
        warmup_acked: sum(|window| window.warmup_acked),
        warmup_failed: sum(|window| window.warmup_failed),
        measured_s: longest(|window| window.measured_s),
        drain_s: longest(|window| window.drain_s),
        steady: tests.iter().all(|test| test.window.steady),
    }
}

/// Shares of late lines are shares of all lines.
fn validity(tests: &[&Test]) -> Validity {
    let lines: u64 = tests.iter().map(|test| test.results.offered).sum();
    let share = |of: fn(&Validity) -> f64| {
        let late: f64 = tests.iter().map(|test| of(&test.validity) * test.results.offered as f64).sum();
        if lines == 0 { 0.0 } else { late / lines as f64 }
    };
    let worst = |of: fn(&Validity) -> f64| tests.iter().map(|test| of(&test.validity)).fold(0.0, f64::max);
    let [server_bound, generator_bound, host_noise] =
        [share(|late| late.server_bound), share(|late| late.generator_bound), share(|late| late.host_noise)];
    let mut merged = tests[0].validity.clone();
    let late_share_max = tests[0].config.max_late_share;
    merged.verdict = blame(server_bound, generator_bound, host_noise, late_share_max).as_str().into();
    merged.reasons = tests.iter().flat_map(|test| test.validity.reasons.clone()).collect();
    (merged.server_bound, merged.generator_bound, merged.host_noise) = (server_bound, generator_bound, host_noise);
    merged.late_over_us = worst(|validity| validity.late_over_us);
    merged.queued = worst(|validity| validity.queued);
    merged.stolen = worst(|validity| validity.stolen);
    merged.overslept_max_us = worst(|validity| validity.overslept_max_us);
    merged.busy_max = worst(|validity| validity.busy_max);
    merged
}

/// One machine, or several.
fn system(reports: &[Report]) -> System {
    let mut systems: Vec<&System> = Vec::new();
    for report in reports {
        if !systems.contains(&&report.system) {
            systems.push(&report.system);
        }
    }
    match systems[..] {
        [one] => one.clone(),
        _ => System {
            cpu: join(systems.iter().map(|system| system.cpu.clone()), "; "),
            cores: systems.iter().map(|system| system.cores).sum(),
            kernel: join(systems.iter().map(|system| system.kernel.clone()), "; "),
        },
    }
}

fn join(names: impl Iterator<Item = String>, between: &str) -> String {
    names.collect::<Vec<_>>().join(between)
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, one: &T, two: &T) -> Result<(), String> {
    if one == two { Ok(()) } else { Err(differ(what, one, two)) }
}

fn differ(what: &str, one: &impl std::fmt::Debug, two: &impl std::fmt::Debug) -> String {
    format!("these are not shards of one run: {what} is {one:?} in one and {two:?} in another")
}

const INTERRUPTED: &str = "interrupted";
/// What each shard has a part of.
const ADDED: [&str; 7] =
    ["plain_connections", "connections", "max_in_flight", "workers", "rate", "rate_to", "total_logs"];
/// What each shard may have of its own.
const LISTED: [&str; 2] = ["target", "cpu_list"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Draw;
    use crate::report::tests::sample;

    /// What one of two generators measured, or both: `parts` says whose lines to take.
    fn shard(parts: &[u64], run_id: &str) -> Report {
        let mut measured = Measured { target_per_s: Some(0.0), ..Measured::default() };
        for part in parts {
            let mut draw = Draw::new(7 + part);
            let mut one = Measured { target_per_s: Some(1_500.0), workers: 1, ..Measured::default() };
            for _ in 0..2_000 {
                let bits = draw.below(40);
                let ns = 1 + draw.below(1 << bits) as u64;
                one.latency.response.record(ns, 1);
                one.latency.service.record(1 + ns / 3, 1);
                one.latency.slip.record(1 + ns / 7, 1);
            }
            one.latency.response.record(u64::MAX, 1);
            one.tally.offered = 2_001 + part;
            one.tally.acked = 1_990;
            one.tally.fail("unanswered", 11 + part);
            one.tally.fault("reset");
            one.tally.bytes = draw.next() >> 20;
            one.span_ns = 3_141_592_653 + part * 7;
            one.cpu_ns = 271_828_182 + part;
            measured.add(&one);
        }
        let mut report = sample();
        let test = &mut report.tests[0];
        test.config.workers = measured.workers;
        (test.config.connections, test.config.plain_connections) = (3 * measured.workers, 2 * measured.workers);
        test.config.total_logs = Some(2_500 * measured.workers);
        test.config.rate = Some(1_500 * measured.workers);
        test.results = measured.results();
        test.resources.client = measured.client();
        test.gates = vec![Gate { expr: "error_rate".into(), actual: test.results.error_rate, limit: 0.01, pass: true }];
        report.run_id = run_id.into();
        report
    }

    #[test]
    fn merged_shards_are_the_single_run_bit_for_bit() {
        let merged = merge(&[shard(&[1], "aaaaaaaa"), shard(&[2], "bbbbbbbb"), shard(&[3], "cccccccc")]).unwrap();
        let single = shard(&[1, 2, 3], "aaaaaaaa+bbbbbbbb+cccccccc");
        let (merged_test, single_test) = (&merged.tests[0], &single.tests[0]);
        assert_eq!(merged_test.results, single_test.results);
        assert_eq!(merged_test.resources, single_test.resources);
        assert_eq!(merged_test.config, single_test.config);
        assert_eq!(merged.run_id, single.run_id);
        let text = |report: &Report| serde_json::to_string(&report.tests[0].results).unwrap();
        assert_eq!(text(&merged), text(&single));
        assert_eq!(merged_test.results.response_us.beyond_range, 3);
    }

    #[test]
    fn a_report_comes_apart_and_together_without_loss_even_through_a_file() {
        let report = shard(&[5], "aaaaaaaa");
        let read: Report = serde_json::from_str(&serde_json::to_string_pretty(&report).unwrap()).unwrap();
        assert_eq!(Measured::of(&read.tests[0]).unwrap().results(), report.tests[0].results);
        assert_eq!(Measured::of(&read.tests[0]).unwrap().client(), report.tests[0].resources.client);
        assert_eq!(merge(std::slice::from_ref(&report)).unwrap().tests[0].results, report.tests[0].results);
    }

    #[test]
    fn what_is_no_shard_of_the_same_run_is_refused_by_what_differs() {
        let refused = |change: fn(&mut Report), said: &str| {
            let mut other = shard(&[2], "bbbbbbbb");
            change(&mut other);
            let error = merge(&[shard(&[1], "aaaaaaaa"), other]).unwrap_err();
            assert!(error.contains(said), "{error} does not say {said}");
        };
        refused(|report| report.payload_sha256 = "1".repeat(64), "payload_sha256");
        refused(|report| report.seed = 8, "seed is 7 in one and 8 in another");
        refused(|report| report.tests[0].config.batch = 7, "config.batch is Number(100) in one and Number(7)");
        refused(|report| report.tests[0].config.rate = None, "config.rate");
        refused(|report| report.run_id = "aaaaaaaa".into(), "run aaaaaaaa is there twice");
        refused(|report| report.tests[0].config.connections = u64::MAX, "config.connections does not add up");
        refused(|report| report.tests[0].gates[0].limit = 0.5, "limit of the gate error_rate");
        refused(|report| report.tests[0].results.histograms.slip = "AAAA".into(), "histograms.slip: no histogram");
        refused(|report| report.tests.clear(), "number of tests");
        assert!(merge(&[]).is_err());
    }

    #[test]
    fn gates_are_tried_on_the_sum_and_an_interruption_stays_one() {
        let (mut one, two) = (shard(&[1], "aaaaaaaa"), shard(&[2], "bbbbbbbb"));
        one.tests[0].results.failures.insert("unanswered".into(), 1_000);
        let merged = merge(&[one.clone(), two.clone()]).unwrap();
        assert_eq!((merged.tests[0].verdict.as_str(), merged.tests[0].gates[0].pass), ("fail", false));
        one.tests[0].verdict = "interrupted".into();
        assert_eq!(merge(&[one, two]).unwrap().tests[0].verdict, "interrupted");
    }
}
