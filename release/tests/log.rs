//! The log: what it refuses to go on with, and that writers do not meet.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use attest::release::checkpoint::CheckpointError;
use attest::release::statement::{
    Predicate, ReferenceValues, Registers, Subject, SubjectDigest, TpmReferenceValues,
};
use attest::release::{Checkpoint, Origin, Statement, VerifiedRelease};
use attest::{Digest, Ratchet};
use common::{Logged, Site, edit};
use proptest::prelude::*;
use release::key::SigningKey;
use release::log::tiles::{TilePath, encode_entries, parse_entries};
use release::log::witness::{self, WitnessError};
use release::log::{Log, LogError};

/// A statement of one artifact: the log does not look at it.
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
        issued: common::ISSUED,
        builder: "a test".parse().unwrap(),
        minimum_client: "0.1.0".parse().unwrap(),
        source_revision: "0123abcd".parse().unwrap(),
        lock_digest: Default::default(),
        configuration_digest: Default::default(),
        revocations: Vec::new(),
        reference_values: ReferenceValues {
            tpm: TpmReferenceValues {
                sha256: none(),
                sha384: none(),
            },
            snp: None,
            tdx: None,
        },
    };
    let subject = Subject {
        name: "disk.img".parse().unwrap(),
        digest: SubjectDigest {
            sha256: Default::default(),
        },
    };
    Statement::new(vec![subject], predicate)
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

/// Every file of a log, by its path in the log's folder.
fn files(log: &Path) -> BTreeMap<String, Vec<u8>> {
    fn collect(folder: &Path, root: &Path, into: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, root, into);
            } else {
                let name = path
                    .strip_prefix(root)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned();
                into.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    collect(log, log, &mut found);
    found.remove(".lock");
    found
}

#[test]
fn every_entry_is_proved_under_every_later_checkpoint() {
    let site = Site::new();
    let logged = Logged::new(&site);
    for version in 1..=9 {
        logged.append(&statement(version));
        let log = logged.open().unwrap();
        for index in 0..version {
            let bundle = log.bundle(index, 256).unwrap().encode();
            let verified = VerifiedRelease::verify(&bundle, &logged.policy()).unwrap();
            assert_eq!((verified.index(), verified.log_size()), (index, version));
        }
        let outside = log.bundle(version, 256);
        assert!(matches!(outside, Err(LogError::NoEntry { .. })));
    }
}

/// A client that saw the log at any time accepts it at any later time, over the border of a tile.
#[test]
fn a_log_grows_over_a_full_tile_and_clients_follow() {
    let site = Site::new();
    let logged = Logged::new(&site);
    let mut ratchet = Ratchet::UNSEEN;
    for version in 1..=260 {
        logged.append(&statement(version));
        if ![1, 2, 200, 255, 256, 257, 260].contains(&version) {
            continue;
        }
        let log = logged.open().unwrap();
        let bundle = log.bundle(version - 1, 256).unwrap().encode();
        let verified = VerifiedRelease::verify(&bundle, &logged.policy()).unwrap();
        ratchet = ratchet.advance(&verified).unwrap();
        assert_eq!(ratchet.log().unwrap().size(), version);
    }
    let mut found: Vec<_> = files(&logged.path).into_keys().collect();
    // The last state and the one before it; nothing else is kept.
    let mut expected: Vec<_> = [259, 260].map(TilePath::all).concat();
    expected.dedup();
    let mut expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
    expected.push("checkpoint".to_owned());
    expected.sort();
    expected.dedup();
    found.sort();
    assert_eq!(found, expected);
    assert_eq!(
        fs::metadata(logged.path.join("tile/0/000")).unwrap().len(),
        8192
    );
}

#[test]
fn the_same_envelope_is_logged_once() {
    let (_site, logged) = three();
    let before = files(&logged.path);
    assert_eq!(logged.append(&statement(2)).log.index, 1);
    assert_eq!(files(&logged.path), before);
}

#[test]
fn a_version_that_does_not_grow_is_refused() {
    let (_site, logged) = three();
    let mut other = statement(3);
    other.predicate.source_revision = "other".parse().unwrap();
    let append = |statement: &Statement| logged.try_append(&statement.encode(), &logged.signer);
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
    assert_eq!(log.releases().count(), 4);
}

#[test]
fn what_is_no_statement_of_ours_or_too_large_is_not_logged() {
    let (_site, logged) = three();
    let before = files(&logged.path);
    let error = logged.try_append(b"{}", &logged.signer).unwrap_err();
    assert!(matches!(error, LogError::Statement(_)), "{error}");
    let mut large = statement(4);
    let subject = signer::World::new().statement().subject[0].clone();
    large.subject = vec![subject; 700];
    let error = logged
        .try_append(&large.encode(), &logged.signer)
        .unwrap_err();
    assert!(matches!(error, LogError::EntrySize(_)), "{error}");
    assert_eq!(files(&logged.path), before);
}

