//! The kernel: rings, readiness, sockets, files, cores, signals and clocks, translated into safe Rust.
//!
//! It knows no policy and never hears of a record, a batch or a session: it does what it is asked, gives every errno a
//! meaning, and hands back what it was lent. It is the only crate beside `ringest-simd` where `unsafe` may be written,
//! and no function it offers is unsafe: what the kernel may touch is owned here until the kernel has let go of it.

pub mod clock;
pub mod cpu;
pub mod datagram;
pub mod event_fd;
pub mod file;
pub mod inherited;
pub mod limit;
mod mapping;
pub mod memory;
pub mod net;
pub mod pipe;
pub mod poller;
pub mod ring;
pub mod signal;
