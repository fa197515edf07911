//! How much memory a server can come to take: a sum with a name for each term, computed from its [`Limits`].
//!
//! It is an upper bound: what is taken if every connection does its worst at the same time. Kernel memory (socket
//! buffers, page cache) is not in it.

use crate::block::PAGE;
use crate::limits::Limits;
use crate::member::SegmentFormat;
use crate::session::OUTBOX_STOP_LEN;
use crate::shard::HELLO_LEN_MAX;
use serde::Serialize;

/// The bound and its terms, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Program and threads.
    pub base: usize,
    /// What each shard has and gathers, whatever its connections do.
    pub per_shard: usize,
    /// A connection that has said nothing, or has been answered all.
    pub per_idle_connection: usize,
    /// A text connection that does its worst.
    pub per_text_connection: usize,
    /// The same with TLS or gzip, or gzip in TLS.
    pub per_encoded_connection: usize,
    /// All of it: the shards, and as many encoded connections as may be.
    pub total: usize,
}

/// What the driver of a shard holds beside it, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriverMemory {
    /// Receive buffers.
    pub buffers: usize,
    /// What one connection may have sent ahead of what the shard wants.
    pub held_per_connection: usize,
    /// What streaming connections may, all together, on top of that.
    pub held: usize,
}

impl Memory {
    /// That of a server with so many shards.
    pub fn new(limits: &Limits, format: SegmentFormat, driver: DriverMemory, shards: usize) -> Memory {
        let per_shard = limits.batch_memory(format)
            + driver.buffers
            + driver.held
            // Where encoded bytes are decoded to, and what is left of a chunk while the rest of it is looked at.
            + 2 * limits.chunk_len_max
            + limits.gzip.inflaters_max * INFLATER_LEN
            + SPARE_SENDS_MAX * spare_send_len_max(limits)
            + limits.producers_max * PRODUCER_LEN
            + SHARD_LEN;
        let per_text_connection = IDLE_LEN + driver.held_per_connection + input_len(limits) + answers_len(limits);
        // Received and not decoded; what the TLS layer has of either direction.
        let per_encoded_connection = per_text_connection + limits.chunk_len_max + TLS_LEN;
        Memory {
            base: BASE_LEN,
            per_shard,
            per_idle_connection: IDLE_LEN,
            per_text_connection,
            per_encoded_connection,
            total: BASE_LEN + shards * per_shard + limits.connections_max * per_encoded_connection,
        }
    }
}

/// The longest send buffer that is kept for the next send.
pub(crate) fn spare_send_len_max(limits: &Limits) -> usize {
    (limits.send_len_max + OUTBOX_STOP_LEN).next_power_of_two()
}

/// What a session holds of what it was sent: an unfinished line; or a hello and what came behind it, or lines that wait
/// for answers to be taken, either of which leaves no line unfinished.
fn input_len(limits: &Limits) -> usize {
    (limits.line_len_max + 1).max(HELLO_LEN_MAX + limits.chunk_len_max)
}

/// What a session holds to be said: a send under way, answers behind it, and what is to become answers.
fn answers_len(limits: &Limits) -> usize {
    let outbox = 2 * (OUTBOX_STOP_LEN + ANSWER_LEN_MAX);
    let send = spare_send_len_max(limits);
    // Runs of replies, or rejections and what each batch settled; tables grow by doubling.
    let owed = 2 * ((limits.owed_runs_max + 2) * OWED_LEN + limits.batches * SETTLED_LEN);
    outbox + send + owed
}

/// Send buffers kept for the next sends; more are needed only while more sessions are answered in one turn.
pub(crate) const SPARE_SENDS_MAX: usize = 64;
/// The program, its libraries, and the stacks of its threads as far as they are used.
const BASE_LEN: usize = 16 << 20;
/// Rings or tables of the kernel's interface, runs of batches and who waits for them, tables of sessions that were there.
const SHARD_LEN: usize = 4 << 20;
/// A producer's entry: its name twice, its state, its places in two tables.
const PRODUCER_LEN: usize = 512;
/// One inflater, as its module says.
const INFLATER_LEN: usize = 48 << 10;
/// Session, driver's record, and entries of tables. Measured: 5,000 idle connections take about 700 bytes each.
const IDLE_LEN: usize = 2 << 10;
/// A rustls connection: records not whole yet (64 KiB while it shakes hands), decoded bytes not taken (one record), keys
/// and transcripts, and what is encoded of one send.
const TLS_LEN: usize = 192 << 10;
/// A run of replies, or a rejection.
const OWED_LEN: usize = 24;
/// What one batch settles of a stream.
const SETTLED_LEN: usize = 40;
/// The longest answer that is no ack, with its reason.
const ANSWER_LEN_MAX: usize = 1 << 10;

const _: () = assert!(PAGE == 4096, "batch memory is counted in pages of this size");

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVER: DriverMemory = DriverMemory { buffers: 2 << 20, held_per_connection: 64 << 10, held: 64 << 20 };

    #[test]
    fn the_bound_is_the_sum_of_its_terms() {
        let limits = Limits { connections_max: 1000, ..Limits::default() };
        let memory = Memory::new(&limits, SegmentFormat::Plain, DRIVER, 4);
        assert_eq!(memory.total, memory.base + 4 * memory.per_shard + 1000 * memory.per_encoded_connection);
        assert!(memory.per_idle_connection < memory.per_text_connection);
        assert!(memory.per_text_connection < memory.per_encoded_connection);
    }

    #[test]
    fn the_documented_figures_are_those_of_the_default_bounds() {
        let memory = Memory::new(&Limits::default(), SegmentFormat::Plain, DRIVER, 1);
        let kib = |len: usize| len.div_ceil(1024);
        assert_eq!(kib(memory.per_text_connection), TEXT_KIB);
        assert_eq!(kib(memory.per_encoded_connection), ENCODED_KIB);
        assert_eq!(memory.per_shard >> 20, SHARD_MIB);
    }

    #[test]
    fn a_longer_line_costs_what_it_is_longer() {
        let usual = Memory::new(&Limits::default(), SegmentFormat::Plain, DRIVER, 1);
        let line_len_max = 1 << 20;
        let long = Memory::new(&Limits { line_len_max, ..Limits::default() }, SegmentFormat::Plain, DRIVER, 1);
        let more = line_len_max + 1 - HELLO_LEN_MAX - Limits::default().chunk_len_max;
        assert_eq!(long.per_text_connection - usual.per_text_connection, more);
    }

    /// As docs/OPERATIONS.md has them.
    const TEXT_KIB: usize = 539;
    const ENCODED_KIB: usize = 987;
    const SHARD_MIB: usize = 194;
}
