//! A process under measurement: started on its processors, found by its ready file, ended by its id.
//!
//! It hears of Ctrl-C from us alone: it has a process group of its own. One that is dropped is killed.

use procfs::process::Process as Proc;
use ringest_sys::cpu::CpuList;
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What to start.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// The processors of all its threads, whatever they pin themselves to; none leaves it to the scheduler.
    pub cpus: Option<CpuList>,
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// What it prints.
    pub stdout: BufReader<ChildStdout>,
    /// What it says about itself.
    log: PathBuf,
}

/// A server that takes connections.
#[derive(Debug)]
pub struct Server {
    /// What was started.
    pub process: Process,
    /// Where it takes lines.
    pub addr: SocketAddr,
    /// Where it may be looked at, if anywhere.
    pub admin: Option<SocketAddr>,
    /// Its process, as it says itself: what was started may be a wrapper.
    pub pid: u32,
    /// From its start until it took connections.
    pub ready_after: Duration,
}

/// Bytes of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Resident.
    pub rss: u64,
    /// Resident, what is shared with others counted by parts.
    pub pss: u64,
}

impl Launch {
    /// That program, with arguments.
    pub fn new<A: AsRef<OsStr>>(program: &Path, args: impl IntoIterator<Item = A>) -> Launch {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        Launch { program: program.to_owned(), args, cpus: None }
    }

    /// On these processors.
    #[must_use]
    pub fn on(self, cpus: Option<&CpuList>) -> Launch {
        Launch { cpus: cpus.cloned(), ..self }
    }

    /// The settings that it would run with, as a server prints them; none where it is no such program.
    pub fn config(&self) -> Option<Value> {
        let printed = self.command().arg("--print-config").output().ok()?;
        serde_json::from_slice(&printed.stdout).ok()
    }

    fn command(&self) -> Command {
        let Launch { program, args, cpus } = self;
        let mut command = match cpus {
            // A process has the processors of whoever starts it, from its first instruction on.
            Some(cpus) => {
                let mut command = Command::new("taskset");
                command.args(["--cpu-list", &cpus.to_string()]).arg(program);
                command
            }
            None => Command::new(program),
        };
        // Settings come from the command line alone.
        command.args(args).env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command
    }
}

