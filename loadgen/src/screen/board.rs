//! The dashboard: what it remembers of the seconds gone by, and how it is laid out. It has no terminal of its own.

use crate::config::Config;
use crate::interval::Phase;
use crate::latency::{Latency, Spread};
use crate::report::span;
use crate::tally::Tally;
use crate::timeline::Second;
use crate::validity::Verdict;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row, Sparkline, Table};
use std::collections::VecDeque;
use std::time::Duration;

/// What is shown.
#[derive(Debug)]
pub(super) struct Board {
    title: String,
    target_per_s: Option<f64>,
    duration: Option<Duration>,
    has_colours: bool,
    /// The run so far, what is not counted left out.
    latency: Latency,
    tally: Tally,
    last: Option<Last>,
    /// Lines per second, and the slip's 99th percentile in nanoseconds, of the last seconds.
    rates: VecDeque<u64>,
    slips: VecDeque<u64>,
}

/// The second that was over last.
#[derive(Debug)]
struct Last {
    end_s: f64,
    phase: Phase,
    offered_per_s: f64,
    finished_per_s: f64,
    latency: Latency,
    verdict: Verdict,
    busy: f64,
}

impl Board {
    pub(super) fn new(config: &Config, has_colours: bool) -> Board {
        Board {
            title: format!("{}:{}, {} connections", config.host, config.port, config.connections),
            target_per_s: config.target_per_s(),
            duration: config.duration,
            has_colours,
            latency: Latency::new(),
            tally: Tally::default(),
            last: None,
            rates: VecDeque::new(),
            slips: VecDeque::new(),
        }
    }

    pub(super) fn see(&mut self, second: &Second) {
        match second.phase {
            Phase::WarmUp => {}
            Phase::Measured | Phase::Drain => {
                self.latency.add(&second.latency);
                self.tally.add(&second.tally);
            }
        }
        let finished_per_s = second.per_s(second.tally.finished());
        remember(&mut self.rates, finished_per_s as u64);
        remember(&mut self.slips, second.latency.slip.at(0.99));
        self.last = Some(Last {
            end_s: second.end_ns as f64 / 1e9,
            phase: second.phase,
            offered_per_s: second.per_s(second.tally.offered),
            finished_per_s,
            latency: second.latency.clone(),
            verdict: second.verdict,
            busy: second.signs.busy(),
        });
    }

    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let [head, rate, rates, latencies, slips, errors, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(2),
            Constraint::Min(3),
            Constraint::Length(6),
            Constraint::Min(3),
            Constraint::Length(4),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.head(), head);
        frame.render_widget(self.rate(), rate);
        self.draw_history(frame, rates, "records/s", &self.rates, Color::Green);
        frame.render_widget(self.latencies(), latencies);
        self.draw_history(frame, slips, "slip p99", &self.slips, Color::Yellow);
        frame.render_widget(self.errors(), errors);
        frame.render_widget(Line::from("Ctrl-C ends the run; what was measured is written").style(self.faint()), foot);
    }

    fn head(&self) -> Line<'_> {
        let time = match (&self.last, self.duration) {
            (None, _) => "starting".into(),
            (Some(last), None) => format!("{:.0} s", last.end_s),
            (Some(last), Some(duration)) => format!("{:.0} of {:.0} s", last.end_s, duration.as_secs_f64()),
        };
        let phase = self.last.as_ref().map_or("", |last| match last.phase {
            Phase::WarmUp => ", warming up: not counted",
            Phase::Measured => "",
            Phase::Drain => ", waiting for answers",
        });
        let (word, colour) = match self.last.as_ref().map_or(Verdict::Ok, |last| last.verdict) {
            Verdict::Ok => ("ok", Color::Green),
            Verdict::ServerBound => ("server_bound", Color::Yellow),
            Verdict::GeneratorBound => ("generator_bound", Color::Red),
            Verdict::HostNoise => ("host_noise", Color::Red),
        };
        Line::from(vec![
            Span::styled("● ", self.style(colour)),
            Span::styled(word, self.style(colour).add_modifier(Modifier::BOLD)),
            Span::raw(format!("  {time}{phase}, {}", self.title)),
        ])
    }

    fn rate(&self) -> Paragraph<'_> {
        let Some(last) = &self.last else { return Paragraph::new("") };
        let achieved = match self.target_per_s {
            Some(target) => {
                format!(
                    "rate    target {target:.0}/s, offered {:.0}/s ({:.4})",
                    last.offered_per_s,
                    last.offered_per_s / target
                )
            }
            None => "rate    closed loop: as fast as answers come".into(),
        };
        let finished =
            format!("        answered {:.0}/s, workers {:.0} % busy", last.finished_per_s, last.busy * 100.0);
        Paragraph::new(vec![Line::from(achieved), Line::from(finished)])
    }

    fn draw_history(&self, frame: &mut Frame<'_>, area: Rect, name: &str, history: &VecDeque<u64>, colour: Color) {
        let highest = history.iter().max().copied().unwrap_or(0);
        let shown = if name == "records/s" { format!("{highest}") } else { span(highest as f64 / 1000.0) };
        let block = Block::new().title(Span::styled(format!("{name}, at most {shown}"), self.faint()));
        let from = history.len().saturating_sub(usize::from(area.width));
        let bars: Vec<u64> = history.iter().skip(from).copied().collect();
        frame.render_widget(Sparkline::default().block(block).data(bars).style(self.style(colour)), area);
    }

    fn latencies(&self) -> Table<'_> {
        let row = |name: &'static str, spread: &Spread| {
            let cells = QUANTILES.map(|(_, quantile)| match spread.is_empty() {
                true => "-".into(),
                false => span(spread.at(quantile) as f64 / 1000.0),
            });
            Row::new(std::iter::once(name.to_owned()).chain(cells))
        };
        let mut rows = Vec::new();
        if let Some(last) = &self.last {
            rows.push(row("response, this second", &last.latency.response));
        }
        rows.push(row("response, so far", &self.latency.response));
        rows.push(row("service, so far", &self.latency.service));
        rows.push(row("slip, so far", &self.latency.slip));
        let widths = std::iter::once(Constraint::Length(22)).chain(QUANTILES.map(|_| Constraint::Length(10)));
        let names = std::iter::once("latency").chain(QUANTILES.map(|(name, _)| name));
        Table::new(rows, widths).header(Row::new(names).style(Style::new().add_modifier(Modifier::BOLD)))
    }

    fn errors(&self) -> Paragraph<'_> {
        let failed = self.tally.failed();
        let style = if failed > 0 { self.style(Color::Red) } else { Style::new() };
        let share = self.tally.error_rate() * 100.0;
        let first = Line::styled(format!("errors  {failed} of {} ({share:.3} %)", self.tally.finished()), style);
        let kinds = self.tally.failures.iter().chain(&self.tally.faults);
        let kinds = kinds.map(|(kind, count)| Line::from(format!("        {count:>10} {kind}")));
        Paragraph::new(std::iter::once(first).chain(kinds).collect::<Vec<_>>())
    }

    fn style(&self, colour: Color) -> Style {
        if self.has_colours { Style::new().fg(colour) } else { Style::new() }
    }

    fn faint(&self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }
}

