//! An io_uring ring with safe operations: start them, wait, take what happened.
//!
//! What the kernel works on is owned here until it has let go: buffers to be sent or written move in with the
//! operation and move out with its event; buffers received into are lent out and given back. It has no policy: it
//! re-arms nothing, retries nothing, and does not choose who may receive. The crate `io-uring` is named below this
//! module and nowhere else.

mod buf_ring;
mod credit;
mod datagrams;
mod end;
mod event;
mod flight;
mod probe;
mod queues;
mod setup;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use bytes::BytesMut;
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{cqueue, opcode, squeue};

pub use buf_ring::{Lease, SLACK};
pub use datagrams::DatagramLease;
pub use event::Event;
pub use flight::OpId;
pub use probe::{Unavailable, probe};
pub use setup::Setup;

use buf_ring::BufRing;
use datagrams::Datagrams;
use flight::{Flight, Flights, Op, Payload};
use queues::Queues;

/// How large a ring is.
#[derive(Debug, Clone, Copy)]
pub struct RingConfig {
    /// Operations handed to the kernel in one system call; more are handed over in several.
    pub entries: u32,
    /// Buffers to receive into: a power of two, at most 32768.
    pub buf_count: usize,
    /// Bytes of memory per buffer, of which the last [`SLACK`] are never filled. A multiple of 4096 keeps pages apart.
    pub buf_len: usize,
}

/// What a ring has done since it was made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct RingStats {
    /// System calls made to submit and wait.
    pub enters: u64,
    /// Completions taken from the kernel.
    pub completions: u64,
    /// Turns in which the kernel had more completions than room for them.
    pub cq_overflows: u64,
    /// Receives that ended because no buffer was free.
    pub enobufs: u64,
    /// Accepts and receives that brought something and ended with it, to be armed again; a used-up credit is one.
    pub multishots_ended: u64,
    /// Syncs, each of which the kernel carries out on a worker thread of its own (io-wq), whatever the file system. Writes go
    /// there as well where they are not direct; of those a ring is told nothing.
    pub punted_syncs: u64,
    /// Completions that belonged to nothing in flight. Other than zero is a fault.
    pub stale: u64,
}

impl RingStats {
    /// All of them, by name.
    pub fn named(&self) -> [(&'static str, u64); 7] {
        let RingStats { enters, completions, cq_overflows, enobufs, multishots_ended, punted_syncs, stale } = *self;
        [
            ("enters", enters),
            ("completions", completions),
            ("cq_overflows", cq_overflows),
            ("enobufs", enobufs),
            ("multishots_ended", multishots_ended),
            ("punted_syncs", punted_syncs),
            ("stale_completions", stale),
        ]
    }
}

impl fmt::Display for RingStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RingStats { enters, completions, cq_overflows, enobufs, multishots_ended, punted_syncs, stale } = self;
        write!(
            f,
            "{enters} enters, {completions} completions, {enobufs} without a buffer, {multishots_ended} armed again"
        )?;
        write!(f, ", {punted_syncs} syncs on kernel workers, {cq_overflows} overflows, {stale} stale")
    }
}

/// A ring, bound to the thread that made it.
///
/// Descriptors are looked up by the kernel when an operation is submitted, at the next [`wait`](Ring::wait): one that
/// was closed and whose number was given away in between is the wrong one. From then on the operation keeps the file
/// open by itself. [`close`](Ring::close) closes a descriptor late enough.
///
/// ```compile_fail
/// fn for_any_thread<T: Send>() {}
/// for_any_thread::<ringest_sys::ring::Ring>();
/// ```
pub struct Ring {
    // Dropped in this order: first the kernel's end, then what the kernel had the address of.
    queues: Queues,
    flights: Flights,
    bufs: BufRing,
    datagrams: Option<Datagrams>,

    /// Completions taken from the kernel and not yet handed out.
    batch: VecDeque<cqueue::Entry>,
    /// Buffers that are with the kernel and hold nothing yet.
    free_buffers: usize,
    /// Descriptors to be closed once everything queued before them has been submitted.
    parting: Vec<OwnedFd>,
    setup: Setup,
    stats: RingStats,
}

