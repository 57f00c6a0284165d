//! A release bundle against a policy, as a client does it, and artifacts against a release.

use std::path::Path;

use attest::policy::ReleasePolicy;
use attest::release::{Statement, VerifiedRelease};
use attest::{Digest, Refusal, ReleaseFloor};

use crate::statement::{MakeError, assembled_digests};

/// Verifies that `bundle` is a release that the policy accepts: signed, logged, of the policy's
/// name and profile, and not older than the policy and the floor allow.
pub fn verify(
    bundle: &[u8],
    policy: &ReleasePolicy,
    floor: ReleaseFloor,
) -> Result<VerifiedRelease, Refusal> {
    let release = VerifiedRelease::verify(bundle, policy)?;
    let stated = &release.statement().predicate;
    if stated.name != policy.name {
        let (expected, found) = (policy.name.clone(), stated.name.clone());
        return Err(Refusal::ReleaseName { expected, found });
    }
    if stated.profile != policy.profile {
        let (expected, found) = (policy.profile.clone(), stated.profile.clone());
        return Err(Refusal::Profile { expected, found });
    }
    let (minimum, found) = (policy.minimum_version, stated.version);
    if found < minimum {
        return Err(Refusal::Version { minimum, found });
    }
    if !floor.admits(found) {
        let seen = floor.version();
        return Err(Refusal::Rollback { seen, found });
    }
    Ok(release)
}

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
