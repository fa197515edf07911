//! What a measurement has to meet, held against its figures.

use super::Plan;
use crate::outcome::Outcome;
use crate::report::{Gate, Test, Verification};
use ringest_sys::signal::Signal;

/// What a measurement has to meet, beside what all have to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Promise {
    /// Few lines may fail: the first design's bound.
    FewErrors,
    /// The service-level objectives at the load that they are given for.
    Objectives,
    /// More is offered than can be taken: what is taken may not collapse below the knee.
    NoCollapse {
        /// Records per second.
        knee: f64,
    },
}

/// What a verdict depends on beside the figures.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// Who ended it.
    pub(super) signal: Option<Signal>,
    /// Processors that the server has.
    pub(super) cores: u64,
    /// What is void is judged like anything else.
    pub(super) ignores_validity: bool,
}

/// What a suite as a whole is held against.
#[derive(Clone, Debug)]
pub struct Targets {
    /// Records per second, which some test has to reach.
    pub records_per_s: u64,
    /// Share of lines that may fail.
    pub error_rate: f64,
    /// The greatest share that failed, of the tests that count for it.
    pub achieved_error_rate: f64,
    /// The conditions on the whole.
    pub gates: Vec<Gate>,
    /// A gate that does not hold, or a void measurement, is no reason to end with a code.
    pub report_only: bool,
}

/// What a suite comes to: the gravest of what its tests and its gates come to.
pub fn conclude(tests: &[Test], targets: Targets, signal: Option<Signal>, remarks: Vec<String>) -> Verification {
    let Targets { records_per_s, error_rate, achieved_error_rate, gates, report_only } = targets;
    let best = tests.iter().map(|test| test.results.actual_rps).fold(0.0, f64::max);
    let own = if gates.iter().all(|gate| gate.pass) { Outcome::Pass } else { Outcome::Fail };
    let mut verdict = tests.iter().fold(own, |sum, test| sum.and(test.verdict));
    if signal.is_some() {
        verdict = verdict.and(Outcome::Interrupted);
    }
    let is_forgiven = report_only && matches!(verdict, Outcome::Fail | Outcome::Invalid);
    Verification {
        target_rps: records_per_s,
        achieved: best >= records_per_s as f64,
        best_rps: best.round() as u64,
        target_error_rate: error_rate,
        achieved_error_rate,
        pass: verdict == Outcome::Pass,
        gates,
        verdict,
        exit_code: if is_forgiven { 0 } else { verdict.code(signal) },
        remarks,
    }
}

/// Adds the gates, and the verdict.
pub(super) fn judge(plan: &Plan, test: &mut Test, standing: Standing) {
    let mut gates = of_all(test);
    gates.extend(match plan.promise {
        Promise::FewErrors => {
            vec![Gate::at_most("share of lines that failed", test.results.error_rate, ERROR_RATE_MAX)]
        }
        Promise::Objectives => of_objectives(test, standing.cores),
        Promise::NoCollapse { knee } => {
            vec![Gate::at_least("records/s, as a share of the knee", test.results.actual_rps / knee, GOODPUT_MIN)]
        }
    });
    test.verdict = verdict(test, &gates, standing);
    test.gates = gates;
}

/// What has to hold whatever is asked of the server, as far as it can be seen.
fn of_all(test: &Test) -> Vec<Gate> {
    let (results, resources) = (&test.results, &test.resources);
    let mut gates = vec![Gate::at_least("lines acknowledged", results.total_success as f64, 1.0)];
    if let Some(found) = &test.reconciliation {
        gates.push(Gate::at_most("lines lost, duplicated or changed", found.wrong() as f64, 0.0));
    }
    if let Some(exit) = &resources.exit {
        gates.push(Gate::at_most("unclean ends of the server", f64::from(u8::from(!exit.is_clean)), 0.0));
    }
    if let Some(server) = &resources.server {
        gates.push(Gate::at_most("samples of the server missed", server.missed as f64, 0.0));
        if let Some(limit) = resources.fd_limit {
            let share = server.peak(|row| row.fds as f64) / limit as f64;
            gates.push(Gate::at_most("descriptors, as a share of the soft limit", share, FD_SHARE_MAX));
        }
        if let Some(bound) = resources.memory_bound_bytes {
            let share = server.peak(|row| row.rss_bytes as f64) / bound as f64;
            gates.push(Gate::at_most("resident memory, as a share of the server's own bound", share, 1.0));
        }
    }
    gates
}

