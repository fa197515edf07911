//! The highest rate at which a promise is kept: climb until it is broken, then halve what lies between.
//!
//! [`Search`] decides which rate is tried next, without sending a line; [`find`] tries them.

use crate::config::Config;
use crate::io::Engine;
use crate::law::RATE_MAX;
use crate::report::{Report, Test, span};
use crate::run;
use crate::schedule::Pace;
use crate::validity::Verdict;
use ringest_sys::signal::{Signal, Signals};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What the search came to, as it stands in a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Knee {
    /// The promise: 99 % of the response times stay within that, in microseconds, and no line fails.
    pub slo_p99_us: f64,
    /// The highest rate that kept it, twice, in lines per second; none where not even the first did.
    pub rate: Option<u64>,
    /// The lowest rate that broke it; none where none did.
    pub broken_at: Option<u64>,
    /// The two lie no further apart than this share of the second: what a repeated search may differ by.
    pub resolution: f64,
    /// Whether the search came to its end.
    pub is_complete: bool,
    /// Who kept the rate from being higher: `server_bound`, or `generator_bound` or `host_noise`, and then it says nothing about the
    /// server; `ok` where nobody did.
    pub limited_by: String,
    /// Every rate that was tried, in turn.
    pub probes: Vec<Probe>,
}

/// One rate that was tried.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Probe {
    /// Lines per second that were asked for.
    pub rate: u64,
    /// Lines per second whose turn came, until the last answer.
    pub achieved: f64,
    /// 99 % of the response times stayed within that, in microseconds.
    pub p99_us: f64,
    /// Lines that failed.
    pub failed: u64,
    /// Whether the promise was kept.
    pub held: bool,
    /// Whose fault it was that lines were late.
    pub verdict: String,
}

impl Probe {
    fn of(rate: u64, slo_p99_us: f64, test: &Test) -> Probe {
        let results = &test.results;
        let kept = results.rate.map_or(0.0, |rate| rate.ratio);
        Probe {
            rate,
            achieved: results.rate.map_or(0.0, |rate| rate.achieved),
            p99_us: results.response_us.p99,
            failed: results.failed,
            // A rate that is only reached because the last answers are waited for is not reached.
            held: results.failed == 0 && results.response_us.p99 <= slo_p99_us && kept >= KEPT_MIN,
            verdict: test.validity.verdict.clone(),
        }
    }

    /// Whether it was broken by something else than the server, so that it is worth trying again.
    fn is_void(&self) -> bool {
        !self.held && self.verdict == Verdict::HostNoise.as_str()
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Probe { rate, p99_us, failed, verdict, .. } = self;
        let word = if self.held { "holds" } else { "breaks" };
        write!(f, "{rate:>12} records/s  {word:<6}  p99 {:>10}  {failed} failed  {verdict}", span(*p99_us))
    }
}

impl fmt::Display for Knee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slo = span(self.slo_p99_us);
        match (self.rate, self.broken_at) {
            (Some(rate), Some(broken_at)) => write!(
                f,
                "knee: {rate} records/s keep p99 within {slo} and lose none; {broken_at} do not ({}; the knee is known to {:.0} %)",
                self.limited_by,
                self.resolution * 100.0
            )?,
            (Some(rate), None) => write!(f, "no knee: {rate} records/s still keep p99 within {slo}")?,
            (None, Some(broken_at)) => {
                write!(f, "no knee: not even {broken_at} records/s keep p99 within {slo} ({})", self.limited_by)?;
            }
            (None, None) => write!(f, "no knee: no rate was tried")?,
        }
        if self.is_complete { Ok(()) } else { write!(f, "; the search did not come to its end") }
    }
}

/// Which rate is tried next.
#[derive(Clone, Debug)]
pub struct Search {
    /// Rates that held, rising.
    held: Vec<u64>,
    /// The highest of them has held twice.
    is_confirmed: bool,
    broken_at: Option<u64>,
    first: u64,
    least: u64,
}

