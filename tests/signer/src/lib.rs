//! Fakes the hardware with real signatures: a certificate authority, a TPM, a release signer and a
//! log, all with keys of their own, so that tests reach every verdict of `attest` without a branch
//! in it.
//!
//! ```
//! let world = signer::World::new();
//! let binding = world.nonce_binding([7; 32]);
//! let evidence = world.evidence(&binding);
//! let expectation = attest::Expectation { binding };
//! let ratchet = attest::Ratchet::UNSEEN;
//! let peer = attest::verify(&evidence, &expectation, &world.policy(), &ratchet, signer::NOW);
//! assert!(peer.is_ok());
//! ```

pub mod amd;
pub mod authority;
pub mod azure;
pub mod boot;
pub mod fuzz;
pub mod intel;
pub mod log;
pub mod nvidia;
pub mod ocsp;
pub mod release;
pub mod tpm;
mod vectors;
mod world;

pub use vectors::{read_vector, vectors};
pub use world::{ISSUED, NOW, SUITE, World};
