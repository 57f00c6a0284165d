//! A release with everything that is needed to verify it, in one JSON file.
//!
//! ```text
//! {"mediaType":"application/vnd.cloister.release-bundle.v1+json",
//!  "envelope":{…},"log":{"index":N,"proof":[BASE64…],"checkpoint":"…"}}      (without white space)
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Envelope;
use super::merkle::MAX_PROOF;
use crate::Digest;

/// Longest bundle.
pub const MAX_BUNDLE_BYTES: usize = 256 << 10;

/// A signed statement and the proof that a log holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// Version of the bundle's form.
    #[serde(rename = "mediaType")]
    pub media_type: MediaType,
    /// The signed statement.
    pub envelope: Envelope,
    /// Where the log holds it.
    pub log: LogEntry,
}

/// The only form of bundle that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MediaType {
    /// `application/vnd.cloister.release-bundle.v1+json`
    #[serde(rename = "application/vnd.cloister.release-bundle.v1+json")]
    V1,
}

/// Where a log holds an envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogEntry {
    /// Place in the log, from 0.
    pub index: u64,
    /// Inclusion proof, from the leaf's sibling upwards.
    #[serde(serialize_with = "write_proof", deserialize_with = "read_proof")]
    pub proof: Vec<Digest<32>>,
    /// Signed note of the log's state.
    pub checkpoint: String,
}

/// Why bytes are not a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Longer than [`MAX_BUNDLE_BYTES`].
    #[error("{found} bytes, {MAX_BUNDLE_BYTES} allowed")]
    TooLarge {
        /// Length found.
        found: usize,
    },
    /// Not JSON, or a key is missing, unknown or of another type.
    #[error("not a bundle (JSON, line {line}, column {column})")]
    Json {
        /// Line of the fault, from 1.
        line: usize,
        /// Column of the fault.
        column: usize,
    },
    /// The same bundle has another spelling.
    #[error("not in its one canonical spelling")]
    NotCanonical,
}

impl Bundle {
    /// A bundle of `envelope` at its place in the log.
    #[must_use]
    pub fn new(envelope: Envelope, log: LogEntry) -> Self {
        Self {
            media_type: MediaType::V1,
            envelope,
            log,
        }
    }

    /// The bundle's one JSON encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Reads a bundle; accepts only what [`Bundle::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, BundleError> {
        if bytes.len() > MAX_BUNDLE_BYTES {
            return Err(BundleError::TooLarge { found: bytes.len() });
        }
        let bundle: Self = serde_json::from_slice(bytes).map_err(|error| BundleError::Json {
            line: error.line(),
            column: error.column(),
        })?;
        if bundle.encode() != bytes {
            return Err(BundleError::NotCanonical);
        }
        Ok(bundle)
    }
}

/// JSON without white space, keys in the order of the fields.
pub(super) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    // Writing to memory cannot fail, and none of our types has a map whose keys are not text.
    serde_json::to_vec(value).unwrap_or_default()
}

fn write_proof<S: Serializer>(proof: &[Digest<32>], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(proof.iter().map(|hash| STANDARD.encode(hash)))
}

fn read_proof<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Digest<32>>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    if texts.len() > MAX_PROOF {
        return Err(de::Error::custom("a proof of more than 63 hashes"));
    }
    let hash = |text| STANDARD.decode(text).ok()?.try_into().ok().map(Digest);
    let proof: Option<_> = texts.into_iter().map(hash).collect();
    proof.ok_or_else(|| de::Error::custom("not a hash in base64"))
}
