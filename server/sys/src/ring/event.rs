//! What a ring has to tell.

use std::io;
use std::os::fd::OwnedFd;

use super::Lease;

/// One completion, translated. `token` is the caller's own, from when the operation was started.
///
/// Where there is a `more`, it says that the same operation goes on; without it, it has ended and its [`OpId`] names
/// nothing any more. A cancelled operation ends with the error `ECANCELED`, or without one if it finished first.
///
/// [`OpId`]: super::OpId
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
    /// From `recv`: it has ended because the ring had no free buffer. Nothing is lost. Arm it again once buffers have
    /// been released; on an empty ring the kernel refuses at once, even if there is nothing to read.
    Starved {
        /// The connection's.
        token: u64,
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
        buf: Vec<u8>,
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
    /// From `watch`: the descriptor became readable, or the watch has ended.
    Ready {
        /// The descriptor's.
        token: u64,
        /// Whether it is still watched.
        more: bool,
    },
}
