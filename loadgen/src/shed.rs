//! Lines that are given up because too many before them are unanswered: those that come due while it is so, not those
//! that have waited. What is left is sent in order, so the lines that are measured are the ones that had to wait.

use std::collections::VecDeque;

/// Places in a worker's schedule that are passed over.
#[derive(Debug, Default)]
pub(crate) struct Shed {
    /// Ranges that lie ahead, each from its first place to before its last.
    ahead: VecDeque<(u64, u64)>,
    /// Every place before this has been decided about.
    decided: u64,
}

impl Shed {
    /// Nothing is decided from that place on.
    pub(crate) fn from(place: u64) -> Shed {
        Shed { ahead: VecDeque::new(), decided: place }
    }

    /// Decides about the places up to `due_upto` that have come due: `room` may wait or be under way, those that wait
    /// already, from `next` on, included. How many are shed.
    pub(crate) fn take(&mut self, next: u64, due_upto: u64, room: u64) -> u64 {
        let decided = self.decided.max(next);
        let waiting = decided - next - self.pending();
        let keep = room.saturating_sub(waiting).min(due_upto.saturating_sub(decided));
        let (from, upto) = (decided + keep, due_upto);
        self.decided = decided.max(due_upto);
        if from >= upto {
            return 0;
        }
        match self.ahead.back_mut() {
            Some(last) if last.1 == from => last.1 = upto,
            Some(_) | None => self.ahead.push_back((from, upto)),
        }
        upto - from
    }

    /// The first place from `next` on that is not shed.
    pub(crate) fn skip(&mut self, next: u64) -> u64 {
        match self.ahead.front() {
            Some((from, upto)) if *from == next => {
                let upto = *upto;
                self.ahead.pop_front();
                upto
            }
            Some(_) | None => next,
        }
    }

    /// The end of the places before the next one that is shed, and no later than `upto`.
    pub(crate) fn before_next(&self, upto: u64) -> u64 {
        self.ahead.front().map_or(upto, |(from, _)| upto.min(*from))
    }

    /// Places ahead that are shed.
    pub(crate) fn pending(&self) -> u64 {
        self.ahead.iter().map(|(from, upto)| upto - from).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_that_come_due_while_there_is_no_room_are_shed_and_the_older_ones_wait() {
        let mut shed = Shed::default();
        assert_eq!(shed.take(0, 4, 10), 0);
        assert_eq!(shed.take(0, 15, 10), 5, "ten of fifteen wait");
        assert_eq!((shed.skip(0), shed.before_next(15)), (0, 10));
        // Three of those that waited are sent, two of them answered: one is under way, seven wait, two may come.
        assert_eq!(shed.take(3, 18, 9), 1);
        assert_eq!((shed.pending(), shed.before_next(18)), (6, 10));
        assert_eq!(shed.skip(10), 15);
        assert_eq!((shed.skip(15), shed.before_next(18)), (15, 17));
        assert_eq!(shed.skip(17), 18);
        assert_eq!(shed.pending(), 0);
    }

    proptest! {
        #[test]
        fn no_more_than_allowed_wait_and_every_place_is_sent_or_shed_once(
            limit in 1u64..20, steps in prop::collection::vec((0u64..15, 0u64..9, 0u64..9), 1..60),
        ) {
            let (mut shed, mut next, mut due, mut under_way) = (Shed::from(0), 0, 0, 0u64);
            let (mut sent, mut given_up) = (0, 0);
            for (more, send, answer) in steps {
                due += more;
                given_up += shed.take(next, due, limit.saturating_sub(under_way));
                let waiting = due - next - shed.pending();
                prop_assert!(waiting + under_way <= limit);
                for _ in 0..send {
                    next = shed.skip(next);
                    if shed.before_next(due) > next {
                        (next, sent, under_way) = (next + 1, sent + 1, under_way + 1);
                    }
                }
                under_way -= answer.min(under_way);
            }
            prop_assert_eq!(sent + given_up + (due - next - shed.pending()), due);
        }
    }
}
