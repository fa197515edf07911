//! The file with the tokens that let a session in.

use crate::{notice, small_file};
use ringest_ingest::Tokens;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Reads the tokens: one per line, two at most. Points out a file that others can read.
///
/// # Errors
/// The file cannot be read or is no list of tokens; the message names it, and shows no token.
pub fn read(path: &Path) -> io::Result<Tokens> {
    let explain = |kind, reason: String| io::Error::new(kind, format!("TOKEN_FILE {}: {reason}", path.display()));
    let text = small_file::read_text(path, FILE_LEN_MAX).map_err(|err| explain(err.kind(), err.to_string()))?;
    let tokens = Tokens::parse(&text).map_err(|reason| explain(io::ErrorKind::InvalidData, reason))?;
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & READABLE_BY_OTHERS != 0 {
        notice!("TOKEN_FILE {} can be read by others (mode {:03o}); chmod 600 it", path.display(), mode & 0o777);
    }
    Ok(tokens)
}

const READABLE_BY_OTHERS: u32 = 0o077;
/// Two tokens and their line ends have far less.
const FILE_LEN_MAX: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_tokens_is_read_without_its_line_ends_and_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        fs::write(&path, "one\r\ntwo\n").unwrap();
        assert_eq!(read(&path).unwrap().to_string(), "2 tokens");
        fs::write(&path, "\n").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("tokens: it has no token"), "{error}");
        let error = read(&dir.path().join("absent")).unwrap_err().to_string();
        assert!(error.contains("TOKEN_FILE") && error.contains("absent"), "{error}");
    }
}
