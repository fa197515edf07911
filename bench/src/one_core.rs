//! The server on one core, the generator on another, and the floor between them: who costs what, in one run.
//!
//! All cases run once per round, in an order that the seed shuffles anew for each, so that a noisy minute hits all alike;
//! ratios are taken within a round. Each case has a process and a scratch directory of its own, removed afterwards. The
//! bill is that of the server's process, all threads and kernel workers included, over a window in the middle of the
//! load. Every line sent in that load must have been answered, or the case fails.

mod case;
mod process;
mod report;
mod verdict;

use crate::cli::OneCore;
use crate::lines::Draw;
use crate::process::scratch_parent;
use case::Case;
use ringest_sys::cpu;
use std::io;

pub use report::{Report, Row};
pub use verdict::Verdict;

/// Runs all rounds.
///
/// # Errors
/// A processor or the directory was refused, a process did not start or stop as it should, or a line had no answer.
pub fn run(task: &OneCore) -> io::Result<Report> {
    let cpus = cpu::allowed().map_err(io::Error::other)?;
    for cpu in [task.server_cpu, task.generator_cpu] {
        if !cpus.as_slice().contains(&cpu) {
            return Err(io::Error::other(format!("processor {cpu} may not be used here; those that may are {cpus}")));
        }
    }
    if task.server_cpu == task.generator_cpu {
        return Err(io::Error::other("server and generator need a processor each"));
    }
    // This thread is the generator of most cases, and the parent of the other.
    cpu::pin_current(task.generator_cpu).map_err(io::Error::other)?;

    let dir = scratch_parent(task.dir.as_deref())?;
    let cases: Vec<Case> = Case::all().into_iter().filter(|case| is_asked_for(case, &task.only)).collect();
    let mut report = Report::new(task, &dir, &cases);
    let mut draw = Draw(task.seed);
    for round in 1..=task.rounds {
        let mut order: Vec<usize> = (0..cases.len()).collect();
        draw.shuffle(&mut order);
        for at in order {
            eprint!("\rround {round} of {}: {:<34}", task.rounds, cases[at].to_string());
            let sample = cases[at]
                .run(task, &dir)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", cases[at])))?;
            report.rows[at].add(sample);
        }
    }
    eprintln!("\r{:<60}", "");
    report.judge();
    Ok(report)
}

fn is_asked_for(case: &Case, only: &[String]) -> bool {
    let name = case.to_string();
    only.is_empty() || only.iter().any(|part| name.contains(part.as_str()))
}
