//! The log: what it refuses to go on with, and that writers do not meet.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::path::Path;

use attest::release::checkpoint::CheckpointError;
use attest::release::statement::{Predicate, ReferenceValues, Registers, TpmReferenceValues};
use attest::release::{Origin, Statement, VerifiedRelease};
use common::{Logged, Site, edit};
use proptest::prelude::*;
use release::key::SigningKey;
use release::log::{Log, LogError, note_path, parse};
use release::statement::sign;

/// A statement without artifacts: the log does not look at them.
fn statement(version: u64) -> Statement {
    fn none<const N: usize>() -> Registers<N> {
        let zero = Default::default();
        Registers {
            pcr4: zero,
            pcr9: zero,
            pcr11: zero,
            pcr12: zero,
            pcr13: zero,
        }
    }
    let predicate = Predicate {
        name: "cloister".parse().unwrap(),
        version,
        profile: "production".parse().unwrap(),
        source_revision: "0123abcd".parse().unwrap(),
        lock_digest: Default::default(),
        configuration_digest: Default::default(),
        reference_values: ReferenceValues {
            tpm: TpmReferenceValues {
                sha256: none(),
                sha384: none(),
            },
            snp: None,
            tdx: None,
        },
    };
    Statement::new(Vec::new(), predicate)
}

/// A log with three entries.
fn three() -> (Site, Logged) {
    let site = Site::new();
    let logged = Logged::new(&site);
    for version in 1..=3 {
        logged.append(&statement(version));
    }
    (site, logged)
}

#[test]
fn every_entry_is_proved_under_every_later_checkpoint() {
    let site = Site::new();
    let logged = Logged::new(&site);
    for version in 1..=9 {
        logged.append(&statement(version));
        let log = logged.open().unwrap();
        for index in 0..version {
            let bundle = log.bundle(index).unwrap().encode();
            let verified = VerifiedRelease::verify(&bundle, &logged.policy()).unwrap();
            assert_eq!(
                (verified.index(), verified.checkpoint().size),
                (index, version)
            );
        }
        assert!(matches!(log.bundle(version), Err(LogError::NoEntry { .. })));
    }
}

#[test]
fn the_same_envelope_is_logged_once() {
    let (_site, logged) = three();
    let before = fs::read(&logged.path).unwrap();
    assert_eq!(logged.append(&statement(2)).log.index, 1);
    assert_eq!(fs::read(&logged.path).unwrap(), before);
}

#[test]
fn a_version_that_does_not_grow_is_refused() {
    let (_site, logged) = three();
    let mut other = statement(3);
    other.predicate.source_revision = "other".parse().unwrap();
    let append = |statement: &Statement| {
        let envelope = sign(statement, &logged.signer);
        Log::append(&logged.path, &logged.origin, &logged.key, &envelope)
    };
    let error = append(&other).unwrap_err();
    assert!(
        matches!(
            error,
            LogError::Version {
                logged: 3,
                offered: 3,
                ..
            }
        ),
        "{error}"
    );
    other.predicate.profile = "demo".parse().unwrap();
    append(&other).unwrap();
    let log = logged.open().unwrap();
    assert_eq!(log.highest_version("cloister", "demo"), Some(3));
    assert_eq!(log.highest_version("cloister", "gpu"), None);
    assert_eq!(log.releases().flatten().count(), 4);
}

#[test]
fn a_log_is_never_begun_anew() {
    let (_site, logged) = three();
    let create = || Log::create(&logged.path, &logged.origin, &logged.key);
    assert!(matches!(create(), Err(LogError::Exists(_))));
    fs::remove_file(&logged.path).unwrap();
    assert!(matches!(logged.open(), Err(LogError::Missing(_))));
    assert!(matches!(create(), Err(LogError::Exists(path)) if path == note_path(&logged.path)));
}

