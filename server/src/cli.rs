//! What was typed: flags, environment variables and a configuration file. What they mean is [`crate::config`]'s.

use crate::config_file::{self, ConfigFile};
use clap::builder::BoolishValueParser;
use clap::{ArgAction, ArgMatches, Args as Group, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// Takes log records over TCP, one JSON object per line, and acknowledges them once they are safe.
///
/// A flag beats its environment variable, which beats the configuration file, which beats the default. Exit codes: 0 drained, 1 could not run or had to
/// leave something undone, 2 usage, 130/143 ended at once by a second signal.
#[derive(Clone, Debug, Parser)]
#[command(name = "ringest-server", version, max_term_width = 120)]
pub struct Cli {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve.
    #[command(flatten)]
    pub serve: Args,
}

/// What to do with what was stored. Nothing is changed, and a server may be running.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Says of each segment what it holds and what state it is in.
    Inspect(Stored),
    /// Checks every byte; exit code 1, and a line for each finding, if one of them does not prove itself.
    Verify(Stored),
    /// Prints the records, and nothing else.
    Cat(Stored),
    /// Says of a running server which stage of a record's way costs, by how often it is passed and how long it takes.
    Top(Top),
}

/// Which server, and how often.
#[derive(Clone, Debug, Group)]
pub struct Top {
    /// Address of the server's admin listener.
    #[arg(long, env = "ADMIN_ADDR", value_name = "ADDR", default_value = "127.0.0.1:9088")]
    pub admin_addr: String,
    /// Shows the table once, of the time since the server's start.
    #[arg(long)]
    pub once: bool,
    /// Seconds between two tables, each of the time since the one before.
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    pub interval: u64,
}

/// Where segments are.
#[derive(Clone, Debug, Group)]
pub struct Stored {
    /// A log directory, the directory of one shard, or one segment file.
    #[arg(value_name = "DIR")]
    pub path: PathBuf,
}

