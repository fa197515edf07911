//! A stream of gzip members (RFC 1952), one behind the other, unpacked at the pace of whoever asks.
//!
//! The header and the trailer of a member are read here. What lies between goes through an [`Inflater`], which can stop
//! at any byte. A connection holds one only inside of a member, so one that is silent between members holds none. A
//! member that says how long it is (BGZF) and is at hand as a whole is unpacked in one step, in two thirds of the time.
//! That is a short cut and nothing else: what does not fit it goes the long way, and comes to the same end.

use super::Decoded;
use flate2::{Decompress, FlushDecompress, Status};
use libdeflater::{Crc, Decompressor};
use memchr::memchr;
use ringest_wire::Code;

/// What a member begins with.
pub(super) const MAGIC_0: u8 = 0x1f;
pub(super) const MAGIC_1: u8 = 0x8b;

/// What a peer may make a shard do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GzipLimits {
    /// Bytes that one member may unpack to.
    pub member_len_max: u64,
    /// How many times its size a member may unpack to, and a stream as a whole, beyond the first mebibyte of each.
    pub ratio_max: u64,
    /// Connections that may be inside of a member at once. Each holds an inflater of 48 KiB.
    pub inflaters_max: usize,
}

impl Default for GzipLimits {
    fn default() -> GzipLimits {
        GzipLimits { member_len_max: 4 << 30, ratio_max: 200, inflaters_max: 1024 }
    }
}

/// Reads one deflate stream. Takes 48 KiB, most of it the last 32 KiB that it gave.
type Inflater = Box<Decompress>;

/// What the connections of a shard unpack with.
pub(crate) struct Unpacker {
    /// For members that are at hand as a whole.
    whole: Decompressor,
    /// Made when they are first needed and kept for the next member, so that members do not allocate.
    spares: Vec<Inflater>,
    /// How many are with connections.
    lent: usize,
}

impl Unpacker {
    pub(crate) fn new() -> Unpacker {
        Unpacker { whole: Decompressor::new(), spares: Vec::with_capacity(SPARES_MAX), lent: 0 }
    }

    /// An inflater at the start of a stream; `None` while too many are lent.
    fn lend(&mut self, inflaters_max: usize) -> Option<Inflater> {
        if self.lent >= inflaters_max {
            return None;
        }
        self.lent += 1;
        let mut inflater = self.spares.pop().unwrap_or_else(|| Box::new(Decompress::new(false)));
        inflater.reset(false);
        Some(inflater)
    }

    fn take_back(&mut self, inflater: Inflater) {
        self.lent -= 1;
        if self.spares.len() < SPARES_MAX {
            self.spares.push(inflater);
        }
    }
}

/// One connection's stream.
#[derive(Debug)]
pub(super) struct Gzip {
    place: Place,
    member: Count,
    /// The members before this one.
    before: Count,
    /// Of what this member has unpacked to.
    crc: u32,
}

/// Where in the stream the next byte is.
#[derive(Debug)]
enum Place {
    /// A member may begin, or zeros up to the end of the stream, as gzip(1) has it.
    Between,
    Header(Header),
    Body(Inflater),
    Trailer(Field),
    Padding,
    Broken(Code),
}

/// Bytes on both sides.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    packed: u64,
    plain: u64,
}

impl Gzip {
    /// A stream of which nothing is taken yet.
    pub(super) fn new() -> Gzip {
        Gzip { place: Place::Between, member: Count::default(), before: Count::default(), crc: 0 }
    }

    /// A stream whose first byte is taken.
    pub(super) fn behind_first_byte() -> Gzip {
        Gzip { place: Place::Header(Header::behind_first_byte()), ..Gzip::new() }
    }

    /// Whether a member has begun and not ended.
    pub(super) fn is_inside_member(&self) -> bool {
        matches!(self.place, Place::Header(_) | Place::Body(_) | Place::Trailer(_))
    }