/// The `user_data` of cancellations, which nobody waits for. No flight has it: slots end one number below.
const CANCELLATION: u64 = u64::MAX;

/// Workers per ring for file operations that block. One fdatasync and one write that fell back to blocking can be
/// under way at once; the kernel's own limit would be 4 per processor, all of them on the ring thread's processor.
const BLOCKING_WORKERS_MAX: u32 = 2;

/// Workers per ring for operations without an end in sight. Sockets are polled instead, so one is plenty.
const UNBOUNDED_WORKERS_MAX: u32 = 1;

/// Completions the kernel has room for: one per buffer and this many per entry, and never fewer than the minimum, which
/// is 64 KiB of memory.
const CQ_TURNS: u32 = 4;
const CQ_ENTRIES_MIN: u32 = 4096;

impl Ring {
    /// A ring for the calling thread, which must be pinned by then: the kernel's workers inherit its processors.
    ///
    /// Fails as the system call does; [`probe`] turns that into an explanation. Panics on a config that breaks its own
    /// rules.
    pub fn new(config: RingConfig) -> io::Result<Ring> {
        // Bytes received cannot overflow the queue: each completion holds a buffer until it is taken. What else is in
        // flight at once is mostly sends; the kernel keeps what does not fit, at a price, and it shows in the stats.
        let turns = config.entries.saturating_mul(CQ_TURNS);
        let cq_entries = turns.saturating_add(config.buf_count as u32).max(CQ_ENTRIES_MIN);
        Ring::with_room(config, cq_entries)
    }

    fn with_room(config: RingConfig, cq_entries: u32) -> io::Result<Ring> {
        let bufs = BufRing::new(config.buf_count, config.buf_len)?;
        let (ring, setup) = setup::build(config.entries, cq_entries)?;
        let queues = Queues::new(ring);
        bufs.register(queues.submitter(), buf_ring::GROUP)?;
        queues.submitter().register_iowq_max_workers(&mut [BLOCKING_WORKERS_MAX, UNBOUNDED_WORKERS_MAX])?;
        Ok(Ring {
            queues,
            flights: Flights::default(),
            bufs,
            datagrams: None,
            batch: VecDeque::with_capacity(cq_entries as usize),
            free_buffers: config.buf_count,
            parting: Vec::new(),
            setup,
            stats: RingStats::default(),
        })
    }

    /// Which setup the kernel took.
    pub fn setup(&self) -> Setup {
        self.setup
    }

    /// What this ring has done so far.
    pub fn stats(&self) -> RingStats {
        self.stats
    }

    /// Operations that have not ended, cancellations not counted.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Accepts connections until it is cancelled or fails: one [`Event::Accepted`] each.
    pub fn accept(&mut self, listener: BorrowedFd<'_>, token: u64) -> OpId {
        let entry = opcode::AcceptMulti::new(raw(listener)).flags(libc::SOCK_CLOEXEC).build();
        self.start_plain(Op::Accept, token, entry)
    }

    /// Receives until the stream ends, the buffers run out or it is cancelled: [`Event::Received`] or
    /// [`Event::Starved`] or [`Event::Cancelled`].
    pub fn recv(&mut self, fd: BorrowedFd<'_>, token: u64) -> OpId {
        let entry = opcode::RecvMulti::new(raw(fd), buf_ring::GROUP).build();
        self.start_plain(Op::Recv, token, entry)
    }

    /// As [`recv`](Ring::recv), but it ends by itself once `credit` bytes have come, rounded up to whole buffers; the
    /// event that reaches the credit says so with `more: false`. Where the kernel knows no such end, see
    /// [`keeps_credit`](Ring::keeps_credit), this is a plain receive.
    pub fn recv_up_to(&mut self, fd: BorrowedFd<'_>, token: u64, credit: u32) -> OpId {
        assert!(credit > 0, "no credit means no end to the kernel");
        let entry = opcode::RecvMulti::new(raw(fd), buf_ring::GROUP).build();
        let limit = if credit::is_kept() { credit::limited } else { |entry, _| entry };
        self.start_plain(Op::Recv, token, limit(entry, credit))
    }

