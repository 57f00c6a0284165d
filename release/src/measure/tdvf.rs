//! What an OVMF image tells a VMM of TDX, and what is measured of it: MRTD by the TDX module, and
//! the first two events of RTMR0 by the firmware itself.
//!
//! ```text
//! "TDVF" ‖ length u32 ‖ version u32 = 1 ‖ count u32, then per section, 32 bytes:
//! offset in the file u32 ‖ bytes in the file u32 ‖ address u64 ‖ bytes in memory u64
//! ‖ kind u32 ‖ flags u32
//!
//! MRTD    SHA-384 of 128-byte records, zero-padded: for each page added
//!         "MEM.PAGE.ADD" ‖ 0⁴ ‖ address u64, and, of a section with flag 0, for each 256 bytes
//!         "MR.EXTEND" ‖ 0⁷ ‖ address u64, with the 256 bytes after the record
//! ```
//!
//! Specifications: Intel, "TDX Virtual Firmware Design Guide", chapter 11; "TDX Module Base
//! Architecture", MRTD. The order of records is the VMM's, and no VMM announces it: both are given.

use attest::Digest;
use sha2::{Digest as _, Sha384};

use super::firmware::{Firmware, Guid, PAGE_BYTES, guid};
use crate::pe::{u16_at, u32_at};

const METADATA: Guid = guid(0xe47a6535_984a_4798_865e_4685a7bf8ec2);
const HEAD_BYTES: usize = 16;
const SECTION_BYTES: usize = 32;
const MAX_SECTIONS: usize = 64;
/// Most bytes of memory of all sections: each page costs a hash.
const MAX_MEMORY_BYTES: u64 = 256 << 20;
const CHUNK_BYTES: usize = 256;
const EXTENDED: u32 = 1;
const NOT_ADDED: u32 = 2;

/// In which order the VMM adds and extends the pages of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageOrder {
    /// Each page is added, then extended: KVM since Linux 6.16.
    Interleaved,
    /// All pages are added, then all are extended: patched KVMs before that.
    TwoPasses,
}

/// The TDX metadata of a firmware.
#[derive(Debug, Clone)]
pub struct Tdvf<'a> {
    sections: Vec<TdvfSection<'a>>,
}

/// One section of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TdvfSection<'a> {
    /// What stands there from the start; the rest is zero.
    pub data: &'a [u8],
    /// First address.
    pub address: u64,
    /// Bytes of memory.
    pub bytes: u64,
    /// What for: 0 code, 1 configuration, 2 hand-off blocks, 3 and 4 memory.
    pub kind: u32,
    /// Bit 0: the contents are measured; bit 1: the pages are not added before the start.
    pub flags: u32,
}

/// Why a firmware's word on TDX is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TdvfError {
    /// No metadata.
    #[error("the firmware has no TDX metadata: it cannot start a VM under TDX")]
    Missing,
    /// The metadata is out of the file, or its header is wrong.
    #[error("the firmware's TDX metadata is damaged, or not of version 1")]
    Damaged,
    /// A section is not whole pages, too large, or not in the file.
    #[error("section {0} of the TDX metadata is not whole pages of memory, or not in the file")]
    Pages(usize),
    /// Two sections share memory.
    #[error("sections {first} and {second} of the TDX metadata overlap")]
    Overlap {
        /// Number of a section, from 0.
        first: usize,
        /// Number of a later one.
        second: usize,
    },
    /// Not exactly one section of a kind of which there must be one.
    #[error("the TDX metadata has not exactly one section of kind {0}")]
    One(u32),
    /// Memory that does not hold the firmware's sections.
    #[error("{0} bytes of memory do not hold the firmware's sections")]
    Memory(u64),
}

impl PageOrder {
    /// Both orders.
    pub const ALL: [Self; 2] = [Self::Interleaved, Self::TwoPasses];
}

impl std::fmt::Display for PageOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Interleaved => "interleaved",
            Self::TwoPasses => "two-passes",
        })
    }
}

