//! Artifacts against a release. The release itself is verified by [`attest::verify_release`], as
//! a client does it.

use std::path::Path;

use attest::release::Statement;
use attest::release::statement::{Rebuild, RebuildStatement, Subject};
use attest::{Digest, Name};

use crate::statement::{MakeError, assembled_digests, measured};

/// Why artifacts are not those of a release.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// An artifact cannot be read.
    #[error(transparent)]
    Read(#[from] MakeError),
    /// The release states registers or a configuration that are not those of its own artifacts.
    #[error("the release states registers, or a configuration, that its artifacts do not give")]
    Values,
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
    /// Of another source revision, lock or configuration.
    #[error("the rebuild is of another source revision, lock or configuration than the release")]
    Source,
    /// An artifact of the release did not come out.
    #[error("{0} did not come out as the release states it")]
    Differs(Name),
    /// An artifact came out that is not the release's.
    #[error("{0} came out, and is no artifact of the release")]
    More(Name),
    /// What machines show is not what the release states, or other machines were measured.
    #[error("what machines show was not measured as the release states it")]
    Values,
}

/// Checks that a rebuild gave what a release states.
pub fn check_rebuild(rebuilt: &RebuildStatement, release: &Statement) -> Result<(), RebuildError> {
    let missing = |one: &[Subject], other: &[Subject]| {
        let mut one = one.iter();
        let first = one.find(|subject| !other.contains(subject));
        first.map(|subject| subject.name.clone())
    };
    let (made, stated) = (&rebuilt.predicate, &release.predicate);
    if let Some(name) = missing(&release.subject, &rebuilt.subject) {
        return Err(RebuildError::Differs(name));
    }
    if let Some(name) = missing(&rebuilt.subject, &release.subject) {
        return Err(RebuildError::More(name));
    }
    match Rebuild::confirms(rebuilt, release) {
        true => Ok(()),
        false if made.reference_values != stated.reference_values => Err(RebuildError::Values),
        false => Err(RebuildError::Source),
    }
}

/// Checks that the files in an assembled folder are those that a release states, and that a TPM
/// measures them as it states; says how many files they are.
pub fn check_artifacts(folder: &Path, statement: &Statement) -> Result<usize, ArtifactError> {
    let (configuration, tpm) = measured(folder)?;
    let stated = &statement.predicate;
    let same = configuration == stated.configuration_digest && tpm == stated.reference_values.tpm;
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
    match same {
        true => Ok(count),
        false => Err(ArtifactError::Values),
    }
}
