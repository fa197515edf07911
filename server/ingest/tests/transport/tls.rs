//! TLS: the same lines and answers inside of it, and clear ends where it fails.

use crate::{House, TlsConfig, lines, oks};
use flate2::Compression;
use flate2::write::GzEncoder;
use ringest_ingest::SessionId;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};
use std::io::{Read, Write};
use std::sync::Arc;

fn configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let certificate = CertificateDer::from(made.cert);
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let server = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

/// A client's side of one connection.
struct Peer {
    tls: ClientConnection,
    id: SessionId,
    /// Of what the server said, so much is read.
    read: usize,
    /// Bytes of it that were not wanted yet.
    unsent: Vec<u8>,
    text: String,
    sent: usize,
    /// What it sends and what it reads is each cut at this byte of the whole.
    cut: Option<usize>,
}

impl Peer {
    fn new(house: &mut House, config: Arc<ClientConfig>) -> Peer {
        let tls = ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
        Peer { tls, id: house.accept(), read: 0, unsent: Vec::new(), text: String::new(), sent: 0, cut: None }
    }

    /// Both sides talk until neither has anything to say. `piece`: bytes that arrive at once.
    fn talk(&mut self, house: &mut House, piece: usize) {
        loop {
            let mut out = Vec::new();
            while self.tls.wants_write() {
                self.tls.write_tls(&mut out).unwrap();
            }
            for part in parts(&out, self.sent, self.cut) {
                part.chunks(piece).for_each(|chunk| house.send(self.id, chunk));
            }
            self.sent += out.len();
            house.run();
            let said = house.said.get(&self.id.token()).cloned().unwrap_or_default();
            let news = &said[self.read..];
            if news.is_empty() && out.is_empty() {
                return;
            }
            for mut part in parts(news, self.read, self.cut) {
                while !part.is_empty() {
                    self.tls.read_tls(&mut part).unwrap();
                    self.tls.process_new_packets().unwrap();
                    // It would block where more may come, and that is as much as there is.
                    let _ = self.tls.reader().read_to_string(&mut self.text);
                }
            }
            self.read = said.len();
        }
    }

    fn heard(&mut self) -> String {
        std::mem::take(&mut self.text)
    }
}

/// Bytes that begin at `at` of the whole, in two where the cut is among them.
fn parts(bytes: &[u8], at: usize, cut: Option<usize>) -> [&[u8]; 2] {
    let (before, behind) = bytes.split_at(cut.map_or(0, |cut| cut.saturating_sub(at)).min(bytes.len()));
    [before, behind]
}

#[test]
fn lines_are_stored_and_answered_inside_tls_however_it_is_cut() {
    let (server, client) = configs();
    for piece in [1, 7, 1000, usize::MAX >> 1] {
        let tls = TlsConfig { server: server.clone(), is_required: true };
        let mut house = House::with(|config| config.tls = Some(tls));
        let mut peer = Peer::new(&mut house, client.clone());
        peer.talk(&mut house, piece);
        peer.tls.writer().write_all(lines(0..500).as_bytes()).unwrap();
        peer.talk(&mut house, piece);
        assert_eq!(peer.heard(), oks(500));
        peer.tls.send_close_notify();
        peer.talk(&mut house, piece);
        assert!(house.is_closed(peer.id));
        assert_eq!(String::from_utf8(house.stored).unwrap(), lines(0..500));
    }
}

#[test]
fn a_handshake_and_lines_cut_at_any_byte_are_the_same_in_both_directions() {
    let (server, client) = configs();
    let mut len_max = 0;
    for cut in 0.. {
        let tls = TlsConfig { server: server.clone(), is_required: true };
        let mut house = House::with(|config| config.tls = Some(tls));
        let mut peer = Peer::new(&mut house, client.clone());
        peer.cut = Some(cut);
        peer.talk(&mut house, usize::MAX >> 1);
        peer.tls.writer().write_all(lines(0..3).as_bytes()).unwrap();
        peer.tls.send_close_notify();
        peer.talk(&mut house, usize::MAX >> 1);
        assert_eq!(peer.heard(), oks(3), "cut at {cut}");
        assert!(house.is_closed(peer.id), "cut at {cut}");
        assert_eq!(String::from_utf8(house.stored).unwrap(), lines(0..3), "cut at {cut}");
        len_max = len_max.max(peer.sent).max(peer.read);
        if cut > len_max {
            break;
        }
    }
    assert!(len_max > 500, "a handshake is longer than {len_max}");
}

