//! Whoever started the server and looks after it, in the words of sd_notify(3): it is told when connections are taken, when
//! files are read again, when the server stops, and that it is alive.
//!
//! That it is alive is said only while every shard answers. Without a supervisor nothing is said, and nothing differs.

use crate::notice;
use crate::reading::Probe;
use ringest_sys::clock;
use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The way to the supervisor.
#[derive(Debug, Default)]
pub struct Supervisor {
    socket: Option<UnixDatagram>,
    /// It ends a server that has not said for this long that it is alive.
    patience: Option<Duration>,
}

/// Says that the server is alive for as long as every shard is; ends with its owner.
#[derive(Debug)]
pub struct Watchdog {
    _stop: mpsc::Sender<()>,
    _thread: JoinHandle<()>,
}

impl Supervisor {
    /// The one that the environment names: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`. One that cannot be reached is
    /// pointed out and left alone: records matter more.
    pub fn from_env() -> Supervisor {
        let variable = |name| env::var(name).ok();
        let socket = variable("NOTIFY_SOCKET").and_then(|address| {
            let connected = connect(&address);
            connected.map_err(|err| notice!("the supervisor at NOTIFY_SOCKET={address} hears nothing: {err}")).ok()
        });
        let patience = patience(process::id(), variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"));
        Supervisor { socket, patience }
    }

    /// Connections are taken.
    pub fn ready(&self, said: &str) {
        self.tell(&format!("READY=1\nSTATUS={said}\n"));
    }

    /// Files are read again; [`ready`](Self::ready) follows.
    pub fn reloading(&self) {
        // It compares the time with its own, so that an earlier word is not taken for the answer.
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}\n", clock::monotonic().as_micros()));
    }

    /// The server drains.
    pub fn stopping(&self, said: &str) {
        self.tell(&format!("STOPPING=1\nSTATUS=draining, {said}\n"));
    }

    /// Says from now on that the server is alive, twice as often as has to be, and only while all of these answer.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn watch(&self, probes: Vec<Probe>) -> io::Result<Option<Watchdog>> {
        let (Some(patience), Some(socket)) = (self.patience, &self.socket) else { return Ok(None) };
        let told = Supervisor { socket: Some(socket.try_clone()?), patience: None };
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new().name("watchdog".into()).spawn(move || {
            let mut silent = Vec::new();
            while stopped.recv_timeout(patience / 4) == Err(RecvTimeoutError::Timeout) {
                let dead = silent_shards(&probes, Instant::now() + patience / 4);
                if dead.is_empty() {
                    told.tell("WATCHDOG=1\n");
                } else if dead != silent {
                    notice!("the watchdog is not fed: no answer from shards {dead:?}");
                }
                silent = dead;
            }
        })?;
        Ok(Some(Watchdog { _stop: stop, _thread: thread }))
    }

    fn tell(&self, words: &str) {
        if let Some(socket) = &self.socket {
            // A supervisor that is gone, or does not read, is no reason to end.
            let _ = socket.send(words.as_bytes());
        }
    }
}

/// Those that do not answer in time.
fn silent_shards(probes: &[Probe], deadline: Instant) -> Vec<u16> {
    let answers = Probe::ask_all(probes, deadline);
    probes.iter().zip(answers).filter(|(_, answer)| answer.is_none()).map(|(probe, _)| probe.shard()).collect()
}

fn connect(address: &str) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    match address.strip_prefix('@') {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(address)?,
    }
    // A supervisor that is busy must not make the server wait.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// How long the supervisor waits, if it was this process that it meant.
fn patience(own: u32, usec: Option<String>, pid: Option<String>) -> Option<Duration> {
    let is_meant = pid.is_none_or(|pid| pid.parse() == Ok(own));
    let usec = usec.filter(|_| is_meant)?.parse().ok().filter(|usec| *usec > 0)?;
    Some(Duration::from_micros(usec))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::slice;

    fn heard(listener: &UnixDatagram) -> String {
        let mut buf = [0; 4096];
        let len = listener.recv(&mut buf).unwrap();
        String::from_utf8(buf[..len].to_vec()).unwrap()
    }

    #[test]
    fn a_supervisor_is_told_by_path_or_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("ringest-test-{}", process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (listener, address) in [(by_path, path.to_str().unwrap().to_owned()), (by_name, format!("@{name}"))] {
            let supervisor = Supervisor { socket: Some(connect(&address).unwrap()), patience: None };
            supervisor.ready("listening");
            assert_eq!(heard(&listener), "READY=1\nSTATUS=listening\n");
            supervisor.reloading();
            let said = heard(&listener);
            let at = said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim().parse::<u128>().unwrap();
            assert!(clock::monotonic().as_micros() - at < 60_000_000);
            supervisor.stopping("asked to by SIGTERM");
            assert_eq!(heard(&listener), "STOPPING=1\nSTATUS=draining, asked to by SIGTERM\n");
            drop(listener);
            supervisor.ready("nobody listens, and nothing comes of it");
        }
        assert!(connect("/nowhere/notify").is_err());
    }

    #[test]
    fn a_watchdog_is_fed_only_if_this_process_is_meant() {
        let of = |usec: &str, pid: Option<&str>| patience(7, Some(usec.into()), pid.map(str::to_owned));
        assert_eq!(of("30000000", Some("7")), Some(Duration::from_secs(30)));
        assert_eq!(of("30000000", None), Some(Duration::from_secs(30)));
        assert_eq!(of("30000000", Some("8")), None);
        assert_eq!((of("0", None), of("soon", None), patience(7, None, None)), (None, None, None));
    }

    #[test]
    fn a_shard_that_does_not_answer_is_named_and_stops_the_feeding() {
        let (_letters, probe) = Probe::of_nobody(3);
        assert_eq!(silent_shards(slice::from_ref(&probe), Instant::now() + Duration::from_millis(50)), [3]);

        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_millis(600))).unwrap();
        let patience = Some(Duration::from_millis(200));
        let supervisor = Supervisor { socket: Some(theirs), patience };
        let watchdog = supervisor.watch(Vec::new()).unwrap();
        assert_eq!(heard(&ours), "WATCHDOG=1\n", "nobody is missing");
        drop(watchdog);
        let watchdog = supervisor.watch(vec![probe]).unwrap();
        let mut buf = [0; 64];
        let mut fed = 0;
        while ours.recv(&mut buf).is_ok() {
            fed += 1;
        }
        assert!(fed <= 4, "what the first one had said before it ended, and no more: {fed}");
        drop(watchdog);
    }
}
