//! What comes out of the bench: whole or not at all, known before anything is measured, nothing else among it. And what it
//! measures of the promise that a record allocates nothing.

use serde_json::Value;
use std::fs;
use std::process::{Command, Output};

/// The shortest thing there is to be measured.
const MICRO: [&str; 6] = ["micro", "parse/flat/serde_json", "--runs", "1", "--run-ms", "1"];

fn bench(args: &[&str]) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ringest-bench")).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

#[test]
fn what_goes_to_standard_output_as_json_is_json_alone() {
    let (output, said) = bench(&[&MICRO[..], &["--json", "-"]].concat());
    assert_eq!(output.status.code(), Some(0), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one object and nothing else");
    assert_eq!(report["rows"][0]["name"], "parse/flat/serde_json");
    assert!(said.contains("ns/record"), "what is for people is still told: {said}");
    let (output, _) = bench(&MICRO);
    assert!(String::from_utf8_lossy(&output.stdout).contains("ns/record"));
}

/// The first runs of a case are not counted: in them connections and pools take the memory that they keep.
#[test]
fn no_record_allocates_more_than_its_path_promises() {
    let cases = ["intake", "ack", "block", "pipeline/plain/written", "pipeline/session"].into_iter();
    let kinds = ["nested", "large", "hostile", "gzip-segments", "gzip-batch", "gzip-bgzf", "gzip-line", "tls"];
    let kinds = kinds.map(|kind| format!("pipeline/plain/durable/{kind}"));
    let cases: Vec<&str> = cases.chain(kinds.iter().map(String::as_str)).collect();
    let (output, said) = bench(&[&["micro", "--runs", "1", "--run-ms", "300"], &cases[..]].concat());
    let table = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{table}{said}");
    assert!(table.contains("pipeline/plain/durable/gzip-bgzf") && table.contains("intake/plain/durable"), "{table}");
}

#[test]
fn what_does_not_begin_leaves_what_was_there_and_no_empty_file() {
    let room = tempfile::tempdir().unwrap();
    let path = |name: &str| room.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("old.json"), "an earlier report").unwrap();
    let (output, said) =
        bench(&["tiers", "--server", "/none", "--json", &path("old.json"), "--html", &path("new.html")]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("/none"), "{said}");
    assert_eq!(fs::read_to_string(path("old.json")).unwrap(), "an earlier report");
    assert!(!room.path().join("new.html").exists());
}

#[test]
fn a_place_that_cannot_be_written_or_is_taken_is_said_before_anything_is_measured() {
    let room = tempfile::tempdir().unwrap();
    let absent = room.path().join("absent/report.json");
    let absent = absent.to_str().unwrap();
    let (output, said) = bench(&[&MICRO[..], &["--json", absent]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(&format!("cannot write {absent}")) && output.stdout.is_empty(), "{said}");
    let (output, said) = bench(&["tiers", "--server", "/none", "--json", "-", "--html", "-"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("--json and --html both go to -"), "{said}");
}

#[test]
fn a_disk_that_is_full_is_said_and_what_was_measured_is_told() {
    let (output, said) = bench(&[&MICRO[..], &["--json", "/dev/full"]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("cannot write /dev/full"), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("ns/record"));
}
