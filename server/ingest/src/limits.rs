//! Every bound of a shard, in one place, with the relations among them.

use crate::batch;
use crate::block::{BLOCK_OVERHEAD_MAX, PAGE};
use crate::breaker::BreakerLimits;
use crate::member::{SegmentFormat, packed_len_max};
use crate::shard::HELLO_LEN_MAX;
use crate::transport::GzipLimits;
use std::time::Duration;

/// The bounds of one shard. All memory that a record's path uses follows from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest line, in bytes, without its ending.
    pub line_len_max: usize,
    /// Deepest nesting of a record, its own braces counted.
    pub depth_max: usize,
    /// Longest chunk that a driver hands over at once, in bytes.
    pub chunk_len_max: usize,
    /// Bytes of records that one batch gathers at most.
    pub batch_len_max: usize,
    /// Batches in memory: one that gathers, those being written, those waiting for a sync.
    pub batches: usize,
    /// Writes under way at once.
    pub writes_max: usize,
    /// A batch with this many records is written as soon as a write may start.
    pub batch_rows: u32,
    /// A batch this old is written as soon as a write may start.
    pub linger: Duration,
    /// While a sync is under way, a batch that only waits for the next sync is held back until it has this many bytes.
    pub ahead_len_min: usize,
    /// Blocks with this many bytes of records are laid out in whole pages, so that they can bypass the page cache.
    pub paged_len_min: usize,
    /// Bytes of a segment file.
    pub segment_len: u64,
    /// A segment that has been written to for this long takes no more blocks. `None`: only where it is full.
    pub segment_age: Option<Duration>,
    /// Bytes of one send at most.
    pub send_len_max: usize,
    /// Lines of one session that are not answered yet, before the shard stops reading it.
    pub owed_lines_max: u64,
    /// Distinct runs of answers that one session is owed, before the shard stops reading it.
    pub owed_runs_max: usize,
    /// A plain client that takes no reply for this long is replied to no more.
    pub ack_stall: Duration,
    /// Bytes that streaming connections of this shard may have sent ahead of what the shard wants, all together, beside
    /// one receive buffer each. (A driver that reads only what is wanted holds none.)
    pub hold_len_max: usize,
    /// How long to wait after no segment could be made, before it is tried again.
    pub storage_retry: Duration,
    /// When writes and syncs are tried no more for a while.
    pub storage_breaker: BreakerLimits,
    /// When the lines of one connection are looked at no more for a while. `None`: never.
    pub line_breaker: Option<BreakerLimits>,
    /// How long a batch may take to become safe, beyond what the disk needs at least: where it takes longer, the shard
    /// holds less, and clients wait with theirs.
    pub hold_time: Duration,
    /// A session that is over its share and has waited for room this long is told to come back.
    pub wait_over_share: Duration,
    /// A session that has waited for room this long is told to come back.
    pub wait_max: Duration,
    /// Connections of the whole server.
    pub connections_max: usize,
    /// Connections of one address: an IPv4 address, or an IPv6 network of 64 bits.
    pub connections_per_address_max: usize,
    /// Connections that this shard takes per second; further ones wait in the kernel. As many may come at once. `None`:
    /// as fast as they come.
    pub accept_rate: Option<u32>,
    /// Sessions of this shard: all of the server's may belong to it.
    pub sessions_max: usize,
    /// What a connection has for its first byte, a TLS handshake and a `$hello`. Here and below, `None` is for ever.
    pub greeting_time: Option<Duration>,
    /// What a connection has for a line that it has begun, beside what `line_rate_min` gives it.
    pub line_time: Option<Duration>,
    /// Bytes per second: what a line has in time for each byte of it that has arrived.
    pub line_rate_min: u32,
    /// How long a connection may be without a whole line, while the server owes it nothing.
    pub idle_time: Option<Duration>,
    /// A session that takes no answer for this long ends. (A plain connection is muted after `ack_stall`.)
    pub send_time: Option<Duration>,
    /// Producers that this shard remembers.
    pub producers_max: usize,
    /// Unacknowledged lines that a session's client is told to stay within.
    pub window: u32,
    /// Bytes decoded from TLS and gzip before a driver's next turn, all connections together. A turn may see the end of
    /// one such allowance and the whole of the next.
    pub decode_len_max: usize,
    /// What gzip may unpack to.
    pub gzip: GzipLimits,
    /// TLS handshakes under way at once; whoever comes then waits until one has ended.
    pub handshakes_max: usize,
    /// TLS handshakes that begin before a driver's next turn: each costs as much as a thousand records.
    pub handshake_starts_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            line_len_max: 256 << 10,
            depth_max: 64,
            chunk_len_max: 256 << 10,
            batch_len_max: 1 << 20,
            batches: 32,
            writes_max: 4,
            batch_rows: 500,
            linger: Duration::from_millis(100),
            ahead_len_min: 64 << 10,
            paged_len_min: 64 << 10,
            segment_len: 128 << 20,
            segment_age: None,
            send_len_max: 64 << 10,
            owed_lines_max: 64 << 10,
            owed_runs_max: 1024,
            ack_stall: Duration::from_millis(1000),
            hold_len_max: 64 << 20,
            storage_retry: Duration::from_millis(1000),
            connections_max: 16 << 10,
            connections_per_address_max: 8 << 10,
            accept_rate: Some(4000),
            storage_breaker: BreakerLimits::of_storage(),
            line_breaker: None,
            hold_time: Duration::from_millis(100),
            wait_over_share: Duration::from_millis(500),
            wait_max: Duration::from_millis(2000),
            sessions_max: 16 << 10,
            greeting_time: Some(Duration::from_secs(10)),
            line_time: Some(Duration::from_secs(30)),
            line_rate_min: 4096,
            idle_time: Some(Duration::from_secs(3600)),
            send_time: Some(Duration::from_secs(30)),
            producers_max: 64 << 10,
            window: 8192,
            decode_len_max: 1 << 20,
            gzip: GzipLimits::default(),
            handshakes_max: 1024,
            handshake_starts_max: 16,
        }
    }
}

