//! NVIDIA's reference integrity manifests (RIM): which measurements a driver or a device's firmware
//! has. A tag of ISO/IEC 19770-2 with TCG's RIM attributes, signed by XML-DSig.
//!
//! ```text
//! SoftwareIdentity
//! ├─ Entity
//! ├─ Meta       colloquialVersion, product, edition
//! ├─ Payload    Resource … index, active, alternatives, Hash0, Hash1, …
//! └─ Signature
//!    ├─ SignedInfo       one reference to the document without the signature
//!    ├─ SignatureValue   r 48 ‖ s 48
//!    └─ KeyInfo          X509Data: certificates, signer first
//! ```
//!
//! Algorithms are the ones of those files and no others: Canonical XML 1.1, the enveloped
//! signature, SHA-384, ECDSA. What is read is what was signed: one tree gives both the canonical
//! form and the values.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p384::ecdsa::Signature;
use p384::ecdsa::signature::Verifier as _;

use super::chain::Chain;
use super::xml::{self, Element, XmlError};
use crate::certificate::{ChainError, Position, TrustAnchor};
use crate::crl::RevocationFault;
use crate::ocsp::StatusFault;
use crate::{Digest, UnixTime};

/// Longest manifest.
pub const MAX_MANIFEST_BYTES: usize = 64 << 10;
/// Most values that one measurement may have.
const MAX_ALTERNATIVES: usize = 32;

const SWID: &str = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd";
const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const HASH: &str = "http://www.w3.org/2001/04/xmlenc#sha384";
const C14N: &str = "http://www.w3.org/2006/12/xml-c14n11";
const ECDSA_SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384";
const SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#sha384";
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";

/// Why a manifest is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Longer than [`MAX_MANIFEST_BYTES`].
    #[error("{found} bytes, {MAX_MANIFEST_BYTES} allowed")]
    TooLarge {
        /// Length found.
        found: usize,
    },
    /// Not of the subset of XML that manifests are written in.
    #[error("XML: {0}")]
    Xml(#[from] XmlError),
    /// An element is missing, has another form, or is one too many.
    #[error("{element} is missing, or not as it must be")]
    Structure {
        /// The element.
        element: &'static str,
    },
    /// Another algorithm, or another order of them.
    #[error("{element}: an algorithm that is not accepted")]
    Algorithm {
        /// The element that names it.
        element: &'static str,
    },
    /// The signer is not certified by a root of the policy.
    #[error("signer: {0}")]
    Chain(#[from] ChainError),
    /// The signer, or an authority above it, is revoked.
    #[error("signer: {position}: revoked")]
    Revoked {
        /// The certificate.
        position: Position,
    },
    /// There is no revocation list for a certificate, and the policy demands it.
    #[error("signer: {position}: no revocation list by its issuer, which the policy demands")]
    NoRevocationList {
        /// The certificate.
        position: Position,
    },
    /// A revocation list is not sound.
    #[error("signer: {position}: revocation list: {fault}")]
    RevocationList {
        /// The certificate that it is for.
        position: Position,
        /// What is wrong with the list.
        fault: RevocationFault,
    },
    /// There is no status response for a certificate, and the policy demands it.
    #[error("signer: {position}: no status response (OCSP), which the policy demands")]
    NoStatus {
        /// The certificate.
        position: Position,
    },
    /// By its status, or what vouches for that, a certificate is not good.
    #[error("signer: {position}: status: {fault}")]
    Status {
        /// The certificate.
        position: Position,
        /// What is wrong.
        fault: StatusFault,
    },
    /// Not signed by the certified signer.
    #[error("not signed by its signer's key")]
    Signature,
    /// The document is not the one that was signed.
    #[error("the document has another digest than was signed")]
    Digest,
    /// Not the manifest of a whole product.
    #[error("a patch or a supplement, where a whole manifest was expected")]
    Partial,
    /// A measurement cannot be read.
    #[error("measurement {number} of the list cannot be read")]
    Measurement {
        /// Its place in the list, from 0.
        number: usize,
    },
    /// A measurement is stated twice.
    #[error("measurement {index} is stated twice")]
    Twice {
        /// Its index.
        index: u8,
    },
}

/// A manifest that was signed below a root of the policy.
pub(super) struct Manifest<'a> {
    /// Version of what it is about.
    pub(super) version: String,
    /// The chip.
    pub(super) product: String,
    /// Values that each measurement may have, of those that count; indices from 0.
    pub(super) measurements: BTreeMap<u8, Vec<Digest<48>>>,
    /// The chain of its signer.
    pub(super) chain: Chain<'a>,
}

