//! `cloister-agent prepare`: what needs root, before the server runs without it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use attest::PlatformKind;
use attest::eventlog::{EventLog, EventLogError, MAX_EVENT_LOG_BYTES};
use attest::release::MAX_BUNDLE_BYTES;
use verity::map::{self, MapError, Purpose};
use verity::partition::{FindError, Finder};
use verity::{Guid, VolumeRef, VolumeRefError};

use crate::evidence::tsm::{Attribute, ConfigFs, PREPARED, Provider};
use crate::journal::{Event, Journal};
use crate::site::{self, Places, SiteError};

/// Type of the partition that carries the release bundle.
const RELEASE_PARTITION: &str = "c1015e2e-0001-4c6f-8a5e-72656c656173";
/// Its first bytes; a 32-bit little-endian length and as many bytes of JSON follow.
const RELEASE_MAGIC: &[u8; 8] = b"CLOISTR1";
/// The mapped device's name.
const MODEL_DEVICE: &str = "cloister-model";
/// Without these there is no model.
const MODEL_FILES: [&str; 2] = ["config.json", "tokenizer.json"];

/// User and group of the agent, as the image has them in `etc/passwd`.
const AGENT_ID: u32 = 101;
/// How long the TPM may take to appear, and udev to hand it over.
const TPM_PATIENCE: Duration = Duration::from_secs(120);
const TPM_PAUSE: Duration = Duration::from_millis(50);
/// That its group may read and write.
const GROUP_ACCESS: u32 = 0o060;

/// Longest buffer that a firmware reserves for a CCEL.
const MAX_CCEL_BYTES: usize = 4 << 20;

/// Why the machine is not ready to serve.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A file is not usable.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The configuration's volume is none.
    #[error("model volume {volume} has no valid name")]
    VolumeName {
        /// As configured.
        volume: String,
        /// Why.
        source: VolumeRefError,
    },
    /// No disk holds the model volume that the configuration names.
    #[error("model volume {volume} not found on any disk")]
    VolumeMissing {
        /// As configured.
        volume: VolumeRef,
        /// Why.
        source: Box<MapError>,
    },
    /// The volume is there and does not open.
    #[error("model volume {volume} does not open")]
    Volume {
        /// As configured.
        volume: VolumeRef,
        /// Why.
        source: Box<MapError>,
    },
    /// The volume holds something else than a model.
    #[error("model volume {volume} holds no {file}")]
    ModelFile {
        /// As configured.
        volume: VolumeRef,
        /// What is missing.
        file: &'static str,
    },
    /// The firmware's event log is none.
    #[error("the firmware's event log (CCEL) is not one")]
    EventLog(#[source] EventLogError),
    /// The configuration names a TPM, and none appears that the agent may use.
    #[error("no TPM that the agent may use at {} within {} s", .0.display(),
            TPM_PATIENCE.as_secs())]
    Tpm(PathBuf),
    /// The configuration names a platform, and the kernel makes no reports here.
    #[error("this machine makes no reports of {}: the configuration says it does",
            .platform.as_str())]
    Reports {
        /// By the configuration.
        platform: PlatformKind,
        /// Why there is no folder for them.
        source: io::Error,
    },
    /// The kernel makes reports of another platform than the configuration names.
    #[error("this machine makes reports, and not of {expected}")]
    Provider {
        /// By the configuration.
        expected: Provider,
    },
    /// A file or folder for the server cannot be made.
    #[error("cannot make {}", path.display())]
    Make {
        /// What was to be made.
        path: PathBuf,
        /// Why it was not.
        source: io::Error,
    },
}

