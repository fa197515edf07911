//! The generator as a process: started, watched, interrupted when we are, its report read.

use crate::process::{Launch, Process};
use crate::report::Second;
use ringest_loadgen::report::{Report, Test};
use ringest_sys::cpu::CpuList;
use ringest_sys::signal::{Signal, Signals};
use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// Lines at most.
    pub total: Option<u64>,
    /// For so long at most.
    pub duration: Duration,
    /// Connections.
    pub connections: u64,
    /// Lines per second; `None` is a closed loop.
    pub rate: Option<u64>,
    /// Lines unanswered per connection, in a closed loop.
    pub pipeline: u64,
    /// Lines per send at most.
    pub batch: u64,
    /// Whether lines are numbered and acknowledged, or answered one by one.
    pub in_sessions: bool,
    /// What acknowledgements of sessions are to promise; none leaves it to the server.
    pub ack: Option<String>,
    /// Mean length of a line.
    pub record_size: u64,
    /// Of the lines.
    pub seed: u64,
    /// Whether what is acknowledged is written down, to be compared with what is stored.
    pub keeps_ledger: bool,
    /// Whether every second is written down.
    pub keeps_series: bool,
    /// More of the generator's flags.
    pub extra: Vec<OsString>,
    /// How long it may take beyond its duration.
    pub patience: Duration,
}

/// A run of the generator.
#[derive(Debug)]
pub struct Loaded {
    /// Its code; none where a signal ended it.
    pub code: Option<i32>,
    /// What it measured, where it got so far.
    pub report: Option<Report>,
    /// The highest rate that kept the promise, where that was searched for and found.
    pub rate_max: Option<u64>,
    /// Second by second.
    pub series: Vec<Second>,
    /// The ledger, where one was kept.
    pub ledger: Option<PathBuf>,
    /// The last lines that it said.
    pub said: Vec<String>,
    /// The signal that we were sent meanwhile.
    pub signal: Option<Signal>,
}

impl Load {
    /// One line in flight on each connection, as the first design sent them.
    pub fn closed(total: Option<u64>, duration: Duration, connections: u64) -> Load {
        Load {
            total,
            duration,
            connections,
            rate: None,
            pipeline: 1,
            batch: 1,
            in_sessions: false,
            ack: None,
            record_size: crate::lines::FLAT_LEN as u64,
            seed: 1,
            keeps_ledger: true,
            keeps_series: true,
            extra: Vec::new(),
            patience: PATIENCE,
        }
    }

    /// Durable sessions at a rate.
    pub fn open(rate: u64, duration: Duration, connections: u64) -> Load {
        Load {
            rate: Some(rate),
            in_sessions: true,
            ack: Some("durable".into()),
            batch: 100,
            ..Load::closed(None, duration, connections)
        }
    }

    fn args(&self, to: SocketAddr, cpus: Option<&CpuList>, dir: &Path) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        let mut add = |flag: &str, value: &str| args.extend([flag, value].map(OsString::from));
        add("--host", &to.ip().to_string());
        add("--port", &to.port().to_string());
        add("--connections", &self.connections.to_string());
        add("--duration", &format!("{}us", self.duration.as_micros()));
        add("--total-logs", &self.total.unwrap_or(0).to_string());
        add("--batch", &self.batch.to_string());
        add("--record-size", &self.record_size.to_string());
        add("--seed", &self.seed.to_string());
        add("--mode", if self.in_sessions { "session" } else { "plain" });
        match self.rate {
            Some(rate) => add("--rate", &rate.to_string()),
            None => add("--pipeline", &self.pipeline.to_string()),
        }
        if let Some(ack) = self.ack.as_deref().filter(|_| self.in_sessions) {
            add("--ack", ack);
        }
        if let Some(cpus) = cpus {
            add("--cpu-list", &cpus.to_string());
        }
        add("--json", &dir.join(REPORT).to_string_lossy());
        if self.keeps_series {
            add("--series", &dir.join(SERIES).to_string_lossy());
        }
        if self.keeps_ledger {
            add("--ledger", &dir.join(LEDGER).to_string_lossy());
        }
        if self.rate.is_none() {
            args.push("--closed".into());
        }
        args.push("--quiet".into());
        args.extend(self.extra.iter().cloned());
        args
    }

    /// Starts to send it.
    ///
    /// # Errors
    /// The generator cannot be started.
    pub fn begin(&self, program: &Path, to: SocketAddr, cpus: Option<&CpuList>, dir: &Path) -> io::Result<Running> {
        // What an earlier run in this directory has left is none of this one's.
        for name in [REPORT, SERIES, LEDGER] {
            let _ = fs::remove_file(dir.join(name));
        }
        let process = Process::start(&Launch::new(program, self.args(to, cpus, dir)), dir)?;
        Ok(Running { process, dir: dir.to_owned(), until: Instant::now() + self.duration + self.patience, code: None })
    }

    /// Sends it, to its end or until a signal comes. `begun` is told the generator's process, once it runs.
    ///
    /// # Errors
    /// The generator cannot be started, does not end, or leaves something unreadable.
    pub fn send(
        &self,
        program: &Path,
        to: SocketAddr,
        cpus: Option<&CpuList>,
        dir: &Path,
        signals: &Signals,
        begun: impl FnOnce(u32),
    ) -> io::Result<Loaded> {
        let mut running = vec![self.begin(program, to, cpus, dir)?];
        begun(running[0].pid());
        let signal = wait(&mut running, signals, |_| Ok(false))?;
        running.swap_remove(0).finish(signal)
    }
}

