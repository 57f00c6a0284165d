//! Evidence and collateral as people keep them: in PEM, DER, hexadecimal or JSON, under any name.
//!
//! ```text
//! certificates, lists    PEM (any number), DER, hexadecimal of DER, a host's table (GHCB 2.0)
//! documents of Intel     responses of its service, or all in one in the JSON form of dcap-qvl
//! report                 1,184 bytes, alone, before a host's table, or in a paravisor's (HCLA)
//! quote                  bare, with zeros behind it, or as `quote` in JSON
//! ```
//!
//! What is what is told by its content. Nothing is believed: what was sorted is verified like any
//! other evidence.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::azure::AzureHardware;
use crate::certificate;
use crate::certificate::Certificate;
use crate::crl;
use crate::gpu;
use crate::ocsp;
use crate::snp::{REPORT_BYTES, SnpEvidence};
use crate::supply::{self, SignedDocument};
use crate::tdx::{Document, Quote, TdxEvidence};
use crate::tpm::google;
use crate::{Platform, UnixTime};

mod devices;
mod generations;
mod vtpm;

pub use vtpm::{
    AzureFile, QuoteFile, azure, quote as tpm_quote, registers as tpm_registers,
    signature as tpm_signature,
};

/// Most things of one kind that are kept.
pub const MAX_ITEMS: usize = 64;
/// Longest file that is looked into.
pub const MAX_FILE_BYTES: usize = 1 << 20;
/// Most pairs of certificates that are tried for one report.
const MAX_PAIRS: usize = 32;
/// Header and the shortest body.
const LEAST_QUOTE_BYTES: usize = 48 + 384;
const BEGIN: &str = "-----BEGIN ";
const HCL_MAGIC: &[u8] = b"HCLA";
const HCL_HEAD_BYTES: usize = 32;

/// Why a file is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Longer than [`MAX_FILE_BYTES`].
    #[error("{found} bytes, {MAX_FILE_BYTES} allowed")]
    TooLarge {
        /// Length found.
        found: usize,
    },
    /// More than [`MAX_ITEMS`] of one kind.
    #[error("more than {MAX_ITEMS} certificates, lists or documents")]
    TooMany,
    /// Of no known form.
    #[error(
        "no certificate, revocation list, OCSP response, document of AMD's or Intel's, or manifest \
         of NVIDIA's"
    )]
    Unknown,
    /// No report of SEV-SNP.
    #[error("no report of SEV-SNP")]
    Report,
    /// No quote of TDX.
    #[error("no quote of TDX")]
    Quote,
    /// No quote of a TPM.
    #[error("no quote of a TPM (TPMS_ATTEST, or JSON that holds one)")]
    TpmQuote,
    /// Not the values of registers.
    #[error("not 32-byte values of the registers that the quote selects, and no print of them")]
    Registers,
    /// No report of Azure's paravisor.
    #[error("no report of Azure's paravisor (HCLA, or JSON that holds one)")]
    Paravisor,
}

/// What was found in files.
#[derive(Clone, Debug, Default)]
pub struct Files {
    certificates: Vec<Vec<u8>>,
    lists: Vec<Vec<u8>>,
    documents: Vec<(Document, SignedDocument)>,
    manifests: Vec<Vec<u8>>,
    statuses: Vec<Vec<u8>>,
}

