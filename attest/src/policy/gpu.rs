//! What a person demands of the GPUs of a machine, and of the switches between them.
//!
//! ```toml
//! [gpu]
//! device_roots = ["nvidia"]               # NVIDIA's own, built in, or others in PEM form
//! manifest_roots = ["nvidia"]             # of the manifests (RIM)
//! revocation_lists = "required"           # or "not-required"; what is there must be sound
//! revocation = "ocsp"                     # or "not-required"; what is there must be sound
//! chips = ["GH100"]                       # as the device's certificate names them
//! switches = []                           # chips of switches, such as "LS_10"
//! modes = ["single"]                      # and "multiple", "protected-pcie"
//! minimum_driver = "580.95.05"
//! minimum_vbios = "96.00.9F.00.01"
//! minimum_switch_vbios = "96.10.55.00.01"
//! driver_manifest = "required"            # without it a GPU in development mode is not noticed
//! vbios_manifest = "required"
//! switch_manifest = "required"
//! devices = "any"                         # SHA-256 of the certificates of boot ROMs
//! ```
//!
//! How many devices there must be says the measured configuration. A policy without this table
//! accepts no machine that has any. A policy with it is of version 3: before that nobody could say
//! `revocation`, which demands that NVIDIA's responder says of each certificate that it is good.

use serde::{Deserialize, Deserializer, de};

use super::{Demand, Pin};
use crate::Name;
use crate::certificate::{TrustAnchor, TrustAnchorError};
use crate::gpu::{DriverVersion, Mode, VbiosVersion, device_root, manifest_root};

/// What is demanded of GPUs and switches.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuPolicy {
    /// Roots that may certify devices.
    #[serde(deserialize_with = "device_roots")]
    pub device_roots: Vec<TrustAnchor>,
    /// Roots that may certify the signers of manifests.
    #[serde(deserialize_with = "manifest_roots")]
    pub manifest_roots: Vec<TrustAnchor>,
    /// Whether a revocation list must be there for each certificate that names a place for one.
    pub revocation_lists: Demand,
    /// Whether NVIDIA must say now of each certificate that it is good.
    pub revocation: GpuRevocation,
    /// GPUs that are accepted, by the name in their certificate.
    pub chips: Vec<Name>,
    /// Switches that are accepted, by the name in their certificate.
    pub switches: Vec<Name>,
    /// How GPUs may take part in confidential computing.
    pub modes: Vec<Mode>,
    /// Least version of the driver.
    pub minimum_driver: DriverVersion,
    /// Least version of a GPU's firmware.
    pub minimum_vbios: VbiosVersion,
    /// Least version of a switch's firmware.
    pub minimum_switch_vbios: VbiosVersion,
    /// Whether the driver's manifest must confirm its measurements.
    pub driver_manifest: Demand,
    /// Whether the manifest of a GPU's firmware must confirm its measurements.
    pub vbios_manifest: Demand,
    /// Whether the manifest of a switch's firmware must confirm its measurements.
    pub switch_manifest: Demand,
    /// Devices: SHA-256 of the certificates of their boot ROMs.
    pub devices: Pin<32>,
}

/// How it is known that certificates of devices and manifests are not revoked, lists apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GpuRevocation {
    /// By a response of NVIDIA's responder for each.
    Ocsp,
    /// Not at all, and every report says so.
    NotRequired,
}

type Root = Result<TrustAnchor, TrustAnchorError>;

fn roots<'de, D: Deserializer<'de>>(
    deserializer: D,
    own: fn() -> Root,
) -> Result<Vec<TrustAnchor>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let roots = names.iter().map(|name| match name.as_str() {
        "nvidia" => own(),
        pem => TrustAnchor::from_pem(pem),
    });
    roots.collect::<Result<_, _>>().map_err(de::Error::custom)
}

fn device_roots<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TrustAnchor>, D::Error> {
    roots(deserializer, device_root)
}

fn manifest_roots<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<TrustAnchor>, D::Error> {
    roots(deserializer, manifest_root)
}
