//! The one place where a file becomes memory.

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;

/// A whole file, mapped read-only.
#[derive(Debug)]
pub(crate) struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps a regular file. Anything else (a device, a pipe, a folder) is refused.
    #[allow(unsafe_code)]
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if !path.metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let file = File::open(path)?;
        // A map is justified: weights are larger than memory to spare, and loading must be instant.
        // SAFETY: the bytes behind `&[u8]` must not change or vanish while the map lives. In the
        // appliance the file lies on a read-only erofs over dm-verity, which cannot be written or
        // truncated, and a corrupt block panics the machine. Elsewhere (tests, development) the
        // caller promises to leave the folder alone while the engine runs; every bit pattern is
        // a valid `u8`, and no length or index is ever taken from the map after validation.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { map })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }
}
