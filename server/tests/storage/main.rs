//! What recovery makes of the directories that crashes leave behind, and what `inspect`, `verify` and `cat` see there.
//! The segments are written by a real shard; the disk under it forgets, tears and fails as a test tells it to.

mod compressed;
mod retention;
mod writer;

use ringest_ingest::{Fault, Limits, ProducerState, SegmentFormat, SegmentId, ShardId, home_shard};
use ringest_server::storage::{DirLock, Ending, Keeper, Recovery, Store, fault, is_served, layout, recover};
use ringest_sys::file::is_overwritten_in_place;
use rustix::fs::{Advice, SeekFrom};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use writer::{Fate, Writer, one_record_per_block, record, records};

#[test]
fn after_a_stop_in_order_nothing_is_left_to_recover() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&dir);
    writer.hello("web", 7);
    writer.records(1..101);
    writer.stop();
    let before = files(dir.path());
    assert_eq!(recovered(&dir).producers(), [state("web", 7, 100)]);
    assert_eq!(files(dir.path()), before);
    assert_eq!(cat(dir.path()), records(1..101));
    assert_eq!(verify(dir.path()), Ok(()));
}

#[test]
fn a_tail_of_zeros_is_cut_off_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&dir);
    writer.hello("web", 1);
    writer.records(1..11);
    drop(writer);
    assert_eq!(fs::metadata(segment(&dir, 1)).unwrap().len(), one_record_per_block().segment_len);

    let recovery = recovered(&dir);
    assert_eq!(recovery.oddities, [""; 0]);
    assert_eq!((recovery.counts.rows, recovery.counts.truncated_bytes), (10, 0));
    assert!(!fs::read(segment(&dir, 1)).unwrap().contains(&0));
    assert_eq!(cat(dir.path()), records(1..11));
}

#[test]
fn a_torn_tail_is_cut_back_to_the_last_whole_block() {
    for torn_len in [1, 60, 130] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = start(&dir);
        writer.hello("web", 1);
        writer.records(1..11);
        writer.fates = [Fate::Torn(torn_len)].into();
        writer.records(11..12);
        drop(writer);
        assert!(verify(dir.path()).unwrap_err().contains("a write was cut off"));

        let recovery = recovered(&dir);
        assert_eq!(recovery.producers(), [state("web", 1, 10)], "torn at {torn_len}");
        assert_eq!(recovery.oddities.len(), 1, "{:?}", recovery.oddities);
        assert_eq!(cat(dir.path()), records(1..11));
        assert_eq!(verify(dir.path()), Ok(()));
        assert_eq!(recovered(&dir).oddities, [""; 0], "the second time there is nothing to do");
    }
}

#[test]
fn a_producer_goes_on_after_a_crash_where_its_stored_stream_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&dir);
    writer.hello("web", 1);
    writer.records(1..11);
    drop(writer);
    let mut writer = start(&dir);
    writer.hello("web", 1);
    assert!(writer.sent.contains("\"last_seq\":10"), "{}", writer.sent);
    writer.records(11..21);
    drop(writer);
    assert_eq!(recovered(&dir).producers(), [state("web", 1, 20)]);
    assert_eq!(cat(dir.path()), records(1..21));
    assert_eq!(verify(dir.path()), Ok(()));
}

#[test]
fn blocks_that_overtook_a_lost_one_do_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&dir);
    writer.hello("web", 1);
    writer.records(1..11);
    writer.fates = [Fate::Lost].into();
    writer.records(11..15);
    assert!(!writer.sent.contains("\"upto\":11"), "nobody was told that 11 is safe");
    drop(writer);
    assert_eq!(cat(dir.path()), records(1..11), "readers see what recovery will keep");

    let recovery = recovered(&dir);
    assert_eq!(recovery.producers(), [state("web", 1, 10)], "11 is lost, so 12 to 14 have to be sent again");
    assert_eq!(recovery.oddities.len(), 1, "{:?}", recovery.oddities);
    let copies = quarantine(&dir);
    assert_eq!(copies.len(), 1);
    assert!(contains(&fs::read(&copies[0]).unwrap(), record(14).as_bytes()), "what was cut off was copied first");

    let mut writer = start(&dir);
    writer.hello("web", 1);
    writer.records(11..16);
    drop(writer);
    recovered(&dir);
    assert_eq!(cat(dir.path()), records(1..16));
    assert_eq!(verify(dir.path()), Ok(()));
}

#[test]
fn a_torn_block_with_whole_ones_behind_it_takes_them_along() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&dir);
    writer.hello("web", 1);
    writer.records(1..3);
    writer.fates = [Fate::Torn(100)].into();
    writer.records(3..7);
    drop(writer);
    assert_eq!(recovered(&dir).producers(), [state("web", 1, 2)]);
    assert_eq!(cat(dir.path()), records(1..3));
}

