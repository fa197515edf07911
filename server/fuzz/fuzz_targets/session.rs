//! A plain connection or session, whatever it says and however it is cut: the books close, and every line of a plain
//! connection gets one reply.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringest_fuzz::{House, cut};

fuzz_target!(|data: &[u8]| {
    let Some((&seed, said)) = data.split_first() else { return };
    let whole = House::new(None).converse(cut(said, 0));
    let pieces = House::new(None).converse(cut(said, seed));
    assert_eq!(whole.stored, pieces.stored, "what is stored does not depend on how it arrives");
});
