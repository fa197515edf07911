//! A run: starts the workers together, shows progress, adds up what they measured.

use crate::config::Config;
use crate::connection::explain;
use crate::corpus::Corpus;
use crate::datagrams;
use crate::headroom::Headroom;
use crate::host::Host;
use crate::interval::{Interval, Phase};
use crate::io::Engine;
use crate::latency::Latency;
use crate::law::Law;
use crate::ledger::{Ledger, Mode};
use crate::measured::Measured;
use crate::packer::Compression;
use crate::report::{Gate, Report, Resources, SCHEMA, System, Test, TestConfig, Tool, Window};
use crate::report::{Verification, utc};
use crate::schedule::{Course, Timetable, share};
use crate::tally::Tally;
use crate::timeline::{Second, Timeline};
use crate::validity::{Judge, Verdict};
use crate::warmup::{EndedBy, Sample, WarmUp};
use crate::worker::{Clock, Orders, Outcome, Task, Word, Worker};
use ringest_sys::signal::{Signal, Signals};
use ringest_sys::{cpu, limit};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, SystemTime};

/// What a run leaves.
#[derive(Debug)]
pub struct Finished {
    /// What it measured.
    pub report: Report,
    /// What it was promised.
    pub ledger: Ledger,
    /// The signal that ended it early.
    pub signal: Option<Signal>,
}

/// Runs it on that engine. `see` gets each second when it is over.
///
/// # Errors
/// A sentence, where the run could not begin.
pub fn run(
    config: &Config,
    engine: Engine,
    signals: &Signals,
    see: &mut dyn FnMut(&Second),
) -> Result<Finished, String> {
    let timestamp = utc(SystemTime::now());
    check_descriptors(config)?;
    let peer = find(config)?;
    let corpus = Corpus::load(&config.source, &config.shape, config.stamped)?;
    if config.datagram_len_max.is_some() && corpus.longest() > datagrams::LEN_MAX {
        return Err(format!(
            "--udp: the longest line has {} bytes, a datagram at most {}, and a line is never divided; take other lines",
            corpus.longest(),
            datagrams::LEN_MAX
        ));
    }
    let (mut sum, mut signal) = match Crew::start(config, engine, peer, &corpus, signals)? {
        Start::Ready(crew) => crew.watch(config, signals, see),
        Start::GivenUp(signal) => (Sum::new(config), Some(signal)),
    };

    let mut headroom = None;
    if config.headroom && signal.is_none() {
        match Headroom::measure(config, engine, signals, throughput_per_s(&sum)) {
            Ok(measured) => headroom = Some(measured),
            // What was run before is worth no less.
            Err(missing) => {
                sum.complaints.push(missing.why);
                signal = missing.signal;
            }
        }
    }

    let mut ledger = Ledger::new(config.run);
    ledger.connections.clone_from(&sum.entries);
    ledger.connections.sort_by_key(|entry| (entry.worker, entry.conn));
    let mut report = Report { timestamp, ..report_of(config, engine, &sum, signal, &corpus) };
    report.tests.iter_mut().for_each(|test| test.headroom = headroom);
    Ok(Finished { report, ledger, signal })
}

/// The report of what was gathered.
pub(crate) fn report_of(config: &Config, engine: Engine, sum: &Sum, signal: Option<Signal>, corpus: &Corpus) -> Report {
    Report {
        schema: SCHEMA.into(),
        run_id: format!("{:08x}", config.run),
        timestamp: utc(SystemTime::now()),
        tool: Tool { name: env!("CARGO_PKG_NAME").into(), version: env!("CARGO_PKG_VERSION").into() },
        seed: config.shape.seed,
        payload_sha256: corpus.fingerprint(),
        system: System::here(),
        verification: Verification {
            ledger: config.ledger.as_ref().map(|path| path.display().to_string()),
            books_closed: sum.tally.offered == sum.tally.finished() && sum.warm_up.offered == sum.warm_up.finished(),
            complaints: sum.complaints.clone(),
        },
        tests: vec![test(config, engine, sum, signal, corpus)],
        find_max: None,
    }
}

/// What all workers left, added up.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    tally: Tally,
    latency: Latency,
    entries: Vec<crate::ledger::Entry>,
    complaints: Vec<String>,
    level: Option<String>,
    cpu_ns: u64,
    span_ns: u64,
    judge: Judge,
    judge_of_warm_up: Judge,
    /// Lines of the warm-up, how long it took, and what ended it.
    warm_up: Tally,
    warm_up_ns: u64,
    ended_by: Option<EndedBy>,
    sent_ns: u64,
}

