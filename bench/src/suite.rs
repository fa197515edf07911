//! What tiers, stress and gate have in common: a fresh server per measurement, the generator beside it, both watched, what
//! was stored compared with what was promised, and conditions held against the figures.
//!
//! A measurement owes nothing to the one before: server, directory and figures are its own. One that is void (something
//! else had the processor, or the generator was the limit) is made again a fixed number of times, whatever it showed.

mod figures;
mod gates;

use crate::cli::{Elsewhere, Place};
use crate::load::{self, Load, Loaded};
use crate::outcome::Outcome;
use crate::process::{LOGS, Launch, Process, Server, program, scratch_parent};
use crate::report::{Exit, Reconciliation, Report, SCHEMA, System, Target, Test, Tool, Verification};
use crate::sampler::{Sampler, Usage};
use crate::status::Status;
use ringest_loadgen::report::utc;
use ringest_sys::cpu::{self, CpuList};
use ringest_sys::signal::{Signal, Signals};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

pub use gates::{Promise, Targets, conclude};

/// Where and with what a suite measures.
#[derive(Debug)]
pub struct Suite {
    server: Serving,
    loadgen: PathBuf,
    generator_cpus: Option<CpuList>,
    dir: PathBuf,
    signals: Signals,
    attempts: u32,
    ignores_validity: bool,
    interval: Duration,
    name: &'static str,
    began: SystemTime,
    target: Target,
    system: System,
}

/// Who serves.
#[derive(Debug)]
enum Serving {
    /// A program, started anew for each measurement.
    Here { program: PathBuf, args: Vec<OsString>, cpus: Option<CpuList> },
    /// A server that runs already.
    There { addr: SocketAddr, pid: Option<u32>, admin: Option<SocketAddr> },
}

/// A measurement to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What it is called.
    pub name: String,
    /// What is sent.
    pub load: Load,
    /// Its rate as a share of the knee.
    pub of_knee: Option<f64>,
    /// What it has to meet.
    pub promise: Promise,
    /// When how many of the connections begin, each of these in a generator of its own; all at once where this is empty.
    pub groups: Vec<(Duration, u64)>,
}

/// What came of sending.
#[derive(Debug)]
struct Sent {
    loaded: Vec<(Duration, Loaded)>,
    signal: Option<Signal>,
    server: Option<Usage>,
    generator: Option<Usage>,
}

/// What was seen of one run, before it is judged.
#[derive(Debug)]
pub(crate) struct Seen {
    /// What each generator left, and how long after the first it began.
    pub(crate) loaded: Vec<(Duration, Loaded)>,
    pub(crate) signal: Option<Signal>,
    pub(crate) server: Option<Usage>,
    pub(crate) generator: Option<Usage>,
    pub(crate) status: Option<Status>,
    pub(crate) reconciliation: Option<Reconciliation>,
    pub(crate) ready: Option<Duration>,
    pub(crate) memory_bound: Option<u64>,
    pub(crate) fd_limit: Option<u64>,
    pub(crate) exit: Option<Exit>,
}

impl Plan {
    /// That load from its beginning on, and nothing special about it.
    pub fn new(name: &str, load: Load, promise: Promise) -> Plan {
        Plan { name: name.into(), load, of_knee: None, promise, groups: Vec::new() }
    }
}

impl Suite {
    /// Finds the programs, the processors and the directory.
    ///
    /// # Errors
    /// One of them is not to be had.
    pub fn new(name: &'static str, place: &Place, elsewhere: &Elsewhere) -> io::Result<Suite> {
        // Before anything starts, so that no Ctrl-C is missed.
        let signals = Signals::new()?;
        let dir = scratch_parent(place.dir.as_deref())?;
        let loadgen = program(place.loadgen.as_deref(), "ringest-loadgen")?;
        let (server_cpus, generator_cpus) = place.cpus(&cpu::allowed().map_err(io::Error::other)?)?;
        let server = match &elsewhere.target {
            Some(target) => {
                Serving::There { addr: resolve(target)?, pid: elsewhere.target_pid, admin: elsewhere.target_admin }
            }
            None => Serving::Here {
                program: program(place.server.as_deref(), "ringest-server")?,
                args: place.server_arg.clone(),
                cpus: server_cpus.clone(),
            },
        };
        let target = Target {
            server: match &server {
                Serving::Here { program, .. } => program.display().to_string(),
                Serving::There { addr, .. } => addr.to_string(),
            },
            cpus: server_cpus.filter(|_| elsewhere.target.is_none()).map(|cpus| cpus.to_string()),
            generator_cpus: generator_cpus.as_ref().map(ToString::to_string),
            ..Target::default()
        };
        Ok(Suite {
            server,
            loadgen,
            generator_cpus,
            system: System::here(&dir),
            dir,
            signals,
            attempts: place.attempts,
            ignores_validity: place.ignore_validity,
            interval: Duration::from_secs(1),
            name,
            began: SystemTime::now(),
            target,
        })
    }

