//! A copy of somebody else's log, brought up to date file by file. Whoever fetches the files need
//! not be believed: nothing is written unless all of it leads to the root that the log signed, and
//! begins with what the copy holds.

use std::path::Path;

use attest::Digest;
use attest::release::{Origin, PublicKey, SignedCheckpoint, merkle};

use super::store::{MAX_ENTRIES, MAX_LOG_BYTES, Store, decode_entry};
use super::tiles::{self, TilePath};
use super::{Log, LogError, tree};

/// A copy in a folder.
#[derive(Debug)]
pub struct Replica<'a> {
    store: Store,
    origin: &'a Origin,
    key: &'a PublicKey,
}

/// A file of the log, as somebody gave it.
pub type Fetched = (TilePath, Vec<u8>);

impl<'a> Replica<'a> {
    /// The copy in `folder`, of the log `origin` that signs by `key`.
    #[must_use]
    pub fn new(folder: &Path, origin: &'a Origin, key: &'a PublicKey) -> Self {
        Self {
            store: Store(folder.to_owned()),
            origin,
            key,
        }
    }

    /// The files that are missing here for a checkpoint of the log. What is complete is kept.
    pub fn wanted(&self, note: &str) -> Result<Vec<TilePath>, LogError> {
        let size = self.checkpoint(note)?.size;
        if size > MAX_ENTRIES {
            return Err(LogError::TooLarge(self.store.0.clone()));
        }
        let mut paths = TilePath::all(size);
        paths.retain(|path| !self.store.0.join(path.to_string()).is_file());
        Ok(paths)
    }

    /// Takes what was missing, and the checkpoint, if everything fits; opens the copy.
    pub fn put(&self, note: &str, fetched: &[Fetched]) -> Result<Log, LogError> {
        let checkpoint = self.checkpoint(note)?;
        let paths = TilePath::all(checkpoint.size);
        let given = |path: &TilePath| fetched.iter().find(|(own, _)| own == path);
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for path in paths.iter().filter(|path| path.level.is_none()) {
            let bundle = match given(path) {
                Some((_, bundle)) => bundle.clone(),
                None => self.store.read_file(path)?,
            };
            bytes += bundle.len();
            if bytes > MAX_LOG_BYTES {
                return Err(LogError::TooLarge(self.store.0.clone()));
            }
            let parsed = tiles::parse_entries(&bundle, path.width);
            entries.extend(parsed.ok_or_else(|| self.store.bundle_error(path))?);
        }
        for (index, entry) in (0..).zip(&entries) {
            decode_entry(index, entry)?;
        }
        let leaves: Vec<_> = entries.iter().map(|one| merkle::leaf_hash(one)).collect();
        let (expected, found) = (checkpoint.root, tree::root(&leaves));
        if expected != found {
            let path = self.store.0.clone();
            return Err(LogError::Changed {
                path,
                expected,
                found,
            });
        }
        self.check_continues(&leaves)?;
        for (path, bytes) in fetched {
            if tiles::contents(path, &entries, &leaves) != *bytes {
                return Err(LogError::Tile(self.store.0.join(path.to_string())));
            }
        }
        self.store.create()?;
        let lock = self.store.lock()?;
        for (path, bytes) in fetched {
            self.store.write_file(path, bytes)?;
        }
        self.store.write_note(note)?;
        drop(lock);
        Log::open(&self.store.0, self.origin, self.key)
    }

    /// Whether what is new begins with what the copy holds.
    fn check_continues(&self, leaves: &[Digest<32>]) -> Result<(), LogError> {
        let held = match self.store.read_note() {
            Ok(note) => self.checkpoint(&note)?,
            Err(LogError::Missing(_) | LogError::NoCheckpoint(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let size = usize::try_from(held.size).unwrap_or(usize::MAX);
        // Of a log that is smaller now, all of it: it is no beginning either.
        let (expected, found) = (held.root, tree::root(leaves.get(..size).unwrap_or(leaves)));
        match expected == found {
            true => Ok(()),
            false => Err(LogError::Changed {
                path: self.store.0.clone(),
                expected,
                found,
            }),
        }
    }

    fn checkpoint(&self, note: &str) -> Result<super::Checkpoint, LogError> {
        let signed = SignedCheckpoint::parse(note);
        let signed = signed.and_then(|note| note.verify(self.origin, self.key));
        signed.map_err(|source| LogError::Checkpoint {
            path: self.store.checkpoint_path(),
            source,
        })
    }
}
