//! Logs of this house in a folder.

use std::path::PathBuf;

use attest::release::{Origin, Statement};
use release::key::SigningKey;
use release::log::Log;
use release::statement::sign;

pub const ORIGIN: &str = "log.example.org/cloister";

/// A log with its key, and the key of whoever releases.
pub struct Logged {
    pub folder: tempfile::TempDir,
    pub path: PathBuf,
    pub key: SigningKey,
    pub signer: SigningKey,
}

impl Logged {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::create(&folder.path().join("log.pem")).unwrap();
        let path = folder.path().join("log");
        Log::create(&path, &origin(), &key).unwrap();
        Self {
            folder,
            path,
            key,
            signer: SigningKey::generate().unwrap(),
        }
    }

    /// Another log with the same name and key.
    pub fn second_face(&self) -> Self {
        let other = Self {
            folder: tempfile::tempdir().unwrap(),
            path: PathBuf::new(),
            key: SigningKey::read(&self.file("log.pem")).unwrap(),
            signer: SigningKey::generate().unwrap(),
        };
        let path = other.folder.path().join("log");
        Log::create(&path, &origin(), &other.key).unwrap();
        Self { path, ..other }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn append(&self, statement: &Statement) {
        let envelope = sign(&statement.encode(), &self.signer);
        let accepted = release::log::Accepted {
            signers: &[self.signer.public()],
            rebuilders: &[],
        };
        Log::append(&self.path, &origin(), &self.key, &envelope, accepted).unwrap();
    }

    /// Releases of these versions, made of the revision `abc`.
    pub fn grow(&self, versions: std::ops::RangeInclusive<u64>) {
        for version in versions {
            let mut statement = super::statement();
            statement.predicate.version = version;
            self.append(&statement);
        }
    }

    pub fn open(&self) -> Log {
        Log::open(&self.path, &origin(), &self.key.public()).unwrap()
    }
}

pub fn origin() -> Origin {
    ORIGIN.to_owned().try_into().unwrap()
}
