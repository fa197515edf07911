//! Readiness by epoll, level-triggered: which descriptors can be read or written now.
//!
//! It reads and writes nothing itself and keeps no descriptor open.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

/// A set of watched descriptors, each with the caller's token.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
    /// Filled by the kernel; never longer than its capacity, which is the bound of one turn.
    raw: Vec<libc::epoll_event>,
    clock: Clock,
}

/// What to be told about. Hang-ups and errors are always reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// That there is something to read, or the peer has finished sending.
    pub read: bool,
    /// That there is room to write.
    pub write: bool,
}

/// What one descriptor is ready for. Level-triggered: it is told again until it is no longer so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// The token it was added with.
    pub token: u64,
    /// A read will not block: it has bytes, the end of the stream, or an error to give.
    pub readable: bool,
    /// A write will not block.
    pub writable: bool,
    /// Both directions are finished, or the socket has failed.
    pub hangup: bool,
}

/// How fine the kernel's timeout is.
#[derive(Debug, Clone, Copy)]
enum Clock {
    /// epoll_pwait2, from 5.11 on: nanoseconds, as with io_uring, so that a comparison does not measure rounding.
    Fine,
    /// epoll_wait: milliseconds.
    Coarse,
}

impl Interest {
    /// Reading only.
    pub const READ: Interest = Interest { read: true, write: false };
    /// Writing only.
    pub const WRITE: Interest = Interest { read: false, write: true };
    /// Both.
    pub const BOTH: Interest = Interest { read: true, write: true };
    /// Neither: hang-ups and errors only.
    pub const NONE: Interest = Interest { read: false, write: false };
}

impl Poller {
    /// An empty set that reports at most `events_max` descriptors in one turn.
    pub fn with_capacity(events_max: usize) -> io::Result<Poller> {
        assert!((1..=i32::MAX as usize).contains(&events_max), "a turn reports at least one descriptor");
        // SAFETY: epoll_create1 takes one integer.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us and nobody else knows its number.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Poller { epoll, raw: Vec::with_capacity(events_max), clock: Clock::Fine })
    }

    /// An empty set that reports at most 1024 descriptors in one turn.
    pub fn new() -> io::Result<Poller> {
        Poller::with_capacity(1024)
    }

    /// Watches a descriptor. Its last close ends the watch; [`remove`](Poller::remove) is for when it stays open.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    /// Changes what a watched descriptor is watched for, or its token.
    pub fn modify(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest)
    }

    /// Stops watching a descriptor. Readiness already handed out may still name its token.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, Interest::NONE)
    }

    /// Waits until something is ready or the time is up, and replaces the contents of `ready` with what is.
    ///
    /// An interrupted wait is an empty one.
    pub fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<Readiness>) -> io::Result<()> {
        ready.clear();
        self.raw.clear();
        let mut count = self.poll(timeout);
        if let (Err(err), Clock::Fine) = (&count, self.clock) {
            // Seccomp filters of the age that blocks io_uring often do not know this call either.
            if matches!(err.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) {
                self.clock = Clock::Coarse;
                count = self.poll(timeout);
            }
        }
        let count = match count {
            Err(err) if err.kind() == io::ErrorKind::Interrupted => 0,
            other => other?,
        };
        // SAFETY: the kernel has filled the first `count` entries, and `count` is at most the capacity it was told.
        unsafe { self.raw.set_len(count) };
        ready.extend(self.raw.iter().map(readiness));
        Ok(())
    }

    fn poll(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let (epoll, events, room) = (self.epoll.as_raw_fd(), self.raw.as_mut_ptr(), self.raw.capacity() as libc::c_int);
        let count = match self.clock {
            Clock::Fine => {
                let timespec = timeout.map(timespec);
                let timespec = timespec.as_ref().map_or(ptr::null(), ptr::from_ref);
                let no_mask = ptr::null::<libc::sigset_t>();
                // SAFETY: `events` has room for `room` entries, the timespec lives through the call, and without a
                // mask its size is not looked at.
                unsafe { libc::syscall(libc::SYS_epoll_pwait2, epoll, events, room, timespec, no_mask, 0) }
            }
            Clock::Coarse => {
                let timeout = timeout.map_or(-1, whole_ms);
                // SAFETY: `events` has room for `room` entries.
                libc::c_long::from(unsafe { libc::epoll_wait(epoll, events, room, timeout) })
            }
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    fn control(&self, operation: libc::c_int, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest.bits(), u64: token };
        // SAFETY: `event` lives through the call; the kernel copies it and keeps no address.
        let outcome = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd.as_raw_fd(), &mut event) };
        if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Interest {
    fn bits(self) -> u32 {
        let read = if self.read { libc::EPOLLIN | libc::EPOLLRDHUP } else { 0 };
        let write = if self.write { libc::EPOLLOUT } else { 0 };
        (read | write) as u32
    }
}

