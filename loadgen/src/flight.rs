//! The lines of one connection between their schedule and their answer.
//!
//! Three numbers in order: `settled <= written <= assigned`. A line is assigned when its turn has come, written when
//! the socket took its last byte, settled when it was answered. Lines are rendered from their number, so nothing is held
//! but when they were sent, and taking a step back to send again is an assignment. There is no socket and no clock here.

use crate::latency::Latency;
use crate::schedule::Schedule;
use std::collections::VecDeque;

/// The lines of one connection that are under way.
#[derive(Debug, Default)]
pub struct Flight {
    settled: u64,
    written: u64,
    /// Bytes of line `written + 1` that the socket has taken.
    offset: usize,
    assigned: u64,
    batches: VecDeque<Batch>,
}

/// Lines that were assigned at the same instant.
#[derive(Clone, Copy, Debug)]
struct Batch {
    /// The last of them.
    last: u64,
    /// The place of the last in the worker's schedule.
    last_slot: u64,
    sent_ns: u64,
}

impl Flight {
    /// A stream whose first line is `first`.
    pub fn starting_at(first: u64) -> Flight {
        let before = first.checked_sub(1).expect("lines are numbered from 1");
        Flight { settled: before, written: before, assigned: before, ..Flight::default() }
    }

    /// The last line that was answered, with all before it.
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// The last line that the socket took whole.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The last line whose turn has come.
    pub fn assigned(&self) -> u64 {
        self.assigned
    }

    /// Bytes of the next line that the socket took already.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Lines assigned and not answered.
    pub fn outstanding(&self) -> u64 {
        self.assigned - self.settled
    }

    /// The last line of which the socket took any byte: the peer can know no later one.
    pub fn touched(&self) -> u64 {
        self.written + u64::from(self.offset > 0)
    }

    /// The next `count` lines take their turn; they have the places `slot`, `slot + 1`, … of the schedule.
    pub fn assign(&mut self, count: u64, slot: u64, now_ns: u64) {
        self.assigned += count;
        self.batches.push_back(Batch { last: self.assigned, last_slot: slot + count - 1, sent_ns: now_ns });
    }

    /// The socket took `lines` more whole lines, and then `offset` bytes of the next.
    pub fn wrote(&mut self, lines: usize, offset: usize) {
        self.written += lines as u64;
        self.offset = offset;
        assert!(self.touched() <= self.assigned, "only lines whose turn has come are written");
    }

    /// What the socket took of a line that it did not take whole is lost with the connection: the next has to take all of it.
    pub fn forget_part(&mut self) {
        self.offset = 0;
    }

    /// The next line to be written is `first`, from its first byte.
    pub fn rewind(&mut self, first: u64) {
        assert!(self.settled < first && first <= self.assigned + 1, "only unanswered lines are sent again");
        self.written = first - 1;
        self.offset = 0;
    }

    /// Every line up to `upto` is answered, as of `now_ns`. An older number than before changes nothing. Without `latency`
    /// nothing is measured.
    pub fn settle(
        &mut self,
        upto: u64,
        now_ns: u64,
        mut schedule: Option<&mut Schedule>,
        mut latency: Option<&mut Latency>,
    ) {
        let upto = upto.min(self.assigned);
        while self.settled < upto {
            let batch = self.batches.front().expect("every line under way is in a batch");
            let last = batch.last.min(upto);
            let count = last - self.settled;
            let service_ns = now_ns.saturating_sub(batch.sent_ns);
            match (&mut latency, &mut schedule) {
                (None, _) => {}
                (Some(latency), None) => {
                    latency.service.record(service_ns, count);
                    latency.response.record(service_ns, count);
                }
                (Some(latency), Some(schedule)) => {
                    latency.service.record(service_ns, count);
                    for seq in self.settled + 1..=last {
                        let intended_ns = schedule.at(batch.last_slot - (batch.last - seq));
                        latency.response.record(now_ns.saturating_sub(intended_ns), 1);
                    }
                }
            }
            self.settled = last;
            if last == batch.last {
                self.batches.pop_front();
            }
        }
        // What a peer settled without having been sent it in full is not sent again.
        if self.written < self.settled {
            self.rewind(self.settled + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::law::Law;
    use crate::schedule::{Arrival, Course};

    #[test]
    fn a_batch_is_measured_to_the_answer_of_its_last_line() {
        let (mut flight, mut latency) = (Flight::starting_at(1), Latency::new());
        flight.assign(10, 0, 1_000);
        flight.wrote(10, 0);
        flight.settle(4, 2_000, None, Some(&mut latency));
        flight.settle(10, 3_000, None, Some(&mut latency));
        assert_eq!(latency.service.counts().iter().map(|(_, count)| count).collect::<Vec<_>>(), [&4, &6]);
        assert_eq!(flight.outstanding(), 0);
    }

    #[test]
    fn in_an_open_loop_each_line_counts_from_its_own_intended_time() {
        let (mut flight, mut latency) = (Flight::starting_at(1), Latency::new());
        let mut schedule = Schedule::new(Course::new(Law::fixed(1_000_000), Arrival::Fixed, 1, (0, 1), 0));
        // Places 3, 4, 5 of the schedule: intended at 3, 4 and 5 us, sent together at 5 us, answered at 9 us.
        flight.assign(3, 3, 5_000);
        flight.wrote(3, 0);
        flight.settle(2, 9_000, Some(&mut schedule), Some(&mut latency));
        flight.settle(3, 9_000, Some(&mut schedule), Some(&mut latency));
        let near = |ns: u64| move |&(value, count): &(u64, u64)| value.abs_diff(ns) < 10 && count == 1;
        for expected in [4_000, 5_000, 6_000] {
            assert!(latency.response.counts().iter().any(near(expected)), "{:?}", latency.response.counts());
        }
        assert_eq!(latency.service.len(), 3);
    }

    #[test]
    fn going_back_sends_again_and_keeps_the_first_sending_time() {
        let (mut flight, mut latency) = (Flight::starting_at(1), Latency::new());
        flight.assign(5, 0, 1_000);
        flight.wrote(3, 17);
        assert_eq!((flight.written(), flight.offset(), flight.touched()), (3, 17, 4));
        flight.rewind(3);
        assert_eq!((flight.written(), flight.offset(), flight.outstanding()), (2, 0, 5));
        flight.wrote(3, 0);
        flight.settle(5, 1_001_000, None, Some(&mut latency));
        assert!(latency.service.at(0.0).abs_diff(1_000_000) < 1_000);
    }

    #[test]
    fn an_old_answer_changes_nothing_and_a_far_one_settles_no_more_than_was_assigned() {
        let (mut flight, mut latency) = (Flight::starting_at(8), Latency::new());
        flight.assign(3, 0, 0);
        flight.wrote(1, 4);
        flight.settle(9, 1, None, Some(&mut latency));
        flight.settle(8, 1, None, Some(&mut latency));
        assert_eq!((flight.settled(), flight.written(), flight.offset()), (9, 9, 0));
        flight.settle(99, 1, None, Some(&mut latency));
        assert_eq!(flight.settled(), 10);
    }
}
