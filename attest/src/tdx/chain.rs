//! From Intel's root to the key of a platform and to the key of Intel's documents, and what Intel
//! says of the platform.
//!
//! ```text
//! 1.2.840.113741.1.13.1     .2.1 to .2.16  versions of the processor's parts
//!                           .2.17          version of the provisioning enclave (PCE)
//!                           .3  id of the PCE          .4  model of the platform (FMSPC)
//!                           .6  the platform           .7.1 dynamic  .7.2 cached keys  .7.3 SMT
//! ```

use p256::ecdsa::VerifyingKey;
use x509_cert::der::asn1::{AnyRef, ObjectIdentifier};
use x509_cert::der::{Reader as _, SliceReader, Tag, Tagged as _};
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};

use super::error::Authority;
use super::{Collateral, PckAuthority, TdxError};
use crate::certificate::{self, Certificate, ChainFault, Position, Scheme, TrustAnchor, extension};
use crate::crl::{self, RevocationList};
use crate::policy::TdxPolicy;
use crate::{Claim, Digest, UnixTime};

const SCHEME: Scheme = Scheme::EcdsaSha256;
const SGX: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1");
const PROCESSOR_CA: &str = "CN=Intel SGX PCK Processor CA";
const SIGNER: &str = "CN=Intel SGX TCB Signing";

/// A platform that Intel certified, and the key of Intel's documents.
pub(super) struct CertifiedPlatform<'a> {
    /// The root of both.
    pub(super) root: &'a TrustAnchor,
    /// The platform's key.
    pub(super) key: VerifyingKey,
    /// The key of Intel's documents.
    pub(super) signer: VerifyingKey,
    /// What Intel says of the platform.
    pub(super) platform: Platform,
}

/// What Intel puts into the certificate of a platform's key.
pub(super) struct Platform {
    /// Versions of the processor's parts.
    pub(super) cpu: [u8; 16],
    /// Version of the provisioning enclave.
    pub(super) pce: u16,
    /// Id of the provisioning enclave.
    pub(super) pce_id: [u8; 2],
    /// Model.
    pub(super) fmspc: [u8; 6],
    /// The platform; zero if that is not said.
    pub(super) instance: [u8; 16],
    /// Packages can be added; its root keys are cached; it has multithreading.
    pub(super) flags: [Option<bool>; 3],
}

/// Verifies the certificates and the revocation lists, at the time `now`.
pub(super) fn verify<'a>(
    certificates: &[Vec<u8>],
    collateral: &Collateral,
    policy: &'a TdxPolicy,
    now: UnixTime,
    claims: &mut Vec<Claim>,
) -> Result<CertifiedPlatform<'a>, TdxError> {
    let [leaf, above, last @ ..] = certificates else {
        let found = certificates.len();
        return Err(TdxError::Certificates { found });
    };
    let (at_leaf, at_issuer) = (Position::Leaf, Position::Intermediate(1));
    let leaf = certificate::decode(leaf).map_err(|fault| fault.at(at_leaf))?;
    let issuer = certificate::decode(above).map_err(|fault| fault.at(at_issuer))?;
    let root = certificate::find_root(&issuer, &policy.roots, SCHEME)
        .map_err(|fault| fault.at(at_issuer))?;
    match last {
        [] => {}
        [shown] if Digest::sha256(shown) == root.fingerprint() => {}
        _ => {
            let found = certificates.len();
            return Err(TdxError::Certificates { found });
        }
    }
    let anchor = root.certificate();
    certificate::check_authority(anchor, 1, now).map_err(|fault| fault.at(Position::Root))?;
    certificate::check_authority(&issuer, 0, now).map_err(|fault| fault.at(at_issuer))?;
    certificate::check_issued_by(&leaf, &issuer, SCHEME).map_err(|fault| fault.at(at_leaf))?;
    check_leaf(&leaf, now).map_err(|fault| fault.at(at_leaf))?;
    if collateral.signer.is_empty() && collateral.tcb_info.is_empty() {
        return Err(TdxError::NoCollateral);
    }
    let signed_by = signer(&collateral.signer, anchor, now)?;
    let chain = Chain {
        leaf: &leaf,
        issuer: &issuer,
        root,
        signer: &signed_by,
    };
    chain.check_revocation(&collateral.revocation_lists, now, claims)?;
    let of_signer = |fault: ChainFault| TdxError::Signer(fault.at(Position::Leaf));
    Ok(CertifiedPlatform {
        root,
        key: certificate::p256_key_of(&leaf).map_err(|fault| fault.at(at_leaf))?,
        signer: certificate::p256_key_of(&signed_by).map_err(of_signer)?,
        platform: Platform::of(&leaf)?,
    })
}

