//! The same of compressed segments: every rule of recovery holds, and whoever has gzip reads the records.

use crate::writer::{Fate, Writer, one_record_per_block, record, records};
use crate::{Producers, flip};
use crate::{cat, quarantine, recovered, run, shard_dir, state, verify};
use ringest_ingest::scan::{Item, scan};
use ringest_ingest::{Limits, SegmentFormat, SegmentId};
use ringest_server::storage::layout;
use std::fs::{self, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

fn start(dir: &TempDir) -> Writer {
    start_as(SegmentFormat::Gzip, dir)
}

fn start_as(format: SegmentFormat, dir: &TempDir) -> Writer {
    Writer::start_as(format, dir.path(), 0, &recovered(dir), one_record_per_block())
}

/// A shard that has stored these records of one producer.
fn stored(numbers: Range<usize>) -> (TempDir, Writer) {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&dir);
    writer.hello("web", 1);
    writer.records(numbers);
    (dir, writer)
}

fn segment(dir: &TempDir, id: u64) -> PathBuf {
    shard_dir(dir).join(layout::segment_name(SegmentId(id), SegmentFormat::Gzip))
}

/// Where the blocks of a segment lie.
fn blocks(path: &Path, id: u64) -> Vec<Range<usize>> {
    let bytes = fs::read(path).unwrap();
    let block = |item: Item<'_>| match item {
        Item::Block { offset, end, .. } => Some(offset as usize..end as usize),
        Item::Segment { .. } | Item::End { .. } | Item::Damage { .. } | Item::Tail { .. } => None,
    };
    scan(&bytes, SegmentId(id)).filter_map(block).collect()
}

fn overwrite(path: &Path, range: Range<usize>) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&vec![0; range.len()], range.start as u64).unwrap();
}

/// What gzip makes of it, if it has nothing to complain about.
fn zcat(path: &Path) -> Result<String, String> {
    let output = Command::new("gzip").arg("-dc").arg(path).output().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    if output.status.success() && complaint.is_empty() { Ok(text) } else { Err(complaint) }
}

#[test]
fn gzip_reads_the_records_of_a_segment_that_ended_and_of_one_in_use() {
    let (dir, writer) = stored(1..101);
    let path = segment(&dir, 1);
    assert_eq!(fs::metadata(&path).unwrap().len(), one_record_per_block().segment_len, "it ends in zeros");
    assert_eq!(zcat(&path), Ok(records(1..101)));
    writer.stop();
    assert!(fs::metadata(&path).unwrap().len() < one_record_per_block().segment_len);
    assert_eq!(zcat(&path), Ok(records(1..101)));
    assert_eq!((cat(dir.path()), cat(&path), verify(dir.path())), (records(1..101), records(1..101), Ok(())));
    assert!(String::from_utf8(run("inspect", dir.path()).stdout).unwrap().contains("ended"));
}

#[test]
fn a_torn_tail_is_cut_back_to_the_last_whole_block() {
    for torn_len in [1, 16, 60, 150] {
        let (dir, mut writer) = stored(1..11);
        writer.fates = [Fate::Torn(torn_len)].into();
        writer.records(11..12);
        drop(writer);
        assert!(verify(dir.path()).unwrap_err().contains("a write was cut off"));

        let recovery = recovered(&dir);
        assert_eq!(recovery.producers(), [state("web", 1, 10)], "torn at {torn_len}");
        assert_eq!(recovery.oddities.len(), 1, "{:?}", recovery.oddities);
        assert_eq!((cat(dir.path()), verify(dir.path())), (records(1..11), Ok(())));
        assert_eq!(zcat(&segment(&dir, 1)), Ok(records(1..11)));
        assert_eq!(recovered(&dir).oddities, [""; 0], "the second time there is nothing to do");
    }
}

#[test]
fn blocks_that_overtook_a_lost_or_torn_one_do_not_count() {
    for fate in [Fate::Lost, Fate::Torn(1), Fate::Torn(100)] {
        let (dir, mut writer) = stored(1..11);
        writer.fates = [fate].into();
        writer.records(11..15);
        drop(writer);
        assert_eq!(cat(dir.path()), records(1..11), "readers see what recovery will keep");
        let recovery = recovered(&dir);
        assert_eq!(recovery.producers(), [state("web", 1, 10)], "{fate:?}: 12 to 14 have to be sent again");
        assert_eq!(quarantine(&dir).len(), 1, "what was cut off was copied first");

        let mut writer = start(&dir);
        writer.hello("web", 1);
        writer.records(11..16);
        drop(writer);
        recovered(&dir);
        assert_eq!((cat(dir.path()), verify(dir.path())), (records(1..16), Ok(())));
    }
}

