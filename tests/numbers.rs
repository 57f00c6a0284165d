//! The numbers of the production image, held against docs/promises.md, and differences planted into
//! it, found with the locked tools.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use release::differ::{Cause, Difference, archive};
use release::manifest::{Kind, Manifest};
use release::reproduce::{self, Because, Outcome, Question};
use release::tools::Tools;
use support::image;
use support::tools::repository;

const UNITS: &str = "/usr/lib/systemd/system/";

/// The image's folder, its manifest, and its root, read back.
struct Read {
    image: PathBuf,
    manifest: Manifest,
    folder: tempfile::TempDir,
}

impl Read {
    fn production() -> Self {
        let image = image::parts("production").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        tools()
            .extract_erofs(&image.join("root.erofs"), &root)
            .unwrap();
        let manifest = Manifest::read(&image).unwrap();
        Self {
            image,
            manifest,
            folder,
        }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn bytes(&self, name: &str) -> u64 {
        self.image.join(name).metadata().unwrap().len()
    }

    /// Regular files, with their modes.
    fn files(&self) -> impl Iterator<Item = (&String, u32)> {
        let files = self.manifest.files.iter();
        files.filter_map(|(path, file)| match file.kind {
            Kind::File { mode, .. } => Some((path, mode)),
            _ => None,
        })
    }

    /// Text of the units with this ending.
    fn units(&self, ending: &str) -> BTreeMap<String, String> {
        let units = self
            .files()
            .filter_map(|(path, _)| path.strip_prefix(UNITS));
        let units = units.filter(|name| !name.contains('/') && name.ends_with(ending));
        let text = |name: &str| fs::read_to_string(self.root().join(&UNITS[1..]).join(name));
        units
            .map(|name| (name.to_owned(), text(name).unwrap()))
            .collect()
    }
}

fn tools() -> Tools {
    Tools::of(repository()).unwrap()
}

/// The numbers in a row of docs/promises.md.
fn promised(number: &str) -> Vec<u64> {
    let text = fs::read_to_string(repository().join("docs/promises.md")).unwrap();
    let row = text
        .lines()
        .find(|line| line.starts_with(&format!("| {number} |")));
    let cell = row.unwrap().split('|').nth(2).unwrap().replace(',', "");
    let words = cell.split(|c: char| !c.is_ascii_digit());
    words.filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn the_image_has_the_promised_numbers() {
    let read = Read::production();
    let bytes = ["root.erofs", "root.verity", "initrd"].map(|name| read.bytes(name));
    let bytes: u64 = bytes.iter().sum();
    eprintln!("root, hash tree and initrd: {bytes} bytes");
    let [most] = promised("P90")[..] else {
        panic!("P90 names one number");
    };
    assert!(most <= 40 << 20 && bytes <= most, "{bytes} bytes");
    let packages = read.manifest.packages.len() as u64;
    assert_eq!(promised("P91"), [packages, 2]);

    let executable = read.files().filter(|(_, mode)| mode & 0o111 != 0).count() as u64;
    let setuid = read.files().filter(|(_, mode)| mode & 0o7000 != 0).count() as u64;
    assert_eq!(promised("P92"), [executable, setuid]);

    let kinds = [".service", ".socket", ".target"].map(|kind| read.units(kind).len() as u64);
    assert_eq!(promised("P94"), kinds);
}

/// What listens: systemd by its socket units, and the agent. networkd asks for an address, and
/// hears the answer on a port of its own.
#[test]
fn one_port_listens() {
    let read = Read::production();
    let (mut paths, mut netlink) = (0, 0);
    for (unit, text) in read.units(".socket") {
        for line in text.lines().filter(|line| line.starts_with("Listen")) {
            let (key, value) = line.split_once('=').unwrap();
            match (key, value.starts_with('/')) {
                ("ListenNetlink", _) => netlink += 1,
                (_, true) => paths += 1,
                _ => panic!("{unit} listens on the network: {line}"),
            }
        }
    }
    let mut sources = String::new();
    // A program for developers listens, too. The image does not hold it, and the agent calls
    // nothing of it.
    for room in [
        "agent",
        "attest",
        "carrier",
        "channel",
        "inference",
        "verity",
    ] {
        read_sources(&repository().join(room).join("src"), &mut sources);
    }
    assert_eq!(sources.matches(".listen(").count(), 1);
    for other in [
        "insecure::",
        "TcpListener::bind",
        "UdpSocket",
        "UnixListener",
        "UnixDatagram",
    ] {
        assert!(!sources.contains(other), "{other}");
    }
    assert_eq!(promised("P93"), [1, paths, netlink]);
}

/// What serves without protection is compiled where a feature asks for it, and the image's build
/// asks for none.
#[test]
fn the_image_is_built_without_what_serves_unprotected() {
    let read = |path: &str| fs::read_to_string(repository().join(path)).unwrap();
    let library = read("agent/src/lib.rs");
    let guarded = "#[cfg(feature = \"insecure\")]\npub mod insecure;";
    assert_eq!(library.matches("mod insecure").count(), 1);
    assert!(library.contains(guarded));
    let manifest: toml::Table = read("agent/Cargo.toml").parse().unwrap();
    let features = manifest["features"].as_table().unwrap();
    assert_eq!(features.keys().collect::<Vec<_>>(), ["cuda", "insecure"]);
    for path in [
        "image/compile.sh",
        "image/rust.sh",
        "image/cargo.sh",
        "nix/programs.sh",
        "nix/workspace.sh",
    ] {
        let text = read(path);
        for word in ["--features", "--all-features", "-F "] {
            assert!(!text.contains(word), "{path}: {word}");
        }
    }
}

/// Tests in a file of their own, and what only `cloister-inference` runs.
const NOT_IN_THE_IMAGE: [&str; 3] = [
    "tests.rs",
    "agent/src/insecure.rs",
    "bin/cloister-inference",
];

/// All product code below a folder, without its tests.
fn read_sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if NOT_IN_THE_IMAGE.iter().any(|end| path.ends_with(end)) {
            continue;
        }
        if path.is_dir() {
            read_sources(&path, text);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let file = fs::read_to_string(path).unwrap();
            *text += file.split("#[cfg(test)]").next().unwrap_or_default();
        }
    }
}