fn of_objectives(test: &Test, cores: u64) -> Vec<Gate> {
    let results = &test.results;
    let finished = (results.total_success + results.total_errors).max(1) as f64;
    let retryable: u64 =
        results.failures.iter().filter(|(code, _)| RETRYABLE.contains(&code.as_str())).map(|(_, count)| count).sum();
    let internal = results.total_errors - retryable;
    let mut gates = vec![
        Gate::at_most("p95 of the response, ms", results.latency_p95_ms, P95_MS_MAX),
        Gate::at_most("share of lines that failed", internal as f64 / finished, INTERNAL_ERRORS_MAX),
        Gate::at_most("share of lines refused for a while", retryable as f64 / finished, RETRYABLE_MAX),
    ];
    if let (Some(rate), Some(offered)) = (test.config.rate, results.offered_per_s) {
        gates.push(Gate::at_least("offered, as a share of the rate", offered / rate as f64, RATE_KEPT_MIN));
    }
    if let Some(ready) = test.resources.ready_s {
        gates.push(Gate::at_most("seconds until ready", ready, READY_S_MAX));
    }
    if test.resources.server.is_some() {
        let percent = test.resources.avg_cpu_percent / cores as f64;
        gates.push(Gate::at_most("processor time of the server, % of each of its cores", percent, CPU_PERCENT_MAX));
    }
    gates
}

fn verdict(test: &Test, gates: &[Gate], standing: Standing) -> Outcome {
    let is_dead = test.resources.exit.as_ref().is_some_and(|exit| !exit.is_clean);
    let is_void = !standing.ignores_validity && VOID.contains(&test.validity.verdict.as_str());
    match () {
        () if test.reconciliation.as_ref().is_some_and(|found| found.wrong() > 0) => Outcome::Loss,
        () if standing.signal.is_some() => Outcome::Interrupted,
        // That is no noise.
        () if is_dead => Outcome::Fail,
        () if is_void => Outcome::Invalid,
        () if gates.iter().all(|gate| gate.pass) => Outcome::Pass,
        () => Outcome::Fail,
    }
}

/// Verdicts of the generator under which its figures are partly its own, or somebody else's.
const VOID: [&str; 2] = ["generator_bound", "host_noise"];
/// Codes that ask for patience, and are no fault.
const RETRYABLE: [&str; 6] =
    ["overloaded", "storage_full", "storage_error", "circuit_open", "quota_exceeded", "shutting_down"];
