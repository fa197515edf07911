//! What a server says of itself over its admin listener, as far as a report holds it.

use crate::report::Stage;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// What it says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Its version.
    pub version: Option<String>,
    /// The kernel interface that it runs on.
    pub backend: Option<String>,
    /// How many shards it has.
    pub shards: u64,
    /// Where records' time went since its start, all shards together, in a record's order.
    pub stages: Vec<Stage>,
}

impl Status {
    /// Asks it.
    ///
    /// # Errors
    /// Nobody answers there, or says something else.
    pub fn fetch(admin: SocketAddr) -> io::Result<Status> {
        let url = format!("http://{admin}/status.json");
        Status::read(&ask(&url)?).ok_or_else(|| io::Error::other(format!("what {url} says is no status of a server")))
    }

    fn read(status: &Value) -> Option<Status> {
        let text = |name: &str| status[name].as_str().map(str::to_owned);
        let shards = status["shards"].as_array()?;
        let ends: Vec<u64> = status["bucket_ends_ns"].as_array()?.iter().map(Value::as_u64).collect::<Option<_>>()?;
        let mut stages = Vec::new();
        for name in STAGES {
            let (mut sum_ns, mut counts) = (0, BTreeMap::new());
            for shard in shards.iter().filter(|shard| shard["answers"] == true) {
                let said = &shard["stages"][name];
                sum_ns += said["sum_ns"].as_u64()?;
                for pair in said["counts"].as_array()? {
                    let at = usize::try_from(pair[0].as_u64()?).ok()?;
                    // The last bucket has no end; it is drawn as twice as long as the one before.
                    let end = ends.get(at).copied().or_else(|| Some(ends.last()? * 2))?;
                    *counts.entry(end).or_insert(0) += pair[1].as_u64()?;
                }
            }
            stages.push(stage(name, sum_ns, counts.into_iter().collect()));
        }
        Some(Status { version: text("version"), backend: text("backend"), shards: shards.len() as u64, stages })
    }
}

/// The document at that address.
///
/// # Errors
/// Nobody answers there, or says something else than JSON.
pub fn ask(url: &str) -> io::Result<Value> {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).build().into();
    let said = agent.get(url).call().and_then(|mut answer| answer.body_mut().read_to_vec());
    let said = said.map_err(|error| io::Error::other(format!("no answer from {url}: {error}")))?;
    serde_json::from_slice(&said).map_err(|error| io::Error::other(format!("what {url} says cannot be read: {error}")))
}

fn stage(name: &str, sum_ns: u64, counts: Vec<(u64, u64)>) -> Stage {
    let count: u64 = counts.iter().map(|(_, count)| count).sum();
    let quantile = |q: f64| {
        let (rank, mut seen) = ((q * count as f64).ceil().max(1.0) as u64, 0);
        let within = counts.iter().find(|(_, here)| {
            seen += here;
            seen >= rank
        });
        within.map_or(0, |(end, _)| *end)
    };
    let (p50_ns, p99_ns) = (quantile(0.5), quantile(0.99));
    Stage { name: name.into(), count, sum_ns, p50_ns, p99_ns, counts }
}

/// In a record's order.
const STAGES: [&str; 6] = ["receive", "parse", "queue", "write", "sync", "ack"];
const PATIENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_stages_of_all_shards_that_answer_are_added_up() {
        let shard = |sum: u64, counts: Value| {
            let stages: serde_json::Map<_, _> = STAGES
                .iter()
                .map(|name| {
                    let counts = if *name == "sync" { counts.clone() } else { json!([]) };
                    ((*name).to_owned(), json!({ "sum_ns": if *name == "sync" { sum } else { 0 }, "counts": counts }))
                })
                .collect();
            json!({ "answers": true, "stages": stages })
        };
        let status = json!({
            "version": "0.1.0", "backend": "uring", "bucket_ends_ns": [512, 640, 768],
            "shards": [shard(1000, json!([[0, 1], [1, 97]])), shard(500, json!([[1, 1], [3, 1]])), { "answers": false }],
        });
        let status = Status::read(&status).unwrap();
        assert_eq!((status.shards, status.backend.as_deref()), (3, Some("uring")));
        let sync = status.stages.iter().find(|stage| stage.name == "sync").unwrap();
        assert_eq!((sync.count, sync.sum_ns, sync.p50_ns, sync.p99_ns), (100, 1500, 640, 640));
        assert_eq!(sync.counts, [(512, 1), (640, 98), (1536, 1)]);
        assert_eq!(status.stages[0].count, 0);
        assert_eq!(Status::read(&json!({ "hello": 1 })), None);
    }
}
