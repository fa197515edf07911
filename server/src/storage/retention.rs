//! Which stored segments have had their time, by size and by age, and their end. Off unless it is asked for.
//!
//! The oldest of a shard go first, one after the other and each durably, so that a crash in between leaves a directory
//! that merely begins later. A segment goes only if both of the snapshots that a start may turn to cover it: what
//! producers have sent is then known without it, and nothing that they send again is stored twice. What is open, what
//! was not written by a server, and what was copied aside is never touched.

use super::{at_path, layout, remove_durably, snapshot};
use crate::notice;
use ringest_ingest::scan::{Item, scan};
use ringest_ingest::{SegmentId, ShardId};
use std::collections::{HashSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How much is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Bytes of all segments of the log directory, those that are allocated for what comes next included.
    pub bytes: Option<u64>,
    /// How long a segment is kept after it was last written to.
    pub age: Option<Duration>,
}

/// Keeps a log directory within bounds. It remembers what it has said.
#[derive(Debug, Default)]
pub struct Sweeper {
    said: HashSet<String>,
}

/// A shard's segments.
struct Shard {
    id: ShardId,
    /// Oldest first: those that may go. Their length, and when they were last written to.
    expendable: VecDeque<(PathBuf, u64, SystemTime)>,
    removed: u64,
    removed_len: u64,
}

impl Retention {
    /// Whether there is anything to be done, ever.
    pub fn is_off(&self) -> bool {
        *self == Retention::default()
    }
}

impl Sweeper {
    /// Removes what is beyond the bounds, and says so. What cannot be removed now is left for the next time.
    pub fn sweep(&mut self, log_dir: &Path, retention: Retention, now: SystemTime) {
        if let Err(err) = self.try_sweep(log_dir, retention, now) {
            self.say_once(format!("old segments stay: {err}"));
        }
    }

    fn try_sweep(&mut self, log_dir: &Path, retention: Retention, now: SystemTime) -> io::Result<()> {
        if retention.is_off() {
            return Ok(());
        }
        let mut total = 0;
        let mut shards = Vec::new();
        for (id, dir) in layout::shard_dirs(log_dir).map_err(|err| at_path(err, "cannot read", log_dir))? {
            let (shard, len) = self.look_at(id, &dir).map_err(|err| at_path(err, "cannot read", &dir))?;
            shards.push(shard);
            total += len;
        }
        let swept = remove_beyond(&mut shards, retention, total, now);
        for Shard { id, removed, removed_len, .. } in shards.iter().filter(|shard| shard.removed > 0) {
            notice!("shard {}: old segments were removed: {removed}, {removed_len} bytes in all", id.0);
        }
        swept
    }

    /// What of a shard may go, and the bytes of all its segments.
    fn look_at(&mut self, id: ShardId, dir: &Path) -> io::Result<(Shard, u64)> {
        let mut shard = Shard { id, expendable: VecDeque::new(), removed: 0, removed_len: 0 };
        let mut total = 0;
        let segments = layout::segments(dir)?;
        // Asked only where there is anything: reading a snapshot costs more than reading a directory.
        let covered = if segments.is_empty() { None } else { snapshot::covered_twice(dir)? };
        for (segment, path) in segments {
            let found = match fs::metadata(&path) {
                Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
                found => found?,
            };
            total += found.len();
            if Some(segment) > covered {
                continue;
            }
            if is_ours(&path, segment)? {
                shard.expendable.push_back((path, found.len(), found.modified()?));
            } else {
                self.say_once(format!("{}: not written by a server, so it stays", path.display()));
            }
        }
        Ok((shard, total))
    }

    fn say_once(&mut self, sentence: String) {
        if self.said.len() < SAID_MAX && self.said.insert(sentence.clone()) {
            notice!("{sentence}");
        }
    }
}

fn remove_beyond(shards: &mut [Shard], retention: Retention, mut total: u64, now: SystemTime) -> io::Result<()> {
    for shard in shards.iter_mut() {
        while let Some((_, _, written_at)) = shard.expendable.front()
            // A time in the future is of a clock that was wrong; nothing is concluded from it.
            && let (Some(age), Ok(past)) = (retention.age, now.duration_since(*written_at))
            && past > age
        {
            total -= shard.remove_oldest()?;
        }
    }
    let Some(bytes) = retention.bytes else { return Ok(()) };
    while total > bytes {
        let fronts = shards.iter_mut().filter(|shard| !shard.expendable.is_empty());
        let Some(shard) = fronts.min_by_key(|shard| shard.expendable.front().map(|(_, _, written_at)| *written_at))
        else {
            return Ok(()); // What is left is needed.
        };
        total -= shard.remove_oldest()?;
    }
    Ok(())
}

