//! What a person sees: on a terminal, which util-linux's `script` plays here, and elsewhere.

#[allow(dead_code, reason = "each test takes its own part of it")]
mod scripted;

use scripted::{Script, Server, loadgen};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";
const SHOW_CURSOR: &str = "\u{1b}[?25h";
const A_COLOUR: &str = "\u{1b}[38;5;";

/// A run on a terminal of 24 rows. Its input is open as long as the child is.
fn on_terminal(server: &Server, arguments: &str, environment: &[(&str, &str)]) -> Child {
    let loadgen = loadgen("").get_program().to_str().unwrap().to_owned();
    let port = server.addr.port();
    // What is looked at is the screen: of a few hundred lines five that were late by the machine's doing would be 1 %.
    let arguments = format!("{arguments} --max-late-share 100%");
    let line = format!("stty rows 24 cols 100; exec {loadgen} --host 127.0.0.1 --port {port} {arguments}");
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    command.env("TERM", "xterm-256color").env_remove("NO_COLOR").envs(environment.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script belongs to util-linux")
}

/// What the terminal got, and the code the run ended with.
fn finish(mut child: Child) -> (String, Option<i32>) {
    let input = child.stdin.take();
    let mut bytes = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
    let status = child.wait().unwrap();
    drop(input);
    (String::from_utf8_lossy(&bytes).into_owned(), status.code())
}

#[test]
fn a_terminal_shows_a_dashboard_and_is_given_back_with_the_table_on_it() {
    let server = Server::start(Script::default());
    let (seen, code) = finish(on_terminal(&server, "-R 200 -d 2200ms -c 2", &[]));
    assert_eq!(code, Some(0), "{seen}");
    let (before, rest) = seen.split_once(ENTER).expect("it takes the terminal");
    let (drawn, after) = rest.split_once(LEAVE).expect("and gives it back");
    assert!(!before.contains("records/s") && !after.contains(ENTER));
    // Words apart: only what changes is drawn, and the cursor is moved over what is blank already.
    for part in ["target", "200/s,", "latency", "p99.9", "records/s", "errors", A_COLOUR] {
        assert!(drawn.contains(part), "{part} is not in {drawn:?}");
    }
    assert!(after.contains(SHOW_CURSOR) && after.contains("open loop, plain mode"), "{after:?}");
}

#[test]
fn what_is_asked_for_in_plain_lines_has_no_escapes_and_no_color_has_no_colours() {
    let server = Server::start(Script::default());
    let (lines, _) = finish(on_terminal(&server, "-R 200 -d 2200ms -c 2 --plain", &[]));
    assert!(!lines.contains('\u{1b}') && lines.matches("records/s  0 errors").count() >= 2, "{lines:?}");
    let (dumb, _) = finish(on_terminal(&server, "-R 200 -d 1200ms -c 2", &[("TERM", "dumb")]));
    assert!(!dumb.contains('\u{1b}') && dumb.contains("records/s"), "{dumb:?}");
    let (plain, _) = finish(on_terminal(&server, "-R 200 -d 1200ms -c 2", &[("NO_COLOR", "1")]));
    assert!(plain.contains(ENTER) && plain.contains(LEAVE) && !plain.contains(A_COLOUR), "{plain:?}");
    let (quiet, _) = finish(on_terminal(&server, "-R 200 -d 1200ms -c 2 --quiet", &[]));
    assert_eq!(quiet.trim(), "");
}

#[test]
fn ctrl_c_on_the_keyboard_gives_the_terminal_back_and_leaves_the_report() {
    let directory = tempfile::tempdir().unwrap();
    let (json, series) = (directory.path().join("report.json"), directory.path().join("series.ndjson"));
    let server = Server::start(Script::default());
    let arguments = format!("-R 200 -d 60s -c 2 --json {} --series {}", json.display(), series.display());
    let mut child = on_terminal(&server, &arguments, &[]);
    let began = Instant::now();
    while std::fs::read_to_string(&series).map_or(0, |text| text.lines().count()) < 1 {
        assert!(began.elapsed() < Duration::from_secs(30), "it runs");
        std::thread::sleep(Duration::from_millis(50));
    }
    child.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    let (seen, code) = finish(child);
    assert_eq!(code, Some(130), "{seen}");
    let after = seen.rsplit_once(LEAVE).expect("it gives the terminal back").1;
    assert!(after.contains(SHOW_CURSOR) && after.contains("records/s"), "{after:?}");
    assert!(std::fs::read_to_string(&json).unwrap().contains("\"interrupted\""));
}
