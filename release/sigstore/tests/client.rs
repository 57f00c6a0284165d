//! What a client is told of bundles that were recorded (`recorded/README.md`), as they are and with
//! one thing changed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use attest::Digest;
use attest::release::{
    ReleaseError, SigstoreEntry, SigstoreFault, SigstoreSigner, SigstoreVerifier as _, Statement,
};
use cloister_sigstore::{BUILT_IN_ROOT, RootError, SigstoreVerifier, stated};
use serde_json::Value;

const IDENTITY: &str = "https://ci.example.org/cloister/release.yml@refs/tags/v1";
const ISSUER: &str = "https://issuer.example.org";

fn recorded(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/recorded/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).unwrap()
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&recorded(name)).unwrap()
}

fn signer(identity: &str, issuer: &str) -> SigstoreSigner {
    SigstoreSigner::Identity {
        identity: identity.parse().unwrap(),
        issuer: issuer.parse().unwrap(),
    }
}

/// By this root, these bytes, this signer.
fn judge(
    root: &[u8],
    bundle: &[u8],
    signer: &SigstoreSigner,
) -> Result<SigstoreEntry, SigstoreFault> {
    let verifier = SigstoreVerifier::of_file(root).unwrap();
    let payload = verifier.payload(bundle)?;
    let subject = Statement::decode(&payload).map(|one| one.subject[0].digest.sha256);
    verifier.verify(bundle, subject.unwrap_or(Digest::ZERO), signer)
}

fn verdict(bundle: &[u8]) -> Result<SigstoreEntry, SigstoreFault> {
    judge(
        &recorded("trusted_root.json"),
        bundle,
        &signer(IDENTITY, ISSUER),
    )
}

/// `keyless.json` after `edit`.
fn edited(edit: impl FnOnce(&mut Value)) -> Result<SigstoreEntry, SigstoreFault> {
    let mut bundle = json("keyless.json");
    edit(&mut bundle);
    verdict(bundle.to_string().as_bytes())
}

/// The root of `keyless.json` after `edit`.
fn believing(edit: impl FnOnce(&mut Value)) -> Result<SigstoreEntry, SigstoreFault> {
    let mut root = json("trusted_root.json");
    edit(&mut root);
    let root = root.to_string();
    let signer = signer(IDENTITY, ISSUER);
    judge(root.as_bytes(), &recorded("keyless.json"), &signer)
}

#[test]
fn a_recorded_release_is_an_entry_of_a_log_at_a_time() {
    let entry = verdict(&recorded("keyless.json")).unwrap();
    assert_eq!(entry.checkpoint.origin.as_str(), "rekor.local");
    assert!(entry.checkpoint.size > entry.index);
    assert_eq!(entry.signed_at.len(), 1);
    // States of one log bear one id.
    let other = verdict(&recorded("other.json")).unwrap();
    assert_eq!(entry.checkpoint.log, other.checkpoint.log);
    assert_ne!(entry.checkpoint, other.checkpoint);
    let pem = String::from_utf8(recorded("first.pub")).unwrap();
    let key = SigstoreSigner::Key { pem };
    let root = recorded("trusted_root.json");
    assert!(judge(&root, &recorded("first.json"), &key).is_ok());
    let refused = judge(&root, &recorded("second.json"), &key);
    assert_eq!(refused, Err(SigstoreFault::Signature));
    let none = SigstoreSigner::Key {
        pem: "no key".to_owned(),
    };
    let refused = judge(&root, &recorded("first.json"), &none);
    assert_eq!(refused, Err(SigstoreFault::Key));
}

#[test]
fn each_way_to_be_no_release_of_the_signer_has_its_own_fault() {
    use SigstoreFault as F;
    let (root, bundle) = (recorded("trusted_root.json"), recorded("keyless.json"));
    let by = |identity, issuer| judge(&root, &bundle, &signer(identity, issuer));
    assert_eq!(by("https://other", ISSUER), Err(F::Identity));
    assert_eq!(by(IDENTITY, "https://other"), Err(F::Issuer));
    assert_eq!(verdict(&recorded("first.json")), Err(F::OtherKind));
    assert_eq!(verdict(&recorded("file.json")), Err(F::NoStatement));
    assert_eq!(verdict(b"{}"), Err(F::Form));
    let altered = edited(|bundle| {
        let other = json("other.json");
        bundle["dsseEnvelope"]["payload"] = other["dsseEnvelope"]["payload"].clone();
    });
    assert_eq!(altered, Err(F::Signature));
    let unknown = edited(|bundle| bundle["dsseEnvelope"]["payloadType"] = "text/plain".into());
    assert_eq!(unknown, Err(F::Unknown));
    let data = "timestampVerificationData";
    let untimed = edited(|bundle| {
        bundle["verificationMaterial"][data]["rfc3161Timestamps"] = Value::Array(Vec::new());
    });
    assert_eq!(untimed, Err(F::Timestamp));
    let late = judge(
        &recorded("late_root.json"),
        &recorded("late.json"),
        &signer(IDENTITY, ISSUER),
    );
    assert!(matches!(late, Err(F::Expired | F::Certificate)), "{late:?}");
}

