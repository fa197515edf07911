//! The life of a running server: readiness, signals, the drain and its deadline, a worker that ends unasked.
//!
//! It decides when the workers are to end and how the process does; what happens to a record is none of its business.

use crate::notice;
use crate::worker::{Summary, Worker};
use ringest_sys::file;
use ringest_sys::signal::{Signal, Signals};
use std::fmt;
use std::fs;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// A server that is starting: asked to read its files again, it does so once it runs, instead of ending of it as a process
/// does. Whatever else it is sent ends it, because there is nothing to settle yet.
#[derive(Debug)]
pub struct Starting {
    signals: Signals,
    is_attached: bool,
}

impl Starting {
    /// From now on.
    ///
    /// # Errors
    /// The kernel refuses a signal handler.
    pub fn begin() -> io::Result<Starting> {
        let mut signals = Signals::none()?;
        let is_attached = io::stderr().is_terminal();
        if !is_attached {
            signals.take_over(&[Signal::Hangup])?;
        }
        Ok(Starting { signals, is_attached })
    }
}

/// What can end a server, as one stream of events.
#[derive(Debug)]
pub struct Control {
    events: Receiver<Event>,
    ended: Sender<u16>,
}

/// Something that happened outside the record's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Signal(Signal),
    /// Somebody asked to have the files looked at again.
    Reload,
    /// The thread of that shard has ended.
    Ended(u16),
}

/// Why the workers are to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Somebody asked.
    Asked(Signal),
    /// A worker ended by itself.
    WorkerEnded(u16),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Asked(Signal::Terminate) => f.write_str("asked to by SIGTERM"),
            Cause::Asked(Signal::Interrupt) => f.write_str("asked to by SIGINT"),
            Cause::Asked(Signal::Hangup) => f.write_str("because the terminal is gone"),
            Cause::WorkerEnded(shard) => write!(f, "because shard {shard} ended by itself"),
        }
    }
}

/// How the workers ended.
#[derive(Debug)]
pub struct Outcome {
    /// Of those that ended in order.
    pub summaries: Vec<Summary>,
    /// What went wrong, a sentence each.
    pub failures: Vec<String>,
    /// A second signal came: the process is to end at once.
    pub impatience: Option<Signal>,
}

impl Control {
    /// Takes over the process's signals.
    ///
    /// # Errors
    /// The kernel refuses a signal handler or a thread.
    pub fn new(starting: Starting) -> io::Result<Control> {
        let (sender, events) = mpsc::channel();
        let Starting { mut signals, is_attached } = starting;
        signals.take_over(&[Signal::Terminate, Signal::Interrupt])?;
        if is_attached {
            signals.take_over(&[Signal::Hangup])?;
        }
        let from_signals = sender.clone();
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || forward_signals(&signals, is_attached, &from_signals))?;

