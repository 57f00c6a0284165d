//! What the families' configurations and tensor names have in common.

use serde_json::json;

use super::ModelConfig;
use crate::config::Fields;
use crate::error::ConfigError;
use crate::rope::{RopeDefaults, RopeSpec};
use crate::spec::{
    Activation, AttentionSpec, DecoderSpec, GateSpec, GatedSpec, LayerSpec, Layout, LinearSpec,
    MatrixSpec, MlpSpec, NormSpec, VectorSpec,
};

const MAX_SIZE: u32 = 1 << 20;
const MAX_LAYERS: u32 = 1024;
const MAX_VOCABULARY: u32 = 1 << 24;
const MAX_EXPERTS: u32 = 1 << 10;
/// Experts of all layers.
const MAX_NETWORKS: usize = 1 << 16;

/// What a family says if its configuration does not.
#[derive(Clone, Copy, Default)]
pub(super) struct Defaults {
    /// `None` is `hidden_size / num_attention_heads`.
    pub(super) head_dim: Option<u32>,
    pub(super) context_tokens: Option<u32>,
    pub(super) tied: bool,
    /// What a norm adds to its stored scale.
    pub(super) norm_offset: f32,
}

/// Sizes and names.
pub(super) struct Base {
    pub(super) hidden: usize,
    pub(super) intermediate: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) context_tokens: u32,
    vocabulary: u32,
    epsilon: f32,
    norm_offset: f32,
    tied: bool,
    end_tokens: Vec<u32>,
}

impl Base {
    pub(super) fn take(fields: &mut Fields, defaults: Defaults) -> Result<Self, ConfigError> {
        let hidden = need(fields, "hidden_size", MAX_SIZE)?;
        let heads = need(fields, "num_attention_heads", MAX_SIZE)?;
        let kv_heads = fields
            .size("num_key_value_heads", MAX_SIZE)?
            .unwrap_or(heads);
        if heads % kv_heads != 0 {
            return Err(fields.invalid("num_key_value_heads", "a divisor of num_attention_heads"));
        }
        let head_dim = match fields.size("head_dim", MAX_SIZE)?.or(defaults.head_dim) {
            Some(head_dim) => head_dim,
            None if hidden % heads == 0 => hidden / heads,
            None => return Err(fields.invalid("num_attention_heads", "a divisor of hidden_size")),
        };
        if head_dim % 2 != 0 {
            return Err(fields.invalid("head_dim", "even"));
        }
        if u64::from(heads) * u64::from(head_dim) > u64::from(MAX_SIZE) {
            return Err(fields.invalid("head_dim", "a positive integer of a usual size"));
        }
        let context = fields.size("max_position_embeddings", u32::MAX)?;
        let context_tokens = context
            .or(defaults.context_tokens)
            .ok_or_else(|| fields.missing("max_position_embeddings"))?;
        let epsilon = fields
            .positive("rms_norm_eps")?
            .ok_or_else(|| fields.missing("rms_norm_eps"))?;
        Ok(Self {
            hidden: hidden as usize,
            intermediate: need(fields, "intermediate_size", MAX_SIZE)? as usize,
            layers: need(fields, "num_hidden_layers", MAX_LAYERS)? as usize,
            heads: heads as usize,
            kv_heads: kv_heads as usize,
            head_dim: head_dim as usize,
            context_tokens,
            vocabulary: need(fields, "vocab_size", MAX_VOCABULARY)?,
            epsilon: epsilon as f32,
            norm_offset: defaults.norm_offset,
            tied: fields.switch_or("tie_word_embeddings", defaults.tied)?,
            end_tokens: fields.token_ids("eos_token_id")?,
        })
    }

    pub(super) fn rope_defaults(&self) -> RopeDefaults {
        RopeDefaults {
            head_dim: self.head_dim,
            theta: 10_000.0,
            context_tokens: self.context_tokens,
            original_tokens: None,
            partial: false,
            truncates: false,
        }
    }

    /// `self_attn` with the usual names and nothing special.
    pub(super) fn attention(
        &self,
        layer: usize,
        rope: &RopeSpec,
        window: Option<usize>,
        bias: Bias,
    ) -> AttentionSpec {
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let project = |part: &str, rows, columns, bias| {
            let name = format!("model.layers.{layer}.self_attn.{part}_proj");
            linear(name, rows, columns, bias)
        };
        AttentionSpec {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            rope: rope.clone(),
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            window,
            query: project("q", queries, self.hidden, bias.input),
            key: project("k", keys, self.hidden, bias.input),
            value: project("v", keys, self.hidden, bias.input),
            output: project("o", self.hidden, queries, bias.output),
            query_norm: None,
            key_norm: None,
            sinks: None,
        }
    }