/// Why there is no release bundle. The agent serves without.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseFault {
    /// There is no such partition, or more than one.
    #[error("no release partition")]
    Partition(#[source] FindError),
    /// The partition cannot be read.
    #[error("the release partition cannot be read")]
    Read(#[source] io::Error),
    /// The partition does not begin as it must.
    #[error("the release partition holds no bundle")]
    Magic,
    /// The stated length is zero or beyond the limit.
    #[error("the release partition states {0} bytes, at most {MAX_BUNDLE_BYTES} are allowed")]
    Length(u32),
}

/// Opens the model volume, and copies what only root may read.
pub fn prepare(places: &Places, journal: &Journal) -> Result<(), PrepareError> {
    let (configuration, _) = site::read_configuration(&places.configuration)?;
    // What the measured configuration names is there for the agent, or nothing starts.
    let provider = match configuration.platform() {
        PlatformKind::Snp => Some(Provider::SevGuest),
        PlatformKind::Tdx => Some(Provider::TdxGuest),
        _ => None,
    };
    if let Some(provider) = provider {
        prepare_reports(configuration.platform(), provider, places, journal)?;
    }
    open_model_volume(configuration.model.volume.as_str(), &places.model, journal)?;
    if provider.is_none() {
        wait_for_tpm(&places.tpm, TPM_PATIENCE)?;
    }
    copy_event_log(configuration.platform(), places, journal)?;
    copy_release(places, journal)
}

fn prepare_reports(
    platform: PlatformKind,
    provider: Provider,
    places: &Places,
    journal: &Journal,
) -> Result<(), PrepareError> {
    let tree = ConfigFs(places.tsm.clone());
    make_reports_folder(&tree, platform)?;
    hand_over_reports(&tree, provider, AGENT_ID)?;
    journal.tell(&Event::ReportsReady { provider });
    Ok(())
}

/// udev gives it to its group; until then it is root's alone.
fn wait_for_tpm(path: &Path, patience: Duration) -> Result<(), PrepareError> {
    let begun = Instant::now();
    let is_usable = || {
        fs::metadata(path)
            .is_ok_and(|found| found.gid() != 0 && found.mode() & GROUP_ACCESS == GROUP_ACCESS)
    };
    while !is_usable() {
        if begun.elapsed() >= patience {
            return Err(PrepareError::Tpm(path.to_owned()));
        }
        std::thread::sleep(TPM_PAUSE);
    }
    Ok(())
}

/// Without a platform that makes reports, the kernel makes no folder for them either.
fn make_reports_folder(tree: &ConfigFs, platform: PlatformKind) -> Result<(), PrepareError> {
    let made = DirBuilder::new().mode(0o755).create(tree.0.join(PREPARED));
    made.map_err(|source| PrepareError::Reports { platform, source })
}

/// The kernel makes a report's files root's, and lets nobody else write them: so root made the
/// folder, and gives away the two files in it that are written.
fn hand_over_reports(tree: &ConfigFs, provider: Provider, agent: u32) -> Result<(), PrepareError> {
    let found = site::read_bounded(&tree.path(PREPARED, Attribute::Provider), 64)?;
    if found.trim_ascii() != provider.as_str().as_bytes() {
        return Err(PrepareError::Provider { expected: provider });
    }
    let written = match provider {
        Provider::SevGuest => &[Attribute::Inblob, Attribute::PrivilegeLevel][..],
        Provider::TdxGuest => &[Attribute::Inblob],
    };
    for attribute in written {
        let path = tree.path(PREPARED, *attribute);
        let given = chown(&path, Some(agent), Some(agent));
        given.map_err(|source| PrepareError::Make { path, source })?;
    }
    Ok(())
}

fn open_model_volume(name: &str, folder: &Path, journal: &Journal) -> Result<(), PrepareError> {
    let volume: VolumeRef = name.parse().map_err(|source| PrepareError::VolumeName {
        volume: name.to_owned(),
        source,
    })?;
    make_folder(folder)?;
    map::map_and_mount(&volume, MODEL_DEVICE, folder, Purpose::Data).map_err(|source| {
        let is_missing = matches!(
            &source,
            MapError::Find {
                source: FindError::Missing(_),
                ..
            }
        );
        let source = Box::new(source);
        match is_missing {
            true => PrepareError::VolumeMissing { volume, source },
            false => PrepareError::Volume { volume, source },
        }
    })?;
    if let Some(file) = missing_model_file(folder) {
        return Err(PrepareError::ModelFile { volume, file });
    }
    journal.tell(&Event::VolumeMounted { volume: name });
    Ok(())
}

fn missing_model_file(folder: &Path) -> Option<&'static str> {
    MODEL_FILES
        .into_iter()
        .find(|file| !folder.join(file).is_file())
}

