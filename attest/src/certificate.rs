//! X.509 certificates and what every chain of them must fulfil.
//!
//! Profile of RFC 5280: version 3, dates, names, basic constraints with path length, key usage, and
//! no critical extension that is not processed. Each kind of chain adds what its leaf must be, and
//! has one signature scheme: ECDSA with P-384 and SHA-384, ECDSA with P-256 and SHA-256, RSASSA-PSS
//! with 4,096 bits, SHA-384 and a salt of 48 bytes, or RSASSA-PKCS1-v1_5 with SHA-256.

use std::fmt;

use p384::ecdsa::signature::Verifier;
use p384::ecdsa::{DerSignature, VerifyingKey};
use serde::{Deserialize, Deserializer, de};
use x509_cert::certificate::{CertificateInner, Profile};
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::oid::AssociatedOid as _;
use x509_cert::der::{Decode as _, Encode, pem};
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage};
use x509_cert::name::Name;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::Time;

use crate::rsa::RsaKey;
use crate::{Digest, UnixTime};

mod walk;

pub(crate) use walk::walk;

/// A certificate whose dates keep the form that they were signed in: NVIDIA writes those before
/// 2050 as RFC 5280 has only later ones.
pub(crate) type Certificate = CertificateInner<AsSigned>;

/// See [`Certificate`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AsSigned;

impl Profile for AsSigned {
    fn time_encoding(time: Time) -> x509_cert::der::Result<Time> {
        Ok(time)
    }
}

/// Which signature scheme a chain uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// ECDSA with P-384 and SHA-384.
    EcdsaSha384,
    /// ECDSA with P-256 and SHA-256.
    EcdsaSha256,
    /// RSASSA-PSS with 4,096 bits, SHA-384 for message and mask, and a salt of 48 bytes.
    RsaPssSha384,
    /// RSASSA-PKCS1-v1_5 with 2,048 to 4,096 bits and SHA-256.
    RsaPkcs1Sha256,
}

const ECDSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_WITH_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const SECP256R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const RSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
/// tcg-kp-AIKCertificate
pub(crate) const AIK_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.3");

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
    /// Signed by another algorithm, or with other parameters, than this kind of chain has.
    #[error("signature algorithm {found}, {expected} expected")]
    Algorithm {
        /// Algorithm that had to be used.
        expected: &'static str,
        /// Algorithm found.
        found: ObjectIdentifier,
    },
    /// Its key is not a point of P-384.
    #[error("the key is not a P-384 key")]
    Key,
    /// Its key is not a point of P-256.
    #[error("the key is not a P-256 key")]
    P256Key,
    /// Its key is not an RSA key of 4,096 bits with the exponent 65,537.
    #[error("the key is not an RSA key of 4096 bits")]
    RsaKey,
    /// Its key is not an RSA key of 2,048 to 4,096 bits with the exponent 65,537.
    #[error("the key is not an RSA key of 2048, 3072 or 4096 bits")]
    AnyRsaKey,
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

    pub(crate) const fn at(self, position: Position) -> ChainError {
        ChainError {
            position,
            fault: self,
        }
    }
}

pub(crate) fn decode(der: &[u8]) -> Result<Certificate, ChainFault> {
    let certificate = Certificate::from_der(der).map_err(|_| ChainFault::Encoding)?;
    let canonical = certificate.to_der().is_ok_and(|again| again == der);
    if canonical && certificate.tbs_certificate().version() == x509_cert::Version::V3 {
        Ok(certificate)
    } else {
        Err(ChainFault::Encoding)
    }
}

