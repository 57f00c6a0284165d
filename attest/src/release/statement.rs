//! What is stated (in-toto statements v1): a release with its artifacts and the values that a
//! machine which runs it must show; and what is said of a release later, by its signer or by those
//! who rebuilt it.
//!
//! The JSON has one spelling: no white space, keys in the order of the fields below, subjects
//! sorted by name. `docs/release.md` holds the schema.

use std::fmt;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::bundle::to_json;
use crate::name::Text;
use crate::{Digest, Name};

/// Longest statement: signed, it still fits into an entry of a log, which has at most 65,535 bytes.
pub const MAX_STATEMENT_BYTES: usize = 48_000;

/// Highest version, and latest time: whoever reads numbers as floating point reads these exactly,
/// and beyond the last version there would be no next, as nobody goes back.
pub const MAX_NUMBER: u64 = 1 << 48;

/// Most revocations in one statement.
pub const MAX_REVOCATIONS: usize = 64;

/// A release.
pub type Statement = InToto<PredicateType, Predicate>;
/// That a release is current, or no longer to be trusted.
pub type StatusStatement = InToto<StatusType, Status>;
/// That somebody rebuilt something, and what came out.
pub type RebuildStatement = InToto<RebuildType, Rebuild>;

/// An in-toto statement of one form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InToto<F, P> {
    /// Version of the statement's form.
    #[serde(rename = "_type")]
    pub kind: StatementType,
    /// What it is about: artifacts, or a release by the hash of its statement. Sorted by name, each
    /// named once.
    pub subject: Vec<Subject>,
    /// Version of the predicate's form.
    #[serde(rename = "predicateType")]
    pub predicate_type: F,
    /// What is said of them.
    pub predicate: P,
}

/// The only form of statement that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StatementType {
    /// `https://in-toto.io/Statement/v1`
    #[serde(rename = "https://in-toto.io/Statement/v1")]
    V1,
}

/// The only form of a release's predicate that is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PredicateType {
    /// `https://cloister.dev/release/v3`
    #[default]
    #[serde(rename = "https://cloister.dev/release/v3")]
    V3,
}

/// The only form of a status that is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StatusType {
    /// `https://cloister.dev/release-status/v1`
    #[default]
    #[serde(rename = "https://cloister.dev/release-status/v1")]
    V1,
}

/// The only form of a rebuild that is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RebuildType {
    /// `https://cloister.dev/rebuild/v2`
    #[default]
    #[serde(rename = "https://cloister.dev/rebuild/v2")]
    V2,
}

/// What a predicate must hold beyond its types.
pub trait Rules {
    /// Lists that must state something do, none is too long, and a version is one.
    fn check(&self) -> Result<(), StatementError>;
}

/// An artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// File name.
    pub name: Name,
    /// Hash of the file.
    pub digest: SubjectDigest,
}

/// Hash of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectDigest {
    /// SHA-256 of the file.
    pub sha256: Digest<32>,
}

/// What a release is, and how it is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Predicate {
    /// Name of the release.
    pub name: Name,
    /// Version, rising from release to release.
    pub version: u64,
    /// Profile of the image.
    pub profile: Name,
    /// When it was made, in seconds since the start of 1970.
    pub issued: u64,
    /// Who built it, such as the address of a workflow at a revision.
    pub builder: Text,
    /// Least version of a client that may judge it.
    pub minimum_client: ClientVersion,
    /// Revision of the source.
    pub source_revision: Name,
    /// SHA-256 of the lock that pins every input.
    pub lock_digest: Digest<32>,
    /// SHA-256 of the configuration file.
    pub configuration_digest: Digest<32>,
    /// Versions that are no longer to be trusted.
    pub revocations: Vec<Revocation>,
    /// What each platform must show.
    pub reference_values: ReferenceValues,
}

/// A version that is no longer to be trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// The version.
    pub version: u64,
    /// Why.
    pub reason: Text,
}

/// What a release's signer says of it later. The statement's subject is the release's statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// When this was so, in seconds since the start of 1970.
    pub issued: u64,
    /// Versions that are no longer to be trusted. The release is current unless it is among them.
    pub revocations: Vec<Revocation>,
}

/// What somebody rebuilt. The statement's subjects are the artifacts that came out, and the values
/// are those that the rebuilder measured in them: what a machine is judged by, others vouch for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rebuild {
    /// When, in seconds since the start of 1970.
    pub issued: u64,
    /// Revision of the source.
    pub source_revision: Name,
    /// SHA-256 of the lock that pins every input.
    pub lock_digest: Digest<32>,
    /// SHA-256 of the configuration file.
    pub configuration_digest: Digest<32>,
    /// What each platform must show.
    pub reference_values: ReferenceValues,
}

