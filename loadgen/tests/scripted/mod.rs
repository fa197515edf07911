//! Servers for tests: threads that speak Ringest's protocol as its documents have it, and misbehave on request.

use ringest_wire::answer::{Ack, Answer, Rejection, Totals, Welcome};
use ringest_wire::control::{Control, PREFIX};
use ringest_wire::{AckLevel, Code, reply};
use serde_json::Value;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What the server does against the protocol's grain.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Script {
    /// Closes each connection after so many lines, with the last few stored and not acknowledged.
    pub(crate) break_after: Option<u64>,
    /// Breaks only that many connections.
    pub(crate) breaks: u64,
    /// Says `$nack` once per connection at that line, and drops what follows until `$resume`.
    pub(crate) nack_at: Option<u64>,
    /// Stores this line of each producer, counted from 1, not at all, but acknowledges it.
    pub(crate) lose: Option<u64>,
    /// Thinks that long about each line of a session.
    pub(crate) slow_ms: u64,
    /// The window it grants, where that is not 64.
    pub(crate) window: u32,
    /// Answers nothing.
    pub(crate) mute: bool,
    /// How many lines between acknowledgements.
    pub(crate) ack_every: u64,
}

/// A server, and what it has stored.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    stored: Vec<Vec<u8>>,
    last_seq: HashMap<String, u64>,
    /// Which connection speaks for a producer: a later one takes over, and the earlier one is heard no more.
    speakers: HashMap<String, u64>,
    nacks: u64,
    broken: u64,
    connections: u64,
    open: Vec<TcpStream>,
    is_dead: bool,
}

impl Server {
    pub(crate) fn start(script: Script) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server { addr: listener.local_addr().unwrap(), state: Arc::default() };
        let shared = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (server, stream) = (shared.clone(), stream.unwrap());
                let mut state = server.state.lock().unwrap();
                if state.is_dead {
                    return;
                }
                state.connections += 1;
                state.open.push(stream.try_clone().unwrap());
                drop(state);
                // A connection that the client gave up is not the server's failure.
                thread::spawn(move || drop(server.serve(&script, stream)));
            }
        });
        server
    }

    /// Ends all connections, and takes no more.
    pub(crate) fn die(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_dead = true;
        // Those that have ended already cannot be ended.
        state.open.drain(..).for_each(|stream| drop(stream.shutdown(std::net::Shutdown::Both)));
        drop(state);
        // The listener goes with the thread that waits for one more.
        drop(TcpStream::connect(self.addr));
    }

    pub(crate) fn stored(&self) -> Vec<u8> {
        self.state.lock().unwrap().stored.concat()
    }

    pub(crate) fn stored_lines(&self) -> usize {
        self.state.lock().unwrap().stored.len()
    }

    pub(crate) fn nacks(&self) -> u64 {
        self.state.lock().unwrap().nacks
    }

    pub(crate) fn broken(&self) -> u64 {
        self.state.lock().unwrap().broken
    }

    pub(crate) fn connections(&self) -> u64 {
        self.state.lock().unwrap().connections
    }

    fn may_break(&self, script: &Script) -> bool {
        let mut state = self.state.lock().unwrap();
        let may = state.broken < script.breaks;
        state.broken += u64::from(may);
        may
    }

    fn serve(&self, script: &Script, stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = Vec::new();
        if script.mute {
            while reader.read_until(b'\n', &mut line)? > 0 {}
            return Ok(());
        }
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.starts_with(PREFIX) {
            self.serve_session(script, stream, reader, &line)
        } else {
            self.serve_plain(script, stream, reader, line)
        }
    }

    fn serve_plain(
        &self,
        script: &Script,
        mut stream: TcpStream,
        mut reader: BufReader<TcpStream>,
        mut line: Vec<u8>,
    ) -> std::io::Result<()> {
        let mut count = 0;
        while line.ends_with(b"\n") {
            count += 1;
            let mut out = Vec::new();
            match judge(&line) {
                Ok(()) => {
                    if script.lose != Some(count) {
                        self.state.lock().unwrap().stored.push(line.clone());
                    }
                    out.extend_from_slice(reply::OK);
                }
                Err(code) => reply::put_error(&mut out, code, 0),
            }
            if script.break_after == Some(count) && self.may_break(script) {
                return stream.shutdown(std::net::Shutdown::Both);
            }
            stream.write_all(&out)?;
            line.clear();
            reader.read_until(b'\n', &mut line)?;
        }
        Ok(())
    }

    fn serve_session(
        &self,
        script: &Script,
        mut stream: TcpStream,
        mut reader: BufReader<TcpStream>,
        hello: &[u8],
    ) -> std::io::Result<()> {
        let Ok(Control::Hello(hello)) = Control::parse(hello) else { panic!("a session begins with $hello") };
        let (mut seq, speaker) = {
            let mut state = self.state.lock().unwrap();
            let speaker = state.speakers.entry(hello.producer.clone()).or_insert(0);
            *speaker += 1;
            let speaker = *speaker;
            (*state.last_seq.entry(hello.producer.clone()).or_insert(0), speaker)
        };
        let level = hello.ack.unwrap_or(AckLevel::Durable);
        let welcome = Welcome {
            v: 1,
            known: seq > 0,
            last_seq: seq,
            max_line: 262_144,
            window: if script.window > 0 { script.window } else { 64 },
            ack: level,
        };
        say(&mut stream, &Answer::Welcome(welcome))?;

        let (mut totals, mut since, mut acked) = (Totals::default(), Ack::at(seq, level), seq);
        let (mut held, mut nacked, mut count) = (false, false, 0);
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 || !line.ends_with(b"\n") {
                return Ok(());
            }
            if line.starts_with(PREFIX) {
                match Control::parse(&line).unwrap() {
                    Control::Resume(resume) => {
                        assert!(held, "a $resume answers a $nack");
                        assert_eq!(resume.from, seq + 1, "sending goes on from where it stopped");
                        held = false;
                    }
                    Control::Bye(_) => {
                        assert_eq!(acked, seq, "$bye comes when all is answered");
                        return say(&mut stream, &Answer::Bye(totals));
                    }
                    _ => {}
                }
                continue;
            }
            if held {
                continue;
            }
            if script.nack_at == Some(count + 1) && !nacked {
                (held, nacked) = (true, true);
                self.state.lock().unwrap().nacks += 1;
                if seq > acked {
                    say(&mut stream, &Answer::Ack(std::mem::replace(&mut since, Ack::at(seq, level)).upto(seq)))?;
                    acked = seq;
                }
                say(&mut stream, &Answer::nack(seq + 1, Code::Overloaded, 20))?;
                continue;
            }
            thread::sleep(Duration::from_millis(script.slow_ms));
            let judged = judge(&line);
            let mut state = self.state.lock().unwrap();
            if state.speakers[&hello.producer] != speaker {
                return Ok(());
            }
            (count, seq) = (count + 1, seq + 1);
            totals.received += 1;
            match judged {
                Ok(()) => {
                    if script.lose != Some(seq) {
                        state.stored.push(line.clone());
                    }
                    (totals.stored, since.stored) = (totals.stored + 1, since.stored + 1);
                }
                Err(code) => {
                    totals.rejected += 1;
                    since.rej.push(Rejection(seq, code.as_str().into(), 0));
                }
            }
            state.last_seq.insert(hello.producer.clone(), seq);
            drop(state);
            if script.break_after == Some(count) && self.may_break(script) {
                return stream.shutdown(std::net::Shutdown::Both);
            }
            if seq - acked >= script.ack_every.max(1) || reader.buffer().is_empty() {
                say(&mut stream, &Answer::Ack(std::mem::replace(&mut since, Ack::at(seq, level)).upto(seq)))?;
                acked = seq;
            }
        }
    }
}