fn remember(history: &mut VecDeque<u64>, value: u64) {
    if history.len() == HISTORY_MAX {
        history.pop_front();
    }
    history.push_back(value);
}

/// As many as the widest terminal has columns.
const HISTORY_MAX: usize = 512;
const QUANTILES: [(&str, f64); 5] = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::resolve;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::time::SystemTime;

    fn second(number: u64, phase: Phase, verdict: Verdict) -> Second {
        let mut second = Second { number, phase, verdict, ..Second::new(SystemTime::UNIX_EPOCH) };
        (second.start_ns, second.end_ns) = (number * 1_000_000_000, (number + 1) * 1_000_000_000);
        (second.tally.offered, second.tally.acked) = (1_000, 990);
        second.tally.fail("unanswered", 10);
        second.latency.response.record(5_000_000, 990);
        second.latency.slip.record(40_000, 990);
        second
    }

    fn drawn(board: &Board, width: u16, height: u16) -> (String, bool) {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| board.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let rows = buffer.content.chunks(usize::from(width));
        let text = rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>() + "\n").collect();
        (text, buffer.content.iter().any(|cell| cell.fg != Color::Reset))
    }

    #[test]
    fn it_shows_the_rate_the_latencies_the_errors_and_the_verdict() {
        let mut board = Board::new(&resolve("-R 1000 -d 60s").unwrap(), true);
        assert!(drawn(&board, 80, 24).0.contains("starting"));
        board.see(&second(0, Phase::WarmUp, Verdict::GeneratorBound));
        let (text, has_colours) = drawn(&board, 80, 24);
        assert!(text.contains("● generator_bound") && text.contains("not counted"), "{text}");
        assert!(text.contains("errors  0 of 0") && has_colours, "what is not counted is not added: {text}");
        board.see(&second(1, Phase::Measured, Verdict::Ok));
        board.see(&second(2, Phase::Measured, Verdict::Ok));
        let (text, _) = drawn(&board, 80, 24);
        for part in [
            "● ok  3 of 60 s, localhost:9000, 5 connections",
            "target 1000/s, offered 1000/s (1.0000)",
            "records/s, at most 1000",
            "slip p99, at most 40.0 us",
            "errors  20 of 2000 (1.000 %)",
            "20 unanswered",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let so_far = text.lines().find(|line| line.starts_with("response, so far")).unwrap();
        assert_eq!(so_far.matches("5.00 ms").count(), 5, "{so_far}");
    }

    #[test]
    fn it_fits_any_terminal_and_does_without_colours() {
        let mut board = Board::new(&resolve("-n 5").unwrap(), false);
        (0..600).for_each(|number| board.see(&second(number, Phase::Measured, Verdict::HostNoise)));
        for (width, height) in [(1, 1), (20, 5), (80, 24), (400, 100)] {
            assert!(!drawn(&board, width, height).1, "no colour at {width} x {height}");
        }
        assert_eq!(board.rates.len(), HISTORY_MAX);
    }
}
