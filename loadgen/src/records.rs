//! What a run leaves in files: opened together before it begins, fed while it runs, finished when it ends.
//!
//! All files are of one run and of the same counts and histograms. It decides which bytes go where, and measures nothing.
//! A file that fails during the run does not end it: the first failure is told afterwards.

mod exposition;
mod hgrm;
mod hlog;
mod junit;
pub mod locust;

use crate::config::Config;
use crate::hiccup::Hiccups;
use crate::interval::Phase;
use crate::law::Law;
use crate::output::Output;
use crate::report::{Report, Test};
use crate::timeline::Second;
use locust::{Counts, Files, Moment, Whole};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// Where the files of a run go; `-` is standard output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The report.
    pub json: Option<PathBuf>,
    /// One row per second.
    pub series: Option<PathBuf>,
    /// The histograms of every second.
    pub hlog: Option<PathBuf>,
    /// The percentile distribution of the response times.
    pub hdr: Option<PathBuf>,
    /// How the names of Locust's files begin.
    pub csv: Option<PathBuf>,
    /// The result as metrics.
    pub prometheus: Option<PathBuf>,
    /// The result as test cases.
    pub junit: Option<PathBuf>,
}

impl Places {
    /// Every file by the flag that named it.
    pub fn all(&self) -> Vec<(&'static str, PathBuf)> {
        let Places { json, series, hlog, hdr, csv, prometheus, junit } = self;
        let named = [
            ("--json", json),
            ("--series", series),
            ("--hlog", hlog),
            ("--hdr", hdr),
            ("--prometheus", prometheus),
            ("--junit", junit),
        ];
        let mut all: Vec<_> = named.into_iter().filter_map(|(flag, path)| Some((flag, path.clone()?))).collect();
        if let Some(prefix) = csv {
            all.extend(Files::paths(prefix).map(|path| ("--csv", path)));
        }
        all
    }
}

/// The files of a run.
#[derive(Debug)]
pub struct Records {
    run_id: String,
    target: Option<Target>,
    connections: u64,
    json: Option<Output>,
    series: Option<Output>,
    hlog: Option<(Output, Hiccups)>,
    hdr: Option<Output>,
    csv: Option<Files>,
    prometheus: Option<Output>,
    junit: Option<Output>,
    has_begun: bool,
    trouble: Option<String>,
}

impl Records {
    /// Opens all of them.
    ///
    /// # Errors
    /// A sentence that names the one that cannot be written.
    pub fn open(config: &Config) -> Result<Records, String> {
        let places = &config.places;
        let open = |path: &Option<PathBuf>| path.as_deref().map(Output::open).transpose();
        Ok(Records {
            run_id: format!("{:08x}", config.run),
            target: Target::of(config),
            connections: config.connections,
            json: open(&places.json)?,
            series: open(&places.series)?,
            hlog: open(&places.hlog)?.map(with_hiccups).transpose()?,
            hdr: open(&places.hdr)?,
            csv: places.csv.as_deref().map(Files::open).transpose()?,
            prometheus: open(&places.prometheus)?,
            junit: open(&places.junit)?,
            has_begun: false,
            trouble: None,
        })
    }

    /// Takes a second that is over.
    pub fn see(&mut self, second: &Second) {
        let begins = !std::mem::replace(&mut self.has_begun, true);
        let mut told = Ok(());
        if let Some(series) = &mut self.series {
            let row = second.row(&self.run_id, self.target.as_mut().map(|target| target.per_s(second)));
            let mut line = serde_json::to_vec(&row).expect("a row is always JSON");
            line.push(b'\n');
            told = told.and(series.append(&line));
        }
        if let Some((output, hiccups)) = &mut self.hlog {
            let head = if begins { hlog::head(second.began) } else { String::new() };
            told = told.and(output.append((head + &hlog::lines(second, &hiccups.take())).as_bytes()));
        }
        if let Some(csv) = &mut self.csv {
            told = told.and(csv.see(&moment(second, self.connections)));
        }
        if let Err(why) = told {
            self.trouble.get_or_insert(why);
        }
    }

