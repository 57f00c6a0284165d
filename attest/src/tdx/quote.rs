//! The quote (Intel, "TDX DCAP Quoting Library API", appendix A; little-endian).
//!
//! ```text
//! header 48   version 2 ‖ key type 2 = 2 ‖ TEE 4 = 0x81 ‖ reserved 4 ‖ vendor 16 ‖ user data 20
//! body        version 4: 584 bytes; version 5: type 2 ‖ size 4 ‖ as many bytes
//! length 4    of all that follows, but for zeros that pad a buffer
//! signature   r ‖ s 64 ‖ attestation key x ‖ y 64
//!             ‖ 6 : 2 ‖ size 4 ‖ enclave report 384 ‖ r ‖ s 64 ‖ size 2 ‖ authentication data
//!               ‖ 5 : 2 ‖ size 4 ‖ certificates in PEM form, leaf first
//! ```
//!
//! The first signature covers header and body. What it does not cover has one value only, or is
//! covered by the report of the quoting enclave.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::Signature;

use crate::Digest;
use crate::reader::Reader;

/// Longest quote, with the zeros that pad it.
pub const MAX_QUOTE_BYTES: usize = 16 << 10;

const KEY_ECDSA_P256: u16 = 2;
const TEE_TDX: u32 = 0x81;
/// Intel's, 939a7233-f79c-4ca9-940a-0db3957f0607.
const VENDOR: [u8; 16] = [
    0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07,
];
const BODY_10_BYTES: usize = 584;
const BODY_15_BYTES: usize = BODY_10_BYTES + 64;
const BODY_15_EX_BYTES: usize = BODY_15_BYTES + 237;
const CERTIFICATES: u16 = 5;
const ENCLAVE_REPORT: u16 = 6;
const ENCLAVE_REPORT_BYTES: usize = 384;

/// What a TDX module says of a trust domain. Digests and numbers as the quote holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Version of the quote: 4 or 5.
    pub version: u16,
    /// Security versions of the TDX module and its parts when the domain was made.
    pub tcb: [u8; 16],
    /// The same now; none before TDX 1.5.
    pub current_tcb: Option<[u8; 16]>,
    /// The TDX module.
    pub mr_seam: Digest<48>,
    /// Who signed it; zero for Intel.
    pub mr_signer_seam: Digest<48>,
    /// Its attributes.
    pub seam_attributes: [u8; 8],
    /// The domain's attributes.
    pub attributes: u64,
    /// What of the processor's state the domain may use.
    pub xfam: Digest<8>,
    /// What was there before the start.
    pub mr_td: Digest<48>,
    /// Configuration that the host gave.
    pub mr_config_id: Digest<48>,
    /// The owner that the host gave.
    pub mr_owner: Digest<48>,
    /// The owner's configuration that the host gave.
    pub mr_owner_config: Digest<48>,
    /// RTMR0 to RTMR3.
    pub rtmrs: [Digest<48>; 4],
    /// What the domain gave.
    pub report_data: [u8; 64],
    /// Service domains that are bound to it; zero for none, and before TDX 1.5.
    pub mr_service_td: Digest<48>,
    /// Service domains that are bound to it now, where that is said apart.
    pub current_service_td: Option<Digest<48>>,
    /// Which of its parts a partitioned domain asked for; zero for the whole.
    pub vm_id: u8,
}

/// What the quoting enclave is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EnclaveReport {
    pub(super) misc_select: [u8; 4],
    pub(super) attributes: [u8; 16],
    pub(super) mr_signer: Digest<32>,
    pub(super) product: u16,
    pub(super) svn: u16,
    pub(super) report_data: [u8; 64],
}

/// A quote with all that vouches for it.
#[derive(Clone, Debug)]
pub(super) struct SignedQuote<'a> {
    pub(super) quote: Quote,
    /// Header and body.
    pub(super) signed: &'a [u8],
    pub(super) signature: Signature,
    /// x and y of the attestation key.
    pub(super) key: &'a [u8; 64],
    /// The quoting enclave's report as it was signed.
    pub(super) enclave_bytes: &'a [u8],
    pub(super) enclave: EnclaveReport,
    pub(super) enclave_signature: Signature,
    pub(super) authentication: &'a [u8],
    /// In DER form, leaf first.
    pub(super) certificates: Vec<Vec<u8>>,
}

