//! What a person demands of a peer. Complete: no field is optional, so nothing is unchecked
//! because it was left out. Whatever relaxes a demand is a value that says so, and every report
//! shows it.
//!
//! ```toml
//! version = 1
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
//! ```
//!
//! A platform has its table exactly where `evidence.platforms` names it; the one of SEV-SNP is
//! drawn at [`SnpPolicy`], the one of TDX at [`TdxPolicy`].

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::release::{Origin, PublicKey, Witness};
use crate::tpm::chain::TrustAnchor;
use crate::{Digest, Name, PlatformKind};

mod snp;
mod tdx;
mod value;

pub use snp::{ProductPolicy, SnpGuestPolicy, SnpPlatformPolicy, SnpPolicy};
pub use tdx::{TdxAttributesPolicy, TdxPolicy};
pub use value::{Demand, MaximumAge, Pin, Tolerance};

/// Longest policy file.
pub const MAX_POLICY_BYTES: usize = 256 << 10;

/// A policy whose every field is present.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    version: u64,
    /// Which software may answer.
    pub release: ReleasePolicy,
    /// Which TPMs may vouch for it; there if, and only if, the platform is accepted.
    pub tpm: Option<TpmPolicy>,
    /// Which machines with SEV-SNP may; there if, and only if, the platform is accepted.
    pub snp: Option<SnpPolicy>,
    /// Which machines with TDX may; there if, and only if, the platform is accepted.
    pub tdx: Option<TdxPolicy>,
    /// Which platforms are accepted.
    pub evidence: EvidencePolicy,
    /// How closely evidence must be bound to the channel.
    pub channel: ChannelPolicy,
}

/// Which software may answer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleasePolicy {
    /// Name of the release.
    pub name: Name,
    /// Profile of the image.
    pub profile: Name,
    /// Keys of which one must have signed the release statement.
    pub signers: Vec<PublicKey>,
    /// Name of the log that must hold the release.
    pub log_origin: Origin,
    /// Key that signs the log's checkpoints.
    pub log_key: PublicKey,
    /// Least version accepted.
    pub minimum_version: u64,
    /// How long ago its signer may have said last that it is current.
    pub maximum_age_days: MaximumAge,
    /// How many of the witnesses must have signed the log's checkpoint.
    pub minimum_witnesses: usize,
    /// Witnesses that are trusted.
    pub witnesses: Vec<Witness>,
    /// How many of the rebuilders must have got the same artifacts.
    pub minimum_rebuilders: usize,
    /// Rebuilders that are trusted.
    pub rebuilders: Vec<Rebuilder>,
}

/// Somebody who rebuilds releases.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rebuilder {
    /// A name of the policy's choice.
    pub name: Name,
    /// The key that signs.
    pub key: PublicKey,
}

/// Which TPMs may vouch for the software.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmPolicy {
    /// Certificate authorities that may certify an attestation key.
    pub roots: Vec<TrustAnchor>,
    /// Whether the firmware must enforce Secure Boot.
    pub secure_boot: SecureBootPolicy,
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

/// How closely evidence must be bound to the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelPolicy {
    /// The least assurance accepted.
    pub assurance: AssurancePolicy,
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
    #[error("version {found}, 1 expected")]
    Version {
        /// Version found.
        found: u64,
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
    /// A platform is accepted, and nothing says what is demanded of it.
    #[error("evidence.platforms names {kind}, and there is no table [{kind}]", kind = .0.as_str())]
    MissingTable(PlatformKind),
    /// There is a table of a platform that is not accepted.
    #[error("table [{kind}], and evidence.platforms does not name it", kind = .0.as_str())]
    UnusedTable(PlatformKind),
}

/// What a person demands of machines, whatever they run: for evidence without a release.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachinePolicy {
    version: u64,
    /// Of machines with SEV-SNP.
    pub snp: Option<SnpPolicy>,
    /// Of machines with TDX.
    pub tdx: Option<TdxPolicy>,
}

impl MachinePolicy {
    /// Reads a policy file, or one that has only `version` and the tables of platforms.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > MAX_POLICY_BYTES {
            return Err(PolicyError::TooLarge { found: bytes.len() });
        }
        let text = std::str::from_utf8(bytes).map_err(|_| PolicyError::Text)?;
        let fault = |error| PolicyError::Toml(Box::new(error));
        let table: toml::Table = toml::from_str(text).map_err(fault)?;
        if table.contains_key("release") {
            let Policy {
                version, snp, tdx, ..
            } = Policy::parse(bytes)?;
            return Ok(Self { version, snp, tdx });
        }
        let only: Self = toml::from_str(text).map_err(fault)?;
        match only.version {
            1 => only.check(),
            found => Err(PolicyError::Version { found }),
        }
    }

    fn check(self) -> Result<Self, PolicyError> {
        let lists = platform_lists(self.snp.as_ref(), self.tdx.as_ref());
        match lists.into_iter().find(|(_, empty)| *empty) {
            Some((list, _)) => Err(PolicyError::Empty(list)),
            None => Ok(self),
        }
    }
}

