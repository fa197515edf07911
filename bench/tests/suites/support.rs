//! The programs that the suites start, and the bench itself as a user runs it.

use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The bench, with the programs of the same build.
pub(crate) struct Bench {
    pub(crate) room: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        programs();
        Bench { room: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() }
    }

    /// The bench with arguments. It pins nothing: tests run beside each other.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringest-bench"));
        command.args(args).stdin(Stdio::null()).current_dir(self.room.path());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        let output = self.command(args).output().unwrap();
        println!("{args:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        output
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.room.path().join(name)
    }

    pub(crate) fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.path(name)).unwrap()).unwrap()
    }

    /// Nothing that was made for a while is left.
    pub(crate) fn leaves_no_scratch(&self) {
        let left = std::fs::read_dir(self.room.path()).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(!left.iter().any(|name| name.starts_with("ringest-")), "{left:?}");
    }
}

/// Server and generator of this state of the tree: a test of this package alone does not make them. As a part of the whole,
/// so that nothing is built twice.
fn programs() {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        let cargo =
            Command::new(env!("CARGO")).args(["build", "--quiet", "--locked", "--bins", "--workspace"]).status();
        assert!(cargo.unwrap().success(), "server and generator can be built");
    });
}

/// The server that the suites start.
pub(crate) fn server() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_ringest-bench")).with_file_name("ringest-server")
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
