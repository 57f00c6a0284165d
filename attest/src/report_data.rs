//! The 64 bytes that tie evidence to one purpose: this handshake, or this nonce.

use std::fmt;

use sha2::{Digest as _, Sha256, Sha384, Sha512};

const HANDSHAKE_LABEL: &[u8] = b"cloister report data v1\0";
const SESSION_LABEL: &[u8] = b"cloister session evidence v1\0";
const NONCE_LABEL: &[u8] = b"cloister nonce evidence v1\0";
const GPU_LABEL: &[u8] = b"cloister gpu nonce v1\0";

/// What the platform signs for us, beside its own measurements.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ReportData([u8; 64]);

/// What evidence is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Made for exactly one handshake of the channel.
    Handshake {
        /// Name of the handshake and its primitives.
        suite: &'static str,
        /// Handshake hash after message 1, which holds the client's nonce.
        message1_hash: [u8; 32],
        /// The server's static public key.
        server_static: [u8; 32],
        /// SHA-256 of the ML-KEM ciphertext.
        ciphertext_digest: [u8; 32],
        /// SHA-256 of the configuration file.
        configuration_digest: [u8; 32],
        /// SHA-256 of the GPU evidence as the envelope encodes it.
        gpu_digest: [u8; 32],
    },
    /// Made within a session, for a nonce: proves that whoever holds the session's keys has the
    /// platform's word still.
    Session {
        /// Report data of the handshake that the session began with.
        handshake: ReportData,
        /// The verifier's nonce.
        nonce: [u8; 32],
        /// SHA-256 of the configuration file.
        configuration_digest: [u8; 32],
        /// SHA-256 of the GPU evidence as the envelope encodes it.
        gpu_digest: [u8; 32],
    },
    /// Made for a nonce: proves the platform, not a channel.
    Nonce {
        /// The verifier's nonce.
        nonce: [u8; 32],
        /// SHA-256 of the configuration file.
        configuration_digest: [u8; 32],
        /// SHA-256 of the GPU evidence as the envelope encodes it.
        gpu_digest: [u8; 32],
    },
}

impl Binding {
    /// For evidence within the session that this handshake began, for `nonce`. There are no
    /// sessions but those that a handshake began.
    #[must_use]
    pub fn session(&self, nonce: [u8; 32]) -> Self {
        Self::Session {
            handshake: ReportData::compute(self),
            nonce,
            configuration_digest: self.configuration_digest(),
            gpu_digest: self.gpu_digest(),
        }
    }

    pub(crate) fn configuration_digest(&self) -> [u8; 32] {
        match self {
            Self::Handshake {
                configuration_digest,
                ..
            }
            | Self::Session {
                configuration_digest,
                ..
            }
            | Self::Nonce {
                configuration_digest,
                ..
            } => *configuration_digest,
        }
    }

    /// The nonce that GPUs and switches must sign: SHA-256 of a label and SHA-512 of all that the
    /// report data covers but for the digest of their own reports, which is zero here. So the
    /// devices sign for this handshake, and the CPU signs for these reports.
    #[must_use]
    pub fn gpu_nonce(&self) -> [u8; 32] {
        let binding = self.with_gpu_digest([0; 32]);
        let hash = Sha256::new().chain_update(GPU_LABEL);
        hash.chain_update(ReportData::compute(&binding).0)
            .finalize()
            .into()
    }

    /// The same, for what the devices of the machine said.
    #[must_use]
    pub fn with_gpu_digest(mut self, digest: [u8; 32]) -> Self {
        match &mut self {
            Self::Handshake { gpu_digest, .. }
            | Self::Session { gpu_digest, .. }
            | Self::Nonce { gpu_digest, .. } => *gpu_digest = digest,
        }
        self
    }

    pub(crate) fn gpu_digest(&self) -> [u8; 32] {
        match self {
            Self::Handshake { gpu_digest, .. }
            | Self::Session { gpu_digest, .. }
            | Self::Nonce { gpu_digest, .. } => *gpu_digest,
        }
    }
}

