//! Why nothing was published, and what to do.

use attest::release::StatementError;
use cloister_sigstore::VerifyError;
use sigstore_sign::{fulcio, oidc, rekor, tsa};

use crate::http::HttpError;
use crate::module::ModuleError;

/// A service of Sigstore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// The certificate authority.
    Authority,
    /// The log.
    Log,
    /// The timestamp authority.
    Timestamp,
    /// The sign-in.
    SignIn,
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Authority => "certificate authority (Fulcio)",
            Self::Log => "log (Rekor)",
            Self::Timestamp => "timestamp authority",
            Self::SignIn => "sign-in (OpenID Connect)",
        })
    }
}

/// Why a release was not published. In every case no bundle was made.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Not a statement of a release of ours.
    #[error("statement")]
    Statement(#[from] StatementError),
    /// The signing configuration is none.
    #[error("signing configuration")]
    Config(#[source] sigstore_trust_root::Error),
    /// The signing configuration asks for what is not done here.
    #[error("signing configuration")]
    Services(#[source] Box<sigstore_sign::Error>),
    /// A service is needed that nobody named.
    #[error("no {0} is named")]
    NoService(Service),
    /// No HTTP client.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// No identity token.
    #[error("identity token")]
    Token(#[source] oidc::Error),
    /// The surroundings hold no identity token.
    #[error("identity token: this is no CI that gives one")]
    NoToken,
    /// The identity token's time is over.
    #[error("identity token: expired")]
    TokenExpired,
    /// The certificate authority would be told the token in the clear.
    #[error("the certificate authority is asked in plain HTTP: who reads the token signs as you")]
    InTheClear,
    /// The key cannot sign.
    #[error("signature")]
    Key(#[source] sigstore_sign::crypto::Error),
    /// The module that keeps the key does not sign.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// Rekor v2 does not take signatures of this kind of key.
    #[error("Rekor v2 takes ECDSA P-256 alone, and this is another key")]
    KeyForLog,
    /// The certificate authority gave no certificate.
    #[error("no certificate ({attempts} attempts)")]
    Certificate {
        /// How often it was asked.
        attempts: u32,
        /// The last answer.
        source: fulcio::Error,
    },
    /// The timestamp authority gave no timestamp.
    #[error("no timestamp ({attempts} attempts)")]
    Timestamp {
        /// How often it was asked.
        attempts: u32,
        /// The last answer.
        source: tsa::Error,
    },
    /// The log did not take the entry.
    #[error("not logged ({attempts} attempts)")]
    NotLogged {
        /// How often it was asked.
        attempts: u32,
        /// The last answer.
        source: Box<rekor::Error>,
    },
    /// The log holds this very signature, but does not show the entry.
    #[error("not logged: the log holds this very signature already")]
    LoggedBefore,
    /// What was made does not verify: the services are not those of the trusted root.
    #[error("what was signed and logged does not verify")]
    Unverifiable(#[source] VerifyError),
    /// The bundle has no JSON form.
    #[error("bundle")]
    Encode(#[source] sigstore_sign::types::Error),
}

impl SignError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Statement(_) => "give a file that `cloister-release statement` wrote",
            Self::Config(_) | Self::Services(_) => {
                "correct the file of --signing-config, or name the services one by one"
            }
            Self::NoService(Service::Authority) => "name it with --fulcio, or sign with --key",
            Self::NoService(Service::Timestamp) => {
                "Rekor v2 tells no time: name a timestamp authority with --tsa"
            }
            Self::NoService(Service::SignIn) => "name it with --oidc, or give --identity-token",
            Self::NoService(Service::Log) => "name it with --rekor",
            Self::Http(_) => "",
            Self::Token(_) | Self::NoToken | Self::TokenExpired => {
                "in a workflow, allow `id-token: write`; elsewhere give a fresh one with \
                 --identity-token, or sign in with --interactive"
            }
            Self::InTheClear => "give an https:// address",
            Self::Key(_) => "give an ECDSA P-256 or Ed25519 key",
            Self::Module(error) => error.hint(),
            Self::KeyForLog => "give an ECDSA P-256 key, or a log of --rekor-version 1",
            Self::Certificate { .. } | Self::Timestamp { .. } | Self::NotLogged { .. } => {
                "nothing was published: run the same command again later, or name another \
                 service; no client accepts a release that is not logged"
            }
            Self::LoggedBefore => {
                "use the bundle that was written then; or sign again with another key"
            }
            Self::Unverifiable(_) => {
                "give the trusted root of these services with --trusted-root; nothing was written"
            }
            Self::Encode(_) => "",
        }
    }
}
