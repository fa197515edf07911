//! The result of a run, as a file that other tools read: one JSON object with a versioned name.
//!
//! It is data alone: no figure here is computed from another figure, only from counts and histograms.

use crate::headroom::Headroom;
use crate::knee::Knee;
use crate::latency::{Figures, Latency, Spread};
use crate::validity::{LATE_SHARE_MAX, Validity};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

/// The name and version of the form.
pub const SCHEMA: &str = "ringest.loadgen.v1";

/// The result of one or more measurements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Report {
    /// The name and version of the form.
    #[cfg_attr(test, schemars(extend("const" = SCHEMA)))]
    pub schema: String,
    /// The run, as it is written in each line.
    pub run_id: String,
    /// When the run began, in UTC.
    pub timestamp: String,
    /// What measured.
    pub tool: Tool,
    /// The seed of the lines.
    pub seed: u64,
    /// SHA-256 of the lines' text before it is stamped: equal numbers, equal bytes.
    pub payload_sha256: String,
    /// Where it was measured.
    pub system: System,
    /// The measurements.
    pub tests: Vec<Test>,
    /// What a search for the highest rate found; its probes are the measurements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub find_max: Option<Knee>,
    /// Whether what was measured can be proved.
    pub verification: Verification,
}

/// What measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Tool {
    /// The program.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// Where it was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct System {
    /// The processor's name.
    pub cpu: String,
    /// Processors this process may use.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Test {
    /// What it is called.
    pub name: String,
    /// How it was run.
    pub config: TestConfig,
    /// Which part of the run was measured.
    #[serde(default)]
    pub window: Window,
    /// What came out.
    pub results: Results,
    /// What it cost.
    pub resources: Resources,
    /// How much more the generator could have done, where that was measured.
    pub headroom: Option<Headroom>,
    /// Whether the schedule was kept, and if not, whose fault that was.
    pub validity: Validity,
    /// The conditions it had to meet.
    pub gates: Vec<Gate>,
    /// `pass`, `fail`, `invalid` where latencies may not be concluded from, or `interrupted`.
    pub verdict: String,
}

/// How a measurement was run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TestConfig {
    /// Host and port as they were given.
    pub target: String,
    /// `closed` or `open`.
    pub model: String,
    /// `plain`, `session`, `mixed` or `datagram`.
    pub mode: String,
    /// Of the connections, how many spoke plain mode.
    pub plain_connections: u64,
    /// All connections.
    pub connections: u64,
    /// Threads.
    pub workers: u64,
    /// Their processors, in the kernel's notation; none where they were not pinned.
    pub cpu_list: Option<String>,
    /// Lines unanswered per connection at most; none for no limit.
    pub pipeline: Option<u64>,
    /// Open loop: lines due and unanswered at most; none for no limit.
    #[serde(default)]
    pub max_in_flight: Option<u64>,
    /// The least time of the warm-up, in seconds; none where there was none.
    #[serde(default)]
    pub warmup_s: Option<f64>,
    /// What was a gzip member: `none`, `line`, `batch` or `bgzf`.
    pub compress: String,
    /// Lines per send at most.
    pub batch: u64,
    /// Lines per second, at first; none in a closed loop.
    pub rate: Option<u64>,
    /// Lines per second at the end, where that is another rate.
    #[serde(default)]
    pub rate_to: Option<u64>,
    /// How long each rate between the two was kept, in seconds; none where it changed evenly.
    #[serde(default)]
    pub step_s: Option<f64>,
    /// How lines were spread, `fixed` or `poisson`; none in a closed loop.
    #[serde(default)]
    pub arrival: Option<String>,
    /// The limit in lines.
    pub total_logs: Option<u64>,
    /// The limit in seconds.
    pub duration_s: Option<f64>,
    /// What the lines were like: a kind of drawn ones, or a file.
    #[serde(default)]
    pub corpus: String,
    /// Mean length of a line.
    pub record_size: usize,
    /// Share of lines with escapes and other scripts.
    pub rich_share: f64,
    /// Share of lines that had to be refused.
    pub bad_share: f64,
    /// The share of the lines that might be late by the generator's or the host's fault.
    #[serde(default = "usual_late_share")]
    pub max_late_share: f64,
    /// Whether lines carried their identity.
    pub stamped: bool,
    /// Whether connections were encrypted.
    #[serde(default)]
    pub encrypted: bool,
    /// What carried the bytes: `uring` or `epoll`.
    pub io: String,
    /// What an answer promised: the level of sessions, or `reply` where only plain replies were counted.
    pub done: String,
}

