//! An error and its causes on one line.

use std::error::Error;
use std::fmt;

/// Shows an error, then each cause, parted by colons.
#[derive(Debug)]
pub struct Cause<'a>(pub &'a dyn Error);

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}
