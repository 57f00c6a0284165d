//! The release log: an append-only file and its signed checkpoint.
//!
//! ```text
//! LOG             one entry to a line: an envelope's canonical JSON, line feed
//! LOG.checkpoint  signed note: origin, number of entries, Merkle root over them
//! ```
//!
//! An entry counts once a checkpoint covers it. Appending writes and syncs the line first, then
//! replaces the checkpoint by a rename; a lock on the log file keeps writers apart. Whatever the
//! checkpoint covers must be there, byte for byte: a shorter, changed or torn log is refused
//! and never repaired in silence, since that is how history would be rewritten.

mod tree;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use attest::Digest;
use attest::release::checkpoint::CheckpointError;
use attest::release::statement::Predicate;
use attest::release::{
    Bundle, Checkpoint, Envelope, LogEntry, Origin, PublicKey, SignedCheckpoint, Statement, merkle,
};

use crate::key::SigningKey;

/// Largest log file that is read.
const MAX_LOG_BYTES: u64 = 256 << 20;
/// Largest entry: an envelope in a bundle that is not too large.
const MAX_ENTRY_BYTES: usize = 192 << 10;

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is no log.
    #[error("{0} does not exist")]
    Missing(PathBuf),
    /// There is a log already.
    #[error("{0} exists already, and a log is never begun anew")]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("{path}")]
    Access {
        /// Log or checkpoint.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Larger than we read.
    #[error("{path} has {bytes} bytes; {MAX_LOG_BYTES} is the most")]
    TooLarge {
        /// The log.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The log's checkpoint is missing.
    #[error("{0} is missing: without it nobody can tell whether entries were removed")]
    NoCheckpoint(PathBuf),
    /// The checkpoint does not verify.
    #[error("{path}: {source}")]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        source: CheckpointError,
    },
    /// The last line has no end.
    #[error("{path} ends inside a line that begins at byte {at}: an append was interrupted")]
    Torn {
        /// The log.
        path: PathBuf,
        /// Where the line begins.
        at: usize,
    },
    /// A line is not an envelope in its one spelling.
    #[error("{path}, line {line}: not a signed envelope in its canonical spelling")]
    Entry {
        /// The log.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// Fewer entries than the checkpoint covers.
    #[error("{path} has {found} entries, its checkpoint covers {expected}: entries were removed")]
    Truncated {
        /// The log.
        path: PathBuf,
        /// By the checkpoint.
        expected: u64,
        /// In the file.
        found: u64,
    },
    /// Entries that the checkpoint covers were changed.
    #[error("{path} has the root {found}, its checkpoint says {expected}: entries were changed")]
    Changed {
        /// The log.
        path: PathBuf,
        /// By the checkpoint.
        expected: Digest<32>,
        /// Of the file.
        found: Digest<32>,
    },
    /// An entry that is too large to be verified later.
    #[error("an entry of {0} bytes; {MAX_ENTRY_BYTES} is the most")]
    EntrySize(usize),
    /// The envelope holds no release statement.
    #[error("the envelope: {0}")]
    Statement(#[from] attest::release::StatementError),
    /// The release would be older than, or differ from, one that the log holds.
    #[error(
        "the log holds {name} version {logged} for profile {profile}; another release with \
         version {offered} would be refused by clients as a rollback"
    )]
    Version {
        /// The release's name.
        name: String,
        /// Its profile.
        profile: String,
        /// Highest version in the log.
        logged: u64,
        /// Version of the envelope.
        offered: u64,
    },
    /// No such entry.
    #[error("the log has {size} entries, there is no entry {index}")]
    NoEntry {
        /// Asked for.
        index: u64,
        /// Entries that count.
        size: u64,
    },
}

/// A log that has been read and found whole.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    origin: Origin,
    key: PublicKey,
    /// Every complete line, covered by the checkpoint or not yet.
    lines: Vec<Vec<u8>>,
    checkpoint: Checkpoint,
    note: String,
}

impl Log {
    /// Begins a log with no entry.
    pub fn create(path: &Path, origin: &Origin, key: &SigningKey) -> Result<Self, LogError> {
        let note_path = note_path(path);
        if note_path.exists() {
            return Err(LogError::Exists(note_path));
        }
        let made = OpenOptions::new().append(true).create(true).open(path);
        let file = made.map_err(access(path))?;
        file.lock().map_err(access(path))?;
        // An empty file without a checkpoint is of a beginning that was interrupted.
        if note_path.exists() || file.metadata().map_err(access(path))?.len() > 0 {
            return Err(LogError::Exists(path.to_owned()));
        }
        file.sync_all().map_err(access(path))?;
        let checkpoint = Checkpoint {
            origin: origin.clone(),
            size: 0,
            root: tree::root(&[]),
        };
        write_note(
            path,
            &checkpoint.note(&key.public(), &key.sign(checkpoint.text().as_bytes())),
        )?;
        drop(file);
        Self::open(path, origin, &key.public())
    }

