//! Datagrams: who sends them hears nothing of them, so the books alone say what became of each.

use super::World;
use crate::lines::Verdict;
use ringest_ingest::Tally;
use ringest_wire::{AckLevel, Class, Code};
use std::collections::VecDeque;

/// What the kernel and the driver have of a shard's datagrams.
#[derive(Debug, Default)]
pub(super) struct Socket {
    /// Those that have come and were not handed over, each with the lines in it.
    queued: VecDeque<(Vec<u8>, Vec<usize>)>,
    /// The shard wants none for now.
    is_held: bool,
    /// Dropped, and not told yet.
    dropped: u64,
    sent: u64,
}

impl Socket {
    pub(super) fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    /// Whether a driver would look at it.
    pub(super) fn has_news(&self) -> bool {
        !self.is_held && !self.queued.is_empty()
    }

    /// Holds what was sent against the books of a server that has ended.
    pub(super) fn check(&self, tally: &Tally) {
        assert!(self.queued.is_empty() && self.dropped == 0, "everything was told before the end");
        let accounted = tally.udp_datagrams + tally.udp_kernel_drops;
        assert_eq!(self.sent, accounted, "every datagram is received or dropped: {tally:?}");
    }
}

impl World {
    /// Somebody sends a datagram with a few lines.
    pub(super) fn send_datagram(&mut self, node: usize) {
        self.datagrams_left -= 1;
        let (mut bytes, mut rids) = (Vec::new(), Vec::new());
        for _ in 0..self.rng.below(5) {
            let rid = self.truth.datagram_line(&mut self.rng, &self.style);
            bytes.extend_from_slice(&self.truth.lines[rid].bytes);
            bytes.extend_from_slice(self.rng.pick::<&[u8]>(&[b"\n", b"\n", b"\r\n", b"\n\n", b"\r\n\n\r\n"]));
            rids.push(rid);
        }
        if self.rng.one_in(2) && !bytes.is_empty() {
            // The last newline is optional.
            let len = bytes.iter().rposition(|byte| !b"\r\n".contains(byte)).map_or(0, |at| at + 1);
            bytes.truncate(len);
        }
        let socket = &mut self.nodes[node].socket;
        socket.sent += 1;
        let is_dropped = socket.queued.len() >= QUEUED_MAX;
        trace!(self, "datagram for {node}: {} bytes, lines {rids:?}, dropped {is_dropped}", bytes.len());
        if is_dropped {
            socket.dropped += 1;
        } else {
            socket.queued.push_back((bytes, rids));
        }
        self.saw_if("a datagram was dropped by the kernel", is_dropped);
    }

    /// The driver looks at a socket.
    pub(super) fn offer_datagram(&mut self, node: usize) {
        // One that does not ask loses nothing either, but may be refused.
        let asks = self.is_calm || !self.rng.one_in(30);
        if asks && !self.nodes[node].shard.wants_datagrams() {
            trace!(self, "datagrams of {node} are held");
            self.saw("datagrams were held");
            self.nodes[node].socket.is_held = true;
        } else {
            self.take_datagram(node, asks);
        }
        self.told(node);
    }

    pub(super) fn resume_datagrams(&mut self, node: usize) {
        assert!(std::mem::take(&mut self.nodes[node].socket.is_held), "only what was held back is asked for again");
        self.saw("held datagrams were resumed");
        if !self.nodes[node].socket.is_empty() && self.nodes[node].shard.wants_datagrams() {
            self.take_datagram(node, true);
        }
    }

    /// Before a drain: what has come is handed over, wanted or not.
    pub(super) fn end_datagrams(&mut self, node: usize) {
        while !self.nodes[node].socket.is_empty() {
            self.take_datagram(node, false);
        }
        self.tell_drops(node);
    }

    fn tell_drops(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.shard.handle_datagram_drops(std::mem::take(&mut node.socket.dropped));
    }

    /// Hands a datagram over, and holds what the books say of it against what is in it.
    fn take_datagram(&mut self, node: usize, is_wanted: bool) {
        self.tell_drops(node);
        let now = self.base + self.now;
        let socket = &mut self.nodes[node].socket;
        let (bytes, rids) = socket.queued.pop_front().expect("only what has come is handed over");
        let shard = &mut self.nodes[node].shard;
        let before = shard.tally().clone();
        let is_cut = bytes.len() > self.limits.datagram_len_max() || self.rng.one_in(60);
        if is_cut {
            shard.handle_cut_datagram(now);
        } else {
            shard.handle_datagram(&bytes, now);
        }

        let after = shard.tally();
        let refused = |code: Code| after.rejected[code as usize] - before.rejected[code as usize];
        let later: u64 = Code::ALL.into_iter().filter(|code| code.class() == Class::Retryable).map(refused).sum();
        trace!(self, "datagram of {node}, lines {rids:?}, cut {is_cut}: {later} refused for now");
        assert_eq!(after.udp_datagrams - before.udp_datagrams, 1);
        assert!(!is_wanted || refused(Code::Overloaded) == 0, "what is wanted is not too much");
        if is_cut {
            assert_eq!((after.udp_cut - before.udp_cut, after.received - before.received), (1, 1));
            assert_eq!(refused(Code::LineTooLong), 1, "a cut datagram is one refused line");
        } else {
            let count =
                |verdict: Verdict| rids.iter().filter(|rid| self.truth.lines[**rid].verdict == verdict).count() as u64;
            assert_eq!(after.received - before.received, rids.len() as u64, "each line is received, and no other");
            assert_eq!(after.filtered - before.filtered, count(Verdict::Filtered));
            for code in Code::ALL.into_iter().filter(|code| code.class() == Class::Final) {
                assert_eq!(refused(code), count(Verdict::Refused(code)), "lines refused as {code}");
            }
            let records = count(Verdict::Stored);
            assert!(later == 0 || later == records, "the records of a datagram are taken or refused together");
        }
        for rid in rids {
            if is_cut || later > 0 || self.truth.lines[rid].verdict != Verdict::Stored {
                self.truth.lines[rid].is_refused = true;
            } else {
                self.truth.promise(rid, AckLevel::Accepted, &self.disks, "nobody");
            }
        }
        self.saw_if("a datagram was cut", is_cut);
        self.saw_if("records of a datagram were refused", later > 0);
    }
}

/// Datagrams that the kernel has room for.
const QUEUED_MAX: usize = 6;
