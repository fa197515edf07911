//! One shard's directory on a disk that keeps its promises and nothing beyond them.
//!
//! A write becomes durable by a successful sync that was issued after the write had completed; until then any subset
//! of its sectors may survive a power cut, in any mixture of old and new. A file is there for good once it was opened.
//! What a failed sync did to the file is anybody's guess, and the next one would report success all the same.

use crate::rng::Rng;
use ringest_ingest::ProducerState;
use ringest_wire::AckLevel;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

pub(crate) const SECTOR: usize = 512;

#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) files: BTreeMap<u64, File>,
    /// Where producers stood when that segment was closed.
    pub(crate) snapshot: Option<(u64, Vec<ProducerState>)>,
    /// What was cut while it was in use, in this order: each cut is durable before the next is made.
    cuts: Vec<u64>,
    /// Counts changes of sectors.
    version: u64,
}

#[derive(Debug, Default)]
pub(crate) struct File {
    /// What a reader sees.
    cache: Vec<u8>,
    /// What a power cut leaves.
    durable: Vec<u8>,
    cache_version: Vec<u64>,
    durable_version: Vec<u64>,
    /// What was written, in the order of offsets.
    pub(crate) pieces: Vec<Piece>,
    /// A write or a sync of it failed.
    pub(crate) failed: bool,
    /// What was written and not synced may be gone, even for readers.
    has_holes: bool,
    pub(crate) closed: bool,
    /// Nothing past it counts: cut, or declared void by a later segment.
    pub(crate) counts: u64,
    /// Cut to this length; a power cut may undo it, unless it was synced.
    cut: Option<u64>,
    is_cut_synced: bool,
    /// Damage that was copied aside.
    set_aside: HashSet<Range<u64>>,
}

#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) len: usize,
    pub(crate) state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    Failed,
    Issued,
    Written,
    Durable,
}

/// What a sync that is under way will have made durable.
#[derive(Debug)]
pub(crate) struct Snapshot {
    sectors: Vec<(usize, u64, Vec<u8>)>,
    pieces: Vec<usize>,
}

impl Disk {
    pub(crate) fn create(&mut self, id: u64) {
        let file = File { counts: u64::MAX, ..File::default() };
        assert!(self.files.insert(id, file).is_none(), "a segment is created once: {id}");
    }

    /// Puts bytes where a reader sees them: those sectors of them that `lands` lets through.
    pub(crate) fn apply(&mut self, id: u64, offset: u64, bytes: &[u8], mut lands: impl FnMut() -> bool) {
        let file = self.files.get_mut(&id).expect("a file is written while it is there");
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        file.grow(end);
        let mut at = start;
        while at < end {
            let sector = at / SECTOR;
            let upto = end.min((sector + 1) * SECTOR);
            if lands() {
                file.cache[at..upto].copy_from_slice(&bytes[at - start..upto - start]);
                self.version += 1;
                file.cache_version[sector] = self.version;
            }
            at = upto;
        }
    }

    /// Some sectors reach the disk although nobody asked.
    pub(crate) fn write_back(&mut self, rng: &mut Rng) {
        for file in self.files.values_mut() {
            for sector in file.dirty() {
                if rng.one_in(3) {
                    file.persist(sector);
                }
            }
        }
    }

    /// The power goes and comes back. `survivors` in eight of what was not safe survives.
    pub(crate) fn power_cut(&mut self, rng: &mut Rng, survivors: u64) {
        let mut gone = Vec::new();
        let made = self.made_cuts(rng);
        for (&id, file) in &mut self.files {
            for sector in file.dirty() {
                if rng.below(8) < survivors {
                    file.persist(sector);
                }
            }
            match file.cut {
                _ if file.is_cut_synced => {}
                Some(0) if made.contains(&id) => gone.push(id),
                Some(cut) if made.contains(&id) => file.durable.truncate(cut as usize),
                _ => file.cut = None,
            }
            file.cache.clone_from(&file.durable);
        }
        gone.iter().for_each(|id| drop(self.files.remove(id)));
    }

    /// Which cuts were made before it all ended.
    fn made_cuts(&mut self, rng: &mut Rng) -> Vec<u64> {
        let mut cuts = std::mem::take(&mut self.cuts);
        cuts.truncate(rng.index(cuts.len() + 1));
        cuts
    }

    /// A segment ends at this length.
    pub(crate) fn close(&mut self, id: u64, len: u64) {
        self.cuts.push(id);
        self.files.get_mut(&id).expect("a file is closed while it is there").close(len);
    }

    /// The level at which a process that dies leaves things behind. After a failed sync readers may find holes, and
    /// recovery cannot tell a hole from a write that was cut off, and trusts nothing behind it.
    pub(crate) fn outlives_process(&self) -> AckLevel {
        let has_holes = self.files.values().any(|file| file.has_holes);
        if has_holes { AckLevel::Durable } else { AckLevel::Written }
    }

    /// Whether a segment has failed since the last recovery.
    pub(crate) fn has_failed(&self) -> bool {
        self.files.values().any(|file| file.failed)
    }

    /// The process dies: what readers see stays.
    pub(crate) fn process_death(&mut self, rng: &mut Rng) {
        let made = self.made_cuts(rng);
        self.files.retain(|id, file| {
            file.cut = file.cut.filter(|_| file.is_cut_synced || made.contains(id));
            file.cache = file.contents().to_vec();
            file.cut != Some(0)
        });
    }
}

