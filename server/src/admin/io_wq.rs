//! The kernel's own threads that carry out what a ring cannot do without blocking: syncs, and writes that are not direct.
//!
//! They belong to this process, run on the processor of the shard they work for, and appear in no counter of a ring; so they
//! are looked up where threads are listed. One that has had nothing to do for 5 s ends, and its figures with it.

use procfs::ProcResult;
use procfs::process::Process;
use std::time::Duration;

/// What those threads are and have done that live now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct IoWq {
    /// How many there are.
    pub workers: u64,
    /// How often one went to sleep: about once per operation that was handed to it.
    pub sleeps: u64,
    /// Processor time they took.
    pub cpu: Duration,
}

impl IoWq {
    /// Looks them up. `None` where threads cannot be listed.
    pub(super) fn look() -> Option<IoWq> {
        let tasks = Process::myself().and_then(|process| process.tasks()).ok()?;
        let mut found = IoWq::default();
        for task in tasks {
            // One that cannot be read has ended meanwhile.
            if let Ok(Some((sleeps, cpu))) = task.and_then(|task| figures(&task)) {
                found.workers += 1;
                found.sleeps += sleeps;
                found.cpu += cpu;
            }
        }
        Some(found)
    }
}

/// How often it slept and how long it ran, where it is one of them.
fn figures(task: &procfs::process::Task) -> ProcResult<Option<(u64, Duration)>> {
    let status = task.status()?;
    if !status.name.starts_with(NAME) {
        return Ok(None);
    }
    let ran = Duration::from_nanos(task.schedstat()?.sum_exec_runtime);
    Ok(Some((status.voluntary_ctxt_switches.unwrap_or_default(), ran)))
}

/// What the kernel calls them, and behind it the thread they work for.
const NAME: &str = "iou-wrk-";
