//! What a machine boots: files that are hashed as they are read, and any kernel's command line.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use attest::Digest;
use sha2::{Digest as _, Sha256, Sha384};

/// Most bytes of a command line that the kernel takes on x86-64.
pub const MAX_COMMAND_LINE_BYTES: usize = 2047;

/// A file by its hashes. It is never held in memory as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Artifact {
    /// Length.
    pub bytes: u64,
    /// SHA-256.
    pub sha256: Digest<32>,
    /// SHA-384.
    pub sha384: Digest<48>,
}

/// The command line of any kernel: ASCII without a NUL, short enough for the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandText(String);

/// Why a text is no command line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandTextError {
    /// It would end at the NUL.
    #[error("the command line has a NUL at byte {0}: the kernel would read no further")]
    Nul(usize),
    /// Firmware and kernel would spell it differently.
    #[error("the command line has a byte at {0} that is not ASCII")]
    NotAscii(usize),
    /// The kernel would cut it.
    #[error("the command line has {0} bytes; the kernel takes {MAX_COMMAND_LINE_BYTES}")]
    TooLong(usize),
}

impl Artifact {
    /// Hashes everything that a reader gives.
    pub fn read(mut reader: impl Read) -> io::Result<Self> {
        let (mut sha256, mut sha384) = (Sha256::new(), Sha384::new());
        let mut buffer = vec![0; 1 << 18];
        let mut bytes = 0;
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    sha256.update(&buffer[..count]);
                    sha384.update(&buffer[..count]);
                    bytes += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            bytes,
            sha256: Digest(sha256.finalize().into()),
            sha384: Digest(sha384.finalize().into()),
        })
    }

    /// Hashes bytes that are in memory.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.len() as u64,
            sha256: Digest::sha256(bytes),
            sha384: Digest::sha384(bytes),
        }
    }
}

impl CommandText {
    /// As it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As QEMU hands it over: with a NUL.
    #[must_use]
    pub fn with_nul(&self) -> Vec<u8> {
        [self.0.as_bytes(), &[0]].concat()
    }

    /// As UEFI hands it over: UTF-16 with a NUL, after `suffix` was appended.
    #[must_use]
    pub fn to_load_options(&self, suffix: &str) -> Vec<u8> {
        let units = self.0.encode_utf16().chain(suffix.encode_utf16());
        units.chain([0]).flat_map(u16::to_le_bytes).collect()
    }
}

impl FromStr for CommandText {
    type Err = CommandTextError;

    fn from_str(text: &str) -> Result<Self, CommandTextError> {
        if let Some(at) = text.bytes().position(|byte| byte == 0) {
            return Err(CommandTextError::Nul(at));
        }
        if let Some(at) = text.bytes().position(|byte| !byte.is_ascii()) {
            return Err(CommandTextError::NotAscii(at));
        }
        match text.len() > MAX_COMMAND_LINE_BYTES {
            true => Err(CommandTextError::TooLong(text.len())),
            false => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for CommandText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_that_the_kernel_would_not_see_whole_is_refused() {
        let parse = |text: &str| text.parse::<CommandText>();
        assert_eq!(parse("a\0b"), Err(CommandTextError::Nul(1)));
        assert_eq!(parse("gr\u{fc}n"), Err(CommandTextError::NotAscii(2)));
        let longest = "a".repeat(MAX_COMMAND_LINE_BYTES);
        assert!(parse(&longest).is_ok());
        assert_eq!(
            parse(&(longest + "a")),
            Err(CommandTextError::TooLong(2048))
        );
    }

    /// A file of any size is read in pieces of one size.
    #[test]
    fn memory_does_not_grow_with_a_file() {
        struct Endless(u64);
        impl Read for Endless {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                assert!(buffer.len() <= 1 << 18);
                let count = buffer.len().min(self.0.try_into().unwrap_or(usize::MAX));
                buffer[..count].fill(0);
                self.0 -= count as u64;
                Ok(count)
            }
        }
        let artifact = Artifact::read(Endless(3 << 20));
        assert!(artifact.is_ok_and(|artifact| artifact.bytes == 3 << 20));
    }
}