    /// The same, with a norm for each head's query and key.
    pub(super) fn normed_attention(
        &self,
        layer: usize,
        rope: &RopeSpec,
        window: Option<usize>,
        bias: Bias,
    ) -> AttentionSpec {
        AttentionSpec {
            query_norm: Some(self.layer_norm(layer, "self_attn.q_norm")),
            key_norm: Some(self.layer_norm(layer, "self_attn.k_norm")),
            ..self.attention(layer, rope, window, bias)
        }
    }

    /// A gated network at `path`, with the usual names.
    pub(super) fn gated(
        &self,
        path: &str,
        intermediate: usize,
        activation: Activation,
        bias: bool,
    ) -> GatedSpec {
        let project =
            |part: &str, rows, columns| linear(format!("{path}.{part}_proj"), rows, columns, bias);
        GatedSpec {
            input: GateSpec::Two {
                gate: project("gate", intermediate, self.hidden),
                up: project("up", intermediate, self.hidden),
            },
            down: project("down", self.hidden, intermediate),
            activation,
        }
    }

    /// The layer's only network.
    pub(super) fn mlp(&self, layer: usize, activation: Activation, bias: bool) -> MlpSpec {
        let path = format!("model.layers.{layer}.mlp");
        MlpSpec::Dense(self.gated(&path, self.intermediate, activation, bias))
    }

    /// A layer with norms before attention and network, and none after.
    pub(super) fn layer(&self, layer: usize, attention: AttentionSpec, mlp: MlpSpec) -> LayerSpec {
        LayerSpec {
            attention_norm: self.layer_norm(layer, "input_layernorm"),
            attention,
            after_attention: None,
            mlp_norm: self.layer_norm(layer, "post_attention_layernorm"),
            mlp,
            after_mlp: None,
        }
    }

    pub(super) fn layer_norm(&self, layer: usize, name: &str) -> NormSpec {
        self.norm(format!("model.layers.{layer}.{name}.weight"))
    }

    pub(super) fn model(self, layers: Vec<LayerSpec>) -> ModelConfig {
        let words = |tensor: &str| MatrixSpec {
            tensor: tensor.to_owned(),
            rows: self.vocabulary as usize,
            columns: self.hidden,
            layout: Layout::Whole,
        };
        let buffer = |layer| format!("model.layers.{layer}.self_attn.rotary_emb.inv_freq");
        let mut ignored: Vec<String> = (0..self.layers).map(buffer).collect();
        if self.tied {
            ignored.push("lm_head.weight".to_owned());
        }
        let decoder = DecoderSpec {
            vocabulary: self.vocabulary,
            hidden: self.hidden,
            context_tokens: self.context_tokens,
            embedding: words("model.embed_tokens.weight"),
            embedding_scale: None,
            layers,
            final_norm: self.norm("model.norm.weight".to_owned()),
            head: (!self.tied).then(|| words("lm_head.weight")),
            logit_cap: None,
            embeds: false,
            ignored,
        };
        ModelConfig {
            decoder,
            end_tokens: self.end_tokens,
            scheme: None,
        }
    }

    fn norm(&self, tensor: String) -> NormSpec {
        NormSpec {
            tensor,
            epsilon: self.epsilon,
            offset: self.norm_offset,
        }
    }
}

/// Which projections of an attention have a bias.
#[derive(Clone, Copy, Default)]
pub(super) struct Bias {
    /// Queries, keys and values.
    pub(super) input: bool,
    pub(super) output: bool,
}

impl Bias {
    pub(super) fn everywhere(bias: bool) -> Self {
        Self {
            input: bias,
            output: bias,
        }
    }
}

pub(super) fn linear(name: String, rows: usize, columns: usize, bias: bool) -> LinearSpec {
    let weight = MatrixSpec {
        tensor: format!("{name}.weight"),
        rows,
        columns,
        layout: Layout::Whole,
    };
    let bias = bias.then(|| VectorSpec {
        tensor: format!("{name}.bias"),
        row: None,
    });
    LinearSpec { weight, bias }
}