        let (ended, ends) = mpsc::channel();
        thread::Builder::new().name("ends".into()).spawn(move || {
            for shard in ends {
                let _ = sender.send(Event::Ended(shard)); // Nobody listens once the process ends.
            }
        })?;
        Ok(Control { events, ended })
    }

    /// Where each worker's end is told.
    pub fn ended(&self) -> Sender<u16> {
        self.ended.clone()
    }

    /// Waits until the workers are to end. Meanwhile `reload` is called whenever somebody asks for it.
    pub fn wait(&self, mut reload: impl FnMut()) -> Cause {
        loop {
            match self.events.recv().expect("the channel is held open by the threads that feed it") {
                Event::Signal(signal) => return Cause::Asked(signal),
                Event::Reload => reload(),
                Event::Ended(shard) => return Cause::WorkerEnded(shard),
            }
        }
    }

    /// Ends the workers: they settle what they have taken, within the deadline; what is not done by then is given up.
    pub fn drain(&self, workers: Vec<Worker>, cause: Cause, deadline: Duration) -> Outcome {
        let mut running: Vec<(u16, Worker)> = (0..).zip(workers).collect();
        let mut outcome = Outcome { summaries: Vec::new(), failures: Vec::new(), impatience: None };
        if let Cause::WorkerEnded(shard) = cause {
            outcome.failures.push(format!("shard {shard} ended by itself, and the server with it"));
            outcome.join(&mut running, shard);
        }
        running.iter().for_each(|(_, worker)| worker.drain());
        self.join_until(Instant::now() + deadline, &mut running, &mut outcome);
        if running.is_empty() || outcome.impatience.is_some() {
            return outcome;
        }

        outcome.failures.push(format!("not everything was settled within {deadline:?}; what is left is given up"));
        running.iter().for_each(|(_, worker)| worker.abort());
        self.join_until(Instant::now() + ABORT_PATIENCE, &mut running, &mut outcome);
        let stuck = running.iter().map(|(shard, _)| format!("shard {shard} does not end, and is left behind"));
        outcome.failures.extend(stuck);
        outcome
    }

    fn join_until(&self, deadline: Instant, running: &mut Vec<(u16, Worker)>, outcome: &mut Outcome) {
        while !running.is_empty() {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Ended(shard)) => outcome.join(running, shard),
                Ok(Event::Reload) => {} // Nobody new is coming.
                Ok(Event::Signal(signal)) => {
                    outcome.impatience = Some(signal);
                    return;
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

impl Outcome {
    /// Whether everything that was taken is settled and safe.
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty() && self.summaries.iter().all(|summary| summary.drained)
    }

    fn join(&mut self, running: &mut Vec<(u16, Worker)>, shard: u16) {
        let Some(at) = running.iter().position(|(running, _)| *running == shard) else { return };
        match running.swap_remove(at).1.join() {
            Ok(summary) => self.summaries.push(summary),
            Err(reason) => self.failures.push(reason),
        }
        self.summaries.sort_by_key(|summary| summary.reading.shard);
    }
}

/// Passes on what signals ask for.
fn forward_signals(signals: &Signals, is_attached: bool, events: &Sender<Event>) {
    loop {
        let event = match signals.wait(None) {
            // Started from a terminal, a server goes with it; started by a supervisor, it is asked to look at its
            // files again.
            Ok(Some(Signal::Hangup)) if !is_attached => Event::Reload,
            Ok(Some(signal)) => Event::Signal(signal),
            Ok(None) => continue,
            Err(err) => {
                notice!("signals cannot be waited for any more: {err}");
                return;
            }
        };
        if events.send(event).is_err() {
            return;
        }
    }
}

/// The exit code of a process that this signal ended.
pub fn exit_code(signal: Signal) -> u8 {
    match signal {
        Signal::Hangup => 129,
        Signal::Interrupt => 130,
        Signal::Terminate => 143,
    }
}

/// A file that is there for as long as connections are taken.
#[derive(Debug)]
pub struct ReadyFile {
    path: PathBuf,
    text: String,
}

impl ReadyFile {
    /// Writes the bound address and the process id, and the addresses for looking and for datagrams where there are such,
    /// all at once: who sees the file can read it.
    ///
    /// # Errors
    /// The file cannot be written; the message names it.
    pub fn write(
        path: PathBuf,
        bound: SocketAddr,
        admin: Option<SocketAddr>,
        udp: Option<SocketAddr>,
    ) -> io::Result<ReadyFile> {
        let admin = admin.map_or(String::new(), |admin| format!(" admin={admin}"));
        let udp = udp.map_or(String::new(), |udp| format!(" udp={udp}"));
        let text = format!("{bound} {}{admin}{udp}\n", process::id());
        file::replace(&path, text.as_bytes())
            .map_err(|err| io::Error::new(err.kind(), format!("cannot write READY_FILE {}: {err}", path.display())))?;
        Ok(ReadyFile { path, text })
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        // Somebody else may have removed it already, or put something of theirs there.
        let is_file = fs::symlink_metadata(&self.path).is_ok_and(|there| there.is_file());
        if is_file && fs::read_to_string(&self.path).is_ok_and(|text| text == self.text) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What a worker that was told to end at once may still take.
const ABORT_PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_file_is_there_exactly_while_its_owner_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ready");
        let bound: SocketAddr = "127.0.0.1:9000".parse().unwrap();
        let ready = ReadyFile::write(path.clone(), bound, None, None).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("127.0.0.1:9000 {}\n", process::id()));
        let ready_too = ReadyFile::write(path.clone(), bound, Some(bound), Some(bound)).unwrap();
        let text = format!("127.0.0.1:9000 {} admin=127.0.0.1:9000 udp=127.0.0.1:9000\n", process::id());
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        drop((ready, ready_too));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let message = ReadyFile::write(dir.path().join("no/ready"), bound, None, None).unwrap_err().to_string();
        assert!(message.contains("READY_FILE") && message.contains("no/ready"), "{message}");
    }

    #[test]
    fn a_ready_file_takes_the_place_of_files_alone_and_takes_away_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let (kept, link) = (dir.path().join("kept"), dir.path().join("link"));
        let bound: SocketAddr = "127.0.0.1:9000".parse().unwrap();
        fs::write(&kept, "kept").unwrap();
        std::os::unix::fs::symlink(&kept, &link).unwrap();
        let message = ReadyFile::write(link.clone(), bound, None, None).unwrap_err().to_string();
        assert!(message.contains("no regular file") && message.contains("link"), "{message}");
        assert!(link.is_symlink() && fs::read_to_string(&kept).unwrap() == "kept");

        let path = dir.path().join("ready");
        let ready = ReadyFile::write(path.clone(), bound, None, None).unwrap();
        fs::write(&path, "127.0.0.1:9001 1\n").unwrap();
        drop(ready);
        assert!(path.exists(), "it is another server's by now");
    }

    #[test]
    fn each_signal_has_the_exit_code_that_shells_expect() {
        assert_eq!([Signal::Interrupt, Signal::Terminate].map(exit_code), [130, 143]);
    }
}
