//! The one configuration file of a server. Its SHA-256 stands on the measured command line.
//!
//! ```toml
//! version = 1
//! [model]
//! name = "cloister-demo"      # the id in /v1/models
//! volume = "verity1:ROOT_HASH:SALT:DATA_BLOCKS"
//! [limits]
//! context_tokens = 1024
//! max_sessions = 64
//! max_body_bytes = 1048576
//! max_new_tokens = 512
//! [server]
//! port = 8080
//! ```
//!
//! Every key is required, no other key is allowed. Version 1 means that a TPM gives evidence;
//! version 2 says who does:
//!
//! ```toml
//! version = 2
//! [evidence]
//! platform = "snp"            # or "tdx", "tpm"
//!
//! [snp]                       # exactly where the platform is "snp"; of "tdx" likewise
//! proxy = "http://10.0.2.2:3128"  # asks AMD or Intel for the agent; or "none"
//! ```
//!
//! The proxy is asked in plain HTTP: what it gives is public and signed, and every client verifies
//! it. Its address is one: no name is resolved in the machine.
//!
//! Version 3 has all of that as well, and says how many devices of NVIDIA's give their evidence:
//!
//! ```toml
//! version = 3
//! [gpu]
//! gpus = 8
//! switches = 4                # between them
//! ```
//!
//! Version 4 is for clouds as well, whose platforms only it knows. It has `[gpu]`, where both
//! numbers may be 0, and one table for what is fetched, whoever made the platform, instead of
//! `[snp]` and `[tdx]`:
//!
//! ```toml
//! version = 4
//! [evidence]
//! platform = "azure-snp"      # "azure-tdx", "google-vtpm", or one of the above
//! [collateral]
//! proxy = "http://10.0.2.2:3128"
//! ```

use core::net::SocketAddr;
use std::fmt;
use std::ops::RangeInclusive;

use serde::Deserialize;

use crate::gpu::DeviceCounts;
use crate::{Digest, Name, PlatformKind};

/// Longest configuration file.
pub const MAX_CONFIGURATION_BYTES: usize = 64 << 10;

/// A configuration whose every field is present and within its range.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    version: u64,
    evidence: Option<EvidenceSource>,
    gpu: Option<GpuSource>,
    snp: Option<Collateral>,
    tdx: Option<Collateral>,
    collateral: Option<Collateral>,
    /// The model that is served.
    pub model: Model,
    /// What one client may ask for.
    pub limits: Limits,
    /// Where the server listens.
    pub server: Server,
}

/// Where evidence comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct EvidenceSource {
    platform: PlatformKind,
}

/// How many devices of NVIDIA's there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct GpuSource {
    gpus: u32,
    switches: u32,
}

/// Where certificates, revocation lists and verdicts of the platform's maker come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Collateral {
    proxy: Proxy,
}

/// Who asks AMD or Intel for the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Proxy {
    /// Nobody: nothing is fetched.
    #[default]
    None,
    /// A proxy, in plain HTTP.
    Http(SocketAddr),
}

/// Neither `"none"` nor `"http://ADDRESS:PORT"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither \"none\" nor \"http://ADDRESS:PORT\" with a numeric address")]
pub struct ProxyError;

/// The model that is served.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The model's id in the API.
    pub name: Name,
    /// The verity volume that holds the model.
    pub volume: VolumeText,
}

/// What one client may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Longest prompt and answer together, in tokens.
    pub context_tokens: u32,
    /// Sessions at a time.
    pub max_sessions: u32,
    /// Longest body of a request, in bytes.
    pub max_body_bytes: u32,
    /// Longest answer, in tokens.
    pub max_new_tokens: u32,
}

/// Where the server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// TCP port.
    pub port: u16,
}

/// `verity1:ROOT_HASH:SALT:DATA_BLOCKS` in its one spelling. What it means is the concern of
/// whoever maps the volume.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct VolumeText(Box<str>);

/// Not `verity1:ROOT_HASH:SALT:DATA_BLOCKS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not verity1:ROOT_HASH:SALT:DATA_BLOCKS (64 and 64 lower-case hexadecimal digits, decimal)"
)]
pub struct VolumeTextError;

/// A field that has a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `limits.context_tokens`
    ContextTokens,
    /// `limits.max_sessions`
    MaxSessions,
    /// `limits.max_body_bytes`
    MaxBodyBytes,
    /// `limits.max_new_tokens`
    MaxNewTokens,
    /// `server.port`
    Port,
    /// `gpu.gpus`
    Gpus,
    /// `gpu.switches`
    Switches,
}

/// Why a file is not a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// Longer than [`MAX_CONFIGURATION_BYTES`].
    #[error("{found} bytes, {MAX_CONFIGURATION_BYTES} allowed")]
    TooLarge {
        /// Length found.
        found: usize,
    },
    /// Not UTF-8.
    #[error("not UTF-8")]
    Text,
    /// Not TOML, or a key is missing, unknown or of another type.
    #[error("{}", .0.message())]
    Toml(Box<toml::de::Error>),
    /// A version of the file that this program does not know.
    #[error("version {found}, 1 to 4 expected")]
    Version {
        /// Version found.
        found: u64,
    },
    /// A later version without `[evidence]`, or version 1 with it.
    #[error("[evidence] stands in versions 2 to 4, and only there")]
    Evidence,
    /// Version 3 or 4 without `[gpu]`, or another with it.
    #[error("[gpu] stands in versions 3 and 4, and only there")]
    Gpu,
    /// Version 4 without `[collateral]`, or another with it.
    #[error("[collateral] stands in version 4, and only there")]
    Collateral,
    /// A platform that only version 4 knows.
    #[error("evidence.platform = {:?} is of version 4", .0.as_str())]
    Platform(PlatformKind),
    /// The platform's table is missing, or there is one of another platform.
    #[error("[{}] stands where the platform is {:?}, before version 4, and only there",
            .0.as_str(), .0.as_str())]
    Table(PlatformKind),
    /// A number out of its range.
    #[error("{field} = {found}, {least} to {most} allowed")]
    Range {
        /// The field.
        field: Field,
        /// Number found.
        found: u32,
        /// Least number allowed.
        least: u32,
        /// Greatest number allowed.
        most: u32,
    },
}

