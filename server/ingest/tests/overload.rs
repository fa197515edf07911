//! More is offered than a disk takes: what is stored does not become less, who sends little hardly notices, and nobody
//! is dropped without a word. The disk has a fixed bandwidth, the clock is owned by the test, so the figures are the
//! shard's and not a machine's.

use flate2::Compression;
use flate2::write::GzEncoder;
use ringest_ingest::{Action, Block, Limits, SegmentId, SessionId, Shard, ShardConfig};
use ringest_wire::Severity;
use ringest_wire::answer::Answer;
use ringest_wire::control::{Control, Hello, Resume};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::Write;
use std::time::{Duration, Instant};

/// Lines per second that the disk takes.
const CAPACITY: u64 = (DISK_LEN_PER_MS * 1000) / LINE_LEN as u64;
const DISK_LEN_PER_MS: u64 = 20_000;
/// What a write or a sync takes beside its bytes.
const DISK_CALL_MS: u64 = 2;
const LINE_LEN: usize = 200;
/// What a driver hands over at once.
const CHUNK_LEN: usize = 64 << 10;
/// When a storm begins.
const STORM_MS: u64 = 2000;
/// Bytes that the kernel holds of a connection before its client has to wait.
const SOCKET_LEN: usize = 256 << 10;

#[test]
fn at_twice_what_the_disk_takes_it_stores_no_less() {
    for sessions in [8, 400] {
        let knee = run(&vec![Offer::session(CAPACITY * 9 / 10 / sessions); sessions as usize], 10_000);
        let twice = run(&vec![Offer::session(CAPACITY * 2 / sessions); sessions as usize], 10_000);
        println!("{sessions} sessions: {} lines/s at 0.9, {} at 2.0", knee.goodput(), twice.goodput());
        assert!(knee.goodput() >= CAPACITY * 8 / 10, "{} of {CAPACITY}", knee.goodput());
        assert!(twice.goodput() * 10 >= knee.goodput() * 9, "{} after {}", twice.goodput(), knee.goodput());
    }
}

#[test]
fn a_producer_at_a_hundred_times_its_share_costs_the_others_nothing() {
    const OTHERS: usize = 20;
    let share = CAPACITY / (OTHERS as u64 + 1);
    let mut offers = vec![Offer::session(share / 2); OTHERS];
    let alone = run(&offers, 10_000);
    offers.push(Offer { begins_at: STORM_MS, ..Offer::session(share * 100) });
    let storm = run(&offers, 10_000);
    assert_held(&alone, &storm, OTHERS);
}

#[test]
fn a_storm_of_many_greedy_producers_is_told_to_come_back_and_the_others_are_not() {
    const OTHERS: usize = 20;
    // Half an equal share.
    let mut offers = vec![Offer::session(CAPACITY / 440); OTHERS];
    let alone = run(&offers, 10_000);
    offers.extend(vec![Offer { begins_at: STORM_MS, ..Offer::session(CAPACITY / 10) }; 200]);
    let storm = run(&offers, 10_000);
    assert!(storm.shed_over_share > 0, "backpressure alone would let them stand in line for seconds");
    assert_held(&alone, &storm, OTHERS);
    let hints: Vec<u32> = storm.hints.clone();
    let (least, most) = (hints.iter().min().unwrap(), hints.iter().max().unwrap());
    assert!(*least >= 250 && most > least, "hints are spread: {least} to {most} ms");
}

#[test]
fn who_sent_for_long_while_there_was_room_is_not_behind_those_who_come() {
    const NEWCOMERS: usize = 200;
    const QUIET_MS: u64 = 40_000;
    // Half an equal share; what it sent before anybody had to wait is nobody's loss.
    let mut offers = vec![Offer::session(CAPACITY / 440)];
    offers.extend(vec![Offer { begins_at: QUIET_MS, ..Offer::session(CAPACITY / 10) }; NEWCOMERS]);
    let run = run(&offers, QUIET_MS + 5000);
    let old = &run.clients[0];
    let mut late: Vec<u64> =
        old.due.iter().zip(&old.latencies).filter(|(due, _)| **due >= QUIET_MS).map(|(_, latency)| *latency).collect();
    late.sort_unstable();
    let p95 = late[late.len() * 95 / 100];
    println!("p95 of the old one: {p95} ms of {} lines, refused {}", late.len(), old.refused);
    assert_eq!(old.refused, 0, "it is below its share");
    assert!(p95 <= fair_wait_ms(run.clients.len()), "p95 {p95} ms");
}

