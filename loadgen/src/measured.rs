//! What was measured, in counts and histograms: what every figure of a report is made of, and what adds up.
//!
//! A report can be taken apart into it again, without loss, so that the report of several shards is the report of one run
//! that measured the same.

use crate::latency::Latency;
use crate::report::{Client, Histograms, Rate, Results, Test};
use crate::tally::Tally;

/// What one run, or a shard of one, measured.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// What became of the lines.
    pub tally: Tally,
    /// How long that took.
    pub latency: Latency,
    /// From the first line's turn to the last answer.
    pub span_ns: u64,
    /// Processor time of the workers.
    pub cpu_ns: u64,
    /// Workers.
    pub workers: u64,
    /// The rate that was asked for; none in a closed loop.
    pub target_per_s: Option<f64>,
}

impl Measured {
    /// What a report was made of.
    ///
    /// # Errors
    /// A sentence, where what stands there as a histogram is none.
    pub fn of(test: &Test) -> Result<Measured, String> {
        let results = &test.results;
        let ns = |seconds: f64| (seconds * 1e9).round() as u64;
        let tally = Tally {
            offered: results.offered,
            acked: results.acked,
            refused_as_meant: results.refused_as_meant,
            sent: results.sent,
            filtered: results.filtered,
            duplicate: results.duplicate,
            resent: results.resent,
            bytes: results.bytes,
            sends: results.sends,
            connects: results.connects,
            nacks: results.nacks,
            goaways: results.goaways,
            failures: results.failures.clone(),
            faults: results.faults.clone(),
            habits: results.habits.clone(),
            ..Tally::default()
        };
        Ok(Measured {
            tally,
            latency: results.latency()?,
            span_ns: ns(results.span_s),
            cpu_ns: ns(test.resources.client.cpu_s),
            workers: test.config.workers,
            target_per_s: results.rate.map(|rate| rate.target),
        })
    }

    /// Adds what another shard measured beside this one, at the same time.
    pub fn add(&mut self, other: &Measured) {
        self.tally.add(&other.tally);
        self.latency.add(&other.latency);
        self.span_ns = self.span_ns.max(other.span_ns);
        self.cpu_ns += other.cpu_ns;
        self.workers += other.workers;
        self.target_per_s = self.target_per_s.zip(other.target_per_s).map(|(one, two)| one + two);
    }

    /// The figures of a report.
    pub fn results(&self) -> Results {
        let Measured { tally, latency, span_ns, .. } = self;
        let span_s = *span_ns as f64 / 1e9;
        let per_s = |count: u64| if span_s > 0.0 { count as f64 / span_s } else { 0.0 };
        let rate = self.target_per_s.map(|target| {
            let achieved = per_s(tally.offered);
            Rate { target, achieved, ratio: achieved / target }
        });
        Results {
            offered: tally.offered,
            acked: tally.acked,
            refused_as_meant: tally.refused_as_meant,
            sent: tally.sent,
            failed: tally.failed(),
            failures: tally.failures.clone(),
            faults: tally.faults.clone(),
            habits: tally.habits.clone(),
            error_rate: tally.error_rate(),
            filtered: tally.filtered,
            duplicate: tally.duplicate,
            resent: tally.resent,
            bytes: tally.bytes,
            sends: tally.sends,
            connects: tally.connects,
            nacks: tally.nacks,
            goaways: tally.goaways,
            span_s,
            throughput_per_s: per_s(tally.acked + tally.sent),
            bytes_per_s: per_s(tally.bytes),
            rate,
            response_us: latency.response.figures(),
            service_us: latency.service.figures(),
            slip_us: latency.slip.figures(),
            histograms: Histograms::of(latency),
        }
    }

    /// What the generator cost.
    pub fn client(&self) -> Client {
        Client {
            cpu_ns_per_record: ratio(self.cpu_ns, self.tally.offered),
            cpu_s: self.cpu_ns as f64 / 1e9,
            busy: ratio(self.cpu_ns, self.span_ns * self.workers).min(1.0),
        }
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
