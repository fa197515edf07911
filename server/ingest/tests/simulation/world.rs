//! A hostile world made from one seed: clients, a network, disks, and the driver between them and the shards.
//!
//! The driver does what a real one does and nothing more. What completes when is chance; what a real kernel would
//! deliver in order is delivered in order.

use crate::client::{Client, PlainClient, Producer, State};
use crate::conn::{At, Conn, Plain, Session, View, What, Witness};
use crate::disk::{Disk, Snapshot, State as Piece};
use crate::lines::Style;
use crate::recover;
use crate::rng::Rng;
use crate::truth::Truth;
use memchr::memmem;
use ringest_ingest::scan::{Item, scan};
use ringest_ingest::{Action, Block, Fault, Limits, PAGE, SegmentId, Shard, ShardConfig, ShardId, home_shard};
use ringest_wire::answer::Answer;
use ringest_wire::control::{Control, Hello, Resume};
use ringest_wire::{AckLevel, Severity};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// How often each thing happened that is worth knowing to have happened.
pub(crate) type Sometimes = BTreeMap<&'static str, u64>;

pub(crate) struct World {
    rng: Rng,
    is_traced: bool,
    base: Instant,
    now: Duration,
    limits: Limits,
    ack: AckLevel,
    ack_max: AckLevel,
    style: Style,
    disks: Vec<Disk>,
    nodes: Vec<Node>,
    conns: Vec<Conn>,
    clients: Vec<Client>,
    truth: Truth,
    mood: Mood,
    /// Nothing fails any more.
    is_calm: bool,
    is_draining: bool,
    /// Storage has failed in this life.
    has_failed: bool,
    pub(crate) sometimes: Sometimes,
}

/// One shard and what its driver has under way for it.
struct Node {
    shard: Shard,
    writes: Vec<Write>,
    sync: Option<(u64, Snapshot)>,
    opens: Vec<u64>,
    by_id: HashMap<u64, usize>,
    last_opened: u64,
    /// It was told something and not asked what to do yet.
    is_told: bool,
}

struct Write {
    block: Block,
    /// Which piece of its segment.
    piece: usize,
    rows: usize,
}

/// What is going wrong at the moment.
#[derive(Debug, Default)]
struct Mood {
    /// In 64.
    write_faults: u64,
    sync_faults: u64,
    open_fault: Option<Fault>,
    disk_stands_until: Duration,
    loss_one_in: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Act(usize),
    Arrive(usize),
    Deliver(usize),
    Read(usize),
    Written(usize, usize),
    Synced(usize),
    Opened(usize, usize),
    Timeout(usize),
}

/// How a server's life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    PowerCut,
    ProcessDeath,
    Drain,
}

macro_rules! trace {
    ($world:expr, $($arg:tt)*) => {
        if $world.is_traced {
            eprintln!("{:>10} {}", $world.now.as_micros(), format!($($arg)*));
        }
    };
}

impl World {
    pub(crate) fn new(seed: u64, base: Instant, is_traced: bool) -> World {
        let mut rng = Rng::new(seed);
        let limits = limits(&mut rng);
        let levels = [Severity::Trace, Severity::Debug, Severity::Info, Severity::Warning];
        let style = Style {
            line_len_max: limits.line_len_max,
            depth_max: limits.depth_max,
            min_level: *rng.pick(&levels),
            text_len: *rng.pick(&[30, 200, 1500]),
            bad_one_in: *rng.pick(&[3, 10, 40]),
        };
        let mut truth = Truth::default();
        let producers = rng.within(1, PRODUCERS_MAX);
        let plain = rng.below(3);
        let mut clients = Vec::new();
        for at in 0..producers {
            let producer = Producer::new(&mut rng, format!("p{at}"));
            truth.begin_stream(&producer.name, producer.epoch, producer.base);
            clients.push(Client::Producer(producer));
        }
        for _ in 0..plain {
            clients.push(Client::Plain(PlainClient { conns_left: rng.within(1, 6), lines_left: 0, conn: None }));
        }
        World {
            rng,
            is_traced,
            base,
            now: Duration::ZERO,
            limits,
            ack: AckLevel::Durable,
            ack_max: AckLevel::Durable,
            style,
            disks: Vec::new(),
            nodes: Vec::new(),
            conns: Vec::new(),
            clients,
            truth,
            mood: Mood::default(),
            is_calm: false,
            is_draining: false,
            has_failed: false,
            sometimes: Sometimes::new(),
        }
    }

    /// Lives through it all. Panics where a promise is broken.
    pub(crate) fn run(&mut self) {
        let lives = self.rng.within(1, 4);
        for life in 1..=lives {
            self.start();
            let steps = self.rng.within(50, 1200);
            self.storm(steps);
            if life < lives {
                let end = *self.rng.pick(&[End::PowerCut, End::PowerCut, End::ProcessDeath, End::Drain]);
                self.end(end);
            }
        }
        self.calm();
        self.drain();
        self.check_drained();
        let end = *self.rng.pick(&[End::PowerCut, End::ProcessDeath]);
        self.crash(end);
    }

    // The lives of a server.

    fn start(&mut self) {
        let shards = self.rng.within(1, 3) as usize;
        let weaker = [AckLevel::Written, AckLevel::Accepted, AckLevel::None];
        self.ack = if self.rng.one_in(2) { AckLevel::Durable } else { *self.rng.pick(&weaker) };
        self.ack_max = if self.rng.one_in(6) { self.ack } else { AckLevel::Durable };
        while self.disks.len() < shards {
            self.disks.push(Disk::default());
        }
        let found: Vec<recover::Survey> = self.survey();
        let known = recover::fold(found.iter().flat_map(|survey| &survey.blocks));
        self.nodes = (0..shards)
            .map(|at| {
                let home = |name: &str| home_shard(name, shards as u16) == ShardId(at as u16);
                let last = self.disks[at].files.keys().last().copied().unwrap_or(0);
                let config = ShardConfig {
                    shard: ShardId(at as u16),
                    shards: shards as u16,
                    ack: self.ack,
                    ack_max: self.ack_max,
                    min_level: self.style.min_level,
                    first_segment: SegmentId(last + 1),
                    producers: known.iter().filter(|state| home(&state.producer)).cloned().collect(),
                    limits: self.limits.clone(),
                };
                Node {
                    shard: Shard::new(config, self.base + self.now).expect("the limits fit together"),
                    writes: Vec::new(),
                    sync: None,
                    opens: Vec::new(),
                    by_id: HashMap::new(),
                    last_opened: last,
                    is_told: false,
                }
            })
            .collect();
        self.has_failed = false;
        self.is_draining = false;
        trace!(self, "start: {shards} shards, ack {}, producers {known:?}, limits {:?}", self.ack, self.limits);
        (0..shards).for_each(|node| self.settle(node));
    }

