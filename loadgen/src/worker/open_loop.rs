//! The lines of an open loop: each sent when its time has come, whatever the server does, and where it is not, whose fault
//! that was.

use super::{Kit, Worker};
use crate::validity::LATE_NS;

/// Open loop: lines are due that no connection had room for. It lasts until the last of them is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stall {
    since_ns: u64,
    /// Since when there is room again; `None` while there is not.
    pub(super) until_ns: Option<u64>,
}

impl Stall {
    /// Whether a line that was due at `intended_ns` is late because of it. Those that came due after it wait behind those
    /// that came due in it; but who takes longer to catch up than the stall took is slow himself.
    fn delays(&self, intended_ns: u64) -> bool {
        let upto_ns = self.until_ns.map_or(u64::MAX, |until_ns| 2 * until_ns - self.since_ns);
        (self.since_ns.saturating_sub(LATE_NS)..upto_ns).contains(&intended_ns)
    }
}

impl Worker {
    /// Open loop: deals out the lines whose turn has come, in rotation. A line that no connection can take stays the
    /// next one; it is late, and counts from its own time. Where lines come due faster than they are sent, the turn ends all
    /// the same: answers have to be heard, and the end.
    pub(super) fn send_due(&mut self) {
        let count = self.connections.len();
        let mut refused_in_a_row = 0;
        for _ in 0..count.max(SENDS_PER_TURN_MIN) {
            if refused_in_a_row == count {
                break;
            }
            let now_ns = self.clock.now_ns();
            let due_upto = self.kit.schedule.as_mut().map_or(0, |schedule| schedule.due(now_ns));
            let due_upto = due_upto.min(self.end_slot.unwrap_or(u64::MAX));
            self.shed_beyond(due_upto);
            self.next_slot = self.shed.skip(self.next_slot);
            let due = self.shed.before_next(due_upto).saturating_sub(self.next_slot);
            if due == 0 {
                self.stall = None;
                return;
            }
            let at = self.rotation;
            self.rotation = (self.rotation + 1) % count;
            let room = if self.is_leaving(at) { 0 } else { self.connections[at].room(self.task.depth) };
            if room == 0 {
                refused_in_a_row += 1;
                continue;
            }
            refused_in_a_row = 0;
            if let Some(stall) = &mut self.stall {
                stall.until_ns.get_or_insert(now_ns);
            }
            let lines = due.div_ceil(count as u64).min(self.task.batch).min(room);
            self.note_slip(lines, now_ns);
            if let Err(fault) = self.send(at, lines) {
                self.handle_fault(at, fault);
            }
        }
        if refused_in_a_row < count {
            return;
        }
        // Room for a few lines of many that are late does not end a stall.
        let since_ns = self.stall.map_or_else(|| self.clock.now_ns(), |stall| stall.since_ns);
        self.stall = Some(Stall { since_ns, until_ns: None });
    }

    /// Of the lines that came due since the last time, sheds those for which too many others are waiting or under way.
    fn shed_beyond(&mut self, due_upto: u64) {
        let Some(in_flight_max) = self.task.in_flight_max else { return };
        let Kit { tally, warm_up, .. } = &mut self.kit;
        let under_way = tally.offered + warm_up.offered - tally.finished() - warm_up.finished();
        let shed = self.shed.take(self.next_slot, due_upto, in_flight_max.saturating_sub(under_way));
        if shed > 0 {
            tally.offered += shed;
            tally.fail("shed", shed);
            self.gauge.shed(shed);
        }
    }

    /// How late the next `lines` are, and by whose fault.
    fn note_slip(&mut self, lines: u64, now_ns: u64) {
        let Some(schedule) = &mut self.kit.schedule else { return };
        for slot in self.next_slot..self.next_slot + lines {
            let intended_ns = schedule.at(slot);
            self.kit.latency.slip.record(now_ns.saturating_sub(intended_ns), 1);
            self.gauge.sent(intended_ns, now_ns, |at_ns| self.stall.is_some_and(|stall| stall.delays(at_ns)));
        }
    }
}

/// Lines are dealt out to every connection once per turn, and where there are few of them, so often.
const SENDS_PER_TURN_MIN: usize = 64;
