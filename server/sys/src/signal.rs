//! The signals that end a server or make it look again, as something to wait for.
//!
//! Nothing runs inside a signal handler but one write of one byte. What a signal means is decided elsewhere.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use signal_hook::SigId;
use signal_hook::low_level;

/// The stream of signals this process has been sent since this was made.
///
/// Each arrival is one item, so that a second Ctrl-C is seen as a second one.
#[derive(Debug)]
pub struct Signals {
    arrivals: UnixStream,
    handler_end: UnixStream,
    handlers: Vec<SigId>,
}

/// A signal that was sent to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: a supervisor asks for the end.
    Terminate,
    /// SIGINT: somebody pressed Ctrl-C.
    Interrupt,
    /// SIGHUP: the terminal is gone, or somebody asks to look at files again.
    Hangup,
}

/// Sends SIGPROF to the calling thread, and returns when its handler has run. Without a handler it ends the process.
pub fn raise_profile() -> io::Result<()> {
    low_level::raise(libc::SIGPROF)
}

impl Signals {
    /// Takes over SIGTERM, SIGINT and SIGHUP for the whole process, until this is dropped; from then on they are
    /// ignored.
    pub fn new() -> io::Result<Signals> {
        let mut signals = Signals::none()?;
        signals.take_over(&Signal::ALL)?;
        Ok(signals)
    }

    /// Takes over no signal yet.
    pub fn none() -> io::Result<Signals> {
        let (arrivals, handler_end) = UnixStream::pair()?;
        arrivals.set_nonblocking(true)?;
        Ok(Signals { arrivals, handler_end, handlers: Vec::with_capacity(Signal::ALL.len()) })
    }

    /// Takes over these as well. What arrives from then on waits to be taken.
    pub fn take_over(&mut self, signals: &[Signal]) -> io::Result<()> {
        for &signal in signals {
            self.handlers.push(note_arrivals(signal, self.handler_end.try_clone()?)?);
        }
        Ok(())
    }

    /// The earliest signal not yet taken, if there is one.
    pub fn take(&self) -> Option<Signal> {
        let mut number = [0_u8];
        // The handlers hold the other end open, so the one failure is that nothing is there.
        (&self.arrivals).read_exact(&mut number).ok()?;
        Signal::ALL.into_iter().find(|signal| signal.byte() == number[0])
    }

    /// Waits for a signal: `None` when the time is up. Without a timeout it waits for ever.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<Option<Signal>> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if let Some(signal) = self.take() {
                return Ok(Some(signal));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            self.sleep(left)?;
        }
    }

    fn sleep(&self, left: Option<Duration>) -> io::Result<()> {
        // Rounded up: rounded down, the last millisecond would be a busy loop.
        let left_ms = left.map_or(-1, |left| i32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
        let mut entry = libc::pollfd { fd: self.arrivals.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: `entry` is one pollfd of our own that lives through the call.
        if unsafe { libc::poll(&mut entry, 1, left_ms) } >= 0 {
            return Ok(());
        }
        let err = io::Error::last_os_error();
        if err.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(err) }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            low_level::unregister(handler);
        }
    }
}

impl Signal {
    const ALL: [Signal; 3] = [Signal::Terminate, Signal::Interrupt, Signal::Hangup];

    fn number(self) -> libc::c_int {
        match self {
            Signal::Terminate => libc::SIGTERM,
            Signal::Interrupt => libc::SIGINT,
            Signal::Hangup => libc::SIGHUP,
        }
    }

    /// What the handler writes: the number, which is below 32 for all of them.
    fn byte(self) -> u8 {
        self.number() as u8
    }
}

fn note_arrivals(signal: Signal, arrivals: UnixStream) -> io::Result<SigId> {
    let byte = signal.byte();
    let handler = move || {
        // If the socket is full, hundreds of signals are waiting to be taken and one more says nothing new.
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: one initialised byte of the closure's own is read, and the closure keeps the descriptor open.
        unsafe { libc::send(arrivals.as_raw_fd(), (&raw const byte).cast(), 1, flags) };
    };
    // SAFETY: the handler makes one system call, send(2), which is on the list of async-signal-safe functions; it
    // neither allocates, locks nor panics. The errno it may change is saved around handlers by signal-hook.
    unsafe { low_level::register(signal.number(), handler) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Signals belong to the process, and tests share one.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn signals_are_taken_one_by_one_in_the_order_they_came() {
        let _alone = ALONE.lock().unwrap();
        let signals = Signals::new().unwrap();
        assert_eq!(signals.wait(Some(Duration::ZERO)).unwrap(), None);
        for number in [libc::SIGTERM, libc::SIGINT, libc::SIGINT, libc::SIGHUP] {
            low_level::raise(number).unwrap();
        }
        let expected = [Signal::Terminate, Signal::Interrupt, Signal::Interrupt, Signal::Hangup];
        for signal in expected {
            assert_eq!(signals.wait(None).unwrap(), Some(signal));
        }
        assert_eq!(signals.take(), None);
    }

    #[test]
    fn what_arrives_before_the_others_are_taken_over_is_still_there_afterwards() {
        let _alone = ALONE.lock().unwrap();
        let mut signals = Signals::none().unwrap();
        signals.take_over(&[Signal::Hangup]).unwrap();
        low_level::raise(libc::SIGHUP).unwrap();
        signals.take_over(&[Signal::Terminate, Signal::Interrupt]).unwrap();
        low_level::raise(libc::SIGTERM).unwrap();
        assert_eq!(
            [signals.take(), signals.take(), signals.take()],
            [Some(Signal::Hangup), Some(Signal::Terminate), None]
        );
    }

    #[test]
    fn a_wait_ends_with_its_timeout_or_with_a_signal_from_another_thread() {
        let _alone = ALONE.lock().unwrap();
        let signals = Signals::new().unwrap();
        let start = Instant::now();
        assert_eq!(signals.wait(Some(Duration::from_millis(20))).unwrap(), None);
        assert!(start.elapsed() >= Duration::from_millis(20));

        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                low_level::raise(libc::SIGTERM).unwrap();
            });
            assert_eq!(signals.wait(None).unwrap(), Some(Signal::Terminate));
        });
    }

    #[test]
    fn more_signals_than_the_socket_holds_do_not_block_the_sender() {
        let _alone = ALONE.lock().unwrap();
        let signals = Signals::new().unwrap();
        for _ in 0..5000 {
            low_level::raise(libc::SIGHUP).unwrap();
        }
        assert_eq!(signals.take(), Some(Signal::Hangup));
    }
}
