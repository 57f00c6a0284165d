//! The release log: an append-only tree of signed statements, in a folder that other people's
//! tools read (C2SP tlog-tiles, tlog-checkpoint), and that any web server can serve.
//!
//! ```text
//! DIR/checkpoint         signed note: origin, number of entries, Merkle root over them
//! DIR/tile/entries/…     the entries: each an envelope's canonical JSON
//! DIR/tile/0/… 1/… …     the tree's hashes
//! ```
//!
//! An entry counts once the checkpoint covers it. Appending writes and syncs tiles first, each
//! whole or not at all, then replaces the checkpoint by a rename; a lock keeps writers apart.
//! Whatever the checkpoint covers must be there, byte for byte: a log that lost or changed
//! something is refused and never repaired in silence, since that is how history would be
//! rewritten. What an interrupted append left beyond the checkpoint was promised to nobody, and the
//! next one replaces it.

pub mod consistency;
pub mod replica;

pub mod serve;
mod store;
pub mod tiles;
mod tree;
pub mod witness;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use attest::Digest;
use attest::release::checkpoint::CheckpointError;
use attest::release::statement::{
    Predicate, Rebuild, RebuildStatement, Revocation, StatusStatement,
};
use attest::release::{
    Bundle, Checkpoint, Envelope, EnvelopeError, History, HistoryError, LogEntry, MAX_BUNDLE_BYTES,
    MAX_REMARKS, Origin, PublicKey, Remark, SignedCheckpoint, Statement, StatementError,
};

use crate::key::SigningKey;
pub use store::MAX_LOG_BYTES;
use store::{Store, access, decode_entry};
use tiles::MAX_ENTRY_BYTES;

/// Entries whose hashes a bundle lists, so that clients that saw the log since then can follow.
pub const HISTORY_ENTRIES: usize = 256;

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is no log.
    #[error("{0} does not exist")]
    Missing(PathBuf),
    /// There is something already.
    #[error("{0} exists already, and a log is never begun anew")]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("{path}")]
    Access {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Larger than we read.
    #[error("{0} is larger than a log of releases can be")]
    TooLarge(PathBuf),
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
    /// A file that the checkpoint covers is not there.
    #[error("{0} is missing, and the checkpoint covers it: entries were removed")]
    Removed(PathBuf),
    /// A bundle of entries is no such thing, or has not the number of entries of its name.
    #[error("{0} does not hold as many whole entries as its name says")]
    Bundle(PathBuf),
    /// An entry is not an envelope in its one spelling.
    #[error("entry {0}: not a signed envelope in its canonical spelling")]
    Entry(u64),
    /// Entries that the checkpoint covers were changed.
    #[error("{path} has the root {found}, its checkpoint says {expected}: entries were changed")]
    Changed {
        /// The log.
        path: PathBuf,
        /// By the checkpoint.
        expected: Digest<32>,
        /// Of the entries.
        found: Digest<32>,
    },
    /// A tile does not hold the hashes of the entries.
    #[error("{0} does not hold the hashes of the log's entries")]
    Tile(PathBuf),
    /// An entry that is larger than the format allows.
    #[error("an entry of {0} bytes; {MAX_ENTRY_BYTES} is the most")]
    EntrySize(usize),
    /// The envelope holds no statement of ours.
    #[error("the envelope: {0}")]
    Statement(#[from] StatementError),
    /// Signed by nobody whose envelopes the log's keeper takes.
    #[error("the envelope holds a {0}, and nobody signed it whose {0} this log takes")]
    Signer(Kind),
    /// A signature in the name of somebody whose envelopes are taken is none of theirs.
    #[error("the envelope: {0}")]
    Envelope(EnvelopeError),
    /// A bundle is of a release.
    #[error("entry {index} is a {kind}, and a bundle is of a release")]
    NoRelease {
        /// The entry.
        index: u64,
        /// What it is.
        kind: Kind,
    },
    /// A status takes a revocation back.
    #[error(
        "version {0} of this release's line was revoked before, and this status does not say so"
    )]
    TakenBack(u64),
    /// A release with all that was said of it is more than clients read.
    #[error("the bundle has {0} bytes; {MAX_BUNDLE_BYTES} is the most")]
    BundleSize(usize),
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
    /// The log has another checkpoint than the one that was signed.
    #[error("the log has gone on to {0} entries meanwhile")]
    WentOn(u64),
    /// A history that cannot be stated.
    #[error(transparent)]
    History(#[from] HistoryError),
}

