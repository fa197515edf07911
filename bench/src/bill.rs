//! What a process has cost so far: processor time of all its threads, its own and the kernel's on its behalf.
//!
//! Read from `/proc`, for any process, ourselves included. The workers that io_uring starts for a thread are threads of
//! its process and are in the bill. It never reads the host's load, which says nothing about one process.

use procfs::process::{Process, Task};
use procfs::{ProcError, ProcResult};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

/// A reading of a process's meters.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Nanoseconds on a processor, by thread.
    threads: BTreeMap<i32, u64>,
    /// Ticks in user and system mode, of ended threads too.
    user: u64,
    system: u64,
}

/// Processor time between two readings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bill {
    /// Nanoseconds in user mode.
    pub user_ns: f64,
    /// Nanoseconds in the kernel.
    pub system_ns: f64,
    /// Threads at the end.
    pub threads: usize,
}

impl Reading {
    /// Reads the meters of a process now.
    ///
    /// # Errors
    /// It has ended, or `/proc` does not show it.
    pub fn of(pid: u32) -> io::Result<Reading> {
        read(pid).map_err(|error| io::Error::other(format!("cannot read what process {pid} has cost: {error}")))
    }

    /// What has been added since `earlier`.
    ///
    /// The sum is that of the threads, to the nanosecond; if one of them has ended in between, it is the process's, to
    /// the tick. How it divides into user and system is known by ticks only.
    pub fn since(&self, earlier: &Reading) -> Bill {
        let ns_per_tick = 1e9 / procfs::ticks_per_second() as f64;
        let user = self.user.saturating_sub(earlier.user) as f64 * ns_per_tick;
        let system = self.system.saturating_sub(earlier.system) as f64 * ns_per_tick;
        let by_ticks = user + system;
        let by_threads = self
            .threads
            .iter()
            .map(|(tid, ns)| ns.saturating_sub(*earlier.threads.get(tid).unwrap_or(&0)) as f64)
            .sum();
        let has_lost_one = earlier.threads.keys().any(|tid| !self.threads.contains_key(tid));
        let total: f64 = if has_lost_one { by_ticks } else { by_threads };
        let user_part = if by_ticks > 0.0 { user / by_ticks } else { 0.0 };
        Bill { user_ns: total * user_part, system_ns: total * (1.0 - user_part), threads: self.threads.len() }
    }
}

impl Bill {
    /// Nanoseconds in either mode.
    pub fn total_ns(&self) -> f64 {
        self.user_ns + self.system_ns
    }
}

/// How long the calling thread has been able to run and had to wait for a processor. On a processor of its own that is
/// somebody else's doing.
///
/// # Errors
/// `/proc` does not show it.
pub fn waited() -> io::Result<Duration> {
    // Time on a processor, time waiting for one, turns; in nanoseconds.
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let ns = text.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    ns.map(Duration::from_nanos).ok_or_else(|| io::Error::other("/proc/thread-self/schedstat has no second number"))
}

fn read(pid: u32) -> ProcResult<Reading> {
    let process = Process::new(i32::try_from(pid).map_err(|_| ProcError::Other("no such number".into()))?)?;
    let mut threads = BTreeMap::new();
    for task in process.tasks()?.flatten() {
        // A thread may end while the list is read.
        if let Ok(ns) = on_processor_ns(&task) {
            threads.insert(task.tid, ns);
        }
    }
    let stat = process.stat()?;
    Ok(Reading { threads, user: stat.utime, system: stat.stime })
}

fn on_processor_ns(task: &Task) -> ProcResult<u64> {
    Ok(task.schedstat()?.sum_exec_runtime)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringest_sys::clock;
    use std::hint::black_box;

    /// By the processor's time, not the wall's: the host may be busy with other things.
    fn burn(span: Duration) {
        while clock::thread_cpu() < span {
            black_box(0);
        }
    }

    #[test]
    fn the_bill_is_that_of_all_threads_and_not_of_sleep() {
        let pid = std::process::id();
        let before = Reading::of(pid).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (burnt, until) = std::sync::mpsc::channel();
        let other = std::thread::spawn(move || {
            burn(Duration::from_millis(40));
            burnt.send(()).unwrap();
            wait.recv().unwrap();
        });
        until.recv().unwrap();
        let bill = Reading::of(pid).unwrap().since(&before);
        go.send(()).unwrap();
        other.join().unwrap();
        // Other tests of this process run beside it, so only the lower bound is certain, and that to the tick.
        assert!(bill.total_ns() >= 20e6, "{bill:?}");
        assert!(bill.threads >= 2);
    }

    #[test]
    fn waiting_for_a_processor_is_not_sleeping() {
        let before = waited().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        // A busy host keeps a thread that wakes up waiting, too, but hardly as long.
        assert!(waited().unwrap() - before < Duration::from_millis(40));
    }

    #[test]
    fn a_process_that_is_gone_is_said_to_be() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(Reading::of(child.id()).unwrap_err().to_string().contains(&child.id().to_string()));
    }
}
