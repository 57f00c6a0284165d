//! Witnesses elsewhere are asked to sign: real ones of this house, and such as nobody believes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod common;

use attest::release::{Origin, SignedCheckpoint, Witness};
use attest::{Digest, UnixTime};
use common::PATIENCE;
use common::logs::{Logged, ORIGIN, origin};
use common::loopback::{Reply, Server, block_on, serve};
use publish::AskError;
use publish::collect::{Asked, AskedError, CollectError, Collected, Refused, collect};
use release::key::SigningKey;
use release::log::witness::request::AddCheckpoint;
use release::log::witness::service::{Service, Watched};

fn name(text: &str) -> Origin {
    text.to_owned().try_into().unwrap()
}

/// A witness as `log witness` serves it, of a log that has this key.
fn witness(logged: &Logged, named: &str) -> Asked {
    watching(logged, named, origin())
}

fn watching(logged: &Logged, named: &str, watched: Origin) -> Asked {
    let key = SigningKey::generate().unwrap();
    let public = key.public();
    let watched = Watched {
        origin: watched,
        key: logged.key.public(),
    };
    let state = logged.file(&format!("state-{named}"));
    let service = Service::open(&name(named), key, vec![watched], &state, true).unwrap();
    let url = serve(move |any, ready| release::log::witness::serve::run(service, any, ready));
    Asked {
        witness: Witness {
            name: name(named),
            key: public,
        },
        url,
    }
}

/// A witness of which only the address is real.
fn stranger(named: &str, url: &str) -> Asked {
    Asked {
        witness: Witness {
            name: name(named),
            key: SigningKey::generate().unwrap().public(),
        },
        url: url.to_owned(),
    }
}

fn ask(logged: &Logged, asked: &[Asked]) -> Collected {
    let key = logged.key.public();
    block_on(collect(&logged.path, &origin(), &key, asked, PATIENCE)).unwrap()
}

/// Why the only witness that was asked did not sign.
fn refusal(logged: &Logged, asked: &Asked) -> Refused {
    let mut collected = ask(logged, std::slice::from_ref(asked));
    assert!(collected.signed.is_empty());
    collected.refused.pop().unwrap().1
}

/// What a server is answered with when it replies so.
fn refusal_of(reply: Reply) -> (Refused, usize) {
    let logged = Logged::new();
    logged.grow(1..=2);
    let server = Server::saying(reply);
    let refused = refusal(&logged, &stranger("w", &server.url));
    (refused, server.asked().len())
}

#[test]
fn witnesses_sign_and_go_on_with_the_log() {
    let logged = Logged::new();
    let asked = [witness(&logged, "one"), witness(&logged, "two")];
    for versions in [1..=3, 4..=4, 5..=9] {
        logged.grow(versions);
        // Twice: whoever signed this very state signs it once more.
        for _ in 0..2 {
            let collected = ask(&logged, &asked);
            assert_eq!(collected.signed.len(), 2, "{:?}", collected.refused);
            let note = logged.open().checkpoint_note().to_owned();
            let note = SignedCheckpoint::parse(&note).unwrap();
            note.verify(&origin(), &logged.key.public()).unwrap();
            for (one, (named, time)) in asked.iter().zip(&collected.signed) {
                assert_eq!(*named, one.witness.name);
                assert_eq!(note.cosigned_by(&one.witness), Ok(Some(*time)));
            }
        }
    }
}

#[test]
fn who_signs_is_not_kept_from_it_by_who_does_not() {
    let logged = Logged::new();
    logged.grow(1..=2);
    let (silent, dead) = (Server::saying(Reply::Silent), Server::saying(Reply::Dead));
    let asked = [
        stranger("silent", &silent.url),
        witness(&logged, "sound"),
        stranger("dead", &dead.url),
    ];
    let collected = ask(&logged, &asked);
    assert_eq!(collected.signed[0].0, name("sound"));
    let refused: Vec<_> = collected
        .refused
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(refused, ["silent", "dead"]);
    for (_, why) in &collected.refused {
        let Refused::Ask(AskError::Away { attempts, .. }) = why else {
            panic!("{why:?}");
        };
        assert_eq!(*attempts, PATIENCE.attempts);
    }
}

