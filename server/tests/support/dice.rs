//! Randomness with a seed that is printed, so that a failure can be looked at again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// xorshift64*: small, and the same everywhere.
pub(crate) struct Dice(u64);

impl Dice {
    /// Seeded from `RINGEST_SEED`, or else from the clock; says which.
    pub(crate) fn from_env(what: &str) -> Dice {
        let seed = match std::env::var("RINGEST_SEED") {
            Ok(text) => text.parse().expect("RINGEST_SEED is a number"),
            Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64,
        };
        println!("{what}: RINGEST_SEED={seed}");
        Dice::new(seed)
    }

    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One of `0..bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    /// Between `from` and `to` milliseconds, in microseconds' steps.
    pub(crate) fn pause_ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(from * 1000 + self.below((to - from) * 1000))
    }
}
