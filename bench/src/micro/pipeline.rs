//! A whole shard, driven in memory: what a record costs between the kernel's receive and the kernel's write and send.
//!
//! The driver hands over as many chunks per turn as a busy ring does, then does what the shard asks until it is silent,
//! where every open, write, sync and send succeeds at once. One case watches the whole, others one stage of it at the
//! seam: `intake` is all of `handle_bytes`, `block` the polls that yield a write, `ack` those that yield a send. Reading
//! the clock twice per call is in a stage's figure: a few hundred nanoseconds per chunk of some 360 records.

use super::parts::CHUNK_LEN;
use super::tls::{self, Peer, Terms};
use super::{Allocations, Case, Sample};
use crate::lines::{Kind, Lines};
use memchr::{memchr, memrchr};
use ringest_ingest::{Action, Block, Limits, SegmentFormat, SegmentId, SessionId, Shard, ShardConfig, TlsConfig};
use ringest_loadgen::packer::{Compression, Packer};
use ringest_sys::clock;
use ringest_wire::AckLevel;
use std::time::{Duration, Instant};

/// The case from which the cost of the batch is derived.
pub(super) const INTAKE: &str = "intake/plain/durable";

pub(super) fn all() -> Vec<Box<dyn Case>> {
    use AckLevel::{Durable, Written};
    use Speech::{Plain, Session};
    let pipelines = [
        (Watch::Intake, Plain, Durable, Kind::Flat),
        (Watch::Block, Plain, Durable, Kind::Flat),
        (Watch::Ack, Plain, Durable, Kind::Flat),
        (Watch::Ack, Session, Durable, Kind::Flat),
        (Watch::Whole, Plain, Written, Kind::Flat),
        (Watch::Whole, Plain, Durable, Kind::Flat),
        (Watch::Whole, Session, Written, Kind::Flat),
        (Watch::Whole, Session, Durable, Kind::Flat),
        (Watch::Whole, Plain, Durable, Kind::Nested),
        (Watch::Whole, Plain, Durable, Kind::Large),
        (Watch::Whole, Plain, Durable, Kind::Hostile),
    ];
    let pipelines = pipelines.map(|(watch, speech, level, kind)| Setting::new(watch, speech, level, kind));
    let [plain, session] = [Plain, Session].map(|speech| Setting::new(Watch::Whole, speech, Durable, Kind::Flat));
    let encoded = [
        Setting { format: SegmentFormat::Gzip, ..plain },
        Setting { packing: Some(Compression::Batch), ..plain },
        Setting { packing: Some(Compression::Bgzf), ..plain },
        Setting { packing: Some(Compression::Line), ..plain },
        Setting { is_encrypted: true, ..plain },
        Setting { is_encrypted: true, ..session },
        Setting { is_encrypted: true, packing: Some(Compression::Batch), ..plain },
    ];
    let case = |setting| {
        let lines = Lines { bytes: Vec::new(), rows: 0 };
        Box::new(Pipeline { setting, lines, world: None }) as Box<dyn Case>
    };
    pipelines.into_iter().chain(encoded).map(case).collect()
}

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    Whole,
    Intake,
    Block,
    Ack,
}

/// How the clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speech {
    Plain,
    Session,
}

/// What is measured, of which lines, sent how.
#[derive(Clone, Copy, Debug)]
struct Setting {
    watch: Watch,
    speech: Speech,
    level: AckLevel,
    kind: Kind,
    /// How segments are written.
    format: SegmentFormat,
    /// What clients send as a gzip member.
    packing: Option<Compression>,
    /// Clients send all of it through TLS.
    is_encrypted: bool,
}

impl Setting {
    fn new(watch: Watch, speech: Speech, level: AckLevel, kind: Kind) -> Setting {
        Setting { watch, speech, level, kind, format: SegmentFormat::Plain, packing: None, is_encrypted: false }
    }
}

struct Pipeline {
    setting: Setting,
    lines: Lines,
    /// Made at the first run, so that cases that are not asked for take no memory.
    world: Option<World>,
}

