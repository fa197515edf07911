//! Whether a measurement means what it says: how many lines were sent late, and whose fault that was.
//!
//! Three can be to blame. The server, where no connection would take a line. The host, where the worker was not run,
//! was run late, or its processor was given to another guest. The generator, for everything else: its own work, or other
//! threads of its process on the worker's processor. There is no clock here, and nothing is read: whoever sends fills in
//! [`Signs`], once a second.

use serde::{Deserialize, Serialize};

/// What one worker noticed in one interval.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// How long the interval was.
    pub span_ns: u64,
    /// Lines sent in an open loop, late ones included.
    pub sent: u64,
    /// Lines sent late though a connection had room for them.
    pub late_ours: Lateness,
    /// Lines sent late because no connection had room, and lines shed.
    pub late_blocked: Lateness,
    /// Processor time of the worker's thread.
    pub cpu_ns: u64,
    /// Processor time of the whole process.
    pub process_ns: u64,
    /// Time that the worker waited because it had nothing to do.
    pub waited_ns: u64,
    /// Time that it spun because its next line was about to be due.
    pub spun_ns: u64,
    /// Time that it could have run and another thread had the processor.
    pub queued_ns: u64,
    /// Time that it woke up later than it asked to, the usual delay of a timer not counted.
    pub overslept_ns: u64,
    /// The longest of these.
    pub overslept_max_ns: u64,
    /// Time that the processor was given to another guest of the host; filled in by whoever gathers intervals.
    pub stolen_ns: u64,
}

impl Signs {
    /// Adds what another worker noticed.
    pub fn add(&mut self, other: &Signs) {
        self.span_ns += other.span_ns;
        self.sent += other.sent;
        self.late_ours.add(&other.late_ours);
        self.late_blocked.add(&other.late_blocked);
        self.cpu_ns += other.cpu_ns;
        self.process_ns = self.process_ns.max(other.process_ns);
        self.waited_ns += other.waited_ns;
        self.spun_ns += other.spun_ns;
        self.queued_ns += other.queued_ns;
        self.overslept_ns += other.overslept_ns;
        self.overslept_max_ns = self.overslept_max_ns.max(other.overslept_max_ns);
        self.stolen_ns += other.stolen_ns;
    }

    /// Share of the time that the worker had something to do, 0 to 1.
    pub fn busy(&self) -> f64 {
        ratio(self.span_ns.saturating_sub(self.waited_ns).saturating_sub(self.spun_ns), self.span_ns)
    }

    /// Whose fault it is that lines were late though a connection had room. `stray_ns` is the processor time that other
    /// threads of the generator took from this worker.
    ///
    /// The host is to blame where it explains at least half of it: a worker that is kept from its processor for a tenth
    /// of the time is late with about a tenth of its lines.
    fn culprit(&self, stray_ns: u64) -> Verdict {
        let starved_ns = self.queued_ns.max(self.overslept_ns).max(self.stolen_ns).saturating_sub(stray_ns);
        let explained = ratio(starved_ns, self.span_ns) * 2.0 >= ratio(self.late_ours.count(), self.sent);
        if explained { Verdict::HostNoise } else { Verdict::GeneratorBound }
    }
}

/// How late lines were, in classes that double: enough to ask later how many were later than something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lateness([u64; CLASSES]);

impl Lateness {
    /// Counts `count` lines that were sent `slip_ns` after their time.
    #[inline]
    pub fn note(&mut self, slip_ns: u64, count: u64) {
        if slip_ns > LATE_NS {
            let class = ((slip_ns - 1) / LATE_NS).ilog2() as usize;
            self.0[class.min(CLASSES - 1)] += count;
        }
    }

    /// Lines that were later than [`LATE_NS`].
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Lines that were later than `limit_ns`, as far as the classes tell: the limit counts as the next power of two
    /// times [`LATE_NS`].
    pub fn over(&self, limit_ns: u64) -> u64 {
        self.0[class_over(limit_ns)..].iter().sum()
    }

    fn add(&mut self, other: &Lateness) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
    }
}

