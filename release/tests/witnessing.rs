//! A witness for others: what it signs, what it declines, and that it never signs two faces.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use attest::UnixTime;
use attest::release::{Origin, SignedCheckpoint};
use common::{Logged, ORIGIN, Site};
use proptest::prelude::*;
use release::key::SigningKey;
use release::log::Log;
use release::log::consistency::prove;
use release::log::witness::request::{AddCheckpoint, MAX_REQUEST_BYTES};
use release::log::witness::service::{Declined, Service, ServiceError, Watched};

const NAME: &str = "witness.example.org/w";
const NOW: UnixTime = UnixTime::from_secs(1_790_000_000);

fn name() -> Origin {
    NAME.to_owned().try_into().unwrap()
}

fn open(logged: &Logged, state: &Path, key: &Path) -> Result<Service, ServiceError> {
    let watched = Watched {
        origin: logged.origin.clone(),
        key: logged.key.public(),
    };
    let key = SigningKey::read(key).unwrap();
    Service::open(&name(), key, vec![watched], state, true)
}

/// A log, a witness that has signed nothing, and its key.
fn witness() -> (Site, Logged, Service) {
    let site = Site::new();
    let logged = Logged::new(&site);
    SigningKey::create(&site.path("witness.pem")).unwrap();
    let service = open(&logged, &site.path("state"), &site.path("witness.pem")).unwrap();
    (site, logged, service)
}

/// Another log with the name and key of the first: its second face.
fn second_face(site: &Site, logged: &Logged) -> Logged {
    let other = Logged {
        signer: SigningKey::generate().unwrap(),
        key: SigningKey::read(&site.path("log.pem")).unwrap(),
        path: site.path("second"),
        origin: logged.origin.clone(),
    };
    Log::create(&other.path, &other.origin, &other.key).unwrap();
    other
}

/// A witness, and two logs with one name and key.
fn two_faces() -> (Site, Logged, Logged, Service) {
    let site = Site::new();
    let mut logged = Logged::new(&site);
    fs::remove_dir_all(&logged.path).unwrap();
    logged.key = SigningKey::create(&site.path("log.pem")).unwrap();
    Log::create(&logged.path, &logged.origin, &logged.key).unwrap();
    let other = second_face(&site, &logged);
    SigningKey::create(&site.path("witness.pem")).unwrap();
    let service = open(&logged, &site.path("state"), &site.path("witness.pem")).unwrap();
    (site, logged, other, service)
}

fn grow(logged: &Logged, versions: std::ops::RangeInclusive<u64>) {
    for version in versions {
        let mut statement = signer::World::new().statement();
        statement.predicate.version = version;
        logged.append(&statement);
    }
}

fn request(logged: &Logged, old: u64) -> AddCheckpoint {
    let log = logged.open().unwrap();
    AddCheckpoint {
        old,
        proof: prove(old, log.leaves()).unwrap_or_default(),
        note: log.checkpoint_note().to_owned(),
    }
}

fn ask(service: &Service, request: &AddCheckpoint) -> Result<String, Declined> {
    service.add_checkpoint(request.encode().as_bytes(), NOW)
}

/// Whether a line is the witness's cosignature of what was asked for.
fn is_signed(service: &Service, request: &AddCheckpoint, line: &str) -> bool {
    let note = SignedCheckpoint::parse(&format!("{}{line}", request.note)).unwrap();
    note.cosigned_by(service.witness()) == Ok(Some(NOW))
}

#[test]
fn a_log_is_signed_from_nothing_on_and_after_a_restart() {
    let (site, logged, service) = witness();
    let empty = request(&logged, 0);
    assert!(is_signed(&service, &empty, &ask(&service, &empty).unwrap()));
    grow(&logged, 1..=3);
    let three = request(&logged, 0);
    assert!(is_signed(&service, &three, &ask(&service, &three).unwrap()));
    drop(service);
    let service = open(&logged, &site.path("state"), &site.path("witness.pem")).unwrap();
    grow(&logged, 4..=7);
    let seven = request(&logged, 3);
    assert!(is_signed(&service, &seven, &ask(&service, &seven).unwrap()));
    // The same state once more: an answer may have been lost.
    let again = request(&logged, 7);
    assert!(is_signed(&service, &again, &ask(&service, &again).unwrap()));
}

