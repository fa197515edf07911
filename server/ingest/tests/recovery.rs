//! What `scan` makes of damaged segments, held against segments that a shard wrote: cut at every byte, with every byte
//! changed, with blocks swapped, repeated and taken from elsewhere. It never yields what was not written there, and
//! it finds everything that is whole. And what a survey makes of several.

use ringest_ingest::scan::{Item, StoredRun, scan};
use ringest_ingest::survey;
use ringest_ingest::{
    Action, Limits, PAGE, SegmentFormat, SegmentId, SessionId, Shard, ShardConfig, ShardId, home_shard,
};
use std::io::Read;
use std::ops::Range;
use std::time::{Duration, Instant};

/// One proven piece of a sound segment, and where it lies.
#[derive(Clone, Debug, PartialEq)]
struct Piece {
    range: Range<usize>,
    what: What,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    Segment,
    Block { rows: u32, runs: Vec<StoredRun>, records: Vec<u8> },
    End { rows: u64 },
}

/// A segment as a shard left it.
struct Sound {
    id: SegmentId,
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
}

/// How a scan ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rest {
    Nothing,
    Zeros,
    Torn,
}

impl Sound {
    fn new(first: u64, is_ended: bool, format: SegmentFormat) -> Sound {
        let (id, bytes) = write_segment(first, is_ended, format);
        let (pieces, damage, rest) = walk(&bytes, id);
        assert!(damage.is_empty() && rest == Rest::Nothing, "a sound segment is whole: {damage:?}");
        Sound { id, bytes, pieces }
    }

    fn blocks(&self) -> Vec<Piece> {
        self.pieces.iter().filter(|piece| matches!(piece.what, What::Block { .. })).cloned().collect()
    }

    /// Pieces that do not touch that range.
    fn outside(&self, range: &Range<usize>) -> Vec<Piece> {
        let is_outside = |piece: &&Piece| piece.range.end <= range.start || range.end <= piece.range.start;
        self.pieces.iter().filter(is_outside).cloned().collect()
    }

    /// What every scan of these bytes owes, whatever was done to them: only pieces of this segment, each in its place.
    fn scan(&self, bytes: &[u8]) -> (Vec<Piece>, Vec<Range<usize>>, Rest) {
        let (pieces, damage, rest) = walk(bytes, self.id);
        let mut originals = self.pieces.iter();
        for piece in &pieces {
            assert!(originals.any(|original| original == piece), "not what was written there: {piece:?}");
        }
        (pieces, damage, rest)
    }
}

/// Scans; the pieces, the damaged ranges, and how it ended. What was yielded covers every byte once.
fn walk(bytes: &[u8], id: SegmentId) -> (Vec<Piece>, Vec<Range<usize>>, Rest) {
    let (pieces, damage, rest) = walk_closely(bytes, id);
    (pieces, damage.into_iter().map(|(range, _)| range).collect(), rest)
}

/// Where it lies, and whether it is taken for a place that was never written.
type Damage = (Range<usize>, bool);

/// Says of damage, too, whether it is taken for a place that was never written.
fn walk_closely(bytes: &[u8], id: SegmentId) -> (Vec<Piece>, Vec<Damage>, Rest) {
    let (mut pieces, mut damage, mut rest) = (Vec::new(), Vec::new(), Rest::Nothing);
    let mut at = 0;
    for item in scan(bytes, id) {
        assert_eq!(rest, Rest::Nothing, "nothing follows the tail");
        let end = match item {
            Item::Segment { shard, voids } => {
                assert!(at == 0 && shard == SHARD.0 && voids.is_empty());
                let end = line_end(bytes, 0);
                pieces.push(Piece { range: 0..end, what: What::Segment });
                end
            }
            Item::Block { offset, end, rows, runs, body } => {
                assert_eq!(offset as usize, at);
                let records = body.records().expect("what proves itself can be unpacked").into_owned();
                pieces.push(Piece { range: at..end as usize, what: What::Block { rows, runs, records } });
                end as usize
            }
            Item::End { rows, bytes: before } => {
                assert_eq!(before as usize, at);
                let end = line_end(bytes, at);
                pieces.push(Piece { range: at..end, what: What::End { rows } });
                end
            }
            Item::Damage { from, to, is_unwritten } => {
                assert_eq!(from as usize, at);
                damage.push((at..to as usize, is_unwritten));
                to as usize
            }
            Item::Tail { from, is_torn } => {
                assert_eq!(from as usize, at);
                rest = if is_torn { Rest::Torn } else { Rest::Zeros };
                bytes.len()
            }
        };
        at = end;
    }
    assert_eq!(at, bytes.len(), "every byte is accounted for");
    (pieces, damage, rest)
}

