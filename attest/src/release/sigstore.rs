//! A release that is signed and logged with Sigstore: what is demanded of it, and what became of
//! that. Certificates, timestamps and proofs of Sigstore are verified by whoever implements
//! [`SigstoreVerifier`], so that the agent, which links this crate, links none of it.
//!
//! ```text
//! file = bundle (the release), then any number of remarks, each a bundle of its own:
//!        its signer's status of the release, rebuilds
//! ```
//!
//! Bundles follow one another as JSON values, one to a line or not.

use serde::de::IgnoredAny;
use sha2::{Digest as _, Sha256};

use super::statement::{
    Rebuild, RebuildStatement, Statement, StatementError, StatusStatement, Subject,
};
use super::{MAX_BUNDLE_BYTES, MAX_REMARKS, Published, ReleaseError, Signer, VerifiedRelease};
use crate::policy::SigstorePolicy;
use crate::{Digest, Text, UnixTime};

/// In an identity of a policy, the version that the release states.
const VERSION: &str = "{version}";

/// Who signs with Sigstore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SigstoreSigner {
    /// Whom a certificate names, and who vouched for that name.
    Identity {
        /// Subject of the certificate: an address, or the URI of a workflow.
        identity: Text,
        /// URL of the OpenID Connect issuer.
        issuer: Text,
    },
    /// The holder of a key.
    Key {
        /// SubjectPublicKeyInfo in PEM.
        pem: String,
    },
}

impl SigstoreSigner {
    /// The signer of this version: a tag in the identity is the tag of the version.
    fn of_version(&self, version: u64) -> Result<Self, ReleaseError> {
        match self {
            Self::Identity { identity, issuer } => {
                let identity = identity.as_str().replace(VERSION, &version.to_string());
                Ok(Self::Identity {
                    identity: identity
                        .parse()
                        .map_err(|_| ReleaseError::Sigstore(SigstoreFault::Identity))?,
                    issuer: issuer.clone(),
                })
            }
            Self::Key { .. } => Ok(self.clone()),
        }
    }

    /// What tells this signer from every other: a label, and its parts with their lengths.
    pub(crate) fn digest_input(&self) -> Vec<u8> {
        let (label, parts): (&[u8], _) = match self {
            Self::Identity { identity, issuer } => (
                b"sigstore identity\0",
                vec![identity.as_str(), issuer.as_str()],
            ),
            Self::Key { pem } => (b"sigstore key\0", vec![pem.as_str()]),
        };
        let mut bytes = label.to_vec();
        for part in parts {
            bytes.extend((part.len() as u64).to_be_bytes());
            bytes.extend(part.as_bytes());
        }
        bytes
    }
}

impl std::fmt::Display for SigstoreSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Identity { identity, issuer } => {
                write!(f, "{identity}, vouched for by {issuer}")
            }
            Self::Key { pem } => {
                let digest = Digest(Sha256::digest(pem).into());
                write!(f, "the key sha256:{digest} (of its PEM)")
            }
        }
    }
}

/// What a verified bundle shows beside what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigstoreEntry {
    /// The log's checkpoint that covers it.
    pub checkpoint: SeenCheckpoint,
    /// Its place in the log.
    pub index: u64,
    /// When it was signed, as log and timestamp authorities vouch.
    pub signed_at: Vec<UnixTime>,
}

/// A state of a log of Sigstore's.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenCheckpoint {
    /// The log's name.
    pub origin: Text,
    /// The log's id: SHA-256 of what the bundle calls it, which is verified to be a known key's.
    pub log: Digest<32>,
    /// Entries.
    pub size: u64,
    /// Root of its tree.
    pub root: Digest<32>,
}

/// Verifies bundles of Sigstore. Two do: one with all of Sigstore's cryptography, and
/// [`NoSigstore`].
pub trait SigstoreVerifier {
    /// Whose word the verdict rests on.
    fn root(&self) -> String;

    /// What a bundle signs, before anything of it was verified.
    fn payload(&self, bundle: &[u8]) -> Result<Vec<u8>, SigstoreFault>;

    /// Verifies that `signer` signed the payload, which names `subject`, at a time at which he
    /// could, and that a log holds it.
    fn verify(
        &self,
        bundle: &[u8],
        subject: Digest<32>,
        signer: &SigstoreSigner,
    ) -> Result<SigstoreEntry, SigstoreFault>;
}

