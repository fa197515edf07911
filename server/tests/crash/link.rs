//! A connection that may break at any moment: every call says so, and waits for nothing.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

pub(crate) struct Link {
    stream: TcpStream,
    unsent: Vec<u8>,
    sent: usize,
    partial: Vec<u8>,
    lines: VecDeque<String>,
}

impl Link {
    pub(crate) fn open(addr: SocketAddr) -> io::Result<Link> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Link { stream, unsent: Vec::new(), sent: 0, partial: Vec::new(), lines: VecDeque::new() })
    }

    /// Puts a line behind what is still to be sent.
    pub(crate) fn put(&mut self, line: &str) {
        self.unsent.extend_from_slice(line.as_bytes());
        self.unsent.push(b'\n');
    }

    /// Whether all that was put is in the kernel's hands.
    pub(crate) fn is_sent(&self) -> bool {
        self.unsent.is_empty()
    }

    /// Sends what can be sent now.
    pub(crate) fn push(&mut self) -> io::Result<()> {
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
        for byte in &buf[..len] {
            match byte {
                b'\n' => {
                    let line = String::from_utf8(std::mem::take(&mut self.partial)).expect("answers are UTF-8");
                    self.lines.push_back(line);
                }
                byte => self.partial.push(*byte),
            }
        }
        Ok(())
    }
}
