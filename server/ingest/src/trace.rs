//! One trace per batch, for those who want traces: a span from its first record until it is safe, and in it a span per stage,
//! named like those of `stage`. Without the feature `tracing` these types are empty, and nothing of this is in the build.
//!
//! A batch spans turns and many connections, so no span is ever entered: it is begun, told what is known by then, and
//! dropped. Without a subscriber a span costs one look at a flag.

#[cfg(not(feature = "tracing"))]
pub(crate) use absent::BatchTrace;
#[cfg(feature = "tracing")]
pub(crate) use spans::BatchTrace;

#[cfg(feature = "tracing")]
mod spans {
    use crate::chain::SegmentId;
    use crate::shard::ShardId;
    use tracing::field::Empty;
    use tracing::{Span, info_span};

    /// The trace of a batch; it ends when this is dropped.
    #[derive(Debug)]
    pub(crate) struct BatchTrace {
        // Dropped in this order: a stage ends before its batch.
        stage: Span,
        batch: Span,
    }

    impl BatchTrace {
        /// Its first record is about to come.
        pub(crate) fn begin(shard: ShardId) -> BatchTrace {
            let batch = info_span!(
                parent: None, "batch",
                shard = i64::from(shard.0), number = Empty, records = Empty, bytes = Empty, segment = Empty, offset = Empty
            );
            let stage = info_span!(parent: &batch, "queue");
            BatchTrace { stage, batch }
        }

        /// No more records will come.
        pub(crate) fn seal(&self, number: u64, records: u32, len: usize) {
            self.batch
                .record("number", int(number))
                .record("records", i64::from(records))
                .record("bytes", int(len as u64));
        }

        /// It is given to the disk, to lie there. Again, where it is written again.
        pub(crate) fn issue(&mut self, segment: SegmentId, offset: u64) {
            self.batch.record("segment", int(segment.0)).record("offset", int(offset));
            self.stage = info_span!(parent: &self.batch, "write");
        }

        /// It is written, and waits for the sync that covers it, or for those that make room again.
        pub(crate) fn settle(&mut self) {
            self.stage = info_span!(parent: &self.batch, "sync");
        }
    }

    /// As traces have it: their numbers are signed, and an exporter makes text of any other.
    fn int(number: u64) -> i64 {
        i64::try_from(number).unwrap_or(i64::MAX)
    }
}

#[cfg(not(feature = "tracing"))]
mod absent {
    use crate::chain::SegmentId;
    use crate::shard::ShardId;

    #[derive(Debug)]
    pub(crate) struct BatchTrace;

    impl BatchTrace {
        pub(crate) fn begin(_shard: ShardId) -> BatchTrace {
            BatchTrace
        }

        pub(crate) fn seal(&self, _number: u64, _records: u32, _len: usize) {}

        pub(crate) fn issue(&mut self, _segment: SegmentId, _offset: u64) {}

        pub(crate) fn settle(&mut self) {}
    }
}
