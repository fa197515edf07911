//! The page of a report in a browser: one file, drawn without a script, on a wide and a narrow screen.

use crate::support::Bench;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The page of a short run, and its report.
fn page(bench: &Bench) -> (String, Value) {
    let args = [
        "tiers",
        "--no-pin",
        "--cooldown",
        "0",
        "--window",
        "3",
        "--dir",
        ".",
        "--report-only",
        "--only",
        "objectives",
        "--target-rate",
        "500",
        "--json",
        "out.json",
        "--html",
        "out.html",
    ];
    let output = bench.run(&args);
    assert_eq!(output.status.code(), Some(0));
    (fs::read_to_string(bench.path("out.html")).unwrap(), bench.json("out.json"))
}

#[test]
fn the_page_loads_nothing_and_draws_every_plot_light_and_dark_wide_and_narrow() {
    let bench = Bench::new();
    let (html, report) = page(&bench);
    for elsewhere in ["http:", "https:", "src=", "<script", "@import", "url("] {
        let found = html.replace("http://www.w3.org/2000/svg", "").contains(elsewhere);
        assert!(!found, "{elsewhere}: a page is one file");
    }
    for plot in [
        "Response times by percentile",
        "records per second over time",
        "response times over time",
        "validity over time",
        "processor time over time",
        "memory over time",
        "descriptors and threads over time",
        "context switches over time",
        "stages by frequency and duration",
    ] {
        // One for each width.
        assert_eq!(
            html.matches(&format!("{plot}\" ")).count() + html.matches(&format!("{plot}, ")).count(),
            2,
            "{plot}"
        );
    }
    let rows = report["tests"][0]["results"]["series"].as_array().unwrap();
    assert!(rows.iter().any(|row| !row["response_counts"].as_array().unwrap().is_empty()), "{rows:?}");

    // The same from the file.
    let again = bench.run(&["page", "out.json", "again.html"]);
    assert_eq!(again.status.code(), Some(0));
    assert!(fs::read_to_string(bench.path("again.html")).unwrap() == html);

    let Some(browser) = browser() else { return println!("skipped: there is no chromium here (Debian: chromium)") };
    let look = |width: u32, options: &[&str]| look(&browser, &bench.path("out.html"), width, options);
    let dark = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"];
    let pictures = [look(1200, &[]), look(1200, &dark), look(400, &[]), look(400, &dark)];
    for (at, picture) in pictures.iter().enumerate() {
        assert!(picture.len() > 20_000, "picture {at} has {} bytes: there is nothing to be seen on it", picture.len());
    }
    assert!(pictures[0] != pictures[1] && pictures[2] != pictures[3], "light and dark differ");
}

#[test]
fn a_comparison_has_a_page_too_and_what_is_no_report_has_none() {
    let bench = Bench::new();
    let args = [
        "compare",
        "default",
        "size=300",
        "--no-pin",
        "--dir",
        ".",
        "--pairs",
        "6",
        "--window",
        "0.1",
        "--warm-up",
        "0.05",
        "--connections",
        "2",
        "--pipeline",
        "10",
        "--json",
        "out.json",
        "--html",
        "out.html",
    ];
    assert_eq!(bench.run(&args).status.code(), Some(0));
    let html = fs::read_to_string(bench.path("out.html")).unwrap();
    assert!(html.contains("Ratios of B to A") && html.contains("server CPU, ns/record") && html.contains("size=300"));

    fs::write(bench.path("odd.json"), json!({ "schema": "something.else" }).to_string()).unwrap();
    let refused = |name: &str, words: &str| {
        let output = bench.run(&["page", name, "-"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(words), "{said}");
    };
    refused("odd.json", "something.else");
    refused("none.json", "none.json");
    refused("out.html", "out.html");
}

fn browser() -> Option<String> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = names.into_iter().find(|name| Command::new(name).arg("--version").output().is_ok());
    found.map(str::to_owned)
}

/// A picture of the page.
fn look(browser: &str, page: &Path, width: u32, options: &[&str]) -> Vec<u8> {
    let room = tempfile::tempdir().unwrap();
    let picture = room.path().join("picture.png");
    let started = Instant::now();
    let mut child = Command::new(browser)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"])
        .arg(format!("--user-data-dir={}", room.path().join("profile").display()))
        .arg(format!("--window-size={width},2500"))
        .arg(format!("--screenshot={}", picture.display()))
        .args(options)
        .arg(format!("file://{}", page.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > Duration::from_secs(120) {
            let _ = child.kill();
        }
        thread::sleep(Duration::from_millis(20));
    }
    fs::read(&picture).unwrap_or_default()
}
