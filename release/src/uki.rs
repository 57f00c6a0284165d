//! Unified kernel images: systemd's EFI stub with the parts of a boot as further sections.
//!
//! The result equals that of systemd 257's `ukify build` byte for byte: the sections `.osrel`,
//! `.cmdline`, `.uname`, `.linux` and `.initrd` in that order after the stub's own, and `.sbat`
//! merged in place. Nothing in it depends on time or place.
//!
//! Specification: UAPI Group, "Unified Kernel Image".

use crate::command_line::CommandLine;
use crate::pe::{self, Image, PeError, SECTION_HEADER_BYTES};

const NX_COMPAT: u16 = 0x0100;
const CODE: u32 = 0x0000_0020;
const INITIALIZED_DATA: u32 = 0x0000_0040;
const READABLE: u32 = 0x4000_0000;
/// First line of every SBAT table.
const SBAT_HEAD: &str =
    "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n";
/// The line that stands for unified kernel images as a kind.
const SBAT_UKI: &str =
    "uki,1,UKI,uki,1,https://uapi-group.org/specifications/specs/unified_kernel_image/\n";

/// What goes into a UKI.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// systemd's `linuxx64.efi.stub`.
    pub stub: &'a [u8],
    /// The image's `os-release`.
    pub os_release: &'a [u8],
    /// The whole command line.
    pub command_line: &'a CommandLine,
    /// The kernel (a bzImage, which is a PE image too).
    pub linux: &'a [u8],
    /// The whole initrd.
    pub initrd: &'a [u8],
}