/// Which part of a run was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Window {
    /// How long lines were sent before those that count, in seconds.
    pub warmup_s: f64,
    /// What ended that: `flat`, where what was measured no longer rose or fell, or `limit`, where it did when the time was
    /// up; none where there was no warm-up.
    pub warmup_ended_by: Option<String>,
    /// Lines of the warm-up whose turn came; they are in no other figure.
    pub warmup_offered: u64,
    /// Lines of the warm-up that the server said it took.
    pub warmup_acked: u64,
    /// Lines of the warm-up that failed.
    pub warmup_failed: u64,
    /// How long lines were sent that count, in seconds.
    pub measured_s: f64,
    /// How long the last answers were waited for after that, in seconds.
    pub drain_s: f64,
    /// Whether what was measured had become flat before it counted.
    pub steady: bool,
}

/// What came out of a measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Results {
    /// Lines whose turn came.
    pub offered: u64,
    /// Lines the server said it took.
    pub acked: u64,
    /// Bad lines that were refused, as they should be.
    pub refused_as_meant: u64,
    /// Lines sent as datagrams, of which nobody hears again.
    #[serde(default)]
    pub sent: u64,
    /// Lines that failed.
    pub failed: u64,
    /// Failed lines by the reason.
    pub failures: BTreeMap<String, u64>,
    /// What went wrong with connections, by kind.
    pub faults: BTreeMap<String, u64>,
    /// What connections did because they were asked to: `reconnects`, `idle_opened`, `idle_lost` (ended by the server, and
    /// opened again), `slow_writes` and `slow_reads` (pieces).
    #[serde(default)]
    pub habits: BTreeMap<String, u64>,
    /// Failed lines out of finished ones, 0 to 1.
    pub error_rate: f64,
    /// Acknowledged lines that the server filtered by level.
    pub filtered: u64,
    /// Lines the server had already.
    pub duplicate: u64,
    /// Lines written again.
    pub resent: u64,
    /// Bytes given to sockets.
    pub bytes: u64,
    /// Calls that gave bytes to sockets.
    pub sends: u64,
    /// Connections opened.
    pub connects: u64,
    /// `$nack` answers.
    pub nacks: u64,
    /// `$goaway` answers.
    pub goaways: u64,
    /// From the first line's turn to the last answer, in seconds.
    pub span_s: f64,
    /// Acknowledged lines per second, or lines sent as datagrams.
    pub throughput_per_s: f64,
    /// Bytes sent per second.
    pub bytes_per_s: f64,
    /// Whether the rate asked for was kept; none in a closed loop.
    pub rate: Option<Rate>,
    /// From the intended time (open loop) or the sending (closed loop) to the answer, in microseconds.
    pub response_us: Figures,
    /// From the sending to the answer, in microseconds.
    pub service_us: Figures,
    /// From the intended time to the sending, in microseconds; empty in a closed loop.
    pub slip_us: Figures,
    /// The three distributions in full.
    pub histograms: Histograms,
}

/// Distributions in nanoseconds in HdrHistogram's V2 form, deflated, in base64: what its readers in other languages take,
/// and what adds up. What was longer than an hour is not in them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Histograms {
    /// From the intended time (open loop) or the sending (closed loop) to the answer.
    pub response: String,
    /// From the sending to the answer.
    pub service: String,
    /// From the intended time to the sending.
    pub slip: String,
}

impl Histograms {
    /// Written down.
    pub fn of(latency: &Latency) -> Histograms {
        let Latency { response, service, slip } = latency;
        Histograms { response: response.encode(), service: service.encode(), slip: slip.encode() }
    }
}

impl Report {
    /// Reads a report.
    ///
    /// # Errors
    /// A sentence that names the file and says what is wrong.
    pub fn load(path: &Path) -> Result<Report, String> {
        let name = path.display();
        let text = fs::read(path).map_err(|error| format!("cannot read {name}: {error}"))?;
        let report: Report = serde_json::from_slice(&text)
            .map_err(|error| format!("{name} is not a report of this version: {error}"))?;
        if report.schema != SCHEMA {
            return Err(format!("{name} is written as \"{}\"; this build reads \"{SCHEMA}\"", report.schema));
        }
        let sound = report.tests.iter().try_for_each(|test| test.check().map_err(|why| format!("{name}: {why}")));
        sound.map(|()| report)
    }
}

