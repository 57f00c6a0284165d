//! Prefill and decode over a paged cache.

use super::{GRID_LIMIT, expect, optional, size};
use crate::{
    Argument, Bf16, Cache, Device, DeviceError, HeadDim, Launch, LaunchError, Plan, Tensor,
};

/// Positions of one split of decode.
const SPLIT: usize = 512;

/// What attention of one layer is like; the cache knows its heads.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Query heads; a multiple of the cache's heads.
    pub heads: usize,
    /// What a score is multiplied by.
    pub scale: f32,
    /// `score = cap * tanh(score / cap)`.
    pub cap: Option<f32>,
    /// A token sees so many tokens, itself included; `None` sees all before it.
    pub window: Option<usize>,
}

impl Attention {
    fn window(&self) -> i32 {
        let window = self.window.map(i32::try_from);
        window.and_then(Result::ok).unwrap_or(i32::MAX)
    }

    fn cap(&self) -> f32 {
        self.cap.unwrap_or(0.0)
    }

    /// Refuses what no kernel is made for; answers heads and heads of keys.
    fn check<M>(&self, cache: &Cache<M>, plan: &Plan<M>) -> Result<[i32; 2], LaunchError> {
        let kv_heads = cache.shape.kv_heads;
        let whole = kv_heads > 0 && self.heads.is_multiple_of(kv_heads);
        if cache.shape != plan.shape {
            let value = cache.shape.blocks;
            return Err(LaunchError::Unsupported {
                what: "a cache of another shape than the plan's, with blocks",
                value,
            });
        }
        let window = self.window.unwrap_or(1);
        size("attention's window", window, true)?;
        Ok([
            size(
                "attention's heads",
                self.heads,
                whole && self.heads <= GRID_LIMIT,
            )?,
            size("the cache's heads", kv_heads, true)?,
        ])
    }
}

fn row_bytes(dim: HeadDim) -> u32 {
    2 * (dim.size() as u32 + 8)
}

/// Attention of all new tokens of `plan`, whose keys and values are in the cache.
///
/// `q` and `out` are `[tokens][heads][dim]`, `sinks` is `[heads]`.
pub fn prefill<D: Device>(
    device: &D,
    attention: Attention,
    q: &Tensor<D::Memory, Bf16>,
    cache: &Cache<D::Memory>,
    sinks: Option<&Tensor<D::Memory, f32>>,
    plan: &Plan<D::Memory>,
    out: &mut Tensor<D::Memory, Bf16>,
) -> Result<(), LaunchError> {
    let rung = Rung::Shipped;
    prefill_by(device, rung, attention, q, cache, sinks, plan, out)
}

/// A version of prefill in `ladder/`, for heads of 128.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// A thread for each row, three passes over memory.
    Naive,
    /// One pass over tiles in shared memory.
    Tiled,
    /// What [`prefill`] launches.
    Shipped,
}

/// [`prefill`] by one of the versions that teach. No cubin holds the others than the shipped one.
#[allow(clippy::too_many_arguments)] // they are the operation's tensors
pub fn prefill_by<D: Device>(
    device: &D,
    rung: Rung,
    attention: Attention,
    q: &Tensor<D::Memory, Bf16>,
    cache: &Cache<D::Memory>,
    sinks: Option<&Tensor<D::Memory, f32>>,
    plan: &Plan<D::Memory>,
    out: &mut Tensor<D::Memory, Bf16>,
) -> Result<(), LaunchError> {
    let dim = cache.shape.dim;
    let [heads, kv_heads] = attention.check(cache, plan)?;
    let fits = rung == Rung::Shipped || dim == HeadDim::D128;
    size("the ladder's head", dim.size(), fits)?;
    let shape = [plan.tokens, attention.heads, dim.size()];
    expect("q", q, &shape)?;
    expect("out", out, &shape)?;
    sinks.map_or(Ok(()), |sinks| expect("sinks", sinks, &shape[1..2]))?;
    let (kernel, columns) = match dim {
        _ if rung == Rung::Naive => ("ladder_prefill_1", 64),
        _ if rung == Rung::Tiled => ("ladder_prefill_2", 64),
        HeadDim::D64 => ("attention_prefill_64", 64),
        HeadDim::D80 => ("attention_prefill_80", 64),
        HeadDim::D96 => ("attention_prefill_96", 64),
        HeadDim::D128 => ("attention_prefill_128", 64),
        HeadDim::D256 => ("attention_prefill_256", 32),
    };
    device.launch(&Launch {
        kernel,
        grid: [plan.tiles as u32, attention.heads as u32, 1],
        threads: 128,
        shared_bytes: (64 + 2 * columns) * row_bytes(dim),
        arguments: vec![
            q.argument(),
            cache.keys.argument(),
            cache.values.argument(),
            optional(sinks),
            plan.tiles(),
            plan.starts(),
            plan.lengths(),
            plan.tables(),
            out.argument(),
            Argument::I32(heads),
            Argument::I32(kv_heads),
            Argument::I32(plan.table_width as i32),
            Argument::I32(cache.shape.page_shift as i32),
            Argument::I32(attention.window()),
            Argument::F32(attention.scale),
            Argument::F32(attention.cap()),
        ],
    })?;
    Ok(())
}

