//! The configuration file: flags by their long names, for those who would rather not type them.
//!
//! It knows no flag: which there are, and what kind of value each takes, is asked of the command line's own definition,
//! so that a new flag is a key by itself. What a value means, and whether it can be had, is said where flags are
//! understood, once for all the places in which one may write it.

use crate::small_file;
use clap::error::ContextKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use std::any::TypeId;
use std::error::Error;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A file that was read: what it says is of the right kind, and nothing more is known of it.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    path: PathBuf,
    entries: Vec<Entry>,
}

/// One line of it.
#[derive(Clone, Debug)]
struct Entry {
    /// The flag, as the command line's definition names it.
    id: String,
    key: String,
    line: usize,
    /// The value as one would type it behind the flag.
    text: String,
    /// The flag's environment variable: refusals go by that.
    variable: String,
}

/// What kind of value a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Number,
    Truth,
    Text,
}

impl ConfigFile {
    /// Reads a file of `key = value` lines, in TOML. Keys are what [`keys`] says of the command.
    ///
    /// # Errors
    /// A sentence that names the file, the line, the key, and what should be there.
    pub fn read(path: &Path, command: &Command) -> Result<ConfigFile, String> {
        let text = small_file::read_text(path, FILE_LEN_MAX)
            .map_err(|err| format!("{CONFIG_VARIABLE} {}: {err}", path.display()))?;
        let entries = parse(&text, command).map_err(|(line, why)| format!("{}, line {line}: {why}", path.display()))?;
        Ok(ConfigFile { path: path.into(), entries })
    }

    /// The command with what the file says in place of its defaults: so a flag and a variable beat it, as they do those.
    pub fn apply(&self, command: Command) -> Command {
        self.entries
            .iter()
            .fold(command, |command, entry| command.mut_arg(&entry.id, |arg| arg.default_value(entry.text.clone())))
    }

    /// Adds to a refusal where in the file that is written which it refuses, if it is written there.
    pub fn locate(&self, refusal: String, matches: &ArgMatches) -> String {
        let is_word = |char: char| char.is_ascii_alphanumeric() || char == '_';
        let is_refused = |entry: &&Entry| refusal.split(|char| !is_word(char)).any(|word| word == entry.variable);
        let is_from_here = |entry: &&Entry| matches.value_source(&entry.id) == Some(ValueSource::DefaultValue);
        match self.entries.iter().filter(is_from_here).find(is_refused) {
            Some(Entry { key, line, .. }) => format!("{refusal} ({key} in {}, line {line})", self.path.display()),
            None => refusal,
        }
    }
}

/// The flags that a file may set: all that configure. What ends the program instead of that, and what names the file, is
/// typed.
pub fn keys(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| arg.get_env().is_some_and(|variable| variable != CONFIG_VARIABLE))
}

fn parse(text: &str, command: &Command) -> Result<Vec<Entry>, (usize, String)> {
    let line_of = |at: usize| text[..at].matches('\n').count() + 1;
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        (line_of(at), error.message().to_owned())
    })?;
    // As they are written, so that the first mistake is the one that is told.
    let mut pairs: Vec<_> = table.get_ref().iter().collect();
    pairs.sort_by_key(|(key, _)| key.span().start);
    let mut entries = Vec::new();
    for (key, value) in pairs {
        let line = line_of(key.span().start);
        entries.push(entry(key.get_ref(), value, line, command).map_err(|why| (line, why))?);
    }
    Ok(entries)
}

