//! The paravisor's report, before it is believed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::{AzureKind, VmConfiguration};
use crate::Digest;
use crate::reader::Reader;
use crate::snp;
use crate::tpm::vtpm::VtpmKey;

/// Longest report.
pub const MAX_HCL_BYTES: usize = 16 << 10;

const MAGIC: &[u8; 4] = b"HCLA";
const REST_OF_HEADER: usize = 24;
const SHA256: u32 = 1;
/// Of the runtime data's own header.
const HEADER_BYTES: u32 = 20;

/// Why bytes are not a paravisor's report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HclError {
    /// Longer than [`MAX_HCL_BYTES`].
    #[error("{found} bytes, {MAX_HCL_BYTES} allowed")]
    TooLarge {
        /// Length found.
        found: usize,
    },
    /// It ends in the midst of something.
    #[error("ends too early")]
    Truncated,
    /// Not a paravisor's report of version 1 or 2.
    #[error("not a report of version 1 or 2")]
    Version,
    /// Runtime data of another version, of unknown hardware, or under another hash than SHA-256.
    #[error("runtime data of another version or kind, or not under SHA-256")]
    Kind,
    /// The lengths of the runtime data contradict each other, or something follows them.
    #[error("the lengths of the runtime data do not fit")]
    Length,
    /// The runtime data are not the JSON that is expected.
    #[error("the runtime data are not the JSON that is expected")]
    Json,
    /// There is not one key for the virtual TPM's signatures.
    #[error("the runtime data do not name one RSA key that signs for the virtual TPM")]
    AttestationKey,
}

/// A report, read and not believed.
pub struct HclReport<'a> {
    /// What the hardware is.
    pub kind: AzureKind,
    /// The hardware's report.
    pub hardware: &'a [u8],
    /// What the hardware's report data must be: SHA-256 of the runtime data, and zeros.
    pub report_data: [u8; 64],
    /// The virtual TPM's key.
    pub key: VtpmKey,
    /// What the paravisor says of the VM.
    pub vm: VmConfiguration,
    /// What the guest has put in.
    pub user_data: Digest<64>,
}

#[derive(Deserialize)]
struct RuntimeData {
    keys: Vec<Key>,
    #[serde(rename = "vm-configuration")]
    vm: VmConfiguration,
    #[serde(rename = "user-data", default)]
    user_data: Option<String>,
}

#[derive(Deserialize)]
struct Key {
    kid: String,
    key_ops: Vec<String>,
    kty: String,
    e: String,
    n: String,
}

impl<'a> HclReport<'a> {
    /// Reads a report, without believing it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, HclError> {
        let found = bytes.len();
        if found > MAX_HCL_BYTES {
            return Err(HclError::TooLarge { found });
        }
        let mut reader = Reader(bytes);
        let head = (
            reader.array::<4>().ok_or(HclError::Truncated)?,
            reader.u32_le().ok_or(HclError::Truncated)?,
        );
        if head.0 != *MAGIC || !(1..=2).contains(&head.1) {
            return Err(HclError::Version);
        }
        let mut part = |length: usize| reader.take(length).ok_or(HclError::Truncated);
        part(REST_OF_HEADER)?;
        let hardware = part(snp::REPORT_BYTES)?;
        let mut header = Reader(part(HEADER_BYTES as usize)?);
        let mut number = || header.u32_le().ok_or(HclError::Truncated);
        let (size, version, kind) = (number()?, number()?, number()?);
        let (hash, length) = (number()?, number()?);
        let kind = match (version, kind, hash) {
            (1, 2, SHA256) => AzureKind::Snp,
            (1, 4, SHA256) => AzureKind::Tdx,
            _ => return Err(HclError::Kind),
        };
        if length.checked_add(HEADER_BYTES) != Some(size) {
            return Err(HclError::Length);
        }
        let data = part(length as usize)?;
        if reader.0.iter().any(|byte| *byte != 0) {
            return Err(HclError::Length);
        }
        let mut report_data = [0; 64];
        report_data[..32].copy_from_slice(&Digest::sha256(data).0);
        let given: RuntimeData = serde_json::from_slice(data).map_err(|_| HclError::Json)?;
        let user_data = given.user_data.unwrap_or_else(|| "0".repeat(128));
        let user_data = user_data.to_ascii_lowercase().parse();
        Ok(Self {
            kind,
            hardware,
            report_data,
            key: key(&given.keys).ok_or(HclError::AttestationKey)?,
            vm: given.vm,
            user_data: user_data.map_err(|_| HclError::Json)?,
        })
    }
}

/// The one key with that name, which signs and does nothing else.
fn key(keys: &[Key]) -> Option<VtpmKey> {
    let mut named = keys.iter().filter(|key| key.kid == "HCLAkPub");
    let (key, None) = (named.next()?, named.next()) else {
        return None;
    };
    if key.key_ops != ["sign"] || key.kty != "RSA" {
        return None;
    }
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
    VtpmKey::from_parts(&decode(&key.n)?, &decode(&key.e)?)
}
