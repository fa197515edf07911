//! What a process takes, second by second: processor time by thread, memory, descriptors, threads, switches.
//!
//! Read from `/proc`, for one process, which is known by its number and its start: a number that was given to another
//! process is never taken for the first. It never reads the host's load, which says nothing about one process.

use crate::process::memory;
use procfs::process::Process;
use procfs::{ProcError, ProcResult};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A process's meters at one moment; counts are since its start.
#[derive(Clone, Debug, PartialEq)]
pub struct Meters {
    /// Nanoseconds on a processor, by thread, with the threads' names.
    pub threads: BTreeMap<i32, (String, u64)>,
    /// How many of them are the kernel's, for io_uring.
    pub io_workers: u64,
    /// Resident bytes.
    pub rss: u64,
    /// Resident bytes, what is shared counted by parts.
    pub pss: u64,
    /// Open descriptors.
    pub fds: u64,
    /// Times that a thread gave the processor up.
    pub voluntary_switches: u64,
    /// Times that it was taken from one.
    pub involuntary_switches: u64,
    /// When the process began, in ticks since the system's start.
    pub started: u64,
}

/// One interval of a process's life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Row {
    /// Its end, in seconds since the sampler's start.
    pub t_s: f64,
    /// Its length in seconds.
    pub interval_s: f64,
    /// Processor time over it, all threads together: 100 is one processor.
    pub cpu_percent: f64,
    /// The same by thread, where there was any: `name/number`.
    pub cpu_percent_by_thread: BTreeMap<String, f64>,
    /// Resident bytes at its end.
    pub rss_bytes: u64,
    /// Proportional bytes at its end.
    pub pss_bytes: u64,
    /// Open descriptors at its end.
    pub fds: u64,
    /// Threads at its end.
    pub threads: u64,
    /// Times that a thread gave the processor up.
    pub voluntary_switches: u64,
    /// Times that it was taken from one.
    pub involuntary_switches: u64,
}

/// Everything that was seen of one process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Usage {
    /// Its number.
    pub pid: u32,
    /// When it began, in ticks since the system's start: number and start together name it for ever.
    pub started_ticks: u64,
    /// Processor time while it was watched, in nanoseconds.
    pub cpu_ns: u64,
    /// Times that its threads gave the processor up while it was watched.
    pub voluntary_switches: u64,
    /// Times that it was taken from them.
    pub involuntary_switches: u64,
    /// How often it could not be read although it should have been there.
    pub missed: u64,
    /// The intervals.
    pub rows: Vec<Row>,
}

/// A thread that looks at a process.
#[derive(Debug)]
pub struct Sampler {
    stop: Sender<()>,
    thread: JoinHandle<Usage>,
}

impl Meters {
    /// Reads them now.
    ///
    /// # Errors
    /// It has ended, or `/proc` does not show it.
    pub fn of(pid: u32) -> io::Result<Meters> {
        read(pid).map_err(|error| io::Error::other(format!("cannot read what process {pid} takes: {error}")))
    }

    /// Nanoseconds on a processor since an earlier reading. What a thread took that has ended in between is not in it.
    pub fn cpu_ns_since(&self, earlier: &Meters) -> u64 {
        self.by_thread_since(earlier).map(|(_, ns)| ns).sum()
    }

    fn by_thread_since<'a>(&'a self, earlier: &'a Meters) -> impl Iterator<Item = (String, u64)> + 'a {
        self.threads.iter().map(|(tid, (name, ns))| {
            let before = earlier.threads.get(tid).map_or(0, |(_, ns)| *ns);
            (format!("{name}/{tid}"), ns.saturating_sub(before))
        })
    }
}