impl Case for Pipeline {
    fn name(&self) -> String {
        let Setting { watch, speech, level, kind, format, packing, is_encrypted } = self.setting;
        let lower = |word: String| word.to_lowercase();
        let watch = match watch {
            Watch::Whole => "pipeline".into(),
            stage => lower(format!("{stage:?}")),
        };
        let mut parts = vec![watch, lower(format!("{speech:?}")), level.to_string()];
        if kind != Kind::Flat {
            parts.push(lower(format!("{kind:?}")));
        }
        if format == SegmentFormat::Gzip {
            parts.push("gzip-segments".into());
        }
        let packing = packing.map(|packing| format!("gzip-{}", packing.as_str()));
        let encodings: Vec<String> = is_encrypted.then(|| "tls".into()).into_iter().chain(packing).collect();
        if !encodings.is_empty() {
            parts.push(encodings.join("-"));
        }
        parts.join("/")
    }

    fn allocations_max(&self) -> Option<f64> {
        Some(if self.setting.is_encrypted { TLS_ALLOCATIONS_MAX } else { 0.0 })
    }

    fn run(&mut self, span: Duration, allocations: Allocations) -> Sample {
        let world = self.world.get_or_insert_with(|| {
            self.lines = Lines::of(self.setting.kind, CORPUS_LEN);
            World::new(self.setting, &mut self.lines)
        });
        world.run(self.setting.watch, &self.lines, span, allocations)
    }
}

/// The first bytes of a segment as a shard writes it, about so many, and which it is.
pub(super) fn segment(format: SegmentFormat, len: usize) -> (SegmentId, Vec<u8>) {
    let mut lines = Lines::of(Kind::Flat, CORPUS_LEN);
    let plain = Setting::new(Watch::Whole, Speech::Plain, AckLevel::Durable, Kind::Flat);
    let mut world = World::new(Setting { format, ..plain }, &mut lines);
    let mut written = Vec::new();
    // What connections said when they came lies before it: the next segment is whole.
    while world.seen.rolls == 0 {
        world.hear(Watch::Whole, &lines, || 0);
        world.act(Watch::Whole);
    }
    world.kept = Some((None, Vec::new()));
    while written.len() < len {
        world.hear(Watch::Whole, &lines, || 0);
        world.act(Watch::Whole);
        written = world.kept.as_ref().map_or(Vec::new(), |(_, bytes)| bytes.clone());
    }
    let id = world.kept.and_then(|(id, _)| id).expect("bytes were kept, so they were of a segment");
    (id, written)
}

/// A shard and everything around it.
struct World {
    shard: Shard,
    clients: Vec<Client>,
    /// Where clients compress: what they send, in pieces that are whole members of whole lines.
    packed: Vec<Vec<u8>>,
    /// Where clients encrypt: their sides of it.
    peers: Vec<Peer>,
    /// Gathers what is said to clients, where somebody listens.
    said: Option<Vec<u8>>,
    /// Segments are compressed.
    is_compressing: bool,
    /// Whose turn it is to be heard.
    next: usize,
    seen: Seen,
    done: Vec<Done>,
    /// What is written of the segment that began last, where that is asked for.
    kept: Option<(Option<SegmentId>, Vec<u8>)>,
}

/// A connection that sends the same lines over and over.
struct Client {
    id: SessionId,
    at: usize,
    /// Its last chunk ended within a line.
    is_within_line: bool,
}

/// What the kernel would report.
enum Done {
    Opened(SegmentId),
    Written(Block),
    Synced(SegmentId),
    Sent(SessionId, Vec<u8>),
}

/// What passed through the seam.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    watched: Duration,
    /// Processor time and allocations that are the clients' own.
    clients: (Duration, u64),
    /// Bytes of lines kept from one chunk to the next.
    carried: u64,
    /// Bytes of blocks.
    blocks: u64,
    /// Bytes of replies.
    replies: u64,
    rolls: u64,
    roll_allocations: u64,
    has_rolled: bool,
}

