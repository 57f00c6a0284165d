//! Evidence by NVIDIA GPUs and NVSwitches in confidential computing mode: a measurement report of
//! each device, the certificates of its key, and NVIDIA's manifests of what it should measure.
//!
//! ```text
//! device root (policy) ─▶ … ─▶ boot ROM ─▶ key ─▶ report { nonce, measurements, versions, mode }
//! manifest root (policy) ─▶ … ─▶ signer ─▶ manifests { measurements } ────── equal ──┘
//! ```
//!
//! One nonce ties the devices to the machine: it is made from the handshake
//! ([`crate::Binding::gpu_nonce`]), and the CPU signs the digest of the devices' reports. Neither
//! can be taken from another machine or session.
//!
//! No field of a report says "confidential computing is on" or "debugging is off": the
//! measurements do. The manifest of the driver states those of a GPU in production mode; without
//! it nothing here tells a GPU in development mode from another. `docs/limits.md` says so.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::certificate::{TrustAnchor, TrustAnchorError};

mod chain;
mod error;
mod file;
mod manifest;
mod opaque;
mod spdm;
mod status;
mod verify;
mod xml;

pub(crate) use chain::{is_device, is_issued_by, is_signed_by};
pub use error::{DeviceFault, GpuError, ManifestKind, Topology};
pub use file::{FileError, MAX_FILE_BYTES};
pub use manifest::{MAX_MANIFEST_BYTES, ManifestError};
pub use opaque::{DriverVersion, Mode, Opaque, OpaqueError, VbiosVersion, VersionError};
pub use spdm::{MAX_REPORT_BYTES, Report, SpdmError};
pub use verify::{VerifiedDevice, VerifiedDevices, verify, verify_alone};
pub use xml::XmlError;

/// Most devices of a machine.
pub const MAX_DEVICES: usize = 32;
/// Most certificates of a device or a manifest, the root included.
pub const MAX_CERTIFICATES: usize = 8;
/// Longest certificate.
pub const MAX_CERTIFICATE_BYTES: usize = 4096;
/// Most manifests.
pub const MAX_MANIFESTS: usize = 8;
/// Most revocation lists.
pub const MAX_REVOCATION_LISTS: usize = 8;
/// Most status responses: of each device its own, of authorities and signers as many again.
pub const MAX_STATUSES: usize = 64;

/// What the GPUs and switches of a machine give, and what NVIDIA says of such.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuEvidence {
    /// What each device gives.
    pub devices: Vec<DeviceEvidence>,
    /// NVIDIA's manifests, one for each version of driver and firmware.
    pub manifests: Vec<Vec<u8>>,
    /// Revocation lists in DER form.
    pub revocation_lists: Vec<Vec<u8>>,
    /// Status responses (OCSP) in DER form, each of one certificate.
    pub statuses: Vec<Vec<u8>>,
}

/// What a GPU or a switch gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceEvidence {
    /// The request for measurements, and the response.
    pub report: Vec<u8>,
    /// Certificates of the key that signed, in DER form, leaf first; the root may be the last.
    pub certificates: Vec<Vec<u8>>,
}

/// How many devices a machine has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounts {
    /// GPUs.
    pub gpus: usize,
    /// Switches between them.
    pub switches: usize,
}

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// A GPU.
    Gpu,
    /// A switch between GPUs.
    Switch,
}

/// NVIDIA's root for devices.
pub(crate) fn device_root() -> Result<TrustAnchor, TrustAnchorError> {
    TrustAnchor::from_der(include_bytes!("gpu/roots/nvidia-device-identity.der"))
}

/// NVIDIA's root for manifests.
pub(crate) fn manifest_root() -> Result<TrustAnchor, TrustAnchorError> {
    TrustAnchor::from_der(include_bytes!("gpu/roots/nvidia-corim.der"))
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gpu => "GPU",
            Self::Switch => "NVSwitch",
        })
    }
}
