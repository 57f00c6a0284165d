//! What a client has seen: nobody goes back, and nobody is shown another log.

use super::statement::Revocation;
use super::{History, VerifiedRelease};
use crate::{Digest, Refusal};

/// What a client remembers of one line of releases
/// ([`ReleasePolicy::line`](crate::policy::ReleasePolicy::line) names it) and of the log that holds
/// them. Where it is kept is the client's concern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ratchet {
    version: u64,
    revocations: Vec<Revocation>,
    log: Option<History>,
}

impl Ratchet {
    /// Of a client that has accepted nothing yet.
    pub const UNSEEN: Self = Self::at(0);

    /// Of a client that has accepted `version`, and remembers no log.
    #[must_use]
    pub const fn at(version: u64) -> Self {
        Self {
            version,
            revocations: Vec::new(),
            log: None,
        }
    }

    /// Of a client that has accepted `version`, knows of these revocations, and last saw this log.
    #[must_use]
    pub const fn new(version: u64, revocations: Vec<Revocation>, log: Option<History>) -> Self {
        Self {
            version,
            revocations,
            log,
        }
    }

    /// The least version that may be accepted.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Revocations of this version and of later ones; earlier ones are refused anyway.
    #[must_use]
    pub fn revocations(&self) -> &[Revocation] {
        &self.revocations
    }

    /// The largest log that was seen.
    #[must_use]
    pub const fn log(&self) -> Option<&History> {
        self.log.as_ref()
    }

    /// What is remembered once `release` was accepted: never less than before. Refused are an older
    /// release, a revoked one, and one in a log that does not continue the log seen before.
    pub fn advance(&self, release: &VerifiedRelease) -> Result<Self, Refusal> {
        let (seen, found) = (self.version, release.statement().predicate.version);
        if found < seen {
            return Err(Refusal::Rollback { seen, found });
        }
        let mut revocations = self.revocations.clone();
        for revocation in release.revocations() {
            if !revocations
                .iter()
                .any(|known| known.version == revocation.version)
            {
                revocations.push(revocation.clone());
            }
        }
        revocations.retain(|revocation| revocation.version >= found);
        revocations.sort_by_key(|revocation| revocation.version);
        if let Some(revocation) = revocations.iter().find(|one| one.version == found) {
            return Err(Refusal::Revoked(revocation.clone()));
        }
        let new = release.history();
        let log = match &self.log {
            Some(old) => {
                consistent(old, new)?;
                if old.size() >= new.size() { old } else { new }
            }
            None => new,
        };
        Ok(Self {
            version: found,
            revocations,
            log: Some(log.clone()),
        })
    }
}

/// One of two states of a log continues the other: both give one root for the smaller size.
fn consistent(old: &History, new: &History) -> Result<(), Refusal> {
    let size = old.size().min(new.size());
    let root = |history: &History| -> Result<Digest<32>, Refusal> {
        history.root_at(size).ok_or(Refusal::HistoryTooShort {
            size,
            from: history.from(),
        })
    };
    let (expected, found) = (root(old)?, root(new)?);
    match expected == found {
        true => Ok(()),
        false => Err(Refusal::SplitView {
            size,
            expected,
            found,
        }),
    }
}
