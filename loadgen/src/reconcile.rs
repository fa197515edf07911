//! What was promised against what was stored, line by line, exactly.
//!
//! One bit per sent line says whether it was seen, so that a hundred million lines are compared in one pass and 13 MB.
//! Nothing is sampled, nothing is tolerated, and no line is taken on trust: its own checksum has to hold first.

use crate::corpus::{Proof, Sender, prove};
use crate::ledger::{Entry, Ledger};
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufRead};

/// Compares stored lines with one or more ledgers.
#[derive(Debug)]
pub struct Reconciler {
    accounts: Vec<Account>,
    by_sender: HashMap<Sender, usize>,
    runs: Vec<u32>,
    /// The account of the last line: neighbours mostly share it.
    last: Option<(Sender, usize)>,
    said: Said,
    findings: Findings,
}

/// What the server's books say of datagrams that are not stored.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    /// Datagrams that the kernel dropped.
    pub kernel_drops: u64,
    /// Lines that the server refused or filtered.
    pub refused: u64,
}

/// The lines of one connection.
#[derive(Debug)]
struct Account {
    name: String,
    entry: Entry,
    /// One bit per line from `entry.first`.
    seen: Vec<u64>,
    highest: u64,
}

/// What the comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Lines promised.
    pub acked: u64,
    /// Lines found, of these ledgers' runs, each counted once.
    pub stored: u64,
    /// Promised and not found.
    pub lost: u64,
    /// Found more than once: the surplus.
    pub duplicated: u64,
    /// Found, but changed: the checksum is not that of the content.
    pub corrupt: u64,
    /// Found after a later line of the same connection. Not a failure by itself: where the number of shards changed, a
    /// connection's later lines may lie in a directory that is read first.
    pub reordered: u64,
    /// Found, though never sent, or refused for good.
    pub phantom: u64,
    /// Found and sent, but never promised. Allowed: an answer may be lost on its way.
    pub unacked_stored: u64,
    /// Promised, not found, and covered by the server's statement that it filtered as many by level.
    pub filtered: u64,
    /// Lines of other runs, or of no generator.
    pub foreign: u64,
    /// Of the lines sent as datagrams, where there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datagrams: Option<Datagrams>,
    /// The first few failures, one sentence each.
    pub examples: Vec<String>,
}

/// What became of datagrams. Nobody was promised anything, so a loss is none of the server's as long as its books say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Datagrams {
    /// Lines sent.
    pub sent: u64,
    /// Of these, found.
    pub stored: u64,
    /// Datagrams sent.
    pub datagrams: u64,
    /// Datagrams of which no line was found.
    pub datagrams_missing: u64,
    /// Datagrams that the kernel dropped, as the server says.
    pub kernel_drops: u64,
    /// Lines that the server refused or filtered, as it says.
    pub refused: u64,
    /// Whether what is missing is exactly what these two explain.
    pub is_explained: bool,
}

impl Reconciler {
    /// Ready to compare, with what the server `said` of datagrams.
    ///
    /// # Errors
    /// Where two ledgers claim the same connection.
    pub fn new(ledgers: &[Ledger], said: Said) -> Result<Reconciler, String> {
        let mut accounts = Vec::new();
        let mut by_sender = HashMap::new();
        for ledger in ledgers {
            for entry in &ledger.connections {
                let sender = ledger.sender(entry).ok_or("a ledger has a run of 8 hex digits")?;
                if by_sender.insert(sender, accounts.len()).is_some() {
                    return Err(format!("two ledgers have {}: give each ledger once", name(sender)));
                }
                accounts.push(Account::new(name(sender), entry.clone())?);
            }
        }
        let runs = ledgers.iter().filter_map(Ledger::run_id).collect();
        Ok(Reconciler { accounts, by_sender, runs, last: None, said, findings: Findings::default() })
    }

