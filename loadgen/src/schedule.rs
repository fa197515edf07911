//! When each line should be sent: `t_k = t0 + k * 1e9 / rate`, in closed form, in integer nanoseconds.
//!
//! Nothing is accumulated and nothing is derived from a wake-up, so that being late once moves no later line. There is
//! no clock here.

/// The plan of one worker: fixed distances from a first instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    rate_per_s: u64,
    phase_ns: u64,
}

impl Schedule {
    /// One line every `1e9 / rate_per_s` nanoseconds, the first at `phase_ns`.
    ///
    /// # Panics
    /// Where the rate is 0: that is no schedule.
    pub fn fixed(rate_per_s: u64, phase_ns: u64) -> Schedule {
        assert!(rate_per_s > 0, "a schedule has a rate");
        Schedule { rate_per_s, phase_ns }
    }

    /// The plan of worker `worker` of `workers`: the rates add up to `rate_per_s` exactly, and the workers take turns
    /// instead of sending all at once.
    pub fn of_worker(rate_per_s: u64, worker: u64, workers: u64) -> Schedule {
        let own = share(rate_per_s, worker, workers);
        Schedule::fixed(own, scaled(worker, rate_per_s))
    }

    /// The same plan, begun at that time.
    pub fn starting_at(self, start_ns: u64) -> Schedule {
        Schedule { phase_ns: self.phase_ns + start_ns, ..self }
    }

    /// When line `k` (from 0) should be sent, in nanoseconds from the start of the run.
    #[inline]
    pub fn at(&self, k: u64) -> u64 {
        self.phase_ns + scaled(k, self.rate_per_s)
    }

    /// How many lines should have been sent by `now_ns`: the number of `k` with `at(k) <= now_ns`.
    #[inline]
    pub fn due(&self, now_ns: u64) -> u64 {
        let Some(elapsed_ns) = now_ns.checked_sub(self.phase_ns) else {
            return 0;
        };
        // floor(k * 1e9 / rate) <= e  <=>  k * 1e9 < (e + 1) * rate  <=>  k < ceil((e + 1) * rate / 1e9)
        let product = (u128::from(elapsed_ns) + 1) * u128::from(self.rate_per_s);
        match u64::try_from(product) {
            Ok(product) => product.div_ceil(NS_PER_S),
            Err(_) => product.div_ceil(u128::from(NS_PER_S)) as u64,
        }
    }
}

/// The part of `total` that falls to `worker` of `workers`; the parts add up to `total`.
pub fn share(total: u64, worker: u64, workers: u64) -> u64 {
    total / workers + u64::from(worker < total % workers)
}

/// `k * 1e9 / rate`, rounded down, without overflow.
#[inline]
fn scaled(k: u64, rate_per_s: u64) -> u64 {
    match k.checked_mul(NS_PER_S) {
        Some(product) => product / rate_per_s,
        None => (u128::from(k) * u128::from(NS_PER_S) / u128::from(rate_per_s)) as u64,
    }
}

const NS_PER_S: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rate_that_does_not_divide_a_second_never_drifts() {
        for rate in [3, 7, 999, 30_011, 1_000_003, 14_000_000] {
            let schedule = Schedule::fixed(rate, 0);
            for second in [1, 60, 86_400, 31_536_000] {
                assert_eq!(schedule.at(rate * second), second * NS_PER_S, "rate {rate} after {second} s");
            }
        }
        let third = Schedule::fixed(3, 0);
        assert_eq!([third.at(0), third.at(1), third.at(2), third.at(3)], [0, 333_333_333, 666_666_666, 1_000_000_000]);
    }

    #[test]
    fn the_shares_of_the_workers_add_up_and_take_turns() {
        for (rate, workers) in [(10, 3), (100_003, 8), (7, 7)] {
            let plans: Vec<_> = (0..workers).map(|worker| Schedule::of_worker(rate, worker, workers)).collect();
            assert_eq!(plans.iter().map(|plan| plan.rate_per_s).sum::<u64>(), rate);
            let firsts: Vec<_> = plans.iter().map(|plan| plan.at(0)).collect();
            assert!(firsts.windows(2).all(|pair| pair[0] < pair[1]), "{firsts:?}");
        }
    }

    proptest! {
        #[test]
        fn due_counts_exactly_the_lines_whose_time_has_come(
            rate in 1u64..50_000_000, phase in 0u64..2_000_000_000, now in 0u64..100_000_000_000_000,
        ) {
            let schedule = Schedule::fixed(rate, phase);
            let due = schedule.due(now);
            if due > 0 {
                prop_assert!(schedule.at(due - 1) <= now);
            }
            prop_assert!(schedule.at(due) > now);
        }
    }
}
