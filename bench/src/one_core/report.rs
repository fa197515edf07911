//! Rows, table and file of a one-core run.

use super::case::{Case, Figure, Sample};
use super::verdict::{self, Verdict};
use crate::cli::OneCore;
use crate::host::file_system;
use crate::spread::Spread;
use ringest_loadgen::report::System;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::Path;

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Of this format.
    pub version: u32,
    /// Where.
    pub system: System,
    /// The file system that was written to.
    pub file_system: String,
    /// How.
    pub settings: Settings,
    /// One row per case.
    pub rows: Vec<Row>,
    /// One verdict per promise.
    pub verdicts: Vec<Verdict>,
}

/// How it was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// Runs of each case.
    pub rounds: u32,
    /// Length of a window in seconds.
    pub window_s: f64,
    /// Time before it in seconds.
    pub warm_up_s: f64,
    /// Connections.
    pub connections: usize,
    /// Unanswered lines per connection at most.
    pub pipeline: u64,
    /// Mean length of a line.
    pub record_size: usize,
    /// The server's processor and the generator's.
    pub cpus: [usize; 2],
    /// Of the order within the rounds.
    pub seed: u64,
}

/// One case, over all rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which.
    #[serde(serialize_with = "by_name")]
    pub(super) case: Case,
    /// Who sent the lines, and who counted them.
    pub driven_by: &'static str,
    /// Every figure of every round.
    pub figures: BTreeMap<Figure, Vec<f64>>,
}

impl Row {
    pub(super) fn new(case: Case) -> Row {
        Row { case, driven_by: case.driven_by(), figures: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, sample: Sample) {
        for (figure, value) in sample {
            self.figures.entry(figure).or_default().push(value);
        }
    }

    pub(super) fn figures(&self, figure: Figure) -> Option<&[f64]> {
        self.figures.get(&figure).map(Vec::as_slice)
    }

    /// A figure over all rounds.
    pub fn spread(&self, figure: Figure) -> Option<Spread> {
        Spread::of(self.figures(figure)?.iter().copied())
    }

    /// What a reader has to know before believing the row.
    fn note(&self) -> String {
        let median = |figure| self.spread(figure).map_or(0.0, |spread| spread.median);
        let waited = median(Figure::GeneratorWaited);
        let mut note = String::new();
        if median(Figure::GeneratorBusy) + waited > BUSY && median(Figure::ServerBusy) < BUSY {
            // The records per second are what was sent, not what could be taken.
            note += "  generator-bound";
        }
        if waited > NOISE {
            // Nothing of ours runs there but the generator.
            let percent = waited * 100.0;
            write!(note, "  host noise: others had the generator's processor for {percent:.0} % of the time")
                .expect("writing into memory cannot fail");
        }
        note
    }
}

impl Report {
    pub(super) fn new(task: &OneCore, dir: &Path, cases: &[Case]) -> Report {
        Report {
            version: 1,
            system: System::here(),
            file_system: file_system(dir),
            settings: Settings {
                rounds: task.rounds,
                window_s: task.window,
                warm_up_s: task.warm_up,
                connections: task.connections,
                pipeline: task.pipeline,
                record_size: task.record_size,
                cpus: [task.server_cpu, task.generator_cpu],
                seed: task.seed,
            },
            rows: cases.iter().copied().map(Row::new).collect(),
            verdicts: Vec::new(),
        }
    }

    pub(super) fn judge(&mut self) {
        self.verdicts = verdict::all(&self.rows);
    }

    /// Whether every promise that was judged was kept.
    pub fn is_kept(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.pass)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { rounds, window_s, warm_up_s, connections, pipeline, record_size, cpus, .. } = &self.settings;
        let System { cpu, kernel, .. } = &self.system;
        writeln!(
            f,
            "{cpu}, Linux {kernel}, {}; server on cpu {}, generator on cpu {}",
            self.file_system, cpus[0], cpus[1]
        )?;
        writeln!(
            f,
            "{rounds} rounds, {warm_up_s} s warm-up, {window_s} s window, {connections} connections, at most {pipeline} \
             unanswered lines each, {record_size}-byte records, plain mode, one reply per record; median (min..max)"
        )?;
        if self.file_system == "tmpfs" {
            writeln!(f, "tmpfs keeps nothing: the durable rows say nothing here; use --dir on a disk")?;
        }
        self.put_streaming(f)?;
        self.put_encoded(f)?;
        self.put_depth1(f)?;
        self.put_idle(f)?;
        writeln!(f)?;
        self.verdicts.iter().try_for_each(|verdict| writeln!(f, "{verdict}"))
    }
}

