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

use std::fmt;

use p384::ecdsa::signature::Verifier as _;
use p384::ecdsa::{DerSignature, VerifyingKey};
use serde::{Deserialize, Deserializer, de};
use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::oid::AssociatedOid as _;
use x509_cert::der::{Decode as _, Encode as _, pem};
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage};
use x509_cert::name::Name;
use x509_cert::time::Time;

use crate::{Digest, UnixTime};

const ECDSA_WITH_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const AIK_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.3");

/// A certificate authority that a policy names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustAnchor {
    certificate: Certificate,
    fingerprint: Digest<32>,
}

/// Not one certificate in PEM form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not one X.509 certificate in PEM form")]
pub struct TrustAnchorError;

/// The key that a chain certifies, and the root that it leads to.
#[derive(Clone, Debug)]
pub struct CertifiedKey<'a> {
    /// The attestation key.
    pub key: VerifyingKey,
    /// The authority at the chain's end.
    pub root: &'a TrustAnchor,
}

/// Which certificate of a chain failed, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{position}: {fault}")]
pub struct ChainError {
    /// The certificate at fault.
    pub position: Position,
    /// What is wrong with it.
    pub fault: ChainFault,
}

/// A certificate's place in a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// The attestation key's own certificate.
    Leaf,
    /// The n-th certificate above it, from 1.
    Intermediate(usize),
    /// The authority that the policy names.
    Root,
}

/// What can be wrong with a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// There is no certificate.
    #[error("missing")]
    Missing,
    /// Not DER of an X.509 certificate, version 3.
    #[error("not an X.509 certificate of version 3 in DER")]
    Encoding,
    /// Signed by another algorithm than ECDSA with SHA-384.
    #[error("signature algorithm {found}, ECDSA with SHA-384 expected")]
    Algorithm {
        /// Algorithm found.
        found: ObjectIdentifier,
    },
    /// Its key is not a point of P-384.
    #[error("the key is not a P-384 key")]
    Key,
    /// Not valid yet.
    #[error("not valid before {from}, and it is {now}")]
    NotYetValid {
        /// Start of validity.
        from: UnixTime,
        /// The time of verification.
        now: UnixTime,
    },
    /// No longer valid.
    #[error("expired at {until}, and it is {now}")]
    Expired {
        /// End of validity.
        until: UnixTime,
        /// The time of verification.
        now: UnixTime,
    },
    /// An extension occurs twice.
    #[error("extension {found} occurs twice")]
    DuplicateExtension {
        /// The extension.
        found: ObjectIdentifier,
    },
    /// A critical extension that this program does not process.
    #[error("unknown critical extension {found}")]
    CriticalExtension {
        /// The extension.
        found: ObjectIdentifier,
    },
    /// An extension that cannot be read.
    #[error("extension {found} cannot be read")]
    Extension {
        /// The extension.
        found: ObjectIdentifier,
    },
    /// It issued a certificate, and is no authority.
    #[error("issued a certificate and is no certificate authority")]
    NotAnAuthority,
    /// It is an authority, where an attestation key was expected.
    #[error("is a certificate authority where an attestation key was expected")]
    Authority,
    /// More certificates below it than it allows.
    #[error("allows {allowed} intermediate certificates below it, found {found}")]
    PathLength {
        /// How many it allows.
        allowed: u8,
        /// How many were found.
        found: usize,
    },
    /// Key usage is missing or does not hold what is needed.
    #[error("key usage does not allow {needed}")]
    KeyUsage {
        /// The usage that is needed.
        needed: &'static str,
    },
    /// Not certified for attestation.
    #[error("extended key usage does not hold {AIK_CERTIFICATE} (attestation key)")]
    Purpose,
    /// Its issuer is not the next certificate's subject.
    #[error("issued by \"{expected}\", next is \"{found}\"")]
    Issuer {
        /// Issuer that it names.
        expected: Box<Name>,
        /// Subject of the next certificate.
        found: Box<Name>,
    },
    /// Its issuer is no authority that the policy names.
    #[error("issued by \"{issuer}\", which the policy does not name")]
    UnknownRoot {
        /// Issuer that it names.
        issuer: Box<Name>,
    },
    /// Not signed by its issuer's key.
    #[error("not signed by its issuer's key")]
    Signature,
}

