//! What can be typed.

use crate::compare::Arm;
use crate::compare::paired::PAIRS_MIN;
use crate::floor::{Answer, Backend, Writing};
use clap::{Args, Parser, Subcommand};
use ringest_sys::cpu::CpuList;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Measures Ringest.
///
/// Exit codes: 0 pass, 1 could not run, 2 usage, 3 a gate does not hold or a bound was missed, 4 the measurement is void,
/// 5 lines lost, duplicated or corrupted, 129/130/143 interrupted, with a partial report.
#[derive(Debug, Parser)]
#[command(name = "ringest-bench", version)]
pub struct Cli {
    /// What to measure.
    #[command(subcommand)]
    pub command: Command,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The server under five loads of rising size, then at shares of the rate up to which it keeps its promises.
    Tiers(Tiers),
    /// Users who come one after another and stay: what becomes of a server that more and more lean on.
    Stress(Stress),
    /// Two arms by pairs of runs: which is faster, by how much, and how sure that is.
    Compare(Compare),
    /// Has it become worse than it was on machines like this one?
    Gate(Gate),
    /// What the scripts under soak/ are made with: a server under watch, a scenario's verdict, the report of all.
    #[command(subcommand)]
    Soak(Soak),
    /// A report that is there already, as a page.
    Page(Page),
    /// The parts of a record's path in memory: ns, allocations and bytes copied per record.
    Micro(Micro),
    /// The least a server could cost: receives and writes, and ends by itself.
    Floor(Floor),
    /// Sends lines as cheaply as possible, for the floor and the server alike.
    Flood(Flood),
    /// The server on one core beside the floor, interleaved, with a verdict per promised bound.
    OneCore(OneCore),
}

/// Where and with what is measured.
#[derive(Clone, Debug, Default, Args)]
pub struct Place {
    /// The server, started anew for each measurement [default: the one beside this program].
    #[arg(long, value_name = "PROGRAM")]
    pub server: Option<PathBuf>,
    /// One more argument for it, like --server-arg=--backend=epoll; may be given several times.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub server_arg: Vec<OsString>,
    /// The generator [default: the one beside this program].
    #[arg(long, value_name = "PROGRAM")]
    pub loadgen: Option<PathBuf>,
    /// The server's processors, like 0-3,8 [default: the first that may be used].
    #[arg(long, value_name = "LIST")]
    pub server_cpus: Option<CpuList>,
    /// The generator's processors, a worker on each [default: the second that may be used].
    #[arg(long, value_name = "LIST")]
    pub generator_cpus: Option<CpuList>,
    /// Leaves it to the scheduler where both run.
    #[arg(long, conflicts_with_all = ["server_cpus", "generator_cpus"])]
    pub no_pin: bool,
    /// Where segments go for a while: a real file system, not tmpfs [default: beside this program].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How often a measurement is made at most, if it is void.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub attempts: u32,
    /// Judges what is void, too: for machines that are never quiet, where a verdict is worth as much as the quiet.
    #[arg(long)]
    pub ignore_validity: bool,
}

/// A server that is not ours to start.
#[derive(Clone, Debug, Default, Args)]
pub struct Elsewhere {
    /// A server that runs already, as HOST:PORT: none is started, and what it stored is not looked at.
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["server", "server_arg", "server_cpus"])]
    pub target: Option<String>,
    /// The process of that server, where it runs on this machine: then it is watched.
    #[arg(long, value_name = "PID", requires = "target")]
    pub target_pid: Option<u32>,
    /// The admin listener of that server: then its stages are in the report.
    #[arg(long, value_name = "ADDRESS", requires = "target")]
    pub target_admin: Option<SocketAddr>,
}

/// Where results go.
#[derive(Clone, Debug, Default, Args)]
pub struct Results {
    /// The report as JSON; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// The report as a page: one file that loads nothing from elsewhere.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Exit code 0 even if a gate does not hold.
    #[arg(long)]
    pub report_only: bool,
}

