//! The monitor: what stands in a log under our keys, and has no right to.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::process::{Command, Output};

use attest::release::envelope::EnvelopeSignature;
use attest::release::{Checkpoint, Statement, merkle};
use common::{Logged, ORIGIN, Site};
use release::key::SigningKey;
use release::log::Log;
use release::log::tiles::encode_entries;
use release::monitor::{Finding, Tags, check, tags};
use release::statement::{sign, status};

fn git(site: &Site, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=t", "-c", "user.email=t@example.org"]);
    let output = command
        .args(arguments)
        .current_dir(site.path(""))
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A checkout with two commits, tagged v1 (light) and v2 (annotated).
fn sources(site: &Site) -> Tags {
    git(site, &["init", "--quiet"]);
    git(
        site,
        &["commit", "--quiet", "--allow-empty", "--message=one"],
    );
    git(site, &["tag", "v1"]);
    git(
        site,
        &["commit", "--quiet", "--allow-empty", "--message=two"],
    );
    git(site, &["tag", "--annotate", "--message=two", "v2"]);
    tags(&site.path("")).unwrap()
}

fn release(version: u64, revision: &str) -> Statement {
    let mut statement = signer::World::new().statement();
    statement.predicate.version = version;
    statement.predicate.source_revision = revision.parse().unwrap();
    statement
}

#[test]
fn every_entry_under_our_keys_needs_its_tag() {
    let site = Site::new();
    let tags = sources(&site);
    let logged = Logged::new(&site);
    let ours = [logged.signer.public()];
    let (one, two) = (tags["v1"].as_str(), tags["v2"].as_str());
    assert_eq!(two, git(&site, &["rev-parse", "HEAD"]));
    let append = |statement: Vec<u8>| logged.try_append(&statement, &logged.signer).unwrap().1;
    let findings = || check(&logged.open().unwrap(), &ours, &tags, "v{version}").unwrap();
    let first = release(1, one);
    append(first.encode());
    append(status(&first, 1, Vec::new()).encode());
    append(signer::release::rebuild(&first, 1).encode());
    append(release(2, two).encode());
    // What others log is theirs.
    let stranger = SigningKey::generate().unwrap();
    let strange = release(77, "unknown");
    logged.try_append(&strange.encode(), &stranger).unwrap();
    assert_eq!(findings(), []);
    let no_tag = append(release(78, two).encode());
    let mut profile = release(1, two);
    profile.predicate.profile = "demo".parse().unwrap();
    let other_source = append(profile.encode());
    let strange_status = append(status(&strange, 1, Vec::new()).encode());
    let strange_rebuild = append(signer::release::rebuild(&strange, 1).encode());
    let mut forged = sign(&release(90, one).encode(), &stranger);
    forged.signatures.push(EnvelopeSignature {
        keyid: ours[0],
        sig: vec![0; 64],
    });
    let (_, forged) = logged.append_of(&forged, stranger.public()).unwrap();
    let name: attest::Name = "cloister".parse().unwrap();
    let expected = [
        (
            no_tag,
            Finding::NoTag {
                name: name.clone(),
                version: 78,
                tag: "v78".to_owned(),
            },
        ),
        (
            other_source,
            Finding::OtherSource {
                name,
                version: 1,
                tag: "v1".to_owned(),
                expected: one.to_owned(),
                found: two.parse().unwrap(),
            },
        ),
        (strange_status, Finding::StrangeStatus),
        (
            strange_rebuild,
            Finding::StrangeRebuild("unknown".parse().unwrap()),
        ),
        (forged, Finding::Forged),
    ];
    assert_eq!(findings(), expected);
}

/// Whoever has the signer's key and the log's can log two releases of one version, each made of the
/// revision that the tag names. `append` would not: here the keeper writes the files.
#[test]
fn a_second_release_of_one_version_is_found() {
    let site = Site::new();
    let tags = sources(&site);
    let logged = Logged::new(&site);
    let first = release(1, &tags["v1"]);
    let mut second = first.clone();
    second.predicate.configuration_digest = attest::Digest([0xee; 32]);
    let mut profile = first.clone();
    profile.predicate.profile = "demo".parse().unwrap();
    let found = |releases: [&Statement; 2]| {
        let entries = releases.map(|release| sign(&release.encode(), &logged.signer).encode());
        let leaves = [&entries[0], &entries[1]].map(|entry| merkle::leaf_hash(entry));
        let root = merkle::node_hash(leaves[0], leaves[1]);
        let checkpoint = Checkpoint {
            origin: logged.origin.clone(),
            size: 2,
            root,
        };
        let signature = logged.key.sign(checkpoint.text().as_bytes());
        let note = checkpoint.note(&logged.key.public(), &signature);
        for (path, bytes) in [
            ("tile/entries/000.p/2", encode_entries(&entries)),
            ("tile/0/000.p/2", [leaves[0].0, leaves[1].0].concat()),
            ("checkpoint", note.into_bytes()),
        ] {
            let path = logged.path.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let ours = [logged.signer.public()];
        check(&logged.open().unwrap(), &ours, &tags, "v{version}").unwrap()
    };
    assert_eq!(found([&first, &profile]), []);
    assert_eq!(found([&first, &first]), []);
    let twice = Finding::Twice {
        first: 0,
        name: "cloister".parse().unwrap(),
        profile: first.predicate.profile.clone(),
        version: 1,
    };
    assert_eq!(found([&first, &second]), [(1, twice)]);
}

#[test]
fn the_program_tells_by_its_exit_code_and_remembers_the_log() {
    let site = Site::new();
    let tags = sources(&site);
    let logged = Logged::new(&site);
    let (log_key, signer) = (logged.key.public(), logged.signer.public());
    let run_with = |first: &str| -> Output {
        let line = format!(
            "monitor --log releases --origin {ORIGIN} --log-key {log_key} --signer {signer} \
             --memory seen.note --json {first}"
        );
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-release"));
        let command = command
            .args(line.split_whitespace())
            .current_dir(site.path(""));
        command.output().unwrap()
    };
    let run = || run_with("");
    logged.append(&release(1, &tags["v1"]));
    let output = run();
    assert_eq!(output.status.code(), Some(5), "no memory: {output:?}");
    let output = run_with("--first");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    logged.append(&release(3, &tags["v2"]));
    let output = run();
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["findings"][0]["index"], 1);
    // The log is begun anew, with the same name and key: the memory tells.
    std::fs::remove_dir_all(&logged.path).unwrap();
    Log::create(&logged.path, &logged.origin, &logged.key).unwrap();
    let output = run();
    assert_eq!(output.status.code(), Some(5), "{output:?}");
}
