//! Two roots, read back out of their file systems: which paths differ, what of each, and who
//! brought it.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{Cause, Difference, MAX_DIFFERENCES, content, first_difference};
use crate::manifest::Manifest;

/// Largest file that is held in memory.
const MAX_BYTES: u64 = 1 << 30;

/// Why two roots are not compared.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}")]
pub struct TreeError {
    /// File or folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Who brought which path, on each side; a side may have no manifest.
#[derive(Debug, Clone, Default)]
pub struct Owners {
    /// The published side's.
    pub theirs: Option<Manifest>,
    /// The rebuilt side's.
    pub ours: Option<Manifest>,
}

/// Every difference of two roots, sorted by path, at most [`MAX_DIFFERENCES`].
pub fn compare(theirs: &Path, ours: &Path, owners: &Owners) -> Result<Vec<Difference>, TreeError> {
    let (left, right) = (paths(theirs)?, paths(ours)?);
    let mut all: Vec<&String> = left.keys().chain(right.keys()).collect();
    all.sort();
    all.dedup();
    let mut differences = Vec::new();
    for path in all {
        if differences.len() == MAX_DIFFERENCES {
            break;
        }
        let found = match (left.get(path), right.get(path)) {
            (Some(one), Some(other)) => {
                let at = |root: &Path| root.join(path.trim_start_matches('/'));
                entry((&at(theirs), one), (&at(ours), other))?
            }
            (one, other) => {
                let side = |there: bool| if there { "there" } else { "not there" };
                let (one, other) = (side(one.is_some()), side(other.is_some()));
                Some(Difference::new("path", one, other, Cause::Missing))
            }
        };
        differences.extend(found.map(|found| owners.judge(path, found.within(path))));
    }
    Ok(differences)
}

impl Owners {
    /// The differences that two manifests alone show, where no root can be read back.
    pub fn compare(&self) -> Vec<Difference> {
        let (Some(theirs), Some(ours)) = (&self.theirs, &self.ours) else {
            return Vec::new();
        };
        let mut paths: Vec<&String> = theirs.files.keys().chain(ours.files.keys()).collect();
        paths.sort();
        paths.dedup();
        let differing = paths.into_iter().filter_map(|path| {
            let side = |manifest: &Manifest| manifest.files.get(path).map(|file| file.kind.clone());
            let (left, right) = (side(theirs), side(ours));
            if left == right {
                return None;
            }
            let (place, cause) = match (&left, &right) {
                (Some(left), Some(right)) => left.difference(right),
                _ => ("path", Cause::Missing),
            };
            let shown = |kind: Option<crate::manifest::Kind>| match kind {
                Some(kind) => kind.to_string(),
                None => "not there".to_owned(),
            };
            let found = Difference::new(place, shown(left), shown(right), cause).within(path);
            Some(self.judge(path, found))
        });
        differing.take(MAX_DIFFERENCES).collect()
    }

    /// Names the owner of what differs at a path; a package of another version is the cause.
    pub fn judge(&self, path: &str, mut found: Difference) -> Difference {
        let of = |manifest: &Option<Manifest>| {
            let manifest = manifest.as_ref()?;
            let from = manifest.files.get(path)?.from.clone();
            let package = manifest.package(&from);
            let named = package.map(|package| format!("{from} {}", package.version));
            let sha256 = package.map(|package| package.sha256);
            Some((named.unwrap_or_else(|| source_of(&from, path)), sha256))
        };
        match (of(&self.theirs), of(&self.ours)) {
            (Some((theirs, left)), Some((ours, right))) => {
                if theirs != ours {
                    found.cause = Cause::Version;
                    found.owner = Some(format!("{theirs}, rebuilt with {ours}"));
                } else {
                    if left != right {
                        found.cause = Cause::Version;
                    }
                    found.owner = Some(theirs);
                }
            }
            (one, other) => found.owner = one.or(other).map(|(name, _)| name),
        }
        found
    }
}

/// The source file behind what no package brought.
pub fn source_of(from: &str, path: &str) -> String {
    match from {
        "image/rootfs" => format!("image/rootfs{path}"),
        "cloister-agent" => "cloister-agent, compiled from agent/ and Cargo.lock".to_owned(),
        _ => from.to_owned(),
    }
}

/// A folder as `/` and every path below it, without following links.
fn paths(root: &Path) -> Result<BTreeMap<String, Metadata>, TreeError> {
    let own = root.symlink_metadata().map_err(failed(root))?;
    let mut found = BTreeMap::from([("/".to_owned(), own)]);
    let mut open = vec![(String::new(), root.to_owned())];
    while let Some((name, folder)) = open.pop() {
        let failed = |source| TreeError {
            path: folder.clone(),
            source,
        };
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let metadata = entry.metadata().map_err(failed)?;
            let name = format!("{name}/{}", entry.file_name().to_string_lossy());
            if metadata.is_dir() {
                open.push((name.clone(), entry.path()));
            }
            found.insert(name, metadata);
        }
    }
    Ok(found)
}

