//! What a run is to be: resolved from what was typed, every refusal explained.

use crate::cli::{Args, RateRange};
use crate::connection::SessionTerms;
use crate::corpus::{Kind, RECORD_SIZES, Shape, Source};
use crate::datagrams;
use crate::io::Choice;
use crate::law::{OVER_MAX_NS, RATE_MAX};
use crate::ledger::Mode;
use crate::output::is_stdout;
use crate::packer::Compression;
use crate::records::Places;
use crate::schedule::{Arrival, Pace, share};
use crate::stream::TlsTerms;
use crate::token::Token;
use crate::worker::Habits;
use ringest_sys::cpu::{self, CpuList};
use std::path::PathBuf;
use std::time::Duration;

/// One run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How connections are encrypted; none where they are not.
    pub tls: Option<TlsTerms>,
    /// What is to carry the bytes.
    pub io: Choice,
    /// Threads.
    pub workers: u64,
    /// The processor of each worker; none where they are not pinned.
    pub cpus: Option<CpuList>,
    /// Connections of all workers.
    pub connections: u64,
    /// The longest datagram, where datagrams are sent.
    pub datagram_len_max: Option<usize>,
    /// Lines per second of all workers, and how they are spread; `None` is a closed loop.
    pub pace: Option<Pace>,
    /// Lines unanswered per connection at most; in an open loop without a limit unless one was asked for.
    pub depth: u64,
    /// Open loop: lines due and unanswered at most, of all connections; those that come due beyond are shed.
    pub in_flight_max: Option<u64>,
    /// How long lines are sent at least before those that count.
    pub warm_up: Option<Duration>,
    /// Lines per send at most.
    pub batch: u64,
    /// Lines of all workers.
    pub lines: Option<u64>,
    /// How long lines are sent.
    pub duration: Option<Duration>,
    /// How long answers are waited for after the last line.
    pub drain: Duration,
    /// How long a broken connection is tried again.
    pub reconnect_for: Duration,
    /// What becomes a gzip member; `None` sends plain text.
    pub compression: Option<Compression>,
    /// How many of the connections speak plain mode, 0 to 1.
    pub plain_share: f64,
    /// What connections are in the habit of, of all workers.
    pub habits: Asked,
    /// How sessions speak.
    pub terms: SessionTerms,
    /// Where the lines come from.
    pub source: Source,
    /// What drawn lines are like.
    pub shape: Shape,
    /// Whether lines carry their identity.
    pub stamped: bool,
    /// The run, as it is written in each line.
    pub run: u32,
    /// Where the ledger goes.
    pub ledger: Option<PathBuf>,
    /// Where everything else goes.
    pub places: Places,
    /// No progress, no table.
    pub quiet: bool,
    /// Progress as lines, on a terminal, too.
    pub plain: bool,
    /// Whether the same is run against a sink afterwards.
    pub headroom: bool,
    /// The gate: 99 % of the response times stay within that.
    pub slo_p99: Option<Duration>,
    /// Searches for the highest rate that keeps it.
    pub find_max: bool,
    /// The share of the lines that may be late by the generator's or the host's fault, 0 to 1.
    pub late_share_max: f64,
    /// The gate: failed lines out of finished ones, 0 to 1.
    pub error_rate_max: Option<f64>,
}

/// The habits of a fleet.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Asked {
    /// How long each connection lives; `None` for as long as the run.
    pub reconnect_every: Option<Duration>,
    /// Connections that are opened and say nothing.
    pub idle: u64,
    /// The share of the connections that write a few bytes at a time, 0 to 1.
    pub slow_writers: f64,
    /// The share of those that read a few at a time, 0 to 1.
    pub slow_readers: f64,
}