/// How to serve.
#[derive(Clone, Debug, PartialEq, Eq, Group)]
pub struct Args {
    /// File of settings: keys are the long names of flags, like port = 9000; read again on SIGHUP.
    #[arg(long, env = "RINGEST_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address to listen on; anything wider than loopback is asked for here.
    #[arg(long, env = "SERVER_HOST", value_name = "HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 lets the kernel choose.
    #[arg(long, env = "SERVER_PORT", value_name = "PORT", default_value_t = 9000)]
    pub port: u16,
    /// Whether datagrams are taken too: lines as over TCP, without answers.
    #[arg(long, env = "ENABLE_UDP", value_name = "BOOL", default_value = "false",
          value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    pub udp: bool,
    /// Port for datagrams; 0 lets the kernel choose.
    #[arg(long, env = "UDP_PORT", value_name = "PORT", default_value_t = 9001)]
    pub udp_port: u16,
    /// Receive buffer of each shard's socket for datagrams; the kernel grants at most net.core.rmem_max.
    #[arg(long, env = "UDP_BUFFER_SIZE", value_name = "BYTES", default_value_t = 8 << 20)]
    pub udp_buffer_size: usize,
    /// Directory of the segments.
    #[arg(long, env = "LOG_DIR", value_name = "DIR", default_value = "./logs")]
    pub log_dir: PathBuf,
    /// How long to wait for another server that writes in the same directory to end; 0 does not wait.
    #[arg(long, env = "LOCK_WAIT", value_name = "TIME", default_value = "0")]
    pub lock_wait: String,
    /// Whether records are stored; without it they are checked, counted and dropped.
    #[arg(long, env = "ENABLE_PERSISTENCE", value_name = "BOOL", default_value = "true",
          value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    pub persistence: bool,
    /// What an acknowledgement promises: none, accepted, written or durable [default: durable].
    #[arg(long, env = "ACK", value_name = "LEVEL")]
    pub ack: Option<String>,
    /// Records below this level are acknowledged and not stored: TRACE, DEBUG, INFO, WARNING, ERROR or CRITICAL.
    #[arg(long, env = "MIN_LOG_LEVEL", value_name = "LEVEL", default_value = "DEBUG")]
    pub min_level: String,
    /// A batch with this many records is written as soon as a write may start.
    #[arg(long, env = "BATCH_SIZE", value_name = "RECORDS", default_value_t = 500)]
    pub batch_size: u32,
    /// A batch this old is written as soon as a write may start.
    #[arg(long, env = "BATCH_FLUSH_MS", value_name = "MS", default_value_t = 100)]
    pub batch_flush_ms: u64,
    /// Longest line, in bytes, without its ending.
    #[arg(long, env = "MAX_LINE", value_name = "BYTES", default_value_t = 256 << 10)]
    pub max_line: usize,
    /// Size of a segment file.
    #[arg(long, env = "SEGMENT_MIB", value_name = "MIB", default_value_t = 128)]
    pub segment_mib: u64,
    /// A segment that has been written to for this long is closed, also where it is not full; 0 is never.
    #[arg(long, env = "SEGMENT_AGE", value_name = "TIME", default_value = "0")]
    pub segment_age: String,
    /// Bytes of all segments together, beyond which the oldest are removed; 0 removes none.
    #[arg(long, env = "RETAIN_BYTES", value_name = "BYTES", default_value_t = 0)]
    pub retain_bytes: u64,
    /// How long after its last record a segment is removed: 12h, 30d; 0 is never.
    #[arg(long, env = "RETAIN_AGE", value_name = "TIME", default_value = "0")]
    pub retain_age: String,
    /// How segments are written: none, or gzip with one member per block, so that zcat gives the records.
    #[arg(long, env = "SEGMENT_COMPRESSION", value_name = "NAME", default_value = "none")]
    pub segment_compression: String,
    /// Kernel interface: uring, epoll, auto for uring where it works, or glommio for comparison.
    #[arg(long, env = "BACKEND", value_name = "NAME", default_value = "auto")]
    pub backend: String,
    /// Number of shards [default: one per core that may be used].
    #[arg(long, env = "SHARDS", value_name = "N")]
    pub shards: Option<u16>,
    /// Cores to pin the shards to, like 0-3,8 [default: those that may be used].
    #[arg(long = "cpu-list", env = "CPU_LIST", value_name = "LIST")]
    pub cpu_list: Option<String>,
    /// Leaves it to the scheduler where the shards run.
    #[arg(long, env = "NO_PIN", value_parser = BoolishValueParser::new())]
    pub no_pin: bool,
    /// Bytes of a receive buffer; each shard has 32 of them.
    #[arg(long, env = "BUFFER_SIZE", value_name = "BYTES", default_value_t = 64 << 10)]
    pub buffer_size: usize,
    /// Encryption, on the same port as plain text: off, allow (the first byte of a connection decides) or require.
    #[arg(long, env = "ENABLE_TLS", value_name = "MODE", default_value = "off")]
    pub tls: String,
    /// Directory of server.crt (certificate and chain) and server.key, both PEM; read again on SIGHUP.
    #[arg(long, env = "CERT_DIR", value_name = "DIR", default_value = "./certs")]
    pub cert_dir: PathBuf,
    /// Oldest TLS version that is spoken: 1.2 or 1.3.
    #[arg(long, env = "TLS_MIN", value_name = "VERSION", default_value = "1.3")]
    pub tls_min: String,
    /// Clients have to show a certificate that one of these CAs has signed (PEM); read again on SIGHUP.
    #[arg(long, env = "CLIENT_CA", value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
    /// Connections of the whole server [default: 16384, or what there are descriptors for].
    #[arg(long, env = "MAX_CONNECTIONS", value_name = "N")]
    pub max_connections: Option<usize>,
    /// Connections of one address: an IPv4 address or an IPv6 /64 [default: half of all].
    #[arg(long, env = "MAX_CONNECTIONS_PER_ADDRESS", value_name = "N")]
    pub max_connections_per_address: Option<usize>,
    /// Connections taken per second and shard; further ones wait in the kernel's queue. 0 takes them as they come.
    #[arg(long, env = "ACCEPT_RATE", value_name = "N", default_value_t = 4000)]
    pub accept_rate: u32,
    /// How long a connection may take for its first byte, a TLS handshake or a $hello; 0 is for ever.
    #[arg(long, env = "GREETING_TIMEOUT", value_name = "TIME", default_value = "10s")]
    pub greeting_timeout: String,
    /// How long a line may take that arrives at less than 4096 bytes per second; 0 is for ever.
    #[arg(long, env = "LINE_TIMEOUT", value_name = "TIME", default_value = "30s")]
    pub line_timeout: String,
    /// How long a connection may be without a whole line; 0 is for ever.
    #[arg(long, env = "IDLE_TIMEOUT", value_name = "TIME", default_value = "1h")]
    pub idle_timeout: String,
    /// How long a session may take none of its answers; 0 is for ever.
    #[arg(long, env = "SEND_TIMEOUT", value_name = "TIME", default_value = "30s")]
    pub send_timeout: String,
    /// File with the token that a $hello has to show, or two of them, one per line; without one nobody is asked.
    #[arg(long, env = "TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Whether a connection is refused for a while, unread, whose lines are mostly bad: half of at least 100 in a minute.
    #[arg(long, env = "CIRCUIT_BREAKER_ENABLED", value_name = "BOOL", default_value = "false",
          value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    pub circuit_breaker: bool,
    /// How long a stop may take before what is left is given up: 10s, 500ms, 2m; 0 gives up at once.
    #[arg(long, env = "DRAIN_DEADLINE", value_name = "TIME", default_value = "10s")]
    pub drain_deadline: String,
    /// Traces batches, and sends the traces to this collector by OTLP over HTTP, like http://127.0.0.1:4318. Only in builds
    /// with the feature otlp.
    #[arg(long, env = "OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// Part of the batches that is traced, from 0 to 1.
    #[arg(long, env = "OTLP_SAMPLE", value_name = "PART", default_value = "0.01")]
    pub otlp_sample: String,
    /// Address for metrics, health, profiles and a live page, over HTTP; none has no such listener.
    #[arg(long, env = "ADMIN_ADDR", value_name = "ADDR", default_value = "127.0.0.1:9088")]
    pub admin_addr: String,
    /// File to write the bound address and the process id to once connections are taken; removed at the end.
    #[arg(long, env = "READY_FILE", value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Prints what all of this comes to, as JSON, and ends.
    #[arg(long)]
    pub print_config: bool,
}