/// Where a piece without records ends.
fn line_end(bytes: &[u8], at: usize) -> usize {
    if bytes[at] == b'{' {
        return at + bytes[at..].iter().position(|&byte| byte == b'\n').unwrap() + 1;
    }
    // Ten bytes, the length of the extra field, the field, an empty deflate stream, checksum and length.
    at + 12 + usize::from(u16::from_le_bytes([bytes[at + 10], bytes[at + 11]])) + 2 + 8
}

#[test]
fn a_segment_holds_what_the_tests_need() {
    for format in FORMATS {
        let sound = Sound::new(42, true, format);
        let (mut padded, mut plain_runs, mut shared) = (0, 0, 0);
        for block in sound.blocks() {
            let What::Block { runs, .. } = &block.what else { unreachable!() };
            padded += usize::from(sound.bytes[block.range.clone()].windows(5).any(|bytes| bytes == b"\"}}  "));
            plain_runs += runs.iter().filter(|run| run.producer.is_empty()).count();
            shared += usize::from(runs.len() > 2);
        }
        let blocks = sound.blocks().len();
        let found = format!("{format:?}: {blocks} blocks, {padded} padded, {plain_runs} plain runs, {shared} shared");
        assert!(blocks > padded && padded >= 2 && plain_runs >= 2 && shared >= 2, "{found}");
        assert!(matches!(sound.pieces.last().unwrap().what, What::End { rows } if rows > 20));
        let unended = Sound::new(42, false, format);
        assert!(matches!(unended.pieces.last().unwrap().what, What::Block { .. }));
    }
}

#[test]
fn a_compressed_segment_is_the_records_of_the_other_to_whoever_unpacks_it() {
    for is_ended in [true, false] {
        let records = |sound: &Sound| -> Vec<u8> {
            let blocks = sound.blocks().into_iter();
            let records = blocks.map(|piece| match piece.what {
                What::Block { records, .. } => records,
                What::Segment | What::End { .. } => unreachable!("a block is a block"),
            });
            records.collect::<Vec<_>>().concat()
        };
        let [plain, packed] = FORMATS.map(|format| Sound::new(42, is_ended, format));
        let mut unpacked = Vec::new();
        flate2::read::MultiGzDecoder::new(&packed.bytes[..]).read_to_end(&mut unpacked).unwrap();
        assert!(!unpacked.is_empty() && unpacked == records(&packed) && unpacked == records(&plain));
    }
}

#[test]
fn a_segment_cut_anywhere_yields_what_is_whole_and_tells_a_clean_end_from_a_torn_one() {
    for format in FORMATS {
        for is_ended in [true, false] {
            let sound = Sound::new(42, is_ended, format);
            for cut in 0..=sound.bytes.len() {
                let whole = sound.outside(&(cut..usize::MAX));
                let whole_len = whole.last().map_or(0, |piece| piece.range.end);

                let (pieces, damage, rest) = sound.scan(&sound.bytes[..cut]);
                assert_eq!((&pieces, damage.len()), (&whole, 0), "cut at {cut}");
                assert_eq!(rest, if cut == whole_len { Rest::Nothing } else { Rest::Torn }, "cut at {cut}");

                // Where the bytes behind the cut are zeros themselves, nothing is missing.
                let lost = cut + sound.bytes[cut..].iter().take_while(|&&byte| byte == 0).count();
                let whole = sound.outside(&(lost..usize::MAX));
                let whole_len = whole.last().map_or(0, |piece| piece.range.end);
                let is_clean = sound.bytes[whole_len.min(cut)..cut].iter().all(|&byte| byte == 0);
                let preallocated = [&sound.bytes[..cut], &[0; 300]].concat();
                let (pieces, damage, rest) = sound.scan(&preallocated);
                assert_eq!((&pieces, damage.len()), (&whole, 0), "zeros from {cut}");
                assert_eq!(rest, if is_clean { Rest::Zeros } else { Rest::Torn }, "zeros from {cut}");
            }
        }
    }
}