const ERROR_RATE_MAX: f64 = 0.01;
const INTERNAL_ERRORS_MAX: f64 = 0.001;
const RETRYABLE_MAX: f64 = 0.01;
const P95_MS_MAX: f64 = 80.0;
const CPU_PERCENT_MAX: f64 = 70.0;
const FD_SHARE_MAX: f64 = 0.7;
const READY_S_MAX: f64 = 2.0;
const RATE_KEPT_MIN: f64 = 0.99;
const GOODPUT_MIN: f64 = 0.9;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Load;
    use crate::report::{Config, Exit, Reconciliation, Resources, Results, Validity};
    use crate::sampler::{Row, Usage};
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn plan(promise: Promise) -> Plan {
        let load = Load::open(10_000, Duration::from_secs(10), 50);
        Plan::new("planted", load, promise)
    }

    /// Everything at its limit.
    fn test() -> Test {
        let row = Row {
            t_s: 1.0,
            interval_s: 1.0,
            cpu_percent: 70.0,
            cpu_percent_by_thread: BTreeMap::new(),
            rss_bytes: 1000,
            pss_bytes: 1000,
            fds: 70,
            threads: 3,
            voluntary_switches: 0,
            involuntary_switches: 0,
        };
        let usage = Usage { pid: 1, rows: vec![row], ..Usage::default() };
        Test {
            name: "planted".into(),
            config: Config { rate: Some(10_000), ..Config::default() },
            results: Results {
                total_sent: 100_000,
                total_success: 98_900,
                total_errors: 1_100,
                error_rate: 0.01,
                failures: [("overloaded".to_owned(), 1_000), ("unanswered".to_owned(), 100)].into(),
                actual_rps: 9_000.0,
                offered_per_s: Some(9_900.0),
                latency_p95_ms: 80.0,
                ..Results::default()
            },
            resources: Resources {
                avg_cpu_percent: 70.0,
                ready_s: Some(2.0),
                memory_bound_bytes: Some(1000),
                fd_limit: Some(100),
                exit: Some(Exit { how: "exit status: 0".into(), is_clean: true }),
                server: Some(usage),
                ..Resources::default()
            },
            stages: Vec::new(),
            validity: Validity { verdict: "ok".into(), ..Validity::default() },
            reconciliation: Some(Reconciliation { acked: 98_900, stored: 98_900, ..Reconciliation::default() }),
            gates: Vec::new(),
            verdict: Outcome::Pass,
        }
    }

    const QUIET: Standing = Standing { signal: None, cores: 1, ignores_validity: false };
    const ALL: [Promise; 3] = [Promise::FewErrors, Promise::Objectives, Promise::NoCollapse { knee: 10_000.0 }];

    /// The verdict, and the gate that does not hold.
    fn judged(promise: Promise, plant: impl FnOnce(&mut Test)) -> (Outcome, Vec<String>) {
        let mut test = test();
        plant(&mut test);
        judge(&plan(promise), &mut test, QUIET);
        (test.verdict, test.gates.into_iter().filter(|gate| !gate.pass).map(|gate| gate.expr).collect())
    }

    #[test]
    fn at_the_limits_every_gate_holds() {
        for promise in ALL {
            assert_eq!(judged(promise, |_| {}), (Outcome::Pass, Vec::new()), "{promise:?}");
        }
    }

    #[test]
    fn past_a_limit_its_gate_and_no_other_turns_red() {
        let fails = |promise, expr: &str, plant: fn(&mut Test)| {
            let (verdict, failed) = judged(promise, plant);
            assert_eq!((verdict, failed.len()), (Outcome::Fail, 1), "{expr}: {failed:?}");
            assert!(failed[0].contains(expr), "{expr}: {failed:?}");
        };
        for promise in ALL {
            fails(promise, "descriptors", |test| test.resources.server.as_mut().unwrap().rows[0].fds = 71);
            fails(promise, "resident memory", |test| test.resources.server.as_mut().unwrap().rows[0].rss_bytes = 1001);
            fails(promise, "missed", |test| test.resources.server.as_mut().unwrap().missed = 1);
            fails(promise, "unclean", |test| test.resources.exit.as_mut().unwrap().is_clean = false);
        }
        fails(Promise::FewErrors, "failed", |test| test.results.error_rate = 0.0101);
        fails(Promise::Objectives, "seconds until ready", |test| test.resources.ready_s = Some(2.1));
        fails(Promise::Objectives, "p95", |test| test.results.latency_p95_ms = 80.1);
        fails(Promise::Objectives, "processor", |test| test.resources.avg_cpu_percent = 70.1);
        fails(Promise::Objectives, "offered", |test| test.results.offered_per_s = Some(9_899.0));
        fails(Promise::Objectives, "failed", |test| {
            test.results.failures.insert("unanswered".into(), 101);
            (test.results.total_success, test.results.total_errors) = (98_899, 1_101);
        });
        fails(Promise::Objectives, "refused for a while", |test| {
            test.results.failures.insert("overloaded".into(), 1_001);
            (test.results.total_success, test.results.total_errors) = (98_899, 1_101);
        });
        fails(ALL[2], "knee", |test| test.results.actual_rps = 8_999.0);
    }

    #[test]
    fn a_server_that_answers_nothing_does_not_pass_for_one_without_errors() {
        let silent = |test: &mut Test| {
            (test.results.total_success, test.results.total_errors, test.results.error_rate) = (0, 0, 0.0);
            test.results.failures.clear();
        };
        assert_eq!(judged(Promise::FewErrors, silent).0, Outcome::Fail);
    }

    #[test]
    fn a_loss_is_one_however_noisy_the_machine_and_noise_voids_the_rest() {
        fn noise(test: &mut Test) {
            test.validity.verdict = "host_noise".into();
        }
        assert_eq!(judged(Promise::FewErrors, noise).0, Outcome::Invalid);
        let both = |test: &mut Test| {
            noise(test);
            test.reconciliation.as_mut().unwrap().lost = 1;
        };
        assert_eq!(judged(Promise::FewErrors, both).0, Outcome::Loss);
        let dead = |test: &mut Test| {
            noise(test);
            test.resources.exit.as_mut().unwrap().is_clean = false;
        };
        assert_eq!(judged(Promise::FewErrors, dead).0, Outcome::Fail);
        let bound = |test: &mut Test| test.validity.verdict = "server_bound".into();
        assert_eq!(judged(Promise::FewErrors, bound).0, Outcome::Pass, "that is a figure of the server's");
        let verdict = |plant: fn(&mut Test), standing| {
            let mut test = test();
            plant(&mut test);
            judge(&plan(Promise::FewErrors), &mut test, standing);
            test.verdict
        };
        let interrupted = Standing { signal: Some(Signal::Interrupt), ..QUIET };
        assert_eq!(verdict(|_| {}, interrupted), Outcome::Interrupted);
        assert_eq!(verdict(noise, Standing { ignores_validity: true, ..QUIET }), Outcome::Pass);
    }

    #[test]
    fn a_suite_is_as_grave_as_the_gravest_of_it_and_only_some_of_that_is_forgiven() {
        let concluded = |verdicts: &[Outcome], bound: f64, report_only: bool, signal| {
            let tests: Vec<Test> = verdicts.iter().map(|verdict| Test { verdict: *verdict, ..test() }).collect();
            let targets = Targets {
                records_per_s: 9_000,
                error_rate: 0.01,
                achieved_error_rate: 0.02,
                gates: vec![Gate::at_most("share of lines that failed", 0.02, bound)],
                report_only,
            };
            let found = conclude(&tests, targets, signal, Vec::new());
            assert_eq!((found.achieved, found.best_rps), (!tests.is_empty(), if tests.is_empty() { 0 } else { 9_000 }));
            assert_eq!(found.pass, found.verdict == Outcome::Pass);
            (found.verdict, found.exit_code)
        };
        use Outcome::{Fail, Interrupted, Invalid, Loss, Pass};
        let stopped = Some(Signal::Terminate);
        assert_eq!(concluded(&[Pass, Pass], 0.02, false, None), (Pass, 0));
        assert_eq!(concluded(&[Pass, Pass], 0.01, false, None), (Fail, 3), "the gate on the whole");
        assert_eq!(concluded(&[Pass, Invalid], 0.02, false, None), (Invalid, 4));
        assert_eq!(concluded(&[], 0.02, false, stopped), (Interrupted, 143), "before the first test was over");
        for (verdicts, signal, told) in [
            (&[Fail, Invalid][..], None, (Fail, 0)),
            (&[Loss, Pass], None, (Loss, 5)),
            (&[Pass], stopped, (Interrupted, 143)),
            (&[Loss], stopped, (Loss, 5)),
        ] {
            assert_eq!(
                concluded(verdicts, 0.02, true, signal),
                told,
                "forgiven is what does not hold and what is void"
            );
        }
    }
}