impl Row {
    fn between(earlier: &Meters, later: &Meters, t: Duration, interval: Duration) -> Row {
        let interval_s = interval.as_secs_f64().max(1e-9);
        let percent = |ns: u64| ns as f64 / 1e9 / interval_s * 100.0;
        Row {
            t_s: t.as_secs_f64(),
            interval_s,
            cpu_percent: percent(later.cpu_ns_since(earlier)),
            cpu_percent_by_thread: later
                .by_thread_since(earlier)
                .filter(|(_, ns)| *ns > 0)
                .map(|(name, ns)| (name, percent(ns)))
                .collect(),
            rss_bytes: later.rss,
            pss_bytes: later.pss,
            fds: later.fds,
            threads: later.threads.len() as u64,
            voluntary_switches: later.voluntary_switches.saturating_sub(earlier.voluntary_switches),
            involuntary_switches: later.involuntary_switches.saturating_sub(earlier.involuntary_switches),
        }
    }
}

impl Sampler {
    /// Looks now, then every `interval` since `origin`, and a last time when it is stopped.
    ///
    /// # Errors
    /// There is no such process, or no thread can be started.
    pub fn start(pid: u32, interval: Duration, origin: Instant) -> io::Result<Sampler> {
        let first = Meters::of(pid)?;
        let (stop, stopped) = channel();
        let mut watch = Watch::new(pid, first, origin);
        let thread = thread::Builder::new().name("sampler".into()).spawn(move || {
            loop {
                // By the origin, so that rows of two processes have the same ends, and lateness does not add up.
                let next = interval.mul_f64((origin.elapsed().as_secs_f64() / interval.as_secs_f64()).floor() + 1.0);
                match stopped.recv_timeout(next.saturating_sub(origin.elapsed())) {
                    Err(RecvTimeoutError::Timeout) => watch.look(),
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                        watch.look();
                        return watch.usage;
                    }
                }
            }
        })?;
        Ok(Sampler { stop, thread })
    }

    /// Looks a last time.
    pub fn stop(self) -> Usage {
        // A thread that is gone has panicked, which the join tells.
        let _ = self.stop.send(());
        self.thread.join().expect("a sampler does not panic")
    }
}

struct Watch {
    last: Meters,
    at: Instant,
    origin: Instant,
    usage: Usage,
}

impl Watch {
    fn new(pid: u32, first: Meters, origin: Instant) -> Watch {
        let usage = Usage { pid, started_ticks: first.started, ..Usage::default() };
        Watch { last: first, at: Instant::now(), origin, usage }
    }

    fn look(&mut self) {
        let meters = match Meters::of(self.usage.pid) {
            Ok(meters) if meters.started == self.last.started => meters,
            Ok(_) | Err(_) => {
                self.usage.missed += 1;
                return;
            }
        };
        let now = Instant::now();
        let row = Row::between(&self.last, &meters, now - self.origin, now - self.at);
        self.usage.cpu_ns += meters.cpu_ns_since(&self.last);
        self.usage.voluntary_switches += row.voluntary_switches;
        self.usage.involuntary_switches += row.involuntary_switches;
        self.usage.rows.push(row);
        (self.last, self.at) = (meters, now);
    }
}

impl Usage {
    /// The greatest of a figure over all intervals; 0 where there are none.
    pub fn peak(&self, figure: impl Fn(&Row) -> f64) -> f64 {
        self.rows.iter().map(figure).fold(0.0, f64::max)
    }

    /// Seconds that it was watched.
    pub fn seconds(&self) -> f64 {
        self.rows.iter().map(|row| row.interval_s).sum()
    }

    /// Processor time over the time it was watched: 100 is one processor.
    pub fn mean_cpu_percent(&self) -> f64 {
        self.cpu_ns as f64 / 1e7 / self.seconds().max(1e-9)
    }

    /// Resident bytes, on average over time.
    pub fn mean_rss_bytes(&self) -> f64 {
        let weighted: f64 = self.rows.iter().map(|row| row.rss_bytes as f64 * row.interval_s).sum();
        weighted / self.seconds().max(1e-9)
    }
}

