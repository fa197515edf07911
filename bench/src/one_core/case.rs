//! One case: which process is loaded how, and what is read off it.

use super::process::{answering_floor, floor, server, server_with};
use crate::bill::{Bill, Reading};
use crate::cli::OneCore;
use crate::flood::{Flood, Plan};
use crate::floor::{self, Answer, Backend, Writing};
use crate::process::{Process, Server};
use ringest_loadgen::report::Report as LoadReport;
use ringest_wire::AckLevel;
use serde::Serialize;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// What runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    /// The floor under a flood.
    Floor(Backend, Writing),
    /// The floor that answers and the real generator, one line at a time on each connection.
    FloorDepth1(Backend, Answer),
    /// The server under a flood, one reply per line.
    Flood(Served, AckLevel),
    /// The server and the real generator, one line at a time on each connection.
    Depth1(Served, AckLevel),
    /// The server and the real generator, streaming through an encoding, or through none.
    Encoded(Served, AckLevel, Encoding),
    /// The server's memory with and without idle connections.
    Idle(Served),
}

/// What the server runs on. The floor has no runtime to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Served {
    Uring,
    Epoll,
    Glommio,
}

/// What lies between the lines and the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Nothing: what the others are compared with.
    Text,
    /// TLS 1.3.
    Tls,
}

/// What is read off a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Records per second.
    RecordsPerS,
    /// The server's processor time per record, in nanoseconds.
    CpuNs,
    /// Of that, in user mode.
    UserNs,
    /// Of that, in the kernel.
    SystemNs,
    /// Share of the window in which the server was on a processor.
    ServerBusy,
    /// Share of the window in which the generator was.
    GeneratorBusy,
    /// Share of the window in which the generator had to wait for its processor, because somebody else had it.
    GeneratorWaited,
    /// Half of the lines were answered within so many microseconds.
    P50Us,
    /// 99 of 100 were.
    P99Us,
    /// Resident bytes per idle connection.
    RssBytes,
    /// Proportional bytes per idle connection.
    PssBytes,
}

/// The figures of one run.
pub(super) type Sample = Vec<(Figure, f64)>;

impl Case {
    pub(super) fn all() -> Vec<Case> {
        use AckLevel::{Durable, Written};
        use Served::{Epoll, Glommio, Uring};
        let floors = [
            Case::Floor(Backend::Uring, Writing::Buffered),
            Case::Floor(Backend::Uring, Writing::Direct),
            Case::Floor(Backend::Epoll, Writing::Buffered),
        ];
        let answering = [Backend::Uring, Backend::Epoll]
            .into_iter()
            .flat_map(|backend| [Answer::Written, Answer::Durable].map(|answer| Case::FloorDepth1(backend, answer)));
        let servers = [Uring, Epoll, Glommio].into_iter().flat_map(|backend| [(backend, Written), (backend, Durable)]);
        let floods = servers.clone().map(|(backend, ack)| Case::Flood(backend, ack));
        let depth1s = servers.map(|(backend, ack)| Case::Depth1(backend, ack));
        let encoded = [Encoding::Text, Encoding::Tls].map(|encoding| Case::Encoded(Uring, Written, encoding));
        let idles = [Uring, Epoll, Glommio].map(Case::Idle);
        floors.into_iter().chain(floods).chain(answering).chain(depth1s).chain(encoded).chain(idles).collect()
    }

    /// Who sent the lines, and who counted them.
    pub(super) fn driven_by(self) -> &'static str {
        match self {
            Case::Floor(..) => "flood; records counted by the floor from bytes received",
            Case::Flood(..) => "flood; records counted by the flood from replies received",
            Case::FloorDepth1(..) => "ringest-loadgen; records counted by its report, for CPU by the floor from bytes",
            Case::Depth1(..) | Case::Encoded(..) => "ringest-loadgen; records counted by its report",
            Case::Idle(_) => "flood, then one line per connection",
        }
    }

    /// Runs it once.
    pub(super) fn run(self, task: &OneCore, dir: &Path) -> io::Result<Sample> {
        let dir = tempfile::Builder::new().prefix("one-core-").tempdir_in(dir)?;
        match self {
            Case::Floor(backend, writing) => run_floor(task, dir.path(), backend, writing),
            Case::FloorDepth1(backend, answer) => run_floor_depth1(task, dir.path(), backend, answer),
            Case::Flood(backend, ack) => run_flood(task, dir.path(), backend, ack),
            Case::Depth1(backend, ack) => run_depth1(task, dir.path(), backend, ack),
            Case::Encoded(backend, ack, encoding) => run_encoded(task, dir.path(), backend, ack, encoding),
            Case::Idle(backend) => run_idle(task, dir.path(), backend),
        }
    }
}

