//! The floor on epoll: level-triggered, reads of 256 KiB straight into what is written next.

use super::segments::Segments;
use super::{TURN, Watch};
use ringest_sys::net;
use ringest_sys::poller::{Interest, Poller};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

pub(super) fn run(listener: TcpListener, mut segments: Segments, watch: &mut Watch) -> io::Result<()> {
    let mut poller = Poller::new()?;
    poller.add(listener.as_fd(), LISTENER, Interest::READ)?;
    let mut connections: Vec<Option<OwnedFd>> = Vec::new();
    let mut ready = Vec::new();
    let mut batch = vec![0; WRITE_LEN + READ_LEN];
    let mut len = 0;
    while watch.goes_on()? {
        poller.wait(Some(TURN), &mut ready)?;
        for readiness in &ready {
            if readiness.token == LISTENER {
                while let Ok(connection) = net::accept(listener.as_fd()) {
                    poller.add(connection.as_fd(), connections.len() as u64, Interest::READ)?;
                    connections.push(Some(connection));
                }
                continue;
            }
            let Some(slot) = connections.get_mut(readiness.token as usize) else { continue };
            let Some(connection) = slot else { continue };
            match net::recv(connection.as_fd(), &mut batch[len..len + READ_LEN]) {
                Ok(0) => *slot = None,
                Ok(received) => {
                    len += received;
                    watch.received += received as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => *slot = None,
            }
            if len >= WRITE_LEN {
                let (file, offset) = segments.place(len);
                file.write_all_at(&batch[..len], offset)?;
                len = 0;
            }
        }
    }
    Ok(())
}

/// The listener's token; a connection's is its number.
pub(super) const LISTENER: u64 = u64::MAX;
/// As the server reads.
pub(super) const READ_LEN: usize = 256 << 10;
/// Bytes gathered before they are written.
const WRITE_LEN: usize = 256 << 10;
