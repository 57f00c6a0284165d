//! The status of one certificate, as its authority says it online (OCSP, RFC 6960).
//!
//! ```text
//! OCSPResponse      { 0, [0] { id-pkix-ocsp-basic, OCTET STRING of BasicOCSPResponse } }
//! BasicOCSPResponse { ResponseData, algorithm, signature, [0] { certificates } }
//! ResponseData      { [1] name or [2] SHA-1 of the key, producedAt, { SingleResponse },
//!                     [1] { nonce } }
//! SingleResponse    { CertID, [0] good, [1] revoked { time, [0] reason } or [2] unknown,
//!                     thisUpdate, [0] nextUpdate }
//! CertID            { hash, hash of the issuer's name, hash of its key, serial number }
//! ```
//!
//! A response speaks of one certificate. It is signed by that certificate's issuer, or by a key
//! that the issuer certified for this (id-kp-OCSPSigning) and whose certificate comes with it; the
//! issuer's own may follow. All else that RFC 6960 allows is refused.

mod error;
mod request;

pub use error::{Reason, StatusFault};
pub use request::{MAX_NONCE_BYTES, request};

use sha1::{Digest as _, Sha1};
use sha2::{Sha256, Sha384};
use x509_cert::der::asn1::{GeneralizedTime, ObjectIdentifier};
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage};
use x509_cert::spki::AlgorithmIdentifierOwned;

use crate::certificate::{self, Certificate, ChainFault, Scheme, extension};
use crate::reader::Reader;
use crate::{Hex, UnixTime};

/// Longest response.
pub const MAX_RESPONSE_BYTES: usize = 8 << 10;

/// id-kp-OCSPSigning
const OCSP_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.9");
/// id-pkix-ocsp-basic, without tag and length.
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 48, 1, 1];
/// id-pkix-ocsp-nonce, without tag and length.
const NONCE: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 48, 1, 2];
const SUCCESSFUL: u8 = 0;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const NULL: u8 = 0x05;
const IDENTIFIER: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
const TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// Context-specific and constructed: `[0]`, `[1]`, `[2]`.
const TAGGED: [u8; 3] = [0xa0, 0xa1, 0xa2];
/// `good` and `unknown` have no content.
const GOOD: u8 = 0x80;
const UNKNOWN: u8 = 0x82;

/// A response, read and not believed.
#[derive(Clone, Debug)]
pub struct Response<'a> {
    signed: &'a [u8],
    algorithm: AlgorithmIdentifierOwned,
    signature: &'a [u8],
    certificates: Vec<&'a [u8]>,
    responder: Responder<'a>,
    produced: UnixTime,
    id: CertId<'a>,
    status: Status,
    from: UnixTime,
    until: Option<UnixTime>,
    nonce: Option<&'a [u8]>,
}

#[derive(Clone, Copy, Debug)]
enum Responder<'a> {
    Name(&'a [u8]),
    Key(&'a [u8]),
}

#[derive(Clone, Copy, Debug)]
struct CertId<'a> {
    hash: Hash,
    name: &'a [u8],
    key: &'a [u8],
    serial: &'a [u8],
}

/// A certificate is found by such hashes; what vouches for it is the signature.
#[derive(Clone, Copy, Debug)]
enum Hash {
    Sha1,
    Sha256,
    Sha384,
}

#[derive(Clone, Copy, Debug)]
enum Status {
    Good,
    Revoked(UnixTime, Option<Reason>),
    Unknown,
}

/// One element of DER.
#[derive(Clone, Copy)]
struct Element<'a> {
    tag: u8,
    value: &'a [u8],
    whole: &'a [u8],
}

/// Elements one after the other.
struct Elements<'a>(Reader<'a>);

impl<'a> Elements<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self(Reader(bytes))
    }

    /// The next element, in the shortest form of its length, up to 65,535 bytes.
    fn any(&mut self) -> Option<Element<'a>> {
        let all = self.0.0;
        let [tag, first] = self.0.array()?;
        let length = match first {
            short @ 0..=0x7f => usize::from(short),
            0x81 => usize::from(self.0.array::<1>()?[0]).checked_sub(0x80)? + 0x80,
            0x82 => usize::from(u16::from_be_bytes(self.0.array()?)).checked_sub(0x100)? + 0x100,
            _ => return None,
        };
        let value = self.0.take(length)?;
        let whole = &all[..all.len() - self.0.0.len()];
        (tag & 0x1f != 0x1f).then_some(Element { tag, value, whole })
    }

    fn one(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.any().filter(|one| one.tag == tag).map(|one| one.value)
    }

    fn optional(&mut self, tag: u8) -> Option<Option<&'a [u8]>> {
        match self.0.0.first() == Some(&tag) {
            true => self.one(tag).map(Some),
            false => Some(None),
        }
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// The only element in `bytes`.
fn only(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    let mut elements = Elements::new(bytes);
    let value = elements.one(tag)?;
    elements.end().map(|()| value)
}

