//! Where the floor writes: two files of the server's segment size, filled in turn, over and over.
//!
//! They are reused because what is to be measured is the write, and the cheapest there is: the first write to a new file
//! pays for memory and for blocks as well, on some virtual machines ten times as much as for the copy.

use super::Writing;
use ringest_sys::file;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Written and synced once, before anything is measured.
struct Segment {
    file: File,
    path: PathBuf,
}

/// The segments. They are removed at the end.
pub(super) struct Segments {
    segments: [Segment; 2],
    current: usize,
    /// Where the next write goes.
    end: u64,
}

impl Segments {
    pub(super) fn make(dir: &Path, writing: Writing) -> io::Result<Segments> {
        fs::create_dir_all(dir)?;
        Ok(Segments { segments: [make(dir, 0, writing)?, make(dir, 1, writing)?], current: 0, end: 0 })
    }

    /// The file that takes the next `len` bytes, and where.
    pub(super) fn place(&mut self, len: usize) -> (&File, u64) {
        if self.end + len as u64 > SEGMENT_LEN {
            self.current = 1 - self.current;
            self.end = 0;
        }
        let offset = self.end;
        self.end += len as u64;
        (&self.segments[self.current].file, offset)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // The directory is a scratch one; whoever made it removes what is left.
        let _ = fs::remove_file(&self.path);
    }
}

fn make(dir: &Path, number: u32, writing: Writing) -> io::Result<Segment> {
    let path = dir.join(format!("{number:020}.ndjson"));
    let at_path = |err: io::Error| io::Error::new(err.kind(), format!("cannot make {}: {err}", path.display()));
    let mut file = File::create(&path).map_err(at_path)?;
    file::allocate(&file, SEGMENT_LEN).map_err(at_path)?;
    let zeros = vec![0; 1 << 20];
    (0..SEGMENT_LEN / zeros.len() as u64).try_for_each(|_| file.write_all(&zeros)).map_err(at_path)?;
    file.sync_all().map_err(at_path)?;
    if writing == Writing::Direct {
        let direct = file::open_direct(&path).map_err(at_path)?;
        file = direct.ok_or_else(|| io::Error::other("this file system cannot bypass the page cache"))?;
    }
    Ok(Segment { file, path })
}

/// The server's default.
const SEGMENT_LEN: u64 = 128 << 20;
