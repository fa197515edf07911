//! When each line should be sent: in closed form from its number, in integer nanoseconds.
//!
//! Nothing is accumulated from one line to the next and nothing is derived from a wake-up, so that being late once moves
//! no later line. There is no clock here. How many lines a second there are to be is a [`Law`]'s; this file deals them out
//! to workers, evenly or by chance.

use crate::law::Law;
use crate::poisson::Poisson;

/// What a run was asked to offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Lines per second of all workers, at first.
    pub from: u64,
    /// And at the end.
    pub to: u64,
    /// How long each rate on the way is kept; `None` goes evenly from one to the other.
    pub step_ns: Option<u64>,
    /// How lines are spread.
    pub arrival: Arrival,
}

/// How lines are spread over the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrival {
    /// At even distances.
    #[default]
    Fixed,
    /// Independently of one another, as those of many clients that know nothing of each other.
    Poisson,
}

impl Arrival {
    /// Its name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Arrival::Fixed => "fixed",
            Arrival::Poisson => "poisson",
        }
    }
}

impl Pace {
    /// One rate, evenly.
    pub fn fixed(per_s: u64) -> Pace {
        Pace { from: per_s, to: per_s, step_ns: None, arrival: Arrival::Fixed }
    }

    /// The rate over a run of that length; a rate that does not change needs none.
    ///
    /// # Panics
    /// Where a rate changes and there is no length, or the length is no multiple of the steps': that is refused before.
    pub fn law(&self, duration_ns: Option<u64>) -> Law {
        if self.from == self.to {
            return Law::fixed(self.from);
        }
        let duration_ns = duration_ns.expect("a rate that changes does so within a time");
        match self.step_ns {
            None => Law::ramp(self.from, self.to, duration_ns),
            Some(step_ns) => Law::steps(&self.steps(duration_ns / step_ns), step_ns),
        }
    }

    /// The rates of `count` steps, from the first to the last.
    fn steps(&self, count: u64) -> Vec<u64> {
        assert!(count >= 2, "there are two steps, or there is nothing between the rates");
        let (from, way) = (i128::from(self.from), i128::from(self.to) - i128::from(self.from));
        let last = i128::from(count - 1);
        // Rounded to the nearest; a rate is never negative, so neither is what is divided.
        (0..i128::from(count)).map(|step| ((from * last + way * step + last / 2) / last) as u64).collect()
    }
}

/// The plan of one worker: a course, and perhaps another one from some line on.
#[derive(Clone, Debug)]
pub struct Schedule {
    first: Course,
    /// The number of its first line, and what it does from there.
    then: Option<(u64, Course)>,
}

/// What a worker's lines are to keep to, in a closed loop nothing.
#[derive(Clone, Debug, Default)]
pub struct Timetable {
    /// What is measured.
    pub measured: Option<Course>,
    /// What is sent before that, in a run with a warm-up.
    pub warm_up: Option<Course>,
}

/// Lines from an instant on.
#[derive(Clone, Debug)]
pub struct Course {
    law: Law,
    turns: Turns,
    start_ns: u64,
}

/// Which of the run's lines are this worker's.
#[derive(Clone, Debug)]
enum Turns {
    /// One in `workers`, in turn: the lines of all of them are the run's, exactly.
    Even { worker: u64, workers: u64 },
    /// As many, by chance.
    Chance(Box<Poisson>),
}

impl Course {
    /// The part of worker `worker` of `workers` in `law`, begun at `start_ns`. `seed` decides what is left to chance.
    pub fn new(law: Law, arrival: Arrival, seed: u64, (worker, workers): (u64, u64), start_ns: u64) -> Course {
        let turns = match arrival {
            Arrival::Fixed => Turns::Even { worker, workers },
            Arrival::Poisson => Turns::Chance(Box::new(Poisson::new(seed, worker, workers))),
        };
        Course { law, turns, start_ns }
    }

    /// The same, begun at another time.
    pub fn starting_at(self, start_ns: u64) -> Course {
        Course { start_ns, ..self }
    }

