//! Answers in OpenAI's shape: whole, or as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::future::select_all;
use futures_util::{FutureExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::StatusCode;
use hyper::body::Frame;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use inference::{Chunk, Finish, Generation, TokenChoice, Usage};
use serde::Serialize;

use super::error::ApiError;
use super::logprobs::{ChatLogprobs, TextLogprobs};
use super::reasoning::CompletionDetails;
use super::tools::{Calls, Piece, Said, WholeCall};
use super::{Api, Response, json};
use crate::http::Body;
use crate::metrics::Metrics;

/// Text that one event holds, give or take a piece.
const MAX_EVENT_BYTES: usize = 4096;

/// The engine's stream, counted when it ends. Dropping it frees slot and cache.
pub(crate) struct Answer {
    generation: Generation,
    /// Of an answer that may call tools.
    calls: Option<Calls>,
    metrics: Arc<Metrics>,
    complete: bool,
}

impl Answer {
    pub(crate) fn new(generation: Generation, calls: Option<Calls>, metrics: Arc<Metrics>) -> Self {
        Self {
            generation,
            calls,
            metrics,
            complete: false,
        }
    }

    /// The next piece. An engine that stops in the middle is an error.
    async fn next(&mut self) -> Result<Chunk, ApiError> {
        let chunk = self.generation.next().await.ok_or(ApiError::Stopped)?;
        self.complete = chunk.finish.is_some();
        match chunk.finish {
            Some(Finish::Constraint) => Err(ApiError::Constraint),
            _ => Ok(chunk),
        }
    }

    /// What a chunk adds to the answer.
    fn pieces(&mut self, chunk: &Chunk) -> Result<Vec<Piece>, ApiError> {
        if let Some(calls) = &mut self.calls {
            return calls.read(chunk);
        }
        let mut pieces = Vec::new();
        if !chunk.reasoning.is_empty() {
            pieces.push(Piece::thought(&chunk.reasoning));
        }
        if !chunk.text.is_empty() || !chunk.tokens.is_empty() {
            pieces.push(Piece::said(&chunk.text));
        }
        Ok(pieces)
    }

    fn reason(&self, finish: Finish) -> &'static str {
        let called = self.calls.as_ref().is_some_and(Calls::called);
        match finish {
            Finish::Stop if called => "tool_calls",
            finish => reason(finish),
        }
    }

    /// The next pieces in one: what is there already need not be wrapped one by one, and records
    /// leave at a fixed pace.
    pub(super) async fn next_pieces(&mut self) -> Result<Chunk, ApiError> {
        let mut pieces = self.next().await?;
        // What follows a mark is not to stand before it.
        while pieces.finish.is_none()
            && pieces.mark.is_none()
            && pieces.text.len() + pieces.reasoning.len() < MAX_EVENT_BYTES
        {
            let Some(piece) = self.next().now_or_never() else {
                break;
            };
            let piece = piece?;
            pieces.text.push_str(&piece.text);
            pieces.reasoning.push_str(&piece.reasoning);
            pieces.tokens.extend(piece.tokens);
            pieces.finish = piece.finish;
            pieces.mark = piece.mark;
        }
        Ok(pieces)
    }

    /// All of it.
    pub(super) async fn whole(&mut self) -> Result<Whole, ApiError> {
        let mut said = Said::default();
        let mut tokens = Vec::new();
        loop {
            let chunk = self.next().await?;
            let pieces = self.pieces(&chunk)?;
            pieces.into_iter().for_each(|piece| said.push(piece));
            tokens.extend(chunk.tokens);
            if let Some(finish) = chunk.finish {
                return Ok(Whole {
                    said,
                    tokens,
                    finish,
                    reason: self.reason(finish),
                });
            }
        }
    }

    pub(super) fn usage(&self) -> Usage {
        self.generation.usage()
    }
}

/// A whole answer.
pub(super) struct Whole {
    pub(super) said: Said,
    tokens: Vec<TokenChoice>,
    pub(super) finish: Finish,
    /// The same, as the API has it.
    reason: &'static str,
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
    logprobs: bool,
}

