//! A release goes to a log on loopback, and the log has moods.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod common;

use cloister_sigstore::{Expected, PublicKey, TrustRoot, VerifyError};
use common::{Fake, Mood, PATIENCE, statement};
use p256::pkcs8::{EncodePrivateKey as _, EncodePublicKey as _, LineEnding};
use publish::{Identity, LogVersion, Published, Publisher, Service, Services, SignError};
use sigstore_sign::crypto::KeyPair;
use sigstore_sign::oidc::IdentityToken;

fn key() -> p256::ecdsa::SigningKey {
    p256::ecdsa::SigningKey::from_slice(&[9; 32]).unwrap()
}

fn identity() -> Identity {
    cloister_sigstore::install();
    let der = key().to_pkcs8_der().unwrap();
    Identity::Key(KeyPair::from_pkcs8_der(der.as_bytes()).unwrap())
}

fn public(key: &p256::ecdsa::SigningKey) -> Expected {
    let pem = key.verifying_key().to_public_key_pem(LineEnding::LF);
    Expected::Key(PublicKey::from_pem(pem.unwrap().as_bytes()).unwrap())
}

fn publish_with(
    services: Services,
    identity: &Identity,
    root: &TrustRoot,
) -> Result<Published, SignError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let publisher = Publisher::new(services, PATIENCE).unwrap();
    runtime.block_on(publisher.publish(&statement().encode(), identity, root))
}

fn publish(moods: &[Mood]) -> (Fake, Result<Published, SignError>) {
    let log = Fake::start(moods);
    let result = publish_with(log.services(), &identity(), &log.root());
    (log, result)
}

#[test]
fn a_logged_release_verifies_for_its_key_and_for_no_other() {
    let (log, published) = publish(&[Mood::Well]);
    let published = published.unwrap();
    assert_eq!(published.release.statement(), &statement());
    assert_eq!(published.release.verified().log(), "fake.example.org");
    let verify = |expected: &Expected, root: &TrustRoot| {
        cloister_sigstore::verify_release(&published.bundle, expected, root)
    };
    verify(&public(&key()), &log.root()).unwrap();
    let other = p256::ecdsa::SigningKey::from_slice(&[8; 32]).unwrap();
    assert!(matches!(
        verify(&public(&other), &log.root()),
        Err(VerifyError::Sigstore(_))
    ));
    assert!(matches!(
        verify(&Expected::AnyIdentity, &log.root()),
        Err(VerifyError::OtherKind)
    ));
    // Another deployment's authorities.
    assert!(matches!(
        verify(&public(&key()), &TrustRoot::embedded().unwrap()),
        Err(VerifyError::Sigstore(_))
    ));
}

#[test]
fn an_ed25519_key_signs_as_well() {
    use ed25519_dalek::pkcs8::EncodePrivateKey as _;
    cloister_sigstore::install();
    let key = ed25519_dalek::SigningKey::from_bytes(&[5; 32]);
    let der = key.to_pkcs8_der().unwrap();
    let identity = Identity::Key(KeyPair::from_pkcs8_der(der.as_bytes()).unwrap());
    let log = Fake::start(&[Mood::Well]);
    publish_with(log.services(), &identity, &log.root()).unwrap();
    // Rekor v2 would refuse it: nobody is asked.
    let services = Services {
        rekor_version: LogVersion::V2,
        tsa: Some(log.url.clone()),
        ..log.services()
    };
    let error = publish_with(services, &identity, &log.root());
    assert!(matches!(error, Err(SignError::KeyForLog)));
    assert_eq!(log.asked(), 1);
}

#[test]
fn a_log_that_is_busy_or_away_for_a_moment_is_asked_again() {
    for mood in [Mood::Status(429), Mood::Status(503), Mood::Dead, Mood::Slow] {
        let (log, published) = publish(&[mood, Mood::Well]);
        published.unwrap();
        assert_eq!(log.asked(), 2, "{mood:?}");
    }
}