#[test]
fn every_path_has_an_owner() {
    let read = Read::production();
    let owner = |path: &str| {
        let found = release::owns::find(&read.image, repository(), path);
        found
            .unwrap_or_else(|error| panic!("{path}: {error}"))
            .owner
    };
    for path in read.manifest.files.keys() {
        let owner = owner(path);
        let source = repository().join(&owner);
        let package = read.manifest.package(&owner).is_some();
        let known =
            package || source.symlink_metadata().is_ok() || owner.starts_with("cloister-agent");
        assert!(known, "{path} is of {owner}");
    }
    let initrd = read.folder.path().join("initrd");
    tools()
        .unpack_zstd(&read.image.join("initrd"), &initrd, 1 << 28)
        .unwrap();
    let initrd = fs::read(initrd).unwrap();
    let entries = archive::entries(&initrd).unwrap();
    assert!(entries.len() > 10);
    for entry in entries {
        let path = format!("initrd:/{}", entry.path);
        assert_ne!(owner(&path), release::owns::UNKNOWN, "{path}");
    }
}

/// Packs a root again, and gives it with an initrd and a manifest as a build would.
fn pack(read: &Read, name: &str, root: &Path, initrd: &Path, manifest: &str) -> PathBuf {
    let build = read.folder.path().join(name);
    fs::create_dir_all(&build).unwrap();
    let enter = |arguments: &[&str]| {
        let mut command = Command::new(repository().join("image/enter.sh"));
        let output = command
            .args(["--offline", "--"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    };
    let to = build.join("root.erofs").display().to_string();
    let root = root.display().to_string();
    enter(&[
        "mkfs.erofs",
        "--quiet",
        "-T1793491200",
        "--all-root",
        "-U",
        "clear",
        &to,
        &root,
    ]);
    let to = build.join("initrd").display().to_string();
    enter(&[
        "zstd",
        "--quiet",
        "-3",
        &initrd.display().to_string(),
        "-o",
        &to,
    ]);
    fs::write(build.join("manifest.json"), manifest).unwrap();
    build
}

/// A timestamp in a configuration, a file mode, a reordered archive, a changed package version and
/// a path in a program: planted into the production image together, and each found by itself.
#[test]
fn planted_differences_are_named_in_the_image_itself() {
    let read = Read::production();
    let root = read.root();
    let unpacked = read.folder.path().join("initrd.cpio");
    tools()
        .unpack_zstd(&read.image.join("initrd"), &unpacked, 1 << 28)
        .unwrap();
    let manifest = fs::read_to_string(read.image.join("manifest.json")).unwrap();
    let conf = root.join("usr/lib/sysctl.d/10-cloister.conf");
    let plain = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, plain.clone() + "# 2026-11-20 08:15\n").unwrap();
    let theirs = pack(&read, "theirs", &root, &unpacked, &manifest);

    fs::write(&conf, plain + "# 2026-11-21 16:30\n").unwrap();
    let program = root.join("usr/lib/systemd/systemd-sysctl");
    fs::set_permissions(program, fs::Permissions::from_mode(0o750)).unwrap();
    let library = fs::read_dir(root.join("usr/lib/x86_64-linux-gnu")).unwrap();
    let mut library = library.map(|entry| entry.unwrap().path());
    let library = library.find(|path| {
        let is_file = !path.is_symlink();
        is_file
            && path
                .file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("libz.so.1")
    });
    replace(&library.unwrap(), b"deflate 1.", b"deflate 9.");
    let zlib = read.manifest.package("zlib1g").unwrap().version.clone();
    replace(
        &root.join("usr/bin/cloister-agent"),
        b"agent/src/serve.rs",
        b"/home/me/serve1.rs",
    );
    let bytes = fs::read(&unpacked).unwrap();
    let mut entries = release::cpio::parse(&bytes).unwrap();
    let last = entries.len() - 1;
    entries.swap(last - 1, last);
    let reordered = read.folder.path().join("reordered.cpio");
    fs::write(&reordered, release::cpio::write(&entries)).unwrap();
    let changed = manifest.replace(&format!("\"{zlib}\""), "\"9:9-9\"");
    let ours = pack(&read, "ours", &root, &reordered, &changed);

    let question = Question {
        stated: reproduce::published(&theirs).unwrap(),
        image: &ours,
        assembled: None,
        against: Some(&theirs),
        source: repository(),
        scratch: &read.folder.path().join("scratch"),
    };
    let answer = reproduce::answer(&question).unwrap();
    let found: Vec<&Difference> = answer
        .artifacts
        .iter()
        .filter_map(|one| match &one.outcome {
            Outcome::Different {
                because: Because::Found(found),
                ..
            } => Some(found),
            _ => None,
        })
        .flatten()
        .collect();
    let named = |cause: Cause, place: &str, owner: &str| {
        let one = found.iter().find(|one| one.cause == cause);
        let one = one.unwrap_or_else(|| panic!("no {cause} in {found:#?}"));
        assert!(one.place.join(" ").contains(place), "{one:?}");
        assert!(one.owner.as_ref().unwrap().starts_with(owner), "{one:?}");
    };
    assert_eq!(found.len(), 5, "{found:#?}");
    named(
        Cause::Timestamp,
        "10-cloister.conf line",
        "image/rootfs/usr/lib/sysctl.d",
    );
    named(
        Cause::Mode,
        "/usr/lib/systemd/systemd-sysctl mode",
        "systemd 257",
    );
    named(
        Cause::Version,
        "libz.so.1",
        &format!("zlib1g {zlib}, rebuilt with zlib1g 9:9-9"),
    );
    named(
        Cause::Path,
        "/usr/bin/cloister-agent section .rodata",
        "cloister-agent, compiled",
    );
    named(Cause::Order, "image-initrd entry", "image/initrd.py");
}

/// Replaces the first occurrence of some bytes by as many others.
fn replace(path: &Path, from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(from.len()).position(|window| window == from);
    let at = at.unwrap_or_else(|| panic!("{} lacks {from:?}", path.display()));
    bytes[at..at + to.len()].copy_from_slice(to);
    fs::write(path, bytes).unwrap();
}