/// The first class whose lines are all later than `limit_ns`.
fn class_over(limit_ns: u64) -> usize {
    let classes = limit_ns.div_ceil(LATE_NS).max(1).next_power_of_two().ilog2() as usize;
    classes.min(CLASSES)
}

/// Who is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Lines were sent in time.
    Ok,
    /// The server took no more: its latencies are true, and its rate was not reached.
    ServerBound,
    /// The generator was too slow: latencies are partly its own.
    GeneratorBound,
    /// Something else had the processor.
    HostNoise,
}

impl Verdict {
    /// Its name in files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::ServerBound => "server_bound",
            Verdict::GeneratorBound => "generator_bound",
            Verdict::HostNoise => "host_noise",
        }
    }
}

/// Gathers the signs of all workers.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    /// Processor time of each worker in its last interval.
    cpu_ns: Vec<u64>,
    /// Whether there are more workers than processors, so that they take one another's.
    crowded: bool,
    sent: u64,
    server: Lateness,
    generator: Lateness,
    host: Lateness,
    span_ns: u64,
    queued_ns: u64,
    stolen_ns: u64,
    overslept_max_ns: u64,
    busy_max: f64,
}

impl Judge {
    /// One for that many workers on that many processors.
    pub fn new(workers: usize, processors: usize) -> Judge {
        Judge { cpu_ns: vec![0; workers], crowded: workers > processors.max(1), ..Judge::default() }
    }

    /// Takes what one worker noticed, and says what is to be thought of that interval alone.
    ///
    /// # Panics
    /// Where there is no such worker.
    pub fn note(&mut self, worker: usize, signs: &Signs) -> Verdict {
        self.cpu_ns[worker] = signs.cpu_ns;
        // Workers on processors of their own take nothing from one another.
        let known_ns = if self.crowded { signs.cpu_ns } else { self.cpu_ns.iter().sum() };
        let culprit = signs.culprit(signs.process_ns.saturating_sub(known_ns));
        match culprit {
            Verdict::HostNoise => &mut self.host,
            Verdict::Ok | Verdict::ServerBound | Verdict::GeneratorBound => &mut self.generator,
        }
        .add(&signs.late_ours);
        self.server.add(&signs.late_blocked);
        self.sent += signs.sent;
        self.span_ns += signs.span_ns;
        self.queued_ns += signs.queued_ns;
        self.stolen_ns += signs.stolen_ns;
        self.overslept_max_ns = self.overslept_max_ns.max(signs.overslept_max_ns);
        self.busy_max = self.busy_max.max(signs.busy());

        let is_over = |late: &Lateness| ratio(late.count(), signs.sent) > LATE_SHARE_MAX;
        match () {
            () if is_over(&signs.late_ours) => culprit,
            () if is_over(&signs.late_blocked) => Verdict::ServerBound,
            () => Verdict::Ok,
        }
    }

    /// The verdict over a run. A line is late where it was sent later than 100 us, or a tenth of the 99th percentile of
    /// the response times, whichever is more: what is measured in seconds is not voided by a millisecond.
    ///
    /// `late_share_max` may be late by the generator's or the host's fault.
    pub fn judge(&self, response_p99_ns: u64, late_share_max: f64) -> Validity {
        let limit_ns = LATE_NS.max(response_p99_ns / 10);
        let share = |late: &Lateness| ratio(late.over(limit_ns), self.sent);
        let (server_bound, generator_bound, host_noise) =
            (share(&self.server), share(&self.generator), share(&self.host));
        let verdict = blame(server_bound, generator_bound, host_noise, late_share_max);
        Validity {
            verdict: verdict.as_str().into(),
            reasons: self.reasons(verdict, limit_ns, [server_bound, generator_bound, host_noise]),
            server_bound,
            generator_bound,
            host_noise,
            late_over_us: limit_ns as f64 / 1000.0,
            queued: ratio(self.queued_ns, self.span_ns),
            stolen: ratio(self.stolen_ns, self.span_ns),
            overslept_max_us: self.overslept_max_ns as f64 / 1000.0,
            busy_max: self.busy_max,
        }
    }