fn read(pid: u32) -> ProcResult<Meters> {
    let number = i32::try_from(pid).map_err(|_| ProcError::Other("no such number".into()))?;
    let process = Process::new(number)?;
    let started = process.stat()?.starttime;
    let (mut threads, mut io_workers) = (BTreeMap::new(), 0);
    let (mut voluntary_switches, mut involuntary_switches) = (0, 0);
    for task in process.tasks()?.flatten() {
        // A thread may end while the list is read.
        let (Ok(schedstat), Ok(status), Ok(stat)) = (task.schedstat(), task.status(), task.stat()) else { continue };
        // Not by its name: until it runs for the first time, that is the one of the thread that needed it.
        io_workers += u64::from(stat.flags & PF_IO_WORKER != 0);
        threads.insert(task.tid, (status.name, schedstat.sum_exec_runtime));
        voluntary_switches += status.voluntary_ctxt_switches.unwrap_or(0);
        involuntary_switches += status.nonvoluntary_ctxt_switches.unwrap_or(0);
    }
    let memory = memory(pid).map_err(|error| ProcError::Other(error.to_string()))?;
    Ok(Meters {
        threads,
        io_workers,
        rss: memory.rss,
        pss: memory.pss,
        fds: process.fd_count()? as u64,
        voluntary_switches,
        involuntary_switches,
        started,
    })
}

/// As `include/linux/sched.h` has it.
const PF_IO_WORKER: u32 = 0x10;

#[cfg(test)]
mod tests {
    use super::*;
    use ringest_sys::clock;
    use std::fs::File;
    use std::hint::black_box;

    #[test]
    fn a_busy_thread_is_in_the_rows_under_its_name_and_an_idle_process_is_not() {
        let origin = Instant::now();
        let sampler = Sampler::start(std::process::id(), Duration::from_millis(50), origin).unwrap();
        let busy = thread::Builder::new().name("spinning".into());
        let busy = busy
            .spawn(|| {
                while clock::thread_cpu() < Duration::from_millis(200) {
                    black_box(0);
                }
                // So that the last look still finds it.
                thread::sleep(Duration::from_millis(200));
            })
            .unwrap();
        while origin.elapsed() < Duration::from_millis(300) {
            thread::sleep(Duration::from_millis(10));
        }
        busy.join().unwrap();
        let usage = sampler.stop();
        assert!(usage.rows.len() >= 3 && usage.missed == 0, "{usage:?}");
        assert!(usage.rows.is_sorted_by(|a, b| a.t_s < b.t_s));
        let spun: f64 = usage
            .rows
            .iter()
            .flat_map(|row| {
                row.cpu_percent_by_thread.iter().map(move |(name, percent)| (name, percent * row.interval_s))
            })
            .filter(|(name, _)| name.starts_with("spinning/"))
            .map(|(_, ms)| ms * 10.0)
            .sum();
        assert!(spun >= 150.0, "{spun} ms of 200");
        assert!(usage.cpu_ns as f64 / 1e6 >= spun * 0.99, "threads are in the sum");
        assert!(usage.rows[0].rss_bytes > 0 && usage.rows[0].pss_bytes > 0 && usage.rows[0].fds >= 3);

        let mut idle = std::process::Command::new("sleep").arg("10").spawn().unwrap();
        let sampler = Sampler::start(idle.id(), Duration::from_millis(20), Instant::now()).unwrap();
        thread::sleep(Duration::from_millis(100));
        let usage = sampler.stop();
        idle.kill().unwrap();
        idle.wait().unwrap();
        assert!(usage.mean_cpu_percent() < 50.0, "{usage:?}");
    }

    #[test]
    fn descriptors_and_threads_are_counted_as_they_come() {
        let before = Meters::of(std::process::id()).unwrap();
        let files: Vec<File> = (0..50).map(|_| File::open("/dev/null").unwrap()).collect();
        let after = Meters::of(std::process::id()).unwrap();
        // Other tests of this process open and close some, too.
        assert!(after.fds + 30 > before.fds + files.len() as u64, "{} and {}", before.fds, after.fds);
        assert_eq!(before.started, after.started);
    }

    #[test]
    fn a_process_that_has_ended_is_missed_and_not_made_up() {
        let mut child = std::process::Command::new("sleep").arg("10").spawn().unwrap();
        let sampler = Sampler::start(child.id(), Duration::from_millis(20), Instant::now()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        thread::sleep(Duration::from_millis(60));
        assert!(sampler.stop().missed > 0);
        assert!(Sampler::start(child.id(), Duration::from_millis(20), Instant::now()).is_err());
    }
}
