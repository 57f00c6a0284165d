//! Weights that another program has quantised, brought into the order of the products at load: they
//! stay as small as they are. What stands for a weight is exactly what `quantization_config` says.

use std::sync::Arc;

use super::{Bytes, Matrix, Tensors, check_finite};
use crate::cpu::{AFFINE_RECORD, Format, Pool, Rows, affine_groups, are_float8, half_bytes, widen};
use crate::error::{Name, TensorError};
use crate::quantisation::{Block, Form, WHOLE_ROW};
use crate::safetensors::Dtype;
use crate::spec::{Layout, MatrixSpec};

/// Rows that one thread packs at a time.
const PART: usize = 16;
/// Which of a word's eight halves holds which of its eight rows, in AWQ.
const AWQ_HALVES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The rows of a matrix in its tensor, and its columns.
#[derive(Clone, Copy)]
struct Place {
    first: usize,
    rows: usize,
    of: usize,
    columns: usize,
    shift: u8,
}

impl Place {
    fn groups(self) -> usize {
        affine_groups(self.columns, self.shift)
    }
}

/// Words of 32 bits, each with several weights.
struct Words {
    bytes: Bytes,
    bits: u32,
}

impl Words {
    fn get(&self, word: usize, place: usize) -> i32 {
        let bytes = self.bytes.get()[4 * word..].first_chunk();
        let word = bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes));
        (word >> (place as u32 * self.bits) & ((1 << self.bits) - 1)) as i32
    }
}

/// Where a matrix's unsigned weights, scales and zeros are, by row of the tensor.
struct Source<W, S, Z> {
    bits: u32,
    /// Of a row and a column.
    weight: W,
    /// Of a row and a group.
    scale: S,
    /// Likewise.
    zero: Z,
}

impl Tensors {
    /// The module of a matrix that is stored as the configuration says, and how.
    pub(super) fn form_of(&self, spec: &MatrixSpec) -> Option<(String, Form)> {
        let scheme = self.scheme.as_ref()?;
        let module = spec.tensor.strip_suffix(".weight")?;
        let has = |part: &str| self.tensors.contains_key(&format!("{module}.{part}"));
        let stands_so = match scheme.form {
            Form::Awq { .. } | Form::Gptq { .. } => has("qweight"),
            Form::Packed { .. } => has("weight_packed"),
            Form::Bytes { .. } => has("weight_scale"),
            Form::Float8 { .. } => has("weight_scale") || has("weight_scale_inv"),
        };
        (stands_so && !scheme.skips(module)).then(|| (module.to_owned(), scheme.form))
    }

    /// Takes all tensors of a module's weight.
    pub(super) fn packed(
        &mut self,
        spec: &MatrixSpec,
        module: &str,
        form: Form,
        pool: &Pool,
    ) -> Result<Matrix, TensorError> {
        let (rows, columns) = (spec.rows, spec.columns);
        let (first, of) = match spec.layout {
            Layout::Whole => (0, rows),
            Layout::Rows { first, of } => (first, of),
            Layout::Turned { .. } | Layout::Mxfp4 { .. } => {
                return Err(TensorError::Quantised(Name::new(&spec.tensor)));
            }
        };
        let place = |shift| Place {
            first,
            rows,
            of,
            columns,
            shift,
        };
        self.parameters += (rows * columns) as u64;
        match form {
            Form::Awq { shift } => self.awq(module, place(shift), pool),
            Form::Gptq {
                bits,
                shift,
                is_ordered,
                offset,
            } => self.gptq(module, place(shift), (bits, is_ordered, offset), pool),
            Form::Packed {
                bits,
                shift,
                is_symmetric,
                is_ordered,
            } => self.words(module, place(shift), (bits, is_symmetric, is_ordered), pool),
            Form::Bytes {
                shift,
                is_symmetric,
            } => self.bytes(module, place(shift), is_symmetric, pool),
            Form::Float8 { block } => self.float8(module, place(WHOLE_ROW), block, pool),
        }
    }

