//! What goes into the image: packages by their hash alone, named files and nothing else, and the
//! same bits for everybody.

mod numbers;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use sha2::{Digest, Sha256};
use support::image;
use support::tools::repository;

const PACKAGE: &[u8] = b"what the lock says";

/// A checkout with a lock of one package, a mirror, and a cache.
struct Locked {
    folder: tempfile::TempDir,
    sha256: String,
}

impl Locked {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        fs::create_dir(&image).unwrap();
        for script in ["lib.sh", "mirrors.sh", "fetch.sh"] {
            fs::copy(repository().join("image").join(script), image.join(script)).unwrap();
        }
        let sha256 = hex::encode(Sha256::digest(PACKAGE));
        let row = format!(
            "one 1.0 amd64 {sha256} {} pool/o/one.deb tools\n",
            PACKAGE.len()
        );
        fs::write(image.join("deb.lock"), row).unwrap();
        fs::create_dir_all(folder.path().join("mirror/pool/o")).unwrap();
        Self { folder, sha256 }
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.folder.path().join(path)
    }

    fn offer(&self, bytes: &[u8]) {
        fs::write(self.path("mirror/pool/o/one.deb"), bytes).unwrap();
    }

    fn cached(&self) -> std::path::PathBuf {
        self.path("cache/debs").join(format!("{}.deb", self.sha256))
    }

    fn fetch(&self, mirror: &str) -> Output {
        // By its interpreter: a file just written cannot be started while another thread forks.
        Command::new("bash")
            .arg(self.path("image/fetch.sh"))
            .arg("tools")
            .env("CLOISTER_CACHE", self.path("cache"))
            .env("CLOISTER_APT_ETC", self.path("no-apt"))
            .env("CLOISTER_MIRRORS", mirror)
            .output()
            .unwrap()
    }

    fn fetch_here(&self) -> Output {
        self.fetch(&format!("copy:{}", self.path("mirror").display()))
    }
}

#[track_caller]
fn refused(output: &Output, cause: &str, step: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(cause) && said.contains(step), "{said}");
}

#[test]
fn a_changed_package_is_refused() {
    let locked = Locked::new();
    locked.offer(PACKAGE);
    assert!(locked.fetch_here().status.success());
    assert_eq!(fs::read(locked.cached()).unwrap(), PACKAGE);
    for changed in [
        &b"what the lock sayt"[..],
        b"",
        b"what the lock says, and more",
    ] {
        let locked = Locked::new();
        locked.offer(changed);
        let cause = "1 locked package(s) could not be fetched, first one 1.0";
        refused(&locked.fetch_here(), cause, "make relock");
        assert!(!locked.cached().exists());
    }
}

#[test]
fn a_damaged_package_in_the_cache_is_fetched_again() {
    let locked = Locked::new();
    locked.offer(PACKAGE);
    assert!(locked.fetch_here().status.success());
    fs::write(locked.cached(), b"what the lock sayt").unwrap();
    let output = locked.fetch_here();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("one in the cache is damaged"), "{said}");
    assert!(output.status.success(), "{said}");
    assert_eq!(fs::read(locked.cached()).unwrap(), PACKAGE);
}

#[test]
fn a_package_that_is_nowhere_is_named() {
    let cause = "1 locked package(s) could not be fetched, first one 1.0";
    refused(&Locked::new().fetch_here(), cause, "CLOISTER_MIRRORS");
    refused(
        &Locked::new().fetch("http://127.0.0.1:9"),
        "Could not connect",
        "CLOISTER_MIRRORS",
    );
    refused(
        &Locked::new().fetch(""),
        "no package mirror is known",
        "CLOISTER_MIRRORS",
    );
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let locked = Locked::new();
    fs::write(locked.path("cache"), b"a file where a folder should be").unwrap();
    refused(
        &locked.fetch_here(),
        "cannot write to",
        "set CLOISTER_CACHE",
    );
}

#[test]
fn an_unknown_profile_is_named() {
    let output = Command::new(repository().join("image/build.sh"))
        .args(["--profile", "debug", "--output", "/nonexistent/image"])
        .output()
        .unwrap();
    refused(&output, "there is no profile 'debug'", "demo production");
}

/// The manifest of the production image: every path in its root.
fn files(parts: &Path) -> Vec<Value> {
    let text = fs::read(parts.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&text).unwrap();
    manifest["files"].as_array().unwrap().clone()
}

#[test]
fn the_root_holds_what_is_listed_and_nothing_to_take_hold_of() {
    let files = files(&image::parts("production").unwrap());
    let listed = fs::read_to_string(repository().join("image/root.list")).unwrap();
    let packages: BTreeSet<&str> = listed
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(' ').next())
        .collect();
    let mut programs = BTreeSet::new();
    for file in &files {
        let path = file["path"].as_str().unwrap();
        let origin = file["from"].as_str().unwrap();
        let ours = ["image/rootfs", "image/root.list", "cloister-agent"].contains(&origin);
        assert!(ours || packages.contains(origin), "{path} from {origin}");
        // Set-user-id, set-group-id and sticky bits, and writing by others, have no place.
        let mode = file["mode"].as_str().unwrap_or("0777");
        let fit = ["0755", "0644"].contains(&mode) || file.get("link").is_some();
        assert!(fit, "{path} has mode {mode}");
        if path.starts_with("/usr/bin/") || path.starts_with("/usr/sbin/") {
            programs.insert(path);
        }
    }
    // No shell, no interpreter, nothing that fetches, installs or logs in.
    let expected = [
        "/usr/bin/cloister-agent",
        "/usr/bin/init",
        "/usr/bin/udevadm",
    ];
    assert_eq!(programs, BTreeSet::from(expected));
}

/// The packed root, read back: all of it is root's, as listed; a change of owner, mode or content
/// would be noticed, here and when an image is built.
#[test]
fn what_is_packed_is_roots_and_as_it_was_listed() {
    let parts = image::parts("production").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let shell = |commands: &str| {
        let mut enter = Command::new(repository().join("image/enter.sh"));
        enter.args(["--offline", "--", "sh", "-euc", commands, "sh"]);
        enter.args([folder.path(), &parts, &repository().join("image")]);
        enter.output().unwrap()
    };
    let extract = shell("fsck.erofs --extract=$1/root --preserve-owner $2/root.erofs");
    assert!(extract.status.success(), "{extract:?}");
    let inspect = "python3 $3/inspect.py --manifest $2/manifest.json --root $1/root";
    let output = shell(inspect);
    assert!(output.status.success(), "{output:?}");
    for (change, back) in [
        ("chown 1", "chown 0"),
        ("chmod 600", "chmod 644"),
        ("sed -i s/Cloister/Closer/", "true"),
    ] {
        let file = "$1/root/usr/lib/os-release";
        let changed = shell(&format!("{change} {file}"));
        if !changed.status.success() {
            eprintln!("SKIPPED, not tested: {change} (only root may)");
            continue;
        }
        let output = shell(inspect);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains("/usr/lib/os-release was not packed as"),
            "{change}: {said}"
        );
        assert!(!output.status.success());
        shell(&format!("{back} {file}"));
    }
}

/// Takes minutes: the agent is compiled anew for the second build.
#[test]
fn the_image_builds_twice_to_the_same_bits() {
    let output = Command::new(repository().join("image/reproduce.sh"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("both builds have the same bits"), "{said}");
}
