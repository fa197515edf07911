//! Segment files on disk, and nothing else: their names, their creation, their bytes, their end.
//!
//! A [`Store`] is one shard's directory, a [`SegmentFile`] one open segment in it, the [`Keeper`] the thread on which
//! files are created, closed and, once they have had their time, removed, so that no shard ever waits for that.
//! [`DirLock`] keeps a second server out, and [`recover`] brings a directory that a crash left behind back to what is
//! true. It decides nothing about a segment: when one is opened, written, synced and how much of it counts is said by the
//! shard, and by the bytes themselves.

mod ahead;
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
use ahead::Ahead;
use ringest_ingest::{Block, Fault, Parts, SegmentFormat, SegmentId, ShardId};
use ringest_sys::file;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
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
            let buffered = File::open(MEMORY_DIR)?;
            return Ok(SegmentFile { buffered, direct: None, keeps: false, ahead: Ahead::new(0) });
        };
        let path = dir.join(layout::segment_name(id, self.format));
        let buffered = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let made = make_durable(&buffered, &path, dir, len);
        if made.is_err() {
            // What cannot be removed either is empty, and removed by the next recovery.
            let _ = fs::remove_file(&path);
        }
        let Made { direct, ahead } = made?;
        Ok(SegmentFile { buffered, direct, keeps: true, ahead })
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
#[derive(Debug)]
pub struct SegmentFile {
    buffered: File,
    direct: Option<File>,
    /// False where what is written is thrown away.
    keeps: bool,
    ahead: Ahead,
}

impl SegmentFile {
    /// The descriptor for writes past the page cache. `None` where that cannot be had, or nothing is kept.
    pub fn direct(&self) -> Option<&File> {
        self.direct.as_ref()
    }

    /// Whether the whole pages of the block are better written past the page cache: it has some, that can be had, and no
    /// zeros lie there, for which such a write would wait. Otherwise [`write`](Self::write) does it all.
    pub fn goes_past_cache(&self, block: &Block) -> bool {
        let pages = block.parts().pages;
        self.direct.is_some() && !pages.is_empty() && block.offset_of(pages.start) >= self.ahead.upto()
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

    /// Writes what is not whole pages of a block, through the page cache, and behind a small one what spares later ones a
    /// commit of the journal.
    ///
    /// # Errors
    /// What the disk says.
    pub fn write_ends(&self, block: &Block) -> io::Result<()> {
        let Parts { head, pages, tail } = block.parts();
        let end = block.offset_of(tail.end);
        self.write_part(&self.buffered, block, head)?;
        self.write_part(&self.buffered, block, tail)?;
        if pages.is_empty() {
            self.write_ahead(self.ahead.handle_small(end, block.len() as u64));
        } else {
            self.ahead.handle_large();
        }
        Ok(())
    }

    /// Writes the whole pages of a block, past the page cache where that is [better](Self::goes_past_cache).
    ///
    /// # Errors
    /// What the disk says.
    pub fn write_pages(&self, block: &Block) -> io::Result<()> {
        let file = self.direct().filter(|_| self.goes_past_cache(block)).unwrap_or(&self.buffered);
        self.write_part(file, block, block.parts().pages)
    }

    /// Not the records' failure: whatever is wrong with the disk, they find out by themselves.
    fn write_ahead(&self, zeros: Range<u64>) {
        let mut at = zeros.start;
        while at < zeros.end {
            let len = (zeros.end - at).min(ZEROS.len() as u64);
            if self.buffered.write_all_at(&ZEROS[..len as usize], at).is_err() {
                return self.ahead.give_up();
            }
            at += len;
        }
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
    ahead: Ahead,
}

fn make_durable(file: &File, path: &Path, dir: &Path, len: u64) -> io::Result<Made> {
    let is_allocated = allocate(file, len)?;
    file.sync_all()?;
    let direct = file::open_direct(path)?;
    sync_dir(dir)?;
    let gains = is_allocated && file::is_overwritten_in_place(file).unwrap_or(false);
    Ok(Made { direct, ahead: Ahead::new(if gains { len } else { 0 }) })
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

/// A piece of what is written ahead.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
/// Its lock says who writes here; the file itself is empty and stays.
const LOCK_NAME: &str = ".lock";
/// Whoever asks [`is_served`] has the lock for a moment, and must not keep a server from starting.
const LOCK_TRIES: u32 = 5;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// A directory of a filesystem in memory: a sync of it succeeds and costs nothing.
const MEMORY_DIR: &str = "/dev";
