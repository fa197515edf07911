//! Two connections speak for one producer: the one that came later stays, in whatever order they are heard.

use ringest_ingest::{Action, Door, Handover, Limits, SessionId, Shard, ShardConfig, ShardId, home_shard};
use std::time::{Duration, Instant};

const HELLO: &[u8] = b"{\"$hello\":{\"v\":1,\"producer\":\"p\",\"epoch\":3}}\n";
const LOWER: &[u8] = b"{\"$hello\":{\"v\":1,\"producer\":\"p\",\"epoch\":2}}\n";

/// A shard whose disk takes no time, and what it said.
struct World {
    shard: Shard,
    now: Instant,
    said: Vec<(SessionId, String)>,
    handed_off: Vec<Handover>,
}

impl World {
    fn new(shard: ShardId, shards: u16) -> World {
        #[allow(clippy::disallowed_methods, reason = "the one moment from which time counts")]
        let now = Instant::now();
        let limits = Limits::default();
        let door = Door::new(&limits, None);
        let config = ShardConfig { shard, shards, door, ..ShardConfig::alone(limits) };
        let shard = Shard::new(config, now).unwrap();
        let mut world = World { shard, now, said: Vec::new(), handed_off: Vec::new() };
        world.act();
        world
    }

    fn accept(&mut self) -> SessionId {
        self.shard.handle_accepted(self.now).unwrap()
    }

    fn hear(&mut self, id: SessionId, bytes: &[u8]) {
        self.shard.handle_bytes(id, bytes, self.now);
        self.act();
    }

    fn act(&mut self) {
        let now = self.now;
        while let Some(action) = self.shard.poll() {
            match action {
                Action::Open(segment) => self.shard.handle_opened(segment, Ok(()), now),
                Action::Write(block) => self.shard.handle_written(block, Ok(()), now),
                Action::Sync(segment) => self.shard.handle_synced(segment, Ok(()), now),
                Action::Send(id, bytes) => {
                    self.said.push((id, String::from_utf8(bytes.clone()).unwrap()));
                    self.shard.handle_sent(id, bytes, now);
                }
                Action::HandOff { handover, .. } => self.handed_off.push(handover),
                Action::Close(_) | Action::CloseSegment { .. } | Action::Resume(_) | Action::ResumeDatagrams => {}
            }
        }
    }

    fn is_fenced(&self, id: SessionId) -> bool {
        self.said.iter().any(|(to, said)| *to == id && said.contains("\"fenced\""))
    }

    fn is_welcome(&self, id: SessionId) -> bool {
        self.said.iter().any(|(to, said)| *to == id && said.contains("$welcome"))
    }
}

#[test]
fn of_two_that_came_at_one_moment_the_later_one_stays_whoever_is_heard_first() {
    for earlier_first in [true, false] {
        let mut world = World::new(ShardId(0), 1);
        let (earlier, later) = (world.accept(), world.accept());
        for id in if earlier_first { [earlier, later] } else { [later, earlier] } {
            world.hear(id, HELLO);
        }
        assert!(world.is_fenced(earlier) && !world.is_fenced(later), "{:?}", world.said);
        assert!(world.is_welcome(later));
    }
}

#[test]
fn a_higher_epoch_shuts_a_lower_one_out_even_if_that_came_later() {
    let mut world = World::new(ShardId(0), 1);
    let (earlier, later) = (world.accept(), world.accept());
    world.hear(later, LOWER);
    world.hear(earlier, HELLO);
    assert!(world.is_fenced(later) && world.is_welcome(earlier), "{:?}", world.said);
}

#[test]
fn a_connection_that_was_handed_over_is_as_old_as_when_it_came() {
    let home = home_shard("p", 2);
    let mut elsewhere = World::new(ShardId(1 - home.0), 2);
    let mut world = World::new(home, 2);
    elsewhere.now = world.now + Duration::from_millis(1);
    let earlier = elsewhere.accept();
    elsewhere.hear(earlier, HELLO);
    let handover = elsewhere.handed_off.pop().expect("this is not its home");
    world.now = elsewhere.now + Duration::from_millis(1);
    let later = world.accept();
    world.hear(later, HELLO);
    world.now += Duration::from_secs(1);
    let moved = world.shard.handle_handover(handover, world.now);
    world.act();
    assert!(world.is_fenced(moved) && !world.is_fenced(later), "{:?}", world.said);
}
