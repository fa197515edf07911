//! The block index with 16-byte vectors, which every x86_64 has.

use crate::flatten::{self, Bits, CHUNK, Found};
use std::arch::x86_64::{
    __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
};

#[target_feature(enable = "sse2")]
pub(crate) fn index(block: &[u8], slots: &mut [u32]) -> Found {
    flatten::index(block, slots, |chunk| classify(chunk), flatten::flatten)
}

#[inline]
#[target_feature(enable = "sse2")]
fn classify(chunk: &[u8; CHUNK]) -> Bits {
    let (quarters, _) = chunk.as_chunks::<16>();
    let mut bits = Bits { wanted: 0, high: 0 };
    for (at, quarter) in quarters.iter().enumerate() {
        // SAFETY: the quarter has 16 bytes, and the load may be unaligned.
        let bytes = unsafe { _mm_loadu_si128(quarter.as_ptr().cast::<__m128i>()) };
        bits.wanted |= mask(wanted(bytes)) << (16 * at);
        bits.high |= mask(bytes);
    }
    bits
}

/// All ones in the bytes that are wanted.
#[inline]
#[target_feature(enable = "sse2")]
fn wanted(bytes: __m128i) -> __m128i {
    let quotes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(0x22));
    let backslashes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(0x5c));
    let controls = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
    _mm_or_si128(_mm_or_si128(quotes, backslashes), controls)
}

/// The top bit of each byte.
#[inline]
#[target_feature(enable = "sse2")]
fn mask(bytes: __m128i) -> u64 {
    u64::from(_mm_movemask_epi8(bytes).cast_unsigned())
}

/// Bit `n` is set if byte `n` is the same in both.
#[inline]
#[target_feature(enable = "sse2")]
pub(crate) fn equal_bytes(one: &[u8; 16], other: &[u8; 16]) -> u16 {
    // SAFETY: the reference covers the 16 bytes that are read, and the load may be unaligned.
    let one = unsafe { _mm_loadu_si128(one.as_ptr().cast::<__m128i>()) };
    // SAFETY: as above.
    let other = unsafe { _mm_loadu_si128(other.as_ptr().cast::<__m128i>()) };
    // The lowest 16 bits are all that is set.
    _mm_movemask_epi8(_mm_cmpeq_epi8(one, other)) as u16
}
