//! What is demanded of releases in Sigstore, whoever verifies their bundles: here a verifier that
//! believes what a bundle says of itself. The real one has real bundles, in `release/sigstore`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use attest::policy::{MaximumAge, PolicyError, Publication, Quorum, TrustedRoot};
use attest::release::statement::Revocation;
use attest::release::{
    Kind, MAX_BUNDLE_BYTES, MAX_REMARKS, NoSigstore, Published, ReleaseError, SeenCheckpoint,
    Signer, SigstoreEntry, SigstoreFault, SigstoreSigner, SigstoreVerifier, Statement,
    VerifiedRelease,
};
use attest::{
    Class, Digest, Expectation, Policy, Ratchet, Refusal, UnixTime, verify_release,
    verify_release_with, verify_with,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use signer::{ISSUED, NOW, World, release};

const IDENTITY: &str = "https://ci.example.org/release.yml@refs/tags/v7";
const ISSUER: &str = "https://issuer.example.org";
const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// Takes bundles at their word, but for who signed.
struct AtTheirWord;

impl AtTheirWord {
    fn read(bundle: &[u8]) -> Result<Value, SigstoreFault> {
        let value: Value = serde_json::from_slice(bundle).map_err(|_| SigstoreFault::Form)?;
        match value["mediaType"] == MEDIA_TYPE {
            true => Ok(value),
            false => Err(SigstoreFault::Form),
        }
    }
}

impl SigstoreVerifier for AtTheirWord {
    fn root(&self) -> String {
        "a root of tests".to_owned()
    }

    fn payload(&self, bundle: &[u8]) -> Result<Vec<u8>, SigstoreFault> {
        let value = Self::read(bundle)?;
        Ok(STANDARD.decode(value["payload"].as_str().unwrap()).unwrap())
    }

    fn verify(
        &self,
        bundle: &[u8],
        _: Digest<32>,
        signer: &SigstoreSigner,
    ) -> Result<SigstoreEntry, SigstoreFault> {
        let value = Self::read(bundle)?;
        let SigstoreSigner::Identity { identity, issuer } = signer else {
            return Err(SigstoreFault::OtherKind);
        };
        if value["identity"] != identity.as_str() {
            return Err(SigstoreFault::Identity);
        }
        if value["issuer"] != issuer.as_str() {
            return Err(SigstoreFault::Issuer);
        }
        let number = |name: &str| value[name].as_u64().unwrap();
        Ok(SigstoreEntry {
            checkpoint: SeenCheckpoint {
                origin: "rekor.example.org - 1".parse().unwrap(),
                log: Digest::sha256(b"key"),
                size: number("size"),
                root: Digest::sha256(value["root"].as_str().unwrap().as_bytes()),
            },
            index: number("index"),
            signed_at: vec![UnixTime::from_secs(number("signed"))],
        })
    }
}

fn bundle_of(payload: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut value = json!({
        "mediaType": MEDIA_TYPE, "payload": STANDARD.encode(payload), "identity": IDENTITY,
        "issuer": ISSUER, "size": 9, "index": 4, "root": "one", "signed": ISSUED + 9,
    });
    change(&mut value);
    value.to_string().into_bytes()
}

fn bundle(statement: &Statement) -> Vec<u8> {
    bundle_of(&statement.encode(), |_| {})
}

fn policy_text(identity: &str) -> String {
    let text = World::new().policy_toml();
    let rest = &text[text.find("[tpm]").unwrap()..];
    format!(
        "version = 2\n[release]\nname = \"cloister\"\nprofile = \"production\"\n\
         minimum_version = 1\nmaximum_age_days = \"any\"\nminimum_rebuilders = 0\n\
         [release.sigstore]\nidentity = \"{identity}\"\nissuer = \"{ISSUER}\"\n\
         trusted_root = {{ built_in = \"public-good-2025-09-23\" }}\n\
         rebuilders = [{{ name = \"alice\", identity = \"alice@example.org\", \
         issuer = \"{ISSUER}\" }}]\n\n{rest}"
    )
}

fn policy() -> Policy {
    Policy::parse(policy_text(IDENTITY).as_bytes()).unwrap()
}

fn judge(file: &[u8], policy: &Policy, ratchet: &Ratchet) -> Result<VerifiedRelease, Refusal> {
    let verdict = verify_release_with(file, &policy.release, ratchet, NOW, &AtTheirWord);
    if let Err(refusal) = &verdict {
        assert!(!refusal.to_string().is_empty() && !refusal.hint().is_empty());
    }
    verdict
}

#[test]
fn evidence_with_a_release_in_sigstore_makes_a_peer() {
    let world = World::new();
    let binding = world.handshake_binding();
    let mut evidence = world.evidence(&binding);
    evidence.release = bundle(&world.statement());
    let expectation = Expectation { binding };
    let (policy, unseen) = (policy(), Ratchet::UNSEEN);
    let verified = verify_with(&evidence, &expectation, &policy, &unseen, NOW, &AtTheirWord);
    let peer = verified.unwrap();
    let release = peer.release();
    assert!(matches!(release.signer(), Signer::Sigstore(signer) if {
        signer.to_string() == format!("{IDENTITY}, vouched for by {ISSUER}")
    }));
    assert!(matches!(release.published(), Published::Sigstore(_)));
    assert_eq!((release.index(), release.log_size()), (4, 9));
    assert_eq!(release.log_name(), "rekor.example.org - 1");
    let rests_on = |what: &str| {
        let mut claims = peer.claims().iter();
        claims
            .find(|claim| claim.what == what)
            .unwrap()
            .rests_on
            .clone()
    };
    for what in [
        "release signer",
        "release log",
        "release signed",
        "release version",
    ] {
        assert_eq!(rests_on(what), "a root of tests", "{what}");
    }
    // Whoever links nothing of Sigstore refuses, and whoever asks for the other kind does.
    let refused = attest::verify(&evidence, &expectation, &policy, &unseen, NOW).unwrap_err();
    let unsupported = ReleaseError::Sigstore(SigstoreFault::Unsupported);
    assert_eq!(refused, Refusal::Release(unsupported));
    let other = verify_with(
        &evidence,
        &expectation,
        &world.policy(),
        &unseen,
        NOW,
        &AtTheirWord,
    );
    let expected = Kind::Log;
    let other_kind = Refusal::Release(ReleaseError::OtherKind { expected });
    assert_eq!(other.unwrap_err(), other_kind);
    let expected = Kind::Sigstore;
    let other_kind = Refusal::Release(ReleaseError::OtherKind { expected });
    assert_eq!(
        judge(&world.bundle(), &policy, &unseen).unwrap_err(),
        other_kind
    );
    assert_eq!(other_kind.class(), Class::Policy);
}

#[test]
fn another_identity_issuer_or_kind_of_signer_is_refused() {
    let payload = World::new().statement().encode();
    let fault = |file: &[u8]| match judge(file, &policy(), &Ratchet::UNSEEN).unwrap_err() {
        Refusal::Release(ReleaseError::Sigstore(fault)) => fault,
        other => panic!("{other}"),
    };
    let other = bundle_of(&payload, |value| value["identity"] = "mallory".into());
    assert_eq!(fault(&other), SigstoreFault::Identity);
    let other = bundle_of(&payload, |value| value["issuer"] = "https://other".into());
    assert_eq!(fault(&other), SigstoreFault::Issuer);
    let mut by_key = policy();
    let Publication::Sigstore(sigstore) = &mut by_key.release.published else {
        unreachable!()
    };
    sigstore.signer = SigstoreSigner::Key {
        pem: "key".to_owned(),
    };
    let refusal = judge(&bundle_of(&payload, |_| {}), &by_key, &Ratchet::UNSEEN).unwrap_err();
    let kind = ReleaseError::Sigstore(SigstoreFault::OtherKind);
    assert_eq!((refusal.class(), refusal), (Class::Policy, kind.into()));
    for (file, expected) in [
        (&b"{}"[..], SigstoreFault::Form),
        (b"no JSON", SigstoreFault::Form),
        (
            &vec![b' '; MAX_BUNDLE_BYTES + 1],
            SigstoreFault::TooLarge {
                found: MAX_BUNDLE_BYTES + 1,
            },
        ),
        (
            &bundle_of(&payload, |_| {}).repeat(MAX_REMARKS + 2),
            SigstoreFault::Remarks,
        ),
    ] {
        assert_eq!(fault(file), expected);
    }
    // One spelling of the statement, whoever signs it.
    let spaced = [&payload[..], b" "].concat();
    let refusal = judge(&bundle_of(&spaced, |_| {}), &policy(), &Ratchet::UNSEEN).unwrap_err();
    assert!(matches!(
        refusal,
        Refusal::Release(ReleaseError::Statement(_))
    ));
}

/// A workflow that runs on a tag has the tag in its identity: of the version, and of no other.
#[test]
fn the_tag_in_an_identity_is_that_of_the_version() {
    let identity = "https://ci.example.org/release.yml@refs/tags/v{version}";
    let policy = Policy::parse(policy_text(identity).as_bytes()).unwrap();
    let mut world = World::new();
    judge(&bundle(&world.statement()), &policy, &Ratchet::UNSEEN).unwrap();
    world.predicate.version = 8;
    let refusal = judge(&bundle(&world.statement()), &policy, &Ratchet::UNSEEN).unwrap_err();
    let identity = ReleaseError::Sigstore(SigstoreFault::Identity);
    assert_eq!(refusal, Refusal::Release(identity));
}

#[test]
fn a_release_in_sigstore_is_held_to_the_same_ratchet() {
    let mut world = World::new();
    let policy = policy();
    let verified = judge(&bundle(&world.statement()), &policy, &Ratchet::UNSEEN).unwrap();
    let seen = Ratchet::UNSEEN.advance(&verified).unwrap();
    assert_eq!((seen.version(), seen.checkpoints().len()), (7, 1));
    assert_eq!(seen.log(), None);
    // A state of the same size with another root is the log's second face.
    let other = bundle_of(&world.statement().encode(), |value| {
        value["root"] = "two".into()
    });
    let refusal = judge(&other, &policy, &seen).unwrap_err();
    assert!(
        matches!(refusal, Refusal::SplitView { size: 9, .. }),
        "{refusal}"
    );
    assert_eq!(refusal.class(), Class::Log);
    // States of other sizes cannot be compared; the largest is remembered.
    for (size, largest) in [(8, 9), (10, 10)] {
        let other = bundle_of(&world.statement().encode(), |value| {
            value["root"] = "another".into();
            value["size"] = size.into();
        });
        let verified = judge(&other, &policy, &seen).unwrap();
        let seen = seen.advance(&verified).unwrap();
        assert_eq!(seen.checkpoints()[0].size, largest);
    }
    world.predicate.version = 6;
    let refusal = judge(&bundle(&world.statement()), &policy, &seen).unwrap_err();
    assert_eq!(refusal, Refusal::Rollback { seen: 7, found: 6 });
    // A later release takes this one back, and that is remembered.
    world.predicate.version = 8;
    let reason = "a key was stolen".parse().unwrap();
    let revocation = Revocation { version: 8, reason };
    world.predicate.revocations = vec![revocation.clone()];
    let refusal = judge(&bundle(&world.statement()), &policy, &seen).unwrap_err();
    assert_eq!(refusal, Refusal::Revoked(revocation));
    let mut world = World::new();
    world.predicate.minimum_client = "9.0.0".parse().unwrap();
    let refusal = judge(&bundle(&world.statement()), &policy, &seen).unwrap_err();
    assert!(matches!(refusal, Refusal::ClientTooOld { .. }), "{refusal}");
}

#[test]
fn what_is_said_of_a_release_in_sigstore_follows_it_in_its_file() {
    let world = World::new();
    let statement = world.statement();
    let followed = |remark: &[u8], signer: &str| {
        let remark = bundle_of(remark, |value| value["identity"] = signer.into());
        [&bundle(&statement)[..], b"\n", &remark, b"\n"].concat()
    };
    let mut policy = policy();
    let judge = |file: &[u8], policy: &Policy| judge(file, policy, &Ratchet::UNSEEN);
    let rebuilt = release::rebuild(&statement, ISSUED).encode();
    policy.release.minimum_rebuilders = 1;
    let few = Refusal::Rebuilders {
        demanded: 1,
        found: 0,
    };
    assert_eq!(judge(&bundle(&statement), &policy).unwrap_err(), few);
    assert_eq!(judge(&followed(&rebuilt, "bob"), &policy).unwrap_err(), few);
    let verified = judge(&followed(&rebuilt, "alice@example.org"), &policy).unwrap();
    assert_eq!(verified.rebuilders(), ["alice".parse().unwrap()]);
    policy.release.minimum_rebuilders = 0;
    let status = |revoked: &[u64]| release::status(&statement, ISSUED + 60, revoked).encode();
    let verified = judge(&followed(&status(&[]), IDENTITY), &policy).unwrap();
    assert_eq!(verified.confirmed(), UnixTime::from_secs(ISSUED + 60));
    let revoked = judge(&followed(&status(&[7]), IDENTITY), &policy).unwrap_err();
    assert!(matches!(revoked, Refusal::Revoked(_)), "{revoked}");
    // Only who may sign the release may speak for it.
    let other = judge(&followed(&status(&[]), "alice@example.org"), &policy).unwrap_err();
    let identity = ReleaseError::Sigstore(SigstoreFault::Identity);
    assert_eq!(other, Refusal::Release(identity));
    let neither = judge(&followed(b"{}", IDENTITY), &policy).unwrap_err();
    assert!(matches!(neither, Refusal::Release(ReleaseError::Remark(_))));
}

/// What a third party timestamps is no word of the signer: it makes no release young.
#[test]
fn a_later_timestamp_makes_no_release_young_and_none_comes_from_the_future() {
    let world = World::new();
    let mut policy = policy();
    policy.release.maximum_age_days = MaximumAge::Days(1);
    let signed = |time: u64| {
        bundle_of(&world.statement().encode(), |value| {
            value["signed"] = time.into();
        })
    };
    let stale = judge(&signed(NOW.as_secs()), &policy, &Ratchet::UNSEEN).unwrap_err();
    assert!(matches!(stale, Refusal::Stale { .. }), "{stale}");
    policy.release.maximum_age_days = MaximumAge::Any;
    judge(&signed(NOW.as_secs() + 600), &policy, &Ratchet::UNSEEN).unwrap();
    let future = judge(&signed(NOW.as_secs() + 601), &policy, &Ratchet::UNSEEN).unwrap_err();
    assert!(matches!(future, Refusal::FromTheFuture { .. }), "{future}");
    let file = bundle(&world.statement());
    let refusal = verify_release(&file, &policy.release, &Ratchet::UNSEEN, NOW).unwrap_err();
    let unsupported = ReleaseError::Sigstore(SigstoreFault::Unsupported);
    assert_eq!(refusal, Refusal::Release(unsupported));
    assert_eq!(NoSigstore.payload(b"{}"), Err(SigstoreFault::Unsupported));
}

#[test]
fn a_policy_for_sigstore_names_identity_issuer_and_root() {
    let text = policy_text(IDENTITY);
    let read = Policy::parse(text.as_bytes()).unwrap();
    let sigstore = read.release.sigstore().unwrap();
    let built_in = TrustedRoot::BuiltIn("public-good-2025-09-23".parse().unwrap());
    assert_eq!(sigstore.trusted_root, built_in);
    for start in [
        "identity = \"https",
        "issuer = \"https",
        "trusted_root",
        "rebuilders = ",
        "minimum_rebuilders",
        "maximum_age_days",
        "minimum_version",
        "profile",
    ] {
        let line = text.lines().find(|line| line.starts_with(start)).unwrap();
        let without = text.replacen(&format!("{line}\n"), "", 1);
        let verdict = Policy::parse(without.as_bytes());
        assert!(matches!(verdict, Err(PolicyError::Toml(_))), "{start}");
    }
    let change = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        Policy::parse(text.replacen(from, to, 1).as_bytes())
    };
    for (from, to) in [
        (
            "[release.sigstore]\n",
            "[release.sigstore]\nkey = \"both\"\n",
        ),
        ("[release.sigstore]\n", "[release.sigstore]\nsurplus = 1\n"),
        (
            "[release]\n",
            "[release]\nlog_origin = \"log.example.org\"\n",
        ),
        ("{ built_in =", "{ anything ="),
        ("\"public-good-2025-09-23\" }", "\"x\", file = \"y\" }"),
        ("trusted_root = {", "trusted_root = \"\" #"),
        (", issuer = \"https://issuer.example.org\" }]", " }]"),
    ] {
        let verdict = change(from, to);
        assert!(matches!(verdict, Err(PolicyError::Toml(_))), "{to}");
    }
    let demanded = change("minimum_rebuilders = 0", "minimum_rebuilders = 2");
    let quorum = Quorum::Rebuilders;
    assert_eq!(
        demanded,
        Err(PolicyError::Quorum {
            quorum,
            demanded: 2,
            named: 1,
        })
    );
    let line = |text: &str| Policy::parse(text.as_bytes()).unwrap().release.line();
    let other = policy_text("https://ci.example.org/another");
    assert_ne!(line(&text), line(&other));
    assert_ne!(line(&text), line(&World::new().policy_toml()));
}
