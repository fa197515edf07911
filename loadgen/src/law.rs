//! How the rate goes over time, and its inverse: how many lines are due by a time, and when a line is due.
//!
//! All of it is exact, in integers. A law says how many lines a run has offered after `t` nanoseconds as a fraction
//! `units(t) / unit`, both of which are whole numbers; nothing is rounded before the last step, so nothing drifts.

/// The rate of a run over time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Law {
    /// The same all the time.
    Fixed {
        /// Lines per second.
        per_s: u64,
    },
    /// From one rate evenly to another; then it stays.
    Ramp(Ramp),
    /// One rate after the other, each for the same time; the last one stays.
    Steps(Steps),
}

impl Law {
    /// `per_s` lines per second, at most [`RATE_MAX`].
    ///
    /// # Panics
    /// Where that is 0 or too many: no line would ever be due, or numbers would not fit.
    pub fn fixed(per_s: u64) -> Law {
        check_rate(per_s);
        Law::Fixed { per_s }
    }

    /// From `from` to `to` lines per second within `over_ns`, at most [`OVER_MAX_NS`].
    ///
    /// # Panics
    /// As [`fixed`](Law::fixed), and where the time is 0 or too long.
    pub fn ramp(from: u64, to: u64, over_ns: u64) -> Law {
        [from, to].into_iter().for_each(check_rate);
        check_time(over_ns);
        Law::Ramp(Ramp { from, to, over_ns })
    }

    /// Each of these rates for `step_ns`.
    ///
    /// # Panics
    /// As [`ramp`](Law::ramp), and where there are no rates.
    pub fn steps(rates: &[u64], step_ns: u64) -> Law {
        assert!(!rates.is_empty(), "there are steps");
        rates.iter().copied().for_each(check_rate);
        check_time(step_ns.saturating_mul(rates.len() as u64));
        let mut before = 0;
        let steps = rates.iter().map(|per_s| {
            let step = (*per_s, before);
            before += u128::from(*per_s) * u128::from(step_ns);
            step
        });
        Law::Steps(Steps { steps: steps.collect(), step_ns })
    }

    /// The rate that a run begins with.
    pub fn first_rate(&self) -> u64 {
        match self {
            Law::Fixed { per_s } => *per_s,
            Law::Ramp(ramp) => ramp.from,
            Law::Steps(steps) => steps.steps[0].0,
        }
    }

    /// When line `line` (from 0) of the run is due: the last nanosecond by which no more than `line` lines were offered.
    #[inline]
    pub fn at(&self, line: u64) -> u64 {
        match self {
            Law::Fixed { per_s } => match line.checked_mul(NS_PER_S) {
                Some(units) => units / per_s,
                None => self.at_units(u128::from(line) * u128::from(NS_PER_S)),
            },
            Law::Ramp(_) | Law::Steps(_) => self.at_units(u128::from(line) * self.unit()),
        }
    }

    /// How many lines are due by `now_ns`: the number of `line` with `at(line) <= now_ns`.
    #[inline]
    pub fn due(&self, now_ns: u64) -> u64 {
        // floor(t) <= now  <=>  t < now + 1  <=>  line < units(now + 1) / unit
        if let Law::Fixed { per_s } = self
            && let Some(units) = (now_ns + 1).checked_mul(*per_s)
        {
            return units.div_ceil(NS_PER_S);
        }
        self.units(now_ns + 1).div_ceil(self.unit()) as u64
    }

    /// As [`at`](Law::at), for a place between two lines.
    pub fn at_place(&self, place: Place) -> u64 {
        let (unit, Place(place)) = (self.unit(), place);
        let (line, part) = (u128::from(place >> PART_BITS), u128::from(place & PART_MASK));
        self.at_units(line * unit + ((part * unit) >> PART_BITS))
    }

    /// As [`due`](Law::due), for places between lines: the first place that is not due by `now_ns`.
    pub fn due_place(&self, now_ns: u64) -> Place {
        let (units, unit) = (self.units(now_ns + 1), self.unit());
        Place((((units / unit) << PART_BITS) + ((units % unit) << PART_BITS).div_ceil(unit)) as u64)
    }

    /// The denominator.
    fn unit(&self) -> u128 {
        match self {
            Law::Fixed { .. } | Law::Steps(_) => u128::from(NS_PER_S),
            Law::Ramp(ramp) => ramp.unit(),
        }
    }

