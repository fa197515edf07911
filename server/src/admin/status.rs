//! The whole server as JSON: what the live page and `ringest-server top` are made of.

use super::health::Verdict;
use super::{Desk, Found, Survey};
use crate::reading::Reading;
use ringest_ingest::{Histogram, Stage};
use ringest_wire::Code;
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

pub(super) fn of(desk: &Desk, survey: &Survey, readiness: &Verdict) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "backend": desk.about.backend,
        "life": survey.life.as_str(),
        "ready": readiness.is_well,
        "reasons": readiness.lines,
        "uptime_seconds": survey.now.saturating_duration_since(desk.started).as_secs_f64(),
        // The last bucket has no end.
        "bucket_ends_ns": bucket_ends_ns(),
        "shards": survey.shards.iter().map(|found| of_shard(found, survey.now)).collect::<Vec<Value>>(),
    })
}

fn of_shard((shard, reading): &Found, now: Instant) -> Value {
    let Some(reading) = reading else { return json!({ "shard": shard, "answers": false }) };
    let Reading { tally, storage, .. } = reading;
    let age = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at).as_secs_f64());
    let stages = Stage::ALL.map(|stage| (stage.as_str().to_owned(), of_stage(tally.stages.get(stage))));
    json!({
        "shard": shard,
        "answers": true,
        "received": tally.received,
        "stored": tally.stored,
        "filtered": tally.filtered,
        "duplicate": tally.duplicate,
        "rejected": by_code(&tally.rejected),
        "in_flight": reading.in_flight,
        "received_bytes": tally.received_bytes,
        "stored_bytes": tally.stored_bytes,
        "blocks": tally.blocks,
        "syncs": tally.syncs,
        "storage_failures": tally.storage_failures,
        "connections": reading.sessions,
        "connections_accepted": tally.sessions,
        "connections_ended": by_code(&tally.ended),
        "breaker": reading.breaker.as_str(),
        "refuses": storage.refuses.map(Code::as_str),
        "last_sync_age_seconds": age(storage.synced_at),
        "oldest_unsafe_age_seconds": age(storage.unsafe_since),
        "setup": reading.setup,
        "driver": reading.counters.iter().map(|&(name, count)| (name.to_owned(), count.into())).collect::<Map<_, Value>>(),
        "stages": Map::from_iter(stages),
    })
}

/// Those that have come.
fn by_code(counts: &[u64; Code::COUNT]) -> Map<String, Value> {
    let come = Code::ALL.into_iter().filter(|code| counts[*code as usize] > 0);
    come.map(|code| (code.as_str().to_owned(), counts[code as usize].into())).collect()
}

/// `counts` names the buckets that hold something.
fn of_stage(histogram: &Histogram) -> Value {
    let counts: Vec<(usize, u64)> =
        histogram.buckets().map(|(_, count)| count).enumerate().filter(|(_, count)| *count > 0).collect();
    json!({ "sum_ns": ns(histogram.sum()), "counts": counts })
}

fn bucket_ends_ns() -> Vec<u64> {
    Histogram::default().buckets().filter_map(|(upper, _)| upper.map(ns)).collect()
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
