//! Signs releases and what is said of them.

use attest::Digest;
use attest::release::envelope::{Envelope, EnvelopeSignature, PayloadType, pae};
use attest::release::statement::{
    Rebuild, RebuildStatement, Revocation, Status, StatusStatement, Subject, SubjectDigest,
};
use attest::release::{Checkpoint, PublicKey, Statement};
use ed25519_dalek::{Signer as _, SigningKey};

/// The public half of `key`.
pub fn public(key: &SigningKey) -> PublicKey {
    PublicKey::from_bytes(&key.verifying_key().to_bytes()).expect("a sound key")
}

/// An envelope around `payload`, signed by `key`.
pub fn sign(payload: &[u8], key: &SigningKey) -> Envelope {
    let sig = key.sign(&pae(payload)).to_bytes().to_vec();
    Envelope {
        payload: payload.to_vec(),
        payload_type: PayloadType::InToto,
        signatures: vec![EnvelopeSignature {
            keyid: public(key),
            sig,
        }],
    }
}

/// A signed checkpoint.
pub fn checkpoint(origin: &str, size: u64, root: Digest<32>, key: &SigningKey) -> String {
    let origin = origin.to_owned().try_into().expect("an origin");
    let checkpoint = Checkpoint { origin, size, root };
    let signature = key.sign(checkpoint.text().as_bytes()).to_bytes();
    checkpoint.note(&public(key), &signature)
}

/// That `release` was rebuilt at the time `issued`, with the same result.
pub fn rebuild(release: &Statement, issued: u64) -> RebuildStatement {
    let predicate = Rebuild {
        issued,
        source_revision: release.predicate.source_revision.clone(),
        lock_digest: release.predicate.lock_digest,
        configuration_digest: release.predicate.configuration_digest,
        reference_values: release.predicate.reference_values.clone(),
    };
    RebuildStatement::new(release.subject.clone(), predicate)
}

/// That `release` is current at the time `issued`, unless it is among `revoked`.
pub fn status(release: &Statement, issued: u64, revoked: &[u64]) -> StatusStatement {
    let revocation = |version: &u64| Revocation {
        version: *version,
        reason: "for a test".parse().expect("a text"),
    };
    let subject = Subject {
        name: "statement.json".parse().expect("a name"),
        digest: SubjectDigest {
            sha256: Digest::sha256(&release.encode()),
        },
    };
    let revocations = revoked.iter().map(revocation).collect();
    StatusStatement::new(
        vec![subject],
        Status {
            issued,
            revocations,
        },
    )
}