/// Believes no bundle: of programs that link nothing of Sigstore.
#[derive(Clone, Copy, Debug)]
pub struct NoSigstore;

impl SigstoreVerifier for NoSigstore {
    fn root(&self) -> String {
        "nothing".to_owned()
    }

    fn payload(&self, _: &[u8]) -> Result<Vec<u8>, SigstoreFault> {
        Err(SigstoreFault::Unsupported)
    }

    fn verify(
        &self,
        _: &[u8],
        _: Digest<32>,
        _: &SigstoreSigner,
    ) -> Result<SigstoreEntry, SigstoreFault> {
        Err(SigstoreFault::Unsupported)
    }
}

/// Why a bundle of Sigstore is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SigstoreFault {
    /// This program links nothing of Sigstore.
    #[error("this program verifies none")]
    Unsupported,
    /// Longer than a release may be.
    #[error("{found} bytes, {MAX_BUNDLE_BYTES} allowed")]
    TooLarge {
        /// Length found.
        found: usize,
    },
    /// Not a bundle.
    #[error("not one")]
    Form,
    /// No statement is signed, but a file.
    #[error("holds no statement")]
    NoStatement,
    /// More than a bundle may be followed by.
    #[error("more than {MAX_REMARKS} remarks")]
    Remarks,
    /// A certificate where a key is expected, or the other way round.
    #[error("not signed in the way that the policy names (a certificate, or a key)")]
    OtherKind,
    /// Signed by somebody else.
    #[error("not signed by the identity that the policy names")]
    Identity,
    /// Somebody else vouched for the identity.
    #[error("the identity is not vouched for by the issuer that the policy names")]
    Issuer,
    /// The key of the policy is none.
    #[error("the policy's key is no public key in PEM")]
    Key,
    /// A signature does not verify.
    #[error("the signature does not verify")]
    Signature,
    /// No certificate of a known authority.
    #[error("no certificate of an authority that the trusted root names")]
    Certificate,
    /// The certificate was not shown to a known certificate log.
    #[error("no signed certificate timestamp of a log that the trusted root names")]
    CertificateLog,
    /// The certificate had expired, or was yet to begin, when it signed.
    #[error("not signed within the certificate's life")]
    Expired,
    /// Nobody who is known vouches for when it was signed.
    #[error("no timestamp of an authority that the trusted root names")]
    Timestamp,
    /// Signed, and in no log.
    #[error("no log entry")]
    NotLogged,
    /// A promise of a log is no proof.
    #[error("a log entry without an inclusion proof")]
    NoInclusionProof,
    /// In a log that is not known.
    #[error("in a log that the trusted root does not name")]
    UnknownLog,
    /// The checkpoint is not signed by the log.
    #[error("the log did not sign the checkpoint")]
    Checkpoint,
    /// The entry is not in the log that the checkpoint describes.
    #[error("the inclusion proof does not lead to the checkpoint's root")]
    Inclusion,
    /// The log holds an entry for something else.
    #[error("the log entry is for something else")]
    OtherEntry,
    /// Something else that only a verifier of a later version understands.
    #[error("of a kind that this program does not verify")]
    Unknown,
}

impl SigstoreFault {
    /// Whether a date is at fault.
    pub(crate) const fn is_date(self) -> bool {
        matches!(self, Self::Expired | Self::Timestamp)
    }

    /// Whether the log does not vouch for the release.
    pub(crate) const fn is_log(self) -> bool {
        matches!(
            self,
            Self::NotLogged
                | Self::NoInclusionProof
                | Self::UnknownLog
                | Self::Checkpoint
                | Self::Inclusion
                | Self::OtherEntry
        )
    }

    /// Whether all may be genuine, and is not what the policy names.
    pub(crate) const fn is_policy(self) -> bool {
        matches!(
            self,
            Self::Unsupported | Self::OtherKind | Self::Identity | Self::Issuer | Self::Key
        )
    }

