//! The safetensors container, <https://huggingface.co/docs/safetensors>.
//!
//! ```text
//! | u64 LE: N | N bytes: JSON { name: { dtype, shape, data_offsets: [begin, end] } } | data |
//! ```
//!
//! Offsets count from the first byte after the header. The data has no hole, no overlap and no
//! byte after the last tensor: one file has one reading.

use std::ops::Range;

use serde_json::Value;

use crate::error::{Name, SafetensorsError};
use crate::json;

/// Headers of the largest public models are below 1 MiB.
const MAX_HEADER_BYTES: u64 = 16 << 20;
const MAX_DIMENSIONS: usize = 8;

/// How a weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dtype {
    F32,
    F16,
    Bf16,
    /// Bytes: what MXFP4 weights and their scales are made of.
    U8,
    /// Signed bytes: quantised weights.
    I8,
    /// Words that hold several quantised weights.
    I32,
    /// Shapes.
    I64,
    /// Numbers of eight bits, four of them the exponent's.
    F8E4m3,
    /// Known to the format, not usable as a weight here.
    Other,
}

impl Dtype {
    /// What the format calls it, if it is usable.
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Self::F32 => Some("F32"),
            Self::F16 => Some("F16"),
            Self::Bf16 => Some("BF16"),
            Self::U8 => Some("U8"),
            Self::I8 => Some("I8"),
            Self::I32 => Some("I32"),
            Self::I64 => Some("I64"),
            Self::F8E4m3 => Some("F8_E4M3"),
            Self::Other => None,
        }
    }
}

/// One tensor's place in its file.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
    /// Bytes of the file.
    pub(crate) range: Range<usize>,
}

/// Reads and checks the header of a whole file.
pub(crate) fn read_header(file: &[u8]) -> Result<Vec<Entry>, SafetensorsError> {
    let found = file.len() as u64;
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(SafetensorsError::Truncated { needed: 8, found });
    };
    let header_bytes = u64::from_le_bytes(*length);
    if header_bytes > MAX_HEADER_BYTES {
        let limit = MAX_HEADER_BYTES;
        return Err(SafetensorsError::HeaderTooLarge {
            found: header_bytes,
            limit,
        });
    }
    let Some((header, data)) = rest.split_at_checked(header_bytes as usize) else {
        return Err(SafetensorsError::Truncated {
            needed: 8 + header_bytes,
            found,
        });
    };
    let Value::Object(header) = json::parse(header)? else {
        return Err(SafetensorsError::Entry(Name::new("(the header)")));
    };
    let mut entries = Vec::with_capacity(header.len());
    for (name, value) in &header {
        if name == "__metadata__" {
            check_metadata(value)?;
        } else {
            entries.push(read_entry(name, value)?);
        }
    }
    let data_start = file.len() - data.len();
    place(&mut entries, data_start, data.len())?;
    Ok(entries)
}

fn check_metadata(value: &Value) -> Result<(), SafetensorsError> {
    match value.as_object() {
        Some(map) if map.values().all(Value::is_string) => Ok(()),
        _ => Err(SafetensorsError::Entry(Name::new("__metadata__"))),
    }
}

/// One entry; its range still counts from the start of the data.
fn read_entry(name: &str, value: &Value) -> Result<Entry, SafetensorsError> {
    let malformed = || SafetensorsError::Entry(Name::new(name));
    let fields = value
        .as_object()
        .filter(|fields| fields.len() == 3)
        .ok_or_else(malformed)?;
    let array = |key: &str| -> Option<Vec<u64>> {
        fields
            .get(key)?
            .as_array()?
            .iter()
            .map(Value::as_u64)
            .collect()
    };
    let shape = array("shape").filter(|shape| shape.len() <= MAX_DIMENSIONS);
    let shape = shape.ok_or_else(malformed)?;
    let offsets = array("data_offsets").ok_or_else(malformed)?;
    let &[begin, end] = offsets.as_slice() else {
        return Err(malformed());
    };
    let dtype = fields
        .get("dtype")
        .and_then(Value::as_str)
        .ok_or_else(malformed)?;
    let (dtype, bits) =
        read_dtype(dtype).ok_or_else(|| SafetensorsError::Dtype(Name::new(name)))?;

    let wrong_length = || SafetensorsError::Length(Name::new(name));
    let elements = shape
        .iter()
        .try_fold(1u64, |product, &size| product.checked_mul(size));
    let bits = elements
        .and_then(|elements| elements.checked_mul(bits))
        .ok_or_else(wrong_length)?;
    if bits % 8 != 0 || end.checked_sub(begin) != Some(bits / 8) {
        return Err(wrong_length());
    }
    let begin = usize::try_from(begin).map_err(|_| wrong_length())?;
    let end = usize::try_from(end).map_err(|_| wrong_length())?;
    Ok(Entry {
        name: name.to_owned(),
        dtype,
        shape,
        range: begin..end,
    })
}

/// The element type and its size in bits.
fn read_dtype(name: &str) -> Option<(Dtype, u64)> {
    Some(match name {
        "F32" => (Dtype::F32, 32),
        "F16" => (Dtype::F16, 16),
        "BF16" => (Dtype::Bf16, 16),
        "I64" => (Dtype::I64, 64),
        "F64" | "U64" | "C64" => (Dtype::Other, 64),
        "I32" => (Dtype::I32, 32),
        "U32" => (Dtype::Other, 32),
        "I16" | "U16" => (Dtype::Other, 16),
        "U8" => (Dtype::U8, 8),
        "I8" => (Dtype::I8, 8),
        "F8_E4M3" => (Dtype::F8E4m3, 8),
        "BOOL" | "F8_E5M2" | "F8_E8M0" => (Dtype::Other, 8),
        "F6_E2M3" | "F6_E3M2" => (Dtype::Other, 6),
        "F4" => (Dtype::Other, 4),
        _ => return None,
    })
}

