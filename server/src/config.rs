//! What was typed, and what it means here: every refusal is explained in this file, once. Nothing behind it sees a flag.
//!
//! It asks the machine which cores there are and whether io_uring works, and changes nothing.

use crate::cli::Args;
use crate::driver::Backend;
use ringest_ingest::Limits;
use ringest_sys::cpu::{self, CpuList};
use ringest_sys::ring;
use ringest_wire::{AckLevel, Severity};
use serde_json::{Value, json};
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// What a server is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The kernel interface of its shards.
    pub backend: Backend,
    /// One entry per shard: the core that it is pinned to, or none.
    pub cpus: Vec<Option<usize>>,
    /// Bytes of a receive buffer.
    pub buffer_len: usize,
    /// Where segments are kept; none keeps nothing.
    pub log_dir: Option<PathBuf>,
    /// What an acknowledgement promises where a session does not ask for anything else.
    pub ack: AckLevel,
    /// Records below it are not stored.
    pub min_level: Severity,
    /// Bounds of each shard.
    pub limits: Limits,
    /// How long a drain may take.
    pub drain_deadline: Duration,
    /// Written when connections are taken.
    pub ready_file: Option<PathBuf>,
    /// What was decided without being asked for, a sentence each.
    pub notices: Vec<String>,
}

/// Why there is no such server: one sentence that names what was asked for and says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(String);

/// What is asked of the machine.
pub struct Machine<'a> {
    /// An environment variable.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// The cores that this process may use.
    pub allowed: CpuList,
    /// How many of them its time is worth: a container's quota is in it.
    pub parallelism: usize,
    /// Whether io_uring works, or why not. Asked at most once.
    pub probe: &'a dyn Fn() -> Result<(), String>,
}

impl Machine<'static> {
    /// This one.
    ///
    /// # Errors
    /// The kernel does not say which cores may be used.
    pub fn here() -> Result<Machine<'static>, Refusal> {
        let allowed = cpu::allowed().map_err(refuse)?;
        Ok(Machine {
            env: &|name| std::env::var(name).ok(),
            parallelism: thread::available_parallelism().map_or(allowed.len(), usize::from),
            allowed,
            probe: &|| ring::probe().map_err(|reason| reason.to_string()),
        })
    }
}

impl Config {
    /// What these arguments come to on that machine.
    ///
    /// # Errors
    /// The first thing that cannot be had.
    pub fn resolve(args: &Args, machine: &Machine<'_>) -> Result<Config, Refusal> {
        refuse_what_is_not_offered(machine)?;
        let mut notices = Vec::new();
        let listen = listen(args, &mut notices)?;
        let ack = ack(args, &mut notices)?;
        let buffer_len = buffer_len(args)?;
        Ok(Config {
            listen,
            cpus: cpus(args, machine)?,
            buffer_len,
            log_dir: args.persistence.then(|| args.log_dir.clone()),
            ack,
            min_level: args.min_level.parse().map_err(|err| refuse(format!("MIN_LOG_LEVEL: {err}")))?,
            limits: limits(args, buffer_len)?,
            drain_deadline: duration(&args.drain_deadline)?,
            ready_file: args.ready_file.clone(),
            backend: backend(args, machine, &mut notices)?,
            notices,
        })
    }

    /// All of it, for people and scripts.
    pub fn to_json(&self) -> Value {
        let Limits { segment_len, line_len_max, batch_rows, linger, sessions_max, producers_max, .. } = self.limits;
        json!({
            "listen": self.listen.to_string(),
            "backend": self.backend.as_str(),
            "shards": self.cpus.len(),
            "cpus": self.cpus,
            "buffer_bytes": self.buffer_len,
            "log_dir": self.log_dir,
            "ack": self.ack,
            "min_level": format!("{:?}", self.min_level).to_uppercase(),
            "batch_rows": batch_rows,
            "batch_flush_ms": linger.as_millis() as u64,
            "max_line_bytes": line_len_max,
            "segment_bytes": segment_len,
            "sessions_per_shard": sessions_max,
            "producers_per_shard": producers_max,
            "batch_memory_per_shard_bytes": self.limits.batch_memory(),
            "drain_deadline_ms": self.drain_deadline.as_millis() as u64,
            "ready_file": self.ready_file,
            "notices": self.notices,
        })
    }
}

