//! Old segments go while a server runs and while it is killed, and nobody is asked for what they held.

use crate::support::dice::Dice;
use crate::support::lines::{OK, origin, record};
use crate::support::on_each_backend;
use crate::support::process::Setup;
use crate::until;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// Kills.
const ROUNDS: u64 = 12;

on_each_backend!(kills_while_old_segments_go_cost_no_producer_its_place, |setup: Setup| {
    let mut dice = Dice::from_env(setup.on.as_str());
    let setup = setup.small_segments().flag("--segment-age", "100ms").flag("--retain-age", "300ms");
    let (mut acked, mut sent, mut first_left) = (0, 0, 1);
    for round in 0..=ROUNDS {
        let server = setup.start();
        let mut client = server.connect();
        let welcome = client.hello(r#""producer":"web","epoch":1"#);
        let known = welcome["last_seq"].as_u64().unwrap();
        assert!((acked..=sent).contains(&known), "round {round}: {acked} acknowledged, {known} known, {sent} sent");
        let until = Instant::now() + dice.pause_ms(300, 900);
        let mut next = known;
        while Instant::now() < until {
            let lines: String = (1..=20).map(|at| record("web", next + at) + "\n").collect();
            client.send(lines);
            next += 20;
            sent = sent.max(next);
            client.settled(next);
            acked = next;
            thread::sleep(Duration::from_millis(2));
        }
        if round == ROUNDS {
            drop(client);
            server.stop();
        } else {
            server.kill();
        }
        let records = setup.records();
        let left: Vec<u64> = records.iter().map(|line| origin(line).expect("it was sent").1).collect();
        let first = *left.first().expect("the newest stay");
        assert!(left.iter().copied().eq(first..=left[left.len() - 1]), "round {round}: one after the other, once");
        assert!(left[left.len() - 1] >= acked && first >= first_left, "round {round}: what is newest stays");
        first_left = first;
        setup.assert_verified();
    }
    assert!(first_left > 200, "old ones went: what is left begins at {first_left} of {acked}");
});

on_each_backend!(an_idle_server_closes_what_it_has_and_lets_it_go_in_time, |setup: Setup| {
    let file = setup.room().join("ringest.toml");
    fs::write(&file, "").unwrap();
    let setup = setup.small_segments().flag("--config", file.display()).flag("--segment-age", "200ms");
    let server = setup.start();
    let mut client = server.connect();
    let mut say = |seq: u64| assert_eq!(client.ask(record("p", seq)), OK);
    let closed = || snapshots(&setup).len();
    say(1);
    until("the first segment is closed though nothing more comes", || closed() == 1);
    say(2);
    until("the second is, too", || closed() == 2);
    say(3);
    until("the third is, too", || setup.segments(0).len() >= 3 && snapshots(&setup).last().is_some_and(|id| *id == 3));
    thread::sleep(Duration::from_millis(300));
    assert_eq!(setup.records().len(), 3, "nothing goes unless that is asked for");

    // Asked for while it runs: those go that both snapshots cover.
    fs::write(&file, "retain-age = \"1s\"\n").unwrap();
    server.signal("HUP");
    until("the first two are gone", || setup.records() == [record("p", 3)]);
    assert!(server.stderr().contains("shard 0: old segments were removed: "), "{}", server.stderr());
    server.stop();
    setup.assert_verified();
});

/// The segments that snapshots were taken with.
fn snapshots(setup: &Setup) -> Vec<u64> {
    let entries = fs::read_dir(setup.dir().join("shard-00")).unwrap().map(|entry| entry.unwrap().file_name());
    let names = entries.filter_map(|name| name.to_str()?.strip_suffix(".producers")?.parse().ok());
    let mut ids: Vec<u64> = names.collect();
    ids.sort_unstable();
    ids
}