#[test]
fn what_does_not_continue_the_last_is_declined_and_changes_nothing() {
    let (_site, logged, other, service) = two_faces();
    grow(&logged, 1..=4);
    ask(&service, &request(&logged, 0)).unwrap();
    // The first face had another first release than the second.
    grow(&other, 11..=14);
    let second = request(&other, 0);
    let declined = ask(&service, &second).unwrap_err();
    assert!(matches!(declined, Declined::Conflict { signed: 4 }));
    let same_size = AddCheckpoint {
        old: 4,
        proof: Vec::new(),
        ..second.clone()
    };
    let declined = ask(&service, &same_size).unwrap_err();
    assert!(matches!(declined, Declined::Conflict { signed: 4 }));
    grow(&other, 15..=16);
    let longer = request(&other, 4);
    let declined = ask(&service, &longer).unwrap_err();
    assert!(matches!(declined, Declined::Inconsistent));
    // A proof where none belongs, and none where one belongs.
    grow(&logged, 5..=6);
    let sound = request(&logged, 4);
    for proof in [Vec::new(), [&sound.proof[..], &sound.proof[..1]].concat()] {
        let declined = ask(
            &service,
            &AddCheckpoint {
                proof,
                ..sound.clone()
            },
        );
        assert!(matches!(declined, Err(Declined::Inconsistent)));
    }
    for old in [3, 5] {
        let declined = ask(&service, &request(&logged, old)).unwrap_err();
        assert!(matches!(declined, Declined::Conflict { signed: 4 }));
    }
    let beyond = AddCheckpoint {
        old: 7,
        ..sound.clone()
    };
    let declined = ask(&service, &beyond).unwrap_err();
    assert!(matches!(declined, Declined::Backwards { old: 7, size: 6 }));
    // After all that, it still knows what it signed.
    ask(&service, &sound).unwrap();
}

#[test]
fn strangers_are_declined() {
    let (_site, logged, service) = witness();
    grow(&logged, 1..=2);
    let sound = request(&logged, 0);
    let unknown = sound.note.replace(ORIGIN, "log.example.org/other");
    let declined = ask(
        &service,
        &AddCheckpoint {
            note: unknown,
            ..sound.clone()
        },
    );
    assert!(matches!(declined, Err(Declined::Unknown)));
    let unsigned = sound.note.replacen("\n2\n", "\n3\n", 1);
    let declined = ask(
        &service,
        &AddCheckpoint {
            note: unsigned,
            ..sound.clone()
        },
    );
    assert!(matches!(declined, Err(Declined::Unsigned)));
    for body in [&b""[..], b"old 0\n\n", b"old 0\n\nno note", &[0xff; 40]] {
        let declined = service.add_checkpoint(body, NOW);
        assert!(matches!(declined, Err(Declined::Malformed)));
    }
    ask(&service, &sound).unwrap();
}

#[test]
fn two_at_once_get_one_face_signed() {
    let (site, logged, other, service) = two_faces();
    grow(&logged, 1..=3);
    grow(&other, 11..=13);
    // Two processes with one state are two services.
    let beside = open(&logged, &site.path("state"), &site.path("witness.pem")).unwrap();
    let (first, second) = (request(&logged, 0), request(&other, 0));
    let signed = std::thread::scope(|scope| {
        let (service, first, second) = (&service, &first, &second);
        let one = scope.spawn(move || ask(service, first).is_ok());
        let two = scope.spawn(move || ask(&beside, second).is_ok());
        [one.join().unwrap(), two.join().unwrap()]
    });
    assert_eq!(signed.iter().filter(|signed| **signed).count(), 1);
}

