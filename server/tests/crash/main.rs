//! `kill -9` under load, again and again in the same directory, and then the books are opened: what was acknowledged is
//! stored, once, in order.
//!
//! Producers and plain clients run through all of it and know from their own ledgers what they were promised. Many of
//! their connections send gzip, and about half of the servers compress their segments. The moment of each kill comes from a printed seed; the machine adds its own.

mod link;
mod plain;
mod producer;
#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;

use producer::Promised;
use rustls::ClientConfig;
use rustls::version::TLS13;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use support::dice::Dice;
use support::lines::origin;
use support::on_each_backend;
use support::process::Setup;
use support::tls::{Ca, client_config};

const ROUNDS: u64 = 24;
const PRODUCERS: u64 = 6;
const PLAIN: u64 = 3;

on_each_backend!(kills_under_load_lose_nothing_that_was_acknowledged, |setup: Setup| {
    let setup = setup.shards(2).small_segments();
    let mut dice = Dice::from_env(setup.on.as_str());
    let (world, setup) = World::half_encrypted(setup);
    let loads = Loads::start(world, &mut dice);
    for round in 0..ROUNDS {
        live_and_die(&setup, world, &mut dice, Death::of_round(round));
    }
    let (promised, replied) = loads.finish(&setup, world);

    let stored = Stored::read(&setup);
    for promised in &promised {
        let expected = promised.stored();
        let found = stored.of(&promised.producer);
        let at = found.iter().zip(&expected).take_while(|(found, expected)| found == expected).count();
        assert!(
            found == expected,
            "{}: acknowledged up to {}: the {at}th stored line is {:?} and not {:?}",
            promised.producer,
            promised.upto,
            found.get(at),
            expected.get(at)
        );
    }
    for (sender, replies) in &replied {
        let found = stored.of(sender);
        assert!(found.iter().copied().eq(1..=found.len() as u64), "{sender}: what is stored is a prefix, once");
        assert!(found.len() as u64 >= *replies, "{sender}: {replies} replies, {} stored", found.len());
    }
    let (acked, answered): (u64, u64) = (promised.iter().map(|it| it.upto).sum(), replied.iter().map(|it| it.1).sum());
    println!("{}: {ROUNDS} kills, {acked} acknowledged and {answered} answered lines", setup.on.as_str());
    assert!(acked > 10_000 && answered > 1000, "the kills came under load");
});

on_each_backend!(kills_with_a_changing_number_of_shards_store_each_line_once, |setup: Setup| {
    let setup = setup.small_segments();
    let mut dice = Dice::from_env(setup.on.as_str());
    let world = World::leaked();
    let loads = Loads::start(world, &mut dice);
    for shards in [2, 1, 3, 2, 4, 1] {
        live_and_die(&setup.clone().shards(shards), world, &mut dice, Death::AtWork);
    }
    let (promised, _) = loads.finish(&setup.clone().shards(2), world);

    let stored = Stored::read(&setup);
    for promised in promised {
        // Each shard's directory is read in turn, so the order is that of the directories.
        let mut found = stored.of(&promised.producer).to_vec();
        found.sort_unstable();
        assert!(found == promised.stored(), "{}: each acknowledged line once", promised.producer);
    }
});

/// How a round ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// While it serves.
    AtWork,
    /// While it drains.
    InDrain,
    /// While it serves; its successors die while they recover.
    ThenInRecovery,
}

impl Death {
    fn of_round(round: u64) -> Death {
        match round % 6 {
            2 => Death::InDrain,
            4 => Death::ThenInRecovery,
            _ => Death::AtWork,
        }
    }
}

fn live_and_die(setup: &Setup, world: &World, dice: &mut Dice, death: Death) {
    // Each server reads what the others left behind.
    let setup = &setup.clone().env("SEGMENT_COMPRESSION", if dice.below(2) == 0 { "none" } else { "gzip" });
    let server = setup.start();
    world.set_addr(Some(server.addr()));
    thread::sleep(dice.pause_ms(20, 250));
    if death == Death::InDrain {
        server.signal("TERM");
        thread::sleep(dice.pause_ms(0, 30));
    }
    server.kill();
    world.set_addr(None);
    if death == Death::ThenInRecovery {
        (0..3).for_each(|_| setup.start_and_kill(dice.pause_ms(0, 60)));
    }
}