#[test]
fn a_log_is_never_begun_anew() {
    let (_site, logged) = three();
    let create = || Log::create(&logged.path, &logged.origin, &logged.key);
    assert!(matches!(create(), Err(LogError::Exists(_))));
    fs::remove_file(logged.path.join("checkpoint")).unwrap();
    assert!(matches!(logged.open(), Err(LogError::NoCheckpoint(_))));
    assert!(matches!(create(), Err(LogError::Exists(path)) if path.ends_with("tile")));
    fs::remove_dir_all(&logged.path).unwrap();
    assert!(matches!(logged.open(), Err(LogError::Missing(_))));
    let appended = logged.try_append(&statement(1).encode(), &logged.signer);
    assert!(matches!(appended, Err(LogError::Missing(_))));
}

#[test]
fn a_beginning_that_was_interrupted_begins_again() {
    let site = Site::new();
    let logged = Logged::new(&site);
    fs::remove_file(logged.path.join("checkpoint")).unwrap();
    let log = Log::create(&logged.path, &logged.origin, &logged.key).unwrap();
    assert_eq!(log.entries().len(), 0);
}

#[test]
fn a_log_that_lost_or_changed_something_is_refused_and_left_alone() {
    use LogError as E;
    type Change = fn(&Path);
    type Check = fn(&E) -> bool;
    const ENTRIES: &str = "tile/entries/000.p/3";
    const HASHES: &str = "tile/0/000.p/3";
    fn swap(path: &Path) {
        let bytes = fs::read(path.join(ENTRIES)).unwrap();
        let mut entries = parse_entries(&bytes, 3).unwrap();
        entries.swap(0, 1);
        fs::write(path.join(ENTRIES), encode_entries(&entries)).unwrap();
    }
    let cases: [(Change, Check); 8] = [
        (
            |log| fs::remove_file(log.join(ENTRIES)).unwrap(),
            |e| matches!(e, E::Removed(_)),
        ),
        (
            |log| fs::remove_file(log.join(HASHES)).unwrap(),
            |e| matches!(e, E::Removed(_)),
        ),
        (swap, |e| matches!(e, E::Changed { .. })),
        (
            |log| edit(&log.join(ENTRIES), |bytes| bytes.truncate(bytes.len() - 1)),
            |e| matches!(e, E::Bundle(_)),
        ),
        (
            |log| edit(&log.join(ENTRIES), |bytes| bytes.extend([0, 0])),
            |e| matches!(e, E::Bundle(_)),
        ),
        (
            |log| edit(&log.join(ENTRIES), |bytes| bytes[2] = b' '),
            |e| matches!(e, E::Entry(0)),
        ),
        (
            |log| edit(&log.join(HASHES), |bytes| bytes[40] ^= 1),
            |e| matches!(e, E::Tile(_)),
        ),
        (
            |log| fs::remove_file(log.join("checkpoint")).unwrap(),
            |e| matches!(e, E::NoCheckpoint(_)),
        ),
    ];
    for (number, (change, expected)) in cases.iter().enumerate() {
        let (_site, logged) = three();
        change(&logged.path);
        let before = files(&logged.path);
        let error = logged.open().unwrap_err();
        assert!(expected(&error), "case {number}: {error}");
        let error = logged
            .try_append(&statement(4).encode(), &logged.signer)
            .unwrap_err();
        assert!(expected(&error), "case {number}: {error}");
        assert_eq!(files(&logged.path), before, "case {number}");
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
    edit(&logged.path.join("checkpoint"), |note| {
        let size = note.iter().position(|&byte| byte == b'3').unwrap();
        note[size] = b'2';
    });
    let error = wrong(logged.open().unwrap_err());
    assert!(matches!(error, CheckpointError::Signature { .. }));
}

/// Whatever an append left that died before its checkpoint was promised to nobody.
#[test]
fn an_append_that_died_before_its_checkpoint_is_replaced_by_the_next() {
    let (_site, logged) = three();
    let note = fs::read(logged.path.join("checkpoint")).unwrap();
    logged.append(&statement(4));
    fs::write(logged.path.join("checkpoint"), note).unwrap();
    assert_eq!(logged.open().unwrap().entries().len(), 3);
    assert_eq!(logged.append(&statement(5)).log.index, 3);
    let log = logged.open().unwrap();
    assert_eq!(log.highest_version("cloister", "production"), Some(5));
    assert_eq!(log.entries().len(), 4);
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
                    // Readers take no lock.
                    logged.open().unwrap();
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

#[test]
fn a_bundle_brings_the_last_status_and_every_rebuild_that_gave_the_same() {
    let (_site, logged) = three();
    let alice = SigningKey::generate().unwrap();
    let release = statement(2);
    let append = |statement: Vec<u8>, key| logged.try_append(&statement, key).unwrap().1;
    let status = |issued| release::statement::status(&release, issued, Vec::new()).encode();
    append(status(1), &logged.signer);
    let last = append(status(2), &logged.signer);
    append(
        release::statement::status(&statement(3), 9, Vec::new()).encode(),
        &logged.signer,
    );
    let rebuilt = append(signer::release::rebuild(&release, 3).encode(), &alice);
    let mut other = release.clone();
    other.predicate.lock_digest = attest::Digest::sha256(b"another");
    append(signer::release::rebuild(&other, 4).encode(), &alice);
    let bundle = logged.open().unwrap().bundle(1, 256).unwrap();
    let remarks: Vec<_> = bundle.remarks.iter().map(|remark| remark.index).collect();
    assert_eq!(remarks, [last, rebuilt]);
    let mut policy = logged.policy();
    policy.minimum_rebuilders = 1;
    policy.log_mut().unwrap().rebuilders = vec![attest::policy::Rebuilder {
        name: "alice".parse().unwrap(),
        key: alice.public(),
    }];
    let verified = VerifiedRelease::verify(&bundle.encode(), &policy).unwrap();
    assert_eq!(verified.rebuilders().len(), 1);
}

#[test]
fn a_witness_signs_only_what_continues_what_it_signed() {
    let (site, logged) = three();
    let memory = site.path("witness.note");
    let check_first = |first: bool| {
        let log = logged.open().unwrap();
        let named = (&logged.origin, &logged.key.public());
        witness::check(&memory, first, &log, named)
    };
    let check = || check_first(false);
    check_first(true).unwrap();
    // Whoever mistypes the memory's name has signed before.
    assert!(matches!(check(), Err(WitnessError::Forgotten(_))));
    let backup = site.path("backup");
    let copy = |from: &Path, to: &Path| {
        let copied = Command::new("cp").arg("-a").args([from, to]).status();
        assert!(copied.unwrap().success());
    };
    copy(&logged.path, &backup);
    logged.append(&statement(4));
    fs::write(&memory, logged.open().unwrap().checkpoint_note()).unwrap();
    check().unwrap();
    logged.append(&statement(5));
    check().unwrap();
    fs::remove_dir_all(&logged.path).unwrap();
    copy(&backup, &logged.path);
    let smaller = check();
    assert!(matches!(
        smaller,
        Err(WitnessError::Smaller {
            signed: 4,
            found: 3
        })
    ));
    logged.append(&statement(9));
    let changed = check();
    assert!(matches!(
        changed,
        Err(WitnessError::Changed { size: 4, .. })
    ));
    fs::write(&memory, "half a no").unwrap();
    assert!(matches!(check(), Err(WitnessError::Memory { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>, width in 0usize..300, text: String) {
        if let Some(entries) = parse_entries(&bytes, width) {
            prop_assert_eq!(encode_entries(&entries), bytes);
        }
        if let Some(path) = TilePath::parse(&text) {
            prop_assert_eq!(path.to_string(), text);
        }
    }

    #[test]
    fn a_changed_byte_is_never_read_as_the_same_entries(at: usize, flip in 1u8..) {
        let entries = [b"one".to_vec(), b"".to_vec(), b"three".to_vec()];
        let mut bytes = encode_entries(&entries);
        let at = at % bytes.len();
        bytes[at] ^= flip;
        prop_assert_ne!(parse_entries(&bytes, 3), Some(entries.to_vec()));
    }
}

/// The list of the files of such a log alone would fill the memory.
#[test]
fn a_checkpoint_of_more_entries_than_a_log_can_have_is_refused() {
    let (_site, logged) = three();
    for size in [1 << 22, 1 << 60, u64::MAX] {
        let checkpoint = Checkpoint {
            origin: logged.origin.clone(),
            size,
            root: Digest([7; 32]),
        };
        let signature = logged.key.sign(checkpoint.text().as_bytes());
        let note = checkpoint.note(&logged.key.public(), &signature);
        fs::write(logged.path.join("checkpoint"), note).unwrap();
        assert!(
            matches!(logged.open(), Err(LogError::TooLarge(_))),
            "{size}"
        );
    }
}
