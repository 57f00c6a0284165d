//! Every way in which a release bundle can be wrong.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use attest::release::envelope::{EnvelopeSignature, pae};
use attest::release::statement::{
    Revocation, SnpLaunchDigest, SnpReferenceValues, Subject, SubjectDigest, TdxReferenceValues,
    TdxRegisters,
};
use attest::release::{
    Bundle, BundleError, CheckpointError, EnvelopeError, MAX_BUNDLE_BYTES, ReleaseError,
    SignedCheckpoint, Signer, Statement, StatementError, VerifiedRelease,
};
use attest::{Class, Digest, Refusal};
use ed25519_dalek::SigningKey;
use signer::{World, release};

fn stranger() -> SigningKey {
    SigningKey::from_bytes(&[0x66; 32])
}

fn judge(bundle: &[u8]) -> Result<VerifiedRelease, ReleaseError> {
    VerifiedRelease::verify(bundle, &World::new().policy().release)
}

fn refused(bundle: &[u8]) -> (ReleaseError, Class) {
    let error = judge(bundle).unwrap_err();
    let refusal = Refusal::from(error.clone());
    assert!(!refusal.to_string().is_empty() && !refusal.hint().is_empty());
    (error, refusal.class())
}

/// The verdict on a bundle that is changed after all is signed.
fn changed(change: impl FnOnce(&mut Bundle)) -> (ReleaseError, Class) {
    let mut bundle = Bundle::decode(&World::new().bundle()).unwrap();
    change(&mut bundle);
    refused(&bundle.encode())
}

/// The verdict on a checkpoint that is made by the test.
fn with_checkpoint(change: impl FnOnce(&World, &Bundle) -> String) -> (ReleaseError, Class) {
    let world = World::new();
    changed(|bundle| bundle.log.checkpoint = change(&world, bundle))
}

/// The verdict on a payload that is signed and logged, whatever it is.
fn payload(payload: &[u8]) -> (ReleaseError, Class) {
    let world = World::new();
    let envelope = release::sign(payload, &world.release_key);
    refused(&world.logged(envelope).encode())
}

#[test]
fn a_signed_and_logged_release_is_verified() {
    let world = World::new();
    let release = judge(&world.bundle()).unwrap();
    assert_eq!(release.statement().predicate, world.predicate);
    let signer = Signer::Key(release::public(&world.release_key));
    assert_eq!(release.signer(), &signer);
    assert_eq!((release.index(), release.log_size()), (1, 3));
}

#[test]
fn no_release_or_garbage_is_refused() {
    assert_eq!(refused(b""), (ReleaseError::Missing, Class::Log));
    let (error, class) = refused(&vec![b' '; MAX_BUNDLE_BYTES + 1]);
    assert!(matches!(
        error,
        ReleaseError::Bundle(BundleError::TooLarge { .. })
    ));
    assert_eq!(class, Class::Signature);
    let text = String::from_utf8(World::new().bundle()).unwrap();
    for wrong in [
        "garbage",
        "{}",
        &text.replace("bundle.v2", "bundle.v1"),
        &text.replace("\"log\"", "\"tree\""),
        &text.replacen("{\"media", "{\"more\":1,\"media", 1),
        &text.replacen("\"index\":1", "\"index\":-1", 1),
        &text.replace("vnd.in-toto", "vnd.other"),
        &text.replace("ed25519:", "rsa:"),
        &text.replace("\"proof\":[\"", "\"proof\":[\"AAAA\",\""),
        &text.replace("\"sig\":\"", "\"sig\":\"*"),
    ] {
        let (error, _) = refused(wrong.as_bytes());
        assert!(
            matches!(error, ReleaseError::Bundle(BundleError::Json { .. })),
            "{wrong}"
        );
    }
    for spelling in [
        text.replace("\"index\":1", "\"index\": 1"),
        format!("{text}\n"),
        text.replace("application/vnd.in", "application\\/vnd.in"),
    ] {
        let (error, _) = refused(spelling.as_bytes());
        assert_eq!(
            error,
            ReleaseError::Bundle(BundleError::NotCanonical),
            "{spelling}"
        );
    }
}

