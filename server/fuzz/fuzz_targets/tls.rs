//! What is no TLS, or not enough of it, is ended with little said and nothing stored.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringest_fuzz::{House, cut, tls_config};

fuzz_target!(|data: &[u8]| {
    let Some((&seed, said)) = data.split_first() else { return };
    let mut stream = vec![0x16];
    stream.extend_from_slice(said);
    let end = House::new(Some(tls_config())).converse(cut(&stream, seed));
    assert!(end.stored.is_empty(), "nobody who has not the key can finish a handshake");
    assert!(end.said.len() <= 16 << 10, "{} bytes were said", end.said.len());
});
