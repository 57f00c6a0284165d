//! The chain from a certificate authority that the policy names to the key that signed the quote.
//!
//! ```text
//! root (policy) ──▶ intermediate … ──▶ attestation key
//! CA, keyCertSign                      digitalSignature, EKU tcg-kp-AIKCertificate
//! ```
//!
//! Profile of RFC 5280: version 3, P-384 keys, ECDSA with SHA-384, dates, names, basic constraints
//! with path length, key usage, extended key usage. A critical extension that is not among these
//! is refused. That the attestation key is *restricted*, so that it signs only what the TPM itself
//! made, is what the certificate authority vouches for.

use p384::ecdsa::VerifyingKey;
use x509_cert::ext::pkix::ExtendedKeyUsage;

use crate::UnixTime;
use crate::certificate::{self, AIK_CERTIFICATE, Scheme, extension, walk};

pub use crate::certificate::{ChainError, ChainFault, Position, TrustAnchor, TrustAnchorError};

/// How every certificate of such a chain is signed.
const SCHEME: Scheme = Scheme::EcdsaSha384;

/// The key that a chain certifies, and the root that it leads to.
#[derive(Clone, Debug)]
pub struct CertifiedKey<'a> {
    /// The attestation key.
    pub key: VerifyingKey,
    /// The authority at the chain's end.
    pub root: &'a TrustAnchor,
}

/// Verifies `certificates`, leaf first, up to one of `roots`, at the time `now`.
pub fn verify<'a>(
    certificates: &[Vec<u8>],
    roots: &'a [TrustAnchor],
    now: UnixTime,
) -> Result<CertifiedKey<'a>, ChainError> {
    let walked = walk(certificates, roots, SCHEME, now, |leaf| {
        let purposes = extension::<ExtendedKeyUsage>(leaf)?;
        match purposes.is_some_and(|purposes| purposes.0.contains(&AIK_CERTIFICATE)) {
            true => Ok(certificate::ec_key_of(leaf)),
            false => Err(ChainFault::Purpose),
        }
    })?;
    let (key, root) = (walked.leaf, walked.root);
    let key = key.map_err(|fault| fault.at(Position::Leaf))?;
    Ok(CertifiedKey { key, root })
}
