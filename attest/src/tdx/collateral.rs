//! What Intel says of its platforms: TCB info (version 3) and the identity of the quoting enclave
//! (version 2), as its Provisioning Certification Service gives them.
//!
//! Both are JSON, signed by ECDSA with P-256 and SHA-256 over the very bytes. Every field is read,
//! and one that is not known is refused: what it says might be that the others do not hold.

use std::fmt;

use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, de};
use x509_cert::der::DateTime;

use super::TcbStatus;
use crate::{Name, UnixTime};

/// Longest document.
pub const MAX_DOCUMENT_BYTES: usize = 64 << 10;

/// A document of Intel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// TCB info: which versions of a platform's parts are sound.
    TcbInfo,
    /// Identity of the quoting enclave.
    EnclaveIdentity,
}

/// What can be wrong with a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DocumentFault {
    /// Longer than [`MAX_DOCUMENT_BYTES`].
    #[error("{found} bytes, {MAX_DOCUMENT_BYTES} allowed")]
    TooLarge {
        /// Length found.
        found: usize,
    },
    /// Not signed by the certified key.
    #[error("not signed by the certified key")]
    Signature,
    /// Not JSON, or a key is missing, unknown or of another type.
    #[error("not of the known form (JSON, line {line}, column {column})")]
    Json {
        /// Line of the fault, from 1.
        line: usize,
        /// Column of the fault.
        column: usize,
    },
    /// Of another kind or version.
    #[error("of another kind or version")]
    Kind,
    /// Of the future.
    #[error("not valid before {from}, and it is {now}")]
    NotYetValid {
        /// Start of validity.
        from: UnixTime,
        /// The time of verification.
        now: UnixTime,
    },
    /// A newer one is due.
    #[error("due for renewal at {until}, and it is {now}")]
    Expired {
        /// When the next one was due.
        until: UnixTime,
        /// The time of verification.
        now: UnixTime,
    },
    /// Made before an evaluation that the policy demands.
    #[error("of TCB evaluation {found}, at least {minimum} expected")]
    Evaluation {
        /// Least number by the policy.
        minimum: u32,
        /// Number found.
        found: u32,
    },
}

/// Which versions of a platform's parts are sound.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct TcbInfo {
    id: String,
    version: u32,
    issue_date: Date,
    next_update: Date,
    pub(super) fmspc: Bytes<6>,
    pub(super) pce_id: Bytes<2>,
    tcb_type: u32,
    tcb_evaluation_data_number: u32,
    pub(super) tdx_module: Module,
    #[serde(default)]
    pub(super) tdx_module_identities: Vec<ModuleIdentity>,
    pub(super) tcb_levels: Vec<Level<Components>>,
}

/// Of a TDX module with the major version 0.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Module {
    pub(super) mrsigner: Bytes<48>,
    pub(super) attributes: Bytes<8>,
    pub(super) attributes_mask: Bytes<8>,
}

/// Of a TDX module with another major version.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ModuleIdentity {
    pub(super) id: String,
    pub(super) mrsigner: Bytes<48>,
    pub(super) attributes: Bytes<8>,
    pub(super) attributes_mask: Bytes<8>,
    pub(super) tcb_levels: Vec<Level<Svn>>,
}

/// What Intel says of one set of versions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Level<T> {
    pub(super) tcb: T,
    pub(super) tcb_date: Date,
    pub(super) tcb_status: TcbStatus,
    #[serde(default, rename = "advisoryIDs")]
    pub(super) advisories: Vec<Name>,
}

/// Versions of all parts of a platform that go together.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Components {
    pub(super) sgxtcbcomponents: [Component; 16],
    pub(super) pcesvn: u16,
    pub(super) tdxtcbcomponents: [Component; 16],
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Component {
    pub(super) svn: u8,
    #[serde(default, rename = "category")]
    _category: de::IgnoredAny,
    #[serde(default, rename = "type")]
    _kind: de::IgnoredAny,
}

/// What the quoting enclave is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct EnclaveIdentity {
    id: String,
    version: u32,
    issue_date: Date,
    next_update: Date,
    tcb_evaluation_data_number: u32,
    pub(super) miscselect: Bytes<4>,
    pub(super) miscselect_mask: Bytes<4>,
    pub(super) attributes: Bytes<16>,
    pub(super) attributes_mask: Bytes<16>,
    pub(super) mrsigner: Bytes<32>,
    pub(super) isvprodid: u16,
    pub(super) tcb_levels: Vec<Level<Svn>>,
}

/// A version of one part.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Svn {
    pub(super) isvsvn: u16,
}

