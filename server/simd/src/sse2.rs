//! With 16-byte vectors, which every x86_64 has.

use crate::flatten::{self, Bits, CHUNK, Found};
use std::arch::x86_64::{
    __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8, _mm_sfence,
    _mm_stream_si128,
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

/// A cache line, aligned as one.
#[repr(C, align(64))]
struct Line([u8; 64]);

/// As [`crate::copy_past_caches`], which has compared the lengths.
#[target_feature(enable = "sse2")]
pub(crate) fn copy_past_caches(to: &mut [u8], from: &[u8]) {
    // SAFETY: any bytes are a line, and any line is bytes.
    let (to_head, to_lines, to_tail) = unsafe { to.align_to_mut::<Line>() };
    // A line of which only a part is stored is fetched all the same, so its ends are stored as usual.
    let (from_head, rest) = from.split_at(to_head.len());
    let (from_lines, from_tail) = rest.as_chunks::<64>();
    to_head.copy_from_slice(from_head);
    for (to, from) in to_lines.iter_mut().zip(from_lines) {
        let (to, _) = to.0.as_chunks_mut::<16>();
        let (from, _) = from.as_chunks::<16>();
        for (to, from) in to.iter_mut().zip(from) {
            // SAFETY: the reference covers the 16 bytes that are read, and the load may be unaligned.
            let bytes = unsafe { _mm_loadu_si128(from.as_ptr().cast::<__m128i>()) };
            // SAFETY: the reference covers the 16 bytes that are written, which are a quarter of an aligned line.
            unsafe { _mm_stream_si128(to.as_mut_ptr().cast::<__m128i>(), bytes) }
        }
    }
    // These stores are not ordered by themselves. What is stored after this is seen after them.
    _mm_sfence();
    to_tail.copy_from_slice(from_tail);
}