/// Whose envelopes the keeper of a log takes. A log cannot forget: what strangers state in it would
/// stand in the makers' way for ever.
#[derive(Debug, Clone, Copy)]
pub struct Accepted<'a> {
    /// Who signs releases and their status.
    pub signers: &'a [PublicKey],
    /// Who signs rebuilds.
    pub rebuilders: &'a [PublicKey],
}

/// The kinds of statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A release.
    Release,
    /// What became of one.
    Status,
    /// What came out of a rebuild.
    Rebuild,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Release => "release",
            Self::Status => "status",
            Self::Rebuild => "rebuild",
        })
    }
}

/// What an entry states.
#[derive(Debug, Clone)]
pub enum Stated {
    /// A release.
    Release(Box<Statement>),
    /// That a release is current, or revoked.
    Status(StatusStatement),
    /// That somebody rebuilt one.
    Rebuild(Box<RebuildStatement>),
}

/// A log that has been read and found whole.
#[derive(Debug)]
pub struct Log {
    store: Store,
    origin: Origin,
    entries: Vec<Vec<u8>>,
    leaves: Vec<Digest<32>>,
    checkpoint: Checkpoint,
    note: String,
}

impl LogError {
    /// Whether the log itself is at fault: what it signed, and what it shows, are not one.
    #[must_use]
    pub fn shows_damage(&self) -> bool {
        matches!(
            self,
            Self::NoCheckpoint(_)
                | Self::Checkpoint { .. }
                | Self::Removed(_)
                | Self::Bundle(_)
                | Self::Entry(_)
                | Self::Tile(_)
                | Self::Changed { .. }
        )
    }
}

impl Stated {
    /// Which kind of statement it is.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Release(_) => Kind::Release,
            Self::Status(_) => Kind::Status,
            Self::Rebuild(_) => Kind::Rebuild,
        }
    }

    /// Reads the statement in an envelope.
    pub fn decode(payload: &[u8]) -> Result<Self, StatementError> {
        if let Ok(status) = StatusStatement::decode(payload) {
            return Ok(Self::Status(status));
        }
        if let Ok(rebuild) = RebuildStatement::decode(payload) {
            return Ok(Self::Rebuild(Box::new(rebuild)));
        }
        let release = Statement::decode(payload)?;
        Ok(Self::Release(Box::new(release)))
    }
}

impl Log {
    /// Begins a log with no entry, in a folder that is empty or not there.
    pub fn create(path: &Path, origin: &Origin, key: &SigningKey) -> Result<Self, LogError> {
        fs::create_dir_all(path).map_err(access(path))?;
        let store = Store(path.to_owned());
        let lock = store.lock()?;
        for name in ["checkpoint", "tile"] {
            let there = path.join(name);
            if there.exists() {
                return Err(LogError::Exists(there));
            }
        }
        let checkpoint = Checkpoint {
            origin: origin.clone(),
            size: 0,
            root: tree::root(&[]),
        };
        store.write_note(&sign(&checkpoint, key))?;
        drop(lock);
        Self::open(path, origin, &key.public())
    }

    /// Reads a log, and checks all of it against its checkpoint.
    pub fn open(path: &Path, origin: &Origin, key: &PublicKey) -> Result<Self, LogError> {
        let store = Store(path.to_owned());
        let note = store.read_note()?;
        let checkpoint = SignedCheckpoint::parse(&note).and_then(|note| note.verify(origin, key));
        let checkpoint = checkpoint.map_err(|source| LogError::Checkpoint {
            path: store.checkpoint_path(),
            source,
        })?;
        let (entries, leaves) = store.read(&checkpoint)?;
        Ok(Self {
            store,
            origin: origin.clone(),
            entries,
            leaves,
            checkpoint,
            note,
        })
    }

