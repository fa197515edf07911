//! A line is a record exactly where serde_json says so, alone and among any neighbours.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringest_fuzz::is_record;
use ringest_ingest::parse::Parser;
use std::cell::RefCell;

thread_local! {
    static PARSER: RefCell<Parser> = RefCell::new(Parser::new(4096, 64));
}

fuzz_target!(|data: &[u8]| {
    let mut body = data.to_vec();
    body.push(b'\n');
    PARSER.with_borrow_mut(|parser| {
        parser.load(&body);
        let mut at = 0;
        while let Some(line) = parser.next_line(&body) {
            assert!(at <= line.start && line.end < line.next, "lines follow one another");
            at = line.next;
            let bytes = &body[line.start..line.end];
            if bytes.len() <= 4096 {
                assert_eq!(line.verdict.is_ok(), is_record(bytes), "{}", String::from_utf8_lossy(bytes));
            }
        }
        assert!(body[at..].iter().all(|byte| b"\r\n".contains(byte)), "every line is seen that is not empty");
    });
});
