//! Records being gathered: the one copy that a record's bytes are given.

use crate::block::{HEADROOM, PAGE, RUN_TEXT_LEN_MAX, RUNS_LEN_MAX};
use crate::producer::ProducerId;
use crate::slab::SessionId;
use crate::trace::BatchTrace;
use bytes::BytesMut;
use libdeflater::Crc;
use std::time::Instant;

/// The memory of one batch, later of one block: room for a description, then room for records.
///
/// Records begin at a page-aligned address, so that a kernel can take whole pages from here past the page cache. The
/// memory is taken at start-up and goes round: spare, batch, block, spare.
#[derive(Debug)]
pub(crate) struct Arena {
    pub(crate) bytes: BytesMut,
    /// Where records begin.
    pub(crate) body: usize,
    /// The runs' text; lives here so that its memory goes round too.
    pub(crate) runs_text: Vec<u8>,
}

impl Arena {
    /// One for so many bytes of records from the front of `memory`, which begins with a page.
    pub(crate) fn cut_from(memory: &mut BytesMut, body_len_max: usize) -> Arena {
        let bytes = memory.split_to(arena_len(body_len_max));
        debug_assert!(
            bytes.as_ptr().addr().is_multiple_of(PAGE) && HEADROOM.is_multiple_of(PAGE),
            "pages lie on pages"
        );
        Arena { bytes, body: HEADROOM, runs_text: Vec::with_capacity(RUNS_LEN_MAX) }
    }
}

/// Zeroed memory for so many arenas, in one piece that begins where a large page of the processor's would. It is touched only
/// as it is used.
pub(crate) fn memory(arenas: usize, body_len_max: usize) -> BytesMut {
    let mut memory = BytesMut::zeroed(memory_len(arenas, body_len_max));
    // What is allocated has no alignment, so a part in front is cut off.
    let address = memory.as_ptr().addr();
    let mut memory = memory.split_off(address.next_multiple_of(HUGE_PAGE) - address);
    memory.truncate(pages_len(arenas, body_len_max));
    memory
}

/// What [`memory`] takes.
pub(crate) const fn memory_len(arenas: usize, body_len_max: usize) -> usize {
    HUGE_PAGE + pages_len(arenas, body_len_max)
}

/// What is used of it, in large pages.
const fn pages_len(arenas: usize, body_len_max: usize) -> usize {
    (arenas * arena_len(body_len_max)).next_multiple_of(HUGE_PAGE)
}

/// Bytes that an arena takes, whole pages.
const fn arena_len(body_len_max: usize) -> usize {
    (HEADROOM + body_len_max).next_multiple_of(PAGE)
}

/// The size of a large page. Memory that begins with one can consist of such.
const HUGE_PAGE: usize = 2 << 20;

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
    /// From this length on it becomes a block that the disk alone reads.
    pub(crate) unread_from: usize,
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
    pub(crate) fn new(
        arena: Arena,
        runs: Vec<Run>,
        sessions: Vec<SessionId>,
        unread_from: usize,
        now: Instant,
    ) -> Batch {
        debug_assert!(runs.is_empty() && sessions.is_empty(), "recycled lists come back empty");
        Batch {
            arena,
            len: 0,
            rows: 0,
            crc: 0,
            unread_from,
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
        let to = &mut self.arena.bytes[at..at + lines.len()];
        if lines.len() >= MANY_LEN && self.len + lines.len() >= self.unread_from {
            ringest_simd::copy_past_caches(to, lines);
        } else {
            to.copy_from_slice(lines);
        }
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

/// Bytes of neighbours that are worth a copy of their own.
pub(crate) const MANY_LEN: usize = 4096;
/// Entries in the list of those that wait for a batch. Plain connections that take turns with short lines could make it
/// half as long as their records, and it keeps its memory.
const SESSIONS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arenas_lie_one_behind_the_other_on_pages_and_fill_large_ones() {
        for body_len_max in [1, PAGE, PAGE + 1, 1 << 20] {
            let mut memory = memory(3, body_len_max);
            assert!(memory.as_ptr().addr().is_multiple_of(HUGE_PAGE) && memory.len().is_multiple_of(HUGE_PAGE));
            let mut behind = memory.as_ptr();
            for _ in 0..3 {
                let arena = Arena::cut_from(&mut memory, body_len_max);
                assert_eq!(arena.bytes.as_ptr(), behind);
                assert!(arena.bytes[arena.body..].as_ptr().addr().is_multiple_of(PAGE));
                assert!(arena.bytes.len() - arena.body >= body_len_max);
                behind = behind.wrapping_add(arena.bytes.len());
            }
            assert!(memory.len() < HUGE_PAGE, "no large page is left over");
        }
    }

    #[test]
    fn records_are_copied_and_summed_alike_whether_they_are_many_or_few_and_read_again_or_not() {
        let lines: Vec<u8> = (0..3 * MANY_LEN).map(|at| (at % 251) as u8).collect();
        for len in [1, MANY_LEN - 1, MANY_LEN, MANY_LEN + 1, lines.len()] {
            for unread_from in [0, len + 1, len + 2, len + 3, usize::MAX] {
                let arena = Arena::cut_from(&mut memory(1, 2 * lines.len()), 2 * lines.len());
                let mut batch = Batch::new(arena, Vec::new(), Vec::new(), unread_from, start());
                batch.push(b"ab", 1);
                batch.push(&lines[..len], 2);
                batch.push_line(b"c");
                let stored = &batch.arena.bytes[batch.arena.body..][..batch.len];
                assert_eq!(stored, [b"ab", &lines[..len], b"c\n"].concat(), "{len}, {unread_from}");
                assert_eq!((batch.crc, batch.rows), (libdeflater::crc32(stored), 4));
            }
        }
    }

    #[allow(clippy::disallowed_methods, reason = "a batch has to be opened at some time")]
    fn start() -> Instant {
        Instant::now()
    }
}
