//! Brings a log directory that a crash left behind back to what is true: everything that does not count is cut off,
//! everything that is damaged is copied aside, and what counts says where each producer stands.
//!
//! It adds nothing to a segment and never deletes a byte that could have been acknowledged. It can be killed at any
//! moment and run again: it comes to the same end.

use super::layout::{self, QUARANTINE};
use super::snapshot::{self, Snapshot};
use super::survey::{self, SegmentOnDisk};
use super::{at_path, cut, remove_durably, sync_dir};
use ringest_ingest::survey::{Progress, Rest, advance};
use ringest_ingest::{ProducerState, SegmentId, home_shard};
use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What a server starts from.
#[derive(Debug)]
pub struct Recovery {
    /// One entry per shard, in order.
    pub shards: Vec<ShardRecovery>,
    /// What was found.
    pub counts: Counts,
    /// What somebody should know about, a sentence each.
    pub oddities: Vec<String>,
}

/// What one shard starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardRecovery {
    /// The first segment id that is free.
    pub next_segment: SegmentId,
    /// The producers that are at home here, the least recently used first.
    pub producers: Vec<ProducerState>,
    /// Those that are at home elsewhere, as far as this shard stored them when it spoke for them.
    pub away: Vec<ProducerState>,
}

/// What was found in a log directory, and what became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Segments that a snapshot covers, so that they were not read.
    pub covered: u64,
    /// Segments that were read and hold something.
    pub segments: u64,
    /// Records in them.
    pub rows: u64,
    /// Producers.
    pub producers: u64,
    /// Bytes cut off that were more than zeros.
    pub truncated_bytes: u64,
    /// Damaged ranges, those known from earlier included.
    pub damaged_ranges: u64,
}

/// Recovers the directories of all shards that ever wrote here, for a server of that many shards.
///
/// # Errors
/// Something cannot be read, cut or removed, so that it is not known what the server may promise. A full disk is no
/// such thing.
pub fn recover(log_dir: &Path, shards: u16) -> io::Result<Recovery> {
    let mut recovery = Recovery::empty(shards);
    let mut producers = HashMap::new();
    let dirs = layout::shard_dirs(log_dir).map_err(|err| at_path(err, "cannot read", log_dir))?;
    for path in layout::strangers(log_dir).map_err(|err| at_path(err, "cannot read", log_dir))? {
        recovery.oddities.push(format!(
            "{}: its name is that of a shard's directory, and it is none; it is left out",
            path.display()
        ));
    }
    for (shard, dir) in dirs {
        let next_segment = next_segment(&dir)?;
        if let Some(entry) = recovery.shards.get_mut(usize::from(shard.0)) {
            entry.next_segment = next_segment;
        }
        remove_leftovers(&dir);
        let snapshot =
            snapshot::newest(&dir, &mut recovery.oddities).map_err(|err| at_path(err, "cannot read", &dir))?;
        let covered = snapshot.as_ref().map(|snapshot| snapshot.segment);
        let survey = survey::survey_behind(&dir, covered)?;
        for segment in &survey.segments {
            if let Some(named) = segment.found.shard.filter(|&named| named != shard) {
                let path = segment.path.display();
                recovery.oddities.push(format!("{path}: written by shard {}, not by this one", named.0));
            }
        }
        for (path, what) in &survey.foreign {
            recovery.oddities.push(format!("{}: {what}", path.display()));
        }
        for path in layout::strangers(&dir).map_err(|err| at_path(err, "cannot read", &dir))? {
            recovery.oddities.push(format!(
                "{}: its name is that of a segment or a snapshot, and it is none; it is left out",
                path.display()
            ));
        }
        recovery.settle(&dir, &survey.segments)?;
        recovery.counts.covered += layout::segments(&dir)?.iter().filter(|(id, _)| Some(*id) <= covered).count() as u64;
        let mut stored = survey.producers;
        for (segment, state) in snapshot.into_iter().flat_map(Snapshot::into_states) {
            let ProducerState { producer, epoch, last_seq: upto } = state;
            stored.entry(producer).or_insert(Progress { epoch, upto, last_seen: segment });
        }
        if let Some(entry) = recovery.shards.get_mut(usize::from(shard.0)) {
            let away = stored.iter().filter(|(name, _)| home_shard(name, shards) != shard);
            entry.away = away.map(|(name, progress)| progress.of(name)).collect();
        }
        for (name, progress) in stored {
            advance(&mut producers, name, progress);
        }
    }
    recovery.send_home(producers, shards);
    Ok(recovery)
}

