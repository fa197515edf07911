//! `ringest-bench tiers` as a user runs it: what it starts, what it writes, how it ends.

use crate::support::{Bench, server, until};
use ringest_bench::report::Report;
use serde_json::{Value, json};
use std::process::{Command, Stdio};

/// Small enough for a test, and everything in it.
const SMALL: [&str; 9] = ["tiers", "--no-pin", "--cooldown", "0.1", "--window", "1.2", "--dir", ".", "--report-only"];

fn tier<'a>(report: &'a Value, name: &str) -> &'a Value {
    let mut tests = report["tests"].as_array().unwrap().iter();
    tests.find(|test| test["name"] == name).unwrap_or_else(|| panic!("no {name}: {report}"))
}

#[test]
fn all_tiers_are_run_and_the_report_holds_what_both_designs_promise() {
    let bench = Bench::new();
    let output = bench.run(&[&SMALL[..], &["--knee", "1500", "--target-rate", "1000", "--json", "out.json"]].concat());
    assert_eq!(output.status.code(), Some(0));
    let report = bench.json("out.json");

    // The schema is made of the same types, so that what they can read is what it allows.
    let typed: Report = serde_json::from_value(report.clone()).unwrap();
    assert_eq!(serde_json::to_value(&typed).unwrap(), report);
    let mut lame = report.clone();
    lame["tests"][0]["results"].as_object_mut().unwrap().remove("actual_rps");
    assert!(serde_json::from_value::<Report>(lame).is_err(), "what the first design had is asked for");
    validate(&bench, "out.json");

    let names: Vec<&str> =
        report["tests"].as_array().unwrap().iter().map(|test| test["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "warmup",
            "baseline",
            "medium_load",
            "high_load",
            "stress_test",
            "objectives",
            "knee_10",
            "knee_50",
            "knee_80",
            "knee_95",
            "knee_110"
        ]
    );
    for (name, total, concurrency) in [("warmup", 100, 2), ("baseline", 1_000, 5), ("medium_load", 5_000, 20)] {
        let tier = tier(&report, name);
        assert_eq!((&tier["config"]["total"], &tier["config"]["concurrency"]), (&json!(total), &json!(concurrency)));
        assert_eq!(tier["results"]["total_success"], total);
        assert_eq!(
            (&tier["reconciliation"]["acked"], &tier["reconciliation"]["stored"]),
            (&json!(total), &json!(total))
        );
        assert_eq!(tier["verdict"], "pass", "{tier}");
        assert!(tier["results"]["latency_p95_ms"].as_f64().unwrap() > 0.0);
    }
    let knee = tier(&report, "knee_50");
    assert_eq!((&knee["config"]["rate"], &knee["config"]["ack"]), (&json!(750), &json!("durable")));
    // The generator's verdict depends on the machine; what the server stored does not.
    assert_eq!(knee["reconciliation"]["lost"], 0);
    let server = &knee["resources"]["server"];
    let rows = server["rows"].as_array().unwrap();
    assert!(rows.len() >= 2 && server["missed"] == 0, "{server}");
    for figure in ["cpu_percent", "rss_bytes", "pss_bytes", "fds", "threads", "voluntary_switches"] {
        assert!(rows.iter().any(|row| row[figure].as_f64().unwrap() > 0.0), "{figure}: {server}");
    }
    assert!(rows[0]["fds"].as_u64().unwrap() >= 50, "a descriptor per connection");
    assert!(knee["resources"]["generator"]["cpu_ns"].as_u64().unwrap() > 0);
    assert!(knee["resources"]["memory_bound_bytes"].as_u64().unwrap() > 1 << 20);
    assert!(knee["stages"].as_array().unwrap().iter().any(|stage| stage["name"] == "sync" && stage["count"] != 0));
    assert_eq!(report["verification"]["target_rps"], 1000);
    assert!(report["system"]["cpu_count"].as_u64().unwrap() > 0 && report["target"]["backend"].is_string());
    bench.leaves_no_scratch();
}

