//! One worker: a thread on a core of its own, with its connections, schedule and histograms.
//!
//! Nothing is shared while lines are sent but a flag that says stop; once a second the worker hands its histograms to
//! whoever gathers them and goes on with empty ones. A turn: wait, hear, send what is due.

mod fleet;
mod open_loop;
mod task;

use crate::books::{Desk, Fault};
use crate::connection::{Connection, explain};
use crate::corpus::{Corpus, Sender};
use crate::gauge::Gauge;
use crate::interval::{self, Interval, Phase};
use crate::io::{Event, Intake, Io, News};
use crate::latency::Latency;
use crate::ledger::{Entry, Mode};
use crate::packer::Packer;
use crate::schedule::{Course, Schedule, Timetable};
use crate::shed::Shed;
use crate::tally::Tally;
use fleet::Fleet;
use open_loop::Stall;
use ringest_sys::clock;
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender as Outlet;
use std::thread;
use std::time::Duration;

pub use fleet::Habits;
pub(crate) use task::Owed;
pub use task::{Clock, Orders, Outcome, Task, Word};

/// A worker at work.
#[derive(Debug)]
pub struct Worker {
    task: Task,
    clock: Clock,
    io: Io,
    connections: Vec<Connection>,
    /// Timers as (time, connection); a connection whose time has changed since ignores an old one.
    timers: BTreeSet<(u64, usize)>,
    /// Connections that may have room.
    eager: Vec<usize>,
    is_eager: Vec<bool>,
    /// Where an open loop goes on dealing out lines.
    rotation: usize,
    kit: Kit,
    /// What was decrypted.
    plain: Vec<u8>,
    sending: bool,
    start_ns: u64,
    /// Since when lines count.
    measured_ns: u64,
    /// Processor time by then.
    cpu_before: Duration,
    /// Since when no more are sent.
    stopped_ns: u64,
    /// The place of the next line in the schedule: how many have been assigned or shed.
    next_slot: u64,
    /// The place where lines end; `None` for no limit.
    end_slot: Option<u64>,
    shed: Shed,
    next_conn: u32,
    over: usize,
    entries: Vec<Entry>,
    last_settled_ns: u64,
    stall: Option<Stall>,
    phase: Phase,
    gauge: Gauge,
    fleet: Fleet,
}

/// What connections work with; lent to one at a time.
#[derive(Debug)]
struct Kit {
    corpus: Corpus,
    schedule: Option<Schedule>,
    latency: Latency,
    tally: Tally,
    warm_up: Tally,
    complaints: Vec<String>,
    packer: Option<Packer>,
}

impl Kit {
    /// Counts since the start of the run.
    fn sum(&self) -> Tally {
        let mut sum = self.warm_up.clone();
        sum.add(&self.tally);
        sum
    }

    fn desk(&mut self, now_ns: u64) -> Desk<'_> {
        Desk {
            corpus: &mut self.corpus,
            schedule: self.schedule.as_mut(),
            latency: &mut self.latency,
            tally: &mut self.tally,
            warm_up: &mut self.warm_up,
            complaints: &mut self.complaints,
            packer: self.packer.as_mut(),
            now_ns,
        }
    }
}

