//! Whether the sources that a release names give the bits that it states.
//!
//! 1. the sources at that revision, from a clone of their own ([`source`]);
//! 2. the image built from them, and assembled with the release's configuration ([`rebuild`]);
//! 3. the hash of every artifact against the stated one;
//! 4. where one differs and the published file is at hand: what differs in it ([`crate::differ`]).
//!
//! An artifact that is made of another one differs with it. Only those that differ for a reason of
//! their own are taken apart; the others are said to follow.

pub mod rebuild;
pub mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use attest::Digest;
use attest::release::Statement;

use crate::assemble::{IMAGE_FILES, OUTPUT_FILES};
use crate::bill::{self, BillError};
use crate::differ::Difference;
use crate::differ::artifact::Descent;
use crate::differ::tree::Owners;
use crate::disk::{self, DiskError};
use crate::files::digest_of_file;
use crate::manifest::Manifest;
use crate::tools::{ToolError, Tools};

/// What each artifact is made of, of the others; sources come before what is made of them.
const MADE_OF: [(&str, &[&str]); 19] = [
    ("image-cloister-agent", &[]),
    ("image-os-release", &[]),
    ("image-stub.efi", &[]),
    ("image-vmlinuz", &[]),
    ("image-cmdline", &[]),
    ("image-profile", &[]),
    ("image-initrd", &[]),
    ("image-root.erofs", &["image-cloister-agent"]),
    ("image-manifest.json", &["image-root.erofs"]),
    ("image-root.verity", &["image-root.erofs"]),
    ("image-root.ref", &["image-root.verity"]),
    (
        "image-sbom.spdx.json",
        &[
            "image-root.erofs",
            "image-manifest.json",
            "image-vmlinuz",
            "image-stub.efi",
            "image-os-release",
            "image-initrd",
            "image-cmdline",
        ],
    ),
    (
        "image-SHA256SUMS",
        &[
            "image-cloister-agent",
            "image-os-release",
            "image-stub.efi",
            "image-vmlinuz",
            "image-cmdline",
            "image-profile",
            "image-initrd",
            "image-root.erofs",
            "image-manifest.json",
        ],
    ),
    ("config.toml", &[]),
    ("vmlinuz", &["image-vmlinuz"]),
    ("initrd", &["image-initrd", "config.toml"]),
    (
        "cmdline",
        &["image-cmdline", "image-root.ref", "config.toml"],
    ),
    (
        "cloister.efi",
        &[
            "image-stub.efi",
            "image-os-release",
            "vmlinuz",
            "initrd",
            "cmdline",
        ],
    ),
    (
        "disk.img",
        &["cloister.efi", "image-root.erofs", "image-root.verity"],
    ),
];

/// What is to be compared.
#[derive(Debug)]
pub struct Question<'a> {
    /// What the release states; where only a tag is given, what the published files are.
    pub stated: BTreeMap<String, Digest<32>>,
    /// The image that was built again.
    pub image: &'a Path,
    /// What was assembled of it again, if the configuration is at hand.
    pub assembled: Option<&'a Path>,
    /// Folder of the published artifacts, if they are at hand.
    pub against: Option<&'a Path>,
    /// Sources at the release's revision.
    pub source: &'a Path,
    /// Folder for what is taken apart, in which nobody else can look: see [`crate::scratch`].
    pub scratch: &'a Path,
}

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// All of it was compared, and is the same.
    Equal,
    /// Nothing differs, and not all of it was compared.
    Incomplete,
    /// Something differs.
    Different,
}

/// What came out, artifact by artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// One line for each stated artifact, sources before what is made of them.
    pub artifacts: Vec<Artifact>,
}

/// One stated artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Name, as the statement has it.
    pub name: String,
    /// Stated hash.
    pub stated: Digest<32>,
    /// How it went.
    pub outcome: Outcome,
}