    /// Reads a log and checks it against its checkpoint, no writer between the two.
    pub fn open(path: &Path, origin: &Origin, key: &PublicKey) -> Result<Self, LogError> {
        let file = open_file(path, OpenOptions::new().read(true))?;
        file.lock_shared().map_err(access(path))?;
        Self::read(path, origin, key, &file)
    }

    /// Opens a log, appends an envelope and signs the new checkpoint, with the log locked
    /// throughout. The very same envelope once more gives its entry once more.
    pub fn append(
        path: &Path,
        origin: &Origin,
        key: &SigningKey,
        envelope: &Envelope,
    ) -> Result<(Self, Bundle), LogError> {
        let file = open_file(path, OpenOptions::new().read(true).append(true))?;
        file.lock().map_err(access(path))?;
        let mut log = Self::read(path, origin, &key.public(), &file)?;
        let line = envelope.encode();
        if line.len() > MAX_ENTRY_BYTES {
            return Err(LogError::EntrySize(line.len()));
        }
        let index = match log.lines.iter().position(|entry| *entry == line) {
            Some(index) => index,
            None => {
                log.check_version(envelope)?;
                log.push(&file, line)?;
                log.lines.len() - 1
            }
        };
        log.sign_checkpoint(key)?;
        let bundle = log.bundle(index as u64)?;
        Ok((log, bundle))
    }

    /// The signed checkpoint.
    pub fn checkpoint_note(&self) -> &str {
        &self.note
    }

    /// What the checkpoint says.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The entries that the checkpoint covers: each an envelope's canonical JSON.
    pub fn entries(&self) -> &[Vec<u8>] {
        &self.lines[..(self.checkpoint.size as usize).min(self.lines.len())]
    }

    /// An entry with its proof under the current checkpoint.
    pub fn bundle(&self, index: u64) -> Result<Bundle, LogError> {
        let entries = self.entries();
        let position = usize::try_from(index).ok().filter(|&at| at < entries.len());
        let position = position.ok_or(LogError::NoEntry {
            index,
            size: entries.len() as u64,
        })?;
        let envelope = decode_entry(&self.path, position, &entries[position])?;
        let log = LogEntry {
            index,
            proof: tree::proof(position, &leaves(entries)),
            checkpoint: self.note.clone(),
        };
        Ok(Bundle::new(envelope, log))
    }

    /// What each entry states; `None` for one that is no release statement.
    pub fn releases(&self) -> impl Iterator<Item = Option<Predicate>> {
        self.entries().iter().map(|line| stated(line))
    }

    /// The highest version that the log holds of a release's name and profile.
    pub fn highest_version(&self, name: &str, profile: &str) -> Option<u64> {
        let releases = self.lines.iter().filter_map(|line| stated(line));
        let same = releases
            .filter(|release| release.name.as_str() == name && release.profile.as_str() == profile);
        same.map(|release| release.version).max()
    }

    /// Reads a log whose file the caller has locked.
    fn read(path: &Path, origin: &Origin, key: &PublicKey, file: &File) -> Result<Self, LogError> {
        let bytes = read_file(path, file)?;
        let lines = parse(path, &bytes)?;
        let note_path = note_path(path);
        let note = fs::read_to_string(&note_path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LogError::NoCheckpoint(note_path.clone()),
            _ => access(&note_path)(error),
        })?;
        let checkpoint = SignedCheckpoint::parse(&note).and_then(|note| note.verify(origin, key));
        let checkpoint = checkpoint.map_err(|source| LogError::Checkpoint {
            path: note_path,
            source,
        })?;
        check_covered(path, &lines, &checkpoint)?;
        Ok(Self {
            path: path.to_owned(),
            origin: origin.clone(),
            key: *key,
            lines,
            checkpoint,
            note,
        })
    }

    /// A release's version only ever grows: nobody could install another one.
    fn check_version(&self, envelope: &Envelope) -> Result<(), LogError> {
        let release = Statement::decode(&envelope.payload)?.predicate;
        let (name, profile) = (release.name.to_string(), release.profile.to_string());
        match self.highest_version(&name, &profile) {
            Some(logged) if release.version <= logged => Err(LogError::Version {
                name,
                profile,
                logged,
                offered: release.version,
            }),
            _ => Ok(()),
        }
    }

    fn push(&mut self, mut file: &File, line: Vec<u8>) -> Result<(), LogError> {
        let mut text = line.clone();
        text.push(b'\n');
        let before = file.metadata().map_err(access(&self.path))?.len();
        let written = file.write_all(&text).and_then(|()| file.sync_all());
        written.map_err(|error| {
            // Half a line would stop every later append; the first error is the one to tell.
            let _ = file.set_len(before);
            access(&self.path)(error)
        })?;
        self.lines.push(line);
        Ok(())
    }

    fn sign_checkpoint(&mut self, key: &SigningKey) -> Result<(), LogError> {
        debug_assert_eq!(key.public(), self.key);
        let checkpoint = Checkpoint {
            origin: self.origin.clone(),
            size: self.lines.len() as u64,
            root: tree::root(&leaves(&self.lines)),
        };
        if checkpoint != self.checkpoint {
            let signature = key.sign(checkpoint.text().as_bytes());
            let note = checkpoint.note(&key.public(), &signature);
            write_note(&self.path, &note)?;
            (self.note, self.checkpoint) = (note, checkpoint);
        }
        Ok(())
    }
}

