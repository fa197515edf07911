//! The arithmetic of a comparison: from pairs of runs to a ratio, its interval, and one of four words.
//!
//! The unit is a pair; what it yields is one number, the logarithm of B over A. Nothing here runs, waits or reads a clock,
//! and randomness is a seed.

use crate::lines::Draw;
use crate::spread::Spread;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What pairs say about B against A.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Comparison {
    /// How many pairs.
    pub pairs: usize,
    /// B over A: the median of the pairs' ratios.
    pub ratio: f64,
    /// The lower end of its bootstrapped 95 % interval.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// Two-sided p of Wilcoxon's signed-rank test, exact.
    pub p: f64,
    /// What a difference has to exceed to count: 3 %, or the noise floor where that is greater.
    pub margin: f64,
    /// The answer.
    pub verdict: Verdict,
}

/// One of four answers. `Unclear` is one of them: it does not become clear by asking again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// B is better by more than the margin.
    Faster,
    /// B is worse by more than the margin.
    Slower,
    /// The whole interval lies within the margin.
    Same,
    /// The interval reaches over the margin's end.
    Unclear,
}

/// Which direction of a figure is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Costs and latencies.
    Less,
    /// Throughput.
    More,
}

/// The interval of a median, as logarithms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The median.
    pub median: f64,
    /// The ends.
    pub low: f64,
    /// See `low`.
    pub high: f64,
}

/// The differences that A shows against itself: the 95 % interval's end that lies farther from none, as a share.
pub fn noise_floor(log_ratios: &[f64], seed: u64) -> f64 {
    let Interval { low, high, .. } = median_interval(log_ratios, seed);
    low.abs().max(high.abs()).exp() - 1.0
}

/// Judges pairs, given as ln(B / A) of each.
///
/// B is faster or slower where the whole interval lies beyond the margin and the signed-rank test agrees; below 6 pairs that
/// test cannot, whatever they show.
pub fn judge(log_ratios: &[f64], noise_floor: f64, better: Better, seed: u64) -> Comparison {
    let Interval { median, low, high } = median_interval(log_ratios, seed);
    let p = signed_rank_p(log_ratios);
    let margin = noise_floor.max(MARGIN_MIN);
    // The margin up and down is the same factor.
    let bound = margin.ln_1p();
    let verdict = match better {
        _ if low >= -bound && high <= bound => Verdict::Same,
        _ if p >= SIGNIFICANT || (low <= bound && high >= -bound) => Verdict::Unclear,
        Better::Less if high < -bound => Verdict::Faster,
        Better::More if low > bound => Verdict::Faster,
        Better::Less | Better::More => Verdict::Slower,
    };
    Comparison { pairs: log_ratios.len(), ratio: median.exp(), low: low.exp(), high: high.exp(), p, margin, verdict }
}

/// The median of the values with its percentile bootstrap: medians of samples drawn from them with replacement.
pub fn median_interval(values: &[f64], seed: u64) -> Interval {
    let mut draw = Draw(seed);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| median((0..values.len()).map(|_| values[draw.below(values.len() as u64) as usize])))
        .collect();
    medians.sort_by(f64::total_cmp);
    let at = |q: f64| medians[((RESAMPLES - 1) as f64 * q).round() as usize];
    let tail = (1.0 - CONFIDENCE) / 2.0;
    Interval { median: median(values.iter().copied()), low: at(tail), high: at(1.0 - tail) }
}

/// Two-sided p of Wilcoxon's signed-rank test: how often signs alone would lie as far apart. Zeros are left out, ties share
/// their ranks, and the distribution is the exact one of the ranks at hand.
pub fn signed_rank_p(values: &[f64]) -> f64 {
    let mut values: Vec<f64> = values.iter().copied().filter(|value| *value != 0.0).collect();
    if values.is_empty() {
        return 1.0;
    }
    values.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    // Twice the rank is a whole number also where a tie shares two of them.
    let doubled = doubled_ranks(&values);
    let positive: usize = values.iter().zip(&doubled).filter(|(value, _)| **value > 0.0).map(|(_, rank)| rank).sum();
    let total: usize = doubled.iter().sum();
    let least = positive.min(total - positive);
    // How likely each sum of ranks is if every sign is a coin's.
    let mut chance = vec![0.0; total + 1];
    chance[0] = 1.0;
    for &rank in &doubled {
        for sum in (0..=total).rev() {
            let with = if sum >= rank { chance[sum - rank] } else { 0.0 };
            chance[sum] = (chance[sum] + with) / 2.0;
        }
    }
    (2.0 * chance[..=least].iter().sum::<f64>()).min(1.0)
}

