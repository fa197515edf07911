//! Ack levels: what each says, per connection and per session.

use crate::support::lines::{OK, code, joined, json, record};
use crate::support::on_each_backend;
use crate::support::process::Setup;

on_each_backend!(a_session_is_acknowledged_at_the_level_it_asked_for, |setup: Setup| {
    let server = setup.ack("written").start();
    for level in ["accepted", "written", "durable"] {
        let mut client = server.connect();
        let welcome = client.hello(&format!(r#""producer":"{level}","ack":"{level}""#));
        assert_eq!(welcome["ack"], level);
        client.say(record(level, 1));
        let ack = client.line();
        assert_eq!(ack, format!(r#"{{"$ack":{{"upto":1,"level":"{level}","stored":1,"filtered":0,"dup":0}}}}"#));
    }
    let mut default = server.connect();
    assert_eq!(default.hello(r#""producer":"default""#)["ack"], "written");
    default.say(record("default", 1));
    assert_eq!(json(&default.line())["$ack"]["level"], "written");
});

on_each_backend!(a_session_at_none_hears_of_rejections_alone, |setup: Setup| {
    let server = setup.start();
    let mut client = server.connect();
    assert_eq!(client.hello(r#""producer":"quiet","ack":"none""#)["ack"], "none");
    client.say(record("quiet", 1));
    client.say(record("quiet", 2));
    client.say("no");
    let ack = json(&client.line())["$ack"].clone();
    assert_eq!(ack["rej"][0][0], 3, "the first thing that is said is the rejection: {ack}");
    assert_eq!(ack["level"], "none");
    client.say(record("quiet", 4));
    assert_eq!(client.ask(r#"{"$ping":1}"#), r#"{"$pong":1}"#, "nothing is said of the line before");
    assert_eq!(client.bye().1["stored"], 3);
    server.stop();
    assert_eq!(setup.records().len(), 3);
});

on_each_backend!(plain_lines_are_answered_at_every_server_level_but_none, |setup: Setup| {
    let lines = [record("a", 1), "no".to_owned(), record("a", 2)];
    for level in ["accepted", "written", "durable"] {
        let setup = setup.beside().ack(level);
        let server = setup.start();
        let replies = server.connect().exchange(joined(&lines));
        assert_eq!(replies.iter().map(|line| code(line)).collect::<Vec<_>>(), ["ok", "bad_json", "ok"], "{level}");
        server.stop();
        assert_eq!(setup.records().len(), 2, "{level}");
    }
    let setup = setup.beside().ack("none");
    let server = setup.start();
    let replies = server.connect().exchange(joined(&lines));
    assert_eq!(replies.iter().map(|line| code(line)).collect::<Vec<_>>(), ["bad_json"], "none says only what is wrong");
    server.stop();
    assert_eq!(setup.records().len(), 2);
});

on_each_backend!(a_session_may_ask_for_more_than_the_server_gives_by_itself, |setup: Setup| {
    let setup = setup.ack("accepted");
    let server = setup.start();
    let mut plain = server.connect();
    let mut session = server.connect();
    session.hello(r#""producer":"p","ack":"durable""#);
    for number in 1..=50 {
        assert_eq!(plain.ask(record("plain", number)), OK);
        session.say(record("p", number));
        assert_eq!(json(&session.line())["$ack"]["level"], "durable");
    }
    server.kill();
    // Process death may take what was only accepted; nothing that was durable.
    let server = setup.start();
    assert_eq!(server.connect().hello(r#""producer":"p""#)["last_seq"], 50);
    server.stop();
    let stored = setup.records();
    (1..=50).for_each(|number| assert!(stored.contains(&record("p", number)), "durable line {number}"));
});
