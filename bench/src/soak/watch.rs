//! A server under watch: started, looked at every few seconds, asked to end when we are, its end known by its wait status.
//!
//! What is seen is written down at once, so that a soak that is cut off has all that was seen until then. A server may
//! have several lives in one directory; each is a line when it begins and a line when it ends, and what is not in the
//! second line did not end under our eyes.

use super::ceiling;
use super::record::{Ceiling, Life, Look, Said, Sample};
use crate::cli::Watch;
use crate::process::{LOGS, Launch, Server};
use crate::sampler::Meters;
use crate::status::{Status, ask};
use procfs::process::{FDTarget, Process};
use procfs::{Current, ProcError, ProcResult, Uptime};
use ringest_loadgen::report::utc;
use ringest_sys::signal::Signals;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Whether it ended as it was to.
///
/// # Errors
/// It cannot be started, does not end, or what was seen cannot be written.
pub fn run(task: &Watch) -> io::Result<bool> {
    let inherited = inherited()?;
    // Before anything starts, so that no request to end is missed.
    let signals = Signals::new()?;
    let dir = &task.dir;
    fs::create_dir_all(dir).map_err(|error| explain(&error, "cannot make", dir))?;
    // As the kernel names what lies in it.
    let dir = &dir.canonicalize()?;
    let lives: Vec<Life> = read_lines(&dir.join(LIVES))?;
    let life = 1 + lives.iter().filter(|life| matches!(life, Life::Began { .. })).count() as u32;
    keep_what_was_said(&task.server, dir, life)?;
    let _ = fs::remove_file(dir.join("ready"));
    let launch = Launch::new(&task.server, &task.args);
    let ceiling = ceiling_of(&launch, task.connections, inherited);
    let server = Server::start(&launch, dir)?;
    let began = Life::Began {
        life,
        at: utc(SystemTime::now()),
        pid: server.pid,
        ready_s: server.ready_after.as_secs_f64(),
        ceiling,
    };
    append(&dir.join(LIVES), &began)?;
    let mut watch = Watching { task, dir, life, origin_s: origin(dir)?, server, heard: Heard::default() };
    let (status, was_asked) = watch.until_its_end(&signals)?;
    let (how, as_meant) = watch.how_it_ended(status, was_asked);
    append(&dir.join(LIVES), &Life::Ended { life, at: utc(SystemTime::now()), how, as_meant })?;
    Ok(as_meant)
}

/// A server that runs.
struct Watching<'a> {
    task: &'a Watch,
    dir: &'a Path,
    life: u32,
    /// The system's uptime at the first look of the first life.
    origin_s: f64,
    server: Server,
    heard: Heard,
}

/// The last heartbeat, from which the next one counts.
#[derive(Default)]
struct Heard {
    at_s: f64,
    stored: u64,
}