#[test]
fn a_proof_is_no_longer_than_a_tree_is_deep() {
    let (error, _) = changed(|bundle| bundle.log.proof = vec![Digest::ZERO; 64]);
    assert!(matches!(
        error,
        ReleaseError::Bundle(BundleError::Json { .. })
    ));
}

#[test]
fn a_release_that_is_not_signed_by_a_signer_of_the_policy_is_refused() {
    let world = World::new();
    let statement = Bundle::decode(&world.bundle()).unwrap().envelope.payload;
    let envelope = release::sign(&statement, &stranger());
    let bundle = world.logged(envelope.clone());
    let unknown = ReleaseError::Envelope(EnvelopeError::UnknownSigner);
    assert_eq!(
        refused(&bundle.encode()),
        (unknown.clone(), Class::Signature)
    );
    assert_eq!(
        changed(|bundle| bundle.envelope.signatures.clear()).0,
        unknown
    );

    let key = release::public(&world.release_key);
    let forged = ReleaseError::Envelope(EnvelopeError::Signature { key });
    let mut envelope = envelope;
    envelope.signatures[0].keyid = key;
    let bundle = world.logged(envelope);
    assert_eq!(
        refused(&bundle.encode()),
        (forged.clone(), Class::Signature)
    );
    assert_eq!(changed(|bundle| bundle.envelope.payload[30] ^= 1).0, forged);
    assert_eq!(
        changed(|bundle| bundle.envelope.signatures[0].sig[0] ^= 1).0,
        forged
    );
    assert_eq!(
        changed(|bundle| bundle.envelope.signatures[0].sig.push(0)).0,
        forged
    );
}

#[test]
fn other_signers_may_sign_too_but_not_many() {
    let world = World::new();
    let mut envelope = Bundle::decode(&world.bundle()).unwrap().envelope;
    let other = release::sign(&envelope.payload, &stranger()).signatures;
    envelope.signatures.splice(0..0, other.clone());
    let bundle = world.logged(envelope.clone());
    assert!(judge(&bundle.encode()).is_ok());
    let signature: &EnvelopeSignature = &other[0];
    envelope.signatures.extend(vec![signature.clone(); 7]);
    let bundle = world.logged(envelope);
    let many = ReleaseError::Envelope(EnvelopeError::TooMany { found: 9 });
    assert_eq!(refused(&bundle.encode()), (many, Class::Signature));
}

#[test]
fn what_is_signed_must_be_a_release_statement() {
    let statement = Bundle::decode(&World::new().bundle())
        .unwrap()
        .envelope
        .payload;
    let text = String::from_utf8(statement).unwrap();
    for wrong in [
        "garbage",
        "{}",
        &text.replace("Statement/v1", "Statement/v0.1"),
        &text.replace("release/v3", "release/v1"),
        &text.replace("\"version\":7,", ""),
        &text.replace("\"version\":7", "\"version\":7.0"),
        &text.replace("\"version\":7", "\"version\":7,\"extra\":1"),
        &text.replace("\"profile\":\"production\"", "\"profile\":\"../x\""),
        &text.replace("\"9\":", "\"10\":"),
    ] {
        let (error, class) = payload(wrong.as_bytes());
        assert!(
            matches!(error, ReleaseError::Statement(StatementError::Json { .. })),
            "{wrong}: {error}"
        );
        assert_eq!(class, Class::Signature);
    }
    let (error, _) = payload(format!(" {text}").as_bytes());
    assert_eq!(error, ReleaseError::Statement(StatementError::NotCanonical));
    let found = (128 << 10) + 1;
    let (error, _) = payload(&vec![b' '; found]);
    assert_eq!(
        error,
        ReleaseError::Statement(StatementError::TooLarge { found })
    );
    assert_eq!(
        Statement::decode(text.as_bytes()).unwrap().encode(),
        text.as_bytes()
    );
}

