//! What the workers counted, as lines to read: where every line that came in has gone.

use crate::reading::Reading;
use crate::worker::Summary;
use ringest_ingest::Tally;
use ringest_wire::Code;
use std::fmt;

/// The books of a whole server.
#[derive(Debug)]
pub struct Books<'a> {
    summaries: &'a [Summary],
    /// Shards that ended without a word, or did not end: what became of their lines is not known.
    missing: Vec<u16>,
}

/// One line of the books.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    received: u64,
    stored: u64,
    filtered: u64,
    duplicate: u64,
    rejected: [u64; Code::COUNT],
    in_flight: u64,
    tls_handshakes: u64,
    tls_failures: u64,
    datagrams: Option<Datagrams>,
}

/// What came without a connection. What the kernel dropped is in no other count: nobody knows how many lines it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Datagrams {
    received: u64,
    cut: u64,
    kernel_drops: u64,
}

impl<'a> Books<'a> {
    /// Those of these workers, of so many.
    pub fn new(summaries: &'a [Summary], shards: u16) -> Books<'a> {
        let is_there = |shard: &u16| summaries.iter().any(|summary| summary.reading.shard == *shard);
        Books { summaries, missing: (0..shards).filter(|shard| !is_there(shard)).collect() }
    }

    /// What became of connections that were not welcome, where there were any.
    fn doors(&self) -> Vec<String> {
        let sum = |of: fn(&Tally) -> u64| self.summaries.iter().map(|summary| of(&summary.reading.tally)).sum::<u64>();
        let (full, address) = (sum(|tally| tally.refused_full), sum(|tally| tally.refused_address));
        let mut ended = String::new();
        for code in Code::ALL {
            let count: u64 = self.summaries.iter().map(|summary| summary.reading.tally.ended[code as usize]).sum();
            if count > 0 {
                let comma = if ended.is_empty() { "" } else { ", " };
                ended += &format!("{comma}{code} {count}");
            }
        }
        let mut lines = Vec::new();
        if full + address > 0 {
            lines.push(format!("connections refused: {} ({address} of them for their address)", full + address));
        }
        if !ended.is_empty() {
            lines.push(format!("connections ended: {ended}"));
        }
        lines
    }

    /// Whether every line that was received is accounted for.
    pub fn close(&self) -> bool {
        self.missing.is_empty() && self.summaries.iter().all(|summary| summary.reading.closes())
    }
}

impl fmt::Display for Books<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut total = Entry::default();
        for summary in self.summaries {
            let entry = Entry::of(summary);
            total.add(&entry);
            writeln!(
                f,
                "shard {}: {entry}; {}{}; {}",
                summary.reading.shard,
                summary.reading.setup,
                Pressure(summary),
                summary.counters
            )?;
        }
        for line in self.doors() {
            writeln!(f, "{line}")?;
        }
        if !self.missing.is_empty() {
            return write!(f, "total: {total}; THE BOOKS OF SHARDS {:?} ARE MISSING", self.missing);
        }
        let verdict = if self.close() { "the books close" } else { "THE BOOKS DO NOT CLOSE" };
        write!(f, "total: {total}; {verdict}")
    }
}

/// How often a shard could not serve, where it ever could not.
struct Pressure<'a>(&'a Summary);

impl fmt::Display for Pressure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reading { tally, breaker, .. } = &self.0.reading;
        let (over_share, overdue) = (tally.shed_over_share, tally.shed_overdue);
        if tally.storage_breaker_opened > 0 {
            write!(f, "; storage breaker {}, opened {} times", breaker.as_str(), tally.storage_breaker_opened)?;
        }
        if tally.line_breakers_opened > 0 {
            write!(f, "; breakers of lines opened {} times", tally.line_breakers_opened)?;
        }
        if over_share + overdue > 0 {
            write!(f, "; told to come back: {over_share} over their share, {overdue} overdue")?;
        }
        Ok(())
    }
}