impl Watching<'_> {
    fn until_its_end(&mut self, signals: &Signals) -> io::Result<(ExitStatus, bool)> {
        let (began, mut looks) = (Instant::now(), 0_u32);
        loop {
            if let Some(status) = self.look()? {
                return Ok((status, false));
            }
            looks += 1;
            if self
                .task
                .heartbeat
                .is_some_and(|every| (self.task.every * looks).as_nanos().is_multiple_of(every.as_nanos()))
            {
                self.heartbeat()?;
            }
            // By the beginning, so that lateness does not add up.
            let next = began + self.task.every * looks;
            while let Some(left) = next.checked_duration_since(Instant::now()) {
                if signals.wait(Some(left.min(NOTICE_WITHIN)))?.is_some() {
                    self.look()?;
                    self.keep_stages();
                    return Ok((self.server.process.end()?, true));
                }
                if let Some(status) = self.server.process.ended()? {
                    return Ok((status, false));
                }
            }
        }
    }

    /// Looks once; says how it ended, where it did meanwhile.
    fn look(&mut self) -> io::Result<Option<ExitStatus>> {
        let at_s = uptime()? - self.origin_s;
        let look = match self.sample(at_s) {
            Ok(sample) => Look::Seen(Box::new(sample)),
            Err(error) => {
                // One that has just ended is no riddle.
                if let Some(status) = self.ended_soon()? {
                    return Ok(Some(status));
                }
                Look::Missed { at_s, why: error.to_string() }
            }
        };
        append(&self.dir.join(SAMPLES), &look)?;
        Ok(None)
    }

    /// How it ended, if it does now. One that is killed is at it until the kernel has done what it was asked for.
    fn ended_soon(&mut self) -> io::Result<Option<ExitStatus>> {
        let began = Instant::now();
        loop {
            thread::sleep(NOTICE_WITHIN);
            let status = self.server.process.ended()?;
            let patience = if self.dir.join(EXPECTED).exists() { DEATH_WITHIN } else { Duration::ZERO };
            if status.is_some() || began.elapsed() >= patience {
                return Ok(status);
            }
        }
    }

    fn sample(&self, at_s: f64) -> io::Result<Sample> {
        let meters = Meters::of(self.server.pid)?;
        let logs = self.dir.join(LOGS);
        let mut more = of_the_process(self.server.pid, &logs).map_err(io::Error::other)?;
        let io_workers = meters.io_workers;
        let answerers = meters.threads.values().filter(|(name, _)| name.starts_with("admin-answer")).count() as u64;
        let is_at_rest = |said: &Option<Said>| said.as_ref().is_some_and(Said::is_at_rest);
        let said = self.said();
        if is_at_rest(&said) {
            // One that came or went meanwhile is a descriptor in one of the two only; one that leaked is in both.
            let again = of_the_process(self.server.pid, &logs).map_err(io::Error::other)?;
            // Otherwise it may have been about to end.
            if is_at_rest(&self.said()) {
                more.fds = more.fds.min(again.fds);
            }
        }
        Ok(Sample {
            at_s,
            life: self.life,
            pid: self.server.pid,
            started_ticks: meters.started,
            cpu_ns: more.cpu_ns,
            rss_bytes: meters.rss,
            pss_bytes: meters.pss,
            locked_bytes: more.locked_bytes,
            fds: more.fds,
            segment_fds: more.segment_fds,
            threads: meters.threads.len() as u64 - io_workers - answerers,
            answerers,
            io_workers,
            voluntary_switches: meters.voluntary_switches,
            involuntary_switches: meters.involuntary_switches,
            segment_bytes: allocated(&logs),
            said,
        })
    }

    fn said(&self) -> Option<Said> {
        self.server.admin.and_then(|admin| said(admin).ok())
    }

    /// The figures that matter, as a line for whoever waits.
    fn heartbeat(&mut self) -> io::Result<()> {
        self.keep_stages();
        let last: Option<Look> = read_lines(&self.dir.join(SAMPLES))?.pop();
        let Some(Look::Seen(sample)) = last else { return Ok(()) };
        let said = sample.said.clone().unwrap_or_default();
        let rate = said.stored.saturating_sub(self.heard.stored) as f64 / (sample.at_s - self.heard.at_s).max(0.001);
        let name = self.dir.file_name().unwrap_or_default().to_string_lossy();
        let overflows = said.driver.get("cq_overflows").copied().unwrap_or(0);
        eprintln!(
            "  {name} {:6.0} s: {rate:.0} records/s, {} stored, {:.1} MiB, {} connections, {} descriptors, {} threads, \
             {overflows} overflows",
            sample.at_s,
            said.stored,
            sample.rss_bytes as f64 / f64::from(1 << 20),
            said.connections,
            sample.fds,
            sample.threads,
        );
        self.heard = Heard { at_s: sample.at_s, stored: said.stored };
        Ok(())
    }

    /// The server is gone when it is judged.
    fn keep_stages(&self) {
        let stages = self.server.admin.and_then(|admin| Status::fetch(admin).ok()).map(|status| status.stages);
        if let Some(text) = stages.and_then(|stages| serde_json::to_string(&stages).ok()) {
            // The looks tell already that it did not answer, or that nothing can be written.
            let _ = fs::write(self.dir.join(STAGES), text);
        }
    }

    fn how_it_ended(&self, status: ExitStatus, was_asked: bool) -> (String, bool) {
        let path = self.dir.join(EXPECTED);
        let expected = fs::read_to_string(&path).ok();
        let _ = fs::remove_file(&path);
        let how = status.to_string();
        match expected.as_deref().map(|meant| meant.lines().collect::<Vec<_>>()) {
            Some(meant) if meant.contains(&how.as_str()) => return (format!("{how}, as meant"), true),
            Some(meant) => return (format!("{how}, and not by {}", meant.join(" or ")), false),
            None if was_asked && status.success() => return (how, true),
            None => {}
        }
        let asked = if was_asked { "asked to" } else { "by itself" };
        (format!("{asked}, {how}; it said: {}", self.server.process.said().join(" / ")), false)
    }
}

/// What a server says of itself, all shards that answer together.
fn said(admin: SocketAddr) -> io::Result<Said> {
    let status = ask(&format!("http://{admin}/status.json"))?;
    let shards = status["shards"].as_array().map_or(&[][..], Vec::as_slice);
    let is_serving = status["life"] == "serving" && shards.iter().all(|shard| shard["answers"] == true);
    let mut said = Said { is_serving, ..Said::default() };
    for shard in shards {
        let count = |name: &str| shard[name].as_u64().unwrap_or(0);
        said.connections += count("connections");
        said.accepted += count("connections_accepted");
        said.received += count("received");
        said.stored += count("stored");
        for (name, value) in shard["driver"].as_object().into_iter().flatten() {
            *said.driver.entry(name.clone()).or_insert(0) += value.as_u64().unwrap_or(0);
        }
    }
    Ok(said)
}