#[test]
fn a_changed_byte_costs_the_piece_it_is_in_and_no_other() {
    for format in FORMATS {
        let sound = Sound::new(42, true, format);
        let mut bytes = sound.bytes.clone();
        for at in 0..bytes.len() {
            for mask in [0x01, 0x20, 0x80, 0xff, sound.bytes[at], sound.bytes[at] ^ b'\n'] {
                if mask == 0 {
                    continue;
                }
                bytes[at] ^= mask;
                let (pieces, damage, rest) = sound.scan(&bytes);
                bytes[at] ^= mask;
                let others = sound.outside(&(at..at + 1));
                assert!(
                    pieces.len() == others.len() || pieces == sound.pieces,
                    "byte {at}, mask {mask:#x}: {damage:?} {rest:?} {} of {}: {:?}",
                    pieces.len(),
                    others.len(),
                    sound.pieces.iter().map(|p| p.range.clone()).collect::<Vec<_>>()
                );
                assert!(others.iter().all(|other| pieces.contains(other)), "byte {at}, mask {mask:#x}: {damage:?}");
                // A digit of a checksum may change its case and mean the same.
                let is_told = damage.len() == 1 || rest == Rest::Torn;
                assert!(is_told || pieces == sound.pieces, "byte {at}, mask {mask:#x} is not told");
            }
        }
    }
}

#[test]
fn a_range_of_zeros_anywhere_costs_the_pieces_it_touches_and_no_other() {
    for format in FORMATS {
        const SECTOR: usize = 512;
        let sound = Sound::new(42, true, format);
        for from in (0..sound.bytes.len()).step_by(SECTOR / 4) {
            for len in [SECTOR, 3 * SECTOR, 12 * SECTOR] {
                let range = from..(from + len).min(sound.bytes.len());
                let mut bytes = sound.bytes.clone();
                bytes[range.clone()].fill(0);
                // Compressed bytes may be zeros already, where they are cut off as well.
                let changed = |at: &usize| bytes[*at] != sound.bytes[*at];
                let range = range.clone().find(changed).unwrap()..range.clone().rfind(changed).unwrap() + 1;
                let (pieces, damage, rest) = sound.scan(&bytes);
                for (_, is_unwritten) in walk_closely(&bytes, sound.id).1 {
                    assert!(is_unwritten || from % SECTOR != 0, "zeros at {range:?} were never written");
                }
                assert_eq!(pieces, sound.outside(&range), "zeros at {range:?}");
                let is_at_end = sound.outside(&range).last().is_none_or(|last| last.range.end <= range.start);
                assert_eq!(damage.len(), usize::from(!is_at_end), "zeros at {range:?}");
                assert_eq!(rest != Rest::Nothing, is_at_end, "zeros at {range:?}");
            }
        }
    }
}

#[test]
fn two_blocks_that_changed_places_are_both_damage() {
    for format in FORMATS {
        let sound = Sound::new(42, true, format);
        let blocks = sound.blocks();
        for (at, one) in blocks.iter().enumerate() {
            for two in &blocks[at + 1..] {
                let mut bytes = sound.bytes[..one.range.start].to_vec();
                bytes.extend_from_slice(&sound.bytes[two.range.clone()]);
                bytes.extend_from_slice(&sound.bytes[one.range.end..two.range.start]);
                bytes.extend_from_slice(&sound.bytes[one.range.clone()]);
                bytes.extend_from_slice(&sound.bytes[two.range.end..]);
                let (pieces, ..) = sound.scan(&bytes);
                // What lies between keeps its place only where both have the same length.
                let is_moved = one.range.len() != two.range.len();
                let touched = one.range.start..two.range.end;
                let kept = if is_moved { sound.outside(&touched) } else { without(&sound.pieces, &[one, two]) };
                assert_eq!(pieces, kept, "{:?} and {:?}", one.range, two.range);
            }
        }
    }
}

