//! Where the floor writes: files of the server's segment size, preallocated ahead by a thread of their own.

use super::Writing;
use ringest_sys::file;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::thread;

/// A preallocated file that is being filled.
pub(super) struct Segment {
    pub(super) file: File,
    path: PathBuf,
    /// Where the next write goes.
    end: u64,
}

/// Segments, one after the other; one is always made ahead. All are removed at the end.
pub(super) struct Segments {
    ahead: Receiver<io::Result<Segment>>,
    current: Segment,
    /// Kept open and on disk until the window is over: removing them is not the floor's work.
    full: Vec<Segment>,
}

impl Segments {
    pub(super) fn start(dir: &Path, writing: Writing) -> io::Result<Segments> {
        fs::create_dir_all(dir)?;
        let (made, ahead) = mpsc::sync_channel(1);
        let dir = dir.to_owned();
        // Started by a pinned thread, so it is on the same core and in the same bill, as the server's is.
        thread::Builder::new().name("keeper".into()).spawn(move || {
            for number in 0.. {
                let segment = make(&dir.join(format!("{number:020}.ndjson")), writing);
                // Nobody asks for more once the window is over.
                if made.send(segment).is_err() {
                    return;
                }
            }
        })?;
        let current = next(&ahead)?;
        Ok(Segments { ahead, current, full: Vec::new() })
    }

    /// The file that takes the next `len` bytes, and where.
    pub(super) fn place(&mut self, len: usize) -> io::Result<(&File, u64)> {
        if self.current.end + len as u64 > SEGMENT_LEN {
            let full = std::mem::replace(&mut self.current, next(&self.ahead)?);
            self.full.push(full);
        }
        let offset = self.current.end;
        self.current.end += len as u64;
        Ok((&self.current.file, offset))
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // The directory is a scratch one; whoever made it removes what is left.
        let _ = fs::remove_file(&self.path);
    }
}

fn next(ahead: &Receiver<io::Result<Segment>>) -> io::Result<Segment> {
    ahead.recv().map_err(|_| io::Error::other("the thread that makes segments has ended"))?
}

fn make(path: &Path, writing: Writing) -> io::Result<Segment> {
    let at_path = |err: io::Error| io::Error::new(err.kind(), format!("cannot make {}: {err}", path.display()));
    let mut file = File::create(path).map_err(at_path)?;
    file::allocate(&file, SEGMENT_LEN).map_err(at_path)?;
    file.sync_all().map_err(at_path)?;
    if writing == Writing::Direct {
        let direct = file::open_direct(path).map_err(at_path)?;
        file = direct.ok_or_else(|| io::Error::other("this file system cannot bypass the page cache"))?;
    }
    Ok(Segment { file, path: path.to_owned(), end: 0 })
}

/// The server's default.
const SEGMENT_LEN: u64 = 128 << 20;
