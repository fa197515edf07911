//! What a server finds after a crash. The same decisions as the server's storage, made over the model disk: segments
//! are read from the newest to the oldest; what a later segment declares void does not count; blocks behind a place
//! that was never written count only if there are more of them than a shard has in memory; the rest is cut off.

use crate::disk::Disk;
use ringest_ingest::scan::{Item, StoredRun, scan};
use ringest_ingest::{ProducerState, SegmentId};
use std::collections::{BTreeMap, BTreeSet};

/// One block that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) len: usize,
    pub(crate) rows: u32,
    pub(crate) runs: Vec<StoredRun>,
    pub(crate) records: Vec<u8>,
}

/// What counts of one directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Per segment, oldest first: the bytes that count.
    pub(crate) keep: Vec<(u64, usize)>,
    /// Damage in what is kept: segment and where it starts.
    pub(crate) damage: Vec<(u64, usize)>,
    /// Segments of which a later one says how much counts.
    pub(crate) void: BTreeSet<u64>,
    /// Oldest first.
    pub(crate) blocks: Vec<Found>,
    pub(crate) oddities: Oddities,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Oddities {
    pub(crate) torn: u64,
    pub(crate) void: u64,
    pub(crate) disowned: u64,
    pub(crate) damaged: u64,
}

struct Segment {
    id: u64,
    keep: usize,
    is_ended: bool,
    damage: Vec<(u64, usize)>,
    is_torn: bool,
    voids: Vec<(SegmentId, u64)>,
    blocks: Vec<Found>,
    /// Places that were never written: where they start, and how many blocks lie before them.
    gaps: Vec<(usize, usize)>,
}

impl Survey {
    /// Whether both say the same of what counts.
    pub(crate) fn is_like(&self, other: &Survey) -> bool {
        self.keep == other.keep && self.blocks == other.blocks
    }

    pub(crate) fn brief(&self) -> String {
        let blocks: Vec<_> = self.blocks.iter().map(|block| (block.segment, block.offset, block.len)).collect();
        format!("{:?} {:?} {blocks:?}", self.oddities, self.keep)
    }
}

/// Reads a directory of a shard that holds at most `batches` blocks in memory.
pub(crate) fn survey(disk: &Disk, batches: usize) -> Survey {
    let mut segments: Vec<Segment> = Vec::new();
    let mut voids = BTreeMap::new();
    let mut behind = 0;
    let mut oddities = Oddities::default();
    for (&id, file) in disk.files.iter().rev() {
        // A file that was not cut goes on with the zeros of its preallocation.
        let mut bytes = file.contents().to_vec();
        if !file.is_cut() {
            bytes.extend_from_slice(&[0; 64]);
        }
        let void: Option<u64> = voids.get(&SegmentId(id)).copied();
        if let Some(void) = void
            && (void as usize) < bytes.len()
        {
            bytes.truncate(void as usize);
            oddities.void += 1;
        }
        let mut segment = walk(id, &bytes);
        for &(void, len) in &segment.voids {
            voids.entry(void).or_insert(len);
        }
        let blocks = segment.blocks.len();
        // What is missing in a failed segment was known to be missing when the next one was begun.
        let may_be_unfinished = |from| void.is_none() && !file.is_set_aside(from);
        let is_unfinished =
            |&&(from, before): &&(usize, usize)| may_be_unfinished(from) && blocks - before + behind < batches;
        if let Some(&(from, _)) = segment.gaps.iter().find(is_unfinished) {
            for newer in &mut segments {
                *newer = walk(newer.id, &[]);
            }
            segment = walk(id, &bytes[..from]);
            behind = 0; // What does not count is not counted either: it may be there twice.
            oddities.disowned += u64::from(blocks > segment.blocks.len());
        }
        oddities.torn += u64::from(segment.is_torn);
        oddities.damaged += segment.damage.len() as u64;
        behind += segment.blocks.len();
        segments.push(segment);
    }
    segments.reverse();
    // Without a block, and without damage that may hold one, nothing has to be kept.
    let is_worth = |segment: &&Segment| !segment.blocks.is_empty() || !segment.damage.is_empty();
    Survey {
        keep: segments.iter().filter(is_worth).map(|segment| (segment.id, segment.keep)).collect(),
        void: voids.keys().map(|id| id.0).collect(),
        damage: segments.iter().flat_map(|segment| segment.damage.clone()).collect(),
        blocks: segments.into_iter().flat_map(|segment| segment.blocks).collect(),
        oddities,
    }
}