impl File {
    /// What a reader finds. Behind it are zeros, unless the file was cut.
    pub(crate) fn contents(&self) -> &[u8] {
        let len = self.cut.map_or(self.cache.len(), |cut| self.cache.len().min(cut as usize));
        &self.cache[..len]
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// That damage is copied, for good.
    pub(crate) fn set_aside(&mut self, range: Range<u64>) {
        self.set_aside.insert(range);
    }

    pub(crate) fn is_set_aside(&self, range: &Range<u64>) -> bool {
        self.set_aside.contains(range)
    }

    /// Recovery has decided: these bytes and no more, all of them safe.
    pub(crate) fn settle(&mut self, len: usize) {
        let mut bytes = std::mem::take(&mut self.cache);
        bytes.truncate(len);
        *self = File {
            durable: bytes.clone(),
            cache_version: vec![0; bytes.len().div_ceil(SECTOR)],
            durable_version: vec![0; bytes.len().div_ceil(SECTOR)],
            cache: bytes,
            closed: true,
            counts: len as u64,
            cut: Some(len as u64),
            is_cut_synced: true,
            set_aside: std::mem::take(&mut self.set_aside),
            ..File::default()
        };
    }

    /// Whether it lived and ended without trouble.
    pub(crate) fn is_sound(&self) -> bool {
        let end = self.pieces.last().map_or(0, |piece| piece.offset + piece.len as u64);
        !self.failed && !self.is_cut_synced && end > 0 && end <= self.counts
    }

    fn close(&mut self, len: u64) {
        self.closed = true;
        self.counts = self.counts.min(len);
        self.cut = Some(len);
    }

    /// Registers a write that is to be issued; which piece it is.
    pub(crate) fn issue(&mut self, offset: u64, len: usize) -> usize {
        let end = self.pieces.last().map_or(0, |piece| piece.offset + piece.len as u64);
        assert_eq!(offset, end, "a block begins where the last one ended");
        self.pieces.push(Piece { offset, len, state: State::Issued });
        self.pieces.len() - 1
    }

    pub(crate) fn begin_sync(&self) -> Snapshot {
        let sectors = self.dirty().into_iter();
        let sectors = sectors.map(|sector| (sector, self.cache_version[sector], self.sector(sector).to_vec()));
        let written = |(at, piece): (usize, &Piece)| (piece.state == State::Written).then_some(at);
        Snapshot { sectors: sectors.collect(), pieces: self.pieces.iter().enumerate().filter_map(written).collect() }
    }

    pub(crate) fn end_sync(&mut self, snapshot: Snapshot) {
        for (sector, version, bytes) in snapshot.sectors {
            if self.durable_version[sector] < version {
                let start = sector * SECTOR;
                self.durable[start..start + SECTOR].copy_from_slice(&bytes);
                self.durable_version[sector] = version;
            }
        }
        for piece in snapshot.pieces {
            self.pieces[piece].state = State::Durable;
        }
    }

    /// Some of what was to be made durable is, some of it is lost already, some only when the power goes.
    pub(crate) fn fail_sync(&mut self, rng: &mut Rng) {
        self.has_holes = true;
        for sector in self.dirty() {
            match rng.below(4) {
                0 => self.persist(sector),
                1 => {}
                _ => {
                    let start = sector * SECTOR;
                    let old = self.durable[start..start + SECTOR].to_vec();
                    self.cache[start..start + SECTOR].copy_from_slice(&old);
                }
            }
        }
    }

    /// Whether what lies in that piece is safe in the sense of `level`, whatever happens next.
    pub(crate) fn holds(&self, piece: usize, level: AckLevel) -> bool {
        let need = match level {
            AckLevel::None | AckLevel::Accepted => return true,
            AckLevel::Written => State::Written,
            AckLevel::Durable => State::Durable,
        };
        // Recovery keeps a prefix, so everything before it has to be safe too.
        let upto = &self.pieces[..=piece];
        let end = upto[piece].offset + upto[piece].len as u64;
        end <= self.counts && upto.iter().all(|piece| piece.state >= need)
    }

    /// Whether that piece counts and was written, and its sync is not yet done, or never will be.
    pub(crate) fn is_unsynced(&self, piece: usize) -> bool {
        let piece = &self.pieces[piece];
        piece.state == State::Written && piece.offset + piece.len as u64 <= self.counts
    }

    fn grow(&mut self, len: usize) {
        let sectors = len.div_ceil(SECTOR).max(self.cache_version.len());
        self.cache.resize(sectors * SECTOR, 0);
        self.durable.resize(sectors * SECTOR, 0);
        self.cache_version.resize(sectors, 0);
        self.durable_version.resize(sectors, 0);
    }

    fn dirty(&self) -> Vec<usize> {
        let versions = self.cache_version.iter().zip(&self.durable_version);
        let dirty = versions.enumerate().filter(|(_, (cache, durable))| cache > durable);
        dirty.map(|(sector, _)| sector).collect()
    }

    fn sector(&self, sector: usize) -> &[u8] {
        &self.cache[sector * SECTOR..(sector + 1) * SECTOR]
    }

    fn persist(&mut self, sector: usize) {
        let bytes = self.sector(sector).to_vec();
        self.durable[sector * SECTOR..(sector + 1) * SECTOR].copy_from_slice(&bytes);
        self.durable_version[sector] = self.cache_version[sector];
    }
}
