//! A certificate authority that issues whatever a test asks for, however wrong.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p384::ecdsa::signature::Signer as _;
use p384::ecdsa::{DerSignature, SigningKey, VerifyingKey};

/// 2020-01-01 and 2049-01-01: as UTCTime.
pub const FROM: &str = "200101000000Z";
/// End of validity of all that is not about dates.
pub const UNTIL: &str = "490101000000Z";

/// basicConstraints of an authority, critical.
pub const AUTHORITY: (&[u8], bool, &[u8]) = (&[0x55, 0x1d, 0x13], true, &[0x30, 3, 1, 1, 0xff]);
/// keyUsage keyCertSign, critical.
pub const CERT_SIGN: (&[u8], bool, &[u8]) = (&[0x55, 0x1d, 0x0f], true, &[3, 2, 2, 4]);
/// keyUsage digitalSignature, critical.
pub const DIGITAL_SIGNATURE: (&[u8], bool, &[u8]) = (&[0x55, 0x1d, 0x0f], true, &[3, 2, 7, 0x80]);
/// extendedKeyUsage tcg-kp-AIKCertificate, 2.23.133.8.3.
pub const ATTESTATION: (&[u8], bool, &[u8]) = (
    &[0x55, 0x1d, 0x25],
    false,
    &[0x30, 7, 6, 5, 0x67, 0x81, 0x05, 0x08, 0x03],
);

const ECDSA_WITH_SHA384: &[u8] = &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
const EC_P384: &[u8] = &[
    0x30, 16, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 0x22,
];

/// OID, critical, and DER of an extension.
pub type Extension = (Vec<u8>, bool, Vec<u8>);

/// What a certificate shall say. Every field can be made wrong.
#[derive(Clone)]
pub struct Template {
    /// Version number as encoded: 2 is version 3.
    pub version: u8,
    /// Serial number.
    pub serial: Vec<u8>,
    /// AlgorithmIdentifier in the signed part and outside of it.
    pub algorithms: [Vec<u8>; 2],
    /// Common name of the issuer.
    pub issuer: String,
    /// Start and end of validity as UTCTime.
    pub validity: [String; 2],
    /// Common name of the subject.
    pub subject: String,
    /// AlgorithmIdentifier of the subject's key.
    pub key_algorithm: Vec<u8>,
    /// The subject's key: a point.
    pub key: Vec<u8>,
    /// Extensions.
    pub extensions: Vec<Extension>,
}

/// A name and a key that signs certificates.
#[derive(Clone)]
pub struct Authority {
    /// Common name.
    pub name: String,
    /// The key.
    pub key: SigningKey,
}

impl Template {
    /// A sound certificate for `key`.
    pub fn new(issuer: &str, subject: &str, key: &VerifyingKey, extensions: &[Known]) -> Self {
        let extensions = extensions
            .iter()
            .map(|(a, b, c)| (a.to_vec(), *b, c.to_vec()))
            .collect();
        Self {
            version: 2,
            serial: vec![7],
            algorithms: [ECDSA_WITH_SHA384.to_vec(), ECDSA_WITH_SHA384.to_vec()],
            issuer: issuer.to_owned(),
            validity: [FROM.to_owned(), UNTIL.to_owned()],
            subject: subject.to_owned(),
            key_algorithm: EC_P384.to_vec(),
            key: key.to_sec1_point(false).as_bytes().to_vec(),
            extensions,
        }
    }

    pub(crate) fn signed_part(&self) -> Vec<u8> {
        let extensions: Vec<u8> = self.extensions.iter().flat_map(extension).collect();
        der(
            0x30,
            &[
                &der(0xa0, &[&der(2, &[&[self.version]])]),
                &der(2, &[&self.serial]),
                &self.algorithms[0],
                &name(&self.issuer),
                &der(0x30, &[&time(&self.validity[0]), &time(&self.validity[1])]),
                &name(&self.subject),
                &der(0x30, &[&self.key_algorithm, &der(3, &[&[0], &self.key])]),
                &der(0xa3, &[&der(0x30, &[&extensions])]),
            ],
        )
    }
}

/// An extension that stands in this file.
pub type Known = (&'static [u8], bool, &'static [u8]);

impl Authority {
    /// An authority whose key follows from `seed`.
    pub fn new(name: &str, seed: u8) -> Self {
        let key = SigningKey::from_slice(&[seed; 48]).expect("a scalar of P-384");
        Self {
            name: name.to_owned(),
            key,
        }
    }

    /// What its own certificate says.
    pub fn template(&self) -> Template {
        let key = self.key.verifying_key();
        Template::new(&self.name, &self.name, key, &[AUTHORITY, CERT_SIGN])
    }

    /// Its own certificate, as policies hold it.
    pub fn pem(&self) -> String {
        pem(&self.issue(&self.template()))
    }

    /// What the certificate of an attestation key says.
    pub fn attestation_key(&self, key: &VerifyingKey) -> Template {
        Template::new(
            &self.name,
            "attestation key",
            key,
            &[DIGITAL_SIGNATURE, ATTESTATION],
        )
    }

    /// Signs a certificate.
    pub fn issue(&self, template: &Template) -> Vec<u8> {
        let part = template.signed_part();
        let signature: DerSignature = self.key.sign(&part);
        der(
            0x30,
            &[
                &part,
                &template.algorithms[1],
                &der(3, &[&[0], signature.as_bytes()]),
            ],
        )
    }
}

/// PEM form of a certificate.
pub fn pem(certificate: &[u8]) -> String {
    let text = STANDARD.encode(certificate);
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(64)
        .map(String::from_utf8_lossy)
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

/// Tag, length and content.
pub fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let head = match content.len() {
        short @ 0..=0x7f => vec![tag, short as u8],
        medium @ 0x80..=0xff => vec![tag, 0x81, medium as u8],
        long => vec![tag, 0x82, (long >> 8) as u8, long as u8],
    };
    [head, content].concat()
}

/// A name of one common name.
pub fn name(common_name: &str) -> Vec<u8> {
    let attribute = der(
        0x30,
        &[&[6, 3, 0x55, 4, 3], &der(0x0c, &[common_name.as_bytes()])],
    );
    der(0x30, &[&der(0x31, &[&attribute])])
}

pub(crate) fn time(utc: &str) -> Vec<u8> {
    der(0x17, &[utc.as_bytes()])
}

pub(crate) fn extension((oid, critical, value): &Extension) -> Vec<u8> {
    let critical: &[u8] = if *critical { &[1, 1, 0xff] } else { &[] };
    der(0x30, &[&der(6, &[oid]), critical, &der(4, &[value])])
}
