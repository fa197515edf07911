//! The buffers a ring receives into: lent to the kernel, which chooses one per completion, and given back by hand.
//!
//! A buffer has one owner at a time: the kernel, from `give` until the completion that names it; then the holder of
//! its [`Lease`], until that is given back. It never waits and never decides who may receive.

use std::io;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use crate::mapping::Mapping;

/// Bytes behind every buffer that the kernel never fills, so that code reading in wide steps may run past the end.
pub const SLACK: usize = 64;

/// The group of a ring's buffers for streams.
pub(super) const GROUP: u16 = 0;

/// The kernel's limit on the entries of one buffer ring.
const COUNT_MAX: usize = 32768;

// The kernel reads entries of 16 bytes and finds the tail where the first entry keeps its last two.
const _: () = assert!(size_of::<BufRingEntry>() == 16 && align_of::<BufRingEntry>() <= 8);
const _: () = assert!(size_of::<AtomicU16>() == size_of::<u16>() && align_of::<AtomicU16>() == align_of::<u16>());

/// A received buffer, on loan from the ring that received it: look at it with `lent`, give it back with `release`.
///
/// There is one lease per loan and it cannot be copied, so holding it proves that the kernel has let go of the buffer.
/// One that is dropped instead of released takes its buffer out of circulation for good.
#[must_use = "a lease that is not released is a buffer lost"]
#[derive(Debug)]
pub struct Lease {
    /// Which buffer ring: another one would find a buffer of its own under this number.
    home: u64,
    pub(super) bid: u16,
    len: u32,
}

impl Lease {
    /// How many bytes were received.
    #[expect(clippy::len_without_is_empty, reason = "an empty receive is the end of the stream and no lease")]
    pub fn len(&self) -> usize {
        self.len as usize
    }
}

pub(super) struct BufRing {
    /// The ring of entries, shared with the kernel: it reads entries up to the tail, we write beyond it.
    entries: Mapping,
    /// The buffers themselves, one after the other, `stride` apart.
    pool: Mapping,
    count: usize,
    stride: usize,
    /// Where the next buffer given back goes; the kernel sees it after `publish`.
    tail: u16,
    published: u16,
    home: u64,
}

impl BufRing {
    /// `count` buffers, a power of two, of `stride` bytes each, slack included; all given to the kernel.
    pub(super) fn new(count: usize, stride: usize) -> io::Result<BufRing> {
        assert!(count.is_power_of_two() && count <= COUNT_MAX, "{count} buffers: not a power of two up to {COUNT_MAX}");
        assert!(stride > SLACK && u32::try_from(stride).is_ok(), "{stride} bytes per buffer: no room beside the slack");
        // Counts the rings of the process; any thread may add, and the order means nothing.
        static HOMES: AtomicU64 = AtomicU64::new(0);
        let mut ring = BufRing {
            entries: Mapping::new(count * size_of::<BufRingEntry>())?,
            pool: Mapping::new(count * stride)?,
            count,
            stride,
            tail: 0,
            published: 0,
            home: HOMES.fetch_add(1, Ordering::Relaxed),
        };
        for bid in 0..count {
            ring.give(bid as u16);
        }
        ring.publish();
        Ok(ring)
    }

    /// Tells the kernel where the buffers are. They must stay there until no operation of that ring can use them.
    pub(super) fn register(&self, submitter: &Submitter<'_>, group: u16) -> io::Result<()> {
        let (address, count) = (self.entries.base() as u64, self.count as u16);
        // SAFETY: the entries are page-aligned, zeroed before use and `count` long, and each points to `stride - SLACK`
        // writable bytes of the pool. Both mappings live in this value, whose owner drops it after the ring, or leaks
        // it if the kernel has not let go.
        unsafe { submitter.register_buf_ring_with_flags(address, count, group, 0) }
    }

