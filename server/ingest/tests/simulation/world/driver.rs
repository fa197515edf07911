//! The driver: what a real one does, and nothing more. It hands over what arrives, does what it is asked, and says what
//! came of it; whatever can be checked at that moment is checked.

use super::{Node, TELLING, World, Write};
use crate::client::Client;
use crate::conn::{At, Witness};
use crate::disk::State as Piece;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use flate2::{Compression, Crc};
use memchr::memmem;
use ringest_ingest::{Action, Block, BreakerState, Fault, PAGE, ProducerState, SegmentId};
use std::io::{Read, Write as _};

impl World {
    pub(super) fn arrive(&mut self, conn: usize) {
        let At::Moving(node) = self.conns[conn].at else { unreachable!() };
        let (shard, now) = (&mut self.nodes[node].shard, self.base + self.now);
        let accepted = match self.conns[conn].handover.take() {
            None => shard.handle_accepted(now),
            Some(handover) => Some(shard.handle_handover(handover, now)),
        };
        trace!(self, "conn {conn} arrives at {node}: {accepted:?}");
        let Some(id) = accepted else {
            let is_full = self.nodes[node].shard.sessions() >= self.limits.sessions_max;
            assert!(is_full || self.is_draining, "a connection is refused only where there are as many as may be");
            self.saw_if("a connection was refused", is_full);
            return self.hang_up(conn);
        };
        self.conns[conn].at = At::Shard(node, id);
        assert!(self.nodes[node].by_id.insert(id.token(), conn).is_none(), "a name is given once");
        self.told(node);
    }

    pub(super) fn deliver(&mut self, at: usize) {
        let conn = &mut self.conns[at];
        let At::Shard(node, id) = conn.at else { unreachable!() };
        let now = self.base + self.now;
        let shard = &mut self.nodes[node].shard;
        if !shard.wants(id) {
            trace!(self, "conn {at} is held");
            conn.is_held = true;
        } else if let Some(packed) = conn.packed.as_mut().filter(|packed| !packed.is_empty()) {
            let most = packed.len().min(self.limits.chunk_len_max);
            let len = if self.rng.one_in(3) { self.rng.within(1, most as u64) as usize } else { most };
            trace!(self, "conn {at} delivers {len} bytes of a member");
            let chunk: Vec<u8> = packed.drain(..len).collect();
            shard.handle_bytes(id, &chunk, now);
        } else if conn.unsent() > 0 {
            let most = conn.unsent().min(self.limits.chunk_len_max);
            let len = match self.rng.below(8) {
                0 => 1,
                1 => self.rng.within(1, most as u64) as usize,
                2 => self.rng.within(1, most.min(100) as u64) as usize,
                _ => most,
            };
            let chunk = conn.delivered..conn.delivered + len.min(most);
            // In a drain whoever is settled is closed, and what it still sends is dropped: nothing is owed for that.
            // Of one that is let go, what comes is dropped.
            let lets_go = self.is_draining || shard.tally().ended.iter().any(|&count| count > 0);
            if shard.tally().acks_suppressed == 0 && !lets_go {
                let owed = conn.lines_owed();
                assert!(owed < self.limits.owed_lines_max, "I10: {owed} lines are owed an answer, and more are wanted");
            }
            conn.delivered = chunk.end;
            trace!(self, "conn {at} delivers {} bytes", chunk.len());
            match &mut conn.packed {
                None => shard.handle_bytes(id, &conn.sent[chunk], now),
                Some(packed) => *packed = member(&conn.sent[chunk], !self.rng.one_in(20)),
            }
        } else {
            trace!(self, "conn {at} ends");
            conn.is_end_told = true;
            shard.handle_end(id, now);
        }
        self.told(node);
    }