#[test]
fn a_log_that_stays_busy_or_away_is_given_up_with_nothing_made() {
    for mood in [Mood::Status(429), Mood::Status(500), Mood::Dead, Mood::Slow] {
        let (log, published) = publish(&[mood]);
        let error = published.unwrap_err();
        let SignError::NotLogged { attempts, .. } = &error else {
            panic!("{mood:?}: {error}");
        };
        assert_eq!(*attempts, PATIENCE.attempts, "{mood:?}");
        assert_eq!(log.asked(), PATIENCE.attempts, "{mood:?}");
        assert!(error.hint().contains("again later"));
    }
    let services = Services {
        rekor: Fake::nowhere(),
        ..Fake::start(&[Mood::Well]).services()
    };
    let error = publish_with(services, &identity(), &TrustRoot::embedded().unwrap());
    assert!(matches!(
        error,
        Err(SignError::NotLogged { attempts: 3, .. })
    ));
}

#[test]
fn a_log_that_refuses_for_good_is_asked_once() {
    for mood in [Mood::Status(400), Mood::Status(403), Mood::Nonsense] {
        let (log, published) = publish(&[mood]);
        assert!(matches!(
            published,
            Err(SignError::NotLogged { attempts: 1, .. })
        ));
        assert_eq!(log.asked(), 1, "{mood:?}");
    }
}

#[test]
fn an_entry_whose_answer_was_lost_is_found_again() {
    let (log, published) = publish(&[Mood::Lost, Mood::Well]);
    published.unwrap();
    // Lost, told that it is there, fetched.
    assert_eq!(log.asked(), 3);
}

#[test]
fn a_conflict_that_names_no_entry_is_told_as_one() {
    let (_, published) = publish(&[Mood::Status(409)]);
    assert!(matches!(published, Err(SignError::LoggedBefore)));
}

#[test]
fn what_a_log_outside_the_trusted_root_took_is_not_published() {
    let log = Fake::start(&[Mood::Well]);
    let error = publish_with(log.services(), &identity(), &TrustRoot::embedded().unwrap());
    assert!(matches!(error, Err(SignError::Unverifiable(_))));
}

#[test]
fn nothing_is_logged_without_a_timestamp_where_one_is_named() {
    for mood in [Mood::Status(429), Mood::Dead, Mood::Slow, Mood::Nonsense] {
        let (log, authority) = (Fake::start(&[Mood::Well]), Fake::start(&[mood]));
        let services = Services {
            tsa: Some(authority.url.clone()),
            ..log.services()
        };
        let error = publish_with(services, &identity(), &log.root()).unwrap_err();
        assert!(matches!(error, SignError::Timestamp { .. }), "{mood:?}");
        assert_eq!(log.asked(), 0, "{mood:?}");
        assert_eq!(authority.asked() > 1, mood != Mood::Nonsense, "{mood:?}");
    }
}

#[test]
fn a_log_that_tells_no_time_needs_a_timestamp_authority() {
    let log = Fake::start(&[Mood::Well]);
    let services = Services {
        rekor_version: LogVersion::V2,
        ..log.services()
    };
    let error = publish_with(services, &identity(), &log.root());
    assert!(matches!(
        error,
        Err(SignError::NoService(Service::Timestamp))
    ));
    assert_eq!(log.asked(), 0);
}

/// A token that a certificate authority would look at; its signature is nobody's.
fn token(expires: i64) -> Identity {
    use base64::Engine as _;
    let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let claims = format!(
        r#"{{"iss":"https://issuer.example.org","sub":"a","aud":"sigstore","exp":{expires}}}"#
    );
    let jwt = format!("{}.{}.{}", encode("{}"), encode(&claims), encode("x"));
    Identity::Token(Box::new(IdentityToken::from_jwt(&jwt).unwrap()))
}

