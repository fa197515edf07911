//! Who sends: each producer's incarnation, and how far its stream is settled.

use crate::shard::ShardId;
use crate::slab::SessionId;
use std::collections::{BTreeMap, HashMap};

/// A place in [`Producers`]; valid while the producer is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ProducerId(u32);

/// What has to survive a restart: rebuilt from the descriptions of stored blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerState {
    /// Identity.
    pub producer: String,
    /// Highest incarnation seen.
    pub epoch: u64,
    /// The last settled sequence number of that incarnation.
    pub last_seq: u64,
}

#[derive(Debug)]
pub(crate) struct Producer {
    name: Box<str>,
    pub(crate) epoch: u64,
    /// Numbering was agreed: in this process, or before it by what is stored.
    pub(crate) is_known: bool,
    /// The last sequence number that was taken.
    pub(crate) last_seq: u64,
    /// The batch that settles `last_seq`.
    pub(crate) last_batch: u64,
    /// No batch before this one has lines of it that may not be durable.
    pub(crate) first_batch: u64,
    /// Lines of this incarnation that were acknowledged at a weak level may be lost.
    pub(crate) is_doubtful: bool,
    /// The connection that speaks for it.
    pub(crate) session: Option<SessionId>,
    /// Where it stands, or stood last, among those that may be forgotten: whether anything was taken of it, and when it was
    /// last used, as a count of uses.
    place: (bool, u64),
    /// The last number that is in a sealed batch, and its incarnation; none, before there is one.
    sealed: Option<(u64, u64)>,
}

impl Producer {
    /// Begins another incarnation. Whatever was sent before is settled.
    pub(crate) fn begin(&mut self, epoch: u64) {
        (self.epoch, self.is_known, self.last_seq) = (epoch, false, 0);
        (self.last_batch, self.first_batch, self.is_doubtful) = (0, 0, false);
    }
}

/// The producers that this shard remembers, at most a fixed number.
#[derive(Debug)]
pub(crate) struct Producers {
    table: Vec<Producer>,
    by_name: HashMap<Box<str>, ProducerId>,
    /// Those without a session, in the order in which they are forgotten: first those of which nothing was ever taken, so
    /// that names alone push nobody out; among equals the least recently used.
    idle: BTreeMap<(bool, u64), ProducerId>,
    uses: u64,
    max: usize,
    /// What this shard stored of those that are at home elsewhere now, for snapshots to tell.
    away: Vec<ProducerState>,
}

impl Producers {
    pub(crate) fn new(max: usize, known: Vec<ProducerState>, away: Vec<ProducerState>) -> Producers {
        let mut producers =
            Producers { table: Vec::new(), by_name: HashMap::new(), idle: BTreeMap::new(), uses: 0, max, away };
        for state in known {
            if let Some((id, _)) = producers.find_or_insert(&state.producer, state.epoch) {
                let producer = &mut producers[id];
                (producer.is_known, producer.last_seq) = (true, state.last_seq);
                producer.sealed = Some((state.epoch, state.last_seq));
                producers.let_idle(id);
            }
        }
        producers
    }

    pub(crate) fn name(&self, id: ProducerId) -> &str {
        &self.table[id.0 as usize].name
    }

    /// The producer of that name, and whether it is remembered. A new one starts at `epoch`. `None` where as many as may
    /// be are remembered and each has a session. May forget another: the batch that gathers must not name any producer
    /// whose place could be given away, so seal it first where [`is_full`](Self::is_full) says so.
    pub(crate) fn find_or_insert(&mut self, name: &str, epoch: u64) -> Option<(ProducerId, bool)> {
        if let Some(&id) = self.by_name.get(name) {
            return Some((id, true));
        }
        let producer = Producer {
            name: name.into(),
            epoch,
            is_known: false,
            last_seq: 0,
            last_batch: 0,
            first_batch: 0,
            is_doubtful: false,
            session: None,
            place: (false, 0),
            sealed: None,
        };
        let id = if self.table.len() < self.max {
            let id = ProducerId(u32::try_from(self.table.len()).expect("producers are bounded far below 2^32"));
            self.table.push(producer);
            id
        } else {
            let (_, id) = self.idle.pop_first()?;
            self.by_name.remove(&self.table[id.0 as usize].name);
            self.table[id.0 as usize] = producer;
            id
        };
        self.by_name.insert(name.into(), id);
        self.let_idle(id);
        Some((id, false))
    }

    /// Whether a new name costs an old one its place.
    pub(crate) fn is_full(&self) -> bool {
        self.table.len() >= self.max
    }

    /// Lines of the producer up to that one are in a sealed batch.
    pub(crate) fn handle_sealed(&mut self, id: ProducerId, epoch: u64, upto: u64) {
        self[id].sealed = Some((epoch, upto));
    }

