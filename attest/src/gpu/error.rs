//! Why evidence of GPUs and switches was not believed.

use std::fmt;

use super::opaque::{DriverVersion, Mode, VbiosVersion};
use super::{DeviceKind, ManifestError, SpdmError};
use crate::certificate::{ChainError, ChainFault, Position};
use crate::crl::RevocationFault;
use crate::ocsp::StatusFault;
use crate::{Digest, Name};

/// A claim about GPUs and switches that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// A device is not believed.
    #[error("device {device}: {fault}")]
    Device {
        /// Its place in the evidence, from 1.
        device: usize,
        /// What is wrong with it.
        fault: Box<DeviceFault>,
    },
    /// A manifest is not believed.
    #[error("manifest {manifest}: {fault}")]
    Manifest {
        /// Its place in the evidence, from 1.
        manifest: usize,
        /// What is wrong with it.
        fault: Box<ManifestError>,
    },
    /// A manifest that is for none of the devices.
    #[error("manifest {manifest}: for none of the devices")]
    StrayManifest {
        /// Its place in the evidence, from 1.
        manifest: usize,
    },
    /// Two manifests are for the same thing.
    #[error("manifest {manifest}: of the same product and version as one before it")]
    DuplicateManifest {
        /// Its place in the evidence, from 1.
        manifest: usize,
    },
    /// A revocation list cannot be read.
    #[error("revocation list: {0}")]
    RevocationList(RevocationFault),
    /// A revocation list that is by none of the authorities.
    #[error("revocation list: by none of the authorities of the devices and manifests")]
    StrayRevocationList,
    /// A status response cannot be read.
    #[error("status response: {0}")]
    Status(StatusFault),
    /// A status response that speaks of none of the certificates.
    #[error("status response: of none of the certificates of the devices and manifests")]
    StrayStatus,
    /// Not as many devices as the configuration demands.
    #[error("{kind}: {expected} expected by the configuration, found {found}")]
    Count {
        /// Of which kind.
        kind: DeviceKind,
        /// How many the configuration demands.
        expected: usize,
        /// How many gave evidence.
        found: usize,
    },
    /// One device gave evidence twice.
    #[error("device {device}: the same device as one before it")]
    SameDevice {
        /// Its place in the evidence, from 1.
        device: usize,
    },
    /// GPUs and switches are not connected with each other, and with each other only.
    #[error("device {device}: {topology}")]
    Topology {
        /// Its place in the evidence, from 1.
        device: usize,
        /// What does not fit.
        topology: Topology,
    },
}

/// How devices do not fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// Switches stand between the GPUs, and gave no evidence.
    NoSwitch,
    /// A GPU is not connected with exactly the switches that gave evidence.
    Switches,
    /// A switch is not connected with exactly the GPUs that gave evidence.
    Gpus,
    /// A switch calls itself otherwise than its certificate does.
    Name,
    /// GPUs take part in different ways.
    Mode,
}

