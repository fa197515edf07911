//! A sealed batch: the unit of writing, of checksum and of durability.
//!
//! On disk a block is a description line and the raw records behind it:
//!
//! ```text
//! {"$blk":{"i":42,"o":4096,"n":130,"b":20480,"r":[["web-17/ab3f",4,120345,120480,130]],"c":"9f02c1aa","h":"1b2c3d4e"}}
//! ```
//!
//! `i` is the segment, `o` the block's own offset in it (a misplaced block is found), `n` rows in `b` bytes, `r` runs of
//! `[producer, epoch, first seq, last seq, rows]` (an empty producer is plain mode), `c` the CRC-32 of the records, `h`
//! the CRC-32 of the line before `,"h"`. Blanks behind the last brace pad the line.
//!
//! In a compressed segment a block is one gzip member, which carries that line in its header (see `member`): `b` is still
//! the length of the records, `z` that of what follows the line, and `c` the CRC-32 of that.
//!
//! A block of many records is padded so that its records begin on a page of the file, as they do in memory. Its whole
//! pages can then bypass the page cache, while its two ends share pages with their neighbours and go through it.

use crate::batch::{Arena, Run};
use crate::chain::SegmentId;
use crate::member::{self, Press};
use crate::producer::Producers;
use bytes::BytesMut;
use ringest_wire::control::PRODUCER_LEN_MAX;
use std::io::Write;
use std::ops::Range;

/// The unit in which a disk takes what bypasses the page cache.
pub const PAGE: usize = 4096;

/// Longest text of one run: producer, quotes, brackets and commas, four numbers.
pub(crate) const RUN_TEXT_LEN_MAX: usize = PRODUCER_LEN_MAX + 8 + 3 * 20 + 10;
/// Room for the text of all runs of a block.
pub(crate) const RUNS_LEN_MAX: usize = 16 << 10;
/// Longest segment line; see `chain`.
pub(crate) const SEGMENT_LINE_LEN_MAX: usize = 2048;
/// Names, numbers and checksums of a description, without its runs.
const DESCRIPTION_FIXED_LEN_MAX: usize = 256;
/// Longest description, without padding.
pub(crate) const DESCRIPTION_LEN_MAX: usize = RUNS_LEN_MAX + DESCRIPTION_FIXED_LEN_MAX;
/// Everything that can stand in memory before the records: segment line, description, padding.
pub(crate) const HEADROOM: usize =
    (SEGMENT_LINE_LEN_MAX + member::FRONT_LEN + DESCRIPTION_LEN_MAX + PAGE).next_multiple_of(PAGE);
/// What a block can be longer than its records.
pub(crate) const BLOCK_OVERHEAD_MAX: usize = HEADROOM;

/// A sealed batch, on its way to the disk or back. Who holds it owns its memory; nobody else reads or writes it.
#[derive(Debug)]
pub struct Block {
    pub(crate) number: u64,
    pub(crate) arena: Arena,
    /// Bytes of records, before they were compressed.
    pub(crate) records_len: usize,
    pub(crate) rows: u32,
    /// Bytes behind the description, as they lie on disk.
    body_len: usize,
    /// Of these.
    crc: u32,
    is_packed: bool,
    segment: SegmentId,
    offset: u64,
    start: usize,
    paged: bool,
}

/// What a batch gathered, without saying whose it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Records {
    pub(crate) len: usize,
    pub(crate) rows: u32,
    pub(crate) crc: u32,
}

/// How a block may be written: the ends through the page cache, the whole pages in between past it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// From the start to the first page boundary.
    pub head: Range<usize>,
    /// Whole pages, page-aligned in memory and in the file. Empty in a small block.
    pub pages: Range<usize>,
    /// The rest.
    pub tail: Range<usize>,
}

impl Block {
    /// Seals a batch, compressed where there is a press. The block has no address yet.
    pub(crate) fn seal(
        number: u64,
        arena: Arena,
        records: Records,
        runs: &[Run],
        producers: &Producers,
        press: Option<&mut Press>,
    ) -> Block {
        let Records { len: records_len, rows, crc } = records;
        let is_packed = press.is_some();
        let (mut arena, body_len, crc) = match press {
            None => (arena, records_len, crc),
            Some(press) => {
                let (arena, len) = press.press(arena, records_len, crc);
                let crc = libdeflater::crc32(&arena.bytes[arena.body..arena.body + len]);
                (arena, len, crc)
            }
        };
        arena.runs_text.clear();
        for (at, run) in runs.iter().enumerate() {
            let name = run.producer.map_or("", |producer| producers.name(producer));
            let comma = if at == 0 { "" } else { "," };
            let (epoch, first, upto, rows) = (run.epoch, run.first, run.upto, run.rows);
            write!(arena.runs_text, "{comma}[\"{name}\",{epoch},{first},{upto},{rows}]")
                .expect("writing into memory cannot fail");
        }
        assert!(arena.runs_text.len() <= RUNS_LEN_MAX, "a batch admits no more runs than a block describes");
        let (segment, offset, start, paged) = (SegmentId(0), 0, arena.body, false);
        Block { number, arena, records_len, rows, body_len, crc, is_packed, segment, offset, start, paged }
    }

