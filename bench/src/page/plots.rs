//! The plots of a test: what was offered and taken, how long it took, who was late, what it cost, all on one axis of time;
//! then the whole distribution, and where a record's time went.

use super::canvas::{Area, HEATS, Ink, Room, Trouble, plot};
use crate::report::{Second, Stage, Test};
use crate::sampler::Row;
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::CoordTranslate;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::combinators::IntoLogRange;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::element::{Circle, EmptyElement, PathElement, Rectangle, Text};
use plotters::prelude::SVGBackend;
use plotters::series::LineSeries;

/// A curve with its name.
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) ink: Ink,
    pub(super) points: Vec<(f64, f64)>,
}

/// Throughput and the rate that was offered, over time.
pub(super) fn throughput(test: &Test) -> Result<String, Trouble> {
    // The rest of a second at the end, or at a change of phase, is too short to have a rate.
    let series = || test.results.series.iter().filter(|row| row.length_s >= LENGTH_MIN_S);
    let rate = |of: fn(&Second) -> u64| -> Vec<(f64, f64)> {
        series().map(|row| (middle(row), of(row) as f64 / row.length_s.max(1e-9))).collect()
    };
    let mut curves = vec![
        Curve { name: "offered".into(), ink: Ink::Curve(1), points: rate(|row| row.offered) },
        Curve { name: "acknowledged".into(), ink: Ink::Curve(0), points: rate(|row| row.acked) },
    ];
    if test.results.total_errors > 0 {
        curves.push(Curve { name: "failed".into(), ink: Ink::Bad, points: rate(|row| row.failed) });
    }
    over_time(&format!("{}: records per second over time", test.name), end(test), &curves, "records/s")
}

/// The server's processor time, memory, descriptors and switches, over time.
pub(super) fn resources(test: &Test) -> Result<Vec<(&'static str, String)>, Trouble> {
    let Some(server) = &test.resources.server else { return Ok(Vec::new()) };
    let curve = |name: &str, ink: u8, rows: &[Row], of: fn(&Row) -> f64| Curve {
        name: name.into(),
        ink: Ink::Curve(ink),
        points: rows.iter().map(|row| (row.t_s - row.interval_s / 2.0, of(row))).collect(),
    };
    let rows = &server.rows[..];
    let generator = test.resources.generator.as_ref().map_or(&[][..], |usage| &usage.rows[..]);
    let per_s = |switches: u64, row: &Row| switches as f64 / row.interval_s.max(1e-9);
    let switches = Curve {
        name: "voluntary".into(),
        ink: Ink::Curve(0),
        points: rows.iter().map(|row| (row.t_s - row.interval_s / 2.0, per_s(row.voluntary_switches, row))).collect(),
    };
    let involuntary = Curve {
        name: "involuntary".into(),
        ink: Ink::Curve(3),
        points: rows.iter().map(|row| (row.t_s - row.interval_s / 2.0, per_s(row.involuntary_switches, row))).collect(),
    };
    let label = |what: &str| format!("{}: {what} over time", test.name);
    let end = end(test);
    Ok(vec![
        (
            "Processor time, % of one core",
            over_time(
                &label("processor time"),
                end,
                &[
                    curve("generator", 1, generator, |row| row.cpu_percent),
                    curve("server", 0, rows, |row| row.cpu_percent),
                ],
                "%",
            )?,
        ),
        (
            "Memory of the server, MiB",
            over_time(
                &label("memory"),
                end,
                &[
                    curve("resident", 0, rows, |row| row.rss_bytes as f64 / MIB),
                    curve("proportional", 2, rows, |row| row.pss_bytes as f64 / MIB),
                ],
                "MiB",
            )?,
        ),
        (
            "Descriptors and threads of the server",
            over_time(
                &label("descriptors and threads"),
                end,
                &[
                    curve("descriptors", 0, rows, |row| row.fds as f64),
                    curve("threads", 4, rows, |row| row.threads as f64),
                ],
                "",
            )?,
        ),
        (
            "Context switches of the server, per second",
            over_time(&label("context switches"), end, &[switches, involuntary], "/s")?,
        ),
    ])
}

