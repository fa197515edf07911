//! How late an idle thread is woken: what the machine does to anybody who sleeps, whatever the generator does meanwhile.
//!
//! A thread sleeps a millisecond at a time and notes by how much more; it takes about half a percent of a processor, and runs
//! only where somebody wants to know.

use crate::latency::Spread;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The thread, until this is dropped.
#[derive(Debug)]
pub struct Hiccups {
    /// What was noted since the last look: written by the thread, emptied by whoever looks.
    noted: Arc<Mutex<Spread>>,
    /// Set by whoever ends it, read by the thread.
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hiccups {
    /// Starts to note.
    ///
    /// # Errors
    /// Where there can be no more threads.
    pub fn start() -> io::Result<Hiccups> {
        let (noted, is_over) = (Arc::new(Mutex::new(Spread::new())), Arc::new(AtomicBool::new(false)));
        let (shared, told) = (noted.clone(), is_over.clone());
        let note = move || {
            while !told.load(Ordering::Relaxed) {
                let from = Instant::now();
                thread::sleep(NAP);
                let late = from.elapsed().saturating_sub(NAP);
                shared.lock().unwrap_or_else(PoisonError::into_inner).record(late.as_nanos() as u64, 1);
            }
        };
        let thread = thread::Builder::new().name("hiccups".into()).spawn(note)?;
        Ok(Hiccups { noted, is_over, thread: Some(thread) })
    }

    /// What was noted since the last time.
    pub fn take(&self) -> Spread {
        std::mem::take(&mut *self.noted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Hiccups {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // It panics nowhere, and there is nothing to do about it here if it did.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

const NAP: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn naps_are_noted_once_and_end_with_their_owner() {
        let hiccups = Hiccups::start().unwrap();
        let began = Instant::now();
        let mut seen = 0;
        while seen < 20 {
            assert!(began.elapsed() < Duration::from_secs(30), "{seen} naps");
            thread::sleep(Duration::from_millis(20));
            seen += hiccups.take().len();
        }
        assert!(u128::from(seen) <= began.elapsed().as_millis(), "a nap is a millisecond at least");
        let noted = hiccups.noted.clone();
        drop(hiccups);
        assert_eq!(Arc::strong_count(&noted), 1, "the thread has gone");
    }
}