    fn end(&mut self, end: End) {
        if end == End::Drain {
            self.drain();
            self.check_drained();
            let end = *self.rng.pick(&[End::PowerCut, End::ProcessDeath]);
            self.crash(end);
            self.saw("a server was drained and started again");
        } else {
            self.crash(end);
        }
    }

    /// The server is gone; what the disk kept is recovered and held against what was promised.
    fn crash(&mut self, end: End) {
        trace!(self, "crash: {end:?}");
        let before = self.truth.before_crash(&self.disks, self.ack);
        let landing = *self.rng.pick(&[0, 4, 8]);
        let survivors = *self.rng.pick(&[0, 3, 6, 8]);
        for (dir, node) in self.nodes.iter().enumerate() {
            let disk = &mut self.disks[dir];
            for write in &node.writes {
                let rng = &mut self.rng;
                let (id, offset) = (write.block.segment().0, write.block.offset());
                disk.apply(id, offset, write.block.bytes(), || rng.below(8) < landing);
            }
            for &id in &node.opens {
                if self.rng.one_in(2) {
                    disk.create(id);
                }
            }
        }
        for disk in &mut self.disks {
            match end {
                End::PowerCut => disk.power_cut(&mut self.rng, survivors),
                End::ProcessDeath => disk.process_death(),
                End::Drain => unreachable!("a drain is no crash"),
            }
        }
        self.nodes.clear();
        for conn in 0..self.conns.len() {
            self.hang_up(conn);
        }
        let found = self.survey();
        found.iter().for_each(|survey| trace!(self, "recovered: {}", survey.brief()));
        for (disk, survey) in self.disks.iter_mut().zip(&found) {
            if self.rng.one_in(2) {
                let steps = self.rng.index(disk.files.len() + 1);
                recover::settle(disk, survey, steps);
                let again = recover::survey(disk, self.limits.batches);
                let (one, two) = (survey.brief(), again.brief());
                assert!(survey.is_like(&again), "I7: recovery that dies comes to the same end:\n{one}\n{two}");
            }
            recover::settle(disk, survey, usize::MAX);
        }
        let again = self.survey();
        for (first, second) in found.iter().zip(&again) {
            let (one, two) = (first.brief(), second.brief());
            assert!(first.is_like(second), "I7: recovery comes to the same end twice:\n{one}\n{two}");
            let oddities = first.oddities;
            self.saw_if("recovery cut a torn tail", oddities.torn > 0);
            self.saw_if("recovery left out what a later segment declared void", oddities.void > 0);
            self.saw_if("recovery left out blocks that had overtaken a lost one", oddities.disowned > 0);
            self.saw_if("recovery kept blocks behind damage", oddities.damaged > 0);
        }
        let level = if end == End::PowerCut { AckLevel::Durable } else { AckLevel::Written };
        self.saw(if end == End::PowerCut { "the power was cut" } else { "the process died" });
        let blocks: Vec<_> = found.into_iter().map(|survey| survey.blocks).collect();
        self.saw_if("a crash left records behind", blocks.iter().any(|blocks| !blocks.is_empty()));
        self.truth.check_recovered(&blocks, &mut self.disks, &before, level);
    }

    fn survey(&self) -> Vec<recover::Survey> {
        self.disks.iter().map(|disk| recover::survey(disk, self.limits.batches)).collect()
    }

    fn storm(&mut self, steps: u64) {
        for _ in 0..steps {
            self.change_mood();
            self.pass_time();
            if self.mood.loss_one_in > 0 && self.rng.one_in(self.mood.loss_one_in) {
                self.lose_a_connection();
            }
            if self.rng.one_in(50) {
                let at = self.rng.index(self.nodes.len());
                self.timeout(at); // A driver that wakes for something else may look at the time as well.
            }
            self.step();
        }
    }

    /// Everything works again, and everybody is to come to an end.
    fn calm(&mut self) {
        trace!(self, "calm");
        self.is_calm = true;
        self.mood = Mood::default();
        for conn in &mut self.conns {
            if matches!(conn.view, View::Session(_)) {
                conn.reads = true;
            }
        }
        let given_up = |client: &Client| match client {
            Client::Producer(producer) => producer.zombies.iter().map(|(conn, _)| *conn).collect(),
            Client::Plain(_) => Vec::new(),
        };
        let given_up: Vec<usize> = self.clients.iter().flat_map(given_up).collect();
        given_up.into_iter().for_each(|conn| self.lose(conn));
        self.run_dry("every client gets its answers", |world| world.clients.iter().all(Client::is_done));
    }

    fn drain(&mut self) {
        trace!(self, "drain");
        self.mood = Mood::default();
        self.is_draining = true;
        let was_calm = std::mem::replace(&mut self.is_calm, true);
        for node in 0..self.nodes.len() {
            let now = self.base + self.now;
            self.nodes[node].shard.handle_drain(now);
            self.settle(node);
        }
        for conn in &mut self.conns {
            if matches!(conn.view, View::Session(_)) {
                conn.reads = true;
            }
        }
        self.run_dry("a shard that is told to drain does", |world| {
            world.nodes.iter().all(|node| node.shard.is_drained())
        });
        self.is_calm = was_calm;
    }

