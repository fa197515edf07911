//! The result of a run as a CI reads it: a test case per gate, and one for the measurement's validity.
//!
//! A gate that was breached is a failure. A measurement that means nothing is an error, and so is each of its gates: they
//! were not tried. A run that was interrupted has skipped them.

use crate::report::{Report, Test};
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};
use std::io;

/// The whole file.
pub(super) fn text(report: &Report) -> Vec<u8> {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    write(&mut writer, report).expect("memory takes everything");
    let mut text = writer.into_inner();
    text.push(b'\n');
    text
}

/// How a case ended.
enum Outcome {
    Passed,
    Breached(String),
    Invalid(String),
    NotTried,
}

fn write(writer: &mut Writer<Vec<u8>>, report: &Report) -> io::Result<()> {
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let suites: Vec<(&Test, Vec<(String, Outcome)>)> = report.tests.iter().map(|test| (test, cases(test))).collect();
    writer.create_element("testsuites").with_attribute(("name", report.tool.name.as_str())).write_inner_content(
        |writer| {
            for (test, cases) in &suites {
                write_suite(writer, report, test, cases)?;
            }
            Ok(())
        },
    )?;
    Ok(())
}

fn write_suite(
    writer: &mut Writer<Vec<u8>>,
    report: &Report,
    test: &Test,
    cases: &[(String, Outcome)],
) -> io::Result<()> {
    let count = |is: fn(&Outcome) -> bool| cases.iter().filter(|(_, outcome)| is(outcome)).count().to_string();
    let results = &test.results;
    let suite = writer
        .create_element("testsuite")
        .with_attribute(("name", test.name.as_str()))
        .with_attribute(("tests", cases.len().to_string().as_str()))
        .with_attribute(("failures", count(|outcome| matches!(outcome, Outcome::Breached(_))).as_str()))
        .with_attribute(("errors", count(|outcome| matches!(outcome, Outcome::Invalid(_))).as_str()))
        .with_attribute(("skipped", count(|outcome| matches!(outcome, Outcome::NotTried)).as_str()))
        .with_attribute(("time", format!("{:.3}", results.span_s).as_str()))
        .with_attribute(("timestamp", report.timestamp.trim_end_matches('Z')));
    suite.write_inner_content(|writer| {
        writer.create_element("properties").write_inner_content(|writer| {
            for (name, value) in properties(report, test) {
                let property = writer.create_element("property").with_attribute(("name", name));
                property.with_attribute(("value", value.as_str())).write_empty()?;
            }
            Ok(())
        })?;
        cases.iter().try_for_each(|(name, outcome)| write_case(writer, &test.name, name, outcome))
    })?;
    Ok(())
}

fn write_case(writer: &mut Writer<Vec<u8>>, suite: &str, name: &str, outcome: &Outcome) -> io::Result<()> {
    let case = writer.create_element("testcase").with_attribute(("classname", suite)).with_attribute(("name", name));
    let (element, why) = match outcome {
        Outcome::Passed => return case.write_empty().map(drop),
        Outcome::Breached(why) => ("failure", why.as_str()),
        Outcome::Invalid(why) => ("error", why.as_str()),
        Outcome::NotTried => ("skipped", "the run was interrupted"),
    };
    case.write_inner_content(|writer| {
        let element = writer.create_element(element).with_attribute(("message", why));
        element.write_text_content(BytesText::new(why)).map(drop)
    })
    .map(drop)
}

fn cases(test: &Test) -> Vec<(String, Outcome)> {
    let validity = &test.validity;
    let is_interrupted = test.verdict == "interrupted";
    let invalid = (!validity.holds()).then(|| format!("{}: {}", validity.verdict, validity.reasons.join("; ")));
    let of_validity = invalid.clone().map_or(Outcome::Passed, Outcome::Invalid);
    let gates = test.gates.iter().map(|gate| {
        let outcome = match &invalid {
            _ if is_interrupted => Outcome::NotTried,
            Some(why) => Outcome::Invalid(why.clone()),
            None if gate.pass => Outcome::Passed,
            None => Outcome::Breached(format!("{}: {} of at most {}", gate.expr, gate.actual, gate.limit)),
        };
        (gate.expr.clone(), outcome)
    });
    std::iter::once(("validity".into(), of_validity)).chain(gates).collect()
}

fn properties(report: &Report, test: &Test) -> Vec<(&'static str, String)> {
    let (results, us) = (&test.results, &test.results.response_us);
    vec![
        ("run_id", report.run_id.clone()),
        ("target", test.config.target.clone()),
        ("offered", results.offered.to_string()),
        ("acked", results.acked.to_string()),
        ("failed", results.failed.to_string()),
        ("throughput_per_s", format!("{:.3}", results.throughput_per_s)),
        ("response_p50_us", us.p50.to_string()),
        ("response_p95_us", us.p95.to_string()),
        ("response_p99_us", us.p99.to_string()),
        ("response_p999_us", us.p999.to_string()),
        ("response_max_us", us.max.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Gate;

    fn report(validity: &str, verdict: &str, pass: bool) -> Report {
        let mut report = crate::report::tests::sample();
        let test = &mut report.tests[0];
        test.name = "open loop, \"plain\" <mode>".into();
        test.validity.verdict = validity.into();
        test.verdict = verdict.into();
        test.gates = vec![
            Gate { expr: "error_rate".into(), actual: 0.5, limit: 0.01, pass },
            Gate { expr: "p99".into(), actual: 1.0, limit: 5.0, pass: true },
        ];
        report
    }

    fn text(report: &Report) -> String {
        String::from_utf8(super::text(report)).unwrap()
    }

    #[test]
    fn a_breach_is_a_failure_and_a_void_measurement_an_error() {
        let breached = text(&report("server_bound", "fail", false));
        assert!(breached.contains(r#"tests="3" failures="1" errors="0" skipped="0""#), "{breached}");
        assert!(breached.contains(r#"<failure message="error_rate: 0.5 of at most 0.01">"#), "{breached}");
        let void = text(&report("host_noise", "pass", true));
        assert!(void.contains(r#"tests="3" failures="0" errors="3" skipped="0""#), "{void}");
        assert!(void.contains("host_noise"), "{void}");
        let interrupted = text(&report("ok", "interrupted", false));
        assert!(interrupted.contains(r#"tests="3" failures="0" errors="0" skipped="2""#), "{interrupted}");
        let passed = text(&report("ok", "pass", true));
        assert!(passed.contains(r#"failures="0" errors="0" skipped="0""#), "{passed}");
        assert!(passed.contains(r#"<testcase classname="open loop, &quot;plain&quot; &lt;mode&gt;" name="p99"/>"#));
    }
}
