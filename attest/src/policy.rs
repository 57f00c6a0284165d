//! What a person demands of a peer. Complete: no field is optional, so nothing is unchecked
//! because it was left out. Whatever relaxes a demand is a value that says so, and every report
//! shows it.
//!
//! ```toml
//! version = 3
//!
//! [release]
//! name = "cloister"
//! profile = "production"
//! signers = ["ed25519:BASE64"]            # one of these must have signed the release
//! log_origin = "log.example.org/cloister"
//! log_key = "ed25519:BASE64"              # signs the log's checkpoints
//! minimum_version = 1
//! maximum_age_days = 90                   # since its signer last confirmed it; or "any"
//! minimum_witnesses = 1                   # of those below, on the log's checkpoint
//! witnesses = [{ name = "witness.example.org/w", key = "ed25519:BASE64" }]
//! minimum_rebuilders = 0                  # of those below, with the same artifacts
//! rebuilders = [{ name = "somebody", key = "ed25519:BASE64" }]
//!
//! [tpm]
//! roots = ["-----BEGIN CERTIFICATE----- …"]
//! secure_boot = "required"                # or "not-required"
//!
//! [evidence]
//! platforms = ["tpm"]
//!
//! [channel]
//! assurance = "per-handshake"
//! reattest_seconds = 600                  # 0: fresh evidence before every request
//! ```
//!
//! Releases in Sigstore have other fields, drawn at [`SigstorePolicy`]. A file of version 1 has no
//! `reattest_seconds`: evidence is asked for anew after [`REATTEST_SECONDS`]. Only version 3 may
//! have a table `[gpu]`; else it is as version 2.
//!
//! A platform has its table exactly where `evidence.platforms` names it; the one of SEV-SNP is
//! drawn at [`SnpPolicy`], the one of TDX at [`TdxPolicy`], the one of Google's virtual TPMs at
//! [`GooglePolicy`]. A VM in Azure has two: `[azure]`, drawn at [`AzurePolicy`], and that of its
//! hardware, which must pin the paravisor. A table `[gpu]`, drawn at [`GpuPolicy`], is there where
//! machines with GPUs are accepted.

use serde::{Deserialize, Deserializer, de};

use crate::PlatformKind;
use crate::snp::Product;
use crate::tpm::chain::TrustAnchor;
use crate::tpm::google as google_vtpm;
use crate::tpm::vtpm::REGISTERS;

mod azure;
mod google;
mod gpu;
mod machine;
mod release;
mod snp;
mod tdx;
mod value;

pub use azure::{AzurePolicy, RegisterPolicy};
pub use google::GooglePolicy;
pub use gpu::{GpuPolicy, GpuRevocation};
pub use machine::{MachinePolicy, NamedKey, TpmQuotePolicy};
pub use release::{
    LogPolicy, Publication, Rebuilder, ReleasePolicy, SignerError, SigstorePolicy,
    SigstoreRebuilder, TrustedRoot,
};
pub use snp::{ProductPolicy, SigningKeys, SnpGuestPolicy, SnpPlatformPolicy, SnpPolicy};
pub use tdx::{TdxAttributesPolicy, TdxPolicy};
pub use value::{Demand, MaximumAge, Numbers, Pin, Tolerance};

/// Longest policy file.
pub const MAX_POLICY_BYTES: usize = 256 << 10;

/// How old evidence may be under a policy of version 1, which does not say.
pub const REATTEST_SECONDS: u32 = 600;

/// The greatest age of evidence that a policy may allow: the life of a session.
pub const MAX_REATTEST_SECONDS: u32 = 24 * 60 * 60;

const VERSION: u64 = 3;
/// The least privilege that SEV-SNP knows.
const MAX_VMPL: u32 = 3;
const VERSION_WITHOUT_GPU: u64 = 2;
const VERSION_WITHOUT_REATTESTATION: u64 = 1;