    fn check_drained(&mut self) {
        let suppressed: u64 = self.nodes.iter().map(|node| node.shard.tally().acks_suppressed).sum();
        self.saw_if("a plain client took no replies and was given up", suppressed > 0);
        for node in &self.nodes {
            assert!(node.writes.is_empty() && node.sync.is_none() && node.opens.is_empty(), "nothing is under way");
            assert_eq!(node.shard.in_flight(), 0, "no record is in flight");
            assert_eq!(node.shard.sessions(), 0, "no session is left");
        }
        for disk in &self.disks {
            assert!(disk.files.values().all(|file| file.closed), "every segment is closed");
            for (&id, file) in disk.files.iter().filter(|(_, file)| file.is_sound()) {
                let items: Vec<Item<'_>> = scan(file.contents(), SegmentId(id)).collect();
                let is_whole = |item: &Item<'_>| !matches!(item, Item::Damage { .. } | Item::Tail { .. });
                assert!(items.iter().all(is_whole), "a drained segment is whole: {items:?}");
                assert!(matches!(items.first(), Some(Item::Segment { .. })), "a segment says what it is");
                let is_ended = matches!(items.last(), Some(Item::End { .. }));
                assert!(is_ended || disk.has_failed(), "a drained segment is ended");
            }
        }
        // All that was admitted is safe now, whatever was promised of it; unless storage failed after it was let go of.
        let least = if self.has_failed { AckLevel::Durable } else { AckLevel::Accepted };
        for rid in 0..self.truth.lines.len() {
            if self.truth.lines[rid].promised.is_some_and(|level| level >= least) {
                self.truth.promise(rid, AckLevel::Durable, &self.disks, "everybody, after a drain,");
            }
        }
    }

    /// Steps until it is done; panics where nothing can happen any more and it is not.
    fn run_dry(&mut self, goal: &str, is_done: impl Fn(&World) -> bool) {
        for _ in 0..200_000 {
            if is_done(self) {
                self.settle_all();
                return;
            }
            if !self.step() && !is_done(self) {
                let Some(at) = self.next_time() else {
                    panic!("stuck: {goal}, but nothing can happen any more\n{}", self.picture());
                };
                self.now = self.now.max(at);
            }
            self.now += Duration::from_micros(self.rng.below(50));
        }
        panic!("spinning: {goal}, but it goes on without an end\n{}", self.picture());
    }

    // Chance.

    fn change_mood(&mut self) {
        if !self.rng.one_in(60) {
            return;
        }
        let rng = &mut self.rng;
        self.mood = Mood {
            write_faults: *rng.pick(&[0, 0, 0, 0, 3, 20]),
            sync_faults: *rng.pick(&[0, 0, 0, 0, 6, 40]),
            open_fault: *rng.pick(&[None, None, None, None, Some(Fault::Full), Some(Fault::Broken)]),
            disk_stands_until: self.now + Duration::from_micros(if rng.one_in(6) { rng.below(300_000) } else { 0 }),
            loss_one_in: *rng.pick(&[0, 0, 300, 60]),
        };
        if rng.one_in(2) {
            for conn in &mut self.conns {
                conn.reads = !rng.one_in(4);
            }
        }
        if rng.one_in(3) {
            for disk in &mut self.disks {
                disk.write_back(rng);
            }
        }
        trace!(self, "mood: {:?}", self.mood);
    }

    fn pass_time(&mut self) {
        let micros = match self.rng.below(400) {
            0 => 5_000_000,
            1..10 => 60_000,
            _ => 300,
        };
        self.now += Duration::from_micros(self.rng.below(micros));
    }

    fn lose_a_connection(&mut self) {
        let alive: Vec<usize> = (0..self.conns.len()).filter(|&conn| self.conns[conn].at != At::Over).collect();
        if alive.is_empty() {
            return;
        }
        let conn = *self.rng.pick(&alive);
        trace!(self, "conn {conn} is lost");
        self.saw("a connection was lost");
        self.lose(conn);
    }

    fn lose(&mut self, conn: usize) {
        if let At::Shard(node, id) = self.conns[conn].at {
            self.nodes[node].by_id.remove(&id.token());
            self.nodes[node].shard.handle_lost(id, self.base + self.now);
            self.hang_up(conn);
            self.told(node);
        } else {
            self.hang_up(conn);
        }
    }

    /// One thing happens. Whether anything could.
    fn step(&mut self) -> bool {
        if self.rng.one_in(3) {
            self.settle_all();
        }
        let mut events = self.possible();
        if events.is_empty() {
            self.settle_all();
            events = self.possible();
        }
        if events.is_empty() {
            return false;
        }
        match *self.rng.pick(&events) {
            Event::Act(client) => self.act(client),
            Event::Arrive(conn) => self.arrive(conn),
            Event::Deliver(conn) => self.deliver(conn),
            Event::Read(conn) => self.read(conn),
            Event::Written(node, at) => self.written(node, at),
            Event::Synced(node) => self.synced(node),
            Event::Opened(node, at) => self.opened(node, at),
            Event::Timeout(node) => self.timeout(node),
        }
        true
    }

    fn possible(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (at, conn) in self.conns.iter().enumerate() {
            match conn.at {
                At::Over => continue,
                At::Moving(_) => events.push(Event::Arrive(at)),
                At::Shard(..) => {
                    let has_more = conn.unsent() > 0 || (conn.is_ended && !conn.is_end_told);
                    if has_more && !conn.is_held {
                        events.push(Event::Deliver(at));
                    }
                }
            }
            if conn.sending.is_some() && conn.reads {
                events.push(Event::Read(at));
            }
        }
        for (at, node) in self.nodes.iter().enumerate() {
            if self.now >= self.mood.disk_stands_until {
                events.extend((0..node.writes.len()).map(|write| Event::Written(at, write)));
                events.extend(node.sync.iter().map(|_| Event::Synced(at)));
                events.extend((0..node.opens.len()).map(|open| Event::Opened(at, open)));
            }
            if node.shard.poll_timeout().is_some_and(|due| due <= self.base + self.now) {
                events.push(Event::Timeout(at));
            }
        }
        for at in 0..self.clients.len() {
            if self.can_act(at) {
                events.push(Event::Act(at));
            }
        }
        events
    }

    /// The next time at which something can happen by itself.
    fn next_time(&self) -> Option<Duration> {
        let shards = self.nodes.iter().filter_map(|node| node.shard.poll_timeout()).map(|at| at - self.base);
        let clients = self.clients.iter().filter(|_| !self.is_draining).filter_map(Client::due);
        shards.chain(clients).filter(|at| *at > self.now).min()
    }

    // The driver.

