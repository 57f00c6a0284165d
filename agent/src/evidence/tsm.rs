//! configfs-tsm, by which the kernel asks a confidential platform for a report (Linux,
//! `Documentation/ABI/testing/configfs-tsm`), for SEV-SNP and TDX alike.
//!
//! ```text
//! mkdir NAME ─▶ provider? ─▶ privlevel, inblob ─▶ outblob, auxblob, manifestblob ─▶ rmdir NAME
//!                                     └ generation counts what was written: it must not move
//! ```
//!
//! Each report has a folder of its own, which is removed whatever happens; or all have one, which
//! root made and gave away: the kernel lets nobody else write into what root did not. One that is
//! busy is asked for again within bounds, and then it is an error.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

/// Longest report or quote: what the kernel gives at most, before Linux 6.16.
pub const MAX_OUTBLOB_BYTES: usize = 32 << 10;
/// Longest table of certificates, or manifest of services.
pub const MAX_AUXBLOB_BYTES: usize = 128 << 10;
/// Attempts while the platform is busy.
pub const MAX_ATTEMPTS: u32 = 20;
/// The folder that root makes for the agent.
pub const PREPARED: &str = "cloister";
const RETRY_PAUSE_MS: u64 = 5;
const MAX_TEXT_BYTES: usize = 64;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum TsmError {
    /// The system gives no random name.
    #[error("no randomness for the name of a report")]
    Random,
    /// A file or folder cannot be used.
    #[error("cannot {action} {attribute} of a report")]
    Access {
        /// What was to be done.
        action: Action,
        /// With what.
        attribute: Attribute,
        /// Why it was not.
        source: io::Error,
    },
    /// Another platform than the configuration names.
    #[error("the platform is not {expected}")]
    Provider {
        /// By the configuration.
        expected: Provider,
    },
    /// Something else wrote to the report as well.
    #[error("the report was changed while it was made: generation {found}, {expected} expected")]
    Changed {
        /// How often this program wrote.
        expected: u64,
        /// How often anyone did; nothing if that is no number.
        found: Generation,
    },
    /// The platform was busy at each attempt.
    #[error("the platform is still busy after {MAX_ATTEMPTS} attempts")]
    Busy,
    /// The platform gave nothing.
    #[error("the platform gave an empty report")]
    Empty,
    /// More than anything that could be right.
    #[error("{attribute} has more than {limit} bytes")]
    TooLarge {
        /// Which.
        attribute: Attribute,
        /// What is allowed.
        limit: usize,
    },
}

/// How often a report was written to, as the kernel tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(pub Option<u64>);

/// What is done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// mkdir
    Make,
    /// rmdir
    Remove,
    /// read
    Read,
    /// write
    Write,
}

/// A file of a report, or its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// The folder itself.
    Folder,
    /// Which platform answers.
    Provider,
    /// How often the report was written to.
    Generation,
    /// Privilege level that asks.
    PrivilegeLevel,
    /// What shall be signed.
    Inblob,
    /// Report or quote.
    Outblob,
    /// What the host adds: certificates.
    Auxblob,
    /// What a service module adds.
    Manifestblob,
}

/// A platform, as the kernel names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// AMD SEV-SNP.
    SevGuest,
    /// Intel TDX.
    TdxGuest,
}

/// What the platform gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Report or quote.
    pub outblob: Vec<u8>,
    /// What the host adds, may be empty.
    pub auxblob: Vec<u8>,
    /// What a service module adds, may be empty.
    pub manifestblob: Vec<u8>,
}

/// The kernel's folder of reports, or what stands in for it.
pub trait Tree: fmt::Debug + Send {
    /// Makes the folder of a report.
    fn make(&self, name: &str) -> io::Result<()>;
    /// Writes a whole file at once.
    fn write(&self, name: &str, attribute: Attribute, bytes: &[u8]) -> io::Result<()>;
    /// Reads a file, at most `limit` bytes and one.
    fn read(&self, name: &str, attribute: Attribute, limit: usize) -> io::Result<Vec<u8>>;
    /// Removes the folder of a report.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Lets time pass.
    fn pause(&self, time: Duration);
}

/// The kernel's own, `/sys/kernel/config/tsm/report`.
#[derive(Debug)]
pub struct ConfigFs(pub PathBuf);

/// Asks one platform for reports, one after the other.
#[derive(Debug)]
pub struct Tsm {
    tree: Box<dyn Tree>,
    provider: Provider,
    privilege_level: Option<u8>,
    folder: Option<&'static str>,
}

impl Tsm {
    /// Asks `provider` through `tree`; of SEV-SNP, for the privilege level 0.
    pub fn new(tree: Box<dyn Tree>, provider: Provider) -> Self {
        let privilege_level = match provider {
            Provider::SevGuest => Some(0),
            Provider::TdxGuest => None,
        };
        Self {
            tree,
            provider,
            privilege_level,
            folder: None,
        }
    }

    /// Asks in a folder that is there and stays there.
    #[must_use]
    pub fn in_folder(mut self, name: &'static str) -> Self {
        self.folder = Some(name);
        self
    }

    /// The platform that is asked.
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// A report over `data`.
    pub fn report(&mut self, data: &[u8; 64]) -> Result<Report, TsmError> {
        for attempt in 0..MAX_ATTEMPTS {
            match self.report_once(data) {
                Err(error) if error.is_busy() => {}
                report => return report,
            }
            let pause = Duration::from_millis(RETRY_PAUSE_MS * u64::from(attempt));
            self.tree.pause(pause);
        }
        Err(TsmError::Busy)
    }

