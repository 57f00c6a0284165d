//! Why TDX evidence was not believed.

use std::fmt;

use super::{Document, DocumentFault, QuoteError, TcbStatus};
use crate::certificate::{ChainError, ChainFault, Position};
use crate::crl::RevocationFault;
use crate::eventlog::EventLogError;
use crate::{Digest, Hex, Name};

/// A claim about TDX evidence that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TdxError {
    /// Not a quote.
    #[error("quote: {0}")]
    Quote(#[from] QuoteError),
    /// Not the platform key's certificate, the one above it, and perhaps the root.
    #[error("{found} certificates, 3 expected: PCK, its authority and the root")]
    Certificates {
        /// How many were found.
        found: usize,
    },
    /// The platform's key is not certified by a root of the policy.
    #[error("platform key: {0}")]
    Chain(#[from] ChainError),
    /// What signs Intel's documents is not certified by the same root.
    #[error("key of Intel's documents: {0}")]
    Signer(ChainError),
    /// The certificate is not for signing Intel's documents.
    #[error("key of Intel's documents: its certificate is for something else")]
    SignerName,
    /// The machine gives nothing of what Intel says of it.
    #[error("collateral: required, found none")]
    NoCollateral,
    /// There is no revocation list of an authority.
    #[error("revocation list: required, found none by the {authority}")]
    NoRevocationList {
        /// The authority.
        authority: Authority,
    },
    /// A revocation list is not sound.
    #[error("revocation list of the {authority}: {fault}")]
    RevocationList {
        /// The authority.
        authority: Authority,
        /// What is wrong with it.
        fault: RevocationFault,
    },
    /// A revocation list that is none of the two.
    #[error("revocation list: by none of the authorities of the platform")]
    StrayRevocationList,
    /// A certificate is revoked.
    #[error("{position}: revoked by the {authority}")]
    Revoked {
        /// The certificate.
        position: Position,
        /// Who revoked it.
        authority: Authority,
    },
    /// The certificate of the key of Intel's documents is revoked.
    #[error("key of Intel's documents: revoked")]
    SignerRevoked,
    /// What Intel puts into the platform key's certificate is missing, or cannot be read.
    #[error("platform key's certificate: {field} is missing or cannot be read")]
    CertificateField {
        /// The field.
        field: &'static str,
    },
    /// The platform's key did not sign the quoting enclave's report.
    #[error("quoting enclave: its report is not signed by the platform's key")]
    EnclaveSignature,
    /// The quoting enclave does not vouch for the attestation key.
    #[error("quoting enclave: it does not vouch for the attestation key")]
    AttestationKey,
    /// The attestation key did not sign the quote.
    #[error("quote: not signed by the attestation key")]
    Signature,
    /// A document of Intel's is not sound.
    #[error("{document}: {fault}")]
    Document {
        /// The document.
        document: Document,
        /// What is wrong with it.
        fault: DocumentFault,
    },
    /// The TCB info is of another platform.
    #[error("TCB info: of another platform than {field} {expected}, found {found}")]
    OtherPlatform {
        /// Which name of the platform.
        field: &'static str,
        /// By the certificate.
        expected: Hex,
        /// By the TCB info.
        found: Hex,
    },
    /// The quoting enclave or the TDX module is another than Intel's.
    #[error("{field}: not as Intel states it")]
    Identity {
        /// What differs.
        field: IdentityField,
    },
    /// Intel knows no TDX module of this major version.
    #[error("TDX module: Intel states nothing of major version {version}")]
    UnknownModule {
        /// The major version.
        version: u8,
    },
    /// Versions lower than all that Intel speaks of.
    #[error("{part}: older than all that Intel states")]
    NoLevel {
        /// What is too old.
        part: Evaluated,
    },
    /// A verdict of Intel's that the policy does not accept.
    #[error("{part}: {found}, which the policy does not accept")]
    Status {
        /// What was judged.
        part: Evaluated,
        /// Intel's verdict.
        found: TcbStatus,
    },
    /// An advisory that the policy does not accept.
    #[error("{part}: {found} applies, which the policy does not accept")]
    Advisory {
        /// What was judged.
        part: Evaluated,
        /// The advisory.
        found: Name,
    },
    /// A property of the platform that the policy does not accept, or that is not known.
    #[error("platform: {flag} {}, which the policy does not accept", match .found {
        Some(_) => "is on",
        None => "is not known",
    })]
    Flag {
        /// The property.
        flag: PlatformFlag,
        /// What the certificate says.
        found: Option<bool>,
    },
    /// The quote was made for something else.
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
        field: TdxField,
        /// Its value.
        found: Hex,
    },
    /// The domain is under debug: the host reads and writes its memory.
    #[error("attributes: the domain is under debug ({found:#x})")]
    Debug {
        /// All attributes.
        found: u64,
    },
    /// Attributes that this program does not know.
    #[error("attributes: unknown bits in {found:#x}")]
    UnknownAttributes {
        /// All attributes.
        found: u64,
    },
    /// A setting is not as the policy demands.
    #[error("{setting}: must be {} by the policy", if *.expected { "on" } else { "off" })]
    Setting {
        /// The setting.
        setting: TdxSetting,
        /// What it had to be.
        expected: bool,
    },
    /// XFAM with bits that this program does not know, or without those that are always there.
    #[error("XFAM: {found} has unknown bits, or lacks x87 or SSE")]
    Xfam {
        /// XFAM found.
        found: Digest<8>,
    },
    /// A part of a partitioned domain asked.
    #[error("quote: of part {found} of a partitioned domain")]
    Partition {
        /// The part.
        found: u8,
    },
    /// Other service domains are bound now than at the start.
    #[error("service domains: {found} now, {expected} when the domain was made")]
    ServiceDomain {
        /// At the start.
        expected: Digest<48>,
        /// Now.
        found: Digest<48>,
    },
    /// There is no event log, and the policy demands one.
    #[error("event log: required by the policy, found none")]
    NoEventLog,
    /// The event log is not sound.
    #[error("event log: {0}")]
    EventLog(#[from] EventLogError),
    /// An event of a register that a domain does not have.
    #[error("event log: event {event} is of register {found}, 1 to 4 are there")]
    EventRegister {
        /// Number of the event, from 1.
        event: usize,
        /// Register found.
        found: u8,
    },
    /// An event that the policy does not list.
    #[error("event log: event {event} with {found} is not listed by the policy")]
    Event {
        /// Number of the event, from 1.
        event: usize,
        /// Its digest.
        found: Digest<48>,
    },
    /// The event log does not explain a register.
    #[error("{field}: {expected} in the quote, {events} events of the log give {found}")]
    Replay {
        /// The first register that differs.
        field: TdxField,
        /// Value in the quote.
        expected: Digest<48>,
        /// Value that the log gives.
        found: Digest<48>,
        /// How many events of the log extend it.
        events: usize,
    },
}