/// Waits until all have ended. A signal ends them early: the first asks them to, the second does not ask. `start` may add
/// to them meanwhile, and says whether more are to come.
///
/// # Errors
/// One of them does not end, or `start` fails.
pub fn wait(
    running: &mut Vec<Running>,
    signals: &Signals,
    mut start: impl FnMut(&mut Vec<Running>) -> io::Result<bool>,
) -> io::Result<Option<Signal>> {
    let mut signal = None;
    loop {
        let more_come = signal.is_none() && start(running)?;
        let mut are_over = true;
        for run in running.iter_mut() {
            are_over &= run.has_ended()?;
        }
        if are_over && !more_come {
            return Ok(signal);
        }
        if let Some(arrived) = signals.wait(Some(LOOK_EVERY))? {
            // Asked twice: the partial report is not waited for.
            let name = if signal.replace(arrived).is_some() { "KILL" } else { "INT" };
            for run in running.iter() {
                run.process.signal(name)?;
            }
        }
    }
}

/// A generator that sends.
#[derive(Debug)]
pub struct Running {
    process: Process,
    dir: PathBuf,
    until: Instant,
    /// Its code, once it has ended; none of its own where a signal ended it.
    code: Option<Option<i32>>,
}

impl Running {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn has_ended(&mut self) -> io::Result<bool> {
        if self.code.is_none() {
            self.code = self.process.ended()?.map(|status| status.code());
        }
        if self.code.is_none() && Instant::now() > self.until {
            return Err(self.process.explain("the generator did not end"));
        }
        Ok(self.code.is_some())
    }

    /// What it left.
    ///
    /// # Errors
    /// Something of it cannot be read.
    pub fn finish(self, signal: Option<Signal>) -> io::Result<Loaded> {
        let ledger = self.dir.join(LEDGER);
        Ok(Loaded {
            code: self.code.flatten(),
            report: read_report(&self.dir.join(REPORT))?,
            rate_max: read_rate_max(&self.dir.join(REPORT)),
            series: read_series(&self.dir.join(SERIES))?,
            ledger: ledger.exists().then_some(ledger),
            said: self.process.said(),
            signal,
        })
    }
}

impl Loaded {
    /// The measurement, or why there is none.
    ///
    /// # Errors
    /// There is none.
    pub fn test(&self) -> io::Result<&Test> {
        self.report.as_ref().and_then(|report| report.tests.first()).ok_or_else(|| {
            let code = self.code.map_or("a signal".into(), |code| format!("code {code}"));
            io::Error::other(format!("the generator ended with {code}; it said:\n  {}", self.said.join("\n  ")))
        })
    }
}

fn read_report(path: &Path) -> io::Result<Option<Report>> {
    let Ok(text) = fs::read(path) else { return Ok(None) };
    let report = serde_json::from_slice(&text);
    report.map(Some).map_err(|error| io::Error::other(format!("the generator's report cannot be read: {error}")))
}

fn read_rate_max(path: &Path) -> Option<u64> {
    let report: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    report["find_max"]["rate"].as_u64()
}

fn read_series(path: &Path) -> io::Result<Vec<Second>> {
    let Ok(text) = fs::read_to_string(path) else { return Ok(Vec::new()) };
    let rows: Result<Vec<Second>, _> = text.lines().map(serde_json::from_str).collect();
    rows.map_err(|error| io::Error::other(format!("the generator's series cannot be read: {error}")))
}

const REPORT: &str = "generator.json";
const SERIES: &str = "generator.series";
const LEDGER: &str = "generator.ledger";
/// Beyond the duration: connecting, draining, reconnecting, writing a ledger down.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(10);
