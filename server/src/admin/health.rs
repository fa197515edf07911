//! Whether a server is alive, and whether it is ready: judged from what its shards say, in sentences.
//!
//! Ready means that a line sent now would be acknowledged soon, disk included. A server that is not ready lives on: it
//! must not be restarted for that, because it holds what the disk has not taken yet.

use super::http::Answer;
use super::{About, Life, Survey};
use crate::reading::Reading;
use ringest_ingest::BreakerState;
use std::time::{Duration, Instant};

/// How something was judged, and why, a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) is_well: bool,
    pub(super) lines: Vec<String>,
}

impl From<Verdict> for Answer {
    fn from(verdict: Verdict) -> Answer {
        let text: String = verdict.lines.iter().map(|line| format!("{line}\n")).collect();
        Answer::text(if verdict.is_well { 200 } else { 503 }, text)
    }
}

/// Every shard turns. Before there are any, and while they end one by one, there is nothing to find fault with.
pub(super) fn liveness(survey: &Survey) -> Verdict {
    match survey.life {
        life @ (Life::Starting | Life::Draining) => Verdict { is_well: true, lines: vec![life.as_str().into()] },
        Life::Serving => {
            let silent = silent(survey);
            let is_well = silent.is_empty();
            Verdict { is_well, lines: if is_well { vec!["alive".into()] } else { silent } }
        }
    }
}

/// Lines are taken and become safe.
pub(super) fn readiness(about: &About, survey: &Survey) -> Verdict {
    let mut faults = match survey.life {
        Life::Starting => vec!["starting: segments are being recovered".to_owned()],
        Life::Draining => vec!["draining: no connection is taken any more".to_owned()],
        Life::Serving => silent(survey),
    };
    let readings = || survey.shards.iter().filter_map(|(_, reading)| reading.as_ref());
    let unsafe_max = about.linger + UNSAFE_MAX;
    readings().for_each(|reading| find_faults(reading, unsafe_max, survey.now, &mut faults));
    if !faults.is_empty() {
        return Verdict { is_well: false, lines: faults };
    }
    let shards = readings().map(|reading| {
        let safe = match reading.storage.synced_at {
            _ if !about.is_stored => "nothing is stored".to_owned(),
            Some(at) => format!("last durable sync {} ago", said(survey.now.saturating_duration_since(at))),
            None => "nothing to sync so far".to_owned(),
        };
        format!("shard {}: {safe}", reading.shard)
    });
    Verdict { is_well: true, lines: ["ready".to_owned()].into_iter().chain(shards).collect() }
}

fn silent(survey: &Survey) -> Vec<String> {
    let silent = survey.shards.iter().filter(|(_, reading)| reading.is_none());
    silent.map(|(shard, _)| format!("shard {shard} does not answer")).collect()
}

fn find_faults(reading: &Reading, unsafe_max: Duration, now: Instant, faults: &mut Vec<String>) {
    let shard = reading.shard;
    if let Some(code) = reading.storage.refuses {
        faults.push(format!("shard {shard}: storage takes nothing, lines are refused with {code}"));
    }
    match reading.breaker {
        BreakerState::Closed => {}
        state @ (BreakerState::Open | BreakerState::HalfOpen) => {
            faults.push(format!("shard {shard}: the storage breaker is {}", state.as_str()));
        }
    }
    let age = reading.storage.unsafe_since.map(|since| now.saturating_duration_since(since));
    if let Some(age) = age.filter(|age| *age > unsafe_max) {
        let (age, max) = (said(age), said(unsafe_max));
        faults.push(format!("shard {shard}: the oldest record that is not safe came {age} ago, more than {max}"));
    }
}

fn said(time: Duration) -> String {
    if time < Duration::from_secs(10) { format!("{} ms", time.as_millis()) } else { format!("{} s", time.as_secs()) }
}

/// How long a record may take to become safe, on top of what its batch may linger. A sync takes milliseconds, and a shard
/// holds what its disk takes in a tenth of a second; who sends elsewhere after half a second has lost little.
const UNSAFE_MAX: Duration = Duration::from_millis(500);
