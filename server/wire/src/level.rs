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

/// Every name a severity has.
const NAMES: [(&str, Severity); 8] = [
    ("trace", Severity::Trace),
    ("debug", Severity::Debug),
    ("info", Severity::Info),
    ("warn", Severity::Warning),
    ("warning", Severity::Warning),
    ("error", Severity::Error),
    ("fatal", Severity::Critical),
    ("critical", Severity::Critical),
];

impl Severity {
    /// The severity a `level` names, in any letter case.
    pub fn from_name(name: &[u8]) -> Severity {
        // Looked up, not compared with one name after the other: which level comes next cannot be predicted, and a
        // misprediction costs as much as walking over half a record.
        let Some(word) = fold(name) else { return Severity::Unknown };
        let (known, len, severity) = BY_HASH[hash(word)];
        if known == word && len == name.len() { severity } else { Severity::Unknown }
    }
}

/// The first and the last four bytes of a name of four to eight, in lower case: with the length, the whole of it.
///
/// Setting one bit folds nothing but a letter into a letter, and names have only letters.
const fn fold(name: &[u8]) -> Option<u64> {
    if name.len() > 8 {
        return None;
    }
    match (name.first_chunk(), name.last_chunk()) {
        (Some(&first), Some(&last)) => {
            let word = (u32::from_le_bytes(last) as u64) << 32 | u32::from_le_bytes(first) as u64;
            Some(word | 0x2020_2020_2020_2020)
        }
        _ => None,
    }
}

/// Different for each of the names, which `BY_HASH` makes sure of when it is compiled.
const fn hash(word: u64) -> usize {
    (word.wrapping_mul(HASH_FACTOR) >> 60) as usize
}

const HASH_FACTOR: u64 = 0x9e37_79b9_7f4a_7c23;

static BY_HASH: [(u64, usize, Severity); 16] = {
    let mut slots = [(0, 0, Severity::Unknown); 16];
    let mut at = 0;
    while at < NAMES.len() {
        let (name, severity) = NAMES[at];
        let word = fold(name.as_bytes()).expect("names have four to eight bytes");
        assert!(slots[hash(word)].1 == 0, "no two names share a slot");
        slots[hash(word)] = (word, name.len(), severity);
        at += 1;
    }
    slots
};

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
    fn a_severity_is_known_by_its_whole_name_and_by_nothing_else() {
        let obvious = |name: &[u8]| {
            let known = NAMES.iter().find(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name));
            known.map_or(Severity::Unknown, |&(_, severity)| severity)
        };
        for (name, _) in NAMES {
            for at in 0..name.len() {
                for byte in 0..=255 {
                    let mut other = name.as_bytes().to_vec();
                    other[at] = byte;
                    assert_eq!(Severity::from_name(&other), obvious(&other), "{other:?}");
                    other.insert(at, byte);
                    assert_eq!(Severity::from_name(&other), obvious(&other), "{other:?}");
                    other.drain(at..at + 2);
                    assert_eq!(Severity::from_name(&other), obvious(&other), "{other:?}");
                }
            }
        }
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