#[test]
fn an_artifact_is_named_once_and_in_its_place() {
    let world = World::new();
    let decode = |names: &[&str]| {
        let subject = |name: &&str| Subject {
            name: name.parse().unwrap(),
            digest: SubjectDigest {
                sha256: Digest::sha256(b"contents"),
            },
        };
        let subjects = names.iter().map(subject).collect();
        Statement::decode(&Statement::new(subjects, world.predicate.clone()).encode())
    };
    assert!(decode(&["a", "b", "image-a"]).is_ok());
    for wrong in [&["a", "a"][..], &["b", "a"], &["a", "b", "a"]] {
        assert_eq!(decode(wrong).unwrap_err(), StatementError::Subjects);
    }
}

/// No platform is named of which nothing is said.
#[test]
fn what_a_release_names_it_states() {
    let mut world = World::new();
    let encode = |world: &World| world.statement().encode();
    let first = encode(&world);
    assert!(Statement::decode(&first).is_ok());
    let machine: attest::Name = "qemu-epyc-v4-4".parse().unwrap();
    let digest = Digest::sha384(b"launched");
    let values = &mut world.predicate.reference_values;
    values.snp = Some(SnpReferenceValues {
        launch_digests: vec![SnpLaunchDigest {
            machine: machine.clone(),
            digest,
        }],
    });
    values.tdx = Some(TdxReferenceValues {
        machines: vec![TdxRegisters {
            machine,
            mrtd: digest,
            rtmr0: None,
            rtmr1: digest,
            rtmr2: digest,
        }],
    });
    let second = encode(&world);
    assert!(Statement::decode(&second).is_ok());
    let mut no_digest = world.clone();
    no_digest.predicate.reference_values.snp = Some(SnpReferenceValues {
        launch_digests: Vec::new(),
    });
    let mut no_machine = world.clone();
    no_machine.predicate.reference_values.tdx = Some(TdxReferenceValues {
        machines: Vec::new(),
    });
    let mut many = world;
    let reason: attest::Text = "a reason".parse().unwrap();
    many.predicate.revocations = (0..65)
        .map(|version| Revocation {
            version,
            reason: reason.clone(),
        })
        .collect();
    for wrong in [no_digest, no_machine, many] {
        let wrong = Statement::decode(&encode(&wrong));
        assert_eq!(wrong, Err(StatementError::List));
    }
    let swap = |bytes: &[u8], from: &str, to: &str| {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert!(text.contains(from), "{from}");
        text.replace(from, to).into_bytes()
    };
    for wrong in [
        swap(&first, "release/v3", "release/v2"),
        swap(&second, "qemu-epyc-v4-4", "../x"),
        swap(&second, "\"machine\"", "\"shape\""),
        swap(&first, "builder@v7", "builder\\n"),
        swap(&first, "\"0.1.0\"", "\"0.1\""),
    ] {
        assert!(matches!(
            Statement::decode(&wrong),
            Err(StatementError::Json { .. })
        ));
    }
    for platform in ["snp", "tdx"] {
        let null = format!("\"reference_values\":{{\"{platform}\":null,");
        let null = swap(&first, "\"reference_values\":{", &null);
        assert_eq!(Statement::decode(&null), Err(StatementError::NotCanonical));
    }
}

