//! Two arms, compared by pairs of runs: first A with itself, whose spread is the noise floor, then A with B.
//!
//! The unit is a run: a fresh server in a fresh directory, a warm-up, a window. The order within a pair is drawn from the
//! seed, how many pairs there are is fixed before, and nothing is left out. What is judged first is the server's processor
//! time per record, because noise reaches it least; then throughput; the tail last.

mod arm;
pub mod paired;

use crate::bill::Reading;
use crate::cli::Compare;
use crate::lines::Draw;
use crate::load::Load;
use crate::process::{Launch, Server, program, scratch_parent};
use crate::report::{System, Tool};
use crate::sampler::Meters;
use crate::spread::Spread;
use paired::{Better, Comparison, Verdict, judge, noise_floor};
use ringest_loadgen::report::utc;
use ringest_sys::cpu::{self, CpuList};
use ringest_sys::signal::{Signal, Signals};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

pub use arm::Arm;

/// The name and version of the form.
pub const SCHEMA: &str = "ringest.bench.compare.v1";

/// A comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Session {
    /// [`SCHEMA`].
    pub schema: String,
    /// When it began, in UTC.
    pub timestamp: String,
    /// What measured.
    pub tool: Tool,
    /// What was typed.
    pub command: Vec<String>,
    /// Where it was measured.
    pub system: System,
    /// One arm.
    pub a: String,
    /// The other.
    pub b: String,
    /// How.
    pub settings: Settings,
    /// The figures, the one that decides first.
    pub figures: Vec<Compared>,
    /// B against A, by the first figure.
    pub verdict: Verdict,
    /// Whether somebody ended it before all pairs were there: then there is no verdict to trust.
    pub interrupted: bool,
}

/// How it was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Settings {
    /// Pairs of A with itself, and of A with B.
    pub pairs: u32,
    /// Length of a window in seconds.
    pub window_s: f64,
    /// Time before it in seconds.
    pub warm_up_s: f64,
    /// Connections.
    pub connections: u64,
    /// Lines unanswered per connection at most, in a closed loop.
    pub pipeline: u64,
    /// Lines per second; none in a closed loop.
    pub rate: Option<u64>,
    /// Mean length of a line.
    pub record_size: u64,
    /// Of the order within pairs, of the lines and of the bootstrap.
    pub seed: u64,
    /// The server's processors.
    pub server_cpus: Option<String>,
    /// The generator's.
    pub generator_cpus: Option<String>,
}

/// One figure of both arms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Compared {
    /// Which.
    pub figure: Figure,
    /// What A shows against itself, as a share: differences below it are noise.
    pub noise_floor: f64,
    /// The pairs that the floor is from.
    pub floor_pairs: Vec<(f64, f64)>,
    /// The pairs of A and B.
    pub pairs: Vec<(f64, f64)>,
    /// What they say.
    pub comparison: Comparison,
}

/// What is read off a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Processor time of the server per record, in nanoseconds.
    ServerCpuNs,
    /// Acknowledged records per second.
    RecordsPerS,
    /// 99 of 100 lines were answered within so many microseconds.
    P99Us,
    /// Context switches of the server per thousand records.
    Switches,
    /// Processor time of the generator per record, in nanoseconds: on loopback a part of the server's receiving is in it.
    GeneratorCpuNs,
}

