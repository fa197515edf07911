//! What was typed, and what it means here: every refusal is explained in this file, once. Nothing behind it sees a flag.
//!
//! It asks the machine which cores there are and whether io_uring works, and changes nothing.

use crate::cli::Args;
use crate::driver::Backend;
use crate::storage::Retention;
use crate::tls::{Identity, TlsPlan, TlsVersion};
use crate::trace::TracePlan;
use ringest_ingest::{BreakerLimits, Limits, Memory, SegmentFormat};
use ringest_sys::cpu::{self, CpuList};
use ringest_sys::{limit, ring};
use ringest_wire::{AckLevel, Severity};
use serde_json::{Value, json};
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// What a server is to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where it takes datagrams, if it does.
    pub udp: Option<Udp>,
    /// The kernel interface of its shards.
    pub backend: Backend,
    /// One entry per shard: the core that it is pinned to, or none.
    pub cpus: Vec<Option<usize>>,
    /// Bytes of a receive buffer.
    pub buffer_len: usize,
    /// Where segments are kept; none keeps nothing.
    pub log_dir: Option<PathBuf>,
    /// How long a server that writes there is waited for.
    pub lock_wait: Duration,
    /// How they are written.
    pub segment_format: SegmentFormat,
    /// How much of what was stored is kept.
    pub retention: Retention,
    /// What an acknowledgement promises where a session does not ask for anything else.
    pub ack: AckLevel,
    /// Records below it are not stored.
    pub min_level: Severity,
    /// Bounds of each shard.
    pub limits: Limits,
    /// How long a drain may take.
    pub drain_deadline: Duration,
    /// How connections are encrypted: what was asked for, and what was found.
    pub tls: Option<(TlsPlan, Identity)>,
    /// Where the tokens are that let a session in; none asks nobody for one.
    pub token_file: Option<PathBuf>,
    /// Where traces of batches go, if they go anywhere.
    pub trace: Option<TracePlan>,
    /// Where it is looked at, if it may be.
    pub admin: Option<SocketAddr>,
    /// Where some of this was written, beside flags and environment variables.
    pub config_file: Option<PathBuf>,
    /// Written when connections are taken.
    pub ready_file: Option<PathBuf>,
    /// What was decided without being asked for, a sentence each.
    pub notices: Vec<String>,
}

/// How datagrams are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Udp {
    /// Where.
    pub listen: SocketAddr,
    /// Bytes of receive buffer to ask the kernel for, per shard.
    pub buffer_len: usize,
}

/// Why there is no such server: one sentence that names what was asked for and says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(String);

