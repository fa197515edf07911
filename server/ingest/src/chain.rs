//! The segments of one shard, oldest first: which takes blocks, which waits for its end, which comes next.
//!
//! A segment is preallocated before any line may be admitted into it, so a full disk shows here and not in the middle
//! of a write. A segment that failed is never written or synced again: its successor's first line says how much of it
//! counts.

use crate::block::{SEGMENT_LINE_LEN_MAX, seal_line};
use crate::member::SegmentFormat;
use crate::producer::ProducerState;
use crate::shard::ShardId;
use ringest_wire::Code;
use std::collections::VecDeque;
use std::io::Write;
use std::time::{Duration, Instant};

/// Names one segment file of a shard. Ids only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u64);

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    /// Where the next block goes.
    pub(crate) end: u64,
    pub(crate) rows: u64,
    /// When its first block was placed.
    pub(crate) began_at: Instant,
    /// Writes under way.
    pub(crate) writes: usize,
    /// The lowest batch number addressed into it.
    pub(crate) first_number: u64,
    /// The highest.
    pub(crate) last_number: u64,
    pub(crate) ending: Ending,
    /// A write or a sync of it failed.
    pub(crate) failed: bool,
    /// Taken when it was retired.
    pub(crate) snapshot: Option<Snapshot>,
}

/// Where producers stood at a moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// True once every batch up to this one is durable.
    pub(crate) upto: u64,
    pub(crate) producers: Vec<ProducerState>,
}

/// A segment to close.
#[derive(Debug)]
pub(crate) struct Closing {
    pub(crate) segment: SegmentId,
    /// Bytes of it that count; 0 means that it was never used.
    pub(crate) len: u64,
    /// Where producers stand, nothing in it or before it left out.
    pub(crate) producers: Option<Vec<ProducerState>>,
}

/// How far the last line of a segment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    /// It still takes blocks.
    Open,
    /// It takes no more blocks.
    Retired,
    /// Its `$end` line is being written.
    Writing,
    /// Its `$end` line is written; a sync is due.
    Written,
    /// All of it is synced; it can be closed.
    Synced,
}

/// The segment that is made ready before it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Absent,
    Opening(SegmentId),
    Ready(SegmentId),
    Failed { code: Code, retry_at: Instant },
}

/// Whether so many more blocks have a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Yes,
    Soon,
    Never(Code),
}

#[derive(Debug)]
pub(crate) struct Chain {
    shard: ShardId,
    format: SegmentFormat,
    segment_len: u64,
    pub(crate) live: VecDeque<Segment>,
    pub(crate) next: Next,
    next_id: u64,
    /// The current segment is old enough to roll, as soon as there is a next one.
    is_old: bool,
    /// What counts of the segments that failed since the last segment line was written.
    voids: Vec<(SegmentId, u64)>,
    /// The segment whose first line says all of `voids`.
    voids_told_by: Option<SegmentId>,
    closing: VecDeque<Closing>,
}

impl Chain {
    pub(crate) fn new(shard: ShardId, format: SegmentFormat, segment_len: u64, first: SegmentId) -> Chain {
        Chain {
            shard,
            format,
            segment_len,
            live: VecDeque::new(),
            next: Next::Absent,
            next_id: first.0,
            is_old: false,
            voids: Vec::new(),
            voids_told_by: None,
            closing: VecDeque::new(),
        }
    }

    /// The segment that takes blocks.
    pub(crate) fn current(&mut self) -> Option<&mut Segment> {
        self.live.back_mut().filter(|segment| segment.ending == Ending::Open)
    }

    pub(crate) fn get_mut(&mut self, id: SegmentId) -> Option<&mut Segment> {
        self.live.iter_mut().find(|segment| segment.id == id)
    }

    fn left(&self) -> u64 {
        match self.live.back() {
            Some(segment) if segment.ending == Ending::Open => {
                (self.segment_len - END_LINE_LEN_MAX).saturating_sub(segment.end)
            }
            _ => 0,
        }
    }

