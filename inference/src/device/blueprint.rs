//! What a device is to hold of a model: everything is checked here, before a device is opened. What
//! no kernel computes is refused by name.

use kernels::launch::{Activation, Norm as KernelNorm};
use kernels::{Bf16, CacheShape, HeadDim};

use super::{DeviceRefusal, blocks_of};
use crate::cache::BLOCK_TOKENS;
use crate::cpu::Format;
use crate::decoder::{Decoder, Layer};
use crate::engine::{EngineLimits, MAX_BIASES};
use crate::mlp::{Gate, Mlp};
use crate::spec::{Activation as SpecActivation, LayerSpec, NormSpec};
use crate::weights::{Linear, Matrix, Norm};

/// Rows of activations that the widest norm takes.
const WIDEST: usize = 16_384;

/// Everything, owned: files stay mapped as long as it lives.
pub(super) struct Blueprint {
    pub(super) vocabulary: usize,
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) shape: CacheShape,
    pub(super) context_tokens: usize,
    pub(super) embedding: Matrix,
    pub(super) embedding_scale: f32,
    /// `None` shares the embedding's weights.
    pub(super) head: Option<Matrix>,
    pub(super) final_norm: Scale,
    pub(super) layers: Vec<LayerPrint>,
    /// Cosines and sines, `[context_tokens][dim / 2]` each.
    pub(super) rotations: Vec<[Vec<f32>; 2]>,
    pub(super) room: StepRoom,
}

/// The most that a step is for.
#[derive(Clone, Copy)]
pub(super) struct StepRoom {
    /// New tokens, and thereby rows of activations.
    pub(super) tokens: usize,
    /// Sequences that a token is chosen for.
    pub(super) draws: usize,
    /// Tokens of one row with a bias or a penalty.
    pub(super) entries: usize,
}

pub(super) struct LayerPrint {
    pub(super) attention_norm: Scale,
    /// Queries, keys and values as one product.
    pub(super) input: Stack,
    pub(super) head_norms: Option<[Scale; 2]>,
    pub(super) sinks: Option<Vec<f32>>,
    pub(super) window: Option<usize>,
    pub(super) scale: f32,
    pub(super) rotation: usize,
    pub(super) output: Stack,
    pub(super) mlp_norm: Scale,
    /// Gate and up as one product.
    pub(super) gate: Stack,
    pub(super) activation: Activation,
    pub(super) down: Stack,
}

/// Matrices over the same activations, one after the other.
pub(super) struct Stack {
    pub(super) parts: Vec<Matrix>,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) bias: Option<Vec<Bf16>>,
}

/// A norm's scale.
pub(super) struct Scale {
    pub(super) weight: Vec<Bf16>,
    pub(super) norm: KernelNorm,
}

fn refuse<T>(what: &'static str) -> Result<T, DeviceRefusal> {
    Err(DeviceRefusal::Unsupported { what })
}

fn need(holds: bool, what: &'static str) -> Result<(), DeviceRefusal> {
    match holds {
        true => Ok(()),
        false => refuse(what),
    }
}

impl Blueprint {
    pub(super) fn of(decoder: &Decoder, limits: &EngineLimits) -> Result<Self, DeviceRefusal> {
        let spec = &decoder.spec;
        need(spec.logit_cap.is_none(), "a soft cap on logits")?;
        need(
            decoder.turning_points.is_empty(),
            "a rotation that changes with the length",
        )?;
        let layers = spec.layers.iter().zip(&decoder.layers);
        let layers = layers.map(|(spec, layer)| LayerPrint::of(spec, layer));
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        let layouts = &decoder.layouts;
        let Some(first) = layouts.first() else {
            return refuse("a model without layers");
        };
        let same = |other: &crate::cpu::Heads| {
            (other.heads, other.kv_heads, other.head_dim)
                == (first.heads, first.kv_heads, first.head_dim)
        };
        need(layouts.iter().all(same), "layers with different heads")?;
        let Some(dim) = HeadDim::of(first.head_dim) else {
            return refuse("heads of another size than 64, 80, 96, 128 or 256");
        };
        let narrow = |table: &crate::rope::Table| table.width() * 2 != first.head_dim;
        need(
            !decoder.rotations.iter().any(narrow),
            "a rotation of a part of each head",
        )?;
        let sizes = spec.hidden.is_multiple_of(16) && spec.hidden <= WIDEST;
        need(sizes, "a hidden size that is no multiple of 16")?;
        let words = (spec.vocabulary as usize).is_multiple_of(8) && spec.vocabulary < 1 << 23;
        need(words, "a vocabulary that is no multiple of 8")?;
        let context_tokens = limits.context_tokens as usize;
        let blocks = cache_blocks(limits, spec.layers.len() * first.kv_heads * first.head_dim)?;
        Ok(Self {
            vocabulary: spec.vocabulary as usize,
            hidden: spec.hidden,
            heads: first.heads,
            shape: CacheShape {
                blocks,
                kv_heads: first.kv_heads,
                page_shift: BLOCK_TOKENS.trailing_zeros(),
                dim,
            },
            context_tokens,
            embedding: halves(&decoder.embedding)?,
            embedding_scale: spec.embedding_scale.unwrap_or(1.0),
            head: decoder.head.as_ref().map(halves).transpose()?,
            final_norm: Scale::of(&spec.final_norm, &decoder.final_norm)?,
            layers,
            rotations: rotations(decoder, context_tokens),
            room: StepRoom {
                tokens: limits.prefill_chunk_tokens as usize + limits.max_active as usize,
                draws: limits.max_active as usize,
                entries: limits.max_new_tokens as usize + MAX_BIASES,
            },
        })
    }
}

