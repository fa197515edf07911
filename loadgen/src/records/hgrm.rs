//! The percentile distribution of the response times as wrk2 prints it, in milliseconds: for HdrHistogram's plotter,
//! hdr-plot and people.

use crate::latency::{HALVING_TICKS, SUB_BUCKETS, Spread};
use std::fmt::Write;

/// The whole file.
pub(super) fn text(spread: &Spread) -> String {
    let ms = |ns: f64| ns / 1e6;
    let mut out = format!("{:>12} {:>12} {:>12} {:>12}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    for step in spread.steps(HALVING_TICKS) {
        // One in so many was slower. Rust writes the infinity of the last step as C does.
        let one_in = 1.0 / (1.0 - step.quantile);
        let (value, quantile) = (ms(step.ns as f64), step.quantile);
        writeln!(out, "{value:>12.6} {quantile:>12.6} {:>12} {one_in:>12.2}", step.upto).expect("a string takes all");
    }
    let (mean, stdev, max) = (ms(spread.mean()), ms(spread.stdev()), ms(spread.max() as f64));
    let (count, buckets) = (spread.len(), spread.buckets());
    write!(
        out,
        "#[Mean    = {mean:>12.3}, StdDeviation   = {stdev:>12.3}]\n\
         #[Max     = {max:>12.3}, Total count    = {count:>12}]\n\
         #[Buckets = {buckets:>12}, SubBuckets     = {SUB_BUCKETS:>12}]\n"
    )
    .expect("a string takes all");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_halve_the_distance_to_the_whole_and_end_with_the_longest() {
        let mut spread = Spread::new();
        (1..=1000).for_each(|n| spread.record(n * 1_000_000, 1));
        let text = text(&spread);
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(2)
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect())
            .collect();
        assert_eq!(rows.first().unwrap()[1], 0.0);
        let last = rows.last().unwrap();
        assert_eq!((last[1], last[2], last[3]), (1.0, 1000.0, f64::INFINITY));
        assert!((last[0] - 1000.0).abs() < 1.0, "milliseconds, to three digits: {}", last[0]);
        assert!(rows.windows(2).all(|pair| pair[0][0] <= pair[1][0] && pair[0][1] < pair[1][1]));
        let half = rows.iter().find(|row| row[1] == 0.5).unwrap();
        assert!((half[0] - 500.0).abs() < 0.5 && half[2] == 500.0 && half[3] == 2.0, "{half:?}");
        assert!(text.starts_with("       Value   Percentile   TotalCount 1/(1-Percentile)\n\n"));
        assert!(text.contains("Total count    =         1000]"));
        assert!(text.ends_with("#[Buckets =           32, SubBuckets     =         2048]\n"), "{text}");
    }

    #[test]
    fn nothing_measured_is_a_file_all_the_same() {
        assert!(text(&Spread::new()).contains("Total count    =            0]"));
    }
}