    /// How far each of them is in the batches that are sealed, the least recently used first. Nothing that is stored here is
    /// left out but what was forgotten.
    pub(crate) fn sealed(&self) -> Vec<ProducerState> {
        let mut known: Vec<&Producer> = self.table.iter().collect();
        known.sort_unstable_by_key(|producer| (producer.session.is_some(), producer.place));
        let states = known.into_iter().filter_map(|producer| {
            let (epoch, last_seq) = producer.sealed?;
            Some(ProducerState { producer: producer.name.to_string(), epoch, last_seq })
        });
        self.away.iter().cloned().chain(states).collect()
    }

    /// A connection speaks for the producer from now on.
    pub(crate) fn attach(&mut self, id: ProducerId, session: SessionId) {
        let place = self[id].place;
        self.idle.remove(&place);
        self[id].session = Some(session);
    }

    /// The connection no longer speaks for it. Without effect where another one does already.
    pub(crate) fn detach(&mut self, id: ProducerId, session: SessionId) {
        if self[id].session == Some(session) {
            self[id].session = None;
            self.let_idle(id);
        }
    }

    /// It was used just now, and may be forgotten in its turn.
    fn let_idle(&mut self, id: ProducerId) {
        let old = self[id].place;
        self.idle.remove(&old);
        self.uses += 1;
        let place = (self[id].sealed.is_some() || self[id].last_batch > 0, self.uses);
        self[id].place = place;
        self.idle.insert(place, id);
    }
}

impl std::ops::Index<ProducerId> for Producers {
    type Output = Producer;

    fn index(&self, id: ProducerId) -> &Producer {
        &self.table[id.0 as usize]
    }
}

impl std::ops::IndexMut<ProducerId> for Producers {
    fn index_mut(&mut self, id: ProducerId) -> &mut Producer {
        &mut self.table[id.0 as usize]
    }
}

/// The shard that a producer's records belong to, so that each producer has a single writer. FNV-1a: the same on every
/// machine and in every version, because a restart must find the same home.
pub fn home_shard(producer: &str, shards: u16) -> ShardId {
    let hash = producer
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    ShardId(u16::try_from(hash % u64::from(shards.max(1))).expect("a remainder of a u16 is a u16"))
}

#[cfg(test)]
pub(crate) fn tests_id() -> ProducerId {
    ProducerId(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(slot: u64) -> SessionId {
        SessionId::from_token(slot)
    }

    #[test]
    fn the_least_recently_used_idle_producer_is_forgotten_first() {
        let mut producers = Producers::new(2, Vec::new(), Vec::new());
        let (a, _) = producers.find_or_insert("a", 1).unwrap();
        let (b, _) = producers.find_or_insert("b", 1).unwrap();
        producers.attach(a, session(1));
        producers.attach(b, session(2));
        assert!(producers.find_or_insert("c", 1).is_none(), "both are in use");
        producers.detach(b, session(2));
        producers.detach(a, session(1));
        let (c, known) = producers.find_or_insert("c", 1).unwrap();
        assert!(!known && c == b, "b was detached first");
        assert_eq!(producers.find_or_insert("a", 1), Some((a, true)));
    }

    #[test]
    fn names_of_which_nothing_was_taken_push_nobody_out() {
        let known = |name: &str| ProducerState { producer: name.into(), epoch: 1, last_seq: 5 };
        let mut producers = Producers::new(3, vec![known("a"), known("b")], Vec::new());
        for name in ["c", "d", "e"] {
            let (id, is_remembered) = producers.find_or_insert(name, 1).unwrap();
            assert!(!is_remembered);
            producers.attach(id, session(1));
            producers.detach(id, session(1));
        }
        let names: Vec<String> = producers.sealed().into_iter().map(|state| state.producer).collect();
        assert_eq!(names, ["a", "b"]);
        let (c, _) = producers.find_or_insert("c", 1).unwrap();
        producers[c].last_batch = 1;
        producers.attach(c, session(1));
        producers.detach(c, session(1));
        producers.find_or_insert("f", 1).unwrap();
        assert!(!producers.find_or_insert("a", 1).unwrap().1, "the oldest goes where all have a history");
    }

    #[test]
    fn a_session_that_was_replaced_does_not_detach_its_successor() {
        let mut producers = Producers::new(2, Vec::new(), Vec::new());
        let (a, _) = producers.find_or_insert("a", 1).unwrap();
        producers.attach(a, session(1));
        producers.attach(a, session(2));
        producers.detach(a, session(1));
        assert_eq!(producers[a].session, Some(session(2)));
    }

    #[test]
    fn a_home_does_not_move_between_versions() {
        assert_eq!(home_shard("web-17/ab3f", 2), ShardId(1));
        assert_eq!(home_shard("web-17/ab3f", 7), ShardId(3));
        assert_eq!(home_shard("anything", 1), ShardId(0));
        assert_eq!(home_shard("anything", 0), ShardId(0));
    }
}