/// Which tiers, and for how long.
#[derive(Debug, Args)]
pub struct Tiers {
    /// Where and with what.
    #[command(flatten)]
    pub place: Place,
    /// Of a server that is not ours to start.
    #[command(flatten)]
    pub elsewhere: Elsewhere,
    /// Where results go.
    #[command(flatten)]
    pub results: Results,
    /// Only tiers whose names contain one of these: warmup, baseline, medium_load, high_load, stress_test, objectives, knee.
    #[arg(long, value_name = "TIER")]
    pub only: Vec<String>,
    /// Seconds between two tiers.
    #[arg(long, default_value = "5", value_parser = seconds, value_name = "SECONDS")]
    pub cooldown: Duration,
    /// The rate up to which the server keeps its promises, in records per second [default: it is measured].
    #[arg(long, value_name = "RATE", value_parser = clap::value_parser!(u64).range(20..))]
    pub knee: Option<u64>,
    /// Where the knee is measured: 99 % of the answers have to come within so many seconds, and no line may fail.
    #[arg(long, default_value = "0.08", value_parser = seconds, value_name = "SECONDS")]
    pub slo_p99: Duration,
    /// Tiers at these shares of the knee, in per cent.
    #[arg(long, value_delimiter = ',', default_value = "10,50,80,95,110", value_name = "PERCENT",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub at: Vec<u32>,
    /// Length of the tier for the objectives and of those at shares of the knee, in seconds.
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "SECONDS")]
    pub window: Duration,
    /// Connections of those tiers.
    #[arg(short, long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub connections: u64,
    /// Rate of the tier for the objectives: what one instance has to take, in records per second.
    #[arg(long, default_value_t = 10_000, value_name = "RATE", value_parser = clap::value_parser!(u64).range(1..))]
    pub target_rate: u64,
    /// Mean length of a line, its newline included.
    #[arg(long, default_value_t = crate::lines::FLAT_LEN as u64, value_name = "BYTES")]
    pub record_size: u64,
    /// Of the lines.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// How many come, and how fast.
#[derive(Debug, Args)]
pub struct Stress {
    /// Where and with what.
    #[command(flatten)]
    pub place: Place,
    /// Of a server that is not ours to start.
    #[command(flatten)]
    pub elsewhere: Elsewhere,
    /// Where results go.
    #[command(flatten)]
    pub results: Results,
    /// Users, each a connection with one line in flight.
    #[arg(short, long, env = "STRESS_USERS", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub users: u64,
    /// Users that come in a second.
    #[arg(short = 'r', long, env = "STRESS_SPAWN_RATE", default_value_t = 200, value_name = "USERS",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub spawn_rate: u64,
    /// How long all of them stay once the last have come, in seconds.
    #[arg(long, default_value = "20", value_parser = seconds, value_name = "SECONDS")]
    pub hold: Duration,
    /// Numbered lines and acknowledgements instead of one reply per line.
    #[arg(long)]
    pub sessions: bool,
    /// Mean length of a line, its newline included.
    #[arg(long, default_value_t = crate::lines::FLAT_LEN as u64, value_name = "BYTES")]
    pub record_size: u64,
    /// Of the lines.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Locust's files: PREFIX_stats.csv, PREFIX_stats_history.csv and PREFIX_failures.csv.
    #[arg(long, value_name = "PREFIX")]
    pub csv: Option<PathBuf>,
}

