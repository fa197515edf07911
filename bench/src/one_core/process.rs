//! A process under measurement: started on its core, found by its port, ended by its id.

use super::case::Served;
use crate::cli::OneCore;
use crate::floor::{Backend, Writing};
use procfs::process::Process as Proc;
use ringest_sys::cpu;
use ringest_wire::AckLevel;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A running process. One that is dropped is killed.
pub(super) struct Process {
    child: Child,
    pub(super) port: u16,
    stdout: BufReader<ChildStdout>,
    /// What it said about itself.
    log: PathBuf,
}

/// Bytes of memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) rss: u64,
    pub(super) pss: u64,
}

/// Starts the server; it takes connections when this returns.
pub(super) fn server(task: &OneCore, dir: &Path, backend: Served, ack: AckLevel) -> io::Result<Process> {
    server_with(task, dir, backend, ack, &[])
}

/// Starts the server with these arguments, too.
pub(super) fn server_with(
    task: &OneCore,
    dir: &Path,
    backend: Served,
    ack: AckLevel,
    args: &[&OsStr],
) -> io::Result<Process> {
    let ready = dir.join("ready");
    let mut command = Command::new(&task.server);
    command
        .args(args)
        .args(["--port", "0", "--backend", served_name(backend), "--ack", &ack.to_string()])
        .args(["--cpu-list", &task.server_cpu.to_string(), "--admin-addr", "127.0.0.1:0"])
        .arg("--log-dir")
        .arg(dir.join("logs"))
        .arg("--ready-file")
        .arg(&ready);
    let mut process = Process::start(command, task.server_cpu, dir)?;
    let until = Instant::now() + PATIENCE;
    while !ready.exists() {
        if let Some(status) = process.child.try_wait()? {
            return Err(process.explain(&format!("it ended at its start with {status}")));
        }
        if Instant::now() > until {
            return Err(process.explain("it did not become ready"));
        }
        thread::sleep(Duration::from_millis(2));
    }
    let text = fs::read_to_string(&ready)?;
    process.port = port(text.split_whitespace().next()).ok_or_else(|| process.explain("its ready file has no port"))?;
    Ok(process)
}

/// Starts the floor, which is this binary.
pub(super) fn floor(task: &OneCore, dir: &Path, backend: Backend, writing: Writing) -> io::Result<Process> {
    let writing = match writing {
        Writing::Buffered => "buffered",
        Writing::Direct => "direct",
    };
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["floor", "--backend", backend_name(backend), "--write", writing])
        .args(["--cpu", &task.server_cpu.to_string(), "--record-size", &task.record_size.to_string()])
        .args(["--seconds", &task.window.to_string(), "--warm-up", &task.warm_up.to_string()])
        .arg("--dir")
        .arg(dir.join("logs"));
    let mut process = Process::start(command, task.server_cpu, dir)?;
    let mut line = String::new();
    process.stdout.read_line(&mut line)?;
    process.port = port(line.split_whitespace().last()).ok_or_else(|| process.explain("it does not listen"))?;
    Ok(process)
}

impl Process {
    /// Starts it on its core from its first instruction: all its threads stay there, whatever they pin themselves to.
    fn start(mut command: Command, cpu: usize, dir: &Path) -> io::Result<Process> {
        let log = dir.join("stderr");
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log)?);
        let name = command.get_program().to_owned();
        // A child has the processors of the thread that starts it.
        let starter = thread::spawn(move || {
            cpu::pin_current(cpu).map_err(io::Error::other)?;
            command.spawn()
        });
        let mut child = starter
            .join()
            .map_err(|_| io::Error::other("the thread that starts processes panicked"))?
            .map_err(|error| io::Error::new(error.kind(), format!("cannot start {}: {error}", name.display())))?;
        let stdout = BufReader::new(child.stdout.take().expect("its output was asked for"));
        Ok(Process { child, port: 0, stdout, log })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn memory(&self) -> io::Result<Memory> {
        let pid = i32::try_from(self.pid()).map_err(io::Error::other)?;
        let rollup = Proc::new(pid).and_then(|process| process.smaps_rollup()).map_err(io::Error::other)?;
        let map = rollup.memory_map_rollup.0.first().ok_or_else(|| io::Error::other("it has no memory"))?;
        let bytes = |key: &str| map.extension.map.get(key).copied().unwrap_or(0);
        Ok(Memory { rss: bytes("Rss"), pss: bytes("Pss") })
    }

    /// Asks it to end, and waits until it has settled everything.
    pub(super) fn stop(mut self) -> io::Result<()> {
        // A signal cannot be sent without unsafe code here; the tool that sends it is on every system.
        Command::new("kill").args(["-TERM", &self.pid().to_string()]).status()?;
        let status = self.wait()?;
        if status.success() {
            return Ok(());
        }
        Err(self.explain(&format!("it ended with {status}, so not everything was settled")))
    }

    /// Waits until it has ended by itself; what it printed.
    pub(super) fn finish(mut self) -> io::Result<String> {
        let mut text = String::new();
        self.stdout.read_to_string(&mut text)?;
        let status = self.wait()?;
        if status.success() {
            return Ok(text);
        }
        Err(self.explain(&format!("it ended with {status}")))
    }

    fn wait(&mut self) -> io::Result<ExitStatus> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > until {
                return Err(self.explain(&format!("it had not ended after {} s", PATIENCE.as_secs())));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn explain(&self, what: &str) -> io::Error {
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        let last = said.lines().rev().take(5).collect::<Vec<_>>();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n  ");
        io::Error::other(format!("{what}; it said:\n  {last}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Without effect on one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn served_name(backend: Served) -> &'static str {
    match backend {
        Served::Uring => "uring",
        Served::Epoll => "epoll",
        Served::Glommio => "glommio",
    }
}

fn backend_name(backend: Backend) -> &'static str {
    match backend {
        Backend::Uring => "uring",
        Backend::Epoll => "epoll",
    }
}

fn port(address: Option<&str>) -> Option<u16> {
    address?.rsplit_once(':')?.1.parse().ok()
}

/// How long a start or an end may take. An end writes out what the page cache holds.
const PATIENCE: Duration = Duration::from_secs(30);
