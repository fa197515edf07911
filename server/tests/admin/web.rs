//! HTTP clients: curl, which others wrote, and literal bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

/// What came back.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Page {
    /// From the bytes of a response.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Page> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
        let headers =
            lines.map(|line| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())));
        Some(Page { status, headers: headers.collect::<Option<_>>()?, body: bytes[end + 4..].to_vec() })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The content type.
    pub(crate) fn kind(&self) -> &str {
        self.header("content-type").unwrap_or_else(|| panic!("it has a type: {self:?}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

/// Asks by curl, with these options.
pub(crate) fn fetch(admin: SocketAddr, path: &str, options: &[&str]) -> Page {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--include", "--max-time", "60", "--noproxy", "*"])
        .args(options)
        .arg(format!("http://{admin}{path}"))
        .output()
        .expect("scripts/bootstrap makes sure of curl");
    assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    Page::parse(&output.stdout).unwrap_or_else(|| panic!("{:?}", String::from_utf8_lossy(&output.stdout)))
}

/// Asks in the shortest way, for where many are asked.
pub(crate) fn get(admin: SocketAddr, path: &str) -> Page {
    let bytes = exchange(admin, format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes());
    Page::parse(&bytes).unwrap_or_else(|| panic!("{:?}", String::from_utf8_lossy(&bytes)))
}

/// Everything that comes back for these bytes, up to the end of the connection.
pub(crate) fn exchange(admin: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(admin);
    // It may be closed on before all of it was sent.
    let _ = stream.write_all(bytes);
    until_end(&mut stream)
}

pub(crate) fn connect(admin: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(admin).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// What is still said, to the end or the reset.
pub(crate) fn until_end(stream: &mut TcpStream) -> Vec<u8> {
    let (mut all, mut buf) = (Vec::new(), [0; 4096]);
    while let Ok(len @ 1..) = stream.read(&mut buf) {
        all.extend_from_slice(&buf[..len]);
    }
    all
}

/// How many TCP sockets a process listens on.
pub(crate) fn listening_sockets(pid: u32) -> usize {
    let links: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    let listening = table.lines().skip(1).filter(|line| line.split_whitespace().nth(3) == Some("0A"));
    let inodes = listening.filter_map(|line| line.split_whitespace().nth(9));
    inodes.filter(|inode| links.contains(&format!("socket:[{inode}]"))).count()
}