#[test]
fn a_witness_that_cannot_remember_signs_nothing() {
    let (site, logged, service) = witness();
    grow(&logged, 1..=1);
    let sound = request(&logged, 0);
    ask(&service, &sound).unwrap();
    let memory = fs::read_dir(site.path("state")).unwrap();
    let mut memory = memory.map(|entry| entry.unwrap().path());
    let memory = memory.find(|path| !path.ends_with("lock")).unwrap();
    let kept = fs::read(&memory).unwrap();
    let reopen = || open(&logged, &site.path("state"), &site.path("witness.pem"));
    // Half of it, or somebody else's.
    for damaged in [&kept[..kept.len() - 9], b"", b"log.example.org/x\n0\n"] {
        fs::write(&memory, damaged).unwrap();
        let declined = ask(&service, &sound).unwrap_err();
        assert!(matches!(
            declined,
            Declined::Memory(ServiceError::State { .. })
        ));
        assert!(matches!(reopen(), Err(ServiceError::State { .. })));
    }
    fs::remove_file(&memory).unwrap();
    fs::create_dir(&memory).unwrap();
    let declined = ask(&service, &sound).unwrap_err();
    assert!(matches!(
        declined,
        Declined::Memory(ServiceError::Access { .. })
    ));
    fs::remove_dir(&memory).unwrap();
    fs::write(&memory, kept).unwrap();
    ask(&service, &request(&logged, 1)).unwrap();
    let twice = Watched {
        origin: logged.origin.clone(),
        key: logged.key.public(),
    };
    let open = |logs: &[&Watched], first: bool| {
        let logs = logs.iter().copied().cloned().collect();
        let key = SigningKey::generate().unwrap();
        Service::open(&name(), key, logs, &site.path("s"), first)
    };
    // A state that was lost, or a mistyped one, does not begin anew by itself.
    let forgotten = open(&[&twice], false);
    assert!(matches!(forgotten, Err(ServiceError::Forgotten(_))));
    open(&[&twice], true).unwrap();
    open(&[&twice], false).unwrap();
    let twice = open(&[&twice, &twice], false);
    assert!(matches!(twice, Err(ServiceError::Twice(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_other_bytes_are_signed(place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let (_site, logged, service) = witness();
        grow(&logged, 1..=2);
        let sound = request(&logged, 0).encode().into_bytes();
        let mut changed = sound.clone();
        let place = place.index(changed.len());
        changed[place] = byte;
        // A base64 text that holds the same signature in other letters is no other request.
        let signed = service.add_checkpoint(&changed, NOW).is_ok();
        prop_assert_eq!(signed, changed == sound);
    }
}

/// The program, until it is dropped.
struct Served(Child, String);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(site: &Site, logged: &Logged) -> Served {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-release"));
    let watch = format!("{ORIGIN}={}", logged.key.public());
    command
        .args(["log", "witness", "--name", NAME, "--key", "witness.pem"])
        .args(["--first", "--state", "served", "--watch", &watch])
        .args(["--listen", "127.0.0.1:0"])
        .current_dir(site.path(""))
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    said.read_line(&mut line).unwrap();
    let address = line.split("http://").nth(1).unwrap_or_default();
    let address = address.trim().trim_end_matches('/').to_owned();
    Served(child, address)
}

fn http(served: &Served, head: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(&served.1).unwrap();
    let length = body.len();
    let head = format!("{head} HTTP/1.1\r\nhost: w\r\nconnection: close\r\n");
    write!(stream, "{head}content-length: {length}\r\n\r\n").unwrap();
    // It may answer before it has read all.
    let _ = stream.write_all(body);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn the_program_answers_as_the_protocol_says() {
    let (site, logged, service) = witness();
    grow(&logged, 1..=3);
    let served = serve(&site, &logged);
    let post = |body: &[u8]| http(&served, "POST /add-checkpoint", body);
    let sound = request(&logged, 0);
    let answer = post(sound.encode().as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let (_, line) = answer.split_once("\r\n\r\n").unwrap();
    let note = SignedCheckpoint::parse(&format!("{}{line}", sound.note)).unwrap();
    let key = service.witness();
    assert!(note.cosigned_by(key).unwrap().is_some());
    // Where it stands, in the protocol's own form.
    let answer = post(sound.encode().as_bytes());
    assert!(answer.starts_with("HTTP/1.1 409 "), "{answer}");
    let lower = answer.to_ascii_lowercase();
    assert!(lower.contains("content-type: text/x.tlog.size\r\n"));
    assert!(answer.ends_with("\r\n\r\n3\n"), "{answer}");
    let unknown = sound.note.replace(ORIGIN, "log.example.org/other");
    let unsigned = sound.note.replacen("\n3\n", "\n4\n", 1);
    let of = |note, old| AddCheckpoint {
        old,
        note,
        ..sound.clone()
    };
    let beyond = of(sound.note.clone(), 9);
    grow(&logged, 4..=4);
    let unproved = AddCheckpoint {
        proof: Vec::new(),
        ..request(&logged, 3)
    };
    for (body, status) in [
        (of(unknown, 0).encode(), 404),
        (of(unsigned, 0).encode(), 403),
        (beyond.encode(), 400),
        (unproved.encode(), 422),
        ("nothing".to_owned(), 400),
        ("x".repeat(MAX_REQUEST_BYTES + 1), 400),
    ] {
        let answer = post(body.as_bytes());
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(!answer.contains('\u{2014}'), "{answer}");
    }
    assert!(http(&served, "GET /add-checkpoint", b"").starts_with("HTTP/1.1 405 "));
    assert!(http(&served, "GET /", b"").starts_with("HTTP/1.1 404 "));
    assert!(post(request(&logged, 3).encode().as_bytes()).starts_with("HTTP/1.1 200 "));
}
