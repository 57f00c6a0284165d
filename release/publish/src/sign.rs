//! Sign, timestamp, log, verify.

use attest::release::Statement;
use attest::release::envelope::PAYLOAD_TYPE;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cloister_sigstore::{Expected, PublicKey, ReleaseBundle, TrustRoot, VerifyError};
use serde_json::json;
use sigstore_sign::bundle::{BundleV03, VerificationMaterialV03};
use sigstore_sign::crypto::{KeyAlgorithm, KeyPair};
use sigstore_sign::fulcio::{self, FulcioClient};
use sigstore_sign::oidc::IdentityToken;
use sigstore_sign::rekor::{
    self, DsseEntry, HashedRekordV2, LogEntry, RekorClient, RekorV2Client, RekorV2KeyDetails,
};
use sigstore_sign::reqwest::Client;
use sigstore_sign::tsa::{self, TimestampClient};
use sigstore_sign::types::{
    DerCertificate, DerPublicKey, DsseEnvelope, DsseSignature, EntryUuid, KeyId, KindVersion,
    PayloadBytes, SignatureBytes, SignatureContent, TimestampToken, TransparencyLogEntry, pae,
};

use crate::error::{Service, SignError};
use crate::http::client;
use crate::module::{ModuleKey, ModuleKeyKind};
use crate::patience::{Patience, passing};
use crate::services::{LogVersion, Services};

/// Who signs.
#[derive(Debug)]
pub enum Identity {
    /// Whoever keeps this key.
    Key(KeyPair),
    /// Whoever may use this key, which a module keeps.
    Module(ModuleKey),
    /// Whom this token of an OpenID Connect issuer names. A key is made for this one signature and
    /// dropped.
    Token(Box<IdentityToken>),
}

/// What a verifier looks the signer up by.
enum Voucher {
    Certificate(DerCertificate),
    Key(DerPublicKey),
}

/// A signed, timestamped, logged release that verifies.
#[derive(Debug)]
pub struct Published {
    /// The bundle's JSON.
    pub bundle: Vec<u8>,
    /// What a client reads in it.
    pub release: ReleaseBundle,
}

/// Publishes releases with one set of services.
#[derive(Debug)]
pub struct Publisher {
    services: Services,
    patience: Patience,
    http: Client,
}

impl Publisher {
    /// With these services, asked with this patience.
    pub fn new(services: Services, patience: Patience) -> Result<Self, SignError> {
        cloister_sigstore::install();
        let http = client(patience.timeout)?;
        Ok(Self {
            services,
            patience,
            http,
        })
    }

    /// Signs the bytes of a statement, has them timestamped and logged, and verifies the whole
    /// against `root`.
    pub async fn publish(
        &self,
        statement: &[u8],
        identity: &Identity,
        root: &TrustRoot,
    ) -> Result<Published, SignError> {
        Statement::decode(statement)?;
        if self.services.rekor_version == LogVersion::V2 && self.services.tsa.is_none() {
            return Err(SignError::NoService(Service::Timestamp));
        }
        let (signature, voucher) = self.sign(&pae(PAYLOAD_TYPE, statement), identity).await?;
        let timestamp = self.timestamp(&signature).await?;
        let envelope = DsseEnvelope::new(
            PAYLOAD_TYPE,
            PayloadBytes::new(statement.to_vec()),
            DsseSignature::new(signature, KeyId::default()),
        );
        let entry = self.entry(&envelope, &voucher).await?;
        self.assemble(envelope, &voucher, timestamp, entry, root)
    }

    async fn sign(
        &self,
        message: &[u8],
        identity: &Identity,
    ) -> Result<(SignatureBytes, Voucher), SignError> {
        let v2 = self.services.rekor_version == LogVersion::V2;
        match identity {
            // It takes digests, and Ed25519 signs messages.
            Identity::Key(key) if v2 && key.algorithm() != KeyAlgorithm::EcdsaP256 => {
                Err(SignError::KeyForLog)
            }
            Identity::Module(key) if v2 && key.kind() != ModuleKeyKind::P256 => {
                Err(SignError::KeyForLog)
            }
            Identity::Key(key) => {
                let public = key.public_key_der().map_err(SignError::Key)?;
                let signature = key.sign(message).map_err(SignError::Key)?;
                Ok((signature, Voucher::Key(public)))
            }
            Identity::Module(key) => {
                let signature = SignatureBytes::new(key.sign(message)?);
                Ok((signature, Voucher::Key(key.public_key())))
            }
            Identity::Token(token) => {
                let key = KeyPair::generate_ecdsa_p256().map_err(SignError::Key)?;
                let certificate = self.certificate(token, &key).await?;
                let signature = key.sign(message).map_err(SignError::Key)?;
                Ok((signature, Voucher::Certificate(certificate)))
            }
        }
    }