#[test]
fn blocks_in_the_next_segment_do_not_count_either() {
    let (dir, lost) = crash_at_a_roll();
    let before = copy(&dir);
    let recovery = recovered(&dir);
    assert_eq!(recovery.producers(), [state("web", 1, lost as u64 - 1)]);
    assert_eq!(cat(dir.path()), records(1..lost));
    assert!(!segment(&dir, 2).exists(), "all of it lay behind the lost block");
    assert_eq!(recovery.shards[0].next_segment, SegmentId(3), "an id is not given twice");

    // Killed after its first step, the newest segment, recovery comes to the same end.
    fs::remove_file(segment(&before, 2)).unwrap();
    let again = recovered(&before);
    assert_eq!(again.shards[0].producers, recovery.shards[0].producers);
    assert_eq!(cat(before.path()), records(1..lost));
}

#[test]
fn an_end_that_overtook_the_last_block_costs_nothing_that_is_stored_later() {
    for fate in [Fate::Lost, Fate::Torn(100)] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = start(&dir);
        writer.hello("web", 1);
        writer.records(1..4);
        writer.fates = [fate].into();
        writer.records(4..5);
        writer.die_in_drain();
        assert!(contains(&fs::read(segment(&dir, 1)).unwrap(), b"{\"$end\""), "the end was written");
        assert_eq!(cat(dir.path()), records(1..4));

        let recovery = recovered(&dir);
        assert_eq!(recovery.producers(), [state("web", 1, 3)]);
        assert_eq!(recovery.counts.damaged_ranges, 0, "{fate:?}: {:?}", recovery.oddities);
        assert_eq!(recovery.oddities.len(), 1, "a disk that lost it would look the same: {:?}", recovery.oddities);
        assert_eq!(verify(dir.path()), Ok(()));

        let mut writer = Writer::start(dir.path(), 0, &recovery, one_record_per_block());
        writer.hello("web", 1);
        writer.records(4..7);
        assert!(writer.sent.contains("\"upto\":6"), "{}", writer.sent);
        drop(writer);
        assert_eq!(recovered(&dir).producers(), [state("web", 1, 6)], "{fate:?}: what was acknowledged is still there");
        assert_eq!(cat(dir.path()), records(1..7));
        assert_eq!(verify(dir.path()), Ok(()));
    }
}

#[test]
fn what_is_written_behind_a_segment_without_its_end_is_not_acknowledged() {
    let (last, block) = full_segment();
    for fate in [Fate::Written, Fate::Lost] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = start(&dir);
        writer.feed("{\"$hello\":{\"v\":1,\"producer\":\"web\",\"epoch\":1,\"ack\":\"written\"}}\n");
        writer.leaves_files_long = true;
        (0..=last).for_each(|number| writer.feed(&block(number)));
        // The first block of the next segment, and then the end of this one.
        writer.fates = [Fate::Written, fate].into();
        writer.feed(&block(last + 1));
        let upto = |number: usize| format!("\"upto\":{}", (number + 1) * PER_BLOCK);
        assert!(writer.sent.contains(&upto(last)));
        assert_eq!(writer.sent.contains(&upto(last + 1)), fate == Fate::Written, "{fate:?}");
        drop(writer);
        // Power was not cut, so that much is promised.
        let kept = if fate == Fate::Written { last + 2 } else { last + 1 };
        assert_eq!(recovered(&dir).producers(), [state("web", 1, (kept * PER_BLOCK) as u64)], "{fate:?}");
    }
}

#[test]
fn damage_is_copied_aside_and_what_is_behind_it_still_counts() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&dir);
    writer.hello("web", 1);
    writer.records(1..41);
    writer.stop();
    let path = segment(&dir, 1);
    let at = find(&fs::read(&path).unwrap(), b"record 20\"");
    flip(&path, at);
    fs::remove_file(shard_dir(&dir).join(layout::snapshot_name(SegmentId(1)))).unwrap(); // Or it would not be read.
    let damaged = fs::read(&path).unwrap();

    let all_but_20 = records((1..41).filter(|&number| number != 20));
    let recovery = recovered(&dir);
    assert_eq!(recovery.counts.damaged_ranges, 1);
    assert_eq!(recovery.producers(), [state("web", 1, 40)]);
    assert_eq!(fs::read(&path).unwrap(), damaged, "the original stays as it is");
    let copies = quarantine(&dir);
    assert_eq!(copies.len(), 1);
    assert!(contains(&fs::read(&copies[0]).unwrap(), &damaged[at - 20..at + 5]));
    assert_eq!(cat(dir.path()), all_but_20);
    assert!(verify(dir.path()).unwrap_err().contains("damaged"));

    let written = fs::metadata(&copies[0]).unwrap().modified().unwrap();
    fs::write(copies[0].with_extension("bin.part"), b"a copy that a crash cut off").unwrap();
    assert_eq!(recovered(&dir).counts, recovery.counts, "the same again");
    assert_eq!(quarantine(&dir), copies);
    assert_eq!(fs::metadata(&copies[0]).unwrap().modified().unwrap(), written, "a copy is made once");
}

