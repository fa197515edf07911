//! The files of a run: whole, true to one another, and refused before the run where they cannot be written.

#[allow(dead_code, reason = "each test takes its own part of it")]
mod scripted;

use ringest_loadgen::timeline::Row;
use scripted::{Script, Server, loadgen, run, stderr};
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

fn rows(path: &Path) -> Vec<Row> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'), "the last line is whole");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn sum(rows: &[Row], count: impl Fn(&Row) -> u64) -> u64 {
    rows.iter().map(count).sum()
}

/// What the rows say in all, against what the report says.
fn assert_rows_are_the_run(rows: &[Row], report: &Value) {
    let results = &report["tests"][0]["results"];
    for (key, count) in [
        ("offered", sum(rows, |row| row.offered)),
        ("acked", sum(rows, |row| row.acked)),
        ("failed", sum(rows, |row| row.failed)),
        ("sent", sum(rows, |row| row.sent)),
        ("refused_as_meant", sum(rows, |row| row.refused_as_meant)),
        ("bytes", sum(rows, |row| row.bytes)),
        ("sends", sum(rows, |row| row.sends)),
        ("connects", sum(rows, |row| row.connects)),
        ("nacks", sum(rows, |row| row.nacks)),
        ("resent", sum(rows, |row| row.resent)),
    ] {
        assert_eq!(results[key], count, "{key}");
    }
    for (key, count, counts) in [
        (
            "response_us",
            sum(rows, |row| row.response_us.count),
            Some(sum(rows, |row| row.response_counts.iter().map(|(_, count)| count).sum())),
        ),
        (
            "service_us",
            sum(rows, |row| row.service_us.count),
            Some(sum(rows, |row| row.service_counts.iter().map(|(_, count)| count).sum())),
        ),
        ("slip_us", sum(rows, |row| row.slip_us.count), None),
    ] {
        assert_eq!(results[key]["count"], count, "{key}");
        assert!(counts.is_none_or(|counts| counts == count), "{key}: the buckets hold as many");
    }
    let longest = rows.iter().map(|row| row.response_us.max).fold(0.0, f64::max);
    assert_eq!(results["response_us"]["max"], longest);
    assert!(rows.windows(2).all(|pair| pair[0].second <= pair[1].second));
    for pair in rows.windows(2) {
        assert!((pair[0].start_s + pair[0].length_s - pair[1].start_s).abs() < 1e-6, "rows leave no gap: {pair:?}");
    }
    assert!(rows.iter().all(|row| report["run_id"] == row.run_id && row.schema == "ringest.series.v1"));
}

#[test]
fn the_rows_of_a_series_add_up_to_the_report() {
    let directory = tempfile::tempdir().unwrap();
    let series = directory.path().join("series.ndjson");
    for (script, arguments, seconds) in [
        (Script::default(), "-R 3001 -d 3s -c 3 -t 2", 3),
        (Script::default(), "-n 3000 -c 4 -t 2 --mode session", 1),
        (Script { break_after: Some(150), breaks: 4, nack_at: Some(70), ..Script::default() }, "-R 2000 -d 2s -c 4", 2),
        (Script { mute: true, ..Script::default() }, "-R 200 -d 500ms -c 2 --drain 1200ms", 1),
    ] {
        let server = Server::start(script);
        let (output, report) = run(&server, &format!("{arguments} --bad-share 1% --series {}", series.display()));
        let rows = rows(&series);
        assert!(rows.len() >= seconds, "{} rows, {}", rows.len(), stderr(&output));
        assert_rows_are_the_run(&rows, &report);
    }
}