impl Test {
    /// Whether it can have been measured.
    fn check(&self) -> Result<(), String> {
        let Results { offered, acked, refused_as_meant, sent, failed, failures, faults, habits, .. } = &self.results;
        let Results { filtered, duplicate, resent, bytes, sends, connects, nacks, goaways, .. } = &self.results;
        let Results { span_s, response_us, service_us, slip_us, .. } = &self.results;
        let spreads =
            [response_us, service_us, slip_us].into_iter().flat_map(|spread| [&spread.count, &spread.beyond_range]);
        let counts =
            [offered, acked, refused_as_meant, sent, failed, filtered, duplicate, resent, bytes, sends, connects];
        let names = [failures, faults, habits].into_iter().flat_map(|counts| counts.values());
        let counts = counts.into_iter().chain([nacks, goaways]).chain(names).chain(spreads);
        if let Some(count) = counts.copied().find(|count| *count > COUNT_MAX) {
            return Err(format!("nobody can have counted {count} in the test \"{}\"", self.name));
        }
        let cpu_s = self.resources.client.cpu_s;
        if let Some(seconds) = [*span_s, cpu_s].into_iter().find(|seconds| !(0.0..=SECONDS_MAX).contains(seconds)) {
            return Err(format!("the test \"{}\" cannot have taken {seconds} seconds", self.name));
        }
        self.results.latency().map(drop)
    }
}

impl Results {
    /// Lines of which nothing more will be heard.
    pub fn finished(&self) -> u64 {
        self.acked + self.refused_as_meant + self.sent + self.failed
    }

    /// The distributions that a report was made of.
    ///
    /// # Errors
    /// A sentence, where what is written there is no histogram.
    pub fn latency(&self) -> Result<Latency, String> {
        let read = |name: &str, text: &str, figures: &Figures| {
            Spread::decode(text, figures.beyond_range).map_err(|why| format!("histograms.{name}: {why}"))
        };
        Ok(Latency {
            response: read("response", &self.histograms.response, &self.response_us)?,
            service: read("service", &self.histograms.service, &self.service_us)?,
            slip: read("slip", &self.histograms.slip, &self.slip_us)?,
        })
    }
}

/// The rate that was asked for against the one that was kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Rate {
    /// Asked for, in lines per second: the mean where it changes.
    pub target: f64,
    /// Kept: lines offered per second.
    pub achieved: f64,
    /// The second over the first.
    pub ratio: f64,
}

/// What a measurement cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Resources {
    /// The generator itself, so that its headroom is seen.
    pub client: Client,
}

/// What the generator cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Client {
    /// Processor time of its workers per offered line, in nanoseconds.
    pub cpu_ns_per_record: f64,
    /// Processor time of its workers, in seconds.
    pub cpu_s: f64,
    /// Processor time over elapsed time of all workers, 0 to 1.
    pub busy: f64,
}

/// A condition, and whether it was met.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Gate {
    /// What had to hold.
    pub expr: String,
    /// What was measured.
    pub actual: f64,
    /// What was allowed.
    pub limit: f64,
    /// Whether it held.
    pub pass: bool,
}

/// Whether what was measured can be proved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Verification {
    /// The ledger, where one was written.
    pub ledger: Option<String>,
    /// Whether every offered line is accounted for: acknowledged, refused as meant, or failed.
    pub books_closed: bool,
    /// Sentences for a person.
    pub complaints: Vec<String>,
}

/// Far beyond what a run counts, bytes included, and far below where sums of several would no longer be exact.
const COUNT_MAX: u64 = 1 << 53;
/// Thirty years.
const SECONDS_MAX: f64 = 1e9;

fn usual_late_share() -> f64 {
    LATE_SHARE_MAX
}

impl Gate {
    /// What is asked of the response times.
    pub(crate) const P99_MS: &str = "response_p99_ms";

    /// Whether it asks how long something took, and not how often something happened.
    pub fn is_of_latency(&self) -> bool {
        self.expr == Gate::P99_MS
    }
}

