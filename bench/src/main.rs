//! The command line of the bench. It counts allocations, which only a binary can.

use clap::Parser;
use ringest_bench::cli::{self, Cli, Command, Results};
use ringest_bench::compare::paired::Verdict;
use ringest_bench::outcome::Outcome;
use ringest_bench::report::Report;
use ringest_bench::soak::{judge, lookup, summary, watch};
use ringest_bench::{compare, flood, floor, gate, micro, one_core, page, stress, tiers};
use serde::Serialize;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
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
            check_place(task.json.as_deref())?;
            check_place(task.html.as_deref())?;
            let (session, signal) = compare::run(&task)?;
            put_text(task.json.as_deref(), &session);
            put_json(task.json.as_deref(), &session)?;
            if let Some(path) = &task.html {
                put(path, &page::of_session(&session)?)?;
            }
            Ok(ExitCode::from(match signal {
                Some(_) => Outcome::Interrupted.code(signal),
                None if task.fail_if_slower && session.verdict == Verdict::Slower => BOUND_MISSED,
                None => 0,
            }))
        }
        Command::Soak(task) => soak(&task),
        Command::Page(task) => {
            put(&task.html, &page::of_json(&task.report)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Micro(task) => {
            let report = micro::run(&task, allocations)?;
            print!("{}", report.table());
            put_json(task.json.as_deref(), &report)?;
            let faults = report.faults();
            if !faults.is_empty() {
                println!("FAIL: allocates per record: {}", faults.join(" "));
                return Ok(ExitCode::from(BOUND_MISSED));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Floor(task) => {
            let report = floor::run(&task)?;
            put_json(Some(Path::new("-")), &report)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Flood(task) => {
            let report = flood::run(&task)?;
            put_json(Some(Path::new("-")), &report)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::OneCore(task) => {
            let report = one_core::run(&task)?;
            print!("{report}");
            put_json(task.json.as_deref(), &report)?;
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
    check_place(results.json.as_deref())?;
    check_place(results.html.as_deref())?;
    let report = run()?;
    put_json(results.json.as_deref(), &report)?;
    if let Some(path) = &results.html {
        put(path, &page::of_report(&report)?)?;
    }
    let verification = &report.verification;
    verification.remarks.iter().for_each(|remark| eprintln!("{remark}"));
    eprintln!("{}: {}", report.suite, verification.verdict);
    Ok(ExitCode::from(verification.exit_code))
}

/// Memory asked for so far, for the first time or more of it.
fn allocations() -> u64 {
    let stats = ALLOCATOR.stats();
    (stats.allocations + stats.reallocations) as u64
}

/// What is for people goes to standard output, unless the JSON does.
fn put_text(json: Option<&Path>, text: &impl fmt::Display) {
    if json == Some(Path::new("-")) {
        eprintln!("{text}");
    } else {
        println!("{text}");
    }
}

fn put_json(path: Option<&Path>, report: &impl Serialize) -> io::Result<()> {
    let Some(path) = path else { return Ok(()) };
    put(path, &(serde_json::to_string(report).map_err(io::Error::other)? + "\n"))
}

fn put(path: &Path, text: &str) -> io::Result<()> {
    if path == Path::new("-") {
        return io::stdout().write_all(text.as_bytes());
    }
    std::fs::write(path, text)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display())))
}

/// What cannot be written is better known before minutes of measuring than after.
fn check_place(path: Option<&Path>) -> io::Result<()> {
    match path {
        Some(path) if path != Path::new("-") => OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map(drop)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()))),
        Some(_) | None => Ok(()),
    }
}

const COULD_NOT_RUN: u8 = 1;
const BOUND_MISSED: u8 = 3;