/// A policy whose every field is present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Version of the file's form: 1 to 3.
    pub version: u64,
    /// Which software may answer.
    pub release: ReleasePolicy,
    /// Which TPMs may vouch for it; there if, and only if, the platform is accepted.
    pub tpm: Option<TpmPolicy>,
    /// Which machines with SEV-SNP may; there if, and only if, it or Azure on it is accepted.
    pub snp: Option<SnpPolicy>,
    /// Which machines with TDX may; there if, and only if, it or Azure on it is accepted.
    pub tdx: Option<TdxPolicy>,
    /// Which VMs in Azure may; there if, and only if, one of both is accepted.
    pub azure: Option<AzurePolicy>,
    /// Which virtual TPMs of Google's may; there if, and only if, the platform is accepted.
    pub google: Option<GooglePolicy>,
    /// Which GPUs a machine may have; none without it.
    pub gpu: Option<GpuPolicy>,
    /// Which platforms are accepted.
    pub evidence: EvidencePolicy,
    /// How closely evidence must be bound to the channel.
    pub channel: ChannelPolicy,
}

/// Which TPMs may vouch for the software.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmPolicy {
    /// Certificate authorities that may certify an attestation key: `"google"`, which stands for
    /// that of Google's cloud, or others in PEM form.
    #[serde(deserialize_with = "tpm_roots")]
    pub roots: Vec<TrustAnchor>,
    /// Whether the firmware must enforce Secure Boot.
    pub secure_boot: SecureBootPolicy,
}

fn tpm_roots<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TrustAnchor>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let roots = names.iter().map(|name| match name.as_str() {
        "google" => google_vtpm::root(),
        pem => TrustAnchor::from_pem(pem),
    });
    roots.collect::<Result<_, _>>().map_err(de::Error::custom)
}

/// Whether the firmware must enforce Secure Boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecureBootPolicy {
    /// Off is refused.
    Required,
    /// Off is accepted, and reported.
    NotRequired,
}

/// Which platforms are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidencePolicy {
    /// Platforms by name, at least one.
    pub platforms: Vec<PlatformKind>,
}

/// How closely evidence must be bound to the channel, and how old it may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelPolicy {
    /// The least assurance accepted.
    pub assurance: AssurancePolicy,
    /// After so many seconds nothing more is sent before the peer gave fresh evidence.
    pub reattest_seconds: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    version: u64,
    release: ReleasePolicy,
    tpm: Option<TpmPolicy>,
    snp: Option<SnpPolicy>,
    tdx: Option<TdxPolicy>,
    azure: Option<AzurePolicy>,
    #[serde(rename = "google-vtpm")]
    google: Option<GooglePolicy>,
    gpu: Option<GpuPolicy>,
    evidence: EvidencePolicy,
    channel: ChannelForm,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChannelForm {
    assurance: AssurancePolicy,
    reattest_seconds: Option<u32>,
}

/// The least assurance accepted of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AssurancePolicy {
    /// Evidence is made for exactly this handshake.
    PerHandshake,
}

/// A list that must name something, and names nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// `release.signers`
    Signers,
    /// `tpm.roots`
    TpmRoots,
    /// `snp.products`
    SnpProducts,
    /// `snp.signing_keys`
    SnpSigningKeys,
    /// `snp.vmpls`
    SnpVmpls,
    /// `tdx.roots`
    TdxRoots,
    /// `tdx.tcb_statuses`
    TdxStatuses,
    /// `gpu.device_roots`
    GpuDeviceRoots,
    /// `gpu.manifest_roots`
    GpuManifestRoots,
    /// `gpu.chips`
    GpuChips,
    /// `gpu.modes`
    GpuModes,
    /// `tpm-quote.keys` and `tpm-quote.roots`
    TpmQuoteKeys,
    /// `google-vtpm.roots`
    GoogleRoots,
    /// `evidence.platforms`
    Platforms,
}

/// Those of whom a policy demands a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quorum {
    /// `release.witnesses`
    Witnesses,
    /// `release.rebuilders`
    Rebuilders,
}

/// What versions 2 and 3 of the file brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Later {
    /// `channel.reattest_seconds`
    Reattestation,
    /// `release.sigstore`
    Sigstore,
    /// `gpu.revocation`
    GpuRevocation,
    /// `[tpm-quote]`
    TpmQuote,
}

impl Later {
    const fn since(self) -> u64 {
        match self {
            Self::Reattestation | Self::Sigstore | Self::TpmQuote => VERSION_WITHOUT_GPU,
            Self::GpuRevocation => VERSION,
        }
    }
}

