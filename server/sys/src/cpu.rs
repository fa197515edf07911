//! Which processors a process may use, and where a thread runs.
//!
//! It reads lists, checks them and pins; which thread goes where is decided elsewhere.

use std::fmt;
use std::io;
use std::str::FromStr;

use core_affinity::CoreId;

/// The kernel's affinity masks hold this many processors in the size the C library knows.
const CPU_COUNT_MAX: usize = libc::CPU_SETSIZE as usize;

/// Processor numbers, ascending, each once, at least one. Reads and prints the kernel's notation: `0-3,8`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuList {
    cpus: Vec<usize>,
}

impl CpuList {
    /// The numbers, ascending.
    pub fn as_slice(&self) -> &[usize] {
        &self.cpus
    }

    /// How many there are: at least one.
    #[expect(clippy::len_without_is_empty, reason = "a list of processors is never empty")]
    pub fn len(&self) -> usize {
        self.cpus.len()
    }

    /// Refuses the list if it names a processor that `allowed` does not.
    pub fn check_within(&self, allowed: &CpuList) -> Result<(), CpuError> {
        match self.cpus.iter().find(|cpu| allowed.cpus.binary_search(cpu).is_err()) {
            Some(&cpu) => Err(CpuError::NotAllowed { cpu, allowed: allowed.clone() }),
            None => Ok(()),
        }
    }
}

/// The processors the calling thread may run on: cpuset, taskset and container limits are in it already.
///
/// Ask once, before anything is pinned: on a pinned thread the answer is that one processor.
pub fn allowed() -> Result<CpuList, CpuError> {
    let ids = core_affinity::get_core_ids().ok_or_else(|| CpuError::Unreadable(io::Error::last_os_error()))?;
    let mut cpus: Vec<usize> = ids.into_iter().map(|core| core.id).collect();
    cpus.sort_unstable();
    if cpus.is_empty() { Err(CpuError::Empty) } else { Ok(CpuList { cpus }) }
}

/// Binds the calling thread to one processor, and asks the kernel whether that is so.
pub fn pin_current(cpu: usize) -> Result<(), CpuError> {
    // The crate below would index past its mask.
    if cpu >= CPU_COUNT_MAX {
        return Err(CpuError::TooLarge { part: cpu.to_string() });
    }
    if !core_affinity::set_for_current(CoreId { id: cpu }) {
        return Err(CpuError::Refused { cpu, cause: io::Error::last_os_error() });
    }
    let now = allowed()?;
    if now.cpus == [cpu] { Ok(()) } else { Err(CpuError::Moved { cpu, now }) }
}

impl FromStr for CpuList {
    type Err = CpuError;

    fn from_str(list: &str) -> Result<CpuList, CpuError> {
        if list.trim().is_empty() {
            return Err(CpuError::Empty);
        }
        let mut cpus = Vec::new();
        for part in list.split(',').map(str::trim) {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first, part)?, number(last, part)?),
                None => (number(part, part)?, number(part, part)?),
            };
            if first > last {
                return Err(CpuError::Backwards { part: part.to_owned() });
            }
            cpus.extend(first..=last);
        }
        cpus.sort_unstable();
        match cpus.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(CpuError::Twice { cpu: pair[0] }),
            None => Ok(CpuList { cpus }),
        }
    }
}

