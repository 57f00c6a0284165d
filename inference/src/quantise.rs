//! Weights in int8 or int4, made from wider ones: groups of 128 (or 64, or 32) neighbours in a row
//! share a scale in f16, and a weight is a whole number times its group's scale.
//!
//! What was `NAME` in f32, f16 or bf16 `[rows, columns]` becomes `NAME`, I8 `[rows, columns]` or U8
//! `[rows, columns / 2]`, and `NAME_scale`, F16 `[rows, groups]`. In int4, of each 16 bytes the low
//! halves are 16 weights and the high halves the next 16. Norms, biases, routers and MXFP4 stay.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{LoadError, Name};
use crate::family;
use crate::folder;
use crate::safetensors::Dtype;
use crate::spec::{DecoderSpec, GateSpec, GatedSpec, Layout, MatrixSpec, MlpSpec};
use crate::weights::{GROUP_SHIFTS, Stored, Tensors};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

/// How small a weight becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// One byte.
    Eight,
    /// Half a byte.
    Four,
}

/// Why a folder is not made.
#[derive(Debug, thiserror::Error)]
pub enum QuantiseError {
    /// The folder that is given cannot be opened.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The new folder cannot be written.
    #[error("cannot write the new folder: {0}")]
    Write(#[from] io::Error),
    /// A tensor of a type that no weight has.
    #[error("the tensor {0} has a type that no weight has")]
    Dtype(Name),
    /// Another program has made the weights smaller.
    #[error("the weights of this model are quantised already")]
    Already,
    /// Nothing in the folder can be made smaller.
    #[error("no matrix of this model can be quantised")]
    Nothing,
}

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantised {
    /// Matrices that became smaller.
    pub matrices: usize,
    /// Bytes of all tensors before.
    pub before_bytes: u64,
    /// Bytes of all tensors after.
    pub after_bytes: u64,
}

/// Makes the folder `output` from `model`. The new folder must not exist.
pub fn quantise(model: &Path, output: &Path, bits: Bits) -> Result<Quantised, QuantiseError> {
    let missing = || LoadError::Missing {
        file: Name::new(CONFIG),
    };
    let config = folder::json_optional(model, CONFIG)?.ok_or_else(missing)?;
    let config = family::read(config).map_err(|source| LoadError::Config {
        file: Name::new(CONFIG),
        source,
    })?;
    if config.scheme.is_some() {
        return Err(QuantiseError::Already);
    }
    let wanted = matrices(&config.decoder);
    let tensors = Tensors::open(model, None)?;
    let stored = tensors.stored();
    if let Some(tensor) = stored.iter().find(|t| t.dtype.name().is_none()) {
        return Err(QuantiseError::Dtype(Name::new(tensor.name)));
    }
    let plans: Vec<Plan<'_>> = stored.iter().map(|t| Plan::new(t, &wanted, bits)).collect();
    let made = Quantised {
        matrices: plans.iter().filter(|plan| plan.shift.is_some()).count(),
        before_bytes: stored.iter().map(|t| t.bytes.len() as u64).sum(),
        after_bytes: plans
            .iter()
            .map(|plan| plan.size() + plan.scale_size())
            .sum(),
    };
    if made.matrices == 0 {
        return Err(QuantiseError::Nothing);
    }
    fs::create_dir(output)?;
    copy_others(model, output)?;
    let mut file = BufWriter::new(File::create_new(output.join(WEIGHTS))?);
    let header = header(&plans);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    for plan in &plans {
        plan.write(&mut file)?;
    }
    file.flush()?;
    Ok(made)
}

/// The tensors that hold matrices by which activations are multiplied, and the embedding.
fn matrices(spec: &DecoderSpec) -> BTreeSet<&str> {
    let mut all: Vec<&MatrixSpec> = vec![&spec.embedding];
    all.extend(&spec.head);
    for layer in &spec.layers {
        let attention = &layer.attention;
        let (query, key) = (&attention.query, &attention.key);
        all.extend([&query.weight, &key.weight]);
        all.extend([&attention.value.weight, &attention.output.weight]);
        match &layer.mlp {
            MlpSpec::Dense(gated) => add_gated(&mut all, gated),
            MlpSpec::Experts(experts) => {
                experts
                    .experts
                    .iter()
                    .for_each(|gated| add_gated(&mut all, gated));
            }
        }
    }
    let simple = |m: &&MatrixSpec| matches!(m.layout, Layout::Whole | Layout::Rows { .. });
    let all = all.into_iter().filter(simple);
    all.map(|matrix| matrix.tensor.as_str()).collect()
}

fn add_gated<'a>(all: &mut Vec<&'a MatrixSpec>, gated: &'a GatedSpec) {
    match &gated.input {
        GateSpec::Two { gate, up } => all.extend([&gate.weight, &up.weight]),
        GateSpec::Interleaved(both) => all.push(&both.weight),
    }
    all.push(&gated.down.weight);
}

