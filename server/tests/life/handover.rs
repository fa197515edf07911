//! A listener that outlives its servers: somebody else holds it, the server is restarted again and again under load, and no
//! client is refused, loses a line or has one stored twice.

use crate::support::client::Client;
use crate::support::dice::Dice;
use crate::support::lines::{OK, json, origin, record};
use crate::support::on_each_backend;
use crate::support::process::Setup;
use crate::until;
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const RESTARTS: u64 = 100;
/// Producers that stay connected for as long as they may.
const STEADY: u64 = 4;
/// Producers that come for a few lines, say goodbye, and come again.
const BRIEF: u64 = 3;

on_each_backend!(a_hundred_restarts_behind_one_listener_refuse_lose_and_double_nothing, |setup: Setup| {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let setup = setup.shards(2).small_segments().passing(listener).flag("--lock-wait", "50s");
    // A drain waits for the disk, which others use too; how long is not what is looked at here.
    let setup = setup.flag("--drain-deadline", "50s");
    let mut dice = Dice::from_env(setup.on.as_str());
    let world = Arc::new(World::default());
    let mut server = setup.start();
    let loads: Vec<_> = (0..STEADY + BRIEF).map(|number| Producer::start(addr, number, world.clone())).collect();

    for round in 0..RESTARTS {
        thread::sleep(dice.pause_ms(20, 150));
        if round % 2 == 0 {
            server.stop();
            server = setup.start();
        } else {
            // The next one is there before this one ends, and waits for the directory.
            let setup = setup.clone();
            let next = thread::spawn(move || setup.start());
            thread::sleep(dice.pause_ms(0, 60));
            server.stop();
            server = next.join().unwrap();
        }
        assert_eq!(server.addr(), addr);
    }
    world.is_over.store(true, Ordering::Relaxed);
    let settled: Vec<(String, u64)> = loads.into_iter().map(|load| load.join().unwrap()).collect();
    server.stop();

    let mut stored: HashMap<String, Vec<u64>> = HashMap::new();
    for line in setup.records() {
        let (sender, number) = origin(&line).expect("it was sent");
        stored.entry(sender.to_owned()).or_default().push(number);
    }
    for (name, upto) in &settled {
        let stored = stored.remove(name).unwrap_or_default();
        assert!(
            stored.iter().copied().eq(1..=*upto),
            "{name}: each line up to {upto} once, in order: {}",
            stored.len()
        );
    }
    assert!(stored.is_empty());
    setup.assert_verified();
    let [connects, resumes, refused] =
        [&world.connects, &world.resumes, &world.refused].map(|it| it.load(Ordering::Relaxed));
    let acked: u64 = settled.iter().map(|(_, upto)| upto).sum();
    println!(
        "{}: {RESTARTS} restarts, {connects} connects, {resumes} resumes, {acked} lines, {refused} refused",
        setup.on.as_str()
    );
    assert_eq!(refused, 0);
    assert!(
        resumes >= RESTARTS && connects >= 2 * RESTARTS && acked > 10_000,
        "{resumes} resumes, {acked} lines: no load"
    );

    // There are a hundred segments now; even if none of them is covered by a snapshot, they are read in time.
    let segments: usize = (0..2).map(|shard| setup.segments(shard).len()).sum();
    for shard in ["shard-00", "shard-01"] {
        for entry in fs::read_dir(setup.dir().join(shard)).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.extension().is_some_and(|name| name == "producers") {
                fs::remove_file(entry).unwrap();
            }
        }
    }
    assert!(segments >= 100, "{segments} segments");
    let began = Instant::now();
    let server = setup.start();
    let took = began.elapsed();
    assert!(server.stderr().contains(&format!("in {segments} segments")), "{}", server.stderr());
    assert!(took < Duration::from_secs(2), "ready after {took:?} with {segments} segments");
    server.stop();
});

#[derive(Default)]
struct World {
    is_over: AtomicBool,
    connects: AtomicU64,
    resumes: AtomicU64,
    refused: AtomicU64,
}

/// A client in session mode that goes on where it was, whatever becomes of its server.
struct Producer {
    name: String,
    /// Lines after which it leaves by itself.
    lines_max: u64,
    acked: u64,
    sent: u64,
    world: Arc<World>,
}

impl Producer {
    /// Its name, and the last line that it knows to be stored, after the end.
    fn start(addr: SocketAddr, number: u64, world: Arc<World>) -> JoinHandle<(String, u64)> {
        let name = format!("producer-{number}");
        let lines_max = if number < STEADY { u64::MAX } else { 40 };
        let mut producer = Producer { name, lines_max, acked: 0, sent: 0, world };
        thread::spawn(move || {
            while !producer.world.is_over.load(Ordering::Relaxed) || producer.acked < producer.sent {
                producer.talk(addr);
            }
            (producer.name, producer.acked)
        })
    }