    fn arrive(&mut self, conn: usize) {
        let At::Moving(node) = self.conns[conn].at else { unreachable!() };
        let accepted = self.nodes[node].shard.handle_accepted(self.base + self.now);
        trace!(self, "conn {conn} arrives at {node}: {accepted:?}");
        let Some(id) = accepted else {
            let is_full = self.nodes[node].shard.sessions() >= self.limits.sessions_max;
            assert!(is_full || self.is_draining, "a connection is refused only where there are as many as may be");
            self.saw_if("a connection was refused", is_full);
            return self.hang_up(conn);
        };
        self.conns[conn].at = At::Shard(node, id);
        assert!(self.nodes[node].by_id.insert(id.token(), conn).is_none(), "a name is given once");
        self.told(node);
    }

    fn deliver(&mut self, at: usize) {
        let conn = &mut self.conns[at];
        let At::Shard(node, id) = conn.at else { unreachable!() };
        let now = self.base + self.now;
        let shard = &mut self.nodes[node].shard;
        if !shard.wants(id) {
            trace!(self, "conn {at} is held");
            conn.is_held = true;
        } else if conn.unsent() > 0 {
            let most = conn.unsent().min(self.limits.chunk_len_max);
            let len = match self.rng.below(8) {
                0 => 1,
                1 => self.rng.within(1, most as u64) as usize,
                2 => self.rng.within(1, most.min(100) as u64) as usize,
                _ => most,
            };
            let chunk = conn.delivered..conn.delivered + len.min(most);
            if shard.tally().acks_suppressed == 0 {
                let owed = conn.lines_owed();
                assert!(owed < self.limits.owed_lines_max, "I10: {owed} lines are owed an answer, and more are wanted");
            }
            conn.delivered = chunk.end;
            trace!(self, "conn {at} delivers {} bytes", chunk.len());
            shard.handle_bytes(id, &conn.sent[chunk], now);
        } else {
            trace!(self, "conn {at} ends");
            conn.is_end_told = true;
            shard.handle_end(id, now);
        }
        self.told(node);
    }

    fn read(&mut self, at: usize) {
        let conn = &mut self.conns[at];
        let (buf, read) = conn.sending.as_mut().expect("only what is being sent can be read");
        let rest = buf.len() - *read;
        let len = if self.rng.one_in(3) { self.rng.within(1, rest as u64) as usize } else { rest };
        conn.inbox.extend_from_slice(&buf[*read..*read + len]);
        *read += len;
        self.sometimes
            .entry("a send was read in pieces")
            .and_modify(|count| *count += u64::from(len < rest))
            .or_default();
        let is_whole = len == rest;
        self.listen(at);
        if is_whole {
            let conn = &mut self.conns[at];
            let (buf, _) = conn.sending.take().expect("just seen");
            let At::Shard(node, id) = conn.at else { unreachable!() };
            self.nodes[node].shard.handle_sent(id, buf, self.base + self.now);
            self.told(node);
        }
    }

    fn written(&mut self, at: usize, write: usize) {
        let fails = !self.is_calm && self.rng.below(64) < self.mood.write_faults;
        let node = &mut self.nodes[at];
        let Write { block, piece, rows } = node.writes.swap_remove(write);
        let (id, offset) = (block.segment().0, block.offset());
        let rng = &mut self.rng;
        self.disks[at].apply(id, offset, block.bytes(), || !fails || rng.one_in(2));
        let file = self.disks[at].files.get_mut(&id).expect("a file is written while it is there");
        file.pieces[piece].state = if fails { Piece::Failed } else { Piece::Written };
        file.failed |= fails;
        self.has_failed |= fails;
        let fault = *self.rng.pick(&[Fault::Broken, Fault::Full]);
        let outcome = if fails { Err(fault) } else { Ok(()) };
        let is_first = node.writes.iter().all(|other| other.block.offset() > offset);
        self.saw_if("a write overtook another", !is_first);
        self.saw_if("a write failed", fails);
        trace!(self, "shard {at}: write of {rows} rows at {id}:{offset}: {outcome:?}");
        self.nodes[at].shard.handle_written(block, outcome, self.base + self.now);
        self.told(at);
    }

    fn synced(&mut self, at: usize) {
        let fails = !self.is_calm && self.rng.below(64) < self.mood.sync_faults;
        let (id, snapshot) = self.nodes[at].sync.take().expect("only a sync under way completes");
        let file = self.disks[at].files.get_mut(&id).expect("a file is synced while it is there");
        if fails {
            file.failed = true;
            file.fail_sync(&mut self.rng);
        } else {
            file.end_sync(snapshot);
        }
        self.has_failed |= fails;
        self.saw_if("a sync failed", fails);
        let outcome = if fails { Err(Fault::Broken) } else { Ok(()) };
        trace!(self, "shard {at}: sync of {id}: {outcome:?}");
        self.nodes[at].shard.handle_synced(SegmentId(id), outcome, self.base + self.now);
        self.told(at);
    }

    fn opened(&mut self, at: usize, open: usize) {
        let fault = self.mood.open_fault.filter(|_| self.rng.below(8) < 7);
        let id = self.nodes[at].opens.swap_remove(open);
        let outcome = fault.map_or(Ok(()), Err);
        match fault {
            None => self.disks[at].create(id),
            Some(Fault::Full) => self.saw("there was no room for a segment"),
            Some(Fault::Broken) => self.saw("a segment could not be made"),
        }
        self.has_failed |= fault.is_some();
        trace!(self, "shard {at}: open of {id}: {outcome:?}");
        self.nodes[at].shard.handle_opened(SegmentId(id), outcome, self.base + self.now);
        self.told(at);
    }

    fn timeout(&mut self, at: usize) {
        let now = self.base + self.now;
        self.nodes[at].shard.handle_timeout(now);
        self.settle(at);
        let next = self.nodes[at].shard.poll_timeout();
        assert!(next.is_none_or(|next| next > now), "a time that has come is not waited for again");
    }

    /// The shard was told something. A driver may tell it more before it asks what to do.
    fn told(&mut self, at: usize) {
        self.nodes[at].is_told = true;
        if self.rng.one_in(2) {
            self.settle(at);
        }
    }

    /// Asks every shard that was told something.
    fn settle_all(&mut self) {
        for at in 0..self.nodes.len() {
            if self.nodes[at].is_told {
                self.settle(at);
            }
        }
    }

