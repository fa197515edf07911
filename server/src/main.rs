//! `ringest-server`: the life of a server, from its arguments to its exit code.

use ringest_ingest::{Door, ShardConfig, ShardId};
use ringest_server::admin::{About, Admin};
use ringest_server::books::Books;
use ringest_server::cli::{Command, Typed};
use ringest_server::config::{Config, Machine, Udp};
use ringest_server::control::{self, Control, ReadyFile, Starting};
use ringest_server::reload::Standing;
use ringest_server::storage::{self, DirLock, Keeper, Recovery, Store};
use ringest_server::supervisor::Supervisor;
#[cfg(feature = "otlp")]
use ringest_server::trace::Tracer;
use ringest_server::worker::{self, DatagramSocket, Worker, WorkerPlan};
use ringest_server::{inspect, notice, token, top};
use ringest_sys::inherited::Inherited;
use ringest_sys::{datagram, limit, net};
use ringest_wire::AckLevel;
use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{self, ExitCode};
use std::sync::Arc;

/// One that can say who has what of it.
#[cfg(feature = "heap-profile")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Before anything else opens a descriptor.
    let inherited = match Inherited::take() {
        Ok(inherited) => inherited,
        Err(err) => return refuse(&err.to_string()),
    };
    let words: Vec<OsString> = env::args_os().collect();
    let typed = match Typed::read(&words) {
        Ok(typed) => typed,
        Err(reason) => return refuse(&reason),
    };
    let done = match &typed.cli.command {
        Some(Command::Inspect(stored)) => inspect::inspect(&stored.path),
        Some(Command::Verify(stored)) => inspect::verify(&stored.path),
        Some(Command::Cat(stored)) => inspect::cat(&stored.path),
        Some(Command::Top(asked)) => top::top(asked),
        None => match Machine::here().and_then(|machine| Config::resolve(&typed.cli.serve, &machine)) {
            Ok(config) if typed.cli.serve.print_config => print(&config),
            Ok(config) => serve(words, typed, config, inherited),
            Err(refusal) => return refuse(&typed.locate(refusal.to_string())),
        },
    };
    done.unwrap_or_else(|err| {
        notice!("{err}");
        ExitCode::FAILURE
    })
}

fn refuse(reason: &str) -> ExitCode {
    notice!("{reason}");
    ExitCode::from(USAGE)
}

fn print(config: &Config) -> io::Result<ExitCode> {
    writeln!(io::stdout(), "{:#}", config.to_json())?;
    Ok(ExitCode::SUCCESS)
}

fn serve(words: Vec<OsString>, typed: Typed, config: Config, inherited: Inherited) -> io::Result<ExitCode> {
    let starting = Starting::begin()?;
    let supervisor = Supervisor::from_env();
    let mut standing = Standing::new(words, typed, config);
    let config = standing.config();
    config.notices.iter().for_each(|sentence| notice!("{sentence}"));
    if let Some((_, identity)) = &config.tls {
        notice!("{identity}");
    }
    let shards = u16::try_from(config.cpus.len()).expect("the number of shards is bounded");
    let _lock = config.log_dir.as_deref().map(|dir| DirLock::take(dir, config.lock_wait)).transpose()?;
    // Before anything that takes its time, so that whoever looks finds a server that is starting; and behind the lock,
    // because the server that had it answers on this port until it ends.
    let admin = config.admin.map(|addr| Admin::start(addr, about(config))).transpose()?;
    let recovery = match &config.log_dir {
        Some(dir) => storage::recover(dir, shards)?,
        None => Recovery::empty(shards),
    };
    recovery.oddities.iter().for_each(|sentence| notice!("{sentence}"));
    notice!("recovered {}", recovery.counts);

    let listeners = listeners(config, &inherited.listeners)?;
    let bound = listeners[0].local_addr()?;
    let datagrams = Datagrams::bind(config, inherited.datagrams)?;
    limit::raise_open_files()?;
    let keeper = Keeper::spawn()?;
    if let Some(dir) = &config.log_dir {
        keeper.handle().retain(dir.clone(), config.retention);
    }
    let control = Control::new(starting)?;
    #[cfg(feature = "otlp")]
    let _tracer = config.trace.as_ref().map(Tracer::start).transpose()?;
    let door = Door::new(&config.limits, config.token_file.as_deref().map(token::read).transpose()?);
    let workers =
        worker::spawn_all(plans(config, recovery, listeners, datagrams.sockets, &keeper, &door)?, control.ended())?;
    let looked_at = admin.as_ref().map(Admin::bound);
    let probes = || workers.iter().map(Worker::probe).collect();
    if let Some(admin) = &admin {
        admin.serving(probes());
    }
    let write = |path| ReadyFile::write(path, bound, looked_at, datagrams.bound);
    let ready = config.ready_file.clone().map(write).transpose()?;
    let looked_at = looked_at.map_or(String::new(), |addr| format!(", admin on http://{addr}"));
    let said = format!("{}{}{looked_at}", ready_line(config, bound), datagrams.said);
    notice!("{said}");
    let watchdog = supervisor.watch(probes())?;
    supervisor.ready(&said);

    let cause = control.wait(|| {
        supervisor.reloading();
        standing.reload(&workers, &door, &keeper.handle());
        supervisor.ready(&said);
    });
    drop((ready, watchdog)); // From here on no connection is taken.
    supervisor.stopping(&cause.to_string());
    admin.iter().for_each(Admin::draining);
    notice!("draining, {}", cause);
    let outcome = control.drain(workers, cause, standing.config().drain_deadline);
    if let Some(signal) = outcome.impatience {
        notice!("a signal while draining: ending at once");
        process::exit(control::exit_code(signal).into());
    }
    outcome.failures.iter().for_each(|sentence| notice!("{sentence}"));
    let books = Books::new(&outcome.summaries, shards);
    books.to_string().lines().for_each(|line| notice!("{line}"));
    let is_clean = outcome.is_clean() && books.close() && !keeper.has_lost();
    if is_clean {
        drop(keeper);
        return Ok(ExitCode::SUCCESS);
    }
    // Not by returning: the keeper may be waiting for the same disk as a worker that does not end.
    process::exit(1)
}