    /// Unpacks until `out` is full, `input` is empty, or it was a step's work, of which nothing may have come out yet.
    pub(super) fn decode(
        &mut self,
        input: &mut &[u8],
        out: &mut [u8],
        limits: &GzipLimits,
        unpacker: &mut Unpacker,
    ) -> Decoded {
        let (given, mut len) = (input.len(), 0);
        while len < out.len() && given - input.len() < STEP_LEN {
            if matches!(self.place, Place::Between)
                && let Some(whole) = Whole::at(input)
                && whole.plain_len <= out.len()
                && whole.plain_len as u64 <= limits.member_len_max
            {
                if whole.plain_len > out.len() - len {
                    break; // In the next step there is room for it.
                }
                if whole.unpack(input, &mut out[len..], unpacker) {
                    len += whole.plain_len;
                    self.count_before(whole.len as u64, whole.plain_len as u64);
                    if self.is_over_ratio(limits) {
                        self.stop(Code::GzipRatio, unpacker);
                        break;
                    }
                    continue;
                }
            }
            let place = std::mem::replace(&mut self.place, Place::Between);
            let (place, written) = self.step(place, input, &mut out[len..], limits, unpacker);
            self.place = place;
            len += written;
            if self.is_over_ratio(limits) {
                self.stop(Code::GzipRatio, unpacker);
            }
            if matches!(self.place, Place::Broken(_)) || (written == 0 && input.is_empty()) {
                break;
            }
        }
        match self.place {
            Place::Broken(code) if len == 0 => Decoded::Broken(Some(code)),
            _ if len == 0 && input.is_empty() => Decoded::Starved,
            _ => Decoded::Bytes(len),
        }
    }

    /// Looks at what begins in `place`: the place behind it, and how much it unpacked to.
    fn step(
        &mut self,
        place: Place,
        input: &mut &[u8],
        out: &mut [u8],
        limits: &GzipLimits,
        unpacker: &mut Unpacker,
    ) -> (Place, usize) {
        let given = input.len();
        let (place, written) = match place {
            Place::Between => match input.first() {
                None => (Place::Between, 0),
                Some(&MAGIC_0) => (Place::Header(Header::default()), 0),
                Some(0) => (Place::Padding, 0),
                Some(_) => (Place::Broken(Code::GzipCorrupt), 0),
            },
            Place::Header(mut header) => match (header.read(input), limits.inflaters_max) {
                (Ok(false), _) => (Place::Header(header), 0),
                (Ok(true), max) => (unpacker.lend(max).map_or(Place::Broken(Code::Overloaded), Place::Body), 0),
                (Err(code), _) => (Place::Broken(code), 0),
            },
            Place::Body(inflater) => self.inflate(inflater, input, out, limits, unpacker),
            Place::Trailer(mut trailer) => match trailer.fill(input, TRAILER_LEN) {
                false => (Place::Trailer(trailer), 0),
                true if trailer.bytes[..TRAILER_LEN] == self.trailer() => (Place::Between, 0),
                true => (Place::Broken(Code::GzipCorrupt), 0),
            },
            Place::Padding if input.iter().all(|&byte| byte == 0) => {
                *input = &[];
                (Place::Padding, 0)
            }
            Place::Padding => (Place::Broken(Code::GzipCorrupt), 0),
            Place::Broken(code) => (Place::Broken(code), 0),
        };
        self.member.packed += (given - input.len()) as u64;
        if matches!(place, Place::Between) {
            let Count { packed, plain } = std::mem::take(&mut self.member);
            self.count_before(packed, plain);
            self.crc = 0;
        }
        (place, written)
    }

    fn inflate(
        &mut self,
        mut inflater: Inflater,
        input: &mut &[u8],
        out: &mut [u8],
        limits: &GzipLimits,
        unpacker: &mut Unpacker,
    ) -> (Place, usize) {
        // Room for one byte too many shows that there is one.
        let allowed = limits.member_len_max - self.member.plain;
        let room = out.len().min(usize::try_from(allowed + 1).unwrap_or(usize::MAX));
        let (packed, plain) = (inflater.total_in(), inflater.total_out());
        let piece = &input[..input.len().min(STEP_LEN)];
        let status = inflater.decompress(piece, &mut out[..room], FlushDecompress::None);
        *input = &input[(inflater.total_in() - packed) as usize..];
        let written = (inflater.total_out() - plain).min(allowed) as usize;
        let is_too_large = inflater.total_out() - plain > allowed;

        let mut crc = Crc::with_initial(self.crc);
        crc.update(&out[..written]);
        self.crc = crc.sum();
        self.member.plain += written as u64;
        let place = match status {
            _ if is_too_large => Place::Broken(Code::GzipTooLarge),
            Ok(Status::Ok | Status::BufError) => return (Place::Body(inflater), written),
            Ok(Status::StreamEnd) => Place::Trailer(Field::default()),
            Err(_) => Place::Broken(Code::GzipCorrupt),
        };
        unpacker.take_back(inflater);
        (place, written)
    }

