//! Artifacts against a release. The release itself is verified by [`attest::verify_release`], as
//! a client does it.

use std::path::Path;

use attest::release::Statement;
use attest::release::statement::{Rebuild, RebuildStatement};
use attest::{Digest, Name};

use crate::statement::{MakeError, assembled_digests};

/// Why artifacts are not those of a release.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// An artifact cannot be read.
    #[error(transparent)]
    Read(#[from] MakeError),
    /// The release does not name an artifact.
    #[error("the release names no artifact {0}")]
    Unnamed(String),
    /// An artifact differs from the release.
    #[error("{name} has SHA-256 {found}, the release states {expected}")]
    Differs {
        /// The artifact.
        name: String,
        /// By the release.
        expected: Digest<32>,
        /// Of the file.
        found: Digest<32>,
    },
}

/// Why a rebuild is not of a release.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// Of another source revision or lock.
    #[error("the rebuild is of another source revision or lock than the release")]
    Source,
    /// An artifact of the release did not come out.
    #[error("{0} did not come out as the release states it")]
    Differs(Name),
}

/// Checks that a rebuild gave every artifact of a release.
pub fn check_rebuild(rebuilt: &RebuildStatement, release: &Statement) -> Result<(), RebuildError> {
    let mut stated = release.subject.iter();
    match stated.find(|one| !rebuilt.subject.contains(one)) {
        Some(subject) => Err(RebuildError::Differs(subject.name.clone())),
        None if Rebuild::confirms(rebuilt, release) => Ok(()),
        None => Err(RebuildError::Source),
    }
}

/// Checks that the files in an assembled folder are those that a release states, and says how
/// many they are.
pub fn check_artifacts(folder: &Path, statement: &Statement) -> Result<usize, ArtifactError> {
    let digests = assembled_digests(folder)?;
    let count = digests.len();
    for (name, found) in digests {
        let mut subjects = statement.subject.iter();
        let subject = subjects.find(|subject| subject.name.as_str() == name);
        match subject.map(|subject| subject.digest.sha256) {
            Some(expected) if expected == found => {}
            Some(expected) => {
                return Err(ArtifactError::Differs {
                    name,
                    expected,
                    found,
                });
            }
            None => return Err(ArtifactError::Unnamed(name)),
        }
    }
    Ok(count)
}