#[test]
fn damage_near_the_end_is_no_lost_write_if_every_byte_of_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&dir);
    writer.hello("web", 1);
    writer.records(1..11);
    drop(writer);
    let path = segment(&dir, 1);
    let at = find(&fs::read(&path).unwrap(), b"record 8\"");
    flip(&path, at);
    assert_eq!(recovered(&dir).producers(), [state("web", 1, 10)], "9 and 10 were acknowledged");
    assert_eq!(cat(dir.path()), records([1, 2, 3, 4, 5, 6, 7, 9, 10]));
}

#[test]
fn a_zeroed_block_long_ago_is_damage_and_not_a_lost_write() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&dir);
    writer.hello("web", 1);
    writer.records(1..61);
    drop(writer);
    let path = segment(&dir, 1);
    let at = find(&fs::read(&path).unwrap(), b"record 10\"") as u64;
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[0; 5], at).unwrap();
    let recovery = recovered(&dir);
    assert_eq!(recovery.producers(), [state("web", 1, 60)], "more blocks follow than can overtake");
    assert_eq!(recovery.counts.damaged_ranges, 1);
    assert_eq!(cat(dir.path()), records((1..61).filter(|&number| number != 10)));
}

#[test]
fn what_a_later_segment_holds_does_not_count_in_the_one_that_failed() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&dir);
    writer.hello("web", 1);
    writer.records(1..11);
    writer.leaves_files_long = true;
    writer.sync_fails = true;
    writer.records(11..12);
    writer.records(12..15);
    drop(writer);
    let twice = fs::read(segment(&dir, 1)).unwrap();
    assert!(contains(&twice, record(11).as_bytes()), "the failed segment has record 11 as well");
    assert_eq!(cat(dir.path()), records(1..15), "readers know that before recovery does");

    let recovery = recovered(&dir);
    assert_eq!(recovery.producers(), [state("web", 1, 14)]);
    assert!(!contains(&fs::read(segment(&dir, 1)).unwrap(), record(11).as_bytes()));
    assert_eq!(cat(dir.path()), records(1..15));
    assert_eq!(verify(dir.path()), Ok(()));
    assert_eq!(recovered(&dir).oddities, [""; 0]);
}

#[test]
fn an_end_that_cannot_be_believed_is_copied_before_it_is_cut_off() {
    // Whether its last block was flipped after it was acknowledged or never whole, nobody can tell.
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&dir);
    writer.hello("web", 1);
    writer.records(1..11);
    drop(writer);
    let path = segment(&dir, 1);
    let at = find(&fs::read(&path).unwrap(), b"record 10\"");
    flip(&path, at);
    let flipped = fs::read(&path).unwrap();
    let recovery = recovered(&dir);
    assert_eq!((recovery.producers(), cat(dir.path())), ([state("web", 1, 9)].into(), records(1..10)));
    let copies = quarantine(&dir);
    assert_eq!(copies.len(), 1, "{:?}", recovery.oddities);
    let copy = fs::read(&copies[0]).unwrap();
    assert!(contains(&copy, &flipped[at - 20..at + 5]) && !copy.ends_with(&[0]), "all of it but the zeros");
}

#[test]
fn a_segment_under_another_name_is_copied_before_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&dir);
    writer.hello("web", 1);
    writer.records(1..11);
    drop(writer);
    let mut bytes = fs::read(segment(&dir, 1)).unwrap();
    fs::rename(segment(&dir, 1), segment(&dir, 5)).unwrap();
    recovered(&dir);
    assert!(!segment(&dir, 5).exists());
    let copies: Vec<Vec<u8>> = quarantine(&dir).iter().map(|path| fs::read(path).unwrap()).collect();
    bytes.truncate(copies[0].len());
    assert!(copies == [bytes] && contains(&copies[0], records(10..11).as_bytes()), "all of it but the zeros");
}

#[test]
fn a_segment_that_was_emptied_or_removed_between_others_is_noticed() {
    let (dir, last) = crash_behind_a_roll();
    fs::remove_file(shard_dir(&dir).join(layout::snapshot_name(SegmentId(1)))).unwrap();
    fs::write(segment(&dir, 1), "").unwrap();
    assert!(verify(dir.path()).unwrap_err().contains("empty, though there are later ones"));
    let recovery = recovered(&dir);
    assert!(recovery.oddities[0].contains("empty, though there are later ones"), "{:?}", recovery.oddities);

    drop(start(&dir)); // A crash before anything was stored: the next start removes what this one made.
    let mut writer = start(&dir);
    writer.hello("web", 1);
    writer.records(last + 1..last + 11);
    writer.stop();
    let output = run("verify", dir.path());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "which alone is no fault: {said}");
    assert!(said.contains("segments 3 to") && said.contains("are not here"), "{said}");
}

