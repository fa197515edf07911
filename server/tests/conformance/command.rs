//! The command line: what is refused, in words that say what to do, and what is said at start.

use crate::support::lines::{OK, record};
use crate::support::process::{Setup, can_run, command_line, texts};
use crate::support::{Backend, on_each_backend};
use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

#[test]
fn an_unknown_flag_is_a_usage_error() {
    for args in [&["--no-such-flag"][..], &["--ack", "sometimes"], &["--backend", "kqueue"], &["frobnicate"]] {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let output = command_line(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", texts(&output));
        let stderr = String::from_utf8_lossy(&output.stderr);
        let blamed = args.last().unwrap().to_str().unwrap();
        assert!(stderr.contains(blamed), "it names what is wrong: {stderr}");
    }
}

#[test]
fn print_config_says_what_would_run_and_runs_nothing() {
    let room = tempfile::tempdir().unwrap();
    let dir = room.path().join("logs");
    let args = ["--print-config", "--ack", "written", "--log-dir", dir.to_str().unwrap()];
    let output = command_line(&args.map(OsString::from));
    assert_eq!(output.status.code(), Some(0), "{}", texts(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("written") && text.contains(dir.to_str().unwrap()), "{text}");
    assert!(text.contains("127.0.0.1"), "it listens on loopback unless told otherwise: {text}");
    assert!(!dir.exists(), "nothing was made");
}

on_each_backend!(a_flag_beats_the_environment, |setup: Setup| {
    let server = setup.ack("written").arg("--ack").arg("accepted").start();
    assert_eq!(server.connect().hello(r#""producer":"p""#)["ack"], "accepted");
});

on_each_backend!(a_port_in_use_is_refused_with_its_address, |setup: Setup| {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_refused(&setup.beside(), taken.local_addr().unwrap().port());
    // The shards of a server share its port among themselves, and with nobody else.
    let server = setup.clone().shards(2).start();
    assert_refused(&setup.beside().shards(2), server.addr().port());
    assert_eq!(server.connect().ask(record("p", 1)), OK);

    fn assert_refused(setup: &Setup, port: u16) {
        let refused = setup.clone().env("SERVER_PORT", &port.to_string()).try_start().err().expect("the port is taken");
        assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
        assert!(refused.stderr.contains(&format!("127.0.0.1:{port}")), "it names the address: {}", refused.stderr);
        assert!(refused.stderr.contains("already listens"), "it says what is wrong: {}", refused.stderr);
    }
});

on_each_backend!(a_log_directory_that_cannot_be_made_is_named, |setup: Setup| {
    let file = setup.room().join("a-file");
    fs::write(&file, "in the way").unwrap();
    let dir = file.join("logs");
    let refused = setup.clone().log_dir(&dir).try_start().err().expect("a file is in the way");
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains(file.to_str().unwrap()), "{}", refused.stderr);
    assert_eq!(fs::read(&file).unwrap(), b"in the way");
});

on_each_backend!(a_log_directory_that_is_not_writable_is_named, |setup: Setup| {
    let dir = setup.room().join("read-only");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(setup.room(), fs::Permissions::from_mode(0o777)).unwrap();
    // For root nothing is read-only.
    let as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let setup = match whoami() {
        0 if can_run(&as_nobody) => setup.through(as_nobody),
        0 => return println!("skipped: root can write anywhere, and setpriv cannot start the server as nobody"),
        _ => setup,
    };
    let refused = setup.clone().log_dir(&dir).try_start().err().expect("the directory is read-only");
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains(dir.to_str().unwrap()), "{}", refused.stderr);
    assert!(refused.stderr.contains("ermission denied"), "{}", refused.stderr);
});

#[test]
fn auto_takes_io_uring_where_the_kernel_has_it_and_says_so() {
    if let Some(reason) = Backend::Uring.refusal() {
        return println!("skipped: {reason}");
    }
    let setup = Setup::new(Backend::Uring).backend("auto");
    let server = setup.start();
    assert_eq!(server.connect().ask(record("p", 1)), OK);
    assert!(server.stop().stderr.contains("uring"), "the backend is said");
}

#[test]
fn where_io_uring_is_blocked_auto_serves_by_epoll_and_says_why_in_one_line() {
    let Some(blocked) = without_io_uring() else { return };
    let setup = Setup::new(Backend::Epoll).backend("auto").through(blocked);
    let server = setup.start();
    assert_eq!(server.connect().ask(record("p", 1)), OK);
    let ended = server.stop();
    let said: Vec<&str> = ended.stderr.lines().filter(|line| line.contains("io_uring")).collect();
    assert_eq!(said.len(), 1, "one line says it: {}", ended.stderr);
    assert!(said[0].contains("epoll"), "and what is used in its place: {}", said[0]);
    assert_eq!(setup.records().len(), 1);
}

#[test]
fn where_io_uring_is_blocked_asking_for_it_is_refused_with_the_reason() {
    let Some(blocked) = without_io_uring() else { return };
    let refused = Setup::new(Backend::Uring).through(blocked).try_start().err().expect("there is no ring to be had");
    assert_eq!(refused.status.code(), Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("io_uring is not available here: "), "{}", refused.stderr);
}

#[cfg(feature = "glommio")]
#[test]
fn where_glommio_has_no_rings_or_no_locked_memory_it_is_refused_with_the_reason() {
    let reason = Backend::Glommio.refusal();
    if let Some(blocked) = without_io_uring() {
        let refused = Setup::new(Backend::Glommio).through(blocked).try_start().err().expect("there is no ring");
        assert_eq!(refused.status.code(), Some(2), "{}", refused.stderr);
        assert!(refused.stderr.contains("io_uring is not available here: "), "{}", refused.stderr);
    }
    if reason.is_none() {
        let poor = Setup::new(Backend::Glommio).through(["sh", "-c", "ulimit -l 64; exec \"$@\"", "sh"]);
        let refused = poor.try_start().err().expect("there is too little locked memory");
        assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
        let said = refused.stderr.lines().find(|line| line.contains("locked memory")).expect("it is said");
        assert!(said.contains("524288") && said.contains("65536") && said.contains("ulimit -l"), "{said}");
    }
}

#[cfg(feature = "glommio")]
#[test]
fn glommio_says_in_one_line_what_a_comparison_has_to_know() {
    if let Some(reason) = Backend::Glommio.refusal() {
        return println!("skipped: {reason}");
    }
    let ended = Setup::new(Backend::Glommio).start().stop();
    let said: Vec<&str> = ended.stderr.lines().filter(|line| line.contains("for comparison")).collect();
    assert!(said.len() == 1 && said[0].contains("one-shot polls") && said[0].contains("copied"), "{}", ended.stderr);
}

on_each_backend!(there_may_be_more_shards_than_cores_if_none_is_pinned, |setup: Setup| {
    let setup = setup.shards(5);
    let server = setup.start();
    (0..20).map(|_| server.connect()).for_each(|mut client| assert_eq!(client.ask(record("p", 1)), OK));
    server.stop();
    assert_eq!(setup.records().len(), 20);
});

on_each_backend!(a_shard_runs_on_the_core_it_was_given, |setup: Setup| {
    let core = allowed_cores("/proc/self/status").split([',', '-']).next().unwrap().to_owned();
    let server = setup.pinned(&core).start();
    assert_eq!(server.connect().ask(record("p", 1)), OK);
    let mut shards = 0;
    for task in fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap() {
        let task = task.unwrap().path();
        let name = fs::read_to_string(task.join("comm")).unwrap();
        if name.starts_with("shard-") || name.starts_with("writer-") {
            assert_eq!(allowed_cores(task.join("status")), core, "{name}");
            shards += 1;
        }
    }
    assert!(shards > 0, "a shard has a thread");
});

/// A command that starts another one without io_uring, as in a container; `None`, and said why, where that cannot be done.
fn without_io_uring() -> Option<[&'static str; 1]> {
    const FILTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/without-io-uring");
    let tried = Command::new(FILTER).arg("true").output().expect("the script is there");
    if !tried.status.success() {
        println!("skipped: {}", texts(&tried));
    }
    tried.status.success().then_some([FILTER])
}

fn whoami() -> u32 {
    let output = Command::new("id").arg("-u").output().expect("id is everywhere");
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// The cores that a thread may run on, as the kernel writes them.
fn allowed_cores(status: impl AsRef<Path>) -> String {
    let text = fs::read_to_string(status).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.expect("the kernel reports it").trim().to_owned()
}