    /// Writes what is known when a run has ended. One file's failure does not keep the others from being written.
    ///
    /// # Errors
    /// A sentence about the first file that could not be written, now or before.
    pub fn finish(self, report: &Report) -> Result<(), String> {
        let mut told = self.trouble.map_or(Ok(()), Err);
        let mut put = |output: Option<Output>, text: &dyn Fn() -> Result<Vec<u8>, String>| {
            if let Some(mut output) = output {
                let outcome = text().and_then(|text| output.append(&text));
                told = std::mem::replace(&mut told, Ok(())).and(outcome);
            }
        };
        put(self.json, &|| Ok(json_bytes(report)));
        put(self.junit, &|| Ok(junit::text(report)));
        // Of several tests the last one is what the others led to.
        if let Some(test) = report.tests.last() {
            put(self.hdr, &|| Ok(hgrm::text(&test.results.latency()?.response).into_bytes()));
            put(self.prometheus, &|| Ok(exposition::text(report, test, &test.results.latency()?).into_bytes()));
        }
        if let Some(csv) = self.csv {
            let tests: Result<Vec<Whole>, String> = report.tests.iter().map(whole).collect();
            told = told.and(tests.and_then(|tests| csv.finish(&tests)));
        }
        told
    }
}

/// What was asked for, over time.
#[derive(Debug)]
struct Target {
    law: Law,
    is_fixed: bool,
    /// When lines began to count.
    measured_ns: Option<u64>,
}

impl Target {
    fn of(config: &Config) -> Option<Target> {
        let pace = config.pace?;
        let law = pace.law(config.duration.map(|duration| duration.as_nanos() as u64));
        Some(Target { law, is_fixed: pace.from == pace.to, measured_ns: None })
    }

    /// Lines per second, as the mean of that second. Nothing is asked for while answers are waited for.
    fn per_s(&mut self, second: &Second) -> f64 {
        let first_rate = self.law.first_rate() as f64;
        match second.phase {
            Phase::WarmUp => first_rate,
            Phase::Drain => 0.0,
            Phase::Measured if self.is_fixed => first_rate,
            Phase::Measured => {
                let from_ns = *self.measured_ns.get_or_insert(second.start_ns);
                let due = |ns: u64| self.law.due(ns.saturating_sub(from_ns));
                second.per_s(due(second.end_ns) - due(second.start_ns))
            }
        }
    }
}

/// A value as a file of JSON that people can read, too.
pub fn json_bytes(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("what is derived is always JSON");
    text.push(b'\n');
    text
}

fn with_hiccups(output: Output) -> Result<(Output, Hiccups), String> {
    match Hiccups::start() {
        Ok(hiccups) => Ok((output, hiccups)),
        Err(error) => Err(format!("--hlog: cannot start the thread that notes hiccups: {error}")),
    }
}

/// A second, as Locust's history has it.
fn moment(second: &Second, users: u64) -> Moment<'_> {
    let Second { began, end_ns, tally, latency, phase, .. } = second;
    Moment {
        end: *began + Duration::from_nanos(*end_ns),
        length_s: second.length_s(),
        users,
        counts: Counts { finished: tally.finished(), failed: tally.failed(), bytes: tally.bytes },
        response: &latency.response,
        is_counted: match phase {
            Phase::WarmUp => false,
            Phase::Measured | Phase::Drain => true,
        },
    }
}

/// A test, as Locust's statistics have it.
fn whole(test: &Test) -> Result<Whole, String> {
    let Test { config, results, .. } = test;
    Ok(Whole {
        carrier: match config.mode.as_str() {
            "datagram" => "UDP",
            _ if config.encrypted => "TLS",
            _ => "TCP",
        },
        name: config.mode.clone(),
        counts: Counts { finished: results.finished(), failed: results.failed, bytes: results.bytes },
        response: results.latency()?.response,
        span_s: results.span_s,
        failures: results.failures.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::resolve;
    use std::time::SystemTime;

    #[test]
    fn a_row_says_what_was_asked_for_in_its_own_time() {
        let said = |line: &str| -> Vec<f64> {
            let mut target = Target::of(&resolve(line).unwrap()).unwrap();
            let phases = [Phase::WarmUp, Phase::Measured, Phase::Measured, Phase::Measured, Phase::Drain];
            let seconds = phases.into_iter().zip(0..).map(|(phase, number)| Second {
                phase,
                start_ns: number * 1_000_000_000,
                end_ns: (number + 1) * 1_000_000_000,
                ..Second::new(SystemTime::UNIX_EPOCH)
            });
            seconds.map(|second| target.per_s(&second)).collect()
        };
        assert_eq!(said("-R 1000 -d 3s"), [1000.0, 1000.0, 1000.0, 1000.0, 0.0]);
        let ramp = said("-R 1000:4000 -d 3s");
        for (said, expected) in ramp.into_iter().zip([1000.0, 1500.0, 2500.0, 3500.0, 0.0]) {
            assert!((said - expected).abs() <= 1.0, "{said} instead of {expected}");
        }
        assert!(Target::of(&resolve("-n 5").unwrap()).is_none());
    }
}
