//! The two requests for text, from JSON to what the engine takes.

use inference::{Conversation, Turn};
use serde_json::Value;

use super::error::ApiError;
use super::fields::Fields;
use super::reasoning::Variables;
use super::tools::{self, Form};

const MAX_STOPS: usize = 4;
const MAX_ANSWERS: u32 = 8;

/// A request for an answer, whole. No `Debug`: it holds content.
pub(crate) struct Request {
    pub(crate) model: String,
    pub(crate) input: Input,
    pub(crate) options: Options,
}

/// What the model reads.
pub(crate) enum Input {
    /// A conversation, for the model's chat template.
    Chat(Conversation),
    /// The same, as items of a response.
    Items(Conversation),
    /// Text as it is.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
}

/// How the model answers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Options {
    /// `None`: as much as fits.
    pub(crate) max_tokens: Option<u32>,
    pub(crate) temperature: f32,
    pub(crate) top_p: f32,
    /// 0 is no cut.
    pub(crate) top_k: u32,
    pub(crate) min_p: f32,
    pub(crate) presence_penalty: f32,
    pub(crate) frequency_penalty: f32,
    pub(crate) logit_bias: Vec<(u32, f32)>,
    /// Whether probabilities are wanted, and of how many other tokens.
    pub(crate) logprobs: Option<u32>,
    /// Answers to the same.
    pub(crate) count: u32,
    /// `None`: another one each time.
    pub(crate) seed: Option<u64>,
    pub(crate) stop: Stops,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    /// Tools and response format.
    pub(crate) form: Form,
}

/// Stop strings, which are content.
#[derive(Clone, PartialEq, Default)]
pub(crate) struct Stops(pub(crate) Vec<String>);

impl std::fmt::Debug for Stops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} stop strings", self.0.len())
    }
}

impl Input {
    /// The parameter that held it.
    pub(crate) fn parameter(&self) -> &'static str {
        match self {
            Self::Chat(_) => "messages",
            Self::Items(_) => "input",
            Self::Text(_) | Self::Tokens(_) => "prompt",
        }
    }
}

impl Request {
    /// `POST /v1/chat/completions`
    pub(crate) fn chat(body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        let model = fields.string("model")?.ok_or(ApiError::Missing("model"))?;
        let messages = fields
            .take("messages")
            .ok_or(ApiError::Missing("messages"))?;
        let variables = Variables::take(&mut fields)?;
        let messages = parse_messages(messages)?;
        let newer_limit = fields.count("max_completion_tokens")?;
        let older_limit = fields.count("max_tokens")?;
        let mut options = options(&mut fields, newer_limit.or(older_limit))?;
        let text_only = "this server answers with text only";
        let (form, tools) = Form::take(&mut fields)?;
        let input = Input::Chat(Conversation {
            messages,
            tools,
            variables: variables.names,
            today: variables.today,
        });
        fields.only("functions", "functions are not implemented", is_empty)?;
        fields.only("function_call", "functions are not implemented", |v| {
            v == "none"
        })?;
        fields.only("modalities", text_only, |v| {
            *v == serde_json::json!(["text"])
        })?;
        fields.only("audio", text_only, is_empty)?;
        let logprobs = fields.boolean("logprobs")?;
        let top = fields.up_to("top_logprobs", 20, "must be a whole number up to 20")?;
        if top.is_some_and(|top| top > 0) && !logprobs {
            let expected = "is allowed only where 'logprobs' is true";
            return Err(ApiError::invalid("top_logprobs", expected));
        }
        options.logprobs = logprobs.then_some(top.unwrap_or(0));
        options.form = form;
        fields.end()?;
        Ok(Self {
            model,
            input,
            options,
        })
    }

    /// `POST /v1/completions`
    pub(crate) fn completion(body: &[u8]) -> Result<Self, ApiError> {
        /// What OpenAI's older API takes where nothing is said.
        const DEFAULT_MAX_TOKENS: u32 = 16;
        let mut fields = Fields::parse(body)?;
        let model = fields.string("model")?.ok_or(ApiError::Missing("model"))?;
        let prompt = fields.take("prompt").ok_or(ApiError::Missing("prompt"))?;
        let input = parse_prompt(prompt)?;
        let max_tokens = fields.count("max_tokens")?.unwrap_or(DEFAULT_MAX_TOKENS);
        let mut options = options(&mut fields, Some(max_tokens))?;
        fields.only("best_of", "only 1 is implemented", |v| *v == 1)?;
        fields.only("echo", "the prompt is not echoed", is_false)?;
        fields.only("suffix", "insertion is not implemented", |v| v == "")?;
        options.logprobs = fields.up_to("logprobs", 5, "must be a whole number up to 5")?;
        fields.end()?;
        Ok(Self {
            model,
            input,
            options,
        })
    }
}

