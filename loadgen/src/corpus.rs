//! The lines that are sent: log-like NDJSON, the same bytes from the same seed everywhere, each provable by itself.
//!
//! All text is rendered once, before the run. During the run only the stamp of a line is written, in place: which run,
//! worker, connection and sequence number it is, and a checksum over these and the rest of the line. Nothing here sends
//! or waits, and a line depends on its identity alone, so that it can be rendered again at any time.
//!
//! ```text
//! {"id":"7f3a9c01-002-000017-000000120345-9ab3f00c","ts":"…","level":"INFO","service":"…","message":"…"}
//!        run      wrk conn   seq          checksum
//! ```

use crate::draw::Draw;
use libdeflater::crc32;
use sha2::{Digest, Sha256};
use std::fmt;

/// What the lines look like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// The same seed gives the same bytes.
    pub seed: u64,
    /// Mean length of a line with its newline. Lines vary by up to an eighth of it.
    pub record_size: usize,
    /// Share of lines with escapes, other scripts and a nested object, 0 to 1.
    pub rich_share: f64,
    /// Share of lines that a server has to refuse, 0 to 1.
    pub bad_share: f64,
}

/// The shortest and longest mean length of a line.
pub const RECORD_SIZES: std::ops::RangeInclusive<usize> = 112..=131_072;

/// Who sends a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sender {
    /// The run.
    pub run: u32,
    /// The worker of the run, below 1000.
    pub worker: u16,
    /// The connection of the worker, below 1,000,000.
    pub conn: u32,
}

/// The rendered lines of one worker. Line `seq` of any sender is text number `seq % len` with the sender's stamp.
#[derive(Clone)]
pub struct Corpus {
    /// Every line twice, so that any run of up to `lines` of them lies in one piece.
    bytes: Vec<u8>,
    /// Where each line begins, and the end of the last.
    starts: Vec<u32>,
    /// Checksum of each line's text behind its stamp.
    text_sums: Vec<u32>,
    /// Whether a server has to refuse it.
    bad: Vec<bool>,
    lines: usize,
    stamped: bool,
}

impl Corpus {
    /// Renders the lines. With `stamped` false every line keeps a stamp of zeros: for speed runs only.
    pub fn new(shape: &Shape, stamped: bool) -> Corpus {
        let lines = (BYTES_AIM / shape.record_size).clamp(LINES_MIN, LINES_MAX) & !1;
        let mut draw = Draw::new(shape.seed);
        let bad = spread(&mut draw, lines, shape.bad_share);
        let rich = spread(&mut draw, lines, shape.rich_share);
        let lens = lens(&mut draw, lines, shape.record_size);

        let mut corpus = Corpus { bytes: Vec::new(), starts: vec![0], text_sums: Vec::new(), bad, lines, stamped };
        for line in 0..lines {
            let from = corpus.bytes.len();
            render(&mut corpus.bytes, &mut draw, lens[line], rich[line], corpus.bad[line]);
            corpus.text_sums.push(crc32(&corpus.bytes[from + TEXT_AT..corpus.bytes.len() - 1]));
            corpus.starts.push(corpus.bytes.len() as u32);
        }
        corpus.double();
        corpus
    }

    /// The most lines that [`Corpus::stamp`] renders at a time.
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// Bytes of the longest line.
    pub fn longest(&self) -> usize {
        self.starts.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().expect("there are lines")
    }

    /// SHA-256 of the unstamped lines in lower-case hex: two runs with the same fingerprint sent the same text.
    pub fn fingerprint(&self) -> String {
        let mut text = self.bytes[..self.starts[self.lines] as usize].to_vec();
        for start in &self.starts[..self.lines] {
            text[*start as usize..][HEAD.len()..TEXT_AT].copy_from_slice(BLANK);
        }
        Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether a server has to refuse line `seq`.
    pub fn is_bad(&self, seq: u64) -> bool {
        self.bad[(seq % self.lines as u64) as usize]
    }

    /// Lines `first` to `first + count - 1` of `sender`, each with its newline, `count` at most [`Corpus::lines`].
    pub fn stamp(&mut self, sender: &Stamp, first: u64, count: usize) -> Stamped<'_> {
        debug_assert!((1..=self.lines).contains(&count));
        let begin = (first % self.lines as u64) as usize;
        if self.stamped {
            self.stamp_in_place(sender, first, begin, count);
        }
        let starts = &self.starts[begin..=begin + count];
        Stamped { bytes: &self.bytes[starts[0] as usize..starts[count] as usize], starts }
    }

