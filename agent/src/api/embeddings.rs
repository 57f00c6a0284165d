//! `POST /v1/embeddings`: the vectors of texts, of a model that makes them.

use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use inference::{Client, Embedding, Prompt, SubmitError, normalise};
use serde::Serialize;
use serde_json::Value;

use super::error::ApiError;
use super::fields::Fields;
use super::{ANSWER_TIMEOUT, Api};
use crate::http::{Response, json};

const INPUT: &str = "input";
const MAX_INPUTS: usize = 2048;
/// Texts of one request that the engine has at once: others shall have room in its queue, too.
const AT_ONCE: usize = 8;

/// A request for vectors. No `Debug`: it holds content.
pub(super) struct Request {
    model: String,
    inputs: Vec<Input>,
    /// `None`: all that the model gives.
    dimensions: Option<u32>,
    base64: bool,
}

enum Input {
    Text(String),
    Tokens(Vec<u32>),
}

impl Request {
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        let model = fields.string("model")?.ok_or(ApiError::Missing("model"))?;
        let input = fields.take(INPUT).ok_or(ApiError::Missing(INPUT))?;
        let dimensions = fields.count("dimensions")?;
        let base64 = match fields.string("encoding_format")?.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(_) => {
                let expected = "must be 'float' or 'base64'";
                return Err(ApiError::invalid("encoding_format", expected));
            }
        };
        fields.ignore(&["user"]);
        fields.end()?;
        Ok(Self {
            model,
            inputs: parse_inputs(input)?,
            dimensions,
            base64,
        })
    }
}

/// A text, token ids, or a list of either.
fn parse_inputs(value: Value) -> Result<Vec<Input>, ApiError> {
    let Value::Array(values) = value else {
        return Ok(vec![parse_input(value)?]);
    };
    if values.first().is_some_and(Value::is_number) {
        return Ok(vec![parse_input(Value::Array(values))?]);
    }
    if values.is_empty() || values.len() > MAX_INPUTS {
        let expected = "must be a text, token ids, or a list of 1 to 2048 of either";
        return Err(ApiError::invalid(INPUT, expected));
    }
    values.into_iter().map(parse_input).collect()
}