/// What both requests share.
pub(super) fn options(fields: &mut Fields, max_tokens: Option<u32>) -> Result<Options, ApiError> {
    let temperature = fields.number("temperature", (0.0, 2.0), "must be from 0 to 2")?;
    let top_p = fields.number("top_p", (0.0, 1.0), "must be from 0 to 1")?;
    let seed = fields.take("seed").map(parse_seed).transpose()?;
    let stop = fields.take("stop").map(parse_stop).transpose()?;
    let stream = fields.boolean("stream")?;
    let include_usage = stream_options(fields, stream)?;
    let count = fields.up_to("n", MAX_ANSWERS, "must be a whole number from 1 to 8")?;
    if count == Some(0) {
        return Err(ApiError::invalid("n", "must be a whole number from 1 to 8"));
    }
    let penalty = "must be from -2 to 2";
    let presence = fields.number("presence_penalty", (-2.0, 2.0), penalty)?;
    let frequency = fields.number("frequency_penalty", (-2.0, 2.0), penalty)?;
    let min_p = fields.number("min_p", (0.0, 1.0), "must be from 0 to 1")?;
    // Others take -1 for no cut.
    let top_k = match fields.take("top_k") {
        Some(value) if value == -1 => 0,
        Some(value) => {
            let top_k = value.as_u64().and_then(|top_k| u32::try_from(top_k).ok());
            top_k.ok_or_else(|| ApiError::invalid("top_k", "must be a whole number"))?
        }
        None => 0,
    };
    let bias = fields.take("logit_bias").map(parse_bias).transpose()?;
    fields.ignore(&[
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
    ]);
    Ok(Options {
        max_tokens,
        temperature: temperature.unwrap_or(1.0) as f32,
        // Nothing is left of the distribution but its likeliest token.
        top_p: (top_p.unwrap_or(1.0) as f32).max(f32::MIN_POSITIVE),
        top_k,
        min_p: min_p.unwrap_or(0.0) as f32,
        presence_penalty: presence.unwrap_or(0.0) as f32,
        frequency_penalty: frequency.unwrap_or(0.0) as f32,
        logit_bias: bias.unwrap_or_default(),
        logprobs: None,
        count: count.unwrap_or(1),
        seed,
        stop: stop.unwrap_or_default(),
        stream,
        include_usage,
        form: Form::default(),
    })
}

fn stream_options(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    match fields.take("stream_options") {
        None => Ok(false),
        Some(_) if !stream => Err(ApiError::invalid(
            "stream_options",
            "is allowed only where 'stream' is true",
        )),
        Some(Value::Object(members)) => {
            let mut members = Fields::from(members);
            let include_usage = members.boolean("include_usage")?;
            members.ignore(&["include_obfuscation"]); // records are padded anyway
            members.end()?;
            Ok(include_usage)
        }
        Some(_) => Err(ApiError::invalid("stream_options", "must be an object")),
    }
}

fn parse_seed(value: Value) -> Result<u64, ApiError> {
    let seed = value
        .as_u64()
        .or_else(|| value.as_i64().map(i64::cast_unsigned));
    seed.ok_or_else(|| ApiError::invalid("seed", "must be a whole number of 64 bits"))
}

/// Tokens, as texts, with what is added to their logits.
fn parse_bias(value: Value) -> Result<Vec<(u32, f32)>, ApiError> {
    let wrong = || {
        ApiError::invalid(
            "logit_bias",
            "must map token ids to numbers from -100 to 100",
        )
    };
    let Value::Object(members) = value else {
        return Err(wrong());
    };
    let one = |(token, bias): (String, Value)| {
        let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias));
        Some((token.parse().ok()?, bias? as f32))
    };
    members
        .into_iter()
        .map(one)
        .collect::<Option<_>>()
        .ok_or_else(wrong)
}

