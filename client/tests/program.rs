//! The program against a server: what it prints, sends, remembers.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::sync::Arc;

use common::{Answer, Behaviour, Person, Server};
use serde_json::Value;

const FACTS: [&str; 3] = [
    "verified ✓ machine   ",
    "verified ✓ software  cloister 7 (production)",
    "verified ✓ log       ",
];

fn ask(person: &Person, server: &Server, more: &[&str]) -> common::Outcome {
    let url = server.url();
    let mut arguments = vec!["ask", &url, "a question", "--policy", "policy.toml"];
    arguments.extend(more);
    person.run(&arguments, "")
}

#[test]
fn an_answer_comes_after_three_verified_facts() {
    let (person, server) = (Person::new(), Server::start(Behaviour::default()));
    let outcome = ask(&person, &server, &[]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert_eq!(outcome.stdout, "Hello, world.\n");
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{}", outcome.stderr);
    for (line, fact) in lines.iter().zip(FACTS) {
        assert!(line.starts_with(fact), "{line}");
    }
}

#[test]
fn the_request_is_what_was_asked_for() {
    let answer = Answer::Echo;
    let server = Server::start(Behaviour {
        answer,
        ..Behaviour::default()
    });
    let more = [
        "--system",
        "Be brief.",
        "--max-tokens",
        "9",
        "--temperature",
        "0.5",
        "--seed",
        "7",
    ];
    let outcome = ask(&Person::new(), &server, &more);
    let expected = "system,user max_tokens=9 temperature=0.5 seed=7\n";
    assert_eq!(outcome.stdout, expected, "{}", outcome.stderr);
    let requests = server.requests.lock().unwrap();
    let request: Value = serde_json::from_str(&requests[0]).unwrap();
    assert_eq!(request["model"], "cloister-demo");
    assert_eq!(request["stream"], true);
    assert_eq!(request["messages"][1]["content"], "a question");
}

#[test]
fn the_prompt_comes_from_standard_input() {
    let (person, server) = (Person::new(), Server::start(Behaviour::default()));
    let arguments = ["ask", &server.url(), "-", "--policy", "policy.toml"];
    let outcome = person.run(&arguments, "from a pipe\n");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(server.requests.lock().unwrap()[0].contains("from a pipe"));
}

#[test]
fn a_chat_remembers_what_was_said() {
    let answer = Answer::Echo;
    let server = Server::start(Behaviour {
        answer,
        ..Behaviour::default()
    });
    let arguments = ["chat", &server.url(), "--policy", "policy.toml"];
    let outcome = Person::new().run(&arguments, "one\n\ntwo\n");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let rest = "max_tokens=null temperature=0.0 seed=null";
    let expected = format!("user {rest}\nuser,assistant,user {rest}\n");
    assert_eq!(outcome.stdout, expected);
}

#[test]
fn verify_sends_nothing_and_shows_facts() {
    let (person, server) = (Person::new(), Server::start(Behaviour::default()));
    let url = server.url();
    let outcome = person.run(&["verify", &url, "--policy", "policy.toml"], "");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert_eq!(outcome.stdout.lines().count(), 3);
    assert_eq!(outcome.stderr, "");
    let arguments = ["verify", &url, "--policy", "policy.toml", "--explain"];
    let explained = person.run(&arguments, "").stdout;
    for what in [
        "PCR 4",
        "PCR 9",
        "PCR 11",
        "PCR 12",
        "Secure Boot",
        "release log",
        "assurance",
    ] {
        assert!(explained.contains(what), "{what} is missing in {explained}");
    }
    let blocks = explained.matches("\n    rests on  ").count();
    assert!(blocks >= 20, "{explained}");
    assert!(server.requests.lock().unwrap().is_empty());
}

#[test]
fn json_has_its_shape() {
    let (person, server) = (Person::new(), Server::start(Behaviour::default()));
    let outcome = ask(&person, &server, &["--json"]);
    assert_eq!(outcome.stderr, "");
    let value: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(value["schema"], "cloister.report.v1");
    assert_eq!(value["verified"], true);
    assert_eq!(value["assurance"], "per-handshake");
    assert_eq!(value["release"]["version"], 7);
    assert_eq!(value["model"]["name"], "cloister-demo");
    assert_eq!(value["answer"]["text"], "Hello, world.");
    assert_eq!(value["answer"]["finish_reason"], "stop");
    assert_eq!(value["exit_code"], 0);
    let claim = value["claims"][0].as_object().unwrap();
    let keys: Vec<&String> = claim.keys().collect();
    assert_eq!(keys, ["expected", "found", "rests_on", "what"]);
}

#[test]
fn a_refusal_in_json_says_its_class() {
    let (person, server) = (Person::new(), Server::start(Behaviour::default()));
    let policy = signer::World::new().policy_toml();
    person.write(
        "strict.toml",
        policy.replace("minimum_version = 1", "minimum_version = 8"),
    );
    let arguments = ["verify", &server.url(), "--policy", "strict.toml", "--json"];
    let outcome = person.run(&arguments, "");
    assert_eq!(outcome.code, 4);
    let value: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(value["verified"], false);
    assert_eq!(value["failure"]["class"], "policy");
    assert_eq!(value["exit_code"], 4);
}

#[test]
fn hostile_text_does_not_reach_json_raw() {
    let hostile = "\u{1b}[2J\u{202e}\u{9b}\u{e0041}";
    let answer = Answer::Pieces(vec![hostile.to_owned()]);
    let server = Server::start(Behaviour {
        answer,
        ..Behaviour::default()
    });
    let outcome = ask(&Person::new(), &server, &["--json"]);
    assert!(outcome.stdout.is_ascii(), "{:?}", outcome.stdout);
    let value: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(value["answer"]["text"], hostile);
}

#[test]
fn a_release_may_come_from_a_file() {
    let evidence = |world: &signer::World, binding: &attest::Binding| {
        let mut evidence = world.evidence(binding);
        evidence.release.clear();
        evidence
    };
    let evidence = Arc::new(evidence);
    let server = Server::start(Behaviour {
        evidence,
        ..Behaviour::default()
    });
    let person = Person::new();
    assert_eq!(ask(&person, &server, &[]).code, 5, "no release at all");
    assert!(server.requests.lock().unwrap().is_empty());
    person.write("release.json", signer::World::new().bundle());
    let outcome = ask(&person, &server, &["--release", "release.json"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
}

#[test]
fn an_older_release_than_the_last_is_refused() {
    let (person, new) = (Person::new(), Server::start(Behaviour::default()));
    assert_eq!(ask(&person, &new, &[]).code, 0);
    let mut behaviour = Behaviour::default();
    behaviour.world.predicate.version = 6;
    let old = Server::start(behaviour);
    let outcome = ask(&person, &old, &[]);
    assert_eq!(outcome.code, 4, "{}", outcome.stderr);
    assert!(old.requests.lock().unwrap().is_empty());
    let outcome = ask(&person, &old, &["--state", "another"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
}

#[test]
fn nothing_is_sent_to_a_server_that_is_refused() {
    let mut cases: Vec<(i32, Behaviour)> = Vec::new();
    let other = Arc::new(|world: &signer::World, _: &attest::Binding| {
        world.evidence(&world.handshake_binding())
    });
    let evidence = other;
    cases.push((
        2,
        Behaviour {
            evidence,
            ..Behaviour::default()
        },
    ));
    let mut behaviour = Behaviour::default();
    behaviour.world.authority = signer::authority::Authority::new("Someone else", 0x77);
    behaviour.world.certificate = (behaviour.world.authority)
        .attestation_key(behaviour.world.attestation_key.verifying_key());
    cases.push((2, behaviour));
    let mut behaviour = Behaviour::default();
    behaviour.world.certificate.validity[1] = "210101000000Z".to_owned();
    cases.push((3, behaviour));
    let mut behaviour = Behaviour::default();
    behaviour.world.predicate.reference_values.tpm.sha384.pcr9 = attest::Digest::ZERO;
    cases.push((4, behaviour));
    let mut behaviour = Behaviour::default();
    behaviour.world.origin = "log.example.org/another".to_owned();
    cases.push((5, behaviour));
    cases.push((
        6,
        Behaviour {
            closed: true,
            ..Behaviour::default()
        },
    ));
    for (code, behaviour) in cases {
        let server = Server::start(behaviour);
        let outcome = ask(&Person::new(), &server, &[]);
        assert_eq!(outcome.code, code, "{}", outcome.stderr);
        assert_eq!(outcome.stdout, "");
        assert!(server.requests.lock().unwrap().is_empty());
        assert!(!outcome.stderr.contains("verified ✓"), "{}", outcome.stderr);
    }
}