impl<'a> Tdvf<'a> {
    /// Reads the metadata of a firmware.
    pub fn parse(firmware: &Firmware<'a>) -> Result<Self, TdvfError> {
        let offset = firmware.word(&METADATA).ok_or(TdvfError::Missing)?;
        let metadata = firmware.tail(offset).ok_or(TdvfError::Damaged)?;
        let field = |at| u32_at(metadata, at).ok_or(TdvfError::Damaged);
        let count = field(12)? as usize;
        let sound = metadata.starts_with(b"TDVF")
            && field(8)? == 1
            && count <= MAX_SECTIONS
            && field(4)? as usize == HEAD_BYTES + count * SECTION_BYTES;
        if !sound {
            return Err(TdvfError::Damaged);
        }
        let mut sections = Vec::with_capacity(count);
        for index in 0..count {
            let at = HEAD_BYTES + index * SECTION_BYTES;
            let entry = metadata.get(at..at + SECTION_BYTES);
            sections.push(section(firmware, entry.ok_or(TdvfError::Damaged)?, index)?);
        }
        let tdvf = Self { sections };
        tdvf.check()?;
        Ok(tdvf)
    }

    fn check(&self) -> Result<(), TdvfError> {
        let mut total = 0;
        for (first, a) in self.sections.iter().enumerate() {
            total += a.bytes;
            if total > MAX_MEMORY_BYTES {
                return Err(TdvfError::Pages(first));
            }
            for (second, b) in self.sections.iter().enumerate().skip(first + 1) {
                if a.address < b.address + b.bytes && b.address < a.address + a.bytes {
                    return Err(TdvfError::Overlap { first, second });
                }
            }
        }
        for kind in [0, 2] {
            self.one(kind)?;
        }
        Ok(())
    }

    /// The sections in the firmware's order.
    #[must_use]
    pub fn sections(&self) -> &[TdvfSection<'a>] {
        &self.sections
    }

    fn one(&self, kind: u32) -> Result<&TdvfSection<'a>, TdvfError> {
        let mut found = self.sections.iter().filter(|section| section.kind == kind);
        match (found.next(), found.next()) {
            (Some(section), None) => Ok(section),
            _ => Err(TdvfError::One(kind)),
        }
    }

    /// Whether the configuration volume holds a variable: volume header, its length u16 at 48 ‖
    /// store header 28 ‖ variables, each beginning 0x55aa.
    pub fn has_variables(&self) -> Result<bool, TdvfError> {
        let data = self.one(1)?.data;
        let start = u16_at(data, 48).map(|length| usize::from(length) + 28);
        let first = start.and_then(|start| data.get(start..start + 2));
        // What is no volume that is known here is not called empty.
        Ok(first != Some(&[0xff, 0xff]))
    }

    /// MRTD of a VM that starts with this firmware.
    #[must_use]
    pub fn mrtd(&self, order: PageOrder) -> Digest<48> {
        let mut hash = Sha384::new();
        for section in &self.sections {
            let pages = section.bytes / PAGE_BYTES as u64;
            for page in 0..pages {
                section.add(&mut hash, page);
                if order == PageOrder::Interleaved {
                    section.extend(&mut hash, page);
                }
            }
            if order == PageOrder::TwoPasses {
                (0..pages).for_each(|page| section.extend(&mut hash, page));
            }
        }
        Digest(hash.finalize().into())
    }

    /// The firmware's configuration volume: the second event of RTMR0.
    pub fn configuration(&self) -> Result<Digest<48>, TdvfError> {
        Ok(Digest::sha384(self.one(1)?.data))
    }

    /// The hand-off blocks that QEMU gives a VM of this memory: the first event of RTMR0.
    ///
    /// ```text
    /// hand-off 56  1 u16 ‖ 56 u16 ‖ 0⁴ ‖ version u32 = 9 ‖ 0… ‖ address behind the end u64
    /// memory 48    3 u16 ‖ 48 u16 ‖ 0⁴ ‖ owner 0¹⁶ ‖ 0 added before, 7 not, u32 ‖ 7 u32
    ///              ‖ address u64 ‖ bytes u64
    /// ```
    ///
    /// Specification: UEFI PI, volume 3, chapter 5; QEMU, `hw/i386/tdvf-hob.c`.
    pub fn hand_off_blocks(&self, memory_bytes: u64) -> Result<Vec<u8>, TdvfError> {
        const ADDED: u32 = 0;
        const UNACCEPTED: u32 = 7;
        let [below, above] = memory_below_and_above_4g(memory_bytes);
        let is_memory = |section: &&TdvfSection<'_>| matches!(section.kind, 2..=4);
        let mut added: Vec<_> = self.sections.iter().filter(is_memory).collect();
        added.sort_by_key(|section| section.address);

        let mut out = vec![0; 56];
        out[0] = 1;
        out[2] = 56;
        out[8] = 9;
        let mut put = |kind: u32, address: u64, bytes: u64| {
            out.extend_from_slice(&[3, 0, 48, 0, 0, 0, 0, 0]);
            out.extend_from_slice(&[0; 16]);
            out.extend_from_slice(&kind.to_le_bytes());
            out.extend_from_slice(&7u32.to_le_bytes());
            out.extend_from_slice(&address.to_le_bytes());
            out.extend_from_slice(&bytes.to_le_bytes());
        };
        let mut end = 0;
        for section in added {
            if section.address > end {
                put(UNACCEPTED, end, section.address - end);
            }
            put(ADDED, section.address, section.bytes);
            end = section.address + section.bytes;
        }
        match below.checked_sub(end) {
            None => return Err(TdvfError::Memory(memory_bytes)),
            Some(0) => {}
            Some(rest) => put(UNACCEPTED, end, rest),
        }
        if above > 0 {
            put(UNACCEPTED, 1 << 32, above);
        }
        // The block that ends the list stands behind, and counts as none.
        let behind = self.one(2)?.address + out.len() as u64 + 8;
        out[48..56].copy_from_slice(&behind.to_le_bytes());
        Ok(out)
    }
}

