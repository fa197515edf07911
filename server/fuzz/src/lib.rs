//! What the fuzz targets share: ways to cut a stream, an obvious definition of a record, and a shard with one connection
//! and a disk that never fails.

use ringest_ingest::{Action, Limits, Shard, ShardConfig, TlsConfig};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Cuts a stream into chunks, another way for each seed; by 0 into one.
pub fn cut(stream: &[u8], seed: u8) -> Vec<&[u8]> {
    let mut chunks = Vec::new();
    let (mut rest, mut state) = (stream, u32::from(seed));
    while !rest.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let len = if seed == 0 { CHUNK_LEN_MAX } else { 1 + (state >> 24) as usize % (usize::from(seed) + 1) };
        let (chunk, later) = rest.split_at(len.min(rest.len()));
        chunks.push(chunk);
        rest = later;
    }
    chunks
}

/// Whether a line is a record, by the book: an object that is valid JSON, nests at most 64 deep, has a `message` and a
/// `level` that is a string, and does not begin like a control line.
pub fn is_record(line: &[u8]) -> bool {
    let value: Option<serde_json::Value> = serde_json::from_slice(line).ok();
    let object = value.as_ref().and_then(serde_json::Value::as_object);
    let has_members = object.is_some_and(|object| {
        object.get("level").is_some_and(|level| level.is_string()) && object.contains_key("message")
    });
    has_members && !line.starts_with(b"{\"$") && depth(value.as_ref().expect("just seen")) <= 64
}

fn depth(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        serde_json::Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// A certificate that nobody has reason to trust.
pub fn tls_config() -> TlsConfig {
    static CONFIG: OnceLock<Arc<ServerConfig>> = OnceLock::new();
    let server = CONFIG.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate can be made");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("it is a key");
        let certificates = vec![CertificateDer::from(made.cert)];
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, key);
        Arc::new(config.expect("the key is that of the certificate"))
    });
    TlsConfig { server: server.clone(), is_required: true }
}

/// A shard and its disk.
pub struct House {
    shard: Shard,
    now: Instant,
    end: End,
}

/// What came of a connection.
#[derive(Debug, Default)]
pub struct End {
    /// Everything the server said.
    pub said: Vec<u8>,
    /// Records as they were stored.
    pub stored: Vec<u8>,
    is_closed: bool,
}

impl House {
    /// A shard that has just started.
    pub fn new(tls: Option<TlsConfig>) -> House {
        let now = Instant::now();
        let mut limits = Limits {
            line_len_max: 4096,
            chunk_len_max: CHUNK_LEN_MAX,
            batch_len_max: 16 << 10,
            linger: Duration::ZERO,
            paged_len_min: usize::MAX,
            producers_max: 8,
            ..Limits::default()
        };
        (limits.batches, limits.writes_max) = (4, 1);
        limits.segment_len = 4 << 20;
        let config = ShardConfig { tls, ..ShardConfig::alone(limits) };
        let shard = Shard::new(config, now).expect("the bounds fit together");
        House { shard, now, end: End::default() }
    }

    /// One connection, from its first byte to its end.
    pub fn converse(mut self, chunks: Vec<&[u8]>) -> End {
        let id = self.shard.handle_accepted(self.now).expect("there is room");
        for chunk in chunks {
            self.wait_until_wanted(id);
            self.shard.handle_bytes(id, chunk, self.now);
            self.turn();
        }
        self.wait_until_wanted(id);
        self.shard.handle_end(id, self.now);
        for _ in 0..TURNS_MAX {
            self.turn();
            if self.end.is_closed {
                return self.end;
            }
        }
        panic!("it is never closed");
    }

    fn wait_until_wanted(&mut self, id: ringest_ingest::SessionId) {
        for _ in 0..TURNS_MAX {
            if self.shard.wants(id) {
                return;
            }
            self.turn();
        }
        panic!("more is never wanted");
    }

    fn turn(&mut self) {
        if self.shard.poll_timeout().is_some_and(|at| at <= self.now) {
            self.shard.handle_timeout(self.now);
        }
        while let Some(action) = self.shard.poll() {
            match action {
                Action::Open(id) => self.shard.handle_opened(id, Ok(()), self.now),
                Action::Write(block) => {
                    let lines = block.bytes().split_inclusive(|&byte| byte == b'\n');
                    let records = lines.filter(|line| line.starts_with(b"{") && !line.starts_with(b"{\"$"));
                    records.for_each(|line| self.end.stored.extend_from_slice(line));
                    self.shard.handle_written(block, Ok(()), self.now);
                }
                Action::Sync(id) => self.shard.handle_synced(id, Ok(()), self.now),
                Action::Send(id, buf) => {
                    self.end.said.extend_from_slice(&buf);
                    self.shard.handle_sent(id, buf, self.now);
                }
                Action::CloseSegment { .. } | Action::Resume(_) | Action::ResumeDatagrams => {}
                Action::Close(_) => self.end.is_closed = true,
                Action::HandOff { .. } => panic!("there is one shard"),
            }
        }
        let in_flight = self.shard.in_flight();
        assert!(self.shard.tally().closes_with(in_flight), "{:?} with {in_flight} in flight", self.shard.tally());
    }
}

const CHUNK_LEN_MAX: usize = 8192;
/// More turns than any input needs.
const TURNS_MAX: usize = 10_000;
