//! A TPM as a source: our own, or one that a cloud gives a VM.
//!
//! ```text
//!          key                                    vouched for by
//! own      fixed template, P-384                  certificate in NV 0x01c10102, from provisioning
//! Google   template in NV 0x01c10001              certificate in NV 0x01c10000, by Google
//! Azure    0x81000003, made by the paravisor      report of the hardware in NV 0x01400001
//! ```
//!
//! A cloud's key is RSA: it signs by RSASSA-PKCS1-v1_5 with SHA-256, so that the digest of the
//! quoted registers is one of SHA-256, though they are those of the SHA-384 bank. Azure's paravisor
//! has its report made anew after 64 bytes are written to NV 0x01400002, and shows them in it: that
//! is done at the start and then once an hour, with random bytes. What is fresh in each piece of
//! evidence is the quote.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use attest::azure::{AzureHardware, AzureKind, AzureMachine, HclReport};
use attest::snp::SnpEvidence;
use attest::supply::{self, Request};
use attest::tpm::{MAX_CERTIFICATE_BYTES, QUOTED, TpmEvidence};
use attest::{Digest, Platform, ReportData};
use sha2::{Digest as _, Sha256, Sha384};

use super::tpm::{
    AK_CERTIFICATE_INDEX, Bank, ENDORSEMENT, KeyHandle, OWNER, Quote, Selection, Tpm, Transport,
};
use super::{Constants, EvidenceError};
use crate::collateral::CollateralError;

/// Attempts to quote registers that nobody extends in between.
pub(super) const MAX_QUOTES: u32 = 5;

const GOOGLE_CERTIFICATE_INDEX: u32 = 0x01C1_0000;
const GOOGLE_TEMPLATE_INDEX: u32 = 0x01C1_0001;
const AZURE_KEY: u32 = 0x8100_0003;
const AZURE_REPORT_INDEX: u32 = 0x0140_0001;
const AZURE_USER_DATA_INDEX: u32 = 0x0140_0002;

/// How old Azure's report may become.
const REPORT_AGE: Duration = Duration::from_secs(60 * 60);
/// Readings of Azure's report before giving up, and the pause between two.
const REPORT_READINGS: u32 = 50;
const REPORT_PAUSE: Duration = Duration::from_millis(100);

/// Who made the TPM and vouches for its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Whoever provisioned the machine.
    Own,
    /// Google's cloud.
    Google,
    /// The paravisor of a VM in Azure on SEV-SNP.
    Azure,
}

/// A TPM that is opened anew after its transport failed.
#[derive(Debug)]
pub(super) struct Device {
    owner: Owner,
    path: PathBuf,
    session: Option<Session>,
}

#[derive(Debug)]
pub(super) struct Session {
    owner: Owner,
    tpm: Tpm<Transport>,
    key: KeyHandle,
    certificates: Vec<Vec<u8>>,
    paravisor: Option<Paravisor>,
}

/// A report of Azure's paravisor.
#[derive(Debug)]
struct Paravisor {
    report: Vec<u8>,
    made: Instant,
}

struct Quoted {
    quote: Quote,
    registers: [Digest<48>; QUOTED.len()],
}

impl Device {
    pub(super) fn new(owner: Owner, path: PathBuf) -> Self {
        Self {
            owner,
            path,
            session: None,
        }
    }

    pub(super) fn session(&mut self) -> Result<&mut Session, EvidenceError> {
        if self.session.is_none() {
            let tpm = Tpm::open(&self.path)?;
            self.session = Some(Session::begin(self.owner, tpm)?);
        }
        self.session.as_mut().ok_or(EvidenceError::Stopped)
    }

    /// What is signed for `data`, with what vouches for the key.
    pub(super) fn platform(
        &mut self,
        data: &ReportData,
        constants: &Constants,
    ) -> Result<Platform, EvidenceError> {
        let owner = self.owner;
        let made = self.session()?.evidence(data, constants);
        if matches!(made, Err(EvidenceError::Tpm(_))) {
            // What the next answer belongs to is unknown, or the key is gone.
            self.session = None;
        }
        let (tpm, hcl_report) = made?;
        Ok(match owner {
            Owner::Own => Platform::Tpm(tpm),
            Owner::Google => Platform::Google(tpm),
            Owner::Azure => Platform::Azure(AzureMachine {
                hcl_report,
                hardware: AzureHardware::Snp(SnpEvidence {
                    report: Vec::new(),
                    certificates: constants.stock.amd_certificates(),
                    revocation_lists: constants.stock.amd_list().into_iter().collect(),
                }),
                tpm,
            }),
        })
    }

