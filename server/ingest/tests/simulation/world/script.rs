//! What clients do next, and what they make of the answers.

use super::World;
use crate::client::{Client, State};
use crate::conn::{Conn, Plain, Session, View, What};
use ringest_wire::AckLevel;
use ringest_wire::answer::Answer;
use ringest_wire::control::{Control, Hello, Resume};
use std::time::Duration;

impl World {
    /// A client reads what has arrived.
    pub(super) fn listen(&mut self, at: usize) {
        let conn = &mut self.conns[at];
        let Some(end) = conn.inbox.iter().rposition(|&byte| byte == b'\n') else { return };
        let heard: Vec<u8> = conn.inbox.drain(..=end).collect();
        let View::Session(session) = &conn.view else { return };
        let level = session.level;
        let Client::Producer(producer) = &mut self.clients[conn.client] else { unreachable!() };
        if producer.conn != Some(at) {
            return;
        }
        let before = producer.epoch;
        for line in heard[..end].split(|&byte| byte == b'\n').filter(|line| line.starts_with(b"{\"$")) {
            let answer = Answer::parse(line).expect("checked when it was said");
            producer.handle_answer(&answer, level, self.now, &mut self.rng);
        }
        if producer.epoch != before {
            self.truth.begin_stream(&producer.name, producer.epoch, producer.base);
        }
    }

    pub(super) fn can_act(&self, at: usize) -> bool {
        if self.is_draining {
            return false;
        }
        let has_room = |conn: usize| {
            let conn = &self.conns[conn];
            !conn.is_ended && conn.unsent() < 4 * self.limits.chunk_len_max.min(8192)
        };
        match &self.clients[at] {
            Client::Plain(plain) => match plain.conn {
                None => plain.conns_left > 0,
                Some(conn) => has_room(conn),
            },
            Client::Producer(producer) => match (producer.state, producer.conn) {
                (State::Away, _) => self.now >= producer.retry_at,
                (State::Open, Some(conn)) => {
                    has_room(conn)
                        && match producer.resume {
                            Some((_, due)) => self.now >= due,
                            None => {
                                producer.next <= producer.goal || producer.is_settled(self.conns[conn].session().level)
                            }
                        }
                }
                _ => false,
            },
        }
    }

    pub(super) fn act(&mut self, at: usize) {
        match &self.clients[at] {
            Client::Plain(plain) => match plain.conn {
                None => self.begin_plain(at),
                Some(conn) => self.continue_plain(at, conn),
            },
            Client::Producer(producer) => match producer.conn {
                None => self.say_hello(at),
                Some(conn) => self.continue_stream(at, conn),
            },
        }
    }

    pub(super) fn connect(&mut self, client: usize, view: View) -> usize {
        let node = self.rng.index(self.nodes.len());
        let packed = self.rng.one_in(4).then(Vec::new);
        self.saw_if("a connection sent gzip", packed.is_some());
        self.conns.push(Conn { packed, ..Conn::new(client, node, view) });
        self.conns.len() - 1
    }

    pub(super) fn begin_plain(&mut self, at: usize) {
        let conn = self.connect(at, View::Plain(Plain { level: self.ack, cursor: 0 }));
        self.conns[conn].reads = !self.rng.one_in(5);
        let lines_left = self.rng.below(80);
        let Client::Plain(plain) = &mut self.clients[at] else { unreachable!() };
        plain.conn = Some(conn);
        plain.conns_left -= 1;
        plain.lines_left = lines_left;
        trace!(self, "client {at}: plain conn {conn}, {lines_left} lines");
    }

    pub(super) fn continue_plain(&mut self, at: usize, conn: usize) {
        let Client::Plain(plain) = &mut self.clients[at] else { unreachable!() };
        let lines = self.rng.within(1, 10).min(plain.lines_left);
        plain.lines_left -= lines;
        let is_last = plain.lines_left == 0;
        for _ in 0..lines {
            self.say_blank(conn);
            let rid = self.truth.plain_line(&mut self.rng, &self.style, conn);
            self.say_line(conn, rid, 0);
        }
        if is_last {
            if self.rng.one_in(3) {
                let rid = self.truth.plain_line(&mut self.rng, &self.style, conn);
                self.say_cut(conn, rid, 0);
            }
            self.conns[conn].is_ended = true;
        }
    }

