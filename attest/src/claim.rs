//! What was checked, for `--explain` and `--json`.

use std::fmt::Display;

use serde::Serialize;

/// One thing that verification established.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Claim {
    /// What the claim is about, such as `PCR 9 (command line and initrd)`.
    pub what: String,
    /// What had to be found.
    pub expected: String,
    /// What was found.
    pub found: String,
    /// The root that the claim rests on: a certificate authority, a signing key, a log.
    pub rests_on: String,
}

impl Claim {
    pub(crate) fn new(
        what: impl Display,
        expected: impl Display,
        found: impl Display,
        rests_on: impl Display,
    ) -> Self {
        Self {
            what: what.to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
            rests_on: rests_on.to_string(),
        }
    }
}