#[test]
fn while_there_is_room_nobody_is_told_to_come_back() {
    let offers: Vec<Offer> = (0..40).map(|at| Offer::session(CAPACITY / 100 * (1 + u64::from(at == 0) * 30))).collect();
    let run = run(&offers, 10_000);
    assert_eq!((run.shed_over_share, run.shed_overdue), (0, 0), "one sends thirty times what the others do, and may");
}

#[test]
fn plain_connections_wait_and_lose_nothing() {
    let mut offers = vec![Offer::plain(CAPACITY / 10); 40];
    offers.push(Offer::session(CAPACITY / 100));
    let run = run(&offers, 10_000);
    assert!(run.clients[..40].iter().all(|client| client.refused == 0 && client.stored > 0));
    assert!(run.goodput() >= CAPACITY * 8 / 10, "{} of {CAPACITY}", run.goodput());
    assert_eq!(run.clients[40].refused, 0, "who sends little goes first");
}

#[test]
fn behind_a_disk_that_stands_still_everybody_is_told_and_none_is_let_in() {
    for is_packed in [false, true] {
        behind_a_disk_that_stands_still(Offer { is_packed, ..Offer::session(CAPACITY / 50) });
    }
}

fn behind_a_disk_that_stands_still(offer: Offer) {
    let mut world = World::new(&[offer; 60]);
    world.run(1000);
    world.disk_stands = true;
    let stored = world.stored();
    world.run(9000);
    assert!(world.stored() - stored < CAPACITY / 10);
    let untold = world.clients.iter().filter(|client| client.refused == 0).count();
    assert_eq!(untold, 0, "packed: {}, {:?}", offer.is_packed, world.shard.tally());
    assert!(world.shard.accept_at(world.now()).is_some(), "the last step: no further connections");
    world.disk_stands = false;
    world.clients.iter_mut().for_each(|client| client.offer.per_second = 1);
    world.run(30_000);
    assert!(world.shard.accept_at(world.now()).is_none(), "it passes");
    assert!(world.clients.iter().all(|client| client.sent_upto == client.acked), "what was refused was sent again");
    assert!(world.shard.tally().closes_with(world.shard.in_flight()));
}

/// The others' rejects are below one percent, and their p95 is held from two seconds into a storm on, when it shows who
/// sends how much.
fn assert_held(alone: &Run, storm: &Run, others: usize) {
    let (before, after) = (alone.p95(0..others), storm.p95(0..others));
    let refused: u64 = storm.clients[..others].iter().map(|client| client.refused).sum();
    let answered: u64 = storm.clients[..others].iter().map(|client| client.stored).sum();
    println!("p95 of the others: {before} ms alone, {after} ms in the storm; refused {refused} of {answered}");
    println!("goodput {} of {CAPACITY}, shed {} and {}", storm.goodput(), storm.shed_over_share, storm.shed_overdue);
    assert!(refused * 100 < answered, "{refused} of {answered} refused");
    assert!(after <= before + fair_wait_ms(storm.clients.len()), "p95 {before} ms, then {after} ms");
    // Two of the ten seconds are before the storm.
    assert!(storm.goodput() >= CAPACITY * 7 / 10, "{} of {CAPACITY}", storm.goodput());
}

/// What a line waits for at most where so many are in line: for one chunk of each, as in any fair queue, and for what the
/// shard holds.
fn fair_wait_ms(clients: usize) -> u64 {
    (clients * CHUNK_LEN) as u64 / DISK_LEN_PER_MS + 2 * Limits::default().hold_time.as_millis() as u64
}

/// What a client sends.
#[derive(Clone, Copy, Debug)]
struct Offer {
    per_second: u64,
    is_session: bool,
    /// As gzip, which is decoded as there is room for what it decodes to.
    is_packed: bool,
    begins_at: u64,
}

impl Offer {
    fn session(per_second: u64) -> Offer {
        Offer { per_second, is_session: true, is_packed: false, begins_at: 0 }
    }

    fn plain(per_second: u64) -> Offer {
        Offer { per_second, is_session: false, is_packed: false, begins_at: 0 }
    }
}

impl Offer {
    /// What is put into the socket to say that.
    fn packed(&self, plain: Vec<u8>) -> Vec<u8> {
        if !self.is_packed || plain.is_empty() {
            return plain;
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&plain).unwrap();
        encoder.finish().unwrap()
    }
}

struct Run {
    ms: u64,
    clients: Vec<Client>,
    shed_over_share: u64,
    shed_overdue: u64,
    hints: Vec<u32>,
}

