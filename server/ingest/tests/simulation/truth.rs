//! The obvious, slow account of a world: every line that any client ever made, what was promised of it, and where the
//! disk has it. What the shards say is held against this.

use crate::disk::{Disk, State};
use crate::lines::{self, Style, Verdict};
use crate::recover::{self, Found};
use crate::rng::Rng;
use ringest_ingest::scan::StoredRun;
use ringest_wire::AckLevel;
use std::collections::{BTreeMap, HashMap};

#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) lines: Vec<Line>,
    /// The lines of each producer and epoch, in the order of their numbers, and the number of the first.
    streams: HashMap<(String, u64), Stream>,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) base: u64,
    pub(crate) rids: Vec<usize>,
}

/// A line that some client made. Its index is its name.
#[derive(Debug)]
pub(crate) struct Line {
    /// Without its ending.
    pub(crate) bytes: Vec<u8>,
    pub(crate) verdict: Verdict,
    pub(crate) origin: Origin,
    /// The strongest level at which it was acknowledged.
    pub(crate) promised: Option<AckLevel>,
    /// Its client was told that it was not taken.
    pub(crate) is_refused: bool,
    /// It was promised at a level that does not outlive what has happened since, and the server cannot know that.
    pub(crate) is_forgiven: bool,
    /// Where it was written: directory, segment, piece of it.
    places: Vec<(usize, u64, usize)>,
}

/// What is known of a line at the moment of a crash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before {
    /// A process that dies leaves it behind. Storage that fails after a write can take it back.
    is_kept: bool,
    /// It was let go of once written, because that is all this server promises by itself, and was not synced.
    is_doubtful: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Plain,
    Stream { producer: String, epoch: u64, seq: u64 },
}

impl Truth {
    /// A new line of a plain connection.
    pub(crate) fn plain_line(&mut self, rng: &mut Rng, style: &Style, conn: usize) -> usize {
        self.make(rng, style, Origin::Plain, &format!("c{conn}"))
    }

    /// A new line of a datagram.
    pub(crate) fn datagram_line(&mut self, rng: &mut Rng, style: &Style) -> usize {
        self.make(rng, style, Origin::Plain, "udp")
    }

    /// The line of that number; made now, if it is the next one.
    pub(crate) fn stream_line(&mut self, rng: &mut Rng, style: &Style, producer: &str, epoch: u64, seq: u64) -> usize {
        let stream = &self.streams[&(producer.to_owned(), epoch)];
        if let Some(&rid) = stream.rids.get((seq - stream.base) as usize) {
            return rid;
        }
        assert_eq!(seq, stream.base + stream.rids.len() as u64, "a client makes its lines in order");
        let origin = Origin::Stream { producer: producer.to_owned(), epoch, seq };
        let rid = self.make(rng, style, origin, &format!("{producer}/{epoch}/{seq}"));
        let stream = self.streams.get_mut(&(producer.to_owned(), epoch)).expect("just seen");
        stream.rids.push(rid);
        rid
    }

    fn make(&mut self, rng: &mut Rng, style: &Style, origin: Origin, whose: &str) -> usize {
        let rid = self.lines.len();
        let (bytes, verdict) = lines::make(rng, style, &lines::mark(rid, whose), origin == Origin::Plain);
        self.lines.push(Line {
            bytes,
            verdict,
            origin,
            promised: None,
            is_refused: false,
            is_forgiven: false,
            places: Vec::new(),
        });
        rid
    }

    pub(crate) fn begin_stream(&mut self, producer: &str, epoch: u64, base: u64) {
        let stream = Stream { base, rids: Vec::new() };
        assert!(self.streams.insert((producer.to_owned(), epoch), stream).is_none(), "an epoch begins once");
    }

    pub(crate) fn stream(&self, producer: &str, epoch: u64) -> &Stream {
        &self.streams[&(producer.to_owned(), epoch)]
    }

