//! The block index with 32-byte vectors.

use crate::flatten::{self, Bits, CHUNK, Found, NUMBERS, Slots};
use std::arch::x86_64::{
    __m256i, _mm_cvtsi64_si128, _mm256_add_epi32, _mm256_cmpeq_epi8, _mm256_cvtepu8_epi32, _mm256_loadu_si256,
    _mm256_min_epu8, _mm256_movemask_epi8, _mm256_or_si256, _mm256_set1_epi8, _mm256_set1_epi32, _mm256_setr_epi8,
    _mm256_shuffle_epi8, _mm256_storeu_si256,
};

/// To be called only where the CPU has these features.
#[target_feature(enable = "avx2,popcnt")]
pub(crate) fn index(block: &[u8], slots: &mut [u32]) -> Found {
    flatten::index(block, slots, |chunk| classify(chunk), |bits, base, slots| flatten(bits, base, slots))
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

/// As [`flatten::flatten`]. By hand, because the compiler makes a new vector of `base` for every byte (21 % slower).
#[inline]
#[target_feature(enable = "avx2,popcnt")]
fn flatten(bits: u64, base: u32, slots: &mut Slots) {
    let mut base = _mm256_set1_epi32(base.cast_signed());
    let mut len = 0;
    for byte in bits.to_le_bytes() {
        let numbers = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(NUMBERS[byte as usize])));
        store(_mm256_add_epi32(base, numbers), flatten::eight_at(slots, len));
        len += byte.count_ones() as usize;
        base = _mm256_add_epi32(base, _mm256_set1_epi32(8));
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(lanes: __m256i, slots: &mut [u32; 8]) {
    // SAFETY: the reference covers the 32 bytes that are written, and the store may be unaligned.
    unsafe { _mm256_storeu_si256(slots.as_mut_ptr().cast::<__m256i>(), lanes) }
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
