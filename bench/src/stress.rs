//! Stress: users who come one after another and stay, each with one line in flight, as Locust's users do.
//!
//! Every second some more come, in a generator of their own, until all are there; then they are held. What the generators
//! measured is added up by the clock of the whole: counts and histograms, never percentiles.

use crate::cli::Stress;
use crate::load::Load;
use crate::report::{Gate, Report, Test};
use crate::suite::{Plan, Promise, Suite, Targets, conclude};
use ringest_loadgen::latency::Spread;
use ringest_loadgen::records::locust::{Counts, Files, Moment, Whole};
use std::io;
use std::time::{Duration, SystemTime};

/// Lets them come, and says how it went.
///
/// # Errors
/// Something that is needed is not to be had.
pub fn run(task: &Stress) -> io::Result<Report> {
    let csv = task.csv.as_deref().map(Files::open).transpose().map_err(io::Error::other)?;
    let mut suite = Suite::new("stress", &task.place, &task.elsewhere)?;
    let began = SystemTime::now();
    let plan = plan(task);
    let (test, signal) = suite.measure(&plan)?;
    eprintln!("{}", crate::tiers::line(&test));
    if let Some(files) = csv {
        put_csv(files, &test, began, &plan.groups).map_err(io::Error::other)?;
    }
    let results = &test.results;
    let gates = vec![
        Gate::at_least("records/s", results.actual_rps, TARGET_RPS as f64),
        Gate::at_most("share of lines that failed", results.error_rate, ERROR_RATE_MAX),
    ];
    let targets = Targets {
        records_per_s: TARGET_RPS,
        error_rate: ERROR_RATE_MAX,
        achieved_error_rate: results.error_rate,
        gates,
        report_only: task.results.report_only,
    };
    let tests = vec![test];
    let verification = conclude(&tests, targets, signal, Vec::new());
    Ok(suite.report(tests, verification))
}

fn plan(task: &Stress) -> Plan {
    let groups = groups(task.users, task.spawn_rate);
    let coming = groups.last().map_or(Duration::ZERO, |(at, _)| *at);
    let load = Load {
        in_sessions: task.sessions,
        record_size: task.record_size,
        seed: task.seed,
        ..Load::closed(None, coming + task.hold, task.users)
    };
    Plan { name: format!("stress_{}", task.users), load, of_knee: None, promise: Promise::FewErrors, groups }
}

/// When how many come: so many each second, and what is left in the last.
fn groups(users: u64, per_second: u64) -> Vec<(Duration, u64)> {
    let seconds = users.div_ceil(per_second);
    (0..seconds).map(|at| (Duration::from_secs(at), per_second.min(users - at * per_second))).collect()
}

/// How many are there.
fn users_at(groups: &[(Duration, u64)], at_s: f64) -> u64 {
    groups.iter().filter(|(from, _)| from.as_secs_f64() < at_s).map(|(_, users)| users).sum()
}

/// Locust's files of a crowd that grows. Percentiles of a second are those of its histogram, whose buckets are an eighth of
/// an octave wide; those of the whole are exact to three digits.
fn put_csv(mut files: Files, test: &Test, began: SystemTime, groups: &[(Duration, u64)]) -> Result<(), String> {
    let mut told = Ok(());
    for second in &test.results.series {
        let end_s = second.start_s + second.length_s;
        told = told.and(files.see(&Moment {
            end: began + Duration::from_secs_f64(end_s),
            length_s: second.length_s,
            users: users_at(groups, end_s),
            counts: Counts { finished: second.acked + second.failed, failed: second.failed, bytes: second.bytes },
            response: &Spread::of(&second.response_counts),
            is_counted: true,
        }));
    }
    let results = &test.results;
    told.and(files.finish(&[Whole {
        carrier: "TCP",
        name: test.config.mode.clone(),
        counts: Counts {
            finished: results.total_success + results.total_errors,
            failed: results.total_errors,
            bytes: results.total_bytes,
        },
        response: Spread::of(&results.response_ns_counts),
        span_s: results.duration_secs,
        failures: results.failures.clone(),
    }]))
}

const TARGET_RPS: u64 = 1_000;
const ERROR_RATE_MAX: f64 = 0.01;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_come_at_their_rate_and_the_last_second_takes_the_rest() {
        let users = |groups: &[(Duration, u64)]| groups.iter().map(|(_, users)| *users).collect::<Vec<_>>();
        assert_eq!(users(&groups(2_000, 200)), [200; 10]);
        assert_eq!(users(&groups(450, 200)), [200, 200, 50]);
        assert_eq!(users(&groups(50, 200)), [50]);
        let groups = groups(450, 200);
        assert_eq!([0.5, 1.0, 1.5, 2.5, 90.0].map(|at| users_at(&groups, at)), [200, 200, 400, 450, 450]);
    }
}