#[test]
fn an_interrupted_run_leaves_whole_rows_that_are_there_before_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let (series, json) = (directory.path().join("series.ndjson"), directory.path().join("report.json"));
    let server = Server::start(Script::default());
    let child = loadgen("-d 60s -R 500 --quiet --host 127.0.0.1")
        .args(["--port", &server.addr.port().to_string()])
        .arg("--series")
        .arg(&series)
        .arg("--json")
        .arg(&json)
        .args(OTHERS.iter().flat_map(|(flag, name, _)| [(*flag).into(), directory.path().join(name)]))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let has_rows = || std::fs::read_to_string(&series).is_ok_and(|text| text.lines().count() >= 2);
    let patience = std::time::Instant::now();
    while !has_rows() {
        assert!(patience.elapsed() < Duration::from_secs(30), "rows are written while the run goes on");
        std::thread::sleep(Duration::from_millis(50));
    }
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_rows_are_the_run(&rows(&series), &report);
    for (flag, name, ends) in OTHERS {
        let name = if flag == "--csv" { "run_stats.csv" } else { name };
        let text = std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(text.trim_end().lines().last().unwrap().contains(ends), "{name} is whole: {text}");
    }
}

/// The other files of a run, and what the last line of each has in it.
const OTHERS: [(&str, &str, &str); 5] = [
    ("--hlog", "run.hlog", "Tag="),
    ("--hdr", "run.hgrm", "#[Buckets"),
    ("--csv", "run", ",Aggregated,"),
    ("--prometheus", "run.prom", "# EOF"),
    ("--junit", "run.xml", "</testsuites>"),
];

#[test]
fn a_file_that_cannot_be_written_is_said_before_anything_is_sent() {
    let directory = tempfile::tempdir().unwrap();
    let (absent, kept) = (directory.path().join("absent/file"), directory.path().join("kept.json"));
    std::fs::write(&kept, "an earlier report").unwrap();
    let server = Server::start(Script::default());
    for flag in ["--json", "--series", "--hlog", "--hdr", "--csv", "--prometheus", "--junit"] {
        let output = loadgen("-n 10 --host 127.0.0.1")
            .args(["--port", &server.addr.port().to_string(), flag])
            .arg(&absent)
            .args(if flag == "--json" { ["--series"] } else { ["--json"] })
            .arg(&kept)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{flag}");
        assert!(stderr(&output).contains(&format!("cannot write {}", absent.display())), "{}", stderr(&output));
        assert_eq!(server.connections(), 0, "nothing was sent");
        assert_eq!(std::fs::read_to_string(&kept).unwrap(), "an earlier report", "and nothing was lost");
    }
}