    /// Whether [`recv_up_to`](Ring::recv_up_to) ends at its credit here: from kernel 6.17 on. The first call in a
    /// process tries it, which takes a millisecond.
    pub fn keeps_credit() -> bool {
        credit::is_kept()
    }

    /// Tells each time the descriptor becomes readable, until it is cancelled: [`Event::Ready`]. Drain it before
    /// waiting again, or the next time may not show.
    pub fn watch(&mut self, fd: BorrowedFd<'_>, token: u64) -> OpId {
        let entry = opcode::PollAdd::new(raw(fd), libc::POLLIN as u32).multi(true).build();
        self.start_plain(Op::Watch, token, entry)
    }

    /// Tells once that the descriptor can be written to, or that it has failed: [`Event::Ready`].
    pub fn watch_room(&mut self, fd: BorrowedFd<'_>, token: u64) -> OpId {
        let entry = opcode::PollAdd::new(raw(fd), libc::POLLOUT as u32).build();
        self.start_plain(Op::Watch, token, entry)
    }

    /// Sends the whole buffer: [`Event::Sent`]. Have one at a time in flight per connection; the kernel does not keep
    /// several in order.
    pub fn send(&mut self, fd: BorrowedFd<'_>, token: u64, buf: Vec<u8>) -> OpId {
        let len = kernel_len(buf.len());
        let entry = opcode::Send::new(raw(fd), buf.as_ptr(), len).flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL).build();
        self.start(Op::Send, token, Payload::Sent(buf), entry)
    }

    /// Writes a part of the buffer to `offset` in a file: [`Event::Written`]. The range is for writes that must be
    /// aligned in memory, which a buffer need not be.
    pub fn write(&mut self, fd: BorrowedFd<'_>, token: u64, buf: BytesMut, range: Range<usize>, offset: u64) -> OpId {
        let bytes = &buf[range];
        let entry = opcode::Write::new(raw(fd), bytes.as_ptr(), kernel_len(bytes.len())).offset(offset).build();
        self.start(Op::Write, token, Payload::Written(buf), entry)
    }

    /// Makes what has been written durable: [`Event::Synced`]. It covers the writes that have completed by now, not
    /// those in flight.
    pub fn fdatasync(&mut self, fd: BorrowedFd<'_>, token: u64) -> OpId {
        let entry = opcode::Fsync::new(raw(fd)).flags(FsyncFlags::DATASYNC).build();
        self.stats.punted_syncs += 1;
        self.start_plain(Op::Sync, token, entry)
    }

    /// Asks for an operation to end soon. It still ends with an event of its own, which may be a success that was
    /// faster. One that has ended already is left alone.
    pub fn cancel(&mut self, id: OpId) {
        if self.flights.get(id).is_some() {
            // A success says nothing that the operation's own end does not; without a completion it wakes nobody.
            let entry = opcode::AsyncCancel::new(id.user_data()).build().flags(squeue::Flags::SKIP_SUCCESS);
            let entry = entry.user_data(CANCELLATION);
            // SAFETY: a cancellation names no memory.
            unsafe { self.queues.push(entry) };
        }
    }

    /// Closes a descriptor after everything queued so far has been submitted. It does not end operations on it:
    /// `shutdown` or [`cancel`](Ring::cancel) does.
    pub fn close(&mut self, fd: OwnedFd) {
        self.parting.push(fd);
    }

    /// Submits what was started and waits until there is something to tell or the time is up; without a timeout, for
    /// ever. Returns at once if the last turn left events behind.
    ///
    /// A signal, or a cancellation that came too late, can end it early with nothing to tell. An error is one of the ring
    /// itself, such as `EBADF`, and is final.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        loop {
            self.bufs.publish();
            if let Some(datagrams) = &mut self.datagrams {
                datagrams.bufs.publish();
            }
            self.queues.fill();
            let told_all = self.batch.is_empty() && !self.queues.is_overfull();
            // Not asleep with descriptors that only wait for a submission to be closed.
            // The kernel would set a timer even for no time at all.
            let only_looks = timeout.is_some_and(|timeout| timeout.is_zero());
            let may_sleep = told_all && self.parting.is_empty() && !only_looks;
            let outcome = if may_sleep { self.queues.enter(1, timeout) } else { self.queues.enter(0, None) };
            self.stats.enters += 1;
            self.collect();
            match outcome {
                Ok(()) if self.queues.is_submitted() && (may_sleep || only_looks || !self.batch.is_empty()) => {
                    self.parting.clear();
                    return Ok(());
                }
                Ok(()) if self.queues.is_submitted() => {
                    self.parting.clear();
                }
                // The kernel has taken a part of the queue, so the next round gets further.
                Ok(()) => {}
                Err(err) if is_a_turn(&err) => return Ok(()),
                Err(err) => return Err(err),
            }
        }
    }

    /// The next thing that happened, until the turn is told.
    #[expect(clippy::should_implement_trait, reason = "the ring is used between two events, so it cannot be borrowed")]
    pub fn next(&mut self) -> Option<Event> {
        loop {
            let completion = self.batch.pop_front()?;
            if completion.user_data() == CANCELLATION {
                continue;
            }
            let event = self.translate(&completion);
            if event.is_some() {
                return event;
            }
            self.stats.stale += 1;
        }
    }

    /// The bytes that were received.
    pub fn lent(&self, lease: &Lease) -> &[u8] {
        self.bufs.lent(lease)
    }

    /// The bytes that were received, to be worked on in place.
    pub fn lent_mut(&mut self, lease: &mut Lease) -> &mut [u8] {
        self.bufs.lent_mut(lease, 0)
    }

    /// The bytes that were received and behind them [`SLACK`] more without meaning.
    pub fn lent_with_slack(&mut self, lease: &mut Lease) -> &mut [u8] {
        self.bufs.lent_mut(lease, SLACK)
    }

    /// Gives a buffer back. The kernel sees it at the next [`wait`](Ring::wait), before what is submitted there.
    pub fn release(&mut self, lease: Lease) {
        self.bufs.take_back(lease);
        self.free_buffers += 1;
    }

    /// Buffers that hold nothing and are not lent out.
    pub fn free_buffers(&self) -> usize {
        self.free_buffers
    }

    /// Starts an operation that works on no memory of ours.
    fn start_plain(&mut self, op: Op, token: u64, entry: squeue::Entry) -> OpId {
        self.start(op, token, Payload::None, entry)
    }

    /// Starts an operation; what memory the entry points to is in `payload`.
    fn start(&mut self, op: Op, token: u64, payload: Payload, entry: squeue::Entry) -> OpId {
        let id = self.flights.start(Flight { op, token, payload });
        // SAFETY: the entry points into the heap block of `payload`, to the header of `datagrams`, or to nothing. The block
        // is neither moved, freed nor lent until the flight lands, which is after its last completion; if that never
        // comes, `drop` leaks it. The header is on the heap, never changed, and freed or leaked as late as the block.
        unsafe { self.queues.push(entry.user_data(id.user_data())) };
        id
    }

    /// Takes the completions into the batch, all before any is acted upon: the kernel gets its room back early.
    fn collect(&mut self) {
        self.stats.cq_overflows += u64::from(self.queues.cq_overflows());
        let told = self.batch.len();
        self.queues.complete(&mut self.batch);
        let fresh = self.batch.range(told..);
        self.stats.completions += fresh.len() as u64;
        let filled = fresh.filter(|completion| cqueue::buffer_select(completion.flags()).is_some());
        self.free_buffers -= match self.datagrams {
            None => filled.count(),
            // Those have buffers of their own.
            Some(_) => filled.filter(|completion| !self.flights.is_of_datagrams(completion.user_data())).count(),
        };
    }
}

fn raw(fd: BorrowedFd<'_>) -> Fd {
    Fd(fd.as_raw_fd())
}

fn kernel_len(len: usize) -> u32 {
    // The kernel counts completions in an i32.
    assert!(len <= i32::MAX as usize, "one operation moves less than 2 GiB");
    len as u32
}

/// Waits that end without an event and are no fault: the time is up, a signal came, or the kernel wants its
/// completions taken before it gives more.
fn is_a_turn(err: &io::Error) -> bool {
    matches!(err.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN))
}

#[cfg(test)]
mod tests;
