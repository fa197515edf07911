//! Lines as datagrams: sent at their times, or as fast as the kernel takes them, and never heard of again.
//!
//! Only the server's books say what became of them. So that a lost datagram can be told from a lost line, every datagram
//! of a connection has the same number of lines, but for its last.

use crate::corpus::{Corpus, Sender, Stamp};
use crate::gauge::Gauge;
use crate::interval::{self, Interval, Phase};
use crate::latency::Latency;
use crate::ledger::{Entry, Mode};
use crate::ranges::Ranges;
use crate::schedule::{Course, Schedule, Timetable};
use crate::tally::Tally;
use crate::worker::{Clock, Orders, Outcome, Owed, SPIN_NS, Task, WAIT_MAX_NS, Word};
use ringest_sys::clock;
use std::hint;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender as Outlet;
use std::thread;
use std::time::Duration;

/// The longest datagram that IPv4 carries.
pub const LEN_MAX: usize = 65_507;

/// A worker that sends datagrams.
#[derive(Debug)]
pub struct Worker {
    task: Task,
    corpus: Corpus,
    clock: Clock,
    sockets: Vec<Socket>,
    /// Lines of each datagram, at least one: a line is never divided.
    per_datagram: u64,
    latency: Latency,
    tally: Tally,
    complaints: Vec<String>,
    /// The place of the next line in the schedule.
    next_slot: u64,
    /// The place where lines end; `None` for no limit.
    end_slot: Option<u64>,
    schedule: Option<Schedule>,
    phase: Phase,
    start_ns: u64,
    /// Since when lines count.
    measured_ns: u64,
    /// Processor time by then.
    cpu_before: Duration,
    warm_up: Tally,
    gauge: Gauge,
}

/// One sender, with line numbers of its own.
#[derive(Debug)]
struct Socket {
    socket: UdpSocket,
    stamp: Stamp,
    sent: u64,
}

impl Worker {
    /// Opens a socket for each connection of the task. Datagrams have as many lines as fit into `len_max` bytes, and at
    /// most a batch.
    ///
    /// # Errors
    /// A sentence, where a socket cannot be had.
    pub fn open(task: Task, corpus: Corpus, clock: Clock, len_max: usize) -> Result<Worker, String> {
        let open = |conn| {
            let socket = open(task.peer)?;
            Ok(Socket { socket, stamp: Stamp::new(Sender { run: task.run, worker: task.worker, conn }), sent: 0 })
        };
        let sockets: io::Result<Vec<Socket>> = (0..task.modes.len() as u32).map(open).collect();
        let sockets = sockets.map_err(|error| format!("cannot open a socket to {}: {error}", task.peer))?;
        let fitting = (len_max / corpus.longest()).max(1) as u64;
        let tally = Tally { connects: sockets.len() as u64, ..Tally::default() };
        Ok(Worker {
            per_datagram: fitting.min(task.batch).min(corpus.lines() as u64),
            task,
            corpus,
            gauge: Gauge::start(clock.now_ns()),
            clock,
            sockets,
            latency: Latency::new(),
            tally,
            complaints: Vec::new(),
            next_slot: 0,
            end_slot: None,
            schedule: None,
            phase: Phase::Measured,
            start_ns: 0,
            measured_ns: 0,
            cpu_before: Duration::ZERO,
            warm_up: Tally::default(),
        })
    }

