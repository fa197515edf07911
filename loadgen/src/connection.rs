//! One connection of a worker: what it may write, and what it makes of what it reads.
//!
//! It never waits, and does not know what carries its bytes. Which lines it sends and when is the worker's decision; how
//! they are spelled on the wire, in plain or session mode, is this file's. Plain text is not buffered for sending: what the
//! socket does not take is rendered again. A gzip member that was begun is kept until the socket has taken it.

mod answers;
mod outbound;

use crate::books::{Books, Desk, Fault};
use crate::corpus::{Sender, Stamp};
use crate::io::{Io, News};
use crate::ledger::{Entry, Mode};
use crate::replies::Replies;
use crate::session::{Phase, Session};
use crate::stream::{Stream, TlsTerms, Wire, advice};
use crate::token::Token;
use answers::{hear_answers, hear_replies};
use outbound::{pack_lines, write_lines, write_packed};
use ringest_wire::AckLevel;
use ringest_wire::frame::Framer;
use std::io;
use std::net::SocketAddr;

/// One connection, and in session mode all that follow it for the same producer.
#[derive(Debug)]
pub struct Connection {
    /// Its number among the connections of the engine.
    at: usize,
    sender: Sender,
    stamp: Stamp,
    peer: SocketAddr,
    tls: Option<TlsTerms>,
    dialect: Dialect,
    link: Link,
    books: Books,
    /// Control lines that are not yet sent; they go out between lines, never inside one.
    control: Vec<u8>,
    /// Compressed, and how much of it is sent.
    packed: (Vec<u8>, usize),
    /// The socket takes no more; the engine says when it does.
    blocked: bool,
    pace: Pace,
    trouble: Option<Trouble>,
}

/// How it speaks, and what is unfinished of what it hears.
#[derive(Debug)]
enum Dialect {
    Plain(Replies),
    Session(Box<Session>, Framer),
}

/// Whether there is a socket.
#[derive(Debug)]
enum Link {
    /// Nobody has answered yet; until then it is waited for.
    Dialling(u64),
    Up(Stream),
    /// To be tried again then.
    Down(u64),
    Over,
}

/// Connections that broke, or could not be made, since a line was last answered.
#[derive(Clone, Copy, Debug)]
pub struct Trouble {
    since_ns: u64,
    /// How long to wait before the next attempt.
    pause_ns: u64,
}

/// How fast a connection writes and reads: as fast as it can, or a little at a time.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    writes_slowly: bool,
    reads_slowly: bool,
    /// When the next piece is written, where one was.
    write_ns: Option<u64>,
    /// When the next piece is read.
    read_ns: Option<u64>,
}

/// How the connections of a run speak in session mode.
#[derive(Clone, Debug)]
pub struct SessionTerms {
    /// The producer's incarnation.
    pub epoch: u64,
    /// The level to ask for; without it the server's default.
    pub ack: Option<AckLevel>,
    /// What the server asks for to let it in.
    pub token: Option<Token>,
}

impl Connection {
    /// Not yet connected. `tls` encrypts it, `terms` makes it a session.
    pub fn new(
        at: usize,
        sender: Sender,
        peer: SocketAddr,
        tls: Option<TlsTerms>,
        terms: Option<&SessionTerms>,
    ) -> Connection {
        let dialect = match terms {
            None => Dialect::Plain(Replies::default()),
            Some(terms) => {
                let producer = format!("lg-{:08x}/w{}-c{}", sender.run, sender.worker, sender.conn);
                Dialect::Session(
                    Box::new(Session::new(producer, terms.epoch, terms.ack).with_token(terms.token.clone())),
                    Framer::new(ANSWER_LEN_MAX),
                )
            }
        };
        Connection {
            at,
            sender,
            stamp: Stamp::new(sender),
            peer,
            tls,
            dialect,
            link: Link::Down(0),
            books: Books::new(),
            control: Vec::new(),
            packed: (Vec::new(), 0),
            blocked: false,
            pace: Pace::default(),
            trouble: None,
        }
    }

    /// The same, writing a few bytes at a time, or reading a few; see `PIECE_LEN` and `READ_LEN`.
    pub fn slow(self, writes_slowly: bool, reads_slowly: bool) -> Connection {
        Connection { pace: Pace { writes_slowly, reads_slowly, ..Pace::default() }, ..self }
    }

