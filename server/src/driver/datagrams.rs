//! A shard's socket for datagrams: what was received of it and not handed over yet, and what the kernel dropped.
//!
//! All backends tell the shard of datagrams in the same words. It waits for nothing: when to receive is the driver's.

use crate::worker::DatagramSocket;
use ringest_ingest::Shard;
use ringest_sys::datagram::{self, BATCH, Datagram, Drops, LEN_MAX, Receiver};
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

pub(super) struct Datagrams {
    socket: UdpSocket,
    /// What is queued on it at the end is the next server's.
    is_shared: bool,
    receiver: Receiver,
    drops: Drops,
    /// It is to end, by then at the latest.
    end_at: Option<Instant>,
}

/// What a call brought.
pub(super) enum Received {
    /// So many bytes; there may be more.
    Bytes(usize),
    /// Nothing is there.
    Nothing,
    /// The shard has to be waited for.
    Held,
}

impl Datagrams {
    pub(super) fn new(socket: DatagramSocket) -> Datagrams {
        let DatagramSocket { socket, is_shared } = socket;
        let mut drops = Drops::default();
        // What was dropped before is not in this server's books.
        if let Ok(count) = datagram::drop_count(socket.as_fd()) {
            drops.advance(count);
        }
        Datagrams { socket, is_shared, receiver: Receiver::new(LEN_MAX), drops, end_at: None }
    }

    /// Hands a datagram over, and what was dropped before it.
    pub(super) fn tell(&mut self, datagram: &Datagram<'_>, shard: &mut Shard, now: Instant) {
        tell(&mut self.drops, datagram, shard, now);
    }

    /// Hands over what has been received, as far as the shard wants it, and receives one batch more if it wants all of
    /// that.
    pub(super) fn receive(&mut self, shard: &mut Shard, now: Instant) -> Received {
        let mut len = 0;
        if !self.feed(shard, &mut len, now) || !shard.wants_datagrams() {
            return Received::Held;
        }
        if self.is_shared && self.end_at.is_some() {
            return Received::Nothing;
        }
        match self.receiver.receive(self.socket.as_fd()) {
            Ok(_) if self.feed(shard, &mut len, now) => Received::Bytes(len),
            Ok(_) => Received::Held,
            // Otherwise than that there is nothing: a signal, or a machine short of memory. What is there is told again.
            Err(_) => Received::Nothing,
        }
    }

    fn feed(&mut self, shard: &mut Shard, len: &mut usize, now: Instant) -> bool {
        while !self.receiver.is_empty() {
            if !shard.wants_datagrams() {
                return false;
            }
            if let Some(datagram) = self.receiver.take() {
                *len += datagram.bytes.len();
                tell(&mut self.drops, &datagram, shard, now);
            }
        }
        true
    }

    /// The shard is to drain. What is queued by now is still received, as far as the shard wants it; what comes later
    /// is the kernel's to drop, and to count. On a socket that somebody else holds too, it waits for the next server.
    pub(super) fn end(&mut self, now: Instant) {
        if !self.is_shared {
            // Where this is refused, more may come as fast as it is received; the time is the end then.
            let _refused = datagram::refuse_more(self.socket.as_fd());
        }
        self.end_at = Some(now + END_MAX);
    }

    /// When it is to have ended.
    pub(super) fn end_at(&self) -> Option<Instant> {
        self.end_at
    }

    /// The last word. What is queued is handed over, wanted or not: after this every datagram that had reached the
    /// socket is in the books.
    pub(super) fn settle(mut self, shard: &mut Shard, now: Instant) {
        for _ in 0..SETTLE_BATCHES_MAX {
            while let Some(datagram) = self.receiver.take() {
                tell(&mut self.drops, &datagram, shard, now);
            }
            if self.is_shared {
                break;
            }
            match self.receiver.receive(self.socket.as_fd()) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
            }
        }
        // Drops are told with the datagram behind them, and behind the last ones there is none.
        if let Ok(count) = datagram::drop_count(self.socket.as_fd()) {
            shard.handle_datagram_drops(self.drops.advance(count));
        }
    }
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn tell(drops: &mut Drops, datagram: &Datagram<'_>, shard: &mut Shard, now: Instant) {
    if let Some(count) = datagram.drop_count {
        shard.handle_datagram_drops(drops.advance(count));
    }
    if datagram.is_cut {
        shard.handle_cut_datagram(now);
    } else {
        shard.handle_datagram(datagram.bytes, now);
    }
}

/// How long a drain waits for a writer that has no room for what is queued; what is left then is refused.
const END_MAX: Duration = Duration::from_secs(1);
/// What the largest receive buffer holds, and more: a datagram is charged with some 700 bytes at least.
const SETTLE_BATCHES_MAX: usize = (4 << 20) / BATCH;
