//! Asks servers that nobody has to believe: bounded in time, in length, and in how often.

use std::time::Duration;

use sigstore_sign::reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use sigstore_sign::reqwest::{self, Client, RequestBuilder, Response};

use crate::patience::{Patience, passing};

/// Longest pause that a server can ask for.
pub const MAX_WAIT: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Not an address of HTTP.
    #[error("not an address")]
    Address(#[source] reqwest::Error),
    /// Nobody answered, or not in time, or not to the end.
    #[error("no answer ({attempts} attempts)")]
    Away {
        /// How often it was asked.
        attempts: u32,
        /// The last fault.
        source: reqwest::Error,
    },
    /// It said that it cannot now, until the end.
    #[error("status {status} ({attempts} attempts)")]
    Busy {
        /// The last status.
        status: u16,
        /// How often it was asked.
        attempts: u32,
    },
    /// It asks to be left alone for longer than anyone waits here.
    #[error("status {status}, and it asks to be left alone for {wait_s} s")]
    Later {
        /// The status.
        status: u16,
        /// How long.
        wait_s: u64,
    },
    /// Its answer is longer than an answer can be.
    #[error("an answer of more than {limit} bytes")]
    TooLong {
        /// Bytes allowed.
        limit: usize,
    },
}

/// An answer that is not one of "later".
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// What one attempt gave.
enum Once {
    Answer(Answer),
    Later(u16, Option<u64>),
}

/// The file at an address.
pub(crate) async fn get(
    http: &Client,
    patience: Patience,
    url: &str,
    limit: usize,
) -> Result<Answer, AskError> {
    ask(patience, limit, || http.get(url)).await
}

/// Sends a body to an address.
pub(crate) async fn post(
    http: &Client,
    patience: Patience,
    url: &str,
    (kind, body): (&'static str, &[u8]),
    limit: usize,
) -> Result<Answer, AskError> {
    let request = || {
        let request = http.post(url).header(CONTENT_TYPE, kind);
        request.body(body.to_vec())
    };
    ask(patience, limit, request).await
}

/// Asks until there is an answer of any status but those that pass.
async fn ask(
    patience: Patience,
    limit: usize,
    request: impl Fn() -> RequestBuilder,
) -> Result<Answer, AskError> {
    let (mut pause, mut attempts) = (patience.pause, 1);
    loop {
        let last = attempts >= patience.attempts;
        let mut wait = pause;
        match once(request(), limit).await {
            Ok(Once::Answer(answer)) => return Ok(answer),
            Ok(Once::Later(status, Some(wait_s))) if wait_s > MAX_WAIT.as_secs() => {
                return Err(AskError::Later { status, wait_s });
            }
            Ok(Once::Later(status, _)) if last => {
                return Err(AskError::Busy { status, attempts });
            }
            Ok(Once::Later(_, asked)) => {
                wait = asked.map_or(pause, |seconds| pause.max(Duration::from_secs(seconds)));
            }
            Err(AskError::Away { source, .. }) if last => {
                return Err(AskError::Away { attempts, source });
            }
            Err(AskError::Away { .. }) => {}
            Err(other) => return Err(other),
        }
        tokio::time::sleep(wait).await;
        pause = pause.saturating_mul(2).min(MAX_WAIT);
        attempts += 1;
    }
}

async fn once(request: RequestBuilder, limit: usize) -> Result<Once, AskError> {
    let away = |source: reqwest::Error| match source.is_builder() {
        true => AskError::Address(source),
        false => AskError::Away {
            attempts: 1,
            source,
        },
    };
    let mut response = request.send().await.map_err(away)?;
    let status = response.status().as_u16();
    if passing(status) {
        return Ok(Once::Later(status, retry_after(&response)));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(away)? {
        if body.len() + chunk.len() > limit {
            return Err(AskError::TooLong { limit });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Once::Answer(Answer { status, body }))
}

/// Seconds; the other form, a date, is not read: the pause doubles then.
fn retry_after(response: &Response) -> Option<u64> {
    let header = response.headers().get(RETRY_AFTER)?;
    header.to_str().ok()?.trim().parse().ok()
}