/// How an artifact compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The same bits.
    Equal,
    /// It needs the release's configuration, which was not given.
    NotRebuilt,
    /// Other bits.
    Different {
        /// Hash of what was built again; `None` if the build does not make it.
        found: Option<Digest<32>>,
        /// Why.
        because: Because,
    },
}

/// What is known of a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Because {
    /// It is made of another artifact that differs.
    Follows(String),
    /// What differs in it, the first first.
    Found(Vec<Difference>),
    /// The manifests differ so; the contents were not looked into, for the reason given.
    Listed(Vec<Difference>, String),
    /// This build makes no such artifact.
    NotMade,
    /// The published artifact is not at hand.
    NotAtHand,
    /// The published file of that name is not what the release states.
    OtherThanStated(Digest<32>),
    /// It could not be taken apart, for the reason given.
    NotReadable(String),
}

/// Why nothing was compared.
#[derive(Debug, thiserror::Error)]
pub enum ReproduceError {
    /// A file cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A disk cannot be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The bill cannot be made.
    #[error(transparent)]
    Bill(#[from] BillError),
    /// The tools are missing.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// Nothing is stated.
    #[error("{0} holds no artifact of a release")]
    NothingStated(PathBuf),
}

/// The hashes that a statement names.
pub fn stated(statement: &Statement) -> BTreeMap<String, Digest<32>> {
    let subjects = statement.subject.iter();
    let rows = subjects.map(|subject| (subject.name.to_string(), subject.digest.sha256));
    rows.collect()
}

/// The hashes of published artifacts, where no statement names them.
pub fn published(folder: &Path) -> Result<BTreeMap<String, Digest<32>>, ReproduceError> {
    let mut found = BTreeMap::new();
    for (name, _) in MADE_OF {
        if let Some(path) = candidates(folder, name)
            .into_iter()
            .find(|path| path.is_file())
        {
            found.insert(name.to_owned(), digest(name, &path)?);
        }
    }
    match found.is_empty() {
        true => Err(ReproduceError::NothingStated(folder.to_owned())),
        false => Ok(found),
    }
}

/// Makes the bill of the rebuilt image in the scratch folder, if the release states one.
pub fn make_bill(question: &Question<'_>, tools: &Tools) -> Result<(), ReproduceError> {
    if !question
        .stated
        .contains_key(&format!("image-{}", bill::FILE))
    {
        return Ok(());
    }
    let root = question.scratch.join("bill-root");
    remove(&root)?;
    tools.extract_erofs(&question.image.join("root.erofs"), &root)?;
    let bill = bill::make(question.source, question.image, &root)?;
    let path = question.scratch.join(bill::FILE);
    fs::write(&path, bill).map_err(unusable(&path))?;
    remove(&root)
}

/// Compares every stated artifact with what was built again.
pub fn answer(question: &Question<'_>) -> Result<Answer, ReproduceError> {
    let mut differing = BTreeSet::new();
    let mut artifacts = Vec::new();
    for (name, stated) in in_order(&question.stated) {
        let outcome = question.outcome(&name, stated, &differing)?;
        if matches!(outcome, Outcome::Different { .. }) {
            differing.insert(name.clone());
        }
        artifacts.push(Artifact {
            name,
            stated,
            outcome,
        });
    }
    Ok(Answer { artifacts })
}

/// Stated artifacts, sources before what is made of them, unknown ones last.
fn in_order(stated: &BTreeMap<String, Digest<32>>) -> Vec<(String, Digest<32>)> {
    let rank = |name: &str| MADE_OF.iter().position(|(known, _)| *known == name);
    let mut rows: Vec<_> = stated
        .iter()
        .map(|(name, sum)| (name.clone(), *sum))
        .collect();
    rows.sort_by_key(|(name, _)| (rank(name).unwrap_or(MADE_OF.len()), name.clone()));
    rows
}

impl Question<'_> {
    /// What a whole release names and this one does not: what assembling makes, the parts of an
    /// image, and whatever else of ours the image has. The bill alone may be left out.
    pub fn unstated(&self) -> BTreeSet<String> {
        let assembled = OUTPUT_FILES.map(str::to_owned);
        let parts = IMAGE_FILES.map(|name| format!("image-{name}"));
        let more = MADE_OF.iter().filter_map(|(name, _)| {
            let file = name.strip_prefix("image-")?;
            let is_made = file != bill::FILE && self.image.join(file).is_file();
            is_made.then(|| (*name).to_owned())
        });
        let required = assembled.into_iter().chain(parts).chain(more);
        required
            .filter(|name| !self.stated.contains_key(name))
            .collect()
    }

