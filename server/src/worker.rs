//! One shard's thread: what it owns, how it is started, told and ended.
//!
//! A worker owns a core, a shard, a listener, its segment files and an inbox. It shares nothing: other threads reach it
//! through the inbox alone, which rings a bell that its driver waits on beside its sockets.

use crate::driver::{self, Backend, Guest};
use crate::notice;
use crate::reading::{Asker, Probe, Reading};
use crate::storage::{Ending, KeeperHandle, SegmentFile, Store, fault};
use ringest_ingest::{Fault, Handover, ProducerState, SegmentId, Settings, Shard, ShardConfig, ShardId, TlsConfig};
use ringest_sys::event_fd::EventFd;
use ringest_sys::{cpu, memory};
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// Everything a worker is made of.
pub struct WorkerPlan {
    /// The shard.
    pub shard: ShardConfig,
    /// The core it is pinned to; none leaves it to the scheduler.
    pub cpu: Option<usize>,
    /// Where its connections come from. Non-blocking.
    pub listener: TcpListener,
    /// Where its datagrams come from, if it takes any. Non-blocking.
    pub datagrams: Option<DatagramSocket>,
    /// The kernel interface it runs on.
    pub backend: Backend,
    /// Where its segments are kept.
    pub store: Arc<Store>,
    /// Who makes and closes them.
    pub keeper: KeeperHandle,
    /// Bytes received at once.
    pub buffer_len: usize,
}

/// A socket for datagrams.
#[derive(Debug)]
pub struct DatagramSocket {
    /// The socket. Non-blocking.
    pub socket: UdpSocket,
    /// Somebody else holds it as well, and gives it to the next server.
    pub is_shared: bool,
}

/// A running worker, as the rest of the server holds it.
pub struct Worker {
    shard: u16,
    letterbox: Letterbox,
    thread: JoinHandle<Result<Summary, String>>,
}

/// How a worker's life went.
#[derive(Clone, Debug)]
pub struct Summary {
    /// What it said in the end.
    pub reading: Reading,
    /// It took datagrams.
    pub takes_datagrams: bool,
    /// What the kernel interface counted.
    pub counters: String,
    /// Everything was settled, made durable and closed.
    pub drained: bool,
}

/// What a worker can be told from outside.
pub(crate) enum Message {
    /// A connection that belongs here: what its shard made of it so far, and what was received since.
    Moved { connection: Guest, handover: Handover, received: Vec<u8> },
    /// A segment was made, or not.
    Opened(SegmentId, Result<SegmentFile, Fault>),
    /// A segment was closed.
    Closed,
    /// How connections are encrypted from now on.
    Tls(TlsConfig),
    /// Which bounds and which level hold from now on.
    Settings(Arc<Settings>),
    /// Somebody asks how it is. To be answered at the end of a turn.
    Ask(Asker),
    /// Settle and end.
    Drain,
    /// End.
    Abort,
}

/// The outside of an inbox.
#[derive(Clone)]
pub(crate) struct Letterbox {
    sender: mpsc::Sender<Message>,
    bell: Arc<EventFd>,
}

impl Letterbox {
    /// One that nobody empties.
    #[cfg(test)]
    pub(crate) fn to_nobody() -> (Letterbox, mpsc::Receiver<Message>) {
        let (sender, messages) = mpsc::channel();
        let bell = EventFd::new().expect("a test has a descriptor left");
        (Letterbox { sender, bell: Arc::new(bell) }, messages)
    }

    /// Posts a message. One for a worker that has ended is dropped, and with it what it carries.
    pub(crate) fn post(&self, message: Message) {
        if self.sender.send(message).is_ok() {
            self.bell.wake();
        }
    }
}

/// The inside: messages, and the bell that says that there are some.
pub(crate) struct Inbox {
    messages: mpsc::Receiver<Message>,
    pub(crate) bell: Arc<EventFd>,
}