fn walk(id: u64, bytes: &[u8]) -> Segment {
    let mut segment = Segment {
        id,
        keep: bytes.len(),
        is_ended: false,
        damage: Vec::new(),
        is_torn: false,
        voids: Vec::new(),
        blocks: Vec::new(),
        gaps: Vec::new(),
    };
    for item in scan(bytes, SegmentId(id)) {
        match item {
            Item::Segment { voids, .. } => segment.voids = voids,
            Item::Block { offset, end, rows, runs, body } => {
                segment.blocks.push(Found {
                    segment: id,
                    offset,
                    len: (end - offset) as usize,
                    rows,
                    runs,
                    records: body.records().expect("what was written can be unpacked").into_owned(),
                });
            }
            Item::End { .. } => segment.is_ended = true,
            Item::Damage { from, is_unwritten, .. } => {
                if is_unwritten {
                    segment.gaps.push((from as usize, segment.blocks.len()));
                }
                segment.damage.push((id, from as usize));
            }
            Item::Tail { from, is_torn } => {
                if !segment.is_ended && bytes[from as usize..].contains(&0) {
                    segment.gaps.push((from as usize, segment.blocks.len()));
                }
                segment.keep = from as usize;
                segment.is_torn = is_torn;
            }
        }
    }
    segment
}

/// Makes the files say what the survey says, or dies after so many `steps`. Damage is copied aside first, and the copy
/// remembers it: a place that was once judged to be damage is never taken for a write that was cut off, however few
/// blocks are behind it by then. Then goes what is void, because those that know it may have to go, and then what does
/// not count, from the newest back, because once a gap is gone nothing tells that what lies behind it must not count.
pub(crate) fn settle(disk: &mut Disk, survey: &Survey, steps: usize) {
    let keep: BTreeMap<u64, usize> = survey.keep.iter().copied().collect();
    for &(id, from) in &survey.damage {
        disk.files.get_mut(&id).expect("damage is kept").set_aside(from);
    }
    let (void, rest): (Vec<u64>, Vec<u64>) = disk.files.keys().rev().partition(|id| survey.void.contains(id));
    for id in void.into_iter().chain(rest).take(steps) {
        match keep.get(&id) {
            Some(&len) => disk.files.get_mut(&id).expect("just seen").settle(len),
            None => drop(disk.files.remove(&id)),
        }
    }
}

/// How far each producer is, from every directory: by its snapshots, and by blocks that they do not cover.
pub(crate) fn fold<'a>(
    snapshots: impl Iterator<Item = &'a ProducerState>,
    blocks: impl Iterator<Item = &'a Found>,
) -> Vec<ProducerState> {
    let mut producers: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let told = snapshots.map(|state| (state.producer.as_str(), (state.epoch, state.last_seq)));
    let runs = blocks.flat_map(|block| &block.runs).filter(|run| !run.producer.is_empty());
    for (producer, progress) in told.chain(runs.map(|run| (run.producer.as_str(), (run.epoch, run.upto)))) {
        let known = producers.entry(producer).or_default();
        *known = (*known).max(progress);
    }
    let state = |(producer, (epoch, last_seq)): (&str, (u64, u64))| ProducerState {
        producer: producer.to_owned(),
        epoch,
        last_seq,
    };
    producers.into_iter().map(state).collect()
}
