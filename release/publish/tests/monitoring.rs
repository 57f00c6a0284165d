//! The monitor of a log at an address: what it copies, what it refuses, whom it tells.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod common;

use std::path::Path;
use std::process::{Command, Output};

use attest::Digest;
use attest::release::Checkpoint;
use attest::release::checkpoint::CheckpointError;
use common::PATIENCE;
use common::logs::{Logged, ORIGIN, origin};
use common::loopback::{Reply, Server, block_on, serve_log};
use publish::AskError;
use publish::mirror::{MirrorError, mirror};
use release::log::replica::Replica;
use release::log::{Log, LogError};
use serde_json::Value;

/// Brings the copy beside a log up to date with what stands at `url`.
fn copy_from(logged: &Logged, url: &str) -> Result<Log, MirrorError> {
    publish::install_tls();
    let (copy, origin, key) = (logged.file("copy"), origin(), logged.key.public());
    let replica = Replica::new(&copy, &origin, &key);
    let http = publish::http_client(PATIENCE.timeout).unwrap();
    block_on(mirror(&http, PATIENCE, url, &replica))
}

/// Serves a log's files with some of them changed.
fn serving(log: &Path, change: impl Fn(&str, Vec<u8>) -> Reply + Send + Sync + 'static) -> Server {
    let log = log.to_owned();
    Server::start(move |_, (line, _)| {
        let path = line.split(' ').nth(1).unwrap_or("/");
        match std::fs::read(log.join(path.trim_start_matches('/'))) {
            Ok(bytes) => change(path, bytes),
            Err(_) => Reply::status(404),
        }
    })
}

#[test]
fn a_log_is_copied_whole_and_only_what_is_new_is_fetched() {
    let logged = Logged::new();
    let url = serve_log(&logged.path);
    assert_eq!(copy_from(&logged, &url).unwrap().entries().len(), 0);
    for (versions, size) in [(1..=3, 3), (4..=4, 4), (5..=257, 257)] {
        logged.grow(versions);
        let copy = copy_from(&logged, &url).unwrap();
        assert_eq!(copy.entries(), logged.open().entries());
        assert_eq!(copy.checkpoint().size, size);
    }
    let server = serving(&logged.path, |_, bytes| Reply::ok(bytes));
    logged.grow(258..=258);
    copy_from(&logged, &server.url).unwrap();
    let mut asked: Vec<_> = server.asked().into_iter().map(|(line, _)| line).collect();
    asked.sort();
    let expected = [
        "GET /checkpoint HTTP/1.1",
        "GET /tile/0/001.p/2 HTTP/1.1",
        "GET /tile/entries/001.p/2 HTTP/1.1",
    ];
    assert_eq!(asked, expected);
}

#[test]
fn a_log_that_shows_another_thing_than_it_signed_is_not_copied() {
    let logged = Logged::new();
    logged.grow(1..=3);
    let flipped = |which: &'static str| {
        serving(&logged.path, move |path, mut bytes| {
            if path.contains(which) {
                let last = bytes.len() - 40;
                bytes[last] ^= 1;
            }
            Reply::ok(bytes)
        })
    };
    let error = copy_from(&logged, &flipped("/tile/entries/").url).unwrap_err();
    assert!(matches!(
        error,
        MirrorError::Log(LogError::Changed { .. } | LogError::Entry(_))
    ));
    let error = copy_from(&logged, &flipped("/tile/0/").url).unwrap_err();
    assert!(matches!(error, MirrorError::Log(LogError::Tile(_))));
    let error = copy_from(&logged, &flipped("/checkpoint").url).unwrap_err();
    // Another signature, or no letter of one.
    assert!(matches!(
        error,
        MirrorError::Log(LogError::Checkpoint { .. })
    ));
    let hidden = serving(&logged.path, |path, bytes| match path.contains("entries") {
        true => Reply::status(404),
        false => Reply::ok(bytes),
    });
    let error = copy_from(&logged, &hidden.url).unwrap_err();
    assert!(matches!(error, MirrorError::Hidden { status: 404, .. }));
    // Nothing of all that was kept.
    assert!(!logged.file("copy").join("checkpoint").exists());
    assert!(!logged.file("copy").join("tile").exists());
    copy_from(&logged, &serve_log(&logged.path)).unwrap();
}

