//! What was typed: flags, environment variables and a configuration file. What they mean is [`crate::config`]'s.

use crate::config_file::ConfigFile;
use clap::builder::BoolishValueParser;
use clap::{ArgAction, ArgMatches, Args as Group, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// Takes log records over TCP, one JSON object per line, and acknowledges them once they are safe.
///
/// A flag beats its environment variable, which beats the configuration file, which beats the default. Exit codes: 0 drained, 1 could not run or had to
/// leave something undone, 2 usage, 130/143 ended at once by a second signal.
#[derive(Debug, Parser)]
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
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Says of each segment what it holds and what state it is in.
    Inspect(Stored),
    /// Checks every byte; exit code 1, and a line for each finding, if one of them does not prove itself.
    Verify(Stored),
    /// Prints the records, and nothing else.
    Cat(Stored),
}

/// Where segments are.
#[derive(Debug, Group)]
pub struct Stored {
    /// A log directory, the directory of one shard, or one segment file.
    #[arg(value_name = "DIR")]
    pub path: PathBuf,
}

/// How to serve.
#[derive(Clone, Debug, Group)]
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
    /// How segments are written: none, or gzip with one member per block, so that zcat gives the records.
    #[arg(long, env = "SEGMENT_COMPRESSION", value_name = "NAME", default_value = "none")]
    pub segment_compression: String,
    /// Kernel interface: uring, epoll, or auto for uring where it works.
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
    /// How long a stop may take before what is left is given up: 10s, 500ms, 2m.
    #[arg(long, env = "DRAIN_DEADLINE", value_name = "TIME", default_value = "10s")]
    pub drain_deadline: String,
    /// File to write the bound address and the process id to once connections are taken; removed at the end.
    #[arg(long, env = "READY_FILE", value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Prints what all of this comes to, as JSON, and ends.
    #[arg(long)]
    pub print_config: bool,
}

/// Everything that was typed, wherever that was.
#[derive(Debug)]
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
    fn a_command_needs_no_flags_and_a_server_no_command() {
        assert!(Cli::try_parse_from(["ringest-server"]).unwrap().command.is_none());
        let cli = Cli::try_parse_from(["ringest-server", "cat", "logs"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Cat(Stored { path })) if path.as_os_str() == "logs"));
    }
}
