//! `ringest-server top`: which stage of a record's way costs, by how often it is passed and how long it takes.
//!
//! It knows a server by its admin listener alone.

use crate::cli::Top;
use crate::inspect::quietly;
use ringest_ingest::{Histogram, Stage};
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// Shows the table until it is interrupted, or once: of the time since the last one, or else since the server's start.
///
/// # Errors
/// There is no server there, or it says something else than its status.
pub fn top(asked: &Top) -> io::Result<ExitCode> {
    let addr = asked.admin_addr.as_str();
    if asked.once {
        let status = fetch(addr)?;
        return quietly(|out| write!(out, "{}", table(&status, None)));
    }
    let clear = if io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
    let mut earlier: Option<Status> = None;
    loop {
        let status = fetch(addr)?;
        let said = writeln!(io::stdout(), "{clear}{}", table(&status, earlier.as_ref()));
        match said {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS), // Nobody listens.
            said => said?,
        }
        earlier = Some(status);
        thread::sleep(Duration::from_secs(asked.interval.max(1)));
    }
}

/// What a server says of itself, as far as it is shown.
#[derive(Clone, Debug, Default)]
struct Status {
    title: String,
    uptime: f64,
    received: u64,
    stages: [Histogram; Stage::COUNT],
}

fn fetch(addr: &str) -> io::Result<Status> {
    let explain = |error: io::Error| {
        let why = match error.kind() {
            io::ErrorKind::WouldBlock => format!("it says nothing for {PATIENCE:?}"),
            _ => error.to_string(),
        };
        let what = format!("no status from the admin listener at {addr} (--admin-addr): {why}");
        io::Error::new(error.kind(), what)
    };
    let body = get(addr, "/status.json").map_err(explain)?;
    let odd = || explain(io::Error::other("what is said there is no status of a server"));
    let status: Value = serde_json::from_slice(&body).map_err(|_| odd())?;
    Status::read(&status).ok_or_else(odd)
}

/// Asks over HTTP/1.0, so that the body is what comes until the end.
fn get(addr: &str, path: &str) -> io::Result<Vec<u8>> {
    let addr = addr.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("it has no address"))?;
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: {addr}\r\n\r\n").as_bytes())?;
    let mut response = Vec::new();
    stream.take(RESPONSE_LEN_MAX).read_to_end(&mut response)?;
    let head_len = response.windows(4).position(|four| four == b"\r\n\r\n");
    let head_len = head_len.ok_or_else(|| io::Error::other("that is no answer in HTTP"))?;
    let head = String::from_utf8_lossy(&response[..head_len]);
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(io::Error::other(format!("it says {status}")));
    }
    Ok(response.split_off(head_len + 4))
}

impl Status {
    fn read(status: &Value) -> Option<Status> {
        let text = |name: &str| status[name].as_str();
        let shards = status["shards"].as_array()?;
        let silent = shards.iter().filter(|shard| shard["answers"] != true).count();
        let lack = if silent > 0 { format!(", {silent} of them without an answer") } else { String::new() };
        let uptime = status["uptime_seconds"].as_f64()?;
        let title = format!(
            "ringest-server {} on {}, {}, {} shard{}{lack}, up {uptime:.0} s",
            text("version")?,
            text("backend")?,
            text("life")?,
            shards.len(),
            if shards.len() == 1 { "" } else { "s" },
        );
        let mut sum = Status { title, uptime, ..Status::default() };
        for shard in shards.iter().filter(|shard| shard["answers"] == true) {
            sum.received += shard["received"].as_u64()?;
            for (all, stage) in sum.stages.iter_mut().zip(Stage::ALL) {
                let said = &shard["stages"][stage.as_str()];
                let counts = said["counts"].as_array()?.iter();
                let counts = counts.map(|pair| Some((usize::try_from(pair[0].as_u64()?).ok()?, pair[1].as_u64()?)));
                let counts: Vec<(usize, u64)> = counts.collect::<Option<_>>()?;
                all.add(&Histogram::from_counts(counts, Duration::from_nanos(said["sum_ns"].as_u64()?))?);
            }
        }
        Some(sum)
    }
}

