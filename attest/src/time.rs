//! The time at which evidence is judged: always an argument, never a clock.

use std::fmt;
use std::time::Duration;

use x509_cert::der::DateTime;

/// Seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixTime(u64);

impl UnixTime {
    /// The time `seconds` after the start of 1970.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds)
    }

    /// Seconds since the start of 1970.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0
    }
}

impl fmt::Display for UnixTime {
    /// As RFC 3339 gives it, or the bare number of seconds after the year 9999.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::from_unix_duration(Duration::from_secs(self.0)) {
            Ok(date) => date.fmt(f),
            Err(_) => write!(f, "{} s", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_as_a_date() {
        assert_eq!(
            UnixTime::from_secs(1_790_000_000).to_string(),
            "2026-09-21T14:13:20Z"
        );
        assert_eq!(
            UnixTime::from_secs(u64::MAX).to_string(),
            "18446744073709551615 s"
        );
    }
}
