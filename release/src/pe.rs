//! PE32+ images for x86-64, read strictly.
//!
//! ```text
//! 0      "MZ" … u32 at 0x3c: offset of
//! pe     "PE\0\0", COFF header (20 bytes), optional header (112 bytes + 8 per data directory),
//!        section table (40 bytes per section)
//!        … up to SizeOfHeaders, then the sections' raw data without a gap,
//!        then what belongs to no section, then the certificate table if there is one
//! ```
//!
//! Specification: Microsoft "PE Format"; "Windows Authenticode Portable Executable Signature
//! Format". A file that a loader and a hasher could read in two ways is refused: a digest that is
//! predicted must be the digest that the firmware takes.

use std::ops::Range;

/// Bytes of one entry of the section table.
pub const SECTION_HEADER_BYTES: usize = 40;
/// Most sections that a PE loader accepts.
const MAX_SECTIONS: usize = 96;

/// Bytes of a file's beginning in which all headers must lie.
pub const HEAD_BYTES: usize = 1 << 20;

/// A PE32+ image whose layout has been checked.
#[derive(Debug, Clone)]
pub struct Image<'a> {
    bytes: &'a [u8],
    layout: Layout,
}

/// Where everything stands in an image.
#[derive(Debug, Clone)]
pub struct Layout {
    length: usize,
    headers: Headers,
    sections: Vec<Section>,
}

/// Where the header fields that others need stand, and what they hold.
#[derive(Debug, Clone)]
pub struct Headers {
    /// Offset of the COFF header.
    pub coff: usize,
    /// Offset of the optional header.
    pub optional: usize,
    /// Offset of the section table.
    pub section_table: usize,
    /// Sections lie at multiples of this in memory.
    pub section_alignment: u32,
    /// Sections lie at multiples of this in the file.
    pub file_alignment: u32,
    /// Bytes before the first section's data.
    pub size_of_headers: usize,
    /// `DllCharacteristics` flags.
    pub dll_characteristics: u16,
    /// The certificate table in the file; empty where the image is not signed.
    pub certificates: Range<usize>,
}

/// One entry of the section table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Name, at most 8 printable ASCII characters.
    pub name: String,
    /// Offset in memory.
    pub virtual_address: u32,
    /// Bytes in memory.
    pub virtual_size: u32,
    /// Bytes in the file.
    pub raw: Range<usize>,
}

/// Why bytes are not a PE32+ image that we accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeError {
    /// The file ends inside a header or a section.
    #[error("the file ends inside its {0}")]
    Truncated(Part),
    /// A magic number is wrong.
    #[error("the {0} does not begin as that of a PE32+ image")]
    Magic(Part),
    /// Made for another machine.
    #[error("made for machine {0:#06x}, not for x86-64 (0x8664)")]
    Machine(u16),
    /// Alignments are not powers of two in the allowed range.
    #[error("section alignment {section} and file alignment {file} are not usable")]
    Alignment {
        /// In memory.
        section: u32,
        /// In the file.
        file: u32,
    },
    /// No section, or more than a loader takes.
    #[error("{0} sections; 1 to {MAX_SECTIONS} are possible")]
    SectionCount(usize),
    /// A section's name is not printable ASCII, or bytes follow its end.
    #[error("section {0} has an unprintable name")]
    SectionName(usize),
    /// `SizeOfHeaders` does not cover the headers.
    #[error("SizeOfHeaders is {found}, the headers end at {needed}")]
    HeaderSize {
        /// In the file.
        found: usize,
        /// End of the section table.
        needed: usize,
    },
    /// Two sections share memory, or are out of order.
    #[error("section {0} overlaps the one before it in memory, or stands out of order")]
    MemoryOverlap(usize),
    /// Sections share bytes of the file, or bytes between them belong to none.
    #[error("the data of section {0} overlaps other data of the file or leaves a gap before it")]
    FileLayout(usize),
    /// The certificate table is not at the end of the file.
    #[error("the certificate table does not end the file")]
    Certificates,
}

/// A part of a PE image, in an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// DOS header.
    DosHeader,
    /// COFF header.
    CoffHeader,
    /// Optional header.
    OptionalHeader,
    /// Section table.
    SectionTable,
    /// A section's data.
    Section(usize),
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::DosHeader => f.write_str("DOS header"),
            Self::CoffHeader => f.write_str("COFF header"),
            Self::OptionalHeader => f.write_str("optional header"),
            Self::SectionTable => f.write_str("section table"),
            Self::Section(index) => write!(f, "section {index}"),
        }
    }
}

