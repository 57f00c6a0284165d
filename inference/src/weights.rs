//! From tensors in files to the weights of a decoder: every tensor that the description names is
//! there once, has the right shape and type, is finite; and no other tensor is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use zeroize::Zeroizing;

use crate::config::Fields;
use crate::cpu::{Format, MXFP4_BLOCK, Pool, Rows, all_finite, widen};
use crate::error::{ConfigError, LoadError, Name, SafetensorsError, TensorError};
use crate::map::MappedFile;
use crate::quantisation::Scheme;
use crate::safetensors::{self, Dtype};
use crate::spec::{Layout, LinearSpec, MatrixSpec, NormSpec, VectorSpec};
use crate::{folder, json};

mod packed;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const MAX_SHARDS: usize = 1024;
/// Groups of 128, 64 or 32 weights share a scale.
pub(crate) const GROUP_SHIFTS: [u8; 3] = [7, 6, 5];

/// Bytes of a mapped file, or what was made of them at load.
#[derive(Clone, Debug)]
enum Bytes {
    Mapped(Arc<MappedFile>, Range<usize>),
    Made(Arc<[u8]>),
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Self::Mapped(file, range) => file.bytes().get(range.clone()).unwrap_or_default(),
            Self::Made(bytes) => bytes,
        }
    }
}

/// A matrix as it is stored, row by row.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    bytes: Bytes,
    /// Of formats with scales.
    scales: Option<Bytes>,
    format: Format,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Which column stands where, if they do not stand in order.
    order: Option<Arc<[u32]>>,
}

impl Matrix {
    /// Bytes that reading all of it takes.
    pub(crate) fn stored_bytes(&self) -> u64 {
        (self.view().bytes.len() + self.view().scales.len()) as u64
    }

    pub(crate) fn view(&self) -> Rows<'_> {
        Rows {
            bytes: self.bytes.get(),
            scales: self.scales.as_ref().map(Bytes::get).unwrap_or_default(),
            format: self.format,
            columns: self.columns,
        }
    }

    /// Copies one row, widened to f32.
    pub(crate) fn copy_row(&self, row: usize, out: &mut [f32]) {
        widen(self.view().slice(row..row + 1), out);
        if let Some(order) = &self.order {
            let stored = Zeroizing::new(out.to_vec());
            let places = order.iter().zip(stored.iter());
            places.for_each(|(column, weight)| out[*column as usize] = *weight);
        }
    }

    /// Activations in the order of the columns, where these do not stand in their own.
    pub(crate) fn in_order(&self, x: &[f32]) -> Option<Zeroizing<Vec<f32>>> {
        let order = self.order.as_ref()?;
        let tokens = x.chunks_exact(self.columns);
        let ordered = tokens.flat_map(|x| order.iter().map(|column| x[*column as usize]));
        Some(Zeroizing::new(ordered.collect()))
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

#[derive(Clone)]
struct Tensor {
    /// The file's name.
    shard: Arc<str>,
    file: Arc<MappedFile>,
    entry: safetensors::Entry,
}

impl Tensor {
    /// Part `index` of `of` equal ones.
    fn part(&self, index: usize, of: usize) -> Bytes {
        let size = self.entry.range.len() / of.max(1);
        let start = self.entry.range.start + index * size;
        Bytes::Mapped(Arc::clone(&self.file), start..start + size)
    }

    /// Some rows of so many bytes each.
    fn rows(&self, first: usize, count: usize, row_bytes: usize) -> Bytes {
        let start = self.entry.range.start + first * row_bytes;
        Bytes::Mapped(Arc::clone(&self.file), start..start + count * row_bytes)
    }

    /// Of a tensor of numbers.
    fn format(&self) -> Format {
        match self.entry.dtype {
            Dtype::F32 => Format::F32,
            Dtype::F16 => Format::F16,
            _ => Format::Bf16,
        }
    }
}

/// All tensors of a folder, and which of them have been taken.
pub(crate) struct Tensors {
    scheme: Option<Scheme>,
    tensors: BTreeMap<String, Tensor>,
    taken: BTreeSet<String>,
    parameters: u64,
}

/// A tensor as it stands in its file.
pub(crate) struct Stored<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'a [u64],
    pub(crate) bytes: &'a [u8],
    format: Format,
}

impl Stored<'_> {
    /// Rows of so many columns, of a tensor of numbers.
    pub(crate) fn rows(&self, columns: usize) -> usize {
        self.bytes.len() / self.format.row_bytes(columns).max(1)
    }

    /// Widens one row.
    pub(crate) fn widen_row(&self, row: usize, out: &mut [f32]) {
        let rows = Rows {
            bytes: self.bytes,
            scales: &[],
            format: self.format,
            columns: out.len(),
        };
        widen(rows.slice(row..row + 1), out);
    }
}

