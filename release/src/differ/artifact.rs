//! One artifact of a release against its rebuilt twin: which form it has, and what is in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use verity::superblock::Superblock;

use super::disk::{Content, DiskCompareError, Found};
use super::initrd::{InitrdError, ZSTD};
use super::tree::{Owners, TreeError};
use super::{Cause, Difference, MAX_DIFFERENCES, archive, content, disk, erofs, fat, image};
use super::{initrd, inodes, tree};
use crate::tools::{ToolError, Tools};

/// Largest file that is held in memory.
const MAX_BYTES: u64 = 2 << 30;

/// What is needed to look into an artifact.
#[derive(Debug)]
pub struct Descent<'a> {
    /// The locked tools, which read file systems and compressed files.
    pub tools: &'a Tools,
    /// A folder for what is taken apart.
    pub scratch: &'a Path,
    /// Who brought which path of the root.
    pub owners: &'a Owners,
}

/// Why an artifact was not taken apart.
#[derive(Debug, thiserror::Error)]
pub enum DescentError {
    /// A file cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Larger than anything of ours that is not on a disk.
    #[error("{path} is larger than {MAX_BYTES} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The tool that reads roots back said nothing and made nothing.
    #[error("nothing could be read out of {path}")]
    NothingRead {
        /// The root.
        path: PathBuf,
    },
    /// Nothing in them differs that is looked into.
    #[error("nothing was found in it that differs")]
    Nothing,
    /// An initrd cannot be unpacked.
    #[error(transparent)]
    Initrd(#[from] InitrdError),
    /// A locked tool failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A root cannot be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A disk cannot be read.
    #[error(transparent)]
    Disk(#[from] DiskCompareError),
}

impl Descent<'_> {
    /// The differences of an artifact, the first one first: at least one.
    pub fn artifact(
        &self,
        name: &str,
        theirs: &Path,
        ours: &Path,
    ) -> Result<Vec<Difference>, DescentError> {
        let kind = name.strip_prefix("image-").unwrap_or(name);
        let found = match kind {
            "disk.img" => self.disk(theirs, ours)?,
            "root.erofs" => self.root(theirs, ours)?,
            "root.verity" => vec![self.hash_tree(theirs, ours)?],
            "initrd" => self.initrd(&read(theirs)?, &read(ours)?)?,
            "cloister.efi" => self.uki(&read(theirs)?, &read(ours)?)?,
            _ => {
                let (theirs, ours) = (read(theirs)?, read(ours)?);
                content(&theirs, &ours).into_iter().collect()
            }
        };
        if found.is_empty() {
            return Err(DescentError::Nothing);
        }
        let owner = crate::owns::artifact(kind).map(|owner| self.owner(owner));
        let found = found
            .into_iter()
            .map(|one| one.of(owner.as_deref()).within(name));
        Ok(found.collect())
    }

    /// An owner as the sources name it; a package with its version.
    fn owner(&self, owner: &str) -> String {
        match self.tools.source() {
            Some(source) => crate::owns::in_lock(source, owner),
            None => owner.to_owned(),
        }
    }

    /// A root: path by path; where all paths are the same, the file system's own fields.
    fn root(&self, theirs: &Path, ours: &Path) -> Result<Vec<Difference>, DescentError> {
        let (left, right) = (self.empty("theirs-root")?, self.empty("ours-root")?);
        let unpacked = (
            self.unpack_root(theirs, &left),
            self.unpack_root(ours, &right),
        );
        let (before, after) = (read(theirs)?, read(ours)?);
        let in_inodes = inodes::compare(&before, &after).unwrap_or_default();
        let in_inodes = in_inodes.into_iter().map(|one| {
            let path = one.place.first().cloned().unwrap_or_default();
            self.owners.judge(&path, one)
        });
        let mut found = match unpacked {
            (Ok(()), Ok(())) => tree::compare(&left, &right, self.owners)?,
            unpacked => damage(unpacked, &before, &after)?,
        };
        for one in in_inodes {
            if !found
                .iter()
                .any(|known| known.place.first() == one.place.first())
            {
                found.push(one);
            }
        }
        // What is wrong with the whole stays first, as it is.
        found.sort_by_key(|one| one.place.first().filter(|at| at.starts_with('/')).cloned());
        found.truncate(MAX_DIFFERENCES);
        if found.is_empty() {
            found.push(erofs::compare(&before, &after));
        }
        Ok(found)
    }

    fn unpack_root(&self, image: &Path, into: &Path) -> Result<(), DescentError> {
        self.tools.extract_erofs(image, into)?;
        match into.is_dir() {
            true => Ok(()),
            false => Err(DescentError::NothingRead {
                path: image.to_owned(),
            }),
        }
    }

    fn hash_tree(&self, theirs: &Path, ours: &Path) -> Result<Difference, DescentError> {
        let (theirs, ours) = (read(theirs)?, read(ours)?);
        let fields = |file: &[u8]| Superblock::parse(file).ok();
        let found = match (fields(&theirs), fields(&ours)) {
            (Some(left), Some(right)) if left != right => {
                let shown = |side: &Superblock| {
                    let salt: String = side.salt.iter().map(|b| format!("{b:02x}")).collect();
                    format!("{} blocks, salt {salt}", side.data_blocks)
                };
                Difference::new("superblock", shown(&left), shown(&right), Cause::Content)
            }
            _ => super::bytes(&theirs, &ours).within("hash tree"),
        };
        Ok(found)
    }

    /// A UKI: section by section; the initrd first, whose configuration is named on the command
    /// line.
    fn uki(&self, theirs: &[u8], ours: &[u8]) -> Result<Vec<Difference>, DescentError> {
        let Some(sections) = image::all(theirs, ours).filter(|found| !found.is_empty()) else {
            return Ok(content(theirs, ours).into_iter().collect());
        };
        let mut found = Vec::new();
        for one in sections {
            let Some(name) = one.place.first().and_then(|at| at.strip_prefix("section ")) else {
                found.push(one);
                continue;
            };
            let artifact = match name {
                ".linux" => "vmlinuz",
                ".osrel" => "os-release",
                ".cmdline" => "cmdline",
                ".initrd" => "initrd",
                _ => "stub.efi",
            };
            let owner = crate::owns::artifact(artifact).map(|owner| self.owner(owner));
            let both = image::section(theirs, ours, name).filter(|_| name == ".initrd");
            let place = format!("section {name}");
            match both {
                Some((left, right)) => {
                    let inside = self.initrd(&left, &right)?.into_iter();
                    let inside = inside.map(|one| one.of(owner.as_deref()).within(&place));
                    found.splice(0..0, inside);
                }
                None => found.push(one.of(owner.as_deref())),
            }
        }
        Ok(found)
    }

    /// An initrd: a compressed archive, alone or with the archive of a configuration behind it.
    fn initrd(&self, theirs: &[u8], ours: &[u8]) -> Result<Vec<Difference>, DescentError> {
        let is_known = |side: &[u8]| side.starts_with(archive::MAGIC) || side.starts_with(ZSTD);
        if theirs == ours || !is_known(theirs) || !is_known(ours) {
            return Ok(content(theirs, ours).into_iter().collect());
        }
        let unpack = |side: &[u8], name| initrd::unpack(side, self.tools, self.scratch, name);
        match (unpack(theirs, "theirs-initrd"), unpack(ours, "ours-initrd")) {
            (Ok(left), Ok(right)) if left == right => {
                Ok(vec![super::bytes(theirs, ours).within("compression")])
            }
            (Ok(left), Ok(right)) => Ok(self.entries(&left, &right)),
            (Err(error), Err(_)) => Err(error.into()),
            (left, right) => {
                let (left, right) = (said(&left, "unpacks"), said(&right, "unpacks"));
                let found = Difference::new("compression", left, right, Cause::Content);
                Ok(vec![found, super::bytes(theirs, ours)])
            }
        }
    }

    /// The differing entries of two archives, each with its owner.
    fn entries(&self, theirs: &[u8], ours: &[u8]) -> Vec<Difference> {
        let mut found = match archive::all(theirs, ours) {
            Ok(found) if !found.is_empty() => found,
            Ok(_) => vec![archive::padding(theirs, ours)],
            Err(_) => vec![super::bytes(theirs, ours)],
        };
        for one in &mut found {
            let owner = one.place.first().and_then(|path| crate::owns::initrd(path));
            one.owner = one.owner.take().or(owner.map(|owner| self.owner(owner)));
        }
        found
    }

    fn disk(&self, theirs: &Path, ours: &Path) -> Result<Vec<Difference>, DescentError> {
        let (content, left, right, at) = match disk::compare(theirs, ours)? {
            Found::Nowhere => return Ok(Vec::new()),
            Found::Table(found) => return Ok(vec![found]),
            Found::Partition {
                content,
                theirs,
                ours,
                at,
            } => (content, theirs, ours, at),
        };
        let place = format!("partition {} ({})", left.number, left.name);
        let copy = |disk: &Path, entry, name: &str| {
            let to = self.scratch.join(name);
            let copied = disk::copy_partition(disk, entry, &to);
            copied.map_err(unusable(&to)).map(|()| to)
        };
        let inside = match content {
            Content::Root => {
                let left = copy(theirs, &left, "theirs-partition")?;
                let right = copy(ours, &right, "ours-partition")?;
                self.root(&left, &right)?
            }
            Content::Esp => {
                let uki = |disk: &Path| crate::disk::uki(disk).ok();
                match uki(theirs).zip(uki(ours)) {
                    Some((left, right)) if left != right => {
                        let found = self.uki(&left, &right)?.into_iter();
                        found.map(|one| one.within("BOOTX64.EFI")).collect()
                    }
                    _ => {
                        let left = read(&copy(theirs, &left, "theirs-partition")?)?;
                        let right = read(&copy(ours, &right, "ours-partition")?)?;
                        let found = fat::compare(left, right);
                        let byte = || byte_of(at, "file allocation table or folders");
                        vec![found.unwrap_or_else(byte)]
                    }
                }
            }
            Content::HashTree | Content::Other => vec![byte_of(at, "contents")],
        };
        Ok(inside.into_iter().map(|one| one.within(&place)).collect())
    }

    /// A name in the scratch folder at which nothing stands.
    fn empty(&self, name: &str) -> Result<PathBuf, DescentError> {
        let path = self.scratch.join(name);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(unusable(&path))?;
        }
        Ok(path)
    }
}

