//! A log's checkpoint as a signed note (C2SP tlog-checkpoint and signed-note).
//!
//! ```text
//! log.example.org/cloister          origin
//! 42                                entries, decimal
//! BASE64                            root hash, 32 bytes
//!
//! — log.example.org/cloister BASE64(key hash, 4 bytes ‖ Ed25519 signature, 64 bytes)
//! ```
//!
//! The signature covers the first three lines with their line ends. Lines of other signers may
//! follow, such as those of witnesses; extension lines are not accepted.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::PublicKey;
use crate::Digest;

/// Longest signed note.
pub const MAX_NOTE_BYTES: usize = 8 << 10;

const MAX_SIGNATURES: usize = 16;
const ED25519: u8 = 1;

/// State of a log: how many entries it has, and the root hash over them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: Origin,
    /// Number of entries.
    pub size: u64,
    /// Root hash of the tree over them.
    pub root: Digest<32>,
}

/// Name of a log, such as `log.example.org/cloister`: 1 to 128 printable ASCII characters without
/// space and plus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Origin(Box<str>);

/// A checkpoint with signatures that are not verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    signatures: Vec<NoteSignature>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct NoteSignature {
    name: Origin,
    key_hash: [u8; 4],
    signature: Vec<u8>,
}

/// Why a note is not a checkpoint of the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Longer than [`MAX_NOTE_BYTES`].
    #[error("{found} bytes, {MAX_NOTE_BYTES} allowed")]
    TooLarge {
        /// Length found.
        found: usize,
    },
    /// Not three lines, an empty one and signature lines, each in its one spelling.
    #[error("not a signed note of origin, size, root hash and signatures")]
    Format,
    /// Of another log.
    #[error("of log {found}, {expected} expected")]
    Origin {
        /// Log that the policy names.
        expected: Origin,
        /// Log that the checkpoint names.
        found: Origin,
    },
    /// No signature by the log's key.
    #[error("no signature by {key}")]
    Unsigned {
        /// Key that the policy names.
        key: PublicKey,
    },
    /// A signature in the name of the log's key that is not its signature.
    #[error("the signature is not by {key}")]
    Signature {
        /// Key that the policy names.
        key: PublicKey,
    },
    /// A cosignature in the name of a witness's key that is not its signature.
    #[error("the cosignature is not by {witness}, whose name it bears")]
    Cosignature {
        /// Witness that the policy names.
        witness: Origin,
    },
}

/// Not a log's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a log's name: 1 to 128 printable ASCII characters without space and plus")]
pub struct OriginError;

impl Checkpoint {
    /// The text that is signed.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{}\n{}\n{}\n",
            self.origin,
            self.size,
            STANDARD.encode(self.root)
        )
    }

    /// The signed note, given the signature of [`Checkpoint::text`] by `key`.
    #[must_use]
    pub fn note(&self, key: &PublicKey, signature: &[u8; 64]) -> String {
        let blob = [&key_hash(&self.origin, ED25519, key)[..], signature].concat();
        format!(
            "{}\n\u{2014} {} {}\n",
            self.text(),
            self.origin,
            STANDARD.encode(blob)
        )
    }
}

impl SignedCheckpoint {
    /// Reads a signed note.
    pub fn parse(note: &str) -> Result<Self, CheckpointError> {
        if note.len() > MAX_NOTE_BYTES {
            return Err(CheckpointError::TooLarge { found: note.len() });
        }
        Self::parse_lines(note).ok_or(CheckpointError::Format)
    }

    /// Verifies that the checkpoint is of the log `origin` and signed by `key`.
    pub fn verify(&self, origin: &Origin, key: &PublicKey) -> Result<Checkpoint, CheckpointError> {
        let found = &self.checkpoint.origin;
        if found != origin {
            let (expected, found) = (origin.clone(), found.clone());
            return Err(CheckpointError::Origin { expected, found });
        }
        let signature = self
            .signature_of(origin, key_hash(origin, ED25519, key))
            .ok_or(CheckpointError::Unsigned { key: *key })?;
        let text = self.checkpoint.text();
        match signature.try_into() {
            Ok(signature) if key.verifies(text.as_bytes(), signature) => {
                Ok(self.checkpoint.clone())
            }
            _ => Err(CheckpointError::Signature { key: *key }),
        }
    }

    /// The checkpoint, whoever wrote it.
    #[must_use]
    pub fn unverified(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// What stands behind the first key hash of this name and key.
    pub(super) fn signature_of(&self, name: &Origin, hash: [u8; 4]) -> Option<&[u8]> {
        let mut signatures = self.signatures.iter();
        let mine = |one: &&NoteSignature| one.name == *name && one.key_hash == hash;
        signatures.find(mine).map(|one| one.signature.as_slice())
    }

    fn parse_lines(note: &str) -> Option<Self> {
        let (text, signatures) = note.split_once("\n\n")?;
        let mut lines = text.split('\n');
        let origin = lines.next()?.to_owned().try_into().ok()?;
        let size = lines.next()?.parse().ok()?;
        let root = Digest(STANDARD.decode(lines.next()?).ok()?.try_into().ok()?);
        let checkpoint = Checkpoint { origin, size, root };
        let signatures: Vec<_> = signatures
            .strip_suffix('\n')?
            .split('\n')
            .take(MAX_SIGNATURES + 1)
            .map(NoteSignature::parse)
            .collect::<Option<_>>()?;
        // One spelling only: this also refuses extension lines and numbers such as +1.
        let canonical = checkpoint.text().strip_suffix('\n') == Some(text);
        (canonical && signatures.len() <= MAX_SIGNATURES).then_some(Self {
            checkpoint,
            signatures,
        })
    }
}

impl NoteSignature {
    fn parse(line: &str) -> Option<Self> {
        let (name, blob) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
        let blob = STANDARD.decode(blob).ok()?;
        let (key_hash, signature) = blob.split_first_chunk()?;
        Some(Self {
            name: name.to_owned().try_into().ok()?,
            key_hash: *key_hash,
            signature: signature.to_vec(),
        })
    }
}

/// First four bytes of SHA-256(name ‖ line feed ‖ algorithm ‖ key).
pub(super) fn key_hash(name: &Origin, algorithm: u8, key: &PublicKey) -> [u8; 4] {
    let mut hash = Sha256::new();
    hash.update(name.as_str());
    hash.update([b'\n', algorithm]);
    hash.update(key.to_bytes());
    let [a, b, c, d, ..] = <[u8; 32]>::from(hash.finalize());
    [a, b, c, d]
}

impl Origin {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Origin {
    type Error = OriginError;

    fn try_from(text: String) -> Result<Self, OriginError> {
        let printable = text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'+');
        if printable && (1..=128).contains(&text.len()) {
            Ok(Self(text.into()))
        } else {
            Err(OriginError)
        }
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> Self {
        origin.0.into()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
