//! Processor time used so far, for bills: what one thread cost. And the time since the machine started, for supervisors,
//! who compare it with their own.
//!
//! Never the time of day, and never a reason to decide anything.

use std::time::Duration;

/// Processor time, user and system, of the calling thread since it began. What io_uring's workers do on its behalf is
/// not in it: they are threads of their own.
pub fn thread_cpu() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec of our own that lives through the call.
    let outcome = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    assert_eq!(outcome, 0, "a thread's processor-time clock exists on every Linux since 2.6.12");
    // Neither part is ever negative: the clock starts at zero.
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Processor time, user and system, of all threads of the process since it began.
pub fn process_cpu() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec of our own that lives through the call.
    let outcome = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut now) };
    assert_eq!(outcome, 0, "a process's processor-time clock exists on every Linux since 2.6.12");
    // Neither part is ever negative: the clock starts at zero.
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// The clock behind [`std::time::Instant`], as a number: it means the same in every process of the machine.
pub fn monotonic() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec of our own that lives through the call.
    let outcome = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    assert_eq!(outcome, 0, "the monotonic clock exists on every Linux");
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;
    use std::time::Instant;

    fn burn(duration: Duration) {
        let start = Instant::now();
        while start.elapsed() < duration {
            black_box(0);
        }
    }

    #[test]
    fn work_is_billed_to_its_thread_and_sleep_is_not() {
        let before = thread_cpu();
        std::thread::sleep(Duration::from_millis(50));
        let slept = thread_cpu() - before;
        assert!(slept < Duration::from_millis(25), "sleeping cost {slept:?}");

        burn(Duration::from_millis(30));
        assert!(thread_cpu() - before > slept, "30 ms of spinning were not billed");
    }

    #[test]
    fn what_another_thread_does_is_not_billed() {
        let (own, everyone) = (thread_cpu(), process_cpu());
        let theirs = std::thread::spawn(|| {
            burn(Duration::from_millis(30));
            thread_cpu()
        });
        let theirs = theirs.join().unwrap();
        assert!(theirs > Duration::ZERO);
        assert!(thread_cpu() - own < theirs);
        assert!(process_cpu() - everyone >= theirs, "the process's bill has the thread in it");
    }
}
