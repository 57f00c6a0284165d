//! Qwen3, dense: a norm for each head's query and key.

use super::ModelConfig;
use super::base::{Base, Bias, Defaults, only_silu, qwen_windows};
use crate::config::Fields;
use crate::error::ConfigError;
use crate::rope::RopeSpec;

pub(super) fn read(fields: &mut Fields) -> Result<ModelConfig, ConfigError> {
    let activation = only_silu(fields)?;
    let base = Base::take(
        fields,
        Defaults {
            head_dim: Some(128),
            ..Default::default()
        },
    )?;
    let rope = RopeSpec::take(fields, base.rope_defaults())?;
    let windows = qwen_windows(fields, base.layers)?;
    let bias = Bias::everywhere(fields.switch("attention_bias")?);
    let layers = windows.into_iter().enumerate().map(|(layer, window)| {
        let attention = base.normed_attention(layer, &rope, window, bias);
        base.layer(layer, attention, base.mlp(layer, activation, false))
    });
    let layers = layers.collect();
    Ok(base.model(layers))
}