#[test]
fn a_shards_directory_that_is_a_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(shard_dir(&dir), "mine").unwrap();
    let recovery = recovered(&dir);
    assert!(recovery.oddities[0].contains("shard-00"), "{:?}", recovery.oddities);
    let refused = Store::open(dir.path(), ShardId(0), SegmentFormat::Plain).unwrap_err().to_string();
    assert!(refused.contains("shard-00") && refused.contains("move it away"), "{refused}");
    assert_eq!(fs::read(shard_dir(&dir)).unwrap(), b"mine");
}

#[test]
fn a_segment_without_a_block_goes_and_its_id_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let writer = start(&dir);
    drop(writer);
    assert!(segment(&dir, 1).exists());
    let recovery = recovered(&dir);
    assert!(!segment(&dir, 1).exists());
    assert_eq!(recovery.shards[0].next_segment, SegmentId(2));
    assert_eq!(recovery.oddities, [""; 0]);
}

#[test]
fn segments_roll_and_large_blocks_lie_on_whole_pages() {
    let dir = tempfile::tempdir().unwrap();
    let limits =
        Limits { chunk_len_max: 64 << 10, batch_len_max: 72 << 10, paged_len_min: 8 << 10, ..one_record_per_block() };
    let limits = Limits { segment_len: limits.segment_len_min().next_multiple_of(4096), ..limits };
    let mut writer = Writer::start(dir.path(), 0, &recovered(&dir), limits);
    writer.hello("web", 1);
    let mut number = 1;
    for _ in 0..60 {
        writer.feed(&records(number..number + 700));
        number += 700;
    }
    writer.stop();
    assert!(segment(&dir, 2).exists(), "so much does not fit into one segment");
    assert_eq!(cat(dir.path()), records(1..number));
    assert_eq!(verify(dir.path()), Ok(()));
    assert_eq!(recovered(&dir).producers(), [state("web", 1, number as u64 - 1)]);
}

#[test]
fn small_writes_find_blocks_that_were_written_before_and_large_ones_have_nothing_written_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let limits =
        Limits { chunk_len_max: 64 << 10, batch_len_max: 72 << 10, paged_len_min: 8 << 10, ..one_record_per_block() };
    let limits = Limits { segment_len: 8 << 20, ..limits };
    let mut writer = Writer::start(dir.path(), 0, &recovered(&dir), limits);
    let file = File::open(segment(&dir, 1)).unwrap();
    if !is_overwritten_in_place(&file).unwrap() {
        return eprintln!("skipped: this filesystem gains nothing by zeros");
    }
    // Pages that were read ahead would not be holes any more.
    rustix::fs::fadvise(&file, 0, None, Advice::Random).unwrap();
    let written = || rustix::fs::seek(&file, SeekFrom::Hole(0)).unwrap() as usize;
    assert_eq!(written(), 0, "space was allocated, and nothing else");

    // Half of what lies on the disk is zeros, up to a bound.
    writer.hello("web", 1);
    let mut ends = vec![written()];
    for number in 1..3000 {
        writer.records(number..number + 1);
        ends.push(written());
    }
    ends.dedup();
    assert!((8..20).contains(&ends.len()), "the disk was given new blocks so often: {ends:?}");
    let end = written();
    let used = stored_len(&file, end);
    assert!(end > used && end - used <= 257 << 10, "{used} bytes are stored, {end} are written");

    writer.feed(&records(3000..3700));
    let end = written();
    let used = stored_len(&file, end);
    assert!(end - used < 257 << 10, "what was there before");
    assert!(!writer.went_past_cache, "it would wait for the zeros that lie there");
    (0..5).for_each(|round| writer.feed(&records(3700 + 700 * round..4400 + 700 * round)));
    assert!(writer.went_past_cache);
    let end = written();
    let used = stored_len(&file, end);
    assert!(end - used < 4096, "{used} bytes are stored, {end} are written");
    writer.records(7200..7201);
    let end = written();
    let used = stored_len(&file, end);
    assert!(end - used < 2 * 4096, "it begins anew: {used} bytes are stored, {end} are written");
    writer.stop();
    assert_eq!(cat(dir.path()), records(1..7201));
    assert_eq!(verify(dir.path()), Ok(()));
}

#[test]
fn nothing_is_written_ahead_of_a_segments_end() {
    let dir = tempfile::tempdir().unwrap();
    let segment_len = one_record_per_block().segment_len;
    let mut writer = start(&dir);
    writer.leaves_files_long = true;
    writer.hello("web", 1);
    let mut number = 1;
    while !segment(&dir, 4).exists() {
        writer.records(number..number + 1);
        number += 1;
    }
    for id in 1..4 {
        assert_eq!(fs::metadata(segment(&dir, id)).unwrap().len(), segment_len);
    }
    drop(writer);
    recovered(&dir);
    assert_eq!(cat(dir.path()), records(1..number));
    assert_eq!(verify(dir.path()), Ok(()));
}