    /// How many lines are due before `end_ns`.
    pub fn due_before(&mut self, end_ns: u64) -> u64 {
        end_ns.checked_sub(1).map_or(0, |last_ns| self.due(last_ns))
    }

    #[inline]
    fn at(&mut self, k: u64) -> u64 {
        let since_ns = match &mut self.turns {
            Turns::Even { worker, workers } => self.law.at(k * *workers + *worker),
            Turns::Chance(poisson) => self.law.at_place(poisson.place(k)),
        };
        self.start_ns.saturating_add(since_ns)
    }

    #[inline]
    fn due(&mut self, now_ns: u64) -> u64 {
        let Some(elapsed_ns) = now_ns.checked_sub(self.start_ns) else { return 0 };
        match &mut self.turns {
            // Lines `worker`, `worker + workers`, … of those that are due.
            Turns::Even { worker, workers } => self.law.due(elapsed_ns).saturating_sub(*worker).div_ceil(*workers),
            Turns::Chance(poisson) => poisson.before(self.law.due_place(elapsed_ns)),
        }
    }
}

impl Schedule {
    /// That course, for ever.
    pub fn new(course: Course) -> Schedule {
        Schedule { first: course, then: None }
    }

    /// From line `line` on, another course. Lines before it keep their times, and those of the first course that were not
    /// sent by then are given up.
    pub fn turn(&mut self, line: u64, course: Course) {
        self.then = Some((line, course));
    }

    /// Goes on with that course from line `line` on, or begins with it where there is no plan yet. Without a course nothing
    /// changes.
    pub(crate) fn go_on(plan: &mut Option<Schedule>, line: u64, course: Option<Course>) {
        match (plan, course) {
            (Some(schedule), Some(course)) => schedule.turn(line, course),
            (none @ None, Some(course)) => *none = Some(Schedule::new(course)),
            (_, None) => {}
        }
    }

    /// When line `k` (from 0) should be sent.
    #[inline]
    pub fn at(&mut self, k: u64) -> u64 {
        match &mut self.then {
            Some((line, course)) if k >= *line => course.at(k - *line),
            Some(_) | None => self.first.at(k),
        }
    }

    /// How many lines should have been sent by `now_ns`: the number of `k` with `at(k) <= now_ns`.
    #[inline]
    pub fn due(&mut self, now_ns: u64) -> u64 {
        match &mut self.then {
            Some((line, course)) if now_ns >= course.start_ns => *line + course.due(now_ns),
            Some((line, _)) => self.first.due(now_ns).min(*line),
            None => self.first.due(now_ns),
        }
    }
}