/// The platform's model by the certificate of its key, and who issued that.
pub(super) fn named_by(certificates: &[Vec<u8>]) -> Result<([u8; 6], PckAuthority), TdxError> {
    let leaf = certificates
        .first()
        .ok_or(TdxError::Certificates { found: 0 })?;
    let leaf = certificate::decode(leaf).map_err(|fault| fault.at(Position::Leaf))?;
    let issuer = leaf.tbs_certificate().issuer().to_string();
    let is_processor = issuer.split(',').any(|part| part == PROCESSOR_CA);
    let authority = match is_processor {
        true => PckAuthority::Processor,
        false => PckAuthority::Platform,
    };
    Ok((Platform::of(&leaf)?.fmspc, authority))
}

fn check_leaf(leaf: &Certificate, now: UnixTime) -> Result<(), ChainFault> {
    certificate::check_common(leaf, now)?;
    if extension::<BasicConstraints>(leaf)?.is_some_and(|constraints| constraints.ca) {
        return Err(ChainFault::Authority);
    }
    match extension::<KeyUsage>(leaf)? {
        Some(usage) if usage.digital_signature() => Ok(()),
        _ => Err(ChainFault::KeyUsage {
            needed: "digitalSignature",
        }),
    }
}

/// The certificate of the key of Intel's documents: the root itself issued it, for that purpose.
fn signer(der: &[u8], root: &Certificate, now: UnixTime) -> Result<Certificate, TdxError> {
    let fault = |fault: ChainFault| TdxError::Signer(fault.at(Position::Leaf));
    if der.is_empty() {
        return Err(fault(ChainFault::Missing));
    }
    let signer = certificate::decode(der).map_err(fault)?;
    certificate::check_issued_by(&signer, root, SCHEME).map_err(fault)?;
    check_leaf(&signer, now).map_err(fault)?;
    let name = signer.tbs_certificate().subject().to_string();
    match name.split(',').any(|part| part == SIGNER) {
        true => Ok(signer),
        false => Err(TdxError::SignerName),
    }
}

/// Certificates whose signatures fit.
struct Chain<'a> {
    leaf: &'a Certificate,
    issuer: &'a Certificate,
    root: &'a TrustAnchor,
    signer: &'a Certificate,
}

impl Chain<'_> {
    /// Both authorities have a list; every list is sound, and revokes nothing of the chain.
    fn check_revocation(
        &self,
        lists: &[Vec<u8>],
        now: UnixTime,
        claims: &mut Vec<Claim>,
    ) -> Result<(), TdxError> {
        let mut found = [None, None];
        for der in lists {
            let encoding = |fault| TdxError::RevocationList {
                authority: Authority::Unknown,
                fault,
            };
            let list = crl::decode(der).map_err(encoding)?;
            let issuer = &list.tbs_cert_list.issuer;
            let (authority, certificate) = if issuer == self.root_subject() {
                (Authority::Root, self.root.certificate())
            } else if issuer == self.issuer.tbs_certificate().subject() {
                (Authority::Pck, self.issuer)
            } else {
                return Err(TdxError::StrayRevocationList);
            };
            let list = RevocationList::verify(list, certificate, SCHEME, 0, now)
                .map_err(|fault| TdxError::RevocationList { authority, fault })?;
            self.check_list(authority, &list)?;
            let place = usize::from(authority == Authority::Pck);
            found[place] = Some(format!("list {} until {}", list.number, list.until));
        }
        for (authority, found) in [Authority::Root, Authority::Pck].into_iter().zip(found) {
            let found = found.ok_or(TdxError::NoRevocationList { authority })?;
            let what = format!("revocation by the {authority}");
            claims.push(Claim::new(what, "required", found, self.root));
        }
        Ok(())
    }

    fn root_subject(&self) -> &x509_cert::name::Name {
        self.root.certificate().tbs_certificate().subject()
    }

    fn check_list(&self, authority: Authority, list: &RevocationList) -> Result<(), TdxError> {
        let (position, certificate) = match authority {
            Authority::Pck => (Position::Leaf, self.leaf),
            Authority::Root | Authority::Unknown => (Position::Intermediate(1), self.issuer),
        };
        if list.revokes(certificate) {
            return Err(TdxError::Revoked {
                position,
                authority,
            });
        }
        if authority == Authority::Root && list.revokes(self.signer) {
            return Err(TdxError::SignerRevoked);
        }
        Ok(())
    }
}