    fn awq(&mut self, module: &str, place: Place, pool: &Pool) -> Result<Matrix, TensorError> {
        let (of, groups, width) = (place.of, place.groups(), place.of / 8);
        let name = |part: &str| format!("{module}.{part}");
        if !of.is_multiple_of(8) {
            return Err(TensorError::Quantised(Name::new(&name("qweight"))));
        }
        let weights = self.take_words(&name("qweight"), &[place.columns, width], 4)?;
        let zeros = self.take_words(&name("qzeros"), &[groups, width], 4)?;
        let scales = self.take_scales(&name("scales"), &[&[groups, of]], pool)?;
        let half = |row: usize| (row / 8, AWQ_HALVES[row % 8]);
        let source = Source {
            bits: 4,
            weight: |row: usize, column: usize| {
                let (word, half) = half(row);
                weights.get(column * width + word, half)
            },
            scale: |row: usize, group: usize| scales[group * of + row],
            zero: |row: usize, group: usize| {
                let (word, half) = half(row);
                zeros.get(group * width + word, half)
            },
        };
        pack(pool, place, None, &name("scales"), &source)
    }

    fn gptq(
        &mut self,
        module: &str,
        place: Place,
        (bits, is_ordered, offset): (u32, bool, i32),
        pool: &Pool,
    ) -> Result<Matrix, TensorError> {
        let (of, groups, per_word) = (place.of, place.groups(), 32 / bits as usize);
        let name = |part: &str| format!("{module}.{part}");
        if !of.is_multiple_of(per_word) || !place.columns.is_multiple_of(per_word) {
            return Err(TensorError::Quantised(Name::new(&name("qweight"))));
        }
        let shape = [place.columns / per_word, of];
        let weights = self.take_words(&name("qweight"), &shape, bits)?;
        let zeros = self.take_words(&name("qzeros"), &[groups, of / per_word], bits)?;
        let scales = self.take_scales(&name("scales"), &[&[groups, of]], pool)?;
        let order = self.take_order(&name("g_idx"), place, is_ordered)?;
        let source = Source {
            bits,
            weight: |row: usize, column: usize| {
                weights.get(column / per_word * of + row, column % per_word)
            },
            scale: |row: usize, group: usize| scales[group * of + row],
            zero: |row: usize, group: usize| {
                let word = group * (of / per_word) + row / per_word;
                zeros.get(word, row % per_word) + offset
            },
        };
        pack(pool, place, order, &name("scales"), &source)
    }

    fn words(
        &mut self,
        module: &str,
        place: Place,
        (bits, is_symmetric, is_ordered): (u32, bool, bool),
        pool: &Pool,
    ) -> Result<Matrix, TensorError> {
        let (of, groups, per_word) = (place.of, place.groups(), 32 / bits as usize);
        let name = |part: &str| format!("{module}.{part}");
        let width = place.columns.div_ceil(per_word);
        let weights = self.take_words(&name("weight_packed"), &[of, width], bits)?;
        let scales = self.take_scales(&name("weight_scale"), &[&[of, groups]], pool)?;
        let zeros = match is_symmetric {
            true => None,
            false => {
                let shape = [of.div_ceil(per_word), groups];
                Some(self.take_words(&name("weight_zero_point"), &shape, bits)?)
            }
        };
        self.check_shape(&name("weight_shape"), [of, place.columns])?;
        let order = self.take_order(&name("weight_g_idx"), place, is_ordered)?;
        let source = Source {
            bits,
            weight: |row: usize, column: usize| {
                weights.get(row * width + column / per_word, column % per_word)
            },
            scale: |row: usize, group: usize| scales[row * groups + group],
            zero: |row: usize, group: usize| match &zeros {
                Some(zeros) => zeros.get(row / per_word * groups + group, row % per_word),
                None => 1 << (bits - 1),
            },
        };
        pack(pool, place, order, &name("weight_scale"), &source)
    }

    fn bytes(
        &mut self,
        module: &str,
        place: Place,
        is_symmetric: bool,
        pool: &Pool,
    ) -> Result<Matrix, TensorError> {
        let (of, groups) = (place.of, place.groups());
        let name = |part: &str| format!("{module}.{part}");
        let is_bytes = |dtype| dtype == Dtype::I8;
        let shape = [of, place.columns];
        let refusal = TensorError::Quantised;
        let weights = self.take_as(&name("weight"), &shape, is_bytes, refusal)?;
        let bytes = weights.rows(place.first, place.rows, place.columns);
        let scale_name = name("weight_scale");
        let scales = self.take_scales(&scale_name, &[&[of, groups], &[1], &[]], pool)?;
        let zeros = match is_symmetric {
            true => None,
            false => {
                let shape = [of, groups];
                let zeros = name("weight_zero_point");
                Some(self.take_as(&zeros, &shape, is_bytes, refusal)?.part(0, 1))
            }
        };
        self.pass_over(module);
        let mut records = Vec::with_capacity(place.rows * groups * AFFINE_RECORD);
        for row in place.first..place.first + place.rows {
            for index in row * groups..(row + 1) * groups {
                let scale = if scales.len() == 1 {
                    scales[0]
                } else {
                    scales[index]
                };
                let zero = zeros
                    .as_ref()
                    .map_or(0, |zeros| zeros.get()[index].cast_signed());
                records.extend(scale.to_le_bytes());
                records.extend(i16::from(zero).to_le_bytes());
            }
        }
        let format = Format::Affine8 { shift: place.shift };
        finish(pool, place, bytes, records, format, None, &scale_name)
    }