fn number(digits: &str, part: &str) -> Result<usize, CpuError> {
    // `parse` alone would take "+1".
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(CpuError::NotANumber { part: part.to_owned() });
    }
    match digits.parse() {
        Ok(cpu) if cpu < CPU_COUNT_MAX => Ok(cpu),
        _ => Err(CpuError::TooLarge { part: part.to_owned() }),
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.cpus.chunk_by(|left, right| left + 1 == *right);
        for (index, run) in runs.enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match run {
                [only] => write!(f, "{comma}{only}")?,
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

/// Why a list of processors, or a place on one, was refused.
#[derive(Debug)]
pub enum CpuError {
    /// A list without a processor.
    Empty,
    /// This part is neither a number nor a range.
    NotANumber {
        /// The part between two commas, as it was typed.
        part: String,
    },
    /// This range ends before it begins.
    Backwards {
        /// The part between two commas, as it was typed.
        part: String,
    },
    /// The list names this processor more than once: whoever wrote it counts on one more than there are.
    Twice {
        /// The first such processor.
        cpu: usize,
    },
    /// This part names a processor no affinity mask has room for.
    TooLarge {
        /// The part between two commas, as it was typed.
        part: String,
    },
    /// The list names a processor this process may not use.
    NotAllowed {
        /// The first such processor.
        cpu: usize,
        /// Those it may use.
        allowed: CpuList,
    },
    /// The kernel would not say what this thread may use.
    Unreadable(io::Error),
    /// The kernel did not pin the thread.
    Refused {
        /// Where it should have gone.
        cpu: usize,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The kernel said yes, and the thread may run elsewhere all the same.
    Moved {
        /// Where it should have gone.
        cpu: usize,
        /// Where it may run.
        now: CpuList,
    },
}

impl fmt::Display for CpuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CpuError::Empty => write!(f, "the processor list is empty; write it like 0-3,8"),
            CpuError::NotANumber { part } => {
                write!(f, "`{part}` is not a processor or a range of processors; write the list like 0-3,8")
            }
            CpuError::Backwards { part } => {
                write!(f, "the processor range `{part}` ends before it begins; write the smaller number first")
            }
            CpuError::TooLarge { part } => {
                write!(f, "`{part}` names a processor above {}, the highest a mask can hold", CPU_COUNT_MAX - 1)
            }
            CpuError::Twice { cpu } => write!(f, "processor {cpu} is named twice"),
            CpuError::NotAllowed { cpu, allowed } => {
                write!(f, "processor {cpu} is not open to this process; it may use {allowed}")
            }
            CpuError::Unreadable(cause) => write!(f, "the kernel does not say which processors are allowed: {cause}"),
            CpuError::Refused { cpu, cause } => write!(f, "the thread cannot be pinned to processor {cpu}: {cause}"),
            CpuError::Moved { cpu, now } => {
                write!(f, "the thread was pinned to processor {cpu}, but the kernel lets it run on {now}")
            }
        }
    }
}

impl std::error::Error for CpuError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> Result<CpuList, CpuError> {
        list.parse()
    }

    #[test]
    fn lists_are_read_sorted_and_printed_shortest() {
        for (typed, printed) in
            [("0", "0"), ("0-3,8", "0-3,8"), ("8,3,2,1,0", "0-3,8"), ("1-1", "1"), (" 0 , 1 ", "0-1")]
        {
            assert_eq!(parse(typed).unwrap().to_string(), printed, "from {typed}");
        }
    }

    #[test]
    fn the_highest_processor_is_1023() {
        assert_eq!(parse("1023").unwrap().as_slice(), [1023]);
        assert_eq!(parse("0-1023").unwrap().len(), 1024);
        assert!(parse("1024").unwrap_err().to_string().contains("`1024`"));
        assert!(parse("0-18446744073709551616").unwrap_err().to_string().contains("1023"));
    }

    #[test]
    fn a_bad_list_is_refused_by_the_name_of_its_bad_part() {
        for (typed, bad) in [
            ("0,x", "`x`"),
            ("0-", "`0-`"),
            ("1,,2", "``"),
            ("3-1", "`3-1`"),
            ("+1", "`+1`"),
            ("-1", "`-1`"),
            ("0,0", "processor 0 is named twice"),
            ("6,4-6", "processor 6 is named twice"),
        ] {
            let message = parse(typed).unwrap_err().to_string();
            assert!(message.contains(bad), "{typed}: {message}");
        }
        assert!(matches!(parse(" "), Err(CpuError::Empty)));
    }

    #[test]
    fn a_list_beyond_what_is_allowed_names_the_processor() {
        let allowed = parse("0-3").unwrap();
        parse("1,3").unwrap().check_within(&allowed).unwrap();
        let message = parse("1,7,9").unwrap().check_within(&allowed).unwrap_err().to_string();
        assert_eq!(message, "processor 7 is not open to this process; it may use 0-3");
    }

    #[test]
    fn a_pinned_thread_is_where_it_was_sent() {
        let last = *allowed().unwrap().as_slice().last().unwrap();
        let pinned = std::thread::spawn(move || {
            pin_current(last).unwrap();
            allowed().unwrap()
        });
        assert_eq!(pinned.join().unwrap().as_slice(), [last]);
    }

    #[test]
    fn pinning_to_a_processor_that_is_not_there_fails_with_a_reason() {
        std::thread::spawn(|| {
            assert!(matches!(pin_current(1023), Err(CpuError::Refused { cpu: 1023, .. })));
            assert!(matches!(pin_current(1024), Err(CpuError::TooLarge { .. })));
        })
        .join()
        .unwrap();
    }
}
