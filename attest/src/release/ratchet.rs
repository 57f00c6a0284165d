//! What a client has seen: nobody goes back, and nobody is shown another log.

use super::statement::Revocation;
use super::{History, Published, SeenCheckpoint, VerifiedRelease};
use crate::{Digest, Refusal};

/// Most logs of Sigstore's that are remembered; who meets more forgets none of these.
const MAX_SEEN: usize = 64;

/// What was seen of logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The log of the policy, as it was when it was largest.
    pub history: Option<History>,
    /// Logs of Sigstore's, each as it was when it was largest.
    pub checkpoints: Vec<SeenCheckpoint>,
}

/// What a client remembers of one line of releases
/// ([`ReleasePolicy::line`](crate::policy::ReleasePolicy::line) names it) and of the log that holds
/// them. Where it is kept is the client's concern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ratchet {
    version: u64,
    /// SHA-256 of the statement of that version; nothing if none was accepted.
    statement: Option<Digest<32>>,
    revocations: Vec<Revocation>,
    seen: Seen,
}

impl Ratchet {
    /// Of a client that has accepted nothing yet.
    pub const UNSEEN: Self = Self::at(0);

    /// Of a client that has accepted some release with `version`, and remembers no log.
    #[must_use]
    pub const fn at(version: u64) -> Self {
        let seen = Seen {
            history: None,
            checkpoints: Vec::new(),
        };
        Self::new(version, None, Vec::new(), seen)
    }

    /// Of a client that has accepted `version`, of this `statement`, knows of these revocations,
    /// and saw these logs.
    #[must_use]
    pub const fn new(
        version: u64,
        statement: Option<Digest<32>>,
        revocations: Vec<Revocation>,
        seen: Seen,
    ) -> Self {
        Self {
            version,
            statement,
            revocations,
            seen,
        }
    }

    /// The least version that may be accepted.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// SHA-256 of the statement of that version.
    #[must_use]
    pub const fn statement(&self) -> Option<Digest<32>> {
        self.statement
    }

    /// Revocations of this version and of later ones; earlier ones are refused anyway.
    #[must_use]
    pub fn revocations(&self) -> &[Revocation] {
        &self.revocations
    }

    /// The largest log that was seen.
    #[must_use]
    pub const fn log(&self) -> Option<&History> {
        self.seen.history.as_ref()
    }

    /// Logs of Sigstore's, as they were when they were largest.
    #[must_use]
    pub fn checkpoints(&self) -> &[SeenCheckpoint] {
        &self.seen.checkpoints
    }

    /// What `release` teaches, whether or not it is accepted: what it and its signer's remarks
    /// revoke, and how its log looks. Refused is a log that does not continue the one seen before.
    pub fn learn(&self, release: &VerifiedRelease) -> Result<Self, Refusal> {
        let mut learnt = self.clone();
        match release.published() {
            Published::Log(log) => learnt.seen.take_history(&log.history)?,
            Published::Sigstore(entry) => learnt.seen.take_checkpoint(&entry.checkpoint)?,
        }
        for revocation in release.revocations() {
            let mut known = learnt.revocations.iter();
            if !known.any(|known| known.version == revocation.version) {
                learnt.revocations.push(revocation.clone());
            }
        }
        learnt.forget_earlier();
        Ok(learnt)
    }

    /// What is remembered once `release` was accepted: never less than before. Refused are an older
    /// release, another one of the same version, a revoked one, and one in a log that does not
    /// continue the log seen before.
    pub fn advance(&self, release: &VerifiedRelease) -> Result<Self, Refusal> {
        let found = release.statement().predicate.version;
        let statement = release.digest();
        if found < self.version {
            let seen = self.version;
            return Err(Refusal::Rollback { seen, found });
        }
        if let Some(seen) = self.statement
            && found == self.version
            && statement != seen
        {
            let (version, found) = (found, statement);
            return Err(Refusal::OtherRelease {
                version,
                seen,
                found,
            });
        }
        let mut learnt = self.learn(release)?;
        let mut revocations = learnt.revocations.iter();
        if let Some(revocation) = revocations.find(|one| one.version == found) {
            return Err(Refusal::Revoked(revocation.clone()));
        }
        (learnt.version, learnt.statement) = (found, Some(statement));
        learnt.forget_earlier();
        Ok(learnt)
    }

    /// Earlier versions are refused anyway.
    fn forget_earlier(&mut self) {
        self.revocations.retain(|one| one.version >= self.version);
        self.revocations.sort_by_key(|one| one.version);
    }
}

impl Seen {
    fn take_history(&mut self, new: &History) -> Result<(), Refusal> {
        if let Some(old) = &self.history {
            consistent(old, new)?;
            if old.size() >= new.size() {
                return Ok(());
            }
        }
        self.history = Some(new.clone());
        Ok(())
    }

    /// A bundle of Sigstore proves nothing about how its log grew: two states of one size must be
    /// the same, and more cannot be compared.
    fn take_checkpoint(&mut self, new: &SeenCheckpoint) -> Result<(), Refusal> {
        let room = self.checkpoints.len() < MAX_SEEN;
        let mut known = self.checkpoints.iter_mut();
        match known.find(|old| old.log == new.log) {
            Some(old) if old.size == new.size && old.root != new.root => {
                return Err(Refusal::SplitView {
                    size: new.size,
                    expected: old.root,
                    found: new.root,
                });
            }
            Some(old) if old.size < new.size => *old = new.clone(),
            None if room => self.checkpoints.push(new.clone()),
            Some(_) | None => {}
        }
        Ok(())
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
