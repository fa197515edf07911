//! The live page in a browser, and the table of stages in a terminal.

use crate::support::process::{Setup, command_line};
use crate::support::{Backend, on_each_backend};
use crate::web::fetch;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn the_page_loads_nothing_from_elsewhere() {
    let server = Setup::new(Backend::Epoll).admin().start();
    let page = fetch(server.admin_addr(), "/", &[]);
    assert_eq!((page.status, page.kind()), (200, "text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    let text = page.text();
    assert!(!text.contains("http:") && !text.contains("https:") && !text.contains("src="), "an address of elsewhere");
    server.stop();
}

#[test]
fn in_a_browser_numbers_move_and_heat_maps_are_drawn_light_and_dark() {
    let Some(browser) = browser() else { return println!("skipped: there is no chromium here (Debian: chromium)") };
    let server = Setup::new(Backend::Epoll).shards(2).admin().start();
    let admin = server.admin_addr();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = server.connect();
            while !is_over.load(Ordering::Relaxed) {
                client.ask(r#"{"level":"info","message":"for the page"}"#);
            }
        });
        let over = Over(&is_over);
        let light = render(&browser, admin, &[]);
        let dark = render(&browser, admin, &["--force-dark-mode"]);
        drop(over);
        for (dom, scheme) in [(&light, "light"), (&dark, "dark")] {
            assert!(dom.contains(&format!("data-scheme=\"{scheme}\"")), "{scheme}: {dom}");
            assert!(dom.contains("<span id=\"state\" class=\"good\">ready</span>"), "{scheme}: {dom}");
            assert_eq!(card(dom, "books"), "close", "{scheme}");
            assert_ne!(card(dom, "lines/s"), "0", "{scheme}");
            for stage in ["receive", "parse", "queue", "write", "sync", "ack"] {
                assert!(cells(dom, stage) > 0, "{scheme}: the heat map of {stage} is drawn");
            }
        }
        assert_ne!(card(&light, "received"), card(&dark, "received"), "the numbers move");
    });
    server.stop();
}

on_each_backend!(top_shows_the_costliest_stage_first, |setup: Setup| {
    let server = setup.admin().start();
    let mut client = server.connect();
    for _ in 0..50 {
        client.ask(r#"{"level":"info","message":"for the table"}"#);
    }
    let admin = server.admin_addr().to_string();
    let output = command_line(&["top", "--once", "--admin-addr", &admin].map(OsString::from));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let shares = text.lines().skip(4).map(|row| row.split_whitespace().rev().nth(1).unwrap().parse::<f64>().unwrap());
    let shares: Vec<f64> = shares.collect();
    assert!(shares.len() == 6 && shares.is_sorted_by(|a, b| a >= b), "{text}");
    assert!((shares.iter().sum::<f64>() - 100.0).abs() < 1.0, "{text}");
    server.stop();
    let output = command_line(&["top", "--once", "--admin-addr", &admin].map(OsString::from));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&admin) && said.contains("--admin-addr"), "{said}");
});

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn browser() -> Option<String> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = names.into_iter().find(|name| Command::new(name).arg("--version").output().is_ok());
    found.map(str::to_owned)
}

/// The page's elements after some seconds of its life.
fn render(browser: &str, admin: SocketAddr, options: &[&str]) -> String {
    let profile = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let mut child = Command::new(browser)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(options)
        .arg(format!("http://{admin}/"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let reader = thread::spawn(move || std::io::read_to_string(&mut out).unwrap_or_default());
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > Duration::from_secs(120) {
            let _ = child.kill();
        }
        thread::sleep(Duration::from_millis(20));
    }
    reader.join().unwrap()
}

/// What a card says.
fn card(dom: &str, name: &str) -> String {
    let (_, rest) = dom.split_once(&format!("data-name=\"{name}\"")).unwrap_or_else(|| panic!("no {name}: {dom}"));
    let (_, rest) = rest.split_once("<b").unwrap();
    rest[rest.find('>').unwrap() + 1..rest.find("</b>").unwrap()].to_owned()
}

/// How many cells of a heat map were drawn.
fn cells(dom: &str, stage: &str) -> u32 {
    let (_, rest) = dom.split_once(&format!("id=\"map-{stage}\"")).unwrap_or_else(|| panic!("no map of {stage}"));
    let (_, rest) = rest.split_once("data-cells=\"").unwrap();
    rest.split('"').next().unwrap().parse().unwrap()
}