impl Inbox {
    /// The next message, if there is one. Answer the bell before taking the first.
    pub(crate) fn take(&self) -> Option<Message> {
        self.messages.try_recv().ok()
    }
}

/// What a driver is given to run a shard with.
pub(crate) struct Seat {
    pub(crate) shard: Shard,
    pub(crate) id: ShardId,
    pub(crate) cpu: Option<usize>,
    pub(crate) listener: TcpListener,
    pub(crate) datagrams: Option<DatagramSocket>,
    pub(crate) inbox: Inbox,
    pub(crate) peers: Vec<Letterbox>,
    pub(crate) files: Files,
    pub(crate) buffer_len: usize,
    pub(crate) hold_len_max: usize,
}

/// The segment files a shard has open. Making and closing them blocks, so the keeper does it and reports by letter.
pub(crate) struct Files {
    store: Arc<Store>,
    keeper: KeeperHandle,
    letterbox: Letterbox,
    segment_len: u64,
    open: Vec<(SegmentId, Arc<SegmentFile>)>,
    closing: usize,
}

impl Files {
    /// Asks for a segment; [`Message::Opened`] will answer.
    pub(crate) fn open(&self, id: SegmentId) {
        let letterbox = self.letterbox.clone();
        self.keeper.open(self.store.clone(), id, self.segment_len, move |outcome| {
            let outcome = outcome.map_err(|error| {
                notice!("segment {} cannot be made: {error}", id.0);
                fault(&error)
            });
            letterbox.post(Message::Opened(id, outcome));
        });
    }

    /// The answer has come.
    pub(crate) fn handle_opened(&mut self, id: SegmentId, outcome: Result<SegmentFile, Fault>) -> Result<(), Fault> {
        outcome.map(|file| self.open.push((id, Arc::new(file))))
    }

    /// An open segment.
    pub(crate) fn get(&self, id: SegmentId) -> &Arc<SegmentFile> {
        let found = self.open.iter().find(|(open, _)| *open == id);
        &found.expect("a shard names only segments that were opened").1
    }

    /// Has a segment cut to its length and closed, with where producers stand beside it; [`Message::Closed`] will answer.
    pub(crate) fn close(&mut self, id: SegmentId, len: u64, producers: Option<Vec<ProducerState>>) {
        let at = self.open.iter().position(|(open, _)| *open == id);
        let (_, file) = self.open.swap_remove(at.expect("a shard closes only segments that were opened"));
        self.closing += 1;
        let letterbox = self.letterbox.clone();
        let ending = Ending { len, producers };
        self.keeper.close(self.store.clone(), id, file, ending, move || letterbox.post(Message::Closed));
    }

    pub(crate) fn handle_closed(&mut self) {
        self.closing -= 1;
    }

    /// Nothing is being closed.
    pub(crate) fn is_quiet(&self) -> bool {
        self.closing == 0
    }
}

/// Starts a thread per plan, each able to hand connections to the others. Returns once every one of them runs; if one
/// cannot, the others are ended again.
///
/// `ended` gets the number of each shard whose thread ends, for whatever reason.
///
/// # Errors
/// Why a worker could not start, with its shard's number.
pub fn spawn_all(plans: Vec<WorkerPlan>, ended: mpsc::Sender<u16>) -> io::Result<Vec<Worker>> {
    let mut inboxes = Vec::new();
    let mut letterboxes = Vec::new();
    for _ in &plans {
        let (sender, messages) = mpsc::channel();
        let bell = Arc::new(EventFd::new()?);
        letterboxes.push(Letterbox { sender, bell: bell.clone() });
        inboxes.push(Inbox { messages, bell });
    }

    let (started, starts) = mpsc::channel();
    let mut workers = Vec::new();
    for (plan, inbox) in plans.into_iter().zip(inboxes) {
        let shard = plan.shard.shard.0;
        let peers = letterboxes.clone();
        let (started, ended) = (started.clone(), Ended { shard, ended: ended.clone() });
        let thread = thread::Builder::new().name(format!("shard-{shard:02}")).spawn(move || {
            let _ended = ended;
            run(plan, inbox, peers, &started)
        })?;
        workers.push(Worker { shard, letterbox: letterboxes[usize::from(shard)].clone(), thread });
    }
    drop(started);

    let refusal = (0..workers.len()).find_map(|_| match starts.recv() {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error),
        Err(_) => Some(io::Error::other("a worker ended before it had started")),
    });
    match refusal {
        None => Ok(workers),
        Some(error) => {
            workers.iter().for_each(Worker::abort);
            workers.into_iter().for_each(|worker| drop(worker.join()));
            Err(error)
        }
    }
}

