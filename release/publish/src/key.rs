//! Keys that somebody keeps: PKCS#8 PEM, ECDSA P-256 or Ed25519.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use sigstore_sign::crypto::KeyPair;
use zeroize::Zeroizing;

/// Largest key file.
const MAX_FILE_BYTES: u64 = 4096;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("{path}")]
    Access {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read the key.
    #[error("{path} has mode {mode:03o}: others than its owner can read it")]
    Permissions {
        /// The key file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Neither ECDSA P-256 nor Ed25519.
    #[error("{0} is no ECDSA P-256 or Ed25519 private key in PKCS#8 PEM")]
    Format(PathBuf),
}

/// Reads a key file that its owner alone can read.
pub fn read_key(path: &Path) -> Result<KeyPair, KeyError> {
    cloister_sigstore::install();
    let access = |source| KeyError::Access {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(access)?;
    let mode = file.metadata().map_err(access)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(KeyError::Permissions { path, mode });
    }
    let mut pem = Zeroizing::new(Vec::with_capacity(MAX_FILE_BYTES as usize));
    file.take(MAX_FILE_BYTES)
        .read_to_end(&mut pem)
        .map_err(access)?;
    let format = || KeyError::Format(path.to_owned());
    let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| format())?;
    KeyPair::from_pkcs8_der(der.secret_pkcs8_der()).map_err(|_| format())
}
