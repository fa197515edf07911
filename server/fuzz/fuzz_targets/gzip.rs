//! A gzip connection, whatever is in it and however it is cut: it ends, the books close, and what is stored does not depend
//! on the cuts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringest_fuzz::{House, cut};

fuzz_target!(|data: &[u8]| {
    let Some((&seed, packed)) = data.split_first() else { return };
    let mut stream = vec![0x1f, 0x8b];
    stream.extend_from_slice(packed);
    let whole = House::new(None).converse(cut(&stream, 0));
    let pieces = House::new(None).converse(cut(&stream, seed));
    assert_eq!(whole.stored, pieces.stored, "what is stored does not depend on how it arrives");
});