/// A version of the client: `MAJOR.MINOR.PATCH`, each of at most five digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientVersion([u32; 3]);

/// Not a version: see [`ClientVersion`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a version: three numbers such as 1.2.3")]
pub struct ClientVersionError;

/// What each platform must show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceValues {
    /// Register values of a TPM.
    pub tpm: TpmReferenceValues,
    /// Launch digests of SEV-SNP; absent where the release is not for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snp: Option<SnpReferenceValues>,
    /// Registers of TDX; absent where the release is not for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tdx: Option<TdxReferenceValues>,
}

/// Registers of TDX: a set for each shape of machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxReferenceValues {
    /// At least one.
    pub machines: Vec<TdxRegisters>,
}

/// The registers of one shape of machine. RTMR3 is not stated: it stays zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxRegisters {
    /// The shape, and the order in which the VMM adds pages, such as `qemu-interleaved-unchanged`.
    pub machine: Name,
    /// What was there before the start.
    pub mrtd: Digest<48>,
    /// Firmware configuration, memory and ACPI tables; absent where it was not predicted: no
    /// evidence satisfies such a machine, it is stated for those who compare.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtmr0: Option<Digest<48>>,
    /// Boot loader and kernel.
    pub rtmr1: Digest<48>,
    /// Command line and initrd.
    pub rtmr2: Digest<48>,
}

impl TdxRegisters {
    /// MRTD and RTMR0 to RTMR3, as far as they are stated.
    #[must_use]
    pub fn registers(&self) -> [Option<Digest<48>>; 5] {
        let [mrtd, rtmr1, rtmr2] = [self.mrtd, self.rtmr1, self.rtmr2].map(Some);
        [mrtd, self.rtmr0, rtmr1, rtmr2, Some(Digest::ZERO)]
    }
}

/// Launch digests of SEV-SNP: one for each shape of machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpReferenceValues {
    /// At least one.
    pub launch_digests: Vec<SnpLaunchDigest>,
}

/// The launch digest of one shape of machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpLaunchDigest {
    /// The shape: virtual machine monitor, type and number of processors, such as
    /// `qemu-epyc-v4-8`.
    pub machine: Name,
    /// Its launch digest.
    pub digest: Digest<48>,
}

/// Register values of a TPM, in both of its banks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmReferenceValues {
    /// SHA-256 bank.
    pub sha256: Registers<32>,
    /// SHA-384 bank.
    pub sha384: Registers<48>,
}

/// The registers that a release decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registers<const N: usize> {
    /// Boot loader and kernel.
    #[serde(rename = "4")]
    pub pcr4: Digest<N>,
    /// Command line and initrd.
    #[serde(rename = "9")]
    pub pcr9: Digest<N>,
    /// Sections of the unified kernel image.
    #[serde(rename = "11")]
    pub pcr11: Digest<N>,
    /// Additions to the command line, credentials: nothing, so zero.
    #[serde(rename = "12")]
    pub pcr12: Digest<N>,
    /// System extensions: none, so zero.
    #[serde(rename = "13")]
    pub pcr13: Digest<N>,
}

/// Why bytes are not a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// Longer than [`MAX_STATEMENT_BYTES`].
    #[error("{found} bytes, {MAX_STATEMENT_BYTES} allowed")]
    TooLarge {
        /// Length found.
        found: usize,
    },
    /// Not JSON, or a key is missing, unknown or of another type.
    #[error("not a release statement (JSON, line {line}, column {column})")]
    Json {
        /// Line of the fault, from 1.
        line: usize,
        /// Column of the fault.
        column: usize,
    },
    /// A list that must state something is empty, or one is too long.
    #[error("a list is empty that must state something, or too long")]
    List,
    /// Version 0, which no client's floor can tell from none at all; or a number that is too large.
    #[error("a version is from 1 to {MAX_NUMBER}, a time at most that")]
    Number,
    /// Artifacts are not sorted by name, or one is named twice.
    #[error("its artifacts are not sorted by name, or one is named twice")]
    Subjects,
    /// The same statement has another spelling.
    #[error("not in its one canonical spelling")]
    NotCanonical,
}

