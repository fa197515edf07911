//! The gate: has it become worse than it was on machines like this one?
//!
//! Two loads, some rounds of each, and the median of every figure against a stored one of the same machine class. What is
//! worse by more than its threshold is measured a second time, all rounds anew, and only what is worse both times turns the
//! gate red: a shared machine has bad minutes. That it can turn red is shown by its tests, which plant a slowdown, a loss, a
//! leak, a panic and a stall.

mod baseline;

use crate::cli::{Elsewhere, Gate as Task};
use crate::load::Load;
use crate::outcome::Outcome;
use crate::report::{Gate, Report, Test, Verification};
use crate::spread::Spread;
use crate::suite::{Plan, Promise, Suite, Targets, conclude};
use baseline::{Baseline, Figure};
use ringest_sys::signal::Signal;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;

/// The figures of all rounds, by name.
type Rounds = BTreeMap<String, Vec<f64>>;

/// Measures, and compares with the baseline, or makes the baseline.
///
/// # Errors
/// There is no baseline for machines like this one, or something that is needed is not to be had.
pub fn run(task: &Task) -> io::Result<Report> {
    let mut suite = Suite::new("gate", &task.place, &Elsewhere::default())?;
    let class = suite.system().class.clone();
    let path = task.baseline_dir.join(format!("{class}.json"));
    let baseline = if task.update { None } else { Some(Baseline::read(&path, &class)?) };
    if let Some(baseline) = &baseline {
        baseline.check_settings(&task.settings(), &path)?;
    }
    let mut run = Run { tests: Vec::new(), signal: None };
    let first = run.rounds(task, &mut suite, 1)?;
    let mut gates = baseline.as_ref().map_or_else(Vec::new, |baseline| compare(baseline, &first));
    if gates.iter().any(|gate| !gate.pass) && run.is_whole() {
        eprintln!("worse than the baseline: all of it once more, to be sure");
        let second = run.rounds(task, &mut suite, 2)?;
        if let Some(baseline) = baseline.as_ref().filter(|_| run.signal.is_none()) {
            gates = both(gates, compare(baseline, &second));
        }
    }
    let mut remarks = Vec::new();
    if task.update && run.is_whole() {
        let figures = first.into_iter().filter_map(|(name, values)| Some((name, Figure::of(Spread::of(values)?))));
        Baseline::new(suite.system(), task.settings(), figures.collect()).write(&path)?;
        remarks.push(format!("the baseline is now what was measured: {}", path.display()));
    }
    let Run { tests, signal } = run;
    let verification = verify(task, &tests, gates, signal, remarks);
    for gate in &verification.gates {
        let word = if gate.pass { "pass" } else { "FAIL" };
        eprintln!("{word}  {}: {:.3}", gate.expr, gate.actual);
    }
    Ok(suite.report(tests, verification))
}

struct Run {
    tests: Vec<Test>,
    signal: Option<Signal>,
}

impl Run {
    /// Nothing failed by itself: only then is there something to compare.
    fn is_whole(&self) -> bool {
        self.signal.is_none() && self.tests.iter().all(|test| test.verdict == Outcome::Pass)
    }

    fn rounds(&mut self, task: &Task, suite: &mut Suite, pass: u32) -> io::Result<Rounds> {
        let mut figures = Rounds::new();
        for round in 1..=task.rounds {
            for mut plan in plans(task) {
                if self.signal.is_some() {
                    return Ok(figures);
                }
                let load = plan.name.clone();
                plan.name = format!("{load}_{pass}.{round}");
                let (test, signal) = suite.measure(&plan)?;
                eprintln!("{}", crate::tiers::line(&test));
                self.signal = signal;
                for (name, value) in read_off(&load, &test) {
                    figures.entry(name).or_default().push(value);
                }
                self.tests.push(test);
            }
        }
        Ok(figures)
    }
}

/// A rate that is well below what it can take, for latencies and what is idle; and as much as it can take.
fn plans(task: &Task) -> [Plan; 2] {
    let usual = |load: Load| Load {
        in_sessions: false,
        record_size: task.record_size,
        seed: task.seed,
        // A server that has gone is known by its end, not by waiting for it.
        extra: ["--reconnect-for", "2s"].map(OsString::from).to_vec(),
        ..load
    };
    let steady = usual(Load::open(task.rate, task.window, task.connections));
    let streaming =
        usual(Load { pipeline: PIPELINE, batch: PIPELINE, ..Load::closed(None, task.window, task.connections) });
    [(STEADY, steady), (STREAMING, streaming)].map(|(name, load)| Plan::new(name, load, Promise::FewErrors))
}

/// What is compared of a test.
fn read_off(load: &str, test: &Test) -> Vec<(String, f64)> {
    let (results, resources) = (&test.results, &test.resources);
    let mut figures =
        vec![("cpu_ns_per_record", resources.cpu_ns_per_record), ("peak_memory_mb", resources.peak_memory_mb)];
    match load {
        STEADY => figures.push(("p95_ms", results.latency_p95_ms)),
        _ => figures.push(("records_per_s", results.actual_rps)),
    }
    figures.into_iter().map(|(name, value)| (format!("{load}.{name}"), value)).collect()
}

