//! A proof capsule: evidence with what it was bound to and when it was believed, so that anyone can
//! judge it again, offline, at that time.
//!
//! ```text
//! {1: version = 1,
//!  2: seconds since 1970,
//!  3: {1: "handshake", 2: hash of message 1, 3: server's key, 4: digest of the ciphertext}
//!     or {1: "nonce", 2: nonce},
//!  4: envelope of the evidence: with collateral, revocation lists, release and its log's proof}
//! ```
//!
//! Deterministic CBOR. A capsule is evidence, and nothing in it is trusted: whoever reads it brings
//! the policy.

use crate::cbor::{CborError, Decoder, Encoder};
use crate::evidence::{EvidenceError, MAX_EVIDENCE_BYTES};
use crate::{Binding, Evidence, UnixTime};

/// Longest encoding of a capsule.
pub const MAX_CAPSULE_BYTES: usize = MAX_EVIDENCE_BYTES + 1024;

const VERSION: u64 = 1;
const HANDSHAKE: &str = "handshake";
const NONCE: &str = "nonce";

/// Evidence, and what is needed to judge it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capsule {
    /// When it was believed.
    pub time: UnixTime,
    /// What it was made for.
    pub purpose: Purpose,
    /// What was shown.
    pub evidence: Evidence,
}

/// What evidence was made for, but for what the evidence says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// One handshake of the channel.
    Handshake {
        /// Handshake hash after message 1.
        message1_hash: [u8; 32],
        /// The server's static public key.
        server_static: [u8; 32],
        /// SHA-256 of the ML-KEM ciphertext.
        ciphertext_digest: [u8; 32],
    },
    /// A verifier's nonce.
    Nonce([u8; 32]),
}

/// Why bytes are not a capsule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CapsuleError {
    /// Longer than [`MAX_CAPSULE_BYTES`].
    #[error("{found} bytes, {MAX_CAPSULE_BYTES} allowed")]
    TooLarge {
        /// Length found.
        found: usize,
    },
    /// Not deterministic CBOR of this form.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// A version that this program does not know.
    #[error("version {found}, {VERSION} expected")]
    Version {
        /// Version found.
        found: u64,
    },
    /// Made for something that this program does not know.
    #[error("made for an unknown purpose")]
    Purpose,
    /// The evidence is none.
    #[error("evidence: {0}")]
    Evidence(#[from] EvidenceError),
}

impl Purpose {
    /// What `binding` says and the evidence does not. Evidence within a session has no purpose of
    /// its own: that of its handshake is what shows who answered.
    #[must_use]
    pub const fn of(binding: &Binding) -> Option<Self> {
        match *binding {
            Binding::Handshake {
                message1_hash,
                server_static,
                ciphertext_digest,
                ..
            } => Some(Self::Handshake {
                message1_hash,
                server_static,
                ciphertext_digest,
            }),
            Binding::Nonce { nonce, .. } => Some(Self::Nonce(nonce)),
            Binding::Session { .. } => None,
        }
    }
}

impl Capsule {
    /// What the evidence must be bound to, where the channel's handshake is called `suite`.
    #[must_use]
    pub fn binding(&self, suite: &'static str) -> Binding {
        let configuration_digest = self.evidence.configuration_digest();
        let gpu_digest = self.evidence.gpu_digest();
        match self.purpose {
            Purpose::Handshake {
                message1_hash,
                server_static,
                ciphertext_digest,
            } => Binding::Handshake {
                suite,
                message1_hash,
                server_static,
                ciphertext_digest,
                configuration_digest,
                gpu_digest,
            },
            Purpose::Nonce(nonce) => Binding::Nonce {
                nonce,
                configuration_digest,
                gpu_digest,
            },
        }
    }

