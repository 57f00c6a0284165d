//! Evidence by Intel TDX: a quote, and what Intel says of the platform that signed it.
//!
//! ```text
//! root (policy) ─┬─▶ PCK CA ─▶ PCK (one platform) ─▶ quoting enclave ─▶ attestation key ─▶ quote
//!   └─ signs its └─▶ TCB signing ──▶ TCB info: versions of the platform and the TDX module
//!      list; so does the PCK CA     └▶ identity of the quoting enclave
//! ```
//!
//! Formats: Intel's "TDX DCAP Quoting Library API" for the quote, "SGX PCK Certificate and
//! Certificate Revocation List Profile Specification" for the certificates, its Provisioning
//! Certification Service (version 4) for the documents, "TDX Module ABI Specification" (348551) for
//! the attributes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::UnixTime;
use crate::certificate::{self, TrustAnchor, TrustAnchorError};

mod chain;
mod collateral;
mod error;
mod quote;
mod verify;

pub use collateral::{Document, DocumentFault, MAX_DOCUMENT_BYTES};
pub use error::{
    Authority, Evaluated, IdentityField, PlatformFlag, TdxError, TdxField, TdxSetting,
};
pub use quote::{MAX_QUOTE_BYTES, Part, Quote, QuoteError};
pub use verify::{VerifiedQuote, verify};

/// Longest certificate.
pub const MAX_CERTIFICATE_BYTES: usize = 4096;
/// Most revocation lists: the root's and the PCK CA's.
pub const MAX_REVOCATION_LISTS: usize = 2;
/// Length of the signature of a document.
pub const SIGNATURE_BYTES: usize = 64;

/// What a trust domain gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TdxEvidence {
    /// The quote, with the certificates of the platform's key.
    pub quote: Vec<u8>,
    /// The firmware's log of what it measured, without the padding behind it.
    pub event_log: Vec<u8>,
    /// What Intel says of the platform.
    pub collateral: Collateral,
}

/// What Intel says of a platform.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collateral {
    /// The value of `tcbInfo`, byte for byte.
    pub tcb_info: Vec<u8>,
    /// Its signature, r ‖ s.
    pub tcb_info_signature: Vec<u8>,
    /// The value of `enclaveIdentity`, byte for byte.
    pub enclave_identity: Vec<u8>,
    /// Its signature, r ‖ s.
    pub enclave_identity_signature: Vec<u8>,
    /// The certificate of the key that signed both, in DER form.
    pub signer: Vec<u8>,
    /// Revocation lists in DER form: the root's and that of the PCK CA.
    pub revocation_lists: Vec<Vec<u8>>,
}

/// Who certifies the keys of platforms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PckAuthority {
    /// For platforms of several packages.
    Platform,
    /// For platforms of one package.
    Processor,
}

/// By which Intel knows what signed a quote: the platform's model, and who certified its key.
/// Nothing of it is believed.
pub(crate) fn named_by(quote: &[u8]) -> Result<([u8; 6], PckAuthority), TdxError> {
    let signed = quote::SignedQuote::parse(quote)?;
    chain::named_by(&signed.certificates)
}

/// Who issued the certificate of the platform's key.
pub(crate) fn pck_issuer(quote: &[u8]) -> Option<x509_cert::name::Name> {
    let signed = quote::SignedQuote::parse(quote).ok()?;
    let leaf = certificate::decode(signed.certificates.first()?).ok()?;
    Some(leaf.tbs_certificate().issuer().clone())
}

/// When the next document is due, by the document itself, if it is one.
pub(crate) fn next_update(document: Document, bytes: &[u8]) -> Option<UnixTime> {
    dates(document, bytes).map(|(_, until)| until)
}

/// From when and until when a document holds, by itself, if it is one.
pub(crate) fn dates(document: Document, bytes: &[u8]) -> Option<(UnixTime, UnixTime)> {
    collateral::dates(document, bytes)
}

/// Whether the certified key signed a document. What certified the key is not looked at.
pub(crate) fn is_signed_by(
    bytes: &[u8],
    signature: &[u8],
    certificate: &certificate::Certificate,
) -> bool {
    certificate::p256_key_of(certificate)
        .is_ok_and(|key| collateral::is_signed(bytes, signature, &key))
}

/// What Intel says of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TcbStatus {
    /// Nothing is wrong with it.
    UpToDate,
    /// Software has to mitigate something.
    #[serde(rename = "SWHardeningNeeded")]
    SwHardeningNeeded,
    /// The platform has to be configured otherwise.
    ConfigurationNeeded,
    /// Both.
    #[serde(rename = "ConfigurationAndSWHardeningNeeded")]
    ConfigurationAndSwHardeningNeeded,
    /// A later version mends something.
    OutOfDate,
    /// A later version mends something, and the platform has to be configured otherwise.
    OutOfDateConfigurationNeeded,
    /// Its keys are not trusted any more. No policy can accept it.
    Revoked,
}

/// Intel's root.
pub(crate) fn intel_root() -> Result<TrustAnchor, TrustAnchorError> {
    TrustAnchor::from_der(include_bytes!("tdx/roots/intel-sgx-root.der"))
}

impl fmt::Display for TcbStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UpToDate => "UpToDate",
            Self::SwHardeningNeeded => "SWHardeningNeeded",
            Self::ConfigurationNeeded => "ConfigurationNeeded",
            Self::ConfigurationAndSwHardeningNeeded => "ConfigurationAndSWHardeningNeeded",
            Self::OutOfDate => "OutOfDate",
            Self::OutOfDateConfigurationNeeded => "OutOfDateConfigurationNeeded",
            Self::Revoked => "Revoked",
        })
    }
}
