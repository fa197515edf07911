//! The server as a process: what it says, which files it leaves, and with which code it ends.

use ringest_sys::ring;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

#[test]
fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ringest.toml");
    fs::write(&file, "# where\nport = 9050\nno-pin = true\nudp = true\nline-timeout = \"7s\"\n").unwrap();
    let file = file.to_str().unwrap();
    let resolved = |flags: &[&str], variables: &[(&str, &str)]| {
        let output = server().arg("--print-config").args(flags).envs(variables.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let config: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        config
    };
    let port = |flags: &[&str], variables: &[(&str, &str)]| resolved(flags, variables)["listen"].clone();
    assert_eq!(port(&[], &[]), "127.0.0.1:9000");
    assert_eq!(port(&[], &[("SERVER_PORT", "9100")]), "127.0.0.1:9100");
    assert_eq!(port(&["--port", "9200"], &[("SERVER_PORT", "9100")]), "127.0.0.1:9200");
    assert_eq!(port(&["--config", file], &[]), "127.0.0.1:9050");
    assert_eq!(port(&["--config", file], &[("SERVER_PORT", "9100")]), "127.0.0.1:9100");
    assert_eq!(port(&["--config", file, "--port", "9000"], &[]), "127.0.0.1:9000", "a flag that says the default, too");

    let config = resolved(&[], &[("RINGEST_CONFIG", file), ("ENABLE_UDP", "false")]);
    assert_eq!(config["line_timeout_ms"], 7000);
    assert_eq!(config["udp"], serde_json::Value::Null);
    assert!(config["cpus"].as_array().unwrap().iter().all(serde_json::Value::is_null), "{config}");
    assert_eq!(config["config_file"], file);
}

#[test]
fn a_file_that_says_something_else_than_a_flag_could_is_refused_by_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ringest.toml");
    for (text, words) in [
        (
            "port = 9000\nbatch_size = 10\n",
            "ringest.toml, line 2: there is no key \"batch_size\"; did you mean \"batch-size\"?",
        ),
        ("shards = \"two\"\n", "line 1: shards is a string, and a whole number is expected"),
        ("\nbatch-size = 0\n", "BATCH_SIZE=0: a batch has at least one record (batch-size in"),
        ("drain-deadline = \"soon\"\n", "DRAIN_DEADLINE: \"soon\" is not a time up to 1h"),
    ] {
        fs::write(&path, text).unwrap();
        let output = server().arg("--print-config").arg("--config").arg(&path).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{text}: {}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
    let absent = server().env("RINGEST_CONFIG", dir.path().join("absent")).output().unwrap();
    assert_eq!(absent.status.code(), Some(2));
    assert!(stderr(&absent).contains("absent: No such file"), "{}", stderr(&absent));
    // What is stored is read without any settings.
    fs::create_dir_all(dir.path().join("logs/shard-00")).unwrap();
    let cat =
        server().env("RINGEST_CONFIG", dir.path().join("absent")).arg("cat").arg(dir.path().join("logs")).output();
    assert!(cat.unwrap().status.success());
}

#[test]
fn usage_ends_with_2_and_what_cannot_be_had_with_1() {
    let refused = |command: &mut Command, code: i32, words: &str| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    refused(server().arg("--no-such-flag"), 2, "--no-such-flag");
    refused(server().args(["--port", "70000"]), 2, "70000");
    refused(server().args(["--backend", "kqueue"]), 2, "kqueue");
    refused(server().env("ENABLE_TLS", "true").arg("--log-dir").arg(dir.path()), 2, "CERT_DIR");
    refused(server().arg("--log-dir").arg(file.join("logs")), 1, "file");
    refused(server().arg("verify").arg(dir.path().join("nowhere")), 1, "nowhere");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    refused(server().args(["--port", &port]).arg("--log-dir").arg(dir.path()), 1, "another process already listens");
}

