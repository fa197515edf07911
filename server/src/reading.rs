//! What a shard says of itself when it is asked: its books, where time went, how storage does.
//!
//! A shard is asked through its inbox and answers at the end of a turn, when its books close. Nothing is kept ready for
//! somebody who may never ask, nobody reads what a shard is writing, and a shard that does not turn does not answer: that
//! is how it is known to be stuck.

use crate::worker::{Letterbox, Message};
use ringest_ingest::{BreakerState, Shard, ShardId, StorageHealth, Tally};
use std::borrow::Cow;
use std::sync::mpsc;
use std::time::Instant;

/// A shard at one moment.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Which shard.
    pub shard: u16,
    /// Its books, and how long every stage took.
    pub tally: Tally,
    /// Records between admission and the end of their write.
    pub in_flight: u64,
    /// Connections.
    pub sessions: usize,
    /// What the breaker around storage says.
    pub breaker: BreakerState,
    /// How storage does.
    pub storage: StorageHealth,
    /// The kernel interface as it was set up.
    pub setup: Cow<'static, str>,
    /// What the kernel interface counted, by name.
    pub counters: Vec<(&'static str, u64)>,
}

impl Reading {
    pub(crate) fn of(
        id: ShardId,
        shard: &Shard,
        setup: impl Into<Cow<'static, str>>,
        counters: &[(&'static str, u64)],
    ) -> Reading {
        Reading {
            shard: id.0,
            tally: shard.tally().clone(),
            in_flight: shard.in_flight(),
            sessions: shard.sessions(),
            breaker: shard.breaker(),
            storage: shard.storage(),
            setup: setup.into(),
            counters: counters.to_vec(),
        }
    }

    /// Whether every line that was received is accounted for.
    pub fn closes(&self) -> bool {
        self.tally.closes_with(self.in_flight)
    }
}

/// Somebody who has asked a shard, as the shard holds them.
pub(crate) type Asker = mpsc::Sender<Reading>;

/// Who can ask one shard, from any thread, for as long as the process lives.
#[derive(Clone)]
pub struct Probe {
    shard: u16,
    letterbox: Letterbox,
}

impl Probe {
    pub(crate) fn new(shard: u16, letterbox: Letterbox) -> Probe {
        Probe { shard, letterbox }
    }

    /// One that asks into the void, for as long as what comes beside it lives.
    #[cfg(test)]
    pub(crate) fn of_nobody(shard: u16) -> (mpsc::Receiver<Message>, Probe) {
        let (letterbox, messages) = Letterbox::to_nobody();
        (messages, Probe { shard, letterbox })
    }

    /// Its number.
    pub fn shard(&self) -> u16 {
        self.shard
    }

    /// Asks every shard, then waits for all of them together, until `deadline`. `None` stands for one that did not answer:
    /// it is stuck, or has ended.
    pub fn ask_all(probes: &[Probe], deadline: Instant) -> Vec<Option<Reading>> {
        let asked: Vec<_> = probes.iter().map(Probe::ask).collect();
        let left = |now: Instant| deadline.saturating_duration_since(now);
        asked.into_iter().map(|answer| answer.recv_timeout(left(Instant::now())).ok()).collect()
    }

    fn ask(&self) -> mpsc::Receiver<Reading> {
        let (asker, answer) = mpsc::channel();
        self.letterbox.post(Message::Ask(asker));
        answer
    }
}

/// Answers everybody who has asked. At the end of a turn: before it, books need not close.
pub(crate) fn answer(askers: Vec<Asker>, reading: impl Fn() -> Reading) {
    for asker in askers {
        let _ = asker.send(reading()); // Who asked may have given up.
    }
}