impl Args {
    /// These, with what of others may change while a server runs.
    pub fn changed_to(&self, others: &Args) -> Args {
        let others = others.clone();
        Args {
            min_level: others.min_level,
            batch_size: others.batch_size,
            batch_flush_ms: others.batch_flush_ms,
            segment_age: others.segment_age,
            retain_bytes: others.retain_bytes,
            retain_age: others.retain_age,
            cert_dir: others.cert_dir,
            tls_min: others.tls_min,
            client_ca: others.client_ca,
            max_connections: others.max_connections,
            max_connections_per_address: others.max_connections_per_address,
            accept_rate: others.accept_rate,
            greeting_timeout: others.greeting_timeout,
            line_timeout: others.line_timeout,
            idle_timeout: others.idle_timeout,
            send_timeout: others.send_timeout,
            circuit_breaker: others.circuit_breaker,
            drain_deadline: others.drain_deadline,
            ..self.clone()
        }
    }
}

/// The flags that [`Args::changed_to`] takes over.
const CHANGEABLE: [&str; 18] = [
    "min-level",
    "batch-size",
    "batch-flush-ms",
    "segment-age",
    "retain-bytes",
    "retain-age",
    "cert-dir",
    "tls-min",
    "client-ca",
    "max-connections",
    "max-connections-per-address",
    "accept-rate",
    "greeting-timeout",
    "line-timeout",
    "idle-timeout",
    "send-timeout",
    "circuit-breaker",
    "drain-deadline",
];

/// Everything that was typed, wherever that was.
#[derive(Clone, Debug)]
pub struct Typed {
    /// What it comes to.
    pub cli: Cli,
    matches: ArgMatches,
    file: Option<ConfigFile>,
}

