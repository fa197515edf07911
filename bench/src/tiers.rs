//! The tiers: the first design's five, the load that the objectives are given for, and shares of the knee.
//!
//! The five are closed: so many lines, one in flight on each connection, over when all are answered or the time is up. The
//! others are open: lines have their times, whatever the server does.

use crate::cli::Tiers;
use crate::load::Load;
use crate::outcome::Outcome;
use crate::report::{Gate, Knee, Report, Test, Verification};
use crate::suite::{Plan, Promise, Suite, Targets, conclude};
use ringest_sys::signal::Signal;
use std::io;
use std::time::Duration;

/// Runs them, and says how each went as it ends. What was measured before somebody ended it is in the report.
///
/// # Errors
/// Something that is needed is not to be had, or no tier has such a name.
pub fn run(task: &Tiers) -> io::Result<Report> {
    let plans = plans(task)?;
    let wants_knee = is_asked_for(KNEE, task);
    let mut suite = Suite::new("tiers", &task.place, &task.elsewhere)?;
    let mut run = Run { tests: Vec::new(), signal: None, cooldown: task.cooldown };
    run.all(&mut suite, &plans)?;
    let mut knee = None;
    if wants_knee && run.signal.is_none() {
        let found = find_knee(task, &mut suite, &mut run)?;
        if let Some(found) = &found {
            eprintln!("knee: {:.0} records/s, {}", found.records_per_s, found.how);
            run.all(&mut suite, &at_shares(task, found.records_per_s))?;
        }
        knee = found;
    }
    let verification = verify(task, &run.tests, run.signal);
    Ok(Report { knee, ..suite.report(run.tests, verification) })
}

/// What has been measured so far.
struct Run {
    tests: Vec<Test>,
    signal: Option<Signal>,
    cooldown: Duration,
}

impl Run {
    fn all(&mut self, suite: &mut Suite, plans: &[Plan]) -> io::Result<()> {
        for plan in plans {
            if self.signal.is_some() {
                break;
            }
            if !self.tests.is_empty() {
                self.signal = suite.rest(self.cooldown)?;
                if self.signal.is_some() {
                    break;
                }
            }
            let (test, signal) = suite.measure(plan)?;
            eprintln!("{}", line(&test));
            self.tests.push(test);
            self.signal = signal;
        }
        Ok(())
    }
}

/// How a test went, for a person.
pub(crate) fn line(test: &Test) -> String {
    let results = &test.results;
    let mut line = format!(
        "{:<14} {:>11}  {:>9.0} records/s  {:>8} errors  p50 {:>8.2} ms  p95 {:>8.2} ms  p99 {:>8.2} ms  CPU {:>5.0} %  {}",
        test.name,
        test.verdict.as_str(),
        results.actual_rps,
        results.total_errors,
        results.latency_p50_ms,
        results.latency_p95_ms,
        results.latency_p99_ms,
        test.resources.avg_cpu_percent,
        test.validity.verdict,
    );
    for gate in test.gates.iter().filter(|gate| !gate.pass) {
        line += &format!("\n               does not hold: {}: {:.4}", gate.expr, gate.actual);
    }
    line
}

/// Those whose rates are known.
fn plans(task: &Tiers) -> io::Result<Vec<Plan>> {
    let names = FIVE.iter().map(|tier| tier.name).chain([OBJECTIVES, KNEE]);
    for asked in &task.only {
        if !names.clone().any(|name| name.contains(asked.as_str())) {
            let names: Vec<&str> = names.collect();
            return Err(io::Error::other(format!(
                "no tier has \"{asked}\" in its name; there are {}",
                names.join(", ")
            )));
        }
    }
    let five = FIVE.iter().map(|tier| {
        let load = Load::closed(Some(tier.total), Duration::from_secs(tier.seconds), tier.connections);
        Plan::new(tier.name, of_task(task, load), Promise::FewErrors)
    });
    let load = of_task(task, Load::open(task.target_rate, task.window, task.connections));
    let objectives = Plan::new(OBJECTIVES, load, Promise::Objectives);
    Ok(five.chain([objectives]).filter(|plan| is_asked_for(&plan.name, task)).collect())
}

fn at_shares(task: &Tiers, knee: f64) -> Vec<Plan> {
    let plan = |percent: &u32| {
        let share = f64::from(*percent) / 100.0;
        let rate = ((knee * share).round() as u64).max(1);
        let load = of_task(task, Load::open(rate, task.window, task.connections));
        let promise = if *percent > 100 { Promise::NoCollapse { knee } } else { Promise::FewErrors };
        Plan { of_knee: Some(share), ..Plan::new(&format!("{KNEE}_{percent}"), load, promise) }
    };
    task.at.iter().map(plan).collect()
}

