//! A disk's partition table as firmware measures it when it boots from that disk.
//!
//! ```text
//! disk     sector 1: header "EFI PART" …, 92 bytes: 72 first sector of the entries u64, 80 their
//!          number u32, 84 bytes of one u32
//! measured header 92 ‖ number of entries in use u64 ‖ entries in use, 128 bytes each
//! ```
//!
//! Specifications: UEFI, chapter 5.3; TCG, "PC Client Platform Firmware Profile", UEFI_GPT_DATA.

use std::io::{self, Read, Seek, SeekFrom};

use attest::Digest;

use crate::pe::u32_at;

const SECTOR_BYTES: u64 = 512;
const HEADER_BYTES: usize = 92;
const ENTRY_BYTES: usize = 128;
const MAX_ENTRIES: usize = 1024;

/// Why a disk has no partition table to be measured.
#[derive(Debug, thiserror::Error)]
pub enum GptError {
    /// It cannot be read.
    #[error("it cannot be read as a disk")]
    Read(#[from] io::Error),
    /// No header, or one of another form.
    #[error("it has no GUID partition table on sectors of {SECTOR_BYTES} bytes")]
    Header,
}

/// Digest of the event that the firmware logs for a disk.
pub fn event(mut disk: impl Read + Seek) -> Result<Digest<48>, GptError> {
    let mut header = [0; HEADER_BYTES];
    disk.seek(SeekFrom::Start(SECTOR_BYTES))?;
    disk.read_exact(&mut header)?;
    let word = |at| u32_at(&header, at).ok_or(GptError::Header);
    let (count, size) = (word(80)? as usize, word(84)? as usize);
    let first = u64::from(word(72)?) | u64::from(word(76)?) << 32;
    let sound = header.starts_with(b"EFI PART")
        && word(12)? as usize == HEADER_BYTES
        && count <= MAX_ENTRIES
        && size == ENTRY_BYTES;
    let start = first.checked_mul(SECTOR_BYTES).filter(|_| sound);
    disk.seek(SeekFrom::Start(start.ok_or(GptError::Header)?))?;
    let mut entries = vec![0; count * ENTRY_BYTES];
    disk.read_exact(&mut entries)?;
    let in_use = |entry: &&[u8]| entry[..16].iter().any(|byte| *byte != 0);
    let used: Vec<_> = entries.chunks(ENTRY_BYTES).filter(in_use).collect();
    let number = (used.len() as u64).to_le_bytes();
    let measured = [&header[..], &number, &used.concat()].concat();
    Ok(Digest::sha384(&measured))
}
