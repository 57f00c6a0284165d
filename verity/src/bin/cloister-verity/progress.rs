//! A progress line for people: from two seconds on, on a terminal only.

use std::io::{IsTerminal, Write, stderr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SILENT: Duration = Duration::from_secs(2);
const INTERVAL: Duration = Duration::from_millis(200);

/// Counts bytes and draws them.
pub(crate) struct Meter {
    total: u64,
    done: AtomicU64,
    start: Instant,
    /// When the line was last drawn; nothing where there is no terminal.
    drawn: Option<Mutex<Instant>>,
}

impl Meter {
    pub(crate) fn new(total: u64) -> Self {
        let start = Instant::now();
        Self {
            total,
            done: AtomicU64::new(0),
            start,
            drawn: stderr().is_terminal().then(|| Mutex::new(start)),
        }
    }

    /// Adds bytes; called by many threads, one of which draws.
    pub(crate) fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let Some(Ok(mut drawn)) = self.drawn.as_ref().map(Mutex::try_lock) else {
            return;
        };
        if self.start.elapsed() >= SILENT && drawn.elapsed() >= INTERVAL {
            *drawn = Instant::now();
            let line = line(done, self.total, self.start.elapsed());
            write!(stderr(), "\r\x1b[K{line}").ok();
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.drawn.is_some() && self.start.elapsed() >= SILENT {
            write!(stderr(), "\r\x1b[K").ok();
        }
    }
}

fn line(done: u64, total: u64, elapsed: Duration) -> String {
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    let percent = done * 100 / total.max(1);
    let rate = done as f64 / 1e9 / elapsed.as_secs_f64().max(1e-3);
    let (done, total) = (gib(done), gib(total));
    format!(
        "{percent:3} %  {done:.1} of {total:.1} GiB  {rate:.2} GB/s  {} s",
        elapsed.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_units() {
        let text = line(1 << 30, 4 << 30, Duration::from_secs(2));
        assert_eq!(text, " 25 %  1.0 of 4.0 GiB  0.54 GB/s  2 s");
    }
}