impl Report {
    fn put_streaming(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = "streaming, driven by the flood; server: records counted from replies, floor: from bytes received";
        self.put_rates(f, title, |case| matches!(case, Case::Floor(..) | Case::Flood(..)))
    }

    fn put_encoded(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = "streaming through an encoding, driven and counted by ringest-loadgen, CPU over its whole run";
        self.put_rates(f, title, |case| matches!(case, Case::Encoded(..)))
    }

    fn put_rates(&self, f: &mut fmt::Formatter<'_>, title: &str, is_in: fn(&Case) -> bool) -> fmt::Result {
        let rows = self.rows.iter().filter(|row| is_in(&row.case));
        put_table(
            f,
            title,
            &["M records/s", "CPU ns/record", "user", "sys", "server busy %", "generator busy %"],
            rows,
            |row| {
                let cell = |figure, scale, digits| cell(row.spread(figure), scale, digits);
                vec![
                    cell(Figure::RecordsPerS, 1e-6, 2),
                    cell(Figure::CpuNs, 1.0, 1),
                    cell(Figure::UserNs, 1.0, 1),
                    cell(Figure::SystemNs, 1.0, 1),
                    cell(Figure::ServerBusy, 100.0, 0),
                    cell(Figure::GeneratorBusy, 100.0, 0),
                ]
            },
        )
    }

    fn put_depth1(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows.iter().filter(|row| matches!(row.case, Case::FloorDepth1(..) | Case::Depth1(..)));
        put_table(
            f,
            "one line at a time on each connection, driven and counted by ringest-loadgen; CPU over its whole run, the \
             floor's over a window in it",
            &["k records/s", "p50 us", "p99 us", "CPU ns/record", "server busy %", "generator busy %"],
            rows,
            |row| {
                let cell = |figure, scale, digits| cell(row.spread(figure), scale, digits);
                vec![
                    cell(Figure::RecordsPerS, 1e-3, 0),
                    cell(Figure::P50Us, 1.0, 0),
                    cell(Figure::P99Us, 1.0, 0),
                    cell(Figure::CpuNs, 1.0, 0),
                    cell(Figure::ServerBusy, 100.0, 0),
                    cell(Figure::GeneratorBusy, 100.0, 0),
                ]
            },
        )
    }

    fn put_idle(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows.iter().filter(|row| matches!(row.case, Case::Idle(_)));
        put_table(
            f,
            "memory of the server's process per idle connection that has sent one line; the kernel's is not in it",
            &["RSS bytes", "PSS bytes"],
            rows,
            |row| vec![cell(row.spread(Figure::RssBytes), 1.0, 0), cell(row.spread(Figure::PssBytes), 1.0, 0)],
        )
    }
}

fn put_table<'a>(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    heads: &[&str],
    rows: impl Iterator<Item = &'a Row>,
    cells: impl Fn(&Row) -> Vec<String>,
) -> fmt::Result {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return Ok(());
    }
    let line = |name: &str, cells: &[String]| {
        cells.iter().fold(format!("{name:<24}"), |mut line, cell| {
            write!(line, " {cell:>22}").expect("writing into memory cannot fail");
            line
        })
    };
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    writeln!(f, "\n{title}\n{}", line("", &heads))?;
    for row in rows {
        writeln!(f, "{}{}", line(&row.case.to_string(), &cells(row)), row.note())?;
    }
    Ok(())
}

fn cell(spread: Option<Spread>, scale: f64, digits: usize) -> String {
    spread.map_or_else(|| "-".into(), |spread| format!("{:.digits$}", spread.scaled(scale)))
}

fn by_name<S: Serializer>(case: &Case, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(case)
}

/// A generator that waits for its own core for more than this share of the time is not alone on it.
const NOISE: f64 = 0.05;
/// A core that is busy for more than this share of the time has no more to give.
const BUSY: f64 = 0.95;