impl ReportData {
    /// SHA-512 of a label and every part of the binding; the suite's name is preceded by its
    /// length as eight big-endian bytes, all other parts have a fixed length.
    #[must_use]
    pub fn compute(binding: &Binding) -> Self {
        let mut hash = Sha512::new();
        match binding {
            Binding::Handshake {
                suite,
                message1_hash,
                server_static,
                ciphertext_digest,
                ..
            } => {
                hash.update(HANDSHAKE_LABEL);
                hash.update((suite.len() as u64).to_be_bytes());
                hash.update(suite);
                hash.update(message1_hash);
                hash.update(server_static);
                hash.update(ciphertext_digest);
            }
            Binding::Session {
                handshake, nonce, ..
            } => {
                hash.update(SESSION_LABEL);
                hash.update(handshake.as_bytes());
                hash.update(nonce);
            }
            Binding::Nonce { nonce, .. } => {
                hash.update(NONCE_LABEL);
                hash.update(nonce);
            }
        }
        hash.update(binding.configuration_digest());
        hash.update(binding.gpu_digest());
        Self(hash.finalize().into())
    }

    /// The 64 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    /// SHA-384 of the report data: what a TPM takes as qualifying data, which holds at most the
    /// size of its largest digest.
    #[must_use]
    pub fn qualifying_data(&self) -> [u8; 48] {
        Sha384::digest(self.0).into()
    }
}

impl fmt::Debug for ReportData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::Digest(self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshake() -> Binding {
        Binding::Handshake {
            suite: "suite",
            message1_hash: [1; 32],
            server_static: [2; 32],
            ciphertext_digest: [3; 32],
            configuration_digest: [4; 32],
            gpu_digest: [5; 32],
        }
    }

    #[test]
    fn the_encoding_of_a_handshake_is_fixed() {
        let mut bytes = b"cloister report data v1\0\0\0\0\0\0\0\0\x05suite".to_vec();
        for part in 1..=5 {
            bytes.extend([part; 32]);
        }
        let expected: [u8; 64] = Sha512::digest(bytes).into();
        assert_eq!(ReportData::compute(&handshake()).as_bytes(), &expected);
    }

    #[test]
    fn evidence_within_a_session_is_of_its_handshake_and_its_nonce() {
        let mut bytes = b"cloister session evidence v1\0".to_vec();
        bytes.extend(ReportData::compute(&handshake()).as_bytes());
        for part in [[6; 32], [4; 32], [5; 32]] {
            bytes.extend(part);
        }
        let expected: [u8; 64] = Sha512::digest(bytes).into();
        let session = handshake().session([6; 32]);
        assert_eq!(ReportData::compute(&session).as_bytes(), &expected);
        let other = handshake().session([7; 32]);
        assert_ne!(ReportData::compute(&other), ReportData::compute(&session));
    }

    #[test]
    fn the_nonce_of_gpus_depends_on_all_but_their_own_reports() {
        let one = handshake().gpu_nonce();
        let with = |change: fn(&mut Binding)| {
            let mut binding = handshake();
            change(&mut binding);
            binding.gpu_nonce()
        };
        let other_reports = with(|binding| {
            if let Binding::Handshake { gpu_digest, .. } = binding {
                *gpu_digest = [9; 32];
            }
        });
        assert_eq!(other_reports, one);
        let other_key = with(|binding| {
            if let Binding::Handshake { server_static, .. } = binding {
                *server_static = [9; 32];
            }
        });
        let nonce = |nonce| {
            let binding = Binding::Nonce {
                nonce,
                configuration_digest: [2; 32],
                gpu_digest: [3; 32],
            };
            binding.gpu_nonce()
        };
        let all = [one, other_key, nonce([1; 32]), nonce([2; 32])];
        for (i, one) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|other| one != other));
        }
    }

    #[test]
    fn every_part_counts() {
        let nonce = |nonce, configuration_digest, gpu_digest| {
            ReportData::compute(&Binding::Nonce {
                nonce,
                configuration_digest,
                gpu_digest,
            })
        };
        let all = [
            ReportData::compute(&handshake()),
            nonce([1; 32], [2; 32], [3; 32]),
            nonce([9; 32], [2; 32], [3; 32]),
            nonce([1; 32], [9; 32], [3; 32]),
            nonce([1; 32], [2; 32], [9; 32]),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|other| one != other));
        }
    }
}
