//! Slots with generations, so that a late completion misses the slot's next tenant.

/// Names one session for as long as it lives; no later session ever has the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    slot: u32,
    generation: u32,
}

impl SessionId {
    /// The name as one number, for a kernel that carries 64 bits.
    pub fn token(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    /// The name that [`token`](Self::token) gave the number of.
    pub fn from_token(token: u64) -> SessionId {
        SessionId { slot: token as u32, generation: (token >> 32) as u32 }
    }

    /// The place in a table that a driver keeps beside the shard's. Reused after the session has ended.
    pub fn slot(self) -> usize {
        self.slot as usize
    }
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    tenant: Option<Box<T>>,
}

#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    vacant: Vec<u32>,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Slab<T> {
        Slab { slots: Vec::new(), vacant: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    pub(crate) fn insert(&mut self, tenant: T) -> SessionId {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, tenant: None });
            u32::try_from(self.slots.len() - 1).expect("sessions are bounded far below 2^32")
        });
        let entry = &mut self.slots[slot as usize];
        entry.tenant = Some(Box::new(tenant));
        SessionId { slot, generation: entry.generation }
    }

    pub(crate) fn get(&self, id: SessionId) -> Option<&T> {
        let slot = self.slots.get(id.slot as usize)?;
        if slot.generation == id.generation { slot.tenant.as_deref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, id: SessionId) -> Option<&mut T> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if slot.generation == id.generation { slot.tenant.as_deref_mut() } else { None }
    }

    /// Lends the tenant out of its slot, so that it can be worked on beside the rest; [`put`](Self::put) brings it back.
    pub(crate) fn take(&mut self, id: SessionId) -> Option<Box<T>> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if slot.generation == id.generation { slot.tenant.take() } else { None }
    }

    pub(crate) fn put(&mut self, id: SessionId, tenant: Box<T>) {
        self.slots[id.slot as usize].tenant = Some(tenant);
    }

    pub(crate) fn remove(&mut self, id: SessionId) -> Option<T> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        let tenant = slot.tenant.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.vacant.push(id.slot);
        Some(*tenant)
    }

    /// How many slots there are, vacant ones included.
    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Who is in that slot. To go through all of them while they change: who comes meanwhile may be missed or met.
    pub(crate) fn tenant_of(&self, slot: usize) -> Option<SessionId> {
        let Slot { generation, tenant } = self.slots.get(slot)?;
        let slot = u32::try_from(slot).expect("sessions are bounded far below 2^32");
        tenant.as_ref().map(|_| SessionId { slot, generation: *generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_name_misses_the_next_tenant_of_its_slot() {
        let mut slab = Slab::new();
        let first = slab.insert("first");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second");
        assert_eq!(second.slot(), first.slot(), "the slot is reused");
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&"second"));
        assert_eq!(SessionId::from_token(second.token()), second);
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn going_through_the_slots_meets_each_tenant_once() {
        let mut slab = Slab::new();
        let ids = ["a", "b", "c"].map(|tenant| slab.insert(tenant));
        slab.remove(ids[1]);
        let met: Vec<SessionId> = (0..slab.slots()).filter_map(|slot| slab.tenant_of(slot)).collect();
        assert_eq!(met, [ids[0], ids[2]]);
        assert_eq!(slab.tenant_of(slab.slots()), None);
    }
}