impl Worker {
    /// Connects everything and greets.
    ///
    /// # Errors
    /// A sentence, where the server cannot be reached or does not answer.
    pub fn connect(task: Task, corpus: Corpus, clock: Clock) -> Result<Worker, String> {
        let count = task.modes.len();
        let io = Io::new(task.engine, Intake::Answers(count + task.habits.idle as usize))
            .map_err(|error| format!("cannot set up {} for worker {}: {error}", task.engine, task.worker))?;
        let mut worker = Worker {
            io,
            connections: Vec::with_capacity(count),
            timers: BTreeSet::new(),
            eager: Vec::with_capacity(count),
            is_eager: vec![false; count],
            rotation: 0,
            kit: Kit {
                corpus,
                schedule: None,
                latency: Latency::new(),
                tally: Tally::default(),
                warm_up: Tally::default(),
                complaints: Vec::new(),
                packer: task.compression.map(Packer::new),
            },
            plain: Vec::new(),
            sending: false,
            start_ns: 0,
            measured_ns: 0,
            cpu_before: Duration::ZERO,
            stopped_ns: 0,
            next_slot: 0,
            end_slot: None,
            shed: Shed::default(),
            next_conn: count as u32,
            over: 0,
            entries: Vec::new(),
            last_settled_ns: 0,
            stall: None,
            phase: Phase::Measured,
            gauge: Gauge::start(clock.now_ns()),
            fleet: Fleet::default(),
            clock,
            task,
        };
        for conn in 0..count {
            worker.add(conn).map_err(|error| explain(worker.task.peer, &error))?;
        }
        worker.open_idle().map_err(|error| explain(worker.task.peer, &error))?;
        worker.greet()?;
        Ok(worker)
    }

    /// Sends until the task is done, and waits for the answers. It begins at `start_ns`.
    pub fn run(
        mut self,
        start_ns: u64,
        timetable: Timetable,
        orders: &Orders,
        outlet: &Outlet<(u16, Word)>,
    ) -> Outcome {
        let Timetable { mut measured, warm_up } = timetable;
        self.start_ns = start_ns;
        let mut end_ns = u64::MAX;
        if self.task.warms_up {
            self.phase = Phase::WarmUp;
            self.end_slot = None;
            self.kit.schedule = warm_up.map(|course| Schedule::new(course.starting_at(start_ns)));
        } else {
            end_ns = self.begin_to_measure(measured.take(), start_ns);
        }
        thread::sleep(Duration::from_nanos(start_ns.saturating_sub(self.clock.now_ns())));
        self.cpu_before = clock::thread_cpu();
        self.gauge = Gauge::start(start_ns);
        self.sending = true;
        self.begin_lives(start_ns);
        self.everyone_is_eager();

        let (mut give_up_ns, mut hurry_ns) = (u64::MAX, u64::MAX);
        let mut next_interval_ns = start_ns + interval::LEN_NS;
        while self.over < self.connections.len() {
            let now_ns = self.clock.now_ns();
            let measured_ns = orders.measured_ns.load(Ordering::Relaxed);
            if self.phase == Phase::WarmUp && now_ns >= measured_ns {
                self.publish(orders, outlet, Urgency::PhaseEnds);
                end_ns = self.begin_to_measure(measured.take(), measured_ns);
                next_interval_ns = measured_ns + interval::LEN_NS;
            }
            let stopped = orders.stop.load(Ordering::Relaxed);
            if stopped {
                // Whoever presses Ctrl-C does not want to wait for long, for the last answers as little as for the next.
                hurry_ns = hurry_ns.min(now_ns + DRAIN_STOPPED_NS);
            }
            let stalled = self.is_stalled(now_ns);
            if self.sending && (now_ns >= end_ns || self.is_all_assigned() || stopped || stalled) {
                self.stop_sending(stopped, stalled);
                self.publish(orders, outlet, Urgency::PhaseEnds);
                self.phase = Phase::Drain;
                self.stopped_ns = now_ns;
                next_interval_ns = now_ns + interval::LEN_NS;
                give_up_ns = now_ns + self.task.drain_ns;
            }
            if now_ns >= give_up_ns.min(hurry_ns) {
                if stopped || !self.connections.iter().any(Connection::is_reconnecting) {
                    break;
                }
                // Its own patience ends that; if it comes back, it has the whole time for its answers.
                give_up_ns = now_ns + self.task.drain_ns;
            }
            self.turn(next_interval_ns.min(if self.sending { end_ns } else { give_up_ns.min(hurry_ns) }));
            if now_ns >= next_interval_ns {
                next_interval_ns = interval::next(next_interval_ns, now_ns);
                self.publish(orders, outlet, Urgency::Usual);
            }
        }
        if self.sending {
            // Every connection is over, and lines are left.
            self.stop_sending(false, true);
            self.stopped_ns = self.clock.now_ns();
        }
        let cpu = clock::thread_cpu().saturating_sub(self.cpu_before);
        (0..self.connections.len()).for_each(|at| self.retire(at));
        self.publish(orders, outlet, Urgency::PhaseEnds);
        self.finish(cpu)
    }