impl Search {
    /// Begins with `first`, and goes down to `least` if need be.
    pub fn new(first: u64, least: u64) -> Search {
        Search { held: Vec::new(), is_confirmed: false, broken_at: None, first: first.max(least), least }
    }

    /// The next rate; none where the search is at its end.
    pub fn rate(&self) -> Option<u64> {
        let held = self.held.last().copied();
        match (held, self.broken_at) {
            (None, None) => Some(self.first),
            (Some(held), None) if held >= RATE_MAX => None,
            (Some(held), None) => Some((held * 2).min(RATE_MAX)),
            (None, Some(broken_at)) => (broken_at > self.least).then(|| (broken_at / 2).max(self.least)),
            (Some(held), Some(broken_at)) => {
                let is_near = (broken_at - held) as f64 <= RESOLUTION * broken_at as f64 || broken_at - held == 1;
                match is_near {
                    true => (!self.is_confirmed).then_some(held),
                    false => Some(held + (broken_at - held) / 2),
                }
            }
        }
    }

    /// That rate held, or broke.
    pub fn note(&mut self, rate: u64, held: bool) {
        let again = self.held.last() == Some(&rate);
        match (held, again) {
            (true, true) => self.is_confirmed = true,
            (true, false) => {
                self.held.push(rate);
                self.is_confirmed = false;
            }
            (false, _) => {
                // What holds only sometimes does not hold.
                self.held.retain(|held| *held < rate);
                self.broken_at = Some(rate);
                self.is_confirmed = false;
            }
        }
    }

    /// The highest rate that held, and the lowest that broke.
    pub fn found(&self) -> (Option<u64>, Option<u64>) {
        (self.held.last().copied(), self.broken_at)
    }
}

/// What a search leaves.
#[derive(Debug)]
pub struct Searched {
    /// A test per probe, and what was found.
    pub report: Report,
    /// The signal that ended it early.
    pub signal: Option<Signal>,
    /// What ended it early, where a probe behind the first could not begin: a sentence.
    pub trouble: Option<String>,
}

/// Searches, and tells each probe to `tell`.
///
/// # Errors
/// A sentence, where the first probe could not begin.
pub fn find(
    config: &Config,
    engine: Engine,
    signals: &Signals,
    tell: &mut dyn FnMut(&Probe),
) -> Result<Searched, String> {
    let slo_p99_us = config.slo_p99.map_or(0.0, |slo| slo.as_secs_f64() * 1e6);
    let pace = config.pace.unwrap_or(Pace::fixed(FIRST_PER_S));
    let mut search = Search::new(pace.from, config.workers);
    let mut knee = Knee { slo_p99_us, resolution: RESOLUTION, ..Knee::default() };
    let (mut tests, mut last): (Vec<Test>, Option<Report>) = (Vec::new(), None);
    let (mut signal, mut trouble) = (None, None);
    let mut void_in_a_row = 0;
    while let Some(rate) = search.rate().filter(|_| knee.probes.len() < PROBES_MAX && signal.is_none()) {
        let number = knee.probes.len() as u32;
        let config = Config {
            pace: Some(Pace { from: rate, to: rate, ..pace }),
            // Producers of a run of their own, so that no probe goes on with another's numbers.
            run: config.run.wrapping_add(number),
            ..config.clone()
        };
        let finished = match run::run(&config, engine, signals, &mut |_| {}) {
            Ok(finished) => finished,
            Err(why) if last.is_none() => return Err(why),
            // What the others found is worth no less.
            Err(why) => {
                trouble = Some(why);
                break;
            }
        };
        signal = finished.signal;
        let mut report = finished.report;
        for mut test in report.tests.drain(..) {
            let probe = Probe::of(rate, slo_p99_us, &test);
            test.name = format!("probe {} at {rate} records/s", number + 1);
            tell(&probe);
            void_in_a_row = if probe.is_void() { void_in_a_row + 1 } else { 0 };
            if signal.is_none() && (void_in_a_row == 0 || void_in_a_row >= VOID_MAX) {
                search.note(rate, probe.held);
                void_in_a_row = 0;
            }
            knee.probes.push(probe);
            tests.push(test);
        }
        last = Some(report);
    }
    (knee.rate, knee.broken_at) = search.found();
    knee.is_complete = search.rate().is_none();
    knee.limited_by = limited_by(&knee);
    let mut report = last.ok_or("no rate was tried")?;
    report.run_id = format!("{:08x}", config.run);
    report.tests = tests;
    report.find_max = Some(knee);
    Ok(Searched { report, signal, trouble })
}

