//! What the shards say, as metrics: OpenMetrics text, or the older Prometheus format for those who do not ask for it.
//!
//! Every number comes from one survey, so within a scrape the books of each shard close exactly:
//! received = stored + filtered + duplicate + rejected + in flight.

use super::io_wq::IoWq;
use super::{Desk, Found, Survey};
use crate::reading::Reading;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use ringest_ingest::{BreakerState, Histogram, Stage, Tally};
use ringest_wire::Code;
use std::fmt::{self, Write};
use std::time::{Duration, Instant, SystemTime};

/// How metrics are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// As OpenMetrics 1.0 has it.
    OpenMetrics,
    /// As Prometheus has always read it, and a browser shows it.
    Prometheus,
}

impl Format {
    /// What a client gets that accepts this: OpenMetrics where it is named and wanted no less than plain text.
    pub(super) fn for_accept(accept: &str) -> Format {
        let mut best = [0.0_f32; 2];
        for entry in accept.split(',') {
            let mut parts = entry.split(';').map(str::trim);
            let at = match parts.next().unwrap_or_default() {
                "application/openmetrics-text" => 0,
                "text/plain" | "text/*" => 1,
                _ => continue,
            };
            let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |weight| weight.parse().ok());
            best[at] = best[at].max(weight.unwrap_or(0.0));
        }
        if best[0] > 0.0 && best[0] >= best[1] { Format::OpenMetrics } else { Format::Prometheus }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// All of them.
///
/// # Errors
/// None that can happen: a string takes everything.
pub(super) fn text(desk: &Desk, survey: &Survey, is_ready: bool, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("ringest");
    registry.register_collector(Box::new(OfServer {
        backend: desk.about.backend,
        started_at: desk.started_at,
        is_ready,
        took: survey.took,
    }));
    registry.register_collector(Box::new(OfShards { shards: survey.shards.clone(), now: survey.now }));
    let mut text = String::new();
    encode_registry(&mut text, &registry)?;
    breakers(&mut text, &survey.shards)?;
    encode_eof(&mut text)?;
    Ok(match format {
        Format::OpenMetrics => text,
        Format::Prometheus => downgrade(&text),
    })
}

#[derive(Debug)]
struct OfServer {
    backend: &'static str,
    started_at: SystemTime,
    is_ready: bool,
    took: Duration,
}

impl Collector for OfServer {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("backend", self.backend)];
        encoder.encode_descriptor("build", "What runs.", None, MetricType::Info)?.encode_info(&labels)?;
        let started = self.started_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let gauges = [
            ("start_time", "When the server was started, since the epoch.", Some(Unit::Seconds), started),
            ("ready", "Whether /readyz says yes.", None, f64::from(u8::from(self.is_ready))),
            ("survey", "How long the shards took to answer.", Some(Unit::Seconds), self.took.as_secs_f64()),
        ];
        for (name, help, unit, value) in gauges {
            let family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            ConstGauge::new(value).encode(family)?;
        }
        let Some(IoWq { workers, sleeps, cpu }) = IoWq::look() else { return Ok(()) };
        let gauges = [
            ("io_wq_workers", "The kernel's own threads that work for rings now.", None, workers as f64),
            ("io_wq_sleeps", "How often these slept: about once per operation.", None, sleeps as f64),
            ("io_wq_cpu", "Processor time of these.", Some(Unit::Seconds), cpu.as_secs_f64()),
        ];
        for (name, help, unit, value) in gauges {
            let family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            ConstGauge::new(value).encode(family)?;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct OfShards {
    shards: Vec<Found>,
    now: Instant,
}

/// A counter of each shard: name, help, unit, and where it stands in the books.
type Counted = (&'static str, &'static str, Option<Unit>, fn(&Tally) -> u64);

const COUNTERS: [Counted; 21] = [
    ("lines_received", "Lines received.", None, |tally| tally.received),
    ("lines_stored", "Records whose write has completed.", None, |tally| tally.stored),
    ("lines_filtered", "Records below the minimum level.", None, |tally| tally.filtered),
    ("lines_duplicate", "Lines that a producer sent again.", None, |tally| tally.duplicate),
    ("lines_unknown_level", "Records stored with a level that is not known.", None, |tally| tally.unknown_level),
    ("received", "Bytes received on connections and in datagrams.", Some(Unit::Bytes), |tally| tally.received_bytes),
    ("stored", "Bytes of stored records, newlines counted.", Some(Unit::Bytes), |tally| tally.stored_bytes),
    ("blocks_written", "Blocks whose write has completed.", None, |tally| tally.blocks),
    ("syncs", "Syncs that succeeded.", None, |tally| tally.syncs),
    ("storage_failures", "Writes and syncs that failed.", None, |tally| tally.storage_failures),
    ("storage_breaker_openings", "How often the storage breaker opened.", None, |tally| tally.storage_breaker_opened),
    ("line_breaker_openings", "How often a connection's breaker opened.", None, |tally| tally.line_breakers_opened),
    ("connections_accepted", "Connections taken.", None, |tally| tally.sessions),
    ("replies_suppressed", "Connections that took no reply and get none.", None, |tally| tally.acks_suppressed),
    ("tls_handshakes", "TLS handshakes that came to an end.", None, |tally| tally.tls_handshakes),
    ("tls_failures", "Connections whose encryption failed.", None, |tally| tally.tls_failures),
    ("udp_datagrams", "Datagrams received.", None, |tally| tally.udp_datagrams),
    ("udp_datagrams_cut", "Of these, too long for their buffer.", None, |tally| tally.udp_cut),
    ("udp_kernel_drops", "Datagrams that the kernel had no room for.", None, |tally| tally.udp_kernel_drops),
    ("connections_shed_over_share", "Sent away for taking more than a share.", None, |tally| tally.shed_over_share),
    ("connections_shed_overdue", "Sent away after waiting too long for room.", None, |tally| tally.shed_overdue),
];

impl Collector for OfShards {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        self.encode_up(encoder)?;
        for (name, help, unit, count) in COUNTERS {
            self.encode_counter(encoder, name, help, unit.as_ref(), |reading| {
                vec![(Vec::new(), count(&reading.tally))]
            })?;
        }
        self.encode_counter(encoder, "lines_rejected", "Lines refused, by code.", None, |reading| {
            by_code(&reading.tally.rejected)
        })?;
        self.encode_counter(
            encoder,
            "connections_ended",
            "Connections ended by the server, by code.",
            None,
            |reading| by_code(&reading.tally.ended),
        )?;
        self.encode_counter(
            encoder,
            "connections_refused",
            "Connections not taken: as many as may be.",
            None,
            |reading| {
                let bound = |name| vec![("bound", name)];
                vec![(bound("all"), reading.tally.refused_full), (bound("address"), reading.tally.refused_address)]
            },
        )?;
        self.encode_setup(encoder)?;
        self.encode_counter(encoder, "driver_events", "What the kernel interface counted.", None, |reading| {
            reading.counters.iter().map(|&(name, count)| (vec![("event", name)], count)).collect()
        })?;
        let (seconds, now) = (Some(&Unit::Seconds), self.now);
        let age = |at: Instant| now.saturating_duration_since(at).as_secs_f64();
        self.encode_gauge(encoder, "lines_in_flight", "Records before the end of their write.", None, |reading| {
            Some(reading.in_flight as f64)
        })?;
        self.encode_gauge(encoder, "connections", "Connections now.", None, |reading| Some(reading.sessions as f64))?;
        self.encode_gauge(encoder, "storage_refuses", "Whether lines are refused for storage.", None, |reading| {
            Some(f64::from(u8::from(reading.storage.refuses.is_some())))
        })?;
        // There is no age before the first sync: a number would be a lie.
        self.encode_gauge(encoder, "last_sync_age", "Since the last durable sync.", seconds, |reading| {
            reading.storage.synced_at.map(age)
        })?;
        self.encode_gauge(
            encoder,
            "oldest_unsafe_age",
            "Age of the oldest record that is not safe.",
            seconds,
            |reading| Some(reading.storage.unsafe_since.map_or(0.0, age)),
        )?;
        self.encode_stages(encoder)
    }
}

/// Labels beside that of the shard.
type Labels = Vec<(&'static str, &'static str)>;

impl OfShards {
    fn readings(&self) -> impl Iterator<Item = &Reading> {
        self.shards.iter().filter_map(|(_, reading)| reading.as_ref())
    }

