//! The result of a suite as a file: one JSON object with a versioned name. It keeps the first design's keys (`timestamp`,
//! `system`, `tests[].{name,config,results,resources}`, `verification`), so that who reads those still can.
//!
//! It is data alone. The schema that is checked in under `schema/` is made from these types, and a test holds the two
//! together.

use crate::outcome::Outcome;
use crate::sampler::Usage;
use ringest_loadgen::latency::Figures;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The name and version of the form.
pub const SCHEMA: &str = "ringest.bench.v1";

/// The result of a suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// Which suite: `tiers`, `stress` or `gate`.
    pub suite: String,
    /// When it began, in UTC.
    pub timestamp: String,
    /// What measured.
    pub tool: Tool,
    /// What was typed.
    pub command: Vec<String>,
    /// Where it was measured.
    pub system: System,
    /// What was measured.
    pub target: Target,
    /// The rate up to which the server keeps its promises, and how that is known; none where it was not asked for.
    pub knee: Option<Knee>,
    /// The measurements.
    pub tests: Vec<Test>,
    /// What it comes to.
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct System {
    /// Processors of the machine.
    pub cpu_count: u64,
    /// Memory of the machine in MiB.
    pub memory_mb: u64,
    /// The processor's name.
    pub cpu: String,
    /// Processors that could be used.
    pub cores: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The class that baselines are compared within.
    pub class: String,
    /// The file system that segments went to.
    pub file_system: String,
}

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Target {
    /// The program, where it was started here, or else the address.
    pub server: String,
    /// Its version, as it says.
    pub version: Option<String>,
    /// The kernel interface that it runs on, as it says.
    pub backend: Option<String>,
    /// How many shards it has.
    pub shards: Option<u64>,
    /// Its processors; none where it was not pinned.
    pub cpus: Option<String>,
    /// The generator's.
    pub generator_cpus: Option<String>,
}

/// The rate up to which the server keeps its promises.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Knee {
    /// Records per second.
    pub records_per_s: f64,
    /// How it is known: `given`, `searched`, or `closed loop` for a ceiling without a promise about latency.
    pub how: String,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Test {
    /// What it is called.
    pub name: String,
    /// How it was run.
    pub config: Config,
    /// What came out.
    pub results: Results,
    /// What it cost.
    pub resources: Resources,
    /// Where a record's time went in the server, as it says itself; empty where it does not.
    pub stages: Vec<Stage>,
    /// Whether it means what it says.
    pub validity: Validity,
    /// What was stored against what was acknowledged; none where that cannot be seen.
    pub reconciliation: Option<Reconciliation>,
    /// The conditions it had to meet.
    pub gates: Vec<Gate>,
    /// What it comes to.
    pub verdict: Outcome,
}

/// How a measurement was run. The first four are the first design's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Config {
    /// What it is called.
    pub name: String,
    /// Lines to send; 0 is no limit.
    pub total: u64,
    /// How long it may take, in seconds.
    pub duration: f64,
    /// Connections.
    pub concurrency: u64,
    /// `closed`: a line is sent when an earlier one is answered; `open`: lines have their times.
    pub model: String,
    /// Lines per second, in an open loop.
    pub rate: Option<u64>,
    /// That rate as a share of the knee, where it was chosen so.
    pub of_knee: Option<f64>,
    /// `plain` or `session`.
    pub mode: String,
    /// What an answer promised.
    pub ack: String,
    /// Mean length of a line in bytes.
    pub record_size: u64,
    /// The fingerprint of the lines' text.
    pub payload: String,
}

