//! A log's files on the disk: read and found whole, written so that a reader never sees half.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use attest::Digest;
use attest::release::{Checkpoint, Envelope, merkle};

use super::tiles::{self, MAX_BUNDLE_BYTES, TILE_WIDTH, TilePath};
use super::{LogError, tree};
use crate::files;

/// Most bytes of all entries.
pub const MAX_LOG_BYTES: usize = 256 << 20;
/// Most entries: the smallest envelope has more than 100 bytes.
pub(super) const MAX_ENTRIES: u64 = MAX_LOG_BYTES as u64 / 100;

/// A log's folder.
#[derive(Debug, Clone)]
pub(super) struct Store(pub(super) PathBuf);

impl Store {
    pub(super) fn checkpoint_path(&self) -> PathBuf {
        self.0.join("checkpoint")
    }

    /// Keeps other writers away until it is dropped. Readers need no lock: what a checkpoint covers
    /// is never changed.
    pub(super) fn lock(&self) -> Result<File, LogError> {
        let path = self.0.join(".lock");
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LogError::Missing(self.0.clone()),
            _ => access(&path)(error),
        })?;
        file.lock().map_err(access(&path))?;
        Ok(file)
    }

    pub(super) fn read_note(&self) -> Result<String, LogError> {
        let path = self.checkpoint_path();
        fs::read_to_string(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound if self.0.exists() => LogError::NoCheckpoint(path.clone()),
            io::ErrorKind::NotFound => LogError::Missing(self.0.clone()),
            _ => access(&path)(error),
        })
    }

    /// Reads all entries that a checkpoint covers, and checks them and every tile against it.
    pub(super) fn read(
        &self,
        checkpoint: &Checkpoint,
    ) -> Result<(Vec<Vec<u8>>, Vec<Digest<32>>), LogError> {
        if checkpoint.size > MAX_ENTRIES {
            return Err(LogError::TooLarge(self.0.clone()));
        }
        let paths = TilePath::all(checkpoint.size);
        let mut entries: Vec<Vec<u8>> = Vec::new();
        let mut bytes = 0;
        for path in paths.iter().filter(|path| path.level.is_none()) {
            let bundle = self.read_file(path)?;
            bytes += bundle.len();
            let bundle = tiles::parse_entries(&bundle, path.width);
            let bundle = bundle.ok_or_else(|| self.bundle_error(path))?;
            entries.extend(bundle);
            if bytes > MAX_LOG_BYTES {
                return Err(LogError::TooLarge(self.0.clone()));
            }
        }
        for (index, entry) in entries.iter().enumerate() {
            decode_entry(index as u64, entry)?;
        }
        let leaves: Vec<_> = entries
            .iter()
            .map(|entry| merkle::leaf_hash(entry))
            .collect();
        let (expected, found) = (checkpoint.root, tree::root(&leaves));
        if expected != found {
            let path = self.0.clone();
            return Err(LogError::Changed {
                path,
                expected,
                found,
            });
        }
        for path in paths.iter().filter(|path| path.level.is_some()) {
            if self.read_file(path)? != tiles::contents(path, &entries, &leaves) {
                return Err(LogError::Tile(self.0.join(path.to_string())));
            }
        }
        Ok((entries, leaves))
    }

    /// Writes what a log of these entries has and the one of `before` had not. Nothing that a
    /// checkpoint covers is touched.
    pub(super) fn write(
        &self,
        before: u64,
        entries: &[Vec<u8>],
        leaves: &[Digest<32>],
    ) -> Result<(), LogError> {
        let old = TilePath::all(before);
        let new = TilePath::all(entries.len() as u64);
        for path in new.iter().filter(|path| !old.contains(path)) {
            self.write_file(path, &tiles::contents(path, entries, leaves))?;
        }
        Ok(())
    }

    pub(super) fn write_file(&self, path: &TilePath, contents: &[u8]) -> Result<(), LogError> {
        let file = self.0.join(path.to_string());
        let folder = file.parent().unwrap_or(&self.0);
        fs::create_dir_all(folder).map_err(access(folder))?;
        files::write_whole(&file, contents).map_err(access(&file))?;
        sync(folder)
    }

    pub(super) fn create(&self) -> Result<(), LogError> {
        fs::create_dir_all(&self.0).map_err(access(&self.0))
    }

    pub(super) fn bundle_error(&self, path: &TilePath) -> LogError {
        LogError::Bundle(self.0.join(path.to_string()))
    }

    /// Replaces the checkpoint: from here on the new entries count.
    pub(super) fn write_note(&self, note: &str) -> Result<(), LogError> {
        let path = self.checkpoint_path();
        files::write_whole(&path, note.as_bytes()).map_err(access(&path))?;
        sync(&self.0)
    }

    /// Removes the partial files of the state before the last. Whoever reads the log at this moment
    /// has the last checkpoint or the new one.
    pub(super) fn prune(&self, last: u64, size: u64) {
        let kept = [TilePath::all(last), TilePath::all(size)].concat();
        let before = TilePath::all(last.saturating_sub(1));
        for path in before.iter().filter(|path| !kept.contains(path)) {
            if path.width < TILE_WIDTH {
                // What cannot be removed does no harm.
                let _ = fs::remove_file(self.0.join(path.to_string()));
            }
        }
    }

    pub(super) fn read_file(&self, path: &TilePath) -> Result<Vec<u8>, LogError> {
        let path = self.0.join(path.to_string());
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| {
            file.take(MAX_BUNDLE_BYTES as u64 + 1)
                .read_to_end(&mut bytes)
        });
        match read {
            Ok(_) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(LogError::Removed(path)),
            Err(error) => Err(access(&path)(error)),
        }
    }
}

/// An entry is an envelope in its one spelling.
pub(super) fn decode_entry(index: u64, entry: &[u8]) -> Result<Envelope, LogError> {
    match serde_json::from_slice::<Envelope>(entry) {
        Ok(envelope) if envelope.encode() == entry => Ok(envelope),
        _ => Err(LogError::Entry(index)),
    }
}

pub(super) fn access(path: &Path) -> impl FnOnce(io::Error) -> LogError {
    let path = path.to_owned();
    move |source| LogError::Access { path, source }
}

fn sync(folder: &Path) -> Result<(), LogError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(access(folder))
}
