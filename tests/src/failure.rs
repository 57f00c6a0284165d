//! One line that says what failed, and one that says what to do.

use std::error::Error;
use std::fmt;

use agent::cause::Cause;

/// A step that failed.
#[derive(Debug)]
pub struct Failure {
    step: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// What a step gives.
pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// A step that failed for a reason that it states itself.
    pub fn new(step: impl Into<String>) -> Self {
        Self {
            step: step.into(),
            source: None,
        }
    }
}

/// Names the step that an error belongs to.
pub trait Step<T> {
    /// Turns an error into the failure of `step`.
    fn step(self, step: impl fmt::Display) -> Outcome<T>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Step<T> for Result<T, E> {
    fn step(self, step: impl fmt::Display) -> Outcome<T> {
        self.map_err(|error| Failure {
            step: step.to_string(),
            source: Some(error.into()),
        })
    }
}

impl fmt::Display for Failure {
    /// The whole chain of causes on one line, without those that an error quotes itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.step)?;
        match &self.source {
            Some(error) => write!(f, ": {}", Cause(&**error)),
            None => Ok(()),
        }
    }
}

impl Error for Failure {}
