//! The block index without vector instructions.

use crate::flatten::{self, Bits, CHUNK, Found};

pub(crate) fn index(block: &[u8], slots: &mut [u32]) -> Found {
    flatten::index(block, slots, classify, flatten::flatten)
}

fn classify(chunk: &[u8; CHUNK]) -> Bits {
    let (mut wanted, mut high) = (0, 0);
    for (at, &byte) in chunk.iter().enumerate() {
        wanted |= u64::from(byte == b'"' || byte == b'\\' || byte < 0x20) << at;
        high |= u64::from(byte >> 7) << at;
    }
    Bits { wanted, high }
}

/// Bit `n` is set if byte `n` is the same in both.
#[cfg_attr(target_arch = "x86_64", allow(dead_code, reason = "x86_64 always has SSE2; the tests use it"))]
pub(crate) fn equal_bytes(one: &[u8; 16], other: &[u8; 16]) -> u16 {
    one.iter().zip(other).enumerate().map(|(at, (one, other))| u16::from(one == other) << at).sum()
}