    /// A block without records: a line that only the segment needs.
    pub(crate) fn line(segment: SegmentId, offset: u64, line: &[u8]) -> Block {
        let arena = Arena { bytes: BytesMut::from(line), body: line.len(), runs_text: Vec::new() };
        Block {
            number: 0,
            arena,
            records_len: 0,
            rows: 0,
            body_len: 0,
            crc: 0,
            is_packed: false,
            segment,
            offset,
            start: 0,
            paged: false,
        }
    }

    /// Gives the block its place: writes the description before the records, behind `segment_line` where this is the
    /// first block of a segment. Can be done again for another place.
    pub(crate) fn address(&mut self, segment: SegmentId, offset: u64, segment_line: &[u8], paged_len_min: usize) {
        (self.segment, self.offset) = (segment, offset);
        self.paged = self.body_len >= paged_len_min;

        let own_offset = offset + segment_line.len() as u64;
        let mut text = [0u8; DESCRIPTION_LEN_MAX];
        let len = self.describe(own_offset, &mut text);

        let around = if self.is_packed { member::FRONT_LEN } else { b"\n".len() };
        let unpadded = segment_line.len() + len + around;
        let padding = if self.paged {
            let end = offset as usize + unpadded;
            end.next_multiple_of(PAGE) - end
        } else {
            0
        };
        self.start = self.arena.body - unpadded - padding;
        let mut at = self.start;
        let mut put = |piece: &[u8]| {
            self.arena.bytes[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        };
        put(segment_line);
        if self.is_packed {
            put(&member::front(len + padding));
        }
        put(&text[..len]);
        put(&BLANKS[..padding]);
        if !self.is_packed {
            put(b"\n");
        }
    }

    fn describe(&self, own_offset: u64, text: &mut [u8]) -> usize {
        let room = text.len();
        let mut rest = &mut text[..];
        let (segment, rows, len, crc) = (self.segment.0, self.rows, self.records_len, self.crc);
        let written: Result<(), std::io::Error> = (|| {
            write!(rest, "{{\"$blk\":{{\"i\":{segment},\"o\":{own_offset},\"n\":{rows},\"b\":{len},\"r\":[")?;
            rest.write_all(&self.arena.runs_text)?;
            write!(rest, "]")?;
            if self.is_packed {
                write!(rest, ",\"z\":{}", self.body_len)?;
            }
            write!(rest, ",\"c\":\"{crc:08x}\"")
        })();
        written.expect("the buffer has room for the longest description");
        let covered = room - rest.len();
        seal_line(text, covered, b"}}")
    }

    /// The segment this block belongs to.
    pub fn segment(&self) -> SegmentId {
        self.segment
    }

    /// Where in the segment it belongs.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Its bytes on disk, description and records.
    pub fn bytes(&self) -> &[u8] {
        &self.arena.bytes[self.range()]
    }

    /// Its length on disk.
    #[allow(clippy::len_without_is_empty, reason = "a block is never empty")]
    pub fn len(&self) -> usize {
        self.range().len()
    }

    /// How it may be written. The ranges index the buffer that [`take_buffer`](Self::take_buffer) hands out.
    pub fn parts(&self) -> Parts {
        let Range { start, end } = self.range();
        if !self.paged {
            return Parts { head: start..end, pages: end..end, tail: end..end };
        }
        let pages_end = end - self.body_len % PAGE;
        Parts { head: start..self.arena.body, pages: self.arena.body..pages_end, tail: pages_end..end }
    }

    /// Where in the file the byte at `at` of the buffer belongs.
    pub fn offset_of(&self, at: usize) -> u64 {
        self.offset + (at - self.start) as u64
    }

    /// Moves the memory out, to be owned by whoever reads it; [`put_buffer`](Self::put_buffer) brings it back.
    pub fn take_buffer(&mut self) -> BytesMut {
        std::mem::take(&mut self.arena.bytes)
    }

    /// Brings the memory back.
    pub fn put_buffer(&mut self, buffer: BytesMut) {
        self.arena.bytes = buffer;
    }

    fn range(&self) -> Range<usize> {
        self.start..self.arena.body + self.body_len
    }
}

/// Ends a control line: `text[..covered]` is followed by its own checksum and `close`. The line's length.
pub(crate) fn seal_line(text: &mut [u8], covered: usize, close: &[u8]) -> usize {
    let crc = libdeflater::crc32(&text[..covered]);
    let mut rest = &mut text[covered..];
    let before = rest.len();
    write!(rest, ",\"h\":\"{crc:08x}\"").expect("a control line has room for its checksum");
    rest.write_all(close).expect("a control line has room for its end");
    covered + before - rest.len()
}

const BLANKS: [u8; PAGE] = [b' '; PAGE];