/// What is asked of the machine.
pub struct Machine<'a> {
    /// The cores that this process may use.
    pub allowed: CpuList,
    /// How many of them its time is worth: a container's quota is in it.
    pub parallelism: usize,
    /// How many descriptors the process may come to have.
    pub open_files_max: u64,
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
            parallelism: thread::available_parallelism().map_or(allowed.len(), usize::from),
            allowed,
            open_files_max: limit::open_files_max().map_err(refuse)?,
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
        let mut notices = Vec::new();
        let tls = tls(args, &mut notices)?;
        let listen = listen(args, tls.is_some(), &mut notices)?;
        let ack = ack(args, &mut notices)?;
        let buffer_len = buffer_len(args)?;
        let cpus = cpus(args, machine)?;
        let shards = cpus.len();
        let mut limits = limits(args, buffer_len)?;
        limit_connections(args, machine, cpus.len(), &mut limits, &mut notices)?;
        limits.check().map_err(refuse)?;
        Ok(Config {
            listen,
            udp: udp(args, listen, tls.is_some(), &mut notices)?,
            cpus,
            buffer_len,
            log_dir: args.persistence.then(|| args.log_dir.clone()),
            lock_wait: duration("LOCK_WAIT", &args.lock_wait, DRAIN_MAX)?,
            segment_format: segment_format(args)?,
            retention: retention(args, &limits, shards)?,
            ack,
            min_level: args.min_level.parse().map_err(|err| refuse(format!("MIN_LOG_LEVEL: {err}")))?,
            limits,
            drain_deadline: duration("DRAIN_DEADLINE", &args.drain_deadline, DRAIN_MAX)?,
            token_file: args.token_file.clone(),
            tls,
            trace: trace(args)?,
            admin: admin(args, &mut notices)?,
            config_file: args.config.clone(),
            ready_file: args.ready_file.clone(),
            backend: backend(args, machine, &mut notices)?,
            notices,
        })
    }

    /// What it can come to take.
    pub fn memory(&self) -> Memory {
        let driver = self.backend.memory(self.buffer_len, &self.limits, self.udp.is_some());
        Memory::new(&self.limits, self.segment_format, driver, self.cpus.len())
    }

    /// All of it, for people and scripts.
    pub fn to_json(&self) -> Value {
        let Limits { segment_len, line_len_max, batch_rows, linger, producers_max, .. } = self.limits;
        let gzip = &self.limits.gzip;
        let tls = self.tls.as_ref().map(|(plan, _)| {
            json!({
                "required": plan.is_required,
                "cert_dir": plan.cert_dir,
                "oldest": plan.oldest.as_str(),
                "client_ca": plan.client_ca,
            })
        });
        let compression = match self.segment_format {
            SegmentFormat::Plain => "none",
            SegmentFormat::Gzip => "gzip",
        };
        let ms = |time: Option<Duration>| time.map_or(0, |time| time.as_millis() as u64);
        json!({
            "listen": self.listen.to_string(),
            "udp": self.udp.as_ref().map(|Udp { listen, buffer_len }| {
                json!({ "listen": listen.to_string(), "buffer_bytes_asked": buffer_len })
            }),
            "backend": self.backend.as_str(),
            "shards": self.cpus.len(),
            "cpus": self.cpus,
            "buffer_bytes": self.buffer_len,
            "log_dir": self.log_dir,
            "lock_wait_ms": self.lock_wait.as_millis() as u64,
            "ack": self.ack,
            "min_level": format!("{:?}", self.min_level).to_uppercase(),
            "batch_rows": batch_rows,
            "batch_flush_ms": linger.as_millis() as u64,
            "max_line_bytes": line_len_max,
            "segment_bytes": segment_len,
            "segment_age_ms": ms(self.limits.segment_age),
            "retain_bytes": self.retention.bytes.unwrap_or(0),
            "retain_age_ms": ms(self.retention.age),
            "segment_compression": compression,
            "connections": self.limits.connections_max,
            "connections_per_address": self.limits.connections_per_address_max,
            "accept_rate_per_shard": self.limits.accept_rate.unwrap_or(0),
            "greeting_timeout_ms": ms(self.limits.greeting_time),
            "line_timeout_ms": ms(self.limits.line_time),
            "line_rate_min_bytes": self.limits.line_rate_min,
            "idle_timeout_ms": ms(self.limits.idle_time),
            "send_timeout_ms": ms(self.limits.send_time),
            "ack_stall_ms": self.limits.ack_stall.as_millis() as u64,
            "token_file": self.token_file,
            "producers_per_shard": producers_max,
            "gzip_member_bytes_max": gzip.member_len_max,
            "gzip_ratio_max": gzip.ratio_max,
            "gzip_open_members_per_shard": gzip.inflaters_max,
            "memory_bytes": self.memory(),
            "batch_memory_per_shard_bytes": self.limits.batch_memory(self.segment_format),
            "circuit_breaker": self.limits.line_breaker.is_some(),
            "drain_deadline_ms": self.drain_deadline.as_millis() as u64,
            "tls": tls,
            "otlp_endpoint": self.trace.as_ref().map(|plan| &plan.endpoint),
            "otlp_sample": self.trace.as_ref().map(|plan| plan.sample),
            "admin": self.admin.map(|admin| admin.to_string()),
            "config_file": self.config_file,
            "ready_file": self.ready_file,
            "notices": self.notices,
        })
    }
}

