//! What a release states, read from any of the forms in which it is handed around.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use attest::release::statement::ReferenceValues;
use attest::release::{Bundle, Envelope, MAX_BUNDLE_BYTES, Statement, StatementError};
use serde_json::Value;

/// Why a file holds no statement.
#[derive(Debug, thiserror::Error)]
pub enum StatedError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Larger than any bundle.
    #[error("{path} is larger than {MAX_BUNDLE_BYTES} bytes, which no statement or bundle is")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Neither a bundle, nor an envelope, nor a statement.
    #[error("{path} is neither a bundle nor an envelope nor a statement: {source}")]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong with it as a statement.
        source: StatementError,
    },
}

/// Reads the statement in a bundle, an envelope or a file of its own. No signature is checked.
pub fn read(path: &Path) -> Result<Statement, StatedError> {
    parse(&read_bytes(path)?).map_err(|source| malformed(path, source))
}

/// The bytes of a file that may hold a statement, read once: what is checked is what is used.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>, StatedError> {
    let unreadable = |source| StatedError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    let mut file = file.take(MAX_BUNDLE_BYTES as u64 + 1);
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    match bytes.len() > MAX_BUNDLE_BYTES {
        true => Err(StatedError::TooLarge {
            path: path.to_owned(),
        }),
        false => Ok(bytes),
    }
}

/// The error of a file whose bytes are no statement.
pub fn malformed(path: &Path, source: StatementError) -> StatedError {
    StatedError::Form {
        path: path.to_owned(),
        source,
    }
}

/// What is stated of platforms beside a TPM, as rows: SEV-SNP's launch digests, and whatever comes
/// after them. A list of machines is named by machine.
pub fn beyond_tpm(values: &ReferenceValues) -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    for (platform, value) in platforms(values) {
        flatten(&platform, &value, &mut rows);
    }
    rows
}

/// The platforms beside a TPM of which something is stated.
pub fn platforms(values: &ReferenceValues) -> BTreeMap<String, Value> {
    let Ok(Value::Object(all)) = serde_json::to_value(values) else {
        return BTreeMap::new();
    };
    all.into_iter().filter(|(name, _)| name != "tpm").collect()
}

fn flatten(name: &str, value: &Value, rows: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields.iter().filter(|(key, _)| *key != "machine") {
                flatten(&format!("{name} {key}"), value, rows);
            }
        }
        Value::Array(entries) => {
            for (index, entry) in entries.iter().enumerate() {
                let machine = entry.get("machine").and_then(Value::as_str);
                let machine = machine.map_or_else(|| index.to_string(), str::to_owned);
                flatten(&format!("{name} {machine}"), entry, rows);
            }
        }
        other => {
            let text = other
                .as_str()
                .map_or_else(|| other.to_string(), str::to_owned);
            // A machine that is named twice hides none of its values.
            let row = rows.entry(name.to_owned()).or_default();
            if !row.is_empty() {
                row.push(' ');
            }
            *row += &text;
        }
    }
}

/// The statement in the bytes of a bundle of either kind, an envelope or a statement.
pub fn parse(bytes: &[u8]) -> Result<Statement, StatementError> {
    if let Ok(statement) = cloister_sigstore::stated(bytes) {
        return Ok(statement);
    }
    if let Ok(bundle) = Bundle::decode(bytes) {
        return Statement::decode(&bundle.envelope.payload);
    }
    match serde_json::from_slice::<Envelope>(bytes) {
        Ok(envelope) => Statement::decode(&envelope.payload),
        Err(_) => Statement::decode(bytes),
    }
}
