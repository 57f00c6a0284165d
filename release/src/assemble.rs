//! From an image's parts and a configuration to a UKI and a boot disk, in seconds.
//!
//! ```text
//! image/   root.erofs root.verity root.ref vmlinuz initrd stub.efi cmdline os-release profile
//!          SHA256SUMS
//!    + config.toml
//! output/  cloister.efi disk.img vmlinuz initrd cmdline config.toml
//! ```
//!
//! The output appears whole or not at all: it is written beside its place and renamed into it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use attest::Digest;
use attest::configuration::{Configuration, ConfigurationError};
use verity::{VolumeRef, VolumeRefError, tree};

use crate::command_line::{CommandLine, CommandLineError};
use crate::cpio;
use crate::disk::{self, DiskError};
use crate::files::digest_of_file;
use crate::measure::{self, MeasureError, Measurement};
use crate::uki::{self, UkiError};

/// Files of an image that are assembled.
pub const IMAGE_FILES: [&str; 9] = [
    "cmdline",
    "initrd",
    "os-release",
    "profile",
    "root.erofs",
    "root.ref",
    "root.verity",
    "stub.efi",
    "vmlinuz",
];
/// Files that assembling makes.
pub const OUTPUT_FILES: [&str; 6] = [
    "cloister.efi",
    "cmdline",
    "config.toml",
    "disk.img",
    "initrd",
    "vmlinuz",
];
const SUMS: &str = "SHA256SUMS";
/// Largest part that is held in memory: kernel, initrd, stub.
const MAX_PART_BYTES: u64 = 1 << 30;