    fn stamp_in_place(&mut self, sender: &Stamp, first: u64, begin: usize, count: usize) {
        let mut seq = first;
        let mut line = begin;
        // The digits above the last two stay the same for up to 100 lines.
        while line < begin + count {
            let (high, low) = (seq / 100, (seq % 100) as usize);
            let run = (100 - low).min(begin + count - line);
            let image = sender.image(high);
            for (pair, line) in PAIRS[low..low + run].iter().zip(line..) {
                let sum = self.text_sums[line] ^ mix(sender.key, seq);
                let start = self.starts[line] as usize;
                let stamp: &mut [u8; TEXT_AT] =
                    (&mut self.bytes[start..start + TEXT_AT]).try_into().expect("cut to that length");
                stamp[HEAD.len()..PAIR_AT].copy_from_slice(&image);
                stamp[PAIR_AT..PAIR_AT + 2].copy_from_slice(pair);
                stamp[SUM_AT..TEXT_AT].copy_from_slice(&hex(sum));
                seq += 1;
            }
            line += run;
        }
    }

    fn double(&mut self) {
        let len = self.bytes.len();
        self.bytes.extend_from_within(..);
        let second: Vec<u32> = self.starts[1..].iter().map(|start| start + len as u32).collect();
        self.starts.extend(second);
        self.text_sums.extend_from_within(..);
    }
}

impl fmt::Debug for Corpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Corpus").field("lines", &self.lines).field("stamped", &self.stamped).finish_non_exhaustive()
    }
}

/// Consecutive lines of one sender, ready to be sent.
#[derive(Debug)]
pub struct Stamped<'a> {
    /// The lines.
    pub bytes: &'a [u8],
    starts: &'a [u32],
}

impl Stamped<'_> {
    /// How many whole lines lie in the first `len` bytes, and how many bytes of the next line follow them.
    pub fn lines_in(&self, len: usize) -> (usize, usize) {
        let base = self.starts[0] as usize;
        if len == self.bytes.len() {
            return (self.starts.len() - 1, 0);
        }
        let whole = self.starts.partition_point(|start| *start as usize - base <= len) - 1;
        (whole, len - (self.starts[whole] as usize - base))
    }
}

/// What is the same in every stamp of one sender.
#[derive(Clone, Debug)]
pub struct Stamp {
    prefix: [u8; PREFIX_LEN],
    key: u64,
}

impl Stamp {
    /// The stamp of that sender.
    ///
    /// # Panics
    /// Where the worker or connection number has more digits than a stamp.
    pub fn new(sender: Sender) -> Stamp {
        let text = format!("{:08x}-{:03}-{:06}-", sender.run, sender.worker, sender.conn);
        let prefix = text.as_bytes().try_into().expect("a worker number has 3 digits, a connection number 6");
        Stamp { prefix, key: key(sender) }
    }

    /// Everything up to the last two digits of the sequence number.
    fn image(&self, high: u64) -> [u8; IMAGE_LEN] {
        let mut image = [0; IMAGE_LEN];
        image[..PREFIX_LEN].copy_from_slice(&self.prefix);
        let mut rest = high;
        for digits in image[PREFIX_LEN..].as_chunks_mut::<2>().0.iter_mut().rev() {
            *digits = PAIRS[(rest % 100) as usize];
            rest /= 100;
        }
        image
    }
}

/// What a stored line says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It is line `seq` of `sender`, and no byte of it has changed.
    Intact(Sender, u64),
    /// It has the form of a line of a generator, but its checksum is not that of its content.
    Corrupt,
    /// No generator sent it.
    Foreign,
}

/// Checks a stored line, its ending removed.
pub fn prove(line: &[u8]) -> Proof {
    let Some(stamp) = line.strip_prefix(HEAD).and_then(|rest| rest.first_chunk::<STAMP_LEN>()) else {
        return Proof::Foreign;
    };
    match read_stamp(stamp) {
        Some((sender, seq, sum)) if sum == crc32(&line[TEXT_AT..]) ^ mix(key(sender), seq) => {
            Proof::Intact(sender, seq)
        }
        _ => Proof::Corrupt,
    }
}

fn read_stamp(stamp: &[u8; STAMP_LEN]) -> Option<(Sender, u64, u32)> {
    if [8, 12, 19, 32].iter().any(|at| stamp[*at] != b'-') {
        return None;
    }
    let sender = Sender {
        run: read_hex(&stamp[..8])?,
        worker: read_digits(&stamp[9..12])? as u16,
        conn: read_digits(&stamp[13..19])? as u32,
    };
    Some((sender, read_digits(&stamp[20..32])?, read_hex(&stamp[33..])?))
}

