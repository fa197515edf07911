//! Whether io_uring works here, found out by using it: a real ring, a real buffer ring, one byte through a socket.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use std::{fmt, fs};

use super::{Event, Ring, RingConfig};

/// Why io_uring cannot be used here. Printed, it is one sentence for whoever runs the server.
#[derive(Debug)]
pub enum Unavailable {
    /// Switched off for this process by the sysctl `kernel.io_uring_disabled`.
    Disabled {
        /// The value of that sysctl: 1 or 2.
        sysctl: u8,
    },
    /// The system call was refused, and not by the sysctl.
    Filtered,
    /// The kernel does not have the system call.
    Missing,
    /// The kernel has io_uring, but not all that a server needs of it.
    TooOld,
    /// The memory for a ring was refused.
    NoMemory,
    /// Everything was accepted and the byte did not arrive.
    Silent,
    /// Something else.
    Other(io::Error),
}

/// Receives one byte the way a server would, in about a millisecond, and cleans up.
pub fn probe() -> Result<(), Unavailable> {
    let arrived = receive_one_byte().map_err(|err| Unavailable::from_error(err, disabled_sysctl()))?;
    if arrived { Ok(()) } else { Err(Unavailable::Silent) }
}

fn receive_one_byte() -> io::Result<bool> {
    const BYTE: u8 = 0x2a;
    // Far beyond what a loaded machine needs for one byte.
    const PATIENCE: Duration = Duration::from_secs(2);

    let mut ring = Ring::new(RingConfig { entries: 8, buf_count: 8, buf_len: 4096 })?;
    let (ours, mut theirs) = UnixStream::pair()?;
    theirs.write_all(&[BYTE])?;
    ring.recv(ours.as_fd(), 0);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        ring.wait(Some(left))?;
        match ring.next() {
            Some(Event::Received { result, .. }) => {
                let Some(lease) = result? else { return Ok(false) };
                return Ok(ring.lent(&lease) == [BYTE]);
            }
            Some(_) => return Ok(false),
            None if left.is_zero() => return Ok(false),
            None => {}
        }
    }
}

/// The value of `kernel.io_uring_disabled`; 0 on kernels that do not have it, because there nothing is disabled by it.
fn disabled_sysctl() -> u8 {
    let text = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

impl Unavailable {
    fn from_error(err: io::Error, sysctl: u8) -> Unavailable {
        match err.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) if sysctl > 0 => Unavailable::Disabled { sysctl },
            Some(libc::EPERM | libc::EACCES) => Unavailable::Filtered,
            Some(libc::ENOSYS) => Unavailable::Missing,
            // A flag, an operation or a register call this kernel does not know.
            Some(libc::EINVAL | libc::EOPNOTSUPP) => Unavailable::TooOld,
            Some(libc::ENOMEM) => Unavailable::NoMemory,
            _ => Unavailable::Other(err),
        }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unavailable::Disabled { sysctl: 1 } => f.write_str(
                "EPERM: kernel.io_uring_disabled is 1, so io_uring needs CAP_SYS_ADMIN or membership in \
                 kernel.io_uring_group; `sysctl kernel.io_uring_disabled=0` opens it to everyone",
            ),
            Unavailable::Disabled { sysctl } => write!(
                f,
                "EPERM: kernel.io_uring_disabled is {sysctl}, so no process may use io_uring; \
                 `sysctl kernel.io_uring_disabled=0` allows it",
            ),
            Unavailable::Filtered => f.write_str(
                "EPERM: a seccomp filter or security module blocks io_uring, as the defaults of Docker and containerd do; \
                 allow io_uring_setup, io_uring_enter and io_uring_register in the container's profile",
            ),
            Unavailable::Missing => {
                f.write_str("ENOSYS: this kernel was built without io_uring, or a sandbox such as gVisor hides it")
            }
            Unavailable::TooOld => {
                f.write_str("EINVAL: this kernel lacks multishot receive with buffer rings; it takes Linux 6.0 or newer")
            }
            Unavailable::NoMemory => f.write_str(
                "ENOMEM: the memory for a ring was refused; raise the locked-memory limit (ulimit -l) or the \
                 container's memory limit",
            ),
            Unavailable::Silent => {
                f.write_str("a ring was set up, but a byte sent through a socket did not come out of it within 2 s")
            }
            Unavailable::Other(cause) => write!(f, "io_uring failed its self-test: {cause}"),
        }
    }
}

impl std::error::Error for Unavailable {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_names_its_errno_and_what_to_do() {
        for (errno, sysctl, words) in [
            (libc::EPERM, 0, ["EPERM", "seccomp"]),
            (libc::EPERM, 1, ["kernel.io_uring_disabled is 1", "kernel.io_uring_group"]),
            (libc::EPERM, 2, ["kernel.io_uring_disabled is 2", "kernel.io_uring_disabled=0"]),
            (libc::EACCES, 0, ["EPERM", "seccomp"]),
            (libc::ENOSYS, 0, ["ENOSYS", "built without io_uring"]),
            (libc::EINVAL, 0, ["EINVAL", "6.0 or newer"]),
            (libc::ENOMEM, 0, ["ENOMEM", "ulimit -l"]),
            (libc::EMFILE, 0, ["self-test", "Too many open files"]),
        ] {
            let sentence = Unavailable::from_error(io::Error::from_raw_os_error(errno), sysctl).to_string();
            assert!(words.iter().all(|word| sentence.contains(word)), "errno {errno}: {sentence}");
        }
    }

    #[test]
    fn the_sysctl_counts_only_where_it_refuses() {
        let other = Unavailable::from_error(io::Error::from_raw_os_error(libc::ENOSYS), 2);
        assert!(matches!(other, Unavailable::Missing));
    }
}
