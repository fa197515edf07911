//! The block index with 32-byte vectors.

use crate::flatten::{self, Bits, CHUNK, Found};
use std::arch::x86_64::{
    __m256i, _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_min_epu8, _mm256_movemask_epi8, _mm256_or_si256,
    _mm256_set1_epi8, _mm256_setr_epi8, _mm256_shuffle_epi8,
};

/// To be called only where the CPU has these features.
#[target_feature(enable = "avx2,bmi1,popcnt")]
pub(crate) fn index(block: &[u8], slots: &mut [u32]) -> Found {
    flatten::index(block, slots, |chunk| classify(chunk))
}

#[inline]
#[target_feature(enable = "avx2")]
fn classify(chunk: &[u8; CHUNK]) -> Bits {
    let (halves, _) = chunk.as_chunks::<32>();
    let [low, high] = [load(&halves[0]), load(&halves[1])];
    Bits {
        wanted: join(mask(wanted(low)), mask(wanted(high))),
        // The sign bit of each byte is what tells ASCII from the rest.
        high: mask(_mm256_or_si256(low, high)).into(),
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: the reference covers the 32 bytes that are read, and the load may be unaligned.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast::<__m256i>()) }
}

/// All ones in the bytes that are wanted.
#[inline]
#[target_feature(enable = "avx2")]
fn wanted(bytes: __m256i) -> __m256i {
    // The shuffle puts into each byte the one candidate that ends in the same four bits: `"` is 0x22, `\` is 0x5c.
    // For all other endings 0xff, and for bytes above 0x7f zero: neither can equal the byte itself.
    let candidates = _mm256_setr_epi8(
        -1, -1, 0x22, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0x5c, -1, -1, -1, //
        -1, -1, 0x22, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0x5c, -1, -1, -1,
    );
    let marks = _mm256_cmpeq_epi8(_mm256_shuffle_epi8(candidates, bytes), bytes);
    let controls = _mm256_cmpeq_epi8(_mm256_min_epu8(bytes, _mm256_set1_epi8(0x1f)), bytes);
    _mm256_or_si256(marks, controls)
}

/// The top bit of each byte.
#[inline]
#[target_feature(enable = "avx2")]
fn mask(bytes: __m256i) -> u32 {
    _mm256_movemask_epi8(bytes).cast_unsigned()
}

#[inline]
fn join(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}
