//! A witness of several logs: it signs a checkpoint only if it continues the one that it signed
//! last, remembers that first, and answers as C2SP tlog-witness says.
//!
//! ```text
//! STATE/lock                 held while a request is judged, by whichever process
//! STATE/SHA256(origin)       the checkpoint that was signed last, as the log signed it
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use attest::release::checkpoint::MAX_NOTE_BYTES;
use attest::release::{Checkpoint, CheckpointError, Origin, PublicKey, SignedCheckpoint, Witness};
use attest::{Digest, UnixTime};

use super::super::consistency;
use super::request::AddCheckpoint;
use crate::files;
use crate::key::SigningKey;

/// A log that is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Its name.
    pub origin: Origin,
    /// Its key.
    pub key: PublicKey,
}

/// A witness.
#[derive(Debug)]
pub struct Service {
    witness: Witness,
    key: SigningKey,
    logs: Vec<Watched>,
    state: PathBuf,
}

/// Why there is no witness.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A file of the state cannot be read or written.
    #[error("{path}")]
    Access {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The state holds something else than a checkpoint of the log.
    #[error("{path}: {source}")]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CheckpointError,
    },
    /// One log named twice.
    #[error("the log {0} is named twice")]
    Twice(Origin),
    /// There is no state, and it is not the first time.
    #[error("{0} is not there: a witness that forgot what it signed would sign a second face")]
    Forgotten(PathBuf),
}

/// In the state since the first time.
const LOCK: &str = "lock";

/// Why a witness does not sign.
#[derive(Debug, thiserror::Error)]
pub enum Declined {
    /// Not a request.
    #[error("not an add-checkpoint request with a signed checkpoint")]
    Malformed,
    /// The proof would begin beyond the checkpoint.
    #[error("the old size {old} is beyond the checkpoint's {size}")]
    Backwards {
        /// In the request.
        old: u64,
        /// In the checkpoint.
        size: u64,
    },
    /// A log that is not watched here.
    #[error("no log of this name is watched here")]
    Unknown,
    /// Not signed by the log's key.
    #[error("not signed by the log's key")]
    Unsigned,
    /// Another state was signed last: the request begins from another size, or has another root at
    /// the same.
    #[error("another state of {signed} entries was signed last")]
    Conflict {
        /// Its size.
        signed: u64,
    },
    /// The proof does not lead from the state that was signed last.
    #[error("the checkpoint does not continue the one that was signed last")]
    Inconsistent,
    /// What was signed cannot be remembered, or is unknown: nothing is signed.
    #[error(transparent)]
    Memory(#[from] ServiceError),
}

impl Service {
    /// A witness of `logs` that remembers in the folder `state`. What stands there is checked at
    /// once; only a witness that has signed nothing yet, and says so by `first`, has none.
    pub fn open(
        name: &Origin,
        key: SigningKey,
        logs: Vec<Watched>,
        state: &Path,
        first: bool,
    ) -> Result<Self, ServiceError> {
        if !first && !state.join(LOCK).exists() {
            return Err(ServiceError::Forgotten(state.to_owned()));
        }
        fs::create_dir_all(state).map_err(access(state))?;
        let service = Self {
            witness: Witness {
                name: name.clone(),
                key: key.public(),
            },
            key,
            logs,
            state: state.to_owned(),
        };
        for (place, log) in service.logs.iter().enumerate() {
            if service.logs[..place]
                .iter()
                .any(|one| one.origin == log.origin)
            {
                return Err(ServiceError::Twice(log.origin.clone()));
            }
            service.signed(log)?;
        }
        drop(service.lock()?);
        Ok(service)
    }

    /// Name and key of the witness.
    #[must_use]
    pub fn witness(&self) -> &Witness {
        &self.witness
    }

    /// Judges a request. The cosignature's line comes back once the checkpoint is remembered.
    pub fn add_checkpoint(&self, body: &[u8], now: UnixTime) -> Result<String, Declined> {
        let request = AddCheckpoint::parse(body).ok_or(Declined::Malformed)?;
        let signed = SignedCheckpoint::parse(&request.note).map_err(|_| Declined::Malformed)?;
        let origin = &signed.unverified().origin;
        let log = self.logs.iter().find(|log| log.origin == *origin);
        let log = log.ok_or(Declined::Unknown)?;
        let new = signed
            .verify(&log.origin, &log.key)
            .map_err(|_| Declined::Unsigned)?;
        let (old, size) = (request.old, new.size);
        if old > size {
            return Err(Declined::Backwards { old, size });
        }
        let lock = self.lock()?;
        let last = self.signed(log)?;
        let signed = last.size;
        if old != signed || (old == size && new.root != last.root) {
            return Err(Declined::Conflict { signed });
        }
        let (last, new_root) = ((last.size, last.root), (size, new.root));
        if !consistency::verify(last, new_root, &request.proof) {
            return Err(Declined::Inconsistent);
        }
        // The memory first: who forgets what it signed signs twice.
        self.remember(log, &request.note)?;
        drop(lock);
        let message = Witness::message(&new, now);
        Ok(self.witness.line(now, &self.key.sign(message.as_bytes())))
    }

    /// Keeps every other request away until it is dropped.
    fn lock(&self) -> Result<File, ServiceError> {
        let path = self.state.join(LOCK);
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(access(&path))?;
        file.lock().map_err(access(&path))?;
        Ok(file)
    }

    /// What was signed last of a log; the empty log if nothing was.
    fn signed(&self, log: &Watched) -> Result<Checkpoint, ServiceError> {
        let path = self.memory(log);
        let note = match files::read_bounded(&path, MAX_NOTE_BYTES as u64) {
            Ok(note) => String::from_utf8_lossy(&note).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Checkpoint {
                    origin: log.origin.clone(),
                    size: 0,
                    root: Digest::sha256(b""),
                });
            }
            Err(source) => return Err(ServiceError::Access { path, source }),
        };
        let signed = SignedCheckpoint::parse(&note);
        let signed = signed.and_then(|note| note.verify(&log.origin, &log.key));
        signed.map_err(|source| ServiceError::State { path, source })
    }

    fn remember(&self, log: &Watched, note: &str) -> Result<(), ServiceError> {
        let path = self.memory(log);
        files::write_whole(&path, note.as_bytes()).map_err(access(&path))?;
        // A name that is not on the disk is forgotten with the power.
        let synced = File::open(&self.state).and_then(|folder| folder.sync_all());
        synced.map_err(access(&self.state))
    }

    fn memory(&self, log: &Watched) -> PathBuf {
        let name = Digest::<32>::sha256(log.origin.as_str().as_bytes());
        self.state.join(name.to_string())
    }
}

fn access(path: &Path) -> impl FnOnce(io::Error) -> ServiceError {
    let path = path.to_owned();
    move |source| ServiceError::Access { path, source }
}