    pub(super) fn say_hello(&mut self, at: usize) {
        let Client::Producer(producer) = &self.clients[at] else { unreachable!() };
        let ack = *self.rng.pick(&producer.levels);
        // Who was refused a level asks for a weaker one; now and then somebody tries.
        let is_too_much = ack.is_some_and(|level| level > self.ack_max);
        let ack = ack.filter(|_| !is_too_much || (!self.is_calm && self.rng.one_in(2)));
        let resume_from = producer.resume_from(&mut self.rng);
        let level = ack.unwrap_or(self.ack);
        let (name, epoch) = (producer.name.clone(), producer.epoch);
        let view = View::Session(Box::new(Session::new(&name, epoch, level, resume_from)));
        let conn = self.connect(at, view);
        trace!(self, "client {at}: conn {conn}, hello {name}/{epoch} {level} from {resume_from:?}");
        let mut line = Vec::new();
        Control::Hello(Hello { ack, resume_from, ..Hello::new(&*name, epoch) }).put(&mut line);
        self.conns[conn].say(&line, b"", What::Hello);
        let waits = resume_from.is_none() || self.rng.one_in(3);
        let Client::Producer(producer) = &mut self.clients[at] else { unreachable!() };
        producer.conn = Some(conn);
        producer.asked = resume_from;
        producer.next = resume_from.unwrap_or(0);
        producer.state = if waits { State::Waiting } else { State::Open };
    }

    pub(super) fn continue_stream(&mut self, at: usize, conn: usize) {
        let level = self.conns[conn].session().level;
        let Client::Producer(producer) = &mut self.clients[at] else { unreachable!() };
        if let Some((from, _)) = producer.resume.take() {
            let from = if self.rng.one_in(4) { self.rng.within(producer.base, from) } else { from };
            producer.next = from;
            self.saw("a client resumed after a nack");
            return self.say_control(conn, &Control::Resume(Resume { from }), What::Resume(from));
        }
        if producer.next > producer.goal {
            producer.state = State::Leaving;
            if level != AckLevel::None {
                assert!(producer.settled >= producer.goal, "it has waited for that");
            }
            self.say_control(conn, &Control::Bye(1), What::Bye);
            if self.rng.one_in(2) {
                self.conns[conn].is_ended = true;
            }
            return;
        }
        if !producer.zombies.is_empty() && self.rng.one_in(3) {
            self.say_as_zombie(at);
        }
        let lines = self.rng.within(1, 12);
        self.say_stream(at, conn, lines);
        if !self.is_calm && self.rng.one_in(8) {
            self.misbehave(at, conn);
        }
    }

    pub(super) fn say_stream(&mut self, at: usize, conn: usize, lines: u64) {
        for _ in 0..lines {
            let Client::Producer(producer) = &mut self.clients[at] else { unreachable!() };
            if producer.next > producer.goal {
                return;
            }
            let seq = producer.next;
            producer.next += 1;
            let (name, epoch) = (producer.name.clone(), producer.epoch);
            self.say_blank(conn);
            if self.rng.one_in(30) {
                let number = self.rng.below(1000);
                self.say_control(conn, &Control::Ping(number), What::Ping(number));
            }
            if self.rng.one_in(30) {
                self.say_control(conn, &Control::Flush(1), What::Control);
            }
            let rid = self.truth.stream_line(&mut self.rng, &self.style, &name, epoch, seq);
            self.say_line(conn, rid, seq);
        }
    }

    /// A connection that its client has given up goes on with lines that the client sends elsewhere by now.
    pub(super) fn say_as_zombie(&mut self, at: usize) {
        let Client::Producer(producer) = &mut self.clients[at] else { unreachable!() };
        let zombie = self.rng.index(producer.zombies.len());
        let (conn, first) = producer.zombies[zombie];
        let (name, epoch) = (producer.name.clone(), self.conns[conn].session().epoch);
        for seq in first..first + self.rng.within(1, 5) {
            let Some(rid) = self.truth.rid(&name, epoch, seq) else { return };
            if self.conns[conn].is_ended {
                return;
            }
            self.say_line(conn, rid, seq);
            let Client::Producer(producer) = &mut self.clients[at] else { unreachable!() };
            producer.zombies[zombie].1 = seq + 1;
        }
        self.saw("a connection that was given up went on");
    }

    /// An incarnation that is over comes back.
    pub(super) fn say_hello_again(&mut self, at: usize, epoch: u64) {
        let Client::Producer(producer) = &mut self.clients[at] else { unreachable!() };
        let name = producer.name.clone();
        let base = self.truth.stream(&name, epoch).base;
        let view = View::Session(Box::new(Session::new(&name, epoch, self.ack, Some(base))));
        let conn = self.connect(at, view);
        trace!(self, "client {at}: conn {conn}, hello again {name}/{epoch}");
        self.saw("an incarnation that was over came back");
        let mut line = Vec::new();
        Control::Hello(Hello { resume_from: Some(base), ..Hello::new(&*name, epoch) }).put(&mut line);
        self.conns[conn].say(&line, b"", What::Hello);
        let Client::Producer(producer) = &mut self.clients[at] else { unreachable!() };
        producer.zombies.push((conn, base));
    }

