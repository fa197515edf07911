//! Where a record's time goes, stage by stage: how often each was passed, and how long it took.
//!
//! One entry per chunk, batch, write, sync or send, never per record, so that it can always be on. A histogram is a fixed
//! row of counters: nothing is allocated, and two of them add up exactly.

use std::time::Duration;

/// A part of a record's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A chunk, from when the kernel said that there is something until it is looked at: its receive, and the turns of others
    /// before it. Where a session had to wait for room, that is an entry too.
    Receive,
    /// A chunk: its lines are found, checked and copied into a batch.
    Parse,
    /// A batch, from its first record until it is given to the disk.
    Queue,
    /// A write of a batch.
    Write,
    /// A sync, which usually covers several batches.
    Sync,
    /// A send of answers, from when they may be said until the kernel has taken them.
    Ack,
}

impl Stage {
    /// How many there are.
    pub const COUNT: usize = 6;
    /// All of them, in a record's order.
    pub const ALL: [Stage; Stage::COUNT] =
        [Stage::Receive, Stage::Parse, Stage::Queue, Stage::Write, Stage::Sync, Stage::Ack];

    /// The name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Receive => "receive",
            Stage::Parse => "parse",
            Stage::Queue => "queue",
            Stage::Write => "write",
            Stage::Sync => "sync",
            Stage::Ack => "ack",
        }
    }
}

/// How long every stage took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stages([Histogram; Stage::COUNT]);

impl Stages {
    /// Those of one stage.
    pub fn get(&self, stage: Stage) -> &Histogram {
        &self.0[stage as usize]
    }

    /// Adds what others took.
    pub fn add(&mut self, other: &Stages) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            mine.add(theirs);
        }
    }

    pub(crate) fn record(&mut self, stage: Stage, took: Duration) {
        self.0[stage as usize].record(took);
    }
}

/// Counts of durations, in buckets whose width is a quarter of their octave: a quantile is off by 25 % at most, upwards.
/// What took 512 ns or less is in the first; what took more than 68 s is in the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; Histogram::BUCKETS],
    sum_ns: u64,
}

impl Histogram {
    /// How many buckets there are.
    pub const BUCKETS: usize = 1 + OCTAVES * QUARTERS + 1;

    /// One that was taken down elsewhere: buckets by number with what they hold, and the sum. `None` where there is no such
    /// bucket.
    pub fn from_counts(counts: impl IntoIterator<Item = (usize, u64)>, sum: Duration) -> Option<Histogram> {
        let mut histogram = Histogram { sum_ns: u64::try_from(sum.as_nanos()).ok()?, ..Histogram::default() };
        for (at, count) in counts {
            *histogram.counts.get_mut(at)? += count;
        }
        Some(histogram)
    }

    /// How many durations there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them together.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// Every bucket: the longest duration it holds, `None` for the last, and how many it holds.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        self.counts.iter().enumerate().map(|(at, &count)| (upper_ns(at).map(Duration::from_nanos), count))
    }

    /// The end of the bucket in which the `q`-th part of all durations is reached, `q` from 0 to 1; `None` where there are
    /// none. Of those that are too long for any bucket, the longest that fits.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = ((q * count as f64).ceil() as u64).clamp(1, count);
        let mut seen = 0;
        let at = self.counts.iter().position(|&here| {
            seen += here;
            seen >= rank
        });
        let ns = at.and_then(upper_ns).unwrap_or(LAST_NS);
        Some(Duration::from_nanos(ns))
    }

    /// Adds what others counted.
    pub fn add(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// What was counted since `earlier`, which is an older state of the same histogram.
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let mut delta = self.clone();
        for (mine, theirs) in delta.counts.iter_mut().zip(&earlier.counts) {
            *mine = mine.saturating_sub(*theirs);
        }
        delta.sum_ns = delta.sum_ns.saturating_sub(earlier.sum_ns);
        delta
    }

    pub(crate) fn record(&mut self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.counts[index(ns)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: [0; Histogram::BUCKETS], sum_ns: 0 }
    }
}

/// Bucket `1 + 4 * octave + quarter` holds what is longer than `(4 + quarter) / 4` times the octave's start, and at most
/// `(5 + quarter) / 4` times.
fn index(ns: u64) -> usize {
    if ns <= FIRST_NS {
        return 0;
    }
    let ns = ns - 1; // A bucket holds its end, not its start.
    let log = ns.ilog2();
    let octave = (log - FIRST_NS.ilog2()) as usize;
    let quarter = (ns >> (log - QUARTERS.ilog2())) as usize % QUARTERS;
    (1 + octave * QUARTERS + quarter).min(Histogram::BUCKETS - 1)
}

/// The longest duration that belongs in a bucket.
fn upper_ns(at: usize) -> Option<u64> {
    match at {
        0 => Some(FIRST_NS),
        at if at == Histogram::BUCKETS - 1 => None,
        at => {
            let (octave, quarter) = ((at - 1) / QUARTERS, (at - 1) % QUARTERS);
            Some((FIRST_NS << octave) / QUARTERS as u64 * (QUARTERS + 1 + quarter) as u64)
        }
    }
}

const FIRST_NS: u64 = 512;
/// Up to 68.7 s: longer than any stage may take before a breaker or a deadline ends it.
const OCTAVES: usize = 27;
const QUARTERS: usize = 4;
const LAST_NS: u64 = FIRST_NS << OCTAVES;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(durations: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        durations.iter().for_each(|&ns| histogram.record(Duration::from_nanos(ns)));
        histogram
    }

    #[test]
    fn each_duration_is_in_the_bucket_whose_bounds_hold_it() {
        let uppers: Vec<u64> = (0..Histogram::BUCKETS - 1).map(|at| upper_ns(at).unwrap()).collect();
        assert!(uppers.is_sorted_by(|a, b| a < b));
        assert_eq!((uppers[0], uppers[1], uppers[4], uppers[5]), (512, 640, 1024, 1280));
        assert_eq!(*uppers.last().unwrap(), LAST_NS);
        for (at, &upper) in uppers.iter().enumerate() {
            assert_eq!((index(upper), index(upper + 1)), (at, at + 1), "{upper}");
        }
        assert_eq!((index(0), index(u64::MAX)), (0, Histogram::BUCKETS - 1));
    }

    #[test]
    fn a_quantile_is_the_end_of_its_bucket() {
        assert_eq!(Histogram::default().quantile(0.5), None);
        let histogram = of(&[100, 600, 1_000, 1_000_000]);
        let at = |q| histogram.quantile(q).unwrap().as_nanos();
        assert_eq!([at(0.0), at(0.25), at(0.5), at(0.75), at(1.0)], [512, 512, 640, 1024, 1_048_576]);
        assert_eq!(of(&[u64::MAX]).quantile(0.5).unwrap().as_nanos(), u128::from(LAST_NS));
    }

    #[test]
    fn sums_and_differences_are_exact() {
        let (early, late) = (of(&[5, 700]), of(&[5, 700, 700, 90_000]));
        let mut sum = late.since(&early);
        assert_eq!((sum.count(), sum.sum()), (2, Duration::from_nanos(90_700)));
        sum.add(&early);
        assert_eq!(sum, late);
        assert_eq!(late.buckets().map(|(_, count)| count).sum::<u64>(), 4);
        let taken_down: Vec<(usize, u64)> = late.buckets().map(|(_, count)| count).enumerate().collect();
        assert_eq!(Histogram::from_counts(taken_down, late.sum()), Some(late));
        assert_eq!(Histogram::from_counts([(Histogram::BUCKETS, 1)], Duration::ZERO), None);
    }
}
