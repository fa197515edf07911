//! What is measured with: lines like those of real services, the same bytes from the same seed everywhere.
//!
//! Nothing here waits, sends or measures.

use std::fmt::Write;

/// A kind of line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One flat object of strings and numbers, compact.
    Flat,
    /// Nested objects, arrays, escapes and other scripts: about 400 bytes.
    Nested,
    /// An error with its stack and its context: about 1500 bytes.
    Large,
    /// What careless and hostile clients send; about every second line is no record.
    Hostile,
}

/// Whole lines, each with its newline.
#[derive(Clone, Debug)]
pub struct Lines {
    /// The text.
    pub bytes: Vec<u8>,
    /// How many lines it has.
    pub rows: u64,
}

/// The mean length of a flat line, its newline included.
pub const FLAT_LEN: usize = 180;
/// The shortest mean length that a flat line can be asked to have.
pub const FLAT_LEN_MIN: usize = 160;

impl Lines {
    /// Lines of that kind, of about `len` bytes in all.
    pub fn of(kind: Kind, len: usize) -> Lines {
        match kind {
            Kind::Flat => Lines::flat(FLAT_LEN, len),
            Kind::Nested => Lines::gather(len, nested),
            Kind::Large => Lines::gather(len, large),
            Kind::Hostile => Lines::gather(len, hostile),
        }
    }

    /// Flat lines of `line_len` bytes in the mean, exactly, and of about `len` in all, but at least two.
    pub fn flat(line_len: usize, len: usize) -> Lines {
        let line_len = line_len.max(FLAT_LEN_MIN);
        let (mut lines, mut draw) = (Lines { bytes: Vec::new(), rows: 0 }, Draw(1));
        let spread = (line_len - FLAT_LEN_MIN).min(line_len / 8) as u64;
        // In pairs, one as much shorter as the other is longer, so that the mean is exact.
        while lines.rows == 0 || lines.bytes.len() + 2 * line_len <= len {
            let off = draw.below(spread + 1) as usize;
            lines.push(flat(&mut draw, line_len - off).as_bytes());
            lines.push(flat(&mut draw, line_len + off).as_bytes());
        }
        lines
    }

    fn gather(len: usize, line: fn(&mut Draw) -> Vec<u8>) -> Lines {
        let (mut lines, mut draw) = (Lines { bytes: Vec::new(), rows: 0 }, Draw(1));
        while lines.bytes.len() < len {
            let line = line(&mut draw);
            lines.push(&line);
        }
        lines
    }

    fn push(&mut self, line: &[u8]) {
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
        self.rows += 1;
    }
}

/// A line of `len` bytes, its newline included.
fn flat(draw: &mut Draw, len: usize) -> String {
    let (level, service) = (draw.one(&LEVELS), draw.one(&SERVICES));
    let mut line = format!(
        "{{\"ts\":\"2026-03-14T09:26:53.{:06}Z\",\"level\":\"{level}\",\"service\":\"{service}\",\"host\":\"web-{:02}\",\
         \"trace\":\"{:016x}\",\"status\":{},\"ms\":{}.{},\"message\":\"",
        draw.below(1_000_000),
        draw.below(100),
        draw.number(),
        200 + draw.below(300),
        draw.below(90),
        draw.below(10),
    );
    while line.len() + "\"}\n".len() < len {
        let word = draw.one(&WORDS);
        let room = len - line.len() - "\"}\n".len();
        line.push_str(&word[..word.len().min(room)]);
    }
    line.push_str("\"}");
    line
}

