//! Locust's CSV files, with its headers to the letter, for whatever reads those: `PREFIX_stats.csv`,
//! `PREFIX_stats_history.csv`, `PREFIX_failures.csv`.
//!
//! Times are milliseconds, as Locust's are, with the fraction that it rounds away: a log server answers within one. Where
//! nothing was answered, percentiles are `N/A`. A request is a line of which the end is known, a user is a connection, and
//! the size is that of what was sent.

use crate::interval::Phase;
use crate::latency::Spread;
use crate::report::{Test, TestConfig};
use crate::timeline::Second;
use std::time::{Duration, SystemTime};

/// What the request columns say about every line of a test.
#[derive(Clone, Debug)]
struct Kind {
    /// What carries the lines: TCP, TLS or UDP.
    carrier: &'static str,
    /// How connections speak.
    name: String,
}

impl Kind {
    /// Of a run.
    fn of(config: &TestConfig) -> Kind {
        let carrier = match config.mode.as_str() {
            "datagram" => "UDP",
            _ if config.encrypted => "TLS",
            _ => "TCP",
        };
        Kind { carrier, name: config.mode.clone() }
    }
}

/// What a row counts.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    finished: u64,
    failed: u64,
    bytes: u64,
}

impl Counts {
    fn size(&self) -> String {
        format!("{:.1}", if self.finished == 0 { 0.0 } else { self.bytes as f64 / self.finished as f64 })
    }
}

/// What was measured up to some second.
#[derive(Debug, Default)]
pub(super) struct History {
    counts: Counts,
    response: Spread,
}

impl History {
    /// What stands above the first second.
    pub(super) fn head() -> Vec<u8> {
        let columns = ["Timestamp", "User Count"].into_iter().chain(KIND).chain(RATES).chain(names()).chain(TOTALS);
        rows([columns.map(str::to_owned).collect()])
    }

    /// The row of a second that is over.
    pub(super) fn row(&mut self, users: u64, second: &Second) -> Vec<u8> {
        let Second { began, end_ns, tally, latency, .. } = second;
        let totals = &mut self.counts;
        match second.phase {
            // Shown, and not counted, as in the other files.
            Phase::WarmUp => {}
            Phase::Measured | Phase::Drain => {
                totals.finished += tally.finished();
                totals.failed += tally.failed();
                totals.bytes += tally.bytes;
                self.response.add(&latency.response);
            }
        }
        let now = *began + Duration::from_nanos(*end_ns);
        let epoch_s = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut row = vec![epoch_s.to_string(), users.to_string(), String::new(), ALL.into()];
        row.extend([second.per_s(tally.finished()), second.per_s(tally.failed())].map(|rate| format!("{rate:.3}")));
        row.extend(percentiles(&latency.response));
        row.extend([totals.finished, totals.failed].map(|count| count.to_string()));
        row.extend(times(&self.response));
        row.push(totals.size());
        rows([row])
    }
}

/// `PREFIX_stats.csv`: a row for each test and one for all of them.
///
/// # Errors
/// A sentence, where a report does not hold what it was made of.
pub(super) fn stats(tests: &[Test]) -> Result<Vec<u8>, String> {
    let columns = KIND.into_iter().chain(STATS).chain(RATES).chain(names());
    let mut table = vec![columns.map(str::to_owned).collect()];
    let (mut all, mut all_responses, mut all_s) = (Counts::default(), Spread::new(), 0.0);
    for test in tests {
        let (kind, results) = (Kind::of(&test.config), &test.results);
        let counts = Counts { finished: results.finished(), failed: results.failed, bytes: results.bytes };
        let response = results.latency()?.response;
        all.finished += counts.finished;
        all.failed += counts.failed;
        all.bytes += counts.bytes;
        all_responses.add(&response);
        all_s += results.span_s;
        table.push(stats_row(kind.carrier, &kind.name, counts, &response, results.span_s));
    }
    table.push(stats_row("", ALL, all, &all_responses, all_s));
    Ok(rows(table))
}

