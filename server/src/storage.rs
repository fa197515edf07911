//! Segment files on disk, and nothing else: their names, their creation, their bytes, their end.
//!
//! A [`Store`] is one shard's directory, a [`SegmentFile`] one open segment in it, the [`Keeper`] the thread on which
//! files are created, closed and, once they have had their time, removed, so that no shard ever waits for that. [`DirLock`] keeps a second server out, and
//! [`recover`] brings a directory that a crash left behind back to what is true. It decides nothing about a segment:
//! when one is opened, written, synced and how much of it counts is said by the shard, and by the bytes themselves.

mod keeper;
pub mod layout;
mod recovery;
pub mod retention;
pub mod snapshot;
pub mod survey;

pub use keeper::{Ending, Keeper, KeeperHandle};
pub use recovery::{Counts, Recovery, ShardRecovery, recover};
pub use retention::Retention;

use crate::notice;
use ringest_ingest::{Block, Fault, Parts, SegmentFormat, SegmentId, ShardId};
use ringest_sys::file;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// One shard's directory: where its segments are made.
#[derive(Debug)]
pub struct Store {
    /// `None` where nothing is kept.
    dir: Option<PathBuf>,
    /// How the segments that are made here are written.
    format: SegmentFormat,
    /// A segment could not be closed, so the next start has to look at all of them. Written and read by the keeper.
    must_be_read: AtomicBool,
}

impl Store {
    /// The directory of that shard, made durable if it was not there.
    ///
    /// # Errors
    /// The directory cannot be made or synced; the message names it.
    pub fn open(log_dir: &Path, shard: ShardId, format: SegmentFormat) -> io::Result<Store> {
        let dir = log_dir.join(layout::shard_dir_name(shard));
        create_dir(&dir).map_err(|err| at_path(err, "cannot make the directory", &dir))?;
        Ok(Store { dir: Some(dir), format, must_be_read: AtomicBool::new(false) })
    }

    /// A store that takes everything and keeps nothing.
    pub fn nowhere() -> Store {
        Store { dir: None, format: SegmentFormat::Plain, must_be_read: AtomicBool::new(false) }
    }

    /// Makes the segment: `len` bytes allocated, the file and its name durable. After a failure nothing is left of it.
    ///
    /// # Errors
    /// `StorageFull` or `QuotaExceeded` where there is no room, `AlreadyExists`, or whatever the disk says.
    pub fn create(&self, id: SegmentId, len: u64) -> io::Result<SegmentFile> {
        let Some(dir) = &self.dir else {
            return Ok(SegmentFile::new(File::open(MEMORY_DIR)?, None, None));
        };
        let path = dir.join(layout::segment_name(id, self.format));
        let buffered = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let made = make_durable(&buffered, &path, dir, len);
        if made.is_err() {
            // What cannot be removed either is empty, and removed by the next recovery.
            let _ = fs::remove_file(&path);
        }
        let Made { direct, is_allocated } = made?;
        Ok(SegmentFile::new(buffered, direct, Some(if is_allocated { len } else { 0 })))
    }

    /// Cuts a segment to the bytes that count, and keeps beside it where producers stand. A failure is reported and has
    /// no consequence: the next recovery comes to the same end, by reading what it need not read otherwise. False where
    /// somebody has removed the file meanwhile, and with it what was stored.
    pub fn close(&self, file: &SegmentFile, id: SegmentId, ending: Ending) -> bool {
        let Some(dir) = self.dir.as_ref().filter(|_| file.keeps) else {
            return true;
        };
        let is_lost = ending.len > 0 && file.is_removed();
        let path = dir.join(layout::segment_name(id, self.format));
        let closed = if ending.len == 0 { remove_durably(&path) } else { cut(&file.buffered, ending.len) };
        if is_lost {
            notice!("{} was removed while it was in use: the {} bytes in it are lost", path.display(), ending.len);
        }
        if let Err(err) = closed {
            notice!("{} was not closed cleanly: {err}", path.display());
            self.must_be_read.store(true, Ordering::Relaxed);
        }
        if let Some(producers) = ending.producers
            && !self.must_be_read.load(Ordering::Relaxed)
            && let Err(err) = snapshot::write(dir, id, &producers)
        {
            notice!("no snapshot of producers was kept with {}, so the next start takes longer: {err}", path.display());
        }
        !is_lost
    }
}

