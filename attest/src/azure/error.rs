//! Why evidence of a VM in Azure was not believed.

use std::fmt;

use super::HclError;
use crate::Hex;
use crate::snp::SnpError;
use crate::tdx::TdxError;
use crate::tpm::Register;
use crate::tpm::registers::RegisterFault;
use crate::tpm::vtpm::VtpmError;

/// A claim about a VM in Azure that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AzureError {
    /// Not a paravisor's report.
    #[error("paravisor's report: {0}")]
    Hcl(#[from] HclError),
    /// Other hardware is shown than the paravisor's report is of.
    #[error("paravisor's report: of other hardware than is shown")]
    OtherHardware,
    /// The policy says nothing of this hardware.
    #[error("hardware: the policy does not accept it")]
    NoPolicy,
    /// SEV-SNP does not vouch for the runtime data.
    #[error("SEV-SNP: {0}")]
    Snp(Box<SnpError>),
    /// TDX does not vouch for the runtime data.
    #[error("TDX: {0}")]
    Tdx(Box<TdxError>),
    /// Someone else than the paravisor may have asked for the report.
    #[error("SEV-SNP: asked for at privilege level {found}, where the paravisor is at 0")]
    Vmpl {
        /// Level found.
        found: u32,
    },
    /// The virtual TPM's quote does not vouch for the registers and the nonce.
    #[error("quote: {0}")]
    Quote(#[from] VtpmError),
    /// A setting of the VM is not as the policy demands.
    #[error("{setting}: must be {} by the policy", if *.expected { "on" } else { "off" })]
    Setting {
        /// The setting.
        setting: AzureSetting,
        /// What it had to be.
        expected: bool,
    },
    /// A value that the policy does not list.
    #[error("{field}: {found} is not listed by the policy")]
    Pinned {
        /// The field.
        field: AzureField,
        /// Its value.
        found: Hex,
    },
    /// The VM's name is not a GUID.
    #[error("runtime data: the VM's id is not a GUID")]
    VmId,
    /// The registers are not what they should be.
    #[error(transparent)]
    Registers(#[from] RegisterFault),
    /// Paravisor and event log say different things of Secure Boot.
    #[error("Secure Boot: the paravisor and the event log contradict each other")]
    SecureBoot,
}

impl AzureError {
    /// Whether something is out of date.
    pub(crate) fn is_date(&self) -> bool {
        match self {
            Self::Snp(error) => error.is_date(),
            Self::Tdx(error) => error.is_date(),
            _ => false,
        }
    }

    /// Whether something is not what it says it is.
    pub(crate) fn is_forged(&self) -> bool {
        match self {
            Self::Snp(error) => error.is_forged(),
            Self::Tdx(error) => error.is_forged(),
            Self::Hcl(_) | Self::OtherHardware | Self::Quote(_) | Self::VmId | Self::SecureBoot => {
                true
            }
            Self::Registers(fault) => fault.is_forged(),
            Self::NoPolicy | Self::Vmpl { .. } | Self::Setting { .. } | Self::Pinned { .. } => {
                false
            }
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Snp(error) => error.hint(),
            Self::Tdx(error) => error.hint(),
            Self::NoPolicy => "say in a table [snp] or [tdx] which hardware you accept",
            Self::Quote(VtpmError::Nonce { .. }) => {
                "the quote was made for something else: ask for one with your own nonce"
            }
            Self::Setting { .. } => "change the VM's settings in Azure, or relax the table [azure]",
            Self::Pinned { .. } | Self::Registers(RegisterFault::Pinned { .. }) => {
                "what is pinned in [azure] is another VM or state than this"
            }
            Self::Registers(RegisterFault::NotQuoted { .. }) => {
                "ask for a quote over every register that is to be judged"
            }
            Self::Registers(RegisterFault::NoEventLog) => {
                "give the log of the firmware, or relax azure.event_log"
            }
            _ => "the evidence was altered, or put together from two machines: do not trust it",
        }
    }
}

/// A setting of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AzureSetting {
    /// There is a virtual TPM.
    Tpm,
    /// Secure Boot is on.
    SecureBoot,
    /// The host has a console.
    Console,
}

/// A value that a policy can pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AzureField {
    /// The VM.
    VmId,
    /// What the guest has put into the runtime data.
    UserData,
    /// A register.
    Register(Register),
}

impl From<SnpError> for AzureError {
    fn from(error: SnpError) -> Self {
        Self::Snp(Box::new(error))
    }
}

impl From<TdxError> for AzureError {
    fn from(error: TdxError) -> Self {
        Self::Tdx(Box::new(error))
    }
}

impl fmt::Display for AzureSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tpm => "virtual TPM",
            Self::SecureBoot => "Secure Boot",
            Self::Console => "console of the host",
        })
    }
}

impl fmt::Display for AzureField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VmId => f.write_str("VM"),
            Self::UserData => f.write_str("user data"),
            Self::Register(register) => register.fmt(f),
        }
    }
}