    fn outcome(
        &self,
        name: &str,
        stated: Digest<32>,
        differing: &BTreeSet<String>,
    ) -> Result<Outcome, ReproduceError> {
        let Some(path) = self.rebuilt(name) else {
            return Ok(Outcome::NotRebuilt);
        };
        if !path.is_file() {
            return Ok(Outcome::Different {
                found: None,
                because: Because::NotMade,
            });
        }
        let found = digest(name, &path)?;
        if found == stated {
            return Ok(Outcome::Equal);
        }
        let made_of = MADE_OF.iter().find(|(known, _)| *known == name);
        let made_of = made_of.map_or(&[][..], |(_, made_of)| made_of);
        let behind = made_of.iter().find(|one| differing.contains(**one));
        // The root holds the agent, and other files that may differ for reasons of their own.
        let because = match behind.filter(|_| name != "image-root.erofs") {
            Some(behind) => Because::Follows((*behind).to_owned()),
            None => self.because(name, stated, &path)?,
        };
        Ok(Outcome::Different {
            found: Some(found),
            because,
        })
    }

    /// Where the rebuilt artifact lies; `None` if it would need a configuration.
    fn rebuilt(&self, name: &str) -> Option<PathBuf> {
        match name.strip_prefix("image-") {
            // Always made again: a copy of the published one would prove nothing.
            Some(bill::FILE) => Some(self.scratch.join(bill::FILE)),
            Some(file) => Some(self.image.join(file)),
            None => Some(self.assembled?.join(name)),
        }
    }

    /// The two files behind the first difference that was found, published and rebuilt.
    pub fn first_pair(&self, answer: &Answer) -> Option<(PathBuf, PathBuf)> {
        let mut found = answer.artifacts.iter().filter(|one| {
            let because = match &one.outcome {
                Outcome::Different { because, .. } => because,
                _ => return false,
            };
            matches!(because, Because::Found(_) | Because::Listed(..))
        });
        let one = found.next()?;
        let theirs = match published_file(self.against?, &one.name, one.stated).ok()? {
            Published::Stated(theirs) => theirs,
            Published::Other(_) | Published::Absent => return None,
        };
        let ours = self.rebuilt(&one.name)?;
        Some((theirs, ours))
    }

    /// Why an artifact differs, from the published one.
    fn because(
        &self,
        name: &str,
        stated: Digest<32>,
        ours: &Path,
    ) -> Result<Because, ReproduceError> {
        let Some(against) = self.against else {
            return Ok(Because::NotAtHand);
        };
        let theirs = match published_file(against, name, stated)? {
            Published::Stated(theirs) => theirs,
            Published::Other(sum) => return Ok(Because::OtherThanStated(sum)),
            Published::Absent => return Ok(Because::NotAtHand),
        };
        fs::create_dir_all(self.scratch).map_err(unusable(self.scratch))?;
        let manifests = candidates(against, "image-manifest.json").into_iter();
        let owners = Owners {
            theirs: manifests
                .filter_map(|path| Manifest::read_file(path).ok())
                .next(),
            ours: Manifest::read(self.image).ok(),
        };
        let tools = Tools::of(self.source)?;
        let descent = Descent {
            tools: &tools,
            scratch: self.scratch,
            owners: &owners,
        };
        Ok(match descent.artifact(name, &theirs, ours) {
            Ok(found) => Because::Found(found),
            Err(error) => {
                let listed = match name {
                    "image-root.erofs" => owners.compare(),
                    _ => Vec::new(),
                };
                let listed: Vec<_> = listed.into_iter().map(|one| one.within(name)).collect();
                match listed.is_empty() {
                    true => Because::NotReadable(error.to_string()),
                    false => Because::Listed(listed, error.to_string()),
                }
            }
        })
    }
}

