//! What a scenario comes to, from what it has left: every server it started, every load, what was stored, what was claimed.
//!
//! Nothing passes by being absent: a server whose end nobody saw, a load without a report, a claim without a figure and a
//! scenario that left nothing are failures.

use super::leak::{self, slope};
use super::record::{Ceiling, Claim, Growth, Life, LoadSeen, Look, Said, Sample, ServerSeen, Verdict};
use super::summary::put;
use super::watch::{LIVES, SAMPLES, STAGES, read_lines};
use crate::cli::Judge;
use crate::compare::Session;
use crate::outcome::Outcome;
use crate::report::{Gate, Latencies, Reconciliation};
use ringest_loadgen::report::{Report, utc};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Judges a scenario, and writes its verdict beside what it has left.
///
/// # Errors
/// Something of it cannot be read, or the verdict cannot be written.
pub fn run(task: &Judge) -> io::Result<Verdict> {
    let verdict = judge(&task.dir, &task.scenario, task.seconds, task.code)?;
    let path = task.dir.join(VERDICT);
    let text = serde_json::to_string_pretty(&verdict).map_err(io::Error::other)? + "\n";
    put(&path, &text)?;
    Ok(verdict)
}

fn judge(dir: &Path, scenario: &str, seconds: f64, code: i32) -> io::Result<Verdict> {
    let mut case = Case::default();
    let mut verdict = Verdict {
        scenario: scenario.into(),
        at: utc(SystemTime::now()),
        seconds,
        verdict: Outcome::Pass,
        reasons: Vec::new(),
        gates: Vec::new(),
        notes: lines(&dir.join("notes.txt")),
        servers: BTreeMap::new(),
        loads: BTreeMap::new(),
        reconciled: BTreeMap::new(),
        compared: BTreeMap::new(),
    };
    for (name, path) in entries(&dir.join("servers"))? {
        let seen = case.server(&name, &path)?;
        verdict.servers.insert(name, seen);
    }
    for (name, path) in entries(&dir.join("loads"))? {
        let seen = case.load(&name, &path)?;
        verdict.loads.insert(name, seen);
    }
    for (name, path) in entries(&dir.join("reconciled"))? {
        let found: Reconciliation = read(&path)?;
        case.reconciled(&name, &found);
        verdict.reconciled.insert(name, found);
    }
    for (name, path) in entries(&dir.join("compared"))? {
        let session: Session = read(&path)?;
        if session.interrupted {
            case.call(Outcome::Interrupted, format!("{name}: not all pairs were measured"));
        }
        verdict.compared.insert(name, session);
    }
    for claim in read_lines::<Claim>(&dir.join("claims.ndjson"))? {
        case.claim(&claim);
    }
    let has_left_something = !(verdict.servers.is_empty() && verdict.compared.is_empty() && case.gates.is_empty());
    match code {
        0 if !has_left_something => case.call(Outcome::Fail, "it left nothing to judge".into()),
        0 => {}
        CANNOT_RUN_HERE => {
            let why = lines(&dir.join("cannot")).join("; ");
            case.call(Outcome::Invalid, format!("it cannot run here: {why}"));
        }
        129 | 130 | 143 => case.call(Outcome::Interrupted, "somebody ended it".into()),
        code => {
            let said = lines(&dir.join("said.txt"));
            let last = said[said.len().saturating_sub(SAID_MAX)..].join(" / ");
            case.call(Outcome::Fail, format!("its script ended with code {code}; it said: {last}"));
        }
    }
    let Case { gates, mut reasons, outcome } = case;
    let broken = gates.iter().filter(|gate| !gate.pass);
    reasons.extend(broken.map(|gate| format!("{}, and it is {}", gate.expr, gate.actual)));
    verdict.verdict = if gates.iter().all(|gate| gate.pass) { outcome } else { outcome.and(Outcome::Fail) };
    (verdict.gates, verdict.reasons) = (gates, reasons);
    Ok(verdict)
}

/// What was found so far.
struct Case {
    gates: Vec<Gate>,
    reasons: Vec<String>,
    outcome: Outcome,
}

