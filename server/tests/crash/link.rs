//! A connection that may break at any moment, encrypted or not: every call says so, and waits for nothing.

use crate::support::gzip::{bgzf, member};
use rustls::{ClientConfig, ClientConnection};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

pub(crate) struct Link {
    stream: TcpStream,
    tls: Option<ClientConnection>,
    packing: Packing,
    unsent: Vec<u8>,
    sent: usize,
    partial: Vec<u8>,
    lines: VecDeque<String>,
}

/// How what is put is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    /// A gzip member per line.
    Line,
    /// A BGZF member per line.
    Sized,
}

impl Packing {
    /// One of them.
    pub(crate) fn of(number: u64) -> Packing {
        [Packing::Plain, Packing::Line, Packing::Sized][(number % 3) as usize]
    }
}

impl Link {
    pub(crate) fn open(addr: SocketAddr, tls: Option<Arc<ClientConfig>>, packing: Packing) -> io::Result<Link> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let name = "localhost".try_into().expect("that is a name");
        let tls = tls.map(|config| {
            let mut tls = ClientConnection::new(config, name).expect("such a client can be");
            tls.set_buffer_limit(None); // What is put waits here until the handshake is done.
            tls
        });
        let lines = VecDeque::new();
        Ok(Link { stream, tls, packing, unsent: Vec::new(), sent: 0, partial: Vec::new(), lines })
    }

    /// Puts a line behind what is still to be sent.
    pub(crate) fn put(&mut self, line: &str) {
        let line = format!("{line}\n").into_bytes();
        let bytes = match self.packing {
            Packing::Plain => line,
            Packing::Line => member(line),
            Packing::Sized => bgzf(line),
        };
        match &mut self.tls {
            None => self.unsent.extend_from_slice(&bytes),
            Some(tls) => tls.writer().write_all(&bytes).expect("memory takes it"),
        }
    }

    /// Whether all that was put is in the kernel's hands.
    pub(crate) fn is_sent(&self) -> bool {
        self.unsent.is_empty() && self.tls.as_ref().is_none_or(|tls| !tls.is_handshaking() && !tls.wants_write())
    }

    /// Sends what can be sent now.
    pub(crate) fn push(&mut self) -> io::Result<()> {
        while let Some(tls) = self.tls.as_mut().filter(|tls| tls.wants_write()) {
            tls.write_tls(&mut self.unsent)?;
        }
        while self.sent < self.unsent.len() {
            match self.stream.write(&self.unsent[self.sent..]) {
                Ok(len) => self.sent += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.unsent.clear();
        self.sent = 0;
        Ok(())
    }

    /// The next line that has arrived whole. What arrived before the connection broke is told before the break.
    pub(crate) fn next_line(&mut self) -> io::Result<Option<String>> {
        if self.lines.is_empty() {
            self.fill()?;
        }
        Ok(self.lines.pop_front())
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut buf = [0; 16 << 10];
        let len = match self.stream.read(&mut buf) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some(tls) = &mut self.tls else {
            self.take(&buf[..len]);
            return Ok(());
        };
        let (mut news, mut plain) = (&buf[..len], Vec::new());
        while !news.is_empty() && tls.read_tls(&mut news)? > 0 {
            tls.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            match tls.reader().read_to_end(&mut plain) {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        self.take(&plain);
        Ok(())
    }

    fn take(&mut self, plain: &[u8]) {
        for byte in plain {
            match byte {
                b'\n' => {
                    let line = String::from_utf8(std::mem::take(&mut self.partial)).expect("answers are UTF-8");
                    self.lines.push_back(line);
                }
                byte => self.partial.push(*byte),
            }
        }
    }
}