impl Platform {
    fn of(leaf: &Certificate) -> Result<Self, TdxError> {
        let missing = |field: &'static str| move || TdxError::CertificateField { field };
        let mut extensions = leaf.tbs_certificate().extensions().into_iter().flatten();
        let extension = extensions.find(|extension| extension.extn_id == SGX);
        let fields = extension.and_then(|extension| fields(extension.extn_value.as_bytes()));
        let all = fields.ok_or_else(missing("Intel's extension"))?;
        let tcb = sequence(find(&all, SGX, 2)).ok_or_else(missing("the TCB"))?;
        let mut cpu = [0; 16];
        for (number, part) in (1..).zip(&mut cpu) {
            let value = component(&tcb, number).and_then(|value| u8::try_from(value).ok());
            *part = value.ok_or_else(missing("a version of the processor"))?;
        }
        let configuration = match find(&all, SGX, 7) {
            None => Vec::new(),
            some => sequence(some).ok_or_else(missing("the platform's configuration"))?,
        };
        let flag = |number| find(&configuration, arc(SGX, 7)?, number)?.decode_as().ok();
        Ok(Self {
            cpu,
            pce: component(&tcb, 17).ok_or_else(missing("the version of the PCE"))?,
            pce_id: octets(find(&all, SGX, 3)).ok_or_else(missing("the id of the PCE"))?,
            fmspc: octets(find(&all, SGX, 4)).ok_or_else(missing("the model of the platform"))?,
            instance: match find(&all, SGX, 6) {
                None => [0; 16],
                some => octets(some).ok_or_else(missing("the platform's id"))?,
            },
            flags: [flag(1), flag(2), flag(3)],
        })
    }
}

type Fields<'a> = Vec<(ObjectIdentifier, AnyRef<'a>)>;

/// SEQUENCE OF SEQUENCE { OID, value }
fn fields(der: &[u8]) -> Option<Fields<'_>> {
    let mut reader = SliceReader::new(der).ok()?;
    let fields = reader
        .sequence(|all| {
            let mut fields = Vec::new();
            while !all.is_finished() {
                fields.push(all.sequence(|one| {
                    let (name, value) = (one.decode()?, one.decode()?);
                    Ok::<_, x509_cert::der::Error>((name, value))
                })?);
            }
            Ok::<_, x509_cert::der::Error>(fields)
        })
        .ok()?;
    reader.finish().ok()?;
    Some(fields)
}

fn arc(parent: ObjectIdentifier, number: u32) -> Option<ObjectIdentifier> {
    parent.push_arc(number).ok()
}

fn find<'a>(fields: &Fields<'a>, parent: ObjectIdentifier, number: u32) -> Option<AnyRef<'a>> {
    let name = arc(parent, number)?;
    let mut fields = fields.iter().filter(|(found, _)| *found == name);
    let (_, value) = fields.next()?;
    // What is said twice is not said.
    fields.next().is_none().then_some(*value)
}

fn component(tcb: &Fields<'_>, number: u32) -> Option<u16> {
    find(tcb, arc(SGX, 2)?, number)?.decode_as().ok()
}

/// The fields of a SEQUENCE inside a field.
fn sequence(value: Option<AnyRef<'_>>) -> Option<Fields<'_>> {
    let value = value.filter(|value| value.tag() == Tag::Sequence)?.value();
    let mut reader = SliceReader::new(value).ok()?;
    let mut fields = Vec::new();
    while !reader.is_finished() {
        let field = reader.sequence(|one| {
            let (name, value) = (one.decode()?, one.decode()?);
            Ok::<_, x509_cert::der::Error>((name, value))
        });
        fields.push(field.ok()?);
    }
    Some(fields)
}

fn octets<const N: usize>(value: Option<AnyRef<'_>>) -> Option<[u8; N]> {
    let value = value.filter(|value| value.tag() == Tag::OctetString)?;
    value.value().try_into().ok()
}
