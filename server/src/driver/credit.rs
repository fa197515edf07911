//! How much connections may send ahead of what the shard wants: one buffer each, and more for those that stream.
//!
//! What a receive may still bring is what its connection may come to hold when the shard wants nothing, so the sum of
//! all credits is the memory that stalled connections can take. A connection begins with one buffer. One that has used
//! that up streams, and gets more from a pool that all share: bytes of one connection in a row are answered by one
//! send, and its sender is woken once.

/// The pool, in buffers.
#[derive(Debug)]
pub(super) struct Pool {
    free: usize,
}

/// What one connection has been granted, in buffers. It is kept for as long as what came by it may be held.
#[derive(Debug)]
pub(super) struct Credit {
    extra: usize,
}

impl Pool {
    pub(super) fn new(buffers: usize) -> Pool {
        Pool { free: buffers }
    }

    /// Grants a streaming connection what there is, in place of what it had.
    pub(super) fn renew(&mut self, credit: &mut Credit) {
        self.free += credit.extra;
        credit.extra = self.free.min(CREDIT_BUFFERS - 1);
        self.free -= credit.extra;
    }

    /// The connection is gone, and what it held with it.
    pub(super) fn take_back(&mut self, credit: Credit) {
        self.free += credit.extra;
    }
}

impl Credit {
    /// What a connection begins with.
    pub(super) fn first() -> Credit {
        Credit { extra: 0 }
    }

    pub(super) fn buffers(&self) -> usize {
        1 + self.extra
    }
}

/// Buffers that one connection may fill before it queues again: half of the ring. With an eighth of the ring a record
/// cost a fifth more.
pub(super) const CREDIT_BUFFERS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_credits_together_are_one_buffer_each_and_the_pool() {
        let mut pool = Pool::new(40);
        let mut credits: Vec<Credit> = (0..10).map(|_| Credit::first()).collect();
        for round in 0..3 {
            credits.iter_mut().for_each(|credit| pool.renew(credit));
            let sum: usize = credits.iter().map(Credit::buffers).sum();
            assert_eq!(sum, 10 + 40, "round {round}");
            assert!(credits.iter().all(|credit| (1..=CREDIT_BUFFERS).contains(&credit.buffers())));
        }
        credits.into_iter().for_each(|credit| pool.take_back(credit));
        let mut alone = Credit::first();
        pool.renew(&mut alone);
        assert_eq!((alone.buffers(), pool.free), (CREDIT_BUFFERS, 40 + 1 - CREDIT_BUFFERS));
    }
}