impl<'a> Manifest<'a> {
    /// Reads a manifest and verifies that a signer below one of `roots` signed it.
    pub(super) fn verify(
        bytes: &[u8],
        roots: &'a [TrustAnchor],
        now: UnixTime,
    ) -> Result<Self, ManifestError> {
        let found = bytes.len();
        if found > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge { found });
        }
        let outside = |at| ManifestError::Xml(XmlError::Character { at });
        let text = std::str::from_utf8(bytes).map_err(|error| outside(error.valid_up_to()))?;
        let root = xml::parse(text)?;
        let [_entity, meta, payload, signature] = parts(
            &root,
            [
                (SWID, "Entity"),
                (SWID, "Meta"),
                (SWID, "Payload"),
                (DSIG, "Signature"),
            ],
            "SoftwareIdentity",
        )?;
        if !root.is(SWID, "SoftwareIdentity") || root.count(DSIG, "Signature") != 1 {
            return Err(structure("SoftwareIdentity"));
        }
        let chain = check_signature(&root, signature, roots, now)?;
        let is_whole = ["patch", "supplemental", "corpus"].iter().all(|kind| {
            root.attribute("", kind)
                .is_none_or(|value| value == "false")
        });
        if !is_whole {
            return Err(ManifestError::Partial);
        }
        let of_meta = |name| meta.attribute("", name).ok_or(structure("Meta"));
        Ok(Self {
            version: of_meta("colloquialVersion")?.to_owned(),
            product: of_meta("product")?.to_owned(),
            measurements: measurements(payload)?,
            chain,
        })
    }
}

fn structure(element: &'static str) -> ManifestError {
    ManifestError::Structure { element }
}

/// The children of `element`, which are exactly these.
fn parts<'e, 'a, const N: usize>(
    element: &'e Element<'a>,
    names: [(&str, &str); N],
    own: &'static str,
) -> Result<[&'e Element<'a>; N], ManifestError> {
    let found = element.elements().ok_or(structure(own))?;
    let found: [_; N] = found.try_into().map_err(|_| structure(own))?;
    let fits = |(one, (namespace, name)): (&&Element<'_>, (&str, &str))| one.is(namespace, name);
    match found.iter().zip(names).all(fits) {
        true => Ok(found),
        false => Err(structure(own)),
    }
}

/// An empty element that names an algorithm, and nothing else.
fn algorithm(
    element: &Element<'_>,
    expected: &str,
    own: &'static str,
) -> Result<(), ManifestError> {
    let empty = element.elements().is_some_and(|inner| inner.is_empty());
    let alone = element.attributes().len() == 1;
    match element.attribute("", "Algorithm") {
        Some(found) if found == expected && alone && empty => Ok(()),
        _ => Err(ManifestError::Algorithm { element: own }),
    }
}

/// Base64 with white space in it.
fn base64(element: &Element<'_>, own: &'static str) -> Result<Vec<u8>, ManifestError> {
    let text = element.text().ok_or(structure(own))?;
    let digits: String = text.split_ascii_whitespace().collect();
    STANDARD.decode(digits).map_err(|_| structure(own))
}

fn check_signature<'r>(
    root: &Element<'_>,
    signature: &Element<'_>,
    roots: &'r [TrustAnchor],
    now: UnixTime,
) -> Result<Chain<'r>, ManifestError> {
    let names = [
        (DSIG, "SignedInfo"),
        (DSIG, "SignatureValue"),
        (DSIG, "KeyInfo"),
    ];
    let [info, value, key] = parts(signature, names, "Signature")?;
    let stated = check_signed_info(info)?;
    let [data] = parts(key, [(DSIG, "X509Data")], "KeyInfo")?;
    let mut certificates = Vec::new();
    for one in data.elements().ok_or(structure("X509Data"))? {
        if !one.is(DSIG, "X509Certificate") || certificates.len() == super::MAX_CERTIFICATES {
            return Err(structure("X509Data"));
        }
        certificates.push(base64(one, "X509Certificate")?);
    }
    let chain = Chain::verify(&certificates, roots, now)?;
    let value = base64(value, "SignatureValue")?;
    let value = Signature::from_slice(&value).map_err(|_| ManifestError::Signature)?;
    let signed = info.canonical_below(&[root, signature]);
    chain
        .key
        .verify(signed.as_bytes(), &value)
        .map_err(|_| ManifestError::Signature)?;
    let found = Digest::sha384(root.canonical(signature).as_bytes());
    match stated == found.0 {
        true => Ok(chain),
        false => Err(ManifestError::Digest),
    }
}