    /// Takes stored lines up to the end of the stream. Control lines of a segment are passed over, so that segments
    /// can be read as they are.
    ///
    /// # Errors
    /// Where reading fails.
    pub fn read(&mut self, mut from: impl BufRead) -> io::Result<()> {
        let mut carry = Vec::new();
        loop {
            let chunk = from.fill_buf()?;
            if chunk.is_empty() {
                break;
            }
            let len = chunk.len();
            let mut rest = chunk;
            while let Some(newline) = memchr::memchr(b'\n', rest) {
                if carry.is_empty() {
                    self.take(&rest[..newline]);
                } else {
                    carry.extend_from_slice(&rest[..newline]);
                    self.take(&carry);
                    carry.clear();
                }
                rest = &rest[newline + 1..];
            }
            carry.extend_from_slice(rest);
            from.consume(len);
        }
        if !carry.is_empty() {
            self.take(&carry);
        }
        Ok(())
    }

    /// Takes one stored line.
    pub fn take(&mut self, line: &[u8]) {
        let line = ringest_wire::frame::trim_cr(line);
        if line.is_empty() || line.starts_with(ringest_wire::control::PREFIX) {
            return;
        }
        match prove(line) {
            Proof::Intact(sender, seq) => self.take_intact(sender, seq),
            Proof::Corrupt => {
                self.findings.corrupt += 1;
                let text = String::from_utf8_lossy(&line[..line.len().min(100)]).into_owned();
                self.findings.example("corrupt", || format!("{text}…"));
            }
            Proof::Foreign => self.findings.foreign += 1,
        }
    }

    /// Everything that was stored has been taken: what is missing is lost.
    pub fn finish(mut self) -> Findings {
        self.findings.datagrams = self.datagrams();
        for account in &self.accounts {
            let (missing, first) = account.missing();
            let filtered = missing.min(account.entry.filtered);
            self.findings.acked += account.entry.acked.len();
            self.findings.filtered += filtered;
            self.findings.lost += missing - filtered;
            if missing > filtered {
                self.findings.example("lost", || format!("{} line {first}, {missing} in all", account.name));
            }
        }
        self.findings
    }

    /// What became of datagrams, where some were sent. A dropped datagram takes all of its lines with it, so what is
    /// missing has to be the lines of as many whole datagrams as the kernel dropped, and the refused lines besides.
    fn datagrams(&self) -> Option<Datagrams> {
        let mut found =
            Datagrams { kernel_drops: self.said.kernel_drops, refused: self.said.refused, ..Datagrams::default() };
        let mut missing_lens = Vec::new();
        for account in &self.accounts {
            let Some(per_datagram) = account.entry.per_datagram else { continue };
            let mut first = account.entry.first;
            while first <= account.entry.sent_upto {
                let last = first.saturating_add(per_datagram - 1).min(account.entry.sent_upto);
                let stored = (first..=last).filter(|seq| account.saw(*seq)).count() as u64;
                found.datagrams += 1;
                found.sent += last + 1 - first;
                found.stored += stored;
                if stored == 0 {
                    missing_lens.push(last + 1 - first);
                }
                first = last + 1;
            }
        }
        if found.datagrams == 0 {
            return None;
        }
        found.datagrams_missing = missing_lens.len() as u64;
        // Which of those that are missing were dropped is not known; the last of a connection may be shorter.
        missing_lens.sort_unstable();
        let dropped = usize::try_from(found.kernel_drops).ok().filter(|dropped| *dropped <= missing_lens.len());
        found.is_explained = dropped.is_some_and(|dropped| {
            let least: u64 = missing_lens[..dropped].iter().sum();
            let most: u64 = missing_lens[missing_lens.len() - dropped..].iter().sum();
            let missing = found.sent - found.stored;
            (least..=most).contains(&missing.saturating_sub(found.refused)) && missing >= found.refused
        });
        Some(found)
    }

