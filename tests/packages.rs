//! Locked packages: fetched by their hash alone, whatever the mirrors do.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use sha2::{Digest, Sha256};
use support::tools::repository;

use super::refused;

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