fn compare(baseline: &Baseline, rounds: &Rounds) -> Vec<Gate> {
    let gate = |(name, was): (&String, &Figure)| {
        let now = rounds.get(name).and_then(|values| Spread::of(values.iter().copied()))?.median;
        let ratio = now / was.median.max(f64::MIN_POSITIVE);
        let what = format!("{name}, as a multiple of the baseline's {:.4}", was.median);
        Some(match name.rsplit('.').next() {
            Some("p95_ms") => Gate::at_most(&what, ratio, 1.0 + P95_WORSE_MAX),
            Some("records_per_s") => Gate::at_least(&what, ratio, 1.0 - RATE_WORSE_MAX),
            Some(_) | None => Gate::at_most(&what, ratio, 1.0 + COST_WORSE_MAX),
        })
    };
    // A figure that is missing has not become worse by accident: it is missed.
    let missing = |name: &&String| !rounds.contains_key(*name);
    let missed =
        baseline.figures.keys().filter(missing).map(|name| Gate::at_least(&format!("figures called {name}"), 0.0, 1.0));
    baseline.figures.iter().filter_map(gate).chain(missed).collect()
}

/// A gate fails that fails both times; what is shown is the better of the two.
fn both(first: Vec<Gate>, second: Vec<Gate>) -> Vec<Gate> {
    first.into_iter().zip(second).map(|(first, second)| if first.pass { first } else { second }).collect()
}

fn verify(task: &Task, tests: &[Test], gates: Vec<Gate>, signal: Option<Signal>, remarks: Vec<String>) -> Verification {
    let failed = tests.iter().filter(|test| test.verdict != Outcome::Pass);
    let told = failed.map(|test| format!("{}: {} ({})", test.name, test.verdict, test.validity.verdict));
    let targets = Targets {
        records_per_s: task.rate,
        error_rate: ERROR_RATE_MAX,
        achieved_error_rate: tests.iter().map(|test| test.results.error_rate).fold(0.0, f64::max),
        gates,
        report_only: task.results.report_only,
    };
    conclude(tests, targets, signal, remarks.into_iter().chain(told).collect())
}

impl Task {
    /// What figures depend on: a baseline of other settings is none.
    fn settings(&self) -> BTreeMap<String, u64> {
        [
            ("rate", self.rate),
            ("window_ms", self.window.as_millis() as u64),
            ("connections", self.connections),
            ("record_size", self.record_size),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

const STEADY: &str = "steady";
const STREAMING: &str = "streaming";
const PIPELINE: u64 = 1_000;
const P95_WORSE_MAX: f64 = 0.10;
const RATE_WORSE_MAX: f64 = 0.10;
const COST_WORSE_MAX: f64 = 0.15;
const ERROR_RATE_MAX: f64 = 0.01;

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline() -> Baseline {
        let figures = [
            ("steady.p95_ms", 2.0),
            ("steady.cpu_ns_per_record", 4_000.0),
            ("steady.peak_memory_mb", 20.0),
            ("streaming.records_per_s", 1e6),
        ];
        let figure = |median| Figure { median, min: median, max: median };
        let figures = figures.map(|(name, median)| (name.to_owned(), figure(median)));
        Baseline::new(&Default::default(), BTreeMap::new(), figures.into())
    }

    fn rounds(p95: f64, cpu: f64, memory: f64, rate: f64) -> Rounds {
        // The median decides, whatever one bad round shows.
        let round = |name: &str, value: f64, bad: f64| (name.to_owned(), vec![value, bad, value]);
        [
            round("steady.p95_ms", p95, 90.0),
            round("steady.cpu_ns_per_record", cpu, 1.0),
            round("steady.peak_memory_mb", memory, 1.0),
            round("streaming.records_per_s", rate, 1.0),
        ]
        .into()
    }

    fn failed(rounds: &Rounds) -> Vec<String> {
        compare(&baseline(), rounds).into_iter().filter(|gate| !gate.pass).map(|gate| gate.expr).collect()
    }

    #[test]
    fn at_its_threshold_a_figure_passes_and_past_it_it_fails_alone() {
        assert_eq!(failed(&rounds(2.2, 4_600.0, 23.0, 0.9e6)), Vec::<String>::new());
        for (worse, name) in [
            (rounds(2.21, 4_600.0, 23.0, 0.9e6), "steady.p95_ms"),
            (rounds(2.2, 4_601.0, 23.0, 0.9e6), "steady.cpu_ns_per_record"),
            (rounds(2.2, 4_600.0, 23.1, 0.9e6), "steady.peak_memory_mb"),
            (rounds(2.2, 4_600.0, 23.0, 0.89e6), "streaming.records_per_s"),
        ] {
            let failed = failed(&worse);
            assert!(failed.len() == 1 && failed[0].starts_with(name), "{name}: {failed:?}");
        }
        let mut short = rounds(2.0, 4_000.0, 20.0, 1e6);
        short.remove("steady.p95_ms");
        assert_eq!(failed(&short).len(), 1, "a figure that is missing is no good figure");
    }

    #[test]
    fn what_is_worse_once_and_not_again_does_not_turn_it_red() {
        let (bad, good) = (rounds(9.0, 4_000.0, 20.0, 1e6), rounds(2.0, 4_000.0, 20.0, 1e6));
        let all_pass = |gates: Vec<Gate>| gates.iter().all(|gate| gate.pass);
        let judge = |rounds| compare(&baseline(), rounds);
        assert!(!all_pass(judge(&bad)) && all_pass(both(judge(&bad), judge(&good))));
        assert!(!all_pass(both(judge(&bad), judge(&bad))));
    }
}