/// What decode keeps between its two kernels.
#[derive(Debug)]
pub struct Scratch<M> {
    part: Tensor<M, f32>,
    highest: Tensor<M, f32>,
    total: Tensor<M, f32>,
}

impl<M> Scratch<M> {
    /// Room for so many sequences, heads and tokens of a sequence at once.
    pub fn new<D: Device<Memory = M>>(
        device: &D,
        sequences: usize,
        heads: usize,
        dim: HeadDim,
        length: usize,
    ) -> Result<Self, DeviceError> {
        let places = sequences * heads * length.div_ceil(SPLIT);
        Ok(Self {
            part: Tensor::empty(device, places * dim.size())?,
            highest: Tensor::empty(device, places)?,
            total: Tensor::empty(device, places)?,
        })
    }
}

/// Attention of one new token of each sequence of `plan`. Two launches.
///
/// `q` and `out` are `[sequences][heads][dim]`, `sinks` is `[heads]`.
#[allow(clippy::too_many_arguments)] // they are the operation's tensors
pub fn decode<D: Device>(
    device: &D,
    attention: Attention,
    q: &Tensor<D::Memory, Bf16>,
    cache: &Cache<D::Memory>,
    sinks: Option<&Tensor<D::Memory, f32>>,
    plan: &Plan<D::Memory>,
    scratch: &Scratch<D::Memory>,
    out: &mut Tensor<D::Memory, Bf16>,
) -> Result<(), LaunchError> {
    let shape = [plan.sequences, attention.heads, cache.shape.dim.size()];
    attention.check(cache, plan)?;
    let one_each = plan.tokens == plan.sequences;
    size("decode's new tokens", plan.tokens, one_each)?;
    size(
        "decode's sequences",
        plan.sequences,
        plan.sequences <= GRID_LIMIT,
    )?;
    expect("q", q, &shape)?;
    expect("out", out, &shape)?;
    sinks.map_or(Ok(()), |sinks| expect("sinks", sinks, &shape[1..2]))?;
    let splits = plan.longest.div_ceil(SPLIT);
    let places = plan.sequences * attention.heads * splits;
    for (found, expected) in [
        (scratch.part.len(), places * shape[2]),
        (scratch.highest.len(), places),
        (scratch.total.len(), places),
    ] {
        if found < expected {
            return Err(LaunchError::Length {
                tensor: "decode's scratch",
                expected,
                found,
            });
        }
    }
    device.launch(&parts(attention, q, cache, plan, scratch, splits)?)?;
    device.launch(&Launch {
        kernel: "attention_combine",
        grid: [attention.heads as u32, plan.sequences as u32, 1],
        threads: 128,
        shared_bytes: 0,
        arguments: vec![
            scratch.part.argument(),
            scratch.highest.argument(),
            scratch.total.argument(),
            optional(sinks),
            plan.lengths(),
            out.argument(),
            Argument::I32(attention.heads as i32),
            Argument::I32(shape[2] as i32),
            Argument::I32(attention.window()),
            Argument::I32(splits as i32),
        ],
    })?;
    Ok(())
}

fn parts<'a, M>(
    attention: Attention,
    q: &'a Tensor<M, Bf16>,
    cache: &'a Cache<M>,
    plan: &'a Plan<M>,
    scratch: &'a Scratch<M>,
    splits: usize,
) -> Result<Launch<'a, M>, LaunchError> {
    let dim = cache.shape.dim;
    let (kernel, warps) = match dim {
        HeadDim::D64 => ("attention_decode_64", 4),
        HeadDim::D80 => ("attention_decode_80", 4),
        HeadDim::D96 => ("attention_decode_96", 4),
        HeadDim::D128 => ("attention_decode_128", 4),
        HeadDim::D256 => ("attention_decode_256", 2),
    };
    let group = attention.heads / cache.shape.kv_heads;
    let packs = cache.shape.kv_heads * group.div_ceil(16);
    size("decode's packs of heads", packs, packs <= GRID_LIMIT)?;
    Ok(Launch {
        kernel,
        grid: [splits as u32, packs as u32, plan.sequences as u32],
        threads: warps * 32,
        shared_bytes: warps * 2 * 2 * 16 * row_bytes(dim),
        arguments: vec![
            q.argument(),
            cache.keys.argument(),
            cache.values.argument(),
            plan.lengths(),
            plan.tables(),
            scratch.part.argument(),
            scratch.highest.argument(),
            scratch.total.argument(),
            Argument::I32(attention.heads as i32),
            Argument::I32(cache.shape.kv_heads as i32),
            Argument::I32(plan.table_width as i32),
            Argument::I32(cache.shape.page_shift as i32),
            Argument::I32(attention.window()),
            Argument::I32(splits as i32),
            Argument::F32(attention.scale),
            Argument::F32(attention.cap()),
        ],
    })
}