    async fn certificate(
        &self,
        token: &IdentityToken,
        key: &KeyPair,
    ) -> Result<DerCertificate, SignError> {
        let url = self.services.fulcio.as_ref();
        let url = url.ok_or(SignError::NoService(Service::Authority))?;
        if !is_private(url) {
            return Err(SignError::InTheClear);
        }
        if token.is_expired() {
            return Err(SignError::TokenExpired);
        }
        let fulcio = FulcioClient::builder(url)
            .with_http_client(self.http.clone())
            .build()
            .map_err(|source| SignError::Certificate {
                attempts: 0,
                source,
            })?;
        let may_pass = |error: &fulcio::Error| match error {
            fulcio::Error::Http(_) => true,
            fulcio::Error::Status { status, .. } => passing(*status),
            _ => false,
        };
        let asked = self
            .patience
            .persist(may_pass, async || {
                fulcio.create_signing_certificate(token, key).await
            })
            .await;
        let issued =
            asked.map_err(|(attempts, source)| SignError::Certificate { attempts, source })?;
        Ok(issued.leaf_certificate().clone())
    }

    async fn timestamp(
        &self,
        signature: &SignatureBytes,
    ) -> Result<Option<TimestampToken>, SignError> {
        let Some(url) = &self.services.tsa else {
            return Ok(None);
        };
        let failed = |(attempts, source)| SignError::Timestamp { attempts, source };
        let authority = TimestampClient::builder(url.as_str())
            .with_http_client(self.http.clone())
            .build()
            .map_err(|error| failed((0, error)))?;
        // The client tells a refusal by its status and a broken line alike.
        let may_pass = |error: &tsa::Error| matches!(error, tsa::Error::Http(_));
        let asked = self
            .patience
            .persist(may_pass, async || {
                authority.timestamp_signature(signature).await
            })
            .await;
        asked.map(Some).map_err(failed)
    }

    async fn entry(
        &self,
        envelope: &DsseEnvelope,
        voucher: &Voucher,
    ) -> Result<TransparencyLogEntry, SignError> {
        let may_pass = |error: &rekor::Error| match error {
            rekor::Error::Http(_) => true,
            rekor::Error::Status { status, .. } => passing(*status),
            _ => false,
        };
        let asked = self
            .patience
            .persist(may_pass, async || match self.services.rekor_version {
                LogVersion::V1 => self.entry_v1(envelope, voucher).await,
                LogVersion::V2 => self.entry_v2(envelope, voucher).await,
            })
            .await;
        asked.map_err(|(attempts, error)| match error {
            rekor::Error::Status { status: 409, .. } => SignError::LoggedBefore,
            source => SignError::NotLogged {
                attempts,
                source: Box::new(source),
            },
        })
    }