/// The part of `total` that falls to `worker` of `workers`; the parts add up to `total`.
pub fn share(total: u64, worker: u64, workers: u64) -> u64 {
    total / workers + u64::from(worker < total % workers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::law::RATE_MAX;
    use proptest::prelude::*;

    const S: u64 = 1_000_000_000;

    fn even(law: &Law, worker: u64, workers: u64, start_ns: u64) -> Schedule {
        Schedule::new(Course::new(law.clone(), Arrival::Fixed, 1, (worker, workers), start_ns))
    }

    fn chance(law: &Law, seed: u64, worker: u64, workers: u64) -> Schedule {
        Schedule::new(Course::new(law.clone(), Arrival::Poisson, seed, (worker, workers), 0))
    }

    fn laws() -> impl Strategy<Value = Law> {
        let rate = || prop_oneof![1..=RATE_MAX, 1u64..100_000];
        prop_oneof![
            rate().prop_map(Law::fixed),
            (rate(), rate(), 1..1000 * S).prop_map(|(from, to, over_ns)| Law::ramp(from, to, over_ns)),
            (proptest::collection::vec(rate(), 1..20), 1..100 * S)
                .prop_map(|(rates, step_ns)| Law::steps(&rates, step_ns)),
        ]
    }

    fn assert_inverse(schedule: &mut Schedule, now_ns: u64) {
        let due = schedule.due(now_ns);
        assert!(due == 0 || schedule.at(due - 1) <= now_ns, "line {} is due by {now_ns}", due - 1);
        assert!(schedule.at(due) > now_ns, "line {due} is not due by {now_ns}");
    }

    proptest! {
        #[test]
        fn due_counts_exactly_the_lines_whose_time_has_come(
            law in laws(), worker in 0u64..7, start_ns in 0..3 * S, now_ns in 0..2000 * S,
        ) {
            assert_inverse(&mut even(&law, worker, 7, start_ns), now_ns);
        }

        #[test]
        fn the_lines_of_all_workers_are_those_of_the_run(law in laws(), workers in 1u64..9, now_ns in 0..2000 * S) {
            let mut plans: Vec<_> = (0..workers).map(|worker| even(&law, worker, workers, 0)).collect();
            prop_assert_eq!(plans.iter_mut().map(|plan| plan.due(now_ns)).sum::<u64>(), law.due(now_ns));
            let mut times: Vec<u64> = plans.iter_mut().flat_map(|plan| [0, 1, 2].map(|k| plan.at(k))).collect();
            times.sort_unstable();
            prop_assert_eq!(times, (0..3 * workers).map(|line| law.at(line)).collect::<Vec<_>>());
        }

        #[test]
        fn a_second_course_begins_where_it_is_told_and_moves_no_earlier_line(
            first in laws(), second in laws(), line in 0u64..10_000, turn_ns in 0..20 * S, now_ns in 0..40 * S,
        ) {
            let mut before = even(&first, 1, 2, 0);
            let mut schedule = before.clone();
            // What is not sent by the turn is given up, so no line is promised that was not due.
            let line = line.min(before.due(turn_ns.saturating_sub(1)));
            schedule.turn(line, Course::new(second.clone(), Arrival::Fixed, 1, (1, 2), turn_ns));
            assert_inverse(&mut schedule, now_ns);
            if line > 0 {
                prop_assert_eq!(schedule.at(line - 1), before.at(line - 1));
            }
            prop_assert_eq!(schedule.at(line), turn_ns + second.at(1));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
        #[test]
        fn chance_keeps_to_its_law(law in laws(), seed in any::<u64>(), worker in 0u64..3, share in 0.0..1.0f64) {
            // No more than some ten thousand lines, or the test draws for minutes.
            let now_ns = (law.at(40_000) as f64 * share) as u64;
            let mut schedule = chance(&law, seed, worker, 3);
            assert_inverse(&mut schedule, now_ns);
            let (due, expected) = (schedule.due(now_ns) as f64, law.due(now_ns) as f64 / 3.0);
            prop_assert!((due - expected).abs() < 6.0 * expected.sqrt() + 6.0, "{due} lines, {expected} expected");
        }
    }

    #[test]
    fn workers_take_turns_and_none_has_all_of_a_second() {
        let mut firsts: Vec<u64> = (0..7).map(|worker| even(&Law::fixed(7), worker, 7, 0).at(0)).collect();
        firsts.dedup();
        assert_eq!(firsts.len(), 7);
        assert!(firsts.windows(2).all(|pair| pair[0] < pair[1]), "{firsts:?}");
    }

    #[test]
    fn a_pace_is_what_was_asked_for() {
        let pace = |from, to, step_ns| Pace { from, to, step_ns, arrival: Arrival::Fixed };
        assert_eq!(pace(10, 10, None).law(None), Law::fixed(10));
        assert_eq!(pace(10, 10, Some(S)).law(Some(5 * S)), Law::fixed(10));
        assert_eq!(pace(10, 30, None).law(Some(5 * S)), Law::ramp(10, 30, 5 * S));
        assert_eq!(pace(10, 30, Some(S)).law(Some(5 * S)), Law::steps(&[10, 15, 20, 25, 30], S));
        assert_eq!(pace(30, 10, Some(2 * S)).law(Some(8 * S)), Law::steps(&[30, 23, 17, 10], 2 * S));
    }
}
