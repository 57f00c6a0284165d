//! Why SEV-SNP evidence was not believed.

use std::fmt;

use super::{Firmware, Product, ReportError, SigningKey, TcbVersion};
use crate::certificate::{ChainError, Position};
use crate::crl::RevocationFault;
use crate::{Digest, Hex, Text};

/// A claim about SEV-SNP evidence that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnpError {
    /// Not an attestation report.
    #[error("attestation report: {0}")]
    Report(#[from] ReportError),
    /// Not the signing key's certificate and the one above it.
    #[error("{found} certificates, 2 expected: VCEK or VLEK, and ASK or ASVK")]
    Certificates {
        /// How many were found.
        found: usize,
    },
    /// The signing key is not certified by a root of the policy.
    #[error("signing key: {0}")]
    Chain(#[from] ChainError),
    /// No revocation list by the root of the product, and the policy demands one.
    #[error("revocation list: required by the policy, found none by the {product} root")]
    NoRevocationList {
        /// The product.
        product: Product,
    },
    /// A revocation list by the root of the product is not sound.
    #[error("revocation list: {0}")]
    RevocationList(#[from] RevocationFault),
    /// A certificate is revoked.
    #[error("{position}: revoked by list {list}")]
    Revoked {
        /// The certificate.
        position: Position,
        /// The list's number.
        list: u64,
    },
    /// What AMD puts into the signing key's certificate is missing, or cannot be read.
    #[error("signing key's certificate: {field} is missing or cannot be read")]
    CertificateField {
        /// The field.
        field: &'static str,
    },
    /// Another kind of key signed than the certificate is for.
    #[error("signing key: the report says {report}, the certificate is of a {certificate}")]
    KeyKind {
        /// What the report says.
        report: SigningKey,
        /// What the certificate says.
        certificate: SigningKey,
    },
    /// A kind of key that the policy does not name.
    #[error("signing key: {found} is not accepted by the policy")]
    SigningKey {
        /// What signed.
        found: SigningKey,
    },
    /// The key of a cloud that the policy does not name.
    #[error("signing key: of the cloud \"{found}\", which the policy does not name")]
    Cloud {
        /// The cloud.
        found: Text,
    },
    /// The certificate is of another product than its root.
    #[error("product: {expected} by the root, found {found:?} in the certificate")]
    CertificateProduct {
        /// The root's product.
        expected: Product,
        /// What the certificate says, if that is a product at all.
        found: Option<Product>,
    },
    /// The report is of another product than its root.
    #[error("product: {expected} by the root, found family {family:#x} model {model:#x}")]
    Processor {
        /// The root's product.
        expected: Product,
        /// Family by the report.
        family: u8,
        /// Model by the report.
        model: u8,
    },
    /// The report is of another chip than the certificate.
    #[error("chip: {expected} by the certificate, {found} by the report")]
    Chip {
        /// The chip by the certificate.
        expected: Hex,
        /// The chip by the report.
        found: Hex,
    },
    /// Bytes of a TCB that must be zero are not.
    #[error("{tcb} TCB: {found} is none of a {product}")]
    TcbEncoding {
        /// Which TCB.
        tcb: Tcb,
        /// The product whose layout it does not have.
        product: Product,
        /// The bytes.
        found: Digest<8>,
    },
    /// The report is of another TCB than the certificate.
    #[error("reported TCB: {expected} by the certificate, {found} by the report")]
    CertificateTcb {
        /// The TCB by the certificate.
        expected: TcbVersion,
        /// The TCB by the report.
        found: TcbVersion,
    },
    /// The signing key did not sign the report.
    #[error("attestation report: not signed by the certified key")]
    Signature,
    /// The report was made for something else.
    #[error("report data: {expected} expected, found {found}")]
    ReportData {
        /// What had to be signed.
        expected: Hex,
        /// What was signed.
        found: Hex,
    },
    /// A value that the policy does not list.
    #[error("{field}: {found} is not listed by the policy")]
    Pinned {
        /// The field.
        field: SnpField,
        /// Its value.
        found: Hex,
    },
    /// One TCB is ahead of another that it cannot be ahead of.
    #[error("{part} of the {lower} TCB: {found}, more than {limit} of the {upper} TCB")]
    TcbOrder {
        /// The TCB that must not be ahead.
        lower: Tcb,
        /// The TCB that it must not be ahead of.
        upper: Tcb,
        /// The part.
        part: TcbPart,
        /// Value in the upper one.
        limit: u8,
        /// Value in the lower one.
        found: u8,
    },
    /// A part of a TCB is older than the policy allows.
    #[error("{part} of the {tcb} TCB: at least {minimum} expected, found {found}")]
    Tcb {
        /// Which TCB.
        tcb: Tcb,
        /// The part.
        part: TcbPart,
        /// Least value by the policy.
        minimum: u8,
        /// Value found.
        found: u8,
    },
    /// The committed firmware is ahead of the one that runs.
    #[error("firmware: {committed} is committed, {current} runs")]
    FirmwareOrder {
        /// What is committed.
        committed: Firmware,
        /// What runs.
        current: Firmware,
    },
    /// The committed firmware is older than the policy allows.
    #[error("committed firmware: at least {minimum} expected, found {found}")]
    Firmware {
        /// Least version by the policy.
        minimum: Firmware,
        /// Version found.
        found: Firmware,
    },
    /// The guest may be debugged: the host reads and writes its memory.
    #[error("guest policy: debugging is allowed")]
    Debug,
    /// A setting is not as the policy demands.
    #[error("{setting}: must be {} by the policy", if *.expected { "on" } else { "off" })]
    Setting {
        /// The setting.
        setting: SnpSetting,
        /// What it had to be.
        expected: bool,
    },
    /// The guest accepts an older firmware interface than the policy does.
    #[error("guest policy: at least interface {minimum} expected, found {found}")]
    GuestAbi {
        /// Least version by the policy.
        minimum: GuestAbi,
        /// Version found.
        found: GuestAbi,
    },
    /// A privilege level that the policy does not name asked for the report.
    #[error("VMPL {found} is not accepted by the policy")]
    Vmpl {
        /// Privilege level found.
        found: u32,
    },
    /// A guest older than the policy allows.
    #[error("guest SVN: at least {minimum} expected, found {found}")]
    GuestSvn {
        /// Least version by the policy.
        minimum: u32,
        /// Version found.
        found: u32,
    },
    /// Mitigations that the policy demands are missing.
    #[error("mitigations {when}: {expected:#x} expected, found {found:#x}")]
    Mitigations {
        /// At launch, or now.
        when: &'static str,
        /// Bits that the policy demands.
        expected: u64,
        /// Bits found; none before version 5 of the report.
        found: u64,
    },
}

/// A version of the firmware interface that a guest demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestAbi {
    /// Major version.
    pub major: u8,
    /// Minor version.
    pub minor: u8,
}

/// A TCB in a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tcb {
    /// That the signing key was derived from.
    Reported,
    /// Below which the machine cannot go any more.
    Committed,
    /// That runs.
    Current,
    /// When the guest was launched.
    Launch,
}

