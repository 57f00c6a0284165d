//! Why a peer was not believed: which claim failed, what was expected, what was found, and what to
//! do about it.

use crate::azure::AzureError;
use crate::configuration::ConfigurationError;
use crate::eventlog::EventLogError;
use crate::evidence::EvidenceError;
use crate::gpu::GpuError;
use crate::release::statement::{ClientVersion, Revocation};
use crate::release::{CheckpointError, ReleaseError};
use crate::snp::SnpError;
use crate::tdx::{TdxError, TdxField};
use crate::tpm::Register;
use crate::tpm::chain::ChainError;
use crate::tpm::google::GoogleField;
use crate::tpm::quote::QuoteError;
use crate::{Digest, Name, PlatformKind, UnixTime};

/// A claim that failed. Nothing may be sent to a peer that was refused.
///
/// `Display` says what failed, in one line; [`Refusal::hint`] says what to do; [`Refusal::class`]
/// groups them as exit codes do. Names inside certificates come from the peer: who prints a refusal
/// escapes what a terminal would obey.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Not evidence.
    #[error("evidence: {0}")]
    Evidence(#[from] EvidenceError),
    /// Evidence of a platform that the policy does not accept.
    #[error("platform: {} is not accepted by the policy", found.as_str())]
    Platform {
        /// Platform found.
        found: PlatformKind,
    },
    /// The binding names another part than the one in the evidence.
    #[error("{part}: the channel is bound to {expected}, the evidence holds {found}")]
    Binding {
        /// The part.
        part: BoundPart,
        /// Digest that the binding names.
        expected: Digest<32>,
        /// Digest of the part in the evidence.
        found: Digest<32>,
    },
    /// Not a configuration.
    #[error("configuration: {0}")]
    Configuration(#[from] ConfigurationError),
    /// No release, or none that is signed and logged.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// A release of another name.
    #[error("release name: {expected} expected, found {found}")]
    ReleaseName {
        /// Name that the policy demands.
        expected: Name,
        /// Name that the release states.
        found: Name,
    },
    /// A release of another profile.
    #[error("release profile: {expected} expected, found {found}")]
    Profile {
        /// Profile that the policy demands.
        expected: Name,
        /// Profile that the release states.
        found: Name,
    },
    /// A release older than the policy allows.
    #[error("release version: at least {minimum} expected, found {found}")]
    Version {
        /// Least version that the policy accepts.
        minimum: u64,
        /// Version that the release states.
        found: u64,
    },
    /// A release older than one that was accepted before.
    #[error("release version: {seen} was accepted before, found {found}")]
    Rollback {
        /// Highest version accepted before.
        seen: u64,
        /// Version that the release states.
        found: u64,
    },
    /// Another release with the version of the one that was accepted before.
    #[error(
        "release version: another release {version} was accepted before, {seen}, found {found}"
    )]
    OtherRelease {
        /// Their version.
        version: u64,
        /// SHA-256 of the statement accepted before.
        seen: Digest<32>,
        /// Of this one.
        found: Digest<32>,
    },
    /// A release that its signer has revoked.
    #[error("release version: {} was revoked by its signer: {}", .0.version, .0.reason)]
    Revoked(Revocation),
    /// Nobody has said lately that the release is current.
    #[error("release age: last confirmed {confirmed}, at most {maximum} days ago expected")]
    Stale {
        /// When its signer last said that it is current.
        confirmed: UnixTime,
        /// How many days the policy allows.
        maximum: u32,
    },
    /// Something of the release is of a time that is yet to come.
    #[error("release age: confirmed {confirmed}, and it is {now}")]
    FromTheFuture {
        /// The time that it bears.
        confirmed: UnixTime,
        /// The client's time.
        now: UnixTime,
    },
    /// A release that this client is too old to judge.
    #[error("client version: at least {minimum} expected by the release, this is {own}")]
    ClientTooOld {
        /// Least version by the release.
        minimum: ClientVersion,
        /// Of this program.
        own: ClientVersion,
    },
    /// Too few of the policy's rebuilders got the same artifacts.
    #[error("rebuilders: {demanded} demanded by the policy, {found} got the same artifacts")]
    Rebuilders {
        /// How many the policy demands.
        demanded: usize,
        /// How many confirm the release.
        found: usize,
    },
    /// The log shows others something else than it shows us.
    #[error("log: had the root {expected} at {size} entries when seen before, now {found}")]
    SplitView {
        /// A size that both states of the log have had.
        size: u64,
        /// Root that was seen before.
        expected: Digest<32>,
        /// Root that is shown now.
        found: Digest<32>,
    },
    /// The log's history does not reach back to what was seen before, or the other way round.
    #[error("log: its history begins at entry {from}, proof is needed from entry {size} on")]
    HistoryTooShort {
        /// The smaller of both states of the log.
        size: u64,
        /// Where the history begins.
        from: u64,
    },
    /// Another configuration than the release's.
    #[error("configuration: {expected} expected by the release, found {found}")]
    ConfigurationDigest {
        /// SHA-256 that the release states.
        expected: Digest<32>,
        /// SHA-256 of the configuration in the evidence.
        found: Digest<32>,
    },
    /// The attestation key is not certified by a root of the policy.
    #[error("attestation key: {0}")]
    Chain(#[from] ChainError),
    /// The quote does not vouch for the registers and this handshake.
    #[error("quote: {0}")]
    Quote(#[from] QuoteError),
    /// A register does not hold what the release states.
    #[error("{register}: {expected} expected by the release, found {found}")]
    Register {
        /// The register.
        register: Register,
        /// Value that the release states.
        expected: Digest<48>,
        /// Value quoted.
        found: Digest<48>,
    },
    /// A register into which nothing may be measured is not empty.
    #[error("{register}: must be empty, found {found}")]
    NotEmpty {
        /// The register.
        register: Register,
        /// Value quoted.
        found: Digest<48>,
    },
    /// The event log is not sound.
    #[error("event log: {0}")]
    EventLog(#[from] EventLogError),
    /// The event log does not explain a register.
    #[error("{register}: quoted as {expected}, {events} events of the log give {found}")]
    Replay {
        /// The first register that differs.
        register: Register,
        /// Value quoted.
        expected: Digest<48>,
        /// Value that the log gives.
        found: Digest<48>,
        /// How many events of the log extend it.
        events: usize,
    },
    /// Secure Boot is off, and the policy demands it.
    #[error("Secure Boot: required by the policy, found disabled")]
    SecureBoot,
    /// The release says nothing of this platform.
    #[error("release: states no reference values for {}", platform.as_str())]
    NoReferenceValues {
        /// The platform.
        platform: PlatformKind,
    },
    /// A report of SEV-SNP that is not believed.
    #[error("SEV-SNP: {0}")]
    Snp(Box<SnpError>),
    /// A quote of TDX that is not believed.
    #[error("TDX: {0}")]
    Tdx(Box<TdxError>),
    /// A VM in Azure that is not believed.
    #[error("Azure: {0}")]
    Azure(Box<AzureError>),
    /// A virtual TPM of an instance that the policy does not list.
    #[error("{field}: {found} is not listed by the policy")]
    Google {
        /// Project or instance.
        field: GoogleField,
        /// Its number.
        found: u64,
    },
    /// GPUs or switches that are not believed.
    #[error("GPUs: {0}")]
    Gpu(Box<GpuError>),
    /// A machine with GPUs, and a policy that says nothing of them.
    #[error("GPUs: {devices} by the configuration, and the policy has no table [gpu]")]
    NoGpuPolicy {
        /// GPUs and switches by the configuration, or that gave evidence.
        devices: usize,
    },
    /// What was launched is none of the release's machines.
    #[error("launch digest: {found} is none of the {machines} that the release states")]
    LaunchDigest {
        /// Launch digest found.
        found: Digest<48>,
        /// How many the release states.
        machines: usize,
    },
    /// A register of a trust domain is that of none of the release's machines.
    #[error("{field}: {found} is that of none of the {machines} that the release states")]
    DomainRegister {
        /// The register.
        field: TdxField,
        /// Value in the quote.
        found: Digest<48>,
        /// How many of the release's machines fit in the registers before it.
        machines: usize,
    },
}

/// A part of evidence that the binding covers by its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoundPart {
    /// The configuration file.
    Configuration,
    /// The GPU evidence.
    Gpu,
}

/// What kind of fault a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// A signature, a certificate chain, or what they should have covered.
    Signature,
    /// Certificates that are out of date.
    Collateral,
    /// All is genuine, and not what the policy or the release demands.
    Policy,
    /// The transparency log does not vouch for the release.
    Log,
}

