//! TLS on the server's only port: what is said inside of it is what is said outside, and whatever goes wrong has a clear
//! end.

use crate::support::client::{Client, PATIENCE};
use crate::support::lines::{OK, code, joined, json, record};
use crate::support::on_each_backend;
use crate::support::process::{Server, Setup};
use crate::support::tls::{Ca, Pair, TlsStream, client_config};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// A CA, and a server that shows a certificate of it.
struct House {
    setup: Setup,
    ca: Ca,
}

impl House {
    fn new(setup: Setup, mode: &str) -> House {
        let ca = Ca::new();
        ca.server(&["localhost", "127.0.0.1"]).lay(&setup.room().join("certs"));
        let dir = setup.room().join("certs").into_os_string().into_string().unwrap();
        House { setup: setup.env("ENABLE_TLS", mode).env("CERT_DIR", &dir), ca }
    }

    /// Clients need a certificate of the same CA.
    fn mutual(setup: Setup) -> House {
        let mut house = House::new(setup, "require");
        let file = house.setup.room().join("clients.crt");
        fs::write(&file, house.ca.pem()).unwrap();
        house.setup = house.setup.env("CLIENT_CA", file.to_str().unwrap());
        house
    }

    fn trusting(&self) -> Arc<ClientConfig> {
        client_config(&self.ca.pem(), None, ANY)
    }

    fn connect(&self, server: &Server) -> Client {
        Client::encrypted(TlsStream::connect(server.addr(), self.trusting()).unwrap())
    }
}

/// What a server says to these bytes before it closes. The sender's side stays open.
fn said_to(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.addr()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).expect("the server closes");
    said
}

/// Waits until `is_so`, which a signal brings about.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What a client hears at its first words: the error of its own TLS, or the alert of the server's.
fn refusal(server: &Server, config: Arc<ClientConfig>) -> String {
    let attempt = || -> io::Result<()> {
        let mut stream = TlsStream::connect(server.addr(), config)?;
        // In 1.3 a client is done before the server has looked at its certificate.
        stream.write_all(b"{}\n")?;
        stream.read_exact(&mut [0])
    };
    attempt().expect_err("it is refused").to_string()
}

const ANY: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
/// Of a record: a fatal alert.
const ALERT: u8 = 21;