    fn talk(&mut self, addr: SocketAddr) {
        self.world.connects.fetch_add(1, Ordering::Relaxed);
        let Ok(stream) = TcpStream::connect(addr) else {
            self.world.refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let hello = format!("{{\"$hello\":{{\"v\":1,\"producer\":\"{}\",\"epoch\":1}}}}\n", self.name);
        if (&stream).write_all(hello.as_bytes()).is_err() {
            return;
        }
        let Some(welcome) = next(&mut reader) else { return };
        let Some(welcome) = welcome.get("$welcome") else {
            return self.hear_goaway(&welcome);
        };
        let known = welcome["last_seq"].as_u64().unwrap();
        assert!(
            (self.acked..=self.sent).contains(&known),
            "{}: {} acked, {known} known, {} sent",
            self.name,
            self.acked,
            self.sent
        );
        self.world.resumes.fetch_add(u64::from(known > 0), Ordering::Relaxed);
        (self.acked, self.sent) = (known, self.sent.max(known));
        let mut next_line = known + 1;
        let last = known.saturating_add(self.lines_max);
        loop {
            let is_over = self.world.is_over.load(Ordering::Relaxed) || next_line > last;
            let upto = if is_over { self.sent } else { (self.acked + 100).min(last) };
            let lines: String = (next_line..=upto).map(|seq| record(&self.name, seq) + "\n").collect();
            next_line = next_line.max(upto + 1);
            self.sent = self.sent.max(upto);
            // Where the server is gone, what it has said last is still to be read.
            let _ = (&stream).write_all(lines.as_bytes());
            if self.acked == self.sent && is_over {
                let _ = (&stream).write_all(b"{\"$bye\":1}\n");
            }
            let Some(answer) = next(&mut reader) else { return };
            if answer.get("$bye").is_some() {
                return;
            }
            match answer.get("$ack") {
                Some(ack) => self.promise(ack["upto"].as_u64().unwrap()),
                None => return self.hear_goaway(&answer),
            }
            // No faster than needed: what counts are restarts, not lines.
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn hear_goaway(&mut self, answer: &serde_json::Value) {
        let goaway = answer.get("$goaway").unwrap_or_else(|| panic!("{}: {answer}", self.name));
        assert!(["shutting_down", "fenced"].map(serde_json::Value::from).contains(&goaway["code"]), "{answer}");
        self.promise(goaway["upto"].as_u64().unwrap_or(0));
    }

    fn promise(&mut self, upto: u64) {
        assert!(upto <= self.sent, "{}: {upto} promised, {} sent", self.name, self.sent);
        self.acked = self.acked.max(upto);
    }
}

/// The next line; `None` where the connection is at its end, or broken.
fn next(reader: &mut BufReader<TcpStream>) -> Option<serde_json::Value> {
    let mut line = String::new();
    match reader.read_line(&mut line) {
        Ok(len) if len > 0 && line.ends_with('\n') => Some(json(line.trim_end())),
        Ok(_) => None,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("nothing is said for 30 s"),
        Err(_) => None,
    }
}

on_each_backend!(whoever_connects_between_two_servers_is_served_by_the_second, |setup: Setup| {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let setup = setup.shards(3).passing(listener);
    let mut early: Vec<Client> = (0..20).map(|_| Client::connect(addr)).collect();
    early.iter_mut().for_each(|client| client.say(record("early", 1)));
    let server = setup.start();
    assert!(server.stderr().contains("connections come from what was passed on"), "{}", server.stderr());
    early.iter_mut().for_each(|client| assert_eq!(client.line(), OK));
    server.stop();
    let mut between: Vec<Client> = (0..20).map(|_| Client::connect(addr)).collect();
    let server = setup.start();
    between.iter_mut().for_each(|client| assert_eq!(client.ask(record("between", 1)), OK));
    server.stop();
    assert_eq!(setup.records().len(), 40);
});

on_each_backend!(datagrams_that_come_between_two_servers_are_taken_by_the_second, |setup: Setup| {
    let (listener, socket) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let to = socket.local_addr().unwrap();
    let setup = setup.shards(2).passing(listener).passing(socket).flag("--udp", "true");
    let from = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sent = 0;
    let mut send = |count: u64| {
        for _ in 0..count {
            sent += 1;
            from.send_to(record("udp", sent).as_bytes(), to).unwrap();
        }
    };
    for _ in 0..3 {
        send(50);
        let server = setup.start();
        assert_eq!(server.udp_addr(), to);
        send(50);
        server.stop();
        send(50);
    }
    let server = setup.start();
    until("all of them are stored", || setup.records().len() == 450);
    server.stop();
    let numbers: Vec<u64> = setup.records().iter().map(|line| origin(line).unwrap().1).collect();
    assert!(numbers.iter().copied().eq(1..=450), "each once, in order");
});

on_each_backend!(a_server_waits_for_the_directory_no_longer_than_it_may, |setup: Setup| {
    let first = setup.start();
    let began = Instant::now();
    let refused = setup.clone().flag("--lock-wait", "300ms").try_start().err().expect("the directory is taken");
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("waiting up to 300ms"), "{}", refused.stderr);
    assert!(refused.stderr.contains("another server already writes"), "{}", refused.stderr);
    let setup = setup.flag("--lock-wait", "30s");
    let next = thread::spawn(move || setup.start());
    thread::sleep(Duration::from_millis(200));
    first.stop();
    assert_eq!(next.join().unwrap().connect().ask(record("p", 1)), OK);
});

on_each_backend!(what_cannot_be_served_is_refused_by_name, |setup: Setup| {
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = setup.clone().passing(bind()).passing(bind()).try_start().err().expect("there is one shard");
    assert!(refused.stderr.contains("2 listeners were passed on and there are 1 shards"), "{}", refused.stderr);
    let listener = bind();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let refused = setup.passing(connected).try_start().err().expect("a connection is no listener");
    assert!(refused.stderr.contains("descriptor 3 (unknown), passed on by LISTEN_FDS"), "{}", refused.stderr);
    assert!(refused.stderr.contains("Accept=no"), "{}", refused.stderr);
});