fn entry(
    theirs: (&Path, &Metadata),
    ours: (&Path, &Metadata),
) -> Result<Option<Difference>, TreeError> {
    let ((theirs, left), (ours, right)) = (theirs, ours);
    let kind = |metadata: &Metadata| match metadata.file_type() {
        kind if kind.is_dir() => "folder",
        kind if kind.is_symlink() => "link",
        kind if kind.is_file() => "file",
        kind if kind.is_char_device() => "character device",
        kind if kind.is_block_device() => "block device",
        kind if kind.is_fifo() => "pipe",
        _ => "socket",
    };
    let device = |metadata: &Metadata| {
        let number = metadata.rdev();
        // As Linux packs them: 12 bits and the upper 32, 8 bits and 24.
        let major = ((number >> 8) & 0xfff) | ((number >> 32) & 0xffff_f000);
        let minor = (number & 0xff) | ((number >> 12) & 0xffff_ff00);
        format!("{major}:{minor}")
    };
    let field = |name: &str, left: String, right: String, cause| {
        (left != right).then(|| Difference::new(name, left, right, cause))
    };
    let kinds = (kind(left).to_owned(), kind(right).to_owned());
    let mode = |metadata: &Metadata| format!("{:04o}", metadata.permissions().mode() & 0o7777);
    let owner = |metadata: &Metadata| format!("{}:{}", metadata.uid(), metadata.gid());
    let time = |metadata: &Metadata| format!("{}.{:09} s", metadata.mtime(), metadata.mtime_nsec());
    let header = field("kind", kinds.0, kinds.1, Cause::Content)
        .or_else(|| field("device", device(left), device(right), Cause::Content))
        .or_else(|| field("mode", mode(left), mode(right), Cause::Mode))
        .or_else(|| field("owner", owner(left), owner(right), Cause::Owner));
    if header.is_some() {
        return Ok(header);
    }
    if left.is_symlink() {
        let target = |path: &Path| match fs::read_link(path) {
            Ok(target) => Ok(target.to_string_lossy().into_owned()),
            Err(source) => Err(failed(path)(source)),
        };
        return Ok(field(
            "link",
            target(theirs)?,
            target(ours)?,
            Cause::Content,
        ));
    }
    if left.is_file() {
        let found = match left.len().max(right.len()) > MAX_BYTES {
            true => large(theirs, ours)?,
            false => content(&read(theirs)?, &read(ours)?),
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(field("time", time(left), time(right), Cause::Timestamp))
}

fn read(path: &Path) -> Result<Vec<u8>, TreeError> {
    fs::read(path).map_err(failed(path))
}

/// The first differing byte of two files that do not fit into memory.
fn large(theirs: &Path, ours: &Path) -> Result<Option<Difference>, TreeError> {
    let open = |path: &Path| match File::open(path) {
        Ok(file) => Ok(BufReader::with_capacity(1 << 20, file)),
        Err(source) => Err(failed(path)(source)),
    };
    let (mut left, mut right) = (open(theirs)?, open(ours)?);
    let mut at = 0;
    loop {
        let one = left.fill_buf().map_err(failed(theirs))?;
        let other = right.fill_buf().map_err(failed(ours))?;
        let same = first_difference(one, other);
        if same < one.len().min(other.len()) || one.is_empty() != other.is_empty() {
            let place = format!("byte {}", at + same as u64);
            let shown = |side: &[u8]| match side.get(same) {
                Some(byte) => format!("{byte:02x}"),
                None => "the file ends".to_owned(),
            };
            let (one, other) = (shown(one), shown(other));
            return Ok(Some(Difference::new(place, one, other, Cause::Content)));
        }
        if one.is_empty() {
            return Ok(None);
        }
        left.consume(same);
        right.consume(same);
        at += same as u64;
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> TreeError {
    let path = path.to_owned();
    move |source| TreeError { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_too_large_for_memory_are_compared_piece_by_piece() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        let mut bytes = vec![7; 3 << 20];
        fs::write(&one, &bytes).unwrap();
        fs::write(&other, &bytes).unwrap();
        assert_eq!(large(&one, &other).unwrap(), None);
        bytes[2_500_000] = 8;
        fs::write(&other, &bytes).unwrap();
        let found = large(&one, &other).unwrap().unwrap();
        assert_eq!((&*found.place[0], &*found.ours), ("byte 2500000", "08"));
        fs::write(&other, &bytes[..2_000_000]).unwrap();
        let found = large(&one, &other).unwrap().unwrap();
        assert_eq!(
            (&*found.place[0], &*found.ours),
            ("byte 2000000", "the file ends")
        );
    }
}