/// What [`Meters`] have not.
struct More {
    /// Of all threads, those that have ended and those of the kernel too.
    cpu_ns: u64,
    locked_bytes: u64,
    fds: u64,
    segment_fds: u64,
}

fn of_the_process(pid: u32, logs: &Path) -> ProcResult<More> {
    let process = Process::new(i32::try_from(pid).map_err(|_| ProcError::Other("no such number".into()))?)?;
    let stat = process.stat()?;
    let tick_ns = 1_000_000_000 / procfs::ticks_per_second();
    let (mut fds, mut segment_fds) = (0, 0);
    for fd in process.fd()?.flatten() {
        match fd.target {
            // Files right below are not segments.
            FDTarget::Path(path) if path.parent().is_some_and(|dir| dir != logs && dir.starts_with(logs)) => {
                segment_fds += 1
            }
            _ => fds += 1,
        }
    }
    let locked_bytes = process.status()?.vmlck.unwrap_or(0) << 10;
    Ok(More { cpu_ns: (stat.utime + stat.stime) * tick_ns, locked_bytes, fds, segment_fds })
}

/// Bytes on the disk, of all files below; those that are removed meanwhile do not count.
fn allocated(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => allocated(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

/// Descriptors that whoever started us left open, and that the server will have from us; besides the standard three.
fn inherited() -> io::Result<u64> {
    let mut count = 0;
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(fd) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        count += u64::from(fd > 2 && outlives_exec(&fs::read_to_string(entry.path())?));
    }
    Ok(count)
}

/// By what `/proc/PID/fdinfo/FD` says of one: flags are octal.
fn outlives_exec(fdinfo: &str) -> bool {
    let flags = fdinfo.lines().find_map(|line| line.strip_prefix("flags:")).map(str::trim);
    flags.and_then(|flags| u32::from_str_radix(flags, 8).ok()).is_some_and(|flags| flags & O_CLOEXEC == 0)
}

/// As `open(2)` has it on Linux.
const O_CLOEXEC: u32 = 0o2_000_000;

fn ceiling_of(launch: &Launch, connections: u64, inherited: u64) -> Option<Ceiling> {
    ceiling::of(&launch.config()?, connections, inherited)
}

/// What an earlier life has said stays beside what this one says.
fn keep_what_was_said(server: &Path, dir: &Path, life: u32) -> io::Result<()> {
    let name = server.file_name().unwrap_or(server.as_os_str());
    let log = dir.join(name).with_extension("stderr");
    if life > 1 && log.exists() {
        fs::rename(&log, log.with_extension(format!("stderr.{}", life - 1)))?;
    }
    Ok(())
}

/// The uptime at the first look of all lives in that directory.
fn origin(dir: &Path) -> io::Result<f64> {
    let path = dir.join("origin");
    if let Some(origin) = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()) {
        return Ok(origin);
    }
    let now = uptime()?;
    fs::write(path, now.to_string())?;
    Ok(now)
}

fn uptime() -> io::Result<f64> {
    Uptime::current().map(|up| up.uptime).map_err(io::Error::other)
}

fn append(path: &Path, row: &impl Serialize) -> io::Result<()> {
    let line = serde_json::to_string(row).map_err(io::Error::other)? + "\n";
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).map_err(|error| explain(&error, "cannot write", path))
}

/// The rows of a file, one a line; none where there is no file.
///
/// # Errors
/// A line is none of these rows.
pub(super) fn read_lines<T: DeserializeOwned>(path: &Path) -> io::Result<Vec<T>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(explain(&error, "cannot read", path)),
    };
    let row = |(at, line): (usize, &str)| {
        serde_json::from_str(line)
            .map_err(|error| io::Error::other(format!("{} line {}: {error}: {line}", path.display(), at + 1)))
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(row).collect()
}

fn explain(error: &io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

/// Looks at it, one a line.
pub(super) const SAMPLES: &str = "samples.ndjson";
/// Its lives.
pub(super) const LIVES: &str = "lives.ndjson";
/// Where a record's time went.
pub(super) const STAGES: &str = "stages.json";
/// How its next end is to look, or may, a line each, written by whoever is about to kill it.
const EXPECTED: &str = "expected";
const NOTICE_WITHIN: Duration = Duration::from_millis(50);
const DEATH_WITHIN: Duration = Duration::from_secs(10);
