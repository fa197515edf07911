//! The memory formula: the server is held to it while everything bad is done to it at once.

use crate::support::lines::{OK, json, record};
use crate::support::on_each_backend;
use crate::support::process::{Server, Setup, command_line};
use crate::support::tls::Ca;
use crate::support::{Backend, process};
use flate2::{Compression, write::GzEncoder};
use procfs::process::VmFlags;
use ringest_ingest::Limits;
use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{fs, thread};

/// Bombs; a multiple of the kinds of them. And one connection for a good client.
const BOMBS: usize = 20 * KINDS;
const KINDS: usize = 9;

on_each_backend!(memory_stays_within_its_formula_under_all_bombs_at_once, |setup: Setup| {
    let cert_dir = setup.room().join("certs");
    Ca::new().server(&["localhost"]).lay(&cert_dir);
    bombard(setup.env("ENABLE_TLS", "allow").env("CERT_DIR", cert_dir.to_str().unwrap()), |at| at % KINDS);
});

on_each_backend!(memory_stays_within_its_formula_where_each_line_is_a_fault_and_no_reply_is_read, |setup: Setup| {
    bombard(setup, |at| 2 + at % 2);
});

on_each_backend!(batches_lie_in_one_piece_that_may_have_large_pages, |setup: Setup| {
    let server = setup.shards(1).start();
    let mut client = server.connect();
    assert_eq!(client.ask(record("a", 1)), OK);
    let process = procfs::process::Process::new(i32::try_from(server.pid()).unwrap()).unwrap();
    let whole = Limits::default().batches as u64 * Limits::default().batch_len_max as u64;
    let pieces: Vec<_> =
        process.smaps().unwrap().into_iter().filter(|it| it.address.1 - it.address.0 >= whole).collect();
    let is_huge = pieces.iter().any(|piece| piece.extension.vm_flags.contains(VmFlags::HG));
    let is_known = fs::exists("/sys/kernel/mm/transparent_hugepage").unwrap();
    assert_eq!(is_huge, is_known, "as far as the kernel has any: {pieces:?}");
    server.stop();
});

