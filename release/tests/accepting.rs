//! What a log takes, and what of it reaches a bundle.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod common;

use std::process::Command;

use attest::release::statement::{MAX_NUMBER, StatusStatement};
use attest::release::{Bundle, MAX_BUNDLE_BYTES, Statement};
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
            matches!(error, LogError::Signer(kind) if kind == expected),
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

#[test]
fn a_bundle_is_of_a_release_and_of_nothing_else() {
    let (_site, logged, release) = logged();
    let said = status(&release, 1, Vec::new()).encode();
    let (log, index) = logged.try_append(&said, &logged.signer).unwrap();
    let error = log.bundle(index, HISTORY_ENTRIES).unwrap_err();
    assert!(
        matches!(
            error,
            LogError::NoRelease {
                index: 1,
                kind: Kind::Status
            }
        ),
        "{error}"
    );
}

/// What cannot be written is found before anything is logged, and a pipe is waited for by nobody.
#[test]
fn the_program_logs_nothing_that_it_cannot_finish() {
    let (site, logged, release) = logged();
    let mut next = release.clone();
    next.predicate.version += 1;
    let envelope = sign(&next.encode(), &logged.signer).encode();
    std::fs::write(site.path("envelope.json"), envelope).unwrap();
    SigningKey::create(&site.path("other.pem")).unwrap();
    let pipe = Command::new("mkfifo").arg(site.path("pipe")).status();
    assert!(pipe.unwrap().success());
    let append = |key: &str, envelope: &str, output: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_cloister-release"))
            .args([
                "log",
                "append",
                "--log",
                "releases",
                "--origin",
                common::ORIGIN,
            ])
            .args([
                "--signer",
                &logged.signer.public().to_string(),
                "--key",
                key,
            ])
            .args(["--envelope", envelope, "--output", output])
            .current_dir(site.path(""))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let said = append("other.pem", "envelope.json", "no/such/bundle.json");
    assert!(said.contains("make the folder of --output first"), "{said}");
    for said in [
        append("other.pem", "pipe", "bundle.json"),
        append("pipe", "envelope.json", "bundle.json"),
        append("other.pem", "/dev/zero", "bundle.json"),
    ] {
        assert!(said.contains("a pipe or a device, not a file"), "{said}");
    }
    assert_eq!(logged.open().unwrap().checkpoint().size, 1);
}