impl Config {
    /// What was typed, made sense of.
    ///
    /// # Errors
    /// A sentence that says which setting is wrong, and what to do.
    pub fn resolve(args: &Args) -> Result<Config, String> {
        refuse_unsupported(args)?;
        let cpus = cpus(args)?;
        let workers = args.threads.unwrap_or_else(|| cpus.as_ref().map_or(1, |list| list.len() as u64));
        if let Some(list) = cpus.as_ref().filter(|list| list.len() as u64 != workers) {
            return Err(format!(
                "--threads {workers} and --cpu-list {list} disagree: one worker owns one processor, so name as many as \
                 there are workers, or leave --threads out"
            ));
        }
        let (lines, duration) = if args.find_max { probe_limits(args)? } else { limits(args)? };
        let pace = pace(args, duration)?;
        let token = args.token_file.as_deref().map(Token::read).transpose()?;
        let config = Config {
            host: args.host.clone(),
            tls: tls(args)?,
            io: args.io,
            port: if args.udp && args.port_was_left { UDP_PORT } else { args.port },
            datagram_len_max: args.udp.then_some(args.datagram_size),
            workers,
            cpus,
            connections: args.connections,
            pace,
            depth: args.pipeline.unwrap_or(if pace.is_some() { u64::MAX } else { args.batch }),
            in_flight_max: args.max_in_flight,
            warm_up: args.warmup.or(args.find_max.then_some(PROBE_WARM_UP)).filter(|least| !least.is_zero()),
            batch: args.batch,
            lines,
            duration,
            drain: args.drain,
            reconnect_for: args.reconnect_for,
            compression: args.compress.0,
            plain_share: args.plain_share.unwrap_or(match args.mode {
                Mode::Plain => 1.0,
                Mode::Session => 0.0,
            }),
            habits: Asked {
                reconnect_every: args.reconnect_every,
                idle: args.idle_connections,
                slow_writers: args.slow_writers,
                slow_readers: args.slow_readers,
            },
            terms: SessionTerms { epoch: args.epoch, ack: args.ack, token },
            source: source(args)?,
            shape: Shape {
                seed: args.seed,
                record_size: args.record_size,
                rich_share: args.rich_share,
                bad_share: args.bad_share,
            },
            stamped: args.stamp,
            run: args.run_id.unwrap_or_else(random_run),
            ledger: args.ledger.clone(),
            places: Places {
                json: args.json.clone(),
                series: args.series.clone(),
                hlog: args.hlog.clone(),
                hdr: args.hdr.clone(),
                csv: args.csv.clone(),
                prometheus: args.prometheus.clone(),
                junit: args.junit.clone(),
            },
            quiet: args.quiet,
            plain: args.plain,
            headroom: args.headroom,
            error_rate_max: args.max_error_rate,
            slo_p99: args.slo_p99,
            find_max: args.find_max,
            late_share_max: args.max_late_share,
        };
        config.check()?;
        Ok(config)
    }

    /// The rate that was asked for, on average over the run; none in a closed loop.
    pub fn target_per_s(&self) -> Option<f64> {
        let pace = self.pace?;
        let duration_ns = self.duration.map(|duration| duration.as_nanos() as u64);
        let mean = duration_ns.filter(|_| pace.from != pace.to).map(|duration_ns| {
            let lines = pace.law(Some(duration_ns)).due(duration_ns.saturating_sub(1));
            lines as f64 / (duration_ns as f64 / 1e9)
        });
        Some(mean.unwrap_or(pace.from as f64))
    }

    /// How each connection of a worker speaks. Plain ones are spread evenly over all.
    pub fn modes(&self, worker: u64) -> Vec<Mode> {
        let plain = self.chosen(worker, self.plain_share, 0);
        plain.into_iter().map(|is_plain| if is_plain { Mode::Plain } else { Mode::Session }).collect()
    }

    /// What the connections of a worker are in the habit of.
    pub fn habits(&self, worker: u64) -> Habits {
        let Asked { reconnect_every, idle, slow_writers, slow_readers } = self.habits;
        Habits {
            reconnect_every_ns: reconnect_every.map(|every| every.as_nanos() as u64),
            idle: share(idle, worker, self.workers),
            // Not all of them the same, nor all of them in plain mode.
            slow_writers: self.chosen(worker, slow_writers, 1),
            slow_readers: self.chosen(worker, slow_readers, 2),
        }
    }

    /// Which connections of a worker belong to a share of all, spread evenly, `shift` places on.
    fn chosen(&self, worker: u64, part: f64, shift: u64) -> Vec<bool> {
        let first: u64 = (0..worker).map(|before| share(self.connections, before, self.workers)).sum();
        let before = |connection: u64| (connection as f64 * part + 1e-9).floor();
        (first..first + share(self.connections, worker, self.workers))
            .map(|at| (at + shift) % self.connections)
            .map(|at| before(at + 1) > before(at))
            .collect()
    }

