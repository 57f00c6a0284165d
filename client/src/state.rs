//! What the client remembers: the highest version of each line of releases that it accepted, what
//! it knows to be revoked, and how each log looked when it was largest.
//!
//! ```json
//! {"version":3,
//!  "releases":{"SHA-256 of name, profile, log":{"name":"cloister","highest":7,
//!                                               "statement":"SHA-256","revocations":[]}},
//!  "logs":{"SHA-256 of origin, key":{"origin":"log.example.org/cloister","history":{…}}},
//!  "sigstore":[{"origin":"rekor.example.org","log":"SHA-256 of its id","size":9,"root":"…"}]}
//! ```
//!
//! The file is replaced as a whole, under a lock, and what another client wrote meanwhile is judged
//! before it is: two clients that were shown two faces of a log do not both go on. A file that does
//! not read, or is of another version, is a failure, never an empty memory: whoever can damage it
//! could otherwise roll a release back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use attest::policy::{LogPolicy, ReleasePolicy};
use attest::release::statement::Revocation;
use attest::release::{History, Origin, Seen, SeenCheckpoint, SigstoreVerifier, VerifiedRelease};
use attest::{Digest, Name, Ratchet};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, reason};

const FILE: &str = "state.json";
const MAX_BYTES: u64 = 4 << 20;
const VERSION: u64 = 3;

pub(crate) struct State {
    folder: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u64,
    releases: BTreeMap<String, Line>,
    logs: BTreeMap<String, Log>,
    sigstore: Vec<SeenCheckpoint>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: Name,
    highest: u64,
    statement: Option<Digest<32>>,
    revocations: Vec<Revocation>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Log {
    origin: Origin,
    history: History,
}

impl State {
    /// In `folder`, or where the system keeps such things.
    pub(crate) fn at(folder: Option<PathBuf>) -> Result<Self, Failure> {
        let variable = |name| {
            let path = PathBuf::from(std::env::var_os(name)?);
            path.is_absolute().then_some(path)
        };
        let folder = folder
            .or_else(|| Some(variable("XDG_STATE_HOME")?.join("cloister")))
            .or_else(|| Some(variable("HOME")?.join(".local/state/cloister")))
            .ok_or_else(|| {
                Failure::misuse("no place to remember release versions: HOME is not set")
                    .hint("name a folder by --state DIR")
            })?;
        Ok(Self { folder })
    }

    /// What is remembered of the releases that `policy` accepts, and of their log.
    pub(crate) fn ratchet(&self, policy: &ReleasePolicy) -> Result<Ratchet, Failure> {
        Ok(self.read()?.ratchet(policy))
    }

    /// Remembers what a bundle of the policy's makers teaches though it is not accepted.
    pub(crate) fn learn(
        &self,
        policy: &ReleasePolicy,
        bundle: &[u8],
        sigstore: &dyn SigstoreVerifier,
    ) -> Result<(), Failure> {
        self.update(policy, |seen| {
            Ok(attest::learn(bundle, policy, seen, sigstore))
        })
    }

    /// Remembers that `release` was accepted, unless it takes back what another client has seen
    /// meanwhile.
    pub(crate) fn accepted(
        &self,
        policy: &ReleasePolicy,
        release: &VerifiedRelease,
    ) -> Result<(), Failure> {
        self.update(policy, |seen| Ok(seen.advance(release)?))
    }

    /// Nothing is written where nothing changes.
    fn update(
        &self,
        policy: &ReleasePolicy,
        change: impl Fn(&Ratchet) -> Result<Ratchet, Failure>,
    ) -> Result<(), Failure> {
        let seen = self.ratchet(policy)?;
        if change(&seen)? == seen {
            return Ok(());
        }
        self.replace(policy, change)
            .map_err(|error| self.unwritable(&error))?
    }

    fn replace(
        &self,
        policy: &ReleasePolicy,
        change: impl Fn(&Ratchet) -> Result<Ratchet, Failure>,
    ) -> io::Result<Result<(), Failure>> {
        fs::create_dir_all(&self.folder)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.folder.join("state.lock"))?;
        lock.lock()?;
        // Read again: another client may have written before the lock was ours.
        let judged = self.read().and_then(|content| {
            let ratchet = change(&content.ratchet(policy))?;
            Ok((content, ratchet))
        });
        let (mut content, ratchet) = match judged {
            Ok(judged) => judged,
            Err(failure) => return Ok(Err(failure)),
        };
        content.remember(policy, &ratchet);
        let mut bytes = serde_json::to_vec(&content)?;
        bytes.push(b'\n');
        if bytes.len() as u64 >= MAX_BYTES {
            return Ok(Err(self.full()));
        }
        replace(&self.folder, &bytes)?;
        Ok(Ok(()))
    }

