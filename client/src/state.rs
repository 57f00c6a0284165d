//! What the client remembers: the highest version of each line of releases that it accepted.
//!
//! ```json
//! {"version":1,"releases":{"SHA-256 of name, profile, signers":{"name":"cloister","highest":7}}}
//! ```
//!
//! The file is replaced as a whole, under a lock. One that does not read is a failure, never an
//! empty memory: whoever can damage it could otherwise roll a release back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use attest::policy::ReleasePolicy;
use attest::{Name, ReleaseFloor};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, reason};

const FILE: &str = "state.json";
const MAX_BYTES: u64 = 1 << 20;
const VERSION: u64 = 1;

pub(crate) struct State {
    folder: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u64,
    releases: BTreeMap<String, Line>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: Name,
    highest: u64,
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

    /// The floor under releases that `policy` accepts.
    pub(crate) fn floor(&self, policy: &ReleasePolicy) -> Result<ReleaseFloor, Failure> {
        let content = self.read()?;
        let line = content.releases.get(&policy.line().to_string());
        Ok(line.map_or(ReleaseFloor::UNSEEN, |line| ReleaseFloor::at(line.highest)))
    }

    /// Remembers that `version` was accepted. Nothing is written where nothing changes.
    pub(crate) fn accepted(&self, policy: &ReleasePolicy, version: u64) -> Result<(), Failure> {
        if self.floor(policy)?.version() >= version {
            return Ok(());
        }
        self.raise(policy, version)
            .map_err(|error| self.unwritable(&error))?
    }

    fn raise(&self, policy: &ReleasePolicy, version: u64) -> io::Result<Result<(), Failure>> {
        fs::create_dir_all(&self.folder)?;
        let lock = File::create(self.folder.join("state.lock"))?;
        lock.lock()?;
        // Read again: another client may have written before the lock was ours.
        let mut content = match self.read() {
            Ok(content) => content,
            Err(failure) => return Ok(Err(failure)),
        };
        let line = content
            .releases
            .entry(policy.line().to_string())
            .or_insert_with(|| Line {
                name: policy.name.clone(),
                highest: 0,
            });
        line.highest = line.highest.max(version);
        let mut bytes = serde_json::to_vec(&content)?;
        bytes.push(b'\n');
        replace(&self.folder, &bytes)?;
        Ok(Ok(()))
    }

    fn read(&self) -> Result<Content, Failure> {
        let path = self.folder.join(FILE);
        let empty = Content {
            version: VERSION,
            releases: BTreeMap::new(),
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

    fn unwritable(&self, error: &io::Error) -> Failure {
        Failure::misuse(format_args!(
            "cannot remember the release version in {}: {}",
            self.folder.display(),
            reason(error)
        ))
        .hint("name a folder that you may write to by --state DIR")
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let (path, cause) = (path.display(), reason(error));
    Failure::misuse(format_args!("cannot read the state file {path}: {cause}"))
        .hint("name another folder by --state DIR")
}

fn damaged(path: &Path) -> Failure {
    let path = path.display();
    Failure::misuse(format_args!(
        "the state file {path} is damaged or half written"
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
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, folder.join(FILE))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(folder: &tempfile::TempDir) -> State {
        State::at(Some(folder.path().join("deep/state"))).unwrap()
    }

    fn policy() -> ReleasePolicy {
        signer::World::new().policy().release
    }

    #[test]
    fn a_version_is_remembered_and_never_lowered() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(&folder);
        assert_eq!(state.floor(&policy()).unwrap(), ReleaseFloor::UNSEEN);
        for (version, floor) in [(5, 5), (9, 9), (7, 9)] {
            state.accepted(&policy(), version).unwrap();
            assert_eq!(state.floor(&policy()).unwrap().version(), floor);
        }
        let mut other = policy();
        other.name = "another".parse().unwrap();
        assert_eq!(state.floor(&other).unwrap(), ReleaseFloor::UNSEEN);
    }

    #[test]
    fn every_half_written_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(&folder);
        state.accepted(&policy(), 5).unwrap();
        let path = state.folder.join(FILE);
        let whole = fs::read(&path).unwrap();
        // All but the line feed at the end count.
        for length in 0..whole.len() - 1 {
            fs::write(&path, &whole[..length]).unwrap();
            let failure = state.floor(&policy()).unwrap_err();
            assert!(format!("{failure:?}").contains("damaged"), "{length}");
            assert!(state.accepted(&policy(), 6).is_err());
        }
        fs::write(&path, whole).unwrap();
        assert_eq!(state.floor(&policy()).unwrap().version(), 5);
    }

    #[test]
    fn many_clients_at_once_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for version in 1..=16 {
                let state = state(&folder);
                scope.spawn(move || state.accepted(&policy(), version).unwrap());
            }
        });
        assert_eq!(state(&folder).floor(&policy()).unwrap().version(), 16);
    }

    #[test]
    fn nothing_is_written_where_nothing_changes() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(&folder);
        state.accepted(&policy(), 5).unwrap();
        fs::remove_file(state.folder.join("state.lock")).unwrap();
        state.accepted(&policy(), 5).unwrap();
        assert!(!state.folder.join("state.lock").exists());
    }
}
