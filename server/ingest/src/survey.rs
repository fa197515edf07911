//! What of a shard's segments is to be believed, read from the newest to the oldest. It changes nothing.
//!
//! The bytes of one segment say what is whole ([`scan()`]). Three things are known only from the segments behind it:
//!
//! - A segment that failed counts up to the length that a later one names; the rest was written again there.
//! - Writes overtake each other, but acknowledgements do not. A place that was never written, with a few blocks behind
//!   it or none, is a write that a crash cut off: the blocks behind it were acknowledged to nobody, and their senders will
//!   send them again. They must not count, or the producer would be believed to be further than it is, and what was lost in
//!   between would be lost for good. Nor may the place stay: what is stored behind it later does count.
//! - With more blocks behind it than a shard has in memory, or where it was written all over, such a place was once
//!   whole: it is damage, and what lies behind it counts. Once it was judged to be that, it is not judged again.

use crate::chain::SegmentId;
use crate::producer::ProducerState;
use crate::scan::{self, Item, StoredRun, scan};
use crate::shard::ShardId;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

/// What is known of a shard's segments after all were read.
#[derive(Debug, Default)]
pub struct Survey {
    /// Those that are segments, oldest first.
    pub segments: Vec<Segment>,
    /// How far each producer's stream is stored here, by name.
    pub producers: HashMap<String, Progress>,
}

/// One segment, as far as it is to be believed.
#[derive(Debug)]
pub struct Segment {
    /// Its id.
    pub id: SegmentId,
    /// Bytes of the file.
    pub len: u64,
    /// Bytes that count; [`rest`](Self::rest) says what lies behind them.
    pub keep: u64,
    /// Whole blocks.
    pub blocks: u64,
    /// Records in them.
    pub rows: u64,
    /// Runs in them.
    pub runs: u64,
    /// The shard that its first line names, if that is whole.
    pub shard: Option<ShardId>,
    /// Its last line is there.
    pub is_ended: bool,
    /// What cannot be believed, with something behind it that can.
    pub damage: Vec<Range<u64>>,
    /// What lies behind the bytes that count.
    pub rest: Rest,
    /// It is no segment, but this.
    pub foreign: Option<Foreign>,
    voids: Vec<(SegmentId, u64)>,
    producers: HashMap<String, Progress>,
}

/// What a file is that is named like a segment and is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// Something that gzip made.
    Compressed,
    /// Anything else.
    Unknown,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Foreign::Compressed => "compressed, but not by a server; it is left alone; zcat reads it",
            Foreign::Unknown => "named like a segment, but not written by a server; it is left alone",
        })
    }
}

/// What lies behind the bytes of a segment that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nothing.
    Nothing,
    /// What was allocated and not used.
    Zeros,
    /// A write that was cut off, or an end that was damaged, and nothing whole behind it.
    Torn {
        /// Where it ends, and zeros or nothing begin.
        to: u64,
    },
    /// What a later segment holds.
    Void,
    /// Blocks that were acknowledged to nobody, or the end of the segment, behind a write that was cut off.
    Unfinished {
        /// Where they end.
        to: u64,
    },
}

/// How far a producer's stream is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Its highest incarnation.
    pub epoch: u64,
    /// The last number of that.
    pub upto: u64,
    /// The last segment that names it: the greater, the more recently it was used.
    pub last_seen: SegmentId,
}

impl Progress {
    /// As a shard wants to hear it.
    pub fn of(self, producer: &str) -> ProducerState {
        ProducerState { producer: producer.to_owned(), epoch: self.epoch, last_seq: self.upto }
    }
}

/// Reads one segment after the other, from the newest to the oldest.
#[derive(Debug)]
pub struct Surveyor {
    /// Newest first.
    segments: Vec<Segment>,
    /// Bytes that count of segments that failed, as those behind them say.
    voids: HashMap<SegmentId, u64>,
    producers: HashMap<String, Progress>,
    /// Blocks that count, in what was read so far.
    blocks_behind: u64,
    /// As many as a shard has in memory. Each stays there until those before it are written, so fewer can overtake.
    batches: u64,
}