#[test]
fn the_last_answer_comes_before_the_last_word() {
    let (server, client) = configs();
    let mut house = House::with(|config| config.tls = Some(TlsConfig { server, is_required: true }));
    let mut peer = Peer::new(&mut house, client);
    peer.talk(&mut house, usize::MAX >> 1);
    peer.tls.writer().write_all(lines(0..500).as_bytes()).unwrap();
    peer.tls.send_close_notify();
    peer.talk(&mut house, usize::MAX >> 1);
    assert_eq!(peer.heard(), oks(500));
    let ended = peer.tls.reader().read(&mut [0]);
    assert_eq!(ended.expect("the end is said, and not only come to"), 0);
    assert!(house.is_closed(peer.id));
}

#[test]
fn gzip_that_ends_inside_of_a_member_is_cut_however_well_tls_ends() {
    let (server, client) = configs();
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(lines(0..5).as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    for (len, is_cut) in [(packed.len(), false), (packed.len() - 1, true), (1, true)] {
        let tls = TlsConfig { server: server.clone(), is_required: true };
        let mut house = House::with(|config| config.tls = Some(tls));
        let mut peer = Peer::new(&mut house, client.clone());
        peer.talk(&mut house, usize::MAX >> 1);
        peer.tls.writer().write_all(&packed[..len]).unwrap();
        peer.tls.send_close_notify();
        peer.talk(&mut house, usize::MAX >> 1);
        let said = peer.heard();
        assert_eq!(said.starts_with(&oks(5)), len > 1, "{said}");
        assert_eq!(said.ends_with("\"code\":\"gzip_corrupt\"}\n"), is_cut, "{said}");
        assert!(house.is_closed(peer.id));
    }
}

#[test]
fn handshakes_and_their_failures_are_counted() {
    let (server, client) = configs();
    let mut house = House::with(|config| config.tls = Some(TlsConfig { server, is_required: true }));
    let count = |house: &House| (house.shard.tally().tls_handshakes, house.shard.tally().tls_failures);
    let mut peer = Peer::new(&mut house, client.clone());
    peer.talk(&mut house, 100);
    assert_eq!(count(&house), (1, 0));
    let plain = house.accept();
    house.send(plain, lines(0..1).as_bytes());
    let garbage = house.accept();
    house.send(garbage, b"\x16\x03\x01\x00\x05hello and so on");
    assert_eq!(count(&house), (1, 2));
    let half = house.accept();
    let mut tls = ClientConnection::new(client, ServerName::try_from("localhost").unwrap()).unwrap();
    let mut out = Vec::new();
    tls.write_tls(&mut out).unwrap();
    house.send(half, &out[..out.len() / 2]);
    assert_eq!(count(&house), (1, 2));
    house.end(half);
    assert_eq!(count(&house), (1, 3), "half a handshake is none");
    house.send(peer.id, b"\x17\x03\x03\x00\x20and what follows is no record of ours");
    assert!(house.is_closed(peer.id));
    assert_eq!(count(&house), (1, 4));
}

#[test]
fn without_tls_whoever_asks_for_it_gets_an_alert_at_once() {
    let mut house = House::new();
    let (_, client) = configs();
    let mut peer = Peer::new(&mut house, client);
    let mut out = Vec::new();
    peer.tls.write_tls(&mut out).unwrap();
    house.send(peer.id, &out[..1]);
    assert!(house.is_closed(peer.id), "at its first byte");
    let mut said = &house.said[&peer.id.token()][..];
    peer.tls.read_tls(&mut said).unwrap();
    let error = peer.tls.process_new_packets().unwrap_err();
    assert_eq!(error, rustls::Error::AlertReceived(rustls::AlertDescription::HandshakeFailure));
    assert_eq!(house.shard.tally().tls_failures, 1);
}

#[test]
fn a_plain_connection_is_refused_where_tls_is_required_and_served_where_it_is_not() {
    let (server, _) = configs();
    for is_required in [true, false] {
        let mut house = House::with(|config| config.tls = Some(TlsConfig { server: server.clone(), is_required }));
        let id = house.accept();
        house.send(id, lines(0..1).as_bytes());
        let refused = "{\"status\":\"error\",\"message\":\"TLS required\",\"code\":\"tls_required\"}\n";
        assert_eq!(house.said(id), if is_required { refused.into() } else { oks(1) });
        assert_eq!(house.is_closed(id), is_required);
    }
}

#[test]
fn garbage_that_begins_like_tls_gets_an_alert_and_is_closed() {
    let (server, _) = configs();
    let mut house = House::with(|config| config.tls = Some(TlsConfig { server, is_required: false }));
    let id = house.accept();
    house.send(id, b"\x16\x03\x01\x00\x05hello and so on");
    assert!(house.is_closed(id));
    assert_eq!(house.said[&id.token()][0], 21, "an alert");
    assert!(house.stored.is_empty());
}

#[test]
fn handshakes_wait_for_one_another_and_none_is_forgotten() {
    let (server, client) = configs();
    let mut house = House::with(|config| {
        config.tls = Some(TlsConfig { server, is_required: true });
        (config.limits.handshakes_max, config.limits.handshake_starts_max) = (3, 2);
    });
    let mut peers: Vec<Peer> = (0..10).map(|_| Peer::new(&mut house, client.clone())).collect();
    for peer in &mut peers {
        let mut hello = Vec::new();
        peer.tls.write_tls(&mut hello).unwrap();
        let (first, rest) = hello.split_at(1);
        house.send(peer.id, first);
        if house.shard.wants(peer.id) {
            house.send(peer.id, rest);
        } else {
            peer.unsent = rest.to_vec();
        }
    }
    let answered =
        |house: &House, peers: &[Peer]| peers.iter().filter(|peer| house.said.contains_key(&peer.id.token())).count();
    assert_eq!(answered(&house, &peers), 3, "as many as may be under way, although each had its turn");
    // One goes away, and its place is taken.
    let gone = peers.remove(0);
    house.shard.handle_lost(gone.id, house.now);
    house.run();
    let waits = peers[2].unsent.clone();
    house.send(peers[2].id, &waits);
    peers[2].unsent.clear();
    assert_eq!(answered(&house, &peers), 3);
    for peer in &mut peers {
        let unsent = std::mem::take(&mut peer.unsent);
        house.send(peer.id, &unsent);
        peer.talk(&mut house, 100);
        peer.tls.writer().write_all(lines(0..1).as_bytes()).unwrap();
        peer.talk(&mut house, 100);
        assert_eq!(peer.heard(), oks(1));
    }
    assert_eq!((house.shard.tally().tls_handshakes, house.shard.tally().tls_failures), (9, 1));
}

#[test]
fn new_certificates_are_for_new_connections() {
    let (server, client) = configs();
    let mut house = House::with(|config| config.tls = Some(TlsConfig { server, is_required: true }));
    let mut old = Peer::new(&mut house, client.clone());
    old.talk(&mut house, 1000);
    let (server, newer) = configs();
    house.shard.handle_tls(TlsConfig { server, is_required: true });
    let mut new = Peer::new(&mut house, newer);
    for peer in [&mut old, &mut new] {
        peer.tls.writer().write_all(lines(0..1).as_bytes()).unwrap();
        peer.talk(&mut house, 1000);
        assert_eq!(peer.heard(), oks(1));
    }
    let mut mistaken = Peer::new(&mut house, client);
    let mut hello = Vec::new();
    mistaken.tls.write_tls(&mut hello).unwrap();
    house.send(mistaken.id, &hello);
    let mut said = &house.said[&mistaken.id.token()][..];
    mistaken.tls.read_tls(&mut said).unwrap();
    assert!(mistaken.tls.process_new_packets().is_err(), "it is another certificate");
}

#[test]
fn new_keys_are_taken_and_not_without_end() {
    let (server, client) = configs();
    let mut house = House::with(|config| config.tls = Some(TlsConfig { server, is_required: true }));
    let mut peer = Peer::new(&mut house, client);
    peer.talk(&mut house, 1000);
    for _ in 0..100 {
        peer.tls.refresh_traffic_keys().unwrap();
        peer.tls.writer().write_all(lines(0..1).as_bytes()).unwrap();
        peer.talk(&mut house, 1000);
        assert_eq!(peer.heard(), oks(1));
    }
    for _ in 0..100 {
        peer.tls.refresh_traffic_keys().unwrap();
    }
    let mut out = Vec::new();
    while peer.tls.wants_write() {
        peer.tls.write_tls(&mut out).unwrap();
    }
    house.send(peer.id, &out);
    assert!(house.is_closed(peer.id), "keys and nothing else cost much and bring nothing");
    assert_eq!(house.shard.tally().tls_failures, 1);
}

#[test]
fn an_answer_that_is_not_taken_is_the_only_one_that_is_encoded() {
    let (server, client) = configs();
    let mut house = House::with(|config| config.tls = Some(TlsConfig { server, is_required: true }));
    let mut peer = Peer::new(&mut house, client);
    peer.talk(&mut house, 1000);
    house.holds_sends = true;
    for _ in 0..200 {
        peer.tls.writer().write_all(lines(0..100).as_bytes()).unwrap();
        let mut out = Vec::new();
        while peer.tls.wants_write() {
            peer.tls.write_tls(&mut out).unwrap();
        }
        house.send(peer.id, &out);
    }
    assert_eq!(house.held_sends.len(), 1);
    house.holds_sends = false;
    let (id, buf) = house.held_sends.pop().unwrap();
    house.said.entry(id.token()).or_default().extend_from_slice(&buf);
    house.shard.handle_sent(id, buf, house.now);
    house.run();
    peer.talk(&mut house, 1000);
    assert_eq!(peer.heard(), oks(20_000));
}
