//! Which services sign, timestamp and log: Sigstore's own, or those of a private deployment.

use sigstore_sign::SigningServices;
use sigstore_sign::rekor::RekorApiVersion;
use sigstore_sign::trust_root::SigningConfig;
use sigstore_trust_root::SigstoreInstance;

use crate::SignError;

/// The interface of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogVersion {
    /// Rekor v1: promises an entry, and puts it in within a day.
    V1,
    /// Rekor v2: answers once the entry is in the log; knows no time, so it needs a timestamp.
    V2,
}

/// Where everything stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Services {
    /// The certificate authority (Fulcio); a kept key needs none.
    pub fulcio: Option<String>,
    /// The log (Rekor).
    pub rekor: String,
    /// Its interface.
    pub rekor_version: LogVersion,
    /// The timestamp authority (RFC 3161).
    pub tsa: Option<String>,
    /// Where a person signs in (OpenID Connect).
    pub oidc: Option<String>,
}

impl Services {
    /// Those of a signing configuration (`application/vnd.dev.sigstore.signingconfig.v0.2+json`):
    /// the newest interface that is valid today, or that of `version`.
    pub fn from_config(json: &str, version: Option<LogVersion>) -> Result<Self, SignError> {
        let config = SigningConfig::from_json(json).map_err(SignError::Config)?;
        Self::of(&config, version)
    }

    /// Sigstore's public-good instance, as it was when the crates of this house were locked.
    pub fn public_good(version: Option<LogVersion>) -> Result<Self, SignError> {
        let config = SigstoreInstance::PublicGood
            .embedded_signing_config()
            .map_err(SignError::Config)?
            .ok_or(SignError::NoService(crate::Service::Log))?;
        Self::of(&config, version)
    }

    fn of(config: &SigningConfig, version: Option<LogVersion>) -> Result<Self, SignError> {
        let version = version.map(|version| match version {
            LogVersion::V1 => RekorApiVersion::V1,
            LogVersion::V2 => RekorApiVersion::V2,
        });
        let found = SigningServices::from_signing_config_with_rekor_version(config, version)
            .map_err(|error| SignError::Services(Box::new(error)))?;
        Ok(Self {
            fulcio: Some(found.fulcio_url().to_owned()),
            rekor: found.rekor_url().to_owned(),
            rekor_version: match found.rekor_api_version() {
                RekorApiVersion::V1 => LogVersion::V1,
                _ => LogVersion::V2,
            },
            tsa: found.tsa_url().map(str::to_owned),
            oidc: found.oidc_url().map(str::to_owned),
        })
    }
}