    fn check(&self) -> Result<(), String> {
        let Config { workers, connections, batch, depth, .. } = *self;
        let size = self.shape.record_size;
        if !(1..=WORKERS_MAX).contains(&workers) {
            return Err(format!("--threads {workers}: there are 1 to {WORKERS_MAX} workers"));
        }
        if connections < workers {
            return Err(format!(
                "--connections {connections} is below --threads {workers}: each worker needs a connection of its own; \
                 use more connections or fewer threads"
            ));
        }
        for (flag, count) in [("--connections", connections), ("--idle-connections", self.habits.idle)] {
            if count / workers > CONNECTIONS_MAX {
                return Err(format!("{flag} {count}: a worker takes at most {CONNECTIONS_MAX}; use more --threads"));
            }
        }
        if let Some(pace) = self.pace {
            if pace.from.min(pace.to) < workers {
                return Err(format!(
                    "--rate is below --threads {workers}: each worker sends at least one line per second; use fewer threads"
                ));
            }
            if pace.from.max(pace.to) > RATE_MAX {
                return Err(format!("--rate: at most {RATE_MAX} lines per second"));
            }
        }
        if let Some(max) = self.in_flight_max {
            if self.pace.is_none() {
                return Err("--max-in-flight is for an open loop, and a closed loop has --pipeline; add --rate".into());
            }
            if max < workers {
                return Err(format!(
                    "--max-in-flight {max} is below --threads {workers}: each worker needs one of them"
                ));
            }
            if self.datagram_len_max.is_some() {
                return Err("--max-in-flight: nobody answers datagrams, so none is in flight; leave it out".into());
            }
        }
        if self.lines.is_some_and(|lines| lines < workers) {
            return Err(format!("--total-logs is below --threads {workers}: use fewer threads"));
        }
        if self.terms.token.is_some() && self.plain_share >= 1.0 {
            return Err("--token-file is for sessions, and plain connections show none; add --mode session".into());
        }
        if batch == 0 || depth == 0 {
            return Err("--batch and --pipeline are at least 1".into());
        }
        if !RECORD_SIZES.contains(&size) {
            let (min, max) = (RECORD_SIZES.start(), RECORD_SIZES.end());
            return Err(format!("--record-size {size}: lines have {min} to {max} bytes on average"));
        }
        if let Some(len) = self.datagram_len_max {
            // Lines vary by up to an eighth.
            let longest = size + size / 8;
            if longest > datagrams::LEN_MAX || !(1..=datagrams::LEN_MAX).contains(&len) {
                return Err(format!(
                    "--datagram-size {len} with --record-size {size}: a datagram has at most {} bytes, and a line is \
                     never divided",
                    datagrams::LEN_MAX
                ));
            }
        }
        if self.ledger.is_some() && !self.stamped {
            return Err("--ledger needs lines that carry their identity; leave --stamp none out".into());
        }
        if self.habits.reconnect_every.is_some_and(|every| every < RECONNECT_EVERY_MIN) {
            return Err(format!("--reconnect-every: a connection lives for {RECONNECT_EVERY_MIN:?} at least"));
        }
        if self.datagram_len_max.is_some() && self.habits != Asked::default() {
            return Err(
                "--udp: datagrams have no connections that could come, go, idle or be slow; leave --reconnect-every, \
                        --idle-connections, --slow-writers and --slow-readers out"
                    .into(),
            );
        }
        if self.find_max {
            self.check_search()?;
        }
        self.check_places()
    }

    /// A search is many runs.
    fn check_search(&self) -> Result<(), String> {
        if self.slo_p99.is_none() {
            return Err(
                "--find-max looks for the highest rate that keeps a promise; make one with --slo-p99, like 5ms".into(),
            );
        }
        if self.pace.is_some_and(|pace| pace.from != pace.to) {
            return Err("--find-max begins with one --rate, and does not go from one to another".into());
        }
        if self.datagram_len_max.is_some() {
            return Err("--find-max: nobody answers datagrams, so no rate is too high; leave --udp out".into());
        }
        if self.headroom {
            return Err(
                "--find-max and --headroom: a search is many runs; measure the headroom at the rate it finds".into()
            );
        }
        let of_a_run = self.places.all().into_iter().map(|(flag, _)| flag).find(|flag| *flag != "--json");
        match of_a_run.or(self.ledger.is_some().then_some("--ledger")) {
            Some(flag) => {
                Err(format!("--find-max and {flag}: a search is many runs; run the rate that it finds by itself"))
            }
            None => Ok(()),
        }
    }

