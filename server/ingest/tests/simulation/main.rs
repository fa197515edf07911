//! The fourth driver: it has no kernel. A seed makes a world of clients, networks and disks that fail in every way
//! they may, drives shards through it, and holds everything they say and write against what is true (`truth`).
//!
//! `RINGEST_SEED=17 cargo test -p ringest-ingest --test simulation` runs one world, with `RINGEST_TRACE=1` telling
//! what happens in it. `RINGEST_SEEDS=100000` runs that many.

mod client;
mod conn;
mod disk;
mod found;
mod lines;
mod recover;
mod rng;
mod truth;
mod world;

use std::any::Any;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;
use world::{Sometimes, World};

#[test]
fn no_promise_is_broken_in_any_world() {
    #[allow(clippy::disallowed_methods, reason = "the one moment from which a world's time counts")]
    let base = Instant::now();
    if let Some(seed) = number("RINGEST_SEED") {
        World::new(seed, base, env::var_os("RINGEST_TRACE").is_some()).run();
        return;
    }
    let seeds = number("RINGEST_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let failed = Mutex::new(None);
    let sometimes = Mutex::new(Sometimes::new());
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || failed.lock().unwrap().is_some() {
                        return;
                    }
                    let mut world = World::new(seed, base, false);
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| world.run())) {
                        *failed.lock().unwrap() = Some((seed, message(&*panic)));
                        return;
                    }
                    let mut sum = sometimes.lock().unwrap();
                    for (what, count) in world.sometimes {
                        *sum.entry(what).or_default() += count;
                    }
                }
            });
        }
    });
    if let Some((seed, message)) = failed.into_inner().unwrap() {
        panic!(
            "world {seed}: {message}\n\
             run it alone: RINGEST_SEED={seed} cargo test -p ringest-ingest --test simulation -- --nocapture"
        );
    }
    let sometimes = sometimes.into_inner().unwrap();
    for (what, count) in &sometimes {
        println!("{count:>9} {what}");
    }
    if seeds >= SEEDS {
        let never: Vec<_> =
            SOMETIMES.iter().filter(|what| sometimes.get(**what).is_none_or(|count| *count == 0)).collect();
        assert!(never.is_empty(), "what never happened was not tested: {never:?}");
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "a panic".into())
}

/// Worlds that a usual test run makes: half a minute on two cores.
const SEEDS: u64 = 6000;
/// What has to happen in them, or it was not tested.
const SOMETIMES: [&str; 54] = [
    "a connection sent gzip",
    "segments were compressed",
    "a client resumed after a nack",
    "a client said bye before it was answered",
    "a client talked nonsense",
    "a client went back unasked",
    "a connection moved to its home shard",
    "a connection was lost",
    "a connection that was given up went on",
    "a connection was refused",
    "a crash left records behind",
    "a datagram was cut",
    "a datagram was dropped by the kernel",
    "a held connection was resumed",
    "a snapshot was kept",
    "a producer began a new epoch",
    "a second connection took over",
    "a segment could not be made",
    "a segment rolled",
    "a segment was declared void",
    "a send was read in pieces",
    "a server was drained and started again",
    "a stream ended in the middle of a line",
    "a sync failed",
    "a write failed",
    "a write overtook another",
    "datagrams were held",
    "held datagrams were resumed",
    "records of a datagram were refused",
    "recovery cut a torn tail",
    "recovery kept blocks behind damage",
    "recovery left out blocks that had overtaken a lost one",
    "recovery left out what a later segment declared void",
    "the power was cut",
    "the process died",
    "there was no room for a segment",
    "writes went ahead of a sync",
    "a plain client took no replies and was given up",
    "a session was fenced",
    "a lower epoch was refused",
    "a gap was refused",
    "nonsense was answered",
    "a level was refused",
    "a durable session was refused what may be lost",
    "a session was told to come back",
    "a plain client was told to come back",
    "somebody was told that storage failed",
    "somebody was told that the circuit is open",
    "a session was told that there is no room",
    "the breaker opened",
    "the breaker let some calls through",
    "the breaker closed again",
    "an over-long line was refused",
    "rejections were told",
];
