//! A release with everything that is needed to verify it, in one JSON file.
//!
//! ```text
//! {"mediaType":"application/vnd.cloister.release-bundle.v2+json",
//!  "envelope":{…},
//!  "log":{"index":N,"proof":[BASE64…],"checkpoint":"…",
//!         "history":{"from":N,"frontier":[BASE64…],"leaves":[BASE64…]}},
//!  "remarks":[{"envelope":{…},"index":N,"proof":[BASE64…]}…]}               (without white space)
//! ```
//!
//! A remark is another entry of the same log, under the same checkpoint: that the release is still
//! current, or that somebody rebuilt it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::history::MAX_HISTORY;
use super::merkle::{self, MAX_PROOF};
use super::{Checkpoint, Envelope, History, ReleaseError};
use crate::Digest;

/// Longest bundle.
pub const MAX_BUNDLE_BYTES: usize = 256 << 10;

/// Most remarks in one bundle.
pub const MAX_REMARKS: usize = 16;

/// A signed statement, the proof that a log holds it, and what was said of it since.
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
    /// Further entries of the log.
    pub remarks: Vec<Remark>,
}

/// The only form of bundle that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MediaType {
    /// `application/vnd.cloister.release-bundle.v2+json`
    #[serde(rename = "application/vnd.cloister.release-bundle.v2+json")]
    V2,
}

/// Where a log holds an envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogEntry {
    /// Place in the log, from 0.
    pub index: u64,
    /// Inclusion proof, from the leaf's sibling upwards.
    #[serde(serialize_with = "write_hashes", deserialize_with = "read_proof")]
    pub proof: Vec<Digest<32>>,
    /// Signed note of the log's state.
    pub checkpoint: String,
    /// How the log came to that state.
    pub history: History,
}

/// Another entry of the same log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remark {
    /// The signed statement.
    pub envelope: Envelope,
    /// Place in the log, from 0.
    pub index: u64,
    /// Inclusion proof under the bundle's checkpoint.
    #[serde(serialize_with = "write_hashes", deserialize_with = "read_proof")]
    pub proof: Vec<Digest<32>>,
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
    /// More than [`MAX_REMARKS`].
    #[error("{found} remarks, {MAX_REMARKS} allowed")]
    Remarks {
        /// Number found.
        found: usize,
    },
    /// The same bundle has another spelling.
    #[error("not in its one canonical spelling")]
    NotCanonical,
}

impl Bundle {
    /// A bundle of `envelope` at its place in the log.
    #[must_use]
    pub fn new(envelope: Envelope, log: LogEntry, remarks: Vec<Remark>) -> Self {
        Self {
            media_type: MediaType::V2,
            envelope,
            log,
            remarks,
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
        match bundle.remarks.len() {
            found if found > MAX_REMARKS => Err(BundleError::Remarks { found }),
            _ => Ok(bundle),
        }
    }

    /// Release and remarks are in the log, and its history leads to the checkpoint.
    pub(super) fn check_log(&self, checkpoint: &Checkpoint) -> Result<(), ReleaseError> {
        let (size, root) = (checkpoint.size, checkpoint.root);
        let own = (&self.envelope, self.log.index, &self.log.proof);
        let remarks = self.remarks.iter();
        let remarks = remarks.map(|remark| (&remark.envelope, remark.index, &remark.proof));
        for (envelope, index, proof) in std::iter::once(own).chain(remarks) {
            let leaf = merkle::leaf_hash(&envelope.encode());
            if !merkle::verify_inclusion(index, size, leaf, proof, root) {
                return Err(ReleaseError::Inclusion { index, size });
            }
        }
        let history = &self.log.history;
        match history.size() == size && history.root_at(size) == Some(root) {
            true => Ok(()),
            false => Err(ReleaseError::History { size }),
        }
    }
}

/// JSON without white space, keys in the order of the fields.
pub(super) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    // Writing to memory cannot fail, and none of our types has a map whose keys are not text.
    serde_json::to_vec(value).unwrap_or_default()
}

pub(super) fn write_hashes<S: Serializer>(hashes: &[Digest<32>], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(hashes.iter().map(|hash| STANDARD.encode(hash)))
}

fn read_proof<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Digest<32>>, D::Error> {
    let proof = read_hashes(from)?;
    match proof.len() > MAX_PROOF {
        true => Err(de::Error::custom("a proof of more than 63 hashes")),
        false => Ok(proof),
    }
}

pub(super) fn read_hashes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Digest<32>>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    if texts.len() > MAX_HISTORY {
        return Err(de::Error::custom("too many hashes"));
    }
    let hash = |text| STANDARD.decode(text).ok()?.try_into().ok().map(Digest);
    let hashes: Option<_> = texts.into_iter().map(hash).collect();
    hashes.ok_or_else(|| de::Error::custom("not a hash in base64"))
}