/// A row per stage, the costliest first.
fn table(now: &Status, earlier: Option<&Status>) -> String {
    // A server that was started again has nothing in common with the one before.
    let earlier = earlier.filter(|earlier| earlier.uptime < now.uptime && earlier.received <= now.received);
    let seconds = (now.uptime - earlier.map_or(0.0, |earlier| earlier.uptime)).max(1e-3);
    let rows = Stage::ALL.into_iter().zip(&now.stages).enumerate();
    let mut rows: Vec<(Stage, Histogram)> = rows
        .map(|(at, (stage, all))| (stage, earlier.map_or(all.clone(), |earlier| all.since(&earlier.stages[at]))))
        .collect();
    rows.sort_by_key(|(_, histogram)| std::cmp::Reverse(histogram.sum()));
    let total: Duration = rows.iter().map(|(_, histogram)| histogram.sum()).sum();
    let lines = now.received - earlier.map_or(0, |earlier| earlier.received);
    let since = if earlier.is_some() { "in the last" } else { "since its start," };
    let mut out = format!("{}\n{:.0} lines/s {since} {seconds:.1} s\n\n", now.title, lines as f64 / seconds);
    let head = ["stage", "count/s", "mean", "p50", "p95", "p99", "time/s", "share"];
    let _ = writeln!(out, "{}", cells(head.map(str::to_owned)));
    for (stage, histogram) in rows {
        let count = histogram.count();
        let quantile = |q| histogram.quantile(q).map_or("-".into(), said);
        let mean = if count == 0 { "-".into() } else { said(histogram.sum().div_f64(count as f64)) };
        let share = histogram.sum().as_secs_f64() / total.as_secs_f64().max(1e-9) * 100.0;
        let row = [
            stage.as_str().to_owned(),
            format!("{:.1}", count as f64 / seconds),
            mean,
            quantile(0.5),
            quantile(0.95),
            quantile(0.99),
            said(histogram.sum().div_f64(seconds)),
            format!("{share:.1} %"),
        ];
        let _ = writeln!(out, "{}", cells(row));
    }
    out
}

fn cells(row: [String; 8]) -> String {
    let [stage, rest @ ..] = row;
    let rest: String = rest.iter().map(|cell| format!("{cell:>11}")).collect();
    format!("{stage:<8}{rest}")
}

/// A time in three digits or so.
fn said(time: Duration) -> String {
    let ns = time.as_nanos() as f64;
    match ns {
        _ if ns < 1e3 => format!("{ns:.0} ns"),
        _ if ns < 1e6 => format!("{:.1} us", ns / 1e3),
        _ if ns < 1e9 => format!("{:.1} ms", ns / 1e6),
        _ => format!("{:.2} s", ns / 1e9),
    }
}

/// A shard is waited for by the server for a second.
const PATIENCE: Duration = Duration::from_secs(5);
const RESPONSE_LEN_MAX: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(uptime: f64, syncs: u64) -> Status {
        let idle = || json!({ "sum_ns": 0, "counts": [] });
        let parse = json!({ "sum_ns": syncs * 1000, "counts": [[4, syncs]] });
        let sync = json!({ "sum_ns": syncs * 3000, "counts": [[10, syncs]] });
        let stages =
            json!({ "receive": idle(), "parse": parse, "queue": idle(), "write": idle(), "sync": sync, "ack": idle() });
        let shard = json!({ "shard": 0, "answers": true, "received": syncs * 10, "stages": stages });
        let all = json!({ "version": "1", "backend": "epoll", "life": "serving", "uptime_seconds": uptime,
                          "shards": [shard, { "shard": 1, "answers": false }] });
        Status::read(&all).unwrap()
    }

    #[test]
    fn the_costliest_stage_is_first_and_rates_are_of_the_time_between() {
        let (early, late) = (status(10.0, 100), status(12.0, 300));
        let text = table(&late, Some(&early));
        let rows: Vec<Vec<&str>> = text.lines().skip(3).map(|row| row.split_whitespace().collect()).collect();
        assert!(
            text.starts_with("ringest-server 1 on epoll, serving, 2 shards, 1 of them without an answer"),
            "{text}"
        );
        assert!(text.contains("1000 lines/s in the last 2.0 s"), "{text}");
        assert_eq!(rows[1][..4], ["sync", "100.0", "3.0", "us"], "{text}");
        assert_eq!(rows[1][10..], ["300.0", "us", "75.0", "%"], "{text}");
        assert_eq!(rows[2][..2], ["parse", "100.0"], "{text}");
        assert_eq!(rows[3][2..4], ["-", "-"], "{text}");
        assert!(
            table(&early, Some(&late)).contains("100 lines/s since its start, 10.0 s"),
            "a server that was started again"
        );
    }
}
