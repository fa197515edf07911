//! A file that a run writes, or standard output: opened before the run, so that what cannot be written is known before a
//! line is sent.
//!
//! What was there before stays until there is something to put in its place, and where a run ends before that, no empty
//! file is left behind.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Where a run's bytes go.
#[derive(Debug)]
pub struct Output {
    place: Place,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// What was there before is still there.
    Untouched,
    /// So many bytes were written.
    Written(u64),
    /// Something could not be written, and what was written before is left as it is.
    Failed,
}

#[derive(Debug)]
enum Place {
    Stdout,
    File { file: File, path: PathBuf, is_new: bool },
}

/// Whether a path means standard output.
pub fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

impl Output {
    /// Opens it; `-` is standard output.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn open(path: &Path) -> Result<Output, String> {
        let place = if is_stdout(path) { Place::Stdout } else { open_file(path)? };
        Ok(Output { place, state: State::Untouched })
    }

    /// Writes more. The first time takes the place of what was there. What cannot be written as a whole is not written, so
    /// that lines stay whole, and neither is what comes after it.
    ///
    /// # Errors
    /// A sentence that names the file, once.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), String> {
        let before = match self.state {
            State::Untouched => None,
            State::Written(len) => Some(len),
            State::Failed => return Ok(()),
        };
        let outcome = match &mut self.place {
            Place::Stdout => {
                let mut stdout = io::stdout().lock();
                let outcome = stdout.write_all(bytes).and_then(|()| stdout.flush());
                outcome.map_err(|error| format!("cannot write to standard output: {error}"))
            }
            Place::File { file, path, .. } => {
                put(file, bytes, before).map_err(|error| format!("cannot write {}: {error}", path.display()))
            }
        };
        self.state =
            if outcome.is_ok() { State::Written(before.unwrap_or(0) + bytes.len() as u64) } else { State::Failed };
        outcome
    }
}

/// Writes `bytes` behind the `before` that were written already; none where what is there is to go.
fn put(file: &mut File, bytes: &[u8], before: Option<u64>) -> io::Result<()> {
    // Pipes and devices have no length.
    let is_regular = file.metadata()?.is_file();
    if before.is_none() && is_regular {
        file.set_len(0)?;
    }
    let outcome = file.write_all(bytes);
    if outcome.is_err() && is_regular {
        // The error that is told is the first.
        let _ = file.set_len(before.unwrap_or(0));
    }
    outcome
}

impl Drop for Output {
    fn drop(&mut self) {
        if let (Place::File { path, is_new: true, .. }, State::Untouched) = (&self.place, self.state) {
            // An empty file that stays is no harm.
            let _ = fs::remove_file(path);
        }
    }
}

fn open_file(path: &Path) -> Result<Place, String> {
    let open = |is_new| -> io::Result<Place> {
        let file = OpenOptions::new().write(true).create_new(is_new).open(path)?;
        Ok(Place::File { file, path: path.into(), is_new })
    };
    match open(true) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open(false),
        opened => opened,
    }
    .map_err(|error| format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_stays_until_something_takes_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("old");
        fs::write(&path, "an older and longer report").unwrap();
        drop(Output::open(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "an older and longer report");
        let mut output = Output::open(&path).unwrap();
        output.append(b"new").unwrap();
        output.append(b"er").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "newer");
    }

    #[test]
    fn a_run_that_does_not_begin_leaves_no_empty_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new");
        drop(Output::open(&path).unwrap());
        assert!(!path.exists());
        Output::open(&path).unwrap().append(b"").unwrap();
        assert!(path.exists(), "written, if with nothing");
    }

    #[test]
    fn a_failure_is_told_once_and_ends_the_file_with_what_was_whole() {
        let mut output = Output::open(Path::new("/dev/full")).unwrap();
        assert!(output.append(b"x").unwrap_err().contains("cannot write /dev/full"));
        assert_eq!(output.append(b"x"), Ok(()));
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named_when_it_is_opened() {
        let directory = tempfile::tempdir().unwrap();
        for path in [directory.path().to_owned(), directory.path().join("no/such/place")] {
            let error = Output::open(&path).unwrap_err();
            assert!(error.starts_with(&format!("cannot write {}: ", path.display())), "{error}");
        }
        Output::open(Path::new("/dev/null")).unwrap().append(b"gone").unwrap();
    }
}
