//! Where producers stood when a segment was closed, kept beside it: a start reads no segment that a snapshot covers.
//!
//! A snapshot is a file of lines: one per producer, the least recently used first, and a last one that counts them and
//! carries the checksum of all before it. It appears whole or not at all, and one that does not prove itself is not
//! there: the one before it is kept until the next, and behind both there are the segments.

use super::layout;
use super::sync_dir;
use ringest_ingest::{ProducerState, SegmentId};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A snapshot that proved itself.
#[derive(Debug)]
pub struct Snapshot {
    /// It covers this segment and all before it.
    pub segment: SegmentId,
    /// Where producers stood, the least recently used first.
    pub producers: Vec<ProducerState>,
}

impl Snapshot {
    /// Each state, with the segment up to which it is known.
    pub fn into_states(self) -> impl Iterator<Item = (SegmentId, ProducerState)> {
        self.producers.into_iter().map(move |state| (self.segment, state))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    producer: std::borrow::Cow<'a, str>,
    epoch: u64,
    last_seq: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    #[serde(rename = "$snap")]
    snap: Proof,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Proof {
    v: u32,
    id: u64,
    producers: usize,
    /// CRC32 of the lines before, in hexadecimal.
    c: String,
}

/// Keeps a snapshot with that segment, durably, and removes those that are not needed any more.
///
/// # Errors
/// What the disk says; there is nothing new then.
pub fn write(dir: &Path, segment: SegmentId, producers: &[ProducerState]) -> io::Result<()> {
    let text = encode(segment, producers)?;
    let path = dir.join(layout::snapshot_name(segment));
    let unfinished = path.with_extension(UNFINISHED_EXTENSION);
    let written = write_durably(&unfinished, &text).and_then(|()| fs::rename(&unfinished, &path));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished); // Where that fails too, the next write of this name takes its place.
    }
    written?;
    sync_dir(dir)?;
    let mut older = layout::snapshots(dir)?;
    older.truncate(older.len().saturating_sub(KEPT));
    older.iter().try_for_each(|(_, path)| fs::remove_file(path))
}

/// The newest snapshot of a shard's directory that proves itself, and a sentence for each that does not.
///
/// # Errors
/// The directory cannot be read.
pub fn newest(dir: &Path, oddities: &mut Vec<String>) -> io::Result<Option<Snapshot>> {
    for (segment, path) in layout::snapshots(dir)?.into_iter().rev() {
        match fs::read(&path).map_err(|err| err.to_string()).and_then(|text| decode(segment, &text)) {
            Ok(producers) => return Ok(Some(Snapshot { segment, producers })),
            Err(reason) => oddities.push(format!("{}: {reason}; the segments are read instead", path.display())),
        }
    }
    Ok(None)
}

/// Up to which segment both snapshots that a start may turn to know of producers. `None` unless there are two, and both
/// prove themselves: a start that finds one damaged turns to the other, and reads what that does not cover.
///
/// # Errors
/// The directory cannot be read.
pub fn covered_twice(dir: &Path) -> io::Result<Option<SegmentId>> {
    let snapshots = layout::snapshots(dir)?;
    let proves =
        |(segment, path): &(SegmentId, PathBuf)| fs::read(path).is_ok_and(|text| decode(*segment, &text).is_ok());
    match snapshots.last_chunk::<KEPT>() {
        Some(kept) if kept.iter().all(proves) => Ok(Some(kept[0].0)),
        Some(_) | None => Ok(None),
    }
}

fn encode(segment: SegmentId, producers: &[ProducerState]) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for ProducerState { producer, epoch, last_seq } in producers {
        let line = Line { producer: producer.as_str().into(), epoch: *epoch, last_seq: *last_seq };
        serde_json::to_writer(&mut text, &line)?;
        text.push(b'\n');
    }
    let c = format!("{:08x}", libdeflater::crc32(&text));
    let snap = Proof { v: VERSION, id: segment.0, producers: producers.len(), c };
    serde_json::to_writer(&mut text, &End { snap })?;
    text.push(b'\n');
    Ok(text)
}

