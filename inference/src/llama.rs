//! The Llama family: `LlamaForCausalLM`'s configuration and tensor names, mapped onto the decoder.

use serde_json::{Value, json};

use crate::config::{Fields, HARMLESS};
use crate::error::ConfigError;
use crate::rope::RopeSpec;
use crate::spec::{
    AttentionSpec, DecoderSpec, LayerSpec, LinearSpec, MatrixSpec, MlpSpec, NormSpec,
};

const MAX_SIZE: u32 = 1 << 20;
const MAX_LAYERS: u32 = 1024;
const MAX_VOCABULARY: u32 = 1 << 24;

/// A model's configuration: the decoder, and the tokens that end a turn.
#[derive(Clone, Debug)]
pub(crate) struct LlamaConfig {
    pub(crate) decoder: DecoderSpec,
    pub(crate) end_tokens: Vec<u32>,
}

/// Reads `config.json`.
pub(crate) fn read(config: Value) -> Result<LlamaConfig, ConfigError> {
    let mut fields = Fields::new(config)?;
    check_family(&mut fields)?;
    let sizes = Sizes::take(&mut fields)?;
    let rope = RopeSpec::take(&mut fields, sizes.head_dim)?;
    let epsilon = fields
        .positive("rms_norm_eps")?
        .ok_or_else(|| fields.missing("rms_norm_eps"))?;
    let attention_bias = fields.switch("attention_bias")?;
    let mlp_bias = fields.switch("mlp_bias")?;
    let tied = fields.switch("tie_word_embeddings")?;
    let end_tokens = fields.token_ids("eos_token_id")?;
    fields.finish(HARMLESS)?;

    let layout = Layout {
        sizes,
        rope,
        epsilon: epsilon as f32,
        attention_bias,
        mlp_bias,
    };
    Ok(LlamaConfig {
        decoder: layout.decoder(tied),
        end_tokens,
    })
}

fn check_family(fields: &mut Fields) -> Result<(), ConfigError> {
    if fields.take("architectures") != Some(json!(["LlamaForCausalLM"])) {
        return Err(ConfigError::Unsupported(fields.name("architectures")));
    }
    fields.only("model_type", json!("llama"))?;
    fields.only("pretraining_tp", json!(1))?;
    if let Some(activation) = fields.text("hidden_act")?
        && activation != "silu"
        && activation != "swish"
    {
        return Err(ConfigError::Unsupported(fields.name("hidden_act")));
    }
    Ok(())
}

struct Sizes {
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocabulary: u32,
    context_tokens: u32,
}

impl Sizes {
    fn take(fields: &mut Fields) -> Result<Self, ConfigError> {
        fn need(fields: &mut Fields, field: &str, max: u32) -> Result<u32, ConfigError> {
            fields
                .size(field, max)?
                .ok_or_else(|| fields.missing(field))
        }
        let hidden = need(fields, "hidden_size", MAX_SIZE)?;
        let heads = need(fields, "num_attention_heads", MAX_SIZE)?;
        let kv_heads = fields
            .size("num_key_value_heads", MAX_SIZE)?
            .unwrap_or(heads);
        if heads % kv_heads != 0 {
            return Err(fields.invalid("num_key_value_heads", "a divisor of num_attention_heads"));
        }
        let head_dim = match fields.size("head_dim", MAX_SIZE)? {
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
        Ok(Self {
            hidden: hidden as usize,
            intermediate: need(fields, "intermediate_size", MAX_SIZE)? as usize,
            layers: need(fields, "num_hidden_layers", MAX_LAYERS)? as usize,
            heads: heads as usize,
            kv_heads: kv_heads as usize,
            head_dim: head_dim as usize,
            vocabulary: need(fields, "vocab_size", MAX_VOCABULARY)?,
            context_tokens: fields
                .size("max_position_embeddings", u32::MAX)?
                .unwrap_or(2048),
        })
    }
}

struct Layout {
    sizes: Sizes,
    rope: RopeSpec,
    epsilon: f32,
    attention_bias: bool,
    mlp_bias: bool,
}

impl Layout {
    fn decoder(&self, tied: bool) -> DecoderSpec {
        let Sizes {
            hidden, vocabulary, ..
        } = self.sizes;
        let words = |tensor: &str| MatrixSpec {
            tensor: tensor.to_owned(),
            rows: vocabulary as usize,
            columns: hidden,
        };
        let buffer = |layer| format!("model.layers.{layer}.self_attn.rotary_emb.inv_freq");
        let mut ignored: Vec<String> = (0..self.sizes.layers).map(buffer).collect();
        if tied {
            ignored.push("lm_head.weight".to_owned());
        }
        DecoderSpec {
            vocabulary,
            hidden,
            context_tokens: self.sizes.context_tokens,
            embedding: words("model.embed_tokens.weight"),
            layers: (0..self.sizes.layers)
                .map(|layer| self.layer(layer))
                .collect(),
            final_norm: self.norm("model.norm.weight".to_owned()),
            head: (!tied).then(|| words("lm_head.weight")),
            ignored,
        }
    }

    fn layer(&self, layer: usize) -> LayerSpec {
        let Sizes {
            hidden,
            intermediate,
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.sizes;
        let attention = |part: &str, rows, columns| {
            let name = format!("model.layers.{layer}.self_attn.{part}_proj");
            linear(name, rows, columns, self.attention_bias)
        };
        let mlp = |part: &str, rows, columns| {
            let name = format!("model.layers.{layer}.mlp.{part}_proj");
            linear(name, rows, columns, self.mlp_bias)
        };
        LayerSpec {
            attention_norm: self.norm(format!("model.layers.{layer}.input_layernorm.weight")),
            attention: AttentionSpec {
                heads,
                kv_heads,
                head_dim,
                rope: self.rope,
                query: attention("q", heads * head_dim, hidden),
                key: attention("k", kv_heads * head_dim, hidden),
                value: attention("v", kv_heads * head_dim, hidden),
                output: attention("o", hidden, heads * head_dim),
            },
            mlp_norm: self.norm(format!(
                "model.layers.{layer}.post_attention_layernorm.weight"
            )),
            mlp: MlpSpec {
                gate: mlp("gate", intermediate, hidden),
                up: mlp("up", intermediate, hidden),
                down: mlp("down", hidden, intermediate),
            },
        }
    }

    fn norm(&self, tensor: String) -> NormSpec {
        NormSpec {
            tensor,
            epsilon: self.epsilon,
        }
    }
}

fn linear(name: String, rows: usize, columns: usize, bias: bool) -> LinearSpec {
    let weight = MatrixSpec {
        tensor: format!("{name}.weight"),
        rows,
        columns,
    };
    LinearSpec {
        weight,
        bias: bias.then(|| format!("{name}.bias")),
    }
}
