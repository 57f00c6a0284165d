//! Extending a runtime register of a TDX machine (RTMR), by the kernel's ABI
//! (`Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest`, Linux 6.16 and later).
//!
//! ```text
//! …/tdx_guest/measurements/rtmr3:sha384   read: the value, 48 bytes
//!                                         write 48 bytes: value = SHA-384(value ‖ bytes)
//! ```
//!
//! Nothing in the agent calls this: the kernel of the image has no such file, and a release states
//! that RTMR3 is zero. `docs/limits.md` says so.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;

use sha2::{Digest as _, Sha384};

/// Where the kernel shows the register that is left to a machine's own programs.
pub const RTMR3: &str = "/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384";

/// Bytes of a register, and of what extends it.
pub const REGISTER_BYTES: usize = 48;

/// Why a register was not extended, or perhaps not once.
#[derive(Debug, thiserror::Error)]
pub enum RtmrError {
    /// The kernel shows no such register.
    #[error("the kernel shows no register to extend")]
    Absent,
    /// It cannot be read or written.
    #[error("the register cannot be used")]
    Access(#[from] io::Error),
    /// It has another length than a register.
    #[error("the register has {0} bytes, {REGISTER_BYTES} expected")]
    Length(usize),
    /// Its value is not what one extension makes of the value before: something else extended it
    /// as well, or nothing did.
    #[error("the register does not hold what extending it once gives")]
    Value,
}

/// A register, or what stands in for it.
pub trait Register: fmt::Debug {
    /// Its value.
    fn read(&self) -> io::Result<Vec<u8>>;
    /// Extends it, by one write.
    fn write(&self, bytes: &[u8]) -> io::Result<usize>;
}

/// The kernel's file.
#[derive(Debug)]
pub struct KernelRegister(pub PathBuf);

impl Register for KernelRegister {
    fn read(&self) -> io::Result<Vec<u8>> {
        let mut value = Vec::new();
        let limit = REGISTER_BYTES as u64 + 1;
        File::open(&self.0)?.take(limit).read_to_end(&mut value)?;
        Ok(value)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        OpenOptions::new().write(true).open(&self.0)?.write(bytes)
    }
}

/// Extends `register` with `digest`; gives its new value.
pub fn extend(
    register: &dyn Register,
    digest: &[u8; REGISTER_BYTES],
) -> Result<[u8; REGISTER_BYTES], RtmrError> {
    let before = value(register)?;
    let written = register.write(digest).map_err(absent)?;
    if written != REGISTER_BYTES {
        return Err(RtmrError::Length(written));
    }
    let after = value(register)?;
    let hash = Sha384::new().chain_update(before).chain_update(digest);
    match hash.finalize()[..] == after {
        true => Ok(after),
        false => Err(RtmrError::Value),
    }
}

fn value(register: &dyn Register) -> Result<[u8; REGISTER_BYTES], RtmrError> {
    let found = register.read().map_err(absent)?;
    let length = found.len();
    found.try_into().map_err(|_| RtmrError::Length(length))
}

fn absent(error: io::Error) -> RtmrError {
    match error.kind() {
        io::ErrorKind::NotFound => RtmrError::Absent,
        _ => RtmrError::Access(error),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// What the kernel does.
    #[derive(Debug)]
    struct Kernel {
        value: RefCell<Vec<u8>>,
        /// How often a write extends.
        extensions: usize,
        written: usize,
    }

    impl Kernel {
        fn new() -> Self {
            Self {
                value: RefCell::new(vec![0; REGISTER_BYTES]),
                extensions: 1,
                written: REGISTER_BYTES,
            }
        }
    }

    impl Register for Kernel {
        fn read(&self) -> io::Result<Vec<u8>> {
            Ok(self.value.borrow().clone())
        }

        fn write(&self, bytes: &[u8]) -> io::Result<usize> {
            for _ in 0..self.extensions {
                let hash = Sha384::new().chain_update(&*self.value.borrow());
                let value = hash.chain_update(bytes).finalize().to_vec();
                self.value.replace(value);
            }
            Ok(self.written)
        }
    }

    #[test]
    fn a_register_is_extended_once() {
        let kernel = Kernel::new();
        let first = extend(&kernel, &[1; 48]).unwrap();
        assert_eq!(first[..], Sha384::digest([[0; 48], [1; 48]].concat())[..]);
        let second = extend(&kernel, &[2; 48]).unwrap();
        assert_eq!(second[..], Sha384::digest([first, [2; 48]].concat())[..]);
    }

    #[test]
    fn what_does_not_extend_once_is_an_error() {
        for extensions in [0, 2] {
            let kernel = Kernel {
                extensions,
                ..Kernel::new()
            };
            let error = extend(&kernel, &[1; 48]).unwrap_err();
            assert!(matches!(error, RtmrError::Value), "{error}");
        }
        let short = Kernel {
            written: 47,
            ..Kernel::new()
        };
        let error = extend(&short, &[1; 48]).unwrap_err();
        assert!(matches!(error, RtmrError::Length(47)), "{error}");
        for length in [0, 47, 49] {
            let kernel = Kernel::new();
            kernel.value.replace(vec![0; length]);
            let error = extend(&kernel, &[1; 48]).unwrap_err();
            assert!(matches!(error, RtmrError::Length(found) if found == length));
        }
    }

    #[test]
    fn a_kernel_without_the_register_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let absent = KernelRegister(folder.path().join("rtmr3:sha384"));
        let error = extend(&absent, &[1; 48]).unwrap_err();
        assert!(matches!(error, RtmrError::Absent), "{error}");
        let folder = KernelRegister(folder.path().to_owned());
        let error = extend(&folder, &[1; 48]).unwrap_err();
        assert!(matches!(error, RtmrError::Access(_)), "{error}");
        // A file that keeps what is written is no register.
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0; 48]).unwrap();
        let plain = extend(&KernelRegister(file.path().to_owned()), &[1; 48]).unwrap_err();
        assert!(matches!(plain, RtmrError::Value), "{plain}");
    }
}
