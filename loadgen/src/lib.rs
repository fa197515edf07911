//! Load for a Ringest server, and the books to prove afterwards what became of it.
//!
//! One worker is one thread on one core with its own connections, schedule and histograms; nothing is shared while lines
//! are sent. Lines come from a [`corpus`], their times from a [`schedule`]; a [`connection`] speaks plain or
//! [`session`] mode over [`books`] that say what is under way; a [`run`] adds up what its [`worker`]s measured into a
//! [`report`], and into a [`ledger`] that [`reconcile`] compares with what was stored, line by line.
//!
//! It shares with the server the bytes on the wire and the kernel's calls, and nothing that decides: it never imports what
//! it measures. What it decides is decided without a socket, so that tests can cut and reorder; sockets and clocks are
//! touched in `io`, `sink`, `headroom`, `worker`, `datagrams` and `run` alone.

pub mod books;
pub mod cli;
pub mod config;
pub mod connection;
pub mod corpus;
pub mod datagrams;
pub mod diff;
mod draw;
pub mod flight;
pub mod gauge;
pub mod headroom;
pub mod hiccup;
mod host;
pub mod interval;
pub mod io;
pub mod knee;
pub mod latency;
pub mod law;
pub mod ledger;
pub mod measured;
pub mod merge;
pub mod output;
pub mod packer;
mod poisson;
pub mod ranges;
pub mod reconcile;
pub mod records;
pub mod replies;
pub mod report;
pub mod run;
pub mod schedule;
#[cfg(test)]
mod schema;
pub mod screen;
pub mod session;
mod shed;
pub mod sink;
pub mod stream;
pub mod tally;
pub mod timeline;
pub mod token;
pub mod validity;
pub mod warmup;
pub mod worker;
