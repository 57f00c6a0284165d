//! What stands where in the VM, and reading it within bounds.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use attest::Configuration;
use attest::configuration::{ConfigurationError, MAX_CONFIGURATION_BYTES};

/// Paths, the address and the age of metrics, with the image's own as defaults. There is no other
/// setting: all that decides behaviour stands in the measured configuration.
#[derive(Debug, Clone)]
pub struct Places {
    /// The configuration, checked against its measured digest by the initrd.
    pub configuration: PathBuf,
    /// Where the model volume is mounted.
    pub model: PathBuf,
    /// The firmware's event log as the kernel gives it, for root only.
    pub firmware_log: PathBuf,
    /// The same where the platform is TDX, in a padded buffer.
    pub ccel: PathBuf,
    /// Its copy.
    pub event_log: PathBuf,
    /// The copy of the release bundle.
    pub release: PathBuf,
    /// The TPM's device or an emulator's socket.
    pub tpm: PathBuf,
    /// Where the kernel makes reports of SEV-SNP and TDX.
    pub tsm: PathBuf,
    /// The library of the GPUs' driver.
    pub nvml: PathBuf,
    /// Where to listen; the port is the configuration's.
    pub listen: IpAddr,
    /// Time between two snapshots of the metrics: what is finer would show when answers end.
    pub metrics_interval: Duration,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            configuration: "/run/cloister/config.toml".into(),
            model: "/run/cloister/model".into(),
            firmware_log: "/sys/kernel/security/tpm0/binary_bios_measurements".into(),
            ccel: "/sys/firmware/acpi/tables/data/CCEL".into(),
            event_log: "/run/cloister/event-log".into(),
            release: "/run/cloister/release.json".into(),
            tpm: "/dev/tpmrm0".into(),
            tsm: "/sys/kernel/config/tsm/report".into(),
            nvml: "libnvidia-ml.so.1".into(),
            listen: Ipv4Addr::UNSPECIFIED.into(),
            metrics_interval: Duration::from_secs(60),
        }
    }
}

/// Why a file is not usable.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is longer than anything that could be right.
    #[error("{} is longer than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What is allowed.
        limit: usize,
    },
    /// The configuration is not one.
    #[error("{} is not a configuration", path.display())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ConfigurationError,
    },
}

/// The configuration and its bytes.
pub fn read_configuration(path: &Path) -> Result<(Configuration, Vec<u8>), SiteError> {
    let bytes = read_bounded(path, MAX_CONFIGURATION_BYTES)?;
    match Configuration::parse(&bytes) {
        Ok(configuration) => Ok((configuration, bytes)),
        Err(source) => Err(SiteError::Configuration {
            path: path.to_owned(),
            source,
        }),
    }
}

/// A whole file of at most `limit` bytes. Files of the kernel do not tell their size beforehand.
pub fn read_bounded(path: &Path, limit: usize) -> Result<Vec<u8>, SiteError> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?
            .take(limit as u64 + 1)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) if bytes.len() > limit => Err(SiteError::TooLarge {
            path: path.to_owned(),
            limit,
        }),
        Ok(bytes) => Ok(bytes),
        Err(source) => Err(SiteError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// As [`read_bounded`]; `None` where there is no such file.
pub fn read_if_present(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, SiteError> {
    match read_bounded(path, limit) {
        Err(SiteError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}