impl ChainFault {
    /// Whether the certificate is only out of date.
    #[must_use]
    pub const fn is_date(&self) -> bool {
        matches!(self, Self::NotYetValid { .. } | Self::Expired { .. })
    }

    const fn at(self, position: Position) -> ChainError {
        ChainError {
            position,
            fault: self,
        }
    }
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
        chain.push(decode(der).map_err(|fault| fault.at(position))?);
    }
    let leaf = chain
        .first()
        .ok_or(ChainFault::Missing.at(Position::Leaf))?;
    check_leaf(leaf, now).map_err(|fault| fault.at(Position::Leaf))?;
    for (index, pair) in chain.windows(2).enumerate() {
        let [subject, issuer] = pair else { continue };
        check_authority(issuer, index, now).map_err(|f| f.at(Position::of(index + 1)))?;
        check_issued_by(subject, issuer).map_err(|f| f.at(Position::of(index)))?;
    }
    let last = chain.last().unwrap_or(leaf);
    let root = find_root(last, roots).map_err(|f| f.at(Position::of(chain.len() - 1)))?;
    check_authority(&root.certificate, chain.len() - 1, now)
        .map_err(|fault| fault.at(Position::Root))?;
    let key = key_of(leaf).map_err(|fault| fault.at(Position::Leaf))?;
    Ok(CertifiedKey { key, root })
}

fn decode(der: &[u8]) -> Result<Certificate, ChainFault> {
    let certificate = Certificate::from_der(der).map_err(|_| ChainFault::Encoding)?;
    let canonical = certificate.to_der().is_ok_and(|again| again == der);
    if canonical && certificate.tbs_certificate().version() == x509_cert::Version::V3 {
        Ok(certificate)
    } else {
        Err(ChainFault::Encoding)
    }
}

fn check_leaf(leaf: &Certificate, now: UnixTime) -> Result<(), ChainFault> {
    check_common(leaf, now)?;
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

/// `below` counts the intermediate certificates between this authority and the leaf.
fn check_authority(issuer: &Certificate, below: usize, now: UnixTime) -> Result<(), ChainFault> {
    check_common(issuer, now)?;
    let constraints = extension::<BasicConstraints>(issuer)?
        .filter(|constraints| constraints.ca)
        .ok_or(ChainFault::NotAnAuthority)?;
    match constraints.path_len_constraint {
        Some(allowed) if below > usize::from(allowed) => {
            return Err(ChainFault::PathLength {
                allowed,
                found: below,
            });
        }
        _ => {}
    }
    if !extension::<KeyUsage>(issuer)?.is_some_and(|usage| usage.key_cert_sign()) {
        return Err(ChainFault::KeyUsage {
            needed: "keyCertSign",
        });
    }
    Ok(())
}

/// What holds for every certificate: dates, and no extension that is not understood.
fn check_common(certificate: &Certificate, now: UnixTime) -> Result<(), ChainFault> {
    let tbs = certificate.tbs_certificate();
    let time = |time: Time| UnixTime::from_secs(time.to_unix_duration().as_secs());
    let (from, until) = (
        time(tbs.validity().not_before),
        time(tbs.validity().not_after),
    );
    if now < from {
        return Err(ChainFault::NotYetValid { from, now });
    }
    if now > until {
        return Err(ChainFault::Expired { until, now });
    }
    let known = [BasicConstraints::OID, KeyUsage::OID, ExtendedKeyUsage::OID];
    let extensions = tbs.extensions().map_or(&[][..], Vec::as_slice);
    for (index, extension) in extensions.iter().enumerate() {
        let found = extension.extn_id;
        if extensions[..index]
            .iter()
            .any(|earlier| earlier.extn_id == found)
        {
            return Err(ChainFault::DuplicateExtension { found });
        }
        if extension.critical && !known.contains(&found) {
            return Err(ChainFault::CriticalExtension { found });
        }
    }
    Ok(())
}

fn check_issued_by(subject: &Certificate, issuer: &Certificate) -> Result<(), ChainFault> {
    let expected = subject.tbs_certificate().issuer();
    let found = issuer.tbs_certificate().subject();
    if expected != found {
        let (expected, found) = (Box::new(expected.clone()), Box::new(found.clone()));
        return Err(ChainFault::Issuer { expected, found });
    }
    check_signature(subject, issuer)
}

/// The authority that `last` names and whose key signed it; two may bear the same name.
fn find_root<'a>(
    last: &Certificate,
    roots: &'a [TrustAnchor],
) -> Result<&'a TrustAnchor, ChainFault> {
    let issuer = last.tbs_certificate().issuer();
    let mut fault = ChainFault::UnknownRoot {
        issuer: Box::new(issuer.clone()),
    };
    for root in roots {
        if root.certificate.tbs_certificate().subject() == issuer {
            match check_signature(last, &root.certificate) {
                Ok(()) => return Ok(root),
                Err(found) => fault = found,
            }
        }
    }
    Err(fault)
}

