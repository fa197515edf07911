//! The result of a run as metrics: OpenMetrics text, which Prometheus, its push gateway and node_exporter's textfile
//! collector read.

use crate::latency::{Latency, Spread};
use crate::report::{Report, Test};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;

/// The whole file.
pub(super) fn text(report: &Report, test: &Test, latency: &Latency) -> String {
    let mut registry = Registry::with_prefix("ringest_loadgen");
    registry.register_collector(Box::new(OfRun {
        report: report.clone(),
        test: test.clone(),
        latency: latency.clone(),
    }));
    let mut text = String::new();
    encode(&mut text, &registry).expect("a string takes everything");
    text
}

#[derive(Debug)]
struct OfRun {
    report: Report,
    test: Test,
    latency: Latency,
}

impl Collector for OfRun {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        self.encode_info(encoder)?;
        self.encode_counts(encoder)?;
        self.encode_gauges(encoder)?;
        for (name, help, spread) in [
            ("response", "From the intended time (open loop) or the sending to the answer.", &self.latency.response),
            ("service", "From the sending to the answer.", &self.latency.service),
            ("slip", "From the intended time to the sending.", &self.latency.slip),
        ] {
            encode_spread(encoder, name, help, spread)?;
        }
        Ok(())
    }
}

impl OfRun {
    fn encode_info(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Report { run_id, tool, seed, payload_sha256, .. } = &self.report;
        let labels = [
            ("run_id", run_id.clone()),
            ("version", tool.version.clone()),
            ("seed", seed.to_string()),
            ("payload_sha256", payload_sha256.clone()),
            ("test", self.test.name.clone()),
            ("validity", self.test.validity.verdict.clone()),
            ("verdict", self.test.verdict.clone()),
        ];
        encoder.encode_descriptor("run", "What was run.", None, MetricType::Info)?.encode_info(&labels)
    }

    fn encode_counts(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let results = &self.test.results;
        let outcomes = [
            ("acked", results.acked),
            ("refused_as_meant", results.refused_as_meant),
            ("sent", results.sent),
            ("failed", results.failed),
        ];
        let mut family =
            encoder.encode_descriptor("records", "Lines by what became of them.", None, MetricType::Counter)?;
        for (outcome, count) in outcomes {
            ConstCounter::new(count).encode(family.encode_family(&[("outcome", outcome)])?)?;
        }
        for (name, help, counts) in [
            ("failures", "Failed lines by the reason.", &results.failures),
            ("faults", "What went wrong with connections.", &results.faults),
        ] {
            if !counts.is_empty() {
                let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
                for (reason, count) in counts {
                    ConstCounter::new(*count).encode(family.encode_family(&[("reason", reason.as_str())])?)?;
                }
            }
        }
        for (name, help, unit, count) in [
            ("offered", "Lines whose turn came.", None, results.offered),
            ("sent", "Bytes given to sockets.", Some(Unit::Bytes), results.bytes),
            ("sends", "Calls that gave bytes to sockets.", None, results.sends),
            ("connects", "Connections opened.", None, results.connects),
            ("resent", "Lines written again.", None, results.resent),
        ] {
            let family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
            ConstCounter::new(count).encode(family)?;
        }
        Ok(())
    }

    fn encode_gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let results = &self.test.results;
        let mut gauges = vec![
            ("span", "From the first line's turn to the last answer.", Some(Unit::Seconds), results.span_s),
            ("throughput", "Acknowledged lines per second.", None, results.throughput_per_s),
            ("error_ratio", "Failed lines out of finished ones.", None, results.error_rate),
            ("busy_ratio", "Share of the time that workers ran.", None, self.test.resources.client.busy),
        ];
        if let Some(rate) = results.rate {
            gauges.push(("rate_target", "Lines per second that were asked for.", None, rate.target));
            gauges.push(("rate_achieved", "Lines per second that were offered.", None, rate.achieved));
        }
        for (name, help, unit, value) in gauges {
            let family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            ConstGauge::new(value).encode(family)?;
        }
        if !self.test.gates.is_empty() {
            let mut family = encoder.encode_descriptor("gate_pass", "Whether a gate held.", None, MetricType::Gauge)?;
            for gate in &self.test.gates {
                let value = ConstGauge::new(f64::from(u8::from(gate.pass)));
                value.encode(family.encode_family(&[("expr", gate.expr.as_str())])?)?;
            }
        }
        Ok(())
    }
}

fn encode_spread(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, spread: &Spread) -> fmt::Result {
    let mut below = 0;
    let mut buckets = Vec::with_capacity(BOUNDS_S.len() + 1);
    for bound_s in BOUNDS_S {
        let upto = spread.count_upto((bound_s * 1e9) as u64);
        buckets.push((bound_s, upto - below));
        below = upto;
    }
    let count = spread.len() + spread.beyond();
    buckets.push((f64::INFINITY, count - below));
    let sum_s = spread.mean() * spread.len() as f64 / 1e9;
    encoder
        .encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?
        .encode_histogram::<NoLabelSet>(sum_s, count, &buckets, None)
}

/// 10 us to 10 s: 1, 2.5 and 5 of each decade.
const BOUNDS_S: [f64; 19] = [
    10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1.0,
    2.5, 5.0, 10.0,
];
