//! Evidence of a confidential VM in Azure: a paravisor (HCL) stands between hardware and guest,
//! holds the guest's virtual TPM, and asks the hardware to vouch for that TPM's key.
//!
//! ```text
//! hardware ──report for SHA-256──▶ runtime data { HCLAkPub, Secure Boot, … }
//!                   key of the virtual TPM ◀──┘ ──quote──▶ nonce, PCRs ◀── event log
//! ```
//!
//! The report that the paravisor keeps (NV index 0x01400001; little-endian):
//!
//! ```text
//! 0      "HCLA" ‖ version 4 (1, 2) ‖ size 4 ‖ request 4 ‖ status 4 ‖ 12
//! 32     report of SEV-SNP (1,184), or of TDX (1,024 and zeros)
//! 1216   size 4 ‖ version 4 = 1 ‖ kind 4 (2 SNP, 4 TDX) ‖ hash 4 (1 SHA-256) ‖ length 4 ‖ JSON
//!        ‖ zeros
//! ```
//!
//! What the hardware measured is the paravisor and the firmware, which are Microsoft's and not
//! published: what the guest runs, the registers of the virtual TPM alone say. With TDX the report
//! is signed only by the machine itself, so that a quote of it is needed, which Azure makes.

use serde::Deserialize;

use crate::snp::SnpEvidence;
use crate::tdx::TdxEvidence;
use crate::tpm::TpmEvidence;
use crate::tpm::vtpm::VtpmQuote;

mod error;
mod report;
mod verify;

pub use error::{AzureError, AzureField, AzureSetting};
pub use report::{HclError, HclReport, MAX_HCL_BYTES};
pub(crate) use verify::appraise;
pub use verify::{Endorsed, VerifiedVm, verify, verify_hardware};

/// What a confidential VM in Azure gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzureEvidence {
    /// What the paravisor keeps in the virtual TPM.
    pub hcl_report: Vec<u8>,
    /// What vouches for it.
    pub hardware: AzureHardware,
    /// The virtual TPM's quote.
    pub quote: VtpmQuote,
    /// The firmware's log of what it measured; may be empty.
    pub event_log: Vec<u8>,
}

/// What a confidential VM in Azure gives that runs a release of ours: the virtual TPM quotes as any
/// other TPM does, [`QUOTED`](crate::tpm::QUOTED) registers of the SHA-384 bank for
/// [`qualifying_data`](crate::ReportData::qualifying_data), but that its key is RSA, signs by
/// RSASSA-PKCS1-v1_5 with SHA-256, and is certified by the hardware instead of by certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzureMachine {
    /// What the paravisor keeps in the virtual TPM.
    pub hcl_report: Vec<u8>,
    /// What vouches for it. Of SEV-SNP without the report, which stands in the paravisor's; of TDX
    /// without an event log, as no register of the domain holds anything.
    pub hardware: AzureHardware,
    /// Quote, registers and event log; no certificates.
    pub tpm: TpmEvidence,
}

/// What vouches for the paravisor's report.
#[allow(
    clippy::large_enum_variant,
    reason = "there is one at a time, and it is not copied about"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AzureHardware {
    /// SEV-SNP: certificates and revocation lists; the report itself stands in the paravisor's.
    Snp(SnpEvidence),
    /// TDX: a quote, with Intel's collateral.
    Tdx(TdxEvidence),
}

/// What the hardware is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AzureKind {
    /// SEV-SNP.
    Snp,
    /// TDX.
    Tdx,
}

/// What the paravisor says of the VM, once the hardware has vouched for it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct VmConfiguration {
    /// Whether the host has a console of the VM.
    #[serde(rename = "console-enabled")]
    pub console: bool,
    /// Whether Secure Boot is on.
    #[serde(rename = "secure-boot")]
    pub secure_boot: bool,
    /// Whether there is a virtual TPM.
    #[serde(rename = "tpm-enabled")]
    pub tpm: bool,
    /// The VM, as a GUID.
    #[serde(rename = "vmUniqueId")]
    pub vm_id: String,
}
