//! Bundles that were made with a real Rekor v2 and a real timestamp authority, as they are and with
//! one thing changed (`recorded/README.md`). What they rest on is past: their certificates expired
//! ten minutes after.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use cloister_sigstore::{
    Artifact, Class, Expected, PublicKey, TrustRoot, Verified, VerifyError, verify, verify_release,
};
use serde_json::Value;
use sigstore_verify::{CertificateError, Error, TimestampError, TransparencyLogError};

const IDENTITY: &str = "https://ci.example.org/cloister/release.yml@refs/tags/v1";
const ISSUER: &str = "https://issuer.example.org";

fn recorded(name: &str) -> Value {
    let path = format!("{}/tests/recorded/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn root(json: &Value) -> TrustRoot {
    TrustRoot::parse(json.to_string().as_bytes()).unwrap()
}

fn keyless() -> Expected {
    Expected::Identity {
        identity: IDENTITY.to_owned(),
        issuer: ISSUER.to_owned(),
    }
}

/// Verifies `keyless.json` after `edit`.
fn edited(edit: impl FnOnce(&mut Value)) -> Result<Verified, VerifyError> {
    let mut bundle = recorded("keyless.json");
    edit(&mut bundle);
    let root = root(&recorded("trusted_root.json"));
    let release = verify_release(bundle.to_string().as_bytes(), &keyless(), &root);
    release.map(|release| release.verified().clone())
}

/// Verifies `keyless.json` by authorities after `edit`.
fn believing(edit: impl FnOnce(&mut Value)) -> Result<(), VerifyError> {
    let mut json = recorded("trusted_root.json");
    edit(&mut json);
    let bundle = recorded("keyless.json").to_string();
    verify_release(bundle.as_bytes(), &keyless(), &root(&json)).map(|_| ())
}

fn cause<T: std::fmt::Debug>(result: Result<T, VerifyError>) -> (Class, Error) {
    let error = result.unwrap_err();
    let class = error.class();
    match error {
        VerifyError::Sigstore(error) => (class, *error),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_recorded_bundle_does_what_it_says() {
    let verified = edited(|_| {}).unwrap();
    assert_eq!(verified.signer(), IDENTITY);
    assert_eq!(verified.issuer(), Some(ISSUER));
    assert_eq!(verified.log(), "rekor.local");
    assert_eq!(verified.signed_at().len(), 1);
    let root = root(&recorded("trusted_root.json"));
    for name in ["first", "second"] {
        let key = |name: &str| {
            let path = format!("{}/tests/recorded/{name}.pub", env!("CARGO_MANIFEST_DIR"));
            Expected::Key(PublicKey::from_pem(&std::fs::read(path).unwrap()).unwrap())
        };
        let bundle = recorded(&format!("{name}.json")).to_string();
        let release = verify_release(bundle.as_bytes(), &key(name), &root).unwrap();
        assert_eq!(release.verified().signer(), "key");
        assert_eq!(release.statement().predicate.version, 1);
        let other = if name == "first" { "second" } else { "first" };
        let refused = cause(verify_release(bundle.as_bytes(), &key(other), &root));
        assert_eq!(refused.0, Class::Signature);
    }
}

#[test]
fn another_signer_issuer_or_artifact_is_refused() {
    let root = root(&recorded("trusted_root.json"));
    let bundle = recorded("keyless.json").to_string();
    let refused = |identity: &str, issuer: &str| {
        let expected = Expected::Identity {
            identity: identity.to_owned(),
            issuer: issuer.to_owned(),
        };
        cause(verify_release(bundle.as_bytes(), &expected, &root))
    };
    let (class, error) = refused("https://ci.example.org/other", ISSUER);
    assert!(matches!(error, Error::IdentityMismatch { .. }));
    assert_eq!(class, Class::Policy);
    let (class, error) = refused(IDENTITY, "https://other.example.org");
    assert!(matches!(error, Error::IssuerMismatch { .. }));
    assert_eq!(class, Class::Policy);
    let other = Artifact::Bytes(b"another artifact");
    let (class, error) = cause(verify(bundle.as_bytes(), other, &keyless(), &root));
    assert!(matches!(error, Error::ArtifactMismatch(_)));
    assert_eq!(class, Class::Policy);
}

#[test]
fn an_expired_certificate_needs_a_timestamp_within_its_life() {
    // With one it verifies: see above. Without:
    let without = edited(|bundle| {
        let data = &mut bundle["verificationMaterial"]["timestampVerificationData"];
        data["rfc3161Timestamps"] = Value::Array(Vec::new());
    });
    let (class, error) = cause(without);
    assert!(matches!(
        error,
        Error::Timestamp(TimestampError::NoVerifiedTimestamp(_))
    ));
    assert_eq!(class, Class::Collateral);
    // And with one that is an hour late:
    let root = root(&recorded("late_root.json"));
    let late = recorded("late.json").to_string();
    let (class, error) = cause(verify_release(late.as_bytes(), &keyless(), &root));
    assert!(matches!(error, Error::Certificate(_)), "{error}");
    assert!(matches!(class, Class::Collateral | Class::Signature));
}

#[test]
fn a_bundle_without_the_logs_proof_is_refused() {
    let entry = |bundle: &mut Value, edit: &dyn Fn(&mut Value)| {
        edit(&mut bundle["verificationMaterial"]["tlogEntries"][0]);
    };
    let none = edited(|bundle| {
        bundle["verificationMaterial"]["tlogEntries"] = Value::Array(Vec::new());
    });
    assert!(matches!(none, Err(VerifyError::NotLogged)));
    let unproved = edited(|bundle| {
        entry(bundle, &|entry| {
            entry.as_object_mut().unwrap().remove("inclusionProof");
        });
    });
    assert!(matches!(unproved, Err(VerifyError::NoInclusionProof)));
    let replaced = edited(|bundle| {
        entry(bundle, &|entry| {
            let note = &mut entry["inclusionProof"]["checkpoint"]["envelope"];
            *note = note
                .as_str()
                .unwrap()
                .replacen("rekor.local", "rekor.other", 1)
                .into();
        });
    });
    let (class, error) = cause(replaced);
    assert!(matches!(
        error,
        Error::TransparencyLog(TransparencyLogError::Checkpoint(_))
    ));
    assert_eq!(class, Class::Log);
    let moved = edited(|bundle| {
        entry(bundle, &|entry| entry["logIndex"] = "0".into());
        let other = recorded("first.json");
        entry(bundle, &|entry| {
            let proof = &other["verificationMaterial"]["tlogEntries"][0]["inclusionProof"];
            entry["inclusionProof"] = proof.clone();
        });
    });
    let (class, error) = cause(moved);
    assert!(matches!(
        error,
        Error::TransparencyLog(TransparencyLogError::InclusionProof(_))
    ));
    assert_eq!(class, Class::Log);
}

#[test]
fn an_entry_for_something_else_is_refused() {
    let other = recorded("first.json");
    let swapped = edited(|bundle| {
        let entries = &other["verificationMaterial"]["tlogEntries"];
        bundle["verificationMaterial"]["tlogEntries"] = entries.clone();
    });
    let (class, error) = cause(swapped);
    assert!(
        matches!(
            error,
            Error::TransparencyLog(TransparencyLogError::EntryMismatch(_))
        ),
        "{error}"
    );
    assert_eq!(class, Class::Log);
}

#[test]
fn each_authority_that_is_not_believed_is_missed() {
    let empty =
        |list: &'static str| cause(believing(|root| root[list] = Value::Array(Vec::new()))).1;
    assert!(matches!(
        empty("certificateAuthorities"),
        Error::Certificate(_)
    ));
    assert!(matches!(empty("ctlogs"), Error::InvalidTrustRoot(_)));
    let others = believing(|root| root["ctlogs"] = recorded("late_root.json")["ctlogs"].clone());
    let (class, sct) = cause(others);
    assert!(
        matches!(sct, Error::Certificate(CertificateError::Sct(_))),
        "{sct:?}"
    );
    assert_eq!(class, Class::Signature);
    assert!(matches!(empty("timestampAuthorities"), Error::Timestamp(_)));
    assert!(matches!(empty("tlogs"), Error::TransparencyLog(_)));
}

#[test]
fn what_is_signed_must_be_a_release_of_ours() {
    let root = root(&recorded("trusted_root.json"));
    let file = recorded("file.json").to_string();
    assert!(matches!(
        verify_release(file.as_bytes(), &keyless(), &root),
        Err(VerifyError::NoStatement)
    ));
    let foreign = recorded("foreign.json").to_string();
    assert!(matches!(
        verify_release(foreign.as_bytes(), &keyless(), &root),
        Err(VerifyError::Statement(_))
    ));
    // Both are soundly signed.
    let artifact = Artifact::Bytes(b"a release's artifact\n");
    verify(file.as_bytes(), artifact, &keyless(), &root).unwrap();
    verify(foreign.as_bytes(), artifact, &keyless(), &root).unwrap();
    // A statement that was changed after it was signed.
    let changed = edited(|bundle| {
        let other = recorded("other.json");
        bundle["dsseEnvelope"]["payload"] = other["dsseEnvelope"]["payload"].clone();
    });
    let (class, error) = cause(changed);
    assert!(matches!(error, Error::SignatureInvalid(_)), "{error}");
    assert_eq!(class, Class::Signature);
}

proptest::proptest! {
    #[test]
    fn damaged_bundles_never_panic(at in 0..7000usize, byte: u8) {
        let mut bundle = recorded("keyless.json").to_string().into_bytes();
        let at = at % bundle.len();
        bundle[at] = byte;
        let root = root(&recorded("trusted_root.json"));
        // What is signed cannot change unnoticed; the entry's copies of it may be damaged.
        if let Ok(release) = verify_release(&bundle, &keyless(), &root) {
            proptest::prop_assert_eq!(release.statement().predicate.version, 1);
        }
    }
}
