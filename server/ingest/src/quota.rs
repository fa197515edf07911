//! Who may go on when there is not enough for all: each source's share of what the shard can store, the line of those
//! that wait for room, and what those are told that wait too long. It refuses nobody while there is room.
//!
//! A source is a connection: a session speaks for one producer, and a plain connection counts as one. The line is a fair
//! queue by bytes (start-time fair queueing): who sends little hardly waits, however much and however many others send.

use crate::slab::SessionId;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// What one source sent in this window and in the one before.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Counted from 1.
    window: u64,
    now: u64,
    before: u64,
    /// Where it stands in the line: bytes that a source has sent that always had something to send.
    start: u64,
}

/// What all sources sent, and what became safe.
#[derive(Debug)]
pub(crate) struct Shares {
    born: Instant,
    window: u64,
    /// Sources that sent something in this window, or waited to.
    sources: u64,
    stored: u64,
    /// A source's share in the window before: bytes.
    share: u64,
}

impl Shares {
    pub(crate) fn new(now: Instant) -> Shares {
        Shares { born: now, window: 1, sources: 0, stored: 0, share: 0 }
    }

    /// A source sent `len` bytes that were let in, or has to wait with what it has.
    pub(crate) fn handle_sent(&mut self, usage: &mut Usage, len: usize, now: Instant) {
        self.turn(now);
        self.sources += u64::from(usage.turn(self.window));
        usage.now += len as u64;
    }

    /// So many bytes have become safe.
    pub(crate) fn handle_stored(&mut self, len: u64, now: Instant) {
        self.turn(now);
        self.stored += len;
    }

    /// Whether the source sent more than its share of what could be stored. Nobody did where nothing could.
    pub(crate) fn is_over(&mut self, usage: &Usage, now: Instant) -> bool {
        self.turn(now);
        let recent = match self.window - usage.window {
            0 => usage.now.max(usage.before),
            1 => usage.now,
            _ => 0,
        };
        self.share > 0 && recent > self.share + self.share / 4
    }

    fn turn(&mut self, now: Instant) {
        let window = now.saturating_duration_since(self.born).as_secs() + 1;
        if window > self.window {
            let is_next = window == self.window + 1;
            self.share = if is_next { self.stored.checked_div(self.sources).unwrap_or(0) } else { 0 };
            (self.window, self.sources, self.stored) = (window, 0, 0);
        }
    }
}

impl Usage {
    /// Begins that window. Whether it is new to it.
    fn turn(&mut self, window: u64) -> bool {
        if self.window == window {
            return false;
        }
        let before = if self.window + 1 == window { self.now } else { 0 };
        (self.window, self.now, self.before) = (window, 0, before);
        true
    }
}

/// Those that wait for room, each once: first those that were given least, among equals those that came first.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// It keeps its memory: once as many have waited, who waits allocates nothing.
    waiting: BinaryHeap<Reverse<(u64, u64, SessionId)>>,
    /// The start of what was last given room. Who had nothing to send meanwhile has saved nothing up, and who sent while
    /// there was room for all owes nothing for it.
    start: u64,
    came: u64,
}

impl Line {
    pub(crate) fn push(&mut self, id: SessionId, usage: &Usage) {
        self.came += 1;
        self.waiting.push(Reverse((usage.start.max(self.start), self.came, id)));
    }

    pub(crate) fn pop(&mut self) -> Option<SessionId> {
        let Reverse((start, _, id)) = self.waiting.pop()?;
        self.start = start;
        Some(id)
    }

    /// A source was given room for `len` bytes.
    pub(crate) fn handle_served(&mut self, usage: &mut Usage, len: usize) {
        self.start = self.start.max(usage.start);
        usage.start = self.start + len as u64;
    }

