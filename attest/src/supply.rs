//! What AMD's Key Distribution Service (57230) and Intel's Provisioning Certification Service
//! (version 4) are asked for so that evidence can be verified, and what they answer.
//!
//! ```text
//! report ─┬─▶ VCEK of the chip and its TCB ─┐        quote ─┬─▶ TCB info of the model, signer
//!         ├─▶ ASK or ASVK                   ├─ DER           ├─▶ identity of the quoting enclave
//!         └─▶ revocation list of the ARK ───┘                └─▶ lists of the PCK CA and the root
//! ```
//!
//! An answer is looked at for its form only. What it says is signed, and judged by whoever
//! verifies evidence: nobody on the way to it is trusted.

use std::fmt;

use serde::Deserialize;
use x509_cert::Certificate;
use x509_cert::der::Encode as _;

use crate::crl::{self, MAX_CRL_BYTES};
use crate::snp::{self, Product, Report, ReportError, SigningKey, TcbVersion};
use crate::tdx::{self, Document, MAX_DOCUMENT_BYTES, PckAuthority, TdxError};
use crate::{Digest, Hex, UnixTime, certificate};

const AMD: &str = "https://kdsintf.amd.com";
const INTEL: &str = "https://api.trustedservices.intel.com";
const INTEL_ROOT_LIST: &str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der";

/// Most certificates in a chain.
const MAX_CHAIN: usize = 4;

/// One thing that there is to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// The certificate of a chip's key at one TCB.
    Vcek,
    /// The certificate above it: ASK or ASVK.
    Intermediate,
    /// The revocation list of AMD's root.
    AmdList,
    /// Which versions of a platform's parts are sound.
    TcbInfo,
    /// What the quoting enclave is.
    EnclaveIdentity,
    /// The revocation list of the authority of platform keys.
    PckList,
    /// The revocation list of Intel's root.
    IntelList,
}

/// An item and where it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub item: Item,
    /// Where: an absolute URL of AMD or Intel.
    pub url: String,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A certificate in DER form.
    Certificate(Vec<u8>),
    /// A revocation list in DER form.
    List(Vec<u8>),
    /// A document of Intel's.
    Document(SignedDocument),
}

/// A document of Intel's, with what vouches for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedDocument {
    /// The value that is signed, byte for byte.
    pub bytes: Vec<u8>,
    /// r ‖ s.
    pub signature: Vec<u8>,
    /// The certificate of the key that signed, in DER form; empty where it was not given.
    pub signer: Vec<u8>,
}

/// Why there is nothing to ask for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The report is none.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The quote is none, or its certificates say too little.
    #[error(transparent)]
    Quote(#[from] TdxError),
    /// The report does not say which processor made it, or one that is not known.
    #[error("the report names no known processor")]
    Processor,
    /// The host masks which chip it is: only it can give the certificate.
    #[error("the report names no chip")]
    MaskedChip,
    /// The TCB is not one of the product.
    #[error("the reported TCB {found} is none of {product}")]
    Tcb {
        /// The product.
        product: Product,
        /// TCB found.
        found: Hex,
    },
}

/// Why an answer is not what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Longer than [`Item::max_bytes`].
    #[error("{item}: {found} bytes, {} allowed", .item.max_bytes())]
    TooLarge {
        /// What was asked for.
        item: Item,
        /// Length found.
        found: usize,
    },
    /// Not of the form that the item has.
    #[error("{item}: not of the known form")]
    Form {
        /// What was asked for.
        item: Item,
    },
    /// A document without the certificates of its key.
    #[error("{item}: comes without the certificate of its key")]
    Signer {
        /// What was asked for.
        item: Item,
    },
}

