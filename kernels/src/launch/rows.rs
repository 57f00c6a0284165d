//! What goes row by row: norms, rotation, gates, embedding.

use super::{GRID_LIMIT, expect, optional, size};
use crate::{Argument, Bf16, Cache, Device, Launch, LaunchError, Plan, Tensor};

/// The widest row of a norm.
const WIDEST: usize = 16_384;

const NO_NORM: Norm = Norm {
    epsilon: 0.0,
    offset: 0.0,
};

/// Root mean square normalisation.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// Added to the mean of squares.
    pub epsilon: f32,
    /// The scale is this plus the weight.
    pub offset: f32,
}

/// `residual += delta; out = norm(residual)`, all `[rows][weight.len()]`.
pub fn rms_norm<D: Device>(
    device: &D,
    norm: Norm,
    residual: &mut Tensor<D::Memory, Bf16>,
    delta: Option<&Tensor<D::Memory, Bf16>>,
    weight: &Tensor<D::Memory, Bf16>,
    out: &mut Tensor<D::Memory, Bf16>,
) -> Result<(), LaunchError> {
    let columns = weight.len();
    let fits = columns.is_multiple_of(8) && columns <= WIDEST;
    let number = size("a norm's columns", columns, fits)?;
    let rows = residual.len() / columns;
    let shape = [rows, columns];
    size("a norm's rows", rows, true)?;
    expect("residual", residual, &shape)?;
    delta.map_or(Ok(()), |delta| expect("delta", delta, &shape))?;
    expect("out", out, &shape)?;
    device.launch(&Launch {
        kernel: "rms_norm",
        grid: [rows as u32, 1, 1],
        threads: 256,
        shared_bytes: 32,
        arguments: vec![
            residual.argument(),
            optional(delta),
            weight.argument(),
            out.argument(),
            Argument::I32(number),
            Argument::F32(norm.epsilon),
            Argument::F32(norm.offset),
        ],
    })?;
    Ok(())
}

/// Norms over each query and each key.
#[derive(Debug)]
pub struct HeadNorms<'a, M> {
    /// Of both.
    pub norm: Norm,
    /// `[dim]`.
    pub query: &'a Tensor<M, Bf16>,
    /// `[dim]`.
    pub key: &'a Tensor<M, Bf16>,
}

/// Norms of queries and keys, and the tables of the rotation.
#[derive(Debug)]
pub struct Rope<'a, M> {
    /// Query heads.
    pub heads: usize,
    /// Before the rotation.
    pub norms: Option<HeadNorms<'a, M>>,
    /// `[positions][dim / 2]`.
    pub cosine: &'a Tensor<M, f32>,
    /// `[positions][dim / 2]`.
    pub sine: &'a Tensor<M, f32>,
}

/// From `[tokens][heads + 2 * kv_heads][dim]`, queries to `q` (`[tokens][heads][dim]`), keys and
/// values to their slots in the cache.
pub fn rope<D: Device>(
    device: &D,
    rope: &Rope<'_, D::Memory>,
    input: &Tensor<D::Memory, Bf16>,
    plan: &Plan<D::Memory>,
    q: &mut Tensor<D::Memory, Bf16>,
    cache: &mut Cache<D::Memory>,
) -> Result<(), LaunchError> {
    let (dim, kv_heads) = (cache.shape.dim.size(), cache.shape.kv_heads);
    let all = rope.heads + 2 * kv_heads;
    let numbers = [
        size(
            "a rotation's heads",
            rope.heads,
            all.div_ceil(4) <= GRID_LIMIT,
        )?,
        size("the cache's heads", kv_heads, cache.shape == plan.shape)?,
    ];
    expect("input", input, &[plan.tokens, all, dim])?;
    expect("q", q, &[plan.tokens, rope.heads, dim])?;
    let rows = rope.cosine.len() / (dim / 2);
    size("the rotation's positions", rows, rows >= plan.positions)?;
    expect("cosine", rope.cosine, &[rows, dim / 2])?;
    expect("sine", rope.sine, &[rows, dim / 2])?;
    let norms = rope.norms.as_ref();
    if let Some(norms) = norms {
        expect("the queries' norm", norms.query, &[dim])?;
        expect("the keys' norm", norms.key, &[dim])?;
    }
    let norm = norms.map_or(NO_NORM, |norms| norms.norm);
    device.launch(&Launch {
        kernel: "rope",
        grid: [plan.tokens as u32, all.div_ceil(4) as u32, 1],
        threads: 128,
        shared_bytes: 0,
        arguments: vec![
            input.argument(),
            optional(norms.map(|norms| norms.query)),
            optional(norms.map(|norms| norms.key)),
            rope.cosine.argument(),
            rope.sine.argument(),
            plan.positions(),
            plan.slots(),
            q.argument(),
            cache.keys.argument(),
            cache.values.argument(),
            Argument::I32(numbers[0]),
            Argument::I32(numbers[1]),
            Argument::I32(dim as i32),
            Argument::I32(cache.shape.page_shift as i32),
            Argument::F32(norm.epsilon),
            Argument::F32(norm.offset),
        ],
    })?;
    Ok(())
}

/// How gate and up become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `silu(gate) * up`.
    Silu,
    /// `gelu(gate) * up`, with gelu's approximation by tanh.
    GeluTanh,
}

/// `out[rows][columns] = activation(gate) * up`, from `[rows][gate columns, up columns]`.
pub fn gate<D: Device>(
    device: &D,
    activation: Activation,
    columns: usize,
    input: &Tensor<D::Memory, Bf16>,
    out: &mut Tensor<D::Memory, Bf16>,
) -> Result<(), LaunchError> {
    let number = size("a gate's columns", columns, columns.is_multiple_of(8))?;
    let rows = out.len() / columns;
    let rows_number = size("a gate's rows", rows, true)?;
    expect("out", out, &[rows, columns])?;
    expect("input", input, &[rows, 2, columns])?;
    let blocks = (out.len() / 8).div_ceil(256);
    size("a gate's blocks", blocks, true)?;
    device.launch(&Launch {
        kernel: "gate",
        grid: [blocks as u32, 1, 1],
        threads: 256,
        shared_bytes: 0,
        arguments: vec![
            input.argument(),
            out.argument(),
            Argument::I32(rows_number),
            Argument::I32(number),
            Argument::I32(i32::from(activation == Activation::GeluTanh)),
        ],
    })?;
    Ok(())
}

/// `out[token] = table[id] * scale`; `table` is `[vocabulary][columns]`. An id outside gives NaN.
pub fn embed<D: Device>(
    device: &D,
    columns: usize,
    scale: f32,
    table: &Tensor<D::Memory, Bf16>,
    ids: &Tensor<D::Memory, u32>,
    out: &mut Tensor<D::Memory, Bf16>,
) -> Result<(), LaunchError> {
    let number = size("an embedding's columns", columns, columns.is_multiple_of(8))?;
    let vocabulary = table.len() / columns;
    let words = size("an embedding's vocabulary", vocabulary, true)?;
    size("an embedding's tokens", ids.len(), true)?;
    expect("table", table, &[vocabulary, columns])?;
    expect("out", out, &[ids.len(), columns])?;
    device.launch(&Launch {
        kernel: "embed",
        grid: [ids.len() as u32, 1, 1],
        threads: 128,
        shared_bytes: 0,
        arguments: vec![
            table.argument(),
            ids.argument(),
            out.argument(),
            Argument::I32(words),
            Argument::I32(number),
            Argument::F32(scale),
        ],
    })?;
    Ok(())
}