impl Sum {
    fn new(config: &Config) -> Sum {
        let processors = cpu::allowed().map_or(1, |list| list.len());
        let judge = Judge::new(config.workers as usize, processors);
        Sum { judge: judge.clone(), judge_of_warm_up: judge, ..Sum::default() }
    }

    fn note(&mut self, worker: u16, interval: &Interval) -> Verdict {
        match interval.phase {
            Phase::WarmUp => return self.judge_of_warm_up.note(usize::from(worker), &interval.signs),
            Phase::Measured | Phase::Drain => {}
        }
        self.latency.add(&interval.latency);
        self.judge.note(usize::from(worker), &interval.signs)
    }

    fn add(&mut self, outcome: Outcome) {
        self.tally.add(&outcome.tally);
        self.warm_up.add(&outcome.warm_up);
        self.entries.extend(outcome.entries);
        for complaint in outcome.complaints {
            if !self.complaints.contains(&complaint) {
                self.complaints.push(complaint);
            }
        }
        self.level = self.level.take().or(outcome.level);
        self.cpu_ns += outcome.cpu_ns;
        self.span_ns = self.span_ns.max(outcome.span_ns);
        self.sent_ns = self.sent_ns.max(outcome.sent_ns);
    }
}

/// What became of connecting.
#[derive(Debug)]
enum Start {
    Ready(Crew),
    /// Somebody did not want to wait for it.
    GivenUp(Signal),
}

/// The workers of a run.
#[derive(Debug)]
struct Crew {
    words: Receiver<(u16, Word)>,
    spares: Vec<Sender<Latency>>,
    stop: Arc<AtomicBool>,
    /// When the first line is due.
    began: SystemTime,
    clock: Clock,
    start_ns: u64,
    /// See [`Orders`].
    measured_ns: Arc<AtomicU64>,
}

impl Crew {
    /// Starts a thread per worker, waits until every one has its connections, and lets them go together.
    fn start(
        config: &Config,
        engine: Engine,
        peer: SocketAddr,
        corpus: &Corpus,
        signals: &Signals,
    ) -> Result<Start, String> {
        let clock = Clock::start();
        let stop = Arc::new(AtomicBool::new(false));
        let measured_ns = Arc::new(AtomicU64::new(u64::MAX));
        let (outlet, words) = channel();
        let (mut starts, mut spares) = (Vec::new(), Vec::new());
        for worker in 0..config.workers {
            let (start, go) = channel();
            let (spare, taken) = channel();
            // Two in turn: one is filled while the other is read.
            spare.send(Latency::new()).expect("the receiver is in scope");
            starts.push(start);
            spares.push(spare);
            let orders = Orders { stop: stop.clone(), spares: taken, measured_ns: measured_ns.clone() };
            let job =
                Job { task: task(config, engine, worker, peer), corpus: corpus.clone(), clock, config: config.clone() };
            let outlet = outlet.clone();
            thread::Builder::new()
                .name(format!("loadgen-{worker}"))
                .spawn(move || job.work(&go, &orders, &outlet))
                .map_err(|error| format!("cannot start worker {worker}: {error}"))?;
        }
        let mut waiting = config.workers;
        while waiting > 0 {
            // A server that takes connections and says nothing is waited for in vain, and so is the last of many.
            if let Some(signal) = signals.take() {
                return Ok(Start::GivenUp(signal));
            }
            match words.recv_timeout(LOOK_EVERY) {
                Ok((_, Word::Ready)) => waiting -= 1,
                Ok((_, Word::Failed(why))) => return Err(why),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(_) | Err(RecvTimeoutError::Disconnected) => {
                    return Err("a worker ended before it began; see above".into());
                }
            }
        }
        let start_ns = clock.now_ns() + HEAD_START_NS;
        let began = SystemTime::now() + Duration::from_nanos(HEAD_START_NS);
        for start in starts {
            start.send(start_ns).map_err(|_| "a worker ended before it began; see above")?;
        }
        Ok(Start::Ready(Crew { words, spares, stop, began, clock, start_ns, measured_ns }))
    }