impl Limits {
    /// Checks the relations among the bounds.
    ///
    /// # Errors
    /// A sentence that names the bound that does not fit, and what it has to be.
    pub fn check(&self) -> Result<(), String> {
        let need = |fits: bool, sentence: String| if fits { Ok(()) } else { Err(sentence) };
        need(
            self.line_len_max >= HELLO_LEN_MAX,
            format!("a line limit of {} bytes is below that of a $hello, {HELLO_LEN_MAX}", self.line_len_max),
        )?;
        let intake = self.intake_len_max();
        need(
            self.batch_len_max >= intake,
            format!(
                "a batch of {} bytes cannot take a carried line and a chunk: it needs {intake}",
                self.batch_len_max
            ),
        )?;
        need(
            self.batches >= self.writes_max + 2,
            format!(
                "{} batches: one gathers, {} are written, one waits for a sync, so {} are needed",
                self.batches,
                self.writes_max,
                self.writes_max + 2
            ),
        )?;
        need(self.writes_max >= 1, "at least one write has to be allowed at a time".into())?;
        need((1..=64).contains(&self.depth_max), format!("depth {} is not within 1 and 64", self.depth_max))?;
        need(
            self.wait_max >= self.wait_over_share && self.wait_over_share >= Duration::from_millis(1),
            "who is over its share waits a millisecond at least, and not longer than the others".into(),
        )?;
        self.storage_breaker.check()?;
        self.line_breaker.as_ref().map_or(Ok(()), BreakerLimits::check)?;
        let segment_len_min = self.segment_len_min();
        need(
            self.segment_len >= segment_len_min,
            format!("a segment of {} bytes cannot take what one shard holds: {segment_len_min}", self.segment_len),
        )?;
        need(self.segment_len.is_multiple_of(PAGE as u64), format!("a segment is made of pages of {PAGE} bytes"))?;
        need(self.owed_runs_max >= 1 && self.owed_lines_max >= 1, "a session may owe at least one answer".into())?;
        need(
            self.handshakes_max >= 1 && self.handshake_starts_max >= 1,
            "at least one handshake has to be allowed at a time".into(),
        )?;
        need(
            self.connections_max >= 1 && self.connections_per_address_max >= 1 && self.accept_rate != Some(0),
            "somebody has to be let in: connections, connections of one address and the accept rate are at least 1"
                .into(),
        )?;
        need(self.line_rate_min >= 1, "a line arrives at one byte per second at least".into())?;
        need(self.decode_len_max >= 1, "a turn decodes at least one byte, or it never ends".into())?;
        need(self.send_len_max >= 4096, "a send has at least 4096 bytes, the longest single answer".into())
    }

