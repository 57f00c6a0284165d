//! When to ask again: in time, never in step with others, and never before one is let.

use std::time::Duration;

/// After the first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause of our own choice.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);
/// The longest that somebody else can have us wait: what is kept may hold no longer.
const LONGEST_WISH: Duration = Duration::from_secs(24 * 60 * 60);
/// Nothing is asked for more often, whatever the clocks say.
const SHORTEST_REST: Duration = Duration::from_secs(60);

/// Counts failures in a row.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    failures: u32,
}

impl Schedule {
    /// How long to wait where the first item is due in `rest`.
    pub(super) fn succeeded(&mut self, rest: Duration, random: u16) -> Duration {
        self.failures = 0;
        let rest = rest.clamp(SHORTEST_REST, LONGEST_WISH);
        (rest - part(rest / 10, random)).max(SHORTEST_REST)
    }

    /// How long to wait after a failure; `wish` is how long one is asked to.
    pub(super) fn failed(&mut self, wish: Option<Duration>, random: u16) -> Duration {
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let wish = wish.unwrap_or_default().min(LONGEST_WISH);
        let least = doubled.min(LONGEST_PAUSE).max(wish);
        least + part(least / 4, random)
    }
}

/// From nothing to all of `whole`, by chance.
fn part(whole: Duration, random: u16) -> Duration {
    whole * u32::from(random) / u32::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn pauses_double_up_to_an_hour_and_start_anew_after_a_success() {
        let mut schedule = Schedule::default();
        let mut pauses = || schedule.failed(None, 0).as_secs();
        let found: Vec<_> = (0..9).map(|_| pauses()).collect();
        assert_eq!(found, [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]);
        assert_eq!(schedule.succeeded(seconds(7200), 0), seconds(7200));
        assert_eq!(schedule.failed(None, 0), seconds(30));
        assert_eq!(schedule.failed(None, u16::MAX), seconds(75));
    }

    proptest! {
        #[test]
        fn nobody_is_asked_earlier_than_it_wishes_or_more_than_a_day_later(
            wishes in proptest::collection::vec(proptest::option::of(0_u64..200_000), 1..40),
            random: u16,
        ) {
            let mut schedule = Schedule::default();
            for wish in wishes {
                let wish = wish.map(seconds);
                let wait = schedule.failed(wish, random);
                prop_assert!(wait >= wish.unwrap_or_default().min(LONGEST_WISH));
                prop_assert!(wait >= FIRST_PAUSE && wait <= LONGEST_WISH * 5 / 4);
            }
        }

        #[test]
        fn what_is_due_is_asked_for_in_time_and_not_without_end(rest: u32, random: u16) {
            let wait = Schedule::default().succeeded(seconds(rest.into()), random);
            prop_assert!(wait >= SHORTEST_REST && wait <= LONGEST_WISH);
            prop_assert!(wait <= seconds(rest.into()).max(SHORTEST_REST));
        }
    }
}
