//! Comparing the beginning of sixteen bytes.

/// Whether the first bytes of both are equal: as many as `mask` has low bits set. The rest may be anything.
#[inline(always)]
pub fn begins_alike(one: &[u8; 16], other: &[u8; 16], mask: u16) -> bool {
    equal_bytes(one, other) & mask == mask
}

/// Bit `n` is set if byte `n` is the same in both.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn equal_bytes(one: &[u8; 16], other: &[u8; 16]) -> u16 {
    // SAFETY: every x86_64 has SSE2.
    unsafe { crate::sse2::equal_bytes(one, other) }
}

#[cfg(not(target_arch = "x86_64"))]
use crate::scalar::equal_bytes;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_compared_as_far_as_the_mask_goes_and_no_further() {
        let one: [u8; 16] = std::array::from_fn(|at| at as u8 ^ 0xa5);
        for at in 0..16 {
            for flip in 1..=255 {
                let mut other = one;
                other[at] ^= flip;
                assert_eq!(equal_bytes(&one, &other), !(1 << at));
                assert_eq!(crate::scalar::equal_bytes(&one, &other), !(1 << at));
                for len in 0..=16 {
                    let mask = u16::MAX.checked_shr(16 - len).unwrap_or(0);
                    assert_eq!(begins_alike(&one, &other, mask), len <= at as u32, "{len} bytes, one differs at {at}");
                }
            }
        }
    }
}
