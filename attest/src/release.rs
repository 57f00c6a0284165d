//! What do the makers promise? A release statement, signed, in a log, with its proof.
//!
//! ```text
//! bundle = envelope (DSSE) + log entry (index, inclusion proof, checkpoint)
//!            │ payload                     │ proves that the envelope is in the log
//!            ▼                             ▼
//!          statement (in-toto) ◀── signer  checkpoint ◀── log key
//! ```
//!
//! Here stand the formats and their verification. Whoever makes releases writes them with the same
//! encoders, so that there is one definition of each byte. Signing is done elsewhere.

mod bundle;
pub mod checkpoint;
pub mod envelope;
mod floor;
mod key;
pub mod merkle;
pub mod statement;

pub use bundle::{Bundle, BundleError, LogEntry, MAX_BUNDLE_BYTES};
pub use checkpoint::{Checkpoint, CheckpointError, Origin, SignedCheckpoint};
pub use envelope::{Envelope, EnvelopeError};
pub use floor::ReleaseFloor;
pub use key::{PublicKey, PublicKeyError};
pub use statement::{Statement, StatementError};

use crate::policy::ReleasePolicy;

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
}

/// A release that is signed by a key of the policy and stands in the policy's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedRelease {
    statement: Statement,
    signer: PublicKey,
    checkpoint: Checkpoint,
    index: u64,
}

impl VerifiedRelease {
    /// Verifies a bundle: signature, statement, checkpoint and inclusion in the log.
    pub fn verify(bundle: &[u8], policy: &ReleasePolicy) -> Result<Self, ReleaseError> {
        if bundle.is_empty() {
            return Err(ReleaseError::Missing);
        }
        let bundle = Bundle::decode(bundle)?;
        let signer = bundle.envelope.verify(&policy.signers)?;
        let statement = Statement::decode(&bundle.envelope.payload)?;
        let signed = SignedCheckpoint::parse(&bundle.log.checkpoint)?;
        let checkpoint = signed.verify(&policy.log_origin, &policy.log_key)?;
        let LogEntry {
            index, ref proof, ..
        } = bundle.log;
        let leaf = merkle::leaf_hash(&bundle.envelope.encode());
        let included =
            merkle::verify_inclusion(index, checkpoint.size, leaf, proof, checkpoint.root);
        if !included {
            return Err(ReleaseError::Inclusion {
                index,
                size: checkpoint.size,
            });
        }
        Ok(Self {
            statement,
            signer,
            checkpoint,
            index,
        })
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
}
