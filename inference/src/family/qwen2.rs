//! Qwen2 and Qwen2.5: biases on queries, keys and values.

use super::ModelConfig;
use super::base::{Base, Bias, Defaults, only_silu, qwen_windows};
use crate::config::Fields;
use crate::error::ConfigError;
use crate::rope::RopeSpec;

pub(super) fn read(fields: &mut Fields) -> Result<ModelConfig, ConfigError> {
    let activation = only_silu(fields)?;
    let base = Base::take(fields, Defaults::default())?;
    let rope = RopeSpec::take(fields, base.rope_defaults())?;
    let windows = qwen_windows(fields, base.layers)?;
    let bias = Bias {
        input: true,
        output: false,
    };
    let layers = windows.into_iter().enumerate().map(|(layer, window)| {
        let attention = base.attention(layer, &rope, window, bias);
        base.layer(layer, attention, base.mlp(layer, activation, false))
    });
    let layers = layers.collect();
    Ok(base.model(layers))
}
