//! What a run was promised: per connection, which lines were sent and which of them acknowledged.
//!
//! A ledger is written after the run, or when it is interrupted, and holds no more than the server said. It is what
//! [`crate::reconcile`] compares with what was stored.

use crate::corpus::Sender;
use crate::ranges::Ranges;
use ringest_sys::file;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::{fs, io};

/// The name and version of the form.
pub const SCHEMA: &str = "ringest.ledger.v1";

/// What one run was promised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// [`SCHEMA`].
    pub schema: String,
    /// The run, as it is written in each line: 8 hex digits.
    pub run: String,
    /// One entry per connection, and in session mode per producer.
    pub connections: Vec<Entry>,
}

/// What one connection was promised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Plain or session.
    pub mode: Mode,
    /// The worker, as it is written in each line.
    pub worker: u16,
    /// The connection, as it is written in each line.
    pub conn: u32,
    /// The producer that the session named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub producer: Option<String>,
    /// The producer's epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Lines of each datagram, the last one excepted, where they were sent as datagrams: nobody answers those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_datagram: Option<u64>,
    /// The first line of this run; an earlier run of the same name may have sent others.
    pub first: u64,
    /// The last line of which any byte was sent, 0 where none was.
    pub sent_upto: u64,
    /// Lines the server said it took: these have to be there.
    pub acked: Ranges,
    /// Lines the server refused for good: these must not be there.
    pub rejected: Ranges,
    /// Of the acknowledged lines, how many the server said it filtered by level: these need not be there.
    pub filtered: u64,
    /// Lines the server said it had already.
    pub duplicate: u64,
}

/// How a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One reply per line, at most once.
    Plain,
    /// Numbered lines, cumulative acknowledgements, exactly once.
    Session,
}

impl Ledger {
    /// The ledger of a run that has promised nothing yet.
    pub fn new(run: u32) -> Ledger {
        Ledger { schema: SCHEMA.into(), run: format!("{run:08x}"), connections: Vec::new() }
    }

    /// Writes it, so that a reader finds a whole ledger or none.
    ///
    /// # Errors
    /// Where the file cannot be written, or the path names something else than a file; the error names it.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self).expect("a ledger is always JSON");
        file::replace(path, &text).map_err(|error| cannot_write(path, &error))
    }

    /// Whether a ledger could be saved there, as far as that can be told before the run.
    ///
    /// # Errors
    /// As [`save`](Ledger::save).
    pub fn check_place(path: &Path) -> io::Result<()> {
        file::check_replaceable(path).map_err(|error| cannot_write(path, &error))
    }

    /// Reads a ledger, and checks that its numbers can be true.
    ///
    /// # Errors
    /// A sentence that names the file and says what is wrong.
    pub fn load(path: &Path) -> Result<Ledger, String> {
        let name = path.display();
        let text = fs::read(path).map_err(|error| format!("cannot read the ledger {name}: {error}"))?;
        let ledger: Ledger = serde_json::from_slice(&text)
            .map_err(|error| format!("{name} is not a ledger of this version: {error}"))?;
        if ledger.schema != SCHEMA {
            return Err(format!("{name} is written as \"{}\"; this build reads \"{SCHEMA}\"", ledger.schema));
        }
        if ledger.run_id().is_none() {
            return Err(format!("{name}: the run \"{}\" is not 8 hex digits", ledger.run));
        }
        match ledger.connections.iter().find(|entry| !entry.is_sound()) {
            Some(entry) => {
                Err(format!("{name}: the books of worker {} connection {} do not add up", entry.worker, entry.conn))
            }
            None => Ok(ledger),
        }
    }

    /// The run as a number.
    pub fn run_id(&self) -> Option<u32> {
        (self.run.len() == 8).then(|| u32::from_str_radix(&self.run, 16).ok()).flatten()
    }

    /// Who sent the lines of an entry.
    pub fn sender(&self, entry: &Entry) -> Option<Sender> {
        Some(Sender { run: self.run_id()?, worker: entry.worker, conn: entry.conn })
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write the ledger {}: {error}", path.display()))
}

/// What a line's stamp has room for.
const SEQ_MAX: u64 = 999_999_999_999;

impl Entry {
    fn is_sound(&self) -> bool {
        let sent = |ranges: &Ranges| ranges.is_sound() && ranges.last().unwrap_or(0) <= self.sent_upto;
        let begun = self.first > 0 && self.acked.iter().next().is_none_or(|(first, _)| first >= self.first);
        let grouped = self.per_datagram != Some(0);
        let written = self.sent_upto <= SEQ_MAX;
        begun
            && grouped
            && written
            && sent(&self.acked)
            && sent(&self.rejected)
            && self.worker < 1000
            && self.conn < 1_000_000
    }
}
