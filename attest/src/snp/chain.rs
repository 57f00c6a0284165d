//! From AMD's root to the key that signed a report, and what AMD says of that key.
//!
//! ```text
//! 1.3.6.1.4.1.3704.1.2    product name, such as "Genoa" or "Milan-B0"
//!                  .1.3.n  TCB part by part: 1 boot loader, 2 TEE, 3 SNP, 8 microcode, 9 FMC;
//!                          4 to 7 are unused
//!                  .1.4    the chip (VCEK): 64 bytes, 8 from Turin on
//!                  .1.5    the cloud (VLEK)
//! ```

use p384::ecdsa::VerifyingKey;
use x509_cert::der::Decode as _;
use x509_cert::der::asn1::{Ia5StringRef, ObjectIdentifier};
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};

use super::{Product, Report, SigningKey, SnpError, SnpEvidence, TcbVersion};
use crate::certificate::{self, Certificate, ChainFault, Position, Scheme, extension};
use crate::crl::{self, RevocationList};
use crate::policy::{Demand, ProductPolicy, SnpPolicy};
use crate::{Claim, Digest, Text, UnixTime};

const SCHEME: Scheme = Scheme::RsaPssSha384;

const PRODUCT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.2");
const TCB: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3");
const CHIP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");
const CLOUD: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.5");
/// Parts of the TCB that are not used, and must be zero.
const SPARE: [u32; 4] = [4, 5, 6, 7];

/// A key that AMD certified, and what it says of it.
pub(super) struct CertifiedKey<'a> {
    /// The key.
    pub(super) key: VerifyingKey,
    /// What the policy says of its product.
    pub(super) product: &'a ProductPolicy,
    /// TCB that the key was derived from.
    pub(super) tcb: TcbVersion,
    /// What the key stands for.
    pub(super) owner: Owner,
}

/// What a key stands for.
pub(super) enum Owner {
    /// A chip, by its id.
    Chip(Vec<u8>),
    /// A cloud, by its name.
    Cloud(Text),
}

impl Owner {
    pub(super) const fn kind(&self) -> SigningKey {
        match self {
            Self::Chip(_) => SigningKey::Vcek,
            Self::Cloud(_) => SigningKey::Vlek,
        }
    }
}

/// Verifies the certificates up to a root of the policy, at the time `now`.
pub(super) fn verify<'a>(
    evidence: &SnpEvidence,
    policy: &'a SnpPolicy,
    now: UnixTime,
    claims: &mut Vec<Claim>,
) -> Result<CertifiedKey<'a>, SnpError> {
    let [leaf, intermediate] = evidence.certificates.as_slice() else {
        let found = evidence.certificates.len();
        return Err(SnpError::Certificates { found });
    };
    let (at_leaf, above) = (Position::Leaf, Position::Intermediate(1));
    let leaf = certificate::decode(leaf).map_err(|fault| fault.at(at_leaf))?;
    let issuer = certificate::decode(intermediate).map_err(|fault| fault.at(above))?;
    let product = certificate::find_root(&issuer, &policy.products, SCHEME)
        .map_err(|fault| fault.at(above))?;
    let root = product.root.certificate();
    certificate::check_authority(root, 1, now).map_err(|fault| fault.at(Position::Root))?;
    certificate::check_authority(&issuer, 0, now).map_err(|fault| fault.at(above))?;
    certificate::check_issued_by(&leaf, &issuer, SCHEME).map_err(|fault| fault.at(at_leaf))?;
    check_leaf(&leaf, now).map_err(|fault| fault.at(at_leaf))?;
    check_revocation(
        evidence,
        product,
        &issuer,
        policy.revocation_lists,
        now,
        claims,
    )?;
    let key = certificate::ec_key_of(&leaf).map_err(|fault| fault.at(at_leaf))?;
    let found = product_of(&leaf)?;
    if found != Some(product.name) {
        let expected = product.name;
        return Err(SnpError::CertificateProduct { expected, found });
    }
    Ok(CertifiedKey {
        key,
        product,
        tcb: tcb_of(&leaf, product.name)?,
        owner: owner_of(&leaf)?,
    })
}

fn check_leaf(leaf: &Certificate, now: UnixTime) -> Result<(), ChainFault> {
    certificate::check_common(leaf, now)?;
    if extension::<BasicConstraints>(leaf)?.is_some_and(|constraints| constraints.ca) {
        return Err(ChainFault::Authority);
    }
    match extension::<KeyUsage>(leaf)? {
        Some(usage) if !usage.digital_signature() => Err(ChainFault::KeyUsage {
            needed: "digitalSignature",
        }),
        _ => Ok(()),
    }
}

