//! One side of a comparison: what a folder or a file tells about a build.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use attest::release::statement::TpmReferenceValues;
use attest::release::{Statement, StatementError};

use super::{Topic, configuration, units};
use crate::differ::tree::source_of;
use crate::files::digest_of_file;
use crate::manifest::{self, Kind, Manifest, ManifestError};
use crate::measure::{self, MeasureError};
use crate::root::{self, RootError};
use crate::stated::{self, StatedError};
use crate::tools::{ToolError, Tools};

type Table = BTreeMap<String, String>;

/// The row of a whole command line; no word has a space in it.
const WHOLE_LINE: &str = "the whole line";

const UKI: &str = "cloister.efi";
/// Folders of a root that hold units.
const UNIT_FOLDERS: [&str; 5] = [
    "/etc/systemd/system.control/",
    "/etc/systemd/system/",
    "/lib/systemd/system/",
    "/usr/lib/systemd/system/",
    "/usr/local/lib/systemd/system/",
];
/// Kinds of units.
const UNIT_ENDINGS: [&str; 11] = [
    ".automount",
    ".conf",
    ".device",
    ".mount",
    ".path",
    ".service",
    ".slice",
    ".socket",
    ".swap",
    ".target",
    ".timer",
];

/// What is known of one build or release.
#[derive(Debug, Clone)]
pub struct Side {
    pub(super) name: String,
    release: Option<Table>,
    /// Where the packed root was read back, and is what it lists.
    manifest: Option<Manifest>,
    command_line: Option<String>,
    configuration: Option<Table>,
    /// Settings of each unit, by its whole path: one in /etc stands beside one in /usr.
    units: Option<BTreeMap<String, Table>>,
    measurements: Option<Table>,
    launch: Option<Table>,
    /// Hash, and size where the file itself is there.
    artifacts: Option<BTreeMap<String, (String, Option<u64>)>>,
}