impl Surveyor {
    /// Of a shard that has so many batches in memory at most.
    pub fn new(batches: usize) -> Surveyor {
        Surveyor {
            segments: Vec::new(),
            voids: HashMap::new(),
            producers: HashMap::new(),
            blocks_behind: 0,
            batches: batches as u64,
        }
    }

    /// Reads the next older one. `is_known_damage` says of a range whether an earlier recovery took it for damage; then it
    /// is, however few blocks are behind it by now. If the file is no segment, what it is.
    pub fn read(
        &mut self,
        id: SegmentId,
        bytes: &[u8],
        is_known_damage: impl Fn(&Range<u64>) -> bool,
    ) -> Option<Foreign> {
        let len = bytes.len() as u64;
        let void = self.voids.get(&id).copied().filter(|&void| void < len);
        let counted = &bytes[..void.unwrap_or(len) as usize];

        let (mut segment, gaps) = walk(id, counted);
        if segment.foreign.is_some() {
            return segment.foreign;
        }
        segment.len = len;
        for &(void, len) in &segment.voids {
            self.voids.entry(void).or_insert(len); // The newest word counts.
        }
        let behind = |gap: &Gap| segment.blocks - gap.blocks_before + self.blocks_behind;
        let is_unfinished = |gap: &&Gap| gap.is_unfinished(behind(gap), self.batches) && !is_known_damage(&gap.range);
        // What is missing in a segment that failed was known to be missing when the next one was begun.
        let unfinished = gaps.iter().find(is_unfinished).filter(|_| !self.voids.contains_key(&id));
        if let Some(gap) = unfinished {
            self.segments.iter_mut().for_each(Segment::disown);
            segment.cut_at(gap, counted);
            self.blocks_behind = 0; // What does not count may be there twice.
        } else if void.is_some() {
            segment.rest = Rest::Void;
        }
        self.blocks_behind += segment.blocks;
        self.segments.push(segment);
        if self.blocks_behind >= self.batches {
            self.fold(); // No gap further down can take these back.
        }
        None
    }

    /// Nothing is older.
    pub fn finish(mut self) -> Survey {
        self.fold();
        self.segments.reverse();
        Survey { segments: self.segments, producers: self.producers }
    }

    /// Takes over what the segments say of producers, which are here from the newest to the oldest. A number that is lower
    /// than an older one is no mistake: the producer was forgotten in between, and began again.
    fn fold(&mut self) {
        for segment in &mut self.segments {
            for (name, progress) in std::mem::take(&mut segment.producers) {
                self.producers.entry(name).or_insert(progress); // The newest word counts.
            }
        }
    }
}

/// Reads one segment by itself. What other segments say of it is not known.
pub fn survey_alone(id: SegmentId, bytes: &[u8]) -> Segment {
    walk(id, bytes).0
}

/// Notes how far a producer is, by directories between which there is no order: a higher epoch replaces a lower one,
/// within an epoch the furthest counts.
pub fn advance(producers: &mut HashMap<String, Progress>, name: String, told: Progress) {
    let known = producers.entry(name).or_insert(told);
    let last_seen = known.last_seen.max(told.last_seen);
    if (told.epoch, told.upto) > (known.epoch, known.upto) {
        *known = told;
    }
    known.last_seen = last_seen;
}

impl Segment {
    /// Whether there is nothing in it that has to be kept.
    pub fn is_empty(&self) -> bool {
        self.blocks == 0 && self.damage.is_empty()
    }

    /// Everything in it lies behind a write that was cut off.
    fn disown(&mut self) {
        if self.blocks > 0 {
            let to = match self.rest {
                Rest::Torn { to } | Rest::Unfinished { to } => to,
                Rest::Nothing | Rest::Zeros | Rest::Void => self.keep,
            };
            *self = Segment { len: self.len, rest: Rest::Unfinished { to }, ..walk(self.id, &[]).0 };
        }
    }

    /// Everything from that gap on lies behind a write that was cut off.
    fn cut_at(&mut self, gap: &Gap, bytes: &[u8]) {
        // Behind a gap at the end lies nothing of this segment.
        let rest = match self.rest {
            rest if gap.is_tail => rest,
            Rest::Torn { to } => Rest::Unfinished { to },
            _ => Rest::Unfinished { to: self.keep },
        };
        *self = Segment { len: self.len, rest, ..walk(self.id, &bytes[..gap.range.start as usize]).0 };
    }

