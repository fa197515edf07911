//! What the host took from us: time in which a processor was given to another guest, as the kernel counts it.

use ringest_sys::cpu::CpuList;
use std::fs;
use std::time::{Duration, Instant};

/// Watches the processors of the workers. Whoever gathers intervals asks it, so that no worker reads the file.
#[derive(Debug)]
pub(crate) struct Host {
    /// The processor of each worker; none where they are not pinned.
    cpus: Option<Vec<usize>>,
    at: Instant,
    stolen: Stolen,
    /// Share of the time since the reading before, per processor, and over all of them.
    shares: (Vec<f64>, f64),
}

impl Host {
    pub(crate) fn new(cpus: Option<&CpuList>) -> Host {
        Host {
            cpus: cpus.map(|list| list.as_slice().to_vec()),
            at: Instant::now(),
            stolen: Stolen::now(),
            shares: (Vec::new(), 0.0),
        }
    }

    /// How much of the last `span_ns` was taken from the worker's processor, or from a processor on average where it may
    /// use any.
    pub(crate) fn stolen_ns(&mut self, worker: usize, span_ns: u64) -> u64 {
        let elapsed = self.at.elapsed();
        // The workers' intervals end together, and the kernel counts in hundredths of a second.
        if elapsed > READ_EVERY {
            let now = Stolen::now();
            self.shares = now.since(&self.stolen, elapsed);
            (self.stolen, self.at) = (now, Instant::now());
        }
        let (each, mean) = &self.shares;
        let own = self.cpus.as_ref().map(|cpus| each.get(cpus[worker]).copied().unwrap_or(0.0));
        (own.unwrap_or(*mean) * span_ns as f64) as u64
    }
}

/// Stolen ticks of each processor since the machine started, by its number.
#[derive(Debug, Default, PartialEq)]
struct Stolen(Vec<u64>);

impl Stolen {
    fn now() -> Stolen {
        Stolen::parse(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// `cpu1 user nice system idle iowait irq softirq steal …` of /proc/stat.
    fn parse(text: &str) -> Stolen {
        let mut ticks = Vec::new();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let Some(number) = words.next().and_then(|word| word.strip_prefix("cpu")?.parse::<usize>().ok()) else {
                continue;
            };
            let stolen = words.nth(7).and_then(|word| word.parse().ok()).unwrap_or(0);
            ticks.resize(ticks.len().max(number + 1), 0);
            ticks[number] = stolen;
        }
        Stolen(ticks)
    }

    fn since(&self, before: &Stolen, elapsed: Duration) -> (Vec<f64>, f64) {
        let ticks_of = |cpu: usize| self.0[cpu].saturating_sub(before.0.get(cpu).copied().unwrap_or(self.0[cpu]));
        let share = |cpu| (ticks_of(cpu) as f64 / TICKS_PER_S / elapsed.as_secs_f64()).min(1.0);
        let shares: Vec<f64> = (0..self.0.len()).map(share).collect();
        let mean = shares.iter().sum::<f64>() / shares.len().max(1) as f64;
        (shares, mean)
    }
}

const READ_EVERY: Duration = Duration::from_millis(500);
/// USER_HZ, which is 100 wherever Linux runs programs.
const TICKS_PER_S: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_a_share_of_the_time_that_went_by() {
        let stat = |first, third| {
            Stolen::parse(&format!(
                "cpu  9 9 9 9 9 9 9 99 0 0\ncpu0 1 0 2 3 0 0 0 {first} 0 0\ncpu2 1 0 2 3 0 0 0 {third} 0 0\nintr 17 0\n"
            ))
        };
        assert_eq!(stat(5, 7), Stolen(vec![5, 0, 7]));
        let (shares, mean) = stat(25, 7).since(&stat(5, 7), Duration::from_secs(2));
        assert_eq!(shares, [0.1, 0.0, 0.0]);
        assert!((mean - 0.1 / 3.0).abs() < 1e-9);
        assert_eq!(
            stat(25, 7).since(&Stolen::default(), Duration::from_secs(1)).1,
            0.0,
            "a first reading says nothing"
        );
    }

    #[test]
    fn this_machine_says_something() {
        assert!(!Stolen::now().0.is_empty());
        let mut host = Host::new(None);
        assert_eq!(host.stolen_ns(0, 1_000_000_000), 0, "nothing is known yet");
    }
}
