//! What was typed: flags and environment variables. What they mean is [`crate::config`]'s.

use crate::corpus::Kind;
use crate::io::Choice;
use crate::ledger::Mode;
use crate::packer::Compression;
use crate::schedule::Arrival;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args as Group, FromArgMatches, Parser, Subcommand};
use ringest_sys::cpu::CpuList;
use ringest_wire::AckLevel;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Sends log lines to a Ringest server and measures what becomes of them.
///
/// Exit codes: 0 pass, 1 could not run, 2 usage, 3 gate breached or connections lost for good, 4 measurement invalid,
/// 5 lines lost, duplicated or corrupted, 129/130/143 interrupted, with a partial report.
#[derive(Debug, Parser)]
#[command(name = "ringest-loadgen", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do instead of sending.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to send.
    #[command(flatten)]
    pub run: Args,
}

/// What to do instead of sending.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compares what was stored with what was acknowledged, line by line.
    Reconcile(Reconcile),
    /// Serves both modes and stores nothing: what a run reaches against it is the generator's own ceiling.
    Sink(Sink),
    /// Makes one report of those of shards that ran beside one another: counts and histograms are added.
    Merge(Merge),
    /// Shows two reports side by side, with the ratio of the second to the first.
    Diff(Diff),
}

/// What to merge.
#[derive(Debug, Group)]
pub struct Merge {
    /// Reports, as --json writes them.
    #[arg(required = true, value_name = "REPORT")]
    pub reports: Vec<PathBuf>,
    /// The merged report as JSON; `-` is standard output.
    #[arg(short = 'o', long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What to compare.
#[derive(Debug, Group)]
pub struct Diff {
    /// What to compare with.
    #[arg(value_name = "A")]
    pub one: PathBuf,
    /// What is compared.
    #[arg(value_name = "B")]
    pub two: PathBuf,
}

/// Where to listen.
#[derive(Debug, Group)]
pub struct Sink {
    /// The address; port 0 lets the kernel choose. The address in use is printed.
    #[arg(long, default_value = "127.0.0.1:9000", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// The processor to stay on [default: any].
    #[arg(long, value_name = "CPU")]
    pub cpu: Option<usize>,
    /// What carries the bytes: uring, epoll, or auto, which is uring where it works.
    #[arg(long, default_value = "auto", value_parser = io)]
    pub io: Choice,
}

/// What to compare.
#[derive(Debug, Group)]
pub struct Reconcile {
    /// What a run was promised; may be given several times.
    #[arg(long, required = true, value_name = "FILE")]
    pub ledger: Vec<PathBuf>,
    /// The findings as JSON; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Datagrams: how many the kernel dropped, by the server's books.
    #[arg(long, value_name = "DATAGRAMS", default_value_t = 0)]
    pub kernel_drops: u64,
    /// Datagrams: how many of their lines the server refused or filtered, by its books.
    #[arg(long, value_name = "LINES", default_value_t = 0)]
    pub refused: u64,
    /// Stored lines, as `ringest-server cat DIR` prints them, or segment files that are not compressed; standard input where
    /// none is given.
    #[arg(value_name = "RECORDS")]
    pub records: Vec<PathBuf>,
}

/// How to send.
#[derive(Clone, Debug, Group)]
pub struct Args {
    /// The server's name or address.
    #[arg(long, env = "SERVER_HOST", default_value = "localhost")]
    pub host: String,
    /// The server's port; with --udp it is 9001 where none is given.
    #[arg(long, env = "SERVER_PORT", default_value_t = 9000)]
    pub port: u16,
    /// Connections.
    #[arg(short, long, env = "CONCURRENCY", default_value_t = 5)]
    pub connections: u64,
    /// Workers, each with a thread and connections of its own [default: as many as --cpu-list names, or 1].
    #[arg(short, long, env = "LOADGEN_THREADS")]
    pub threads: Option<u64>,
    /// Processors for the workers, one each, like 0-3,8 [default: not pinned].
    #[arg(long, env = "LOADGEN_CPU_LIST", value_name = "LIST")]
    pub cpu_list: Option<CpuList>,
    /// Lines to send; 0 is no limit [default: 1000, or no limit where --duration is given].
    #[arg(short = 'n', long, env = "TOTAL_LOGS")]
    pub total_logs: Option<u64>,
    /// How long to send, like 30s, 500ms, 2m; 0 is no limit [default: 10s, or no limit where --total-logs is given].
    #[arg(short, long, env = "DURATION_SECS", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Open loop: lines per second of all workers, at times that do not wait for answers; 0 is a closed loop. A:B goes
    /// from one rate to the other within --duration.
    #[arg(short = 'R', long, env = "TARGET_RPS", value_parser = rate, value_name = "RATE")]
    pub rate: Option<RateRange>,
    /// Open loop: at even distances (fixed), or independently of one another, as the lines of many clients (poisson).
    #[arg(long, env = "LOADGEN_ARRIVAL", default_value = "fixed", value_parser = arrival)]
    pub arrival: Arrival,
    /// Goes from one --rate to the other in steps of that length instead of evenly.
    #[arg(long, env = "LOADGEN_STEP", value_parser = duration, value_name = "TIME")]
    pub step: Option<Duration>,
    /// Closed loop: a line is sent when an earlier one is answered.
    #[arg(long, env = "LOADGEN_CLOSED")]
    pub closed: bool,
    /// Lines unanswered per connection at most; in an open loop those beyond wait [default: the batch, or no limit with
    /// --rate].
    #[arg(short, long, env = "LOADGEN_PIPELINE", value_name = "DEPTH")]
    pub pipeline: Option<u64>,
    /// Open loop: lines due and unanswered at most; those that come due beyond are not sent at all and fail.
    #[arg(long, env = "LOADGEN_MAX_IN_FLIGHT", value_name = "LINES")]
    pub max_in_flight: Option<u64>,
    /// Lines are sent for that long before those that count, and until what is measured is flat, three times as long at most.
    #[arg(short, long, env = "LOADGEN_WARMUP", value_parser = duration, value_name = "TIME")]
    pub warmup: Option<Duration>,
    /// Lines per send at most.
    #[arg(long, env = "BATCH_SIZE", default_value_t = 100)]
    pub batch: u64,
    /// How connections speak: one reply per line, or numbered lines, acknowledged and sent exactly once.
    #[arg(long, env = "LOADGEN_MODE", default_value = "plain", value_parser = mode)]
    pub mode: Mode,
    /// Sends gzip members: none, line for one per line, batch for one per send, or bgzf. Alone, and true, is line; false none.
    #[arg(long, env = "COMPRESS", default_value = "none", num_args = 0..=1, default_missing_value = "true",
          value_parser = compression, value_name = "KIND")]
    pub compress: Compress,
    /// Sends datagrams instead, which nobody answers: as fast as the kernel takes them, or at --rate.
    #[arg(long, env = "LOADGEN_UDP", conflicts_with_all = ["mode", "plain_share", "ack", "closed"])]
    pub udp: bool,
    /// Datagrams: as many lines in each as fit into so many bytes, and a batch at most. A line is never divided.
    #[arg(long, env = "LOADGEN_DATAGRAM_SIZE", default_value_t = 1400, value_name = "BYTES")]
    pub datagram_size: usize,
    /// Share of the connections that speaks plain mode, like 10%; the others are sessions.
    #[arg(long, env = "LOADGEN_PLAIN_SHARE", value_parser = proportion, conflicts_with = "mode", value_name = "SHARE")]
    pub plain_share: Option<f64>,
    /// Sessions: what an acknowledgement is to promise: accepted, written or durable [default: the server's].
    #[arg(long, env = "LOADGEN_ACK", value_parser = ack)]
    pub ack: Option<AckLevel>,
    /// Sessions: the incarnation of the producers.
    #[arg(long, env = "LOADGEN_EPOCH", default_value_t = 0)]
    pub epoch: u64,
    /// Sessions: file whose first line is the token that the server asks for.
    #[arg(long, env = "LOADGEN_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// What carries the bytes: uring, epoll, or auto, which is uring where it works.
    #[arg(long, env = "LOADGEN_IO", default_value = "auto", value_parser = io)]
    pub io: Choice,
    /// How long a broken connection is tried again.
    #[arg(long, env = "LOADGEN_RECONNECT_FOR", default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub reconnect_for: Duration,
    /// How long answers are waited for after the last line, and in a run without --duration after the last answer.
    #[arg(long, env = "LOADGEN_DRAIN", default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub drain: Duration,
    /// Each connection ends and begins anew that often, like 5s: sessions in the middle, plain ones when all is answered.
    #[arg(long, env = "LOADGEN_RECONNECT_EVERY", value_parser = duration, value_name = "TIME")]
    pub reconnect_every: Option<Duration>,
    /// Connections beside the others that say nothing.
    #[arg(long, env = "LOADGEN_IDLE_CONNECTIONS", default_value_t = 0, value_name = "COUNT")]
    pub idle_connections: u64,
    /// Share of the connections that write 64 bytes every 20 ms, one line at a time.
    #[arg(long, env = "LOADGEN_SLOW_WRITERS", default_value = "0", value_parser = proportion, value_name = "SHARE")]
    pub slow_writers: f64,
    /// Share of the connections that read 512 bytes every 50 ms.
    #[arg(long, env = "LOADGEN_SLOW_READERS", default_value = "0", value_parser = proportion, value_name = "SHARE")]
    pub slow_readers: f64,
    /// What the lines are like: flat (of --record-size), access, app, audit, trace, unicode or mixed.
    #[arg(long, env = "LOADGEN_CORPUS_SHAPE", default_value = "flat", value_parser = Kind::parse, value_name = "KIND")]
    pub corpus_shape: Kind,
    /// Lines of your own: NDJSON, each line an object with level and message. Its stamp is put in as first member.
    #[arg(long, env = "LOADGEN_CORPUS", value_name = "FILE",
          conflicts_with_all = ["corpus_shape", "record_size", "rich_share", "bad_share"])]
    pub corpus: Option<PathBuf>,
    /// Mean length of a flat line in bytes, its newline included.
    #[arg(long, env = "LOADGEN_RECORD_SIZE", default_value_t = 180, value_name = "BYTES")]
    pub record_size: usize,
    /// The same seed sends the same text.
    #[arg(long, env = "LOADGEN_SEED", default_value_t = 1)]
    pub seed: u64,
    /// Share of lines with escapes, other scripts and a nested object, like 10%.
    #[arg(long, env = "LOADGEN_RICH_SHARE", default_value = "0", value_parser = proportion, value_name = "SHARE")]
    pub rich_share: f64,
    /// Share of lines that the server has to refuse, like 1%.
    #[arg(long, env = "LOADGEN_BAD_SHARE", default_value = "0", value_parser = proportion, value_name = "SHARE")]
    pub bad_share: f64,
    /// Whether each line carries its identity and checksum: full, or none for pure speed.
    #[arg(long, env = "LOADGEN_STAMP", default_value = "full", value_parser = stamp, action = ArgAction::Set)]
    pub stamp: bool,
    /// The run, as it is written in each line: 8 hex digits [default: random].
    #[arg(long, env = "LOADGEN_RUN_ID", value_parser = run_id, value_name = "HEX")]
    pub run_id: Option<u32>,
    /// Writes down which lines were acknowledged, for `reconcile`.
    #[arg(long, env = "LOADGEN_LEDGER", value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    /// The report as JSON; `-` is standard output.
    #[arg(short = 'o', long, env = "LOADGEN_JSON", value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// One row per second as lines of JSON, written while the run goes on; `-` is standard output.
    #[arg(long, env = "LOADGEN_SERIES", value_name = "FILE")]
    pub series: Option<PathBuf>,
    /// The histograms of every second as HdrHistogram's interval log, which its readers in other languages take.
    #[arg(long, env = "LOADGEN_HLOG", value_name = "FILE")]
    pub hlog: Option<PathBuf>,
    /// The percentile distribution of the response times as wrk2 prints it, in milliseconds.
    #[arg(long, env = "LOADGEN_HDR", value_name = "FILE")]
    pub hdr: Option<PathBuf>,
    /// Locust's CSV files: PREFIX_stats.csv, PREFIX_stats_history.csv, PREFIX_failures.csv.
    #[arg(long, env = "LOADGEN_CSV", value_name = "PREFIX")]
    pub csv: Option<PathBuf>,
    /// The result as metrics, in OpenMetrics text.
    #[arg(long, env = "LOADGEN_PROMETHEUS", value_name = "FILE")]
    pub prometheus: Option<PathBuf>,
    /// A JUnit test case per gate, and one for whether the measurement is valid.
    #[arg(long, env = "LOADGEN_JUNIT", value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Fails (exit code 3) where a greater share of the lines failed, like 1%.
    #[arg(long, env = "LOADGEN_MAX_ERROR_RATE", value_parser = proportion, value_name = "SHARE")]
    pub max_error_rate: Option<f64>,
    /// Runs the same for a second against a sink that stores nothing, and says how much more the generator could have done.
    #[arg(long, env = "LOADGEN_HEADROOM")]
    pub headroom: bool,
    /// Fails (exit code 3) where 99 % of the response times do not stay within that, like 5ms.
    #[arg(long, env = "LOADGEN_SLO_P99", value_parser = duration, value_name = "TIME")]
    pub slo_p99: Option<Duration>,
    /// Searches for the highest rate that keeps --slo-p99 and loses no line, from --rate on, or 1000. Each rate is tried for
    /// --duration, or 5s.
    #[arg(long, env = "LOADGEN_FIND_MAX")]
    pub find_max: bool,
    /// The measurement is invalid (exit code 4) where a greater share of the lines was late by the generator's or the host's
    /// fault. 100% is for runs whose latencies do not matter.
    #[arg(long, env = "LOADGEN_MAX_LATE_SHARE", default_value = "1%", value_parser = proportion, value_name = "SHARE")]
    pub max_late_share: f64,
    /// No progress and no table.
    #[arg(short, long, env = "LOADGEN_QUIET")]
    pub quiet: bool,
    /// Progress as a line per second on a terminal, too, in place of the dashboard. NO_COLOR takes only its colours.
    #[arg(long, env = "LOADGEN_PLAIN")]
    pub plain: bool,
    /// Encrypts; the server's certificate is always verified. What a server's ENABLE_TLS may say is understood, too.
    #[arg(long, env = "ENABLE_TLS", value_parser = encrypts, num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    pub tls: bool,
    /// The CA that has to have signed the server's certificate, as PEM.
    #[arg(long, env = "CA_CERT_PATH", default_value = "./certs/ca.crt", value_name = "FILE")]
    pub ca_cert: PathBuf,
    /// The certificate to show to a server that asks for one, as PEM.
    #[arg(long, env = "LOADGEN_CLIENT_CERT", value_name = "FILE")]
    pub client_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, env = "LOADGEN_CLIENT_KEY", value_name = "FILE")]
    pub client_key: Option<PathBuf>,
    /// The name that the server's certificate has to have [default: that of --host].
    #[arg(long, env = "LOADGEN_SERVER_NAME", value_name = "NAME")]
    pub server_name: Option<String>,
    /// Whether the rate came from a flag: only then it contradicts --closed.
    #[arg(skip)]
    pub rate_was_typed: bool,
    /// Whether the length of a line was asked for.
    #[arg(skip)]
    pub size_was_given: bool,
    /// Whether the port is the default.
    #[arg(skip)]
    pub port_was_left: bool,
}

