//! Quotes of TPMs and evidence of VMs in Azure, as tpm2-tools and other verifiers keep them.
//!
//! ```text
//! quote       TPMS_ATTEST, alone (`tpm2_quote -m`), or in JSON:
//!             { "message", "signature", "pcrs": [24 values] }, or that as "tpm_quote" or "quote"
//!             beside "ak_public" (SubjectPublicKeyInfo)
//! signature   TPMT_SIGNATURE (`-s`), or the RSA signature alone (`-f plain`)
//! registers   their values one behind the other (`-o FILE -F values`), or what `tpm2_pcrread
//!             sha256:all` prints
//! Azure       the paravisor's report alone, or in JSON as "hcl_report" or "report", beside
//!             a quote, "vcek", "td_quote"
//! ```
//!
//! Bytes in JSON are lists of numbers, hexadecimal or Base64 of either alphabet.

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Deserializer, de};

use super::{FileError, HCL_MAGIC, MAX_FILE_BYTES, plain};
use crate::Digest;
use crate::tpm::vtpm::{REGISTERS, VtpmQuote};

const GENERATED_BY_TPM: [u8; 4] = 0xff54_4347_u32.to_be_bytes();
/// Lengths of RSA signatures that come without TPMT_SIGNATURE's head.
const PLAIN: [usize; 3] = [256, 384, 512];

/// What a file holds of a TPM's quote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuoteFile {
    /// TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE, where it is in the same file.
    pub signature: Option<Vec<u8>>,
    /// Values of registers, where they are in the same file.
    pub registers: Option<[Digest<32>; REGISTERS]>,
    /// The key's SubjectPublicKeyInfo, where it is in the same file.
    pub key: Option<Vec<u8>>,
}

/// What a file holds of a VM in Azure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AzureFile {
    /// The paravisor's report.
    pub hcl_report: Vec<u8>,
    /// The virtual TPM's quote.
    pub quote: Option<QuoteFile>,
    /// The VCEK, as it was found: PEM or DER.
    pub vcek: Option<Vec<u8>>,
    /// A quote of TDX.
    pub td_quote: Option<Vec<u8>>,
}

#[derive(Deserialize)]
struct Wrapped {
    #[serde(alias = "report")]
    hcl_report: Option<Bytes>,
    #[serde(alias = "quote")]
    tpm_quote: Option<Quote>,
    vcek: Option<Bytes>,
    td_quote: Option<Bytes>,
    ak_public: Option<Bytes>,
}

#[derive(Deserialize)]
struct Quote {
    message: Bytes,
    signature: Bytes,
    pcrs: Vec<Bytes>,
}

/// Bytes in any of the forms that such files have.
struct Bytes(Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Forms {
            List(Vec<u8>),
            Text(String),
        }
        match Forms::deserialize(deserializer)? {
            Forms::List(bytes) => Ok(Self(bytes)),
            Forms::Text(text) if text.starts_with("-----") => Ok(Self(text.into_bytes())),
            Forms::Text(text) => {
                let bytes = hex::decode(&text).ok().or_else(|| base64(&text));
                bytes
                    .map(Self)
                    .ok_or_else(|| de::Error::custom("neither hexadecimal nor Base64"))
            }
        }
    }
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let any = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let with = |alphabet| GeneralPurpose::new(alphabet, any).decode(text).ok();
    with(&STANDARD).or_else(|| with(&URL_SAFE))
}

impl Quote {
    fn file(self, key: Option<Bytes>) -> Result<QuoteFile, FileError> {
        let mut registers = [Digest::ZERO; REGISTERS];
        if self.pcrs.len() != REGISTERS {
            return Err(FileError::Registers);
        }
        for (register, value) in registers.iter_mut().zip(self.pcrs) {
            register.0 = value.0.try_into().map_err(|_| FileError::Registers)?;
        }
        Ok(QuoteFile {
            attest: attest(self.message.0)?,
            signature: Some(signature(&self.signature.0)),
            registers: Some(registers),
            key: key.map(|key| key.0),
        })
    }
}

