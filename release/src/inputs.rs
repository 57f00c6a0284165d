//! Everything from outside that a build is made of, each named by a hash in the repository.
//!
//! ```text
//! image/deb.lock                      Debian packages: for the image, its build and its tools
//! Cargo.lock                          crates
//! tests/demo-model/requirements.txt   Python packages, to train the demonstration model again
//! image/licences.lock                 by hash: size and licence of those that a lock does not say
//! ```
//!
//! A row without a hash is a refusal: what is not pinned is no input.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use attest::Digest;

mod crates;
mod wheels;

pub use crates::{CrateGraph, LockFault};

/// The lock of Debian packages.
pub const DEB_LOCK: &str = "image/deb.lock";
/// The lock of crates.
pub const CARGO_LOCK: &str = "Cargo.lock";
/// Sizes and licences by hash.
pub const LICENCES: &str = "image/licences.lock";
/// The lock of Python packages.
pub const REQUIREMENTS: &str = "tests/demo-model/requirements.txt";

/// One thing from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// What it is.
    pub kind: Kind,
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Hash of the file; a Python package has one for each of its builds.
    pub sha256: Vec<Digest<32>>,
    /// Where its lock says that it comes from.
    pub origin: String,
    /// Bytes of the file, if known.
    pub bytes: Option<u64>,
    /// Licence, if known.
    pub licence: Option<String>,
    /// What it is used for.
    pub used_for: Vec<String>,
    /// Architecture of a Debian package.
    pub architecture: Option<String>,
}

/// A kind of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A Debian package.
    Deb,
    /// A Rust crate.
    Crate,
    /// A Python package.
    Python,
}

/// Why the inputs cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum InputsError {
    /// A lock cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The lock.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A row is not of the lock's form.
    #[error("{path}, line {line}: {fault}")]
    Row {
        /// The lock.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        fault: LockFault,
    },
}

impl Kind {
    /// The kind's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deb => "deb",
            Self::Crate => "crate",
            Self::Python => "python",
        }
    }
}

impl Input {
    /// The input's package URL.
    pub fn purl(&self) -> String {
        let (name, version) = (escaped(&self.name), escaped(&self.version));
        match self.kind {
            Kind::Deb => {
                let architecture = self.architecture.as_deref().unwrap_or("all");
                format!("pkg:deb/debian/{name}@{version}?arch={architecture}")
            }
            Kind::Crate => format!("pkg:cargo/{name}@{version}"),
            Kind::Python => format!("pkg:pypi/{name}@{version}"),
        }
    }
}

/// Every input that the sources in `source` name, sorted by kind, name and version.
pub fn read(source: &Path) -> Result<Vec<Input>, InputsError> {
    let licences = licences(source)?;
    let mut inputs = debs(source)?;
    inputs.extend(crates(source)?);
    if source.join(REQUIREMENTS).exists() {
        inputs.extend(in_lock(source, REQUIREMENTS, wheels::parse)?);
    }
    for input in &mut inputs {
        let known = input.sha256.iter().find_map(|hash| licences.get(hash));
        if let Some((bytes, licence)) = known {
            input.bytes = input.bytes.or(Some(*bytes));
            input.licence = Some(licence.clone());
        }
    }
    inputs.sort_by(|a, b| {
        let key = |input: &Input| (input.kind, input.name.clone(), input.version.clone());
        key(a).cmp(&key(b))
    });
    Ok(inputs)
}

/// The Debian packages of the lock.
pub fn debs(source: &Path) -> Result<Vec<Input>, InputsError> {
    in_lock(source, DEB_LOCK, parse_debs)
}

/// What vouches for the lock of Debian packages, as it says itself: lines that begin with
/// `# evidence`, one for each signed file of the archive.
pub fn evidence(source: &Path) -> Result<Vec<String>, InputsError> {
    in_lock(source, DEB_LOCK, |text| {
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("# evidence "));
        Ok(lines.map(str::to_owned).collect())
    })
}

/// The crates of the lock, with what is made of them.
fn crates(source: &Path) -> Result<Vec<Input>, InputsError> {
    let graph = crate_graph(source)?;
    let shipped: BTreeSet<(String, String)> = ["cloister-agent", "cloister-verity"]
        .iter()
        .flat_map(|program| graph.reachable(program))
        .collect();
    let mut inputs = graph.inputs();
    for input in &mut inputs {
        let key = (input.name.clone(), input.version.clone());
        let uses = match shipped.contains(&key) {
            true => &["image", "programs"][..],
            false => &["programs"],
        };
        input.used_for = uses.iter().map(|&what| what.to_owned()).collect();
    }
    Ok(inputs)
}

/// The graph of the crates in the lock; what a room needs for its own tests alone is left out.
pub fn crate_graph(source: &Path) -> Result<CrateGraph, InputsError> {
    let mut graph = in_lock(source, CARGO_LOCK, crates::parse)?;
    graph.leave_tests_out(|room| {
        let manifests = manifests_of(source, room);
        let mut texts = manifests.iter().map(std::fs::read_to_string);
        texts.find_map(Result::ok)
    });
    Ok(graph)
}

