//! How a running server is looked at: metrics, health, profiles and a live page over HTTP, on a thread of its own.
//!
//! It reads, and changes nothing. Shards are asked through their inboxes and answer at the end of a turn, so a record's
//! path knows nothing of who looks, and every answer is one in which a shard's books close. One that does not answer in
//! time is reported as such; it is never waited for.

mod flame;
mod health;
mod heap;
mod http;
mod io_wq;
mod metrics;
mod profile;
mod status;

use crate::notice;
use crate::reading::{Probe, Reading};
use health::Verdict;
use http::{Answer, Question};
use profile::Shape;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// The admin listener of a server.
pub struct Admin {
    bound: SocketAddr,
    desk: Arc<Desk>,
}

/// What does not change while a server runs, as its metrics and pages say it.
#[derive(Clone, Debug)]
pub struct About {
    /// The kernel interface.
    pub backend: &'static str,
    /// Records are stored, so their way to the disk says how the server does.
    pub is_stored: bool,
    /// How long a batch may wait for its write, however well everything goes.
    pub linger: Duration,
}

/// Where a server stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Segments are being recovered; nobody can connect.
    Starting,
    /// Connections are taken.
    Serving,
    /// What was taken is being settled; no connection is taken any more.
    Draining,
}

impl Life {
    const fn as_str(self) -> &'static str {
        match self {
            Life::Starting => "starting",
            Life::Serving => "serving",
            Life::Draining => "draining",
        }
    }
}

/// What requests are answered from. The rest of the server tells it where it stands, rarely; each request reads that.
struct Desk {
    about: About,
    started: Instant,
    started_at: SystemTime,
    standing: Mutex<(Life, Vec<Probe>)>,
}

/// One shard as it was found: its number, and what it said, if it did.
type Found = (u16, Option<Reading>);

/// The whole server at one moment.
struct Survey {
    life: Life,
    shards: Vec<Found>,
    /// When the answers were there, and how long that took.
    now: Instant,
    took: Duration,
}

impl Admin {
    /// Listens, on a thread that ends with the process. Nothing can be asked of shards yet.
    ///
    /// # Errors
    /// The address cannot be had; the message names it, and what to do.
    pub fn start(addr: SocketAddr, about: About) -> io::Result<Admin> {
        let listener = TcpListener::bind(addr).map_err(|error| {
            let hint = "--admin-addr takes another address, 127.0.0.1:0 for any free port, or none";
            io::Error::new(error.kind(), format!("ADMIN_ADDR: cannot listen on {addr}: {error}; {hint}"))
        })?;
        let bound = listener.local_addr()?;
        let desk = Arc::new(Desk {
            about,
            started: Instant::now(),
            started_at: SystemTime::now(),
            standing: Mutex::new((Life::Starting, Vec::new())),
        });
        let answers = desk.clone();
        thread::Builder::new().name("admin".into()).spawn(move || {
            if let Err(error) = http::serve(listener, move |question| answers.answer(question)) {
                notice!("the admin listener has ended: {error}");
            }
        })?;
        Ok(Admin { bound, desk })
    }

    /// Where it listens.
    pub fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// Connections are taken, by these shards.
    pub fn serving(&self, probes: Vec<Probe>) {
        *self.desk.standing() = (Life::Serving, probes);
    }

    /// No connection is taken any more.
    pub fn draining(&self) {
        self.desk.standing().0 = Life::Draining;
    }
}

impl Desk {
    fn answer(&self, question: Question) -> Answer {
        match question.path.as_str() {
            "/" => Answer { status: 200, kind: "text/html; charset=utf-8", body: PAGE.into() },
            "/metrics" => self.metrics(&question),
            "/livez" => health::liveness(&self.survey(LIVE_PATIENCE)).into(),
            "/readyz" => self.readiness(&self.survey(READY_PATIENCE)).into(),
            "/status.json" => {
                let survey = self.survey(SURVEY_PATIENCE);
                Answer::json(&status::of(self, &survey, &self.readiness(&survey)))
            }
            "/debug/pprof/profile" => profile::cpu(&question.query, Shape::Pprof),
            "/debug/pprof/heap" => heap::heap(),
            "/debug/flamegraph" => profile::cpu(&question.query, Shape::Flamegraph),
            _ => Answer::text(404, format!("there is nothing here; these are the paths:\n{}\n", PATHS.join("\n"))),
        }
    }

    fn metrics(&self, question: &Question) -> Answer {
        let survey = self.survey(SURVEY_PATIENCE);
        let is_ready = self.readiness(&survey).is_well;
        let format = metrics::Format::for_accept(&question.accept);
        match metrics::text(self, &survey, is_ready, format) {
            Ok(text) => Answer { status: 200, kind: format.content_type(), body: text.into_bytes() },
            Err(error) => Answer::text(500, format!("the metrics cannot be written down: {error}\n")),
        }
    }

    fn readiness(&self, survey: &Survey) -> Verdict {
        health::readiness(&self.about, survey)
    }

    fn survey(&self, patience: Duration) -> Survey {
        let (life, probes) = self.standing().clone();
        let began = Instant::now();
        let readings = Probe::ask_all(&probes, began + patience);
        let now = Instant::now();
        let shards = probes.iter().map(Probe::shard).zip(readings).collect();
        Survey { life, shards, now, took: now - began }
    }

    fn standing(&self) -> std::sync::MutexGuard<'_, (Life, Vec<Probe>)> {
        // Whoever holds it assigns or copies, so it is whole even if that thread panicked.
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One file: it loads nothing but the status of the server that it came from.
const PAGE: &str = include_str!("admin/page.html");
/// What can be asked for.
const PATHS: [&str; 8] = [
    "/",
    "/metrics",
    "/livez",
    "/readyz",
    "/status.json",
    "/debug/pprof/profile?seconds=N",
    "/debug/pprof/heap",
    "/debug/flamegraph?seconds=N",
];
/// A turn takes milliseconds. A shard that is silent for so long is stuck, or its core is not there for it.
const LIVE_PATIENCE: Duration = Duration::from_secs(2);
/// Who asks whether to send more wants to know within a second.
const READY_PATIENCE: Duration = Duration::from_millis(500);
const SURVEY_PATIENCE: Duration = Duration::from_secs(1);