    /// Gathers what the workers measure until the last is done.
    fn watch(self, config: &Config, signals: &Signals, see: &mut dyn FnMut(&Second)) -> (Sum, Option<Signal>) {
        let mut sum = Sum::new(config);
        let mut host = Host::new(config.cpus.as_ref());
        let mut timeline = Timeline::new(config.workers, self.began);
        let mut warm_up = config.warm_up.map(|least| WarmUp::new(least.as_nanos() as u64));
        let mut signal = None;
        let mut working = config.workers;
        while working > 0 {
            if let Some(arrived) = signals.take() {
                if signal.replace(arrived).is_some() {
                    // Asked twice: what has come so far has to do.
                    break;
                }
                self.stop.store(true, Ordering::Relaxed);
            }
            match self.words.recv_timeout(LOOK_EVERY) {
                Ok((worker, Word::Interval(mut interval))) => {
                    interval.signs.stolen_ns = host.stolen_ns(usize::from(worker), interval.signs.span_ns);
                    let verdict = sum.note(worker, &interval);
                    timeline.note(worker, &interval, verdict);
                    let mut spare = interval.latency;
                    spare.reset();
                    // A worker that is done takes no more.
                    let _ = self.spares[usize::from(worker)].send(spare);
                }
                Ok((worker, Word::Done(outcome))) => {
                    timeline.note_end(worker);
                    sum.add(*outcome);
                    working -= 1;
                }
                Ok((_, Word::Ready | Word::Failed(_))) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    sum.tally.fault("worker_lost");
                    sum.complaints.push("a worker ended without its results; see above".into());
                    break;
                }
            }
            while let Some(second) = timeline.take() {
                see(&second);
                if let Some(warm_up) = warm_up.as_mut().filter(|_| second.phase == Phase::WarmUp) {
                    warm_up.note(sample(&second));
                }
            }
            // Decided ahead, so that every worker knows in time.
            let from_ns = self.clock.now_ns() + DECIDED_AHEAD_NS;
            if let Some(by) = warm_up.as_ref().and_then(|warm_up| warm_up.ended(from_ns.saturating_sub(self.start_ns)))
            {
                self.measured_ns.store(from_ns, Ordering::Relaxed);
                (sum.warm_up_ns, sum.ended_by) = (from_ns - self.start_ns, Some(by));
                warm_up = None;
            }
        }
        while let Some(second) = timeline.take_rest() {
            see(&second);
        }
        (sum, signal)
    }
}

/// A second of a warm-up, as far as it matters.
fn sample(second: &Second) -> Sample {
    let Second { tally, latency, .. } = second;
    Sample {
        offered_per_s: second.per_s(tally.offered),
        answered_per_s: second.per_s(tally.finished()),
        response_p50_ns: latency.response.at(0.5) as f64,
    }
}

/// What a worker does from its first line's turn on.
type Run<'a> = dyn FnOnce(u64, Timetable) -> Outcome + 'a;

/// What a worker's thread begins with.
struct Job {
    task: Task,
    corpus: Corpus,
    clock: Clock,
    config: Config,
}

impl Job {
    fn work(self, go: &Receiver<u64>, orders: &Orders, outlet: &Sender<(u16, Word)>) {
        let number = self.task.worker;
        // Whoever listens may have given the run up; then there is nobody to tell.
        let say = |word| drop(outlet.send((number, word)));
        if let Some(list) = &self.config.cpus
            && let Err(error) = cpu::pin_current(list.as_slice()[usize::from(number)])
        {
            return say(Word::Failed(error.to_string()));
        }
        let Job { task, corpus, clock, config } = self;
        let worker: Result<Box<Run<'_>>, String> = match config.datagram_len_max {
            None => Worker::connect(task, corpus, clock).map(|worker| {
                Box::new(|start_ns, timetable| worker.run(start_ns, timetable, orders, outlet)) as Box<Run<'_>>
            }),
            Some(len_max) => datagrams::Worker::open(task, corpus, clock, len_max).map(|worker| {
                Box::new(|start_ns, timetable| worker.run(start_ns, timetable, orders, outlet)) as Box<Run<'_>>
            }),
        };
        let run = match worker {
            Ok(run) => run,
            Err(why) => return say(Word::Failed(why)),
        };
        let timetable = timetable(&config, u64::from(number));
        say(Word::Ready);
        let Ok(start_ns) = go.recv() else { return };
        let outcome = run(start_ns, timetable);
        say(Word::Done(Box::new(outcome)));
    }
}

