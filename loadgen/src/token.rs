//! The token that lets a session in: read from a file, shown to servers, and never printed.

use std::fmt;
use std::fs;
use std::path::Path;

/// What lets a session in. It is shown to servers alone.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// The first line of a file.
    ///
    /// # Errors
    /// The file cannot be read, or its first line is empty.
    pub fn read(path: &Path) -> Result<Token, String> {
        let text = fs::read_to_string(path).map_err(|err| format!("--token-file {}: {err}", path.display()))?;
        match text.lines().next().map(str::trim) {
            Some(token) if !token.is_empty() => Ok(Token(token.to_owned())),
            _ => Err(format!("--token-file {}: its first line is empty; write the token there", path.display())),
        }
    }

    pub(crate) fn show(&self) -> String {
        self.0.clone()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a token)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_first_line_of_its_file_and_is_not_printed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "secret\r\nold\n").unwrap();
        let token = Token::read(&path).unwrap();
        assert_eq!(token.show(), "secret");
        assert!(!format!("{token:?}").contains("secret"));
        fs::write(&path, "\n").unwrap();
        assert!(Token::read(&path).unwrap_err().contains("is empty"));
        assert!(Token::read(&dir.path().join("absent")).unwrap_err().contains("absent"));
    }
}
