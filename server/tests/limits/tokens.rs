//! Tokens: who shows one that is valid comes in, and nobody else.

use crate::support::lines::{json, record};
use crate::support::on_each_backend;
use crate::support::process::Setup;
use crate::until;
use std::fs;
use std::os::unix::fs::PermissionsExt;

on_each_backend!(only_who_shows_a_valid_token_comes_in, |setup: Setup| {
    let path = setup.room().join("tokens");
    fs::write(&path, "old-secret\nnew-secret\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let setup = setup.shards(2).arg("--token-file").arg(&path);
    let server = setup.start();
    for (at, token) in ["old-secret", "new-secret"].iter().enumerate() {
        let mut client = server.connect();
        client.hello(&format!(r#""producer":"p{at}","token":"{token}""#));
        client.say(record("p", 1));
        client.settled(1);
    }
    for members in [r#""producer":"q""#, r#""producer":"q","token":"new-secre""#, r#""producer":"q","token":"""#] {
        let mut client = server.connect();
        client.send(format!("{{\"$hello\":{{\"v\":1,{members}}}}}\n{}\n", record("q", 1)));
        let said = client.rest();
        assert_eq!((said.len(), json(&said[0])["$goaway"]["code"].as_str()), (1, Some("unauthorized")), "{said:?}");
    }
    let mut plain = server.connect();
    plain.say(record("plain", 1));
    let said = plain.rest();
    assert_eq!((said.len(), json(&said[0])["code"].as_str()), (1, Some("unauthorized")), "{said:?}");
    let ended = server.stop();
    assert!(ended.stderr.contains("unauthorized 4"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("secret"), "tokens are never said: {}", ended.stderr);
    assert_eq!(setup.records(), [record("p", 1), record("p", 1)], "nothing of the others is stored");
});

on_each_backend!(a_token_file_that_is_no_such_is_refused_and_an_open_one_pointed_out, |setup: Setup| {
    let path = setup.room().join("tokens");
    let setup = setup.arg("--token-file").arg(&path);
    for (text, words) in [("\n", "no token"), ("a\nb\nc\n", "3 tokens")] {
        fs::write(&path, text).unwrap();
        let ended = setup.try_start().err().expect("refused");
        assert!(ended.stderr.contains(words) && ended.stderr.contains("TOKEN_FILE"), "{}", ended.stderr);
    }
    fs::write(&path, "open-secret\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let server = setup.start();
    assert!(server.stderr().contains("chmod 600"), "{}", server.stderr());
    server.stop();
});

on_each_backend!(a_token_is_replaced_without_a_restart, |setup: Setup| {
    let path = setup.room().join("tokens");
    let write = |text: &str| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("old-secret\n");
    let server = setup.shards(2).arg("--token-file").arg(&path).start();
    let is_let_in = |token: &str| {
        let mut client = server.connect();
        client.say(format!("{{\"$hello\":{{\"v\":1,\"producer\":\"p\",\"token\":\"{token}\"}}}}"));
        client.line().starts_with("{\"$welcome\"")
    };
    let reload = |words: &str| {
        server.signal("HUP");
        until("it has read them again", || server.stderr().contains(words));
    };
    let mut early = server.connect();
    early.hello(r#""producer":"early","token":"old-secret""#);
    assert!(is_let_in("old-secret") && !is_let_in("new-secret"));
    write("old-secret\nnew-secret\n");
    reload("read again: 2 tokens");
    assert!(is_let_in("old-secret") && is_let_in("new-secret"));
    write("new-secret\n");
    reload("read again: 1 token\n");
    assert!(is_let_in("new-secret") && !is_let_in("old-secret"));
    write("\n");
    reload("stays in use: TOKEN_FILE");
    assert!(is_let_in("new-secret"));
    early.say(record("early", 1));
    early.settled(1);
    assert!(!server.stop().stderr.contains("secret"));
});
