//! A hostile world made from one seed: clients (`script`), a network and disks that fail, and the driver between them
//! and the shards (`driver`).
//!
//! What completes when is chance; what a real kernel would deliver in order is delivered in order. A server lives until
//! its power is cut, its process dies or it is drained, and the next one starts from what is left. In the end nothing
//! fails any more, and everybody has to get an answer.

macro_rules! trace {
    ($world:expr, $($arg:tt)*) => {
        if $world.is_traced {
            eprintln!("{:>10} {}", $world.now.as_micros(), format!($($arg)*));
        }
    };
}

mod datagrams;
mod driver;
mod script;

use crate::client::{Client, PlainClient, Producer};
use crate::conn::{At, Conn, View};
use crate::disk::{Disk, Snapshot};
use crate::lines::Style;
use crate::recover;
use crate::rng::Rng;
use crate::truth::Truth;
use ringest_ingest::scan::{Item, scan};
use ringest_ingest::{
    Block, BreakerLimits, BreakerState, Fault, Limits, PAGE, SegmentFormat, SegmentId, Shard, ShardConfig, ShardId,
    home_shard,
};
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
    /// Datagrams that will still be sent.
    datagrams_left: u64,
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
    socket: datagrams::Socket,
    /// What its breaker said last.
    breaker: BreakerState,
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
    /// A datagram is sent, to that shard.
    Send(usize),
    /// A shard is offered its next datagram.
    Offer(usize),
}

