//! Model volumes: a Hugging Face style folder becomes a disk image whose root hash names the model.
//!
//! The image holds what the engine reads, `*.safetensors`, `*.json` and `*.jinja` at the top of the
//! folder, and nothing else. Names and contents alone decide its bytes: neither time, mode, owner
//! nor place of a file, and no tool but this one. The salt is made from the content as well.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::erofs::{self, FileSpec};
use crate::gpt::{self, PartitionSpec};
use crate::safetensors::{self, TensorError};
use crate::tree::{self, Area, FormatError, Progress};
use crate::{BLOCK_BYTES, Guid, VolumeRef};

/// Type of the partition that holds a model's files.
pub const MODEL_DATA_TYPE: Guid =
    Guid::from_bytes(*b"\xc1\x01\x5e\x2e\x00\x02\x4c\x6f\x8a\x5emodel\0");
/// Type of the partition that holds a model's hash tree.
pub const MODEL_HASH_TYPE: Guid =
    Guid::from_bytes(*b"\xc1\x01\x5e\x2e\x00\x03\x4c\x6f\x8a\x5emodel\0");

const ENDINGS: [&str; 3] = [".safetensors", ".json", ".jinja"];
/// The largest JSON file that is looked into.
const MAX_JSON_BYTES: u64 = 256 << 20;

/// A folder that holds a model.
#[derive(Debug, Clone)]
pub struct ModelFolder {
    path: PathBuf,
    files: Vec<FileSpec>,
    left_out: Vec<String>,
}

/// Why a folder does not look like a model.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The folder cannot be listed.
    #[error("cannot list {}", path.display())]
    List {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that every model has is not there.
    #[error("no `{0}` in the folder")]
    Missing(&'static str),
    /// No weights.
    #[error("no `*.safetensors` in the folder")]
    NoWeights,
    /// The index names a file that is not there.
    #[error("`{index}` names a shard that is not in the folder: {shard:?}")]
    MissingShard {
        /// The index file.
        index: String,
        /// The file that it names.
        shard: String,
    },
    /// A JSON file is none.
    #[error("`{0}` is no JSON object of a sensible size")]
    NotJson(String),
    /// A safetensors file is damaged.
    #[error("`{name}` is damaged")]
    Tensors {
        /// The file.
        name: String,
        /// What is wrong with it.
        source: TensorError,
    },
}

impl ModelFolder {
    /// Opens a folder and checks that it looks like a model that can be served.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let folder = Self::open_unchecked(path)?;
        for name in ["config.json", "tokenizer.json"] {
            if !folder.has(name) {
                return Err(FolderError::Missing(name));
            }
        }
        if !folder
            .files
            .iter()
            .any(|file| file.name.ends_with(".safetensors"))
        {
            return Err(FolderError::NoWeights);
        }
        for file in &folder.files {
            folder.check_file(file)?;
        }
        Ok(folder)
    }

    /// Opens a folder as it is, for whoever wants a volume that the agent must refuse.
    pub fn open_unchecked(path: &Path) -> Result<Self, FolderError> {
        let unlisted = |source| FolderError::List {
            path: path.to_owned(),
            source,
        };
        let mut folder = Self {
            path: path.to_owned(),
            files: Vec::new(),
            left_out: Vec::new(),
        };
        for entry in fs::read_dir(path).map_err(unlisted)? {
            let entry = entry.map_err(unlisted)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !belongs(&name) {
                folder.left_out.push(name);
                continue;
            }
            // Follows links: a downloaded snapshot is a folder of them.
            let metadata = fs::metadata(entry.path()).map_err(|source| FolderError::Read {
                path: entry.path(),
                source,
            })?;
            match metadata.is_file() && entry.file_name().to_str() == Some(&name) {
                true => folder.files.push(FileSpec {
                    name,
                    size: metadata.len(),
                }),
                false => folder.left_out.push(name),
            }
        }
        folder.files.sort_by(|a, b| a.name.cmp(&b.name));
        folder.left_out.sort();
        Ok(folder)
    }

    /// The files that a volume holds, in the order of their names.
    pub fn files(&self) -> &[FileSpec] {
        &self.files
    }

    /// Names of what stands in the folder and does not go into a volume.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    fn has(&self, name: &str) -> bool {
        self.files.iter().any(|file| file.name == name)
    }

    fn open_file(&self, name: &str) -> Result<File, FolderError> {
        let path = self.path.join(name);
        File::open(&path).map_err(|source| FolderError::Read { path, source })
    }

    fn check_file(&self, file: &FileSpec) -> Result<(), FolderError> {
        if file.name.ends_with(".safetensors") {
            let mut tensors = self.open_file(&file.name)?;
            return safetensors::check_length(&mut tensors).map_err(|source| {
                let name = file.name.clone();
                FolderError::Tensors { name, source }
            });
        }
        let is_index = file.name.ends_with(".safetensors.index.json");
        if !is_index && file.name != "config.json" && file.name != "tokenizer.json" {
            return Ok(());
        }
        let json = self.read_object(file)?;
        let shards = json.get("weight_map").and_then(Value::as_object);
        for shard in shards.into_iter().flat_map(|shards| shards.values()) {
            match shard.as_str() {
                Some(shard) if self.has(shard) => {}
                other => {
                    return Err(FolderError::MissingShard {
                        index: file.name.clone(),
                        shard: other.unwrap_or_default().to_owned(),
                    });
                }
            }
        }
        Ok(())
    }

    fn read_object(&self, file: &FileSpec) -> Result<Value, FolderError> {
        let mut bytes = Vec::new();
        let opened = self.open_file(&file.name)?;
        opened
            .take(MAX_JSON_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|source| FolderError::Read {
                path: self.path.join(&file.name),
                source,
            })?;
        match serde_json::from_slice(&bytes) {
            Ok(object @ Value::Object(_)) => Ok(object),
            _ => Err(FolderError::NotJson(file.name.clone())),
        }
    }
}

