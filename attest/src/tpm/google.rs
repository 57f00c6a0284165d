//! Certificates of the attestation keys of Google Cloud's virtual TPMs.
//!
//! ```text
//! EK/AK CA Root (policy) ──▶ EK/AK CA Intermediate ──▶ attestation key of one instance
//!                                                      digitalSignature, 1.3.6.1.4.1.11129.2.1.21
//! ```
//!
//! All are RSASSA-PKCS1-v1_5 with SHA-256. The extension names zone, project and instance: it tells
//! an attestation key of an instance from an endorsement key below the same authority.

use x509_cert::der::asn1::{ContextSpecific, Int, ObjectIdentifier, Utf8StringRef};
use x509_cert::der::{Reader as _, SliceReader, TagNumber};
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};

use super::vtpm::VtpmKey;
use crate::UnixTime;
use crate::certificate::{
    self, Certificate, ChainError, ChainFault, Position, Scheme, TrustAnchor, TrustAnchorError,
    extension,
};

const SCHEME: Scheme = Scheme::RsaPkcs1Sha256;
const INSTANCE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.11129.2.1.21");

/// A key that Google certified, and for which instance.
#[derive(Clone)]
pub struct InstanceKey<'a> {
    /// The key.
    pub key: VtpmKey,
    /// The root.
    pub root: &'a TrustAnchor,
    /// Where and what the instance is.
    pub instance: Instance,
}

/// What Google says of an instance. Names may hold anything: escape them before they are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Zone.
    pub zone: String,
    /// Project by number.
    pub project_number: u64,
    /// Project by name.
    pub project: String,
    /// Instance by number.
    pub instance_number: u64,
    /// Instance by name.
    pub name: String,
}

/// Google's root, which a policy names by `"google"`.
pub fn root() -> Result<TrustAnchor, TrustAnchorError> {
    TrustAnchor::from_der(include_bytes!("roots/google-ek-ak.der"))
}

/// Verifies `certificates`, leaf first and without the root, up to one of `roots`, at the time
/// `now`.
pub fn verify<'a>(
    certificates: &[Vec<u8>],
    roots: &'a [TrustAnchor],
    now: UnixTime,
) -> Result<InstanceKey<'a>, ChainError> {
    let mut chain = Vec::with_capacity(certificates.len());
    for (index, der) in certificates.iter().enumerate() {
        let position = Position::of(index);
        chain.push(certificate::decode(der).map_err(|fault| fault.at(position))?);
    }
    let at_leaf = |fault: ChainFault| fault.at(Position::Leaf);
    let leaf = chain.first().ok_or(at_leaf(ChainFault::Missing))?;
    let instance = check_leaf(leaf, now).map_err(at_leaf)?;
    for (index, pair) in chain.windows(2).enumerate() {
        let [subject, issuer] = pair else { continue };
        certificate::check_authority(issuer, index, now)
            .map_err(|fault| fault.at(Position::of(index + 1)))?;
        certificate::check_issued_by(subject, issuer, SCHEME)
            .map_err(|fault| fault.at(Position::of(index)))?;
    }
    let last = chain.last().unwrap_or(leaf);
    let root = certificate::find_root(last, roots, SCHEME)
        .map_err(|fault| fault.at(Position::of(chain.len() - 1)))?;
    certificate::check_authority(root.certificate(), chain.len() - 1, now)
        .map_err(|fault| fault.at(Position::Root))?;
    let key = certificate::any_rsa_key_of(leaf).map_err(at_leaf)?;
    Ok(InstanceKey {
        key: VtpmKey(key),
        root,
        instance,
    })
}

fn check_leaf(leaf: &Certificate, now: UnixTime) -> Result<Instance, ChainFault> {
    certificate::check_common(leaf, now)?;
    if extension::<BasicConstraints>(leaf)?.is_some_and(|constraints| constraints.ca) {
        return Err(ChainFault::Authority);
    }
    if !extension::<KeyUsage>(leaf)?.is_some_and(|usage| usage.digital_signature()) {
        return Err(ChainFault::KeyUsage {
            needed: "digitalSignature",
        });
    }
    let mut extensions = leaf.tbs_certificate().extensions().into_iter().flatten();
    let found = extensions.find(|extension| extension.extn_id == INSTANCE);
    let instance = found.and_then(|extension| Instance::read(extension.extn_value.as_bytes()));
    instance.ok_or(ChainFault::Extension { found: INSTANCE })
}

impl Instance {
    /// SEQUENCE { zone, project number, project, instance number, name, properties (tag 0) }
    fn read(der: &[u8]) -> Option<Self> {
        let mut reader = SliceReader::new(der).ok()?;
        let number = |bytes: &Int| {
            let bytes = bytes.as_bytes();
            let bytes = bytes.strip_prefix(&[0]).unwrap_or(bytes);
            (bytes.len() <= 8).then(|| bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
        };
        let (zone, project_number, project, instance_number, name) = reader
            .sequence(|inner| {
                let zone: Utf8StringRef<'_> = inner.decode()?;
                let project_number: Int = inner.decode()?;
                let project: Utf8StringRef<'_> = inner.decode()?;
                let instance_number: Int = inner.decode()?;
                let name: Utf8StringRef<'_> = inner.decode()?;
                let _properties: Option<ContextSpecific<x509_cert::der::Any>> =
                    ContextSpecific::decode_explicit(inner, TagNumber(0))?;
                Ok::<_, x509_cert::der::Error>((
                    zone,
                    project_number,
                    project,
                    instance_number,
                    name,
                ))
            })
            .ok()?;
        reader.finish().ok()?;
        Some(Self {
            zone: zone.as_str().to_owned(),
            project_number: number(&project_number)?,
            project: project.as_str().to_owned(),
            instance_number: number(&instance_number)?,
            name: name.as_str().to_owned(),
        })
    }
}
