//! A server that stores nothing: it counts lines and says yes, in plain mode.
//!
//! What the generator reaches against it, with the same flags, is the generator's own ceiling; that over what it
//! reaches against a real server is the headroom. It never looks into a line.

use crate::replies::OKS;
use ringest_wire::reply;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// Serves every connection on a thread of its own, until the process ends.
///
/// # Errors
/// Where accepting fails.
pub fn serve(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        thread::spawn(move || {
            // A connection that breaks has no one left to be told.
            let _ = answer(stream);
        });
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buf = vec![0; RECEIVE_LEN];
    loop {
        let len = stream.read(&mut buf)?;
        if len == 0 {
            return Ok(());
        }
        let mut lines = memchr::memchr_iter(b'\n', &buf[..len]).count();
        while lines > 0 {
            let now = lines.min(OKS.len() / reply::OK.len());
            stream.write_all(&OKS[..now * reply::OK.len()])?;
            lines -= now;
        }
    }
}

const RECEIVE_LEN: usize = 256 << 10;