impl Head {
    pub(crate) fn new(api: &Api, is_chat: bool, logprobs: bool) -> Result<Self, ApiError> {
        Ok(Self {
            id: fresh_id(if is_chat { "chatcmpl-" } else { "cmpl-" })?,
            created: unix_time(),
            model: api.model.clone(),
            fingerprint: api.fingerprint.clone(),
            is_chat,
            logprobs,
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

/// A name that nothing else has.
pub(super) fn fresh_id(kind: &str) -> Result<String, ApiError> {
    let random = [getrandom::u64(), getrandom::u64()];
    let [Ok(first), Ok(second)] = random else {
        return Err(ApiError::Entropy);
    };
    Ok(format!("{kind}{first:016x}{second:016x}"))
}

/// Waits for the whole answers.
pub(crate) async fn whole(answers: Vec<Answer>, head: Head) -> Result<Response, ApiError> {
    let mut wholes = Vec::new();
    let mut usage = UsageFields::default();
    for mut answer in answers {
        wholes.push(answer.whole().await?);
        usage.add(answer.usage());
    }
    let wholes = wholes.iter().zip(0u32..);
    if head.is_chat {
        let choices = wholes.map(|(whole, index)| ChatChoice {
            index,
            message: Message::of(&whole.said),
            logprobs: head.logprobs.then(|| ChatLogprobs::of(&whole.tokens)),
            finish_reason: whole.reason,
        });
        let mut envelope = head.envelope("chat.completion", choices.collect::<Vec<_>>());
        envelope.usage = Some(Some(usage));
        Ok(json(StatusCode::OK, &envelope))
    } else {
        let choices = wholes.map(|(whole, index)| TextChoice {
            text: &whole.said.content,
            index,
            logprobs: head.logprobs.then(|| TextLogprobs::of(&whole.tokens)),
            finish_reason: Some(whole.reason),
        });
        let mut envelope = head.envelope("text_completion", choices.collect::<Vec<_>>());
        envelope.usage = Some(Some(usage));
        Ok(json(StatusCode::OK, &envelope))
    }
}

/// Sends the answers as they are made.
pub(crate) fn stream(answers: Vec<Answer>, head: Head, include_usage: bool) -> Response {
    let begun = if head.is_chat { 0 } else { answers.len() };
    let events = Events {
        open: vec![true; answers.len()],
        answers,
        head,
        include_usage,
        begun,
        ended: false,
    };
    let frames = stream::unfold(events, |mut events| async {
        let bytes = events.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), events))
    });
    as_events(StreamBody::new(frames).boxed_unsync())
}

/// A body of server-sent events.
pub(super) fn as_events(body: Body) -> Response {
    let mut response = hyper::Response::new(body);
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
    answers: Vec<Answer>,
    /// Which of them go on.
    open: Vec<bool>,
    head: Head,
    include_usage: bool,
    /// Answers whose role was sent.
    begun: usize,
    ended: bool,
}

impl Events {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut out = Vec::new();
        if self.begun < self.answers.len() {
            let delta = Delta {
                role: Some("assistant"),
                piece: Piece::said(""),
            };
            self.delta(&mut out, self.begun, delta, &[], None);
            self.begun += 1;
            return Some(out.into());
        }
        let open = self.answers.iter_mut().zip(&self.open).enumerate();
        let open = open.filter(|(_, (_, open))| **open);
        let next = open.map(|(index, (answer, _))| {
            let next = async move { (index, answer.next_pieces().await) };
            Box::pin(next)
        });
        let next = select_all(next).await.0;
        let done = match next {
            (index, Ok(chunk)) => self.chunk(&mut out, index, &chunk),
            (_, Err(error)) => Err(error),
        };
        if let Err(error) = done {
            self.ended = true;
            event(&mut out, &error.body());
        }
        Some(out.into())
    }