    /// Two files in one place would be neither.
    fn check_places(&self) -> Result<(), String> {
        let ledger = self.ledger.iter().map(|path| ("--ledger", path));
        let mut taken: Vec<(&str, PathBuf)> = Vec::new();
        if self.places.csv.as_deref().is_some_and(is_stdout) {
            return Err("--csv is the beginning of three names, and three files do not go to standard output".into());
        }
        let ledger = ledger.map(|(flag, path)| (flag, path.clone()));
        for (flag, path) in ledger.chain(self.places.all()) {
            if let Some((other, _)) = taken.iter().find(|(_, there)| *there == path) {
                let place = if is_stdout(&path) { "standard output".into() } else { path.display().to_string() };
                return Err(format!("{other} and {flag} both go to {place}; name another place for one of them"));
            }
            taken.push((flag, path));
        }
        Ok(())
    }
}

/// Only plain records are of a length that is asked for, and a user's lines are as they are.
fn source(args: &Args) -> Result<Source, String> {
    let kind = args.corpus_shape;
    match &args.corpus {
        Some(path) => Ok(Source::File(path.clone())),
        None if kind != Kind::Flat && (args.size_was_given || args.rich_share > 0.0) => Err(format!(
            "--corpus-shape {} and --record-size or --rich-share: only flat lines take those, others are as long as they \
             are; leave one out",
            kind.as_str()
        )),
        None => Ok(Source::Drawn(kind)),
    }
}

fn refuse_unsupported(args: &Args) -> Result<(), String> {
    if args.udp && args.tls {
        return Err("--udp and --tls (ENABLE_TLS): datagrams are plain text; leave one of them out".into());
    }
    if args.headroom && (args.tls || args.compress.0.is_some()) {
        return Err("--headroom: the sink reads neither --tls nor --compress; leave it out, or them".into());
    }
    if args.udp && args.compress.0.is_some() {
        return Err("--udp and --compress (COMPRESS): datagrams are plain text; leave one of them out".into());
    }
    Ok(())
}

fn tls(args: &Args) -> Result<Option<TlsTerms>, String> {
    let shown = match (&args.client_cert, &args.client_key) {
        (Some(certificate), Some(key)) => Some((certificate.as_path(), key.as_path())),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => return Err("--client-cert and --client-key go together".into()),
    };
    if !args.tls {
        return match shown {
            Some(_) => Err("--client-cert is shown to nobody without --tls".into()),
            None => Ok(None),
        };
    }
    TlsTerms::load(&args.ca_cert, shown, args.server_name.as_ref().unwrap_or(&args.host)).map(Some)
}

fn cpus(args: &Args) -> Result<Option<CpuList>, String> {
    let Some(list) = &args.cpu_list else { return Ok(None) };
    let allowed = cpu::allowed().map_err(|error| error.to_string())?;
    list.check_within(&allowed).map_err(|error| format!("--cpu-list {list}: {error}"))?;
    Ok(Some(list.clone()))
}

fn pace(args: &Args, duration: Option<Duration>) -> Result<Option<Pace>, String> {
    let (from, to) = match (args.closed, args.rate) {
        (true, Some(rate)) if args.rate_was_typed => {
            return Err(format!("--closed and --rate {rate} exclude one another: a closed loop has no schedule"));
        }
        (true, _) | (false, None | Some(RateRange { from: 0, to: 0 })) => {
            let orphan = [("--step", args.step.is_some()), ("--arrival poisson", args.arrival == Arrival::Poisson)];
            return match orphan.iter().find(|(_, is_typed)| *is_typed) {
                Some((flag, _)) => {
                    Err(format!("{flag} is for an open loop, and a closed loop has no schedule; add --rate"))
                }
                None => Ok(None),
            };
        }
        (false, Some(RateRange { from, to })) => (from, to),
    };
    let pace = Pace { from, to, step_ns: args.step.map(|step| step.as_nanos() as u64), arrival: args.arrival };
    if from == to {
        return match args.step {
            Some(_) => Err("--step goes from one rate to another; write --rate as A:B, like 1000:5000".into()),
            None => Ok(Some(pace)),
        };
    }
    let Some(duration) = duration else {
        return Err(format!(
            "--rate {from}:{to} changes over the time of the run; say how long that is with --duration"
        ));
    };
    if duration.as_nanos() > u128::from(OVER_MAX_NS) {
        return Err("--duration: a rate changes within a week at most".into());
    }
    if let Some(step) = args.step {
        let is_whole = !step.is_zero() && duration.as_nanos().is_multiple_of(step.as_nanos());
        if !is_whole || duration < step * 2 {
            return Err(format!("--step {step:?}: --duration {duration:?} is not two or more steps of that length"));
        }
    }
    Ok(Some(pace))
}

