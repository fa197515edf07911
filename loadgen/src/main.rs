//! The load generator's command: parse, run or reconcile, say what came of it, end with a code that means it.

use ringest_loadgen::cli::{self, Cli, Command, Merge, Reconcile, Sink};
use ringest_loadgen::config::Config;
use ringest_loadgen::diff::Diff;
use ringest_loadgen::io::Engine;
use ringest_loadgen::knee::{self, Probe, Searched};
use ringest_loadgen::ledger::Ledger;
use ringest_loadgen::merge::merge;
use ringest_loadgen::output::{Output, is_stdout};
use ringest_loadgen::reconcile::{Reconciler, Said};
use ringest_loadgen::records::{Records, json_bytes};
use ringest_loadgen::report::Report;
use ringest_loadgen::run::run;
use ringest_loadgen::screen::Screen;
use ringest_loadgen::sink::{self, Known};
use ringest_loadgen::timeline::Second;
use ringest_loadgen::validity::Verdict;
use ringest_sys::signal::{Signal, Signals};
use ringest_sys::{cpu, net};
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

const COULD_NOT_RUN: u8 = 1;
const USAGE: u8 = 2;
const GATE_BREACHED: u8 = 3;
const INVALID: u8 = 4;
const LINES_WRONG: u8 = 5;

fn main() -> ExitCode {
    let cli = Cli::from_command_line();
    let outcome = match &cli.command {
        Some(Command::Reconcile(what)) => reconcile(what),
        Some(Command::Sink(place)) => serve_sink(place).map(|()| 0),
        Some(Command::Merge(what)) => merge_reports(what),
        Some(Command::Diff(what)) => diff_reports(what).map(|()| 0),
        None => match Config::resolve(&cli.run) {
            Ok(config) if config.find_max => find_max(&config),
            Ok(config) => send(&config),
            Err(why) => Err((USAGE, why)),
        },
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err((code, why)) => {
            say(&why);
            ExitCode::from(code)
        }
    }
}

fn send(config: &Config) -> Result<u8, (u8, String)> {
    let could_not = |why| (COULD_NOT_RUN, why);
    if let Some(path) = &config.ledger {
        Ledger::check_place(path).map_err(|error| could_not(error.to_string()))?;
    }
    let signals = Signals::new().map_err(|error| could_not(format!("cannot listen for signals: {error}")))?;
    let mut records = Records::open(config).map_err(could_not)?;
    let (engine, regret) = Engine::choose(config.io).map_err(could_not)?;
    regret.iter().filter(|_| !config.quiet).for_each(|regret| say(regret));
    let finished = {
        let mut screen = Screen::open(config);
        let mut see = |second: &Second| {
            records.see(second);
            screen.see(second);
        };
        run(config, engine, &signals, &mut see).map_err(could_not)?
    };
    finished.report.verification.complaints.iter().for_each(|complaint| say(complaint));
    let saved = config.ledger.as_deref().map_or(Ok(()), |path| finished.ledger.save(path));
    let written = records.finish(&finished.report);
    let code = code(&finished.report, finished.signal);
    if code == COULD_NOT_RUN {
        say("no line was answered; is that a Ringest server, and does it make progress?");
    }
    let mut printed = Ok(());
    if !config.quiet {
        let is_taken = config.places.all().iter().any(|(_, path)| is_stdout(path));
        printed = finished.report.tests.iter().try_for_each(|test| print(test, is_taken));
    }
    // What was measured is told by all the others, whichever of them could not be written.
    let failed = [saved.map_err(|error| error.to_string()), written, printed].into_iter().filter_map(Result::err);
    all_well(failed.collect()).map(|()| code)
}

/// Nothing went wrong, or everything that did.
fn all_well(failed: Vec<String>) -> Result<(), (u8, String)> {
    if failed.is_empty() { Ok(()) } else { Err((COULD_NOT_RUN, failed.join("; "))) }
}

/// What is for people goes to standard output, unless that is taken. That nobody reads it any more is no failure.
fn print(what: &impl fmt::Display, is_taken: bool) -> Result<(), String> {
    if is_taken {
        say_plainly(&what.to_string());
        return Ok(());
    }
    match writeln!(io::stdout(), "{what}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to standard output: {error}"))
        }
        _ => Ok(()),
    }
}

/// A sentence on standard error.
fn say(sentence: &str) {
    say_plainly(&format!("ringest-loadgen: {sentence}"));
}

