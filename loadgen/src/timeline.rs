//! A run over time: one row per second and phase, made of what the workers hand over each second.
//!
//! It adds and subtracts, without a clock and without a file, and never on a measuring thread. The counts of a row are
//! those of its own time alone and rows leave no gap, so that the rows of a run add up to the run, exactly.
//!
//! # The series
//!
//! `--series FILE` writes each row as a line of JSON when its second is over, so that a run that is cut short leaves whole
//! lines. A row is a [`Row`]; all counts are numbers of lines unless they say otherwise.
//!
//! | key | means |
//! |---|---|
//! | `schema`, `run_id` | [`SCHEMA`], and the run as it is written in each line |
//! | `second` | the second of the run that the row began in, from 0; two rows share one where a phase ends within it |
//! | `phase` | `warmup`, `measured` or `drain`; a report counts the last two |
//! | `start_s`, `length_s` | when it began, in seconds from the first line's turn, and how long it was; a row begins where the one before ended |
//! | `target_per_s` | the rate that was asked for, on average over the row, 0 in the drain; null in a closed loop |
//! | `offered`, `acked`, `refused_as_meant`, `sent`, `failed` | lines whose turn came, that the server said it took, bad ones it refused, datagrams' lines, failed ones |
//! | `failures`, `faults` | failed lines by reason; what went wrong with connections by kind |
//! | `bytes`, `sends`, `connects`, `resent`, `nacks`, `goaways` | bytes and calls that went to sockets, connections opened, lines written again, answers |
//! | `late_ours`, `late_blocked` | lines sent late though a connection had room; because none had |
//! | `validity` | the worst [verdict](crate::validity::Verdict) of a worker on this row alone |
//! | `busy`, `queued`, `stolen` | shares of the workers' time: something to do, waiting for a processor, the processor given to another guest |
//! | `overslept_max_us` | how much later than it asked to a worker woke up at worst |
//! | `response_us`, `service_us`, `slip_us` | the [figures](crate::latency::Figures) of the row's own histograms, in microseconds |
//! | `response_counts`, `service_counts` | `[from, count]`: how many took from `from` nanoseconds up to the end of that bucket |
//!
//! A bucket is an eighth of an octave: it ends where [`bucket_end`] says, at `from + 2^(floor(log2 from) - 3)`, and below
//! 8 ns it is one nanosecond wide.

use crate::interval::{Interval, Phase};
use crate::latency::{Figures, Latency};
use crate::report::span;
use crate::tally::Tally;
use crate::validity::{Signs, Verdict};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// The name and version of the series' form.
pub const SCHEMA: &str = "ringest.series.v1";

/// Gathers what workers tell into seconds.
#[derive(Debug)]
pub struct Timeline {
    /// What each worker has told so far.
    told: Vec<Told>,
    /// Seconds that some worker has yet to tell about.
    open: BTreeMap<Key, Second>,
    /// The last one that was closed.
    last: Option<Key>,
    /// Where the last closed one ended.
    end_ns: u64,
    /// When the run began.
    began: SystemTime,
}

/// A second and the phase of it.
type Key = (u64, Phase);

/// How far one worker's story goes.
#[derive(Clone, Debug, Default)]
struct Told {
    tally: Tally,
    end_ns: u64,
    is_over: bool,
}

/// What all workers measured in one second, in full.
#[derive(Clone, Debug)]
pub struct Second {
    /// When the first line's turn was, by the wall clock.
    pub began: SystemTime,
    /// Its number in the run, from 0.
    pub number: u64,
    /// When it began, from the first line's turn.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// Counts of this second.
    pub tally: Tally,
    /// Latencies of what ended in this second.
    pub latency: Latency,
    /// Whether the schedule was kept.
    pub signs: Signs,
    /// The worst that is to be thought of a worker.
    pub verdict: Verdict,
    /// The part of the run that it belongs to.
    pub phase: Phase,
}

