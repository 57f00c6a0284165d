//! What a person sees after each mistake, theirs or the server's: golden files with exact standard
//! error, standard output and exit code. `UPDATE_TRANSCRIPTS=1 cargo test` writes them anew.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use common::{Answer, Behaviour, Person, Server};

/// Runs the program with `line` as its arguments, split at spaces, and compares with the golden
/// file. `URL` stands for the server.
fn check(name: &str, person: &Person, server: Option<&Server>, line: &str) {
    let url = server.map(Server::url).unwrap_or_default();
    let words: Vec<String> = line
        .split(' ')
        .map(|word| word.replace("URL", &url))
        .collect();
    let words: Vec<&str> = words
        .iter()
        .map(String::as_str)
        .filter(|word| !word.is_empty())
        .collect();
    let outcome = person.run(&words, "");
    let mut text = format!("$ cloister {line}\nexit code {}\n", outcome.code);
    for (stream, content) in [("output", outcome.stdout), ("error", outcome.stderr)] {
        if !content.is_empty() {
            write!(
                text,
                "--- standard {stream}\n{}",
                neutral(&content, person, server)
            )
            .unwrap();
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/transcripts")
        .join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_TRANSCRIPTS").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{}", path.display());
}

/// Takes out what differs from run to run: address, folder, digests of one handshake.
fn neutral(text: &str, person: &Person, server: Option<&Server>) -> String {
    let mut text = text.replace(&person.folder.path().display().to_string(), "FOLDER");
    if let Some(server) = server {
        text = text.replace(&server.address.to_string(), "ADDRESS");
    }
    if let Some((before, behind)) = text.split_once(", and it is ") {
        let behind = behind.split_once('\n').map_or("", |(_, rest)| rest);
        text = format!("{before}, and it is NOW\n{behind}");
    }
    let mut out = String::new();
    for word in text.split_inclusive(|c: char| !c.is_ascii_hexdigit()) {
        let digits = word.trim_end_matches(|c: char| !c.is_ascii_hexdigit());
        if digits.len() >= 64 {
            out.push_str("DIGEST");
            out.push_str(&word[digits.len()..]);
        } else {
            out.push_str(word);
        }
    }
    out
}

const ASK: &str = "ask URL question --policy policy.toml";

fn with(answer: Answer) -> Server {
    Server::start(Behaviour {
        answer,
        ..Behaviour::default()
    })
}

#[test]
fn mistakes_on_the_command_line() {
    let person = Person::new();
    for (name, line) in [
        ("no-arguments", ""),
        ("unknown-command", "aks http://h question"),
        ("unknown-option", "ask http://h question --modell x"),
        ("no-policy", "ask http://h question"),
        ("no-prompt", "ask http://h --policy policy.toml"),
        ("empty-prompt", "ask http://h - --policy policy.toml"),
        (
            "url-without-scheme",
            "verify host:8080 --policy policy.toml",
        ),
        (
            "url-of-other-scheme",
            "verify ftp://host --policy policy.toml",
        ),
        (
            "url-with-path",
            "verify http://host/v1 --policy policy.toml",
        ),
        (
            "temperature-too-high",
            "ask http://h q --temperature 3 --policy policy.toml",
        ),
        (
            "no-tokens",
            "ask http://h q --max-tokens 0 --policy policy.toml",
        ),
        ("chat-in-json", "chat http://h --json --policy policy.toml"),
    ] {
        check(name, &person, None, line);
    }
}

#[test]
fn mistakes_in_files() {
    let person = Person::new();
    let policy = signer::World::new().policy_toml();
    check(
        "policy-missing",
        &person,
        None,
        "verify http://h --policy none.toml",
    );
    person.write("not.toml", "version: 1");
    check(
        "policy-not-toml",
        &person,
        None,
        "verify http://h --policy not.toml",
    );
    person.write(
        "less.toml",
        policy.replace("secure_boot = \"required\"", ""),
    );
    check(
        "policy-incomplete",
        &person,
        None,
        "verify http://h --policy less.toml",
    );
    person.write("more.toml", format!("debug = true\n{policy}"));
    check(
        "policy-with-more",
        &person,
        None,
        "verify http://h --policy more.toml",
    );
    let line = "verify http://h --policy policy.toml --release none.json";
    check("release-missing", &person, None, line);
    let line = "verify http://h --policy policy.toml --release big.json";
    person.write("big.json", vec![b' '; 300 << 10]);
    check("release-too-large", &person, None, line);
    std::fs::create_dir(person.path("state")).unwrap();
    person.write("state/state.json", "{\"version\":1,\"relea");
    let line = "verify http://h --policy policy.toml --state state";
    check("state-half-written", &person, None, line);
}

#[test]
fn a_state_folder_that_takes_nothing() {
    let (person, server) = (Person::new(), Server::start(Behaviour::default()));
    // A file in place of a folder fails for every user, root included.
    person.write("file", "");
    let line = "ask URL question --policy policy.toml --state file/state";
    check("state-not-writable", &person, Some(&server), line);
    let line = [
        "verify",
        &server.url(),
        "--policy",
        "policy.toml",
        "--state",
        "/sys/cloister",
    ];
    let outcome = person.run(&line, "");
    let expected = "cannot remember the release version in /sys/cloister: ";
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
    assert!(server.requests.lock().unwrap().is_empty());
}

#[test]
fn a_server_that_is_not_there_or_another() {
    let person = Person::new();
    let line = "verify http://no-such-host.invalid --policy policy.toml";
    check("host-unknown", &person, None, line);
    // Port 1 of the loopback is closed on every machine that we know.
    let line = "verify http://127.0.0.1:1 --policy policy.toml";
    check("port-closed", &person, None, line);
    let server = Server::start(Behaviour::default());
    let line = format!("verify https://{} --policy policy.toml", server.address);
    let outcome = person.run(&line.split(' ').collect::<Vec<_>>(), "");
    assert_eq!(outcome.code, 6);
    assert!(
        outcome.stderr.contains("does not speak TLS"),
        "{}",
        outcome.stderr
    );
}

/// A listener that answers whatever is asked with `answer`, once.
fn listener(answer: &'static str) -> String {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let count = stream.read(&mut [0; 4096]).unwrap();
        assert!(count > 0);
        stream.write_all(answer.as_bytes()).unwrap();
    });
    format!("http://{address}")
}

