//! The floor on io_uring: the server's ring, and one copy from its buffers into what is written next.
//!
//! The copy is part of the floor: records from fifty connections have to be brought together before they can be
//! written in pieces that are worth a write. Where these go past the page cache, it goes past the processor's, as in the
//! server.

use super::segments::Segments;
use super::{TURN, Watch, Writing};
use bytes::BytesMut;
use ringest_sys::memory;
use ringest_sys::ring::{Event, Lease, Ring, RingConfig};
use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

pub(super) fn run(listener: TcpListener, segments: Segments, writing: Writing, watch: &mut Watch) -> io::Result<()> {
    let mut ring = Ring::new(RING)?;
    ring.accept(listener.as_fd(), 0);
    let mut memory = batch_memory(writing);
    let mut spares: Vec<Batch> = (0..BATCHES).map(|_| Batch::around(memory.split_to(write_len(writing)))).collect();
    let mut floor = Floor {
        ring,
        connections: Vec::new(),
        unarmed: VecDeque::new(),
        held: VecDeque::new(),
        writing,
        segments,
        batch: spares.pop(),
        spares,
    };
    while watch.goes_on()? {
        floor.turn(watch)?;
    }
    // Receives that are still armed end with their connections, which the ring's drop waits for.
    Ok(())
}

struct Floor {
    ring: Ring,
    connections: Vec<Option<OwnedFd>>,
    /// Connections whose receive has ended, to be armed again in order once buffers are free.
    unarmed: VecDeque<usize>,
    /// Received and not yet in a batch, because all batches are being written.
    held: VecDeque<Held>,
    writing: Writing,
    segments: Segments,
    batch: Option<Batch>,
    spares: Vec<Batch>,
}

/// A received buffer, of which so much is in a batch.
struct Held {
    lease: Lease,
    taken: usize,
}

/// Bytes being gathered, from a page boundary on.
struct Batch {
    bytes: BytesMut,
    len: usize,
}

impl Batch {
    fn around(bytes: BytesMut) -> Batch {
        Batch { bytes, len: 0 }
    }
}

/// Pages for all batches, from where a large page begins to where one ends.
fn batch_memory(writing: Writing) -> BytesMut {
    let len = (BATCHES * write_len(writing)).next_multiple_of(HUGE_PAGE);
    let mut memory = BytesMut::zeroed(HUGE_PAGE + len);
    let address = memory.as_ptr().addr();
    let mut memory = memory.split_off(address.next_multiple_of(HUGE_PAGE) - address);
    memory.truncate(len);
    if writing == Writing::Direct {
        // As in the server: it goes without, too.
        let _unknown = memory::prefer_huge_pages(&mut memory);
    }
    memory
}

impl Floor {
    fn turn(&mut self, watch: &mut Watch) -> io::Result<()> {
        let can_arm = !self.unarmed.is_empty() && self.ring.free_buffers() > 0;
        self.ring.wait(Some(if can_arm { Duration::ZERO } else { TURN }))?;
        while let Some(event) = self.ring.next() {
            match event {
                Event::Accepted { result, .. } => {
                    let connection = result?;
                    self.ring.recv(connection.as_fd(), self.connections.len() as u64);
                    self.connections.push(Some(connection));
                }
                Event::Received { token, result: Ok(Some(lease)), more } => {
                    watch.received += lease.len() as u64;
                    self.held.push_back(Held { lease, taken: 0 });
                    if !more {
                        self.unarmed.push_back(token as usize);
                    }
                }
                Event::Received { token, more: false, .. } => self.connections[token as usize] = None,
                Event::Starved { token } | Event::Cancelled { token } => self.unarmed.push_back(token as usize),
                Event::Written { buf, result, .. } => {
                    result?;
                    self.spares.push(Batch::around(buf));
                }
                Event::Received { .. }
                | Event::Datagram { .. }
                | Event::Sent { .. }
                | Event::Synced { .. }
                | Event::Ready { .. } => {}
            }
        }
        self.gather()?;
        for _ in 0..self.unarmed.len().min(self.ring.free_buffers()) {
            let at = self.unarmed.pop_front().expect("no more are armed than wait");
            if let Some(connection) = &self.connections[at] {
                self.ring.recv(connection.as_fd(), at as u64);
            }
        }
        Ok(())
    }

    /// Brings what was received together, and writes what is full.
    fn gather(&mut self) -> io::Result<()> {
        while let Some(Held { lease, taken }) = self.held.pop_front() {
            let Some(mut batch) = self.batch.take().or_else(|| self.spares.pop()) else {
                self.held.push_front(Held { lease, taken });
                return Ok(());
            };
            let write_len = write_len(self.writing);
            let bytes = &self.ring.lent(&lease)[taken..];
            let fit = bytes.len().min(write_len - batch.len);
            let (to, from) = (&mut batch.bytes[batch.len..][..fit], &bytes[..fit]);
            match self.writing {
                Writing::Buffered => to.copy_from_slice(from),
                Writing::Direct => ringest_simd::copy_past_caches(to, from),
            }
            batch.len += fit;
            if fit < bytes.len() {
                self.held.push_front(Held { lease, taken: taken + fit });
            } else {
                self.ring.release(lease);
            }
            if batch.len == write_len {
                self.write(batch)?;
            } else {
                self.batch = Some(batch);
            }
        }
        Ok(())
    }

    fn write(&mut self, batch: Batch) -> io::Result<()> {
        let range = 0..batch.len;
        let (file, offset) = self.segments.place(batch.len);
        match self.writing {
            Writing::Buffered => {
                file.write_all_at(&batch.bytes[range], offset)?;
                self.spares.push(Batch::around(batch.bytes));
            }
            Writing::Direct => {
                self.ring.write(file.as_fd(), 0, batch.bytes, range, offset);
            }
        }
        Ok(())
    }
}

fn write_len(writing: Writing) -> usize {
    match writing {
        Writing::Buffered => 256 << 10,
        Writing::Direct => 1 << 20,
    }
}

/// The server's ring.
pub(super) const RING: RingConfig = RingConfig { entries: 1024, buf_count: 64, buf_len: 64 << 10 };
/// Batches in memory: one that gathers, and as many being written as the server allows itself.
const BATCHES: usize = 5;
const HUGE_PAGE: usize = 2 << 20;