/// Whoever broke the lowest rate that broke.
fn limited_by(knee: &Knee) -> String {
    let broke = knee.probes.iter().rev().find(|probe| !probe.held && Some(probe.rate) == knee.broken_at);
    let voids = [Verdict::GeneratorBound, Verdict::HostNoise].map(Verdict::as_str);
    match broke {
        None => Verdict::Ok.as_str().into(),
        Some(probe) if voids.contains(&probe.verdict.as_str()) => probe.verdict.clone(),
        // Lines were sent in time, and their answers came late or not at all.
        Some(_) => Verdict::ServerBound.as_str().into(),
    }
}

/// How near the two rates come, as a share of the higher one.
pub const RESOLUTION: f64 = 0.05;
/// Where nothing else was asked for.
const FIRST_PER_S: u64 = 1000;
const KEPT_MIN: f64 = 0.95;
/// So many probes in a row that the host has spoilt count as one that broke.
const VOID_MAX: u32 = 3;
const PROBES_MAX: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Searches where rates up to `knee` hold; how many probes that took.
    fn search(first: u64, knee: u64) -> (Search, usize) {
        let mut search = Search::new(first, 1);
        let mut probes = 0;
        while let Some(rate) = search.rate() {
            search.note(rate, rate <= knee);
            probes += 1;
            assert!(probes < PROBES_MAX);
        }
        (search, probes)
    }

    proptest! {
        #[test]
        fn the_knee_is_found_from_wherever_the_search_begins(first in 1..=RATE_MAX, knee in 1..RATE_MAX) {
            let (search, _) = search(first, knee);
            let (held, broken_at) = search.found();
            let (held, broken_at) = (held.unwrap(), broken_at.unwrap());
            prop_assert!(held <= knee && knee < broken_at);
            prop_assert!(broken_at - held <= 1 || (broken_at - held) as f64 <= RESOLUTION * broken_at as f64);
        }
    }

    #[test]
    fn a_search_takes_as_many_probes_as_it_says() {
        assert!(search(1000, 1_000_000).1 <= 17, "{}", search(1000, 1_000_000).1);
    }

    #[test]
    fn a_server_that_holds_nothing_and_one_that_holds_everything_end_the_search() {
        assert_eq!(search(1000, 0).0.found(), (None, Some(1)));
        assert_eq!(search(1000, RATE_MAX).0.found(), (Some(RATE_MAX), None));
    }

    #[test]
    fn a_rate_that_does_not_hold_a_second_time_does_not_hold() {
        let mut search = Search::new(100, 1);
        let mut answers = [(100, true), (200, false), (150, true), (175, true), (187, false), (181, false)].into_iter();
        while let Some(rate) = search.rate().filter(|rate| *rate != 175 || search.held.last() != Some(&175)) {
            let (expected, held) = answers.next().unwrap();
            assert_eq!(rate, expected);
            search.note(rate, held);
        }
        assert_eq!(search.rate(), Some(175), "once more");
        search.note(175, false);
        assert_eq!(search.found(), (Some(150), Some(175)));
        assert_eq!(search.rate(), Some(162));
        search.note(162, false);
        search.note(156, true);
        assert_eq!(search.rate(), Some(156));
        search.note(156, true);
        assert_eq!(search.rate(), None);
    }
}