    /// In a folder of its own, which is gone afterwards, unless there is one that stays.
    fn report_once(&self, data: &[u8; 64]) -> Result<Report, TsmError> {
        if let Some(name) = self.folder {
            return self.fill(name, data);
        }
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|_| TsmError::Random)?;
        let name = format!("cloister-{}", hex::encode(random));
        let access = |action| {
            move |source| TsmError::Access {
                action,
                attribute: Attribute::Folder,
                source,
            }
        };
        self.tree.make(&name).map_err(access(Action::Make))?;
        let report = self.fill(&name, data);
        let removed = self.tree.remove(&name).map_err(access(Action::Remove));
        report.and_then(|report| removed.map(|()| report))
    }

    fn fill(&self, name: &str, data: &[u8; 64]) -> Result<Report, TsmError> {
        let provider = self.read(name, Attribute::Provider, MAX_TEXT_BYTES)?;
        let expected = self.provider;
        if provider.trim_ascii() != expected.as_str().as_bytes() {
            return Err(TsmError::Provider { expected });
        }
        let mut written = self.generation(name)?.0.unwrap_or_default();
        if let Some(level) = self.privilege_level {
            let text = level.to_string();
            self.write(name, Attribute::PrivilegeLevel, text.as_bytes())?;
            written = written.saturating_add(1);
        }
        self.write(name, Attribute::Inblob, data)?;
        written = written.saturating_add(1);
        self.check_generation(name, written)?;
        let report = Report {
            outblob: self.read(name, Attribute::Outblob, MAX_OUTBLOB_BYTES)?,
            auxblob: self.read_if_present(name, Attribute::Auxblob)?,
            manifestblob: self.read_if_present(name, Attribute::Manifestblob)?,
        };
        // Whoever wrote in between would have had something else signed.
        self.check_generation(name, written)?;
        match report.outblob.is_empty() {
            true => Err(TsmError::Empty),
            false => Ok(report),
        }
    }

    fn generation(&self, name: &str) -> Result<Generation, TsmError> {
        let text = self.read(name, Attribute::Generation, MAX_TEXT_BYTES)?;
        let text = std::str::from_utf8(text.trim_ascii()).ok();
        Ok(Generation(text.and_then(|text| text.parse().ok())))
    }

    fn check_generation(&self, name: &str, expected: u64) -> Result<(), TsmError> {
        match self.generation(name)? {
            Generation(Some(found)) if found == expected => Ok(()),
            found => Err(TsmError::Changed { expected, found }),
        }
    }

    fn write(&self, name: &str, attribute: Attribute, bytes: &[u8]) -> Result<(), TsmError> {
        let written = self.tree.write(name, attribute, bytes);
        written.map_err(|source| TsmError::Access {
            action: Action::Write,
            attribute,
            source,
        })
    }

    fn read(&self, name: &str, attribute: Attribute, limit: usize) -> Result<Vec<u8>, TsmError> {
        match self.tree.read(name, attribute, limit) {
            Ok(bytes) if bytes.len() > limit => Err(TsmError::TooLarge { attribute, limit }),
            Ok(bytes) => Ok(bytes),
            Err(source) => Err(TsmError::Access {
                action: Action::Read,
                attribute,
                source,
            }),
        }
    }

    /// Not every platform has every file.
    fn read_if_present(&self, name: &str, attribute: Attribute) -> Result<Vec<u8>, TsmError> {
        match self.read(name, attribute, MAX_AUXBLOB_BYTES) {
            Err(TsmError::Access { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Vec::new())
            }
            result => result,
        }
    }
}

impl TsmError {
    /// Another one is being made, and the same may pass a moment later.
    fn is_busy(&self) -> bool {
        match self {
            Self::Access { source, .. } => source.kind() == io::ErrorKind::ResourceBusy,
            _ => false,
        }
    }
}

impl ConfigFs {
    /// Where a file of a report is.
    pub fn path(&self, name: &str, attribute: Attribute) -> PathBuf {
        self.0.join(name).join(attribute.as_str())
    }
}

impl Tree for ConfigFs {
    fn make(&self, name: &str) -> io::Result<()> {
        fs::create_dir(self.0.join(name))
    }

    fn write(&self, name: &str, attribute: Attribute, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(name, attribute);
        let mut file = OpenOptions::new().write(true).open(path)?;
        // The kernel takes each write for a whole value, and counts it.
        match file.write(bytes)? {
            written if written == bytes.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    fn read(&self, name: &str, attribute: Attribute, limit: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.path(name, attribute))?
            .take(limit as u64 + 1)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_dir(self.0.join(name))
    }

    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

impl Attribute {
    /// The file's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Folder => "",
            Self::Provider => "provider",
            Self::Generation => "generation",
            Self::PrivilegeLevel => "privlevel",
            Self::Inblob => "inblob",
            Self::Outblob => "outblob",
            Self::Auxblob => "auxblob",
            Self::Manifestblob => "manifestblob",
        }
    }
}

impl Provider {
    /// As the kernel names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SevGuest => "sev_guest",
            Self::TdxGuest => "tdx_guest",
        }
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Folder => "the folder",
            named => named.as_str(),
        })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Make => "make",
            Self::Remove => "remove",
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => number.fmt(f),
            None => f.write_str("no number"),
        }
    }
}

#[cfg(test)]
mod tests;