/// SEV-SNP has no log: its launch digest says all.
fn copy_event_log(
    platform: PlatformKind,
    places: &Places,
    journal: &Journal,
) -> Result<(), PrepareError> {
    let log = match platform {
        PlatformKind::Snp => Vec::new(),
        PlatformKind::Tdx => {
            let mut buffer = site::read_bounded(&places.ccel, MAX_CCEL_BYTES)?;
            let written = EventLog::unpadded(&buffer).map(<[u8]>::len);
            buffer.truncate(written.map_err(PrepareError::EventLog)?);
            buffer
        }
        _ => site::read_bounded(&places.firmware_log, MAX_EVENT_LOG_BYTES)?,
    };
    write_public(&places.event_log, &log)?;
    journal.tell(&Event::EventLogCopied { bytes: log.len() });
    Ok(())
}

fn copy_release(places: &Places, journal: &Journal) -> Result<(), PrepareError> {
    match read_release_partition(&Finder::default()) {
        Ok(bundle) => {
            write_public(&places.release, &bundle)?;
            journal.tell(&Event::ReleaseCopied {
                bytes: bundle.len(),
            });
        }
        Err(reason) => journal.tell(&Event::ReleaseAbsent { reason: &reason }),
    }
    Ok(())
}

fn read_release_partition(finder: &Finder) -> Result<Vec<u8>, ReleaseFault> {
    let Ok(kind) = RELEASE_PARTITION.parse::<Guid>() else {
        return Err(ReleaseFault::Magic);
    };
    let partition = finder.find_by_type(kind).map_err(ReleaseFault::Partition)?;
    read_release(File::open(partition.path).map_err(ReleaseFault::Read)?)
}

/// The bundle in a release partition. Nobody trusts it before it verifies.
pub fn read_release(mut partition: impl Read) -> Result<Vec<u8>, ReleaseFault> {
    let mut magic = [0; RELEASE_MAGIC.len()];
    partition
        .read_exact(&mut magic)
        .map_err(ReleaseFault::Read)?;
    if magic != *RELEASE_MAGIC {
        return Err(ReleaseFault::Magic);
    }
    let mut length = [0; 4];
    partition
        .read_exact(&mut length)
        .map_err(ReleaseFault::Read)?;
    let length = u32::from_le_bytes(length);
    if !(1..=MAX_BUNDLE_BYTES).contains(&(length as usize)) {
        return Err(ReleaseFault::Length(length));
    }
    let mut bundle = vec![0; length as usize];
    partition
        .read_exact(&mut bundle)
        .map_err(ReleaseFault::Read)?;
    Ok(bundle)
}

fn make_folder(path: &Path) -> Result<(), PrepareError> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
    made.map_err(|source| PrepareError::Make {
        path: path.to_owned(),
        source,
    })
}