impl Default for Case {
    fn default() -> Case {
        Case { gates: Vec::new(), reasons: Vec::new(), outcome: Outcome::Pass }
    }
}

impl Case {
    fn call(&mut self, outcome: Outcome, reason: String) {
        self.outcome = self.outcome.and(outcome);
        self.reasons.push(reason);
    }

    fn server(&mut self, name: &str, dir: &Path) -> io::Result<ServerSeen> {
        let lives: Vec<Life> = read_lines(&dir.join(LIVES))?;
        let looks: Vec<Look> = read_lines(&dir.join(SAMPLES))?;
        let mut seen = ServerSeen { looks: looks.len() as u64, ..ServerSeen::default() };
        let mut ceilings = BTreeMap::new();
        let mut unmeant = Vec::new();
        for row in lives {
            match row {
                Life::Began { life, ceiling, .. } => {
                    seen.lives += 1;
                    ceilings.insert(life, ceiling);
                }
                Life::Ended { how, as_meant, .. } => {
                    if !as_meant {
                        unmeant.push(how.clone());
                    }
                    seen.ends.push(how);
                }
            }
        }
        let gate = |what: &str| format!("{name}: {what}");
        for how in &unmeant {
            self.call(Outcome::Fail, gate(&format!("ended {how}")));
        }
        self.gates.push(Gate::at_least(&gate("times it was started"), f64::from(seen.lives), 1.0));
        let unseen = f64::from(seen.lives) - seen.ends.len() as f64;
        self.gates.push(Gate::at_most(&gate("lives whose end nobody saw"), unseen, 0.0));
        self.gates.push(Gate::at_most(&gate("lives that ended as they should not"), unmeant.len() as f64, 0.0));
        let mut samples = Vec::new();
        for look in looks {
            match look {
                Look::Seen(sample) => samples.push(*sample),
                Look::Missed { .. } => seen.missed += 1,
            }
        }
        self.gates.push(Gate::at_least(&gate("looks at it"), samples.len() as f64, 2.0));
        self.gates.push(Gate::at_most(&gate("looks that did not find it"), seen.missed as f64, 0.0));
        if !dir.join(MAY_BE_MUTE).exists() {
            let mute = samples.iter().filter(|sample| sample.said.is_none()).count();
            self.gates.push(Gate::at_most(&gate("looks that it did not answer"), mute as f64, 0.0));
        }
        for life in samples.chunk_by(|a, b| a.life == b.life) {
            self.within_its_design(name, life, ceilings.get(&life[0].life).copied().flatten());
            seen.slopes = self.growth(name, life);
        }
        sum_up(&mut seen, &samples);
        if let Ok(text) = fs::read(dir.join(STAGES)) {
            seen.stages = serde_json::from_slice(&text)
                .map_err(|error| io::Error::other(format!("{}: {error}", dir.join(STAGES).display())))?;
        }
        Ok(seen)
    }