    fn reasons(&self, verdict: Verdict, limit_ns: u64, [server, generator, host]: [f64; 3]) -> Vec<String> {
        let limit = format!("more than {} us late", limit_ns / 1000);
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let mut reasons = Vec::new();
        if server > LATE_SHARE_MAX {
            reasons.push(format!(
                "{} of the lines were {limit} or were shed because the server took no more",
                percent(server)
            ));
        }
        if matches!(verdict, Verdict::GeneratorBound | Verdict::HostNoise) {
            if generator > 0.0 {
                reasons.push(format!(
                    "{} were {limit} though a connection had room, by the generator's own doing: a worker was up to {} \
                     busy; give it more workers or processors, or a lower rate",
                    percent(generator),
                    percent(self.busy_max)
                ));
            }
            if host > 0.0 {
                reasons.push(format!(
                    "{} were {limit} though a connection had room, because the workers were kept from their processors: \
                     {} of the time by other programs, {} by other guests of the host, {:.1} ms at a time at worst",
                    percent(host),
                    percent(ratio(self.queued_ns, self.span_ns)),
                    percent(ratio(self.stolen_ns, self.span_ns)),
                    self.overslept_max_ns as f64 / 1e6
                ));
            }
        }
        reasons
    }
}

/// Whether a measurement means what it says, as it stands in a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Validity {
    /// `ok`; `server_bound`: the server took no more, so its latencies are true and its rate was not reached;
    /// `generator_bound`: the generator was too slow, so the latencies are partly its own; `host_noise`: something else
    /// had the processor. The last two void a measurement.
    pub verdict: String,
    /// Why, in sentences.
    pub reasons: Vec<String>,
    /// Lines sent late because no connection had room, out of those whose turn came, 0 to 1.
    pub server_bound: f64,
    /// Lines sent late by the generator's own doing, 0 to 1.
    pub generator_bound: f64,
    /// Lines sent late because the worker was kept from its processor, 0 to 1.
    pub host_noise: f64,
    /// From which slip on a line counts as late here, in microseconds.
    pub late_over_us: f64,
    /// Share of the time that workers could have run and had to wait for a processor, 0 to 1.
    pub queued: f64,
    /// Share of the time that their processors were given to other guests of the host, 0 to 1.
    pub stolen: f64,
    /// How much later than it asked to a worker woke up at worst, in microseconds.
    pub overslept_max_us: f64,
    /// The busiest second of a worker: share of the time that it had something to do, 0 to 1.
    pub busy_max: f64,
}

impl Validity {
    /// Whether latencies may be concluded from.
    pub fn holds(&self) -> bool {
        self.verdict == Verdict::Ok.as_str() || self.verdict == Verdict::ServerBound.as_str()
    }
}