impl std::fmt::Display for Later {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Reattestation => "channel.reattest_seconds",
            Self::Sigstore => "release.sigstore",
            Self::GpuRevocation => "gpu.revocation",
            Self::TpmQuote => "[tpm-quote]",
        })
    }
}

/// Why a file is not a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Longer than [`MAX_POLICY_BYTES`].
    #[error("{found} bytes, {MAX_POLICY_BYTES} allowed")]
    TooLarge {
        /// Length found.
        found: usize,
    },
    /// Not UTF-8.
    #[error("not UTF-8")]
    Text,
    /// Not TOML, or a key is missing, unknown or of another type.
    #[error("{}", .0.message())]
    Toml(Box<toml::de::Error>),
    /// A version of the file that this program does not know.
    #[error("version {found}, {VERSION_WITHOUT_REATTESTATION} to {VERSION} expected")]
    Version {
        /// Version found.
        found: u64,
    },
    /// From version 2 on, a policy says how old evidence may become.
    #[error(
        "version {VERSION_WITHOUT_GPU} or later, and missing field `reattest_seconds` in \
             [channel]"
    )]
    NoReattestation,
    /// The file's version does not know a field that it has.
    #[error("{later} is of version {since}, and the policy of an earlier one",
            later = .0, since = .0.since())]
    Later(Later),
    /// Evidence would never be asked for again.
    #[error("channel.reattest_seconds = {found}, at most {MAX_REATTEST_SECONDS} allowed")]
    Reattestation {
        /// Seconds found.
        found: u32,
    },
    /// A list that must name something is empty.
    #[error("{} is empty", match .0 {
        List::Signers => "release.signers",
        List::TpmRoots => "tpm.roots",
        List::SnpProducts => "snp.products",
        List::SnpSigningKeys => "snp.signing_keys",
        List::SnpVmpls => "snp.vmpls",
        List::TdxRoots => "tdx.roots",
        List::TdxStatuses => "tdx.tcb_statuses",
        List::GpuDeviceRoots => "gpu.device_roots",
        List::GpuManifestRoots => "gpu.manifest_roots",
        List::GpuChips => "gpu.chips",
        List::GpuModes => "gpu.modes",
        List::TpmQuoteKeys => "tpm-quote.keys and tpm-quote.roots",
        List::GoogleRoots => "google-vtpm.roots",
        List::Platforms => "evidence.platforms",
    })]
    Empty(List),
    /// More are demanded than are named.
    #[error("{demanded} {quorum} are demanded, {named} are named")]
    Quorum {
        /// Witnesses or rebuilders.
        quorum: Quorum,
        /// How many the policy demands.
        demanded: usize,
        /// How many it names.
        named: usize,
    },
    /// One is named twice, and would count twice.
    #[error("two {0} have the same name or key")]
    Twice(Quorum),
    /// The log would be its own witness, or the signer confirm its own release.
    #[error("{}", match .0 {
        Quorum::Witnesses => "a witness has the log's own key",
        Quorum::Rebuilders => "a rebuilder is the signer of releases",
    })]
    Own(Quorum),
    /// Two say different things of the same machines: the first would count.
    #[error("two entries of snp.products have the name {0} and the same root")]
    SameProduct(Product),
    /// A platform is accepted, and nothing says what is demanded of it.
    #[error("evidence.platforms names {kind}, and there is no table [{kind}]", kind = .0.as_str())]
    MissingTable(PlatformKind),
    /// There is a table of a platform that is not accepted.
    #[error("table [{kind}], and evidence.platforms does not name it", kind = .0.as_str())]
    UnusedTable(PlatformKind),
    /// A VM in Azure is accepted, and there is no table `[azure]`; or the other way round.
    #[error("[azure] stands where evidence.platforms names azure-snp or azure-tdx, and only there")]
    Azure,
    /// Anybody could make the paravisor's report: nothing says which paravisor is believed.
    #[error("{}", match .0 {
        PlatformKind::AzureTdx => "azure-tdx is accepted, and tdx.mr_tds pins no paravisor",
        _ => "azure-snp is accepted, and neither snp.launch_digests nor snp.id_key_digests pins \
              a paravisor",
    })]
    Paravisor(PlatformKind),
    /// Registers of servers are those of the release, in another bank.
    #[error("azure.pcrs is for evidence without a release: of a server the release says them")]
    AzureRegisters,
    /// No machine has such a privilege level.
    #[error("snp.vmpls names {found}, and there are 0 to {MAX_VMPL}")]
    Vmpl {
        /// Level found.
        found: u32,
    },
    /// No TPM has such a register.
    #[error("{table}.pcrs names register {found}, and there are 0 to {last}",
            last = REGISTERS - 1)]
    Register {
        /// Table that pins it.
        table: &'static str,
        /// Register found.
        found: u8,
    },
    /// Only one of both could be meant.
    #[error("{table}.pcrs names register {register} twice")]
    RegisterTwice {
        /// Table that pins it.
        table: &'static str,
        /// The register.
        register: u8,
    },
}