fn of_task(task: &Tiers, load: Load) -> Load {
    Load { record_size: task.record_size, seed: task.seed, ..load }
}

fn is_asked_for(name: &str, task: &Tiers) -> bool {
    task.only.is_empty() || task.only.iter().any(|part| name.contains(part.as_str()))
}

/// As it was given, or as the generator finds it. Where it finds none, what a closed loop reaches: a ceiling that promises
/// nothing about latency.
fn find_knee(task: &Tiers, suite: &mut Suite, run: &mut Run) -> io::Result<Option<Knee>> {
    if let Some(knee) = task.knee {
        return Ok(Some(Knee { records_per_s: knee as f64, how: "given".into() }));
    }
    let probe = of_task(task, Load::open(1, PROBE_SPAN, task.connections));
    let (found, signal) = suite.search(&probe, task.slo_p99)?;
    run.signal = signal;
    if let Some(rate) = found {
        let how = format!("searched: p99 within {} ms, and nothing fails", task.slo_p99.as_secs_f64() * 1e3);
        return Ok(Some(Knee { records_per_s: rate as f64, how }));
    }
    let load = Load {
        pipeline: PIPELINE,
        batch: PIPELINE,
        in_sessions: true,
        ack: Some("durable".into()),
        ..of_task(task, Load::closed(None, KNEE_SPAN, task.connections))
    };
    run.all(suite, &[Plan::new("ceiling", load, Promise::FewErrors)])?;
    let ceiling = run.tests.last().filter(|test| test.name == "ceiling" && test.results.actual_rps >= 1.0);
    Ok(ceiling.map(|test| Knee { records_per_s: test.results.actual_rps, how: "closed loop".into() }))
}

/// The first design's verification, and ours.
fn verify(task: &Tiers, tests: &[Test], signal: Option<Signal>) -> Verification {
    let best = tests.iter().map(|test| test.results.actual_rps).fold(0.0, f64::max);
    let overloads = |test: &&Test| test.config.of_knee.is_some_and(|share| share > 1.0);
    let errors = tests.iter().filter(|test| !overloads(test)).map(|test| test.results.error_rate).fold(0.0, f64::max);
    let mut gates = vec![
        Gate::at_least("records/s of the best tier", best, TARGET_RPS as f64),
        Gate::at_most("share of lines that failed in the worst tier", errors, TARGET_ERROR_RATE),
    ];
    if task.only.is_empty() {
        // Of the one tier that asks for it, and of it alone: a warm-up reaches what it reaches.
        gates.push(Gate::at_least(
            "records/s of the best tier, for ours",
            best,
            task.target_rate as f64 * RATE_KEPT_MIN,
        ));
    }
    let targets = Targets {
        records_per_s: TARGET_RPS,
        error_rate: TARGET_ERROR_RATE,
        achieved_error_rate: errors,
        gates,
        report_only: task.results.report_only,
    };
    conclude(tests, targets, signal, remarks(tests))
}

fn remarks(tests: &[Test]) -> Vec<String> {
    let failed = tests.iter().filter(|test| test.verdict != Outcome::Pass);
    failed
        .map(|test| {
            let gates: Vec<String> =
                test.gates.iter().filter(|gate| !gate.pass).map(|gate| gate.expr.clone()).collect();
            let gates = if gates.is_empty() { String::new() } else { format!(", does not hold: {}", gates.join("; ")) };
            format!("{}: {} ({}){gates}", test.name, test.verdict, test.validity.verdict)
        })
        .collect()
}

struct Tier {
    name: &'static str,
    total: u64,
    seconds: u64,
    connections: u64,
}

/// The first design's.
const FIVE: [Tier; 5] = [
    Tier { name: "warmup", total: 100, seconds: 5, connections: 2 },
    Tier { name: "baseline", total: 1_000, seconds: 10, connections: 5 },
    Tier { name: "medium_load", total: 5_000, seconds: 15, connections: 20 },
    Tier { name: "high_load", total: 10_000, seconds: 20, connections: 50 },
    Tier { name: "stress_test", total: 50_000, seconds: 30, connections: 100 },
];
const OBJECTIVES: &str = "objectives";
const KNEE: &str = "knee";
const TARGET_RPS: u64 = 1_000;
const TARGET_ERROR_RATE: f64 = 0.01;
const RATE_KEPT_MIN: f64 = 0.99;
const PIPELINE: u64 = 1_000;
const PROBE_SPAN: Duration = Duration::from_secs(2);
const KNEE_SPAN: Duration = Duration::from_secs(3);
