//! Load for a Ringest server, and the books to prove afterwards what became of it.
pub mod books;
pub mod cli;
pub mod config;
pub mod connection;
pub mod corpus;
mod draw;
pub mod flight;
pub mod latency;
pub mod ledger;
pub mod ranges;
pub mod reconcile;
pub mod replies;
pub mod report;
pub mod run;
pub mod schedule;
pub mod session;
pub mod tally;
pub mod worker;
