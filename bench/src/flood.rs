//! A generator that costs as little as one can: lines rendered beforehand, sent in blocks, replies read and counted.
//!
//! The floor and the server are driven by the same flood, so that the difference between them is theirs. Where replies
//! are expected it is a closed loop with a bound on unanswered lines, and at the end it settles: every line that was
//! sent must have had its `ok`, byte for byte in number. It checks no reply's text while it runs, measures no latency,
//! and runs on the calling thread alone.

use crate::bill;
use crate::cli::Flood as Task;
use crate::lines::Lines;
use ringest_sys::poller::{Interest, Poller, Readiness};
use ringest_sys::{clock, cpu, net};
use ringest_wire::reply;
use serde::Serialize;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How to send.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Port on the loopback address.
    pub port: u16,
    /// Connections.
    pub connections: usize,
    /// Mean length of a line, its newline included.
    pub record_size: usize,
    /// Unanswered lines per connection at most. `None`: no answers are expected.
    pub pipeline: Option<u64>,
}

/// Connections at work.
pub struct Flood {
    plan: Plan,
    block: Lines,
    poller: Poller,
    ready: Vec<Readiness>,
    connections: Vec<Connection>,
    replies: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    /// Where in the block the next byte is.
    at: usize,
    sent: u64,
    heard: u64,
    interest: Interest,
    is_open: bool,
}

/// The meters of a flood at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// When.
    pub at: Instant,
    /// Lines sent, whole or begun.
    pub sent: f64,
    /// Lines answered.
    pub answered: u64,
    /// Processor time of this thread.
    pub cpu: Duration,
    /// Time for which it had to wait for its processor.
    pub waited: Duration,
}

/// What a flood did in its window.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Report {
    /// The window.
    pub seconds: f64,
    /// Lines sent per second.
    pub sent_per_s: f64,
    /// Lines answered per second.
    pub answered_per_s: f64,
    /// Share of the window in which the generator was on a processor.
    pub busy: f64,
    /// Share of the window in which it had to wait for one: somebody else had it.
    pub waited: f64,
}

/// Runs it from the command line.
///
/// # Errors
/// The core was refused, nobody listens, or a line had no answer.
pub fn run(task: &Task) -> io::Result<Report> {
    if let Some(cpu) = task.cpu {
        cpu::pin_current(cpu).map_err(io::Error::other)?;
    }
    let mut flood = Flood::connect(Plan {
        port: task.port,
        connections: task.connections,
        record_size: task.record_size,
        pipeline: (task.pipeline > 0).then_some(task.pipeline),
    })?;
    flood.drive(Duration::from_secs_f64(task.warm_up))?;
    let start = flood.mark()?;
    flood.drive(Duration::from_secs_f64(task.seconds))?;
    let report = flood.mark()?.since(&start);
    if task.pipeline > 0 {
        flood.settle()?;
    }
    Ok(report)
}

