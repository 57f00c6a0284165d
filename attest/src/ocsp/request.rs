//! What a responder is asked.
//!
//! ```text
//! OCSPRequest { { { { CertID by SHA-384 } }, [2] { { nonce } } } }
//! ```

use sha2::{Digest as _, Sha384};
use x509_cert::der::Encode as _;

use super::{IDENTIFIER, INTEGER, NONCE, OCTET_STRING, SEQUENCE, TAGGED, key_of, name_of, only};
use crate::certificate;

/// Longest nonce (RFC 9654).
pub const MAX_NONCE_BYTES: usize = 128;

const SHA384: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];

/// The request for the status of `subject`, which `issuer` issued, both in DER form; with `nonce`,
/// if there is one. Nothing, if one of them is no certificate.
#[must_use]
pub fn request(subject: &[u8], issuer: &[u8], nonce: Option<&[u8]>) -> Option<Vec<u8>> {
    let (subject, issuer) = (
        certificate::decode(subject).ok()?,
        certificate::decode(issuer).ok()?,
    );
    let serial = subject.tbs_certificate().serial_number().to_der().ok()?;
    let id = der(
        SEQUENCE,
        &[
            &der(SEQUENCE, &[&der(IDENTIFIER, &[SHA384])]),
            &der(OCTET_STRING, &[&Sha384::digest(name_of(&issuer)?)]),
            &der(OCTET_STRING, &[&Sha384::digest(key_of(&issuer)?)]),
            &der(INTEGER, &[only(&serial, INTEGER)?]),
        ],
    );
    let list = der(SEQUENCE, &[&der(SEQUENCE, &[&id])]);
    let extensions = match nonce {
        Some(nonce) if (1..=MAX_NONCE_BYTES).contains(&nonce.len()) => {
            let value = der(OCTET_STRING, &[&der(OCTET_STRING, &[nonce])]);
            let nonce = der(SEQUENCE, &[&der(IDENTIFIER, &[NONCE]), &value]);
            der(TAGGED[2], &[&der(SEQUENCE, &[&nonce])])
        }
        Some(_) => return None,
        None => Vec::new(),
    };
    let signed = der(SEQUENCE, &[&list, &extensions]);
    Some(der(SEQUENCE, &[&signed]))
}

/// Tag, length and content, which is shorter than 65,536 bytes.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let [high, low] = (content.len() as u16).to_be_bytes();
    let head = match content.len() {
        0..=0x7f => vec![tag, low],
        0x80..=0xff => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [head, content].concat()
}
