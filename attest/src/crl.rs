//! Certificate revocation lists (RFC 5280, section 5): complete ones, signed by the issuer of the
//! certificates, with a number and a next update.

use std::collections::BTreeSet;

use x509_cert::crl::CertificateList;
use x509_cert::der::asn1::{ObjectIdentifier, Uint};
use x509_cert::der::oid::AssociatedOid as _;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, CrlNumber, KeyUsage};
use x509_cert::time::Time;

use crate::UnixTime;
use crate::certificate::{Certificate, Scheme, extension};

/// Longest revocation list.
pub const MAX_CRL_BYTES: usize = 64 << 10;

/// deltaCRLIndicator and issuingDistributionPoint, here by number: `x509-cert` has another one for
/// the second.
const PARTIAL: [ObjectIdentifier; 2] = [
    ObjectIdentifier::new_unwrap("2.5.29.27"),
    ObjectIdentifier::new_unwrap("2.5.29.28"),
];

/// What can be wrong with a revocation list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevocationFault {
    /// Not DER of a certificate revocation list, version 2.
    #[error("not a certificate revocation list of version 2 in DER")]
    Encoding,
    /// Its issuer may not sign revocation lists.
    #[error("its issuer may not sign revocation lists")]
    KeyUsage,
    /// Not signed by its issuer's key, or not in its scheme.
    #[error("not signed by its issuer's key")]
    Signature,
    /// A critical extension that this program does not process: the list may not be complete.
    #[error("unknown critical extension {found}")]
    CriticalExtension {
        /// The extension.
        found: ObjectIdentifier,
    },
    /// An extension occurs twice.
    #[error("extension {found} occurs twice")]
    DuplicateExtension {
        /// The extension.
        found: ObjectIdentifier,
    },
    /// By itself it is not complete, whether that is marked as critical or not.
    #[error("extension {found} says that the list is a part of another")]
    Partial {
        /// The extension.
        found: ObjectIdentifier,
    },
    /// It has no number, or none that fits.
    #[error("has no number")]
    Number,
    /// Older than the policy demands.
    #[error("number {found}, at least {minimum} expected")]
    Stale {
        /// Least number by the policy.
        minimum: u64,
        /// Number found.
        found: u64,
    },
    /// Of the future.
    #[error("not valid before {from}, and it is {now}")]
    NotYetValid {
        /// Start of validity.
        from: UnixTime,
        /// The time of verification.
        now: UnixTime,
    },
    /// It does not say until when it holds.
    #[error("does not say when the next one is due")]
    NoNextUpdate,
    /// A newer one is due.
    #[error("due for renewal at {until}, and it is {now}")]
    Expired {
        /// When the next one was due.
        until: UnixTime,
        /// The time of verification.
        now: UnixTime,
    },
}

/// A list that its issuer signed and that holds at the time of verification.
pub(crate) struct RevocationList {
    list: CertificateList,
    /// Its number.
    pub(crate) number: u64,
    /// When the next one is due.
    pub(crate) until: UnixTime,
}

/// Reads a list, without believing it.
pub(crate) fn decode(der: &[u8]) -> Result<CertificateList, RevocationFault> {
    let list = CertificateList::from_der(der).map_err(|_| RevocationFault::Encoding)?;
    let canonical = list.to_der().is_ok_and(|again| again == der);
    if canonical && list.tbs_cert_list.version == x509_cert::Version::V2 {
        Ok(list)
    } else {
        Err(RevocationFault::Encoding)
    }
}

/// Until when a list says that it holds. Reads it, without believing it.
pub fn next_update(der: &[u8]) -> Result<UnixTime, RevocationFault> {
    if der.len() > MAX_CRL_BYTES {
        return Err(RevocationFault::Encoding);
    }
    let until = decode(der)?.tbs_cert_list.next_update;
    let until = until.ok_or(RevocationFault::NoNextUpdate)?;
    Ok(UnixTime::from_secs(until.to_unix_duration().as_secs()))
}