/// How many lines took how long in each second: the stronger the colour, the more.
pub(super) fn heat(test: &Test) -> Result<String, Trouble> {
    let series = &test.results.series;
    let all = series.iter().flat_map(|row| &row.response_counts);
    let (least, most) = all.clone().fold((u64::MAX, 0), |(least, most), (from, _)| (least.min(*from), most.max(*from)));
    let greatest = all.map(|(_, count)| *count).max().unwrap_or(1);
    if most == 0 {
        return Ok(String::new());
    }
    let us = |ns: u64| (ns.max(1)) as f64 / 1000.0;
    let (low, high) = (us(least) * 0.9, us(bucket_end(most)) * 1.1);
    let label = format!("{}: response times over time", test.name);
    plot(&label, 260, |area, room| {
        let mut chart = builder(area, room).build_cartesian_2d(0.0..end(test), (low..high).log_scale())?;
        axes(&mut chart, room, &seconds, &time, 6)?;
        let cells = series.iter().flat_map(|row| {
            row.response_counts.iter().map(move |&(from, count)| {
                // By the logarithm: the tail is a few lines among many.
                let heat = (count as f64).ln_1p() / (greatest as f64).ln_1p() * f64::from(HEATS - 1);
                let corners = [(row.start_s, us(bucket_end(from))), (row.start_s + row.length_s, us(from))];
                Rectangle::new(corners, Ink::Heat(heat.round() as u8).area())
            })
        });
        chart.draw_series(cells)?;
        let p99 = series.iter().filter(|row| row.response_us.count > 0).map(|row| (middle(row), row.response_us.p99));
        let p99: Vec<(f64, f64)> = p99.collect();
        chart.draw_series(LineSeries::new(p99.iter().copied(), Ink::Text.line(1)))?;
        Ok(())
    })
}

/// Who was late, second by second.
pub(super) fn validity(test: &Test) -> Result<String, Trouble> {
    let series = &test.results.series;
    plot(&format!("{}: validity over time", test.name), 64, |area, room| {
        let mut chart = builder(area, room).build_cartesian_2d(0.0..end(test), 0.0..1.0)?;
        chart
            .configure_mesh()
            .disable_mesh()
            .disable_y_axis()
            .x_labels(room.x_labels())
            .x_label_formatter(&|x| seconds(*x))
            .axis_style(Ink::Axis.line(1))
            .label_style(Ink::Text.letters())
            .draw()?;
        chart.draw_series(series.iter().map(|row| {
            Rectangle::new([(row.start_s, 0.1), (row.start_s + row.length_s, 0.9)], standing(row).1.area())
        }))?;
        Ok(())
    })
}

/// What a second of the generator's is worth, in a word and a colour.
fn standing(row: &Second) -> (&'static str, Ink) {
    let share = |lines: u64| lines as f64 / row.offered.max(1) as f64;
    match () {
        () if share(row.late_ours) > LATE_MAX => ("late by our fault", Ink::Bad),
        () if share(row.late_blocked) > LATE_MAX => ("late by the server's", Ink::Warn),
        () => ("ok", Ink::Good),
    }
}

/// Distributions beside each other, on an axis that gives the tail its room: 1 / (1 - p), as a logarithm.
pub(super) fn percentiles(label: &str, tests: &[&Test]) -> Result<String, Trouble> {
    let curves: Vec<Curve> = tests
        .iter()
        .enumerate()
        .filter(|(_, test)| !test.results.response_ns_counts.is_empty())
        .map(|(at, test)| Curve {
            name: test.name.clone(),
            ink: Ink::Curve(at as u8),
            points: tail(&test.results.response_ns_counts),
        })
        .collect();
    let points = || curves.iter().flat_map(|curve| &curve.points);
    if points().next().is_none() {
        return Ok(String::new());
    }
    let right = points().map(|(x, _)| *x).fold(10.0, f64::max);
    let (low, high) = points().fold((f64::MAX, 0.0), |(low, high): (f64, f64), (_, y)| (low.min(*y), high.max(*y)));
    let legend = legend(&curves);
    let svg = plot(label, 330, |area, room| {
        let mut chart = builder(area, room)
            .build_cartesian_2d((1.0..right * 1.2).log_scale(), (low * 0.8..high * 1.25).log_scale())?;
        axes(&mut chart, room, &nines, &time, 7)?;
        for curve in &curves {
            chart.draw_series(LineSeries::new(curve.points.iter().copied(), curve.ink.line(2)))?;
        }
        Ok(())
    })?;
    Ok(legend + &svg)
}

