//! Two shards: a session moves to its producer's home before its data is read, wherever the kernel put it.

use crate::support::client::Client;
use crate::support::lines::{joined, json, record};
use crate::support::on_each_backend;
use crate::support::process::Setup;
use ringest_ingest::home_shard;
use std::fs;
use std::thread;
use std::time::Duration;

/// The kernel deals connections by hash: of this many, all on one shard would be one case in 2^31.
const PRODUCERS: u64 = 32;

on_each_backend!(a_producer_is_stored_by_its_home_wherever_it_connects, |setup: Setup| {
    let setup = setup.shards(2);
    let server = setup.start();
    let mut clients: Vec<_> = (0..PRODUCERS).map(|_| server.connect()).collect();
    // The hello, five hundred lines and the bye in one piece: most of it is there before the session moves.
    for (number, client) in (0..).zip(&mut clients) {
        client.send(conversation(number, 500));
    }
    for (number, client) in (0..).zip(&mut clients) {
        assert_eq!(total(&client.rest()), 500, "producer {number}");
    }
    server.stop();
    for number in 0..PRODUCERS {
        let name = format!("producer-{number}");
        let home = home_shard(&name, 2).0;
        let home_text: String = setup.segments(home).iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        (1..=500).for_each(|seq| assert!(home_text.contains(&record(&name, seq)), "{name} {seq} is at home"));
    }
    assert_eq!(setup.records().len() as u64, 500 * PRODUCERS, "and nowhere else");
    setup.assert_verified();
});

on_each_backend!(a_hello_in_two_pieces_finds_its_home, |setup: Setup| {
    let server = setup.clone().shards(2).start();
    let mut clients: Vec<_> = (0..PRODUCERS).map(|_| server.connect()).collect();
    let cut = |number: u64| 3 + number as usize; // From within the prefix to behind the producer's name.
    for (number, client) in (0..).zip(&mut clients) {
        client.send(&conversation(number, 10)[..cut(number)]);
    }
    thread::sleep(Duration::from_millis(50));
    for (number, client) in (0..).zip(&mut clients) {
        client.send(&conversation(number, 10)[cut(number)..]);
    }
    for (number, client) in (0..).zip(&mut clients) {
        assert_eq!(total(&client.rest()), 10, "producer {number}");
    }
    server.stop();
    assert_eq!(setup.records().len() as u64, 10 * PRODUCERS);
});

on_each_backend!(data_that_arrives_while_a_session_moves_is_not_lost, |setup: Setup| {
    let setup = setup.shards(2).ack("written");
    let server = setup.start();
    let addr = server.addr();
    let writers: Vec<_> = (0..PRODUCERS)
        .map(|number| {
            thread::spawn(move || {
                let bytes = conversation(number, 200);
                let mut client = Client::connect(addr);
                // Small pieces without a pause, so that some arrive between the hello and the end of the move.
                bytes.chunks(97).for_each(|piece| client.send(piece));
                total(&client.rest())
            })
        })
        .collect();
    for writer in writers {
        assert_eq!(writer.join().unwrap(), 200);
    }
    server.stop();
    let records = setup.records();
    for number in 0..PRODUCERS {
        let name = format!("producer-{number}");
        let stored: Vec<&String> =
            records.iter().filter(|line| line.contains(&format!("\"sender\":\"{name}\""))).collect();
        let sent: Vec<String> = (1..=200).map(|seq| record(&name, seq)).collect();
        assert!(stored.into_iter().eq(&sent), "{name} is stored once and in order");
    }
});

on_each_backend!(a_half_close_behind_the_hello_survives_the_move, |setup: Setup| {
    let setup = setup.shards(2);
    let server = setup.start();
    for number in 0..PRODUCERS {
        let name = format!("ends-{number}");
        let mut client = server.connect();
        client.send(format!("{{\"$hello\":{{\"v\":1,\"producer\":\"{name}\"}}}}\n{}\n", record(&name, 1)));
        let said = client.finish();
        assert_eq!(json(said.last().expect("an ack"))["$ack"]["upto"], 1, "{name}: {said:?}");
    }
    server.stop();
    assert_eq!(setup.records().len() as u64, PRODUCERS);
});

on_each_backend!(a_take_over_works_across_shards, |setup: Setup| {
    let server = setup.shards(2).start();
    for producer in 0..8 {
        let mut last: Option<Client> = None;
        for turn in 0..4 {
            let mut client = server.connect();
            let welcome = client.hello(&format!(r#""producer":"moves-{producer}""#));
            assert_eq!(welcome["last_seq"], turn);
            client.say(record("moves", turn));
            client.settled(turn + 1);
            if let Some(older) = last.replace(client).as_mut() {
                assert_eq!(json(&older.line())["$goaway"]["code"], "fenced");
                assert!(older.is_at_end());
            }
        }
    }
});

/// A whole session of `lines` records, from the hello to the bye.
fn conversation(number: u64, lines: u64) -> Vec<u8> {
    let name = format!("producer-{number}");
    let hello = format!("{{\"$hello\":{{\"v\":1,\"producer\":\"{name}\",\"epoch\":1}}}}");
    let records = (1..=lines).map(|seq| record(&name, seq));
    joined([hello].into_iter().chain(records).chain([r#"{"$bye":1}"#.to_owned()]))
}

/// How many lines the `$bye` at the end of `said` calls stored.
fn total(said: &[String]) -> u64 {
    let last = said.last().expect("a session says something");
    json(last)["$bye"]["stored"].as_u64().unwrap_or_else(|| panic!("not a bye: {last}"))
}
