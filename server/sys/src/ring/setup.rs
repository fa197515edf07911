//! How a ring is asked for: the best setup this kernel takes, tried best first.
//!
//! The kernel is asked, never its version: distributions carry features back, and filters take them away.

use std::fmt;
use std::io;

use io_uring::{Builder, IoUring};

/// Which setup the kernel took. All of them serve every operation; they differ in what a completion costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// Completions are finished on the ring's own thread, when it waits and at no other time (kernel 6.1).
    Deferred,
    /// Completions are finished on the ring's own thread whenever it enters the kernel (5.19).
    Cooperative,
    /// The thread is interrupted for completions.
    Plain,
}

/// Asks for the flags of one setup.
type Flags = fn(&mut Builder);

/// Tries the setups in order and returns the first the kernel takes.
pub(super) fn build(sq_entries: u32, cq_entries: u32) -> io::Result<(IoUring, Setup)> {
    let ladder: [(Setup, Flags); 4] = [
        (Setup::Deferred, |ring| {
            defer(ring);
            ring.setup_no_sqarray();
        }),
        (Setup::Deferred, defer),
        (Setup::Cooperative, |ring| {
            ring.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all();
        }),
        (Setup::Plain, |_| {}),
    ];
    let mut refusal = None;
    for (setup, ask) in ladder {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(cq_entries).setup_clamp();
        ask(&mut builder);
        match builder.build(sq_entries) {
            Ok(ring) => return Ok((ring, setup)),
            // A flag this kernel does not know. Anything else would not be cured by asking for less.
            Err(err) if err.raw_os_error() == Some(libc::EINVAL) => refusal = Some(err),
            Err(err) => return Err(err),
        }
    }
    Err(refusal.expect("the ladder has rungs, and none held"))
}

fn defer(ring: &mut Builder) {
    // SUBMIT_ALL: one operation that fails at once does not hold back those queued behind it. TASKRUN_FLAG: the kernel
    // says when deferred work is waiting.
    ring.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_submit_all();
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Setup::Deferred => "deferred",
            Setup::Cooperative => "cooperative",
            Setup::Plain => "plain",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_one_of_the_setups_with_the_room_asked_for() {
        let (ring, setup) = build(8, 64).unwrap();
        assert_eq!(ring.params().is_setup_single_issuer(), setup == Setup::Deferred);
        assert!(ring.params().sq_entries() >= 8 && ring.params().cq_entries() >= 64);
    }
}
