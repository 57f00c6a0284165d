//! What a client demands of a release in Sigstore, verified by what stands in the other modules.

use attest::release::{
    ReleaseError, SeenCheckpoint, SigstoreEntry, SigstoreFault, SigstoreSigner, Statement,
    sigstore_bundles,
};
use attest::{Digest, Text, UnixTime};
use sigstore_verify::types::SignatureContent;
use sigstore_verify::{CertificateError, Error, TransparencyLogError};

use crate::verify::{Artifact, Expected, PublicKey, Verified, VerifyError, parse, verify_parsed};
use crate::{RootError, TrustRoot};

/// A trusted root, and what reports call it.
#[derive(Debug)]
pub struct SigstoreVerifier {
    root: TrustRoot,
    name: String,
}

impl SigstoreVerifier {
    /// Believes the authorities that are built in, if they are those of that name.
    pub fn built_in(name: &str) -> Result<Self, RootError> {
        match name == crate::BUILT_IN_ROOT {
            true => Ok(Self {
                root: TrustRoot::embedded()?,
                name: format!("Sigstore's {}", crate::EMBEDDED_ROOT),
            }),
            false => Err(RootError::NotBuiltIn),
        }
    }

    /// Believes the authorities of a `trusted_root.json`.
    pub fn of_file(json: &[u8]) -> Result<Self, RootError> {
        Ok(Self {
            root: TrustRoot::parse(json)?,
            name: format!("trusted root sha256:{}", Digest::sha256(json)),
        })
    }
}

/// What the first bundle of a file states, if all of the file are bundles. No signature is checked.
pub fn stated(file: &[u8]) -> Result<Statement, ReleaseError> {
    let mut stated = None;
    for bundle in sigstore_bundles(file)? {
        let payload = payload(bundle)?;
        if stated.is_none() {
            stated = Some(Statement::decode(&payload)?);
        }
    }
    Ok(stated.ok_or(SigstoreFault::Form)?)
}

fn payload(bundle: &[u8]) -> Result<Vec<u8>, SigstoreFault> {
    match parse(bundle).map_err(|error| fault(&error))?.content {
        SignatureContent::DsseEnvelope(envelope) => Ok(envelope.payload.as_bytes().to_vec()),
        _ => Err(SigstoreFault::NoStatement),
    }
}

impl attest::release::SigstoreVerifier for SigstoreVerifier {
    fn root(&self) -> String {
        self.name.clone()
    }

    fn payload(&self, bundle: &[u8]) -> Result<Vec<u8>, SigstoreFault> {
        payload(bundle)
    }

    fn verify(
        &self,
        bundle: &[u8],
        subject: Digest<32>,
        signer: &SigstoreSigner,
    ) -> Result<SigstoreEntry, SigstoreFault> {
        let expected = match signer {
            SigstoreSigner::Identity { identity, issuer } => Expected::Identity {
                identity: identity.to_string(),
                issuer: issuer.to_string(),
            },
            SigstoreSigner::Key { pem } => {
                let key = PublicKey::from_pem(pem.as_bytes());
                Expected::Key(key.map_err(|_| SigstoreFault::Key)?)
            }
        };
        let bundle = parse(bundle).map_err(|error| fault(&error))?;
        if !matches!(bundle.content, SignatureContent::DsseEnvelope(_)) {
            return Err(SigstoreFault::NoStatement);
        }
        // An older bundle may hold the log's promise alone; a promise is no proof.
        let entries = &bundle.verification_material.tlog_entries;
        if entries.iter().any(|entry| entry.inclusion_proof.is_none()) {
            return Err(SigstoreFault::NoInclusionProof);
        }
        let artifact = Artifact::Sha256(subject.0);
        let verified = verify_parsed(&bundle, artifact, &expected, &self.root);
        entry(&verified.map_err(|error| fault(&error))?)
    }
}

fn entry(verified: &Verified) -> Result<SigstoreEntry, SigstoreFault> {
    let checkpoint = verified.checkpoint().ok_or(SigstoreFault::Checkpoint)?;
    let origin: Result<Text, _> = verified.log().parse();
    let time = |second: &i64| UnixTime::from_secs(u64::try_from(*second).unwrap_or(0));
    Ok(SigstoreEntry {
        checkpoint: SeenCheckpoint {
            origin: origin.map_err(|_| SigstoreFault::Checkpoint)?,
            log: checkpoint.log,
            size: checkpoint.size,
            root: checkpoint.root,
        },
        index: verified.index(),
        signed_at: verified.signed_at().iter().map(time).collect(),
    })
}

/// The cause in a client's words.
fn fault(error: &VerifyError) -> SigstoreFault {
    use SigstoreFault as F;
    match error {
        VerifyError::TooLarge { found } => F::TooLarge { found: *found },
        VerifyError::Text(_) | VerifyError::Form(_) => F::Form,
        VerifyError::NotLogged => F::NotLogged,
        VerifyError::NoInclusionProof => F::NoInclusionProof,
        VerifyError::OtherKind => F::OtherKind,
        VerifyError::NoStatement | VerifyError::Statement(_) | VerifyError::NoArtifact => {
            F::NoStatement
        }
        VerifyError::Sigstore(error) => cause(error),
    }
}

fn cause(error: &Error) -> SigstoreFault {
    use SigstoreFault as F;
    match error {
        Error::IdentityMismatch { .. } => F::Identity,
        Error::IssuerMismatch { .. } => F::Issuer,
        Error::SignatureInvalid(_) | Error::ArtifactMismatch(_) => F::Signature,
        Error::Certificate(CertificateError::Sct(_)) | Error::InvalidTrustRoot(_) => {
            F::CertificateLog
        }
        Error::Certificate(
            CertificateError::Expired { .. }
            | CertificateError::NotYetValid { .. }
            | CertificateError::NoValidAuthority { .. },
        ) => F::Expired,
        Error::Certificate(_) => F::Certificate,
        Error::Timestamp(_) => F::Timestamp,
        Error::TransparencyLog(error) => match error {
            TransparencyLogError::UnknownLog { .. } => F::UnknownLog,
            TransparencyLogError::InclusionProof(_) => F::Inclusion,
            TransparencyLogError::Checkpoint(_) => F::Checkpoint,
            TransparencyLogError::InclusionPromise(_) => F::NotLogged,
            TransparencyLogError::IntegratedTime(_) => F::Expired,
            _ => F::OtherEntry,
        },
        Error::InvalidBundle(_) => F::Form,
        Error::UnsupportedBundle(_) | Error::UnsupportedArtifact(_) => F::Unknown,
        // The crate's own list may grow: what is not known is not believed.
        _ => F::Signature,
    }
}