fn decode(segment: SegmentId, text: &[u8]) -> Result<Vec<ProducerState>, String> {
    let whole = text.strip_suffix(b"\n").ok_or("its last line is not whole")?;
    let end = whole.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let End { snap } = serde_json::from_slice(&whole[end..]).map_err(|err| format!("its last line: {err}"))?;
    if snap.v != VERSION || snap.id != segment.0 {
        return Err(format!("it is that of segment {} in version {}", snap.id, snap.v));
    }
    if u32::from_str_radix(&snap.c, 16) != Ok(libdeflater::crc32(&text[..end])) {
        return Err("its checksum does not hold".into());
    }
    let lines = text[..end].split_inclusive(|&byte| byte == b'\n');
    let states = lines.map(|line| {
        let Line { producer, epoch, last_seq } = serde_json::from_slice(line)?;
        Ok(ProducerState { producer: producer.into_owned(), epoch, last_seq })
    });
    let states: Vec<ProducerState> = states.collect::<Result<_, serde_json::Error>>().map_err(|err| err.to_string())?;
    if states.len() != snap.producers {
        return Err(format!("it has {} producers of {}", states.len(), snap.producers));
    }
    Ok(states)
}

fn write_durably(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text)?;
    file.sync_all()
}

const VERSION: u32 = 1;
/// The newest, and the one before it in case the newest is damaged.
const KEPT: usize = 2;
/// Ends the name of a snapshot that is not complete; no reader takes it for one.
const UNFINISHED_EXTENSION: &str = "producers.part";

#[cfg(test)]
mod tests {
    use super::*;

    fn states() -> Vec<ProducerState> {
        let state = |producer: &str, epoch, last_seq| ProducerState { producer: producer.into(), epoch, last_seq };
        vec![state("web-17/ab3f", 4, 120_344), state("a \"quoted\" name\n", 1, 0), state("last", u64::MAX, u64::MAX)]
    }

    #[test]
    fn a_snapshot_reads_as_it_was_written_and_two_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for id in 1..=4 {
            write(dir.path(), SegmentId(id), &states()).unwrap();
        }
        let mut oddities = Vec::new();
        let newest = newest(dir.path(), &mut oddities).unwrap().unwrap();
        assert_eq!((newest.segment, newest.producers), (SegmentId(4), states()));
        assert!(oddities.is_empty());
        let kept: Vec<u64> = layout::snapshots(dir.path()).unwrap().iter().map(|(id, _)| id.0).collect();
        assert_eq!(kept, [3, 4]);
    }

    #[test]
    fn a_snapshot_cut_or_changed_anywhere_is_not_believed_and_the_one_before_it_is() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), SegmentId(7), &[]).unwrap();
        let whole = encode(SegmentId(8), &states()).unwrap();
        let path = dir.path().join(layout::snapshot_name(SegmentId(8)));
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            for damaged in [&whole[..at], &flipped] {
                fs::write(&path, damaged).unwrap();
                let mut oddities = Vec::new();
                let newest = newest(dir.path(), &mut oddities).unwrap().unwrap();
                assert_eq!((newest.segment, oddities.len()), (SegmentId(7), 1), "byte {at}");
            }
        }
    }

    #[test]
    fn a_snapshot_under_another_name_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), SegmentId(3), &states()).unwrap();
        let from = dir.path().join(layout::snapshot_name(SegmentId(3)));
        fs::rename(from, dir.path().join(layout::snapshot_name(SegmentId(9)))).unwrap();
        let mut oddities = Vec::new();
        assert!(newest(dir.path(), &mut oddities).unwrap().is_none());
        assert!(oddities[0].contains("segment 3"), "{oddities:?}");
    }
}