/// What came out. Those down to `total_bytes` are the first design's, with its names and units.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Results {
    /// Lines whose turn came.
    pub total_sent: u64,
    /// Lines that were answered well.
    pub total_success: u64,
    /// Lines that failed, those without an answer too.
    pub total_errors: u64,
    /// Failed lines out of finished ones, 0 to 1.
    pub error_rate: f64,
    /// Acknowledged lines per second.
    pub actual_rps: f64,
    /// From the first line's turn to the last answer, in seconds.
    pub duration_secs: f64,
    /// Mean response time.
    pub latency_avg_ms: f64,
    /// Least response time.
    pub latency_min_ms: f64,
    /// Greatest response time.
    pub latency_max_ms: f64,
    /// Half were answered within this.
    pub latency_p50_ms: f64,
    /// 95 % were.
    pub latency_p95_ms: f64,
    /// 99 % were.
    pub latency_p99_ms: f64,
    /// Bytes given to sockets.
    pub total_bytes: u64,
    /// Lines per second that were offered, where a rate was asked for.
    pub offered_per_s: Option<f64>,
    /// Failed lines by the reason.
    pub failures: BTreeMap<String, u64>,
    /// What went wrong with connections, by kind.
    pub faults: BTreeMap<String, u64>,
    /// From the intended time (open) or the sending (closed) to the answer, in microseconds.
    pub response_us: Latencies,
    /// From the sending to the answer.
    pub service_us: Latencies,
    /// From the intended time to the sending.
    pub slip_us: Latencies,
    /// Every response time in nanoseconds with its count.
    pub response_ns_counts: Vec<(u64, u64)>,
    /// Second by second.
    pub series: Vec<Second>,
}

/// A distribution in the figures people ask for, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Latencies {
    /// How many durations.
    pub count: u64,
    /// The shortest.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// Half stay within.
    pub p50: f64,
    /// 90 % stay within.
    pub p90: f64,
    /// 95 % stay within.
    pub p95: f64,
    /// 99 % stay within.
    pub p99: f64,
    /// 99.9 % stay within.
    pub p999: f64,
    /// 99.99 % stay within.
    pub p9999: f64,
    /// The longest.
    pub max: f64,
}

/// One second of the generator's series, as far as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Second {
    /// When it began, in seconds from the first line's turn.
    pub start_s: f64,
    /// How long it was.
    pub length_s: f64,
    /// `warm-up`, `measured` or `drain`.
    pub phase: String,
    /// The rate that was asked for.
    pub target_per_s: Option<f64>,
    /// Lines whose turn came.
    pub offered: u64,
    /// Lines that were acknowledged.
    pub acked: u64,
    /// Lines that failed.
    pub failed: u64,
    /// Bytes given to sockets.
    pub bytes: u64,
    /// Lines sent late though a connection had room.
    pub late_ours: u64,
    /// Lines sent late because none had.
    pub late_blocked: u64,
    /// Response times.
    pub response_us: Latencies,
    /// `[from, count]`: how many took from `from` nanoseconds to the end of that eighth of an octave.
    pub response_counts: Vec<(u64, u64)>,
}

/// What it cost. The first four are the first design's, of the server's process and no longer of the host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Resources {
    /// Processor time of the server, 100 is one processor.
    pub avg_cpu_percent: f64,
    /// The most of it in a second.
    pub peak_cpu_percent: f64,
    /// Its resident memory.
    pub avg_memory_mb: f64,
    /// The most of it.
    pub peak_memory_mb: f64,
    /// Its processor time per acknowledged record, in nanoseconds.
    pub cpu_ns_per_record: f64,
    /// Its context switches per acknowledged record.
    pub switches_per_record: f64,
    /// From its start until it took connections, in seconds; none where it was not started here.
    pub ready_s: Option<f64>,
    /// What its memory may come to, by its own formula, in bytes.
    pub memory_bound_bytes: Option<u64>,
    /// How many descriptors it may have.
    pub fd_limit: Option<u64>,
    /// How it ended, where it was started here.
    pub exit: Option<Exit>,
    /// Second by second; none where it runs elsewhere.
    pub server: Option<Usage>,
    /// The generator's.
    pub generator: Option<Usage>,
}

/// How a server ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Exit {
    /// In words, with what it said last where it should not have.
    pub how: String,
    /// Whether it ended when it was asked to, with everything settled.
    pub is_clean: bool,
}

/// A stage of a record's way through the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// How often it was passed.
    pub count: u64,
    /// How long that took altogether, in nanoseconds.
    pub sum_ns: u64,
    /// The end of the bucket that half of them stay within, in nanoseconds.
    pub p50_ns: u64,
    /// 99 % stay within.
    pub p99_ns: u64,
    /// `[end, count]`: how many took so many nanoseconds at most, and more than the bucket before.
    pub counts: Vec<(u64, u64)>,
}

