//! A server under watch, as soak scripts use it: the sums of its design hold on every backend, and what it leaves is judged.

use crate::support::{Bench, server, until};
use serde_json::Value;
use std::fs;
use std::process::{Child, Command};

/// A server under watch that is ready.
fn watch(bench: &Bench, dir: &str, args: &[&str]) -> Child {
    let mut command = bench.command(&["soak", "watch", "--connections", "10", "--every", "0.2", "--dir", dir]);
    let child = command.arg(server()).arg("--").args(args).spawn().unwrap();
    until("the server is ready", || bench.path(dir).join("ready").exists());
    child
}

fn end(mut child: Child) -> Option<i32> {
    assert!(Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status().unwrap().success());
    child.wait().unwrap().code()
}

fn looks(bench: &Bench, dir: &str) -> usize {
    fs::read_to_string(bench.path(dir).join("samples.ndjson")).map_or(0, |text| text.lines().count())
}

fn judge(bench: &Bench, room: &str, code: &str) -> (Option<i32>, Value) {
    let output = bench.run(&["soak", "judge", room, "--scenario", "test", "--seconds", "1", "--code", code]);
    (output.status.code(), bench.json(&format!("{room}/verdict.json")))
}

#[test]
fn threads_and_descriptors_are_the_sums_of_the_design_on_every_backend() {
    let bench = Bench::new();
    for backend in ["uring", "epoll", "glommio"] {
        for shards in ["1", "2"] {
            let room = format!("{backend}-{shards}");
            let dir = format!("{room}/servers/main");
            let child = watch(&bench, &dir, &["--backend", backend, "--shards", shards, "--no-pin"]);
            until("it was looked at", || looks(&bench, &dir) >= 4);
            assert_eq!(end(child), Some(0));
            let (code, verdict) = judge(&bench, &room, "0");
            assert_eq!((code, &verdict["verdict"]), (Some(0), &Value::from("pass")), "{backend} {shards}: {verdict:#}");
            let gates = verdict["gates"].as_array().unwrap();
            for what in ["main life 1: threads ==", "main life 1: descriptors at rest ==", "resident bytes <="] {
                let held = |gate: &&Value| gate["expr"].as_str().unwrap().contains(what);
                assert!(gates.iter().any(|gate| held(&gate)), "{backend} {shards}: {what} was looked at");
            }
        }
    }
}

#[test]
fn a_server_has_several_lives_and_a_death_that_was_meant_is_none_of_its_faults() {
    let bench = Bench::new();
    let dir = "room/servers/main";
    for life in 1..=2 {
        let child = watch(&bench, dir, &["--shards", "1", "--no-pin"]);
        until("it was looked at", || looks(&bench, dir) >= 4 * life);
        let ready = fs::read_to_string(bench.path(dir).join("ready")).unwrap();
        let pid = ready.split_whitespace().nth(1).unwrap().to_owned();
        if life == 1 {
            fs::write(bench.path(dir).join("expected"), "signal: 9 (SIGKILL)\n").unwrap();
            assert!(Command::new("kill").args(["-s", "KILL", &pid]).status().unwrap().success());
            assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
        } else {
            assert_eq!(end(child), Some(0));
        }
    }
    let (code, verdict) = judge(&bench, "room", "0");
    assert_eq!(code, Some(0), "{verdict:#}");
    let main = &verdict["servers"]["main"];
    assert_eq!((&main["lives"], &main["missed"]), (&Value::from(2), &Value::from(0)));
    assert_eq!(main["ends"][0], "signal: 9 (SIGKILL), as meant");

    // And all of it as a report.
    let output = bench.run(&["soak", "summary", "."]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(bench.json("soak.json")["scenarios"][0]["scenario"], "test");
    let page = fs::read_to_string(bench.path("report.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("signal: 9 (SIGKILL), as meant") && !page.contains("<script"));
}

#[test]
fn a_scenario_that_was_ended_or_cannot_run_is_neither_passed_nor_failed() {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("room")).unwrap();
    fs::write(bench.path("room/claims.ndjson"), "{\"what\":\"a\",\"actual\":1,\"at_least\":1}\n").unwrap();
    for (script, code, word) in [("0", 0, "pass"), ("130", 130, "interrupted"), ("77", 4, "invalid"), ("1", 3, "fail")]
    {
        let (found, verdict) = judge(&bench, "room", script);
        assert_eq!((found, verdict["verdict"].as_str()), (Some(code), Some(word)), "{verdict:#}");
    }
    fs::write(bench.path("room/claims.ndjson"), "{\"what\":\"a\",\"actual\":1}\n").unwrap();
    assert_eq!(judge(&bench, "room", "0").0, Some(3), "a claim without a bound is none");
    fs::write(bench.path("room/claims.ndjson"), "{\"what\":\"a\",").unwrap();
    let output = bench.run(&["soak", "judge", "room", "--scenario", "test", "--seconds", "1", "--code", "0"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("claims.ndjson line 1"), "{said}");
}