#[test]
fn servers_of_another_kind() {
    let person = Person::new();
    for (answer, shown) in [
        (
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "cloister: not a Cloister server: the server answered HTTP 404 at /v1/channel\n  \
             hint: check host and port; a proxy in between must pass WebSockets\n",
        ),
        (
            "SSH-2.0-OpenSSH_9.2\r\n",
            "cloister: not a Cloister server: the peer does not speak WebSocket\n  \
             hint: check host and port; a proxy in between must pass WebSockets\n",
        ),
        ("", "cloister: the server hung up\n"),
    ] {
        let url = listener(answer);
        let outcome = person.run(&["verify", &url, "--policy", "policy.toml"], "");
        assert_eq!((outcome.code, outcome.stderr.as_str()), (6, shown));
    }
}

#[test]
fn servers_that_are_refused() {
    let refused = |name: &str, behaviour: Behaviour| {
        let server = Server::start(behaviour);
        // Each a person who has seen no other: what is refused teaches, too.
        check(name, &Person::new(), Some(&server), ASK);
        assert!(server.requests.lock().unwrap().is_empty());
    };
    let evidence = Arc::new(|world: &signer::World, _: &attest::Binding| {
        world.evidence(&world.handshake_binding())
    });
    refused(
        "evidence-of-another-handshake",
        Behaviour {
            evidence,
            ..Behaviour::default()
        },
    );
    let mut behaviour = Behaviour::default();
    let world = &mut behaviour.world;
    world.authority = signer::authority::Authority::new("Someone \u{1b}[31m else", 0x77);
    world.certificate = (world.authority).attestation_key(world.attestation_key.verifying_key());
    refused("unknown-authority", behaviour);
    let mut behaviour = Behaviour::default();
    behaviour.world.certificate.validity[1] = "210101000000Z".to_owned();
    refused("certificate-expired", behaviour);
    let mut behaviour = Behaviour::default();
    behaviour.world.predicate.reference_values.tpm.sha384.pcr9 = attest::Digest::ZERO;
    refused("other-command-line", behaviour);
    let mut behaviour = Behaviour::default();
    behaviour.world.origin = "log.example.org/another".to_owned();
    refused("other-log", behaviour);
    let evidence = Arc::new(|world: &signer::World, binding: &attest::Binding| {
        let mut evidence = world.evidence(binding);
        evidence.release.clear();
        evidence
    });
    refused(
        "no-release",
        Behaviour {
            evidence,
            ..Behaviour::default()
        },
    );
    refused(
        "server-full",
        Behaviour {
            closed: true,
            ..Behaviour::default()
        },
    );
}

#[test]
fn an_older_release() {
    let (person, new) = (Person::new(), Server::start(Behaviour::default()));
    assert_eq!(
        person
            .run(&["verify", &new.url(), "--policy", "policy.toml"], "")
            .code,
        0
    );
    let mut behaviour = Behaviour::default();
    behaviour.world.predicate.version = 6;
    check(
        "older-release",
        &person,
        Some(&Server::start(behaviour)),
        ASK,
    );
}

#[test]
fn answers_that_fail() {
    let person = Person::new();
    let error = "{\"error\":{\"message\":\"the prompt has 2000 tokens, 1024 fit\",\"type\":\"x\"}}";
    let hostile = "{\"error\":{\"message\":\"\\u001b[2J\\u202egone\",\"type\":\"x\"}}";
    for (name, answer) in [
        ("prompt-too-long", Answer::Refusal(400, error)),
        ("hostile-error", Answer::Refusal(400, hostile)),
        ("server-error", Answer::Refusal(503, "")),
        ("not-an-event-stream", Answer::Raw("data: <html>\n\n")),
        (
            "answer-without-end",
            Answer::Raw("data: {\"choices\":[]}\n\n"),
        ),
        ("answer-cut", Answer::Cut),
        (
            "answer-at-the-limit",
            Answer::Ending(vec!["One two".to_owned()], "length"),
        ),
    ] {
        check(name, &person, Some(&with(answer)), ASK);
    }
}

#[test]
fn reports_in_full() {
    let (person, server) = (Person::new(), Server::start(Behaviour::default()));
    check(
        "verify",
        &person,
        Some(&server),
        "verify URL --policy policy.toml",
    );
    let line = "verify URL --policy policy.toml --explain";
    check("verify-explain", &person, Some(&server), line);
    let line = "verify URL --policy policy.toml --json";
    check("verify-json", &person, Some(&server), line);
    check("help", &person, None, "--help");
    check("help-ask", &person, None, "ask --help");
}
