//! The shard's books.

use crate::stage::Stages;
use ringest_wire::{Class, Code};

/// What became of every line. The books close:
/// `received = stored + filtered + duplicate + rejected + in flight`, exactly, whenever a shard has been polled dry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Lines received.
    pub received: u64,
    /// Records whose write has completed.
    pub stored: u64,
    /// Records below the minimum level.
    pub filtered: u64,
    /// Lines that a producer sent again.
    pub duplicate: u64,
    /// Lines refused, by code.
    pub rejected: [u64; Code::COUNT],
    /// Records stored with a level that is not known.
    pub unknown_level: u64,
    /// Bytes received on connections and in datagrams.
    pub received_bytes: u64,
    /// Bytes of stored records, newlines counted.
    pub stored_bytes: u64,
    /// Blocks whose write has completed.
    pub blocks: u64,
    /// Syncs that succeeded.
    pub syncs: u64,
    /// Writes and syncs that failed.
    pub storage_failures: u64,
    /// How often the breaker around storage opened.
    pub storage_breaker_opened: u64,
    /// How often a breaker around the lines of a connection opened.
    pub line_breakers_opened: u64,
    /// How often a session that was over its share was told to come back, because it had waited for room.
    pub shed_over_share: u64,
    /// How often a session was told to come back, because it had waited for room for too long.
    pub shed_overdue: u64,
    /// Connections taken over their life.
    pub sessions: u64,
    /// Connections refused because there were as many as may be.
    pub refused_full: u64,
    /// Connections refused because there were as many of their address as may be.
    pub refused_address: u64,
    /// Connections that were ended, by code: those that were too slow, idle or without a token.
    pub ended: [u64; Code::COUNT],
    /// Plain connections that took no reply for too long and are replied to no more.
    pub acks_suppressed: u64,
    /// TLS handshakes that came to an end.
    pub tls_handshakes: u64,
    /// Connections that began a handshake and ended without one, broke the encryption later, asked for TLS where there
    /// is none, or spoke without it where it is required.
    pub tls_failures: u64,
    /// Datagrams received, whatever became of their lines.
    pub udp_datagrams: u64,
    /// Of these, datagrams that were longer than what they were received into: one refused line each.
    pub udp_cut: u64,
    /// Datagrams that the kernel had no room for. Nobody knows what was in them, so they are in no other count.
    pub udp_kernel_drops: u64,
    /// Where their time went.
    pub stages: Stages,
}

impl Tally {
    pub(crate) fn new() -> Tally {
        Tally {
            received: 0,
            stored: 0,
            filtered: 0,
            duplicate: 0,
            rejected: [0; Code::COUNT],
            unknown_level: 0,
            received_bytes: 0,
            stored_bytes: 0,
            blocks: 0,
            syncs: 0,
            storage_failures: 0,
            storage_breaker_opened: 0,
            line_breakers_opened: 0,
            shed_over_share: 0,
            shed_overdue: 0,
            sessions: 0,
            refused_full: 0,
            refused_address: 0,
            ended: [0; Code::COUNT],
            acks_suppressed: 0,
            tls_handshakes: 0,
            tls_failures: 0,
            udp_datagrams: 0,
            udp_cut: 0,
            udp_kernel_drops: 0,
            stages: Stages::default(),
        }
    }

    /// Lines refused, for any reason.
    pub fn rejected_total(&self) -> u64 {
        self.rejected.iter().sum()
    }

    /// Lines that will never be taken, whenever they come.
    pub(crate) fn bad_lines(&self) -> u64 {
        let bad = Code::ALL.into_iter().filter(|code| code.class() == Class::Final);
        bad.map(|code| self.rejected[code as usize]).sum()
    }

    /// Whether the books close with so many records between admission and the end of their write.
    pub fn closes_with(&self, in_flight: u64) -> bool {
        self.received == self.stored + self.filtered + self.duplicate + self.rejected_total() + in_flight
    }
}
