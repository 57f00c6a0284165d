//! Verifies a bundle against what is expected of it, and reads the release in it.

use attest::Digest;
use attest::release::Statement;
use attest::release::statement::StatementError;
use sigstore_verify::types::bundle::VerificationMaterialContent;
use sigstore_verify::types::{Bundle, DerPublicKey, Sha256Hash, SignatureContent};
use sigstore_verify::{
    CertificateError, PublicKeyVerificationPolicy, TransparencyLogError, VerificationPolicy,
};

use crate::TrustRoot;

/// Longest bundle. A statement of the greatest length fits with all its proofs.
pub const MAX_BUNDLE_BYTES: usize = 1 << 20;

/// Who must have signed. Nothing of it can be left out: whoever asks for no one in particular says
/// so by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The holder of a certificate for an identity that an issuer vouched for.
    Identity {
        /// The subject alternative name: an address, or the URI of a workflow.
        identity: String,
        /// URL of the OpenID Connect issuer.
        issuer: String,
    },
    /// The holder of a key.
    Key(PublicKey),
    /// Anyone with a certificate: for a look at one's own work before it is published. It says
    /// nothing of who signed.
    AnyIdentity,
}

/// A key that verifies: a SubjectPublicKeyInfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(DerPublicKey);

/// Bytes that are no public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a public key in PEM (SubjectPublicKeyInfo)")]
pub struct PublicKeyError;

impl PublicKey {
    /// Reads a key file.
    pub fn from_pem(pem: &[u8]) -> Result<Self, PublicKeyError> {
        let text = std::str::from_utf8(pem).map_err(|_| PublicKeyError)?;
        let key = DerPublicKey::from_pem(text).map_err(|_| PublicKeyError)?;
        sigstore_verify::crypto::VerificationKey::from_spki(&key).map_err(|_| PublicKeyError)?;
        Ok(Self(key))
    }

    /// The key in DER (SubjectPublicKeyInfo).
    #[must_use]
    pub fn as_der(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The key as a file holds it.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.0.to_pem()
    }
}

/// What a bundle is to be about.
#[derive(Clone, Copy, Debug)]
pub enum Artifact<'a> {
    /// A file's bytes.
    Bytes(&'a [u8]),
    /// A file's SHA-256. A signature that covers the bytes themselves (Ed25519 over a file, RSA)
    /// cannot be verified by it.
    Sha256([u8; 32]),
}