/// The digest of the document that the signature covers.
fn check_signed_info(info: &Element<'_>) -> Result<Vec<u8>, ManifestError> {
    let names = [
        (DSIG, "CanonicalizationMethod"),
        (DSIG, "SignatureMethod"),
        (DSIG, "Reference"),
    ];
    let [canonicalization, method, reference] = parts(info, names, "SignedInfo")?;
    algorithm(canonicalization, C14N, "CanonicalizationMethod")?;
    algorithm(method, ECDSA_SHA384, "SignatureMethod")?;
    let of_document = reference.attribute("", "URI") == Some("");
    if !of_document || reference.attributes().len() != 1 {
        return Err(structure("Reference"));
    }
    let names = [
        (DSIG, "Transforms"),
        (DSIG, "DigestMethod"),
        (DSIG, "DigestValue"),
    ];
    let [transforms, method, value] = parts(reference, names, "Reference")?;
    let names = [(DSIG, "Transform"); 2];
    let [first, second] = parts(transforms, names, "Transforms")?;
    algorithm(first, ENVELOPED, "Transform")?;
    algorithm(second, C14N, "Transform")?;
    algorithm(method, SHA384, "DigestMethod")?;
    base64(value, "DigestValue")
}

fn measurements(payload: &Element<'_>) -> Result<BTreeMap<u8, Vec<Digest<48>>>, ManifestError> {
    let mut measurements = BTreeMap::new();
    let mut seen = [false; 256];
    let resources = payload.elements().ok_or(structure("Payload"))?;
    for (number, resource) in resources.into_iter().enumerate() {
        let unreadable = ManifestError::Measurement { number };
        let (index, active, values) = measurement(resource).ok_or(unreadable)?;
        if std::mem::replace(&mut seen[usize::from(index)], true) {
            return Err(ManifestError::Twice { index });
        }
        if active {
            measurements.insert(index, values);
        }
    }
    Ok(measurements)
}

/// Index, whether it counts, and the values that it may have.
fn measurement(resource: &Element<'_>) -> Option<(u8, bool, Vec<Digest<48>>)> {
    let plain = |name| resource.attribute("", name);
    let is_measurement = resource.is(SWID, "Resource")
        && plain("type") == Some("Measurement")
        && plain("size") == Some("48")
        && resource.elements()?.is_empty();
    let index = plain("index")?.parse().ok()?;
    let active = match plain("active")? {
        "True" => true,
        "False" => false,
        _ => return None,
    };
    let alternatives: usize = plain("alternatives")?.parse().ok()?;
    if !is_measurement || !(1..=MAX_ALTERNATIVES).contains(&alternatives) {
        return None;
    }
    let value = |number| {
        let value = resource.attribute(HASH, &format!("Hash{number}"))?;
        value.to_ascii_lowercase().parse().ok()
    };
    let values = (0..alternatives).map(value).collect::<Option<_>>()?;
    // No value more than is said, and nothing that is not understood.
    let known = ["type", "index", "active", "alternatives", "name", "size"];
    let mut attributes = resource.attributes().iter();
    let understood = attributes.all(|one| {
        one.namespace == HASH || (one.namespace.is_empty() && known.contains(&one.local))
    });
    let hashes = resource.attributes().iter();
    let hashes = hashes.filter(|one| one.namespace == HASH).count();
    (understood && hashes == alternatives).then_some((index, active, values))
}
