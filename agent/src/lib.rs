//! The process in the VM: it opens the model, makes the keys, proves what it is and serves.
//!
//! ```text
//! prepare (root)      configuration ▶ model volume, event log, release bundle
//! serve               configuration ▶ model ▶ evidence source ▶ keys ▶ connections
//!
//! outside the channel     /healthz  /metrics  /.well-known/cloister/{evidence,release}
//!                         /v1/channel ▶ WebSocket ▶ handshake ▶ evidence for it ▶ session
//! from time to time        proxy ▶ certificates, lists, verdicts ▶ evidence
//! inside the channel      /v1/models  /v1/chat/completions  /v1/completions
//! ```
#![deny(unsafe_code)]

mod api;
pub mod cause;
pub mod collateral;
pub mod evidence;
#[doc(hidden)]
pub mod fuzzing;
pub mod hardening;
mod http;
#[cfg(feature = "insecure")]
pub mod insecure;
pub mod inside;
pub mod journal;
pub mod keys;
pub mod metrics;
pub mod options;
pub mod prepare;
pub mod serve;
mod server;
pub mod site;

/// The program's name.
pub const NAME: &str = "cloister-agent";
