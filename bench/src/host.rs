//! The machine: what a figure belongs to, and what it may be compared with.

use crate::report::System;
use procfs::process::Process;
use procfs::{Current, Meminfo};
use ringest_loadgen::report::System as Here;
use std::path::Path;

impl System {
    /// This machine, with segments in that directory.
    pub fn here(dir: &Path) -> System {
        let here = Here::here();
        let memory = Meminfo::current().map_or(0, |info| info.mem_total);
        let cpu_count = procfs::CpuInfo::current().map_or(here.cores, |info| info.num_cores()) as u64;
        System {
            class: class(&here.cpu, cpu_count, &here.kernel, memory),
            cpu_count,
            memory_mb: memory >> 20,
            cpu: here.cpu,
            cores: here.cores as u64,
            kernel: here.kernel,
            file_system: file_system(dir),
        }
    }
}

/// What figures may be compared within: processor model, processors, major version of the kernel, and memory to the next
/// power of two. `amd-epyc-7b13-2c-linux6-32g`
fn class(cpu: &str, cpu_count: u64, kernel: &str, memory: u64) -> String {
    let words: Vec<String> = cpu
        .split(|c: char| !c.is_ascii_alphanumeric())
        .map(str::to_ascii_lowercase)
        .filter(|word| !word.is_empty() && !NOISE.contains(&word.as_str()))
        .collect();
    let cpu = if words.is_empty() { "unknown-cpu".to_owned() } else { words.join("-") };
    let major = kernel.split('.').next().filter(|major| !major.is_empty()).unwrap_or("-unknown");
    // What the kernel keeps for itself is missing from a total, so 23.5 GiB are 24 that were bought, and 32 as a class.
    let gib = (memory as f64 / f64::from(1 << 30)).max(0.5).log2().ceil().exp2();
    format!("{cpu}-{cpu_count}c-linux{major}-{gib}g")
}

/// The type of the file system with the longest mount point above the directory.
pub fn file_system(dir: &Path) -> String {
    let mounts = Process::myself().and_then(|process| process.mountinfo());
    mounts
        .into_iter()
        .flatten()
        .filter(|mount| dir.starts_with(&mount.mount_point))
        .max_by_key(|mount| mount.mount_point.as_os_str().len())
        .map_or_else(|| "unknown file system".into(), |mount| mount.fs_type)
}

/// Words of processors' names that say nothing.
const NOISE: [&str; 5] = ["r", "tm", "cpu", "processor", "core"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_a_file_name_that_a_person_can_read() {
        let gib = 1 << 30;
        assert_eq!(class("AMD EPYC 7B13", 2, "6.18.0-rc1", 24 * gib), "amd-epyc-7b13-2c-linux6-32g");
        assert_eq!(class("Intel(R) Xeon(R) CPU @ 2.20GHz", 8, "5.15.1", 32 * gib), "intel-xeon-2-20ghz-8c-linux5-32g");
        assert_eq!(class("", 1, "", gib / 2), "unknown-cpu-1c-linux-unknown-0.5g");
        assert_eq!(class("a/../b", 1, "6", gib), "a-b-1c-linux6-1g");
    }

    #[test]
    fn this_machine_has_processors_and_memory() {
        let here = System::here(Path::new("/"));
        assert!(here.cpu_count >= here.cores && here.cores > 0 && here.memory_mb > 0, "{here:?}");
        assert_ne!(here.file_system, "unknown file system");
    }
}
