//! What stands in an image's root: every path, its mode and hash, and who brought it.
//!
//! ```text
//! { "packages": [ { "name", "version", "sha256" } … ],
//!   "files":    [ { "path", "from", "mode", "sha256" }       a file
//!                 { "path", "from", "mode" }                 a folder
//!                 { "path", "from", "link" } … ] }           a symbolic link
//! ```
//!
//! The image's build writes `manifest.json` and checks the packed root against it.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use attest::Digest;
use serde_json::Value;

use crate::differ::Cause;

/// Name of the file in an image's folder.
pub const FILE: &str = "manifest.json";
/// Largest manifest that is read.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;
/// Most links that a path is followed through.
const MAX_LINKS: usize = 16;

/// Every path of a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The packages that brought something.
    pub packages: Vec<Package>,
    /// Paths, each beginning with a slash.
    pub files: BTreeMap<String, File>,
}

/// A package that brought something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Hash of the package's file.
    pub sha256: Digest<32>,
}

/// One path of a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Package or source that brought it.
    pub from: String,
    /// What stands there.
    pub kind: Kind,
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder {
        /// Permissions.
        mode: u32,
    },
    /// A regular file.
    File {
        /// Permissions.
        mode: u32,
        /// Hash of its contents.
        sha256: Digest<32>,
    },
    /// A symbolic link.
    Link {
        /// Where it leads.
        target: String,
    },
}

/// Why there is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Larger than any image's.
    #[error("{path} is larger than {MAX_MANIFEST_BYTES} bytes, which no manifest is")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Not a manifest.
    #[error("{path} is no manifest of an image: {fault}")]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: ManifestFault,
    },
}

/// What is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestFault {
    /// Not JSON.
    #[error("not JSON (line {line}, column {column})")]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column.
        column: usize,
    },
    /// A list is missing.
    #[error("it has no list {0:?}")]
    List(&'static str),
    /// An entry of a list is malformed.
    #[error("entry {index} of {list:?} is malformed")]
    Entry {
        /// The list.
        list: &'static str,
        /// Number of the entry, from 0.
        index: usize,
    },
    /// A path occurs twice.
    #[error("{0} is listed twice")]
    Twice(String),
}

impl Manifest {
    /// Reads the manifest in an image's folder.
    pub fn read(image: &Path) -> Result<Self, ManifestError> {
        Self::read_file(image.join(FILE))
    }

    /// Reads a manifest under whatever name it was published.
    pub fn read_file(path: PathBuf) -> Result<Self, ManifestError> {
        let unreadable = |source| ManifestError::Read {
            path: path.clone(),
            source,
        };
        if path.metadata().map_err(unreadable)?.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge { path });
        }
        let bytes = std::fs::read(&path).map_err(unreadable)?;
        Self::parse(&bytes).map_err(|fault| ManifestError::Form { path, fault })
    }

    /// Reads a manifest.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestFault> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| ManifestFault::Json {
            line: error.line(),
            column: error.column(),
        })?;
        let list = |name: &'static str| {
            let list = value.get(name).and_then(Value::as_array);
            list.ok_or(ManifestFault::List(name))
        };
        let malformed = |list, index| ManifestFault::Entry { list, index };
        let mut packages = Vec::new();
        for (index, entry) in list("packages")?.iter().enumerate() {
            packages.push(package(entry).ok_or(malformed("packages", index))?);
        }
        let mut files = BTreeMap::new();
        for (index, entry) in list("files")?.iter().enumerate() {
            let (path, file) = file(entry).ok_or(malformed("files", index))?;
            if files.insert(path.clone(), file).is_some() {
                return Err(ManifestFault::Twice(path));
            }
        }
        Ok(Self { packages, files })
    }

    /// A package by its name.
    pub fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }

    /// The path that a path leads to, through links to folders: `/bin/init` is `/usr/bin/init`.
    /// The last part is not followed: a link is a path of its own.
    pub fn resolve(&self, path: &str) -> Option<String> {
        let mut path = normal(path);
        for _ in 0..MAX_LINKS {
            if self.files.contains_key(&path) {
                return Some(path);
            }
            let (folder, target, rest) = self.first_link(&path)?;
            path = normal(&match target.starts_with('/') {
                true => format!("{target}/{rest}"),
                false => format!("{}/{target}/{rest}", parent(&folder)),
            });
        }
        None
    }

    /// The first folder on a path that is a link: it, its target, and what follows.
    fn first_link(&self, path: &str) -> Option<(String, &str, String)> {
        let slashes = path.match_indices('/').skip(1);
        let mut found = slashes.filter_map(|(at, _)| {
            let (folder, rest) = path.split_at(at);
            match &self.files.get(folder)?.kind {
                Kind::Link { target } => Some((folder.to_owned(), &target[..], rest.to_owned())),
                _ => None,
            }
        });
        found.next()
    }
}

