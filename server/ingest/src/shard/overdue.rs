//! Who is late, and who has waited too long.
//!
//! Sessions that owe something in time are swept together, not before the first of them can be late. Those that wait for
//! room are told to come back: first who is over its share, then all.

use super::Shard;
use crate::deadline::{self, Late, SWEEP_GAP, SWEEP_LATE_MAX};
use crate::intake::Refusal;
use crate::limits::Limits;
use crate::quota;
use crate::session::{Mode, Session, Shed};
use crate::slab::SessionId;
use ringest_wire::Code;
use std::time::Instant;

impl Shard {
    /// Sweeps when the session may be late, or before.
    pub(super) fn expect_late(&mut self, session: &Session) {
        self.sweep_when(deadline::due(session, &self.intake.limits, self.is_draining));
    }

    /// Sweeps when that is due, or before.
    pub(super) fn sweep_when(&mut self, due: Option<(Instant, Late)>) {
        if let Some((at, _)) = due {
            self.sweep_by(at);
        }
    }

    pub(super) fn sweep_by(&mut self, at: Instant) {
        let at = at.max(self.now + SWEEP_GAP);
        self.sweep_at = Some(self.sweep_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Ends or mutes the sessions that are late, and finds out when the next one may be.
    pub(super) fn sweep(&mut self, due_at: Instant, now: Instant) {
        if now > due_at + SWEEP_LATE_MAX {
            return self.sweep_by(now + SWEEP_LATE_MAX);
        }
        let mut next: Option<Instant> = None;
        for slot in 0..self.sessions.slots() {
            let Some(id) = self.sessions.tenant_of(slot) else { continue };
            let Some(session) = self.sessions.get_mut(id) else { continue };
            let late = match deadline::due(session, &self.intake.limits, self.is_draining) {
                Some((at, late)) if at <= now => late,
                Some((at, _)) => {
                    next = Some(next.map_or(at, |earlier| earlier.min(at)));
                    continue;
                }
                None => continue,
            };
            let is_its_fault = matches!(late, Late::Reply | Late::Answer) || !deadline::is_waiting_for_us(session);
            // One that stops ends them all, each in its own time.
            if is_its_fault && (late == Late::Reply || !self.is_draining) {
                self.end_late(id, late);
            } else {
                session.clock.restart(now);
            }
            let due =
                self.sessions.get(id).and_then(|session| deadline::due(session, &self.intake.limits, self.is_draining));
            next = next.into_iter().chain(due.map(|(at, _)| at)).min();
        }
        if let Some(at) = next {
            self.sweep_by(at);
        }
    }

    fn end_late(&mut self, id: SessionId, late: Late) {
        let tls_is_required = self.config.tls.as_ref().is_some_and(|tls| tls.is_required);
        let Some(session) = self.sessions.get_mut(id) else { return };
        match late {
            Late::Reply | Late::Answer => {
                if let Some(producer) = session.producer() {
                    self.intake.producers.detach(producer, id);
                }
                let is_plain = matches!(session.mode, Mode::Plain(_));
                self.intake.tally.acks_suppressed += u64::from(is_plain);
                if late == Late::Answer {
                    session.is_closing = true;
                    self.intake.tally.ended[late.code() as usize] += 1;
                }
                // What is owed cannot be said, because what was said is not taken.
                session.mute();
            }
            Late::FirstByte | Late::Greeting | Late::Line | Late::Activity => {
                session.end_late(late, !tls_is_required || session.transport.is_some());
                self.intake.tally.ended[late.code() as usize] += 1;
            }
        }
        self.make_ready(id);
        self.requeue(id);
    }

    /// Tells those that have waited too long to come back later: first those that are over their share, then all. Plain
    /// connections wait on: their clients cannot be told without losing the lines that are on their way.
    pub(super) fn shed_overdue(&mut self, now: Instant) {
        self.line_check_at = None;
        if self.is_draining {
            return;
        }
        let Limits { wait_over_share, wait_max, .. } = self.intake.limits;
        let mut shed = Vec::new();
        for id in self.queue.iter() {
            let Some(session) = self.sessions.get_mut(id) else { continue };
            let Some(since) = session.waits_since else { continue };
            let waited = now.saturating_duration_since(since);
            let is_over = waited >= wait_over_share && self.shares.is_over(&session.usage, now);
            if matches!(session.mode, Mode::Stream(_)) && (is_over || waited >= wait_max) {
                session.is_queued = false;
                shed.push((id, waited));
            }
            self.line_check_at = Some(now + wait_over_share / 4);
        }
        let Shard { queue, sessions, .. } = self;
        queue.retain(|id| sessions.get(id).is_some_and(|session| session.is_queued));
        for (id, waited) in shed {
            let Some(session) = self.sessions.get_mut(id) else { continue };
            if session.is_behind() && self.decode_budget == 0 {
                // What is refused has to be decoded all the same: in the next turn.
                self.enqueue(id);
                self.line_check_at = Some(now);
                continue;
            }
            let code = if waited >= wait_max { Code::Overloaded } else { Code::QuotaExceeded };
            let refusal = Refusal::new(code, quota::retry_after(waited, id.token(), waited.as_nanos() as u64));
            session.shed = Some(Shed { refusal, used_at: None });
            self.intake.tally.shed_over_share += u64::from(code == Code::QuotaExceeded);
            self.intake.tally.shed_overdue += u64::from(code == Code::Overloaded);
            if code == Code::Overloaded {
                self.shut_until = Some(now + wait_max);
            }
            self.feed_stashed(id);
            self.unstall(id);
        }
    }
}
