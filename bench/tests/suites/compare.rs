//! `ringest-bench compare` as a user runs it.
//!
//! What is planted here is a real cost of an arm: records thirty times as long, each of which is received, checked, copied,
//! checksummed and written. It shows that a cost goes the whole way from the server's processor time to the verdict. That
//! the verdict needs no more than a tenth is shown by the arithmetic's own tests, on noise that is known.

use crate::support::Bench;
use serde_json::Value;

fn compare(bench: &Bench, a: &str, b: &str, more: &[&str]) -> (Option<i32>, Value) {
    let args = [
        "compare",
        a,
        b,
        "--no-pin",
        "--dir",
        ".",
        "--pairs",
        "6",
        "--window",
        "0.4",
        "--warm-up",
        "0.1",
        "--connections",
        "4",
        "--pipeline",
        "200",
        "--json",
        "out.json",
    ];
    let output = bench.run(&[&args[..], more].concat());
    (output.status.code(), bench.json("out.json"))
}

#[test]
fn an_arm_against_itself_is_the_same_or_unclear_and_against_thirty_times_the_bytes_it_is_slower() {
    let bench = Bench::new();
    let (code, session) = compare(&bench, "default", "default", &["--fail-if-slower"]);
    assert_eq!(code, Some(0));
    let verdict = session["verdict"].as_str().unwrap();
    assert!(["same", "unclear"].contains(&verdict), "{session}");

    let (code, session) = compare(&bench, "size=180", "size=5760", &["--fail-if-slower"]);
    assert_eq!((code, session["verdict"].as_str()), (Some(3), Some("slower")), "{session}");
    let primary = &session["figures"][0];
    assert_eq!(primary["figure"], "server_cpu_ns");
    let ratio = primary["comparison"]["ratio"].as_f64().unwrap();
    let (low, high) = (primary["comparison"]["low"].as_f64().unwrap(), primary["comparison"]["high"].as_f64().unwrap());
    assert!(low <= ratio && ratio <= high && ratio > 1.2, "{primary}");
    assert_eq!(primary["pairs"].as_array().unwrap().len(), 6);
    assert_eq!(primary["floor_pairs"].as_array().unwrap().len(), 6);
    assert!(primary["comparison"]["margin"].as_f64().unwrap() >= 0.03);
    bench.leaves_no_scratch();
}

#[test]
fn arms_that_make_no_sense_are_refused_and_those_that_do_not_start_are_named() {
    let bench = Bench::new();
    let refused = |args: &[&str], code: i32, words: &str| {
        let output = bench.run(&[&["compare"], args].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
    };
    refused(&["default"], 2, "<B>");
    refused(&["backend=uring", "bakend=epoll"], 2, "bakend");
    refused(&["default", "default", "--pairs", "5"], 2, "--pairs");
    refused(&["default", "backend=none", "--no-pin", "--pairs", "6", "--window", "0.1"], 1, "backend=none");
    refused(&["server=/no/such", "default", "--no-pin"], 1, "/no/such");
}