#[test]
fn a_server_that_is_there_already_is_measured_and_left_alone() {
    let bench = Bench::new();
    let ready = bench.path("ready");
    let mut server = Command::new(server())
        .args(["--port", "0", "--admin-addr", "none", "--no-pin", "--shards", "1", "--log-dir"])
        .arg(bench.path("logs"))
        .arg("--ready-file")
        .arg(&ready)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the server is ready", || ready.exists());
    let address = std::fs::read_to_string(&ready).unwrap().split(' ').next().unwrap().to_owned();
    let pid = server.id().to_string();
    let there = ["--target", &address, "--target-pid", &pid, "--only", "baseline", "--json", "-"];
    let output = bench.run(&[&SMALL[..], &there].concat());
    assert!(server.try_wait().unwrap().is_none(), "it still runs");
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let tier = tier(&report, "baseline");
    assert_eq!((&tier["results"]["total_success"], &tier["verdict"]), (&json!(1000), &json!("pass")));
    assert_eq!(tier["resources"]["server"]["pid"].to_string(), pid);
    assert!(tier["reconciliation"].is_null() && report["target"]["server"] == address);
}

#[test]
fn an_interrupted_suite_ends_at_once_with_what_it_has() {
    let bench = Bench::new();
    let args = ["tiers", "--no-pin", "--cooldown", "0", "--dir", ".", "--json", "out.json"];
    let more = ["--only", "warmup", "--only", "objectives", "--target-rate", "500", "--window", "300"];
    let mut child = bench.command(&[&args[..], &more].concat()).stderr(Stdio::piped()).spawn().unwrap();
    // The first tier's line is out, so the second is under way, or about to be.
    let mut said = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert!(line.starts_with("warmup"), "{line}");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    until("it ends", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let report = bench.json("out.json");
    assert_eq!(tier(&report, "warmup")["verdict"], "pass");
    let partial = tier(&report, "objectives");
    assert_eq!(partial["verdict"], "interrupted");
    assert!(partial["results"]["total_success"].as_u64().unwrap() > 0, "{partial}");
    assert_eq!(
        (&report["verification"]["verdict"], &report["verification"]["exit_code"]),
        (&json!("interrupted"), &json!(130))
    );
    bench.leaves_no_scratch();
}

#[test]
fn what_cannot_be_done_is_said_before_anything_is_measured() {
    let bench = Bench::new();
    let refused = |args: &[&str], code: i32, words: &str| {
        let output = bench.command(&[&["tiers"], args].concat()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
    };
    refused(&["--only", "wramup"], 1, "warmup");
    refused(&["--server", "/no/such/server"], 1, "/no/such/server");
    refused(&["--json", "/no/such/dir/out.json"], 1, "/no/such/dir/out.json");
    refused(&["--target", "nowhere", "--only", "warmup"], 1, "127.0.0.1:9000");
    refused(&["--target", "127.0.0.1:1", "--only", "warmup"], 1, "127.0.0.1:1");
    refused(&["--at", "0"], 2, "--at");
    refused(&["--cooldown=-1"], 2, "--cooldown");
    refused(&["--target", "127.0.0.1:9000", "--server", "x"], 2, "--target");
    refused(&["--server-cpus", "700", "--only", "warmup"], 1, "700");
}

/// Holds a report against the schema that is checked in, by a validator that we did not write, where there is one: that of
/// scripts/witness, or one that is installed.
fn validate(bench: &Bench, name: &str) {
    let program =
        "import json, sys, jsonschema; jsonschema.validate(json.load(open(sys.argv[2])), json.load(open(sys.argv[1])))";
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/ringest.bench.v1.json");
    let of_witness = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("../witness/bin/python");
    let has_it = |python: &&str| {
        let asked = Command::new(python).args(["-c", "import jsonschema"]).stderr(Stdio::null()).status();
        asked.is_ok_and(|status| status.success())
    };
    let of_witness = of_witness.to_string_lossy().into_owned();
    let Some(python) = [of_witness.as_str(), "python3"].into_iter().find(|python| has_it(python)) else {
        return println!("skipped: there is no jsonschema here; scripts/witness brings one");
    };
    let output = Command::new(python).args(["-c", program, schema]).arg(bench.path(name)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
