//! The bill of materials of an image (SPDX 2.3, JSON): packages, crates and files, by hash, and
//! which file comes from which of them.
//!
//! Made of the locks and of what stands in the image, of nothing else: the same image gives the
//! same bytes on every machine. Where it stands in the image's folder as [`FILE`], a release
//! states it like every other file there.
//!
//! Specification: <https://spdx.github.io/spdx-spec/v2.3/>.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use attest::Digest;
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use crate::files::digest_of_file;
use crate::inputs::{self, Input, InputsError};
use crate::manifest::{self, Kind, Manifest, ManifestError};
use crate::owns;
use crate::root::{self, RootError};

/// Name of the bill in an image's folder.
pub const FILE: &str = "sbom.spdx.json";
/// Files of an image's folder that the bill covers beside the root's: what is booted.
pub const PARTS: [&str; 6] = [
    "cmdline",
    "initrd",
    "os-release",
    "root.erofs",
    "stub.efi",
    "vmlinuz",
];
const NAMESPACE: &str = "https://cloister.dev/spdx/";
const NOTHING: &str = "NOASSERTION";
const CREATOR: &str = concat!("Tool: cloister-release-", env!("CARGO_PKG_VERSION"));
/// The file that says when the sources were made.
const DATES: &str = "mkosi.conf";
/// The programs of ours in an image: their crate and their name.
const PROGRAMS: [(&str, &str); 2] = [
    ("cloister-agent", "cloister-agent"),
    ("cloister-verity", "verity-init"),
];

/// Why there is no bill.
#[derive(Debug, thiserror::Error)]
pub enum BillError {
    /// The manifest cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A lock cannot be used.
    #[error(transparent)]
    Inputs(#[from] InputsError),
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The packed root is not what the manifest lists.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The manifest names a package that the lock does not have.
    #[error(
        "the image holds {name} {version}, which {} does not name",
        inputs::DEB_LOCK
    )]
    Unlocked {
        /// The package.
        name: String,
        /// Its version.
        version: String,
    },
    /// The sources do not say when they were made.
    #[error("mkosi.conf has no SourceDateEpoch")]
    NoDate,
    /// A bill that was made of something else.
    #[error("{path} is the bill of another image or of other locks")]
    Stale {
        /// The bill.
        path: PathBuf,
    },
}

/// A bill under construction.
#[derive(Default)]
struct Bill {
    packages: Vec<Value>,
    files: Vec<Value>,
    relationships: Vec<Value>,
    sha1: Vec<String>,
}

/// Makes the bill of the image in the folder `image`, built from the sources in `source`. `root`
/// holds what was read back out of its root file system.
pub fn make(source: &Path, image: &Path, root: &Path) -> Result<Vec<u8>, BillError> {
    let manifest = Manifest::read(image)?;
    root::check(&manifest, root)?;
    let inputs = inputs::read(source)?;
    let mut bill = Bill::default();
    bill.add_debs(&inputs, &manifest)?;
    bill.add_programs(&inputs, source)?;
    bill.add_files(&manifest, root)?;
    bill.add_parts(image, &inputs)?;
    bill.add_image();
    let mut described = bill.relationships;
    described.insert(
        0,
        relationship("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image"),
    );
    let mut document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": "cloister-image",
        "documentNamespace": namespace(source, image)?,
        "creationInfo": {
            "created": date(source)?,
            "creators": [CREATOR],
            "comment": "The time is that of the sources, SourceDateEpoch in mkosi.conf. \
                Crates are those that Cargo.lock gives a program for any platform: the most \
                that can be in it.",
        },
        "packages": bill.packages,
        "files": bill.files,
        "relationships": described,
    });
    // A bill is stated by its digest: its order is its own, not that of the crates built beside it.
    document.sort_all_objects();
    let mut text = format!("{document:#}").into_bytes();
    text.push(b'\n');
    Ok(text)
}

/// Refuses a bill in an image's folder that was made of another image or of other locks; none is
/// no fault.
pub fn check(source: &Path, image: &Path) -> Result<(), BillError> {
    let path = image.join(FILE);
    if !path.exists() {
        return Ok(());
    }
    let text = std::fs::read(&path).map_err(unreadable(&path))?;
    let bill: Value = serde_json::from_slice(&text).unwrap_or_default();
    match bill["documentNamespace"] == namespace(source, image)? {
        true => Ok(()),
        false => Err(BillError::Stale { path }),
    }
}

/// The bill's name follows from all that it is made of, and from what makes it.
fn namespace(source: &Path, image: &Path) -> Result<String, BillError> {
    let mut of = format!("{CREATOR}\n");
    let locks = [
        inputs::DEB_LOCK,
        inputs::CARGO_LOCK,
        inputs::LICENCES,
        DATES,
    ];
    let locks = locks.map(|name| source.join(name)).into_iter();
    let locks = locks.chain(inputs::manifests(source)?);
    let parts = PARTS
        .iter()
        .chain([&manifest::FILE])
        .map(|name| image.join(name));
    for path in locks.filter(|path| path.exists()).chain(parts) {
        of += &format!("{}\n", digest_of_file(&path).map_err(unreadable(&path))?);
    }
    Ok(format!("{NAMESPACE}{}", Digest::sha256(of.as_bytes())))
}

