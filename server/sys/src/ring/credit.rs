//! A receive with an end: how many bytes a multishot receive may bring before it stops by itself.
//!
//! Without it one connection that is sent much takes buffer after buffer, up to 33 in one turn; a cancellation comes
//! after the fact. The kernel can since 6.17, and the crate has no name for it yet.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::time::Duration;
use std::{io, io::Write};

use io_uring::{opcode, squeue};

use super::flight::Op;
use super::{Event, Ring, RingConfig, buf_ring, raw};

/// Where an entry has its `optlen`, next to `splice_fd_in` and `file_index` in one union of the kernel's
/// `struct io_uring_sqe`.
const OPTLEN_AT: usize = 44;

// The kernel's entry is 64 bytes and the crate wraps nothing around it.
const _: () = assert!(size_of::<squeue::Entry>() == 64 && OPTLEN_AT + size_of::<u32>() <= 64);
const _: () = assert!(align_of::<squeue::Entry>() >= align_of::<u32>() && OPTLEN_AT.is_multiple_of(align_of::<u32>()));

/// The same receive, ending after `credit` bytes, rounded up to whole buffers.
pub(super) fn limited(mut receive: squeue::Entry, credit: u32) -> squeue::Entry {
    let entry: *mut u8 = (&raw mut receive).cast();
    // SAFETY: the offset is inside the entry, as asserted above.
    let optlen: *mut u32 = unsafe { entry.add(OPTLEN_AT) }.cast();
    // SAFETY: the place is inside our own entry and aligned, and any number may stand there.
    unsafe { optlen.write(credit) };
    receive
}

/// Whether this kernel keeps to a credit: found out once per process, by using it.
pub(super) fn is_kept() -> bool {
    static KEPT: OnceLock<bool> = OnceLock::new();
    *KEPT.get_or_init(|| receive_limited().unwrap_or(false))
}

/// A kernel that does not know the field refuses it, because it has to be zero there.
fn receive_limited() -> io::Result<bool> {
    let mut ring = Ring::new(RingConfig { entries: 8, buf_count: 8, buf_len: 4096 })?;
    let (ours, mut theirs) = UnixStream::pair()?;
    theirs.write_all(b"x")?;
    let receive = opcode::RecvMulti::new(raw(ours.as_fd()), buf_ring::GROUP).build();
    ring.start_plain(Op::Recv, 0, limited(receive, 1));
    ring.wait(Some(Duration::from_secs(1)))?;
    let Some(Event::Received { result, more, .. }) = ring.next() else { return Ok(false) };
    Ok(result?.is_some() && !more)
}