/// One open segment.
///
/// Two descriptors of one file: the ends of a block share their pages with its neighbours and go through the page
/// cache; whole pages go past it, where the filesystem can do that.
///
/// Blocks on the disk that were allocated and never written cost each sync of them a commit of the filesystem's journal.
/// So small writes in a row, whose syncs are many, write zeros ahead of themselves, about as many bytes as they are
/// together. Large ones would find these in their way: they are few where small ones are in a row.
#[derive(Debug)]
pub struct SegmentFile {
    buffered: File,
    direct: Option<File>,
    /// False where what is written is thrown away.
    keeps: bool,
    /// Up to here space is allocated.
    allocated: u64,
    /// Up to here small writes have written zeros. Of the thread that writes alone, as is `small_run`.
    ahead: AtomicU64,
    /// Small writes since the last large one.
    small_run: AtomicU64,
}

impl SegmentFile {
    /// `allocated`: bytes of space that it has; `None` where nothing is kept.
    fn new(buffered: File, direct: Option<File>, allocated: Option<u64>) -> SegmentFile {
        SegmentFile {
            buffered,
            direct,
            keeps: allocated.is_some(),
            allocated: allocated.unwrap_or(0),
            ahead: AtomicU64::new(0),
            small_run: AtomicU64::new(0),
        }
    }

    /// The descriptor for writes past the page cache. `None` where that cannot be had, or nothing is kept: then
    /// [`write`](Self::write) does it all.
    pub fn direct(&self) -> Option<&File> {
        self.direct.as_ref()
    }

    /// Nobody will find it again: somebody has removed it from its directory.
    fn is_removed(&self) -> bool {
        self.buffered.metadata().is_ok_and(|found| found.nlink() == 0)
    }

    /// Writes all of a block.
    ///
    /// # Errors
    /// What the disk says; [`fault`] gives it a meaning.
    pub fn write(&self, block: &Block) -> io::Result<()> {
        self.write_ends(block)?;
        self.write_pages(block)
    }

    /// After a small write that ends there, of so many bytes.
    fn write_ahead(&self, end: u64, len: usize) -> io::Result<()> {
        let run = self.small_run.load(Ordering::Relaxed) + 1;
        self.small_run.store(run, Ordering::Relaxed);
        if run < RUN_MIN || end <= self.ahead.load(Ordering::Relaxed) {
            return Ok(());
        }
        let upto = (end + (run * len as u64).min(AHEAD_MAX)).min(self.allocated);
        self.ahead.store(upto, Ordering::Relaxed);
        let mut at = end;
        while at < upto {
            let len = (upto - at).min(ZEROS.len() as u64);
            self.buffered.write_all_at(&ZEROS[..len as usize], at)?;
            at += len;
        }
        Ok(())
    }

    /// Writes what is not whole pages of a block, through the page cache.
    ///
    /// # Errors
    /// What the disk says.
    pub fn write_ends(&self, block: &Block) -> io::Result<()> {
        let Parts { head, pages, tail } = block.parts();
        let end = block.offset_of(tail.end);
        self.write_part(&self.buffered, block, head)?;
        self.write_part(&self.buffered, block, tail)?;
        if !pages.is_empty() {
            self.small_run.store(0, Ordering::Relaxed);
            return Ok(());
        }
        self.write_ahead(end, block.len())
    }

    /// Writes the whole pages of a block, past the page cache where that is possible.
    ///
    /// # Errors
    /// What the disk says.
    pub fn write_pages(&self, block: &Block) -> io::Result<()> {
        let file = self.direct.as_ref().unwrap_or(&self.buffered);
        self.write_part(file, block, block.parts().pages)
    }

    /// Writes one part of a block at its place in the file.
    fn write_part(&self, file: &File, block: &Block, part: Range<usize>) -> io::Result<()> {
        if part.is_empty() || !self.keeps {
            return Ok(());
        }
        let first = block.parts().head.start; // Where `bytes` begins in the buffer that the parts index.
        let bytes = &block.bytes()[part.start - first..part.end - first];
        file.write_all_at(bytes, block.offset_of(part.start))
    }

    /// Waits until everything that was written is durable.
    ///
    /// # Errors
    /// What the disk says. The segment must not be synced again after that.
    pub fn sync(&self) -> io::Result<()> {
        file::fdatasync(self.as_fd())
    }
}

/// The descriptor to sync. Where nothing is kept, a sync of it succeeds.
impl AsFd for SegmentFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.buffered.as_fd()
    }
}

