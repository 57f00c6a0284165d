//! Chains of NVIDIA's: from a root of the policy to a device's key, or to the key that signed a
//! manifest; and revocation lists.
//!
//! ```text
//! root (policy) ─▶ identity of a line ─▶ provisioner ─▶ boot ROM (one device) ─▶ firmware's key
//! root (policy) ─▶ manifests of a line ─▶ …          ─▶ key that signed the manifest
//! ```
//!
//! Everything is ECDSA with P-384 and SHA-384. A certificate that names a place for its issuer's
//! revocation list is checked against one; certificates further down name none, and their status
//! is what NVIDIA's responder says ([`crate::ocsp`]). The firmware's key is certified by the boot
//! ROM, inside the device: nobody knows of it, and nobody is asked.

use p384::ecdsa::VerifyingKey;
use p384::ecdsa::signature::Verifier as _;
use x509_cert::der::asn1::{AnyRef, BitStringRef, ObjectIdentifier, OctetStringRef, Utf8StringRef};
use x509_cert::der::oid::AssociatedOid as _;
use x509_cert::der::{Encode as _, Reader as _, SliceReader};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{CrlDistributionPoints, SubjectAltName};

use super::error::DeviceFault;
use super::spdm::SignedReport;
use super::status::{Standing, Statuses};
use crate::certificate::{
    self, Certificate, ChainError, Position, Scheme, TrustAnchor, extension, walk,
};
use crate::crl::{self, RevocationFault, RevocationList};
use crate::ocsp::StatusFault;
use crate::{Digest, UnixTime};

const SCHEME: Scheme = Scheme::EcdsaSha384;
/// DMTF's name of a device: vendor, product, serial number.
const DEVICE_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.412.274.1");
/// The device's key, and the digest of the firmware that it was made for.
const FIRMWARE_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.5.4.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");

/// A chain up to a root of the policy.
pub(super) struct Chain<'a> {
    /// The root.
    pub(super) root: &'a TrustAnchor,
    /// The certified key.
    pub(super) key: VerifyingKey,
    certificates: Vec<Certificate>,
}

/// What NVIDIA certified of a device.
pub(super) struct Identity {
    /// The chip, such as `GH100`.
    pub(super) chip: String,
    /// SHA-256 of the certificate of the device's boot ROM: it stays while firmware changes.
    pub(super) device: Digest<32>,
    /// The name by which switches and GPUs know each other.
    pub(super) pdi: Option<Digest<8>>,
    /// Digest of the firmware that the key was made for.
    pub(super) firmware_id: Digest<48>,
}

/// Revocation lists, and whether each was of use.
pub(super) struct Lists {
    lists: Vec<(x509_cert::crl::CertificateList, bool)>,
    now: UnixTime,
}

impl<'a> Chain<'a> {
    /// Verifies `certificates`, leaf first, with or without the root behind them.
    pub(super) fn verify(
        certificates: &[Vec<u8>],
        roots: &'a [TrustAnchor],
        now: UnixTime,
    ) -> Result<Self, ChainError> {
        let is_root = |der: &Vec<u8>| {
            let shown = Digest::sha256(der);
            roots.iter().any(|root| root.fingerprint() == shown)
        };
        let certificates = match certificates.split_last() {
            Some((last, below)) if is_root(last) => below,
            _ => certificates,
        };
        let leaf_key = |leaf: &Certificate| Ok(certificate::ec_key_of(leaf));
        let walked = walk(certificates, roots, SCHEME, now, leaf_key)?;
        let key = walked.leaf.map_err(|fault| fault.at(Position::Leaf))?;
        Ok(Self {
            root: walked.root,
            key,
            certificates: walked.certificates,
        })
    }

    /// What NVIDIA says of the device whose chain this is.
    pub(super) fn identity(&self) -> Result<Identity, DeviceFault> {
        let missing = |field: &'static str| move || DeviceFault::CertificateField { field };
        let [leaf, boot_rom, ..] = self.certificates.as_slice() else {
            return Err(missing("the boot ROM")());
        };
        let der = boot_rom.to_der().map_err(|_| missing("the boot ROM")())?;
        // A byte that says which kind of device, then its name.
        let serial = boot_rom.tbs_certificate().serial_number().as_bytes();
        let pdi = match serial {
            [_, name @ ..] => name.try_into().ok().map(Digest),
            [] => None,
        };
        Ok(Identity {
            chip: chip(leaf).ok_or_else(missing("the device's name"))?,
            device: Digest::sha256(&der),
            pdi,
            firmware_id: firmware_id(leaf).ok_or_else(missing("the digest of its firmware"))?,
        })
    }

    /// Each certificate that names a place for a revocation list, and its issuer; last, whether
    /// there is one.
    pub(super) fn check_revocation(
        &self,
        lists: &mut Lists,
    ) -> Result<Vec<Position>, (Position, Option<RevocationFault>)> {
        let mut without = Vec::new();
        for (index, (subject, issuer)) in self.pairs().enumerate() {
            let position = Position::of(index);
            // Whether or not what it says can be read.
            let mut extensions = subject.tbs_certificate().extensions().into_iter().flatten();
            let named = extensions.any(|one| one.extn_id == CrlDistributionPoints::OID);
            match lists.revokes(subject, issuer) {
                Ok(Some(true)) => return Err((position, None)),
                Ok(None) if named => without.push(position),
                Ok(_) => {}
                Err(fault) => return Err((position, Some(fault))),
            }
        }
        Ok(without)
    }