/// Said before anything else, because a server that ignored one of these would be another one than was asked for.
fn refuse_what_is_not_offered(machine: &Machine<'_>) -> Result<(), Refusal> {
    for (name, feature) in NOT_OFFERED {
        let asked = (machine.env)(name).unwrap_or_default();
        if ["true", "1", "yes", "on", "y", "t"].contains(&asked.to_ascii_lowercase().as_str()) {
            return Err(refuse(format!("{name}={asked}: this build does not offer {feature} yet; unset {name}")));
        }
    }
    Ok(())
}

fn listen(args: &Args, notices: &mut Vec<String>) -> Result<SocketAddr, Refusal> {
    let Args { host, port, .. } = args;
    let bare = host.trim_start_matches('[').trim_end_matches(']'); // [::1] as people write it before a port.
    let mut found = (bare, *port)
        .to_socket_addrs()
        .map_err(|err| refuse(format!("SERVER_HOST: \"{host}\" is not an address of this machine: {err}")))?;
    let listen = found.next().ok_or_else(|| refuse(format!("SERVER_HOST: \"{host}\" has no address")))?;
    if !listen.ip().is_loopback() {
        notices.push(format!(
            "{} can be reached from other machines; this build has neither TLS nor authentication",
            listen.ip()
        ));
    }
    Ok(listen)
}

fn ack(args: &Args, notices: &mut Vec<String>) -> Result<AckLevel, Refusal> {
    let asked = match args.ack.as_deref() {
        Some("forwarded") => return Err(refuse("ACK=forwarded: this build does not forward yet")),
        Some(name) => Some(name.parse().map_err(|err| refuse(format!("ACK: {err}")))?),
        None => None,
    };
    match asked {
        Some(level) if args.persistence || level <= AckLevel::Accepted => Ok(level),
        Some(level) => Err(refuse(format!(
            "ACK={level}: nothing is {level} with ENABLE_PERSISTENCE=false; ask for accepted or none"
        ))),
        None if args.persistence => Ok(AckLevel::Durable),
        None => {
            notices.push("nothing is stored (ENABLE_PERSISTENCE=false), so an ack means accepted and no more".into());
            Ok(AckLevel::Accepted)
        }
    }
}

fn buffer_len(args: &Args) -> Result<usize, Refusal> {
    let len = args.buffer_size;
    if (BUFFER_LEN_MIN..=BUFFER_LEN_MAX).contains(&len) {
        return Ok(len);
    }
    Err(refuse(format!("BUFFER_SIZE={len}: a receive buffer has {BUFFER_LEN_MIN} to {BUFFER_LEN_MAX} bytes")))
}

fn limits(args: &Args, buffer_len: usize) -> Result<Limits, Refusal> {
    let usual = Limits::default();
    if !(LINE_LEN_MIN..=LINE_LEN_MAX).contains(&args.max_line) {
        let asked = args.max_line;
        return Err(refuse(format!(
            "MAX_LINE={asked}: a line limit is within {LINE_LEN_MIN} and {LINE_LEN_MAX} bytes"
        )));
    }
    if args.batch_size == 0 {
        return Err(refuse("BATCH_SIZE=0: a batch has at least one record"));
    }
    if args.batch_flush_ms > FLUSH_MS_MAX {
        let asked = args.batch_flush_ms;
        return Err(refuse(format!("BATCH_FLUSH_MS={asked}: at most {FLUSH_MS_MAX}, because somebody waits for it")));
    }
    if args.segment_mib > SEGMENT_MIB_MAX {
        let asked = args.segment_mib;
        return Err(refuse(format!(
            "SEGMENT_MIB={asked}: at most {SEGMENT_MIB_MAX}, because recovery reads a segment at once"
        )));
    }
    let mut limits = Limits {
        line_len_max: args.max_line,
        chunk_len_max: usual.chunk_len_max.max(buffer_len),
        batch_rows: args.batch_size,
        linger: Duration::from_millis(args.batch_flush_ms),
        segment_len: args.segment_mib << 20,
        ..usual
    };
    // Long lines need batches that can take one beside a chunk.
    limits.batch_len_max = limits.batch_len_max.max(limits.intake_len_max().next_multiple_of(1 << 20));
    if limits.segment_len < limits.segment_len_min() {
        return Err(refuse(format!(
            "SEGMENT_MIB={}: at least {} with MAX_LINE={}, so that all batches of a shard fit into a new segment",
            args.segment_mib,
            limits.segment_len_min().div_ceil(1 << 20),
            args.max_line
        )));
    }
    limits.check().map_err(refuse)?;
    Ok(limits)
}