impl Kind {
    /// What of two things at one path differs, and why, most likely.
    pub fn difference(&self, other: &Self) -> (&'static str, Cause) {
        match (self, other) {
            (
                Self::File { mode, .. } | Self::Folder { mode },
                Self::File { mode: other, .. } | Self::Folder { mode: other },
            ) if mode != other => ("mode", Cause::Mode),
            (Self::Link { .. }, Self::Link { .. }) => ("link", Cause::Content),
            (Self::File { .. }, Self::File { .. }) => ("contents", Cause::Content),
            _ => ("kind", Cause::Content),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder { mode } => write!(f, "folder {mode:04o}"),
            Self::File { mode, sha256 } => write!(f, "{mode:04o} sha256:{sha256}"),
            Self::Link { target } => write!(f, "link to {target}"),
        }
    }
}

fn package(entry: &Value) -> Option<Package> {
    let text = |key| entry.get(key).and_then(Value::as_str);
    Some(Package {
        name: text("name")?.to_owned(),
        version: text("version")?.to_owned(),
        sha256: text("sha256")?.parse().ok()?,
    })
}

fn file(entry: &Value) -> Option<(String, File)> {
    let text = |key| entry.get(key).and_then(Value::as_str);
    let mode = || {
        let digits = text("mode")?;
        let octal = !digits.is_empty() && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
        u32::from_str_radix(digits, 8).ok().filter(|_| octal)
    };
    let kind = match (text("link"), text("sha256")) {
        (Some(target), None) => Kind::Link {
            target: target.to_owned(),
        },
        (None, Some(sha256)) => Kind::File {
            mode: mode()?,
            sha256: sha256.parse().ok()?,
        },
        (None, None) => Kind::Folder { mode: mode()? },
        (Some(_), Some(_)) => return None,
    };
    let path = text("path").filter(|path| path.len() > 1 && normal(path) == **path)?;
    let from = text("from")?.to_owned();
    Some((path.to_owned(), File { from, kind }))
}

/// A path from the root, without `.`, `..` and doubled slashes.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = r#"{"packages": [{"name": "udev", "version": "257", "sha256": "HASH"}],
        "files": [{"path": "/bin", "from": "base-files", "link": "usr/bin"},
            {"path": "/usr", "from": "base-files", "mode": "0755"},
            {"path": "/usr/bin", "from": "base-files", "mode": "0755"},
            {"path": "/usr/bin/udevadm", "from": "udev", "mode": "0755", "sha256": "HASH"},
            {"path": "/loop", "from": "x", "link": "/loop/loop"}]}"#;

    fn text() -> String {
        TEXT.replace("HASH", &"0f".repeat(32))
    }

    #[test]
    fn paths_are_found_through_links() {
        let manifest = Manifest::parse(text().as_bytes()).unwrap();
        assert_eq!(manifest.package("udev").unwrap().version, "257");
        let found = |path| manifest.resolve(path);
        assert_eq!(found("/bin").unwrap(), "/bin");
        assert_eq!(found("bin//udevadm").unwrap(), "/usr/bin/udevadm");
        assert_eq!(found("/bin/../bin/udevadm").unwrap(), "/usr/bin/udevadm");
        assert_eq!(found("/bin/sh"), None);
        assert_eq!(found("/loop/x"), None);
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let refused = |from: &str, to: &str| {
            let changed = text().replacen(from, to, 1);
            assert_ne!(changed, text());
            Manifest::parse(changed.as_bytes()).unwrap_err()
        };
        let files = |index| ManifestFault::Entry {
            list: "files",
            index,
        };
        assert_eq!(refused("\"files\"", "\"f\""), ManifestFault::List("files"));
        assert_eq!(refused("\"0755\"", "\"+755\""), files(1));
        assert_eq!(refused("\"/usr\"", "\"/usr/\""), files(1));
        assert_eq!(refused("\"/usr\"", "\"../usr\""), files(1));
        let twice = ManifestFault::Twice("/usr/bin".to_owned());
        assert_eq!(refused("\"/usr\"", "\"/usr/bin\""), twice);
        assert!(matches!(refused("{", "["), ManifestFault::Json { .. }));
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_read_or_refused(at in 0usize..600, byte: u8) {
            let mut bytes = text().into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(manifest) = Manifest::parse(&bytes) {
                let _ = manifest.resolve("/bin/udevadm");
            }
        }
    }
}