/// How QEMU's machine `q35` divides memory: a VM of 2.75 GiB or more has 2 GiB below 4 GiB.
pub(super) fn memory_below_and_above_4g(memory_bytes: u64) -> [u64; 2] {
    match memory_bytes >= 0xb000_0000 {
        true => [0x8000_0000, memory_bytes - 0x8000_0000],
        false => [memory_bytes, 0],
    }
}

fn section<'a>(
    firmware: &Firmware<'a>,
    entry: &[u8],
    index: usize,
) -> Result<TdvfSection<'a>, TdvfError> {
    let word = |at| u32_at(entry, at).unwrap_or_default();
    let long = |at| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let (offset, length) = (word(0) as usize, word(4) as usize);
    let end = offset.checked_add(length);
    let data = end.and_then(|end| firmware.bytes().get(offset..end));
    let data = data.ok_or(TdvfError::Pages(index))?;
    let section = TdvfSection {
        data,
        address: long(8),
        bytes: long(16),
        kind: word(24),
        flags: word(28),
    };
    let page = PAGE_BYTES as u64;
    let whole = section.address.is_multiple_of(page) && section.bytes.is_multiple_of(page);
    let fits = section.bytes <= MAX_MEMORY_BYTES
        && section.address <= 1 << 47
        && data.len() as u64 <= section.bytes;
    match whole && fits && section.bytes > 0 {
        true => Ok(section),
        false => Err(TdvfError::Pages(index)),
    }
}

impl TdvfSection<'_> {
    fn add(&self, hash: &mut Sha384, page: u64) {
        if self.flags & NOT_ADDED == 0 {
            let address = self.address + page * PAGE_BYTES as u64;
            hash.update(record(b"MEM.PAGE.ADD", address));
        }
    }

    fn extend(&self, hash: &mut Sha384, page: u64) {
        if self.flags & EXTENDED == 0 {
            return;
        }
        let start = page * PAGE_BYTES as u64;
        for offset in (start..start + PAGE_BYTES as u64).step_by(CHUNK_BYTES) {
            hash.update(record(b"MR.EXTEND", self.address + offset));
            // `parse` bounds sections far below the size of the address space.
            let rest = self.data.get(offset as usize..).unwrap_or_default();
            let given = &rest[..rest.len().min(CHUNK_BYTES)];
            hash.update(given);
            hash.update(&[0; CHUNK_BYTES][given.len()..]);
        }
    }
}

fn record(name: &[u8], address: u64) -> [u8; 128] {
    let mut record = [0; 128];
    record[..name.len()].copy_from_slice(name);
    record[16..24].copy_from_slice(&address.to_le_bytes());
    record
}