    pub(super) fn read(&mut self, at: usize) {
        let conn = &mut self.conns[at];
        let (buf, read) = conn.sending.as_mut().expect("only what is being sent can be read");
        let rest = buf.len() - *read;
        let len = if self.rng.one_in(3) { self.rng.within(1, rest as u64) as usize } else { rest };
        conn.inbox.extend_from_slice(&buf[*read..*read + len]);
        *read += len;
        self.sometimes
            .entry("a send was read in pieces")
            .and_modify(|count| *count += u64::from(len < rest))
            .or_default();
        let is_whole = len == rest;
        self.listen(at);
        if is_whole {
            let conn = &mut self.conns[at];
            let (buf, _) = conn.sending.take().expect("just seen");
            let At::Shard(node, id) = conn.at else { unreachable!() };
            self.nodes[node].shard.handle_sent(id, buf, self.base + self.now);
            self.told(node);
        }
    }

    pub(super) fn written(&mut self, at: usize, write: usize) {
        let fails = !self.is_calm && self.rng.below(64) < self.mood.write_faults;
        let node = &mut self.nodes[at];
        let Write { block, piece, rows } = node.writes.swap_remove(write);
        let (id, offset) = (block.segment().0, block.offset());
        let rng = &mut self.rng;
        self.disks[at].apply(id, offset, block.bytes(), || !fails || rng.one_in(2));
        let file = self.disks[at].files.get_mut(&id).expect("a file is written while it is there");
        file.pieces[piece].state = if fails { Piece::Failed } else { Piece::Written };
        file.failed |= fails;
        self.has_failed |= fails;
        let fault = *self.rng.pick(&[Fault::Broken, Fault::Full]);
        let outcome = if fails { Err(fault) } else { Ok(()) };
        let is_first = node.writes.iter().all(|other| other.block.offset() > offset);
        self.saw_if("a write overtook another", !is_first);
        self.saw_if("a write failed", fails);
        trace!(self, "shard {at}: write of {rows} rows at {id}:{offset}: {outcome:?}");
        self.nodes[at].shard.handle_written(block, outcome, self.base + self.now);
        self.told(at);
    }

    pub(super) fn synced(&mut self, at: usize) {
        let fails = !self.is_calm && self.rng.below(64) < self.mood.sync_faults;
        let (id, snapshot) = self.nodes[at].sync.take().expect("only a sync under way completes");
        let file = self.disks[at].files.get_mut(&id).expect("a file is synced while it is there");
        if fails {
            file.failed = true;
            file.fail_sync(&mut self.rng);
        } else {
            file.end_sync(snapshot);
        }
        self.has_failed |= fails;
        self.saw_if("a sync failed", fails);
        let outcome = if fails { Err(Fault::Broken) } else { Ok(()) };
        trace!(self, "shard {at}: sync of {id}: {outcome:?}");
        self.nodes[at].shard.handle_synced(SegmentId(id), outcome, self.base + self.now);
        self.told(at);
    }

    pub(super) fn opened(&mut self, at: usize, open: usize) {
        let fault = self.mood.open_fault.filter(|_| self.rng.below(8) < 7);
        let id = self.nodes[at].opens.swap_remove(open);
        let outcome = fault.map_or(Ok(()), Err);
        match fault {
            None => self.disks[at].create(id),
            Some(Fault::Full) => self.saw("there was no room for a segment"),
            Some(Fault::Broken) => self.saw("a segment could not be made"),
        }
        self.has_failed |= fault.is_some();
        trace!(self, "shard {at}: open of {id}: {outcome:?}");
        self.nodes[at].shard.handle_opened(SegmentId(id), outcome, self.base + self.now);
        self.told(at);
    }

    pub(super) fn timeout(&mut self, at: usize) {
        let now = self.base + self.now;
        self.nodes[at].shard.handle_timeout(now);
        self.settle(at);
        let next = self.nodes[at].shard.poll_timeout();
        let is_unpacking = self.conns.iter().any(|conn| conn.packed.is_some() && conn.at != At::Over);
        assert!(
            next.is_none_or(|next| next > now) || is_unpacking,
            "a time that has come is not waited for again, unless more is to be unpacked than a turn may"
        );
    }

    /// The shard was told something. A driver may tell it more before it asks what to do.
    pub(super) fn told(&mut self, at: usize) {
        self.nodes[at].is_told = true;
        if self.rng.one_in(2) {
            self.settle(at);
        }
    }