#[test]
fn damage_is_no_lost_write_if_every_byte_of_it_was_written() {
    let (dir, writer) = stored(1..11);
    drop(writer);
    let path = segment(&dir, 1);
    let eighth = blocks(&path, 1)[7].clone();
    flip(&path, eighth.end - 12); // In its records.
    let recovery = recovered(&dir);
    assert_eq!(recovery.producers(), [state("web", 1, 10)], "9 and 10 were acknowledged");
    assert_eq!((recovery.counts.damaged_ranges, quarantine(&dir).len()), (1, 1));
    assert_eq!(cat(dir.path()), records([1, 2, 3, 4, 5, 6, 7, 9, 10]));
    assert!(zcat(&path).is_err());
}

#[test]
fn a_zeroed_block_is_damage_if_it_is_long_ago_and_a_lost_write_if_it_is_not() {
    for (last, kept) in [(60, 60), (20, 9)] {
        let (dir, writer) = stored(1..last + 1);
        drop(writer);
        let path = segment(&dir, 1);
        overwrite(&path, blocks(&path, 1)[9].clone());
        assert_eq!(recovered(&dir).producers(), [state("web", 1, kept)], "{last} records");
        assert_eq!(cat(dir.path()), records((1..kept as usize + 1).filter(|&number| number != 10)));
    }
}

#[test]
fn what_a_later_segment_holds_does_not_count_in_the_one_that_failed() {
    let (dir, mut writer) = stored(1..11);
    writer.leaves_files_long = true;
    writer.sync_fails = true;
    writer.records(11..12);
    writer.records(12..15);
    drop(writer);
    assert_eq!(blocks(&segment(&dir, 1), 1).len(), 11, "the failed segment has record 11 as well");
    assert_eq!(cat(dir.path()), records(1..15), "readers know that before recovery does");
    assert_eq!(recovered(&dir).producers(), [state("web", 1, 14)]);
    assert_eq!(blocks(&segment(&dir, 1), 1).len(), 10);
    assert_eq!((cat(dir.path()), verify(dir.path())), (records(1..15), Ok(())));
}

#[test]
fn a_directory_may_hold_segments_of_both_kinds() {
    let dir = tempfile::tempdir().unwrap();
    let kinds = [SegmentFormat::Plain, SegmentFormat::Gzip, SegmentFormat::Gzip, SegmentFormat::Plain];
    for (at, format) in kinds.into_iter().enumerate() {
        let mut writer = start_as(format, &dir);
        writer.hello("web", 1);
        assert!(writer.sent.contains(&format!("\"last_seq\":{}", at * 10)), "{}", writer.sent);
        writer.records(at * 10 + 1..at * 10 + 11);
        // Half of them end in a crash.
        if at % 2 == 0 {
            writer.stop();
        }
    }
    recovered(&dir);
    assert_eq!((cat(dir.path()), verify(dir.path())), (records(1..41), Ok(())));
    let compressed = [2, 3].map(|id| zcat(&segment(&dir, id)).unwrap());
    assert_eq!(compressed, [records(11..21), records(21..31)]);
}

#[test]
fn segments_roll_and_large_blocks_lie_on_whole_pages() {
    let dir = tempfile::tempdir().unwrap();
    // Hard to compress, so that what comes out is large as well.
    let noisy = |number: usize| {
        let noise: String =
            (0..40).map(|at| format!("{:x}", (number * 40 + at).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8)).collect();
        record(number).replace("record", &noise)
    };
    let limits =
        Limits { chunk_len_max: 64 << 10, batch_len_max: 72 << 10, paged_len_min: 8 << 10, ..one_record_per_block() };
    let limits = Limits { segment_len: limits.segment_len_min().next_multiple_of(4096), ..limits };
    let mut writer = Writer::start_as(SegmentFormat::Gzip, dir.path(), 0, &recovered(&dir), limits);
    writer.hello("web", 1);
    let mut text = String::new();
    for chunk in 0..60 {
        let lines: String = (chunk * 90..(chunk + 1) * 90).map(noisy).collect();
        writer.feed(&lines);
        text += &lines;
    }
    writer.stop();
    assert!(segment(&dir, 2).exists(), "so much does not fit into one segment");
    assert_eq!((cat(dir.path()) == text, verify(dir.path())), (true, Ok(())));
    let segments = layout::segments(&shard_dir(&dir)).unwrap();
    let unpacked: String = segments.iter().map(|(_, path)| zcat(path).unwrap()).collect();
    assert!(unpacked == text, "gzip reads the same");
    assert_eq!(recovered(&dir).producers(), [state("web", 1, 60 * 90)]);
}