/// Which two, and how often.
#[derive(Debug, Args)]
pub struct Compare {
    /// One arm: settings like backend=uring,shards=1 or server=PATH, or default.
    #[arg(value_name = "A")]
    pub a: Arm,
    /// The other.
    #[arg(value_name = "B")]
    pub b: Arm,
    /// Where and with what.
    #[command(flatten)]
    pub place: Place,
    /// Pairs of A with itself, and as many of A with B; fixed beforehand, at least 6.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(PAIRS_MIN as i64..))]
    pub pairs: u32,
    /// Length of a run in seconds.
    #[arg(long, default_value = "2", value_parser = seconds, value_name = "SECONDS")]
    pub window: Duration,
    /// Time before it in seconds.
    #[arg(long, default_value = "0.5", value_parser = seconds, value_name = "SECONDS")]
    pub warm_up: Duration,
    /// Connections.
    #[arg(short, long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub connections: u64,
    /// Unanswered lines per connection at most, in a closed loop.
    #[arg(short, long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub pipeline: u64,
    /// Lines per second, for an open loop [default: a closed one].
    #[arg(short = 'R', long, value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
    /// Numbered lines and acknowledgements instead of one reply per line.
    #[arg(long)]
    pub sessions: bool,
    /// Mean length of a line, its newline included.
    #[arg(long, default_value_t = crate::lines::FLAT_LEN as u64, value_name = "BYTES")]
    pub record_size: u64,
    /// Of the order within pairs, of the lines, and of the bootstrap.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Exit code 3 where B is slower.
    #[arg(long)]
    pub fail_if_slower: bool,
    /// The figures as JSON; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// The figures as a page: one file that loads nothing from elsewhere.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// What is measured, and against what.
#[derive(Debug, Args)]
pub struct Gate {
    /// Where and with what.
    #[command(flatten)]
    pub place: Place,
    /// Where results go.
    #[command(flatten)]
    pub results: Results,
    /// Where baselines are, one file per class of machines.
    #[arg(long, default_value = "bench/baseline", value_name = "DIR")]
    pub baseline_dir: PathBuf,
    /// Makes what is measured the baseline.
    #[arg(long)]
    pub update: bool,
    /// Rounds; the median of each figure decides.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Length of a load in seconds.
    #[arg(long, default_value = "5", value_parser = seconds, value_name = "SECONDS")]
    pub window: Duration,
    /// Rate of the load for latencies, in records per second.
    #[arg(short = 'R', long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: u64,
    /// Connections.
    #[arg(short, long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub connections: u64,
    /// Mean length of a line, its newline included.
    #[arg(long, default_value_t = crate::lines::FLAT_LEN as u64, value_name = "BYTES")]
    pub record_size: u64,
    /// Of the lines.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// A report that is there already.
#[derive(Debug, Args)]
pub struct Page {
    /// What tiers, stress, gate or compare wrote with --json.
    #[arg(value_name = "REPORT")]
    pub report: PathBuf,
    /// The page; `-` is standard output.
    #[arg(value_name = "HTML")]
    pub html: PathBuf,
}

/// Cases and how to run them.
#[derive(Debug, Args)]
pub struct Micro {
    /// Cases, by the beginning of their names, like parse/flat or pipeline [default: all].
    #[arg(value_name = "CASE")]
    pub cases: Vec<String>,
    /// The processor to run on [default: not pinned].
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Runs per case; unmeasured ones go before them.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Length of one run in milliseconds.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=SPAN_MAX.as_millis() as u64))]
    pub run_ms: u64,
    /// The figures as JSON; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// How the floor runs.
#[derive(Debug, Args)]
pub struct Floor {
    /// Port on the loopback address; 0 lets the kernel choose.
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// The processor to run on [default: not pinned].
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Where to write; what is written is removed at the end.
    #[arg(long)]
    pub dir: PathBuf,
    /// Length of the window.
    #[arg(long, default_value = "1.5", value_parser = seconds_f64)]
    pub seconds: f64,
    /// Time between the first bytes and the window.
    #[arg(long, default_value = "0.5", value_parser = seconds_f64)]
    pub warm_up: f64,
    /// How to receive.
    #[arg(long, value_enum, default_value = "uring")]
    pub backend: Backend,
    /// How to write.
    #[arg(long, value_enum, default_value = "buffered")]
    pub write: Writing,
    /// Answers each line: once it is written, or synced. Ends when its clients have gone after the window.
    #[arg(long, value_enum)]
    pub answer: Option<Answer>,
    /// Mean length of a record, by which bytes are counted as records.
    #[arg(long, default_value_t = crate::lines::FLAT_LEN, value_parser = one_or_more)]
    pub record_size: usize,
}

/// How to send.
#[derive(Debug, Args)]
pub struct Flood {
    /// Port on the loopback address.
    #[arg(long)]
    pub port: u16,
    /// The processor to run on [default: not pinned].
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Connections.
    #[arg(short, long, default_value_t = 50, value_parser = one_or_more)]
    pub connections: usize,
    /// Mean length of a line, its newline included.
    #[arg(long, default_value_t = crate::lines::FLAT_LEN, value_parser = one_or_more)]
    pub record_size: usize,
    /// Unanswered lines per connection at most; 0 expects no answers, as from the floor.
    #[arg(short, long, default_value_t = 0)]
    pub pipeline: u64,
    /// Length of the window.
    #[arg(long, default_value = "1.5", value_parser = seconds_f64)]
    pub seconds: f64,
    /// Time before it.
    #[arg(long, default_value = "0.5", value_parser = seconds_f64)]
    pub warm_up: f64,
}

/// A part of a soak.
#[derive(Debug, Subcommand)]
pub enum Soak {
    /// Starts a server, looks at it every few seconds, asks it to end when it is asked itself, and writes down how it did.
    Watch(Watch),
    /// What a scenario comes to, from what it has left. The exit code is the verdict's.
    Judge(Judge),
    /// All scenarios as one report: soak.json and report.html. The exit code is the gravest verdict's.
    Summary(Summary),
    /// A figure out of a JSON document, for scripts.
    Look(Lookup),
}

