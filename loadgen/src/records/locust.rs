//! Locust's CSV files, with its headers to the letter, for whatever reads those: `PREFIX_stats.csv`,
//! `PREFIX_stats_history.csv`, `PREFIX_failures.csv`.
//!
//! Times are milliseconds, as Locust's are, with the fraction that it rounds away: a log server answers within one. Where
//! nothing was answered, percentiles are `N/A`. A request is a line of which the end is known, a user is a connection, and
//! the size is that of what was sent.

use crate::latency::Spread;
use crate::output::Output;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The three files of a run: opened before it, the history fed while it runs, the others written at its end.
#[derive(Debug)]
pub struct Files {
    stats: Output,
    history: Output,
    failures: Output,
    totals: Option<Totals>,
}

/// What became of lines.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Lines of which the end is known.
    pub finished: u64,
    /// Of these, lines that failed.
    pub failed: u64,
    /// Bytes that were sent.
    pub bytes: u64,
}

/// Some time of a run: a row of the history.
#[derive(Debug)]
pub struct Moment<'a> {
    /// When it was over.
    pub end: SystemTime,
    /// How long it was, in seconds.
    pub length_s: f64,
    /// Connections.
    pub users: u64,
    /// Lines of this time alone.
    pub counts: Counts,
    /// Response times of this time alone.
    pub response: &'a Spread,
    /// Whether the totals count it, too: a warm-up is shown and not counted, as in the other files.
    pub is_counted: bool,
}

/// A test that is over: a row of the statistics, and of the failures as many as there were reasons.
#[derive(Debug)]
pub struct Whole {
    /// What carried the lines: TCP, TLS or UDP.
    pub carrier: &'static str,
    /// How connections spoke.
    pub name: String,
    /// What became of the lines.
    pub counts: Counts,
    /// Response times.
    pub response: Spread,
    /// From the first line's turn to the last answer, in seconds.
    pub span_s: f64,
    /// Failed lines by the reason.
    pub failures: BTreeMap<String, u64>,
}

/// What was measured up to some moment.
#[derive(Debug, Default)]
struct Totals {
    counts: Counts,
    response: Spread,
}

impl Files {
    /// Opens all of them.
    ///
    /// # Errors
    /// A sentence that names the one that cannot be written.
    pub fn open(prefix: &Path) -> Result<Files, String> {
        let [stats, history, failures] = Files::paths(prefix).map(|path| Output::open(&path));
        Ok(Files { stats: stats?, history: history?, failures: failures?, totals: None })
    }

    /// Where they are, for names that begin so.
    pub fn paths(prefix: &Path) -> [PathBuf; 3] {
        ["_stats.csv", "_stats_history.csv", "_failures.csv"].map(|end| {
            let mut name = prefix.as_os_str().to_owned();
            name.push(end);
            name.into()
        })
    }

    /// Writes the row of a moment that is over.
    ///
    /// # Errors
    /// A sentence, where it cannot be written.
    pub fn see(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        let mut table = if self.totals.is_none() { vec![history_head()] } else { Vec::new() };
        table.push(history_row(self.totals.get_or_insert_default(), moment));
        self.history.append(&text(table))
    }

    /// Writes the other two. One file's failure does not keep the other from being written.
    ///
    /// # Errors
    /// A sentence about the first that could not be written.
    pub fn finish(mut self, tests: &[Whole]) -> Result<(), String> {
        self.stats.append(&stats(tests)).and(self.failures.append(&failures(tests)))
    }
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.finished += other.finished;
        self.failed += other.failed;
        self.bytes += other.bytes;
    }

    fn size(&self) -> String {
        format!("{:.1}", if self.finished == 0 { 0.0 } else { self.bytes as f64 / self.finished as f64 })
    }

    /// Both counts of lines per second.
    fn rates(&self, span_s: f64) -> [String; 2] {
        let per_s = |count: u64| if span_s > 0.0 { count as f64 / span_s } else { 0.0 };
        [self.finished, self.failed].map(|count| format!("{:.3}", per_s(count)))
    }
}

type Row = Vec<String>;

