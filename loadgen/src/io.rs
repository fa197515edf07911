//! Bytes in and out of one thread's connections, on io_uring or on epoll: who decides what is sent does not know which.
//!
//! It waits in [`Io::wait`], and where that is asked for in [`Io::connect`]; nowhere else. It decides nothing: it sends
//! what it is given, tells what came, and says when a connection that took no more takes more again. A connection goes
//! by a number of its user's; what belongs to an earlier connection of that number is never told.

mod epoll;
mod uring;

use epoll::Epoll;
use ringest_sys::net;
use ringest_sys::ring::{self, Lease};
use std::fmt;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use uring::Uring;

/// What carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Sends in batches and receives that stay armed, through one ring per thread.
    Uring,
    /// Readiness, and a system call for each piece.
    Epoll,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// io_uring where it works, epoll where not.
    #[default]
    Auto,
    /// io_uring, or nothing.
    Uring,
    /// epoll.
    Epoll,
}

impl Engine {
    /// The engine for what was asked, and where that is another than was hoped for, a sentence that says why. io_uring is
    /// tried, which takes a millisecond: once per run, for all threads.
    ///
    /// # Errors
    /// io_uring was asked for and cannot be used here: a sentence.
    pub fn choose(choice: Choice) -> Result<(Engine, Option<String>), String> {
        let refusal = match choice {
            Choice::Epoll => return Ok((Engine::Epoll, None)),
            Choice::Auto | Choice::Uring => match ring::probe() {
                Ok(()) => return Ok((Engine::Uring, None)),
                Err(refusal) => refusal,
            },
        };
        match choice {
            Choice::Uring => Err(format!("io_uring cannot be used here: {refusal}; --io epoll does without")),
            Choice::Auto | Choice::Epoll => {
                Ok((Engine::Epoll, Some(format!("io_uring cannot be used here, so this is epoll: {refusal}"))))
            }
        }
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Engine::Uring => "uring",
            Engine::Epoll => "epoll",
        }
    }
}

/// What comes in, which decides into how many buffers of which size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// Answers to lines, on about so many connections: little at a time.
    Answers(usize),
    /// Lines: as much as there is.
    Lines,
}

/// The connections of one thread, which made it: a ring belongs to its thread.
#[derive(Debug)]
pub struct Io {
    running: Running,
    /// What was read because somebody asked.
    asked: Vec<u8>,
}

#[derive(Debug)]
enum Running {
    Uring(Box<Uring>),
    Epoll(Epoll),
}

/// Something that happened to connection `at`.
#[derive(Debug)]
pub struct Event {
    /// Its number.
    pub at: usize,
    /// What.
    pub news: News,
}

/// What happened.
#[derive(Debug)]
pub enum News {
    /// Bytes came: see [`Io::bytes`], and give them back with [`Io::release`].
    Bytes(Chunk),
    /// The peer has sent everything.
    Ended,
    /// It is broken.
    Broken(io::Error),
    /// It was dialled, and is there.
    Connected,
    /// It took no more, and takes more again.
    Room,
    /// Somebody wants to be accepted; `at` means nothing.
    Called,
}

/// Bytes that came, until they are given back.
#[must_use = "a chunk that is not given back is a buffer lost"]
#[derive(Debug)]
pub struct Chunk(Place);

#[derive(Debug)]
enum Place {
    /// The first so many of the engine's one buffer.
    Read(usize),
    /// So many that were asked for.
    Asked(usize),
    Lease(Lease),
}

