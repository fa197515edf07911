//! A client that sends literal bytes and reads literal lines. It waits for nothing longer than [`PATIENCE`].

use super::lines::json;
use super::tls::TlsStream;
use serde_json::Value;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

/// Far beyond what a loaded machine needs, and short of what a person would wait for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Client {
    wire: Wire,
    reader: BufReader<Wire>,
}

/// What a client speaks over.
enum Wire {
    Plain(TcpStream),
    Tls(TlsStream),
}

impl Wire {
    fn try_clone(&self) -> Wire {
        match self {
            Wire::Plain(stream) => Wire::Plain(stream.try_clone().unwrap()),
            Wire::Tls(stream) => Wire::Tls(stream.clone()),
        }
    }

    /// Says that no more will be sent: where it is encrypted, inside of it.
    fn half_close(&mut self) {
        match self {
            Wire::Plain(stream) => stream.shutdown(Shutdown::Write).unwrap(),
            Wire::Tls(stream) => stream.say_end().unwrap(),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.read(buf),
            Wire::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.write(buf),
            Wire::Tls(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the acks of a session said together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) upto: u64,
    pub(crate) stored: u64,
    pub(crate) filtered: u64,
    pub(crate) dup: u64,
    /// Sequence number and code.
    pub(crate) rejected: Vec<(u64, String)>,
}

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Client {
        Client::on(TcpStream::connect(addr).expect("the server listens"))
    }

    /// On a connection that is there already.
    pub(crate) fn on(stream: TcpStream) -> Client {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Client::over(Wire::Plain(stream))
    }

    /// One that speaks through TLS.
    pub(crate) fn encrypted(stream: TlsStream) -> Client {
        Client::over(Wire::Tls(stream))
    }

    fn over(wire: Wire) -> Client {
        let reader = BufReader::new(wire.try_clone());
        Client { wire, reader }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        match &self.wire {
            Wire::Plain(stream) => stream,
            Wire::Tls(stream) => stream.tcp(),
        }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.write_all(bytes.as_ref()).expect("the server takes what is sent");
    }

    /// Sends a line with its newline.
    pub(crate) fn say(&mut self, line: impl AsRef<str>) {
        self.send(format!("{}\n", line.as_ref()));
    }

    /// The next line, without its newline.
    pub(crate) fn line(&mut self) -> String {
        self.next_line().expect("the server says more before it closes")
    }

    /// The next line; `None` at the end of the stream.
    pub(crate) fn next_line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => {
                assert_eq!(line.pop(), Some('\n'), "the server cut a line: {line:?}");
                Some(line)
            }
            Err(error) => panic!("no line within {PATIENCE:?}: {error}; so far {line:?}"),
        }
    }

    /// The next line; `None` at the end of the stream, or where the connection is broken.
    pub(crate) fn next_line_or_end(&mut self) -> Option<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line).ok().filter(|&len| len > 0)?;
        Some(line.trim_end_matches('\n').to_owned())
    }

    pub(crate) fn lines(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.line()).collect()
    }

    /// Sends a line and returns the answer to it.
    pub(crate) fn ask(&mut self, line: impl AsRef<str>) -> String {
        self.say(line);
        self.line()
    }

    /// Says that no more will be sent.
    pub(crate) fn half_close(&mut self) {
        self.wire.half_close();
    }

    /// Everything up to the end of the stream, as lines.
    pub(crate) fn rest(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(line) = self.next_line() {
            lines.push(line);
        }
        lines
    }

    /// Half-closes, and returns everything that is still said.
    pub(crate) fn finish(mut self) -> Vec<String> {
        self.half_close();
        self.rest()
    }

    /// Sends all of it while it reads, half-closes, and returns what was said in total.
    pub(crate) fn exchange(mut self, bytes: Vec<u8>) -> Vec<String> {
        let mut wire = self.wire.try_clone();
        let sender = thread::spawn(move || {
            wire.write_all(&bytes).expect("the server takes what is sent");
            wire.half_close();
        });
        let lines = self.rest();
        sender.join().unwrap();
        lines
    }

    /// Whether the server has closed or reset the connection, without having said anything more.
    pub(crate) fn is_at_end(&mut self) -> bool {
        let mut byte = [0];
        match self.reader.read(&mut byte) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        }
    }

    /// Opens a session and returns the `$welcome`'s content.
    pub(crate) fn hello(&mut self, members: &str) -> Value {
        self.say(format!(r#"{{"$hello":{{"v":1,{members}}}}}"#));
        let line = self.line();
        json(&line).get("$welcome").unwrap_or_else(|| panic!("not a welcome: {line}")).clone()
    }

    /// Reads acks until one covers `upto`, and adds them up. Anything but an ack is a failure.
    pub(crate) fn settled(&mut self, upto: u64) -> Settled {
        let mut sum = Settled::default();
        while sum.upto < upto {
            let line = self.line();
            sum.add(&line);
        }
        sum
    }

    /// Says bye, adds the remaining acks up, and returns them with the content of the final `$bye`. The stream is at
    /// its end then.
    pub(crate) fn bye(&mut self) -> (Settled, Value) {
        self.say(r#"{"$bye":1}"#);
        let mut sum = Settled::default();
        loop {
            let line = self.line();
            if let Some(totals) = json(&line).get("$bye") {
                assert!(self.is_at_end(), "nothing is said behind $bye");
                return (sum, totals.clone());
            }
            sum.add(&line);
        }
    }
}

impl Settled {
    /// Adds an ack line.
    pub(crate) fn add(&mut self, line: &str) {
        let ack = json(line);
        let ack = ack.get("$ack").unwrap_or_else(|| panic!("not an ack: {line}"));
        let number = |name: &str| ack[name].as_u64().unwrap_or_else(|| panic!("{name} is a number: {line}"));
        assert!(number("upto") >= self.upto, "acks never go back: {line}");
        self.upto = number("upto");
        self.stored += number("stored");
        self.filtered += number("filtered");
        self.dup += number("dup");
        for rejection in ack["rej"].as_array().into_iter().flatten() {
            let seq = rejection[0].as_u64().unwrap_or_else(|| panic!("a rejection names its line: {line}"));
            self.rejected.push((seq, rejection[1].as_str().expect("a rejection has a code").to_owned()));
        }
    }
}
