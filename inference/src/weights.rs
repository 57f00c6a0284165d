//! From tensors in files to the weights of a decoder: every tensor that the description names is
//! there once, has the right shape and type, is finite; and no other tensor is there.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::config::Fields;
use crate::cpu::{Pool, Rows, all_finite, widen};
use crate::error::{ConfigError, LoadError, Name, SafetensorsError, TensorError};
use crate::map::MappedFile;
use crate::safetensors::{self, Dtype};
use crate::spec::{LinearSpec, MatrixSpec, NormSpec};
use crate::{folder, json};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const MAX_SHARDS: usize = 1024;

/// A matrix in a mapped file, as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    file: Arc<MappedFile>,
    range: Range<usize>,
    dtype: Dtype,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl Matrix {
    pub(crate) fn view(&self) -> Rows<'_> {
        let bytes = self
            .file
            .bytes()
            .get(self.range.clone())
            .unwrap_or_default();
        Rows {
            bytes,
            dtype: self.dtype,
            columns: self.columns,
        }
    }

    /// Copies one row, widened to f32.
    pub(crate) fn copy_row(&self, row: usize, out: &mut [f32]) {
        widen(self.view().slice(row..row + 1), out);
    }
}

/// A matrix with an optional bias.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Matrix,
    pub(crate) bias: Option<Vec<f32>>,
}

/// A norm's scale.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    pub(crate) scale: Vec<f32>,
    pub(crate) epsilon: f32,
}

struct Tensor {
    /// The file's name.
    shard: Arc<str>,
    file: Arc<MappedFile>,
    entry: safetensors::Entry,
}

/// All tensors of a folder that nobody has taken yet.
pub(crate) struct Tensors {
    tensors: BTreeMap<String, Tensor>,
    parameters: u64,
}

impl Tensors {
    /// Maps `model.safetensors`, or the shards that `model.safetensors.index.json` lists.
    pub(crate) fn open(model: &Path) -> Result<Self, LoadError> {
        let mut tensors = Self {
            tensors: BTreeMap::new(),
            parameters: 0,
        };
        if fs::exists(model.join(SINGLE)).unwrap_or(true) {
            tensors.add(model, SINGLE)?;
            return Ok(tensors);
        }
        let Some(index) = folder::read_optional(model, INDEX)? else {
            return Err(LoadError::Missing {
                file: Name::new(SINGLE),
            });
        };
        let weight_map = read_index(&index)?;
        let mut shards: Vec<&String> = weight_map.values().collect();
        shards.sort();
        shards.dedup();
        if shards.len() > MAX_SHARDS {
            return Err(index_error(ConfigError::Invalid {
                field: Name::new("weight_map"),
                expected: "a map to at most 1024 files",
            }));
        }
        for shard in shards {
            tensors.add(model, shard)?;
        }
        tensors.check_index(&weight_map)?;
        Ok(tensors)
    }

    fn add(&mut self, model: &Path, file: &str) -> Result<(), LoadError> {
        let name = || Name::new(file);
        let mapped = MappedFile::open(&model.join(file))
            .map_err(|source| folder::read_error(file, source))?;
        let mapped = Arc::new(mapped);
        let shard: Arc<str> = file.into();
        let entries =
            safetensors::read_header(mapped.bytes()).map_err(|source: SafetensorsError| {
                LoadError::Safetensors {
                    file: name(),
                    source,
                }
            })?;
        for entry in entries {
            let tensor = Tensor {
                shard: Arc::clone(&shard),
                file: Arc::clone(&mapped),
                entry,
            };
            let key = tensor.entry.name.clone();
            if let Some(other) = self.tensors.insert(key, tensor) {
                return Err(TensorError::Duplicate(Name::new(&other.entry.name)).into());
            }
        }
        Ok(())
    }

    /// Every tensor stands in the file that the index gives for it, and the index lists no other.
    fn check_index(&self, weight_map: &BTreeMap<String, String>) -> Result<(), TensorError> {
        let wrong = |name: &str| TensorError::Index(Name::new(name));
        for name in self.tensors.keys() {
            if !weight_map.contains_key(name) {
                return Err(wrong(name));
            }
        }
        for (name, shard) in weight_map {
            let found = self.tensors.get(name);
            if found.is_none_or(|tensor| *tensor.shard != **shard) {
                return Err(wrong(name));
            }
        }
        Ok(())
    }

