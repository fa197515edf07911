//! The interval log of HdrHistogram: one histogram per second and kind, to be added, cut and drawn by other tools.
//!
//! ```text
//! #[Histogram log format version 1.3]
//! #[BaseTime: 1774000000.000 (seconds since epoch)]
//! #[StartTime: 1774000000.000 (seconds since epoch), 2026-03-20T09:46:40Z]
//! "StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"
//! Tag=response,0.000,1.000,4.325,HISTFAAA…
//! ```
//!
//! Values are nanoseconds; `Interval_Max` is in milliseconds, as readers expect. Tags: `response`, `service`, `slip`, and the
//! same behind `warmup.` for what a report does not count; `hiccup` is how late an idle thread was woken.

use crate::interval::Phase;
use crate::latency::Spread;
use crate::report::utc;
use crate::timeline::Second;
use std::time::SystemTime;

/// What stands above the first interval of a run that began then.
pub(super) fn head(began: SystemTime) -> String {
    let epoch_s = began.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    format!(
        "#[Histograms of ringest-loadgen: nanoseconds; Interval_Max in milliseconds]\n\
         #[Histogram log format version 1.3]\n\
         #[BaseTime: {epoch_s:.3} (seconds since epoch)]\n\
         #[StartTime: {epoch_s:.3} (seconds since epoch), {}]\n\
         \"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n",
        utc(began)
    )
}

/// The lines of one second, during which an idle thread was woken that late. A kind that measured nothing has none.
pub(super) fn lines(second: &Second, hiccups: &Spread) -> String {
    let mut out = String::new();
    let latency = &second.latency;
    let prefix = match second.phase {
        Phase::WarmUp => "warmup.",
        Phase::Measured | Phase::Drain => "",
    };
    let (start_s, length_s) = (second.start_ns as f64 / 1e9, second.length_s());
    for (prefix, tag, spread) in [
        (prefix, "response", &latency.response),
        (prefix, "service", &latency.service),
        (prefix, "slip", &latency.slip),
        ("", "hiccup", hiccups),
    ] {
        if !spread.is_empty() {
            let (max_ms, histogram) = (spread.max() as f64 / 1e6, spread.encode());
            let line = format!("Tag={prefix}{tag},{start_s:.3},{length_s:.3},{max_ms:.3},{histogram}\n");
            out.push_str(&line);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    use std::time::Duration;

    #[test]
    fn the_reader_of_the_library_finds_every_interval_and_every_count() {
        let began = SystemTime::UNIX_EPOCH + Duration::from_millis(1_774_000_000_250);
        let mut second = Second { phase: Phase::Measured, end_ns: 1_000_250_000, ..Second::new(began) };
        for ns in [900, 4_325_000, 77_000_000] {
            second.latency.response.record(ns, 5);
            second.latency.service.record(ns, 2);
        }
        let text = head(began) + &lines(&second, &Spread::new());
        let entries: Vec<_> = IntervalLogIterator::new(text.as_bytes()).map(Result::unwrap).collect();
        assert!(matches!(entries[0], LogEntry::BaseTime(base) if base.as_secs_f64() == 1_774_000_000.25));
        let mut tags = Vec::new();
        for entry in &entries {
            if let LogEntry::Interval(interval) = entry {
                let tag = interval.tag().unwrap();
                let spread =
                    if tag.as_str() == "response" { &second.latency.response } else { &second.latency.service };
                let bytes = crate::latency::tests::unbase64(interval.encoded_histogram());
                let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
                assert_eq!(histogram.len(), spread.len());
                assert_eq!(histogram.max(), spread.max());
                assert_eq!(interval.max(), (spread.max() as f64 / 1e3).round() / 1e3);
                assert_eq!(interval.duration(), Duration::from_secs(1));
                tags.push(tag.as_str());
            }
        }
        assert_eq!(tags, ["response", "service"], "nothing was late, so there is no line for it");
        let mut hiccups = Spread::new();
        hiccups.record(60_000, 900);
        let warm_up = lines(&Second { phase: Phase::WarmUp, ..second }, &hiccups);
        assert!(warm_up.starts_with("Tag=warmup.response,0.000,") && warm_up.contains("\nTag=hiccup,0.000,"));
    }
}
