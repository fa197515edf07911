//! A circuit breaker: from how calls went, whether the next one should be made. It makes no call and asks no clock.
//!
//! Closed, calls are made and counted over a sliding window; where too many of them failed or were slow, it opens. Open,
//! no call should be made for a while. Half-open, a few are, and how they go decides. Names and meanings are those of
//! resilience4j. One rule is added: so many failures in a row open it, however few calls there were.

use std::time::{Duration, Instant};

/// When a breaker opens, and how it closes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerLimits {
    /// Calls are counted for this long, in steps of a tenth of it.
    pub window: Duration,
    /// With fewer calls than these in the window, no rate opens it.
    pub minimum_calls: u32,
    /// Percent of the calls in the window whose failure opens it.
    pub failure_rate: u32,
    /// Percent of the calls in the window whose slowness opens it.
    pub slow_call_rate: u32,
    /// A call that takes this long is slow.
    pub slow_call_duration: Duration,
    /// Failures without a success in between that open it, whatever the rates are.
    pub failures_in_row: Option<u32>,
    /// How long it stays open.
    pub wait_in_open: Duration,
    /// Calls that are made half-open before they are judged by the rates.
    pub permitted_in_half_open: u32,
}

impl BreakerLimits {
    /// Around writes and syncs. A second failure opens it, and it is tried again every second. Calls are slow only where
    /// no backlog explains it: a sync of all that a shard may hold takes that long at 3 MB/s.
    pub fn of_storage() -> BreakerLimits {
        BreakerLimits {
            window: Duration::from_secs(60),
            minimum_calls: 10,
            failure_rate: 50,
            slow_call_rate: 100,
            slow_call_duration: Duration::from_secs(10),
            failures_in_row: Some(2),
            wait_in_open: Duration::from_secs(1),
            permitted_in_half_open: 3,
        }
    }

    /// Around the lines of one connection: half of at least a hundred in a minute are bad.
    pub fn of_lines() -> BreakerLimits {
        BreakerLimits {
            window: Duration::from_secs(60),
            minimum_calls: 100,
            failure_rate: 50,
            slow_call_rate: 100,
            slow_call_duration: Duration::MAX,
            failures_in_row: None,
            wait_in_open: Duration::from_secs(10),
            permitted_in_half_open: 5,
        }
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        let rates = 1..=100;
        let fits = self.window >= Duration::from_millis(u64::from(BUCKETS))
            && rates.contains(&self.failure_rate)
            && rates.contains(&self.slow_call_rate)
            && self.minimum_calls >= 1
            && self.permitted_in_half_open >= 1
            && self.failures_in_row != Some(0);
        if fits {
            return Ok(());
        }
        Err(format!("a breaker has a window of {BUCKETS} ms, rates of 1 to 100 percent, and counts at least one call"))
    }
}

/// What a breaker says about the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Make it.
    Closed,
    /// Do not make it.
    Open,
    /// Make it, if only a few are being made.
    HalfOpen,
}

impl BreakerState {
    /// The name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            BreakerState::Closed => "closed",
            BreakerState::Open => "open",
            BreakerState::HalfOpen => "half-open",
        }
    }
}

/// How a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Failed,
    /// It came back well, which proves nothing: what a kernel has taken it may still lose.
    Passed,
    Proven,
}

/// Calls, and what was wrong with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Calls {
    pub(crate) all: u32,
    pub(crate) failed: u32,
    pub(crate) slow: u32,
}

#[derive(Debug)]
pub(crate) struct Breaker {
    limits: BreakerLimits,
    state: BreakerState,
    /// Open until then; afterwards, when it was last to be.
    until: Instant,
    born: Instant,
    /// Calls by the tenth of a window they fell into, and which one that was. Those made half-open are in the first.
    buckets: [(u64, Calls); BUCKETS as usize],
    /// Failures since the last proof of success.
    in_row: u32,
    /// How often it opened.
    opened: u64,
}

impl Breaker {
    pub(crate) fn new(limits: BreakerLimits, now: Instant) -> Breaker {
        Breaker {
            limits,
            state: BreakerState::Closed,
            until: now,
            born: now,
            buckets: Default::default(),
            in_row: 0,
            opened: 0,
        }
    }

    pub(crate) fn state(&self) -> BreakerState {
        self.state
    }

    pub(crate) fn permitted_in_half_open(&self) -> usize {
        self.limits.permitted_in_half_open as usize
    }

    /// Whether it opened because calls failed one after the other, and none has succeeded since.
    pub(crate) fn is_failing(&self) -> bool {
        self.limits.failures_in_row.is_some_and(|max| self.in_row >= max)
    }

    pub(crate) fn opened(&self) -> u64 {
        self.opened
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        (self.state == BreakerState::Open).then_some(self.until)
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.state == BreakerState::Open && now >= self.until {
            self.state = BreakerState::HalfOpen;
            self.buckets = Default::default();
        }
    }

