//! What may change while a shard runs: it holds from the moment it is told, and costs nobody what they have.

use ringest_ingest::{Action, Door, Limits, SessionId, Settings, Shard, ShardConfig};
use ringest_wire::Severity;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

const INFO: &[u8] = b"{\"level\":\"info\",\"message\":\"a\"}\n";
const ERROR: &[u8] = b"{\"level\":\"error\",\"message\":\"a\"}\n";
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A shard whose disk takes no time, and what it said.
struct World {
    shard: Shard,
    door: Door,
    limits: Limits,
    start: Instant,
    said: Vec<(SessionId, Vec<u8>)>,
    closed: Vec<SessionId>,
}

impl World {
    fn new(limits: Limits) -> World {
        #[allow(clippy::disallowed_methods, reason = "the one moment from which time counts")]
        let start = Instant::now();
        let door = Door::new(&limits, None);
        let config =
            ShardConfig { min_level: Severity::Debug, door: door.clone(), ..ShardConfig::alone(limits.clone()) };
        let shard = Shard::new(config, start).unwrap();
        let mut world = World { shard, door, limits, start, said: Vec::new(), closed: Vec::new() };
        world.turn(0);
        world
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    /// Time goes on to that moment; everything that is due on the way happens.
    fn turn(&mut self, ms: u64) {
        let until = self.at(ms);
        loop {
            let now = self.shard.poll_timeout().map_or(until, |at| at.min(until));
            self.shard.handle_timeout(now);
            self.act(now);
            if self.shard.poll_timeout().is_none_or(|at| at > until) {
                return;
            }
        }
    }

    fn act(&mut self, now: Instant) {
        while let Some(action) = self.shard.poll() {
            match action {
                Action::Open(segment) => self.shard.handle_opened(segment, Ok(()), now),
                Action::Write(block) => self.shard.handle_written(block, Ok(()), now),
                Action::Sync(segment) => self.shard.handle_synced(segment, Ok(()), now),
                Action::Send(id, bytes) => {
                    self.said.push((id, bytes.clone()));
                    self.shard.handle_sent(id, bytes, now);
                }
                Action::Close(id) => self.closed.push(id),
                Action::CloseSegment { .. } | Action::Resume(_) | Action::ResumeDatagrams => {}
                Action::HandOff { .. } => panic!("there is one shard"),
            }
        }
    }

    fn set(&mut self, limits: Limits, min_level: Severity, ms: u64) {
        let now = self.at(ms);
        self.limits = self.limits.changed_to(&limits);
        self.door.change_limits(&limits);
        self.shard.handle_settings(&Settings { limits, min_level }, now);
        self.act(now);
    }

    fn send(&mut self, id: SessionId, bytes: &[u8], ms: u64) {
        let now = self.at(ms);
        assert!(self.shard.wants(id));
        self.shard.handle_bytes(id, bytes, now);
        self.act(now);
    }

    fn said_to(&self, id: SessionId) -> String {
        let said = self.said.iter().filter(|(to, _)| *to == id).flat_map(|(_, bytes)| bytes.clone());
        String::from_utf8(said.collect()).unwrap()
    }
}

#[test]
fn a_shorter_time_begins_when_it_is_told_and_ends_nobody_before() {
    let mut world = World::new(Limits::default());
    let now = world.at(0);
    let (id, _place) = world.shard.admit(PEER, now).unwrap();
    world.send(id, INFO, 0);
    world.turn(600_000);
    let shorter = Limits { idle_time: Some(Duration::from_secs(2)), ..Limits::default() };
    world.set(shorter.clone(), Severity::Debug, 600_000);
    world.turn(601_800);
    assert!(world.closed.is_empty(), "ten minutes of silence were allowed when they passed");
    // The same again is no change, so it gives nobody more time.
    world.set(shorter, Severity::Debug, 601_800);
    world.turn(602_400);
    assert_eq!(world.closed, [id]);
    assert!(world.said_to(id).contains("\"code\":\"idle\""), "{}", world.said_to(id));
}

#[test]
fn a_time_that_there_was_none_of_is_kept_from_then_on() {
    let mut world = World::new(Limits { idle_time: None, ..Limits::default() });
    let now = world.at(0);
    let (id, _place) = world.shard.admit(PEER, now).unwrap();
    world.send(id, INFO, 0);
    world.turn(10_000);
    world.set(Limits { idle_time: Some(Duration::from_secs(1)), ..Limits::default() }, Severity::Debug, 10_000);
    world.turn(12_000);
    assert_eq!(world.closed, [id]);
}

#[test]
fn fewer_connections_cost_nobody_who_is_in_and_let_nobody_else_in() {
    let mut world = World::new(Limits::default());
    let now = world.at(0);
    let mut inside: Vec<_> = (0..3).map(|_| world.shard.admit(PEER, now).unwrap()).collect();
    let fewer = Limits { connections_max: 2, connections_per_address_max: 1, sessions_max: 2, ..Limits::default() };
    world.set(fewer, Severity::Debug, 1);
    for (id, _) in &inside {
        world.send(*id, INFO, 2);
        assert_eq!(world.said_to(*id), "{\"status\":\"ok\",\"message\":\"received\"}\n");
    }
    let later = world.at(3);
    assert!(world.shard.admit(PEER, later).is_err());
    for (id, place) in inside.drain(1..) {
        world.shard.handle_lost(id, later);
        drop(place);
    }
    assert!(world.shard.admit(PEER, later).is_err(), "one of this address is in");
    let more = Limits { connections_per_address_max: 2, ..world.limits.clone() };
    world.set(more, Severity::Debug, 4);
    assert!(world.shard.admit(PEER, later).is_ok());
    assert!(world.closed.is_empty());
}

#[test]
fn a_level_holds_for_lines_that_come_after_it_and_what_was_taken_before_is_stored() {
    // Nothing is sealed while the batch may grow, so the first line waits in memory.
    let mut world = World::new(Limits { linger: Duration::from_secs(60), ..Limits::default() });
    let now = world.at(0);
    let (id, _place) = world.shard.admit(PEER, now).unwrap();
    assert!(world.shard.wants(id));
    world.shard.handle_bytes(id, INFO, now);
    world.shard.handle_settings(&Settings { limits: world.limits.clone(), min_level: Severity::Error }, now);
    world.shard.handle_bytes(id, INFO, now);
    world.shard.handle_bytes(id, ERROR, now);
    world.turn(70_000);
    let tally = world.shard.tally();
    assert_eq!((tally.stored, tally.filtered), (2, 1));
    assert_eq!(world.said_to(id).lines().count(), 3);
    assert_eq!(world.shard.in_flight(), 0);
}

#[test]
fn a_batch_that_waits_is_due_as_soon_as_the_new_bounds_say_so() {
    let limits = Limits { linger: Duration::from_secs(60), batch_rows: 1000, ..Limits::default() };
    for sooner in
        [Limits { batch_rows: 1, ..limits.clone() }, Limits { linger: Duration::from_millis(10), ..limits.clone() }]
    {
        let mut world = World::new(limits.clone());
        let now = world.at(0);
        // Nobody waits for a datagram, so only the bounds say when it is written.
        assert!(world.shard.wants_datagrams());
        world.shard.handle_datagram(INFO, now);
        world.turn(20_000);
        assert_eq!(world.shard.tally().stored, 0);
        world.set(sooner, Severity::Debug, 20_000);
        world.turn(20_020);
        assert_eq!(world.shard.tally().stored, 1);
    }
}

#[test]
fn what_memory_was_taken_for_does_not_change() {
    let usual = Limits::default();
    let other = Limits {
        line_len_max: 1,
        chunk_len_max: 1,
        batch_len_max: 1,
        batches: 1,
        writes_max: 9,
        segment_len: 1,
        producers_max: 1,
        window: 1,
        batch_rows: 7,
        ..usual.clone()
    };
    assert_eq!(usual.changed_to(&other), Limits { batch_rows: 7, ..usual });
}