    pub(crate) fn matrix(&mut self, spec: &MatrixSpec, pool: &Pool) -> Result<Matrix, TensorError> {
        let shape = [spec.rows as u64, spec.columns as u64];
        let tensor = self.take(&spec.tensor, &shape)?;
        let matrix = Matrix {
            file: tensor.file,
            range: tensor.entry.range,
            dtype: tensor.entry.dtype,
            rows: spec.rows,
            columns: spec.columns,
        };
        if !all_finite(pool, matrix.view()) {
            return Err(TensorError::NotFinite(Name::new(&spec.tensor)));
        }
        Ok(matrix)
    }

    pub(crate) fn linear(&mut self, spec: &LinearSpec, pool: &Pool) -> Result<Linear, TensorError> {
        let weight = self.matrix(&spec.weight, pool)?;
        let bias = match &spec.bias {
            Some(name) => Some(self.vector(name, spec.weight.rows, pool)?),
            None => None,
        };
        Ok(Linear { weight, bias })
    }

    pub(crate) fn norm(
        &mut self,
        spec: &NormSpec,
        size: usize,
        pool: &Pool,
    ) -> Result<Norm, TensorError> {
        let scale = self.vector(&spec.tensor, size, pool)?;
        Ok(Norm {
            scale,
            epsilon: spec.epsilon,
        })
    }

    /// Refuses what nobody has taken, apart from `ignored`; answers the number of weights.
    pub(crate) fn finish(mut self, ignored: &[String]) -> Result<u64, TensorError> {
        for name in ignored {
            self.tensors.remove(name);
        }
        match self.tensors.keys().next() {
            Some(name) => Err(TensorError::Unexpected(Name::new(name))),
            None => Ok(self.parameters),
        }
    }

    fn vector(&mut self, name: &str, size: usize, pool: &Pool) -> Result<Vec<f32>, TensorError> {
        let tensor = self.take(name, &[size as u64])?;
        let bytes = tensor
            .file
            .bytes()
            .get(tensor.entry.range.clone())
            .unwrap_or_default();
        let rows = Rows {
            bytes,
            dtype: tensor.entry.dtype,
            columns: size,
        };
        if !all_finite(pool, rows) {
            return Err(TensorError::NotFinite(Name::new(name)));
        }
        let mut values = vec![0.0; size];
        widen(rows, &mut values);
        Ok(values)
    }

    fn take(&mut self, name: &str, shape: &[u64]) -> Result<Tensor, TensorError> {
        let tensor = self.tensors.remove(name);
        let tensor = tensor.ok_or_else(|| TensorError::Missing(Name::new(name)))?;
        if tensor.entry.dtype == Dtype::Other {
            return Err(TensorError::Dtype(Name::new(name)));
        }
        if tensor.entry.shape != shape {
            return Err(TensorError::Shape {
                name: Name::new(name),
                found: tensor.entry.shape,
                expected: shape.to_vec(),
            });
        }
        self.parameters += shape.iter().product::<u64>();
        Ok(tensor)
    }
}

fn index_error(source: ConfigError) -> LoadError {
    LoadError::Config {
        file: Name::new(INDEX),
        source,
    }
}

/// The index: which file holds which tensor. Files are plain names in the same folder.
fn read_index(bytes: &[u8]) -> Result<BTreeMap<String, String>, LoadError> {
    let value = json::parse(bytes).map_err(|source| LoadError::Json {
        file: Name::new(INDEX),
        source,
    })?;
    let mut fields = Fields::new(value).map_err(index_error)?;
    let weight_map = fields.take("weight_map");
    let invalid = || {
        index_error(ConfigError::Invalid {
            field: Name::new("weight_map"),
            expected: "a map from tensors to files of this folder",
        })
    };
    let Some(Value::Object(weight_map)) = weight_map else {
        return Err(invalid());
    };
    let plain = |file: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        file.ends_with(".safetensors") && file.chars().all(known) && !file.starts_with('.')
    };
    weight_map
        .into_iter()
        .map(|(tensor, file)| match file {
            Value::String(file) if plain(&file) => Ok((tensor, file)),
            _ => Err(invalid()),
        })
        .collect()
}