/// What to ask AMD for, by a report. A key of a cloud's (VLEK) is the host's to give.
pub fn for_report(report: &[u8]) -> Result<Vec<Request>, RequestError> {
    let report = Report::parse(report)?;
    let product = report
        .cpuid
        .and_then(|[family, model]| Product::of_cpuid(family, model))
        .ok_or(RequestError::Processor)?;
    let kind = match report.signing_key {
        SigningKey::Vcek => "vcek",
        SigningKey::Vlek => "vlek",
    };
    let base = format!("{AMD}/{kind}/v1/{product}");
    let mut requests = Vec::new();
    if report.signing_key == SigningKey::Vcek {
        let query = vcek_query(product, &report)?;
        let (item, url) = (Item::Vcek, format!("{base}/{query}"));
        requests.push(Request { item, url });
    }
    for (item, name) in [(Item::Intermediate, "cert_chain"), (Item::AmdList, "crl")] {
        let url = format!("{base}/{name}");
        requests.push(Request { item, url });
    }
    Ok(requests)
}

/// The chip, of which Turin names 8 bytes, and each part of the TCB that its key stands for.
fn vcek_query(product: Product, report: &Report) -> Result<String, RequestError> {
    if report.chip_id == Digest::ZERO {
        return Err(RequestError::MaskedChip);
    }
    let tcb = report.reported_tcb;
    let tcb = TcbVersion::read(product, tcb).ok_or_else(|| RequestError::Tcb {
        product,
        found: Hex(tcb.into()),
    })?;
    let (chip, fmc) = match product {
        Product::Milan | Product::Genoa => (hex::encode(report.chip_id.0), String::new()),
        Product::Turin => {
            let fmc = format!("fmcSPL={:02}&", tcb.fmc);
            (hex::encode(&report.chip_id.0[..8]), fmc)
        }
    };
    Ok(format!(
        "{chip}?{fmc}blSPL={:02}&teeSPL={:02}&snpSPL={:02}&ucodeSPL={:02}",
        tcb.boot_loader, tcb.tee, tcb.snp, tcb.microcode
    ))
}

/// What to ask Intel for, by a quote.
pub fn for_quote(quote: &[u8]) -> Result<Vec<Request>, RequestError> {
    let (fmspc, authority) = tdx::named_by(quote)?;
    let authority = match authority {
        PckAuthority::Platform => "platform",
        PckAuthority::Processor => "processor",
    };
    let fmspc = hex::encode_upper(fmspc);
    let requests = [
        (
            Item::TcbInfo,
            format!("{INTEL}/tdx/certification/v4/tcb?fmspc={fmspc}"),
        ),
        (
            Item::EnclaveIdentity,
            format!("{INTEL}/tdx/certification/v4/qe/identity"),
        ),
        (
            Item::PckList,
            format!("{INTEL}/sgx/certification/v4/pckcrl?ca={authority}&encoding=der"),
        ),
        (Item::IntelList, INTEL_ROOT_LIST.to_owned()),
    ];
    Ok(requests
        .map(|(item, url)| Request { item, url })
        .into_iter()
        .collect())
}

impl Item {
    /// Longest answer.
    #[must_use]
    pub const fn max_bytes(self) -> usize {
        match self {
            Self::Vcek => snp::MAX_CERTIFICATE_BYTES,
            Self::Intermediate => MAX_CHAIN * snp::MAX_CERTIFICATE_BYTES,
            Self::AmdList | Self::PckList | Self::IntelList => MAX_CRL_BYTES,
            Self::TcbInfo | Self::EnclaveIdentity => MAX_DOCUMENT_BYTES + 1024,
        }
    }

    /// The header in which the certificate of a document's key comes.
    #[must_use]
    pub const fn signer_header(self) -> Option<&'static str> {
        match self {
            Self::TcbInfo => Some("tcb-info-issuer-chain"),
            Self::EnclaveIdentity => Some("sgx-enclave-identity-issuer-chain"),
            _ => None,
        }
    }

    const fn document(self) -> Option<(Document, &'static str)> {
        match self {
            Self::TcbInfo => Some((Document::TcbInfo, "tcbInfo")),
            Self::EnclaveIdentity => Some((Document::EnclaveIdentity, "enclaveIdentity")),
            _ => None,
        }
    }
}