fn attest(bytes: Vec<u8>) -> Result<Vec<u8>, FileError> {
    match bytes.starts_with(&GENERATED_BY_TPM) {
        true => Ok(bytes),
        false => Err(FileError::TpmQuote),
    }
}

/// TPMT_SIGNATURE, also of what is an RSA signature alone.
#[must_use]
pub fn signature(bytes: &[u8]) -> Vec<u8> {
    match u16::try_from(bytes.len()) {
        Ok(length) if PLAIN.contains(&bytes.len()) => {
            [&[0, 0x14, 0, 0x0b][..], &length.to_be_bytes(), bytes].concat()
        }
        _ => bytes.to_vec(),
    }
}

/// A quote, and what else is in its file.
pub fn quote(bytes: &[u8]) -> Result<QuoteFile, FileError> {
    bounded(bytes)?;
    if let Ok(quote) = serde_json::from_slice::<Quote>(bytes) {
        return quote.file(None);
    }
    if let Ok(Wrapped {
        tpm_quote: Some(quote),
        ak_public,
        ..
    }) = serde_json::from_slice(bytes)
    {
        return quote.file(ak_public);
    }
    Ok(QuoteFile {
        attest: attest(plain(bytes))?,
        ..QuoteFile::default()
    })
}

/// A paravisor's report, and what else is in its file.
pub fn azure(bytes: &[u8]) -> Result<AzureFile, FileError> {
    bounded(bytes)?;
    let file = match serde_json::from_slice::<Wrapped>(bytes) {
        Ok(wrapped) => AzureFile {
            hcl_report: wrapped.hcl_report.map(|bytes| bytes.0).unwrap_or_default(),
            quote: wrapped
                .tpm_quote
                .map(|quote| quote.file(None))
                .transpose()?,
            vcek: wrapped.vcek.map(|bytes| bytes.0),
            td_quote: wrapped.td_quote.map(|bytes| bytes.0),
        },
        Err(_) => AzureFile {
            hcl_report: plain(bytes),
            ..AzureFile::default()
        },
    };
    match file.hcl_report.starts_with(HCL_MAGIC) {
        true => Ok(file),
        false => Err(FileError::Paravisor),
    }
}

/// Values of registers of the SHA-256 bank: of those that `attest` selects, in order, or of all
/// that are named in print.
pub fn registers(attest: &[u8], bytes: &[u8]) -> Result<[Digest<32>; REGISTERS], FileError> {
    bounded(bytes)?;
    let mut registers = [Digest::ZERO; REGISTERS];
    let selected = VtpmQuote::selected(attest);
    if !bytes.is_empty() && bytes.len() == 32 * selected.len() {
        for (register, value) in selected.iter().zip(bytes.chunks_exact(32)) {
            let place = registers.get_mut(usize::from(register.0));
            let place = place.ok_or(FileError::Registers)?;
            place.0 = value.try_into().map_err(|_| FileError::Registers)?;
        }
        return Ok(registers);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| FileError::Registers)?;
    let mut named = 0;
    let mut bank = "sha256";
    for line in text.lines() {
        let Some((number, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim().to_ascii_lowercase();
        if value.is_empty() {
            bank = number.trim();
        } else if bank == "sha256" {
            let number: Option<usize> = number.trim().parse().ok();
            let place = number.and_then(|number| registers.get_mut(number));
            let value = value.trim_start_matches("0x").parse();
            let (Some(place), Ok(value)) = (place, value) else {
                return Err(FileError::Registers);
            };
            *place = value;
            named += 1;
        }
    }
    match named {
        0 => Err(FileError::Registers),
        _ => Ok(registers),
    }
}

fn bounded(bytes: &[u8]) -> Result<(), FileError> {
    match bytes.len() {
        found if found > MAX_FILE_BYTES => Err(FileError::TooLarge { found }),
        _ => Ok(()),
    }
}
