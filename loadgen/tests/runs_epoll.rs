//! The runs of `runs.rs`, on epoll.

#[path = "runs.rs"]
mod runs;