/// A line on standard error. A reader that is gone must not end a run, as `eprintln!` would.
fn say_plainly(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

fn code(report: &Report, signal: Option<Signal>) -> u8 {
    let results = report.tests.iter().map(|test| &test.results);
    let tests = &report.tests;
    let breached = |of_latency| {
        let gates = tests.iter().flat_map(|test| &test.gates);
        gates.into_iter().any(|gate| !gate.pass && gate.is_of_latency() == of_latency)
    };
    match signal {
        Some(signal) => interrupted(signal),
        None if breached(false) => GATE_BREACHED,
        // Every connection ended before a single line was answered.
        None if results.clone().all(|results| results.acked + results.refused_as_meant + results.sent == 0) => {
            COULD_NOT_RUN
        }
        None if !tests.iter().all(|test| test.validity.holds()) => INVALID,
        None if breached(true) => GATE_BREACHED,
        None => 0,
    }
}

fn interrupted(signal: Signal) -> u8 {
    match signal {
        Signal::Interrupt => 130,
        Signal::Terminate => 143,
        Signal::Hangup => 129,
    }
}

/// Searches for the highest rate that keeps a promise.
fn find_max(config: &Config) -> Result<u8, (u8, String)> {
    let could_not = |why| (COULD_NOT_RUN, why);
    let signals = Signals::new().map_err(|error| could_not(format!("cannot listen for signals: {error}")))?;
    let records = Records::open(config).map_err(could_not)?;
    let (engine, regret) = Engine::choose(config.io).map_err(could_not)?;
    regret.iter().filter(|_| !config.quiet).for_each(|regret| say(regret));
    let mut tell = |probe: &Probe| {
        if !config.quiet {
            say_plainly(&probe.to_string());
        }
    };
    let Searched { report, signal, trouble } = knee::find(config, engine, &signals, &mut tell).map_err(could_not)?;
    let written = records.finish(&report);
    let knee = report.find_max.unwrap_or_default();
    let mut printed = Ok(());
    if !config.quiet {
        printed = print(&knee, config.places.all().iter().any(|(_, path)| is_stdout(path)));
    }
    all_well(trouble.into_iter().chain([written, printed].into_iter().filter_map(Result::err)).collect())?;
    let is_void =
        [Verdict::GeneratorBound, Verdict::HostNoise].map(Verdict::as_str).contains(&knee.limited_by.as_str());
    Ok(match signal {
        Some(signal) => interrupted(signal),
        None if is_void => INVALID,
        None if knee.rate.is_none() => GATE_BREACHED,
        None => 0,
    })
}

fn reconcile(what: &Reconcile) -> Result<u8, (u8, String)> {
    let could_not = |why: String| (COULD_NOT_RUN, why);
    let ledgers: Vec<Ledger> =
        what.ledger.iter().map(|path| Ledger::load(path)).collect::<Result<_, _>>().map_err(could_not)?;
    let said = Said { kernel_drops: what.kernel_drops, refused: what.refused };
    let mut reconciler = Reconciler::new(&ledgers, said).map_err(could_not)?;
    if what.records.is_empty() {
        let stored = BufReader::with_capacity(READ_LEN, io::stdin().lock());
        reconciler.read(stored).map_err(|error| could_not(format!("cannot read standard input: {error}")))?;
    }
    for path in &what.records {
        let cannot_read = |error: io::Error| could_not(format!("cannot read {}: {error}", path.display()));
        let file = File::open(path).map_err(cannot_read)?;
        reconciler.read(BufReader::with_capacity(READ_LEN, file)).map_err(cannot_read)?;
    }
    let findings = reconciler.finish();
    if let Some(path) = &what.json {
        Output::open(path).and_then(|mut json| json.append(&json_bytes(&findings))).map_err(could_not)?;
    }
    print(&findings, what.json.as_deref().is_some_and(is_stdout)).map_err(could_not)?;
    Ok(if findings.pass() { 0 } else { LINES_WRONG })
}

/// The code is that of a run that would have measured all of it.
fn merge_reports(what: &Merge) -> Result<u8, (u8, String)> {
    let could_not = |why: String| (COULD_NOT_RUN, why);
    let reports: Result<Vec<Report>, String> = what.reports.iter().map(|path| Report::load(path)).collect();
    let merged = merge(&reports.map_err(could_not)?).map_err(could_not)?;
    if let Some(path) = &what.json {
        Output::open(path).and_then(|mut json| json.append(&json_bytes(&merged))).map_err(could_not)?;
    }
    for test in &merged.tests {
        print(test, what.json.as_deref().is_some_and(is_stdout)).map_err(could_not)?;
    }
    Ok(code(&merged, None))
}

fn diff_reports(what: &cli::Diff) -> Result<(), (u8, String)> {
    let load = |path| Report::load(path).map_err(|why| (COULD_NOT_RUN, why));
    let (one, two) = (load(&what.one)?, load(&what.two)?);
    let diff = Diff::new(&one, &two).map_err(|why| (COULD_NOT_RUN, why))?;
    print(&diff, false).map_err(|why| (COULD_NOT_RUN, why))
}

fn serve_sink(place: &Sink) -> Result<(), (u8, String)> {
    let could_not = |why: String| (COULD_NOT_RUN, why);
    if let Some(cpu) = place.cpu {
        cpu::pin_current(cpu).map_err(|error| could_not(error.to_string()))?;
    }
    let (engine, regret) = Engine::choose(place.io).map_err(could_not)?;
    regret.iter().for_each(|regret| say(regret));
    let serve = |listener: TcpListener| {
        writeln!(io::stdout(), "{}", listener.local_addr()?)?;
        sink::Sink::new(engine, listener, Known::default())?.serve(&AtomicBool::new(false))
    };
    net::listen(place.listen, BACKLOG)
        .and_then(serve)
        .map_err(|error| could_not(format!("cannot serve on {}: {error}", place.listen)))
}

const READ_LEN: usize = 1 << 20;
/// Sessions that connect at once, and some.
const BACKLOG: i32 = 4096;