impl World {
    /// Greets the clients. `lines` are laid out twice, so that a chunk from anywhere in them lies in one piece.
    fn new(setting: Setting, lines: &mut Lines) -> World {
        let Setting { speech, level, format, packing, is_encrypted, .. } = setting;
        let mut packer = packing.map(Packer::new);
        let packed = packer.as_mut().map_or(Vec::new(), |packer| pack(packer, &lines.bytes));
        let terms = is_encrypted.then(Terms::new);
        let len = lines.bytes.len();
        lines.bytes.extend_from_within(..CHUNK_LEN.min(len));
        let tls = terms.as_ref().map(|terms| TlsConfig { server: terms.server.clone(), is_required: true });
        let config = ShardConfig { ack: level, format, tls, ..ShardConfig::alone(Limits::default()) };
        let now = Instant::now();
        let mut shard = Shard::new(config, now).expect("the default bounds fit together");
        let clients = (0..CLIENTS)
            .map(|at| {
                let id = shard.handle_accepted(now).expect("the default bounds admit that many");
                // Spread over the lines, so that chunks are cut at different places.
                Client { id, at: at * len / CLIENTS, is_within_line: false }
            })
            .collect();
        let mut world = World {
            shard,
            clients,
            packed,
            peers: terms.iter().flat_map(|terms| (0..CLIENTS).map(|_| Peer::new(terms))).collect(),
            said: None,
            is_compressing: format == SegmentFormat::Gzip,
            next: 0,
            seen: Seen::default(),
            done: Vec::new(),
            kept: None,
        };
        world.act(Watch::Whole);
        for at in 0..CLIENTS {
            world.shake_hands(at);
            if speech == Speech::Session {
                let hello = format!("{{\"$hello\":{{\"v\":1,\"producer\":\"bench-{at:02}\",\"epoch\":1}}}}\n");
                world.tell(at, hello.as_bytes());
            }
            world.break_in(at, lines, packer.as_mut());
            if !world.packed.is_empty() {
                world.clients[at].at = at % world.packed.len();
                continue;
            }
            // From the next line on: it begins in the middle of one.
            let start = world.clients[at].at;
            let rest = memchr(b'\n', &lines.bytes[start..len]).map_or(len - start, |newline| newline + 1);
            world.clients[at].at = (start + rest) % len;
        }
        world
    }

    /// Both sides agree on TLS, where there is any.
    fn shake_hands(&mut self, at: usize) {
        while self.peers.get(at).is_some_and(Peer::is_handshaking) {
            self.said = Some(Vec::new());
            self.tell(at, &[]);
            let said = self.said.take().expect("nobody else takes it");
            self.peers[at].hear(&said);
            assert!(!said.is_empty(), "a server that says nothing never agrees");
        }
        // The last word is the client's.
        self.tell(at, &[]);
    }

    /// A client sends that, and everything that follows from it is done.
    fn tell(&mut self, at: usize, bytes: &[u8]) {
        let bytes = self.peers.get_mut(at).map_or(bytes, |peer| peer.seal(bytes));
        if !bytes.is_empty() {
            self.shard.handle_bytes(self.clients[at].id, bytes, Instant::now());
        }
        self.act(Watch::Whole);
        // A shard begins so many handshakes in a turn, and no more.
        while self.shard.poll_timeout().is_some_and(|at| at <= Instant::now()) {
            self.shard.handle_timeout(Instant::now());
            self.act(Watch::Whole);
        }
    }

    /// Makes a connection take the memory that belongs to its start and not to a record: for an unfinished line it takes
    /// some when it first has one, more when it first has one in the same chunk as the end of another, and for replies
    /// when it is first owed many kinds at once. These go first: as many as may be owed make it stop reading, and where
    /// it goes on it has given back what it took for unfinished lines.
    fn break_in(&mut self, at: usize, lines: &Lines, mut packer: Option<&mut Packer>) {
        let longest = lines.bytes.split_inclusive(|&byte| byte == b'\n').max_by_key(|line| line.len());
        let (end, all) = longest.and_then(<[u8]>::split_last).expect("there is a line");
        let by_turns = b"{\"level\":\"INFO\",\"message\":0}\n[]\n".repeat(REPLIES_MAX / 2);
        for piece in [&by_turns[..], all, &[&[*end], all].concat(), &[*end]] {
            match &mut packer {
                None => self.tell(at, piece),
                Some(packer) => {
                    let mut member = Vec::new();
                    packer.pack(piece, &mut member);
                    self.tell(at, &member);
                }
            }
        }
    }