    /// Lines count from `from_ns` on. When no more are to be sent.
    fn begin_to_measure(&mut self, course: Option<Course>, from_ns: u64) -> u64 {
        self.phase = Phase::Measured;
        (self.measured_ns, self.last_settled_ns) = (from_ns, from_ns);
        self.kit.warm_up = self.kit.tally.take_lines();
        // No connection was counted before there was one, so this is about lines alone.
        self.connections.iter_mut().for_each(Connection::end_warm_up);
        self.cpu_before = clock::thread_cpu();
        self.stall = None;
        self.shed = Shed::from(self.next_slot);
        let Owed { course, lines, end_ns } = self.task.owed_from(course, from_ns);
        Schedule::go_on(&mut self.kit.schedule, self.next_slot, course);
        self.end_slot = lines.map(|lines| self.next_slot.saturating_add(lines));
        end_ns
    }

    /// No more lines are assigned. What was owed and never sent has failed, unless somebody asked to stop. A closed
    /// loop that ran out of time owes nothing; one that `ran_dry`, because nobody answers any more, does.
    fn stop_sending(&mut self, stopped: bool, ran_dry: bool) {
        self.sending = false;
        if !stopped && self.end_slot.is_some() && (ran_dry || self.kit.schedule.is_some()) {
            let unsent = self.lines_left() - self.shed.pending();
            self.kit.tally.offered += unsent;
            self.kit.tally.fail("unsent", unsent);
        }
        self.everyone_is_eager();
    }

    /// Whether a run without a limit in time waits for a server that has stopped answering.
    fn is_stalled(&self, now_ns: u64) -> bool {
        let quiet = self.task.duration_ns.is_none() && now_ns > self.last_settled_ns + self.task.drain_ns;
        let waits = |connection: &Connection| connection.books().flight.outstanding() > 0;
        quiet && self.connections.iter().any(waits) && !self.connections.iter().any(Connection::is_reconnecting)
    }

    /// One turn: wait no longer than until `until_ns`, hear, send what is due.
    fn turn(&mut self, until_ns: u64) {
        let begin_ns = self.clock.now_ns();
        self.gauge.begin_turn(begin_ns);
        // Sends are work, and end by themselves: no time in which nothing could be done.
        let timeout = if self.io.is_loaded() { Duration::ZERO } else { self.wait_for(until_ns, begin_ns) };
        if let Err(error) = self.io.wait(timeout) {
            self.kit.desk(0).complain(format!("waiting for sockets failed: {error}"));
            self.kit.tally.fault("poll_failed");
            self.kit.tally.given_up += (self.connections.len() - self.over) as u64;
            self.over = self.connections.len();
            return;
        }
        let mut event = self.io.next();
        self.gauge.waited(timeout.as_nanos() as u64, self.clock.now_ns(), event.is_none());
        let (nothing, eager, slot) = (event.is_none(), self.eager.len(), self.next_slot);
        while let Some(told) = event {
            self.handle_event(told);
            event = self.io.next();
        }
        self.fire_timers();
        if self.sending && self.kit.schedule.is_some() {
            self.send_due();
        }
        if nothing && eager == 0 && self.eager.is_empty() && slot == self.next_slot {
            self.gauge.idle();
        }
        self.serve_eager();
    }

