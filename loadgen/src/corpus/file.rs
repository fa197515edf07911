//! A user's own lines: NDJSON from a file, each made provable by a stamp as its first member.
//!
//! A line that the server would refuse is refused here, before the run, by its number: what a run measures is then not
//! what its author thinks.

use super::stamp::{BLANK, HEAD};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// The lines of a file, stamped with zeros, each with its newline.
///
/// # Errors
/// Sentences that name the file and the lines that are refused.
pub(super) fn read(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let cannot_read = |error| format!("--corpus {}: cannot be read: {error}", path.display());
    let file = File::open(path).map_err(cannot_read)?;
    // One byte more than is allowed, so that the limit is seen to be passed whatever the file says of its length.
    let mut reader = BufReader::new(file.take(FILE_LEN_MAX + 1));
    let (mut lines, mut refused, mut refusals, mut len) = (Vec::new(), Vec::new(), 0, 0);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).map_err(cannot_read)? as u64;
        len += read;
        if read == 0 {
            break;
        }
        if len > FILE_LEN_MAX {
            return Err(format!(
                "--corpus {}: more than {} MiB; take a part of it, every worker keeps two copies",
                path.display(),
                FILE_LEN_MAX >> 20
            ));
        }
        match stamped(line.trim_ascii()) {
            Ok(Some(line)) => lines.push(line),
            Ok(None) => {}
            Err(why) => {
                refusals += 1;
                if refused.len() < REFUSALS_SHOWN {
                    refused.push(format!("line {number}: {why}"));
                }
            }
        }
    }
    if refusals > 0 {
        let more =
            if refusals > refused.len() { format!("; and {} more", refusals - refused.len()) } else { String::new() };
        return Err(format!("--corpus {}: {}{more}", path.display(), refused.join("; ")));
    }
    if lines.is_empty() {
        return Err(format!("--corpus {}: not a single line", path.display()));
    }
    Ok(lines)
}

/// A line with its stamp; none where it is blank.
fn stamped(line: &[u8]) -> Result<Option<Vec<u8>>, String> {
    if line.is_empty() {
        return Ok(None);
    }
    let stamped_len = line.len() + HEAD.len() + BLANK.len() + 2;
    if stamped_len > LINE_LEN_MAX {
        return Err(format!("{stamped_len} bytes with its stamp, of at most {LINE_LEN_MAX}"));
    }
    let value: Value = serde_json::from_slice(line).map_err(|error| format!("no JSON: {error}"))?;
    let Value::Object(members) = &value else { return Err("no JSON object".into()) };
    match (members.get("level"), members.get("message")) {
        (Some(Value::String(_)), Some(_)) => {}
        (Some(_), Some(_)) => return Err("its level is no string".into()),
        _ => return Err("it has no level or no message, and a server takes nothing without them".into()),
    }
    let rest = line.strip_prefix(b"{").expect("an object begins with a brace").trim_ascii_start();
    Ok(Some([HEAD, BLANK, b"\",", rest, b"\n"].concat()))
}

const FILE_LEN_MAX: u64 = 32 << 20;
/// Half of what a server takes by default.
const LINE_LEN_MAX: usize = 128 << 10;
const REFUSALS_SHOWN: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("own.ndjson");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn lines_get_their_stamp_as_first_member_and_keep_everything_else() {
        let lines = of(
            b"{ \"level\":\"info\", \"message\":{\"a\":[1,2]} }\r\n\n  {\"message\":1,\"id\":\"own\",\"level\":\"\"}",
        )
        .unwrap();
        let text = |at: usize| std::str::from_utf8(&lines[at]).unwrap();
        assert_eq!(lines.len(), 2);
        let zeros = "00000000-000-000000-000000000000-00000000";
        assert_eq!(text(0), format!("{{\"id\":\"{zeros}\",\"level\":\"info\", \"message\":{{\"a\":[1,2]}} }}\n"));
        assert_eq!(text(1), format!("{{\"id\":\"{zeros}\",\"message\":1,\"id\":\"own\",\"level\":\"\"}}\n"));
    }

    #[test]
    fn refused_lines_are_named_by_their_number_and_not_all_of_them() {
        let good = "{\"level\":\"info\",\"message\":\"\"}\n";
        for (bad, why) in [
            ("{\"level\":\"info\"}", "line 2: it has no level or no message"),
            ("{\"level\":1,\"message\":1}", "line 2: its level is no string"),
            ("[1]", "line 2: no JSON object"),
            ("{\"level\":", "line 2: no JSON: "),
            ("\u{0}", "line 2: no JSON: "),
        ] {
            let error = of(format!("{good}{bad}\n{good}").as_bytes()).unwrap_err();
            assert!(error.contains(why) && error.contains("own.ndjson"), "{error}");
        }
        assert!(of(b"{\"level\":\"\xff\",\"message\":1}").unwrap_err().contains("line 1: no JSON"), "not UTF-8");
        let error = of("x\n".repeat(12).as_bytes()).unwrap_err();
        assert!(error.contains("line 5:") && !error.contains("line 6:") && error.ends_with("and 7 more"), "{error}");
        assert!(of(b"\n \n").unwrap_err().contains("not a single line"));
        assert!(read(Path::new("/no/such/file")).unwrap_err().contains("/no/such/file: cannot be read"));
    }

    #[test]
    fn a_line_and_a_file_may_be_so_long_and_not_a_byte_longer() {
        let line = |len: usize| {
            let frame = "{\"level\":\"i\",\"message\":\"\"}".len() + HEAD.len() + BLANK.len() + 2;
            format!("{{\"level\":\"i\",\"message\":\"{}\"}}\n", "x".repeat(len - frame))
        };
        assert_eq!(of(line(LINE_LEN_MAX).as_bytes()).unwrap()[0].len(), LINE_LEN_MAX);
        let error = of(line(LINE_LEN_MAX + 1).as_bytes()).unwrap_err();
        assert!(error.contains("line 1: 131073 bytes with its stamp, of at most 131072"), "{error}");

        let mut text = line(1 << 16).repeat((FILE_LEN_MAX >> 16) as usize);
        text.push_str(&"\n".repeat(FILE_LEN_MAX as usize - text.len()));
        assert_eq!(of(text.as_bytes()).unwrap().len(), (FILE_LEN_MAX >> 16) as usize);
        text.push('\n');
        assert!(of(text.as_bytes()).unwrap_err().contains("more than 32 MiB"));
    }
}