fn history_head() -> Row {
    let columns = ["Timestamp", "User Count"].into_iter().chain(KIND).chain(RATES).chain(names()).chain(TOTALS);
    columns.map(str::to_owned).collect()
}

fn history_row(totals: &mut Totals, moment: &Moment<'_>) -> Row {
    if moment.is_counted {
        totals.counts.add(&moment.counts);
        totals.response.add(moment.response);
    }
    let epoch_s = moment.end.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut row = vec![epoch_s.to_string(), moment.users.to_string(), String::new(), ALL.into()];
    row.extend(moment.counts.rates(moment.length_s));
    row.extend(percentiles(moment.response));
    row.extend([totals.counts.finished, totals.counts.failed].map(|count| count.to_string()));
    row.extend(times(&totals.response));
    row.push(totals.counts.size());
    row
}

/// A row for each test and one for all of them.
fn stats(tests: &[Whole]) -> Vec<u8> {
    let columns = KIND.into_iter().chain(STATS).chain(RATES).chain(names());
    let mut table: Vec<Row> = vec![columns.map(str::to_owned).collect()];
    let (mut all, mut all_s) = (Totals::default(), 0.0);
    for Whole { carrier, name, counts, response, span_s, .. } in tests {
        all.counts.add(counts);
        all.response.add(response);
        all_s += span_s;
        table.push(stats_row([carrier, name], counts, response, *span_s));
    }
    table.push(stats_row(["", ALL], &all.counts, &all.response, all_s));
    text(table)
}

fn stats_row(kind: [&str; 2], counts: &Counts, response: &Spread, span_s: f64) -> Row {
    let mut row: Row = kind.map(str::to_owned).into();
    row.extend([counts.finished, counts.failed].map(|count| count.to_string()));
    row.extend(times(response));
    row.push(counts.size());
    row.extend(counts.rates(span_s));
    row.extend(percentiles(response));
    row
}

/// A row per test and reason.
fn failures(tests: &[Whole]) -> Vec<u8> {
    let mut table: Vec<Row> = vec![["Method", "Name", "Error", "Occurrences"].map(str::to_owned).into()];
    for Whole { carrier, name, failures, .. } in tests {
        let row =
            |(reason, count): (&String, &u64)| vec![(*carrier).into(), name.clone(), reason.clone(), count.to_string()];
        table.extend(failures.iter().map(row));
    }
    text(table)
}

fn text(table: Vec<Row>) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in table {
        writer.write_record(row).expect("memory takes every row, and all rows of a call are of one length");
    }
    writer.into_inner().expect("memory is always flushed")
}

fn names() -> impl Iterator<Item = &'static str> {
    PERCENTILES.into_iter().map(|(name, _)| name)
}

fn percentiles(spread: &Spread) -> impl Iterator<Item = String> {
    PERCENTILES.into_iter().map(|(_, quantile)| match spread.len() {
        0 => "N/A".into(),
        _ => ms(spread.at(quantile) as f64),
    })
}

/// Median, mean, shortest and longest.
fn times(spread: &Spread) -> [String; 4] {
    match spread.len() {
        0 => ["0"; 4].map(str::to_owned),
        _ => [spread.at(0.5) as f64, spread.mean(), spread.min() as f64, spread.max() as f64].map(ms),
    }
}

fn ms(ns: f64) -> String {
    format!("{:.6}", ns / 1e6)
}