impl<'a> Response<'a> {
    /// Reads a response, without believing it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, StatusFault> {
        let found = bytes.len();
        if found > MAX_RESPONSE_BYTES {
            return Err(StatusFault::TooLarge { found });
        }
        let basic = basic(bytes)?;
        let parts = || {
            let mut parts = Elements::new(only(basic, SEQUENCE)?);
            let signed = parts.any().filter(|one| one.tag == SEQUENCE)?;
            let algorithm = parts.any()?;
            let signature = parts.one(BIT_STRING)?.strip_prefix(&[0])?;
            let certificates = match parts.optional(TAGGED[0])? {
                Some(list) => self::certificates(list)?,
                None => Vec::new(),
            };
            parts.end()?;
            let algorithm = AlgorithmIdentifierOwned::from_der(algorithm.whole).ok()?;
            Some((signed, algorithm, signature, certificates))
        };
        let (signed, algorithm, signature, certificates) = parts().ok_or(StatusFault::Encoding)?;
        let data = Data::read(signed.value)?;
        let single = Single::read(data.single)?;
        Ok(Self {
            signed: signed.whole,
            algorithm,
            signature,
            certificates,
            responder: data.responder,
            produced: data.produced,
            id: single.id,
            status: single.status,
            from: single.from,
            until: single.until,
            nonce: data.nonce,
        })
    }

    /// When the next one is due, as it says.
    #[must_use]
    pub fn until(&self) -> Option<UnixTime> {
        self.until
    }

    /// The nonce of the request that it answers; one may have been kept for others.
    #[must_use]
    pub fn nonce(&self) -> Option<&'a [u8]> {
        self.nonce
    }

    /// Whether it bears this certificate's serial number, which one by another issuer may bear too.
    pub(crate) fn names(&self, subject: &Certificate) -> bool {
        let serial = subject.tbs_certificate().serial_number().to_der();
        serial.is_ok_and(|der| only(&der, INTEGER) == Some(self.id.serial))
    }

    /// Checks that it answers a request with `nonce`.
    pub fn check_nonce(&self, nonce: &[u8]) -> Result<(), StatusFault> {
        match self.nonce {
            Some(found) if found == nonce => Ok(()),
            found => Err(StatusFault::Nonce {
                expected: Hex(nonce.into()),
                found: found.map(|found| Hex(found.into())),
            }),
        }
    }

    /// Whether it speaks of `subject`, which `issuer` issued.
    pub(crate) fn is_about(&self, subject: &Certificate, issuer: &Certificate) -> bool {
        let (hash, id) = (self.id.hash, self.id);
        let name = name_of(issuer).is_some_and(|name| hash.digest(&name) == id.name);
        let key = key_of(issuer).is_some_and(|key| hash.digest(key) == id.key);
        self.names(subject) && name && key
    }

    /// Verifies that `issuer`, or a key that it certified for this, says that the certificate is
    /// good at the time `now`; gives until when that holds.
    pub(crate) fn verify(
        &self,
        issuer: &Certificate,
        scheme: Scheme,
        now: UnixTime,
    ) -> Result<UnixTime, StatusFault> {
        let delegate = self.delegate(issuer, scheme, now)?;
        let signer = delegate.as_ref().unwrap_or(issuer);
        let named = match self.responder {
            Responder::Name(name) => name_of(signer).is_some_and(|found| found == name),
            Responder::Key(key) => {
                key_of(signer).is_some_and(|found| Sha1::digest(found)[..] == *key)
            }
        };
        if !named {
            return Err(StatusFault::Responder);
        }
        scheme
            .verify(&self.algorithm, signer, self.signed, self.signature)
            .map_err(|_| StatusFault::Signature)?;
        // Revoked once is revoked for ever, however old the response.
        if let Status::Revoked(at, reason) = self.status
            && reason != Some(Reason::ON_HOLD)
        {
            return Err(StatusFault::Revoked { at, reason });
        }
        for from in [self.produced, self.from] {
            if now < from {
                return Err(StatusFault::NotYetValid { from, now });
            }
        }
        let until = self.until.ok_or(StatusFault::NoNextUpdate)?;
        if now > until {
            return Err(StatusFault::Expired { until, now });
        }
        match self.status {
            Status::Good => Ok(until),
            Status::Revoked(since, _) => Err(StatusFault::OnHold { since }),
            Status::Unknown => Err(StatusFault::Unknown),
        }
    }

    /// The certificate of a key other than the issuer's own, if it comes with one.
    pub(crate) fn delegate(
        &self,
        issuer: &Certificate,
        scheme: Scheme,
        now: UnixTime,
    ) -> Result<Option<Certificate>, StatusFault> {
        let own = issuer.to_der().map_err(|_| StatusFault::Encoding)?;
        let (given, more) = match self.certificates.as_slice() {
            [] => return Ok(None),
            [given] => (*given, &own[..]),
            [given, more] => (*given, *more),
            _ => return Err(StatusFault::Certificates),
        };
        if more != own {
            return Err(StatusFault::Certificates);
        }
        if given == own {
            return Ok(None);
        }
        let certificate = certificate::decode(given)?;
        certificate::check_common(&certificate, now)?;
        certificate::check_issued_by(&certificate, issuer, scheme)?;
        if extension::<BasicConstraints>(&certificate)?.is_some_and(|basic| basic.ca) {
            return Err(ChainFault::Authority.into());
        }
        if !extension::<KeyUsage>(&certificate)?.is_some_and(|usage| usage.digital_signature()) {
            let needed = "digitalSignature";
            return Err(ChainFault::KeyUsage { needed }.into());
        }
        match extension::<ExtendedKeyUsage>(&certificate)? {
            Some(usage) if usage.0.contains(&OCSP_SIGNING) => Ok(Some(certificate)),
            _ => Err(StatusFault::Purpose),
        }
    }
}