/// One limit that is given lifts the default of the other, so that `-d 60s` is a minute and not a thousand lines.
fn limits(args: &Args) -> Result<(Option<u64>, Option<Duration>), String> {
    let lines = args.total_logs.filter(|lines| *lines > 0);
    let duration = args.duration.filter(|duration| !duration.is_zero());
    match (args.total_logs, args.duration) {
        (None, None) => Ok((Some(TOTAL_LOGS), Some(DURATION))),
        _ if lines.is_none() && duration.is_none() => {
            Err("--total-logs 0 and --duration 0 are no limit: give one of them, or the run never ends".into())
        }
        _ => Ok((lines, duration)),
    }
}

/// Each rate that a search tries is run for a time, and not for a number of lines.
fn probe_limits(args: &Args) -> Result<(Option<u64>, Option<Duration>), String> {
    if args.total_logs.is_some_and(|lines| lines > 0) {
        return Err("--find-max and --total-logs: each rate is tried for a time; give --duration".into());
    }
    if args.closed {
        return Err("--find-max and --closed: a closed loop has no rate".into());
    }
    Ok((None, Some(args.duration.filter(|duration| !duration.is_zero()).unwrap_or(PROBE))))
}

/// Different from run to run; nothing depends on how.
fn random_run() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) as u32
}

