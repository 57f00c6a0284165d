//! Embedding models: folders in the layout of sentence-transformers, whose vector of a text is what
//! the decoder makes of its last token.
//!
//! `modules.json` lists what a text goes through: the transformer, `1_Pooling/config.json`, and
//! perhaps a normalisation. Any other module, and any other way of pooling, is refused by its name:
//! it would give other vectors.

use std::path::Path;

use serde_json::Value;

use crate::config::Fields;
use crate::error::{ConfigError, LoadError, Name};
use crate::folder;
use crate::request::{Finish, Generation, Usage};
use crate::spec::DecoderSpec;

const MODULES: &str = "modules.json";
const SETTINGS: &str = "config_sentence_transformers.json";
const LIMITS: &str = "sentence_bert_config.json";
const POOLING: &str = "1_Pooling";
/// A volume has no folders.
const FLAT_POOLING: &str = "1_Pooling.config.json";

/// What becomes of the last token's vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pooling {
    /// Whether it is made one long.
    pub(crate) normalises: bool,
    /// Tokens that a text may have, if the folder says so.
    max_tokens: Option<u32>,
}

/// Reads the layout; `None` if the folder is no embedding model's.
pub(crate) fn read(model: &Path) -> Result<Option<Pooling>, LoadError> {
    let Some(modules) = folder::json_optional(model, MODULES)? else {
        return Ok(None);
    };
    let blame = |file: &str| {
        let file = Name::new(file);
        move |source| LoadError::Config { file, source }
    };
    let normalises = read_modules(modules).map_err(blame(MODULES))?;
    let nested = format!("{POOLING}/config.json");
    let pooling = match folder::json_optional(model, &nested)? {
        Some(pooling) => pooling,
        None => folder::json_optional(model, FLAT_POOLING)?.ok_or_else(|| LoadError::Missing {
            file: Name::new(&nested),
        })?,
    };
    read_pooling(pooling).map_err(blame(&nested))?;
    if let Some(settings) = folder::json_optional(model, SETTINGS)? {
        read_settings(settings).map_err(blame(SETTINGS))?;
    }
    let max_tokens = match folder::json_optional(model, LIMITS)? {
        Some(limits) => read_limits(limits).map_err(blame(LIMITS))?,
        None => None,
    };
    Ok(Some(Pooling {
        normalises,
        max_tokens,
    }))
}

impl Pooling {
    /// Makes a decoder one that gives vectors: its head is not there, or not looked at.
    pub(crate) fn apply(self, spec: &mut DecoderSpec) {
        spec.head = None;
        spec.embeds = true;
        spec.ignored.push("lm_head.weight".to_owned());
        let limit = self.max_tokens.unwrap_or(u32::MAX);
        spec.context_tokens = spec.context_tokens.min(limit);
    }

    /// The vector of a text, of what the decoder made of its last token.
    pub(crate) fn vector(self, hidden: &[f32]) -> Vec<f32> {
        let mut vector = hidden.to_vec();
        if self.normalises {
            normalise(&mut vector);
        }
        vector
    }
}

/// Makes a vector one long; one of zeros stays.
pub fn normalise(vector: &mut [f32]) {
    let squares = vector.iter().map(|x| f64::from(*x) * f64::from(*x));
    let length = squares.sum::<f64>().sqrt();
    if length > 0.0 {
        let scaled = |x: f32| (f64::from(x) / length) as f32;
        vector.iter_mut().for_each(|x| *x = scaled(*x));
    }
}

/// Whether the last of the modules normalises.
fn read_modules(modules: Value) -> Result<bool, ConfigError> {
    const KINDS: [(&str, &str); 3] = [
        ("sentence_transformers.models.Transformer", ""),
        ("sentence_transformers.models.Pooling", POOLING),
        ("sentence_transformers.models.Normalize", "2_Normalize"),
    ];
    let Value::Array(modules) = modules else {
        return Err(ConfigError::Invalid {
            field: Name::new("modules"),
            expected: "a list",
        });
    };
    let count = modules.len();
    if !(2..=KINDS.len()).contains(&count) {
        return Err(ConfigError::Unsupported(Name::new("modules")));
    }
    for ((at, module), (kind, path)) in modules.into_iter().enumerate().zip(KINDS) {
        let named = |error| match error {
            ConfigError::Unsupported(name) => {
                ConfigError::Unsupported(Name::new(&format!("[{at}].{name}")))
            }
            ConfigError::Unknown(name) => {
                ConfigError::Unknown(Name::new(&format!("[{at}].{name}")))
            }
            other => other,
        };
        read_module(module, at, kind, path).map_err(named)?;
    }
    Ok(count == KINDS.len())
}

fn read_module(module: Value, at: usize, kind: &str, path: &str) -> Result<(), ConfigError> {
    let mut fields = Fields::new(module)?;
    if fields.text("type")?.as_deref() != Some(kind) {
        return Err(ConfigError::Unsupported(fields.name("type")));
    }
    fields.only("idx", at.into())?;
    if fields.text("path")?.as_deref() != Some(path) {
        return Err(ConfigError::Unsupported(fields.name("path")));
    }
    fields.drop_fields(&["name"]);
    fields.finish(&[])
}

fn read_pooling(pooling: Value) -> Result<(), ConfigError> {
    let mut fields = Fields::new(pooling)?;
    fields.only("pooling_mode", "lasttoken".into())?;
    for mode in [
        "cls_token",
        "mean_tokens",
        "max_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
    ] {
        fields.only(&format!("pooling_mode_{mode}"), false.into())?;
    }
    fields.only("include_prompt", true.into())?;
    if !fields.switch("pooling_mode_lasttoken")? {
        return Err(ConfigError::Unsupported(
            fields.name("pooling_mode_lasttoken"),
        ));
    }
    // The decoder's own size is what it is.
    fields.finish(&["word_embedding_dimension", "embedding_dimension"])
}

