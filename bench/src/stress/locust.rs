//! The three files that Locust writes with `--csv`, with its headers to the letter, of a crowd that grows.
//!
//! Times are milliseconds with the fraction that Locust rounds away. Percentiles of a second are those of its histogram,
//! whose buckets are an eighth of an octave wide; those of the whole are exact to three digits.

use crate::report::{Second, Test};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

/// Writes `PREFIX_stats.csv`, `PREFIX_stats_history.csv` and `PREFIX_failures.csv`.
///
/// # Errors
/// One of them cannot be written; the message names it.
pub(super) fn write(prefix: &Path, test: &Test, began_s: u64, users: impl Fn(f64) -> u64) -> io::Result<()> {
    let files =
        [("stats", stats(test)), ("stats_history", history(test, began_s, users)), ("failures", failures(test))];
    for (name, text) in files {
        let mut path = prefix.as_os_str().to_owned();
        path.push(format!("_{name}.csv"));
        fs::write(&path, text).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot write {}: {error}", Path::new(&path).display()))
        })?;
    }
    Ok(())
}

fn stats(test: &Test) -> String {
    let results = &test.results;
    let counts = Counts::of(&results.response_ns_counts);
    let finished = results.total_success + results.total_errors;
    let size = results.total_bytes as f64 / finished.max(1) as f64;
    let span = results.duration_secs.max(1e-9);
    let mut text = format!("{STATS},{}\n", PERCENTILES.map(|(name, _)| name).join(","));
    for (kind, name) in [("TCP", test.config.mode.as_str()), ("", ALL)] {
        let _ = writeln!(
            text,
            "{kind},{name},{finished},{},{},{size:.1},{:.3},{:.3},{}",
            results.total_errors,
            counts.times(),
            finished as f64 / span,
            results.total_errors as f64 / span,
            counts.percentiles(),
        );
    }
    text
}

fn history(test: &Test, began_s: u64, users: impl Fn(f64) -> u64) -> String {
    let mut text = format!("{HISTORY},{},{TOTALS}\n", PERCENTILES.map(|(name, _)| name).join(","));
    let (mut all, mut finished, mut failed, mut bytes) = (BTreeMap::new(), 0, 0, 0);
    for second in &test.results.series {
        let here: BTreeMap<u64, u64> = second.response_counts.iter().copied().collect();
        here.iter().for_each(|(ns, count)| *all.entry(*ns).or_insert(0) += count);
        finished += second.acked + second.failed;
        failed += second.failed;
        bytes += second.bytes;
        let Second { start_s, length_s, .. } = second;
        let per_s = |count: u64| count as f64 / length_s.max(1e-9);
        let end = start_s + length_s;
        let _ = writeln!(
            text,
            "{},{},,{ALL},{:.3},{:.3},{},{finished},{failed},{},{:.1}",
            began_s + end as u64,
            users(end),
            per_s(second.acked + second.failed),
            per_s(second.failed),
            Counts(here).percentiles(),
            Counts(all.clone()).times(),
            bytes as f64 / finished.max(1) as f64,
        );
    }
    text
}

fn failures(test: &Test) -> String {
    let rows =
        test.results.failures.iter().map(|(reason, count)| format!("TCP,{},{reason},{count}\n", test.config.mode));
    format!("Method,Name,Error,Occurrences\n{}", rows.collect::<String>())
}

/// Durations in nanoseconds with how often they came.
struct Counts(BTreeMap<u64, u64>);

impl Counts {
    fn of(counts: &[(u64, u64)]) -> Counts {
        Counts(counts.iter().copied().collect())
    }

    fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Milliseconds that a share of all stays within.
    fn at(&self, quantile: f64) -> f64 {
        let (rank, mut seen) = ((quantile * self.total() as f64).ceil().max(1.0) as u64, 0);
        let found = self.0.iter().find(|(_, count)| {
            seen += **count;
            seen >= rank
        });
        found.map_or(0.0, |(ns, _)| *ns as f64 / 1e6)
    }

    /// Median, mean, least and greatest.
    fn times(&self) -> String {
        let sum: f64 = self.0.iter().map(|(ns, count)| *ns as f64 * *count as f64).sum();
        let mean = sum / self.total().max(1) as f64 / 1e6;
        let end = |ns: Option<(&u64, &u64)>| ns.map_or(0.0, |(ns, _)| *ns as f64 / 1e6);
        let (least, most) = (end(self.0.first_key_value()), end(self.0.last_key_value()));
        format!("{:.3},{mean:.3},{least:.3},{most:.3}", self.at(0.5))
    }

    fn percentiles(&self) -> String {
        if self.total() == 0 {
            return ["N/A"; PERCENTILES.len()].join(",");
        }
        PERCENTILES.map(|(_, quantile)| format!("{:.3}", self.at(quantile))).join(",")
    }
}

const ALL: &str = "Aggregated";
const STATS: &str = "Type,Name,Request Count,Failure Count,Median Response Time,Average Response Time,Min Response Time,\
                     Max Response Time,Average Content Size,Requests/s,Failures/s";
const HISTORY: &str = "Timestamp,User Count,Type,Name,Requests/s,Failures/s";
const TOTALS: &str = "Total Request Count,Total Failure Count,Total Median Response Time,Total Average Response Time,\
                      Total Min Response Time,Total Max Response Time,Total Average Content Size";
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

    #[test]
    fn a_quantile_is_the_value_that_a_share_stays_within() {
        let counts = Counts::of(&[(1_000_000, 90), (2_000_000, 9), (50_000_000, 1)]);
        assert_eq!([0.5, 0.9, 0.95, 0.99, 1.0].map(|q| counts.at(q)), [1.0, 1.0, 2.0, 2.0, 50.0]);
        assert_eq!(counts.times(), "1.000,1.580,1.000,50.000");
        assert_eq!(counts.percentiles().split(',').count(), 11);
        assert!(Counts::of(&[]).percentiles().starts_with("N/A,N/A"));
    }

    #[test]
    fn the_headers_are_locusts() {
        let percentiles = PERCENTILES.map(|(name, _)| name).join(",");
        assert_eq!(percentiles, "50%,66%,75%,80%,90%,95%,98%,99%,99.9%,99.99%,100%");
        assert_eq!(STATS.split(',').count() + 11, 22);
        assert_eq!(HISTORY.split(',').count() + 11 + TOTALS.split(',').count(), 24);
    }
}
