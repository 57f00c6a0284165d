//! Qwen3 with experts: most layers send each token to a few of many small networks.

use super::ModelConfig;
use super::base::{Base, Bias, Defaults, linear, need, only_silu, take_experts, window};
use crate::config::Fields;
use crate::error::ConfigError;
use crate::rope::RopeSpec;
use crate::spec::{Activation, ExpertsSpec, MlpSpec, Routing};

pub(super) fn read(fields: &mut Fields) -> Result<ModelConfig, ConfigError> {
    let activation = only_silu(fields)?;
    let base = Base::take(fields, Defaults::default())?;
    let rope = RopeSpec::take(fields, base.rope_defaults())?;
    let is_sliding = fields.switch("use_sliding_window")?;
    let window = window(fields, Some(4096))?.filter(|_| is_sliding);
    fields.drop_fields(&["max_window_layers"]);
    let bias = Bias::everywhere(fields.switch("attention_bias")?);
    let experts = Experts::take(fields, base.layers)?;
    let layers = (0..base.layers).map(|layer| {
        let attention = base.normed_attention(layer, &rope, window, bias);
        let mlp = match experts.are_in(layer) {
            true => experts.mlp(&base, layer, activation),
            false => base.mlp(layer, activation, false),
        };
        base.layer(layer, attention, mlp)
    });
    let layers = layers.collect();
    Ok(base.model(layers))
}

struct Experts {
    count: usize,
    chosen: usize,
    intermediate: usize,
    routing: Routing,
    /// Every so many layers one has experts.
    step: usize,
    /// Layers that have none.
    dense_layers: Vec<u32>,
}

impl Experts {
    fn take(fields: &mut Fields, layers: usize) -> Result<Self, ConfigError> {
        let (count, chosen) = take_experts(fields, layers)?;
        let step = fields.size("decoder_sparse_step", u32::MAX)?.unwrap_or(1);
        Ok(Self {
            count,
            chosen,
            intermediate: need(fields, "moe_intermediate_size", 1 << 20)? as usize,
            routing: match fields.switch("norm_topk_prob")? {
                true => Routing::OverChosen,
                false => Routing::OverAll,
            },
            step: step as usize,
            dense_layers: fields.token_ids("mlp_only_layers")?,
        })
    }

    fn are_in(&self, layer: usize) -> bool {
        let is_dense = self
            .dense_layers
            .iter()
            .any(|dense| *dense as usize == layer);
        !is_dense && (layer + 1).is_multiple_of(self.step)
    }

    fn mlp(&self, base: &Base, layer: usize, activation: Activation) -> MlpSpec {
        let path = format!("model.layers.{layer}.mlp");
        let expert = |expert| {
            let path = format!("{path}.experts.{expert}");
            base.gated(&path, self.intermediate, activation, false)
        };
        MlpSpec::Experts(ExpertsSpec {
            router: linear(format!("{path}.gate"), self.count, base.hidden, false),
            chosen: self.chosen,
            routing: self.routing,
            experts: (0..self.count).map(expert).collect(),
        })
    }
}