    /// Asks every shard that was told something.
    pub(super) fn settle_all(&mut self) {
        for at in 0..self.nodes.len() {
            if self.nodes[at].is_told {
                self.settle(at);
            }
        }
    }

    /// Does what the shard asks, until it is silent.
    pub(super) fn settle(&mut self, at: usize) {
        self.nodes[at].is_told = false;
        while let Some(action) = self.nodes[at].shard.poll() {
            match action {
                Action::Open(id) => self.open(at, id),
                Action::Write(block) => self.write(at, block),
                Action::Sync(id) => self.sync(at, id),
                Action::CloseSegment { segment, len, producers } => self.close_segment(at, segment, len, producers),
                Action::Send(id, buf) => self.send(at, id.token(), buf),
                Action::Resume(id) => {
                    // It may have been lost since.
                    if let Some(&conn) = self.nodes[at].by_id.get(&id.token()) {
                        assert!(self.conns[conn].is_held, "only what was held back is asked for again");
                        self.conns[conn].is_held = false;
                        self.saw("a held connection was resumed");
                    }
                }
                Action::ResumeDatagrams => self.resume_datagrams(at),
                Action::HandOff { session, shard, handover } => {
                    let conn = self.nodes[at].by_id.remove(&session.token()).expect("a session has a connection");
                    trace!(self, "conn {conn} is handed off to {shard:?}");
                    let conn = &mut self.conns[conn];
                    assert!(conn.sending.is_none(), "nothing was said before the hand-off");
                    let received = handover.received();
                    assert!(
                        received.len() <= 4096 + self.limits.chunk_len_max,
                        "I10: what is kept of a hello is bounded"
                    );
                    let is_all = received.len() == conn.delivered || conn.packed.is_some();
                    assert!(
                        is_all && conn.sent[..conn.delivered].starts_with(received),
                        "what was received goes along, all of it"
                    );
                    conn.handover = Some(handover);
                    conn.is_held = false;
                    conn.at = At::Moving(usize::from(shard.0));
                    self.saw("a connection moved to its home shard");
                }
                Action::Close(id) => {
                    let conn = self.nodes[at].by_id.remove(&id.token()).expect("a session has a connection");
                    trace!(self, "conn {conn} is closed");
                    // One that takes nothing cannot be told.
                    let is_deaf = self.conns[conn].sending.is_some();
                    assert!(is_deaf || !self.conns[conn].expects_more(), "I9: a session is not closed in silence");
                    self.hang_up(conn);
                }
            }
        }
        let breaker = self.nodes[at].shard.breaker();
        let before = std::mem::replace(&mut self.nodes[at].breaker, breaker);
        if before != breaker {
            trace!(self, "shard {at}: the breaker is {}", breaker.as_str());
            self.saw(match breaker {
                BreakerState::Open => "the breaker opened",
                BreakerState::HalfOpen => "the breaker let some calls through",
                BreakerState::Closed => "the breaker closed again",
            });
        }
        let Node { shard, writes, .. } = &self.nodes[at];
        let in_flight = shard.in_flight();
        assert!(shard.tally().closes_with(in_flight), "I4: {:?} with {in_flight} in flight", shard.tally());
        assert!(writes.len() <= self.limits.writes_max, "writes under way are bounded");
        assert!(writes.len() <= self.limits.batches, "I10: blocks are bounded");
        assert_eq!(shard.sessions(), self.nodes[at].by_id.len(), "sessions are connections");
    }

    pub(super) fn open(&mut self, at: usize, id: SegmentId) {
        let node = &mut self.nodes[at];
        assert!(id.0 > node.last_opened, "ids only grow");
        assert!(node.opens.is_empty(), "one segment is made ready at a time");
        node.last_opened = id.0;
        node.opens.push(id.0);
        trace!(self, "shard {at}: open {}", id.0);
    }

