//! What a device of NVIDIA's says in the opaque field of its report: a list of type 2 ‖ length 2 ‖
//! value, little-endian.
//!
//! ```text
//!  3 driver version, text           21 protected PCIe, 0xaa or 0x55
//!  6 VBIOS version                  22 PDIs of the switches, 8 each; of a switch: its own
//! 11 NVDEC0 in use, 0xaa or 0x55    25 switch locked, 2
//! 20 firmware id, 48                26 PDIs of the GPUs that a switch is connected with, 8 each
//!                                      in 64 bytes, then 64 bytes about their links
//!                                   36 feature flag, 2: 0 one GPU, 1 several, 2 protected PCIe
//! ```
//!
//! NVIDIA documents these by its own verifier alone. Other types are read past: they are signed,
//! and nothing here rests on them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::Digest;
use crate::reader::Reader;

const DRIVER_VERSION: u16 = 3;
const VBIOS_VERSION: u16 = 6;
const NVDEC: u16 = 11;
const FIRMWARE_ID: u16 = 20;
const PROTECTED_PCIE: u16 = 21;
const SWITCHES: u16 = 22;
const LOCKED: u16 = 25;
const GPUS: u16 = 26;
const FEATURE_FLAG: u16 = 36;

const YES: u8 = 0xaa;
const NO: u8 = 0x55;

/// What a device says besides its measurements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opaque {
    /// Version of the driver; of a GPU.
    pub driver: Option<DriverVersion>,
    /// Version of the device's firmware.
    pub vbios: VbiosVersion,
    /// Whether the first video decoder is in use, which decides on measurement 35.
    pub nvdec: Option<bool>,
    /// What the device's certificate says of its firmware.
    pub firmware_id: Option<Digest<48>>,
    /// How the device takes part in confidential computing.
    pub mode: Option<Mode>,
    /// Switches that a GPU is connected with, or a switch's own name.
    pub switches: Vec<Digest<8>>,
    /// GPUs that a switch is connected with.
    pub gpus: Vec<Digest<8>>,
    /// Whether a switch is locked.
    pub locked: Option<bool>,
}

/// How a GPU takes part in confidential computing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// One GPU by itself.
    Single,
    /// Several, with encryption between them.
    Multiple,
    /// Several, with switches inside the trusted base and no encryption between them.
    ProtectedPcie,
}

/// Version of a driver: up to four numbers, such as `580.95.05`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverVersion {
    text: Box<str>,
    numbers: Vec<u32>,
}

/// Version of a device's firmware: five bytes, such as `96.00.9F.00.01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VbiosVersion([u8; 5]);

/// Not a version of a driver, or of a device's firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a version such as 580.95.05 of a driver, or 96.00.9F.00.01 of firmware")]
pub struct VersionError;

/// Why opaque data cannot be read. Fields have the numbers of NVIDIA's verifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpaqueError {
    /// It ends in the midst of a field.
    #[error("ends in the midst of a field")]
    Truncated,
    /// A field occurs twice.
    #[error("field {field} occurs twice")]
    Twice {
        /// Its number.
        field: u16,
    },
    /// A field that every device has is missing.
    #[error("field {field} is missing")]
    Missing {
        /// Its number.
        field: u16,
    },
    /// A field has a value that it cannot have.
    #[error("field {field} cannot be read")]
    Value {
        /// Its number.
        field: u16,
    },
    /// Two fields say different things of how the device takes part.
    #[error("fields {PROTECTED_PCIE} and {FEATURE_FLAG} contradict each other")]
    Contradiction,
}

impl Opaque {
    /// Reads the list.
    pub fn parse(bytes: &[u8]) -> Result<Self, OpaqueError> {
        let mut reader = Reader(bytes);
        let mut fields = Fields(BTreeMap::new());
        while !reader.is_empty() {
            let mut next = || {
                let (field, length) = (reader.u16_le()?, reader.u16_le()?);
                Some((field, reader.take(usize::from(length))?))
            };
            let (field, value) = next().ok_or(OpaqueError::Truncated)?;
            if fields.0.insert(field, value).is_some() {
                return Err(OpaqueError::Twice { field });
            }
        }
        let vbios = fields.read(VBIOS_VERSION, read_vbios)?;
        Ok(Self {
            driver: fields.read(DRIVER_VERSION, |value| text(value)?.parse().ok())?,
            vbios: vbios.ok_or(OpaqueError::Missing {
                field: VBIOS_VERSION,
            })?,
            nvdec: fields.read(NVDEC, answer)?,
            firmware_id: fields.read(FIRMWARE_ID, |value| Some(Digest(value.try_into().ok()?)))?,
            mode: fields.mode()?,
            switches: fields.read(SWITCHES, names)?.unwrap_or_default(),
            gpus: fields.read(GPUS, connected)?.unwrap_or_default(),
            locked: fields.read(LOCKED, |value| match value {
                [0, 0] => Some(false),
                [1, 0] => Some(true),
                _ => None,
            })?,
        })
    }
}