#[test]
fn a_log_of_no_end_or_of_another_name_is_not_copied() {
    let logged = Logged::new();
    logged.grow(1..=1);
    let saying = |note: String| Server::saying(Reply::ok(note));
    let sign = |checkpoint: &Checkpoint| {
        let signature = logged.key.sign(checkpoint.text().as_bytes());
        checkpoint.note(&logged.key.public(), &signature)
    };
    let checkpoint = |origin: &str, size| Checkpoint {
        origin: origin.to_owned().try_into().unwrap(),
        size,
        root: Digest::ZERO,
    };
    // Signed, and absurd: nothing of it is asked for.
    let huge = saying(sign(&checkpoint(ORIGIN, 1 << 60)));
    let error = copy_from(&logged, &huge.url).unwrap_err();
    assert!(matches!(error, MirrorError::Log(LogError::TooLarge(_))));
    assert_eq!(huge.asked().len(), 1);
    let other = saying(sign(&checkpoint("log.example.org/other", 1)));
    let error = copy_from(&logged, &other.url).unwrap_err();
    assert!(matches!(
        error,
        MirrorError::Log(LogError::Checkpoint {
            source: CheckpointError::Origin { .. },
            ..
        })
    ));
    for endless in [
        Reply::Endless,
        Reply::Dripping,
        Reply::Silent,
        Reply::status(429),
    ] {
        let error = copy_from(&logged, &Server::saying(endless).url).unwrap_err();
        assert!(matches!(error, MirrorError::Ask { .. }));
    }
    let tile = serving(&logged.path, |path, bytes| match path.contains("tile/0") {
        true => Reply::Endless,
        false => Reply::ok(bytes),
    });
    let error = copy_from(&logged, &tile.url).unwrap_err();
    let MirrorError::Ask { source, .. } = error else {
        panic!("{error}");
    };
    assert!(matches!(source, AskError::TooLong { limit: 32 }));
}