impl Tensors {
    /// All tensors, by name.
    pub(crate) fn stored(&self) -> Vec<Stored<'_>> {
        let tensors = self.tensors.iter().map(|(name, tensor)| Stored {
            name,
            dtype: tensor.entry.dtype,
            shape: &tensor.entry.shape,
            bytes: tensor
                .file
                .bytes()
                .get(tensor.entry.range.clone())
                .unwrap_or_default(),
            format: tensor.format(),
        });
        tensors.collect()
    }

    /// Maps `model.safetensors`, or the shards that `model.safetensors.index.json` lists.
    pub(crate) fn open(model: &Path, scheme: Option<Scheme>) -> Result<Self, LoadError> {
        let mut tensors = Self {
            scheme,
            tensors: BTreeMap::new(),
            taken: BTreeSet::new(),
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

    /// Embedding models are published as the inner part of a model with a head, without the
    /// `model.` before the names of its tensors.
    pub(crate) fn name_as_in_a_whole_model(&mut self) {
        const INNER: &str = "model.";
        if self.tensors.keys().any(|name| name.starts_with(INNER)) {
            return;
        }
        let tensors = std::mem::take(&mut self.tensors).into_iter();
        self.tensors = tensors
            .map(|(name, tensor)| (format!("{INNER}{name}"), tensor))
            .collect();
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
        let (rows, columns) = (spec.rows, spec.columns);
        if let Some((module, form)) = self.form_of(spec) {
            return self.packed(spec, &module, form, pool);
        }
        if self.is_quantised(&spec.tensor) {
            return self.quantised(spec, pool);
        }
        let (bytes, format) = match spec.layout {
            Layout::Whole => {
                let tensor = self.take(&spec.tensor, &[rows, columns])?;
                (tensor.part(0, 1), tensor.format())
            }
            Layout::Rows { first, of } => {
                let tensor = self.take(&spec.tensor, &[of, columns])?;
                let row_bytes = tensor.format().row_bytes(columns);
                (tensor.rows(first, rows, row_bytes), tensor.format())
            }
            Layout::Turned { index, of } => {
                let tensor = self.take(&spec.tensor, &[of, columns, rows])?;
                let format = tensor.format();
                let turned = turn(tensor.part(index, of).get(), format.row_bytes(1), rows);
                (Bytes::Made(turned.into()), format)
            }
            Layout::Mxfp4 { index, of } => return self.mxfp4(spec, index, of, pool),
        };
        self.parameters += (rows * columns) as u64;
        let matrix = Matrix {
            bytes,
            scales: None,
            format,
            rows,
            columns,
            order: None,
        };
        check_finite(pool, &spec.tensor, matrix.view())?;
        Ok(matrix)
    }

    /// Whether `{tensor}_scale` stands beside it: `cloister-inference quantize` made it.
    fn is_quantised(&self, tensor: &str) -> bool {
        self.scheme.is_none() && self.tensors.contains_key(&format!("{tensor}_scale"))
    }

    /// Signed bytes `[rows, columns]` or signed halves of bytes `[rows, columns / 2]`, and scales
    /// in f16 `[rows, groups]`.
    fn quantised(&mut self, spec: &MatrixSpec, pool: &Pool) -> Result<Matrix, TensorError> {
        let (rows, columns) = (spec.rows, spec.columns);
        let (first, of) = match spec.layout {
            Layout::Whole => (0, rows),
            Layout::Rows { first, of } => (first, of),
            Layout::Turned { .. } | Layout::Mxfp4 { .. } => {
                return Err(TensorError::Quantised(Name::new(&spec.tensor)));
            }
        };
        let scale_name = format!("{}_scale", spec.tensor);
        let groups = match self.tensors.get(&scale_name).map(|t| &t.entry.shape[..]) {
            Some([_, groups]) => usize::try_from(*groups).unwrap_or(0),
            _ => 0,
        };
        let shift = GROUP_SHIFTS
            .into_iter()
            .find(|shift| groups << shift == columns && columns > 0)
            .ok_or_else(|| TensorError::Quantised(Name::new(&scale_name)))?;
        let is_f16 = |dtype| dtype == Dtype::F16;
        let scales = self.take_as(&scale_name, &[of, groups], is_f16, TensorError::Quantised)?;
        let scales = scales.rows(first, rows, 2 * groups);
        let is_bytes = self.tensors.get(&spec.tensor).map(|t| t.entry.dtype) == Some(Dtype::I8);
        let (dtype, format, width) = match is_bytes {
            true => (Dtype::I8, Format::Int8 { shift }, columns),
            false => (Dtype::U8, Format::Int4 { shift }, columns / 2),
        };
        let fits = |found| found == dtype;
        let tensor = self.take_as(&spec.tensor, &[of, width], fits, TensorError::Quantised)?;
        let matrix = Matrix {
            bytes: tensor.rows(first, rows, width),
            scales: Some(scales),
            format,
            rows,
            columns,
            order: None,
        };
        self.parameters += (rows * columns) as u64;
        check_finite(pool, &scale_name, matrix.view())?;
        Ok(matrix)
    }

    fn mxfp4(
        &mut self,
        spec: &MatrixSpec,
        index: usize,
        of: usize,
        pool: &Pool,
    ) -> Result<Matrix, TensorError> {
        let (rows, columns) = (spec.rows, spec.columns);
        let blocks = columns / MXFP4_BLOCK;
        let names = [
            format!("{}_blocks", spec.tensor),
            format!("{}_scales", spec.tensor),
        ];
        let bytes = self.take_bytes(&names[0], &[of, rows, blocks, MXFP4_BLOCK / 2])?;
        let scales = self.take_bytes(&names[1], &[of, rows, blocks])?;
        self.parameters += (rows * columns) as u64;
        let matrix = Matrix {
            bytes: bytes.part(index, of),
            scales: Some(scales.part(index, of)),
            format: Format::Mxfp4,
            rows,
            columns,
            order: None,
        };
        check_finite(pool, &names[1], matrix.view())?;
        Ok(matrix)
    }

    pub(crate) fn linear(&mut self, spec: &LinearSpec, pool: &Pool) -> Result<Linear, TensorError> {
        let weight = self.matrix(&spec.weight, pool)?;
        let bias = match &spec.bias {
            Some(bias) => Some(self.vector(bias, spec.weight.rows, pool)?),
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
        let mut scale = self.whole_vector(&spec.tensor, size, pool)?;
        scale.iter_mut().for_each(|scale| *scale += spec.offset);
        Ok(Norm {
            scale,
            epsilon: spec.epsilon,
        })
    }

    /// A tensor `[size]`, widened to f32.
    pub(crate) fn whole_vector(
        &mut self,
        name: &str,
        size: usize,
        pool: &Pool,
    ) -> Result<Vec<f32>, TensorError> {
        let spec = VectorSpec {
            tensor: name.to_owned(),
            row: None,
        };
        self.vector(&spec, size, pool)
    }

    /// Refuses what nobody has taken, apart from `ignored`; answers the number of weights.
    pub(crate) fn finish(self, ignored: &[String]) -> Result<u64, TensorError> {
        let is_known = |name: &&String| self.taken.contains(*name) || ignored.contains(name);
        match self.tensors.keys().find(|name| !is_known(name)) {
            Some(name) => Err(TensorError::Unexpected(Name::new(name))),
            None => Ok(self.parameters),
        }
    }

    fn vector(
        &mut self,
        spec: &VectorSpec,
        size: usize,
        pool: &Pool,
    ) -> Result<Vec<f32>, TensorError> {
        let tensor = match spec.row {
            None => self.take(&spec.tensor, &[size])?,
            Some((_, of)) => self.take(&spec.tensor, &[of, size])?,
        };
        let (index, of) = spec.row.unwrap_or((0, 1));
        let bytes = tensor.part(index, of);
        let rows = Rows {
            bytes: bytes.get(),
            scales: &[],
            format: tensor.format(),
            columns: size,
        };
        check_finite(pool, &spec.tensor, rows)?;
        let mut values = vec![0.0; size];
        widen(rows, &mut values);
        self.parameters += size as u64;
        Ok(values)
    }

    /// Takes a tensor of numbers, or a part of it.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<&Tensor, TensorError> {
        let fits = |dtype| matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16);
        self.take_as(name, shape, fits, TensorError::Dtype)
    }

    fn take_bytes(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, TensorError> {
        let fits = |dtype| dtype == Dtype::U8;
        self.take_as(name, shape, fits, TensorError::Bytes).cloned()
    }

    fn take_as(
        &mut self,
        name: &str,
        shape: &[usize],
        fits: impl Fn(Dtype) -> bool,
        refusal: impl Fn(Name) -> TensorError,
    ) -> Result<&Tensor, TensorError> {
        let tensor = self.tensors.get(name);
        let tensor = tensor.ok_or_else(|| TensorError::Missing(Name::new(name)))?;
        if !fits(tensor.entry.dtype) {
            return Err(refusal(Name::new(name)));
        }
        let shape: Vec<u64> = shape.iter().map(|size| *size as u64).collect();
        if tensor.entry.shape != shape {
            return Err(TensorError::Shape {
                name: Name::new(name),
                found: tensor.entry.shape.clone(),
                expected: shape,
            });
        }
        self.taken.insert(name.to_owned());
        Ok(tensor)
    }
}

fn check_finite(pool: &Pool, name: &str, rows: Rows<'_>) -> Result<(), TensorError> {
    match all_finite(pool, rows) {
        true => Ok(()),
        false => Err(TensorError::NotFinite(Name::new(name))),
    }
}

/// Turns a matrix `[columns, rows]` of elements into `[rows, columns]`.
fn turn(bytes: &[u8], width: usize, rows: usize) -> Vec<u8> {
    let mut turned = Vec::with_capacity(bytes.len());
    for row in 0..rows {
        let elements = bytes.chunks_exact(width).skip(row).step_by(rows);
        elements.for_each(|element| turned.extend_from_slice(element));
    }
    turned
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