    /// Sends until the task is done. It begins at `start_ns`.
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
            self.schedule = warm_up.map(|course| Schedule::new(course.starting_at(start_ns)));
        } else {
            end_ns = self.begin_to_measure(measured.take(), start_ns);
        }
        thread::sleep(Duration::from_nanos(start_ns.saturating_sub(self.clock.now_ns())));
        self.cpu_before = clock::thread_cpu();
        self.gauge = Gauge::start(start_ns);

        let mut next_interval_ns = start_ns + interval::LEN_NS;
        let mut stopped = false;
        while !stopped && self.lines_left() > 0 {
            let now_ns = self.clock.now_ns();
            self.gauge.begin_turn(now_ns);
            let measured_ns = orders.measured_ns.load(Ordering::Relaxed);
            if self.phase == Phase::WarmUp && now_ns >= measured_ns {
                self.publish(Latency::new(), outlet);
                end_ns = self.begin_to_measure(measured.take(), measured_ns);
                next_interval_ns = measured_ns + interval::LEN_NS;
            }
            if now_ns >= next_interval_ns {
                next_interval_ns = interval::next(next_interval_ns, now_ns);
                if let Ok(spare) = orders.spares.try_recv() {
                    // Without one the reader is behind; this second then counts with the next.
                    self.publish(spare, outlet);
                }
            }
            stopped = orders.stop.load(Ordering::Relaxed);
            if now_ns >= end_ns {
                break;
            }
            let lines = self.per_datagram.min(self.lines_left());
            let last_slot = self.next_slot + lines - 1;
            match self.schedule.as_mut().map(|schedule| schedule.at(last_slot)) {
                Some(due_ns) if due_ns > now_ns => self.wait(due_ns - now_ns),
                _ => self.send(lines, now_ns),
            }
        }
        if !stopped && self.schedule.is_some() {
            let unsent = self.lines_left();
            self.tally.offered += unsent;
            self.tally.fail("unsent", unsent);
        }
        let span_ns = self.clock.now_ns().saturating_sub(self.measured_ns);
        let cpu_ns = clock::thread_cpu().saturating_sub(self.cpu_before).as_nanos() as u64;
        self.publish(Latency::new(), outlet);
        let Worker { task, sockets, per_datagram, tally, warm_up, complaints, .. } = self;
        let entry = |(conn, socket): (u32, &Socket)| Entry {
            mode: Mode::Plain,
            worker: task.worker,
            conn,
            producer: None,
            epoch: None,
            per_datagram: Some(per_datagram),
            first: 1,
            sent_upto: socket.sent,
            acked: Ranges::default(),
            rejected: Ranges::default(),
            filtered: 0,
            duplicate: 0,
        };
        let entries = (0..).zip(&sockets).map(entry).collect();
        Outcome { tally, warm_up, entries, complaints, level: None, cpu_ns, span_ns, sent_ns: span_ns }
    }

    /// Lines count from `from_ns` on. When no more are to be sent.
    fn begin_to_measure(&mut self, course: Option<Course>, from_ns: u64) -> u64 {
        (self.phase, self.measured_ns) = (Phase::Measured, from_ns);
        self.warm_up = self.tally.take_lines();
        self.cpu_before = clock::thread_cpu();
        let Owed { course, lines, end_ns } = self.task.owed_from(course, from_ns);
        Schedule::go_on(&mut self.schedule, self.next_slot, course);
        self.end_slot = lines.map(|lines| self.next_slot.saturating_add(lines));
        end_ns
    }

    /// One datagram, from the next sender in turn.
    fn send(&mut self, lines: u64, now_ns: u64) {
        let count = self.sockets.len() as u64;
        let at = (self.next_slot / self.per_datagram % count) as usize;
        let Socket { socket, stamp, sent } = &mut self.sockets[at];
        let datagram = self.corpus.stamp(stamp, *sent + 1, lines as usize).bytes;
        self.tally.offered += lines;
        match socket.send(datagram) {
            Ok(_) => {
                *sent += lines;
                self.tally.sent += lines;
                self.tally.bytes += datagram.len() as u64;
                self.tally.sends += 1;
            }
            Err(error) => {
                let reason = if error.kind() == ErrorKind::ConnectionRefused { "nobody_there" } else { "send_failed" };
                self.tally.fail(reason, lines);
                let text = format!("a datagram to {} was not sent: {error}", self.task.peer);
                if self.complaints.is_empty() {
                    self.complaints.push(text);
                }
            }
        }
        if let Some(schedule) = &mut self.schedule {
            // A datagram is due with the last of its lines; that the others wait for it is meant.
            let due_ns = schedule.at(self.next_slot + lines - 1);
            for slot in self.next_slot..self.next_slot + lines {
                self.latency.slip.record(now_ns.saturating_sub(schedule.at(slot)), 1);
                self.gauge.sent(due_ns, now_ns, |_| false);
            }
        }
        self.next_slot += lines;
    }

    fn lines_left(&self) -> u64 {
        self.end_slot.map_or(u64::MAX, |end_slot| end_slot.saturating_sub(self.next_slot))
    }

    fn publish(&mut self, spare: Latency, outlet: &Outlet<(u16, Word)>) {
        let now_ns = self.clock.now_ns();
        let interval = Interval {
            phase: self.phase,
            from_ns: self.gauge.from_ns().saturating_sub(self.start_ns),
            to_ns: now_ns.saturating_sub(self.start_ns),
            tally: {
                let mut sum = self.warm_up.clone();
                sum.add(&self.tally);
                sum
            },
            latency: std::mem::replace(&mut self.latency, spare),
            signs: self.gauge.take(now_ns),
        };
        // Nobody listens any more only where the run is being given up.
        let _ = outlet.send((self.task.worker, Word::Interval(Box::new(interval))));
    }

    /// Sleeps most of it and spins the rest: a sleeping thread wakes late by about that much.
    fn wait(&mut self, ns: u64) {
        if ns > SPIN_NS {
            let sleep_ns = (ns - SPIN_NS).min(WAIT_MAX_NS);
            thread::sleep(Duration::from_nanos(sleep_ns));
            self.gauge.waited(sleep_ns, self.clock.now_ns(), true);
        } else {
            hint::spin_loop();
        }
        self.gauge.idle();
    }
}

fn open(peer: SocketAddr) -> io::Result<UdpSocket> {
    let socket = match peer {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }?;
    socket.connect(peer)?;
    Ok(socket)
}
