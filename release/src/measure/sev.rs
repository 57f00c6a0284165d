//! What an OVMF image tells a VMM of SEV-SNP: the sections of memory that are measured beside it.
//!
//! ```text
//! "ASEV" ‖ length u32 ‖ version u32 = 1 ‖ count u32,
//! then per section: address u32 ‖ bytes u32 ‖ kind u32
//! ```
//!
//! Specification: EDK II, `OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm`; for an SVSM, COCONUT-SVSM.

use std::fmt;

use super::firmware::{FOUR_GIB, Firmware, Guid, PAGE_BYTES, guid};
use crate::pe::u32_at;

const METADATA: Guid = guid(0xdc886566_984a_4798_a75e_5585a7bf67cc);
const HASHES_TABLE: Guid = guid(0x7255371f_3a3b_4b04_927b_1da6efa8d454);
const RESET_BLOCK: Guid = guid(0x00f771de_1a7e_4fcb_890e_68c77e2fb44e);
const SVSM_INFO: Guid = guid(0xa789a612_0597_4c4b_a49f_cbb1fe9d1ddd);
const HEAD_BYTES: usize = 16;
const SECTION_BYTES: usize = 12;
const MAX_SECTIONS: usize = 64;
/// Most bytes of all sections together: each page costs one hash.
const MAX_MEMORY_BYTES: u64 = 256 << 20;

/// What the launch of a VM takes from its firmware.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The sections, in the firmware's order, in which they are measured.
    pub sections: Vec<Section>,
    /// Address of the table of kernel hashes, where the firmware has room for one.
    pub hashes_table: Option<u32>,
    /// Where vCPUs other than the first begin.
    pub reset_address: Option<u32>,
}

/// One section of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// First address.
    pub address: u32,
    /// Bytes.
    pub bytes: u32,
    /// What for.
    pub kind: SectionKind,
}

/// What a section is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionKind {
    /// Memory that the firmware uses before it accepts any itself.
    Memory,
    /// The page of secrets that the processor fills.
    Secrets,
    /// The page of CPUID values that the processor checks.
    Cpuid,
    /// The calling area of an SVSM.
    CallingArea,
    /// The page with the table of kernel hashes.
    KernelHashes,
}

/// Why a firmware's word on SEV-SNP is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// No SEV metadata.
    #[error("the firmware has no SEV metadata: it cannot start a VM under SEV-SNP")]
    Missing,
    /// The metadata is out of the file, or its header is wrong.
    #[error("the firmware's SEV metadata is damaged, or not of version 1")]
    Damaged,
    /// A section of a kind that has no name here.
    #[error("section {index} of the SEV metadata is of the unknown kind {kind:#x}")]
    Kind {
        /// Number of the section, from 0.
        index: usize,
        /// Kind found.
        kind: u32,
    },
    /// A section is not whole pages below 4 GiB, or too many.
    #[error("section {0} of the SEV metadata is not whole pages of memory below 4 GiB")]
    Pages(usize),
    /// Two sections share memory.
    #[error("sections {first} and {second} of the SEV metadata overlap")]
    Overlap {
        /// Number of a section, from 0.
        first: usize,
        /// Number of a later one.
        second: usize,
    },
    /// A section shares memory with the firmware itself.
    #[error("section {0} of the SEV metadata overlaps the firmware itself")]
    OverlapsFirmware(usize),
    /// The table of kernel hashes is not in the section for it.
    #[error("the table of kernel hashes at {0:#x} is not inside the section for it")]
    HashesTable(u32),
    /// An SVSM that does not say where it begins.
    #[error("the SVSM does not say where it begins")]
    Entry,
}

impl Layout {
    /// The layout of an OVMF image.
    pub fn of(firmware: &Firmware<'_>) -> Result<Self, LayoutError> {
        let layout = Self {
            sections: sections(firmware)?,
            hashes_table: firmware.word(&HASHES_TABLE).filter(|at| *at != 0),
            reset_address: firmware.word(&RESET_BLOCK).filter(|at| *at != 0),
        };
        let layout = layout.check()?;
        let own = firmware.address()..FOUR_GIB;
        let overlap = layout.sections.iter().position(|section| {
            let range = section.range();
            range.start < own.end && own.start < range.end
        });
        match overlap {
            Some(index) => Err(LayoutError::OverlapsFirmware(index)),
            None => Ok(layout),
        }
    }