#[test]
fn a_checkpoint_must_be_of_the_log_and_signed_by_it() {
    let world = World::new();
    let root = Digest::sha256(b"root");
    let other_log = with_checkpoint(|world, _| {
        release::checkpoint("other.example.org", 3, root, &world.log_key)
    });
    assert!(matches!(
        other_log,
        (
            ReleaseError::Checkpoint(CheckpointError::Origin { .. }),
            Class::Log
        )
    ));
    let key = release::public(&world.log_key);
    let unsigned = ReleaseError::Checkpoint(CheckpointError::Unsigned { key });
    let by_stranger =
        with_checkpoint(|world, _| release::checkpoint(&world.origin, 3, root, &stranger()));
    assert_eq!(by_stranger, (unsigned, Class::Log));
    let forged = ReleaseError::Checkpoint(CheckpointError::Signature { key });
    let larger = with_checkpoint(|_, bundle| bundle.log.checkpoint.replacen("\n3\n", "\n4\n", 1));
    assert_eq!(larger, (forged.clone(), Class::Log));
    let short = with_checkpoint(|_, bundle| {
        let lines = bundle.log.checkpoint.lines();
        let mut own = lines.filter(|line| line.starts_with("\u{2014} log."));
        let line = own.next().unwrap().rsplit(' ').next().unwrap().to_owned();
        bundle.log.checkpoint.replace(&line, &line[..88])
    });
    assert_eq!(short, (forged, Class::Log));
}

#[test]
fn a_checkpoint_has_one_spelling() {
    let sound = Bundle::decode(&World::new().bundle())
        .unwrap()
        .log
        .checkpoint;
    let format = ReleaseError::Checkpoint(CheckpointError::Format);
    for wrong in [
        "",
        "garbage",
        &sound.replacen("\n3\n", "\n03\n", 1),
        &sound.replacen("\n3\n", "\n+3\n", 1),
        &sound.replacen("\n3\n", "\n3\r\n", 1),
        &sound.replacen("\n\n", "\nextension\n\n", 1),
        &sound.replacen("\n\n", "\n", 1),
        &sound.replacen("=\n", "\n", 1),
        &sound.replace('\u{2014}', "-"),
        sound.trim_end(),
        &format!("{sound}\n"),
        &sound.replacen("\u{2014} ", "\u{2014} two words ", 1),
        &sound.replacen("log.example", "log+example", 1),
        &format!("{sound}{}", "\u{2014} witness AAAAAAAA\n".repeat(16)),
    ] {
        let (error, class) = with_checkpoint(|_, _| wrong.to_owned());
        assert_eq!((error, class), (format.clone(), Class::Log), "{wrong}");
    }
    let (error, _) = with_checkpoint(|_, _| "x".repeat(9000));
    assert_eq!(
        error,
        ReleaseError::Checkpoint(CheckpointError::TooLarge { found: 9000 })
    );
    // Witnesses may sign too.
    let witnessed = format!("{sound}\u{2014} witness.example/w AAAAAAAA\n");
    let policy = World::new().policy().release;
    let signed = SignedCheckpoint::parse(&witnessed).unwrap();
    let log = policy.log().unwrap();
    assert!(signed.verify(&log.log_origin, &log.log_key).is_ok());
}

#[test]
fn a_release_that_is_not_in_the_log_is_refused() {
    let outside = ReleaseError::Inclusion { index: 1, size: 3 };
    assert_eq!(
        changed(|bundle| bundle.log.proof[0].0[0] ^= 1),
        (outside.clone(), Class::Log)
    );
    assert_eq!(changed(|bundle| bundle.log.proof.truncate(1)).0, outside);
    let elsewhere = |index| ReleaseError::Inclusion { index, size: 3 };
    assert_eq!(changed(|bundle| bundle.log.index = 2).0, elsewhere(2));
    assert_eq!(
        changed(|bundle| bundle.log.index = u64::MAX).0,
        elsewhere(u64::MAX)
    );
    // A second signature changes the entry, and so what the log would have to hold.
    let other = release::sign(b"other", &stranger()).signatures;
    assert_eq!(
        changed(|bundle| bundle.envelope.signatures.extend(other)).0,
        outside
    );
}

/// The example of the DSSE specification, with its own type replaced by ours.
#[test]
fn what_is_signed_names_type_and_length() {
    let expected = b"DSSEv1 28 application/vnd.in-toto+json 11 hello world";
    assert_eq!(pae(b"hello world"), expected);
}