/// What is watched.
#[derive(Debug, Args)]
pub struct Watch {
    /// Where it is written down, and where the server's segments go. Its name is the server's in the report.
    #[arg(long)]
    pub dir: PathBuf,
    /// How often it is looked at, in seconds.
    #[arg(long, default_value = "2", value_parser = interval, value_name = "SECONDS")]
    pub every: Duration,
    /// How often what was seen is said, in seconds [default: never].
    #[arg(long, value_parser = interval, value_name = "SECONDS")]
    pub heartbeat: Option<Duration>,
    /// Connections that will be made at one time at most: memory and descriptors are held to it.
    #[arg(short, long)]
    pub connections: u64,
    /// The server.
    pub server: PathBuf,
    /// Its arguments, after `--`.
    #[arg(last = true)]
    pub args: Vec<OsString>,
}

/// What is judged.
#[derive(Debug, Args)]
pub struct Judge {
    /// What the scenario has left; verdict.json is written there.
    pub dir: PathBuf,
    /// Its name.
    #[arg(long)]
    pub scenario: String,
    /// How long it took, in seconds.
    #[arg(long)]
    pub seconds: f64,
    /// The code that its script ended with.
    #[arg(long)]
    pub code: i32,
}

/// What is summed up.
#[derive(Debug, Args)]
pub struct Summary {
    /// The directory of all scenarios.
    pub dir: PathBuf,
}

/// What is looked up.
#[derive(Debug, Args)]
pub struct Lookup {
    /// A file, or an address that begins with http://.
    pub source: String,
    /// Where the figure is, like /shards/*/stored: of all that a star stands for, the sum.
    pub pointer: String,
}

/// What is compared, and how long.
#[derive(Debug, Args)]
pub struct OneCore {
    /// The server.
    #[arg(long, value_name = "BINARY")]
    pub server: PathBuf,
    /// The generator, for latencies.
    #[arg(long, value_name = "BINARY")]
    pub loadgen: PathBuf,
    /// The server's processor.
    #[arg(long, default_value_t = 0)]
    pub server_cpu: usize,
    /// The generator's.
    #[arg(long, default_value_t = 1)]
    pub generator_cpu: usize,
    /// Where segments go: a real file system, not tmpfs [default: beside this binary].
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Rounds; every case runs once in each.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Length of a window in seconds.
    #[arg(long, default_value = "1.5", value_parser = seconds_f64)]
    pub window: f64,
    /// Time before it in seconds.
    #[arg(long, default_value = "0.5", value_parser = seconds_f64)]
    pub warm_up: f64,
    /// Connections.
    #[arg(short, long, default_value_t = 50, value_parser = one_or_more)]
    pub connections: usize,
    /// Unanswered lines per connection at most.
    #[arg(short, long, default_value_t = 2048)]
    pub pipeline: u64,
    /// Mean length of a line, its newline included.
    #[arg(long, default_value_t = crate::lines::FLAT_LEN, value_parser = one_or_more)]
    pub record_size: usize,
    /// Idle connections whose memory is measured.
    #[arg(long, default_value_t = 2000)]
    pub idle: usize,
    /// Of the order within the rounds.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Only cases whose names contain one of these.
    #[arg(long, value_name = "CASE")]
    pub only: Vec<String>,
    /// Exit code 0 even if a bound is missed.
    #[arg(long)]
    pub report_only: bool,
    /// The figures as JSON; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl Place {
    /// The server's processors and the generator's: one each, where nothing else was said.
    ///
    /// # Errors
    /// One of them may not be used here, or both share one although they need not.
    pub fn cpus(&self, allowed: &CpuList) -> io::Result<(Option<CpuList>, Option<CpuList>)> {
        // On one processor there is nothing to choose, and the verdicts on validity say what comes of it.
        if self.no_pin || (allowed.len() == 1 && self.server_cpus.is_none() && self.generator_cpus.is_none()) {
            return Ok((None, None));
        }
        let taken = |list: &Option<CpuList>| list.as_ref().map_or(Vec::new(), |list| list.as_slice().to_vec());
        let free = |others: &[usize]| {
            let free = allowed.as_slice().iter().find(|cpu| !others.contains(cpu));
            free.ok_or_else(|| io::Error::other("server and generator need a processor each; --no-pin does without"))
        };
        let one = |cpu: &usize| cpu.to_string().parse::<CpuList>().map_err(io::Error::other);
        let server = match &self.server_cpus {
            Some(list) => list.clone(),
            None => one(free(&taken(&self.generator_cpus))?)?,
        };
        let generator = match &self.generator_cpus {
            Some(list) => list.clone(),
            None => one(free(server.as_slice())?)?,
        };
        for list in [&server, &generator] {
            list.check_within(allowed).map_err(io::Error::other)?;
        }
        if server.as_slice().iter().any(|cpu| generator.as_slice().contains(cpu)) {
            return Err(io::Error::other(format!(
                "server (on {server}) and generator (on {generator}) share a processor: each would measure the other; \
                 --no-pin leaves it to the scheduler"
            )));
        }
        Ok((Some(server), Some(generator)))
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches('s').parse::<f64>().map_err(|_| "no number of seconds")?;
    match Duration::try_from_secs_f64(number) {
        Ok(span) if span <= SPAN_MAX => Ok(span),
        _ => Err("between nothing and a day, in seconds".into()),
    }
}

/// The same as a number.
fn seconds_f64(text: &str) -> Result<f64, String> {
    seconds(text).map(|span| span.as_secs_f64())
}

fn one_or_more(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "a whole number from 1 on".into())
}