fn doubled_ranks(sorted: &[f64]) -> Vec<usize> {
    let mut ranks = Vec::with_capacity(sorted.len());
    for tied in sorted.chunk_by(|a, b| a.abs() == b.abs()) {
        let (first, last) = (ranks.len() + 1, ranks.len() + tied.len());
        ranks.extend(tied.iter().map(|_| first + last));
    }
    ranks
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    Spread::of(values).map_or(f64::NAN, |spread| spread.median)
}

impl Verdict {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Faster => "faster",
            Verdict::Slower => "slower",
            Verdict::Same => "same",
            Verdict::Unclear => "unclear",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Differences below this are nobody's concern, however certain.
pub const MARGIN_MIN: f64 = 0.03;
/// With fewer pairs the signed-rank test cannot reach 0.05: 2 of 2^5 outcomes are 0.0625 of them.
pub const PAIRS_MIN: usize = 6;
const SIGNIFICANT: f64 = 0.05;
const CONFIDENCE: f64 = 0.95;
const RESAMPLES: usize = 2000;

#[cfg(test)]
mod tests {
    use super::*;

    /// Normally distributed, by the sum of twelve.
    fn normal(draw: &mut Draw) -> f64 {
        (0..12).map(|_| draw.number() as f64 / u64::MAX as f64).sum::<f64>() - 6.0
    }

    /// Every assignment of signs, counted one by one.
    fn by_enumeration(values: &[f64]) -> f64 {
        let mut sorted: Vec<f64> = values.iter().map(|value| value.abs()).collect();
        sorted.sort_by(f64::total_cmp);
        let rank = |value: f64| {
            let ranks: Vec<f64> =
                (0..sorted.len()).filter(|&at| sorted[at] == value.abs()).map(|at| at as f64 + 1.0).collect();
            ranks.iter().sum::<f64>() / ranks.len() as f64
        };
        let ranks: Vec<f64> = values.iter().map(|&value| rank(value)).collect();
        let total: f64 = ranks.iter().sum();
        let least = |positive: f64| positive.min(total - positive);
        let seen = least(values.iter().zip(&ranks).filter(|(value, _)| **value > 0.0).map(|(_, rank)| rank).sum());
        let all = 1_u32 << values.len();
        let as_far = (0..all)
            .filter(|signs| {
                least(ranks.iter().enumerate().filter(|(at, _)| signs >> at & 1 == 1).map(|(_, rank)| rank).sum())
                    <= seen
            })
            .count();
        as_far as f64 / f64::from(all)
    }

    #[test]
    fn the_signed_rank_test_has_the_values_of_its_table() {
        // Ranks 1 to n, of which those named are negative: the sums at the edge of 0.05 in the usual tables.
        let p = |n: i32, negative: &[i32]| {
            let values: Vec<f64> =
                (1..=n).map(|rank| f64::from(if negative.contains(&rank) { -rank } else { rank })).collect();
            signed_rank_p(&values)
        };
        assert_eq!(p(5, &[]), 0.0625);
        assert_eq!(p(6, &[]), 0.03125);
        assert_eq!(p(7, &[2]), 0.046875);
        assert_eq!(p(8, &[3]), 0.0390625);
        assert_eq!(p(9, &[5]), 0.0390625);
        assert_eq!(p(10, &[8]), 0.048828125);
        assert_eq!(p(10, &[9]), 0.064453125);
        assert!((p(12, &[2, 11]) - 0.042480).abs() < 1e-6);
        assert!((p(15, &[10, 15]) - 0.047913).abs() < 1e-6);
        assert!((p(20, &[13, 19, 20]) - 0.048441).abs() < 1e-6);
    }

    #[test]
    fn the_signed_rank_test_counts_every_outcome_ties_too() {
        let mut draw = Draw(7);
        for _ in 0..200 {
            let n = 1 + draw.below(10) as usize;
            // Few different sizes: many ties.
            let values: Vec<f64> =
                (0..n).map(|_| (1 + draw.below(4)) as f64 * if draw.below(3) == 0 { -1.0 } else { 1.0 }).collect();
            let (fast, slow) = (signed_rank_p(&values), by_enumeration(&values));
            assert!((fast - slow).abs() < 1e-12, "{values:?}: {fast} and {slow}");
        }
        assert_eq!(signed_rank_p(&[]), 1.0);
        assert_eq!(signed_rank_p(&[0.0, 0.0]), 1.0);
    }