/// What a failure of the disk means to a shard.
pub fn fault(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Fault::Full,
        _ => Fault::Broken,
    }
}

/// Whether a server writes in this log directory now.
pub fn is_served(log_dir: &Path) -> bool {
    // Asks for a share of the lock, and gives it back with the file.
    [log_dir, &log_dir.join(LOCK_NAME)]
        .into_iter()
        .any(|path| File::open(path).is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))))
}

/// The right to write in a log directory, held by one process at a time; dying lets go of it.
///
/// Two locks: somebody may take the file for a leftover and remove it, and some file systems lock no directories.
#[derive(Debug)]
pub struct DirLock {
    _dir: File,
    _file: File,
}

impl DirLock {
    /// Takes the directory, making it if it is not there. Somebody else who has it is waited for, for so long.
    ///
    /// # Errors
    /// A message that names the directory, and says whether somebody else has it.
    pub fn take(log_dir: &Path, wait: Duration) -> io::Result<DirLock> {
        create_dir(log_dir).map_err(|err| at_path(err, "cannot make the log directory", log_dir))?;
        let path = log_dir.join(LOCK_NAME);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|err| at_path(err, "cannot write in the log directory: cannot open", &path))?;
        let dir = File::open(log_dir).map_err(|err| at_path(err, "cannot read the log directory", log_dir))?;
        let began_at = Instant::now();
        for tries in 1.. {
            let is_free = file::lock_exclusive(&dir).unwrap_or(true);
            if is_free && file::lock_exclusive(&lock).map_err(|err| at_path(err, "cannot lock", &path))? {
                return Ok(DirLock { _dir: dir, _file: lock });
            }
            if tries >= LOCK_TRIES && began_at.elapsed() >= wait {
                break;
            }
            if tries == LOCK_TRIES {
                notice!("another server writes in {}; waiting up to {wait:?} for its end", log_dir.display());
            }
            thread::sleep(LOCK_PAUSE);
        }
        let message = format!(
            "another server already writes in {}; stop it, or give this one another LOG_DIR",
            log_dir.display()
        );
        Err(io::Error::new(io::ErrorKind::ResourceBusy, message))
    }
}

/// What makes a file a segment.
struct Made {
    direct: Option<File>,
    is_allocated: bool,
}

fn make_durable(file: &File, path: &Path, dir: &Path, len: u64) -> io::Result<Made> {
    let is_allocated = allocate(file, len)?;
    file.sync_all()?;
    let direct = file::open_direct(path)?;
    sync_dir(dir)?;
    Ok(Made { direct, is_allocated })
}

/// False where it is as long as that now, and has no space.
fn allocate(file: &File, len: u64) -> io::Result<bool> {
    static SAID: Once = Once::new();
    match file::allocate(file, len) {
        Err(err) if err.kind() == io::ErrorKind::Unsupported => {
            SAID.call_once(|| notice!("{err}: a full disk will show while a block is written"));
            file.set_len(len)?;
            Ok(false)
        }
        done => done.map(|()| true),
    }
}

/// Cuts a file, durably, unless it is as short already.
fn cut(file: &File, len: u64) -> io::Result<()> {
    if file.metadata()?.len() > len {
        file.set_len(len)?;
        file.sync_all()?;
    }
    Ok(())
}

fn remove_durably(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Makes a directory and all above it that are missing, durably.
fn create_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_dir(parent)?;
    }
    match fs::create_dir(dir) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => return Err(err),
        Err(_) if !dir.is_dir() => {
            let reason = "something else has that name; move it away";
            return Err(io::Error::new(io::ErrorKind::NotADirectory, reason));
        }
        Ok(()) | Err(_) => {}
    }
    sync_dir(parent.unwrap_or(Path::new(".")))
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn at_path(err: io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(err.kind(), format!("{what} {}: {err}", path.display()))
}

/// Fewer small writes than these, one behind the other, may be on their way to larger ones.
const RUN_MIN: u64 = 8;
/// Zeros that small writes have before them, at most: 1 commit in some hundred syncs, and no write that shows.
const AHEAD_MAX: u64 = 256 << 10;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
/// Its lock says who writes here; the file itself is empty and stays.
const LOCK_NAME: &str = ".lock";
/// Whoever asks [`is_served`] has the lock for a moment, and must not keep a server from starting.
const LOCK_TRIES: u32 = 5;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// A directory of a filesystem in memory: a sync of it succeeds and costs nothing.
const MEMORY_DIR: &str = "/dev";
