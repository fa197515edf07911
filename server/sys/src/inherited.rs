//! Sockets that whoever started this process had opened for it, as sd_listen_fds(3) describes: `LISTEN_FDS`,
//! `LISTEN_PID`, `LISTEN_FDNAMES`.
//!
//! They are somebody else's as well: closing one here closes no port, and what the kernel has queued on it is there for
//! whoever is started next. It binds nothing and decides nothing.

use std::env;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, SockRef, Type};

/// What was passed on, in its order.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Sockets that listen.
    pub listeners: Vec<TcpListener>,
    /// Sockets for datagrams.
    pub datagrams: Vec<UdpSocket>,
}

impl Inherited {
    /// Takes what the environment says was passed to this process. To be called once, before anything else opens a
    /// descriptor; the second time there is nothing.
    ///
    /// # Errors
    /// A sentence: the environment contradicts itself, or something is no socket that a server could use.
    pub fn take() -> io::Result<Inherited> {
        static TAKEN: AtomicBool = AtomicBool::new(false); // Written and read by whoever calls this.
        let variable = |name| env::var(name).ok();
        let (pid, count, names) = (variable("LISTEN_PID"), variable("LISTEN_FDS"), variable("LISTEN_FDNAMES"));
        let named = name_all(process::id(), pid.as_deref(), count.as_deref(), names.as_deref())?;
        if TAKEN.swap(true, Ordering::Relaxed) {
            return Ok(Inherited::default());
        }
        // All are looked at before one is taken, so that a descriptor that is not there is nobody's.
        for (fd, name) in &named {
            // SAFETY: F_SETFD takes no memory, and of a descriptor that is not open it says so.
            if unsafe { libc::fcntl(*fd, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
                return Err(refuse(*fd, name, "it is not open"));
            }
        }
        let mut inherited = Inherited::default();
        for (fd, name) in named {
            // SAFETY: it is open, as was just seen. LISTEN_PID names this process, so whoever started it opened the
            // descriptor for it to own; nothing here has opened one before, and nobody takes one twice.
            inherited.add(unsafe { OwnedFd::from_raw_fd(fd) }).map_err(|err| refuse(fd, &name, &err.to_string()))?;
        }
        Ok(inherited)
    }

    /// Whether nothing was passed on.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.datagrams.is_empty()
    }

    fn add(&mut self, fd: OwnedFd) -> io::Result<()> {
        let socket = SockRef::from(&fd);
        let domain = socket.domain().map_err(|_| io::Error::other("it is no socket"))?;
        if ![Domain::IPV4, Domain::IPV6].contains(&domain) {
            return Err(io::Error::other("it has no internet address"));
        }
        let is_listening = socket.is_listener()?;
        match socket.r#type()? {
            Type::STREAM if is_listening => {
                socket.set_nonblocking(true)?;
                socket.set_tcp_nodelay(true)?;
                self.listeners.push(fd.into());
            }
            Type::STREAM => return Err(io::Error::other("it does not listen; with systemd, Accept=no is needed")),
            Type::DGRAM => {
                socket.set_nonblocking(true)?;
                self.datagrams.push(fd.into());
            }
            _ => return Err(io::Error::other("it takes neither connections nor datagrams")),
        }
        Ok(())
    }
}

/// The descriptors, with their names.
fn name_all(own: u32, pid: Option<&str>, count: Option<&str>, names: Option<&str>) -> io::Result<Vec<(RawFd, String)>> {
    let (Some(pid), Some(count)) = (pid, count) else { return Ok(Vec::new()) };
    // Otherwise they were meant for the parent, which has left its environment to us.
    if pid.parse() != Ok(own) {
        return Ok(Vec::new());
    }
    let count = count.parse().ok().filter(|count| (0..=COUNT_MAX).contains(count));
    let count: RawFd =
        count.ok_or_else(|| io::Error::other(format!("LISTEN_FDS is no number of descriptors up to {COUNT_MAX}")))?;
    let mut names = names.unwrap_or_default().split(':');
    let fds = FIRST..FIRST + count;
    Ok(fds.map(|fd| (fd, names.next().filter(|name| !name.is_empty()).unwrap_or("unknown").to_owned())).collect())
}

fn refuse(fd: RawFd, name: &str, why: &str) -> io::Error {
    io::Error::other(format!("descriptor {fd} ({name}), passed on by LISTEN_FDS, cannot be used: {why}"))
}

/// Behind standard input, output and error.
const FIRST: RawFd = 3;
/// As many shards as there may be, twice: for connections and for datagrams.
const COUNT_MAX: RawFd = 2048;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn descriptors_are_named_in_order_and_only_where_they_were_meant_for_us() {
        let named = |pid, count, names| {
            name_all(7, pid, count, names).map(|all| all.iter().map(|(fd, name)| format!("{fd}={name}")).collect())
        };
        let of = |pid, count, names| -> Vec<String> { named(pid, count, names).unwrap() };
        assert_eq!(of(Some("7"), Some("3"), Some("tcp::x:y")), ["3=tcp", "4=unknown", "5=x"]);
        assert_eq!(of(Some("7"), Some("1"), None), ["3=unknown"]);
        assert_eq!(of(Some("8"), Some("1"), None), [""; 0]);
        assert_eq!(of(Some("8"), Some("nonsense"), None), [""; 0]);
        assert_eq!(of(None, Some("1"), None), [""; 0]);
        assert_eq!(of(Some("7"), None, None), [""; 0]);
        for nonsense in ["", "-1", "many", "4096"] {
            let refusal: io::Result<Vec<String>> = named(Some("7"), Some(nonsense), None);
            assert!(refusal.unwrap_err().to_string().contains("LISTEN_FDS"), "{nonsense}");
        }
    }

    #[test]
    fn what_listens_and_what_takes_datagrams_is_told_apart_and_nothing_else_is_taken() {
        let mut inherited = Inherited::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        inherited.add(listener.into()).unwrap();
        inherited.add(UdpSocket::bind("[::1]:0").unwrap().into()).unwrap();
        assert_eq!((inherited.listeners.len(), inherited.datagrams.len()), (1, 1));
        assert_eq!(inherited.listeners[0].local_addr().unwrap(), addr);
        let would_block = inherited.listeners[0].accept().unwrap_err();
        assert_eq!(would_block.kind(), io::ErrorKind::WouldBlock, "it does not make its thread wait");
        assert!(SockRef::from(&inherited.listeners[0].as_fd()).tcp_nodelay().unwrap());

        let connected = std::net::TcpStream::connect(addr).unwrap();
        let (unix, _other) = UnixStream::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        for (fd, words) in [
            (OwnedFd::from(connected), "Accept=no"),
            (OwnedFd::from(unix), "no internet address"),
            (OwnedFd::from(file), "no socket"),
        ] {
            let why = inherited.add(fd).unwrap_err().to_string();
            assert!(why.contains(words), "{why}");
        }
    }
}