impl Timeline {
    /// A run of so many workers, the first line of which is due at `began`.
    pub fn new(workers: u64, began: SystemTime) -> Timeline {
        Timeline { told: vec![Told::default(); workers as usize], open: BTreeMap::new(), last: None, end_ns: 0, began }
    }

    /// Takes what a worker tells while it works, and what is to be thought of it.
    pub fn note(&mut self, worker: u16, interval: &Interval, verdict: Verdict) {
        let Interval { tally, latency, to_ns: end_ns, .. } = interval;
        let told = &mut self.told[usize::from(worker)];
        let counts = tally.since(&told.tally);
        let start_ns = told.end_ns;
        told.tally.clone_from(tally);
        told.end_ns = (*end_ns).max(start_ns);
        if counts == Tally::default() && latency.is_empty() && told.end_ns == start_ns {
            return;
        }
        // By its beginning, because a worker is a little late with its word, and never early.
        let mut key = (start_ns / SECOND_NS, interval.phase);
        if let Some(last) = self.last.filter(|last| *last >= key) {
            // Told late.
            key = self.open.first_key_value().map_or((last.0 + 1, interval.phase), |(first, _)| *first);
        }
        let begun = || Second { number: key.0, phase: key.1, ..Second::new(self.began) };
        let second = self.open.entry(key).or_insert_with(begun);
        second.tally.add(&counts);
        second.latency.add(latency);
        second.signs.add(&interval.signs);
        second.verdict = second.verdict.max(verdict);
        second.end_ns = second.end_ns.max(told.end_ns);
    }

    /// A worker has told all.
    pub fn note_end(&mut self, worker: u16) {
        self.told[usize::from(worker)].is_over = true;
    }

    /// The next second that every worker at work has told about. One that is far behind the others is not waited for: what
    /// it tells late counts when it is told.
    pub fn take(&mut self) -> Option<Second> {
        let newest = self.open.last_key_value()?.0.0;
        let first = *self.open.first_key_value()?.0;
        let end_ns = (first.0 + 1) * SECOND_NS;
        let is_whole = self.told.iter().all(|told| told.is_over || told.end_ns >= end_ns);
        (is_whole || newest - first.0 >= WAIT_MAX).then(|| self.close(first))
    }

    /// What is left where nobody will tell more.
    pub fn take_rest(&mut self) -> Option<Second> {
        let first = *self.open.first_key_value()?.0;
        Some(self.close(first))
    }

    fn close(&mut self, key: Key) -> Second {
        let mut second = self.open.remove(&key).expect("the caller saw it among the open ones");
        second.start_ns = self.end_ns;
        second.end_ns = second.end_ns.max(self.end_ns);
        self.end_ns = second.end_ns;
        self.last = Some(key);
        second
    }
}

impl Second {
    /// Nothing yet, of a run that began then.
    pub fn new(began: SystemTime) -> Second {
        Second {
            began,
            number: 0,
            start_ns: 0,
            end_ns: 0,
            tally: Tally::default(),
            latency: Latency::new(),
            signs: Signs::default(),
            verdict: Verdict::Ok,
            phase: Phase::WarmUp,
        }
    }

    /// How long it was.
    pub fn length_s(&self) -> f64 {
        (self.end_ns - self.start_ns) as f64 / 1e9
    }

    /// A count of this second as a rate.
    pub fn per_s(&self, count: u64) -> f64 {
        let length_s = self.length_s();
        if length_s > 0.0 { count as f64 / length_s } else { 0.0 }
    }

    /// The line of progress.
    pub fn line(&self) -> String {
        let Second { tally, latency, .. } = self;
        let (finished, failed) = (tally.finished(), tally.failed());
        let share = if finished == 0 { 0.0 } else { failed as f64 / finished as f64 * 100.0 };
        let us = |quantile| span(latency.response.at(quantile) as f64 / 1000.0);
        format!(
            "{:>4} s  {:>10.0} records/s  {failed} errors ({share:.2} %)  p50 {}  p99 {}",
            self.number + 1,
            self.per_s(finished),
            us(0.5),
            us(0.99)
        )
    }

