//! Gemma 3, text: local and global layers with rotations of their own, norms before and after,
//! scales stored as differences from one, scaled embeddings.

use super::ModelConfig;
use super::base::{Base, Bias, Defaults, sliding_layers, window};
use crate::config::Fields;
use crate::error::ConfigError;
use crate::rope::{RopeDefaults, RopeSpec};
use crate::spec::{Activation, AttentionSpec, LayerSpec};

/// Every so many layers one is global.
const PATTERN: u32 = 6;

pub(super) fn read(fields: &mut Fields) -> Result<ModelConfig, ConfigError> {
    let defaults = Defaults {
        head_dim: Some(256),
        context_tokens: Some(131_072),
        tied: true,
        norm_offset: 1.0,
    };
    let base = Base::take(fields, defaults)?;
    let activation = take_activation(fields)?;
    let (local, global) = take_ropes(fields, &base)?;
    let window = window(fields, Some(4096))?;
    let pattern = fields.size("sliding_window_pattern", u32::MAX)?;
    let pattern = pattern.unwrap_or(PATTERN) as usize;
    let is_local = |layer: usize| window.is_some() && !(layer + 1).is_multiple_of(pattern);
    let slides = sliding_layers(fields, base.layers, window, is_local)?;
    let bias = Bias::everywhere(fields.switch("attention_bias")?);
    let scalar = fields.positive("query_pre_attn_scalar")?.unwrap_or(256.0);
    let logit_cap = fields.positive("final_logit_softcapping")?;
    // transformers reads it and never applies it: the family was trained without.
    fields.drop_fields(&["attn_logit_softcapping"]);

    let layers = slides.into_iter().enumerate().map(|(layer, slides)| {
        let rope = if slides { &local } else { &global };
        let attention = AttentionSpec {
            scale: libm::pow(scalar, -0.5) as f32,
            ..base.normed_attention(layer, rope, window.filter(|_| slides), bias)
        };
        LayerSpec {
            after_attention: Some(base.layer_norm(layer, "post_attention_layernorm")),
            mlp_norm: base.layer_norm(layer, "pre_feedforward_layernorm"),
            after_mlp: Some(base.layer_norm(layer, "post_feedforward_layernorm")),
            ..base.layer(layer, attention, base.mlp(layer, activation, false))
        }
    });
    let layers = layers.collect();
    let hidden = base.hidden;
    let mut model = base.model(layers);
    model.decoder.embedding_scale = Some(libm::sqrt(hidden as f64) as f32);
    model.decoder.logit_cap = logit_cap.map(|cap| cap as f32);
    Ok(model)
}

fn take_activation(fields: &mut Fields) -> Result<Activation, ConfigError> {
    // `hidden_act` is what other families have; this one does not look at it.
    fields.drop_fields(&["hidden_act"]);
    match fields.text("hidden_activation")?.as_deref() {
        None | Some("gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some(_) => Err(ConfigError::Unsupported(fields.name("hidden_activation"))),
    }
}

/// The local and the global rotation; a scaling in the old spelling is the global one's.
fn take_ropes(fields: &mut Fields, base: &Base) -> Result<(RopeSpec, RopeSpec), ConfigError> {
    // transformers looks for `truncate` beside the layers' kinds, where it never stands.
    let mut global_defaults = RopeDefaults {
        truncates: true,
        ..base.rope_defaults()
    };
    global_defaults.theta = fields.positive("rope_theta")?.unwrap_or(1e6);
    let mut local_defaults = base.rope_defaults();
    local_defaults.theta = fields.positive("rope_local_base_freq")?.unwrap_or(1e4);

    let legacy = fields.object("rope_scaling")?;
    let (mut local, mut global) = (None, legacy);
    if let Some(mut parameters) = fields.object("rope_parameters")? {
        local = parameters.object("sliding_attention")?;
        if let Some(modern) = parameters.object("full_attention")? {
            if global.is_some() {
                return Err(ConfigError::Unsupported(fields.name("rope_scaling")));
            }
            global = Some(modern);
        }
        parameters.finish(&[])?;
    }
    Ok((
        RopeSpec::read(local, None, local_defaults)?,
        RopeSpec::read(global, None, global_defaults)?,
    ))
}
