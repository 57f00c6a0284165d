//! Status responses (OCSP, RFC 6960). Every field can be made wrong.

use p384::ecdsa::signature::Signer as _;
use p384::ecdsa::{DerSignature, SigningKey};
use sha2::{Digest as _, Sha384};

use crate::authority::{self, DIGITAL_SIGNATURE, Extension, Known, Template, der, name};
use crate::nvidia::{Rack, issue};

/// extendedKeyUsage id-kp-OCSPSigning.
pub const OCSP_SIGNING: Known = (
    &[0x55, 0x1d, 0x25],
    false,
    &[0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 9],
);
/// SHA-384 without parameters.
pub const SHA384: &[u8] = &[0x30, 11, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];
/// `good`.
pub const GOOD: &[u8] = &[0x80, 0];
/// `unknown`.
pub const UNKNOWN: &[u8] = &[0x82, 0];
/// id-pkix-ocsp-basic.
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 48, 1, 1];
/// id-pkix-ocsp-nonce.
const NONCE: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 48, 1, 2];

/// A certificate's issuer, by name and key, and its serial number.
#[derive(Clone)]
pub struct Subject {
    /// Common name of the issuer.
    pub issuer: String,
    /// The issuer's key.
    pub key: SigningKey,
    /// Serial number.
    pub serial: Vec<u8>,
}

/// What a responder says.
#[derive(Clone)]
pub struct Answer {
    /// OCSPResponseStatus.
    pub status: u8,
    /// Kind of the response.
    pub kind: Vec<u8>,
    /// ResponderID.
    pub responder: Vec<u8>,
    /// Times: of the response, from, until.
    pub times: [String; 3],
    /// AlgorithmIdentifier of the hash that names the certificate.
    pub hash: Vec<u8>,
    /// Hashes of the issuer's name and key.
    pub hashes: [Vec<u8>; 2],
    /// Serial number.
    pub serial: Vec<u8>,
    /// CertStatus.
    pub certificate: Vec<u8>,
    /// Extensions of the response, and of what it says of the certificate.
    pub extensions: [Vec<Extension>; 2],
    /// How often it says that.
    pub times_said: usize,
    /// AlgorithmIdentifier of the signature.
    pub algorithm: Vec<u8>,
    /// Certificates that come with it.
    pub certificates: Vec<Vec<u8>>,
    /// The responder's certificate, before it is signed.
    pub delegate: Template,
    /// The key that signs.
    pub key: SigningKey,
}

/// GeneralizedTime.
pub fn time(text: &str) -> Vec<u8> {
    der(0x18, &[text.as_bytes()])
}

/// `revoked`, perhaps with a reason.
pub fn revoked(at: &str, reason: Option<u8>) -> Vec<u8> {
    let reason = reason.map(|reason| der(0xa0, &[&[0x0a, 1, reason]]));
    der(0xa1, &[&time(at), &reason.unwrap_or_default()])
}

/// The extension that repeats a request's nonce.
pub fn nonce(value: &[u8]) -> Extension {
    (NONCE.to_vec(), false, der(4, &[value]))
}

fn extensions(tag: u8, all: &[Extension]) -> Vec<u8> {
    let list: Vec<u8> = all.iter().flat_map(authority::extension).collect();
    match all.is_empty() {
        true => Vec::new(),
        false => der(tag, &[&der(0x30, &[&list])]),
    }
}

