//! The thread on which segment files are made and closed, one for the whole server, so that no shard ever waits for an
//! allocation or for the sync of a directory. It does what it is asked, in order, and decides nothing.

use super::{SegmentFile, Store};
use ringest_ingest::{ProducerState, SegmentId};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SendError, Sender};
use std::thread::{self, JoinHandle};

/// The thread's owner: dropping it finishes what was asked, and waits for that.
#[derive(Debug)]
pub struct Keeper {
    jobs: Sender<Job>,
    thread: Option<JoinHandle<()>>,
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
        let thread = thread::Builder::new().name("keeper".into()).spawn(move || keep(&queue))?;
        Ok(Keeper { jobs, thread: Some(thread) })
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

    fn ask(&self, job: Job) {
        if let Err(SendError(job)) = self.jobs.send(job) {
            refuse(job);
        }
    }
}

fn keep(queue: &Receiver<Job>) {
    for job in queue {
        match job {
            Job::Open { store, id, len, reply } => reply(store.create(id, len)),
            Job::Close { store, id, file, ending, done } => {
                store.close(&file, id, ending);
                done();
            }
            Job::Stop => break,
        }
    }
    queue.try_iter().for_each(refuse);
}

/// Whoever asks too late is answered all the same.
fn refuse(job: Job) {
    match job {
        Job::Open { reply, .. } => reply(Err(io::Error::other("the server is stopping"))),
        Job::Close { done, .. } => done(), // The file closes as it is; the next recovery cuts it.
        Job::Stop => {}
    }
}