    fn chunk(&mut self, out: &mut Vec<u8>, index: usize, chunk: &Chunk) -> Result<(), ApiError> {
        let mut tokens = &chunk.tokens[..];
        for piece in self.answers[index].pieces(chunk)? {
            // Of what is thought there are none.
            let is_thought = piece.reasoning_content.is_some();
            let own = if is_thought { &[][..] } else { tokens };
            let delta = Delta { role: None, piece };
            self.delta(out, index, delta, own, None);
            tokens = if is_thought { tokens } else { &[] };
        }
        // Tokens of marks have a place in no text.
        if !tokens.is_empty() {
            self.delta(out, index, Delta::default(), tokens, None);
        }
        let Some(finish) = chunk.finish else {
            return Ok(());
        };
        let reason = self.answers[index].reason(finish);
        self.delta(out, index, Delta::default(), &[], Some(reason));
        self.open[index] = false;
        self.ended = !self.open.contains(&true);
        if !self.ended {
            return Ok(());
        }
        if self.include_usage {
            let choices: [u8; 0] = [];
            let mut usage = UsageFields::default();
            for answer in &self.answers {
                usage.add(answer.generation.usage());
            }
            let mut envelope = self.head.envelope(self.object(), choices);
            envelope.usage = Some(Some(usage));
            event(out, &envelope);
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
        Ok(())
    }

    /// One event of the stream. With usage asked for, all but the last say that it is to come.
    fn delta(
        &self,
        out: &mut Vec<u8>,
        index: usize,
        delta: Delta,
        tokens: &[TokenChoice],
        finish_reason: Option<&'static str>,
    ) {
        let usage = self.include_usage.then_some(None);
        let index = index as u32;
        let with_logprobs = self.head.logprobs && !tokens.is_empty();
        if self.head.is_chat {
            let choice = DeltaChoice {
                index,
                delta,
                logprobs: with_logprobs.then(|| ChatLogprobs::of(tokens)),
                finish_reason,
            };
            let envelope = self.head.envelope(self.object(), [choice]);
            event(out, &Envelope { usage, ..envelope });
        } else {
            let choice = TextChoice {
                text: delta.piece.content.as_deref().unwrap_or_default(),
                index,
                logprobs: with_logprobs.then(|| TextLogprobs::of(tokens)),
                finish_reason,
            };
            let envelope = self.head.envelope(self.object(), [choice]);
            event(out, &Envelope { usage, ..envelope });
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
        Finish::Length | Finish::Deadline | Finish::Constraint => "length",
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
    logprobs: Option<ChatLogprobs>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    content: Option<&'a str>,
    refusal: Option<()>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tool_calls: &'a [WholeCall],
}

impl<'a> Message<'a> {
    fn of(whole: &'a Said) -> Self {
        let is_call = !whole.calls.is_empty();
        let some = |text: &'a String| Some(text.as_str()).filter(|text| !text.is_empty());
        Self {
            role: "assistant",
            content: match is_call {
                true => some(&whole.content),
                false => Some(&whole.content),
            },
            refusal: None,
            reasoning_content: some(&whole.reasoning),
            tool_calls: &whole.calls,
        }
    }
}

#[derive(Serialize)]
struct DeltaChoice {
    index: u32,
    delta: Delta,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize, Default)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(flatten)]
    piece: Piece,
}

#[derive(Serialize)]
struct TextChoice<'a> {
    text: &'a str,
    index: u32,
    logprobs: Option<TextLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize, Default)]
struct UsageFields {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Serialize, Default)]
struct PromptDetails {
    cached_tokens: u32,
}

impl UsageFields {
    /// Counts one more answer to the same prompt.
    fn add(&mut self, usage: Usage) {
        self.prompt_tokens = usage.prompt_tokens;
        self.completion_tokens = self
            .completion_tokens
            .saturating_add(usage.completion_tokens);
        self.total_tokens = self.prompt_tokens.saturating_add(self.completion_tokens);
        let thought = &mut self.completion_tokens_details.reasoning_tokens;
        *thought = thought.saturating_add(usage.reasoning_tokens);
        let cached = &mut self.prompt_tokens_details.cached_tokens;
        *cached = usage.cached_tokens.max(*cached);
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
