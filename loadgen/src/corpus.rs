//! The lines that are sent: NDJSON as programs log it, or a user's own; the same bytes from the same seed everywhere, each
//! provable by itself.
//!
//! All text is rendered once, before the run. During the run only the stamp of a line is written, in place: which run,
//! worker, connection and sequence number it is, and a checksum over these and the rest of the line. Nothing here sends
//! or waits, and a line depends on its identity alone, so that it can be rendered again at any time.
//!
//! ```text
//! {"id":"7f3a9c01-002-000017-000000120345-9ab3f00c","ts":"…","level":"INFO","service":"…","message":"…"}
//!        run      wrk conn   seq          checksum
//! ```

mod file;
mod flat;
mod kinds;
mod stamp;

use crate::draw::Draw;
use libdeflater::crc32;
use sha2::{Digest, Sha256};
use stamp::{BLANK, HEAD, PAIR_AT, PAIRS, SUM_AT, TEXT_AT, hex, mix};
use std::fmt;
use std::path::{Path, PathBuf};

pub use kinds::Kind;
pub use stamp::{Proof, Sender, Stamp, prove};

/// Where lines come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Drawn from the seed.
    Drawn(Kind),
    /// A user's own, as they stand in a file.
    File(PathBuf),
}

impl Source {
    /// Its name in reports.
    pub fn name(&self) -> String {
        match self {
            Source::Drawn(kind) => kind.as_str().into(),
            Source::File(path) => format!("file {}", path.display()),
        }
    }
}

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
    /// Plain records of that shape. With `stamped` false every line keeps a stamp of zeros: for speed runs only.
    pub fn new(shape: &Shape, stamped: bool) -> Corpus {
        Corpus::of(drawn(Kind::Flat, shape), stamped)
    }

    /// The lines of a source; of the shape, drawn ones take the seed and the share of bad lines, and plain ones all of it.
    ///
    /// # Errors
    /// A sentence, where a user's lines cannot be read or sent.
    pub fn load(source: &Source, shape: &Shape, stamped: bool) -> Result<Corpus, String> {
        Ok(match source {
            Source::Drawn(kind) => Corpus::of(drawn(*kind, shape), stamped),
            Source::File(path) => Corpus::of(own(path)?, stamped),
        })
    }

    fn of(texts: Vec<Text>, stamped: bool) -> Corpus {
        let lines = texts.len();
        let (mut bytes, mut starts) = (Vec::new(), vec![0]);
        let (mut text_sums, mut bad) = (Vec::new(), Vec::new());
        for text in texts {
            text_sums.push(crc32(&text.bytes[TEXT_AT..text.bytes.len() - 1]));
            bad.push(text.is_bad);
            bytes.extend_from_slice(&text.bytes);
            starts.push(bytes.len() as u32);
        }
        let mut corpus = Corpus { bytes, starts, text_sums, bad, lines, stamped };
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

    /// Mean length of a line with its newline, rounded.
    pub fn mean_len(&self) -> usize {
        (self.starts[self.lines] as usize + self.lines / 2) / self.lines
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

/// A line, stamped with zeros, with its newline.
struct Text {
    bytes: Vec<u8>,
    is_bad: bool,
}

/// As many lines as are worth drawing.
fn drawn(kind: Kind, shape: &Shape) -> Vec<Text> {
    let mut draw = Draw::new(shape.seed);
    if kind == Kind::Flat {
        return flat::draw(shape, &mut draw, (BYTES_AIM / shape.record_size).clamp(LINES_MIN, LINES_MAX) & !1);
    }
    let (mut texts, mut len) = (Vec::new(), 0);
    while texts.len() < LINES_MIN || (len < BYTES_AIM && texts.len() < LINES_MAX) {
        let bytes = [HEAD, BLANK, b"\"", kind.members(&mut draw).as_bytes(), b"\n"].concat();
        len += bytes.len();
        texts.push(Text { bytes, is_bad: false });
    }
    let bad = spread(&mut draw, texts.len(), shape.bad_share);
    for text in texts.iter_mut().zip(bad).filter(|(_, is_bad)| *is_bad).map(|(text, _)| text) {
        spoil(text, draw.below(3));
    }
    texts
}

/// Takes from a line what a server cannot do without: its level, the level's type, or its end.
fn spoil(text: &mut Text, how: usize) {
    let spoiled = match how {
        0 => replace(&text.bytes, b"\"level\":", b"\"lvl\":"),
        1 => replace(&text.bytes, b"\"level\":\"", b"\"level\":7,\"was\":\""),
        _ => [&text.bytes[..text.bytes.len() - 2], b"\n"].concat(),
    };
    *text = Text { bytes: spoiled, is_bad: true };
}

fn replace(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = memchr::memmem::find(text, from).expect("every line has a level");
    [&text[..at], to, &text[at + from.len()..]].concat()
}

/// A user's lines, from the first again where they are few: a send takes as many in one piece as there are.
fn own(path: &Path) -> Result<Vec<Text>, String> {
    let lines = file::read(path)?;
    let count = lines.len() * LINES_MIN.div_ceil(lines.len());
    Ok(lines.into_iter().cycle().take(count).map(|bytes| Text { bytes, is_bad: false }).collect())
}

/// Exactly `round(share * count)` places out of `count`, in no order.
fn spread(draw: &mut Draw, count: usize, share: f64) -> Vec<bool> {
    let chosen = (share * count as f64).round() as usize;
    let mut places: Vec<bool> = (0..count).map(|place| place < chosen).collect();
    draw.shuffle(&mut places);
    places
}

/// Half of what the doubled lines take: with the kernel's own working set they stay in a core's second-level cache.
const BYTES_AIM: usize = 128 << 10;
/// Enough that shares of one percent exist, and that a predictor cannot learn the texts by heart.
const LINES_MIN: usize = 200;
const LINES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// The first digits of each kind's fingerprint.
    const FINGERPRINTS: [&str; 7] =
        ["7c7f6416", "94f901e7", "aaad914f", "6e339687", "d2b8a5e9", "401b5118", "d8cddb79"];
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
                assert!(value["level"].is_string());
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
    fn every_kind_is_valid_provable_and_the_same_from_the_same_seed() {
        for kind in Kind::ALL {
            let load = |seed| Corpus::load(&Source::Drawn(kind), &Shape { seed, ..shape(180) }, true).unwrap();
            let (mut corpus, count) = (load(7), load(7).lines());
            assert!((LINES_MIN..=LINES_MAX).contains(&count), "{count} lines of {}", kind.as_str());
            let bytes = corpus.stamp(&Stamp::new(SENDER), 5, count).bytes.to_vec();
            for (line, seq) in split(&bytes).into_iter().zip(5..) {
                let text = std::str::from_utf8(line).unwrap();
                let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
                assert!(value["level"].is_string() && value["message"].is_string(), "{text}");
                assert_eq!(prove(line), Proof::Intact(SENDER, seq), "{text}");
            }
            assert_eq!(load(7).fingerprint(), load(7).fingerprint());
            assert_ne!(load(7).fingerprint(), load(8).fingerprint(), "{}", kind.as_str());
        }
    }

    #[test]
    fn a_seed_means_the_same_bytes_in_every_release() {
        let fingerprint = |kind| {
            let shape = Shape { seed: 1, record_size: 180, rich_share: 0.1, bad_share: 0.01 };
            Corpus::load(&Source::Drawn(kind), &shape, true).unwrap().fingerprint()
        };
        assert_eq!(Kind::ALL.map(|kind| fingerprint(kind)[..8].to_owned()), FINGERPRINTS);
    }

    #[test]
    fn kinds_are_what_they_are_told_apart_by() {
        let of = |kind| {
            let mut corpus = Corpus::load(&Source::Drawn(kind), &shape(180), true).unwrap();
            let count = corpus.lines();
            let bytes = corpus.stamp(&Stamp::new(SENDER), 1, count).bytes.to_vec();
            (String::from_utf8(bytes).unwrap(), corpus.mean_len(), corpus.longest())
        };
        let (audit, ..) = of(Kind::Audit);
        let nested: Value = serde_json::from_str(audit.lines().next().unwrap()).unwrap();
        let container = &nested["requestObject"]["spec"]["template"]["spec"]["containers"][0];
        assert!(container["resources"]["limits"]["cpu"].is_string(), "seven levels deep: {nested}");
        let (trace, mean, longest) = of(Kind::Trace);
        assert!(mean > 1_500 && longest > 4_000 && longest < 64 << 10, "long: {mean} on average, {longest} at most");
        assert!(trace.lines().all(|line| line.matches("\\n\\tat ").count() >= 12));
        let (unicode, ..) = of(Kind::Unicode);
        assert!(unicode.contains("東京") && unicode.contains("\\ud83d\\ude80"), "plain, and as pairs of escapes");
        let (mixed, ..) = of(Kind::Mixed);
        for part in ["\"remote_addr\"", "\"span_id\"", "\"auditID\"", "Caused by", "\"город\""] {
            assert!(mixed.contains(part), "{part} is among all");
        }
    }

    #[test]
    fn bad_lines_of_every_kind_are_as_many_as_asked_for_and_refused() {
        for kind in Kind::ALL {
            let shape = Shape { bad_share: 0.1, ..shape(180) };
            let mut corpus = Corpus::load(&Source::Drawn(kind), &shape, true).unwrap();
            let count = corpus.lines();
            let bytes = corpus.stamp(&Stamp::new(SENDER), 0, count).bytes.to_vec();
            let mut bad = 0;
            for (line, seq) in split(&bytes).into_iter().zip(0..) {
                let good = serde_json::from_slice::<Value>(line)
                    .is_ok_and(|value| value["level"].is_string() && value.get("message").is_some());
                assert_eq!(good, !corpus.is_bad(seq), "{}", String::from_utf8_lossy(line));
                assert_eq!(prove(line), Proof::Intact(SENDER, seq), "bad, and still provable");
                bad += usize::from(!good);
            }
            assert_eq!(bad, (count as f64 * 0.1).round() as usize, "{}", kind.as_str());
        }
    }

    #[test]
    fn a_users_few_lines_are_sent_again_and_again_in_their_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("own.ndjson");
        let text: String = (0..3).map(|n| format!("{{\"n\":{n},\"level\":\"info\",\"message\":\"\"}}\n")).collect();
        std::fs::write(&path, text).unwrap();
        let mut corpus = Corpus::load(&Source::File(path), &shape(180), true).unwrap();
        assert_eq!(corpus.lines(), 201, "whole rounds");
        let bytes = corpus.stamp(&Stamp::new(SENDER), 0, 201).bytes.to_vec();
        for (line, seq) in split(&bytes).into_iter().zip(0..) {
            assert_eq!(serde_json::from_slice::<Value>(line).unwrap()["n"], seq % 3);
            assert_eq!(prove(line), Proof::Intact(SENDER, seq));
        }
    }
}
