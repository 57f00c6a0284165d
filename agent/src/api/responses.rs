//! `POST /v1/responses`, what needs no memory of it: one answer to the items that are sent. Nothing
//! is stored, so what builds on a stored response is refused by its name.

use hyper::StatusCode;
use inference::{Conversation, Finish, Turn};
use serde_json::{Map, Value, json};

use super::answer::{Answer, Whole, fresh_id, unix_time};
use super::error::ApiError;
use super::fields::Fields;
use super::reasoning::Variables;
use super::request::{self, Input, Options, Request};
use super::tools::Said;
use crate::http::{self, Response};

pub(super) mod events;

const INPUT: &str = "input";
const NOT_STORED: &str = "this server stores nothing";

/// What a response repeats of its request. It holds content: no `Debug`.
pub(super) struct Echo {
    id: String,
    created: u64,
    model: String,
    instructions: Option<String>,
    max_output_tokens: Option<u32>,
    temperature: f32,
    top_p: f32,
    effort: Option<String>,
    metadata: Value,
}

/// Reads a request.
pub(super) fn parse(body: &[u8]) -> Result<(Request, Echo), ApiError> {
    let mut fields = Fields::parse(body)?;
    refuse_what_is_stored(&mut fields)?;
    let model = fields.string("model")?.ok_or(ApiError::Missing("model"))?;
    let input = fields.take(INPUT).ok_or(ApiError::Missing(INPUT))?;
    let instructions = fields.string("instructions")?;
    let mut variables = Variables::take_kwargs(&mut fields)?;
    let effort = take_effort(&mut fields, &mut variables)?;
    let mut messages = Vec::new();
    if let Some(text) = &instructions {
        messages.push(turn("system", text.clone()));
    }
    messages.extend(parse_input(input)?);
    let max_output_tokens = fields.count("max_output_tokens")?;
    let metadata = fields.take("metadata").unwrap_or_else(|| json!({}));
    if !metadata.is_object() {
        return Err(ApiError::invalid("metadata", "must be an object"));
    }
    for name in ["stop", "n", "stream_options", "logit_bias"] {
        if fields.take(name).is_some() {
            return Err(ApiError::Unknown(name.to_owned()));
        }
    }
    only_text(&mut fields)?;
    let options = request::options(&mut fields, max_output_tokens)?;
    fields.ignore(&["prompt_cache_key", "parallel_tool_calls"]);
    fields.end()?;
    let echo = Echo {
        id: fresh_id("resp_")?,
        created: unix_time(),
        model: model.clone(),
        instructions,
        max_output_tokens,
        temperature: options.temperature,
        top_p: options.top_p,
        effort,
        metadata,
    };
    let conversation = Conversation {
        messages,
        variables: variables.names,
        today: variables.today,
        ..Conversation::default()
    };
    let options = Options {
        include_usage: true,
        ..options
    };
    let request = Request {
        model,
        input: Input::Items(conversation),
        options,
    };
    Ok((request, echo))
}

/// Parameters that need a response of before, or this one later.
fn refuse_what_is_stored(fields: &mut Fields) -> Result<(), ApiError> {
    let never = |_: &Value| false;
    fields.only("previous_response_id", NOT_STORED, never)?;
    fields.only("conversation", NOT_STORED, never)?;
    fields.only("prompt", NOT_STORED, never)?;
    fields.only("store", NOT_STORED, |value| *value == false)?;
    fields.only("background", NOT_STORED, |value| *value == false)
}

/// What is known and not implemented.
fn only_text(fields: &mut Fields) -> Result<(), ApiError> {
    let text_only = "this server answers with text only";
    let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    fields.only("tools", "tools are not implemented", is_empty)?;
    fields.only("tool_choice", "tools are not implemented", |value| {
        value == "none" || value == "auto"
    })?;
    fields.only("include", "nothing more can be included", is_empty)?;
    fields.only("text", text_only, |text| {
        let members = text.as_object();
        members.is_some_and(|members| {
            members.keys().all(|name| name == "format")
                && text["format"]["type"]
                    .as_str()
                    .is_none_or(|kind| kind == "text")
        })
    })?;
    fields.only("truncation", "an input is never cut", |value| {
        value == "disabled"
    })?;
    fields.only(
        "top_logprobs",
        "probabilities are not given here",
        |value| *value == 0,
    )
}

fn take_effort(fields: &mut Fields, variables: &mut Variables) -> Result<Option<String>, ApiError> {
    let mut members = match fields.take("reasoning") {
        None => return Ok(None),
        Some(Value::Object(members)) => Fields::from(members),
        Some(_) => return Err(ApiError::invalid("reasoning", "must be an object")),
    };
    let effort = members.string("effort")?;
    for name in ["summary", "generate_summary"] {
        members.only(name, "what is thought is given whole", |value| {
            value == "auto"
        })?;
    }
    members.end()?;
    if let Some(effort) = &effort {
        variables.add_effort("reasoning.effort", effort)?;
    }
    Ok(effort)
}

fn turn(role: &str, content: String) -> Turn {
    Turn::default().with("role", role).with("content", content)
}

