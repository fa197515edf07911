//! What of a segment is to be believed: the reading side of `block` and `chain`.
//!
//! [`scan`] walks the bytes of a segment file and says what lies where. It yields a record only if its block's
//! description and its records pass their checksums and lie where the description says they belong. What is damaged
//! in the middle is told apart from a torn or empty end by whether anything valid follows it. It changes nothing.
//!
//! A piece is a line or, in a compressed segment, a gzip member that carries one. Nobody has to say which: a member
//! begins with a byte that no line has. Compressed records are believed by the checksum of their compressed bytes, so
//! that a scan need not unpack them.

use crate::block::{DESCRIPTION_LEN_MAX, PAGE};
use crate::chain::SegmentId;
use crate::member;
use memchr::memchr2_iter;
use ringest_wire::control::PREFIX;
use serde::Deserialize;
use std::borrow::Cow;
use std::ops::Range;

/// One piece of a segment.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// The first line.
    Segment {
        /// The shard that wrote it.
        shard: u16,
        /// Segments that failed before this one: of each, the bytes that count.
        voids: Vec<(SegmentId, u64)>,
    },
    /// A block, whole and in its place.
    Block {
        /// Where it starts.
        offset: u64,
        /// Where it ends.
        end: u64,
        /// Its rows.
        rows: u32,
        /// Whose they are.
        runs: Vec<StoredRun>,
        /// The records.
        body: Body<'a>,
    },
    /// The last line: nothing is missing before it.
    End {
        /// Rows of all blocks.
        rows: u64,
        /// Bytes before this line.
        bytes: u64,
    },
    /// Bytes that cannot be believed, with something valid behind them.
    Damage {
        /// Where they start.
        from: u64,
        /// Where what follows starts.
        to: u64,
        /// Whether some of it was never written: a write that was cut off while later ones were not. A place that was
        /// written and is damaged passes for one only if a whole sector of it is zeros.
        is_unwritten: bool,
    },
    /// Nothing valid follows. The last item of every scan but that of a file that ends with a whole line.
    Tail {
        /// Where it starts.
        from: u64,
        /// Whether it holds anything but the zeros of preallocation: a write that was cut off.
        is_torn: bool,
    },
}

/// The records of a block, as they lie in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body<'a> {
    bytes: &'a [u8],
    /// Where they are compressed: bytes of them when they are not.
    unpacked_len: Option<usize>,
}

impl<'a> Body<'a> {
    /// The records, each with its newline. `None`, if they are compressed and not what their description says: whoever
    /// wrote them did it wrong.
    pub fn records(&self) -> Option<Cow<'a, [u8]>> {
        match self.unpacked_len {
            None => Some(Cow::Borrowed(self.bytes)),
            Some(len) => member::unpack(self.bytes, len).map(Cow::Owned),
        }
    }
}

/// Consecutive sequence numbers of one producer, as a block describes them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct StoredRun {
    /// Identity; empty for plain mode.
    pub producer: String,
    /// Incarnation.
    pub epoch: u64,
    /// First number covered.
    pub first: u64,
    /// Last number covered.
    pub upto: u64,
    /// Rows that were stored of these.
    pub rows: u32,
}

/// Walks the bytes of the segment file of that id.
pub fn scan(bytes: &[u8], segment: SegmentId) -> Scan<'_> {
    Scan { bytes, segment, at: 0, pending: None, is_done: false }
}

/// Whether these bytes begin like something that gzip made, and not like a compressed segment.
pub fn is_foreign(bytes: &[u8]) -> bool {
    bytes.starts_with(&member::MAGIC[..2]) && member::line_len(bytes).is_none()
}

/// Whether a segment can have been begun with these bytes, of which only those before the first zero were written.
pub fn may_be_segment(bytes: &[u8]) -> bool {
    let written = &bytes[..memchr::memchr(0, bytes).unwrap_or(bytes.len())];
    [SEGMENT_PREFIX, &member::MAGIC[..2]].iter().any(|prefix| {
        let common = written.len().min(prefix.len());
        written[..common] == prefix[..common]
    })
}

/// The walk; see [`scan`].
#[derive(Debug)]
pub struct Scan<'a> {
    bytes: &'a [u8],
    segment: SegmentId,
    at: usize,
    /// What was found behind damage, and where it ends.
    pending: Option<(Item<'a>, usize)>,
    is_done: bool,
}

impl<'a> Iterator for Scan<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        if let Some((item, end)) = self.pending.take() {
            self.at = end;
            return Some(item);
        }
        if self.is_done || self.at == self.bytes.len() {
            return None;
        }
        if let Some((item, end)) = self.read(self.at) {
            self.at = end;
            return Some(item);
        }
        let from = self.at as u64;
        let is_torn = self.bytes[self.at..].iter().any(|&byte| byte != 0);
        if is_torn && let Some((at, found)) = self.resync() {
            self.pending = Some(found);
            let is_unwritten = is_unwritten(self.bytes, self.at..at);
            return Some(Item::Damage { from, to: at as u64, is_unwritten });
        }
        self.is_done = true;
        Some(Item::Tail { from, is_torn })
    }
}

