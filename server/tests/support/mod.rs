//! What the tests of the real binary stand on: a server process started for one test, clients that talk to it in
//! literal bytes, and its files read back by its own commands.
//!
//! It knows the server by its command line, its port and its files alone: nothing here looks into the process.

pub(crate) mod client;
pub(crate) mod dice;
pub(crate) mod disk;
pub(crate) mod gzip;
pub(crate) mod lines;
pub(crate) mod process;
pub(crate) mod tls;

use ringest_sys::ring;

/// A kernel interface that the server runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Uring,
    Epoll,
    #[cfg(feature = "glommio")]
    Glommio,
}

impl Backend {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Backend::Uring => "uring",
            Backend::Epoll => "epoll",
            #[cfg(feature = "glommio")]
            Backend::Glommio => "glommio",
        }
    }

    /// Why this backend cannot be tested here. Said by the kernel, never assumed.
    pub(crate) fn refusal(self) -> Option<String> {
        match self {
            Backend::Uring => ring::probe().err().map(|reason| reason.to_string()),
            Backend::Epoll => None,
            #[cfg(feature = "glommio")]
            Backend::Glommio => ring::probe().err().map(|reason| reason.to_string()),
        }
    }
}

/// One fact, proved on every backend: `name::uring`, `name::epoll` and `name::glommio`.
macro_rules! on_each_backend {
    ($name:ident, $case:expr) => {
        mod $name {
            #[allow(unused_imports, reason = "a case uses what it uses of its file's imports")]
            use super::*;

            #[test]
            fn uring() {
                $crate::support::run($crate::support::Backend::Uring, $case);
            }

            #[test]
            fn epoll() {
                $crate::support::run($crate::support::Backend::Epoll, $case);
            }

            #[cfg(feature = "glommio")]
            #[test]
            fn glommio() {
                $crate::support::run($crate::support::Backend::Glommio, $case);
            }
        }
    };
}
pub(crate) use on_each_backend;

/// Runs a case, or says why it cannot be run.
pub(crate) fn run(backend: Backend, case: impl FnOnce(process::Setup)) {
    match backend.refusal() {
        None => case(process::Setup::new(backend)),
        Some(reason) => println!("skipped on {}: {reason}", backend.as_str()),
    }
}
