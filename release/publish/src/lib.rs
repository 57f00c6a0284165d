//! Signs a release with Sigstore, has it timestamped and logged, and checks the result as a client
//! would before anyone gets it.
//!
//! ```text
//! statement ─ sign ─▶ envelope ─ timestamp ─▶ ─ log ─▶ bundle ─ verify ─▶ file
//!             ▲ key, or a certificate for an identity (OpenID Connect)
//! ```
//!
//! There is no bundle without all of it: what was signed and not logged is dropped.

mod error;
mod http;
mod key;
mod patience;
mod services;
mod sign;
pub mod tuf;

pub use error::{Service, SignError};
pub use http::{HttpError, client as http_client, install_tls};
pub use key::{KeyError, read_key};
pub use patience::Patience;
pub use services::{LogVersion, Services};
pub use sign::{Identity, Published, Publisher};