impl Answer {
    /// That the certificate is good, by a responder that its issuer certified.
    pub fn good(subject: &Subject) -> Self {
        let key = SigningKey::from_slice(&[0x71; 48]).expect("a scalar of P-384");
        let usage = [DIGITAL_SIGNATURE, OCSP_SIGNING];
        let public = key.verifying_key();
        let mut delegate = Template::new(&subject.issuer, "responder", public, &usage);
        delegate.serial = vec![0x0c];
        let issuer = subject.key.verifying_key().to_sec1_point(false);
        Self {
            status: 0,
            kind: BASIC.to_vec(),
            responder: der(0xa1, &[&name("responder")]),
            times: ["20261120000000Z", "20261120000000Z", "20261127000000Z"].map(str::to_owned),
            hash: SHA384.to_vec(),
            hashes: [
                Sha384::digest(name(&subject.issuer)).to_vec(),
                Sha384::digest(issuer.as_bytes()).to_vec(),
            ],
            serial: subject.serial.clone(),
            certificate: GOOD.to_vec(),
            extensions: [Vec::new(), Vec::new()],
            times_said: 1,
            algorithm: delegate.algorithms[0].clone(),
            certificates: vec![issue(&subject.key, &delegate)],
            delegate,
            key,
        }
    }

    /// By the issuer's own key, with no certificate.
    pub fn by_issuer(subject: &Subject) -> Self {
        let mut answer = Self::good(subject);
        answer.certificates.clear();
        answer.responder = der(0xa1, &[&name(&subject.issuer)]);
        answer.key = subject.key.clone();
        answer
    }

    /// Signs the responder's certificate anew after a change.
    pub fn certify(&mut self, subject: &Subject, change: impl FnOnce(&mut Template)) -> &mut Self {
        change(&mut self.delegate);
        self.certificates = vec![issue(&subject.key, &self.delegate)];
        self
    }

    /// What is signed.
    pub fn signed_part(&self) -> Vec<u8> {
        let [produced, from, until] = &self.times;
        let until = match until.is_empty() {
            true => Vec::new(),
            false => der(0xa0, &[&time(until)]),
        };
        let id = der(
            0x30,
            &[
                &self.hash,
                &der(4, &[&self.hashes[0]]),
                &der(4, &[&self.hashes[1]]),
                &der(2, &[&self.serial]),
            ],
        );
        let single = der(
            0x30,
            &[
                &id,
                &self.certificate,
                &time(from),
                &until,
                &extensions(0xa1, &self.extensions[1]),
            ],
        );
        der(
            0x30,
            &[
                &self.responder,
                &time(produced),
                &der(0x30, &[&single.repeat(self.times_said)]),
                &extensions(0xa1, &self.extensions[0]),
            ],
        )
    }

    /// The response.
    pub fn sign(&self) -> Vec<u8> {
        self.around(&self.signed_part())
    }

    /// A response around a part of the test's own making.
    pub fn around(&self, part: &[u8]) -> Vec<u8> {
        let signature: DerSignature = self.key.sign(part);
        let certificates = match self.certificates.is_empty() {
            true => Vec::new(),
            false => der(0xa0, &[&der(0x30, &[&self.certificates.concat()])]),
        };
        let basic = der(
            0x30,
            &[
                part,
                &self.algorithm,
                &der(3, &[&[0], signature.as_bytes()]),
                &certificates,
            ],
        );
        let body = der(0x30, &[&der(6, &[&self.kind]), &der(4, &[&basic])]);
        let body = match self.status {
            0 => der(0xa0, &[&body]),
            _ => Vec::new(),
        };
        der(0x30, &[&[0x0a, 1, self.status], &body])
    }
}

impl Rack {
    /// Each certificate whose status can be asked for, once: those of devices but their own keys',
    /// then those of manifests.
    pub fn subjects(&self) -> Vec<Subject> {
        let devices = self.devices.iter().flat_map(|one| one.chain.iter().skip(1));
        let manifests = self.manifests.iter().flat_map(|one| &one.chain);
        let mut all: Vec<Subject> = Vec::new();
        for (template, key) in devices.chain(manifests) {
            let (issuer, serial) = (template.issuer.clone(), template.serial.clone());
            if !all
                .iter()
                .any(|one| (&one.issuer, &one.serial) == (&issuer, &serial))
            {
                let key = key.clone();
                all.push(Subject {
                    issuer,
                    key,
                    serial,
                });
            }
        }
        all
    }
}