fn nested(draw: &mut Draw) -> Vec<u8> {
    let (level, service, city) = (draw.one(&LEVELS), draw.one(&SERVICES), draw.one(&CITIES));
    let mut line = format!(
        "{{\"ts\":\"2026-03-14T09:26:53.{:06}Z\",\"level\":\"{level}\",\"service\":\"{service}\",\"message\":\"cannot \
         open \\\"/srv/{service}/cache\\\": retrying\\n\",\"user\":{{\"id\":{},\"name\":\"{city}\",\"roles\":[\"admin\",\
         \"ops\"]}},\"request\":{{\"method\":\"GET\",\"path\":\"/v1/items/{}\",\"headers\":{{\"accept\":\"*/*\",\
         \"host\":\"{city}.example\"}}}},\"ok\":false,\"tries\":[1,2,{}],\"next\":null,\"words\":\"",
        draw.below(1_000_000),
        draw.below(1 << 32),
        draw.below(1 << 20),
        draw.below(10),
    );
    fill(draw, &mut line, 398);
    line.push_str("\"}");
    line.into_bytes()
}

fn large(draw: &mut Draw) -> Vec<u8> {
    let (service, city) = (draw.one(&SERVICES), draw.one(&CITIES));
    let mut line = format!(
        "{{\"ts\":\"2026-03-14T09:26:53.{:06}Z\",\"level\":\"ERROR\",\"service\":\"{service}\",\"message\":\"unhandled: \
         {city}\",\"stack\":\"",
        draw.below(1_000_000)
    );
    for frame in 0..9 {
        let (class, method) = (draw.one(&SERVICES), draw.one(&WORDS));
        write!(
            line,
            "  at {class}.{}({class}.rs:{})\\n\\tframe {frame} \\\"{city}\\\"",
            method.trim(),
            draw.below(999)
        )
        .expect("writing into memory cannot fail");
    }
    line.push_str("\",\"context\":{\"tags\":[");
    for _ in 0..8 {
        write!(line, "\"{}\",", draw.one(&WORDS).trim()).expect("writing into memory cannot fail");
    }
    write!(line, "\"{city}\"],\"sizes\":[{},{},0.5],\"text\":\"", draw.below(1 << 40), draw.below(1 << 20))
        .expect("writing into memory cannot fail");
    fill(draw, &mut line, 1496);
    line.push_str("\"}}");
    line.into_bytes()
}

/// One of many ways to be wrong, or right in an unusual way.
fn hostile(draw: &mut Draw) -> Vec<u8> {
    let len = FLAT_LEN_MIN + draw.below(100) as usize;
    let record = flat(draw, len);
    match draw.below(20) {
        0 => record[..record.len() / 2].into(),
        1 => b"not JSON at all, but a line of text as it comes from a console".into(),
        2 => b"[1,2,3]".into(),
        3 => b"{\"level\":\"INFO\",\"text\":\"no message\"}".into(),
        4 => b"{\"level\":7,\"message\":\"a number for a level\"}".into(),
        5 => [record.as_bytes(), b"}"].concat(),
        6 => record.replace("web-", "we\u{1}b-").into_bytes(),
        7 => [&b"{\"level\":\"INFO\",\"message\":\""[..], &[0xc3, 0x28, 0xff], b"\"}"].concat(),
        8 => {
            let depth = 60 + draw.below(20) as usize;
            let (open, close) = ("{\"a\":[".repeat(depth / 2), "]}".repeat(depth / 2));
            format!("{{\"level\":\"INFO\",\"message\":{open}1{close}}}").into_bytes()
        }
        9 => "{".repeat(300).into_bytes(),
        10 => b"{\"$ack\":{\"upto\":7}}".into(),
        11 => record.replace("\"ts\":", "\"level\":\"INFO\",\"ts\":").into_bytes(),
        12 => record.replace("\"level\":", "\"l\\u0065vel\":").into_bytes(),
        13 => record.replace(",\"", " ,\t\"").replace(':', " : ").into_bytes(),
        14 => b"{\"level\":\"INFO\",\"message\":\"\\ud83d\\ude00\",\"f\":1.5e-7,\"n\":123456789012345678901234567890}"
            .into(),
        15 => format!("{{\"level\":\"INFO\",\"message\":\"{}\"}}", "\\\"\\\\".repeat(100)).into_bytes(),
        16 => format!("{{\"level\":\"INFO\",\"message\":\"{}\"}}", "\\u00e9".repeat(60)).into_bytes(),
        17 => format!("{record}\r").into_bytes(),
        18 => Vec::new(),
        _ => record.into_bytes(),
    }
}