fn byte_of(at: u64, what: &str) -> Difference {
    Difference::new(format!("byte {at}"), what, what, Cause::Content)
}

/// What is wrong with one of two roots that cannot both be read back; an error where that is the
/// same with both.
fn damage(
    unpacked: (Result<(), DescentError>, Result<(), DescentError>),
    theirs: &[u8],
    ours: &[u8],
) -> Result<Vec<Difference>, DescentError> {
    let (left, right) = (erofs::damage(theirs), erofs::damage(ours));
    let (place, left, right) = if left != right {
        let shown = |damage: Option<erofs::Damage>| match damage {
            Some(damage) => damage.to_string(),
            None => "whole".to_owned(),
        };
        ("superblock", shown(left), shown(right))
    } else {
        match unpacked {
            (Err(error), Err(_)) => return Err(error),
            (left, right) => (
                "file system",
                said(&left, "is read"),
                said(&right, "is read"),
            ),
        }
    };
    let found = Difference::new(place, left, right, Cause::Content);
    Ok(vec![found, super::bytes(theirs, ours)])
}

fn said<T, E: std::fmt::Display>(result: &Result<T, E>, good: &str) -> String {
    match result {
        Ok(_) => good.to_owned(),
        Err(error) => error.to_string(),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, DescentError> {
    let length = path.metadata().map_err(unusable(path))?.len();
    if length > MAX_BYTES {
        return Err(DescentError::TooLarge {
            path: path.to_owned(),
        });
    }
    fs::read(path).map_err(unusable(path))
}

fn unusable(path: &Path) -> impl FnOnce(io::Error) -> DescentError {
    let path = path.to_owned();
    move |source| DescentError::File { path, source }
}