    /// The layout of an SVSM that is loaded so that it ends at `end`.
    pub fn of_svsm(svsm: &Firmware<'_>, end: u64) -> Result<Self, LayoutError> {
        let start = end.checked_sub(svsm.bytes().len() as u64);
        let start = start.ok_or(LayoutError::Entry)?;
        let entry = svsm.word(&SVSM_INFO).ok_or(LayoutError::Entry)?;
        let entry = u32::try_from(start + u64::from(entry)).map_err(|_| LayoutError::Entry)?;
        let layout = Self {
            sections: sections(svsm)?,
            hashes_table: None,
            reset_address: Some(entry),
        };
        layout.check()
    }

    /// Checks what must hold of any layout, wherever it comes from.
    pub fn check(self) -> Result<Self, LayoutError> {
        let mut total = 0;
        for (index, section) in self.sections.iter().enumerate() {
            let page = PAGE_BYTES as u32;
            let whole = section.address.is_multiple_of(page) && section.bytes.is_multiple_of(page);
            total += u64::from(section.bytes);
            let one = section.kind == SectionKind::Memory || section.bytes == page;
            let below = section.range().end <= FOUR_GIB && total <= MAX_MEMORY_BYTES;
            if !whole || section.bytes == 0 || !one || !below {
                return Err(LayoutError::Pages(index));
            }
            let later = self.sections.iter().enumerate().skip(index + 1);
            for (second, other) in later {
                let (a, b) = (section.range(), other.range());
                if a.start < b.end && b.start < a.end {
                    let first = index;
                    return Err(LayoutError::Overlap { first, second });
                }
            }
        }
        match (self.hashes_table, self.hashes_section()) {
            (Some(at), Some(section)) if u64::from(at) < section.range().start => {
                Err(LayoutError::HashesTable(at))
            }
            (Some(at), Some(section)) if u64::from(at) >= section.range().end => {
                Err(LayoutError::HashesTable(at))
            }
            _ => Ok(self),
        }
    }

    /// The section for the table of kernel hashes.
    pub(super) fn hashes_section(&self) -> Option<&Section> {
        let mut sections = self.sections.iter();
        sections.find(|section| section.kind == SectionKind::KernelHashes)
    }
}

impl Section {
    pub(super) fn range(&self) -> std::ops::Range<u64> {
        u64::from(self.address)..u64::from(self.address) + u64::from(self.bytes)
    }
}

impl SectionKind {
    /// The kind of that number in the metadata.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Memory,
            2 => Self::Secrets,
            3 => Self::Cpuid,
            4 => Self::CallingArea,
            0x10 => Self::KernelHashes,
            _ => return None,
        })
    }
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Secrets => "secrets",
            Self::Cpuid => "CPUID",
            Self::CallingArea => "SVSM calling area",
            Self::KernelHashes => "kernel hashes",
        })
    }
}

fn sections(firmware: &Firmware<'_>) -> Result<Vec<Section>, LayoutError> {
    let offset = firmware.word(&METADATA).ok_or(LayoutError::Missing)?;
    let metadata = firmware.tail(offset).ok_or(LayoutError::Damaged)?;
    let field = |at| u32_at(metadata, at).ok_or(LayoutError::Damaged);
    let count = usize::try_from(field(12)?).map_err(|_| LayoutError::Damaged)?;
    let length = usize::try_from(field(4)?).map_err(|_| LayoutError::Damaged)?;
    let sound = metadata.starts_with(b"ASEV")
        && field(8)? == 1
        && count <= MAX_SECTIONS
        && length == HEAD_BYTES + count * SECTION_BYTES;
    if !sound {
        return Err(LayoutError::Damaged);
    }
    let one = |index: usize| {
        let at = HEAD_BYTES + index * SECTION_BYTES;
        let kind = field(at + 8)?;
        Ok(Section {
            address: field(at)?,
            bytes: field(at + 4)?,
            kind: SectionKind::from_number(kind).ok_or(LayoutError::Kind { index, kind })?,
        })
    };
    (0..count).map(one).collect()
}