impl Policy {
    /// Reads a policy file.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > MAX_POLICY_BYTES {
            return Err(PolicyError::TooLarge { found: bytes.len() });
        }
        let text = std::str::from_utf8(bytes).map_err(|_| PolicyError::Text)?;
        let form: Form =
            toml::from_str(text).map_err(|error| PolicyError::Toml(Box::new(error)))?;
        let policy = Self {
            version: form.version,
            channel: ChannelPolicy {
                assurance: form.channel.assurance,
                reattest_seconds: form.reattest_seconds()?,
            },
            release: form.release,
            tpm: form.tpm,
            snp: form.snp,
            tdx: form.tdx,
            azure: form.azure,
            google: form.google,
            gpu: form.gpu,
            evidence: form.evidence,
        };
        if policy.gpu.is_some() && policy.version < VERSION {
            return Err(PolicyError::Later(Later::GpuRevocation));
        }
        policy.check_lists()?;
        policy.release.check_quorums()?;
        policy.check_tables()?;
        check_snp(policy.snp.as_ref())?;
        Ok(policy)
    }

    fn check_tables(&self) -> Result<(), PolicyError> {
        let names = |kind: &PlatformKind| self.evidence.platforms.contains(kind);
        let (azure_snp, azure_tdx) = (PlatformKind::AzureSnp, PlatformKind::AzureTdx);
        for (platform, other, table) in [
            (PlatformKind::Tpm, None, self.tpm.is_some()),
            (PlatformKind::Snp, Some(azure_snp), self.snp.is_some()),
            (PlatformKind::Tdx, Some(azure_tdx), self.tdx.is_some()),
            (PlatformKind::GoogleVtpm, None, self.google.is_some()),
        ] {
            let is_named = names(&platform) || other.as_ref().is_some_and(names);
            match (is_named, table) {
                (true, false) => return Err(PolicyError::MissingTable(platform)),
                (false, true) => return Err(PolicyError::UnusedTable(platform)),
                _ => {}
            }
        }
        if self.azure.is_some() != (names(&azure_snp) || names(&azure_tdx)) {
            return Err(PolicyError::Azure);
        }
        if self
            .azure
            .as_ref()
            .is_some_and(|azure| !azure.pcrs.is_empty())
        {
            return Err(PolicyError::AzureRegisters);
        }
        let pins = |snp: &SnpPolicy| snp.launch_digests.is_set() || snp.id_key_digests.is_set();
        if names(&azure_snp) && !self.snp.as_ref().is_some_and(pins) {
            return Err(PolicyError::Paravisor(azure_snp));
        }
        let pins = |tdx: &TdxPolicy| tdx.mr_tds.is_set();
        if names(&azure_tdx) && !self.tdx.as_ref().is_some_and(pins) {
            return Err(PolicyError::Paravisor(azure_tdx));
        }
        Ok(())
    }

    fn check_lists(&self) -> Result<(), PolicyError> {
        let mut lists = vec![
            (
                List::Signers,
                self.release.log().is_some_and(|log| log.signers.is_empty()),
            ),
            (List::Platforms, self.evidence.platforms.is_empty()),
        ];
        if let Some(tpm) = &self.tpm {
            lists.push((List::TpmRoots, tpm.roots.is_empty()));
        }
        let tables = Tables {
            snp: self.snp.as_ref(),
            tdx: self.tdx.as_ref(),
            google: self.google.as_ref(),
            gpu: self.gpu.as_ref(),
        };
        lists.extend(tables.lists());
        match lists.into_iter().find(|(_, empty)| *empty) {
            Some((list, _)) => Err(PolicyError::Empty(list)),
            None => Ok(()),
        }
    }
}