/// What `--rate` says: both are the same where it does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateRange {
    /// At first.
    pub from: u64,
    /// At the end.
    pub to: u64,
}

impl fmt::Display for RateRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from == self.to { write!(f, "{}", self.from) } else { write!(f, "{}:{}", self.from, self.to) }
    }
}

/// What `--compress` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compress(pub Option<Compression>);

impl Cli {
    /// Reads the command line; what is wrong with it is said, and the process ends with code 2.
    pub fn from_command_line() -> Cli {
        let matches = <Cli as clap::CommandFactory>::command().get_matches();
        Cli::from_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    pub(crate) fn from_matches(matches: &ArgMatches) -> Result<Cli, clap::Error> {
        let mut cli = Cli::from_arg_matches(matches)?;
        cli.run.rate_was_typed = matches.value_source("rate") == Some(ValueSource::CommandLine);
        cli.run.size_was_given = matches.value_source("record_size") != Some(ValueSource::DefaultValue);
        cli.run.port_was_left = matches.value_source("port") == Some(ValueSource::DefaultValue);
        Ok(cli)
    }
}

/// `30s`, `500ms`, `2m`, `1h`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit.trim() {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "us" => 0.000_001,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("unknown unit \"{unit}\"; write it like 30s, 500ms, 2m or 1h")),
    };
    let number: f64 = number.parse().map_err(|_| "no number; write it like 30s, 500ms, 2m or 1h".to_owned())?;
    match Duration::try_from_secs_f64(number * seconds) {
        Ok(duration) if duration <= DURATION_MAX => Ok(duration),
        Ok(_) | Err(_) => Err("more than a year; write it like 30s, 500ms, 2m or 1h".into()),
    }
}

