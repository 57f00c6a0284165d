//! Ed25519 signing keys in PKCS#8 PEM files.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use attest::release::PublicKey;
use ed25519_dalek::Signer;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, KeypairBytes};
use zeroize::Zeroizing;

/// Largest key file.
const MAX_FILE_BYTES: u64 = 4096;

/// A key that signs statements or checkpoints.
pub struct SigningKey {
    key: ed25519_dalek::SigningKey,
    public: PublicKey,
}

/// Why a key cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("{path}")]
    Access {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is a key already.
    #[error("{0} exists already, and a key is never overwritten")]
    Exists(PathBuf),
    /// Others may read the key.
    #[error("{path} has mode {mode:03o}: others than its owner can read it")]
    Permissions {
        /// The key file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Not an Ed25519 key in PKCS#8 PEM.
    #[error("{0} is not an Ed25519 private key in PKCS#8 PEM")]
    Format(PathBuf),
    /// The system gave no randomness.
    #[error("the system gave no randomness: {0}")]
    Random(getrandom::Error),
}

impl SigningKey {
    /// A new key.
    pub fn generate() -> Result<Self, KeyError> {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *secret).map_err(KeyError::Random)?;
        let key = ed25519_dalek::SigningKey::from_bytes(&secret);
        Self::with_public(key).ok_or_else(|| KeyError::Format(PathBuf::new()))
    }

    /// Makes a key and writes it to a new file that only its owner can read.
    pub fn create(path: &Path) -> Result<Self, KeyError> {
        let key = Self::generate()?;
        let form = KeypairBytes {
            secret_key: key.key.to_bytes(),
            public_key: None,
        };
        let pem = form.to_pkcs8_pem(LineEnding::LF);
        let pem = pem.map_err(|_| KeyError::Format(path.to_owned()))?;
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path);
        let mut file = file.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => KeyError::Exists(path.to_owned()),
            _ => access(path)(error),
        })?;
        let written = file
            .write_all(pem.as_bytes())
            .and_then(|()| file.sync_all());
        if let Err(error) = written {
            // Half a key is of no use to anyone; the first error is the one to tell.
            let _ = fs::remove_file(path);
            return Err(access(path)(error));
        }
        Ok(key)
    }

    /// Reads a key file.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let file = crate::files::open(path).map_err(access(path))?;
        let metadata = file.metadata().map_err(access(path))?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let path = path.to_owned();
            return Err(KeyError::Permissions { path, mode });
        }
        let mut pem = Zeroizing::new(String::with_capacity(MAX_FILE_BYTES as usize));
        let read = file.take(MAX_FILE_BYTES).read_to_string(&mut pem);
        read.map_err(access(path))?;
        let key = ed25519_dalek::SigningKey::from_pkcs8_pem(&pem).ok();
        let key = key.and_then(Self::with_public);
        key.ok_or_else(|| KeyError::Format(path.to_owned()))
    }

    /// The key that verifies.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Signs a message.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }

    fn with_public(key: ed25519_dalek::SigningKey) -> Option<Self> {
        let public = PublicKey::from_bytes(&key.verifying_key().to_bytes()).ok()?;
        Some(Self { key, public })
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.public)
    }
}

fn access(path: &Path) -> impl FnOnce(io::Error) -> KeyError {
    let path = path.to_owned();
    move |source| KeyError::Access { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_file_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        let key = SigningKey::create(&path).unwrap();
        let pem = fs::read_to_string(&path).unwrap();
        assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let again = SigningKey::read(&path).unwrap();
        assert_eq!(again.public(), key.public());
        assert!(key.public().verifies(b"m", &again.sign(b"m")));
        assert!(matches!(
            SigningKey::create(&path),
            Err(KeyError::Exists(_))
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), pem);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        SigningKey::create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = SigningKey::read(&path).unwrap_err();
        assert!(matches!(error, KeyError::Permissions { mode: 0o640, .. }));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        assert!(matches!(
            SigningKey::read(&path),
            Err(KeyError::Access { .. })
        ));
        fs::write(
            &path,
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        )
        .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(SigningKey::read(&path), Err(KeyError::Format(_))));
    }
}
