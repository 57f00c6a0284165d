//! Model families: each maps its configuration and its tensors' names onto the decoder.

use serde_json::Value;

use crate::config::{Fields, HARMLESS};
use crate::error::ConfigError;
use crate::quantisation::Scheme;
use crate::spec::DecoderSpec;

mod base;
mod gemma3;
mod gpt_oss;
mod llama;
mod mistral;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;

/// A model's configuration: the decoder, and the tokens that end a turn.
#[derive(Clone, Debug)]
pub(crate) struct ModelConfig {
    pub(crate) decoder: DecoderSpec,
    pub(crate) end_tokens: Vec<u32>,
    /// How another program has made the weights smaller.
    pub(crate) scheme: Option<Scheme>,
}

type Read = fn(&mut Fields) -> Result<ModelConfig, ConfigError>;

/// `architectures`, `model_type`, and who reads the rest.
const FAMILIES: [(&str, &str, Read); 8] = [
    ("LlamaForCausalLM", "llama", llama::read),
    ("Qwen3ForCausalLM", "qwen3", qwen3::read),
    ("Qwen2ForCausalLM", "qwen2", qwen2::read),
    ("MistralForCausalLM", "mistral", mistral::read),
    ("Gemma3ForCausalLM", "gemma3_text", gemma3::read),
    ("Phi3ForCausalLM", "phi3", phi3::read),
    ("Qwen3MoeForCausalLM", "qwen3_moe", qwen3_moe::read),
    ("GptOssForCausalLM", "gpt_oss", gpt_oss::read),
];

/// Reads `config.json`.
pub(crate) fn read(config: Value) -> Result<ModelConfig, ConfigError> {
    let mut fields = Fields::new(config)?;
    let architectures = fields.texts("architectures")?.unwrap_or_default();
    let family = FAMILIES
        .iter()
        .find(|(architecture, ..)| architectures == [*architecture]);
    let Some((_, model_type, read)) = family else {
        return Err(ConfigError::Unsupported(fields.name("architectures")));
    };
    fields.only("model_type", (*model_type).into())?;
    let mut config = read(&mut fields)?;
    config.scheme = Scheme::take(&mut fields)?;
    fields.finish(HARMLESS)?;
    Ok(config)
}

#[cfg(test)]
mod tests;