    /// Opens a log, appends an envelope of who is accepted and signs the new checkpoint, with the
    /// log locked throughout. The very same envelope once more gives its entry once more.
    pub fn append(
        path: &Path,
        origin: &Origin,
        key: &SigningKey,
        envelope: &Envelope,
        accepted: Accepted<'_>,
    ) -> Result<(Self, u64), LogError> {
        let lock = Store(path.to_owned()).lock()?;
        let mut log = Self::open(path, origin, &key.public())?;
        let entry = envelope.encode();
        if entry.len() > MAX_ENTRY_BYTES {
            return Err(LogError::EntrySize(entry.len()));
        }
        let index = match log.entries.iter().position(|known| *known == entry) {
            Some(index) => index,
            None => {
                log.check_statement(envelope, accepted)?;
                log.push(entry, key)?
            }
        };
        drop(lock);
        Ok((log, index as u64))
    }

    /// Adds a witness's line under `signed`, in the place of an older one in the same name, unless
    /// the log has gone on meanwhile.
    pub fn add_cosignature(
        path: &Path,
        origin: &Origin,
        key: &PublicKey,
        signed: &Checkpoint,
        line: &str,
    ) -> Result<(), LogError> {
        let lock = Store(path.to_owned()).lock()?;
        let log = Self::open(path, origin, key)?;
        if log.checkpoint != *signed {
            return Err(LogError::WentOn(log.checkpoint.size));
        }
        let note = replace_line(&log.note, line);
        SignedCheckpoint::parse(&note).map_err(|source| LogError::Checkpoint {
            path: log.store.checkpoint_path(),
            source,
        })?;
        log.store.write_note(&note)?;
        drop(lock);
        Ok(())
    }

    /// The signed checkpoint.
    pub fn checkpoint_note(&self) -> &str {
        &self.note
    }

    /// What the checkpoint says.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The entries: each an envelope's canonical JSON.
    pub fn entries(&self) -> &[Vec<u8>] {
        &self.entries
    }

    /// The root of the log when it had `size` entries.
    pub fn root_at(&self, size: u64) -> Option<Digest<32>> {
        let leaves = self.leaves.get(..usize::try_from(size).ok()?)?;
        Some(tree::root(leaves))
    }

    /// Hashes of the entries.
    pub fn leaves(&self) -> &[Digest<32>] {
        &self.leaves
    }

    /// A release with its proof under the current checkpoint, and what was logged of it since: the
    /// last status, which holds all that was revoked before, and each rebuilder's last rebuild.
    pub fn bundle(&self, index: u64, history: usize) -> Result<Bundle, LogError> {
        let (envelope, proof) = self.prove(index)?;
        let release = match Stated::decode(&envelope.payload)? {
            Stated::Release(release) => *release,
            other => {
                let kind = other.kind();
                return Err(LogError::NoRelease { index, kind });
            }
        };
        let subject = Digest::sha256(&envelope.payload);
        let (mut status, mut rebuilds) = (None, BTreeMap::new());
        for (index, stated) in (0..).zip(self.stated()) {
            match stated {
                Some(Stated::Status(said))
                    if said.subject.iter().any(|one| one.digest.sha256 == subject) =>
                {
                    status = Some(index);
                }
                Some(Stated::Rebuild(made)) if Rebuild::confirms(&made, &release) => {
                    let signatures = self.prove(index)?.0.signatures;
                    let keys: Vec<_> = signatures.iter().map(|one| one.keyid.to_bytes()).collect();
                    rebuilds.insert(keys, index);
                }
                _ => {}
            }
        }
        let remark = |index: u64| {
            let (envelope, proof) = self.prove(index)?;
            Ok(Remark {
                envelope,
                index,
                proof,
            })
        };
        let remarks = status.into_iter().chain(rebuilds.into_values());
        let remarks = remarks.take(MAX_REMARKS);
        let remarks: Result<Vec<_>, LogError> = remarks.map(remark).collect();
        let log = LogEntry {
            index,
            proof,
            checkpoint: self.note.clone(),
            history: History::of(&self.leaves, history)?,
        };
        let bundle = Bundle::new(envelope, log, remarks?);
        match bundle.encode().len() {
            bytes if bytes > MAX_BUNDLE_BYTES => Err(LogError::BundleSize(bytes)),
            _ => Ok(bundle),
        }
    }

    /// What each entry states; `None` for one that is no statement of ours.
    pub fn stated(&self) -> impl Iterator<Item = Option<Stated>> {
        self.envelopes()
            .map(|envelope| Stated::decode(&envelope.ok()?.payload).ok())
    }