impl Layout {
    /// Reads and checks the headers of a file of `length` bytes. `head` is its beginning,
    /// [`HEAD_BYTES`] of it or all.
    pub fn parse(head: &[u8], length: usize) -> Result<Self, PeError> {
        let (headers, count) = parse_headers(head, length)?;
        let mut sections = Vec::with_capacity(count);
        for index in 0..count {
            sections.push(parse_section(head, length, &headers, index)?);
        }
        check_memory(&headers, &sections)?;
        check_file(length, &headers, &sections)?;
        Ok(Self {
            length,
            headers,
            sections,
        })
    }

    /// The sections, in the order of the table.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The only section of that name; `None` where there is none or more than one.
    pub fn section(&self, name: &str) -> Option<&Section> {
        let mut named = self.sections.iter().filter(|section| section.name == name);
        match (named.next(), named.next()) {
            (Some(section), None) => Some(section),
            _ => None,
        }
    }

    /// Where in the file a section stands as it is in memory; `None` where memory holds more than
    /// the file.
    pub fn contents(&self, section: &Section) -> Option<Range<usize>> {
        let end = section
            .raw
            .start
            .checked_add(usize::try_from(section.virtual_size).ok()?)?;
        (end <= section.raw.end).then_some(section.raw.start..end)
    }

    /// The pieces of the file over which the Authenticode digest goes, in order: all but the
    /// checksum, the certificate table and its directory entry.
    pub fn authenticode(&self) -> [Range<usize>; 3] {
        let checksum = self.headers.optional + 64;
        let directory = self.headers.certificate_directory();
        let end = self.length - self.headers.certificates.len();
        // `parse` has checked that the optional header holds both fields and that the file
        // has no gap, so that hashing it in one piece equals hashing section by section.
        [0..checksum, checksum + 4..directory, directory + 8..end]
    }
}

impl<'a> Image<'a> {
    /// Reads and checks an image.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PeError> {
        let layout = Layout::parse(bytes, bytes.len())?;
        Ok(Self { bytes, layout })
    }

    /// The whole file.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The headers.
    pub fn headers(&self) -> &Headers {
        &self.layout.headers
    }

    /// The sections, in the order of the table.
    pub fn sections(&self) -> &[Section] {
        self.layout.sections()
    }

    /// The only section of that name; `None` where there is none or more than one.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.layout.section(name)
    }

    /// A section's bytes as they stand in memory; `None` where memory holds more than the file.
    pub fn contents(&self, section: &Section) -> Option<&'a [u8]> {
        self.bytes.get(self.layout.contents(section)?)
    }

    /// The pieces of the file over which the Authenticode digest goes, in order.
    pub fn authenticode_pieces(&self) -> [&'a [u8]; 3] {
        let piece = |range| self.bytes.get(range).unwrap_or_default();
        self.layout.authenticode().map(piece)
    }
}

impl Headers {
    /// Offset of the data directory's entry for the certificate table.
    pub fn certificate_directory(&self) -> usize {
        self.optional + 112 + 4 * 8
    }
}

fn parse_headers(bytes: &[u8], length: usize) -> Result<(Headers, usize), PeError> {
    let pe = u32_at(bytes, 0x3c).ok_or(PeError::Truncated(Part::DosHeader))? as usize;
    if bytes.get(..2) != Some(b"MZ") {
        return Err(PeError::Magic(Part::DosHeader));
    }
    let signature = pe.checked_add(4).and_then(|end| bytes.get(pe..end));
    if signature.ok_or(PeError::Truncated(Part::CoffHeader))? != b"PE\0\0" {
        return Err(PeError::Magic(Part::CoffHeader));
    }
    let coff = pe + 4;
    let coff_field = |at| u16_at(bytes, coff + at).ok_or(PeError::Truncated(Part::CoffHeader));
    if coff_field(0)? != 0x8664 {
        return Err(PeError::Machine(coff_field(0)?));
    }
    let count = usize::from(coff_field(2)?);
    let optional_bytes = usize::from(coff_field(16)?);
    let optional = coff + 20;
    let section_table = optional + optional_bytes;
    if !(1..=MAX_SECTIONS).contains(&count) {
        return Err(PeError::SectionCount(count));
    }
    let headers = parse_optional_header(bytes, length, coff, optional, section_table)?;
    let needed = section_table + count * SECTION_HEADER_BYTES;
    if headers.size_of_headers < needed {
        return Err(PeError::HeaderSize {
            found: headers.size_of_headers,
            needed,
        });
    }
    if headers.size_of_headers > length {
        return Err(PeError::Truncated(Part::SectionTable));
    }
    Ok((headers, count))
}

