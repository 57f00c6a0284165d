//! Initrds as the kernel takes them: compressed archives and plain ones, one behind the other.
//!
//! ```text
//! zstd frame: magic 28 b5 2f fd, descriptor u8 (bits 6-7 size field, 5 one segment, 2 checksum,
//!             0-1 dictionary field), window u8 unless one segment, dictionary, size,
//!             blocks (u24: bit 0 last, bits 1-2 kind, then bytes), checksum u32
//! ```
//!
//! Specification: RFC 8878, section 3.1.1.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::tools::{ToolError, Tools};

/// How a zstd frame begins.
pub const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Most that the archives of an initrd are unpacked to.
const MAX_BYTES: u64 = 256 << 20;
/// A block that repeats one byte.
const REPEATED: u32 = 1;

/// Why an initrd is not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    /// A frame has no end.
    #[error("the compressed archive at byte {0} is cut off or malformed")]
    Frame(usize),
    /// A file of the scratch folder cannot be used.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The locked tool failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
}

/// The bytes of the zstd frame that `file` begins with.
pub fn frame_bytes(file: &[u8]) -> Option<usize> {
    let descriptor = *file.strip_prefix(ZSTD)?.first()?;
    let one_segment = descriptor & 0x20 != 0;
    let size = match (descriptor >> 6, one_segment) {
        (0, true) => 1,
        (0, false) => 0,
        (field, _) => 1 << field,
    };
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let mut at = 5 + usize::from(!one_segment) + dictionary + size;
    loop {
        let head = file.get(at..at.checked_add(3)?)?;
        let head = u32::from_le_bytes([head[0], head[1], head[2], 0]);
        let bytes = match (head >> 1) & 3 {
            REPEATED => 1,
            _ => (head >> 3) as usize,
        };
        at = at.checked_add(3 + bytes)?;
        if head & 1 == 1 {
            let end = at.checked_add(if descriptor & 4 == 0 { 0 } else { 4 })?;
            return (end <= file.len()).then_some(end);
        }
    }
}

/// An initrd with each compressed archive unpacked, at multiples of 4. `name` is one for files in
/// `scratch`.
pub fn unpack(
    initrd: &[u8],
    tools: &Tools,
    scratch: &Path,
    name: &str,
) -> Result<Vec<u8>, InitrdError> {
    let (packed, plain) = (scratch.join(format!("{name}.zst")), scratch.join(name));
    let unusable = |path: &Path| {
        let path = path.to_owned();
        move |source| InitrdError::File { path, source }
    };
    let mut unpacked = Vec::new();
    let mut at = 0;
    while let Some(rest) = initrd.get(at..).filter(|rest| rest.starts_with(ZSTD)) {
        let bytes = frame_bytes(rest).ok_or(InitrdError::Frame(at))?;
        let frame = rest.get(..bytes).unwrap_or_default();
        fs::write(&packed, frame).map_err(unusable(&packed))?;
        let left = MAX_BYTES.saturating_sub(unpacked.len() as u64);
        tools.unpack_zstd(&packed, &plain, left)?;
        unpacked.extend(fs::read(&plain).map_err(unusable(&plain))?);
        unpacked.resize(unpacked.len().next_multiple_of(4), 0);
        at += bytes;
        let zeroes = initrd.get(at..).unwrap_or_default().iter();
        let zeroes = zeroes.take_while(|&&byte| byte == 0).count();
        at += zeroes;
    }
    unpacked.extend_from_slice(initrd.get(at..).unwrap_or_default());
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_ends_after_its_last_block() {
        // One segment, size in 1 byte: a raw block of 2 bytes, a repeated one, a checksum.
        let frame = [
            ZSTD,
            &[0x24, 5, 0x10, 0, 0, 7, 8, 0x1b, 0, 0, 9, 1, 2, 3, 4],
        ]
        .concat();
        assert_eq!(frame_bytes(&frame), Some(frame.len()));
        let longer = [&frame[..], b"070701"].concat();
        assert_eq!(frame_bytes(&longer), Some(frame.len()));
        for length in 0..frame.len() {
            assert_eq!(frame_bytes(&frame[..length]), None, "{length}");
        }
        // A window, a dictionary of 2 bytes, a size of 2.
        let frame = [ZSTD, &[0x42, 0, 1, 1, 2, 2, 0x01, 0, 0]].concat();
        assert_eq!(frame_bytes(&frame), Some(frame.len()));
    }

    proptest! {
        #[test]
        fn any_frame_has_an_end_within_the_file_or_none(bytes: Vec<u8>) {
            let file = [ZSTD, &bytes].concat();
            prop_assert!(frame_bytes(&file).is_none_or(|end| end <= file.len()));
            prop_assert!(frame_bytes(&bytes).is_none_or(|end| end <= bytes.len()));
        }
    }
}