    fn wait_for(&mut self, until_ns: u64, now_ns: u64) -> Duration {
        if !self.eager.is_empty() {
            return Duration::ZERO;
        }
        let mut at_ns = until_ns.min(now_ns + WAIT_MAX_NS);
        if let Some((timer_ns, _)) = self.timers.first() {
            at_ns = at_ns.min(*timer_ns);
        }
        // While no connection has room, an event says when one has; the schedule does not.
        let is_full = self.stall.is_some_and(|stall| stall.until_ns.is_none());
        if let (true, false, Some(schedule)) = (self.sending, is_full, &mut self.kit.schedule) {
            // A sleeping thread wakes late by about this much, so the rest is spun.
            at_ns = at_ns.min(schedule.at(self.next_slot).saturating_sub(SPIN_NS));
        }
        Duration::from_nanos(at_ns.saturating_sub(now_ns))
    }

    fn handle_event(&mut self, Event { at, news }: Event) {
        if self.is_idle(at) {
            return self.handle_idle(at, news);
        }
        let outcome = match news {
            News::Bytes(chunk) => {
                let now_ns = self.clock.now_ns();
                let connection = &mut self.connections[at];
                let settled = connection.books().flight.settled();
                let bytes = self.io.bytes(&chunk);
                let outcome = connection.receive(bytes, &mut self.plain, &mut self.kit.desk(now_ns));
                self.io.release(chunk);
                if connection.books().flight.settled() > settled {
                    self.last_settled_ns = now_ns;
                }
                outcome
            }
            // What it said before may have come in the same turn.
            News::Ended | News::Broken(_) if self.connections[at].has_said_goodbye() => Ok(()),
            News::Connected => {
                let mut desk = self.kit.desk(self.clock.now_ns());
                self.connections[at].handle_connected(&mut self.io, self.task.reconnect_for_ns, &mut desk)
            }
            News::Broken(error) if self.connections[at].is_dialling() => {
                let mut desk = self.kit.desk(self.clock.now_ns());
                let connection = &mut self.connections[at];
                connection.handle_unconnected(&mut self.io, &error, self.task.reconnect_for_ns, &mut desk)
            }
            News::Ended => Err(self.connections[at].ended()),
            News::Broken(error) => Err(self.connections[at].broken(&error)),
            News::Room => {
                self.connections[at].unblock();
                Ok(())
            }
            News::Called => unreachable!("a worker listens to nobody"),
        };
        self.set_timer(at);
        match outcome {
            Ok(()) => self.make_eager(at),
            Err(fault) => self.handle_fault(at, fault),
        }
    }

    /// Closed loop: fills each connection up to the depth. Either loop: sends what is assigned, and lets go of what has
    /// nothing more to do.
    fn serve_eager(&mut self) {
        let mut eager = std::mem::take(&mut self.eager);
        for at in eager.drain(..) {
            self.is_eager[at] = false;
            if let Err(fault) = self.serve(at) {
                self.handle_fault(at, fault);
            }
        }
        // What became eager meanwhile is served in the next turn.
        eager.append(&mut self.eager);
        self.eager = eager;
    }

    fn serve(&mut self, at: usize) -> Result<(), Fault> {
        let now_ns = self.clock.now_ns();
        self.connections[at].flush(&mut self.io, &mut self.kit.desk(now_ns))?;
        self.set_timer(at);
        if self.sending && self.is_leaving(at) {
            if self.connections[at].books().flight.outstanding() == 0 {
                self.renew(at, now_ns);
            }
            return Ok(());
        }
        if self.sending {
            return if self.kit.schedule.is_none() { self.fill(at) } else { Ok(()) };
        }
        let connection = &mut self.connections[at];
        if !connection.is_over() {
            connection.leave(&mut self.io);
            connection.flush(&mut self.io, &mut self.kit.desk(now_ns))?;
            self.over += usize::from(connection.is_over());
            self.set_timer(at);
        }
        Ok(())
    }

    fn fill(&mut self, at: usize) -> Result<(), Fault> {
        loop {
            let room = self.connections[at].room(self.task.depth).min(self.lines_left());
            if room == 0 {
                return Ok(());
            }
            self.send(at, room.min(self.task.batch))?;
        }
    }

