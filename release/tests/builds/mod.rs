//! Two small builds that should be the same, with stand-ins for the locked tools: what stands for
//! an erofs image is a tar archive, and what stands for zstd leaves bytes as they are.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test uses its part"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use attest::Digest;
use release::reproduce::{Answer, Question, answer};
use serde_json::json;

const ENTER: &str = r#"#!/bin/sh
# enter.sh --offline -- TOOL OPTIONS... FILE
shift 2
tool=$1
shift
case $tool in
fsck.erofs) into=${1#--extract=} && mkdir -p "$into" && tar -xpf "$2" -C "$into" ;;
zstd) cat "$4" ;;
esac
"#;

pub const AGENT: &str = "cloister-agent";
pub const LOCK: &str = "image/deb.lock";

/// A folder with sources and two builds of them, `theirs` (published) and `ours` (rebuilt).
pub struct Builds {
    pub folder: tempfile::TempDir,
}

/// What one build is made of.
#[derive(Clone)]
pub struct Build {
    /// Path, mode, contents, origin.
    pub files: Vec<(String, u32, Vec<u8>, String)>,
    /// Path, target, origin.
    pub links: Vec<(String, String, String)>,
    /// Path, mode, contents of what stands in the packed root and in no manifest.
    pub unlisted: Vec<(String, u32, Vec<u8>)>,
    /// Name and version.
    pub packages: BTreeMap<String, String>,
    /// Path, mode, contents, in order.
    pub initrd: Vec<(String, u32, Vec<u8>)>,
    /// Time of everything, in seconds.
    pub time_s: u64,
}

impl Default for Build {
    fn default() -> Self {
        let file = |path: &str, mode, text: &[u8], from: &str| {
            (path.to_owned(), mode, text.to_vec(), from.to_owned())
        };
        let entry = |path: &str, mode, data: &[u8]| (path.to_owned(), mode, data.to_vec());
        Self {
            files: vec![
                file(
                    "/etc/build.conf",
                    0o644,
                    b"NAME=cloister\nBUILD=1\n",
                    "image/rootfs",
                ),
                file(
                    "/usr/bin/cloister-agent",
                    0o755,
                    &agent("/cloister/src"),
                    AGENT,
                ),
                file("/usr/bin/udevadm", 0o755, b"\x7fELF udevadm", "udev"),
                file("/usr/lib/libz.so.1", 0o644, b"library of 1.3.1\0", "zlib1g"),
                file(
                    "/usr/lib/systemd/system/cloister-agent.service",
                    0o644,
                    b"[Service]\nExecStart=/usr/bin/cloister-agent serve\nProtectHome=yes\n",
                    "image/rootfs",
                ),
            ],
            links: vec![(
                "/bin".to_owned(),
                "usr/bin".to_owned(),
                "base-files".to_owned(),
            )],
            unlisted: Vec::new(),
            packages: [
                ("base-files", "13.8"),
                ("udev", "257.13-1"),
                ("zlib1g", "1:1.3.1-1"),
            ]
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .into(),
            initrd: vec![
                entry("init", 0o100_755, b"our init"),
                entry("dev", 0o040_755, b""),
                entry("modules", 0o040_755, b""),
                entry("modules/order", 0o100_644, b"a.ko.xz\nb.ko.xz\n"),
                entry("modules/a.ko.xz", 0o100_644, b"module a"),
                entry("modules/b.ko.xz", 0o100_644, b"module b"),
            ],
            time_s: 1_793_491_200,
        }
    }
}

impl Build {
    /// Changes the contents of one file.
    pub fn set(&mut self, path: &str, contents: &[u8]) {
        let file = self.files.iter_mut().find(|file| file.0 == path).unwrap();
        file.2 = contents.to_vec();
    }
}

impl Builds {
    pub fn new(theirs: &Build, ours: &Build) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let builds = Self { folder };
        let source = builds.path("source");
        fs::create_dir_all(source.join("image")).unwrap();
        crate::common::script(&source.join("image/enter.sh"), ENTER);
        fs::write(
            source.join("image/initrd.modules"),
            "fs/a.ko.xz\nfs/b.ko.xz # b\n",
        )
        .unwrap();
        fs::write(source.join("mkosi.conf"), "SourceDateEpoch=1793491200\n").unwrap();
        fs::write(source.join(LOCK), lock(theirs)).unwrap();
        fs::write(
            source.join("Cargo.lock"),
            CARGO_LOCK.replace("HASH", &"0e".repeat(32)),
        )
        .unwrap();
        for (name, build) in [("theirs", theirs), ("ours", ours)] {
            builds.write(name, build);
        }
        builds
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the image of a build into the folder `name`/image.
    pub fn write(&self, name: &str, build: &Build) {
        let image = self.path(name).join("image");
        fs::create_dir_all(&image).unwrap();
        let root = self.path(&format!("{name}-root"));
        fs::create_dir_all(&root).unwrap();
        let mut files = Vec::new();
        for (path, mode, contents, from) in &build.files {
            let place = root.join(&path[1..]);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(&place, contents).unwrap();
            fs::set_permissions(&place, fs::Permissions::from_mode(*mode)).unwrap();
            let sha256 = Digest::<32>::sha256(contents);
            let mode = format!("{mode:04o}");
            files.push(json!({ "path": path, "from": from, "mode": mode, "sha256": sha256 }));
        }
        for (path, target, from) in &build.links {
            std::os::unix::fs::symlink(target, root.join(&path[1..])).unwrap();
            files.push(json!({ "path": path, "from": from, "link": target }));
        }
        for folder in folders(&root) {
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
            let path = format!("/{}", folder.strip_prefix(&root).unwrap().display());
            files.push(json!({ "path": path, "from": "base-files", "mode": "0755" }));
        }
        for (path, mode, contents) in &build.unlisted {
            let place = root.join(&path[1..]);
            fs::write(&place, contents).unwrap();
            fs::set_permissions(&place, fs::Permissions::from_mode(*mode)).unwrap();
        }
        let packages: Vec<_> = build
            .packages
            .iter()
            .map(|(name, version)| {
                json!({ "name": name, "version": version, "sha256": hash(name, version) })
            })
            .collect();
        let manifest = json!({ "packages": packages, "files": files });
        fs::write(image.join("manifest.json"), format!("{manifest:#}\n")).unwrap();
        let mut tar = Command::new("tar");
        tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
        tar.arg(format!("--mtime=@{}", build.time_s)).arg("-cf");
        tar.arg(image.join("root.erofs"))
            .arg("-C")
            .arg(&root)
            .arg(".");
        assert!(tar.status().unwrap().success());
        fs::write(image.join("initrd"), initrd(&build.initrd)).unwrap();
        for (name, contents) in [
            ("cmdline", "panic=-1\n"),
            ("os-release", "ID=cloister\n"),
            ("profile", "production\n"),
            ("stub.efi", "a stub"),
            ("vmlinuz", "a kernel"),
        ] {
            fs::write(image.join(name), contents).unwrap();
        }
    }