    /// The row of the series, for a run that is to reach that rate.
    pub fn row(&self, run_id: &str, target_per_s: Option<f64>) -> Row {
        let Second { number, start_ns, tally, latency, signs, phase, verdict, .. } = self;
        let share = |ns: u64| if signs.span_ns == 0 { 0.0 } else { ns as f64 / signs.span_ns as f64 };
        Row {
            schema: SCHEMA.into(),
            run_id: run_id.into(),
            second: *number,
            phase: phase.as_str().into(),
            start_s: *start_ns as f64 / 1e9,
            length_s: self.length_s(),
            target_per_s,
            offered: tally.offered,
            acked: tally.acked,
            refused_as_meant: tally.refused_as_meant,
            sent: tally.sent,
            failed: tally.failed(),
            failures: tally.failures.clone(),
            faults: tally.faults.clone(),
            bytes: tally.bytes,
            sends: tally.sends,
            connects: tally.connects,
            resent: tally.resent,
            nacks: tally.nacks,
            goaways: tally.goaways,
            late_ours: signs.late_ours.count(),
            late_blocked: signs.late_blocked.count(),
            validity: verdict.as_str().into(),
            busy: signs.busy(),
            queued: share(signs.queued_ns),
            stolen: share(signs.stolen_ns),
            overslept_max_us: signs.overslept_max_ns as f64 / 1000.0,
            response_us: latency.response.figures(),
            service_us: latency.service.figures(),
            slip_us: latency.slip.figures(),
            response_counts: buckets(&latency.response.counts()),
            service_counts: buckets(&latency.service.counts()),
        }
    }
}

/// One line of the series. What the keys mean is said [above](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Row {
    /// The name and version of the form.
    #[cfg_attr(test, schemars(extend("const" = SCHEMA)))]
    pub schema: String,
    /// The run, as it is written in each line.
    pub run_id: String,
    /// The second of the run, from 0.
    pub second: u64,
    /// `warmup`, `measured` or `drain`.
    pub phase: String,
    /// When it began, in seconds from the first line's turn.
    pub start_s: f64,
    /// How long it was, in seconds.
    pub length_s: f64,
    /// The rate that was asked for, in lines per second; none in a closed loop.
    pub target_per_s: Option<f64>,
    /// Lines whose turn came.
    pub offered: u64,
    /// Lines the server said it took.
    pub acked: u64,
    /// Bad lines that were refused, as they should be.
    pub refused_as_meant: u64,
    /// Lines sent as datagrams.
    pub sent: u64,
    /// Lines that failed.
    pub failed: u64,
    /// Failed lines by the reason.
    pub failures: BTreeMap<String, u64>,
    /// What went wrong with connections, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Bytes given to sockets.
    pub bytes: u64,
    /// Calls that gave bytes to sockets.
    pub sends: u64,
    /// Connections opened.
    pub connects: u64,
    /// Lines written again.
    pub resent: u64,
    /// `$nack` answers.
    pub nacks: u64,
    /// `$goaway` answers.
    pub goaways: u64,
    /// Lines sent late though a connection had room.
    pub late_ours: u64,
    /// Lines sent late because no connection had room.
    pub late_blocked: u64,
    /// The worst verdict on a worker: `ok`, `server_bound`, `generator_bound` or `host_noise`.
    pub validity: String,
    /// Share of the workers' time in which they had something to do, 0 to 1.
    pub busy: f64,
    /// Share of their time in which they could have run and another thread had the processor, 0 to 1.
    pub queued: f64,
    /// Share of their time in which the processor was given to another guest of the host, 0 to 1.
    pub stolen: f64,
    /// How much later than it asked to a worker woke up at worst, in microseconds.
    pub overslept_max_us: f64,
    /// Response times of this row, in microseconds.
    pub response_us: Figures,
    /// Service times of this row, in microseconds.
    pub service_us: Figures,
    /// How late lines were sent, in microseconds.
    pub slip_us: Figures,
    /// Response times by bucket: where it begins in nanoseconds, and how many.
    pub response_counts: Vec<(u64, u64)>,
    /// Service times by bucket.
    pub service_counts: Vec<(u64, u64)>,
}