fn read_digits(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')))
}

/// Lower case only: a flipped bit that makes a capital is damage, too.
fn read_hex(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0, |number, byte| match byte {
        b'0'..=b'9' => Some(number << 4 | u32::from(byte - b'0')),
        b'a'..=b'f' => Some(number << 4 | u32::from(byte - b'a' + 10)),
        _ => None,
    })
}

fn key(sender: Sender) -> u64 {
    let identity = u64::from(sender.run) << 32 | u64::from(sender.worker) << 20 | u64::from(sender.conn);
    Draw::new(identity).next()
}

/// Exclusive-ored to the checksum of the text, so that damage there shows for certain (crc32), and damage in the
/// identity shows but for one case in 2^32.
#[inline]
fn mix(key: u64, seq: u64) -> u32 {
    ((key ^ seq).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

/// Eight lower-case hex digits, without a table: one nibble per byte, then all eight made digits at once.
#[inline]
fn hex(number: u32) -> [u8; 8] {
    let mut nibbles = u64::from(number);
    nibbles = (nibbles | nibbles << 16) & 0x0000_ffff_0000_ffff;
    nibbles = (nibbles | nibbles << 8) & 0x00ff_00ff_00ff_00ff;
    nibbles = (nibbles | nibbles << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let above_nine = (nibbles + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
    let text = nibbles + 0x3030_3030_3030_3030 + above_nine * u64::from(b'a' - b'9' - 1);
    text.to_be_bytes()
}

/// Exactly `round(share * count)` places out of `count`, in no order.
fn spread(draw: &mut Draw, count: usize, share: f64) -> Vec<bool> {
    let chosen = (share * count as f64).round() as usize;
    let mut places: Vec<bool> = (0..count).map(|place| place < chosen).collect();
    draw.shuffle(&mut places);
    places
}

/// Lengths that vary by up to an eighth, in pairs that make up for one another: their mean is exact.
fn lens(draw: &mut Draw, count: usize, mean: usize) -> Vec<usize> {
    let mut lens: Vec<usize> = (0..count / 2)
        .flat_map(|_| {
            let off = draw.below(mean / 8);
            [mean - off, mean + off]
        })
        .collect();
    draw.shuffle(&mut lens);
    lens
}

fn render(out: &mut Vec<u8>, draw: &mut Draw, len: usize, rich: bool, bad: bool) {
    let end = out.len() + len;
    out.extend_from_slice(HEAD);
    out.extend_from_slice(BLANK);
    out.push(b'"');
    let mut members = members(draw, len);
    let mut close: &[u8] = b"\"}\n";
    if bad {
        match draw.below(3) {
            0 => members = members.replace("\"level\"", "\"lvl\""),
            1 => {
                members = members.replace("\"level\":\"", "\"level\":[\"").replace("\",\"message\"", "\"],\"message\"")
            }
            _ => close = b"\"\n",
        }
    }
    out.extend_from_slice(members.as_bytes());
    let context = format!(
        "\",\"ctx\":{{\"path\":\"/v1/{}\",\"tags\":[\"eu\",\"β\"],\"retry\":{}}}",
        draw.pick(NOUNS),
        draw.pick(&["true", "false", "null"]),
    );
    let rest = |out: &Vec<u8>| end - out.len() - close.len();
    if rich && rest(out) >= RICH.len() + context.len() {
        out.extend_from_slice(RICH.as_bytes());
        let context_at = end - context.len() - 2;
        fill(out, draw, context_at - out.len());
        out.extend_from_slice(context.as_bytes());
        close = if close.len() == 3 { b"}\n" } else { b" \n" };
    } else {
        let room = rest(out);
        fill(out, draw, room);
    }
    out.extend_from_slice(close);
    debug_assert_eq!(out.len(), end);
}

/// Everything between the stamp and the text of the message, as much of it as the length has room for.
fn members(draw: &mut Draw, len: usize) -> String {
    let mut text = String::new();
    if len >= 160 {
        let (day, hour, minute) = (1 + draw.below(28), draw.below(24), draw.below(60));
        let (second, ms) = (draw.below(60), draw.below(1000));
        text += &format!(",\"ts\":\"2026-03-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z\"");
    }
    text += &format!(",\"level\":\"{}\"", draw.pick(LEVELS));
    if len >= 140 {
        text += &format!(",\"service\":\"{}\"", draw.pick(SERVICES));
    }
    if len >= 200 {
        text += &format!(",\"status\":{},\"took_ms\":{}.{}", draw.pick(STATUSES), draw.below(400), draw.below(10));
    }
    if len >= 300 {
        text += &format!(",\"trace_id\":\"{:016x}{:016x}\"", draw.next(), draw.next());
    }
    // A line that is cut short is bad because its object does not end, so the message comes last.
    text + ",\"message\":\""
}

/// Exactly `len` bytes of prose.
fn fill(out: &mut Vec<u8>, draw: &mut Draw, len: usize) {
    let end = out.len() + len;
    while out.len() < end {
        let phrase = format!("{} {} {} {}; ", draw.pick(VERBS), draw.pick(NOUNS), draw.below(100_000), draw.pick(ENDS));
        out.extend_from_slice(phrase.as_bytes());
    }
    out.truncate(end);
}

const HEAD: &[u8] = b"{\"id\":\"";
const BLANK: &[u8; STAMP_LEN] = b"00000000-000-000000-000000000000-00000000";
const STAMP_LEN: usize = 41;
const PREFIX_LEN: usize = 20;
/// Prefix and the first ten of twelve digits.
const IMAGE_LEN: usize = PREFIX_LEN + 10;
const PAIR_AT: usize = 7 + IMAGE_LEN;
const SUM_AT: usize = PAIR_AT + 3;
const TEXT_AT: usize = 7 + STAMP_LEN;

/// Half of what the doubled lines take: with the kernel's own working set they stay in a core's second-level cache.
const BYTES_AIM: usize = 128 << 10;
/// Enough that shares of one percent exist, and that a predictor cannot learn the texts by heart.
const LINES_MIN: usize = 200;
const LINES_MAX: usize = 1024;

/// 00 to 99.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

const RICH: &str = "user said \\\"naïve – 東京\\\"\\n\\tat caf\\u00e9 C:\\\\tmp: ";
/// Weighted as logs are. No TRACE, so that the default filter of a server (DEBUG) lets all pass.
const LEVELS: &[&str] = &["INFO", "INFO", "INFO", "INFO", "INFO", "DEBUG", "DEBUG", "WARNING", "ERROR", "CRITICAL"];
const SERVICES: &[&str] = &["checkout", "auth-api", "inventory", "mail-relay", "edge", "billing-eu", "search", "cron"];
const STATUSES: &[&str] = &["200", "200", "200", "201", "204", "301", "400", "404", "429", "500", "503"];
const VERBS: &[&str] =
    &["accepted", "retrying", "closed", "rendered", "evicted", "slow", "refused", "flushed", "opened"];
const NOUNS: &[&str] = &["order", "session", "page", "socket", "cache-key", "query", "upload", "token", "cart", "job"];
const ENDS: &[&str] = &["after timeout", "for tenant 7", "in region eu-1", "by peer", "ok", "(queue full)", "at once"];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const SENDER: Sender = Sender { run: 0x7f3a_9c01, worker: 2, conn: 17 };

    fn shape(record_size: usize) -> Shape {
        Shape { seed: 7, record_size, rich_share: 0.0, bad_share: 0.0 }
    }

    fn all_lines(shape: &Shape, first: u64) -> Vec<u8> {
        let mut corpus = Corpus::new(shape, true);
        let count = corpus.lines();
        corpus.stamp(&Stamp::new(SENDER), first, count).bytes.to_vec()
    }

    fn split(bytes: &[u8]) -> Vec<&[u8]> {
        bytes.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n').collect()
    }

    #[test]
    fn a_seed_gives_the_same_bytes_and_another_seed_others() {
        assert_eq!(all_lines(&shape(180), 1), all_lines(&shape(180), 1));
        assert_ne!(all_lines(&shape(180), 1), all_lines(&Shape { seed: 8, ..shape(180) }, 1));
        let fingerprint = Corpus::new(&shape(180), true).fingerprint();
        assert_eq!(fingerprint, Corpus::new(&shape(180), false).fingerprint());
        assert_ne!(fingerprint, Corpus::new(&shape(181), true).fingerprint());
    }

    #[test]
    fn the_fingerprint_does_not_change_while_lines_are_stamped() {
        let mut corpus = Corpus::new(&shape(180), true);
        let before = corpus.fingerprint();
        let count = corpus.lines();
        corpus.stamp(&Stamp::new(SENDER), 12_345, count);
        assert_eq!(corpus.fingerprint(), before);
    }

    #[test]
    fn the_mean_length_is_exactly_what_was_asked_for() {
        for size in [112, 113, 139, 160, 180, 256, 300, 1024, 4096, 131_072] {
            let bytes = all_lines(&Shape { rich_share: 0.3, ..shape(size) }, 0);
            assert_eq!(bytes.len(), size * split(&bytes).len(), "size {size}");
        }
    }

    #[test]
    fn every_line_is_json_with_level_and_message_and_its_own_identity() {
        for size in [112, 180, 300, 2048] {
            let bytes = all_lines(&Shape { rich_share: 0.5, ..shape(size) }, 99_999);
            for (line, seq) in split(&bytes).into_iter().zip(99_999..) {
                let value: Value = serde_json::from_slice(line).unwrap_or_else(|error| {
                    panic!("{error}: {}", String::from_utf8_lossy(line));
                });
                assert!(LEVELS.contains(&value["level"].as_str().unwrap()));
                assert!(value["message"].is_string());
                let id = format!("7f3a9c01-002-000017-{seq:012}-");
                assert!(value["id"].as_str().unwrap().starts_with(&id), "{} is not {id}", value["id"]);
                assert_eq!(prove(line), Proof::Intact(SENDER, seq));
            }
        }
    }

    #[test]
    fn rich_lines_have_escapes_other_scripts_and_an_inner_object() {
        let bytes = all_lines(&Shape { rich_share: 1.0, ..shape(400) }, 1);
        for line in split(&bytes) {
            let value: Value = serde_json::from_slice(line).unwrap();
            assert!(value["message"].as_str().unwrap().contains("\"naïve – 東京\"\n\tat café"));
            assert!(value["ctx"]["tags"].is_array());
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_shows() {
        let bytes = all_lines(&shape(180), 1);
        let line = split(&bytes)[3];
        for at in 0..line.len() {
            for bit in 0..8 {
                let mut damaged = line.to_vec();
                damaged[at] ^= 1 << bit;
                let expected = if at < HEAD.len() { Proof::Foreign } else { Proof::Corrupt };
                assert_eq!(prove(&damaged), expected, "byte {at} bit {bit}");
            }
        }
        for len in 0..line.len() {
            assert!(!matches!(prove(&line[..len]), Proof::Intact(..)), "cut to {len}");
        }
    }

    #[test]
    fn bad_lines_are_as_many_as_asked_for_and_known_by_their_number() {
        let shape = Shape { bad_share: 0.05, ..shape(180) };
        let corpus = Corpus::new(&shape, true);
        let bytes = all_lines(&shape, 0);
        let mut bad = 0;
        for (line, seq) in split(&bytes).into_iter().zip(0..) {
            let good = serde_json::from_slice::<Value>(line)
                .is_ok_and(|value| value["level"].is_string() && value.get("message").is_some());
            assert_eq!(good, !corpus.is_bad(seq), "{}", String::from_utf8_lossy(line));
            bad += usize::from(!good);
        }
        assert_eq!(bad, (corpus.lines() as f64 * 0.05).round() as usize);
    }

    #[test]
    fn stamping_from_anywhere_gives_the_lines_that_stamping_one_by_one_gives() {
        let mut corpus = Corpus::new(&shape(180), true);
        let stamp = Stamp::new(SENDER);
        for first in [1, 95, 99, 100, 9_999_999_950, u64::from(u32::MAX)] {
            let together = corpus.stamp(&stamp, first, 120).bytes.to_vec();
            let apart: Vec<u8> =
                (first..first + 120).flat_map(|seq| corpus.stamp(&stamp, seq, 1).bytes.to_vec()).collect();
            assert_eq!(together, apart, "from {first}");
        }
    }

    #[test]
    fn lines_are_counted_at_every_length() {
        let mut corpus = Corpus::new(&shape(112), true);
        let stamped = corpus.stamp(&Stamp::new(SENDER), 195, 12);
        for len in 0..=stamped.bytes.len() {
            let whole = stamped.bytes[..len].iter().filter(|byte| **byte == b'\n').count();
            let last = stamped.bytes[..len].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            assert_eq!(stamped.lines_in(len), (whole, len - last), "len {len}");
        }
    }

    #[test]
    fn hex_is_what_the_standard_library_prints() {
        for number in [0, 1, 9, 10, 0xdead_beef, 0x0a9f_90af, u32::MAX] {
            assert_eq!(hex(number).as_slice(), format!("{number:08x}").as_bytes());
        }
    }
}