/// Who issues certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// The root.
    Root,
    /// The authority of the platforms' keys.
    Pck,
    /// One that cannot be told: its list cannot be read.
    Unknown,
}

/// What Intel gives a verdict on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evaluated {
    /// The platform as it was when the domain was made.
    Launch,
    /// The platform as it is now.
    Current,
    /// The TDX module as it was when the domain was made.
    LaunchModule,
    /// The TDX module as it is now.
    CurrentModule,
    /// The quoting enclave.
    QuotingEnclave,
    /// All of these, as one.
    Together,
}

/// A part of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityField {
    /// MISCSELECT of the quoting enclave.
    EnclaveMiscSelect,
    /// Attributes of the quoting enclave.
    EnclaveAttributes,
    /// Signer of the quoting enclave.
    EnclaveSigner,
    /// Product number of the quoting enclave.
    EnclaveProduct,
    /// Signer of the TDX module.
    ModuleSigner,
    /// Attributes of the TDX module.
    ModuleAttributes,
}

/// A property of a platform, by its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlatformFlag {
    /// Packages can be added to it.
    Dynamic,
    /// Intel's service holds its root keys.
    CachedKeys,
    /// It has simultaneous multithreading.
    Smt,
}

/// A value that a policy can pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TdxField {
    /// Model of the platform.
    Fmspc,
    /// The platform.
    PlatformInstance,
    /// Versions when the domain was made.
    TeeTcbSvn,
    /// The TDX module.
    MrSeam,
    /// Who signed it.
    MrSignerSeam,
    /// What of the processor's state the domain may use.
    Xfam,
    /// What was there before the start.
    MrTd,
    /// Configuration that the host gave.
    MrConfigId,
    /// The owner that the host gave.
    MrOwner,
    /// The owner's configuration that the host gave.
    MrOwnerConfig,
    /// Service domains.
    MrServiceTd,
    /// A register that is extended at run time, 0 to 3.
    Rtmr(u8),
}

/// A setting of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TdxSetting {
    /// The defence against single steps counts instructions.
    SingleStepDefence,
    /// The report holds more of service domains.
    ServiceDomainExtension,
    /// The domain may use linear address space separation.
    Lass,
    /// Pages that were not accepted cannot surprise the kernel.
    SeptVeDisable,
    /// The domain can be moved.
    Migratable,
    /// The domain may use protection keys for supervisor pages.
    ProtectionKeys,
    /// The domain may use Key Locker.
    KeyLocker,
    /// The domain is a quoting one.
    QuotingDomain,
    /// The domain may use performance counters.
    PerformanceMonitoring,
}

impl TdxError {
    /// Whether certificates, lists or documents are only out of date, or missing.
    pub(crate) const fn is_date(&self) -> bool {
        match self {
            Self::Signer(error) if matches!(error.fault, ChainFault::Missing) => true,
            Self::Chain(error) | Self::Signer(error) => error.fault.is_date(),
            Self::RevocationList { fault, .. } => matches!(
                fault,
                RevocationFault::NotYetValid { .. } | RevocationFault::Expired { .. }
            ),
            Self::Document { fault, .. } => fault.is_date(),
            Self::NoCollateral | Self::NoRevocationList { .. } | Self::OtherPlatform { .. } => true,
            _ => false,
        }
    }

