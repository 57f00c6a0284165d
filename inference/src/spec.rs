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
    /// What an embedding is multiplied by.
    pub(crate) embedding_scale: Option<f32>,
    pub(crate) layers: Vec<LayerSpec>,
    pub(crate) final_norm: NormSpec,
    /// `None` shares the embedding's weights.
    pub(crate) head: Option<MatrixSpec>,
    /// `logit = cap * tanh(logit / cap)`.
    pub(crate) logit_cap: Option<f32>,
    /// Whether the last norm's vectors are what is wanted, and no distributions.
    pub(crate) embeds: bool,
    /// Tensors that may stand in the files and are not read.
    pub(crate) ignored: Vec<String>,
}

impl DecoderSpec {
    /// Numbers that a wanted token gives.
    pub(crate) fn width(&self) -> usize {
        match self.embeds {
            true => self.hidden,
            false => self.vocabulary as usize,
        }
    }
}

/// `x += after(attention(norm(x))); x += after(mlp(norm(x)))`.
#[derive(Clone, Debug)]
pub(crate) struct LayerSpec {
    pub(crate) attention_norm: NormSpec,
    pub(crate) attention: AttentionSpec,
    pub(crate) after_attention: Option<NormSpec>,
    pub(crate) mlp_norm: NormSpec,
    pub(crate) mlp: MlpSpec,
    pub(crate) after_mlp: Option<NormSpec>,
}

/// Grouped-query attention with rotary positions.
#[derive(Clone, Debug)]
pub(crate) struct AttentionSpec {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) rope: RopeSpec,
    /// What a score is multiplied by before the softmax.
    pub(crate) scale: f32,
    /// A token sees so many tokens, itself included; `None` sees all before it.
    pub(crate) window: Option<usize>,
    pub(crate) query: LinearSpec,
    pub(crate) key: LinearSpec,
    pub(crate) value: LinearSpec,
    pub(crate) output: LinearSpec,
    /// Over each head's query, before the rotation.
    pub(crate) query_norm: Option<NormSpec>,
    /// Over each head's key, before the rotation.
    pub(crate) key_norm: Option<NormSpec>,
    /// A tensor with one score for each head that takes its share of the softmax and gives nothing.
    pub(crate) sinks: Option<String>,
}

/// What stands between two attentions.
#[derive(Clone, Debug)]
pub(crate) enum MlpSpec {
    Dense(GatedSpec),
    Experts(ExpertsSpec),
}

/// `down(activation(gate(x), up(x)))`.
#[derive(Clone, Debug)]
pub(crate) struct GatedSpec {
    pub(crate) input: GateSpec,
    pub(crate) down: LinearSpec,
    pub(crate) activation: Activation,
}

/// How gate and up are stored.
#[derive(Clone, Debug)]
pub(crate) enum GateSpec {
    Two {
        gate: LinearSpec,
        up: LinearSpec,
    },
    /// One matrix, whose even rows are the gate's and whose odd rows are up's.
    Interleaved(LinearSpec),
}

/// How gate and up become one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Activation {
    /// `silu(gate) * up`.
    Silu,
    /// `gelu(gate) * up`, with gelu's approximation by tanh.
    GeluTanh,
    /// `gate * sigmoid(alpha * gate) * (up + 1)`, both cut at `limit`, the gate from above only.
    Clamped { alpha: f32, limit: f32 },
}

/// A router sends each token to a few experts, and their answers are added by weight.
#[derive(Clone, Debug)]
pub(crate) struct ExpertsSpec {
    pub(crate) router: LinearSpec,
    /// Experts for each token.
    pub(crate) chosen: usize,
    pub(crate) routing: Routing,
    pub(crate) experts: Vec<GatedSpec>,
}

/// How the router's scores become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Routing {
    /// The softmax over all experts.
    OverAll,
    /// The softmax over the chosen experts: their weights add up to one.
    OverChosen,
}

/// A weight and perhaps a bias.
#[derive(Clone, Debug)]
pub(crate) struct LinearSpec {
    pub(crate) weight: MatrixSpec,
    pub(crate) bias: Option<VectorSpec>,
}

/// A matrix `[rows, columns]`, and where it is stored.
#[derive(Clone, Debug)]
pub(crate) struct MatrixSpec {
    pub(crate) tensor: String,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) layout: Layout,
}

/// How a tensor holds a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// It is the matrix.
    Whole,
    /// A tensor `[of, columns]`, of which the matrix is the rows from `first` on.
    Rows { first: usize, of: usize },
    /// A tensor `[of, columns, rows]`: the matrix is number `index`, turned.
    Turned { index: usize, of: usize },
    /// Tensors `{tensor}_blocks [of, rows, columns / 32, 16]` and
    /// `{tensor}_scales [of, rows, columns / 32]` in MXFP4: the matrix is number `index`.
    Mxfp4 { index: usize, of: usize },
}

/// A vector: row `index` of a tensor `[of, size]`, or a tensor `[size]` of its own.
#[derive(Clone, Debug)]
pub(crate) struct VectorSpec {
    pub(crate) tensor: String,
    pub(crate) row: Option<(usize, usize)>,
}

/// Root mean square normalisation.
#[derive(Clone, Debug)]
pub(crate) struct NormSpec {
    pub(crate) tensor: String,
    pub(crate) epsilon: f32,
    /// The scale is this plus what is stored.
    pub(crate) offset: f32,
}