impl Typed {
    /// Reads a command line, the environment, and the file that they name. A command line that makes no sense, or asks
    /// for help, ends the process here.
    ///
    /// # Errors
    /// What is wrong with the file: a sentence.
    pub fn read(words: &[OsString]) -> Result<Typed, String> {
        let matches = Cli::command().get_matches_from(words);
        let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        let Some(path) = cli.serve.config.as_deref().filter(|_| cli.command.is_none()) else {
            return Ok(Typed { cli, matches, file: None });
        };
        let file = ConfigFile::read(path, &Cli::command())?;
        let matches = file.apply(Cli::command()).get_matches_from(words);
        let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        Ok(Typed { cli, matches, file: Some(file) })
    }

    /// What differs and may change while a server runs: `min-level is INFO`.
    pub fn changeable_differences(&self, new: &Typed) -> Vec<String> {
        let changes = self.differences(new).filter(|(flag, ..)| CHANGEABLE.contains(&flag.as_str()));
        changes.map(|(flag, _, new)| format!("{flag} is {new}")).collect()
    }

    /// What differs and may not: `port stays 9000 instead of 9001`.
    pub fn fixed_differences(&self, new: &Typed) -> Vec<String> {
        let changes = self.differences(new).filter(|(flag, ..)| !CHANGEABLE.contains(&flag.as_str()));
        changes.map(|(flag, old, new)| format!("{flag} stays {old} instead of {new}")).collect()
    }

    /// Flag, what it was, what it is.
    fn differences(&self, new: &Typed) -> impl Iterator<Item = (String, String, String)> {
        let said = |typed: &Typed, id: &str| {
            let raw = typed.matches.get_raw(id).and_then(|mut values| values.next());
            raw.map_or_else(|| "not set".to_owned(), |value| value.to_string_lossy().into_owned())
        };
        let command = Cli::command();
        let flags = config_file::keys(&command).filter_map(|arg| Some((arg.get_id().as_str(), arg.get_long()?)));
        let values = flags.map(|(id, flag)| (flag.to_owned(), said(self, id), said(new, id)));
        values.filter(|(_, old, new)| old != new).collect::<Vec<_>>().into_iter()
    }

    /// Adds to a refusal where in the file its cause is written, if it is.
    pub fn locate(&self, refusal: String) -> String {
        match &self.file {
            Some(file) => file.locate(refusal, &self.matches),
            None => refusal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_that_configures_has_an_environment_variable() {
        for arg in Cli::command().get_arguments() {
            let name = arg.get_id().as_str();
            let is_action = ["print_config", "help", "version"].contains(&name);
            assert_eq!(arg.get_env().is_none(), is_action, "{name}");
        }
    }

    #[test]
    fn what_may_change_while_a_server_runs_is_taken_over_and_nothing_else_is() {
        let usual = Typed::read(&["ringest-server".into()]).unwrap();
        let command = Cli::command();
        for arg in config_file::keys(&command) {
            let flag = arg.get_long().unwrap();
            let value = if arg.get_possible_values().is_empty() { "7" } else { "true" };
            let value =
                if arg.get_default_values().first().is_some_and(|usual| usual == value) { "false" } else { value };
            let word = if arg.get_action().takes_values() { format!("--{flag}={value}") } else { format!("--{flag}") };
            let other = Typed::read(&["ringest-server".into(), word.into()]).unwrap();
            let taken = usual.cli.serve.changed_to(&other.cli.serve);
            let may_change = CHANGEABLE.contains(&flag);
            assert_eq!(taken == other.cli.serve, may_change, "{flag}");
            assert_eq!(taken == usual.cli.serve, !may_change, "{flag}");
            let (changes, fixed) = (usual.changeable_differences(&other), usual.fixed_differences(&other));
            assert_eq!((changes.len(), fixed.len()), if may_change { (1, 0) } else { (0, 1) }, "{flag}");
            assert!(changes.iter().chain(&fixed).all(|said| said.starts_with(flag)), "{changes:?} {fixed:?}");
        }
    }

    #[test]
    fn a_command_needs_no_flags_and_a_server_no_command() {
        assert!(Cli::try_parse_from(["ringest-server"]).unwrap().command.is_none());
        let cli = Cli::try_parse_from(["ringest-server", "cat", "logs"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Cat(Stored { path })) if path.as_os_str() == "logs"));
    }
}