/// Writes a file that everyone may read: nothing here is secret.
fn write_public(path: &Path, content: &[u8]) -> Result<(), PrepareError> {
    let write = || {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(path)?;
        file.write_all(content)
    };
    write().map_err(|source| PrepareError::Make {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn partition(length: u32, content: &[u8]) -> Vec<u8> {
        [&RELEASE_MAGIC[..], &length.to_le_bytes(), content].concat()
    }

    #[test]
    fn a_bundle_ends_where_its_length_says() {
        let bytes = partition(3, b"abc\0\0\0");
        assert_eq!(read_release(&bytes[..]).unwrap(), b"abc");
        let short = read_release(&partition(7, b"abc")[..]).unwrap_err();
        assert!(matches!(short, ReleaseFault::Read(_)), "{short}");
        for length in [0, MAX_BUNDLE_BYTES as u32 + 1, u32::MAX] {
            let refused = read_release(&partition(length, &[0; 64])[..]).unwrap_err();
            assert!(matches!(refused, ReleaseFault::Length(found) if found == length));
        }
        let garbage = read_release(&[0; 64][..]).unwrap_err();
        assert!(matches!(garbage, ReleaseFault::Magic), "{garbage}");
    }

    #[test]
    fn files_for_the_server_are_replaced_and_readable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("event-log");
        for content in [&b"first"[..], b"second"] {
            write_public(&path, content).unwrap();
            assert_eq!(fs::read(&path).unwrap(), content);
        }
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o444);
        let nowhere = write_public(&folder.path().join("a/b"), b"").unwrap_err();
        assert!(matches!(nowhere, PrepareError::Make { .. }), "{nowhere}");
    }

    /// A folder stands in for the kernel's, which makes the files itself; so they are there first.
    fn kernel(provider: &str, files: &[&str]) -> (tempfile::TempDir, ConfigFs) {
        let folder = tempfile::tempdir().unwrap();
        let reports = folder.path().join(PREPARED);
        fs::create_dir(&reports).unwrap();
        fs::write(reports.join("provider"), provider).unwrap();
        for file in files {
            fs::write(reports.join(file), b"").unwrap();
        }
        let tree = ConfigFs(folder.path().to_owned());
        (folder, tree)
    }

    #[test]
    fn a_machine_without_the_configured_reports_is_not_served() {
        let folder = tempfile::tempdir().unwrap();
        let tree = ConfigFs(folder.path().join("absent"));
        let snp = PlatformKind::Snp;
        let none = make_reports_folder(&tree, snp).unwrap_err();
        let said = "this machine makes no reports of snp: the configuration says it does";
        assert_eq!(none.to_string(), said);
        assert!(matches!(none, PrepareError::Reports { platform, .. } if platform == snp));
        // Whoever made the folder before was not us.
        let (_folder, tree) = kernel("tdx_guest\n", &["inblob"]);
        let twice = make_reports_folder(&tree, snp).unwrap_err();
        assert!(matches!(twice, PrepareError::Reports { .. }), "{twice}");
        let own = fs::metadata(&tree.0).unwrap().uid();
        let snp = Provider::SevGuest;
        let other = hand_over_reports(&tree, snp, own).unwrap_err();
        assert!(matches!(other, PrepareError::Provider { expected } if expected == snp));
        // A platform has all of its files.
        hand_over_reports(&tree, Provider::TdxGuest, own).unwrap();
        let (_folder, tree) = kernel("sev_guest\n", &["inblob"]);
        let lacking = hand_over_reports(&tree, snp, own).unwrap_err();
        assert!(matches!(lacking, PrepareError::Make { .. }), "{lacking}");
    }

    #[test]
    fn a_tpm_is_waited_for_until_its_group_may_use_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tpmrm0");
        let soon = Duration::from_millis(1);
        let absent = wait_for_tpm(&path, soon).unwrap_err();
        assert!(matches!(absent, PrepareError::Tpm(found) if found == path));
        fs::write(&path, b"").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let private = wait_for_tpm(&path, soon).unwrap_err();
        assert!(matches!(private, PrepareError::Tpm(_)));
    }

    #[test]
    fn the_agents_user_is_that_of_the_image() {
        let passwd = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/rootfs/etc/passwd");
        let passwd = fs::read_to_string(passwd).unwrap();
        let line = format!("cloister:x:{AGENT_ID}:{AGENT_ID}:");
        assert!(passwd.lines().any(|found| found.starts_with(&line)));
    }

    #[test]
    fn a_folder_without_a_model_is_named_by_what_it_lacks() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(missing_model_file(folder.path()), Some("config.json"));
        fs::write(folder.path().join("config.json"), "{}").unwrap();
        assert_eq!(missing_model_file(folder.path()), Some("tokenizer.json"));
        fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
        assert_eq!(missing_model_file(folder.path()), None);
    }
}