impl Files {
    /// Takes in what a file holds.
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        let found = bytes.len();
        if found > MAX_FILE_BYTES {
            return Err(FileError::TooLarge { found });
        }
        let known = self.add_json(bytes)
            || self.add_pem(bytes)
            || self.add_der(bytes)
            || unhex(bytes).is_some_and(|bytes| self.add_der(&bytes))
            || self.add_table(bytes)
            || self.add_manifest(bytes);
        let most = [
            self.certificates.len(),
            self.lists.len(),
            self.documents.len(),
            self.manifests.len(),
            self.statuses.len(),
        ];
        let blocks = std::str::from_utf8(bytes).map(|text| text.matches(BEGIN).count());
        let too_many = |count| count > MAX_ITEMS;
        match known {
            _ if most.into_iter().chain(blocks).any(too_many) => Err(FileError::TooMany),
            true => Ok(()),
            false => Err(FileError::Unknown),
        }
    }

    fn add_json(&mut self, bytes: &[u8]) -> bool {
        if let Some(found) = supply::read_response(bytes) {
            self.documents.push(found);
            return true;
        }
        match serde_json::from_slice::<Recorded>(bytes) {
            Ok(recorded) => self.add_recorded(&recorded).is_some(),
            Err(_) => false,
        }
    }

    fn add_recorded(&mut self, recorded: &Recorded) -> Option<()> {
        for (kind, bytes, signature) in [
            (
                Document::TcbInfo,
                &recorded.tcb_info,
                &recorded.tcb_info_signature,
            ),
            (
                Document::EnclaveIdentity,
                &recorded.qe_identity,
                &recorded.qe_identity_signature,
            ),
        ] {
            let document = SignedDocument {
                bytes: bytes.as_bytes().to_vec(),
                signature: hex::decode(signature).ok()?,
                signer: Vec::new(),
            };
            self.documents.push((kind, document));
        }
        for list in [&recorded.root_ca_crl, &recorded.pck_crl] {
            self.lists.push(hex::decode(list).ok()?);
        }
        let chain = recorded.tcb_info_issuer_chain.as_bytes();
        self.add_pem(chain).then_some(())
    }

    fn add_pem(&mut self, bytes: &[u8]) -> bool {
        let Some(blocks) = std::str::from_utf8(bytes).ok().and_then(blocks) else {
            return false;
        };
        !blocks.is_empty() && blocks.iter().all(|(_, der)| self.add_der(der))
    }

    fn add_der(&mut self, der: &[u8]) -> bool {
        if certificate::decode(der).is_ok() {
            keep(&mut self.certificates, der);
            return true;
        }
        if crl::decode(der).is_ok() {
            keep(&mut self.lists, der);
            return true;
        }
        let is_status = ocsp::Response::parse(der).is_ok();
        if is_status {
            keep(&mut self.statuses, der);
        }
        is_status
    }

    fn add_table(&mut self, bytes: &[u8]) -> bool {
        let Ok(given) = SnpEvidence::from_table(Vec::new(), bytes) else {
            return false;
        };
        let all = [given.certificates, given.revocation_lists].concat();
        all.iter().all(|der| self.add_der(der))
    }

    /// By the name of its first element: what follows is read when it is verified.
    fn add_manifest(&mut self, bytes: &[u8]) -> bool {
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        let is_one = text.trim_start().starts_with('<') && text.contains("SoftwareIdentity");
        if is_one && bytes.len() <= gpu::MAX_MANIFEST_BYTES {
            keep(&mut self.manifests, bytes);
        }
        is_one && bytes.len() <= gpu::MAX_MANIFEST_BYTES
    }

    /// The chain of a TPM's key, leaf first: of those certificates that certify a key of Google's
    /// cloud, and the ones above them.
    #[must_use]
    pub fn with_quote(&self) -> Vec<Vec<Vec<u8>>> {
        let decoded = self.certificates.iter().filter_map(|der| {
            let certificate = certificate::decode(der).ok()?;
            Some((der, certificate))
        });
        let decoded: Vec<(&Vec<u8>, Certificate)> = decoded.collect();
        let mut chains = Vec::new();
        for (der, leaf) in decoded.iter().filter(|(_, one)| google::is_instance(one)) {
            let above = leaf.tbs_certificate().issuer();
            let mut alone = true;
            for (issuer, one) in &decoded {
                let tbs = one.tbs_certificate();
                if tbs.subject() == above && tbs.issuer() != above && chains.len() < MAX_PAIRS {
                    chains.push(vec![der.to_vec(), issuer.to_vec()]);
                    alone = false;
                }
            }
            if alone && chains.len() < MAX_PAIRS {
                chains.push(vec![der.to_vec()]);
            }
        }
        chains
    }

    /// Adds what a machine did not show, for a judgement at `time`; takes nothing of what it did
    /// show.
    pub fn supplement(&self, platform: &mut Platform, time: UnixTime) {
        match platform {
            Platform::Snp(shown) => {
                let report = shown.report.clone();
                self.supplement_snp(&report, shown, time);
            }
            Platform::Tdx(shown) => self.supplement_tdx(shown, time),
            Platform::Azure(machine) => match &mut machine.hardware {
                AzureHardware::Snp(shown) => {
                    if let Ok((report, _)) = report(&machine.hcl_report) {
                        self.supplement_snp(&report, shown, time);
                    }
                }
                AzureHardware::Tdx(shown) => self.supplement_tdx(shown, time),
            },
            Platform::Tpm(_) | Platform::Google(_) => {}
        }
    }

    fn supplement_snp(&self, report: &[u8], shown: &mut SnpEvidence, time: UnixTime) {
        let own = self.with_report(report, time).into_iter().next();
        let own = own.unwrap_or_default();
        if shown.certificates.is_empty() {
            shown.certificates = own.certificates;
        }
        if shown.revocation_lists.is_empty() {
            let above = shown.certificates.last();
            let above = above.and_then(|der| certificate::decode(der).ok());
            shown.revocation_lists = above.map_or_else(Vec::new, |above| {
                self.lists_by(above.tbs_certificate().issuer(), time)
            });
        }
    }

    fn supplement_tdx(&self, shown: &mut TdxEvidence, time: UnixTime) {
        if shown.collateral.tcb_info.is_empty() {
            shown.collateral = self.for_quote(&shown.quote, time);
        }
    }
}

