//! The Ringest server as a library: what the binary `ringest-server` is made of.
//!
//! Here are the files, the threads, the sockets and the clock that `ringest-ingest` does without; what is decided about
//! a line is decided there.

// `--print-config` is one object of more members than the usual depth of macros takes.
#![recursion_limit = "256"]

pub mod admin;
pub mod books;
pub mod cli;
pub mod config;
pub mod config_file;
pub mod control;
pub mod driver;
pub mod inspect;
pub mod notice;
pub mod reading;
pub mod reload;
pub mod small_file;
pub mod storage;
pub mod supervisor;
pub mod tls;
pub mod token;
pub mod top;
pub mod trace;
pub mod worker;
