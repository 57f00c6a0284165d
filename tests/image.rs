//! What goes into the image: packages by their hash alone, named files and nothing else, and the
//! same bits for everybody.

mod numbers;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

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
            "# rows 1\none 1.0 amd64 {sha256} {} pool/o/one.deb tools\n",
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
            .env("CLOISTER_SNAPSHOT", self.snapshot())
            .env("CLOISTER_STALL_S", "1")
            .output()
            .unwrap()
    }

    /// Where this lock's snapshot archive is, for those that name a state of it.
    fn snapshot(&self) -> String {
        format!("copy:{}", self.path("snapshot").display())
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
        b"what the lo",
        b"what the lock says, and more",
    ] {
        let locked = Locked::new();
        locked.offer(changed);
        let cause = "1 locked package(s) could not be fetched, first one 1.0";
        refused(&locked.fetch_here(), cause, "CLOISTER_MIRRORS");
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

/// A mirror that never stops, whatever the lock says: no more is kept than a package has.
#[test]
fn a_mirror_without_end_fills_no_disk() {
    let locked = Locked::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mirror = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = BufReader::new(stream.try_clone().unwrap()).lines();
            let _ = head.by_ref().map_while(Result::ok).find(String::is_empty);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            while stream.write_all(&[b'x'; 1 << 16]).is_ok() {}
        }
    });
    let output = locked.fetch(&mirror);
    refused(
        &output,
        "could not be fetched, first one 1.0",
        "CLOISTER_MIRRORS",
    );
    assert!(!locked.cached().exists());
    for entry in fs::read_dir(locked.path("cache/debs")).unwrap() {
        let entry = entry.unwrap();
        assert!(entry.metadata().unwrap().len() <= 128 << 10, "{entry:?}");
    }
}

#[test]
fn a_lock_that_is_cut_off_or_damaged_is_refused() {
    let locked = Locked::new();
    locked.offer(PACKAGE);
    let good = fs::read_to_string(locked.path("image/deb.lock")).unwrap();
    let row = good.lines().next_back().unwrap();
    for (lock, cause) in [
        (String::new(), "image/deb.lock is missing"),
        ("# rows 1\n".to_owned(), "0 rows of 1 are there"),
        (format!("# rows 2\n{row}\n"), "1 rows of 2 are there"),
        (
            good[..good.len() - 9].to_owned(),
            "row 2 has another form: one",
        ),
        (
            "# rows 1\none 1.0\n".to_owned(),
            "row 2 has another form: one",
        ),
        (
            good.replace(&locked.sha256, "ab"),
            "row 2 has another form: one",
        ),
    ] {
        fs::write(locked.path("image/deb.lock"), lock).unwrap();
        refused(&locked.fetch_here(), cause, "make relock");
        assert!(!locked.cached().exists());
    }
}

#[test]
fn a_lying_mirror_costs_nothing_but_time() {
    let locked = Locked::new();
    locked.offer(PACKAGE);
    let liar = locked.path("liar/pool/o");
    fs::create_dir_all(&liar).unwrap();
    fs::write(liar.join("one.deb"), b"what the lock sayt").unwrap();
    let mirrors = format!(
        "copy:{} copy:{}",
        locked.path("liar").display(),
        locked.path("mirror").display()
    );
    let output = locked.fetch(&mirrors);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(fs::read(locked.cached()).unwrap(), PACKAGE);
}