impl ShardRecovery {
    fn empty() -> ShardRecovery {
        ShardRecovery { next_segment: FIRST_SEGMENT, producers: Vec::new(), away: Vec::new() }
    }
}

impl Recovery {
    /// What a server starts from that keeps nothing.
    pub fn empty(shards: u16) -> Recovery {
        Recovery {
            shards: vec![ShardRecovery::empty(); usize::from(shards)],
            counts: Counts::default(),
            oddities: Vec::new(),
        }
    }

    /// Makes the files say what the survey says.
    fn settle(&mut self, dir: &Path, segments: &[SegmentOnDisk]) -> io::Result<()> {
        // First what is damage: a copy remembers that, whatever goes from behind it.
        for segment in segments {
            for range in &segment.found.damage {
                self.counts.damaged_ranges += 1;
                self.set_aside(dir, segment, range.clone(), "damaged, and skipped by every reader");
            }
        }
        // Then what later segments know of earlier ones, because those that know it may have to go.
        for segment in segments.iter().filter(|segment| segment.found.rest == Rest::Void) {
            self.shorten(segment)?;
        }
        // Then from the newest back: once the gap is gone, nothing would tell that what lies behind it must not count.
        let newest = segments.last().map(|segment| segment.found.id);
        for segment in segments.iter().rev() {
            if let Rest::Unfinished { to } = segment.found.rest {
                self.set_aside(
                    dir,
                    segment,
                    segment.found.keep..to,
                    "a write that was cut off, and what had overtaken it; they are cut off",
                );
            }
            let mut is_safe = true;
            if let Rest::Torn { to } = segment.found.rest {
                is_safe = self.set_aside(dir, segment, segment.found.keep..to, TORN);
            }
            if segment.found.len == 0 && Some(segment.found.id) != newest {
                self.oddities.push(format!("{}: empty, though there are later ones; removed", segment.path.display()));
            }
            if segment.found.is_empty() {
                if segment.found.rest != Rest::Void {
                    self.note_cut(segment, segment.found.len);
                }
                // One that ends in zeros was in use, so that what is in it is its first write, which was cut off.
                let is_first_write = matches!(segment.found.rest, Rest::Torn { to } if to < segment.found.len);
                if !is_safe && !is_first_write {
                    continue; // There may be room for a copy at the next start.
                }
                remove_durably(&segment.path).map_err(|err| at_path(err, "cannot remove", &segment.path))?;
                continue;
            }
            self.counts.segments += 1;
            self.counts.rows += segment.found.rows;
            if segment.found.rest != Rest::Void {
                self.shorten(segment)?;
            }
        }
        Ok(())
    }

    fn shorten(&mut self, segment: &SegmentOnDisk) -> io::Result<()> {
        if segment.found.keep < segment.found.len {
            self.note_cut(segment, segment.found.len - segment.found.keep);
            let cut_short = || cut(&OpenOptions::new().write(true).open(&segment.path)?, segment.found.keep);
            return cut_short().map_err(|err| at_path(err, "cannot cut", &segment.path));
        }
        // A recovery that was killed may have cut it and not come to that. What is believed from here on has to stay.
        let synced = File::open(&segment.path).and_then(|file| file.sync_all());
        synced.map_err(|err| at_path(err, "cannot sync", &segment.path))
    }

    fn note_cut(&mut self, segment: &SegmentOnDisk, len: u64) {
        let (path, keep) = (segment.path.display(), segment.found.keep);
        match segment.found.rest {
            Rest::Nothing | Rest::Zeros => {}
            Rest::Void => {
                self.counts.truncated_bytes += len;
                self.oddities.push(format!("{path}: failed at byte {keep}; what followed is in a later segment"));
            }
            // Told when it was set aside.
            Rest::Torn { .. } | Rest::Unfinished { .. } => self.counts.truncated_bytes += len,
        }
    }