/// Every list that bears the root's name must be sound, and revoke nothing of the chain.
fn check_revocation(
    evidence: &SnpEvidence,
    product: &ProductPolicy,
    issuer: &Certificate,
    demand: Demand,
    now: UnixTime,
    claims: &mut Vec<Claim>,
) -> Result<(), SnpError> {
    let root = product.root.certificate();
    let mut lists = Vec::new();
    for der in &evidence.revocation_lists {
        let list = crl::decode(der)?;
        if &list.tbs_cert_list.issuer == root.tbs_certificate().subject() {
            let minimum = product.minimum_revocation_list;
            let list = RevocationList::verify(list, root, SCHEME, minimum, now)?;
            if list.revokes(issuer) {
                let (position, list) = (Position::Intermediate(1), list.number);
                return Err(SnpError::Revoked { position, list });
            }
            lists.push(format!("list {} until {}", list.number, list.until));
        }
    }
    let (expected, found) = match (demand, lists.is_empty()) {
        (Demand::Required, true) => {
            let product = product.name;
            return Err(SnpError::NoRevocationList { product });
        }
        (Demand::Required, false) => ("required", lists.join(", ")),
        (Demand::NotRequired, true) => ("not required (relaxed by the policy)", "none".to_owned()),
        (Demand::NotRequired, false) => ("not required (relaxed by the policy)", lists.join(", ")),
    };
    claims.push(Claim::new("revocation", expected, found, &product.root));
    Ok(())
}

fn product_of(leaf: &Certificate) -> Result<Option<Product>, SnpError> {
    let field = "the product name";
    let name = amd_extension(leaf, PRODUCT_NAME).ok_or(SnpError::CertificateField { field })?;
    let name = Ia5StringRef::from_der(name).map_err(|_| SnpError::CertificateField { field })?;
    Ok(Product::of_name(name.as_str()))
}

fn tcb_of(leaf: &Certificate, product: Product) -> Result<TcbVersion, SnpError> {
    let part = |number: u32, field: &'static str| {
        let oid = TCB.push_arc(number).ok();
        let value = oid.and_then(|oid| amd_extension(leaf, oid));
        value
            .and_then(|der| u8::from_der(der).ok())
            .ok_or(SnpError::CertificateField { field })
    };
    for number in SPARE {
        match part(number, "an unused part of the TCB") {
            Ok(0) => {}
            Err(_)
                if TCB
                    .push_arc(number)
                    .is_ok_and(|oid| amd_extension(leaf, oid).is_none()) => {}
            Ok(_) | Err(_) => {
                let field = "an unused part of the TCB";
                return Err(SnpError::CertificateField { field });
            }
        }
    }
    Ok(TcbVersion {
        fmc: match product {
            Product::Milan | Product::Genoa => 0,
            Product::Turin => part(9, "the version of the FMC")?,
        },
        boot_loader: part(1, "the version of the boot loader")?,
        tee: part(2, "the version of the TEE")?,
        snp: part(3, "the version of SNP")?,
        microcode: part(8, "the version of the microcode")?,
    })
}

fn owner_of(leaf: &Certificate) -> Result<Owner, SnpError> {
    let (chip, cloud) = (amd_extension(leaf, CHIP), amd_extension(leaf, CLOUD));
    match (chip, cloud) {
        (Some(chip), None) => chip_of(chip).map(Owner::Chip),
        (None, Some(cloud)) => {
            let cloud = Ia5StringRef::from_der(cloud).ok();
            let name = cloud.and_then(|name| name.as_str().parse().ok());
            name.map(Owner::Cloud)
        }
        _ => None,
    }
    .ok_or(SnpError::CertificateField {
        field: "either a chip or a cloud",
    })
}

/// How close a certificate's key comes to the one that signed a report, by what both say: of the
/// same kind, for the same product, of the same TCB. Nothing, if it is none that signs reports, or
/// of another chip.
pub(crate) fn closeness(report: &[u8], certificate: &Certificate) -> Option<[bool; 3]> {
    let owner = [CHIP, CLOUD]
        .into_iter()
        .any(|oid| amd_extension(certificate, oid).is_some())
        .then(|| owner_of(certificate).ok())?;
    let Ok(report) = Report::parse(report) else {
        return Some([false; 3]);
    };
    let masked = report.chip_id.0 == [0; 64];
    if let Some(Owner::Chip(chip)) = &owner
        && !masked
        && !is_chip(chip, &report.chip_id)
    {
        return None;
    }
    let product = product_of(certificate).ok().flatten();
    let named = report
        .cpuid
        .map(|[family, model]| Product::of_cpuid(family, model));
    let tcb = product.is_some_and(|product| {
        let certified = tcb_of(certificate, product).ok();
        certified.is_some() && certified == TcbVersion::read(product, report.reported_tcb)
    });
    Some([
        owner.is_some_and(|owner| owner.kind() == report.signing_key),
        named.is_none_or(|named| named == product),
        tcb,
    ])
}

/// Whether a report's chip is this one; what a certificate does not name has to be zero.
pub(super) fn is_chip(chip: &[u8], found: &Digest<64>) -> bool {
    let rest = found.0.strip_prefix(chip);
    rest.is_some_and(|rest| rest.iter().all(|byte| *byte == 0))
}

/// The chip's id stands there bare, where DER should stand; a later firmware may mend that.
fn chip_of(value: &[u8]) -> Option<Vec<u8>> {
    match value {
        [4, 8, chip @ ..] if chip.len() == 8 => Some(chip.to_vec()),
        [4, 64, chip @ ..] if chip.len() == 64 => Some(chip.to_vec()),
        chip => matches!(chip.len(), 8 | 64).then(|| chip.to_vec()),
    }
}

fn amd_extension(leaf: &Certificate, oid: ObjectIdentifier) -> Option<&[u8]> {
    let mut extensions = leaf.tbs_certificate().extensions().into_iter().flatten();
    let extension = extensions.find(|extension| extension.extn_id == oid)?;
    Some(extension.extn_value.as_bytes())
}