/// Why no UKI can be made of these parts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UkiError {
    /// The stub is no usable PE image.
    #[error("the EFI stub: {0}")]
    Stub(PeError),
    /// The stub is signed; what is added would break its signature.
    #[error("the EFI stub is signed: give the unsigned one")]
    StubSigned,
    /// The file given as stub is a UKI already.
    #[error("the EFI stub already has a section {0}: give the bare stub")]
    StubInUse(&'static str),
    /// The stub ends with bytes that belong to no section.
    #[error("the EFI stub has {0} bytes after its last section")]
    StubTail(usize),
    /// No room in the stub's headers for another section.
    #[error("the EFI stub's headers have no room for the section {0}")]
    HeaderSpace(&'static str),
    /// The kernel is no usable PE image.
    #[error("the kernel: {0}")]
    Kernel(PeError),
    /// The kernel has no Linux boot header or no readable version string in it.
    #[error("the kernel has no readable version in a Linux boot header")]
    KernelVersion,
    /// A part is empty.
    #[error("the part for section {0} is empty")]
    Empty(&'static str),
    /// The image would go beyond 4 GiB of memory.
    #[error("the image would be larger than 4 GiB at section {0}")]
    TooLarge(&'static str),
    /// An SBAT table is not text, or the merged one does not fit its section.
    #[error("the SBAT tables of stub and kernel cannot be merged into the stub's section")]
    Sbat,
}

/// Builds a UKI.
pub fn build(parts: &Parts<'_>) -> Result<Vec<u8>, UkiError> {
    let stub = Image::parse(parts.stub).map_err(UkiError::Stub)?;
    let kernel = Image::parse(parts.linux).map_err(UkiError::Kernel)?;
    let version = kernel_version(parts.linux).ok_or(UkiError::KernelVersion)?;
    let command_line = parts.command_line.as_str();
    let sections = [
        (".osrel", parts.os_release, INITIALIZED_DATA),
        (".cmdline", command_line.as_bytes(), INITIALIZED_DATA),
        (".uname", version.as_bytes(), INITIALIZED_DATA),
        (".linux", parts.linux, CODE),
        (".initrd", parts.initrd, INITIALIZED_DATA),
    ];
    check_stub(&stub)?;
    let mut writer = Writer::new(&stub, sections.iter().map(|section| section.1.len()).sum());
    for (name, data, kind) in sections {
        writer.append(name, data, kind | READABLE)?;
    }
    writer.merge_sbat(&stub, &kernel)?;
    writer.finish(kernel.headers().dll_characteristics & NX_COMPAT != 0);
    Image::parse(&writer.out).map_err(UkiError::Stub)?;
    Ok(writer.out)
}

/// The version in a Linux boot header, up to the builder's name: what the stub puts into its
/// `.uname`.
pub fn kernel_version(linux: &[u8]) -> Option<&str> {
    if linux.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let start = 0x200 + usize::from(pe::u16_at(linux, 0x20e)?);
    let text = linux
        .get(start..start + 128)?
        .split(|&byte| byte == 0)
        .next()?;
    let (version, rest) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'+' | b'-');
    let built_by = rest.strip_prefix('(')?.split_once(") ")?;
    let is_version = !version.is_empty() && version.bytes().all(plain);
    (is_version && !built_by.0.contains([' ', ')']) && built_by.1.starts_with('#'))
        .then_some(version)
}

fn check_stub(stub: &Image<'_>) -> Result<(), UkiError> {
    if !stub.headers().certificates.is_empty() {
        return Err(UkiError::StubSigned);
    }
    for name in [".osrel", ".cmdline", ".uname", ".linux", ".initrd"] {
        if stub.sections().iter().any(|section| section.name == name) {
            return Err(UkiError::StubInUse(name));
        }
    }
    let end = stub.sections().iter().map(|section| section.raw.end).max();
    match stub.bytes().len() - end.unwrap_or_default() {
        0 => Ok(()),
        tail => Err(UkiError::StubTail(tail)),
    }
}

/// A PE file under construction.
struct Writer {
    out: Vec<u8>,
    headers: pe::Headers,
    sections: usize,
    end_of_memory: u32,
    image_bytes: u32,
    initialized: u32,
}

impl Writer {
    fn new(stub: &Image<'_>, more: usize) -> Self {
        let mut out = Vec::with_capacity(stub.bytes().len() + more + (1 << 16));
        out.extend_from_slice(stub.bytes());
        let headers = stub.headers().clone();
        let last = stub.sections().last();
        Self {
            initialized: pe::u32_at(&out, headers.optional + 8).unwrap_or_default(),
            end_of_memory: last.map_or(0, |last| last.virtual_address + last.virtual_size),
            image_bytes: 0,
            sections: stub.sections().len(),
            headers,
            out,
        }
    }

    fn append(&mut self, name: &'static str, data: &[u8], flags: u32) -> Result<(), UkiError> {
        if data.is_empty() {
            return Err(UkiError::Empty(name));
        }
        let too_large = UkiError::TooLarge(name);
        let alignment = self.headers.file_alignment as usize;
        let raw_start = self.out.len().next_multiple_of(alignment);
        let raw_bytes = data.len().next_multiple_of(alignment);
        let address = self
            .end_of_memory
            .checked_next_multiple_of(self.headers.section_alignment);
        let address = address.ok_or_else(|| too_large.clone())?;
        let virtual_size = u32::try_from(data.len()).map_err(|_| too_large.clone())?;
        let end = address
            .checked_add(virtual_size)
            .ok_or_else(|| too_large.clone())?;
        let image = end.checked_next_multiple_of(self.headers.section_alignment);
        self.image_bytes = image.ok_or_else(|| too_large.clone())?;
        let initialized = self.initialized.checked_add(virtual_size);
        let words = [
            virtual_size as usize,
            address as usize,
            raw_bytes,
            raw_start,
            0,
            0,
            0,
        ];

        let mut header = [0; SECTION_HEADER_BYTES];
        header[..name.len()].copy_from_slice(name.as_bytes());
        for (field, word) in header[8..].chunks_exact_mut(4).zip(words) {
            let word = u32::try_from(word).map_err(|_| too_large.clone())?;
            field.copy_from_slice(&word.to_le_bytes());
        }
        header[36..].copy_from_slice(&flags.to_le_bytes());
        let at = self.headers.section_table + self.sections * SECTION_HEADER_BYTES;
        // Beyond the table may only be zeroes, or something else lives there.
        let free = at + SECTION_HEADER_BYTES <= self.headers.size_of_headers
            && self.out[at..at + SECTION_HEADER_BYTES]
                .iter()
                .all(|&byte| byte == 0);
        if !free {
            return Err(UkiError::HeaderSpace(name));
        }
        self.out[at..at + SECTION_HEADER_BYTES].copy_from_slice(&header);
        self.out.resize(raw_start, 0);
        self.out.extend_from_slice(data);
        self.out.resize(raw_start + raw_bytes, 0);
        self.sections += 1;
        self.end_of_memory = end;
        self.initialized = initialized.ok_or(too_large)?;
        Ok(())
    }

    /// Puts the stub's and the kernel's SBAT lines and the one for UKIs into the stub's section.
    fn merge_sbat(&mut self, stub: &Image<'_>, kernel: &Image<'_>) -> Result<(), UkiError> {
        let mut table = SBAT_HEAD.to_owned();
        for image in [stub, kernel] {
            if image
                .sections()
                .iter()
                .any(|section| section.name == ".sbat")
            {
                let lines = image
                    .section(".sbat")
                    .and_then(|section| image.contents(section));
                table += sbat_lines(lines.ok_or(UkiError::Sbat)?).ok_or(UkiError::Sbat)?;
                if !table.ends_with('\n') {
                    table.push('\n');
                }
            }
        }
        table += SBAT_UKI;
        table.push('\0');
        let index = stub
            .sections()
            .iter()
            .position(|section| section.name == ".sbat");
        let index = index.ok_or(UkiError::Sbat)?;
        let raw = stub.sections()[index].raw.clone();
        let target = self.out.get_mut(raw).ok_or(UkiError::Sbat)?;
        let (used, rest) = target
            .split_at_mut_checked(table.len())
            .ok_or(UkiError::Sbat)?;
        used.copy_from_slice(table.as_bytes());
        rest.fill(0);
        let header = self.headers.section_table + index * SECTION_HEADER_BYTES;
        self.put_u32(header + 8, table.len() as u32);
        Ok(())
    }

    /// Writes what the header says of the whole.
    fn finish(&mut self, kernel_is_nx_compatible: bool) {
        let optional = self.headers.optional;
        let count = (self.sections as u16).to_le_bytes();
        self.out[self.headers.coff + 2..self.headers.coff + 4].copy_from_slice(&count);
        self.put_u32(optional + 8, self.initialized);
        self.put_u32(optional + 56, self.image_bytes);
        self.put_u32(optional + 64, 0); // no checksum
        if !kernel_is_nx_compatible {
            let flags = (self.headers.dll_characteristics & !NX_COMPAT).to_le_bytes();
            self.out[optional + 70..optional + 72].copy_from_slice(&flags);
        }
    }

    fn put_u32(&mut self, at: usize, value: u32) {
        self.out[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
}

/// An SBAT table's lines after its first.
fn sbat_lines(section: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(section).ok()?.trim_end_matches('\0');
    let (first, lines) = text.split_once('\n')?;
    (first.starts_with("sbat,") && lines.is_ascii() && !lines.contains('\0')).then_some(lines)
}
