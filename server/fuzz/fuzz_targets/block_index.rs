//! The vector pass finds what a loop over the bytes finds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringest_simd::BlockIndex;

fuzz_target!(|data: &[u8]| {
    let mut index = BlockIndex::new();
    // Also where the block begins at no round address.
    for start in 0..data.len().min(3) {
        let block = &data[start..];
        index.build(block);
        let is_wanted = |byte: u8| byte == b'"' || byte == b'\\' || byte < 0x20;
        let expected = (0..).zip(block).filter(|(_, byte)| is_wanted(**byte)).map(|(at, _)| at);
        assert!(index.positions().iter().copied().eq(expected));
        assert_eq!(index.is_ascii(), block.is_ascii());
    }
});
