//! Releases as a client sees them: each way to be refused, provoked.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use attest::policy::ReleasePolicy;
use attest::release::{
    Bundle, BundleError, CheckpointError, EnvelopeError, PublicKey, ReleaseError, Signer,
};
use attest::{Class, Ratchet, Refusal, verify_release as verify};
use common::{Logged, NOW, Site, edit};
use proptest::prelude::*;
use release::key::SigningKey;
use release::log::Log;
use release::verify::{ArtifactError, check_artifacts};

/// A site with two releases of what was assembled there, the second one's bundle, the policy.
fn released() -> (Site, Logged, Bundle, ReleasePolicy) {
    let site = Site::new();
    site.assemble("out").unwrap();
    let logged = Logged::new(&site);
    logged.append(&site.statement(1).unwrap());
    let bundle = logged.append(&site.statement(2).unwrap());
    let policy = logged.policy();
    (site, logged, bundle, policy)
}

fn refusal(bundle: &Bundle, policy: &ReleasePolicy) -> Refusal {
    verify(&bundle.encode(), policy, &Ratchet::UNSEEN, NOW).unwrap_err()
}

fn other_key() -> PublicKey {
    SigningKey::generate().unwrap().public()
}

#[test]
fn a_release_verifies_with_its_artifacts() {
    let (site, logged, bundle, policy) = released();
    let verified = verify(&bundle.encode(), &policy, &Ratchet::at(2), NOW).unwrap();
    let stated = &verified.statement().predicate;
    assert_eq!(
        (stated.version, verified.signer()),
        (2, &Signer::Key(logged.signer.public()))
    );
    let measured =
        release::measure::measure(&std::fs::read(site.path("out/cloister.efi")).unwrap(), &[]);
    assert_eq!(
        stated.reference_values.tpm,
        measured.unwrap().reference_values()
    );
    let folder = site.path("out");
    assert_eq!(check_artifacts(&folder, verified.statement()).unwrap(), 6);
    release::disk::attach(&folder.join("disk.img"), &bundle.encode()).unwrap();
    assert_eq!(check_artifacts(&folder, verified.statement()).unwrap(), 6);
    edit(&folder.join("vmlinuz"), |linux| linux[9] ^= 1);
    let error = check_artifacts(&folder, verified.statement()).unwrap_err();
    assert!(matches!(error, ArtifactError::Differs { name, .. } if name == "vmlinuz"));
}

#[test]
fn a_signature_that_is_wrong_or_by_a_stranger_is_refused() {
    let (_site, _logged, bundle, policy) = released();
    let mut wrong = bundle.clone();
    wrong.envelope.signatures[0].sig[5] ^= 1;
    let error = refusal(&wrong, &policy);
    assert_eq!(error.class(), Class::Signature);
    assert!(matches!(
        error,
        Refusal::Release(ReleaseError::Envelope(EnvelopeError::Signature { .. }))
    ));
    let mut wrong = bundle.clone();
    wrong.envelope.payload[30] ^= 1;
    assert_eq!(refusal(&wrong, &policy).class(), Class::Signature);
    let mut strange = policy;
    strange.log_mut().unwrap().signers = vec![other_key()];
    assert_eq!(
        refusal(&bundle, &strange),
        Refusal::Release(EnvelopeError::UnknownSigner.into())
    );
}

#[test]
fn a_release_that_the_log_does_not_hold_is_refused() {
    let (site, logged, bundle, policy) = released();
    // Signed, with a genuine checkpoint and proof, but of another entry.
    let unlogged = Bundle::new(
        release::statement::sign(&site.statement(3).unwrap().encode(), &logged.signer),
        bundle.log.clone(),
        Vec::new(),
    );
    let error = refusal(&unlogged, &policy);
    assert!(matches!(
        error,
        Refusal::Release(ReleaseError::Inclusion { index: 1, size: 2 })
    ));
    assert_eq!(error.class(), Class::Log);
    let missing = verify(b"", &policy, &Ratchet::UNSEEN, NOW).unwrap_err();
    assert_eq!(missing, Refusal::Release(ReleaseError::Missing));
}