    fn encode_up(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Whether the shard answered; of one that did not, there is nothing else here.";
        let mut family = encoder.encode_descriptor("shard_up", help, None, MetricType::Gauge)?;
        for (shard, reading) in &self.shards {
            let labels = [("shard", shard.to_string())];
            ConstGauge::new(i64::from(reading.is_some())).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn encode_setup(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "The kernel interface as it was set up.";
        let mut family = encoder.encode_descriptor("driver", help, None, MetricType::Info)?;
        for reading in self.readings() {
            let shard = [("shard", reading.shard.to_string())];
            family.encode_family(&shard)?.encode_info(&[("setup", reading.setup.as_ref())])?;
        }
        Ok(())
    }

    fn encode_counter(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        counts: impl Fn(&Reading) -> Vec<(Labels, u64)>,
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for reading in self.readings() {
            for (labels, count) in counts(reading) {
                let labels = labelled(reading, labels);
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn encode_gauge(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: impl Fn(&Reading) -> Option<f64>,
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for reading in self.readings() {
            let Some(value) = value(reading) else { continue };
            ConstGauge::new(value).encode(family.encode_family(&labelled(reading, Vec::new()))?)?;
        }
        Ok(())
    }

    fn encode_stages(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "How long each stage of a record's way took, per chunk, batch, write, sync or send.";
        let mut family = encoder.encode_descriptor("stage", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for reading in self.readings() {
            for stage in Stage::ALL {
                let labels = labelled(reading, vec![("stage", stage.as_str())]);
                let histogram = reading.tally.stages.get(stage);
                family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                    histogram.sum().as_secs_f64(),
                    histogram.count(),
                    &coarse(histogram),
                    None,
                )?;
            }
        }
        Ok(())
    }
}

fn labelled(reading: &Reading, labels: Labels) -> Vec<(&'static str, String)> {
    let rest = labels.into_iter().map(|(name, value)| (name, value.to_owned()));
    [("shard", reading.shard.to_string())].into_iter().chain(rest).collect()
}

/// All codes, also those that have not come yet: a series that begins with its first event shows no rise.
fn by_code(counts: &[u64; Code::COUNT]) -> Vec<(Labels, u64)> {
    Code::ALL.into_iter().map(|code| (vec![("code", code.as_str())], counts[code as usize])).collect()
}

/// The same durations in wider buckets, one per power of two of nanoseconds from 1 µs to 17 s. The shard's own buckets end
/// there too, so that no count is estimated. Each bucket: its end in seconds, and how many it holds by itself.
fn coarse(histogram: &Histogram) -> Vec<(f64, u64)> {
    let mut coarse = Vec::with_capacity(BUCKETS);
    let mut here = 0;
    for (upper, count) in histogram.buckets() {
        here += count;
        match upper {
            Some(upper) if upper >= BUCKET_MIN && upper <= BUCKET_MAX && upper.as_nanos().is_power_of_two() => {
                coarse.push((upper.as_secs_f64(), std::mem::take(&mut here)));
            }
            Some(_) => {}
            None => coarse.push((f64::INFINITY, std::mem::take(&mut here))), // Written as +Inf.
        }
    }
    coarse
}

/// What the library has no type for: a state set, of whose samples one is 1.
fn breakers(text: &mut String, shards: &[Found]) -> fmt::Result {
    const NAME: &str = "ringest_storage_breaker";
    writeln!(text, "# HELP {NAME} Whether writes are tried: closed as always, half-open a few, open none.")?;
    writeln!(text, "# TYPE {NAME} stateset")?;
    for reading in shards.iter().filter_map(|(_, reading)| reading.as_ref()) {
        for state in [BreakerState::Closed, BreakerState::Open, BreakerState::HalfOpen] {
            let is = u8::from(reading.breaker == state);
            writeln!(text, "{NAME}{{shard=\"{}\",{NAME}=\"{}\"}} {is}", reading.shard, state.as_str())?;
        }
    }
    Ok(())
}

/// The same samples as the Prometheus text format wants them described: a counter's and an info's name with its ending, no
/// units, no end, and a gauge for what it has no type for.
fn downgrade(text: &str) -> String {
    let mut kinds = std::collections::HashMap::new();
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        if let (Some("#"), Some("TYPE"), Some(name), Some(kind)) =
            (words.next(), words.next(), words.next(), words.next())
        {
            kinds.insert(name, kind);
        }
    }
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        let words = [(); 4].map(|()| words.next().unwrap_or_default());
        let name = match kinds.get(words[2]) {
            Some(&"counter") => format!("{}_total", words[2]),
            Some(&"info") => format!("{}_info", words[2]),
            _ => words[2].to_owned(),
        };
        match (words[0], words[1]) {
            ("#", "HELP") => out += &format!("# HELP {name} {}", words[3]),
            ("#", "TYPE") => {
                let kind = if matches!(words[3], "info" | "stateset") { "gauge" } else { words[3] };
                out += &format!("# TYPE {name} {kind}");
            }
            ("#", _) => continue,
            _ => out += line,
        }
        out.push('\n');
    }
    out
}

const BUCKET_MIN: Duration = Duration::from_nanos(1 << 10);
const BUCKET_MAX: Duration = Duration::from_nanos(1 << 34);
/// From 2^10 to 2^34, and the rest.
const BUCKETS: usize = 26;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_openmetrics_gets_it_and_a_browser_gets_text() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        for (accept, format) in [
            (prometheus, Format::OpenMetrics),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("application/openmetrics-text; version=1.0.0; q=0.1, text/plain", Format::Prometheus),
            ("application/openmetrics-text;q=0", Format::Prometheus),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Format::Prometheus),
            ("application/openmetrics-text;q=none", Format::Prometheus),
            ("", Format::Prometheus),
        ] {
            assert_eq!(Format::for_accept(accept), format, "{accept}");
        }
    }