fn read_settings(settings: Value) -> Result<(), ConfigError> {
    let mut fields = Fields::new(settings)?;
    // What stands before every text, of which an asker would not know.
    if fields.says("default_prompt_name") {
        return Err(ConfigError::Unsupported(fields.name("default_prompt_name")));
    }
    fields.only("model_type", "SentenceTransformer".into())?;
    // Prompts are for askers to put before their texts, and how vectors are compared is theirs.
    fields.finish(&["__version__", "prompts", "similarity_fn_name"])
}

fn read_limits(limits: Value) -> Result<Option<u32>, ConfigError> {
    let mut fields = Fields::new(limits)?;
    let max_tokens = fields.size("max_seq_length", u32::MAX)?;
    fields.only("do_lower_case", false.into())?;
    fields.finish(&[])?;
    Ok(max_tokens)
}

/// Whether this is any of the files, for [`crate::fuzzing`].
pub(crate) fn reads(file: &Value) -> bool {
    read_modules(file.clone()).is_ok()
        || read_pooling(file.clone()).is_ok()
        || read_settings(file.clone()).is_ok()
        || read_limits(file.clone()).is_ok()
}

/// A vector on its way. Dropping it cancels the request.
#[derive(Debug)]
pub struct Embedding(pub(crate) Generation);

impl Embedding {
    /// The vector. `Err` says that the deadline passed; `None` is an engine that stopped.
    pub async fn wait(mut self) -> Option<Result<Vec<f32>, Finish>> {
        let emitted = self.0.receive().await?;
        Some(emitted.embedding.ok_or(Finish::Deadline))
    }

    /// As [`wait`](Self::wait), from a thread that is not in an asynchronous runtime.
    pub fn blocking_wait(mut self) -> Option<Result<Vec<f32>, Finish>> {
        let emitted = self.0.blocking_receive()?;
        Some(emitted.embedding.ok_or(Finish::Deadline))
    }

    /// Tokens of the text.
    pub fn usage(&self) -> Usage {
        self.0.usage()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn modules() -> Value {
        json!([
            {"idx": 0, "name": "0", "path": "",
             "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling",
             "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize",
             "type": "sentence_transformers.models.Normalize"},
        ])
    }

    #[test]
    fn other_modules_are_refused_by_their_place() {
        assert_eq!(read_modules(modules()), Ok(true));
        let mut two = modules();
        two.as_array_mut().expect("a list").pop();
        assert_eq!(read_modules(two), Ok(false));
        for (at, field, value) in [
            (
                1,
                "type",
                json!("sentence_transformers.models.WordEmbeddings"),
            ),
            (2, "type", json!("sentence_transformers.models.Dense")),
            (1, "path", json!("../1_Pooling")),
            (0, "path", json!("0_Transformer")),
            (0, "idx", json!(1)),
        ] {
            let mut other = modules();
            other[at][field] = value;
            let name = Name::new(&format!("[{at}].{field}"));
            assert_eq!(read_modules(other), Err(ConfigError::Unsupported(name)));
        }
        let mut longer = modules();
        longer.as_array_mut().expect("a list").push(json!({}));
        for wrong in [longer, json!([])] {
            let name = Name::new("modules");
            assert_eq!(read_modules(wrong), Err(ConfigError::Unsupported(name)));
        }
        assert!(read_modules(json!({})).is_err());
    }

    #[test]
    fn other_pooling_is_refused_by_its_name() {
        let published = json!({"word_embedding_dimension": 1024, "pooling_mode_cls_token": false,
            "pooling_mode_mean_tokens": false, "pooling_mode_max_tokens": false,
            "pooling_mode_mean_sqrt_len_tokens": false, "pooling_mode_weightedmean_tokens": false,
            "pooling_mode_lasttoken": true, "include_prompt": true});
        assert_eq!(read_pooling(published.clone()), Ok(()));
        for (field, value) in [
            ("pooling_mode_mean_tokens", json!(true)),
            ("pooling_mode_cls_token", json!(true)),
            ("pooling_mode_lasttoken", json!(false)),
            ("pooling_mode", json!("mean")),
            ("include_prompt", json!(false)),
        ] {
            let mut other = published.clone();
            other[field] = value;
            let refusal = ConfigError::Unsupported(Name::new(field));
            assert_eq!(read_pooling(other), Err(refusal));
        }
        let mut other = published;
        other["pooling_mode_attention"] = json!(true);
        let refusal = ConfigError::Unknown(Name::new("pooling_mode_attention"));
        assert_eq!(read_pooling(other), Err(refusal));
        let prompts = json!({"prompts": {"query": "q"}, "default_prompt_name": "query"});
        let refusal = ConfigError::Unsupported(Name::new("default_prompt_name"));
        assert_eq!(read_settings(prompts), Err(refusal));
        let lower = json!({"max_seq_length": 9, "do_lower_case": true});
        let refusal = ConfigError::Unsupported(Name::new("do_lower_case"));
        assert_eq!(read_limits(lower), Err(refusal));
        assert_eq!(read_limits(json!({"max_seq_length": 9})), Ok(Some(9)));
    }

    #[test]
    fn vectors_become_one_long() {
        let mut vector = [3.0, -4.0];
        normalise(&mut vector);
        assert_eq!(vector, [0.6, -0.8]);
        let mut none = [0.0; 2];
        normalise(&mut none);
        assert_eq!(none, [0.0; 2]);
    }
}