    /// The segment to make ready now, if one is needed: there is none, or the current one is old, or more than half used.
    pub(crate) fn poll_open(&mut self) -> Option<SegmentId> {
        if self.next != Next::Absent || (self.left() > self.segment_len / 2 && !self.is_old) {
            return None;
        }
        let id = SegmentId(self.next_id);
        self.next_id += 1;
        self.next = Next::Opening(id);
        Some(id)
    }

    pub(crate) fn handle_opened(&mut self, id: SegmentId, outcome: Result<(), Next>) {
        match outcome {
            Ok(()) if self.next == Next::Opening(id) => self.next = Next::Ready(id),
            Ok(()) => self.give_back(id),
            Err(failed) if self.next == Next::Opening(id) => self.next = failed,
            Err(_) => {}
        }
    }

    /// A segment that was made ready is not needed.
    pub(crate) fn give_back(&mut self, id: SegmentId) {
        self.closing.push_back(Closing { segment: id, len: 0, producers: None });
    }

    /// When the segment that takes blocks is so old, if it has any and is not known to be.
    pub(crate) fn old_at(&self, age: Option<Duration>) -> Option<Instant> {
        let current = self.live.back().filter(|segment| segment.ending == Ending::Open && segment.end > 0);
        Some(current.filter(|_| !self.is_old)?.began_at + age?)
    }

    /// Ends the segment that takes blocks, if it is old and the next one is there: whatever was admitted has a place.
    pub(crate) fn retire_old(&mut self) {
        if self.is_old
            && let Next::Ready(_) = self.next
            && let Some(current) = self.current()
        {
            current.ending = Ending::Retired;
            self.is_old = false;
        }
    }

    pub(crate) fn handle_timeout(&mut self, age: Option<Duration>, now: Instant) {
        self.is_old |= self.old_at(age).is_some_and(|at| now >= at);
        if let Next::Failed { retry_at, .. } = self.next
            && now >= retry_at
        {
            self.next = Next::Absent;
        }
    }

    /// Whether `count` more blocks of at most `block_len` bytes have a place that is already allocated.
    pub(crate) fn room(&self, count: usize, block_len: usize) -> Room {
        let need = (count * block_len) as u64;
        if self.left() >= need {
            return Room::Yes;
        }
        match self.next {
            Next::Ready(_) => Room::Yes,
            Next::Absent | Next::Opening(_) => Room::Soon,
            Next::Failed { code, .. } => Room::Never(code),
        }
    }

    /// The segment that takes the next block of at most `block_len` bytes, rolling to the next where the current one
    /// is full. `None` while there is none.
    pub(crate) fn place(&mut self, block_len: usize, now: Instant) -> Option<&mut Segment> {
        if self.left() < block_len as u64 {
            let Next::Ready(id) = self.next else { return None };
            if let Some(full) = self.current() {
                full.ending = Ending::Retired;
            }
            self.next = Next::Absent;
            self.is_old = false;
            self.live.push_back(Segment {
                id,
                end: 0,
                rows: 0,
                began_at: now,
                writes: 0,
                first_number: 0,
                last_number: 0,
                ending: Ending::Open,
                failed: false,
                snapshot: None,
            });
        }
        self.current()
    }

    /// The first line of a segment; says what counts of those that failed before it.
    pub(crate) fn segment_line(&mut self, id: SegmentId) -> Vec<u8> {
        self.voids_told_by = Some(id);
        let mut text = vec![0; SEGMENT_LINE_LEN_MAX];
        let mut rest = &mut text[..];
        let written: Result<(), std::io::Error> = (|| {
            write!(rest, "{{\"$seg\":{{\"v\":1,\"shard\":{},\"id\":{},\"void\":[", self.shard.0, id.0)?;
            for (at, (void, len)) in self.voids.iter().enumerate() {
                write!(rest, "{}[{},{len}]", if at == 0 { "" } else { "," }, void.0)?;
            }
            write!(rest, "]")
        })();
        written.expect("the number of failed segments is bounded");
        let covered = SEGMENT_LINE_LEN_MAX - rest.len();
        let len = seal_line(&mut text, covered, b"}}");
        self.format.wrap(&text[..len])
    }