    fn run(&mut self, watch: Watch, lines: &Lines, span: Duration, allocations: Allocations) -> Sample {
        self.seen = Seen::default();
        let tally = self.shard.tally().clone();
        let (until, cpu, allocated) = (Instant::now() + span, clock::thread_cpu(), allocations());
        while Instant::now() < until {
            self.seen.has_rolled = false;
            let before = allocations() - self.seen.clients.1;
            self.hear(watch, lines, allocations);
            self.act(watch);
            // What a turn may not decode any more is decoded in the next.
            if self.shard.poll_timeout().is_some_and(|at| at <= Instant::now()) {
                self.shard.handle_timeout(Instant::now());
                // What a timeout begins belongs to this turn: a roll allocates before it asks for its segment.
                self.act(watch);
            }
            if self.seen.has_rolled {
                self.seen.roll_allocations += allocations() - self.seen.clients.1 - before;
            }
        }
        let (clients_cpu, clients_allocated) = self.seen.clients;
        let (cpu, allocated) = (clock::thread_cpu() - cpu - clients_cpu, allocations() - allocated - clients_allocated);
        let now = self.shard.tally();
        assert!(now.closes_with(self.shard.in_flight()), "the books close");
        let seen = &self.seen;
        Sample {
            records: now.received - tally.received,
            bytes: now.received_bytes - tally.received_bytes,
            ns: if watch == Watch::Whole { cpu } else { seen.watched }.as_nanos() as u64,
            allocations: allocated,
            // A block is its records, which were copied there once, and the description that was written before them.
            copied: (watch == Watch::Whole && self.is_plain()).then_some(seen.carried + seen.blocks + seen.replies),
            rolls: seen.rolls,
            roll_allocations: seen.roll_allocations,
        }
    }

    /// Whether bytes are what they look like, from the client to the segment.
    fn is_plain(&self) -> bool {
        self.packed.is_empty() && self.peers.is_empty() && !self.is_compressing
    }

    /// Hands the shard one chunk of each of the clients whose turn it is.
    fn hear(&mut self, watch: Watch, lines: &Lines, allocations: Allocations) {
        let now = Instant::now();
        // The last chunk's worth is there twice.
        let len = lines.bytes.len() - CHUNK_LEN;
        for _ in 0..CHUNKS_PER_TURN {
            let at = self.next;
            let client = &mut self.clients[at];
            self.next = (at + 1) % CLIENTS;
            if !self.shard.wants(client.id) {
                continue;
            }
            let mut chunk = match self.packed.get(client.at) {
                Some(piece) => {
                    client.at = (client.at + 1) % self.packed.len();
                    &piece[..]
                }
                None => {
                    // What arrives at once is a chunk, encrypted or not.
                    let chunk_len = if self.peers.is_empty() { CHUNK_LEN } else { SEALED_LEN };
                    let chunk = &lines.bytes[client.at..client.at + chunk_len];
                    self.seen.carried += client.carried(chunk);
                    client.at = (client.at + chunk_len) % len;
                    chunk
                }
            };
            if let Some(peer) = self.peers.get_mut(at) {
                let (cpu, allocated) = (clock::thread_cpu(), allocations());
                chunk = peer.seal(chunk);
                self.seen.clients.0 += clock::thread_cpu() - cpu;
                self.seen.clients.1 += allocations() - allocated;
            }
            let start = (watch == Watch::Intake).then(clock::thread_cpu);
            self.shard.handle_bytes(client.id, chunk, now);
            if let Some(start) = start {
                self.seen.watched += clock::thread_cpu() - start;
            }
        }
    }

    /// Does what the shard asks, until it is silent.
    fn act(&mut self, watch: Watch) {
        let now = Instant::now();
        loop {
            loop {
                let start = matches!(watch, Watch::Block | Watch::Ack).then(clock::thread_cpu);
                let Some(action) = self.shard.poll() else { break };
                if let Some(start) = start
                    && watch.is_of(&action)
                {
                    self.seen.watched += clock::thread_cpu() - start;
                }
                self.take(action);
            }
            if self.done.is_empty() {
                return;
            }
            for done in self.done.drain(..) {
                match done {
                    Done::Opened(segment) => self.shard.handle_opened(segment, Ok(()), now),
                    Done::Written(block) => self.shard.handle_written(block, Ok(()), now),
                    Done::Synced(segment) => self.shard.handle_synced(segment, Ok(()), now),
                    Done::Sent(id, buf) => self.shard.handle_sent(id, buf, now),
                }
            }
        }
    }