    /// The machine.
    pub fn system(&self) -> &System {
        &self.system
    }

    /// Waits, unless somebody ends it.
    ///
    /// # Errors
    /// Signals cannot be waited for.
    pub fn rest(&self, span: Duration) -> io::Result<Option<Signal>> {
        self.signals.wait(Some(span))
    }

    /// Makes a measurement: again, where it is void, as often as was said. The signal that ended it is told.
    ///
    /// # Errors
    /// The server or the generator could not do their part.
    pub fn measure(&mut self, plan: &Plan) -> io::Result<(Test, Option<Signal>)> {
        let mut voided = Vec::new();
        loop {
            let seen =
                self.run(plan).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", plan.name)))?;
            if let Some(status) = &seen.status {
                self.target.version.clone_from(&status.version);
                self.target.backend.clone_from(&status.backend);
                self.target.shards = Some(status.shards);
            }
            let signal = seen.signal;
            let mut test = figures::test(plan, seen)?;
            let standing = gates::Standing { signal, cores: self.cores(), ignores_validity: self.ignores_validity };
            gates::judge(plan, &mut test, standing);
            let is_void = test.verdict == Outcome::Invalid;
            if is_void && (voided.len() as u32) < self.attempts.saturating_sub(1) {
                voided.push(test.validity.verdict);
                continue;
            }
            test.validity.voided = voided;
            return Ok((test, signal));
        }
    }

    /// Processors that the server has for its shards.
    fn cores(&self) -> u64 {
        let pinned = match &self.server {
            Serving::Here { cpus, .. } => cpus.as_ref().map(|cpus| cpus.len() as u64),
            Serving::There { .. } => None,
        };
        self.target.shards.or(pinned).unwrap_or(self.system.cores).max(1)
    }

    /// The highest rate at which 99 % of the answers come within that time and no line fails, as the generator searches for it;
    /// none where it finds none.
    ///
    /// # Errors
    /// The server or the generator could not do their part.
    pub fn search(&self, load: &Load, slo_p99: Duration) -> io::Result<(Option<u64>, Option<Signal>)> {
        let slo = format!("{}us", slo_p99.as_micros());
        let load = Load {
            rate: Some(SEARCH_FROM),
            keeps_ledger: false,
            keeps_series: false,
            extra: ["--find-max", "--slo-p99", &slo].map(OsString::from).to_vec(),
            patience: SEARCH_PATIENCE,
            ..load.clone()
        };
        let room = tempfile::Builder::new().prefix("ringest-bench-").tempdir_in(&self.dir)?;
        let explain = |error: io::Error| io::Error::new(error.kind(), format!("searching for the knee: {error}"));
        let (mut server, addr, pid) = match &self.server {
            Serving::There { addr, pid, .. } => (None, *addr, *pid),
            Serving::Here { program, args, cpus } => {
                let server = Server::start(&launch(program, args, cpus.as_ref()), room.path()).map_err(explain)?;
                let (addr, pid) = (server.addr, server.pid);
                (Some(server), addr, Some(pid))
            }
        };
        let sent = self.send(&load, &[], addr, pid, room.path()).map_err(explain)?;
        if let Some(server) = &mut server {
            server.process.end().map_err(explain)?;
        }
        Ok((sent.loaded.first().and_then(|(_, loaded)| loaded.rate_max), sent.signal))
    }