/// What can be wrong with a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceFault {
    /// Not a report.
    #[error("report: {0}")]
    Report(#[from] SpdmError),
    /// Its key is not certified by a root of the policy.
    #[error("key: {0}")]
    Chain(#[from] ChainError),
    /// What NVIDIA puts into the certificate is missing, or cannot be read.
    #[error("certificate: {field} is missing or cannot be read")]
    CertificateField {
        /// What.
        field: &'static str,
    },
    /// Its certificate, or one above it, is revoked.
    #[error("{position}: revoked")]
    Revoked {
        /// The certificate.
        position: Position,
    },
    /// There is no revocation list for a certificate, and the policy demands it.
    #[error("{position}: no revocation list by its issuer, which the policy demands")]
    NoRevocationList {
        /// The certificate.
        position: Position,
    },
    /// A revocation list is not sound.
    #[error("{position}: revocation list: {fault}")]
    RevocationList {
        /// The certificate that it is for.
        position: Position,
        /// What is wrong with the list.
        fault: RevocationFault,
    },
    /// There is no status response for a certificate, and the policy demands it.
    #[error("{position}: no status response (OCSP), which the policy demands")]
    NoStatus {
        /// The certificate.
        position: Position,
    },
    /// By its status, or what vouches for that, a certificate is not good.
    #[error("{position}: status: {fault}")]
    Status {
        /// The certificate.
        position: Position,
        /// What is wrong.
        fault: StatusFault,
    },
    /// Not signed by the certified key.
    #[error("report: not signed by the device's key")]
    Signature,
    /// Made for another handshake or nonce.
    #[error("report: made for another nonce: {expected} expected, found {found}")]
    Nonce {
        /// The nonce that it had to be made for.
        expected: Digest<32>,
        /// The nonce in the report.
        found: Digest<32>,
    },
    /// A chip that the policy does not list.
    #[error("chip: {} is not listed by the policy", found.escape_default())]
    Chip {
        /// The chip by its certificate.
        found: String,
    },
    /// A device that the policy does not list.
    #[error("certificate of the boot ROM: {found} is not listed by the policy")]
    Pinned {
        /// SHA-256 of the certificate.
        found: Digest<32>,
    },
    /// It does not say something that a device of its kind says.
    #[error("report: {field} is missing")]
    Missing {
        /// What.
        field: &'static str,
    },
    /// The key was made for other firmware than runs.
    #[error("firmware: {found} runs, the key was made for {expected}")]
    FirmwareId {
        /// By the certificate.
        expected: Digest<48>,
        /// By the report.
        found: Digest<48>,
    },
    /// It takes part in a way that the policy does not accept.
    #[error("mode: {found} is not listed by the policy")]
    Mode {
        /// Mode found.
        found: Mode,
    },
    /// The driver is older than the policy demands.
    #[error("driver: version {minimum} or later expected, found {found}")]
    Driver {
        /// Least version by the policy.
        minimum: DriverVersion,
        /// Version found.
        found: DriverVersion,
    },
    /// The device's firmware is older than the policy demands.
    #[error("VBIOS: version {minimum} or later expected, found {found}")]
    Vbios {
        /// Least version by the policy.
        minimum: VbiosVersion,
        /// Version found.
        found: VbiosVersion,
    },
    /// A switch is not locked.
    #[error("switch: not locked")]
    NotLocked,
    /// There is no manifest, and the policy demands it.
    #[error("{manifest}: none for version {}, which the policy demands", version.escape_default())]
    NoManifest {
        /// Of what.
        manifest: ManifestKind,
        /// Version of the driver or the firmware.
        version: String,
    },
    /// Both manifests speak of one measurement.
    #[error("measurement {index}: both manifests speak of it")]
    Conflict {
        /// Its index, from 0.
        index: u8,
    },
    /// A manifest states a measurement that the report does not have.
    #[error("measurement {index}: in the {manifest}, not in the report")]
    NoMeasurement {
        /// Which manifest.
        manifest: ManifestKind,
        /// Its index, from 0.
        index: u8,
    },
    /// A measurement is none of those in its manifest.
    #[error("measurement {index}: {found} is none of those in the {manifest}")]
    Measurement {
        /// Which manifest.
        manifest: ManifestKind,
        /// Its index, from 0.
        index: u8,
        /// Value in the report.
        found: Digest<48>,
    },
}

/// What a manifest is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestKind {
    /// The driver.
    Driver,
    /// The device's firmware.
    Vbios,
}

