//! Latencies: three histograms of one worker, and their sum over all.
//!
//! Percentiles come from added histograms, never from averaged percentiles, and nothing is clamped: what passes the
//! range is counted. The one place that knows the hdrhistogram crate.

use base64::prelude::{BASE64_STANDARD, Engine};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
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
        let histogram = Histogram::new_with_bounds(1, HOUR_NS, DIGITS).expect("these bounds and digits are valid");
        Spread { histogram, beyond: 0 }
    }

    /// Durations in nanoseconds, each with how often it came: what [`counts`](Spread::counts) gives.
    pub fn of(counts: &[(u64, u64)]) -> Spread {
        let mut spread = Spread::new();
        counts.iter().for_each(|(ns, count)| spread.record(*ns, *count));
        spread
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

    /// The shortest, 0 where there is none.
    pub fn min(&self) -> u64 {
        if self.histogram.is_empty() { 0 } else { self.histogram.min() }
    }

    /// The longest, 0 where there is none.
    pub fn max(&self) -> u64 {
        self.histogram.max()
    }

    /// The mean in nanoseconds.
    pub fn mean(&self) -> f64 {
        self.histogram.mean()
    }

    /// The standard deviation in nanoseconds.
    pub fn stdev(&self) -> f64 {
        self.histogram.stdev()
    }

    /// How many were counted within the range.
    pub fn len(&self) -> u64 {
        self.histogram.len()
    }

    /// Whether none was, within the range or beyond it.
    pub fn is_empty(&self) -> bool {
        self.histogram.is_empty() && self.beyond == 0
    }

    /// How many stayed within `ns`, to three digits.
    pub fn count_upto(&self, ns: u64) -> u64 {
        self.histogram.count_between(0, ns)
    }

    /// How many were longer than the range.
    pub fn beyond(&self) -> u64 {
        self.beyond
    }

    /// The figures of a report, in microseconds.
    pub fn figures(&self) -> Figures {
        let us = |ns: u64| ns as f64 / 1000.0;
        Figures {
            count: self.len(),
            min: us(self.min()),
            mean: self.mean() / 1000.0,
            stdev: self.stdev() / 1000.0,
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

    /// The distribution in steps that halve the distance to the whole after each `ticks`.
    pub fn steps(&self, ticks: u32) -> impl Iterator<Item = Step> {
        let mut upto = 0;
        self.histogram.iter_quantiles(ticks).map(move |step| {
            upto += step.count_since_last_iteration();
            Step { ns: step.value_iterated_to(), quantile: step.quantile_iterated_to(), upto }
        })
    }

    /// Buckets of [`SUB_BUCKETS`], as HdrHistogram counts them.
    pub fn buckets(&self) -> usize {
        self.histogram.distinct_values() / (SUB_BUCKETS / 2) - 1
    }

    /// HdrHistogram's V2 form, deflated, in base64: what every port of it reads. Durations beyond the range are not in it.
    pub fn encode(&self) -> String {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&self.histogram, &mut bytes).expect("memory takes every histogram");
        BASE64_STANDARD.encode(bytes)
    }

    /// Reads what [`encode`](Spread::encode) wrote, `beyond` being what is not in it.
    ///
    /// # Errors
    /// A sentence, where it is no histogram, or one of other bounds.
    pub fn decode(text: &str, beyond: u64) -> Result<Spread, String> {
        let bytes = BASE64_STANDARD.decode(text).map_err(|error| format!("no base64: {error}"))?;
        let histogram: Histogram<u64> =
            Deserializer::new().deserialize(&mut bytes.as_slice()).map_err(|error| format!("no histogram: {error}"))?;
        if (histogram.low(), histogram.high(), histogram.sigfig()) != (1, HOUR_NS, DIGITS) {
            return Err("its bounds are not 1 ns to 1 h with three digits".into());
        }
        Ok(Spread { histogram, beyond })
    }

    /// Every recorded value in nanoseconds with its count.
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

/// One step of a distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The duration.
    pub ns: u64,
    /// Which share stays within it, 0 to 1.
    pub quantile: f64,
    /// How many stay within it.
    pub upto: u64,
}

/// A distribution in the figures people ask for, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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

/// Five steps, then the distance to the whole is halved: what HdrHistogram's tools print.
pub const HALVING_TICKS: u32 = 5;
/// The values that a bucket of three digits tells apart.
pub const SUB_BUCKETS: usize = 2048;
const DIGITS: u8 = 3;
const HOUR_NS: u64 = 3_600_000_000_000;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What an encoded histogram holds, for tests that read it by other means.
    pub(crate) fn unbase64(text: &str) -> Vec<u8> {
        BASE64_STANDARD.decode(text).unwrap()
    }

    #[test]
    fn a_histogram_survives_being_written_and_read() {
        let mut spread = Spread::new();
        (1..5_000u64).for_each(|n| spread.record(n * n * 1_003, n));
        spread.record(HOUR_NS * 3, 4);
        let read = Spread::decode(&spread.encode(), spread.beyond()).unwrap();
        assert_eq!(read.counts(), spread.counts());
        assert_eq!(read.figures(), spread.figures());
        assert_eq!(Spread::of(&spread.counts()).counts(), spread.counts());
        assert_eq!(Spread::decode(&Spread::new().encode(), 0).unwrap().figures(), Spread::new().figures());
        assert!(Spread::decode("HISTnot base64", 0).is_err() && Spread::decode("AAAA", 0).is_err());
    }

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
