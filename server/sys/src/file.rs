//! What the standard library lacks for files: space ahead of time, writes past the page cache, one owner per directory.
//!
//! It never chooses between them and never retries.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Reserves disk space for the first `len` bytes and makes the file at least that long; the new bytes read as zeros.
///
/// Fails with `Unsupported` where the filesystem cannot reserve (tmpfs can, NFS before 4.2 cannot): setting the length
/// instead works everywhere, but then a full disk shows at the write.
pub fn allocate(file: &File, len: u64) -> io::Result<()> {
    let len = i64::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    loop {
        // SAFETY: fallocate takes integers only, and the borrowed file keeps the descriptor open.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len) } == 0 {
            return Ok(());
        }
        let err = io::Error::last_os_error();
        match err.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EOPNOTSUPP) => {
                let hint = "this filesystem cannot reserve space ahead of time (fallocate)";
                return Err(io::Error::new(io::ErrorKind::Unsupported, hint));
            }
            _ => return Err(err),
        }
    }
}

/// Opens an existing file for writes that bypass the page cache, or `None` where the filesystem has no such thing.
///
/// Address, offset and length of every write must then be multiples of the logical block size; 4096 always does.
pub fn open_direct(path: &Path) -> io::Result<Option<File>> {
    match OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(err) if err.raw_os_error() == Some(libc::EINVAL) => Ok(None),
        Err(err) => Err(err),
    }
}

/// Takes the file for this process alone: false if somebody else has it. Closing the file lets go, and so does dying.
pub fn lock_exclusive(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(err)) => Err(err),
    }
}

/// Waits until the written bytes, and what is needed to find them, are on the disk.
///
/// After a failure the kernel may have dropped the pages that did not make it: a second call that succeeds proves
/// nothing about them.
pub fn fdatasync(fd: BorrowedFd<'_>) -> io::Result<()> {
    loop {
        // SAFETY: fdatasync takes one integer, and the borrow keeps the descriptor open.
        if unsafe { libc::fdatasync(fd.as_raw_fd()) } == 0 {
            return Ok(());
        }
        let err = io::Error::last_os_error();
        if err.kind() != io::ErrorKind::Interrupted {
            return Err(err);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn allocated_space_is_really_there() {
        let file = tempfile::tempfile().unwrap();
        allocate(&file, 1 << 20).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), 1 << 20);
        assert!(metadata.blocks() * 512 >= 1 << 20, "only {} blocks", metadata.blocks());
        fdatasync(file.as_fd()).unwrap();
    }

    #[test]
    fn what_cannot_be_allocated_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        std::fs::write(&path, b"x").unwrap();
        let read_only = File::open(&path).unwrap();
        assert_eq!(allocate(&read_only, 1).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert_eq!(allocate(&read_only, u64::MAX).unwrap_err().raw_os_error(), Some(libc::EFBIG));
    }

    #[test]
    fn direct_files_refuse_crooked_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        std::fs::write(&path, b"").unwrap();
        // Where the temporary directory has no direct writes there is nothing more to prove.
        if let Some(file) = open_direct(&path).unwrap() {
            use std::os::unix::fs::FileExt;
            let err = file.write_at(b"not a block", 0).unwrap_err();
            assert_eq!(err.raw_os_error(), Some(libc::EINVAL));
        }
        assert_eq!(open_direct(&dir.path().join("missing")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_locked_file_is_refused_to_the_second_until_the_first_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = File::create(&path).unwrap();
        let second = File::open(&path).unwrap();
        assert!(lock_exclusive(&first).unwrap());
        assert!(!lock_exclusive(&second).unwrap());
        drop(first);
        assert!(lock_exclusive(&second).unwrap());
    }

    #[test]
    fn syncing_what_is_not_a_file_fails() {
        let (pipe, _writer) = io::pipe().unwrap();
        assert_eq!(fdatasync(pipe.as_fd()).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