/// A document that is read, signed and in time.
pub(super) struct Validity {
    /// Number of the evaluation that it stands for.
    pub(super) evaluation: u32,
    /// When the next one is due.
    pub(super) until: UnixTime,
}

/// A kind of document.
pub(super) trait Dated: DeserializeOwned {
    /// Whether it is of the kind and version that it should be.
    fn is_known(&self) -> bool;
    /// Issue date, next update and number of the evaluation.
    fn dates(&self) -> (UnixTime, UnixTime, u32);
}

impl Dated for TcbInfo {
    fn is_known(&self) -> bool {
        (self.id.as_str(), self.version, self.tcb_type) == ("TDX", 3, 0)
    }

    fn dates(&self) -> (UnixTime, UnixTime, u32) {
        let (from, until) = (self.issue_date.0, self.next_update.0);
        (from, until, self.tcb_evaluation_data_number)
    }
}

impl Dated for EnclaveIdentity {
    fn is_known(&self) -> bool {
        (self.id.as_str(), self.version) == ("TD_QE", 2)
    }

    fn dates(&self) -> (UnixTime, UnixTime, u32) {
        let (from, until) = (self.issue_date.0, self.next_update.0);
        (from, until, self.tcb_evaluation_data_number)
    }
}

/// Reads a document that `key` signed and that holds at the time `now`.
pub(super) fn read<T: Dated>(
    bytes: &[u8],
    signature: &[u8],
    key: &VerifyingKey,
    minimum: u32,
    now: UnixTime,
) -> Result<(T, Validity), DocumentFault> {
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(DocumentFault::TooLarge { found: bytes.len() });
    }
    let signature = Signature::from_slice(signature).map_err(|_| DocumentFault::Signature)?;
    key.verify(bytes, &signature)
        .map_err(|_| DocumentFault::Signature)?;
    let document: T = serde_json::from_slice(bytes).map_err(|error| DocumentFault::Json {
        line: error.line(),
        column: error.column(),
    })?;
    if !document.is_known() {
        return Err(DocumentFault::Kind);
    }
    let (from, until, found) = document.dates();
    if now < from {
        return Err(DocumentFault::NotYetValid { from, now });
    }
    if now > until {
        return Err(DocumentFault::Expired { until, now });
    }
    if found < minimum {
        return Err(DocumentFault::Evaluation { minimum, found });
    }
    let evaluation = found;
    Ok((document, Validity { evaluation, until }))
}

/// Issue date and next update, by a document that nobody has verified yet.
pub(super) fn dates(document: Document, bytes: &[u8]) -> Option<(UnixTime, UnixTime)> {
    fn dated<T: Dated>(bytes: &[u8]) -> Option<(UnixTime, UnixTime)> {
        let document: T = serde_json::from_slice(bytes).ok()?;
        let (from, until, _) = document.dates();
        document.is_known().then_some((from, until))
    }
    let bytes = (bytes.len() <= MAX_DOCUMENT_BYTES).then_some(bytes)?;
    match document {
        Document::TcbInfo => dated::<TcbInfo>(bytes),
        Document::EnclaveIdentity => dated::<EnclaveIdentity>(bytes),
    }
}

/// Whether `key` signed a document.
pub(super) fn is_signed(bytes: &[u8], signature: &[u8], key: &VerifyingKey) -> bool {
    Signature::from_slice(signature).is_ok_and(|signature| key.verify(bytes, &signature).is_ok())
}

impl DocumentFault {
    pub(super) const fn is_date(&self) -> bool {
        matches!(
            self,
            Self::NotYetValid { .. } | Self::Expired { .. } | Self::Evaluation { .. }
        )
    }
}

/// Bytes in hexadecimal of either case: Intel uses both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bytes<const N: usize>(pub(super) [u8; N]);

impl<const N: usize> Bytes<N> {
    /// Whether `found` has these bits where `mask` has ones.
    pub(super) fn matches(&self, mask: &Self, found: &[u8; N]) -> bool {
        let mut bits = self.0.iter().zip(&mask.0).zip(found);
        bits.all(|((expected, mask), found)| found & mask == *expected)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Bytes<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (text, mut bytes) = (String::deserialize(deserializer)?, [0; N]);
        hex::decode_to_slice(text, &mut bytes).map_err(de::Error::custom)?;
        Ok(Self(bytes))
    }
}

/// A moment as `2026-11-21T00:00:00Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Date(pub(super) UnixTime);

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let date: DateTime = String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)?;
        let seconds = date.unix_duration().as_secs();
        Ok(Self(UnixTime::from_secs(seconds)))
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TcbInfo => "TCB info",
            Self::EnclaveIdentity => "identity of the quoting enclave",
        })
    }
}
