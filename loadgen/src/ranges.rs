//! Sets of sequence numbers, as ranges: a million acknowledged lines are one pair of numbers.

use serde::{Deserialize, Serialize};

/// A set of numbers as sorted, disjoint, inclusive ranges; in JSON `[[1,500],[502,900]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// The numbers from `first` to `last`; none where `first` is past `last`.
    pub fn of(first: u64, last: u64) -> Ranges {
        Ranges(if first <= last { vec![(first, last)] } else { Vec::new() })
    }

    /// Adds one number. Rising numbers are added in constant time.
    pub fn insert(&mut self, number: u64) {
        let at = self.0.partition_point(|&(_, last)| last.saturating_add(1) < number);
        match self.0.get_mut(at) {
            Some(range) if range.0 <= number => range.1 = range.1.max(number),
            Some(range) if range.0 == number + 1 => range.0 = number,
            _ => return self.0.insert(at, (number, number)),
        }
        if at + 1 < self.0.len() && self.0[at].1 + 1 >= self.0[at + 1].0 {
            self.0[at].1 = self.0.remove(at + 1).1;
        }
    }

    /// What is here and not in `other`.
    pub fn without(&self, other: &Ranges) -> Ranges {
        let mut left = Vec::new();
        for &(mut first, last) in &self.0 {
            let from = other.0.partition_point(|hole| hole.1 < first);
            for &(hole_first, hole_last) in other.0[from..].iter().take_while(|hole| hole.0 <= last) {
                if first < hole_first {
                    left.push((first, hole_first - 1));
                }
                first = hole_last + 1;
            }
            if first <= last {
                left.push((first, last));
            }
        }
        Ranges(left)
    }

    /// Whether the number is in the set.
    pub fn contains(&self, number: u64) -> bool {
        let at = self.0.partition_point(|&(_, last)| last < number);
        self.0.get(at).is_some_and(|&(first, _)| first <= number)
    }

    /// How many numbers.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The greatest number.
    pub fn last(&self) -> Option<u64> {
        self.0.last().map(|&(_, last)| last)
    }

    /// The ranges, rising.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    /// Whether the ranges are sorted, disjoint and not empty, as everything here relies on: to be asked of a set that
    /// was read from a file.
    pub fn is_sound(&self) -> bool {
        self.0.iter().all(|(first, last)| first <= last) && self.0.windows(2).all(|pair| pair[0].1 < pair[1].0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn set(ranges: &Ranges) -> BTreeSet<u64> {
        ranges.iter().flat_map(|(first, last)| first..=last).collect()
    }

    proptest! {
        #[test]
        fn ranges_are_the_set_of_their_numbers(
            left in proptest::collection::vec(1u64..60, 0..60), right in proptest::collection::vec(1u64..60, 0..60),
        ) {
            let (mut these, mut those) = (Ranges::default(), Ranges::default());
            left.iter().for_each(|number| these.insert(*number));
            right.iter().for_each(|number| those.insert(*number));
            let (left, right): (BTreeSet<u64>, BTreeSet<u64>) = (left.into_iter().collect(), right.into_iter().collect());
            prop_assert!(these.is_sound());
            prop_assert_eq!(set(&these), left.clone());
            prop_assert_eq!(these.len(), left.len() as u64);
            let difference = these.without(&those);
            prop_assert!(difference.is_sound());
            prop_assert_eq!(set(&difference), &left - &right);
            prop_assert!((0..62).all(|number| these.contains(number) == left.contains(&number)));
        }
    }
}
