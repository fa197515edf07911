//! The unit files that come with the server: systemd takes them, and leaves the server little that it could break.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// The files, with a program in them that every machine has.
fn laid(dir: &Path) -> [String; 2] {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    ["ringest.service", "ringest.socket"].map(|name| {
        let text = fs::read_to_string(home.join(name)).unwrap();
        let path = dir.join(name);
        fs::write(&path, text.replace("/usr/local/bin/ringest-server", env!("CARGO_BIN_EXE_ringest-server"))).unwrap();
        path.to_str().unwrap().to_owned()
    })
}

/// What `systemd-analyze` says, where there is one.
fn analyze(args: &[&str]) -> Option<Output> {
    match Command::new("systemd-analyze").args(args).env("SYSTEMD_COLORS", "0").output() {
        Ok(output) => Some(output),
        Err(error) => {
            println!("skipped: systemd-analyze does not start here: {error}");
            None
        }
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn systemd_takes_the_unit_files() {
    let dir = tempfile::tempdir().unwrap();
    let [service, socket] = laid(dir.path());
    let Some(output) = analyze(&["verify", "--man=no", &service, &socket]) else { return };
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    // An unknown setting is only a warning to it.
    assert!(!said.contains("ringest."), "{said}");
}

#[test]
fn the_service_is_left_little_that_it_could_break() {
    let dir = tempfile::tempdir().unwrap();
    let [service, _] = laid(dir.path());
    // In tenths: 1.4 when this was written, most of it for having a network at all.
    let Some(output) = analyze(&["security", "--offline=true", "--threshold=20", &service]) else { return };
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("Overall exposure level"), "{}", said(&output));
}

#[test]
fn what_the_unit_sets_the_server_reads_and_the_times_fit_together() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/ringest.service")).unwrap();
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}"));
    let variables = text.lines().filter_map(|line| line.strip_prefix("Environment=")?.split_once('='));
    let mut server = Command::new(env!("CARGO_BIN_EXE_ringest-server"));
    server.env_clear().arg("--print-config").envs(variables);
    let output = server.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let config: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(config["log_dir"], format!("/var/lib/{}", value("StateDirectory=")));
    let drain_ms = config["drain_deadline_ms"].as_u64().unwrap();
    let stop_s: u64 = value("TimeoutStopSec=").trim_end_matches('s').parse().unwrap();
    assert!(stop_s * 1000 > drain_ms + 1000, "a drain ends by itself, and gives up what is left, before it is killed");
}
