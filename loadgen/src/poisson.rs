//! Lines that come independently of one another, as those of many clients do: the distances between them are
//! exponential, and the seed alone decides them.
//!
//! Line `k` lies at the sum of its and all earlier distances. Distances are drawn by number, so any block of them can be
//! drawn again; what is kept is where each block begins, and the few blocks that are in use.

use crate::draw;
use crate::law::{PART_BITS, Place};
use std::fmt;

/// The places of one worker's lines.
#[derive(Clone)]
pub(crate) struct Poisson {
    key: u64,
    /// The mean distance, in parts of a line.
    mean: f64,
    /// Where each block begins: the place of the last line before it.
    begins: Vec<u64>,
    /// Blocks that are drawn: number `n` is kept at `n % KEPT`.
    kept: Vec<Block>,
}

#[derive(Clone)]
struct Block {
    number: u64,
    places: [u64; BLOCK],
}

impl Poisson {
    /// The lines of worker `worker` of `workers`, which together are as many as the run's: a line in `workers`.
    pub(crate) fn new(seed: u64, worker: u64, workers: u64) -> Poisson {
        let none = Block { number: u64::MAX, places: [0; BLOCK] };
        Poisson {
            // A worker's distances have nothing to do with the text of its lines, nor with another worker's.
            key: draw::nth(draw::nth(seed, ARRIVALS), worker),
            mean: (workers << PART_BITS) as f64,
            begins: vec![0],
            kept: vec![none; KEPT],
        }
    }

    /// Where line `k` lies.
    pub(crate) fn place(&mut self, k: u64) -> Place {
        let (number, at) = (k / BLOCK as u64, (k % BLOCK as u64) as usize);
        Place(self.block(number).places[at])
    }

    /// How many lines lie before that place.
    pub(crate) fn before(&mut self, end: Place) -> u64 {
        while self.begins.last().is_some_and(|begin| *begin < end.0) {
            self.block(self.begins.len() as u64 - 1);
        }
        let number = self.begins.partition_point(|begin| *begin < end.0).saturating_sub(1) as u64;
        let block = self.block(number);
        number * BLOCK as u64 + block.places.partition_point(|place| *place < end.0) as u64
    }

    fn block(&mut self, number: u64) -> &Block {
        // A block begins where the one before ends.
        while (self.begins.len() as u64) <= number {
            self.draw(self.begins.len() as u64 - 1);
        }
        let slot = number as usize % KEPT;
        if self.kept[slot].number != number {
            self.draw(number);
        }
        &self.kept[slot]
    }

    fn draw(&mut self, number: u64) {
        let block = &mut self.kept[number as usize % KEPT];
        block.number = number;
        let mut place = self.begins[number as usize];
        let first = number * BLOCK as u64;
        for (k, slot) in (first..).zip(&mut block.places) {
            // Rounded to a part of a line, up as often as down: the mean stays what it is.
            place += (self.mean * exponential(draw::nth(self.key, k))).round() as u64;
            *slot = place;
        }
        if self.begins.len() as u64 == number + 1 {
            self.begins.push(place);
        }
    }
}

impl fmt::Debug for Poisson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poisson").field("key", &self.key).field("blocks", &self.begins.len()).finish_non_exhaustive()
    }
}

/// A number with the exponential distribution of mean 1, out of an evenly distributed one.
fn exponential(random: u64) -> f64 {
    // 53 bits, and never 0: between 2^-53 and 1.
    -ln(((random >> 11) + 1) as f64 / (1u64 << 53) as f64)
}

/// The natural logarithm of a number that is above 0 and normal. Spelled out, because the one of the system's library may
/// differ in its last bit from the next system's, and a seed is to mean the same times everywhere.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i32 - 1023;
    let mut mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1;
    }
    // ln m = 2 artanh((m - 1) / (m + 1)), and the fraction is below 0.172: what is left out is below 1e-13.
    let fraction = (mantissa - 1.0) / (mantissa + 1.0);
    let square = fraction * fraction;
    let series = (1..=7).rev().fold(0.0, |sum, n| sum * square + 1.0 / f64::from(2 * n - 1));
    f64::from(exponent) * std::f64::consts::LN_2 + 2.0 * fraction * series
}

/// Lines per block: its drawing takes a few microseconds.
const BLOCK: usize = 256;
/// Blocks that are kept drawn, for the answers to lines that were sent a while ago: 128 KiB.
const KEPT: usize = 64;
/// Sets the distances apart from whatever else a seed decides.
const ARRIVALS: u64 = 0xa221_7a15;

#[cfg(test)]
mod tests {
    use super::*;