fn listen(args: &Args, is_encrypted: bool, notices: &mut Vec<String>) -> Result<SocketAddr, Refusal> {
    let Args { host, port, .. } = args;
    let bare = host.trim_start_matches('[').trim_end_matches(']'); // [::1] as people write it before a port.
    let mut found = (bare, *port)
        .to_socket_addrs()
        .map_err(|err| refuse(format!("SERVER_HOST: \"{host}\" cannot be resolved: {err}")))?;
    let listen = found.next().ok_or_else(|| refuse(format!("SERVER_HOST: \"{host}\" has no address")))?;
    if !listen.ip().is_loopback() {
        let asks_who = args.token_file.is_some() || (is_encrypted && args.client_ca.is_some());
        let lack = match (is_encrypted, asks_who) {
            (true, true) => None,
            (true, false) => Some("anybody there may send; TOKEN_FILE or CLIENT_CA says who"),
            (false, true) => Some("without ENABLE_TLS, tokens cross the network as they are"),
            (false, false) => Some("it has neither TLS nor authentication"),
        };
        notices.extend(lack.map(|lack| format!("{} can be reached from other machines; {lack}", listen.ip())));
    }
    Ok(listen)
}

/// Reads the files, too: a server that cannot encrypt does not start.
fn tls(args: &Args, notices: &mut Vec<String>) -> Result<Option<(TlsPlan, Identity)>, Refusal> {
    let is_required = match args.tls.to_ascii_lowercase().as_str() {
        "off" | "false" | "0" | "no" | "n" | "f" | "" => {
            let left = args
                .client_ca
                .as_ref()
                .map(|_| "CLIENT_CA is set and ENABLE_TLS=off: nobody is asked for a certificate");
            notices.extend(left.map(str::to_owned));
            return Ok(None);
        }
        "allow" => false,
        // The first design knew a boolean, and served nothing but TLS where it was true.
        "require" | "on" | "true" | "1" | "yes" | "y" | "t" => true,
        _ => return Err(refuse(format!("ENABLE_TLS: unknown mode \"{}\"; one of off, allow, require", args.tls))),
    };
    let oldest = match args.tls_min.as_str() {
        "1.2" => TlsVersion::V1_2,
        "1.3" => TlsVersion::V1_3,
        other => return Err(refuse(format!("TLS_MIN: unknown version \"{other}\"; 1.2 or 1.3"))),
    };
    if args.client_ca.is_some() && !is_required {
        notices.push(
            "CLIENT_CA with ENABLE_TLS=allow: plain text is still taken from anybody; require would refuse it".into(),
        );
    }
    let plan = TlsPlan { is_required, cert_dir: args.cert_dir.clone(), oldest, client_ca: args.client_ca.clone() };
    let identity = plan.load().map_err(refuse)?;
    notices.extend(identity.notices.iter().cloned());
    Ok(Some((plan, identity)))
}

fn udp(args: &Args, listen: SocketAddr, is_encrypted: bool, notices: &mut Vec<String>) -> Result<Option<Udp>, Refusal> {
    let buffer_len = args.udp_buffer_size;
    if buffer_len > UDP_BUFFER_LEN_MAX {
        return Err(refuse(format!("UDP_BUFFER_SIZE={buffer_len}: at most {UDP_BUFFER_LEN_MAX}")));
    }
    let unlike = match (is_encrypted, args.token_file.is_some()) {
        (true, _) => Some("ENABLE_UDP with ENABLE_TLS: datagrams are plain text all the same, and taken from anybody"),
        (false, true) => Some("ENABLE_UDP with TOKEN_FILE: a datagram shows no token, and is taken from anybody"),
        (false, false) => None,
    };
    notices.extend(unlike.filter(|_| args.udp).map(str::to_owned));
    Ok(args.udp.then(|| Udp { listen: SocketAddr::new(listen.ip(), args.udp_port), buffer_len }))
}