/// Below that, connecting is all that is done.
const RECONNECT_EVERY_MIN: Duration = Duration::from_millis(10);
const UDP_PORT: u16 = 9001;
/// How long a search tries a rate, and warms up before.
const PROBE: Duration = Duration::from_secs(5);
const PROBE_WARM_UP: Duration = Duration::from_millis(500);
const TOTAL_LOGS: u64 = 1000;
const DURATION: Duration = Duration::from_secs(10);
const WORKERS_MAX: u64 = 999;
/// Connections that replace broken ones need numbers, too.
const CONNECTIONS_MAX: u64 = 500_000;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;

    /// What a command line means.
    pub(crate) fn resolve(line: &str) -> Result<Config, String> {
        let words = std::iter::once("ringest-loadgen").chain(line.split_whitespace());
        let matches = Cli::command().try_get_matches_from(words).map_err(|error| error.to_string())?;
        let cli = Cli::from_matches(&matches).map_err(|error| error.to_string())?;
        Config::resolve(&cli.run)
    }

    #[test]
    fn giving_one_limit_lifts_the_default_of_the_other() {
        let limits = |line: &str| resolve(line).map(|config| (config.lines, config.duration));
        assert_eq!(limits(""), Ok((Some(1000), Some(Duration::from_secs(10)))));
        assert_eq!(limits("-d 60s"), Ok((None, Some(Duration::from_secs(60)))));
        assert_eq!(limits("-n 5"), Ok((Some(5), None)));
        assert_eq!(limits("-n 5 -d 1500ms"), Ok((Some(5), Some(Duration::from_millis(1500)))));
        assert!(limits("-n 0").unwrap_err().contains("never ends"));
    }

    #[test]
    fn edges_that_break_other_tools_are_refused_in_sentences() {
        for (line, sentence) in [
            ("-t 4 -c 3", "each worker needs a connection"),
            ("-t 4 -c 8 -R 3", "--rate is below --threads 4"),
            ("-t 4 -c 8 -n 3", "--total-logs is below"),
            ("--closed -R 100", "exclude one another"),
            ("-R 1:2000 -d 1s -t 2 -c 2", "--rate is below --threads 2"),
            ("-R 100:200 -n 100", "say how long that is with --duration"),
            ("-R 100000001", "at most 100000000"),
            ("-R 100:200:300", "100:200:300"),
            ("-R 10: -d 1s", "10:"),
            ("-R 100 --step 1s -d 4s", "write --rate as A:B"),
            ("-R 1:9 --step 1500ms -d 4s", "two or more steps"),
            ("-R 1:9 --step 4s -d 4s", "two or more steps"),
            ("-R 1:9 --step 0 -d 4s", "two or more steps"),
            ("-R 1:9 -d 200h", "within a week"),
            ("--step 1s", "add --rate"),
            ("--arrival poisson", "add --rate"),
            ("--reconnect-every 9ms", "10ms at least"),
            ("--udp --idle-connections 3", "no connections"),
            ("-c 500001", "--connections 500001: a worker takes at most 500000"),
            ("--idle-connections 18446744073709551615", "a worker takes at most 500000"),
            ("-d 6000000h", "more than a year"),
            ("--slow-readers 101%", "between 0 and 1"),
            ("--find-max", "make one with --slo-p99"),
            ("--find-max --slo-p99 5ms -n 10", "give --duration"),
            ("--find-max --slo-p99 5ms --closed", "has no rate"),
            ("--find-max --slo-p99 5ms --udp", "nobody answers datagrams"),
            ("--find-max --slo-p99 5ms -R 1:9", "begins with one --rate"),
            ("--find-max --slo-p99 5ms --ledger l", "--find-max and --ledger"),
            ("--find-max --slo-p99 5ms --series s", "--find-max and --series"),
            ("--find-max --slo-p99 5ms --headroom", "many runs"),
            ("--max-in-flight 5", "a closed loop has --pipeline"),
            ("-R 9 --max-in-flight 1 -t 2 -c 2", "below --threads 2"),
            ("-R 9 --max-in-flight 5 --udp", "nobody answers datagrams"),
            ("-R 10 --arrival often", "one of fixed, poisson"),
            ("--batch 0", "at least 1"),
            ("--record-size 20", "112 to 131072"),
            ("--ledger l.json --stamp none", "carry their identity"),
            ("--cpu-list 0 -t 2 -c 2", "disagree"),
            ("--cpu-list 1000", "not open to this process"),
            ("--udp --compress line", "datagrams are plain text"),
            ("--corpus-shape access --record-size 200", "only flat lines take those"),
            ("--corpus-shape telepathy", "one of flat, access, app, audit, trace, unicode, mixed"),
            ("--corpus a.ndjson --bad-share 1%", "--bad-share"),
            ("--corpus a.ndjson --corpus-shape app", "--corpus-shape"),
            ("--json - --series -", "--json and --series both go to standard output"),
            ("--csv -", "three files do not go to standard output"),
            ("--csv a --series a_stats_history.csv", "--series and --csv both go to a_stats_history.csv"),
            ("--json r --ledger r", "--ledger and --json both go to r"),
            ("--tls --ca-cert /none", "--ca-cert (CA_CERT_PATH): /none cannot be read"),
            ("--tls --client-cert c.crt", "go together"),
            ("--client-cert c.crt --client-key c.key", "without --tls"),
            ("--udp --datagram-size 0", "--datagram-size 0"),
            ("--udp --record-size 60000", "never divided"),
            ("--udp --tls", "plain text"),
            ("--headroom --compress batch", "the sink reads neither"),
        ] {
            let error = resolve(line).expect_err(line);
            assert!(error.contains(sentence), "{line}: {error}");
        }
    }

    #[test]
    fn a_rate_is_a_number_or_goes_from_one_to_another() {
        let pace = |line: &str| resolve(line).unwrap().pace;
        assert_eq!(pace("-R 1000"), Some(Pace::fixed(1000)));
        assert_eq!((pace("-R 0"), pace(""), pace("--closed")), (None, None, None));
        let ramp = Pace { from: 1000, to: 500, step_ns: None, arrival: Arrival::Poisson };
        assert_eq!(pace("-R 1000:500 -d 10s --arrival poisson"), Some(ramp));
        let stairs = Pace { from: 1, to: 9, step_ns: Some(2_000_000_000), arrival: Arrival::Fixed };
        assert_eq!(pace("-R 1:9 -d 10s --step 2s"), Some(stairs));
        assert_eq!(resolve("-R 1000:500 -d 10s").unwrap().target_per_s(), Some(750.0));
    }

    #[test]
    fn plain_connections_are_as_many_as_asked_for_whatever_the_number_of_workers() {
        for workers in [1, 2, 3, 7] {
            let config = resolve(&format!("-c 40 -t {workers} --plain-share 10%")).unwrap();
            let modes: Vec<Mode> = (0..workers).flat_map(|worker| config.modes(worker)).collect();
            assert_eq!(modes.len(), 40);
            assert_eq!(modes.iter().filter(|mode| **mode == Mode::Plain).count(), 4);
        }
        assert!(resolve("-c 9").unwrap().modes(0).iter().all(|mode| *mode == Mode::Plain));
        assert!(resolve("-c 9 --mode session").unwrap().modes(0).iter().all(|mode| *mode == Mode::Session));
    }
}
