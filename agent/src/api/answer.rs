//! Answers in OpenAI's shape: whole, or as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::{FutureExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::StatusCode;
use hyper::body::Frame;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use inference::{Chunk, Finish, Generation, Usage};
use serde::Serialize;

use super::error::ApiError;
use super::{Api, Response, json};
use crate::metrics::Metrics;

/// Text that one event holds, give or take a piece.
const MAX_EVENT_BYTES: usize = 4096;

/// The engine's stream, counted when it ends. Dropping it frees slot and cache.
pub(crate) struct Answer {
    generation: Generation,
    metrics: Arc<Metrics>,
    complete: bool,
}

impl Answer {
    pub(crate) fn new(generation: Generation, metrics: Arc<Metrics>) -> Self {
        Self {
            generation,
            metrics,
            complete: false,
        }
    }

    /// The next piece. An engine that stops in the middle is an error.
    async fn next(&mut self) -> Result<Chunk, ApiError> {
        let chunk = self.generation.next().await.ok_or(ApiError::Stopped)?;
        self.complete = chunk.finish.is_some();
        Ok(chunk)
    }

    /// The next pieces in one: what is there already need not be wrapped one by one, and records
    /// leave at a fixed pace.
    async fn next_pieces(&mut self) -> Result<Chunk, ApiError> {
        let mut pieces = self.next().await?;
        while pieces.finish.is_none() && pieces.text.len() < MAX_EVENT_BYTES {
            let Some(piece) = self.next().now_or_never() else {
                break;
            };
            let piece = piece?;
            pieces.text.push_str(&piece.text);
            pieces.finish = piece.finish;
        }
        Ok(pieces)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.complete {
            self.metrics.generation_cancelled();
        }
    }
}

/// What every part of one answer repeats.
pub(crate) struct Head {
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
    is_chat: bool,
}

impl Head {
    pub(crate) fn new(api: &Api, is_chat: bool) -> Result<Self, ApiError> {
        let random = [getrandom::u64(), getrandom::u64()];
        let [Ok(first), Ok(second)] = random else {
            return Err(ApiError::Entropy);
        };
        let kind = if is_chat { "chatcmpl" } else { "cmpl" };
        Ok(Self {
            id: format!("{kind}-{first:016x}{second:016x}"),
            created: unix_time(),
            model: api.model.clone(),
            fingerprint: api.fingerprint.clone(),
            is_chat,
        })
    }

    fn envelope<C>(&self, object: &'static str, choices: C) -> Envelope<'_, C> {
        Envelope {
            id: &self.id,
            object,
            created: self.created,
            model: &self.model,
            system_fingerprint: &self.fingerprint,
            choices,
            usage: None,
        }
    }
}

/// Waits for the whole answer.
pub(crate) async fn whole(mut answer: Answer, head: Head) -> Result<Response, ApiError> {
    let mut content = String::new();
    let finish = loop {
        let chunk = answer.next().await?;
        content.push_str(&chunk.text);
        if let Some(finish) = chunk.finish {
            break finish;
        }
    };
    let (usage, finish_reason) = (UsageFields::from(answer.generation.usage()), reason(finish));
    if head.is_chat {
        let message = Message {
            role: "assistant",
            content: &content,
            refusal: None,
        };
        let choice = ChatChoice {
            index: 0,
            message,
            logprobs: None,
            finish_reason,
        };
        let mut envelope = head.envelope("chat.completion", [choice]);
        envelope.usage = Some(Some(usage));
        Ok(json(StatusCode::OK, &envelope))
    } else {
        let finish_reason = Some(finish_reason);
        let choice = TextChoice {
            text: &content,
            index: 0,
            logprobs: None,
            finish_reason,
        };
        let mut envelope = head.envelope("text_completion", [choice]);
        envelope.usage = Some(Some(usage));
        Ok(json(StatusCode::OK, &envelope))
    }
}

/// Sends the answer as it is made.
pub(crate) fn stream(answer: Answer, head: Head, include_usage: bool) -> Response {
    let begun = !head.is_chat;
    let events = Events {
        answer,
        head,
        include_usage,
        begun,
        ended: false,
    };
    let frames = stream::unfold(events, |mut events| async {
        let bytes = events.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), events))
    });
    let mut response = hyper::Response::new(StreamBody::new(frames).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// `GET /v1/models`
pub(crate) fn model_list(id: &str, created: u64) -> impl Serialize {
    ModelList {
        object: "list",
        data: [ModelCard::new(id, created)],
    }
}

/// `GET /v1/models/ID`
pub(crate) fn model_card(id: &str, created: u64) -> impl Serialize {
    ModelCard::new(id, created)
}

/// Seconds since 1970, as this machine's clock has it.
pub(crate) fn unix_time() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}

