//! Whether a descriptor takes bytes without making its writer wait. It writes nothing itself.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// As much as a pipe that is said to have room takes in one piece and without waiting.
pub const PIECE_MAX: usize = libc::PIPE_BUF;

/// Waits at most so long until the descriptor has room for [`PIECE_MAX`] bytes; whether it has. One whose reader is gone
/// has, because a write to it fails at once.
pub fn has_room(fd: BorrowedFd<'_>, patience: Duration) -> bool {
    let patience_ms = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: `entry` is one pollfd of our own that lives through the call, and the borrow keeps the descriptor open.
    match unsafe { libc::poll(&mut entry, 1, patience_ms) } {
        0 => false,
        1.. => true,
        // A signal came. Whoever waits has waited for a part of it, and is not made to wait for all of it again.
        _ => {
            let is_interrupted = io::Error::last_os_error().kind() == io::ErrorKind::Interrupted;
            is_interrupted && patience_ms > 0 && has_room(fd, Duration::ZERO)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    #[test]
    fn a_pipe_has_room_until_it_is_full_and_again_when_its_reader_is_gone() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut pieces = 0;
        while has_room(writer.as_fd(), Duration::ZERO) {
            writer.write_all(&[b'x'; PIECE_MAX]).unwrap();
            pieces += 1;
        }
        assert!(pieces > 0);
        assert!(!has_room(writer.as_fd(), Duration::from_millis(5)));
        drop(reader);
        assert!(has_room(writer.as_fd(), Duration::ZERO));
    }
}
