//! The suites as a user runs them: what they start, what they write, how they end.

mod compare;
mod gate;
mod page;
mod soak;
mod stress;
mod support;
mod tiers;