struct Events {
    answer: Answer,
    head: Head,
    include_usage: bool,
    begun: bool,
    ended: bool,
}

impl Events {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut out = Vec::new();
        if !self.begun {
            self.begun = true;
            self.delta(
                &mut out,
                Delta {
                    role: Some("assistant"),
                    content: Some(""),
                },
                None,
            );
            return Some(out.into());
        }
        match self.answer.next_pieces().await {
            Ok(chunk) => self.chunk(&mut out, &chunk),
            Err(error) => {
                self.ended = true;
                event(&mut out, &error.body());
            }
        }
        Some(out.into())
    }

    fn chunk(&mut self, out: &mut Vec<u8>, chunk: &Chunk) {
        if !chunk.text.is_empty() || chunk.finish.is_none() {
            self.delta(
                out,
                Delta {
                    role: None,
                    content: Some(&chunk.text),
                },
                None,
            );
        }
        let Some(finish) = chunk.finish else {
            return;
        };
        self.ended = true;
        self.delta(out, Delta::default(), Some(reason(finish)));
        if self.include_usage {
            let choices: [u8; 0] = [];
            let mut envelope = self.head.envelope(self.object(), choices);
            envelope.usage = Some(Some(self.answer.generation.usage().into()));
            event(out, &envelope);
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }

    /// One event of the stream. With usage asked for, all but the last say that it is to come.
    fn delta(&self, out: &mut Vec<u8>, delta: Delta<'_>, finish_reason: Option<&'static str>) {
        let usage = self.include_usage.then_some(None);
        if self.head.is_chat {
            let choice = DeltaChoice {
                index: 0,
                delta,
                logprobs: None,
                finish_reason,
            };
            event(
                out,
                &Envelope {
                    usage,
                    ..self.head.envelope(self.object(), [choice])
                },
            );
        } else {
            let text = delta.content.unwrap_or_default();
            let choice = TextChoice {
                text,
                index: 0,
                logprobs: None,
                finish_reason,
            };
            event(
                out,
                &Envelope {
                    usage,
                    ..self.head.envelope(self.object(), [choice])
                },
            );
        }
    }

    fn object(&self) -> &'static str {
        if self.head.is_chat {
            "chat.completion.chunk"
        } else {
            "text_completion"
        }
    }
}

/// Our own types always serialise; were one not to, its event would be missing.
fn event(out: &mut Vec<u8>, data: &impl Serialize) {
    if let Ok(data) = serde_json::to_vec(data) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&data);
        out.extend_from_slice(b"\n\n");
    }
}

fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length | Finish::Deadline => "length",
    }
}

#[derive(Serialize)]
struct Envelope<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: C,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<UsageFields>>,
}

#[derive(Serialize)]
struct ChatChoice<'a> {
    index: u32,
    message: Message<'a>,
    logprobs: Option<()>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
    refusal: Option<()>,
}

#[derive(Serialize)]
struct DeltaChoice<'a> {
    index: u32,
    delta: Delta<'a>,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize, Default)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

#[derive(Serialize)]
struct TextChoice<'a> {
    text: &'a str,
    index: u32,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
struct UsageFields {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptDetails,
}

#[derive(Serialize)]
struct PromptDetails {
    cached_tokens: u32,
}

impl From<Usage> for UsageFields {
    fn from(usage: Usage) -> Self {
        let Usage {
            prompt_tokens,
            completion_tokens,
            cached_tokens,
        } = usage;
        let total_tokens = prompt_tokens.saturating_add(completion_tokens);
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens,
            prompt_tokens_details: PromptDetails { cached_tokens },
        }
    }
}

#[derive(Serialize)]
struct ModelList<'a> {
    object: &'static str,
    data: [ModelCard<'a>; 1],
}

#[derive(Serialize)]
struct ModelCard<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

impl<'a> ModelCard<'a> {
    fn new(id: &'a str, created: u64) -> Self {
        Self {
            id,
            object: "model",
            created,
            owned_by: "cloister",
        }
    }
}
