//! Releases that were signed and logged with real services (`recorded/README.md`), shown by a
//! server whose machine is the one that they state.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::sync::Arc;

use common::{Behaviour, Fresh, Outcome, Person, Server};
use serde_json::Value;
use signer::{ISSUED, World, release};

const IDENTITY: &str = "https://ci.example.org/cloister/release.yml@refs/tags/v{version}";
const ISSUER: &str = "https://issuer.example.org";

fn world(version: u64) -> World {
    let mut world = World::new();
    world.predicate.version = version;
    world
}

/// What was signed, by the name of the file that holds its bundle.
fn payloads() -> [(&'static str, Vec<u8>); 5] {
    let statement = world(7).statement();
    let status = |revoked: &[u64]| release::status(&statement, ISSUED + 60, revoked).encode();
    [
        ("v6", world(6).statement().encode()),
        ("v7", statement.encode()),
        ("v7-current", status(&[])),
        ("v7-revoked", status(&[7])),
        (
            "v7-rebuilt",
            release::rebuild(&statement, ISSUED + 60).encode(),
        ),
    ]
}

fn recorded(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recorded");
    std::fs::read(format!("{folder}/{name}.json")).unwrap()
}

/// A release with what is said of it.
fn release_file(names: &[&str]) -> Vec<u8> {
    let bundles = names.iter().map(|name| recorded(name));
    bundles.collect::<Vec<_>>().join(&b'\n')
}

/// `RECORD_STATEMENTS=FOLDER` writes what is to be signed anew, once the world of tests changed.
#[test]
fn what_is_recorded_is_signed_of_the_world_of_today() {
    if let Some(folder) = std::env::var_os("RECORD_STATEMENTS") {
        for (name, payload) in payloads() {
            let path = std::path::Path::new(&folder).join(format!("{name}.json"));
            std::fs::write(path, payload).unwrap();
        }
        return;
    }
    use base64::Engine as _;
    for (name, payload) in payloads() {
        let bundle: Value = serde_json::from_slice(&recorded(name)).unwrap();
        let signed = bundle["dsseEnvelope"]["payload"].as_str().unwrap();
        let signed = base64::engine::general_purpose::STANDARD.decode(signed);
        assert_eq!(signed.unwrap(), payload, "{name}");
    }
}

fn policy_text() -> String {
    let text = World::new().policy_toml();
    let rest = &text[text.find("[tpm]").unwrap()..];
    format!(
        "version = 2\n[release]\nname = \"cloister\"\nprofile = \"production\"\n\
         minimum_version = 1\nmaximum_age_days = \"any\"\nminimum_rebuilders = 0\n\
         [release.sigstore]\nidentity = \"{IDENTITY}\"\nissuer = \"{ISSUER}\"\n\
         trusted_root = {{ file = \"trusted_root.json\" }}\n\
         rebuilders = [{{ name = \"alice\", identity = \"alice@example.org\", \
         issuer = \"{ISSUER}\" }}]\n\n{rest}"
    )
}

fn person() -> Person {
    let person = Person::new();
    person.write("policy.toml", policy_text());
    person.write("trusted_root.json", recorded("trusted_root"));
    person
}

/// A server whose evidence holds this release.
fn server(file: Vec<u8>) -> Server {
    let evidence = move |world: &World, binding: &attest::Binding| {
        let mut evidence = world.evidence(binding);
        evidence.release.clone_from(&file);
        evidence
    };
    Server::start(Behaviour {
        evidence: Arc::new(evidence),
        ..Behaviour::default()
    })
}

fn verify(person: &Person, server: &Server, more: &[&str]) -> Outcome {
    let url = server.url();
    let mut arguments = vec!["verify", &url, "--policy", "policy.toml"];
    arguments.extend(more);
    person.run(&arguments, "")
}

#[test]
fn evidence_and_a_release_in_sigstore_give_one_verdict_of_three_facts() {
    let (person, server) = (person(), server(release_file(&["v7"])));
    let outcome = verify(&person, &server, &[]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let facts: Vec<&str> = outcome.stdout.lines().collect();
    let [machine, software, log] = facts[..] else {
        panic!("{facts:?}")
    };
    assert!(machine.starts_with("verified ✓ machine   TPM, key certified by CN=Test"));
    assert_eq!(
        software,
        "verified ✓ software  cloister 7 (production), model cloister-demo; signed by \
         https://ci.example.org/cloister/release.yml@refs/tags/v7, vouched for by \
         https://issuer.example.org; rebuilt by none"
    );
    assert!(log.contains(" of rekor.local (Sigstore); witnesses: none; no log seen before"));
    let explained = verify(&person, &server, &["--explain"]);
    assert_eq!(explained.code, 0, "{}", explained.stderr);
    assert!(explained.stdout.contains("rests on  trusted root sha256:"));
    let json = verify(&person, &server, &["--json"]);
    let value: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(value["release"]["log_kind"], "sigstore");
    assert_eq!(value["release"]["log"], "rekor.local");
    let state = person.path(".local/state/cloister/state.json");
    let state: Value = serde_json::from_slice(&std::fs::read(state).unwrap()).unwrap();
    assert_eq!(state["sigstore"][0]["origin"], "rekor.local");
}

#[test]
fn a_file_holds_a_release_of_either_kind() {
    let without = server(Vec::new());
    let person = person();
    assert_eq!(verify(&person, &without, &[]).code, 5);
    person.write("sigstore.json", release_file(&["v7"]));
    person.write("log.json", World::new().bundle());
    person.write("log.toml", World::new().policy_toml());
    let url = without.url();
    let run = |policy: &str, release: &str| {
        let line = ["verify", &url, "--policy", policy, "--release", release];
        person.run(&line, "")
    };
    for (policy, release, code) in [
        ("policy.toml", "sigstore.json", 0),
        ("log.toml", "log.json", 0),
        ("policy.toml", "log.json", 4),
        ("log.toml", "sigstore.json", 4),
    ] {
        let outcome = run(policy, release);
        assert_eq!(outcome.code, code, "{policy} {release}: {}", outcome.stderr);
        if code != 0 {
            let why = "cloister: refused, nothing was sent: release bundle: of ";
            assert!(outcome.stderr.starts_with(why), "{}", outcome.stderr);
        }
    }
}

#[test]
fn what_is_said_of_a_release_in_sigstore_is_heeded() {
    let person = person();
    let rebuilt = release_file(&["v7", "v7-current", "v7-rebuilt"]);
    let sound = server(rebuilt);
    person.write(
        "policy.toml",
        policy_text().replace("minimum_rebuilders = 0", "minimum_rebuilders = 1"),
    );
    let outcome = verify(&person, &sound, &[]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stdout.contains("rebuilt by alice"));
    assert_eq!(verify(&person, &server(release_file(&["v7"])), &[]).code, 4);
    // Without the status, and older than the one that was accepted.
    person.write("policy.toml", policy_text());
    let older = verify(&person, &server(release_file(&["v6"])), &[]);
    let why = "release version: 7 was accepted before, found 6";
    assert_eq!(older.code, 4);
    assert!(older.stderr.contains(why), "{}", older.stderr);
    let revoked = server(release_file(&["v7", "v7-revoked"]));
    let outcome = verify(&person, &revoked, &[]);
    assert_eq!(outcome.code, 4, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("7 was revoked by its signer"));
}

#[test]
fn a_revocation_in_sigstore_ends_a_running_session() {
    let person = person();
    let strict = policy_text().replace("reattest_seconds = 600", "reattest_seconds = 0");
    person.write("policy.toml", strict);
    let with = |world: &World, binding: &attest::Binding, names: &[&str]| {
        let mut evidence = world.evidence(binding);
        evidence.release = release_file(names);
        evidence
    };
    let server = Server::start(Behaviour {
        evidence: Arc::new(move |world, binding| with(world, binding, &["v7"])),
        refresh: Arc::new(move |world, handshake, nonce, time| {
            let names: &[&str] = match time {
                1 => &["v7", "v7-current"],
                _ => &["v7", "v7-revoked"],
            };
            let evidence = with(world, &handshake.session(nonce), names);
            Fresh::Evidence(Box::new(evidence))
        }),
        ..Behaviour::default()
    });
    let arguments = ["chat", &server.url(), "--policy", "policy.toml"];
    let outcome = person.run(&arguments, "one\ntwo\n");
    assert_eq!(outcome.code, 4, "{}", outcome.stderr);
    assert_eq!(outcome.stdout, "Hello, world.\n");
    assert_eq!(server.requests.lock().unwrap().len(), 1);
}

#[test]
fn another_signer_or_authority_is_refused() {
    let server = server(release_file(&["v7"]));
    let refused = |from: &str, to: &str, code: i32, why: &str| {
        let person = person();
        let text = policy_text();
        assert!(text.contains(from), "{from}");
        person.write("policy.toml", text.replace(from, to));
        let outcome = verify(&person, &server, &[]);
        assert_eq!(outcome.code, code, "{}", outcome.stderr);
        assert!(outcome.stderr.contains(why), "{}", outcome.stderr);
    };
    let identity = "not signed by the identity that the policy names";
    refused("v{version}", "v8", 4, identity);
    let issuer = "not vouched for by the issuer that the policy names";
    refused(
        "issuer = \"https://issuer.example.org\"\ntrusted",
        "issuer = \"https://other.example.org\"\ntrusted",
        4,
        issuer,
    );
    refused(
        "{ file = \"trusted_root.json\" }",
        "{ built_in = \"public-good-2025-09-23\" }",
        3,
        "no timestamp of an authority that the trusted root names",
    );
    let other = "the one that is built in is public-good-2025-09-23";
    refused(
        "{ file = \"trusted_root.json\" }",
        "{ built_in = \"public-good-2031-01-01\" }",
        1,
        other,
    );
    refused(
        "{ file = \"trusted_root.json\" }",
        "{ file = \"none.json\" }",
        1,
        "cannot read the trusted root",
    );
    refused(
        "{ file = \"trusted_root.json\" }",
        "{ file = \"policy.toml\" }",
        1,
        "release.sigstore.trusted_root: ",
    );
    assert!(server.requests.lock().unwrap().is_empty());
}

#[test]
fn the_policy_in_the_documents_is_accepted() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/sigstore.md");
    let text = std::fs::read_to_string(path).unwrap();
    let block = text.split("```toml\n").nth(1).unwrap();
    let block = block.split("```").next().unwrap();
    let own = policy_text();
    let rest = &own[own.find("[tpm]").unwrap()..];
    let policy = attest::Policy::parse(format!("{block}\n{rest}").as_bytes()).unwrap();
    let sigstore = policy.release.sigstore().unwrap();
    let attest::policy::TrustedRoot::BuiltIn(name) = &sigstore.trusted_root else {
        panic!("the documents name a root that is built in")
    };
    // And by that name the program has it.
    assert_eq!(name.as_str(), cloister_sigstore::BUILT_IN_ROOT);
}
