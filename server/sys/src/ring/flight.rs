//! What is in flight: every operation the kernel has been given and not yet finished, and the memory it works on.
//!
//! An operation's buffer lives here from the moment it is queued until its last completion, so nobody can free, move
//! or change it while the kernel has its address. A slot's generation changes when it is vacated: a completion that
//! comes late finds nobody, instead of the slot's next tenant.

use bytes::BytesMut;

/// Names one operation for as long as it is in flight, and nothing afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpId {
    slot: u32,
    generation: u32,
}

/// One operation in the kernel's hands.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) op: Op,
    /// The caller's word for it.
    pub(super) token: u64,
    /// The memory of its own, if it has any.
    pub(super) payload: Payload,
}

/// What the kernel reads. Its heap block stays where it is when the flight itself is moved.
#[derive(Debug)]
pub(super) enum Payload {
    /// Nothing.
    None,
    /// What is sent.
    Sent(Vec<u8>),
    /// What is written.
    Written(BytesMut),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Accept,
    Recv,
    RecvDatagrams,
    Watch,
    Send,
    Write,
    Sync,
}

/// The table of flights. It grows to the most that were ever in flight at once, and then no more.
#[derive(Debug, Default)]
pub(super) struct Flights {
    slots: Vec<Slot>,
    vacant: Vec<u32>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    flight: Option<Flight>,
}

impl OpId {
    /// As the kernel carries it: in the `user_data` of an operation and of its completions.
    pub(super) fn user_data(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    /// Of a completion. Any number is taken: one that names no flight finds none.
    pub(super) fn from_user_data(user_data: u64) -> OpId {
        OpId { slot: user_data as u32, generation: (user_data >> 32) as u32 }
    }
}

impl Flights {
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = OpId> + '_ {
        let taken = self.slots.iter().enumerate().filter(|(_, slot)| slot.flight.is_some());
        taken.map(|(at, slot)| OpId { slot: at as u32, generation: slot.generation })
    }

    pub(super) fn start(&mut self, flight: Flight) -> OpId {
        let slot = self.vacant.pop().unwrap_or_else(|| self.new_slot());
        let entry = &mut self.slots[slot as usize];
        debug_assert!(entry.flight.is_none(), "a vacant slot has no tenant");
        entry.flight = Some(flight);
        OpId { slot, generation: entry.generation }
    }

    pub(super) fn get(&self, id: OpId) -> Option<&Flight> {
        let entry = self.slots.get(id.slot as usize)?;
        if entry.generation == id.generation { entry.flight.as_ref() } else { None }
    }

    /// Whether a completion is one of a receive of datagrams.
    pub(super) fn is_of_datagrams(&self, user_data: u64) -> bool {
        self.get(OpId::from_user_data(user_data)).is_some_and(|flight| flight.op == Op::RecvDatagrams)
    }

    /// Takes a flight out after its last completion, and not before: its buffer is the caller's from here on.
    pub(super) fn land(&mut self, id: OpId) -> Option<Flight> {
        let entry = self.slots.get_mut(id.slot as usize)?;
        if entry.generation != id.generation {
            return None;
        }
        let flight = entry.flight.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.vacant.push(id.slot);
        Some(flight)
    }

    fn new_slot(&mut self) -> u32 {
        // The last number stays unused: with it, `user_data` would be that of a cancellation.
        let slot = u32::try_from(self.slots.len()).ok().filter(|&slot| slot < u32::MAX);
        self.slots.push(Slot { generation: 0, flight: None });
        slot.expect("four billion operations do not fit into memory")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(token: u64) -> Flight {
        Flight { op: Op::Sync, token, payload: Payload::None }
    }

    #[test]
    fn a_late_completion_does_not_find_the_next_tenant() {
        let mut flights = Flights::default();
        let old = flights.start(flight(1));
        assert_eq!(flights.land(old).unwrap().token, 1);
        let new = flights.start(flight(2));
        assert_eq!(new.slot, old.slot, "the slot is used again");
        assert!(flights.get(old).is_none());
        assert!(flights.land(old).is_none());
        assert_eq!(flights.get(new).unwrap().token, 2);
    }

    #[test]
    fn a_name_survives_the_kernel() {
        let id = OpId { slot: u32::MAX - 1, generation: u32::MAX };
        assert_eq!(OpId::from_user_data(id.user_data()), id);
    }

    #[test]
    fn a_name_from_nowhere_finds_nobody() {
        let mut flights = Flights::default();
        flights.start(flight(1));
        for user_data in [u64::MAX, 7, 1 << 32] {
            assert!(flights.get(OpId::from_user_data(user_data)).is_none());
        }
    }

    #[test]
    fn the_table_is_as_large_as_the_most_in_flight_at_once() {
        let mut flights = Flights::default();
        for round in 0..100 {
            let ids = [flights.start(flight(round)), flights.start(flight(round))];
            assert_eq!(flights.len(), 2);
            ids.into_iter().for_each(|id| assert!(flights.land(id).is_some()));
        }
        assert_eq!((flights.len(), flights.slots.len()), (0, 2));
    }
}