    /// What the trailer of this member has to be.
    fn trailer(&self) -> [u8; TRAILER_LEN] {
        let mut trailer = [0; TRAILER_LEN];
        trailer[..4].copy_from_slice(&self.crc.to_le_bytes());
        trailer[4..].copy_from_slice(&(self.member.plain as u32).to_le_bytes()); // Modulo 2^32, as RFC 1952 has it.
        trailer
    }

    fn count_before(&mut self, packed: u64, plain: u64) {
        self.before.packed += packed;
        self.before.plain += plain;
    }

    /// Whether the member, or the stream, is a bomb. Of a stream of small members each would be innocent.
    fn is_over_ratio(&self, limits: &GzipLimits) -> bool {
        let is_over = |packed: u64, plain: u64| plain > RATIO_FROM.max(packed.saturating_mul(limits.ratio_max));
        let Gzip { member, before, .. } = self;
        is_over(member.packed, member.plain) || is_over(before.packed + member.packed, before.plain + member.plain)
    }

    fn stop(&mut self, code: Code, unpacker: &mut Unpacker) {
        if let Place::Body(inflater) = std::mem::replace(&mut self.place, Place::Broken(code)) {
            unpacker.take_back(inflater);
        }
    }

    /// It comes from another shard. That is told by whoever sends it there, so the bound of this one may be passed.
    pub(super) fn join(&self, unpacker: &mut Unpacker) {
        unpacker.lent += usize::from(matches!(self.place, Place::Body(_)));
    }

    /// It ends, or goes to another shard, with the inflater that it holds.
    pub(super) fn leave(&self, unpacker: &mut Unpacker) {
        unpacker.lent -= usize::from(matches!(self.place, Place::Body(_)));
    }
}

/// A member that is at hand as a whole, and says so.
#[derive(Clone, Copy, Debug)]
struct Whole {
    len: usize,
    header_len: usize,
    plain_len: usize,
}

impl Whole {
    /// The member that begins there, if its extra field has its length as BGZF writes it, and it lies there.
    fn at(input: &[u8]) -> Option<Whole> {
        let (fixed, behind) = input.split_first_chunk::<HEADER_LEN>()?;
        if fixed[..4] != [MAGIC_0, MAGIC_1, DEFLATE, FLAG_EXTRA] {
            return None;
        }
        let (extra_len, behind) = behind.split_first_chunk::<2>()?;
        let extra_len = usize::from(u16::from_le_bytes(*extra_len));
        let mut extra = behind.get(..extra_len)?;
        while let Some((&[one, two, low, high], rest)) = extra.split_first_chunk::<4>() {
            let field = rest.get(..usize::from(u16::from_le_bytes([low, high])))?;
            if let (b'B', b'C', &[low, high]) = (one, two, field) {
                let len = usize::from(u16::from_le_bytes([low, high])) + 1;
                let header_len = HEADER_LEN + 2 + extra_len;
                let trailer = input.get(header_len..len)?.last_chunk::<TRAILER_LEN>()?;
                let plain_len = u32::from_le_bytes([trailer[4], trailer[5], trailer[6], trailer[7]]) as usize;
                return Some(Whole { len, header_len, plain_len }).filter(|whole| whole.plain_len <= WHOLE_LEN_MAX);
            }
            extra = &rest[field.len()..];
        }
        None
    }

    /// Unpacks it and takes it from the input. If it is not what it says, nothing has happened.
    fn unpack(&self, input: &mut &[u8], out: &mut [u8], unpacker: &mut Unpacker) -> bool {
        let (member, behind) = input.split_at(self.len);
        let (body, trailer) = member[self.header_len..].split_at(self.len - self.header_len - TRAILER_LEN);
        let out = &mut out[..self.plain_len];
        let is_sound = unpacker.whole.deflate_decompress(body, out) == Ok(self.plain_len)
            && libdeflater::crc32(out).to_le_bytes() == trailer[..4];
        if is_sound {
            *input = behind;
        }
        is_sound
    }
}

/// The header of a member, as far as it has come.
#[derive(Debug, Default)]
struct Header {
    part: Part,
    flags: u8,
    field: Field,
    /// Bytes of the extra field that are still to come.
    extra_left: usize,
    /// Of all parts.
    len: usize,
    /// Of the parts before the check, whose lower half that is.
    crc: u32,
}

/// The part of a header that the next byte belongs to. All but the first are there if a flag says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Fixed,
    ExtraLen,
    Extra,
    Name,
    Comment,
    Check,
    End,
}