/// All files but weights and their index.
fn copy_others(model: &Path, output: &Path) -> io::Result<()> {
    for entry in fs::read_dir(model)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_weights = name.to_string_lossy().contains(".safetensors");
        if entry.path().is_file() && !is_weights {
            fs::copy(entry.path(), output.join(name))?;
        }
    }
    Ok(())
}

/// What becomes of one tensor.
struct Plan<'a> {
    tensor: &'a Stored<'a>,
    bits: Bits,
    /// Of its groups, if it is quantised.
    shift: Option<u8>,
}

impl<'a> Plan<'a> {
    fn new(tensor: &'a Stored<'a>, wanted: &BTreeSet<&str>, bits: Bits) -> Self {
        let fits = |shift: &u8| match tensor.shape {
            [_, columns] => *columns > 0 && columns % (1 << shift) == 0,
            _ => false,
        };
        let is_number = matches!(tensor.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16);
        let is_wanted = wanted.contains(tensor.name) && is_number;
        let shift = GROUP_SHIFTS.into_iter().find(fits).filter(|_| is_wanted);
        Self {
            tensor,
            bits,
            shift,
        }
    }

    fn weights(&self) -> u64 {
        self.tensor.shape.iter().product()
    }

    fn size(&self) -> u64 {
        match (self.shift, self.bits) {
            (None, _) => self.tensor.bytes.len() as u64,
            (Some(_), Bits::Eight) => self.weights(),
            (Some(_), Bits::Four) => self.weights() / 2,
        }
    }

    fn scale_size(&self) -> u64 {
        self.shift.map_or(0, |shift| (self.weights() >> shift) * 2)
    }

    fn write(&self, file: &mut impl Write) -> io::Result<()> {
        let (Some(shift), [_, columns]) = (self.shift, self.tensor.shape) else {
            return file.write_all(self.tensor.bytes);
        };
        let columns = usize::try_from(*columns).unwrap_or(usize::MAX);
        let mut scales = Vec::new();
        let mut row = vec![0.0; columns];
        for index in 0..self.tensor.rows(columns) {
            self.tensor.widen_row(index, &mut row);
            let mut bytes = Vec::with_capacity(columns);
            for group in row.chunks_exact(1 << shift) {
                let (scale, whole) = quantise_group(group, self.bits);
                scales.extend(scale.to_le_bytes());
                match self.bits {
                    Bits::Eight => bytes.extend(whole.iter().map(|whole| whole.cast_unsigned())),
                    Bits::Four => bytes.extend(whole.chunks_exact(32).flat_map(pack)),
                }
            }
            file.write_all(&bytes)?;
        }
        file.write_all(&scales)
    }
}

/// 32 halves of bytes.
fn pack(whole: &[i8]) -> impl Iterator<Item = u8> {
    let (low, high) = whole.split_at(16);
    let halves = low.iter().zip(high);
    halves.map(|(low, high)| low.cast_unsigned() & 15 | high.cast_unsigned() << 4)
}