fn parse_input(input: Value) -> Result<Vec<Turn>, ApiError> {
    let items = match input {
        Value::String(text) => return Ok(vec![turn("user", text)]),
        Value::Array(items) if !items.is_empty() => items,
        _ => {
            let expected = "must be a string or an array with at least one item";
            return Err(ApiError::invalid(INPUT, expected));
        }
    };
    let mut turns = Vec::new();
    // What was thought stands before what was answered.
    let mut thought = String::new();
    for (at, item) in items.into_iter().enumerate() {
        let place = |field: &str| format!("{INPUT}[{at}]{field}");
        let Value::Object(mut item) = item else {
            return Err(ApiError::invalid(place(""), "must be an object"));
        };
        match item.get("type").and_then(Value::as_str) {
            Some("reasoning") => {
                let content = item.remove("content").unwrap_or(Value::Null);
                thought.push_str(&texts(content, &["reasoning_text"], || place(".content"))?);
                continue;
            }
            None | Some("message") => {}
            Some(_) => {
                let expected = "only items of the types 'message' and 'reasoning' are implemented";
                return Err(ApiError::unsupported(place(".type"), expected));
            }
        }
        let mut message = parse_message(item, place)?;
        if message.text("role") == Some("assistant") && !thought.is_empty() {
            message = message.with("reasoning_content", std::mem::take(&mut thought));
        }
        thought.clear();
        turns.push(message);
    }
    Ok(turns)
}

fn parse_message(
    mut item: Map<String, Value>,
    place: impl Fn(&str) -> String,
) -> Result<Turn, ApiError> {
    let role = match item.get("role").and_then(Value::as_str) {
        Some("system" | "developer") => "system",
        Some("user") => "user",
        Some("assistant") => "assistant",
        _ => {
            let expected = "must be one of system, developer, user and assistant";
            return Err(ApiError::invalid(place(".role"), expected));
        }
    };
    let kinds = ["input_text", "output_text", "text"];
    let content = match item.remove("content") {
        Some(Value::String(text)) => text,
        Some(parts @ Value::Array(_)) => texts(parts, &kinds, || place(".content"))?,
        _ => {
            let expected = "must be a string or an array of text parts";
            return Err(ApiError::invalid(place(".content"), expected));
        }
    };
    Ok(turn(role, content))
}

/// The texts of parts of these kinds.
fn texts(parts: Value, kinds: &[&str], place: impl Fn() -> String) -> Result<String, ApiError> {
    let parts = match parts {
        Value::Null => return Ok(String::new()),
        Value::Array(parts) => parts,
        _ => return Err(ApiError::invalid(place(), "must be an array of text parts")),
    };
    let text = |mut part: Value| {
        let kind = part["type"].as_str().unwrap_or_default();
        if !kinds.contains(&kind) {
            let expected = "only parts with text are implemented";
            return Err(ApiError::unsupported(place(), expected));
        }
        match part.get_mut("text").map(Value::take) {
            Some(Value::String(text)) => Ok(text),
            _ => Err(ApiError::invalid(
                place(),
                "a text part needs 'text', a string",
            )),
        }
    };
    parts.into_iter().map(text).collect()
}

/// Waits for the whole response.
pub(super) async fn whole(mut answer: Answer, echo: Echo) -> Result<Response, ApiError> {
    let Whole { said, finish, .. } = answer.whole().await?;
    let Said {
        content, reasoning, ..
    } = said;
    let mut items = Vec::new();
    let status = status(finish);
    let is_cut = finish != Finish::Stop && content.is_empty();
    if !reasoning.is_empty() {
        let status = if is_cut { status } else { "completed" };
        items.push(item(
            Kind::Reasoning,
            &fresh_id("rs_")?,
            status,
            Some(&reasoning),
        ));
    }
    if !content.is_empty() || reasoning.is_empty() || !is_cut {
        items.push(item(
            Kind::Message,
            &fresh_id("msg_")?,
            status,
            Some(&content),
        ));
    }
    let usage = usage(answer.usage());
    let response = echo.response(status, Some(finish), &items, usage);
    Ok(http::json(StatusCode::OK, &response))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Message,
}

impl Kind {
    fn part(self, text: &str) -> Value {
        match self {
            Self::Reasoning => json!({"type": "reasoning_text", "text": text}),
            Self::Message => {
                json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
            }
        }
    }
}

/// An item of the output; one that has just begun has no content yet.
fn item(kind: Kind, id: &str, status: &str, text: Option<&str>) -> Value {
    let content: Vec<Value> = text.map(|text| kind.part(text)).into_iter().collect();
    match kind {
        Kind::Reasoning => json!({
            "type": "reasoning", "id": id, "status": status, "summary": [], "content": content,
        }),
        Kind::Message => json!({
            "type": "message", "id": id, "status": status, "role": "assistant", "content": content,
        }),
    }
}

fn status(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "completed",
        Finish::Length | Finish::Deadline | Finish::Constraint => "incomplete",
    }
}

fn usage(usage: inference::Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens.saturating_add(usage.completion_tokens),
    })
}

impl Echo {
    fn response(
        &self,
        status: &str,
        finish: Option<Finish>,
        items: &[Value],
        usage: Value,
    ) -> Value {
        let incomplete = match finish {
            Some(Finish::Length) => json!({"reason": "max_output_tokens"}),
            Some(Finish::Deadline) => json!({"reason": "deadline"}),
            _ => Value::Null,
        };
        json!({
            "id": self.id, "object": "response", "created_at": self.created, "status": status,
            "background": false, "error": null, "incomplete_details": incomplete,
            "instructions": self.instructions, "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata, "model": self.model, "output": items,
            "parallel_tool_calls": true, "previous_response_id": null,
            "reasoning": {"effort": self.effort, "summary": null}, "store": false,
            "temperature": self.temperature, "text": {"format": {"type": "text"}},
            "tool_choice": "auto", "tools": [], "top_p": self.top_p, "truncation": "disabled",
            "usage": usage, "user": null,
        })
    }
}

#[cfg(test)]
mod tests;