    /// Does what the shard asks, until it is silent.
    fn settle(&mut self, at: usize) {
        self.nodes[at].is_told = false;
        while let Some(action) = self.nodes[at].shard.poll() {
            match action {
                Action::Open(id) => self.open(at, id),
                Action::Write(block) => self.write(at, block),
                Action::Sync(id) => self.sync(at, id),
                Action::CloseSegment { segment, len } => self.close_segment(at, segment, len),
                Action::Send(id, buf) => self.send(at, id.token(), buf),
                Action::Resume(id) => {
                    // It may have been lost since.
                    if let Some(&conn) = self.nodes[at].by_id.get(&id.token()) {
                        assert!(self.conns[conn].is_held, "only what was held back is asked for again");
                        self.conns[conn].is_held = false;
                        self.saw("a held connection was resumed");
                    }
                }
                Action::HandOff { session, shard, received } => {
                    let conn = self.nodes[at].by_id.remove(&session.token()).expect("a session has a connection");
                    trace!(self, "conn {conn} is handed off to {shard:?}");
                    let conn = &mut self.conns[conn];
                    assert!(conn.sending.is_none(), "nothing was said before the hand-off");
                    assert!(
                        received.len() <= 4096 + self.limits.chunk_len_max,
                        "I10: what is kept of a hello is bounded"
                    );
                    assert!(received == conn.sent[..conn.delivered], "what was received goes along, all of it");
                    conn.delivered = 0;
                    conn.is_held = false;
                    conn.at = At::Moving(usize::from(shard.0));
                    self.saw("a connection moved to its home shard");
                }
                Action::Close(id) => {
                    let conn = self.nodes[at].by_id.remove(&id.token()).expect("a session has a connection");
                    trace!(self, "conn {conn} is closed");
                    assert!(!self.conns[conn].expects_more(), "I9: a session is not closed in silence");
                    self.hang_up(conn);
                }
            }
        }
        let Node { shard, writes, .. } = &self.nodes[at];
        let in_flight = shard.in_flight();
        assert!(shard.tally().closes_with(in_flight), "I4: {:?} with {in_flight} in flight", shard.tally());
        assert!(writes.len() <= self.limits.writes_max, "writes under way are bounded");
        assert!(writes.len() <= self.limits.batches, "I10: blocks are bounded");
        assert_eq!(shard.sessions(), self.nodes[at].by_id.len(), "sessions are connections");
    }

    fn open(&mut self, at: usize, id: SegmentId) {
        let node = &mut self.nodes[at];
        assert!(id.0 > node.last_opened, "ids only grow");
        assert!(node.opens.is_empty(), "one segment is made ready at a time");
        node.last_opened = id.0;
        node.opens.push(id.0);
        trace!(self, "shard {at}: open {}", id.0);
    }

    fn write(&mut self, at: usize, mut block: Block) {
        let (id, offset) = (block.segment().0, block.offset());
        let file = self.disks[at].files.get_mut(&id).expect("a segment is written once it is there");
        assert!(!file.failed, "I5: segment {id} has failed and is written again");
        assert!(!file.closed, "a closed segment is not written");
        assert!(offset + block.len() as u64 <= self.limits.segment_len, "a block lies within its segment");
        let piece = file.issue(offset, block.len());
        check_parts(&mut block);

        let bytes = block.bytes();
        let mut rest = bytes;
        let (mut rows, mut voids) = (0, Vec::new());
        while rest.starts_with(b"{\"$") {
            let len = rest.iter().position(|&byte| byte == b'\n').expect("a line ends") + 1;
            let line: serde_json::Value = serde_json::from_slice(&rest[..len]).expect("a control line is JSON");
            rest = &rest[len..];
            if let Some(line) = line.get("$seg") {
                assert_eq!(offset, 0, "a segment line comes first");
                voids = serde_json::from_value::<Vec<(u64, u64)>>(line["void"].clone()).expect("voids are pairs");
            }
            if let Some(line) = line.get("$blk") {
                let runs: Vec<_> = serde_json::from_value(line["r"].clone()).expect("runs are runs");
                self.truth.check_block(&runs, rest, (at, id, piece));
                rows = line["n"].as_u64().expect("rows are counted") as usize;
                rest = &[];
            }
        }
        assert!(rest.is_empty(), "records have a description");
        trace!(self, "shard {at}: write {rows} rows, {} bytes at {id}:{offset}, voids {voids:?}", block.len());
        // From now on the first line may be on the disk, whatever becomes of the write.
        for (void, len) in voids {
            if let Some(file) = self.disks[at].files.get_mut(&void) {
                file.counts = file.counts.min(len);
            }
            self.saw("a segment was declared void");
        }
        self.saw_if("a segment rolled", offset == 0 && id > 1);
        self.nodes[at].writes.push(Write { block, piece, rows });
    }

    fn sync(&mut self, at: usize, id: SegmentId) {
        assert!(self.nodes[at].sync.is_none(), "one sync is under way at a time");
        let file = &self.disks[at].files[&id.0];
        assert!(!file.failed, "I5: segment {} has failed and is synced again", id.0);
        assert!(!file.closed, "a closed segment is not synced");
        trace!(self, "shard {at}: sync {}", id.0);
        self.nodes[at].sync = Some((id.0, file.begin_sync()));
        self.saw_if("writes went ahead of a sync", !self.nodes[at].writes.is_empty());
    }

    fn close_segment(&mut self, at: usize, id: SegmentId, len: u64) {
        trace!(self, "shard {at}: close {} at {len}", id.0);
        let node = &self.nodes[at];
        let is_busy = node.writes.iter().any(|write| write.block.segment() == id)
            || node.sync.as_ref().is_some_and(|(syncing, _)| *syncing == id.0);
        assert!(!is_busy, "a segment is closed when nothing is under way on it");
        let file = self.disks[at].files.get_mut(&id.0).expect("a segment that is closed was opened");
        assert!(!file.closed, "a segment is closed once");
        file.close(len);
    }

    fn send(&mut self, at: usize, token: u64, buf: Vec<u8>) {
        let conn = *self.nodes[at].by_id.get(&token).expect("a session that is answered has a connection");
        trace!(self, "conn {conn} is told {}", String::from_utf8_lossy(&buf).trim_end());
        assert!(buf.len() <= self.limits.send_len_max + 8192 + self.limits.chunk_len_max * 2, "I10: a send is bounded");
        for (word, what) in TELLING {
            let is_said = memmem::find(&buf, word.as_bytes()).is_some();
            self.saw_if(what, is_said);
        }
        let mut witness = Witness {
            truth: &mut self.truth,
            disks: &self.disks,
            line_len_max: self.limits.line_len_max,
            may_refuse: self.has_failed,
        };
        let conn = &mut self.conns[conn];
        assert!(conn.sending.is_none(), "one send is under way per session");
        conn.handle_said(&buf, &mut witness);
        conn.sending = Some((buf, 0));
    }