fn readiness(event: &libc::epoll_event) -> Readiness {
    // Copied out first: the kernel packs this struct on x86-64, so its fields cannot be borrowed.
    let (bits, token) = (event.events as i32, event.u64);
    let hangup = bits & (libc::EPOLLHUP | libc::EPOLLERR) != 0;
    Readiness {
        token,
        readable: hangup || bits & (libc::EPOLLIN | libc::EPOLLRDHUP) != 0,
        writable: bits & libc::EPOLLOUT != 0,
        hangup,
    }
}

fn timespec(duration: Duration) -> libc::timespec {
    let tv_sec = libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX);
    libc::timespec { tv_sec, tv_nsec: libc::c_long::from(duration.subsec_nanos() as i32) }
}

/// Rounded up: rounded down, a wait for the last half millisecond would spin.
fn whole_ms(duration: Duration) -> libc::c_int {
    libc::c_int::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    const NOW: Option<Duration> = Some(Duration::ZERO);

    fn ready(poller: &mut Poller, timeout: Option<Duration>) -> Vec<Readiness> {
        let mut ready = Vec::new();
        poller.wait(timeout, &mut ready).unwrap();
        ready
    }

    #[test]
    fn a_socket_is_readable_until_it_is_read() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let mut poller = Poller::new().unwrap();
        poller.add(ours.as_fd(), 7, Interest::READ).unwrap();
        assert_eq!(ready(&mut poller, NOW), []);

        theirs.write_all(b"x").unwrap();
        let expected = [Readiness { token: 7, readable: true, writable: false, hangup: false }];
        assert_eq!(ready(&mut poller, None), expected);
        assert_eq!(ready(&mut poller, None), expected, "level-triggered: told again");

        ours.read_exact(&mut [0]).unwrap();
        assert_eq!(ready(&mut poller, NOW), []);
    }

    #[test]
    fn interest_and_token_can_be_changed_and_taken_back() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut poller = Poller::new().unwrap();
        poller.add(ours.as_fd(), 1, Interest::READ).unwrap();
        poller.modify(ours.as_fd(), 2, Interest::BOTH).unwrap();
        let expected = [Readiness { token: 2, readable: false, writable: true, hangup: false }];
        assert_eq!(ready(&mut poller, None), expected);
        poller.remove(ours.as_fd()).unwrap();
        assert_eq!(ready(&mut poller, NOW), []);
        assert!(poller.remove(ours.as_fd()).is_err());
    }

    #[test]
    fn half_a_close_reads_as_the_end_and_a_whole_one_as_a_hangup() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut poller = Poller::new().unwrap();
        poller.add(ours.as_fd(), 1, Interest::READ).unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        assert_eq!(ready(&mut poller, None), [Readiness { token: 1, readable: true, writable: false, hangup: false }]);
        drop(theirs);
        assert_eq!(ready(&mut poller, None), [Readiness { token: 1, readable: true, writable: false, hangup: true }]);
    }

    #[test]
    fn one_turn_reports_no_more_than_its_capacity_and_the_next_the_rest() {
        let pairs: Vec<_> = (0..5).map(|_| UnixStream::pair().unwrap()).collect();
        let mut poller = Poller::with_capacity(3).unwrap();
        for (token, (ours, _)) in pairs.iter().enumerate() {
            poller.add(ours.as_fd(), token as u64, Interest::WRITE).unwrap();
        }
        let mut seen: Vec<u64> = Vec::new();
        for _ in 0..2 {
            let turn = ready(&mut poller, None);
            assert_eq!(turn.len(), 3);
            seen.extend(turn.iter().map(|readiness| readiness.token));
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn both_clocks_keep_to_the_timeout() {
        let mut poller = Poller::new().unwrap();
        for clock in [Clock::Fine, Clock::Coarse] {
            poller.clock = clock;
            let start = Instant::now();
            assert_eq!(ready(&mut poller, Some(Duration::from_micros(2500))), []);
            assert!(start.elapsed() >= Duration::from_micros(2500), "{clock:?} was early");
        }
        assert_eq!(whole_ms(Duration::from_nanos(1)), 1);
        assert_eq!(whole_ms(Duration::MAX), libc::c_int::MAX);
    }
}
