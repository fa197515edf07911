//! What of a shard's segments is to be believed, read from the newest to the oldest. It changes nothing.
//!
//! The bytes of one segment say what is whole ([`scan`]). Three things are known only from the segments behind it:
//!
//! - A segment that failed counts up to the length that a later one names; the rest was written again there.
//! - Writes overtake each other, but acknowledgements do not. A place that was never written, with a few blocks behind
//!   it, is a write that a crash cut off: the blocks behind it were acknowledged to nobody, and their senders will send
//!   them again. They must not count, or the producer would be believed to be further than it is, and what was lost in
//!   between would be lost for good.
//! - With more blocks behind it than a shard has in memory, or where it was written all over, such a place was once
//!   whole: it is damage, and what lies behind it counts.

use super::layout;
use ringest_ingest::scan::{self, Item, StoredRun, scan};
use ringest_ingest::{ProducerState, SegmentId, ShardId};
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A shard's directory.
#[derive(Debug, Default)]
pub struct Survey {
    /// Its segments, oldest first.
    pub segments: Vec<Segment>,
    /// How far each producer's stream is stored here, by name.
    pub producers: HashMap<String, Progress>,
    /// Files that are named like segments and that no server wrote. Nothing is known of what they hold.
    pub foreign: Vec<(PathBuf, Foreign)>,
}

/// One segment, as far as it is to be believed.
#[derive(Debug)]
pub struct Segment {
    /// Its id.
    pub id: SegmentId,
    /// Its file.
    pub path: PathBuf,
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
    /// Blocks that were acknowledged to nobody, behind a write that was cut off.
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

/// Reads all segments of a shard's directory.
///
/// # Errors
/// A file cannot be read, or is larger than any segment; the message names it.
pub fn survey(shard_dir: &Path) -> io::Result<Survey> {
    survey_behind(shard_dir, None)
}

/// Reads the segments behind that one. Those up to it were whole when the snapshot with it was taken, so what lies
/// behind them says nothing of them.
///
/// # Errors
/// As [`survey`].
pub fn survey_behind(shard_dir: &Path, covered: Option<SegmentId>) -> io::Result<Survey> {
    let mut survey = Survey::default();
    let mut voids = HashMap::new();
    let mut bytes = Vec::new();
    let mut blocks_behind = 0;
    for (id, path) in layout::segments(shard_dir)?.into_iter().rev() {
        if covered.is_some_and(|covered| id <= covered) {
            break;
        }
        let len = match read_segment(&path, &mut bytes) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue, // A running server had no use for it.
            read => read?,
        };
        let void = voids.get(&id).copied().filter(|&void| void < len);
        let counted = &bytes[..void.unwrap_or(len) as usize];

        let (mut segment, gaps) = walk(id, path, counted);
        if let Some(foreign) = segment.foreign {
            survey.foreign.push((segment.path, foreign));
            continue;
        }
        segment.len = len;
        for &(void, len) in &segment.voids {
            voids.entry(void).or_insert(len); // The newest word counts.
        }
        let blocks = segment.blocks;
        if let Some(gap) = gaps.iter().find(|gap| gap.is_unfinished(blocks + blocks_behind)) {
            survey.segments.iter_mut().for_each(Segment::disown);
            segment.cut_at(gap.from, counted);
        } else if void.is_some() {
            segment.rest = Rest::Void;
        }
        blocks_behind += blocks;
        survey.segments.push(segment);
        if blocks_behind >= UNSETTLED_BLOCKS_MAX {
            survey.fold(); // No gap further down can take these back.
        }
    }
    survey.fold();
    survey.segments.reverse();
    Ok(survey)
}

/// Reads one segment by itself. What other segments say of it is not known.
///
/// # Errors
/// As [`survey`].
pub fn survey_file(id: SegmentId, path: PathBuf) -> io::Result<Segment> {
    let mut bytes = Vec::new();
    read_segment(&path, &mut bytes)?;
    Ok(walk(id, path, &bytes).0)
}

/// Reads a segment file into `bytes`; its length.
///
/// # Errors
/// It cannot be read, or is larger than any segment; the message names it.
pub fn read_segment(path: &Path, bytes: &mut Vec<u8>) -> io::Result<u64> {
    let named = |err: io::Error| io::Error::new(err.kind(), format!("cannot read {}: {err}", path.display()));
    bytes.clear();
    let mut file = File::open(path).map_err(named)?;
    let len = file.metadata().map_err(named)?.len();
    if len > SEGMENT_FILE_LEN_MAX {
        let reason = format!("{len} bytes are more than a segment has; move the file out of this directory");
        return Err(named(io::Error::new(io::ErrorKind::FileTooLarge, reason)));
    }
    bytes.reserve_exact(len as usize);
    let read = file.read_to_end(bytes).map_err(named)?;
    Ok(read as u64)
}

impl Survey {
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
    /// Whether there is anything in it that has to be kept.
    pub fn is_empty(&self) -> bool {
        self.blocks == 0 && self.damage.is_empty()
    }

    /// Everything in it lies behind a write that was cut off.
    fn disown(&mut self) {
        if self.blocks > 0 {
            self.cut_at(0, &[]);
        }
    }

    /// Everything from there on lies behind a write that was cut off.
    fn cut_at(&mut self, from: u64, bytes: &[u8]) {
        let (before, _) = walk(self.id, std::mem::take(&mut self.path), &bytes[..from as usize]);
        let to = self.keep.max(from);
        // Behind a gap at the end lies nothing of this segment.
        let rest = if to > from { Rest::Unfinished { to } } else { self.rest };
        *self = Segment { len: self.len, rest, ..before };
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
    from: u64,
    /// Blocks of the segment before it.
    blocks_before: u64,
}

impl Gap {
    /// Whether so few of that many blocks lie behind it that they may have overtaken it.
    fn is_unfinished(&self, blocks: u64) -> bool {
        (1..UNSETTLED_BLOCKS_MAX).contains(&(blocks - self.blocks_before))
    }
}

/// Reads one segment by itself. The gaps are those of its places that were never written, first to last.
fn walk(id: SegmentId, path: PathBuf, bytes: &[u8]) -> (Segment, Vec<Gap>) {
    let mut segment = Segment {
        id,
        path,
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
                    gaps.push(Gap { from, blocks_before: segment.blocks });
                }
                segment.damage.push(from..to);
            }
            Item::Tail { from, is_torn } => {
                // Cut off is only what was allocated and not written; without a zero it is an end that was damaged.
                if !segment.is_ended && bytes[from as usize..].contains(&0) {
                    gaps.push(Gap { from, blocks_before: segment.blocks });
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

/// As many blocks as a shard has in memory. Each stays there until those before it are written, so fewer can overtake.
const UNSETTLED_BLOCKS_MAX: u64 = 32;
/// Far more than a segment is given.
const SEGMENT_FILE_LEN_MAX: u64 = 4 << 30;

#[cfg(test)]
mod tests {
    use super::*;
    use ringest_ingest::Limits;

    #[test]
    fn no_more_blocks_can_overtake_a_write_than_a_shard_has_in_memory() {
        assert_eq!(UNSETTLED_BLOCKS_MAX, Limits::default().batches as u64);
    }

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