/// Why a side cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SideError {
    /// A file or folder cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Neither an image, nor an assembled folder, nor both.
    #[error("{0} holds neither manifest.json of an image nor cloister.efi of an assembled folder")]
    Nothing(PathBuf),
    /// Two folders below that could both be meant.
    #[error("{path} has several folders that hold {name}")]
    Ambiguous {
        /// The folder.
        path: PathBuf,
        /// The file that was looked for.
        name: &'static str,
    },
    /// The manifest cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The packed root is not what the manifest lists.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The UKI's measurement cannot be predicted.
    #[error("{path}: {source}")]
    Measure {
        /// The UKI.
        path: PathBuf,
        /// Why.
        source: MeasureError,
    },
    /// The file is no statement.
    #[error(transparent)]
    Stated(#[from] StatedError),
    /// A locked tool failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The bundle's statement is malformed.
    #[error(transparent)]
    Statement(#[from] StatementError),
}

impl Side {
    /// Reads a side. `tools` read its root back; without them nothing is known of what is in it,
    /// whatever its manifest says. `scratch` is a folder in which nobody else can look.
    pub fn read(path: &Path, tools: Option<&Tools>, scratch: &Path) -> Result<Self, SideError> {
        let metadata = path.metadata().map_err(unreadable(path))?;
        if !metadata.is_dir() {
            return Ok(Self::of_statement(path, &stated::read(path)?));
        }
        let image = below(path, manifest::FILE)?;
        let assembled = below(path, UKI)?;
        if image.is_none() && assembled.is_none() {
            return Err(SideError::Nothing(path.to_owned()));
        }
        let mut side = Self::empty(path);
        if let Some(image) = &image {
            side.add_image(image, tools, scratch)?;
        }
        if let Some(assembled) = &assembled {
            side.add_assembled(assembled)?;
        }
        Ok(side)
    }

    fn empty(path: &Path) -> Self {
        Self {
            name: path.display().to_string(),
            release: None,
            manifest: None,
            command_line: None,
            configuration: None,
            units: None,
            measurements: None,
            launch: None,
            artifacts: None,
        }
    }

    fn of_statement(path: &Path, statement: &Statement) -> Self {
        let stated = &statement.predicate;
        let facts = [
            ("name", stated.name.to_string()),
            ("version", stated.version.to_string()),
            ("profile", stated.profile.to_string()),
            ("source revision", stated.source_revision.to_string()),
            ("lock", format!("sha256:{}", stated.lock_digest)),
            (
                "configuration",
                format!("sha256:{}", stated.configuration_digest),
            ),
        ];
        let release = facts.map(|(name, value)| (name.to_owned(), value));
        let artifacts = statement.subject.iter().map(|subject| {
            let sum = subject.digest.sha256.to_string();
            (subject.name.to_string(), (sum, None))
        });
        Self {
            release: Some(release.into()),
            measurements: Some(registers(&stated.reference_values.tpm)),
            launch: Some(stated::beyond_tpm(&stated.reference_values)),
            artifacts: Some(artifacts.collect()),
            ..Self::empty(path)
        }
    }

    fn add_image(
        &mut self,
        image: &Path,
        tools: Option<&Tools>,
        scratch: &Path,
    ) -> Result<(), SideError> {
        let manifest = Manifest::read(image)?;
        let line = image.join("cmdline");
        let line = fs::read_to_string(&line).map_err(unreadable(&line))?;
        self.command_line = Some(line);
        self.add_artifacts(image, "image-")?;
        if let Some(tools) = tools {
            let root = scratch.join("root");
            if root.exists() {
                fs::remove_dir_all(&root).map_err(unreadable(&root))?;
            }
            tools.extract_erofs(&image.join("root.erofs"), &root)?;
            root::check(&manifest, &root)?;
            self.units = Some(read_units(&manifest, &root)?);
            self.manifest = Some(manifest);
            fs::remove_dir_all(&root).map_err(unreadable(&root))?;
        }
        Ok(())
    }

    fn add_assembled(&mut self, folder: &Path) -> Result<(), SideError> {
        let path = folder.join(UKI);
        let uki = fs::read(&path).map_err(unreadable(&path))?;
        let measured = measure::measure(&uki, &[]);
        let measured = measured.map_err(|source| SideError::Measure { path, source })?;
        self.measurements = Some(registers(&measured.reference_values()));
        self.command_line = Some(measured.command_line.as_str().to_owned());
        let path = folder.join("config.toml");
        let text = fs::read_to_string(&path).map_err(unreadable(&path))?;
        self.configuration = Some(configuration::parse(&text));
        self.add_artifacts(folder, "")
    }

    /// The files of a folder, by name.
    fn add_artifacts(&mut self, folder: &Path, prefix: &str) -> Result<(), SideError> {
        for entry in folder.read_dir().map_err(unreadable(folder))? {
            let path = entry.map_err(unreadable(folder))?.path();
            if !path.is_file() {
                continue;
            }
            let bytes = path.metadata().map_err(unreadable(&path))?.len();
            let sum = digest_of_file(&path)
                .map_err(unreadable(&path))?
                .to_string();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let artifacts = self.artifacts.get_or_insert_default();
            artifacts.insert(format!("{prefix}{name}"), (sum, Some(bytes)));
        }
        Ok(())
    }

    /// What this side says of a topic.
    pub(super) fn table(&self, topic: Topic) -> Option<Table> {
        match topic {
            Topic::Release => self.release.clone(),
            Topic::Packages => Some(packages(self.manifest.as_ref()?)),
            Topic::Files => Some(files(self.manifest.as_ref()?, |_| true)),
            Topic::Setuid => Some(files(self.manifest.as_ref()?, |mode| mode & 0o7000 != 0)),
            Topic::CommandLine => Some(words(self.command_line.as_deref()?)),
            Topic::Configuration => self.configuration.clone(),
            Topic::Units => {
                let mut table = self.settings(|name| !units::is_sandbox(name))?;
                // One without a setting may still hide another, or undo it.
                let units = self.units.as_ref()?.keys();
                table.extend(units.map(|unit| (unit.clone(), String::new())));
                Some(table)
            }
            Topic::Sandbox => Some(self.settings(units::is_sandbox)?),
            Topic::Measurements => self.measurements.clone(),
            Topic::Launch => self.launch.clone(),
            Topic::Artifacts => {
                let artifacts = self.artifacts.as_ref()?.iter();
                let shown = artifacts.map(|(name, (sum, _))| (name.clone(), sum.clone()));
                Some(shown.collect())
            }
            Topic::Sizes => {
                let artifacts = self.artifacts.as_ref()?.iter();
                // A statement knows no sizes.
                let shown = artifacts
                    .map(|(name, (_, bytes))| Some((name.clone(), bytes.as_ref()?.to_string())));
                shown.collect()
            }
        }
    }

    /// The settings of all units that fit.
    fn settings(&self, fits: impl Fn(&str) -> bool) -> Option<Table> {
        let mut table = Table::new();
        for (unit, settings) in self.units.as_ref()? {
            for (name, value) in settings.iter().filter(|(name, _)| fits(name)) {
                table.insert(format!("{unit}: {name}"), value.clone());
            }
        }
        Some(table)
    }

    /// Who brought a path of the root.
    pub(super) fn owner(&self, path: &str) -> Option<String> {
        let manifest = self.manifest.as_ref()?;
        let from = &manifest.files.get(path)?.from;
        Some(match manifest.package(from) {
            Some(package) => format!("{from} {}", package.version),
            None => source_of(from, path),
        })
    }

    /// Bytes of what is booted, without its configuration.
    pub(super) fn boot_bytes(&self) -> Option<u64> {
        let artifacts = self.artifacts.as_ref()?;
        let parts = ["image-root.erofs", "image-initrd", "image-vmlinuz"];
        parts.iter().map(|name| artifacts.get(*name)?.1).sum()
    }
}

/// The folder itself, or the one folder in it, that holds a file of this name.
fn below(folder: &Path, name: &'static str) -> Result<Option<PathBuf>, SideError> {
    if folder.join(name).is_file() {
        return Ok(Some(folder.to_owned()));
    }
    let mut found = Vec::new();
    for entry in folder.read_dir().map_err(unreadable(folder))? {
        let path = entry.map_err(unreadable(folder))?.path();
        if path.join(name).is_file() {
            found.push(path);
        }
    }
    match found.len() {
        0 | 1 => Ok(found.pop()),
        _ => Err(SideError::Ambiguous {
            path: folder.to_owned(),
            name,
        }),
    }
}

fn packages(manifest: &Manifest) -> Table {
    let packages = manifest.packages.iter();
    let row = |package: &manifest::Package| {
        let hash: String = package.sha256.to_string().chars().take(16).collect();
        (
            package.name.clone(),
            format!("{} ({hash}…)", package.version),
        )
    };
    packages.map(row).collect()
}

fn files(manifest: &Manifest, fits: impl Fn(u32) -> bool) -> Table {
    let mode = |kind: &Kind| match kind {
        Kind::File { mode, .. } | Kind::Folder { mode } => *mode,
        Kind::Link { .. } => 0,
    };
    let fitting = manifest
        .files
        .iter()
        .filter(|(_, file)| fits(mode(&file.kind)));
    let row = |(path, file): (&String, &manifest::File)| {
        let text = file.kind.to_string();
        // Enough of the hash to tell two apart; JSON and people get the same.
        let text = match text.split_once("sha256:") {
            Some((mode, hash)) => format!("{mode}{}…", hash.get(..16).unwrap_or(hash)),
            None => text,
        };
        (path.clone(), text)
    };
    fitting.map(row).collect()
}

/// A command line by its keys; the words of a key that stands several times follow each other.
/// Order, repetition and what a word means after `--` show in the line as a whole alone.
fn words(line: &str) -> Table {
    let whole = line.strip_suffix('\n').unwrap_or(line);
    let mut table = Table::from([(WHOLE_LINE.to_owned(), whole.escape_debug().to_string())]);
    for word in line.split_whitespace() {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let values = table.entry(key.to_owned()).or_default();
        if !values.is_empty() {
            values.push(' ');
        }
        *values += value;
    }
    table
}

fn registers(values: &TpmReferenceValues) -> Table {
    let (short, long) = (&values.sha256, &values.sha384);
    let rows = [
        ("PCR 4, sha256", short.pcr4.to_string()),
        ("PCR 9, sha256", short.pcr9.to_string()),
        ("PCR 11, sha256", short.pcr11.to_string()),
        ("PCR 12, sha256", short.pcr12.to_string()),
        ("PCR 13, sha256", short.pcr13.to_string()),
        ("PCR 4, sha384", long.pcr4.to_string()),
        ("PCR 9, sha384", long.pcr9.to_string()),
        ("PCR 11, sha384", long.pcr11.to_string()),
        ("PCR 12, sha384", long.pcr12.to_string()),
        ("PCR 13, sha384", long.pcr13.to_string()),
    ];
    rows.map(|(name, value)| (name.to_owned(), value)).into()
}

fn read_units(manifest: &Manifest, root: &Path) -> Result<BTreeMap<String, Table>, SideError> {
    let mut found = BTreeMap::new();
    for (path, file) in &manifest.files {
        let inside = UNIT_FOLDERS
            .iter()
            .find_map(|folder| path.strip_prefix(folder));
        let is_unit = |name: &str| UNIT_ENDINGS.iter().any(|ending| name.ends_with(ending));
        if !inside.is_some_and(is_unit) {
            continue;
        }
        let settings = match &file.kind {
            Kind::Link { target } => Table::from([("link".to_owned(), target.clone())]),
            Kind::Folder { .. } => continue,
            Kind::File { .. } => {
                let place = root.join(path.trim_start_matches('/'));
                let bytes = fs::read(&place).map_err(unreadable(&place))?;
                units::parse(&String::from_utf8_lossy(&bytes))
            }
        };
        found.insert(path.clone(), settings);
    }
    Ok(found)
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> SideError {
    let path = path.to_owned();
    move |source| SideError::Read { path, source }
}