    /// Anderson and Darling's statistic of how far numbers are from being evenly distributed between 0 and 1. Above 3.857
    /// in one case of a hundred.
    fn anderson_darling(mut numbers: Vec<f64>) -> f64 {
        numbers.sort_by(f64::total_cmp);
        let count = numbers.len();
        let sum: f64 = (0..count)
            .map(|at| {
                let weight = (2 * at + 1) as f64;
                weight * (numbers[at].ln() + (1.0 - numbers[count - 1 - at]).ln())
            })
            .sum();
        -(count as f64) - sum / count as f64
    }

    fn distances(places: &[u64], mean: f64) -> Vec<f64> {
        let distance = |pair: &[u64]| (pair[1] - pair[0]) as f64 / (mean * (1u64 << PART_BITS) as f64);
        places.windows(2).map(distance).collect()
    }

    /// Evenly distributed if the distances are exponential with mean 1.
    fn evenly(distances: &[f64]) -> Vec<f64> {
        distances.iter().map(|distance| (1.0 - (-distance).exp()).clamp(1e-12, 1.0 - 1e-12)).collect()
    }

    fn places(seed: u64, worker: u64, workers: u64, count: u64) -> Vec<u64> {
        let mut poisson = Poisson::new(seed, worker, workers);
        (0..count).map(|k| poisson.place(k).0).collect()
    }

    #[test]
    fn distances_are_exponential_and_their_mean_is_the_number_of_workers() {
        for (seed, worker, workers) in [(1, 0, 1), (2, 0, 1), (1, 3, 4), (7, 2, 3)] {
            let distances = distances(&places(seed, worker, workers, 50_001), workers as f64);
            let statistic = anderson_darling(evenly(&distances));
            assert!(statistic < 3.857, "seed {seed}, worker {worker}: {statistic}");
            let mean = distances.iter().sum::<f64>() / 50_000.0;
            assert!((mean - 1.0).abs() < 0.02, "{mean}");
            // One distance says nothing about the next.
            let follow: f64 =
                distances.windows(2).map(|pair| (pair[0] - 1.0) * (pair[1] - 1.0)).sum::<f64>() / 50_000.0;
            assert!(follow.abs() < 0.02, "{follow}");
        }
    }

    #[test]
    fn the_lines_of_all_workers_together_come_as_independently_as_those_of_each() {
        let mut all: Vec<u64> = (0..4).flat_map(|worker| places(11, worker, 4, 20_000)).collect();
        all.sort_unstable();
        all.truncate(60_000);
        let statistic = anderson_darling(evenly(&distances(&all, 1.0)));
        assert!(statistic < 3.857, "{statistic}");
    }

    #[test]
    fn the_test_of_the_distances_can_fail() {
        let even: Vec<f64> = vec![1.0; 1000];
        assert!(anderson_darling(evenly(&even)) > 100.0);
        let slow: Vec<f64> = distances(&places(1, 0, 1, 50_001), 1.03);
        assert!(anderson_darling(evenly(&slow)) > 3.857, "three percent too slow");
    }

    #[test]
    fn a_line_lies_where_it_lies_in_whatever_order_lines_are_asked_for() {
        let straight = places(5, 1, 2, 40_000);
        let mut poisson = Poisson::new(5, 1, 2);
        for k in [39_999, 0, 255, 256, 20_000, 1, 39_999, 16_384, 3] {
            assert_eq!(poisson.place(k).0, straight[k as usize], "line {k}");
        }
        for k in (0..39_999).step_by(773) {
            let at = straight[k as usize];
            assert_eq!(poisson.before(Place(at)), k, "those before line {k}");
            assert_eq!(poisson.before(Place(at + 1)), k + 1, "and line {k} itself");
        }
        assert_eq!(poisson.before(Place(0)), 0);
    }

    #[test]
    fn a_seed_decides_the_lines_and_means_the_same_everywhere() {
        assert_eq!(places(1, 0, 1, 5), FIRST_PLACES);
        assert_ne!(places(1, 0, 1, 5), places(2, 0, 1, 5));
        assert_ne!(places(1, 0, 2, 5), places(1, 1, 2, 5));
    }

    #[test]
    fn the_logarithm_is_the_one_of_the_library() {
        for bits in (1..=1u64 << 53).step_by(90_071_992_547_409) {
            let x = bits as f64 / (1u64 << 53) as f64;
            assert!((ln(x) - x.ln()).abs() <= 1e-12 * x.ln().abs().max(1.0), "{x}");
        }
        assert!(exponential(u64::MAX) == 0.0 && exponential(0) > 36.7);
    }

    const FIRST_PLACES: [u64; 5] = [978, 133_564, 198_820, 396_640, 397_177];
}
