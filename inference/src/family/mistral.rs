//! Mistral: every layer slides, if any does.

use super::ModelConfig;
use super::base::{Base, Bias, Defaults, only_silu, window};
use crate::config::Fields;
use crate::error::ConfigError;
use crate::rope::RopeSpec;

pub(super) fn read(fields: &mut Fields) -> Result<ModelConfig, ConfigError> {
    let activation = only_silu(fields)?;
    let base = Base::take(fields, Defaults::default())?;
    let rope = RopeSpec::take(fields, base.rope_defaults())?;
    let window = window(fields, Some(4096))?;
    let layers = (0..base.layers).map(|layer| {
        let attention = base.attention(layer, &rope, window, Bias::default());
        base.layer(layer, attention, base.mlp(layer, activation, false))
    });
    let layers = layers.collect();
    Ok(base.model(layers))
}