#[test]
fn a_stalled_mirror_is_given_up() {
    let locked = Locked::new();
    locked.offer(PACKAGE);
    // Takes a connection and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    let cause = "1 locked package(s) could not be fetched, first one 1.0: ";
    refused(&locked.fetch(&address), cause, "make relock");
    let both = format!("{address} copy:{}", locked.path("mirror").display());
    let output = locked.fetch(&both);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn what_the_mirrors_no_longer_have_comes_from_the_snapshot_archive() {
    let locked = Locked::new();
    let lock = locked.path("image/deb.lock");
    let rows = fs::read_to_string(&lock).unwrap();
    fs::write(&lock, format!("# snapshot debian 20260101T000000Z\n{rows}")).unwrap();
    let state = locked.path("snapshot/debian/20260101T000000Z/pool/o");
    fs::create_dir_all(&state).unwrap();
    fs::write(state.join("one.deb"), PACKAGE).unwrap();
    let output = locked.fetch_here();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(fs::read(locked.cached()).unwrap(), PACKAGE);
}

/// A mirror whose line is cut after the first nine bytes of a package. Asked for what is missing,
/// it says nothing until `mended`. Gives its address, and the place where the last such wish began.
fn cut_off_mirror(mended: Arc<AtomicBool>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let wished = Arc::new(AtomicUsize::new(0));
    let seen = wished.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = BufReader::new(stream.try_clone().unwrap()).lines();
            let head: Vec<String> = request
                .by_ref()
                .map_while(Result::ok)
                .take_while(|line| !line.is_empty())
                .collect();
            let range = head
                .iter()
                .find_map(|line| line.strip_prefix("Range: bytes="));
            let from: usize = range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap());
            let (status, upto) = match from {
                0 => ("200 OK", 9),
                _ if mended.load(Relaxed) => ("206 Partial Content", PACKAGE.len()),
                _ => continue,
            };
            seen.store(from, Relaxed);
            let last = PACKAGE.len() - 1;
            let head = format!(
                "HTTP/1.1 {status}\r\nLast-Modified: Sat, 21 Nov 2020 10:00:00 GMT\r\n\
                 Content-Range: bytes {from}-{last}/{}\r\nContent-Length: {}\r\n\r\n",
                PACKAGE.len(),
                PACKAGE.len() - from
            );
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&PACKAGE[from..upto]).unwrap();
        }
    });
    (address, wished)
}

#[test]
fn a_package_that_was_cut_off_goes_on_where_it_stopped() {
    let locked = Locked::new();
    let mended = Arc::new(AtomicBool::new(false));
    let (mirror, wished) = cut_off_mirror(mended.clone());
    assert!(!locked.fetch(&mirror).status.success());
    // Another mirror's first part is not joined to this one's rest.
    let (other, wished_of_other) = cut_off_mirror(mended.clone());
    assert!(!locked.fetch(&other).status.success());
    assert_eq!(wished_of_other.load(Relaxed), 0);
    mended.store(true, Relaxed);
    let output = locked.fetch(&mirror);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(wished.load(Relaxed), 9);
    assert_eq!(fs::read(locked.cached()).unwrap(), PACKAGE);
    let left = fs::read_dir(locked.path("cache/debs")).unwrap();
    let parts =
        left.filter(|entry| entry.as_ref().unwrap().path().extension() == Some("part".as_ref()));
    assert_eq!(parts.count(), 0);
}

#[test]
fn what_an_interrupted_run_left_is_not_used() {
    let locked = Locked::new();
    locked.offer(PACKAGE);
    fs::create_dir_all(locked.path("cache/debs")).unwrap();
    let mirror = format!("copy:{}", locked.path("mirror").display());
    let mark = &hex::encode(Sha256::digest(mirror))[..16];
    let part = locked.cached().with_extension(format!("{mark}.part"));
    // And the list of what such a run had still to fetch.
    let list = locked.path("cache/debs/.left.aaaa");
    fs::write(&list, "gone 0.9 amd64 ab 3 pool/g/gone.deb tools\n").unwrap();
    for left in [
        &b"what the"[..],
        b"what the lock sayt",
        b"something larger than it",
    ] {
        fs::write(&part, left).unwrap();
        assert!(locked.fetch_here().status.success());
        assert_eq!(fs::read(locked.cached()).unwrap(), PACKAGE);
        fs::remove_file(locked.cached()).unwrap();
    }
}