    /// The line of that number; `None` below the first and beyond the last that its client has made.
    pub(crate) fn rid(&self, producer: &str, epoch: u64, seq: u64) -> Option<usize> {
        let stream = self.stream(producer, epoch);
        stream.rids.get(seq.checked_sub(stream.base)? as usize).copied()
    }

    /// Whether the disk has the line in the sense of `level`, whatever happens next.
    pub(crate) fn holds(&self, rid: usize, level: AckLevel, disks: &[Disk]) -> bool {
        level <= AckLevel::Accepted
            || self.lines[rid].places.iter().any(|&(dir, segment, piece)| {
                disks[dir].files.get(&segment).is_some_and(|file| file.holds(piece, level))
            })
    }

    /// A promise is being made.
    pub(crate) fn promise(&mut self, rid: usize, level: AckLevel, disks: &[Disk], to: &str) {
        assert!(
            self.lines[rid].is_forgiven || self.holds(rid, level, disks),
            "I1: {to} is told that {} is {level}, and it is not: {}",
            self.describe(rid),
            self.whereabouts(rid, disks),
        );
        let line = &mut self.lines[rid];
        assert!(!line.is_refused || line.is_forgiven, "a line is taken or refused, not both: {:?}", line.origin);
        line.promised = line.promised.max(Some(level));
    }

    /// Holds what a block says against the lines it is made of, and notes where they are.
    pub(crate) fn check_block(&mut self, runs: &[StoredRun], records: &[u8], place: (usize, u64, usize)) {
        let mut rest = records;
        for run in runs {
            let mut last_seq = 0;
            for _ in 0..run.rows {
                let len = rest.iter().position(|&byte| byte == b'\n').expect("a run has as many rows as it says");
                let rid = lines::rid_of(&rest[..len]).expect("what is stored was made by a client");
                let line = &mut self.lines[rid];
                assert!(line.bytes == rest[..len], "stored bytes are the sent bytes: {}", shown(&rest[..len]));
                assert_eq!(line.verdict, Verdict::Stored, "only records are stored: {}", shown(&rest[..len]));
                assert!(!line.is_refused, "what was refused is not stored: {}", shown(&rest[..len]));
                match &line.origin {
                    Origin::Plain => assert!(run.producer.is_empty(), "{run:?} holds a plain line"),
                    Origin::Stream { producer, epoch, seq } => {
                        assert!(
                            *producer == run.producer && *epoch == run.epoch && (run.first..=run.upto).contains(seq),
                            "{run:?} holds {producer}/{epoch}/{seq}"
                        );
                        assert!(*seq > last_seq, "records lie in the order of their numbers: {run:?}");
                        last_seq = *seq;
                    }
                }
                line.places.push(place);
                rest = &rest[len + 1..];
            }
            if !run.producer.is_empty() {
                let due = (run.first..=run.upto).filter(|&seq| {
                    let rid = self.rid(&run.producer, run.epoch, seq);
                    let rid = rid.unwrap_or_else(|| panic!("{run:?} covers {seq}, which nobody sent"));
                    self.lines[rid].verdict == Verdict::Stored
                });
                assert_eq!(due.count(), run.rows as usize, "a run holds every record it covers: {run:?}");
            }
        }
        assert!(rest.is_empty(), "every row belongs to a run");
    }

    /// What is known of the lines at the moment of a crash.
    pub(crate) fn before_crash(&self, disks: &[Disk], default: AckLevel) -> Vec<Before> {
        let levels: Vec<AckLevel> = disks.iter().map(Disk::outlives_process).collect();
        let before = |line: &Line| {
            let mut before = Before { is_kept: false, is_doubtful: false };
            for &(dir, segment, piece) in &line.places {
                if let Some(file) = disks[dir].files.get(&segment) {
                    before.is_kept |= file.holds(piece, levels[dir]);
                    before.is_doubtful |= default < AckLevel::Durable && file.is_unsynced(piece);
                }
            }
            before
        };
        self.lines.iter().map(before).collect()
    }

