//! The signed envelope of a statement (DSSE, Ed25519).
//!
//! ```text
//! PAE = "DSSEv1" SP len(type) SP type SP len(payload) SP payload     (lengths in decimal)
//! {"payload":BASE64,"payloadType":TYPE,"signatures":[{"keyid":KEY,"sig":BASE64}]}
//! ```

use serde::{Deserialize, Serialize};

use super::PublicKey;

/// Type of the payload: an in-toto statement.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// Most signatures on one envelope.
pub const MAX_SIGNATURES: usize = 8;

/// A payload with signatures. Its JSON has one spelling, and that is what a log holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// What is signed: a statement's bytes.
    #[serde(with = "base64_bytes")]
    pub payload: Vec<u8>,
    /// What the payload is.
    #[serde(rename = "payloadType")]
    pub payload_type: PayloadType,
    /// Who signed.
    pub signatures: Vec<EnvelopeSignature>,
}

/// The only type of payload that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PayloadType {
    /// `application/vnd.in-toto+json`
    #[serde(rename = "application/vnd.in-toto+json")]
    InToto,
}

/// One signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvelopeSignature {
    /// The signer.
    pub keyid: PublicKey,
    /// Ed25519 signature of [`pae`].
    #[serde(with = "base64_bytes")]
    pub sig: Vec<u8>,
}

/// Why an envelope counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// More signatures than anyone needs.
    #[error("{found} signatures, {MAX_SIGNATURES} allowed")]
    TooMany {
        /// Number found.
        found: usize,
    },
    /// No signature names a key of the policy.
    #[error("by no key that the policy names")]
    UnknownSigner,
    /// A signature in the name of a key of the policy that is not its signature.
    #[error("not by {key}, whose name it bears")]
    Signature {
        /// Key that the policy names.
        key: PublicKey,
    },
}

/// The bytes that a signature covers: pre-authentication encoding of type and payload.
#[must_use]
pub fn pae(payload: &[u8]) -> Vec<u8> {
    let head = format!(
        "DSSEv1 {} {PAYLOAD_TYPE} {} ",
        PAYLOAD_TYPE.len(),
        payload.len()
    );
    [head.as_bytes(), payload].concat()
}

impl Envelope {
    /// The envelope's one JSON encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        super::bundle::to_json(self)
    }

    /// Verifies that a key of `signers` signed, and says which. The first signature that names
    /// such a key decides.
    pub fn verify(&self, signers: &[PublicKey]) -> Result<PublicKey, EnvelopeError> {
        let found = self.signatures.len();
        if found > MAX_SIGNATURES {
            return Err(EnvelopeError::TooMany { found });
        }
        let signature = self
            .signatures
            .iter()
            .find(|signature| signers.contains(&signature.keyid))
            .ok_or(EnvelopeError::UnknownSigner)?;
        let key = signature.keyid;
        match signature.sig.as_slice().try_into() {
            Ok(bytes) if key.verifies(&pae(&self.payload), bytes) => Ok(key),
            _ => Err(EnvelopeError::Signature { key }),
        }
    }
}

mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        STANDARD
            .decode(String::deserialize(from)?)
            .map_err(de::Error::custom)
    }
}
