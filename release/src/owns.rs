//! Which package or source file a path of the image comes from.
//!
//! The root's paths stand in the image's manifest. The initrd's are read out of it; it has a fixed
//! form, which `image/initrd.py` writes: our init, empty folders, and the modules of
//! `image/initrd.modules`. A version is that of the image's own manifest or bill, and of the lock
//! where the image has no bill.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use attest::Digest;

use serde_json::Value;

use crate::bill;
use crate::differ::tree::source_of;
use crate::differ::{archive, initrd as packed};
use crate::inputs::{self, InputsError};
use crate::manifest::{Manifest, ManifestError};
use crate::scratch::Scratch;
use crate::tools::Tools;

/// How the kernel's package is named.
const KERNEL: &str = "linux-image-";
/// The package of the UKI's stub.
const STUB: &str = "systemd-boot-efi";
/// Who owns a path of the initrd that no source of ours brings there.
pub const UNKNOWN: &str = "unknown: no source brings it";

/// Where a path stands and who brought it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// `root`, `initrd` or `artifact`.
    pub place: &'static str,
    /// The path itself; another one than was asked for where a folder on it is a link.
    pub path: String,
    /// What stands there, if the manifest says it.
    pub what: Option<String>,
    /// Package, source file or program.
    pub owner: String,
    /// Version of the package.
    pub version: Option<String>,
    /// Hash of the package's file, as the lock has it.
    pub sha256: Option<Digest<32>>,
}