/// `uring written depth 1`
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lower = |word: &dyn fmt::Debug| format!("{word:?}").to_lowercase();
        match self {
            Case::Floor(backend, writing) => write!(f, "floor {} {}", lower(backend), lower(writing)),
            Case::FloorDepth1(backend, answer) => write!(f, "floor {} {} depth 1", lower(backend), lower(answer)),
            Case::Flood(backend, ack) => write!(f, "{} {ack}", lower(backend)),
            Case::Depth1(backend, ack) => write!(f, "{} {ack} depth 1", lower(backend)),
            Case::Encoded(backend, ack, encoding) => write!(f, "{} {ack} {}", lower(backend), lower(encoding)),
            Case::Idle(backend) => write!(f, "{} idle", lower(backend)),
        }
    }
}

fn run_floor(task: &OneCore, dir: &Path, backend: Backend, writing: Writing) -> io::Result<Sample> {
    let (process, port) = floor(task, dir, backend, writing)?;
    let mut flood = Flood::connect(plan(task, port, None))?;
    flood.drive(task.warm_up())?;
    let start = flood.mark()?;
    flood.drive(task.window())?;
    let generator = flood.mark()?.since(&start);
    // It ends by itself, a little after: its window began later.
    flood.drive(task.warm_up() + task.window())?;
    let report = report_of(process)?;
    let mut sample = own_costs(&report);
    sample.extend([
        (Figure::RecordsPerS, report.records_per_s),
        (Figure::GeneratorBusy, generator.busy),
        (Figure::GeneratorWaited, generator.waited),
    ]);
    Ok(sample)
}

fn run_floor_depth1(task: &OneCore, dir: &Path, backend: Backend, answer: Answer) -> io::Result<Sample> {
    let (process, port) = answering_floor(task, dir, backend, answer)?;
    // Its window begins with the first bytes, which come a little later.
    let duration = task.warm_up() + task.window() + LATE_MAX;
    let mut sample = generate(task, dir, port, duration, &ONE_AT_A_TIME.map(OsStr::new))?.sample;
    sample.extend(own_costs(&report_of(process)?));
    Ok(sample)
}

fn report_of(floor: Process) -> io::Result<floor::Report> {
    serde_json::from_str(&floor.finish()?)
        .map_err(|error| io::Error::other(format!("the floor's report cannot be read: {error}")))
}

/// What the floor has cost, as it says.
fn own_costs(report: &floor::Report) -> Sample {
    vec![
        (Figure::CpuNs, report.cpu_ns_per_record),
        (Figure::UserNs, report.user_ns_per_record),
        (Figure::SystemNs, report.system_ns_per_record),
        (Figure::ServerBusy, report.busy),
    ]
}

fn run_flood(task: &OneCore, dir: &Path, backend: Served, ack: AckLevel) -> io::Result<Sample> {
    let server = server(task, dir, backend, ack)?;
    let mut flood = Flood::connect(plan(task, server.addr.port(), Some(task.pipeline)))?;
    flood.drive(task.warm_up())?;
    let (start, before) = (flood.mark()?, Reading::of(server.pid)?);
    flood.drive(task.window())?;
    let (end, after) = (flood.mark()?, Reading::of(server.pid)?);
    flood.settle()?;
    drop(flood);
    server.process.stop()?;
    let generator = end.since(&start);
    let records = (end.answered - start.answered) as f64;
    let mut sample = costs(&after.since(&before), records, generator.seconds);
    sample.extend([
        (Figure::RecordsPerS, generator.answered_per_s),
        (Figure::GeneratorBusy, generator.busy),
        (Figure::GeneratorWaited, generator.waited),
    ]);
    Ok(sample)
}

fn run_depth1(task: &OneCore, dir: &Path, backend: Served, ack: AckLevel) -> io::Result<Sample> {
    let server = server(task, dir, backend, ack)?;
    run_generator(task, dir, server, &ONE_AT_A_TIME.map(OsStr::new))
}

fn run_encoded(task: &OneCore, dir: &Path, backend: Served, ack: AckLevel, encoding: Encoding) -> io::Result<Sample> {
    let pipeline = task.pipeline.to_string();
    let mut args = ["--pipeline", &pipeline, "--batch", &pipeline, "--stamp", "none"].map(OsStr::new).to_vec();
    let certs = dir.join("certs");
    let ca = certs.join("server.crt");
    let server = match encoding {
        Encoding::Text => server(task, dir, backend, ack)?,
        Encoding::Tls => {
            make_certificate(&certs)?;
            args.extend([OsStr::new("--tls"), OsStr::new("--ca-cert"), ca.as_os_str()]);
            let tls = [OsStr::new("--tls"), OsStr::new("require"), OsStr::new("--cert-dir"), certs.as_os_str()];
            server_with(task, dir, backend, ack, &tls)?
        }
    };
    run_generator(task, dir, server, &args)
}