fn parse_stop(value: Value) -> Result<Stops, ApiError> {
    let wrong = || ApiError::invalid("stop", "must be a string or up to 4 strings, none empty");
    let values = match value {
        Value::Array(values) if values.len() <= MAX_STOPS => values,
        Value::Array(_) => return Err(wrong()),
        one => vec![one],
    };
    let text = |value| match value {
        Value::String(text) if !text.is_empty() => Ok(text),
        _ => Err(wrong()),
    };
    values
        .into_iter()
        .map(text)
        .collect::<Result<_, _>>()
        .map(Stops)
}

fn parse_messages(value: Value) -> Result<Vec<Turn>, ApiError> {
    match value {
        Value::Array(messages) if !messages.is_empty() => messages
            .into_iter()
            .enumerate()
            .map(|(at, one)| parse_message(at, one))
            .collect(),
        _ => Err(ApiError::invalid(
            "messages",
            "must be an array with at least one message",
        )),
    }
}

fn parse_message(at: usize, value: Value) -> Result<Turn, ApiError> {
    let place = |field: &str| format!("messages[{at}].{field}");
    let Value::Object(mut message) = value else {
        return Err(ApiError::invalid(
            format!("messages[{at}]"),
            "must be an object",
        ));
    };
    let role = match message.get("role").and_then(Value::as_str) {
        Some("system" | "developer") => "system",
        Some("user") => "user",
        Some("assistant") => "assistant",
        Some("tool") => "tool",
        _ => {
            let expected = "must be one of system, developer, user, assistant and tool";
            return Err(ApiError::invalid(place("role"), expected));
        }
    };
    for field in ["function_call", "audio"] {
        if message
            .get(field)
            .is_some_and(|value| !value.is_null() && !is_empty(value))
        {
            return Err(ApiError::unsupported(
                place(field),
                "only text is implemented",
            ));
        }
    }
    let of_calls = tools::said_of_calls(&mut message, place)?;
    let content = match message.remove("content") {
        // Who calls a tool need not say anything.
        None | Some(Value::Null) if of_calls.contains_key("tool_calls") => String::new(),
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => parts
            .into_iter()
            .map(|part| text_of(part, || place("content")))
            .collect::<Result<_, _>>()?,
        _ => {
            let expected = "must be a string or an array of text parts";
            return Err(ApiError::invalid(place("content"), expected));
        }
    };
    let turn = Turn::default().with("role", role).with("content", content);
    let of_calls = of_calls.into_iter();
    let turn = of_calls.fold(turn, |turn, (name, value)| turn.with(&name, value));
    // What the model thought before an earlier answer: its template knows what to do with it.
    match message.remove("reasoning_content") {
        Some(Value::String(thought)) if role == "assistant" => {
            Ok(turn.with("reasoning_content", thought))
        }
        None | Some(Value::Null) => Ok(turn),
        Some(_) => {
            let expected = "must be a string, in a message of the assistant";
            Err(ApiError::invalid(place("reasoning_content"), expected))
        }
    }
}

/// The text of one part of a content array.
fn text_of(part: Value, place: impl Fn() -> String) -> Result<String, ApiError> {
    let Value::Object(mut part) = part else {
        return Err(ApiError::invalid(
            place(),
            "must be a string or an array of text parts",
        ));
    };
    if part.get("type").is_none_or(|kind| kind != "text") {
        return Err(ApiError::unsupported(
            place(),
            "only parts of the type 'text' are implemented",
        ));
    }
    match part.remove("text") {
        Some(Value::String(text)) => Ok(text),
        _ => Err(ApiError::invalid(
            place(),
            "a text part needs 'text', a string",
        )),
    }
}

fn parse_prompt(value: Value) -> Result<Input, ApiError> {
    let wrong = || ApiError::invalid("prompt", "must be a string or an array of token ids");
    match value {
        Value::String(text) => Ok(Input::Text(text)),
        Value::Array(mut values) if values.len() == 1 && !values[0].is_number() => {
            values.pop().map_or_else(|| Err(wrong()), parse_prompt)
        }
        Value::Array(values) if values.iter().all(Value::is_number) && !values.is_empty() => {
            let token = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
            values
                .iter()
                .map(token)
                .collect::<Option<_>>()
                .map(Input::Tokens)
                .ok_or_else(wrong)
        }
        Value::Array(values) if values.len() > 1 => Err(ApiError::unsupported(
            "prompt",
            "only one prompt at a time is implemented",
        )),
        _ => Err(wrong()),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(values) => values.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

fn is_false(value: &Value) -> bool {
    *value == false
}

#[cfg(test)]
mod tests;
