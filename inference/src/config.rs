//! Reading configuration files field by field. Every field must be taken, known to be harmless, or
//! it is refused by its name: an unknown field can change what a model computes.

use serde_json::{Map, Value};

use crate::error::{ConfigError, Name};

/// The fields of one JSON object that nobody has taken yet.
pub(crate) struct Fields {
    prefix: String,
    map: Map<String, Value>,
}

impl Fields {
    pub(crate) fn new(value: Value) -> Result<Self, ConfigError> {
        match value {
            Value::Object(map) => Ok(Self {
                prefix: String::new(),
                map,
            }),
            _ => Err(ConfigError::NotAnObject),
        }
    }

    /// The field's name with the names of the objects around it.
    pub(crate) fn name(&self, field: &str) -> Name {
        Name::new(&format!("{}{field}", self.prefix))
    }

    /// Takes a field; `null` counts as absent.
    pub(crate) fn take(&mut self, field: &str) -> Option<Value> {
        self.map.remove(field).filter(|value| !value.is_null())
    }

    /// Takes an object.
    pub(crate) fn object(&mut self, field: &str) -> Result<Option<Self>, ConfigError> {
        let prefix = format!("{}{field}.", self.prefix);
        match self.take(field) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self { prefix, map })),
            Some(_) => Err(self.invalid(field, "an object")),
        }
    }

    /// Takes the only field there is, an object; `None` if there are others.
    pub(crate) fn only_object(&mut self) -> Result<Option<Self>, ConfigError> {
        let mut names = self.map.keys();
        match (names.next().cloned(), names.next()) {
            (Some(name), None) => self.object(&name),
            _ => Ok(None),
        }
    }

    /// Takes an integer in `1..=max`.
    pub(crate) fn size(&mut self, field: &str, max: u32) -> Result<Option<u32>, ConfigError> {
        let Some(value) = self.take(field) else {
            return Ok(None);
        };
        let size = value.as_u64().and_then(|size| u32::try_from(size).ok());
        match size.filter(|size| (1..=max).contains(size)) {
            Some(size) => Ok(Some(size)),
            None => Err(self.invalid(field, "a positive integer of a usual size")),
        }
    }

    /// Takes a positive finite number.
    pub(crate) fn positive(&mut self, field: &str) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.take(field) else {
            return Ok(None);
        };
        match value
            .as_f64()
            .filter(|number| number.is_finite() && *number > 0.0)
        {
            Some(number) => Ok(Some(number)),
            None => Err(self.invalid(field, "a positive number")),
        }
    }

    /// Takes a switch that is off unless it is set.
    pub(crate) fn switch(&mut self, field: &str) -> Result<bool, ConfigError> {
        self.switch_or(field, false)
    }

    /// Takes a switch with a default.
    pub(crate) fn switch_or(&mut self, field: &str, default: bool) -> Result<bool, ConfigError> {
        match self.take(field) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(value),
            Some(_) => Err(self.invalid(field, "true or false")),
        }
    }

    /// Takes a list of positive finite numbers.
    pub(crate) fn numbers(&mut self, field: &str) -> Result<Option<Vec<f32>>, ConfigError> {
        let Some(value) = self.take(field) else {
            return Ok(None);
        };
        let number = |value: &Value| Some(value.as_f64()? as f32);
        let usable = |number: &f32| number.is_finite() && *number > 0.0;
        let numbers = value
            .as_array()
            .and_then(|list| list.iter().map(number).collect::<Option<Vec<f32>>>());
        match numbers.filter(|numbers| numbers.iter().all(usable)) {
            Some(numbers) => Ok(Some(numbers)),
            None => Err(self.invalid(field, "a list of positive numbers")),
        }
    }

    /// Takes a list of strings.
    pub(crate) fn texts(&mut self, field: &str) -> Result<Option<Vec<String>>, ConfigError> {
        let Some(value) = self.take(field) else {
            return Ok(None);
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let texts = value
            .as_array()
            .and_then(|list| list.iter().map(text).collect());
        match texts {
            Some(texts) => Ok(Some(texts)),
            None => Err(self.invalid(field, "a list of strings")),
        }
    }

    /// Whether the field stands there, `null` included.
    pub(crate) fn has(&self, field: &str) -> bool {
        self.map.contains_key(field)
    }

    /// Whether the field stands there and is not `null`.
    pub(crate) fn says(&self, field: &str) -> bool {
        self.map.get(field).is_some_and(|value| !value.is_null())
    }

    /// Drops fields that are known to have no effect next to those that were taken.
    pub(crate) fn drop_fields(&mut self, fields: &[&str]) {
        for field in fields {
            self.map.remove(*field);
        }
    }

    /// Takes a string.
    pub(crate) fn text(&mut self, field: &str) -> Result<Option<String>, ConfigError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.invalid(field, "a string")),
        }
    }

    /// Takes one token id or a list of them; none is an empty list.
    pub(crate) fn token_ids(&mut self, field: &str) -> Result<Vec<u32>, ConfigError> {
        let values = match self.take(field) {
            None => return Ok(Vec::new()),
            Some(Value::Array(values)) => values,
            Some(value) => vec![value],
        };
        let ids = values
            .iter()
            .map(|value| u32::try_from(value.as_u64()?).ok());
        ids.collect::<Option<_>>()
            .ok_or_else(|| self.invalid(field, "a token id or a list of them"))
    }

    /// Takes a field that has to have the one value that this engine implements.
    pub(crate) fn only(&mut self, field: &str, supported: Value) -> Result<(), ConfigError> {
        match self.take(field) {
            Some(value) if value != supported => Err(ConfigError::Unsupported(self.name(field))),
            _ => Ok(()),
        }
    }

    /// Refuses every field that is left, unless it is listed as harmless or says nothing.
    pub(crate) fn finish(self, harmless: &[&str]) -> Result<(), ConfigError> {
        let says_nothing = |value: &Value| matches!(value, Value::Null | Value::Bool(false));
        let unknown = self.map.iter().find(|(field, value)| {
            !says_nothing(value) && !field.starts_with('_') && !harmless.contains(&field.as_str())
        });
        match unknown {
            Some((field, _)) => Err(ConfigError::Unknown(self.name(field))),
            None => Ok(()),
        }
    }

    pub(crate) fn invalid(&self, field: &str, expected: &'static str) -> ConfigError {
        ConfigError::Invalid {
            field: self.name(field),
            expected,
        }
    }

    pub(crate) fn missing(&self, field: &str) -> ConfigError {
        ConfigError::Missing(self.name(field))
    }
}