fn check_snp(snp: Option<&SnpPolicy>) -> Result<(), PolicyError> {
    let levels = snp.map_or(&[][..], |snp| &snp.vmpls);
    if let Some(&found) = levels.iter().find(|&&level| level > MAX_VMPL) {
        return Err(PolicyError::Vmpl { found });
    }
    let products = snp.map_or(&[][..], |snp| &snp.products);
    for (index, one) in products.iter().enumerate() {
        let mut before = products[..index].iter();
        if before.any(|other| (other.name, &other.root) == (one.name, &one.root)) {
            return Err(PolicyError::SameProduct(one.name));
        }
    }
    Ok(())
}

/// Each register is one that a TPM has, and is pinned once.
fn check_registers(table: &'static str, pinned: &[RegisterPolicy]) -> Result<(), PolicyError> {
    for (index, one) in pinned.iter().enumerate() {
        let register = one.register().0;
        if usize::from(register) >= REGISTERS {
            let found = register;
            return Err(PolicyError::Register { table, found });
        }
        let mut before = pinned[..index].iter();
        if before.any(|other| other.register() == one.register()) {
            return Err(PolicyError::RegisterTwice { table, register });
        }
    }
    Ok(())
}

/// Tables of machines.
struct Tables<'a> {
    snp: Option<&'a SnpPolicy>,
    tdx: Option<&'a TdxPolicy>,
    google: Option<&'a GooglePolicy>,
    gpu: Option<&'a GpuPolicy>,
}

impl Tables<'_> {
    /// Their lists, and whether they are empty.
    fn lists(&self) -> Vec<(List, bool)> {
        let mut lists = Vec::new();
        if let Some(snp) = self.snp {
            lists.extend([
                (List::SnpProducts, snp.products.is_empty()),
                (List::SnpSigningKeys, snp.signing_keys.is_empty()),
                (List::SnpVmpls, snp.vmpls.is_empty()),
            ]);
        }
        if let Some(tdx) = self.tdx {
            lists.extend([
                (List::TdxRoots, tdx.roots.is_empty()),
                (List::TdxStatuses, tdx.tcb_statuses.is_empty()),
            ]);
        }
        if let Some(google) = self.google {
            lists.push((List::GoogleRoots, google.roots.is_empty()));
        }
        if let Some(gpu) = self.gpu {
            lists.extend([
                (List::GpuDeviceRoots, gpu.device_roots.is_empty()),
                (List::GpuManifestRoots, gpu.manifest_roots.is_empty()),
                (List::GpuChips, gpu.chips.is_empty()),
                (List::GpuModes, gpu.modes.is_empty()),
            ]);
        }
        lists
    }
}

impl Form {
    fn reattest_seconds(&self) -> Result<u32, PolicyError> {
        match (self.version, self.channel.reattest_seconds) {
            (VERSION_WITHOUT_GPU | VERSION, Some(found)) if found > MAX_REATTEST_SECONDS => {
                Err(PolicyError::Reattestation { found })
            }
            (VERSION_WITHOUT_GPU | VERSION, Some(seconds)) => Ok(seconds),
            (VERSION_WITHOUT_GPU | VERSION, None) => Err(PolicyError::NoReattestation),
            (VERSION_WITHOUT_REATTESTATION, Some(_)) => {
                Err(PolicyError::Later(Later::Reattestation))
            }
            (VERSION_WITHOUT_REATTESTATION, None) if self.release.sigstore().is_some() => {
                Err(PolicyError::Later(Later::Sigstore))
            }
            (VERSION_WITHOUT_REATTESTATION, None) => Ok(REATTEST_SECONDS),
            (found, _) => Err(PolicyError::Version { found }),
        }
    }
}

impl std::fmt::Display for Quorum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Witnesses => "witnesses",
            Self::Rebuilders => "rebuilders",
        })
    }
}
