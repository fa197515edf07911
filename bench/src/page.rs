//! A report as a page: one file that loads nothing, runs nothing, prints, and reads on a wide and a narrow screen, light
//! and dark.
//!
//! It shows what the report holds and computes no figure of its own.

mod canvas;
mod plots;
mod soak;

use crate::compare::paired::{Comparison, Verdict};
use crate::compare::{self, Compared, Session};
use crate::report::{self, Gate, Report, System, Test};
use crate::soak::Soak;
use crate::soak::summary::Looks;
use crate::spread::Spread;
use canvas::{Ink, Trouble, escape, plot};
use plotters::chart::ChartBuilder;
use plotters::element::{Circle, EmptyElement, PathElement, Rectangle, Text};
use serde_json::Value;
use std::fs;
use std::io;
use std::path::Path;

/// The page of a suite.
///
/// # Errors
/// A plot cannot be drawn.
pub fn of_report(report: &Report) -> io::Result<String> {
    let body = report_body(report).map_err(|trouble| io::Error::other(format!("a plot cannot be drawn: {trouble}")))?;
    Ok(page(&format!("ringest-bench {}", report.suite), &body))
}

/// The page of a comparison.
///
/// # Errors
/// A plot cannot be drawn.
pub fn of_session(session: &Session) -> io::Result<String> {
    let body =
        session_body(session).map_err(|trouble| io::Error::other(format!("a plot cannot be drawn: {trouble}")))?;
    Ok(page("ringest-bench compare", &body))
}

/// The page of a soak, with what its servers took over time.
///
/// # Errors
/// A plot cannot be drawn.
pub fn of_soak(soak: &Soak, looks: &Looks) -> io::Result<String> {
    let body =
        soak::body(soak, looks).map_err(|trouble| io::Error::other(format!("a plot cannot be drawn: {trouble}")))?;
    Ok(page("ringest-bench soak", &body))
}

