//! Which software may answer, and who must vouch for it: a signer with a log of its own, or
//! Sigstore. A file holds the fields of one of the two; `[release.sigstore]` decides which.

use serde::{Deserialize, Deserializer, de};
use sha2::{Digest as _, Sha256};

use super::{MaximumAge, PolicyError, Quorum};
use crate::release::{Origin, PublicKey, SigstoreSigner, Witness};
use crate::{Digest, Name, Text};

/// Which software may answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleasePolicy {
    /// Name of the release.
    pub name: Name,
    /// Profile of the image.
    pub profile: Name,
    /// Least version accepted.
    pub minimum_version: u64,
    /// How long ago its signer may have said last that it is current.
    pub maximum_age_days: MaximumAge,
    /// How many of the rebuilders must have got the same artifacts.
    pub minimum_rebuilders: usize,
    /// Who must have signed it, and which log must hold it.
    pub published: Publication,
}

/// Who signs releases, and where they are logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Publication {
    /// Keys of the policy sign, and a log holds it that signs its own checkpoints.
    Log(LogPolicy),
    /// Signed and logged with Sigstore.
    Sigstore(SigstorePolicy),
}

/// Of releases in a log of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPolicy {
    /// Keys of which one must have signed the release statement.
    pub signers: Vec<PublicKey>,
    /// Name of the log that must hold the release.
    pub log_origin: Origin,
    /// Key that signs the log's checkpoints.
    pub log_key: PublicKey,
    /// How many of the witnesses must have signed the log's checkpoint.
    pub minimum_witnesses: usize,
    /// Witnesses that are trusted.
    pub witnesses: Vec<Witness>,
    /// Rebuilders that are trusted.
    pub rebuilders: Vec<Rebuilder>,
}

/// Of releases in Sigstore.
///
/// ```toml
/// [release]
/// name = "cloister"
/// profile = "production"
/// minimum_version = 1
/// maximum_age_days = 90
/// minimum_rebuilders = 0
///
/// [release.sigstore]                      # identity and issuer, or key = "-----BEGIN…"
/// identity = "https://github.com/OWNER/REPO/.github/workflows/release.yml@refs/tags/v{version}"
/// issuer = "https://token.actions.githubusercontent.com"
/// trusted_root = { built_in = "public-good-2025-09-23" }    # or { file = "trusted_root.json" }
/// rebuilders = [{ name = "alice", identity = "alice@example.org", issuer = "https://…" }]
/// ```
///
/// `{version}` in the signer's identity stands for the version that the release states: a workflow
/// that runs on a tag bears the tag in its identity.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SigstoreForm")]
pub struct SigstorePolicy {
    /// Who must have signed the release.
    pub signer: SigstoreSigner,
    /// Whose certificates, logs and timestamps are believed.
    pub trusted_root: TrustedRoot,
    /// Rebuilders that are trusted.
    pub rebuilders: Vec<SigstoreRebuilder>,
}

/// Whose certificates, logs and timestamps are believed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrustedRoot {
    /// Authorities that a program has built in, by a name that holds their date.
    BuiltIn(Text),
    /// A `trusted_root.json`, beside the policy unless the path is absolute.
    File(Text),
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