/// Some rows of a matrix that holds several.
pub(super) fn rows_of(
    name: &str,
    first: usize,
    rows: usize,
    of: usize,
    columns: usize,
) -> LinearSpec {
    let weight = MatrixSpec {
        tensor: format!("{name}.weight"),
        rows,
        columns,
        layout: Layout::Rows { first, of },
    };
    LinearSpec { weight, bias: None }
}

/// A size that has to be there.
pub(super) fn need(fields: &mut Fields, field: &str, max: u32) -> Result<u32, ConfigError> {
    fields
        .size(field, max)?
        .ok_or_else(|| fields.missing(field))
}

/// `hidden_act`, of which one is implemented.
pub(super) fn only_silu(fields: &mut Fields) -> Result<Activation, ConfigError> {
    match fields.text("hidden_act")?.as_deref() {
        None | Some("silu" | "swish") => Ok(Activation::Silu),
        Some(_) => Err(ConfigError::Unsupported(fields.name("hidden_act"))),
    }
}

/// `sliding_window`: without the field the family's own, with `null` none.
pub(super) fn window(
    fields: &mut Fields,
    default: Option<usize>,
) -> Result<Option<usize>, ConfigError> {
    if !fields.has("sliding_window") {
        return Ok(default);
    }
    let window = fields.size("sliding_window", u32::MAX)?;
    Ok(window.map(|tokens| tokens as usize))
}

/// `layer_types`: for each layer whether it slides; without the field as `default` has it.
pub(super) fn sliding_layers(
    fields: &mut Fields,
    layers: usize,
    window: Option<usize>,
    default: impl Fn(usize) -> bool,
) -> Result<Vec<bool>, ConfigError> {
    const FIELD: &str = "layer_types";
    let Some(types) = fields.texts(FIELD)? else {
        return Ok((0..layers).map(default).collect());
    };
    if types.len() != layers {
        return Err(fields.invalid(FIELD, "one type for each layer"));
    }
    let slides = types.iter().map(|kind| match kind.as_str() {
        "full_attention" => Ok(false),
        "sliding_attention" if window.is_some() => Ok(true),
        _ => Err(ConfigError::Unsupported(fields.name(FIELD))),
    });
    slides.collect()
}

/// Qwen's windows: off unless `use_sliding_window`, then in the layers from `max_window_layers` on.
pub(super) fn qwen_windows(
    fields: &mut Fields,
    layers: usize,
) -> Result<Vec<Option<usize>>, ConfigError> {
    let is_used = fields.switch("use_sliding_window")?;
    let window = window(fields, Some(4096))?.filter(|_| is_used);
    let first = match fields.take("max_window_layers") {
        None => 28,
        Some(value) => value
            .as_u64()
            .ok_or_else(|| fields.invalid("max_window_layers", "a number of layers"))?,
    };
    let default = |layer| window.is_some() && layer as u64 >= first;
    let slides = sliding_layers(fields, layers, window, default)?;
    Ok(slides
        .into_iter()
        .map(|slides| window.filter(|_| slides))
        .collect())
}

/// How many experts a layer has, and how many of them read a token.
pub(super) fn take_experts(
    fields: &mut Fields,
    layers: usize,
) -> Result<(usize, usize), ConfigError> {
    const NAMES: [&str; 2] = ["num_experts", "num_local_experts"];
    let name = NAMES[usize::from(fields.says(NAMES[1]))];
    let count = need(fields, name, MAX_EXPERTS)?;
    for name in NAMES {
        fields.only(name, count.into())?;
    }
    if layers * count as usize > MAX_NETWORKS {
        return Err(fields.invalid(name, "a positive integer of a usual size"));
    }
    let chosen = need(fields, "num_experts_per_tok", MAX_EXPERTS)?;
    if chosen > count {
        return Err(fields.invalid("num_experts_per_tok", "at most the number of experts"));
    }
    // What training looks at.
    fields.drop_fields(&["output_router_logits", "router_aux_loss_coef"]);
    Ok((count as usize, chosen as usize))
}

/// A field that may be 1 or absent.
pub(super) fn only_one(fields: &mut Fields, names: &[&str]) -> Result<(), ConfigError> {
    names
        .iter()
        .try_for_each(|name| fields.only(name, json!(1)))
}
