//! Cosignatures of a log's checkpoint by witnesses (C2SP tlog-cosignature).
//!
//! ```text
//! — NAME BASE64(key hash, 4 bytes ‖ time, u64 big-endian ‖ Ed25519 signature, 64 bytes)
//!
//! signed:  cosignature/v1
//!          time 1795219200
//!          (the checkpoint's three lines)
//! ```
//!
//! A witness signs only what continues everything that it has signed before. Who demands several
//! witnesses is shown a log with two faces only if that many of them are party to it.

use serde::Deserialize;

use super::checkpoint::{CheckpointError, SignedCheckpoint, key_hash};
use super::{Checkpoint, Origin, PublicKey};
use crate::UnixTime;

/// Algorithm of a timestamped Ed25519 cosignature in a key hash.
const COSIGNATURE_V1: u8 = 4;

/// A witness that a policy names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Witness {
    /// Its name.
    pub name: Origin,
    /// Its key.
    pub key: PublicKey,
}

impl Witness {
    /// The bytes that this witness signs at `time`.
    #[must_use]
    pub fn message(checkpoint: &Checkpoint, time: UnixTime) -> String {
        let time = time.as_secs();
        format!("cosignature/v1\ntime {time}\n{}", checkpoint.text())
    }

    /// The line of this witness's cosignature, given its signature of [`Witness::message`].
    #[must_use]
    pub fn line(&self, time: UnixTime, signature: &[u8; 64]) -> String {
        use base64::Engine as _;
        let hash = key_hash(&self.name, COSIGNATURE_V1, &self.key);
        let blob = [&hash[..], &time.as_secs().to_be_bytes(), signature].concat();
        let blob = base64::engine::general_purpose::STANDARD.encode(blob);
        format!("\u{2014} {} {blob}\n", self.name)
    }
}

impl SignedCheckpoint {
    /// When `witness` signed, if it did. A line in its name that is not its signature is an error.
    pub fn cosigned_by(&self, witness: &Witness) -> Result<Option<UnixTime>, CheckpointError> {
        let hash = key_hash(&witness.name, COSIGNATURE_V1, &witness.key);
        let Some(blob) = self.signature_of(&witness.name, hash) else {
            return Ok(None);
        };
        let time = blob.split_first_chunk().and_then(|(time, signature)| {
            let time = UnixTime::from_secs(u64::from_be_bytes(*time));
            let message = Witness::message(self.unverified(), time);
            let signature = signature.try_into().ok()?;
            let verifies = witness.key.verifies(message.as_bytes(), signature);
            verifies.then_some(time)
        });
        match time {
            Some(time) => Ok(Some(time)),
            None => Err(CheckpointError::Cosignature {
                witness: witness.name.clone(),
            }),
        }
    }
}
