//! Where evidence comes from: made by a TPM, or by a confidential platform through the kernel, and
//! by GPUs through their driver, for one handshake or one nonce.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use attest::azure::HclError;
use attest::configuration::Proxy;
use attest::eventlog::{EventLog, EventLogError};
use attest::evidence::MAX_EVIDENCE_BYTES;
use attest::gpu::GpuEvidence;
use attest::snp::{REPORT_BYTES, SnpEvidence, TableError};
use attest::supply::{self, Item, Request};
use attest::tdx::{Quote as TdxQuote, TdxEvidence};
use attest::{Binding, Digest, Evidence, Platform, ReportData, evidence};
use tokio::sync::Mutex;

use device::{Device, MAX_QUOTES};
use nvml::{Gpus, NvmlError};
use tpm::TpmError;
use tsm::{Provider, Report, Tsm, TsmError};

use crate::collateral::{CollateralError, Stock};

pub use device::Owner;

mod device;
pub mod nvml;
pub mod rtmr;
pub mod tpm;
pub mod tsm;

/// Why there is no evidence.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// The TPM gave no answer.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The machine was never provisioned, or its certificate cannot be one.
    #[error("the attestation key's certificate in NV memory has {0} bytes")]
    Certificate(usize),
    /// The paravisor's report is none.
    #[error("the paravisor's report in NV memory is none")]
    Paravisor(#[from] HclError),
    /// The paravisor stands on other hardware than the configuration names.
    #[error("the paravisor's report is not of SEV-SNP")]
    Hardware,
    /// The paravisor does not make its report anew.
    #[error("the paravisor does not make its report anew")]
    NotRefreshed,
    /// No randomness.
    #[error("no randomness for the paravisor's report")]
    Random,
    /// The GPUs gave no report.
    #[error(transparent)]
    Gpu(#[from] NvmlError),
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
    gpus: Option<Arc<std::sync::Mutex<Gpus>>>,
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
        Self::open_as(Owner::Own, path, constants)
    }

    /// The same of a TPM of somebody else's making.
    pub fn open_as(
        owner: Owner,
        path: PathBuf,
        constants: Constants,
    ) -> Result<Self, EvidenceError> {
        let mut device = Device::new(owner, path);
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
            gpus: None,
            constants: Arc::new(constants),
        }
    }

    /// The same, with what these GPUs say.
    #[must_use]
    pub fn with_gpus(mut self, gpus: Option<Gpus>) -> Self {
        self.gpus = gpus.map(|gpus| Arc::new(std::sync::Mutex::new(gpus)));
        self
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

    /// Evidence bound to `binding` and to what the GPUs say for it, encoded.
    pub async fn make(&self, binding: &Binding) -> Result<Vec<u8>, EvidenceError> {
        self.make_bound(binding).await.map(|(_, evidence)| evidence)
    }

    /// The same, with all that it is bound to. Waits its turn; dropped while it waits, it costs the
    /// platform nothing.
    pub async fn make_bound(&self, binding: &Binding) -> Result<(Binding, Vec<u8>), EvidenceError> {
        let mut source = self.source.clone().lock_owned().await;
        let (constants, gpus, binding) = (self.constants.clone(), self.gpus.clone(), *binding);
        let made = tokio::task::spawn_blocking(move || {
            let mut gpu = GpuEvidence::default();
            if let Some(gpus) = gpus {
                let gpus = gpus.lock().unwrap_or_else(PoisonError::into_inner);
                gpu.devices = gpus.devices(&binding.gpu_nonce())?;
            }
            let binding = binding.with_gpu_digest(evidence::devices_digest(&gpu.devices));
            let platform = source.platform(&ReportData::compute(&binding), &constants)?;
            Ok::<_, EvidenceError>((binding, gpu, platform))
        });
        let (binding, gpu, platform) = made.await.map_err(|_| EvidenceError::Stopped)??;
        let evidence = Evidence {
            gpu,
            platform,
            configuration: self.constants.configuration.clone(),
            release: self.constants.release.clone(),
        };
        let bytes = evidence.encode();
        if bytes.len() > MAX_EVIDENCE_BYTES {
            return Err(EvidenceError::TooLarge(bytes.len()));
        }
        Ok((binding, bytes))
    }
}

impl Source {
    fn wanted(&mut self) -> Result<Vec<Request>, CollateralError> {
        let tsm = match self {
            Self::Tsm(tsm) => tsm,
            Self::Tpm(device) => return device.wanted(),
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
            Self::Tpm(device) => device.platform(data, constants),
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