    pub(super) fn write(&mut self, at: usize, mut block: Block) {
        let (id, offset) = (block.segment().0, block.offset());
        let file = self.disks[at].files.get_mut(&id).expect("a segment is written once it is there");
        assert!(!file.failed, "I5: segment {id} has failed and is written again");
        assert!(!file.closed, "a closed segment is not written");
        assert!(offset + block.len() as u64 <= self.limits.segment_len, "a block lies within its segment");
        let piece = file.issue(offset, block.len());
        check_parts(&mut block);

        let bytes = block.bytes();
        let mut rest = bytes;
        let (mut rows, mut voids) = (0, Vec::new());
        while !rest.is_empty() {
            let (line, records) = next_piece(&mut rest);
            if let Some(line) = line.get("$seg") {
                assert_eq!(offset, 0, "a segment line comes first");
                voids = serde_json::from_value::<Vec<(u64, u64)>>(line["void"].clone()).expect("voids are pairs");
            }
            if let Some(line) = line.get("$blk") {
                let runs: Vec<_> = serde_json::from_value(line["r"].clone()).expect("runs are runs");
                self.truth.check_block(&runs, &records, (at, id, piece));
                rows = line["n"].as_u64().expect("rows are counted") as usize;
            }
        }
        trace!(self, "shard {at}: write {rows} rows, {} bytes at {id}:{offset}, voids {voids:?}", block.len());
        // From now on the first line may be on the disk, whatever becomes of the write.
        for (void, len) in voids {
            if let Some(file) = self.disks[at].files.get_mut(&void) {
                file.counts = file.counts.min(len);
            }
            self.saw("a segment was declared void");
        }
        self.saw_if("a segment rolled", offset == 0 && id > 1);
        self.nodes[at].writes.push(Write { block, piece, rows });
    }

    pub(super) fn sync(&mut self, at: usize, id: SegmentId) {
        assert!(self.nodes[at].sync.is_none(), "one sync is under way at a time");
        let file = &self.disks[at].files[&id.0];
        assert!(!file.failed, "I5: segment {} has failed and is synced again", id.0);
        assert!(!file.closed, "a closed segment is not synced");
        trace!(self, "shard {at}: sync {}", id.0);
        self.nodes[at].sync = Some((id.0, file.begin_sync()));
        self.saw_if("writes went ahead of a sync", !self.nodes[at].writes.is_empty());
    }

    pub(super) fn close_segment(&mut self, at: usize, id: SegmentId, len: u64, producers: Option<Vec<ProducerState>>) {
        trace!(self, "shard {at}: close {} at {len}", id.0);
        let node = &self.nodes[at];
        let is_busy = node.writes.iter().any(|write| write.block.segment() == id)
            || node.sync.as_ref().is_some_and(|(syncing, _)| *syncing == id.0);
        assert!(!is_busy, "a segment is closed when nothing is under way on it");
        assert!(!self.disks[at].files[&id.0].closed, "a segment is closed once");
        self.disks[at].close(id.0, len);
        self.saw_if("a snapshot was kept", producers.as_ref().is_some_and(|producers| !producers.is_empty()));
        // It may be lost: then the one before it counts, and the segments behind that.
        if let Some(producers) = producers
            && !self.rng.one_in(8)
        {
            self.disks[at].snapshot = Some((id.0, producers));
        }
    }

    pub(super) fn send(&mut self, at: usize, token: u64, buf: Vec<u8>) {
        let conn = *self.nodes[at].by_id.get(&token).expect("a session that is answered has a connection");
        trace!(self, "conn {conn} is told {}", String::from_utf8_lossy(&buf).trim_end());
        assert!(buf.len() <= self.limits.send_len_max + 8192 + self.limits.chunk_len_max * 2, "I10: a send is bounded");
        for (word, what) in TELLING {
            let is_said = memmem::find(&buf, word.as_bytes()).is_some();
            self.saw_if(what, is_said);
        }
        let mut witness = Witness {
            truth: &mut self.truth,
            disks: &self.disks,
            line_len_max: self.limits.line_len_max,
            may_refuse: self.has_failed,
            has_shed: self.nodes[at].shard.tally().shed_overdue + self.nodes[at].shard.tally().shed_over_share > 0,
            may_be_open: self.nodes[at].shard.tally().storage_breaker_opened > 0,
        };
        let conn = &mut self.conns[conn];
        assert!(conn.sending.is_none(), "one send is under way per session");
        conn.handle_said(&buf, &mut witness);
        conn.sending = Some((buf, 0));
    }