/// The page of a report that was written down.
///
/// # Errors
/// It cannot be read, or is of no form that is known here.
pub fn of_json(path: &Path) -> io::Result<String> {
    let explain = |what: String| io::Error::other(format!("{}: {what}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| explain(error.to_string()))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| explain(error.to_string()))?;
    match value["schema"].as_str() {
        Some(report::SCHEMA) => of_report(&serde_json::from_value(value).map_err(|error| explain(error.to_string()))?),
        Some(compare::SCHEMA) => {
            of_session(&serde_json::from_value(value).map_err(|error| explain(error.to_string()))?)
        }
        Some(other) => Err(explain(format!("is of the form {other}, not {} or {}", report::SCHEMA, compare::SCHEMA))),
        None => Err(explain("is no report of ringest-bench".into())),
    }
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"content-security-policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{}</title>\n<style>\n{}</style>\n</head>\n<body>\n{body}</body>\n</html>\n",
        escape(title),
        include_str!("page/style.css"),
    )
}

fn report_body(report: &Report) -> Result<String, Trouble> {
    let mut html = format!(
        "<h1>{} {}</h1>\n{}",
        escape(&report.suite),
        badge(report.verification.verdict.as_str()),
        machine(&report.system, &report.timestamp, &report.command)
    );
    let target = &report.target;
    let word = |word: &Option<String>| word.as_deref().map_or_else(|| "?".to_owned(), escape);
    html += &format!(
        "<p class=\"soft\">{} {}, {}, {} shards on cpu {}; generator on cpu {}</p>\n",
        escape(&target.server),
        word(&target.version),
        word(&target.backend),
        target.shards.map_or_else(|| "?".into(), |shards| shards.to_string()),
        word(&target.cpus),
        word(&target.generator_cpus)
    );
    if let Some(knee) = &report.knee {
        html += &format!("<p>Knee: <b>{:.0}</b> records/s, {}</p>\n", knee.records_per_s, escape(&knee.how));
    }
    for remark in &report.verification.remarks {
        html += &format!("<p>{}</p>\n", escape(remark));
    }
    html += "<h2>Tests</h2>\n";
    html += &summary(&report.tests);
    let long: Vec<&Test> = report.tests.iter().collect();
    html += "<h2>Response times</h2>\n<p class=\"soft\">From the intended time (open loop) or the sending (closed loop) to the \
             answer, by percentile.</p>\n";
    for (at, few) in long.chunks(usize::from(canvas::CURVES)).enumerate() {
        html += &plots::percentiles(&format!("Response times by percentile, part {}", at + 1), few)?;
    }
    html += "<h2>Gates</h2>\n";
    html += &gate_table(report);
    for test in &report.tests {
        html += &section(test)?;
    }
    Ok(html)
}

fn machine(system: &System, timestamp: &str, command: &[String]) -> String {
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    format!(
        "<p class=\"soft\">{}, {}: {} of {} processors, {} MiB, Linux {}, {}</p>\n<p class=\"soft\"><code>{}</code></p>\n",
        escape(timestamp),
        escape(&system.cpu),
        system.cores,
        system.cpu_count,
        system.memory_mb,
        escape(&system.kernel),
        escape(&system.file_system),
        escape(&command.join(" ")),
    )
}

fn badge(word: &str) -> String {
    format!("<span class=\"verdict {0}\">{0}</span>", escape(word))
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    // Words may break, figures may not.
    let class = |at: usize| if head[at].contains(' ') && at > 0 { " class=\"word\"" } else { "" };
    let cells = |kind: &str, cells: &mut dyn Iterator<Item = &str>| -> String {
        cells.enumerate().map(|(at, cell)| format!("<{kind}{}>{cell}</{kind}>", class(at))).collect()
    };
    let rows: String =
        rows.map(|row| format!("<tr>{}</tr>\n", cells("td", &mut row.iter().map(String::as_str)))).collect();
    let head = cells("th", &mut head.iter().copied());
    format!("<div class=\"table\"><table>\n<tr>{head}</tr>\n{rows}</table></div>\n")
}

fn summary(tests: &[Test]) -> String {
    let head = [
        "test",
        "verdict",
        "records/s",
        "errors",
        "lost",
        "p50",
        "p95",
        "p99",
        "max",
        "CPU&nbsp;%",
        "ns/record",
        "MiB",
        "validity",
    ];
    table(
        &head,
        tests.iter().map(|test| {
            let (results, resources) = (&test.results, &test.resources);
            let us = &results.response_us;
            vec![
                format!("<a href=\"#{0}\">{0}</a>", escape(&test.name)),
                badge(test.verdict.as_str()),
                format!("{:.0}", results.actual_rps),
                results.total_errors.to_string(),
                test.reconciliation.as_ref().map_or_else(|| "-".into(), |found| found.wrong().to_string()),
                span(us.p50),
                span(us.p95),
                span(us.p99),
                span(us.max),
                format!("{:.0}", resources.avg_cpu_percent),
                format!("{:.0}", resources.cpu_ns_per_record),
                format!("{:.1}", resources.peak_memory_mb),
                escape(&test.validity.verdict),
            ]
        }),
    )
}

/// What does not hold, and behind a fold what does.
fn gate_table(report: &Report) -> String {
    let of_all = report.verification.gates.iter().map(|gate| ("all", gate));
    let of_tests = report.tests.iter().flat_map(|test| test.gates.iter().map(|gate| (test.name.as_str(), gate)));
    gates(of_all.chain(of_tests))
}

/// What does not hold, and folded away what does.
fn gates<'a>(gates: impl Iterator<Item = (&'a str, &'a Gate)>) -> String {
    let (holding, failing): (Vec<_>, Vec<_>) = gates.partition(|(_, gate)| gate.pass);
    let table = |gates: &[(&str, &Gate)]| {
        table(
            &["", "what has to hold", "measured", "of"],
            gates.iter().map(|(name, gate)| {
                let word = badge(if gate.pass { "pass" } else { "fail" });
                vec![word, escape(&gate.expr), Figures(gate.actual).to_string(), escape(name)]
            }),
        )
    };
    let mut html = String::new();
    if failing.is_empty() {
        html += "<p>All hold.</p>\n";
    } else {
        html += &table(&failing);
    }
    html + &format!("<details><summary>{} that hold</summary>\n{}</details>\n", holding.len(), table(&holding))
}