impl<F, P> InToto<F, P>
where
    F: Default + Serialize + DeserializeOwned,
    P: Rules + Serialize + DeserializeOwned,
{
    /// A statement of `predicate` about `subject`.
    #[must_use]
    pub fn new(subject: Vec<Subject>, predicate: P) -> Self {
        Self {
            kind: StatementType::V1,
            subject,
            predicate_type: F::default(),
            predicate,
        }
    }

    /// The statement's one JSON encoding: what is signed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Reads a statement; accepts only what [`InToto::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, StatementError> {
        if bytes.len() > MAX_STATEMENT_BYTES {
            return Err(StatementError::TooLarge { found: bytes.len() });
        }
        let statement: Self =
            serde_json::from_slice(bytes).map_err(|error| StatementError::Json {
                line: error.line(),
                column: error.column(),
            })?;
        statement.predicate.check()?;
        let subjects = &statement.subject;
        if subjects.is_empty() {
            return Err(StatementError::List);
        }
        if !subjects.is_sorted_by(|one, next| one.name < next.name) {
            return Err(StatementError::Subjects);
        }
        if statement.encode() != bytes {
            return Err(StatementError::NotCanonical);
        }
        Ok(statement)
    }
}

impl Rules for Predicate {
    fn check(&self) -> Result<(), StatementError> {
        if self.version == 0 {
            return Err(StatementError::Number);
        }
        check_numbers(&[self.version, self.issued])?;
        check_revocations(&self.revocations)?;
        self.reference_values.check()
    }
}

impl Rules for Status {
    fn check(&self) -> Result<(), StatementError> {
        check_numbers(&[self.issued])?;
        check_revocations(&self.revocations)
    }
}

impl Rules for Rebuild {
    fn check(&self) -> Result<(), StatementError> {
        check_numbers(&[self.issued])?;
        self.reference_values.check()
    }
}

fn check_revocations(revocations: &[Revocation]) -> Result<(), StatementError> {
    if revocations.len() > MAX_REVOCATIONS {
        return Err(StatementError::List);
    }
    let versions: Vec<_> = revocations.iter().map(|one| one.version).collect();
    check_numbers(&versions)
}

fn check_numbers(numbers: &[u64]) -> Result<(), StatementError> {
    match numbers.iter().all(|number| *number <= MAX_NUMBER) {
        true => Ok(()),
        false => Err(StatementError::Number),
    }
}

impl ReferenceValues {
    fn check(&self) -> Result<(), StatementError> {
        let snp = self.snp.as_ref().map(|snp| snp.launch_digests.len());
        let tdx = self.tdx.as_ref().map(|tdx| tdx.machines.len());
        match [snp, tdx].contains(&Some(0)) {
            true => Err(StatementError::List),
            false => Ok(()),
        }
    }
}

impl Rebuild {
    /// Whether `rebuilt` is a rebuild of `release` that gave the same: of its revision, lock and
    /// configuration, the same artifacts, neither fewer nor more, and the same values.
    #[must_use]
    pub fn confirms(rebuilt: &RebuildStatement, release: &Statement) -> bool {
        let (made, stated) = (&rebuilt.predicate, &release.predicate);
        made.source_revision == stated.source_revision
            && made.lock_digest == stated.lock_digest
            && made.configuration_digest == stated.configuration_digest
            && made.reference_values == stated.reference_values
            && rebuilt.subject == release.subject
    }
}

impl ClientVersion {
    /// Of this program.
    #[must_use]
    pub fn own() -> Self {
        // Our own version always reads; were it not so, every release would be too new.
        env!("CARGO_PKG_VERSION").parse().unwrap_or(Self([0; 3]))
    }
}

impl FromStr for ClientVersion {
    type Err = ClientVersionError;

    fn from_str(text: &str) -> Result<Self, ClientVersionError> {
        let mut numbers = [0; 3];
        let mut parts = text.split('.');
        for number in &mut numbers {
            *number = parts
                .next()
                .filter(|part| part.len() <= 5)
                .and_then(|part| part.parse().ok())
                .ok_or(ClientVersionError)?;
        }
        let version = Self(numbers);
        match version.to_string() == text {
            true => Ok(version),
            false => Err(ClientVersionError),
        }
    }
}

impl TryFrom<String> for ClientVersion {
    type Error = ClientVersionError;

    fn try_from(text: String) -> Result<Self, ClientVersionError> {
        text.parse()
    }
}

impl From<ClientVersion> for String {
    fn from(version: ClientVersion) -> Self {
        version.to_string()
    }
}

impl fmt::Display for ClientVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_version_has_one_spelling_and_an_order() {
        let version = |text: &str| text.parse::<ClientVersion>();
        assert!(version("0.10.0").unwrap() > version("0.9.12").unwrap());
        for wrong in [
            "",
            "1",
            "1.2",
            "1.2.3.4",
            "01.2.3",
            "1.2.+3",
            "1.2.100000",
            "v1.2.3",
        ] {
            assert_eq!(version(wrong), Err(ClientVersionError), "{wrong}");
        }
        assert!(ClientVersion::own() > version("0.0.0").unwrap());
    }
}