/// From when and until when a list says that it holds. Reads it, without believing it.
pub(crate) fn dates(der: &[u8]) -> Option<(UnixTime, UnixTime)> {
    let until = next_update(der).ok()?;
    let from = decode(der).ok()?.tbs_cert_list.this_update;
    Some((
        UnixTime::from_secs(from.to_unix_duration().as_secs()),
        until,
    ))
}

impl RevocationList {
    /// Verifies that `issuer` signed `list`, and that it holds at the time `now`.
    pub(crate) fn verify(
        list: CertificateList,
        issuer: &Certificate,
        scheme: Scheme,
        minimum: u64,
        now: UnixTime,
    ) -> Result<Self, RevocationFault> {
        let usage = extension::<KeyUsage>(issuer).map_err(|_| RevocationFault::KeyUsage)?;
        if !usage.is_some_and(|usage| usage.crl_sign()) {
            return Err(RevocationFault::KeyUsage);
        }
        check_signature(&list, issuer, scheme)?;
        check_extensions(&list)?;
        let number = number(&list).ok_or(RevocationFault::Number)?;
        if number < minimum {
            let found = number;
            return Err(RevocationFault::Stale { minimum, found });
        }
        let time = |time: Time| UnixTime::from_secs(time.to_unix_duration().as_secs());
        let from = time(list.tbs_cert_list.this_update);
        if now < from {
            return Err(RevocationFault::NotYetValid { from, now });
        }
        let until = list.tbs_cert_list.next_update;
        let until = time(until.ok_or(RevocationFault::NoNextUpdate)?);
        if now > until {
            return Err(RevocationFault::Expired { until, now });
        }
        Ok(Self {
            list,
            number,
            until,
        })
    }

    /// Whether `certificate`, which this list's issuer issued, is revoked.
    pub(crate) fn revokes(&self, certificate: &Certificate) -> bool {
        let serial = certificate.tbs_certificate().serial_number();
        let revoked = &self.list.tbs_cert_list.revoked_certificates;
        revoked
            .iter()
            .flatten()
            .any(|entry| entry.serial_number.as_bytes() == serial.as_bytes())
    }
}

fn check_signature(
    list: &CertificateList,
    issuer: &Certificate,
    scheme: Scheme,
) -> Result<(), RevocationFault> {
    let (algorithm, tbs) = (&list.signature_algorithm, &list.tbs_cert_list);
    if &tbs.signature != algorithm {
        return Err(RevocationFault::Signature);
    }
    let message = tbs.to_der().map_err(|_| RevocationFault::Encoding)?;
    let signature = list.signature.as_bytes();
    scheme
        .verify(algorithm, issuer, &message, signature.unwrap_or_default())
        .map_err(|_| RevocationFault::Signature)
}

/// No extension says that the list is partial, or that an entry means something else.
fn check_extensions(list: &CertificateList) -> Result<(), RevocationFault> {
    let known = [CrlNumber::OID, AuthorityKeyIdentifier::OID];
    let mut seen = BTreeSet::new();
    for extension in list.tbs_cert_list.crl_extensions.iter().flatten() {
        let found = extension.extn_id;
        if !seen.insert(found) {
            return Err(RevocationFault::DuplicateExtension { found });
        }
        if PARTIAL.contains(&found) {
            return Err(RevocationFault::Partial { found });
        }
        if extension.critical && !known.contains(&found) {
            return Err(RevocationFault::CriticalExtension { found });
        }
    }
    let entries = list.tbs_cert_list.revoked_certificates.iter().flatten();
    let mut of_entries = entries.flat_map(|entry| entry.crl_entry_extensions.iter().flatten());
    match of_entries.find(|extension| extension.critical) {
        Some(Extension { extn_id: found, .. }) => {
            let found = *found;
            Err(RevocationFault::CriticalExtension { found })
        }
        None => Ok(()),
    }
}

fn number(list: &CertificateList) -> Option<u64> {
    let mut extensions = list.tbs_cert_list.crl_extensions.iter().flatten();
    let extension = extensions.find(|extension| extension.extn_id == CrlNumber::OID)?;
    let number = Uint::from_der(extension.extn_value.as_bytes()).ok()?;
    let bytes = number.as_bytes();
    (bytes.len() <= 8).then(|| bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
}
