//! A parser of OpenMetrics text that refuses whatever the standard does not allow, of the parts that a server uses.

use std::collections::{BTreeMap, BTreeSet};

/// Samples by name and labels as they were written.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Family -> type.
    pub(crate) types: BTreeMap<String, String>,
    pub(crate) samples: BTreeMap<(String, BTreeMap<String, String>), f64>,
}

impl Metrics {
    /// The one sample with this name and these labels.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels = labels.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        *self.samples.get(&(name.to_owned(), labels)).unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// All of this name with this label, added up.
    pub(crate) fn sum(&self, name: &str, label: (&str, &str)) -> f64 {
        let of_label = |labels: &BTreeMap<String, String>| labels.get(label.0).is_some_and(|value| value == label.1);
        let found = self.samples.iter().filter(|((known, labels), _)| known == name && of_label(labels));
        found.map(|(_, value)| value).sum()
    }
}

/// The whole text.
pub(crate) fn parse(text: &str) -> Result<Metrics, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("it does not end with # EOF")?;
    let mut metrics = Metrics::default();
    let mut family: Option<Family> = None;
    for line in body.split_terminator('\n') {
        let fail = |why: &str| format!("{why}: {line:?}");
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (Some(kind), Some(name), Some(rest)) = (words.next(), words.next(), words.next()) else {
                return Err(fail("a comment of no meaning"));
            };
            if family.as_ref().is_none_or(|family| family.name != name || family.has_samples) {
                if metrics.types.contains_key(name) {
                    return Err(fail("a family comes twice, or not in one piece"));
                }
                if !is_name(name) {
                    return Err(fail("no name"));
                }
                finish(&mut metrics, family.take())?;
                metrics.types.insert(name.to_owned(), "unknown".into());
                family = Some(Family { name: name.to_owned(), ..Family::default() });
            }
            let family = family.as_mut().expect("made above");
            let place = match kind {
                "HELP" => &mut family.help,
                "TYPE" if TYPES.contains(&rest) => {
                    metrics.types.insert(name.to_owned(), rest.to_owned());
                    &mut family.kind
                }
                "UNIT" if name.ends_with(&format!("_{rest}")) => &mut family.unit,
                _ => return Err(fail("no HELP, TYPE or UNIT that fits")),
            };
            if place.replace(rest.to_owned()).is_some() {
                return Err(fail("said twice"));
            }
            continue;
        }
        let (series, value) = sample(line).ok_or_else(|| fail("no sample"))?;
        let family = family.as_mut().ok_or_else(|| fail("a sample without a family"))?;
        family.has_samples = true;
        let suffix = series.0.strip_prefix(family.name.as_str()).ok_or_else(|| fail("a sample of another family"))?;
        let allowed: &[&str] = match family.kind.as_deref() {
            Some("counter") => &["_total"],
            Some("gauge" | "stateset") => &[""],
            Some("info") => &["_info"],
            Some("histogram") => &["_bucket", "_count", "_sum"],
            _ => return Err(fail("a sample before its TYPE")),
        };
        if !allowed.contains(&suffix) {
            return Err(fail("an ending that its type does not have"));
        }
        let sound = match (family.kind.as_deref(), suffix) {
            (Some("info"), _) => value == 1.0,
            (Some("stateset"), _) => (value == 0.0 || value == 1.0) && series.1.contains_key(&family.name),
            (Some("counter"), _) | (_, "_bucket" | "_count") => value >= 0.0 && value.is_finite(),
            (_, "_sum") => value >= 0.0,
            _ => true,
        };
        if !sound {
            return Err(fail("a value that its type does not have"));
        }
        if suffix == "_bucket" && !series.1.contains_key("le") {
            return Err(fail("a bucket without its end"));
        }
        if metrics.samples.insert(series, value).is_some() {
            return Err(fail("a series comes twice"));
        }
    }
    finish(&mut metrics, family)?;
    no_name_is_ambiguous(&metrics)?;
    Ok(metrics)
}

#[derive(Default)]
struct Family {
    name: String,
    help: Option<String>,
    kind: Option<String>,
    unit: Option<String>,
    has_samples: bool,
}

/// What can be seen of a family only once all of it is there.
fn finish(metrics: &mut Metrics, family: Option<Family>) -> Result<(), String> {
    let Some(family) = family else { return Ok(()) };
    let of = |suffix: &str| -> Vec<(&BTreeMap<String, String>, f64)> {
        let name = format!("{}{suffix}", family.name);
        metrics
            .samples
            .iter()
            .filter(|((known, _), _)| *known == name)
            .map(|((_, labels), value)| (labels, *value))
            .collect()
    };
    match family.kind.as_deref() {
        Some("histogram") => {
            for (labels, count) in of("_count") {
                let mut buckets: Vec<(f64, f64)> = of("_bucket")
                    .into_iter()
                    .filter(|(known, _)| known.iter().filter(|(name, _)| *name != "le").eq(labels.iter()))
                    .map(|(known, value)| (number(&known["le"]).unwrap_or(f64::NAN), value))
                    .collect();
                buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
                if buckets.last() != Some(&(f64::INFINITY, count)) {
                    return Err(format!("{} {labels:?}: its last bucket is not its count", family.name));
                }
                if !buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1) {
                    return Err(format!("{} {labels:?}: buckets do not add up: {buckets:?}", family.name));
                }
                if !of("_sum").iter().any(|(known, _)| *known == labels) {
                    return Err(format!("{} {labels:?}: it has no sum", family.name));
                }
            }
        }
        Some("stateset") => {
            let mut on: BTreeMap<Vec<_>, f64> = BTreeMap::new();
            for (labels, value) in of("") {
                let rest: Vec<_> = labels.iter().filter(|(name, _)| **name != family.name).collect();
                *on.entry(rest).or_default() += value;
            }
            if on.values().any(|sum| *sum != 1.0) {
                return Err(format!("{}: not in one state: {on:?}", family.name));
            }
        }
        _ => {}
    }
    if family.help.is_none() {
        return Err(format!("{} does not say what it is", family.name));
    }
    Ok(())
}

