//! Who may come in.

use crate::support::client::Client;
use crate::support::lines::{OK, json, record};
use crate::support::on_each_backend;
use crate::support::process::{Server, Setup};
use crate::until;
use ringest_sys::net;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

on_each_backend!(connections_beyond_the_last_are_told_so_and_closed, |setup: Setup| {
    let server = setup.shards(2).flag("--max-connections", 5).flag("--max-connections-per-address", 5).start();
    let mut inside: Vec<Client> = (0..5).map(|_| server.connect()).collect();
    all_are_served(&mut inside);
    for _ in 0..20 {
        assert_refused(server.connect());
    }
    all_are_served(&mut inside);
    drop(inside.pop());
    let mut next = admitted_in_the_end(&server);
    assert_eq!(next.ask(record("next", 1)), OK, "the place of who has gone is free");
    all_are_served(&mut inside);
    let said = server.stop().stderr;
    assert!(said.contains("connections refused: 2"), "at least twenty, and it says so: {said}");
});

on_each_backend!(one_address_cannot_take_the_places_of_all, |setup: Setup| {
    let server = setup.shards(2).flag("--max-connections", 8).flag("--max-connections-per-address", 3).start();
    let mut inside: Vec<Client> = (0..3).map(|_| server.connect()).collect();
    all_are_served(&mut inside);
    assert_refused(server.connect());
    let mut other = Client::on(net::connect_from(Ipv4Addr::new(127, 0, 0, 7).into(), server.addr()).unwrap());
    assert_eq!(other.ask(record("other", 1)), OK, "another address has places of its own");
    drop(inside.pop());
    assert_eq!(admitted_in_the_end(&server).ask(record("next", 1)), OK);
    server.stop();
});

on_each_backend!(beyond_the_accept_rate_connections_wait_and_none_is_refused, |setup: Setup| {
    const RATE: u32 = 50;
    let server = setup.flag("--accept-rate", RATE).start();
    let mut first = server.connect();
    assert_eq!(first.ask(record("first", 1)), OK);
    let started = Instant::now();
    // One second's worth at once, and as many again at the rate.
    let mut clients: Vec<Client> = (0..2 * RATE).map(|_| server.connect()).collect();
    clients.iter_mut().enumerate().for_each(|(at, client)| client.say(record("many", at as u64)));
    assert_eq!(first.ask(record("first", 2)), OK, "who is in is served meanwhile");
    clients.iter_mut().for_each(|client| assert_eq!(client.line(), OK));
    let took = started.elapsed();
    assert!(took > Duration::from_millis(900), "the second half waits for its second: {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    server.stop();
});

/// Each of them gets an answer.
fn all_are_served(clients: &mut [Client]) {
    for (at, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.ask(record("inside", at as u64)), OK);
    }
}

fn assert_refused(mut client: Client) {
    let said = client.rest();
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(json(&said[0])["code"], "too_many_connections");
    assert_eq!(json(&said[0])["message"], "too many connections");
}

/// A connection that is let in: a place is free a moment after its holder has gone.
fn admitted_in_the_end(server: &Server) -> Client {
    let mut found = None;
    until("somebody is let in", || {
        let mut client = server.connect();
        client.stream().set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut byte = [0];
        // Who is let in hears nothing.
        if client.stream().peek(&mut byte).is_err() {
            client = Client::on(client.stream().try_clone().unwrap());
            found = Some(client);
        } else {
            thread::sleep(Duration::from_millis(20));
        }
        found.is_some()
    });
    found.unwrap()
}
