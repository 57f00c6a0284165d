//! A minimal erofs writer: one folder of plain, uncompressed files.
//!
//! ```text
//! block 0        1024 zeros, superblock (128 bytes), zeros
//! block 1 …      inodes of 64 bytes: the root folder, then the files in the order of their names
//!    …           blocks of directory entries
//!    …           the files, each from a block of its own
//! ```
//!
//! The layout follows the kernel's `fs/erofs/erofs_fs.h`. Owner is root, time is zero, modes are
//! fixed: the image depends on names and contents alone, and on no version of a tool. It has no
//! checksum of its own: dm-verity guards every block.

use std::io::{self, Write};

use crate::BLOCK_BYTES;

const BLOCK: usize = BLOCK_BYTES as usize;
const INODE_BYTES: u64 = 64;
const DIRENT_BYTES: usize = 12;
/// Node ids count slots of 32 bytes from the start of the image; the inodes start in block 1.
const ROOT_NODE: u64 = BLOCK_BYTES / 32;
const FOLDER: u8 = 2;
const FILE: u8 = 1;

/// A file that is to be in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSpec {
    /// Its name in the root folder.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Why no image can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A name that is empty, `.`, `..`, too long, or holds a slash or NUL.
    #[error("{0:?} is no file name for the image")]
    Name(String),
    /// A name twice.
    #[error("the image would have two files named {0:?}")]
    Duplicate(String),
    /// More than 4096 files.
    #[error("the image would have {0} files, more than 4096")]
    TooMany(usize),
    /// More than 8 TiB.
    #[error("the image would be larger than 8 TiB")]
    TooLarge,
}

/// Where everything stands in an image: decided before a byte is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    files: Vec<FileSpec>,
    /// Blocks of directory entries.
    folder: Vec<Vec<u8>>,
    folder_first: u64,
    blocks: u64,
}

