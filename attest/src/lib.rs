//! Who am I talking to? Turns evidence into a verified peer.
//!
//! ```text
//! evidence ─┬─ release bundle ─▶ signed? logged? new enough? ─▶ reference values ─┐
//!           ├─ configuration  ─▶ the one that the release states? ────────────────┤
//!           └─ platform quote ─▶ certified key? this handshake? ─▶ registers ─────┴─▶ VerifiedPeer
//! ```
//!
//! Nothing here reads a file, a socket or a clock: bytes and the time are arguments. Any bytes may
//! come from an enemy, so every parser is bounded and returns a typed error. [`verify()`] is the
//! only way to make a [`VerifiedPeer`], and the channel takes only that.
#![forbid(unsafe_code)]

pub mod azure;
pub mod capsule;
pub mod cbor;
pub mod certificate;
mod claim;
pub mod configuration;
pub mod crl;
mod digest;
pub mod eventlog;
pub mod evidence;
pub mod files;
pub mod gpu;
mod name;
pub mod ocsp;
pub mod policy;
mod reader;
mod refusal;
pub mod release;
mod report_data;
mod rsa;
pub mod snp;
pub mod supply;
pub mod tdx;
mod time;
pub mod tpm;
mod verify;

pub use claim::Claim;
pub use configuration::Configuration;
pub use digest::{Digest, Hex};
pub use evidence::{Evidence, Platform, PlatformKind};
pub use name::{Name, NameError, Text, TextError};
pub use policy::Policy;
pub use refusal::{BoundPart, Class, Refusal};
pub use release::Ratchet;
pub use report_data::{Binding, ReportData};
pub use time::UnixTime;
pub use verify::{
    Assurance, Expectation, VerifiedPeer, learn, verify, verify_release, verify_release_with,
    verify_with,
};
