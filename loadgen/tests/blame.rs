//! Three planted faults and what the generator makes of them; a stall and what theory makes of it; the knee of a server
//! whose knee is known. One at a time: each wants the machine for itself, or fills it on purpose.

#[allow(dead_code, reason = "each test takes its own part of it")]
mod scripted;

use clap::Parser;
use ringest_loadgen::cli::Cli;
use ringest_loadgen::config::Config;
use ringest_loadgen::io::Engine;
use ringest_loadgen::report::Report;
use ringest_loadgen::run;
use ringest_sys::clock;
use ringest_sys::cpu;
use ringest_sys::signal::Signals;
use scripted::{Script, Server, loadgen, stderr};
use serde_json::Value;
use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

static MACHINE: Mutex<()> = Mutex::new(());

fn machine() -> MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The generator's processor and the server's; the same where there is one.
fn places() -> (usize, usize) {
    let allowed = cpu::allowed().unwrap();
    (allowed.as_slice()[0], *allowed.as_slice().last().unwrap())
}

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already cannot be killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap();
        assert!(status.success(), "kill {signal}");
    }
}

/// A server that says yes to everything, as a process of its own, and its port.
fn sink(cpu: usize) -> (Process, String) {
    let mut command = loadgen(&format!("sink --listen 127.0.0.1:0 --cpu {cpu}"));
    let mut sink = Process(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut address = String::new();
    BufReader::new(sink.0.stdout.take().unwrap()).read_line(&mut address).unwrap();
    let port = address.trim().rsplit(':').next().unwrap().to_owned();
    (sink, port)
}

/// A program that takes all it gets of a processor.
fn hog(on: usize) -> Process {
    // A child inherits the processor of the thread that starts it.
    let start = move || {
        cpu::pin_current(on).unwrap();
        Process(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
    };
    thread::spawn(start).join().unwrap()
}

fn start(port: &str, arguments: &str) -> Process {
    let target = format!("--host 127.0.0.1 --port {port} --max-late-share 1% --json - --quiet ");
    Process(loadgen(&(target + arguments)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

fn finish(mut process: Process) -> (Option<i32>, Value) {
    let mut text = Vec::new();
    std::io::Read::read_to_end(process.0.stdout.as_mut().unwrap(), &mut text).unwrap();
    let code = process.0.wait().unwrap().code();
    (code, serde_json::from_slice(&text).unwrap_or_else(|_| panic!("no report; the code is {code:?}")))
}

fn validity(report: &Value) -> &Value {
    &report["tests"][0]["validity"]
}

fn share(report: &Value, of: &str) -> f64 {
    validity(report)[of].as_f64().unwrap()
}

#[test]
fn a_generator_whose_own_threads_take_its_processor_is_generator_bound() {
    let _machine = machine();
    let (own, other) = places();
    let (_sink, port) = sink(other);
    let stop = AtomicBool::new(false);
    let arguments = format!(
        "ringest-loadgen --host 127.0.0.1 --port {port} -R 20000 -d 2s -c 2 --cpu-list {own} --drain 20s -q --max-late-share 1%"
    );
    let config = Config::resolve(&Cli::parse_from(arguments.split_whitespace()).run).unwrap();
    let (begun, used) = (Instant::now(), clock::process_cpu());
    let report = thread::scope(|scope| {
        // Several, so that they take more of it than anything else on a busy machine does.
        for _ in 0..8 {
            scope.spawn(|| {
                cpu::pin_current(own).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    black_box(0);
                }
            });
        }
        let finished = run::run(&config, Engine::Epoll, &Signals::new().unwrap(), &mut |_| {});
        stop.store(true, Ordering::Relaxed);
        finished.unwrap().report
    });
    let own = (clock::process_cpu() - used).as_secs_f64() / begun.elapsed().as_secs_f64();
    let test = &report.tests[0];
    let validity = &test.validity;
    assert_eq!(test.verdict, "invalid", "{validity:?}");
    // On a busy machine others take most of that processor, however many threads of this process spin on it, and then the
    // host is to blame, and rightly.
    match own {
        own if own > 0.75 => assert_eq!(validity.verdict, "generator_bound", "{own}: {validity:?}"),
        own if own < 0.4 => assert_eq!(validity.verdict, "host_noise", "{own}: {validity:?}"),
        _ => assert!(!validity.holds(), "{own}: {validity:?}"),
    }
    if validity.verdict == "generator_bound" {
        assert!(validity.generator_bound > 0.05, "{validity:?}");
        assert!(validity.reasons.iter().any(|reason| reason.contains("the generator's own doing")), "{validity:?}");
    }
}

#[test]
fn other_programs_on_the_processors_are_noise_of_the_host_and_void_the_run() {
    let _machine = machine();
    let (own, other) = places();
    let (_sink, port) = sink(other);
    let _hogs: Vec<Process> = [own, own, own, own, own, own, other, other].into_iter().map(hog).collect();
    let process = start(&port, &format!("-R 20000 -d 2s -c 2 --cpu-list {own} --drain 20s"));
    let (code, report) = finish(process);
    assert_eq!(validity(&report)["verdict"], "host_noise", "{}", validity(&report));
    assert!(share(&report, "host_noise") > 0.05 && share(&report, "queued") > 0.2, "{}", validity(&report));
    assert_eq!(code, Some(4), "the measurement is invalid");
    assert_eq!(report["tests"][0]["verdict"], "invalid");
    let reasons = validity(&report)["reasons"].to_string();
    assert!(reasons.contains("by other programs"), "{reasons}");
}

/// Response and service times of a run in which the server stood still, and for how long it did.
struct Stall {
    report: Value,
    code: Option<i32>,
    stood: Duration,
}

/// 10,000 lines per second for 4 s over connections that take 200 lines in all, with the server stopped for 1 s.
fn stall() -> Stall {
    let (own, other) = places();
    let (sink, port) = sink(other);
    let process = start(&port, &format!("-R 10000 -d 4s -c 4 -p 50 --cpu-list {own}"));
    thread::sleep(Duration::from_millis(1500));
    let begun = Instant::now();
    sink.signal("-STOP");
    thread::sleep(Duration::from_secs(1));
    sink.signal("-CONT");
    let stood = begun.elapsed();
    let (code, report) = finish(process);
    Stall { report, code, stood }
}

impl Stall {
    fn us(&self, spread: &str, figure: &str) -> f64 {
        self.report["tests"][0]["results"][spread][figure].as_f64().unwrap()
    }

    /// Lines whose response took longer.
    fn longer_than(&self, limit: Duration) -> f64 {
        let report: Report = serde_json::from_value(self.report.clone()).unwrap();
        let counts = report.tests[0].results.latency().unwrap().response.counts();
        let longer = counts.iter().filter(|(ns, _)| u128::from(*ns) > limit.as_nanos());
        longer.map(|(_, count)| count).sum::<u64>() as f64
    }
}

#[test]
fn a_server_that_stands_still_shows_in_the_response_and_not_in_the_service_as_theory_says() {
    let _machine = machine();
    // Whatever disturbs the machine only adds to a response. So the lower bounds hold every time, and the upper ones at
    // least once.
    let mut attempts = Vec::new();
    for _ in 0..3 {
        let stall = stall();
        let stood_s = stall.stood.as_secs_f64();
        let results = &stall.report["tests"][0]["results"];
        assert_eq!((&results["offered"], &results["acked"]), (&40_000.into(), &40_000.into()));

        // Of 40,000 lines, 10,000 per second of the stall wait between nothing and all of it, evenly.
        let affected = 10_000.0 * stood_s;
        let quantile = |share: f64| stood_s * (1.0 - share * 40_000.0 / affected);
        let expected_us = [quantile(0.01), quantile(0.05)].map(|s| s * 1e6);
        let found_us = [stall.us("response_us", "p99"), stall.us("response_us", "p95")];
        let half = stall.longer_than(stall.stood / 2);
        for (found, expected) in found_us.iter().zip(expected_us) {
            assert!(*found >= expected * 0.97, "a response of {found} us where {expected} are due");
        }
        assert!(half >= affected / 2.0 * 0.97, "{half} lines waited for half of {stood_s} s");
        assert_eq!(validity(&stall.report)["verdict"], "server_bound", "{}", validity(&stall.report));
        assert_eq!(stall.code, Some(0), "what the server does voids no measurement");

        // 200 of 40,000 lines were under way when it stood still, and no other saw it in its service time.
        let service_us = stall.us("service_us", "p99");
        assert!(stall.us("service_us", "max") >= stood_s * 0.9e6, "those under way waited for all of it");
        assert!(service_us < stall.us("response_us", "p99") / 3.0, "{service_us} us");

        let is_near = found_us.iter().zip(expected_us).all(|(found, expected)| *found <= expected * 1.05 + 50_000.0)
            && half <= affected / 2.0 * 1.1
            && service_us < 100_000.0;
        if is_near {
            return;
        }
        attempts.push(format!("{found_us:?} us of {expected_us:?}, {half} of {}, {service_us} us", affected / 2.0));
    }
    panic!("no attempt was as theory says: {attempts:?}");
}

#[test]
fn the_knee_of_a_server_whose_capacity_is_known_is_found() {
    let _machine = machine();
    // 2 ms for each line, one at a time: at most 500 lines per second. Within a second at a rate of R the last of them
    // waits for R / 500 - 1 seconds, and 100 ms are allowed.
    let server = Server::start(Script { slow_ms: 2, ..Script::default() });
    let arguments = "--find-max --slo-p99 100ms -R 50 -d 1s -w 0 -c 1 --mode session --json -";
    let port = server.addr.port().to_string();
    let output: Output = loadgen(arguments).args(["--host", "127.0.0.1", "--port", &port]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    let knee = &report["find_max"];
    let (rate, broken_at) = (knee["rate"].as_u64().unwrap(), knee["broken_at"].as_u64().unwrap());
    assert!((50..=550).contains(&rate) && rate < broken_at, "{knee}");
    assert!((broken_at - rate) as f64 <= 0.05 * broken_at as f64, "{rate} to {broken_at} is as near as it says");
    assert_eq!(knee["is_complete"], true);
    let probes = knee["probes"].as_array().unwrap();
    for probe in probes {
        let held = probe["rate"].as_u64().unwrap() <= 550 || !probe["held"].as_bool().unwrap();
        assert!(held, "nothing beyond its capacity holds: {probe}");
    }
    let twice = probes.iter().filter(|probe| probe["rate"] == rate && probe["held"] == true).count();
    assert_eq!(twice, 2, "what is found has held twice");
    assert_eq!(report["tests"].as_array().unwrap().len(), probes.len());
    let told = stderr(&output);
    assert!(told.matches("records/s").count() >= probes.len() && told.contains("knee: "), "{told}");
    // What the host spoils says nothing about the server, and the code says that.
    let expected = if knee["limited_by"] == "server_bound" { 0 } else { 4 };
    assert_eq!(output.status.code(), Some(expected), "{knee}");
}

#[test]
fn a_promise_that_no_rate_keeps_is_a_breach() {
    let _machine = machine();
    let server = Server::start(Script { slow_ms: 100, ..Script::default() });
    let port = server.addr.port().to_string();
    let arguments = "--find-max --slo-p99 10ms -R 4 -d 500ms -w 0 -c 1 --mode session";
    let output = loadgen(arguments).args(["--host", "127.0.0.1", "--port", &port]).output().unwrap();
    let told = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("not even 1 records/s keep"), "{told}");
    assert!(matches!(output.status.code(), Some(3 | 4)), "{told}");
}

#[test]
fn a_search_whose_server_goes_away_tells_what_it_found_until_then() {
    let server = Server::start(Script::default());
    let doomed = server.clone();
    let death = thread::spawn(move || {
        // The first rate is tried with two connections, one of which looks whether anybody is there.
        while doomed.connections() < 3 {
            thread::sleep(Duration::from_millis(5));
        }
        doomed.die();
    });
    let arguments = "--find-max --slo-p99 5s -R 50 -d 300ms -w 0 -c 1 --reconnect-for 100ms --drain 100ms --json -";
    let port = server.addr.port().to_string();
    let output = loadgen(arguments).args(["--host", "127.0.0.1", "--port", &port]).output().unwrap();
    death.join().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    let knee = &report["find_max"];
    assert_eq!((output.status.code(), &knee["is_complete"]), (Some(1), &false.into()), "{}", stderr(&output));
    assert!(knee["probes"].as_array().is_some_and(|probes| !probes.is_empty()), "{knee}");
    assert!(stderr(&output).contains("nothing listens there"), "{}", stderr(&output));
}

#[test]
fn a_promise_about_latency_is_a_gate() {
    let _machine = machine();
    let server = Server::start(Script { slow_ms: 20, ..Script::default() });
    for (slo, code, pass) in [("1ms", 3, false), ("60s", 0, true)] {
        let arguments = format!("-R 20 -d 500ms -c 1 --mode session --slo-p99 {slo} --json -");
        let port = server.addr.port().to_string();
        let output = loadgen(&arguments).args(["--host", "127.0.0.1", "--port", &port]).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        let gate = &report["tests"][0]["gates"][0];
        assert_eq!((&gate["expr"], &gate["pass"]), (&"response_p99_ms".into(), &pass.into()));
    }
}