fn stats_row(carrier: &str, name: &str, counts: Counts, response: &Spread, span_s: f64) -> Vec<String> {
    let per_s = |count: u64| format!("{:.3}", if span_s > 0.0 { count as f64 / span_s } else { 0.0 });
    let mut row = vec![carrier.to_owned(), name.to_owned()];
    row.extend([counts.finished, counts.failed].map(|count| count.to_string()));
    row.extend(times(response));
    row.push(counts.size());
    row.extend([counts.finished, counts.failed].map(per_s));
    row.extend(percentiles(response));
    row
}

/// `PREFIX_failures.csv`: a row per test and reason.
pub(super) fn failures(tests: &[Test]) -> Vec<u8> {
    let mut table = vec![["Method", "Name", "Error", "Occurrences"].map(str::to_owned).into()];
    for test in tests {
        let kind = Kind::of(&test.config);
        for (reason, count) in &test.results.failures {
            table.push(vec![kind.carrier.into(), kind.name.clone(), reason.clone(), count.to_string()]);
        }
    }
    rows(table)
}

fn rows(rows: impl IntoIterator<Item = Vec<String>>) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
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

    fn cells(bytes: &[u8]) -> Vec<Vec<String>> {
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(bytes);
        reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect()
    }

    #[test]
    fn the_headers_are_locusts_to_the_letter() {
        let first = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().lines().next().unwrap().to_owned();
        assert_eq!(
            first(History::head()),
            "Timestamp,User Count,Type,Name,Requests/s,Failures/s,50%,66%,75%,80%,90%,95%,98%,99%,99.9%,99.99%,100%,Total \
             Request Count,Total Failure Count,Total Median Response Time,Total Average Response Time,Total Min Response \
             Time,Total Max Response Time,Total Average Content Size"
        );
        assert_eq!(
            first(stats(&[]).unwrap()),
            "Type,Name,Request Count,Failure Count,Median Response Time,Average Response Time,Min Response Time,Max \
             Response Time,Average Content Size,Requests/s,Failures/s,50%,66%,75%,80%,90%,95%,98%,99%,99.9%,99.99%,100%"
        );
        assert_eq!(first(failures(&[])), "Method,Name,Error,Occurrences");
    }

    #[test]
    fn a_row_of_the_history_has_its_second_and_the_run_so_far() {
        let mut history = History::default();
        let mut second =
            Second { phase: Phase::Measured, end_ns: 2_000_000_000, ..Second::new(SystemTime::UNIX_EPOCH) };
        second.tally.acked = 30;
        second.tally.fail("unanswered", 10);
        second.tally.bytes = 400;
        second.latency.response.record(1_500_000, 30);
        let head = cells(&History::head()).remove(0);
        let value = |row: &[String], name: &str| row[head.iter().position(|column| column == name).unwrap()].clone();
        let first = cells(&history.row(5, &second)).remove(0);
        assert_eq!([value(&first, "Requests/s"), value(&first, "Failures/s")], ["20.000", "5.000"]);
        assert_eq!(value(&first, "Name"), "Aggregated");
        assert_eq!(value(&first, "Timestamp"), "2");
        let p99: f64 = value(&first, "99%").parse().unwrap();
        assert!((p99 - 1.5).abs() < 0.002, "milliseconds: {p99}");

        let idle = Second { start_ns: 2_000_000_000, end_ns: 3_000_000_000, ..Second::new(SystemTime::UNIX_EPOCH) };
        let second = cells(&history.row(5, &idle)).remove(0);
        assert_eq!(value(&second, "99%"), "N/A");
        assert_eq!([value(&second, "Requests/s"), value(&second, "Total Request Count")], ["0.000", "40"]);
        assert_eq!(value(&second, "Total Average Content Size"), "10.0");
    }
}
