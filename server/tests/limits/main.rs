//! What a peer can make the server hold, and for how long: each bound at the bound and past it, on every backend.

mod attack;
mod deadlines;
mod descriptors;
mod door;
mod memory;
#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;
mod tokens;

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Waits for what has to become true.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < support::client::PATIENCE, "not within {:?}: {what}", support::client::PATIENCE);
        thread::sleep(Duration::from_millis(5));
    }
}

/// Connections that say nothing by themselves.
fn connect_many(addr: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(addr).expect("the kernel takes it")).collect()
}
