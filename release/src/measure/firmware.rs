//! OVMF images: the table by which a firmware tells a VMM what to measure.
//!
//! ```text
//! end-32-18   footer: size of the table (u16) ‖ 96b582de-1fb2-45f7-baea-a366c55a082d
//! before it   entries, read from the end: data ‖ size of the entry (u16) ‖ GUID
//! ```
//!
//! Specification: EDK II, `OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm`. A file that two readers
//! could read in two ways is refused.

use crate::pe::{u16_at, u32_at};

/// A GUID as it stands in a firmware.
pub type Guid = [u8; 16];

/// Bytes of a page, of which everything is measured.
pub const PAGE_BYTES: usize = 4096;
/// Largest firmware; the images of today have 2 to 16 MiB.
pub const MAX_FIRMWARE_BYTES: usize = 64 << 20;
/// The firmware ends where the first 4 GiB end.
pub const FOUR_GIB: u64 = 1 << 32;

const FOOTER: Guid = guid(0x96b582de_1fb2_45f7_baea_a366c55a082d);
const ENTRY_HEAD_BYTES: usize = 18;
/// What stands behind the table: the reset vector.
const AFTER_TABLE_BYTES: usize = 32;

/// A firmware image whose table has been read.
#[derive(Debug, Clone)]
pub struct Firmware<'a> {
    bytes: &'a [u8],
    table: Vec<(Guid, &'a [u8])>,
}

/// Why a file is no firmware that we accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FirmwareError {
    /// Not whole pages, or too large.
    #[error(
        "{0} bytes; a firmware has whole pages of {PAGE_BYTES} bytes, {MAX_FIRMWARE_BYTES} at most"
    )]
    Size(usize),
    /// No table where it should be.
    #[error("it has no table of GUIDs at its end: it is no OVMF image")]
    NoTable,
    /// The table does not fit into the file, or an entry not into the table.
    #[error("the table of GUIDs at its end is damaged")]
    Table,
    /// Two entries of one GUID.
    #[error("the table of GUIDs at its end names {} twice", Hyphenated(.0))]
    Repeated(Guid),
}

/// A GUID, given by its digits in the order in which they are written.
#[must_use]
pub const fn guid(digits: u128) -> Guid {
    let b = digits.to_be_bytes();
    [
        b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13],
        b[14], b[15],
    ]
}

impl<'a> Firmware<'a> {
    /// Reads the table.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FirmwareError> {
        let whole = bytes.len().is_multiple_of(PAGE_BYTES) && !bytes.is_empty();
        if !whole || bytes.len() > MAX_FIRMWARE_BYTES {
            return Err(FirmwareError::Size(bytes.len()));
        }
        let foot = bytes.len() - AFTER_TABLE_BYTES - ENTRY_HEAD_BYTES;
        if bytes.get(foot + 2..foot + ENTRY_HEAD_BYTES) != Some(&FOOTER) {
            return Err(FirmwareError::NoTable);
        }
        let size = usize::from(u16_at(bytes, foot).ok_or(FirmwareError::Table)?);
        let start = (foot + ENTRY_HEAD_BYTES).checked_sub(size);
        let entries = start.and_then(|start| bytes.get(start..foot));
        let table = parse_table(entries.ok_or(FirmwareError::Table)?)?;
        Ok(Self { bytes, table })
    }

    /// The whole file.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Where the first byte stands in the guest's memory.
    #[must_use]
    pub fn address(&self) -> u64 {
        FOUR_GIB - self.bytes.len() as u64
    }

    /// The data of an entry.
    #[must_use]
    pub fn entry(&self, guid: &Guid) -> Option<&'a [u8]> {
        let found = self.table.iter().find(|(name, _)| name == guid);
        found.map(|(_, data)| *data)
    }

    /// The number that an entry begins with.
    pub(super) fn word(&self, guid: &Guid) -> Option<u32> {
        u32_at(self.entry(guid)?, 0)
    }

    /// The file from `offset` bytes before its end.
    pub(super) fn tail(&self, offset: u32) -> Option<&'a [u8]> {
        let start = self
            .bytes
            .len()
            .checked_sub(usize::try_from(offset).ok()?)?;
        self.bytes.get(start..)
    }
}

fn parse_table(mut rest: &[u8]) -> Result<Vec<(Guid, &[u8])>, FirmwareError> {
    let mut table: Vec<(Guid, &[u8])> = Vec::new();
    while !rest.is_empty() {
        let head = rest.len().checked_sub(ENTRY_HEAD_BYTES);
        let head = head.ok_or(FirmwareError::Table)?;
        let size = usize::from(u16_at(rest, head).ok_or(FirmwareError::Table)?);
        let start = rest.len().checked_sub(size).filter(|start| *start <= head);
        let start = start.ok_or(FirmwareError::Table)?;
        let name = rest[head + 2..].try_into();
        let name: Guid = name.map_err(|_| FirmwareError::Table)?;
        if table.iter().any(|(earlier, _)| *earlier == name) {
            return Err(FirmwareError::Repeated(name));
        }
        table.push((name, &rest[start..head]));
        rest = &rest[..start];
    }
    Ok(table)
}

/// A GUID as it is written.
struct Hyphenated<'a>(&'a Guid);

impl std::fmt::Display for Hyphenated<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let swapped = guid(u128::from_be_bytes(*self.0));
        for (index, byte) in swapped.iter().enumerate() {
            let hyphen = if matches!(index, 4 | 6 | 8 | 10) {
                "-"
            } else {
                ""
            };
            write!(f, "{hyphen}{byte:02x}")?;
        }
        Ok(())
    }
}