/// Fields that every Hugging Face configuration may carry and that do not change what a
/// text model computes in inference.
pub(crate) const HARMLESS: &[&str] = &[
    "attention_dropout",
    "attn_implementation",
    "auto_map",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "embd_pdrop",
    "encoder_no_repeat_ngram_size",
    "finetuning_task",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "is_llama_config",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "sep_token_id",
    "task_specific_params",
    "temperature",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_left_is_refused_by_name() {
        let mut fields = Fields::new(json!({"a": {"b": 1, "c": 2}, "d": null})).expect("fields");
        let mut inner = fields.object("a").expect("an object").expect("present");
        assert_eq!(inner.size("b", 10), Ok(Some(1)));
        assert_eq!(
            inner.finish(&[]),
            Err(ConfigError::Unknown(Name::new("a.c")))
        );
        assert_eq!(fields.finish(&[]), Ok(()));
    }

    #[test]
    fn types_and_bounds_are_checked() {
        let fields =
            || Fields::new(json!({"a": 0, "b": -1, "c": "x", "d": 1e300})).expect("fields");
        for field in ["a", "b", "c", "d"] {
            assert!(fields().size(field, 100).is_err(), "{field}");
        }
        for field in ["a", "b", "c"] {
            assert!(fields().positive(field).is_err(), "{field}");
        }
        assert!(fields().only("c", json!("y")).is_err());
        assert!(fields().switch("c").is_err());
        assert!(fields().token_ids("b").is_err());
        assert_eq!(fields().token_ids("a"), Ok(vec![0]));
    }
}