#[test]
fn a_witness_that_saw_another_face_tells() {
    let logged = Logged::new();
    let asked = witness(&logged, "w");
    logged.grow(1..=3);
    assert_eq!(ask(&logged, std::slice::from_ref(&asked)).signed.len(), 1);
    let other = logged.second_face();
    other.grow(11..=12);
    assert!(matches!(
        refusal(&other, &asked),
        Refused::Ahead { signed: 3, size: 2 }
    ));
    other.grow(13..=13);
    assert!(matches!(
        refusal(&other, &asked),
        Refused::TwoFaces { size: 3 }
    ));
    other.grow(14..=15);
    assert!(matches!(refusal(&other, &asked), Refused::Inconsistent));
    // The first face goes on.
    logged.grow(4..=4);
    assert_eq!(ask(&logged, std::slice::from_ref(&asked)).signed.len(), 1);
}

#[test]
fn a_witness_of_another_log_or_key_does_not_sign() {
    let logged = Logged::new();
    logged.grow(1..=1);
    let other = watching(&logged, "w", name("log.example.org/other"));
    assert!(matches!(refusal(&logged, &other), Refused::UnknownLog));
    let stranger = Logged::new();
    stranger.grow(1..=1);
    let asked = witness(&stranger, "w");
    assert!(matches!(refusal(&logged, &asked), Refused::OtherKey));
}

#[test]
fn a_witness_that_is_busy_is_asked_again_and_given_up() {
    let later = |seconds| Reply::Say(429, seconds, Vec::new());
    let (refused, asked) = refusal_of(later("retry-after: 0\r\n"));
    assert!(matches!(
        refused,
        Refused::Ask(AskError::Busy {
            status: 429,
            attempts: 3
        })
    ));
    assert_eq!(asked, 3);
    // For longer than anyone waits: not asked again.
    let (refused, asked) = refusal_of(later("retry-after: 86400\r\n"));
    assert!(matches!(
        refused,
        Refused::Ask(AskError::Later {
            status: 429,
            wait_s: 86400
        })
    ));
    assert_eq!(asked, 1);
    let (refused, asked) = refusal_of(Reply::status(503));
    assert!(matches!(
        refused,
        Refused::Ask(AskError::Busy { status: 503, .. })
    ));
    assert_eq!(asked, 3);
}

#[test]
fn an_answer_without_end_is_cut() {
    let (refused, asked) = refusal_of(Reply::Endless);
    assert!(matches!(refused, Refused::Ask(AskError::TooLong { .. })));
    assert_eq!(asked, 1);
    let (refused, _) = refusal_of(Reply::Dripping);
    assert!(matches!(refused, Refused::Ask(AskError::Away { .. })));
}

#[test]
fn a_conflict_is_believed_within_bounds() {
    let conflict = |body: &str| refusal_of(Reply::Say(409, "", body.into())).0;
    let max = u64::MAX;
    assert!(matches!(
        conflict(&format!("{max}\n")),
        Refused::Ahead { signed, size: 2 } if signed == max
    ));
    for wrong in [
        "",
        "\n",
        "-1\n",
        "+1\n",
        "01\n",
        "1\n\n2\n",
        "two\n",
        "18446744073709551616\n",
    ] {
        assert!(matches!(conflict(wrong), Refused::NoSize), "{wrong:?}");
    }
    // It says where it stands, is asked from there, and says the same.
    assert!(matches!(conflict("1\n"), Refused::TwoFaces { size: 1 }));
    let logged = Logged::new();
    logged.grow(1..=9);
    let server = Server::start(|count, _| {
        let size = format!("{}\n", count + 1);
        Reply::Say(409, "", size.into_bytes())
    });
    let refused = refusal(&logged, &stranger("w", &server.url));
    assert!(matches!(refused, Refused::Unsettled));
    assert_eq!(server.asked().len(), 4);
}