    /// Whether the evidence is not genuine, rather than not what the policy demands.
    pub(crate) const fn is_forged(&self) -> bool {
        matches!(
            self,
            Self::Quote(_)
                | Self::Certificates { .. }
                | Self::Chain(_)
                | Self::Signer(_)
                | Self::SignerName
                | Self::SignerRevoked
                | Self::RevocationList { .. }
                | Self::StrayRevocationList
                | Self::Revoked { .. }
                | Self::CertificateField { .. }
                | Self::EnclaveSignature
                | Self::AttestationKey
                | Self::Signature
                | Self::Document { .. }
                | Self::Identity { .. }
                | Self::ReportData { .. }
                | Self::EventLog(_)
                | Self::EventRegister { .. }
                | Self::Replay { .. }
        )
    }

    /// What to do about it.
    pub(crate) const fn hint(&self) -> &'static str {
        match self {
            Self::ReportData { .. } => {
                "the evidence belongs to another connection: someone may stand between you"
            }
            Self::NoCollateral => "the machine has none at hand: bring Intel's by --collateral",
            Self::Signer(error) if matches!(error.fault, ChainFault::Missing) => {
                "bring the certificate \"Intel SGX TCB Signing\" by --collateral: Intel's service \
                 gives it in the header TCB-Info-Issuer-Chain"
            }
            Self::NoRevocationList { .. } => "the operator must supply Intel's revocation lists",
            Self::OtherPlatform { .. } => "the operator must supply the TCB info of this platform",
            Self::Revoked { .. } | Self::SignerRevoked => {
                "Intel has revoked this key: do not trust this server"
            }
            Self::Debug { .. } => {
                "the host can read this domain's memory: do not trust this server"
            }
            Self::Chain(_) if !self.is_date() => "if you accept the root, name it in tdx.roots",
            Self::Status { .. } | Self::Advisory { .. } | Self::NoLevel { .. } => {
                "the operator must update the machine's firmware and start the domain again"
            }
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

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root",
            Self::Pck => "authority of platform keys",
            Self::Unknown => "authority that cannot be told",
        })
    }
}

impl fmt::Display for Evaluated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Launch => "platform at launch",
            Self::Current => "platform now",
            Self::LaunchModule => "TDX module at launch",
            Self::CurrentModule => "TDX module now",
            Self::QuotingEnclave => "quoting enclave",
            Self::Together => "platform, TDX module and quoting enclave together",
        })
    }
}

impl fmt::Display for IdentityField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EnclaveMiscSelect => "quoting enclave: MISCSELECT",
            Self::EnclaveAttributes => "quoting enclave: attributes",
            Self::EnclaveSigner => "quoting enclave: MRSIGNER",
            Self::EnclaveProduct => "quoting enclave: ISVPRODID",
            Self::ModuleSigner => "TDX module: MRSIGNERSEAM",
            Self::ModuleAttributes => "TDX module: SEAM attributes",
        })
    }
}

impl fmt::Display for PlatformFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dynamic => "adding packages",
            Self::CachedKeys => "keeping root keys at Intel's service",
            Self::Smt => "multithreading",
        })
    }
}

impl fmt::Display for TdxField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fmspc => "FMSPC (model of the platform)",
            Self::PlatformInstance => "platform instance",
            Self::TeeTcbSvn => "TEE_TCB_SVN",
            Self::MrSeam => "MRSEAM (TDX module)",
            Self::MrSignerSeam => "MRSIGNERSEAM",
            Self::Xfam => "XFAM",
            Self::MrTd => "MRTD (firmware)",
            Self::MrConfigId => "MRCONFIGID",
            Self::MrOwner => "MROWNER",
            Self::MrOwnerConfig => "MROWNERCONFIG",
            Self::MrServiceTd => "MRSERVICETD",
            Self::Rtmr(0) => "RTMR0 (firmware configuration, ACPI tables)",
            Self::Rtmr(1) => "RTMR1 (boot loader and kernel)",
            Self::Rtmr(2) => "RTMR2 (command line and initrd)",
            Self::Rtmr(number) => return write!(f, "RTMR{number}"),
        })
    }
}

impl fmt::Display for TdxSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SingleStepDefence => "attributes: ICSSD (defence against single steps)",
            Self::ServiceDomainExtension => "attributes: SERVTD_EXT (service domains)",
            Self::Lass => "attributes: LASS",
            Self::SeptVeDisable => "attributes: SEPT_VE_DISABLE",
            Self::Migratable => "attributes: MIGRATABLE",
            Self::ProtectionKeys => "attributes: PKS",
            Self::KeyLocker => "attributes: KL",
            Self::QuotingDomain => "attributes: TPA",
            Self::PerformanceMonitoring => "attributes: PERFMON",
        })
    }
}