    /// Connects and, in session mode, says hello.
    ///
    /// # Errors
    /// Where nobody answers at the address.
    pub fn connect(&mut self, io: &mut Io, desk: &mut Desk<'_>) -> io::Result<()> {
        io.connect(self.at, self.peer)?;
        self.begin(desk)
    }

    /// It is connected.
    fn begin(&mut self, desk: &mut Desk<'_>) -> io::Result<()> {
        self.link = Link::Up(Stream::new(self.tls.as_ref())?);
        self.blocked = false;
        self.pace.write_ns = None;
        self.pace.read_ns = self.pace.reads_slowly.then_some(desk.now_ns);
        self.control.clear();
        self.packed = (Vec::new(), 0);
        // The greeting comes before whatever the last connection left unfinished.
        self.books.flight.forget_part();
        if let Dialect::Session(session, framer) = &mut self.dialect {
            *framer = Framer::new(ANSWER_LEN_MAX);
            session.greet(&mut self.control);
        }
        desk.tally.connects += 1;
        Ok(())
    }

    /// Who it sends as.
    pub fn sender(&self) -> Sender {
        self.sender
    }

    /// How it speaks.
    pub fn mode(&self) -> Mode {
        match self.dialect {
            Dialect::Plain(_) => Mode::Plain,
            Dialect::Session(..) => Mode::Session,
        }
    }

    /// Lines that take their turn from now on are measured.
    pub fn end_warm_up(&mut self) {
        self.books.end_warm_up();
    }

    /// The lines it sends.
    pub fn books(&self) -> &Books {
        &self.books
    }

    /// The level its answers promise, where that is known.
    pub fn level(&self) -> Option<AckLevel> {
        match &self.dialect {
            Dialect::Plain(_) => None,
            Dialect::Session(session, _) => session.level(),
        }
    }

    /// Whether it will never do anything more.
    pub fn is_over(&self) -> bool {
        matches!(self.link, Link::Over)
    }

    /// Whether it is connected, agreed on TLS where it is encrypted, and greeted where it is a session.
    pub fn is_open(&self) -> bool {
        matches!(&self.link, Link::Up(stream) if !stream.is_handshaking()) && self.phase() == Phase::Open
    }

    /// Whether both sides have said that nothing more comes.
    pub fn has_said_goodbye(&self) -> bool {
        self.phase() == Phase::Over
    }

    /// Whether it has connected and not yet agreed on TLS.
    pub fn is_handshaking(&self) -> bool {
        matches!(&self.link, Link::Up(stream) if stream.is_handshaking())
    }

    /// How many more lines may be assigned, where at most `depth` are to be unanswered. None while anything assigned
    /// earlier is not yet written.
    pub fn room(&self, depth: u64) -> u64 {
        let flight = &self.books.flight;
        if !self.is_open() || self.blocked || flight.written() < flight.assigned() {
            return 0;
        }
        let window = match &self.dialect {
            Dialect::Plain(_) => u64::MAX,
            Dialect::Session(session, _) => session.window(),
        };
        let own = if self.pace.writes_slowly { 1 } else { u64::MAX };
        depth.min(window).min(own).saturating_sub(flight.outstanding())
    }

    /// The next `count` lines take their turn.
    pub fn assign(&mut self, count: u64, slot: u64, desk: &mut Desk<'_>) {
        self.books.assign(count, slot, desk);
    }

    /// The socket may take more again.
    pub fn unblock(&mut self) {
        self.blocked = self.pace.write_ns.is_some();
    }

