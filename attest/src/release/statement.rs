//! What a release states (in-toto statement v1): its artifacts, and the values that a machine
//! which runs them must show.
//!
//! The JSON has one spelling: no white space, keys in the order of the fields below, artifacts
//! sorted by name.

use serde::{Deserialize, Serialize};

use super::bundle::to_json;
use crate::{Digest, Name};

/// Longest statement.
pub const MAX_STATEMENT_BYTES: usize = 128 << 10;

/// An in-toto statement whose predicate is a release of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// Version of the statement's form.
    #[serde(rename = "_type")]
    pub kind: StatementType,
    /// The artifacts, sorted by name, each named once.
    pub subject: Vec<Subject>,
    /// Version of the predicate's form.
    #[serde(rename = "predicateType")]
    pub predicate_type: PredicateType,
    /// What is said of them.
    pub predicate: Predicate,
}

/// The only form of statement that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StatementType {
    /// `https://in-toto.io/Statement/v1`
    #[serde(rename = "https://in-toto.io/Statement/v1")]
    V1,
}

/// The forms of predicate that are accepted. Each release has the first that can state it, so that
/// an older client reads whatever it could have read before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PredicateType {
    /// `https://cloister.dev/release/v1`: states values of a TPM.
    #[serde(rename = "https://cloister.dev/release/v1")]
    V1,
    /// `https://cloister.dev/release/v2`: states values of SEV-SNP as well.
    #[serde(rename = "https://cloister.dev/release/v2")]
    V2,
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
    /// Revision of the source.
    pub source_revision: Name,
    /// SHA-256 of the lock that pins every input.
    pub lock_digest: Digest<32>,
    /// SHA-256 of the configuration file.
    pub configuration_digest: Digest<32>,
    /// What each platform must show.
    pub reference_values: ReferenceValues,
}

/// What each platform must show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceValues {
    /// Register values of a TPM.
    pub tpm: TpmReferenceValues,
    /// Launch digests of SEV-SNP; absent where the release is not for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snp: Option<SnpReferenceValues>,
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
    /// The predicate's form does not go with what it states, or a list that must state something
    /// is empty.
    #[error("the predicate's form does not go with what it states")]
    PredicateType,
    /// Artifacts are not sorted by name, or one is named twice.
    #[error("its artifacts are not sorted by name, or one is named twice")]
    Subjects,
    /// The same statement has another spelling.
    #[error("not in its one canonical spelling")]
    NotCanonical,
}

impl Statement {
    /// A statement of `predicate` about `subject`.
    #[must_use]
    pub fn new(subject: Vec<Subject>, predicate: Predicate) -> Self {
        let kind = StatementType::V1;
        let predicate_type = predicate.reference_values.predicate_type();
        Self {
            kind,
            subject,
            predicate_type,
            predicate,
        }
    }

    /// The statement's one JSON encoding: what is signed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Reads a statement; accepts only what [`Statement::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, StatementError> {
        if bytes.len() > MAX_STATEMENT_BYTES {
            return Err(StatementError::TooLarge { found: bytes.len() });
        }
        let statement: Self =
            serde_json::from_slice(bytes).map_err(|error| StatementError::Json {
                line: error.line(),
                column: error.column(),
            })?;
        let stated = &statement.predicate.reference_values;
        if statement.predicate_type != stated.predicate_type() || stated.is_vacuous() {
            return Err(StatementError::PredicateType);
        }
        let subjects = &statement.subject;
        if !subjects.is_sorted_by(|one, next| one.name < next.name) {
            return Err(StatementError::Subjects);
        }
        if statement.encode() != bytes {
            return Err(StatementError::NotCanonical);
        }
        Ok(statement)
    }
}

impl ReferenceValues {
    /// The first form of predicate that can state these.
    const fn predicate_type(&self) -> PredicateType {
        match &self.snp {
            None => PredicateType::V1,
            Some(_) => PredicateType::V2,
        }
    }

    /// Whether a platform is named, and nothing is said of it.
    fn is_vacuous(&self) -> bool {
        let snp = self.snp.as_ref();
        snp.is_some_and(|snp| snp.launch_digests.is_empty())
    }
}