/// Why bytes are no quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// Longer than [`MAX_QUOTE_BYTES`].
    #[error("{found} bytes, {MAX_QUOTE_BYTES} allowed")]
    TooLarge {
        /// Length found.
        found: usize,
    },
    /// Ends too early, or a part is longer than what holds it.
    #[error("ends within {part}")]
    Truncated {
        /// The part.
        part: Part,
    },
    /// Something follows a part that should end there.
    #[error("goes on behind {part}")]
    Trailing {
        /// The part.
        part: Part,
    },
    /// A version that this program does not know.
    #[error("version {found}, 4 or 5 expected")]
    Version {
        /// Version found.
        found: u16,
    },
    /// Another kind of attestation key than ECDSA with P-256.
    #[error("attestation key of type {found}, {KEY_ECDSA_P256} expected")]
    KeyType {
        /// Type found.
        found: u16,
    },
    /// Not of a trust domain.
    #[error("TEE type {found:#x}, {TEE_TDX:#x} (TDX) expected")]
    Tee {
        /// Type found.
        found: u32,
    },
    /// Not by Intel's quoting enclave.
    #[error("vendor {found}, Intel's expected")]
    Vendor {
        /// Vendor found.
        found: Digest<16>,
    },
    /// A body that this program does not know.
    #[error("body of type {kind} with {bytes} bytes")]
    Body {
        /// Type found.
        kind: u16,
        /// Length found.
        bytes: u32,
    },
    /// Another kind of certification data.
    #[error("certification data of type {found}, {expected} expected")]
    Certification {
        /// Type that had to be there.
        expected: u16,
        /// Type found.
        found: u16,
    },
    /// A signature with a number that is none of the curve's.
    #[error("{part} holds no signature of ECDSA with P-256")]
    Signature {
        /// The part.
        part: Part,
    },
    /// Not certificates in the one PEM form that there is.
    #[error("the certificates are not in PEM form")]
    Certificates,
}

/// A part of a quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Header.
    Header,
    /// What the TDX module says.
    Body,
    /// The attestation key's signature, and the key.
    Signature,
    /// What the quoting enclave says.
    EnclaveReport,
    /// The certificates.
    Certificates,
    /// All of it.
    Quote,
}

impl Quote {
    /// Reads a quote, without believing it.
    pub fn parse(bytes: &[u8]) -> Result<Self, QuoteError> {
        SignedQuote::parse(bytes).map(|signed| signed.quote)
    }

    /// The part of a buffer that a quote fills: a kernel may pad it with zeros.
    #[must_use]
    pub fn unpadded(bytes: &[u8]) -> &[u8] {
        let Ok((_, rest)) = split_body(bytes) else {
            return bytes;
        };
        let body = bytes.len() - rest.len();
        let length = Reader(rest).u32_le().and_then(|n| usize::try_from(n).ok());
        let end = length.and_then(|length| length.checked_add(body + 4));
        match end.and_then(|end| bytes.split_at_checked(end)) {
            Some((quote, padding)) if padding.iter().all(|byte| *byte == 0) => quote,
            _ => bytes,
        }
    }
}

