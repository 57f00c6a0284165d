//! A log in memory, and its witnesses: honest ones, and such as betray.
//!
//! A log that shows two faces is two logs with one name and one key: clone it, and append to both.
//! A rollback is a clone of an earlier time.

use attest::release::merkle::{leaf_hash, node_hash};
use attest::release::{Bundle, Envelope, History, LogEntry, Remark, SignedCheckpoint, Witness};
use attest::{Digest, UnixTime};
use ed25519_dalek::{Signer as _, SigningKey};

use crate::release;

/// A log.
#[derive(Clone)]
pub struct Log {
    origin: String,
    key: SigningKey,
    leaves: Vec<Digest<32>>,
    envelopes: Vec<Option<Envelope>>,
}

impl Log {
    /// An empty log.
    pub fn new(origin: &str, key: &SigningKey) -> Self {
        Self {
            origin: origin.to_owned(),
            key: key.clone(),
            leaves: Vec::new(),
            envelopes: Vec::new(),
        }
    }

    /// Appends an envelope, and gives its place.
    pub fn append(&mut self, envelope: &Envelope) -> u64 {
        self.leaves.push(leaf_hash(&envelope.encode()));
        self.envelopes.push(Some(envelope.clone()));
        self.leaves.len() as u64 - 1
    }

    /// Appends something of no interest.
    pub fn append_other(&mut self, entry: &[u8]) {
        self.leaves.push(leaf_hash(entry));
        self.envelopes.push(None);
    }

    /// Its signed checkpoint.
    pub fn checkpoint(&self) -> String {
        let size = self.leaves.len() as u64;
        release::checkpoint(&self.origin, size, root(&self.leaves), &self.key)
    }

    /// Its checkpoint with what these witnesses sign at `time`.
    pub fn witnessed(&self, witnesses: &[Cosigner], time: UnixTime) -> String {
        let note = self.checkpoint();
        let lines = witnesses.iter().map(|witness| witness.sign(&note, time));
        let lines: String = lines.collect();
        note + &lines
    }

    /// The bundle of an entry with these remarks, under `checkpoint`, with the last `length`
    /// entries as its history.
    pub fn bundle(&self, index: u64, remarks: &[u64], checkpoint: String, length: usize) -> Bundle {
        let envelope = |index: u64| self.envelopes[index as usize].clone().expect("an envelope");
        let remark = |index: &u64| Remark {
            envelope: envelope(*index),
            index: *index,
            proof: proof(*index as usize, &self.leaves),
        };
        let log = LogEntry {
            index,
            proof: proof(index as usize, &self.leaves),
            checkpoint,
            history: History::of(&self.leaves, length).expect("a history"),
        };
        Bundle::new(envelope(index), log, remarks.iter().map(remark).collect())
    }
}

/// A witness. It signs whatever it is given: an honest one has looked before.
#[derive(Clone)]
pub struct Cosigner {
    /// Its name and public key.
    pub witness: Witness,
    key: SigningKey,
}

impl Cosigner {
    /// A witness with a key of its own.
    pub fn new(name: &str, seed: u8) -> Self {
        let key = SigningKey::from_bytes(&[seed; 32]);
        let name = name.to_owned().try_into().expect("a name");
        Self {
            witness: Witness {
                name,
                key: release::public(&key),
            },
            key,
        }
    }

    /// Its line under a checkpoint.
    pub fn sign(&self, note: &str, time: UnixTime) -> String {
        let signed = SignedCheckpoint::parse(note).expect("a checkpoint");
        let message = Witness::message(signed.unverified(), time);
        let signature = self.key.sign(message.as_bytes()).to_bytes();
        self.witness.line(time, &signature)
    }
}

fn root(leaves: &[Digest<32>]) -> Digest<32> {
    match leaves {
        [] => Digest::sha256(b""),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node_hash(root(left), root(right))
        }
    }
}

fn proof(index: usize, leaves: &[Digest<32>]) -> Vec<Digest<32>> {
    if leaves.len() < 2 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
    let (mut path, sibling) = match index < left.len() {
        true => (proof(index, left), root(right)),
        false => (proof(index - left.len(), right), root(left)),
    };
    path.push(sibling);
    path
}
