//! What was measured before, one file per machine class.

use crate::report::System;
use crate::spread::Spread;
use ringest_loadgen::report::utc;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

/// The name and version of the form.
const SCHEMA: &str = "ringest.bench.baseline.v1";

/// The figures to beat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Baseline {
    schema: String,
    /// The class of machines that they hold for.
    class: String,
    /// When they were measured, in UTC.
    timestamp: String,
    /// By which version.
    version: String,
    /// The machine.
    system: System,
    /// What they depend on.
    settings: BTreeMap<String, u64>,
    /// The figures.
    pub(super) figures: BTreeMap<String, Figure>,
}

/// A figure over some rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Figure {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Figure {
    pub(super) fn of(spread: Spread) -> Figure {
        let Spread { median, min, max } = spread;
        Figure { median, min, max }
    }
}

impl Baseline {
    pub(super) fn new(system: &System, settings: BTreeMap<String, u64>, figures: BTreeMap<String, Figure>) -> Baseline {
        Baseline {
            schema: SCHEMA.into(),
            class: system.class.clone(),
            timestamp: utc(SystemTime::now()),
            version: env!("CARGO_PKG_VERSION").into(),
            system: system.clone(),
            settings,
            figures,
        }
    }

    pub(super) fn read(path: &Path, class: &str) -> io::Result<Baseline> {
        let text = fs::read_to_string(path).map_err(|error| {
            let what = format!(
                "no baseline for machines like this one ({class}) at {}: {error}; --update makes one",
                path.display()
            );
            io::Error::new(error.kind(), what)
        })?;
        let odd = |what: String| io::Error::other(format!("the baseline {}: {what}", path.display()));
        let baseline: Baseline = serde_json::from_str(&text).map_err(|error| odd(error.to_string()))?;
        match () {
            () if baseline.schema != SCHEMA => Err(odd(format!("is of the form {}, not {SCHEMA}", baseline.schema))),
            () if baseline.class != class => Err(odd(format!("is of machines like {}, not {class}", baseline.class))),
            () if baseline.figures.is_empty() => Err(odd("has no figures".into())),
            () => Ok(baseline),
        }
    }

    /// Refuses to be compared with what was measured in another way.
    pub(super) fn check_settings(&self, now: &BTreeMap<String, u64>, path: &Path) -> io::Result<()> {
        let differs = now.iter().find(|(name, value)| self.settings.get(*name) != Some(value));
        differs.map_or(Ok(()), |(name, value)| {
            let was = self.settings.get(name).map_or_else(|| "not set".to_owned(), u64::to_string);
            let path = path.display();
            Err(io::Error::other(format!(
                "the baseline {path} was measured with {name} {was}, not {value}: use the same, or make another (--update)"
            )))
        })
    }

    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let explain =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()));
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(explain)?;
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)? + "\n";
        // Whole or not at all.
        let draft = path.with_extension("json.new");
        fs::write(&draft, text).and_then(|()| fs::rename(&draft, path)).map_err(explain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_baseline_holds_for_its_class_and_its_settings_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("baseline/this.json");
        let missing = Baseline::read(&path, "this").unwrap_err().to_string();
        assert!(missing.contains("--update") && missing.contains("this"), "{missing}");
        let system = System { class: "this".into(), ..System::default() };
        let settings = BTreeMap::from([("rate".to_owned(), 10_000)]);
        let figures = BTreeMap::from([("steady.p95_ms".to_owned(), Figure { median: 2.0, min: 1.0, max: 3.0 })]);
        let baseline = Baseline::new(&system, settings.clone(), figures);
        baseline.write(&path).unwrap();
        assert_eq!(Baseline::read(&path, "this").unwrap(), baseline);
        assert!(Baseline::read(&path, "that").unwrap_err().to_string().contains("machines like this"));
        assert!(baseline.check_settings(&settings, &path).is_ok());
        let other = BTreeMap::from([("rate".to_owned(), 20_000)]);
        assert!(baseline.check_settings(&other, &path).unwrap_err().to_string().contains("rate 10000, not 20000"));
        fs::write(&path, "{}").unwrap();
        assert!(Baseline::read(&path, "this").is_err());
    }
}