    /// Lines offered after `t_ns`, times the denominator.
    fn units(&self, t_ns: u64) -> u128 {
        match self {
            Law::Fixed { per_s } => u128::from(*per_s) * u128::from(t_ns),
            Law::Ramp(ramp) => ramp.units(t_ns),
            Law::Steps(steps) => steps.units(t_ns),
        }
    }

    /// The last nanosecond after which no more than `units` were offered.
    fn at_units(&self, units: u128) -> u64 {
        match self {
            Law::Fixed { per_s } => saturated(units / u128::from(*per_s)),
            Law::Ramp(ramp) => ramp.at_units(units),
            Law::Steps(steps) => steps.at_units(units),
        }
    }
}

/// A place in the order of a run's lines, between two of them where it has a part: lines times 2^16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(pub u64);

/// Bits of a place that are a part of a line: 15 ns at a thousand lines per second. The others count the lines of a week.
pub const PART_BITS: u32 = 16;
const PART_MASK: u64 = (1 << PART_BITS) - 1;

/// A rate that rises or falls evenly. With rate `a + (b - a) * t / T` there are `a * t + (b - a) * t * t / (2 * T)` lines
/// after `t`, so the unit is `2 * T * 1e9` for times in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ramp {
    from: u64,
    to: u64,
    over_ns: u64,
}

impl Ramp {
    fn unit(&self) -> u128 {
        2 * u128::from(self.over_ns) * u128::from(NS_PER_S)
    }

    fn units(&self, t_ns: u64) -> u128 {
        let (from, to) = (i128::from(self.from), i128::from(self.to));
        let (over, t) = (i128::from(self.over_ns), i128::from(t_ns.min(self.over_ns)));
        // Twice the mean rate up to `t`, times T: never negative, because the rate never is.
        let within = t * (2 * over * from + (to - from) * t);
        let after = u128::from(t_ns.saturating_sub(self.over_ns)) * 2 * u128::from(self.over_ns) * u128::from(self.to);
        within as u128 + after
    }

    fn at_units(&self, units: u128) -> u64 {
        let whole = self.units(self.over_ns);
        if units >= whole {
            let after_ns = (units - whole) / (2 * u128::from(self.over_ns) * u128::from(self.to));
            return self.over_ns.saturating_add(saturated(after_ns));
        }
        // Floating point tells about where; integers tell where.
        let (from, to, over) = (self.from as f64, self.to as f64, self.over_ns as f64);
        let root = (over * over * from * from + (to - from) * units as f64).max(0.0).sqrt();
        let guess = (units as f64 / (over * from + root)) as u64;
        let is_before = |t_ns: u64| self.units(t_ns) <= units;
        let (mut low, mut high, mut reach) = (guess.min(self.over_ns), guess.min(self.over_ns) + 1, 1);
        while !is_before(low) {
            (low, high, reach) = (low.saturating_sub(reach), low, reach * 2);
        }
        while is_before(high) {
            (low, high, reach) = (high, high + reach, reach * 2);
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if is_before(middle) { low = middle } else { high = middle }
        }
        low
    }
}

/// Rates one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steps {
    /// The rate of each step, and the units offered before it.
    steps: Vec<(u64, u128)>,
    step_ns: u64,
}

impl Steps {
    fn units(&self, t_ns: u64) -> u128 {
        let at = ((t_ns / self.step_ns) as usize).min(self.steps.len() - 1);
        let (per_s, before) = self.steps[at];
        before + u128::from(per_s) * u128::from(t_ns - at as u64 * self.step_ns)
    }

    fn at_units(&self, units: u128) -> u64 {
        // The first step begins with none, so there is always one before.
        let at = self.steps.partition_point(|(_, before)| *before <= units) - 1;
        let (per_s, before) = self.steps[at];
        (at as u64 * self.step_ns).saturating_add(saturated((units - before) / u128::from(per_s)))
    }
}

/// A time that no run reaches is as good as any other.
fn saturated(ns: u128) -> u64 {
    u64::try_from(ns).unwrap_or(u64::MAX)
}

fn check_rate(per_s: u64) {
    assert!((1..=RATE_MAX).contains(&per_s), "a rate is 1 to {RATE_MAX}");
}

fn check_time(over_ns: u64) {
    assert!((1..=OVER_MAX_NS).contains(&over_ns), "a rate changes within 1 ns to a week");
}