    /// Writes what may be written, for as long as the socket takes it.
    ///
    /// # Errors
    /// Where the connection is broken.
    pub fn flush(&mut self, io: &mut Io, desk: &mut Desk<'_>) -> Result<(), Fault> {
        while !self.blocked {
            match self.write_some(io, desk) {
                Ok(true) if self.pace.writes_slowly => {
                    (self.blocked, self.pace.write_ns) = (true, Some(desk.now_ns + PIECE_NS));
                    desk.tally.habit("slow_writes", 1);
                }
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.blocked = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(&error)),
            }
        }
        Ok(())
    }

    /// Writes a piece of what may be written; whether there was any.
    fn write_some(&mut self, io: &mut Io, desk: &mut Desk<'_>) -> io::Result<bool> {
        let (upto, at) = (self.writable_upto(), self.at);
        let len_max = if self.pace.writes_slowly { PIECE_LEN } else { usize::MAX };
        let Link::Up(stream) = &mut self.link else { return Ok(false) };
        stream.push(Wire { io: &mut *io, at })?;
        if stream.is_handshaking() {
            return Ok(false);
        }
        if !self.packed.0.is_empty() {
            write_packed(stream, Wire { io, at }, &mut self.packed, len_max, desk)?;
            return Ok(true);
        }
        if let Some(packer) = desk.packer.as_deref_mut().filter(|_| !self.control.is_empty()) {
            packer.pack(&self.control, &mut self.packed.0);
            self.control.clear();
            return Ok(true);
        }
        let between_lines = self.books.flight.offset() == 0;
        if between_lines && !self.control.is_empty() {
            let len = stream.write(Wire { io, at }, &self.control)?;
            self.control.drain(..len);
            return Ok(true);
        }
        if self.books.flight.written() >= upto {
            return Ok(false);
        }
        match desk.packer {
            None => write_lines(stream, Wire { io, at }, &self.stamp, &mut self.books, (upto, len_max), desk)?,
            Some(_) => pack_lines(&mut self.packed.0, &self.stamp, &mut self.books, upto, desk),
        }
        Ok(true)
    }

    /// Settles what the bytes that came answer. `room` is lent for what has to be decrypted.
    ///
    /// # Errors
    /// Where the connection or the session is at its end.
    pub fn receive(&mut self, bytes: &[u8], room: &mut Vec<u8>, desk: &mut Desk<'_>) -> Result<(), Fault> {
        let Link::Up(stream) = &mut self.link else {
            return Ok(());
        };
        let bytes = match stream.read(bytes, room) {
            Ok(bytes) => bytes,
            Err(error) => return Err(self.broken(&error)),
        };
        let settled = self.books.flight.settled();
        let outcome = match &mut self.dialect {
            Dialect::Plain(replies) => hear_replies(replies, bytes, &mut self.books, desk, self.peer),
            Dialect::Session(session, framer) => hear_answers(session, framer, bytes, &mut self.books, desk, self.peer),
        };
        if self.books.flight.settled() > settled {
            self.trouble = None;
        }
        outcome
    }

    /// When [`Connection::handle_timeout`] wants to be called.
    pub fn timeout(&self) -> Option<u64> {
        [self.own_timeout(), self.pace.write_ns, self.pace.read_ns].into_iter().flatten().min()
    }

    fn own_timeout(&self) -> Option<u64> {
        match (&self.link, self.phase()) {
            (Link::Down(at_ns) | Link::Dialling(at_ns), _) => Some(*at_ns),
            (Link::Up(_), Phase::Held { until_ns, .. }) => Some(until_ns),
            (Link::Up(_), Phase::Greeting | Phase::Open | Phase::Leaving | Phase::Over) | (Link::Over, _) => None,
        }
    }

    /// Its time has come: dials again, gives up waiting for an answer to that, or goes on after a `$nack`.
    ///
    /// # Errors
    /// Where nobody has answered for `reconnect_for_ns`.
    pub fn handle_timeout(&mut self, io: &mut Io, reconnect_for_ns: u64, desk: &mut Desk<'_>) -> Result<(), Fault> {
        if self.pace.write_ns.is_some_and(|at_ns| at_ns <= desk.now_ns) {
            (self.blocked, self.pace.write_ns) = (false, None);
        }
        if self.own_timeout().is_none_or(|at_ns| at_ns > desk.now_ns) {
            return Ok(());
        }
        match &mut self.link {
            Link::Over => {}
            Link::Up(_) => {
                if let Dialect::Session(session, _) = &mut self.dialect {
                    session.resume(&mut self.books, desk, &mut self.control);
                }
            }
            Link::Down(_) => match io.dial(self.at, self.peer) {
                Ok(()) => self.link = Link::Dialling(desk.now_ns + DIAL_NS),
                Err(error) => return self.handle_unconnected(io, &error, reconnect_for_ns, desk),
            },
            Link::Dialling(_) => {
                let error = io::ErrorKind::TimedOut.into();
                return self.handle_unconnected(io, &error, reconnect_for_ns, desk);
            }
        }
        Ok(())
    }

    /// What a slow reader finds when its time has come.
    pub fn read_slowly(&mut self, io: &mut Io, desk: &mut Desk<'_>) -> Option<News> {
        self.pace.read_ns.filter(|at_ns| *at_ns <= desk.now_ns)?;
        self.pace.read_ns = Some(desk.now_ns + READ_NS);
        let news = io.take(self.at, READ_LEN)?;
        desk.tally.habit("slow_reads", 1);
        Some(news)
    }

    /// Ends this connection and begins another, for no fault of anybody.
    pub fn renew(&mut self, io: &mut Io, now_ns: u64) {
        if let Dialect::Plain(replies) = &mut self.dialect {
            *replies = Replies::default();
        }
        self.close(io, now_ns);
    }

    /// What was dialled is there.
    ///
    /// # Errors
    /// Where that did not help for `reconnect_for_ns`.
    pub fn handle_connected(&mut self, io: &mut Io, reconnect_for_ns: u64, desk: &mut Desk<'_>) -> Result<(), Fault> {
        let error = match self.begin(desk) {
            Ok(()) if !self.is_tired(reconnect_for_ns, desk.now_ns) => return Ok(()),
            Ok(()) => io::Error::other("connections are taken, and break before a line is answered"),
            Err(error) => error,
        };
        self.handle_unconnected(io, &error, reconnect_for_ns, desk)
    }

    /// What was dialled does not come about; it is tried again soon.
    ///
    /// # Errors
    /// Where nobody has answered for `reconnect_for_ns`.
    pub fn handle_unconnected(
        &mut self,
        io: &mut Io,
        error: &io::Error,
        reconnect_for_ns: u64,
        desk: &mut Desk<'_>,
    ) -> Result<(), Fault> {
        desk.tally.fault("connect_failed");
        if self.is_tired(reconnect_for_ns, desk.now_ns) {
            let text = format!("{} (tried for {} s)", explain(self.peer, error), reconnect_for_ns / NS);
            return Err(Fault::fatal("unreachable", text));
        }
        self.put_down(io, None, desk.now_ns);
        Ok(())
    }

    fn is_tired(&self, reconnect_for_ns: u64, now_ns: u64) -> bool {
        self.trouble.is_some_and(|trouble| now_ns >= trouble.since_ns + reconnect_for_ns)
    }

    /// The connection broke; another is tried soon. A connection that takes the place of another goes on with its
    /// `trouble`.
    pub fn put_down(&mut self, io: &mut Io, trouble: Option<Trouble>, now_ns: u64) {
        let first = Trouble { since_ns: now_ns, pause_ns: PAUSE_MIN_NS };
        let trouble = self.trouble.or(trouble).unwrap_or(first);
        self.close(io, now_ns + trouble.pause_ns);
        self.trouble = Some(Trouble { pause_ns: (trouble.pause_ns * 2).min(PAUSE_MAX_NS), ..trouble });
    }

    /// Ends the connection; the next is tried at `again_ns`.
    fn close(&mut self, io: &mut Io, again_ns: u64) {
        io.close(self.at);
        self.link = Link::Down(again_ns);
        self.control.clear();
        self.blocked = false;
        (self.pace.write_ns, self.pace.read_ns) = (None, None);
    }

    /// How long it has been in trouble, if it is.
    pub fn trouble(&self) -> Option<Trouble> {
        self.trouble
    }

    /// Whether nobody has answered yet.
    pub fn is_dialling(&self) -> bool {
        matches!(self.link, Link::Dialling(_))
    }

    /// Whether it waits to be connected again.
    pub fn is_reconnecting(&self) -> bool {
        matches!(self.link, Link::Down(_) | Link::Dialling(_))
    }

    /// No more lines will come. Ends what has nothing under way; a session says goodbye first.
    pub fn leave(&mut self, io: &mut Io) {
        if self.books.flight.outstanding() > 0 {
            return;
        }
        match (&self.link, &mut self.dialect) {
            (Link::Up(_), Dialect::Session(session, _)) => match session.phase() {
                Phase::Open => session.leave(&mut self.control),
                Phase::Over => self.end(io),
                Phase::Greeting | Phase::Held { .. } | Phase::Leaving => {}
            },
            _ => self.end(io),
        }
    }

    /// Ends it as it is.
    pub fn end(&mut self, io: &mut Io) {
        if let Link::Up(stream) = &mut self.link {
            stream.say_end(Wire { io: &mut *io, at: self.at });
        }
        io.close(self.at);
        self.link = Link::Over;
        (self.pace.write_ns, self.pace.read_ns) = (None, None);
    }

    /// What it leaves to be proved.
    pub fn entry(&self) -> Entry {
        let session = match &self.dialect {
            Dialect::Plain(_) => None,
            Dialect::Session(session, _) => Some(session),
        };
        Entry {
            mode: self.mode(),
            worker: self.sender.worker,
            conn: self.sender.conn,
            producer: session.map(|session| session.producer().to_owned()),
            epoch: session.map(|session| session.epoch()),
            per_datagram: None,
            first: self.books.first(),
            sent_upto: self.books.sent_upto(),
            acked: self.books.acked(),
            rejected: self.books.rejected.clone(),
            filtered: self.books.filtered,
            duplicate: self.books.duplicate,
        }
    }

    fn phase(&self) -> Phase {
        match &self.dialect {
            Dialect::Plain(_) => Phase::Open,
            Dialect::Session(session, _) => session.phase(),
        }
    }

    fn writable_upto(&self) -> u64 {
        let flight = &self.books.flight;
        match self.phase() {
            Phase::Open => flight.assigned(),
            // A line that was begun is finished, so that what follows is a line of its own.
            Phase::Greeting | Phase::Held { .. } | Phase::Leaving | Phase::Over => flight.touched(),
        }
    }

    /// The fault where the peer has closed it.
    pub fn ended(&self) -> Fault {
        let outstanding = self.books.flight.outstanding();
        if self.is_handshaking() {
            let text = format!("{} closed the connection in the middle of the TLS handshake", self.peer);
            return Fault::lost("closed_by_server", text);
        }
        if outstanding == 0 && self.phase() == Phase::Leaving {
            return Fault::fatal(
                "no_bye",
                format!("{} closed the session without the $bye it was asked for", self.peer),
            );
        }
        Fault::lost(
            "closed_by_server",
            format!("{} closed the connection with {outstanding} lines unanswered", self.peer),
        )
    }

    /// The fault where it broke.
    pub fn broken(&self, error: &io::Error) -> Fault {
        if let Some(advice) = advice(error) {
            return Fault::fatal("tls_failed", format!("TLS with {} failed: {advice}", self.peer));
        }
        let outstanding = self.books.flight.outstanding();
        Fault::lost(
            "broken",
            format!("the connection to {} broke with {outstanding} lines unanswered: {error}", self.peer),
        )
    }
}