/// One per shard: those that were passed on, or new ones.
fn listeners(config: &Config, inherited: &[TcpListener]) -> io::Result<Vec<TcpListener>> {
    let shards = config.cpus.len();
    if inherited.is_empty() {
        return net::listen_sharded(config.listen, BACKLOG, shards);
    }
    let addresses: Result<Vec<String>, io::Error> =
        inherited.iter().map(|listener| Ok(listener.local_addr()?.to_string())).collect();
    notice!("connections come from what was passed on, {}, and not from {}", addresses?.join(" and "), config.listen);
    net::share(inherited, shards)
}

/// What takes datagrams, where that is asked for.
#[derive(Default)]
struct Datagrams {
    /// One per shard; fewer where fewer were inherited, or none.
    sockets: Vec<DatagramSocket>,
    bound: Option<SocketAddr>,
    /// For the line that says what runs.
    said: String,
}

impl Datagrams {
    fn bind(config: &Config, inherited: Vec<UdpSocket>) -> io::Result<Datagrams> {
        let Some(Udp { listen, buffer_len }) = config.udp else {
            if !inherited.is_empty() {
                notice!("a socket for datagrams was passed on, and nobody takes any: ENABLE_UDP=true would");
            }
            return Ok(Datagrams::default());
        };
        let is_shared = !inherited.is_empty();
        let sockets = if is_shared { inherited } else { net::bind_udp_sharded(listen, config.cpus.len())? };
        if sockets.len() > config.cpus.len() {
            let (sockets, shards) = (sockets.len(), config.cpus.len());
            return Err(io::Error::other(format!(
                "{sockets} sockets for datagrams were passed on, and {shards} shards take from one each; pass on fewer"
            )));
        }
        let bound = sockets[0].local_addr()?;
        let mut granted = buffer_len;
        for socket in &sockets {
            granted = datagram::prepare(socket, buffer_len)?;
        }
        let capped = if granted < buffer_len {
            format!(" of {buffer_len} asked for, by net.core.rmem_max")
        } else {
            String::new()
        };
        let said = format!(", datagrams on {bound} with a receive buffer of {granted} bytes{capped}");
        let sockets = sockets.into_iter().map(|socket| DatagramSocket { socket, is_shared }).collect();
        Ok(Datagrams { sockets, bound: Some(bound), said })
    }
}

fn plans(
    config: &Config,
    recovery: Recovery,
    listeners: Vec<TcpListener>,
    datagrams: Vec<DatagramSocket>,
    keeper: &Keeper,
    door: &Door,
) -> io::Result<Vec<WorkerPlan>> {
    let shards = u16::try_from(config.cpus.len()).expect("the number of shards is bounded");
    let mut plans = Vec::new();
    let mut datagrams = datagrams.into_iter();
    for (((number, recovered), listener), &cpu) in (0..).zip(recovery.shards).zip(listeners).zip(&config.cpus) {
        let shard = ShardId(number);
        let store = match &config.log_dir {
            Some(dir) => Store::open(dir, shard, config.segment_format)?,
            None => Store::nowhere(),
        };
        plans.push(WorkerPlan {
            shard: ShardConfig {
                shard,
                shards,
                ack: config.ack,
                ack_max: if config.log_dir.is_some() { AckLevel::Durable } else { AckLevel::Accepted },
                min_level: config.min_level,
                first_segment: recovered.next_segment,
                producers: recovered.producers,
                away: recovered.away,
                format: config.segment_format,
                copies_pages: config.backend.copies_pages(),
                tls: config.tls.as_ref().map(|(_, identity)| identity.config.clone()),
                door: door.clone(),
                limits: config.limits.clone(),
            },
            cpu,
            listener,
            datagrams: datagrams.next(),
            backend: config.backend,
            store: Arc::new(store),
            keeper: keeper.handle(),
            buffer_len: config.buffer_len,
        });
    }
    Ok(plans)
}

fn about(config: &Config) -> About {
    About { backend: config.backend.as_str(), is_stored: config.log_dir.is_some(), linger: config.limits.linger }
}

fn ready_line(config: &Config, bound: SocketAddr) -> String {
    let shards = config.cpus.len();
    let cpus: Vec<String> = config.cpus.iter().flatten().map(usize::to_string).collect();
    let place = if cpus.is_empty() { "not pinned".into() } else { format!("on cpus {}", cpus.join(",")) };
    let logs = match &config.log_dir {
        Some(dir) => format!("logs in {}", dir.display()),
        None => "nothing is stored".into(),
    };
    format!(
        "listening on {bound}, backend {}, {shards} shard{} {place}, ack {}, {logs}",
        config.backend.as_str(),
        if shards == 1 { "" } else { "s" },
        config.ack
    )
}

/// Exit code of a command line that makes no sense.
const USAGE: u8 = 2;
/// Connections that may wait to be accepted, per shard; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