/// Why a bundle shows nothing. Each names the first thing that failed.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Too long.
    #[error("bundle: {found} bytes, {MAX_BUNDLE_BYTES} allowed")]
    TooLarge {
        /// Length found.
        found: usize,
    },
    /// Not text.
    #[error("bundle: not text")]
    Text(#[from] std::str::Utf8Error),
    /// Not a Sigstore bundle.
    #[error("bundle")]
    Form(#[source] Box<sigstore_verify::types::Error>),
    /// No log entry: signed, but nobody saw it.
    #[error("bundle: no log entry")]
    NotLogged,
    /// A log entry without a proof that the log holds it.
    #[error("bundle: log entry without an inclusion proof")]
    NoInclusionProof,
    /// A certificate where a key is expected, or a key where a certificate is.
    #[error("bundle: not signed in the way that is expected (a certificate, or a key)")]
    OtherKind,
    /// A signature of a file, not a signed statement.
    #[error("bundle: holds no statement")]
    NoStatement,
    /// What is signed is no release of ours.
    #[error("release statement")]
    Statement(#[from] StatementError),
    /// A release without artifacts says nothing.
    #[error("release statement: names no artifact")]
    NoArtifact,
    /// Signature, certificate, identity, log or timestamp.
    #[error(transparent)]
    Sigstore(#[from] Box<sigstore_verify::Error>),
}

/// What kind of thing failed, as exit codes tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The input is unusable.
    Form,
    /// A signature, key or chain of certificates.
    Signature,
    /// A date: a certificate or authority was not valid when it signed, or nobody says when that
    /// was.
    Collateral,
    /// Well signed, but not by whom or not of what was expected.
    Policy,
    /// The log.
    Log,
}

impl VerifyError {
    /// The kind of thing that failed.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::TooLarge { .. } | Self::Text(_) | Self::Form(_) => Class::Form,
            Self::NotLogged | Self::NoInclusionProof => Class::Log,
            Self::OtherKind | Self::NoStatement | Self::Statement(_) | Self::NoArtifact => {
                Class::Policy
            }
            Self::Sigstore(error) => class_of(error),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self.class() {
            Class::Form => "give a bundle that `cloister-release sigstore sign` wrote",
            Class::Signature => "do not use it: fetch it again from where it was published",
            Class::Collateral => {
                "it is older or younger than what vouches for it; or give its own --trusted-root"
            }
            Class::Policy => "this is not the release that you asked for",
            Class::Log => "a release that no log shows is not to be used",
        }
    }
}

fn class_of(error: &sigstore_verify::Error) -> Class {
    use sigstore_verify::Error as E;
    match error {
        E::IdentityMismatch { .. } | E::IssuerMismatch { .. } | E::ArtifactMismatch(_) => {
            Class::Policy
        }
        E::TransparencyLog(TransparencyLogError::IntegratedTime(_)) | E::Timestamp(_) => {
            Class::Collateral
        }
        E::TransparencyLog(_) => Class::Log,
        E::Certificate(
            CertificateError::Expired { .. }
            | CertificateError::NotYetValid { .. }
            | CertificateError::NoValidAuthority { .. },
        ) => Class::Collateral,
        E::InvalidBundle(_) | E::UnsupportedBundle(_) | E::UnsupportedArtifact(_) => Class::Form,
        _ => Class::Signature,
    }
}

/// What a verified bundle shows. Only verifying makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    signer: String,
    issuer: Option<String>,
    log: String,
    index: u64,
    signed_at: Vec<i64>,
    checkpoint: Option<LogState>,
}

/// A state of a log, signed by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogState {
    /// SHA-256 of the log's id, as the bundle gives it and the trusted root knows it.
    pub log: Digest<32>,
    /// Entries.
    pub size: u64,
    /// Root of its tree.
    pub root: Digest<32>,
}

impl Verified {
    /// Who signed: the certificate's identity, or `key`.
    #[must_use]
    pub fn signer(&self) -> &str {
        &self.signer
    }

    /// Who vouched for that identity; nobody does for a key.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    /// The log's name, as its checkpoint gives it.
    #[must_use]
    pub fn log(&self) -> &str {
        &self.log
    }

    /// The entry's index in that log.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The state of the log that covers the entry.
    #[must_use]
    pub fn checkpoint(&self) -> Option<&LogState> {
        self.checkpoint.as_ref()
    }

    /// When it was signed, in seconds since 1970, as log and timestamp authorities vouch.
    #[must_use]
    pub fn signed_at(&self) -> &[i64] {
        &self.signed_at
    }
}

/// A release that was signed by whom it should be and that a log shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseBundle {
    statement: Statement,
    verified: Verified,
}

impl ReleaseBundle {
    /// What the release states.
    #[must_use]
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// Who says so, and where it stands.
    #[must_use]
    pub fn verified(&self) -> &Verified {
        &self.verified
    }
}

/// Verifies that `artifact` was signed by whom is `expected` and that a log shows it: certificate
/// chain, signed certificate timestamp, identity and issuer, timestamps within the certificate's
/// life, inclusion proof, checkpoint, and that entry and signature belong together.
pub fn verify(
    bundle: &[u8],
    artifact: Artifact<'_>,
    expected: &Expected,
    root: &TrustRoot,
) -> Result<Verified, VerifyError> {
    verify_parsed(&parse(bundle)?, artifact, expected, root)
}

