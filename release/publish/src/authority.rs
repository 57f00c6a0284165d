//! A log's key in Sigstore's `trusted_root.json`.

use attest::release::{Origin, PublicKey};
use sigstore_trust_root::{SIGSTORE_PRODUCTION_TRUSTED_ROOT, TrustedRoot};

/// SubjectPublicKeyInfo of an Ed25519 key, without the key (RFC 8410).
const ED25519: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum LogKeyError {
    /// Not a trusted root.
    #[error("trusted root")]
    Root(#[source] sigstore_trust_root::Error),
    /// It does not name the log, or names it with a key of another kind.
    #[error("the trusted root names no log {0} with an Ed25519 key")]
    Unknown(Origin),
}

/// The key of the log `origin`: of the root in `json`, or of the public-good one.
pub fn log_key(json: Option<&str>, origin: &Origin) -> Result<PublicKey, LogKeyError> {
    let json = json.unwrap_or(SIGSTORE_PRODUCTION_TRUSTED_ROOT);
    let root = TrustedRoot::from_json(json).map_err(LogKeyError::Root)?;
    let host = |url: &str| {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        rest.trim_end_matches('/').to_owned()
    };
    let mut logs = root
        .tlogs
        .iter()
        .filter(|log| host(&log.base_url) == origin.as_str());
    let key = logs.find_map(|log| {
        let der = log.public_key.raw_bytes.as_bytes();
        let key = der.strip_prefix(&ED25519)?.try_into().ok()?;
        PublicKey::from_bytes(key).ok()
    });
    key.ok_or_else(|| LogKeyError::Unknown(origin.clone()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        text.to_owned().try_into().unwrap()
    }

    #[test]
    fn the_public_log_of_rekor_v2_has_its_key_built_in() {
        log_key(None, &origin("log2025-1.rekor.sigstore.dev")).unwrap();
        // Of the first interface: its key is another kind, and it has no tiles.
        for other in ["rekor.sigstore.dev", "log.example.org"] {
            let error = log_key(None, &origin(other)).unwrap_err();
            assert!(matches!(error, LogKeyError::Unknown(_)), "{other}");
        }
        let error = log_key(Some("{"), &origin("a")).unwrap_err();
        assert!(matches!(error, LogKeyError::Root(_)));
    }
}