    #[test]
    fn the_interval_covers_the_median_about_as_often_as_it_says() {
        let mut draw = Draw(1);
        let sessions = 300;
        let covered = (0..sessions)
            .filter(|&seed| {
                let sample: Vec<f64> = (0..10).map(|_| 0.2 + normal(&mut draw)).collect();
                let Interval { low, high, .. } = median_interval(&sample, seed);
                (low..=high).contains(&0.2)
            })
            .count();
        let share = covered as f64 / sessions as f64;
        assert!((0.91..=0.99).contains(&share), "{share}");
    }

    #[test]
    fn the_same_pairs_and_seed_give_the_same_interval() {
        let values = [0.01, -0.02, 0.03, 0.0, 0.05, -0.01];
        assert_eq!(median_interval(&values, 5), median_interval(&values, 5));
        let Interval { median, low, high } = median_interval(&values, 5);
        assert!(low <= median && median <= high && (median - 0.005).abs() < 1e-12);
    }

    /// A whole session: A/A for the floor, then A/B with an effect, both with this noise of a pair.
    fn session(draw: &mut Draw, effect: f64, noise: f64, pairs: usize) -> Verdict {
        let mut sample = |effect: f64| -> Vec<f64> {
            (0..pairs)
                .map(|_| {
                    // Now and then somebody else has the processor.
                    let burst = if draw.below(10) == 0 { 4.0 } else { 1.0 };
                    effect + burst * noise * normal(draw)
                })
                .collect()
        };
        let (floor, log_ratios) = (sample(0.0), sample(effect));
        judge(&log_ratios, noise_floor(&floor, 3), Better::Less, 4).verdict
    }

    #[test]
    fn against_itself_an_arm_is_rarely_anything_but_same_or_unclear() {
        let mut draw = Draw(11);
        for noise in [0.005, 0.02, 0.05, 0.2] {
            let verdicts: Vec<Verdict> = (0..200).map(|_| session(&mut draw, 0.0, noise, 10)).collect();
            let alarms = verdicts.iter().filter(|&&it| it == Verdict::Faster || it == Verdict::Slower).count();
            assert!(alarms * 20 <= verdicts.len(), "noise {noise}: {alarms} of {}", verdicts.len());
        }
        let quiet = (0..100).filter(|_| session(&mut draw, 0.0, 0.005, 10) == Verdict::Same).count();
        assert!(quiet > 90, "what is quiet and the same is called so: {quiet}");
    }

    #[test]
    fn a_planted_tenth_is_found_wherever_noise_leaves_it_to_be_found() {
        let mut draw = Draw(12);
        for (noise, share_min) in [(0.005, 0.99), (0.02, 0.95), (0.03, 0.7)] {
            let found = (0..100).filter(|_| session(&mut draw, 1.1_f64.ln(), noise, 10) == Verdict::Slower).count();
            assert!(found as f64 / 100.0 >= share_min, "noise {noise}: {found} of 100");
        }
        let wrong = (0..100).filter(|_| session(&mut draw, 1.1_f64.ln(), 0.2, 10) == Verdict::Faster).count();
        assert!(wrong <= 2, "what is lost in noise is unclear: {wrong}");
    }

    #[test]
    fn words_follow_the_interval_the_margin_and_which_way_is_better() {
        let all = |ratio: f64| vec![ratio.ln(); 10];
        let verdict = |ratio, floor, better| judge(&all(ratio), floor, better, 1).verdict;
        assert_eq!(verdict(1.05, 0.0, Better::Less), Verdict::Slower);
        assert_eq!(verdict(1.05, 0.0, Better::More), Verdict::Faster);
        assert_eq!(verdict(0.95, 0.0, Better::Less), Verdict::Faster);
        assert_eq!(verdict(0.95, 0.0, Better::More), Verdict::Slower);
        assert_eq!(verdict(1.029, 0.0, Better::Less), Verdict::Same);
        assert_eq!(verdict(1.05, 0.06, Better::Less), Verdict::Same);
        assert_eq!(verdict(1.10, 0.06, Better::Less), Verdict::Slower);
        let five = judge(&[1.5_f64.ln(); 5], 0.0, Better::Less, 1);
        assert_eq!((five.verdict, five.p), (Verdict::Unclear, 0.0625));
        let split: Vec<f64> = (0..10).map(|at| if at % 2 == 0 { 0.2 } else { -0.2 }).collect();
        assert_eq!(judge(&split, 0.0, Better::Less, 1).verdict, Verdict::Unclear);
    }
}
