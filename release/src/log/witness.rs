//! A witness's memory: it signs only what continues everything that it has signed before.

pub mod request;
pub mod serve;
pub mod service;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use attest::Digest;
use attest::release::{CheckpointError, Origin, PublicKey, SignedCheckpoint};

use super::Log;

/// Why a witness does not sign.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// The memory cannot be read.
    #[error("{path}")]
    Access {
        /// The memory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The memory holds no checkpoint of this log.
    #[error("{path}: {source}")]
    Memory {
        /// The memory.
        path: PathBuf,
        /// What is wrong with it.
        source: CheckpointError,
    },
    /// The log is smaller than it was.
    #[error("the log has {found} entries, and had {signed} when it was signed last")]
    Smaller {
        /// Size that was signed.
        signed: u64,
        /// Size now.
        found: u64,
    },
    /// The log is another one than it was.
    #[error("the first {size} entries have the root {found}, and had {signed} when signed last")]
    Changed {
        /// Size that was signed.
        size: u64,
        /// Root that was signed.
        signed: Digest<32>,
        /// Root now.
        found: Digest<32>,
    },
}

/// Checks that `log` continues the checkpoint that `memory` holds. One that is not there is of a
/// witness that has signed nothing yet.
pub fn check(
    memory: &Path,
    log: &Log,
    origin: &Origin,
    key: &PublicKey,
) -> Result<(), WitnessError> {
    let path = memory.to_owned();
    let note = match fs::read_to_string(memory) {
        Ok(note) => note,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(WitnessError::Access { path, source }),
    };
    let signed = SignedCheckpoint::parse(&note).and_then(|note| note.verify(origin, key));
    let signed = signed.map_err(|source| WitnessError::Memory { path, source })?;
    let size = signed.size;
    match log.root_at(size) {
        Some(found) if found == signed.root => Ok(()),
        Some(found) => Err(WitnessError::Changed {
            size,
            signed: signed.root,
            found,
        }),
        None => Err(WitnessError::Smaller {
            signed: size,
            found: log.checkpoint().size,
        }),
    }
}