    /// What AMD is to be asked for, of a VM in Azure.
    pub(super) fn wanted(&mut self) -> Result<Vec<Request>, CollateralError> {
        if self.owner != Owner::Azure {
            return Ok(Vec::new());
        }
        let report = self.session()?.paravisor()?;
        let hardware = HclReport::parse(report).map_err(EvidenceError::from)?;
        Ok(supply::for_report(hardware.hardware)?)
    }
}

impl Session {
    fn begin(owner: Owner, mut tpm: Tpm<Transport>) -> Result<Self, EvidenceError> {
        let (key, certificates) = match owner {
            Owner::Own => {
                let certificate = certificate(tpm.nv_read(AK_CERTIFICATE_INDEX)?)?;
                (tpm.create_attestation_key()?.handle, vec![certificate])
            }
            Owner::Google => {
                let certificate = tpm.nv_read_as(OWNER, GOOGLE_CERTIFICATE_INDEX)?;
                let certificate = self::certificate(certificate)?;
                let template = tpm.nv_read_as(OWNER, GOOGLE_TEMPLATE_INDEX)?;
                let key = tpm.create_primary(ENDORSEMENT, &template)?;
                (key.handle, vec![certificate])
            }
            Owner::Azure => (KeyHandle::persistent(AZURE_KEY), Vec::new()),
        };
        let mut session = Self {
            owner,
            tpm,
            key,
            certificates,
            paravisor: None,
        };
        if owner == Owner::Azure {
            session.paravisor()?;
        }
        Ok(session)
    }

    /// Quote, registers, log and certificates; of Azure, the paravisor's report as well.
    fn evidence(
        &mut self,
        data: &ReportData,
        constants: &Constants,
    ) -> Result<(TpmEvidence, Vec<u8>), EvidenceError> {
        let report = match self.owner {
            Owner::Azure => self.paravisor()?.to_vec(),
            Owner::Own | Owner::Google => Vec::new(),
        };
        let quoted = self.quote(&data.qualifying_data())?;
        let tpm = TpmEvidence {
            attest: quoted.quote.attest,
            signature: quoted.quote.signature,
            registers: quoted.registers,
            event_log: constants.event_log.clone(),
            certificates: self.certificates.clone(),
        };
        Ok((tpm, report))
    }

    /// The paravisor's report, made anew where it is old.
    fn paravisor(&mut self) -> Result<&[u8], EvidenceError> {
        let fresh = |kept: &Paravisor| kept.made.elapsed() < REPORT_AGE;
        let kept = match self.paravisor.take().filter(fresh) {
            Some(kept) => kept,
            None => Paravisor {
                report: refresh(&mut self.tpm)?,
                made: Instant::now(),
            },
        };
        Ok(&self.paravisor.insert(kept).report)
    }

    /// A quote and the values that it covers.
    fn quote(&mut self, qualifying_data: &[u8]) -> Result<Quoted, EvidenceError> {
        let selection = Selection::new(Bank::Sha384, &QUOTED);
        for _ in 0..MAX_QUOTES {
            let values = self.tpm.pcr_read(selection)?;
            let quote = self.tpm.quote(&self.key, qualifying_data, selection)?;
            let digest = match self.owner {
                Owner::Own => Sha384::digest(values.concat()).to_vec(),
                Owner::Google | Owner::Azure => Sha256::digest(values.concat()).to_vec(),
            };
            if *quote.pcr_digest()? != digest[..] {
                continue; // extended in between
            }
            let mut registers = [Digest::ZERO; QUOTED.len()];
            for (register, value) in registers.iter_mut().zip(&values) {
                register.0.copy_from_slice(value);
            }
            return Ok(Quoted { quote, registers });
        }
        Err(EvidenceError::Unstable)
    }
}

/// Has the paravisor make its report anew, and waits until it shows what was written.
fn refresh(tpm: &mut Tpm<Transport>) -> Result<Vec<u8>, EvidenceError> {
    let mut data = [0; 64];
    getrandom::fill(&mut data).map_err(|_| EvidenceError::Random)?;
    tpm.nv_put(AZURE_USER_DATA_INDEX, &data)?;
    for reading in 0..REPORT_READINGS {
        if reading > 0 {
            std::thread::sleep(REPORT_PAUSE);
        }
        let report = tpm.nv_read_as(OWNER, AZURE_REPORT_INDEX)?;
        let parsed = HclReport::parse(&report)?;
        if parsed.kind != AzureKind::Snp {
            return Err(EvidenceError::Hardware);
        }
        if parsed.user_data == Digest(data) {
            return Ok(report);
        }
    }
    Err(EvidenceError::NotRefreshed)
}

fn certificate(content: Vec<u8>) -> Result<Vec<u8>, EvidenceError> {
    match (1..=MAX_CERTIFICATE_BYTES).contains(&content.len()) {
        true => Ok(content),
        false => Err(EvidenceError::Certificate(content.len())),
    }
}