impl GpuError {
    /// Whether certificates or lists are only out of date, or missing.
    pub(crate) fn is_date(&self) -> bool {
        let list = |fault: &RevocationFault| {
            matches!(
                fault,
                RevocationFault::NotYetValid { .. } | RevocationFault::Expired { .. }
            )
        };
        match self {
            Self::Device { fault, .. } => match &**fault {
                DeviceFault::Chain(error) => {
                    error.fault.is_date() || matches!(error.fault, ChainFault::Missing)
                }
                DeviceFault::RevocationList { fault, .. } => list(fault),
                DeviceFault::Status { fault, .. } => fault.is_date(),
                DeviceFault::NoRevocationList { .. }
                | DeviceFault::NoStatus { .. }
                | DeviceFault::NoManifest { .. } => true,
                _ => false,
            },
            Self::Manifest { fault, .. } => match &**fault {
                ManifestError::Chain(error) => error.fault.is_date(),
                ManifestError::RevocationList { fault, .. } => list(fault),
                ManifestError::Status { fault, .. } => fault.is_date(),
                ManifestError::NoRevocationList { .. } | ManifestError::NoStatus { .. } => true,
                _ => false,
            },
            _ => false,
        }
    }

    /// Whether the evidence is not genuine, rather than not what the policy demands.
    pub(crate) fn is_forged(&self) -> bool {
        match self {
            Self::Device { fault, .. } => matches!(
                **fault,
                DeviceFault::Report(_)
                    | DeviceFault::Chain(_)
                    | DeviceFault::CertificateField { .. }
                    | DeviceFault::Revoked { .. }
                    | DeviceFault::RevocationList { .. }
                    | DeviceFault::Status { .. }
                    | DeviceFault::Signature
                    | DeviceFault::Nonce { .. }
                    | DeviceFault::Missing { .. }
                    | DeviceFault::FirmwareId { .. }
            ),
            Self::Manifest { .. }
            | Self::RevocationList(_)
            | Self::Status(_)
            | Self::SameDevice { .. }
            | Self::Topology { .. } => true,
            Self::StrayManifest { .. }
            | Self::DuplicateManifest { .. }
            | Self::StrayRevocationList
            | Self::StrayStatus
            | Self::Count { .. } => false,
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> &'static str {
        let fault = match self {
            Self::Device { fault, .. } => Some(&**fault),
            _ => None,
        };
        match fault {
            Some(DeviceFault::Nonce { .. }) => {
                "the evidence belongs to another connection or machine: do not trust this server"
            }
            Some(DeviceFault::NoManifest { .. }) => "the operator must supply NVIDIA's manifest",
            Some(DeviceFault::NoRevocationList { .. }) => {
                "the operator must supply NVIDIA's revocation lists"
            }
            Some(DeviceFault::NoStatus { .. }) => {
                "the operator must supply NVIDIA's status responses (OCSP)"
            }
            Some(DeviceFault::Measurement { .. }) => {
                "the device runs something else than NVIDIA states, or is in development mode"
            }
            Some(DeviceFault::Chain(error)) if matches!(error.fault, ChainFault::Missing) => {
                "bring the device's certificates by --certs, its own first"
            }
            Some(DeviceFault::Chain(_)) if !self.is_date() => {
                "if you accept the root, name it in gpu.device_roots"
            }
            _ if self.is_date() => {
                "check your clock; if it is right, the operator must renew the collateral"
            }
            _ if self.is_forged() => {
                "the evidence was altered or a device is not genuine: do not trust this server"
            }
            _ => "the machine is not set up as your policy demands: ask the operator, or relax it",
        }
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSwitch => "switches stand between the GPUs, and none gave evidence",
            Self::Switches => "is not connected with exactly the switches that gave evidence",
            Self::Gpus => "is not connected with exactly the GPUs that gave evidence",
            Self::Name => "calls itself otherwise than its certificate does",
            Self::Mode => "takes part in another way than the GPUs before it",
        })
    }
}

impl ManifestKind {
    /// What it is called in claims and refusals.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver's manifest",
            Self::Vbios => "VBIOS's manifest",
        }
    }
}

impl fmt::Display for ManifestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Chips by name, for a claim.
pub(super) fn list(names: &[Name]) -> String {
    let names: Vec<_> = names.iter().map(Name::as_str).collect();
    names.join(" or ")
}
