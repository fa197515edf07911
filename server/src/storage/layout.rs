//! Where things are in a log directory: names made and names read. It opens no file.

use ringest_ingest::{SegmentFormat, SegmentId, ShardId};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// `shard-07`.
pub fn shard_dir_name(shard: ShardId) -> String {
    format!("shard-{:02}", shard.0)
}

/// `00000000000000000042.ndjson`, or `00000000000000000042.ndjson.gz` where it is compressed.
pub fn segment_name(id: SegmentId, format: SegmentFormat) -> String {
    format!("{:020}{}", id.0, extension(format))
}

fn extension(format: SegmentFormat) -> &'static str {
    match format {
        SegmentFormat::Plain => ".ndjson",
        SegmentFormat::Gzip => ".ndjson.gz",
    }
}

/// `00000000000000000042.producers`: where producers stood when that segment was closed.
pub fn snapshot_name(id: SegmentId) -> String {
    format!("{:020}.producers", id.0)
}

/// Beside a shard's segments: copies of what was damaged in them, or cut off.
pub fn quarantine(shard_dir: &Path) -> PathBuf {
    shard_dir.join(QUARANTINE)
}

/// `00000000000000000042-4096-8192.bin`: what was in that segment from the first of these bytes up to the last.
pub fn copy_name(id: SegmentId, range: &Range<u64>) -> String {
    format!("{:020}-{}-{}.bin", id.0, range.start, range.end)
}

fn copy_of(path: &Path) -> Option<(SegmentId, Range<u64>)> {
    let name = path.file_name()?.to_str()?;
    let mut numbers = name.strip_suffix(".bin")?.split('-').map(str::parse);
    let (id, from, to) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
    let copy = (SegmentId(id), from..to);
    (name == copy_name(copy.0, &copy.1)).then_some(copy)
}

/// The shard that a directory belongs to, if it is one of a shard.
pub fn shard_of(dir: &Path) -> Option<ShardId> {
    let name = dir.file_name()?.to_str()?;
    let shard = ShardId(name.strip_prefix("shard-")?.parse().ok()?);
    (name == shard_dir_name(shard)).then_some(shard)
}

/// The segment that a file holds, if it is one.
pub fn segment_of(path: &Path) -> Option<SegmentId> {
    let name = path.file_name()?.to_str()?;
    [SegmentFormat::Plain, SegmentFormat::Gzip].into_iter().find_map(|format| {
        let id = SegmentId(name.strip_suffix(extension(format))?.parse().ok()?);
        (name == segment_name(id, format)).then_some(id)
    })
}

/// The segment that a snapshot was taken with, if the file is one.
pub fn snapshot_of(path: &Path) -> Option<SegmentId> {
    let name = path.file_name()?.to_str()?;
    let id = SegmentId(name.strip_suffix(".producers")?.parse().ok()?);
    (name == snapshot_name(id)).then_some(id)
}

/// The shard directories of a log directory, in order.
///
/// # Errors
/// The directory cannot be read.
pub fn shard_dirs(log_dir: &Path) -> io::Result<Vec<(ShardId, PathBuf)>> {
    let mut dirs = list(log_dir, shard_of)?;
    dirs.retain(|(_, path)| path.is_dir());
    Ok(dirs)
}

/// The segments of a shard's directory, oldest first, compressed or not.
///
/// # Errors
/// The directory cannot be read.
pub fn segments(shard_dir: &Path) -> io::Result<Vec<(SegmentId, PathBuf)>> {
    files(shard_dir, segment_of)
}

/// The snapshots in a shard's directory, oldest first.
///
/// # Errors
/// The directory cannot be read.
pub fn snapshots(shard_dir: &Path) -> io::Result<Vec<(SegmentId, PathBuf)>> {
    files(shard_dir, snapshot_of)
}

/// What lies in a shard's quarantine, in no order.
///
/// # Errors
/// There is one, and it cannot be read.
pub fn copies(shard_dir: &Path) -> io::Result<Vec<(SegmentId, Range<u64>)>> {
    in_quarantine(shard_dir, copy_of)
}

/// The last segment of which something lies in a shard's quarantine, whatever somebody has made of the copy.
///
/// # Errors
/// There is one, and it cannot be read.
pub fn last_copy(shard_dir: &Path) -> io::Result<Option<SegmentId>> {
    let id = |path: &Path| Some(SegmentId(path.file_name()?.to_str()?.split_once('-')?.0.parse().ok()?));
    Ok(in_quarantine(shard_dir, id)?.into_iter().max())
}

fn in_quarantine<T>(shard_dir: &Path, read: impl Fn(&Path) -> Option<T>) -> io::Result<Vec<T>> {
    let entries = match fs::read_dir(quarantine(shard_dir)) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        found.extend(read(&entry?.path()));
    }
    Ok(found)
}

/// What has one of these names in a log directory and is no directory, or in a shard's and is no file: pipes, devices,
/// links that lead nowhere. Nothing of it is ever opened, because opening a pipe waits for its writer.
///
/// # Errors
/// The directory cannot be read.
pub fn strangers(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let named =
        list(dir, |path| segment_of(path).or_else(|| snapshot_of(path)).map(|_| ()).filter(|()| !path.is_file()))?;
    let dirs = list(dir, |path| shard_of(path).map(|_| ()).filter(|()| !path.is_dir()))?;
    Ok(named.into_iter().chain(dirs).map(|(_, path)| path).collect())
}

/// The last id that is taken in a shard's directory, by whatever has the name.
///
/// # Errors
/// The directory cannot be read.
pub fn last_id(shard_dir: &Path) -> io::Result<Option<SegmentId>> {
    let taken = list(shard_dir, |path| segment_of(path).or_else(|| snapshot_of(path)))?;
    Ok(taken.last().map(|(id, _)| *id))
}

/// Those that are files, or links to some.
fn files<T: Ord>(dir: &Path, read: impl Fn(&Path) -> Option<T>) -> io::Result<Vec<(T, PathBuf)>> {
    let mut found = list(dir, read)?;
    found.retain(|(_, path)| path.is_file());
    Ok(found)
}

fn list<T: Ord>(dir: &Path, read: impl Fn(&Path) -> Option<T>) -> io::Result<Vec<(T, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if let Some(name) = read(&path) {
            found.push((name, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Where copies lie.
pub const QUARANTINE: &str = "quarantine";
