//! What a person demands of a confidential VM in Azure, beside what `[snp]` or `[tdx]` demands of
//! its hardware.
//!
//! ```toml
//! [azure]
//! secure_boot = "required"                # or "not-required"
//! console = "refused"                     # the host's console of the VM
//! event_log = "required"                  # or "not-required"; what is there must fit
//! vm_ids = "any"                          # a GUID without its hyphens, or a list of them
//! user_data = "any"                       # what the guest put into the paravisor's report
//! pcrs = [{ register = 4, values = "…" }] # SHA-256 bank; each must be quoted; may be empty
//! ```

use serde::Deserialize;

use super::{Demand, Pin, SecureBootPolicy, Tolerance};
use crate::tpm::Register;

/// What is demanded of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AzurePolicy {
    /// Whether the firmware must enforce Secure Boot.
    pub secure_boot: SecureBootPolicy,
    /// Whether the host may have a console of the VM.
    pub console: Tolerance,
    /// Whether an event log must explain the registers.
    pub event_log: Demand,
    /// VMs.
    pub vm_ids: Pin<16>,
    /// What the guest put into the paravisor's report.
    pub user_data: Pin<64>,
    /// Registers that are pinned.
    pub pcrs: Vec<RegisterPolicy>,
}

/// A register of the SHA-256 bank.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterPolicy {
    register: u8,
    /// Values that it may have.
    pub values: Pin<32>,
}

impl RegisterPolicy {
    /// Which register.
    #[must_use]
    pub fn register(&self) -> Register {
        Register(self.register)
    }
}
