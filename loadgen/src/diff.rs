//! Two reports side by side: what was set differently, what came out, and the ratio of the second to the first.
//!
//! It draws no conclusion: two runs on one machine differ by themselves, and by how much only more runs can tell.

use crate::report::{Report, Test, span};
use serde_json::Value;
use std::fmt;

/// Two reports, the first being what the second is compared with.
#[derive(Debug)]
pub struct Diff<'a> {
    one: &'a Report,
    two: &'a Report,
}

impl<'a> Diff<'a> {
    /// Side by side.
    ///
    /// # Errors
    /// A sentence, where they do not hold the same number of tests.
    pub fn new(one: &'a Report, two: &'a Report) -> Result<Diff<'a>, String> {
        match (one.tests.len(), two.tests.len()) {
            (0, _) | (_, 0) => Err("a report without a test has nothing to compare".into()),
            (left, right) if left != right => Err(format!(
                "one report has {left} tests and the other {right}: compare reports of the same kind of run"
            )),
            _ => Ok(Diff { one, two }),
        }
    }
}

impl fmt::Display for Diff<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diff { one, two } = self;
        row(f, "", &one.run_id, &two.run_id, "B / A")?;
        row(f, "", &one.timestamp, &two.timestamp, "")?;
        let about = |report: &Report| {
            serde_json::json!({
                "cpu": report.system.cpu, "cores": report.system.cores, "kernel": report.system.kernel,
                "version": report.tool.version, "seed": report.seed, "payload": report.payload_sha256,
            })
        };
        settings(f, &about(one), &about(two))?;
        for (left, right) in one.tests.iter().zip(&two.tests) {
            writeln!(f, "{}", left.name)?;
            let config = |test: &Test| serde_json::to_value(&test.config).expect("a configuration is JSON");
            settings(f, &config(left), &config(right))?;
            figures(f, left, right)?;
        }
        write!(f, "One run each: the ratios say nothing of what a repetition would show.")
    }
}

/// The settings that differ.
fn settings(f: &mut fmt::Formatter<'_>, one: &Value, two: &Value) -> fmt::Result {
    let (Value::Object(one), Value::Object(two)) = (one, two) else { return Ok(()) };
    for (key, left) in one {
        let right = two.get(key).unwrap_or(&Value::Null);
        if left != right {
            row(f, key, &plain(left), &plain(right), "set")?;
        }
    }
    Ok(())
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

fn figures(f: &mut fmt::Formatter<'_>, one: &Test, two: &Test) -> fmt::Result {
    type Figure = (&'static str, fn(&Test) -> f64, fn(f64) -> String);
    let whole: fn(f64) -> String = |count| format!("{count:.0}");
    let percent: fn(f64) -> String = |share| format!("{:.3} %", share * 100.0);
    let figures: [Figure; 11] = [
        ("offered", |test| test.results.offered as f64, whole),
        ("acked", |test| test.results.acked as f64, whole),
        ("failed", |test| test.results.failed as f64, whole),
        ("error rate", |test| test.results.error_rate, percent),
        ("seconds", |test| test.results.span_s, |seconds| format!("{seconds:.3}")),
        ("records/s", |test| test.results.throughput_per_s, whole),
        ("MB/s", |test| test.results.bytes_per_s / 1e6, |mb| format!("{mb:.1}")),
        ("rate kept", |test| test.results.rate.map_or(0.0, |rate| rate.ratio), percent),
        ("connects", |test| test.results.connects as f64, whole),
        ("generator busy", |test| test.resources.client.busy, percent),
        ("generator ns/record", |test| test.resources.client.cpu_ns_per_record, whole),
    ];
    for (name, of, shown) in figures {
        let (left, right) = (of(one), of(two));
        if left != 0.0 || right != 0.0 {
            row(f, name, &shown(left), &shown(right), &ratio(left, right))?;
        }
    }
    let pairs = [
        ("response", &one.results.response_us, &two.results.response_us),
        ("service", &one.results.service_us, &two.results.service_us),
        ("slip", &one.results.slip_us, &two.results.slip_us),
    ];
    for (name, left, right) in pairs.into_iter().filter(|(_, left, right)| left.count + right.count > 0) {
        for (quantile, left, right) in [
            ("p50", left.p50, right.p50),
            ("p95", left.p95, right.p95),
            ("p99", left.p99, right.p99),
            ("p99.9", left.p999, right.p999),
            ("max", left.max, right.max),
        ] {
            row(f, &format!("{name} {quantile}"), &span(left), &span(right), &ratio(left, right))?;
        }
    }
    row(f, "validity", &one.validity.verdict, &two.validity.verdict, "")?;
    row(f, "verdict", &one.verdict, &two.verdict, "")
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, one: &str, two: &str, ratio: &str) -> fmt::Result {
    writeln!(f, "{}", format!("  {name:<22} {one:>24} {two:>24} {ratio:>8}").trim_end())
}

/// Nothing in place of a number where there is nothing to divide by.
fn ratio(one: f64, two: f64) -> String {
    if one == 0.0 { String::new() } else { format!("{:.3}", two / one) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn what_differs_stands_side_by_side_with_its_ratio_and_without_a_conclusion() {
        let (mut one, mut two) = (sample(), sample());
        (one.tests[0].results.response_us.count, one.tests[0].results.response_us.p99) = (10, 2_000.0);
        (two.tests[0].results.response_us.count, two.tests[0].results.response_us.p99) = (10, 3_000.0);
        (one.tests[0].results.offered, two.tests[0].results.offered) = (1_000, 900);
        two.tests[0].config.batch = 7;
        let text = Diff::new(&one, &two).unwrap().to_string();
        let line = |name: &str| {
            let line = text.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_default();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(line("offered"), "offered 1000 900 0.900");
        assert_eq!(line("response p99 "), "response p99 2.00 ms 3.00 ms 1.500");
        assert_eq!(line("batch"), "batch 100 7 set");
        assert_eq!(line("connections"), "", "what is set alike is not shown");
        assert_eq!(line("response p50"), "response p50 0 ns 0 ns", "nothing to divide by");
        assert!(text.ends_with("say nothing of what a repetition would show."));
    }

    #[test]
    fn reports_of_different_kinds_are_refused() {
        let (one, mut two) = (sample(), sample());
        two.tests.push(two.tests[0].clone());
        assert!(Diff::new(&one, &two).unwrap_err().contains("1 tests and the other 2"));
        two.tests.clear();
        assert!(Diff::new(&one, &two).unwrap_err().contains("nothing to compare"));
    }
}
