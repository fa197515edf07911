//! The thread on which segment files are made, closed and removed, one for the whole server, so that no shard ever waits
//! for an allocation or for the sync of a directory. It does what it is asked, in order, and decides nothing; between
//! that it looks whether stored segments have had their time.

use super::retention::{Retention, Sweeper};
use super::{SegmentFile, Store};
use ringest_ingest::{ProducerState, SegmentId};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SendError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

/// The thread's owner: dropping it finishes what was asked, and waits for that.
#[derive(Debug)]
pub struct Keeper {
    jobs: Sender<Job>,
    thread: Option<JoinHandle<()>>,
    /// Written by the thread, read by the owner.
    has_lost: Arc<AtomicBool>,
}

/// The way to ask the keeper; each worker has its own.
#[derive(Clone, Debug)]
pub struct KeeperHandle {
    jobs: Sender<Job>,
}

type Opened = Box<dyn FnOnce(io::Result<SegmentFile>) + Send>;
type Closed = Box<dyn FnOnce() + Send>;

enum Job {
    Open {
        store: Arc<Store>,
        id: SegmentId,
        len: u64,
        reply: Opened,
    },
    Close {
        store: Arc<Store>,
        id: SegmentId,
        file: Arc<SegmentFile>,
        ending: Ending,
        done: Closed,
    },
    Retain {
        log_dir: PathBuf,
        retention: Retention,
    },
    /// Everything asked before this is done; what comes after is refused.
    Stop,
}

/// What a segment comes to.
#[derive(Debug)]
pub struct Ending {
    /// Bytes of it that count; 0 removes it.
    pub len: u64,
    /// Where producers stand, if it is known and nothing in this segment or before it is left out.
    pub producers: Option<Vec<ProducerState>>,
}

impl Keeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn spawn() -> io::Result<Keeper> {
        let (jobs, queue) = mpsc::channel();
        let has_lost = Arc::new(AtomicBool::new(false));
        let lost = has_lost.clone();
        let thread = thread::Builder::new().name("keeper".into()).spawn(move || keep(&queue, &lost))?;
        Ok(Keeper { jobs, thread: Some(thread), has_lost })
    }

    /// Whether a segment that was closed so far was nowhere to be found any more, with what had been acknowledged in it.
    pub fn has_lost(&self) -> bool {
        self.has_lost.load(Ordering::Relaxed)
    }

    /// A way to ask it.
    pub fn handle(&self) -> KeeperHandle {
        KeeperHandle { jobs: self.jobs.clone() }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Handles live on in workers, so the channel does not close by itself.
        let _ = self.jobs.send(Job::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // A panic was reported when it happened.
        }
    }
}

impl KeeperHandle {
    /// Makes a segment; `reply` is called on the keeper's thread, whatever came of it.
    pub fn open(
        &self,
        store: Arc<Store>,
        id: SegmentId,
        len: u64,
        reply: impl FnOnce(io::Result<SegmentFile>) + Send + 'static,
    ) {
        let reply = Box::new(reply);
        self.ask(Job::Open { store, id, len, reply });
    }

    /// Ends a segment as [`Store::close`] does, then calls `done` on the keeper's thread.
    pub fn close(
        &self,
        store: Arc<Store>,
        id: SegmentId,
        file: Arc<SegmentFile>,
        ending: Ending,
        done: impl FnOnce() + Send + 'static,
    ) {
        let done = Box::new(done);
        self.ask(Job::Close { store, id, file, ending, done });
    }

    /// Keeps that log directory within these bounds from now on.
    pub fn retain(&self, log_dir: PathBuf, retention: Retention) {
        self.ask(Job::Retain { log_dir, retention });
    }

    fn ask(&self, job: Job) {
        if let Err(SendError(job)) = self.jobs.send(job) {
            refuse(job);
        }
    }
}

fn keep(queue: &Receiver<Job>, has_lost: &AtomicBool) {
    let mut sweeper = Sweeper::default();
    let mut bounds: Option<(PathBuf, Retention)> = None;
    loop {
        let job = match &bounds {
            None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some((_, retention)) => queue.recv_timeout(pause(retention)),
        };
        let is_time = match job {
            Ok(Job::Open { store, id, len, reply }) => {
                reply(store.create(id, len));
                true // What was allocated counts as well.
            }
            Ok(Job::Close { store, id, file, ending, done }) => {
                has_lost.fetch_or(!store.close(&file, id, ending), Ordering::Relaxed);
                done();
                true
            }
            Ok(Job::Retain { log_dir, retention }) => {
                bounds = Some((log_dir, retention)).filter(|_| !retention.is_off());
                true
            }
            Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => true,
        };
        if let Some((log_dir, retention)) = bounds.as_ref().filter(|_| is_time) {
            sweeper.sweep(log_dir, *retention, SystemTime::now());
        }
    }
    queue.try_iter().for_each(refuse);
}

/// How long to wait until something may have become too old. What is too much shows when a segment is made.
fn pause(retention: &Retention) -> Duration {
    retention.age.map_or(SWEEP_PAUSE_MAX, |age| (age / 10).clamp(SWEEP_PAUSE_MIN, SWEEP_PAUSE_MAX))
}

/// Whoever asks too late is answered all the same.
fn refuse(job: Job) {
    match job {
        Job::Open { reply, .. } => reply(Err(io::Error::other("the server is stopping"))),
        Job::Close { done, .. } => done(), // The file closes as it is; the next recovery cuts it.
        Job::Retain { .. } | Job::Stop => {}
    }
}

/// A look at the directories of a hundred shards takes a few milliseconds.
const SWEEP_PAUSE_MAX: Duration = Duration::from_secs(60);
const SWEEP_PAUSE_MIN: Duration = Duration::from_millis(100);
