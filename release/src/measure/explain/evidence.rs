//! Evidence by what it is: what a processor, a cloud's agent or a client's program wrote into a
//! file.
//!
//! ```text
//! report of SEV-SNP   1184 bytes, the launch digest at 0x90
//! quote of TDX        version 4 or 5 u16 ‖ … ‖ kind 0x81 u32: a TD
//! Azure's HCL report  "HCLA" ‖ … 32 ‖ report 1184 ‖ bytes u32 ‖ version u32 ‖ kind u32 ‖ …
//!                     kind 2: a report of SEV-SNP; kind 4: TDREPORT, MRTD at 528, RTMR0 at 720
//! Azure's evidence    JSON, the HCL report under `hcl_report` or `report`: bytes, or base64url
//! event log           see `eventlog`
//! Cloister's own      CBOR, see `attest::Evidence`
//! ```
//!
//! References: AMD 56860, table 23; Intel, "TDX Module ABI", TDREPORT_STRUCT; Microsoft, "Azure
//! confidential VMs guest attestation design".

use attest::{Digest, Evidence, Platform};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::measure::eventlog::{EventLog, Kind, LogError};
use crate::measure::tdx::registers_of_quote;
use crate::pe::u32_at;

/// Bytes of a report of SEV-SNP.
pub const REPORT_BYTES: usize = 1184;
const HCL_HEAD_BYTES: usize = 32;

/// What is explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A launch digest of SEV-SNP.
    Snp(Digest<48>),
    /// MRTD and RTMR0 to RTMR3, and the event log that came with them.
    Tdx(Box<[Digest<48>; 5]>, Option<Vec<u8>>),
    /// An event log of either kind.
    Log(Kind, Vec<u8>),
}

/// A subject, and whether Azure's paravisor stands between: its own measurement is in the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What is explained.
    pub subject: Subject,
    /// Whether it was in an HCL report.
    pub paravisor: bool,
}

/// Why a file is no evidence that is explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// Nothing that is known here.
    #[error(
        "it is no report of SEV-SNP ({REPORT_BYTES} bytes), quote of TDX, HCL report of Azure's or \
         event log"
    )]
    Unknown,
    /// An event log with a fault.
    #[error("the event log: {0}")]
    Log(LogError),
    /// Evidence of a platform without registers that are predicted.
    #[error("the evidence is of a platform that is not explained here")]
    Platform,
    /// Evidence that holds a damaged part.
    #[error("the evidence holds no whole {0}")]
    Part(&'static str),
    /// An HCL report of another kind.
    #[error("the HCL report holds a report of kind {0}; 2 (SEV-SNP) and 4 (TDX) are known")]
    Hcl(u32),
}

impl Found {
    /// Tells what a file is.
    pub fn parse(bytes: &[u8]) -> Result<Self, EvidenceError> {
        let own = |subject| Self {
            subject,
            paravisor: false,
        };
        if bytes.starts_with(b"HCLA") {
            return hcl(bytes);
        }
        if let Ok(evidence) = Evidence::decode(bytes) {
            return enveloped(&evidence.platform).map(own);
        }
        if let Some(report) = azure_evidence(bytes) {
            return hcl(&report);
        }
        if bytes.len() == REPORT_BYTES {
            return report(bytes).map(own);
        }
        // Version 4 or 5 for a TD, as Intel's quotes begin.
        if matches!(bytes, [4 | 5, 0, _, _, 0x81, 0, 0, 0, ..]) {
            let registers = registers_of_quote(bytes).ok_or(EvidenceError::Part("quote"))?;
            return Ok(own(Subject::Tdx(Box::new(registers), None)));
        }
        log(bytes).map(own)
    }
}

fn enveloped(platform: &Platform) -> Result<Subject, EvidenceError> {
    match platform {
        Platform::Snp(snp) => report(&snp.report),
        Platform::Tdx(tdx) => {
            let registers = registers_of_quote(&tdx.quote).ok_or(EvidenceError::Part("quote"))?;
            Ok(Subject::Tdx(
                Box::new(registers),
                Some(tdx.event_log.clone()),
            ))
        }
        Platform::Tpm(tpm) | Platform::Google(tpm) => log(&tpm.event_log),
        Platform::Azure(machine) => log(&machine.tpm.event_log),
        _ => Err(EvidenceError::Platform),
    }
}

fn report(bytes: &[u8]) -> Result<Subject, EvidenceError> {
    let digest = digest(bytes, 0x90).filter(|_| bytes.len() == REPORT_BYTES);
    digest
        .map(Subject::Snp)
        .ok_or(EvidenceError::Part("report"))
}

fn log(bytes: &[u8]) -> Result<Subject, EvidenceError> {
    let log = EventLog::parse(bytes).map_err(|error| match error {
        LogError::SpecId | LogError::TooLarge(_) => EvidenceError::Unknown,
        error => EvidenceError::Log(error),
    })?;
    Ok(Subject::Log(log.kind(), bytes.to_vec()))
}

fn hcl(bytes: &[u8]) -> Result<Found, EvidenceError> {
    let (first, rest) = (HCL_HEAD_BYTES, HCL_HEAD_BYTES + REPORT_BYTES);
    let inner = bytes.get(first..rest);
    let inner = inner.filter(|_| bytes.starts_with(b"HCLA"));
    let inner = inner.ok_or(EvidenceError::Part("HCL report"))?;
    let kind = u32_at(bytes, rest + 8).ok_or(EvidenceError::Part("HCL report"))?;
    let subject = match kind {
        2 => report(inner)?,
        4 => {
            let at = |at| digest(inner, at).ok_or(EvidenceError::Part("HCL report"));
            let registers = [at(528)?, at(720)?, at(768)?, at(816)?, at(864)?];
            Subject::Tdx(Box::new(registers), None)
        }
        kind => return Err(EvidenceError::Hcl(kind)),
    };
    Ok(Found {
        subject,
        paravisor: true,
    })
}

/// The HCL report in what agents of Azure's hand over.
fn azure_evidence(bytes: &[u8]) -> Option<Vec<u8>> {
    let json: Value = serde_json::from_slice(bytes).ok()?;
    let report = [&json["hcl_report"], &json["report"]]
        .into_iter()
        .find(|value| !value.is_null())?;
    match report {
        Value::String(text) => URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok(),
        Value::Array(numbers) => {
            let byte = |number: &Value| u8::try_from(number.as_u64()?).ok();
            numbers.iter().map(byte).collect()
        }
        _ => None,
    }
}

fn digest(bytes: &[u8], at: usize) -> Option<Digest<48>> {
    Some(Digest(bytes.get(at..at + 48)?.try_into().ok()?))
}
