//! When a warm-up is over: after a least time, once what is measured no longer rises or falls. After three times the least
//! time it is over anyway, and the report says so.
//!
//! It looks at seconds that somebody else measured, and at no clock.

/// Watches the seconds of a warm-up.
#[derive(Clone, Debug)]
pub struct WarmUp {
    least_ns: u64,
    seconds: Vec<Sample>,
}

/// What a second of all workers came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Lines whose turn came, per second.
    pub offered_per_s: f64,
    /// Lines answered, per second.
    pub answered_per_s: f64,
    /// Half of the answers took no longer, in nanoseconds.
    pub response_p50_ns: f64,
}

/// What ended a warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// What was measured had become flat.
    Flat,
    /// It had not, and the time was up.
    Limit,
}

impl EndedBy {
    /// Its name in files.
    pub const fn as_str(self) -> &'static str {
        match self {
            EndedBy::Flat => "flat",
            EndedBy::Limit => "limit",
        }
    }
}

impl WarmUp {
    /// One of at least that long.
    pub fn new(least_ns: u64) -> WarmUp {
        WarmUp { least_ns, seconds: Vec::new() }
    }

    /// Another second is over.
    pub fn note(&mut self, second: Sample) {
        self.seconds.push(second);
    }

    /// Whether it is over at `now_ns` after its beginning, and by what.
    pub fn ended(&self, now_ns: u64) -> Option<EndedBy> {
        match now_ns {
            now_ns if now_ns < self.least_ns => None,
            _ if self.is_flat() => Some(EndedBy::Flat),
            now_ns if now_ns >= self.least_ns * LIMIT => Some(EndedBy::Limit),
            _ => None,
        }
    }

    /// Whether the last seconds went neither up nor down: throughput, and where the rate is given how long answers took; and
    /// whether as many lines were answered as were offered, for else a queue grows.
    fn is_flat(&self) -> bool {
        let Some(first) = self.seconds.len().checked_sub(SECONDS) else { return false };
        let last = &self.seconds[first..];
        let of = |value: fn(&Sample) -> f64| -> Vec<f64> { last.iter().map(value).collect() };
        let keeps_up = |second: &Sample| second.answered_per_s >= second.offered_per_s * (1.0 - DRIFT_MAX);
        last.iter().all(keeps_up)
            && drift(&of(|second| second.answered_per_s)) <= DRIFT_MAX
            && drift(&of(|second| second.response_p50_ns)) <= DRIFT_MAX * 2.0
    }
}

/// How far a line through the values rises or falls from the first to the last, as a share of their median. The slope is
/// the median of those between all pairs (Theil and Sen), so that one disturbed second does not decide.
fn drift(values: &[f64]) -> f64 {
    let mut slopes: Vec<f64> = Vec::new();
    for (at, value) in values.iter().enumerate() {
        slopes.extend(values[at + 1..].iter().zip(1..).map(|(later, distance)| (later - value) / f64::from(distance)));
    }
    let middle = median(&mut values.to_vec());
    if middle > 0.0 { (median(&mut slopes) * (values.len() - 1) as f64 / middle).abs() } else { f64::INFINITY }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 }
}

/// So many seconds have to be flat.
const SECONDS: usize = 3;
/// A tenth from the first to the last of them is flat; of latencies, which vary more, a fifth.
const DRIFT_MAX: f64 = 0.1;
/// A warm-up takes no longer than so many times its least time.
pub const LIMIT: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn after(seconds: &[(f64, f64)]) -> WarmUp {
        let mut warm_up = WarmUp::new(4 * S);
        for (answered, p50) in seconds {
            warm_up.note(Sample { offered_per_s: 1000.0, answered_per_s: *answered, response_p50_ns: *p50 });
        }
        warm_up
    }

    #[test]
    fn it_lasts_its_least_time_however_flat_it_is() {
        let flat = after(&[(1000.0, 50.0); 4]);
        assert_eq!(flat.ended(4 * S - 1), None);
        assert_eq!(flat.ended(4 * S), Some(EndedBy::Flat));
    }

    #[test]
    fn what_still_changes_is_waited_for_and_not_for_ever() {
        for (name, seconds) in [
            ("answers that come faster and faster", [(1000.0, 90.0), (1000.0, 70.0), (1000.0, 50.0), (1000.0, 30.0)]),
            ("a queue that grows", [(800.0, 50.0), (800.0, 50.0), (800.0, 50.0), (800.0, 50.0)]),
            ("throughput that rises", [(1000.0, 50.0), (1100.0, 50.0), (1250.0, 50.0), (1400.0, 50.0)]),
            ("silence", [(0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0)]),
        ] {
            let warm_up = after(&seconds);
            assert_eq!(warm_up.ended(12 * S - 1), None, "{name}");
            assert_eq!(warm_up.ended(12 * S), Some(EndedBy::Limit), "{name}");
        }
        let mut settled = after(&[(1000.0, 900.0), (1000.0, 300.0), (1000.0, 50.0), (1000.0, 50.0)]);
        assert_eq!(settled.ended(5 * S), None);
        settled.note(Sample { offered_per_s: 1000.0, answered_per_s: 1010.0, response_p50_ns: 52.0 });
        assert_eq!(settled.ended(6 * S), Some(EndedBy::Flat));
    }

    #[test]
    fn fewer_than_three_seconds_are_not_called_flat() {
        assert_eq!(after(&[(1000.0, 50.0); 2]).ended(11 * S), None);
    }

    #[test]
    fn the_drift_is_that_of_a_line_and_one_odd_value_does_not_make_it() {
        assert!((drift(&[100.0, 110.0, 120.0]) - 20.0 / 110.0).abs() < 1e-9);
        assert!((drift(&[120.0, 110.0, 100.0]) - 20.0 / 110.0).abs() < 1e-9);
        assert_eq!(drift(&[100.0, 100.0, 500.0, 100.0, 100.0]), 0.0);
    }
}
