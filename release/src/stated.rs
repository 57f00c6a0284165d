//! What a release states, read from any of the forms in which it is handed around.

use std::io;
use std::path::{Path, PathBuf};

use attest::release::{Bundle, Envelope, MAX_BUNDLE_BYTES, Statement, StatementError};

/// Why a file holds no statement.
#[derive(Debug, thiserror::Error)]
pub enum StatedError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Larger than any bundle.
    #[error("{path} is larger than {MAX_BUNDLE_BYTES} bytes, which no statement or bundle is")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Neither a bundle, nor an envelope, nor a statement.
    #[error("{path} is neither a bundle nor an envelope nor a statement: {source}")]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong with it as a statement.
        source: StatementError,
    },
}

/// Reads the statement in a bundle, an envelope or a file of its own. No signature is checked.
pub fn read(path: &Path) -> Result<Statement, StatedError> {
    let unreadable = |source| StatedError::Read {
        path: path.to_owned(),
        source,
    };
    if path.metadata().map_err(unreadable)?.len() > MAX_BUNDLE_BYTES as u64 {
        return Err(StatedError::TooLarge {
            path: path.to_owned(),
        });
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    parse(&bytes).map_err(|source| StatedError::Form {
        path: path.to_owned(),
        source,
    })
}

/// The statement in the bytes of a bundle, an envelope or a statement.
pub fn parse(bytes: &[u8]) -> Result<Statement, StatementError> {
    if let Ok(bundle) = Bundle::decode(bytes) {
        return Statement::decode(&bundle.envelope.payload);
    }
    match serde_json::from_slice::<Envelope>(bytes) {
        Ok(envelope) => Statement::decode(&envelope.payload),
        Err(_) => Statement::decode(bytes),
    }
}
