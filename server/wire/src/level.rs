use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What an acknowledgement promises. Stronger levels are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AckLevel {
    /// Nothing, and nothing is sent but rejections.
    None,
    /// Checked, admitted, and in the shard's bounded memory.
    Accepted,
    /// The write into the segment completed.
    Written,
    /// Covered by a successful fdatasync; the segment's directory entry was synced when it was created.
    Durable,
}

impl AckLevel {
    /// The name on the wire and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            AckLevel::None => "none",
            AckLevel::Accepted => "accepted",
            AckLevel::Written => "written",
            AckLevel::Durable => "durable",
        }
    }
}

impl fmt::Display for AckLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for AckLevel {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "none" => Ok(AckLevel::None),
            "accepted" => Ok(AckLevel::Accepted),
            "written" => Ok(AckLevel::Written),
            "durable" => Ok(AckLevel::Durable),
            _ => Err(format!("unknown ack level \"{name}\"; one of none, accepted, written, durable")),
        }
    }
}

/// How severe a record says it is: its `level` member. An unknown name passes every filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Severity {
    /// `TRACE`
    Trace,
    /// `DEBUG`
    Debug,
    /// `INFO`
    Info,
    /// `WARNING` or `WARN`
    Warning,
    /// `ERROR`
    Error,
    /// `CRITICAL` or `FATAL`
    Critical,
    /// Any other name.
    Unknown,
}

impl Severity {
    /// The severity a `level` names, in any letter case.
    pub fn from_name(name: &[u8]) -> Severity {
        // By length first: one comparison settles nearly every record.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"info") => Severity::Info,
            4 if name.eq_ignore_ascii_case(b"warn") => Severity::Warning,
            5 if name.eq_ignore_ascii_case(b"error") => Severity::Error,
            5 if name.eq_ignore_ascii_case(b"debug") => Severity::Debug,
            5 if name.eq_ignore_ascii_case(b"trace") => Severity::Trace,
            5 if name.eq_ignore_ascii_case(b"fatal") => Severity::Critical,
            7 if name.eq_ignore_ascii_case(b"warning") => Severity::Warning,
            8 if name.eq_ignore_ascii_case(b"critical") => Severity::Critical,
            _ => Severity::Unknown,
        }
    }
}

impl FromStr for Severity {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match Severity::from_name(name.as_bytes()) {
            Severity::Unknown => {
                Err(format!("unknown level \"{name}\"; one of TRACE, DEBUG, INFO, WARNING, ERROR, CRITICAL"))
            }
            known => Ok(known),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_severity_is_known_in_any_letter_case_and_by_its_alias() {
        assert_eq!(Severity::from_name(b"WaRn"), Severity::Warning);
        assert_eq!(Severity::from_name(b"warning"), Severity::Warning);
        assert_eq!(Severity::from_name(b"FATAL"), Severity::Critical);
        assert_eq!(Severity::from_name(b"notice"), Severity::Unknown);
        assert_eq!(Severity::from_name(b""), Severity::Unknown);
    }

    #[test]
    fn severities_and_ack_levels_are_ordered_as_promised() {
        use Severity::*;
        assert!(Trace < Debug && Debug < Info && Info < Warning && Warning < Error && Error < Critical);
        assert!(Critical < Unknown, "an unknown level passes every filter");
        assert!(AckLevel::None < AckLevel::Accepted && AckLevel::Accepted < AckLevel::Written);
        assert!(AckLevel::Written < AckLevel::Durable);
    }
}