/// Runs the pairs.
///
/// # Errors
/// An arm did not start, or did not answer every line.
pub fn run(task: &Compare) -> io::Result<(Session, Option<Signal>)> {
    let place = &task.place;
    let signals = Signals::new()?;
    let (server_cpus, generator_cpus) = place.cpus(&cpu::allowed().map_err(io::Error::other)?)?;
    let bench = Bench {
        loadgen: program(place.loadgen.as_deref(), "ringest-loadgen")?,
        server: place.server.clone(),
        dir: scratch_parent(place.dir.as_deref())?,
        server_cpus,
        generator_cpus,
        signals,
        task,
    };
    let mut draw = Draw(task.seed);
    let mut signal = None;
    let mut pairs_of = |other: &Arm, what: &str| -> io::Result<Vec<(Run, Run)>> {
        let mut pairs = Vec::new();
        for number in 1..=task.pairs {
            if signal.is_some() {
                break;
            }
            eprint!("\r{what}: pair {number} of {}  ", task.pairs);
            let a_is_first = draw.below(2) == 0;
            let first = bench.run(if a_is_first { &task.a } else { other })?;
            let second = match &first {
                Ok(_) => bench.run(if a_is_first { other } else { &task.a })?,
                Err(arrived) => Err(*arrived),
            };
            match (first, second) {
                (Ok(first), Ok(second)) => pairs.push(if a_is_first { (first, second) } else { (second, first) }),
                (Err(arrived), _) | (_, Err(arrived)) => signal = Some(arrived),
            }
        }
        Ok(pairs)
    };
    let floor = pairs_of(&task.a, "A against itself")?;
    let pairs = pairs_of(&task.b, "A against B")?;
    eprintln!("\r{:<40}", "");
    if floor.is_empty() || pairs.is_empty() {
        return Err(io::Error::other("it was ended before a pair was there"));
    }
    let figures: Vec<Compared> =
        Figure::ALL.into_iter().map(|figure| figure.compare(&floor, &pairs, task.seed)).collect();
    let session = Session {
        schema: SCHEMA.into(),
        timestamp: utc(SystemTime::now()),
        tool: Tool { name: env!("CARGO_PKG_NAME").into(), version: env!("CARGO_PKG_VERSION").into() },
        command: std::env::args().collect(),
        system: System::here(&bench.dir),
        a: task.a.as_str().into(),
        b: task.b.as_str().into(),
        settings: bench.settings(),
        verdict: figures[0].comparison.verdict,
        figures,
        interrupted: signal.is_some(),
    };
    Ok((session, signal))
}

/// One run's figures.
#[derive(Clone, Copy, Debug)]
struct Run {
    server_cpu_ns: f64,
    generator_cpu_ns: f64,
    records_per_s: f64,
    p99_us: f64,
    switches: f64,
}

struct Bench<'a> {
    server: Option<PathBuf>,
    loadgen: PathBuf,
    dir: PathBuf,
    server_cpus: Option<CpuList>,
    generator_cpus: Option<CpuList>,
    signals: Signals,
    task: &'a Compare,
}