/// Blocks of the cache in bf16, with room for one full context.
fn cache_blocks(limits: &EngineLimits, width: usize) -> Result<usize, DeviceRefusal> {
    let block_bytes = (2 * 2 * BLOCK_TOKENS * width) as u64;
    let needed = blocks_of(limits.context_tokens as usize) as u64;
    let blocks = limits.kv_bytes / block_bytes;
    // A slot's number fits the kernels' index.
    let blocks = blocks.min(i32::MAX as u64 / BLOCK_TOKENS as u64);
    match blocks >= needed {
        true => Ok(blocks as usize),
        false => Err(DeviceRefusal::KvBytes {
            needed: needed * block_bytes,
            limit: limits.kv_bytes,
        }),
    }
}

fn rotations(decoder: &Decoder, positions: usize) -> Vec<[Vec<f32>; 2]> {
    let tables = decoder.rotations.iter().map(|table| {
        let mut angles = Vec::with_capacity(positions * table.width());
        for position in 0..positions {
            table.angles(position, positions, &mut angles);
        }
        let (cosine, sine) = angles.into_iter().unzip();
        [cosine, sine]
    });
    tables.collect()
}

impl LayerPrint {
    fn of(spec: &LayerSpec, layer: &Layer) -> Result<Self, DeviceRefusal> {
        let after = layer.after_attention.is_some() || layer.after_mlp.is_some();
        need(!after, "norms after attention and network")?;
        let Mlp::Dense(gated) = &layer.mlp else {
            return refuse("a router with experts");
        };
        let Gate::Two { gate, up } = &gated.input else {
            return refuse("gates that lie between each other");
        };
        let activation = match gated.activation {
            SpecActivation::Silu => Activation::Silu,
            SpecActivation::GeluTanh => Activation::GeluTanh,
            SpecActivation::Clamped { .. } => return refuse("a gate with a limit"),
        };
        let attention = &spec.attention;
        let head_norms = match (&layer.query_norm, &layer.key_norm) {
            (None, None) => None,
            (Some(query), Some(key)) if query.epsilon == key.epsilon => {
                let of = |spec: &Option<NormSpec>, norm| match spec {
                    Some(spec) => Scale::of(spec, norm),
                    None => refuse("a norm of queries or of keys alone"),
                };
                Some([
                    of(&attention.query_norm, query)?,
                    of(&attention.key_norm, key)?,
                ])
            }
            _ => return refuse("a norm of queries or of keys alone"),
        };
        Ok(Self {
            attention_norm: Scale::of(&spec.attention_norm, &layer.attention_norm)?,
            input: Stack::of(&[&layer.query, &layer.key, &layer.value])?,
            head_norms,
            sinks: layer.sinks.clone(),
            window: attention.window,
            scale: attention.scale,
            rotation: layer.rope,
            output: Stack::of(&[&layer.output])?,
            mlp_norm: Scale::of(&spec.mlp_norm, &layer.mlp_norm)?,
            gate: Stack::of(&[gate, up])?,
            activation,
            down: Stack::of(&[&gated.down])?,
        })
    }
}

impl Stack {
    fn of(layers: &[&Linear]) -> Result<Self, DeviceRefusal> {
        let rows = layers.iter().map(|layer| layer.weight.rows).sum();
        let columns = layers.first().map_or(0, |layer| layer.weight.columns);
        let even = layers
            .iter()
            .all(|layer| layer.weight.rows.is_multiple_of(8));
        need(
            even && columns.is_multiple_of(16),
            "products of sizes that are no multiples of 16",
        )?;
        let mut bias = None;
        if layers.iter().any(|layer| layer.bias.is_some()) {
            let mut all = Vec::with_capacity(rows);
            for layer in layers {
                match &layer.bias {
                    Some(bias) => all.extend(exact(bias)?),
                    None => all.resize(all.len() + layer.weight.rows, Bf16(0)),
                }
            }
            bias = Some(all);
        }
        let parts = layers.iter().map(|layer| halves(&layer.weight));
        Ok(Self {
            parts: parts.collect::<Result<_, _>>()?,
            rows,
            columns,
            bias,
        })
    }
}

impl Scale {
    fn of(spec: &NormSpec, norm: &Norm) -> Result<Self, DeviceRefusal> {
        need(spec.offset == 0.0, "norms whose scale is stored less one")?;
        Ok(Self {
            weight: exact(&norm.scale)?,
            norm: KernelNorm {
                epsilon: norm.epsilon,
                offset: 0.0,
            },
        })
    }
}

/// A matrix in bf16; of others a copy would have other weights.
fn halves(matrix: &Matrix) -> Result<Matrix, DeviceRefusal> {
    let is_bf16 = matrix.view().format == Format::Bf16;
    // Columns in an order of their own have such an order here alone.
    let is_plain = is_bf16 && matrix.in_order(&[]).is_none();
    need(is_plain, "weights in another format than bf16")?;
    Ok(matrix.clone())
}

fn exact(values: &[f32]) -> Result<Vec<Bf16>, DeviceRefusal> {
    let narrowed: Vec<Bf16> = values.iter().map(|x| Bf16::from_f32(*x)).collect();
    let same = values
        .iter()
        .zip(&narrowed)
        .all(|(x, half)| half.to_f32() == *x);
    need(same, "weights in another format than bf16")?;
    Ok(narrowed)
}
