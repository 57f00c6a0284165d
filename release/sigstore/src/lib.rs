//! Verifies Sigstore bundles (v0.1 to v0.3) of releases: who signed, which log saw it, when.
//!
//! ```text
//! bundle ── signature ◀── certificate ◀── certificate authority   identity and issuer by policy
//!        │                     └ signed certificate timestamp ◀── certificate log
//!        ├─ log entry ── inclusion proof ── checkpoint ◀── log
//!        └─ timestamp within the certificate's life ◀── timestamp authority
//! ```
//!
//! Everything to the right of an arrow stands in the [`TrustRoot`]. Bytes in, a [`Verified`] out:
//! there is no I/O here, so that a client links nothing that signs or connects.

mod client;
mod provider;
mod root;
mod verify;

pub use client::{SigstoreVerifier, stated};
pub use provider::install;
pub use root::{BUILT_IN_ROOT, EMBEDDED_ROOT, RootError, TrustRoot};
pub use verify::{
    Artifact, Class, Expected, LogState, MAX_BUNDLE_BYTES, PublicKey, PublicKeyError,
    ReleaseBundle, Verified, VerifyError, verify, verify_release,
};
