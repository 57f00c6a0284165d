//! The authorities that are believed: Sigstore's `trusted_root.json`.

use sigstore_trust_root::{
    SIGSTORE_PRODUCTION_TRUSTED_ROOT, SIGSTORE_STAGING_TRUSTED_ROOT, TrustedRoot,
};
use sigstore_verify::Verifier;

/// Which state of the public-good instance [`TrustRoot::embedded`] holds: the newest authority in
/// it took up its work on that day.
pub const EMBEDDED_ROOT: &str = "public-good instance, state of 2025-09-23";

/// What policies call that state: a program with a newer root refuses them.
pub const BUILT_IN_ROOT: &str = "public-good-2025-09-23";

/// Longest `trusted_root.json`.
const MAX_ROOT_BYTES: usize = 1 << 20;

/// What every version's media type begins with.
const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.trustedroot";

/// Certificate authorities, logs, certificate logs and timestamp authorities, with their dates.
pub struct TrustRoot {
    verifier: Verifier,
    root: TrustedRoot,
}

/// Why a `trusted_root.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// Too long.
    #[error("trusted root: {found} bytes, {MAX_ROOT_BYTES} allowed")]
    TooLarge {
        /// Length found.
        found: usize,
    },
    /// Not UTF-8.
    #[error("trusted root: not text")]
    Text(#[from] std::str::Utf8Error),
    /// Not of the form `application/vnd.dev.sigstore.trustedroot+json`.
    #[error("trusted root")]
    Form(#[from] sigstore_trust_root::Error),
    /// Another kind of file: other JSON would pass for a root that believes nobody.
    #[error("trusted root: not of media type {MEDIA_TYPE}…")]
    MediaType,
    /// Another root is built into this program than the one that is asked for.
    #[error("trusted root: the one that is built in is {BUILT_IN_ROOT}")]
    NotBuiltIn,
    /// A key or certificate in it is unusable.
    #[error("trusted root")]
    Material(#[source] Box<sigstore_verify::Error>),
}

impl TrustRoot {
    /// Sigstore's public-good instance, as it was on the date of [`EMBEDDED_ROOT`].
    pub fn embedded() -> Result<Self, RootError> {
        Self::parse(SIGSTORE_PRODUCTION_TRUSTED_ROOT.as_bytes())
    }

    /// Sigstore's staging instance, where clients are tried. Nothing that is real is signed there.
    pub fn staging() -> Result<Self, RootError> {
        Self::parse(SIGSTORE_STAGING_TRUSTED_ROOT.as_bytes())
    }

    /// Reads a `trusted_root.json`.
    pub fn parse(json: &[u8]) -> Result<Self, RootError> {
        crate::install();
        let found = json.len();
        if found > MAX_ROOT_BYTES {
            return Err(RootError::TooLarge { found });
        }
        let root = TrustedRoot::from_json(std::str::from_utf8(json)?)?;
        if !root.media_type.starts_with(MEDIA_TYPE) {
            return Err(RootError::MediaType);
        }
        let verifier =
            Verifier::new(&root).map_err(|error| RootError::Material(Box::new(error)))?;
        Ok(Self { verifier, root })
    }

    pub(crate) fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// How many logs it names.
    #[must_use]
    pub fn logs(&self) -> usize {
        self.root.tlogs.len()
    }
}

impl std::fmt::Debug for TrustRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrustRoot")
            .field("logs", &self.root.tlogs.len())
            .field("authorities", &self.root.certificate_authorities.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn the_embedded_root_is_the_one_that_its_date_says() {
        // A newer crate brings a newer root: then the date changes with this hash.
        let hash = Sha256::digest(SIGSTORE_PRODUCTION_TRUSTED_ROOT);
        assert_eq!(
            hex::encode(hash),
            "6494e21ea73fa7ee769f85f57d5a3e6a08725eae1e38c755fc3517c9e6bc0b66"
        );
        let newest = SIGSTORE_PRODUCTION_TRUSTED_ROOT.contains("2025-09-23T00:00:00Z");
        assert!(newest && EMBEDDED_ROOT.contains("2025-09-23"));
        assert!(BUILT_IN_ROOT.ends_with("2025-09-23"));
        assert_eq!(TrustRoot::embedded().unwrap().logs(), 2);
    }

    #[test]
    fn what_is_no_trusted_root_is_refused() {
        assert!(matches!(TrustRoot::parse(b"{"), Err(RootError::Form(_))));
        let bundle = br#"{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}"#;
        let other = TrustRoot::parse(bundle);
        assert!(matches!(other, Err(RootError::MediaType)));
        assert!(matches!(TrustRoot::parse(&[0xff]), Err(RootError::Text(_))));
        let long = vec![b' '; MAX_ROOT_BYTES + 1];
        assert!(matches!(
            TrustRoot::parse(&long),
            Err(RootError::TooLarge { .. })
        ));
        // Its keys are read at once, not at the first bundle.
        let cut = SIGSTORE_PRODUCTION_TRUSTED_ROOT.replacen("MFkwEwYHKoZI", "MFkwEwYHKoZJ", 1);
        assert!(matches!(
            TrustRoot::parse(cut.as_bytes()),
            Err(RootError::Material(_))
        ));
    }
}
