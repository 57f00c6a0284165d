//! Whether what stands in a log under our keys is ours: each release has a tag of its version, and
//! the tag names its source revision. A stolen key shows here, and only here.

pub mod watch;

use std::collections::BTreeMap;
use std::path::Path;

use attest::release::statement::Predicate;
use attest::release::{Envelope, PublicKey, Statement};
use attest::{Digest, Name};

use crate::git;
use crate::log::{Log, LogError, Stated};
use crate::statement::SourceError;

/// Tags of a checkout, each with its commit.
pub type Tags = BTreeMap<String, String>;

/// An entry under one of our keys that has no right to be there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// Signed by us, and no statement of a form that we make.
    #[error("signed by our key, and no statement that we make")]
    Foreign,
    /// In our key's name, and not signed by it: a log takes whatever it is given.
    #[error("in our key's name, and not signed by it")]
    Forged,
    /// A release of which no tag is known.
    #[error("version {version} of {name}: there is no tag {tag}")]
    NoTag {
        /// The release.
        name: Name,
        /// Its version.
        version: u64,
        /// The tag that it should have.
        tag: String,
    },
    /// A release of another revision than its tag's.
    #[error("version {version} of {name}: made of {found}, and the tag {tag} is {expected}")]
    OtherSource {
        /// The release.
        name: Name,
        /// Its version.
        version: u64,
        /// Its tag.
        tag: String,
        /// Commit of the tag.
        expected: String,
        /// Revision that the release states.
        found: Name,
    },
    /// A second release of one version: clients that took one refuse the other.
    #[error("another release than entry {first} of {name}, profile {profile}, version {version}")]
    Twice {
        /// Place of the first.
        first: u64,
        /// The releases.
        name: Name,
        /// Their profile.
        profile: Name,
        /// Their version.
        version: u64,
    },
    /// A status of a release that is not in the log under our keys.
    #[error("a status of a release that is not ours")]
    StrangeStatus,
    /// A rebuild of a revision that no tag names.
    #[error("a rebuild of {0}, which no tag names")]
    StrangeRebuild(Name),
}

/// Entries under `signers` in `log` that have no right to be there, each with its place. A
/// release's tag is `pattern` with `{name}` and `{version}` filled in.
pub fn check(
    log: &Log,
    signers: &[PublicKey],
    tags: &Tags,
    pattern: &str,
) -> Result<Vec<(u64, Finding)>, LogError> {
    let envelopes: Result<Vec<_>, _> = log.envelopes().collect();
    let envelopes = envelopes?;
    let ours = |envelope: &&Envelope| envelope.verify(signers).is_ok();
    let releases = envelopes
        .iter()
        .filter(ours)
        .filter(|envelope| matches!(Stated::decode(&envelope.payload), Ok(Stated::Release(_))));
    let releases: Vec<_> = releases
        .map(|release| Digest::sha256(&release.payload))
        .collect();
    let mut versions = BTreeMap::new();
    let mut findings = Vec::new();
    for (index, envelope) in (0..).zip(&envelopes) {
        let mut keys = envelope.signatures.iter().map(|signature| signature.keyid);
        let finding = match envelope.verify(signers) {
            Ok(_) => check_twice(envelope, index, &mut versions)
                .or_else(|| check_own(envelope, &releases, tags, pattern)),
            Err(_) if keys.any(|key| signers.contains(&key)) => Some(Finding::Forged),
            Err(_) => None,
        };
        findings.extend(finding.map(|finding| (index, finding)));
    }
    Ok(findings)
}

/// The tags of the checkout in `folder`.
pub fn tags(folder: &Path) -> Result<Tags, SourceError> {
    let format = "--format=%(refname:strip=2) %(objectname) %(*objectname)";
    let output = git::command(Some(folder))
        .args(["for-each-ref", "refs/tags", format])
        .output()
        .map_err(SourceError::Git)?;
    if !output.status.success() {
        return Err(SourceError::NoCheckout {
            path: folder.to_owned(),
        });
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let tag = |line: &str| {
        let (name, objects) = line.split_once(' ')?;
        // An annotated tag names its commit last.
        let commit = objects.split_whitespace().last()?;
        Some((name.to_owned(), commit.to_owned()))
    };
    Ok(text.lines().filter_map(tag).collect())
}

/// Versions, each with the place and the hash of its first release.
type Versions = BTreeMap<(Name, Name, u64), (u64, Digest<32>)>;

fn check_twice(envelope: &Envelope, index: u64, versions: &mut Versions) -> Option<Finding> {
    let Ok(Stated::Release(release)) = Stated::decode(&envelope.payload) else {
        return None;
    };
    let Predicate {
        name,
        profile,
        version,
        ..
    } = release.predicate;
    let digest = Digest::sha256(&envelope.payload);
    let key = (name.clone(), profile.clone(), version);
    let (first, known) = *versions.entry(key).or_insert((index, digest));
    (known != digest).then_some(Finding::Twice {
        first,
        name,
        profile,
        version,
    })
}

fn check_own(
    envelope: &Envelope,
    releases: &[Digest<32>],
    tags: &Tags,
    pattern: &str,
) -> Option<Finding> {
    match Stated::decode(&envelope.payload) {
        Err(_) => Some(Finding::Foreign),
        Ok(Stated::Release(release)) => check_release(&release, tags, pattern),
        Ok(Stated::Status(status)) => {
            let mut subjects = status.subject.iter();
            let known = subjects.all(|one| releases.contains(&one.digest.sha256));
            (!known || status.subject.is_empty()).then_some(Finding::StrangeStatus)
        }
        Ok(Stated::Rebuild(rebuild)) => {
            let revision = rebuild.predicate.source_revision;
            let known = tags.values().any(|commit| commit == revision.as_str());
            (!known).then_some(Finding::StrangeRebuild(revision))
        }
    }
}

fn check_release(release: &Statement, tags: &Tags, pattern: &str) -> Option<Finding> {
    let stated = &release.predicate;
    let (name, version) = (stated.name.clone(), stated.version);
    let tag = pattern.replace("{name}", name.as_str());
    let tag = tag.replace("{version}", &version.to_string());
    match tags.get(&tag) {
        None => Some(Finding::NoTag { name, version, tag }),
        Some(commit) if commit == stated.source_revision.as_str() => None,
        Some(commit) => Some(Finding::OtherSource {
            name,
            version,
            tag,
            expected: commit.clone(),
            found: stated.source_revision.clone(),
        }),
    }
}
