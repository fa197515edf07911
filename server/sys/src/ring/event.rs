//! What a ring has to tell.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use bytes::BytesMut;
use io_uring::cqueue;

use super::flight::{Op, Payload};
use super::{DatagramLease, Lease, OpId, Ring};

/// One completion, translated. `token` is the caller's own, from when the operation was started.
///
/// Where there is a `more`, it says that the same operation goes on; without it, it has ended and its [`OpId`] names
/// nothing any more. A cancelled receive ends with [`Event::Cancelled`] and other operations with the error `ECANCELED`,
/// or as always if they finished first.
#[derive(Debug)]
pub enum Event {
    /// From `accept`: a connection, or why there is none.
    Accepted {
        /// The listener's.
        token: u64,
        /// The connection; close-on-exec, with the options it inherits from the listener.
        result: io::Result<OwnedFd>,
        /// Whether the listener is still being accepted from.
        more: bool,
    },
    /// From `recv`: bytes, `None` at the end of the stream, or an error.
    Received {
        /// The connection's.
        token: u64,
        /// The bytes are on loan; see [`Lease`].
        result: io::Result<Option<Lease>>,
        /// Whether the receive is still armed. It can end with bytes, too, as when the kernel ran out of room for
        /// completions; the stream then goes on with the next receive.
        more: bool,
    },
    /// From `recv` and `recv_datagrams`: it has ended because there was no free buffer. Nothing is lost. Arm it again
    /// once buffers have been released; without any the kernel refuses at once, even if there is nothing to read.
    Starved {
        /// The connection's.
        token: u64,
    },
    /// From `recv` and `recv_datagrams`: it has ended because it was cancelled. Nothing is lost.
    Cancelled {
        /// The connection's.
        token: u64,
    },
    /// From `recv_datagrams`: a datagram, or why there will be no more.
    Datagram {
        /// The socket's.
        token: u64,
        /// It is on loan; see [`DatagramLease`].
        result: io::Result<DatagramLease>,
        /// Whether the receive is still armed. It ends with an empty datagram, too.
        more: bool,
    },
    /// From `send`: all was taken, or the connection is broken.
    Sent {
        /// The connection's.
        token: u64,
        /// What was sent, back from the kernel.
        buf: Vec<u8>,
        /// An error if not all of it was taken; how much the peer got is then unknown.
        result: io::Result<()>,
    },
    /// From `write`.
    Written {
        /// The file's.
        token: u64,
        /// What was written from, back from the kernel.
        buf: BytesMut,
        /// How many bytes of the range were written: fewer than asked for is possible, as on a full disk.
        result: io::Result<usize>,
    },
    /// From `fdatasync`.
    Synced {
        /// The file's.
        token: u64,
        /// Whether everything written before is on the disk.
        result: io::Result<()>,
    },
    /// From `watch`: the descriptor became readable, or the watch has ended. From `watch_room`: it can be written to.
    Ready {
        /// The descriptor's.
        token: u64,
        /// Whether it is still watched.
        more: bool,
    },
}

impl Ring {
    /// The event of a completion; none if it belongs to nothing in flight.
    pub(super) fn translate(&mut self, completion: &cqueue::Entry) -> Option<Event> {
        let id = OpId::from_user_data(completion.user_data());
        let result = outcome(completion.result());
        let more = cqueue::more(completion.flags());
        let bid = cqueue::buffer_select(completion.flags());
        let flight = self.flights.get(id)?;
        let (op, token) = (flight.op, flight.token);
        let payload = if more { Payload::None } else { self.flights.land(id)?.payload };
        Some(match op {
            Op::Accept => {
                self.stats.multishots_ended += u64::from(result.is_ok() && !more);
                Event::Accepted { token, result: result.map(take_fd), more }
            }
            Op::Recv => self.received(token, result, bid, more),
            Op::RecvDatagrams => self.received_datagram(token, result, bid, more),
            Op::Watch => Event::Ready { token, more },
            Op::Send => {
                let Payload::Sent(buf) = payload else { unreachable!("a send has what it sends") };
                let sent_all =
                    result.and_then(|sent| if sent as usize == buf.len() { Ok(()) } else { Err(cut_short()) });
                Event::Sent { token, buf, result: sent_all }
            }
            Op::Write => {
                let Payload::Written(buf) = payload else { unreachable!("a write has what it writes") };
                Event::Written { token, buf, result: result.map(|written| written as usize) }
            }
            Op::Sync => Event::Synced { token, result: result.map(drop) },
        })
    }

    /// A receive's event. It is called once per completion, in the order they came.
    pub(super) fn received(&mut self, token: u64, result: io::Result<u32>, bid: Option<u16>, more: bool) -> Event {
        let len = *result.as_ref().unwrap_or(&0);
        assert!(len == 0 || bid.is_some(), "received bytes come in a buffer");
        // SAFETY: the buffer is named by the completion in hand, and every completion passes here once.
        let lease = bid.map(|bid| unsafe { self.bufs.lease(bid, len) });
        match (result, lease) {
            (Ok(1..), Some(lease)) => {
                self.stats.multishots_ended += u64::from(!more);
                Event::Received { token, result: Ok(Some(lease)), more }
            }
            (other, lease) => {
                // The end of the stream and errors can come with a buffer, which nobody else would give back.
                if let Some(lease) = lease {
                    self.release(lease);
                }
                self.ended(token, other, more)
            }
        }
    }

    fn ended(&mut self, token: u64, result: io::Result<u32>, more: bool) -> Event {
        match result {
            Err(err) if err.raw_os_error() == Some(libc::ENOBUFS) => {
                self.stats.enobufs += 1;
                Event::Starved { token }
            }
            Err(err) if err.raw_os_error() == Some(libc::ECANCELED) => Event::Cancelled { token },
            other => Event::Received { token, result: other.map(|_| None), more },
        }
    }
}

/// A completion's result: what was done, or which errno.
fn outcome(result: i32) -> io::Result<u32> {
    u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

fn take_fd(number: u32) -> OwnedFd {
    // SAFETY: an accept completed with this descriptor: it is new, and this is the one place that hears of it.
    unsafe { OwnedFd::from_raw_fd(number as i32) }
}

/// MSG_WAITALL makes the kernel go on until all is sent, so fewer bytes than asked mean that it could not.
fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::WriteZero, "the connection broke while sending")
}
