//! A stream of gzip members (RFC 1952), one behind the other, unpacked at the pace of whoever asks.

use super::Decoded;
use flate2::{Decompress, FlushDecompress, Status};
use ringest_wire::Code;

/// What a member begins with.
pub(super) const MAGIC_0: u8 = 0x1f;
pub(super) const MAGIC_1: u8 = 0x8b;

/// What a peer may make the inflater do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GzipLimits {
    /// Bytes that one member may unpack to.
    pub member_len_max: u64,
    /// How many times its size a member may unpack to, once it has unpacked to [`RATIO_FROM`] bytes.
    pub ratio_max: u64,
}

impl Default for GzipLimits {
    fn default() -> GzipLimits {
        GzipLimits { member_len_max: 4 << 30, ratio_max: 200 }
    }
}

#[derive(Debug)]
pub(super) struct Gzip {
    inflate: Decompress,
    /// The first byte of a member was taken by whoever had to see what it is.
    owes_first_byte: bool,
    is_inside: bool,
    broken: Option<Code>,
}

impl Gzip {
    /// For a stream whose first byte is taken already.
    pub(super) fn behind_first_byte() -> Gzip {
        Gzip { inflate: Decompress::new_gzip(WINDOW_BITS), owes_first_byte: true, is_inside: true, broken: None }
    }

    /// Whether a member has begun and not ended.
    pub(super) fn is_inside_member(&self) -> bool {
        self.is_inside
    }

    /// Unpacks until `out` is full or `input` is empty.
    pub(super) fn decode(&mut self, input: &mut &[u8], out: &mut [u8], limits: &GzipLimits) -> Decoded {
        let mut len = 0;
        while self.broken.is_none() && len < out.len() {
            if !self.is_inside {
                if input.is_empty() {
                    break;
                }
                // Not reset: that would forget that it reads gzip.
                self.inflate = Decompress::new_gzip(WINDOW_BITS);
                self.is_inside = true;
            }
            let mut from = *input;
            if self.owes_first_byte {
                from = &[MAGIC_0];
            }
            let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(from, &mut out[len..], FlushDecompress::None);
            let read = (self.inflate.total_in() - read) as usize;
            let written = (self.inflate.total_out() - written) as usize;
            len += written;
            if self.owes_first_byte {
                self.owes_first_byte = read == 0;
            } else {
                *input = &input[read..];
            }
            match status {
                Ok(Status::StreamEnd) => self.is_inside = false,
                Ok(Status::Ok | Status::BufError) if read + written > 0 => {}
                Ok(Status::Ok | Status::BufError) => break,
                Err(_) => self.broken = Some(Code::GzipCorrupt),
            }
            if self.inflate.total_out() > limits.member_len_max {
                self.broken = Some(Code::GzipTooLarge);
            } else if self.inflate.total_out()
                > RATIO_FROM.max(self.inflate.total_in().saturating_mul(limits.ratio_max))
            {
                self.broken = Some(Code::GzipRatio);
            }
        }
        match (len, self.broken) {
            (0, Some(code)) => Decoded::Broken(Some(code)),
            (0, None) => Decoded::Starved,
            _ => Decoded::Bytes(len),
        }
    }
}

/// The largest window a member can ask for.
const WINDOW_BITS: u8 = 15;
/// Small members are bounded by this alone: a ratio says nothing about them.
const RATIO_FROM: u64 = 1 << 20;