trait Since {
    fn at(upto: u64, level: AckLevel) -> Ack;
    fn upto(self, upto: u64) -> Ack;
}

impl Since for Ack {
    fn at(upto: u64, level: AckLevel) -> Ack {
        Ack { upto, level, stored: 0, filtered: 0, dup: 0, rej: Vec::new() }
    }

    fn upto(mut self, upto: u64) -> Ack {
        self.upto = upto;
        self
    }
}

fn say(stream: &mut TcpStream, answer: &Answer) -> std::io::Result<()> {
    let mut out = Vec::new();
    answer.put(&mut out);
    stream.write_all(&out)
}

fn judge(line: &[u8]) -> Result<(), Code> {
    let value: Value = serde_json::from_slice(line).map_err(|_| Code::BadJson)?;
    match (value.get("level"), value.get("message")) {
        (Some(Value::String(_)), Some(_)) => Ok(()),
        (Some(_), Some(_)) => Err(Code::BadType),
        _ => Err(Code::MissingField),
    }
}

/// The generator with those arguments, and none of the caller's environment. Test programs whose names end in `epoll` run
/// it on epoll, the others on what it chooses by itself.
pub(crate) fn loadgen(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringest-loadgen"));
    let engine = if env!("CARGO_CRATE_NAME").ends_with("epoll") { "epoll" } else { "auto" };
    // Most tests are about lines, and run on machines that are busy with other tests.
    command
        .env_clear()
        .env("LOADGEN_MAX_LATE_SHARE", "100%")
        .env("LOADGEN_IO", engine)
        .args(arguments.split_whitespace());
    command
}

/// Runs the generator against a server; the report where it printed one.
pub(crate) fn run(server: &Server, arguments: &str) -> (Output, Value) {
    let target = format!("--host 127.0.0.1 --port {} --json - ", server.addr.port());
    let output = loadgen(&(target + arguments)).output().unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output, report)
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn pause() {
    thread::sleep(Duration::from_millis(300));
}