/// Verifies a bundle as [`verify`] does, and that what it holds is a statement of a release of
/// ours, in its one spelling. That the artifacts at hand are those of the statement is for the
/// caller to compare.
pub fn verify_release(
    bundle: &[u8],
    expected: &Expected,
    root: &TrustRoot,
) -> Result<ReleaseBundle, VerifyError> {
    let bundle = parse(bundle)?;
    let SignatureContent::DsseEnvelope(envelope) = &bundle.content else {
        return Err(VerifyError::NoStatement);
    };
    // An older bundle may hold the log's promise alone; a promise is no proof.
    let entries = &bundle.verification_material.tlog_entries;
    if entries.iter().any(|entry| entry.inclusion_proof.is_none()) {
        return Err(VerifyError::NoInclusionProof);
    }
    let statement = Statement::decode(envelope.payload.as_bytes())?;
    let first = statement.subject.first().ok_or(VerifyError::NoArtifact)?;
    let artifact = Artifact::Sha256(first.digest.sha256.0);
    let verified = verify_parsed(&bundle, artifact, expected, root)?;
    Ok(ReleaseBundle {
        statement,
        verified,
    })
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Bundle, VerifyError> {
    crate::install();
    let found = bytes.len();
    if found > MAX_BUNDLE_BYTES {
        return Err(VerifyError::TooLarge { found });
    }
    let text = std::str::from_utf8(bytes)?;
    Bundle::from_json(text).map_err(|error| VerifyError::Form(Box::new(error)))
}

pub(crate) fn verify_parsed(
    bundle: &Bundle,
    artifact: Artifact<'_>,
    expected: &Expected,
    root: &TrustRoot,
) -> Result<Verified, VerifyError> {
    let material = &bundle.verification_material;
    let first = material
        .tlog_entries
        .first()
        .ok_or(VerifyError::NotLogged)?;
    let by_key = matches!(material.content, VerificationMaterialContent::PublicKey(_));
    if by_key != matches!(expected, Expected::Key(_)) {
        return Err(VerifyError::OtherKind);
    }
    let artifact = match artifact {
        Artifact::Bytes(bytes) => sigstore_verify::types::Artifact::from(bytes),
        Artifact::Sha256(digest) => {
            sigstore_verify::types::Artifact::from_digest(Sha256Hash::new(digest))
        }
    };
    let verifier = root.verifier();
    let result = match expected {
        Expected::Identity { identity, issuer } => {
            let policy = VerificationPolicy::new(identity, issuer);
            verifier.verify(artifact, bundle, &policy)
        }
        Expected::AnyIdentity => {
            verifier.verify(artifact, bundle, &VerificationPolicy::any_identity())
        }
        Expected::Key(key) => {
            let policy = PublicKeyVerificationPolicy::new(key.0.clone());
            verifier.verify(artifact, bundle, &policy)
        }
    };
    let result = result.map_err(Box::new)?;
    let proof = first.inclusion_proof.as_ref();
    let checkpoint = proof.and_then(|proof| proof.checkpoint.checkpoint());
    let seconds = result.verified_timestamps().iter();
    Ok(Verified {
        signer: result
            .identity()
            .map_or_else(|| "key".to_owned(), ToString::to_string),
        issuer: result.issuer().map(str::to_owned),
        log: checkpoint.map_or_else(String::new, |note| note.origin().to_owned()),
        // What the log signed, where it signed any: the entry's own field may say anything.
        index: proof.map_or(first.log_index, |proof| proof.log_index).get(),
        signed_at: seconds.map(|time| time.as_second()).collect(),
        checkpoint: checkpoint.map(|note| LogState {
            log: Digest::sha256(first.log_id.key_id.as_bytes()),
            size: note.tree_size(),
            root: Digest(*note.root_hash().as_bytes()),
        }),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_bundle_is_refused_by_what_it_is_not() {
        let root = TrustRoot::embedded().unwrap();
        let refuse = |bytes: &[u8]| verify_release(bytes, &Expected::AnyIdentity, &root);
        assert!(matches!(refuse(b"{}"), Err(VerifyError::Form(_))));
        assert!(matches!(refuse(&[0xff]), Err(VerifyError::Text(_))));
        let long = vec![b' '; MAX_BUNDLE_BYTES + 1];
        assert!(matches!(refuse(&long), Err(VerifyError::TooLarge { .. })));
        assert!(PublicKey::from_pem(b"no key").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let root = TrustRoot::embedded().unwrap();
            prop_assert!(verify_release(&bytes, &Expected::AnyIdentity, &root).is_err());
        }
    }
}