    fn float8(
        &mut self,
        module: &str,
        place: Place,
        block: Block,
        pool: &Pool,
    ) -> Result<Matrix, TensorError> {
        let of = place.of;
        let name = |part: &str| format!("{module}.{part}");
        let fits = |dtype| dtype == Dtype::F8E4m3;
        let shape = [of, place.columns];
        let weights = self.take_as(&name("weight"), &shape, fits, TensorError::Quantised)?;
        let bytes = weights.rows(place.first, place.rows, place.columns);
        if !are_float8(bytes.get()) {
            return Err(TensorError::NotFinite(Name::new(&name("weight"))));
        }
        let scale_name = match self.tensors.contains_key(&name("weight_scale_inv")) {
            true => name("weight_scale_inv"),
            false => name("weight_scale"),
        };
        let (rows, shift) = match block {
            Block::Of { rows, shift } => (rows, shift),
            Block::RowOrTensor => (1, WHOLE_ROW),
        };
        let groups = affine_groups(place.columns, shift);
        let blocks = [of.div_ceil(rows), groups];
        let scales = match block {
            Block::Of { .. } => self.take_scales(&scale_name, &[&blocks], pool)?,
            Block::RowOrTensor => {
                self.take_scales(&scale_name, &[&blocks, &[of], &[1], &[]], pool)?
            }
        };
        self.pass_over(module);
        let mut records = Vec::with_capacity(place.rows * groups * 4);
        for row in place.first..place.first + place.rows {
            for group in 0..groups {
                let index = row / rows * groups + group;
                let scale = if scales.len() == 1 {
                    scales[0]
                } else {
                    scales[index]
                };
                records.extend(scale.to_le_bytes());
            }
        }
        let format = Format::Float8 { shift };
        finish(pool, place, bytes, records, format, None, &scale_name)
    }

    /// Scales of activations: these stay as they are.
    fn pass_over(&mut self, module: &str) {
        for part in ["input_scale", "input_zero_point", "activation_scale"] {
            self.taken.insert(format!("{module}.{part}"));
        }
    }

    fn take_words(&mut self, name: &str, shape: &[usize], bits: u32) -> Result<Words, TensorError> {
        let fits = |dtype| dtype == Dtype::I32;
        let tensor = self.take_as(name, shape, fits, TensorError::Quantised)?;
        Ok(Words {
            bytes: tensor.part(0, 1),
            bits,
        })
    }

    /// Scales of one of several shapes, widened to f32.
    fn take_scales(
        &mut self,
        name: &str,
        shapes: &[&[usize]],
        pool: &Pool,
    ) -> Result<Vec<f32>, TensorError> {
        let found = self.tensors.get(name).map(|tensor| &tensor.entry.shape);
        let is_found = |shape: &&&[usize]| {
            let shape = shape.iter().map(|size| *size as u64);
            found.is_some_and(|found| found.iter().copied().eq(shape))
        };
        let shape = shapes.iter().find(is_found).or(shapes.first());
        let shape = shape.copied().unwrap_or_default();
        let tensor = self.take(name, shape)?;
        let bytes = tensor.part(0, 1);
        let mut scales = vec![0.0; shape.iter().product()];
        let rows = Rows {
            bytes: bytes.get(),
            scales: &[],
            format: tensor.format(),
            columns: scales.len(),
        };
        check_finite(pool, name, rows)?;
        widen(rows, &mut scales);
        Ok(scales)
    }

