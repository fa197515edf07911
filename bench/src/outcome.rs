//! How a measurement may end, and the exit code that says so: the same words and codes for every command.

use ringest_sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a measurement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Every gate holds.
    Pass,
    /// A gate does not hold.
    Fail,
    /// What was measured does not mean what it says: the generator or somebody else on this machine was in the way.
    Invalid,
    /// Lines that were promised are not there, or are there twice, or changed.
    Loss,
    /// Somebody ended it; what was measured until then is there.
    Interrupted,
}

impl Outcome {
    /// The graver of two: a loss is one however the rest went, and what was interrupted is no verdict on the rest.
    #[must_use]
    pub fn and(self, other: Outcome) -> Outcome {
        if other.gravity() > self.gravity() { other } else { self }
    }

    /// The exit code, where it was ended by that signal.
    pub fn code(self, signal: Option<Signal>) -> u8 {
        match (self, signal) {
            (Outcome::Loss, _) => 5,
            (Outcome::Interrupted, Some(Signal::Hangup)) => 129,
            (Outcome::Interrupted, Some(Signal::Terminate)) => 143,
            (Outcome::Interrupted, Some(Signal::Interrupt) | None) => 130,
            (Outcome::Fail, _) => 3,
            (Outcome::Invalid, _) => 4,
            (Outcome::Pass, _) => 0,
        }
    }

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Pass => "pass",
            Outcome::Fail => "fail",
            Outcome::Invalid => "invalid",
            Outcome::Loss => "loss",
            Outcome::Interrupted => "interrupted",
        }
    }

    fn gravity(self) -> u8 {
        match self {
            Outcome::Pass => 0,
            Outcome::Invalid => 1,
            Outcome::Fail => 2,
            Outcome::Interrupted => 3,
            Outcome::Loss => 4,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_graver_outcome_decides_the_code() {
        use Outcome::{Fail, Interrupted, Invalid, Loss, Pass};
        let code = |outcomes: &[Outcome]| outcomes.iter().fold(Pass, |sum, &next| sum.and(next)).code(None);
        assert_eq!(code(&[Pass, Pass]), 0);
        assert_eq!(code(&[Pass, Invalid, Pass]), 4);
        assert_eq!(code(&[Invalid, Fail]), 3);
        assert_eq!(code(&[Fail, Invalid]), 3);
        assert_eq!(code(&[Fail, Interrupted]), 130);
        assert_eq!(code(&[Loss, Interrupted]), 5);
        assert_eq!(Interrupted.code(Some(Signal::Terminate)), 143);
    }
}