impl Run {
    fn goodput(&self) -> u64 {
        self.clients.iter().map(|client| client.stored).sum::<u64>() * 1000 / self.ms
    }

    /// From the time at which a line was to be sent to its ack; of lines that were due two seconds into a storm or later.
    fn p95(&self, of: std::ops::Range<usize>) -> u64 {
        let mut all: Vec<u64> = self.clients[of].iter().flat_map(Client::late_latencies).collect();
        all.sort_unstable();
        all[all.len() * 95 / 100]
    }
}

fn run(offers: &[Offer], ms: u64) -> Run {
    let mut world = World::new(offers);
    world.run(ms);
    let tally = world.shard.tally().clone();
    assert!(tally.closes_with(world.shard.in_flight()), "I4: {tally:?}");
    Run {
        ms,
        clients: world.clients,
        shed_over_share: tally.shed_over_share,
        shed_overdue: tally.shed_overdue,
        hints: world.hints,
    }
}

struct Client {
    offer: Offer,
    id: SessionId,
    /// When each line was to be sent; the first is number 1.
    due: Vec<u64>,
    /// Lines that are in the socket or beyond.
    sent_upto: u64,
    acked: u64,
    /// Told to come back: from which line, when.
    resume: Option<(u64, u64)>,
    socket: VecDeque<u8>,
    is_held: bool,
    stored: u64,
    refused: u64,
    latencies: Vec<u64>,
}

impl Client {
    fn late_latencies(&self) -> impl Iterator<Item = u64> {
        self.due.iter().zip(&self.latencies).filter(|(due, _)| **due >= STORM_MS + 2000).map(|(_, latency)| *latency)
    }
}

/// A shard, a disk that does one thing at a time, and clients, in steps of a millisecond.
struct World {
    shard: Shard,
    base: Instant,
    ms: u64,
    clients: Vec<Client>,
    by_id: HashMap<u64, usize>,
    calls: VecDeque<(u64, Call)>,
    /// Bytes of each segment that the disk was given and has not taken.
    dirty: BTreeMap<u64, u64>,
    disk_free_at: u64,
    disk_stands: bool,
    hints: Vec<u32>,
}

enum Call {
    Write(Block),
    Sync(SegmentId),
}

impl World {
    fn new(offers: &[Offer]) -> World {
        #[allow(clippy::disallowed_methods, reason = "the one moment from which the world's time counts")]
        let base = Instant::now();
        let config = ShardConfig {
            min_level: Severity::Debug,
            ..ShardConfig::alone(Limits { ack_stall: Duration::from_secs(3600), ..Limits::default() })
        };
        let mut shard = Shard::new(config, base).unwrap();
        let mut clients = Vec::new();
        for (at, offer) in offers.iter().enumerate() {
            let id = shard.handle_accepted(base).unwrap();
            let mut socket = Vec::new();
            if offer.is_session {
                let hello = Hello { resume_from: Some(1), ..Hello::new(format!("p{at}"), 1) };
                Control::Hello(hello).put(&mut socket);
            }
            clients.push(Client {
                offer: *offer,
                id,
                due: Vec::new(),
                sent_upto: 0,
                acked: 0,
                resume: None,
                socket: offer.packed(socket).into(),
                is_held: false,
                stored: 0,
                refused: 0,
                latencies: Vec::new(),
            });
        }
        let by_id = clients.iter().enumerate().map(|(at, client)| (client.id.token(), at)).collect();
        let (calls, dirty) = (VecDeque::new(), BTreeMap::new());
        let hints = Vec::new();
        let mut world =
            World { shard, base, ms: 0, clients, by_id, calls, dirty, disk_free_at: 0, disk_stands: false, hints };
        world.act();
        world
    }

    fn now(&self) -> Instant {
        self.base + Duration::from_millis(self.ms)
    }

