//! A measurement report (DMTF DSP0274, version 1.1; little-endian): the request, and the response
//! that signs both.
//!
//! ```text
//! GET_MEASUREMENTS  0x11 ‖ 0xe0 ‖ 0x01 (signed) ‖ 0xff (all) ‖ nonce 32 ‖ slot 1
//! MEASUREMENTS      0x11 ‖ 0x60 ‖ 0 ‖ slot 1 ‖ blocks 1 ‖ record length 3 ‖ record
//!                   ‖ nonce 32 ‖ opaque length 2 ‖ opaque ‖ r 48 ‖ s 48
//! block             index 1 ‖ 0x01 (DMTF) ‖ length 2 ‖ type 1 ‖ value length 2 ‖ value 48
//! ```
//!
//! The signature is ECDSA with P-384 and SHA-384 over everything before it. Blocks are numbered
//! from 1, without a gap, as every device of NVIDIA's numbers them.

use p384::ecdsa::Signature;

use super::opaque::{Opaque, OpaqueError};
use crate::Digest;
use crate::reader::Reader;

/// Longest report.
pub const MAX_REPORT_BYTES: usize = 16 << 10;

const REQUEST_BYTES: usize = 37;
const SIGNATURE_BYTES: usize = 96;
const VERSION: u8 = 0x11;
const GET_MEASUREMENTS: u8 = 0xe0;
const MEASUREMENTS: u8 = 0x60;
const DMTF: u8 = 1;
const VALUE_BYTES: u16 = 48;
/// Of a block, without what it holds, and of a value.
const HEAD_BYTES: u16 = 3;

/// What a report says, before it is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The verifier's nonce.
    pub nonce: [u8; 32],
    /// Digests, in the order of their blocks; the first is that of block 1.
    pub measurements: Vec<Digest<48>>,
    /// What the device says besides.
    pub opaque: Opaque,
}

/// A report with what its signature covers.
pub(super) struct SignedReport<'a> {
    pub(super) report: Report,
    pub(super) signed: &'a [u8],
    pub(super) signature: Signature,
}

/// Why bytes are not a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpdmError {
    /// Longer than [`MAX_REPORT_BYTES`].
    #[error("{found} bytes, {MAX_REPORT_BYTES} allowed")]
    TooLarge {
        /// Length found.
        found: usize,
    },
    /// It ends in the midst of something.
    #[error("ends too early")]
    Truncated,
    /// Not SPDM 1.1.
    #[error("SPDM version {found:#04x}, {VERSION:#04x} expected")]
    Version {
        /// Version found.
        found: u8,
    },
    /// Not a request for all measurements, signed.
    #[error("the request is not for all measurements, signed")]
    Request,
    /// Not an answer to it.
    #[error("the response is not one with measurements")]
    Response,
    /// The answer is of another certificate slot than was asked for.
    #[error("the response is of certificate slot {found}, {expected} was asked for")]
    Slot {
        /// Slot asked for.
        expected: u8,
        /// Slot that answered.
        found: u8,
    },
    /// A block has another number than comes next.
    #[error("measurement block {found} where {expected} was expected")]
    Index {
        /// Number that comes next.
        expected: u8,
        /// Number found.
        found: u8,
    },
    /// A block does not hold a digest of 48 bytes in DMTF's form.
    #[error("measurement block {index} is not a digest by SHA-384 in DMTF's form")]
    Block {
        /// Its number.
        index: u8,
    },
    /// There are not as many bytes of blocks as are said.
    #[error("the measurement blocks do not fill their record")]
    Record,
    /// The signature is none, or something follows it.
    #[error("does not end with a signature by ECDSA with P-384")]
    SignatureFormat,
    /// What the device says besides cannot be read.
    #[error("opaque data: {0}")]
    Opaque(#[from] OpaqueError),
}

impl Report {
    /// Reads a report, without believing it.
    pub fn parse(bytes: &[u8]) -> Result<Self, SpdmError> {
        SignedReport::parse(bytes).map(|signed| signed.report)
    }
}

