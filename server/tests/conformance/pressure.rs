//! Many clients, greedy clients, and clients that do not read: each harms itself alone.

use crate::support::client::{Client, PATIENCE};
use crate::support::lines::{OK, joined, json, record};
use crate::support::on_each_backend;
use crate::support::process::Setup;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// Taken by the cases that use all of the machine, so that they do not measure each other.
static MACHINE: Mutex<()> = Mutex::new(());

on_each_backend!(a_plain_client_that_never_reads_is_muted_and_ingestion_goes_on, |setup: Setup| {
    // Their replies are many times what the sockets' buffers hold.
    const LINES: u64 = 400_000;
    let setup = setup.ack("written");
    let server = setup.start();
    let mut deaf = server.connect();
    let line = "{\"level\":\"info\",\"message\":1}\n";
    let piece = line.repeat(1000);
    let started = Instant::now();
    (0..LINES / 1000).for_each(|_| deaf.send(&piece));
    assert!(started.elapsed() < PATIENCE, "the server went on reading");
    assert_eq!(server.connect().ask(record("other", 1)), OK);
    deaf.half_close();
    thread::sleep(Duration::from_millis(1500));
    let mut replies = Vec::new();
    deaf.stream().read_to_end(&mut replies).unwrap();
    let whole = replies.len() / (OK.len() + 1);
    assert!((whole as u64) < LINES, "it gets no more replies once it has taken none for a second");
    assert!(replies == (format!("{OK}\n").repeat(whole + 1)).as_bytes()[..replies.len()], "those before are whole");
    server.stop();
    assert_eq!(setup.records().len() as u64, LINES + 1, "every line is stored");
});

on_each_backend!(a_session_that_never_reads_stalls_itself_alone_and_loses_nothing, |setup: Setup| {
    let server = setup.start();
    let mut deaf = server.connect();
    deaf.hello(r#""producer":"deaf""#);
    let ping = "{\"$ping\":18446744073709551615}\n";
    let piece = ping.repeat(1000);
    deaf.stream().set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut sent = 0;
    loop {
        match deaf.stream().write(&piece.as_bytes()[sent % piece.len()..]) {
            Ok(len) => sent += len,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => panic!("a session is stalled, not closed: {error}"),
        }
        assert!(sent < 512 << 20, "the server reads on from a client that does not read");
    }
    let mut other = server.connect();
    let started = Instant::now();
    (1..=100).for_each(|number| assert_eq!(other.ask(record("other", number)), OK));
    assert!(started.elapsed() < Duration::from_secs(10), "others are served meanwhile");

    let mut stream = deaf.stream().try_clone().unwrap();
    let rest = piece.as_bytes()[sent % piece.len()..].to_vec();
    let sender = thread::spawn(move || {
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&rest).unwrap();
        stream.write_all(format!("{}\n{{\"$bye\":1}}\n", record("deaf", 1)).as_bytes()).unwrap();
        rest.len()
    });
    let said = deaf.rest();
    let pings = (sent + sender.join().unwrap()) / ping.len();
    assert_eq!(said.iter().filter(|line| line.starts_with("{\"$pong\"")).count(), pings, "every ping is answered");
    assert_eq!(json(said.last().unwrap())["$bye"]["stored"], 1);
});

on_each_backend!(five_hundred_connections_at_once_are_all_served, |setup: Setup| {
    const CONNECTIONS: u64 = 500;
    const LINES: u64 = 10;
    let setup = setup.shards(2);
    let server = setup.start();
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| server.connect()).collect();
    for number in 0..LINES {
        for (at, client) in clients.iter_mut().enumerate() {
            client.say(record(&format!("c{at}"), number));
        }
    }
    for client in &mut clients {
        assert_eq!(client.lines(LINES as usize), vec![OK; LINES as usize]);
    }
    for client in clients {
        assert!(client.finish().is_empty());
    }
    server.stop();
    let mut records = setup.records();
    records.sort();
    records.dedup();
    assert_eq!(records.len() as u64, CONNECTIONS * LINES);
});

on_each_backend!(greedy_connections_are_served_alike, |setup: Setup| {
    const CONNECTIONS: usize = 32;
    // Many turns: in one, a backend may take a mebibyte of a connection, which is 5,800 lines.
    const LINES_EACH: usize = 80_000;
    let _machine = MACHINE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let server = setup.clone().ack("written").start();
    let mut greedy: Vec<Greedy> = (0..CONNECTIONS).map(|_| Greedy::connect(server.addr())).collect();
    let started = Instant::now();
    let mut take_turns_until = |is_enough: &dyn Fn(&[usize]) -> bool| -> Vec<usize> {
        let before: Vec<usize> = greedy.iter().map(Greedy::served).collect();
        loop {
            greedy.iter_mut().for_each(Greedy::turn);
            let served: Vec<usize> = greedy.iter().zip(&before).map(|(it, before)| it.served() - before).collect();
            assert!(started.elapsed() < 2 * PATIENCE, "somebody starves: {served:?}");
            if is_enough(&served) {
                return served;
            }
        }
    };
    let ratio = |served: &[usize]| *served.iter().min().unwrap() as f64 / *served.iter().max().unwrap() as f64;
    // The kernel gives a connection a larger window as it is read; until each has one, they are not alike.
    take_turns_until(&|served| served.iter().all(|count| *count > LINES_EACH / 8));
    // Chance evens out with time and a bias does not, so a busy machine is given more of it.
    let served = take_turns_until(&|served| {
        let each = served.iter().sum::<usize>() / CONNECTIONS;
        each > LINES_EACH && (ratio(served) >= 0.5 || each > 4 * LINES_EACH)
    });
    println!("{}: least served over best served: {:.2}", setup.on.as_str(), ratio(&served));
    assert!(ratio(&served) >= 0.5, "{served:?}");
    server.kill();
});