impl Entry {
    fn of(summary: &Summary) -> Entry {
        let tally = &summary.reading.tally;
        Entry {
            received: tally.received,
            stored: tally.stored,
            filtered: tally.filtered,
            duplicate: tally.duplicate,
            rejected: tally.rejected,
            in_flight: summary.reading.in_flight,
            tls_handshakes: tally.tls_handshakes,
            tls_failures: tally.tls_failures,
            datagrams: summary.takes_datagrams.then_some(Datagrams {
                received: tally.udp_datagrams,
                cut: tally.udp_cut,
                kernel_drops: tally.udp_kernel_drops,
            }),
        }
    }

    fn add(&mut self, other: &Entry) {
        self.received += other.received;
        self.stored += other.stored;
        self.filtered += other.filtered;
        self.duplicate += other.duplicate;
        self.in_flight += other.in_flight;
        self.tls_handshakes += other.tls_handshakes;
        self.tls_failures += other.tls_failures;
        for (mine, theirs) in self.rejected.iter_mut().zip(other.rejected) {
            *mine += theirs;
        }
        if let Some(theirs) = other.datagrams {
            let mine = self.datagrams.get_or_insert_default();
            mine.received += theirs.received;
            mine.cut += theirs.cut;
            mine.kernel_drops += theirs.kernel_drops;
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Entry { received, stored, filtered, duplicate, rejected, in_flight, .. } = self;
        let Entry { tls_handshakes, tls_failures, datagrams, .. } = self;
        let refused: u64 = rejected.iter().sum();
        write!(f, "received {received} = stored {stored} + filtered {filtered} + duplicate {duplicate}")?;
        write!(f, " + rejected {refused}")?;
        let mut comma = " (";
        for code in Code::ALL {
            if rejected[code as usize] > 0 {
                write!(f, "{comma}{code} {}", rejected[code as usize])?;
                comma = ", ";
            }
        }
        write!(f, "{} + in flight {in_flight}", if refused > 0 { ")" } else { "" })?;
        if tls_handshakes + tls_failures > 0 {
            write!(f, "; TLS: {tls_handshakes} handshakes, {tls_failures} failures")?;
        }
        match datagrams {
            None => Ok(()),
            Some(Datagrams { received, cut, kernel_drops }) => {
                write!(f, "; datagrams {received} ({cut} cut) and {kernel_drops} dropped by the kernel")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_books_names_only_the_codes_that_occurred() {
        let mut entry = Entry { received: 12, stored: 5, filtered: 1, duplicate: 1, in_flight: 2, ..Entry::default() };
        let sum = "received 12 = stored 5 + filtered 1 + duplicate 1 + rejected";
        assert_eq!(entry.to_string(), format!("{sum} 0 + in flight 2"));
        entry.rejected[Code::BadJson as usize] = 2;
        entry.rejected[Code::LineTooLong as usize] = 1;
        assert_eq!(entry.to_string(), format!("{sum} 3 (bad_json 2, line_too_long 1) + in flight 2"));
        let mut total = Entry::default();
        total.add(&entry);
        total.add(&entry);
        (total.tls_handshakes, total.tls_failures) = (3, 1);
        assert!(total.to_string().ends_with("in flight 4; TLS: 3 handshakes, 1 failures"), "{total}");
        assert_eq!((total.received, total.rejected[Code::BadJson as usize]), (24, 4));
    }

    #[test]
    fn books_of_a_shard_that_left_none_do_not_close() {
        let books = Books::new(&[], 2);
        assert!(!books.close());
        assert!(books.to_string().ends_with("in flight 0; THE BOOKS OF SHARDS [0, 1] ARE MISSING"), "{books}");
        assert!(Books::new(&[], 0).close());
    }

    #[test]
    fn datagrams_are_in_the_books_where_they_are_taken() {
        let datagrams = Some(Datagrams { received: 3, cut: 1, kernel_drops: 4 });
        let mut total = Entry::default();
        total.add(&Entry { datagrams, ..Entry::default() });
        total.add(&Entry::default());
        total.add(&Entry { datagrams, ..Entry::default() });
        let end = "in flight 0; datagrams 6 (2 cut) and 8 dropped by the kernel";
        assert!(total.to_string().ends_with(end), "{total}");
    }
}
