//! The command line of the bench. It counts allocations, which only a binary can.

use clap::Parser;
use ringest_bench::cli::{self, Cli, Command, Results};
use ringest_bench::compare::paired::Verdict;
use ringest_bench::outcome::Outcome;
use ringest_bench::report::Report;
use ringest_bench::soak::{judge, lookup, summary, watch};
use ringest_bench::{compare, flood, floor, gate, micro, one_core, page, stress, tiers};
use ringest_loadgen::output::{Output, is_stdout};
use serde::Serialize;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ringest-bench: {error}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

fn run(command: Command) -> io::Result<ExitCode> {
    match command {
        Command::Tiers(task) => {
            let results = task.results.clone();
            suite(&results, || tiers::run(&task))
        }
        Command::Stress(task) => {
            let results = task.results.clone();
            suite(&results, || stress::run(&task))
        }
        Command::Gate(task) => {
            let results = task.results.clone();
            suite(&results, || gate::run(&task))
        }
        Command::Compare(task) => {
            let files = Files::open(task.json.as_deref(), task.html.as_deref())?;
            let (session, signal) = compare::run(&task)?;
            files.put_text(&session);
            files.put(&session, || page::of_session(&session))?;
            Ok(ExitCode::from(match signal {
                Some(_) => Outcome::Interrupted.code(signal),
                None if task.fail_if_slower && session.verdict == Verdict::Slower => BOUND_MISSED,
                None => 0,
            }))
        }
        Command::Soak(task) => soak(&task),
        Command::Page(task) => {
            let page = page::of_json(&task.report)?;
            put(Some(open(&task.html)?), &page)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Micro(task) => {
            let files = Files::open(task.json.as_deref(), None)?;
            let report = micro::run(&task, allocations)?;
            files.put_text(&report);
            let passes = report.faults().is_empty();
            files.put(&report, no_page)?;
            Ok(if passes { ExitCode::SUCCESS } else { ExitCode::from(BOUND_MISSED) })
        }
        Command::Floor(task) => {
            let report = floor::run(&task)?;
            Files::open(Some(Path::new("-")), None)?.put(&report, no_page)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Flood(task) => {
            let report = flood::run(&task)?;
            Files::open(Some(Path::new("-")), None)?.put(&report, no_page)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::OneCore(task) => {
            let files = Files::open(task.json.as_deref(), None)?;
            let report = one_core::run(&task)?;
            files.put_text(&report);
            files.put(&report, no_page)?;
            let passes = task.report_only || report.is_kept();
            Ok(if passes { ExitCode::SUCCESS } else { ExitCode::from(BOUND_MISSED) })
        }
    }
}

/// A part of a soak.
fn soak(task: &cli::Soak) -> io::Result<ExitCode> {
    let code = match task {
        cli::Soak::Watch(task) => {
            if watch::run(task)? {
                0
            } else {
                BOUND_MISSED
            }
        }
        cli::Soak::Judge(task) => {
            let verdict = judge::run(task)?;
            println!("{verdict}");
            verdict.verdict.code(None)
        }
        cli::Soak::Summary(task) => {
            let soak = summary::run(task)?;
            for scenario in &soak.scenarios {
                println!("{:11} {}", scenario.verdict.as_str().to_uppercase(), scenario.scenario);
            }
            println!("soak: {}; {}", soak.verdict, task.dir.join("report.html").display());
            soak.verdict.code(None)
        }
        cli::Soak::Look(task) => {
            println!("{}", lookup::run(&task.source, &task.pointer)?);
            0
        }
    };
    Ok(ExitCode::from(code))
}

/// Runs a suite, and leaves its report where it was asked for.
fn suite(results: &Results, run: impl FnOnce() -> io::Result<Report>) -> io::Result<ExitCode> {
    let files = Files::open(results.json.as_deref(), results.html.as_deref())?;
    let report = run()?;
    let verification = &report.verification;
    verification.remarks.iter().for_each(|remark| eprintln!("{remark}"));
    eprintln!("{}: {}", report.suite, verification.verdict);
    files.put(&report, || page::of_report(&report))?;
    Ok(ExitCode::from(verification.exit_code))
}

/// Memory asked for so far, for the first time or more of it.
fn allocations() -> u64 {
    let stats = ALLOCATOR.stats();
    (stats.allocations + stats.reallocations) as u64
}

/// Where results go: opened before minutes of measuring, since what cannot be written is better known then than after.
struct Files {
    json: Option<Output>,
    html: Option<Output>,
    /// Standard output is one of them, and for nothing else.
    is_taken: bool,
}

impl Files {
    fn open(json: Option<&Path>, html: Option<&Path>) -> io::Result<Files> {
        if let (Some(json), Some(html)) = (json, html)
            && json == html
        {
            let why = format!("--json and --html both go to {}; name another place for one of them", json.display());
            return Err(io::Error::other(why));
        }
        let is_taken = [json, html].into_iter().flatten().any(is_stdout);
        Ok(Files { json: json.map(open).transpose()?, html: html.map(open).transpose()?, is_taken })
    }

    /// What is for people goes to standard output, unless that is taken.
    fn put_text(&self, text: &impl fmt::Display) {
        let text = text.to_string();
        let text = text.trim_end();
        if self.is_taken { eprintln!("{text}") } else { println!("{text}") }
    }

    /// One that cannot be written keeps the other from nothing.
    fn put(self, report: &impl Serialize, page: impl FnOnce() -> io::Result<String>) -> io::Result<()> {
        let Files { json, html, .. } = self;
        let text = serde_json::to_string(report).map_err(io::Error::other).map(|text| text + "\n");
        let written = text.and_then(|text| put(json, &text));
        let drawn = if html.is_some() { page().and_then(|page| put(html, &page)) } else { Ok(()) };
        written.and(drawn)
    }
}

fn no_page() -> io::Result<String> {
    unreachable!("no place for a page was named")
}

fn open(path: &Path) -> io::Result<Output> {
    Output::open(path).map_err(io::Error::other)
}

fn put(output: Option<Output>, text: &str) -> io::Result<()> {
    output.map_or(Ok(()), |mut output| output.append(text.as_bytes())).map_err(io::Error::other)
}

const COULD_NOT_RUN: u8 = 1;
const BOUND_MISSED: u8 = 3;