    fn within_its_design(&mut self, name: &str, life: &[Sample], ceiling: Option<Ceiling>) {
        let gate = |what: &str| format!("{name} life {}: {what}", life[0].life);
        let overflows = life.iter().filter_map(|sample| sample.said.as_ref()?.driver.get("cq_overflows")).max();
        self.gates.push(Gate::at_most(&gate("completion queue overflows"), overflows.map_or(0.0, |&n| n as f64), 0.0));
        let Some(ceiling) = ceiling else { return };
        let furthest = life.iter().map(|sample| sample.threads).max_by_key(|threads| threads.abs_diff(ceiling.threads));
        self.gates.push(Gate::exactly(&gate("threads"), furthest.unwrap_or(0) as f64, ceiling.threads as f64));
        let most = |of: fn(&Sample) -> u64| life.iter().map(of).max().unwrap_or(0) as f64;
        // While connections come and go they cannot be counted at one moment with descriptors.
        let fds_max = ceiling.fds_at_rest + ceiling.connections + ANSWERS;
        self.gates.push(Gate::at_most(&gate("descriptors"), most(|sample| sample.fds), fds_max as f64));
        let segment_fds = most(|sample| sample.segment_fds);
        self.gates.push(Gate::at_most(&gate("descriptors of segments"), segment_fds, ceiling.segment_fds as f64));
        self.gates.push(Gate::at_most(&gate("threads that answer"), most(|sample| sample.answerers), ANSWERS as f64));
        // A backend may open some of its descriptors in its first turn, which is over once it has answered at a look, and
        // closes them while it ends. Between, somebody may just have asked it something, and be a descriptor.
        let is_at_rest = |sample: &&Sample| sample.said.as_ref().is_some_and(Said::is_at_rest);
        let ends = |sample: &&Sample| !sample.said.as_ref().is_some_and(|said| said.is_serving);
        let at_rest = life.iter().skip(1).rev().skip_while(ends).take_while(is_at_rest);
        if let Some(least) = at_rest.map(|sample| sample.fds).min() {
            self.gates.push(Gate::exactly(&gate("descriptors at rest"), least as f64, ceiling.fds_at_rest as f64));
        }
        let rss = most(|sample| sample.rss_bytes);
        self.gates.push(Gate::at_most(&gate("resident bytes"), rss, ceiling.memory_bytes as f64));
    }

    /// Whether something grows that should not, where the life is long enough to say.
    fn growth(&mut self, name: &str, life: &[Sample]) -> BTreeMap<String, Growth> {
        type Amount = fn(&Sample) -> u64;
        let amounts: [(&str, Amount, f64); 4] = [
            ("resident bytes", |sample| sample.rss_bytes, LEAK_BYTES),
            ("locked bytes", |sample| sample.locked_bytes, LEAK_BYTES),
            ("descriptors", |sample| sample.fds, LEAK_PIECES),
            ("threads", |sample| sample.threads, LEAK_PIECES),
        ];
        let span = life.last().map_or(0.0, |last| last.at_s - life[0].at_s);
        let window = span / f64::from(WINDOWS);
        let mut found = BTreeMap::new();
        if life.len() < LOOKS_MIN {
            return found;
        }
        for (what, amount, limit) in amounts {
            let at = |sample: &Sample| leak::Sample { at_s: sample.at_s - life[0].at_s, value: amount(sample) as f64 };
            let samples: Vec<leak::Sample> = life.iter().map(at).collect();
            let Ok(slope) = slope(&samples, window) else { continue };
            // What it has certainly grown by while it was settled.
            let grown = (slope.low * span / 2.0).max(0.0).round();
            let what_grows = format!("{name} life {}: {what} that the last half has certainly added", life[0].life);
            self.gates.push(Gate::at_most(&what_grows, grown, limit));
            let per_hour = |per_s: f64| per_s * 3600.0;
            let growth = Growth {
                per_hour: per_hour(slope.per_s),
                low: per_hour(slope.low),
                high: per_hour(slope.high),
                windows: slope.windows as u64,
            };
            found.insert(what.to_owned(), growth);
        }
        found
    }

    fn load(&mut self, name: &str, dir: &Path) -> io::Result<LoadSeen> {
        let counts = !dir.join(MAY_FAIL).exists();
        let code = lines(&dir.join("code")).first().and_then(|code| code.parse().ok());
        let report: Option<Report> = match fs::read(dir.join("generator.json")) {
            Ok(text) => serde_json::from_slice(&text).ok(),
            Err(_) => None,
        };
        let (Some(code), Some(test)) = (code, report.as_ref().and_then(|report| report.tests.first())) else {
            let said = lines(&dir.join("said.txt"));
            let last = said[said.len().saturating_sub(SAID_MAX)..].join(" / ");
            if counts {
                self.call(Outcome::Fail, format!("{name}: the generator left no report; it said: {last}"));
            }
            return Ok(LoadSeen { code: code.unwrap_or(-1), counts, ..LoadSeen::default() });
        };
        let results = &test.results;
        let seen = LoadSeen {
            code,
            counts,
            acked: results.acked,
            failed: results.failed,
            per_s: results.throughput_per_s,
            response_us: Latencies::from(&results.response_us),
            validity: test.validity.verdict.clone(),
        };
        if counts {
            match code {
                0 => {}
                3 => {
                    let broken: Vec<&str> =
                        test.gates.iter().filter(|gate| !gate.pass).map(|gate| gate.expr.as_str()).collect();
                    self.call(Outcome::Fail, format!("{name}: {}", broken.join(", ")));
                }
                4 => self.call(Outcome::Invalid, format!("{name}: {}", test.validity.verdict)),
                5 => self.call(Outcome::Loss, format!("{name}: lines are lost or stored twice")),
                129 | 130 | 143 => self.call(Outcome::Interrupted, format!("{name}: somebody ended it")),
                code => self.call(Outcome::Fail, format!("{name}: the generator ended with code {code}")),
            }
            if let Some(limit) = lines(&dir.join(SLO_P95_MS)).first().and_then(|limit| limit.parse().ok()) {
                let late = test.validity.generator_bound + test.validity.host_noise;
                self.slo(name, seen.response_us.p95 / 1000.0, limit, late);
            }
        }
        Ok(seen)
    }