impl Bench<'_> {
    /// One run of an arm, or the signal that ended it.
    fn run(&self, arm: &Arm) -> io::Result<Result<Run, Signal>> {
        let explain = |error: io::Error| io::Error::new(error.kind(), format!("arm \"{}\": {error}", arm.as_str()));
        for _ in 0..self.task.place.attempts {
            if let Some(run) = self.run_arm(arm).map_err(explain)? {
                return Ok(run);
            }
        }
        Err(explain(io::Error::other(format!(
            "not a line was answered within {} s, in {} attempts: the window is too short for this machine",
            self.task.window.as_secs_f64(),
            self.task.place.attempts
        ))))
    }

    /// None where nothing came of it: the window was over before the first answer.
    fn run_arm(&self, arm: &Arm) -> io::Result<Option<Result<Run, Signal>>> {
        let room = tempfile::Builder::new().prefix("ringest-compare-").tempdir_in(&self.dir)?;
        let server_program = program(arm.server().or(self.server.as_ref()).map(PathBuf::as_path), "ringest-server")?;
        let cpus = match arm.cpus() {
            Some(None) => None,
            Some(Some(list)) => Some(list.parse::<CpuList>().map_err(io::Error::other)?),
            None => self.server_cpus.clone(),
        };
        let mut launch = Launch::new(&server_program, &self.task.place.server_arg).on(cpus.as_ref());
        if let Some(cpus) = &cpus {
            launch.args.extend(["--cpu-list".into(), cpus.to_string().into()]);
        }
        launch.args.extend(arm.flags());
        let server = Server::start(&launch, room.path())?;
        let window = arm.load(&self.usual_load());
        let warm_up = Load { duration: self.task.warm_up, ..window.clone() };
        let send = |load: &Load| {
            load.send(&self.loadgen, server.addr, self.generator_cpus.as_ref(), room.path(), &self.signals, |_| {})
        };
        let before_that = send(&warm_up)?;
        if let Some(signal) = before_that.signal {
            return Ok(Some(Err(signal)));
        }
        before_that.test()?;
        let (bill, meters) = (Reading::of(server.pid)?, Meters::of(server.pid)?);
        let loaded = send(&window)?;
        if let Some(signal) = loaded.signal {
            return Ok(Some(Err(signal)));
        }
        let (bill, later) = (Reading::of(server.pid)?.since(&bill), Meters::of(server.pid)?);
        let test = loaded.test()?;
        let results = &test.results;
        if results.failed > 0 {
            return Err(io::Error::other(format!(
                "of {} lines {} failed ({:?}): that is no run to compare",
                results.offered, results.failed, results.failures
            )));
        }
        server.process.stop()?;
        if results.acked == 0 {
            return Ok(None);
        }
        let records = results.acked as f64;
        let switched = |meters: &Meters| (meters.voluntary_switches + meters.involuntary_switches) as f64;
        Ok(Some(Ok(Run {
            server_cpu_ns: bill.total_ns() / records,
            generator_cpu_ns: test.resources.client.cpu_ns_per_record,
            records_per_s: results.throughput_per_s,
            p99_us: results.response_us.p99,
            switches: (switched(&later) - switched(&meters)).max(0.0) / records * 1000.0,
        })))
    }

    fn usual_load(&self) -> Load {
        let Compare { window, connections, pipeline, rate, record_size, seed, .. } = *self.task;
        Load {
            rate,
            pipeline,
            batch: pipeline,
            in_sessions: self.task.sessions,
            record_size,
            seed,
            keeps_ledger: false,
            ..Load::closed(None, window, connections)
        }
    }

    fn settings(&self) -> Settings {
        let Compare { pairs, window, warm_up, connections, pipeline, rate, record_size, seed, .. } = *self.task;
        Settings {
            pairs,
            window_s: window.as_secs_f64(),
            warm_up_s: warm_up.as_secs_f64(),
            connections,
            pipeline,
            rate,
            record_size,
            seed,
            server_cpus: self.server_cpus.as_ref().map(ToString::to_string),
            generator_cpus: self.generator_cpus.as_ref().map(ToString::to_string),
        }
    }
}

impl Figure {
    /// The one that decides first.
    const ALL: [Figure; 5] =
        [Figure::ServerCpuNs, Figure::RecordsPerS, Figure::P99Us, Figure::Switches, Figure::GeneratorCpuNs];