/// More lines per second than any network carries. With it and [`OVER_MAX_NS`] all products fit into 128 bits.
pub const RATE_MAX: u64 = 100_000_000;
/// A week.
pub const OVER_MAX_NS: u64 = 7 * 86_400 * NS_PER_S;
const NS_PER_S: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rate_that_does_not_divide_a_second_never_drifts() {
        for rate in [3, 7, 999, 30_011, 1_000_003, 14_000_000] {
            let law = Law::fixed(rate);
            for second in [1, 60, 86_400, 31_536_000] {
                assert_eq!(law.at(rate * second), second * NS_PER_S, "rate {rate} after {second} s");
            }
        }
        assert_eq!([0, 1, 2, 3].map(|line| Law::fixed(3).at(line)), [0, 333_333_333, 666_666_666, 1_000_000_000]);
    }

    #[test]
    fn a_ramp_offers_its_mean_rate_and_passes_through_its_middle() {
        for (from, to) in [(1_000, 3_000), (3_000, 1_000), (1, RATE_MAX), (RATE_MAX, 1)] {
            let law = Law::ramp(from, to, 100 * NS_PER_S);
            assert_eq!(law.due(100 * NS_PER_S - 1), (from + to) * 50, "{from}:{to}");
            let in_the_middle_second = law.due(50 * NS_PER_S + NS_PER_S / 2) - law.due(50 * NS_PER_S - NS_PER_S / 2);
            assert!(in_the_middle_second.abs_diff((from + to) / 2) <= 1, "{from}:{to}");
            // Then the last rate stays.
            let after = (from + to) * 50;
            assert_eq!(law.at(after), 100 * NS_PER_S);
            assert_eq!(law.at(after + to * 7), 107 * NS_PER_S, "{from}:{to}");
        }
    }

    #[test]
    fn steps_offer_each_rate_for_its_time() {
        let law = Law::steps(&[10, 20, 5], 2 * NS_PER_S);
        let due: Vec<u64> = (1..=8).map(|second| law.due(second * NS_PER_S - 1)).collect();
        assert_eq!(due, [10, 20, 40, 60, 65, 70, 75, 80]);
        assert_eq!((law.at(20), law.at(60), law.at(70)), (2 * NS_PER_S, 4 * NS_PER_S, 6 * NS_PER_S));
        // Three lines per second for half a second are one line and a half: the rest belongs to the next step.
        let halves = Law::steps(&[3, 5], NS_PER_S / 2);
        assert_eq!(halves.due(NS_PER_S - 1), 4);
    }

    #[test]
    fn a_ramp_between_equal_rates_is_a_fixed_rate() {
        let (ramp, fixed) = (Law::ramp(30_011, 30_011, 7 * NS_PER_S), Law::fixed(30_011));
        assert!((0..500_000).step_by(997).all(|line| ramp.at(line) == fixed.at(line)));
    }

    fn laws() -> impl Strategy<Value = Law> {
        let rate = || prop_oneof![1..=RATE_MAX, 1u64..1_000_000, Just(1), Just(RATE_MAX)];
        let over = || prop_oneof![1u64..100, 1..=OVER_MAX_NS / 20, Just(OVER_MAX_NS)];
        prop_oneof![
            rate().prop_map(Law::fixed),
            (rate(), rate(), over()).prop_map(|(from, to, over_ns)| Law::ramp(from, to, over_ns)),
            (proptest::collection::vec(rate(), 1..20), 1..=OVER_MAX_NS / 20)
                .prop_map(|(rates, step_ns)| Law::steps(&rates, step_ns)),
        ]
    }

    proptest! {
        #[test]
        fn due_counts_exactly_the_lines_whose_time_has_come(law in laws(), now in 0..=OVER_MAX_NS) {
            let due = law.due(now);
            if due > 0 {
                prop_assert!(law.at(due - 1) <= now);
            }
            prop_assert!(law.at(due) > now);
        }

        #[test]
        fn places_between_lines_keep_to_the_same_law(law in laws(), now in 0..=OVER_MAX_NS, place in 0u64..1 << 62) {
            let line = place >> PART_BITS;
            prop_assert_eq!(law.at_place(Place(line << PART_BITS)), law.at(line));
            prop_assert!((law.at(line)..=law.at(line + 1)).contains(&law.at_place(Place(place))));
            let due = law.due_place(now);
            if due.0 > 0 {
                prop_assert!(law.at_place(Place(due.0 - 1)) <= now);
            }
            prop_assert!(law.at_place(due) > now);
        }

        #[test]
        fn lines_come_in_order(law in laws(), line in 0u64..1 << 47) {
            prop_assert!(law.at(line) <= law.at(line + 1));
        }
    }
}