/// No two families could mean the same sample.
fn no_name_is_ambiguous(metrics: &Metrics) -> Result<(), String> {
    let mut taken = BTreeSet::new();
    for (name, kind) in &metrics.types {
        let suffixes: &[&str] = match kind.as_str() {
            "counter" => &["", "_total", "_created"],
            "histogram" => &["", "_bucket", "_count", "_sum", "_created"],
            "info" => &["", "_info"],
            _ => &[""],
        };
        for suffix in suffixes {
            if !taken.insert(format!("{name}{suffix}")) {
                return Err(format!("{name}{suffix} may belong to two families"));
            }
        }
    }
    Ok(())
}

type Series = (String, BTreeMap<String, String>);

fn sample(line: &str) -> Option<(Series, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => {
            let (labels, value) = rest.split_once("} ")?;
            (pairs(labels)?, value)
        }
        None => (BTreeMap::new(), rest.strip_prefix(' ')?),
    };
    (is_name(name)).then_some(((name.to_owned(), labels), number(value)?))
}

/// `name="value",...`; nothing that is said here needs an escape.
fn pairs(text: &str) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, behind) = rest.split_once("=\"")?;
        let (value, behind) = behind.split_once('"')?;
        let is_sound = is_name(name) && !name.contains(':') && !value.contains('\\');
        if !is_sound || labels.insert(name.to_owned(), value.to_owned()).is_some() {
            return None;
        }
        rest = match behind.strip_prefix(',') {
            Some(more) => more,
            None if behind.is_empty() => behind,
            None => return None,
        };
    }
    Some(labels)
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        _ if text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e')) => text.parse().ok(),
        _ => None,
    }
}

fn is_name(text: &str) -> bool {
    let ok = |(at, byte): (usize, u8)| {
        byte.is_ascii_alphabetic() || b"_:".contains(&byte) || (at > 0 && byte.is_ascii_digit())
    };
    !text.is_empty() && text.bytes().enumerate().all(ok)
}

const TYPES: [&str; 8] = ["counter", "gauge", "histogram", "info", "stateset", "summary", "gaugehistogram", "unknown"];

#[test]
fn it_refuses_what_is_not_allowed() {
    let good = "# HELP a A.\n# TYPE a counter\na_total{x=\"y\"} 1\na_total{x=\"y, z\",w=\"\"} 2\n# HELP b_seconds B.\n# TYPE b_seconds gauge\n\
                # UNIT b_seconds seconds\nb_seconds 1.5e-6\n# EOF\n";
    assert_eq!(parse(good).unwrap().value("a_total", &[("x", "y")]), 1.0);
    assert_eq!(parse(good).unwrap().value("a_total", &[("w", ""), ("x", "y, z")]), 2.0, "a value may have a comma");
    for (from, to) in [
        ("# EOF\n", ""),
        ("a_total{", "a{"),
        ("# TYPE a counter\n", ""),
        ("} 1\n", "} -1\n"),
        ("} 1\n", "} 1\na_total{x=\"y\"} 1\n"),
        ("} 1\n", "} one\n"),
        ("x=\"y\"", "x=y"),
        ("\",w=\"", "\"w=\""),
        ("# UNIT b_seconds seconds", "# UNIT b_seconds bytes"),
        ("# HELP b_seconds B.", "\n# HELP b_seconds B."),
        ("# HELP b_seconds B.\n# TYPE b_seconds gauge", "# HELP a A.\n# TYPE a gauge"),
        ("# HELP a A.\n", ""),
    ] {
        assert_ne!(good.replacen(from, to, 1), good);
        assert!(parse(&good.replacen(from, to, 1)).is_err(), "{to:?} for {from:?}");
    }
    let histogram = |buckets: &str| format!("# HELP h H.\n# TYPE h histogram\nh_sum 1.0\nh_count 3\n{buckets}# EOF\n");
    assert!(parse(&histogram("h_bucket{le=\"0.5\"} 1\nh_bucket{le=\"+Inf\"} 3\n")).is_ok());
    assert!(parse(&histogram("h_bucket{le=\"0.5\"} 4\nh_bucket{le=\"+Inf\"} 3\n")).is_err());
    assert!(parse(&histogram("h_bucket{le=\"0.5\"} 1\n")).is_err());
}