impl<'a> SignedQuote<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, QuoteError> {
        if bytes.len() > MAX_QUOTE_BYTES {
            return Err(QuoteError::TooLarge { found: bytes.len() });
        }
        let (quote, rest) = split_body(bytes)?;
        let signed = &bytes[..bytes.len() - rest.len()];
        let mut reader = Reader(rest);
        let length = reader.u32_le();
        let mut reader = Reader(part(&mut reader, length, Part::Quote)?);
        if rest[4 + reader.0.len()..].iter().any(|byte| *byte != 0) {
            let part = Part::Quote;
            return Err(QuoteError::Trailing { part });
        }
        let signature = signature(&mut reader, Part::Signature)?;
        let key = truncated(array_ref(&mut reader), Part::Signature)?;
        let mut report = certification(&mut reader, ENCLAVE_REPORT, Part::EnclaveReport)?;
        let enclave_bytes = truncated(report.take(ENCLAVE_REPORT_BYTES), Part::EnclaveReport)?;
        let enclave = truncated(EnclaveReport::parse(enclave_bytes), Part::EnclaveReport)?;
        let enclave_signature = self::signature(&mut report, Part::EnclaveReport)?;
        let length = report.u16_le().map(u32::from);
        let authentication = part(&mut report, length, Part::EnclaveReport)?;
        let certificates = certification(&mut report, CERTIFICATES, Part::Certificates)?;
        Ok(Self {
            quote,
            signed,
            signature,
            key,
            enclave_bytes,
            enclave,
            enclave_signature,
            authentication,
            certificates: certificates_of(certificates.0).ok_or(QuoteError::Certificates)?,
        })
    }
}

fn truncated<T>(found: Option<T>, part: Part) -> Result<T, QuoteError> {
    found.ok_or(QuoteError::Truncated { part })
}

fn array_ref<'a, const N: usize>(reader: &mut Reader<'a>) -> Option<&'a [u8; N]> {
    reader.take(N)?.try_into().ok()
}

/// As many bytes as `length` says.
fn part<'a>(
    reader: &mut Reader<'a>,
    length: Option<u32>,
    part: Part,
) -> Result<&'a [u8], QuoteError> {
    let length = length.and_then(|length| usize::try_from(length).ok());
    truncated(length.and_then(|length| reader.take(length)), part)
}

fn signature(reader: &mut Reader<'_>, part: Part) -> Result<Signature, QuoteError> {
    let bytes = truncated(reader.take(64), part)?;
    Signature::from_slice(bytes).map_err(|_| QuoteError::Signature { part })
}

/// Type and size, and what they announce: nothing may follow it.
fn certification<'a>(
    reader: &mut Reader<'a>,
    expected: u16,
    of: Part,
) -> Result<Reader<'a>, QuoteError> {
    let found = truncated(reader.u16_le(), of)?;
    if found != expected {
        return Err(QuoteError::Certification { expected, found });
    }
    let length = reader.u32_le();
    let inner = part(reader, length, of)?;
    if reader.is_empty() {
        Ok(Reader(inner))
    } else {
        Err(QuoteError::Trailing { part: of })
    }
}

/// Header and body, and all that follows.
fn split_body(bytes: &[u8]) -> Result<(Quote, &[u8]), QuoteError> {
    let mut reader = Reader(bytes);
    let version = header(&mut reader)?;
    let known = match version {
        4 => (2, BODY_10_BYTES),
        5 => {
            let kind = truncated(reader.u16_le(), Part::Body)?;
            let bytes = truncated(reader.u32_le(), Part::Body)?;
            match (kind, usize::try_from(bytes)) {
                (2, Ok(found @ BODY_10_BYTES))
                | (3, Ok(found @ BODY_15_BYTES))
                | (4, Ok(found @ BODY_15_EX_BYTES)) => (kind, found),
                _ => return Err(QuoteError::Body { kind, bytes }),
            }
        }
        found => return Err(QuoteError::Version { found }),
    };
    let body = truncated(reader.take(known.1), Part::Body)?;
    let quote = truncated(parse_body(version, known.0, body), Part::Body)?;
    Ok((quote, reader.0))
}

fn header(reader: &mut Reader<'_>) -> Result<u16, QuoteError> {
    let version = truncated(reader.u16_le(), Part::Header)?;
    let key = truncated(reader.u16_le(), Part::Header)?;
    let tee = truncated(reader.u32_le(), Part::Header)?;
    truncated(reader.take(4), Part::Header)?;
    let vendor: [u8; 16] = truncated(reader.array(), Part::Header)?;
    truncated(reader.take(20), Part::Header)?;
    if !matches!(version, 4 | 5) {
        return Err(QuoteError::Version { found: version });
    }
    if key != KEY_ECDSA_P256 {
        return Err(QuoteError::KeyType { found: key });
    }
    if tee != TEE_TDX {
        return Err(QuoteError::Tee { found: tee });
    }
    if vendor != VENDOR {
        let found = Digest(vendor);
        return Err(QuoteError::Vendor { found });
    }
    Ok(version)
}

