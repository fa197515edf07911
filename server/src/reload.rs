//! What a running server takes over when its files are read again: all of it, or nothing.
//!
//! Whoever is connected goes on, with the certificates and the token that it began with. What cannot change while the
//! server runs is named, and stays; everything else holds once the shards have heard of it.

use crate::cli::Typed;
use crate::config::{Config, Machine};
use crate::notice;
use crate::storage::KeeperHandle;
use crate::token;
use crate::worker::Worker;
use ringest_ingest::{Door, Settings, Tokens};
use std::ffi::OsString;
use std::sync::Arc;

/// What was typed at the start and since, and what it comes to.
#[derive(Debug)]
pub struct Standing {
    /// The command line: it cannot change, but it beats the file, whatever that says.
    words: Vec<OsString>,
    first: Typed,
    last: Typed,
    config: Config,
}

/// Something else to go by, complete and checked.
struct Change {
    typed: Typed,
    config: Config,
    tokens: Option<Tokens>,
}

impl Standing {
    /// What the server has started with.
    pub fn new(words: Vec<OsString>, typed: Typed, config: Config) -> Standing {
        Standing { words, first: typed.clone(), last: typed, config }
    }

    /// What holds now.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Reads everything again, and takes it over if all of it can be used. Says what came of it.
    pub fn reload(&mut self, workers: &[Worker], door: &Door, keeper: &KeeperHandle) {
        if self.config.tls.is_none() && self.config.token_file.is_none() && self.config.config_file.is_none() {
            return notice!(
                "SIGHUP is ignored: without a configuration file, TLS and tokens there is nothing to read again"
            );
        }
        match self.read() {
            Ok(change) => self.take_over(change, workers, door, keeper),
            Err(reason) => notice!("SIGHUP: what was read before stays in use: {reason}"),
        }
    }

    fn read(&self) -> Result<Change, String> {
        let typed = Typed::read(&self.words)?;
        let resolve = |args| {
            let resolved = Machine::here().and_then(|machine| Config::resolve(args, &machine));
            resolved.map_err(|refusal| typed.locate(refusal.to_string()))
        };
        // The file as it is has to be one that a server could be started with; what of it holds is another question.
        resolve(&typed.cli.serve)?;
        let config = resolve(&self.first.cli.serve.changed_to(&typed.cli.serve))?;
        let tokens = config.token_file.as_deref().map(token::read).transpose().map_err(|err| err.to_string())?;
        Ok(Change { typed, config, tokens })
    }

    fn take_over(&mut self, change: Change, workers: &[Worker], door: &Door, keeper: &KeeperHandle) {
        let Change { typed, config, tokens } = change;
        for fixed in self.first.fixed_differences(&typed) {
            notice!("SIGHUP: {fixed}: this cannot change while the server runs; restart it");
        }
        let news = config.notices.iter().filter(|sentence| !self.config.notices.contains(sentence));
        news.for_each(|sentence| notice!("{sentence}"));

        if let Some(tokens) = tokens {
            let said = tokens.to_string();
            door.change_tokens(tokens);
            notice!("read again: {said}");
        }
        if let Some((_, identity)) = &config.tls {
            workers.iter().for_each(|worker| worker.set_tls(identity.config.clone()));
            notice!("read again: {identity}");
        }
        door.change_limits(&config.limits);
        let settings = Arc::new(Settings { limits: config.limits.clone(), min_level: config.min_level });
        workers.iter().for_each(|worker| worker.set(settings.clone()));
        if let Some(dir) = &config.log_dir {
            keeper.retain(dir.clone(), config.retention);
        }
        if let Some(path) = &config.config_file {
            let changes = self.last.changeable_differences(&typed);
            let what = if changes.is_empty() { "nothing has changed".to_owned() } else { changes.join(", ") };
            notice!("read again: {}: {what}", path.display());
        }
        (self.last, self.config) = (typed, config);
    }
}
