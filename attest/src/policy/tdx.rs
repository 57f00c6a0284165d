//! What a person demands of a machine with Intel TDX.
//!
//! ```toml
//! [tdx]
//! roots = ["intel"]                       # Intel's own, built in, or others in PEM form
//! minimum_tcb_evaluation = 18             # tcbEvaluationDataNumber of Intel's documents
//! tcb_statuses = ["UpToDate"]             # Intel's verdicts that are accepted
//! advisories = []                         # advisories that may apply, such as "INTEL-SA-00837"
//! dynamic_platforms = "accepted"          # packages can be added; true of most servers
//! cached_keys = "accepted"                # Intel's service holds the platform's root keys
//! smt = "accepted"
//! event_log = "required"                  # or "not-required"; what is there must fit
//! event_digests = "any"                   # or SHA-384 digests that events may have
//! fmspcs = "any"                          # models of platforms
//! platform_instances = "any"
//! tee_tcb_svns = "any"
//! mr_seams = "any"                        # or one value, or a list of values
//! mr_signer_seams = "any"
//! xfams = "any"                           # bytes as in the quote
//! mr_tds = "any"                          # the release decides; a list narrows it
//! rtmr0s = "any"
//! rtmr1s = "any"
//! rtmr2s = "any"
//! rtmr3s = "any"
//! mr_config_ids = "any"
//! mr_owners = "any"
//! mr_owner_configs = "any"
//! mr_service_tds = "000…000"              # zero: none is bound
//!
//! [tdx.attributes]
//! sept_ve_disable = "required"
//! single_step_defence = "not-required"    # ICSSD
//! service_domain_extension = "refused"    # SERVTD_EXT
//! lass = "accepted"
//! migratable = "refused"
//! protection_keys = "accepted"            # PKS
//! key_locker = "refused"                  # KL
//! quoting_domain = "refused"              # TPA
//! performance_monitoring = "refused"      # PERFMON
//! ```
//!
//! A domain under debug, an attribute that is not known, a revoked platform and a missing
//! revocation list are refused: no field accepts them.

use serde::{Deserialize, Deserializer, de};

use super::{Demand, Pin, Tolerance};
use crate::Name;
use crate::certificate::TrustAnchor;
use crate::tdx::{TcbStatus, intel_root};

/// What is demanded of a machine with Intel TDX.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxPolicy {
    /// Roots that may certify platforms.
    #[serde(deserialize_with = "roots")]
    pub roots: Vec<TrustAnchor>,
    /// Least number of the evaluation that Intel's documents stand for.
    pub minimum_tcb_evaluation: u32,
    /// Verdicts of Intel's that are accepted.
    #[serde(deserialize_with = "statuses")]
    pub tcb_statuses: Vec<TcbStatus>,
    /// Advisories that may apply.
    pub advisories: Vec<Name>,
    /// Packages can be added to the platform.
    pub dynamic_platforms: Tolerance,
    /// Intel's service holds the platform's root keys.
    pub cached_keys: Tolerance,
    /// The platform has simultaneous multithreading.
    pub smt: Tolerance,
    /// Whether an event log must explain the registers.
    pub event_log: Demand,
    /// Digests that events may have.
    pub event_digests: Pin<48>,
    /// Models of platforms.
    pub fmspcs: Pin<6>,
    /// Platforms.
    pub platform_instances: Pin<16>,
    /// Versions when the domain was made.
    pub tee_tcb_svns: Pin<16>,
    /// TDX modules.
    pub mr_seams: Pin<48>,
    /// Who signed the TDX module; zero for Intel.
    pub mr_signer_seams: Pin<48>,
    /// What of the processor's state the domain may use, as in the quote.
    pub xfams: Pin<8>,
    /// What was there before the start, beside those of the release.
    pub mr_tds: Pin<48>,
    /// Firmware configuration and ACPI tables, beside those of the release.
    pub rtmr0s: Pin<48>,
    /// Boot loader and kernel, beside those of the release.
    pub rtmr1s: Pin<48>,
    /// Command line and initrd, beside those of the release.
    pub rtmr2s: Pin<48>,
    /// What was measured at run time.
    pub rtmr3s: Pin<48>,
    /// Configuration that the host gave.
    pub mr_config_ids: Pin<48>,
    /// Owners that the host gave.
    pub mr_owners: Pin<48>,
    /// The owner's configuration that the host gave.
    pub mr_owner_configs: Pin<48>,
    /// Service domains that may be bound; zero for none.
    pub mr_service_tds: Pin<48>,
    /// What the domain was made with.
    pub attributes: TdxAttributesPolicy,
}

/// What the domain was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxAttributesPolicy {
    /// Pages that were not accepted cannot surprise the kernel.
    pub sept_ve_disable: Demand,
    /// The defence against single steps counts instructions.
    pub single_step_defence: Demand,
    /// The report holds more of service domains.
    pub service_domain_extension: Tolerance,
    /// May use linear address space separation.
    pub lass: Tolerance,
    /// Can be moved by a migration domain.
    pub migratable: Tolerance,
    /// May use protection keys for supervisor pages.
    pub protection_keys: Tolerance,
    /// May use Key Locker.
    pub key_locker: Tolerance,
    /// Is a quoting domain.
    pub quoting_domain: Tolerance,
    /// May use performance counters.
    pub performance_monitoring: Tolerance,
}

fn roots<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TrustAnchor>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let roots = names.iter().map(|name| match name.as_str() {
        "intel" => intel_root(),
        pem => TrustAnchor::from_pem(pem),
    });
    roots.collect::<Result<_, _>>().map_err(de::Error::custom)
}

fn statuses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TcbStatus>, D::Error> {
    let statuses = Vec::<TcbStatus>::deserialize(deserializer)?;
    match statuses.contains(&TcbStatus::Revoked) {
        true => Err(de::Error::custom("a revoked platform cannot be accepted")),
        false => Ok(statuses),
    }
}