impl Refusal {
    /// What kind of fault this is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Chain(error) if error.fault.is_date() => Class::Collateral,
            Self::Release(
                ReleaseError::Missing
                | ReleaseError::Checkpoint(_)
                | ReleaseError::Inclusion { .. }
                | ReleaseError::History { .. }
                | ReleaseError::Witnesses { .. },
            )
            | Self::SplitView { .. }
            | Self::HistoryTooShort { .. } => Class::Log,
            Self::Release(ReleaseError::Sigstore(fault)) if fault.is_log() => Class::Log,
            Self::Release(ReleaseError::Sigstore(fault)) if fault.is_date() => Class::Collateral,
            Self::Release(ReleaseError::Sigstore(fault)) if fault.is_policy() => Class::Policy,
            Self::Release(ReleaseError::OtherKind { .. }) => Class::Policy,
            Self::Snp(error) if error.is_date() => Class::Collateral,
            Self::Snp(error) if error.is_forged() => Class::Signature,
            Self::Tdx(error) if error.is_date() => Class::Collateral,
            Self::Tdx(error) if error.is_forged() => Class::Signature,
            Self::Azure(error) if error.is_date() => Class::Collateral,
            Self::Azure(error) if error.is_forged() => Class::Signature,
            Self::Gpu(error) if error.is_date() => Class::Collateral,
            Self::Gpu(error) if error.is_forged() => Class::Signature,
            Self::Evidence(_)
            | Self::Binding { .. }
            | Self::Release(_)
            | Self::Chain(_)
            | Self::Quote(_)
            | Self::EventLog(_)
            | Self::Replay { .. } => Class::Signature,
            Self::Platform { .. }
            | Self::Configuration(_)
            | Self::ReleaseName { .. }
            | Self::Profile { .. }
            | Self::Version { .. }
            | Self::Rollback { .. }
            | Self::OtherRelease { .. }
            | Self::Revoked(_)
            | Self::Stale { .. }
            | Self::FromTheFuture { .. }
            | Self::ClientTooOld { .. }
            | Self::Rebuilders { .. }
            | Self::ConfigurationDigest { .. }
            | Self::Register { .. }
            | Self::NotEmpty { .. }
            | Self::SecureBoot
            | Self::NoReferenceValues { .. }
            | Self::Snp(_)
            | Self::LaunchDigest { .. }
            | Self::Tdx(_)
            | Self::Azure(_)
            | Self::Google { .. }
            | Self::Gpu(_)
            | Self::NoGpuPolicy { .. }
            | Self::DomainRegister { .. } => Class::Policy,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Evidence(_) => "the peer speaks another version, or is no Cloister server",
            Self::Platform { .. } => "name the platform in evidence.platforms if you accept it",
            Self::Binding { .. } => "the evidence was assembled from two sources: do not trust it",
            Self::Configuration(_) => "the operator must fix and re-assemble the configuration",
            Self::Release(error) => release_hint(error),
            Self::ReleaseName { .. } | Self::Profile { .. } => {
                "another product or profile runs there than your policy demands"
            }
            Self::Version { .. } => "the operator must deploy a newer release",
            Self::Rollback { .. } => "the operator went back to an older release: ask why",
            Self::OtherRelease { .. } => {
                "the signer made two releases of one version: keep your state folder as proof"
            }
            Self::Revoked(_) => "the operator must deploy a release that is not revoked",
            Self::Stale { .. } => {
                "the operator must attach a recent status of the release, or deploy a newer one"
            }
            Self::FromTheFuture { .. } => "check your clock; if it is right, ask the signer",
            Self::ClientTooOld { .. } => "update this program",
            Self::Rebuilders { .. } => {
                "ask the operator to attach what the rebuilders signed, or rebuild it yourself"
            }
            Self::SplitView { .. } => {
                "the log has two faces: keep your state folder as proof, and tell the log's users"
            }
            Self::HistoryTooShort { .. } => {
                "ask the operator for a bundle with a longer history, and give it by --release"
            }
            Self::ConfigurationDigest { .. } => {
                "the server runs a configuration that its release does not state"
            }
            Self::Chain(error) if error.fault.is_date() => {
                "check your clock; if it is right, the operator must renew the certificate"
            }
            Self::Chain(_) => "if you know the TPM's authority, name it in tpm.roots",
            Self::Quote(QuoteError::QualifyingData { .. }) => {
                "the evidence belongs to another connection: someone may stand between you"
            }
            Self::Quote(_) | Self::EventLog(_) | Self::Replay { .. } => {
                "the evidence was altered or the TPM is not genuine: do not trust this server"
            }
            Self::Snp(error) => error.hint(),
            Self::Tdx(error) => error.hint(),
            Self::Azure(error) => error.hint(),
            Self::Google { .. } => "if the project is yours, name it in [google-vtpm]",
            Self::Gpu(error) => error.hint(),
            Self::NoGpuPolicy { .. } => "say in a table [gpu] which GPUs you accept",
            Self::NoReferenceValues { .. } => {
                "the operator must publish a release for this platform"
            }
            Self::Register { .. } | Self::LaunchDigest { .. } | Self::DomainRegister { .. } => {
                "what was started is not what the release states: compare the release's artifacts"
            }
            Self::NotEmpty { .. } => {
                "the host added something to the boot that the release does not know"
            }
            Self::SecureBoot => "enable Secure Boot on the host, or relax tpm.secure_boot",
        }
    }
}