impl Shard {
    /// Removes a segment; its length.
    fn remove_oldest(&mut self) -> io::Result<u64> {
        let Some((path, len, _)) = self.expendable.pop_front() else { return Ok(0) };
        // Each before the next: a gap in the middle, after a power cut, would be a finding.
        match remove_durably(&path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {} // Somebody else was faster.
            done => done.map_err(|err| at_path(err, "cannot remove", &path))?,
        }
        self.removed += 1;
        self.removed_len += len;
        Ok(len)
    }
}

/// Whether a file begins as a segment of that id does. What merely has its name may be somebody's.
fn is_ours(path: &Path, id: SegmentId) -> io::Result<bool> {
    let mut head = Vec::new();
    File::open(path)?.take(HEAD_LEN).read_to_end(&mut head)?;
    Ok(matches!(scan(&head, id).next(), Some(Item::Segment { .. })))
}

/// More than the first line of a segment has, compressed or not.
const HEAD_LEN: u64 = 64 << 10;
/// Sentences that are remembered; there is a limit to what is worth saying.
const SAID_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use ringest_ingest::ProducerState;
    use std::fs::OpenOptions;

    const AGE: Duration = Duration::from_secs(3600);

    /// A shard's directory with segments of 1000 bytes, the first the oldest, a minute apart, and snapshots of some.
    fn laid(
        log_dir: &Path,
        shard: u16,
        segments: std::ops::RangeInclusive<u64>,
        snapshots: &[u64],
        newest: SystemTime,
    ) {
        let dir = log_dir.join(layout::shard_dir_name(ShardId(shard)));
        fs::create_dir_all(&dir).unwrap();
        let last = *segments.end();
        for id in segments {
            let path = dir.join(layout::segment_name(SegmentId(id), ringest_ingest::SegmentFormat::Plain));
            fs::write(&path, first_line(shard, id)).unwrap();
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.set_len(1000).unwrap();
            file.set_modified(newest - Duration::from_secs(60) * (last - id) as u32).unwrap();
        }
        for &id in snapshots {
            let state = ProducerState { producer: "web".into(), epoch: 1, last_seq: id };
            snapshot::write(&dir, SegmentId(id), &[state]).unwrap();
        }
    }

    /// As a shard writes it.
    fn first_line(shard: u16, id: u64) -> Vec<u8> {
        use ringest_ingest::{Action, Limits, Shard, ShardConfig};
        let now = std::time::Instant::now();
        let limits = Limits::default();
        let mut made = Shard::new(
            ShardConfig {
                shard: ShardId(shard),
                shards: shard + 1,
                first_segment: SegmentId(id),
                ..ShardConfig::alone(limits)
            },
            now,
        )
        .unwrap();
        let Some(Action::Open(segment)) = made.poll() else { panic!("a shard begins with a segment") };
        made.handle_opened(segment, Ok(()), now);
        let session = made.handle_accepted(now).unwrap();
        assert!(made.wants(session));
        made.handle_bytes(session, b"{\"level\":\"info\",\"message\":1}\n", now);
        loop {
            match made.poll() {
                Some(Action::Write(block)) => {
                    let end = block.bytes().iter().position(|&byte| byte == b'\n').unwrap();
                    return block.bytes()[..=end].to_vec();
                }
                Some(_) => {}
                None => panic!("a line that is waited for is written"),
            }
        }
    }

    fn left(log_dir: &Path, shard: u16) -> Vec<u64> {
        let dir = log_dir.join(layout::shard_dir_name(ShardId(shard)));
        layout::segments(&dir).unwrap().into_iter().map(|(id, _)| id.0).collect()
    }

    fn sweep(log_dir: &Path, bytes: Option<u64>, age: Option<Duration>, now: SystemTime) {
        Sweeper::default().sweep(log_dir, Retention { bytes, age }, now);
    }

    #[test]
    fn at_the_bound_nothing_goes_and_past_it_the_oldest_does() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        laid(dir.path(), 0, 1..=6, &[4, 5], now);
        sweep(dir.path(), None, None, now);
        sweep(dir.path(), Some(6000), None, now);
        assert_eq!(left(dir.path(), 0), [1, 2, 3, 4, 5, 6]);
        sweep(dir.path(), Some(5999), None, now);
        assert_eq!(left(dir.path(), 0), [2, 3, 4, 5, 6]);
        sweep(dir.path(), Some(3001), None, now);
        assert_eq!(left(dir.path(), 0), [4, 5, 6]);
    }

    #[test]
    fn as_old_as_may_be_stays_and_older_goes() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        // Ages in minutes: 3, 2, 1, 0.
        laid(dir.path(), 0, 5..=8, &[7, 8], now);
        sweep(dir.path(), None, Some(Duration::from_secs(180)), now);
        assert_eq!(left(dir.path(), 0), [5, 6, 7, 8]);
        sweep(dir.path(), None, Some(Duration::from_secs(179)), now);
        assert_eq!(left(dir.path(), 0), [6, 7, 8]);
        sweep(dir.path(), None, Some(Duration::from_secs(60)), now);
        assert_eq!(left(dir.path(), 0), [7, 8]);
        sweep(dir.path(), None, Some(AGE), now - Duration::from_secs(24 * 3600));
        assert_eq!(left(dir.path(), 0), [7, 8], "a clock that went back removes nothing");
    }

    #[test]
    fn what_a_start_may_have_to_read_stays_whatever_the_bounds() {
        let now = SystemTime::now();
        let gone = |snapshots: &[u64], damaged: &[u64]| {
            let dir = tempfile::tempdir().unwrap();
            laid(dir.path(), 0, 1..=6, snapshots, now - 10 * AGE);
            for &id in damaged {
                let path = dir.path().join("shard-00").join(layout::snapshot_name(SegmentId(id)));
                let mut bytes = fs::read(&path).unwrap();
                bytes[3] ^= 1;
                fs::write(&path, bytes).unwrap();
            }
            sweep(dir.path(), Some(0), Some(AGE), now);
            left(dir.path(), 0)
        };
        assert_eq!(gone(&[], &[]), [1, 2, 3, 4, 5, 6], "nothing else knows of producers");
        assert_eq!(gone(&[5], &[]), [1, 2, 3, 4, 5, 6], "a snapshot may be damaged when it is needed");
        assert_eq!(gone(&[3, 5], &[]), [4, 5, 6]);
        assert_eq!(gone(&[3, 5], &[5]), [1, 2, 3, 4, 5, 6]);
        assert_eq!(gone(&[3, 5], &[3]), [1, 2, 3, 4, 5, 6]);
        assert_eq!(gone(&[5, 6], &[]), [6]);
    }

    #[test]
    fn of_all_shards_the_oldest_go_those_that_nobody_serves_included() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        laid(dir.path(), 0, 1..=4, &[3, 4], now);
        laid(dir.path(), 7, 1..=4, &[3, 4], now - AGE);
        sweep(dir.path(), Some(5000), None, now);
        assert_eq!((left(dir.path(), 0), left(dir.path(), 7)), (vec![1, 2, 3, 4], vec![4]));
        sweep(dir.path(), Some(4000), None, now);
        assert_eq!((left(dir.path(), 0), left(dir.path(), 7)), (vec![2, 3, 4], vec![4]));
    }

    #[test]
    fn what_only_has_the_name_of_a_segment_stays_and_keeps_nothing_from_going() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        laid(dir.path(), 0, 1..=5, &[4, 5], now - 10 * AGE);
        let shard = dir.path().join("shard-00");
        fs::write(shard.join("00000000000000000002.ndjson"), "mine\n").unwrap();
        fs::write(shard.join("00000000000000000003.ndjson.gz"), [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]).unwrap();
        fs::write(shard.join("notes.txt"), "mine").unwrap();
        fs::create_dir(shard.join("quarantine")).unwrap();
        let mut sweeper = Sweeper::default();
        sweeper.sweep(dir.path(), Retention { bytes: None, age: Some(AGE) }, now);
        assert_eq!(left(dir.path(), 0), [2, 3, 5]);
        assert!(shard.join("notes.txt").exists() && shard.join("quarantine").exists());
        assert_eq!(sweeper.said.len(), 2, "{:?}", sweeper.said);
        sweeper.sweep(dir.path(), Retention { bytes: None, age: Some(AGE) }, now);
        assert_eq!(sweeper.said.len(), 2);
    }
}
