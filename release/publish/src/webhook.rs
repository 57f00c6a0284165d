//! Tells somebody of an alarm: one POST of JSON, bounded.

use serde_json::Value;
use sigstore_sign::reqwest::Client;

use crate::ask::{AskError, post};
use crate::patience::Patience;

/// What of the answer is read; nobody looks at it.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Why nobody was told.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// No answer.
    #[error("the webhook")]
    Ask(#[from] AskError),
    /// Not a status of success.
    #[error("the webhook: status {0}")]
    Status(u16),
}

/// Sends a report.
pub async fn tell(
    http: &Client,
    patience: Patience,
    url: &str,
    report: &Value,
) -> Result<(), WebhookError> {
    let body = report.to_string();
    let body = ("application/json", body.as_bytes());
    let answer = post(http, patience, url, body, MAX_ANSWER_BYTES).await?;
    match answer.status {
        200..=299 => Ok(()),
        status => Err(WebhookError::Status(status)),
    }
}