impl Header {
    fn behind_first_byte() -> Header {
        let mut header = Header::default();
        let is_whole = header.read(&mut &[MAGIC_0][..]);
        debug_assert_eq!(is_whole, Ok(false), "a header has more than a byte");
        header
    }

    /// Reads on. Whether the header is whole.
    fn read(&mut self, input: &mut &[u8]) -> Result<bool, Code> {
        while self.part != Part::End {
            let given = *input;
            let part = self.part;
            let is_read = match part {
                Part::Fixed => self.field.fill(input, HEADER_LEN),
                Part::ExtraLen | Part::Check => self.field.fill(input, 2),
                Part::Extra => {
                    let len = self.extra_left.min(input.len());
                    (*input, self.extra_left) = (&input[len..], self.extra_left - len);
                    self.extra_left == 0
                }
                Part::Name | Part::Comment => {
                    let end = memchr(0, input);
                    *input = &input[end.map_or(input.len(), |end| end + 1)..];
                    end.is_some()
                }
                Part::End => true,
            };
            let read = &given[..given.len() - input.len()];
            self.len += read.len();
            if part != Part::Check {
                let mut crc = Crc::with_initial(self.crc);
                crc.update(read);
                self.crc = crc.sum();
            }
            if self.len > HEADER_LEN_MAX {
                return Err(Code::GzipCorrupt);
            }
            if !is_read {
                return Ok(false);
            }
            self.pass(part)?;
        }
        Ok(true)
    }

    /// That part is read: what it says, and which one is next.
    fn pass(&mut self, part: Part) -> Result<(), Code> {
        let Field { bytes, .. } = std::mem::take(&mut self.field);
        let number = u16::from_le_bytes([bytes[0], bytes[1]]);
        match part {
            Part::Fixed if bytes[..3] != [MAGIC_0, MAGIC_1, DEFLATE] => return Err(Code::GzipCorrupt),
            Part::Fixed => self.flags = bytes[3],
            Part::ExtraLen => self.extra_left = usize::from(number),
            Part::Check if number != self.crc as u16 => return Err(Code::GzipCorrupt),
            Part::Extra | Part::Name | Part::Comment | Part::Check | Part::End => {}
        }
        if self.flags & FLAGS_RESERVED != 0 {
            return Err(Code::GzipCorrupt);
        }
        let parts = [
            (Part::ExtraLen, FLAG_EXTRA),
            (Part::Extra, FLAG_EXTRA),
            (Part::Name, FLAG_NAME),
            (Part::Comment, FLAG_COMMENT),
            (Part::Check, FLAG_CHECK),
        ];
        let next = parts.iter().find(|(next, flag)| *next as u8 > part as u8 && self.flags & flag != 0);
        self.part = next.map_or(Part::End, |(next, _)| *next);
        Ok(())
    }
}

/// A few bytes that may come one at a time.
#[derive(Debug, Default)]
struct Field {
    bytes: [u8; HEADER_LEN],
    len: usize,
}

impl Field {
    /// Takes what there is, up to `len` bytes in all. Whether all are there.
    fn fill(&mut self, input: &mut &[u8], len: usize) -> bool {
        let (now, later) = input.split_at(input.len().min(len - self.len));
        self.bytes[self.len..self.len + now.len()].copy_from_slice(now);
        self.len += now.len();
        *input = later;
        self.len == len
    }
}

/// Of the part that every header has.
const HEADER_LEN: usize = 10;
const TRAILER_LEN: usize = 8;
/// Names and comments have no bound of their own. Nothing of them is kept.
const HEADER_LEN_MAX: usize = 128 << 10;
const DEFLATE: u8 = 8;
const FLAG_CHECK: u8 = 1 << 1;
const FLAG_EXTRA: u8 = 1 << 2;
const FLAG_NAME: u8 = 1 << 3;
const FLAG_COMMENT: u8 = 1 << 4;
const FLAGS_RESERVED: u8 = 0b1110_0000;
/// The most that a BGZF member unpacks to.
const WHOLE_LEN_MAX: usize = 64 << 10;
/// Packed bytes in one step. Blocks that hold nothing but their own tables cost 0.1 us per byte, so this is 7 ms at
/// most.
const STEP_LEN: usize = 64 << 10;
/// Inflaters that are kept while nobody needs them: 3 MiB per shard, once so many members were open at once.
const SPARES_MAX: usize = 64;
/// Up to here a ratio says nothing: a short repetitive line packs as well as a bomb.
const RATIO_FROM: u64 = 1 << 20;
