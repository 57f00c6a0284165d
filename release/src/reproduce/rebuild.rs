//! The image built again, by the build of the sources themselves, with a cache of its own.
//!
//! Of the cache of everyday's builds only that is shared which every build checks by hash again:
//! packages. A build that means ill can leave nothing there for the next one.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Left in a folder that this made, so that nothing else is ever removed.
const MARK: &str = ".cloister-reproduce";
/// The folder of a cache that is shared.
const SHARED: &str = "debs";

/// Why there is no rebuilt image.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// A folder holds something that this did not make.
    #[error("{0} holds something else, and nothing of it was touched")]
    Foreign(PathBuf),
    /// A file or folder cannot be made.
    #[error("cannot write {path}")]
    Write {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The sources have no build.
    #[error("these sources have no image/build.sh")]
    NoBuild,
    /// The build cannot be started.
    #[error("cannot run image/build.sh")]
    Run(#[source] io::Error),
    /// The build failed.
    #[error("image/build.sh failed ({0}); what it said stands above")]
    Failed(std::process::ExitStatus),
}

/// The folders of one reproduction.
#[derive(Debug, Clone)]
pub struct Workplace {
    folder: PathBuf,
}

impl Workplace {
    /// A folder to work in, emptied of what an earlier run left there.
    pub fn new(folder: &Path) -> Result<Self, RebuildError> {
        let folder = std::path::absolute(folder).map_err(unwritable(folder))?;
        if folder.exists() {
            let mut entries = folder.read_dir().map_err(unwritable(&folder))?;
            if entries.next().is_some() && !folder.join(MARK).exists() {
                return Err(RebuildError::Foreign(folder));
            }
            fs::remove_dir_all(&folder).map_err(unwritable(&folder))?;
        }
        fs::create_dir_all(&folder).map_err(unwritable(&folder))?;
        let mark = folder.join(MARK);
        fs::write(&mark, "").map_err(unwritable(&mark))?;
        Ok(Self { folder })
    }

    /// Where the sources go.
    pub fn source(&self) -> PathBuf {
        self.folder.join("source")
    }

    /// Where the image goes.
    pub fn image(&self) -> PathBuf {
        self.folder.join("image")
    }

    /// Where the assembled artifacts go.
    pub fn assembled(&self) -> PathBuf {
        self.folder.join("assembled")
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Builds the image of `profile`. `shared` is the cache of everyday's builds, of which
    /// packages are used; without it everything is fetched again.
    pub fn build(&self, profile: &str, shared: Option<&Path>) -> Result<(), RebuildError> {
        let script = self.source().join("image/build.sh");
        if !script.is_file() {
            return Err(RebuildError::NoBuild);
        }
        let cache = self.folder.join("cache");
        fs::create_dir_all(&cache).map_err(unwritable(&cache))?;
        if let Some(shared) = shared {
            share(shared, &cache).map_err(unwritable(&cache))?;
        }
        let status = Command::new(script)
            .args(["--fresh", "--profile", profile, "--output"])
            .arg(self.image())
            .env("CLOISTER_CACHE", &cache)
            .env_remove("CLOISTER_STARTED_S")
            .stdin(Stdio::null())
            // Standard output is for the report.
            .stdout(Stdio::null())
            .status()
            .map_err(RebuildError::Run)?;
        match status.success() {
            true => Ok(()),
            false => Err(RebuildError::Failed(status)),
        }
    }
}

/// The cache that `image/build.sh` uses by itself, if it is there.
pub fn everyday_cache() -> Option<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = set("CLOISTER_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|home| home.join("cloister")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/cloister")))?;
    cache.is_dir().then_some(cache)
}

fn share(from: &Path, to: &Path) -> io::Result<()> {
    let packages = from.join(SHARED);
    match packages.is_dir() {
        true => symlink(std::path::absolute(packages)?, to.join(SHARED)),
        false => Ok(()),
    }
}

fn unwritable(path: &Path) -> impl FnOnce(io::Error) -> RebuildError {
    let path = path.to_owned();
    move |source| RebuildError::Write { path, source }
}