/// Up to the last byte that is not zero of so many.
fn stored_len(file: &File, written: usize) -> usize {
    let mut bytes = vec![0; written];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1)
}

#[test]
fn producers_find_their_way_to_any_number_of_shards() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..12).map(|n| format!("web-{n}")).collect();
    let mut next: BTreeMap<&str, usize> = names.iter().map(|name| (name.as_str(), 1)).collect();
    for shards in [3, 1, 5, 2] {
        let recovery = recover(dir.path(), shards).unwrap();
        for (name, next) in &mut next {
            let home = home_shard(name, shards);
            let mut writer =
                Writer::start(dir.path(), home.0, &recover(dir.path(), shards).unwrap(), one_record_per_block());
            writer.hello(name, 1);
            let known = format!("\"last_seq\":{}", *next - 1);
            assert!(writer.sent.contains(&known), "{name} on {home:?} of {shards}: {}", writer.sent);
            writer.records(*next..*next + 3);
            *next += 3;
        }
        let homes_of_others = recovery.shards.iter().zip(0..).flat_map(|(shard, number)| {
            shard.producers.iter().filter(move |known| home_shard(&known.producer, shards) != ShardId(number))
        });
        assert_eq!(homes_of_others.count(), 0);
    }
    assert_eq!(recover(dir.path(), 1).unwrap().counts.rows, 12 * 3 * 4);
}

#[test]
fn of_many_producers_the_most_recently_used_come_last() {
    let dir = tempfile::tempdir().unwrap();
    for (producer, epoch) in [("b", 1), ("a", 1), ("c", 1), ("a", 2)] {
        let mut writer = start(&dir);
        writer.hello(producer, epoch);
        writer.records(1..3);
    }
    let known = recovered(&dir).producers();
    assert_eq!(known, [state("b", 1, 2), state("c", 1, 2), state("a", 2, 2)]);
}

#[test]
fn a_damaged_last_line_does_not_cost_the_segment_behind_it() {
    for damage in ["flipped", "cut"] {
        let (dir, last) = crash_behind_a_roll();
        let path = segment(&dir, 1);
        let len = fs::metadata(&path).unwrap().len();
        match damage {
            "flipped" => flip(&path, len as usize - 20),
            _ => OpenOptions::new().write(true).open(&path).unwrap().set_len(len - 10).unwrap(),
        }
        let before = cat(dir.path());
        fs::remove_file(shard_dir(&dir).join(layout::snapshot_name(SegmentId(1)))).unwrap();
        recovered(&dir);
        assert!(segment(&dir, 2).exists(), "{damage}: what follows was acknowledged");
        assert_eq!(cat(dir.path()), before, "{damage}");
        assert!(before.ends_with(&record(last)), "{damage}: nothing behind it is missing");
    }
}

#[test]
fn what_a_snapshot_covers_is_not_read_and_nothing_of_it_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&dir);
    writer.hello("web", 3);
    writer.records(1..11);
    writer.stop();
    let mut writer = start(&dir);
    writer.hello("db", 1);
    writer.records(1..6);
    drop(writer); // A crash: the second segment has no snapshot.

    let recovery = recovered(&dir);
    assert_eq!(recovery.producers(), [state("web", 3, 10), state("db", 1, 5)]);
    assert_eq!((recovery.counts.covered, recovery.counts.segments, recovery.counts.rows), (1, 1, 5));

    // Not even one byte of it: it may be anything, or gone.
    fs::write(segment(&dir, 1), "anything").unwrap();
    assert_eq!(recovered(&dir).producers(), [state("web", 3, 10), state("db", 1, 5)]);
    fs::remove_file(segment(&dir, 1)).unwrap();
    assert_eq!(recovered(&dir).producers(), [state("web", 3, 10), state("db", 1, 5)]);
    fs::remove_file(segment(&dir, 2)).unwrap();
    let recovery = recovered(&dir);
    assert_eq!(recovery.producers(), [state("web", 3, 10)]);
    assert_eq!(recovery.shards[0].next_segment, SegmentId(2), "an id that a snapshot names is not given twice");
}

#[test]
fn a_snapshot_tells_of_producers_that_have_moved_away() {
    let dir = tempfile::tempdir().unwrap();
    let name = (0..).map(|n| format!("web-{n}")).find(|name| home_shard(name, 2) == ShardId(1)).unwrap();
    let mut writer = start(&dir);
    writer.hello(&name, 1);
    writer.records(1..11);
    writer.stop();
    // Of two shards the first one rolls on without it.
    let recovery = recover(dir.path(), 2).unwrap();
    assert_eq!(recovery.shards[1].producers, [state(&name, 1, 10)]);
    let mut writer = Writer::start(dir.path(), 0, &recovery, one_record_per_block());
    let other = (0..).map(|n| format!("db-{n}")).find(|name| home_shard(name, 2) == ShardId(0)).unwrap();
    writer.hello(&other, 1);
    writer.records(1..3);
    writer.stop();
    assert_eq!(recover(dir.path(), 2).unwrap().shards[1].producers, [state(&name, 1, 10)]);
}