impl Io {
    /// For the calling thread.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn new(engine: Engine, intake: Intake) -> io::Result<Io> {
        let running = match engine {
            Engine::Uring => Running::Uring(Box::new(Uring::new(intake)?)),
            Engine::Epoll => Running::Epoll(Epoll::new()?),
        };
        Ok(Io { running, asked: Vec::new() })
    }

    /// Connects number `at` to a peer, in the place of whatever had that number. It waits for the peer, but not for long.
    ///
    /// # Errors
    /// Where nobody answers.
    pub fn connect(&mut self, at: usize, peer: SocketAddr) -> io::Result<()> {
        let tcp = TcpStream::connect_timeout(&peer, CONNECT_TIMEOUT)?;
        self.adopt(at, tcp)
    }

    /// Begins to connect number `at` to a peer, in the place of whatever had that number: [`News::Connected`] or
    /// [`News::Broken`] will come, if the peer or the network says anything.
    ///
    /// # Errors
    /// Where it is clear at once that nobody answers.
    pub fn dial(&mut self, at: usize, peer: SocketAddr) -> io::Result<()> {
        self.close(at);
        let tcp = net::dial(peer)?;
        match &mut self.running {
            Running::Uring(uring) => {
                uring.dial(at, tcp);
                Ok(())
            }
            Running::Epoll(epoll) => epoll.dial(at, tcp),
        }
    }

    /// Takes a connection over as number `at`, in the place of whatever had that number.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn adopt(&mut self, at: usize, tcp: TcpStream) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        tcp.set_nonblocking(true)?;
        self.close(at);
        match &mut self.running {
            Running::Uring(uring) => {
                uring.adopt(at, tcp);
                Ok(())
            }
            Running::Epoll(epoll) => epoll.adopt(at, tcp),
        }
    }

    /// Tells [`News::Called`] when somebody wants to be accepted by a listener that does not block and outlives this. Then
    /// everybody who waits has to be accepted.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn watch(&mut self, listener: &TcpListener) -> io::Result<()> {
        match &mut self.running {
            Running::Uring(uring) => uring.watch(listener),
            Running::Epoll(epoll) => epoll.watch(listener),
        }
    }

    /// Takes the beginning of `bytes` for connection `at`, and has them sent at the next [`Io::wait`] at the latest; how
    /// many. They may be changed afterwards.
    ///
    /// # Errors
    /// `WouldBlock` where it takes none now, and then [`News::Room`] will come; otherwise it is broken.
    #[inline]
    pub fn send(&mut self, at: usize, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.running {
            Running::Uring(uring) => uring.send(at, bytes),
            Running::Epoll(epoll) => epoll.send(at, bytes),
        }
    }

    /// Ends connection `at`, if there is one. What was taken and not sent yet is sent as far as that needs no waiting.
    pub fn close(&mut self, at: usize) {
        match &mut self.running {
            Running::Uring(uring) => uring.close(at),
            Running::Epoll(epoll) => epoll.close(at),
        }
    }

    /// Whether something was taken that the next [`Io::wait`] sends.
    pub fn is_loaded(&self) -> bool {
        match &self.running {
            Running::Uring(uring) => uring.is_loaded(),
            Running::Epoll(_) => false,
        }
    }

    /// Connections of number `at` that are made from now on are read only by [`Io::take`]: no bytes of theirs, and no end,
    /// are told.
    pub fn read_only_when_asked(&mut self, at: usize) {
        let unread = match &mut self.running {
            Running::Uring(uring) => &mut uring.unread,
            Running::Epoll(epoll) => &mut epoll.unread,
        };
        unread.insert(at);
    }

    /// What has come of connection `at`, at most `len_max` bytes; none where nothing has.
    pub fn take(&mut self, at: usize, len_max: usize) -> Option<News> {
        let mut tcp = match &mut self.running {
            Running::Uring(uring) => uring.tcp(at)?,
            Running::Epoll(epoll) => epoll.tcp(at)?,
        };
        self.asked.resize(len_max, 0);
        match tcp.read(&mut self.asked) {
            Ok(0) => Some(News::Ended),
            Ok(len) => Some(News::Bytes(Chunk(Place::Asked(len)))),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
            Err(error) => Some(News::Broken(error)),
        }
    }

    /// Sends what was taken, and waits until something happens, no longer than `timeout`.
    ///
    /// # Errors
    /// Where the engine itself is broken.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        match &mut self.running {
            Running::Uring(uring) => uring.wait(timeout),
            Running::Epoll(epoll) => epoll.wait(timeout),
        }
    }

    /// The next thing that happened, until there is nothing more.
    #[expect(clippy::should_implement_trait, reason = "it is used between two events, so it cannot be borrowed")]
    pub fn next(&mut self) -> Option<Event> {
        match &mut self.running {
            Running::Uring(uring) => uring.next(),
            Running::Epoll(epoll) => epoll.next(),
        }
    }

    /// The bytes that came. On epoll only until the next event.
    pub fn bytes(&self, chunk: &Chunk) -> &[u8] {
        match (&self.running, &chunk.0) {
            (Running::Uring(uring), Place::Lease(lease)) => uring.lent(lease),
            (Running::Epoll(epoll), Place::Read(len)) => epoll.read(*len),
            (_, Place::Asked(len)) => &self.asked[..*len],
            (Running::Uring(_), Place::Read(_)) | (Running::Epoll(_), Place::Lease(_)) => {
                unreachable!("a chunk goes back to the engine it came from")
            }
        }
    }

    /// Gives the bytes back.
    pub fn release(&mut self, chunk: Chunk) {
        match (&mut self.running, chunk.0) {
            (Running::Uring(uring), Place::Lease(lease)) => uring.release(lease),
            (Running::Epoll(_), Place::Read(_)) | (_, Place::Asked(_)) => {}
            (Running::Uring(_), Place::Read(_)) | (Running::Epoll(_), Place::Lease(_)) => {
                unreachable!("a chunk goes back to the engine it came from")
            }
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names connection `at` of a generation to the kernel.
fn token(at: usize, generation: u32) -> u64 {
    let at = u32::try_from(at).expect("four billion connections do not fit into memory");
    u64::from(generation) << 32 | u64::from(at)
}

/// The connection of a token, and its generation.
fn parts(token: u64) -> (usize, u32) {
    (token as u32 as usize, (token >> 32) as u32)
}

fn not_connected() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

/// What a watched listener goes by: generations do not get there.
const LISTENER: u64 = u64::MAX;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