    /// A p95 that holds, holds whatever the machine did besides; one that does not says nothing of the server where the
    /// generator or the machine made more lines late than it leaves out.
    fn slo(&mut self, name: &str, p95_ms: f64, limit: f64, late: f64) {
        let gate = Gate::at_most(&format!("{name}: p95 of the response, ms"), p95_ms, limit);
        if gate.pass || late <= 0.05 {
            self.gates.push(gate);
            return;
        }
        let share = late * 100.0;
        self.call(Outcome::Invalid, format!("{} cannot be told: {share:.0} % were late without the server", gate.expr));
    }

    fn reconciled(&mut self, name: &str, found: &Reconciliation) {
        if found.wrong() > 0 {
            let Reconciliation { lost, duplicated, corrupt, phantom, .. } = found;
            self.call(
                Outcome::Loss,
                format!(
                    "{name}: {lost} lost, {duplicated} duplicated, {corrupt} corrupt, {phantom} never sent; {}",
                    found.examples.iter().take(EXAMPLES).cloned().collect::<Vec<_>>().join("; ")
                ),
            );
        }
        self.gates.push(Gate::at_least(&format!("{name}: lines promised and compared"), found.acked as f64, 1.0));
    }

    fn claim(&mut self, claim: &Claim) {
        let Claim { what, actual, at_least, at_most } = claim;
        let Some(actual) = *actual else {
            self.call(Outcome::Fail, format!("{what}: nobody could say"));
            return;
        };
        if let Some(limit) = *at_least {
            self.gates.push(Gate::at_least(what, actual, limit));
        }
        if let Some(limit) = *at_most {
            self.gates.push(Gate::at_most(what, actual, limit));
        }
        if at_least.or(*at_most).is_none() {
            self.call(Outcome::Fail, format!("{what}: {actual} is neither to be at least nor at most anything"));
        }
    }
}

fn sum_up(seen: &mut ServerSeen, samples: &[Sample]) {
    let peak = |of: fn(&Sample) -> u64| samples.iter().map(of).max().unwrap_or(0);
    seen.rss_peak_bytes = peak(|sample| sample.rss_bytes);
    seen.rss_last_bytes = samples.last().map_or(0, |sample| sample.rss_bytes);
    seen.fds_peak = peak(|sample| sample.fds);
    seen.threads_peak = peak(|sample| sample.threads);
    let mut cpu_ns = 0;
    for life in samples.chunk_by(|a, b| a.life == b.life) {
        // What a process took before it was looked at first is its start.
        cpu_ns += life[life.len() - 1].cpu_ns - life[0].cpu_ns;
        if let Some(said) = life.iter().rev().find_map(|sample| sample.said.as_ref()) {
            seen.stored += said.stored;
            seen.accepted += said.accepted;
        }
    }
    seen.cpu_ns_per_record = (seen.stored > 0).then(|| cpu_ns as f64 / seen.stored as f64);
}