/// How often each stage is passed against how long it takes: on a diagonal both come to the same time.
pub(super) fn stages(label: &str, stages: &[Stage], seconds_all: f64) -> Result<String, Trouble> {
    let seconds_all = seconds_all.max(1e-3);
    let stages: Vec<&Stage> = stages.iter().filter(|stage| stage.count > 0).collect();
    if stages.is_empty() {
        return Ok(String::new());
    }
    let often = |stage: &Stage| stage.count as f64 / seconds_all;
    let long = |stage: &Stage| (stage.sum_ns as f64 / stage.count as f64 / 1000.0).max(1e-3);
    let bounds = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::MAX, 0.0), |(low, high): (f64, f64), value| (low.min(value), high.max(value)))
    };
    let (x_low, x_high) = bounds(&mut stages.iter().map(|stage| often(stage)));
    let (y_low, y_high) = bounds(
        &mut stages.iter().flat_map(|stage| [stage.p50_ns as f64 / 1000.0, stage.p99_ns as f64 / 1000.0, long(stage)]),
    );
    let (x_low, x_high, y_low, y_high) = (x_low / 3.0, x_high * 4.0, y_low / 2.0, y_high * 2.0);
    plot(&format!("{label}: stages by frequency and duration"), 300, |area, room| {
        let mut chart =
            builder(area, room).build_cartesian_2d((x_low..x_high).log_scale(), (y_low..y_high).log_scale())?;
        axes(&mut chart, room, &per_second, &time, 6)?;
        // Microseconds of a second that are spent there.
        for load in [1e2, 1e3, 1e4, 1e5, 1e6] {
            let (from, to) = ((load / y_high).max(x_low), (load / y_low).min(x_high));
            if from < to {
                let line = [(from, load / from), (to, load / to)];
                chart.draw_series([PathElement::new(line, Ink::Axis.line(1))])?;
                let name = format!("{}/s", time(load));
                chart.draw_series([
                    EmptyElement::at((from, load / from)) + Text::new(name, (4, 3), Ink::Axis.letters())
                ])?;
            }
        }
        for (at, stage) in stages.iter().enumerate() {
            let (x, ink) = (often(stage), Ink::Curve(at as u8));
            let whisker = [(x, stage.p50_ns as f64 / 1000.0), (x, stage.p99_ns as f64 / 1000.0)];
            chart.draw_series([PathElement::new(whisker, ink.line(2))])?;
            let dot = EmptyElement::at((x, long(stage))) + Circle::new((0, 0), 5, ink.area());
            chart.draw_series([dot + Text::new(stage.name.clone(), (9, -8), Ink::Text.letters())])?;
        }
        Ok(())
    })
}

/// Curves over time, with their names above.
pub(super) fn over_time(label: &str, end: f64, curves: &[Curve], unit: &str) -> Result<String, Trouble> {
    let top = curves.iter().flat_map(|curve| &curve.points).map(|(_, y)| *y).fold(0.0, f64::max);
    let top = if top > 0.0 { top * 1.1 } else { 1.0 };
    let svg = plot(label, 200, |area, room| {
        let mut chart = builder(area, room).build_cartesian_2d(0.0..end, 0.0..top)?;
        axes(&mut chart, room, &seconds, &|y| amount(y), 5)?;
        for curve in curves {
            chart.draw_series(LineSeries::new(curve.points.iter().copied(), curve.ink.line(2)))?;
            // A single point is no line.
            chart.draw_series(curve.points.iter().map(|&at| Circle::new(at, 2, curve.ink.area())))?;
        }
        Ok(())
    })?;
    let unit = if unit.is_empty() { String::new() } else { format!(" <span class=\"unit\">{unit}</span>") };
    Ok(legend(curves).replacen("</p>", &format!("{unit}</p>"), 1) + &svg)
}

fn legend(curves: &[Curve]) -> String {
    let entries = curves.iter().map(|curve| {
        format!(
            "<span class=\"key\" style=\"--ink:var({})\">{}</span>",
            curve.ink.name(),
            super::canvas::escape(&curve.name)
        )
    });
    format!("<p class=\"legend\">{}</p>", entries.collect::<String>())
}

/// The same margins for every plot, so that their axes of time lie below each other.
fn builder<'a, 'b>(area: &'a Area<'b>, room: Room) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder.margin_top(10).margin_right(14).x_label_area_size(26).y_label_area_size(if room.is_narrow() {
        54
    } else {
        72
    });
    builder
}

fn axes<X, Y>(
    chart: &mut ChartContext<'_, SVGBackend<'_>, Cartesian2d<X, Y>>,
    room: Room,
    x_label: &dyn Fn(f64) -> String,
    y_label: &dyn Fn(f64) -> String,
    y_labels: usize,
) -> Result<(), Trouble>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Cartesian2d<X, Y>: CoordTranslate,
{
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(Ink::Grid.line(0))
        .bold_line_style(Ink::Grid.line(1))
        .axis_style(Ink::Axis.line(1))
        .label_style(Ink::Text.letters())
        .x_labels(room.x_labels())
        .y_labels(y_labels)
        .x_label_formatter(&|x| x_label(*x))
        .y_label_formatter(&|y| y_label(*y))
        .draw()?;
    Ok(())
}