fn check_signature(subject: &Certificate, issuer: &Certificate) -> Result<(), ChainFault> {
    let (algorithm, tbs) = (subject.signature_algorithm(), subject.tbs_certificate());
    let plain = algorithm.oid == ECDSA_WITH_SHA384 && algorithm.parameters.is_none();
    if !plain || tbs.signature() != algorithm {
        return Err(ChainFault::Algorithm {
            found: algorithm.oid,
        });
    }
    let message = tbs.to_der().map_err(|_| ChainFault::Encoding)?;
    let signature = subject
        .signature()
        .as_bytes()
        .ok_or(ChainFault::Signature)?;
    let signature = DerSignature::try_from(signature).map_err(|_| ChainFault::Signature)?;
    key_of(issuer)?
        .verify(&message, &signature)
        .map_err(|_| ChainFault::Signature)
}

fn key_of(certificate: &Certificate) -> Result<VerifyingKey, ChainFault> {
    let info = certificate.tbs_certificate().subject_public_key_info();
    let curve = info
        .algorithm
        .parameters
        .as_ref()
        .and_then(|any| any.decode_as().ok());
    if info.algorithm.oid != EC_PUBLIC_KEY || curve != Some(SECP384R1) {
        return Err(ChainFault::Key);
    }
    let point = info.subject_public_key.as_bytes().ok_or(ChainFault::Key)?;
    VerifyingKey::from_sec1_bytes(point).map_err(|_| ChainFault::Key)
}

fn extension<'a, T>(certificate: &'a Certificate) -> Result<Option<T>, ChainFault>
where
    T: x509_cert::der::oid::AssociatedOid + x509_cert::der::Decode<'a>,
{
    match certificate.tbs_certificate().get_extension::<T>() {
        Ok(found) => Ok(found.map(|(_, extension)| extension)),
        Err(_) => Err(ChainFault::Extension { found: T::OID }),
    }
}

impl TrustAnchor {
    /// Reads one certificate in PEM form. What it may do is checked with each chain.
    pub fn from_pem(text: &str) -> Result<Self, TrustAnchorError> {
        let (label, der) = pem::decode_vec(text.trim().as_bytes()).map_err(|_| TrustAnchorError)?;
        if label != "CERTIFICATE" {
            return Err(TrustAnchorError);
        }
        let certificate = decode(&der).map_err(|_| TrustAnchorError)?;
        Ok(Self {
            certificate,
            fingerprint: Digest::sha256(&der),
        })
    }

    /// SHA-256 of the certificate.
    #[must_use]
    pub fn fingerprint(&self) -> Digest<32> {
        self.fingerprint
    }
}

impl fmt::Display for TrustAnchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = self.certificate.tbs_certificate().subject();
        write!(f, "{subject} (sha256:{})", self.fingerprint)
    }
}

impl<'de> Deserialize<'de> for TrustAnchor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_pem(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl Position {
    const fn of(index: usize) -> Self {
        if index == 0 {
            Self::Leaf
        } else {
            Self::Intermediate(index)
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaf => f.write_str("certificate of the attestation key"),
            Self::Intermediate(number) => write!(f, "intermediate certificate {number}"),
            Self::Root => f.write_str("root certificate"),
        }
    }
}
