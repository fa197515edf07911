//! Encoded connections through the seam: a shard and a disk that never fails, without a kernel.

mod gzip;
mod tls;

use ringest_ingest::{Action, Handover, Limits, SessionId, Shard, ShardConfig, ShardId, TlsConfig};
use ringest_wire::reply;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A shard, its disk, and what it said to whom.
struct House {
    shard: Shard,
    now: Instant,
    /// What was stored, without descriptions and padding.
    stored: Vec<u8>,
    said: BTreeMap<u64, Vec<u8>>,
    closed: BTreeSet<u64>,
    handed_off: Vec<(ShardId, Handover)>,
    /// What is sent is not taken, but kept in `held_sends`.
    holds_sends: bool,
    held_sends: Vec<(SessionId, Vec<u8>)>,
    /// The most bytes that one turn added to the disk.
    turn_len_max: usize,
}

impl House {
    fn new() -> House {
        House::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut ShardConfig)) -> House {
        #[allow(clippy::disallowed_methods, reason = "the one moment from which time counts")]
        let now = Instant::now();
        let mut limits = Limits {
            line_len_max: 4096,
            chunk_len_max: 8192,
            batch_len_max: 32 << 10,
            linger: Duration::ZERO,
            paged_len_min: usize::MAX,
            ..Limits::default()
        };
        limits.segment_len = 64 << 20;
        let mut config = ShardConfig::alone(limits);
        change(&mut config);
        let shard = Shard::new(config, now).unwrap();
        House {
            shard,
            now,
            stored: Vec::new(),
            said: BTreeMap::new(),
            closed: BTreeSet::new(),
            handed_off: Vec::new(),
            holds_sends: false,
            held_sends: Vec::new(),
            turn_len_max: 0,
        }
    }

    fn accept(&mut self) -> SessionId {
        self.shard.handle_accepted(self.now).unwrap()
    }

    /// Hands over what is wanted of it, turn by turn, until all of it is taken.
    fn send(&mut self, id: SessionId, mut bytes: &[u8]) {
        for _ in 0..TURNS_MAX {
            if bytes.is_empty() {
                return self.run();
            }
            if self.shard.wants(id) {
                let (now, later) = bytes.split_at(bytes.len().min(8192));
                self.shard.handle_bytes(id, now, self.now);
                bytes = later;
            }
            self.turn();
        }
        panic!("{} bytes are never wanted", bytes.len());
    }

    fn end(&mut self, id: SessionId) {
        self.run();
        assert!(self.shard.wants(id), "nothing is left to be done, so the end is wanted");
        self.shard.handle_end(id, self.now);
        self.run();
    }

    /// Turns until there is nothing to do.
    fn run(&mut self) {
        for _ in 0..TURNS_MAX {
            self.turn();
            if self.shard.poll_timeout().is_none_or(|at| at > self.now) {
                return;
            }
        }
        panic!("there is always something left to be done");
    }

    fn turn(&mut self) {
        let before = self.stored.len();
        if self.shard.poll_timeout().is_some_and(|at| at <= self.now) {
            self.shard.handle_timeout(self.now);
        }
        while let Some(action) = self.shard.poll() {
            match action {
                Action::Open(id) => self.shard.handle_opened(id, Ok(()), self.now),
                Action::Write(block) => {
                    let lines = block.bytes().split_inclusive(|&byte| byte == b'\n');
                    let records = lines.filter(|line| line.len() > 1 && !line.starts_with(b"{\"$") && line[0] == b'{');
                    records.for_each(|line| self.stored.extend_from_slice(line));
                    self.shard.handle_written(block, Ok(()), self.now);
                }
                Action::Sync(id) => self.shard.handle_synced(id, Ok(()), self.now),
                Action::Send(id, buf) if self.holds_sends => self.held_sends.push((id, buf)),
                Action::Send(id, buf) => {
                    self.said.entry(id.token()).or_default().extend_from_slice(&buf);
                    self.shard.handle_sent(id, buf, self.now);
                }
                Action::CloseSegment { .. } | Action::Resume(_) | Action::ResumeDatagrams => {}
                Action::Close(id) => assert!(self.closed.insert(id.token()), "a session is closed once"),
                Action::HandOff { shard, handover, .. } => self.handed_off.push((shard, handover)),
            }
        }
        self.turn_len_max = self.turn_len_max.max(self.stored.len() - before);
        let in_flight = self.shard.in_flight();
        assert!(self.shard.tally().closes_with(in_flight), "I4: {:?} with {in_flight} in flight", self.shard.tally());
    }

    fn said(&self, id: SessionId) -> String {
        String::from_utf8(self.said.get(&id.token()).cloned().unwrap_or_default()).unwrap()
    }

    fn is_closed(&self, id: SessionId) -> bool {
        self.closed.contains(&id.token())
    }
}

fn lines(numbers: std::ops::Range<usize>) -> String {
    numbers.map(|number| format!("{{\"level\":\"info\",\"message\":\"{number}\"}}\n")).collect()
}

fn oks(count: usize) -> String {
    std::str::from_utf8(reply::OK).unwrap().repeat(count)
}

/// More turns than any test needs.
const TURNS_MAX: usize = 100_000;