impl Flood {
    /// Renders the lines and connects.
    ///
    /// # Errors
    /// Nobody listens there, or descriptors ran out.
    pub fn connect(plan: Plan) -> io::Result<Flood> {
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, plan.port));
        let poller = Poller::new()?;
        let mut connections = Vec::with_capacity(plan.connections);
        for token in 0..plan.connections {
            let stream = net::connect(peer)
                .map_err(|err| io::Error::new(err.kind(), format!("cannot connect to {peer}: {err}")))?;
            poller.add(stream.as_fd(), token as u64, Interest::BOTH)?;
            connections.push(Connection { stream, at: 0, sent: 0, heard: 0, interest: Interest::BOTH, is_open: true });
        }
        Ok(Flood {
            plan,
            block: Lines::flat(plan.record_size, BLOCK_LEN),
            poller,
            ready: Vec::new(),
            connections,
            replies: vec![0; REPLIES_LEN],
        })
    }

    /// Sends and hears for so long, or until every peer is gone.
    ///
    /// # Errors
    /// A connection broke although answers were expected on it.
    pub fn drive(&mut self, span: Duration) -> io::Result<()> {
        let until = Instant::now() + span;
        while Instant::now() < until && self.connections.iter().any(|connection| connection.is_open) {
            self.turn(true)?;
        }
        Ok(())
    }

    /// Sends one line on each connection, and waits for its answer.
    ///
    /// # Errors
    /// As [`settle`](Self::settle).
    pub fn send_one_each(&mut self) -> io::Result<()> {
        let len = self.rest_of_line_from(0);
        for at in 0..self.connections.len() {
            let connection = &mut self.connections[at];
            let sent = net::send(connection.stream.as_fd(), &self.block.bytes[..len])?;
            connection.at += sent;
            connection.sent += sent as u64;
        }
        self.settle()
    }

    /// Ends every line that was begun, and waits until all are answered.
    ///
    /// # Errors
    /// The answers are not as many `ok` as there were lines, or did not come in time.
    pub fn settle(&mut self) -> io::Result<()> {
        let until = Instant::now() + PATIENCE;
        while self.connections.iter().any(|connection| !self.is_settled(connection)) {
            if Instant::now() > until {
                let Mark { sent, answered, .. } = self.mark()?;
                return Err(io::Error::other(format!(
                    "of {sent:.0} lines only {answered} were answered with ok within {} s",
                    PATIENCE.as_secs()
                )));
            }
            self.turn(false)?;
        }
        Ok(())
    }

    /// The meters now.
    ///
    /// # Errors
    /// `/proc` does not show them.
    pub fn mark(&self) -> io::Result<Mark> {
        let sum = |of: fn(&Connection) -> u64| self.connections.iter().map(of).sum::<u64>();
        Ok(Mark {
            at: Instant::now(),
            sent: sum(|connection| connection.sent) as f64 / self.line_len(),
            answered: sum(|connection| connection.heard) / OK_LEN,
            cpu: clock::thread_cpu(),
            waited: bill::waited()?,
        })
    }

    fn line_len(&self) -> f64 {
        self.block.bytes.len() as f64 / self.block.rows as f64
    }

    /// One wait, and everything that is possible after it. Without `more`, only begun lines are ended.
    fn turn(&mut self, more: bool) -> io::Result<()> {
        self.poller.wait(Some(TURN), &mut self.ready)?;
        for readiness in std::mem::take(&mut self.ready).iter() {
            let at = readiness.token as usize;
            if readiness.readable {
                self.hear(at)?;
            }
            self.send(at, more)?;
        }
        if !more {
            // Those that wait for nothing but answers are not told of room.
            for at in 0..self.connections.len() {
                self.send(at, false)?;
            }
        }
        Ok(())
    }

    fn hear(&mut self, at: usize) -> io::Result<()> {
        let connection = &mut self.connections[at];
        match net::recv(connection.stream.as_fd(), &mut self.replies) {
            Ok(0) => self.lose(at, io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => {
                connection.heard += len as u64;
                check(&self.replies[..len], (connection.heard % OK_LEN) as usize)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => self.lose(at, error),
        }
    }

    fn send(&mut self, at: usize, more: bool) -> io::Result<()> {
        let room = self.room(at, more);
        let connection = &mut self.connections[at];
        if !connection.is_open {
            return Ok(());
        }
        let mut is_full = false;
        if room > 0 {
            let piece = &self.block.bytes[connection.at..];
            match net::send(connection.stream.as_fd(), &piece[..piece.len().min(room)]) {
                Ok(len) => {
                    connection.sent += len as u64;
                    connection.at = (connection.at + len) % self.block.bytes.len();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => is_full = true,
                Err(error) => return self.lose(at, error),
            }
        }
        let write = is_full || self.room(at, more) > 0;
        self.watch(at, Interest { read: true, write })
    }

    /// How many bytes may be sent now.
    fn room(&self, at: usize, more: bool) -> usize {
        let connection = &self.connections[at];
        if !more {
            return self.rest_of_line(connection);
        }
        let Some(pipeline) = self.plan.pipeline else { return usize::MAX };
        let allowed = (pipeline as f64 * self.line_len()) as u64;
        let answered = (connection.heard / OK_LEN) as f64 * self.line_len();
        let room = allowed.saturating_sub(connection.sent.saturating_sub(answered as u64)) as usize;
        // Small pieces would make it the cost of system calls that is measured.
        if room < PIECE_LEN_MIN.min(allowed as usize / 2) { 0 } else { room }
    }

    fn rest_of_line(&self, connection: &Connection) -> usize {
        let is_between = connection.at == 0 || self.block.bytes[connection.at - 1] == b'\n';
        if is_between { 0 } else { self.rest_of_line_from(connection.at) }
    }

    fn rest_of_line_from(&self, at: usize) -> usize {
        let rest = &self.block.bytes[at..];
        memchr::memchr(b'\n', rest).map_or(rest.len(), |newline| newline + 1)
    }

    fn is_settled(&self, connection: &Connection) -> bool {
        let block_len = self.block.bytes.len() as u64;
        let begun = memchr::memchr_iter(b'\n', &self.block.bytes[..connection.at]).count() as u64;
        let lines = connection.sent / block_len * self.block.rows + begun;
        self.rest_of_line(connection) == 0 && connection.heard == lines * OK_LEN
    }

    /// The peer is gone. That is how a peer ends from which no answers are expected.
    fn lose(&mut self, at: usize, error: io::Error) -> io::Result<()> {
        if self.plan.pipeline.is_some() {
            return Err(io::Error::new(error.kind(), format!("the server broke connection {at}: {error}")));
        }
        self.connections[at].is_open = false;
        self.poller.remove(self.connections[at].stream.as_fd())
    }

    fn watch(&mut self, at: usize, interest: Interest) -> io::Result<()> {
        let connection = &mut self.connections[at];
        if connection.interest == interest {
            return Ok(());
        }
        connection.interest = interest;
        self.poller.modify(connection.stream.as_fd(), at as u64, interest)
    }
}

/// Whether replies are still what they should be: any other reply has another length and shifts the ends of all that
/// follow, so it is enough to look where the last one begins that is not complete.
fn check(replies: &[u8], unfinished: usize) -> io::Result<()> {
    let Some(newline) = memchr::memrchr(b'\n', replies) else { return Ok(()) };
    if replies.len() - newline - 1 == unfinished {
        return Ok(());
    }
    // The first may be the end of one that began before.
    let mut lines = replies.split_inclusive(|&byte| byte == b'\n');
    let other = lines.find(|line| !reply::OK.ends_with(line)).unwrap_or(replies);
    let other = String::from_utf8_lossy(other);
    Err(io::Error::other(format!("a line was not answered with ok, but with: {}", other.trim_end())))
}

impl Mark {
    /// What was done since an earlier mark.
    pub fn since(&self, earlier: &Mark) -> Report {
        let seconds = (self.at - earlier.at).as_secs_f64();
        Report {
            seconds,
            sent_per_s: (self.sent - earlier.sent) / seconds,
            answered_per_s: (self.answered - earlier.answered) as f64 / seconds,
            busy: (self.cpu - earlier.cpu).as_secs_f64() / seconds,
            waited: (self.waited - earlier.waited).as_secs_f64() / seconds,
        }
    }
}

const OK_LEN: u64 = reply::OK.len() as u64;
/// Bytes of lines that are sent in one call.
const BLOCK_LEN: usize = 64 << 10;
/// The smallest piece that is worth a call.
const PIECE_LEN_MIN: usize = 16 << 10;
/// Replies read in one call.
const REPLIES_LEN: usize = 256 << 10;
/// A turn without news is not longer than this.
const TURN: Duration = Duration::from_millis(5);
/// How long the last answers are waited for.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    /// Answers every line with ok, but the line of that number on each connection with something else.
    fn server(wrong: Option<usize>) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming() {
                thread::spawn(move || answer(stream.unwrap(), wrong));
            }
        });
        port
    }

    fn answer(mut stream: TcpStream, wrong: Option<usize>) {
        let (mut buf, mut lines) = (vec![0; 64 << 10], 0);
        while let Ok(len @ 1..) = stream.read(&mut buf) {
            let mut replies = Vec::new();
            for _ in memchr::memchr_iter(b'\n', &buf[..len]) {
                lines += 1;
                let reply = if Some(lines) == wrong {
                    &b"{\"status\":\"error\",\"code\":\"planted\"}\n"[..]
                } else {
                    reply::OK
                };
                replies.extend_from_slice(reply);
            }
            if stream.write_all(&replies).is_err() {
                return;
            }
        }
    }

    fn plan(port: u16) -> Plan {
        Plan { port, connections: 3, record_size: 180, pipeline: Some(100) }
    }

    #[test]
    fn every_line_is_counted_once_and_answered_once() {
        let mut flood = Flood::connect(plan(server(None))).unwrap();
        flood.drive(Duration::from_millis(50)).unwrap();
        let on_the_way = flood.mark().unwrap();
        assert!(on_the_way.sent - on_the_way.answered as f64 <= 300.0, "no more than the pipelines hold");
        flood.settle().unwrap();
        let mark = flood.mark().unwrap();
        assert!(mark.answered > 300, "{mark:?}");
        // Lines are as long as they are asked to be in the mean of a block, and the last block is not whole.
        assert!((mark.sent - mark.answered as f64).abs() < 20.0, "{mark:?}");
    }

    #[test]
    fn one_line_each_is_one_line_each() {
        let mut flood = Flood::connect(plan(server(None))).unwrap();
        flood.send_one_each().unwrap();
        assert_eq!(flood.mark().unwrap().answered, 3);
    }

    #[test]
    fn another_answer_than_ok_ends_it_with_the_words_of_that_answer() {
        let mut flood = Flood::connect(plan(server(Some(150)))).unwrap();
        let error = flood.drive(Duration::from_secs(5)).unwrap_err().to_string();
        assert!(error.contains("planted"), "{error}");
    }

    #[test]
    fn a_server_that_hangs_up_is_an_error_and_a_floor_that_does_is_not() {
        let gone = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            thread::spawn(move || listener.incoming().take(3).for_each(drop));
            port
        };
        let mut server = Flood::connect(plan(gone())).unwrap();
        assert!(server.drive(Duration::from_secs(5)).is_err());
        let mut floor = Flood::connect(Plan { pipeline: None, ..plan(gone()) }).unwrap();
        let start = Instant::now();
        floor.drive(Duration::from_secs(5)).unwrap();
        assert!(start.elapsed() < Duration::from_secs(4), "it ends when its peers have");
    }
}