fn parse_input(value: Value) -> Result<Input, ApiError> {
    let wrong = || {
        let expected = "must be a text, token ids, or a list of them, none empty";
        ApiError::invalid(INPUT, expected)
    };
    match value {
        Value::String(text) if !text.is_empty() => Ok(Input::Text(text)),
        Value::Array(values) if !values.is_empty() => {
            let token = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
            let tokens = values.iter().map(token).collect::<Option<_>>();
            tokens.map(Input::Tokens).ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}

impl Api {
    /// Has the engine make vectors, some at once.
    pub(super) async fn embed(
        self: Arc<Self>,
        request: Request,
        client: Client,
    ) -> Result<Response, ApiError> {
        self.expect_model(&request.model)?;
        let all = self.engine.info().embedding_dimensions;
        let all = all.ok_or_else(|| ApiError::from_submit(&SubmitError::NoEmbedding, INPUT))?;
        if request.dimensions.is_some_and(|asked| asked > all) {
            let expected = "is more than this model's vectors have";
            return Err(ApiError::invalid("dimensions", expected));
        }
        let prompts = self.prompts(request.inputs).await?;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let mut vectors = Vec::with_capacity(prompts.len());
        let mut tokens = 0u32;
        for some in prompts.chunks(AT_ONCE) {
            let submit = |prompt: &Prompt| {
                let (deadline, client) = (Some(deadline), Some(client.clone()));
                self.engine.embed(prompt.clone(), deadline, client)
            };
            let begun: Result<Vec<Embedding>, SubmitError> = some.iter().map(submit).collect();
            for one in begun.map_err(|error| ApiError::from_submit(&error, INPUT))? {
                tokens = tokens.saturating_add(one.usage().prompt_tokens);
                let vector = one.wait().await.ok_or(ApiError::Stopped)?;
                let vector = vector.map_err(|_| ApiError::Deadline)?;
                vectors.push(shorten(vector, request.dimensions));
            }
        }
        Ok(answer(&self.model, vectors, tokens, request.base64))
    }

    async fn prompts(self: &Arc<Self>, inputs: Vec<Input>) -> Result<Vec<Prompt>, ApiError> {
        let api = self.clone();
        let turn = self.tokenising.clone().acquire_owned().await;
        let turn = turn.map_err(|_| ApiError::Stopped)?;
        let prompts = tokio::task::spawn_blocking(move || {
            let one = |input| match input {
                Input::Text(text) => api.engine.encode_text(&text),
                Input::Tokens(tokens) => Ok(Prompt::from_tokens(tokens)),
            };
            let prompts = inputs.into_iter().map(one).collect::<Result<_, _>>();
            drop(turn);
            prompts.map_err(|error| ApiError::from_prompt(&error, INPUT))
        });
        prompts.await.map_err(|_| ApiError::Stopped)?
    }
}

/// The first numbers of a vector, made one long again: models are trained so that these do.
fn shorten(mut vector: Vec<f32>, dimensions: Option<u32>) -> Vec<f32> {
    let kept = dimensions.map_or(usize::MAX, |kept| kept as usize);
    if kept < vector.len() {
        vector.truncate(kept);
        normalise(&mut vector);
    }
    vector
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Item>,
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Item {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Numbers(Vec<f32>),
    /// Of the numbers as f32, the lowest byte first.
    Base64(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u32,
    total_tokens: u32,
}

fn answer(model: &str, vectors: Vec<Vec<f32>>, tokens: u32, base64: bool) -> Response {
    let item = |(index, vector): (usize, Vec<f32>)| Item {
        object: "embedding",
        index,
        embedding: match base64 {
            true => {
                let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                Vector::Base64(STANDARD.encode(bytes))
            }
            false => Vector::Numbers(vector),
        },
    };
    let list = List {
        object: "list",
        data: vectors.into_iter().enumerate().map(item).collect(),
        model,
        usage: Usage {
            prompt_tokens: tokens,
            total_tokens: tokens,
        },
    };
    json(StatusCode::OK, &list)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(extra: Value) -> Result<Request, ApiError> {
        let mut body = json!({"model": "m", "input": "a"});
        for (name, value) in extra.as_object().unwrap() {
            body[name] = value.clone();
        }
        Request::parse(body.to_string().as_bytes())
    }

    #[test]
    fn inputs_are_texts_and_tokens_alone_and_in_lists() {
        let shape = |input: Value| {
            let Ok(request) = parse(json!({"input": input})) else {
                panic!("refused")
            };
            let length = |input: &Input| match input {
                Input::Text(text) => text.len(),
                Input::Tokens(tokens) => 100 + tokens.len(),
            };
            request.inputs.iter().map(length).collect::<Vec<_>>()
        };
        assert_eq!(shape(json!("abc")), [3]);
        assert_eq!(shape(json!(["abc", "d"])), [3, 1]);
        assert_eq!(shape(json!([1, 2, 3])), [103]);
        assert_eq!(shape(json!([[1, 2], [3]])), [102, 101]);
        assert_eq!(shape(json!(["abc", [3]])), [3, 101]);
        for wrong in [
            json!([]),
            json!(""),
            json!(["a", ""]),
            json!([[]]),
            json!([1, "a"]),
            json!([-1]),
            json!([1.5]),
            json!([4294967296u64]),
            json!({}),
            json!(7),
            json!(vec!["a"; 2049]),
        ] {
            let refused = parse(json!({"input": wrong}))
                .err()
                .map(|error| error.body());
            let refused = serde_json::to_value(refused).unwrap();
            assert_eq!(refused["error"]["param"], INPUT);
            assert_eq!(refused["error"]["code"], "invalid_value");
        }
    }

    #[test]
    fn parameters_are_refused_by_their_names() {
        for (name, value, code) in [
            ("dimensions", json!(0), "invalid_value"),
            ("dimensions", json!(-5), "invalid_value"),
            ("dimensions", json!(1e12), "invalid_value"),
            ("encoding_format", json!("hex"), "invalid_value"),
            ("encoding_format", json!(1), "invalid_value"),
            ("model", Value::Null, "missing_required_parameter"),
            ("input", Value::Null, "missing_required_parameter"),
            ("task", json!("query"), "unknown_parameter"),
        ] {
            let refused = parse(json!({name: value})).err().map(|error| error.body());
            let refused = serde_json::to_value(refused).unwrap();
            assert_eq!(
                (&refused["error"]["param"], &refused["error"]["code"]),
                (&json!(name), &json!(code))
            );
        }
    }

    #[test]
    fn shorter_vectors_are_one_long_again() {
        let vector = vec![0.6, 0.0, 0.8, 0.0];
        assert_eq!(shorten(vector.clone(), None), vector);
        assert_eq!(shorten(vector.clone(), Some(4)), vector);
        assert_eq!(shorten(vector, Some(2)), [1.0, 0.0]);
    }
}
