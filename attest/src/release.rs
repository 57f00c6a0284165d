//! What do the makers promise? A release statement, signed, in a log, with its proof.
//!
//! ```text
//! bundle = envelope (DSSE) + log entry (index, inclusion proof, checkpoint, history) + remarks
//!            │ payload                     │ proves that the envelope is in the log
//!            ▼                             ▼
//!          statement (in-toto) ◀── signer  checkpoint ◀── log key, witnesses
//! ```
//!
//! Here stand the formats and their verification. Whoever makes releases writes them with the same
//! encoders, so that there is one definition of each byte. Signing is done elsewhere. What a client
//! compares with its memory is in [`Ratchet`].

mod bundle;
pub mod checkpoint;
pub mod envelope;
pub mod history;
mod key;
pub mod merkle;
mod ratchet;
pub mod statement;
mod witness;

pub use bundle::{Bundle, BundleError, LogEntry, MAX_BUNDLE_BYTES, MAX_REMARKS, Remark};
pub use checkpoint::{Checkpoint, CheckpointError, Origin, SignedCheckpoint};
pub use envelope::{Envelope, EnvelopeError};
pub use history::{History, HistoryError};
pub use key::{PublicKey, PublicKeyError};
pub use ratchet::Ratchet;
pub use statement::{Statement, StatementError};
pub use witness::Witness;

use crate::policy::ReleasePolicy;
use crate::{Digest, Name, UnixTime};
use statement::{Rebuild, RebuildStatement, Revocation, StatusStatement};

/// Why a bundle shows no release. Each names the first thing that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// The peer showed no bundle.
    #[error("no release bundle")]
    Missing,
    /// Not a bundle.
    #[error("release bundle: {0}")]
    Bundle(#[from] BundleError),
    /// Not signed by a key that the policy names.
    #[error("release signature: {0}")]
    Envelope(#[from] EnvelopeError),
    /// What is signed is not a release statement.
    #[error("release statement: {0}")]
    Statement(#[from] StatementError),
    /// The log's checkpoint is not signed by the log, or is of another log.
    #[error("log checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The release is not in the log that the checkpoint describes.
    #[error("log inclusion proof of entry {index} in a log of {size}: does not lead to the root")]
    Inclusion {
        /// Index that the bundle names.
        index: u64,
        /// Size of the log by its checkpoint.
        size: u64,
    },
    /// The history is not that of the log that the checkpoint describes.
    #[error("log history: does not lead to the root of the log of {size}")]
    History {
        /// Size of the log by its checkpoint.
        size: u64,
    },
    /// Too few witnesses have seen the checkpoint.
    #[error("log witnesses: {demanded} demanded, {found} of them signed the checkpoint")]
    Witnesses {
        /// How many the policy demands.
        demanded: usize,
        /// How many signed.
        found: usize,
    },
    /// A remark is neither a status nor a rebuild.
    #[error("remark: {0}")]
    Remark(StatementError),
}

/// A release that is signed by a key of the policy and stands in the policy's log, under a
/// checkpoint that enough witnesses have seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedRelease {
    statement: Statement,
    signer: PublicKey,
    checkpoint: Checkpoint,
    index: u64,
    history: History,
    witnesses: Vec<(Origin, UnixTime)>,
    confirmed: u64,
    revocations: Vec<Revocation>,
    rebuilders: Vec<Name>,
}

impl VerifiedRelease {
    /// Verifies a bundle: signature, statement, checkpoint and its witnesses, inclusion in the log.
    pub fn verify(bundle: &[u8], policy: &ReleasePolicy) -> Result<Self, ReleaseError> {
        if bundle.is_empty() {
            return Err(ReleaseError::Missing);
        }
        let bundle = Bundle::decode(bundle)?;
        let signer = bundle.envelope.verify(&policy.signers)?;
        let statement = Statement::decode(&bundle.envelope.payload)?;
        let signed = SignedCheckpoint::parse(&bundle.log.checkpoint)?;
        let checkpoint = signed.verify(&policy.log_origin, &policy.log_key)?;
        let witnesses = check_witnesses(&signed, policy)?;
        bundle.check_log(&checkpoint)?;
        let mut release = Self {
            confirmed: statement.predicate.issued,
            revocations: statement.predicate.revocations.clone(),
            statement,
            signer,
            checkpoint,
            index: bundle.log.index,
            history: bundle.log.history,
            witnesses,
            rebuilders: Vec::new(),
        };
        let subject = Digest::sha256(&bundle.envelope.payload);
        for remark in &bundle.remarks {
            release.take(&remark.envelope, subject, policy)?;
        }
        Ok(release)
    }

    /// What the release states.
    #[must_use]
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// The key that signed it.
    #[must_use]
    pub fn signer(&self) -> &PublicKey {
        &self.signer
    }

    /// The log's checkpoint that covers it.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Its place in the log.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// How the log came to be what it is.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The witnesses of the policy that signed the checkpoint, and when.
    #[must_use]
    pub fn witnesses(&self) -> &[(Origin, UnixTime)] {
        &self.witnesses
    }

    /// When its signer last said that it is current: at first, or in a remark.
    #[must_use]
    pub fn confirmed(&self) -> UnixTime {
        UnixTime::from_secs(self.confirmed)
    }

    /// Versions that the release or a remark of its signer revokes.
    #[must_use]
    pub fn revocations(&self) -> &[Revocation] {
        &self.revocations
    }

    /// The rebuilders of the policy that got the same artifacts.
    #[must_use]
    pub fn rebuilders(&self) -> &[Name] {
        &self.rebuilders
    }

    /// Takes into account what was said later, if the policy trusts who said it.
    fn take(
        &mut self,
        envelope: &Envelope,
        subject: Digest<32>,
        policy: &ReleasePolicy,
    ) -> Result<(), ReleaseError> {
        if let Ok(rebuilt) = RebuildStatement::decode(&envelope.payload) {
            for rebuilder in &policy.rebuilders {
                let signed = envelope.verify(&[rebuilder.key]).is_ok();
                let new = !self.rebuilders.contains(&rebuilder.name);
                if signed && new && Rebuild::confirms(&rebuilt, &self.statement) {
                    self.rebuilders.push(rebuilder.name.clone());
                }
            }
            return Ok(());
        }
        let status = StatusStatement::decode(&envelope.payload).map_err(ReleaseError::Remark)?;
        // Only who may sign the release may speak for it.
        envelope.verify(&policy.signers)?;
        let mut subjects = status.subject.iter();
        // A status of another release says nothing of this one, nor of its line.
        if subjects.any(|one| one.digest.sha256 == subject) {
            self.confirmed = self.confirmed.max(status.predicate.issued);
            self.revocations.extend(status.predicate.revocations);
        }
        Ok(())
    }
}

fn check_witnesses(
    signed: &SignedCheckpoint,
    policy: &ReleasePolicy,
) -> Result<Vec<(Origin, UnixTime)>, ReleaseError> {
    let mut found = Vec::new();
    for witness in &policy.witnesses {
        if let Some(time) = signed.cosigned_by(witness)? {
            found.push((witness.name.clone(), time));
        }
    }
    match found.len() >= policy.minimum_witnesses {
        true => Ok(found),
        false => Err(ReleaseError::Witnesses {
            demanded: policy.minimum_witnesses,
            found: found.len(),
        }),
    }
}