#[test]
fn a_block_that_lies_where_another_belongs_is_damage() {
    for format in FORMATS {
        let (sound, other) = (Sound::new(42, true, format), Sound::new(43, true, format));
        // The other segment has the same blocks at the same places: only the name it gives tells them apart.
        assert_eq!(sound.bytes.len(), other.bytes.len());
        for target in sound.blocks() {
            for source in sound.blocks().iter().filter(|source| **source != target) {
                let mut bytes = sound.bytes.clone();
                overlay(&mut bytes, target.range.start, &sound.bytes[source.range.clone()]);
                let touched = target.range.start..target.range.start + source.range.len();
                assert_eq!(sound.scan(&bytes).0, sound.outside(&touched), "{:?} at {:?}", source.range, target.range);
            }
            let mut bytes = sound.bytes.clone();
            bytes[target.range.clone()].copy_from_slice(&other.bytes[target.range.clone()]);
            assert_eq!(sound.scan(&bytes).0, sound.outside(&target.range), "of another segment: {:?}", target.range);
        }
    }
}

#[test]
fn a_block_repeated_behind_the_end_is_not_yielded_again() {
    for format in FORMATS {
        for is_ended in [true, false] {
            let sound = Sound::new(42, is_ended, format);
            for block in sound.blocks() {
                let bytes = [&sound.bytes[..], &sound.bytes[block.range.clone()]].concat();
                let (pieces, damage, rest) = sound.scan(&bytes);
                assert_eq!((pieces, damage.len(), rest), (sound.pieces.clone(), 0, Rest::Torn), "{:?}", block.range);
            }
        }
    }
}

#[test]
fn a_segment_under_another_name_yields_no_block() {
    for format in FORMATS {
        let sound = Sound::new(42, true, format);
        let items: Vec<Item<'_>> = scan(&sound.bytes, SegmentId(44)).collect();
        assert!(items.iter().all(|item| !matches!(item, Item::Block { .. } | Item::Segment { .. })), "{items:?}");
    }
}

#[test]
fn a_record_that_spells_a_block_is_not_taken_for_one_when_its_own_block_is_damaged() {
    // A client can know where its line will lie, and can compute any checksum.
    let sound = Sound::new(42, true, SegmentFormat::Plain);
    let block = sound.blocks().into_iter().next().unwrap();
    let What::Block { records, .. } = &block.what else { unreachable!() };
    let begins = block.range.end - records.len();
    let mut bytes = sound.bytes.clone();
    let forged = |at: usize| {
        let text = format!("{{\"$blk\":{{\"i\":42,\"o\":{at},\"n\":0,\"b\":0,\"r\":[],\"c\":\"00000000\"");
        let crc = crc32(text.as_bytes());
        format!("{text},\"h\":\"{crc:08x}\"}}}}")
    };
    let line = records.iter().position(|&byte| byte == b'\n').unwrap();
    let before = "{\"level\":\"info\",\"message\":";
    let text = format!("{before}{}}}", forged(begins + before.len()));
    assert!(text.len() < line, "the line is long enough to hold it: {line}");
    let padded = format!("{before}{}{}}}", forged(begins + before.len()), " ".repeat(line - text.len()));
    bytes[begins..begins + line].copy_from_slice(padded.as_bytes());
    let (pieces, damage, _) = sound.scan(&bytes);
    assert_eq!((pieces, damage.len()), (sound.outside(&block.range), 1));
}

#[test]
fn a_place_that_was_taken_for_damage_is_not_judged_again() {
    for format in FORMATS {
        let Sound { id, mut bytes, pieces } = Sound::new(1, true, format);
        let lost = pieces[3].range.clone();
        bytes[lost.clone()].fill(0);
        let judged = survey([(id, &bytes)], |_| false);
        assert_eq!(judged.segments[0].keep as usize, lost.start, "a few blocks may have overtaken it");
        let lost = lost.start as u64..lost.end as u64;
        let known = survey([(id, &bytes)], |range| *range == lost);
        assert_eq!(known.segments[0].keep as usize, bytes.len());
        assert_eq!(known.segments[0].damage, std::slice::from_ref(&lost));
    }
}

#[test]
fn what_is_missing_in_a_segment_that_failed_is_not_judged_by_what_is_behind_it() {
    let Sound { id, mut bytes, pieces } = Sound::new(1, true, SegmentFormat::Plain);
    let lost = pieces[2].range.clone();
    let void = pieces[5].range.end as u64;
    bytes[lost.clone()].fill(0);
    let successor = segment_line(2, &[(1, void)]);
    let survey = survey([(SegmentId(2), &successor), (id, &bytes)], |_| false);
    let failed = &survey.segments[0];
    assert_eq!((failed.keep, failed.rest), (void, survey::Rest::Void), "what counts of it is known");
    assert_eq!(failed.damage, std::slice::from_ref(&(lost.start as u64..lost.end as u64)));
}