    /// What it is called.
    pub fn label(self) -> &'static str {
        match self {
            Figure::ServerCpuNs => "server CPU, ns/record",
            Figure::RecordsPerS => "records/s",
            Figure::P99Us => "p99, us",
            Figure::Switches => "switches/1,000 records",
            Figure::GeneratorCpuNs => "generator CPU, ns/record",
        }
    }

    fn better(self) -> Better {
        match self {
            Figure::RecordsPerS => Better::More,
            Figure::ServerCpuNs | Figure::P99Us | Figure::Switches | Figure::GeneratorCpuNs => Better::Less,
        }
    }

    fn of(self, run: &Run) -> f64 {
        match self {
            Figure::ServerCpuNs => run.server_cpu_ns,
            Figure::RecordsPerS => run.records_per_s,
            Figure::P99Us => run.p99_us,
            Figure::Switches => run.switches,
            Figure::GeneratorCpuNs => run.generator_cpu_ns,
        }
    }

    fn compare(self, floor: &[(Run, Run)], pairs: &[(Run, Run)], seed: u64) -> Compared {
        let values =
            |pairs: &[(Run, Run)]| -> Vec<(f64, f64)> { pairs.iter().map(|(a, b)| (self.of(a), self.of(b))).collect() };
        let (floor_pairs, pairs) = (values(floor), values(pairs));
        // A thousandth of a unit keeps the logarithm of nothing away; no figure is as small as that otherwise.
        let logs = |pairs: &[(f64, f64)]| -> Vec<f64> {
            pairs.iter().map(|(a, b)| (b.max(LEAST) / a.max(LEAST)).ln()).collect()
        };
        let noise_floor = noise_floor(&logs(&floor_pairs), seed);
        let comparison = judge(&logs(&pairs), noise_floor, self.better(), seed);
        Compared { figure: self, noise_floor, floor_pairs, pairs, comparison }
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let System { cpu, kernel, file_system, .. } = &self.system;
        let Settings { pairs, window_s, warm_up_s, connections, pipeline, rate, record_size, .. } = &self.settings;
        let loop_ = rate.map_or_else(
            || format!("closed loop, at most {pipeline} unanswered lines on each"),
            |rate| format!("{rate} records/s"),
        );
        writeln!(f, "{cpu}, Linux {kernel}, {file_system}")?;
        writeln!(f, "A  {}\nB  {}", self.a, self.b)?;
        writeln!(
            f,
            "{pairs} pairs of each, {warm_up_s} s warm-up, {window_s} s window, {connections} connections, {loop_}, \
             {record_size}-byte records"
        )?;
        writeln!(
            f,
            "\n{:<26} {:>22} {:>22} {:>8} {:>16} {:>8} {:>8} {:>7}  verdict on B",
            "median (min..max)", "A", "B", "B/A", "95 % interval", "A/A", "margin", "p"
        )?;
        for Compared { figure, noise_floor, pairs, comparison, .. } in &self.figures {
            let spread = |values: &mut dyn Iterator<Item = f64>| {
                Spread::of(values).map_or_else(String::new, |spread| format!("{spread:.0}"))
            };
            let Comparison { ratio, low, high, p, margin, verdict, .. } = comparison;
            writeln!(
                f,
                "{:<26} {:>22} {:>22} {ratio:>8.3} {:>16} {:>7.1}% {:>7.1}% {p:>7.3}  {verdict}",
                figure.label(),
                spread(&mut pairs.iter().map(|(a, _)| *a)),
                spread(&mut pairs.iter().map(|(_, b)| *b)),
                format!("{low:.3}..{high:.3}"),
                noise_floor * 100.0,
                margin * 100.0,
            )?;
        }
        let word = if self.interrupted { "interrupted: no verdict" } else { self.verdict.as_str() };
        write!(f, "\nB is {word}, by {}", self.figures[0].figure.label())
    }
}

const LEAST: f64 = 1e-3;

#[cfg(test)]
mod tests {
    use super::*;

    fn run(cpu: f64) -> Run {
        Run { server_cpu_ns: cpu, generator_cpu_ns: 100.0, records_per_s: 1e9 / cpu, p99_us: 500.0, switches: 0.0 }
    }

    #[test]
    fn a_costlier_arm_is_slower_by_every_figure_that_it_moves_and_by_no_other() {
        let noise = [1.0, 1.01, 0.99, 1.005, 0.995, 1.0, 1.01, 0.99, 1.0, 1.002];
        let floor: Vec<_> = noise.iter().map(|noise| (run(150.0), run(150.0 * noise))).collect();
        let pairs: Vec<_> = noise.iter().map(|noise| (run(150.0), run(165.0 * noise))).collect();
        let verdicts: Vec<Verdict> =
            Figure::ALL.into_iter().map(|figure| figure.compare(&floor, &pairs, 1).comparison.verdict).collect();
        assert_eq!(verdicts, [Verdict::Slower, Verdict::Slower, Verdict::Same, Verdict::Same, Verdict::Same]);
        let back: Vec<_> = pairs.iter().map(|(a, b)| (*b, *a)).collect();
        assert_eq!(Figure::RecordsPerS.compare(&floor, &back, 1).comparison.verdict, Verdict::Faster);
    }
}