impl Answer {
    /// Whether nothing was compared at all, which must not pass for equal.
    pub fn is_empty(&self) -> bool {
        let mut outcomes = self.artifacts.iter().map(|artifact| &artifact.outcome);
        outcomes.all(|outcome| *outcome == Outcome::NotRebuilt)
    }

    /// Whether every stated artifact was built again to the same bits; artifacts that need a
    /// configuration which was left out are not compared.
    pub fn verdict(&self) -> Verdict {
        let verdicts = self
            .artifacts
            .iter()
            .map(|artifact| match artifact.outcome {
                Outcome::Equal => Verdict::Equal,
                Outcome::NotRebuilt => Verdict::Incomplete,
                Outcome::Different { .. } => Verdict::Different,
            });
        // Of no artifact at all nothing is known.
        verdicts.max().unwrap_or(Verdict::Incomplete)
    }

    /// The first object that differs, with the artifact that it is in.
    pub fn first(&self) -> Option<&Difference> {
        let mut found = self.artifacts.iter().filter_map(|one| match &one.outcome {
            Outcome::Different {
                because: Because::Found(found) | Because::Listed(found, _),
                ..
            } => found.first(),
            _ => None,
        });
        found.next()
    }
}

/// What stands under an artifact's name among the published files.
enum Published {
    /// The stated file.
    Stated(PathBuf),
    /// Another one, of this hash.
    Other(Digest<32>),
    /// None.
    Absent,
}

fn published_file(
    folder: &Path,
    name: &str,
    stated: Digest<32>,
) -> Result<Published, ReproduceError> {
    let mut found = Published::Absent;
    let files = candidates(folder, name).into_iter();
    for path in files.filter(|path| path.is_file()) {
        let sum = digest(name, &path)?;
        if sum == stated {
            return Ok(Published::Stated(path));
        }
        found = Published::Other(sum);
    }
    Ok(found)
}

/// Where a published artifact may lie: under its stated name, or in a folder as the build and
/// assembling leave it. Image and assembled artifacts share some names. A file of such a name that
/// lies bare belongs to what lies beside it: to the assembled ones, where UKI or disk lie there, or
/// files of the image under their stated names; else to the image.
fn candidates(folder: &Path, name: &str) -> Vec<PathBuf> {
    let file = name.strip_prefix("image-").unwrap_or(name);
    let is_shared = OUTPUT_FILES.contains(&file) && IMAGE_FILES.contains(&file);
    let beside = MADE_OF.iter().map(|(name, _)| *name);
    let is_assembled = beside
        .filter(|name| name.starts_with("image-") || ["cloister.efi", "disk.img"].contains(name))
        .any(|name| folder.join(name).is_file());
    let stated = folder.join(name);
    let bare = folder.join(file);
    match name.starts_with("image-") {
        true if is_shared && is_assembled => vec![stated, folder.join("image").join(file)],
        true => vec![stated, folder.join("image").join(file), bare],
        false if is_shared && !is_assembled => vec![folder.join("assembled").join(file)],
        false => vec![folder.join("assembled").join(file), bare],
    }
}

fn digest(name: &str, path: &Path) -> Result<Digest<32>, ReproduceError> {
    match name {
        // A bundle may have been attached since.
        "disk.img" => Ok(disk::digest_without_bundle(path)?),
        _ => digest_of_file(path).map_err(unusable(path)),
    }
}

fn remove(folder: &Path) -> Result<(), ReproduceError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unusable(folder)(error)),
        _ => Ok(()),
    }
}

fn unusable(path: &Path) -> impl FnOnce(io::Error) -> ReproduceError {
    let path = path.to_owned();
    move |source| ReproduceError::File { path, source }
}
