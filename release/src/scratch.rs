//! Folders for what is taken apart. What comes out of a foreign file system may hold programs that
//! take on their owner's rights, and devices: nobody else may reach it, and none of it is kept.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A folder of ours alone, under a name that cannot be foreseen; it goes when this goes.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A folder in the one for temporary files (`TMPDIR`).
    pub fn new() -> io::Result<Self> {
        Self::within(&std::env::temp_dir())
    }

    /// A folder in `folder`.
    pub fn within(folder: &Path) -> io::Result<Self> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let name = format!("cloister-scratch-{}", hex::encode(random));
        let path = std::path::absolute(folder)?.join(name);
        // Not recursive: what stands there already is somebody else's, and an error.
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if fs::remove_dir_all(&self.0).is_err() {
            open(&self.0);
            // There is nobody left to tell.
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Lets us empty folders whose modes, as they were unpacked, forbid it.
fn open(folder: &Path) {
    // Whatever fails here shows when the folder is removed.
    let _ = fs::set_permissions(folder, Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_reaches_a_scratch_folder_and_nothing_of_it_is_kept() {
        let above = tempfile::tempdir().unwrap();
        let (one, other) = (Scratch::within(above.path()), Scratch::within(above.path()));
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_ne!(one.path(), other.path());
        let mode = one.path().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
        let shut = one.path().join("root/shut");
        fs::create_dir_all(&shut).unwrap();
        fs::write(shut.join("file"), "").unwrap();
        fs::set_permissions(&shut, Permissions::from_mode(0o500)).unwrap();
        fs::set_permissions(one.path().join("root"), Permissions::from_mode(0o000)).unwrap();
        drop((one, other));
        assert_eq!(above.path().read_dir().unwrap().count(), 0);
    }
}