    fn read(&self) -> Result<Content, Failure> {
        let path = self.folder.join(FILE);
        let empty = Content {
            version: VERSION,
            releases: BTreeMap::new(),
            logs: BTreeMap::new(),
            sigstore: Vec::new(),
        };
        let bytes = match read_bounded(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(empty),
            Err(error) => return Err(unreadable(&path, &error)),
        };
        match serde_json::from_slice::<Content>(&bytes) {
            Ok(content) if content.version == VERSION => Ok(content),
            _ => Err(damaged(&path)),
        }
    }

    fn full(&self) -> Failure {
        Failure::misuse(format_args!(
            "the memory in {} would be larger than {MAX_BYTES} bytes",
            self.folder.display()
        ))
        .hint("name another folder for other operators by --state DIR")
    }

    fn unwritable(&self, error: &io::Error) -> Failure {
        let read_only = error.kind() == io::ErrorKind::ReadOnlyFilesystem;
        Failure::misuse(format_args!(
            "cannot remember the release version in {}: {}",
            self.folder.display(),
            reason(error)
        ))
        .hint(match read_only {
            true => "without a memory an old release could come back: name a folder by --state DIR",
            false => "name a folder that you may write to by --state DIR",
        })
    }
}

impl Content {
    fn ratchet(&self, policy: &ReleasePolicy) -> Ratchet {
        let line = self.releases.get(&policy.line().to_string());
        let log = policy.log().map(|log| log_of(log).to_string());
        let log = log.and_then(|log| self.logs.get(&log));
        Ratchet::new(
            line.map_or(0, |line| line.highest),
            line.and_then(|line| line.statement),
            line.map_or_else(Vec::new, |line| line.revocations.clone()),
            Seen {
                history: log.map(|log| log.history.clone()),
                checkpoints: self.sigstore.clone(),
            },
        )
    }

    fn remember(&mut self, policy: &ReleasePolicy, ratchet: &Ratchet) {
        let line = Line {
            name: policy.name.clone(),
            highest: ratchet.version(),
            statement: ratchet.statement(),
            revocations: ratchet.revocations().to_vec(),
        };
        self.releases.insert(policy.line().to_string(), line);
        if let (Some(policy), Some(history)) = (policy.log(), ratchet.log()) {
            let log = Log {
                origin: policy.log_origin.clone(),
                history: history.clone(),
            };
            self.logs.insert(log_of(policy).to_string(), log);
        }
        self.sigstore = ratchet.checkpoints().to_vec();
    }
}

/// Names the log: releases of several lines may be in one.
fn log_of(policy: &LogPolicy) -> Digest<32> {
    let (origin, key) = (policy.log_origin.as_str(), policy.log_key.to_bytes());
    Digest::sha256(&[origin.as_bytes(), b"\n", &key[..]].concat())
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let (path, cause) = (path.display(), reason(error));
    Failure::misuse(format_args!("cannot read the state file {path}: {cause}"))
        .hint("name another folder by --state DIR")
}

