//! The two queues shared with the kernel: operations go in, completions come out.
//!
//! It carries entries and does not know what they mean; whoever pushes one answers for the memory it names.

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::time::Duration;

use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{CompletionQueue, EnterFlags, IoUring, SubmissionQueue, Submitter, cqueue, squeue};

/// A ring and its queues, split once for its whole life: the registration of the ring's descriptor is remembered in
/// the `Submitter` value, so one made per call would never use it.
pub(super) struct Queues {
    split: ManuallyDrop<Split>,
    /// The ring that `split` borrows from. It was boxed and is freed in `drop`, after `split`.
    ring: NonNull<IoUring>,
    /// Operations the kernel has not seen. They wait here rather than in the shared queue, so that one that was never
    /// submitted can still be taken back, and so that there is no limit to run into.
    queued: VecDeque<squeue::Entry>,
    enter_flags: EnterFlags,
}

struct Split {
    submitter: Submitter<'static>,
    sq: SubmissionQueue<'static>,
    cq: CompletionQueue<'static>,
}

impl Queues {
    pub(super) fn new(ring: IoUring) -> Queues {
        let mut enter_flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if ring.params().is_feature_no_iowait() {
            // A thread that waits for the network is idle; without this it shows as waiting for the disk.
            enter_flags |= EnterFlags::NO_IOWAIT;
        }
        let ring = NonNull::from(Box::leak(Box::new(ring)));
        // SAFETY: the box was leaked above and is freed in `drop` only, after everything that borrows from it, so this
        // reference is valid for as long as `split` lives. No other reference to the ring is ever made.
        let (submitter, sq, cq) = unsafe { &mut *ring.as_ptr() }.split();
        let mut split = Split { submitter, sq, cq };
        // It saves a lookup per enter. A kernel before 5.18 refuses, and so does a thread with 16 rings; all works
        // without.
        let _refused = split.submitter.register_ring_fd();
        Queues { split: ManuallyDrop::new(split), ring, queued: VecDeque::new(), enter_flags }
    }

    pub(super) fn submitter(&self) -> &Submitter<'static> {
        &self.split.submitter
    }

    /// Queues an operation; no system call is made.
    ///
    /// # Safety
    ///
    /// Memory that the entry points to must stay valid, and must not be changed by anyone else, from now until the
    /// operation's last completion has been taken from `complete`, or until the entry comes back from `unsubmit`.
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        self.queued.push_back(entry);
    }

    /// Takes back the operations the kernel has not seen.
    pub(super) fn unsubmit(&mut self) -> impl Iterator<Item = squeue::Entry> {
        self.queued.drain(..)
    }

    /// Moves as many queued operations as fit to where the kernel looks.
    pub(super) fn fill(&mut self) {
        let sq = &mut self.split.sq;
        while !sq.is_full()
            && let Some(entry) = self.queued.pop_front()
        {
            // SAFETY: who queued the entry has promised, at `push`, that its memory stays valid.
            let pushed = unsafe { sq.push(&entry) };
            pushed.expect("the queue was not full");
        }
        sq.sync();
    }

    /// Whether some did not fit and have to wait for the next `enter`.
    pub(super) fn is_overfull(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Whether the kernel has taken everything that was queued.
    pub(super) fn is_submitted(&self) -> bool {
        self.queued.is_empty() && self.split.sq.is_empty()
    }

    /// Submits what `fill` has moved, and waits for `want` completions or until the time is up. Work the kernel has
    /// deferred until now is done either way.
    pub(super) fn enter(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        let timespec = timeout.map(Timespec::from);
        let args = match &timespec {
            Some(timespec) => SubmitArgs::new().timespec(timespec),
            None => SubmitArgs::new(),
        };
        let Split { submitter, sq, .. } = &mut *self.split;
        let to_submit = sq.len() as u32;
        // SAFETY: with EXT_ARG the kernel reads an argument of this type and size; it and the timespec in it live
        // through the call. The entries submitted are covered by the promise made at `push`.
        let outcome = unsafe { submitter.enter(to_submit, want, self.enter_flags.bits(), Some(&args)) };
        sq.sync();
        outcome.map(drop)
    }

    /// Cancels everything the kernel has taken, and waits for that.
    pub(super) fn cancel_all(&self, timeout: Duration) -> io::Result<()> {
        self.split.submitter.register_sync_cancel(Some(timeout.into()), CancelBuilder::any().all())
    }

    /// Completions the kernel had no room for; it keeps them, slowly, until there is.
    pub(super) fn cq_overflows(&self) -> bool {
        self.split.sq.cq_overflow()
    }

    /// Takes every completion that is there, and gives the kernel the room back.
    pub(super) fn complete(&mut self, completions: &mut VecDeque<cqueue::Entry>) {
        let cq = &mut self.split.cq;
        cq.sync();
        completions.extend(&mut *cq);
        cq.sync();
    }
}

impl Drop for Queues {
    fn drop(&mut self) {
        // A registered descriptor holds a reference: the kernel would keep the ring, and go on filling its buffers,
        // after everything else of it is gone. If nothing was registered, this is refused and nothing is lost.
        let _refused = self.split.submitter.unregister_ring_fd();
        // SAFETY: `split` is not used again; it goes first because it writes to the ring's memory as it goes.
        unsafe { ManuallyDrop::drop(&mut self.split) };
        // SAFETY: the pointer is that of the box leaked in `new`, and nothing borrows from it any more.
        drop(unsafe { Box::from_raw(self.ring.as_ptr()) });
    }
}