impl Process {
    /// Starts it. What it says goes into a file `NAME.stderr` in `dir`.
    ///
    /// # Errors
    /// It cannot be started; the message names it.
    pub fn start(launch: &Launch, dir: &Path) -> io::Result<Process> {
        let name = launch.program.file_name().unwrap_or(launch.program.as_os_str());
        let log = dir.join(name).with_extension("stderr");
        let mut child = launch
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .process_group(0)
            .spawn()
            .map_err(|error| {
                io::Error::new(error.kind(), format!("cannot start {}: {error}", launch.program.display()))
            })?;
        let stdout = BufReader::new(child.stdout.take().expect("its output was asked for"));
        Ok(Process { child, stdout, log })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it takes of memory now.
    ///
    /// # Errors
    /// It has ended, or `/proc` does not show it.
    pub fn memory(&self) -> io::Result<Memory> {
        memory(self.pid())
    }

    /// Sends it a signal, by its short name.
    ///
    /// # Errors
    /// There is no program `kill`.
    pub fn signal(&self, name: &str) -> io::Result<()> {
        // A signal cannot be sent without unsafe code here; the tool that sends it is on every system.
        Command::new("kill").args(["-s", name, &self.pid().to_string()]).stderr(Stdio::null()).status().map(drop)
    }

    /// How it has ended, if it has.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Asks it to end, and waits until it has settled everything.
    ///
    /// # Errors
    /// It did not end in time, or not with code 0.
    pub fn stop(mut self) -> io::Result<()> {
        let status = self.end()?;
        if status.success() {
            return Ok(());
        }
        Err(self.explain(&format!("it ended with {status}, so not everything was settled")))
    }

    /// Asks it to end, and says how it did.
    ///
    /// # Errors
    /// It did not end in time.
    pub fn end(&mut self) -> io::Result<ExitStatus> {
        self.signal("TERM")?;
        self.wait()
    }

    /// Waits until it has ended by itself; what it printed.
    ///
    /// # Errors
    /// It did not end in time, or not with code 0.
    pub fn finish(mut self) -> io::Result<String> {
        let mut text = String::new();
        self.stdout.read_to_string(&mut text)?;
        let status = self.wait()?;
        if status.success() {
            return Ok(text);
        }
        Err(self.explain(&format!("it ended with {status}")))
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It did not end in time.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > until {
                return Err(self.explain(&format!("it had not ended after {} s", PATIENCE.as_secs())));
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// An error with the last lines that it said.
    pub fn explain(&self, what: &str) -> io::Error {
        io::Error::other(format!("{what}; it said:\n  {}", self.said().join("\n  ")))
    }

    /// The last lines that it said.
    pub fn said(&self) -> Vec<String> {
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(SAID_MAX)..].iter().map(|&line| line.to_owned()).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Without effect on one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts a server, on a free port unless its arguments name one, with its segments in `logs` of `dir`; it takes connections when this returns.
    ///
    /// # Errors
    /// It ended, or did not become ready in time; the message says what it said.
    pub fn start(launch: &Launch, dir: &Path) -> io::Result<Server> {
        let ready = dir.join("ready");
        let mut launch = launch.clone();
        if !launch.args.iter().any(|arg| arg == "--port") {
            launch.args.extend(["--port", "0"].map(OsString::from));
        }
        launch.args.extend(["--admin-addr", "127.0.0.1:0"].map(OsString::from));
        launch.args.extend(["--log-dir".into(), dir.join(LOGS).into(), "--ready-file".into(), ready.clone().into()]);
        let began = Instant::now();
        let mut process = Process::start(&launch, dir)?;
        while !ready.exists() {
            if let Some(status) = process.ended()? {
                return Err(process.explain(&format!("the server ended at its start with {status}")));
            }
            if began.elapsed() > PATIENCE {
                return Err(process.explain("the server did not become ready"));
            }
            thread::sleep(LOOK_EVERY);
        }
        let ready_after = began.elapsed();
        let text = fs::read_to_string(&ready)?;
        let Some((addr, pid, admin)) = read_ready(&text) else {
            return Err(process.explain(&format!("the server's ready file says \"{}\"", text.trim())));
        };
        Ok(Server { process, addr, admin, pid, ready_after })
    }
}

/// `127.0.0.1:9000 4711 admin=127.0.0.1:9088`
fn read_ready(text: &str) -> Option<(SocketAddr, u32, Option<SocketAddr>)> {
    let mut words = text.split_whitespace();
    let (addr, pid) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let admin = words.find_map(|word| word.strip_prefix("admin=")?.parse().ok());
    Some((addr, pid, admin))
}

/// What a process takes of memory now.
///
/// # Errors
/// It has ended, or `/proc` does not show it.
pub fn memory(pid: u32) -> io::Result<Memory> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    let rollup = Proc::new(pid).and_then(|process| process.smaps_rollup()).map_err(io::Error::other)?;
    let map = rollup.memory_map_rollup.0.first().ok_or_else(|| io::Error::other("it has no memory"))?;
    let bytes = |key: &str| map.extension.map.get(key).copied().unwrap_or(0);
    Ok(Memory { rss: bytes("Rss"), pss: bytes("Pss") })
}

/// A program of ours: the one that was named, or the one beside this binary.
///
/// # Errors
/// There is none; the message says what to do.
pub fn program(asked: Option<&Path>, name: &str) -> io::Result<PathBuf> {
    let (path, hint) = match asked {
        Some(path) => (path.to_owned(), String::new()),
        None => {
            let hint = format!("; build it (cargo build --release -p {name}), or name another");
            (std::env::current_exe()?.with_file_name(name), hint)
        }
    };
    path.canonicalize()
        .map_err(|error| io::Error::new(error.kind(), format!("no {name} at {}: {error}{hint}", path.display())))
}

/// Where scratch directories are made: beside this binary, which is on a disk where anything is.
///
/// # Errors
/// The directory cannot be made.
pub fn scratch_parent(asked: Option<&Path>) -> io::Result<PathBuf> {
    let dir = match asked {
        Some(dir) => dir.to_owned(),
        None => std::env::current_exe()?
            .parent()
            .ok_or_else(|| io::Error::other("this binary lies nowhere; say --dir"))?
            .to_owned(),
    };
    fs::create_dir_all(&dir)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot make {}: {error}", dir.display())))?;
    dir.canonicalize()
}

/// Where a server keeps its segments, in its scratch directory.
pub const LOGS: &str = "logs";
/// How long a start or an end may take. An end writes out what the page cache holds.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(2);
const SAID_MAX: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_file_names_the_address_the_process_and_where_to_look() {
        let (addr, pid, admin) = read_ready("127.0.0.1:9000 4711 admin=127.0.0.1:9088\n").unwrap();
        assert_eq!((addr.port(), pid, admin.unwrap().port()), (9000, 4711, 9088));
        assert_eq!(read_ready("[::1]:9000 1").unwrap().2, None);
        assert!(read_ready("").is_none() && read_ready("127.0.0.1:9000").is_none());
    }

    #[test]
    fn a_program_that_is_not_there_is_said_to_be_with_what_to_do() {
        let error = program(None, "ringest-nothing").unwrap_err().to_string();
        assert!(error.contains("ringest-nothing") && error.contains("cargo build"), "{error}");
    }

    #[test]
    fn a_process_says_why_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let launch = Launch::new(Path::new("/bin/sh"), ["-c", "echo the disk is full >&2; exit 7"]);
        let error = Process::start(&launch, dir.path()).unwrap().finish().unwrap_err().to_string();
        assert!(error.contains("exit status: 7") && error.contains("the disk is full"), "{error}");
        let error = Server::start(&launch, dir.path()).unwrap_err().to_string();
        assert!(error.contains("ended at its start") && error.contains("the disk is full"), "{error}");
    }
}
