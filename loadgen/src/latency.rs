//! Latencies: three histograms of one worker, and their sum over all.
//!
//! Percentiles come from added histograms, never from averaged percentiles, and nothing is clamped: what passes the
//! range is counted. The one place that knows the hdrhistogram crate.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Response (done − intended), service (done − sent) and slip (sent − intended), in nanoseconds.
#[derive(Clone, Debug)]
pub struct Latency {
    /// Done − intended: what a caller who keeps to the schedule waits. Closed loop: the same as service.
    pub response: Spread,
    /// Done − sent: what the server and the way to it take.
    pub service: Spread,
    /// Sent − intended: how late the generator was.
    pub slip: Spread,
}

impl Latency {
    /// Nothing measured yet.
    pub fn new() -> Latency {
        Latency { response: Spread::new(), service: Spread::new(), slip: Spread::new() }
    }

    /// Adds what another worker measured.
    pub fn add(&mut self, other: &Latency) {
        self.response.add(&other.response);
        self.service.add(&other.service);
        self.slip.add(&other.slip);
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.response.is_empty() && self.service.is_empty() && self.slip.is_empty()
    }

    /// Forgets everything, and keeps the memory.
    pub fn reset(&mut self) {
        self.response.reset();
        self.service.reset();
        self.slip.reset();
    }
}

impl Default for Latency {
    fn default() -> Self {
        Latency::new()
    }
}

/// One distribution of durations: 3 significant digits, 1 ns to 1 h.
#[derive(Clone, Debug)]
pub struct Spread {
    histogram: Histogram<u64>,
    beyond: u64,
}

impl Spread {
    /// Nothing measured yet.
    pub fn new() -> Spread {
        let histogram = Histogram::new_with_bounds(1, HOUR_NS, 3).expect("these bounds and digits are valid");
        Spread { histogram, beyond: 0 }
    }

    /// Counts `count` durations of `ns`.
    #[inline]
    pub fn record(&mut self, ns: u64, count: u64) {
        if self.histogram.record_n(ns.max(1), count).is_err() {
            self.beyond += count;
        }
    }

    /// Adds another distribution.
    pub fn add(&mut self, other: &Spread) {
        self.histogram.add(&other.histogram).expect("both have the same bounds");
        self.beyond += other.beyond;
    }

    /// Forgets everything, and keeps the memory.
    pub fn reset(&mut self) {
        self.histogram.reset();
        self.beyond = 0;
    }

    /// The duration that a share `quantile` (0 to 1) of all stays within.
    pub fn at(&self, quantile: f64) -> u64 {
        self.histogram.value_at_quantile(quantile)
    }

    /// How many were counted within the range.
    pub fn len(&self) -> u64 {
        self.histogram.len()
    }

    /// Whether none was, within the range or beyond it.
    pub fn is_empty(&self) -> bool {
        self.histogram.is_empty() && self.beyond == 0
    }

    /// The figures of a report, in microseconds.
    pub fn figures(&self) -> Figures {
        let us = |ns: u64| ns as f64 / 1000.0;
        let empty = self.histogram.is_empty();
        Figures {
            count: self.len(),
            min: if empty { 0.0 } else { us(self.histogram.min()) },
            mean: self.histogram.mean() / 1000.0,
            stdev: self.histogram.stdev() / 1000.0,
            p50: us(self.at(0.50)),
            p90: us(self.at(0.90)),
            p95: us(self.at(0.95)),
            p99: us(self.at(0.99)),
            p999: us(self.at(0.999)),
            p9999: us(self.at(0.9999)),
            max: us(self.histogram.max()),
            beyond_range: self.beyond,
        }
    }

    /// Every recorded value in nanoseconds with its count, so that runs can be added by whoever reads a report.
    pub fn counts(&self) -> Vec<(u64, u64)> {
        self.histogram
            .iter_recorded()
            .map(|step| (step.value_iterated_to(), step.count_since_last_iteration()))
            .collect()
    }
}

impl Default for Spread {
    fn default() -> Self {
        Spread::new()
    }
}

/// A distribution in the figures people ask for, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// How many durations.
    pub count: u64,
    /// The shortest.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// The standard deviation.
    pub stdev: f64,
    /// Half stay within.
    pub p50: f64,
    /// 90 % stay within.
    pub p90: f64,
    /// 95 % stay within.
    pub p95: f64,
    /// 99 % stay within.
    pub p99: f64,
    /// 99.9 % stay within.
    pub p999: f64,
    /// 99.99 % stay within.
    pub p9999: f64,
    /// The longest.
    pub max: f64,
    /// How many were longer than an hour, and are in no other figure.
    pub beyond_range: u64,
}

const HOUR_NS: u64 = 3_600_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_histograms_are_the_histogram_of_all() {
        let (mut left, mut right, mut both) = (Spread::new(), Spread::new(), Spread::new());
        for ns in (1..10_000).map(|n| n * n) {
            if ns % 3 == 0 { &mut left } else { &mut right }.record(ns, 2);
            both.record(ns, 2);
        }
        left.add(&right);
        assert_eq!(left.counts(), both.counts());
        assert_eq!(left.figures(), both.figures());
    }

    #[test]
    fn a_value_is_kept_to_three_digits_and_nothing_is_clamped() {
        let mut spread = Spread::new();
        spread.record(123_456_789, 1);
        assert!(spread.at(1.0).abs_diff(123_456_789) <= 123_456);
        spread.record(HOUR_NS * 3, 1);
        assert_eq!((spread.len(), spread.figures().beyond_range), (1, 1));
    }
}