/// Holds a server to its formula, while each connection does its kind of harm.
fn bombard(setup: Setup, kind: impl Fn(usize) -> usize) {
    let on = setup.on;
    let bound = formula(on);
    let limit = bound + bound / 10;
    let setup = flags().into_iter().fold(setup.ack("written"), Setup::arg);
    let group = Group::new(limit).inspect_err(|why| println!("{}: no memory limit: {why}", on.as_str())).ok();
    let server = match &group {
        Some(group) => group.hold(&setup).start(),
        None => setup.start(),
    };
    let mut good = server.connect();
    assert_eq!(good.ask(record("good", 1)), OK);
    let mut bombs: Vec<Bomb> = (0..BOMBS).map(|at| Bomb::connect(&server, at, kind(at))).collect();
    let started = Instant::now();
    let mut sent = 0;
    while started.elapsed() < Duration::from_secs(4) {
        sent += bombs.iter_mut().map(Bomb::burn).sum::<u64>();
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(good.ask(record("good", 2)), OK, "it is alive, and serves who is good");
    let peak = server.memory_kib("VmHWM") << 10;
    let (peak_mib, bound_mib) = (peak >> 20, bound >> 20);
    println!("{}: {} MiB were sent; at most {peak_mib} MiB of {bound_mib} MiB were taken", on.as_str(), sent >> 20);
    if let Some(group) = &group {
        println!("{}: in a group of {} MiB, {}", on.as_str(), limit >> 20, group.told());
    }
    assert!(peak <= limit, "{peak} bytes are more than a tenth above {bound}");
    drop(bombs);
    drop(good);
    server.stop();
}

fn flags() -> Vec<OsString> {
    let connections = (BOMBS + 1).to_string();
    let all = ["--max-connections", &connections, "--max-connections-per-address", &connections, "--accept-rate", "0"];
    all.map(OsString::from).to_vec()
}

/// What `--print-config` says.
fn formula(on: Backend) -> u64 {
    let mut args: Vec<OsString> =
        ["--print-config", "--no-pin", "--shards", "1", "--backend", on.as_str()].map(OsString::from).to_vec();
    args.extend(flags());
    let output = command_line(&args);
    assert!(output.status.success(), "{}", process::texts(&output));
    let config = json(&String::from_utf8(output.stdout).unwrap());
    config["memory_bytes"]["total"].as_u64().expect("the formula is printed")
}

/// A connection that sends what hurts, as much as is taken, and reads nothing.
struct Bomb {
    stream: TcpStream,
    /// Sent once.
    head: Vec<u8>,
    /// Sent again and again behind it.
    rest: Vec<u8>,
    sent: usize,
    is_over: bool,
}

impl Bomb {
    fn connect(server: &Server, at: usize, kind: usize) -> Bomb {
        let stream = TcpStream::connect(server.addr()).unwrap();
        stream.set_nonblocking(true).unwrap();
        let hello =
            |members: &str| format!("{{\"$hello\":{{\"v\":1,\"producer\":\"p{at}\"{members}}}}}\n").into_bytes();
        let (head, rest) = match kind {
            // Half a line, as long as one may be.
            0 => (vec![b'x'; (256 << 10) - 1], Vec::new()),
            // A line without an end.
            1 => (Vec::new(), vec![b'x'; 64 << 10]),
            // Faults that all differ from their neighbours, each a reply of its own.
            2 => (Vec::new(), b"1\nx\n".repeat(16 << 10)),
            // The same as a session, each a rejection.
            3 => (hello(""), b"1\nx\n".repeat(16 << 10)),
            // Pings, each with an answer that is not taken.
            4 => (hello(""), "{\"$ping\":18446744073709551615}\n".repeat(2000).into_bytes()),
            // A kilobyte that unpacks to a megabyte, and another one behind it.
            5 => (Vec::new(), gzip(&[b'x'; 1 << 20])),
            // The largest hello, and much behind it; and half of one.
            6 => (hello(&format!(",\"token\":\"{}\"", "t".repeat(3900))), vec![b'x'; 64 << 10]),
            7 if at.is_multiple_of(2) => {
                (format!("{{\"$hello\":{{\"token\":\"{}", "t".repeat(4000)).into_bytes(), Vec::new())
            }
            // A TLS record that is never whole: half a handshake.
            8 => ([&[0x16, 3, 1, 0x40, 0][..], &[1; 16_000]].concat(), Vec::new()),
            // Nothing at all.
            _ => (Vec::new(), Vec::new()),
        };
        Bomb { stream, head, rest, sent: 0, is_over: false }
    }

    /// Sends what is taken at once.
    fn burn(&mut self) -> u64 {
        let before = self.sent;
        for _ in 0..8 {
            let piece = match self.sent.checked_sub(self.head.len()) {
                None => &self.head[self.sent..],
                Some(_) if self.rest.is_empty() => break,
                Some(behind) => &self.rest[behind % self.rest.len()..],
            };
            if self.is_over || piece.is_empty() {
                break;
            }
            match self.stream.write(piece) {
                Ok(len) => self.sent += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // It was let go, and comes no more.
                Err(_) => self.is_over = true,
            }
        }
        (self.sent - before) as u64
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A control group with a memory limit; removed at the end.
struct Group {
    at: PathBuf,
    told: &'static str,
}

impl Group {
    /// In version 2 where that one has the memory controller, else in version 1.
    fn new(limit: u64) -> Result<Group, String> {
        let name = format!("ringest-test-{}-{limit}", std::process::id());
        let version_2 = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").is_ok_and(|all| all.contains("memory"));
        let (root, file, told) = if version_2 {
            ("/sys/fs/cgroup", "memory.max", "memory.events")
        } else {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.failcnt")
        };
        let at = PathBuf::from(root).join(name);
        let explain = |error: std::io::Error| format!("{}: {error}", at.display());
        fs::create_dir(&at).map_err(explain)?;
        let group = Group { at, told };
        fs::write(group.at.join(file), limit.to_string()).map_err(|error| format!("{file}: {error}"))?;
        Ok(group)
    }

    /// The same server, started inside.
    fn hold(&self, setup: &Setup) -> Setup {
        let enter = format!("echo $$ > {}/cgroup.procs; exec \"$@\"", self.at.display());
        setup.clone().through(["sh", "-c", &enter, "sh"])
    }

    /// How often the limit was met.
    fn told(&self) -> String {
        let text = fs::read_to_string(self.at.join(self.told)).unwrap_or_default();
        format!("{}: {}", self.told, text.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It is empty a moment after its last process has ended.
        for _ in 0..100 {
            if fs::remove_dir(&self.at).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
