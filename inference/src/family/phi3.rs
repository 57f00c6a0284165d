//! Phi-3 and Phi-4: fused projections, rotations of a part of a head, longrope.

use super::ModelConfig;
use super::base::{Base, Bias, Defaults, only_one, only_silu, rows_of, window};
use crate::config::Fields;
use crate::error::ConfigError;
use crate::rope::{RopeDefaults, RopeSpec};
use crate::spec::{Activation, AttentionSpec, GateSpec, GatedSpec, MlpSpec};

pub(super) fn read(fields: &mut Fields) -> Result<ModelConfig, ConfigError> {
    only_one(fields, &["full_attn_mod", "interpolate_factor"])?;
    let activation = only_silu(fields)?;
    let base = Base::take(
        fields,
        Defaults {
            context_tokens: Some(4096),
            ..Default::default()
        },
    )?;
    let original_tokens = fields.size("original_max_position_embeddings", u32::MAX)?;
    let defaults = RopeDefaults {
        original_tokens: Some(original_tokens.unwrap_or(4096)),
        partial: true,
        ..base.rope_defaults()
    };
    let rope = RopeSpec::take(fields, defaults)?;
    let window = window(fields, None)?;
    let layers = (0..base.layers).map(|layer| {
        let attention = attention(&base, layer, &rope, window);
        base.layer(layer, attention, mlp(&base, layer, activation))
    });
    let layers = layers.collect();
    Ok(base.model(layers))
}

fn attention(base: &Base, layer: usize, rope: &RopeSpec, window: Option<usize>) -> AttentionSpec {
    let name = format!("model.layers.{layer}.self_attn.qkv_proj");
    let (queries, keys) = (base.heads * base.head_dim, base.kv_heads * base.head_dim);
    let part = |first, rows| rows_of(&name, first, rows, queries + 2 * keys, base.hidden);
    AttentionSpec {
        query: part(0, queries),
        key: part(queries, keys),
        value: part(queries + keys, keys),
        ..base.attention(layer, rope, window, Bias::default())
    }
}

fn mlp(base: &Base, layer: usize, activation: Activation) -> MlpSpec {
    let path = format!("model.layers.{layer}.mlp");
    let name = format!("{path}.gate_up_proj");
    let size = base.intermediate;
    let part = |first| rows_of(&name, first, size, 2 * size, base.hidden);
    MlpSpec::Dense(GatedSpec {
        input: GateSpec::Two {
            gate: part(0),
            up: part(size),
        },
        ..base.gated(&path, size, activation, false)
    })
}