fn admin(args: &Args, notices: &mut Vec<String>) -> Result<Option<SocketAddr>, Refusal> {
    let typed = args.admin_addr.as_str();
    if typed == "none" {
        return Ok(None);
    }
    let mut found = typed.to_socket_addrs().map_err(|err| {
        refuse(format!("ADMIN_ADDR: \"{typed}\" is no address with a port, like 127.0.0.1:9088, and not none: {err}"))
    })?;
    let admin = found.next().ok_or_else(|| refuse(format!("ADMIN_ADDR: \"{typed}\" has no address")))?;
    if !admin.ip().is_loopback() {
        let ip = admin.ip();
        notices.push(format!(
            "the admin listener on {ip} can be reached from other machines, and asks nobody who they are"
        ));
    }
    Ok(Some(admin))
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

fn segment_format(args: &Args) -> Result<SegmentFormat, Refusal> {
    match args.segment_compression.as_str() {
        "none" => Ok(SegmentFormat::Plain),
        "gzip" => Ok(SegmentFormat::Gzip),
        other => Err(refuse(format!("SEGMENT_COMPRESSION: unknown compression \"{other}\"; one of none, gzip"))),
    }
}

fn retention(args: &Args, limits: &Limits, shards: usize) -> Result<Retention, Refusal> {
    let bytes = (args.retain_bytes > 0).then_some(args.retain_bytes);
    let least = SEGMENTS_KEPT * shards as u64 * limits.segment_len;
    if let Some(bytes) = bytes
        && args.persistence
        && bytes < least
    {
        return Err(refuse(format!(
            "RETAIN_BYTES={bytes}: at least {least}: of each of {shards} shards the segment in use, the next one and the \
             {} before stay, of {} MiB each; allow more, or set a smaller SEGMENT_MIB",
            SEGMENTS_KEPT - 2,
            limits.segment_len >> 20
        )));
    }
    Ok(Retention { bytes, age: deadline("RETAIN_AGE", &args.retain_age, RETAIN_MAX)? })
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
        line_breaker: args.circuit_breaker.then(BreakerLimits::of_lines),
        segment_len: args.segment_mib << 20,
        segment_age: deadline("SEGMENT_AGE", &args.segment_age, RETAIN_MAX)?,
        accept_rate: (args.accept_rate > 0).then_some(args.accept_rate),
        greeting_time: deadline("GREETING_TIMEOUT", &args.greeting_timeout, DEADLINE_MAX)?,
        line_time: deadline("LINE_TIMEOUT", &args.line_timeout, DEADLINE_MAX)?,
        idle_time: deadline("IDLE_TIMEOUT", &args.idle_timeout, DEADLINE_MAX)?,
        send_time: deadline("SEND_TIMEOUT", &args.send_timeout, DEADLINE_MAX)?,
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
    Ok(limits)
}

/// No more connections than there are descriptors for, beside those that the server needs itself.
fn limit_connections(
    args: &Args,
    machine: &Machine<'_>,
    shards: usize,
    limits: &mut Limits,
    notices: &mut Vec<String>,
) -> Result<(), Refusal> {
    let asked = args.max_connections.unwrap_or(limits.connections_max);
    if !(1..=CONNECTIONS_MAX).contains(&asked) {
        return Err(refuse(format!("MAX_CONNECTIONS={asked}: at least 1 and at most {CONNECTIONS_MAX}")));
    }
    let own = FILES_OF_SERVER + FILES_OF_SHARD * shards;
    let files = usize::try_from(machine.open_files_max).unwrap_or(usize::MAX);
    let room = files.saturating_sub(own);
    if room == 0 {
        return Err(refuse(format!(
            "the process may have {files} descriptors, and {shards} shards need {own} beside connections; raise the \
             hard limit (ulimit -Hn)"
        )));
    }
    if asked > room {
        notices.push(format!(
            "at most {room} connections instead of {asked}: the process may have {files} descriptors, and {own} are \
             kept for files; raise the hard limit (ulimit -Hn) to have more"
        ));
    }
    limits.connections_max = asked.min(room);
    // All of them may be sessions of producers that belong to one shard.
    limits.sessions_max = limits.connections_max;
    let half = limits.connections_max.div_ceil(2);
    limits.connections_per_address_max = args.max_connections_per_address.unwrap_or(half);
    if limits.connections_per_address_max == 0 {
        return Err(refuse("MAX_CONNECTIONS_PER_ADDRESS=0: nobody could connect; at least 1"));
    }
    Ok(())
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
    let uring = || (machine.probe)().map_err(|reason| format!("io_uring is not available here: {reason}"));
    match args.backend.as_str() {
        "epoll" => Ok(Backend::Epoll),
        "uring" => uring().map(|()| Backend::Uring).map_err(refuse),
        #[cfg(feature = "glommio")]
        "glommio" => {
            uring().map_err(refuse)?;
            notices.push(GLOMMIO_DIFFERS.into());
            Ok(Backend::Glommio)
        }
        #[cfg(not(feature = "glommio"))]
        "glommio" => Err(refuse(
            "BACKEND=glommio: this server was built without it; build it with the feature glommio, or take auto, uring \
             or epoll",
        )),
        "auto" => Ok(match uring() {
            Ok(()) => Backend::Uring,
            Err(reason) => {
                notices.push(format!("{reason}; running on epoll"));
                Backend::Epoll
            }
        }),
        other => Err(refuse(format!("BACKEND: unknown backend \"{other}\"; one of auto, uring, epoll, glommio"))),
    }
}

/// A time after which something ends; zero is none.
fn deadline(name: &str, typed: &str, max: Duration) -> Result<Option<Duration>, Refusal> {
    let time = duration(name, typed, max)?;
    if !time.is_zero() && time < DEADLINE_MIN {
        return Err(refuse(format!("{name}={typed}: at least {DEADLINE_MIN:?}, or 0 for ever")));
    }
    Ok((!time.is_zero()).then_some(time))
}

fn trace(args: &Args) -> Result<Option<TracePlan>, Refusal> {
    let typed = &args.otlp_sample;
    let sample = typed.parse().ok().filter(|sample| (0.0..=1.0).contains(sample));
    let sample =
        sample.ok_or_else(|| refuse(format!("OTLP_SAMPLE: \"{typed}\" is no part of all batches; from 0 to 1")))?;
    let Some(url) = &args.otlp_endpoint else { return Ok(None) };
    if !cfg!(feature = "otlp") {
        return Err(refuse(format!("OTLP_ENDPOINT={url}: this build cannot trace; build it with --features otlp")));
    }
    let Some(place) = url.strip_prefix("http://").filter(|place| !place.is_empty() && !place.starts_with('/')) else {
        return Err(refuse(format!("OTLP_ENDPOINT: \"{url}\" is no address like http://127.0.0.1:4318")));
    };
    let (host, path) = place.split_once('/').unwrap_or((place, ""));
    let path = if path.is_empty() { "v1/traces" } else { path };
    Ok(Some(TracePlan { endpoint: format!("http://{host}/{path}"), sample }))
}

fn duration(name: &str, typed: &str, max: Duration) -> Result<Duration, Refusal> {
    let digits = typed.trim_end_matches(|byte: char| byte.is_ascii_alphabetic());
    let unit_ms = match &typed[digits.len()..] {
        "ms" => Some(1),
        "" | "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(24 * 3_600_000),
        _ => None,
    };
    let number = digits.parse::<u64>().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let ms = number.zip(unit_ms).and_then(|(number, unit)| number.checked_mul(unit));
    ms.map(Duration::from_millis).filter(|time| *time <= max).ok_or_else(|| {
        let hours = max.as_secs() / 3600;
        refuse(format!("{name}: \"{typed}\" is not a time up to {hours}h; write it like 10s, 500ms, 2m, 1h or 7d"))
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

/// The kernel takes it as a signed number of 32 bits and doubles it.
const UDP_BUFFER_LEN_MAX: usize = 1 << 30;
/// Smaller receive buffers cost more than 2.5 times the CPU.
const BUFFER_LEN_MIN: usize = 4 << 10;
/// 32 of these are what one shard is given.
const BUFFER_LEN_MAX: usize = 1 << 20;
/// A `$hello` has to fit.
const LINE_LEN_MIN: usize = 4 << 10;
/// Each of a shard's batches can take a line of this length.
const LINE_LEN_MAX: usize = 16 << 20;
/// A minute of waiting for more is no batching.
const FLUSH_MS_MAX: u64 = 60_000;
const SEGMENT_MIB_MAX: u64 = 2048;
const SHARDS_MAX: usize = 1024;
/// Of a shard: the segment in use, the one that is made ready, and those that the two snapshots of producers do not both
/// cover: the last closed one, and the one that is being closed.
const SEGMENTS_KEPT: u64 = 4;
const RETAIN_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const DRAIN_MAX: Duration = Duration::from_secs(3600);
/// A shorter one is met by chance.
const DEADLINE_MIN: Duration = Duration::from_millis(100);
const DEADLINE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Tables of this many are still small, and a machine has no more descriptors.
const CONNECTIONS_MAX: usize = 1 << 20;
/// Descriptors of the server itself: standard streams, the lock, signals, a file being written or read, spare ones.
const FILES_OF_SERVER: usize = 32;
/// Descriptors of a shard: listener, ring or poller, bell; segments in use, next and failed, each twice; spare ones, and
/// one to turn a connection away with.
const FILES_OF_SHARD: usize = 16;
/// Said at the start where it was chosen, because what is measured with it is the runtime too.
#[cfg(feature = "glommio")]
const GLOMMIO_DIFFERS: &str = "backend glommio, for comparison: a runtime with rings and memory of its own (10 MiB per \
    shard, locked if it may be), sockets by one-shot polls and recv(2), large blocks copied once more";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    /// What these flags come to on a machine with the cores 0-3, a quota of two and io_uring.
    fn resolve(flags: &[&str]) -> Result<Config, Refusal> {
        resolve_on(flags, Ok(()))
    }

    fn resolve_on(flags: &[&str], uring: Result<(), &str>) -> Result<Config, Refusal> {
        let cli = Cli::parse_from([&["ringest-server"], flags].concat());
        let machine = Machine {
            allowed: "0-3".parse().unwrap(),
            parallelism: 2,
            open_files_max: 1 << 20,
            probe: &|| uring.map_err(str::to_owned),
        };
        Config::resolve(&cli.serve, &machine)
    }

    #[test]
    fn the_defaults_are_those_that_are_documented() {
        let config = resolve(&[]).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:9000");
        assert_eq!((config.ack, config.min_level), (AckLevel::Durable, Severity::Debug));
        assert_eq!((config.backend, config.buffer_len), (Backend::Uring, 65536));
        assert_eq!(config.cpus, [Some(0), Some(1)], "four cores are allowed, two are paid for");
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.segment_format, SegmentFormat::Plain);
        assert_eq!(config.log_dir, Some(PathBuf::from("./logs")));
        assert_eq!(config.notices, [""; 0]);
    }

    #[test]
    fn every_refusal_names_what_was_asked_for() {
        for (flags, words) in [
            (&["--host", "no such host"][..], "SERVER_HOST"),
            (&["--ack", "perhaps"], "\"perhaps\""),
            (&["--ack", "forwarded"], "does not forward yet"),
            (&["--otlp-sample", "1.1"], "OTLP_SAMPLE: \"1.1\""),
            #[cfg(not(feature = "otlp"))]
            (&["--otlp-endpoint", "http://localhost:4318"], "--features otlp"),
            #[cfg(feature = "otlp")]
            (&["--otlp-endpoint", "localhost:4318"], "OTLP_ENDPOINT: \"localhost:4318\""),
            (&["--ack", "written", "--persistence", "false"], "nothing is written"),
            (&["--ack", "durable", "--persistence", "false"], "nothing is durable"),
            (&["--min-level", "loud"], "\"loud\""),
            (&["--backend", "kqueue"], "\"kqueue\"; one of auto, uring, epoll, glommio"),
            (&["--tls", "perhaps"], "unknown mode \"perhaps\"; one of off, allow, require"),
            (&["--tls", "require", "--tls-min", "1.1"], "unknown version \"1.1\"; 1.2 or 1.3"),
            (&["--tls", "allow", "--cert-dir", "/none"], "TLS needs /none/server.crt, which cannot be read"),
            (&["--buffer-size", "100"], "BUFFER_SIZE=100"),
            (&["--udp-buffer-size", "2000000000"], "UDP_BUFFER_SIZE=2000000000"),
            (&["--max-line", "100"], "MAX_LINE=100"),
            (&["--batch-size", "0"], "BATCH_SIZE=0"),
            (&["--batch-flush-ms", "60001"], "BATCH_FLUSH_MS=60001"),
            (&["--segment-mib", "1"], "SEGMENT_MIB=1: at least"),
            (&["--segment-mib", "5000"], "SEGMENT_MIB=5000"),
            (
                &["--retain-bytes", "1000000000", "--shards", "2"],
                "RETAIN_BYTES=1000000000: at least 1073741824: of each of 2",
            ),
            (&["--retain-age", "forever"], "RETAIN_AGE: \"forever\" is not a time"),
            (&["--segment-age", "10ms"], "SEGMENT_AGE=10ms: at least 100ms"),
            (&["--segment-compression", "zstd"], "\"zstd\"; one of none, gzip"),
            (&["--shards", "0"], "SHARDS=0"),
            (&["--shards", "5"], "SHARDS=5: each shard has a core of its own, and there are 4 (0-3)"),
            (&["--shards", "2", "--cpu-list", "3"], "there are 1 (3)"),
            (&["--shards", "1025", "--no-pin"], "at most 1024"),
            (&["--cpu-list", "2,9"], "processor 9"),
            (&["--cpu-list", "two"], "`two`"),
            (&["--cpu-list", "1", "--no-pin"], "--no-pin does not"),
            (&["--drain-deadline", "soon"], "\"soon\""),
            (&["--drain-deadline", "+5s"], "\"+5s\""),
            (&["--drain-deadline", "2h"], "\"2h\""),
            (&["--drain-deadline", "18446744073709551615m"], "is not a time"),
        ] {
            let refusal = resolve(flags).expect_err(&format!("{flags:?}")).to_string();
            assert!(refusal.contains(words), "{flags:?}: {refusal}");
        }
    }

    #[test]
    fn datagrams_are_taken_at_the_same_address_once_that_is_asked_for() {
        assert_eq!(resolve(&["--udp-port", "7"]).unwrap().udp, None);
        let asked = resolve(&["--host", "[::1]", "--port", "0", "--udp", "true"]).unwrap();
        assert_eq!(asked.udp, Some(Udp { listen: "[::1]:9001".parse().unwrap(), buffer_len: 8 << 20 }));
        assert_eq!(asked.to_json()["udp"]["listen"], "[::1]:9001");
    }

    #[test]
    fn epoll_takes_over_with_a_reason_unless_uring_was_asked_for() {
        let because = "EPERM: a seccomp filter";
        let config = resolve_on(&[], Err(because)).unwrap();
        assert_eq!(config.backend, Backend::Epoll);
        assert!(config.notices[0].contains(because), "{:?}", config.notices);
        let refusal = resolve_on(&["--backend", "uring"], Err(because)).unwrap_err().to_string();
        assert!(config.notices[0].starts_with(&refusal), "the same sentence: {refusal}");
        let asked = resolve_on(&["--backend", "epoll"], Err(because)).unwrap();
        assert_eq!((asked.backend, asked.notices.len()), (Backend::Epoll, 0));
    }

    #[cfg(feature = "glommio")]
    #[test]
    fn glommio_has_to_be_asked_for_needs_rings_and_says_what_it_is() {
        let config = resolve(&["--backend", "glommio"]).unwrap();
        assert_eq!((config.backend, config.notices.len()), (Backend::Glommio, 1));
        let refusal = resolve_on(&["--backend", "glommio"], Err("EPERM")).unwrap_err().to_string();
        assert!(refusal.contains("io_uring is not available here: EPERM"), "{refusal}");
    }

    #[cfg(not(feature = "glommio"))]
    #[test]
    fn a_build_without_glommio_refuses_it_in_words() {
        let refusal = resolve(&["--backend", "glommio"]).unwrap_err().to_string();
        assert!(refusal.contains("built without it"), "{refusal}");
    }

    #[test]
    fn shards_take_the_cores_that_were_listed_or_none() {
        assert_eq!(resolve(&["--cpu-list", "1,3"]).unwrap().cpus, [Some(1), Some(3)]);
        assert_eq!(resolve(&["--cpu-list", "0-3"]).unwrap().cpus.len(), 4, "a list is worth more than a quota");
        assert_eq!(resolve(&["--cpu-list", "1,3", "--shards", "1"]).unwrap().cpus, [Some(1)]);
        assert_eq!(resolve(&["--shards", "4"]).unwrap().cpus.len(), 4);
        assert_eq!(resolve(&["--shards", "9", "--no-pin"]).unwrap().cpus, [None; 9]);
    }

    #[test]
    fn without_a_disk_an_ack_promises_what_is_true_and_says_so() {
        let config = resolve(&["--persistence", "false"]).unwrap();
        assert_eq!((config.ack, config.log_dir), (AckLevel::Accepted, None));
        assert!(config.notices[0].contains("nothing is stored"));
        assert_eq!(resolve(&["--persistence", "no", "--ack", "none"]).unwrap().ack, AckLevel::None);
    }

    #[test]
    fn whatever_is_accepted_fits_together() {
        for max_line in [LINE_LEN_MIN, 100_000, 1 << 20, LINE_LEN_MAX] {
            for buffer in [BUFFER_LEN_MIN, 100_000, BUFFER_LEN_MAX] {
                let (line, buffer) = (max_line.to_string(), buffer.to_string());
                let flags = ["--max-line", &line, "--buffer-size", &buffer, "--segment-mib", "2048"];
                let limits = resolve(&flags).unwrap().limits;
                assert_eq!(limits.check(), Ok(()));
                assert!(limits.line_len_max == max_line && limits.chunk_len_max >= buffer.parse().unwrap());
            }
        }
    }

    #[test]
    fn a_wider_address_is_pointed_out() {
        for (host, told) in [("127.0.0.1", false), ("::1", false), ("[::1]", false), ("0.0.0.0", true), ("::", true)] {
            let config = resolve(&["--host", host, "--port", "1"]).unwrap();
            assert_eq!(config.notices.iter().any(|notice| notice.contains("other machines")), told, "{host}");
        }
    }

    #[test]
    fn what_tokens_do_not_protect_is_pointed_out() {
        let notices = |flags: &[&str]| resolve(&[&["--token-file", "tokens"], flags].concat()).unwrap().notices;
        assert_eq!(notices(&[]), [""; 0]);
        let wide = notices(&["--host", "0.0.0.0"]);
        assert!(wide.len() == 1 && wide[0].ends_with("tokens cross the network as they are"), "{wide:?}");
        let datagrams = notices(&["--udp", "true"]);
        assert!(datagrams.len() == 1 && datagrams[0].contains("a datagram shows no token"), "{datagrams:?}");
    }

    #[test]
    fn times_are_read_with_their_unit() {
        for (typed, ms) in [("10s", 10_000), ("500ms", 500), ("2m", 120_000), ("3", 3000), ("0", 0), ("1h", 3_600_000)]
        {
            assert_eq!(duration("TIME", typed, DRAIN_MAX), Ok(Duration::from_millis(ms)), "{typed}");
        }
        assert_eq!(duration("TIME", "30d", RETAIN_MAX), Ok(Duration::from_secs(30 * 24 * 3600)));
    }
}
