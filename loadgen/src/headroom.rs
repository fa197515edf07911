//! How much more the generator could have done: the same flags once more, for a second, against a sink in this process.
//!
//! An open loop then has no times to keep, so that its rate is what the generator is able to and not what it was asked
//! for. The sink gets the processors that the workers leave; where they leave none it takes of theirs, and the figure is
//! the least that it could be.

use crate::config::{Asked, Config};
use crate::io::Engine;
use crate::law::RATE_MAX;
use crate::run;
use crate::schedule::Pace;
use crate::sink::{Known, Sink};
use ringest_sys::signal::{Signal, Signals};
use ringest_sys::{cpu, net};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// What the generator reaches against a sink, over what it reached.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Headroom {
    /// The rate against the sink over the rate of the run.
    pub ratio: f64,
    /// Lines per second against the sink.
    pub sink_per_s: f64,
    /// Whether the ratio is at least 1.5: below that, what was measured may be the generator's own limit.
    pub is_enough: bool,
    /// Whether the sink had a processor of its own.
    pub is_undisturbed: bool,
}

impl Headroom {
    /// Runs against a sink what has just run at `run_per_s`.
    ///
    /// # Errors
    /// A sentence, where that could not be done, and the signal that it was given up for.
    pub fn measure(config: &Config, engine: Engine, signals: &Signals, run_per_s: f64) -> Result<Headroom, Unmeasured> {
        let places = Places::of(config);
        let sinks = match config.datagram_len_max {
            None => Sinks::start(engine, &places),
            Some(_) => Sinks::start_udp(),
        };
        let sinks = sinks.map_err(|error| Unmeasured::because(&format!("no sink: {error}")))?;
        let config = Config {
            host: sinks.addr.ip().to_string(),
            port: sinks.addr.port(),
            // More than a processor sends. At even distances: chance has to be drawn for every line that is owed, sent or not.
            pace: config.pace.map(|_| Pace::fixed(RATE_MAX)),
            lines: None,
            duration: Some(SPAN),
            drain: DRAIN,
            warm_up: None,
            in_flight_max: None,
            habits: Asked::default(),
            ledger: None,
            headroom: false,
            slo_p99: None,
            late_share_max: 1.0,
            ..config.clone()
        };
        let finished = run::run(&config, engine, signals, &mut |_| {}).map_err(|why| Unmeasured::because(&why))?;
        drop(sinks);
        if finished.signal.is_some() {
            return Err(Unmeasured { signal: finished.signal, ..Unmeasured::because("interrupted") });
        }
        if let Some(complaint) = finished.report.verification.complaints.first() {
            return Err(Unmeasured::because(complaint));
        }
        let sink_per_s = finished.report.tests[0].results.throughput_per_s;
        if sink_per_s == 0.0 || run_per_s == 0.0 {
            return Err(Unmeasured::because("no line was answered"));
        }
        let ratio = sink_per_s / run_per_s;
        Ok(Headroom { ratio, sink_per_s, is_enough: ratio >= ENOUGH, is_undisturbed: places.is_undisturbed })
    }
}

/// Why there is no figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmeasured {
    /// A sentence.
    pub why: String,
    /// Where somebody wanted an end.
    pub signal: Option<Signal>,
}

impl Unmeasured {
    fn because(why: &str) -> Unmeasured {
        Unmeasured { why: format!("the headroom was not measured: {why}"), signal: None }
    }
}

impl fmt::Display for Headroom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Headroom { ratio, sink_per_s, is_enough, is_undisturbed } = *self;
        write!(f, "{ratio:.2} times: {sink_per_s:.0} records/s against a sink that stores nothing")?;
        if !is_undisturbed {
            f.write_str(", on the workers' own processors")?;
        }
        if !is_enough {
            write!(f, "; below {ENOUGH}, so this run may have met the generator's limit and not the server's")?;
        }
        Ok(())
    }
}

/// Where the sink's threads run.
struct Places {
    /// A thread each; none is pinned where the workers are not.
    cpus: Vec<Option<usize>>,
    is_undisturbed: bool,
}

impl Places {
    fn of(config: &Config) -> Places {
        let allowed = cpu::allowed().map(|list| list.as_slice().to_vec()).unwrap_or_default();
        let workers = config.workers as usize;
        let Some(taken) = &config.cpus else {
            let left = allowed.len().saturating_sub(workers);
            return Places { cpus: vec![None; left.clamp(1, workers)], is_undisturbed: left > 0 };
        };
        let free = allowed.iter().filter(|cpu| !taken.as_slice().contains(cpu)).map(|cpu| Some(*cpu));
        let cpus: Vec<Option<usize>> = free.take(workers).collect();
        match cpus.is_empty() {
            true => Places { cpus: vec![None], is_undisturbed: false },
            false => Places { cpus, is_undisturbed: true },
        }
    }
}

/// Threads that serve until this is dropped.
struct Sinks {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<io::Result<()>>>,
}

impl Sinks {
    fn start(engine: Engine, places: &Places) -> io::Result<Sinks> {
        let listeners = net::listen_sharded((Ipv4Addr::LOCALHOST, 0).into(), BACKLOG, places.cpus.len())?;
        let known = Known::default();
        let mut sinks = Sinks { addr: listeners[0].local_addr()?, stop: Arc::default(), threads: Vec::new() };
        for (listener, cpu) in listeners.into_iter().zip(places.cpus.clone()) {
            let (stop, known) = (sinks.stop.clone(), known.clone());
            sinks.spawn(move || serve(engine, listener, cpu, known, &stop))?;
        }
        Ok(sinks)
    }

    fn start_udp() -> io::Result<Sinks> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(LOOK_EVERY))?;
        let mut sinks = Sinks { addr: socket.local_addr()?, stop: Arc::default(), threads: Vec::new() };
        let stop = sinks.stop.clone();
        sinks.spawn(move || {
            let mut datagram = [0; 65_536];
            while !stop.load(Ordering::Relaxed) {
                let _ = socket.recv(&mut datagram); // Nobody waits for an answer.
            }
            Ok(())
        })?;
        Ok(sinks)
    }

    fn spawn(&mut self, serve: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
        self.threads.push(thread::Builder::new().name("sink".into()).spawn(serve)?);
        Ok(())
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // What ended a sink has ended its connections, and shows in the run.
            let _ = thread.join();
        }
    }
}

fn serve(engine: Engine, listener: TcpListener, cpu: Option<usize>, known: Known, stop: &AtomicBool) -> io::Result<()> {
    if let Some(cpu) = cpu {
        cpu::pin_current(cpu).map_err(io::Error::other)?;
    }
    Sink::new(engine, listener, known)?.serve(stop)
}

/// As the rules of measuring have it.
const ENOUGH: f64 = 1.5;
const SPAN: Duration = Duration::from_secs(1);
const DRAIN: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const BACKLOG: i32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_below_one_and_a_half_says_what_that_means() {
        let headroom = |ratio| Headroom { ratio, sink_per_s: 3e6, is_enough: ratio >= ENOUGH, is_undisturbed: true };
        assert_eq!(headroom(1.5).to_string(), "1.50 times: 3000000 records/s against a sink that stores nothing");
        assert!(headroom(1.49).to_string().contains("below 1.5, so this run may have met the generator's limit"));
        let shared = Headroom { is_undisturbed: false, ..headroom(2.0) };
        assert!(shared.to_string().contains("on the workers' own processors"));
    }
}