impl Configuration {
    /// Reads a configuration file.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigurationError> {
        if bytes.len() > MAX_CONFIGURATION_BYTES {
            return Err(ConfigurationError::TooLarge { found: bytes.len() });
        }
        let text = std::str::from_utf8(bytes).map_err(|_| ConfigurationError::Text)?;
        let configuration: Self =
            toml::from_str(text).map_err(|error| ConfigurationError::Toml(Box::new(error)))?;
        configuration.check()?;
        Ok(configuration)
    }

    /// The platform that gives evidence: a TPM in version 1.
    #[must_use]
    pub fn platform(&self) -> PlatformKind {
        let source = self.evidence.as_ref();
        source.map_or(PlatformKind::Tpm, |source| source.platform)
    }

    /// How many GPUs and switches give evidence: none before version 3.
    #[must_use]
    pub fn devices(&self) -> DeviceCounts {
        let source = self.gpu.map(|source| (source.gpus, source.switches));
        let (gpus, switches) = source.unwrap_or_default();
        DeviceCounts {
            gpus: gpus as usize,
            switches: switches as usize,
        }
    }

    /// Who asks AMD or Intel for what clients need to verify the platform's evidence.
    #[must_use]
    pub fn proxy(&self) -> Proxy {
        let table = self.snp.or(self.tdx).or(self.collateral);
        table.map_or(Proxy::None, |table| table.proxy)
    }

    /// Whether it has what its version has, and nothing else.
    fn check_version(&self) -> Result<(), ConfigurationError> {
        let version = self.version;
        if !(1..=4).contains(&version) {
            return Err(ConfigurationError::Version { found: version });
        }
        for (stands, since, fault) in [
            (self.evidence.is_some(), 2, ConfigurationError::Evidence),
            (self.gpu.is_some(), 3, ConfigurationError::Gpu),
            (self.collateral.is_some(), 4, ConfigurationError::Collateral),
        ] {
            if stands != (version >= since) {
                return Err(fault);
            }
        }
        let platform = self.platform();
        let earlier = [PlatformKind::Tpm, PlatformKind::Snp, PlatformKind::Tdx];
        if version < 4 && !earlier.contains(&platform) {
            return Err(ConfigurationError::Platform(platform));
        }
        if let Some(gpu) = self.gpu {
            let least = u32::from(version == 3);
            within(Field::Gpus, gpu.gpus, least..=16)?;
            within(Field::Switches, gpu.switches, 0..=16)?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ConfigurationError> {
        self.check_version()?;
        for (platform, table) in [
            (PlatformKind::Snp, self.snp.is_some()),
            (PlatformKind::Tdx, self.tdx.is_some()),
        ] {
            if table != (self.platform() == platform && self.version < 4) {
                return Err(ConfigurationError::Table(platform));
            }
        }
        let limits = &self.limits;
        within(Field::ContextTokens, limits.context_tokens, 1..=1 << 20)?;
        within(Field::MaxSessions, limits.max_sessions, 1..=1 << 16)?;
        within(
            Field::MaxBodyBytes,
            limits.max_body_bytes,
            1 << 10..=1 << 26,
        )?;
        within(
            Field::MaxNewTokens,
            limits.max_new_tokens,
            1..=limits.context_tokens,
        )?;
        within(Field::Port, u32::from(self.server.port), 1..=0xffff)
    }
}

fn within(field: Field, found: u32, range: RangeInclusive<u32>) -> Result<(), ConfigurationError> {
    let (least, most) = (*range.start(), *range.end());
    if range.contains(&found) {
        Ok(())
    } else {
        Err(ConfigurationError::Range {
            field,
            found,
            least,
            most,
        })
    }
}

impl TryFrom<String> for Proxy {
    type Error = ProxyError;

    fn try_from(text: String) -> Result<Self, ProxyError> {
        if text == "none" {
            return Ok(Self::None);
        }
        let address = text.strip_prefix("http://").ok_or(ProxyError)?;
        let address: SocketAddr = address.parse().map_err(|_| ProxyError)?;
        match address.port() {
            0 => Err(ProxyError),
            _ => Ok(Self::Http(address)),
        }
    }
}

impl VolumeText {
    /// The volume's name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for VolumeText {
    type Error = VolumeTextError;

    fn try_from(text: String) -> Result<Self, VolumeTextError> {
        let mut parts = text.split(':');
        let known = parts.next() == Some("verity1");
        let mut digest = || parts.next()?.parse::<Digest<32>>().ok();
        let digests = digest().is_some() && digest().is_some();
        let blocks = parts.next().unwrap_or_default();
        let canonical = blocks
            .parse::<u64>()
            .is_ok_and(|n| n > 0 && n.to_string() == blocks);
        if known && digests && canonical && parts.next().is_none() {
            Ok(Self(text.into()))
        } else {
            Err(VolumeTextError)
        }
    }
}

impl fmt::Display for VolumeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ContextTokens => "limits.context_tokens",
            Self::MaxSessions => "limits.max_sessions",
            Self::MaxBodyBytes => "limits.max_body_bytes",
            Self::MaxNewTokens => "limits.max_new_tokens",
            Self::Port => "server.port",
            Self::Gpus => "gpu.gpus",
            Self::Switches => "gpu.switches",
        })
    }
}
