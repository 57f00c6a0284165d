//! One artifact of a release against its rebuilt twin: which form it has, and what is in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use verity::superblock::Superblock;

use super::disk::{Content, DiskCompareError, Found};
use super::tree::{Owners, TreeError};
use super::{Cause, Difference, archive, content, disk, erofs, tree};
use crate::tools::{ToolError, Tools};

/// How a zstd frame begins.
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Most that an initrd is unpacked to.
const MAX_INITRD_BYTES: u64 = 256 << 20;
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
    /// Nothing in them differs that is looked into.
    #[error("nothing was found in it that differs")]
    Nothing,
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
            "initrd" => self.initrd(theirs, ours)?,
            _ => {
                let (theirs, ours) = (read(theirs)?, read(ours)?);
                content(&theirs, &ours).into_iter().collect()
            }
        };
        if found.is_empty() {
            return Err(DescentError::Nothing);
        }
        let owner = crate::owns::artifact(kind);
        let found = found.into_iter().map(|one| one.of(owner).within(name));
        Ok(found.collect())
    }

    /// A root: path by path; where all paths are the same, the file system's own fields.
    fn root(&self, theirs: &Path, ours: &Path) -> Result<Vec<Difference>, DescentError> {
        let (left, right) = (self.empty("theirs-root")?, self.empty("ours-root")?);
        self.tools.extract_erofs(theirs, &left)?;
        self.tools.extract_erofs(ours, &right)?;
        let mut found = tree::compare(&left, &right, self.owners)?;
        if found.is_empty() {
            found.push(erofs::compare(&read(theirs)?, &read(ours)?));
        }
        Ok(found)
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

    /// An initrd: a compressed archive, alone or with the archive of a configuration behind it.
    fn initrd(&self, theirs: &Path, ours: &Path) -> Result<Vec<Difference>, DescentError> {
        let (left, right) = (read(theirs)?, read(ours)?);
        let both = |magic: &[u8]| left.starts_with(magic) && right.starts_with(magic);
        if both(archive::MAGIC) {
            return Ok(entries(&left, &right));
        }
        if !both(ZSTD) {
            return Ok(content(&left, &right).into_iter().collect());
        }
        let unpack = |file: &Path, name: &str| {
            let to = self.scratch.join(name);
            self.tools.unpack_zstd(file, &to, MAX_INITRD_BYTES)?;
            read(&to)
        };
        let unpacked = (unpack(theirs, "theirs-initrd"), unpack(ours, "ours-initrd"));
        if let (Err(error @ DescentError::Tool(ToolError::TooLarge { .. })), _)
        | (_, Err(error @ DescentError::Tool(ToolError::TooLarge { .. }))) = unpacked
        {
            return Err(error);
        }
        let (Ok(unpacked_left), Ok(unpacked_right)) = unpacked else {
            // With a configuration behind it, it is no longer one frame.
            return Ok(content(&left, &right).into_iter().collect());
        };
        Ok(match unpacked_left == unpacked_right {
            true => vec![super::bytes(&left, &right).within("compression")],
            false => entries(&unpacked_left, &unpacked_right),
        })
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
                        let found = super::content(&left, &right);
                        found
                            .into_iter()
                            .map(|one| one.within("BOOTX64.EFI"))
                            .collect()
                    }
                    _ => vec![byte_of(at, "file allocation table or folders")],
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

/// The differing entries of two archives, each with its owner.
fn entries(theirs: &[u8], ours: &[u8]) -> Vec<Difference> {
    let mut found = match archive::all(theirs, ours) {
        Ok(found) if !found.is_empty() => found,
        Ok(_) => vec![archive::padding(theirs, ours)],
        Err(_) => vec![super::bytes(theirs, ours)],
    };
    for one in &mut found {
        let owner = one.place.first().and_then(|path| crate::owns::initrd(path));
        one.owner = one.owner.take().or(owner.map(str::to_owned));
    }
    found
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