/// The lines of one worker. What warms up goes at the rate that is measured first.
fn timetable(config: &Config, worker: u64) -> Timetable {
    let Some(pace) = config.pace else { return Timetable::default() };
    let course = |law, seed| Course::new(law, pace.arrival, seed, (worker, config.workers), 0);
    let law = pace.law(config.duration.map(|duration| duration.as_nanos() as u64));
    let warm_up = config.warm_up.map(|_| course(Law::fixed(law.first_rate()), !config.shape.seed));
    let mut measured = course(law, config.shape.seed);
    if let Some(duration) = config.duration {
        // Chance is drawn here, for the whole run, and not when the first line is due: a million lines take some 10 ms.
        measured.due_before(duration.as_nanos() as u64);
    }
    Timetable { measured: Some(measured), warm_up }
}

/// A connection takes a descriptor. That there are too few is better known before the first is made than after the last
/// that could be.
fn check_descriptors(config: &Config) -> Result<(), String> {
    let most = limit::raise_open_files().map_err(|error| format!("cannot raise the limit of open files: {error}"))?;
    let (connections, idle) = (config.connections, config.habits.idle);
    let needed = connections + idle + config.workers * DESCRIPTORS_PER_WORKER + DESCRIPTORS_BESIDE;
    if needed <= most {
        return Ok(());
    }
    let those = if idle == 0 { format!("{connections}") } else { format!("{connections} and {idle} idle") };
    Err(format!(
        "{those} connections need {needed} open files, and this process may have {most}; use fewer, or raise the hard limit \
         (ulimit -H -n {needed})"
    ))
}

/// The first address of the server that takes a connection.
fn find(config: &Config) -> Result<SocketAddr, String> {
    let (host, port) = (config.host.as_str(), config.port);
    let addresses = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("cannot find the address of \"{host}\": {error}; check --host (SERVER_HOST)"))?;
    let mut refusal = format!("\"{host}\" has no address; check --host (SERVER_HOST)");
    for address in addresses {
        if config.datagram_len_max.is_some() {
            return Ok(address); // Nobody would answer.
        }
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(_) => return Ok(address),
            Err(error) => refusal = explain(address, &error),
        }
    }
    Err(refusal)
}

fn task(config: &Config, engine: Engine, worker: u64, peer: SocketAddr) -> Task {
    let ns = |duration: Duration| duration.as_nanos() as u64;
    Task {
        worker: worker as u16,
        run: config.run,
        peer,
        engine,
        tls: config.tls.clone(),
        modes: config.modes(worker),
        habits: config.habits(worker),
        terms: config.terms.clone(),
        compression: config.compression,
        depth: config.depth,
        in_flight_max: config.in_flight_max.map(|max| share(max, worker, config.workers)),
        warms_up: config.warm_up.is_some(),
        batch: config.batch,
        lines: config.lines.map(|lines| share(lines, worker, config.workers)),
        duration_ns: config.duration.map(ns),
        drain_ns: ns(config.drain),
        reconnect_for_ns: ns(config.reconnect_for),
    }
}