/// `[1 / (1 - p), us]` at every recorded value.
fn tail(counts: &[(u64, u64)]) -> Vec<(f64, f64)> {
    let total: u64 = counts.iter().map(|(_, count)| count).sum();
    let mut below = 0;
    let mut points: Vec<(f64, f64)> = Vec::new();
    for (ns, count) in counts {
        // This value is that of every share from what lies below it to what it reaches.
        let x = total as f64 / (total - below) as f64;
        below += count;
        let y = *ns as f64 / 1000.0;
        // What cannot be told apart on paper is left out.
        if points.last().is_none_or(|(last, before)| x / last > 1.002 || y / before > 1.02) {
            points.push((x, y));
        }
    }
    // The greatest stands for the last of them.
    points.extend(counts.last().map(|(ns, _)| (total as f64, *ns as f64 / 1000.0)));
    points
}

/// Where an eighth of an octave ends that begins at `from`, as the generator's series has them.
fn bucket_end(from: u64) -> u64 {
    from.saturating_add(1 << from.max(1).ilog2().saturating_sub(3))
}

/// Where the axis of time ends.
fn end(test: &Test) -> f64 {
    let series = test.results.series.last().map_or(0.0, |row| row.start_s + row.length_s);
    let rows =
        |usage: Option<&crate::sampler::Usage>| usage.and_then(|usage| usage.rows.last()).map_or(0.0, |row| row.t_s);
    series.max(rows(test.resources.server.as_ref())).max(1e-3)
}

fn middle(row: &Second) -> f64 {
    row.start_s + row.length_s / 2.0
}

fn seconds(x: f64) -> String {
    format!("{} s", trimmed(x))
}

/// Microseconds, in the unit a person would choose.
fn time(us: f64) -> String {
    match us {
        us if us < 1.0 => format!("{} ns", trimmed(us * 1e3)),
        us if us < 1e3 => format!("{} us", trimmed(us)),
        us if us < 1e6 => format!("{} ms", trimmed(us / 1e3)),
        us => format!("{} s", trimmed(us / 1e6)),
    }
}

fn per_second(x: f64) -> String {
    format!("{}/s", amount(x))
}

fn amount(x: f64) -> String {
    match x.abs() {
        size if size >= 1e6 => format!("{}M", trimmed(x / 1e6)),
        size if size >= 1e3 => format!("{}k", trimmed(x / 1e3)),
        _ => trimmed(x),
    }
}

/// 1 / (1 - p) as the percentile that it is: 1000 is 99.9 %.
fn nines(x: f64) -> String {
    format!("{}%", trimmed_to(100.0 - 100.0 / x, 4))
}

fn trimmed(x: f64) -> String {
    trimmed_to(x, 2)
}

fn trimmed_to(x: f64, digits: usize) -> String {
    let text = format!("{x:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

const LENGTH_MIN_S: f64 = 0.25;
const MIB: f64 = (1 << 20) as f64;
/// As the generator's own verdict has it.
const LATE_MAX: f64 = 0.01;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_reaches_from_all_to_one_of_all() {
        let counts = [(1_000, 90), (2_000, 9), (50_000, 1)];
        assert_eq!(tail(&counts), [(1.0, 1.0), (10.0, 2.0), (100.0, 50.0), (100.0, 50.0)]);
    }

    #[test]
    fn axes_are_labelled_as_people_write() {
        assert_eq!([nines(1.0), nines(10.0), nines(1_000.0), nines(100_000.0)], ["0%", "90%", "99.9%", "99.999%"]);
        assert_eq!([time(0.5), time(12.0), time(1_500.0), time(2e6)], ["500 ns", "12 us", "1.5 ms", "2 s"]);
        assert_eq!([amount(0.0), amount(950.0), amount(12_500.0), amount(3e6)], ["0", "950", "12.5k", "3M"]);
    }

    #[test]
    fn a_second_is_coloured_by_who_was_late() {
        let row = |late_ours, late_blocked| Second { offered: 1000, late_ours, late_blocked, ..Second::default() };
        assert_eq!(standing(&row(10, 10)).1, Ink::Good);
        assert_eq!(standing(&row(10, 11)).1, Ink::Warn);
        assert_eq!(standing(&row(11, 500)).1, Ink::Bad);
    }
}
