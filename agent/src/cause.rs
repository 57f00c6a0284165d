//! An error and its causes on one line.

use std::error::Error;
use std::fmt;

/// Shows an error, then each cause, parted by colons; a cause that an error quotes itself is shown
/// once.
#[derive(Debug)]
pub struct Cause<'a>(pub &'a dyn Error);

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.to_string();
        f.write_str(&shown)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            let cause = error.to_string();
            if !shown.ends_with(&cause) {
                write!(f, ": {cause}")?;
            }
            shown = cause;
            next = error.source();
        }
        Ok(())
    }
}