    /// An entry of kind `dsse` 0.0.1.
    async fn entry_v1(
        &self,
        envelope: &DsseEnvelope,
        voucher: &Voucher,
    ) -> rekor::Result<TransparencyLogEntry> {
        let pem = match voucher {
            Voucher::Certificate(certificate) => certificate.to_pem(),
            Voucher::Key(key) => key.to_pem(),
        };
        let proposed: DsseEntry = serde_json::from_value(json!({
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": { "proposedContent": {
                "envelope": serde_json::to_string(envelope)?,
                "verifiers": [STANDARD.encode(pem)],
            }},
        }))?;
        let log = RekorClient::builder(&self.services.rekor)
            .with_http_client(self.http.clone())
            .build()?;
        let entry = match log.create_dsse_entry(proposed).await {
            // The answer to an earlier attempt was lost on its way: the entry is there.
            Err(rekor::Error::Status {
                status: 409,
                message,
            }) => logged_before(&log, status_409(message)).await?,
            other => other?,
        };
        entry
            .to_bundle_entry(KindVersion::DsseV001)
            .map_err(|error| rekor::Error::InvalidResponse(error.to_string()))
    }

    /// An entry of kind `hashedrekord` 0.0.2 over the digest of what was signed.
    async fn entry_v2(
        &self,
        envelope: &DsseEnvelope,
        voucher: &Voucher,
    ) -> rekor::Result<TransparencyLogEntry> {
        let digest = sigstore_sign::crypto::sha256(&envelope.pae());
        let (signature, details) = (
            &envelope.signature.sig,
            RekorV2KeyDetails::PkixEcdsaP256Sha256,
        );
        let request = match voucher {
            Voucher::Certificate(certificate) => {
                HashedRekordV2::new_with_certificate(&digest, signature, certificate, details)
            }
            Voucher::Key(key) => {
                HashedRekordV2::new_with_public_key(&digest, signature, key, details)
            }
        };
        RekorV2Client::builder(&self.services.rekor)
            .with_http_client(self.http.clone())
            .build()?
            .create_entry(request)
            .await
    }

    fn assemble(
        &self,
        envelope: DsseEnvelope,
        voucher: &Voucher,
        timestamp: Option<TimestampToken>,
        entry: TransparencyLogEntry,
        root: &TrustRoot,
    ) -> Result<Published, SignError> {
        let (material, expected) = match voucher {
            Voucher::Certificate(certificate) => (
                VerificationMaterialV03::Certificate(certificate.clone()),
                Expected::AnyIdentity,
            ),
            Voucher::Key(key) => {
                let digest = sigstore_sign::crypto::sha256(key.as_bytes());
                let hint = STANDARD.encode(digest.as_bytes());
                let key = PublicKey::from_pem(key.to_pem().as_bytes());
                let key = key.map_err(|_| SignError::Unverifiable(VerifyError::OtherKind))?;
                (
                    VerificationMaterialV03::PublicKey { hint },
                    Expected::Key(key),
                )
            }
        };
        let mut bundle = BundleV03::new(material, SignatureContent::DsseEnvelope(envelope))
            .with_tlog_entry(entry);
        if let Some(timestamp) = timestamp {
            bundle = bundle.with_rfc3161_timestamp(timestamp);
        }
        let json = bundle.into_bundle().to_json().map_err(SignError::Encode)?;
        let bundle = json.into_bytes();
        let release = cloister_sigstore::verify_release(&bundle, &expected, root)
            .map_err(SignError::Unverifiable)?;
        Ok(Published { bundle, release })
    }
}

fn status_409(message: String) -> rekor::Error {
    rekor::Error::Status {
        status: 409,
        message,
    }
}

/// The entry that a log of v1 says it has: its answer ends in the entry's UUID.
async fn logged_before(log: &RekorClient, answer: rekor::Error) -> rekor::Result<LogEntry> {
    let rekor::Error::Status { message, .. } = &answer else {
        return Err(answer);
    };
    let uuid = message
        .split(|c: char| !c.is_ascii_hexdigit())
        .find(|word| matches!(word.len(), 64 | 80));
    match uuid {
        Some(uuid) => log.get_entry_by_uuid(&EntryUuid::new(uuid)).await,
        None => Err(answer),
    }
}

/// Whether nobody on the way reads what is sent there: whoever reads an identity token signs as
/// its owner.
fn is_private(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else {
        return url.starts_with("https://");
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    ["127.0.0.1", "localhost", "[::1]"].iter().any(|own| {
        let port = authority.strip_prefix(own);
        port.is_some_and(|port| port.is_empty() || port.starts_with(':') && !port.contains('@'))
    })
}

#[cfg(test)]
mod tests {
    use super::is_private;

    #[test]
    fn a_token_goes_to_nobody_in_the_clear() {
        for good in [
            "https://fulcio.example.org",
            "http://127.0.0.1:8080/api",
            "http://localhost",
            "http://[::1]:80",
        ] {
            assert!(is_private(good), "{good}");
        }
        for bad in [
            "http://fulcio.example.org",
            "http://127.0.0.1.example.org",
            "http://localhost:1@example.org/",
            "http://127.0.0.1@example.org/",
            "ftp://localhost",
            "localhost",
            "",
        ] {
            assert!(!is_private(bad), "{bad}");
        }
    }
}
