//! Compressed segments: gzip members (RFC 1952), each of which carries a control line in its extra field.
//!
//! ```text
//! 1f 8b 08 04 | 0 0 0 0 | 04 ff | extra length | R g | line length | line | deflate stream | CRC-32 | length
//! ```
//!
//! The line says what it says in an uncompressed segment, where a newline follows it. Unpacked by anybody, such a file
//! is the records and nothing else: the lines of the segment itself are carried by members that unpack to nothing.

use crate::batch::Arena;
use libdeflater::{CompressionLvl, Compressor, Decompressor};

/// How segments lie on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SegmentFormat {
    /// Lines, control lines among them.
    #[default]
    Plain,
    /// Gzip members.
    Gzip,
}

impl SegmentFormat {
    /// What a control line without records becomes. Its own checksum is in it.
    pub(crate) fn wrap(self, line: &[u8]) -> Vec<u8> {
        match self {
            SegmentFormat::Plain => [line, b"\n"].concat(),
            SegmentFormat::Gzip => [&front(line.len())[..], line, &NOTHING].concat(),
        }
    }
}

/// Compresses batches, one at a time, into memory that it took at the start.
pub(crate) struct Press {
    compressor: Compressor,
    /// Where the next one goes to. The batch that went there leaves its own memory for the one after it.
    spare: Option<Arena>,
}

impl Press {
    /// For batches of so many bytes, the first of which it compresses to `spare`.
    pub(crate) fn new(batch_len_max: usize, spare: Arena) -> Press {
        let level = CompressionLvl::new(LEVEL).expect("the level is one that there is");
        let mut compressor = Compressor::new(level);
        let bound = compressor.deflate_compress_bound(batch_len_max) + TRAILER_LEN;
        assert!(bound <= packed_len_max(batch_len_max), "{bound} bytes may come of a batch of {batch_len_max}");
        Press { compressor, spare: Some(spare) }
    }

    /// Compresses the records at the start of `arena`, with that checksum, to what follows the line of their member.
    pub(crate) fn press(&mut self, arena: Arena, len: usize, crc: u32) -> (Arena, usize) {
        let mut to = self.spare.replace(arena).expect("there is always one");
        let from = self.spare.as_ref().expect("just put there");
        let (records, out) = (&from.bytes[from.body..from.body + len], &mut to.bytes[to.body..]);
        let packed = self.compressor.deflate_compress(records, out).expect("an arena has room for the worst");
        out[packed..packed + 4].copy_from_slice(&crc.to_le_bytes());
        out[packed + 4..packed + TRAILER_LEN].copy_from_slice(&(len as u32).to_le_bytes());
        (to, packed + TRAILER_LEN)
    }
}

/// The most that a batch of so many bytes can become: deflate stores what it cannot compress, in pieces that add 5 bytes
/// to 5,000.
pub(crate) const fn packed_len_max(len: usize) -> usize {
    len + len / 900 + 64
}

/// The start of a member whose line has that length.
pub(crate) fn front(line_len: usize) -> [u8; FRONT_LEN] {
    debug_assert!(line_len <= LINE_LEN_MAX, "a description is shorter than an extra field may be");
    let [low, high] = (line_len as u16).to_le_bytes();
    let [extra_low, extra_high] = (line_len as u16 + 4).to_le_bytes();
    let mut front = [0; FRONT_LEN];
    front[..10].copy_from_slice(&FIXED);
    front[10..].copy_from_slice(&[extra_low, extra_high, FIELD[0], FIELD[1], low, high]);
    front
}

/// The length of the line that a member carries, if these bytes begin with one of ours.
pub(crate) fn line_len(bytes: &[u8]) -> Option<usize> {
    let start = bytes.first_chunk::<FRONT_LEN>()?;
    let len = usize::from(u16::from_le_bytes([start[14], start[15]]));
    (len <= LINE_LEN_MAX && *start == front(len)).then_some(len)
}

/// The line itself, if all of it is there.
pub(crate) fn line_of(bytes: &[u8]) -> Option<&[u8]> {
    let len = line_len(bytes)?;
    bytes[FRONT_LEN..].get(..len)
}

/// What follows the line of a member without records, if it is that.
pub(crate) fn is_nothing(bytes: &[u8]) -> bool {
    bytes.starts_with(&NOTHING)
}

/// Unpacks what follows the line of a member. `None`, where the member does not hold what it says.
pub(crate) fn unpack(body: &[u8], len: usize) -> Option<Vec<u8>> {
    let (stream, trailer) = body.split_last_chunk::<TRAILER_LEN>()?;
    let mut records = vec![0; len];
    let is_as_long = Decompressor::new().deflate_decompress(stream, &mut records) == Ok(len);
    let crc = libdeflater::crc32(&records).to_le_bytes();
    (is_as_long && trailer[..4] == crc && trailer[4..] == (len as u32).to_le_bytes()).then_some(records)
}

/// What the length of the extra field leaves to a line.
const LINE_LEN_MAX: usize = u16::MAX as usize - 4;
/// Everything before the line.
pub(crate) const FRONT_LEN: usize = 16;
/// Behind the line of a member without records: an empty deflate stream and its trailer.
pub(crate) const NOTHING: [u8; 10] = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// What a member begins with. There is no time in it, because nothing here reads a clock.
pub(crate) const MAGIC: [u8; 4] = [0x1f, 0x8b, 8, 4];
const FIXED: [u8; 10] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 4, 0xff];
/// Names the field as ours.
const FIELD: [u8; 2] = *b"Rg";
const TRAILER_LEN: usize = 8;
/// The fastest: it takes 5 ns per byte where the next take 7 to 15, for files that are 4 to 15 % shorter.
const LEVEL: i32 = 1;