    /// The one encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::new();
        encoder.map(4);
        encoder.uint(1).uint(VERSION);
        encoder.uint(2).uint(self.time.as_secs());
        encoder.uint(3);
        match &self.purpose {
            Purpose::Handshake {
                message1_hash,
                server_static,
                ciphertext_digest,
            } => {
                encoder.map(4).uint(1).text(HANDSHAKE);
                encoder.uint(2).bytes(message1_hash);
                encoder.uint(3).bytes(server_static);
                encoder.uint(4).bytes(ciphertext_digest);
            }
            Purpose::Nonce(nonce) => {
                encoder.map(2).uint(1).text(NONCE);
                encoder.uint(2).bytes(nonce);
            }
        }
        encoder.uint(4).bytes(&self.evidence.encode());
        encoder.finish()
    }

    /// Reads a capsule; accepts only what [`Capsule::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, CapsuleError> {
        let found = bytes.len();
        if found > MAX_CAPSULE_BYTES {
            return Err(CapsuleError::TooLarge { found });
        }
        let mut decoder = Decoder::new(bytes);
        decoder.map(4)?;
        decoder.key(1)?;
        match decoder.uint()? {
            VERSION => {}
            found => return Err(CapsuleError::Version { found }),
        }
        decoder.key(2)?;
        let time = UnixTime::from_secs(decoder.uint()?);
        decoder.key(3)?;
        let purpose = decode_purpose(&mut decoder)?;
        decoder.key(4)?;
        let evidence = Evidence::decode(decoder.bytes(MAX_EVIDENCE_BYTES)?)?;
        decoder.end()?;
        Ok(Self {
            time,
            purpose,
            evidence,
        })
    }
}

/// The number of entries tells the two apart before their names do.
fn decode_purpose(decoder: &mut Decoder<'_>) -> Result<Purpose, CapsuleError> {
    let mut handshake = decoder.clone();
    if handshake.map(4).is_ok() {
        *decoder = handshake;
        decoder.key(1)?;
        if decoder.text(16)? != HANDSHAKE {
            return Err(CapsuleError::Purpose);
        }
        decoder.key(2)?;
        let message1_hash = decoder.fixed()?;
        decoder.key(3)?;
        let server_static = decoder.fixed()?;
        decoder.key(4)?;
        let ciphertext_digest = decoder.fixed()?;
        return Ok(Purpose::Handshake {
            message1_hash,
            server_static,
            ciphertext_digest,
        });
    }
    decoder.map(2)?;
    decoder.key(1)?;
    if decoder.text(16)? != NONCE {
        return Err(CapsuleError::Purpose);
    }
    decoder.key(2)?;
    Ok(Purpose::Nonce(decoder.fixed()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Platform;
    use crate::snp::SnpEvidence;

    fn capsules() -> [Capsule; 2] {
        let evidence = Evidence {
            platform: Platform::Snp(SnpEvidence {
                report: vec![1; 1184],
                ..SnpEvidence::default()
            }),
            configuration: b"version = 2".to_vec(),
            gpu: Default::default(),
            release: b"{}".to_vec(),
        };
        let handshake = Purpose::Handshake {
            message1_hash: [1; 32],
            server_static: [2; 32],
            ciphertext_digest: [3; 32],
        };
        [handshake, Purpose::Nonce([4; 32])].map(|purpose| Capsule {
            time: UnixTime::from_secs(1_790_000_000),
            purpose,
            evidence: evidence.clone(),
        })
    }

    #[test]
    fn a_capsule_is_read_back_and_bound_to_what_it_was_made_for() {
        for capsule in capsules() {
            let bytes = capsule.encode();
            assert_eq!(Capsule::decode(&bytes), Ok(capsule.clone()));
            let binding = capsule.binding("suite");
            assert_eq!(Purpose::of(&binding), Some(capsule.purpose));
            for length in 0..bytes.len() {
                assert!(Capsule::decode(&bytes[..length]).is_err(), "{length}");
            }
            let mut longer = bytes.clone();
            longer.push(0);
            let trailing = CapsuleError::Cbor(CborError::Trailing);
            assert_eq!(Capsule::decode(&longer), Err(trailing));
        }
    }

    #[test]
    fn what_is_no_capsule_is_refused() {
        let [handshake, nonce] = capsules().map(|capsule| capsule.encode());
        let found = MAX_CAPSULE_BYTES + 1;
        let large = Capsule::decode(&vec![0; found]);
        assert_eq!(large, Err(CapsuleError::TooLarge { found }));
        let mut version = nonce.clone();
        version[2] = 2;
        let other = Err(CapsuleError::Version { found: 2 });
        assert_eq!(Capsule::decode(&version), other);
        for (bytes, name) in [(handshake, HANDSHAKE), (nonce.clone(), NONCE)] {
            let at = bytes
                .windows(name.len())
                .position(|window| window == name.as_bytes());
            let mut unknown = bytes;
            unknown[at.unwrap()] ^= 1;
            assert_eq!(Capsule::decode(&unknown), Err(CapsuleError::Purpose));
        }
        let at = nonce.windows(3).position(|window| window == b"snp");
        let mut platform = nonce;
        platform[at.unwrap()] ^= 1;
        let platform = Capsule::decode(&platform);
        assert_eq!(
            platform,
            Err(CapsuleError::Evidence(EvidenceError::Platform))
        );
    }
}
