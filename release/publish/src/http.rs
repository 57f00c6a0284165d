//! The HTTP client: bounded in time, with the cryptography that this house uses for TLS.

use std::time::Duration;

use sigstore_sign::reqwest::{Client, redirect};

/// No HTTP client can be made, as when the system's certificates are unreadable.
#[derive(Debug, thiserror::Error)]
#[error("no HTTP client")]
pub struct HttpError(#[source] sigstore_sign::reqwest::Error);

/// Has TLS in this process use ring. The clients of the Sigstore crates need it, too.
pub fn install_tls() {
    // There is one already only if this ran before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A client whose answers take `timeout` at most.
pub fn client(timeout: Duration) -> Result<Client, HttpError> {
    install_tls();
    Client::builder()
        .timeout(timeout)
        .connect_timeout(timeout)
        .redirect(redirect::Policy::none())
        .user_agent(concat!("cloister-publish/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(HttpError)
}