impl<'a> Scan<'a> {
    /// The next line behind `at` that proves itself. What lies before it may be anything: the newline of a damaged
    /// line may be the very byte that changed. A record cannot pass for one, whatever its client computed: where it
    /// spells a control line it has braces to close behind that, so it does not end as a control line does. For a
    /// member it would have to spell one in the bits that it is compressed to, with the offset at which that will lie.
    fn resync(&self) -> Option<(usize, (Item<'a>, usize))> {
        let behind = self.at + 1;
        memchr2_iter(PREFIX[0], member::MAGIC[0], &self.bytes[behind..]).find_map(|at| {
            let at = behind + at;
            self.read(at).map(|found| (at, found))
        })
    }

    /// The piece that starts at `at`, and where it ends.
    fn read(&self, at: usize) -> Option<(Item<'a>, usize)> {
        let rest = &self.bytes[at..];
        let window = &rest[..rest.len().min(member::FRONT_LEN + DESCRIPTION_LEN_MAX + PAGE)];
        let (line, behind, is_packed) = if window.starts_with(&member::MAGIC) {
            let line = member::line_of(window)?;
            (line, at + member::FRONT_LEN + line.len(), true)
        } else if window.starts_with(PREFIX) {
            let newline = memchr::memchr(b'\n', window)?;
            (&window[..newline], at + newline + 1, false)
        } else {
            return None;
        };
        let line = proven(line)?;
        let behind = match &line {
            ControlLine::Segment(_) | ControlLine::End(_) if is_packed => {
                let is_empty = member::is_nothing(&self.bytes[behind..]);
                is_empty.then_some(behind + member::NOTHING.len())?
            }
            ControlLine::Segment(_) | ControlLine::End(_) | ControlLine::Block(_) => behind,
        };
        match line {
            ControlLine::Segment(line) => {
                let is_here = at == 0 && line.id == self.segment.0 && line.v == 1;
                let voids = line.void.into_iter().map(|(id, len)| (SegmentId(id), len)).collect();
                is_here.then_some((Item::Segment { shard: line.shard, voids }, behind))
            }
            ControlLine::Block(line) => {
                let end = behind.checked_add(line.z.unwrap_or(line.b))?;
                let bytes = self.bytes.get(behind..end)?;
                let is_whole = line.i == self.segment.0
                    && line.o == at as u64
                    && line.z.is_some() == is_packed
                    && u32::from_str_radix(&line.c, 16).is_ok_and(|crc| crc == libdeflater::crc32(bytes));
                let body = Body { bytes, unpacked_len: is_packed.then_some(line.b) };
                let item = Item::Block { offset: line.o, end: end as u64, rows: line.n, runs: line.r, body };
                is_whole.then_some((item, end))
            }
            ControlLine::End(line) => {
                (line.bytes == at as u64).then_some((Item::End { rows: line.rows, bytes: line.bytes }, behind))
            }
        }
    }
}

/// Whether some of that range was never written, where something else was. What was allocated and not written is zeros.
/// A line has no zero byte. A member may have some, but what a disk writes is sectors: of one that was not written, all
/// bytes are zeros, or all behind what was written before.
fn is_unwritten(bytes: &[u8], range: Range<usize>) -> bool {
    let is_packed = bytes[range.end..].starts_with(&member::MAGIC); // What was found there proved itself.
    if !is_packed {
        return bytes[range].contains(&0);
    }
    let first = range.start / SECTOR;
    (first..range.end.div_ceil(SECTOR)).any(|sector| {
        let sector = &bytes[range.start.max(sector * SECTOR)..range.end.min((sector + 1) * SECTOR)];
        let zeros = sector.iter().rev().take_while(|&&byte| byte == 0).count();
        zeros == sector.len() || zeros >= ZEROS_UNLIKELY
    })
}

/// Whether what is behind the last whole piece of a segment was allocated and not written, in part or all of it. A line has
/// no zero byte; a member may have some, but not as many as are kept free for the end of a segment.
pub(crate) fn ends_unwritten(tail: &[u8], is_packed: bool) -> bool {
    if !is_packed {
        return tail.contains(&0);
    }
    tail.iter().rev().take_while(|&&byte| byte == 0).count() >= ZEROS_UNLIKELY.min(tail.len())
}

/// Whether these bytes begin a compressed segment.
pub(crate) fn is_packed(bytes: &[u8]) -> bool {
    bytes.starts_with(&member::MAGIC)
}

/// What the first line of a segment begins with.
const SEGMENT_PREFIX: &[u8] = b"{\"$seg\":";
/// The unit in which disks write, or a part of that.
const SECTOR: usize = 512;
/// No compressed bytes end a sector like this, unless what they hold is one byte over and over.
const ZEROS_UNLIKELY: usize = 16;

#[derive(Deserialize)]
enum ControlLine {
    #[serde(rename = "$seg")]
    Segment(SegmentLine),
    #[serde(rename = "$blk")]
    Block(BlockLine),
    #[serde(rename = "$end")]
    End(EndLine),
}

#[derive(Deserialize)]
struct SegmentLine {
    v: u32,
    shard: u16,
    id: u64,
    void: Vec<(u64, u64)>,
}

#[derive(Deserialize)]
struct BlockLine {
    i: u64,
    o: u64,
    n: u32,
    b: usize,
    z: Option<usize>,
    r: Vec<StoredRun>,
    c: String,
}

#[derive(Deserialize)]
struct EndLine {
    rows: u64,
    bytes: u64,
}

/// The line, if it is a control line whose own checksum holds. Padding before the newline has to be blanks.
fn proven(line: &[u8]) -> Option<ControlLine> {
    let text = line.trim_ascii_end();
    if !line[text.len()..].iter().all(|&byte| byte == b' ') {
        return None;
    }
    // …,"h":"1b2c3d4e"}}
    let covered = text.len().checked_sub(SEAL_LEN)?;
    let seal = std::str::from_utf8(&text[covered..]).ok()?;
    let crc = seal.strip_prefix(",\"h\":\"")?.strip_suffix("\"}}")?;
    if u32::from_str_radix(crc, 16).ok()? != libdeflater::crc32(&text[..covered]) {
        return None;
    }
    serde_json::from_slice(text).ok()
}

/// Length of `,"h":"1b2c3d4e"}}`.
const SEAL_LEN: usize = 17;
