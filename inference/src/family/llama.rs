//! Llama 2 and 3: the plain decoder.

use super::ModelConfig;
use super::base::{Base, Bias, Defaults, only_one, only_silu};
use crate::config::Fields;
use crate::error::ConfigError;
use crate::rope::RopeSpec;

pub(super) fn read(fields: &mut Fields) -> Result<ModelConfig, ConfigError> {
    only_one(fields, &["pretraining_tp"])?;
    let activation = only_silu(fields)?;
    let base = Base::take(
        fields,
        Defaults {
            context_tokens: Some(2048),
            ..Default::default()
        },
    )?;
    let rope = RopeSpec::take(fields, base.rope_defaults())?;
    let bias = Bias::everywhere(fields.switch("attention_bias")?);
    let mlp_bias = fields.switch("mlp_bias")?;
    let layers = (0..base.layers).map(|layer| {
        let attention = base.attention(layer, &rope, None, bias);
        base.layer(layer, attention, base.mlp(layer, activation, mlp_bias))
    });
    let layers = layers.collect();
    Ok(base.model(layers))
}
