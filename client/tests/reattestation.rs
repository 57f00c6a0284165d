//! Fresh evidence within a session: silent where all is well, and the end of it where not.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use attest::{Binding, Evidence};
use common::{Answer, Behaviour, Fresh, Outcome, Person, Server, fresh};
use signer::{ISSUED, World, release};

const TWO_QUESTIONS: &str = "one\ntwo\n";
const ENDED: &str = "cloister: refused, the session ended, nothing more was sent: ";

/// Somebody whose policy asks for fresh evidence before every request.
fn person() -> Person {
    let person = Person::new();
    let policy = World::new().policy_toml();
    person.write(
        "policy.toml",
        policy.replace("reattest_seconds = 600", "reattest_seconds = 0"),
    );
    person
}

fn server(
    refresh: impl Fn(&World, &Binding, [u8; 32], usize) -> Fresh + Send + Sync + 'static,
) -> Server {
    Server::start(Behaviour {
        refresh: Arc::new(refresh),
        answer: Answer::Pieces(vec!["An answer.".to_owned()]),
        ..Behaviour::default()
    })
}

fn chat(person: &Person, server: &Server, more: &[&str]) -> Outcome {
    let url = server.url();
    let mut arguments = vec!["chat", &url, "--policy", "policy.toml"];
    arguments.extend(more);
    person.run(&arguments, TWO_QUESTIONS)
}

/// The second question is not sent, and the line says why.
fn ended(outcome: &Outcome, server: &Server, code: i32, why: &str) {
    assert_eq!(outcome.code, code, "{}", outcome.stderr);
    assert_eq!(outcome.stdout, "An answer.\n");
    let said = outcome.stderr.lines().nth(3).unwrap();
    assert!(said.starts_with(&format!("{ENDED}{why}")), "{said}");
    let requests = server.requests.lock().unwrap();
    assert_eq!(requests.len(), 1);
    assert!(!requests[0].contains("two"));
}

/// Evidence of the second time as `change` makes it.
fn second(
    change: impl Fn(&World, &Binding, [u8; 32]) -> Evidence + Send + Sync + 'static,
) -> Server {
    server(move |world, handshake, nonce, time| match time {
        1 => fresh(world, handshake, nonce),
        _ => Fresh::Evidence(Box::new(change(world, handshake, nonce))),
    })
}

/// The release with what its signer said of it at `issued`.
fn with_status(issued: u64, revoked: &[u64]) -> Vec<u8> {
    let world = World::new();
    let sign = |bytes: Vec<u8>, key| release::sign(&bytes, key);
    let statement = world.statement();
    let mut log = world.log();
    log.append_other(b"first");
    let index = log.append(&world.envelope());
    let rebuild = release::rebuild(&statement, ISSUED + 60).encode();
    let status = release::status(&statement, issued, revoked).encode();
    let remarks = [
        log.append(&sign(rebuild, &world.rebuilder_key)),
        log.append(&sign(status, &world.release_key)),
    ];
    world.bundle_of(&log, index, &remarks).encode()
}

#[test]
fn good_fresh_evidence_is_silent() {
    let (person, server) = (
        person(),
        server(|world, handshake, nonce, _| fresh(world, handshake, nonce)),
    );
    let outcome = chat(&person, &server, &[]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert_eq!(outcome.stdout, "An answer.\nAn answer.\n");
    assert_eq!(outcome.stderr.lines().count(), 3, "{}", outcome.stderr);
    assert_eq!(server.refreshed.load(Ordering::SeqCst), 2);
    assert_eq!(server.requests.lock().unwrap().len(), 2);
    // Young evidence is not asked for again.
    let patient = Person::new();
    assert_eq!(chat(&patient, &server, &[]).code, 0);
    assert_eq!(server.refreshed.load(Ordering::SeqCst), 2);
}

#[test]
fn a_revocation_ends_a_running_session() {
    let server = second(|world, handshake, nonce| {
        let mut evidence = world.evidence(&handshake.session(nonce));
        evidence.release = with_status(ISSUED + 90, &[7]);
        evidence
    });
    let outcome = chat(&person(), &server, &[]);
    ended(
        &outcome,
        &server,
        4,
        "release version: 7 was revoked by its signer",
    );
}

/// The file that a person names is read each time: a newer one counts from then on.
#[test]
fn a_revocation_in_a_renewed_file_ends_a_running_session() {
    let person = person();
    person.write("release.json", World::new().bundle());
    let path = person.path("release.json");
    let server = server(move |world, handshake, nonce, time| {
        if time == 2 {
            std::fs::write(&path, with_status(ISSUED + 90, &[7])).unwrap();
        }
        fresh(world, handshake, nonce)
    });
    let outcome = chat(&person, &server, &["--release", "release.json"]);
    ended(
        &outcome,
        &server,
        4,
        "release version: 7 was revoked by its signer",
    );
}

/// A later release in the same log.
fn newer() -> Behaviour {
    let mut behaviour = Behaviour::default();
    let old = World::new();
    behaviour.world.predicate.version = 8;
    behaviour.evidence = Arc::new(move |world, binding| {
        let rebuild = |world: &World| {
            let bytes = release::rebuild(&world.statement(), ISSUED + 60).encode();
            release::sign(&bytes, &world.rebuilder_key)
        };
        let mut log = world.log();
        log.append_other(b"first");
        log.append(&old.envelope());
        log.append(&rebuild(&old));
        let index = log.append(&world.envelope());
        let remark = log.append(&rebuild(world));
        let mut evidence = world.evidence(binding);
        evidence.release = world.bundle_of(&log, index, &[remark]).encode();
        evidence
    });
    behaviour
}

/// What one client learns, another one's running session heeds.
#[test]
fn what_another_client_learned_ends_a_running_session() {
    let (person, newer) = (person(), Server::start(newer()));
    let (folder, url) = (person.folder.path().to_owned(), newer.url());
    let server = server(move |world, handshake, nonce, time| {
        if time == 2 {
            let verified = std::process::Command::new(env!("CARGO_BIN_EXE_cloister"))
                .args(["verify", &url, "--policy", "policy.toml"])
                .current_dir(&folder)
                .env_clear()
                .env("HOME", &folder)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&verified.stderr);
            assert!(verified.status.success(), "{said}");
        }
        fresh(world, handshake, nonce)
    });
    let outcome = chat(&person, &server, &[]);
    let why = "release version: 8 was accepted before, found 7";
    ended(&outcome, &server, 4, why);
}

