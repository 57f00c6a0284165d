//! One request for an answer, streamed.

use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::arguments::{Prompt, Sampling};
use crate::connection::{Connection, broken};
use crate::events::Events;
use crate::failure::Failure;

const MAX_ERROR_BYTES: usize = 64 << 10;
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// A first token under emulation takes its time; longer than this is a fault.
const PATIENCE: Duration = Duration::from_secs(600);

/// Who said what. No `Debug`: it holds what people say.
#[derive(Clone, Serialize)]
pub(crate) struct Message {
    role: &'static str,
    content: String,
}

impl Message {
    pub(crate) fn system(prompt: &Prompt) -> Self {
        Self::of("system", prompt.0.clone())
    }

    pub(crate) fn user(content: String) -> Self {
        Self::of("user", content)
    }

    pub(crate) fn assistant(content: String) -> Self {
        Self::of("assistant", content)
    }

    fn of(role: &'static str, content: String) -> Self {
        Self { role, content }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    messages: &'a [Message],
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    temperature: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct Delta {
    content: Option<String>,
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ApiError,
}

#[derive(Deserialize)]
struct ApiError {
    message: String,
}

/// A whole answer. No `Debug`: it holds what people ask about.
pub(crate) struct Answer {
    pub(crate) text: String,
    /// Why it ended: `stop`, or `length` at the limit of tokens.
    pub(crate) finish_reason: Option<String>,
}

/// Asks, and hands each piece of the answer to `show` as it comes. `show` says whether to go on.
pub(crate) async fn ask(
    connection: &mut Connection,
    messages: &[Message],
    sampling: &Sampling,
    mut show: impl FnMut(&str) -> bool,
) -> Result<Answer, Failure> {
    let model = connection.peer().configuration().model.name.clone();
    let body = Body {
        model: model.as_str(),
        messages,
        stream: true,
        max_tokens: sampling.max_tokens,
        temperature: sampling.temperature,
        seed: sampling.seed,
    };
    let body = serde_json::to_vec(&body).map_err(|_| unreadable())?;
    let request = connection.post("/v1/chat/completions", body);
    let response = timeout(PATIENCE, request).await.map_err(|_| silent())??;
    if response.status() != StatusCode::OK {
        return Err(refused(response).await);
    }
    let mut body = response.into_body();
    let mut events = Events::default();
    let mut answer = Answer {
        text: String::new(),
        finish_reason: None,
    };
    loop {
        let frame = timeout(PATIENCE, body.frame())
            .await
            .map_err(|_| silent())?;
        let frame = match frame {
            Some(frame) => frame.map_err(|error| cut(&error))?,
            None => return Err(incomplete()),
        };
        let Some(piece) = frame.data_ref() else {
            continue;
        };
        for event in events.push(piece).map_err(|_| unreadable())? {
            if event == "[DONE]" {
                // What little follows is read, so that the connection can serve again.
                drop(timeout(Duration::from_secs(3), body.frame()).await);
                return Ok(answer);
            }
            if !take(&event, &mut answer, &mut show)? {
                return Ok(answer);
            }
        }
    }
}

fn take(
    event: &str,
    answer: &mut Answer,
    show: &mut impl FnMut(&str) -> bool,
) -> Result<bool, Failure> {
    let chunk: Chunk = serde_json::from_str(event).map_err(|_| unreadable())?;
    if let Some(error) = chunk.error {
        return Err(said(&error.message));
    }
    for choice in chunk.choices {
        if let Some(text) = choice.delta.content {
            if answer.text.len() + text.len() > MAX_ANSWER_BYTES {
                return Err(Failure::network("the answer does not end"));
            }
            answer.text.push_str(&text);
            if !show(&text) {
                return Ok(false);
            }
        }
        if choice.finish_reason.is_some() {
            answer.finish_reason = choice.finish_reason;
        }
    }
    Ok(true)
}

/// The server's own words for a request that it does not take.
async fn refused(response: Response<Incoming>) -> Failure {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ERROR_BYTES).collect();
    let bytes = match timeout(PATIENCE, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => return Failure::network(format_args!("the server answered HTTP {status}")),
    };
    match serde_json::from_slice::<ErrorBody>(&bytes) {
        Ok(body) if status.is_client_error() => {
            let message = body.error.message;
            Failure::misuse(format_args!(
                "the server does not take the request: {message}"
            ))
        }
        Ok(body) => said(&body.error.message),
        Err(_) => Failure::network(format_args!("the server answered HTTP {status}")),
    }
}

fn said(message: &str) -> Failure {
    Failure::network(format_args!("the server failed: {message}"))
}

fn cut(error: &hyper::Error) -> Failure {
    broken(error).hint("the answer above is incomplete")
}

fn incomplete() -> Failure {
    Failure::network("the server ended the answer without its end mark")
        .hint("the answer above is incomplete")
}

fn unreadable() -> Failure {
    Failure::network("the server's answer cannot be read: not OpenAI's event stream")
}

fn silent() -> Failure {
    Failure::network("the server is silent: no piece of an answer for ten minutes")
}