#[test]
fn only_the_signature_that_is_expected_counts() {
    for wrong in [
        &b""[..],
        b"\n",
        b"yes",
        b"\xff\n",
        b"\xe2\x80\x94 w AAAA",
        b"- w AAAA\n",
    ] {
        let (refused, _) = refusal_of(Reply::ok(wrong));
        assert!(matches!(refused, Refused::Malformed), "{wrong:?}");
    }
    let logged = Logged::new();
    logged.grow(1..=2);
    let key = SigningKey::generate().unwrap();
    let expected = Witness {
        name: name("w"),
        key: key.public(),
    };
    let checkpoint = logged.open().checkpoint().clone();
    let time = UnixTime::from_secs(1_790_000_000);
    let sign = |witness: &Witness, key: &SigningKey| {
        let message = Witness::message(&checkpoint, time);
        witness.line(time, &key.sign(message.as_bytes()))
    };
    let other_key = SigningKey::generate().unwrap();
    let other = Witness {
        name: name("w"),
        key: other_key.public(),
    };
    let (mine, others) = (sign(&expected, &key), sign(&other, &other_key));
    let forged = expected.line(time, &other_key.sign(b"anything"));
    let of = |body: String| {
        let server = Server::saying(Reply::ok(body));
        let url = server.url;
        let witness = expected.clone();
        ask(&logged, &[Asked { witness, url }])
    };
    let refused = |body: String| of(body).refused.pop().unwrap().1;
    assert!(matches!(refused(others.clone()), Refused::Nobody));
    assert!(matches!(refused(forged.clone()), Refused::False));
    assert!(matches!(
        refused(format!("{others}{forged}")),
        Refused::False
    ));
    // Others' lines beside its own are left out.
    let collected = of(format!("{others}{mine}"));
    assert_eq!(collected.signed, [(name("w"), time)]);
    let note = logged.open().checkpoint_note().to_owned();
    let note = SignedCheckpoint::parse(&note).unwrap();
    assert_eq!(note.cosigned_by(&expected), Ok(Some(time)));
    assert_eq!(note.cosigned_by(&other), Ok(None));
    // A signature of another checkpoint is none of this one.
    let mut before = checkpoint.clone();
    before.size = 1;
    let message = Witness::message(&before, time);
    let before = expected.line(time, &key.sign(message.as_bytes()));
    assert!(matches!(refused(before), Refused::False));
}

#[test]
fn other_answers_and_addresses_are_refused() {
    for status in [302, 400, 401, 418] {
        let (refused, asked) = refusal_of(Reply::Say(
            status,
            "location: http://127.0.0.1:1/\r\n",
            Vec::new(),
        ));
        assert!(matches!(refused, Refused::Status(found) if found == status));
        assert_eq!(asked, 1, "{status}");
    }
    let logged = Logged::new();
    let refused = refusal(&logged, &stranger("w", "no address"));
    assert!(matches!(refused, Refused::Ask(AskError::Address(_))));
    let one = stranger("w", "http://127.0.0.1:1");
    let same_key = Asked {
        witness: Witness {
            name: name("v"),
            key: one.witness.key,
        },
        ..one.clone()
    };
    for twice in [[one.clone(), one.clone()], [one.clone(), same_key]] {
        let key = logged.key.public();
        let result = block_on(collect(&logged.path, &origin(), &key, &twice, PATIENCE));
        assert!(matches!(result, Err(CollectError::Twice(_))));
    }
}

#[test]
fn a_witness_is_shown_what_the_protocol_asks_for() {
    let logged = Logged::new();
    logged.grow(1..=5);
    let server = Server::start(|count, _| match count {
        0 => Reply::Say(409, "", b"3\n".to_vec()),
        _ => Reply::status(422),
    });
    let url = format!("{}/prefix/", server.url);
    let text = format!("w={}@{url}", SigningKey::generate().unwrap().public());
    refusal(&logged, &text.parse().unwrap());
    let asked = server.asked();
    assert_eq!(asked[0].0, "POST /prefix/add-checkpoint HTTP/1.1");
    let parsed: Vec<_> = asked
        .iter()
        .map(|(_, body)| AddCheckpoint::parse(body).unwrap())
        .collect();
    assert_eq!((parsed[0].old, parsed[0].proof.len()), (0, 0));
    assert_eq!(parsed[1].old, 3);
    let log = logged.open();
    let then = (3, log.root_at(3).unwrap());
    let now = (5, log.checkpoint().root);
    assert!(release::log::consistency::verify(
        then,
        now,
        &parsed[1].proof
    ));
    let _: Digest<32> = now.1;
}

#[test]
fn a_witness_is_named_by_name_key_and_address() {
    let key = SigningKey::generate().unwrap().public();
    let asked: Asked = format!("{ORIGIN}={key}@https://w.example.org/")
        .parse()
        .unwrap();
    assert_eq!(asked.url, "https://w.example.org");
    assert_eq!((asked.witness.name, asked.witness.key), (origin(), key));
    let of = |text: &str| text.parse::<Asked>().unwrap_err();
    assert!(matches!(of("w"), AskedError::Form));
    assert!(matches!(of(&format!("w={key}")), AskedError::Form));
    assert!(matches!(of(&format!("a b={key}@u")), AskedError::Name(_)));
    assert!(matches!(of("w=ed25519:AAAA@u"), AskedError::Key(_)));
}