    /// What a client may do in the middle of its stream, and better did not.
    pub(super) fn misbehave(&mut self, at: usize, conn: usize) {
        let Client::Producer(producer) = &mut self.clients[at] else { unreachable!() };
        match self.rng.below(8) {
            7 => {
                if let Some(epoch) = producer.epochs_over.pop() {
                    self.say_hello_again(at, epoch);
                }
            }
            6 => {
                let from = self.rng.within(producer.base, producer.next);
                producer.next = from;
                self.say_control(conn, &Control::Resume(Resume { from }), What::Resume(from));
                self.saw("a client went back unasked");
            }
            0 => {
                trace!(self, "client {at} says bye early");
                producer.state = State::Leaving;
                self.say_control(conn, &Control::Bye(1), What::Bye);
                self.saw("a client said bye before it was answered");
            }
            1 => {
                let seq = producer.next;
                if seq <= producer.goal {
                    trace!(self, "client {at} ends in the middle of line {seq}");
                    let (name, epoch) = (producer.name.clone(), producer.epoch);
                    let rid = self.truth.stream_line(&mut self.rng, &self.style, &name, epoch, seq);
                    self.say_cut(conn, rid, seq);
                    self.saw("a stream ended in the middle of a line");
                }
                let Client::Producer(producer) = &mut self.clients[at] else { unreachable!() };
                producer.state = State::Leaving;
                self.conns[conn].is_ended = true;
            }
            2 => {
                self.conns[conn].say(br#"{"$nonsense":1}"#, b"\n", What::Control);
                self.saw("a client talked nonsense");
            }
            3 | 4 => {
                trace!(self, "client {at} gives up conn {conn} without closing it");
                producer.zombies.push((conn, producer.next));
                producer.conn = None;
                producer.resume = None;
                producer.state = State::Away;
                self.saw("a second connection took over");
            }
            _ => {
                if producer.bumps_left > 0 {
                    producer.bumps_left -= 1;
                    producer.zombies.push((conn, producer.next));
                    producer.epochs_over.push(producer.epoch);
                    producer.epoch += self.rng.within(1, 3);
                    producer.begin(&mut self.rng);
                    self.truth.begin_stream(&producer.name, producer.epoch, producer.base);
                    self.saw("a producer began a new epoch");
                }
            }
        }
    }

    pub(super) fn say_line(&mut self, conn: usize, rid: usize, seq: u64) {
        let ending: &[u8] = if self.rng.one_in(5) { b"\r\n" } else { b"\n" };
        self.conns[conn].say(&self.truth.lines[rid].bytes, ending, What::Line { rid, seq });
    }

    /// Says the beginning of a line, or all of it, without an ending. The beginning of a record is no record.
    pub(super) fn say_cut(&mut self, conn: usize, rid: usize, seq: u64) {
        let bytes = &self.truth.lines[rid].bytes;
        let len = if self.rng.one_in(4) { bytes.len() } else { self.rng.within(1, bytes.len() as u64) as usize };
        let may_be_record = len < bytes.len() && bytes[..len].trim_ascii_end().ends_with(b"}");
        let piece = &bytes[..if may_be_record { 1 } else { len }];
        self.conns[conn].say(piece, b"", What::Cut { rid, seq });
    }

    pub(super) fn say_blank(&mut self, conn: usize) {
        if self.rng.one_in(25) && !self.conns[conn].said.is_empty() {
            let blank: &[u8] = if self.rng.one_in(2) { b"\n" } else { b"\r\n" };
            self.conns[conn].say(b"", blank, What::Blank);
        }
    }

    pub(super) fn say_control(&mut self, conn: usize, control: &Control, what: What) {
        let mut line = Vec::new();
        control.put(&mut line);
        self.conns[conn].say(&line, b"", what);
    }
}

impl Client {
    pub(super) fn is_done(&self) -> bool {
        match self {
            Client::Plain(plain) => plain.conns_left == 0 && plain.conn.is_none(),
            Client::Producer(producer) => producer.state == State::Done,
        }
    }

    /// When it does something by itself.
    pub(super) fn due(&self) -> Option<Duration> {
        match self {
            Client::Plain(_) => None,
            Client::Producer(producer) => match producer.state {
                State::Away => Some(producer.retry_at),
                State::Open => producer.resume.map(|(_, due)| due),
                State::Waiting | State::Leaving | State::Done => None,
            },
        }
    }
}