/// The manifests of our own crates, which say what of the lock a program is made of.
pub fn manifests(source: &Path) -> Result<Vec<PathBuf>, InputsError> {
    let graph = in_lock(source, CARGO_LOCK, crates::parse)?;
    let rooms = graph.rooms().flat_map(|room| manifests_of(source, room));
    Ok(rooms.filter(|path| path.is_file()).collect())
}

/// Where the manifest of a room may lie.
fn manifests_of(source: &Path, room: &str) -> [PathBuf; 2] {
    let rooms = [room.to_owned(), format!("tests/{room}")];
    rooms.map(|room| source.join(room).join("Cargo.toml"))
}

fn in_lock<T>(
    source: &Path,
    name: &str,
    parse: impl FnOnce(&str) -> Result<T, (usize, LockFault)>,
) -> Result<T, InputsError> {
    let path = source.join(name);
    let bytes = std::fs::read(&path).map_err(|source| InputsError::Read {
        path: path.clone(),
        source,
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|_| (1, LockFault::Form));
    let parsed = text.and_then(parse);
    parsed.map_err(|(line, fault)| InputsError::Row { path, line, fault })
}

/// `name version architecture sha256 size pool-path sets`
fn parse_debs(text: &str) -> Result<Vec<Input>, (usize, LockFault)> {
    let rows = text.lines().enumerate();
    let rows = rows.filter(|(_, row)| !row.starts_with('#') && !row.trim().is_empty());
    rows.map(|(index, row)| {
        let words: Vec<&str> = row.split_whitespace().collect();
        let &[name, version, architecture, sha256, bytes, origin, sets] = &words[..] else {
            return Err((index + 1, LockFault::Form));
        };
        let hash = sha256.parse().map_err(|_| (index + 1, LockFault::Hash))?;
        let bytes = bytes.parse().map_err(|_| (index + 1, LockFault::Form))?;
        Ok(Input {
            kind: Kind::Deb,
            name: name.to_owned(),
            version: version.to_owned(),
            sha256: vec![hash],
            origin: origin.to_owned(),
            bytes: Some(bytes),
            licence: None,
            used_for: sets.split(',').map(str::to_owned).collect(),
            architecture: Some(architecture.to_owned()),
        })
    })
    .collect()
}

type Licences = BTreeMap<Digest<32>, (u64, String)>;

/// `sha256 bytes kind name version licence…`; a checkout of before it was kept has none.
fn licences(source: &Path) -> Result<Licences, InputsError> {
    match source.join(LICENCES).exists() {
        true => in_lock(source, LICENCES, parse_licences),
        false => Ok(Licences::new()),
    }
}

fn parse_licences(text: &str) -> Result<Licences, (usize, LockFault)> {
    let rows = text.lines().enumerate();
    let rows = rows.filter(|(_, row)| !row.starts_with('#') && !row.trim().is_empty());
    rows.map(|(index, row)| {
        let fault = |fault| (index + 1, fault);
        let mut words = row.splitn(6, ' ');
        let mut word = || words.next().filter(|word| !word.is_empty());
        let hash = word().ok_or(fault(LockFault::Form))?;
        let hash = hash.parse().map_err(|_| fault(LockFault::Hash))?;
        let bytes = word().and_then(|bytes| bytes.parse().ok());
        let named = word().and(word()).and(word()).and(word());
        let (bytes, licence) = bytes.zip(named).ok_or(fault(LockFault::Form))?;
        Ok((hash, (bytes, licence.to_owned())))
    })
    .collect()
}

/// Percent-encoding of a package URL's parts.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn a_row_of_the_lock_of_packages_says_all_of_a_package() {
        let text =
            format!("# comment\nlibc6 2.41-12+b1 amd64 {HASH} 77 pool/g/libc6.deb image,tools\n");
        let [input] = &parse_debs(&text).unwrap()[..] else {
            panic!("one row");
        };
        assert_eq!(input.purl(), "pkg:deb/debian/libc6@2.41-12%2Bb1?arch=amd64");
        assert_eq!((input.bytes, input.used_for.len()), (Some(77), 2));
        let fault = |text: &str| parse_debs(text).unwrap_err();
        assert_eq!(fault("libc6 2.41\n"), (1, LockFault::Form));
        assert_eq!(fault(&text.replace("00112", "xx112")), (2, LockFault::Hash));
    }

    #[test]
    fn licences_are_known_by_hash() {
        let text = format!("{HASH} 12 crate one 1.0.0 MIT OR Apache-2.0\n");
        let licences = parse_licences(&text).unwrap();
        let hash = HASH.parse().unwrap();
        assert_eq!(licences[&hash], (12, "MIT OR Apache-2.0".to_owned()));
        assert!(parse_licences(&format!("{HASH} 12 crate one\n")).is_err());
    }
}