impl Layout {
    /// Lays out the files in the order of their names.
    pub fn new(mut files: Vec<FileSpec>) -> Result<Self, LayoutError> {
        const MAX_FILES: usize = 4096;
        const MAX_BLOCKS: u64 = 1 << 31;
        if files.len() > MAX_FILES {
            return Err(LayoutError::TooMany(files.len()));
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        for pair in files.windows(2) {
            if pair[0].name == pair[1].name {
                return Err(LayoutError::Duplicate(pair[0].name.clone()));
            }
        }
        if let Some(odd) = files.iter().find(|file| !is_plain(&file.name)) {
            return Err(LayoutError::Name(odd.name.clone()));
        }
        let folder = encode_folder(&files);
        let folder_first = 1 + ((1 + files.len() as u64) * INODE_BYTES).div_ceil(BLOCK_BYTES);
        let mut blocks = folder_first + folder.len() as u64;
        for file in &files {
            blocks = blocks.saturating_add(file.size.div_ceil(BLOCK_BYTES));
        }
        if blocks > MAX_BLOCKS {
            return Err(LayoutError::TooLarge);
        }
        Ok(Self {
            files,
            folder,
            folder_first,
            blocks,
        })
    }

    /// The files in the order in which their contents stand in the image.
    pub fn files(&self) -> &[FileSpec] {
        &self.files
    }

    /// Size of the image, whole blocks.
    pub const fn image_bytes(&self) -> u64 {
        self.blocks * BLOCK_BYTES
    }

    /// Writes everything before the first file's content. The contents follow, in the order of
    /// [`Self::files`], each filled up with zeros to a whole block.
    pub fn write_metadata(&self, image: &mut impl Write) -> io::Result<()> {
        image.write_all(&self.encode_superblock())?;
        image.write_all(&self.encode_inodes())?;
        for block in &self.folder {
            let mut whole = block.clone();
            whole.resize(BLOCK, 0);
            image.write_all(&whole)?;
        }
        Ok(())
    }

    fn encode_superblock(&self) -> Vec<u8> {
        const MTIME: u32 = 2; // compatible feature: inodes hold modification times
        let mut block = vec![0; BLOCK];
        let mut put = |at: usize, field: &[u8]| {
            block[1024 + at..1024 + at + field.len()].copy_from_slice(field);
        };
        put(0, &0xe0f5_e1e2u32.to_le_bytes());
        put(8, &MTIME.to_le_bytes());
        put(12, &[BLOCK_BYTES.trailing_zeros() as u8]);
        put(14, &(ROOT_NODE as u16).to_le_bytes());
        put(16, &(self.files.len() as u64 + 1).to_le_bytes());
        put(36, &(self.blocks as u32).to_le_bytes());
        put(64, b"cloister-model");
        block
    }

    fn encode_inodes(&self) -> Vec<u8> {
        let full = (self.folder.len() as u64 - 1) * BLOCK_BYTES;
        let folder_size = full + self.folder.last().map_or(0, |last| last.len() as u64);
        let mut inodes = encode_inode(1, 0o40_555, 2, folder_size, self.folder_first);
        let mut first = self.folder_first + self.folder.len() as u64;
        for (number, file) in (2..).zip(&self.files) {
            inodes.extend(encode_inode(number, 0o100_444, 1, file.size, first));
            first += file.size.div_ceil(BLOCK_BYTES);
        }
        inodes.resize(inodes.len().next_multiple_of(BLOCK), 0);
        inodes
    }
}

fn is_plain(name: &str) -> bool {
    let length = 1..=255;
    length.contains(&name.len()) && name != "." && name != ".." && !name.contains(['/', '\0'])
}

/// An extended inode with its content in consecutive blocks ("flat plain").
fn encode_inode(number: u32, mode: u16, links: u32, size: u64, first_block: u64) -> Vec<u8> {
    const EXTENDED_FLAT_PLAIN: u16 = 1;
    let mut inode = vec![0; INODE_BYTES as usize];
    let mut put = |at: usize, field: &[u8]| inode[at..at + field.len()].copy_from_slice(field);
    put(0, &EXTENDED_FLAT_PLAIN.to_le_bytes());
    put(4, &mode.to_le_bytes());
    put(8, &size.to_le_bytes());
    put(16, &(first_block as u32).to_le_bytes());
    put(20, &number.to_le_bytes());
    put(44, &links.to_le_bytes());
    inode
}

/// Directory blocks: fixed-size entries, then their names; names ascend over all blocks. The last
/// block is as long as it is filled.
fn encode_folder(files: &[FileSpec]) -> Vec<Vec<u8>> {
    let nodes = (ROOT_NODE + 2..).step_by(2);
    let mut entries: Vec<(&str, u64, u8)> = files
        .iter()
        .zip(nodes)
        .map(|(file, node)| (file.name.as_str(), node, FILE))
        .collect();
    entries.push((".", ROOT_NODE, FOLDER));
    entries.push(("..", ROOT_NODE, FOLDER));
    entries.sort_unstable();
    let mut blocks = Vec::new();
    let mut start = 0;
    while start < entries.len() {
        let mut end = start;
        let mut bytes = 0;
        while end < entries.len() && bytes + DIRENT_BYTES + entries[end].0.len() <= BLOCK {
            bytes += DIRENT_BYTES + entries[end].0.len();
            end += 1;
        }
        blocks.push(encode_folder_block(&entries[start..end]));
        start = end;
    }
    blocks
}

fn encode_folder_block(entries: &[(&str, u64, u8)]) -> Vec<u8> {
    let mut block = Vec::with_capacity(BLOCK);
    let mut name_at = entries.len() * DIRENT_BYTES;
    for (name, node, kind) in entries {
        block.extend(node.to_le_bytes());
        block.extend((name_at as u16).to_le_bytes());
        block.extend([*kind, 0]);
        name_at += name.len();
    }
    for (name, ..) in entries {
        block.extend(name.as_bytes());
    }
    block
}
