//! What vector instructions do for records: the block index, which says where in a block the bytes are that decide how text
//! is cut; comparing the beginnings of texts; and copying past the caches.
//!
//! [`BlockIndex`] goes over a block once, 64 bytes at a time, and notes the offset of every quote, backslash and
//! control byte (newlines are among them), and whether any byte is not ASCII. It knows no JSON, no record and no line,
//! reads not one byte outside the block, and keeps nothing of it.
//!
//! `unsafe` is written here for one reason: vector instructions that a CPU may not have. `scalar` says the same
//! without it, serves every other CPU, and is what the tests compare with.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod copy;
mod flatten;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod sse2;
mod text;

use flatten::{Found, SLACK};

pub use copy::copy_past_caches;
pub use text::begins_alike;

/// The offsets of one block; the memory is used again for the next.
#[derive(Clone, Debug)]
pub struct BlockIndex {
    /// Room for one offset per byte of the longest block, and what [`flatten`] writes past the last.
    slots: Vec<u32>,
    found: Found,
    engine: Engine,
}

/// How many offsets that lead nowhere stand behind the last one.
pub const GUARDS: usize = 4;

/// Which instructions do the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Sse2,
    #[cfg_attr(target_arch = "x86_64", allow(dead_code, reason = "x86_64 always has SSE2; the tests use it"))]
    Scalar,
}

impl BlockIndex {
    /// An index of nothing, which grows with the first block.
    pub fn new() -> BlockIndex {
        BlockIndex::with_capacity(0)
    }

    /// An index that takes blocks of up to `block_len` bytes without allocating. The memory is touched only as far as
    /// it is used.
    pub fn with_capacity(block_len: usize) -> BlockIndex {
        BlockIndex { slots: vec![0; block_len + SLACK], found: Found::NOTHING, engine: Engine::detect() }
    }

    /// Indexes `block`, and forgets the one before.
    ///
    /// # Panics
    /// If the block has 4 GiB or more: its offsets would not fit.
    pub fn build(&mut self, block: &[u8]) {
        assert!(u32::try_from(block.len()).is_ok(), "offsets in a block fit a u32");
        if self.slots.len() < block.len() + SLACK {
            self.slots.resize(block.len() + SLACK, 0);
        }
        self.found = match self.engine {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `detect` found the features that `avx2::index` is compiled for.
            Engine::Avx2 => unsafe { avx2::index(block, &mut self.slots) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: every x86_64 has SSE2.
            Engine::Sse2 => unsafe { sse2::index(block, &mut self.slots) },
            Engine::Scalar => scalar::index(block, &mut self.slots),
        };
        self.slots[self.found.len..][..GUARDS].fill(u32::MAX);
    }

    /// The offsets of quotes, backslashes and bytes below 0x20, ascending.
    #[inline]
    pub fn positions(&self) -> &[u32] {
        &self.slots[..self.found.len]
    }

    /// The same with [`GUARDS`] times `u32::MAX` behind them, so that a reader may look some offsets ahead.
    #[inline]
    pub fn guarded_positions(&self) -> &[u32] {
        &self.slots[..self.found.len + GUARDS]
    }

    /// Whether every byte is below 0x80.
    #[inline]
    pub fn is_ascii(&self) -> bool {
        self.found.ascii
    }
}

impl Default for BlockIndex {
    fn default() -> BlockIndex {
        BlockIndex::new()
    }
}

impl Engine {
    fn detect() -> Engine {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt");
            if avx2 { Engine::Avx2 } else { Engine::Sse2 }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Engine::Scalar
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flatten::CHUNK;
    use proptest::prelude::*;

    /// The obvious answer.
    fn oracle(block: &[u8]) -> (Vec<u32>, bool) {
        let wanted = |&byte: &u8| byte == b'"' || byte == b'\\' || byte < 0x20;
        let positions = (0..).zip(block).filter(|(_, byte)| wanted(byte)).map(|(at, _)| at).collect();
        (positions, block.is_ascii())
    }

    fn engines() -> Vec<Engine> {
        let mut engines = vec![Engine::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            engines.push(Engine::Sse2);
            if Engine::detect() == Engine::Avx2 {
                engines.push(Engine::Avx2);
            }
        }
        engines
    }

    /// Checks all engines on `block`, with room taken from whatever `index` held before.
    fn check(index: &mut BlockIndex, block: &[u8]) {
        let expected = oracle(block);
        for engine in engines() {
            index.engine = engine;
            index.build(block);
            assert_eq!((index.positions(), index.is_ascii()), (&expected.0[..], expected.1), "{engine:?}: {block:?}");
        }
    }

    #[test]
    fn every_byte_value_is_classified_alike_at_every_place_in_a_chunk() {
        let mut index = BlockIndex::new();
        for byte in 0..=255 {
            for at in 0..2 * CHUNK {
                let mut block = [b'a'; 2 * CHUNK];
                block[at] = byte;
                check(&mut index, &block);
            }
        }
    }

    #[test]
    fn every_length_at_every_alignment_sees_the_block_and_nothing_else() {
        // Outside the block lies only what would be found.
        let mut index = BlockIndex::with_capacity(3 * CHUNK);
        for start in 0..CHUNK {
            for len in 0..=3 * CHUNK {
                let mut memory = vec![b'"'; start + len + CHUNK];
                memory[start..start + len].fill(b'x');
                check(&mut index, &memory[start..start + len]);
                memory[start + len] = 0xff;
                check(&mut index, &memory[start..start + len]);
            }
        }
    }

    #[test]
    fn a_block_where_every_byte_counts_fits() {
        for len in [0, 1, 63, 64, 65, 127, 128, 1000] {
            check(&mut BlockIndex::new(), &vec![b'\n'; len]);
            check(&mut BlockIndex::with_capacity(len), &vec![b'"'; len]);
        }
    }

    #[test]
    fn an_index_forgets_the_block_before() {
        let mut index = BlockIndex::new();
        index.build(b"\"\xff\"\n");
        assert_eq!((index.positions(), index.is_ascii()), (&[0, 2, 3][..], false));
        index.build(b"a\n");
        assert_eq!((index.positions(), index.is_ascii()), (&[1][..], true));
        index.build(b"");
        assert_eq!((index.positions(), index.is_ascii()), (&[][..], true));
    }

    proptest! {
        #[test]
        fn every_engine_gives_the_obvious_answer(
            block in proptest::collection::vec(
                prop_oneof![4 => 0x20..0x7f_u8, 2 => Just(b'"'), 1 => Just(b'\\'), 1 => 0..0x20_u8, 1 => any::<u8>()],
                0..400,
            ),
        ) {
            check(&mut BlockIndex::new(), &block);
        }
    }
}