#[test]
fn a_disk_that_fills_up_during_the_run_is_said_and_the_report_is_written_all_the_same() {
    let server = Server::start(Script::default());
    let output = loadgen("-R 100 -d 1200ms -c 1 --host 127.0.0.1 --series /dev/full --json -")
        .args(["--port", &server.addr.port().to_string()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot write /dev/full"), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["tests"][0]["results"]["offered"], 120);
}

#[test]
fn a_ledger_that_cannot_be_kept_takes_nothing_else_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("gone");
    std::fs::create_dir(&place).unwrap();
    let server = Server::start(Script::default());
    let child = loadgen("-R 100 -d 60s -c 1 --host 127.0.0.1 --json -")
        .args(["--port", &server.addr.port().to_string(), "--ledger"])
        .arg(place.join("ledger.json"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let patience = std::time::Instant::now();
    while server.stored_lines() == 0 {
        assert!(patience.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(10));
    }
    std::fs::remove_dir_all(&place).unwrap();
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "a ledger was asked for");
    assert!(stderr(&output).contains("cannot write the ledger"), "{}", stderr(&output));
    assert!(stderr(&output).contains("throughput"), "the table is shown all the same: {}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("the report is whole");
    assert_eq!(report["tests"][0]["verdict"], "interrupted");
}

#[test]
fn shards_are_merged_and_runs_compared_on_the_command_line() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    let server = Server::start(Script::default());
    for (name, lines) in [("a.json", 300), ("b.json", 301)] {
        let (output, report) = run(&server, &format!("-n {lines} -c 2 --seed 5"));
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        std::fs::write(place(name), serde_json::to_vec(&report).unwrap()).unwrap();
    }
    let command = |name: &str, files: &[&str]| {
        let mut command = loadgen(name);
        command.args(files.iter().map(|file| place(file)));
        command
    };
    let merged = command("merge", &["a.json", "b.json"]).args(["-o", "-"]).output().unwrap();
    assert_eq!(merged.status.code(), Some(0), "{}", stderr(&merged));
    let merged: Value = serde_json::from_slice(&merged.stdout).unwrap();
    assert_eq!(merged["tests"][0]["results"]["acked"], 601);
    assert_eq!(merged["tests"][0]["results"]["response_us"]["count"], 601);
    assert_eq!(merged["tests"][0]["config"]["connections"], 4);

    let compared = command("diff", &["a.json", "b.json"]).output().unwrap();
    assert_eq!(compared.status.code(), Some(0), "{}", stderr(&compared));
    let text = String::from_utf8(compared.stdout).unwrap();
    let acked = text.lines().find(|line| line.trim_start().starts_with("acked")).unwrap();
    assert_eq!(acked.split_whitespace().collect::<Vec<_>>(), ["acked", "300", "301", "1.003"]);

    std::fs::write(place("no.json"), "{}").unwrap();
    for (name, files, said) in [
        ("merge", ["a.json", "a.json"], "is there twice"),
        ("merge", ["a.json", "no.json"], "no.json is not a report of this version"),
        ("diff", ["absent.json", "a.json"], "cannot read"),
    ] {
        let refused = command(name, &files).output().unwrap();
        assert_eq!(refused.status.code(), Some(1));
        assert!(stderr(&refused).contains(said), "{}", stderr(&refused));
    }
    assert_eq!(loadgen("merge").output().unwrap().status.code(), Some(2));
}

#[test]
fn every_kind_of_line_and_a_users_own_are_taken_and_proved() {
    let directory = tempfile::tempdir().unwrap();
    let (own, ledger) = (directory.path().join("own.ndjson"), directory.path().join("ledger.json"));
    std::fs::write(&own, "{\"level\":\"info\",\"message\":\"mine\"}\n{ \"message\":{}, \"level\":\"warn\"}\r\n")
        .unwrap();
    let kinds = ["flat", "access", "app", "audit", "trace", "unicode", "mixed"];
    let mut sources: Vec<String> = kinds.map(|kind| format!("--corpus-shape {kind} --bad-share 2%")).into();
    sources.push(format!("--corpus {}", own.display()));
    for source in sources {
        let server = Server::start(Script::default());
        let arguments = format!("-n 600 -c 2 --mode session {source} --ledger {}", ledger.display());
        let (output, report) = run(&server, &arguments);
        assert_eq!(output.status.code(), Some(0), "{source}: {}", stderr(&output));
        let results = &report["tests"][0]["results"];
        let refused = results["refused_as_meant"].as_u64().unwrap();
        assert_eq!(results["acked"], 600 - refused, "{source}");
        assert_eq!(refused > 0, source.contains("bad-share"), "{source}");
        let config = &report["tests"][0]["config"];
        assert!(source.contains(config["corpus"].as_str().unwrap().trim_start_matches("file ")), "{config}");
        let stored = directory.path().join("stored.ndjson");
        std::fs::write(&stored, server.stored()).unwrap();
        let compared = loadgen("reconcile").arg("--ledger").arg(&ledger).arg(&stored).output().unwrap();
        assert_eq!(compared.status.code(), Some(0), "{source}: {}", String::from_utf8_lossy(&compared.stdout));
    }

    std::fs::write(&own, "{\"level\":\"info\",\"message\":\"mine\"}\nnot this\n").unwrap();
    let server = Server::start(Script::default());
    let (output, _) = run(&server, &format!("-n 10 --corpus {}", own.display()));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("own.ndjson: line 2: no JSON"), "{}", stderr(&output));
}