    /// Compares the two builds as `reproduce` does.
    pub fn answer(&self) -> Answer {
        let (image, source) = (self.path("ours/image"), self.path("source"));
        let (against, scratch) = (self.path("theirs"), self.path("scratch"));
        let question = Question {
            stated: release::reproduce::published(&against).unwrap(),
            image: &image,
            assembled: None,
            against: Some(&against),
            source: &source,
            scratch: &scratch,
        };
        answer(&question).unwrap()
    }
}

/// Every folder below another one.
fn folders(above: &Path) -> Vec<PathBuf> {
    let entries = above.read_dir().unwrap().map(|entry| entry.unwrap());
    let inside = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    inside
        .map(|entry| entry.path())
        .flat_map(|folder| [vec![folder.clone()], folders(&folder)].concat())
        .collect()
}

const CARGO_LOCK: &str = r#"# made by cargo
version = 4

[[package]]
name = "cloister-agent"
version = "0.1.0"
dependencies = [
 "one",
]

[[package]]
name = "cloister-verity"
version = "0.1.0"

[[package]]
name = "one"
version = "1.0.0"
source = "registry+index"
checksum = "HASH"
"#;

fn hash(name: &str, version: &str) -> Digest<32> {
    Digest::sha256(format!("{name} {version}").as_bytes())
}

/// The lock of a build, with the packages of kernel and stub and a tool.
pub fn lock(build: &Build) -> String {
    let more = [
        ("linux-image-6.12", "6.12-1"),
        ("systemd-boot-efi", "257.13-1"),
    ];
    let more = more.map(|(name, version)| (name.to_owned(), version.to_owned()));
    let mut rows = String::from("# name version architecture sha256 size pool-path sets\n");
    for (name, version) in build.packages.clone().into_iter().chain(more) {
        let sha256 = hash(&name, &version);
        rows += &format!("{name} {version} amd64 {sha256} 100 pool/{name}.deb image\n");
    }
    for (name, sets) in [("zstd", "tools"), ("nix", "nix"), ("dpkg", "image")] {
        let sha256 = hash(name, "1.5.7");
        rows += &format!("{name} 1.5.7 amd64 {sha256} 100 pool/{name}.deb {sets}\n");
    }
    rows
}

/// A newc archive with these entries in this order.
pub fn initrd(entries: &[(String, u32, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<release::cpio::Entry<'_>> = entries
        .iter()
        .map(|(path, mode, data)| release::cpio::Entry {
            path,
            mode: *mode,
            data,
        })
        .collect();
    release::cpio::write(&entries)
}

/// A program with a path of the machine that built it in its constants.
pub fn agent(path: &str) -> Vec<u8> {
    let constants = format!("panicked at {path}/agent/src/serve.rs:77\0and so on");
    elf(&[
        (".text", &[0x90; 256]),
        (".rodata", constants.as_bytes()),
        (".data", &[1, 2, 3, 4]),
    ])
}

/// An ELF file with these sections.
pub fn elf(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = vec![0; 64];
    out[..6].copy_from_slice(b"\x7fELF\x02\x01");
    let mut names = vec![0u8];
    let mut table = vec![[0u8; 64]];
    let mut place = |out: &mut Vec<u8>, name: &str, kind: u32, data: &[u8]| {
        let mut entry = [0u8; 64];
        entry[..4].copy_from_slice(&(names.len() as u32).to_le_bytes());
        names.extend_from_slice(name.as_bytes());
        names.push(0);
        entry[4..8].copy_from_slice(&kind.to_le_bytes());
        let data = if name == ".shstrtab" {
            &names[..]
        } else {
            data
        };
        entry[24..32].copy_from_slice(&(out.len() as u64).to_le_bytes());
        entry[32..40].copy_from_slice(&(data.len() as u64).to_le_bytes());
        out.extend_from_slice(data);
        table.push(entry);
    };
    for (name, data) in sections {
        place(&mut out, name, 1, data);
    }
    place(&mut out, ".shstrtab", 3, &[]);
    let start = out.len() as u64;
    table.iter().for_each(|entry| out.extend_from_slice(entry));
    out[0x28..0x30].copy_from_slice(&start.to_le_bytes());
    let count = table.len() as u16;
    for (at, field) in [(0x3a, 64), (0x3c, count), (0x3e, count - 1)] {
        out[at..at + 2].copy_from_slice(&u16::to_le_bytes(field));
    }
    out
}

/// A sum over a folder's files, to see that nothing in it changed.
pub fn sum(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.is_file());
    files
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}