#[test]
fn a_copy_of_one_face_never_takes_the_other() {
    let logged = Logged::new();
    logged.grow(1..=3);
    copy_from(&logged, &serve_log(&logged.path)).unwrap();
    let other = logged.second_face();
    // Smaller, as large, larger.
    for versions in [1..=2, 3..=3, 4..=5] {
        other.grow(versions);
        let error = copy_from(&logged, &serve_log(&other.path)).unwrap_err();
        assert!(matches!(error, MirrorError::Log(LogError::Changed { .. })));
    }
    logged.grow(4..=4);
    copy_from(&logged, &serve_log(&logged.path)).unwrap();
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=t", "-c", "user.email=t@example.org"]);
    let output = command
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A checkout whose one commit is tagged v1; gives the commit.
fn sources(logged: &Logged) -> String {
    let folder = logged.file("sources");
    std::fs::create_dir(&folder).unwrap();
    git(&folder, &["init", "--quiet"]);
    git(
        &folder,
        &["commit", "--quiet", "--allow-empty", "--message=one"],
    );
    git(&folder, &["tag", "v1"]);
    git(&folder, &["rev-parse", "HEAD"])
}

fn release(logged: &Logged, version: u64, revision: &str) {
    let mut statement = common::statement();
    statement.predicate.version = version;
    statement.predicate.source_revision = revision.parse().unwrap();
    logged.append(&statement);
}

fn monitor(logged: &Logged, url: &str, more: &[&str]) -> (Option<i32>, Value) {
    let line = format!(
        "monitor --json --log {url} --copy copy --origin {ORIGIN} --log-key {} --signer {} \
         --source sources --memory seen.note --attempts 1 --timeout-s 2",
        logged.key.public(),
        logged.signer.public()
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-publish"));
    command.args(line.split_whitespace()).args(more);
    if !logged.file("seen.note").exists() {
        command.arg("--first");
    }
    let output: Output = command.current_dir(logged.folder.path()).output().unwrap();
    let said = match output.stdout.is_empty() {
        true => output.stderr,
        false => output.stdout,
    };
    (output.status.code(), serde_json::from_slice(&said).unwrap())
}

#[test]
fn the_monitor_tells_by_exit_code_and_webhook() {
    let logged = Logged::new();
    let commit = sources(&logged);
    let url = serve_log(&logged.path);
    release(&logged, 1, &commit);
    let hook = Server::saying(Reply::status(204));
    let told = ["--webhook", hook.url.as_str()];
    let (code, said) = monitor(&logged, &url, &told);
    assert_eq!((code, &said["size"]), (Some(0), &1.into()), "{said}");
    // Nothing to tell: nobody is told.
    assert_eq!(hook.asked().len(), 0);
    release(&logged, 7, &commit);
    let (code, said) = monitor(&logged, &url, &told);
    assert_eq!(code, Some(6), "{said}");
    let asked = hook.asked();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].0.starts_with("POST / "));
    let posted: Value = serde_json::from_slice(&asked[0].1).unwrap();
    assert_eq!(posted, said);
    assert_eq!(posted["findings"][0]["index"], 1);
    // Told again until somebody looks; and if nobody hears, the exit code says so.
    for deaf in [
        Reply::status(500),
        Reply::status(404),
        Reply::Dead,
        Reply::Silent,
    ] {
        let deaf = Server::saying(deaf);
        let (code, said) = monitor(&logged, &url, &["--webhook", &deaf.url]);
        assert_eq!(code, Some(7), "{said}");
        assert!(said["untold"].is_string());
        assert_eq!(said["findings"][0]["index"], 1);
    }
    assert_eq!(monitor(&logged, &url, &[]).0, Some(6));
}

#[test]
fn the_monitor_knows_a_log_that_was_rewritten_or_is_away() {
    let logged = Logged::new();
    let commit = sources(&logged);
    release(&logged, 1, &commit);
    let url = serve_log(&logged.path);
    assert_eq!(monitor(&logged, &url, &[]).0, Some(0));
    let memory = std::fs::read(logged.file("seen.note")).unwrap();
    // Away, or busy: nothing is known, and nothing forgotten.
    let busy = Server::saying(Reply::status(429));
    for url in ["http://127.0.0.1:1", &busy.url, "no://address"] {
        assert_eq!(monitor(&logged, url, &[]).0, Some(3), "{url}");
    }
    let hook = Server::saying(Reply::ok(""));
    let told = ["--webhook", hook.url.as_str()];
    let other = logged.second_face();
    release(&other, 1, &commit);
    release(&other, 2, &commit);
    let second = serve_log(&other.path);
    let (code, said) = monitor(&logged, &second, &told);
    assert_eq!(code, Some(5), "{said}");
    let posted: Value = serde_json::from_slice(&hook.asked()[0].1).unwrap();
    assert_eq!(posted["error"], said["error"]);
    // Without its copy it knows by its memory.
    std::fs::remove_dir_all(logged.file("copy")).unwrap();
    assert_eq!(monitor(&logged, &second, &told).0, Some(5));
    let deaf = ["--webhook", "http://127.0.0.1:1"];
    assert_eq!(monitor(&logged, &second, &deaf).0, Some(7));
    assert_eq!(std::fs::read(logged.file("seen.note")).unwrap(), memory);
    std::fs::remove_dir_all(logged.file("copy")).unwrap();
    assert_eq!(monitor(&logged, &url, &[]).0, Some(0));
}
