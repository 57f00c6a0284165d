//! Where evidence comes from: made by a TPM, or by a confidential platform through the kernel, for
//! one handshake or one nonce.

use std::path::PathBuf;
use std::sync::Arc;

use attest::configuration::Proxy;
use attest::eventlog::{EventLog, EventLogError};
use attest::evidence::MAX_EVIDENCE_BYTES;
use attest::snp::{REPORT_BYTES, SnpEvidence, TableError};
use attest::supply::{self, Item, Request};
use attest::tdx::{Quote as TdxQuote, TdxEvidence};
use attest::tpm::{MAX_CERTIFICATE_BYTES, QUOTED, TpmEvidence};
use attest::{Binding, Digest, Evidence, Platform, ReportData};
use sha2::{Digest as _, Sha384};
use tokio::sync::Mutex;

use tpm::{AK_CERTIFICATE_INDEX, Bank, KeyHandle, Quote, Selection, Tpm, TpmError, Transport};
use tsm::{Provider, Report, Tsm, TsmError};

use crate::collateral::{CollateralError, Stock};

pub mod tpm;
pub mod tsm;

/// Attempts to quote registers that nobody extends in between.
const MAX_QUOTES: u32 = 5;

/// Why there is no evidence.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// The TPM gave no answer.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The machine was never provisioned, or its certificate cannot be one.
    #[error("the attestation key's certificate in NV memory has {0} bytes")]
    Certificate(usize),
    /// The kernel gave no report.
    #[error(transparent)]
    Tsm(#[from] TsmError),
    /// Not a report of SEV-SNP.
    #[error("the report of SEV-SNP has {0} bytes, {REPORT_BYTES} expected")]
    Report(usize),
    /// The host gives no certificates with the report.
    #[error("the host gives no certificates of the key that signs reports")]
    Table(#[from] TableError),
    /// The firmware's log is none.
    #[error("the firmware's event log (CCEL) is not one")]
    EventLog(#[from] EventLogError),
    /// Something extends registers again and again.
    #[error("the registers changed during each of {MAX_QUOTES} quotes")]
    Unstable,
    /// Nobody would accept that much.
    #[error("the evidence has {0} bytes, more than {MAX_EVIDENCE_BYTES}")]
    TooLarge(usize),
    /// The process is about to end.
    #[error("the evidence source has stopped")]
    Stopped,
}

/// What does not change from one piece of evidence to the next.
#[derive(Debug, Clone, Default)]
pub struct Constants {
    /// The configuration file's bytes.
    pub configuration: Vec<u8>,
    /// The firmware's event log.
    pub event_log: Vec<u8>,
    /// The release bundle, or nothing.
    pub release: Vec<u8>,
    /// Who asks AMD or Intel.
    pub proxy: Proxy,
    /// What they answered; it changes by itself.
    pub stock: Stock,
}

/// Makes evidence, one piece at a time: TPM and platform do one thing after another.
#[derive(Debug, Clone)]
pub struct Attester {
    source: Arc<Mutex<Source>>,
    constants: Arc<Constants>,
}

/// What signs.
#[derive(Debug)]
enum Source {
    Tpm(Device),
    Tsm(Tsm),
}

impl Attester {
    /// Makes the attestation key and reads its certificate.
    pub fn open(path: PathBuf, constants: Constants) -> Result<Self, EvidenceError> {
        let mut device = Device {
            path,
            session: None,
        };
        device.session()?;
        Ok(Self::new(Source::Tpm(device), constants))
    }

    /// Asks the kernel for a first report, so that a machine which cannot give any does not start.
    pub fn open_tsm(mut tsm: Tsm, mut constants: Constants) -> Result<Self, EvidenceError> {
        if tsm.provider() == Provider::TdxGuest {
            let written = EventLog::unpadded(&constants.event_log)?.len();
            constants.event_log.truncate(written);
        }
        platform_of(&mut tsm, &[0; 64], &constants)?;
        Ok(Self::new(Source::Tsm(tsm), constants))
    }

    fn new(source: Source, constants: Constants) -> Self {
        Self {
            source: Arc::new(Mutex::new(source)),
            constants: Arc::new(constants),
        }
    }

    /// SHA-256 of the configuration.
    pub fn configuration_digest(&self) -> [u8; 32] {
        Digest::sha256(&self.constants.configuration).0
    }

    /// The release bundle, which may be empty.
    pub fn release(&self) -> &[u8] {
        &self.constants.release
    }

    /// What AMD or Intel is to be asked for: what the host does not hand over by itself.
    pub async fn wanted(&self) -> Result<Vec<Request>, CollateralError> {
        let mut source = self.source.clone().lock_owned().await;
        let wanted = tokio::task::spawn_blocking(move || source.wanted());
        wanted.await.map_err(|_| EvidenceError::Stopped)?
    }

    /// What AMD or Intel answered.
    pub(crate) fn stock(&self) -> &Stock {
        &self.constants.stock
    }

    /// Evidence bound to `binding`, encoded. Waits its turn; dropped while it waits, it costs
    /// the platform nothing.
    pub async fn make(&self, binding: &Binding) -> Result<Vec<u8>, EvidenceError> {
        let data = ReportData::compute(binding);
        let mut source = self.source.clone().lock_owned().await;
        let constants = self.constants.clone();
        let platform = tokio::task::spawn_blocking(move || source.platform(&data, &constants));
        let evidence = Evidence {
            gpu: attest::gpu::GpuEvidence::default(),
            platform: platform.await.map_err(|_| EvidenceError::Stopped)??,
            configuration: self.constants.configuration.clone(),
            release: self.constants.release.clone(),
        };
        let bytes = evidence.encode();
        if bytes.len() > MAX_EVIDENCE_BYTES {
            return Err(EvidenceError::TooLarge(bytes.len()));
        }
        Ok(bytes)
    }
}

impl Source {
    fn wanted(&mut self) -> Result<Vec<Request>, CollateralError> {
        let Self::Tsm(tsm) = self else {
            return Ok(Vec::new());
        };
        let report = tsm.report(&[0; 64]).map_err(EvidenceError::from)?;
        if tsm.provider() == Provider::TdxGuest {
            return Ok(supply::for_quote(TdxQuote::unpadded(&report.outblob))?);
        }
        let mut requests = supply::for_report(&report.outblob)?;
        if let Ok(given) = SnpEvidence::from_table(report.outblob, &report.auxblob) {
            let lacks_list = given.revocation_lists.is_empty();
            requests.retain(|request| request.item == Item::AmdList && lacks_list);
        }
        Ok(requests)
    }

    fn platform(
        &mut self,
        data: &ReportData,
        constants: &Constants,
    ) -> Result<Platform, EvidenceError> {
        match self {
            Self::Tpm(device) => {
                let quoted = device.quote(&data.qualifying_data())?;
                Ok(Platform::Tpm(TpmEvidence {
                    attest: quoted.quote.attest,
                    signature: quoted.quote.signature,
                    registers: quoted.registers,
                    event_log: constants.event_log.clone(),
                    certificates: vec![quoted.certificate],
                }))
            }
            Self::Tsm(tsm) => platform_of(tsm, data.as_bytes(), constants),
        }
    }
}

fn platform_of(
    tsm: &mut Tsm,
    data: &[u8; 64],
    constants: &Constants,
) -> Result<Platform, EvidenceError> {
    let report = tsm.report(data)?;
    match tsm.provider() {
        Provider::SevGuest if report.outblob.len() != REPORT_BYTES => {
            Err(EvidenceError::Report(report.outblob.len()))
        }
        Provider::SevGuest => Ok(Platform::Snp(snp_of(report, constants)?)),
        Provider::TdxGuest => Ok(Platform::Tdx(TdxEvidence {
            quote: TdxQuote::unpadded(&report.outblob).to_vec(),
            event_log: constants.event_log.clone(),
            collateral: constants.stock.intel(),
        })),
    }
}

/// What the host hands over comes first. Where it hands nothing over, and a proxy is configured,
/// the evidence says what is at hand: a client can bring the rest.
fn snp_of(report: Report, constants: &Constants) -> Result<SnpEvidence, EvidenceError> {
    let stock = &constants.stock;
    let given = SnpEvidence::from_table(report.outblob.clone(), &report.auxblob);
    let mut evidence = match (given, constants.proxy) {
        (Ok(given), _) => given,
        (Err(error), Proxy::None) => return Err(error.into()),
        (Err(_), Proxy::Http(_)) => SnpEvidence {
            report: report.outblob,
            certificates: stock.amd_certificates(),
            revocation_lists: Vec::new(),
        },
    };
    if evidence.revocation_lists.is_empty() {
        evidence.revocation_lists.extend(stock.amd_list());
    }
    Ok(evidence)
}

struct Quoted {
    quote: Quote,
    registers: [Digest<48>; QUOTED.len()],
    certificate: Vec<u8>,
}

/// A TPM that is opened anew after its transport failed.
#[derive(Debug)]
struct Device {
    path: PathBuf,
    session: Option<Session>,
}

#[derive(Debug)]
struct Session {
    tpm: Tpm<Transport>,
    key: KeyHandle,
    certificate: Vec<u8>,
}

impl Device {
    fn session(&mut self) -> Result<&mut Session, EvidenceError> {
        if self.session.is_none() {
            let mut tpm = Tpm::open(&self.path)?;
            let certificate = tpm.nv_read(AK_CERTIFICATE_INDEX)?;
            if !(1..=MAX_CERTIFICATE_BYTES).contains(&certificate.len()) {
                return Err(EvidenceError::Certificate(certificate.len()));
            }
            let key = tpm.create_attestation_key()?.handle;
            self.session = Some(Session {
                tpm,
                key,
                certificate,
            });
        }
        self.session.as_mut().ok_or(EvidenceError::Stopped)
    }

    fn quote(&mut self, qualifying_data: &[u8]) -> Result<Quoted, EvidenceError> {
        let quoted = self.session()?.quote(qualifying_data);
        if matches!(quoted, Err(EvidenceError::Tpm(_))) {
            // What the next answer belongs to is unknown, or the key is gone.
            self.session = None;
        }
        quoted
    }
}

impl Session {
    /// A quote and the values that it covers.
    fn quote(&mut self, qualifying_data: &[u8]) -> Result<Quoted, EvidenceError> {
        let selection = Selection::new(Bank::Sha384, &QUOTED);
        for _ in 0..MAX_QUOTES {
            let values = self.tpm.pcr_read(selection)?;
            let quote = self.tpm.quote(&self.key, qualifying_data, selection)?;
            if *quote.pcr_digest()? != Sha384::digest(values.concat())[..] {
                continue; // extended in between
            }
            let mut registers = [Digest::ZERO; QUOTED.len()];
            for (register, value) in registers.iter_mut().zip(&values) {
                register.0.copy_from_slice(value);
            }
            return Ok(Quoted {
                quote,
                registers,
                certificate: self.certificate.clone(),
            });
        }
        Err(EvidenceError::Unstable)
    }
}