/// Checks that the tensors tile the data exactly, and makes their ranges count from the file's
/// first byte.
fn place(
    entries: &mut [Entry],
    data_start: usize,
    data_bytes: usize,
) -> Result<(), SafetensorsError> {
    entries.sort_by(|a, b| {
        (a.range.start, a.range.end, &a.name).cmp(&(b.range.start, b.range.end, &b.name))
    });
    let mut end = 0;
    let mut previous = "";
    for entry in entries.iter() {
        let name = || Name::new(&entry.name);
        if entry.range.start < end {
            return Err(SafetensorsError::Overlap {
                first: Name::new(previous),
                second: name(),
            });
        }
        if entry.range.start > end {
            return Err(SafetensorsError::Hole(name()));
        }
        end = entry.range.end;
        previous = &entry.name;
    }
    if end > data_bytes {
        let needed = (data_start as u64).saturating_add(end as u64);
        return Err(SafetensorsError::Truncated {
            needed,
            found: (data_start + data_bytes) as u64,
        });
    }
    if end < data_bytes {
        return Err(SafetensorsError::TrailingBytes {
            extra: (data_bytes - end) as u64,
        });
    }
    for entry in entries {
        entry.range = entry.range.start + data_start..entry.range.end + data_start;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data_bytes: usize) -> Vec<u8> {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.resize(file.len() + data_bytes, 0);
        file
    }

    fn refusal(header: &str, data_bytes: usize) -> SafetensorsError {
        read_header(&file(header, data_bytes)).expect_err("a malformed file")
    }

    const TWO: &str = r#"{"__metadata__": {"format": "pt"},
        "b": {"dtype": "F16", "shape": [2, 3], "data_offsets": [8, 20]},
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}"#;

    #[test]
    fn a_good_file_is_read() {
        let bytes = file(TWO, 20);
        let entries = read_header(&bytes).expect("a good file");
        assert_eq!(entries[0].name, "a");
        assert_eq!(entries[1].range, bytes.len() - 12..bytes.len());
        assert_eq!(entries[1].dtype, Dtype::F16);
    }

    #[test]
    fn lengths_must_be_exact() {
        use SafetensorsError as E;
        assert!(matches!(
            read_header(&[1, 2]),
            Err(E::Truncated {
                needed: 8,
                found: 2
            })
        ));
        assert!(matches!(
            read_header(&[255; 8]),
            Err(E::HeaderTooLarge { .. })
        ));
        let cut = &file(TWO, 0)[..20];
        assert!(matches!(
            read_header(cut),
            Err(E::Truncated { found: 20, .. })
        ));
        assert!(matches!(refusal(TWO, 19), E::Truncated { .. }));
        assert!(matches!(refusal(TWO, 21), E::TrailingBytes { extra: 1 }));
    }

    #[test]
    fn tensors_tile_the_data() {
        use SafetensorsError as E;
        let two = |a: &str, b: &str| {
            format!(
                r#"{{"a": {{"dtype": "U8", "shape": [4], "data_offsets": {a}}},
                    "b": {{"dtype": "U8", "shape": [4], "data_offsets": {b}}}}}"#
            )
        };
        assert!(read_header(&file(&two("[0, 4]", "[4, 8]"), 8)).is_ok());
        assert!(matches!(
            refusal(&two("[0, 4]", "[2, 6]"), 6),
            E::Overlap { .. }
        ));
        assert!(matches!(
            refusal(&two("[0, 4]", "[0, 4]"), 4),
            E::Overlap { .. }
        ));
        assert!(matches!(refusal(&two("[0, 4]", "[5, 9]"), 9), E::Hole(_)));
        assert!(matches!(refusal(&two("[0, 4]", "[8, 4]"), 9), E::Length(_)));
        assert!(matches!(refusal(&two("[0, 4]", "[4, 9]"), 9), E::Length(_)));
        assert!(matches!(refusal(&two("[0, 4]", "[-1, 3]"), 9), E::Entry(_)));
    }

    #[test]
    fn entries_are_strict() {
        use SafetensorsError as E;
        let entry = |text: &str| format!(r#"{{"a": {text}}}"#);
        let good = r#"{"dtype": "U8", "shape": [], "data_offsets": [0, 1]}"#;
        assert!(read_header(&file(&entry(good), 1)).is_ok());
        let twice = format!(r#"{{"a": {good}, "a": {good}}}"#);
        assert!(matches!(refusal(&twice, 1), E::Header(_)));
        let dtype = good.replace("U8", "F128");
        assert!(matches!(refusal(&entry(&dtype), 1), E::Dtype(_)));
        let extra = good.replace('{', r#"{"x": 1,"#);
        assert!(matches!(refusal(&entry(&extra), 1), E::Entry(_)));
        let huge = good.replace("[]", "[4294967296, 4294967296, 2]");
        assert!(matches!(refusal(&entry(&huge), 1), E::Length(_)));
        assert!(matches!(
            refusal(r#"{"__metadata__": {"a": 1}}"#, 0),
            E::Entry(_)
        ));
        assert!(matches!(refusal("[]", 0), E::Entry(_)));
        assert!(matches!(refusal("{", 0), E::Header(_)));
    }
}
