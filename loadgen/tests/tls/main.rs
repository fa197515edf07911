//! The generator through TLS: the same runs, and a sentence for each server that it should not trust.

mod front;
#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "../scripted/mod.rs"]
mod scripted;

use front::Identity;
use scripted::{Script, Server, loadgen, stderr};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Output;
use std::thread;

fn run(addr: SocketAddr, ca: &Path, arguments: &str) -> (Output, Value) {
    let target = format!("--host localhost --port {} --tls --ca-cert {} --json - ", addr.port(), ca.display());
    let output = loadgen(&(target + arguments)).output().unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output, report)
}

#[test]
fn runs_through_tls_count_every_line_however_it_is_cut() {
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.crt");
    let identity = Identity::new("localhost", 2099);
    identity.save(&ca);
    for (piece, arguments) in [
        (1 << 20, "-n 5000 -c 4"),
        (1 << 20, "-n 5000 -c 4 -t 2 --mode session"),
        (1 << 20, "-R 4000 -d 1s -c 4 --plain-share 50%"),
        (7, "-n 300 -c 2 --mode session"),
        (1, "-n 50 -c 1"),
    ] {
        let server = Server::start(Script { ack_every: 10, ..Script::default() });
        let (output, report) = run(identity.stand_before(server.addr, piece), &ca, arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments}: {}", stderr(&output));
        let test = &report["tests"][0];
        assert_eq!(test["results"]["acked"], test["results"]["offered"], "{arguments}");
        assert_eq!(test["config"]["encrypted"], true);
        assert_eq!(server.stored_lines() as u64, test["results"]["offered"].as_u64().unwrap());
    }
}

#[test]
fn a_session_resumes_through_tls_after_disconnects() {
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.crt");
    let identity = Identity::new("localhost", 2099);
    identity.save(&ca);
    let server = Server::start(Script { break_after: Some(100), breaks: 9, ack_every: 37, ..Script::default() });
    let (output, report) = run(identity.stand_before(server.addr, 1 << 20), &ca, "-n 3000 -c 3 --mode session");
    assert_eq!(server.broken(), 9, "the mechanism acted");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(report["tests"][0]["results"]["acked"], 3000);
    assert_eq!(server.stored_lines(), 3000);
}

#[test]
fn a_server_that_is_not_to_be_trusted_ends_the_run_with_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.crt");
    let server = Server::start(Script::default());
    let other = Identity::new("localhost", 2099);
    let elsewhere = Identity::new("elsewhere.example", 2099);
    let expired = Identity::new("localhost", 2001);
    for (identity, trusted, sentence) in [
        (&other, &expired, "is --ca-cert (CA_CERT_PATH) the CA"),
        (&elsewhere, &elsewhere, "--server-name says which name"),
        (&expired, &expired, "certificate expired"),
    ] {
        trusted.save(&ca);
        for mode in ["plain", "session"] {
            let (output, _) = run(identity.stand_before(server.addr, 4096), &ca, &format!("-n 10 --mode {mode}"));
            assert_eq!(output.status.code(), Some(1), "as where nobody answers: {}", stderr(&output));
            assert!(stderr(&output).contains(sentence), "{sentence}: {}", stderr(&output));
        }
    }
    elsewhere.save(&ca);
    let addr = elsewhere.stand_before(server.addr, 4096);
    let (output, _) = run(addr, &ca, "-n 10 --server-name elsewhere.example");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(server.stored_lines(), 10, "from the only one that was trusted");
}

#[test]
fn what_does_not_speak_tls_is_found_out_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.crt");
    Identity::new("localhost", 2099).save(&ca);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]); // Whatever it is.
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let (output, _) = run(addr, &ca, "-n 10 -c 1");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("does not speak TLS"), "{}", stderr(&output));
}
