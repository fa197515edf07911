//! The first design's environment and keys, one by one: what was typed and read then still is.

#[allow(dead_code, reason = "each test takes its own part of it")]
mod scripted;

use scripted::{Script, Server, loadgen, stderr};
use serde_json::Value;

fn results(report: &Value) -> &Value {
    &report["tests"][0]["results"]
}

/// Every name of the first design's generator, with its default there, and where the report says what it meant.
const FIRST_DESIGN: [(&str, &str, &str, &str); 10] = [
    ("SERVER_HOST", "localhost", "target", "\"localhost:9000\""),
    ("SERVER_PORT", "9000", "target", "\"localhost:9000\""),
    ("TOTAL_LOGS", "1000", "total_logs", "1000"),
    ("DURATION_SECS", "10", "duration_s", "10.0"),
    ("CONCURRENCY", "5", "connections", "5"),
    ("ENABLE_TLS", "false", "encrypted", "false"),
    ("CA_CERT_PATH", "./certs/ca.crt", "encrypted", "false"),
    ("COMPRESS", "false", "compress", "\"none\""),
    ("BATCH_SIZE", "100", "batch", "100"),
    ("TARGET_RPS", "0", "model", "\"closed\""),
];

#[test]
fn the_first_designs_environment_means_what_it_meant_and_is_the_default() {
    let help = loadgen("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    for (name, _, _, _) in FIRST_DESIGN {
        assert!(help.contains(&format!("[env: {name}=")), "{name} is not in the help");
    }

    // Said aloud or left out, the first design's defaults are ours; the server is the only thing that has to be elsewhere.
    let server = Server::start(Script::default());
    let port = server.addr.port().to_string();
    let defaults = FIRST_DESIGN.map(|(name, default, _, _)| (name, default));
    let report = |environment: &[(&str, &str)]| -> Value {
        let mut command = loadgen("--json -");
        command.envs(environment.iter().copied()).env("SERVER_HOST", "127.0.0.1").env("SERVER_PORT", &port);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (said, left_out) = (report(&defaults), report(&[]));
    for (name, _, key, value) in &FIRST_DESIGN[2..] {
        for report in [&said, &left_out] {
            assert_eq!(report["tests"][0]["config"][*key].to_string(), **value, "{name}");
        }
    }
    assert_eq!(results(&said)["acked"], 1000, "TOTAL_LOGS lines, well within DURATION_SECS");
    for key in ["timestamp", "system", "tests", "verification"] {
        assert!(!said[key].is_null(), "{key}");
    }
    for key in ["name", "config", "results", "resources"] {
        assert!(!said["tests"][0][key].is_null(), "{key}");
    }
}

#[test]
fn the_first_designs_rate_duration_and_batch_are_really_kept() {
    let server = Server::start(Script::default());
    let port = server.addr.port().to_string();
    let run = |environment: &[(&str, &str)], arguments: &str| -> Value {
        let mut command = loadgen(&format!("--json - {arguments}"));
        command.envs(environment.iter().copied()).env("SERVER_HOST", "127.0.0.1").env("SERVER_PORT", &port);
        serde_json::from_slice(&command.output().unwrap().stdout).unwrap()
    };
    // The duration ends a run that is far from its last line, and the rate says how far it came.
    let paced = run(&[("TARGET_RPS", "500"), ("DURATION_SECS", "2"), ("TOTAL_LOGS", "1000000")], "");
    assert_eq!((&results(&paced)["offered"], &results(&paced)["acked"]), (&1000.into(), &1000.into()));
    assert!(results(&paced)["span_s"].as_f64().unwrap() > 1.9, "the last line is not sent before its time");
    // The lines end a run before its duration.
    let short = run(&[("TARGET_RPS", "500"), ("DURATION_SECS", "60"), ("TOTAL_LOGS", "100")], "");
    assert_eq!(results(&short)["offered"], 100);
    // A batch is what a send holds at most.
    let single = run(&[("BATCH_SIZE", "1"), ("TOTAL_LOGS", "200")], "");
    assert!(results(&single)["sends"].as_u64().unwrap() >= 200, "{}", results(&single)["sends"]);
    // Its variable says true or false, its flag nothing.
    for (value, flag, kind) in [("true", "", "line"), ("false", "", "none"), ("false", "--compress", "line")] {
        let report = run(&[("COMPRESS", value), ("TOTAL_LOGS", "1")], &format!("--drain 1ms {flag}"));
        assert_eq!(report["tests"][0]["config"]["compress"], kind, "COMPRESS={value} {flag}");
    }
}
