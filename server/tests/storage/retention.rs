//! A directory that old segments have gone from: it is read, recovered and verified as any other, and no producer is
//! forgotten with what is gone.

use super::{Producers, flip, recovered, segment, shard_dir, start, state, verify};
use crate::writer::{Writer, records};
use ringest_ingest::{SegmentFormat, SegmentId, ShardId};
use ringest_server::storage::retention::{Retention, Sweeper};
use ringest_server::storage::{Keeper, Store, layout};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// A shard that was stopped four times: segments 1 to 4, with ten records of one producer each, and one of another in
/// the first.
fn four_segments() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&dir);
    writer.hello("early", 9);
    writer.records(1..3);
    writer.stop();
    for part in 0..3 {
        let mut writer = start(&dir);
        writer.hello("web", 1);
        writer.records(part * 10 + 1..part * 10 + 11);
        writer.stop();
    }
    dir
}

fn sweep(dir: &TempDir, bytes: u64) {
    let retention = Retention { bytes: Some(bytes), age: None };
    Sweeper::default().sweep(dir.path(), retention, SystemTime::now() + Duration::from_secs(1));
}

fn ids(dir: &TempDir) -> Vec<u64> {
    layout::segments(&shard_dir(dir)).unwrap().into_iter().map(|(id, _)| id.0).collect()
}

#[test]
fn no_producer_is_forgotten_with_the_segments_that_held_what_it_sent() {
    let dir = four_segments();
    let before = recovered(&dir).producers();
    sweep(&dir, 0);
    assert_eq!(ids(&dir), [4]);
    assert_eq!(super::cat(dir.path()), records(21..31));
    assert_eq!(verify(dir.path()), Ok(()));
    let recovery = recovered(&dir);
    assert_eq!(recovery.oddities, [""; 0]);
    assert_eq!(recovery.producers(), before);
    assert_eq!(before, [state("early", 9, 2), state("web", 1, 30)]);

    // What was stored in a segment that is gone is known all the same, and not stored again.
    let mut writer = start(&dir);
    writer.feed("{\"$hello\":{\"v\":1,\"producer\":\"web\",\"epoch\":1,\"resume_from\":5}}\n");
    assert!(writer.sent.contains("\"last_seq\":30"), "{}", writer.sent);
    writer.records(5..36);
    writer.stop();
    assert_eq!(super::cat(dir.path()), records(21..36));
    assert_eq!(verify(dir.path()), Ok(()));
    assert_eq!(ids(&dir), [4, 5]);
}

#[test]
fn a_snapshot_that_is_damaged_later_costs_nothing_either() {
    for damaged in [3, 4] {
        let dir = four_segments();
        sweep(&dir, 0);
        flip(&shard_dir(&dir).join(layout::snapshot_name(SegmentId(damaged))), 20);
        assert_eq!(recovered(&dir).producers(), [state("early", 9, 2), state("web", 1, 30)], "snapshot {damaged}");
    }
}

#[test]
fn a_shard_that_is_killed_after_its_segments_went_goes_on_where_it_was() {
    let dir = four_segments();
    let mut writer = start(&dir);
    writer.hello("web", 1);
    writer.records(31..41);
    drop(writer); // A crash: segment 5 is open, and no snapshot covers it.
    sweep(&dir, 0);
    assert_eq!(ids(&dir), [4, 5]);
    let mut writer: Writer = start(&dir);
    writer.hello("web", 1);
    assert!(writer.sent.contains("\"last_seq\":40"), "{}", writer.sent);
    writer.stop();
    assert_eq!(verify(dir.path()), Ok(()));
}

#[test]
fn what_is_allocated_for_a_new_segment_counts_from_then_on() {
    let dir = four_segments();
    let len = |id| fs::metadata(segment(&dir, id)).unwrap().len();
    let bytes = (2..5).map(len).sum::<u64>() + (1 << 20);
    let store = Arc::new(Store::open(dir.path(), ShardId(0), SegmentFormat::Plain).unwrap());
    let keeper = Keeper::spawn().unwrap();
    keeper.handle().retain(dir.path().into(), Retention { bytes: Some(bytes), age: None });
    keeper.handle().open(store, SegmentId(5), 1 << 20, |file| drop(file.unwrap()));
    drop(keeper);
    assert_eq!(ids(&dir), [2, 3, 4, 5]);
}

#[test]
fn a_sweep_that_a_crash_cut_short_leaves_a_directory_that_begins_later() {
    // Whatever of it was done: segments go one by one, the oldest first.
    for gone in 1..=3 {
        let dir = four_segments();
        (1..=gone).for_each(|id| fs::remove_file(segment(&dir, id)).unwrap());
        assert_eq!(verify(dir.path()), Ok(()), "{gone} are gone");
        assert_eq!(recovered(&dir).producers(), [state("early", 9, 2), state("web", 1, 30)]);
        sweep(&dir, 0);
        assert_eq!(ids(&dir), [4]);
    }
}