#[test]
fn a_damaged_snapshot_is_told_and_the_segments_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&dir);
    writer.hello("web", 3);
    writer.records(1..11);
    writer.stop();
    flip(&shard_dir(&dir).join(layout::snapshot_name(SegmentId(1))), 20);
    let recovery = recovered(&dir);
    assert_eq!(recovery.producers(), [state("web", 3, 10)]);
    assert_eq!((recovery.counts.covered, recovery.counts.rows), (0, 10));
    assert!(recovery.oddities[0].contains("the segments are read instead"), "{:?}", recovery.oddities);
}

#[test]
fn a_segment_that_could_not_be_closed_ends_snapshots_until_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), ShardId(0), SegmentFormat::Plain).unwrap();
    let close = |id: u64, len: u64| {
        let file = store.create(SegmentId(id), 1 << 20).unwrap();
        if len == 0 {
            fs::remove_file(segment(&dir, id)).unwrap(); // So that it cannot be removed.
        }
        store.close(&file, SegmentId(id), Ending { len, producers: Some(vec![state("web", 1, id)]) });
    };
    close(1, 100);
    close(2, 0);
    close(3, 100);
    let snapshots = layout::snapshots(&shard_dir(&dir)).unwrap();
    assert_eq!(snapshots.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_producer_that_was_forgotten_and_began_again_stands_where_its_newest_line_is() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { producers_max: 1, ..one_record_per_block() };
    let mut writer = Writer::start(dir.path(), 0, &recovered(&dir), limits.clone());
    writer.hello("web", 1);
    writer.records(1..11);
    drop(writer);
    // Another one takes its place, so it is not known any more.
    let mut writer = Writer::start(dir.path(), 0, &recovered(&dir), limits.clone());
    writer.hello("db", 1);
    writer.records(1..2);
    drop(writer);
    let only = |producer: &str| {
        let mut recovery = recovered(&dir);
        recovery.shards[0].producers.retain(|known| known.producer == producer);
        recovery
    };
    let mut writer = Writer::start(dir.path(), 0, &only("db"), Limits { producers_max: 2, ..limits });
    writer.hello("web", 1);
    assert!(writer.sent.contains("\"known\":false"), "{}", writer.sent);
    writer.records(1..4);
    drop(writer);
    assert_eq!(recovered(&dir).producers(), [state("db", 1, 1), state("web", 1, 3)], "line 4 is not a repeat");
}

#[test]
fn a_file_larger_than_any_segment_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = segment(&dir, 9);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::File::create(&path).unwrap().set_len((4 << 30) + 1).unwrap();
    let message = recover(dir.path(), 1).unwrap_err().to_string();
    assert!(message.contains("00000000000000000009.ndjson") && message.contains("4294967297"), "{message}");
}

#[test]
fn a_second_server_on_the_same_directory_is_refused_by_the_directorys_name() {
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("deep/logs");
    let lock = DirLock::take(&logs, Duration::ZERO).unwrap();
    let message = DirLock::take(&logs, Duration::ZERO).unwrap_err().to_string();
    assert!(message.contains(logs.to_str().unwrap()) && message.contains("another server"), "{message}");
    assert!(is_served(&logs));
    // Who takes it for a leftover of a crash lets nobody in by that.
    fs::remove_file(logs.join(".lock")).unwrap();
    assert!(DirLock::take(&logs, Duration::ZERO).is_err() && is_served(&logs));
    drop(lock);
    // A command that another test starts has our descriptors for a moment, and the lock with them.
    DirLock::take(&logs, Duration::from_secs(10)).unwrap();
    let began_at = Instant::now();
    while is_served(&logs) {
        assert!(began_at.elapsed() < Duration::from_secs(10), "nobody has it any more");
    }
}

#[test]
fn a_segment_that_exists_is_never_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), ShardId(0), SegmentFormat::Plain).unwrap();
    fs::write(segment(&dir, 1), b"precious").unwrap();
    let err = store.create(SegmentId(1), 4096).unwrap_err();
    assert_eq!((err.kind(), fault(&err)), (io::ErrorKind::AlreadyExists, Fault::Broken));
    assert_eq!(fs::read(segment(&dir, 1)).unwrap(), b"precious");
}

