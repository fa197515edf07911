//! What a run leaves in files: opened together before it begins, fed while it runs, finished when it ends.
//!
//! It decides which bytes go where, and measures nothing. A file that fails during the run does not end it: the first
//! failure is told afterwards.

use crate::config::Config;
use crate::output::Output;
use crate::run::Finished;
use crate::timeline::Second;
use serde::Serialize;
use std::path::PathBuf;

/// Where the files of a run go; `-` is standard output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The report.
    pub json: Option<PathBuf>,
    /// One row per second.
    pub series: Option<PathBuf>,
}

impl Places {
    /// Every file by the flag that named it.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        let all = [("--json", &self.json), ("--series", &self.series)];
        all.into_iter().filter_map(|(flag, path)| Some((flag, path.as_ref()?)))
    }
}

/// The files of a run.
#[derive(Debug)]
pub struct Records {
    run_id: String,
    target_per_s: Option<f64>,
    json: Option<Output>,
    series: Option<Output>,
    trouble: Option<String>,
}

impl Records {
    /// Opens all of them.
    ///
    /// # Errors
    /// A sentence that names the one that cannot be written.
    pub fn open(config: &Config) -> Result<Records, String> {
        let open = |path: &Option<PathBuf>| path.as_deref().map(Output::open).transpose();
        Ok(Records {
            run_id: format!("{:08x}", config.run),
            target_per_s: config.target_per_s(),
            json: open(&config.places.json)?,
            series: open(&config.places.series)?,
            trouble: None,
        })
    }

    /// Takes a second that is over.
    pub fn see(&mut self, second: &Second) {
        if let Some(series) = &mut self.series {
            let row = second.row(&self.run_id, self.target_per_s);
            let mut line = serde_json::to_vec(&row).expect("a row is always JSON");
            line.push(b'\n');
            if let Err(why) = series.append(&line) {
                self.series = None;
                self.trouble.get_or_insert(why);
            }
        }
    }

    /// Writes what is known when a run has ended, one file's failure not keeping the others from being written.
    ///
    /// # Errors
    /// A sentence about the first file that could not be written, now or before.
    pub fn finish(self, finished: &Finished) -> Result<(), String> {
        let written = self.json.map_or(Ok(()), |mut json| json.append(&json_bytes(&finished.report)));
        self.trouble.map_or(Ok(()), Err).and(written)
    }
}

/// A value as a file of JSON that people can read, too.
pub fn json_bytes(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("what is derived is always JSON");
    text.push(b'\n');
    text
}
