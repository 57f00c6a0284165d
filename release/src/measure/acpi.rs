//! ACPI tables as firmware measures them: QEMU's script that puts them together, then each blob
//! that the script has the firmware load, in that order.
//!
//! ```text
//! etc/table-loader  entries of 128 bytes: command u32 ‖ …; command 1, allocate:
//!                   name 56, NUL-terminated ‖ alignment u32 ‖ zone u8 ‖ 0…
//! ```
//!
//! References: QEMU, `hw/acpi/bios-linker-loader.c`; EDK II, `OvmfPkg/AcpiPlatformDxe`.

use std::fmt;

use attest::Digest;

use crate::pe::u32_at;

const ENTRY_BYTES: usize = 128;
const ALLOCATE: u32 = 1;
const NAME_BYTES: usize = 56;
/// Most blobs; a QEMU of today has two to five.
const MAX_BLOBS: usize = 16;
/// Largest script.
pub const MAX_LOADER_BYTES: usize = 1 << 20;
/// The event log's place, which a machine with a TPM has: empty when it is measured.
const TPM_LOG_BYTES: usize = 64 << 10;

/// What is measured of a machine's tables, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcpiTables {
    /// Each by name.
    pub events: Vec<(&'static str, Digest<48>)>,
}

/// The name of a blob that is not known here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BlobName([u8; NAME_BYTES]);

/// Why tables are not predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LoaderError {
    /// Not whole entries, or too many.
    #[error("{0} bytes are no script of QEMU's (etc/table-loader): its entries have 128 each")]
    Length(usize),
    /// A name without an end.
    #[error("entry {0} of QEMU's script names no blob")]
    Name(usize),
    /// A blob of a device whose contents are not known before.
    #[error("QEMU's script loads {0}, whose contents are not predicted")]
    Unknown(BlobName),
    /// RSDP or tables are not loaded exactly once.
    #[error("QEMU's script does not load RSDP and tables once each")]
    Incomplete,
    /// More blobs than any machine has.
    #[error("QEMU's script loads more than {MAX_BLOBS} blobs")]
    TooMany,
}

impl AcpiTables {
    /// The events of a machine whose script this is.
    pub fn new(loader: &[u8], rsdp: Digest<48>, tables: Digest<48>) -> Result<Self, LoaderError> {
        let whole = loader.len().is_multiple_of(ENTRY_BYTES) && loader.len() <= MAX_LOADER_BYTES;
        if !whole || loader.is_empty() {
            return Err(LoaderError::Length(loader.len()));
        }
        let mut events = vec![("table-loader", Digest::sha384(loader))];
        for (index, entry) in loader.chunks(ENTRY_BYTES).enumerate() {
            if u32_at(entry, 0) != Some(ALLOCATE) {
                continue;
            }
            if events.len() > MAX_BLOBS {
                return Err(LoaderError::TooMany);
            }
            let name = entry
                .get(4..4 + NAME_BYTES)
                .and_then(|name| name.try_into().ok());
            let name: [u8; NAME_BYTES] = name.ok_or(LoaderError::Name(index))?;
            let end = name.iter().position(|byte| *byte == 0);
            let text = &name[..end.filter(|end| *end > 0).ok_or(LoaderError::Name(index))?];
            events.push(match text {
                b"etc/acpi/rsdp" => ("RSDP", rsdp),
                b"etc/acpi/tables" => ("tables", tables),
                b"etc/tpm/log" => ("TPM's log area", Digest::sha384(&[0; TPM_LOG_BYTES])),
                _ => return Err(LoaderError::Unknown(BlobName(name))),
            });
        }
        let once = |wanted| events.iter().filter(|(name, _)| *name == wanted).count() == 1;
        match once("RSDP") && once("tables") {
            true => Ok(Self { events }),
            false => Err(LoaderError::Incomplete),
        }
    }
}

impl fmt::Display for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.iter().take_while(|byte| **byte != 0);
        text.map(|byte| std::ascii::escape_default(*byte))
            .try_for_each(|escaped| write!(f, "{escaped}"))
    }
}

impl fmt::Debug for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobName({self})")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn allocate(names: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for name in names {
            let mut entry = [0; ENTRY_BYTES];
            entry[0] = 1;
            entry[4..4 + name.len()].copy_from_slice(name.as_bytes());
            out.extend(entry);
            entry[0] = 2; // another command, which loads nothing
            out.extend(entry);
        }
        out
    }

    #[test]
    fn blobs_are_measured_in_the_order_of_the_script() {
        let (rsdp, tables) = (Digest([1; 48]), Digest([2; 48]));
        let events = |names: &[&str]| {
            let events = AcpiTables::new(&allocate(names), rsdp, tables)?.events;
            Ok::<_, LoaderError>(events.into_iter().map(|(name, _)| name).collect::<Vec<_>>())
        };
        let (first, last) = ("etc/acpi/rsdp", "etc/acpi/tables");
        assert_eq!(
            events(&[first, last]).unwrap(),
            ["table-loader", "RSDP", "tables"]
        );
        let with_tpm = events(&[first, "etc/tpm/log", last]).unwrap();
        assert_eq!(
            with_tpm,
            ["table-loader", "RSDP", "TPM's log area", "tables"]
        );
        let unknown = events(&[first, "etc/vmgenid_guid", last]).unwrap_err();
        let text = unknown.to_string();
        assert_eq!(
            text,
            "QEMU's script loads etc/vmgenid_guid, whose contents are not predicted"
        );
        assert!(matches!(unknown, LoaderError::Unknown(_)));
        assert_eq!(events(&[first]), Err(LoaderError::Incomplete));
        assert_eq!(events(&[first, last, last]), Err(LoaderError::Incomplete));
        assert_eq!(events(&[first, ""]), Err(LoaderError::Name(2)));
        let endless = "x".repeat(NAME_BYTES);
        assert_eq!(events(&[&endless]), Err(LoaderError::Name(0)));
        assert_eq!(events(&[first; 20]), Err(LoaderError::TooMany));
        let cut = AcpiTables::new(&allocate(&[first, last])[1..], rsdp, tables);
        assert_eq!(cut, Err(LoaderError::Length(511)));
        assert_eq!(
            AcpiTables::new(&[], rsdp, tables),
            Err(LoaderError::Length(0))
        );
    }
}