    /// A call has come back.
    pub(crate) fn record(&mut self, outcome: Outcome, took: Duration, now: Instant) {
        let slow = u32::from(took >= self.limits.slow_call_duration);
        match outcome {
            Outcome::Proven => self.in_row = 0,
            Outcome::Passed if self.state == BreakerState::HalfOpen => return,
            Outcome::Passed => {}
            Outcome::Failed => {
                self.in_row = self.in_row.saturating_add(1);
                // Each try costs a segment, so one that fails half-open is enough.
                let is_retry = self.state == BreakerState::HalfOpen && self.limits.failures_in_row.is_some();
                if is_retry || self.is_failing() {
                    return self.open(now);
                }
            }
        }
        self.count(Calls { all: 1, failed: u32::from(outcome == Outcome::Failed), slow }, now);
    }

    /// Calls have come back, in whatever order.
    pub(crate) fn count(&mut self, calls: Calls, now: Instant) {
        let (bucket, minimum) = match self.state {
            BreakerState::Open => return, // They were made before it opened.
            BreakerState::Closed => (self.bucket(now), self.limits.minimum_calls),
            BreakerState::HalfOpen => (0, self.limits.permitted_in_half_open),
        };
        let (number, sum) = &mut self.buckets[(bucket % u64::from(BUCKETS)) as usize];
        if *number != bucket {
            (*number, *sum) = (bucket, Calls::default());
        }
        sum.add(calls);
        let seen = self.seen(bucket);
        let is_over = |part: u32, rate: u32| u64::from(part) * 100 >= u64::from(rate) * u64::from(seen.all);
        if seen.all < minimum {
            return;
        }
        if is_over(seen.failed, self.limits.failure_rate) || is_over(seen.slow, self.limits.slow_call_rate) {
            self.open(now);
        } else if self.state == BreakerState::HalfOpen {
            self.state = BreakerState::Closed;
            self.buckets = Default::default();
        }
    }

    fn open(&mut self, now: Instant) {
        self.opened += u64::from(self.state != BreakerState::Open);
        self.state = BreakerState::Open;
        self.until = now + self.limits.wait_in_open;
    }

    fn seen(&self, bucket: u64) -> Calls {
        let mut seen = Calls::default();
        let recent = self.buckets.iter().filter(|(number, _)| number + u64::from(BUCKETS) > bucket);
        recent.for_each(|(_, calls)| seen.add(*calls));
        seen
    }

    fn bucket(&self, now: Instant) -> u64 {
        let step = self.limits.window.as_nanos() / u128::from(BUCKETS);
        u64::try_from(now.saturating_duration_since(self.born).as_nanos() / step).unwrap_or(u64::MAX)
    }
}

impl Calls {
    fn add(&mut self, other: Calls) {
        self.all = self.all.saturating_add(other.all);
        self.failed = self.failed.saturating_add(other.failed);
        self.slow = self.slow.saturating_add(other.slow);
    }
}

