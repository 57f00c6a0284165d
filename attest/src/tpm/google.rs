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

use super::vtpm::VtpmKey;
use crate::UnixTime;
use crate::certificate::{
    self, Certificate, ChainError, ChainFault, Position, Scheme, TrustAnchor, TrustAnchorError,
    walk,
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

/// A number that a policy can pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoogleField {
    /// The project.
    Project,
    /// The instance.
    Instance,
}

impl std::fmt::Display for GoogleField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Project => "project number",
            Self::Instance => "instance number",
        })
    }
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
    let walked = walk(certificates, roots, SCHEME, now, |leaf| {
        Ok((instance(leaf)?, certificate::any_rsa_key_of(leaf)))
    })?;
    let (instance, key) = walked.leaf;
    let key = key.map_err(|fault| fault.at(Position::Leaf))?;
    Ok(InstanceKey {
        key: VtpmKey(key),
        root: walked.root,
        instance,
    })
}

fn instance(leaf: &Certificate) -> Result<Instance, ChainFault> {
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
