//! Files that people write: settings, tokens, certificates. They are read whole or not at all, and nobody is waited for.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Reads a file of at most so many bytes.
///
/// Only a regular one: they are read again while the server runs, by the thread that hears its signals. A pipe is empty
/// the second time, or never opens, and the server would go on without its settings, or could not be stopped.
///
/// # Errors
/// What the file system says; that it is no regular file; that it is longer, because half a file means something else.
pub fn read(path: &Path, len_max: u64) -> io::Result<Vec<u8>> {
    let found = fs::metadata(path)?;
    if found.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory, and a file is expected"));
    }
    if !found.is_file() {
        let reason = "it is a pipe or a device, and a regular file is expected, because it is read again on SIGHUP";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(len_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > len_max {
        let reason = format!("it has more than {len_max} bytes, and no part of it is used");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    Ok(bytes)
}

/// The same, of text.
///
/// # Errors
/// Also that it is not UTF-8.
pub fn read_text(path: &Path, len_max: u64) -> io::Result<String> {
    let text = String::from_utf8(read(path, len_max)?);
    text.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_file_is_read_to_its_last_byte_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "12345678").unwrap();
        assert_eq!(read_text(&path, 8).unwrap(), "12345678");
        let reason = read(&path, 7).unwrap_err().to_string();
        assert!(reason.contains("more than 7 bytes"), "{reason}");
        fs::write(&path, [0xff]).unwrap();
        assert!(read_text(&path, 7).unwrap_err().to_string().contains("not UTF-8"));
    }

    #[test]
    fn what_one_would_have_to_wait_for_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [&pipe, Path::new("/dev/zero")] {
            let reason = read(path, 100).unwrap_err().to_string();
            assert!(reason.contains("a regular file is expected"), "{reason}");
        }
        assert!(read(dir.path(), 100).unwrap_err().to_string().contains("a directory"));
        assert_eq!(read(&dir.path().join("absent"), 100).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