fn parse_optional_header(
    bytes: &[u8],
    file_bytes: usize,
    coff: usize,
    optional: usize,
    section_table: usize,
) -> Result<Headers, PeError> {
    const PART: Part = Part::OptionalHeader;
    let field = |at| u32_at(bytes, optional + at).ok_or(PeError::Truncated(PART));
    let directories = field(108)? as usize;
    if u16_at(bytes, optional) != Some(0x20b) {
        return Err(PeError::Magic(PART));
    }
    // The certificate table's entry is the fifth of at most sixteen.
    if !(5..=16).contains(&directories) || section_table != optional + 112 + directories * 8 {
        return Err(PeError::Magic(PART));
    }
    let (section_alignment, file_alignment) = (field(32)?, field(36)?);
    let usable = section_alignment.is_power_of_two()
        && file_alignment.is_power_of_two()
        && (32..=65536).contains(&file_alignment)
        && (file_alignment..=1 << 24).contains(&section_alignment);
    if !usable {
        return Err(PeError::Alignment {
            section: section_alignment,
            file: file_alignment,
        });
    }
    let start = field(112 + 4 * 8)? as usize;
    let length = field(112 + 4 * 8 + 4)? as usize;
    let certificates = match (start, length) {
        (0, 0) => file_bytes..file_bytes,
        _ if start.is_multiple_of(8) && start.checked_add(length) == Some(file_bytes) => {
            start..file_bytes
        }
        _ => return Err(PeError::Certificates),
    };
    Ok(Headers {
        coff,
        optional,
        section_table,
        section_alignment,
        file_alignment,
        size_of_headers: field(60)? as usize,
        dll_characteristics: u16_at(bytes, optional + 70).ok_or(PeError::Truncated(PART))?,
        certificates,
    })
}

fn parse_section(
    bytes: &[u8],
    file_bytes: usize,
    headers: &Headers,
    index: usize,
) -> Result<Section, PeError> {
    const TRUNCATED: PeError = PeError::Truncated(Part::SectionTable);
    let at = headers.section_table + index * SECTION_HEADER_BYTES;
    let field = |offset| u32_at(bytes, at + offset).ok_or(TRUNCATED);
    let name = bytes.get(at..at + 8).ok_or(TRUNCATED)?;
    let length = name.iter().position(|&byte| byte == 0).unwrap_or(8);
    let (name, rest) = name.split_at(length);
    let printable = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    if !printable || rest.iter().any(|&byte| byte != 0) {
        return Err(PeError::SectionName(index));
    }
    let (raw_bytes, raw_start) = (field(16)? as usize, field(20)? as usize);
    let raw_end = raw_start
        .checked_add(raw_bytes)
        .filter(|&end| end <= file_bytes);
    let raw_end = raw_end.ok_or(PeError::Truncated(Part::Section(index)))?;
    Ok(Section {
        name: String::from_utf8_lossy(name).into_owned(),
        virtual_size: field(8)?,
        virtual_address: field(12)?,
        raw: raw_start..raw_end,
    })
}

/// Sections follow each other in memory, aligned, after the headers.
fn check_memory(headers: &Headers, sections: &[Section]) -> Result<(), PeError> {
    let mut end = headers.size_of_headers as u64;
    for (index, section) in sections.iter().enumerate() {
        let start = u64::from(section.virtual_address);
        let aligned = section.virtual_address % headers.section_alignment == 0;
        if start < end || !aligned || section.virtual_size == 0 {
            return Err(PeError::MemoryOverlap(index));
        }
        end = start + u64::from(section.virtual_size);
        if end > u64::from(u32::MAX) {
            return Err(PeError::MemoryOverlap(index));
        }
    }
    Ok(())
}

/// Sections' data follow each other in the file without a gap, from the end of the headers.
fn check_file(file_bytes: usize, headers: &Headers, sections: &[Section]) -> Result<(), PeError> {
    let mut order: Vec<usize> = (0..sections.len()).collect();
    order.retain(|&index| !sections[index].raw.is_empty());
    order.sort_by_key(|&index| sections[index].raw.start);
    let mut end = headers.size_of_headers;
    for index in order {
        if sections[index].raw.start != end {
            return Err(PeError::FileLayout(index));
        }
        end = sections[index].raw.end;
    }
    let limit = file_bytes - headers.certificates.len();
    if end > limit {
        return Err(PeError::Certificates);
    }
    Ok(())
}

/// A little-endian number in a file.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(field.try_into().ok()?))
}

/// A little-endian number in a file.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}
