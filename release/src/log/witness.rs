//! A witness's memory: it signs only what continues everything that it has signed before.

pub mod request;
pub mod serve;
pub mod service;

use std::fs::{self, File};
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
    /// There is no memory, and it is not the first time.
    #[error("{0} is not there: who forgot what they saw would believe a second face of the log")]
    Forgotten(PathBuf),
    /// The log would be its own witness.
    #[error("the witness has the log's own key: no policy counts it")]
    Own,
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

/// Keeps every other witness with this memory away until it is dropped.
pub fn lock(memory: &Path) -> Result<File, WitnessError> {
    let path = memory.with_added_extension("lock");
    let mut options = File::options();
    let file = options.create(true).truncate(false).write(true).open(&path);
    let locked = file.and_then(|file| file.lock().map(|()| file));
    locked.map_err(|source| WitnessError::Access { path, source })
}

/// Checks that `log` continues the checkpoint that `memory` holds. Only a witness that has signed
/// nothing yet, and says so by `first`, has none.
pub fn check(
    memory: &Path,
    first: bool,
    log: &Log,
    (origin, key): (&Origin, &PublicKey),
) -> Result<(), WitnessError> {
    let path = memory.to_owned();
    let note = match fs::read_to_string(memory) {
        Ok(note) => note,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match first {
                true => Ok(()),
                false => Err(WitnessError::Forgotten(path)),
            };
        }
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