/// Somebody who rebuilds releases and says so in Sigstore.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RebuilderForm")]
pub struct SigstoreRebuilder {
    /// A name of the policy's choice.
    pub name: Name,
    /// Who signs.
    pub signer: SigstoreSigner,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InLog {
    name: Name,
    profile: Name,
    signers: Vec<PublicKey>,
    log_origin: Origin,
    log_key: PublicKey,
    minimum_version: u64,
    maximum_age_days: MaximumAge,
    minimum_witnesses: usize,
    witnesses: Vec<Witness>,
    minimum_rebuilders: usize,
    rebuilders: Vec<Rebuilder>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InSigstore {
    name: Name,
    profile: Name,
    minimum_version: u64,
    maximum_age_days: MaximumAge,
    minimum_rebuilders: usize,
    sigstore: SigstorePolicy,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SigstoreForm {
    identity: Option<Text>,
    issuer: Option<Text>,
    key: Option<String>,
    trusted_root: TrustedRoot,
    rebuilders: Vec<SigstoreRebuilder>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RebuilderForm {
    name: Name,
    identity: Option<Text>,
    issuer: Option<Text>,
    key: Option<String>,
}

/// Neither identity and issuer, nor a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a signer in Sigstore is `identity` and `issuer`, or `key` alone")]
pub struct SignerError;

type SignerForm = (Option<Text>, Option<Text>, Option<String>);

fn signer(form: SignerForm) -> Result<SigstoreSigner, SignerError> {
    match form {
        (Some(identity), Some(issuer), None) => Ok(SigstoreSigner::Identity { identity, issuer }),
        (None, None, Some(pem)) => Ok(SigstoreSigner::Key {
            pem: pem.trim().to_owned(),
        }),
        _ => Err(SignerError),
    }
}

impl TryFrom<SigstoreForm> for SigstorePolicy {
    type Error = SignerError;

    fn try_from(form: SigstoreForm) -> Result<Self, SignerError> {
        Ok(Self {
            signer: signer((form.identity, form.issuer, form.key))?,
            trusted_root: form.trusted_root,
            rebuilders: form.rebuilders,
        })
    }
}

impl TryFrom<RebuilderForm> for SigstoreRebuilder {
    type Error = SignerError;

    fn try_from(form: RebuilderForm) -> Result<Self, SignerError> {
        Ok(Self {
            name: form.name,
            signer: signer((form.identity, form.issuer, form.key))?,
        })
    }
}

impl<'de> Deserialize<'de> for ReleasePolicy {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let table = toml::Table::deserialize(from)?;
        // The fault by itself: where it stands is told of the file as a whole.
        let fault = |error: toml::de::Error| de::Error::custom(error.message());
        match table.contains_key("sigstore") {
            true => InSigstore::deserialize(table)
                .map(Self::from)
                .map_err(fault),
            false => InLog::deserialize(table).map(Self::from).map_err(fault),
        }
    }
}

impl From<InLog> for ReleasePolicy {
    fn from(form: InLog) -> Self {
        Self {
            name: form.name,
            profile: form.profile,
            minimum_version: form.minimum_version,
            maximum_age_days: form.maximum_age_days,
            minimum_rebuilders: form.minimum_rebuilders,
            published: Publication::Log(LogPolicy {
                signers: form.signers,
                log_origin: form.log_origin,
                log_key: form.log_key,
                minimum_witnesses: form.minimum_witnesses,
                witnesses: form.witnesses,
                rebuilders: form.rebuilders,
            }),
        }
    }
}

impl From<InSigstore> for ReleasePolicy {
    fn from(form: InSigstore) -> Self {
        Self {
            name: form.name,
            profile: form.profile,
            minimum_version: form.minimum_version,
            maximum_age_days: form.maximum_age_days,
            minimum_rebuilders: form.minimum_rebuilders,
            published: Publication::Sigstore(form.sigstore),
        }
    }
}

impl ReleasePolicy {
    /// What is demanded of a log of their own, if releases are in one.
    #[must_use]
    pub const fn log(&self) -> Option<&LogPolicy> {
        match &self.published {
            Publication::Log(log) => Some(log),
            Publication::Sigstore(_) => None,
        }
    }

    /// The same, to change it.
    pub const fn log_mut(&mut self) -> Option<&mut LogPolicy> {
        match &mut self.published {
            Publication::Log(log) => Some(log),
            Publication::Sigstore(_) => None,
        }
    }

    /// What is demanded of Sigstore, if releases are there.
    #[must_use]
    pub const fn sigstore(&self) -> Option<&SigstorePolicy> {
        match &self.published {
            Publication::Log(_) => None,
            Publication::Sigstore(sigstore) => Some(sigstore),
        }
    }

    /// How many rebuilders are named.
    #[must_use]
    pub const fn rebuilders(&self) -> usize {
        match &self.published {
            Publication::Log(log) => log.rebuilders.len(),
            Publication::Sigstore(sigstore) => sigstore.rebuilders.len(),
        }
    }

    pub(super) fn check_quorums(&self) -> Result<(), PolicyError> {
        let demanded = self.minimum_rebuilders;
        match &self.published {
            Publication::Log(log) => {
                let witnesses = log.witnesses.iter();
                let witnesses: Vec<_> = witnesses.map(|one| (one.name.as_str(), one.key)).collect();
                check_quorum(Quorum::Witnesses, log.minimum_witnesses, &witnesses)?;
                if witnesses.iter().any(|(_, key)| *key == log.log_key) {
                    return Err(PolicyError::Own(Quorum::Witnesses));
                }
                let rebuilders = log.rebuilders.iter();
                let rebuilders: Vec<_> =
                    rebuilders.map(|one| (one.name.as_str(), one.key)).collect();
                if rebuilders.iter().any(|(_, key)| log.signers.contains(key)) {
                    return Err(PolicyError::Own(Quorum::Rebuilders));
                }
                check_quorum(Quorum::Rebuilders, demanded, &rebuilders)
            }
            Publication::Sigstore(sigstore) => {
                let rebuilders = sigstore.rebuilders.iter();
                let rebuilders: Vec<_> = rebuilders
                    .map(|one| (one.name.as_str(), &one.signer))
                    .collect();
                if rebuilders.iter().any(|(_, key)| **key == sigstore.signer) {
                    return Err(PolicyError::Own(Quorum::Rebuilders));
                }
                check_quorum(Quorum::Rebuilders, demanded, &rebuilders)
            }
        }
    }

    /// Names the line of releases under this name and profile that are published in this log, or
    /// by this signer of Sigstore's: versions are compared within it, so that a floor is kept for
    /// each. A log's signers may come and go, and the floor stays.
    #[must_use]
    pub fn line(&self) -> Digest<32> {
        let mut hash = Sha256::new();
        let mut name = |name: &str| {
            hash.update((name.len() as u64).to_be_bytes());
            hash.update(name);
        };
        name(self.name.as_str());
        name(self.profile.as_str());
        match &self.published {
            Publication::Log(log) => {
                name(log.log_origin.as_str());
                hash.update(log.log_key.to_bytes());
            }
            // Never mistaken for a log: an origin is not empty.
            Publication::Sigstore(sigstore) => {
                name("");
                hash.update(sigstore.signer.digest_input());
            }
        }
        Digest(hash.finalize().into())
    }
}

fn check_quorum<T: PartialEq>(
    quorum: Quorum,
    demanded: usize,
    named: &[(&str, T)],
) -> Result<(), PolicyError> {
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
    Ok(())
}