#[test]
fn an_end_that_was_damaged_disowns_nothing_behind_it() {
    for format in FORMATS {
        let (older, newer) = (Sound::new(1, true, format), Sound::new(2, false, format));
        for at in older.pieces.last().unwrap().range.clone() {
            let mut bytes = older.bytes.clone();
            bytes[at] ^= 1;
            let survey = survey([(newer.id, &newer.bytes), (older.id, &bytes)], |_| false);
            assert_eq!(survey.segments[1].blocks as usize, newer.blocks().len(), "{format:?}, byte {at}");
        }
        // What was allocated and not written is another thing.
        let mut bytes = older.bytes.clone();
        bytes[older.pieces[older.pieces.len() - 2].range.start..].fill(0);
        let survey = survey([(newer.id, &newer.bytes), (older.id, &bytes)], |_| false);
        assert_eq!(survey.segments[1].blocks, 0, "{format:?}");
    }
}

#[test]
fn what_overtook_a_lost_block_is_told_to_its_end() {
    let (older, newer) = (Sound::new(1, true, SegmentFormat::Plain), Sound::new(2, false, SegmentFormat::Plain));
    let (mut lost, mut overtook) = (older.bytes.clone(), newer.bytes.clone());
    lost[older.pieces[4].range.clone()].fill(0);
    overtook[newer.pieces[2].range.clone()].fill(0);
    let survey = survey([(newer.id, &overtook), (older.id, &lost)], |_| false);
    let rests: Vec<survey::Rest> = survey.segments.iter().map(|segment| segment.rest).collect();
    let to = |sound: &Sound| survey::Rest::Unfinished { to: sound.bytes.len() as u64 };
    assert_eq!(rests, [to(&older), to(&newer)], "one gap in each, and the older one takes all of the newer");
    assert_eq!(survey.segments[1].keep, 0);
    assert_eq!(survey.producers.len(), 2, "{:?}", survey.producers);
}

/// Newest first, of a shard with more batches than all of them have blocks.
fn survey<const N: usize>(
    segments: [(SegmentId, &Vec<u8>); N],
    is_known_damage: impl Fn(&Range<u64>) -> bool,
) -> survey::Survey {
    let mut surveyor = survey::Surveyor::new(100);
    for (id, bytes) in segments {
        assert_eq!(surveyor.read(id, bytes, &is_known_damage), None);
    }
    surveyor.finish()
}

/// The first line of a segment, which says how much counts of others.
fn segment_line(id: u64, voids: &[(u64, u64)]) -> Vec<u8> {
    let voids: Vec<String> = voids.iter().map(|(id, len)| format!("[{id},{len}]")).collect();
    let text = format!("{{\"$seg\":{{\"v\":1,\"shard\":{},\"id\":{id},\"void\":[{}]", SHARD.0, voids.join(","));
    format!("{text},\"h\":\"{:08x}\"}}}}\n", crc32(text.as_bytes())).into_bytes()
}

fn without(pieces: &[Piece], left_out: &[&Piece]) -> Vec<Piece> {
    pieces.iter().filter(|piece| !left_out.contains(piece)).cloned().collect()
}

fn overlay(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    if bytes.len() < at + piece.len() {
        bytes.resize(at + piece.len(), 0);
    }
    bytes[at..at + piece.len()].copy_from_slice(piece);
}

/// CRC-32 as in `cksum -a crc32b`, one bit after the other.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

