//! How often a service is asked again, and how long each answer may take.

use std::time::Duration;

/// A bound on waiting. Between two attempts the pause doubles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Attempts in all; at least one is made.
    pub attempts: u32,
    /// Pause after the first attempt.
    pub pause: Duration,
    /// Longest wait for one answer. Rekor v2 answers once the entry is in the log: some seconds.
    pub timeout: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 4,
            pause: Duration::from_secs(1),
            timeout: Duration::from_secs(30),
        }
    }
}

impl Patience {
    /// Calls until it succeeds, fails for good, or the attempts are used up. The number beside the
    /// last error says how often it was tried.
    pub(crate) async fn persist<T, E>(
        &self,
        may_pass: impl Fn(&E) -> bool,
        mut call: impl AsyncFnMut() -> Result<T, E>,
    ) -> Result<T, (u32, E)> {
        let mut pause = self.pause;
        let mut tried = 1;
        loop {
            match call().await {
                Ok(value) => return Ok(value),
                Err(error) if tried < self.attempts && may_pass(&error) => {}
                Err(error) => return Err((tried, error)),
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2);
            tried += 1;
        }
    }
}

/// Whether an answer of this HTTP status may be another one a little later.
pub(crate) fn passing(status: u16) -> bool {
    status == 408 || status == 429 || status >= 500
}
