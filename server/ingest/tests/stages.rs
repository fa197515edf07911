//! Each stage of a record's way takes what the clock says, and nothing of the others.

use ringest_ingest::{Action, Limits, Shard, ShardConfig, Stage, StorageHealth};
use ringest_wire::Severity;
use std::time::{Duration, Instant};

const LINE: &[u8] = b"{\"level\":\"info\",\"message\":\"a\"}\n";

fn shard(now: Instant) -> Shard {
    let limits = Limits::default();
    Shard::new(ShardConfig { min_level: Severity::Debug, ..ShardConfig::alone(limits) }, now).unwrap()
}

/// The next action, where it is the one that was expected.
macro_rules! next {
    ($shard:expr, $action:pat => $what:expr) => {
        match $shard.poll() {
            Some($action) => $what,
            other => panic!("expected {}, got {other:?}", stringify!($action)),
        }
    };
}

#[test]
fn every_stage_is_counted_once_per_batch_and_takes_what_the_clock_says() {
    #[allow(clippy::disallowed_methods, reason = "the one moment from which time counts")]
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut shard = shard(start);
    let segment = next!(shard, Action::Open(segment) => segment);
    shard.handle_opened(segment, Ok(()), start);
    let id = shard.handle_accepted(start).unwrap();
    while shard.poll().is_some() {}

    assert!(shard.wants(id));
    shard.handle_bytes(id, &LINE.repeat(3), at(10));
    shard.time_chunk(at(12), at(15));
    assert_eq!(shard.storage(), StorageHealth { unsafe_since: Some(at(10)), ..StorageHealth::default() });
    shard.handle_timeout(at(40)); // Time goes on.
    let block = next!(shard, Action::Write(block) => block);
    shard.handle_written(block, Ok(()), at(100));
    let segment = next!(shard, Action::Sync(segment) => segment);
    shard.handle_synced(segment, Ok(()), at(300));
    let answers = next!(shard, Action::Send(_, answers) => answers);
    shard.handle_sent(id, answers, at(1300));

    let stages = &shard.tally().stages;
    let took = Stage::ALL.map(|stage| (stages.get(stage).count(), stages.get(stage).sum().as_millis()));
    assert_eq!(took, [(1, 2), (1, 3), (1, 30), (1, 60), (1, 200), (1, 1000)]);
    assert_eq!(shard.storage(), StorageHealth { synced_at: Some(at(300)), ..StorageHealth::default() });
}
