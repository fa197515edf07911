//! Where the processor's time goes: a sample of every thread's stack, some hundred times per second of it, for as long as
//! is asked. One profile at a time, because there is one such timer per process.

use super::flame;
use super::http::Answer;
use libdeflater::{CompressionLvl, Compressor};
use pprof::{Frames, ProfilerGuard, ProfilerGuardBuilder, Report};
use prost::Message;
use ringest_sys::signal;
use std::collections::HashMap;
use std::sync::{Mutex, Once, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, SystemTime};

/// As what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// For `go tool pprof`, speedscope and their like: protobuf, compressed.
    Pprof,
    /// A picture.
    Flamegraph,
}

/// Takes one, as long as the query says.
pub(super) fn cpu(query: &str, shape: Shape) -> Answer {
    let seconds = match seconds(query) {
        Ok(seconds) => seconds,
        Err(refusal) => return Answer::text(400, format!("{refusal}\n")),
    };
    let _turn = match TURN.try_lock() {
        Ok(turn) => turn,
        Err(TryLockError::Poisoned(turn)) => PoisonError::into_inner(turn),
        Err(TryLockError::WouldBlock) => return Answer::text(409, "another profile is being taken; try again later\n"),
    };
    match sample(Duration::from_secs(seconds)) {
        Ok(report) => match shape {
            Shape::Pprof => pprof(&report),
            Shape::Flamegraph => {
                let stacks = report.data.iter().map(|(frames, &count)| (stack(frames), samples(count)));
                let title = format!("{seconds} s of all threads, {FREQUENCY} samples per second of processor time");
                Answer { status: 200, kind: "image/svg+xml", body: flame::svg(&title, stacks).into_bytes() }
            }
        },
        Err(error) => Answer::text(500, format!("no profile could be taken: {error}\n")),
    }
}

/// `seconds=N`, and nothing else.
fn seconds(query: &str) -> Result<u64, String> {
    if query.is_empty() {
        return Ok(SECONDS);
    }
    let asked = query.strip_prefix("seconds=").and_then(|digits| digits.parse().ok());
    let within = asked.filter(|seconds| (1..=SECONDS_MAX).contains(seconds));
    within.ok_or_else(|| format!("a profile is asked for with seconds=N, N from 1 to {SECONDS_MAX}"))
}

fn sample(time: Duration) -> pprof::Result<Report> {
    // The first sample makes the tables that stacks are unwound with, from files, with memory that is allocated. Inside a
    // thread that was interrupted while it allocates that could hang, so it is taken here, of this thread.
    static WARM: Once = Once::new();
    if !WARM.is_completed() {
        let guard = start(1)?;
        signal::raise_profile().map_err(pprof::Error::IoError)?;
        drop(guard);
        WARM.call_once(|| {});
    }
    let guard = start(FREQUENCY)?;
    thread::sleep(time);
    guard.report().build()
}

fn start(frequency: i32) -> pprof::Result<ProfilerGuard<'static>> {
    ProfilerGuardBuilder::default().frequency(frequency).build()
}

/// The functions of a stack, the outermost first, below the name of the thread.
fn stack(frames: &Frames) -> Vec<String> {
    let functions = frames.frames.iter().rev().flat_map(|inlined| inlined.iter().rev()).map(pprof::Symbol::name);
    [frames.thread_name_or_id()].into_iter().chain(functions).collect()
}

fn samples(count: isize) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

fn pprof(report: &Report) -> Answer {
    let bytes = encode(report).encode_to_vec();
    let mut compressor = Compressor::new(CompressionLvl::default());
    let mut body = vec![0; compressor.gzip_compress_bound(bytes.len())];
    match compressor.gzip_compress(&bytes, &mut body) {
        Ok(len) => {
            body.truncate(len);
            Answer { status: 200, kind: "application/octet-stream", body }
        }
        Err(error) => Answer::text(500, format!("the profile cannot be compressed: {error}\n")),
    }
}

/// As profile.proto of github.com/google/pprof has it. Its strings are named by their place in a table, from an empty one.
fn encode(report: &Report) -> Profile {
    let mut strings = Strings::default();
    strings.place("");
    let (samples_type, count) = (strings.place("samples"), strings.place("count"));
    let (cpu, nanoseconds) = (strings.place("cpu"), strings.place("nanoseconds"));
    let thread = strings.place("thread");
    let period = 1_000_000_000 / i64::from(FREQUENCY);
    let mut profile = Profile {
        sample_type: vec![ValueType { kind: samples_type, unit: count }, ValueType { kind: cpu, unit: nanoseconds }],
        time_nanos: report.timing.start_time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, ns),
        duration_nanos: ns(report.timing.duration),
        period_type: Some(ValueType { kind: cpu, unit: nanoseconds }),
        period,
        ..Profile::default()
    };
    let mut functions: HashMap<(i64, i64), u64> = HashMap::new();
    let mut locations: HashMap<Vec<(u64, i64)>, u64> = HashMap::new();
    for (frames, &count) in &report.data {
        let mut sample = Sample::default();
        for inlined in &frames.frames {
            let lines: Vec<(u64, i64)> = inlined
                .iter()
                .map(|symbol| {
                    let key = (strings.place(&symbol.name()), strings.place(&symbol.filename()));
                    let next = functions.len() as u64 + 1;
                    let id = *functions.entry(key).or_insert_with(|| {
                        profile.function.push(Function { id: next, name: key.0, system_name: key.0, filename: key.1 });
                        next
                    });
                    (id, i64::from(symbol.lineno()))
                })
                .collect();
            let next = locations.len() as u64 + 1;
            sample.location_id.push(*locations.entry(lines).or_insert_with_key(|lines| {
                let line = lines.iter().map(|&(function_id, line)| Line { function_id, line }).collect();
                profile.location.push(Location { id: next, line });
                next
            }));
        }
        let count = i64::try_from(count).unwrap_or(0);
        sample.value = vec![count, count * period];
        sample.label = vec![Label { key: thread, str: strings.place(&frames.thread_name_or_id()) }];
        profile.sample.push(sample);
    }
    profile.string_table = strings.all;
    profile
}

fn ns(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

#[derive(Default)]
struct Strings {
    all: Vec<String>,
    places: HashMap<String, i64>,
}

impl Strings {
    fn place(&mut self, text: &str) -> i64 {
        if let Some(&place) = self.places.get(text) {
            return place;
        }
        let place = self.all.len() as i64;
        self.all.push(text.to_owned());
        self.places.insert(text.to_owned(), place);
        place
    }
}

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// Not a divisor of anything that happens in round numbers.
const FREQUENCY: i32 = 99;
const SECONDS: u64 = 10;
const SECONDS_MAX: u64 = 60;
static TURN: Mutex<()> = Mutex::new(());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_has_a_bound() {
        assert_eq!(seconds(""), Ok(SECONDS));
        assert_eq!(seconds("seconds=60"), Ok(60));
        for query in ["seconds=0", "seconds=61", "seconds=-1", "seconds=1.5", "seconds=", "second=1", "seconds=1&x"] {
            assert!(seconds(query).is_err(), "{query}");
        }
    }
}