impl Worker {
    /// Tells it how connections are encrypted from now on.
    pub fn set_tls(&self, tls: TlsConfig) {
        self.letterbox.post(Message::Tls(tls));
    }

    /// Tells it which bounds and which level hold from now on.
    pub fn set(&self, settings: Arc<Settings>) {
        self.letterbox.post(Message::Settings(settings));
    }

    /// Who can ask it how it is.
    pub fn probe(&self) -> Probe {
        Probe::new(self.shard, self.letterbox.clone())
    }

    /// Asks it to settle what it has taken and end.
    pub fn drain(&self) {
        self.letterbox.post(Message::Drain);
    }

    /// Asks it to end at once.
    pub fn abort(&self) {
        self.letterbox.post(Message::Abort);
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Why it ended otherwise than it was asked to.
    pub fn join(self) -> Result<Summary, String> {
        let shard = self.shard;
        self.thread.join().map_err(|_| format!("shard {shard} panicked"))?
    }
}

/// Tells that a thread has ended, also when it panicked.
struct Ended {
    shard: u16,
    ended: mpsc::Sender<u16>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        // Nobody listens any more once the server itself is ending.
        let _ = self.ended.send(self.shard);
    }
}

fn run(
    plan: WorkerPlan,
    inbox: Inbox,
    peers: Vec<Letterbox>,
    started: &mpsc::Sender<io::Result<()>>,
) -> Result<Summary, String> {
    let (id, backend) = (plan.shard.shard, plan.backend);
    let seated = seat(plan, inbox, peers).and_then(|seat| driver::prepare(backend, seat));
    match seated {
        Ok(driver) => {
            // The other end waits for this word from each worker.
            let _ = started.send(Ok(()));
            driver.run().map_err(|error| format!("shard {}: {error}", id.0))
        }
        Err(error) => {
            let text = format!("shard {}: {error}", id.0);
            let _ = started.send(Err(io::Error::new(error.kind(), text.clone())));
            Err(text)
        }
    }
}

/// Takes the core first: rings, and the kernel's own threads behind them, stay where their maker was.
fn seat(plan: WorkerPlan, inbox: Inbox, peers: Vec<Letterbox>) -> io::Result<Seat> {
    if let Some(cpu) = plan.cpu {
        cpu::pin_current(cpu).map_err(io::Error::other)?;
    }
    let id = plan.shard.shard;
    let files = Files {
        store: plan.store,
        keeper: plan.keeper,
        letterbox: peers[usize::from(id.0)].clone(),
        segment_len: plan.shard.limits.segment_len,
        open: Vec::new(),
        closing: 0,
    };
    let hold_len_max = plan.shard.limits.hold_len_max;
    let shard = Shard::with_batch_memory(plan.shard, Instant::now(), |memory| {
        // Without large pages a block is more of them to hand to the disk, and that is all.
        let _unknown = memory::prefer_huge_pages(memory);
    });
    let shard = shard.map_err(io::Error::other)?;
    Ok(Seat {
        shard,
        id,
        cpu: plan.cpu,
        listener: plan.listener,
        datagrams: plan.datagrams,
        inbox,
        peers,
        files,
        buffer_len: plan.buffer_len,
        hold_len_max,
    })
}
