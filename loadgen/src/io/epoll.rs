//! Connections by readiness: what can be read is read into one buffer, what is sent is sent at once.

use super::{Chunk, Event, LISTENER, News, Place, not_connected, parts, token};
use ringest_sys::net;
use ringest_sys::poller::{Interest, Poller, Readiness};
use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Epoll {
    poller: Poller,
    /// What the last wait found, and how much of it is told.
    ready: Vec<Readiness>,
    told: usize,
    connections: Vec<Option<Connection>>,
    generation: u32,
    /// Connections that are read only when somebody asks.
    pub(super) unread: BTreeSet<usize>,
    buf: Vec<u8>,
}

#[derive(Debug)]
struct Connection {
    tcp: TcpStream,
    generation: u32,
    /// It is dialled, and the poller says when there is something to be said about that.
    is_dialling: bool,
    /// It took no more; the poller says when it does.
    is_full: bool,
}

impl Epoll {
    pub(super) fn new() -> io::Result<Epoll> {
        Ok(Epoll {
            poller: Poller::new()?,
            ready: Vec::new(),
            told: 0,
            connections: Vec::new(),
            generation: 0,
            unread: BTreeSet::new(),
            buf: vec![0; RECEIVE_LEN],
        })
    }

    pub(super) fn adopt(&mut self, at: usize, tcp: TcpStream) -> io::Result<()> {
        self.add(at, tcp, false)
    }

    pub(super) fn dial(&mut self, at: usize, tcp: TcpStream) -> io::Result<()> {
        self.add(at, tcp, true)
    }

    fn add(&mut self, at: usize, tcp: TcpStream, is_dialling: bool) -> io::Result<()> {
        self.generation += 1;
        let generation = self.generation;
        let interest = if is_dialling { Interest::WRITE } else { usual(&self.unread, at) };
        self.poller.add(tcp.as_fd(), token(at, generation), interest)?;
        if self.connections.len() <= at {
            self.connections.resize_with(at + 1, || None);
        }
        self.connections[at] = Some(Connection { tcp, generation, is_dialling, is_full: false });
        Ok(())
    }

    pub(super) fn watch(&mut self, listener: &TcpListener) -> io::Result<()> {
        self.poller.add(listener.as_fd(), LISTENER, Interest::READ)
    }

    pub(super) fn send(&mut self, at: usize, bytes: &[u8]) -> io::Result<usize> {
        let connection = self.connections.get_mut(at).and_then(Option::as_mut).ok_or_else(not_connected)?;
        let outcome = net::send(connection.tcp.as_fd(), bytes);
        if outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock) && !connection.is_full {
            let name = token(at, connection.generation);
            let interest = if self.unread.contains(&at) { Interest::WRITE } else { Interest::BOTH };
            self.poller.modify(connection.tcp.as_fd(), name, interest)?;
            connection.is_full = true;
        }
        outcome
    }

    pub(super) fn close(&mut self, at: usize) {
        // The close ends the watch, too.
        drop(self.connections.get_mut(at).and_then(Option::take));
    }

    pub(super) fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.told = 0;
        self.poller.wait(Some(timeout), &mut self.ready)
    }

    pub(super) fn next(&mut self) -> Option<Event> {
        while let Some(readiness) = self.ready.get_mut(self.told) {
            if readiness.token == LISTENER {
                self.told += 1;
                return Some(Event { at: 0, news: News::Called });
            }
            let (at, generation) = parts(readiness.token);
            let usual = usual(&self.unread, at);
            let found = self.connections.get_mut(at).and_then(Option::as_mut);
            let news = match found.filter(|connection| connection.generation == generation) {
                Some(connection) if connection.is_dialling => {
                    (readiness.readable, readiness.writable) = (false, false);
                    connection.is_dialling = false;
                    let watched = self.poller.modify(connection.tcp.as_fd(), readiness.token, usual);
                    let outcome = net::outcome(connection.tcp.as_fd()).and(watched);
                    Some(outcome.map_or_else(News::Broken, |()| News::Connected))
                }
                Some(connection) if std::mem::take(&mut readiness.readable) && usual.read => {
                    read(&mut connection.tcp, &mut self.buf)
                }
                Some(connection) if std::mem::take(&mut readiness.writable) => {
                    connection.is_full = false;
                    let watched = self.poller.modify(connection.tcp.as_fd(), readiness.token, usual);
                    Some(watched.map_or_else(News::Broken, |()| News::Room))
                }
                // It is told, or was closed meanwhile.
                Some(_) | None => {
                    self.told += 1;
                    None
                }
            };
            if let Some(news) = news {
                return Some(Event { at, news });
            }
        }
        None
    }

    pub(super) fn tcp(&self, at: usize) -> Option<&TcpStream> {
        self.connections.get(at)?.as_ref().map(|connection| &connection.tcp)
    }

    pub(super) fn read(&self, len: usize) -> &[u8] {
        &self.buf[..len]
    }
}

/// What a connection that has room is watched for.
fn usual(unread: &BTreeSet<usize>, at: usize) -> Interest {
    if unread.contains(&at) { Interest::NONE } else { Interest::READ }
}

fn read(tcp: &mut TcpStream, buf: &mut [u8]) -> Option<News> {
    match tcp.read(buf) {
        Ok(0) => Some(News::Ended),
        Ok(len) => Some(News::Bytes(Chunk(Place::Read(len)))),
        // Told again if there is something after all.
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => None,
        Err(error) => Some(News::Broken(error)),
    }
}

const RECEIVE_LEN: usize = 256 << 10;