/// A number to four digits or so.
struct Figures(f64);

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.abs() {
            size if size >= 100.0 || self.0.fract() == 0.0 => write!(f, "{:.0}", self.0),
            size if size >= 1.0 => write!(f, "{:.2}", self.0),
            _ => write!(f, "{:.5}", self.0),
        }
    }
}

fn section(test: &Test) -> Result<String, Trouble> {
    let (config, results) = (&test.config, &test.results);
    let mut html = format!("<h2 id=\"{0}\">{0} {1}</h2>\n", escape(&test.name), badge(test.verdict.as_str()));
    let rate = config.rate.map_or_else(|| "one line in flight on each".to_owned(), |rate| format!("{rate} records/s"));
    let share = config.of_knee.map_or_else(String::new, |share| format!(", {:.0} % of the knee", share * 100.0));
    html += &format!(
        "<p class=\"soft\">{} loop, {} mode, {} connections, {rate}{share}, {}-byte records, done: {}; {:.2} s</p>\n",
        escape(&config.model),
        escape(&config.mode),
        config.concurrency,
        config.record_size,
        escape(&config.ack),
        results.duration_secs,
    );
    if let Some(exit) = test.resources.exit.as_ref().filter(|exit| !exit.is_clean) {
        html += &format!("<p>The server ended {}</p>\n", escape(&exit.how));
    }
    for example in test.reconciliation.iter().flat_map(|found| &found.examples) {
        html += &format!("<p>{}</p>\n", escape(example));
    }
    if results.series.len() >= SECONDS_MIN {
        html += "<h3>Throughput</h3>\n";
        html += &plots::throughput(test)?;
        html += "<h3>Response time: the stronger the colour, the more lines; the line is p99</h3>\n";
        html += &plots::heat(test)?;
        html += "<h3>Validity</h3>\n<p class=\"legend\"><span class=\"key\" style=\"--ink:var(--good)\">ok</span>\
                 <span class=\"key\" style=\"--ink:var(--warn)\">late because the server took no more</span>\
                 <span class=\"key\" style=\"--ink:var(--bad)\">late by generator or host</span></p>\n";
        html += &plots::validity(test)?;
        for (title, svg) in plots::resources(test)? {
            html += &format!("<h3>{title}</h3>\n{svg}");
        }
    } else {
        html += "<p class=\"soft\">Over too soon to be drawn over time.</p>\n";
    }
    let stages = plots::stages(&test.name, &test.stages, test.results.duration_secs)?;
    if !stages.is_empty() {
        html += "<h3>Stages in the server: how often, and how long</h3>\n<p class=\"soft\">Dots are means, bars reach from p50 to \
                 p99; along a diagonal, time per second is the same.</p>\n";
        html += &stages;
    }
    Ok(html)
}

fn session_body(session: &Session) -> Result<String, Trouble> {
    let verdict = if session.interrupted { "interrupted" } else { session.verdict.as_str() };
    let settings = &session.settings;
    let mut html = format!(
        "<h1>compare: B is {}</h1>\n{}",
        badge(verdict),
        machine(&session.system, &session.timestamp, &session.command)
    );
    html += &format!(
        "<p>A <code>{}</code><br>B <code>{}</code></p>\n<p class=\"soft\">{} pairs of A with itself, as many of A with B; {} s \
         warm-up, {} s window, {} connections, {}-byte records, seed {}; server on cpu {}, generator on cpu {}</p>\n",
        escape(&session.a),
        escape(&session.b),
        settings.pairs,
        settings.warm_up_s,
        settings.window_s,
        settings.connections,
        settings.record_size,
        settings.seed,
        settings.server_cpus.as_deref().unwrap_or("any"),
        settings.generator_cpus.as_deref().unwrap_or("any"),
    );
    html += "<h2>B over A</h2>\n<p class=\"soft\">The bar is the 95 % interval of the median, dots are pairs, the band is the \
             margin: what lies within it is the same.</p>\n";
    html += &intervals(session)?;
    let head = ["median (min..max)", "A", "B", "B/A", "95&nbsp;%&nbsp;interval", "A/A", "margin", "p", "verdict"];
    html += &table(
        &head,
        session.figures.iter().map(|compared| {
            let Comparison { ratio, low, high, p, margin, verdict, .. } = &compared.comparison;
            let spread = |side: fn(&(f64, f64)) -> f64| {
                Spread::of(compared.pairs.iter().map(side)).map_or_else(String::new, |spread| format!("{spread:.0}"))
            };
            vec![
                escape(compared.figure.label()),
                spread(|pair| pair.0),
                spread(|pair| pair.1),
                format!("{ratio:.3}"),
                format!("{low:.3}..{high:.3}"),
                format!("{:.1} %", compared.noise_floor * 100.0),
                format!("{:.1} %", margin * 100.0),
                format!("{p:.4}"),
                badge(verdict.as_str()),
            ]
        }),
    );
    Ok(html)
}

