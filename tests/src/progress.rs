//! What happens, and how long it has taken: a line for each step and, at a terminal, the seconds of
//! the one that runs.

use std::io::{self, IsTerminal as _};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_secs(1);

/// Counts from its start.
#[derive(Debug, Clone, Copy)]
pub struct Progress(Instant);

/// A step that runs until this is dropped.
#[derive(Debug)]
pub struct Step {
    progress: Progress,
    /// Closed to end the ticking.
    stop: Option<mpsc::Sender<()>>,
    ticking: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts to count.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Says what is so.
    pub fn say(self, what: &str) {
        eprintln!("{} {what}", self.stamp());
    }

    /// Says what begins and, at a terminal, how long it has gone on.
    pub fn step(self, what: &str) -> Step {
        let (stop, stopped) = mpsc::channel::<()>();
        let line = what.to_owned();
        let tick = move || {
            eprint!("{} {line}", self.stamp());
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                eprint!("\r{} {line}", self.stamp());
            }
            eprintln!();
        };
        let ticking = io::stderr().is_terminal().then(|| thread::spawn(tick));
        if ticking.is_none() {
            self.say(what);
        }
        Step {
            progress: self,
            stop: Some(stop),
            ticking,
        }
    }

    fn stamp(self) -> String {
        format!("[{:6.1} s]", self.0.elapsed().as_secs_f64())
    }
}

impl Step {
    /// Ends this step and begins the next.
    #[must_use]
    pub fn then(self, what: &str) -> Self {
        let progress = self.progress;
        drop(self);
        progress.step(what)
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(ticking) = self.ticking.take() {
            // It only prints; a terminal that went away is no fault of the step.
            let _ = ticking.join();
        }
    }
}