#[test]
fn a_full_disk_leaves_nothing_of_a_segment_and_stops_no_recovery() {
    let Some(disk) = SmallDisk::mount(2 << 20) else { return };
    let store = Store::open(disk.path(), ShardId(0), SegmentFormat::Plain).unwrap();
    let err = store.create(SegmentId(1), 64 << 20).unwrap_err();
    assert_eq!(fault(&err), Fault::Full, "{err}");
    assert_eq!(layout::segments(&disk.path().join("shard-00")).unwrap(), []);

    // A segment that is both damaged and torn, on a disk without a byte to spare.
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&dir);
    writer.hello("web", 1);
    writer.records(1..31);
    writer.fates = [Fate::Torn(100)].into();
    writer.records(31..32);
    drop(writer);
    let mut bytes = fs::read(segment(&dir, 1)).unwrap();
    let at = find(&bytes, b"record 5\"");
    bytes[at] ^= 1;
    let torn = disk.path().join("shard-00").join(layout::segment_name(SegmentId(1), SegmentFormat::Plain));
    fs::write(&torn, &bytes).unwrap();
    disk.fill();

    let recovery = recover(disk.path(), 1).unwrap();
    assert_eq!(recovery.producers(), [state("web", 1, 30)]);
    let told = recovery.oddities.join("\n");
    assert!(told.contains("could not be copied") && told.contains("a write was cut off"), "{told}");
    assert_eq!(cat(disk.path()), records((1..31).filter(|&number| number != 5)));
}

#[test]
fn the_keeper_answers_everybody_also_those_who_ask_too_late() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path(), ShardId(0), SegmentFormat::Plain).unwrap());
    let keeper = Keeper::spawn().unwrap();
    let handle = keeper.handle();
    let (opened, files) = mpsc::channel();
    for id in 1..=3 {
        let opened = opened.clone();
        handle.open(store.clone(), SegmentId(id), 4096, move |file| opened.send(file).unwrap());
    }
    for (id, len) in [(1, 0), (2, 100), (3, 4096)] {
        let file = Arc::new(files.recv().unwrap().unwrap());
        handle.close(store.clone(), SegmentId(id), file, Ending { len, producers: None }, || {});
    }
    drop(keeper);
    let lens = [1, 2, 3].map(|id| fs::metadata(segment(&dir, id)).map(|metadata| metadata.len()).ok());
    assert_eq!(lens, [None, Some(100), Some(4096)], "dropping the keeper waits for what was asked");

    handle.open(store, SegmentId(4), 4096, move |file| opened.send(file).unwrap());
    assert!(files.recv().unwrap().is_err());
    assert!(!segment(&dir, 4).exists());
}

#[test]
fn a_store_that_keeps_nothing_takes_everything() {
    let store = Store::nowhere();
    let file = store.create(SegmentId(1), 1 << 40).unwrap();
    file.sync().unwrap();
    store.close(&file, SegmentId(1), Ending { len: 0, producers: None });
    assert!(file.direct().is_none());
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&dir);
    for _ in 0..200 {
        writer.feed(&records(0..80));
    }
    writer.stop();
    let mut cat = command("cat", dir.path()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(cat.stdout.take());
    assert!(cat.wait().unwrap().success());
}

#[test]
fn inspect_takes_a_log_directory_a_shards_and_a_single_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&dir);
    writer.hello("web", 1);
    writer.records(1..11);
    writer.stop();
    let file = segment(&dir, 1);
    for path in [dir.path(), file.parent().unwrap(), &file] {
        let output = run("inspect", path);
        let text = String::from_utf8(output.stdout).unwrap();
        let row: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().skip(1).collect();
        let len = fs::metadata(&file).unwrap().len().to_string();
        assert_eq!(row, ["1", &len, "10", "10", "10", "ended"]);
    }
    let empty = tempfile::tempdir().unwrap();
    let output = run("inspect", empty.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("shard-NN"));
}

#[test]
fn what_has_a_segments_or_a_shards_name_and_cannot_be_read_is_a_finding() {
    for (name, is_dir) in [("shard-00/00000000000000000001.ndjson", false), ("shard-01", true)] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = start(&dir);
        writer.feed(&records(0..10));
        writer.stop();
        fs::create_dir(dir.path().join("shard-01")).unwrap();
        assert_eq!(verify(dir.path()), Ok(()));
        // Moved to another disk, with a link in its place; and then that disk is not there.
        let path = dir.path().join(name);
        if is_dir { fs::remove_dir(&path) } else { fs::remove_file(&path) }.unwrap();
        symlink("/nowhere/at/all", &path).unwrap();
        let finding = verify(dir.path()).unwrap_err();
        assert!(finding.contains(path.to_str().unwrap()) && finding.contains("NOT all of it"), "{finding}");
    }
}