    /// The report of all that was measured.
    pub fn report(&self, tests: Vec<Test>, verification: Verification) -> Report {
        Report {
            schema: SCHEMA.into(),
            suite: self.name.into(),
            timestamp: utc(self.began),
            tool: Tool { name: env!("CARGO_PKG_NAME").into(), version: env!("CARGO_PKG_VERSION").into() },
            command: std::env::args().collect(),
            system: self.system.clone(),
            target: self.target.clone(),
            knee: None,
            tests,
            verification,
        }
    }

    fn run(&self, plan: &Plan) -> io::Result<Seen> {
        let room = tempfile::Builder::new().prefix("ringest-bench-").tempdir_in(&self.dir)?;
        let dir = room.path();
        match &self.server {
            Serving::There { addr, pid, admin } => {
                let load = Load { keeps_ledger: false, ..plan.load.clone() };
                let Sent { loaded, signal, server, generator } = self.send(&load, &plan.groups, *addr, *pid, dir)?;
                check(&loaded, signal)?;
                let status = admin.map(Status::fetch).transpose()?;
                Ok(Seen {
                    loaded,
                    signal,
                    server,
                    generator,
                    status,
                    reconciliation: None,
                    ready: None,
                    memory_bound: None,
                    fd_limit: pid.and_then(fd_limit),
                    exit: None,
                })
            }
            Serving::Here { program, args, cpus } => {
                let launch = launch(program, args, cpus.as_ref());
                let memory_bound = memory_bound(&launch, plan.load.connections);
                let mut server = Server::start(&launch, dir)?;
                let fd_limit = fd_limit(server.pid);
                let sent = self.send(&plan.load, &plan.groups, server.addr, Some(server.pid), dir)?;
                let Sent { loaded, signal, server: usage, generator } = sent;
                // One that has ended meanwhile says nothing more, and how it ended is said below.
                let status = server.admin.and_then(|admin| Status::fetch(admin).ok());
                let (status_of_end, was_asked) = match server.process.ended()? {
                    Some(status) => (status, false),
                    None => {
                        check(&loaded, signal)?;
                        (server.process.end()?, true)
                    }
                };
                let exit = how_it_ended(&server.process, status_of_end, was_asked);
                let ledgers: Vec<&PathBuf> = loaded.iter().filter_map(|(_, loaded)| loaded.ledger.as_ref()).collect();
                // One that left no ledger was not heard of again, and what it was promised is not known.
                let reconciliation = if ledgers.len() == loaded.len() && !ledgers.is_empty() {
                    Some(self.reconcile(program, &dir.join(LOGS), &ledgers)?)
                } else {
                    None
                };
                Ok(Seen {
                    loaded,
                    signal,
                    server: usage,
                    generator,
                    status,
                    reconciliation,
                    ready: Some(server.ready_after),
                    memory_bound,
                    fd_limit,
                    exit: Some(exit),
                })
            }
        }
    }

    /// Runs the generator, or several that begin one after another, and looks at the processes while they do.
    fn send(
        &self,
        load: &Load,
        groups: &[(Duration, u64)],
        addr: SocketAddr,
        pid: Option<u32>,
        dir: &Path,
    ) -> io::Result<Sent> {
        let all = [(Duration::ZERO, load.connections)];
        let groups = if groups.is_empty() { &all } else { groups };
        let origin = Instant::now();
        let watch = |pid| Sampler::start(pid, self.interval, origin);
        let server = pid.map(watch).transpose()?;
        let (mut running, mut generator) = (Vec::new(), None);
        let signal = load::wait(&mut running, &self.signals, |running| {
            while let Some((at, connections)) = groups.get(running.len()).filter(|(at, _)| origin.elapsed() >= *at) {
                let dir = dir.join(format!("generator-{}", running.len()));
                fs::create_dir(&dir)?;
                let load = Load { connections: *connections, duration: load.duration - *at, ..load.clone() };
                let run = load.begin(&self.loadgen, addr, self.generator_cpus.as_ref(), &dir)?;
                if groups.len() == 1 {
                    // One that has ended before it was looked at was not worth a look.
                    generator = watch(run.pid()).ok();
                }
                running.push(run);
            }
            Ok(running.len() < groups.len())
        })?;
        let loaded = running.into_iter().zip(groups).map(|(run, (at, _))| Ok((*at, run.finish(signal)?)));
        let loaded = loaded.collect::<io::Result<Vec<_>>>()?;
        Ok(Sent { loaded, signal, server: server.map(Sampler::stop), generator: generator.map(Sampler::stop) })
    }

