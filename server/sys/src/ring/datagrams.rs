//! Receiving datagrams: one operation brings them until it is cancelled, each into a buffer of its own.
//!
//! The buffers are a group apart from those of streams: a datagram takes a whole buffer, however short it is, so a flood
//! of short ones would take all of them from the streams.

use std::io;
use std::os::fd::BorrowedFd;
use std::{mem, ptr};

use io_uring::opcode;
use io_uring::types::RecvMsgOut;

use super::buf_ring::{BufRing, Lease, SLACK};
use super::flight::Op;
use super::{Event, OpId, Ring, raw};
use crate::datagram::{CONTROL_LEN, Datagram, drop_count_in};

/// A received datagram, on loan from the ring that received it: look at it with `datagram`, give it back with
/// `release_datagram`.
#[must_use = "a lease that is not released is a buffer lost"]
#[derive(Debug)]
pub struct DatagramLease(Lease);

/// What a ring has if it receives datagrams.
pub(super) struct Datagrams {
    pub(super) bufs: BufRing,
    /// What the kernel is told about the parts of a buffer. Whether it reads this once, when it takes the operation, is
    /// a matter of its version; so it lives as long as the buffers.
    header: Box<libc::msghdr>,
}

impl Datagrams {
    /// Gives up what the kernel may still look at, without freeing it.
    pub(super) fn leak(mut self) {
        self.bufs.leak();
        mem::forget(self.header);
    }
}

impl Ring {
    /// Makes `count` buffers, a power of two, for datagrams of at most `len_max` bytes.
    pub fn add_datagram_buffers(&mut self, count: usize, len_max: usize) -> io::Result<()> {
        assert!(self.datagrams.is_none(), "a ring has one group of buffers for datagrams");
        let bufs = BufRing::new(count, OVERHEAD + len_max + SLACK)?;
        bufs.register(self.queues.submitter(), GROUP)?;
        // SAFETY: of this struct, which is numbers and addresses, zeros are a value.
        let mut header: Box<libc::msghdr> = Box::new(unsafe { mem::zeroed() });
        header.msg_controllen = CONTROL_LEN;
        self.datagrams = Some(Datagrams { bufs, header });
        Ok(())
    }

    /// Receives datagrams until it fails, the buffers for them run out or it is cancelled: [`Event::Datagram`] or
    /// [`Event::Starved`]. Panics on a ring without buffers for them.
    pub fn recv_datagrams(&mut self, fd: BorrowedFd<'_>, token: u64) -> OpId {
        let datagrams = self.datagrams.as_ref().expect("there are buffers for datagrams");
        let header = ptr::from_ref(&*datagrams.header);
        let entry = opcode::RecvMsgMulti::new(raw(fd), header, GROUP).build();
        self.start_plain(Op::RecvDatagrams, token, entry)
    }

    /// What was received.
    pub fn datagram(&self, lease: &DatagramLease) -> Datagram<'_> {
        let datagrams = self.datagrams.as_ref().expect("a lease comes from a ring with buffers for datagrams");
        let filled = datagrams.bufs.lent(&lease.0);
        let parts = RecvMsgOut::parse(filled, &datagrams.header);
        let parts = parts.expect("a datagram that has no room for its parts is no lease");
        Datagram {
            bytes: &filled[OVERHEAD..],
            is_cut: parts.is_payload_truncated(),
            drop_count: drop_count_in(parts.control_data()),
        }
    }

    /// Gives a buffer back. The kernel sees it at the next [`wait`](Ring::wait), before what is submitted there.
    pub fn release_datagram(&mut self, lease: DatagramLease) {
        let datagrams = self.datagrams.as_mut().expect("a lease comes from a ring with buffers for datagrams");
        datagrams.bufs.take_back(lease.0);
    }

    /// A receive's event. It is called once per completion, in the order they came.
    pub(super) fn received_datagram(
        &mut self,
        token: u64,
        result: io::Result<u32>,
        bid: Option<u16>,
        more: bool,
    ) -> Event {
        let len = *result.as_ref().unwrap_or(&0);
        let bufs = &self.datagrams.as_ref().expect("datagrams are received by a ring with buffers for them").bufs;
        // SAFETY: the buffer is named by the completion in hand, and every completion passes here once.
        let lease = bid.map(|bid| DatagramLease(unsafe { bufs.lease(bid, len) }));
        match (result, lease) {
            (Ok(len), Some(lease)) if len as usize >= OVERHEAD => {
                self.stats.multishots_ended += u64::from(!more);
                Event::Datagram { token, result: Ok(lease), more }
            }
            (other, lease) => {
                // An error can come with a buffer, which nobody else would give back.
                lease.into_iter().for_each(|lease| self.release_datagram(lease));
                match other {
                    Err(err) if err.raw_os_error() == Some(libc::ENOBUFS) => {
                        self.stats.enobufs += 1;
                        Event::Starved { token }
                    }
                    Err(err) if err.raw_os_error() == Some(libc::ECANCELED) => Event::Cancelled { token },
                    Err(err) => Event::Datagram { token, result: Err(err), more },
                    Ok(_) => {
                        let reason = "the kernel received a datagram without saying where its parts are";
                        Event::Datagram { token, result: Err(io::Error::other(reason)), more }
                    }
                }
            }
        }
    }
}

/// The group of a ring's buffers for datagrams.
const GROUP: u16 = 1;
/// What lies before a datagram in its buffer: `struct io_uring_recvmsg_out`, four numbers of 32 bits; no address; and the
/// control messages.
const OVERHEAD: usize = 16 + CONTROL_LEN;