    /// Copies a range of a segment to where it disturbs nobody. Where that fails it is told: what is damaged is still
    /// in its segment, and what is behind a cut-off write was promised to nobody, so a full disk stops no server. Whether
    /// there is a copy.
    fn set_aside(&mut self, dir: &Path, segment: &SegmentOnDisk, range: Range<u64>, why: &str) -> bool {
        let (from, to) = (range.start, range.end);
        let name = layout::copy_name(segment.found.id, &range);
        let copied = copy_aside(dir, &segment.path, range, &name);
        let told = match &copied {
            Ok(()) => format!("copied to {QUARANTINE}/{name}"),
            Err(err) => format!("it could not be copied to {QUARANTINE}/{name}: {err}"),
        };
        self.oddities.push(format!("{}: bytes {from} to {to} are {why}; {told}", segment.path.display()));
        copied.is_ok()
    }

    /// Gives each producer to the shard that will speak for it.
    fn send_home(&mut self, producers: HashMap<String, Progress>, shards: u16) {
        self.counts.producers = producers.len() as u64;
        let mut known: Vec<_> = producers.into_iter().collect();
        known.sort_by(|(left, a), (right, b)| (a.last_seen, left).cmp(&(b.last_seen, right)));
        for (producer, progress) in known {
            let home = home_shard(&producer, shards);
            if let Some(shard) = self.shards.get_mut(usize::from(home.0)) {
                shard.producers.push(progress.of(&producer));
            }
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { covered, segments, rows, producers, truncated_bytes, damaged_ranges } = self;
        write!(
            f,
            "{rows} records in {segments} segments of {producers} producers; \
             {truncated_bytes} bytes of unfinished writes cut off, {damaged_ranges} damaged ranges"
        )?;
        match covered {
            0 => Ok(()),
            _ => write!(f, "; {covered} segments covered by a snapshot were not read"),
        }
    }
}

/// The first id above all that were ever seen here, those of copies included.
fn next_segment(dir: &Path) -> io::Result<SegmentId> {
    let named = |err| at_path(err, "cannot read", dir);
    let last = layout::last_id(dir).map_err(named)?.map(|id| id.0);
    let copied = layout::last_copy(dir).map_err(named)?.map(|id| id.0);
    Ok(last.max(copied).map_or(FIRST_SEGMENT, |last| SegmentId(last + 1)))
}

fn copy_aside(dir: &Path, segment: &Path, range: Range<u64>, name: &str) -> io::Result<()> {
    let quarantine = layout::quarantine(dir);
    let path = quarantine.join(name);
    if path.exists() {
        return Ok(()); // It got its name only when it was complete.
    }
    if !quarantine.is_dir() {
        fs::create_dir(&quarantine)?;
        sync_dir(dir)?;
    }
    let unfinished = quarantine.join(format!("{name}{LEFTOVER_SUFFIX}"));
    let copied = copy_range(segment, range, &unfinished).and_then(|()| fs::rename(&unfinished, &path));
    if copied.is_err() {
        let _ = fs::remove_file(&unfinished); // The next recovery tries again, in both respects.
    }
    copied?;
    sync_dir(&quarantine)
}

fn copy_range(from: &Path, range: Range<u64>, to: &Path) -> io::Result<()> {
    let source = File::open(from)?;
    let mut copy = File::create(to)?;
    let mut piece = vec![0; COPY_LEN.min((range.end - range.start) as usize)];
    let mut at = range.start;
    while at < range.end {
        let len = piece.len().min((range.end - at) as usize);
        source.read_exact_at(&mut piece[..len], at)?;
        copy.write_all(&piece[..len])?;
        at += len as u64;
    }
    copy.sync_all()
}

/// Copies that a crash cut off are made again, or not needed any more.
fn remove_leftovers(dir: &Path) {
    let Ok(entries) = fs::read_dir(layout::quarantine(dir)) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.to_str().is_some_and(|path| path.ends_with(LEFTOVER_SUFFIX)) {
            let _ = fs::remove_file(path);
        }
    }
}

/// The first segment of a shard that has none.
const FIRST_SEGMENT: SegmentId = SegmentId(1);
/// What an end without a whole block is. Which of the two it was cannot be told.
const TORN: &str = "no whole block: a write was cut off, or damaged later; they are cut off";
/// Ends the name of a copy that is not complete.
const LEFTOVER_SUFFIX: &str = ".part";
/// Bytes copied at once.
const COPY_LEN: usize = 1 << 20;
