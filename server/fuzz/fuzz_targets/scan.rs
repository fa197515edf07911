//! Whatever a segment file holds, the scan ends, goes forward, and yields only what proves itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringest_ingest::SegmentId;
use ringest_ingest::scan::{Item, scan};

fuzz_target!(|data: &[u8]| {
    let mut at = 0;
    let mut is_over = false;
    for item in scan(data, SegmentId(1)) {
        assert!(!is_over, "nothing follows the tail");
        match item {
            Item::Segment { .. } => assert_eq!(at, 0, "only the first line names the segment"),
            Item::Block { offset, end, body, .. } => {
                assert!(offset >= at && end > offset, "the scan goes forward");
                // Compressed ones may turn out to be none; that must not end the process.
                let _ = body.records();
                at = end;
            }
            Item::End { bytes, .. } => {
                assert!(bytes >= at, "the scan goes forward");
                at = bytes;
            }
            Item::Damage { from, to, .. } => {
                assert!(from >= at && to > from, "the scan goes forward");
                at = to;
            }
            Item::Tail { from, is_torn } => {
                assert!(from >= at, "the scan goes forward");
                assert_eq!(is_torn, data[from as usize..].iter().any(|&byte| byte != 0));
                is_over = true;
            }
        }
    }
});
