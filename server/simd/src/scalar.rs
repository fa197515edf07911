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