fn fill(draw: &mut Draw, line: &mut String, len: usize) {
    while line.len() < len {
        line.push_str(draw.one(&WORDS));
    }
}

/// splitmix64: small, and the same on every machine.
#[derive(Clone, Debug)]
pub struct Draw(pub u64);

impl Draw {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `bound`, which is far below 2^32: the bias does not show.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// Puts the items in another order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }

    fn one<'a>(&mut self, choice: &[&'a str]) -> &'a str {
        choice[self.below(choice.len() as u64) as usize]
    }
}

const LEVELS: [&str; 6] = ["INFO", "DEBUG", "INFO", "WARNING", "info", "ERROR"];
const SERVICES: [&str; 5] = ["checkout", "search-api", "auth", "billing", "ingest-gw"];
const CITIES: [&str; 4] = ["Zürich", "東京", "Київ", "Reykjavik"];
const WORDS: [&str; 8] =
    ["request served ", "cache miss ", "retry ", "upstream closed ", "ok ", "token renewed ", "slow query ", "done "];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_lines_have_the_mean_length_that_was_asked_for() {
        for line_len in [FLAT_LEN_MIN, FLAT_LEN, 181, 1500] {
            let lines = Lines::flat(line_len, 64 << 10);
            assert_eq!(lines.bytes.len() as u64, lines.rows * line_len as u64);
            assert!(lines.bytes.len() <= 64 << 10);
            assert_eq!(memchr::memchr_iter(b'\n', &lines.bytes).count() as u64, lines.rows);
        }
    }

    #[test]
    fn lines_that_are_not_hostile_are_records() {
        for (kind, len) in [(Kind::Flat, 180), (Kind::Nested, 400), (Kind::Large, 1500)] {
            let lines = Lines::of(kind, 1 << 18);
            let mean = lines.bytes.len() as u64 / lines.rows;
            assert!(mean.abs_diff(len) <= len / 20, "{kind:?}: {mean} bytes");
            let mut parser = ringest_ingest::parse::Parser::new(1 << 16, 64);
            parser.load(&lines.bytes);
            let mut rows = 0;
            while let Some(line) = parser.next_line(&lines.bytes) {
                let text = &lines.bytes[line.start..line.end];
                assert!(line.verdict.is_ok(), "{:?}: {}", line.verdict, text.escape_ascii());
                assert!(serde_json::from_slice::<serde_json::Value>(text).is_ok());
                rows += 1;
            }
            assert_eq!(rows, lines.rows);
        }
    }

    #[test]
    fn hostile_lines_are_of_both_kinds() {
        let lines = Lines::of(Kind::Hostile, 1 << 18);
        let mut parser = ringest_ingest::parse::Parser::new(1 << 16, 64);
        parser.load(&lines.bytes);
        let (mut good, mut bad) = (0_u64, 0_u64);
        while let Some(line) = parser.next_line(&lines.bytes) {
            *if line.verdict.is_ok() { &mut good } else { &mut bad } += 1;
        }
        assert!(good * 4 > lines.rows && bad * 4 > lines.rows, "{good} good, {bad} bad");
    }

    #[test]
    fn shuffling_loses_nothing_and_repeats() {
        let shuffled = |seed| {
            let mut items: Vec<u32> = (0..20).collect();
            Draw(seed).shuffle(&mut items);
            items
        };
        assert_eq!(shuffled(1), shuffled(1));
        assert_ne!(shuffled(1), shuffled(2));
        let mut sorted = shuffled(3);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..20).collect::<Vec<_>>());
    }
}