fn test(config: &Config, engine: Engine, sum: &Sum, signal: Option<Signal>, corpus: &Corpus) -> Test {
    let tally = &sum.tally;
    let measured = Measured {
        tally: tally.clone(),
        latency: sum.latency.clone(),
        span_ns: sum.span_ns,
        cpu_ns: sum.cpu_ns,
        workers: config.workers,
        target_per_s: config.target_per_s(),
    };
    let mut gates: Vec<Gate> = config.error_rate_max.iter().map(|limit| error_gate(tally, *limit)).collect();
    gates.extend(given_up_gate(tally));
    gates.extend(config.slo_p99.map(|slo| latency_gate(&sum.latency, slo)));
    let validity = sum.judge.judge(sum.latency.response.at(0.99), config.late_share_max);
    let is_breached = |of_latency| gates.iter().any(|gate| !gate.pass && gate.is_of_latency() == of_latency);
    let verdict = match signal {
        Some(_) => "interrupted",
        // Counts are true whatever the latencies are worth.
        None if is_breached(false) => "fail",
        None if !validity.holds() => "invalid",
        None if is_breached(true) => "fail",
        None => "pass",
    };
    let plain = (0..config.workers).flat_map(|worker| config.modes(worker)).filter(|mode| *mode == Mode::Plain).count();
    let mode = match plain as u64 {
        _ if config.datagram_len_max.is_some() => "datagram",
        0 => "session",
        plain if plain == config.connections => "plain",
        _ => "mixed",
    };
    let model = if config.pace.is_some() { "open" } else { "closed" };
    Test {
        name: format!("{model} loop, {mode} mode"),
        config: TestConfig {
            target: format!("{}:{}", config.host, config.port),
            model: model.into(),
            mode: mode.into(),
            plain_connections: plain as u64,
            connections: config.connections,
            workers: config.workers,
            cpu_list: config.cpus.as_ref().map(ToString::to_string),
            pipeline: Some(config.depth).filter(|depth| *depth < u64::MAX),
            max_in_flight: config.in_flight_max,
            warmup_s: config.warm_up.map(|least| least.as_secs_f64()),
            compress: config.compression.map_or("none", Compression::as_str).into(),
            batch: config.batch,
            rate: config.pace.map(|pace| pace.from),
            rate_to: config.pace.filter(|pace| pace.to != pace.from).map(|pace| pace.to),
            step_s: config.pace.and_then(|pace| pace.step_ns).map(|ns| ns as f64 / 1e9),
            arrival: config.pace.map(|pace| pace.arrival.as_str().into()),
            total_logs: config.lines,
            duration_s: config.duration.map(|duration| duration.as_secs_f64()),
            corpus: config.source.name(),
            record_size: corpus.mean_len(),
            rich_share: config.shape.rich_share,
            bad_share: config.shape.bad_share,
            stamped: config.stamped,
            max_late_share: config.late_share_max,
            encrypted: config.tls.is_some(),
            io: engine.as_str().into(),
            done: sum.level.clone().unwrap_or_else(|| "reply".into()),
        },
        window: window(sum),
        results: measured.results(),
        resources: Resources { client: measured.client() },
        headroom: None,
        validity,
        gates,
        verdict: verdict.into(),
    }
}

fn window(sum: &Sum) -> Window {
    let s = |ns: u64| ns as f64 / 1e9;
    let Tally { offered, acked, .. } = sum.warm_up;
    Window {
        warmup_s: s(sum.warm_up_ns),
        warmup_ended_by: sum.ended_by.map(|by| by.as_str().into()),
        warmup_offered: offered,
        warmup_acked: acked,
        warmup_failed: sum.warm_up.failed(),
        measured_s: s(sum.sent_ns),
        drain_s: s(sum.span_ns.saturating_sub(sum.sent_ns)),
        steady: sum.ended_by == Some(EndedBy::Flat),
    }
}

fn throughput_per_s(sum: &Sum) -> f64 {
    if sum.span_ns > 0 { (sum.tally.acked + sum.tally.sent) as f64 / (sum.span_ns as f64 / 1e9) } else { 0.0 }
}

fn error_gate(tally: &Tally, limit: f64) -> Gate {
    let actual = tally.error_rate();
    // Nothing offered is nothing proved.
    let pass = actual <= limit && tally.offered > 0;
    Gate { expr: "error_rate".into(), actual, limit, pass }
}

fn latency_gate(latency: &Latency, slo: Duration) -> Gate {
    let (actual, limit) = (latency.response.at(0.99) as f64 / 1e6, slo.as_secs_f64() * 1e3);
    // Nothing answered is nothing proved.
    Gate { expr: Gate::P99_MS.into(), actual, limit, pass: actual <= limit && !latency.response.is_empty() }
}

/// A run that lost connections for good measured something else than what was asked for, however few lines it cost.
fn given_up_gate(tally: &Tally) -> Option<Gate> {
    let actual = tally.given_up as f64;
    (tally.given_up > 0).then(|| Gate { expr: "connections_given_up".into(), actual, limit: 0.0, pass: false })
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A ring or a poller, and what it waits on.
const DESCRIPTORS_PER_WORKER: u64 = 2;
/// Standard streams, signals, and every file that a run may write.
const DESCRIPTORS_BESIDE: u64 = 24;
/// Longer than workers take to look, and than most of them are kept from looking.
const DECIDED_AHEAD_NS: u64 = 100_000_000;
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Long enough for every worker to wake up and be there when the first line is due.
const HEAD_START_NS: u64 = 2_000_000;