/// Why an image and a configuration were not assembled.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A part that is too large to be one.
    #[error("{path} has {bytes} bytes; {MAX_PART_BYTES} is the most for a part of an image")]
    PartSize {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The image's list of sums is malformed.
    #[error("{path}, line {line}: not `SHA-256, two spaces, name`")]
    Sums {
        /// The list.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// The image's list of sums leaves a part out.
    #[error("{path} does not list {name}")]
    Unlisted {
        /// The list.
        path: PathBuf,
        /// The part.
        name: &'static str,
    },
    /// A part is not what the image's list says.
    #[error("{path} has SHA-256 {found}, the image's list says {expected}")]
    Sum {
        /// The part.
        path: PathBuf,
        /// In the list.
        expected: Digest<32>,
        /// Of the file.
        found: Digest<32>,
    },
    /// The name of the root volume is malformed.
    #[error("root.ref: {0}")]
    RootRef(VolumeRefError),
    /// The root volume's files do not have the sizes that its name implies.
    #[error("{path} has {found} bytes, root.ref implies {expected}")]
    RootSize {
        /// The file.
        path: PathBuf,
        /// Bytes that the name implies.
        expected: u64,
        /// Bytes in the file.
        found: u64,
    },
    /// The root volume is not the one that its name says.
    #[error("root.erofs and root.verity: {0}")]
    Root(tree::VerifyError),
    /// The configuration is malformed.
    #[error("the configuration: {0}")]
    Configuration(#[from] ConfigurationError),
    /// The configuration's model volume is malformed.
    #[error("the configuration's model volume: {0}")]
    ModelVolume(VolumeRefError),
    /// The command line cannot be made.
    #[error(transparent)]
    CommandLine(#[from] CommandLineError),
    /// The UKI cannot be built.
    #[error(transparent)]
    Uki(#[from] UkiError),
    /// The UKI's measurement cannot be predicted.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// The disk cannot be written.
    #[error("cannot write disk.img")]
    Disk(#[from] DiskError),
    /// The output cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The output folder holds something else.
    #[error("{path} holds {name}, which assembling does not make: nothing was replaced")]
    ForeignOutput {
        /// The folder.
        path: PathBuf,
        /// What stands there.
        name: String,
    },
}

/// Parts of an image, read and checked against its list of sums.
#[derive(Debug)]
struct ImageParts {
    folder: PathBuf,
    root: VolumeRef,
    stub: Vec<u8>,
    os_release: Vec<u8>,
    base_command_line: Vec<u8>,
    linux: Vec<u8>,
    initrd: Vec<u8>,
}

/// Assembles an image with the configuration file `configuration` into the folder `output`, which
/// is made or replaced, and says what a boot of it will be measured as.
pub fn assemble(
    image: &Path,
    configuration: &Path,
    output: &Path,
) -> Result<Measurement, AssembleError> {
    let configuration = read_part(configuration)?;
    let model = Configuration::parse(&configuration)?.model.volume;
    model
        .as_str()
        .parse::<VolumeRef>()
        .map_err(AssembleError::ModelVolume)?;
    let image = ImageParts::read(image)?;

    let digest = Digest::sha256(&configuration);
    let command_line = CommandLine::assemble(&image.base_command_line, &image.root, digest)?;
    let mut initrd = image.initrd.clone();
    initrd.extend_from_slice(cpio::padding(initrd.len()));
    initrd.extend_from_slice(&measure::configuration_archive(&configuration));
    let uki = uki::build(&uki::Parts {
        stub: &image.stub,
        os_release: &image.os_release,
        command_line: &command_line,
        linux: &image.linux,
        initrd: &initrd,
    })?;
    let measurement = measure::measure(&uki, &[])?;

    let staging = Staging::new(output)?;
    staging.write("cloister.efi", &uki)?;
    staging.write("cmdline", command_line.as_str().as_bytes())?;
    staging.write("config.toml", &configuration)?;
    staging.write("initrd", &initrd)?;
    staging.write("vmlinuz", &image.linux)?;
    let disk = staging.create("disk.img")?;
    let contents = disk::Contents {
        uki: &uki,
        root: image.root,
        root_data: image.folder.join("root.erofs"),
        root_hashes: image.folder.join("root.verity"),
    };
    disk::write(&disk, &contents)?;
    staging.finish(&disk, "disk.img")?;
    staging.publish(output)?;
    Ok(measurement)
}

impl ImageParts {
    fn read(folder: &Path) -> Result<Self, AssembleError> {
        let sums = read_sums(&folder.join(SUMS))?;
        for name in IMAGE_FILES {
            check_sum(folder, name, &sums)?;
        }
        let part = |name: &str| read_part(&folder.join(name));
        let root = String::from_utf8_lossy(&part("root.ref")?).into_owned();
        let root = root
            .strip_suffix('\n')
            .unwrap_or(&root)
            .parse::<VolumeRef>();
        let root = root.map_err(AssembleError::RootRef)?;
        let (data, hashes) = (folder.join("root.erofs"), folder.join("root.verity"));
        check_size(&data, root.data_bytes())?;
        check_size(&hashes, tree::hash_area_bytes(root.data_blocks()))?;
        check_root(&root, &data, &hashes)?;
        Ok(Self {
            folder: folder.to_owned(),
            root,
            stub: part("stub.efi")?,
            os_release: part("os-release")?,
            base_command_line: part("cmdline")?,
            linux: part("vmlinuz")?,
            initrd: part("initrd")?,
        })
    }
}

fn read_part(path: &Path) -> Result<Vec<u8>, AssembleError> {
    let file = File::open(path).map_err(unreadable(path))?;
    let bytes = file.metadata().map_err(unreadable(path))?.len();
    if bytes > MAX_PART_BYTES {
        let path = path.to_owned();
        return Err(AssembleError::PartSize { path, bytes });
    }
    let mut contents = Vec::with_capacity(bytes as usize);
    file.take(MAX_PART_BYTES)
        .read_to_end(&mut contents)
        .map_err(unreadable(path))?;
    Ok(contents)
}

/// Reads a list as `sha256sum` writes it.
fn read_sums(path: &Path) -> Result<BTreeMap<String, Digest<32>>, AssembleError> {
    let text = fs::read_to_string(path).map_err(unreadable(path))?;
    let entry = |(index, line): (usize, &str)| {
        let malformed = || AssembleError::Sums {
            path: path.to_owned(),
            line: index + 1,
        };
        let (digest, name) = line.split_once("  ").ok_or_else(malformed)?;
        let digest = digest.parse().map_err(|_| malformed())?;
        Ok((name.trim_start_matches("./").to_owned(), digest))
    };
    text.lines().enumerate().map(entry).collect()
}

fn check_sum(
    folder: &Path,
    name: &'static str,
    sums: &BTreeMap<String, Digest<32>>,
) -> Result<(), AssembleError> {
    let expected = *sums.get(name).ok_or_else(|| AssembleError::Unlisted {
        path: folder.join(SUMS),
        name,
    })?;
    let path = folder.join(name);
    let found = digest_of_file(&path).map_err(unreadable(&path))?;
    match found == expected {
        true => Ok(()),
        false => Err(AssembleError::Sum {
            path,
            expected,
            found,
        }),
    }
}

fn check_size(path: &Path, expected: u64) -> Result<(), AssembleError> {
    let found = path.metadata().map_err(unreadable(path))?.len();
    match found == expected {
        true => Ok(()),
        false => Err(AssembleError::RootSize {
            path: path.to_owned(),
            expected,
            found,
        }),
    }
}

/// Every block of the root volume leads to the root hash: what is assembled can boot.
fn check_root(root: &VolumeRef, data: &Path, hashes: &Path) -> Result<(), AssembleError> {
    let data = File::open(data).map_err(unreadable(data))?;
    let hashes = File::open(hashes).map_err(unreadable(hashes))?;
    let (data, hashes) = (tree::Area::whole(&data), tree::Area::whole(&hashes));
    tree::verify(root, data, hashes, &|_| {}).map_err(AssembleError::Root)
}

/// A folder beside the output's place, removed again unless it is published.
struct Staging {
    folder: PathBuf,
}

impl Staging {
    fn new(output: &Path) -> Result<Self, AssembleError> {
        check_replaceable(output)?;
        let folder = beside(output, "partial")?;
        if let Some(parent) = folder.parent() {
            fs::create_dir_all(parent).map_err(unwritable(parent))?;
        }
        if folder.exists() {
            // Of a process that died and had our number.
            fs::remove_dir_all(&folder).map_err(unwritable(&folder))?;
        }
        fs::create_dir(&folder).map_err(unwritable(&folder))?;
        Ok(Self { folder })
    }

    fn create(&self, name: &str) -> Result<File, AssembleError> {
        let path = self.folder.join(name);
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create_new(true);
        options.open(&path).map_err(unwritable(&path))
    }

    fn write(&self, name: &str, contents: &[u8]) -> Result<(), AssembleError> {
        let mut file = self.create(name)?;
        let path = self.folder.join(name);
        file.write_all(contents).map_err(unwritable(&path))?;
        self.finish(&file, name)
    }

    fn finish(&self, file: &File, name: &str) -> Result<(), AssembleError> {
        file.sync_data()
            .map_err(unwritable(&self.folder.join(name)))
    }

    /// Puts the folder into the output's place.
    fn publish(self, output: &Path) -> Result<(), AssembleError> {
        let old = beside(output, "replaced")?;
        if output.exists() {
            fs::rename(output, &old).map_err(unwritable(output))?;
        }
        fs::rename(&self.folder, output).map_err(unwritable(output))?;
        if old.exists() {
            fs::remove_dir_all(&old).map_err(unwritable(&old))?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After publishing nothing stands here; otherwise there is nobody left to tell.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A name of this process beside a folder, on the same file system.
fn beside(output: &Path, what: &str) -> Result<PathBuf, AssembleError> {
    let output = std::path::absolute(output).map_err(unwritable(output))?;
    let name = output
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Ok(output.with_file_name(format!(".{name}.{what}-{}", std::process::id())))
}

/// What is replaced must be what assembling made.
fn check_replaceable(output: &Path) -> Result<(), AssembleError> {
    let entries = match fs::read_dir(output) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(unwritable(output))?,
    };
    for entry in entries {
        let name = entry.map_err(unwritable(output))?.file_name();
        let name = name.to_string_lossy().into_owned();
        if !OUTPUT_FILES.contains(&name.as_str()) {
            let path = output.to_owned();
            return Err(AssembleError::ForeignOutput { path, name });
        }
    }
    Ok(())
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> AssembleError {
    let path = path.to_owned();
    move |source| AssembleError::Read { path, source }
}

fn unwritable(path: &Path) -> impl FnOnce(io::Error) -> AssembleError {
    let path = path.to_owned();
    move |source| AssembleError::Write { path, source }
}
