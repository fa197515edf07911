//! All scenarios of a soak as one report: a table for whoever waits, JSON, and a page.

use super::judge::{VERDICT, read};
use super::record::{Look, SCHEMA, Sample, Soak, Verdict};
use super::watch::{SAMPLES, read_lines};
use crate::cli::Summary;
use crate::outcome::Outcome;
use crate::page;
use crate::report::{System, Tool};
use ringest_loadgen::report::utc;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

/// Looks at servers, by scenario and name.
pub type Looks = BTreeMap<(String, String), Vec<Sample>>;

/// Gathers what the scenarios below the directory come to, and leaves `soak.json` and `report.html` there.
///
/// # Errors
/// A verdict cannot be read, there is none, or the report cannot be written.
pub fn run(task: &Summary) -> io::Result<Soak> {
    let (mut scenarios, mut looks) = (Vec::new(), Looks::new());
    for entry in fs::read_dir(&task.dir)? {
        let dir = entry?.path();
        let path = dir.join(VERDICT);
        if !path.exists() {
            continue;
        }
        let verdict: Verdict = read(&path)?;
        for name in verdict.servers.keys() {
            let rows: Vec<Look> = read_lines(&dir.join("servers").join(name).join(SAMPLES))?;
            let seen = rows.into_iter().filter_map(|look| match look {
                Look::Seen(sample) => Some(*sample),
                Look::Missed { .. } => None,
            });
            looks.insert((verdict.scenario.clone(), name.clone()), seen.collect());
        }
        scenarios.push(verdict);
    }
    if scenarios.is_empty() {
        return Err(io::Error::other(format!("no scenario below {} has a verdict", task.dir.display())));
    }
    scenarios.sort_by(|a, b| (&a.at, &a.scenario).cmp(&(&b.at, &b.scenario)));
    let soak = Soak {
        schema: SCHEMA.into(),
        timestamp: utc(SystemTime::now()),
        tool: Tool { name: env!("CARGO_PKG_NAME").into(), version: env!("CARGO_PKG_VERSION").into() },
        system: System::here(&task.dir),
        verdict: scenarios.iter().fold(Outcome::Pass, |sum, next| sum.and(next.verdict)),
        scenarios,
    };
    put(&task.dir.join("soak.json"), &(serde_json::to_string_pretty(&soak).map_err(io::Error::other)? + "\n"))?;
    put(&task.dir.join("report.html"), &page::of_soak(&soak, &looks)?)?;
    Ok(soak)
}

pub(super) fn put(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display())))
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.verdict.as_str().to_uppercase();
        write!(f, "{word:11} {:12} {:.0} s, {} gates", self.scenario, self.seconds, self.gates.len())?;
        for (name, server) in &self.servers {
            let cpu = server.cpu_ns_per_record.map_or_else(String::new, |ns| format!(", {ns:.0} ns/record"));
            write!(
                f,
                "\n              {name}: {} stored{cpu}, {:.1} MiB at most, {} connections taken, {} lives",
                server.stored,
                server.rss_peak_bytes as f64 / f64::from(1 << 20),
                server.accepted,
                server.lives
            )?;
        }
        for (name, load) in self.loads.iter().filter(|(_, load)| load.counts) {
            let us = &load.response_us;
            write!(
                f,
                "\n              {name}: {:.0} records/s, {} failed, p50 {:.2} ms, p95 {:.2} ms, p99 {:.2} ms, {}",
                load.per_s,
                load.failed,
                us.p50 / 1000.0,
                us.p95 / 1000.0,
                us.p99 / 1000.0,
                load.validity
            )?;
        }
        for (name, session) in &self.compared {
            if let Some(first) = session.figures.first() {
                let found = &first.comparison;
                write!(
                    f,
                    "\n              {name}: {} against {}: {}; {} {:.3} ({:.3}..{:.3})",
                    session.b,
                    session.a,
                    session.verdict.as_str(),
                    first.figure.label(),
                    found.ratio,
                    found.low,
                    found.high
                )?;
            }
        }
        self.notes.iter().try_for_each(|note| write!(f, "\n              {note}"))?;
        self.reasons.iter().try_for_each(|reason| write!(f, "\n            ! {reason}"))
    }
}