/// A group's scale in f16, and its weights as multiples of it.
fn quantise_group(group: &[f32], bits: Bits) -> (u16, Vec<i8>) {
    let largest = group.iter().fold(0.0f32, |largest, weight| {
        if weight.abs() > largest.abs() {
            *weight
        } else {
            largest
        }
    });
    // Of the 16 values of int4 the one that has no opposite goes to the largest weight.
    let (scale, least, most) = match bits {
        Bits::Eight => (largest.abs() / 127.0, -127.0, 127.0),
        Bits::Four => (largest / -8.0, -8.0, 7.0),
    };
    let stored = to_f16(scale);
    let scale = crate::cpu::from_f16(stored);
    let whole = group.iter().map(|weight| match scale == 0.0 {
        true => 0,
        false => (weight / scale).round_ties_even().clamp(least, most) as i8,
    });
    (stored, whole.collect())
}

/// The nearest finite f16; in a draw the even one.
fn to_f16(x: f32) -> u16 {
    const LARGEST: u16 = 0x7bff;
    let sign = if x < 0.0 { 0x8000 } else { 0 };
    let distance = |bits: u16| (crate::cpu::from_f16(bits) - x.abs()).abs();
    // Halves grow with their bits.
    let (mut low, mut high) = (0, LARGEST);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match crate::cpu::from_f16(middle) <= x.abs() {
            true => low = middle,
            false => high = middle,
        }
    }
    let is_high =
        distance(high) < distance(low) || distance(high) == distance(low) && high.is_multiple_of(2);
    sign | if is_high { high } else { low }
}

fn header(plans: &[Plan<'_>]) -> Vec<u8> {
    let mut entries = Map::new();
    let mut start = 0;
    let mut add = |name: String, dtype: &str, shape: Value, size: u64| {
        let offsets = [start, start + size];
        start += size;
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
        entries.insert(name, entry);
    };
    for plan in plans {
        let tensor = plan.tensor;
        let (dtype, shape) = match (plan.shift, plan.bits, tensor.shape) {
            (Some(_), Bits::Eight, shape) => ("I8", json!(shape)),
            (Some(_), Bits::Four, [rows, columns]) => ("U8", json!([rows, columns / 2])),
            (_, _, shape) => (tensor.dtype.name().unwrap_or_default(), json!(shape)),
        };
        add(tensor.name.to_owned(), dtype, shape, plan.size());
        if let (Some(shift), [rows, columns]) = (plan.shift, tensor.shape) {
            let (name, shape) = (
                format!("{}_scale", tensor.name),
                json!([rows, columns >> shift]),
            );
            add(name, "F16", shape, plan.scale_size());
        }
    }
    let mut header = Value::Object(entries).to_string().into_bytes();
    // Tensors begin at a line of the cache.
    header.resize((header.len() + 8).next_multiple_of(64) - 8, b' ');
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_the_nearest() {
        for bits in 0..=0x7bffu16 {
            assert_eq!(to_f16(crate::cpu::from_f16(bits)), bits);
        }
        assert_eq!((to_f16(1e9), to_f16(-1e9)), (0x7bff, 0xfbff));
        assert_eq!(to_f16(1.0 + 1.0 / 2048.0), 0x3c00);
        assert_eq!(to_f16(1.0 + 3.0 / 2048.0), 0x3c02);
        assert_eq!(to_f16(1e-12), 0);
    }

    #[test]
    fn groups_are_close() {
        let group: Vec<f32> = (0..128)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) / 40.0)
            .collect();
        for (bits, error) in [(Bits::Eight, 0.006), (Bits::Four, 0.16)] {
            let (scale, whole) = quantise_group(&group, bits);
            let scale = crate::cpu::from_f16(scale);
            for (weight, whole) in group.iter().zip(whole) {
                assert!(
                    (weight - f32::from(whole) * scale).abs() < error,
                    "{weight} {whole}"
                );
            }
        }
        assert_eq!(quantise_group(&[0.0; 32], Bits::Four).1, [0; 32]);
    }
}