on_each_backend!(lines_inside_tls_are_stored_and_answered_like_any_others, |setup: Setup| {
    let house = House::new(setup, "require");
    let server = house.setup.start();
    let lines: Vec<String> = (0..20_000).map(|number| record("t", number)).collect();
    let replies = house.connect(&server).exchange(joined(&lines));
    assert_eq!(replies.len(), lines.len());
    assert!(replies.iter().all(|reply| reply == OK));
    let ended = server.stop();
    assert!(ended.stderr.contains("TLS 1.3 required, certificate of localhost, 127.0.0.1 until 2099-01-01"));
    assert!(ended.stderr.contains("TLS: 1 handshakes, 0 failures; the books close"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("PRIVATE"), "of the key nothing is shown");
    assert!(house.setup.records() == lines, "the stored bytes are the sent bytes");
    house.setup.assert_verified();
});

on_each_backend!(a_session_inside_tls_finds_its_home_and_is_resumed, |setup: Setup| {
    let house = House::new(setup.shards(2), "require");
    let server = house.setup.start();
    // The kernel deals connections by hash: of this many, some are not at home where they arrive.
    for number in 0..24 {
        let name = format!("producer-{number}");
        let hello = format!(r#"{{"$hello":{{"v":1,"producer":"{name}","epoch":1}}}}"#);
        let mut client = house.connect(&server);
        client.send(joined([hello.clone()].into_iter().chain((1..=300).map(|seq| record(&name, seq)))));
        assert_eq!(json(&client.line())["$welcome"]["last_seq"], 0);
        assert_eq!(client.settled(300).stored, 300);
        drop(client); // Without a word.
        let mut client = house.connect(&server);
        client.send(joined([hello].into_iter().chain((301..=600).map(|seq| record(&name, seq)))));
        assert_eq!(json(&client.line())["$welcome"]["last_seq"], 300);
        let (settled, totals) = client.bye();
        assert_eq!((settled.upto, totals["stored"].as_u64()), (600, Some(300)));
    }
    let ended = server.stop();
    assert!(ended.stderr.contains("TLS: 48 handshakes, 0 failures"), "{}", ended.stderr);
    assert_eq!(house.setup.records().len(), 24 * 600);
    house.setup.assert_verified();
});

on_each_backend!(certificates_are_read_again_without_touching_a_connection, |setup: Setup| {
    let house = House::new(setup.shards(2), "require");
    let certs = house.setup.room().join("certs");
    let server = house.setup.start();
    let before = TlsStream::connect(server.addr(), house.trusting()).unwrap();
    let first = before.server_certificate();
    let mut before = Client::encrypted(before);
    assert_eq!(before.ask(record("before", 1)), OK);

    fs::write(certs.join("server.key"), Ca::new().server(&["localhost"]).key).unwrap();
    server.signal("HUP");
    wait_until("a bad key is told", || server.stderr().contains("what was read before stays in use"));
    assert!(server.stderr().contains("server.key is not the key of"), "{}", server.stderr());
    let meanwhile = TlsStream::connect(server.addr(), house.trusting()).unwrap();
    assert_eq!(meanwhile.server_certificate(), first, "what is bad is not used");

    house.ca.server(&["localhost", "renewed.example"]).lay(&certs);
    server.signal("HUP");
    wait_until("it is read again", || server.stderr().contains("read again: TLS 1.3 required"));
    assert!(server.stderr().contains("certificate of localhost, renewed.example until"), "{}", server.stderr());
    // Of several connections each shard has some.
    for _ in 0..8 {
        wait_until("the new one is shown", || {
            TlsStream::connect(server.addr(), house.trusting()).unwrap().server_certificate() != first
        });
    }
    assert_eq!(before.ask(record("before", 2)), OK, "who was there goes on");
    assert_eq!(Client::encrypted(meanwhile).ask(record("meanwhile", 1)), OK);
    server.stop();
    assert_eq!(house.setup.records().len(), 3);
});

on_each_backend!(without_tls_there_is_nothing_to_read_again, |setup: Setup| {
    let server = setup.start();
    server.signal("HUP");
    wait_until("it says so", || server.stderr().contains("SIGHUP is ignored"));
    assert_eq!(server.connect().ask(record("p", 1)), OK);
});

on_each_backend!(one_port_takes_both_or_says_what_it_takes, |setup: Setup| {
    let house = House::new(setup.clone(), "allow");
    let server = house.setup.start();
    assert_eq!(house.connect(&server).ask(record("t", 1)), OK);
    assert_eq!(server.connect().ask(record("p", 1)), OK);
    server.stop();

    let house = House::new(setup.beside(), "true"); // As the first design had it: nothing else.
    let server = house.setup.start();
    assert_eq!(house.connect(&server).ask(record("t", 1)), OK);
    for first in ["{\"level\":\"info\",\"message\":1}\n", "{\"$hello\":", "\u{1f}"] {
        let said = String::from_utf8(said_to(&server, first.as_bytes())).unwrap();
        assert_eq!(code(said.trim_end()), "tls_required");
    }
    let ended = server.stop();
    assert!(ended.stderr.contains("TLS: 1 handshakes, 3 failures; the books close"), "{}", ended.stderr);

    let server = setup.start();
    let refused = refusal(&server, house.trusting());
    assert!(refused.contains("received fatal alert: HandshakeFailure"), "{refused}");
    assert!(server.stop().stderr.contains("TLS: 0 handshakes, 1 failures; the books close"));
});

on_each_backend!(what_is_no_handshake_ends_with_an_alert_and_costs_nobody_else, |setup: Setup| {
    let house = House::new(setup, "allow");
    let server = house.setup.start();
    let mut other = house.connect(&server);
    let garbage: [&[u8]; 6] = [
        b"\x16\x03\x01\x00\x05hello and so on",
        b"\x16\x03\x01\xff\xff no record is as long as this",
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x00\x00\x00\x00\x00\x00",
        b"\x16GET / HTTP/1.1\r\n\r\n",
    ];
    for bytes in garbage {
        let said = said_to(&server, bytes);
        assert_eq!(said.first(), Some(&ALERT), "to {bytes:x?}: {said:x?}");
        assert_eq!(other.ask(record("other", 1)), OK);
    }
    // A handshake that is given up half way.
    for len in [1, 6, 40, 100] {
        let mut stream = TcpStream::connect(server.addr()).unwrap();
        let mut hello = Vec::new();
        let name = "localhost".try_into().unwrap();
        rustls::ClientConnection::new(house.trusting(), name).unwrap().write_tls(&mut hello).unwrap();
        stream.write_all(&hello[..len]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).expect("the server closes");
    }
    // A record that breaks the encryption, behind a line that did not.
    let mut broken = house.connect(&server);
    assert_eq!(broken.ask(record("broken", 1)), OK);
    let mut tcp = broken.stream().try_clone().unwrap();
    tcp.write_all(b"\x17\x03\x03\x00\x20 that is no record of this session").unwrap();
    let mut rest = Vec::new();
    tcp.read_to_end(&mut rest).expect("the server closes");
    assert!(!rest.is_empty(), "it says why, encrypted");
    drop(other);
    let ended = server.stop();
    assert!(ended.stderr.contains("TLS: 2 handshakes, 11 failures; the books close"), "{}", ended.stderr);
    assert_eq!(house.setup.records().len(), garbage.len() + 1);
});

on_each_backend!(versions_below_the_oldest_are_refused, |setup: Setup| {
    let house = House::new(setup.clone(), "require");
    let old = client_config(&house.ca.pem(), None, &[&TLS12]);
    let server = house.setup.start();
    let refused = refusal(&server, old);
    assert!(refused.contains("received fatal alert: ProtocolVersion"), "{refused}");
    server.stop();

    let house = House::new(setup.beside().env("TLS_MIN", "1.2"), "require");
    let server = house.setup.start();
    for versions in [&[&TLS12][..], &[&TLS13]] {
        let config = client_config(&house.ca.pem(), None, versions);
        let client = Client::encrypted(TlsStream::connect(server.addr(), config).unwrap());
        let lines: Vec<String> = (0..1000).map(|number| record("t", number)).collect();
        assert_eq!(client.exchange(joined(lines)).len(), 1000);
    }
    server.stop();
});

on_each_backend!(a_client_without_the_right_certificate_is_told_which_is_wrong, |setup: Setup| {
    let house = House::mutual(setup);
    let server = house.setup.start();
    let with = |pair: Option<&Pair>| client_config(&house.ca.pem(), pair, ANY);
    for (pair, why) in [
        (None, "CertificateRequired"),
        (Some(house.ca.expired_client()), "CertificateExpired"),
        (Some(Ca::new().client()), "UnknownCA"),
        (Some(house.ca.server(&["localhost"])), "UnsupportedCertificate"),
    ] {
        let refused = refusal(&server, with(pair.as_ref()));
        assert!(refused.contains(why), "{why}: {refused}");
    }
    let known = with(Some(&house.ca.client()));
    let mut client = Client::encrypted(TlsStream::connect(server.addr(), known).unwrap());
    assert_eq!(client.ask(record("known", 1)), OK);
    let ended = server.stop();
    assert!(ended.stderr.contains("TLS: 1 handshakes, 4 failures; the books close"), "{}", ended.stderr);
    assert_eq!(house.setup.records().len(), 1, "of the others nothing was taken");
});

on_each_backend!(an_end_without_a_word_is_an_end, |setup: Setup| {
    let house = House::new(setup, "require");
    let server = house.setup.start();
    let mut client = house.connect(&server);
    client.send(joined((0..500).map(|number| record("t", number))));
    client.send(record("t", 500)); // Without its newline.
    client.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest().len(), 501, "and close_notify behind the last answer");
    let ended = server.stop();
    assert!(ended.stderr.contains("TLS: 1 handshakes, 0 failures"), "{}", ended.stderr);
    assert_eq!(house.setup.records().len(), 501);
});

on_each_backend!(a_client_that_reads_nothing_is_ingested_on_in_bounded_memory, |setup: Setup| {
    const LINES: u64 = 150_000;
    let house = House::new(setup.ack("written"), "require");
    let server = house.setup.start();
    // Pools are filled by one that reads.
    house.connect(&server).exchange(joined((0..LINES).map(|number| record("reads", number))));
    let before = server.memory_kib("VmRSS");
    let mut deaf = TlsStream::connect(server.addr(), house.trusting()).unwrap();
    for number in 0..LINES / 1000 {
        let from = number * 1000;
        deaf.write_all(&joined((from..from + 1000).map(|number| record("deaf", number)))).unwrap();
    }
    deaf.say_end().unwrap();
    wait_until("all of it is stored", || {
        let stored = house.setup.records();
        stored.iter().filter(|line| line.contains("deaf")).count() as u64 == LINES
    });
    let grown = server.memory_kib("VmRSS").saturating_sub(before);
    assert!(grown < 8 << 10, "{grown} KiB more for one that reads nothing");
    server.stop();
});

on_each_backend!(a_storm_of_handshakes_is_served_in_turn, |setup: Setup| {
    let house = House::new(setup, "require");
    let server = house.setup.start();
    let mut settled = house.connect(&server);
    let crowd: Vec<_> = (0..8)
        .map(|number| {
            let (addr, config) = (server.addr(), house.trusting());
            thread::spawn(move || {
                for attempt in 0..25 {
                    let mut client = Client::encrypted(TlsStream::connect(addr, config.clone()).unwrap());
                    assert_eq!(client.ask(record(&format!("crowd-{number}"), attempt)), OK);
                }
            })
        })
        .collect();
    (0..20).for_each(|number| assert_eq!(settled.ask(record("settled", number)), OK));
    crowd.into_iter().for_each(|one| one.join().unwrap());
    drop(settled);
    let ended = server.stop();
    assert!(ended.stderr.contains("TLS: 201 handshakes, 0 failures; the books close"), "{}", ended.stderr);
});