    /// The connection is over; its client learns of it.
    fn hang_up(&mut self, at: usize) {
        let conn = &mut self.conns[at];
        if conn.at == At::Over {
            return;
        }
        conn.at = At::Over;
        conn.sending = None;
        let client = conn.client;
        match &mut self.clients[client] {
            Client::Producer(producer) => {
                producer.zombies.retain(|(zombie, _)| *zombie != at);
                if producer.conn == Some(at) {
                    producer.handle_gone(self.now, &mut self.rng);
                }
            }
            Client::Plain(plain) => {
                if plain.conn == Some(at) {
                    plain.conn = None;
                }
            }
        }
    }

    // The clients.

    /// A client reads what has arrived.
    fn listen(&mut self, at: usize) {
        let conn = &mut self.conns[at];
        let Some(end) = conn.inbox.iter().rposition(|&byte| byte == b'\n') else { return };
        let heard: Vec<u8> = conn.inbox.drain(..=end).collect();
        let View::Session(session) = &conn.view else { return };
        let level = session.level;
        let Client::Producer(producer) = &mut self.clients[conn.client] else { unreachable!() };
        if producer.conn != Some(at) {
            return;
        }
        let before = producer.epoch;
        for line in heard[..end].split(|&byte| byte == b'\n').filter(|line| line.starts_with(b"{\"$")) {
            let answer = Answer::parse(line).expect("checked when it was said");
            producer.handle_answer(&answer, level, self.now, &mut self.rng);
        }
        if producer.epoch != before {
            self.truth.begin_stream(&producer.name, producer.epoch, producer.base);
        }
    }

    fn can_act(&self, at: usize) -> bool {
        if self.is_draining {
            return false;
        }
        let has_room = |conn: usize| {
            let conn = &self.conns[conn];
            !conn.is_ended && conn.unsent() < 4 * self.limits.chunk_len_max.min(8192)
        };
        match &self.clients[at] {
            Client::Plain(plain) => match plain.conn {
                None => plain.conns_left > 0,
                Some(conn) => has_room(conn),
            },
            Client::Producer(producer) => match (producer.state, producer.conn) {
                (State::Away, _) => self.now >= producer.retry_at,
                (State::Open, Some(conn)) => {
                    has_room(conn)
                        && match producer.resume {
                            Some((_, due)) => self.now >= due,
                            None => {
                                producer.next <= producer.goal || producer.is_settled(self.conns[conn].session().level)
                            }
                        }
                }
                _ => false,
            },
        }
    }

    fn act(&mut self, at: usize) {
        match &self.clients[at] {
            Client::Plain(plain) => match plain.conn {
                None => self.begin_plain(at),
                Some(conn) => self.continue_plain(at, conn),
            },
            Client::Producer(producer) => match producer.conn {
                None => self.say_hello(at),
                Some(conn) => self.continue_stream(at, conn),
            },
        }
    }

    fn connect(&mut self, client: usize, view: View) -> usize {
        let node = self.rng.index(self.nodes.len());
        self.conns.push(Conn::new(client, node, view));
        self.conns.len() - 1
    }

    fn begin_plain(&mut self, at: usize) {
        let conn = self.connect(at, View::Plain(Plain { level: self.ack, cursor: 0 }));
        self.conns[conn].reads = !self.rng.one_in(5);
        let lines_left = self.rng.below(80);
        let Client::Plain(plain) = &mut self.clients[at] else { unreachable!() };
        plain.conn = Some(conn);
        plain.conns_left -= 1;
        plain.lines_left = lines_left;
        trace!(self, "client {at}: plain conn {conn}, {lines_left} lines");
    }

    fn continue_plain(&mut self, at: usize, conn: usize) {
        let Client::Plain(plain) = &mut self.clients[at] else { unreachable!() };
        let lines = self.rng.within(1, 10).min(plain.lines_left);
        plain.lines_left -= lines;
        let is_last = plain.lines_left == 0;
        for _ in 0..lines {
            self.say_blank(conn);
            let rid = self.truth.plain_line(&mut self.rng, &self.style, conn);
            self.say_line(conn, rid, 0);
        }
        if is_last {
            if self.rng.one_in(3) {
                let rid = self.truth.plain_line(&mut self.rng, &self.style, conn);
                self.say_cut(conn, rid, 0);
            }
            self.conns[conn].is_ended = true;
        }
    }

    fn say_hello(&mut self, at: usize) {
        let Client::Producer(producer) = &self.clients[at] else { unreachable!() };
        let ack = *self.rng.pick(&producer.levels);
        // Who was refused a level asks for a weaker one; now and then somebody tries.
        let is_too_much = ack.is_some_and(|level| level > self.ack_max);
        let ack = ack.filter(|_| !is_too_much || (!self.is_calm && self.rng.one_in(2)));
        let resume_from = producer.resume_from(&mut self.rng);
        let level = ack.unwrap_or(self.ack);
        let (name, epoch) = (producer.name.clone(), producer.epoch);
        let view = View::Session(Box::new(Session::new(&name, epoch, level, resume_from)));
        let conn = self.connect(at, view);
        trace!(self, "client {at}: conn {conn}, hello {name}/{epoch} {level} from {resume_from:?}");
        let mut line = Vec::new();
        Control::Hello(Hello { ack, resume_from, ..Hello::new(&*name, epoch) }).put(&mut line);
        self.conns[conn].say(&line, b"", What::Hello);
        let waits = resume_from.is_none() || self.rng.one_in(3);
        let Client::Producer(producer) = &mut self.clients[at] else { unreachable!() };
        producer.conn = Some(conn);
        producer.asked = resume_from;
        producer.next = resume_from.unwrap_or(0);
        producer.state = if waits { State::Waiting } else { State::Open };
    }

