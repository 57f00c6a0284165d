//! Evidence by a TPM 2.0: a quote over the registers, the event log that explains them, and the
//! certificate of the key that signed.

use std::fmt;

use crate::Digest;

mod appraise;
pub mod chain;
pub mod google;
pub mod quote;
pub mod vtpm;

pub(crate) use appraise::{appraise, appraise_google, appraise_virtual};

/// Registers that are quoted, in the SHA-384 bank. Register 10 belongs to the kernel's integrity
/// measurement architecture, which goes on extending it while the machine runs.
pub const QUOTED: [u8; 15] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15];

/// Longest TPMS_ATTEST or TPMT_SIGNATURE.
pub const MAX_STRUCTURE_BYTES: usize = 2048;
/// Longest certificate.
pub const MAX_CERTIFICATE_BYTES: usize = 4096;
/// Most certificates in a chain, without the root.
pub const MAX_CERTIFICATES: usize = 4;

/// What a TPM platform gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TpmEvidence {
    /// TPMS_ATTEST: what the TPM signed.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// Values of the [`QUOTED`] registers, in that order.
    pub registers: [Digest<48>; QUOTED.len()],
    /// The firmware's log of what it measured.
    pub event_log: Vec<u8>,
    /// Certificates of the key that signed, leaf first, root not included.
    pub certificates: Vec<Vec<u8>>,
}

impl TpmEvidence {
    /// The [`QUOTED`] registers with their values.
    pub fn registers(&self) -> impl Iterator<Item = (Register, Digest<48>)> {
        QUOTED.into_iter().map(Register).zip(self.registers)
    }
}

/// A platform configuration register, PCR 0 to 23.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Register(pub u8);

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holds = match self.0 {
            0 => "firmware",
            1 => "firmware configuration, ACPI tables, boot order",
            2 => "drivers on devices",
            3 => "configuration of drivers on devices",
            4 => "boot loader and kernel",
            5 => "partition table",
            6 => "platform vendor",
            7 => "Secure Boot",
            8 => "unused",
            9 => "command line and initrd",
            11 => "sections of the unified kernel image",
            12 => "additions to the command line, credentials",
            13 => "system extensions",
            14 => "machine owner keys",
            15 => "system identity",
            _ => return write!(f, "PCR {}", self.0),
        };
        write!(f, "PCR {} ({holds})", self.0)
    }
}