fn release_hint(error: &ReleaseError) -> &'static str {
    match error {
        ReleaseError::Missing => "the operator must attach the release, or give its file yourself",
        ReleaseError::Bundle(_) | ReleaseError::Statement(_) | ReleaseError::Remark(_) => {
            "the release file is damaged or of another version: fetch it again"
        }
        ReleaseError::Envelope(_) => "if you trust its signer, name the key in release.signers",
        ReleaseError::Checkpoint(CheckpointError::Cosignature { .. }) => {
            "check release.witnesses; if they are right, the checkpoint was forged"
        }
        ReleaseError::Checkpoint(_) => "check release.log_origin and release.log_key",
        ReleaseError::Inclusion { .. } => "the release is not in the log: do not trust it",
        ReleaseError::History { .. } => "the bundle was put together wrongly: fetch it again",
        ReleaseError::Sigstore(fault) => fault.hint(),
        ReleaseError::OtherKind { .. } => {
            "ask who gave you the policy for one that names how this server's releases are signed"
        }
        ReleaseError::Witnesses { .. } => {
            "the operator must attach a checkpoint that more of release.witnesses have signed"
        }
    }
}

impl From<SnpError> for Refusal {
    fn from(error: SnpError) -> Self {
        Self::Snp(Box::new(error))
    }
}

impl From<TdxError> for Refusal {
    fn from(error: TdxError) -> Self {
        Self::Tdx(Box::new(error))
    }
}

impl From<AzureError> for Refusal {
    fn from(error: AzureError) -> Self {
        Self::Azure(Box::new(error))
    }
}

impl From<GpuError> for Refusal {
    fn from(error: GpuError) -> Self {
        Self::Gpu(Box::new(error))
    }
}

impl std::fmt::Display for BoundPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Configuration => "configuration",
            Self::Gpu => "GPU evidence",
        })
    }
}
