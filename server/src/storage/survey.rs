//! Reads a shard's directory for a [`Surveyor`], which says what of it is to be believed.

use super::{at_path, layout};
use ringest_ingest::survey::{Foreign, Progress, Segment, Surveyor, survey_alone};
use ringest_ingest::{Limits, SegmentId};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A shard's directory.
#[derive(Debug, Default)]
pub struct Survey {
    /// Its segments, oldest first.
    pub segments: Vec<SegmentOnDisk>,
    /// How far each producer's stream is stored here, by name.
    pub producers: HashMap<String, Progress>,
    /// Files that are named like segments and that no server wrote. Nothing is known of what they hold.
    pub foreign: Vec<(PathBuf, Foreign)>,
}

/// One segment, and where it lies.
#[derive(Debug)]
pub struct SegmentOnDisk {
    /// Its file.
    pub path: PathBuf,
    /// What of it is to be believed.
    pub found: Segment,
}

/// Reads all segments of a shard's directory.
///
/// # Errors
/// A file or the directory cannot be read, or a file is larger than any segment; the message names it.
pub fn survey(shard_dir: &Path) -> io::Result<Survey> {
    survey_behind(shard_dir, None)
}

/// Reads the segments behind that one. Those up to it were whole when the snapshot with it was taken, so what lies
/// behind them says nothing of them.
///
/// # Errors
/// As [`survey`].
pub fn survey_behind(shard_dir: &Path, covered: Option<SegmentId>) -> io::Result<Survey> {
    let mut surveyor = Surveyor::new(Limits::default().batches);
    let (mut paths, mut foreign) = (Vec::new(), Vec::new());
    let copies: HashSet<_> = layout::copies(shard_dir)
        .map_err(|err| at_path(err, "cannot read", &layout::quarantine(shard_dir)))?
        .into_iter()
        .collect();
    let mut bytes = Vec::new();
    for (id, path) in layout::segments(shard_dir)?.into_iter().rev() {
        if covered.is_some_and(|covered| id <= covered) {
            break;
        }
        match read_segment(&path, &mut bytes) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue, // A running server had no use for it.
            read => read?,
        };
        match surveyor.read(id, &bytes, |range| copies.contains(&(id, range.clone()))) {
            Some(what) => foreign.push((path, what)),
            None => paths.push(path),
        }
    }
    let found = surveyor.finish();
    let segments =
        paths.into_iter().rev().zip(found.segments).map(|(path, found)| SegmentOnDisk { path, found }).collect();
    Ok(Survey { segments, producers: found.producers, foreign })
}

/// Reads one segment by itself. What other segments say of it is not known.
///
/// # Errors
/// As [`survey`].
pub fn survey_file(id: SegmentId, path: PathBuf) -> io::Result<SegmentOnDisk> {
    let mut bytes = Vec::new();
    read_segment(&path, &mut bytes)?;
    Ok(SegmentOnDisk { path, found: survey_alone(id, &bytes) })
}

/// Reads a segment file into `bytes`; its length.
///
/// # Errors
/// It cannot be read, or is larger than any segment; the message names it.
pub fn read_segment(path: &Path, bytes: &mut Vec<u8>) -> io::Result<u64> {
    let named = |err: io::Error| io::Error::new(err.kind(), format!("cannot read {}: {err}", path.display()));
    bytes.clear();
    let mut file = File::open(path).map_err(named)?;
    let len = file.metadata().map_err(named)?.len();
    if len > SEGMENT_FILE_LEN_MAX {
        let reason = format!("{len} bytes are more than a segment has; move the file out of this directory");
        return Err(named(io::Error::new(io::ErrorKind::FileTooLarge, reason)));
    }
    bytes.reserve_exact(len as usize);
    let read = file.read_to_end(bytes).map_err(named)?;
    Ok(read as u64)
}

/// Far more than a segment is given.
const SEGMENT_FILE_LEN_MAX: u64 = 4 << 30;