#[test]
fn a_stop_settles_what_was_taken_and_closes_the_books() {
    for backend in ["epoll", "uring", "glommio"] {
        if backend == "glommio" && !cfg!(feature = "glommio") {
            continue;
        }
        if backend != "epoll"
            && let Err(reason) = ring::probe()
        {
            println!("skipped on {backend}: {reason}");
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut running = Running::start(dir.path(), &["--backend", backend]);
        let mut client = TcpStream::connect(&running.address).unwrap();
        let lines: String = (0..100).map(|n| format!("{{\"level\":\"info\",\"message\":{n}}}\n")).collect();
        client.write_all(lines.as_bytes()).unwrap();
        client.write_all(b"nonsense\n").unwrap();
        let replies = BufReader::new(&client).lines().take(101).map(Result::unwrap);
        assert_eq!(replies.filter(|reply| reply.contains("\"ok\"")).count(), 100);

        running.signal("TERM");
        let (code, said) = running.end();
        assert_eq!(code, Some(0), "{said}");
        let total = said.lines().find(|line| line.contains("total:")).expect("the books are reported");
        assert!(total.contains("received 101 = stored 100 + filtered 0"), "{total}");
        assert!(total.contains("(bad_json 1)") && total.contains("the books close"), "{total}");
        assert!(!dir.path().join("ready").exists());

        let stored = server().arg("cat").arg(dir.path().join("logs")).output().unwrap().stdout;
        assert_eq!(String::from_utf8(stored).unwrap(), lines);
        let verified = server().arg("verify").arg(dir.path().join("logs")).output().unwrap();
        assert!(verified.status.success());
    }
}

#[test]
fn a_second_signal_ends_at_once_and_a_deadline_ends_what_does_not() {
    for (second, deadline, expected) in [(Some("INT"), "60s", 130), (Some("TERM"), "60s", 143), (None, "1ms", 1)] {
        let dir = tempfile::tempdir().unwrap();
        let mut running = Running::start(dir.path(), &["--drain-deadline", deadline]);
        let _client = deaf_client(&running.address);
        running.signal("TERM");
        std::thread::sleep(Duration::from_millis(100));
        if let Some(second) = second {
            running.signal(second);
        }
        let (code, said) = running.end();
        assert_eq!(code, Some(expected), "{said}");
        assert_eq!(said.contains("is given up"), second.is_none(), "{said}");
        assert!(!dir.path().join("ready").exists());
    }
}

/// A client that is owed more replies than the kernel holds for it, and takes none: a drain waits a second for it.
fn deaf_client(address: &str) -> TcpStream {
    let mut client = TcpStream::connect(address).unwrap();
    client.set_nonblocking(true).unwrap();
    let lines = "{\"level\":\"info\",\"message\":1}\n".repeat(10_000);
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < Duration::from_millis(200) {
        match client.write(lines.as_bytes()) {
            Ok(1..) => quiet_since = Instant::now(),
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    client
}

#[test]
fn a_directory_has_one_server_and_readers_as_many_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), &[]);
    let mut client = TcpStream::connect(&running.address).unwrap();
    client.write_all(b"{\"level\":\"info\",\"message\":1}\n").unwrap();
    let mut reply = String::new();
    BufReader::new(&client).read_line(&mut reply).unwrap();

    let logs = dir.path().join("logs");
    let second = server().args(["--port", "0"]).arg("--log-dir").arg(&logs).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains(logs.to_str().unwrap()), "{}", stderr(&second));
    let read = server().arg("cat").arg(&logs).output().unwrap();
    assert_eq!(String::from_utf8(read.stdout).unwrap(), "{\"level\":\"info\",\"message\":1}\n");
    assert!(server().arg("verify").arg(&logs).output().unwrap().status.success());
}

