//! From what was seen of a run to a test of a report.

use super::{Plan, Seen};
use crate::outcome::Outcome;
use crate::report::{Config, Latencies, Resources, Results, Second, Test, Validity};
use ringest_loadgen::latency::{Latency, Spread};
use ringest_loadgen::report::Test as Loaded;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

/// The figures, not judged yet.
pub(super) fn test(plan: &Plan, seen: Seen) -> io::Result<Test> {
    let reports = seen.loaded.iter().filter_map(|(at, loaded)| Some((*at, loaded.report.as_ref()?)));
    let tests: Vec<(Duration, &Loaded)> =
        reports.clone().filter_map(|(at, report)| Some((at, report.tests.first()?))).collect();
    let payload = reports.clone().next().map_or(String::new(), |(_, report)| report.payload_sha256.clone());
    let mut results = results(&tests)?;
    results.series = series(seen.loaded.iter().map(|(at, loaded)| (*at, &loaded.series[..])));
    let resources = resources(&seen, results.total_success);
    Ok(Test {
        name: plan.name.clone(),
        config: config(plan, tests.first().map(|(_, test)| *test), payload),
        results,
        resources,
        validity: validity(&tests),
        stages: seen.status.map(|status| status.stages).unwrap_or_default(),
        reconciliation: seen.reconciliation,
        gates: Vec::new(),
        verdict: Outcome::Pass,
    })
}

fn config(plan: &Plan, loaded: Option<&Loaded>, payload: String) -> Config {
    let load = &plan.load;
    Config {
        name: plan.name.clone(),
        total: load.total.unwrap_or(0),
        duration: load.duration.as_secs_f64(),
        concurrency: load.connections,
        model: if load.rate.is_some() { "open" } else { "closed" }.into(),
        rate: load.rate,
        of_knee: plan.of_knee,
        mode: if load.in_sessions { "session" } else { "plain" }.into(),
        ack: loaded.map_or(String::new(), |test| test.config.done.clone()),
        record_size: load.record_size,
        payload,
    }
}

/// Of all generators together: counts and histograms are added, and what is a rate is made of those.
fn results(tests: &[(Duration, &Loaded)]) -> io::Result<Results> {
    if tests.is_empty() {
        return Ok(Results::default());
    }
    let mut all = Results::default();
    let mut latency = Latency::new();
    let (mut finished, mut end_s, mut bytes) = (0, 0.0_f64, 0);
    for (at, test) in tests {
        let results = &test.results;
        let measured = results.latency().map_err(|why| io::Error::other(format!("the generator's report: {why}")))?;
        latency.add(&measured);
        all.total_sent += results.offered;
        all.total_success += results.acked;
        all.total_errors += results.failed;
        finished += results.finished();
        bytes += results.bytes;
        end_s = end_s.max(at.as_secs_f64() + results.span_s);
        results.failures.iter().for_each(|(reason, count)| *all.failures.entry(reason.clone()).or_default() += count);
        results.faults.iter().for_each(|(kind, count)| *all.faults.entry(kind.clone()).or_default() += count);
        all.offered_per_s = results.rate.map(|rate| all.offered_per_s.unwrap_or(0.0) + rate.achieved);
    }
    let response = Latencies::from(&latency.response.figures());
    let ms = |us: f64| us / 1000.0;
    Ok(Results {
        error_rate: all.total_errors as f64 / finished.max(1) as f64,
        actual_rps: all.total_success as f64 / end_s.max(1e-9),
        duration_secs: end_s,
        latency_avg_ms: ms(response.mean),
        latency_min_ms: ms(response.min),
        latency_max_ms: ms(response.max),
        latency_p50_ms: ms(response.p50),
        latency_p95_ms: ms(response.p95),
        latency_p99_ms: ms(response.p99),
        total_bytes: bytes,
        response_us: response,
        service_us: Latencies::from(&latency.service.figures()),
        slip_us: Latencies::from(&latency.slip.figures()),
        response_ns_counts: latency.response.counts(),
        ..all
    })
}

/// The seconds of all generators on the clock of the first. Of one alone they are as it wrote them.
fn series<'a>(all: impl ExactSizeIterator<Item = (Duration, &'a [Second])>) -> Vec<Second> {
    let is_one = all.len() == 1;
    let mut seconds: BTreeMap<u64, Second> = BTreeMap::new();
    let mut rows = Vec::new();
    for (at, series) in all {
        if is_one {
            rows = series.to_vec();
            break;
        }
        for row in series {
            let start_s = row.start_s + at.as_secs_f64();
            let number = (start_s + row.length_s / 2.0) as u64;
            let sum = seconds.entry(number).or_insert_with(|| Second {
                start_s: number as f64,
                length_s: 1.0,
                phase: row.phase.clone(),
                ..Second::default()
            });
            add(sum, row);
        }
    }
    rows.extend(seconds.into_values().map(|mut second| {
        second.response_us = of_counts(&second.response_counts);
        second
    }));
    rows
}

fn add(sum: &mut Second, row: &Second) {
    sum.offered += row.offered;
    sum.acked += row.acked;
    sum.failed += row.failed;
    sum.bytes += row.bytes;
    sum.late_ours += row.late_ours;
    sum.late_blocked += row.late_blocked;
    let mut counts: BTreeMap<u64, u64> = sum.response_counts.iter().copied().collect();
    row.response_counts.iter().for_each(|(from, count)| *counts.entry(*from).or_default() += count);
    sum.response_counts = counts.into_iter().collect();
}

/// As exact as the buckets are: an eighth of an octave.
fn of_counts(counts: &[(u64, u64)]) -> Latencies {
    Latencies::from(&Spread::of(counts).figures())
}

fn resources(seen: &Seen, records: u64) -> Resources {
    let per_record = |amount: u64| amount as f64 / records.max(1) as f64;
    let usage = seen.server.clone().unwrap_or_default();
    let switches = usage.voluntary_switches + usage.involuntary_switches;
    Resources {
        avg_cpu_percent: usage.mean_cpu_percent(),
        peak_cpu_percent: usage.peak(|row| row.cpu_percent),
        avg_memory_mb: usage.mean_rss_bytes() / MIB,
        peak_memory_mb: usage.peak(|row| row.rss_bytes as f64) / MIB,
        cpu_ns_per_record: per_record(seen.server_cpu_ns()),
        switches_per_record: per_record(switches),
        ready_s: seen.ready.as_ref().map(Duration::as_secs_f64),
        memory_bound_bytes: seen.memory_bound,
        fd_limit: seen.fd_limit,
        exit: seen.exit.clone(),
        server: seen.server.clone(),
        generator: seen.generator.clone(),
    }
}

/// That of the generator whose verdict is the gravest.
fn validity(tests: &[(Duration, &Loaded)]) -> Validity {
    let gravest = tests.iter().map(|(_, test)| *test).max_by_key(|test| match test.validity.verdict.as_str() {
        "host_noise" => 3,
        "generator_bound" => 2,
        "server_bound" => 1,
        _ => 0,
    });
    let Some(test) = gravest else { return Validity::default() };
    let validity = &test.validity;
    Validity {
        verdict: validity.verdict.clone(),
        server_bound: validity.server_bound,
        generator_bound: validity.generator_bound,
        host_noise: validity.host_noise,
        reasons: validity.reasons.clone(),
        generator_busy: tests.iter().map(|(_, test)| test.resources.client.busy).sum(),
        voided: Vec::new(),
    }
}

const MIB: f64 = (1 << 20) as f64;