/// What the clients know of the server.
pub(crate) struct World {
    addr: Mutex<Option<SocketAddr>>,
    is_finishing: AtomicBool,
    /// How the server can be verified, where it encrypts.
    tls: Option<Arc<ClientConfig>>,
}

impl World {
    fn leaked() -> &'static World {
        World { addr: Mutex::new(None), is_finishing: AtomicBool::new(false), tls: None }.leak()
    }

    /// One in which every other client speaks TLS, with the server's setup for it.
    fn half_encrypted(setup: Setup) -> (&'static World, Setup) {
        let ca = Ca::new();
        let dir = setup.room().join("certs");
        ca.server(&["localhost"]).lay(&dir);
        let setup = setup.env("ENABLE_TLS", "allow").env("CERT_DIR", dir.to_str().expect("a temporary name is text"));
        let tls = Some(client_config(&ca.pem(), None, &[&TLS13]));
        (World { addr: Mutex::new(None), is_finishing: AtomicBool::new(false), tls }.leak(), setup)
    }

    fn leak(self) -> &'static World {
        Box::leak(Box::new(self))
    }

    /// What the client of that number encrypts with.
    pub(crate) fn tls_of(&self, number: u64) -> Option<Arc<ClientConfig>> {
        self.tls.clone().filter(|_| number.is_multiple_of(2))
    }

    fn set_addr(&self, addr: Option<SocketAddr>) {
        *self.addr.lock().unwrap() = addr;
    }

    /// Where a server is, once there is one.
    pub(crate) fn addr(&self) -> SocketAddr {
        let since = Instant::now();
        loop {
            if let Some(addr) = *self.addr.lock().unwrap() {
                return addr;
            }
            assert!(since.elapsed() < Duration::from_secs(120), "no server comes back");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// No new lines; what is owed is to be settled.
    pub(crate) fn is_finishing(&self) -> bool {
        self.is_finishing.load(Ordering::Relaxed)
    }
}

struct Loads {
    producers: Vec<JoinHandle<Promised>>,
    plain: Vec<JoinHandle<Vec<(String, u64)>>>,
}

impl Loads {
    fn start(world: &'static World, dice: &mut Dice) -> Loads {
        let mut seed = || Dice::new(dice.roll());
        Loads {
            producers: (0..PRODUCERS)
                .map(|number| (number, seed()))
                .map(|(number, dice)| thread::spawn(move || producer::run(world, number, dice)))
                .collect(),
            plain: (0..PLAIN)
                .map(|number| (number, seed()))
                .map(|(number, dice)| thread::spawn(move || plain::run(world, number, dice)))
                .collect(),
        }
    }

    /// Lets everything be settled by a server that lives, and ends that one in order.
    fn finish(self, setup: &Setup, world: &World) -> (Vec<Promised>, Vec<(String, u64)>) {
        let server = setup.start();
        world.is_finishing.store(true, Ordering::Relaxed);
        world.set_addr(Some(server.addr()));
        let promised = self.producers.into_iter().map(|load| load.join().unwrap()).collect();
        let replied = self.plain.into_iter().flat_map(|load| load.join().unwrap()).collect();
        server.stop();
        setup.assert_verified();
        (promised, replied)
    }
}

/// The numbers of the stored lines of each sender, as they lie.
struct Stored(HashMap<String, Vec<u64>>);

impl Stored {
    fn read(setup: &Setup) -> Stored {
        let mut stored: HashMap<String, Vec<u64>> = HashMap::new();
        for line in setup.records() {
            let (sender, number) = origin(&line).unwrap_or_else(|| panic!("nobody sent this: {line}"));
            stored.entry(sender.to_owned()).or_default().push(number);
        }
        Stored(stored)
    }

    fn of(&self, sender: &str) -> &[u64] {
        self.0.get(sender).map_or(&[], Vec::as_slice)
    }
}
