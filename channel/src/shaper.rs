//! The cadence of answers: one record each tick, with data or without.
//!
//! ```text
//!  request                               last byte          quiet
//!     ▼                                      ▼                ▼
//!     ┃ ┃ ┃ ┃ ┃ ┃ ┃ ┃ ┃ … ┃ ┃ ┃ ┃ ┃ ┃ ┃ ┃ ┃ ┃ ┃ ┃ ┃ … ┃ ┃ ┃ ┃
//!     └───── window, 25 ticks ────┘└──── window, 25 ticks ────┘
//! ```
//!
//! Ticks stand on a grid that begins with the request. The stream of ticks ends at the end of a
//! window, never in mid-window. A tick that was missed, as the machine was busy or the carrier was
//! full, is left out: records are never sent in a burst to catch up.

use crate::Moment;

/// Time between two records of an answer, in milliseconds.
pub const TICK_MS: u64 = 40;
/// An answer lasts a whole number of windows of that many ticks.
pub const WINDOW_TICKS: u64 = 25;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tick {
    /// One record leaves now.
    Now,
    /// Nothing leaves before that moment.
    At(Moment),
    /// Nothing leaves until something is written or received.
    Idle,
}

#[derive(Debug)]
struct Grid {
    origin: Moment,
    /// The next tick, counted from the origin.
    next: u64,
    /// The tick before which the stream does not stop.
    until: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Shaper {
    holds: usize,
    grid: Option<Grid>,
}

impl Shaper {
    pub(crate) fn hold(&mut self) {
        self.holds += 1;
    }

    pub(crate) fn release(&mut self) {
        self.holds = self.holds.saturating_sub(1);
    }

    /// Starts the stream of ticks, if it does not run.
    pub(crate) fn start(&mut self, now: Moment) {
        self.grid.get_or_insert(Grid {
            origin: now,
            next: 0,
            until: WINDOW_TICKS,
        });
    }

    /// Says whether a record leaves now. `Tick::Now` counts as sent.
    pub(crate) fn poll(&mut self, now: Moment, pending: bool) -> Tick {
        let busy = pending || self.holds > 0;
        if busy {
            self.start(now);
        }
        let Some(grid) = &mut self.grid else {
            return Tick::Idle;
        };
        let current = now.since(grid.origin) / TICK_MS;
        if busy {
            grid.until = (current / WINDOW_TICKS + 1) * WINDOW_TICKS;
        } else if grid.next >= grid.until {
            self.grid = None;
            return Tick::Idle;
        }
        let due = grid.origin.after(grid.next.saturating_mul(TICK_MS));
        if now < due {
            return Tick::At(due);
        }
        grid.next = current + 1;
        Tick::Now
    }
}