on_each_backend!(descriptors_come_back_after_a_flood_of_connections, |setup: Setup| {
    let setup = setup.shards(2);
    let server = setup.start();
    assert_eq!(server.connect().ask(record("first", 1)), OK);
    let settled = |most: usize| {
        let started = Instant::now();
        while server.descriptors() > most {
            assert!(started.elapsed() < Duration::from_secs(10), "{} descriptors, not {most}", server.descriptors());
            thread::sleep(Duration::from_millis(20));
        }
    };
    thread::sleep(Duration::from_millis(100)); // The first connection goes, and the first segments are there.
    let before = server.descriptors();
    for number in 0..3000 {
        let mut client = TcpStream::connect(server.addr()).unwrap();
        match number % 5 {
            0 => {}                                                        // Says nothing.
            1 => client.write_all(&joined([record("flood", 1)])).unwrap(), // Leaves its reply unread: a reset.
            2 => client.write_all(b"{\"level\":").unwrap(),
            3 => client.write_all(b"{\"$hello\":{\"v\":1,").unwrap(),
            _ => {
                client.write_all(format!("{{\"$hello\":{{\"v\":1,\"producer\":\"p{number}\"}}}}\n").as_bytes()).unwrap()
            }
        }
    }
    settled(before);
    assert_eq!(server.connect().ask(record("last", 1)), OK);
    server.stop();
    setup.assert_verified();
});

on_each_backend!(a_connection_of_garbage_is_refused_unread_and_its_neighbours_are_not, |setup: Setup| {
    let server = setup.env("CIRCUIT_BREAKER_ENABLED", "true").start();
    let (mut garbage, mut other) = (server.connect(), server.connect());
    let mut session = server.connect();
    session.hello(r#""producer":"garbage""#);
    for client in [&mut garbage, &mut session] {
        client.send("no\n".repeat(200));
    }
    assert!(garbage.lines(200).iter().all(|line| json(line)["message"] == "invalid JSON"));
    let refused = json(&garbage.ask(record("garbage", 1)));
    assert_eq!((&refused["message"], &refused["code"]), (&"circuit open".into(), &"circuit_open".into()), "{refused}");
    assert!((250..=10_000).contains(&refused["retry_after_ms"].as_u64().unwrap()), "{refused}");
    assert_eq!(json(&garbage.ask("no"))["code"], "circuit_open", "it is not looked at");
    session.settled(200);
    let nack = json(&session.ask(record("garbage", 1)));
    assert_eq!((&nack["$nack"]["code"], &nack["$nack"]["from"]), (&"circuit_open".into(), &201.into()), "{nack}");
    assert_eq!(other.ask(record("other", 1)), OK);
    assert_eq!(server.connect().ask(record("other", 2)), OK);
    let ended = server.stop();
    assert!(ended.stderr.contains("breakers of lines opened 2 times"), "{}", ended.stderr);
});

on_each_backend!(by_default_bad_lines_never_cost_the_next_one, |setup: Setup| {
    let server = setup.start();
    let mut client = server.connect();
    client.send("no\n".repeat(1000));
    client.lines(1000);
    assert_eq!(client.ask(record("next", 1)), OK);
});

/// Sends as much as the kernel takes and reads every reply: there is always more waiting than the server can take.
struct Greedy {
    stream: TcpStream,
    lines: Vec<u8>,
    /// How much of `lines` is sent; they begin again when all are.
    sent: usize,
    /// Bytes of replies.
    read: usize,
}

impl Greedy {
    fn connect(addr: SocketAddr) -> Greedy {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nonblocking(true).unwrap();
        let line = format!("{{\"level\":\"info\",\"message\":\"{}\"}}\n", "x".repeat(150));
        Greedy { stream, lines: line.repeat(400).into_bytes(), sent: 0, read: 0 }
    }

    fn served(&self) -> usize {
        self.read / (OK.len() + 1)
    }

    fn turn(&mut self) {
        let mut buf = [0; 64 << 10];
        match self.stream.write(&self.lines[self.sent..]) {
            Ok(len) => self.sent = (self.sent + len) % self.lines.len(),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
        match self.stream.read(&mut buf) {
            Ok(len) => self.read += len,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }
}
