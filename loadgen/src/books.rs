//! What one connection knows of its lines: which are under way, promised, refused. In plain and session mode alike.

use crate::corpus::Corpus;
use crate::flight::Flight;
use crate::latency::Latency;
use crate::packer::Packer;
use crate::ranges::Ranges;
use crate::schedule::Schedule;
use crate::tally::Tally;
use ringest_wire::{Class, Code};

/// What a worker lends to the connection that it is busy with.
#[derive(Debug)]
pub struct Desk<'a> {
    /// The lines.
    pub corpus: &'a mut Corpus,
    /// The worker's schedule; `None` in a closed loop.
    pub schedule: Option<&'a mut Schedule>,
    /// The worker's histograms.
    pub latency: &'a mut Latency,
    /// The worker's counts.
    pub tally: &'a mut Tally,
    /// Counts of lines that were sent in the warm-up, once that is over.
    pub warm_up: &'a mut Tally,
    /// Sentences for a person, the first few.
    pub complaints: &'a mut Vec<String>,
    /// Where what is sent is compressed.
    pub packer: Option<&'a mut Packer>,
    /// The time, in nanoseconds.
    pub now_ns: u64,
}

/// The lines of one connection, or in session mode of one producer.
#[derive(Debug)]
pub struct Books {
    /// The lines under way.
    pub flight: Flight,
    /// Lines refused for good.
    pub rejected: Ranges,
    /// Lines refused, but not for good, and given up: they may be there or not.
    pub given_up: Ranges,
    /// Of the settled lines, how many were filtered.
    pub filtered: u64,
    /// How many the server had already.
    pub duplicate: u64,
    first: u64,
    sent_upto: u64,
    /// The last line of the warm-up, once that is over.
    warm_upto: u64,
}

impl Books {
    /// The books of a stream that begins with line 1.
    pub fn new() -> Books {
        Books {
            flight: Flight::starting_at(1),
            rejected: Ranges::default(),
            given_up: Ranges::default(),
            filtered: 0,
            duplicate: 0,
            first: 1,
            sent_upto: 0,
            warm_upto: 0,
        }
    }

    /// Lines that take their turn from now on are measured; of the others nothing is counted but what became of them.
    pub fn end_warm_up(&mut self) {
        self.warm_upto = self.flight.assigned();
    }

    /// Lines of the warm-up, and others, that are not answered.
    pub fn outstanding(&self) -> (u64, u64) {
        let warm = self.warm_upto.saturating_sub(self.flight.settled());
        (warm, self.flight.outstanding() - warm)
    }

    /// Numbering begins elsewhere, because the server knows the producer.
    ///
    /// # Panics
    /// Where lines are under way already.
    pub fn start_at(&mut self, first: u64) {
        assert_eq!(self.flight.outstanding(), 0, "numbering is agreed before the first line");
        self.flight = Flight::starting_at(first);
        self.first = first;
    }

    /// The first line of this run.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The last line of which a peer may have seen any byte.
    pub fn sent_upto(&self) -> u64 {
        self.sent_upto
    }

    /// The lines the server said it took.
    pub fn acked(&self) -> Ranges {
        Ranges::of(self.first, self.flight.settled()).without(&self.rejected).without(&self.given_up)
    }

    /// The next `count` lines take their turn at the places `slot`, … of the schedule.
    pub fn assign(&mut self, count: u64, slot: u64, desk: &mut Desk<'_>) {
        self.flight.assign(count, slot, desk.now_ns);
        desk.tally.offered += count;
    }

    /// The socket took `lines` whole lines and `offset` bytes of another.
    pub fn wrote(&mut self, lines: usize, offset: usize) {
        self.flight.wrote(lines, offset);
        self.sent_upto = self.sent_upto.max(self.flight.touched());
    }

    /// Everything up to `upto` is answered; what was not refused is promised.
    pub fn settle(&mut self, upto: u64, desk: &mut Desk<'_>) {
        let before = self.flight.settled();
        if before < self.warm_upto {
            self.flight.settle(upto.min(self.warm_upto), desk.now_ns, None, None);
            desk.warm_up.acked += self.taken_since(before);
        }
        let before = self.flight.settled();
        self.flight.settle(upto, desk.now_ns, desk.schedule.as_deref_mut(), Some(desk.latency));
        desk.tally.acked += self.taken_since(before);
    }

    /// Of the lines that were settled since `before` was the last, how many the server took.
    fn taken_since(&self, before: u64) -> u64 {
        let settled = self.flight.settled();
        if self.rejected.is_empty() && self.given_up.is_empty() {
            return settled - before;
        }
        Ranges::of(before + 1, settled).without(&self.rejected).without(&self.given_up).len()
    }

