//! What a server finds after a crash: the [`Surveyor`] reads the model disk, and files are cut to what it says as the
//! server's storage does it.

use crate::disk::{Disk, File};
use ringest_ingest::scan::{Item, StoredRun, scan};
use ringest_ingest::survey::{Rest, Surveyor};
use ringest_ingest::{ProducerState, SegmentId};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

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
    /// Damage in what is kept: segment and where it lies.
    pub(crate) damage: Vec<(u64, Range<u64>)>,
    /// Segments of which a later one says how much counts.
    pub(crate) void: BTreeSet<u64>,
    /// Oldest first.
    pub(crate) blocks: Vec<Found>,
    pub(crate) oddities: Oddities,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Oddities {
    pub(crate) torn: usize,
    pub(crate) void: usize,
    pub(crate) disowned: usize,
    pub(crate) damaged: usize,
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
    let mut surveyor = Surveyor::new(batches);
    for (&id, file) in disk.files.iter().rev() {
        let is_set_aside = |range: &Range<u64>| file.is_set_aside(range);
        let foreign = surveyor.read(SegmentId(id), &on_disk(file), is_set_aside);
        assert_eq!(foreign, None, "nobody else writes here");
    }
    let found = surveyor.finish();
    let is = |what: fn(&Rest) -> bool| found.segments.iter().filter(|segment| what(&segment.rest)).count();
    let damage = found.segments.iter().flat_map(|it| it.damage.iter().map(|range| (it.id.0, range.clone())));
    let damage: Vec<_> = damage.collect();
    Survey {
        keep: found.segments.iter().filter(|it| !it.is_empty()).map(|it| (it.id.0, it.keep as usize)).collect(),
        void: found.segments.iter().filter(|it| it.rest == Rest::Void).map(|it| it.id.0).collect(),
        blocks: found
            .segments
            .iter()
            .flat_map(|it| blocks(it.id, &on_disk(&disk.files[&it.id.0])[..it.keep as usize]))
            .collect(),
        oddities: Oddities {
            torn: is(|rest| matches!(rest, Rest::Torn { .. })),
            void: is(|rest| *rest == Rest::Void),
            disowned: is(|rest| matches!(rest, Rest::Unfinished { .. })),
            damaged: damage.len(),
        },
        damage,
    }
}

/// A file that was not cut goes on with the zeros of its preallocation.
fn on_disk(file: &File) -> Vec<u8> {
    let mut bytes = file.contents().to_vec();
    if !file.is_cut() {
        bytes.extend_from_slice(&[0; 64]);
    }
    bytes
}

fn blocks(id: SegmentId, counted: &[u8]) -> Vec<Found> {
    let block = |item| match item {
        Item::Block { offset, end, rows, runs, body } => Some(Found {
            segment: id.0,
            offset,
            len: (end - offset) as usize,
            rows,
            runs,
            records: body.records().expect("what was written can be unpacked").into_owned(),
        }),
        Item::Segment { .. } | Item::End { .. } | Item::Damage { .. } | Item::Tail { .. } => None,
    };
    scan(counted, id).filter_map(block).collect()
}

/// Makes the files say what the survey says, or dies after so many `steps`. Damage is copied aside first, and the copy
/// remembers it: a place that was once judged to be damage is never taken for a write that was cut off, however few
/// blocks are behind it by then. Then goes what is void, because those that know it may have to go, and then what does
/// not count, from the newest back, because once a gap is gone nothing tells that what lies behind it must not count.
pub(crate) fn settle(disk: &mut Disk, survey: &Survey, steps: usize) {
    let keep: BTreeMap<u64, usize> = survey.keep.iter().copied().collect();
    for (id, range) in &survey.damage {
        disk.files.get_mut(id).expect("damage is kept").set_aside(range.clone());
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