/// What stands in the envelope around a response of the basic kind.
fn basic(bytes: &[u8]) -> Result<&[u8], StatusFault> {
    let parts = || {
        let mut outer = Elements::new(only(bytes, SEQUENCE)?);
        let [status] = *outer.one(ENUMERATED)? else {
            return None;
        };
        let body = outer.optional(TAGGED[0])?;
        outer.end()?;
        // Only what succeeded has a body.
        (body.is_some() == (status == SUCCESSFUL)).then_some((status, body))
    };
    let (status, body) = parts().ok_or(StatusFault::Encoding)?;
    let Some(body) = body else {
        return Err(StatusFault::Unsuccessful { status });
    };
    let parts = || {
        let mut inner = Elements::new(only(body, SEQUENCE)?);
        let (kind, response) = (inner.one(IDENTIFIER)?, inner.one(OCTET_STRING)?);
        inner.end().map(|()| (kind, response))
    };
    match parts().ok_or(StatusFault::Encoding)? {
        (BASIC, response) => Ok(response),
        _ => Err(StatusFault::Kind),
    }
}

fn certificates(list: &[u8]) -> Option<Vec<&[u8]>> {
    let mut list = Elements::new(only(list, SEQUENCE)?);
    let mut found = Vec::new();
    while list.end().is_none() {
        found.push(list.any()?.whole);
    }
    // An empty list is no list.
    (!found.is_empty()).then_some(found)
}

fn time(element: &Element<'_>) -> Option<UnixTime> {
    let time = GeneralizedTime::from_der(element.whole).ok()?;
    Some(UnixTime::from_secs(time.to_unix_duration().as_secs()))
}

/// What is signed.
struct Data<'a> {
    responder: Responder<'a>,
    produced: UnixTime,
    single: &'a [u8],
    nonce: Option<&'a [u8]>,
}

impl<'a> Data<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, StatusFault> {
        let parts = || {
            let mut parts = Elements::new(bytes);
            // The version would stand here as [0]: its only value is left out in DER.
            let responder = parts.any()?;
            let responder = match responder.tag {
                tag if tag == TAGGED[1] => {
                    only(responder.value, SEQUENCE)?;
                    Responder::Name(responder.value)
                }
                tag if tag == TAGGED[2] => Responder::Key(only(responder.value, OCTET_STRING)?),
                _ => return None,
            };
            let produced = time(&parts.any()?)?;
            let all = parts.one(SEQUENCE)?;
            let extensions = parts.optional(TAGGED[1])?;
            parts.end()?;
            Some((responder, produced, all, extensions))
        };
        let (responder, produced, all, extensions) = parts().ok_or(StatusFault::Encoding)?;
        let mut all = Elements::new(all);
        let first = all.one(SEQUENCE).ok_or(StatusFault::Encoding)?;
        all.end().ok_or(StatusFault::Several)?;
        let nonce = extensions.map(|list| read_extensions(list, true));
        Ok(Self {
            responder,
            produced,
            single: first,
            nonce: nonce.transpose()?.flatten(),
        })
    }
}

/// What is said of one certificate.
struct Single<'a> {
    id: CertId<'a>,
    status: Status,
    from: UnixTime,
    until: Option<UnixTime>,
}