struct Fields<'a>(BTreeMap<u16, &'a [u8]>);

impl Fields<'_> {
    fn read<T>(
        &self,
        field: u16,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, OpaqueError> {
        match self.0.get(&field) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or(OpaqueError::Value { field }),
        }
    }

    /// Drivers before 580 have the first field alone.
    fn mode(&self) -> Result<Option<Mode>, OpaqueError> {
        let protected = self.read(PROTECTED_PCIE, answer)?;
        let flag = self.read(FEATURE_FLAG, |value| match value {
            [0, 0] => Some(Mode::Single),
            [1, 0] => Some(Mode::Multiple),
            [2, 0] => Some(Mode::ProtectedPcie),
            _ => None,
        })?;
        let said = match protected {
            Some(true) => Some(Mode::ProtectedPcie),
            Some(false) => Some(Mode::Single),
            None => None,
        };
        match (flag, protected) {
            (None, _) => Ok(said),
            (Some(flag), Some(protected)) if (flag == Mode::ProtectedPcie) != protected => {
                Err(OpaqueError::Contradiction)
            }
            (flag, _) => Ok(flag),
        }
    }
}

fn answer(value: &[u8]) -> Option<bool> {
    match value {
        [YES] => Some(true),
        [NO] => Some(false),
        _ => None,
    }
}

/// Text with zeros behind it, or none.
fn text(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?;
    Some(text.trim_end_matches('\0'))
}

fn names(value: &[u8]) -> Option<Vec<Digest<8>>> {
    let (names, rest) = value.as_chunks::<8>();
    rest.is_empty()
        .then(|| names.iter().copied().map(Digest).collect())
}

/// Names in the first half; places of which no use is made hold zeros or ones.
fn connected(value: &[u8]) -> Option<Vec<Digest<8>>> {
    let (gpus, _links) = value.split_at_checked(64)?;
    let gpus = names(gpus).filter(|_| value.len() == 128)?;
    let used = |name: &Digest<8>| ![[0; 8], [0xff; 8]].contains(&name.0);
    Some(gpus.into_iter().filter(used).collect())
}

/// Two little-endian words of a GPU, of whose second only the lowest byte counts; text of a switch.
fn read_vbios(value: &[u8]) -> Option<VbiosVersion> {
    match *value {
        [d, c, b, a, e, 0, 0, 0] => Some(VbiosVersion([a, b, c, d, e])),
        _ => text(value)?.parse().ok(),
    }
}

impl DriverVersion {
    /// The version as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this is `minimum` or later.
    #[must_use]
    pub fn reaches(&self, minimum: &Self) -> bool {
        self.numbers >= minimum.numbers
    }
}

impl FromStr for DriverVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let number = |part: &str| {
            let digits = part.len() <= 6 && part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse().ok().filter(|_| digits)
        };
        let numbers: Option<Vec<u32>> = text.split('.').map(number).collect();
        let numbers = numbers.filter(|numbers| (2..=4).contains(&numbers.len()));
        Ok(Self {
            text: text.into(),
            numbers: numbers.ok_or(VersionError)?,
        })
    }
}

impl FromStr for VbiosVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let mut version = [0; 5];
        let mut parts = text.split('.');
        for byte in &mut version {
            let mut one = [0];
            let part = parts.next().ok_or(VersionError)?;
            hex::decode_to_slice(part, &mut one).map_err(|_| VersionError)?;
            [*byte] = one;
        }
        match parts.next() {
            None => Ok(Self(version)),
            Some(_) => Err(VersionError),
        }
    }
}

impl fmt::Display for DriverVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for VbiosVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e] = self.0;
        write!(f, "{a:02X}.{b:02X}.{c:02X}.{d:02X}.{e:02X}")
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Single => "single",
            Self::Multiple => "multiple",
            Self::ProtectedPcie => "protected-pcie",
        })
    }
}

impl<'de> Deserialize<'de> for DriverVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for VbiosVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}