    pub(crate) const fn hint(self) -> &'static str {
        match self {
            Self::Unsupported => "use `cloister` or `cloister-release`",
            Self::TooLarge { .. } | Self::Form | Self::NoStatement | Self::Remarks => {
                "the release file is damaged or of another version: fetch it again"
            }
            Self::OtherKind | Self::Identity | Self::Issuer | Self::Key => {
                "if you trust who signed, name them in release.sigstore"
            }
            Self::Signature => "the release was altered: do not trust it",
            Self::Certificate | Self::CertificateLog | Self::Timestamp | Self::UnknownLog => {
                "check release.sigstore.trusted_root: is it of this deployment, and recent?"
            }
            Self::Expired => "ask the signer: the certificate was not theirs to use at that time",
            Self::NotLogged | Self::NoInclusionProof => {
                "a release that no log shows is not to be used"
            }
            Self::Checkpoint | Self::Inclusion | Self::OtherEntry => {
                "the release is not in the log: do not trust it"
            }
            Self::Unknown => "update this program",
        }
    }
}

impl VerifiedRelease {
    /// Verifies a release in Sigstore, and what follows it.
    pub(super) fn in_sigstore(
        file: &[u8],
        policy: &SigstorePolicy,
        sigstore: &dyn SigstoreVerifier,
    ) -> Result<Self, ReleaseError> {
        let bundles = sigstore_bundles(file)?;
        let (first, remarks) = bundles.split_first().ok_or(SigstoreFault::Form)?;
        let payload = sigstore.payload(first)?;
        let statement = Statement::decode(&payload)?;
        let signer = policy.signer.of_version(statement.predicate.version)?;
        let entry = sigstore.verify(first, subject(&statement.subject)?, &signer)?;
        let mut release = Self {
            confirmed: statement.predicate.issued,
            revocations: statement.predicate.revocations.clone(),
            statement,
            signer: Signer::Sigstore(signer.clone()),
            published: Published::Sigstore(entry),
            rebuilders: Vec::new(),
        };
        let digest = Digest::sha256(&payload);
        for remark in remarks {
            release.take_sigstore(remark, digest, &signer, policy, sigstore)?;
        }
        Ok(release)
    }

    /// Takes into account what was said later, if the policy trusts who said it.
    fn take_sigstore(
        &mut self,
        bundle: &[u8],
        digest: Digest<32>,
        signer: &SigstoreSigner,
        policy: &SigstorePolicy,
        sigstore: &dyn SigstoreVerifier,
    ) -> Result<(), ReleaseError> {
        let payload = sigstore.payload(bundle)?;
        if let Ok(rebuilt) = RebuildStatement::decode(&payload) {
            let first = subject(&rebuilt.subject)?;
            for rebuilder in &policy.rebuilders {
                let new = !self.rebuilders.contains(&rebuilder.name);
                if new
                    && Rebuild::confirms(&rebuilt, &self.statement)
                    && sigstore.verify(bundle, first, &rebuilder.signer).is_ok()
                {
                    self.rebuilders.push(rebuilder.name.clone());
                }
            }
            return Ok(());
        }
        let status = StatusStatement::decode(&payload).map_err(ReleaseError::Remark)?;
        sigstore.verify(bundle, subject(&status.subject)?, signer)?;
        self.take_status(status, digest);
        Ok(())
    }
}

/// The bundles of a file, first the release. They are JSON; nothing more is known of them.
pub fn sigstore_bundles(file: &[u8]) -> Result<Vec<&[u8]>, SigstoreFault> {
    if file.len() > MAX_BUNDLE_BYTES {
        return Err(SigstoreFault::TooLarge { found: file.len() });
    }
    let mut values = serde_json::Deserializer::from_slice(file).into_iter::<IgnoredAny>();
    let (mut bundles, mut start) = (Vec::new(), 0);
    while let Some(value) = values.next() {
        value.map_err(|_| SigstoreFault::Form)?;
        if bundles.len() > MAX_REMARKS {
            return Err(SigstoreFault::Remarks);
        }
        let end = values.byte_offset();
        bundles.push(file.get(start..end).ok_or(SigstoreFault::Form)?);
        start = end;
    }
    Ok(bundles)
}

/// A bundle verifies for one of its subjects; which of them is all the same.
fn subject(subjects: &[Subject]) -> Result<Digest<32>, ReleaseError> {
    let first = subjects.first();
    first
        .map(|one| one.digest.sha256)
        .ok_or(ReleaseError::Statement(StatementError::List))
}
