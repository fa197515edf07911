//! Who has to go: what each connection has to have done by when, so that nobody holds a place by doing nothing.
//!
//! No session has a timer. [`due`] says when a session will be late, and for what; the shard sweeps over all of them
//! when the first one may be, and not more often than [`SWEEP_GAP`]. A deadline is therefore kept to within that gap.
//! Time in which the server did not read does not count against anybody.

use crate::limits::Limits;
use crate::session::{Handshake, Mode, Session};
use ringest_wire::Code;
use std::time::{Duration, Instant};

/// What a session has done, and when.
#[derive(Debug)]
pub(crate) struct Clock {
    /// It came, or its last whole line did.
    heard_at: Instant,
    /// The line that is unfinished began.
    line_since: Option<Instant>,
}

/// What a session is late with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Late {
    /// Taking what is sent to it; it is replied to no more and ingested on, or, where it ends anyway, ends.
    Reply,
    /// Taking what is sent to a session.
    Answer,
    /// Its first byte.
    FirstByte,
    /// The rest of what it begins with: a TLS handshake, a `$hello`.
    Greeting,
    /// The rest of a line.
    Line,
    /// Anything whole.
    Activity,
}

impl Late {
    /// What a connection that ends for it is told.
    pub(crate) fn code(self) -> Code {
        match self {
            Late::FirstByte | Late::Activity => Code::Idle,
            Late::Reply | Late::Answer | Late::Greeting | Late::Line => Code::SlowClient,
        }
    }

    /// In words, for whoever reads a `$goaway`.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Late::Reply | Late::Answer => "it took no answer for too long",
            Late::FirstByte => "it said nothing",
            Late::Greeting => "it did not finish what it began with in time",
            Late::Line => "it did not finish a line in time",
            Late::Activity => "it said nothing for too long",
        }
    }
}

impl Clock {
    pub(crate) fn new(now: Instant) -> Clock {
        Clock { heard_at: now, line_since: None }
    }

    /// Bytes were looked at: whether a line was completed by them, and whether one is unfinished now.
    pub(crate) fn hear(&mut self, is_line_complete: bool, is_line_unfinished: bool, now: Instant) {
        if is_line_complete {
            *self = Clock::new(now);
        }
        self.line_since = is_line_unfinished.then(|| self.line_since.unwrap_or(now));
    }

    /// What was before does not count.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.heard_at = now;
        self.line_since = self.line_since.map(|_| now);
    }
}

/// When a session will be late with something, and with what, if it goes on as it is. A shard that `is_draining` waits
/// for nothing but answers to be taken.
pub(crate) fn due(session: &Session, limits: &Limits, is_draining: bool) -> Option<(Instant, Late)> {
    let must_end = session.is_closing || is_draining;
    let sending = session.sending_since.and_then(|since| {
        let is_muted = matches!(session.mode, Mode::Muted);
        let is_plain = matches!(session.mode, Mode::Plain(_));
        match (is_muted, is_plain || must_end) {
            (true, _) => None,
            // Of one that ends everything that comes is dropped, so it could go on for ever, and a server that stops
            // would wait for it.
            (false, true) => Some((since + limits.ack_stall, Late::Reply)),
            (false, false) => Some((since + limits.send_time?, Late::Answer)),
        }
    });
    if must_end {
        return sending;
    }
    let Clock { heard_at, line_since } = session.clock;
    let after = |start: Instant, time: Option<Duration>, late: Late| time.map(|time| (start + time, late));
    let hearing = match &session.mode {
        Mode::Fresh if session.stash.is_empty() && session.transport.is_none() => {
            after(heard_at, limits.greeting_time, Late::FirstByte)
        }
        Mode::Fresh => after(heard_at, limits.greeting_time, Late::Greeting),
        // It waits for the server.
        Mode::Moving | Mode::Joining(_) => None,
        Mode::Plain(_) | Mode::Muted | Mode::Stream(_) => {
            let idle = after(heard_at, limits.idle_time, Late::Activity);
            let line = line_since.zip(limits.line_time).map(|(since, time)| {
                // What is skipped to its end is not counted, and gets what the longest line would.
                let held = session.framer.held();
                let len = if held > 0 { held } else { limits.line_len_max };
                (since + time + Duration::from_secs(len as u64) / limits.line_rate_min, Late::Line)
            });
            earlier(idle, line)
        }
    };
    earlier(sending, hearing)
}

/// Whether the server does not look at what a session sends, or has not answered it yet.
pub(crate) fn is_waiting_for_us(session: &Session) -> bool {
    session.handshake == Handshake::Waiting
        || session.is_stalled
        || session.is_queued
        || session.is_behind()
        || session.is_backed_up()
        || !session.is_settled()
}

pub(crate) fn earlier<T>(one: Option<(Instant, T)>, other: Option<(Instant, T)>) -> Option<(Instant, T)> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other.0 < one.0 { other } else { one }),
        (one, other) => one.or(other),
    }
}

/// Between two sweeps. A sweep looks at each session once: a millisecond for 16,384 of them, one hundredth of a core
/// where some session is always about to be late.
pub(crate) const SWEEP_GAP: Duration = Duration::from_millis(100);
/// A sweep that comes later than this shows that the server itself was kept from running: what clients sent in the
/// meantime has to be read before anybody is called late.
pub(crate) const SWEEP_LATE_MAX: Duration = Duration::from_secs(1);
