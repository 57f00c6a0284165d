//! Signs and logs a release, in memory.

use attest::Digest;
use attest::release::envelope::{Envelope, EnvelopeSignature, PayloadType, pae};
use attest::release::merkle::{leaf_hash, node_hash};
use attest::release::{Bundle, Checkpoint, LogEntry, PublicKey};
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

/// The second entry of a log of three, and the log's signed checkpoint.
pub fn log(envelope: Envelope, origin: &str, key: &SigningKey) -> Bundle {
    let leaf = leaf_hash(&envelope.encode());
    let (first, third) = (leaf_hash(b"first"), leaf_hash(b"third"));
    let root = node_hash(node_hash(first, leaf), third);
    let proof = vec![first, third];
    let checkpoint = checkpoint(origin, 3, root, key);
    Bundle::new(
        envelope,
        LogEntry {
            index: 1,
            proof,
            checkpoint,
        },
    )
}

/// A signed checkpoint.
pub fn checkpoint(origin: &str, size: u64, root: Digest<32>, key: &SigningKey) -> String {
    let origin = origin.to_owned().try_into().expect("an origin");
    let checkpoint = Checkpoint { origin, size, root };
    let signature = key.sign(checkpoint.text().as_bytes()).to_bytes();
    checkpoint.note(&public(key), &signature)
}
