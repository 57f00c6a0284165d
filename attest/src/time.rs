//! The time at which evidence is judged: always an argument, never a clock.

use std::fmt;
use std::str::FromStr;
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

/// Neither a date as `2026-01-13`, nor a moment as `2026-01-13T08:00:00Z`, nor seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a moment as 2026-01-13T08:00:00Z, a date, or seconds since 1970 is expected")]
pub struct TimeError;

impl FromStr for UnixTime {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        if let Ok(seconds) = text.parse() {
            return Ok(Self(seconds));
        }
        let moment = match text.len() {
            10 => format!("{text}T00:00:00Z"),
            _ => text.to_owned(),
        };
        let date: DateTime = moment.parse().map_err(|_| TimeError)?;
        Ok(Self(date.unix_duration().as_secs()))
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
    fn times_are_read_in_three_forms() {
        let moment = UnixTime::from_secs(1_768_262_400);
        for text in ["1768262400", "2026-01-13", "2026-01-13T00:00:00Z"] {
            assert_eq!(text.parse(), Ok(moment), "{text}");
        }
        assert_eq!(moment.to_string().parse(), Ok(moment));
        for text in [
            "",
            "now",
            "2026-13-01",
            "2026-01-13T00:00:00",
            "13.1.2026",
            "-1",
        ] {
            assert_eq!(text.parse::<UnixTime>(), Err(TimeError), "{text}");
        }
    }

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