/// Who is to blame where that share of the lines was late by the fault of each.
pub(crate) fn blame(server_bound: f64, generator_bound: f64, host_noise: f64, late_share_max: f64) -> Verdict {
    match () {
        () if generator_bound + host_noise > late_share_max && generator_bound > host_noise => Verdict::GeneratorBound,
        () if generator_bound + host_noise > late_share_max => Verdict::HostNoise,
        () if server_bound > LATE_SHARE_MAX => Verdict::ServerBound,
        () => Verdict::Ok,
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// A line that is sent this long after its time is late.
pub const LATE_NS: u64 = 100_000;
/// One line in a hundred may be late, unless told otherwise.
pub const LATE_SHARE_MAX: f64 = 0.01;
/// The last class begins at 14 hours.
const CLASSES: usize = 30;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// A second with 10,000 lines of which `late` were 10 ms late, while the worker was kept from its processor for
    /// `queued_ms`.
    fn second(late_ours: u64, late_blocked: u64, queued_ms: u64) -> Signs {
        let mut signs = Signs { span_ns: SECOND, sent: 10_000, queued_ns: queued_ms * 1_000_000, ..Signs::default() };
        signs.cpu_ns = SECOND / 10;
        signs.process_ns = signs.cpu_ns;
        signs.late_ours.note(10_000_000, late_ours);
        signs.late_blocked.note(10_000_000, late_blocked);
        signs
    }

    fn verdict(signs: &Signs) -> (Verdict, String) {
        let mut judge = Judge::new(1, 2);
        let verdict = judge.note(0, signs);
        (verdict, judge.judge(0, LATE_SHARE_MAX).verdict)
    }

    #[test]
    fn lateness_is_blamed_on_who_caused_it() {
        for (signs, expected) in [
            (second(50, 50, 500), Verdict::Ok),
            (second(0, 5_000, 0), Verdict::ServerBound),
            (second(2_000, 5_000, 0), Verdict::GeneratorBound),
            (second(2_000, 5_000, 300), Verdict::HostNoise),
            (second(150, 0, 10), Verdict::HostNoise),
            (second(9_900, 0, 30), Verdict::GeneratorBound),
        ] {
            assert_eq!(verdict(&signs), (expected, expected.as_str().to_owned()), "{signs:?}");
        }
    }

    #[test]
    fn a_timer_that_fires_late_and_a_processor_that_is_gone_are_the_hosts() {
        let overslept = Signs { overslept_ns: SECOND / 5, ..second(2_000, 0, 0) };
        let stolen = Signs { stolen_ns: SECOND / 5, ..second(2_000, 0, 0) };
        assert_eq!((verdict(&overslept).0, verdict(&stolen).0), (Verdict::HostNoise, Verdict::HostNoise));
    }

    #[test]
    fn a_processor_that_the_generator_takes_from_itself_is_its_own_fault() {
        let crowded = Signs { process_ns: SECOND / 10 + SECOND / 2, ..second(5_000, 0, 500) };
        assert_eq!(verdict(&crowded).0, Verdict::GeneratorBound);
        // The same time, spent by a worker on a processor of its own, took nothing from this one.
        let mut judge = Judge::new(2, 2);
        judge.note(1, &Signs { cpu_ns: SECOND / 2, process_ns: SECOND * 6 / 10, ..second(0, 0, 0) });
        assert_eq!(judge.note(0, &crowded), Verdict::HostNoise);
    }

    #[test]
    fn one_line_in_a_hundred_may_be_late_and_not_one_more() {
        assert_eq!(verdict(&second(100, 0, 0)).0, Verdict::Ok);
        assert_eq!(verdict(&second(101, 0, 0)).0, Verdict::GeneratorBound);
        assert_eq!((verdict(&second(0, 100, 0)).0, verdict(&second(0, 101, 0)).0), (Verdict::Ok, Verdict::ServerBound));
    }

    #[test]
    fn what_is_measured_in_seconds_is_not_voided_by_milliseconds() {
        let mut judge = Judge::new(1, 1);
        judge.note(0, &second(2_000, 5_000, 0));
        assert_eq!(judge.judge(60_000_000, LATE_SHARE_MAX).verdict, "generator_bound");
        assert_eq!(judge.judge(2_000_000_000, LATE_SHARE_MAX).verdict, "ok");
    }

    #[test]
    fn a_verdict_that_voids_says_why() {
        let mut judge = Judge::new(1, 1);
        judge.note(0, &second(2_000, 0, 400));
        let validity = judge.judge(0, LATE_SHARE_MAX);
        assert!(!validity.holds());
        assert!(validity.reasons[0].contains("20.0 %") && validity.reasons[0].contains("40.0 %"), "{validity:?}");
        assert!(judge.judge(0, 1.0).holds(), "whoever does not measure latencies may say so");
        assert!(Judge::new(1, 1).judge(0, LATE_SHARE_MAX).holds());
    }

    #[test]
    fn lateness_is_counted_from_its_limit_on() {
        let mut late = Lateness::default();
        late.note(LATE_NS, 1);
        assert_eq!(late.count(), 0, "at the limit is in time");
        for slip_ns in [LATE_NS + 1, 2 * LATE_NS, 2 * LATE_NS + 1, 4 * LATE_NS, u64::MAX] {
            late.note(slip_ns, 1);
        }
        assert_eq!(late.count(), 5);
        let over = [0, LATE_NS, LATE_NS + 1, 2 * LATE_NS, 4 * LATE_NS, u64::MAX].map(|limit_ns| late.over(limit_ns));
        assert_eq!(over, [5, 5, 3, 3, 1, 0]);
    }
}