    /// The connection is over; its client learns of it.
    pub(super) fn hang_up(&mut self, at: usize) {
        let conn = &mut self.conns[at];
        if conn.at == At::Over {
            return;
        }
        conn.at = At::Over;
        conn.sending = None;
        let client = conn.client;
        match &mut self.clients[client] {
            Client::Producer(producer) => {
                producer.zombies.retain(|(zombie, _)| *zombie != at);
                if producer.conn == Some(at) {
                    producer.handle_gone(self.now, &mut self.rng);
                }
            }
            Client::Plain(plain) => {
                if plain.conn == Some(at) {
                    plain.conn = None;
                }
            }
        }
    }
}

/// A gzip member. Most are stored: an encoder takes ten times as long as all the rest of a step.
fn member(bytes: &[u8], is_stored: bool) -> Vec<u8> {
    if !is_stored {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("memory takes everything");
        return encoder.finish().expect("memory takes everything");
    }
    let mut out = b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec();
    let pieces = bytes.chunks(usize::from(u16::MAX));
    let last = pieces.len() - 1;
    for (at, piece) in pieces.enumerate() {
        let len = piece.len() as u16;
        out.push(u8::from(at == last));
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(!len).to_le_bytes());
        out.extend_from_slice(piece);
    }
    let mut crc = Crc::new();
    crc.update(bytes);
    out.extend_from_slice(&crc.sum().to_le_bytes());
    out.extend_from_slice(&crc.amount().to_le_bytes());
    out
}

/// Takes a control line from the front of a block, and the records that it describes.
fn next_piece(rest: &mut &[u8]) -> (serde_json::Value, Vec<u8>) {
    let json = |line: &[u8]| serde_json::from_slice::<serde_json::Value>(line).expect("a control line is JSON");
    if rest.starts_with(b"{\"$") {
        let (line, behind) = rest.split_at(rest.iter().position(|&byte| byte == b'\n').expect("a line ends") + 1);
        let line = json(line);
        // A block's records go on to its end.
        let len = line.get("$blk").map_or(0, |_| behind.len());
        let records = &behind[..len];
        *rest = &behind[len..];
        return (line, records.to_vec());
    }
    let (mut member, mut records) = (GzDecoder::new(*rest), Vec::new());
    member.read_to_end(&mut records).expect("what is not a line is a gzip member");
    let extra = member.header().and_then(|header| header.extra()).expect("a member carries a line").to_vec();
    *rest = member.into_inner();
    assert_eq!((&extra[..2], extra.len() - 4), (&b"Rg"[..], usize::from(u16::from_le_bytes([extra[2], extra[3]]))));
    (json(&extra[4..]), records)
}

/// The parts of a block make up the block, and its pages are pages in memory and in the file.
fn check_parts(block: &mut Block) {
    let parts = block.parts();
    let (whole, len) = (block.bytes().to_vec(), block.len());
    for at in [parts.pages.start, parts.pages.end] {
        assert!(parts.pages.is_empty() || block.offset_of(at).is_multiple_of(PAGE as u64), "pages lie on pages");
    }
    assert_eq!(block.offset_of(parts.head.start), block.offset());
    let buffer = block.take_buffer();
    assert!(parts.pages.is_empty() || buffer[parts.pages.clone()].as_ptr().addr().is_multiple_of(PAGE));
    assert!(parts.head.end == parts.pages.start && parts.pages.end == parts.tail.start, "nothing lies between");
    assert_eq!(parts.tail.end - parts.head.start, len);
    assert!(buffer[parts.head.start..parts.tail.end] == whole, "the parts are the block");
    block.put_buffer(buffer);
}