/// Writes one segment: small and padded blocks, of one producer, of several, of plain connections and of all together.
fn write_segment(first: u64, is_ended: bool, format: SegmentFormat) -> (SegmentId, Vec<u8>) {
    let mut maker = Maker::new(first, format);
    let mut at_home = (0..).map(|at| format!("web-{at}/ab3f")).filter(|name| home_shard(name, SHARDS) == SHARD);
    let mut hello = |epoch| maker.hello(&at_home.next().expect("every shard is a home"), epoch);
    let (web, cron) = (hello(4), hello(1));
    let plain = maker.accept();
    maker.flush();

    maker.lines(web, 3, 250);
    maker.flush();
    for _ in 0..3 {
        maker.lines(web, 1, 30);
        maker.lines(plain, 2, 200);
        maker.lines(cron, 2, 30);
    }
    maker.flush();
    maker.lines(cron, 4, 900);
    maker.flush();
    maker.lines(plain, 1, 10);
    maker.flush();
    maker.lines(web, 1, 10);
    maker.lines(cron, 4, 900);
    maker.lines(plain, 1, 50);
    maker.flush();
    maker.lines(web, 1, 10);
    maker.lines(plain, 1, 10);
    maker.lines(cron, 1, 10);
    maker.flush();
    maker.lines(web, 2, 60);
    maker.flush();
    if is_ended {
        maker.shard.handle_drain(maker.now);
        maker.flush();
        assert!(maker.shard.is_drained());
    }
    (SegmentId(first), maker.bytes)
}

/// A driver with a perfect disk.
struct Maker {
    shard: Shard,
    now: Instant,
    bytes: Vec<u8>,
    sent: u64,
}

impl Maker {
    fn new(first: u64, format: SegmentFormat) -> Maker {
        #[allow(clippy::disallowed_methods, reason = "the one moment from which time counts")]
        let now = Instant::now();
        let mut limits = Limits {
            line_len_max: 4096,
            chunk_len_max: 8192,
            batch_len_max: 16 << 10,
            linger: Duration::ZERO,
            paged_len_min: 2000,
            ..Limits::default()
        };
        limits.segment_len = limits.segment_len_min().next_multiple_of(PAGE as u64);
        let config = ShardConfig {
            shard: SHARD,
            shards: SHARDS,
            first_segment: SegmentId(first),
            format,
            ..ShardConfig::alone(limits)
        };
        Maker { shard: Shard::new(config, now).unwrap(), now, bytes: Vec::new(), sent: 0 }
    }

    fn accept(&mut self) -> SessionId {
        self.shard.handle_accepted(self.now).unwrap()
    }

    fn hello(&mut self, producer: &str, epoch: u64) -> SessionId {
        let id = self.accept();
        let hello = format!("{{\"$hello\":{{\"v\":1,\"producer\":\"{producer}\",\"epoch\":{epoch}}}}}\n");
        self.shard.handle_bytes(id, hello.as_bytes(), self.now);
        id
    }

    /// Lines of about that length. They stay in memory until the next flush.
    fn lines(&mut self, id: SessionId, count: u64, len: usize) {
        let mut chunk = String::new();
        for _ in 0..count {
            self.sent += 1;
            // Hard to compress, so that compressed blocks have some length as well.
            let letter =
                |at: usize| char::from(b'0' + (crc32(&[self.sent as u8, at as u8, (at >> 8) as u8]) % 43) as u8);
            let text: String = (0..len).map(letter).map(|letter| if letter == '\\' { '|' } else { letter }).collect();
            chunk += &format!("{{\"level\":\"info\",\"message\":\"{} {text}\"}}\n", self.sent);
        }
        assert!(self.shard.wants(id));
        self.shard.handle_bytes(id, chunk.as_bytes(), self.now);
    }

    /// Does what the shard asks until it is silent.
    fn flush(&mut self) {
        loop {
            self.shard.handle_timeout(self.now);
            let Some(action) = self.shard.poll() else { return };
            match action {
                Action::Open(id) => self.shard.handle_opened(id, Ok(()), self.now),
                Action::Write(block) => {
                    overlay(&mut self.bytes, block.offset() as usize, block.bytes());
                    self.shard.handle_written(block, Ok(()), self.now);
                }
                Action::Sync(id) => self.shard.handle_synced(id, Ok(()), self.now),
                Action::Send(id, buf) => self.shard.handle_sent(id, buf, self.now),
                Action::CloseSegment { .. } | Action::Resume(_) | Action::ResumeDatagrams | Action::Close(_) => {}
                Action::HandOff { .. } => panic!("everybody is at home"),
            }
        }
    }
}

/// How segments are written.
const FORMATS: [SegmentFormat; 2] = [SegmentFormat::Plain, SegmentFormat::Gzip];
/// The shard that writes, of a server of so many.
const SHARD: ShardId = ShardId(3);
const SHARDS: u16 = 4;
