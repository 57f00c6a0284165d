//! gpt-oss: experts in MXFP4, attention sinks, every second layer slides, YaRN.

use serde_json::json;

use super::ModelConfig;
use super::base::{Base, Bias, Defaults, linear, sliding_layers, take_experts, window};
use crate::config::Fields;
use crate::cpu::MXFP4_BLOCK;
use crate::error::ConfigError;
use crate::rope::{RopeDefaults, RopeSpec};
use crate::spec::{
    Activation, AttentionSpec, ExpertsSpec, GateSpec, GatedSpec, Layout, LinearSpec, MatrixSpec,
    MlpSpec, Routing, VectorSpec,
};

pub(super) fn read(fields: &mut Fields) -> Result<ModelConfig, ConfigError> {
    let defaults = Defaults {
        head_dim: Some(64),
        context_tokens: Some(131_072),
        ..Default::default()
    };
    let base = Base::take(fields, defaults)?;
    // The networks have their own activation; this field is not looked at.
    fields.drop_fields(&["hidden_act", "initial_context_length"]);
    let rope = take_rope(fields, &base)?;
    let window = window(fields, Some(128))?;
    let is_local = |layer: usize| window.is_some() && layer.is_multiple_of(2);
    let slides = sliding_layers(fields, base.layers, window, is_local)?;
    let bias = Bias::everywhere(fields.switch_or("attention_bias", true)?);
    let experts = Experts::take(fields, &base)?;
    let layers = slides.into_iter().enumerate().map(|(layer, slides)| {
        let attention = AttentionSpec {
            sinks: Some(format!("model.layers.{layer}.self_attn.sinks")),
            ..base.attention(layer, &rope, window.filter(|_| slides), bias)
        };
        base.layer(layer, attention, experts.mlp(&base, layer))
    });
    let layers = layers.collect();
    Ok(base.model(layers))
}

fn take_rope(fields: &mut Fields, base: &Base) -> Result<RopeSpec, ConfigError> {
    let defaults = RopeDefaults {
        theta: 150_000.0,
        ..base.rope_defaults()
    };
    if fields.says("rope_parameters") || fields.says("rope_scaling") {
        return RopeSpec::take(fields, defaults);
    }
    let theta = fields.positive("rope_theta")?.unwrap_or(defaults.theta);
    let yarn = json!({"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "truncate": false, "original_max_position_embeddings": 4096, "rope_theta": theta});
    RopeSpec::read(Some(Fields::new(yarn)?), None, defaults)
}

struct Experts {
    count: usize,
    chosen: usize,
    activation: Activation,
    is_mxfp4: bool,
}

impl Experts {
    fn take(fields: &mut Fields, base: &Base) -> Result<Self, ConfigError> {
        let (count, chosen) = take_experts(fields, base.layers)?;
        fields.only("experts_per_token", chosen.into())?;
        let alpha = fields.positive("swiglu_alpha")?.unwrap_or(1.702) as f32;
        let limit = fields.positive("swiglu_limit")?.unwrap_or(7.0) as f32;
        let is_mxfp4 = take_quantization(fields)?;
        if is_mxfp4 && !base.hidden.is_multiple_of(MXFP4_BLOCK) {
            return Err(fields.invalid("hidden_size", "a multiple of 32, as MXFP4 needs"));
        }
        if is_mxfp4 && !base.intermediate.is_multiple_of(MXFP4_BLOCK) {
            return Err(fields.invalid("intermediate_size", "a multiple of 32, as MXFP4 needs"));
        }
        Ok(Self {
            count,
            chosen,
            activation: Activation::Clamped { alpha, limit },
            is_mxfp4,
        })
    }

    fn mlp(&self, base: &Base, layer: usize) -> MlpSpec {
        let path = format!("model.layers.{layer}.mlp");
        let (hidden, size) = (base.hidden, base.intermediate);
        let expert = |index| GatedSpec {
            input: GateSpec::Interleaved(self.project(&path, "gate_up", index, 2 * size, hidden)),
            down: self.project(&path, "down", index, hidden, size),
            activation: self.activation,
        };
        MlpSpec::Experts(ExpertsSpec {
            router: linear(format!("{path}.router"), self.count, hidden, true),
            chosen: self.chosen,
            routing: Routing::OverChosen,
            experts: (0..self.count).map(expert).collect(),
        })
    }

    fn project(
        &self,
        path: &str,
        part: &str,
        index: usize,
        rows: usize,
        columns: usize,
    ) -> LinearSpec {
        let of = self.count;
        let weight = MatrixSpec {
            tensor: format!("{path}.experts.{part}_proj"),
            rows,
            columns,
            layout: match self.is_mxfp4 {
                true => Layout::Mxfp4 { index, of },
                false => Layout::Turned { index, of },
            },
        };
        let bias = VectorSpec {
            tensor: format!("{path}.experts.{part}_proj_bias"),
            row: Some((index, of)),
        };
        LinearSpec {
            weight,
            bias: Some(bias),
        }
    }
}

/// Whether the experts are stored in MXFP4. Which other tensors are not is seen in the files.
fn take_quantization(fields: &mut Fields) -> Result<bool, ConfigError> {
    let Some(mut quantization) = fields.object("quantization_config")? else {
        return Ok(false);
    };
    if quantization.take("quant_method") != Some(json!("mxfp4")) {
        return Err(ConfigError::Unsupported(quantization.name("quant_method")));
    }
    quantization.drop_fields(&["modules_to_not_convert", "dequantize"]);
    quantization.finish(&[])?;
    Ok(true)
}