#[test]
fn a_log_that_lost_or_changed_entries_is_refused_and_left_alone() {
    use LogError as E;
    type Change = fn(&Path);
    fn drop_last_line(path: &Path) {
        edit(path, |bytes| {
            let end = bytes[..bytes.len() - 1]
                .iter()
                .rposition(|&byte| byte == b'\n')
                .unwrap();
            bytes.truncate(end + 1);
        });
    }
    fn swap_lines(path: &Path) {
        let text = fs::read_to_string(path).unwrap();
        let mut lines: Vec<_> = text.lines().collect();
        lines.swap(0, 1);
        fs::write(path, lines.join("\n") + "\n").unwrap();
    }
    type Check = fn(&E) -> bool;
    let cases: [(Change, Check); 7] = [
        (drop_last_line, |e| {
            matches!(
                e,
                E::Truncated {
                    expected: 3,
                    found: 2,
                    ..
                }
            )
        }),
        (swap_lines, |e| matches!(e, E::Changed { .. })),
        (
            |path| edit(path, |bytes| bytes.truncate(bytes.len() - 1)),
            |e| matches!(e, E::Torn { .. }),
        ),
        (
            |path| edit(path, |bytes| bytes.push(b'{')),
            |e| matches!(e, E::Torn { .. }),
        ),
        (
            |path| edit(path, |bytes| bytes[0] = b' '),
            |e| matches!(e, E::Entry { line: 1, .. }),
        ),
        (
            |path| fs::write(path, "").unwrap(),
            |e| matches!(e, E::Truncated { found: 0, .. }),
        ),
        (
            |path| fs::remove_file(note_path(path)).unwrap(),
            |e| matches!(e, E::NoCheckpoint(_)),
        ),
    ];
    for (number, (change, expected)) in cases.iter().enumerate() {
        let (_site, logged) = three();
        change(&logged.path);
        let before = fs::read(&logged.path).unwrap();
        let error = logged.open().unwrap_err();
        assert!(expected(&error), "case {number}: {error}");
        let envelope = sign(&statement(4), &logged.signer);
        let error = Log::append(&logged.path, &logged.origin, &logged.key, &envelope).unwrap_err();
        assert!(expected(&error), "case {number}: {error}");
        assert_eq!(fs::read(&logged.path).unwrap(), before, "case {number}");
    }
}

#[test]
fn a_checkpoint_of_another_log_key_or_text_is_refused() {
    let (_site, logged) = three();
    let origin: Origin = "other.example.org".to_owned().try_into().unwrap();
    let wrong = |error: LogError| match error {
        LogError::Checkpoint { source, .. } => source,
        other => panic!("{other}"),
    };
    let opened = Log::open(&logged.path, &origin, &logged.key.public());
    assert!(matches!(
        wrong(opened.unwrap_err()),
        CheckpointError::Origin { .. }
    ));
    let key = SigningKey::generate().unwrap().public();
    let opened = Log::open(&logged.path, &logged.origin, &key);
    assert!(matches!(
        wrong(opened.unwrap_err()),
        CheckpointError::Unsigned { .. }
    ));
    edit(&note_path(&logged.path), |note| {
        let size = note.iter().position(|&byte| byte == b'3').unwrap();
        note[size] = b'2';
    });
    let error = wrong(logged.open().unwrap_err());
    assert!(matches!(error, CheckpointError::Signature { .. }));
}

#[test]
fn an_append_that_died_before_its_checkpoint_is_covered_by_the_next() {
    let (_site, logged) = three();
    let note = fs::read(note_path(&logged.path)).unwrap();
    logged.append(&statement(4));
    fs::write(note_path(&logged.path), note).unwrap();
    assert_eq!(logged.open().unwrap().entries().len(), 3);
    assert_eq!(logged.append(&statement(5)).log.index, 4);
    assert_eq!(logged.open().unwrap().entries().len(), 5);
}

#[test]
fn writers_at_the_same_time_lose_nothing() {
    let site = Site::new();
    let logged = Logged::new(&site);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let logged = &logged;
            scope.spawn(move || {
                for round in 0..5u64 {
                    let mut release = statement(round + 1);
                    release.predicate.profile = format!("writer-{writer}").parse().unwrap();
                    logged.append(&release);
                }
            });
        }
    });
    let log = logged.open().unwrap();
    assert_eq!(log.entries().len(), 20);
    for writer in 0..4 {
        assert_eq!(
            log.highest_version("cloister", &format!("writer-{writer}")),
            Some(5)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
        let _ = parse(Path::new("log"), &bytes);
    }

    #[test]
    fn a_changed_byte_is_never_read_as_the_same_log(at: usize, flip in 1u8..) {
        static LOG: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let bytes = LOG.get_or_init(|| {
            let (_site, logged) = three();
            fs::read(logged.path).unwrap()
        });
        let mut other = bytes.to_vec();
        let at = at % other.len();
        other[at] ^= flip;
        let read = |bytes: &[u8]| parse(Path::new("log"), bytes);
        if let (Ok(old), Ok(new)) = (read(bytes), read(&other)) {
            prop_assert_ne!(old, new);
        }
    }
}

#[test]
fn a_beginning_that_was_interrupted_begins_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let key = SigningKey::generate().unwrap();
    let origin = common::ORIGIN.to_owned().try_into().unwrap();
    fs::write(&path, "").unwrap();
    assert_eq!(
        Log::create(&path, &origin, &key).unwrap().entries().len(),
        0
    );
    assert!(matches!(
        Log::create(&path, &origin, &key),
        Err(LogError::Exists(_))
    ));
}
