//! What the standard library lacks for files: space ahead of time, writes past the page cache, one owner per directory,
//! a file that is replaced whole.
//!
//! It never chooses between them and never retries.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;

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

/// Whether this is a filesystem with a journal that writes again where it wrote before: ext4 or XFS. One that copies on
/// write needs new space for that.
pub fn is_overwritten_in_place(file: &File) -> io::Result<bool> {
    let mut found = MaybeUninit::<libc::statfs>::uninit();
    loop {
        // SAFETY: the borrowed file keeps the descriptor open, and there is room for the one structure that is written.
        if unsafe { libc::fstatfs(file.as_raw_fd(), found.as_mut_ptr()) } == 0 {
            // SAFETY: fstatfs has succeeded, so it has filled the structure.
            let kind = unsafe { found.assume_init() }.f_type;
            return Ok([libc::EXT4_SUPER_MAGIC, libc::XFS_SUPER_MAGIC].contains(&kind));
        }
        let err = io::Error::last_os_error();
        if err.kind() != io::ErrorKind::Interrupted {
            return Err(err);
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

/// Makes a file of these bytes, in the place of another or of none: who opens it finds all of the old or all of the new.
///
/// Fails as [`check_replaceable`] does, and leaves nothing behind then. Nothing is made durable.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    check_replaceable(path)?;
    let (mut file, beside) = create_beside(path)?;
    let replaced = file.write_all(bytes).and_then(|()| fs::rename(&beside, path));
    if replaced.is_err() {
        let _ = fs::remove_file(&beside); // The error that is told is the first.
    }
    replaced
}

/// Fails with `InvalidInput` where a path names something that [`replace`] must not put a file in the place of: a device,
/// a pipe, a directory, a symbolic link.
pub fn check_replaceable(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(there) if !there.is_file() => {
            let reason = "what is there is no regular file and is not replaced; name another place";
            Err(io::Error::new(io::ErrorKind::InvalidInput, reason))
        }
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A new file in the same directory, under a name that nobody has.
fn create_beside(path: &Path) -> io::Result<(File, PathBuf)> {
    // The number is the same at each start in a container, so that a crash may have left one behind.
    let mut attempts = 0;
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}-{attempts}.part", process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&name) {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists && attempts < BESIDE_MAX => attempts += 1,
            made => return Ok((made?, name.into())),
        }
    }
}

/// Names tried for a new file.
const BESIDE_MAX: u32 = 100;

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
    fn memory_and_the_kernels_own_files_are_no_disk_that_is_overwritten_in_place() {
        for path in ["/proc/self/stat", "/dev/null", "/dev/shm"] {
            assert!(!is_overwritten_in_place(&File::open(path).unwrap()).unwrap(), "{path}");
        }
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
    fn a_file_is_replaced_and_anything_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        // What others have left under a name of ours stays theirs.
        let foreign = dir.path().join(format!("ledger.{}-0.part", process::id()));
        fs::write(&foreign, "theirs").unwrap();
        for text in ["first", "second"] {
            replace(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let (link, socket, inner) = (dir.path().join("link"), dir.path().join("socket"), dir.path().join("inner"));
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        fs::create_dir(&inner).unwrap();
        for place in [&link, &socket, &inner, &PathBuf::from("/dev/null")] {
            let kind = fs::symlink_metadata(place).unwrap().file_type();
            assert_eq!(check_replaceable(place).unwrap_err().kind(), io::ErrorKind::InvalidInput);
            assert_eq!(fs::symlink_metadata(place).unwrap().file_type(), kind);
        }
        for place in [&link, &socket, &inner] {
            assert_eq!(replace(place, b"third").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
        assert_eq!(fs::read_to_string(&foreign).unwrap(), "theirs");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5, "nothing is left behind");
        assert_eq!(replace(&dir.path().join("no/ledger"), b"x").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn syncing_what_is_not_a_file_fails() {
        let (pipe, _writer) = io::pipe().unwrap();
        assert_eq!(fdatasync(pipe.as_fd()).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
