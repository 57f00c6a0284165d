//! What a decoder-only transformer is made of, layer by layer, in words that any family's
//! configuration is mapped onto. The forward pass knows this description and no family.

use crate::rope::RopeSpec;

/// The whole model.
#[derive(Clone, Debug)]
pub(crate) struct DecoderSpec {
    pub(crate) vocabulary: u32,
    pub(crate) hidden: usize,
    /// Positions that the model was made for.
    pub(crate) context_tokens: u32,
    pub(crate) embedding: MatrixSpec,
    pub(crate) layers: Vec<LayerSpec>,
    pub(crate) final_norm: NormSpec,
    /// `None` shares the embedding's weights.
    pub(crate) head: Option<MatrixSpec>,
    /// Tensors that may stand in the files and are not read.
    pub(crate) ignored: Vec<String>,
}

/// `x += attention(norm(x)); x += mlp(norm(x))`.
#[derive(Clone, Debug)]
pub(crate) struct LayerSpec {
    pub(crate) attention_norm: NormSpec,
    pub(crate) attention: AttentionSpec,
    pub(crate) mlp_norm: NormSpec,
    pub(crate) mlp: MlpSpec,
}

/// Grouped-query attention with rotary positions; the softmax is scaled by `head_dim^-0.5`.
#[derive(Clone, Debug)]
pub(crate) struct AttentionSpec {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) rope: RopeSpec,
    pub(crate) query: LinearSpec,
    pub(crate) key: LinearSpec,
    pub(crate) value: LinearSpec,
    pub(crate) output: LinearSpec,
}

/// `down(silu(gate(x)) * up(x))`.
#[derive(Clone, Debug)]
pub(crate) struct MlpSpec {
    pub(crate) gate: LinearSpec,
    pub(crate) up: LinearSpec,
    pub(crate) down: LinearSpec,
}

/// A weight and perhaps a bias.
#[derive(Clone, Debug)]
pub(crate) struct LinearSpec {
    pub(crate) weight: MatrixSpec,
    pub(crate) bias: Option<String>,
}

/// A tensor `[rows, columns]`.
#[derive(Clone, Debug)]
pub(crate) struct MatrixSpec {
    pub(crate) tensor: String,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

/// Root mean square normalisation over the hidden dimension.
#[derive(Clone, Debug)]
pub(crate) struct NormSpec {
    pub(crate) tensor: String,
    pub(crate) epsilon: f32,
}