    fn take(&mut self, action: Action) {
        match action {
            Action::Open(segment) => {
                self.seen.has_rolled = true;
                self.done.push(Done::Opened(segment));
            }
            Action::Write(block) => {
                let is_first = block.offset() == 0;
                self.seen.rolls += u64::from(is_first);
                self.seen.has_rolled |= is_first;
                self.seen.blocks += block.len() as u64;
                if let Some((id, bytes)) = &mut self.kept {
                    if is_first && id.is_none() {
                        *id = Some(block.segment());
                    }
                    if *id == Some(block.segment()) {
                        let from = block.offset() as usize;
                        bytes.resize(bytes.len().max(from + block.len()), 0);
                        bytes[from..from + block.len()].copy_from_slice(block.bytes());
                    }
                }
                self.done.push(Done::Written(block));
            }
            Action::Sync(segment) => self.done.push(Done::Synced(segment)),
            Action::Send(id, buf) => {
                self.seen.replies += buf.len() as u64;
                if let Some(said) = &mut self.said {
                    said.extend_from_slice(&buf);
                }
                self.done.push(Done::Sent(id, buf));
            }
            // The end line of the segment was written within the turns before.
            Action::CloseSegment { .. } => self.seen.has_rolled = true,
            // Every client is asked again in its turn.
            Action::Resume(_) | Action::ResumeDatagrams => {}
            Action::HandOff { .. } | Action::Close(_) => {
                unreachable!("there is one shard, and its clients break no rule")
            }
        }
    }
}

/// The lines, in pieces that unpack to a chunk at most.
fn pack(packer: &mut Packer, lines: &[u8]) -> Vec<Vec<u8>> {
    let (mut pieces, mut rest) = (Vec::new(), lines);
    while !rest.is_empty() {
        let most = rest.len().min(CHUNK_LEN);
        let (now, later) = rest.split_at(memrchr(b'\n', &rest[..most]).map_or(most, |newline| newline + 1));
        let mut piece = Vec::new();
        packer.pack(now, &mut piece);
        pieces.push(piece);
        rest = later;
    }
    pieces
}

impl Client {
    /// How many bytes of a chunk the framer keeps or adds to what it kept, by its contract.
    fn carried(&mut self, chunk: &[u8]) -> u64 {
        let head = match memchr(b'\n', chunk) {
            Some(newline) if self.is_within_line => newline + 1,
            _ => 0,
        };
        let tail = chunk.len() - memrchr(b'\n', chunk).map_or(0, |newline| newline + 1);
        self.is_within_line = tail > 0;
        (head + tail) as u64
    }
}

impl Watch {
    fn is_of(self, action: &Action) -> bool {
        match action {
            Action::Write(_) => self == Watch::Block,
            Action::Send(..) => self == Watch::Ack,
            _ => false,
        }
    }
}

/// Connections.
const CLIENTS: usize = 50;
/// Chunks told between two waits: what a busy ring of 64 buffers yields is of that order.
const CHUNKS_PER_TURN: usize = 16;
/// Replies that are owed one connection at once, where neighbours differ: a chunk has some 400 hostile lines.
const REPLIES_MAX: usize = 1024;
/// Bytes of lines, of the order of a ring's buffers, so that they come from the cache they would come from.
const CORPUS_LEN: usize = 4 << 20;
/// Bytes that are a chunk once they are sealed.
const SEALED_LEN: usize = CHUNK_LEN - CHUNK_LEN.div_ceil(tls::RECORD_LEN) * tls::ADDED_LEN;
/// Allocations per line through TLS: rustls makes a vector of each of its records, of which one has some 90 lines, and of
/// each answer; the shard itself adds none.
const TLS_ALLOCATIONS_MAX: f64 = 0.05;