    /// A line is refused. Counted as a failure unless it was meant to be refused.
    pub fn reject(&mut self, seq: u64, reason: &str, desk: &mut Desk<'_>) {
        if seq <= self.flight.settled() || self.rejected.contains(seq) || self.given_up.contains(seq) {
            return;
        }
        let for_good = match Code::from_name(reason) {
            Some(code) => code.class() == Class::Final,
            // A server that sends texts alone.
            None => matches!(reason, "invalid JSON" | "missing required fields"),
        };
        if for_good { &mut self.rejected } else { &mut self.given_up }.insert(seq);
        let tally = if seq <= self.warm_upto { &mut *desk.warm_up } else { &mut *desk.tally };
        if for_good && desk.corpus.is_bad(seq) {
            tally.refused_as_meant += 1;
        } else {
            tally.fail(reason, 1);
        }
    }
}

impl Default for Books {
    fn default() -> Self {
        Books::new()
    }
}

impl Desk<'_> {
    /// Keeps a sentence for the end of the run, unless there are many.
    pub fn complain(&mut self, text: String) {
        if self.complaints.len() < COMPLAINTS_MAX && !self.complaints.contains(&text) {
            self.complaints.push(text);
        }
    }
}

/// Why a connection ended before it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    kind: String,
    text: String,
    again: bool,
}

impl Fault {
    /// The connection is gone; another may do better.
    pub fn lost(kind: &str, text: String) -> Fault {
        Fault { kind: kind.into(), text, again: true }
    }

    /// No other connection would do better.
    pub fn fatal(kind: &str, text: String) -> Fault {
        Fault { kind: kind.into(), text, again: false }
    }

    /// What it is counted under.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// A sentence for a person.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether to connect again.
    pub fn again(&self) -> bool {
        self.again
    }
}

const COMPLAINTS_MAX: usize = 10;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::corpus::Shape;
    use crate::session::Session;

    /// A desk that stands alone.
    pub(crate) struct Bench {
        pub(crate) books: Books,
        pub(crate) tally: Tally,
        pub(crate) warm_up: Tally,
        pub(crate) now_ns: u64,
        corpus: Corpus,
        latency: Latency,
        complaints: Vec<String>,
    }

    impl Bench {
        pub(crate) fn new() -> Bench {
            let shape = Shape { seed: 1, record_size: 180, rich_share: 0.0, bad_share: 0.0 };
            Bench {
                books: Books::new(),
                tally: Tally::default(),
                warm_up: Tally::default(),
                now_ns: 0,
                corpus: Corpus::new(&shape, true),
                latency: Latency::new(),
                complaints: Vec::new(),
            }
        }

        pub(crate) fn parts(&mut self) -> (&mut Books, Desk<'_>) {
            let desk = Desk {
                corpus: &mut self.corpus,
                schedule: None,
                latency: &mut self.latency,
                tally: &mut self.tally,
                warm_up: &mut self.warm_up,
                complaints: &mut self.complaints,
                packer: None,
                now_ns: self.now_ns,
            };
            (&mut self.books, desk)
        }

        pub(crate) fn tell(&mut self, session: &mut Session, line: &str) -> Result<(), Fault> {
            let (books, mut desk) = self.parts();
            session.handle_line(line.as_bytes(), books, &mut desk)
        }
    }

    #[test]
    fn a_line_belongs_to_the_part_of_the_run_that_it_was_sent_in() {
        let mut bench = Bench::new();
        let (books, mut desk) = bench.parts();
        books.assign(6, 0, &mut desk);
        books.wrote(6, 0);
        books.settle(2, &mut desk);
        *desk.warm_up = desk.tally.take_lines();
        books.end_warm_up();
        books.assign(4, 6, &mut desk);
        books.wrote(4, 0);
        assert_eq!(books.outstanding(), (4, 4));
        books.reject(4, "overloaded", &mut desk);
        books.reject(7, "overloaded", &mut desk);
        books.settle(8, &mut desk);
        assert_eq!(books.outstanding(), (0, 2));
        let latencies = desk.latency.service.len();
        let Bench { tally, warm_up, .. } = bench;
        assert_eq!((warm_up.offered, warm_up.acked, warm_up.failed()), (6, 5, 1));
        assert_eq!((tally.offered, tally.acked, tally.failed()), (4, 1, 1));
        assert_eq!(latencies, 2 + 2, "two in the warm-up, two after it, none in between");
    }

    #[test]
    fn a_line_refused_for_now_is_neither_promised_nor_forbidden() {
        let mut bench = Bench::new();
        let (books, mut desk) = bench.parts();
        books.assign(4, 0, &mut desk);
        books.wrote(4, 0);
        books.reject(2, "overloaded", &mut desk);
        books.reject(3, "bad_json", &mut desk);
        books.settle(4, &mut desk);
        assert_eq!(books.acked().iter().collect::<Vec<_>>(), [(1, 1), (4, 4)]);
        assert_eq!(books.rejected.iter().collect::<Vec<_>>(), [(3, 3)]);
        assert_eq!((bench.tally.acked, bench.tally.failed()), (2, 2));
    }
}