#[test]
fn a_segment_that_somebody_compressed_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&dir);
    writer.hello("web", 1);
    writer.records(1..11);
    writer.stop();
    assert!(Command::new("gzip").arg(segment(&dir, 1)).status().unwrap().success());
    let before = files(dir.path());

    let recovery = recovered(&dir);
    assert_eq!(recovery.shards[0].next_segment, SegmentId(2), "its id is not given again");
    fs::remove_file(shard_dir(&dir).join(layout::snapshot_name(SegmentId(1)))).unwrap(); // Or it would not be read.
    let recovery = recover(dir.path(), 1).unwrap();
    assert!(recovery.oddities[0].contains("left alone"), "{:?}", recovery.oddities);
    let compressed = before.keys().find(|path| path.extension().is_some_and(|name| name == "gz")).unwrap();
    assert_eq!(fs::read(compressed).unwrap(), before[compressed]);
    assert_eq!(cat(dir.path()), "");
    let refused = run("cat", compressed);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("zcat"), "{refused:?}");
}

/// What a server of one shard recovers there.
fn recovered(dir: &TempDir) -> Recovery {
    recover(dir.path(), 1).unwrap()
}

/// The only shard of a server, started after recovery.
fn start(dir: &TempDir) -> Writer {
    Writer::start(dir.path(), 0, &recovered(dir), one_record_per_block())
}

/// A shard that rolled, and stored one block in its second segment before it was killed. The number of the last record.
fn crash_behind_a_roll() -> (TempDir, usize) {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&dir);
    writer.hello("web", 1);
    let mut fed = 0;
    while !fs::read(segment(&dir, 2)).is_ok_and(|bytes| bytes.starts_with(b"{")) {
        writer.feed(&records(fed + 1..fed + 81));
        fed += 80;
    }
    (dir, fed)
}

/// The number of the last block that fits into the first segment, and how such a block is sent.
fn full_segment() -> (usize, fn(usize) -> String) {
    let block = |number: usize| records(number * PER_BLOCK + 1..(number + 1) * PER_BLOCK + 1);
    let trial = tempfile::tempdir().unwrap();
    let mut writer = start(&trial);
    writer.hello("web", 1);
    let mut fed = 0;
    while fs::read(segment(&trial, 2)).map_or(true, |bytes| !bytes.starts_with(b"{")) {
        writer.feed(&block(fed));
        fed += 1;
    }
    (fed - 2, block)
}

/// A shard that lost the last block of its first segment, but not the first one of its second. The number of the first
/// record that was lost.
fn crash_at_a_roll() -> (TempDir, usize) {
    let (last, block) = full_segment();
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&dir);
    writer.hello("web", 1);
    writer.leaves_files_long = true;
    (0..last).for_each(|number| writer.feed(&block(number)));
    // The last of its segment is lost; the first of the next one, and the end of the first, are written.
    writer.fates = [Fate::Lost].into();
    writer.feed(&block(last));
    writer.feed(&block(last + 1));
    drop(writer);
    assert!(contains(&fs::read(segment(&dir, 2)).unwrap(), block(last + 1).as_bytes()));
    (dir, last * PER_BLOCK + 1)
}

/// Records in a block where that many save syncs.
const PER_BLOCK: usize = 80;

trait Producers {
    fn producers(&self) -> Vec<ProducerState>;
}

impl Producers for Recovery {
    fn producers(&self) -> Vec<ProducerState> {
        self.shards.iter().flat_map(|shard| shard.producers.clone()).collect()
    }
}

fn state(producer: &str, epoch: u64, last_seq: u64) -> ProducerState {
    ProducerState { producer: producer.into(), epoch, last_seq }
}

fn segment(dir: &TempDir, id: u64) -> PathBuf {
    dir.path().join(layout::shard_dir_name(ShardId(0))).join(layout::segment_name(SegmentId(id), SegmentFormat::Plain))
}

fn shard_dir(dir: &TempDir) -> PathBuf {
    dir.path().join(layout::shard_dir_name(ShardId(0)))
}

fn quarantine(dir: &TempDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.path().join("shard-00/quarantine")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Every file below a directory, with its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

fn copy(dir: &TempDir) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for (path, bytes) in files(dir.path()) {
        let to = copy.path().join(path.strip_prefix(dir.path()).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, bytes).unwrap();
    }
    copy
}

fn command(name: &str, path: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringest-server"));
    command.arg(name).arg(path);
    command
}

fn run(name: &str, path: &Path) -> Output {
    command(name, path).output().unwrap()
}

fn cat(path: &Path) -> String {
    let output = run("cat", path);
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// The findings, if there are any.
fn verify(path: &Path) -> Result<(), String> {
    let output = run("verify", path);
    if output.status.success() { Ok(()) } else { Err(String::from_utf8(output.stdout).unwrap()) }
}

fn find(bytes: &[u8], needle: &[u8]) -> usize {
    bytes.windows(needle.len()).position(|window| window == needle).unwrap()
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// A filesystem that is full soon. Only root can make one.
struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    fn mount(len: usize) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={len}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk { dir });
        }
        eprintln!("skipped: a small filesystem can be mounted by root only");
        None
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Takes what is left.
    fn fill(&self) {
        let mut ballast = fs::File::create(self.path().join("ballast")).unwrap();
        while ballast.write_all(&[1; 4096]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).output();
    }
}