/// `below` counts the intermediate certificates between this authority and the leaf.
pub(crate) fn check_authority(
    issuer: &Certificate,
    below: usize,
    now: UnixTime,
) -> Result<(), ChainFault> {
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
pub(crate) fn check_common(certificate: &Certificate, now: UnixTime) -> Result<(), ChainFault> {
    let tbs = certificate.tbs_certificate();
    let (from, until) = dates(certificate);
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

/// From when and until when a certificate says that it holds.
pub(crate) fn dates(certificate: &Certificate) -> (UnixTime, UnixTime) {
    let time = |time: Time| UnixTime::from_secs(time.to_unix_duration().as_secs());
    let validity = certificate.tbs_certificate().validity();
    (time(validity.not_before), time(validity.not_after))
}

pub(crate) fn check_issued_by(
    subject: &Certificate,
    issuer: &Certificate,
    scheme: Scheme,
) -> Result<(), ChainFault> {
    let expected = subject.tbs_certificate().issuer();
    let found = issuer.tbs_certificate().subject();
    if expected != found {
        let (expected, found) = (Box::new(expected.clone()), Box::new(found.clone()));
        return Err(ChainFault::Issuer { expected, found });
    }
    check_signature(subject, issuer, scheme)
}

/// The authority that `last` names and whose key signed it; two may bear the same name.
pub(crate) fn find_root<'a, T: AsRef<TrustAnchor>>(
    last: &Certificate,
    roots: impl IntoIterator<Item = &'a T>,
    scheme: Scheme,
) -> Result<&'a T, ChainFault> {
    let issuer = last.tbs_certificate().issuer();
    let mut fault = ChainFault::UnknownRoot {
        issuer: Box::new(issuer.clone()),
    };
    for root in roots {
        let certificate = root.as_ref().certificate();
        if certificate.tbs_certificate().subject() == issuer {
            match check_signature(last, certificate, scheme) {
                Ok(()) => return Ok(root),
                Err(found) => fault = found,
            }
        }
    }
    Err(fault)
}

fn check_signature(
    subject: &Certificate,
    issuer: &Certificate,
    scheme: Scheme,
) -> Result<(), ChainFault> {
    let (algorithm, tbs) = (subject.signature_algorithm(), subject.tbs_certificate());
    if tbs.signature() != algorithm {
        return Err(scheme.fault(algorithm));
    }
    let message = tbs.to_der().map_err(|_| ChainFault::Encoding)?;
    let signature = subject
        .signature()
        .as_bytes()
        .ok_or(ChainFault::Signature)?;
    scheme.verify(algorithm, issuer, &message, signature)
}

impl Scheme {
    /// Checks that `signature` is one by the key of `issuer` over `message`, in this scheme.
    pub(crate) fn verify(
        self,
        algorithm: &AlgorithmIdentifierOwned,
        issuer: &Certificate,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), ChainFault> {
        match self {
            Self::EcdsaSha384 => {
                if algorithm.oid != ECDSA_WITH_SHA384 || algorithm.parameters.is_some() {
                    return Err(self.fault(algorithm));
                }
                let signature = DerSignature::try_from(signature);
                verify_ecdsa(&ec_key_of(issuer)?, message, signature.ok())
            }
            Self::EcdsaSha256 => {
                if algorithm.oid != ECDSA_WITH_SHA256 || algorithm.parameters.is_some() {
                    return Err(self.fault(algorithm));
                }
                let signature = p256::ecdsa::DerSignature::try_from(signature);
                verify_ecdsa(&p256_key_of(issuer)?, message, signature.ok())
            }
            Self::RsaPkcs1Sha256 => self.verify_pkcs1(algorithm, issuer, message, signature),
            Self::RsaPssSha384 => {
                let parameters = algorithm.parameters.as_ref().map(Encode::to_der);
                let known = parameters
                    .is_some_and(|parameters| parameters.is_ok_and(|der| is_pss_sha384(&der)));
                if algorithm.oid != RSASSA_PSS || !known {
                    return Err(self.fault(algorithm));
                }
                if rsa_key_of(issuer)?.verify_pss(message, signature) {
                    Ok(())
                } else {
                    Err(ChainFault::Signature)
                }
            }
        }
    }

    /// Checks RSASSA-PKCS1-v1_5, whose parameters are NULL.
    fn verify_pkcs1(
        self,
        algorithm: &AlgorithmIdentifierOwned,
        issuer: &Certificate,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), ChainFault> {
        let parameters = algorithm.parameters.as_ref().map(Encode::to_der);
        let known = parameters.is_some_and(|parameters| parameters.is_ok_and(|der| der == [5, 0]));
        if algorithm.oid != RSA_WITH_SHA256 || !known {
            return Err(self.fault(algorithm));
        }
        match any_rsa_key_of(issuer)?.verify_pkcs1(message, signature) {
            true => Ok(()),
            false => Err(ChainFault::Signature),
        }
    }

    fn fault(self, algorithm: &AlgorithmIdentifierOwned) -> ChainFault {
        let expected = match self {
            Self::EcdsaSha384 => "ECDSA with SHA-384",
            Self::EcdsaSha256 => "ECDSA with SHA-256",
            Self::RsaPssSha384 => "RSASSA-PSS with SHA-384 and a salt of 48 bytes",
            Self::RsaPkcs1Sha256 => "RSASSA-PKCS1-v1_5 with SHA-256",
        };
        let found = algorithm.oid;
        ChainFault::Algorithm { expected, found }
    }
}

