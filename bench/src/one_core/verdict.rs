//! The promises, each against what was measured.

use super::case::{Case, Figure, Served};
use super::report::Row;
use crate::floor::{Answer, Backend, Writing};
use crate::spread::Spread;
use ringest_wire::AckLevel;
use serde::Serialize;
use std::fmt;

/// One promise and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// What was promised.
    pub promise: String,
    /// The bound.
    pub bound: f64,
    /// What was measured; the median decides.
    pub measured: Spread,
    /// Whether it was kept.
    pub pass: bool,
}

/// On which side of the bound the promise is kept.
#[derive(Clone, Copy)]
enum Side {
    AtMost,
    AtLeast,
}

/// Every promise for which both sides were measured.
pub(super) fn all(rows: &[Row]) -> Vec<Verdict> {
    use AckLevel::{Durable, Written};
    use Figure::{CpuNs, P50Us, RecordsPerS, RssBytes};
    use Served::{Epoll, Uring};
    use Side::{AtLeast, AtMost};
    let rows = Rows(rows);
    let served = Case::Flood(Uring, Written);
    let mut verdicts = Vec::new();
    let mut judge = |promise: String, side: Side, bound: f64, measured: Option<Spread>| {
        verdicts.extend(measured.map(|measured| Verdict::new(promise, side, bound, measured)));
    };
    for writing in [Writing::Buffered, Writing::Direct] {
        let floor = Case::Floor(Backend::Uring, writing);
        let cpu = rows.ratio(served, floor, CpuNs);
        judge(format!("uring written: CPU per record <= 2.0 x {floor}"), AtMost, 2.0, cpu);
        let records = rows.ratio(served, floor, RecordsPerS);
        judge(format!("uring written: records/s >= 0.5 x {floor}"), AtLeast, 0.5, records);
    }
    let durable = rows.ratio(Case::Flood(Uring, Durable), served, RecordsPerS);
    judge("uring: durable records/s >= 0.85 x written".into(), AtLeast, 0.85, durable);
    for (ack, bound, answer) in [(Written, 200.0, Answer::Written), (Durable, 600.0, Answer::Durable)] {
        let (depth1, floor) = (Case::Depth1(Uring, ack), Case::FloorDepth1(Backend::Uring, answer));
        judge(format!("uring {ack}, depth 1: p50 <= {bound} us"), AtMost, bound, rows.spread(depth1, P50Us));
        // The one that says something on any machine.
        judge(format!("uring {ack}, depth 1: p50 <= 1.5 x {floor}"), AtMost, 1.5, rows.ratio(depth1, floor, P50Us));
    }
    let idle = rows.spread(Case::Idle(Uring), RssBytes);
    judge("uring: <= 512 bytes per idle connection".into(), AtMost, 512.0, idle);
    let against = rows.ratio(served, Case::Flood(Epoll, Written), CpuNs);
    judge("written: CPU per record of uring <= 0.85 x epoll".into(), AtMost, 0.85, against);
    verdicts
}

impl Verdict {
    fn new(promise: String, side: Side, bound: f64, measured: Spread) -> Verdict {
        let pass = match side {
            Side::AtMost => measured.median <= bound,
            Side::AtLeast => measured.median >= bound,
        };
        Verdict { promise, bound, measured, pass }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.bound < 10.0 { 2 } else { 0 };
        let word = if self.pass { "PASS" } else { "FAIL" };
        write!(f, "{word}  {:<62} {:.digits$}", self.promise, self.measured)
    }
}

struct Rows<'a>(&'a [Row]);

impl Rows<'_> {
    fn row(&self, case: Case) -> Option<&Row> {
        self.0.iter().find(|row| row.case == case)
    }

    fn spread(&self, case: Case, figure: Figure) -> Option<Spread> {
        self.row(case)?.spread(figure)
    }

    /// One case over another, round by round.
    fn ratio(&self, of: Case, to: Case, figure: Figure) -> Option<Spread> {
        let (of, to) = (self.row(of)?.figures(figure)?, self.row(to)?.figures(figure)?);
        Spread::of(of.iter().zip(to).map(|(of, to)| of / to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(figures: &[(Case, Figure, &[f64])]) -> Vec<Row> {
        let row = |&(case, figure, values): &(Case, Figure, &[f64])| {
            let mut row = Row::new(case);
            values.iter().for_each(|&value| row.add(vec![(figure, value)]));
            row
        };
        figures.iter().map(row).collect()
    }

    const SERVED: Case = Case::Flood(Served::Uring, AckLevel::Written);
    const FLOOR: Case = Case::Floor(Backend::Uring, Writing::Buffered);

    #[test]
    fn a_ratio_is_that_of_the_same_round() {
        // A noisy round doubles both: the ratio does not move.
        let rows = rows(&[(SERVED, Figure::CpuNs, &[90.0, 180.0, 90.0]), (FLOOR, Figure::CpuNs, &[50.0, 100.0, 50.0])]);
        let [verdict] = &all(&rows)[..] else { panic!("one promise can be judged") };
        assert_eq!((verdict.measured.min, verdict.measured.max), (1.8, 1.8));
        assert!(verdict.pass);
    }

    #[test]
    fn a_bound_that_is_missed_fails_on_either_side() {
        let rows = rows(&[
            (SERVED, Figure::CpuNs, &[101.0]),
            (FLOOR, Figure::CpuNs, &[50.0]),
            (Case::Depth1(Served::Uring, AckLevel::Durable), Figure::P50Us, &[601.0]),
            (Case::FloorDepth1(Backend::Uring, Answer::Durable), Figure::P50Us, &[400.0]),
        ]);
        let verdicts = all(&rows);
        assert_eq!(verdicts.iter().map(|verdict| verdict.pass).collect::<Vec<_>>(), [false, false, false]);
        assert!(verdicts[0].to_string().starts_with("FAIL"), "{}", verdicts[0]);
        let slow = Verdict::new("records/s".into(), Side::AtLeast, 0.5, Spread { median: 0.49, min: 0.4, max: 0.6 });
        assert!(!slow.pass);
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        assert!(all(&rows(&[(SERVED, Figure::CpuNs, &[90.0])])).is_empty());
    }
}