    /// What responses say of each certificate from place `first` on.
    pub(super) fn check_status(
        &self,
        first: usize,
        statuses: &mut Statuses<'_>,
        lists: &mut Lists,
    ) -> Result<Standing, (Position, StatusFault)> {
        let mut standing = Standing::default();
        for (index, (subject, issuer)) in self.pairs().enumerate().skip(first) {
            let position = Position::of(index);
            // Lists by this issuer were verified before.
            let is_revoked = |responder: &Certificate| {
                !matches!(lists.revokes(responder, issuer), Ok(None | Some(false)))
            };
            let until = statuses.verify((subject, issuer), SCHEME, is_revoked);
            match until.map_err(|fault| (position, fault))? {
                None => standing.without.push(position),
                Some(until) => {
                    standing.good += 1;
                    let sooner = standing.until.map_or(until, |first| first.min(until));
                    standing.until = Some(sooner);
                }
            }
        }
        Ok(standing)
    }

    /// Each certificate and its issuer.
    fn pairs(&self) -> impl Iterator<Item = (&Certificate, &Certificate)> {
        let authorities = self.certificates.iter().skip(1);
        let authorities = authorities.chain([self.root.certificate()]);
        self.certificates.iter().zip(authorities)
    }
}

impl Lists {
    /// Reads lists, without believing them.
    pub(super) fn read(lists: &[Vec<u8>], now: UnixTime) -> Result<Self, RevocationFault> {
        let lists = lists.iter().map(|der| Ok((crl::decode(der)?, false)));
        let lists = lists.collect::<Result<_, _>>()?;
        Ok(Self { lists, now })
    }

    /// Whether `subject` is revoked; nothing, if there is no list by `issuer`.
    fn revokes(
        &mut self,
        subject: &Certificate,
        issuer: &Certificate,
    ) -> Result<Option<bool>, RevocationFault> {
        let name = issuer.tbs_certificate().subject();
        let mut verdict = None;
        for (list, used) in &mut self.lists {
            if &list.tbs_cert_list.issuer == name {
                let list = RevocationList::verify(list.clone(), issuer, SCHEME, 0, self.now)?;
                *used = true;
                verdict = Some(verdict == Some(true) || list.revokes(subject));
            }
        }
        Ok(verdict)
    }

    /// Whether one is by none of the authorities that issued something here.
    pub(super) fn has_stray(&self) -> bool {
        self.lists.iter().any(|(_, used)| !used)
    }
}

/// Whether a certificate is one of the firmware's key, which signs reports.
pub(crate) fn is_device(certificate: &Certificate) -> bool {
    firmware_id(certificate).is_some()
}

/// Whether the certified key signed a report. What certified the key is not looked at.
pub(crate) fn is_signed_by(report: &[u8], certificate: &Certificate) -> bool {
    let (Ok(signed), Ok(key)) = (
        SignedReport::parse(report),
        certificate::ec_key_of(certificate),
    ) else {
        return false;
    };
    key.verify(signed.signed, &signed.signature).is_ok()
}

/// Whether `issuer` bears the name of who issued `subject`, and its key signed it.
pub(crate) fn is_issued_by(subject: &Certificate, issuer: &Certificate) -> bool {
    certificate::check_issued_by(subject, issuer, SCHEME).is_ok()
}

/// `NVIDIA:CHIP:SERIAL`
fn chip(leaf: &Certificate) -> Option<String> {
    let names = extension::<SubjectAltName>(leaf).ok()??;
    let [GeneralName::OtherName(name)] = names.0.as_slice() else {
        return None;
    };
    let text: Utf8StringRef<'_> = name.value.decode_as().ok()?;
    let mut parts = text.as_str().split(':');
    let (vendor, chip, serial) = (parts.next()?, parts.next()?, parts.next()?);
    let known = name.type_id == DEVICE_NAME && vendor == "NVIDIA" && !serial.is_empty();
    (known && parts.next().is_none()).then(|| chip.to_owned())
}

/// SEQUENCE { version, SubjectPublicKeyInfo, SEQUENCE { algorithm, digest } }
fn firmware_id(leaf: &Certificate) -> Option<Digest<48>> {
    let mut extensions = leaf.tbs_certificate().extensions().into_iter().flatten();
    let extension = extensions.find(|extension| extension.extn_id == FIRMWARE_ID)?;
    let mut reader = SliceReader::new(extension.extn_value.as_bytes()).ok()?;
    let (algorithm, digest) = reader
        .sequence(|outer| {
            let _version: u8 = outer.decode()?;
            let _key = outer.sequence(|key| {
                let algorithm: AnyRef<'_> = key.decode()?;
                let _point: BitStringRef<'_> = key.decode()?;
                Ok::<_, x509_cert::der::Error>(algorithm)
            })?;
            outer.sequence(|inner| {
                let algorithm: ObjectIdentifier = inner.decode()?;
                let digest: &OctetStringRef = inner.decode()?;
                Ok::<_, x509_cert::der::Error>((algorithm, digest))
            })
        })
        .ok()?;
    reader.finish().ok()?;
    let digest = digest.as_bytes().try_into().ok().map(Digest);
    digest.filter(|_| algorithm == SHA384)
}
