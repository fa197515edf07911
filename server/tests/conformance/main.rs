//! What every backend must do, run on each, by literal bytes against the real binary.
//!
//! A case is one fact and appears once in this folder; it runs as `fact::uring` and `fact::epoll`. Cases run beside
//! each other, so none assumes that the machine is its own.

mod acks;
mod command;
mod gzip;
mod life;
mod plain;
mod pressure;
mod sessions;
mod shards;
#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod udp;