/// What a directory holds, by names without endings, in order; nothing, where there is none.
fn entries(dir: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let found = match fs::read_dir(dir) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut named = Vec::new();
    for entry in found {
        let path = entry?.path();
        named.push((path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), path));
    }
    named.sort();
    Ok(named)
}

/// A document of a scenario.
///
/// # Errors
/// It cannot be read.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let explain = |what: String| io::Error::other(format!("{}: {what}", path.display()));
    let text = fs::read(path).map_err(|error| explain(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| explain(error.to_string()))
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// What a scenario comes to.
pub(super) const VERDICT: &str = "verdict.json";
/// A server that is stopped or starved on purpose need not answer.
const MAY_BE_MUTE: &str = "may-be-mute";
/// A load whose failure is no finding.
const MAY_FAIL: &str = "may-fail";
/// What 95 % of a load's answers have to stay within.
const SLO_P95_MS: &str = "slo-p95-ms";
/// The code of a script that lacks a program or a right.
const CANNOT_RUN_HERE: i32 = 77;
const SAID_MAX: usize = 3;
/// A life is cut into so many windows, of which the last half counts.
const WINDOWS: u32 = 24;
/// Three looks a window: the least of fewer is no envelope.
const LOOKS_MIN: usize = 72;
/// What memory may grow by while it is settled: allocators and histograms find their size late.
const LEAK_BYTES: f64 = 1_048_576.0;
const LEAK_PIECES: f64 = 0.0;
/// Threads of the admin listener's answers at most, and its connections of a moment.
const ANSWERS: u64 = 8;
/// Of what is wrong with lines, in a reason; the comparison has more.
const EXAMPLES: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_at_rest_are_counted_where_a_server_has_run_serves_and_is_alone() {
        let ceiling = Ceiling { threads: 9, fds_at_rest: 30, segment_fds: 18, connections: 10, memory_bytes: 0 };
        let at_rest = |looks: &[(u64, bool, u64)]| {
            let look = |&(fds, is_serving, connections): &(u64, bool, u64)| Sample {
                fds,
                said: Some(Said { is_serving, connections, ..Said::default() }),
                ..Sample::default()
            };
            let life: Vec<Sample> = looks.iter().map(look).collect();
            let mut case = Case::default();
            case.within_its_design("main", &life, Some(ceiling));
            let gate = case.gates.iter().find(|gate| gate.expr.contains("descriptors at rest"));
            gate.map(|gate| (gate.actual, gate.pass))
        };
        assert_eq!(at_rest(&[(27, true, 0), (30, true, 0)]), Some((30.0, true)), "its first turn was still to come");
        assert_eq!(at_rest(&[(30, true, 0), (31, true, 0), (30, true, 0)]), Some((30.0, true)), "somebody asked");
        assert_eq!(at_rest(&[(30, true, 0), (40, true, 9), (31, true, 0)]), Some((31.0, false)), "one has leaked");
        assert_eq!(at_rest(&[(30, true, 0), (29, true, 0)]), Some((29.0, false)), "one too few is another sum");
        assert_eq!(at_rest(&[(30, true, 0), (40, true, 9)]), None);
        assert_eq!(at_rest(&[(30, true, 0), (31, true, 0), (27, false, 0)]), Some((31.0, false)), "it ends");
        assert_eq!(at_rest(&[(30, true, 0), (27, false, 0)]), None);
        assert_eq!(at_rest(&[(27, true, 0)]), None);
    }

    #[test]
    fn a_p95_that_does_not_hold_is_the_servers_only_where_nobody_else_was_late() {
        let found = |p95_ms, late| {
            let mut case = Case::default();
            case.slo("good", p95_ms, 80.0, late);
            (case.gates.first().map(|gate| gate.pass), case.outcome)
        };
        assert_eq!(found(79.0, 0.0), (Some(true), Outcome::Pass));
        assert_eq!(found(79.0, 0.5), (Some(true), Outcome::Pass));
        assert_eq!(found(81.0, 0.05), (Some(false), Outcome::Pass), "its gate is judged with the others");
        assert_eq!(found(81.0, 0.06), (None, Outcome::Invalid));
    }
}
