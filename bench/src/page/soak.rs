//! The page of a soak: what each scenario comes to and why, then its servers over time.

use super::canvas::{Ink, Trouble, escape};
use super::plots::{self, Curve, over_time};
use super::{badge, gates, intervals, machine, span, table};
use crate::soak::record::{LoadSeen, Said, Sample, ServerSeen, Soak, Verdict};
use crate::soak::summary::Looks;

pub(super) fn body(soak: &Soak, looks: &Looks) -> Result<String, Trouble> {
    let mut html =
        format!("<h1>soak {}</h1>\n{}", badge(soak.verdict.as_str()), machine(&soak.system, &soak.timestamp, &[]));
    let head = ["scenario", "verdict", "seconds", "gates that hold", "why not"];
    html += &table(
        &head,
        soak.scenarios.iter().map(|scenario| {
            let holding = scenario.gates.iter().filter(|gate| gate.pass).count();
            vec![
                format!("<a href=\"#{0}\">{0}</a>", escape(&scenario.scenario)),
                badge(scenario.verdict.as_str()),
                format!("{:.0}", scenario.seconds),
                format!("{holding} of {}", scenario.gates.len()),
                escape(&scenario.reasons.join("; ")),
            ]
        }),
    );
    for scenario in &soak.scenarios {
        html += &section(scenario, looks)?;
    }
    Ok(html)
}

fn section(scenario: &Verdict, looks: &Looks) -> Result<String, Trouble> {
    let name = escape(&scenario.scenario);
    let mut html = format!("<h2 id=\"{name}\">{name} {}</h2>\n", badge(scenario.verdict.as_str()));
    for sentence in scenario.reasons.iter().chain(&scenario.notes) {
        html += &format!("<p>{}</p>\n", escape(sentence));
    }
    if !scenario.loads.is_empty() {
        html += &loads(scenario);
    }
    if !scenario.reconciled.is_empty() {
        let head =
            ["stored against acknowledged", "promised", "stored", "lost", "duplicated", "corrupt", "never&nbsp;sent"];
        html += &table(
            &head,
            scenario.reconciled.iter().map(|(name, found)| {
                let counts = [found.acked, found.stored, found.lost, found.duplicated, found.corrupt, found.phantom];
                std::iter::once(escape(name)).chain(counts.map(|count| count.to_string())).collect()
            }),
        );
    }
    for (name, session) in &scenario.compared {
        html += &format!(
            "<h3>{}: B <code>{}</code> over A <code>{}</code>: {}</h3>\n",
            escape(name),
            escape(&session.b),
            escape(&session.a),
            badge(session.verdict.as_str())
        );
        html += &intervals(session)?;
    }
    for (name, server) in &scenario.servers {
        html += &format!("<h3>{}: {}</h3>\n", escape(name), escape(&server.ends.join("; then ")));
        if !server.slopes.is_empty() {
            html += &growth(server);
        }
        if let Some(samples) = looks.get(&(scenario.scenario.clone(), name.clone())).filter(|rows| rows.len() > 2) {
            for (title, plot) in over(&format!("{}: {name}", scenario.scenario), samples)? {
                html += &format!("<h4>{title}</h4>\n{plot}");
            }
        }
        if server.stages.iter().any(|stage| stage.count > 0) {
            html += "<h4>Stages: how often, and how long</h4>\n";
            html += &plots::stages(&format!("{}: {name}", scenario.scenario), &server.stages, scenario.seconds)?;
        }
    }
    html += "<h3>Gates</h3>\n";
    html += &gates(scenario.gates.iter().map(|gate| (scenario.scenario.as_str(), gate)));
    Ok(html)
}

fn loads(scenario: &Verdict) -> String {
    let head = ["load", "code", "records/s", "acked", "failed", "p50", "p95", "p99", "max", "validity"];
    let row = |(name, load): (&String, &LoadSeen)| {
        let us = &load.response_us;
        let name = if load.counts { escape(name) } else { format!("{} (may fail)", escape(name)) };
        vec![
            name,
            load.code.to_string(),
            format!("{:.0}", load.per_s),
            load.acked.to_string(),
            load.failed.to_string(),
            span(us.p50),
            span(us.p95),
            span(us.p99),
            span(us.max),
            escape(&load.validity),
        ]
    };
    table(&head, scenario.loads.iter().map(row))
}

fn growth(server: &ServerSeen) -> String {
    let head = ["growth per hour", "Theil-Sen slope", "95&nbsp;%&nbsp;interval", "windows"];
    table(
        &head,
        server.slopes.iter().map(|(what, slope)| {
            vec![
                escape(what),
                format!("{:.0}", slope.per_hour),
                format!("{:.0}..{:.0}", slope.low, slope.high),
                slope.windows.to_string(),
            ]
        }),
    )
}

/// What a server took over time.
fn over(label: &str, samples: &[Sample]) -> Result<Vec<(&'static str, String)>, Trouble> {
    let end = samples.last().map_or(1.0, |sample| sample.at_s).max(1.0);
    let curve = |name: &str, ink: u8, of: &dyn Fn(&Sample) -> f64| Curve {
        name: name.into(),
        ink: Ink::Curve(ink),
        points: samples.iter().map(|sample| (sample.at_s, of(sample))).collect(),
    };
    // Between two looks at one life.
    let rate = |name: &str, ink: u8, of: &dyn Fn(&Sample) -> u64, unit: f64| Curve {
        name: name.into(),
        ink: Ink::Curve(ink),
        points: samples
            .windows(2)
            .filter(|pair| pair[0].life == pair[1].life)
            .map(|pair| {
                let (a, b) = (&pair[0], &pair[1]);
                let seconds = (b.at_s - a.at_s).max(1e-3);
                ((a.at_s + b.at_s) / 2.0, of(b).saturating_sub(of(a)) as f64 / seconds / unit)
            })
            .collect(),
    };
    let said = |of: fn(&Said) -> u64| move |sample: &Sample| sample.said.as_ref().map_or(0, of);
    let mib = f64::from(1 << 20);
    let plot = |what: &str, curves: &[Curve], unit: &str| over_time(&format!("{label}: {what}"), end, curves, unit);
    Ok(vec![
        (
            "Records stored",
            plot("records per second", &[rate("stored", 0, &said(|said| said.stored), 1.0)], "records/s")?,
        ),
        ("Processor time, % of one core", plot("processor time", &[rate("server", 0, &|s| s.cpu_ns, 1e7)], "%")?),
        (
            "Memory",
            plot(
                "memory",
                &[
                    curve("resident", 0, &|sample| sample.rss_bytes as f64 / mib),
                    curve("proportional", 1, &|sample| sample.pss_bytes as f64 / mib),
                ],
                "MiB",
            )?,
        ),
        (
            "Descriptors, connections and threads",
            plot(
                "descriptors, connections and threads",
                &[
                    curve("descriptors", 0, &|sample| sample.fds as f64),
                    curve("connections", 1, &|sample| said(|said| said.connections)(sample) as f64),
                    curve("threads", 2, &|sample| sample.threads as f64),
                ],
                "",
            )?,
        ),
    ])
}
