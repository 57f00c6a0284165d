//! What a person demands of a virtual TPM of Google's cloud.
//!
//! ```toml
//! [google-vtpm]
//! roots = ["google"]                      # Google's own, built in, or others in PEM form
//! secure_boot = "required"                # or "not-required"
//! project_numbers = "any"                 # or a list of numbers
//! instance_numbers = "any"
//! ```
//!
//! Google's hypervisor is that TPM: it says what booted, and keeps nobody from the VM's memory.

use serde::Deserialize;

use super::{Numbers, SecureBootPolicy};
use crate::certificate::TrustAnchor;

/// What is demanded of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GooglePolicy {
    /// Roots that may certify the keys of instances.
    #[serde(deserialize_with = "super::tpm_roots")]
    pub roots: Vec<TrustAnchor>,
    /// Whether the firmware must enforce Secure Boot.
    pub secure_boot: SecureBootPolicy,
    /// Projects by number.
    pub project_numbers: Numbers,
    /// Instances by number.
    pub instance_numbers: Numbers,
}