/// `1%` or `0.01`.
fn proportion(text: &str) -> Result<f64, String> {
    let (number, scale) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    match number.trim().parse::<f64>() {
        Ok(number) if (0.0..=scale).contains(&number) => Ok(number / scale),
        _ => Err("not a share; write it like 1% or 0.01, between 0 and 1".into()),
    }
}

/// `1000` or `1000:5000`.
fn rate(text: &str) -> Result<RateRange, String> {
    let (from, to) = text.split_once(':').unwrap_or((text, text));
    let number = |text: &str| text.trim().parse::<u64>();
    match (number(from), number(to)) {
        (Ok(from), Ok(to)) => Ok(RateRange { from, to }),
        _ => Err("not a rate; write it like 1000, or 1000:5000 to go from one to the other".into()),
    }
}

fn arrival(text: &str) -> Result<Arrival, String> {
    match text {
        "fixed" => Ok(Arrival::Fixed),
        "poisson" => Ok(Arrival::Poisson),
        _ => Err("one of fixed, poisson".into()),
    }
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "plain" => Ok(Mode::Plain),
        "session" => Ok(Mode::Session),
        _ => Err("one of plain, session".into()),
    }
}

fn io(text: &str) -> Result<Choice, String> {
    match text {
        "auto" => Ok(Choice::Auto),
        "uring" => Ok(Choice::Uring),
        "epoll" => Ok(Choice::Epoll),
        _ => Err("one of auto, uring, epoll".into()),
    }
}