/// Reads an answer, with the [header](Item::signer_header) that its kind comes with; gives it with
/// the time until which it holds, where it says one.
pub fn read(
    item: Item,
    body: &[u8],
    signer: Option<&str>,
) -> Result<(Answer, Option<UnixTime>), AnswerError> {
    let found = body.len();
    if found > item.max_bytes() {
        return Err(AnswerError::TooLarge { item, found });
    }
    let form = AnswerError::Form { item };
    match item {
        Item::Vcek => {
            certificate::decode(body).map_err(|_| form)?;
            Ok((Answer::Certificate(body.to_vec()), None))
        }
        Item::Intermediate => {
            let chain = certificates(body).ok_or(form)?;
            let first = chain.into_iter().next().ok_or(form)?;
            Ok((Answer::Certificate(first), None))
        }
        Item::AmdList | Item::PckList | Item::IntelList => {
            let until = crl::next_update(body).map_err(|_| form)?;
            Ok((Answer::List(body.to_vec()), Some(until)))
        }
        Item::TcbInfo | Item::EnclaveIdentity => {
            let (mut document, until) = document(item, body).ok_or(form)?;
            let chain = signer.and_then(unescaped);
            let chain = chain.and_then(|text| certificates(text.as_bytes()));
            let first = chain.and_then(|chain| chain.into_iter().next());
            document.signer = first.ok_or(AnswerError::Signer { item })?;
            Ok((Answer::Document(document), Some(until)))
        }
    }
}

/// Reads a response of Intel's service as a file keeps it: without the header with its signer.
#[must_use]
pub fn read_response(body: &[u8]) -> Option<(Document, SignedDocument)> {
    [Item::TcbInfo, Item::EnclaveIdentity]
        .into_iter()
        .filter(|item| body.len() <= item.max_bytes())
        .find_map(|item| {
            let (found, _) = document(item, body)?;
            Some((item.document()?.0, found))
        })
}

/// `{"NAME":VALUE,"signature":"HEX"}`: the signature is over the bytes of the value, so that they
/// are cut out and not written anew.
fn document(item: Item, body: &[u8]) -> Option<(SignedDocument, UnixTime)> {
    #[derive(Deserialize)]
    struct Signed {
        signature: String,
    }
    let (kind, name) = item.document()?;
    let text = std::str::from_utf8(body).ok()?.trim_ascii();
    let signature = serde_json::from_str::<Signed>(text).ok()?.signature;
    let rest = text.strip_prefix(&format!("{{\"{name}\":"))?;
    let value = rest.strip_suffix(&format!(",\"signature\":\"{signature}\"}}"))?;
    let signature = hex::decode(signature).ok()?;
    let until = tdx::next_update(kind, value.as_bytes())?;
    let document = SignedDocument {
        bytes: value.into(),
        signature: (signature.len() == tdx::SIGNATURE_BYTES).then_some(signature)?,
        signer: Vec::new(),
    };
    Some((document, until))
}

/// Certificates in PEM form, at least one.
fn certificates(pem: &[u8]) -> Option<Vec<Vec<u8>>> {
    let chain = Certificate::load_pem_chain(pem).ok()?;
    let fits = (1..=MAX_CHAIN).contains(&chain.len());
    let chain = chain.iter().map(|one| one.to_der().ok());
    let chain: Option<Vec<_>> = chain.collect();
    chain.filter(|chain| {
        fits && chain
            .iter()
            .all(|one| one.len() <= snp::MAX_CERTIFICATE_BYTES)
    })
}

/// What a header says without the escapes of a URL.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first == b'%' {
            let mut byte = [0];
            hex::decode_to_slice(rest.get(..2)?, &mut byte).ok()?;
            bytes.extend(byte);
            rest = &rest[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vcek => "VCEK",
            Self::Intermediate => "certificates of AMD's",
            Self::AmdList => "revocation list of AMD's root",
            Self::TcbInfo => "TCB info",
            Self::EnclaveIdentity => "identity of the quoting enclave",
            Self::PckList => "revocation list of the PCK CA",
            Self::IntelList => "revocation list of Intel's root",
        })
    }
}