    fn take_intact(&mut self, sender: Sender, seq: u64) {
        if !self.runs.contains(&sender.run) {
            self.findings.foreign += 1;
            return;
        }
        let known = match self.last {
            Some((last, at)) if last == sender => Some(at),
            _ => self.by_sender.get(&sender).copied(),
        };
        let Some(at) = known else {
            self.findings.phantom += 1;
            self.findings.example("phantom", || format!("{} line {seq}: no such connection", name(sender)));
            return;
        };
        self.last = Some((sender, at));
        self.accounts[at].take(seq, &mut self.findings);
    }
}

impl Account {
    fn new(name: String, entry: Entry) -> Result<Account, String> {
        let lines = entry.sent_upto.saturating_add(1).saturating_sub(entry.first);
        let words = lines.div_ceil(64) as usize;
        let mut seen = Vec::new();
        seen.try_reserve_exact(words)
            .map_err(|error| format!("{name}: the ledger says that {lines} lines were sent, too many: {error}"))?;
        seen.resize(words, 0);
        Ok(Account { name, entry, seen, highest: 0 })
    }

    fn take(&mut self, seq: u64, findings: &mut Findings) {
        let entry = &self.entry;
        if seq > entry.sent_upto || entry.rejected.contains(seq) {
            findings.phantom += 1;
            let why = if seq > entry.sent_upto { "never sent" } else { "refused for good" };
            return findings.example("phantom", || format!("{} line {seq}: {why}", self.name));
        }
        let Some(at) = seq.checked_sub(entry.first) else {
            findings.foreign += 1;
            return;
        };
        let (word, bit) = ((at / 64) as usize, 1 << (at % 64));
        if self.seen[word] & bit != 0 {
            findings.duplicated += 1;
            return findings.example("duplicated", || format!("{} line {seq}", self.name));
        }
        self.seen[word] |= bit;
        findings.stored += 1;
        findings.unacked_stored += u64::from(!entry.acked.contains(seq));
        if seq < self.highest {
            findings.reordered += 1;
        }
        self.highest = self.highest.max(seq);
    }

    fn saw(&self, seq: u64) -> bool {
        let at = seq - self.entry.first;
        self.seen[(at / 64) as usize] & (1 << (at % 64)) != 0
    }

    /// How many promised lines were not seen, and the first of them.
    fn missing(&self) -> (u64, u64) {
        let (mut count, mut first) = (0, 0);
        for (from, to) in self.entry.acked.iter() {
            for seq in (from..=to).filter(|seq| !self.saw(*seq)) {
                first = if count == 0 { seq } else { first };
                count += 1;
            }
        }
        (count, first)
    }
}

impl Findings {
    /// Whether every promise was kept and nothing was made up.
    pub fn pass(&self) -> bool {
        let is_explained = self.datagrams.is_none_or(|datagrams| datagrams.is_explained);
        is_explained && self.lost + self.duplicated + self.corrupt + self.phantom == 0
    }

    fn example(&mut self, kind: &str, text: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(format!("{kind}: {}", text()));
        }
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for example in &self.examples {
            writeln!(f, "{example}")?;
        }
        writeln!(f, "acked           {:>14}", self.acked)?;
        writeln!(f, "stored          {:>14}", self.stored)?;
        writeln!(f, "unacked, stored {:>14}   allowed", self.unacked_stored)?;
        writeln!(f, "filtered        {:>14}   acked, not stored, below the server's level", self.filtered)?;
        writeln!(f, "reordered       {:>14}", self.reordered)?;
        writeln!(f, "foreign         {:>14}   of other runs or clients", self.foreign)?;
        if let Some(Datagrams { sent, stored, datagrams, datagrams_missing, kernel_drops, refused, is_explained }) =
            self.datagrams
        {
            let verdict = if is_explained { "explains it" } else { "DOES NOT EXPLAIN IT" };
            let missing = sent - stored;
            writeln!(f, "datagrams       {datagrams:>14}   {sent} lines, {stored} of them stored")?;
            writeln!(f, "missing         {datagrams_missing:>14}   whole datagrams, {missing} lines in all")?;
            writeln!(f, "the server says {kernel_drops:>14}   dropped, {refused} lines refused, which {verdict}")?;
        }
        let Findings { lost, duplicated, corrupt, phantom, .. } = self;
        write!(f, "{lost} lost, {duplicated} duplicated, {corrupt} corrupt, {phantom} phantom")
    }
}

