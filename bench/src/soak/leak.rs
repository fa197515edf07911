//! Whether something grows without end, from samples of it: the slope of its lower envelope, with an interval.
//!
//! Memory goes up and down with the load; what is leaked never comes down. So of each window the least counts, of these
//! the last half of the run, and over them the Theil-Sen slope: the median of the slopes between any two, which a few odd
//! windows do not move. The interval is Sen's, from the order of those slopes, and assumes nothing about how samples are
//! spread. A verdict is by its lower end: what is said to leak does so with 97.5 % confidence.

/// A value at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Seconds since the start of the run.
    pub at_s: f64,
    /// In whatever unit.
    pub value: f64,
}

/// How fast something grows, per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slope {
    /// The median of the slopes between any two windows.
    pub per_s: f64,
    /// It is at least this, with 97.5 % confidence.
    pub low: f64,
    /// It is at most this, with 97.5 % confidence.
    pub high: f64,
    /// How many windows it is from.
    pub windows: usize,
}

/// Why there is no slope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFew {
    /// Windows that there were in the last half.
    pub windows: usize,
}

/// The slope of the lower envelope over the last half of the run.
///
/// # Errors
/// Where that has fewer than [`WINDOWS_MIN`] windows of `window_s` seconds with a sample: too few to conclude anything.
pub fn slope(samples: &[Sample], window_s: f64) -> Result<Slope, TooFew> {
    let envelope = envelope(samples, window_s);
    let half = samples.last().map_or(0.0, |last| (samples[0].at_s + last.at_s) / 2.0);
    let settled: Vec<Sample> = envelope.into_iter().filter(|sample| sample.at_s >= half).collect();
    if settled.len() < WINDOWS_MIN {
        return Err(TooFew { windows: settled.len() });
    }
    Ok(theil_sen(&settled))
}

/// The least sample of each window, in order.
fn envelope(samples: &[Sample], window_s: f64) -> Vec<Sample> {
    let window = |sample: &Sample| (sample.at_s / window_s).floor();
    let least = |group: &[Sample]| group.iter().copied().min_by(|a, b| a.value.total_cmp(&b.value));
    samples.chunk_by(|a, b| window(a) == window(b)).filter_map(least).collect()
}

fn theil_sen(samples: &[Sample]) -> Slope {
    let mut slopes = Vec::with_capacity(samples.len() * (samples.len() - 1) / 2);
    for (at, a) in samples.iter().enumerate() {
        slopes.extend(samples[at + 1..].iter().map(|b| (b.value - a.value) / (b.at_s - a.at_s)));
    }
    slopes.sort_by(f64::total_cmp);
    let (n, count) = (samples.len() as f64, slopes.len() as f64);
    // The deviation of Kendall's statistic of n values in random order.
    let spread = Z_975 * (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt();
    let low = ((count - spread) / 2.0).floor().max(0.0) as usize;
    // As many from the other end.
    let high = slopes.len() - 1 - low;
    let middle = slopes.len() / 2;
    let median = if slopes.len() % 2 == 1 { slopes[middle] } else { (slopes[middle - 1] + slopes[middle]) / 2.0 };
    Slope { per_s: median, low: slopes[low], high: slopes[high], windows: samples.len() }
}

/// With fewer than six values no order of slopes is rare enough for the interval.
pub const WINDOWS_MIN: usize = 6;
const Z_975: f64 = 1.959_964;

#[cfg(test)]
mod tests {
    use super::*;

    /// A sample a second for an hour of a process of 50 MB that takes up to 20 MB more and gives them back.
    fn hour(leak_per_s: f64, noise: impl Fn(u64) -> f64) -> Vec<Sample> {
        (0..3600u64).map(|at| Sample { at_s: at as f64, value: 50e6 + leak_per_s * at as f64 + noise(at) }).collect()
    }

    fn saw(at: u64) -> f64 {
        (at % 97) as f64 * 200_000.0
    }

    #[test]
    fn a_saw_tooth_does_not_leak_and_200_kb_per_hour_do() {
        let flat = slope(&hour(0.0, saw), 120.0).unwrap();
        assert!(flat.low <= 0.0 && flat.high >= 0.0, "{flat:?}");
        let leak = slope(&hour(200_000.0 / 3600.0, saw), 120.0).unwrap();
        assert!(leak.low * 3600.0 > 150_000.0 && leak.high * 3600.0 < 250_000.0, "{leak:?}");
    }

    #[test]
    fn what_a_server_takes_once_at_its_start_is_no_leak() {
        let mut samples = hour(0.0, saw);
        samples.iter_mut().take(1500).for_each(|sample| sample.value -= 40e6 * (1.0 - sample.at_s / 1500.0));
        let slope = slope(&samples, 120.0).unwrap();
        assert!(slope.low <= 0.0, "{slope:?}");
    }

    #[test]
    fn a_few_odd_windows_move_nothing() {
        let odd = |at: u64| saw(at) + if (2900..3000).contains(&at) { 30e6 } else { 0.0 };
        let slope = slope(&hour(0.0, odd), 120.0).unwrap();
        assert!(slope.low <= 0.0 && slope.per_s.abs() * 3600.0 < 1e6, "{slope:?}");
    }

    #[test]
    fn too_few_windows_prove_nothing() {
        let samples = hour(0.0, saw);
        assert_eq!(slope(&samples[..1200], 120.0), Err(TooFew { windows: 5 }));
        assert!(slope(&samples[..1440], 120.0).is_ok());
        assert_eq!(slope(&[], 120.0), Err(TooFew { windows: 0 }));
    }

    #[test]
    fn the_median_of_slopes_is_the_one_of_the_books() {
        // Sen (1968): x = 1 2 3 4 10 12 18, y = 9 15 19 20 45 55 78; the median of 21 slopes is 4.
        let x = [1.0, 2.0, 3.0, 4.0, 10.0, 12.0, 18.0];
        let y = [9.0, 15.0, 19.0, 20.0, 45.0, 55.0, 78.0];
        let samples: Vec<Sample> = x.into_iter().zip(y).map(|(at_s, value)| Sample { at_s, value }).collect();
        let slope = theil_sen(&samples);
        assert_eq!(slope.per_s, 4.0);
        assert!(slope.low >= 3.5 && slope.high <= 4.5, "{slope:?}");
    }
}