/// A part of a TCB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcbPart {
    /// Firmware of the secure processor's controller.
    Fmc,
    /// Boot loader of the secure processor.
    BootLoader,
    /// Operating system of the secure processor.
    Tee,
    /// SNP firmware.
    Snp,
    /// Microcode.
    Microcode,
}

/// A value in a report that a policy can pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnpField {
    /// Launch digest.
    LaunchDigest,
    /// What the host gave at launch.
    HostData,
    /// Family in the ID block.
    FamilyId,
    /// Image in the ID block.
    ImageId,
    /// SHA-384 of the key that signed the ID block.
    IdKeyDigest,
    /// SHA-384 of the key that certified the ID key.
    AuthorKeyDigest,
    /// The chip.
    ChipId,
}

/// A setting of a guest or of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnpSetting {
    /// The guest may run with simultaneous multithreading.
    GuestSmt,
    /// The guest may be moved by a migration agent.
    GuestMigrationAgent,
    /// The guest runs on one socket only.
    GuestSingleSocket,
    /// The guest may use CXL memory.
    GuestCxl,
    /// The guest runs only with AES-256-XTS.
    GuestAes256Xts,
    /// The guest runs only with energy counters off.
    GuestRaplDisabled,
    /// The guest runs only with its ciphertext hidden.
    GuestCiphertextHiding,
    /// The guest runs only with page swapping off.
    GuestPageSwapDisabled,
    /// The machine has simultaneous multithreading.
    PlatformSmt,
    /// The machine encrypts all memory.
    PlatformTsme,
    /// The machine's memory corrects errors.
    PlatformEcc,
    /// The machine has its energy counters off.
    PlatformRaplDisabled,
    /// The machine hides ciphertext.
    PlatformCiphertextHiding,
    /// The machine has checked for memory aliases.
    PlatformAliasCheck,
    /// The machine has trusted input and output.
    PlatformTio,
}

