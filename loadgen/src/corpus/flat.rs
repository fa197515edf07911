//! Plain records of a length that is asked for, to the byte on average: what speed is compared with.

use super::stamp::{BLANK, HEAD};
use super::{Shape, Text};
use crate::draw::Draw;

/// The lines of a shape, stamped with zeros.
pub(super) fn draw(shape: &Shape, draw: &mut Draw, count: usize) -> Vec<Text> {
    let bad = super::spread(draw, count, shape.bad_share);
    let rich = super::spread(draw, count, shape.rich_share);
    let lens = lens(draw, count, shape.record_size);
    let line = |((is_bad, is_rich), len)| {
        let mut bytes = Vec::with_capacity(len);
        render(&mut bytes, draw, len, is_rich, is_bad);
        Text { bytes, is_bad }
    };
    bad.into_iter().zip(rich).zip(lens).map(line).collect()
}

/// Lengths that vary by up to an eighth, in pairs that make up for one another: their mean is exact.
fn lens(draw: &mut Draw, count: usize, mean: usize) -> Vec<usize> {
    let mut lens: Vec<usize> = (0..count / 2)
        .flat_map(|_| {
            let off = draw.below(mean / 8);
            [mean - off, mean + off]
        })
        .collect();
    draw.shuffle(&mut lens);
    lens
}

fn render(out: &mut Vec<u8>, draw: &mut Draw, len: usize, rich: bool, bad: bool) {
    let end = out.len() + len;
    out.extend_from_slice(HEAD);
    out.extend_from_slice(BLANK);
    out.push(b'"');
    let mut members = members(draw, len);
    let mut close: &[u8] = b"\"}\n";
    if bad {
        match draw.below(3) {
            0 => members = members.replace("\"level\"", "\"lvl\""),
            1 => {
                members = members.replace("\"level\":\"", "\"level\":[\"").replace("\",\"message\"", "\"],\"message\"")
            }
            _ => close = b"\"\n",
        }
    }
    out.extend_from_slice(members.as_bytes());
    let context = format!(
        "\",\"ctx\":{{\"path\":\"/v1/{}\",\"tags\":[\"eu\",\"β\"],\"retry\":{}}}",
        draw.pick(NOUNS),
        draw.pick(&["true", "false", "null"]),
    );
    let rest = |out: &Vec<u8>| end - out.len() - close.len();
    if rich && rest(out) >= RICH.len() + context.len() {
        out.extend_from_slice(RICH.as_bytes());
        let context_at = end - context.len() - 2;
        fill(out, draw, context_at - out.len());
        out.extend_from_slice(context.as_bytes());
        close = if close.len() == 3 { b"}\n" } else { b" \n" };
    } else {
        let room = rest(out);
        fill(out, draw, room);
    }
    out.extend_from_slice(close);
    debug_assert_eq!(out.len(), end);
}

/// Everything between the stamp and the text of the message, as much of it as the length has room for.
fn members(draw: &mut Draw, len: usize) -> String {
    let mut text = String::new();
    if len >= 160 {
        let (day, hour, minute) = (1 + draw.below(28), draw.below(24), draw.below(60));
        let (second, ms) = (draw.below(60), draw.below(1000));
        text += &format!(",\"ts\":\"2026-03-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z\"");
    }
    text += &format!(",\"level\":\"{}\"", draw.pick(LEVELS));
    if len >= 140 {
        text += &format!(",\"service\":\"{}\"", draw.pick(SERVICES));
    }
    if len >= 200 {
        text += &format!(",\"status\":{},\"took_ms\":{}.{}", draw.pick(STATUSES), draw.below(400), draw.below(10));
    }
    if len >= 300 {
        text += &format!(",\"trace_id\":\"{:016x}{:016x}\"", draw.next(), draw.next());
    }
    // A line that is cut short is bad because its object does not end, so the message comes last.
    text + ",\"message\":\""
}

/// Exactly `len` bytes of prose.
fn fill(out: &mut Vec<u8>, draw: &mut Draw, len: usize) {
    let end = out.len() + len;
    while out.len() < end {
        let phrase = format!("{} {} {} {}; ", draw.pick(VERBS), draw.pick(NOUNS), draw.below(100_000), draw.pick(ENDS));
        out.extend_from_slice(phrase.as_bytes());
    }
    out.truncate(end);
}

const RICH: &str = "user said \\\"naïve – 東京\\\"\\n\\tat caf\\u00e9 C:\\\\tmp: ";
/// Weighted as logs are. No TRACE, so that the default filter of a server (DEBUG) lets all pass.
const LEVELS: &[&str] = &["INFO", "INFO", "INFO", "INFO", "INFO", "DEBUG", "DEBUG", "WARNING", "ERROR", "CRITICAL"];
const SERVICES: &[&str] = &["checkout", "auth-api", "inventory", "mail-relay", "edge", "billing-eu", "search", "cron"];
const STATUSES: &[&str] = &["200", "200", "200", "201", "204", "301", "400", "404", "429", "500", "503"];
const VERBS: &[&str] =
    &["accepted", "retrying", "closed", "rendered", "evicted", "slow", "refused", "flushed", "opened"];
const NOUNS: &[&str] = &["order", "session", "page", "socket", "cache-key", "query", "upload", "token", "cart", "job"];
const ENDS: &[&str] = &["after timeout", "for tenant 7", "in region eu-1", "by peer", "ok", "(queue full)", "at once"];