fn belongs(name: &str) -> bool {
    !name.starts_with('.') && ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Why a folder cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The files cannot be laid out as a file system.
    #[error(transparent)]
    Files(#[from] erofs::LayoutError),
    /// The partitions cannot be laid out.
    #[error(transparent)]
    Partitions(#[from] gpt::LayoutError),
    /// A file of the model cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the model changed its size while it was read.
    #[error("{} changed while it was packed", .0.display())]
    Changed(PathBuf),
    /// The image cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The image.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The hash tree cannot be made.
    #[error(transparent)]
    Tree(#[from] FormatError),
}

/// Bytes that [`pack`] reports to its progress in all.
pub fn work_bytes(folder: &ModelFolder) -> Result<u64, erofs::LayoutError> {
    Ok(2 * erofs::Layout::new(folder.files.clone())?.image_bytes())
}

/// Packs a model into the disk image `output`, which appears only when it is whole.
pub fn pack(
    folder: &ModelFolder,
    output: &Path,
    progress: Progress<'_>,
) -> Result<VolumeRef, PackError> {
    let mut partial = output.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let unwritten = |source| PackError::Write {
        path: output.to_owned(),
        source,
    };
    let mut options = File::options();
    let image = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&partial);
    let packed = image.map_err(unwritten).and_then(|image| {
        let volume = write_image(folder, &image, &unwritten, progress)?;
        image.sync_all().map_err(unwritten)?;
        fs::rename(&partial, output).map_err(unwritten)?;
        Ok(volume)
    });
    packed.inspect_err(|_| {
        fs::remove_file(&partial).ok(); // the cause matters more than the leftover
    })
}

fn write_image(
    folder: &ModelFolder,
    image: &File,
    unwritten: &dyn Fn(io::Error) -> PackError,
    progress: Progress<'_>,
) -> Result<VolumeRef, PackError> {
    let files = erofs::Layout::new(folder.files.clone())?;
    let bytes = files.image_bytes();
    // Places depend on sizes alone; the GUIDs follow when the root hash is known.
    let draft = partitions(bytes, None)?;
    image.set_len(draft.image_bytes()).map_err(unwritten)?;
    let [data, hash] = draft.entries() else {
        return Err(gpt::LayoutError::TooLarge.into());
    };
    let [data, hash] = [data, hash].map(|entry| Area {
        file: image,
        offset: entry.offset_bytes(),
    });
    let digest = write_files(folder, &files, data, unwritten, progress)?;
    let salt = Sha256::new_with_prefix("cloister model salt v1")
        .chain_update(digest)
        .finalize();
    let volume = tree::format(data, bytes, hash, salt.into(), None, progress)?;
    partitions(bytes, Some(&volume))?
        .write_tables(image)
        .map_err(unwritten)?;
    Ok(volume)
}

/// The two partitions of a model volume; without its name, in their places only.
fn partitions(
    data_bytes: u64,
    volume: Option<&VolumeRef>,
) -> Result<gpt::Layout, gpt::LayoutError> {
    let placeholder = |byte| Guid::from_bytes([byte; 16]);
    let spec = |name: &str, type_guid, unique_guid, size_bytes| PartitionSpec {
        type_guid,
        unique_guid,
        name: name.to_owned(),
        attributes: 1 << 60, // read-only
        size_bytes,
    };
    let hash_bytes = tree::hash_area_bytes(data_bytes / BLOCK_BYTES);
    let data_guid = volume.map_or(placeholder(1), VolumeRef::data_guid);
    let hash_guid = volume.map_or(placeholder(2), VolumeRef::hash_guid);
    let disk_guid = volume.map_or(placeholder(3), |volume| {
        let digest = Sha256::new_with_prefix("cloister model disk v1");
        Guid::from_digest(&digest.chain_update(volume.root_hash()).finalize().into())
    });
    gpt::Layout::new(
        disk_guid,
        &[
            spec("cloister-model", MODEL_DATA_TYPE, data_guid, data_bytes),
            spec(
                "cloister-model-verity",
                MODEL_HASH_TYPE,
                hash_guid,
                hash_bytes,
            ),
        ],
    )
}

/// Writes the file system and gives its SHA-256.
fn write_files(
    folder: &ModelFolder,
    layout: &erofs::Layout,
    data: Area<'_>,
    unwritten: &dyn Fn(io::Error) -> PackError,
    progress: Progress<'_>,
) -> Result<[u8; 32], PackError> {
    let mut sink = Sink {
        area: data,
        digest: Sha256::new(),
        progress,
    };
    layout.write_metadata(&mut sink).map_err(unwritten)?;
    let mut buffer = vec![0; 1 << 20];
    for spec in layout.files() {
        let path = folder.path.join(&spec.name);
        let unreadable = |source| PackError::Read {
            path: path.clone(),
            source,
        };
        let mut file = File::open(&path).map_err(unreadable)?;
        let mut copied = 0;
        loop {
            let count = file.read(&mut buffer).map_err(unreadable)?;
            copied += count as u64;
            if copied > spec.size || (count == 0 && copied < spec.size) {
                return Err(PackError::Changed(path));
            }
            if count == 0 {
                break;
            }
            sink.write_all(&buffer[..count]).map_err(unwritten)?;
        }
        let padding = spec.size.next_multiple_of(BLOCK_BYTES) - spec.size;
        sink.write_all(&[0; BLOCK_BYTES as usize][..padding as usize])
            .map_err(unwritten)?;
    }
    Ok(sink.digest.finalize().into())
}

/// Writes to an area and hashes what goes through.
struct Sink<'a> {
    area: Area<'a>,
    digest: Sha256,
    progress: Progress<'a>,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        self.area.file.write_all_at(bytes, self.area.offset)?;
        self.area.offset += bytes.len() as u64;
        self.digest.update(bytes);
        (self.progress)(bytes.len() as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