#[test]
fn each_way_to_be_in_no_log_has_its_own_fault() {
    use SigstoreFault as F;
    let entries = |bundle: &mut Value, entries: Value| {
        bundle["verificationMaterial"]["tlogEntries"] = entries;
    };
    let none = edited(|bundle| entries(bundle, Value::Array(Vec::new())));
    assert_eq!(none, Err(F::NotLogged));
    let unproved = edited(|bundle| {
        let entry = &mut bundle["verificationMaterial"]["tlogEntries"][0];
        entry.as_object_mut().unwrap().remove("inclusionProof");
    });
    assert_eq!(unproved, Err(F::NoInclusionProof));
    let other = edited(|bundle| {
        let other = &json("first.json")["verificationMaterial"]["tlogEntries"];
        entries(bundle, other.clone());
    });
    assert_eq!(other, Err(F::OtherEntry));
    let moved = edited(|bundle| {
        let entry = &mut bundle["verificationMaterial"]["tlogEntries"][0];
        let other = &json("first.json")["verificationMaterial"]["tlogEntries"][0];
        entry["logIndex"] = "0".into();
        entry["inclusionProof"] = other["inclusionProof"].clone();
    });
    assert_eq!(moved, Err(F::Inclusion));
    let renamed = edited(|bundle| {
        let entry = &mut bundle["verificationMaterial"]["tlogEntries"][0];
        let note = &mut entry["inclusionProof"]["checkpoint"]["envelope"];
        *note = note.as_str().unwrap().replacen("local", "other", 1).into();
    });
    assert_eq!(renamed, Err(F::Checkpoint));
}

#[test]
fn each_authority_that_is_not_believed_has_its_own_fault() {
    use SigstoreFault as F;
    let without = |list: &'static str| believing(|root| root[list] = Value::Array(Vec::new()));
    assert!(matches!(
        without("certificateAuthorities"),
        Err(F::Certificate | F::Expired)
    ));
    assert_eq!(without("timestampAuthorities"), Err(F::Timestamp));
    assert!(matches!(
        without("tlogs"),
        Err(F::UnknownLog | F::Checkpoint)
    ));
    assert_eq!(without("ctlogs"), Err(F::CertificateLog));
    let other = believing(|root| root["ctlogs"] = json("late_root.json")["ctlogs"].clone());
    assert_eq!(other, Err(F::CertificateLog));
}

#[test]
fn a_root_is_the_one_that_was_asked_for() {
    let built_in = SigstoreVerifier::built_in(BUILT_IN_ROOT).unwrap();
    assert!(built_in.root().contains("2025-09-23"));
    for other in ["public-good-2031-01-01", "public-good", ""] {
        let refused = SigstoreVerifier::built_in(other);
        assert!(matches!(refused, Err(RootError::NotBuiltIn)), "{other}");
    }
    let json = recorded("trusted_root.json");
    let named = SigstoreVerifier::of_file(&json).unwrap().root();
    let expected = format!("trusted root sha256:{}", Digest::sha256(&json));
    assert_eq!(named, expected);
    assert!(SigstoreVerifier::of_file(b"{}").is_err());
}

/// What is attached to a disk and handed around: bundles, and the first is a release.
#[test]
fn a_file_of_bundles_states_its_first() {
    let statement = stated(&recorded("other.json")).unwrap();
    assert_eq!(statement.predicate.version, 2);
    let two = [recorded("keyless.json"), recorded("other.json")].join(&b'\n');
    assert_eq!(stated(&two).unwrap().predicate.version, 1);
    let fault = |file: &[u8]| stated(file).unwrap_err();
    assert!(matches!(
        fault(&recorded("foreign.json")),
        ReleaseError::Statement(_)
    ));
    let none = ReleaseError::Sigstore(SigstoreFault::NoStatement);
    assert_eq!(fault(&recorded("file.json")), none);
    let form = ReleaseError::Sigstore(SigstoreFault::Form);
    assert_eq!(fault(b""), form);
    assert_eq!(fault(&[&two[..], b"{}"].concat()), form);
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_a_client_panic(at in 0..7000usize, byte: u8, cut in 0..7000usize) {
        let mut file = recorded("keyless.json");
        let at = at % file.len();
        file[at] = byte;
        let root = recorded("trusted_root.json");
        let judged = judge(&root, &file, &signer(IDENTITY, ISSUER));
        proptest::prop_assert!(judged.is_err() || stated(&file).is_ok());
        file.truncate(cut);
        proptest::prop_assert!(stated(&file).is_err());
    }
}