    fn send(&mut self, at: usize, lines: u64) -> Result<(), Fault> {
        let mut desk = self.kit.desk(self.clock.now_ns());
        self.connections[at].assign(lines, self.next_slot, &mut desk);
        self.next_slot += lines;
        let outcome = self.connections[at].flush(&mut self.io, &mut desk);
        self.set_timer(at);
        outcome
    }

    fn fire_timers(&mut self) {
        let now_ns = self.clock.now_ns();
        while let Some(&(at_ns, at)) = self.timers.first().filter(|timer| timer.0 <= now_ns) {
            self.timers.remove(&(at_ns, at));
            if self.is_idle(at) {
                self.reopen_idle(at, now_ns);
                continue;
            }
            self.end_life(at, now_ns);
            if let Some(news) = self.connections[at].read_slowly(&mut self.io, &mut self.kit.desk(now_ns)) {
                self.handle_event(Event { at, news });
            }
            let reconnect_for_ns = self.task.reconnect_for_ns;
            let mut desk = self.kit.desk(now_ns);
            match self.connections[at].handle_timeout(&mut self.io, reconnect_for_ns, &mut desk) {
                Ok(()) => self.make_eager(at),
                Err(fault) => self.handle_fault(at, fault),
            }
            self.set_timer(at);
        }
    }

    fn set_timer(&mut self, at: usize) {
        if let Some(at_ns) = self.connections[at].timeout() {
            self.timers.insert((at_ns, at));
        }
    }

    fn handle_fault(&mut self, at: usize, fault: Fault) {
        let now_ns = self.clock.now_ns();
        self.kit.tally.fault(fault.kind());
        self.kit.desk(now_ns).complain(fault.text().to_owned());
        let connection = &mut self.connections[at];
        if connection.is_over() {
            return;
        }
        let outstanding = connection.books().flight.outstanding();
        match connection.mode() {
            _ if !fault.again() => self.give_up(at),
            Mode::Session if self.sending || outstanding > 0 => {
                connection.put_down(&mut self.io, None, now_ns);
                self.set_timer(at);
            }
            Mode::Plain if self.sending => self.replace(at, now_ns),
            Mode::Plain if outstanding > 0 => self.give_up(at),
            Mode::Plain | Mode::Session => self.end(at),
        }
    }

    /// It was to do more, and cannot.
    fn give_up(&mut self, at: usize) {
        self.kit.tally.given_up += 1;
        self.end(at);
    }

    /// A plain connection broke: nobody knows what became of its last lines, so another takes its place under a number
    /// of its own.
    fn replace(&mut self, at: usize, now_ns: u64) {
        self.retire(at);
        let sender = Sender { run: self.task.run, worker: self.task.worker, conn: self.next_conn };
        self.next_conn += 1;
        let next = Connection::new(at, sender, self.task.peer, self.task.tls.clone(), None);
        let mut next = self.with_habits(at, next);
        next.put_down(&mut self.io, self.connections[at].trouble(), now_ns);
        self.connections[at] = next;
        self.set_timer(at);
    }

    fn end(&mut self, at: usize) {
        self.connections[at].end(&mut self.io);
        self.over += 1;
    }

    /// Closes the books of a connection: what is unanswered now stays so.
    fn retire(&mut self, at: usize) {
        let connection = &self.connections[at];
        let (warm, measured) = connection.books().outstanding();
        self.kit.warm_up.fail("unanswered", warm);
        self.kit.tally.fail("unanswered", measured);
        self.entries.push(connection.entry());
    }

    fn add(&mut self, at: usize) -> io::Result<()> {
        let sender = Sender { run: self.task.run, worker: self.task.worker, conn: at as u32 };
        let terms = (self.task.modes[at] == Mode::Session).then_some(&self.task.terms);
        let connection = Connection::new(at, sender, self.task.peer, self.task.tls.clone(), terms);
        let mut connection = self.with_habits(at, connection);
        connection.connect(&mut self.io, &mut self.kit.desk(0))?;
        self.connections.push(connection);
        self.set_timer(at);
        self.make_eager(at);
        Ok(())
    }

