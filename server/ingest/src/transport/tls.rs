//! The TLS of one connection, without I/O: rustls does all of it.

use super::Decoded;
use rustls::{ServerConfig, ServerConnection};
use std::io::{BufRead, ErrorKind, Read, Write};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Tls {
    connection: ServerConnection,
    is_broken: bool,
}

impl Tls {
    pub(super) fn new(config: Arc<ServerConfig>) -> Option<Tls> {
        let mut connection = ServerConnection::new(config).ok()?;
        // One answer is encoded at a time, and its length is bounded.
        connection.set_buffer_limit(None);
        Some(Tls { connection, is_broken: false })
    }

    /// Whether the two sides have not yet agreed.
    pub(super) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Whether the peer broke the rules, so that nothing more of it can be read.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Decodes records from `input` until `take` has had something from them.
    pub(super) fn decode(&mut self, input: &mut &[u8], mut take: impl FnMut(&mut &[u8]) -> Decoded) -> Decoded {
        loop {
            // What is decoded already goes first, also what came before a broken record: rustls takes no more while
            // much of it waits.
            let mut reader = self.connection.reader();
            match reader.fill_buf() {
                Ok([]) => return Decoded::Ended,
                Ok(plain) => {
                    let mut left = plain;
                    let decoded = take(&mut left);
                    let taken = plain.len() - left.len();
                    reader.consume(taken);
                    if decoded != Decoded::Starved {
                        return decoded;
                    }
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Decoded::Ended,
            }
            // What is decoded may have been taken without giving anything yet; what it began may still give more.
            let decoded = take(&mut &[][..]);
            if decoded != Decoded::Starved {
                return decoded;
            }
            if self.is_broken {
                return Decoded::Broken(None);
            }
            if input.is_empty() {
                return Decoded::Starved;
            }
            let is_read = self.connection.read_tls(input as &mut dyn Read).is_ok();
            self.is_broken = !is_read || self.connection.process_new_packets().is_err();
        }
    }

    /// Turns plain bytes into records, behind what the handshake or an alert has to say.
    pub(super) fn encode(&mut self, out: &mut Vec<u8>, is_last: bool) {
        // Into memory without a limit; what is said before the handshake is done waits inside.
        let _ = self.connection.writer().write_all(out);
        out.clear();
        if is_last {
            self.connection.send_close_notify(); // Once, and not behind an alert that ends it.
        }
        while self.connection.wants_write() && self.connection.write_tls(out).is_ok() {}
    }
}

/// What is said to whoever begins like TLS where there is none, as a record of its own: fatal, `handshake_failure`
/// (RFC 8446, 6). Clients end with that sentence at once; without it they would wait, or show a line of JSON as garbage.
pub(super) const REFUSAL: [u8; 7] = [21, 3, 1, 0, 2, 2, 40];
