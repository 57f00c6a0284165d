//! Which package or source file a path of the image comes from.
//!
//! The root's paths stand in the image's manifest. The initrd has a fixed form, which
//! `image/initrd.py` writes: our init, empty folders, and the modules of `image/initrd.modules`.

use std::io;
use std::path::{Path, PathBuf};

use attest::Digest;

use crate::differ::tree::source_of;
use crate::inputs::{self, InputsError};
use crate::manifest::{Manifest, ManifestError};

/// How the kernel's package is named.
const KERNEL: &str = "linux-image-";
/// The package of the UKI's stub.
const STUB: &str = "systemd-boot-efi";

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
        return in_initrd(source, path.trim_start_matches('/'));
    }
    if let Some(owner) = artifact(path).filter(|_| image.join(path).is_file()) {
        return named("artifact", path, owner, source);
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

fn in_initrd(source: &Path, path: &str) -> Result<Owned, OwnsError> {
    let absent = || OwnsError::Absent {
        place: "initrd",
        path: path.to_owned(),
    };
    let owner = initrd(path).ok_or_else(absent)?;
    if let Some(name) = path
        .strip_prefix("modules/")
        .filter(|name| *name != "order")
    {
        let list = source.join("image/initrd.modules");
        let text = std::fs::read_to_string(&list);
        let text = text.map_err(|source| OwnsError::Read { path: list, source })?;
        let mut listed = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or(line).trim());
        if !listed.any(|line| line.rsplit('/').next() == Some(name)) {
            return Err(absent());
        }
    }
    named("initrd", path, owner, source)
}

/// An owner by its name; a package with what the lock says of it.
fn named(place: &'static str, path: &str, owner: &str, source: &Path) -> Result<Owned, OwnsError> {
    let package = match [KERNEL, STUB].contains(&owner) {
        true => inputs::debs(source)?.into_iter().find(|deb| {
            deb.name.starts_with(owner) && deb.used_for.iter().any(|set| set == "image")
        }),
        false => None,
    };
    Ok(Owned {
        place,
        path: path.to_owned(),
        what: None,
        owner: match &package {
            Some(package) => package.name.clone(),
            None => owner.to_owned(),
        },
        version: package.as_ref().map(|package| package.version.clone()),
        sha256: package.and_then(|package| package.sha256.first().copied()),
    })
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