const SPAN_MAX: Duration = Duration::from_secs(24 * 3600);

fn interval(text: &str) -> Result<Duration, String> {
    seconds(text).and_then(|span| if span.is_zero() { Err("has to be more than 0".into()) } else { Ok(span) })
}

impl Micro {
    /// Length of one run.
    pub fn span(&self) -> Duration {
        Duration::from_millis(self.run_ms)
    }
}

impl OneCore {
    /// Length of a window.
    pub fn window(&self) -> Duration {
        Duration::from_secs_f64(self.window)
    }

    /// Time before it.
    pub fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.warm_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn spans_and_numbers_that_no_run_could_have_are_refused_with_what_they_may_be() {
        for (line, said) in [
            ("tiers --window 1e300", "a day"),
            ("tiers --window 90000", "a day"),
            ("tiers --cooldown=-1", "a day"),
            ("compare default default --warm-up NaN", "a day"),
            ("floor --dir d --seconds inf", "a day"),
            ("floor --dir d --record-size 0", "from 1 on"),
            ("flood --port 1 --connections 0", "from 1 on"),
            ("one-core --server s --loadgen l --window=-0.5", "a day"),
            ("micro --run-ms 0", "1..=86400000"),
        ] {
            let words = std::iter::once("ringest-bench").chain(line.split(' '));
            let error = Cli::try_parse_from(words).expect_err(line).to_string();
            assert!(error.contains(said), "{line}: {error}");
        }
        assert!(Cli::try_parse_from(["ringest-bench", "tiers", "--window", "86400s"]).is_ok());
    }

    #[test]
    fn server_and_generator_have_processors_of_their_own() {
        let list = |text: &str| text.parse::<CpuList>().unwrap();
        let cpus = |place: Place, allowed: &str| {
            place
                .cpus(&list(allowed))
                .map(|(server, generator)| (server.map(|l| l.to_string()), generator.map(|l| l.to_string())))
        };
        let pair = |server: &str, generator: &str| (Some(server.to_owned()), Some(generator.to_owned()));
        let server = |text: &str| Place { server_cpus: Some(list(text)), ..Place::default() };
        assert_eq!(cpus(Place::default(), "0-3").unwrap(), pair("0", "1"));
        assert_eq!(cpus(Place::default(), "4,9").unwrap(), pair("4", "9"));
        assert_eq!(cpus(server("0-1"), "0-3").unwrap(), pair("0-1", "2"));
        assert_eq!(cpus(Place { generator_cpus: Some(list("0")), ..Place::default() }, "0-3").unwrap(), pair("1", "0"));
        assert_eq!(cpus(Place::default(), "0").unwrap(), (None, None));
        assert_eq!(cpus(Place { no_pin: true, ..Place::default() }, "0-3").unwrap(), (None, None));
        let refused = |place, allowed| cpus(place, allowed).unwrap_err().to_string();
        assert!(refused(server("0-1"), "0-1").contains("--no-pin"));
        assert!(refused(server("7"), "0-3").contains('7'));
        let both = Place { generator_cpus: Some(list("1-2")), ..server("0-1") };
        assert!(refused(both, "0-3").contains("share a processor"));
    }
}
