//! What a peer can make a shard hold does not grow with how often it does the same. A test of its own process: the counter
//! counts everybody's.

use ringest_ingest::{Action, Limits, SessionId, Shard, ShardConfig, TlsConfig};
use ringest_wire::Severity;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// One test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Beyond the doubling of what is there.
const GROWTH_MAX: isize = 64 << 10;

fn shard(now: Instant, limits: Limits, tls: Option<TlsConfig>) -> Shard {
    let config = ShardConfig { min_level: Severity::Debug, tls, ..ShardConfig::alone(limits) };
    Shard::new(config, now).unwrap()
}

/// Does what is asked, but for syncs, which never come back.
fn act(shard: &mut Shard, now: Instant) {
    while let Some(action) = shard.poll() {
        match action {
            Action::Open(segment) => shard.handle_opened(segment, Ok(()), now),
            Action::Write(block) => shard.handle_written(block, Ok(()), now),
            Action::Send(id, buf) => shard.handle_sent(id, buf, now),
            Action::Sync(_) | Action::Resume(_) | Action::ResumeDatagrams => {}
            other => panic!("{other:?}"),
        }
    }
}

fn give(shard: &mut Shard, id: SessionId, bytes: &[u8], now: Instant) {
    assert!(shard.wants(id));
    shard.handle_bytes(id, bytes, now);
    act(shard, now);
}

fn growth(region: &Region<'_, System>) -> isize {
    let change = region.change();
    change.bytes_allocated as isize - change.bytes_deallocated as isize
}

#[allow(clippy::disallowed_methods, reason = "the one moment there is")]
fn moment() -> Instant {
    Instant::now()
}

#[test]
fn a_client_that_repeats_itself_while_the_disk_syncs_is_not_remembered_each_time() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let now = moment();
    let mut shard = shard(now, Limits::default(), None);
    act(&mut shard, now);
    let id = shard.handle_accepted(now).unwrap();
    const LINE: &str = "{\"level\":\"info\",\"message\":1}\n";
    let hello = "{\"$hello\":{\"v\":1,\"producer\":\"p\",\"epoch\":1}}\n";
    shard.handle_bytes(id, hello.as_bytes(), now);
    act(&mut shard, now);
    give(&mut shard, id, LINE.as_bytes(), now);
    let again = format!("{{\"$resume\":{{\"from\":1}}}}\n{LINE}").repeat(100);
    give(&mut shard, id, again.as_bytes(), now);
    let region = Region::new(ALLOCATOR);
    for _ in 0..1000 {
        give(&mut shard, id, again.as_bytes(), now);
    }
    assert!(growth(&region) < GROWTH_MAX, "{} bytes", growth(&region));
    assert_eq!(shard.tally().duplicate, 100_100);
}

#[test]
fn connections_that_take_turns_line_by_line_do_not_make_a_batch_remember_each_turn() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let now = moment();
    let mut shard = shard(now, Limits::default(), None);
    act(&mut shard, now);
    let ids = [shard.handle_accepted(now).unwrap(), shard.handle_accepted(now).unwrap()];
    let region = Region::new(ALLOCATOR);
    // Nothing that is to be written comes back, so what follows gathers in full batches.
    let mut writes = Vec::new();
    let mut turns = 0;
    while shard.wants(ids[turns % 2]) {
        shard.handle_bytes(ids[turns % 2], b"{\"level\":\"\",\"message\":1}\n", now);
        turns += 1;
        while let Some(action) = shard.poll() {
            match action {
                Action::Write(block) => writes.push(block),
                Action::Resume(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(turns > 50_000, "{turns}");
    let in_all = (Limits::default().batches * (32 << 10)) as isize + GROWTH_MAX;
    assert!(growth(&region) < in_all, "{} bytes", growth(&region));
}

#[test]
fn connections_that_came_and_went_before_their_handshake_are_forgotten() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(made.cert)], key)
        .unwrap();
    let now = moment();
    let limits = Limits { handshakes_max: 1, ..Limits::default() };
    let mut shard = shard(now, limits, Some(TlsConfig { server: Arc::new(server), is_required: true }));
    act(&mut shard, now);
    let begin = |shard: &mut Shard| {
        let id = shard.handle_accepted(now).unwrap();
        give(shard, id, &[0x16], now);
        id
    };
    let _running = begin(&mut shard);
    let _waiting = begin(&mut shard);
    let region = Region::new(ALLOCATOR);
    for _ in 0..20_000 {
        let id = begin(&mut shard);
        shard.handle_lost(id, now);
        act(&mut shard, now);
    }
    assert!(growth(&region) < GROWTH_MAX, "{} bytes", growth(&region));
    assert_eq!(shard.sessions(), 2);
}