    /// `weight_shape`, if it is there, says what the configuration says.
    fn check_shape(&mut self, name: &str, shape: [usize; 2]) -> Result<(), TensorError> {
        let Some(tensor) = self.tensors.get(name) else {
            return Ok(());
        };
        let width = match tensor.entry.dtype {
            Dtype::I64 => 8,
            Dtype::I32 => 4,
            _ => return Err(TensorError::Quantised(Name::new(name))),
        };
        let fits = |dtype| matches!(dtype, Dtype::I64 | Dtype::I32);
        let tensor = self.take_as(name, &[2], fits, TensorError::Quantised)?;
        let bytes = tensor.part(0, 1);
        let expected = shape.into_iter().flat_map(|size| {
            let size = (size as u64).to_le_bytes();
            size.into_iter().take(width)
        });
        match bytes.get().iter().copied().eq(expected) {
            true => Ok(()),
            false => Err(TensorError::Quantised(Name::new(name))),
        }
    }

    /// The columns by their groups, `None` if they stand so already. Every group is full but the
    /// last.
    fn take_order(
        &mut self,
        name: &str,
        place: Place,
        is_ordered: bool,
    ) -> Result<Option<Arc<[u32]>>, TensorError> {
        if !is_ordered && !self.tensors.contains_key(name) {
            return Ok(None);
        }
        let words = self.take_words(name, &[place.columns], 32)?;
        let group = |column: usize| {
            let bytes = words.bytes.get()[4 * column..].first_chunk();
            bytes.map_or(u32::MAX, |bytes| u32::from_le_bytes(*bytes))
        };
        let mut order: Vec<u32> = (0..place.columns as u32).collect();
        order.sort_by_key(|column| group(*column as usize));
        let is_full = |(index, column): (usize, &u32)| {
            group(*column as usize) as usize == index >> place.shift
        };
        let stands = order.is_sorted();
        if !order.iter().enumerate().all(is_full) || !stands && !is_ordered {
            return Err(TensorError::Quantised(Name::new(name)));
        }
        Ok((!stands).then(|| order.into()))
    }
}

/// Packs a matrix's rows into halves of bytes or bytes, and its scales and zeros into records.
fn pack<W, S, Z>(
    pool: &Pool,
    place: Place,
    order: Option<Arc<[u32]>>,
    scale_name: &str,
    source: &Source<W, S, Z>,
) -> Result<Matrix, TensorError>
where
    W: Fn(usize, usize) -> i32 + Sync,
    S: Fn(usize, usize) -> f32 + Sync,
    Z: Fn(usize, usize) -> i32 + Sync,
{
    let Place { columns, shift, .. } = place;
    let (width, format) = match source.bits {
        4 => (half_bytes(columns), Format::Affine4 { shift }),
        _ => (columns, Format::Affine8 { shift }),
    };
    let middle = 1 << (source.bits - 1);
    let record_bytes = place.groups() * AFFINE_RECORD;
    let mut bytes = vec![0; place.rows * width];
    let mut records = vec![0; place.rows * record_bytes];
    let parts = bytes
        .chunks_mut(PART * width)
        .zip(records.chunks_mut(PART * record_bytes))
        .enumerate();
    pool.for_each(parts, false, |(part, (bytes, records))| {
        let rows = bytes.chunks_exact_mut(width);
        let rows = rows.zip(records.chunks_exact_mut(record_bytes));
        for (index, (bytes, records)) in rows.enumerate() {
            let row = place.first + part * PART + index;
            for column in 0..columns {
                let stored = order
                    .as_ref()
                    .map_or(column, |order| order[column] as usize);
                let weight = ((source.weight)(row, stored) - middle) as u8;
                match source.bits {
                    4 => {
                        let lift = if column % 32 < 16 { 0 } else { 4 };
                        bytes[column / 32 * 16 + column % 16] |= (weight & 15) << lift;
                    }
                    _ => bytes[column] = weight,
                }
            }
            let records = records.as_chunks_mut::<AFFINE_RECORD>().0.iter_mut();
            for (group, record) in records.enumerate() {
                let zero = ((source.zero)(row, group) - middle) as i16;
                record[..4].copy_from_slice(&(source.scale)(row, group).to_le_bytes());
                record[4..].copy_from_slice(&zero.to_le_bytes());
            }
        }
    });
    let bytes = Bytes::Made(bytes.into());
    finish(pool, place, bytes, records, format, order, scale_name)
}

fn finish(
    pool: &Pool,
    place: Place,
    bytes: Bytes,
    records: Vec<u8>,
    format: Format,
    order: Option<Arc<[u32]>>,
    scale_name: &str,
) -> Result<Matrix, TensorError> {
    let matrix = Matrix {
        bytes,
        scales: Some(Bytes::Made(records.into())),
        format,
        rows: place.rows,
        columns: place.columns,
        order,
    };
    check_finite(pool, scale_name, matrix.view())?;
    Ok(matrix)
}