    /// Waits until every session is welcome, so that the schedule starts with all of them.
    fn greet(&mut self) -> Result<(), String> {
        self.sending = true;
        self.end_slot = Some(0);
        let handshakes = if self.task.tls.is_some() { self.connections.len() as u64 } else { 0 };
        let patience_ns = GREETING_NS + handshakes * HANDSHAKE_NS;
        let give_up_ns = self.clock.now_ns() + patience_ns;
        while !self.connections.iter().all(Connection::is_open) {
            let now_ns = self.clock.now_ns();
            self.turn(give_up_ns);
            if let Some(complaint) = self.kit.complaints.first() {
                return Err(complaint.clone());
            }
            if now_ns > give_up_ns {
                let waiting = self.connections.iter().filter(|connection| !connection.is_open()).count();
                let peer = self.task.peer;
                if self.connections.iter().any(Connection::is_handshaking) {
                    return Err(format!(
                        "{peer} did not finish the TLS handshake within {} s; does it speak TLS?",
                        patience_ns / 1_000_000_000
                    ));
                }
                return Err(format!(
                    "{peer} did not answer the $hello of {waiting} sessions within {} s; does it speak session mode? \
                     --mode plain needs no greeting",
                    patience_ns / 1_000_000_000
                ));
            }
        }
        Ok(())
    }

    fn publish(&mut self, orders: &Orders, outlet: &Outlet<(u16, Word)>, urgency: Urgency) {
        let spare = match orders.spares.try_recv() {
            Ok(spare) => spare,
            Err(_) if urgency == Urgency::PhaseEnds => Latency::new(),
            // The reader is behind; this second then counts with the next.
            Err(_) => return,
        };
        let now_ns = self.clock.now_ns();
        let interval = Interval {
            phase: self.phase,
            from_ns: self.gauge.from_ns().saturating_sub(self.start_ns),
            to_ns: now_ns.saturating_sub(self.start_ns),
            tally: self.kit.sum(),
            latency: std::mem::replace(&mut self.kit.latency, spare),
            signs: self.gauge.take(now_ns),
        };
        // Nobody listens any more only where the run is being given up.
        let _ = outlet.send((self.task.worker, Word::Interval(Box::new(interval))));
    }

    fn finish(self, cpu: Duration) -> Outcome {
        let level = self.connections.iter().find_map(Connection::level).map(|level| level.to_string());
        Outcome {
            tally: self.kit.tally,
            warm_up: self.kit.warm_up,
            entries: self.entries,
            complaints: self.kit.complaints,
            level,
            cpu_ns: cpu.as_nanos() as u64,
            span_ns: self.last_settled_ns.saturating_sub(self.measured_ns),
            sent_ns: self.stopped_ns.saturating_sub(self.measured_ns),
        }
    }

    fn lines_left(&self) -> u64 {
        self.end_slot.map_or(u64::MAX, |end_slot| end_slot.saturating_sub(self.next_slot))
    }

    fn is_all_assigned(&self) -> bool {
        self.lines_left() == 0
    }

    fn everyone_is_eager(&mut self) {
        (0..self.connections.len()).for_each(|at| self.make_eager(at));
    }

    fn make_eager(&mut self, at: usize) {
        if !std::mem::replace(&mut self.is_eager[at], true) {
            self.eager.push(at);
        }
    }
}

/// Whether an interval may wait for a reader that is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgency {
    Usual,
    /// The next interval is of another phase.
    PhaseEnds,
}

/// How often a quiet worker looks whether it should stop.
pub(crate) const WAIT_MAX_NS: u64 = 50_000_000;
pub(crate) const SPIN_NS: u64 = 60_000;
const DRAIN_STOPPED_NS: u64 = 1_000_000_000;
const GREETING_NS: u64 = 5_000_000_000;
/// What a TLS handshake may take on top, on average: both sides together take one to two milliseconds of processor time.
const HANDSHAKE_NS: u64 = 10_000_000;
