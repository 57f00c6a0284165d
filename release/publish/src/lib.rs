//! Signs a release with Sigstore, has it timestamped and logged, and checks the result as a client
//! would before anyone gets it.
//!
//! ```text
//! statement ─ sign ─▶ envelope ─ timestamp ─▶ ─ log ─▶ bundle ─ verify ─▶ file
//!             ▲ key, or a certificate for an identity (OpenID Connect)
//! ```
//!
//! There is no bundle without all of it: what was signed and not logged is dropped.
//!
//! Here stands everything else of a release that needs the network, too: asking witnesses to sign a
//! log's checkpoint ([`collect`]), and watching logs ([`mirror`], [`tail`], [`names`],
//! [`webhook`]).

mod ask;
mod authority;
pub mod collect;
mod error;
mod http;
mod key;
pub mod mirror;
mod module;
pub mod names;
mod patience;
mod services;
mod sign;
pub mod tail;
pub mod tuf;
pub mod webhook;

pub use ask::{AskError, MAX_WAIT};
pub use authority::{LogKeyError, log_key};
pub use error::{Service, SignError};
pub use http::{HttpError, client as http_client, install_tls};
pub use key::{KeyError, read_key};
pub use module::{KeyUri, ModuleError, ModuleKey, ModuleKeyKind, PIN_VARIABLE, UriError};
pub use patience::Patience;
pub use services::{LogVersion, Services};
pub use sign::{Identity, Published, Publisher};