/// One row per figure: its margin as a band, its pairs as dots, its interval as a bar.
fn intervals(session: &Session) -> Result<String, Trouble> {
    let figures = &session.figures;
    let ratios = figures.iter().flat_map(|compared| {
        let Comparison { low, high, margin, .. } = compared.comparison;
        let pairs = compared.pairs.iter().filter(|(a, b)| *a > 0.0 && *b > 0.0).map(|(a, b)| b / a);
        pairs.chain([low, high, 1.0 + margin, 1.0 / (1.0 + margin)]).collect::<Vec<f64>>()
    });
    // A figure that is nearly nothing may be a hundred times as much in a run, and would press all others flat.
    let (low, high) = ratios
        .filter(|ratio| ratio.is_finite() && (0.2..=5.0).contains(ratio))
        .fold((0.95, 1.05), |(low, high): (f64, f64), ratio| (low.min(ratio), high.max(ratio)));
    let (low, high) = (low * 0.98, high * 1.02);
    plot("Ratios of B to A with their intervals", 90 + 62 * figures.len() as u32, |area, room| {
        let mut builder = ChartBuilder::on(area);
        builder.margin_top(10).margin_right(20).margin_left(10).x_label_area_size(30);
        let mut chart = builder.build_cartesian_2d(low..high, 0.0..figures.len() as f64)?;
        chart
            .configure_mesh()
            .disable_mesh()
            .disable_y_axis()
            .x_labels(room.x_labels())
            .x_label_formatter(&|x| format!("{x:.2}"))
            .axis_style(Ink::Axis.line(1))
            .label_style(Ink::Text.letters())
            .draw()?;
        for (at, Compared { figure, pairs, comparison, .. }) in figures.iter().enumerate() {
            let y = (figures.len() - 1 - at) as f64;
            let within = |x: f64| x.clamp(low, high);
            let margin = 1.0 + comparison.margin;
            let band = [(within(1.0 / margin), y + 0.08), (within(margin), y + 0.62)];
            chart.draw_series([Rectangle::new(band, Ink::Grid.area())])?;
            let dots =
                pairs.iter().filter(|(a, _)| *a > 0.0).map(|(a, b)| b / a).filter(|ratio| (low..=high).contains(ratio));
            chart.draw_series(dots.map(|ratio| Circle::new((ratio, y + 0.35), 2, Ink::Axis.area())))?;
            let ink = match comparison.verdict {
                Verdict::Faster => Ink::Good,
                Verdict::Slower => Ink::Bad,
                Verdict::Same => Ink::Curve(0),
                Verdict::Unclear => Ink::Warn,
            };
            let bar = [(within(comparison.low), y + 0.35), (within(comparison.high), y + 0.35)];
            chart.draw_series([PathElement::new(bar, ink.line(3))])?;
            chart.draw_series([Circle::new((within(comparison.ratio), y + 0.35), 5, ink.area())])?;
            let name = format!("{}: {}", figure.label(), comparison.verdict);
            chart.draw_series([EmptyElement::at((low, y + 0.92)) + Text::new(name, (2, 0), Ink::Text.letters())])?;
        }
        chart.draw_series([PathElement::new([(1.0, 0.0), (1.0, figures.len() as f64)], Ink::Axis.line(1))])?;
        Ok(())
    })
}

/// Microseconds, in the unit a person would choose.
fn span(us: f64) -> String {
    ringest_loadgen::report::span(us).replace(' ', "&nbsp;")
}

/// What is over sooner has no course that a plot could show.
const SECONDS_MIN: usize = 2;