    /// These bounds, with what of others may change while a shard runs: how long it waits for what, who comes in, when
    /// a batch is due. What memory was taken for, and where blocks lie, stays as it is.
    pub fn changed_to(&self, other: &Limits) -> Limits {
        Limits {
            batch_rows: other.batch_rows,
            linger: other.linger,
            segment_age: other.segment_age,
            line_breaker: other.line_breaker.clone(),
            connections_max: other.connections_max,
            connections_per_address_max: other.connections_per_address_max,
            sessions_max: other.sessions_max,
            accept_rate: other.accept_rate,
            greeting_time: other.greeting_time,
            line_time: other.line_time,
            idle_time: other.idle_time,
            send_time: other.send_time,
            ..self.clone()
        }
    }

    /// Whether connections have as long as with others for what they have to do.
    pub(crate) fn gives_as_long_as(&self, other: &Limits) -> bool {
        let times = |limits: &Limits| [limits.greeting_time, limits.line_time, limits.idle_time, limits.send_time];
        times(self) == times(other)
    }

    /// What one chunk can add to a batch: the line it completes, itself, and the newline of an unfinished end.
    pub fn intake_len_max(&self) -> usize {
        self.line_len_max + self.chunk_len_max + 2
    }

    /// The longest datagram: with a newline for its last line it fits where a chunk does.
    pub fn datagram_len_max(&self) -> usize {
        self.intake_len_max() - 2
    }

    /// The smallest segment: all batches of a shard have to fit into a new one.
    pub fn segment_len_min(&self) -> u64 {
        ((self.batches + 1) * self.block_len_max()) as u64
    }

    /// The longest block: records, compressed or not, description, padding.
    pub fn block_len_max(&self) -> usize {
        packed_len_max(self.batch_len_max) + BLOCK_OVERHEAD_MAX
    }

    /// Memory of one shard's batches, in bytes, where segments are written like that.
    pub fn batch_memory(&self, format: SegmentFormat) -> usize {
        match format {
            SegmentFormat::Plain => batch::memory_len(self.batches, self.batch_len_max),
            // One more, to compress into.
            SegmentFormat::Gzip => batch::memory_len(self.batches + 1, packed_len_max(self.batch_len_max)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_bounds_fit_together() {
        assert_eq!(Limits::default().check(), Ok(()));
    }

    #[test]
    fn a_bound_that_does_not_fit_is_named() {
        let limits = Limits::default();
        let small_batch = Limits { batch_len_max: limits.intake_len_max() - 1, ..limits.clone() };
        assert!(small_batch.check().unwrap_err().contains("batch"));
        let small_segment = Limits { segment_len: limits.segment_len_min() - 1, ..limits.clone() };
        assert!(small_segment.check().unwrap_err().contains("segment"));
        let few = Limits { batches: limits.writes_max + 1, ..limits };
        assert!(few.check().unwrap_err().contains("batches"));
    }
}
