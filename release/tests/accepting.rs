//! What a log takes, and what of it reaches a bundle.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod common;

use attest::release::statement::{MAX_NUMBER, StatusStatement};
use attest::release::{Bundle, EnvelopeError, MAX_BUNDLE_BYTES, Statement};
use common::{Logged, Site};
use release::key::SigningKey;
use release::log::{Accepted, HISTORY_ENTRIES, Kind, Log, LogError};
use release::statement::{sign, status};
use signer::{ISSUED, World, release::rebuild};

/// A log, and its maker's release.
fn logged() -> (Site, Logged, Statement) {
    let site = Site::new();
    let logged = Logged::new(&site);
    let release = World::new().statement();
    logged.append(&release);
    (site, logged, release)
}

fn revoking(release: &Statement, versions: &[u64]) -> StatusStatement {
    signer::release::status(release, ISSUED, versions)
}

/// What strangers put into a log would stand in the makers' way for ever.
#[test]
fn a_log_takes_nothing_of_strangers() {
    let (_site, logged, release) = logged();
    let [stranger, rebuilder] = [(); 2].map(|()| SigningKey::generate().unwrap());
    let accepted = Accepted {
        signers: &[logged.signer.public()],
        rebuilders: &[rebuilder.public()],
    };
    let size = || logged.open().unwrap().checkpoint().size;
    let append = |statement: &[u8], key: &SigningKey| {
        let (path, origin) = (&logged.path, &logged.origin);
        Log::append(path, origin, &logged.key, &sign(statement, key), accepted)
    };
    let mut last = release.clone();
    last.predicate.version = MAX_NUMBER;
    let (said, rebuilt) = (status(&release, 1, Vec::new()), rebuild(&release, 1));
    let (last, said, rebuilt) = (last.encode(), said.encode(), rebuilt.encode());
    for (statement, key, expected) in [
        (&last, &stranger, Kind::Release),
        (&said, &stranger, Kind::Status),
        (&rebuilt, &stranger, Kind::Rebuild),
        // Who rebuilds does not release, and who releases does not confirm it.
        (&last, &rebuilder, Kind::Release),
        (&said, &rebuilder, Kind::Status),
        (&rebuilt, &logged.signer, Kind::Rebuild),
    ] {
        let error = append(statement, key).unwrap_err();
        assert!(
            matches!(error, LogError::Signer { kind, source: EnvelopeError::UnknownSigner }
                if kind == expected),
            "{error}"
        );
        assert_eq!(size(), 1);
    }
    append(&said, &logged.signer).unwrap();
    append(&rebuilt, &rebuilder).unwrap();
    assert_eq!(size(), 3);
    // Known entries once more change nothing, whoever brings them.
    append(&said, &logged.signer).unwrap();
    assert_eq!(size(), 3);
}

#[test]
fn what_was_revoked_stays_revoked() {
    let (_site, logged, release) = logged();
    let append = |versions: &[u64]| {
        let status = revoking(&release, versions);
        logged.try_append(&status.encode(), &logged.signer)
    };
    append(&[5]).unwrap();
    append(&[5, 7]).unwrap();
    for (versions, taken_back) in [(&[][..], 5), (&[7], 5), (&[6, 5], 7)] {
        let error = append(versions).unwrap_err();
        assert!(
            matches!(error, LogError::TakenBack(found) if found == taken_back),
            "{error}"
        );
    }
    append(&[7, 6, 5]).unwrap();
    // Of another release nothing was said.
    let mut next = release.clone();
    next.predicate.version += 1;
    logged.append(&next);
    let current = status(&next, ISSUED, Vec::new());
    logged
        .try_append(&current.encode(), &logged.signer)
        .unwrap();
}

/// However often somebody rebuilds a release, they count once.
#[test]
fn a_bundle_holds_the_last_status_and_each_rebuilders_last_rebuild() {
    let (_site, logged, release) = logged();
    let [alice, bob] = [(); 2].map(|()| SigningKey::generate().unwrap());
    let append = |statement: &[u8], key: &SigningKey| {
        let (_, index) = logged.try_append(statement, key).unwrap();
        index
    };
    append(&status(&release, 1, Vec::new()).encode(), &logged.signer);
    for time in 1..20 {
        append(&rebuild(&release, time).encode(), &alice);
    }
    let expected = [
        append(&status(&release, 2, Vec::new()).encode(), &logged.signer),
        append(&rebuild(&release, 20).encode(), &alice),
        append(&rebuild(&release, 1).encode(), &bob),
    ];
    let bundle: Bundle = logged.open().unwrap().bundle(0, HISTORY_ENTRIES).unwrap();
    let mut found: Vec<_> = bundle.remarks.iter().map(|remark| remark.index).collect();
    found.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn a_bundle_larger_than_clients_read_is_not_written() {
    let site = Site::new();
    let logged = Logged::new(&site);
    let mut release = World::new().statement();
    let one = release.subject[0].clone();
    release.subject = (0..380)
        .map(|number| {
            let mut one = one.clone();
            one.name = format!("artifact-{number:03}").parse().unwrap();
            one
        })
        .collect();
    logged.append(&release);
    let rebuilt = rebuild(&release, 1).encode();
    let bundle = || logged.open().unwrap().bundle(0, HISTORY_ENTRIES);
    let mut rebuilders = 0;
    let bytes = loop {
        match bundle() {
            Ok(bundle) => assert!(bundle.encode().len() <= MAX_BUNDLE_BYTES),
            Err(LogError::BundleSize(bytes)) => break bytes,
            Err(error) => panic!("{error}"),
        }
        rebuilders += 1;
        assert!(rebuilders < 16);
        let rebuilder = SigningKey::generate().unwrap();
        logged.try_append(&rebuilt, &rebuilder).unwrap();
    };
    assert!(bytes > MAX_BUNDLE_BYTES);
}
