//! Fetches the authorities and services of today, by The Update Framework: a chain of signatures
//! from a root that is known, with dates, so that a mirror cannot change them. Each run begins from
//! that root: of copies that have not expired, a mirror may show an older one.

use sigstore_tuf::{HttpRepository, Updater};

use crate::http::{HttpError, client};
use crate::patience::Patience;

/// Sigstore's public-good repository.
pub const PUBLIC_GOOD: &str = "https://tuf-repo-cdn.sigstore.dev";

/// The root that its chain begins with (`tuf/README.md` says where it is from).
pub const PUBLIC_GOOD_ROOT: &[u8] = include_bytes!("tuf/root.json");

/// Why nothing was fetched.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// No HTTP client.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The repository cannot be reached, or its metadata do not verify, or are out of date.
    #[error("trusted root by TUF")]
    Tuf(#[source] Box<sigstore_tuf::Error>),
}

/// What was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// `trusted_root.json`
    pub trusted_root: Vec<u8>,
    /// `signing_config.json`; a repository need not have one.
    pub signing_config: Option<Vec<u8>>,
}

/// Fetches both from a repository whose chain begins with `root`.
pub async fn refresh(url: &str, root: &[u8], patience: Patience) -> Result<Fetched, RefreshError> {
    cloister_sigstore::install();
    let failed = |error| RefreshError::Tuf(Box::new(error));
    let http = client(patience.timeout)?;
    let repository = HttpRepository::new(url).map_err(failed)?;
    let repository = repository.with_http_client(http);
    let mut updater = Updater::new(repository, root).map_err(failed)?;
    let now = jiff::Timestamp::now();
    updater.refresh(now).await.map_err(failed)?;
    let trusted_root = updater
        .get_target("trusted_root.json", now)
        .await
        .map_err(failed)?;
    let signing_config = match updater.get_target("signing_config.v0.2.json", now).await {
        Ok(config) => Some(config),
        Err(sigstore_tuf::Error::TargetNotFound(_)) => None,
        Err(error) => return Err(failed(error)),
    };
    Ok(Fetched {
        trusted_root,
        signing_config,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_that_of_the_readme() {
        cloister_sigstore::install();
        crate::install_tls();
        let hash = attest::Digest::<32>::sha256(PUBLIC_GOOD_ROOT).to_string();
        assert!(include_str!("tuf/README.md").contains(&hash));
        // Signed by its own keys.
        let repository = HttpRepository::new(PUBLIC_GOOD);
        let updater = Updater::new(repository.unwrap(), PUBLIC_GOOD_ROOT);
        assert!(updater.is_ok());
    }
}
