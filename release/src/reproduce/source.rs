//! The sources at one revision, in a clone of their own: what lies uncommitted beside them plays
//! no part.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::tools::last_line;

/// Why there are no sources.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Git cannot be run.
    #[error("cannot run git")]
    Git(#[source] io::Error),
    /// The release was made of uncommitted changes.
    #[error("the release was made from {0}: changes that were never committed, so nobody has them")]
    Dirty(String),
    /// Not something that git could take for a revision and for nothing else.
    #[error("{0:?} cannot be a tag or commit")]
    Revision(String),
    /// The repository cannot be cloned.
    #[error("cannot clone {from}: {said}")]
    Clone {
        /// Where from.
        from: String,
        /// The last line that git wrote.
        said: String,
    },
    /// The revision is not there.
    #[error("{from} has no revision {revision}: {said}")]
    Absent {
        /// Where from.
        from: String,
        /// The revision.
        revision: String,
        /// The last line that git wrote.
        said: String,
    },
    /// The revision is a commit by its name, and git found another one.
    #[error("{revision} is the name of a commit, and {found} was found under it")]
    Other {
        /// The revision.
        revision: String,
        /// The commit that was found.
        found: String,
    },
}

/// Sources in a clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// Where they lie.
    pub folder: PathBuf,
    /// The commit.
    pub commit: String,
    /// Uncommitted changes beside the repository that was cloned; `None` for one elsewhere.
    pub left_out: Option<usize>,
}

/// Clones the repository `from` (a folder or an address) into `into`, at `revision`.
pub fn fetch(from: &str, revision: &str, into: &Path) -> Result<Sources, FetchError> {
    if revision.ends_with("-dirty") {
        return Err(FetchError::Dirty(revision.to_owned()));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    if revision.is_empty() || revision.starts_with('-') || !revision.bytes().all(plain) {
        return Err(FetchError::Revision(revision.to_owned()));
    }
    let clone: [&OsStr; 6] = [
        "clone".as_ref(),
        "--quiet".as_ref(),
        "--no-checkout".as_ref(),
        "--".as_ref(),
        from.as_ref(),
        into.as_ref(),
    ];
    git(None, &clone)?.map_err(|said| FetchError::Clone {
        from: from.to_owned(),
        said,
    })?;
    let name = format!("{revision}^{{commit}}");
    let parse = [
        "rev-parse",
        "--verify",
        "--quiet",
        "--end-of-options",
        &name,
    ];
    let absent = |said| FetchError::Absent {
        from: from.to_owned(),
        revision: revision.to_owned(),
        said,
    };
    let commit = git(Some(into), &parse.map(OsStr::new))?;
    let commit = commit.map_err(|_| absent("git does not know it".to_owned()))?;
    let is_hash = revision.len() >= 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash && commit != revision {
        return Err(FetchError::Other {
            revision: revision.to_owned(),
            found: commit,
        });
    }
    let checkout = [
        "-c",
        "advice.detachedHead=false",
        "checkout",
        "--quiet",
        "--detach",
        &commit,
    ];
    git(Some(into), &checkout.map(OsStr::new))?.map_err(absent)?;
    Ok(Sources {
        folder: into.to_owned(),
        commit,
        left_out: changes(Path::new(from)),
    })
}

/// Uncommitted changes in a checkout, if it is one.
pub fn changes(folder: &Path) -> Option<usize> {
    if !folder.is_dir() {
        return None;
    }
    let status = git(Some(folder), &["status", "--porcelain"].map(OsStr::new));
    status.ok()?.ok().map(|status| status.lines().count())
}

/// What git printed, or the last line of what it complained of.
fn git(folder: Option<&Path>, arguments: &[&OsStr]) -> Result<Result<String, String>, FetchError> {
    let mut command = Command::new("git");
    if let Some(folder) = folder {
        command.arg("-C").arg(folder);
    }
    // Never a question at the terminal: there may be nobody.
    command
        .args(arguments)
        .stdin(Stdio::null())
        .env("GIT_TERMINAL_PROMPT", "0");
    let output = command.output().map_err(FetchError::Git)?;
    Ok(match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()),
        false => Err(last_line(&output.stderr)),
    })
}