impl Bill {
    /// The locked packages: those in the image, and those that made it.
    fn add_debs(&mut self, inputs: &[Input], manifest: &Manifest) -> Result<(), BillError> {
        let debs = || {
            inputs
                .iter()
                .filter(|input| input.kind == inputs::Kind::Deb)
        };
        for package in &manifest.packages {
            let same = |deb: &&Input| deb.name == package.name && deb.sha256 == [package.sha256];
            if debs().find(same).is_none() {
                return Err(BillError::Unlocked {
                    name: package.name.clone(),
                    version: package.version.clone(),
                });
            }
        }
        for deb in debs() {
            let id = package_id(deb);
            self.packages.push(package(deb, &id));
            let boots = [owns::artifact("vmlinuz"), owns::artifact("stub.efi")];
            let boots = boots
                .iter()
                .flatten()
                .any(|name| deb.name.starts_with(name));
            let is_inside =
                manifest.package(&deb.name).is_some() || (boots && is_for(deb, "image"));
            if is_inside {
                self.relate("SPDXRef-Image", "CONTAINS", &id);
            }
            // Those of the second way as well: the bill is the same by both.
            let is_tool = ["build", "tools", "nix"].iter().any(|set| is_for(deb, set));
            if is_tool {
                self.relate(&id, "BUILD_TOOL_OF", "SPDXRef-Image");
            }
            if !is_inside && !is_tool {
                // Unpacked for the image, and nothing of it was taken.
                self.relate(&id, "BUILD_DEPENDENCY_OF", "SPDXRef-Image");
            }
        }
        Ok(())
    }

    /// Our own programs, and the crates in them.
    fn add_programs(&mut self, inputs: &[Input], source: &Path) -> Result<(), BillError> {
        let graph = inputs::crate_graph(source)?;
        let mut used = BTreeSet::new();
        self.packages.push(own("SPDXRef-Sources", "cloister"));
        for (crate_name, program) in PROGRAMS {
            let id = format!("SPDXRef-Program-{program}");
            self.packages.push(own(&id, program));
            self.relate("SPDXRef-Image", "CONTAINS", &id);
            self.relate(&id, "GENERATED_FROM", "SPDXRef-Sources");
            let reachable = graph.reachable(crate_name);
            let crates = inputs.iter().filter(|input| {
                input.kind == inputs::Kind::Crate
                    && reachable.contains(&(input.name.clone(), input.version.clone()))
            });
            for one in crates {
                let crate_id = package_id(one);
                if used.insert(crate_id.clone()) {
                    self.packages.push(package(one, &crate_id));
                }
                self.relate(&id, "DEPENDS_ON", &crate_id);
            }
        }
        Ok(())
    }

    /// Every file and link of the root, which is what the manifest lists.
    fn add_files(&mut self, manifest: &Manifest, root: &Path) -> Result<(), BillError> {
        for (path, file) in &manifest.files {
            let place = root.join(path.trim_start_matches('/'));
            let (contents, comment) = match &file.kind {
                Kind::Folder { .. } => continue,
                Kind::Link { target } => {
                    let comment = format!("symbolic link to {target}; its hashes are of that name");
                    (target.clone().into_bytes(), Some(comment))
                }
                Kind::File { .. } => (std::fs::read(&place).map_err(unreadable(&place))?, None),
            };
            let (kind, from) = match &file.from[..] {
                "cloister-agent" => ("COPY_OF", "SPDXRef-Program-cloister-agent".to_owned()),
                from => match manifest.package(from) {
                    Some(package) => {
                        let id = deb_id(&package.name, &package.version);
                        ("EXPANDED_FROM_ARCHIVE", id)
                    }
                    None => ("GENERATED_FROM", "SPDXRef-Sources".to_owned()),
                },
            };
            self.add_file(&format!("./root{path}"), &contents, comment, (kind, &from));
        }
        Ok(())
    }

    /// What is booted beside the root.
    fn add_parts(&mut self, image: &Path, inputs: &[Input]) -> Result<(), BillError> {
        for name in PARTS {
            let path = image.join(name);
            let contents = std::fs::read(&path).map_err(unreadable(&path))?;
            let from = owns::artifact(name).unwrap_or_default();
            let deb = inputs
                .iter()
                .filter(|input| input.kind == inputs::Kind::Deb && is_for(input, "image"))
                .find(|deb| ["vmlinuz", "stub.efi"].contains(&name) && deb.name.starts_with(from));
            let (kind, from) = match deb {
                Some(deb) => ("EXPANDED_FROM_ARCHIVE", package_id(deb)),
                None => ("GENERATED_FROM", "SPDXRef-Sources".to_owned()),
            };
            self.add_file(&format!("./{name}"), &contents, None, (kind, &from));
        }
        Ok(())
    }