    fn continue_stream(&mut self, at: usize, conn: usize) {
        let level = self.conns[conn].session().level;
        let Client::Producer(producer) = &mut self.clients[at] else { unreachable!() };
        if let Some((from, _)) = producer.resume.take() {
            let from = if self.rng.one_in(4) { self.rng.within(producer.base, from) } else { from };
            producer.next = from;
            self.saw("a client resumed after a nack");
            return self.say_control(conn, &Control::Resume(Resume { from }), What::Resume(from));
        }
        if producer.next > producer.goal {
            producer.state = State::Leaving;
            if level != AckLevel::None {
                assert!(producer.settled >= producer.goal, "it has waited for that");
            }
            self.say_control(conn, &Control::Bye(1), What::Bye);
            if self.rng.one_in(2) {
                self.conns[conn].is_ended = true;
            }
            return;
        }
        if !producer.zombies.is_empty() && self.rng.one_in(3) {
            self.say_as_zombie(at);
        }
        let lines = self.rng.within(1, 12);
        self.say_stream(at, conn, lines);
        if !self.is_calm && self.rng.one_in(8) {
            self.misbehave(at, conn);
        }
    }

    fn say_stream(&mut self, at: usize, conn: usize, lines: u64) {
        for _ in 0..lines {
            let Client::Producer(producer) = &mut self.clients[at] else { unreachable!() };
            if producer.next > producer.goal {
                return;
            }
            let seq = producer.next;
            producer.next += 1;
            let (name, epoch) = (producer.name.clone(), producer.epoch);
            self.say_blank(conn);
            if self.rng.one_in(30) {
                let number = self.rng.below(1000);
                self.say_control(conn, &Control::Ping(number), What::Ping(number));
            }
            if self.rng.one_in(30) {
                self.say_control(conn, &Control::Flush(1), What::Control);
            }
            let rid = self.truth.stream_line(&mut self.rng, &self.style, &name, epoch, seq);
            self.say_line(conn, rid, seq);
        }
    }

    /// A connection that its client has given up goes on with lines that the client sends elsewhere by now.
    fn say_as_zombie(&mut self, at: usize) {
        let Client::Producer(producer) = &mut self.clients[at] else { unreachable!() };
        let zombie = self.rng.index(producer.zombies.len());
        let (conn, first) = producer.zombies[zombie];
        let (name, epoch) = (producer.name.clone(), self.conns[conn].session().epoch);
        for seq in first..first + self.rng.within(1, 5) {
            let Some(rid) = self.truth.rid(&name, epoch, seq) else { return };
            if self.conns[conn].is_ended {
                return;
            }
            self.say_line(conn, rid, seq);
            let Client::Producer(producer) = &mut self.clients[at] else { unreachable!() };
            producer.zombies[zombie].1 = seq + 1;
        }
        self.saw("a connection that was given up went on");
    }

    /// An incarnation that is over comes back.
    fn say_hello_again(&mut self, at: usize, epoch: u64) {
        let Client::Producer(producer) = &mut self.clients[at] else { unreachable!() };
        let name = producer.name.clone();
        let base = self.truth.stream(&name, epoch).base;
        let view = View::Session(Box::new(Session::new(&name, epoch, self.ack, Some(base))));
        let conn = self.connect(at, view);
        trace!(self, "client {at}: conn {conn}, hello again {name}/{epoch}");
        self.saw("an incarnation that was over came back");
        let mut line = Vec::new();
        Control::Hello(Hello { resume_from: Some(base), ..Hello::new(&*name, epoch) }).put(&mut line);
        self.conns[conn].say(&line, b"", What::Hello);
        let Client::Producer(producer) = &mut self.clients[at] else { unreachable!() };
        producer.zombies.push((conn, base));
    }

    /// What a client may do in the middle of its stream, and better did not.
    fn misbehave(&mut self, at: usize, conn: usize) {
        let Client::Producer(producer) = &mut self.clients[at] else { unreachable!() };
        match self.rng.below(8) {
            7 => {
                if let Some(epoch) = producer.epochs_over.pop() {
                    self.say_hello_again(at, epoch);
                }
            }
            6 => {
                let from = self.rng.within(producer.base, producer.next);
                producer.next = from;
                self.say_control(conn, &Control::Resume(Resume { from }), What::Resume(from));
                self.saw("a client went back unasked");
            }
            0 => {
                trace!(self, "client {at} says bye early");
                producer.state = State::Leaving;
                self.say_control(conn, &Control::Bye(1), What::Bye);
                self.saw("a client said bye before it was answered");
            }
            1 => {
                let seq = producer.next;
                if seq <= producer.goal {
                    trace!(self, "client {at} ends in the middle of line {seq}");
                    let (name, epoch) = (producer.name.clone(), producer.epoch);
                    let rid = self.truth.stream_line(&mut self.rng, &self.style, &name, epoch, seq);
                    self.say_cut(conn, rid, seq);
                    self.saw("a stream ended in the middle of a line");
                }
                let Client::Producer(producer) = &mut self.clients[at] else { unreachable!() };
                producer.state = State::Leaving;
                self.conns[conn].is_ended = true;
            }
            2 => {
                self.conns[conn].say(br#"{"$nonsense":1}"#, b"\n", What::Control);
                self.saw("a client talked nonsense");
            }
            3 | 4 => {
                trace!(self, "client {at} gives up conn {conn} without closing it");
                producer.zombies.push((conn, producer.next));
                producer.conn = None;
                producer.resume = None;
                producer.state = State::Away;
                self.saw("a second connection took over");
            }
            _ => {
                if producer.bumps_left > 0 {
                    producer.bumps_left -= 1;
                    producer.zombies.push((conn, producer.next));
                    producer.epochs_over.push(producer.epoch);
                    producer.epoch += self.rng.within(1, 3);
                    producer.begin(&mut self.rng);
                    self.truth.begin_stream(&producer.name, producer.epoch, producer.base);
                    self.saw("a producer began a new epoch");
                }
            }
        }
    }

    fn say_line(&mut self, conn: usize, rid: usize, seq: u64) {
        let ending: &[u8] = if self.rng.one_in(5) { b"\r\n" } else { b"\n" };
        self.conns[conn].say(&self.truth.lines[rid].bytes, ending, What::Line { rid, seq });
    }

    /// Says the beginning of a line, or all of it, without an ending. The beginning of a record is no record.
    fn say_cut(&mut self, conn: usize, rid: usize, seq: u64) {
        let bytes = &self.truth.lines[rid].bytes;
        let len = if self.rng.one_in(4) { bytes.len() } else { self.rng.within(1, bytes.len() as u64) as usize };
        let may_be_record = len < bytes.len() && bytes[..len].trim_ascii_end().ends_with(b"}");
        let piece = &bytes[..if may_be_record { 1 } else { len }];
        self.conns[conn].say(piece, b"", What::Cut { rid, seq });
    }

    fn say_blank(&mut self, conn: usize) {
        if self.rng.one_in(25) && !self.conns[conn].said.is_empty() {
            let blank: &[u8] = if self.rng.one_in(2) { b"\n" } else { b"\r\n" };
            self.conns[conn].say(b"", blank, What::Blank);
        }
    }

    fn say_control(&mut self, conn: usize, control: &Control, what: What) {
        let mut line = Vec::new();
        control.put(&mut line);
        self.conns[conn].say(&line, b"", what);
    }

    // What can be seen.

    fn saw(&mut self, what: &'static str) {
        *self.sometimes.entry(what).or_default() += 1;
    }

    fn saw_if(&mut self, what: &'static str, is_so: bool) {
        *self.sometimes.entry(what).or_default() += u64::from(is_so);
    }

    /// What there is when nothing can happen any more.
    fn picture(&self) -> String {
        let mut lines = vec![format!("at {:?}", self.now)];
        for (at, node) in self.nodes.iter().enumerate() {
            let Node { shard, writes, sync, opens, .. } = node;
            let (sessions, in_flight) = (shard.sessions(), shard.in_flight());
            let (writes, is_syncing) = (writes.len(), sync.is_some());
            lines.push(format!(
                "shard {at}: {sessions} sessions, {in_flight} in flight, {writes} writes, syncing {is_syncing}, \
                 opening {opens:?}, timeout {:?}",
                shard.poll_timeout().map(|at| at - self.base)
            ));
        }
        for (at, conn) in self.conns.iter().enumerate().filter(|(_, conn)| conn.at != At::Over) {
            lines.push(format!(
                "conn {at} of client {}: {:?}, held {}, {} unsent, end {} told {}, sending {}, reads {}, {:?}",
                conn.client,
                conn.at,
                conn.is_held,
                conn.unsent(),
                conn.is_ended,
                conn.is_end_told,
                conn.sending.is_some(),
                conn.reads,
                conn.view
            ));
        }
        lines.extend(self.clients.iter().filter(|client| !client.is_done()).map(|client| format!("{client:?}")));
        lines.join("\n")
    }
}

impl Client {
    fn is_done(&self) -> bool {
        match self {
            Client::Plain(plain) => plain.conns_left == 0 && plain.conn.is_none(),
            Client::Producer(producer) => producer.state == State::Done,
        }
    }

