//! Evidence by AMD SEV-SNP: an attestation report and the certificates of the key that signed it.
//!
//! ```text
//! ARK (policy) ──▶ ASK or ASVK ──▶ VCEK (one chip) or VLEK (one cloud) ──▶ report
//!    └─ signs the revocation list     product, TCB, chip ────── equal ──────┘
//! ```
//!
//! Formats: AMD's "SEV Secure Nested Paging Firmware ABI Specification" (56860) for the report,
//! "VCEK Certificate and KDS Interface Specification" (57230) for the certificates. The report has
//! a fixed layout, so that it is read here and not by a library.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::certificate::{TrustAnchor, TrustAnchorError};

mod chain;
mod error;
mod report;
mod table;
mod verify;

pub(crate) use chain::closeness;
pub use error::{GuestAbi, SnpError, SnpField, SnpSetting, Tcb, TcbPart};
pub use report::{Firmware, REPORT_BYTES, Report, ReportError};
pub use table::{MAX_TABLE_BYTES, TableError};
pub use verify::{VerifiedReport, verify};

/// Longest certificate.
pub const MAX_CERTIFICATE_BYTES: usize = 4096;
/// Most certificates: the signing key's and the one above it.
pub const MAX_CERTIFICATES: usize = 2;
/// Most revocation lists.
pub const MAX_REVOCATION_LISTS: usize = 2;

/// What a machine with SEV-SNP gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnpEvidence {
    /// ATTESTATION_REPORT.
    pub report: Vec<u8>,
    /// VCEK or VLEK, then the ASK or ASVK that issued it.
    pub certificates: Vec<Vec<u8>>,
    /// Revocation lists that AMD's root signed.
    pub revocation_lists: Vec<Vec<u8>>,
}

/// A line of processors that has a root of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Product {
    /// EPYC 7003. Keys of its chips have been extracted; the method is public.
    Milan,
    /// EPYC 9004 and 8004: Genoa, Bergamo, Siena.
    Genoa,
    /// EPYC 9005.
    Turin,
}

/// What kind of key signed a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SigningKey {
    /// Of one chip.
    Vcek,
    /// Of one cloud: says nothing about which chip.
    Vlek,
}

/// Security versions of the parts that must be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcbVersion {
    /// Firmware of the secure processor's own controller; zero before Turin.
    pub fmc: u8,
    /// Boot loader of the secure processor.
    pub boot_loader: u8,
    /// Operating system of the secure processor.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Microcode of all cores, the least of them.
    pub microcode: u8,
}

impl Product {
    /// AMD's root for this product.
    pub(crate) fn root(self) -> Result<TrustAnchor, TrustAnchorError> {
        TrustAnchor::from_der(match self {
            Self::Milan => include_bytes!("snp/roots/amd-ark-milan.der"),
            Self::Genoa => include_bytes!("snp/roots/amd-ark-genoa.der"),
            Self::Turin => include_bytes!("snp/roots/amd-ark-turin.der"),
        })
    }

    /// The product of a processor by its CPUID.
    pub(crate) const fn of_cpuid(family: u8, model: u8) -> Option<Self> {
        match (family, model) {
            (0x19, 0x00..=0x0f) => Some(Self::Milan),
            (0x19, 0x10..=0x1f | 0xa0..=0xaf) => Some(Self::Genoa),
            (0x1a, 0x00..=0x1f) => Some(Self::Turin),
            _ => None,
        }
    }

    /// The product that a certificate names, with or without a stepping.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        match name.split('-').next() {
            Some("Milan") => Some(Self::Milan),
            Some("Genoa" | "Bergamo" | "Siena") => Some(Self::Genoa),
            Some("Turin") => Some(Self::Turin),
            _ => None,
        }
    }
}

impl TcbVersion {
    /// Reads a TCB_VERSION, whose layout depends on the product; nothing if a byte that must be
    /// zero is not.
    pub(crate) const fn read(product: Product, bytes: [u8; 8]) -> Option<Self> {
        match (product, bytes) {
            (Product::Milan | Product::Genoa, [boot_loader, tee, 0, 0, 0, 0, snp, microcode]) => {
                Some(Self {
                    fmc: 0,
                    boot_loader,
                    tee,
                    snp,
                    microcode,
                })
            }
            (Product::Turin, [fmc, boot_loader, tee, snp, 0, 0, 0, microcode]) => Some(Self {
                fmc,
                boot_loader,
                tee,
                snp,
                microcode,
            }),
            _ => None,
        }
    }

    /// Its parts, each with its name.
    #[must_use]
    pub const fn parts(&self) -> [(TcbPart, u8); 5] {
        [
            (TcbPart::Fmc, self.fmc),
            (TcbPart::BootLoader, self.boot_loader),
            (TcbPart::Tee, self.tee),
            (TcbPart::Snp, self.snp),
            (TcbPart::Microcode, self.microcode),
        ]
    }

    /// The first part in which this is less than `minimum`, with both values.
    pub(crate) fn below(&self, minimum: &Self) -> Option<(TcbPart, u8, u8)> {
        let pairs = self.parts().into_iter().zip(minimum.parts());
        let mut pairs = pairs.map(|((part, found), (_, minimum))| (part, minimum, found));
        pairs.find(|(_, minimum, found)| found < minimum)
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        })
    }
}

impl fmt::Display for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vcek => "VCEK (a chip's own key)",
            Self::Vlek => "VLEK (a cloud's key)",
        })
    }
}

impl fmt::Display for TcbVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.parts().map(|(part, value)| format!("{part} {value}"));
        f.write_str(&parts.join(", "))
    }
}
