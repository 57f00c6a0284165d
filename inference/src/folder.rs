//! Small files of a model folder.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde_json::Value;

use crate::error::{LoadError, Name};
use crate::json;

/// Tokenizers of 256k entries have about 35 MB.
const MAX_FILE_BYTES: u64 = 128 << 20;

/// Reads a file, or `None` if it is not there.
pub(crate) fn read_optional(model: &Path, file: &str) -> Result<Option<Vec<u8>>, LoadError> {
    match read_limited(&model.join(file)) {
        Ok(Some(bytes)) => Ok(Some(bytes)),
        Ok(None) => Err(LoadError::TooLarge {
            file: Name::new(file),
            limit: MAX_FILE_BYTES,
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(read_error(file, source)),
    }
}

/// Reads a file that has to be there.
pub(crate) fn read(model: &Path, file: &str) -> Result<Vec<u8>, LoadError> {
    read_optional(model, file)?.ok_or_else(|| LoadError::Missing {
        file: Name::new(file),
    })
}

/// Reads and parses a JSON file, or `None` if it is not there.
pub(crate) fn json_optional(model: &Path, file: &str) -> Result<Option<Value>, LoadError> {
    let Some(bytes) = read_optional(model, file)? else {
        return Ok(None);
    };
    match json::parse(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(source) => Err(LoadError::Json {
            file: Name::new(file),
            source,
        }),
    }
}

/// What to say when a file cannot be read.
pub(crate) fn read_error(file: &str, source: io::Error) -> LoadError {
    let file = Name::new(file);
    match source.kind() {
        io::ErrorKind::NotFound => LoadError::Missing { file },
        _ => LoadError::Read { file, source },
    }
}

/// `None` if the file is too large.
fn read_limited(path: &Path) -> io::Result<Option<Vec<u8>>> {
    if !path.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= MAX_FILE_BYTES).then_some(bytes))
}
