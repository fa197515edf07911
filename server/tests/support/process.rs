//! The server as a process: how it is started, how it ends, what it leaves behind.

use super::Backend;
use super::client::Client;
use ringest_ingest::Limits;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How a server is to be started. Starting it twice starts it in the same directory.
#[derive(Clone)]
pub(crate) struct Setup {
    backend: String,
    room: Arc<TempDir>,
    log_dir: PathBuf,
    args: Vec<OsString>,
    env: Vec<(String, String)>,
    /// A command that starts the server's command line in its own place.
    through: Vec<OsString>,
    /// Sockets that it gets from whoever starts it.
    sockets: Vec<Arc<OwnedFd>>,
    pub(crate) on: Backend,
}

/// A server that is ready.
pub(crate) struct Server {
    child: Child,
    stderr: Said,
    addr: SocketAddr,
    udp: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    has_ended: bool,
    /// Its directory lives as long as it does.
    _room: Arc<TempDir>,
}

/// How a server ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Setup {
    /// One shard, not pinned, in a directory of its own.
    pub(crate) fn new(on: Backend) -> Setup {
        let room = Arc::new(TempDir::with_prefix("ringest-test-").unwrap());
        Setup {
            backend: on.as_str().into(),
            log_dir: room.path().join("logs"),
            room,
            args: vec!["--no-pin".into()],
            // Tests run beside each other, and the usual address is there once.
            env: vec![("SHARDS".into(), "1".into()), ("ADMIN_ADDR".into(), "none".into())],
            through: Vec::new(),
            sockets: Vec::new(),
            on,
        }
    }

    /// Another server of the same kind, in another directory.
    pub(crate) fn beside(&self) -> Setup {
        let other = Setup::new(self.on);
        Setup { room: other.room, log_dir: other.log_dir, ..self.clone() }
    }

    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Setup {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Setup {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.into(), value.into()));
        self
    }

    pub(crate) fn shards(self, shards: u16) -> Setup {
        self.env("SHARDS", &shards.to_string())
    }

    /// With an admin listener, on a port of its own.
    pub(crate) fn admin(self) -> Setup {
        self.env("ADMIN_ADDR", "127.0.0.1:0")
    }

    pub(crate) fn ack(self, level: &str) -> Setup {
        self.env("ACK", level)
    }

    /// Segments as small as they may be.
    pub(crate) fn small_segments(self) -> Setup {
        self.env("SEGMENT_MIB", &segment_mib().to_string())
    }

    /// Pinned to these cores instead of to none.
    pub(crate) fn pinned(mut self, cpus: &str) -> Setup {
        self.args.retain(|arg| arg != "--no-pin");
        self.arg("--cpu-list").arg(cpus)
    }

    pub(crate) fn backend(mut self, name: &str) -> Setup {
        self.backend = name.into();
        self
    }

    pub(crate) fn log_dir(mut self, dir: impl Into<PathBuf>) -> Setup {
        self.log_dir = dir.into();
        self
    }

    pub(crate) fn flag(self, name: &str, value: impl std::fmt::Display) -> Setup {
        self.arg(name).arg(value.to_string())
    }

    pub(crate) fn through<S: Into<OsString>>(mut self, command: impl IntoIterator<Item = S>) -> Setup {
        self.through = command.into_iter().map(Into::into).collect();
        self
    }

    /// Passes a socket on to it, as systemd does: the server has it while it lives, and we have it before and after. There
    /// are two at most: a process can be given no more without `unsafe`.
    pub(crate) fn passing(mut self, socket: impl Into<OwnedFd>) -> Setup {
        self.sockets.push(Arc::new(socket.into()));
        let [first, second] = ["exec 3<&0 </dev/null", "exec 4>&1 >/dev/null"];
        let moves = if self.sockets.len() == 1 { first.to_owned() } else { format!("{first}; {second}") };
        let script = format!("{moves}; export LISTEN_PID=$$ LISTEN_FDS={}; exec \"$@\"", self.sockets.len());
        self.through(["sh", "-c", &script, "sh"])
    }

    /// Where its segments are.
    pub(crate) fn dir(&self) -> &Path {
        &self.log_dir
    }

    /// A place for what a test needs beside the log directory; gone with the last clone of this setup.
    pub(crate) fn room(&self) -> &Path {
        self.room.path()
    }

    /// Starts a server and waits until it is ready.
    pub(crate) fn start(&self) -> Server {
        self.try_start().unwrap_or_else(|ended| panic!("the server ended with {}:\n{}", ended.status, ended.stderr))
    }

    /// Starts a server; the way it ended where it did not become ready.
    pub(crate) fn try_start(&self) -> Result<Server, Ended> {
        static STARTS: AtomicUsize = AtomicUsize::new(0);
        let ready = self.room.path().join(format!("ready-{}", STARTS.fetch_add(1, Ordering::Relaxed)));
        let started = Instant::now();
        let (mut child, mut stderr) = self.spawn(&ready);
        loop {
            let text = fs::read_to_string(&ready).unwrap_or_default();
            if let Some(addr) = bound_addr(&text) {
                let named = |name| text.split_whitespace().find_map(|word| word.strip_prefix(name)?.parse().ok());
                let (udp, admin) = (named("udp="), named("admin="));
                return Ok(Server { child, stderr, addr, udp, admin, has_ended: false, _room: self.room.clone() });
            }
            if let Some(status) = child.try_wait().unwrap() {
                return Err(Ended { status, stderr: stderr.all(), took: started.elapsed() });
            }
            if started.elapsed() > START_MAX {
                let _ = child.kill();
                let _ = child.wait();
                panic!("not ready within {START_MAX:?}:\n{}", stderr.all());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Starts a server and kills it after `delay`, wherever it has come by then.
    pub(crate) fn start_and_kill(&self, delay: Duration) {
        let (mut child, mut stderr) = self.spawn(&self.room.path().join("ready-never-read"));
        thread::sleep(delay);
        child.kill().unwrap();
        child.wait().unwrap();
        stderr.all();
    }

    fn spawn(&self, ready: &Path) -> (Child, Said) {
        let mut words = self.through.clone();
        words.push(BINARY.into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("--ready-file").arg(ready).args(&self.args);
        clean(&mut command);
        command.envs([("SERVER_HOST", "127.0.0.1"), ("SERVER_PORT", "0"), ("BACKEND", &self.backend)]);
        command.env("LOG_DIR", &self.log_dir).envs(self.env.iter().map(|(name, value)| (name, value)));
        let mut child = command
            .stdin(self.socket(0))
            .stdout(self.socket(1))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{words:?}: {error}"));
        let stderr = Said::listen(child.stderr.take().unwrap());
        (child, stderr)
    }

    fn socket(&self, at: usize) -> Stdio {
        self.sockets.get(at).map_or_else(Stdio::null, |socket| socket.try_clone().unwrap().into())
    }

    /// Every stored record, shard by shard in the order of its segments.
    pub(crate) fn records(&self) -> Vec<String> {
        let output = command_line(&[OsString::from("cat"), self.log_dir.clone().into()]);
        assert!(output.status.success(), "cat failed: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("records are UTF-8");
        text.lines().map(str::to_owned).collect()
    }

    /// What `verify` says of the directory.
    pub(crate) fn verify(&self) -> Output {
        command_line(&[OsString::from("verify"), self.log_dir.clone().into()])
    }

    /// `verify` finds nothing wrong.
    pub(crate) fn assert_verified(&self) {
        let output = self.verify();
        assert!(output.status.success(), "verify: {}\n{}", output.status, texts(&output));
    }

    /// The segment files of a shard, oldest first.
    pub(crate) fn segments(&self, shard: u16) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.log_dir.join(format!("shard-{shard:02}"))) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|name| name == "ndjson"));
        paths.sort();
        paths
    }
}

