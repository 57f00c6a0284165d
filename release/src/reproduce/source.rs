//! The sources at one revision, in a clone of their own: what lies uncommitted beside them plays
//! no part.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use crate::git;
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
    /// A statement names no commit: a branch or a tag says something else tomorrow.
    #[error("the statement names {0:?} as its sources, which is not a commit's whole name")]
    NoCommit(String),
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

/// Refuses what is not the whole name of a commit: 40 or 64 lower-case hexadecimal digits.
pub fn check_commit(revision: &str) -> Result<(), FetchError> {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    match [40, 64].contains(&revision.len()) && revision.bytes().all(digit) {
        true => Ok(()),
        false if revision.ends_with("-dirty") => Err(FetchError::Dirty(revision.to_owned())),
        false => Err(FetchError::NoCommit(revision.to_owned())),
    }
}

/// Clones the repository `from` (a folder or an address) into `into`, at `revision`.
pub fn fetch(from: &str, revision: &str, into: &Path) -> Result<Sources, FetchError> {
    if revision.ends_with("-dirty") {
        return Err(FetchError::Dirty(revision.to_owned()));
    }
    check_name(revision)?;
    let clone: [&OsStr; 7] = [
        "clone".as_ref(),
        "--quiet".as_ref(),
        "--no-checkout".as_ref(),
        "--template=".as_ref(),
        "--".as_ref(),
        from.as_ref(),
        into.as_ref(),
    ];
    git(None, &clone)?.map_err(|said| FetchError::Clone {
        from: from.to_owned(),
        said,
    })?;
    let absent = |said| FetchError::Absent {
        from: from.to_owned(),
        revision: revision.to_owned(),
        said,
    };
    let commit = parse(into, revision)?;
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

/// The commit behind a revision in a checkout, if it is one that has it. Nothing is fetched.
pub fn commit(folder: &Path, revision: &str) -> Option<String> {
    check_name(revision).ok()?;
    parse(folder, revision).ok()?.ok()
}

fn parse(folder: &Path, revision: &str) -> Result<Result<String, String>, FetchError> {
    let name = format!("{revision}^{{commit}}");
    let arguments = ["rev-parse", "--verify", "--quiet", "--end-of-options"];
    let arguments = arguments.iter().copied().chain([&name[..]]);
    git(Some(folder), &arguments.map(OsStr::new).collect::<Vec<_>>())
}

fn check_name(revision: &str) -> Result<(), FetchError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    match !revision.is_empty() && !revision.starts_with('-') && revision.bytes().all(plain) {
        true => Ok(()),
        false => Err(FetchError::Revision(revision.to_owned())),
    }
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
    let output = git::command(folder).args(arguments).output();
    let output = output.map_err(FetchError::Git)?;
    Ok(match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()),
        false => Err(last_line(&output.stderr)),
    })
}