#[test]
fn nothing_is_signed_without_a_certificate() {
    let log = Fake::start(&[Mood::Well]);
    let publish = |fulcio: Option<&str>, expires| {
        let services = Services {
            fulcio: fulcio.map(str::to_owned),
            ..log.services()
        };
        publish_with(services, &token(expires), &log.root()).unwrap_err()
    };
    let (late, never) = (1, 9_999_999_999);
    assert!(matches!(
        publish(None, never),
        SignError::NoService(Service::Authority)
    ));
    let authority = Fake::start(&[Mood::Status(429)]);
    assert!(matches!(
        publish(Some(&authority.url), late),
        SignError::TokenExpired
    ));
    assert_eq!(authority.asked(), 0);
    assert!(matches!(
        publish(Some(&authority.url), never),
        SignError::Certificate { attempts: 3, .. }
    ));
    let refuses = Fake::start(&[Mood::Status(403)]);
    assert!(matches!(
        publish(Some(&refuses.url), never),
        SignError::Certificate { attempts: 1, .. }
    ));
    assert_eq!(log.asked(), 0);
}

#[test]
fn what_is_no_statement_of_ours_is_never_signed() {
    let log = Fake::start(&[Mood::Well]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let publisher = Publisher::new(log.services(), PATIENCE).unwrap();
    let long = vec![b' '; attest::release::statement::MAX_STATEMENT_BYTES + 1];
    for bytes in [b"{}".as_slice(), &long] {
        let (identity, root) = (identity(), log.root());
        let error = runtime.block_on(publisher.publish(bytes, &identity, &root));
        assert!(matches!(error, Err(SignError::Statement(_))));
    }
    assert_eq!(log.asked(), 0);
}

#[test]
fn a_repository_that_is_away_or_unsound_refreshes_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let odd = Fake::start(&[Mood::Nonsense]);
    for url in [Fake::nowhere(), odd.url.clone()] {
        let fetched = publish::tuf::refresh(&url, publish::tuf::PUBLIC_GOOD_ROOT, PATIENCE);
        assert!(matches!(
            runtime.block_on(fetched),
            Err(publish::tuf::RefreshError::Tuf(_))
        ));
    }
}

#[test]
fn the_program_leaves_no_bundle_of_what_was_not_logged() {
    use std::process::Command;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let pem = key().to_pkcs8_pem(LineEnding::LF).unwrap();
    std::fs::write(file("key.pem"), pem.as_bytes()).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(file("key.pem"), mode).unwrap();
    std::fs::write(file("statement.json"), statement().encode()).unwrap();
    std::fs::write(file("bundle.json"), "of the release before").unwrap();
    let run = |log: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-publish"));
        let line = "sign --statement statement.json --key key.pem --output bundle.json \
            --attempts 2 --timeout-s 1 --rekor-version 1 --rekor";
        let line = line.split_whitespace().chain([log]);
        command.args(line).args(more).current_dir(folder.path());
        command.output().unwrap().status.code()
    };
    let moods = [Mood::Status(429), Mood::Status(503), Mood::Dead, Mood::Slow];
    for mood in moods {
        let log = Fake::start(&[mood]);
        assert_eq!(run(&log.url, &[]), Some(5), "{mood:?}");
        assert_eq!(log.asked(), 2, "{mood:?}");
        // Timestamped by nobody, it does not even come to the log.
        let (log, authority) = (Fake::start(&[Mood::Well]), Fake::start(&[mood]));
        assert_eq!(
            run(&log.url, &["--tsa", &authority.url]),
            Some(3),
            "{mood:?}"
        );
        assert_eq!((log.asked(), authority.asked()), (0, 2), "{mood:?}");
    }
    // Taken by a log that is not in the trusted root.
    let log = Fake::start(&[Mood::Well]);
    assert_eq!(run(&log.url, &[]), Some(2));
    let long = vec![b' '; attest::release::statement::MAX_STATEMENT_BYTES + 1];
    std::fs::write(file("statement.json"), long).unwrap();
    assert_eq!(run(&log.url, &[]), Some(1));
    assert_eq!(log.asked(), 1);
    let kept = std::fs::read_to_string(file("bundle.json")).unwrap();
    assert_eq!(kept, "of the release before");
    let files = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(files, 3);
}