fn entry(key: &str, value: &Spanned<DeValue<'_>>, line: usize, command: &Command) -> Result<Entry, String> {
    let Some(arg) = keys(command).find(|arg| arg.get_long() == Some(key)) else {
        return Err(unknown(key, value.get_ref(), command));
    };
    let text = match (Kind::of(arg), value.get_ref()) {
        (Kind::Number, DeValue::Integer(number)) if number.radix() == 10 => number.as_str().replace('_', ""),
        (Kind::Truth, DeValue::Boolean(truth)) => truth.to_string(),
        (Kind::Text, DeValue::String(text)) => text.as_ref().to_owned(),
        (kind, found) => {
            let example = kind.example(arg);
            return Err(format!("{key} is {}, and {} is expected, like {key} = {example}", a(found), kind.name()));
        }
    };
    // By the flag's own parser, alone: what it refuses here would be refused behind the flag.
    let trial = Command::new("trial").no_binary_name(true).arg(arg.clone().env(None::<&'static str>));
    let is_refused = trial.try_get_matches_from(typed(arg, key, &text)).err();
    if let Some(error) = is_refused {
        let why = error.source().map_or_else(|| "it is no such value".to_owned(), ToString::to_string);
        return Err(format!("{key} = {text}: {why}"));
    }
    let variable = arg.get_env().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    Ok(Entry { id: arg.get_id().to_string(), key: key.into(), line, text, variable })
}

/// A flag with its value; one that takes none is there, or not.
fn typed(arg: &Arg, key: &str, text: &str) -> Vec<String> {
    match (arg.get_action().takes_values(), text) {
        (true, _) => vec![format!("--{key}={text}")],
        (false, "true") => vec![format!("--{key}")],
        (false, _) => Vec::new(),
    }
}

/// The command line is asked which of its flags looks most like that.
fn unknown(key: &str, value: &DeValue<'_>, command: &Command) -> String {
    if value.is_table() {
        return format!("[{key}]: there are no sections; keys are the names of flags, without the dashes before them");
    }
    let written = keys(command).fold(Command::new("keys").no_binary_name(true), |all, arg| all.arg(arg.clone()));
    if key.is_empty() {
        return "a key is empty".into();
    }
    // With a dash in place of each underscore, which is how most mistakes are made.
    let guess = key.replace('_', "-");
    let nearest = match written.try_get_matches_from([format!("--{guess}")]) {
        Err(error) => match error.get(ContextKind::SuggestedArg) {
            Some(suggested) => Some(suggested.to_string().trim_start_matches("--").to_owned()),
            None => keys(command).filter_map(Arg::get_long).find(|long| *long == guess).map(str::to_owned),
        },
        Ok(_) => Some(guess),
    };
    match nearest {
        Some(nearest) => format!("there is no key \"{key}\"; did you mean \"{nearest}\"?"),
        None => format!("there is no key \"{key}\"; keys are the names of flags, as ringest-server --help shows them"),
    }
}

impl Kind {
    fn of(arg: &Arg) -> Kind {
        let parsed = arg.get_value_parser().type_id();
        let numbers = [TypeId::of::<u16>(), TypeId::of::<u32>(), TypeId::of::<u64>(), TypeId::of::<usize>()];
        match () {
            () if numbers.iter().any(|number| parsed == *number) => Kind::Number,
            () if parsed == TypeId::of::<bool>() => Kind::Truth,
            () => Kind::Text,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Number => "a whole number",
            Kind::Truth => "true or false",
            Kind::Text => "a string",
        }
    }

    fn example(self, arg: &Arg) -> String {
        let usual = arg.get_default_values().first().and_then(|value| value.to_str());
        match self {
            Kind::Number => usual.unwrap_or("1").to_owned(),
            Kind::Truth => "true".to_owned(),
            Kind::Text => format!("\"{}\"", usual.unwrap_or("...")),
        }
    }
}

/// What was found, with its article.
fn a(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(number) if number.radix() == 10 => "a whole number",
        DeValue::Integer(_) => "a number that is not decimal",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

/// Names the file, so it cannot stand in it.
const CONFIG_VARIABLE: &str = "RINGEST_CONFIG";
/// Every flag with a page of comment has less.
const FILE_LEN_MAX: u64 = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;
    use std::fs;
    use std::path::PathBuf;

    fn read(text: &str) -> Result<ConfigFile, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ringest.toml");
        fs::write(&path, text).unwrap();
        ConfigFile::read(&path, &Cli::command()).map_err(|why| why.replace(&format!("{}/", dir.path().display()), ""))
    }

    #[test]
    fn every_flag_but_those_that_end_the_program_is_a_key_of_a_known_kind() {
        let command = Cli::command();
        for arg in command.get_arguments() {
            let long = arg.get_long().expect("every flag has a long name");
            let is_key = keys(&command).any(|key| key.get_id() == arg.get_id());
            assert_eq!(is_key, !["config", "print-config", "help", "version"].contains(&long), "{long}");
            if !is_key {
                continue;
            }
            let parsed = arg.get_value_parser().type_id();
            let is_text = parsed == TypeId::of::<String>() || parsed == TypeId::of::<PathBuf>();
            assert_eq!(Kind::of(arg) == Kind::Text, is_text, "{long} is of a kind that files do not know");
            // As a file would have it, and back from there: what the flag takes, the key takes.
            let value = match Kind::of(arg) {
                Kind::Number => "7",
                Kind::Truth => "true",
                Kind::Text => "\"x\"",
            };
            let file = read(&format!("{long} = {value}\n")).unwrap();
            let matches = file.apply(Cli::command()).try_get_matches_from(["ringest-server"]).unwrap();
            let taken = matches.get_raw(arg.get_id().as_str()).unwrap().next().unwrap();
            assert_eq!(taken.to_str().unwrap(), value.trim_matches('"'), "{long}");
        }
    }

    #[test]
    fn a_key_that_does_not_exist_is_named_with_its_line_and_the_nearest_one() {
        for (text, words) in [
            (
                "port = 1\nbatch_size = 3\n",
                "ringest.toml, line 2: there is no key \"batch_size\"; did you mean \"batch-size\"?",
            ),
            ("segmnt-mib = 3", "line 1: there is no key \"segmnt-mib\"; did you mean \"segment-mib\"?"),
            ("hots = \"::1\"", "did you mean \"host\"?"),
            ("\n\nzzz = 1", "line 3: there is no key \"zzz\"; keys are the names of flags"),
            ("config = \"other.toml\"", "there is no key \"config\""),
            ("\"\" = 1", "line 1: a key is empty"),
            ("print-config = true", "there is no key \"print-config\""),
            ("[server]\nport = 1", "line 1: [server]: there are no sections"),
        ] {
            let why = read(text).unwrap_err();
            assert!(why.contains(words), "{text}: {why}");
        }
    }

    #[test]
    fn a_value_of_another_kind_is_named_with_its_key_its_line_and_what_was_expected() {
        for (text, words) in [
            ("port = \"9000\"", "line 1: port is a string, and a whole number is expected, like port = 9000"),
            ("# first\nudp = 1", "line 2: udp is a whole number, and true or false is expected, like udp = true"),
            ("tls-min = 1.3", "tls-min is a fraction, and a string is expected, like tls-min = \"1.3\""),
            ("cpu-list = [0, 1]", "cpu-list is a list, and a string is expected"),
            ("port = 0x10", "port is a number that is not decimal"),
            ("port = 70000", "line 1: port = 70000: 70000 is not in 0..=65535"),
            ("batch-size = -1", "batch-size = -1: "),
            ("port = 1\nport = 2", "line 2: duplicate key"),
            ("port 9000", "line 1: "),
            ("host = \"unfinished", "line 1: "),
        ] {
            let why = read(text).unwrap_err();
            assert!(why.contains(words), "{text}: {why}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let why = ConfigFile::read(Path::new("/nowhere/ringest.toml"), &Cli::command()).unwrap_err();
        assert!(why.contains("RINGEST_CONFIG /nowhere/ringest.toml: No such file"), "{why}");
    }

    #[test]
    fn a_refusal_says_where_in_the_file_its_cause_is_written_unless_that_was_overridden() {
        let file = read("port = 1\nbatch-size = 0\n").unwrap();
        let matches = |words: &[&str]| {
            let words = ["ringest-server"].iter().chain(words);
            file.apply(Cli::command()).try_get_matches_from(words).unwrap()
        };
        let located = file.locate("BATCH_SIZE=0: a batch has".into(), &matches(&[]));
        assert!(located.ends_with("(batch-size in ringest.toml, line 2)") || located.contains("line 2)"), "{located}");
        let typed = file.locate("BATCH_SIZE=0: a batch has".into(), &matches(&["--batch-size", "0"]));
        assert_eq!(typed, "BATCH_SIZE=0: a batch has");
        assert_eq!(file.locate("SHARDS=0".into(), &matches(&[])), "SHARDS=0");
    }
}
