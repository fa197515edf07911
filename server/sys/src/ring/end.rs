//! How a ring ends: the kernel lets go first, and memory goes last.

use std::mem;
use std::time::{Duration, Instant};

use io_uring::squeue;

use super::datagrams::Datagrams;
use super::{OpId, Ring};

/// How long a ring that is dropped waits for the kernel to let go. Cancelled operations end at once; a write or a sync
/// that has reached the disk cannot be cancelled and takes as long as the disk.
const REAP_MAX: Duration = Duration::from_secs(5);

/// How long one round of that waits before asking again for everything: a request on its way between two queues is not
/// found by a cancellation that passes at that moment.
const REAP_ROUND: Duration = Duration::from_millis(100);

impl Drop for Ring {
    fn drop(&mut self) {
        let unsubmitted: Vec<squeue::Entry> = self.queues.unsubmit().collect();
        for entry in unsubmitted {
            let _never_started = self.flights.land(OpId::from_user_data(entry.get_user_data()));
        }
        if !self.reap(REAP_MAX) {
            // The kernel may still read or write this memory, so it is never freed.
            mem::forget(mem::take(&mut self.flights));
            self.bufs.leak();
            self.datagrams.take().into_iter().for_each(Datagrams::leak);
        }
    }
}

impl Ring {
    /// Cancels everything and takes the completions, closing connections that were accepted and never seen. False if
    /// the kernel has not let go of everything in time.
    pub(super) fn reap(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        // Each by its number, which the kernel finds at once. Looking for all, it would walk past those it has stopped
        // already to find the next: 3.4 s for 5,000 receives.
        let flying: Vec<OpId> = self.flights.ids().collect();
        flying.into_iter().for_each(|id| self.cancel(id));
        let mut flying = 0;
        loop {
            while let Some(_unseen) = self.next() {}
            if self.flights.len() == 0 {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            // No outcome ends a round early: what could not be found or stopped has yet to complete, and a ring that fails
            // for good ends at the deadline.
            if mem::replace(&mut flying, self.flights.len()) == self.flights.len() {
                let _unstopped = self.queues.cancel_all(REAP_ROUND);
            }
            let _failed = self.wait(Some(REAP_ROUND));
        }
    }
}