#[test]
fn the_lock_names_the_signed_files_that_it_was_made_from() {
    let lock = fs::read_to_string(repository().join("image/deb.lock")).unwrap();
    let evidence = |kind: &str| -> Vec<Vec<String>> {
        lock.lines()
            .map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
            .filter(|words| words.len() > 3 && words[0] == "#" && words[1] == kind)
            .collect()
    };
    let suites: BTreeSet<String> = evidence("evidence").iter().map(|w| w[3].clone()).collect();
    let expected = ["trixie", "trixie-security", "trixie-updates"].map(str::to_owned);
    assert_eq!(suites, BTreeSet::from(expected));
    for words in evidence("evidence") {
        let digest = words[5].strip_prefix("sha256:").unwrap();
        assert_eq!(hex::decode(digest).unwrap().len(), 32);
        let keys = words[6].strip_prefix("key:").unwrap();
        assert!(keys.split(',').all(|key| key.len() == 40), "{keys}");
    }
    let states: BTreeSet<String> = evidence("snapshot").iter().map(|w| w[2].clone()).collect();
    let archives = ["debian", "debian-security"].map(str::to_owned);
    assert_eq!(states, BTreeSet::from(archives));
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

/// Something else fills the disk as soon as the build has a folder to work in.
#[test]
fn a_disk_that_fills_up_in_mid_build_is_named_and_the_next_build_is_clean() {
    const SCRIPT: &str = r#"
        mount -t tmpfs -o size=1100m small "$1"
        cp -s "$2"/debs/*.deb "$(mkdir "$1/debs" && echo "$1/debs")"
        ln -s "$2"/tools-* "$2"/build-* "$1/"
        { until ls -d "$1"/work.*; do sleep 0.05; done
          head -c 1500M /dev/zero >"$1/other"; } >/dev/null 2>&1 &
        code=0
        "$3" --profile demo --output "$4" --programs "$5" || code=$?
        wait
        ls -A "$1" | grep -E '^(image|work)' >&2 || true
        rm "$1/other"
        [ "$code" = 1 ] && "$3" --profile demo --output "$4" --programs "$5"
    "#;
    image::parts("demo").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("cache")).unwrap();
    let programs = Command::new(repository().join("image/rust.sh"))
        .output()
        .unwrap();
    let programs = String::from_utf8(programs.stdout).unwrap();
    let programs = Path::new(programs.trim());
    let cache = programs.parent().unwrap();
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "bash", "-euc", SCRIPT, "bash"])
        .args([&at("cache"), cache, &repository().join("image/build.sh")])
        .args([&at("out"), programs])
        .env("CLOISTER_CACHE", at("cache"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let full = format!("cloister: {} is full: ", at("cache").display());
    assert!(said.contains(&full), "{said}");
    // Nothing of it was left, and the same command now works.
    assert!(
        !said.contains("\nimage-") && !said.contains("\nwork."),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(at("out/root.erofs").exists());
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
        (
            "python3 -c 'import os, sys; os.setxattr(sys.argv[1], \"user.x\", b\"1\")'",
            "python3 -c 'import os, sys; os.removexattr(sys.argv[1], \"user.x\")'",
        ),
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

/// A Nix that has its sandbox off, as far as the script can see: the options are printed.
#[test]
fn a_nix_with_no_sandbox_is_refused_with_the_options_it_lacks() {
    for settings in ["echo false", "exit 1"] {
        a_nix_that_answers(settings);
    }
}

fn a_nix_that_answers(settings: &str) {
    let folder = tempfile::tempdir().unwrap();
    let answers =
        format!("#!/bin/sh\ncase $* in --version) echo nix 2.30.1;; *) {settings};; esac\n");
    // By another process: a file just written here cannot be started while another thread forks.
    let write = Command::new("bash")
        .args([
            "-c",
            "printf %s \"$1\" >nix && chmod +x nix",
            "write",
            &answers,
        ])
        .current_dir(folder.path())
        .status();
    assert!(write.unwrap().success());
    let path = format!(
        "{}:{}",
        folder.path().display(),
        std::env::var("PATH").unwrap()
    );
    let output = Command::new(repository().join("nix/build.sh"))
        .arg("--output")
        .arg(folder.path())
        .env("PATH", path)
        .env_remove("CLOISTER_LOCKED_NIX")
        .output()
        .unwrap();
    refused(
        &output,
        "builds with no sandbox",
        "sandbox-fallback = false",
    );
}

/// What is stated has files of the same names as the image that it is stated of.
#[test]
fn an_image_is_not_written_over_with_what_is_stated_of_it() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("root.erofs"), "an image").unwrap();
    let output = Command::new(repository().join("nix/build.sh"))
        .args(["--stated", "--output"])
        .arg(folder.path())
        .output()
        .unwrap();
    refused(
        &output,
        "holds an image",
        "choose another folder with --output",
    );
}

/// A folder that begins with a dot, at the root, may hold somebody's settings.
#[test]
fn a_hidden_folder_of_the_root_is_no_place_to_work() {
    let Ok(hidden) = tempfile::Builder::new().prefix(".").tempdir_in("/") else {
        eprintln!("SKIPPED, not tested: a hidden folder of / (only root may make one)");
        return;
    };
    let enter = repository().join("image/enter.sh");
    let inside = Command::new(&enter)
        .args(["--offline", "--", "true"])
        .current_dir(hidden.path())
        .output();
    refused(
        &inside.unwrap(),
        "hidden folders of / are not shown",
        "clone elsewhere",
    );
    let outside = Command::new(&enter)
        .args(["--offline", "--", "ls", "-A", "/"])
        .output()
        .unwrap();
    assert!(outside.status.success());
    let shown = String::from_utf8(outside.stdout).unwrap();
    assert!(!shown.lines().any(|name| name.starts_with('.')), "{shown}");
}

#[test]
fn a_machine_without_user_namespaces_is_named() {
    let script = repository().join("nix/build.sh");
    let forbid = "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$0\" -- --version";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "bash", "-c", forbid])
        .arg(script)
        .output()
        .unwrap();
    refused(&output, "no user namespaces", "user.max_user_namespaces");
}

fn reproduces(script: &str, result: &str) -> String {
    let output = Command::new(repository().join(script)).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains(result), "{said}");
    said
}

/// Takes minutes: a stranger compiles the agent and packs the image anew.
#[test]
fn the_image_builds_to_the_same_bits_for_a_stranger() {
    let said = reproduces("image/reproduce.sh", "both builds have the same bits");
    let varied = |what: &str| said.contains(&format!("the stranger has another {what}\n"));
    for what in ["path", "environment", "day", "host name", "modes and times"] {
        assert!(varied(what), "{what}: {said}");
    }
    // Short of memory, or not root, a machine can do less.
    for what in ["file system", "user", "language"] {
        if !varied(what) {
            eprintln!("SKIPPED, not tested: a stranger with another {what}");
        }
    }
}

/// Takes minutes: Nix compiles the agent and packs the image, from locked files to the last bit.
#[test]
fn nix_makes_the_same_image() {
    let first = image::parts("demo").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(repository().join("nix/build.sh"))
        .args(["--profile", "demo", "--output"])
        .arg(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let names = |folder: &Path| -> BTreeSet<_> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    assert_eq!(names(folder.path()), names(&first));
    for name in names(&first) {
        let bits = |folder: &Path| fs::read(folder.join(&name)).unwrap();
        assert!(bits(&first) == bits(folder.path()), "{name:?} differs");
    }
}

/// Both profiles, what is stated of them, and every step of the second way once more.
#[test]
#[ignore = "takes many minutes: make test-reproduce"]
fn both_ways_give_the_same_image_and_statement() {
    reproduces("nix/compare.sh", "both ways give the same bits");
}