    fn stored(&self) -> u64 {
        self.clients.iter().map(|client| client.stored).sum()
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.ms += 1;
            (0..self.clients.len()).for_each(|at| self.offer(at));
            // The one that is asked first is another one each time.
            for turn in 0..self.clients.len() {
                self.deliver((turn + self.ms as usize * 7) % self.clients.len());
            }
            self.act();
            while !self.disk_stands && self.calls.front().is_some_and(|(at, _)| *at <= self.ms) {
                let (_, call) = self.calls.pop_front().unwrap();
                let now = self.now();
                match call {
                    Call::Write(block) => self.shard.handle_written(block, Ok(()), now),
                    Call::Sync(segment) => self.shard.handle_synced(segment, Ok(()), now),
                }
                self.act();
            }
            if self.shard.poll_timeout().is_some_and(|at| at <= self.now()) {
                self.shard.handle_timeout(self.now());
                self.act();
            }
        }
    }

    /// The client sends what is due and fits into its socket.
    fn offer(&mut self, at: usize) {
        let client = &mut self.clients[at];
        // Spread over the clients, so that they do not all send at once.
        let due = (self.ms.saturating_sub(client.offer.begins_at) * client.offer.per_second + (at as u64 * 389) % 1000)
            / 1000;
        while (client.due.len() as u64) < due {
            client.due.push(self.ms);
        }
        let mut plain = Vec::new();
        if let Some((from, due)) = client.resume {
            if self.ms < due {
                return;
            }
            Control::Resume(Resume { from }).put(&mut plain);
            client.sent_upto = from - 1;
            client.resume = None;
        }
        // What is packed is no more than a few bytes of the socket, so it takes more to always have something to say.
        let is_bound = client.offer.is_session && !client.offer.is_packed;
        let window = if is_bound { client.acked + 8192 } else { u64::MAX };
        while client.sent_upto < (client.due.len() as u64).min(window) && client.socket.len() + plain.len() < SOCKET_LEN
        {
            client.sent_upto += 1;
            let head = format!("{{\"level\":\"info\",\"message\":\"{at}/{} ", client.sent_upto);
            let line = format!("{head}{}\"}}\n", "x".repeat(LINE_LEN - head.len() - 3));
            plain.extend(line.as_bytes());
        }
        client.socket.extend(client.offer.packed(plain));
    }

    fn deliver(&mut self, at: usize) {
        let now = self.now();
        let client = &mut self.clients[at];
        while !client.socket.is_empty() && !client.is_held {
            if !self.shard.wants(client.id) {
                client.is_held = true;
                return;
            }
            let len = client.socket.len().min(CHUNK_LEN);
            let chunk: Vec<u8> = client.socket.drain(..len).collect();
            self.shard.handle_bytes(client.id, &chunk, now);
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.shard.poll() {
            let now = self.now();
            match action {
                Action::Open(segment) => self.shard.handle_opened(segment, Ok(()), now),
                Action::Write(block) => {
                    *self.dirty.entry(block.segment().0).or_default() += block.bytes().len() as u64;
                    self.call(Call::Write(block), 0);
                }
                Action::Sync(segment) => {
                    let len = self.dirty.remove(&segment.0).unwrap_or(0);
                    self.call(Call::Sync(segment), len);
                }
                Action::CloseSegment { .. } => {}
                Action::Send(id, buf) => {
                    self.hear(self.by_id[&id.token()], &buf);
                    self.shard.handle_sent(id, buf, now);
                }
                Action::Resume(id) => {
                    let at = self.by_id[&id.token()];
                    self.clients[at].is_held = false;
                    self.deliver(at);
                }
                Action::HandOff { .. } | Action::ResumeDatagrams => panic!("there is one shard, and no datagram"),
                Action::Close(id) => panic!("{} is closed", self.by_id[&id.token()]),
            }
        }
    }

    /// One thing after the other: a write goes to memory, a sync to the disk.
    fn call(&mut self, call: Call, len: u64) {
        let begins = self.disk_free_at.max(self.ms);
        let ends = match call {
            Call::Write(_) => begins,
            Call::Sync(_) => begins + DISK_CALL_MS + len / DISK_LEN_PER_MS,
        };
        self.disk_free_at = ends;
        self.calls.push_back((ends, call));
    }

    fn hear(&mut self, at: usize, buf: &[u8]) {
        let client = &mut self.clients[at];
        for line in buf.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            let settled = if client.offer.is_session {
                match Answer::parse(line).unwrap() {
                    Answer::Ack(ack) => ack.upto,
                    Answer::Nack(nack) => {
                        assert!(nack.retry && nack.after_ms >= 250, "{nack:?}");
                        client.refused += 1;
                        client.resume = Some((nack.from, self.ms + u64::from(nack.after_ms)));
                        self.hints.push(nack.after_ms);
                        continue;
                    }
                    Answer::Welcome(_) => continue,
                    other => panic!("{other:?}"),
                }
            } else {
                assert_eq!([line, b"\n"].concat(), ringest_wire::reply::OK);
                client.acked + 1
            };
            for seq in client.acked + 1..=settled {
                client.latencies.push(self.ms - client.due[seq as usize - 1]);
            }
            client.stored += settled - client.acked;
            client.acked = settled;
        }
    }
}