    /// Whether nobody is to go before one that comes now.
    pub(crate) fn is_clear_for(&self, usage: &Usage) -> bool {
        let start = usage.start.max(self.start);
        self.waiting.peek().is_none_or(|Reverse((first, ..))| start < *first)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// All of them, in an order that means nothing.
    pub(crate) fn iter(&self) -> impl Iterator<Item = SessionId> {
        self.waiting.iter().map(|&Reverse((.., id))| id)
    }

    /// Keeps those for whom `stays` holds.
    pub(crate) fn retain(&mut self, mut stays: impl FnMut(SessionId) -> bool) {
        self.waiting.retain(|&Reverse((.., id))| stays(id));
    }
}

/// When to come back after having waited so long in vain: later, the longer the line is, and not all at once: up to
/// twice as late, by a number that is another one for each source and each time.
pub(crate) fn retry_after(waited: Duration, source: u64, time: u64) -> Duration {
    let mut mixed = (source ^ time.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let part = u32::try_from((mixed ^ (mixed >> 32)) % 1000).expect("a remainder of 1000 is small");
    let base = waited.clamp(RETRY_MIN, RETRY_MAX);
    base + base * part / 1000
}

const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods, reason = "the one moment from which time counts")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn who_sent_more_than_an_equal_part_of_what_was_stored_is_over() {
        let born = start();
        let mut shares = Shares::new(born);
        let (mut much, mut little) = (Usage::default(), Usage::default());
        shares.handle_sent(&mut much, 9000, born);
        shares.handle_sent(&mut little, 1000, born);
        shares.handle_stored(10_000, born);
        assert!(!shares.is_over(&much, born), "a window has to pass before anybody can say");
        let next = born + Duration::from_secs(1);
        assert!(shares.is_over(&much, next) && !shares.is_over(&little, next));
        shares.handle_sent(&mut much, 1, next);
        assert!(shares.is_over(&much, next), "a new window does not forget the last at once");
        let later = born + Duration::from_secs(5);
        assert!(!shares.is_over(&much, later), "long ago");
    }

    #[test]
    fn one_source_alone_is_never_over_what_could_be_stored() {
        let born = start();
        let mut shares = Shares::new(born);
        let mut alone = Usage::default();
        for second in 0..10 {
            let now = born + Duration::from_secs(second);
            shares.handle_sent(&mut alone, 1000, now);
            shares.handle_stored(1000, now);
            assert!(!shares.is_over(&alone, now));
        }
    }

    #[test]
    fn who_was_given_least_goes_first_and_who_was_away_has_saved_nothing_up() {
        let id = SessionId::from_token;
        let mut line = Line::default();
        let (mut much, mut little, late) = (Usage::default(), Usage::default(), Usage::default());
        line.handle_served(&mut much, 10_000);
        line.handle_served(&mut little, 100);
        line.push(id(1), &much);
        line.push(id(2), &little);
        assert!(line.is_clear_for(&late) && !line.is_clear_for(&little) && !line.is_clear_for(&much));
        assert_eq!(line.pop(), Some(id(2)));
        assert_eq!(line.pop(), Some(id(1)));
        line.push(id(1), &much);
        line.push(id(3), &late);
        assert_eq!(line.pop(), Some(id(1)), "both stand at the same place now, and this one came first");
        line.retain(|other| other != id(3));
        assert!(line.is_empty());
    }

    #[test]
    fn what_was_sent_while_nobody_waited_is_not_held_against_anybody() {
        let id = SessionId::from_token;
        let mut line = Line::default();
        let (mut old, mut new) = (Usage::default(), Usage::default());
        (0..100).for_each(|_| line.handle_served(&mut old, 10_000));
        line.push(id(1), &old);
        line.push(id(2), &new);
        assert_eq!(line.pop(), Some(id(2)), "it is one chunk behind");
        line.handle_served(&mut new, 10_001);
        line.push(id(2), &new);
        assert_eq!(line.pop(), Some(id(1)), "and no more than that");
    }

    #[test]
    fn hints_grow_with_the_line_and_are_spread() {
        let at = |waited, source| retry_after(Duration::from_millis(waited), source, 7).as_millis();
        for source in 0..1000 {
            assert!((250..500).contains(&at(0, source)) && (2000..4000).contains(&at(2000, source)));
        }
        let mut hints: Vec<_> = (0..1000).map(|source| at(2000, source) / 100).collect();
        hints.sort_unstable();
        hints.dedup();
        assert_eq!(hints.len(), 20, "every tenth of a second of the two has somebody in it");
    }
}
