//! Where the channel's moments come from.

use channel::Moment;
use tokio::time::{Duration, Instant};

/// A monotonic clock that starts at zero.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts now.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Time since the start.
    pub fn now(&self) -> Moment {
        let millis = self.start.elapsed().as_millis();
        Moment::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }

    /// The moment as the runtime's timers know it.
    pub(crate) fn instant(&self, moment: Moment) -> Instant {
        self.start + Duration::from_millis(moment.as_millis())
    }
}
