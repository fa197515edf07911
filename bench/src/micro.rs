//! The parts of a record's path in memory, one by one and all together: time, allocations and bytes copied per record.
//!
//! Cases take turns, a short run each, and every figure is the median of its runs with the least and the greatest. Time
//! is processor time of the measuring thread. Nothing here touches a socket, a file or a second thread.

mod parts;
mod pipeline;
mod tls;

use crate::cli::Micro;
use crate::spread::Spread;
use ringest_sys::cpu;
use serde::Serialize;
use std::fmt::{self, Write};
use std::io;
use std::time::Duration;

/// How many allocations the process has made so far. The measuring binary counts them; a library cannot.
pub type Allocations = fn() -> u64;

/// One thing that can be measured again and again.
trait Case {
    fn name(&self) -> String;

    /// Allocations per record at most, where the record's path is measured: none, but for what TLS takes. A library that it
    /// is compared with has no bound.
    fn allocations_max(&self) -> Option<f64>;

    /// Works for about that long.
    fn run(&mut self, span: Duration, allocations: Allocations) -> Sample;
}

/// What one run did.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    records: u64,
    bytes: u64,
    ns: u64,
    allocations: u64,
    /// Bytes copied from one place in memory to another, where that can be counted.
    copied: Option<u64>,
    /// Segments that were begun, and what was allocated while they were.
    rolls: u64,
    roll_allocations: u64,
}

/// What was measured of one case.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which case.
    pub name: String,
    /// Nanoseconds per record.
    pub ns_per_record: Spread,
    /// Megabytes of lines per second.
    pub mb_per_s: Spread,
    /// Heap allocations per record, those of segment rolls not counted.
    pub allocations_per_record: f64,
    /// Heap allocations per segment roll.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocations_per_roll: Option<f64>,
    /// Bytes copied per record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copied_bytes_per_record: Option<f64>,
    /// More allocations per record than that are a fault; nothing stands here where any number is fine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocations_max_per_record: Option<f64>,
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Of this format.
    pub version: u32,
    /// Runs per case.
    pub runs: u32,
    /// The rows.
    pub rows: Vec<Row>,
}

/// Runs the cases whose names begin with one of those asked for, or all.
///
/// # Errors
/// The thread cannot be pinned, or no case has such a name.
pub fn run(task: &Micro, allocations: Allocations) -> io::Result<Report> {
    if let Some(cpu) = task.cpu {
        cpu::pin_current(cpu).map_err(io::Error::other)?;
    }
    let mut cases = all();
    let names: Vec<String> = cases.iter().map(|case| case.name()).collect();
    for asked in &task.cases {
        if !names.iter().any(|name| name.starts_with(asked.as_str())) {
            return Err(io::Error::other(format!("no case begins with {asked}; there are: {}", names.join(" "))));
        }
    }
    cases
        .retain(|case| task.cases.is_empty() || task.cases.iter().any(|asked| case.name().starts_with(asked.as_str())));

    for case in &mut cases {
        start_up(case.as_mut(), task.span(), allocations);
    }
    let mut samples = vec![Vec::new(); cases.len()];
    for _ in 0..task.runs {
        for (case, samples) in cases.iter_mut().zip(&mut samples) {
            samples.push(case.run(task.span(), allocations));
        }
    }
    let rows = cases.iter().zip(&samples).filter_map(|(case, samples)| Row::of(case.as_ref(), samples)).collect();
    Ok(Report { version: 2, runs: task.runs, rows })
}

/// Fills caches, lists and pools: buffers of a pool take the size that they keep when their turn has come. As many runs as it
/// takes until some in a row allocate nothing beside what a roll does, and no more than what never ends.
fn start_up(case: &mut dyn Case, span: Duration, allocations: Allocations) {
    let mut clean = 0;
    for _ in 0..START_UP_RUNS_MAX {
        let sample = case.run(span, allocations);
        clean = if sample.allocations == sample.roll_allocations { clean + 1 } else { 0 };
        if clean == CLEAN_RUNS || case.allocations_max() != Some(0.0) {
            return;
        }
    }
}

/// Runs without an allocation after which a case is taken to have started up.
const CLEAN_RUNS: u32 = 3;
const START_UP_RUNS_MAX: u32 = 30;

fn all() -> Vec<Box<dyn Case>> {
    let mut cases = parts::all();
    cases.extend(pipeline::all());
    cases
}