#[test]
fn evidence_of_another_session_or_machine_ends_a_session() {
    let other = second(|world, handshake, nonce| {
        let mut changed_key = *handshake;
        if let Binding::Handshake { server_static, .. } = &mut changed_key {
            server_static[0] ^= 1;
        }
        world.evidence(&changed_key.session(nonce))
    });
    let why = "quote: made for another handshake or nonce";
    ended(&chat(&person(), &other, &[]), &other, 2, why);
    // Anybody can fetch this from a sound machine.
    let nonce_alone = second(|world, _, nonce| world.evidence(&world.nonce_binding(nonce)));
    ended(&chat(&person(), &nonce_alone, &[]), &nonce_alone, 2, why);
    let replayed = second(|world, handshake, _| world.evidence(&handshake.session([7; 32])));
    ended(&chat(&person(), &replayed, &[]), &replayed, 2, why);
}

#[test]
fn another_measurement_ends_a_session() {
    let server = second(|world, handshake, nonce| {
        let mut world = world.clone();
        // Something was measured after the start.
        world.events.push(signer::boot::Event {
            register: 12,
            kind: 13,
            measured: b"an addition".to_vec(),
            data: b"an addition".to_vec(),
        });
        world.evidence(&handshake.session(nonce))
    });
    ended(&chat(&person(), &server, &[]), &server, 4, "PCR 12");
}

#[test]
fn a_release_that_became_stale_ends_a_session() {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let person = person();
    let policy = std::fs::read_to_string(person.path("policy.toml")).unwrap();
    // The release alone is two days old; its last status is of today, and then is withheld.
    let strict = policy.replace("maximum_age_days = \"any\"", "maximum_age_days = 1");
    person.write("policy.toml", strict);
    let shown = move |world: &World, binding: &Binding| {
        let mut evidence = world.evidence(binding);
        evidence.release = with_status(now, &[]);
        evidence
    };
    let server = Server::start(Behaviour {
        evidence: Arc::new(shown),
        refresh: Arc::new(move |world, handshake, nonce, time| {
            let binding = handshake.session(nonce);
            Fresh::Evidence(Box::new(match time {
                1 => shown(world, &binding),
                _ => world.evidence(&binding),
            }))
        }),
        answer: Answer::Pieces(vec!["An answer.".to_owned()]),
        ..Behaviour::default()
    });
    let outcome = chat(&person, &server, &[]);
    ended(&outcome, &server, 4, "release age: last confirmed");
}

#[test]
fn a_server_that_gives_no_fresh_evidence_gets_no_further_request() {
    let server = server(|world, handshake, nonce, time| match time {
        1 => fresh(world, handshake, nonce),
        _ => Fresh::Status(503),
    });
    let outcome = chat(&person(), &server, &[]);
    assert_eq!(outcome.code, 4, "{}", outcome.stderr);
    let why = "cloister: the session ended, nothing more was sent: \
               the server gives no fresh evidence (HTTP 503 Service Unavailable)";
    assert_eq!(outcome.stderr.lines().nth(3), Some(why));
    assert_eq!(server.requests.lock().unwrap().len(), 1);
}