/// In the form of dcap-qvl; other fields say nothing that is not in these.
#[derive(Deserialize)]
struct Recorded {
    tcb_info: String,
    tcb_info_signature: String,
    tcb_info_issuer_chain: String,
    qe_identity: String,
    qe_identity_signature: String,
    root_ca_crl: String,
    pck_crl: String,
}

/// A report of SEV-SNP, and what stands behind it: nothing, or a host's table.
pub fn report(bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>), FileError> {
    let bytes = plain(bytes);
    let report = match bytes.strip_prefix(HCL_MAGIC) {
        Some(_) => bytes.get(HCL_HEAD_BYTES..HCL_HEAD_BYTES + REPORT_BYTES),
        None => bytes.get(..REPORT_BYTES),
    };
    let report = report.ok_or(FileError::Report)?;
    let table = match bytes.starts_with(HCL_MAGIC) {
        true => &[],
        false => bytes.get(REPORT_BYTES..).unwrap_or_default(),
    };
    match report {
        // Of whatever version: which are known says who verifies it.
        [1..=255, 0, 0, 0, ..] => Ok((report.to_vec(), table.to_vec())),
        _ => Err(FileError::Report),
    }
}

/// A report of a GPU or a switch, bare or in hexadecimal; one zero may stand behind it.
#[must_use]
pub fn device_report(bytes: &[u8]) -> Option<Vec<u8>> {
    let bytes = plain(bytes);
    let shorter = bytes.strip_suffix(&[0]).unwrap_or(&bytes);
    let mut forms = [bytes.as_slice(), shorter].into_iter();
    let report = forms.find(|form| gpu::Report::parse(form).is_ok());
    report.map(<[u8]>::to_vec)
}

/// A quote of TDX, without what pads it.
pub fn quote(bytes: &[u8]) -> Result<Vec<u8>, FileError> {
    #[derive(Deserialize)]
    struct Holder {
        quote: String,
    }
    let holder = serde_json::from_slice::<Holder>(bytes);
    let bytes = match &holder {
        Ok(holder) => holder.quote.as_bytes(),
        Err(_) => bytes,
    };
    let bytes = plain(bytes);
    let quote = Quote::unpadded(&bytes);
    match quote {
        // Of whatever version and key: which are known says who verifies it.
        [1..=255, 0, _, 0, _, 0, 0, 0, ..] if quote.len() >= LEAST_QUOTE_BYTES => {
            Ok(quote.to_vec())
        }
        _ => Err(FileError::Quote),
    }
}

/// Out of hexadecimal or a PEM block, where that is what it is.
fn plain(bytes: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(bytes).ok();
    let block = text.and_then(blocks).and_then(|blocks| {
        let mut blocks = blocks.into_iter();
        blocks.next().map(|(_, content)| content)
    });
    block
        .or_else(|| unhex(bytes))
        .unwrap_or_else(|| bytes.to_vec())
}

fn unhex(bytes: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(bytes).ok()?.trim_ascii();
    hex::decode(text.strip_prefix("0x").unwrap_or(text)).ok()
}

/// Label and content of every block of PEM (RFC 7468), whatever stands between them.
fn blocks(text: &str) -> Option<Vec<(&str, Vec<u8>)>> {
    let mut blocks = Vec::new();
    for part in text.split(BEGIN).skip(1) {
        let (label, rest) = part.split_once("-----")?;
        let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
        let body: String = body.split_ascii_whitespace().collect();
        blocks.push((label, STANDARD.decode(body).ok()?));
        if blocks.len() > MAX_ITEMS {
            return None;
        }
    }
    Some(blocks)
}

fn keep(all: &mut Vec<Vec<u8>>, der: &[u8]) {
    if !all.iter().any(|one| one == der) {
        all.push(der.to_vec());
    }
}