    /// When it does something by itself.
    fn due(&self) -> Option<Duration> {
        match self {
            Client::Plain(_) => None,
            Client::Producer(producer) => match producer.state {
                State::Away => Some(producer.retry_at),
                State::Open => producer.resume.map(|(_, due)| due),
                State::Waiting | State::Leaving | State::Done => None,
            },
        }
    }
}

/// The parts of a block make up the block, and its pages are pages in memory and in the file.
fn check_parts(block: &mut Block) {
    let parts = block.parts();
    let (whole, len) = (block.bytes().to_vec(), block.len());
    for at in [parts.pages.start, parts.pages.end] {
        assert!(parts.pages.is_empty() || block.offset_of(at).is_multiple_of(PAGE as u64), "pages lie on pages");
    }
    assert_eq!(block.offset_of(parts.head.start), block.offset());
    let buffer = block.take_buffer();
    assert!(parts.pages.is_empty() || buffer[parts.pages.clone()].as_ptr().addr().is_multiple_of(PAGE));
    assert!(parts.head.end == parts.pages.start && parts.pages.end == parts.tail.start, "nothing lies between");
    assert_eq!(parts.tail.end - parts.head.start, len);
    assert!(buffer[parts.head.start..parts.tail.end] == whole, "the parts are the block");
    block.put_buffer(buffer);
}

/// Tight bounds, so that everything that can be full is; sometimes the usual ones.
fn limits(rng: &mut Rng) -> Limits {
    if rng.one_in(40) {
        return Limits::default();
    }
    let writes_max = rng.within(1, 4) as usize;
    let chunk_len_max = *rng.pick(&[40, 500, 5000]);
    let line_len_max = 4096 + rng.index(500);
    let batch_len_max = line_len_max + chunk_len_max + 2 + rng.index(8000);
    let mut limits = Limits {
        line_len_max,
        depth_max: rng.within(4, 64) as usize,
        chunk_len_max,
        batch_len_max,
        batches: writes_max + 2 + rng.index(3),
        writes_max,
        batch_rows: rng.within(1, 40) as u32,
        linger: Duration::from_micros(rng.below(20_000)),
        ahead_len_min: rng.index(batch_len_max),
        paged_len_min: *rng.pick(&[0, 0, 300, 3000, 1 << 20]),
        segment_len: 0,
        send_len_max: 4096 + rng.index(4096),
        owed_lines_max: rng.within(1, 300),
        owed_runs_max: rng.within(1, 30) as usize,
        ack_stall: Duration::from_millis(rng.within(1, 200)),
        storage_retry: Duration::from_millis(rng.within(1, 200)),
        sessions_max: rng.within(2, 40) as usize,
        producers_max: rng.within(PRODUCERS_MAX, 8) as usize,
        window: 100,
    };
    limits.segment_len = (limits.segment_len_min() + rng.below(100_000)).next_multiple_of(PAGE as u64);
    limits
}

/// Producers of one world at most. A shard that has to forget a producer cannot tell its lines from new ones.
const PRODUCERS_MAX: u64 = 4;

/// Words of answers, and what they show to have happened.
const TELLING: [(&str, &str); 10] = [
    ("\"code\":\"fenced\"", "a session was fenced"),
    ("\"code\":\"stale_epoch\"", "a lower epoch was refused"),
    ("\"code\":\"seq_gap\"", "a gap was refused"),
    ("\"code\":\"protocol_error\"", "nonsense was answered"),
    ("cannot be promised here", "a level was refused"),
    ("may be lost", "a durable session was refused what may be lost"),
    ("\"$nack\"", "a session was told that storage failed"),
    ("\"retry_after_ms\"", "a plain client was told that storage failed"),
    ("\"line_too_long\"", "an over-long line was refused"),
    ("\"rej\":[", "rejections were told"),
];