    /// Compares what was stored with what was promised, by the programs that users have for it.
    fn reconcile(&self, server: &Path, logs: &Path, ledgers: &[&PathBuf]) -> io::Result<Reconciliation> {
        let explain = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot compare what was stored with what was acknowledged: {error}"))
        };
        let mut cat = Command::new(server)
            .arg("cat")
            .arg(logs)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(explain)?;
        let stored = cat.stdout.take().expect("its output was asked for");
        let found = Command::new(&self.loadgen)
            .args(["reconcile", "--json", "-"])
            .args(ledgers.iter().flat_map(|ledger| [OsStr::new("--ledger"), ledger.as_os_str()]))
            .stdin(stored)
            .output()
            .map_err(explain)?;
        let cat = cat.wait_with_output().map_err(explain)?;
        if !cat.status.success() {
            let said = String::from_utf8_lossy(&cat.stderr);
            return Err(explain(io::Error::other(format!("cat ended with {}: {}", cat.status, said.trim()))));
        }
        // Where lines are missing its code is not 0, and that is an answer.
        serde_json::from_slice(&found.stdout).map_err(|error| {
            let said = String::from_utf8_lossy(&found.stderr);
            explain(io::Error::other(format!("{error}; it said: {}", said.trim())))
        })
    }
}

impl Seen {
    /// The server's processor time over the run, in nanoseconds.
    pub(crate) fn server_cpu_ns(&self) -> u64 {
        self.server.as_ref().map_or(0, |usage| usage.cpu_ns)
    }
}

/// A generator that measured nothing although there was a server: that is no finding about the server.
fn check(loaded: &[(Duration, Loaded)], signal: Option<Signal>) -> io::Result<()> {
    if signal.is_some() { Ok(()) } else { loaded.iter().try_for_each(|(_, loaded)| loaded.test().map(drop)) }
}

fn how_it_ended(process: &Process, status: ExitStatus, was_asked: bool) -> Exit {
    let is_clean = status.success() && was_asked;
    let mut how = status.to_string();
    if !was_asked {
        how = format!("by itself, {how}");
    }
    if !is_clean {
        how = format!("{how}; it said: {}", process.said().join(" / "));
    }
    Exit { how, is_clean }
}

/// A server with these arguments, on these processors.
fn launch(program: &Path, args: &[OsString], cpus: Option<&CpuList>) -> Launch {
    let mut launch = Launch::new(program, args).on(cpus);
    if let Some(cpus) = cpus {
        launch.args.extend(["--cpu-list".into(), cpus.to_string().into()]);
    }
    launch
}

/// Rates are doubled from here on.
const SEARCH_FROM: u64 = 10_000;
/// Twenty probes of some seconds, and some of them again.
const SEARCH_PATIENCE: Duration = Duration::from_secs(600);

/// What its own formula allows with so many connections of text; none where the program knows no such formula.
fn memory_bound(launch: &Launch, connections: u64) -> Option<u64> {
    let config = launch.config()?;
    let memory = |name: &str| config["memory_bytes"][name].as_u64();
    Some(
        memory("base")?
            + config["shards"].as_u64()? * memory("per_shard")?
            + connections * memory("per_text_connection")?,
    )
}

fn fd_limit(pid: u32) -> Option<u64> {
    use procfs::process::{LimitValue, Process};
    let limits = Process::new(i32::try_from(pid).ok()?).ok()?.limits().ok()?;
    match limits.max_open_files.soft_limit {
        LimitValue::Value(limit) => Some(limit),
        LimitValue::Unlimited => None,
    }
}

fn resolve(target: &str) -> io::Result<SocketAddr> {
    let found = target.to_socket_addrs().map_err(|error| {
        io::Error::new(error.kind(), format!("--target {target}: {error}; write it like 127.0.0.1:9000"))
    })?;
    // The first design listens on one family; the generator tries what it is given.
    let mut found: Vec<SocketAddr> = found.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    found.into_iter().next().ok_or_else(|| io::Error::other(format!("--target {target} has no address")))
}
