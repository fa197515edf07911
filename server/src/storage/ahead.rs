//! How far small writes of a segment write zeros ahead of themselves.
//!
//! Blocks on the disk that were allocated and never written cost each sync of them a commit of the file system's journal.
//! Zeros in them, written once for many small writes, save the others theirs. Large writes gain nothing, and go past the
//! page cache, where pages of zeros would be in their way: so zeros are written only behind small writes in a row, and never
//! more bytes than these have.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Of one segment. Asked only by the thread that writes to it.
#[derive(Debug)]
pub(super) struct Ahead {
    /// Up to here zeros have been written.
    upto: AtomicU64,
    /// Nothing is written from here on.
    limit: AtomicU64,
    /// Small writes since the last large one, and their bytes.
    run: AtomicU64,
    run_len: AtomicU64,
}

impl Ahead {
    /// Zeros up to `limit` at most; 0 for none.
    pub(super) fn new(limit: u64) -> Ahead {
        let [upto, run, run_len] = [(); 3].map(|()| AtomicU64::new(0));
        Ahead { upto, limit: AtomicU64::new(limit), run, run_len }
    }

    /// A small write of `len` bytes ended at `end`: what is to be zeros behind it.
    pub(super) fn handle_small(&self, end: u64, len: u64) -> Range<u64> {
        let run = self.run.load(Ordering::Relaxed) + 1;
        let run_len = self.run_len.load(Ordering::Relaxed) + len;
        self.run.store(run, Ordering::Relaxed);
        self.run_len.store(run_len, Ordering::Relaxed);
        let upto = (end + run_len.min(LEN_MAX)).min(self.limit.load(Ordering::Relaxed));
        if run < RUN_MIN || end <= self.upto() || upto <= end {
            return end..end;
        }
        self.upto.store(upto, Ordering::Relaxed);
        end..upto
    }

    /// A large write.
    pub(super) fn handle_large(&self) {
        self.run.store(0, Ordering::Relaxed);
        self.run_len.store(0, Ordering::Relaxed);
    }

    /// Zeros could not be written: none are any more.
    pub(super) fn give_up(&self) {
        self.limit.store(0, Ordering::Relaxed);
    }

    /// Up to here pages of zeros may be in the page cache.
    pub(super) fn upto(&self) -> u64 {
        self.upto.load(Ordering::Relaxed)
    }
}

/// Fewer small writes than these, one behind the other, may be on their way to larger ones.
const RUN_MIN: u64 = 8;
/// One commit for some fifty groups of two dozen records, and no write that shows.
const LEN_MAX: u64 = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_follow_small_writes_in_a_row_as_many_as_these_have_bytes_up_to_a_bound() {
        let ahead = Ahead::new(u64::MAX);
        let (mut end, mut zeros, mut times) = (0, 0, 0);
        for number in 1..=10_000 {
            end += 1000;
            let range = ahead.handle_small(end, 1000);
            assert_eq!(range.start, end);
            let len = range.end - range.start;
            assert!(number >= RUN_MIN || len == 0, "too early: {number}");
            assert!(len <= (number * 1000).min(LEN_MAX), "{number}: {len}");
            (zeros, times) = (zeros + len, times + u64::from(len > 0));
        }
        assert!(zeros <= end + LEN_MAX && (40..60).contains(&times), "{zeros} zeros in {times} writes for {end} bytes");
    }

    #[test]
    fn a_large_write_ends_the_row() {
        let ahead = Ahead::new(u64::MAX);
        let mut end = 0;
        for _ in 0..100 {
            for _ in 1..RUN_MIN {
                end += 1000;
                assert!(ahead.handle_small(end, 1000).is_empty());
            }
            end += 1 << 20;
            ahead.handle_large();
        }
        assert_eq!(ahead.upto(), 0);
        // The last of a row may be the longest of it.
        let lens = [200, 200, 200, 200, 200, 200, 200, 60_000];
        let last = lens.map(|len| {
            end += len;
            ahead.handle_small(end, len)
        });
        assert_eq!(last[7], end..end + lens.iter().sum::<u64>());
        assert_eq!(ahead.upto(), end + 61_400);
    }

    #[test]
    fn nothing_is_written_from_the_limit_on_or_after_giving_up() {
        let rows = |ahead: &Ahead, from: u64| {
            (1..=20).map(|number| ahead.handle_small(from + number * 100, 100)).filter(|range| !range.is_empty()).last()
        };
        assert_eq!(rows(&Ahead::new(0), 0), None);
        assert_eq!(rows(&Ahead::new(900), 0), Some(800..900));
        assert_eq!(rows(&Ahead::new(900), 900), None);
        let ahead = Ahead::new(u64::MAX);
        ahead.give_up();
        assert_eq!(rows(&ahead, 0), None);
    }
}