/// What Locust calls the sum of all.
const ALL: &str = "Aggregated";
const KIND: [&str; 2] = ["Type", "Name"];
const RATES: [&str; 2] = ["Requests/s", "Failures/s"];
const STATS: [&str; 7] = [
    "Request Count",
    "Failure Count",
    "Median Response Time",
    "Average Response Time",
    "Min Response Time",
    "Max Response Time",
    "Average Content Size",
];
const TOTALS: [&str; 7] = [
    "Total Request Count",
    "Total Failure Count",
    "Total Median Response Time",
    "Total Average Response Time",
    "Total Min Response Time",
    "Total Max Response Time",
    "Total Average Content Size",
];
const PERCENTILES: [(&str, f64); 11] = [
    ("50%", 0.5),
    ("66%", 0.66),
    ("75%", 0.75),
    ("80%", 0.8),
    ("90%", 0.9),
    ("95%", 0.95),
    ("98%", 0.98),
    ("99%", 0.99),
    ("99.9%", 0.999),
    ("99.99%", 0.9999),
    ("100%", 1.0),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn cells(bytes: &[u8]) -> Vec<Vec<String>> {
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(bytes);
        reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect()
    }

    #[test]
    fn the_headers_are_locusts_to_the_letter() {
        let first = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().lines().next().unwrap().to_owned();
        assert_eq!(
            first(text(vec![history_head()])),
            "Timestamp,User Count,Type,Name,Requests/s,Failures/s,50%,66%,75%,80%,90%,95%,98%,99%,99.9%,99.99%,100%,Total \
             Request Count,Total Failure Count,Total Median Response Time,Total Average Response Time,Total Min Response \
             Time,Total Max Response Time,Total Average Content Size"
        );
        assert_eq!(
            first(stats(&[])),
            "Type,Name,Request Count,Failure Count,Median Response Time,Average Response Time,Min Response Time,Max \
             Response Time,Average Content Size,Requests/s,Failures/s,50%,66%,75%,80%,90%,95%,98%,99%,99.9%,99.99%,100%"
        );
        assert_eq!(first(failures(&[])), "Method,Name,Error,Occurrences");
    }

    #[test]
    fn a_row_of_the_history_has_its_moment_and_the_run_so_far() {
        let directory = tempfile::tempdir().unwrap();
        let prefix = directory.path().join("run");
        let mut files = Files::open(&prefix).unwrap();
        let mut response = Spread::new();
        response.record(1_500_000, 30);
        let moment = |end_s, counts, response, is_counted| Moment {
            end: SystemTime::UNIX_EPOCH + Duration::from_secs(end_s),
            length_s: 2.0,
            users: 5,
            counts,
            response,
            is_counted,
        };
        let busy = Counts { finished: 40, failed: 10, bytes: 400 };
        let idle = Spread::new();
        files.see(&moment(2, busy, &response, false)).unwrap();
        files.see(&moment(4, busy, &response, true)).unwrap();
        files.see(&moment(6, Counts::default(), &idle, true)).unwrap();
        files.finish(&[]).unwrap();
        let [_, history, _] = Files::paths(&prefix);
        let rows = cells(&std::fs::read(history).unwrap());
        let value = |row: usize, name: &str| {
            let at = rows[0].iter().position(|column| column == name).unwrap();
            rows[row][at].clone()
        };
        assert_eq!(rows.len(), 4, "the head stands there once");
        assert_eq!([value(1, "Requests/s"), value(1, "Total Request Count")], ["20.000", "0"], "shown, not counted");
        assert_eq!([value(2, "Requests/s"), value(2, "Failures/s")], ["20.000", "5.000"]);
        assert_eq!([value(2, "Timestamp"), value(2, "Name")], ["4", "Aggregated"]);
        let p99: f64 = value(2, "99%").parse().unwrap();
        assert!((p99 - 1.5).abs() < 0.002, "milliseconds: {p99}");
        assert_eq!([value(3, "99%"), value(3, "Requests/s"), value(3, "Total Request Count")], ["N/A", "0.000", "40"]);
        assert_eq!(value(3, "Total Average Content Size"), "10.0");
    }

    #[test]
    fn whatever_a_server_gives_as_its_reason_comes_out_of_the_file_as_it_was() {
        let reasons = ["queue full, try later", "it said \"no\"", "two\nlines\r\nand more", "=1+1", ""];
        let whole = Whole {
            carrier: "TCP",
            name: "plain".into(),
            counts: Counts::default(),
            response: Spread::new(),
            span_s: 1.0,
            failures: reasons.iter().map(|reason| (reason.to_string(), 7)).collect(),
        };
        let rows = cells(&failures(&[whole]));
        let mut found: Vec<&str> = rows[1..].iter().map(|row| row[2].as_str()).collect();
        assert!(rows[1..].iter().all(|row| (row[0].as_str(), row[3].as_str()) == ("TCP", "7")), "{rows:?}");
        found.sort_unstable();
        let mut expected = reasons;
        expected.sort_unstable();
        assert_eq!(found, expected);
    }
}