impl Policy {
    /// Reads a policy file.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > MAX_POLICY_BYTES {
            return Err(PolicyError::TooLarge { found: bytes.len() });
        }
        let text = std::str::from_utf8(bytes).map_err(|_| PolicyError::Text)?;
        let policy: Self =
            toml::from_str(text).map_err(|error| PolicyError::Toml(Box::new(error)))?;
        if policy.version != 1 {
            return Err(PolicyError::Version {
                found: policy.version,
            });
        }
        policy.check_lists()?;
        policy.release.check_quorums()?;
        policy.check_tables()?;
        Ok(policy)
    }

    fn check_tables(&self) -> Result<(), PolicyError> {
        for (platform, table) in [
            (PlatformKind::Tpm, self.tpm.is_some()),
            (PlatformKind::Snp, self.snp.is_some()),
            (PlatformKind::Tdx, self.tdx.is_some()),
        ] {
            match (self.evidence.platforms.contains(&platform), table) {
                (true, false) => return Err(PolicyError::MissingTable(platform)),
                (false, true) => return Err(PolicyError::UnusedTable(platform)),
                _ => {}
            }
        }
        Ok(())
    }

    fn check_lists(&self) -> Result<(), PolicyError> {
        let mut lists = vec![
            (List::Signers, self.release.signers.is_empty()),
            (List::Platforms, self.evidence.platforms.is_empty()),
        ];
        if let Some(tpm) = &self.tpm {
            lists.push((List::TpmRoots, tpm.roots.is_empty()));
        }
        lists.extend(platform_lists(self.snp.as_ref(), self.tdx.as_ref()));
        match lists.into_iter().find(|(_, empty)| *empty) {
            Some((list, _)) => Err(PolicyError::Empty(list)),
            None => Ok(()),
        }
    }
}

/// Lists of the platforms' tables, and whether they are empty.
fn platform_lists(snp: Option<&SnpPolicy>, tdx: Option<&TdxPolicy>) -> Vec<(List, bool)> {
    let mut lists = Vec::new();
    if let Some(snp) = snp {
        lists.extend([
            (List::SnpProducts, snp.products.is_empty()),
            (List::SnpSigningKeys, snp.signing_keys.is_empty()),
            (List::SnpVmpls, snp.vmpls.is_empty()),
        ]);
    }
    if let Some(tdx) = tdx {
        lists.extend([
            (List::TdxRoots, tdx.roots.is_empty()),
            (List::TdxStatuses, tdx.tcb_statuses.is_empty()),
        ]);
    }
    lists
}

impl ReleasePolicy {
    fn check_quorums(&self) -> Result<(), PolicyError> {
        let witnesses = self
            .witnesses
            .iter()
            .map(|one| (one.name.as_str(), one.key));
        let rebuilders = self
            .rebuilders
            .iter()
            .map(|one| (one.name.as_str(), one.key));
        for (quorum, demanded, named) in [
            (
                Quorum::Witnesses,
                self.minimum_witnesses,
                witnesses.collect::<Vec<_>>(),
            ),
            (
                Quorum::Rebuilders,
                self.minimum_rebuilders,
                rebuilders.collect(),
            ),
        ] {
            if demanded > named.len() {
                let named = named.len();
                return Err(PolicyError::Quorum {
                    quorum,
                    demanded,
                    named,
                });
            }
            for (at, (name, key)) in named.iter().enumerate() {
                let mut before = named[..at].iter();
                if before.any(|(other, same)| other == name || same == key) {
                    return Err(PolicyError::Twice(quorum));
                }
            }
        }
        Ok(())
    }

    /// Names the line of releases that these signers make under this name and profile: versions
    /// are compared within it, so that a floor is kept for each.
    #[must_use]
    pub fn line(&self) -> Digest<32> {
        let mut signers: Vec<[u8; 32]> = self.signers.iter().map(PublicKey::to_bytes).collect();
        signers.sort_unstable();
        signers.dedup();
        let mut hash = Sha256::new();
        for name in [self.name.as_str(), self.profile.as_str()] {
            hash.update((name.len() as u64).to_be_bytes());
            hash.update(name);
        }
        signers.iter().for_each(|signer| hash.update(signer));
        Digest(hash.finalize().into())
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
