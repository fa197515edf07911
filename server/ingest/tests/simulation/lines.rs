//! Lines of clients: records, and everything else that clients send, each with what has to become of it.

use crate::rng::Rng;
use ringest_wire::{Code, Severity};

/// What has to become of a line, if storage can take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Stored,
    Filtered,
    Refused(Code),
}

/// What lines of a world look like.
#[derive(Clone, Debug)]
pub(crate) struct Style {
    pub(crate) line_len_max: usize,
    pub(crate) depth_max: usize,
    pub(crate) min_level: Severity,
    /// Usual length of a record's text.
    pub(crate) text_len: u64,
    /// One line in so many is not a record.
    pub(crate) bad_one_in: u64,
}

/// The mark by which a stored line is recognised: its number among all lines of the world, and whose it is.
pub(crate) fn mark(rid: usize, origin: &str) -> String {
    format!("#{rid}:{origin}#")
}

/// The number in the mark of a stored line.
pub(crate) fn rid_of(line: &[u8]) -> Option<usize> {
    let start = line.iter().position(|&byte| byte == b'#')? + 1;
    let len = line[start..].iter().position(|&byte| byte == b':')?;
    std::str::from_utf8(&line[start..start + len]).ok()?.parse().ok()
}

/// A line without its ending, and what has to become of it.
pub(crate) fn make(rng: &mut Rng, style: &Style, mark: &str, may_be_reserved: bool) -> (Vec<u8>, Verdict) {
    if !rng.one_in(style.bad_one_in) {
        return record(rng, style, mark);
    }
    let refused = |line: String, code: Code| (line.into_bytes(), Verdict::Refused(code));
    match rng.below(if may_be_reserved { 12 } else { 11 }) {
        0 => refused(format!(r#"{{"level":"info","message":"{mark}""#), Code::BadJson),
        1 => refused(format!(r#"{{"level":"info","message":"{mark}"}} x"#), Code::BadJson),
        2 => refused(format!(r#"["{mark}"]"#), Code::NotObject),
        3 => refused(format!(r#"{{"level":"info","massage":"{mark}"}}"#), Code::MissingField),
        4 => refused(format!(r#"{{"message":"{mark}"}}"#), Code::MissingField),
        5 => refused(format!(r#"{{"level":3,"message":"{mark}"}}"#), Code::BadType),
        6 => {
            let mut line = format!(r#"{{"level":"info","message":"{mark}."}}"#).into_bytes();
            let dot = line.len() - 3;
            line[dot] = 0xff;
            (line, Verdict::Refused(Code::InvalidUtf8))
        }
        7 => {
            let (open, close) = ("[".repeat(style.depth_max), "]".repeat(style.depth_max));
            refused(format!(r#"{{"level":"info","message":{open}"{mark}"{close}}}"#), Code::TooDeep)
        }
        8 | 9 => {
            let len = style.line_len_max + 1 + rng.index(200);
            (padded(mark, len), Verdict::Refused(Code::LineTooLong))
        }
        10 => refused(format!("garbage {mark}"), Code::BadJson),
        _ => refused(format!(r#"{{"$blk":{{"i":1,"mark":"{mark}"}}}}"#), Code::ReservedKey),
    }
}

fn record(rng: &mut Rng, style: &Style, mark: &str) -> (Vec<u8>, Verdict) {
    if rng.one_in(60) {
        let len = style.line_len_max - rng.index(2); // At the limit, or one below it.
        return (padded(mark, len), verdict(Severity::Critical, style));
    }
    let (name, severity) = *rng.pick(&[
        ("trace", Severity::Trace),
        ("DEBUG", Severity::Debug),
        ("info", Severity::Info),
        ("INFO", Severity::Info),
        ("Warn", Severity::Warning),
        ("warning", Severity::Warning),
        ("error", Severity::Error),
        ("fatal", Severity::Critical),
        ("notice", Severity::Unknown),
    ]);
    let mut text = mark.to_owned();
    let len = rng.below(style.text_len * 2);
    while (text.len() as u64) < len {
        text +=
            *rng.pick::<&str>(&["plain words ", "\\n", "\\\"", "\\u00e9", "é→", "\\\\", "{[,:]}", "\\t", "0123456789"]);
    }
    let extra = *rng.pick(&["", ",\"n\":-1.5e3", ",\"n\":{\"a\":[1,2,{\"b\":null}]}", ",\"ok\":true", ",\"$x\":0"]);
    let line = match rng.below(4) {
        0 => format!("{{ \"message\" : \"{text}\" , \"level\" : \"{name}\"{extra} }}"),
        1 => format!("{{\"message\":\"{text}\",\"level\":\"{name}\"{extra}}} "),
        _ => format!("{{\"level\":\"{name}\",\"message\":\"{text}\"{extra}}}"),
    };
    if line.len() > style.line_len_max {
        return (padded(mark, style.line_len_max), verdict(Severity::Critical, style));
    }
    (line.into_bytes(), verdict(severity, style))
}

fn verdict(severity: Severity, style: &Style) -> Verdict {
    if severity >= style.min_level { Verdict::Stored } else { Verdict::Filtered }
}

/// A record of exactly that length.
fn padded(mark: &str, len: usize) -> Vec<u8> {
    let start = format!(r#"{{"level":"critical","message":"{mark}"#);
    let end = r#""}"#;
    let fill = len - start.len() - end.len();
    [start.as_bytes(), &vec![b'.'; fill], end.as_bytes()].concat()
}