/// Where the bucket that holds `ns` begins: eight to an octave.
pub fn bucket(ns: u64) -> u64 {
    let drop = bucket_bits(ns);
    ns >> drop << drop
}

/// Where the bucket that begins at `from` ends: the first nanosecond that is no longer in it.
pub fn bucket_end(from: u64) -> u64 {
    from.saturating_add(1 << bucket_bits(from))
}

fn bucket_bits(ns: u64) -> u32 {
    ns.max(1).ilog2().saturating_sub(BUCKETS_PER_OCTAVE.ilog2())
}

/// The histograms' own buckets are powers of two as well, and finer, so that none of them lies in two of these.
fn buckets(counts: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut sums: Vec<(u64, u64)> = Vec::new();
    for (ns, count) in counts {
        let from = bucket(*ns);
        match sums.last_mut() {
            Some((last, sum)) if *last == from => *sum += count,
            Some(_) | None => sums.push((from, *count)),
        }
    }
    sums
}

const SECOND_NS: u64 = 1_000_000_000;
/// An open second holds three histograms, 0.8 MB.
const WAIT_MAX: u64 = 5;
const BUCKETS_PER_OCTAVE: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A worker that counts one line more than the last time, each of `ns`.
    fn interval(offered: u64, ns: u64, end_ns: u64) -> Interval {
        let mut latency = Latency::new();
        latency.response.record(ns, 1);
        let tally = Tally { offered, ..Tally::default() };
        Interval { phase: Phase::Measured, from_ns: 0, to_ns: end_ns, tally, latency, signs: Signs::default() }
    }

    fn offered(seconds: &[Second]) -> Vec<(u64, u64)> {
        seconds.iter().map(|second| (second.number, second.tally.offered)).collect()
    }

    #[test]
    fn a_second_waits_for_every_worker_and_holds_what_each_did_in_it() {
        let mut timeline = Timeline::new(2, SystemTime::UNIX_EPOCH);
        timeline.note(0, &interval(10, 100, SECOND_NS + 300), Verdict::Ok);
        assert!(timeline.take().is_none(), "the other worker has not told");
        timeline.note(0, &interval(25, 100, 2 * SECOND_NS + 10), Verdict::Ok);
        timeline.note(1, &interval(7, 100, SECOND_NS + 90_000), Verdict::Ok);
        let first = timeline.take().unwrap();
        assert_eq!((first.number, first.tally.offered, first.latency.response.len()), (0, 17, 2));
        assert_eq!((first.start_ns, first.end_ns), (0, SECOND_NS + 90_000));
        assert!(timeline.take().is_none());
        timeline.note(1, &interval(8, 100, 2 * SECOND_NS), Verdict::Ok);
        let second = timeline.take().unwrap();
        assert_eq!((second.number, second.tally.offered), (1, 16));
        assert_eq!(second.start_ns, first.end_ns, "there is no gap");
    }

    #[test]
    fn a_worker_that_hangs_is_not_waited_for_and_still_counts() {
        let mut timeline = Timeline::new(2, SystemTime::UNIX_EPOCH);
        let mut seconds = Vec::new();
        for number in 1..=20 {
            timeline.note(0, &interval(number * 10, 100, number * SECOND_NS), Verdict::Ok);
            seconds.extend(std::iter::from_fn(|| timeline.take()));
            assert!(timeline.open.len() as u64 <= WAIT_MAX);
        }
        timeline.note(1, &interval(5, 100, 20 * SECOND_NS), Verdict::Ok);
        seconds.extend(std::iter::from_fn(|| timeline.take()));
        assert_eq!(seconds.len(), 20);
        assert_eq!(seconds.iter().map(|second| second.tally.offered).sum::<u64>(), 205);
        assert!(seconds.windows(2).all(|pair| pair[0].end_ns == pair[1].start_ns), "{:?}", offered(&seconds));
    }

    #[test]
    fn a_second_in_which_a_phase_ends_is_two_rows_and_the_worst_verdict_is_shown() {
        let mut timeline = Timeline::new(1, SystemTime::UNIX_EPOCH);
        let warm_up = Interval { phase: Phase::WarmUp, ..interval(10, 100, SECOND_NS / 2) };
        timeline.note(0, &warm_up, Verdict::GeneratorBound);
        timeline.note(0, &interval(30, 100, SECOND_NS + 7), Verdict::Ok);
        let rows: Vec<Row> =
            std::iter::from_fn(|| timeline.take()).map(|second| second.row("7f3a9c01", None)).collect();
        let said: Vec<_> =
            rows.iter().map(|row| (row.second, row.phase.as_str(), row.offered, row.validity.as_str())).collect();
        assert_eq!(said, [(0, "warmup", 10, "generator_bound"), (0, "measured", 20, "ok")]);
        assert_eq!((rows[0].length_s, rows[1].start_s), (0.5, 0.5));
    }

    proptest! {
        #[test]
        fn the_rows_add_up_to_the_run_however_the_workers_tell(
            steps in prop::collection::vec((0u16..3, 0u64..50, 1u64..4_000), 1..80),
        ) {
            let mut timeline = Timeline::new(3, SystemTime::UNIX_EPOCH);
            let mut told = [(0, 0); 3];
            let (mut seconds, mut whole) = (Vec::new(), Latency::new());
            for (worker, more, ms) in steps {
                let (lines, end_ns) = &mut told[usize::from(worker)];
                *lines += more;
                *end_ns += ms * 1_000_000;
                let interval = interval(*lines, ms, *end_ns);
                whole.add(&interval.latency);
                timeline.note(worker, &interval, Verdict::Ok);
                seconds.extend(std::iter::from_fn(|| timeline.take()));
            }
            seconds.extend(std::iter::from_fn(|| timeline.take_rest()));
            let mut sum = Latency::new();
            seconds.iter().for_each(|second| sum.add(&second.latency));
            prop_assert_eq!(sum.response.counts(), whole.response.counts());
            prop_assert_eq!(
                seconds.iter().map(|second| second.tally.offered).sum::<u64>(),
                told.iter().map(|(lines, _)| lines).sum::<u64>()
            );
            prop_assert!(seconds.windows(2).all(|pair| pair[0].number < pair[1].number));
            prop_assert!(seconds.windows(2).all(|pair| pair[0].end_ns == pair[1].start_ns));
            prop_assert_eq!(seconds.last().unwrap().end_ns, told.iter().map(|(_, end_ns)| *end_ns).max().unwrap());
        }

        #[test]
        fn a_duration_lies_in_its_bucket_and_in_no_other(ns in 0u64..(1 << 45)) {
            let from = bucket(ns);
            prop_assert!(from <= ns && ns < bucket_end(from));
            prop_assert_eq!(bucket(from), from);
            prop_assert_eq!(bucket(bucket_end(from) - 1), from);
            prop_assert!((bucket_end(from) - from) as f64 <= (from as f64 / 8.0).max(1.0));
        }
    }

    #[test]
    fn buckets_hold_as_many_as_the_histogram() {
        let mut latency = Latency::new();
        (0..5_000u64).for_each(|n| latency.response.record(n * n * n, 3));
        let second = Second { latency, end_ns: SECOND_NS, ..Second::new(SystemTime::UNIX_EPOCH) };
        let row = second.row("7f3a9c01", Some(100.0));
        assert_eq!(row.response_counts.iter().map(|(_, count)| count).sum::<u64>(), 15_000);
        assert!(row.response_counts.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(row.response_counts.len() < 300, "sparse, and coarse enough to be drawn");
        assert_eq!(row, serde_json::from_str(&serde_json::to_string(&row).unwrap()).unwrap());
    }
}