    #[test]
    fn wider_buckets_hold_the_same_durations() {
        let histogram =
            Histogram::from_counts([(0, 3), (1, 5), (4, 7), (60, 11), (Histogram::BUCKETS - 1, 13)], Duration::ZERO);
        let histogram = histogram.unwrap();
        let coarse = coarse(&histogram);
        assert_eq!(coarse.len(), BUCKETS);
        assert_eq!(coarse[0], (1024e-9, 15), "3 of 512 ns, 5 of 640 and 7 of 1024");
        assert_eq!(coarse.last(), Some(&(f64::INFINITY, 13)));
        assert_eq!(coarse.iter().map(|(_, count)| count).sum::<u64>(), histogram.count());
    }

    #[test]
    fn the_older_format_has_the_same_samples() {
        let new = "# HELP a A.\n# TYPE a counter\n# UNIT a bytes\na_total{shard=\"0\"} 1\n# HELP b B b.\n# TYPE b info\n\
                   b_info{x=\"y\"} 1\n# HELP c C.\n# TYPE c stateset\nc{c=\"on\"} 1\n# HELP d D.\n# TYPE d gauge\nd 2\n# EOF\n";
        let old = "# HELP a_total A.\n# TYPE a_total counter\na_total{shard=\"0\"} 1\n# HELP b_info B b.\n\
                   # TYPE b_info gauge\nb_info{x=\"y\"} 1\n# HELP c C.\n# TYPE c gauge\nc{c=\"on\"} 1\n# HELP d D.\n\
                   # TYPE d gauge\nd 2\n";
        assert_eq!(downgrade(new), old);
    }
}
