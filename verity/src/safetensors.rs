//! A look at a safetensors file's header: enough to refuse a file that was cut off.
//!
//! ```text
//! 8 bytes length of the header, little-endian · header, JSON · tensors
//! ```
//!
//! Every entry of the header but `__metadata__` has `data_offsets: [start, end]`, counted from the
//! end of the header; the largest end is the end of the file.

use std::fs::File;
use std::io::{self, Read};

use serde_json::Value;

/// The format's own limit on the header.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Why a file is no whole safetensors file.
#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    /// It has no header.
    #[error("it has no safetensors header")]
    Header,
    /// It has another length than its header says.
    #[error("its header describes {expected} bytes, but it has {found}")]
    Length {
        /// Bytes that the header implies.
        expected: u64,
        /// Bytes in the file.
        found: u64,
    },
}

/// Compares the file's length with what its header says.
pub(crate) fn check_length(file: &mut File) -> Result<(), TensorError> {
    let found = file.metadata()?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length)
        .map_err(|_| TensorError::Header)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES || length > found {
        return Err(TensorError::Header);
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header)?;
    let end = last_tensor_end(&header).ok_or(TensorError::Header)?;
    let expected = end.checked_add(8 + length).ok_or(TensorError::Header)?;
    if expected != found {
        return Err(TensorError::Length { expected, found });
    }
    Ok(())
}

fn last_tensor_end(header: &[u8]) -> Option<u64> {
    let header: Value = serde_json::from_slice(header).ok()?;
    let tensors = header
        .as_object()?
        .iter()
        .filter(|(name, _)| *name != "__metadata__");
    tensors
        .map(|(_, tensor)| tensor.get("data_offsets")?.get(1)?.as_u64())
        .try_fold(0, |last, end| Some(last.max(end?)))
}