/// Whether a measurement means what it says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Validity {
    /// `ok`, `server_bound`, `generator_bound` or `host_noise`. The last two void it.
    pub verdict: String,
    /// Lines sent late because no connection had room, out of those whose turn came, 0 to 1.
    pub server_bound: f64,
    /// Lines sent late by the generator's own doing.
    pub generator_bound: f64,
    /// Lines sent late because something else had the generator's processor.
    pub host_noise: f64,
    /// Why, in the generator's words.
    pub reasons: Vec<String>,
    /// Processor time of the generator over elapsed time, 0 to 1.
    pub generator_busy: f64,
    /// Verdicts of attempts that were voided and made again.
    pub voided: Vec<String>,
}

/// What was stored against what was acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Reconciliation {
    /// Lines that were promised.
    pub acked: u64,
    /// Lines that were found.
    pub stored: u64,
    /// Promised and not found.
    pub lost: u64,
    /// Found more than once.
    pub duplicated: u64,
    /// Found and changed.
    pub corrupt: u64,
    /// Found and never sent.
    pub phantom: u64,
    /// The first few, a sentence each.
    #[serde(default)]
    pub examples: Vec<String>,
}

/// A condition, and whether it was met.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Gate {
    /// What has to hold: `p95 of a durable ack, ms <= 80`.
    pub expr: String,
    /// What was measured.
    pub actual: f64,
    /// What is allowed.
    pub limit: f64,
    /// Whether it holds.
    pub pass: bool,
}

/// What a suite comes to. Those down to `pass` are the first design's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Verification {
    /// The first design's target in records per second.
    pub target_rps: u64,
    /// Whether some test reached it.
    pub achieved: bool,
    /// The most that a test reached.
    pub best_rps: u64,
    /// The first design's bound on failed lines.
    pub target_error_rate: f64,
    /// The greatest share of failed lines of all tests that were not meant to overload.
    pub achieved_error_rate: f64,
    /// Whether every gate holds.
    pub pass: bool,
    /// The conditions on the whole.
    pub gates: Vec<Gate>,
    /// What it comes to.
    pub verdict: Outcome,
    /// The code that the process ended with.
    pub exit_code: u8,
    /// Sentences for a person.
    pub remarks: Vec<String>,
}

impl Gate {
    /// It may be at most that.
    pub fn at_most(what: &str, actual: f64, limit: f64) -> Gate {
        Gate { expr: format!("{what} <= {limit}"), actual, limit, pass: actual <= limit }
    }

    /// It has to be at least that.
    pub fn at_least(what: &str, actual: f64, limit: f64) -> Gate {
        Gate { expr: format!("{what} >= {limit}"), actual, limit, pass: actual >= limit }
    }

    /// It has to be that.
    pub fn exactly(what: &str, actual: f64, limit: f64) -> Gate {
        Gate { expr: format!("{what} == {limit}"), actual, limit, pass: actual == limit }
    }
}

impl Reconciliation {
    /// How many lines are not as they should be.
    pub fn wrong(&self) -> u64 {
        self.lost + self.duplicated + self.corrupt + self.phantom
    }
}

impl From<&Figures> for Latencies {
    fn from(figures: &Figures) -> Latencies {
        let &Figures { count, min, mean, p50, p90, p95, p99, p999, p9999, max, .. } = figures;
        Latencies { count, min, mean, p50, p90, p95, p99, p999, p9999, max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The schema of the form, as it is checked in.
    fn schema() -> String {
        let schema = schemars::schema_for!(Report);
        serde_json::to_string_pretty(&schema).expect("a schema is always JSON") + "\n"
    }

    #[test]
    fn the_schema_that_is_checked_in_is_that_of_the_types() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/ringest.bench.v1.json");
        if std::env::var_os("RINGEST_WRITE_SCHEMA").is_some() {
            std::fs::write(path, schema()).unwrap();
        }
        let checked_in = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            checked_in == schema(),
            "the form has changed: RINGEST_WRITE_SCHEMA=1 cargo test -p ringest-bench writes {path}"
        );
    }
}
