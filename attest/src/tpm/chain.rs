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
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage};

use crate::UnixTime;
use crate::certificate::{self, AIK_CERTIFICATE, Certificate, Scheme, extension};

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
    let mut chain = Vec::with_capacity(certificates.len());
    for (index, der) in certificates.iter().enumerate() {
        let position = Position::of(index);
        chain.push(certificate::decode(der).map_err(|fault| fault.at(position))?);
    }
    let leaf = chain
        .first()
        .ok_or(ChainFault::Missing.at(Position::Leaf))?;
    check_leaf(leaf, now).map_err(|fault| fault.at(Position::Leaf))?;
    for (index, pair) in chain.windows(2).enumerate() {
        let [subject, issuer] = pair else { continue };
        certificate::check_authority(issuer, index, now)
            .map_err(|f| f.at(Position::of(index + 1)))?;
        certificate::check_issued_by(subject, issuer, SCHEME)
            .map_err(|f| f.at(Position::of(index)))?;
    }
    let last = chain.last().unwrap_or(leaf);
    let root = certificate::find_root(last, roots.iter(), SCHEME)
        .map_err(|f| f.at(Position::of(chain.len() - 1)))?;
    certificate::check_authority(root.certificate(), chain.len() - 1, now)
        .map_err(|fault| fault.at(Position::Root))?;
    let key = certificate::ec_key_of(leaf).map_err(|fault| fault.at(Position::Leaf))?;
    Ok(CertifiedKey { key, root })
}

fn check_leaf(leaf: &Certificate, now: UnixTime) -> Result<(), ChainFault> {
    certificate::check_common(leaf, now)?;
    if extension::<BasicConstraints>(leaf)?.is_some_and(|constraints| constraints.ca) {
        return Err(ChainFault::Authority);
    }
    if !extension::<KeyUsage>(leaf)?.is_some_and(|usage| usage.digital_signature()) {
        return Err(ChainFault::KeyUsage {
            needed: "digitalSignature",
        });
    }
    let purposes = extension::<ExtendedKeyUsage>(leaf)?;
    if !purposes.is_some_and(|purposes| purposes.0.contains(&AIK_CERTIFICATE)) {
        return Err(ChainFault::Purpose);
    }
    Ok(())
}
