//! Records being gathered: the one copy that a record's bytes are given.

use crate::block::{HEADROOM, PAGE, RUN_TEXT_LEN_MAX, RUNS_LEN_MAX};
use crate::producer::ProducerId;
use crate::slab::SessionId;
use crate::trace::BatchTrace;
use libdeflater::Crc;
use std::time::Instant;

/// The memory of one batch, later of one block: room for a description, then room for records.
///
/// Records begin at a page-aligned address, so that a kernel can take whole pages from here past the page cache. The
/// memory is taken at start-up and goes round: spare, batch, block, spare.
#[derive(Debug)]
pub(crate) struct Arena {
    pub(crate) bytes: Vec<u8>,
    /// Where records begin.
    pub(crate) body: usize,
    /// The runs' text; lives here so that its memory goes round too.
    pub(crate) runs_text: Vec<u8>,
}

impl Arena {
    pub(crate) fn new(body_len_max: usize) -> Arena {
        let bytes = vec![0; HEADROOM + body_len_max + PAGE];
        // Vec gives no alignment, so the records begin at the first page boundary behind the headroom.
        let address = bytes.as_ptr() as usize + HEADROOM;
        let body = HEADROOM + (address.next_multiple_of(PAGE) - address);
        Arena { bytes, body, runs_text: Vec::with_capacity(RUNS_LEN_MAX) }
    }
}

/// Consecutive sequence numbers of one producer in one batch. Numbers that were filtered or refused are covered too:
/// they are settled with the batch, although they left no row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) producer: Option<ProducerId>,
    pub(crate) epoch: u64,
    pub(crate) first: u64,
    pub(crate) upto: u64,
    pub(crate) rows: u32,
}

/// Records being gathered, in the order they were admitted.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) arena: Arena,
    pub(crate) len: usize,
    pub(crate) rows: u32,
    /// Of the records so far: taken as they come, while they are in the nearest cache.
    pub(crate) crc: u32,
    pub(crate) runs: Vec<Run>,
    /// The sessions that are owed an answer once this batch is safe.
    pub(crate) sessions: Vec<SessionId>,
    pub(crate) opened_at: Instant,
    /// From its first record on.
    pub(crate) trace: Option<BatchTrace>,
    /// Somebody waits for the write.
    pub(crate) write_awaited: bool,
    /// Somebody waits for the sync.
    pub(crate) sync_awaited: bool,
    /// Old enough, or large enough, to be written as soon as a write may start.
    pub(crate) due: bool,
}

impl Batch {
    pub(crate) fn new(arena: Arena, runs: Vec<Run>, sessions: Vec<SessionId>, now: Instant) -> Batch {
        debug_assert!(runs.is_empty() && sessions.is_empty(), "recycled lists come back empty");
        Batch {
            arena,
            len: 0,
            rows: 0,
            crc: 0,
            runs,
            sessions,
            opened_at: now,
            trace: None,
            write_awaited: false,
            sync_awaited: false,
            due: false,
        }
    }

    /// Whether `len` more bytes, one more run and one more session fit.
    pub(crate) fn fits(&self, len: usize, len_max: usize) -> bool {
        self.len + len <= len_max
            && (self.runs.len() + 1) * RUN_TEXT_LEN_MAX <= RUNS_LEN_MAX
            && self.sessions.len() < SESSIONS_MAX
    }

    /// Copies records in: whole lines, each with its newline.
    pub(crate) fn push(&mut self, lines: &[u8], rows: u32) {
        let at = self.arena.body + self.len;
        self.arena.bytes[at..at + lines.len()].copy_from_slice(lines);
        let mut crc = Crc::with_initial(self.crc);
        crc.update(lines);
        self.crc = crc.sum();
        self.len += lines.len();
        self.rows += rows;
    }

    /// Copies one record in and ends it with a newline.
    pub(crate) fn push_line(&mut self, line: &[u8]) {
        self.push(line, 1);
        self.push(b"\n", 0);
    }

    /// Says whose the last `rows` records were.
    pub(crate) fn cover(&mut self, run: Run) {
        if let Some(last) = self.runs.last_mut() {
            let same = last.producer == run.producer && last.epoch == run.epoch;
            if same && (run.producer.is_none() || last.upto + 1 == run.first) {
                last.upto = run.upto;
                last.rows += run.rows;
                return;
            }
        }
        self.runs.push(run);
    }

    pub(crate) fn remember(&mut self, session: SessionId) {
        if self.sessions.last() != Some(&session) {
            self.sessions.push(session);
        }
    }
}

/// Entries in the list of those that wait for a batch. Plain connections that take turns with short lines could make it
/// half as long as their records, and it keeps its memory.
const SESSIONS_MAX: usize = 4096;