impl<'a> SignedReport<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, SpdmError> {
        if bytes.len() > MAX_REPORT_BYTES {
            return Err(SpdmError::TooLarge { found: bytes.len() });
        }
        let split = bytes
            .len()
            .checked_sub(SIGNATURE_BYTES)
            .ok_or(SpdmError::Truncated)?;
        let (signed, signature) = bytes.split_at(split);
        let mut request = Reader(signed.get(..REQUEST_BYTES).ok_or(SpdmError::Truncated)?);
        let mut response = Reader(signed.get(REQUEST_BYTES..).ok_or(SpdmError::Truncated)?);
        let (nonce, expected) = read_request(&mut request).ok_or(SpdmError::Truncated)??;
        let (blocks, found) = read_head(&mut response).ok_or(SpdmError::Truncated)??;
        if found != expected {
            return Err(SpdmError::Slot { expected, found });
        }
        let [low, middle, high] = response.array().ok_or(SpdmError::Truncated)?;
        let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
        let record = response.take(length).ok_or(SpdmError::Truncated)?;
        let measurements = read_blocks(record, blocks)?;
        let _nonce: [u8; 32] = response.array().ok_or(SpdmError::Truncated)?;
        let length = response.u16_le().ok_or(SpdmError::Truncated)?;
        let opaque = response
            .take(usize::from(length))
            .ok_or(SpdmError::Truncated)?;
        if !response.is_empty() {
            return Err(SpdmError::SignatureFormat);
        }
        let opaque = Opaque::parse(opaque)?;
        let signature = Signature::from_slice(signature);
        Ok(Self {
            report: Report {
                nonce,
                measurements,
                opaque,
            },
            signed,
            signature: signature.map_err(|_| SpdmError::SignatureFormat)?,
        })
    }
}

type Read<T> = Option<Result<T, SpdmError>>;

fn check_version(found: u8) -> Result<(), SpdmError> {
    match found {
        VERSION => Ok(()),
        found => Err(SpdmError::Version { found }),
    }
}

/// The nonce and the slot.
fn read_request(reader: &mut Reader<'_>) -> Read<([u8; 32], u8)> {
    let [version, code, attributes, operation] = reader.array()?;
    let (nonce, [slot]) = (reader.array()?, reader.array()?);
    Some(match check_version(version) {
        Ok(()) if (code, attributes, operation) == (GET_MEASUREMENTS, 1, 0xff) => Ok((nonce, slot)),
        Ok(()) => Err(SpdmError::Request),
        Err(error) => Err(error),
    })
}

/// The number of blocks and the slot.
fn read_head(reader: &mut Reader<'_>) -> Read<(u8, u8)> {
    let [version, code, total, slot, blocks] = reader.array()?;
    Some(match check_version(version) {
        Ok(()) if (code, total) == (MEASUREMENTS, 0) => Ok((blocks, slot)),
        Ok(()) => Err(SpdmError::Response),
        Err(error) => Err(error),
    })
}

fn read_blocks(record: &[u8], blocks: u8) -> Result<Vec<Digest<48>>, SpdmError> {
    let mut reader = Reader(record);
    let mut measurements = Vec::with_capacity(usize::from(blocks));
    for expected in 1..=blocks {
        let [found] = reader.array().ok_or(SpdmError::Record)?;
        if found != expected {
            return Err(SpdmError::Index { expected, found });
        }
        let (block, value) = read_block(&mut reader).ok_or(SpdmError::Record)?;
        // Bit 7 says that the value is not a digest.
        if block != (DMTF, VALUE_BYTES + HEAD_BYTES, false, VALUE_BYTES) {
            return Err(SpdmError::Block { index: found });
        }
        measurements.push(Digest(value));
    }
    match reader.is_empty() {
        true => Ok(measurements),
        false => Err(SpdmError::Record),
    }
}

/// Specification, length, whether the value is raw, length of the value; and the value.
type Block = ((u8, u16, bool, u16), [u8; 48]);

fn read_block(reader: &mut Reader<'_>) -> Option<Block> {
    let ([specification], length) = (reader.array()?, reader.u16_le()?);
    let ([kind], value_length) = (reader.array()?, reader.u16_le()?);
    let block = (specification, length, kind & 0x80 != 0, value_length);
    Some((block, reader.array()?))
}