/// A certificate that is its own CA.
fn make_certificate(dir: &Path) -> io::Result<()> {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).map_err(io::Error::other)?;
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("server.crt"), made.cert.pem())?;
    std::fs::write(dir.join("server.key"), made.signing_key.serialize_pem())
}

fn run_generator(task: &OneCore, dir: &Path, server: Server, args: &[&OsStr]) -> io::Result<Sample> {
    let before = Reading::of(server.pid)?;
    let Generated { mut sample, acked, seconds } =
        generate(task, dir, server.addr.port(), task.warm_up() + task.window(), args)?;
    let after = Reading::of(server.pid)?;
    server.process.stop()?;
    // Over the whole run: connecting fifty times does not show beside what follows.
    sample.extend(costs(&after.since(&before), acked, seconds));
    Ok(sample)
}

/// What a run of the generator came to.
struct Generated {
    /// Its own figures.
    sample: Sample,
    acked: f64,
    seconds: f64,
}

fn generate(task: &OneCore, dir: &Path, port: u16, duration: Duration, args: &[&OsStr]) -> io::Result<Generated> {
    let json = dir.join("loadgen.json");
    let status = Command::new(&task.loadgen)
        .env_clear()
        .args(["--host", "127.0.0.1", "--mode", "plain", "--closed", "--quiet"])
        .args(args)
        .args(["--port", &port.to_string(), "--connections", &task.connections.to_string()])
        .args(["--cpu-list", &task.generator_cpu.to_string(), "--record-size", &task.record_size.to_string()])
        .args(["--duration", &format!("{}ms", duration.as_millis())])
        .arg("--json")
        .arg(&json)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        return Err(io::Error::other(format!("ringest-loadgen ended with {status}")));
    }
    let report: LoadReport = serde_json::from_slice(&std::fs::read(&json)?)
        .map_err(|error| io::Error::other(format!("the generator's report cannot be read: {error}")))?;
    let test = report.tests.first().ok_or_else(|| io::Error::other("the generator reports no test"))?;
    let results = &test.results;
    if results.failed > 0 || results.acked != results.offered {
        let (acked, offered) = (results.acked, results.offered);
        return Err(io::Error::other(format!("of {offered} lines {acked} were acknowledged")));
    }
    let sample = vec![
        (Figure::RecordsPerS, results.throughput_per_s),
        (Figure::GeneratorBusy, test.resources.client.busy),
        (Figure::GeneratorWaited, test.validity.queued),
        (Figure::P50Us, results.response_us.p50),
        (Figure::P99Us, results.response_us.p99),
    ];
    Ok(Generated { sample, acked: results.acked as f64, seconds: results.span_s })
}

/// Memory with many idle connections less memory without. The pools are filled before, by a flood whose connections
/// stay, so that what the connections themselves take is all that is added.
fn run_idle(task: &OneCore, dir: &Path, backend: Served) -> io::Result<Sample> {
    let server = server(task, dir, backend, AckLevel::Written)?;
    let mut flood = Flood::connect(plan(task, server.addr.port(), Some(task.pipeline)))?;
    flood.drive(task.warm_up())?;
    flood.settle()?;
    thread::sleep(REST);
    let before = server.process.memory()?;
    let idle_plan = Plan { connections: task.idle, ..plan(task, server.addr.port(), Some(1)) };
    let mut idle = Flood::connect(idle_plan)?;
    idle.send_one_each()?;
    thread::sleep(REST);
    let after = server.process.memory()?;
    drop((idle, flood));
    server.process.stop()?;
    let each = |before: u64, after: u64| after.saturating_sub(before) as f64 / task.idle as f64;
    Ok(vec![(Figure::RssBytes, each(before.rss, after.rss)), (Figure::PssBytes, each(before.pss, after.pss))])
}

fn costs(bill: &Bill, records: f64, seconds: f64) -> Sample {
    vec![
        (Figure::CpuNs, bill.total_ns() / records),
        (Figure::UserNs, bill.user_ns / records),
        (Figure::SystemNs, bill.system_ns / records),
        (Figure::ServerBusy, bill.total_ns() / seconds / 1e9),
    ]
}

fn plan(task: &OneCore, port: u16, pipeline: Option<u64>) -> Plan {
    Plan { port, connections: task.connections, record_size: task.record_size, pipeline }
}

/// The generator's arguments for one line at a time on each connection.
const ONE_AT_A_TIME: [&str; 4] = ["--pipeline", "1", "--batch", "1"];
/// How much later than the generator's beginning its first line comes, at most; if it does, the floor says so and fails.
const LATE_MAX: Duration = Duration::from_millis(500);
/// How long a server has to come to rest before its memory is read.
const REST: Duration = Duration::from_millis(200);