/// One core per shard, or none to be pinned to.
fn cpus(args: &Args, machine: &Machine<'_>) -> Result<Vec<Option<usize>>, Refusal> {
    let listed: Option<CpuList> = match &args.cpu_list {
        Some(list) => Some(list.parse().map_err(|err| refuse(format!("CPU_LIST: {err}")))?),
        None => None,
    };
    if let Some(listed) = &listed {
        listed.check_within(&machine.allowed).map_err(|err| refuse(format!("CPU_LIST: {err}")))?;
        if args.no_pin {
            return Err(refuse(format!("CPU_LIST={listed} pins and --no-pin does not; give one of them")));
        }
    }
    let cores = listed.as_ref().unwrap_or(&machine.allowed);
    let usual = if listed.is_some() { cores.len() } else { cores.len().min(machine.parallelism) };
    let shards = args.shards.map_or(usual, usize::from);
    match shards {
        0 => Err(refuse("SHARDS=0: somebody has to do the work; at least 1")),
        _ if shards > SHARDS_MAX => Err(refuse(format!("SHARDS={shards}: at most {SHARDS_MAX}"))),
        _ if args.no_pin => Ok(vec![None; shards]),
        _ if shards > cores.len() => Err(refuse(format!(
            "SHARDS={shards}: each shard has a core of its own, and there are {} ({cores}); ask for fewer, or --no-pin",
            cores.len()
        ))),
        _ => Ok(cores.as_slice()[..shards].iter().copied().map(Some).collect()),
    }
}

fn backend(args: &Args, machine: &Machine<'_>, notices: &mut Vec<String>) -> Result<Backend, Refusal> {
    let uring = || (machine.probe)().map_err(|reason| format!("io_uring is not to be had here: {reason}"));
    match args.backend.as_str() {
        "epoll" => Ok(Backend::Epoll),
        "uring" => uring().map(|()| Backend::Uring).map_err(refuse),
        "auto" => Ok(match uring() {
            Ok(()) => Backend::Uring,
            Err(reason) => {
                notices.push(format!("{reason}; running on epoll"));
                Backend::Epoll
            }
        }),
        other => Err(refuse(format!("BACKEND: unknown backend \"{other}\"; one of auto, uring, epoll"))),
    }
}

fn duration(typed: &str) -> Result<Duration, Refusal> {
    let digits = typed.trim_end_matches(|byte: char| byte.is_ascii_alphabetic());
    let unit_ms = match &typed[digits.len()..] {
        "ms" => Some(1),
        "" | "s" => Some(1000),
        "m" => Some(60_000),
        _ => None,
    };
    let number = digits.parse::<u64>().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let ms = number.zip(unit_ms).and_then(|(number, unit)| number.checked_mul(unit));
    ms.map(Duration::from_millis).filter(|time| *time <= DRAIN_MAX).ok_or_else(|| {
        refuse(format!("DRAIN_DEADLINE: \"{typed}\" is not a time up to an hour; write it like 10s, 500ms or 2m"))
    })
}

fn refuse(sentence: impl fmt::Display) -> Refusal {
    Refusal(sentence.to_string())
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// Names of the first design that mean nothing here yet.
const NOT_OFFERED: [(&str, &str); 3] =
    [("ENABLE_TLS", "TLS"), ("ENABLE_UDP", "UDP"), ("CIRCUIT_BREAKER_ENABLED", "the circuit breaker")];
/// Smaller receive buffers cost more than 2.5 times the CPU.
const BUFFER_LEN_MIN: usize = 4 << 10;
/// 64 of these are what one shard is given.
const BUFFER_LEN_MAX: usize = 1 << 20;
/// A `$hello` has to fit.
const LINE_LEN_MIN: usize = 4 << 10;
/// Each of a shard's batches can take a line of this length.
const LINE_LEN_MAX: usize = 16 << 20;
/// An hour of waiting for more is no batching.
const FLUSH_MS_MAX: u64 = 60_000;
const SEGMENT_MIB_MAX: u64 = 2048;
const SHARDS_MAX: usize = 1024;
const DRAIN_MAX: Duration = Duration::from_secs(3600);
