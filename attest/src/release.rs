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
mod sigstore;
pub mod statement;
mod witness;

pub use bundle::{Bundle, BundleError, LogEntry, MAX_BUNDLE_BYTES, MAX_REMARKS, Remark};
pub use checkpoint::{Checkpoint, CheckpointError, Origin, SignedCheckpoint};
pub use envelope::{Envelope, EnvelopeError};
pub use history::{History, HistoryError};
pub use key::{PublicKey, PublicKeyError};
pub use ratchet::{Ratchet, Seen};
pub use sigstore::{
    NoSigstore, SeenCheckpoint, SigstoreEntry, SigstoreFault, SigstoreSigner, SigstoreVerifier,
    sigstore_bundles,
};
pub use statement::{Statement, StatementError};
pub use witness::Witness;

use crate::policy::{LogPolicy, Publication, ReleasePolicy};
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
    /// A bundle of Sigstore that is not believed.
    #[error("Sigstore bundle: {0}")]
    Sigstore(#[from] SigstoreFault),
    /// A bundle of the other kind than the policy asks for.
    #[error("release bundle: {}", match .expected {
        Kind::Log => "of Sigstore, and the policy names signers and a log of their own",
        Kind::Sigstore => "of a log of its own, and the policy names Sigstore",
    })]
    OtherKind {
        /// The kind that the policy asks for.
        expected: Kind,
    },
}

/// The two kinds of release bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Signed by keys, in a log of their own.
    Log,
    /// Signed and logged with Sigstore.
    Sigstore,
}

impl Kind {
    /// The kind that a bundle says it is of, if it is not too long for either.
    #[must_use]
    pub fn of(bundle: &[u8]) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Head {
            #[serde(rename = "mediaType")]
            media_type: String,
        }
        if bundle.len() > MAX_BUNDLE_BYTES {
            return None;
        }
        let mut heads = serde_json::Deserializer::from_slice(bundle).into_iter::<Head>();
        let media_type = heads.next()?.ok()?.media_type;
        let is = |beginning| media_type.starts_with(beginning);
        if is("application/vnd.cloister.release-bundle.") {
            Some(Self::Log)
        } else if is("application/vnd.dev.sigstore.bundle") {
            Some(Self::Sigstore)
        } else {
            None
        }
    }
}

/// Who signed a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signer {
    /// The holder of a key of the policy.
    Key(PublicKey),
    /// Whom Sigstore shows.
    Sigstore(SigstoreSigner),
}

impl std::fmt::Display for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Key(key) => key.fmt(f),
            Self::Sigstore(signer) => signer.fmt(f),
        }
    }
}

/// Which log holds a release, and what shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// A log of its own.
    Log(LoggedRelease),
    /// A log of Sigstore's.
    Sigstore(SigstoreEntry),
}

/// A release's place in a log of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedRelease {
    /// The log's checkpoint that covers it.
    pub checkpoint: Checkpoint,
    /// Its place in the log.
    pub index: u64,
    /// How the log came to be what it is.
    pub history: History,
    /// The witnesses of the policy that signed the checkpoint, and when.
    pub witnesses: Vec<(Origin, UnixTime)>,
}

/// A release that is signed by whom the policy names and stands in the log that it names, under a
/// checkpoint that enough witnesses have seen; or is in Sigstore as the policy demands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedRelease {
    statement: Statement,
    signer: Signer,
    published: Published,
    confirmed: u64,
    revocations: Vec<Revocation>,
    rebuilders: Vec<Name>,
}

impl VerifiedRelease {
    /// Verifies a bundle: signature, statement, checkpoint and its witnesses, inclusion in the log.
    /// For programs that link nothing of Sigstore.
    pub fn verify(bundle: &[u8], policy: &ReleasePolicy) -> Result<Self, ReleaseError> {
        Self::verify_with(bundle, policy, &NoSigstore)
    }

    /// Verifies a bundle of either kind, the one that the policy asks for.
    pub fn verify_with(
        bundle: &[u8],
        policy: &ReleasePolicy,
        sigstore: &dyn SigstoreVerifier,
    ) -> Result<Self, ReleaseError> {
        if bundle.is_empty() {
            return Err(ReleaseError::Missing);
        }
        match (&policy.published, Kind::of(bundle)) {
            (Publication::Log(_), Some(Kind::Sigstore)) => Err(ReleaseError::OtherKind {
                expected: Kind::Log,
            }),
            (Publication::Sigstore(_), Some(Kind::Log)) => Err(ReleaseError::OtherKind {
                expected: Kind::Sigstore,
            }),
            (Publication::Log(policy), _) => Self::in_log(bundle, policy),
            (Publication::Sigstore(policy), _) => Self::in_sigstore(bundle, policy, sigstore),
        }
    }

    fn in_log(bundle: &[u8], policy: &LogPolicy) -> Result<Self, ReleaseError> {
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
            signer: Signer::Key(signer),
            published: Published::Log(LoggedRelease {
                checkpoint,
                index: bundle.log.index,
                history: bundle.log.history,
                witnesses,
            }),
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

    /// SHA-256 of the statement.
    #[must_use]
    pub fn digest(&self) -> Digest<32> {
        Digest::sha256(&self.statement.encode())
    }

    /// Who signed it.
    #[must_use]
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Which log holds it, and what shows it.
    #[must_use]
    pub fn published(&self) -> &Published {
        &self.published
    }

    /// The log's name.
    #[must_use]
    pub fn log_name(&self) -> &str {
        match &self.published {
            Published::Log(log) => log.checkpoint.origin.as_str(),
            Published::Sigstore(entry) => entry.checkpoint.origin.as_str(),
        }
    }

    /// Entries of the log, by the checkpoint that covers it.
    #[must_use]
    pub fn log_size(&self) -> u64 {
        match &self.published {
            Published::Log(log) => log.checkpoint.size,
            Published::Sigstore(entry) => entry.checkpoint.size,
        }
    }

    /// Its place in the log.
    #[must_use]
    pub fn index(&self) -> u64 {
        match &self.published {
            Published::Log(log) => log.index,
            Published::Sigstore(entry) => entry.index,
        }
    }

    /// The witnesses of the policy that signed the checkpoint, and when. Sigstore shows none.
    #[must_use]
    pub fn witnesses(&self) -> &[(Origin, UnixTime)] {
        match &self.published {
            Published::Log(log) => &log.witnesses,
            Published::Sigstore(_) => &[],
        }
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
        policy: &LogPolicy,
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
        self.take_status(status, subject);
        Ok(())
    }

    fn take_status(&mut self, status: StatusStatement, release: Digest<32>) {
        let mut subjects = status.subject.iter();
        // A status of another release says nothing of this one, nor of its line.
        if subjects.any(|one| one.digest.sha256 == release) {
            self.confirmed = self.confirmed.max(status.predicate.issued);
            self.revocations.extend(status.predicate.revocations);
        }
    }
}

fn check_witnesses(
    signed: &SignedCheckpoint,
    policy: &LogPolicy,
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