impl<'a> Single<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, StatusFault> {
        let mut parts = Elements::new(bytes);
        let id = parts.one(SEQUENCE).ok_or(StatusFault::Encoding)?;
        let id = CertId::read(id)?;
        let mut rest = || {
            let status = Status::read(&parts.any()?)?;
            let from = time(&parts.any()?)?;
            let until = match parts.optional(TAGGED[0])? {
                Some(until) => {
                    let mut inner = Elements::new(until);
                    let until = time(&inner.any()?)?;
                    inner.end().map(|()| Some(until))?
                }
                None => None,
            };
            let extensions = parts.optional(TAGGED[1])?;
            parts.end()?;
            Some((status, from, until, extensions))
        };
        let (status, from, until, extensions) = rest().ok_or(StatusFault::Encoding)?;
        if let Some(list) = extensions {
            read_extensions(list, false)?;
        }
        Ok(Self {
            id,
            status,
            from,
            until,
        })
    }
}

impl<'a> CertId<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, StatusFault> {
        let parts = || {
            let mut parts = Elements::new(bytes);
            let mut algorithm = Elements::new(parts.one(SEQUENCE)?);
            let hash = algorithm.one(IDENTIFIER)?;
            // Parameters are NULL or left out.
            let parameters = algorithm.optional(NULL)?.unwrap_or_default();
            algorithm.end()?;
            let (name, key) = (parts.one(OCTET_STRING)?, parts.one(OCTET_STRING)?);
            let serial = parts.one(INTEGER)?;
            parts.end()?;
            (parameters.is_empty()).then_some((hash, name, key, serial))
        };
        let (hash, name, key, serial) = parts().ok_or(StatusFault::Encoding)?;
        Ok(Self {
            hash: Hash::of(hash).ok_or(StatusFault::Hash)?,
            name,
            key,
            serial,
        })
    }
}

impl Hash {
    fn of(identifier: &[u8]) -> Option<Self> {
        match identifier {
            [0x2b, 14, 3, 2, 26] => Some(Self::Sha1),
            [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1] => Some(Self::Sha256),
            [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2] => Some(Self::Sha384),
            _ => None,
        }
    }

    fn digest(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => Sha1::digest(bytes).to_vec(),
            Self::Sha256 => Sha256::digest(bytes).to_vec(),
            Self::Sha384 => Sha384::digest(bytes).to_vec(),
        }
    }
}

impl Status {
    fn read(element: &Element<'_>) -> Option<Self> {
        match (element.tag, element.value) {
            (GOOD, []) => Some(Self::Good),
            (UNKNOWN, []) => Some(Self::Unknown),
            (tag, value) if tag == TAGGED[1] => {
                let mut parts = Elements::new(value);
                let at = time(&parts.any().filter(|one| one.tag == TIME)?)?;
                let reason = match parts.optional(TAGGED[0])? {
                    Some(reason) => Some(Reason::read(only(reason, ENUMERATED)?)?),
                    None => None,
                };
                parts.end()?;
                Some(Self::Revoked(at, reason))
            }
            _ => None,
        }
    }
}

/// The nonce among extensions, where one may stand. None may change what is said.
fn read_extensions(list: &[u8], nonce_may: bool) -> Result<Option<&[u8]>, StatusFault> {
    let list = only(list, SEQUENCE).ok_or(StatusFault::Encoding)?;
    let mut list = Elements::new(list);
    let (mut seen, mut nonce) = (Vec::new(), None);
    while list.end().is_none() {
        let mut parts = || {
            let mut parts = Elements::new(list.one(SEQUENCE)?);
            let identifier = parts.any().filter(|one| one.tag == IDENTIFIER)?;
            let critical = match parts.optional(1)? {
                Some([0xff]) => true,
                None => false,
                Some(_) => return None,
            };
            let value = parts.one(OCTET_STRING)?;
            parts.end().map(|()| (identifier, critical, value))
        };
        let (identifier, critical, value) = parts().ok_or(StatusFault::Encoding)?;
        if seen.contains(&identifier.whole) {
            return Err(StatusFault::Encoding);
        }
        seen.push(identifier.whole);
        if identifier.value == NONCE && nonce_may {
            let value = only(value, OCTET_STRING);
            let value = value.filter(|value| (1..=MAX_NONCE_BYTES).contains(&value.len()));
            nonce = Some(value.ok_or(StatusFault::Encoding)?);
        } else if critical {
            let found = ObjectIdentifier::from_der(identifier.whole);
            let found = found.map_err(|_| StatusFault::Encoding)?;
            return Err(StatusFault::CriticalExtension { found });
        }
    }
    // An empty list is no list.
    match seen.is_empty() {
        true => Err(StatusFault::Encoding),
        false => Ok(nonce),
    }
}

fn name_of(certificate: &Certificate) -> Option<Vec<u8>> {
    certificate.tbs_certificate().subject().to_der().ok()
}

fn key_of(certificate: &Certificate) -> Option<&[u8]> {
    let info = certificate.tbs_certificate().subject_public_key_info();
    info.subject_public_key.as_bytes()
}