    /// Each entry as the envelope that it is.
    pub fn envelopes(&self) -> impl Iterator<Item = Result<Envelope, LogError>> {
        let entries = (0..).zip(&self.entries);
        entries.map(|(index, entry)| decode_entry(index, entry))
    }

    /// What each release states.
    pub fn releases(&self) -> impl Iterator<Item = Predicate> {
        self.stated().filter_map(|stated| match stated {
            Some(Stated::Release(statement)) => Some(statement.predicate),
            _ => None,
        })
    }

    /// The highest version that the log holds of a release's name and profile.
    pub fn highest_version(&self, name: &str, profile: &str) -> Option<u64> {
        let same = self
            .releases()
            .filter(|release| release.name.as_str() == name && release.profile.as_str() == profile);
        same.map(|release| release.version).max()
    }

    fn prove(&self, index: u64) -> Result<(Envelope, Vec<Digest<32>>), LogError> {
        let position = usize::try_from(index).unwrap_or(usize::MAX);
        let entry = self.entries.get(position).ok_or(LogError::NoEntry {
            index,
            size: self.checkpoint.size,
        })?;
        Ok((
            decode_entry(index, entry)?,
            tree::proof(position, &self.leaves),
        ))
    }

    /// A statement of who is accepted; a release's version only ever grows, as nobody could install
    /// another; and what was revoked stays revoked.
    fn check_statement(&self, envelope: &Envelope, accepted: Accepted<'_>) -> Result<(), LogError> {
        let stated = Stated::decode(&envelope.payload)?;
        let kind = stated.kind();
        let keys = match kind {
            Kind::Release | Kind::Status => accepted.signers,
            Kind::Rebuild => accepted.rebuilders,
        };
        envelope.verify(keys).map_err(|error| match error {
            EnvelopeError::UnknownSigner => LogError::Signer(kind),
            error => LogError::Envelope(error),
        })?;
        match &stated {
            Stated::Release(release) => self.check_version(&release.predicate),
            Stated::Status(status) => self.check_revocations(status),
            Stated::Rebuild(_) => Ok(()),
        }
    }

    fn check_version(&self, release: &Predicate) -> Result<(), LogError> {
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

    fn check_revocations(&self, status: &StatusStatement) -> Result<(), LogError> {
        let earlier = self.stated().filter_map(|stated| match stated {
            Some(Stated::Status(said)) if said.subject == status.subject => Some(said.predicate),
            _ => None,
        });
        let revoked: Vec<_> = status.predicate.revocations.iter().collect();
        let still = |one: &Revocation| revoked.iter().any(|now| now.version == one.version);
        let taken_back = earlier.flat_map(|said| said.revocations);
        match { taken_back }.find(|one| !still(one)) {
            Some(one) => Err(LogError::TakenBack(one.version)),
            None => Ok(()),
        }
    }

    fn push(&mut self, entry: Vec<u8>, key: &SigningKey) -> Result<usize, LogError> {
        let before = self.checkpoint.size;
        self.leaves.push(attest::release::merkle::leaf_hash(&entry));
        self.entries.push(entry);
        self.store.write(before, &self.entries, &self.leaves)?;
        self.checkpoint = Checkpoint {
            origin: self.origin.clone(),
            size: self.leaves.len() as u64,
            root: tree::root(&self.leaves),
        };
        self.note = sign(&self.checkpoint, key);
        self.store.write_note(&self.note)?;
        self.store.prune(before, self.checkpoint.size);
        Ok(self.entries.len() - 1)
    }
}

fn sign(checkpoint: &Checkpoint, key: &SigningKey) -> String {
    let signature = key.sign(checkpoint.text().as_bytes());
    checkpoint.note(&key.public(), &signature)
}

/// The note with `line` behind it, and without other lines in the same name. The log's own, which
/// is the first, stays.
fn replace_line(note: &str, line: &str) -> String {
    let name = |line: &str| line.split(' ').nth(1).map(str::to_owned);
    let (text, signatures) = note.split_once("\n\n").unwrap_or((note, ""));
    let lines = signatures.split_inclusive('\n').enumerate();
    let kept = lines.filter(|(place, old)| *place == 0 || name(old) != name(line));
    let kept: String = kept.map(|(_, old)| old).collect();
    format!("{text}\n\n{kept}{line}")
}