/// Steps in which a window slides.
const BUCKETS: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[allow(clippy::disallowed_methods, reason = "the one moment from which time counts")]
    fn start() -> Instant {
        Instant::now()
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Call(Outcome, u64),
        Many(u32, u32),
        Timeout,
    }

    /// The obvious answer: everything that ever happened, gone through from the beginning, each time.
    fn oracle(limits: &BreakerLimits, events: &[(u64, Event)]) -> (BreakerState, u64) {
        let step = limits.window.as_millis() as u64 / 10;
        let (mut state, mut until, mut opened) = (BreakerState::Closed, 0, 0);
        let mut since = 0; // The first event that counts in this state.
        for (at, &(time, event)) in events.iter().enumerate() {
            if matches!(event, Event::Timeout) {
                if state == BreakerState::Open && time >= until {
                    (state, since) = (BreakerState::HalfOpen, at);
                }
                continue;
            }
            let calls_of = |event: Event| match event {
                Event::Call(Outcome::Passed, _) if state == BreakerState::HalfOpen => (0, 0, 0),
                Event::Call(outcome, took) => {
                    (1, u64::from(outcome == Outcome::Failed), u64::from(ms(took) >= limits.slow_call_duration))
                }
                Event::Many(all, failed) => (u64::from(all), u64::from(failed), 0),
                Event::Timeout => (0, 0, 0),
            };
            let row = events[..=at]
                .iter()
                .rev()
                .filter_map(|(_, event)| if let Event::Call(outcome, _) = event { Some(outcome) } else { None })
                .take_while(|outcome| **outcome != Outcome::Proven)
                .filter(|outcome| **outcome == Outcome::Failed)
                .count();
            let is_failure = matches!(event, Event::Call(Outcome::Failed, _));
            let row_opens = is_failure
                && limits.failures_in_row.is_some_and(|max| row >= max as usize || state == BreakerState::HalfOpen);
            let in_window = |then: u64| state == BreakerState::HalfOpen || then / step + 10 > time / step;
            let (mut all, mut failed, mut slow) = (0, 0, 0);
            for &(then, event) in &events[since..=at] {
                if in_window(then) {
                    let calls = calls_of(event);
                    (all, failed, slow) = (all + calls.0, failed + calls.1, slow + calls.2);
                }
            }
            let minimum = match state {
                BreakerState::Closed => limits.minimum_calls,
                BreakerState::HalfOpen => limits.permitted_in_half_open,
                BreakerState::Open => u32::MAX,
            };
            let is_judged = all >= u64::from(minimum) && calls_of(event).0 > 0;
            let is_over = failed * 100 >= u64::from(limits.failure_rate) * all
                || slow * 100 >= u64::from(limits.slow_call_rate) * all;
            if row_opens || (is_judged && is_over) {
                opened += u64::from(state != BreakerState::Open);
                (state, until) = (BreakerState::Open, time + limits.wait_in_open.as_millis() as u64);
            } else if is_judged && state == BreakerState::HalfOpen {
                (state, since) = (BreakerState::Closed, at + 1);
            }
        }
        (state, opened)
    }

    fn limits() -> impl Strategy<Value = BreakerLimits> {
        let row = prop_oneof![Just(None), (1..4_u32).prop_map(Some)];
        (1..30_u64, 1..12_u32, 1..101_u32, 1..101_u32, 1..60_u64, row, 1..200_u64, 1..6_u32).prop_map(
            |(step, minimum_calls, failure_rate, slow_call_rate, slow, failures_in_row, wait, permitted)| {
                BreakerLimits {
                    window: ms(step * 10),
                    minimum_calls,
                    failure_rate,
                    slow_call_rate,
                    slow_call_duration: ms(slow),
                    failures_in_row,
                    wait_in_open: ms(wait),
                    permitted_in_half_open: permitted,
                }
            },
        )
    }

    fn event() -> impl Strategy<Value = Event> {
        let outcome = prop_oneof![
            3 => Just(Outcome::Proven),
            2 => Just(Outcome::Passed),
            2 => Just(Outcome::Failed)
        ];
        prop_oneof![
            6 => (outcome, 0..80_u64).prop_map(|(outcome, took)| Event::Call(outcome, took)),
            1 => (1..9_u32, 0..9_u32).prop_map(|(all, failed)| Event::Many(all, failed.min(all))),
            2 => Just(Event::Timeout),
        ]
    }

    proptest! {
        #[test]
        fn it_is_what_the_whole_history_says(limits in limits(), steps in prop::collection::vec((0..60_u64, event()), 1..120)) {
            let born = start();
            let mut breaker = Breaker::new(limits.clone(), born);
            let (mut time, mut events) = (0, Vec::new());
            for (gap, event) in steps {
                time += gap;
                events.push((time, event));
                let now = born + ms(time);
                match event {
                    Event::Call(outcome, took) => breaker.record(outcome, ms(took), now),
                    Event::Many(all, failed) => breaker.count(Calls { all, failed, slow: 0 }, now),
                    Event::Timeout => breaker.handle_timeout(now),
                }
                prop_assert_eq!((breaker.state(), breaker.opened()), oracle(&limits, &events), "after {:?}", events);
                prop_assert_eq!(breaker.poll_timeout().is_some(), breaker.state() == BreakerState::Open);
            }
        }
    }

    #[test]
    fn the_second_failure_opens_storage_and_a_second_later_proofs_close_it() {
        let now = start();
        let mut breaker = Breaker::new(BreakerLimits::of_storage(), now);
        breaker.record(Outcome::Failed, ms(1), now);
        breaker.record(Outcome::Passed, ms(1), now);
        assert_eq!(breaker.state(), BreakerState::Closed, "one failure is mended");
        breaker.record(Outcome::Failed, ms(1), now);
        assert!(breaker.state() == BreakerState::Open && breaker.is_failing());
        breaker.handle_timeout(now + ms(999));
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker.handle_timeout(now + ms(1000));
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        for _ in 0..3 {
            assert_eq!(breaker.state(), BreakerState::HalfOpen);
            breaker.record(Outcome::Passed, ms(1), now + ms(1001));
            breaker.record(Outcome::Proven, ms(1), now + ms(1001));
        }
        assert!(breaker.state() == BreakerState::Closed && !breaker.is_failing());
    }

    #[test]
    fn half_of_a_hundred_bad_lines_open_and_five_good_ones_close() {
        let now = start();
        let mut breaker = Breaker::new(BreakerLimits::of_lines(), now);
        breaker.count(Calls { all: 99, failed: 99, slow: 0 }, now);
        assert_eq!(breaker.state(), BreakerState::Closed, "too few to say");
        breaker.count(Calls { all: 99, failed: 0, slow: 0 }, now + ms(59_000));
        assert_eq!(breaker.state(), BreakerState::Open, "99 of 198");
        breaker.handle_timeout(now + ms(69_000));
        breaker.count(Calls { all: 4, failed: 0, slow: 0 }, now + ms(69_000));
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        breaker.count(Calls { all: 1, failed: 0, slow: 0 }, now + ms(69_000));
        assert_eq!(breaker.state(), BreakerState::Closed);
    }
}
