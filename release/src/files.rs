//! Files: hashing what need not fit into memory, writing what must never be seen half-written.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use attest::Digest;
use sha2::{Digest as _, Sha256};

/// SHA-256 of a file.
pub(crate) fn digest_of_file(path: &Path) -> io::Result<Digest<32>> {
    digest_of(open(path)?)
}

/// SHA-256 of everything that a reader gives.
pub(crate) fn digest_of(mut reader: impl Read) -> io::Result<Digest<32>> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(Digest(hash.finalize().into())),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// Opens a file. A pipe would be waited for, and a device be read, without end.
pub fn open(path: &Path) -> io::Result<File> {
    let kind = std::fs::metadata(path)?.file_type();
    match kind.is_file() || kind.is_dir() {
        true => File::open(path),
        false => Err(io::Error::other("a pipe or a device, not a file")),
    }
}

/// Reads a file of at most `limit` bytes.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let count = open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    match count as u64 > limit {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(bytes),
    }
}

/// Writes a file that appears whole or not at all.
pub fn write_whole(path: &Path, contents: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let staging = path.with_file_name(format!(".{name}.partial-{}", std::process::id()));
    let write = || {
        let mut file = File::create(&staging)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&staging, path)
    };
    write().inspect_err(|_| {
        // The first error is the one to tell.
        let _ = fs::remove_file(&staging);
    })
}
