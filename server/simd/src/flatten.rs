//! What all engines share: a block cut into chunks, and a chunk's bits turned into offsets.

/// Bytes looked at together: one bit each in a `u64`.
pub(crate) const CHUNK: usize = 64;

/// What a chunk may write into: an offset for each byte, and what is written past the last.
pub(crate) type Slots = [u32; CHUNK + 8];

/// Slots that have to be there behind the last offset.
pub(crate) const SLACK: usize = CHUNK + 8;

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

/// What one chunk looks like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bits {
    /// Bit `n` is set if byte `n` is a quote, a backslash or below 0x20.
    pub(crate) wanted: u64,
    /// Not zero if any byte is above 0x7f.
    pub(crate) high: u64,
}

/// Writes the offsets of all wanted bytes of `block` into `slots`, of which there are `block.len() + SLACK` or more.
///
/// `flatten` puts `base` plus the number of each set bit in front of its slots. Inlined into each engine, so that all
/// of this is compiled for the engine's CPU.
#[inline(always)]
pub(crate) fn index(
    block: &[u8],
    slots: &mut [u32],
    classify: impl Fn(&[u8; CHUNK]) -> Bits,
    flatten: impl Fn(u64, u32, &mut Slots),
) -> Found {
    let (whole, rest) = block.as_chunks::<CHUNK>();
    // The rest is judged in a copy, so that nothing behind the block is read. 'x' is not wanted.
    let mut last = [[b'x'; CHUNK]];
    last[0][..rest.len()].copy_from_slice(rest);
    let (mut len, mut high, mut base) = (0, 0, 0);
    for chunks in [whole, &last] {
        for chunk in chunks {
            let bits = classify(chunk);
            let slots = slots[len..].first_chunk_mut().expect("a slot for every byte, and SLACK");
            flatten(bits.wanted, base, slots);
            len += bits.wanted.count_ones() as usize;
            high |= bits.high;
            base += CHUNK as u32;
        }
    }
    Found { len, ascii: high == 0 }
}

/// The numbers of the set bits of `bits`, in portable code.
///
/// Eight bits at a time, and always eight slots: no branch depends on the bits. What is written too much is
/// overwritten by the next eight, or never looked at.
#[inline(always)]
pub(crate) fn flatten(bits: u64, mut base: u32, slots: &mut Slots) {
    let mut len = 0;
    for byte in bits.to_le_bytes() {
        for (slot, &number) in eight_at(slots, len).iter_mut().zip(&NUMBERS[byte as usize]) {
            *slot = base + u32::from(number);
        }
        len += byte.count_ones() as usize;
        base += 8;
    }
}

/// Eight slots, from the `start`th on; `start` is below 64. The mask tells the compiler so: no bound is checked.
#[inline(always)]
pub(crate) fn eight_at(slots: &mut Slots, start: usize) -> &mut [u32; 8] {
    let start = start & (CHUNK - 1);
    (&mut slots[start..start + 8]).try_into().expect("a slice of eight")
}

/// The numbers of the set bits of each byte, lowest first; the rest is zero.
pub(crate) static NUMBERS: [[u8; 8]; 256] = {
    let mut numbers = [[0; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut len, mut bit) = (0, 0);
        while bit < 8 {
            if byte >> bit & 1 == 1 {
                numbers[byte][len] = bit;
                len += 1;
            }
            bit += 1;
        }
        byte += 1;
    }
    numbers
};