impl Row {
    fn of(case: &dyn Case, samples: &[Sample]) -> Option<Row> {
        let per = |amount: u64, of: u64| amount as f64 / of.max(1) as f64;
        let sum = |of: fn(&Sample) -> u64| samples.iter().map(of).sum::<u64>();
        let (records, rolls) = (sum(|sample| sample.records), sum(|sample| sample.rolls));
        let copied = samples.iter().map(|sample| sample.copied).sum::<Option<u64>>();
        Some(Row {
            name: case.name(),
            ns_per_record: Spread::of(samples.iter().map(|sample| per(sample.ns, sample.records)))?,
            mb_per_s: Spread::of(samples.iter().map(|sample| per(sample.bytes, sample.ns) * 1e3))?,
            allocations_per_record: per(sum(|sample| sample.allocations - sample.roll_allocations), records),
            allocations_per_roll: (rolls > 0).then(|| per(sum(|sample| sample.roll_allocations), rolls)),
            copied_bytes_per_record: copied.map(|copied| per(copied, records)),
            allocations_max_per_record: case.allocations_max(),
        })
    }
}

impl Report {
    /// The cases that allocate more on the path of a record than they may.
    pub fn faults(&self) -> Vec<&str> {
        let faulty = |row: &&Row| row.allocations_max_per_record.is_some_and(|max| row.allocations_per_record > max);
        self.rows.iter().filter(faulty).map(|row| row.name.as_str()).collect()
    }

    fn table(&self) -> String {
        let mut text = format!(
            "{:<34} {:>24} {:>26} {:>10} {:>10} {:>10}\n",
            "case", "ns/record (min..max)", "MB/s (min..max)", "alloc/rec", "alloc/roll", "copied B"
        );
        let optional = |figure: Option<f64>| figure.map_or_else(|| "-".into(), |figure| format!("{figure:.1}"));
        for row in &self.rows {
            writeln!(
                text,
                "{:<34} {:>24.1} {:>26.0} {:>10} {:>10} {:>10}",
                row.name,
                row.ns_per_record,
                row.mb_per_s,
                if row.allocations_per_record == 0.0 {
                    "0".into()
                } else {
                    format!("{:.5}", row.allocations_per_record)
                },
                optional(row.allocations_per_roll),
                optional(row.copied_bytes_per_record),
            )
            .expect("writing into memory cannot fail");
        }
        if let Some(batch) = self.batch() {
            writeln!(
                text,
                "batch (copy, checksum, books), as intake less frame and parse of the same lines: {batch:.1} ns/record"
            )
            .expect("writing into memory cannot fail");
        }
        text.push_str(
            "copied B: unfinished lines + records into the batch + descriptions + replies, from the lengths handed \
             over at the seam; the kernel's copies and simd-json's scratch copy of lines it judges are not in it\n",
        );
        text
    }

    /// What the copy into the batch, its checksum and the books cost: no stage of its own, so it is a difference of medians.
    fn batch(&self) -> Option<f64> {
        let median = |name: &str| self.rows.iter().find(|row| row.name == name).map(|row| row.ns_per_record.median);
        Some(median(pipeline::INTAKE)? - median(parts::FRAME)? - median(parts::PARSE_FLAT)?)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.table())?;
        match &self.faults()[..] {
            [] => Ok(()),
            faults => writeln!(f, "FAIL: allocates per record: {}", faults.join(" ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted() -> u64 {
        0
    }

    #[test]
    fn every_case_runs_and_has_a_name_of_its_own() {
        let task = Micro { cases: Vec::new(), cpu: None, runs: 1, run_ms: 1, json: None };
        let report = run(&task, counted).unwrap();
        let mut names: Vec<_> = report.rows.iter().map(|row| &row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().len());
        assert!(report.rows.iter().all(|row| row.ns_per_record.median > 0.0));
        assert!(report.table().contains("as intake less frame and parse"));
    }

    #[test]
    fn a_name_that_no_case_has_is_refused_with_those_there_are() {
        let task = Micro { cases: vec!["prase".into()], cpu: None, runs: 1, run_ms: 1, json: None };
        assert!(run(&task, counted).unwrap_err().to_string().contains("parse/flat"));
    }

    #[test]
    fn an_allocation_on_the_path_of_a_record_is_a_fault_and_one_of_a_roll_is_not() {
        struct Planted;
        impl Case for Planted {
            fn name(&self) -> String {
                "planted".into()
            }
            fn allocations_max(&self) -> Option<f64> {
                Some(0.0)
            }
            fn run(&mut self, _: Duration, _: Allocations) -> Sample {
                unreachable!("its samples are made up")
            }
        }
        let sample =
            Sample { records: 1000, ns: 1, allocations: 3, rolls: 1, roll_allocations: 3, ..Sample::default() };
        let report = |sample| Report { version: 2, runs: 1, rows: vec![Row::of(&Planted, &[sample]).unwrap()] };
        assert!(report(sample).faults().is_empty());
        assert_eq!(report(Sample { allocations: 4, ..sample }).faults(), ["planted"]);
    }
}