#[test]
fn a_server_that_waits_for_another_reads_its_files_once_it_runs_instead_of_ending_of_a_hangup() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Running::start(dir.path(), &[]);
    let file = dir.path().join("ringest.toml");
    fs::write(&file, "").unwrap();
    let second = server()
        .args(["--port", "0", "--shards", "1", "--lock-wait", "30s", "--config"])
        .arg(&file)
        .arg("--log-dir")
        .arg(dir.path().join("logs"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut second = Running { child: second, address: String::new() };
    let mut said = BufReader::new(second.child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.contains("waiting up to 30s")));
    fs::write(&file, "min-level = \"ERROR\"\n").unwrap();
    second.signal("HUP");
    first.signal("TERM");
    assert_eq!(first.end().0, Some(0));
    assert!(said.any(|line| line.contains("read again: ") && line.contains("min-level is ERROR")));
    second.signal("TERM");
    assert_eq!(second.end().0, Some(0));
}

#[test]
fn a_reader_of_the_stages_that_goes_away_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let _running = Running::start(dir.path(), &["--admin-addr", "127.0.0.1:0"]);
    let ready = fs::read_to_string(dir.path().join("ready")).unwrap();
    let admin = ready.split_whitespace().find_map(|word| word.strip_prefix("admin=")).expect("it was asked for");
    for flags in [&["--once"][..], &["--interval", "1"]] {
        let mut top = server();
        top.args(["top", "--admin-addr", admin]).args(flags);
        let mut top = top.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(top.stdout.take());
        let output = top.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", stderr(&output));
    }
}

#[test]
fn a_server_that_keeps_nothing_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = Running::start(dir.path(), &["--persistence", "false"]);
    let mut client = TcpStream::connect(&running.address).unwrap();
    client.write_all(b"{\"level\":\"info\",\"message\":1}\n").unwrap();
    let mut reply = String::new();
    BufReader::new(&client).read_line(&mut reply).unwrap();
    assert!(reply.contains("\"ok\""), "{reply}");
    running.signal("INT");
    assert_eq!(running.end().0, Some(0));
    assert!(!dir.path().join("logs").exists());
}

#[test]
fn a_reader_of_standard_error_that_goes_away_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = Running::start(dir.path(), &[]);
    drop(running.child.stderr.take());
    running.signal("TERM");
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn a_reader_of_standard_error_that_stops_reading_does_not_hold_a_stop_up() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ringest.toml");
    fs::write(&file, "").unwrap();
    let running = Running::start(dir.path(), &["--config", file.to_str().unwrap()]);
    // More than the pipe holds: each line says it.
    fs::write(&file, format!("{} = 1\n", "x".repeat(3000))).unwrap();
    for _ in 0..60 {
        running.signal("HUP");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut running = running;
    running.signal("TERM");
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = running.child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "it waits for somebody to read");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(status.code(), Some(0));
    assert!(running.end().1.contains("there is no key"), "what was read is what fitted");
}

/// A server that takes connections. Killed if a test ends before it has.
struct Running {
    child: Child,
    address: String,
}

impl Running {
    fn start(dir: &Path, flags: &[&str]) -> Running {
        let ready = dir.join("ready");
        let mut child = server()
            .args(["--port", "0", "--shards", "1", "--ready-file"])
            .arg(&ready)
            .arg("--log-dir")
            .arg(dir.join("logs"))
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(text) = fs::read_to_string(&ready) {
                let mut words = text.split_whitespace();
                let (address, pid) = words.next().zip(words.next()).unwrap();
                assert_eq!(pid, child.id().to_string());
                return Running { address: address.to_owned(), child };
            }
            assert!(child.try_wait().unwrap().is_none(), "the server ended before it was ready");
            assert!(Instant::now() < deadline, "the server is not ready after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Its exit code and what it said.
    fn end(&mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut said).unwrap();
        }
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary, with none of its caller's variables.
fn server() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringest-server"));
    command.env_clear().env("ADMIN_ADDR", "none");
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// How long a server may take to be ready on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);
