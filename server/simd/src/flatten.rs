//! From one bit per byte to one offset per set bit: what all engines share.

/// Bytes looked at together: one bit each in a `u64`.
pub(crate) const CHUNK: usize = 64;

/// What was found in a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// How many slots hold an offset.
    pub(crate) len: usize,
    /// Whether every byte was below 0x80.
    pub(crate) ascii: bool,
}

impl Found {
    pub(crate) const NOTHING: Found = Found { len: 0, ascii: true };
}

/// What one chunk looks like; bit `n` speaks of byte `n`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bits {
    /// Quotes, backslashes and bytes below 0x20.
    pub(crate) wanted: u64,
    /// Not zero if any byte is above 0x7f.
    pub(crate) high: u64,
}

/// Writes the offsets of all wanted bytes of `block` into `slots`, which are at least `block.len() + CHUNK`.
///
/// Inlined into each engine, so that `classify` and the bit counting here are compiled for the engine's CPU.
#[inline(always)]
pub(crate) fn index(block: &[u8], slots: &mut [u32], classify: impl Fn(&[u8; CHUNK]) -> Bits) -> Found {
    let (chunks, tail) = block.as_chunks::<CHUNK>();
    let (mut len, mut high, mut base) = (0, 0, 0);
    for chunk in chunks {
        let bits = classify(chunk);
        len = write(slots, len, base, bits.wanted);
        high |= bits.high;
        base += CHUNK as u32;
    }
    if !tail.is_empty() {
        // The tail is judged in a copy, so that nothing behind the block is read. 'x' is not wanted.
        let mut chunk = [b'x'; CHUNK];
        chunk[..tail.len()].copy_from_slice(tail);
        let bits = classify(&chunk);
        len = write(slots, len, base, bits.wanted);
        high |= bits.high;
    }
    Found { len, ascii: high == 0 }
}

/// Appends `base` plus the number of each set bit behind the first `len` slots; returns the new `len`.
///
/// Offsets are written eight at a time whether there are so many or not: a branch per eight can be predicted, one per
/// bit cannot. What is written too much is overwritten by the next chunk, or never looked at.
#[inline(always)]
fn write(slots: &mut [u32], len: usize, base: u32, mut bits: u64) -> usize {
    let count = bits.count_ones() as usize;
    let slots = &mut slots[len..len + CHUNK];
    let mut written = 0;
    while written < count {
        for slot in &mut slots[written..written + 8] {
            *slot = base + bits.trailing_zeros();
            bits &= bits.wrapping_sub(1);
        }
        written += 8;
    }
    len + count
}