    /// The lease on a buffer that a completion names, with `len` bytes received.
    ///
    /// # Safety
    ///
    /// A completion of the ring these buffers are registered with has named `bid`, and no lease has been made for that
    /// completion yet: the buffer is no longer the kernel's, and nobody else's.
    pub(super) unsafe fn lease(&self, bid: u16, len: u32) -> Lease {
        assert!(usize::from(bid) < self.count, "the kernel names a buffer it was given");
        assert!(len as usize <= self.stride - SLACK, "the kernel fills no more than it was given");
        Lease { home: self.home, bid, len }
    }

    pub(super) fn lent(&self, lease: &Lease) -> &[u8] {
        let start = self.start_of(lease);
        // SAFETY: `start_of` gives the address of a buffer that is ours while the lease exists: the kernel gave it up
        // with the completion and gets it back only by `take_back`, which consumes the lease. The bytes are
        // initialised, by the kernel or as zeros by the mapping, and `len` is within the buffer.
        unsafe { std::slice::from_raw_parts(start, lease.len()) }
    }

    pub(super) fn lent_mut(&mut self, lease: &mut Lease, slack: usize) -> &mut [u8] {
        debug_assert!(slack <= SLACK);
        let start = self.start_of(lease);
        // SAFETY: as in `lent`; besides, `&mut self` and `&mut Lease` make this the only slice into the pool. `len` is at
        // most `stride - SLACK`, so the slack is inside the same buffer.
        unsafe { std::slice::from_raw_parts_mut(start, lease.len() + slack) }
    }

    pub(super) fn take_back(&mut self, lease: Lease) {
        assert_eq!(lease.home, self.home, "a lease goes back to the ring it came from");
        self.give(lease.bid);
    }

    /// Lets the kernel see everything given back since the last time.
    pub(super) fn publish(&mut self) {
        if self.tail == self.published {
            return;
        }
        let first: *const BufRingEntry = self.entries.base().cast();
        // SAFETY: `first` is the first entry of the ring, page-aligned and initialised.
        let tail = unsafe { BufRingEntry::tail(first) };
        // SAFETY: the tail is two aligned bytes inside the entries, alive as long as `self`. On our side only this store
        // touches them, and the kernel reads them atomically.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Release: the kernel must see the entries before the tail that covers them.
        tail.store(self.tail, Ordering::Release);
        self.published = self.tail;
    }

    /// Gives up the memory without freeing it, because the kernel may still write to it.
    pub(super) fn leak(&mut self) {
        self.entries.leak();
        self.pool.leak();
    }

    /// Hands a buffer that is ours to the kernel, from the next `publish` on.
    fn give(&mut self, bid: u16) {
        let index = usize::from(self.tail) & (self.count - 1);
        let address = self.buffer(bid) as u64;
        let entry: *mut BufRingEntry = self.entries.base().cast();
        // SAFETY: `index` is below `count`, the length of the mapping in entries.
        let entry = unsafe { entry.add(index) };
        // SAFETY: the entry is initialised, aligned and inside the mapping. It is not in the kernel's view: there are as
        // many entries as buffers and this buffer was ours, so the entry `count` before it has been consumed. The
        // setters write the address, the length and the number only, not the last field, which in entry 0 is the tail.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address);
        entry.set_len((self.stride - SLACK) as u32);
        entry.set_bid(bid);
        self.tail = self.tail.wrapping_add(1);
    }

    fn start_of(&self, lease: &Lease) -> *mut u8 {
        assert_eq!(lease.home, self.home, "a lease is good at the ring it came from");
        self.buffer(lease.bid)
    }

    fn buffer(&self, bid: u16) -> *mut u8 {
        let offset = usize::from(bid) * self.stride;
        debug_assert!(offset + self.stride <= self.pool.len());
        // SAFETY: `bid` is below `count`, so the offset is inside the pool, which is `count * stride` long.
        unsafe { self.pool.base().add(offset) }
    }
}
