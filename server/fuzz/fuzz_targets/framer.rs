//! However a stream is cut, the framer finds the lines that the obvious splitter finds in the whole of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringest_fuzz::cut;
use ringest_wire::frame::{Framer, Head, lines, trim_cr};

/// A line, or that there was one that is too long.
type Seen = Option<Vec<u8>>;

fuzz_target!(|data: &[u8]| {
    let [limit, seed, stream @ ..] = data else { return };
    let limit = usize::from(*limit % 40) + 1;
    let judge = |line: &[u8]| -> Seen { (line.len() <= limit).then(|| line.to_vec()) };

    let mut expected: Vec<Seen> = stream.split(|&byte| byte == b'\n').map(|line| judge(trim_cr(line))).collect();
    if stream.is_empty() || stream.ends_with(b"\n") {
        expected.pop();
    }

    let mut framer = Framer::new(limit);
    let mut seen = Vec::new();
    for chunk in cut(stream, *seed) {
        let split = framer.split(chunk);
        match split.head {
            Head::None => {}
            Head::Line(line) => seen.push(judge(line)),
            Head::TooLong => seen.push(None),
        }
        seen.extend(lines(split.body).map(judge));
        if split.tail_too_long {
            seen.push(None);
        }
        assert!(framer.held() <= limit + 1, "what is held is bounded by a line");
    }
    seen.extend(framer.finish().map(judge));
    assert_eq!(seen, expected);
});