/// `kind`: 2 for TDX 1.0, 3 for 1.5, 4 for 1.5 with what was said of service domains.
fn parse_body(version: u16, kind: u16, body: &[u8]) -> Option<Quote> {
    let mut reader = Reader(body);
    let mut quote = Quote {
        version,
        tcb: reader.array()?,
        current_tcb: None,
        mr_seam: Digest(reader.array()?),
        mr_signer_seam: Digest(reader.array()?),
        seam_attributes: reader.array()?,
        attributes: reader.u64_le()?,
        xfam: Digest(reader.array()?),
        mr_td: Digest(reader.array()?),
        mr_config_id: Digest(reader.array()?),
        mr_owner: Digest(reader.array()?),
        mr_owner_config: Digest(reader.array()?),
        rtmrs: [
            Digest(reader.array()?),
            Digest(reader.array()?),
            Digest(reader.array()?),
            Digest(reader.array()?),
        ],
        report_data: reader.array()?,
        mr_service_td: Digest::ZERO,
        current_service_td: None,
        vm_id: 0,
    };
    if kind >= 3 {
        quote.current_tcb = Some(reader.array()?);
        quote.mr_service_td = Digest(reader.array()?);
    }
    if kind == 4 {
        [quote.vm_id] = reader.array()?;
        // Id of the domain, its devices, the first service domains with their attributes, and the
        // versions of the processor and the model that the domain began on.
        reader.take(32 + 48 + 48 + 8 + 16 + 16 + 12)?;
        quote.current_service_td = Some(Digest(reader.array()?));
        reader.take(8)?;
    }
    reader.is_empty().then_some(quote)
}

impl EnclaveReport {
    /// CPU versions 16 ‖ misc select 4 ‖ reserved 28 ‖ attributes 16 ‖ enclave 32 ‖ reserved 32 ‖
    /// signer 32 ‖ reserved 96 ‖ product 2 ‖ version 2 ‖ reserved 60 ‖ report data 64
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        reader.take(16)?;
        let misc_select = reader.array()?;
        reader.take(28)?;
        let attributes = reader.array()?;
        reader.take(32 + 32)?;
        let mr_signer = Digest(reader.array()?);
        reader.take(96)?;
        let (product, svn) = (reader.u16_le()?, reader.u16_le()?);
        reader.take(60)?;
        let report_data = reader.array()?;
        reader.is_empty().then_some(Self {
            misc_select,
            attributes,
            mr_signer,
            product,
            svn,
            report_data,
        })
    }
}

/// Certificates in PEM form, each in its one spelling; a zero may end them, as it ends a string.
fn certificates_of(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut rest = text.strip_suffix('\0').unwrap_or(text);
    let mut certificates = Vec::new();
    while !rest.is_empty() {
        let inner = rest.strip_prefix("-----BEGIN CERTIFICATE-----\n")?;
        let (lines, after) = inner.split_once("-----END CERTIFICATE-----\n")?;
        let der = STANDARD.decode(lines.replace('\n', "")).ok()?;
        if lines != in_lines(&STANDARD.encode(&der)) {
            return None;
        }
        certificates.push(der);
        rest = after;
    }
    Some(certificates)
}

fn in_lines(text: &str) -> String {
    let mut lines = String::with_capacity(text.len() + text.len() / 64 + 1);
    for (index, character) in text.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            lines.push('\n');
        }
        lines.push(character);
    }
    lines.push('\n');
    lines
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Header => "the header",
            Self::Body => "the body",
            Self::Signature => "the signature",
            Self::EnclaveReport => "the quoting enclave's report",
            Self::Certificates => "the certificates",
            Self::Quote => "the quote",
        })
    }
}
