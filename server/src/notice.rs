//! What a server says to whoever runs it, on standard error.
//!
//! Starts, stops, rolls and refusals; never a record. It cannot fail and waits for nobody: a reader that is gone must not end
//! a worker, as `eprintln!` would, and one that has stopped reading must not keep a signal or a disk from being heeded.

use ringest_sys::pipe;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Says a sentence.
#[macro_export]
macro_rules! notice {
    ($($sentence:tt)*) => {
        $crate::notice::say(format_args!($($sentence)*))
    };
}

/// Sentences that nobody has read since the last that was said. Whoever speaks writes and reads it.
static MISSING: AtomicU64 = AtomicU64::new(0);

/// Writes one line, in one piece, so that lines of different threads do not mix. Where nobody reads, it is left out, and
/// counted in the next that is not.
pub fn say(sentence: std::fmt::Arguments<'_>) {
    let stderr = io::stderr();
    let patience = if MISSING.load(Ordering::Relaxed) == 0 { PATIENCE } else { Duration::ZERO };
    if !pipe::has_room(stderr.as_fd(), patience) {
        MISSING.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let mut text = match MISSING.swap(0, Ordering::Relaxed) {
        0 => String::new(),
        missing => format!("ringest-server: {missing} lines are missing here: nobody read them\n"),
    };
    text += &format!("ringest-server: {sentence}");
    text.truncate(text.floor_char_boundary(pipe::PIECE_MAX - 1));
    text.push('\n');
    let _ = stderr.lock().write_all(text.as_bytes());
}

/// For a reader that is slow, once. The next one is not waited for, until it has read.
const PATIENCE: Duration = Duration::from_millis(100);
