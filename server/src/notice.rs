//! What a server says to whoever runs it, on standard error.
//!
//! Starts, stops, rolls and refusals; never a record. It cannot fail: a reader that is gone must not end a worker, as
//! `eprintln!` would.

/// Says a sentence.
#[macro_export]
macro_rules! notice {
    ($($sentence:tt)*) => {
        $crate::notice::say(format_args!($($sentence)*))
    };
}

/// Writes one line, in one piece, so that lines of different threads do not mix.
pub fn say(sentence: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(format!("ringest-server: {sentence}\n").as_bytes());
}