    /// After a crash that spares what is held at `level` or above: holds what was recovered against what was promised,
    /// and starts from it.
    pub(crate) fn check_recovered(
        &mut self,
        blocks: &[Vec<Found>],
        disks: &mut [Disk],
        before: &[Before],
        level: AckLevel,
    ) {
        self.lines.iter_mut().for_each(|line| line.places.clear());
        for (dir, blocks) in blocks.iter().enumerate() {
            for block in blocks {
                let file = disks[dir].files.get_mut(&block.segment).expect("what counts is kept");
                file.pieces.push(crate::disk::Piece { offset: block.offset, len: block.len, state: State::Durable });
                let place = (dir, block.segment, file.pieces.len() - 1);
                self.check_block(&block.runs, &block.records, place);
            }
        }
        self.check_once(blocks);
        let reached = recover::fold(std::iter::empty(), blocks.iter().flatten());
        let reached: BTreeMap<String, (u64, u64)> =
            reached.into_iter().map(|state| (state.producer, (state.epoch, state.last_seq))).collect();
        for (rid, before) in before.iter().enumerate() {
            if self.lines[rid].verdict == Verdict::Stored {
                self.judge_recovered(rid, *before, level, &reached);
            }
        }
    }

    fn judge_recovered(&mut self, rid: usize, before: Before, level: AckLevel, reached: &BTreeMap<String, (u64, u64)>) {
        let line = &self.lines[rid];
        if !line.places.is_empty() {
            return;
        }
        // Whether the server believes to have it, and would take it for a duplicate if it came again.
        let is_passed = match &line.origin {
            Origin::Plain => false,
            Origin::Stream { producer, epoch, seq } => {
                reached.get(producer).is_some_and(|reached| reached.0 == *epoch && reached.1 >= *seq)
            }
        };
        let is_excused = match line.promised {
            Some(promised) => promised < level || (promised < AckLevel::Durable && !before.is_kept),
            None => !is_passed || before.is_doubtful,
        };
        assert!(line.is_forgiven || is_excused, "I1, I3: {} is lost", self.describe(rid));
        let line = &mut self.lines[rid];
        line.is_forgiven |= is_passed;
        line.promised = None; // The crash was what that level does not outlive.
    }

    /// I3: each record lies in one place, and those of a producer in order.
    fn check_once(&self, blocks: &[Vec<Found>]) {
        for rid in 0..self.lines.len() {
            let places = &self.lines[rid].places;
            assert!(places.len() <= 1, "I3: {} is stored more than once: {places:?}", self.describe(rid));
        }
        for blocks in blocks {
            let mut last: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
            for run in blocks.iter().flat_map(|block| &block.runs).filter(|run| !run.producer.is_empty()) {
                let last = last.entry(&run.producer).or_default();
                assert!(*last < (run.epoch, run.first), "I3: runs of a producer are in order: {last:?} before {run:?}");
                *last = (run.epoch, run.upto);
            }
        }
    }

    pub(crate) fn describe(&self, rid: usize) -> String {
        let line = &self.lines[rid];
        let whose = match &line.origin {
            Origin::Plain => "a plain line".to_owned(),
            Origin::Stream { producer, epoch, seq } => format!("{producer}/{epoch}/{seq}"),
        };
        format!("#{rid} ({whose}, {:?}, promised {:?})", line.verdict, line.promised)
    }

    fn whereabouts(&self, rid: usize, disks: &[Disk]) -> String {
        let place = |&(dir, segment, piece): &(usize, u64, usize)| {
            let file = disks[dir].files.get(&segment);
            let seen = file.map(|file| (&file.pieces[piece], file.counts, file.failed));
            format!("shard {dir} segment {segment}: {seen:?}")
        };
        let places: Vec<String> = self.lines[rid].places.iter().map(place).collect();
        if places.is_empty() { "written nowhere".into() } else { places.join("; ") }
    }
}

fn shown(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned()
}