impl Server {
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where it takes datagrams.
    pub(crate) fn udp_addr(&self) -> SocketAddr {
        self.udp.expect("it was asked to take datagrams")
    }

    /// Where it is looked at.
    pub(crate) fn admin_addr(&self) -> SocketAddr {
        self.admin.expect("it was asked for an admin listener")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.addr)
    }

    /// What it has written to its standard error so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.so_far()
    }

    /// Open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// A size in `/proc/PID/status`, in KiB: `VmRSS` now, `VmHWM` at its highest.
    pub(crate) fn memory_kib(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).expect("the kernel reports it");
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &self.pid().to_string()]).status();
        assert!(sent.unwrap().success(), "the process is there to be signalled");
    }

    /// Asks it to drain, and waits for its end. It has to end well.
    pub(crate) fn stop(self) -> Ended {
        self.signal("TERM");
        let ended = self.wait();
        assert!(ended.status.success(), "a drain ends with 0, not with {}:\n{}", ended.status, ended.stderr);
        ended
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Ended {
        let started = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < STOP_MAX, "not ended within {STOP_MAX:?}:\n{}", self.stderr());
            thread::sleep(Duration::from_millis(2));
        }
        let status = self.child.wait().unwrap();
        self.has_ended = true;
        Ended { status, stderr: self.stderr.all(), took: started.elapsed() }
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.has_ended = true;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the server said:\n{}---", self.stderr());
        }
        if !self.has_ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The size of a small segment.
pub(crate) fn segment_mib() -> u64 {
    Limits::default().segment_len_min().div_ceil(1 << 20)
}

/// Runs the binary with these arguments to its end.
pub(crate) fn command_line(args: &[OsString]) -> Output {
    let mut command = Command::new(BINARY);
    clean(&mut command);
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

/// Whether a command can start another one here.
pub(crate) fn can_run<S: AsRef<OsStr>>(command: &[S]) -> bool {
    let output = Command::new(&command[0]).args(&command[1..]).arg("true").output();
    output.is_ok_and(|output| output.status.success())
}

/// Both streams of a command, for a failure's message.
pub(crate) fn texts(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Settings of whoever runs the tests must not reach the server.
fn clean(command: &mut Command) {
    let path = env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("RUST_BACKTRACE", "1");
}

/// The address in a ready file: `127.0.0.1:9000 4711`.
fn bound_addr(text: &str) -> Option<SocketAddr> {
    text.split_whitespace().next()?.parse().ok()
}

/// A stream that is read as it comes, so that its writer never waits.
struct Said {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Said {
    fn listen(mut stream: impl Read + Send + 'static) -> Said {
        let text = Arc::new(Mutex::new(String::new()));
        let sink = text.clone();
        let reader = thread::spawn(move || {
            let mut buf = [0; 4096];
            while let Ok(len @ 1..) = stream.read(&mut buf) {
                sink.lock().unwrap().push_str(&String::from_utf8_lossy(&buf[..len]));
            }
        });
        Said { text, reader: Some(reader) }
    }

    fn so_far(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    /// Everything, once the writer has ended.
    fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.so_far()
    }
}

const BINARY: &str = env!("CARGO_BIN_EXE_ringest-server");
/// A debug build that recovers hundreds of megabytes on a loaded machine takes seconds.
const START_MAX: Duration = Duration::from_secs(60);
/// Above the longest drain deadline that a test asks for.
const STOP_MAX: Duration = Duration::from_secs(60);