impl System {
    /// This machine.
    pub fn here() -> System {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let cpu = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        System {
            cpu: cpu.trim_start_matches([' ', '\t', ':']).to_owned(),
            cores: ringest_sys::cpu::allowed().map_or(0, |list| list.len()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Test { results, config, .. } = self;
        writeln!(
            f,
            "{} to {}, {} connections, {} workers",
            self.name, config.target, config.connections, config.workers
        )?;
        let Window { warmup_s, warmup_ended_by, warmup_offered, .. } = &self.window;
        if let Some(by) = warmup_ended_by {
            let what =
                if self.window.steady { "what it measured was flat" } else { "the time was up, nothing was flat" };
            writeln!(f, "  warm-up      {warmup_s:>12.1} s, {warmup_offered} records, ended by {by}: {what}")?;
        }
        let Results { offered, acked, failed, sent, sends, .. } = *results;
        match sent {
            0 => writeln!(f, "  records      {offered:>14} offered, {acked} acked, {failed} failed")?,
            _ => writeln!(
                f,
                "  records      {offered:>14} offered, {sent} sent in {sends} datagrams without an answer, {failed} failed"
            )?,
        }
        let mb_per_s = results.bytes_per_s / 1e6;
        writeln!(f, "  throughput   {:>14.0} records/s, {mb_per_s:.1} MB/s", results.throughput_per_s)?;
        if let Some(rate) = results.rate {
            writeln!(
                f,
                "  rate         {:>14.0} of {:.0} records/s kept ({:.4})",
                rate.achieved, rate.target, rate.ratio
            )?;
        }
        writeln!(f, "  errors       {:>13.3}%", results.error_rate * 100.0)?;
        for (kind, count) in results.failures.iter().chain(&results.faults).chain(&results.habits) {
            writeln!(f, "               {count:>14} {kind}")?;
        }
        let connects = results.connects;
        writeln!(f, "  connections  {connects:>14} opened, {} lines resent, {} nacks", results.resent, results.nacks)?;
        writeln!(f, "  latency      {:>11} {:>11} {:>11} {:>11} {:>11}", "p50", "p95", "p99", "p99.9", "max")?;
        let rows = [("response", &results.response_us), ("service", &results.service_us), ("slip", &results.slip_us)];
        for (name, figures) in rows.into_iter().filter(|(_, figures)| figures.count > 0) {
            let us = [figures.p50, figures.p95, figures.p99, figures.p999, figures.max];
            writeln!(f, "    {name:<10} {}", us.map(|us| format!("{:>11}", span(us))).join(" "))?;
        }
        let client = self.resources.client;
        let busy = client.busy * 100.0;
        write!(f, "  generator    {:>11.0} ns of processor per record, {busy:.0} % busy", client.cpu_ns_per_record)?;
        let Validity { verdict, server_bound, generator_bound, host_noise, .. } = &self.validity;
        let late = [server_bound, generator_bound, host_noise].map(|share| share * 100.0);
        let [server, generator, host] = late;
        write!(
            f,
            "\n  validity     {verdict}: late by the server {server:.2} %, the generator {generator:.2} %, the host {host:.2} %"
        )?;
        for reason in &self.validity.reasons {
            write!(f, "\n               {reason}")?;
        }
        if let Some(headroom) = &self.headroom {
            write!(f, "\n  headroom     {headroom}")?;
        }
        for gate in &self.gates {
            let word = if gate.pass { "pass" } else { "FAIL" };
            write!(f, "\n  gate         {word} {}: {:.6} of at most {:.6}", gate.expr, gate.actual, gate.limit)?;
        }
        Ok(())
    }
}

/// Microseconds in the unit a person would choose.
pub fn span(us: f64) -> String {
    match us {
        us if us < 1.0 => format!("{:.0} ns", us * 1000.0),
        us if us < 1000.0 => format!("{us:.1} us"),
        us if us < 1_000_000.0 => format!("{:.2} ms", us / 1000.0),
        us => format!("{:.2} s", us / 1_000_000.0),
    }
}

/// A time in UTC as RFC 3339 writes it.
pub fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days as i64);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Year, month and day of a number of days since 1970. Howard Hinnant's `civil_from_days`.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report of a run of one worker that has measured nothing yet.
    pub(crate) fn sample() -> Report {
        let config = crate::config::tests::resolve("-n 1000 -c 3 --seed 7 --run-id 7f3a9c01").unwrap();
        let corpus = crate::corpus::Corpus::new(&config.shape, true);
        crate::run::report_of(&config, crate::io::Engine::Epoll, &crate::run::Sum::default(), None, &corpus)
    }
    use std::time::Duration;

    #[test]
    fn a_report_that_cannot_be_true_is_refused_by_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("odd.json");
        let load = |change: fn(&mut Test)| {
            let mut report = sample();
            change(&mut report.tests[0]);
            fs::write(&path, serde_json::to_vec(&report).unwrap()).unwrap();
            Report::load(&path).map(drop).map_err(|why| {
                assert!(why.starts_with(&path.display().to_string()), "{why}");
                why
            })
        };
        assert_eq!(load(|_| {}), Ok(()));
        assert!(load(|test| test.results.acked = u64::MAX).unwrap_err().contains("18446744073709551615"));
        assert!(load(|test| test.results.faults = [("reset".to_owned(), 1 << 60)].into()).is_err());
        assert!(load(|test| test.results.span_s = -5.0).unwrap_err().contains("-5 seconds"));
        assert!(load(|test| test.results.histograms.slip = "AAAA".into()).unwrap_err().contains("histograms.slip"));
    }

    #[test]
    fn a_time_is_spelled_as_date_does() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn spans_are_shown_in_a_unit_that_fits() {
        assert_eq!(
            [span(0.25), span(12.34), span(1500.0), span(2_500_000.0)],
            ["250 ns", "12.3 us", "1.50 ms", "2.50 s"]
        );
    }
}
