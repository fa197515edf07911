//! A doorbell between threads: the descriptor behind a cross-thread inbox.
//!
//! It carries no message and counts none; it makes a ring or a poller return so that its thread looks into the inbox.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A non-blocking eventfd: readable from the first [`wake`](EventFd::wake) until the next [`drain`](EventFd::drain).
#[derive(Debug)]
pub struct EventFd {
    fd: OwnedFd,
}

impl EventFd {
    /// A doorbell nobody has rung.
    pub fn new() -> io::Result<EventFd> {
        // SAFETY: eventfd takes two integers and no memory of ours.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us and nobody else knows its number.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(EventFd { fd })
    }

    /// Rings, from any thread. Rings that nobody has answered yet are one ring.
    pub fn wake(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: eight initialised bytes are read, which is what an eventfd takes.
        let written = unsafe { libc::write(self.fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        // The one refusal is EAGAIN: 2^64 - 2 rings are unanswered, and the descriptor is readable already.
        debug_assert!(written == 8 || io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock);
    }

    /// Answers: true if it was rung since the last time. Drain first and look into the inbox after, or a ring that
    /// comes in between is lost.
    pub fn drain(&self) -> bool {
        let mut count = [0_u8; 8];
        // SAFETY: eight bytes of our own are written, which is what an eventfd gives.
        let read = unsafe { libc::read(self.fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        read == 8
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_rings_are_answered_once() {
        let bell = EventFd::new().unwrap();
        assert!(!bell.drain());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| bell.wake());
            }
        });
        assert!(bell.drain());
        assert!(!bell.drain());
    }
}
