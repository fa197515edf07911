//! How a server lives among those who run it, on every backend: settings are read again while it serves, what is old
//! goes, supervisors are told, and listeners outlive it.

mod handover;
mod reload;
mod retention;
mod supervised;
#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;

use std::thread;
use std::time::{Duration, Instant};
use support::client::PATIENCE;

/// Waits for what has to become true.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