/// A sentence about a failed connection attempt, and what to check.
pub fn explain(peer: SocketAddr, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there; is the server running, on that address and port?",
        io::ErrorKind::TimedOut => "no answer in time; is the address right, and does a firewall drop packets?",
        io::ErrorKind::AddrNotAvailable => "no local port is free; fewer connections, or a wider ip_local_port_range?",
        _ if error.raw_os_error() == Some(24) => "too many open files; raise the limit with ulimit -n",
        _ => return format!("cannot connect to {peer}: {error}"),
    };
    format!("cannot connect to {peer}: {advice}")
}

const NS: u64 = 1_000_000_000;
/// How long a peer may take to answer a connection attempt.
const DIAL_NS: u64 = 2 * NS;
/// What a slow writer sends at a time, and how often: 3 KB/s.
const PIECE_LEN: usize = 64;
const PIECE_NS: u64 = 20_000_000;
/// What a slow reader reads at a time, and how often: 10 KB/s.
const READ_LEN: usize = 512;
const READ_NS: u64 = 50_000_000;
const PAUSE_MIN_NS: u64 = 10_000_000;
const PAUSE_MAX_NS: u64 = 500_000_000;
/// An acknowledgement that names ten thousands of refused lines fits.
const ANSWER_LEN_MAX: usize = 4 << 20;