fn compression(text: &str) -> Result<Compress, String> {
    Compression::parse(text).map(Compress)
}

fn ack(text: &str) -> Result<AckLevel, String> {
    match text.parse()? {
        AckLevel::None => Err("nothing would be answered, so nothing could be measured".into()),
        level => Ok(level),
    }
}

fn encrypts(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" | "y" | "t" | "require" | "allow" => Ok(true),
        "false" | "0" | "no" | "off" | "n" | "f" | "" => Ok(false),
        _ => Err("true or false".into()),
    }
}

fn stamp(text: &str) -> Result<bool, String> {
    match text {
        "full" => Ok(true),
        "none" => Ok(false),
        _ => Err("one of full, none".into()),
    }
}

fn run_id(text: &str) -> Result<u32, String> {
    let hex = text.len() == 8 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let number = hex.then(|| u32::from_str_radix(text, 16).ok()).flatten();
    number.ok_or_else(|| "a run is 8 lower-case hex digits, as in 7f3a9c01".into())
}

/// Far beyond any run, and far below what nanoseconds in 64 bits can say.
const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn durations_and_shares_are_read_as_people_write_them() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(duration("5 parsecs").is_err() && duration("s").is_err() && duration("").is_err());
        // 2^64 nanoseconds and a second: once this was a second.
        for long in ["18446744074.7s", "8785h", "99999999999999999999h"] {
            assert!(duration(long).unwrap_err().contains("more than a year"), "{long}");
        }
        assert_eq!(duration("8784h"), Ok(DURATION_MAX));
        assert_eq!((proportion("1%"), proportion("0.25")), (Ok(0.01), Ok(0.25)));
        assert!(proportion("101%").is_err() && proportion("-1%").is_err() && proportion("x").is_err());
    }
}
