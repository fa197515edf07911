//! Lines that tests send, and the exact lines that come back.

use serde_json::Value;

/// The reply to a line that is stored or filtered, without its newline.
pub(crate) const OK: &str = r#"{"status":"ok","message":"received"}"#;

/// A record that names its sender and its place among that sender's lines.
pub(crate) fn record(sender: &str, number: u64) -> String {
    format!(r#"{{"level":"info","message":"line","sender":"{sender}","number":{number}}}"#)
}

/// Who sent a line, and its number, where [`record`] made it.
pub(crate) fn origin(line: &str) -> Option<(&str, u64)> {
    let rest = line.strip_prefix(r#"{"level":"info","message":"line","sender":""#)?;
    let (sender, rest) = rest.split_once(r#"","number":"#)?;
    let digits = rest.find(|digit: char| !digit.is_ascii_digit())?;
    Some((sender, rest[..digits].parse().ok()?))
}

/// Each line with its newline, one behind the other.
pub(crate) fn joined<S: AsRef<str>>(lines: impl IntoIterator<Item = S>) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines {
        out.extend_from_slice(line.as_ref().as_bytes());
        out.push(b'\n');
    }
    out
}

/// A line of the server, as JSON.
pub(crate) fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("not JSON: {error}: {line:?}"))
}

/// The `code` of an error reply; `ok` where it is none.
pub(crate) fn code(line: &str) -> String {
    if line == OK {
        return "ok".into();
    }
    let reply = json(line);
    assert_eq!(reply["status"], "error", "{line}");
    reply["code"].as_str().unwrap_or_else(|| panic!("an error has a code: {line}")).to_owned()
}
