//! What a soak leaves in files: looks at a server, its lives, claims of a script, verdicts.

use crate::compare::Session;
use crate::outcome::Outcome;
use crate::report::{Gate, Latencies, Reconciliation, Stage, System, Tool};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The name and version of the form of a whole soak.
pub const SCHEMA: &str = "ringest.soak.v1";

/// A line of `samples.ndjson`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Look {
    /// The process was there, and this is what it took.
    Seen(Box<Sample>),
    /// It should have been there, and could not be read.
    Missed {
        /// Seconds since the first look of the first life.
        at_s: f64,
        /// Why.
        why: String,
    },
}

/// What a server took at one moment. Counts are since its start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since the first look of the first life.
    pub at_s: f64,
    /// Which life, from 1 on.
    pub life: u32,
    /// The process.
    pub pid: u32,
    /// When it began, in ticks since the system's start.
    pub started_ticks: u64,
    /// Processor time of its threads that run, in nanoseconds.
    pub cpu_ns: u64,
    /// Resident bytes.
    pub rss_bytes: u64,
    /// Proportional bytes.
    pub pss_bytes: u64,
    /// Locked bytes.
    pub locked_bytes: u64,
    /// Open descriptors, without those of segments.
    pub fds: u64,
    /// Descriptors of segments: the one that is written, the next one, one that is being closed.
    pub segment_fds: u64,
    /// Its own threads, without those that answer on its admin listener.
    pub threads: u64,
    /// Threads that answer there: more the more is asked at one moment.
    pub answerers: u64,
    /// Threads that the kernel works with on its rings' behalf.
    pub io_workers: u64,
    /// Times that a thread gave the processor up.
    pub voluntary_switches: u64,
    /// Times that it was taken from one.
    pub involuntary_switches: u64,
    /// Bytes of all segments.
    pub segment_bytes: u64,
    /// What it says itself; none where it did not answer.
    pub said: Option<Said>,
}

/// What a server says of itself at one moment, all shards together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// Whether it takes connections, and every shard has answered.
    #[serde(default)]
    pub is_serving: bool,
    /// Open connections.
    pub connections: u64,
    /// Connections so far.
    pub accepted: u64,
    /// Lines so far.
    pub received: u64,
    /// Lines that are stored.
    pub stored: u64,
    /// What the kernel interface counts.
    pub driver: BTreeMap<String, u64>,
}

impl Said {
    /// Whether it has everything open that it is to have, and nothing else.
    pub fn is_at_rest(&self) -> bool {
        self.is_serving && self.connections == 0
    }
}

/// A line of `lives.ndjson`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    /// It takes connections.
    Began {
        /// Which, from 1 on.
        life: u32,
        /// When, in UTC.
        at: String,
        /// The process, as it says itself.
        pid: u32,
        /// From its start until it took connections, in seconds.
        ready_s: f64,
        /// What its design allows it.
        ceiling: Option<Ceiling>,
    },
    /// It has ended.
    Ended {
        /// Which.
        life: u32,
        /// When, in UTC.
        at: String,
        /// The wait status, in words, with what it said last where it was not asked to end.
        how: String,
        /// Whether that is what was to happen.
        as_meant: bool,
    },
}

/// What a server's design allows it, computed from its own configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ceiling {
    /// Threads of its own: always exactly these.
    pub threads: u64,
    /// Descriptors without a connection and without segments: exactly these.
    pub fds_at_rest: u64,
    /// Descriptors of segments at most.
    pub segment_fds: u64,
    /// Connections that the scenario makes at most.
    pub connections: u64,
    /// Resident bytes, by the formula.
    pub memory_bytes: u64,
}

/// A line of `claims.ndjson`: what the script counted, and what it had to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// What was counted.
    pub what: String,
    /// What it came to; none where it could not be found out, which fails.
    pub actual: Option<f64>,
    /// It has to be at least that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// It may be at most that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
}

/// What a scenario comes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Verdict {
    /// Its name.
    pub scenario: String,
    /// When it was judged, in UTC.
    pub at: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// What it comes to.
    pub verdict: Outcome,
    /// Why it is not a pass, a sentence each.
    pub reasons: Vec<String>,
    /// What had to hold.
    pub gates: Vec<Gate>,
    /// What is worth saying, a sentence each.
    pub notes: Vec<String>,
    /// The servers, by name.
    pub servers: BTreeMap<String, ServerSeen>,
    /// The generators, by name.
    pub loads: BTreeMap<String, LoadSeen>,
    /// What was stored against what was acknowledged, by name.
    pub reconciled: BTreeMap<String, Reconciliation>,
    /// Comparisons, by name.
    pub compared: BTreeMap<String, Session>,
}

/// What was seen of a server over all its lives.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ServerSeen {
    /// How often it was started.
    pub lives: u32,
    /// How each life ended.
    pub ends: Vec<String>,
    /// Looks at it.
    pub looks: u64,
    /// Looks that saw nothing.
    pub missed: u64,
    /// The most it had resident.
    pub rss_peak_bytes: u64,
    /// What it had resident at last.
    pub rss_last_bytes: u64,
    /// The most descriptors.
    pub fds_peak: u64,
    /// The most threads of its own.
    pub threads_peak: u64,
    /// Processor time per stored record in nanoseconds, over all lives.
    pub cpu_ns_per_record: Option<f64>,
    /// Lines stored, over all lives.
    pub stored: u64,
    /// Connections taken, over all lives.
    pub accepted: u64,
    /// How fast things grow, where the run is long enough to say.
    pub slopes: BTreeMap<String, Growth>,
    /// Where a record's time went in the last life.
    pub stages: Vec<Stage>,
}

/// How fast something grows, per hour, with an interval of 95 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Growth {
    /// The Theil-Sen slope of the lower envelope.
    pub per_hour: f64,
    /// At least.
    pub low: f64,
    /// At most.
    pub high: f64,
    /// How many windows it is from.
    pub windows: u64,
}

/// What a generator measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LoadSeen {
    /// The code it ended with.
    pub code: i32,
    /// Whether that counts: a hostile client may fail.
    pub counts: bool,
    /// Lines acknowledged.
    pub acked: u64,
    /// Lines that failed.
    pub failed: u64,
    /// Lines acknowledged per second.
    pub per_s: f64,
    /// Response times.
    pub response_us: Latencies,
    /// `ok`, `server_bound`, `generator_bound` or `host_noise`.
    pub validity: String,
}

/// A whole soak.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Soak {
    /// [`SCHEMA`].
    pub schema: String,
    /// When the report was made, in UTC.
    pub timestamp: String,
    /// What judged.
    pub tool: Tool,
    /// Where it ran.
    pub system: System,
    /// The scenarios in the order in which they ended.
    pub scenarios: Vec<Verdict>,
    /// What it comes to.
    pub verdict: Outcome,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_that_is_checked_in_is_that_of_the_types() {
        let schema =
            serde_json::to_string_pretty(&schemars::schema_for!(Soak)).expect("a schema is always JSON") + "\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/ringest.soak.v1.json");
        if std::env::var_os("RINGEST_WRITE_SCHEMA").is_some() {
            std::fs::write(path, &schema).unwrap();
        }
        let checked_in = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            checked_in == schema,
            "the form has changed: RINGEST_WRITE_SCHEMA=1 cargo test -p ringest-bench writes {path}"
        );
    }
}