/// How a server's life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    PowerCut,
    ProcessDeath,
    Drain,
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
        let datagrams_left = if rng.one_in(2) { rng.below(200) } else { 0 };
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
            datagrams_left,
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

    fn start(&mut self) {
        let shards = self.rng.within(1, 3) as usize;
        let weaker = [AckLevel::Written, AckLevel::Accepted, AckLevel::None];
        self.ack = if self.rng.one_in(2) { AckLevel::Durable } else { *self.rng.pick(&weaker) };
        self.ack_max = if self.rng.one_in(6) { self.ack } else { AckLevel::Durable };
        // Whatever a server before this one wrote is read by it.
        let format = if self.rng.one_in(2) { SegmentFormat::Plain } else { SegmentFormat::Gzip };
        self.saw_if("segments were compressed", format == SegmentFormat::Gzip);
        while self.disks.len() < shards {
            self.disks.push(Disk::default());
        }
        let found: Vec<recover::Survey> = self.survey();
        let known = recover::fold(std::iter::empty(), found.iter().flat_map(|survey| &survey.blocks));
        let covered = |disk: &Disk| disk.snapshot.as_ref().map_or(0, |(segment, _)| *segment);
        let told = self.disks.iter().filter_map(|disk| disk.snapshot.as_ref()).flat_map(|(_, producers)| producers);
        let uncovered = self
            .disks
            .iter()
            .zip(&found)
            .flat_map(|(disk, survey)| survey.blocks.iter().filter(move |block| block.segment > covered(disk)));
        assert_eq!(recover::fold(told, uncovered), known, "I3: a snapshot says what the segments up to it say");
        let stored_by = |at: usize| {
            let blocks = found.get(at).into_iter().flat_map(|survey: &recover::Survey| &survey.blocks);
            recover::fold(std::iter::empty(), blocks)
        };
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
                    away: stored_by(at).into_iter().filter(|state| !home(&state.producer)).collect(),
                    format,
                    ..ShardConfig::alone(self.limits.clone())
                };
                Node {
                    shard: Shard::new(config, self.base + self.now).expect("the limits fit together"),
                    writes: Vec::new(),
                    sync: None,
                    opens: Vec::new(),
                    by_id: HashMap::new(),
                    last_opened: last,
                    socket: datagrams::Socket::default(),
                    breaker: BreakerState::Closed,
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
                End::ProcessDeath => disk.process_death(&mut self.rng),
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
        self.run_dry("every client gets its answers, and every datagram is taken", |world| {
            world.clients.iter().all(Client::is_done) && world.nodes.iter().all(|node| node.socket.is_empty())
        });
    }

    fn drain(&mut self) {
        trace!(self, "drain");
        self.mood = Mood::default();
        self.is_draining = true;
        let was_calm = std::mem::replace(&mut self.is_calm, true);
        for node in 0..self.nodes.len() {
            self.end_datagrams(node);
            let now = self.base + self.now;
            self.nodes[node].shard.handle_drain(now);
            if self.datagrams_left > 0 && self.rng.one_in(4) {
                self.send_datagram(node); // One that a driver has from the kernel only now.
                self.end_datagrams(node);
            }
            self.settle(node);
        }
        // A session that takes nothing is for its driver to end, after a time of the driver's.
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
            node.socket.check(node.shard.tally());
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
        for _ in 0..STEPS_MAX {
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
            Event::Send(node) => self.send_datagram(node),
            Event::Offer(node) => self.offer_datagram(node),
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
                    let has_more = conn.has_more() || (conn.is_ended && !conn.is_end_told);
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
            if self.datagrams_left > 0 && !self.is_draining {
                events.push(Event::Send(at));
            }
            if node.socket.has_news() {
                events.push(Event::Offer(at));
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
            lines.push(format!("its datagrams: {:?}", node.socket));
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

/// Tight bounds, so that everything that can be full is; sometimes the usual ones.
fn limits(rng: &mut Rng) -> Limits {
    if rng.one_in(40) {
        return Limits::default();
    }
    let writes_max = rng.within(1, 4) as usize;
    let chunk_len_max = *rng.pick(&[40, 500, 5000, 40_000]);
    let line_len_max = 4096 + rng.index(500);
    let batch_len_max = line_len_max + chunk_len_max + 2 + rng.index(8000);
    let wait_over_share = rng.within(1, 40);
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
        segment_age: rng.one_in(3).then(|| Duration::from_millis(rng.within(1, 300))),
        send_len_max: 4096 + rng.index(4096),
        owed_lines_max: rng.within(1, 300),
        owed_runs_max: rng.within(1, 30) as usize,
        ack_stall: Duration::from_millis(rng.within(1, 200)),
        storage_retry: Duration::from_millis(rng.within(1, 200)),
        storage_breaker: storage_breaker(rng),
        hold_time: Duration::from_micros(rng.below(50_000)),
        wait_over_share: Duration::from_millis(wait_over_share),
        wait_max: Duration::from_millis(wait_over_share + rng.below(100)),
        sessions_max: rng.within(2, 40) as usize,
        producers_max: rng.within(PRODUCERS_MAX, 8) as usize,
        window: 100,
        decode_len_max: *rng.pick(&[1, 200, 10_000, 1 << 20]),
        ..Limits::default()
    };
    limits.segment_len = (limits.segment_len_min() + rng.below(100_000)).next_multiple_of(PAGE as u64);
    limits
}

/// Mostly one that opens soon; a disk that stands still is a slow one to it.
fn storage_breaker(rng: &mut Rng) -> BreakerLimits {
    BreakerLimits {
        window: Duration::from_millis(rng.within(10, 2000)),
        minimum_calls: rng.within(1, 10) as u32,
        failure_rate: rng.within(20, 100) as u32,
        slow_call_rate: rng.within(20, 100) as u32,
        slow_call_duration: Duration::from_millis(*rng.pick(&[20, 100, 10_000])),
        failures_in_row: *rng.pick(&[None, Some(1), Some(2), Some(2), Some(3)]),
        wait_in_open: Duration::from_millis(rng.within(1, 200)),
        permitted_in_half_open: rng.within(1, 4) as u32,
    }
}

/// Producers of one world at most. A shard that has to forget a producer cannot tell its lines from new ones.
const PRODUCERS_MAX: u64 = 4;
/// Steps after which a world is held to go on without an end. Where a turn decodes one byte, from pieces of a few bytes,
/// more than 200,000 are needed.
const STEPS_MAX: usize = 2_000_000;

/// Words of answers, and what they show to have happened.
const TELLING: [(&str, &str); 13] = [
    ("\"code\":\"fenced\"", "a session was fenced"),
    ("\"code\":\"stale_epoch\"", "a lower epoch was refused"),
    ("\"code\":\"seq_gap\"", "a gap was refused"),
    ("\"code\":\"protocol_error\"", "nonsense was answered"),
    ("cannot be promised here", "a level was refused"),
    ("may be lost", "a durable session was refused what may be lost"),
    ("$nack\":", "a session was told to come back"),
    ("\"retry_after_ms\"", "a plain client was told to come back"),
    ("\"code\":\"storage_", "somebody was told that storage failed"),
    ("\"code\":\"overloaded\",\"retry\"", "a session was told that there is no room"),
    ("\"code\":\"circuit_open\"", "somebody was told that the circuit is open"),
    ("\"line_too_long\"", "an over-long line was refused"),
    ("\"rej\":[", "rejections were told"),
];