    fn add_file(
        &mut self,
        name: &str,
        contents: &[u8],
        comment: Option<String>,
        (kind, from): (&str, &str),
    ) {
        let id = format!("SPDXRef-File-{}", self.files.len() + 1);
        let sha1 = sha1_hex(contents);
        let mut file = json!({
            "SPDXID": id,
            "fileName": name,
            "checksums": [
                { "algorithm": "SHA1", "checksumValue": sha1 },
                { "algorithm": "SHA256", "checksumValue": Digest::sha256(contents) },
            ],
            "licenseConcluded": NOTHING,
            "copyrightText": NOTHING,
        });
        if let Some(comment) = comment {
            file["comment"] = comment.into();
        }
        self.files.push(file);
        self.sha1.push(sha1);
        self.relate("SPDXRef-Image", "CONTAINS", &id);
        self.relate(&id, kind, from);
    }

    /// The image itself, with the code over all its files (SPDX 2.3, 7.9).
    fn add_image(&mut self) {
        self.sha1.sort();
        let code = sha1_hex(self.sha1.concat().as_bytes());
        let mut image = own("SPDXRef-Image", "cloister-image");
        image["filesAnalyzed"] = true.into();
        image["packageVerificationCode"] = json!({ "packageVerificationCodeValue": code });
        image["licenseInfoFromFiles"] = json!([NOTHING]);
        self.packages.insert(0, image);
    }

    fn relate(&mut self, from: &str, kind: &str, to: &str) {
        self.relationships.push(relationship(from, kind, to));
    }
}

fn relationship(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

fn is_for(input: &Input, set: &str) -> bool {
    input.used_for.iter().any(|used| used == set)
}

/// A package from outside.
fn package(input: &Input, id: &str) -> Value {
    let declared = match input.kind {
        inputs::Kind::Crate => input
            .licence
            .as_deref()
            .map(|text| text.replace('/', " OR ")),
        // Debian's names of licences are not those of SPDX.
        inputs::Kind::Deb | inputs::Kind::Python => None,
    };
    let sums = input.sha256.iter();
    let sums = sums.map(|sum| json!({ "algorithm": "SHA256", "checksumValue": sum }));
    let mut package = json!({
        "SPDXID": id,
        "name": input.name,
        "versionInfo": input.version,
        "downloadLocation": NOTHING,
        "filesAnalyzed": false,
        "checksums": sums.collect::<Vec<_>>(),
        "licenseConcluded": NOTHING,
        "licenseDeclared": declared.unwrap_or_else(|| NOTHING.to_owned()),
        "copyrightText": NOTHING,
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": input.purl(),
        }],
    });
    if input.kind == inputs::Kind::Deb {
        package["sourceInfo"] = format!("locked as {}", input.origin).into();
        if let Some(licence) = &input.licence {
            package["licenseComments"] = format!("debian/copyright names: {licence}").into();
        }
    }
    package
}

/// Something of our own.
fn own(id: &str, name: &str) -> Value {
    json!({
        "SPDXID": id,
        "name": name,
        "downloadLocation": NOTHING,
        "filesAnalyzed": false,
        "licenseConcluded": "Apache-2.0",
        "licenseDeclared": "Apache-2.0",
        "copyrightText": NOTHING,
    })
}

fn package_id(input: &Input) -> String {
    match input.kind {
        inputs::Kind::Deb => deb_id(&input.name, &input.version),
        kind => id(kind.name(), &input.name, &input.version),
    }
}

fn deb_id(name: &str, version: &str) -> String {
    id("deb", name, version)
}

/// Letters, digits, dots and hyphens are all that an id may hold.
fn id(kind: &str, name: &str, version: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    let text = format!("{name}-{version}");
    let text: String = text
        .chars()
        .map(|c| if plain(c) { c } else { '-' })
        .collect();
    format!("SPDXRef-{kind}-{text}")
}

/// The time of the sources, as RFC 3339 has it.
fn date(source: &Path) -> Result<String, BillError> {
    let path = source.join(DATES);
    let text = std::fs::read_to_string(&path).map_err(unreadable(&path))?;
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("SourceDateEpoch="));
    let seconds: Option<u64> = lines.next().and_then(|seconds| seconds.trim().parse().ok());
    let seconds = seconds.filter(|seconds| *seconds < 1 << 40);
    Ok(rfc3339(seconds.ok_or(BillError::NoDate)?))
}

/// Days since 1970 as a date, by Howard Hinnant's `civil_from_days`.
fn rfc3339(seconds: u64) -> String {
    let days = seconds / 86400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> BillError {
    let path = path.to_owned();
    move |source| BillError::Read { path, source }
}

/// SPDX demands it of every file beside any better hash. Nothing trusts it.
fn sha1_hex(bytes: &[u8]) -> String {
    hex::encode(Sha1::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_ids_have_the_form_of_spdx() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_793_491_200), "2026-11-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_868_799), "2000-02-29T23:59:59Z");
        assert_eq!(
            deb_id("libc6", "2:2.41+b1~x"),
            "SPDXRef-deb-libc6-2-2.41-b1-x"
        );
    }
}