    /// A sync of that segment succeeded. If its first line told of failed segments, that need not be told again.
    pub(crate) fn handle_synced(&mut self, id: SegmentId) {
        if self.voids_told_by == Some(id) {
            self.voids.clear();
        }
    }

    /// Takes every segment for which `lost` gives a length out of service: that length of it counts.
    pub(crate) fn abandon(&mut self, mut lost: impl FnMut(&Segment) -> Option<u64>) {
        self.voids_told_by = None;
        let (voids, closing) = (&mut self.voids, &mut self.closing);
        // From the newest back: once the zeros at the end of one are cut off, nothing tells that what lies behind them must
        // not count.
        let newest = closing.len();
        self.live.retain(|segment| {
            let Some(len) = lost(segment) else { return true };
            voids.retain(|&(id, _)| id != segment.id);
            // One line names them all. Those of which nothing counts are forgotten first: their files are removed.
            if voids.len() == VOIDS_MAX {
                let empty = voids.iter().position(|&(_, len)| len == 0);
                voids.remove(empty.unwrap_or(0));
            }
            voids.push((segment.id, len));
            closing.insert(newest, Closing { segment: segment.id, len, producers: None });
            false
        });
    }

    /// No more blocks will come: retires the current segment and gives the unused next one back.
    pub(crate) fn retire_all(&mut self) {
        if let Some(current) = self.current() {
            current.ending = if current.end == 0 { Ending::Synced } else { Ending::Retired };
        }
        if let Next::Ready(id) = self.next {
            self.give_back(id);
            self.next = Next::Absent;
        }
    }

    /// The segment whose `$end` line is to be written now: id, offset and line.
    pub(crate) fn poll_end(&mut self) -> Option<(SegmentId, u64, Vec<u8>)> {
        let segment = self.live.iter_mut().find(|segment| segment.ending == Ending::Retired)?;
        let mut text = vec![0; END_LINE_LEN_MAX as usize];
        let mut rest = &mut text[..];
        write!(rest, "{{\"$end\":{{\"rows\":{},\"bytes\":{}", segment.rows, segment.end)
            .expect("the buffer has room for the longest end line");
        let covered = END_LINE_LEN_MAX as usize - rest.len();
        let len = seal_line(&mut text, covered, b"}}");
        let line = self.format.wrap(&text[..len]);
        let offset = segment.end;
        segment.end += line.len() as u64;
        segment.ending = Ending::Writing;
        segment.writes += 1;
        Some((segment.id, offset, line))
    }

    /// The segment that was retired and has no snapshot yet.
    pub(crate) fn without_snapshot(&mut self) -> Option<&mut Segment> {
        self.live.iter_mut().find(|segment| segment.ending == Ending::Retired && segment.snapshot.is_none())
    }

    /// The next segment to close. One that ended well waits until what is told with it is true: every batch up to
    /// `durable` is.
    pub(crate) fn poll_close(&mut self, durable: u64) -> Option<Closing> {
        let may_close = |segment: &mut Segment| {
            segment.ending == Ending::Synced && segment.snapshot.as_ref().is_none_or(|told| told.upto <= durable)
        };
        if let Some(segment) = self.live.pop_front_if(may_close) {
            let producers = segment.snapshot.map(|told| told.producers);
            self.closing.push_back(Closing { segment: segment.id, len: segment.end, producers });
        }
        self.closing.pop_front()
    }

    /// Nothing is open, opening or waiting to be closed.
    pub(crate) fn is_empty(&self) -> bool {
        self.live.is_empty() && self.closing.is_empty() && !matches!(self.next, Next::Opening(_) | Next::Ready(_))
    }
}

/// How many failed segments one segment line can name.
const VOIDS_MAX: usize = 32;
/// Longest `$end` line, wrapped; every segment keeps this much free.
const END_LINE_LEN_MAX: u64 = 128;
