//! What can be typed.

use crate::floor::{Backend, Writing};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Measures Ringest.
///
/// Exit codes: 0 pass, 1 could not run, 2 usage, 3 a bound was missed.
#[derive(Debug, Parser)]
#[command(name = "ringest-bench", version)]
pub struct Cli {
    /// What to measure.
    #[command(subcommand)]
    pub command: Command,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The parts of a record's path in memory: ns, allocations and bytes copied per record.
    Micro(Micro),
    /// The least a server could cost: receives and writes, and ends by itself.
    Floor(Floor),
    /// Sends lines as cheaply as possible, for the floor and the server alike.
    Flood(Flood),
    /// The server on one core beside the floor, interleaved, with a verdict per promised bound.
    OneCore(OneCore),
}

/// Cases and how to run them.
#[derive(Debug, Args)]
pub struct Micro {
    /// Cases, by the beginning of their names, like parse/flat or pipeline [default: all].
    #[arg(value_name = "CASE")]
    pub cases: Vec<String>,
    /// The processor to run on [default: not pinned].
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Runs per case; an unmeasured one goes before them.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Length of one run in milliseconds.
    #[arg(long, default_value_t = 100)]
    pub run_ms: u64,
    /// The figures as JSON; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// How the floor runs.
#[derive(Debug, Args)]
pub struct Floor {
    /// Port on the loopback address; 0 lets the kernel choose.
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// The processor to run on [default: not pinned].
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Where to write; what is written is removed at the end.
    #[arg(long)]
    pub dir: PathBuf,
    /// Length of the window.
    #[arg(long, default_value_t = 1.5)]
    pub seconds: f64,
    /// Time between the first bytes and the window.
    #[arg(long, default_value_t = 0.5)]
    pub warm_up: f64,
    /// How to receive.
    #[arg(long, value_enum, default_value = "uring")]
    pub backend: Backend,
    /// How to write.
    #[arg(long, value_enum, default_value = "buffered")]
    pub write: Writing,
    /// Mean length of a record, by which bytes are counted as records.
    #[arg(long, default_value_t = crate::lines::FLAT_LEN)]
    pub record_size: usize,
}

/// How to send.
#[derive(Debug, Args)]
pub struct Flood {
    /// Port on the loopback address.
    #[arg(long)]
    pub port: u16,
    /// The processor to run on [default: not pinned].
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Connections.
    #[arg(short, long, default_value_t = 50)]
    pub connections: usize,
    /// Mean length of a line, its newline included.
    #[arg(long, default_value_t = crate::lines::FLAT_LEN)]
    pub record_size: usize,
    /// Unanswered lines per connection at most; 0 expects no answers, as from the floor.
    #[arg(short, long, default_value_t = 0)]
    pub pipeline: u64,
    /// Length of the window.
    #[arg(long, default_value_t = 1.5)]
    pub seconds: f64,
    /// Time before it.
    #[arg(long, default_value_t = 0.5)]
    pub warm_up: f64,
}

/// What is compared, and how long.
#[derive(Debug, Args)]
pub struct OneCore {
    /// The server.
    #[arg(long, value_name = "BINARY")]
    pub server: PathBuf,
    /// The generator, for latencies.
    #[arg(long, value_name = "BINARY")]
    pub loadgen: PathBuf,
    /// The server's processor.
    #[arg(long, default_value_t = 0)]
    pub server_cpu: usize,
    /// The generator's.
    #[arg(long, default_value_t = 1)]
    pub generator_cpu: usize,
    /// Where segments go: a real file system, not tmpfs [default: beside this binary].
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Rounds; every case runs once in each.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Length of a window in seconds.
    #[arg(long, default_value_t = 1.5)]
    pub window: f64,
    /// Time before it in seconds.
    #[arg(long, default_value_t = 0.5)]
    pub warm_up: f64,
    /// Connections.
    #[arg(short, long, default_value_t = 50)]
    pub connections: usize,
    /// Unanswered lines per connection at most.
    #[arg(short, long, default_value_t = 2048)]
    pub pipeline: u64,
    /// Mean length of a line, its newline included.
    #[arg(long, default_value_t = crate::lines::FLAT_LEN)]
    pub record_size: usize,
    /// Idle connections whose memory is measured.
    #[arg(long, default_value_t = 2000)]
    pub idle: usize,
    /// Of the order within the rounds.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Only cases whose names contain one of these.
    #[arg(long, value_name = "CASE")]
    pub only: Vec<String>,
    /// Exit code 0 even if a bound is missed.
    #[arg(long)]
    pub report_only: bool,
    /// The figures as JSON; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl Micro {
    /// Length of one run.
    pub fn span(&self) -> Duration {
        Duration::from_millis(self.run_ms)
    }
}

impl OneCore {
    /// Length of a window.
    pub fn window(&self) -> Duration {
        Duration::from_secs_f64(self.window)
    }

    /// Time before it.
    pub fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.warm_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