fn name(sender: Sender) -> String {
    format!("run {:08x} worker {} connection {}", sender.run, sender.worker, sender.conn)
}

const EXAMPLES_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::{Corpus, Shape, Stamp};
    use crate::ledger::Mode;
    use crate::ranges::Ranges;

    const SENDER: Sender = Sender { run: 0xabc, worker: 1, conn: 4 };

    /// Lines 1 to 200 were sent, 1 to 190 promised but 50, which was refused.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(SENDER.run);
        let rejected = Ranges::of(50, 50);
        ledger.connections.push(Entry {
            mode: Mode::Session,
            worker: SENDER.worker,
            conn: SENDER.conn,
            producer: None,
            epoch: None,
            per_datagram: None,
            first: 1,
            sent_upto: 200,
            acked: Ranges::of(1, 190).without(&rejected),
            rejected,
            filtered: 0,
            duplicate: 0,
        });
        ledger
    }

    fn line(sender: Sender, seq: u64) -> Vec<u8> {
        let shape = Shape { seed: 1, record_size: 180, rich_share: 0.0, bad_share: 0.0 };
        let mut corpus = Corpus::new(&shape, true);
        corpus.stamp(&Stamp::new(sender), seq, 1).bytes.to_vec()
    }

    /// What a faultless server stores: everything that was promised, and two lines whose answer was lost.
    fn stored() -> Vec<Vec<u8>> {
        (1..=192).filter(|seq| *seq != 50).map(|seq| line(SENDER, seq)).collect()
    }

    fn compare(stored: &[Vec<u8>]) -> Findings {
        let mut reconciler = Reconciler::new(&[ledger()], Said::default()).unwrap();
        let bytes = [b"{\"$seg\":{\"v\":1}}\n".to_vec(), stored.concat()].concat();
        reconciler.read(io::BufReader::with_capacity(37, bytes.as_slice())).unwrap();
        reconciler.finish()
    }

    #[test]
    fn a_faultless_store_passes() {
        let findings = compare(&stored());
        assert!(findings.pass(), "{findings}");
        assert_eq!((findings.acked, findings.stored, findings.unacked_stored), (189, 191, 2));
        assert!(findings.to_string().ends_with("0 lost, 0 duplicated, 0 corrupt, 0 phantom"));
    }

    #[test]
    fn a_planted_lost_line_is_found_and_named() {
        let mut stored = stored();
        stored.remove(77);
        let findings = compare(&stored);
        assert_eq!((findings.lost, findings.pass()), (1, false));
        assert_eq!(findings.examples, ["lost: run 00000abc worker 1 connection 4 line 79, 1 in all"]);
    }

    #[test]
    fn a_planted_duplicate_is_found() {
        let mut stored = stored();
        stored.push(stored[3].clone());
        let findings = compare(&stored);
        assert_eq!((findings.duplicated, findings.lost, findings.pass()), (1, 0, false));
    }

    #[test]
    fn a_planted_corrupt_line_is_found_and_is_lost_too() {
        let mut stored = stored();
        let end = stored[9].len() - 5;
        stored[9][end] ^= 1;
        let findings = compare(&stored);
        assert_eq!((findings.corrupt, findings.lost, findings.pass()), (1, 1, false));
    }

    #[test]
    fn planted_phantoms_are_found() {
        for phantom in [line(SENDER, 201), line(SENDER, 50), line(Sender { conn: 5, ..SENDER }, 1)] {
            let mut stored = stored();
            stored.push(phantom);
            let findings = compare(&stored);
            assert_eq!((findings.phantom, findings.pass()), (1, false));
        }
    }

    #[test]
    fn swapped_lines_are_counted_and_lines_of_others_are_left_alone() {
        let mut stored = stored();
        stored.swap(20, 21);
        stored.push(line(Sender { run: 1, ..SENDER }, 1));
        stored.push(b"{\"level\":\"info\",\"message\":\"by hand\"}\n".to_vec());
        let findings = compare(&stored);
        assert_eq!((findings.reordered, findings.foreign, findings.pass()), (1, 2, true));
    }

    #[test]
    fn what_the_server_filtered_is_not_lost_but_one_more_is() {
        let mut ledger = ledger();
        ledger.connections[0].filtered = 2;
        let compare = |missing: usize| {
            let mut reconciler = Reconciler::new(std::slice::from_ref(&ledger), Said::default()).unwrap();
            stored().iter().skip(missing).for_each(|line| reconciler.take(line.strip_suffix(b"\n").unwrap()));
            reconciler.finish()
        };
        assert_eq!((compare(2).filtered, compare(2).lost), (2, 0));
        assert_eq!((compare(3).filtered, compare(3).lost), (2, 1));
    }

    #[test]
    fn what_is_missing_of_datagrams_has_to_be_what_the_server_says() {
        // Lines 1 to 50, seven in each datagram, one in the last.
        let mut ledger = Ledger::new(SENDER.run);
        let entry = super::tests::ledger().connections.remove(0);
        let (acked, rejected) = (Ranges::default(), Ranges::default());
        ledger.connections.push(Entry { per_datagram: Some(7), sent_upto: 50, acked, rejected, ..entry });
        let passes = |missing: &[u64], kernel_drops: u64, refused: u64| {
            let said = Said { kernel_drops, refused };
            let mut reconciler = Reconciler::new(std::slice::from_ref(&ledger), said).unwrap();
            let stored = (1..=50).filter(|seq| !missing.contains(seq)).map(|seq| line(SENDER, seq));
            stored.for_each(|line| reconciler.take(line.strip_suffix(b"\n").unwrap()));
            reconciler.finish().pass()
        };
        let whole: Vec<u64> = (8..=14).collect();
        assert!(passes(&[], 0, 0) && passes(&whole, 1, 0) && passes(&[50], 1, 0) && passes(&[3, 50], 1, 1));
        assert!(passes(&whole, 0, 7) && passes(&[9, 30], 0, 2), "what is refused need not be a whole datagram");
        assert!(!passes(&whole, 0, 0) && !passes(&whole, 2, 0) && !passes(&whole, 1, 1));
        assert!(!passes(&[9], 1, 0), "a datagram is dropped as a whole");
        assert!(!passes(&[50], 0, 0) && !passes(&[], 1, 0) && !passes(&[], 0, 1));
    }

    #[test]
    fn a_ledger_reads_back_and_a_false_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.json");
        ledger().save(&path).unwrap();
        assert_eq!(Ledger::load(&path), Ok(ledger()));
        let mut false_one = ledger();
        false_one.connections[0].sent_upto = 100;
        false_one.save(&path).unwrap();
        assert!(Ledger::load(&path).unwrap_err().contains("do not add up"));
        assert!(Reconciler::new(&[ledger(), ledger()], Said::default()).unwrap_err().contains("two ledgers"));
        let mut boastful = ledger();
        boastful.connections[0].sent_upto = u64::MAX;
        assert!(Reconciler::new(&[boastful], Said::default()).unwrap_err().contains("too many"));
        let mut odd = ledger();
        odd.connections[0].per_datagram = Some(u64::MAX);
        let datagrams = Reconciler::new(&[odd], Said::default()).unwrap().finish().datagrams.unwrap();
        assert_eq!((datagrams.datagrams, datagrams.sent), (1, 200), "one that all lines fit into");
    }
}
