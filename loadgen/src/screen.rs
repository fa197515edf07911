//! What a person sees while a run goes on: a dashboard on a terminal, a line per second anywhere else, or nothing.
//!
//! It is drawn by the thread that gathers what the workers tell, never by one that measures, and it is no part of the
//! result. The terminal stays in the mode it was in: Ctrl-C is a signal as always, and nothing is read from the keyboard.

mod board;

use crate::config::Config;
use crate::timeline::Second;
use board::Board;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen};
use std::io::{self, IsTerminal, Stderr, Write};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where progress is shown, always on standard error.
#[derive(Debug)]
pub enum Screen {
    /// Nowhere.
    Quiet,
    /// As a line per second.
    Lines,
    /// As a dashboard.
    Full(Box<Dashboard>),
}

/// A dashboard that has the terminal.
#[derive(Debug)]
pub struct Dashboard {
    terminal: Terminal<CrosstermBackend<Stderr>>,
    board: Board,
}

impl Screen {
    /// What fits the run and where standard error goes.
    pub fn open(config: &Config) -> Screen {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        if config.quiet {
            Screen::Quiet
        } else if config.plain || is_dumb || !io::stderr().is_terminal() {
            Screen::Lines
        } else {
            // https://no-color.org: set, and not empty.
            let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            // A terminal that cannot be drawn on still takes lines.
            Dashboard::open(Board::new(config, colours)).map_or(Screen::Lines, |board| Screen::Full(Box::new(board)))
        }
    }

    /// Shows a second that is over.
    pub fn see(&mut self, second: &Second) {
        match self {
            Screen::Quiet => {}
            Screen::Lines => say(second),
            Screen::Full(dashboard) => {
                if dashboard.see(second).is_err() {
                    leave();
                    *self = Screen::Lines;
                    say(second);
                }
            }
        }
    }
}

/// A line of progress. What is left at the end is no whole second. A reader that is gone must not end a run.
fn say(second: &Second) {
    if second.length_s() > 0.5 {
        let _ = io::stderr().write_all(format!("{}\n", second.line()).as_bytes());
    }
}

impl Dashboard {
    fn open(board: Board) -> io::Result<Dashboard> {
        let terminal = Terminal::new(CrosstermBackend::new(io::stderr()))?;
        leave_on_panic();
        IS_ENTERED.store(true, Ordering::Relaxed);
        let mut dashboard = Dashboard { terminal, board };
        execute!(io::stderr(), EnterAlternateScreen, Hide)?;
        dashboard.draw()?;
        Ok(dashboard)
    }

    fn see(&mut self, second: &Second) -> io::Result<()> {
        if !IS_ENTERED.load(Ordering::Relaxed) {
            return Err(io::Error::other("a thread that panicked has given the terminal back"));
        }
        self.board.see(second);
        self.draw()
    }

    fn draw(&mut self) -> io::Result<()> {
        let Dashboard { terminal, board } = self;
        terminal.draw(|frame| board.draw(frame)).map(drop)
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        leave();
    }
}

/// Gives the terminal back, once.
fn leave() {
    if IS_ENTERED.swap(false, Ordering::Relaxed) {
        // There is nobody to tell.
        let _ = execute!(io::stderr(), LeaveAlternateScreen, Show);
    }
}

/// What a panic says has to stay on the screen.
fn leave_on_panic() {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        leave();
        previous(info);
    }));
}

/// Whether the terminal shows the dashboard. Written by the thread that draws, and by one that panics; whoever finds it
/// set gives the terminal back.
static IS_ENTERED: AtomicBool = AtomicBool::new(false);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_on_any_thread_gives_the_terminal_back_first() {
        leave_on_panic();
        IS_ENTERED.store(true, Ordering::Relaxed);
        let panicked = std::thread::spawn(|| panic!("on purpose")).join();
        assert!(panicked.is_err() && !IS_ENTERED.load(Ordering::Relaxed));
    }
}