impl SnpError {
    /// Whether certificates or revocation lists are only out of date, or missing.
    pub(crate) const fn is_date(&self) -> bool {
        match self {
            Self::Chain(error) => error.fault.is_date(),
            Self::RevocationList(fault) => matches!(
                fault,
                RevocationFault::NotYetValid { .. }
                    | RevocationFault::Expired { .. }
                    | RevocationFault::Stale { .. }
            ),
            Self::Certificates { found: 0 | 1 } | Self::NoRevocationList { .. } => true,
            _ => false,
        }
    }

    /// Whether the evidence is not genuine, rather than not what the policy demands.
    pub(crate) const fn is_forged(&self) -> bool {
        matches!(
            self,
            Self::Report(_)
                | Self::Certificates { .. }
                | Self::Chain(_)
                | Self::RevocationList(_)
                | Self::Revoked { .. }
                | Self::CertificateField { .. }
                | Self::KeyKind { .. }
                | Self::CertificateProduct { .. }
                | Self::Processor { .. }
                | Self::Chip { .. }
                | Self::TcbEncoding { .. }
                | Self::CertificateTcb { .. }
                | Self::Signature
                | Self::ReportData { .. }
                | Self::FirmwareOrder { .. }
        )
    }

    /// What to do about it.
    pub(crate) const fn hint(&self) -> &'static str {
        match self {
            Self::ReportData { .. } => {
                "the evidence belongs to another connection: someone may stand between you"
            }
            Self::Certificates { found: 0 } => {
                "the machine has none at hand: bring AMD's by --certs"
            }
            Self::Certificates { found: 1 } => {
                "the key's certificate is there without its issuer's, or that alone: \
                 bring ASK (or ASVK) and VCEK (or VLEK) by --certs"
            }
            Self::NoRevocationList { .. } => "the operator must supply AMD's revocation list",
            Self::Revoked { .. } => "AMD has revoked this key: do not trust this server",
            Self::Debug => "the host can read this guest's memory: do not trust this server",
            Self::Chain(_) if !self.is_date() => {
                "if you accept the product or its root, name it in snp.products"
            }
            Self::Tcb { .. } | Self::Firmware { .. } | Self::Mitigations { .. } => {
                "the operator must update the machine's firmware"
            }
            Self::TcbOrder {
                upper: Tcb::Launch, ..
            } => "the operator must start the guest again: its machine was updated since",
            _ if self.is_date() => {
                "check your clock; if it is right, the operator must renew the collateral"
            }
            _ if self.is_forged() => {
                "the evidence was altered or the machine is not genuine: do not trust this server"
            }
            _ => "the machine is not set up as your policy demands: ask the operator, or relax it",
        }
    }
}

impl fmt::Display for GuestAbi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl fmt::Display for Tcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reported => "reported",
            Self::Committed => "committed",
            Self::Current => "current",
            Self::Launch => "launch",
        })
    }
}

impl fmt::Display for TcbPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fmc => "FMC",
            Self::BootLoader => "boot loader",
            Self::Tee => "TEE",
            Self::Snp => "SNP",
            Self::Microcode => "microcode",
        })
    }
}

impl fmt::Display for SnpField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LaunchDigest => "launch digest",
            Self::HostData => "host data",
            Self::FamilyId => "family id",
            Self::ImageId => "image id",
            Self::IdKeyDigest => "ID key digest",
            Self::AuthorKeyDigest => "author key digest",
            Self::ChipId => "chip id",
        })
    }
}

impl fmt::Display for SnpSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GuestSmt => "guest policy: multithreading allowed",
            Self::GuestMigrationAgent => "guest policy: migration agent allowed",
            Self::GuestSingleSocket => "guest policy: one socket only",
            Self::GuestCxl => "guest policy: CXL allowed",
            Self::GuestAes256Xts => "guest policy: AES-256-XTS demanded",
            Self::GuestRaplDisabled => "guest policy: energy counters off demanded",
            Self::GuestCiphertextHiding => "guest policy: ciphertext hiding demanded",
            Self::GuestPageSwapDisabled => "guest policy: page swapping off demanded",
            Self::PlatformSmt => "platform: multithreading",
            Self::PlatformTsme => "platform: all memory encrypted",
            Self::PlatformEcc => "platform: error-correcting memory",
            Self::PlatformRaplDisabled => "platform: energy counters off",
            Self::PlatformCiphertextHiding => "platform: ciphertext hiding",
            Self::PlatformAliasCheck => "platform: memory alias check complete",
            Self::PlatformTio => "platform: trusted input and output",
        })
    }
}