/// Splits a log file into entries; each must be an envelope in its one spelling.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Vec<u8>>, LogError> {
    let mut lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    let rest = lines.pop().unwrap_or_default();
    if !rest.is_empty() {
        return Err(LogError::Torn {
            path: path.to_owned(),
            at: bytes.len() - rest.len(),
        });
    }
    for (position, line) in lines.iter().enumerate() {
        decode_entry(path, position, line)?;
    }
    Ok(lines.into_iter().map(<[u8]>::to_vec).collect())
}

fn decode_entry(path: &Path, position: usize, line: &[u8]) -> Result<Envelope, LogError> {
    let malformed = || LogError::Entry {
        path: path.to_owned(),
        line: position + 1,
    };
    if line.len() > MAX_ENTRY_BYTES {
        return Err(malformed());
    }
    let envelope: Envelope = serde_json::from_slice(line).map_err(|_| malformed())?;
    match envelope.encode() == line {
        true => Ok(envelope),
        false => Err(malformed()),
    }
}

fn stated(line: &[u8]) -> Option<Predicate> {
    let envelope: Envelope = serde_json::from_slice(line).ok()?;
    Some(Statement::decode(&envelope.payload).ok()?.predicate)
}

/// What the checkpoint covers is there and unchanged. Complete lines beyond it are of an append
/// that was interrupted before its checkpoint; the next append covers them.
fn check_covered(path: &Path, lines: &[Vec<u8>], checkpoint: &Checkpoint) -> Result<(), LogError> {
    let covered = usize::try_from(checkpoint.size)
        .ok()
        .and_then(|size| lines.get(..size));
    let covered = covered.ok_or_else(|| LogError::Truncated {
        path: path.to_owned(),
        expected: checkpoint.size,
        found: lines.len() as u64,
    })?;
    let found = tree::root(&leaves(covered));
    match found == checkpoint.root {
        true => Ok(()),
        false => Err(LogError::Changed {
            path: path.to_owned(),
            expected: checkpoint.root,
            found,
        }),
    }
}

fn leaves(entries: &[Vec<u8>]) -> Vec<Digest<32>> {
    entries
        .iter()
        .map(|entry| merkle::leaf_hash(entry))
        .collect()
}

fn open_file(path: &Path, options: &OpenOptions) -> Result<File, LogError> {
    options.open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => LogError::Missing(path.to_owned()),
        _ => access(path)(error),
    })
}

fn read_file(path: &Path, file: &File) -> Result<Vec<u8>, LogError> {
    let bytes = file.metadata().map_err(access(path))?.len();
    if bytes > MAX_LOG_BYTES {
        let path = path.to_owned();
        return Err(LogError::TooLarge { path, bytes });
    }
    let mut contents = Vec::with_capacity(bytes as usize);
    file.take(MAX_LOG_BYTES)
        .read_to_end(&mut contents)
        .map_err(access(path))?;
    Ok(contents)
}

/// Where a log's checkpoint stands.
pub fn note_path(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".checkpoint");
    name.into()
}

/// Replaces the checkpoint as a whole; the caller holds the log's lock.
fn write_note(log: &Path, note: &str) -> Result<(), LogError> {
    let path = note_path(log);
    let staging = path.with_extension("checkpoint.partial");
    let replace = || {
        let mut file = File::create(&staging)?;
        file.write_all(note.as_bytes())?;
        file.sync_all()?;
        fs::rename(&staging, &path)?;
        let folder = std::path::absolute(&path)?;
        File::open(folder.parent().unwrap_or(&folder))?.sync_all()
    };
    replace().map_err(access(&path))
}

fn access(path: &Path) -> impl FnOnce(io::Error) -> LogError {
    let path = path.to_owned();
    move |source| LogError::Access { path, source }
}
