//! A shard that writes real segments to a disk that does as it is told: it may forget writes, tear them, fail a sync.

use ringest_ingest::{Action, Block, Fault, Limits, SegmentFormat, SegmentId, SessionId, Shard, ShardConfig, ShardId};
use ringest_server::storage::{Ending, Recovery, SegmentFile, Store, fault, layout};
use std::collections::{HashMap, VecDeque};
use std::fs::OpenOptions;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A shard with one producer connected to it. Dropping it is a crash.
pub(crate) struct Writer {
    shard: Shard,
    store: Store,
    format: SegmentFormat,
    dir: PathBuf,
    segment_len: u64,
    files: HashMap<SegmentId, SegmentFile>,
    session: SessionId,
    /// What the client has been sent.
    pub(crate) sent: String,
    /// Blocks that the disk has not finished, and will not.
    unwritten: Vec<Block>,
    /// What becomes of the next blocks, in order; after these, all is well.
    pub(crate) fates: VecDeque<Fate>,
    /// The next sync fails.
    pub(crate) sync_fails: bool,
    /// Segments that are done with stay as long as they are: the crash comes before they are cut.
    pub(crate) leaves_files_long: bool,
    /// The last block that was written went past the page cache.
    pub(crate) went_past_cache: bool,
    now: Instant,
}

/// What the disk does with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is written.
    Written,
    /// The disk never gets to it.
    Lost,
    /// The disk gets to so many bytes of it.
    Torn(usize),
}

impl Writer {
    /// Starts a shard from what was recovered.
    pub(crate) fn start(log_dir: &Path, shard: u16, recovery: &Recovery, limits: Limits) -> Writer {
        Writer::start_as(SegmentFormat::Plain, log_dir, shard, recovery, limits)
    }

    /// Starts a shard that writes its segments like that.
    pub(crate) fn start_as(
        format: SegmentFormat,
        log_dir: &Path,
        shard: u16,
        recovery: &Recovery,
        limits: Limits,
    ) -> Writer {
        let now = Instant::now();
        let recovered = recovery.shards[usize::from(shard)].clone();
        let shard = ShardId(shard);
        let segment_len = limits.segment_len;
        let config = ShardConfig {
            shard,
            shards: u16::try_from(recovery.shards.len()).unwrap(),
            first_segment: recovered.next_segment,
            producers: recovered.producers,
            away: recovered.away,
            format,
            ..ShardConfig::alone(limits)
        };
        let mut state = Shard::new(config, now).unwrap();
        let mut writer = Writer {
            session: state.handle_accepted(now).unwrap(),
            shard: state,
            store: Store::open(log_dir, shard, format).unwrap(),
            format,
            dir: log_dir.join(layout::shard_dir_name(shard)),
            segment_len,
            files: HashMap::new(),
            sent: String::new(),
            unwritten: Vec::new(),
            fates: VecDeque::new(),
            sync_fails: false,
            leaves_files_long: false,
            went_past_cache: false,
            now,
        };
        writer.act();
        writer
    }

    /// Says who sends.
    pub(crate) fn hello(&mut self, producer: &str, epoch: u64) {
        self.feed(&format!("{{\"$hello\":{{\"v\":1,\"producer\":\"{producer}\",\"epoch\":{epoch}}}}}\n"));
        assert!(self.sent.contains("$welcome"), "{producer} is not welcome: {}", self.sent);
    }

    /// Sends records with these numbers; each becomes a block.
    pub(crate) fn records(&mut self, numbers: Range<usize>) {
        numbers.for_each(|number| self.feed(&record(number)));
    }

    /// Sends bytes.
    pub(crate) fn feed(&mut self, text: &str) {
        assert!(self.shard.wants(self.session), "a test does not feed faster than the disk takes");
        self.shard.handle_bytes(self.session, text.as_bytes(), self.now);
        self.act();
    }

    /// Settles everything and ends in order.
    pub(crate) fn stop(mut self) {
        self.shard.handle_drain(self.now);
        self.act();
        assert!(self.shard.is_drained());
    }

    /// Is told to end in order, and crashes in the middle of that.
    pub(crate) fn die_in_drain(mut self) {
        self.shard.handle_drain(self.now);
        self.act();
        assert!(!self.shard.is_drained());
    }

    fn act(&mut self) {
        while let Some(action) = self.shard.poll() {
            match action {
                Action::Open(id) => {
                    let made = self.store.create(id, self.segment_len);
                    let made = made.map(|file| drop(self.files.insert(id, file)));
                    self.shard.handle_opened(id, made.map_err(|err| fault(&err)), self.now);
                }
                Action::Write(block) => self.write(block),
                Action::Sync(id) => {
                    self.files[&id].sync().unwrap();
                    let fails = std::mem::take(&mut self.sync_fails);
                    self.shard.handle_synced(id, if fails { Err(Fault::Broken) } else { Ok(()) }, self.now);
                }
                Action::CloseSegment { segment, len, producers } => {
                    let file = self.files.remove(&segment).unwrap();
                    if !self.leaves_files_long {
                        self.store.close(&file, segment, Ending { len, producers });
                    }
                }
                Action::Send(id, buf) => {
                    self.sent += std::str::from_utf8(&buf).unwrap();
                    self.shard.handle_sent(id, buf, self.now);
                }
                Action::Resume(_) | Action::ResumeDatagrams | Action::Close(_) => {}
                Action::HandOff { shard, .. } => panic!("the producer of this test lives on {shard:?}"),
            }
        }
    }

    fn write(&mut self, block: Block) {
        match self.fates.pop_front().unwrap_or(Fate::Written) {
            Fate::Written => {
                let file = &self.files[&block.segment()];
                self.went_past_cache = file.goes_past_cache(&block);
                file.write(&block).unwrap();
                self.shard.handle_written(block, Ok(()), self.now);
            }
            Fate::Lost => self.unwritten.push(block),
            Fate::Torn(len) => {
                let path = self.dir.join(layout::segment_name(block.segment(), self.format));
                let disk = OpenOptions::new().write(true).open(path).unwrap();
                disk.write_all_at(&block.bytes()[..len], block.offset()).unwrap();
                self.unwritten.push(block);
            }
        }
    }
}

/// Bounds with which each record becomes a block of its own.
pub(crate) fn one_record_per_block() -> Limits {
    let limits = Limits {
        line_len_max: 4096,
        chunk_len_max: 4096,
        batch_len_max: 16 << 10,
        batches: 8,
        batch_rows: 1,
        ..Limits::default()
    };
    Limits { segment_len: limits.segment_len_min().next_multiple_of(4096), ..limits }
}

/// One record with its newline.
pub(crate) fn record(number: usize) -> String {
    format!("{{\"level\":\"info\",\"message\":\"record {number}\"}}\n")
}

/// Records as `cat` prints them.
pub(crate) fn records(numbers: impl IntoIterator<Item = usize>) -> String {
    numbers.into_iter().map(record).collect()
}