    fn note(&mut self, run: StoredRun) {
        self.runs += 1;
        if !run.producer.is_empty() {
            let progress = Progress { epoch: run.epoch, upto: run.upto, last_seen: self.id };
            self.producers.insert(run.producer, progress);
        }
    }
}

/// A place that was never written.
struct Gap {
    range: Range<u64>,
    /// Blocks of the segment before it.
    blocks_before: u64,
    /// Nothing of this segment is behind it.
    is_tail: bool,
}

impl Gap {
    /// Whether the blocks behind it, of which there are so many, may have overtaken it.
    fn is_unfinished(&self, blocks_behind: u64, batches: u64) -> bool {
        // A segment that is still open ends in one, and that says nothing if it is the last.
        blocks_behind < batches && (blocks_behind > 0 || !self.is_tail)
    }
}

/// Reads one segment by itself. The gaps are those of its places that were never written, first to last.
fn walk(id: SegmentId, bytes: &[u8]) -> (Segment, Vec<Gap>) {
    let mut segment = Segment {
        id,
        len: bytes.len() as u64,
        keep: bytes.len() as u64,
        blocks: 0,
        rows: 0,
        runs: 0,
        shard: None,
        is_ended: false,
        damage: Vec::new(),
        rest: Rest::Nothing,
        foreign: None,
        voids: Vec::new(),
        producers: HashMap::new(),
    };
    let mut gaps = Vec::new();
    let is_packed = scan::is_packed(bytes);
    for item in scan(bytes, id) {
        match item {
            Item::Segment { shard, voids } => {
                (segment.shard, segment.voids) = (Some(ShardId(shard)), voids);
            }
            Item::Block { rows, runs, .. } => {
                segment.blocks += 1;
                segment.rows += u64::from(rows);
                runs.into_iter().for_each(|run| segment.note(run));
            }
            Item::End { .. } => segment.is_ended = true,
            Item::Damage { from, to, is_unwritten } => {
                if is_unwritten {
                    gaps.push(Gap { range: from..to, blocks_before: segment.blocks, is_tail: false });
                }
                segment.damage.push(from..to);
            }
            Item::Tail { from, is_torn } => {
                // Cut off is only what was allocated and not written; without that it is an end that was damaged.
                if !segment.is_ended && scan::ends_unwritten(&bytes[from as usize..], is_packed) {
                    let range = from..bytes.len() as u64;
                    gaps.push(Gap { range, blocks_before: segment.blocks, is_tail: true });
                }
                segment.keep = from;
                let written = || bytes.iter().rposition(|&byte| byte != 0).map_or(from, |last| last as u64 + 1);
                segment.rest = if is_torn { Rest::Torn { to: written() } } else { Rest::Zeros };
            }
        }
    }
    if segment.is_empty() && segment.shard.is_none() {
        segment.foreign = match () {
            () if scan::is_foreign(bytes) => Some(Foreign::Compressed),
            () if !scan::may_be_segment(bytes) => Some(Foreign::Unknown),
            () => None,
        };
    }
    (segment, gaps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_epoch_replaces_and_within_an_epoch_the_furthest_counts() {
        let mut producers = HashMap::new();
        let mut tell = |epoch, upto, segment| {
            let told = Progress { epoch, upto, last_seen: SegmentId(segment) };
            advance(&mut producers, "web".into(), told);
            producers["web"]
        };
        assert_eq!(tell(4, 100, 7).upto, 100);
        assert_eq!(tell(4, 90, 6).upto, 100, "older news changes nothing");
        assert_eq!(tell(3, 500, 2).upto, 100, "nor does an older incarnation, however far it was");
        let newer = tell(5, 10, 8);
        assert_eq!((newer.epoch, newer.upto, newer.last_seen), (5, 10, SegmentId(8)));
        assert_eq!(tell(5, 9, 9).last_seen, SegmentId(9));
    }
}
