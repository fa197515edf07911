//! What a worker notices about itself while it sends: how its time goes by, and whether it was let run.
//!
//! It costs one look at the clock per turn; the kernel is asked once per interval.

use crate::validity::{LATE_NS, Signs};
use ringest_sys::clock;
use std::fs;
use std::time::Duration;

/// Gathers the signs of one worker.
#[derive(Debug)]
pub struct Gauge {
    signs: Signs,
    from_ns: u64,
    at_start: Bills,
    turn_ns: u64,
    turn: Turn,
}

/// What the last turn was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Busy,
    /// Nothing to do but to look at the clock.
    Idle,
}

/// Processor time so far.
#[derive(Clone, Copy, Debug)]
struct Bills {
    cpu: Duration,
    process: Duration,
    queued_ns: u64,
}

impl Gauge {
    /// One that begins at `now_ns`, on the thread that it is about.
    pub fn start(now_ns: u64) -> Gauge {
        Gauge { signs: Signs::default(), from_ns: now_ns, at_start: Bills::now(), turn_ns: now_ns, turn: Turn::Busy }
    }

    /// When the interval began.
    pub fn from_ns(&self) -> u64 {
        self.from_ns
    }

    /// A turn begins.
    #[inline]
    pub fn begin_turn(&mut self, now_ns: u64) {
        if self.turn == Turn::Idle {
            let took_ns = now_ns.saturating_sub(self.turn_ns);
            self.signs.spun_ns += took_ns;
            // Two looks at the clock with nothing between them lie this far apart only if somebody came between.
            if took_ns > JUMP_NS {
                self.overslept(took_ns);
            }
        }
        self.turn_ns = now_ns;
        self.turn = Turn::Busy;
    }

    /// In this turn the worker was allowed to sleep until something happened, `timeout_ns` at most. `nothing` did.
    #[inline]
    pub fn waited(&mut self, timeout_ns: u64, now_ns: u64, nothing: bool) {
        let took_ns = now_ns.saturating_sub(self.turn_ns);
        if timeout_ns > 0 {
            self.signs.waited_ns += took_ns;
            self.turn_ns = now_ns;
            if nothing {
                self.overslept(took_ns.saturating_sub(timeout_ns + TIMER_NS));
            }
        }
    }

    /// This turn had nothing to do.
    #[inline]
    pub fn idle(&mut self) {
        self.turn = Turn::Idle;
    }

    /// A line was sent at `now_ns` that was due at `intended_ns`. `blocked` says that no connection had room for it
    /// when it was due.
    #[inline]
    pub fn sent(&mut self, intended_ns: u64, now_ns: u64, blocked: impl FnOnce(u64) -> bool) {
        self.signs.sent += 1;
        let slip_ns = now_ns.saturating_sub(intended_ns);
        if slip_ns > LATE_NS {
            let late = if blocked(intended_ns) { &mut self.signs.late_blocked } else { &mut self.signs.late_ours };
            late.note(slip_ns, 1);
        }
    }

    /// Lines were not sent at all, because the server had not answered those before them.
    pub fn shed(&mut self, lines: u64) {
        self.signs.sent += lines;
        self.signs.late_blocked.note(u64::MAX, lines);
    }

    /// The signs of the interval that ends at `now_ns`; the next begins.
    pub fn take(&mut self, now_ns: u64) -> Signs {
        let bills = Bills::now();
        let mut signs = std::mem::take(&mut self.signs);
        signs.span_ns = now_ns.saturating_sub(self.from_ns);
        signs.cpu_ns = bills.cpu.saturating_sub(self.at_start.cpu).as_nanos() as u64;
        signs.process_ns = bills.process.saturating_sub(self.at_start.process).as_nanos() as u64;
        signs.queued_ns = bills.queued_ns.saturating_sub(self.at_start.queued_ns);
        (self.from_ns, self.at_start) = (now_ns, bills);
        signs
    }

    fn overslept(&mut self, ns: u64) {
        self.signs.overslept_ns += ns;
        self.signs.overslept_max_ns = self.signs.overslept_max_ns.max(ns);
    }
}

impl Bills {
    fn now() -> Bills {
        Bills { cpu: clock::thread_cpu(), process: clock::process_cpu(), queued_ns: queued_ns() }
    }
}

/// How long this thread could have run and did not, because something else did: the second number of schedstat. 0 where
/// the kernel does not count it.
fn queued_ns() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The usual delay of a timer, its slack included, on a machine that is not busy.
const TIMER_NS: u64 = 60_000;
/// An empty turn takes about a microsecond.
const JUMP_NS: u64 = 50_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_spinning_and_working_add_up_to_the_interval() {
        let mut gauge = Gauge::start(0);
        gauge.begin_turn(0);
        gauge.waited(5_000, 6_000, false);
        gauge.begin_turn(16_000); // 10 us of work.
        gauge.waited(0, 16_500, true);
        gauge.idle();
        gauge.begin_turn(17_000); // 1 us of spinning.
        gauge.waited(0, 17_100, false);
        let signs = gauge.take(20_000);
        assert_eq!((signs.waited_ns, signs.spun_ns, signs.span_ns), (6_000, 1_000, 20_000));
        assert_eq!(signs.busy(), 0.65);
        let next = gauge.take(20_000);
        assert_eq!((next.waited_ns, next.spun_ns, next.span_ns), (0, 0, 0));
    }

    #[test]
    fn only_what_nobody_asked_for_is_overslept() {
        let mut gauge = Gauge::start(0);
        gauge.begin_turn(0);
        gauge.waited(1_000_000, 1_000_000 + TIMER_NS, true);
        gauge.begin_turn(2_000_000);
        gauge.waited(1_000_000, 3_000_000 + TIMER_NS + 7, true);
        gauge.begin_turn(4_000_000);
        gauge.waited(1_000, 9_000_000, false); // Something happened; when, nobody knows.
        assert_eq!(gauge.signs.overslept_ns, 7);
        gauge.idle();
        gauge.begin_turn(9_000_000 + JUMP_NS);
        gauge.idle();
        gauge.begin_turn(9_000_000 + 3 * JUMP_NS);
        assert_eq!((gauge.signs.overslept_ns, gauge.signs.overslept_max_ns), (7 + 2 * JUMP_NS, 2 * JUMP_NS));
    }

    #[test]
    fn a_late_line_is_blamed_once() {
        let mut gauge = Gauge::start(0);
        gauge.sent(0, LATE_NS, |_| true);
        gauge.sent(0, LATE_NS + 1, |_| true);
        gauge.sent(0, LATE_NS + 1, |_| false);
        let signs = gauge.take(1);
        assert_eq!((signs.sent, signs.late_blocked.count(), signs.late_ours.count()), (3, 1, 1));
    }
}