#[test]
fn a_tampered_proof_is_refused() {
    let (_site, _logged, bundle, policy) = released();
    let tampered = |change: fn(&mut Bundle)| {
        let mut other = bundle.clone();
        change(&mut other);
        let error = refusal(&other, &policy);
        assert!(
            matches!(error, Refusal::Release(ReleaseError::Inclusion { .. })),
            "{error}"
        );
    };
    tampered(|bundle| bundle.log.proof[0].0[0] ^= 1);
    tampered(|bundle| bundle.log.proof.clear());
    tampered(|bundle| bundle.log.proof.push(bundle.log.proof[0]));
    tampered(|bundle| bundle.log.index = 0);
    tampered(|bundle| bundle.log.index = 7);
}

#[test]
fn a_checkpoint_of_another_log_or_key_is_refused() {
    let (site, logged, bundle, policy) = released();
    let origin = "other.example.org".to_owned().try_into().unwrap();
    let mut elsewhere = policy.clone();
    elsewhere.log_mut().unwrap().log_origin = origin;
    let error = refusal(&bundle, &elsewhere);
    assert!(matches!(
        error,
        Refusal::Release(ReleaseError::Checkpoint(CheckpointError::Origin { .. }))
    ));
    assert_eq!(error.class(), Class::Log);
    let mut strange = policy.clone();
    strange.log_mut().unwrap().log_key = other_key();
    assert!(matches!(
        refusal(&bundle, &strange),
        Refusal::Release(ReleaseError::Checkpoint(CheckpointError::Unsigned { .. }))
    ));
    // The same release in a log of the same name that somebody else keeps.
    let forged = Logged {
        signer: SigningKey::generate().unwrap(),
        key: SigningKey::generate().unwrap(),
        path: site.path("forged"),
        origin: logged.origin.clone(),
    };
    Log::create(&forged.path, &forged.origin, &forged.key).unwrap();
    let (log, index) = forged
        .append_of(&bundle.envelope, logged.signer.public())
        .unwrap();
    let bundle = log.bundle(index, 256).unwrap();
    assert_eq!(refusal(&bundle, &policy).class(), Class::Log);
}

#[test]
fn another_name_or_profile_and_an_older_version_are_refused() {
    let (_site, _logged, bundle, policy) = released();
    let name = ReleasePolicy {
        name: "other".parse().unwrap(),
        ..policy.clone()
    };
    assert!(matches!(
        refusal(&bundle, &name),
        Refusal::ReleaseName { .. }
    ));
    let profile = ReleasePolicy {
        profile: "demo".parse().unwrap(),
        ..policy.clone()
    };
    assert!(matches!(
        refusal(&bundle, &profile),
        Refusal::Profile { .. }
    ));
    let newer = ReleasePolicy {
        minimum_version: 3,
        ..policy.clone()
    };
    assert_eq!(
        refusal(&bundle, &newer),
        Refusal::Version {
            minimum: 3,
            found: 2
        }
    );
    let rollback = verify(&bundle.encode(), &policy, &Ratchet::at(3), NOW).unwrap_err();
    assert_eq!(rollback, Refusal::Rollback { seen: 3, found: 2 });
    assert_eq!(rollback.class(), Class::Policy);
}

#[test]
fn a_bundle_in_another_spelling_is_refused() {
    let (_site, _logged, bundle, policy) = released();
    let mut spaced = bundle.encode();
    spaced.push(b'\n');
    let error = verify(&spaced, &policy, &Ratchet::UNSEEN, NOW).unwrap_err();
    assert_eq!(error, Refusal::Release(BundleError::NotCanonical.into()));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_changed_byte_of_a_bundle_verifies(at: usize, flip in 1u8..) {
        static RELEASE: std::sync::OnceLock<(Vec<u8>, ReleasePolicy)> = std::sync::OnceLock::new();
        let (bytes, policy) = RELEASE.get_or_init(|| {
            let (_site, _logged, bundle, policy) = released();
            (bundle.encode(), policy)
        });
        let mut other = bytes.clone();
        let at = at % other.len();
        other[at] ^= flip;
        prop_assert!(verify(&other, policy, &Ratchet::UNSEEN, NOW).is_err());
    }
}