/// Why a path has no owner.
#[derive(Debug, thiserror::Error)]
pub enum OwnsError {
    /// There is no such path.
    #[error("the image has no {place} path {path}")]
    Absent {
        /// `root` or `initrd`.
        place: &'static str,
        /// What was asked for.
        path: String,
    },
    /// The manifest cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The locks cannot be used.
    #[error(transparent)]
    Inputs(#[from] InputsError),
    /// The list of modules cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The list.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Finds the owner of a path: `/usr/bin/init` in the root, `initrd:/init` in the initrd, or the
/// name of a file in the image's folder. `source` holds the sources that the image was built from.
pub fn find(image: &Path, source: &Path, path: &str) -> Result<Owned, OwnsError> {
    if let Some(path) = path.strip_prefix("initrd:") {
        return in_initrd(image, source, path.trim_matches('/'));
    }
    if let Some(owner) = artifact(path).filter(|_| image.join(path).is_file()) {
        return named("artifact", path, owner, (image, source));
    }
    let manifest = Manifest::read(image)?;
    let found = manifest.resolve(path).ok_or_else(|| OwnsError::Absent {
        place: "root",
        path: path.to_owned(),
    })?;
    let file = &manifest.files[&found];
    let package = manifest.package(&file.from);
    Ok(Owned {
        place: "root",
        what: Some(file.kind.to_string()),
        owner: match package {
            Some(package) => package.name.clone(),
            None => source_of(&file.from, &found),
        },
        version: package.map(|package| package.version.clone()),
        sha256: package.map(|package| package.sha256),
        path: found,
    })
}

fn in_initrd(image: &Path, source: &Path, path: &str) -> Result<Owned, OwnsError> {
    let initrd_path = image.join("initrd");
    let bytes = fs::read(&initrd_path).map_err(|source| ManifestError::Read {
        path: initrd_path.clone(),
        source,
    })?;
    let unusable = |source| OwnsError::Read {
        path: initrd_path.clone(),
        source,
    };
    let bytes = unpack(bytes, source).map_err(unusable)?;
    let entries = archive::entries(&bytes).map_err(|error| unusable(io::Error::other(error)))?;
    if !entries.iter().any(|entry| entry.path == path) {
        return Err(OwnsError::Absent {
            place: "initrd",
            path: path.to_owned(),
        });
    }
    let mut owner = initrd(path).unwrap_or(UNKNOWN);
    if owner == KERNEL && !is_listed(source, path)? {
        owner = UNKNOWN;
    }
    named("initrd", path, owner, (image, source))
}

/// An initrd as its archives; a compressed one takes the locked tools.
fn unpack(initrd: Vec<u8>, source: &Path) -> io::Result<Vec<u8>> {
    if !initrd.starts_with(packed::ZSTD) {
        return Ok(initrd);
    }
    let tools = Tools::of(source).map_err(io::Error::other)?;
    let scratch = Scratch::new()?;
    packed::unpack(&initrd, &tools, scratch.path(), "initrd").map_err(io::Error::other)
}

/// Whether the sources take a module out of the kernel's package.
fn is_listed(source: &Path, path: &str) -> Result<bool, OwnsError> {
    let list = source.join("image/initrd.modules");
    let text = fs::read_to_string(&list);
    let text = text.map_err(|source| OwnsError::Read { path: list, source })?;
    let mut lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or(line).trim());
    let name = path.strip_prefix("modules/");
    Ok(lines.any(|line| line.trim_start_matches('?').rsplit('/').next() == name))
}

/// An owner by its name; a package with what the image's bill or the lock says of it.
fn named(
    place: &'static str,
    path: &str,
    owner: &str,
    (image, source): (&Path, &Path),
) -> Result<Owned, OwnsError> {
    let package = match [KERNEL, STUB].contains(&owner) {
        true => match in_bill(image, owner) {
            Some(package) => Some(package),
            None => locked(source, owner)?,
        },
        false => None,
    };
    let (name, version, sha256) = match package {
        Some((name, version, sha256)) => (name, Some(version), sha256),
        None => (owner.to_owned(), None, None),
    };
    Ok(Owned {
        place,
        path: path.to_owned(),
        what: None,
        owner: name,
        version,
        sha256,
    })
}

/// Name, version and hash of a package.
type Package = (String, String, Option<Digest<32>>);

/// The package of this kind that an image says it contains, in its bill.
fn in_bill(image: &Path, kind: &str) -> Option<Package> {
    let bill: Value = serde_json::from_slice(&fs::read(image.join(bill::FILE)).ok()?).ok()?;
    let text = |value: &Value, name: &str| Some(value.get(name)?.as_str()?.to_owned());
    let is_inside = |id: &str| {
        let mut relations = bill.get("relationships")?.as_array()?.iter();
        Some(relations.any(|one| {
            let is = |name: &str, value: &str| one.get(name).and_then(Value::as_str) == Some(value);
            is("relationshipType", "CONTAINS") && is("relatedSpdxElement", id)
        }))
    };
    let packages = bill.get("packages")?.as_array()?.iter();
    let mut found = packages.filter_map(|package| {
        let name = text(package, "name").filter(|name| name.starts_with(kind))?;
        is_inside(&text(package, "SPDXID")?)?.then_some(())?;
        let sums = package.get("checksums").and_then(Value::as_array);
        let sums = sums.into_iter().flatten();
        let sha256 = sums
            .filter(|sum| sum.get("algorithm").and_then(Value::as_str) == Some("SHA256"))
            .find_map(|sum| text(sum, "checksumValue")?.parse().ok());
        Some((name, text(package, "versionInfo")?, sha256))
    });
    found.next()
}

/// The package of this kind that the lock has for the image.
fn locked(source: &Path, kind: &str) -> Result<Option<Package>, InputsError> {
    let mut debs = inputs::debs(source)?.into_iter();
    let found = debs
        .find(|deb| deb.name.starts_with(kind) && deb.used_for.iter().any(|set| set == "image"));
    Ok(found.map(|deb| (deb.name, deb.version, deb.sha256.first().copied())))
}

/// An owner as people read it: a package with the version that the lock has.
pub fn in_lock(source: &Path, owner: &str) -> String {
    let is_package = [KERNEL, STUB].contains(&owner);
    match locked(source, owner).ok().flatten().filter(|_| is_package) {
        Some((name, version, _)) => format!("{name} {version}"),
        None => owner.trim_end_matches('-').to_owned(),
    }
}

/// What a file of a built image, or of an assembled folder, is made from.
pub fn artifact(name: &str) -> Option<&'static str> {
    Some(match name {
        "vmlinuz" => KERNEL,
        "stub.efi" => STUB,
        "initrd" => "image/initrd.py, image/initrd.modules",
        "cmdline" => "image/cmdline, image/profiles",
        "profile" => "the profile that was built",
        "os-release" => "image/rootfs/usr/lib/os-release",
        "cloister-agent" => "cloister-agent, compiled from agent/ and Cargo.lock",
        "root.erofs" | "manifest.json" => "image/root.list, image/rootfs, image/stage.py",
        "root.verity" | "root.ref" => "image/repart, mkosi.conf",
        "config.toml" => "the site's configuration",
        "cloister.efi" | "disk.img" => "cloister-release assemble",
        "sbom.spdx.json" => "cloister-release bill",
        "SHA256SUMS" => "the image's build",
        _ => return None,
    })
}

/// What a path of the initrd is made from, whether or not it is there.
pub fn initrd(path: &str) -> Option<&'static str> {
    Some(match path {
        "init" => "verity-init, compiled from verity/ and Cargo.lock",
        "dev" | "proc" | "sys" | "run" | "newroot" | "modules" => "image/initrd.py",
        "modules/order" => "image/initrd.modules",
        "cloister" | "cloister/config.toml" => "the site's configuration",
        _ if path.starts_with("modules/") => KERNEL,
        _ => return None,
    })
}