fn verify_ecdsa<S>(
    key: &impl Verifier<S>,
    message: &[u8],
    signature: Option<S>,
) -> Result<(), ChainFault> {
    let signature = signature.ok_or(ChainFault::Signature)?;
    key.verify(message, &signature)
        .map_err(|_| ChainFault::Signature)
}

/// RSASSA-PSS-params (RFC 4055) of SHA-384, MGF1 with SHA-384 and a salt of 48 bytes; the trailer
/// field may stand there with its only value, as it does in AMD's own certificates.
fn is_pss_sha384(parameters: &[u8]) -> bool {
    const FIELDS: &[u8] = &[
        0xa0, 15, 0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2, 5, 0, // hash
        0xa1, 28, 0x30, 26, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 8, // mask: MGF1
        0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2, 5, 0, // its hash
        0xa2, 3, 2, 1, 48, // salt
    ];
    const TRAILER: &[u8] = &[0xa3, 3, 2, 1, 1];
    match parameters {
        [0x30, 52, fields @ ..] => fields == FIELDS,
        [0x30, 57, fields @ ..] => fields.strip_prefix(FIELDS) == Some(TRAILER),
        _ => false,
    }
}

pub(crate) fn ec_key_of(certificate: &Certificate) -> Result<VerifyingKey, ChainFault> {
    let point = point_of(certificate, SECP384R1).ok_or(ChainFault::Key)?;
    VerifyingKey::from_sec1_bytes(point).map_err(|_| ChainFault::Key)
}

pub(crate) fn p256_key_of(
    certificate: &Certificate,
) -> Result<p256::ecdsa::VerifyingKey, ChainFault> {
    let point = point_of(certificate, SECP256R1).ok_or(ChainFault::P256Key)?;
    p256::ecdsa::VerifyingKey::from_sec1_bytes(point).map_err(|_| ChainFault::P256Key)
}

/// The certified key, if it is one of this curve.
fn point_of(certificate: &Certificate, curve: ObjectIdentifier) -> Option<&[u8]> {
    let info = certificate.tbs_certificate().subject_public_key_info();
    let found = info.algorithm.parameters.as_ref()?.decode_as().ok();
    let known = info.algorithm.oid == EC_PUBLIC_KEY && found == Some(curve);
    info.subject_public_key.as_bytes().filter(|_| known)
}

fn rsa_key_of(certificate: &Certificate) -> Result<RsaKey, ChainFault> {
    let info = certificate.tbs_certificate().subject_public_key_info();
    let key = info
        .subject_public_key
        .as_bytes()
        .and_then(RsaKey::from_der);
    match key {
        Some(key) if info.algorithm.oid == RSA_ENCRYPTION => Ok(key),
        _ => Err(ChainFault::RsaKey),
    }
}

/// The certified key, if it is an RSA key of 2,048 to 4,096 bits.
pub(crate) fn any_rsa_key_of(certificate: &Certificate) -> Result<RsaKey, ChainFault> {
    let info = certificate.tbs_certificate().subject_public_key_info();
    any_rsa_key_in(info).ok_or(ChainFault::AnyRsaKey)
}

/// The key, if it is an RSA key of 2,048 to 4,096 bits.
pub(crate) fn any_rsa_key_in(info: &SubjectPublicKeyInfoOwned) -> Option<RsaKey> {
    let key = info.subject_public_key.as_bytes();
    let key = key.and_then(RsaKey::from_der_of_any_length);
    key.filter(|_| info.algorithm.oid == RSA_ENCRYPTION)
}

pub(crate) fn extension<'a, T>(certificate: &'a Certificate) -> Result<Option<T>, ChainFault>
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
        Self::from_der(&der)
    }

    /// Reads one certificate in DER form.
    pub(crate) fn from_der(der: &[u8]) -> Result<Self, TrustAnchorError> {
        let certificate = decode(der).map_err(|_| TrustAnchorError)?;
        let fingerprint = Digest::sha256(der);
        Ok(Self {
            certificate,
            fingerprint,
        })
    }

    pub(crate) fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// SHA-256 of the certificate.
    #[must_use]
    pub fn fingerprint(&self) -> Digest<32> {
        self.fingerprint
    }
}

impl AsRef<Self> for TrustAnchor {
    fn as_ref(&self) -> &Self {
        self
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
    pub(crate) const fn of(index: usize) -> Self {
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
