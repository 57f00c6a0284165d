//! The packed root, read back, against the manifest that lists it: every path of the one stands in
//! the other, as the same thing. Only then may the manifest speak for the root.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::files::digest_of_file;
use crate::manifest::{Kind, Manifest};

/// Why a manifest does not speak for a root.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// A file or folder cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A path is not what is listed.
    #[error("{path} in root.erofs is not what manifest.json lists: {deviation}")]
    Differs {
        /// Path in the root.
        path: String,
        /// How it deviates.
        deviation: Deviation,
    },
}

/// How a path deviates from what is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Deviation {
    /// It is listed, and not there.
    #[error("it is not there")]
    Missing,
    /// It is there, and not listed.
    #[error("it is not listed")]
    Unlisted,
    /// Another kind of thing, a device perhaps.
    #[error("another kind of thing stands there")]
    Kind,
    /// Other permissions.
    #[error("its mode is {0:04o}")]
    Mode(u32),
    /// It belongs to somebody else than the root folder.
    #[error("it belongs to {0}:{1}")]
    Owner(u32, u32),
    /// Another target of a link.
    #[error("it leads elsewhere")]
    Target,
    /// Other contents.
    #[error("its contents are others")]
    Contents,
}

/// Refuses a root, read back into the folder `root`, that is not exactly what `manifest` lists. No
/// link is followed. The first path in the order of names is told.
pub fn check(manifest: &Manifest, root: &Path) -> Result<(), RootError> {
    let owner = root.symlink_metadata().map_err(unreadable(root))?;
    let owner = (owner.uid(), owner.gid());
    let mut found = BTreeSet::new();
    let mut deviating = Vec::new();
    let mut open = vec![(String::new(), root.to_owned())];
    while let Some((above, folder)) = open.pop() {
        for entry in fs::read_dir(&folder).map_err(unreadable(&folder))? {
            let entry = entry.map_err(unreadable(&folder))?;
            let (place, name) = (entry.path(), entry.file_name());
            let metadata = entry.metadata().map_err(unreadable(&place))?;
            // What is not UTF-8 cannot be listed.
            let path = format!("{above}/{}", name.to_string_lossy());
            let listed = manifest
                .files
                .get(&path)
                .filter(|_| name.to_str().is_some());
            let deviation = match listed {
                None => Some(Deviation::Unlisted),
                Some(file) => deviation(&file.kind, &place, &metadata, owner)?,
            };
            deviating.extend(deviation.map(|deviation| (path.clone(), deviation)));
            if metadata.is_dir() {
                open.push((path.clone(), place));
            }
            found.insert(path);
        }
    }
    let listed = manifest.files.keys().filter(|path| !found.contains(*path));
    deviating.extend(listed.map(|path| (path.clone(), Deviation::Missing)));
    deviating.sort_by(|one, other| one.0.cmp(&other.0));
    match deviating.into_iter().next() {
        Some((path, deviation)) => Err(RootError::Differs { path, deviation }),
        None => Ok(()),
    }
}

fn deviation(
    listed: &Kind,
    place: &Path,
    metadata: &Metadata,
    owner: (u32, u32),
) -> Result<Option<Deviation>, RootError> {
    let is_owned = (metadata.uid(), metadata.gid()) == owner;
    let mode = metadata.mode() & 0o7777;
    let of_mode = |listed: u32| (mode != listed).then_some(Deviation::Mode(mode));
    let found = match listed {
        Kind::Folder { mode } if metadata.is_dir() => of_mode(*mode),
        Kind::Link { target } if metadata.is_symlink() => {
            let found = fs::read_link(place).map_err(unreadable(place))?;
            (found != Path::new(target)).then_some(Deviation::Target)
        }
        Kind::File { mode, sha256 } if metadata.is_file() => match of_mode(*mode) {
            None => {
                let found = digest_of_file(place).map_err(unreadable(place))?;
                (found != *sha256).then_some(Deviation::Contents)
            }
            deviation => deviation,
        },
        _ => Some(Deviation::Kind),
    };
    let foreign = (!is_owned).then_some(Deviation::Owner(metadata.uid(), metadata.gid()));
    Ok(found.or(foreign))
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> RootError {
    let path = path.to_owned();
    move |source| RootError::Read { path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use attest::Digest;

    use super::*;

    fn root() -> (tempfile::TempDir, Manifest) {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("usr")).unwrap();
        fs::write(at("usr/file"), "text").unwrap();
        symlink("usr", at("bin")).unwrap();
        let mode = |name: &str, mode| {
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        mode("usr", 0o755);
        mode("usr/file", 0o644);
        let sum = Digest::<32>::sha256(b"text");
        let text = format!(
            r#"{{"packages": [], "files": [{{"path": "/bin", "from": "x", "link": "usr"}},
            {{"path": "/usr", "from": "x", "mode": "0755"}},
            {{"path": "/usr/file", "from": "x", "mode": "0644", "sha256": "{sum}"}}]}}"#
        );
        (folder, Manifest::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn a_root_that_is_not_listed_exactly_is_refused() {
        let refused = |change: fn(&Path), expected: (&str, Deviation)| {
            let (folder, manifest) = root();
            check(&manifest, folder.path()).unwrap();
            change(folder.path());
            let error = check(&manifest, folder.path()).unwrap_err();
            let RootError::Differs { path, deviation } = error else {
                panic!("{error:?}");
            };
            assert_eq!((&*path, deviation), expected);
        };
        refused(
            |root| fs::write(root.join("usr/more"), "").unwrap(),
            ("/usr/more", Deviation::Unlisted),
        );
        refused(
            |root| fs::remove_file(root.join("bin")).unwrap(),
            ("/bin", Deviation::Missing),
        );
        refused(
            |root| fs::write(root.join("usr/file"), "tixt").unwrap(),
            ("/usr/file", Deviation::Contents),
        );
        refused(
            |root| {
                let mode = fs::Permissions::from_mode(0o4755);
                fs::set_permissions(root.join("usr/file"), mode).unwrap();
            },
            ("/usr/file", Deviation::Mode(0o4755)),
        );
        refused(
            |root| {
                fs::remove_file(root.join("bin")).unwrap();
                symlink("/usr", root.join("bin")).unwrap();
            },
            ("/bin", Deviation::Target),
        );
        // Whatever a link leads to: it is no folder and no file.
        refused(
            |root| {
                fs::rename(root.join("usr/file"), root.join("file")).unwrap();
                symlink("../file", root.join("usr/file")).unwrap();
            },
            ("/file", Deviation::Unlisted),
        );
        refused(
            |root| {
                fs::remove_file(root.join("usr/file")).unwrap();
                let pipe = std::process::Command::new("mkfifo")
                    .arg(root.join("usr/file"))
                    .status();
                assert!(pipe.unwrap().success());
            },
            ("/usr/file", Deviation::Kind),
        );
        // A name that is no text is not taken for a listed one.
        refused(
            |root| {
                use std::os::unix::ffi::OsStrExt as _;
                let name = std::ffi::OsStr::from_bytes(b"\xff");
                fs::write(root.join(name), "").unwrap();
            },
            ("/\u{fffd}", Deviation::Unlisted),
        );
    }
}
