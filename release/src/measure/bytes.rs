//! Bytes that are hashed where they stand: a file of any size is never held in memory.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use attest::Digest;

use crate::pe::{self, PeError};

/// How much is read at a time.
const PIECE_BYTES: usize = 1 << 18;

/// A file, or what stands in memory.
pub trait Bytes: Sync + fmt::Debug {
    /// How many.
    fn length(&self) -> io::Result<usize>;
    /// Fills `buffer` from the byte `at` on.
    fn read_at(&self, at: usize, buffer: &mut [u8]) -> io::Result<()>;
}

impl Bytes for &[u8] {
    fn length(&self) -> io::Result<usize> {
        Ok(self.len())
    }

    fn read_at(&self, at: usize, buffer: &mut [u8]) -> io::Result<()> {
        let end = at.checked_add(buffer.len());
        let part = end.and_then(|end| self.get(at..end));
        buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl Bytes for File {
    fn length(&self) -> io::Result<usize> {
        usize::try_from(self.metadata()?.len()).map_err(io::Error::other)
    }

    fn read_at(&self, at: usize, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buffer, at as u64)
    }
}

/// Other bytes with another beginning.
#[derive(Debug)]
pub(super) struct WithHead<'a> {
    pub(super) head: Vec<u8>,
    pub(super) rest: &'a dyn Bytes,
}

impl Bytes for WithHead<'_> {
    fn length(&self) -> io::Result<usize> {
        self.rest.length()
    }

    fn read_at(&self, at: usize, buffer: &mut [u8]) -> io::Result<()> {
        self.rest.read_at(at, buffer)?;
        let head = self.head.get(at..).unwrap_or_default();
        buffer
            .iter_mut()
            .zip(head)
            .for_each(|(to, from)| *to = *from);
        Ok(())
    }
}

/// Part of other bytes.
#[derive(Debug)]
pub(super) struct Part<'a> {
    pub(super) whole: &'a dyn Bytes,
    pub(super) range: Range<usize>,
}

impl Bytes for Part<'_> {
    fn length(&self) -> io::Result<usize> {
        Ok(self.range.len())
    }

    fn read_at(&self, at: usize, buffer: &mut [u8]) -> io::Result<()> {
        self.whole.read_at(self.range.start + at, buffer)
    }
}

/// A part that is small enough to be held.
pub(super) fn read(bytes: &dyn Bytes, range: Range<usize>) -> io::Result<Vec<u8>> {
    let mut part = vec![0; range.len()];
    bytes.read_at(range.start, &mut part)?;
    Ok(part)
}

/// Hashes a part, piece by piece.
pub(super) fn update(
    hash: &mut impl sha2::Digest,
    bytes: &dyn Bytes,
    range: Range<usize>,
) -> io::Result<()> {
    let mut buffer = vec![0; range.len().min(PIECE_BYTES)];
    for start in range.clone().step_by(PIECE_BYTES) {
        let piece = &mut buffer[..(range.end - start).min(PIECE_BYTES)];
        bytes.read_at(start, piece)?;
        hash.update(piece);
    }
    Ok(())
}

/// The headers of a PE image.
pub(super) fn layout(bytes: &dyn Bytes) -> io::Result<Result<pe::Layout, PeError>> {
    let length = bytes.length()?;
    let head = read(bytes, 0..length.min(pe::HEAD_BYTES))?;
    Ok(pe::Layout::parse(&head, length))
}

/// The whole by its SHA-256.
pub(super) fn sha256(bytes: &dyn Bytes) -> io::Result<Digest<32>> {
    let mut hash = sha2::Sha256::default();
    update(&mut hash, bytes, 0..bytes.length()?)?;
    Ok(Digest(sha2::Digest::finalize(hash).into()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// A gigabyte that nobody holds; it complains of large reads.
    #[derive(Debug)]
    struct Endless;

    impl Bytes for Endless {
        fn length(&self) -> io::Result<usize> {
            Ok(64 << 20)
        }

        fn read_at(&self, at: usize, buffer: &mut [u8]) -> io::Result<()> {
            assert!(buffer.len() <= PIECE_BYTES && at + buffer.len() <= 64 << 20);
            buffer.fill(0);
            Ok(())
        }
    }

    #[test]
    fn a_large_file_is_read_in_pieces_of_one_size() {
        let expected = Digest::sha256(&vec![0; 64 << 20]);
        assert_eq!(sha256(&Endless).unwrap(), expected);
    }

    #[test]
    fn parts_and_other_beginnings_are_what_they_say() {
        let bytes = &b"0123456789"[..];
        let part = Part {
            whole: &bytes,
            range: 2..8,
        };
        assert_eq!(read(&part, 1..4).unwrap(), b"345");
        let other = WithHead {
            head: b"ab".to_vec(),
            rest: &bytes,
        };
        assert_eq!(read(&other, 0..4).unwrap(), b"ab23");
        assert_eq!(read(&other, 1..3).unwrap(), b"b2");
        assert_eq!(read(&other, 2..4).unwrap(), b"23");
        let beyond = read(&bytes, 8..12).unwrap_err();
        assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
    }
}
