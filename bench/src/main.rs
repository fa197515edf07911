//! The command line of the bench. It counts allocations, which only a binary can.

use clap::Parser;
use ringest_bench::cli::{Cli, Command};
use ringest_bench::{flood, floor, micro, one_core};
use serde::Serialize;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
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

/// Memory asked for so far, for the first time or more of it.
fn allocations() -> u64 {
    let stats = ALLOCATOR.stats();
    (stats.allocations + stats.reallocations) as u64
}

fn put_json(path: Option<&Path>, report: &impl Serialize) -> io::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string(report).map_err(io::Error::other)?;
    if path == Path::new("-") {
        println!("{text}");
        return Ok(());
    }
    std::fs::write(path, text + "\n")
        .map_err(|error| io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display())))
}

const COULD_NOT_RUN: u8 = 1;
const BOUND_MISSED: u8 = 3;
