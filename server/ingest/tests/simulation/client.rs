//! Clients: what they want, and what they do next. They know only what has arrived at them.

use crate::rng::Rng;
use ringest_wire::AckLevel;
use ringest_wire::answer::Answer;
use std::time::Duration;

#[derive(Debug)]
pub(crate) enum Client {
    Plain(PlainClient),
    Producer(Producer),
}

/// Sends lines and counts replies, one connection after the other.
#[derive(Debug)]
pub(crate) struct PlainClient {
    /// Connections still to make.
    pub(crate) conns_left: u64,
    /// Lines still to send on this one.
    pub(crate) lines_left: u64,
    pub(crate) conn: Option<usize>,
}

/// Sends a numbered stream, and comes back until all of it is settled.
#[derive(Debug)]
pub(crate) struct Producer {
    pub(crate) name: String,
    pub(crate) epoch: u64,
    pub(crate) base: u64,
    /// The last line it has.
    pub(crate) goal: u64,
    /// As far as it was told.
    pub(crate) settled: u64,
    /// The number of the next line on this connection.
    pub(crate) next: u64,
    /// Where it asked to resume from, on this connection.
    pub(crate) asked: Option<u64>,
    pub(crate) state: State,
    pub(crate) conn: Option<usize>,
    /// The levels it asks for.
    pub(crate) levels: Vec<Option<AckLevel>>,
    pub(crate) retry_at: Duration,
    /// It was told to come back with the lines from there on, not before that time.
    pub(crate) resume: Option<(u64, Duration)>,
    /// Connections that it has given up without closing them, and the next line on each.
    pub(crate) zombies: Vec<(usize, u64)>,
    pub(crate) bumps_left: u64,
    /// Incarnations before this one.
    pub(crate) epochs_over: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Away,
    /// It said hello and waits to be told where to begin.
    Waiting,
    Open,
    /// It said bye.
    Leaving,
    Done,
}

impl Producer {
    pub(crate) fn new(rng: &mut Rng, name: String) -> Producer {
        use AckLevel::{Accepted, Durable, None as Nothing, Written};
        let levels: &[Option<AckLevel>] = match rng.below(10) {
            0..=3 => &[Some(Durable)],
            4 => &[None],
            5 => &[Some(Written)],
            6 => &[Some(Accepted)],
            7 => &[Some(Nothing)],
            8 => &[Some(Written), Some(Durable)],
            _ => &[None, Some(Accepted), Some(Written), Some(Durable)],
        };
        let mut producer = Producer {
            name,
            epoch: rng.below(3),
            base: 1,
            goal: 0,
            settled: 0,
            next: 1,
            asked: None,
            state: State::Away,
            conn: None,
            levels: levels.to_vec(),
            retry_at: Duration::ZERO,
            resume: None,
            zombies: Vec::new(),
            bumps_left: rng.below(3),
            epochs_over: Vec::new(),
        };
        producer.begin(rng);
        producer
    }

    /// Whether it has nothing more to wait for before it leaves.
    pub(crate) fn is_settled(&self, level: AckLevel) -> bool {
        level == AckLevel::None || self.settled >= self.goal
    }

    /// A new incarnation has other lines.
    pub(crate) fn begin(&mut self, rng: &mut Rng) {
        self.base = if rng.one_in(6) { rng.within(2, 1000) } else { 1 };
        self.goal = self.base - 1 + rng.within(1, 250);
        self.settled = self.base - 1;
        self.next = self.base;
        self.resume = None;
        self.state = State::Away;
        self.conn = None;
    }

    /// Where to resume from, if it says so itself.
    pub(crate) fn resume_from(&self, rng: &mut Rng) -> Option<u64> {
        let next = self.settled + 1;
        match rng.below(4) {
            0 if self.base == 1 => None,
            1 => Some(rng.within(self.base.max(next.saturating_sub(20)), next)),
            _ => Some(next),
        }
    }

    pub(crate) fn handle_answer(&mut self, answer: &Answer, level: AckLevel, now: Duration, rng: &mut Rng) {
        match answer {
            Answer::Welcome(welcome) => {
                if self.state == State::Waiting {
                    self.state = State::Open;
                    self.next = self.asked.unwrap_or(welcome.last_seq + 1);
                }
                // What it was promised at a weak level may be gone.
                self.settled = welcome.last_seq;
            }
            Answer::Ack(ack) => self.settled = self.settled.max(ack.upto),
            Answer::Nack(nack) => {
                self.resume = Some((nack.from, now + Duration::from_millis(u64::from(nack.after_ms))));
            }
            Answer::Goaway(goaway) => match goaway.code.as_str() {
                "seq_gap" => self.settled = goaway.upto,
                "stale_epoch" | "storage_error" => {
                    self.epoch += 1 + rng.below(3);
                    self.begin(rng);
                }
                _ => {}
            },
            Answer::Bye(_) if level == AckLevel::None && self.resume.is_none() => self.settled = self.next - 1,
            Answer::Bye(_) | Answer::Pong(_) => {}
        }
    }

    /// The connection is gone.
    pub(crate) fn handle_gone(&mut self, now: Duration, rng: &mut Rng) {
        self.conn = None;
        self.resume = None;
        if self.state != State::Done {
            self.state = if self.settled >= self.goal { State::Done } else { State::Away };
            self.retry_at = now + Duration::from_micros(rng.below(20_000));
        }
    }
}