fn damaged(path: &Path) -> Failure {
    let path = path.display();
    Failure::misuse(format_args!(
        "the state file {path} is damaged, half written, or of another version"
    ))
    .hint("it guards against old releases; if you know what broke it, delete it to start anew")
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes beside, then renames: a reader sees the old file or the new one.
fn replace(folder: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = folder.join("state.json.new");
    // What a client that died left there, or somebody's link to another file, is not written to.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::create_new(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, folder.join(FILE))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use attest::Refusal;
    use attest::release::NoSigstore;

    use super::*;
    use signer::{NOW, World};

    fn state(folder: &tempfile::TempDir) -> State {
        State::at(Some(folder.path().join("deep/state"))).unwrap()
    }

    fn policy() -> ReleasePolicy {
        World::new().policy().release
    }

    /// The world's release with another version, in a log with `others` further entries.
    fn release(version: u64, others: u8) -> VerifiedRelease {
        let mut world = World::new();
        world.predicate.version = version;
        let mut log = world.log();
        let index = log.append(&world.envelope());
        let rebuilt = signer::release::rebuild(&world.statement(), 0).encode();
        let remark = log.append(&signer::release::sign(&rebuilt, &world.rebuilder_key));
        (0..others).for_each(|entry| log.append_other(&[entry]));
        let bundle = world.bundle_of(&log, index, &[remark]).encode();
        attest::verify_release(&bundle, &policy(), &Ratchet::UNSEEN, NOW).unwrap()
    }

    /// A release of that version in a log with another first entry.
    fn other_face(version: u64) -> VerifiedRelease {
        let mut world = World::new();
        world.predicate.version = version;
        let mut log = world.log();
        log.append_other(b"first");
        let index = log.append(&world.envelope());
        let bundle = world.bundle_of(&log, index, &[]).encode();
        let mut policy = policy();
        policy.minimum_rebuilders = 0;
        attest::verify_release(&bundle, &policy, &Ratchet::UNSEEN, NOW).unwrap()
    }

    fn history(release: &VerifiedRelease) -> &History {
        match release.published() {
            attest::release::Published::Log(log) => &log.history,
            attest::release::Published::Sigstore(_) => panic!("in a log of its own"),
        }
    }

    fn highest(state: &State) -> u64 {
        state.ratchet(&policy()).unwrap().version()
    }

    #[test]
    fn a_version_and_a_log_are_remembered_and_never_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(&folder);
        assert_eq!(state.ratchet(&policy()).unwrap(), Ratchet::UNSEEN);
        state.accepted(&policy(), &release(5, 0)).unwrap();
        state.accepted(&policy(), &release(5, 3)).unwrap();
        let seen = state.ratchet(&policy()).unwrap();
        assert_eq!((seen.version(), seen.log().unwrap().size()), (5, 5));
        // An earlier state of the same log is known, and nothing is lost by it.
        state.accepted(&policy(), &release(5, 1)).unwrap();
        assert_eq!(state.ratchet(&policy()).unwrap(), seen);
        let failure = state.accepted(&policy(), &release(4, 0)).unwrap_err();
        assert_eq!(failure.code(), 4, "{failure:?}");
        // A log with another first entry: the other face.
        let failure = state.accepted(&policy(), &release(6, 9)).unwrap_err();
        assert_eq!(failure.code(), 5, "{failure:?}");
        assert_eq!(state.ratchet(&policy()).unwrap(), seen);
        let mut other = policy();
        other.name = "another".parse().unwrap();
        let other = state.ratchet(&other).unwrap();
        assert_eq!(
            (other.version(), other.log()),
            (0, seen.log()),
            "one log, two lines"
        );
    }

    #[test]
    fn every_half_written_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(&folder);
        state.accepted(&policy(), &release(5, 0)).unwrap();
        let path = state.folder.join(FILE);
        let whole = fs::read(&path).unwrap();
        // All but the line feed at the end count.
        for length in 0..whole.len() - 1 {
            fs::write(&path, &whole[..length]).unwrap();
            let failure = state.ratchet(&policy()).unwrap_err();
            assert!(format!("{failure:?}").contains("damaged"), "{length}");
        }
        assert!(state.accepted(&policy(), &release(6, 0)).is_err());
        fs::write(&path, whole).unwrap();
        assert_eq!(highest(&state), 5);
        // What a client that died left beside the file counts for nothing.
        fs::write(state.folder.join("state.json.new"), "{\"vers").unwrap();
        assert_eq!(highest(&state), 5);
        state.accepted(&policy(), &release(5, 2)).unwrap();
        assert!(!state.folder.join("state.json.new").exists());
    }

    #[test]
    fn a_memory_of_another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(&folder);
        state.accepted(&policy(), &release(5, 0)).unwrap();
        let path = state.folder.join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        for other in ["2", "4", "\"3\""] {
            let other = text.replacen("\"version\":3", &format!("\"version\":{other}"), 1);
            assert_ne!(other, text);
            fs::write(&path, &other).unwrap();
            assert!(state.accepted(&policy(), &release(6, 0)).is_err());
            assert_eq!(fs::read_to_string(&path).unwrap(), other);
        }
        // What another version did not know.
        for field in ["\"logs\":{", "\"sigstore\":[", "\"statement\":\""] {
            let without = text.replacen(field, &field.replacen('"', "\"no-", 1), 1);
            assert_ne!(without, text);
            fs::write(&path, without).unwrap();
            assert!(state.ratchet(&policy()).is_err(), "{field}");
        }
    }

    #[test]
    fn a_revocation_is_remembered_though_its_release_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(&folder);
        let world = World::new();
        let mut log = world.log();
        let index = log.append(&world.envelope());
        let before = world.bundle_of(&log, index, &[]).encode();
        let status = signer::release::status(&world.statement(), 0, &[7]).encode();
        let remark = log.append(&signer::release::sign(&status, &world.release_key));
        let revoked = world.bundle_of(&log, index, &[remark]).encode();
        let mut policy = policy();
        policy.minimum_rebuilders = 0;
        let refusal = |bundle: &[u8]| {
            let seen = state.ratchet(&policy).unwrap();
            let refusal = attest::verify_release(bundle, &policy, &seen, NOW).err();
            state.learn(&policy, bundle, &NoSigstore).unwrap();
            refusal
        };
        assert_eq!(refusal(&before), None);
        assert!(matches!(refusal(&revoked), Some(Refusal::Revoked(_))));
        assert!(matches!(refusal(&before), Some(Refusal::Revoked(_))));
        // Bytes that nobody signed teach nothing.
        let seen = state.ratchet(&policy).unwrap();
        state.learn(&policy, b"{}", &NoSigstore).unwrap();
        assert_eq!(state.ratchet(&policy).unwrap(), seen);
    }

    #[test]
    fn many_clients_at_once_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for others in 0..16 {
                let state = state(&folder);
                let release = release(5, others);
                scope.spawn(move || state.accepted(&policy(), &release).unwrap());
            }
        });
        let seen = state(&folder).ratchet(&policy()).unwrap();
        assert_eq!(seen.log().unwrap().size(), 17);
    }

    /// Both pass their first look; the one that comes second to the lock finds the other's memory.
    #[test]
    fn two_clients_that_see_two_faces_of_a_log_do_not_both_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (release(5, 0), other_face(5));
        let state = state(&folder);
        // Both have looked before either wrote: what counts is the second look, under the lock.
        let second = state.ratchet(&policy()).unwrap();
        assert!(second.advance(&other).is_ok());
        state.accepted(&policy(), &one).unwrap();
        let outcome = state.replace(&policy(), |seen| Ok(seen.advance(&other)?));
        let failure = outcome.unwrap().unwrap_err();
        assert_eq!(failure.code(), 5, "{failure:?}");
        assert_eq!(state.ratchet(&policy()).unwrap().log(), Some(history(&one)));
    }

    /// A link in the place of a file of ours leads to no other file.
    #[test]
    fn links_beside_the_memory_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(&folder);
        fs::create_dir_all(&state.folder).unwrap();
        let theirs = folder.path().join("theirs");
        fs::write(&theirs, "kept").unwrap();
        for name in ["state.json.new", "state.lock"] {
            std::os::unix::fs::symlink(&theirs, state.folder.join(name)).unwrap();
        }
        state.accepted(&policy(), &release(5, 0)).unwrap();
        assert_eq!(fs::read_to_string(&theirs).unwrap(), "kept");
        assert_eq!(highest(&state), 5);
    }

    #[test]
    fn a_memory_that_would_not_read_again_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(&folder);
        state.accepted(&policy(), &release(5, 0)).unwrap();
        let mut content = state.read().unwrap();
        let (_, line) = content.releases.pop_first().unwrap();
        let line = serde_json::to_string(&line).unwrap();
        let empty = serde_json::to_vec(&content).unwrap().len();
        // Each with its name, quotes, colon and comma; the one that is missing has no room.
        let lines = (MAX_BYTES as usize - empty) / (line.len() + 68);
        for number in 0..lines {
            let line = serde_json::from_str(&line).unwrap();
            content.releases.insert(format!("{number:064}"), line);
        }
        let (path, full) = (
            state.folder.join(FILE),
            serde_json::to_vec(&content).unwrap(),
        );
        fs::write(&path, &full).unwrap();
        assert_eq!(highest(&state), 0);
        let failure = state.accepted(&policy(), &release(5, 0)).unwrap_err();
        assert!(
            format!("{failure:?}").contains("larger than"),
            "{failure:?}"
        );
        assert!(fs::read(&path).unwrap() == full);
    }

    #[test]
    fn nothing_is_written_where_nothing_changes() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(&folder);
        state.accepted(&policy(), &release(5, 0)).unwrap();
        fs::remove_file(state.folder.join("state.lock")).unwrap();
        state.accepted(&policy(), &release(5, 0)).unwrap();
        assert!(!state.folder.join("state.lock").exists());
    }
}
